/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Locks on ranges of a disk, shared or exclusive, granted in the order in which they are asked for.
 * A thread asks while it has none, so nobody waits in a circle.
 */
#ifndef BLOCK_RANGES_H
#define BLOCK_RANGES_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct range { /* on the stack of who holds it */
    uint64_t start, end;
    bool exclusive;
    struct range *next, **prev;
};

struct ranges {
    pthread_mutex_t lock;
    pthread_cond_t freed;
    struct range *first, **last; /* lock */
    uint64_t unit;               /* a power of two: what locks are rounded to; fixed */
};

void ranges_init(struct ranges *ranges, uint64_t unit);
void ranges_fini(struct ranges *ranges);
void ranges_take(struct ranges *ranges, struct range *range, uint64_t offset, uint64_t len,
                 bool exclusive);
void ranges_drop(struct ranges *ranges, struct range *range);

#endif
