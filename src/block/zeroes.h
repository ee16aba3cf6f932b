/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The filter for --disk's detect-zeroes and discard. */
#ifndef BLOCK_ZEROES_H
#define BLOCK_ZEROES_H

#include "block/block.h"

enum zeroes_detect {
    ZEROES_WRITE, /* zeros are written like other data */
    ZEROES_ZERO,  /* a write of zeros becomes WRITE_ZEROES */
    ZEROES_UNMAP, /* the same with BLOCK_UNMAP */
};

struct zeroes_options {
    enum zeroes_detect detect;
    bool keep_space; /* no discard, no BLOCK_UNMAP */
};

/* In front of a node, which it takes, on failure too; the same node where there is nothing to do.
 */
int zeroes_open(struct block_node *take_child, const struct zeroes_options *options,
                struct block_node **out, struct err *err);

#endif
