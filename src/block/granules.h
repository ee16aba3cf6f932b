/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A set of the granules of a disk: those still to be copied, or written since some moment. Any
 * thread.
 */
#ifndef BLOCK_GRANULES_H
#define BLOCK_GRANULES_H

#include "base/err.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct granules {
    uint64_t size; /* of the disk; fixed */
    uint64_t unit; /* a power of two; fixed */
    pthread_mutex_t lock;
    uint64_t *words;         /* lock */
    uint64_t count, members; /* lock */
    uint64_t next;           /* lock; where granules_next goes on */
};

/* Empty. The unit is doubled until the set fits into 16 MiB. */
int granules_init(struct granules *set, uint64_t size, uint64_t unit, struct err *err);
void granules_fini(struct granules *set);
/* All that the range touches. */
void granules_add(struct granules *set, uint64_t offset, uint64_t len);
/* Only those that lie wholly within it. */
void granules_remove(struct granules *set, uint64_t offset, uint64_t len);
bool granules_any(struct granules *set, uint64_t offset, uint64_t len);
/* Bytes in the set. */
uint64_t granules_bytes(struct granules *set);
/* A run of members of at most `most` bytes, going round. False: the set is empty. */
bool granules_next(struct granules *set, uint64_t most, uint64_t *offset, uint64_t *len);

/* Calls for each run of members, with the lock. */
void granules_each(struct granules *set, void (*fn)(void *arg, uint64_t offset, uint64_t len),
                   void *arg);

#endif
