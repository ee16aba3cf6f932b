/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Interpreter and translator side by side, block by block:
 *
 *   lockstep_run [--options OPT] [--cpu MODEL] [--steps N] guest FILE
 *   lockstep_run [...] [--until TEXT] linux KERNEL INITRD CMDLINE
 *   lockstep_run [...] [--until TEXT] bios FIRMWARE DISK
 *
 * Two machines with one vCPU each start from the same state and memory. The leader translates (OPT;
 * blocks are not joined, so that each exit leads to the dispatcher, but loops run on in their
 * block). Whenever it comes to the dispatcher it writes its registers down. The follower interprets
 * and compares before each instruction: as long as it is inside the block that the leader was in it
 * may go on until it has the leader's state; behind that block it must have it. The first
 * difference ends the run with both states and the block that made it; so does different memory in
 * the end.
 *
 * Flags that an instruction leaves undefined may differ.
 *
 * --spoil N changes a register of the follower at step N, which must be noticed.
 *
 * What is not the CPU's own doing is the leader's: the time it read, what devices answered and the
 * interrupts that other threads sent are recorded, and given to the follower at the same place. A
 * loop that only an interrupt ends is left by a request that means nothing.
 * What the follower writes to devices must be the same. Devices may not write memory (no DMA); a
 * BIOS boots from an IDE disk by PIO, and is told that fw_cfg has no DMA. INTR of the leader's PIC
 * is looked at where a block begins, and when both stand in HLT.
 *
 * The engine is the ordinary one: the functions between its files are wrapped by the linker.
 */
#include "base/checked.h"
#include "block/block.h"
#include "board/board.h"
#include "devices/disk/ide.h"
#include "engine/soft/code.h"
#include "engine/soft/engine.h"
#include "engine/soft/run.h"
#include "guests/guest.inc"
#include "guests/guests_machine.h"

#include <Zydis/Zydis.h>
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- The log: written by the leader's thread, read by the follower's ---- */

enum kind { STEP, REQUEST, POST, WIRE, ACK, NOW, EPOCH, RANDOM, READ, WRITE };
static const char *const kind_names[] = {
    "block", "request", "interrupt",     "INTR", "acknowledged interrupt",
    "time",  "epoch",   "random number", "read", "write"
};
enum { REGS = 18 };

struct record {
    uint8_t kind;
    bool end;         /* STEP: compare memory and stop */
    uint32_t events;  /* STEP: how many REQUEST, POST and WIRE follow */
    uint64_t a, b;    /* the others' values; STEP: digest of the rest of the state */
    uint64_t r[REGS]; /* STEP: gpr, rip, rflags */
};

enum { LOG = 1 << 14 };
static struct record log_ring[LOG];
static _Atomic uint64_t written, read_count;
static _Atomic bool finished;
static uint64_t steps_max = ~0ull, spoil_at = ~0ull;

static struct soft_vcpu *leader, *follower;
static __thread struct soft_vcpu *self; /* whose thread this is, from its first block on */
static __thread unsigned in_bus;        /* what devices do is not recorded */
static uint64_t steps, previous_rip;    /* follower's */
static struct block previous;           /* its head; no bytes: none */

static struct record *log_new(enum kind kind)
{
    while (atomic_load(&written) - atomic_load(&read_count) == LOG)
        usleep(100); /* there is enough to read for much longer */
    struct record *r = &log_ring[atomic_load(&written) % LOG];
    r->kind = (uint8_t)kind;
    return r;
}
static void log_done(void) { atomic_fetch_add(&written, 1); }
static void log_put(enum kind kind, uint64_t a, uint64_t b)
{
    struct record *r = log_new(kind);
    r->a = a;
    r->b = b;
    log_done();
}

/* ---- Reports ---- */

static void registers_take(const struct soft_vcpu *v, uint64_t *r)
{
    memcpy(r, v->gpr, 16 * 8);
    r[16] = v->rip;
    r[17] = rflags_get(v);
}

static void registers_print(const char *who, const uint64_t *r)
{
    static const char *const names[REGS] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                             "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                             "r12", "r13", "r14", "r15", "rip", "rflags" };
    printf("%s:", who);
    for (unsigned n = 0; n < REGS; n++)
        printf("%s%s %#llx", n % 6 ? ", " : "\n  ", names[n], (unsigned long long)r[n]);
    printf("\n");
}

static void block_print(uint64_t rip, const struct block *b)
{
    static const ZydisMachineMode machine[] = { ZYDIS_MACHINE_MODE_LEGACY_16,
                                                ZYDIS_MACHINE_MODE_LEGACY_32,
                                                ZYDIS_MACHINE_MODE_LONG_64 };
    static const ZydisStackWidth stack[] = { ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32,
                                             ZYDIS_STACK_WIDTH_64 };
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecoderInit(&decoder, machine[b->key & CODE_MODE], stack[b->key & CODE_MODE]);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    const uint8_t *bytes = machine_of(follower)->rams[b->ram]->hva + block_offset(b);
    printf("the block before, key %#x:\n", b->key);
    for (unsigned at = 0; at < b->bytes;) {
        ZydisDecodedInstruction z;
        ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
        char text[120];
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes + at, 15, &z, o)))
            break;
        ZydisFormatterFormatInstruction(&formatter, &z, o, z.operand_count_visible, text,
                                        sizeof text, rip + at, NULL);
        printf("  %#llx  %s\n", (unsigned long long)rip + at, text);
        at += z.length;
    }
}

static _Noreturn void diverged(const char *what, const struct record *theirs, const uint64_t *ours)
{
    printf("step %llu: %s differs\n", (unsigned long long)steps, what);
    if (theirs) {
        registers_print("translator", theirs->r);
        registers_print("interpreter", ours);
    }
    if (previous.bytes)
        block_print(previous_rip, &previous);
    fflush(stdout);
    _exit(1);
}

static const struct record *log_peek(void)
{
    while (atomic_load(&written) == atomic_load(&read_count))
        sched_yield();
    return &log_ring[atomic_load(&read_count) % LOG];
}

static const struct record *log_next(enum kind kind)
{
    const struct record *r = log_peek();
    if (r->kind == kind)
        return r;
    uint64_t ours[REGS];
    registers_take(follower, ours);
    printf("the interpreter comes to a %s, the translator came to a %s\n", kind_names[kind],
           kind_names[r->kind]);
    diverged("what happens", r->kind == STEP ? r : NULL, ours);
}
static void log_read(void) { atomic_fetch_add(&read_count, 1); }

/* ---- Events from other threads: taken by the leader at its next block ----
 *
 * Whoever sends one may hold a device's lock that the leader waits for, so nobody waits here. The
 * same twice before the leader looks is once, as in the LAPIC. */

struct event {
    enum kind kind;
    uint64_t a, b;
};
static pthread_mutex_t event_lock = PTHREAD_MUTEX_INITIALIZER;
static struct event event_queue[540]; /* each vector twice, requests, WIRE */
static unsigned event_count;
static _Atomic bool wire; /* INTR of the leader's PIC; its engine has what the vCPU knows of it */

void __real_vcpu_request(struct soft_vcpu *v, uint32_t requests);
void __real_lapic_post(struct lapic *l, uint8_t vector, bool level);
void __wrap_vcpu_request(struct soft_vcpu *v, uint32_t requests);
void __wrap_lapic_post(struct lapic *l, uint8_t vector, bool level);

static bool wire_known(const struct soft_vcpu *v)
{
    return atomic_load(&soft_engine_of(v)->extint);
}

static void event_apply(struct soft_vcpu *v, enum kind kind, uint64_t a, uint64_t b)
{
    if (kind == WIRE) {
        atomic_store(&soft_engine_of(v)->extint, (bool)a);
        if (a)
            __real_vcpu_request(v, REQ_INTERRUPT);
    } else if (kind == REQUEST)
        __real_vcpu_request(v, (uint32_t)a);
    else
        __real_lapic_post(&v->lapic, (uint8_t)a, b);
}

/* In HLT, and nothing is requested that ends it. */
static bool parked(struct soft_vcpu *v)
{
    return atomic_load(&v->run->parked) && !(atomic_load(&v->request) & ~(uint32_t)REQ_WAITS);
}

/* The follower knows all that the leader did before its HLT. */
static bool leader_halted(void)
{
    return parked(leader) && atomic_load(&written) == atomic_load(&read_count);
}

/* Both stand in HLT at the same place. */
static bool both_parked(void) { return leader_halted() && parked(follower); }

static void event_post(enum kind kind, uint64_t a, uint64_t b)
{
    {
        LOCKED(&event_lock);
        unsigned n = 0;
        while (n < event_count &&
               (event_queue[n].kind != kind || event_queue[n].a != a || event_queue[n].b != b))
            n++;
        assert(n < ARRAY_LEN(event_queue));
        event_queue[n] = (struct event){ kind, a, b };
        event_count += n == event_count;
    }
    __real_vcpu_request(leader, REQ_SAFE_POINT); /* means nothing, but leads to a block's start */
}

void __wrap_vcpu_request(struct soft_vcpu *v, uint32_t requests)
{
    bool asynchronous = !(requests & ~(uint32_t)(REQ_TIMER | REQ_INTERRUPT)) && self != v;
    if (!asynchronous || !leader)
        __real_vcpu_request(v, requests);
    else if (v == leader)
        event_post(REQUEST, requests, 0);
}

void __wrap_lapic_post(struct lapic *l, uint8_t vector, bool level)
{
    struct soft_vcpu *v = CONTAINER_OF(l, struct soft_vcpu, lapic);
    if (self == v || !leader)
        __real_lapic_post(l, vector, level);
    else if (v == leader)
        event_post(POST, vector, level);
}

void __real_extint_set(struct machine *m, bool level);
void __wrap_extint_set(struct machine *m, bool level);

void __wrap_extint_set(struct machine *m, bool level)
{
    if (!leader)
        __real_extint_set(m, level);
    if (!leader || m != machine_of(leader))
        return;
    atomic_store(&wire, level);
    if (self != leader)
        __real_vcpu_request(leader, REQ_SAFE_POINT);
}

/* A vCPU in HLT begins no block. */
static void events_wake(void)
{
    LOCKED(&event_lock);
    const bool level = atomic_load(&wire), turned = level != wire_known(leader);
    if (!(event_count || turned) || !both_parked())
        return;
    struct soft_vcpu *const both[] = { follower, leader };
    for (unsigned who = 0; who < ARRAY_LEN(both); who++) {
        for (unsigned n = 0; n < event_count; n++)
            event_apply(both[who], event_queue[n].kind, event_queue[n].a, event_queue[n].b);
        if (turned)
            event_apply(both[who], WIRE, level, 0);
    }
    event_count = 0;
}

/* ---- The start of a block ---- */

static uint64_t bytes_digest(uint64_t h, const void *p, size_t n)
{
    const uint64_t *w = p;
    for (; n >= 8; n -= 8)
        h = (h ^ *w++) * 0x9e3779b97f4a7c15 + (h >> 29);
    return h;
}

/* Everything else that instructions change. */
static uint64_t rest_digest(struct soft_vcpu *v)
{
    x87_leave_host(v);
    uint64_t h = bytes_digest(1, &v->fpu, sizeof v->fpu);
    for (unsigned n = 0; n < ARRAY_LEN(v->seg); n++)
        h = bytes_digest(h ^ v->seg[n].selector ^ (uint64_t)v->seg[n].attr << 16, &v->seg[n].base,
                         8);
    const uint64_t more[] = { v->cr0,
                              v->cr2,
                              v->cr3,
                              v->cr4,
                              v->efer,
                              v->xcr0,
                              v->star,
                              v->lstar,
                              v->sfmask,
                              v->mode,
                              v->cpl,
                              v->kernel_gs_base,
                              v->dr6,
                              v->dr7,
                              v->dr[0],
                              v->activity,
                              v->interrupt_shadow };
    return bytes_digest(h, more, sizeof more);
}

struct block *__real_code_lookup(struct soft_vcpu *v);
struct block *__wrap_code_lookup(struct soft_vcpu *v);

static _Noreturn void hold(void)
{
    for (;;)
        pause();
}

static bool leader_ended; /* it wrote its answer; its own thread */
static uint64_t end_port; /* where to; 0: nowhere */

/* Answers whether something happened to it, which it is to attend to behind one instruction, as the
 * follower will. */
static bool leader_step(struct soft_vcpu *v)
{
    static uint64_t count;
    struct record *r = log_new(STEP);
    registers_take(v, r->r);
    r->a = rest_digest(v);
    bool end = ++count >= steps_max || leader_ended;
    LOCKED(&event_lock);
    const bool level = atomic_load(&wire), turned = level != wire_known(v);
    const unsigned events = end ? 0 : event_count + turned;
    if (turned)
        event_queue[event_count++] = (struct event){ WIRE, level, 0 };
    r->events = events;
    r->end = end;
    log_done();
    for (unsigned n = 0; n < events; n++) {
        log_put(event_queue[n].kind, event_queue[n].a, event_queue[n].b);
        event_apply(v, event_queue[n].kind, event_queue[n].a, event_queue[n].b);
    }
    event_count = 0;
    if (end) {
        pthread_mutex_unlock(&event_lock);
        hold();
    }
    return events;
}

static void memory_compare(void)
{
    const struct ram *a = machine_of(leader)->main_ram, *b = machine_of(follower)->main_ram;
    for (uint64_t at = 0; at < a->size; at += PAGE_SIZE)
        if (memcmp(a->hva + at, b->hva + at, PAGE_SIZE)) {
            uint64_t n = at;
            while (a->hva[n] == b->hva[n])
                n++;
            printf("memory at %#llx: %#x and %#x\n", (unsigned long long)n, a->hva[n], b->hva[n]);
            diverged("memory", NULL, NULL);
        }
}

/* What the instructions since the last step have left undefined: the translator's choice counts. */
static uint16_t undefined_since;

static bool state_equal(struct soft_vcpu *v, const struct record *r)
{
    uint64_t ours[REGS];
    registers_take(v, ours);
    return memcmp(ours, r->r, (REGS - 1) * sizeof *ours) == 0 &&
           !((ours[REGS - 1] ^ r->r[REGS - 1]) & ~(uint64_t)undefined_since);
}

/* The leader came here with this state. */
static void follower_step(struct soft_vcpu *v, const struct record *r)
{
    status_set(v, (uint32_t)r->r[REGS - 1]);
    undefined_since = 0;
    if (rest_digest(v) != r->a) {
        uint64_t ours[REGS];
        registers_take(v, ours);
        diverged("x87, SSE, a segment or a control register", r, ours);
    }
    unsigned events = r->events;
    bool end = r->end;
    log_read();
    steps++;
    for (; events; events--) {
        r = log_peek();
        event_apply(v, r->kind, r->a, r->b);
        log_read();
    }
    if (end) {
        memory_compare();
        atomic_store(&finished, true);
        hold();
    }
}

/* May the leader have passed here without the dispatcher? */
static bool inside_previous(const struct soft_vcpu *v)
{
    return v->rip - previous_rip < previous.bytes;
}

/* The leader's next record, NULL: it stands in HLT and has none. */
static const struct record *leader_next(void)
{
    while (atomic_load(&written) == atomic_load(&read_count)) {
        if (leader_halted())
            return NULL;
        sched_yield();
    }
    return log_peek();
}

static bool follower_compare(struct soft_vcpu *v)
{
    bool inside = inside_previous(v);
    const struct record *r = inside ? leader_next() : log_peek();
    if (!r) /* it came by here */
        return false;
    if (steps == spoil_at && r->kind == STEP && r->r[REGS - 2] == v->rip)
        v->gpr[R_DI] ^= 1, spoil_at = ~0ull;
    if (r->kind == STEP && state_equal(v, r)) {
        /* A request between the dispatcher and the block leads back without an instruction. */
        do
            follower_step(v, r);
        while ((r = leader_next()) && r->kind == STEP && state_equal(v, r) &&
               rest_digest(v) == r->a);
        return true;
    }
    if (inside)
        return false;
    uint64_t ours[REGS];
    registers_take(v, ours);
    diverged(r->kind == STEP ? "a register" : "what happens", r->kind == STEP ? r : NULL, ours);
}

/* The first instruction of a block, for the interpreter: stale blocks are not translated. */
static struct block *block_first(const struct block *b)
{
    static __thread union {
        struct block b;
        uint8_t room[sizeof(struct block) + 2 * sizeof(struct insn)];
    } part;
    memcpy(&part.b, b, sizeof *b + sizeof *b->insns);
    part.b.insns[1] = b->insns[b->count];
    part.b.insns[1].start = (uint16_t)insn_end(b->insns);
    part.b.count = 1;
    part.b.code = NULL;
    part.b.stale = true;
    return &part.b;
}

struct block *__wrap_code_lookup(struct soft_vcpu *v)
{
    self = v;
    bool alone = v == leader && leader_step(v);
    if (v != follower) {
        struct block *b = __real_code_lookup(v);
        return b && alone ? block_first(b) : b;
    }
    bool stepped = follower_compare(v);
    struct block *b = __real_code_lookup(v);
    if (stepped) {
        previous = b ? *b : (struct block){ 0 };
        previous_rip = v->rip;
    }
    if (!b)
        return NULL;
    undefined_since |= insn_rows[b->insns->row].undefined;
    if (b->insns->flags &
        (IF_REP | IF_REPNE)) /* the leader's may have given way behind any piece */
        __real_vcpu_request(v, REQ_SAFE_POINT);
    return block_first(b);
}

/* ---- Time and devices ---- */

uint64_t __real_guest_now_ns(struct machine *m);
uint64_t __wrap_guest_now_ns(struct machine *m);
uint64_t __real_guest_epoch_ns(struct machine *m);
uint64_t __wrap_guest_epoch_ns(struct machine *m);
uint64_t __real_bus_read(struct machine *m, enum space space, uint64_t addr, unsigned size);
uint64_t __wrap_bus_read(struct machine *m, enum space space, uint64_t addr, unsigned size);
void __real_bus_write(struct machine *m, enum space space, uint64_t addr, unsigned size,
                      uint64_t value);
void __wrap_bus_write(struct machine *m, enum space space, uint64_t addr, unsigned size,
                      uint64_t value);
ssize_t __real_getrandom(void *out, size_t len, unsigned flags);
ssize_t __wrap_getrandom(void *out, size_t len, unsigned flags);
void __real_guest_timer_arm(struct guest_timer *timer, uint64_t deadline_ns);
void __wrap_guest_timer_arm(struct guest_timer *timer, uint64_t deadline_ns);

/* The leader's value, for both. */
static uint64_t shared(enum kind kind, uint64_t ours)
{
    if (!self || in_bus)
        return ours;
    if (self == leader) {
        log_put(kind, ours, 0);
        return ours;
    }
    uint64_t theirs = log_next(kind)->a;
    log_read();
    return theirs;
}

uint64_t __wrap_guest_now_ns(struct machine *m) { return shared(NOW, __real_guest_now_ns(m)); }
uint64_t __wrap_guest_epoch_ns(struct machine *m)
{
    return shared(EPOCH, __real_guest_epoch_ns(m));
}

ssize_t __wrap_getrandom(void *out, size_t len, unsigned flags)
{
    ssize_t r = __real_getrandom(out, len, flags);
    uint64_t value = 0;
    memcpy(&value, out, len < 8 ? len : 8);
    value = shared(RANDOM, value);
    memcpy(out, &value, len < 8 ? len : 8);
    return r;
}

int __real_extint_ack(struct machine *m);
int __wrap_extint_ack(struct machine *m);
int __wrap_extint_ack(struct machine *m)
{
    return (int)(int64_t)shared(ACK, (uint64_t)(int64_t)__real_extint_ack(m));
}

enum { FW_CFG_SELECT = 0x510, FW_CFG_DATA };

/* fw_cfg's features, without the one to write memory in its own time */
static __thread uint64_t fw_cfg_key;
static uint64_t features_without_dma(enum space space, uint64_t addr, uint64_t value)
{
    enum { KEY_FEATURES = 1, FEATURE_DMA = 2 };
    return space == SPACE_IO && addr == FW_CFG_DATA && fw_cfg_key == KEY_FEATURES
               ? value & ~(uint64_t)FEATURE_DMA
               : value;
}

/* Devices are asked on both sides, so that both know the same; the leader's answer counts. */
uint64_t __wrap_bus_read(struct machine *m, enum space space, uint64_t addr, unsigned size)
{
    in_bus++;
    uint64_t value = __real_bus_read(m, space, addr, size);
    in_bus--;
    return shared(READ, features_without_dma(space, addr, value));
}

void __wrap_bus_write(struct machine *m, enum space space, uint64_t addr, unsigned size,
                      uint64_t value)
{
    if (self && self == leader && !in_bus) {
        log_put(WRITE, addr << 8 | size, value);
        leader_ended |= space == SPACE_IO && end_port && addr == end_port;
    } else if (self && !in_bus) {
        const struct record *r = log_next(WRITE);
        if (r->a != (addr << 8 | size) || r->b != value) {
            printf("port or address %#llx, %u bytes: %#llx and %#llx\n", (unsigned long long)addr,
                   size, (unsigned long long)r->b, (unsigned long long)value);
            diverged("a write to a device", NULL, NULL);
        }
        log_read();
    }
    if (space == SPACE_IO && addr == FW_CFG_SELECT)
        fw_cfg_key = value;
    in_bus++;
    __real_bus_write(m, space, addr, size, value);
    in_bus--;
}

/* The follower's APIC timer never fires by itself. */
void __wrap_guest_timer_arm(struct guest_timer *timer, uint64_t deadline_ns)
{
    if (!follower || timer != follower->run->timer)
        __real_guest_timer_arm(timer, deadline_ns);
}

/* ---- The two machines ---- */

static const char *until; /* the serial line's text that ends the run, or NULL */
static unsigned until_seen;

static int pair_run(struct machine *a, struct machine *b, unsigned seconds)
{
    struct err err = { 0 };
    static struct arch_state s;
    memcpy(b->main_ram->hva, a->main_ram->hva, a->main_ram->size);
    if (a->engine->type->get_state(a->vcpus[0], &s, &err) < 0 ||
        b->engine->type->set_state(b->vcpus[0], &s, &err) < 0) {
        printf("%s\n", err.text);
        return 1;
    }
    leader = soft_vcpu_of(a->vcpus[0]); /* a translates */
    follower = soft_vcpu_of(b->vcpus[0]);
    machine_start(a);
    machine_start(b);
    uint64_t deadline = monotonic_ns() + seconds * 1000000000ull;
    while (!atomic_load(&finished) && monotonic_ns() < deadline) {
        usleep(200);
        events_wake();
    }
    const struct soft_engine *e = soft_engine_of(leader);
    bool right = atomic_load(&finished);
    right &= !until;
    printf("%llu blocks compared, %llu translated: %s\n", (unsigned long long)steps,
           (unsigned long long)e->code.jit.blocks,
           right ? "no difference" : "did not come to its end");
    fflush(stdout);
    _exit(right ? 0 : 1); /* both vCPUs are held for ever */
}

static char engine_options[200];
static const char *cpu = "x86-64-v2";

static void event_ignored(void *arg, enum machine_event event, unsigned vcpu, const char *detail) {}

static void leader_says(void *arg, const uint8_t *data, size_t len)
{
    if (!arg)
        return;
    fwrite(data, 1, len, stdout);
    fflush(stdout);
    for (size_t n = 0; until && n < len; n++) {
        until_seen = data[n] == (uint8_t)until[until_seen] ? until_seen + 1 : 0;
        if (!until[until_seen]) {
            leader_ended = true;
            until = NULL;
        }
    }
}

/* A machine with one vCPU and this board. disk: in IDE, or NULL */
static int board_open(struct board_config *bc, const char *disk, const char *options, bool leads,
                      struct machine **out, struct err *err)
{
    static int yes;
    struct loop *loop;
    struct board *board;
    struct block_node *node;
    struct pci_device *pci;
    int r = loop_create(&loop, err);
    if (r < 0)
        return r;
    struct machine_config config = {
        .engine = &engine_soft,
        .engine_config = { .max_vcpus = 1, .model = cpu_model_find(cpu), .options = options },
        .cpus = 1,
        .memory = 256 << 20,
        .loop = loop,
        .on_event = event_ignored,
    };
    bc->serial_output = leader_says;
    bc->serial_arg = leads ? &yes : NULL;
    r = machine_create(&config, out, err);
    if (r == 0)
        r = board_create(*out, bc, &board, err);
    if (r == 0 && disk) {
        const struct block_options bo = { .path = disk, .format = "raw", .no_lock = true };
        r = block_open(&bo, &node, err);
        const struct ata_drive_config drives[IDE_DRIVES] = { { .id = "disk0", .node = node } };
        if (r == 0)
            r = ide_create(*out, "ide0", drives, &pci, err);
        if (r == 0)
            r = pci_bus_add(board_pci_bus(board), pci, -1, err);
        if (r == 0)
            machine_add_device(*out, &pci->dev);
    }
    return r < 0 ? r : board_finish(board, err);
}

static int linux_open(char **argv, const char *options, bool leads, struct machine **out)
{
    struct err err = { 0 };
    struct board_config bc = { .profile = "micro-1",
                               .kernel_fd = open(argv[0], O_RDONLY),
                               .initrd_fd = open(argv[1], O_RDONLY),
                               .kernel_name = argv[0],
                               .initrd_name = argv[1],
                               .cmdline = argv[2] };
    int r = board_open(&bc, NULL, options, leads, out, &err);
    if (r < 0)
        printf("%s\n", err.text);
    return r;
}

static int bios_open(char **argv, const char *options, bool leads, struct machine **out)
{
    struct err err = { 0 };
    int fd = open(argv[0], O_RDONLY);
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    struct board_config bc = {
        .profile = "pc-1",
        .kernel_fd = -1,
        .initrd_fd = -1,
        .firmware = { .kind = FIRMWARE_BIOS,
                      .code_fd = fd,
                      .code_size = (uint64_t)size,
                      .vars_fd = -1 },
    };
    int r = size < 0 ? err_errno(&err, errno, "%s", argv[0])
                     : board_open(&bc, argv[1], options, leads, out, &err);
    if (r < 0)
        printf("%s\n", err.text);
    return r;
}

static int guest_pair(const char *path)
{
    static struct guest g;
    static struct guests_machine gm[2];
    if (!guest_load(path, &g) || g.cpus != 1) {
        printf("a guest with one vCPU, please\n");
        return 2;
    }
    const struct cpu_model *model = cpu_model_find(cpu);
    guests_machine_open(&gm[0], &g, &engine_soft, engine_options, model);
    guests_machine_open(&gm[1], &g, &engine_soft, "jit=off,tsc=off", model);
    end_port = PORT_EXIT;
    return pair_run(gm[0].m, gm[1].m, 60);
}

int main(int argc, char **argv)
{
    const char *options = "hot=0";
    argv++;
    for (; argv[0] && argv[1] && !strncmp(*argv, "--", 2); argv += 2) {
        if (!strcmp(*argv, "--options"))
            options = argv[1];
        else if (!strcmp(*argv, "--steps"))
            steps_max = strtoull(argv[1], NULL, 0);
        else if (!strcmp(*argv, "--cpu"))
            cpu = argv[1];
        else if (!strcmp(*argv, "--spoil"))
            spoil_at = strtoull(argv[1], NULL, 0);
        else if (!strcmp(*argv, "--until"))
            until = argv[1];
    }
    snprintf(engine_options, sizeof engine_options, "%s,link=off,lookup=off,tsc=off", options);
    if (argv[0] && !strcmp(argv[0], "guest") && argv[1])
        return guest_pair(argv[1]);
    struct machine *m[2];
    if (argv[0] && argv[1] && !strcmp(argv[0], "linux") && access(argv[1], R_OK) < 0) {
        printf("skip: %s is not there; tools/prepare-guest.sh makes it\n", argv[1]);
        return 77;
    }
    int (*machine_open)(char **, const char *, bool, struct machine **) = NULL;
    if (argv[0] && !strcmp(argv[0], "linux") && argv[1] && argv[2] && argv[3])
        machine_open = linux_open;
    else if (argv[0] && !strcmp(argv[0], "bios") && argv[1] && argv[2])
        machine_open = bios_open;
    if (machine_open) {
        if (machine_open(argv + 1, engine_options, true, &m[0]) < 0 ||
            machine_open(argv + 1, "jit=off,tsc=off", false, &m[1]) < 0)
            return 1;
        return pair_run(m[0], m[1], 1500);
    }
    fprintf(stderr, "usage: lockstep_run [--options OPT] [--steps N] [--until TEXT] guest FILE | "
                    "linux KERNEL INITRD CMDLINE | bios FIRMWARE DISK\n");
    return 2;
}
