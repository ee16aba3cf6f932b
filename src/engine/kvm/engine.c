/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The KVM engine: whether it works here, its creation, the run loop, kicks and rendezvous. The
 * invariants are in kvm.h.
 */
#include "engine/kvm/kvm.h"

#include "base/log.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* Brings a vCPU thread out of KVM_RUN; blocked elsewhere, and its handler does nothing. */
#define KICK_SIGNAL SIGUSR2

/* ---- is KVM here, and does it run kernel code itself? ---- */

static const struct {
    int cap;
    const char *name;
} needed_caps[] = {
    { KVM_CAP_USER_MEMORY, "memory slots" },
    { KVM_CAP_SPLIT_IRQCHIP, "the split irqchip" },
    { KVM_CAP_SIGNAL_MSI, "interrupt messages" },
    { KVM_CAP_X2APIC_API, "32-bit APIC ids" },
    { KVM_CAP_IMMEDIATE_EXIT, "immediate_exit" },
    { KVM_CAP_MP_STATE, "vCPU activity" },
    { KVM_CAP_VCPU_EVENTS, "pending events" },
    { KVM_CAP_DEBUGREGS, "debug registers" },
    { KVM_CAP_XSAVE, "XSAVE state" },
    { KVM_CAP_XCRS, "XCR0" },
    { KVM_CAP_SREGS2, "PDPTRs" },
    { KVM_CAP_VCPU_ATTRIBUTES, "TSC offsets" },
    { KVM_CAP_READONLY_MEM, "read-only memory" },
    { KVM_CAP_IOEVENTFD, "doorbells" },
};

static int kvm_open(int *out, struct err *err)
{
    AUTO(fd_close) int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0 && errno == EACCES)
        return err_set(err, EACCES, "/dev/kvm is there, but not for this user: join the group kvm");
    if (fd < 0 && errno == ENOENT)
        return err_set(err, ENOENT, "this host has no /dev/kvm");
    if (fd < 0)
        return err_errno(err, errno, "cannot open /dev/kvm");
    int version = ioctl(fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION)
        return err_set(err, ENOTSUP, "/dev/kvm has API version %d, not %d", version,
                       KVM_API_VERSION);
    for (size_t i = 0; i < ARRAY_LEN(needed_caps); i++)
        if (ioctl(fd, KVM_CHECK_EXTENSION, needed_caps[i].cap) <= 0)
            return err_set(err, ENOTSUP, "this host's KVM lacks %s: Linux 6.1 has it",
                           needed_caps[i].name);
    *out = TAKE_FD(fd);
    return 0;
}

/* A scratch VM of one vCPU and one page, for the probe. */
struct scratch {
    int vm, vcpu;
    uint8_t *page;
    struct kvm_run *run;
    size_t run_size;
};

static void scratch_close(struct scratch *s)
{
    if (s->run)
        munmap(s->run, s->run_size);
    fd_close(s->vcpu);
    fd_close(s->vm);
    if (s->page)
        munmap(s->page, PAGE_SIZE);
}

/* In flat 32-bit protected mode at CPL 0: mov ecx, 2000; 1: dec ecx; jnz 1b; hlt */
enum { PROBE_LOOPS = 2000 };
static const uint8_t probe_code[] = {
    0xb9, PROBE_LOOPS & 0xff, PROBE_LOOPS >> 8, 0, 0, 0x49, 0x75, 0xfd, 0xf4
};

/* A signal that arrives meanwhile ends the making of a VM; it is not an error of KVM. */
static int vm_fd_create(int kvm)
{
    int fd;
    do {
        fd = ioctl(kvm, KVM_CREATE_VM, 0);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

static int scratch_open(int kvm, struct scratch *s)
{
    *s = (struct scratch){ .vm = -1, .vcpu = -1 };
    s->page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s->page == MAP_FAILED) {
        s->page = NULL;
        return -errno;
    }
    memcpy(s->page, probe_code, sizeof probe_code);
    s->vm = vm_fd_create(kvm);
    if (s->vm < 0)
        return -errno;
    struct kvm_userspace_memory_region region = { .memory_size = PAGE_SIZE,
                                                  .userspace_addr = (uint64_t)(uintptr_t)s->page };
    ioctl(s->vm, KVM_SET_TSS_ADDR, 0xfeffd000);
    if (ioctl(s->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return -errno;
    s->vcpu = ioctl(s->vm, KVM_CREATE_VCPU, 0);
    if (s->vcpu < 0)
        return -errno;
    int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    s->run_size = size > 0 ? (size_t)size : 0;
    void *run = mmap(NULL, s->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, s->vcpu, 0);
    if (run == MAP_FAILED)
        return -errno;
    s->run = run;
    return 0;
}

static uint64_t thread_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Runs the loop once; UINT64_MAX when it cannot. */
static uint64_t scratch_time(const struct scratch *s)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = { .rflags = 2 };
    if (ioctl(s->vcpu, KVM_GET_SREGS, &sregs) < 0)
        return UINT64_MAX;
    struct kvm_segment flat = { .limit = ~0u, .present = 1, .s = 1, .db = 1, .g = 1 };
    sregs.cs = flat;
    sregs.cs.type = 0xb;
    sregs.cs.selector = 8;
    flat.type = 3;
    flat.selector = 16;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat;
    sregs.cr0 |= 1;
    if (ioctl(s->vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(s->vcpu, KVM_SET_REGS, &regs) < 0)
        return UINT64_MAX;
    uint64_t start = thread_cpu_ns();
    if (ioctl(s->vcpu, KVM_RUN, 0) < 0 || s->run->exit_reason != KVM_EXIT_HLT)
        return UINT64_MAX;
    return thread_cpu_ns() - start;
}

/* 4000 instructions take a CPU some microseconds, KVM's instruction emulator a millisecond and
 * more. The best of a few, since the first one faults pages in. */
static int kvm_is_slow(int kvm, bool *slow)
{
    enum { EMULATED_NS = 400000 };
    struct scratch s;
    int r = scratch_open(kvm, &s);
    uint64_t best = UINT64_MAX;
    for (unsigned i = 0; r == 0 && i < 3 && best >= EMULATED_NS; i++) {
        uint64_t ns = scratch_time(&s);
        best = ns < best ? ns : best;
    }
    scratch_close(&s);
    if (r == 0 && best == UINT64_MAX)
        r = -EIO;
    *slow = best >= EMULATED_NS;
    return r;
}

static int kvm_probe(bool *slow, struct err *err)
{
    AUTO(fd_close) int kvm = -1;
    int r = kvm_open(&kvm, err);
    if (r < 0)
        return r;
    r = kvm_is_slow(kvm, slow);
    if (r < 0)
        return err_errno(err, -r, "/dev/kvm cannot run a guest");
    if (*slow)
        err_set(err, 0, "this host's KVM emulates the guest's kernel, instruction by instruction");
    return 0;
}

/* ---- kicks and rendezvous ---- */

static _Thread_local struct kvm_vcpu *current_vcpu; /* whose run() this thread is in */

static void kick_arrived(int signal) { (void)signal; }

static void kick_prepare(void)
{
    struct sigaction action = { .sa_handler = kick_arrived, .sa_flags = SA_RESTART };
    sigaction(KICK_SIGNAL, &action, NULL);
}

static void poke_locked(struct kvm_vcpu *v)
{
    __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST); /* 2 */
    if (v->entered && v != current_vcpu)
        pthread_kill(v->thread, KICK_SIGNAL);
}

void vcpu_poke(struct kvm_vcpu *v)
{
    LOCKED(&kvm_engine_of_vcpu(v)->place_lock);
    poke_locked(v);
}

static void kvm_kick(struct vcpu *vcpu)
{
    struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
    atomic_store(&v->kicked, true);
    vcpu_poke(v);
}

static bool all_safe(const struct kvm_engine *e)
{
    for (unsigned i = 0; i < e->vcpu_count; i++)
        if (!e->vcpus[i]->safe)
            return false;
    return true;
}

static void place_set(struct kvm_vcpu *v, bool safe)
{
    v->safe = safe;
    pthread_cond_broadcast(&kvm_engine_of_vcpu(v)->place_changed);
}

/* The vCPU goes on once no rendezvous is under way. */
static void place_resume_locked(struct kvm_engine *e, struct kvm_vcpu *v)
{
    while (e->gathering)
        pthread_cond_wait(&e->place_changed, &e->place_lock);
    v->safe = false;
}

static void gather_wait(struct kvm_vcpu *v)
{
    struct kvm_engine *e = kvm_engine_of_vcpu(v);
    LOCKED(&e->place_lock);
    place_set(v, true);
    place_resume_locked(e, v);
}

void kvm_rendezvous(struct engine *engine, void (*fn)(void *arg), void *arg)
{
    struct kvm_engine *e = kvm_engine_of(engine);
    struct kvm_vcpu *self =
        current_vcpu && current_vcpu->vcpu.engine == engine ? current_vcpu : NULL;

    pthread_mutex_lock(&e->place_lock);
    if (self)
        place_set(self, true);
    while (e->gathering)
        pthread_cond_wait(&e->place_changed, &e->place_lock);
    e->gathering = true;
    for (unsigned i = 0; i < e->vcpu_count; i++)
        if (!e->vcpus[i]->safe)
            poke_locked(e->vcpus[i]);
    while (!all_safe(e))
        pthread_cond_wait(&e->place_changed, &e->place_lock);
    pthread_mutex_unlock(&e->place_lock);

    fn(arg);

    pthread_mutex_lock(&e->place_lock);
    e->gathering = false;
    pthread_cond_broadcast(&e->place_changed);
    if (self)
        place_resume_locked(e, self);
    pthread_mutex_unlock(&e->place_lock);
}

/* ---- the run loop ---- */

static void count(_Atomic uint64_t *counter)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

static void io_serve(struct kvm_vcpu *v)
{
    struct machine *m = v->vcpu.engine->machine;
    struct kvm_run *run = v->run;
    uint16_t port = run->io.port;
    uint8_t size = run->io.size;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    for (uint32_t i = 0; i < run->io.count; i++, data += size) {
        uint64_t value = 0;
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            memcpy(&value, data, size);
            bus_write(m, SPACE_IO, port, size, value);
        } else {
            value = bus_read(m, SPACE_IO, port, size);
            memcpy(data, &value, size);
        }
    }
}

/* The bus takes aligned powers of two; a guest may ask for 3 bytes, or 8 across two registers. */
static void mmio_serve(struct kvm_vcpu *v)
{
    struct machine *m = v->vcpu.engine->machine;
    struct kvm_run *run = v->run;
    uint64_t addr = run->mmio.phys_addr;
    unsigned len = run->mmio.len > 8 ? 8 : run->mmio.len;
    for (unsigned at = 0; at < len;) {
        unsigned size = 8;
        while (size > len - at || (size > 1 && (addr + at) % size))
            size /= 2;
        uint64_t value = 0;
        if (run->mmio.is_write) {
            memcpy(&value, run->mmio.data + at, size);
            bus_write(m, SPACE_MEMORY, addr + at, size, value);
        } else {
            value = bus_read(m, SPACE_MEMORY, addr + at, size);
            memcpy(run->mmio.data + at, &value, size);
        }
        at += size;
    }
}

static enum vcpu_exit run_failed(struct kvm_vcpu *v, struct err *err, const char *what,
                                 unsigned long long code)
{
    struct kvm_regs regs = { 0 };
    struct kvm_sregs2 sregs = { 0 };
    ioctl(v->fd, KVM_GET_REGS, &regs);
    ioctl(v->fd, KVM_GET_SREGS2, &sregs);
    char bytes[3 * 15 + 1] = "";
    const struct kvm_run *run = v->run;
    if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR &&
        run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION &&
        run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)
        for (unsigned i = 0; i < run->emulation_failure.insn_size && i < 15; i++)
            snprintf(bytes + 3 * i, 4, " %02x", run->emulation_failure.insn_bytes[i]);
    err_set(err, EIO,
            "vcpu %u: KVM cannot go on: %s (%#llx) at rip=%#llx cs=%#x cr0=%#llx cr3=%#llx "
            "cr4=%#llx efer=%#llx rflags=%#llx rsp=%#llx%s%s; the soft engine may run this guest",
            v->vcpu.index, what, code, (unsigned long long)regs.rip, sregs.cs.selector,
            (unsigned long long)sregs.cr0, (unsigned long long)sregs.cr3,
            (unsigned long long)sregs.cr4, (unsigned long long)sregs.efer,
            (unsigned long long)regs.rflags, (unsigned long long)regs.rsp,
            *bytes ? " instruction" : "", bytes);
    return VCPU_ERROR;
}

/* An exit that ends run(); VCPU_STOPPED stands for "go on". */
static enum vcpu_exit exit_serve(struct kvm_vcpu *v, uint64_t generation, struct err *err)
{
    struct kvm_engine *e = kvm_engine_of_vcpu(v);
    struct kvm_run *run = v->run;
    count(&v->count.exits);
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        count(&v->count.io);
        io_serve(v);
        v->io_pending = true;
        return VCPU_STOPPED;
    case KVM_EXIT_MMIO:
        count(&v->count.mmio);
        mmio_serve(v);
        v->io_pending = true;
        return VCPU_STOPPED;
    case KVM_EXIT_IOAPIC_EOI:
        count(&v->count.eoi);
        irq_eoi(v->vcpu.engine->machine, run->eoi.vector);
        return VCPU_STOPPED;
    case KVM_EXIT_IRQ_WINDOW_OPEN: count(&v->count.windows); return VCPU_STOPPED;
    case KVM_EXIT_DIRTY_RING_FULL:
        count(&v->count.ring_full);
        slots_ring_full(e);
        return VCPU_STOPPED;
    case KVM_EXIT_INTR:
    case KVM_EXIT_HLT: return VCPU_STOPPED;
    case KVM_EXIT_SHUTDOWN: return VCPU_SHUTDOWN;
    case KVM_EXIT_DEBUG: debug_exit(v); return VCPU_DEBUG;
    case KVM_EXIT_FAIL_ENTRY:
        return run_failed(v, err, "the CPU refuses the guest's state",
                          run->fail_entry.hardware_entry_failure_reason);
    case KVM_EXIT_INTERNAL_ERROR:
        /* It may have looked for code in a slot that is just being replaced. */
        if (generation & 1 || generation != atomic_load(&e->slots_generation)) {
            LOCKED(&e->slots_lock);
            return VCPU_STOPPED;
        }
        return run_failed(v, err,
                          run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
                              ? "an instruction that it cannot emulate"
                              : "internal error",
                          run->internal.suberror);
    default: return run_failed(v, err, "unknown exit", run->exit_reason);
    }
}

/* One KVM_RUN. Its result is -errno, or 0 with an exit to serve. */
static int guest_enter(struct kvm_vcpu *v)
{
    v->io_pending = false;
    int r = ioctl(v->fd, KVM_RUN, 0) < 0 ? -errno : 0;
    if (r != -EINTR && r != -EAGAIN)
        v->extint_vector = -1;
    return r;
}

/* Finishes what an exit left half done, without running the guest (3). */
static enum vcpu_exit io_settle(struct kvm_vcpu *v, struct err *err)
{
    enum vcpu_exit exit = VCPU_STOPPED;
    while (v->io_pending && exit == VCPU_STOPPED) {
        v->run->immediate_exit = 1;
        if (guest_enter(v) == 0)
            exit = exit_serve(v, atomic_load(&kvm_engine_of_vcpu(v)->slots_generation), err);
    }
    return exit;
}

static enum vcpu_exit run_step(struct kvm_vcpu *v, struct err *err)
{
    struct kvm_engine *e = kvm_engine_of_vcpu(v);
    if (unlikely(e->gathering)) {
        enum vcpu_exit exit = io_settle(v, err);
        if (exit != VCPU_STOPPED)
            return exit;
        gather_wait(v);
    }
    uint64_t generation = atomic_load(&e->slots_generation);
    irqs_before_run(v);
    int r = guest_enter(v);
    if (r == 0)
        return exit_serve(v, generation, err);
    count(&v->count.signals);
    if (r == -EINTR || r == -EAGAIN)
        return VCPU_STOPPED;
    if (r == -EFAULT)
        return run_failed(v, err, "a page of the guest's memory cannot be had", 0);
    return run_failed(v, err, strerror(-r), (unsigned long long)-r);
}

static enum vcpu_exit run_loop(struct kvm_vcpu *v, struct err *err)
{
    for (;;) {
        __atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST); /* 2 */
        if (unlikely(v->kicked)) {
            enum vcpu_exit exit = io_settle(v, err);
            v->kicked = exit != VCPU_STOPPED;
            return exit;
        }
        enum vcpu_exit exit = run_step(v, err);
        if (unlikely(exit != VCPU_STOPPED))
            return exit;
    }
}

static void run_enter(struct kvm_vcpu *v)
{
    struct kvm_engine *e = kvm_engine_of_vcpu(v);
    pthread_mutex_lock(&e->place_lock);
    v->thread = pthread_self();
    v->entered = true;
    place_resume_locked(e, v);
    pthread_mutex_unlock(&e->place_lock);
    current_vcpu = v;
}

static void run_leave(struct kvm_vcpu *v)
{
    struct kvm_engine *e = kvm_engine_of_vcpu(v);
    time_left(v);
    current_vcpu = NULL;
    pthread_mutex_lock(&e->place_lock);
    v->entered = false;
    place_set(v, true);
    pthread_mutex_unlock(&e->place_lock);
}

static enum vcpu_exit kvm_run(struct vcpu *vcpu, struct err *err)
{
    struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
    sigset_t kick, old;
    sigemptyset(&kick);
    sigaddset(&kick, KICK_SIGNAL);
    run_enter(v);
    pthread_sigmask(SIG_UNBLOCK, &kick, &old);
    enum vcpu_exit exit = run_loop(v, err);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    run_leave(v);
    return exit;
}

/* ---- vCPUs ---- */

static void kvm_vcpu_destroy(struct vcpu *vcpu)
{
    if (!vcpu)
        return;
    struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
    struct kvm_engine *e = kvm_engine_of_vcpu(v);
    for (unsigned i = 0; i < e->vcpu_count; i++)
        if (e->vcpus[i] == v)
            e->vcpus[i] = e->vcpus[--e->vcpu_count];
    ring_unmap(v);
    if (v->run)
        munmap(v->run, e->run_size);
    fd_close(v->fd);
    free(v);
}

static int vcpu_open(struct kvm_engine *e, struct kvm_vcpu *v, struct err *err)
{
    v->fd = ioctl(e->fd, KVM_CREATE_VCPU, (unsigned long)v->vcpu.apic_id);
    if (v->fd < 0)
        return err_errno(err, errno, "KVM cannot create a vCPU");
    void *run = mmap(NULL, e->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
    if (run == MAP_FAILED)
        return err_errno(err, errno, "cannot map the vCPU");
    v->run = run;
    int r = ring_map(e, v, err);
    if (r == 0)
        r = time_vcpu_create(v, err);
    return r < 0 ? r : cpuid_vcpu_create(v, err);
}

static int kvm_vcpu_create(struct engine *engine, unsigned index, uint32_t apic_id,
                           struct vcpu **out, struct err *err)
{
    struct kvm_engine *e = kvm_engine_of(engine);
    assert(e->vcpu_count < e->max_vcpus);
    struct kvm_vcpu *v = calloc(1, sizeof *v);
    if (!v)
        return err_set(err, ENOMEM, "out of memory");
    v->vcpu = (struct vcpu){ .engine = engine, .index = index, .apic_id = apic_id };
    v->fd = -1;
    v->safe = true;
    v->extint_vector = -1;
    struct arch_state state;
    arch_state_reset(&state, apic_id);
    int r = vcpu_open(e, v, err);
    e->vcpus[e->vcpu_count++] = v;
    if (r == 0)
        r = state_set(&v->vcpu, &state, err);
    if (r < 0) {
        kvm_vcpu_destroy(&v->vcpu);
        return r;
    }
    *out = &v->vcpu;
    return 0;
}

static void kvm_vcpu_reset(struct vcpu *vcpu)
{
    struct arch_state state;
    struct err err = { 0 };
    arch_state_reset(&state, vcpu->apic_id);
    if (state_set(vcpu, &state, &err) < 0)
        log_error("%s", err.text);
}

/* ---- the engine ---- */

static void kvm_destroy(struct engine *engine)
{
    if (!engine)
        return;
    struct kvm_engine *e = kvm_engine_of(engine);
    fd_close(e->fd);
    pthread_cond_destroy(&e->place_changed);
    pthread_mutex_destroy(&e->place_lock);
    pthread_mutex_destroy(&e->route_lock);
    slots_fini(e);
    free(e);
}

static int options_parse(const char *options, bool *ring, struct err *err)
{
    *ring = options && !strcmp(options, "dirty-log=ring");
    if (!options || !*options || *ring || !strcmp(options, "dirty-log=bitmap"))
        return 0;
    return err_set(err, EINVAL, "engine kvm knows dirty-log=bitmap and dirty-log=ring, not %s",
                   options);
}

/*
 * Bitmaps, cleared when we say so, unless rings are asked for. KVM's emulator adds an entry for
 * each element of a string instruction, up to 1024 in one go, where a ring that is reported full
 * has a few hundred left: it wraps, and writes are lost. Bitmaps lose nothing and cost no more
 * here.
 */
static int dirty_log_choose(struct kvm_engine *e, bool ring, struct err *err)
{
    static const unsigned rings[] = { KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING };
    for (size_t i = 0; i < ARRAY_LEN(rings) && ring && !e->has_ring; i++) {
        int size = ioctl(e->fd, KVM_CHECK_EXTENSION, rings[i]);
        struct kvm_enable_cap cap = { .cap = rings[i],
                                      .args = { KVM_RING_ENTRIES * sizeof(struct kvm_dirty_gfn) } };
        e->has_ring = size >= (int)cap.args[0] && ioctl(e->fd, KVM_ENABLE_CAP, &cap) == 0;
    }
    if (ring)
        return e->has_ring ? 0 : err_set(err, ENOTSUP, "this host's KVM has no dirty rings");
    struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                                  .args = { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE } };
    if (ioctl(e->fd, KVM_ENABLE_CAP, &cap) < 0)
        return err_errno(err, errno, "KVM cannot clear its dirty bitmaps by hand");
    return 0;
}

static void sizes_ask(struct kvm_engine *e, int kvm)
{
    int run = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    int xsave = ioctl(e->fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
    int slots = ioctl(e->fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS);
    e->run_size = run > 0 ? (size_t)run : PAGE_SIZE;
    e->xsave_size = xsave > 4096 ? (size_t)xsave : 4096;
    e->slots_max = slots > 0 && slots < KVM_SLOTS_MAX ? (unsigned)slots : KVM_SLOTS_MAX;
    e->any_length_doorbell = ioctl(e->fd, KVM_CHECK_EXTENSION, KVM_CAP_IOEVENTFD_ANY_LENGTH) > 0;
    __builtin_cpu_init();
    e->host_avx = __builtin_cpu_supports("avx");
}

static int vm_open(struct kvm_engine *e, int kvm, const char *options, struct err *err)
{
    /* Where Intel CPUs without unrestricted guests keep what KVM needs for real mode: behind the
     * chips, below the firmware. */
    uint64_t identity_map = 0xfeffc000;
    bool ring = false;
    int r = options_parse(options, &ring, err);
    if (r < 0)
        return r;
    e->fd = vm_fd_create(kvm);
    if (e->fd < 0)
        return err_errno(err, errno, "KVM cannot create a VM");
    int ids = ioctl(e->fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPU_ID);
    if (ids > 0 && e->max_vcpus > (unsigned)ids)
        return err_set(err, EINVAL, "this host's KVM takes at most %d vCPUs", ids);
    struct kvm_enable_cap max_id = { .cap = KVM_CAP_MAX_VCPU_ID, .args = { e->max_vcpus } };
    ioctl(e->fd, KVM_ENABLE_CAP, &max_id); /* saves KVM some tables where it knows how */
    ioctl(e->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
    ioctl(e->fd, KVM_SET_TSS_ADDR, (unsigned long)identity_map + PAGE_SIZE);
    r = irqs_create(e, err);
    if (r == 0)
        r = dirty_log_choose(e, ring, err);
    if (r < 0)
        return r;
    sizes_ask(e, kvm);
    r = time_create(e, err);
    return r < 0 ? r : cpuid_create(e, kvm, err);
}

static int kvm_create(struct machine *m, const struct engine_config *config, struct engine **out,
                      struct err *err)
{
    AUTO(fd_close) int kvm = -1;
    int r = kvm_open(&kvm, err);
    if (r < 0)
        return r;
    struct kvm_engine *e = calloc(1, sizeof *e);
    if (!e)
        return err_set(err, ENOMEM, "out of memory");
    e->engine = (struct engine){ .type = &engine_kvm, .machine = m };
    e->model = config->model;
    e->max_vcpus = config->max_vcpus;
    e->fd = -1;
    pthread_mutex_init(&e->place_lock, NULL);
    pthread_mutex_init(&e->route_lock, NULL);
    pthread_cond_init(&e->place_changed, NULL);
    slots_init(e);
    kick_prepare();
    r = vm_open(e, kvm, config->options, err);
    if (r < 0) {
        kvm_destroy(&e->engine);
        return r;
    }
    *out = &e->engine;
    return 0;
}

/* KVM notices writes to guest memory by itself. */
static void kvm_invalidate(struct engine *e, struct ram *ram, uint64_t offset, uint64_t len)
{
    (void)e, (void)ram, (void)offset, (void)len;
}

static void kvm_counters(struct engine *engine,
                         void (*add)(void *arg, const char *name, uint64_t value), void *arg)
{
    struct kvm_engine *e = kvm_engine_of(engine);
    uint64_t exits = 0, io = 0, mmio = 0, eoi = 0, windows = 0, signals = 0, full = 0;
    for (unsigned i = 0; i < e->vcpu_count; i++) {
        const struct kvm_vcpu *v = e->vcpus[i];
        exits += v->count.exits;
        io += v->count.io;
        mmio += v->count.mmio;
        eoi += v->count.eoi;
        windows += v->count.windows;
        signals += v->count.signals;
        full += v->count.ring_full;
    }
    add(arg, "kvm_exits_total", exits);
    add(arg, "kvm_io_exits_total", io);
    add(arg, "kvm_mmio_exits_total", mmio);
    add(arg, "kvm_eoi_exits_total", eoi);
    add(arg, "kvm_interrupt_window_exits_total", windows);
    add(arg, "kvm_signal_exits_total", signals);
    add(arg, "kvm_dirty_ring_full_total", full);
}

const struct engine_type engine_kvm = {
    .name = "kvm",
    .about = "the host's hardware virtualization, by /dev/kvm",
    .probe = kvm_probe,
    .create = kvm_create,
    .destroy = kvm_destroy,
    .vcpu_create = kvm_vcpu_create,
    .vcpu_destroy = kvm_vcpu_destroy,
    .vcpu_reset = kvm_vcpu_reset,
    .run = kvm_run,
    .kick = kvm_kick,
    .rendezvous = kvm_rendezvous,
    .get_state = state_get,
    .set_state = state_set,
    .map_changed = slots_changed,
    .invalidate = kvm_invalidate,
    .dirty_log = slots_dirty_log,
    .dirty_sync = slots_dirty_sync,
    .msi = irqs_msi,
    .extint = irqs_extint,
    .nmi = irqs_nmi,
    .eoi_watch = irqs_eoi_watch,
    .doorbell = slots_doorbell,
    .clock_changed = time_clock_changed,
    .debug = debug_set,
    .translate = debug_translate,
    .counters = kvm_counters,
};
