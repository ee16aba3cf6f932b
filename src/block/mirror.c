/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/mirror.h"

#include "base/checked.h"
#include "block/operations.h"
#include "block/qcow2.h"

enum { MIRROR_UNIT = 64 << 10, MIRROR_IDLE_MS = 1000 };

static struct mirror *mirror_of(struct image *image) { return (struct mirror *)image; }

static void mirror_note(struct mirror *m, uint64_t offset, uint64_t len)
{
    granules_add(&m->dirty, offset, len);
    job_wake(m->job);
}

/* What both get, or what is copied later. The guest is told only about its own disk: when the
 * target cannot be written, copying will meet that, too, and end the job. */
static void mirror_written(struct mirror *m, bool active, int result, int target_result,
                           uint64_t offset, uint64_t len)
{
    if (!active || result < 0 || target_result < 0)
        mirror_note(m, offset, len);
}

static int mirror_write(struct image *image, const void *data, size_t len, uint64_t offset)
{
    struct mirror *m = mirror_of(image);
    bool active = atomic_load(&m->active);
    struct range range;
    ranges_take(&m->ranges, &range, offset, len, active);
    int r = image_write(m->tap.below, data, len, offset);
    int t = active && r == 0 ? image_write(m->target, data, len, offset) : 0;
    mirror_written(m, active, r, t, offset, len);
    ranges_drop(&m->ranges, &range);
    return r;
}

static int mirror_zero(struct image *image, uint64_t offset, uint64_t len, unsigned flags)
{
    struct mirror *m = mirror_of(image);
    bool active = atomic_load(&m->active);
    struct range range;
    ranges_take(&m->ranges, &range, offset, len, active);
    int r = image_zero(m->tap.below, offset, len, flags);
    int t = active && r == 0 ? image_zero(m->target, offset, len, flags) : 0;
    mirror_written(m, active, r, t, offset, len);
    ranges_drop(&m->ranges, &range);
    return r;
}

/* What is there afterwards only the image knows, so it is copied. */
static int mirror_discard(struct image *image, uint64_t offset, uint64_t len)
{
    struct mirror *m = mirror_of(image);
    struct range range;
    ranges_take(&m->ranges, &range, offset, len, false);
    int r = image_discard(m->tap.below, offset, len);
    mirror_note(m, offset, len);
    ranges_drop(&m->ranges, &range);
    return r;
}

static const struct image_format mirror_kind = {
    .name = "mirror",
    .about = "keeps a second image the same",
    .read = tap_read,
    .write = mirror_write,
    .zero = mirror_zero,
    .discard = mirror_discard,
    .flush = tap_flush,
    .status = tap_status,
};

int mirror_init(struct mirror *m, struct image *below, struct image *target, struct job *job,
                struct err *err)
{
    tap_init(&m->tap, &mirror_kind, below);
    m->target = target;
    m->job = job;
    uint64_t unit = target->cluster_size > MIRROR_UNIT ? target->cluster_size : MIRROR_UNIT;
    int r = granules_init(&m->dirty, below->size, unit, err);
    if (r < 0)
        return r;
    ranges_init(&m->ranges, m->dirty.unit);
    return 0;
}

void mirror_fini(struct mirror *m)
{
    if (!m->dirty.words)
        return;
    granules_fini(&m->dirty);
    ranges_fini(&m->ranges);
}

static int mirror_copy_run(struct mirror *m, uint64_t offset, uint64_t len, uint8_t *data)
{
    struct range range;
    ranges_take(&m->ranges, &range, offset, len, true);
    granules_remove(&m->dirty, offset, len);
    int r = 0;
    for (uint64_t at = 0, part; r == 0 && at < len; at += part) {
        part = len - at < COPY_PIECE ? len - at : COPY_PIECE;
        r = tap_copy(m->tap.below, m->target, offset + at, part, data, m->compare);
    }
    if (r < 0)
        granules_add(&m->dirty, offset, len);
    ranges_drop(&m->ranges, &range);
    return r;
}

/* Ends after `most` bytes, too. */
static int mirror_copy_most(struct mirror *m, uint8_t *data, bool held, uint64_t most)
{
    uint64_t offset, len;
    int r = 0;
    while (r == 0 && most && granules_next(&m->dirty, COPY_PIECE, &offset, &len)) {
        r = mirror_copy_run(m, offset, len, data);
        if (r == 0 && !held)
            r = job_point(m->job, len);
        if (r == 0 && !held)
            journal_point(&m->journal, &m->dirty, NULL);
        most -= len < most ? len : most;
    }
    return r;
}

int mirror_copy(struct mirror *m, uint8_t *data, bool held)
{
    return mirror_copy_most(m, data, held, UINT64_MAX);
}

/* ---- the job ---- */

/* What surely reads as zeros in both needs no copying. */
int mirror_note_all(struct mirror *m)
{
    struct image *from = m->tap.below;
    for (uint64_t at = 0; at < from->size;) {
        struct image_extent extent, there;
        unsigned depth;
        int r = image_map(from, at, from->size - at, &extent, &depth);
        if (r == 0)
            r = image_map(m->target, at, extent.len, &there, &depth);
        if (r < 0)
            return r;
        if (!(extent.flags & there.flags & IMAGE_ZERO))
            granules_add(&m->dirty, at, there.len);
        at += there.len;
    }
    return 0;
}

static int mirror_follow(struct mirror *m, uint8_t *data)
{
    for (;;) {
        int r = job_ready(m->job, MIRROR_IDLE_MS);
        if (r)
            return r < 0 ? r : 0;
        r = mirror_copy(m, data, false);
        if (r < 0)
            return r;
        journal_point(&m->journal, &m->dirty, NULL);
    }
}

int mirror_run(struct mirror *m, uint8_t *data, bool complete_itself)
{
    /* One pass: a guest that writes faster than the job may copy would never let it end. */
    uint64_t all = granules_bytes(&m->dirty);
    job_stage(m->job, m->compare ? "comparing" : "copying", all);
    int r = mirror_copy_most(m, data, false, all);
    atomic_store(&m->active, true);
    job_stage(m->job, "catching up", granules_bytes(&m->dirty));
    if (r == 0)
        r = mirror_copy(m, data, false);
    return r < 0 || complete_itself ? r : mirror_follow(m, data);
}

int mirror_finish(struct mirror *m, uint8_t *data)
{
    int r = mirror_copy(m, data, true);
    if (r == 0)
        r = image_flush(m->tap.below); /* it stays a whole copy of this moment, too */
    return r == 0 ? image_flush(m->target) : r;
}

/* The tap is laid on and all that is to be copied is noted. */
static int mirror_begin(struct mirror *m, struct chain *chain, bool resume, struct err *err)
{
    chain_hold(chain);
    journal_init(&m->journal, chain, "mirror", m->target);
    bool known = resume && journal_found(&m->journal);
    int r = known ? journal_load(&m->journal, &m->dirty, err) : 0;
    m->compare = resume && !known;
    chain->view = &m->tap.image;
    chain_release(chain);
    if (r == 0 && !known) {
        r = mirror_note_all(m);
        if (r < 0)
            err_errno(err, -r, "%s: cannot mirror", m->target->path);
    }
    if (r < 0)
        return r;
    chain_hold(chain);
    journal_start(&m->journal, &m->dirty, NULL);
    chain_release(chain);
    return 0;
}

int chain_mirror(struct job *job, struct chain *chain, const struct mirror_options *options,
                 struct err *err)
{
    AUTO(image_drop) struct image *target = options->take_target;
    if (target->size != chain->top->size)
        return err_set(err, EINVAL, "%s: has %llu bytes, the disk has %llu; make them equal",
                       target->path, (unsigned long long)target->size,
                       (unsigned long long)chain->top->size);
    AUTO(free) uint8_t *data = malloc(COPY_PIECE);
    struct mirror m = { 0 };
    int r = data ? mirror_init(&m, chain->top, target, job, err)
                 : err_set(err, ENOMEM, "out of memory");
    if (r < 0)
        return r;
    r = mirror_begin(&m, chain, options->resume, err);
    if (r == 0)
        r = mirror_run(&m, data, false);
    struct image *old = NULL;
    chain_hold(chain);
    if (r == 0)
        r = mirror_finish(&m, data);
    if (r < 0 && !err->code)
        err_errno(err, -r, "%s: cannot mirror", target->path);
    if (r == 0 || !job_may_resume(job))
        journal_end(&m.journal);
    if (r == 0 && !options->stay && qcow2_keeps_bitmaps(chain->top) && qcow2_keeps_bitmaps(target))
        r = qcow2_bitmaps_move(chain->top, target, err);
    if (r == 0 && !options->stay) {
        old = chain->top;
        chain_set_top(chain, TAKE(target));
    } else {
        chain_unset_view(chain);
    }
    chain_release(chain);
    mirror_fini(&m);
    image_close(old);
    return r;
}
