/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Copy on read: a tap that can pull what is read from lower layers into the image it lies on.
 *
 * Writes hold their clusters shared and copying holds them exclusively, so that no old data is
 * ever copied over new.
 */
#ifndef BLOCK_POPULATE_H
#define BLOCK_POPULATE_H

#include "block/ranges.h"
#include "block/tap.h"

struct populate {
    struct tap tap;
    struct ranges ranges;
    unsigned base_depth; /* layers from this depth on stay below; fixed */
    bool base_stays;     /* there are such layers; fixed */
};

/* The image can have a backing file, so it has clusters. on_read: reads copy, too. */
void populate_init(struct populate *p, struct image *below, unsigned base_depth, bool base_stays,
                   bool on_read);
void populate_fini(struct populate *p);
/* Pulls what [offset, offset + len), at most COPY_PIECE, has above the base. */
int populate_range(struct populate *p, uint64_t offset, uint64_t len, uint8_t *data);

/* Would this, found by image_map, be lost with the layers above the base? */
bool populate_needs(const struct populate *p, const struct image_extent *e, unsigned depth);
/* Makes what `top` shows there, zeros or not, its own. `data` has room for it. */
int populate_write(struct image *top, bool zero, uint64_t offset, uint64_t len, uint8_t *data);

#endif
