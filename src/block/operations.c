/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Operations on chains: snapshot, stream, commit, resize. Mirror and backup have their own files.
 */
#include "block/operations.h"

#include "base/checked.h"
#include "block/lock.h"
#include "block/mirror.h"
#include "block/populate.h"
#include "block/qcow2.h"

#include <string.h>
#include <sys/stat.h>

/* ---- images that come as descriptors ---- */

static int opener_none_open(const struct block_opener *opener, const char *path, int flags, int *fd,
                            struct err *err)
{
    return err_set(err, EPERM, "an image given as a descriptor can have no further files");
}
static const struct block_opener opener_none = { .open = opener_none_open };

int chain_open_store(const char *path, const char *format, struct store *take_store,
                     struct image **out, struct err *err)
{
    struct image_options options = {
        .path = path, .format = format, .no_backing = true, .opener = &opener_none
    };
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
    r = chain_open_store(options->path, options->existing ? NULL : "qcow2", TAKE(store), &new, err);
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
    r = image_flush(top);
    if (r == 0) {
        image_attach_backing(overlay, top);
        chain_set_top(chain, TAKE(overlay));
    }
    chain_release(chain);
    return r < 0 ? err_errno(err, -r, "%s: cannot flush", top->path) : 0;
}

/* ---- resize ---- */

int chain_resize(struct chain *chain, uint64_t size, bool shrink, struct err *err)
{
    struct image *top = chain->top;
    uint64_t old = top->size;
    if (!size || size % 512)
        return err_set(err, EINVAL, "a size is a multiple of 512, and not 0");
    if (size < old && !shrink)
        return err_set(err, EINVAL,
                       "that would cut off the disk's end; let the guest give it up first, then "
                       "say \"shrink\": true");
    chain_hold(chain);
    int r = image_flush(top);
    if (r < 0)
        err_errno(err, -r, "%s: cannot flush", top->path);
    if (r == 0)
        r = image_resize(top, size, PREALLOC_OFF, err);
    chain_resized(chain); /* also after half a failure: the image knows its size */
    chain_release(chain);
    return r;
}

/* ---- stream ---- */

/* Takes the layers between `above` and `base` (which may be NULL) out of the chain. Held. */
static struct image *layers_cut(struct image *above, struct image *base)
{
    struct image *gone = above->backing, *last = gone;
    if (gone == base)
        return NULL;
    while (last->backing != base)
        last = last->backing;
    last->backing = NULL;
    above->backing = base;
    return gone;
}

/* Records `base` (NULL: none) as what is below `above`, then lets the layers between go. Held. */
static int layers_skip(struct image *above, struct image *base, struct image **gone,
                       struct err *err)
{
    AUTO(free) char *name = NULL;
    if (base && !(name = chain_name_for(above->path, base->path, err)))
        return -err->code;
    int r = image_set_backing(above, name, base ? image_format_name(base) : NULL, err);
    if (r == 0)
        *gone = layers_cut(above, base);
    return r;
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
    chain_set_view(chain, &p.tap.image);
    int r = stream_copy(job, &p, err);
    chain_hold(chain);
    chain_unset_view(chain);
    if (r == 0)
        r = layers_skip(top, base, &gone, err);
    chain_release(chain);
    populate_fini(&p);
    image_close(gone);
    return r;
}

/* ---- commit ---- */

struct commit {
    struct chain *chain;
    struct image *layer, *base, *above; /* above: of the layer; NULL: it is the top */
    unsigned layers;                    /* from layer to base */
    struct mirror mirror;
};

static int commit_find(struct commit *c, const struct commit_options *options, struct err *err)
{
    struct chain *chain = c->chain;
    c->layer = chain->top;
    if (options->layer && strcmp(options->layer, image_path(chain->top)) != 0)
        c->layer = chain_find(chain, options->layer);
    if (!c->layer)
        return err_set(err, ENOENT, "%s: %s is not below it", image_path(chain->top),
                       options->layer);
    for (c->above = chain->top; c->above != c->layer && c->above->backing != c->layer;)
        c->above = c->above->backing;
    if (c->above == c->layer)
        c->above = NULL;
    c->base = options->base ? chain_find(chain, options->base) : c->layer->backing;
    int depth = c->base ? chain_depth(chain, c->base) : -1;
    int from = chain_depth(chain, c->layer);
    if (depth <= from)
        return err_set(err, ENOENT, "%s: %s is not below it", image_path(c->layer),
                       options->base ? options->base : "another image");
    c->layers = (unsigned)(depth - from);
    if (c->above && c->above->readonly)
        return err_set(err, EROFS,
                       "%s: has to record another backing file but is open read-only; commit %s "
                       "first",
                       image_path(c->above), image_path(c->above));
    /* VHD, VHDX and VMDK record an id that changes when the base is written: a process that dies
     * in between would leave a chain that does not open. */
    const struct image *next = c->layer;
    while (next->backing != c->base)
        next = next->backing;
    if (next->format != &image_qcow2)
        return err_set(err, ENOTSUP,
                       "%s: format %s knows its parent by an id; commit it with bedplate-img while "
                       "no VM uses it",
                       image_path(next), next->format->name);
    if (!c->base->format->write)
        return err_set(err, ENOTSUP, "%s: format %s can only be read", image_path(c->base),
                       c->base->format->name);
    if (!c->above && (!c->layer->format->empty || !c->layer->format->set_backing))
        return err_set(err, ENOTSUP, "%s: format %s cannot be emptied", image_path(c->layer),
                       c->layer->format->name);
    if (c->base->size > c->layer->size && !c->above && !options->keep)
        return err_set(err, EINVAL,
                       "%s: is larger than the disk, which cannot become larger by that; resize "
                       "the disk first or keep the overlay",
                       image_path(c->base));
    return 0;
}

/* Our own reader's lock would stand in the way of the writer's. */
static int commit_lock_base(const struct image *old, const struct store *store, struct err *err)
{
    struct stat a, b;
    if (store->fd < 0)
        return 0;
    if (fstat(old->store->fd, &a) < 0 || fstat(store->fd, &b) < 0 || a.st_dev != b.st_dev ||
        a.st_ino != b.st_ino)
        return err_set(err, EINVAL, "the descriptor is not that of %s", old->path);
    lock_release(old->store->fd);
    int r = lock_image(store->fd, old->path, true, err);
    if (r < 0)
        lock_image(old->store->fd, old->path, false, NULL);
    return r < 0 ? err_prefix(err, "%s", old->path) : 0;
}

/* The base as an image that can be written takes the place of the present one. Held. */
static int commit_open_base(struct commit *c, struct store *take_store, struct err *err)
{
    struct image *old = c->base, *new, *above = c->chain->top;
    int r = commit_lock_base(old, take_store, err);
    if (r < 0) {
        store_close(take_store);
        return r;
    }
    r = chain_open_store(old->path, image_format_name(old), take_store, &new, err);
    if (r < 0)
        return r;
    while (above->backing != old)
        above = above->backing;
    image_attach_backing(new, TAKE(old->backing));
    above->backing = c->base = new;
    image_close(old);
    return 0;
}

static int commit_prepare(struct commit *c, const struct commit_options *options, struct err *err)
{
    AUTO(store_close) struct store *store = options->take_base_store;
    int r = commit_find(c, options, err);
    if (r < 0)
        return r;
    if (c->base->readonly && !store)
        return err_set(err, EROFS, "%s: is open read-only; send a descriptor that is not",
                       image_path(c->base));
    chain_hold(c->chain);
    /* One that was committed into before is open already, perhaps with tables not written yet. */
    if (c->base->readonly)
        r = commit_open_base(c, TAKE(store), err);
    if (r == 0 && c->layer->size > c->base->size)
        r = image_resize(c->base, c->layer->size, PREALLOC_OFF, err);
    chain_release(c->chain);
    return r;
}

/* Notes what the layers above the base decide. */
static int commit_note(struct commit *c)
{
    struct image *layer = c->layer;
    for (uint64_t at = 0; at < layer->size;) {
        struct image_extent e;
        unsigned depth;
        int r = image_map(layer, at, layer->size - at, &e, &depth);
        if (r < 0)
            return r;
        if (e.flags & IMAGE_ALLOCATED ? depth < c->layers : depth + 1 < c->layers)
            granules_add(&c->mirror.dirty, at, e.len);
        at += e.len;
    }
    return 0;
}

/* A layer below the top changes no more: no tap is needed, and the layer above skips to the base.
 */
static int commit_middle(struct commit *c, uint8_t *data, struct err *err)
{
    struct image *gone = NULL;
    int r = commit_note(c);
    job_stage(c->mirror.job, "copying", granules_bytes(&c->mirror.dirty));
    if (r == 0)
        r = mirror_copy(&c->mirror, data, false);
    /* A short layer hides what the base has behind its end. */
    if (r == 0 && c->base->size > c->layer->size)
        r = image_zero(c->base, c->layer->size, c->base->size - c->layer->size, IMAGE_UNMAP);
    if (r == 0)
        r = image_flush(c->base);
    if (r < 0)
        return err_errno(err, -r, "%s: cannot commit", image_path(c->base));
    chain_hold(c->chain);
    r = layers_skip(c->above, c->base, &gone, err);
    chain_release(c->chain);
    image_close(gone);
    return r;
}

/* Both are the same now, so what the top has may go. Whoever opens it later still finds everything
 * through it, also when that happens in the middle of this. Held. */
static int commit_empty_top(struct commit *c, struct image **gone, struct err *err)
{
    int r = 0;
    if (c->layers > 1)
        r = layers_skip(c->layer, c->base, gone, err);
    return r == 0 ? image_empty(c->layer, err) : r;
}

static int commit_top(struct commit *c, const struct commit_options *options, uint8_t *data,
                      struct err *err)
{
    struct chain *chain = c->chain;
    chain_set_view(chain, &c->mirror.tap.image);
    int r = commit_note(c);
    if (r == 0)
        r = mirror_run(&c->mirror, data, true);
    struct image *gone = NULL, *old = NULL;
    chain_hold(chain);
    chain_unset_view(chain);
    if (r == 0)
        r = mirror_finish(&c->mirror, data);
    if (r < 0)
        err_errno(err, -r, "%s: cannot commit", image_path(c->base));
    else
        r = commit_empty_top(c, &gone, err);
    if (r == 0 && !options->keep) {
        old = chain->top;
        old->backing = NULL;
        chain_set_top(chain, c->base);
    }
    chain_release(chain);
    image_close(gone);
    image_close(old);
    return r;
}

int chain_commit(struct job *job, struct chain *chain, const struct commit_options *options,
                 struct err *err)
{
    struct commit c = { .chain = chain };
    AUTO(free) uint8_t *data = malloc(COPY_PIECE);
    if (!data) {
        store_close(options->take_base_store);
        return err_set(err, ENOMEM, "out of memory");
    }
    int r = commit_prepare(&c, options, err);
    if (r == 0)
        r = mirror_init(&c.mirror, c.layer, c.base, job, err);
    if (r == 0)
        r = c.above ? commit_middle(&c, data, err) : commit_top(&c, options, data, err);
    mirror_fini(&c.mirror);
    return r;
}
