/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine interface: a way to run vCPUs. Engines never know devices; devices never know engines.
 *
 * A safe point is an instruction boundary at which the vCPU's architectural state is whole and it
 * touches no guest memory. A vCPU that is not inside run() is at one. Engines call
 * bus_read/bus_write, irq_eoi, extint_ack and the clock of `machine` themselves; run() returns only
 * for the reasons of enum vcpu_exit.
 */
#ifndef MACHINE_ENGINE_H
#define MACHINE_ENGINE_H

#include "base/err.h"
#include "machine/memory.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct machine;
struct engine;
struct vcpu;
struct arch_state; /* engine/x86.h */
struct cpu_model;  /* engine/x86.h */

enum vcpu_exit {
    VCPU_STOPPED,  /* vcpu_kick was called (also: before run was entered) */
    VCPU_SHUTDOWN, /* triple fault */
    VCPU_DEBUG,    /* breakpoint, watchpoint or step of the host's debugger; see debug_hit */
    VCPU_ERROR,    /* the engine cannot go on; sentence in err of run */
};

struct engine_config {
    unsigned max_vcpus;
    const struct cpu_model *model;
    const char *options; /* what followed the engine's name and a comma, or NULL */
    uint64_t tsc_khz;    /* 0: the engine's choice, which it writes to machine->tsc_khz */
    uint64_t memory;     /* the guest's, in bytes; machine_create sets it */
};

enum { DEBUG_EXEC = 0, DEBUG_WRITE = 1, DEBUG_ACCESS = 3 }; /* as in DR7 */
struct debug_point {
    uint64_t gva;
    uint8_t kind;
    uint8_t len;
};
struct debug_hit {
    bool step;
    int point;
    uint64_t gva;
}; /* point: index, -1 for none */

/* Embedded first in each engine's own struct. */
struct engine {
    const struct engine_type *type;
    struct machine *machine;
};
struct vcpu {
    struct engine *engine;
    unsigned index; /* position in machine->vcpus */
    uint32_t apic_id;
    struct debug_hit debug_hit; /* valid after VCPU_DEBUG */
};

struct engine_type {
    const char *name, *about;
    /* 0, or -errno and why this engine cannot (well) run guests here. *slow: works, but kernel code
     * is emulated. */
    int (*probe)(bool *slow, struct err *err);
    /* The address map may be empty still; map_changed follows. */
    int (*create)(struct machine *m, const struct engine_config *config, struct engine **out,
                  struct err *err);
    void (*destroy)(struct engine *e); /* after its vCPUs */

    /* Main thread, before the machine runs. The vCPU is in its power-on state: apic_id 0 at the
     * reset vector, others wait for INIT/SIPI. The vCPU threads call run. */
    int (*vcpu_create)(struct engine *e, unsigned index, uint32_t apic_id, struct vcpu **out,
                       struct err *err);
    void (*vcpu_destroy)(struct vcpu *v);
    void (*vcpu_reset)(struct vcpu *v); /* not running */

    /* On the vCPU's own thread. Includes waiting in HLT. */
    enum vcpu_exit (*run)(struct vcpu *v, struct err *err);
    /* Any thread: run returns VCPU_STOPPED soon, or at its next entry if it is not inside (sticky
     * until then). */
    void (*kick)(struct vcpu *v);
    /* Runs fn(arg) on the caller's thread while every other vCPU is at a safe point and stays
     * there. Any thread, vCPU threads inside a bus access included; concurrent calls queue up (a
     * vCPU that waits counts as being at a safe point). */
    void (*rendezvous)(struct engine *e, void (*fn)(void *arg), void *arg);

    /* vCPU not running. set_state refuses (with a sentence) what the CPU model cannot hold. */
    int (*get_state)(struct vcpu *v, struct arch_state *out, struct err *err);
    int (*set_state)(struct vcpu *v, const struct arch_state *state, struct err *err);

    /* The address map has a new view: forget cached translations, rebuild slots. Any thread (a vCPU
     * writing a BAR, too), with device locks held, so it may not wait for vCPUs; calls may overlap,
     * the latest view counts. RAM is never unmapped from the host, so a vCPU may use an old view
     * until its next instruction. */
    void (*map_changed)(struct engine *e);
    /* Guest memory was written behind the engine's back: drop code held of it. Any thread, vCPUs
     * may run. */
    void (*invalidate)(struct engine *e, struct ram *ram, uint64_t offset, uint64_t len);

    /* on: from now on every guest write marks its page (RAM_PAGE_DIRTY in page_flags, or in a log
     * of the engine's own). */
    int (*dirty_log)(struct engine *e, bool on, struct err *err);
    /* Called by dirty_log_fetch_clear after it took and cleared page_flags: adds what the engine's
     * own log holds to `bitmap`, re-arms write detection, returns when every vCPU has passed a safe
     * point since. NULL: page_flags say all and vCPUs never write a page whose flag is clear
     * without setting it. */
    void (*dirty_sync)(struct engine *e, struct ram *ram, uint64_t *bitmap);

    /* Interrupts; any thread. */
    void (*msi)(struct engine *e, uint64_t address, uint32_t data);
    void (*extint)(struct engine *e, bool level);
    void (*nmi)(struct vcpu *v);
    /* Which GSI routes want EOI reports; NULL when the engine reports all level-triggered ones
     * itself. */
    void (*eoi_watch)(struct engine *e, unsigned gsi, uint64_t msi_address, uint32_t msi_data,
                      bool level, bool masked);

    /* Doorbells the engine may serve itself (ioeventfd); NULL: the bus does. -errno: the bus does
     * this one. */
    int (*doorbell)(struct engine *e, enum space space, uint64_t addr, unsigned size, int eventfd,
                    bool add);

    /* The clock was started, stopped or set: KVM moves its TSC offsets. NULL: the engine reads
     * `clock` itself. */
    void (*clock_changed)(struct engine *e, bool running);

    /* Debugger; vCPU not running. count may be 0. `step`: run returns VCPU_DEBUG after one
     * instruction. */
    int (*debug)(struct vcpu *v, const struct debug_point *points, unsigned count, bool step,
                 struct err *err);
    /* gva -> gpa by the vCPU's current paging, without side effects; -EFAULT when unmapped. vCPU
     * not running. */
    int (*translate)(struct vcpu *v, uint64_t gva, uint64_t *gpa);

    /* Adds the engine's counters; any thread. May be NULL. */
    void (*counters)(struct engine *e, void (*add)(void *arg, const char *name, uint64_t value),
                     void *arg);
    /* What the process's sandbox must still allow on vCPU threads is in vmm/sandbox.c, by engine
     * name. */
};

extern const struct engine_type
    *const engine_types[]; /* NULL-terminated: kvm, soft; defined in vmm/engines.c */

#endif
