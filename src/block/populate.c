/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/populate.h"

#include "base/checked.h"

static struct populate *populate_of(struct image *image) { return (struct populate *)image; }

bool populate_needs(const struct populate *p, const struct image_extent *e, unsigned depth)
{
    if (depth == 0 && (e->flags & IMAGE_ALLOCATED))
        return false;
    if (e->flags & IMAGE_ALLOCATED)
        return depth < p->base_depth && (p->base_stays || !(e->flags & IMAGE_ZERO));
    /* Zeros behind the end of a short layer hide what a longer one below has there. */
    return p->base_stays && depth + 1 < p->base_depth;
}

int populate_write(struct image *top, bool zero, uint64_t offset, uint64_t len, uint8_t *data)
{
    if (zero) {
        struct image_extent own;
        int r = image_zero(top, offset, len, 0);
        if (r == 0)
            r = image_status(top, offset, len, &own);
        /* Version 2 of qcow2 cannot say "zero". */
        if (r < 0 || ((own.flags & IMAGE_ALLOCATED) && own.len == len))
            return r;
    }
    int r = image_read(top, data, len, offset);
    return r < 0 ? r : image_write(top, data, len, offset);
}

/* Under an exclusive lock on whole clusters. */
static int populate_locked(struct populate *p, uint64_t offset, uint64_t end, uint8_t *data)
{
    struct image *top = p->tap.below;
    while (offset < end) {
        struct image_extent e;
        unsigned depth;
        int r = image_map(top, offset, end - offset, &e, &depth);
        if (r < 0)
            return r;
        uint64_t next = offset + e.len;
        if (populate_needs(p, &e, depth)) {
            uint64_t from = round_down(offset, p->ranges.unit);
            uint64_t to = round_up(next, p->ranges.unit);
            to = to < end ? to : end;
            bool zero = (e.flags & IMAGE_ZERO) && from == offset && to == next;
            r = populate_write(top, zero, from, to - from, data);
            if (r < 0)
                return r;
            next = to;
        }
        offset = next;
    }
    return 0;
}

int populate_range(struct populate *p, uint64_t offset, uint64_t len, uint8_t *data)
{
    struct range range;
    ranges_take(&p->ranges, &range, offset, len, true);
    uint64_t end = range.end < p->tap.image.size ? range.end : p->tap.image.size;
    int r = 0;
    for (uint64_t at = range.start, part; r == 0 && at < end; at += part) {
        part = end - at < COPY_PIECE ? end - at : COPY_PIECE;
        r = populate_locked(p, at, at + part, data);
    }
    ranges_drop(&p->ranges, &range);
    return r;
}

/* A copy that fails (no space, perhaps) does not spoil the read. */
static int populate_read(struct image *image, void *data, size_t len, uint64_t offset)
{
    struct populate *p = populate_of(image);
    struct image_extent own;
    bool whole = image_status(p->tap.below, offset, len, &own) == 0 && own.len == len &&
                 (own.flags & IMAGE_ALLOCATED);
    AUTO(free) uint8_t *room = whole ? NULL : malloc(COPY_PIECE);
    if (room)
        populate_range(p, offset, len, room);
    return tap_read(image, data, len, offset);
}

static int populate_written(struct image *image, const void *data, size_t len, uint64_t offset)
{
    struct populate *p = populate_of(image);
    struct range range;
    ranges_take(&p->ranges, &range, offset, len, false);
    int r = image_write(p->tap.below, data, len, offset);
    ranges_drop(&p->ranges, &range);
    return r;
}

static int populate_zeroed(struct image *image, uint64_t offset, uint64_t len, unsigned flags)
{
    struct populate *p = populate_of(image);
    struct range range;
    ranges_take(&p->ranges, &range, offset, len, false);
    int r = image_zero(p->tap.below, offset, len, flags);
    ranges_drop(&p->ranges, &range);
    return r;
}

static int populate_discarded(struct image *image, uint64_t offset, uint64_t len)
{
    struct populate *p = populate_of(image);
    struct range range;
    ranges_take(&p->ranges, &range, offset, len, false);
    int r = image_discard(p->tap.below, offset, len);
    ranges_drop(&p->ranges, &range);
    return r;
}

static const struct image_format populate_on_read = {
    .name = "copy-on-read",
    .about = "copies what is read from lower layers",
    .read = populate_read,
    .write = populate_written,
    .zero = populate_zeroed,
    .discard = populate_discarded,
    .flush = tap_flush,
    .status = tap_status,
};
static const struct image_format populate_on_demand = {
    .name = "populate",
    .about = "can be told to copy from lower layers",
    .read = tap_read,
    .write = populate_written,
    .zero = populate_zeroed,
    .discard = populate_discarded,
    .flush = tap_flush,
    .status = tap_status,
};

void populate_init(struct populate *p, struct image *below, unsigned base_depth, bool base_stays,
                   bool on_read)
{
    tap_init(&p->tap, on_read ? &populate_on_read : &populate_on_demand, below);
    ranges_init(&p->ranges, below->cluster_size);
    p->base_depth = base_depth;
    p->base_stays = base_stays;
}

void populate_fini(struct populate *p) { ranges_fini(&p->ranges); }
