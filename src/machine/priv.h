/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of this room share about a machine and nobody else sees.
 *
 * Each part has an init and a fini for its own file; machine.c calls them. Locks nest in this
 * order: device, irq, (PIC, IOAPIC, engine); the others here are leaves and are never held while
 * calling out.
 */
#ifndef MACHINE_PRIV_H
#define MACHINE_PRIV_H

#include "machine/gate.h"
#include "machine/machine.h"

#include <pthread.h>

struct view; /* map.c: one flattened space */
struct doorbells;

struct address_map {
    pthread_mutex_t lock;
    struct mapping *mappings; /* lock */
    _Atomic(struct view *) views[SPACE_COUNT];
    struct gate readers; /* of views */
    _Atomic(struct doorbells *) doorbells;
    struct gate ringers; /* readers of doorbells */
};
void map_init(struct machine *m);
void map_fini(struct machine *m);
/* bus.c: the doorbells */
void doorbells_init(struct machine *m);
void doorbells_fini(struct machine *m);

/* ram.c: whole pages become holes of the backing file. The mapping stays, so whoever has addresses
 * of it (vCPUs, leases) meets zeros and no fault. The caller holds a write lease (dma_discard). */
bool ram_discard(struct ram *ram, uint64_t offset, uint64_t len);

struct dma_leases {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned open, freezers; /* lock */
    struct dma *writers;     /* lock */
};
void dma_init(struct machine *m);
void dma_fini(struct machine *m);
/* Sets the bits of the pages of `ram` that open leases may be writing. */
void dma_mark_open(struct machine *m, const struct ram *ram, uint64_t *bitmap);

struct dirty_log {
    pthread_mutex_t lock; /* one fetch, start or stop at a time */
    struct gate writers;  /* host copies into guest memory, up to their mark */
    bool on;              /* lock */
};
void dirty_init(struct machine *m);
void dirty_fini(struct machine *m);

struct irq_lines {
    pthread_mutex_t lock;
    unsigned raised[GSI_COUNT]; /* lock: how many pins of the GSI are high */
    struct irq_chip *chips;     /* changed under lock, before and after the vCPUs' time */
    uint8_t route[GSI_COUNT];   /* the line that also follows this one; 0: none */
};
void irq_init(struct machine *m);
void irq_fini(struct machine *m);

struct guest_clock {
    _Atomic int64_t offset;   /* guest time - CLOCK_MONOTONIC; CLOCK_STOPPED while it stands */
    _Atomic uint64_t stopped; /* guest time while it stands */
    _Atomic uint64_t epoch_ns;
    pthread_mutex_t lock;
    pthread_cond_t changed, idle;
    struct guest_timer *timers;  /* lock: armed, earliest first */
    struct guest_timer *running; /* lock: its fn is being called */
    bool quit;                   /* lock */
    bool thread_made;            /* fixed at create */
    pthread_t thread;
};
int clock_init(struct machine *m, struct err *err);
void clock_fini(struct machine *m);

enum vcpu_place {
    VCPU_OUT,    /* waits for the machine to run */
    VCPU_IN,     /* in the engine, or about to be */
    VCPU_PARKED, /* stays out until the next resume: shut down, failed, or stopped for the debugger
                  */
};
struct vcpu_thread {
    struct machine *m;
    unsigned index;
    pthread_t thread;
    bool made;             /* main loop */
    bool held;             /* run_lock */
    enum vcpu_place place; /* run_lock */
};

/* Outlives the machine as long as posts are under way. */
struct event_box {
    _Atomic unsigned refs;
    struct machine *machine; /* main loop; NULL once destroyed */
};

enum { IO_THREADS_MAX = 64 };

struct machine_priv {
    struct machine_config config; /* fixed at create; engine_config's strings are not kept */
    struct address_map map;
    struct dma_leases dma;
    struct dirty_log dirty;
    struct irq_lines irq;
    struct guest_clock clock;

    struct io_thread {
        char name[12];
        struct loop *loop; /* owned */
        pthread_t thread;
    } io[IO_THREADS_MAX]; /* main loop; io[0] is machine->io_loop's */
    unsigned io_count;

    pthread_mutex_t run_lock;
    pthread_cond_t run_changed;   /* to vCPU threads: run, quit */
    pthread_cond_t place_changed; /* from vCPU threads */
    bool run, quit;               /* run_lock */
    struct vcpu_thread threads[255];
    struct event_box *events; /* a reference */
    _Atomic unsigned
        asked; /* resets and power-offs posted since the machine last went: 1 << event */
    void (*reset_prepare)(void *arg);
    void *reset_arg;
};

/* machine.c: a thread with a name and all signals blocked (those that a fault raises aside). */
int thread_start(const char *name, void *(*fn)(void *arg), void *arg, pthread_t *out);
/* copy.c: installs the fault handler, unless it is the current one. */
void copy_init(void);

/* Orders a store before a later load, which x86 alone does not. */
static inline void store_load_fence(void)
{
#ifdef __x86_64__
    __asm__ volatile("lock; orl $0, (%%rsp)" ::: "memory", "cc"); /* TSan knows no fences */
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

#endif
