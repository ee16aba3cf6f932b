/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a job was, for after its process died: a dirty bitmap in the image on top, named
 * "bedplate-job KIND PATH", that has what is still to be copied and, because it records, what was
 * written since. Only qcow2 (version 3) has bitmaps; a job that goes on without one compares all
 * that it would copy, and copies what differs.
 *
 * On the job's thread. What takes a struct chain's images is for while it is held.
 */
#ifndef BLOCK_JOURNAL_H
#define BLOCK_JOURNAL_H

#include "block/chain.h"
#include "block/granules.h"

struct journal {
    struct chain *chain;
    struct image *top;    /* that keeps it; NULL: nobody */
    struct image *target; /* what must be durable before something is struck off */
    char name[1000];
    uint64_t due_ns;
};

/* Held. `kind` tells jobs apart that may have the same target. */
void journal_init(struct journal *j, struct chain *chain, const char *kind, struct image *target);
/* Held: is there one that is complete? */
bool journal_found(const struct journal *j);
/* Held, where one was found: adds what is still to be done. 0 or -errno. */
int journal_load(const struct journal *j, struct granules *todo, struct err *err);
/* Held. From now on what is in `todo`, or `also` (which may be NULL), would be done again. Journals
 * of other jobs end. */
void journal_start(struct journal *j, struct granules *todo, struct granules *also);
/* Now and then: holds the chain, and strikes off what is no longer in either. */
void journal_point(struct journal *j, struct granules *todo, struct granules *also);
/* Held: the job is over. */
void journal_end(struct journal *j);

/* Held: a job begins that keeps none, so no other can go on where it was. */
void journal_clear(struct chain *chain);

#endif
