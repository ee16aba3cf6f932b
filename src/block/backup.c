/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Backup: copies the disk as it was at one moment, while the guest goes on writing.
 *
 * A tap lets a write pass only after what it will overwrite was copied (copy before write), so the
 * guest waits for the target now and then. When the target fails, the backup does, not the guest.
 *
 * Which parts have changed since the last backup is in a persistent bitmap of the qcow2 image on
 * top: it is taken out of the image at that moment, so that the image notes anew from then on, and
 * put back should the backup fail. A process that dies leaves the bitmap marked as in use, and
 * nobody takes it for complete: the next backup has to be a full one.
 */
#include "block/granules.h"
#include "block/operations.h"
#include "block/qcow2.h"
#include "block/ranges.h"
#include "block/tap.h"

#include "base/checked.h"

#include <stdatomic.h>

enum { BACKUP_UNIT = 64 << 10 };

struct backup {
    struct tap tap;
    struct image *target; /* borrowed */
    struct granules pending;
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
    return r < 0 ? r : tap_copy(b->tap.below, b->target, offset, len, data);
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

static int backup_run(struct backup *b, struct job *job, uint8_t *data)
{
    uint64_t offset, len;
    job_stage(job, "copying", granules_bytes(&b->pending));
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
    }
    int failed = atomic_load(&b->failed);
    return failed ? -failed : image_flush(b->target);
}

/* The moment that is backed up. Held. */
static int backup_begin(struct backup *b, struct chain *chain, const struct backup_options *options,
                        struct bitmap_bits *bits, struct err *err)
{
    struct image *top = chain->top;
    uint64_t unit = b->target->cluster_size > BACKUP_UNIT ? b->target->cluster_size : BACKUP_UNIT;
    if (options->bitmap) {
        if (top->format != &image_qcow2)
            return err_set(err, ENOTSUP, "%s: format %s keeps no bitmaps; use qcow2", top->path,
                           top->format->name);
        int r = qcow2_bitmap_take(top, options->bitmap, !options->incremental, bits, err);
        if (r < 0)
            return err_prefix(err, "%s", top->path);
    }
    int r = granules_init(&b->pending, top->size, unit, err);
    if (r < 0)
        return r;
    ranges_init(&b->ranges, b->pending.unit);
    if (!options->incremental)
        granules_add(&b->pending, 0, top->size);
    for (uint64_t n = 0; options->incremental && n < bits->count; n++)
        if (bits->data[n / 8] >> (n % 8) & 1) {
            uint64_t at = n << bits->granularity_bits, len = 1ull << bits->granularity_bits;
            granules_add(&b->pending, at, len < top->size - at ? len : top->size - at);
        }
    tap_init(&b->tap, &backup_kind, chain->top);
    chain->view = &b->tap.image;
    return 0;
}

static int backup_all(struct job *job, struct chain *chain, struct backup *b,
                      const struct backup_options *options, struct err *err)
{
    AUTO(free) uint8_t *data = malloc(COPY_PIECE);
    struct bitmap_bits bits = { 0 };
    if (!data)
        return err_set(err, ENOMEM, "out of memory");
    chain_hold(chain);
    int r = backup_begin(b, chain, options, &bits, err);
    chain_release(chain);
    if (r == 0) {
        r = backup_run(b, job, data);
        if (r < 0)
            err_errno(err, -r, "%s: cannot back up", b->target->path);
    }
    chain_hold(chain);
    chain_unset_view(chain);
    if (r < 0 && bits.data)
        qcow2_bitmap_put_back(chain->top, options->bitmap, &bits);
    chain_release(chain);
    free(bits.data);
    if (b->pending.words) {
        granules_fini(&b->pending);
        ranges_fini(&b->ranges);
    }
    return r;
}

int chain_backup(struct job *job, struct chain *chain, const struct backup_options *options,
                 struct err *err)
{
    struct image *target = options->take_target;
    struct backup b = { .target = target };
    int r = 0;
    if (options->incremental && !options->bitmap)
        r = err_set(err, EINVAL, "an incremental backup needs the name of a bitmap");
    else if (target->size != chain->top->size)
        r = err_set(err, EINVAL, "%s: has %llu bytes, the disk has %llu; make them equal",
                    target->path, (unsigned long long)target->size,
                    (unsigned long long)chain->top->size);
    if (r == 0)
        r = backup_all(job, chain, &b, options, err);
    int closed = image_close(target);
    if (r == 0 && closed < 0)
        r = err_errno(err, -closed, "the target cannot be closed");
    return r;
}
