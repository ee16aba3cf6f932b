/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Readers counted in slots by thread, retired objects freed once both parities were seen empty. */
#include "machine/gate.h"

#include "base/cleanup.h"

#include <assert.h>
#include <sched.h>

struct gate_retired {
    struct gate_retired *next;
    void *object;
    bool drained[2]; /* seen without readers since it was retired */
};

static _Atomic unsigned threads_seen;
static _Thread_local unsigned thread_slot; /* + 1; 0: none yet */

void gate_init(struct gate *g)
{
    for (unsigned i = 0; i < GATE_SLOTS; i++) {
        atomic_init(&g->slots[i].readers[0], 0);
        atomic_init(&g->slots[i].readers[1], 0);
    }
    atomic_init(&g->parity, 0);
    pthread_mutex_init(&g->lock, NULL);
    g->retired = NULL;
}

unsigned gate_enter(struct gate *g)
{
    if (!thread_slot)
        thread_slot = atomic_fetch_add(&threads_seen, 1) % GATE_SLOTS + 1;
    unsigned parity = g->parity & 1;
    atomic_fetch_add(&g->slots[thread_slot - 1].readers[parity], 1); /* 1 */
    return parity;
}

void gate_leave(struct gate *g, unsigned token)
{
    atomic_fetch_sub(&g->slots[thread_slot - 1].readers[token], 1);
}

static bool gate_drained(const struct gate *g, unsigned parity)
{
    for (unsigned i = 0; i < GATE_SLOTS; i++)
        if (g->slots[i].readers[parity])
            return false;
    return true;
}

/* Notes which parities are empty now and frees what has seen both (2). Under the lock. */
static void gate_reclaim(struct gate *g)
{
    bool drained[2] = { gate_drained(g, 0), gate_drained(g, 1) };
    struct gate_retired **at = &g->retired;
    while (*at) {
        struct gate_retired *r = *at;
        r->drained[0] |= drained[0];
        r->drained[1] |= drained[1];
        if (r->drained[0] && r->drained[1]) {
            *at = r->next;
            free(r->object);
            free(r);
        } else {
            at = &r->next;
        }
    }
    atomic_fetch_xor(&g->parity, 1); /* 3 */
}

void gate_retire(struct gate *g, void *object)
{
    if (!object)
        return;
    struct gate_retired *r = malloc(sizeof *r);
    if (!r)
        abort();
    LOCKED(&g->lock);
    *r = (struct gate_retired){ .next = g->retired, .object = object };
    g->retired = r;
    gate_reclaim(g);
}

void gate_wait(struct gate *g)
{
    LOCKED(&g->lock);
    for (unsigned i = 0; i < 2; i++) {
        unsigned old = atomic_fetch_xor(&g->parity, 1) & 1;
        while (!gate_drained(g, old))
            sched_yield();
    }
    gate_reclaim(g);
}

void gate_fini(struct gate *g)
{
    assert(gate_drained(g, 0) && gate_drained(g, 1));
    gate_reclaim(g);
    assert(!g->retired);
    pthread_mutex_destroy(&g->lock);
}
