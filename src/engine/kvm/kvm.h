/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of the KVM engine share. engine.c: probing, creation, the run loop, kicks and the
 * table; slots.c: memory slots and the dirty log; state.c: the architectural state; irq.c:
 * messages, EOI routes, ExtINT, NMI; time.c: TSC, kvmclock and APIC timers while the guest clock
 * stands; cpuid.c: CPU models; debug.c: breakpoints and translation.
 *
 *  1. A vCPU's ioctls are issued by its own thread inside run(), or by anyone while it is outside.
 *  2. Whoever wants a vCPU out of the guest first sets what it wants, then run->immediate_exit,
 * then signals. The vCPU clears immediate_exit first and looks for wishes then: none is lost.
 *  3. A vCPU that leaves run() or waits for a rendezvous has finished its pending I/O, so its state
 *     is whole.
 *  4. While the guest clock stands, the APIC timers of KVM are off and the truth is in `timer`.
 */
#ifndef ENGINE_KVM_KVM_H
#define ENGINE_KVM_KVM_H

#include "base/checked.h"
#include "engine/kvm/engine.h"
#include "engine/x86.h"
#include "machine/machine.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>

enum { KVM_ROUTES = GSI_COUNT, KVM_SLOTS_MAX = 509, KVM_RING_ENTRIES = 4096, KVM_DEBUG_MAX = 4 };

struct kvm_slot {
    uint64_t gpa, size;
    struct ram *ram; /* NULL: the slot is free */
    uint64_t ram_offset;
    bool readonly;
};

/* What belongs to guest time; while the clock runs, KVM has it (4). */
struct kvm_timer {
    int64_t tsc_offset; /* to the machine's TSC */
    uint64_t tsc_deadline;
    uint64_t deadline_ns; /* guest time of the next expiry of a counting timer; 0: none */
    uint32_t initial;
};

struct kvm_vcpu {
    struct vcpu vcpu;
    int fd;
    struct kvm_run *run;
    struct kvm_dirty_gfn *ring; /* NULL: no dirty rings */
    uint32_t ring_next;         /* slots_lock */
    pthread_t thread;           /* place_lock; valid while entered */
    bool entered;               /* place_lock: inside run() */
    bool safe;                  /* place_lock: outside run(), or waiting for a rendezvous */
    _Atomic bool kicked, nmi_wanted;
    bool io_pending;   /* an exit that KVM finishes at the next entry; the vCPU's */
    int extint_vector; /* handed to KVM, perhaps not delivered yet; -1: none; the vCPU's */
    uint64_t extint_rip;
    struct kvm_timer timer; /* guest clock stands */
    struct {                /* the APIC timer as of the last exit from run(); the vCPU's */
        bool valid;
        struct kvm_timer timer;
    } left;
    struct debug_point points[KVM_DEBUG_MAX]; /* outside run(), like point_count */
    unsigned point_count;
    struct {
        _Atomic uint64_t exits, io, mmio, eoi, windows, signals, ring_full;
    } count;
};

struct kvm_engine {
    struct engine engine;
    const struct cpu_model *model; /* fixed at create, like all up to `place_lock` */
    unsigned max_vcpus;
    int fd; /* the VM */
    size_t run_size, xsave_size;
    bool has_ring, any_length_doorbell, host_avx;
    struct cpuid_entry host_cpuid[CPUID_MAX]; /* of model `host` */
    unsigned host_cpuid_count;
    struct cpu_model host_model; /* `host` with these entries */
    struct kvm_vcpu *vcpus[255]; /* fixed before the machine runs */
    unsigned vcpu_count;

    pthread_mutex_t place_lock;
    pthread_cond_t place_changed;
    _Atomic bool gathering; /* place_lock to write: a rendezvous is under way */

    pthread_mutex_t slots_lock;
    struct kvm_slot slots[KVM_SLOTS_MAX]; /* slots_lock */
    unsigned slots_max;                   /* fixed at create */
    bool logging;                         /* slots_lock */
    _Atomic uint64_t slots_generation;    /* slots_lock to write; odd: being changed */

    pthread_mutex_t route_lock;
    struct {
        bool used;
        uint64_t address;
        uint32_t data;
    } routes[KVM_ROUTES]; /* route_lock */
    _Atomic bool extint;
    bool clock_running;        /* main thread, while no vCPU runs; like kvmclock_stopped */
    uint64_t kvmclock_stopped; /* what kvmclock showed when the clock stopped */
};

static inline struct kvm_engine *kvm_engine_of(struct engine *e) { return (struct kvm_engine *)e; }
static inline struct kvm_vcpu *kvm_vcpu_of(struct vcpu *v) { return (struct kvm_vcpu *)v; }
static inline struct kvm_engine *kvm_engine_of_vcpu(const struct kvm_vcpu *v)
{
    return (struct kvm_engine *)v->vcpu.engine;
}

/* engine.c */
void vcpu_poke(struct kvm_vcpu *v); /* makes a running vCPU look for wishes; set them first (2) */
void kvm_rendezvous(struct engine *e, void (*fn)(void *arg), void *arg);

/* slots.c */
void slots_init(struct kvm_engine *e);
void slots_fini(struct kvm_engine *e);
void slots_changed(struct engine *e);
int slots_dirty_log(struct engine *e, bool on, struct err *err);
void slots_dirty_sync(struct engine *e, struct ram *ram, uint64_t *bitmap);
void slots_ring_full(struct kvm_engine *e);
int ring_map(struct kvm_engine *e, struct kvm_vcpu *v, struct err *err);
void ring_unmap(struct kvm_vcpu *v);
int slots_doorbell(struct engine *e, enum space space, uint64_t addr, unsigned size, int eventfd,
                   bool add);

/* state.c */
int state_get(struct vcpu *vcpu, struct arch_state *out, struct err *err);
int state_set(struct vcpu *vcpu, const struct arch_state *state, struct err *err);
int msr_get(struct kvm_vcpu *v, uint32_t index, uint64_t *out);
int msr_set(struct kvm_vcpu *v, uint32_t index, uint64_t value);

/* irq.c */
int irqs_create(struct kvm_engine *e, struct err *err);
void irqs_msi(struct engine *e, uint64_t address, uint32_t data);
void irqs_eoi_watch(struct engine *e, unsigned gsi, uint64_t msi_address, uint32_t msi_data,
                    bool level, bool masked);
void irqs_extint(struct engine *e, bool level);
void irqs_nmi(struct vcpu *v);
int irqs_nmi_flush(struct kvm_vcpu *v); /* hands a wanted NMI to KVM; the vCPU's thread */
void irqs_before_run(struct kvm_vcpu *v);

/* time.c */
int time_create(struct kvm_engine *e, struct err *err);
int time_vcpu_create(struct kvm_vcpu *v, struct err *err);
void time_clock_changed(struct engine *e, bool running);
void time_left(struct kvm_vcpu *v); /* the vCPU's thread leaves run() */
struct kvm_timer time_read(struct kvm_vcpu *v, const struct kvm_lapic_state *page);
/* Puts the timer into an APIC page that is about to be set, or stops it there (running = false). */
void time_fill_page(struct kvm_engine *e, const struct kvm_timer *t, struct kvm_lapic_state *page);
int time_write(struct kvm_vcpu *v, const struct kvm_timer *t);

/* cpuid.c */
int cpuid_create(struct kvm_engine *e, int kvm_fd, struct err *err);
int cpuid_vcpu_create(struct kvm_vcpu *v, struct err *err);

/* debug.c */
int debug_set(struct vcpu *v, const struct debug_point *points, unsigned count, bool step,
              struct err *err);
void debug_exit(struct kvm_vcpu *v);
int debug_translate(struct vcpu *v, uint64_t gva, uint64_t *gpa);

/* APIC registers, by offset in the page. */
enum {
    APIC_ID = 0x20,
    APIC_TPR = 0x80,
    APIC_LDR = 0xd0,
    APIC_DFR = 0xe0,
    APIC_SVR = 0xf0,
    APIC_ISR = 0x100,
    APIC_TMR = 0x180,
    APIC_IRR = 0x200,
    APIC_ESR = 0x280,
    APIC_CMCI = 0x2f0,
    APIC_ICR = 0x300,
    APIC_ICR2 = 0x310,
    APIC_TIMER = 0x320,
    APIC_THERMAL = 0x330,
    APIC_PERF = 0x340,
    APIC_LINT0 = 0x350,
    APIC_LINT1 = 0x360,
    APIC_ERROR = 0x370,
    APIC_INITIAL = 0x380,
    APIC_CURRENT = 0x390,
    APIC_DIVIDE = 0x3e0
};
static inline uint32_t apic_get(const struct kvm_lapic_state *page, unsigned reg)
{
    uint32_t value;
    __builtin_memcpy(&value, page->regs + reg, sizeof value);
    return value;
}
static inline void apic_set(struct kvm_lapic_state *page, unsigned reg, uint32_t value)
{
    __builtin_memcpy(page->regs + reg, &value, sizeof value);
}

#endif
