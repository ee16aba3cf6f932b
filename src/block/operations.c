/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Operations on chains: snapshot, resize, stream. The others have files of their own. */
#include "block/operations.h"

#include "block/journal.h"
#include "block/populate.h"
#include "block/qcow2.h"
#include "block/room.h"

#include <string.h>

/* ---- images that come as descriptors ---- */

static int opener_none_open(const struct block_opener *opener, const char *path, int flags, int *fd,
                            struct err *err)
{
    return err_set(err, EPERM, "an image given as a descriptor can have no further files");
}
static const struct block_opener opener_none = { .open = opener_none_open };

int chain_open_store(const char *path, const char *format, bool readonly, struct store *take_store,
                     struct image **out, struct err *err)
{
    struct image_options options = { .path = path,
                                     .format = format,
                                     .readonly = readonly,
                                     .no_backing = true,
                                     .opener = &opener_none };
    return image_open_store(&options, take_store, out, err);
}

/* ---- snapshot ---- */

static bool is_encrypted(struct image *image)
{
    return image->format == &image_luks ||
           (image->format == &image_qcow2 && qcow2_of(image)->plain);
}

int chain_snapshot(struct chain *chain, const struct snapshot_options *options,
                   struct store *take_store, struct err *err)
{
    AUTO(store_close) struct store *store = take_store;
    struct image *top = chain->top, *new;
    AUTO(free) char *found = NULL;
    const char *backing = options->backing;
    if (!backing)
        backing = found = chain_name_for(options->path, top->path, err);
    if (!backing)
        return -err->code;
    if (!options->existing && is_encrypted(top))
        return err_set(err, ENOTSUP,
                       "%s: is encrypted, and the overlay would not be; create one with the key, "
                       "and start the VM on it",
                       top->path);
    struct image_create create = {
        .path = options->path,
        .format = "qcow2",
        .size = top->size,
        .backing = backing,
        .backing_format = image_format_name(top),
    };
    int r = options->existing ? 0 : image_create_store(&create, store, err);
    if (r < 0)
        return err_prefix(err, "%s", options->path);
    r = chain_open_store(options->path, options->existing ? NULL : "qcow2", false, TAKE(store),
                         &new, err);
    if (r < 0)
        return r;
    AUTO(image_drop) struct image *overlay = new;
    if (!image_backing_name(overlay))
        return err_set(err, EINVAL,
                       "%s: names no backing file; make it with: bedplate-img create "
                       "-b %s",
                       options->path, backing);
    if (overlay->size != top->size)
        return err_set(err, EINVAL, "%s: has %llu bytes, the disk has %llu", options->path,
                       (unsigned long long)overlay->size, (unsigned long long)top->size);
    chain_hold(chain);
    journal_clear(chain);
    r = image_flush(top);
    if (r < 0)
        err_errno(err, -r, "%s: cannot flush", top->path);
    if (r == 0 && qcow2_keeps_bitmaps(top) && qcow2_keeps_bitmaps(overlay))
        r = qcow2_bitmaps_move(top, overlay, err);
    if (r == 0) {
        image_attach_backing(overlay, top);
        chain_set_top(chain, TAKE(overlay));
    }
    chain_release(chain);
    return r;
}

/* ---- resize ---- */

int chain_resize(struct chain *chain, uint64_t size, enum image_preallocation prealloc, bool shrink,
                 struct err *err)
{
    struct image *top = chain->top;
    uint64_t old = top->size;
    if (!size || size % 512)
        return err_set(err, EINVAL, "a size is a multiple of 512, and not 0");
    if (size < old && !shrink)
        return err_set(err, EINVAL,
                       "%s: that would cut off the disk's end; shrink what is on it first, then "
                       "allow it with --shrink (\"shrink\": true)",
                       top->path);
    chain_hold(chain);
    journal_clear(chain);
    int r = image_flush(top);
    if (r < 0)
        err_errno(err, -r, "%s: cannot flush", top->path);
    if (r == 0)
        r = image_resize(top, size, prealloc, err);
    chain_resized(chain); /* also after half a failure: the image knows its size */
    chain_release(chain);
    return r;
}

/* ---- stream ---- */

static int stream_check_room(struct populate *p, struct err *err)
{
    struct image *top = p->tap.below;
    struct room room = { .into = top };
    int r = 0;
    for (uint64_t at = 0; r == 0 && at < top->size;) {
        struct image_extent e;
        unsigned depth;
        r = image_map(top, at, top->size - at, &e, &depth);
        if (r == 0 && !(e.flags & IMAGE_ZERO) && populate_needs(p, &e, depth))
            r = room_add(&room, at, e.len);
        at += e.len;
    }
    return r < 0 ? err_errno(err, -r, "%s: cannot read where its data lies", top->path)
                 : room_check(&room, err);
}

static int stream_copy(struct job *job, struct populate *p, struct err *err)
{
    uint64_t size = p->tap.image.size;
    AUTO(free) uint8_t *data = malloc(COPY_PIECE);
    int r = data ? 0 : -ENOMEM;
    job_stage(job, "copying", size);
    for (uint64_t at = 0, part; r == 0 && at < size; at += part) {
        part = size - at < COPY_PIECE ? size - at : COPY_PIECE;
        r = populate_range(p, at, part, data);
        if (r == 0)
            r = job_point(job, part);
    }
    return r < 0 ? err_errno(err, -r, "%s: cannot pull", p->tap.image.path) : 0;
}

int chain_stream(struct job *job, struct chain *chain, const char *base_name, struct err *err)
{
    struct image *top = chain->top, *base = NULL, *gone = NULL;
    if (!top->backing)
        return err_set(err, EINVAL, "%s: has nothing below it", top->path);
    if (!top->format->set_backing || !top->cluster_size)
        return err_set(err, ENOTSUP, "%s: format %s cannot change what is below it", top->path,
                       top->format->name);
    if (base_name && !(base = chain_find(chain, base_name)))
        return err_set(err, ENOENT, "%s: %s is not below it", top->path, base_name);
    unsigned base_depth = base ? (unsigned)chain_depth(chain, base) : UINT32_MAX;
    struct populate p;
    populate_init(&p, chain->top, base_depth, base, false);
    int r = stream_check_room(&p, err);
    if (r < 0) {
        populate_fini(&p);
        return r;
    }
    chain_hold(chain);
    journal_clear(chain);
    chain->view = &p.tap.image;
    chain_release(chain);
    r = stream_copy(job, &p, err);
    chain_hold(chain);
    chain_unset_view(chain);
    if (r == 0)
        r = chain_skip(top, base, &gone, err);
    chain_release(chain);
    populate_fini(&p);
    image_close(gone);
    return r;
}
