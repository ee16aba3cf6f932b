/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The device interface: one const table per model, one embedded struct per instance.
 *
 * Register handlers run on vCPU threads (any of them). A type with DEVICE_LOCKED gets dev->lock
 * around read and write; they must not block, wait for another thread, or touch guest memory: they
 * post such work to a loop. Guests write anything at any time: ignore what hardware ignores, read
 * unknown registers as zero or all ones, never fail.
 */
#ifndef MACHINE_DEVICE_H
#define MACHINE_DEVICE_H

#include "base/cleanup.h"
#include "base/err.h"
#include "machine/state.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct machine;
struct device;

enum device_threads {
    DEVICE_LOCKED,   /* the bus takes dev->lock around read and write */
    DEVICE_PARALLEL, /* the device synchronises for itself */
};

struct device_type {
    const char *name, *about;
    enum device_threads threads;
    void (*destroy)(struct device *dev); /* frees; calls device_fini. Machine is stopped */
    /* offset inside the region; size 1, 2, 4 or 8; NULL: reads all ones, writes vanish */
    uint64_t (*read)(struct device *dev, unsigned region, uint64_t offset, unsigned size);
    void (*write)(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                  uint64_t value);
    /* Back to power-on state. vCPUs are stopped, called on the main loop. NULL: nothing to do */
    void (*reset)(struct device *dev);
    /* Stop producing (I/O, interrupts, guest memory access) until resume; what arrives is kept.
     * Main loop. After pause returns the state tables are complete: requests in flight are finished
     * or listed. NULL: nothing to do */
    void (*pause)(struct device *dev);
    void (*resume)(struct device *dev);
    /* Decoded state was installed: re-derive the rest (irq levels, timers, mappings). Clock is
     * stopped. NULL: nothing */
    int (*loaded)(struct device *dev, struct err *err);
    const struct state_desc *state; /* NULL: the device has no state */
    /* The profiles had it not from their first day: a saved state without it is an older one, and
     * the device stays as after power-on. */
    bool late;
};

struct device {
    const struct device_type *type; /* fixed at create */
    struct machine *machine;        /* fixed at create */
    pthread_mutex_t lock;
    struct device *next; /* machine's list; main loop */
    char id[32];         /* unique in the machine, in state files too: "serial0", "disk0" */
};

/* In place. The device joins the machine with machine_add_device() once it is whole. */
void device_init(struct device *dev, struct machine *m, const struct device_type *type,
                 const char *id);
void device_fini(struct device *dev);
static inline void device_destroy(struct device *dev)
{
    if (dev)
        dev->type->destroy(dev);
}
DEFINE_AUTO(struct device *, device_destroy)

/* Access with the locking that the type asks for. */
uint64_t device_read(struct device *dev, unsigned region, uint64_t offset, unsigned size);
void device_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                  uint64_t value);

#endif
