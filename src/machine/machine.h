/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A machine: memory, buses, interrupts, clock, devices, vCPUs and the engine that runs them.
 *
 * Lifecycle (main loop's thread only, unless a function says otherwise):
 *
 *   CREATED --start--> RUNNING <--pause/resume--> PAUSED      any --stop--> STOPPED --> destroy
 *
 * vCPUs stop first, then devices, then the clock; resume goes the other way round. State is read
 * and written only in CREATED and PAUSED. What happens on other threads (a guest that powers off, a
 * vCPU that cannot go on) is posted to the loop and ends in `on_event`.
 */
#ifndef MACHINE_MACHINE_H
#define MACHINE_MACHINE_H

#include "base/err.h"
#include "base/loop.h"
#include "machine/clock.h"
#include "machine/device.h"
#include "machine/engine.h"
#include "machine/irq.h"
#include "machine/memory.h"

#include <stdbool.h>
#include <stdint.h>

enum machine_state { MACHINE_CREATED, MACHINE_RUNNING, MACHINE_PAUSED, MACHINE_STOPPED };

enum machine_event {
    MACHINE_POWEROFF,      /* the guest powered off */
    MACHINE_RESET,         /* the guest asked for a reset; `detail`: by which means */
    MACHINE_TRIPLE_FAULT,  /* a vCPU shut down */
    MACHINE_ENGINE_FAILED, /* detail: why */
    MACHINE_DISK_FULL,     /* detail: which disk; sent by a disk with on-full=pause */
    MACHINE_DISK_ERROR,    /* the same with on-error=pause */
    MACHINE_PANICKED,      /* the guest said so */
    MACHINE_WATCHDOG,      /* a watchdog fired; detail: which */
    MACHINE_DEBUG,         /* a vCPU hit the host's debugger: vcpu index in `vcpu` */
};

struct machine_config {
    const struct engine_type *engine; /* NULL: no vCPUs, it cannot start (tests of devices) */
    struct engine_config engine_config;
    unsigned cpus;     /* 1..255; apic_id = index */
    uint64_t memory;   /* bytes of ram "main" */
    struct loop *loop; /* the main loop, borrowed */
    /* Main loop. The vCPUs may still be running: the handler pauses, resets or stops as the user
     * asked. */
    void (*on_event)(void *arg, enum machine_event event, unsigned vcpu, const char *detail);
    void (*on_vcpu_thread)(void); /* first on each of them; NULL: nothing */
    void *arg;
};

struct machine {
    struct loop *loop;     /* borrowed; fixed at create */
    struct loop *io_loop;  /* owned; runs on thread io/0: virtqueues and images */
    struct engine *engine; /* owned; fixed at create */
    struct ram *main_ram;  /* owned */
    struct ram *rams[16];  /* main_ram first; main loop, fixed once running */
    unsigned ram_count;
    struct vcpu *vcpus[255]; /* owned; fixed at create */
    unsigned cpus;
    struct device *devices;    /* owned; in the order of adding; main loop */
    _Atomic int state;         /* enum machine_state; written on the main loop */
    uint64_t tsc_khz;          /* fixed at create (restore sets it before vCPUs exist) */
    struct machine_priv *priv; /* the address map, irq lines, clock, threads: machine's own files */
};

int machine_create(const struct machine_config *config, struct machine **out, struct err *err);
/* Stops first if need be; destroys devices in reverse order. */
void machine_destroy(struct machine *m);
DEFINE_AUTO(struct machine *, machine_destroy)

/* The loop of the thread io/NAME, which is made if there is none; "0" is io_loop. For devices that
 * shall not wait for others'. Main loop, before the process is locked down. */
int machine_io_loop(struct machine *m, const char *name, struct loop **out, struct err *err);
/* Runs fn on each of these threads and waits. Main loop. */
void machine_io_each(struct machine *m, void (*fn)(void *arg), void *arg);

int machine_add_ram(struct machine *m, struct ram *take_ram, struct err *err);
void machine_add_device(struct machine *m, struct device *take_dev);
/* Takes it out again: the caller owns it. While the machine does not run. */
void machine_remove_device(struct machine *m, struct device *dev);
struct device *machine_find_device(struct machine *m, const char *id);

/* Creates the vCPU threads "vcpu/N". If it cannot, it posts MACHINE_ENGINE_FAILED and the machine
 * stays as it was. */
void machine_start(struct machine *m);
void machine_pause(struct machine *m); /* returns when everything is still */
void machine_resume(struct machine *m);
void machine_stop(struct machine *m);
/* Resets every device and vCPU; from RUNNING it pauses, resets and resumes. `prepare` (board: load
 * the kernel again) is called in between; set once by the board. */
void machine_reset_now(struct machine *m);
void machine_set_reset_hook(struct machine *m, void (*prepare)(void *arg), void *arg);

/* Any thread, device locks may be held: posts the event to the main loop and returns. detail is
 * copied; NULL is fine. After machine_destroy nothing arrives. A second MACHINE_RESET or
 * MACHINE_POWEROFF before the machine next starts or resumes is dropped. */
void machine_post_event(struct machine *m, enum machine_event event, const char *detail);

/* For the debugger, while not RUNNING: a held vCPU stays out when the machine runs, until it is let
 * go. */
void machine_hold_vcpu(struct machine *m, unsigned index, bool hold);

const char *machine_state_name(enum machine_state state);

#endif
