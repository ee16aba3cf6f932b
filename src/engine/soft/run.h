/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The soft engine as a whole: the engine's own struct, requests to vCPUs, safe points, and what
 * its files share.
 */
#ifndef ENGINE_SOFT_RUN_H
#define ENGINE_SOFT_RUN_H

#include "engine/soft/code_cache.h"
#include "engine/soft/cpu.h"

#include <pthread.h>

/* Requests: set by any thread, handled by the vCPU's own thread between blocks. */
enum {
    REQ_STOP = 1 << 0,       /* leave run() (kick) */
    REQ_SAFE_POINT = 1 << 1, /* a rendezvous waits */
    REQ_EPOCH = 1 << 2,      /* acknowledge the code epoch, perhaps without write tags */
    REQ_FLUSH = 1 << 3,      /* forget the TLB and the jump cache: the address map changed */
    REQ_INTERRUPT = 1 << 4,  /* LAPIC, ExtINT or NMI may have something to deliver */
    REQ_TIMER = 1 << 5,      /* the APIC timer's deadline has come */
    REQ_INIT = 1 << 6,
    REQ_SIPI = 1 << 7,
    REQ_CAREFUL =
        1 << 8, /* one instruction at a time: TF, debug registers, the host's debugger. Stays set */
    /* These do not wake a parked vCPU: that they are done before it runs guest code is enough */
    REQ_WAITS = REQ_SAFE_POINT | REQ_EPOCH | REQ_FLUSH | REQ_CAREFUL,
};

/* Where a vCPU's thread is. Anything but RUN_GUEST is a safe point. */
enum { RUN_OUTSIDE, RUN_GUEST, RUN_WAITING };

/* Of place.h: RAM that needs no look into the address map. */
enum { RAM_WINDOWS = 2 };
struct ram_window {
    uint64_t gpa, size;
    struct ram *ram;
    uint64_t offset;
};

/* Of tlb.h: the page of RAM that code at an address is in. */
enum { TLB_CONTEXTS = 8, ITLB_SIZE = 256 };
struct itlb_entry {
    uint64_t tag; /* address | asid, bit 63: for users */
    struct ram *ram;
    uint64_t offset;
    bool global;
};

/* A cache of paging structures, as CPUs have (SDM vol. 3A 4.10.3): the last page table that a walk
 * came to, for 2 MiB of linear addresses of an address space. Whatever drops translations from the
 * TLB drops all of it, or has the next look-ups ask for another asid. */
enum { TABLES = 32, TABLE_SHIFT = 21 };
struct table_entry {
    uint64_t tag; /* address | asid */
    const uint64_t *hva;
    uint64_t rights; /* W, U and NX of the entries that lead there */
};

/* Of jump_cache.h: linear address -> block */
enum {
    JUMP_MIX = 6,
    JUMP_PAGE_BITS = 7,
    JUMP_PAGES = 256,
    JUMP_SIZE = JUMP_PAGES << JUMP_PAGE_BITS,
    JUMP_SEEN = 4096
};
enum { JUMP_KEY_SHIFT = 32 }; /* in a key: CODE_* of the block; below: epoch, address space */
struct jump_entry {
    uint64_t va;
    const uint8_t *code; /* the block's translation, for translated code */
    uint64_t key;
    struct block *block;
};

/* Before it, for translated code alone: where the address is all that has to be compared. */
enum { QUICK_BITS = 10, QUICK_SIZE = 1 << QUICK_BITS, QUICK_MIX = 9, QUICK_SHIFT = 4 };
struct quick_entry {
    uint64_t va;         /* an empty one has an address that does not look here */
    const uint8_t *code; /* as in jump_entry, which can stand for it */
};
struct quick_table {
    uint64_t key; /* of the jump entries that belong here */
    struct quick_entry entries[QUICK_SIZE];
};

struct vcpu_run {
    _Atomic uint32_t acked; /* newest code epoch that this vCPU knows of */
    uint32_t dropped;       /* newest one whose write-tag drop it has done */
    int where;              /* RUN_*; engine->lock */
    _Atomic bool
        parked; /* in HLT, or outside run(): handles requests before it runs guest code again */
    _Atomic bool nmi_pending;
    _Atomic uint8_t sipi_vector;
    unsigned spins;
    pthread_cond_t wake;       /* engine->lock: a request arrived, or a rendezvous ended */
    struct guest_timer *timer; /* the APIC timer */
    uint64_t timer_armed_ns;
    uint64_t phys_mask; /* MAXPHYADDR */

    /* TLB contexts: which table and asid stand for which CR3 (~0: none) */
    uint32_t next_asid;
    struct {
        uint64_t cr3;
        uint32_t asid;
    } contexts[TLB_CONTEXTS];
    unsigned context, context_hand;
    struct tlb_entry (*tlbs)[TLB_MODES][TLB_SIZE]; /* [TLB_CONTEXTS] */
    /* Regions of 2 MiB and 1 GiB (hashed) with TLB entries out of large pages: INVLPG there must
     * look at every entry */
    struct {
        uint64_t m2[64], g1[16];
    } large;
    struct itlb_entry itlb[ITLB_SIZE];
    struct table_entry tables[TABLES];
    struct ram_window window[RAM_WINDOWS];

    /* Aligned: the two places of an address lie in one line */
    _Alignas(64) struct jump_entry jump[JUMP_SIZE];
    uint32_t jump_epoch;
    uint64_t jump_seen[JUMP_SEEN / 64];         /* a bit for each page (hashed) with entries */
    struct quick_table quick[1 + TLB_CONTEXTS]; /* the kernel's, and of each context's user mode */
    struct block *scratch;                      /* for blocks that may not be kept */
    uint8_t source[SOURCE_MAX];                 /* the bytes of the last one decoded */
    bool translate;                             /* translated code may run on this thread */
    bool in_jit;                                /* inside translated code, or called from it */
    struct block *current;                      /* the block being executed: not to be freed */

    /* Host's debugger and guest's debug registers */
    struct debug_point points[16];
    unsigned point_count;
    bool step;         /* leave after one instruction */
    bool single;       /* the block is left behind its first instruction */
    bool skip_points;  /* first instruction after a stop: do not hit the same breakpoint again */
    bool watch;        /* data watchpoints exist: no page gets a TLB entry */
    bool unfinished;   /* the instruction gave way (a REP between two elements) */
    uint64_t dr6_trap; /* data breakpoints hit by the running instruction */
    int host_hit;      /* index of the host watchpoint hit, or -1 */

    /* Counters: written by the vCPU's thread (counter_add_one), read by any */
    _Atomic uint64_t blocks_decoded, walks, exceptions, interrupts, mmio, halts;
};

struct soft_engine {
    struct engine engine;
    pthread_mutex_t lock; /* vCPU whereabouts and rendezvous */
    pthread_cond_t quiet; /* some vCPU came to a safe point */
    unsigned rendezvous;  /* callers that wait for or hold the rendezvous */
    bool rendezvous_held;
    struct soft_vcpu *vcpus[255]; /* by index; fixed once the machine runs */
    unsigned vcpu_count;
    unsigned max_vcpus;
    const struct cpu_model *model;
    _Atomic bool extint; /* the PIC's INTR */
    struct code_cache code;
    struct tsc_clock tsc;
    struct trace *trace; /* or NULL */
};

static inline struct soft_engine *soft_engine_of(const struct soft_vcpu *v)
{
    return CONTAINER_OF(v->vcpu.engine, struct soft_engine, engine);
}
static inline struct machine *machine_of(const struct soft_vcpu *v)
{
    return v->vcpu.engine->machine;
}

/* One more. There is one writer, so no LOCK is needed. */
static inline void counter_add_one(_Atomic uint64_t *counter)
{
    uint64_t n = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, n + 1, memory_order_relaxed);
}

/* Any thread. */
void vcpu_request(struct soft_vcpu *v, uint32_t requests);
/* The vCPU's own thread, e.g. after something that may unmask an interrupt. */
static inline void vcpu_request_self(struct soft_vcpu *v, uint32_t requests)
{
    atomic_fetch_or_explicit(&v->request, requests, memory_order_relaxed);
}

enum vcpu_exit soft_run(struct vcpu *v, struct err *err);
/* What follows from a handler's answer: rip is set, a fault is delivered. On: go on with the block
 * at rip, if nothing is requested. The others end run(). */
enum { STEP_ON, STEP_SHUTDOWN, STEP_EXIT };
int vcpu_finish(struct soft_vcpu *v, const struct insn *i, int answer);
void soft_rendezvous(struct engine *e, void (*fn)(void *arg), void *arg);
void soft_msi(struct engine *e, uint64_t address, uint32_t data);
/* Decides whether the slow, one-by-one mode is needed. Own thread, or not running. */
void vcpu_update_careful(struct soft_vcpu *v);

/* exc.c: delivers v->exc at the instruction boundary v->rip. Returns false on triple fault. */
bool exception_deliver(struct soft_vcpu *v);
bool interrupt_deliver(struct soft_vcpu *v, uint8_t vector); /* external interrupt or NMI */
int software_interrupt(struct soft_vcpu *v, const struct insn *i, uint8_t vector);
/* Installs CS, SS and so on as a mode change would: recomputes mode, cpl, stack size, bases, TLB.
 */
void vcpu_mode_update(struct soft_vcpu *v);
void vcpu_init_reset(struct soft_vcpu *v); /* INIT */
void flags_set(struct soft_vcpu *v, uint32_t flags,
               uint32_t mask); /* bits of mask in RFLAGS; AC and TF take effect */
void segment_set_real(struct soft_vcpu *v, unsigned seg, uint16_t selector);
/* state.c. Not while the vCPU runs. */
int soft_get_state(struct vcpu *vcpu, struct arch_state *s, struct err *err);
int soft_set_state(struct vcpu *vcpu, const struct arch_state *s, struct err *err);
void vcpu_state_install(struct soft_vcpu *v, const struct arch_state *s);
/* sys.c */
int cr0_write(struct soft_vcpu *v, uint64_t value);

#endif
