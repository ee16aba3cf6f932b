/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Running: the loop over decoded blocks, requests from other threads, safe points, interrupts, HLT.
 *
 * Invariants
 *  1. A vCPU looks at `request` between blocks. Whoever sets a bit and then finds `parked` false
 * may rely on the vCPU handling it before its next block; whoever finds it true, before it leaves
 * HLT or enters run(). (Both sides use sequentially consistent accesses: set request, read parked;
 * clear parked, read request.)
 *  2. A rendezvous runs its function while no vCPU other than the caller is in RUN_GUEST, and none
 * enters until it is over.
 *  3. What IF holds back is looked at again when IF is set (flags_set, STI), what the shadow holds
 * back when it ends: both set REQ_INTERRUPT. It does not stay set meanwhile, because translated
 * code would not run. While REQ_INTERRUPT is clear and `held_back` too, there is nothing.
 */
#include "engine/soft/run.h"

#include "engine/soft/code.h"
#include "engine/soft/mem.h"
#include "engine/soft/sys.h"
#include "engine/soft/trace.h"
#include "machine/machine.h"

#include <assert.h>
#include <sched.h>

/* The vCPU whose thread this is, while it is inside run(). */
static __thread struct soft_vcpu *current_vcpu;

/* ---- Requests and safe points ---- */

void vcpu_request(struct soft_vcpu *v, uint32_t requests)
{
    atomic_fetch_or(&v->request, requests);
    if (requests & ~(uint32_t)REQ_WAITS && atomic_load(&v->run->parked)) {
        struct soft_engine *e = soft_engine_of(v);
        LOCKED(&e->lock);
        pthread_cond_broadcast(&v->run->wake);
    }
}

/* lock held */
static void wait_for_rendezvous(struct soft_engine *e)
{
    while (e->rendezvous)
        pthread_cond_wait(&e->quiet, &e->lock);
}

static void guest_enter(struct soft_vcpu *v)
{
    struct soft_engine *e = soft_engine_of(v);
    LOCKED(&e->lock);
    wait_for_rendezvous(e);
    v->run->where = RUN_GUEST;
    atomic_store(&v->run->parked, false);
}

static void guest_leave(struct soft_vcpu *v, int where)
{
    struct soft_engine *e = soft_engine_of(v);
    LOCKED(&e->lock);
    v->run->where = where;
    atomic_store(&v->run->parked, true);
    pthread_cond_broadcast(&e->quiet);
}

static bool others_quiet(const struct soft_engine *e, const struct soft_vcpu *self)
{
    for (unsigned n = 0; n < e->vcpu_count; n++)
        if (e->vcpus[n] != self && e->vcpus[n]->run->where == RUN_GUEST)
            return false;
    return true;
}

void soft_rendezvous(struct engine *engine, void (*fn)(void *arg), void *arg)
{
    struct soft_engine *e = CONTAINER_OF(engine, struct soft_engine, engine);
    struct soft_vcpu *self =
        current_vcpu && current_vcpu->vcpu.engine == engine ? current_vcpu : NULL;
    pthread_mutex_lock(&e->lock);
    bool was_guest = self && self->run->where == RUN_GUEST;
    e->rendezvous++;
    if (was_guest) { /* counts as being at a safe point, for others that got here first */
        self->run->where = RUN_WAITING;
        pthread_cond_broadcast(&e->quiet);
    }
    while (e->rendezvous_held)
        pthread_cond_wait(&e->quiet, &e->lock);
    e->rendezvous_held = true;
    for (unsigned n = 0; n < e->vcpu_count; n++)
        if (e->vcpus[n] != self)
            atomic_fetch_or(&e->vcpus[n]->request, REQ_SAFE_POINT);
    while (!others_quiet(e, self))
        pthread_cond_wait(&e->quiet, &e->lock);
    pthread_mutex_unlock(&e->lock);

    fn(arg);

    pthread_mutex_lock(&e->lock);
    e->rendezvous_held = false;
    e->rendezvous--;
    pthread_cond_broadcast(&e->quiet);
    if (was_guest) {
        wait_for_rendezvous(e);
        self->run->where = RUN_GUEST;
    }
    pthread_mutex_unlock(&e->lock);
}

static void safe_point(struct soft_vcpu *v)
{
    struct soft_engine *e = soft_engine_of(v);
    LOCKED(&e->lock);
    v->run->where = RUN_WAITING;
    pthread_cond_broadcast(&e->quiet);
    wait_for_rendezvous(e);
    v->run->where = RUN_GUEST;
}

/* HLT, or waiting for SIPI: until something is requested that cannot wait. */
static void vcpu_park(struct soft_vcpu *v)
{
    struct soft_engine *e = soft_engine_of(v);
    counter_add_one(&v->run->halts);
    guest_leave(v, RUN_WAITING);
    pthread_mutex_lock(&e->lock);
    while (!(atomic_load(&v->request) & ~(uint32_t)REQ_WAITS))
        pthread_cond_wait(&v->run->wake, &e->lock);
    pthread_mutex_unlock(&e->lock);
    guest_enter(v);
}

void vcpu_spin(struct soft_vcpu *v)
{
    if (soft_engine_of(v)->vcpu_count > 1 && (++v->run->spins & 63) == 0)
        sched_yield();
}

/* ---- Interrupts ---- */

void vcpu_lapic_changed(struct soft_vcpu *v)
{
    uint64_t next = lapic_timer_next_ns(&v->lapic);
    if (next != v->run->timer_armed_ns) {
        v->run->timer_armed_ns = next;
        if (next)
            guest_timer_arm(v->run->timer, next);
        else
            guest_timer_disarm(v->run->timer);
    }
    vcpu_request_self(v, REQ_INTERRUPT);
}

static void timer_expired(struct soft_vcpu *v)
{
    v->run->timer_armed_ns = 0;
    lapic_timer_expire(&v->lapic, guest_now_ns(machine_of(v)));
    vcpu_lapic_changed(v);
}

/* Answers false on triple fault. */
static bool interrupts_take(struct soft_vcpu *v)
{
    struct soft_engine *e = soft_engine_of(v);
    atomic_fetch_and(&v->request, ~(uint32_t)REQ_INTERRUPT);
    v->held_back = true;
    if (atomic_load(&v->run->nmi_pending) && !v->nmi_masked) {
        atomic_store(&v->run->nmi_pending, false);
        v->nmi_masked = true;
        v->activity = X86_RUNNING;
        return interrupt_deliver(v, EXC_NMI);
    }
    int vector = lapic_pending_vector(&v->lapic);
    bool extint = vector < 0 && atomic_load(&e->extint) && lapic_takes_extint(&v->lapic);
    v->held_back = vector >= 0 || extint;
    if (!v->held_back || !(v->flags & FL_IF))
        return true;
    if (extint) {
        vector = extint_ack(machine_of(v));
        if (vector < 0)
            return true;
    } else {
        lapic_ack(&v->lapic, vector);
    }
    v->activity = X86_RUNNING;
    vcpu_request_self(v, REQ_INTERRUPT); /* there may be more */
    return interrupt_deliver(v, (uint8_t)vector);
}

static void init_and_sipi(struct soft_vcpu *v, uint32_t requests)
{
    atomic_fetch_and(&v->request, ~(uint32_t)(requests & (REQ_INIT | REQ_SIPI)));
    vcpu_request_self(v, REQ_INTERRUPT);
    if (requests & REQ_INIT) {
        vcpu_init_reset(v);
        lapic_init(&v->lapic);
        v->activity = v->vcpu.apic_id ? X86_WAIT_SIPI : X86_RUNNING;
    }
    if (requests & REQ_SIPI && v->activity == X86_WAIT_SIPI) {
        uint8_t vector = atomic_load(&v->run->sipi_vector);
        segment_set_real(v, S_CS, (uint16_t)(vector << 8));
        v->seg[S_CS].limit = 0xffff;
        v->rip = 0;
        vcpu_mode_update(v);
        v->activity = X86_RUNNING;
    }
}

/* ---- Debugging, one instruction at a time ---- */

void vcpu_update_careful(struct soft_vcpu *v)
{
    struct vcpu_run *run = v->run;
    bool watch = false;
    for (unsigned n = 0; n < 4; n++)
        if (v->dr7 >> (n * 2) & 3 && v->dr7 >> (16 + n * 4) & 3)
            watch = true;
    for (unsigned n = 0; n < run->point_count; n++)
        watch |= run->points[n].kind != DEBUG_EXEC;
    if (watch != run->watch) {
        run->watch = watch;
        tlb_flush(v);
    }
    if (v->flags & FL_TF || v->dr7 & 0xff || run->point_count || run->step)
        atomic_fetch_or(&v->request, REQ_CAREFUL);
    else
        atomic_fetch_and(&v->request, ~(uint32_t)REQ_CAREFUL);
}

/* Is there a breakpoint on the instruction at rip? Host's: true and debug_hit set. Guest's: exc
 * set. */
enum { NO_BREAKPOINT, HOST_BREAKPOINT, GUEST_BREAKPOINT };
static int breakpoint_at(struct soft_vcpu *v)
{
    struct vcpu_run *run = v->run;
    uint64_t va = v->mode == MODE_64 ? v->rip : (v->rip + v->seg[S_CS].base) & 0xffffffff;
    if (!run->skip_points) {
        for (unsigned n = 0; n < run->point_count; n++) {
            if (run->points[n].kind == DEBUG_EXEC && run->points[n].gva == va) {
                v->vcpu.debug_hit = (struct debug_hit){ .point = (int)n, .gva = va };
                return HOST_BREAKPOINT;
            }
        }
    }
    run->skip_points = false;
    if (v->flags & FL_RF)
        return NO_BREAKPOINT;
    uint64_t hits = 0;
    for (unsigned n = 0; n < 4; n++)
        if (v->dr7 >> (n * 2) & 3 && !(v->dr7 >> (16 + n * 4) & 3) && v->dr[n] == va)
            hits |= 1u << n;
    if (!hits)
        return NO_BREAKPOINT;
    v->exc = (struct exception){ .vector = EXC_DB, .dr6 = hits };
    return GUEST_BREAKPOINT;
}

/* ---- The loop ---- */

static inline int block_run(struct soft_vcpu *v, struct block *b, bool one,
                            const struct insn **last)
{
    const struct insn *i = b->insns;
    int r;
    v->gpr[REG_RIP] = v->rip;
    v->run->current = b;
    v->run->single = one;
    if (one) {
        *last = i;
        return __atomic_load_n(&i->fn, __ATOMIC_RELAXED)(v, i);
    }
    do
        r = __atomic_load_n(&i->fn, __ATOMIC_RELAXED)(v, i);
    while (i++, likely(r == OP_NEXT));
    *last = i - 1;
    return r;
}

int vcpu_finish(struct soft_vcpu *v, const struct insn *i, int r)
{
    switch (r) {
    case OP_JUMP: return STEP_ON;
    case OP_NEXT:
    case OP_END: v->rip = next_rip(v, i); return STEP_ON;
    case OP_AGAIN:
        v->rip = insn_rip(v, i);
        v->run->unfinished = true;
        return STEP_ON;
    case OP_EXIT: v->rip = next_rip(v, i); return STEP_EXIT;
    default:
        v->rip = insn_rip(v, i);
        if (v->exc.noncanonical && i->flags & IF_MEM && i->seg == S_SS)
            v->exc.vector = EXC_SS;
        return exception_deliver(v) ? STEP_ON : STEP_SHUTDOWN;
    }
}

/* Counts a turn of the block; vCPUs that do so at once may lose one. */
static bool block_is_hot(const struct code_cache *c, struct block *b)
{
    const uint16_t heat = atomic_load_explicit(&b->heat, memory_order_relaxed);
    atomic_store_explicit(&b->heat, (uint16_t)(heat + 1), memory_order_relaxed);
    return heat >= c->translate_after;
}

static int step(struct soft_vcpu *v, bool one)
{
    struct block *b = code_lookup(v);
    if (unlikely(!b))
        return exception_deliver(v) ? STEP_ON : STEP_SHUTDOWN;
    const struct insn *i;
    int r;
    const struct code_cache *code = &soft_engine_of(v)->code;
    if (v->run->translate && !b->code && !one && block_is_hot(code, b))
        code_translate(v, b);
    trace_block(soft_engine_of(v)->trace, v, b);
    if (v->run->translate && b->code && !one &&
        !atomic_load_explicit(&v->request, memory_order_relaxed)) {
        v->run->in_jit = true;
        v->jit_page = v->rip & ~(PAGE_SIZE - 1);
        r = code->jit.enter(b->code);
        v->run->in_jit = false;
        if (unlikely(v->jit_again))
            code_translate_again(v);
        if (v->jit_link)
            code_link(v);
        return r;
    }
    x87_leave_host(v);
    r = block_run(v, b, one, &i);
    return vcpu_finish(v, i, r);
}

/* One instruction with all debug conditions before and after it. */
static int step_careful(struct soft_vcpu *v)
{
    struct vcpu_run *run = v->run;
    int hit = breakpoint_at(v);
    if (hit == HOST_BREAKPOINT) {
        v->exit = VCPU_DEBUG;
        return STEP_EXIT;
    }
    if (hit == GUEST_BREAKPOINT)
        return exception_deliver(v) ? STEP_ON : STEP_SHUTDOWN;
    bool trap = v->flags & FL_TF;
    const uint32_t resume = v->flags & FL_RF; /* until the instruction is done */
    v->flags &= ~(uint32_t)FL_RF;
    run->unfinished = false;
    run->dr6_trap = 0;
    run->host_hit = -1;
    uint64_t faults = run->exceptions;
    int r = step(v, true);
    if (r != STEP_ON)
        return r;
    if (run->unfinished)
        v->flags |= resume;
    /* A fault's handler starts without a trap; it comes when the instruction is done in the end. */
    if (run->exceptions == faults && (run->dr6_trap || (trap && !v->interrupt_shadow))) {
        v->exc =
            (struct exception){ .vector = EXC_DB, .dr6 = run->dr6_trap | (trap ? 1u << 14 : 0) };
        if (!exception_deliver(v))
            return STEP_SHUTDOWN;
    }
    if (run->host_hit >= 0 || run->step) {
        v->vcpu.debug_hit =
            (struct debug_hit){ .step = run->step, .point = run->host_hit, .gva = v->rip };
        v->exit = VCPU_DEBUG;
        return STEP_EXIT;
    }
    return STEP_ON;
}

/* Everything that is not plain execution. Answers STEP_ON, or another when run() must end; *exit is
 * set then. */
static int attend(struct soft_vcpu *v, enum vcpu_exit *exit)
{
    uint32_t requests = atomic_load(&v->request);
    if (requests & REQ_SAFE_POINT) {
        atomic_fetch_and(&v->request, ~(uint32_t)REQ_SAFE_POINT);
        safe_point(v);
    }
    if (requests & REQ_FLUSH) {
        atomic_fetch_and(&v->request, ~(uint32_t)REQ_FLUSH);
        tlb_flush(v);
    }
    if (requests & REQ_EPOCH) {
        atomic_fetch_and(&v->request, ~(uint32_t)REQ_EPOCH);
        code_acknowledge(v);
    }
    if (requests & REQ_STOP) {
        atomic_fetch_and(&v->request, ~(uint32_t)REQ_STOP);
        *exit = VCPU_STOPPED;
        return STEP_EXIT;
    }
    if (requests & (REQ_INIT | REQ_SIPI))
        init_and_sipi(v, requests);
    if (requests & REQ_TIMER) {
        atomic_fetch_and(&v->request, ~(uint32_t)REQ_TIMER);
        timer_expired(v);
        requests |= REQ_INTERRUPT;
    }
    if (v->activity == X86_WAIT_SIPI) {
        atomic_fetch_and(&v->request, ~(uint32_t)REQ_INTERRUPT);
        vcpu_park(v);
        return STEP_ON;
    }
    bool shadow = v->interrupt_shadow;
    if (!shadow && requests & REQ_INTERRUPT && !interrupts_take(v))
        goto shutdown;
    if (v->activity == X86_HALTED) {
        if (!(atomic_load(&v->request) & ~(uint32_t)REQ_WAITS))
            vcpu_park(v);
        return STEP_ON;
    }
    if (shadow || requests & REQ_CAREFUL) {
        uint8_t before = v->interrupt_shadow;
        int r = requests & REQ_CAREFUL ? step_careful(v) : step(v, true);
        if (before && v->interrupt_shadow == before)
            v->interrupt_shadow = 0;
        if (v->interrupt_shadow)
            vcpu_request_self(v, REQ_INTERRUPT);
        /* Here and not behind the next block, which may close the window again: STI; NOP; CLI. */
        if (r == STEP_ON && shadow && !v->interrupt_shadow &&
            atomic_load(&v->request) & REQ_INTERRUPT && !interrupts_take(v))
            goto shutdown;
        if (r == STEP_SHUTDOWN)
            goto shutdown;
        *exit = v->exit;
        return r;
    }
    return STEP_ON;
shutdown:
    *exit = VCPU_SHUTDOWN;
    return STEP_SHUTDOWN;
}

enum vcpu_exit soft_run(struct vcpu *vcpu, struct err *err)
{
    (void)err;
    struct soft_vcpu *v = soft_vcpu_of(vcpu);
    enum vcpu_exit exit = VCPU_STOPPED;
    current_vcpu = v;
    v->run->translate = soft_engine_of(v)->code.jit_on && jit_thread_begin(v);
    guest_enter(v);
    v->tsc.limit = 0; /* CR4.TSD may be another */
    vcpu_lapic_changed(v);
    if (v->interrupt_shadow)
        vcpu_request_self(v, REQ_INTERRUPT);
    for (;;) {
        /* Entering HLT and a raised shadow set a request themselves, so this is the only test. */
        if (unlikely(atomic_load_explicit(&v->request, memory_order_relaxed)) ||
            unlikely(v->activity != X86_RUNNING)) {
            if (attend(v, &exit) != STEP_ON)
                break;
            if (v->activity != X86_RUNNING || v->interrupt_shadow ||
                atomic_load_explicit(&v->request, memory_order_relaxed) & REQ_CAREFUL)
                continue;
        }
        int r = step(v, false);
        if (unlikely(r != STEP_ON)) {
            exit = r == STEP_SHUTDOWN ? VCPU_SHUTDOWN : (enum vcpu_exit)v->exit;
            break;
        }
    }
    v->run->current = NULL;
    x87_leave_host(v);
    guest_leave(v, RUN_OUTSIDE);
    current_vcpu = NULL;
    return exit;
}
