/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Lock-free readers of a pointer that changes: a small read-copy-update.
 *
 * A reader enters, loads the pointer, looks at what it points to, and leaves; it never waits. A
 * writer publishes a new object and retires the old one, which is freed when every reader that may
 * have seen it has left: at a later change (gate_retire never waits) or in gate_wait.
 *
 *  1. A reader counts itself in one slot under the current parity before it loads the pointer.
 *  2. Once each slot has been seen at zero, under both parities, after an object was unpublished,
 * no reader holds that object: all counting and publishing is sequentially consistent.
 *  3. The parity flips at each look, so readers that keep coming cannot hold up the ones being
 * waited for.
 */
#ifndef MACHINE_GATE_H
#define MACHINE_GATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

enum { GATE_SLOTS = 16 };

struct gate_retired;

struct gate {
    struct {
        _Alignas(64) _Atomic unsigned readers[2];
    } slots[GATE_SLOTS];
    _Atomic unsigned parity;
    pthread_mutex_t lock;
    struct gate_retired *retired; /* lock */
};

void gate_init(struct gate *g);
void gate_fini(struct gate *g); /* without readers; frees what was retired */

/* Any thread; sections may nest. The token goes to gate_leave of the same thread. */
unsigned gate_enter(struct gate *g);
void gate_leave(struct gate *g, unsigned token);

/* Frees `object` (malloc'ed, unpublished already, NULL is fine) when nobody can see it any more. */
void gate_retire(struct gate *g, void *object);
/* Returns when every reader that entered before this call has left. Not from inside the gate. */
void gate_wait(struct gate *g);

#endif
