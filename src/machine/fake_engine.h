/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An engine for unit tests: its vCPUs run a C function as their guest, and it remembers what it was
 * told.
 *
 * Link machine_test_dep. Fields are read and written under `lock` once the machine runs.
 */
#ifndef MACHINE_FAKE_ENGINE_H
#define MACHINE_FAKE_ENGINE_H

#include "machine/machine.h"

#include <pthread.h>

struct fake_engine {
    struct engine engine;
    pthread_mutex_t lock;
    pthread_cond_t changed;

    /* One step of the guest, called over and over until a kick; sets *exit and returns true to
     * leave. NULL: the vCPU idles. Fixed before the machine starts. */
    bool (*guest)(void *arg, unsigned index, enum vcpu_exit *exit);
    void *arg;
    bool inside[255]; /* vCPU is in run */
    unsigned entries, resets;

    unsigned msis, map_changes, invalidations, syncs, clock_changes;
    uint64_t msi_address;
    uint32_t msi_data;
    bool extint, clock_running, logging;
    struct ram *invalid_ram;
    uint64_t invalid_offset, invalid_len;
    struct ram *sync_ram; /* if set: the engine's own log holds page sync_page of it */
    uint64_t sync_page;
    unsigned nmis;
    int doorbell_result; /* what `doorbell` answers */
    unsigned doorbells;  /* how many are placed */
};

extern const struct engine_type fake_engine_type;

/* A machine on a main loop of its own. Fails the test when it cannot. */
struct machine *fake_machine_create(uint64_t memory, unsigned cpus,
                                    void (*on_event)(void *arg, enum machine_event event,
                                                     unsigned vcpu, const char *detail),
                                    void *arg);
void fake_machine_destroy(struct machine *m);
static inline struct fake_engine *fake_engine(struct machine *m)
{
    return (struct fake_engine *)m->engine;
}
/* Runs the main loop once through what is posted. */
void fake_machine_settle(struct machine *m);

#endif
