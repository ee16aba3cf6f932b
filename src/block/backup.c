/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Backup: copies the disk as it was at one moment, while the guest goes on writing.
 *
 * A tap lets a write pass only after what it will overwrite was copied (copy before write), so the
 * guest waits for the target now and then. When the target fails, the backup does, not the guest.
 *
 * Which parts have changed since the last backup is in a persistent bitmap of the qcow2 image on
 * top. It goes on recording until the backup is done, and then has only what was written since the
 * moment of the backup; so one that fails or dies changes nothing for the next.
 *
 * A backup that is resumed is of another moment, that of resuming: what was written in between is
 * copied again, as the journal knows it.
 */
#include "block/granules.h"
#include "block/journal.h"
#include "block/operations.h"
#include "block/qcow2.h"
#include "block/ranges.h"
#include "block/tap.h"

#include "base/checked.h"

#include <stdatomic.h>

enum { BACKUP_UNIT = 64 << 10 };

struct backup {
    struct tap tap;
    struct image *target;             /* borrowed */
    struct granules pending, written; /* written: since the moment that is copied */
    bool compare;                     /* the target has some of it, nobody knows what */
    struct ranges ranges;
    atomic_int failed; /* errno */
};

static struct backup *backup_of(struct image *image) { return (struct backup *)image; }

static int backup_copy(struct backup *b, uint64_t offset, uint64_t len, uint8_t *data)
{
    struct image_extent there;
    unsigned depth;
    int r = image_map(b->target, offset, len, &there, &depth);
    if (r == 0 && (there.flags & IMAGE_ZERO) && there.len == len) {
        struct image_extent here;
        r = image_map(b->tap.below, offset, len, &here, &depth);
        if (r < 0 || ((here.flags & IMAGE_ZERO) && here.len == len))
            return r;
    }
    return r < 0 ? r : tap_copy(b->tap.below, b->target, offset, len, data, b->compare);
}

/* Copies what is pending in the range, whose locks are held. */
static int backup_copy_pending(struct backup *b, uint64_t start, uint64_t end, uint8_t *data)
{
    uint64_t unit = b->pending.unit, size = b->tap.image.size;
    for (uint64_t at = start; at < end && at < size; at += unit) {
        uint64_t len = size - at < unit ? size - at : unit;
        if (!granules_any(&b->pending, at, len))
            continue;
        int r = 0;
        for (uint64_t done = 0, part; r == 0 && done < len; done += part) {
            part = len - done < COPY_PIECE ? len - done : COPY_PIECE;
            r = backup_copy(b, at + done, part, data);
        }
        if (r < 0)
            return r;
        granules_remove(&b->pending, at, len);
    }
    return 0;
}

/* ---- what the guest does ---- */

static void backup_before(struct backup *b, uint64_t offset, uint64_t len)
{
    granules_add(&b->written, offset, len);
    if (!granules_any(&b->pending, offset, len) || atomic_load(&b->failed))
        return;
    AUTO(free) uint8_t *data = malloc(COPY_PIECE);
    struct range range;
    ranges_take(&b->ranges, &range, offset, len, true);
    int r = data ? backup_copy_pending(b, range.start, range.end, data) : -ENOMEM, none = 0;
    if (r < 0)
        atomic_compare_exchange_strong(&b->failed, &none, -r);
    ranges_drop(&b->ranges, &range);
}

static int backup_write(struct image *image, const void *data, size_t len, uint64_t offset)
{
    backup_before(backup_of(image), offset, len);
    return image_write(tap_of(image)->below, data, len, offset);
}

static int backup_zero(struct image *image, uint64_t offset, uint64_t len, unsigned flags)
{
    backup_before(backup_of(image), offset, len);
    return image_zero(tap_of(image)->below, offset, len, flags);
}

static int backup_discard(struct image *image, uint64_t offset, uint64_t len)
{
    backup_before(backup_of(image), offset, len);
    return image_discard(tap_of(image)->below, offset, len);
}

static const struct image_format backup_kind = {
    .name = "backup",
    .about = "copies before it writes",
    .read = tap_read,
    .write = backup_write,
    .zero = backup_zero,
    .discard = backup_discard,
    .flush = tap_flush,
    .status = tap_status,
};

/* ---- the job ---- */

static int backup_run(struct backup *b, struct job *job, struct journal *journal, uint8_t *data)
{
    uint64_t offset, len;
    job_stage(job, b->compare ? "comparing" : "copying", granules_bytes(&b->pending));
    while (granules_next(&b->pending, COPY_PIECE, &offset, &len)) {
        struct range range;
        ranges_take(&b->ranges, &range, offset, len, true);
        int r = -atomic_load(&b->failed);
        if (r == 0)
            r = backup_copy_pending(b, offset, offset + len, data);
        ranges_drop(&b->ranges, &range);
        if (r == 0)
            r = job_point(job, len);
        if (r < 0)
            return r;
        journal_point(journal, &b->pending, &b->written);
    }
    int failed = atomic_load(&b->failed);
    return failed ? -failed : image_flush(b->target);
}

/* What the bitmap has: the first such backup has everything. Held. */
static int backup_changed(struct backup *b, struct chain *chain, const char *bitmap,
                          struct err *err)
{
    struct image *top = chain->top;
    struct bitmap_bits bits;
    if (!qcow2_bitmap_is_good(top, bitmap))
        return err_set(err, EINVAL,
                       "%s: has no bitmap %s that is complete; make a full backup with it first",
                       top->path, bitmap);
    int r = qcow2_bitmap_read(top, bitmap, &bits, err);
    if (r < 0)
        return err_prefix(err, "%s", top->path);
    for (uint64_t n = 0; n < bits.count; n++)
        if (bits.data[n / 8] >> (n % 8) & 1) {
            uint64_t at = n << bits.granularity_bits, len = 1ull << bits.granularity_bits;
            granules_add(&b->pending, at, len < top->size - at ? len : top->size - at);
        }
    free(bits.data);
    return 0;
}

/* The moment that is backed up. Held. */
static int backup_begin(struct backup *b, struct chain *chain, const struct backup_options *options,
                        struct journal *journal, struct err *err)
{
    struct image *top = chain->top;
    char kind[600] = "backup";
    if (options->bitmap && !qcow2_keeps_bitmaps(top))
        return err_set(err, ENOTSUP, "%s: format %s keeps no bitmaps; use qcow2, version 3",
                       top->path, top->format->name);
    if (options->bitmap)
        snprintf(kind, sizeof kind, "%s %s", options->incremental ? "increment" : "backup",
                 options->bitmap);
    journal_init(journal, chain, kind, b->target);
    int r = 0;
    bool known = options->resume && journal_found(journal);
    b->compare = options->resume && !known;
    if (known)
        r = journal_load(journal, &b->pending, err);
    else if (options->incremental)
        r = backup_changed(b, chain, options->bitmap, err);
    else
        granules_add(&b->pending, 0, top->size);
    if (r < 0)
        return r;
    journal_start(journal, &b->pending, NULL);
    tap_init(&b->tap, &backup_kind, chain->top);
    chain->view = &b->tap.image;
    return 0;
}

struct marking {
    struct image *top;
    const char *bitmap;
};

static void backup_mark(void *arg, uint64_t offset, uint64_t len)
{
    const struct marking *m = arg;
    qcow2_bitmap_mark(m->top, m->bitmap, offset, len);
}

/* From now on the bitmap is about the time since this backup. Held. */
static int backup_renew(struct backup *b, struct chain *chain, const char *bitmap, struct err *err)
{
    struct marking m = { chain->top, bitmap };
    int r = 0;
    if (!qcow2_bitmap_is_good(m.top, bitmap)) {
        qcow2_bitmap_remove(m.top, bitmap, NULL);
        r = qcow2_bitmap_add(m.top, bitmap, BACKUP_UNIT, err);
    }
    if (r < 0)
        return err_prefix(err, "%s", m.top->path);
    qcow2_bitmap_clear(m.top, bitmap);
    granules_each(&b->written, backup_mark, &m);
    return qcow2_bitmaps_checkpoint(m.top, err);
}

static int backup_all(struct job *job, struct chain *chain, struct backup *b,
                      const struct backup_options *options, struct err *err)
{
    AUTO(free) uint8_t *data = malloc(COPY_PIECE);
    struct journal journal;
    if (!data)
        return err_set(err, ENOMEM, "out of memory");
    chain_hold(chain);
    int r = backup_begin(b, chain, options, &journal, err);
    chain_release(chain);
    if (r < 0)
        return r;
    r = backup_run(b, job, &journal, data);
    if (r < 0)
        err_errno(err, -r, "%s: cannot back up", b->target->path);
    chain_hold(chain);
    chain_unset_view(chain);
    if (r == 0 && options->bitmap)
        r = backup_renew(b, chain, options->bitmap, err);
    if (r == 0 || !job_may_resume(job))
        journal_end(&journal);
    chain_release(chain);
    return r;
}

static int backup_sets(struct job *job, struct chain *chain, const struct backup_options *options,
                       struct err *err)
{
    struct image *target = options->take_target, *top = chain->top;
    struct backup b = { .target = target };
    uint64_t unit = target->cluster_size > BACKUP_UNIT ? target->cluster_size : BACKUP_UNIT;
    int r = granules_init(&b.pending, top->size, unit, err);
    if (r == 0)
        r = granules_init(&b.written, top->size, unit, err);
    if (r == 0) {
        ranges_init(&b.ranges, b.pending.unit);
        r = backup_all(job, chain, &b, options, err);
        ranges_fini(&b.ranges);
    }
    granules_fini(&b.pending);
    granules_fini(&b.written);
    return r;
}

int chain_backup(struct job *job, struct chain *chain, const struct backup_options *options,
                 struct err *err)
{
    struct image *target = options->take_target;
    int r = 0;
    if (options->incremental && !options->bitmap)
        r = err_set(err, EINVAL, "an incremental backup needs the name of a bitmap");
    else if (target->size != chain->top->size)
        r = err_set(err, EINVAL, "%s: has %llu bytes, the disk has %llu; make them equal",
                    target->path, (unsigned long long)target->size,
                    (unsigned long long)chain->top->size);
    if (r == 0)
        r = backup_sets(job, chain, options, err);
    int closed = image_close(target);
    if (r == 0 && closed < 0)
        r = err_errno(err, -closed, "the target cannot be closed");
    return r;
}
