/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A tap: an image that lies over another, with the same content, to see what is done to it. It
 * seems to have no layers: what its status says is true of the whole chain.
 *
 * A kind of tap embeds struct tap and has a table of its own, with the functions below where it
 * only passes on. A tap borrows the image below and is never closed: who made it frees it, after
 * taking it off the chain (chain_unset_view).
 */
#ifndef BLOCK_TAP_H
#define BLOCK_TAP_H

#include "block/image.h"

struct tap {
    struct image image;
    struct image *below; /* borrowed */
};

static inline struct tap *tap_of(struct image *image) { return (struct tap *)image; }

void tap_init(struct tap *tap, const struct image_format *kind, struct image *below);
int tap_read(struct image *image, void *data, size_t len, uint64_t offset);
int tap_flush(struct image *image);
int tap_status(struct image *image, uint64_t offset, uint64_t len, struct image_extent *out);

/* Copies a range of one image to another, with holes as holes; `data` has room for COPY_PIECE, len
 * is at most that. `compare`: only what differs is written. */
enum { COPY_PIECE = 1 << 20 };
int tap_copy(struct image *from, struct image *to, uint64_t offset, uint64_t len, uint8_t *data,
             bool compare);

#endif
