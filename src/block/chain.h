/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The chain of images behind a disk, and what may change it while the disk is in use.
 *
 * Requests go to `view`: the top image itself, or a tap over it (tap.h) while a job has to see
 * them. All three and the links between images change only while the chain is held: then
 * nothing is in flight and what comes waits. Who offers a chain fills the functions; without them
 * (the image tool, tests) nobody else uses the images.
 *
 * One job at a time works on a chain, and it alone holds it.
 */
#ifndef BLOCK_CHAIN_H
#define BLOCK_CHAIN_H

#include "block/image.h"

struct chain {
    struct image *top;      /* owned */
    struct image *view;     /* top, or borrowed */
    struct image *rest;     /* the view while no job has one; NULL: top */
    uint64_t save_every_ms; /* how often a job saves where it is (journal.h); 0: 5 s */
    /* Returns with nothing in flight. Not on a loop's thread. */
    void (*hold)(struct chain *chain);
    void (*release)(struct chain *chain);
    /* Held: `top` or its size is another now. */
    void (*changed)(struct chain *chain);
};

static inline void chain_hold(struct chain *chain)
{
    if (chain->hold)
        chain->hold(chain);
}

static inline void chain_release(struct chain *chain)
{
    if (chain->release)
        chain->release(chain);
}

/* Held: back to what it is without a job. */
void chain_unset_view(struct chain *chain);
/* Held: makes `new` the top; the old one is the caller's again, unless `new` has it below. */
void chain_set_top(struct chain *chain, struct image *take_new);
/* Held: the top has another size now. */
void chain_resized(struct chain *chain);

/* How many layers lie above `layer`, which is in the chain; -1: it is not. */
int chain_depth(const struct chain *chain, const struct image *layer);
/* The layer with that path, or that recorded name, below the top; NULL: there is none. */
struct image *chain_find(const struct chain *chain, const char *name);
/* How an image at `path` has to record the one at `of`: the caller frees. NULL with a sentence
 * where that cannot be known. */
char *chain_name_for(const char *path, const char *of, struct err *err);

/* Held: records `base` (NULL: none), which is below `above`, as the next below it; the layers
 * between are the caller's then (NULL: there are none). */
int chain_skip(struct image *above, struct image *base, struct image **gone, struct err *err);

/* The chain of a disk that was opened with block_options.live; NULL: it has none. */
struct chain *block_chain(struct block_node *node);

#endif
