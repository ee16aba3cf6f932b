/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commit: what layers have moves down into the image that becomes the top's, or the next, below.
 *
 * The top still changes meanwhile, so it is mirrored into the base; a layer further down does not,
 * and is only copied.
 */
#include "block/lock.h"
#include "block/mirror.h"
#include "block/operations.h"
#include "block/qcow2.h"
#include "block/room.h"

#include <string.h>
#include <sys/stat.h>

struct commit {
    struct chain *chain;
    struct image *layer, *base, *above; /* above: of the layer; NULL: it is the top */
    unsigned layers;                    /* from layer to base */
    bool by_id;                         /* the image over the base records its content's id */
    struct mirror mirror;
};

/* One that died after its last write took its layer out of the chain: what is to be resumed is
 * done, and says so. */
static bool commit_is_done(struct chain *chain, const struct commit_options *options)
{
    const struct image *top = chain->top;
    bool switched = options->base && strcmp(options->base, image_path(top)) == 0;
    bool skipped = options->layer && strcmp(options->layer, image_path(top)) != 0 && top->backing &&
                   !chain_find(chain, options->layer) &&
                   (!options->base || chain_find(chain, options->base));
    if (!options->resume || !(switched || skipped))
        return false;
    chain_hold(chain);
    journal_clear(chain);
    chain_release(chain);
    return true;
}

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
     * in between leaves a chain that only another commit opens. */
    const struct image *next = c->layer;
    while (next->backing != c->base)
        next = next->backing;
    c->by_id = next->format->check_backing;
    if (c->by_id && chain->hold)
        return err_set(err, ENOTSUP,
                       "%s: format %s knows its parent by an id; commit it with bedplate-img while "
                       "no VM uses it",
                       image_path(next), next->format->name);
    if (!c->base->format->write)
        return err_set(err, ENOTSUP, "%s: format %s can only be read", image_path(c->base),
                       c->base->format->name);
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
    r = chain_open_store(old->path, image_format_name(old), false, take_store, &new, err);
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

/* Notes what the layers above the base decide, if the base has room for it. */
static int commit_note(struct commit *c, struct err *err)
{
    struct image *layer = c->layer;
    struct room room = { .into = c->base };
    int r = 0;
    for (uint64_t at = 0; r == 0 && at < layer->size;) {
        struct image_extent e;
        unsigned depth;
        r = image_map(layer, at, layer->size - at, &e, &depth);
        if (r < 0)
            break;
        if (e.flags & IMAGE_ALLOCATED ? depth < c->layers : depth + 1 < c->layers) {
            granules_add(&c->mirror.dirty, at, e.len);
            if (!(e.flags & IMAGE_ZERO))
                r = room_add(&room, at, e.len);
        }
        at += e.len;
    }
    return r < 0 ? err_errno(err, -r, "%s: cannot read where its data lies", image_path(layer))
                 : room_check(&room, err);
}

/* All that is to be copied is noted; a tap is on the top if that is committed. */
static int commit_begin(struct commit *c, const struct commit_options *options, struct err *err)
{
    struct chain *chain = c->chain;
    char kind[700];
    snprintf(kind, sizeof kind, "commit %s", image_path(c->layer));
    chain_hold(chain);
    journal_init(&c->mirror.journal, chain, kind, c->base);
    bool known = options->resume && journal_found(&c->mirror.journal);
    int r = known ? journal_load(&c->mirror.journal, &c->mirror.dirty, err) : 0;
    c->mirror.compare = options->resume && !known;
    if (r == 0 && !c->above)
        chain->view = &c->mirror.tap.image;
    chain_release(chain);
    if (r == 0 && !known)
        r = commit_note(c, err);
    chain_hold(chain);
    if (r == 0)
        journal_start(&c->mirror.journal, &c->mirror.dirty, NULL);
    else
        chain_unset_view(chain);
    chain_release(chain);
    return r;
}

/* Held: a job that may be wanted again keeps its journal. */
static void commit_over(struct commit *c, int r)
{
    if (r == 0 || !job_may_resume(c->mirror.job))
        journal_end(&c->mirror.journal);
}

/* A layer below the top changes no more: no tap is needed, and the layer above skips to the base.
 */
static int commit_middle(struct commit *c, uint8_t *data, struct err *err)
{
    struct image *gone = NULL;
    job_stage(c->mirror.job, c->mirror.compare ? "comparing" : "copying",
              granules_bytes(&c->mirror.dirty));
    int r = mirror_copy(&c->mirror, data, false);
    /* A short layer hides what the base has behind its end. */
    if (r == 0 && c->base->size > c->layer->size)
        r = image_zero(c->base, c->layer->size, c->base->size - c->layer->size, IMAGE_UNMAP);
    if (r == 0)
        r = image_flush(c->base);
    if (r < 0)
        err_errno(err, -r, "%s: cannot commit", image_path(c->base));
    chain_hold(c->chain);
    if (r == 0)
        r = chain_skip(c->above, c->base, &gone, err);
    commit_over(c, r);
    chain_release(c->chain);
    image_close(gone);
    return r;
}

/* Both are the same now, so what the top has may go. Whoever opens it later still finds everything
 * through it, also when that happens in the middle of this. Held. */
static int commit_empty_top(struct commit *c, const struct commit_options *options,
                            struct image **gone, struct err *err)
{
    if (options->keep_data || c->by_id || !c->layer->format->empty)
        return 0;
    int r = 0;
    if (c->layers > 1)
        r = chain_skip(c->layer, c->base, gone, err);
    return r == 0 ? image_empty(c->layer, err) : r;
}

static int commit_top(struct commit *c, const struct commit_options *options, uint8_t *data,
                      struct err *err)
{
    struct chain *chain = c->chain;
    struct image *gone = NULL, *old = NULL;
    int r = mirror_run(&c->mirror, data, true);
    chain_hold(chain);
    chain_unset_view(chain);
    if (r == 0)
        r = mirror_finish(&c->mirror, data);
    if (r < 0)
        err_errno(err, -r, "%s: cannot commit", image_path(c->base));
    if (r == 0)
        r = commit_empty_top(c, options, &gone, err);
    commit_over(c, r);
    if (r == 0 && !options->keep && qcow2_keeps_bitmaps(chain->top) && qcow2_keeps_bitmaps(c->base))
        r = qcow2_bitmaps_move(chain->top, c->base, err);
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
    bool done = commit_is_done(chain, options);
    if (done || !data) {
        store_close(options->take_base_store);
        return done ? 0 : err_set(err, ENOMEM, "out of memory");
    }
    int r = commit_prepare(&c, options, err);
    if (r == 0)
        r = mirror_init(&c.mirror, c.layer, c.base, job, err);
    if (r == 0)
        r = commit_begin(&c, options, err);
    if (r == 0)
        r = c.above ? commit_middle(&c, data, err) : commit_top(&c, options, data, err);
    mirror_fini(&c.mirror);
    return r;
}
