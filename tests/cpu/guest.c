/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs cases in the soft engine: a machine with one vCPU in long mode, user code at the addresses
 * of case.h, Linux's selectors, and an IDT whose stubs write a port. The port's device stops the
 * vCPU; which stub it is in tells the exception.
 */
#include "case.h"

#include "engine/soft/cpu.h"
#include "engine/soft/engine.h"
#include "machine/machine.h"

#include <cpuid.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Guest-physical layout; the kernel's pages are mapped at KERNEL_VA + gpa. */
enum {
    GPA_PML4 = 0x1000,
    GPA_PDPT = 0x2000,
    GPA_PD = 0x3000,
    GPA_PT = 0x4000,
    GPA_GDT = 0x8000,
    GPA_LDT = 0x9000,
    GPA_IDT = 0xa000,
    GPA_TSS = 0xb000,
    GPA_STUBS = 0xc000,
    GPA_STACK = 0xd000,
    GPA_STACK_END = 0xe000,
    GPA_KERNEL_PDPT = 0xe000,
    GPA_KERNEL_PD = 0xf000,
    GPA_KERNEL_PT = 0x10000,
    GPA_CODE = 0x100000,
    GPA_DATA = 0x110000,
    GPA_USER_STACK = 0x120000,
    MEMORY = 0x200000,
};
/* Linux's half, where it does not tell programs what is present. */
#define KERNEL_VA 0xffff800000000000ull
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 32, PTE_D = 64 };
#define PTE_NX (1ull << 63)
enum { STOP_PORT = 0xf4, STUB_BYTES = 8 };
/* A case that does not end: so much CPU time, or so long without any (HLT). A busy host is neither.
 */
enum { LOOK_MS = 500, HANG_CPU_MS = 1000, HANG_MS = 60000 };
enum {
    SEL_KERNEL_CS = 0x10,
    SEL_KERNEL_DS = 0x18,
    SEL_TSS = 0x40,
    SEL_LDT = 0x50,
    SEL_CPU = 0x78,
    GDT_LIMIT = 0x7f
};

struct stopper {
    struct device dev;
    struct vcpu *vcpu;
};

struct guest {
    struct machine *m;
    struct loop *loop;
    struct vcpu *vcpu;
    struct stopper stopper;
    struct cpu_model model;
    struct cpuid_entry entries[16];
    struct arch_state base;
    unsigned dirty_offset, dirty_len; /* code bytes of the last case */
    pthread_t runner, watchdog;
    _Atomic uint64_t runs;
    _Atomic bool hang, done;
};

static void stopper_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                          uint64_t value)
{
    struct stopper *s = (struct stopper *)dev;
    engine_soft.kick(s->vcpu);
}

static const struct device_type stopper_type = { .name = "stopper",
                                                 .threads = DEVICE_PARALLEL,
                                                 .write = stopper_write };

static void put(struct guest *g, uint64_t gpa, const void *data, size_t len)
{
    memcpy(g->m->main_ram->hva + gpa, data, len);
}
static void put64(struct guest *g, uint64_t gpa, uint64_t value) { put(g, gpa, &value, 8); }

/* What the host's CPU has, as far as the engine knows it. */
static void model_fill(struct guest *g)
{
    static const struct {
        uint32_t leaf, subleaf;
    } leaves[] = { { 0, 0 },   { 1, 0 },          { 7, 0 },          { 0xd, 0 },
                   { 0xd, 1 }, { 0x80000000, 0 }, { 0x80000001, 0 }, { 0x80000008, 0 } };
    unsigned n = 0;
    for (; n < sizeof leaves / sizeof *leaves; n++) {
        struct cpuid_entry *e = &g->entries[n];
        e->leaf = leaves[n].leaf;
        e->subleaf =
            leaves[n].leaf == 7 || leaves[n].leaf == 0xd ? leaves[n].subleaf : CPUID_ANY_SUBLEAF;
        __cpuid_count(e->leaf, leaves[n].subleaf, e->eax, e->ebx, e->ecx, e->edx);
    }
    g->entries[n].leaf = 0xffffffff;
    g->model =
        (struct cpu_model){ .name = "host", .about = "for this test", .entries = g->entries };
}

static void tables_fill(struct guest *g)
{
    static const struct {
        uint64_t va, gpa;
        unsigned pages;
        uint64_t flags;
    } areas[] = {
        { CODE_VA, GPA_CODE, CODE_SIZE >> 12, PTE_U },
        { DATA_VA, GPA_DATA, DATA_SIZE >> 12, PTE_U | PTE_W | PTE_NX },
        { DATA_VA + DATA_SIZE, GPA_DATA + DATA_SIZE, READONLY_SIZE >> 12, PTE_U | PTE_NX },
        { STACK_VA, GPA_USER_STACK, STACK_SIZE >> 12, PTE_U | PTE_W | PTE_NX },
        { KERNEL_VA, 0, GPA_STACK_END >> 12, PTE_W },
    };
    uint64_t plain = PTE_P | PTE_W | PTE_U | PTE_A;
    put64(g, GPA_PML4, GPA_PDPT | plain);
    put64(g, GPA_PDPT, GPA_PD | plain);
    put64(g, GPA_PML4 + 256 * 8, GPA_KERNEL_PDPT | plain);
    put64(g, GPA_KERNEL_PDPT, GPA_KERNEL_PD | plain);
    for (unsigned n = 0; n < sizeof areas / sizeof *areas; n++) {
        bool kernel = areas[n].va == KERNEL_VA;
        uint64_t pd = kernel ? GPA_KERNEL_PD : GPA_PD;
        uint64_t pt = kernel ? GPA_KERNEL_PT : GPA_PT + 0x1000 * (areas[n].va >> 28);
        put64(g, pd + (areas[n].va >> 21 & 511) * 8, pt | plain);
        for (unsigned k = 0; k < areas[n].pages; k++)
            put64(g, pt + ((areas[n].va >> 12 & 511) + k) * 8,
                  (areas[n].gpa + k * 0x1000) | areas[n].flags | PTE_P | PTE_A | PTE_D);
    }
}

/* flags: as struct x86_segment.attr, in a descriptor's places */
static uint64_t descriptor(uint32_t base, uint32_t limit, uint64_t attr)
{
    if (attr & SEG_G)
        limit >>= 12;
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (attr & 0xff) << 40 |
           (uint64_t)(limit >> 16) << 48 | (attr >> 8 & 0xf) << 52 | (uint64_t)(base >> 24) << 56;
}

enum {
    ATTR_CODE64 = 0xb | SEG_S | 3 << SEG_DPL_SHIFT | SEG_P | SEG_L | SEG_G,
    ATTR_CODE32 = 0xb | SEG_S | 3 << SEG_DPL_SHIFT | SEG_P | SEG_DB | SEG_G,
    ATTR_CODE16 = 0xb | SEG_S | 3 << SEG_DPL_SHIFT | SEG_P,
    ATTR_DATA32 = 0x3 | SEG_S | 3 << SEG_DPL_SHIFT | SEG_P | SEG_DB | SEG_G,
    ATTR_DATA16 = 0x3 | SEG_S | 3 << SEG_DPL_SHIFT | SEG_P,
};

static void descriptors_fill(struct guest *g)
{
    put64(g, GPA_GDT + SEL_KERNEL_CS, descriptor(0, ~0u, 0xb | SEG_S | SEG_P | SEG_L | SEG_G));
    put64(g, GPA_GDT + SEL_KERNEL_DS, descriptor(0, ~0u, 0x3 | SEG_S | SEG_P | SEG_DB | SEG_G));
    put64(g, GPA_GDT + (SEL_USER32 & ~7), descriptor(0, ~0u, ATTR_CODE32));
    put64(g, GPA_GDT + (SEL_DATA & ~7), descriptor(0, ~0u, ATTR_DATA32));
    put64(g, GPA_GDT + (SEL_USER64 & ~7), descriptor(0, ~0u, ATTR_CODE64));
    put64(g, GPA_GDT + SEL_CPU, descriptor(0, 1, 5 | SEG_S | 3 << SEG_DPL_SHIFT | SEG_P | SEG_DB));
    put64(g, GPA_LDT + (SEL_CODE16 & ~7), descriptor(CODE_VA, CODE_SIZE - 1, ATTR_CODE16));
    put64(g, GPA_LDT + (SEL_DATA16 & ~7), descriptor(DATA_VA, 0xffff, ATTR_DATA16));
    put64(g, GPA_LDT + (SEL_EXTRA16 & ~7), descriptor(EXTRA16_BASE, EXTRA16_LIMIT, ATTR_DATA16));
    put64(g, GPA_LDT + (SEL_STACK16 & ~7), descriptor(STACK_VA, 0xffff, ATTR_DATA16));
    put64(g, GPA_TSS + 4, KERNEL_VA + GPA_STACK_END); /* RSP0 */
    put(g, GPA_TSS + 0x66, "\xff\xff", 2);            /* no I/O permission bitmap */
    for (unsigned n = 0; n < 256; n++) {
        uint64_t stub = KERNEL_VA + GPA_STUBS + n * STUB_BYTES, dpl = n == 3 || n == 4 ? 3 : 0;
        put64(g, GPA_IDT + n * 16,
              (stub & 0xffff) | SEL_KERNEL_CS << 16 | (0x8e00 | dpl << 13) << 32 |
                  (stub >> 16 & 0xffff) << 48);
        put64(g, GPA_IDT + n * 16 + 8, stub >> 32);
        put(g, GPA_STUBS + n * STUB_BYTES, "\xe6\xf4\xeb\xfe",
            4); /* OUT STOP_PORT, AL; JMP to itself */
    }
}

static struct x86_segment segment(uint16_t selector)
{
    switch (selector) {
    case SEL_USER32: return (struct x86_segment){ 0, ~0u, selector, ATTR_CODE32 };
    case SEL_USER64: return (struct x86_segment){ 0, ~0u, selector, ATTR_CODE64 };
    case SEL_DATA: return (struct x86_segment){ 0, ~0u, selector, ATTR_DATA32 };
    case SEL_CODE16: return (struct x86_segment){ CODE_VA, CODE_SIZE - 1, selector, ATTR_CODE16 };
    case SEL_DATA16: return (struct x86_segment){ DATA_VA, 0xffff, selector, ATTR_DATA16 };
    case SEL_EXTRA16:
        return (struct x86_segment){ EXTRA16_BASE, EXTRA16_LIMIT, selector, ATTR_DATA16 };
    case SEL_STACK16: return (struct x86_segment){ STACK_VA, 0xffff, selector, ATTR_DATA16 };
    default: return (struct x86_segment){ .selector = selector, .attr = SEG_UNUSABLE };
    }
}

static void base_state_fill(struct arch_state *s)
{
    arch_state_reset(s, 0);
    s->cr0 = 1ull << 31 | 1 << 18 | 1 << 16 | 0x33; /* PG AM WP NE ET MP PE */
    s->cr3 = GPA_PML4;
    s->cr4 = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 16 |
             1 << 18; /* PAE PGE OSFXSR OSXMMEXCPT FSGSBASE OSXSAVE */
    s->efer = 1 | 1 << 8 | 1 << 10 | 1 << 11;
    s->xcr0 = 3;
    s->gdtr = (struct x86_table){ KERNEL_VA + GPA_GDT, GDT_LIMIT };
    s->idtr = (struct x86_table){ KERNEL_VA + GPA_IDT, 0xfff };
    s->seg[S_TR] = (struct x86_segment){ KERNEL_VA + GPA_TSS, 0x67, SEL_TSS, 0xb | SEG_P };
    s->seg[S_LDTR] = (struct x86_segment){ KERNEL_VA + GPA_LDT, 0x1f, SEL_LDT, 2 | SEG_P };
}

static uint64_t cpu_ms(pthread_t thread)
{
    clockid_t clock;
    struct timespec t = { 0 };
    if (pthread_getcpuclockid(thread, &clock) == 0)
        clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Ends a run that does not end by itself. */
static void *watchdog_main(void *arg)
{
    struct guest *g = arg;
    uint64_t seen = 0, cpu = 0;
    unsigned looks = 0;
    while (!atomic_load(&g->done)) {
        usleep(LOOK_MS * 1000);
        uint64_t now = atomic_load(&g->runs);
        if (!(now & 1) || now != seen) {
            seen = now;
            cpu = cpu_ms(g->runner);
            looks = 0;
        } else if (++looks * LOOK_MS >= HANG_MS || cpu_ms(g->runner) - cpu >= HANG_CPU_MS) {
            atomic_store(&g->hang, true);
            engine_soft.kick(g->vcpu);
        }
    }
    return NULL;
}

uint64_t guest_features(const struct guest *g) { return soft_vcpu_of(g->vcpu)->features; }

struct guest *guest_create(const char *engine_options)
{
    struct guest *g = calloc(1, sizeof *g);
    struct err err = { 0 };
    if (!g || loop_create(&g->loop, &err) < 0)
        abort();
    model_fill(g);
    struct machine_config config = {
        .engine = &engine_soft,
        .engine_config = { .max_vcpus = 1, .model = &g->model, .options = engine_options },
        .cpus = 1,
        .memory = MEMORY,
        .loop = g->loop,
    };
    if (machine_create(&config, &g->m, &err) < 0 ||
        map_ram(g->m, SPACE_MEMORY, 0, MEMORY, REGION_RAM, g->m->main_ram, 0, 0, NULL, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    g->vcpu = g->m->vcpus[0];
    device_init(&g->stopper.dev, g->m, &stopper_type, "stopper");
    g->stopper.vcpu = g->vcpu;
    if (map_device(g->m, SPACE_IO, STOP_PORT, 1, &g->stopper.dev, 0, 0, NULL, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    tables_fill(g);
    descriptors_fill(g);
    memset(g->m->main_ram->hva + GPA_CODE, 0xcc, CODE_SIZE);
    base_state_fill(&g->base);
    if (guest_features(g) >> FT_AVX & 1)
        g->base.xcr0 |= 4;
    g->runner = pthread_self();
    pthread_create(&g->watchdog, NULL, watchdog_main, g);
    return g;
}

void guest_destroy(struct guest *g)
{
    atomic_store(&g->done, true);
    pthread_join(g->watchdog, NULL);
    machine_destroy(g->m);
    loop_destroy(g->loop);
    free(g);
}

static void state_from_regs(struct arch_state *s, const struct regs *r)
{
    memcpy(s->gpr, r->gpr, sizeof s->gpr);
    s->rip = r->rip;
    s->rflags = r->rflags;
    s->seg[S_CS] = segment(r->cs);
    s->seg[S_SS] = segment(r->ss);
    s->seg[S_DS] = segment(r->ds);
    s->seg[S_ES] = segment(r->es);
    s->seg[S_FS] = segment(0);
    s->seg[S_GS] = segment(0);
    s->seg[S_FS].base = FS_BASE;
    s->seg[S_GS].base = GS_BASE;
    const uint8_t *fx = r->fx;
    memcpy(&s->fpu.fcw, fx, 2);
    memcpy(&s->fpu.fsw, fx + 2, 2);
    s->fpu.ftw = fx[4];
    memcpy(&s->fpu.mxcsr, fx + 24, 4);
    for (unsigned n = 0; n < 8; n++)
        memcpy(s->fpu.st[n], fx + 32 + n * 16, 10);
    memcpy(s->fpu.xmm, fx + 160, sizeof s->fpu.xmm);
    if (s->xcr0 & 4)
        memcpy(s->fpu.ymm_high, r->ymm_high, sizeof s->fpu.ymm_high);
}

static void fx_from_state(uint8_t *fx, const struct x86_fpu *f)
{
    memset(fx, 0, 512);
    memcpy(fx, &f->fcw, 2);
    memcpy(fx + 2, &f->fsw, 2);
    fx[4] = f->ftw;
    memcpy(fx + 24, &f->mxcsr, 4);
    for (unsigned n = 0; n < 8; n++)
        memcpy(fx + 32 + n * 16, f->st[n], 10);
    memcpy(fx + 160, f->xmm, sizeof f->xmm);
}

/* The exception frame on the kernel's stack */
static void frame_take(struct guest *g, const struct arch_state *s, struct outcome *o)
{
    uint64_t frame[6], at = s->gpr[R_SP] - KERNEL_VA;
    o->vector = (s->rip - KERNEL_VA - GPA_STUBS) / STUB_BYTES;
    unsigned words = at <= GPA_STACK_END - 40 && at >= GPA_STACK ? (GPA_STACK_END - at) / 8 : 0;
    if (words != 5 && words != 6) {
        fprintf(stderr, "no exception frame: rip %#lx rsp %#lx\n", s->rip, s->gpr[R_SP]);
        o->vector = 0xff;
        return;
    }
    memcpy(frame, g->m->main_ram->hva + at, words * 8);
    const uint64_t *f = frame + (words == 6);
    o->error = words == 6 ? frame[0] : 0;
    o->out.rip = f[0];
    o->out.cs = f[1];
    o->out.rflags = f[2];
    o->out.gpr[R_SP] = f[3];
    o->out.ss = f[4];
}

void guest_run(struct guest *g, const struct cpu_case *c, struct outcome *o)
{
    struct arch_state s = g->base;
    struct err err = { 0 };
    memset(o, 0, sizeof *o);
    put(g, GPA_DATA, c->memory, DATA_SIZE + READONLY_SIZE);
    put(g, GPA_USER_STACK, c->memory + DATA_SIZE + READONLY_SIZE, STACK_SIZE);
    static const uint8_t int3[CODE_MAX] = { [0 ... CODE_MAX - 1] = 0xcc };
    if (mem_write(g->m, GPA_CODE + g->dirty_offset, int3, g->dirty_len) < 0 ||
        mem_write(g->m, GPA_CODE + c->offset, c->code, c->len) < 0)
        abort();
    g->dirty_offset = c->offset;
    g->dirty_len = c->len;
    state_from_regs(&s, &c->in);
    if (engine_soft.set_state(g->vcpu, &s, &err) < 0) {
        fprintf(stderr, "set_state: %s\n", err.text);
        exit(1);
    }
    atomic_fetch_add(&g->runs, 1);
    enum vcpu_exit exit_reason = engine_soft.run(g->vcpu, &err);
    atomic_fetch_add(&g->runs, 1);
    if (engine_soft.get_state(g->vcpu, &s, &err) < 0)
        abort();
    memcpy(o->out.gpr, s.gpr, sizeof s.gpr);
    o->out.ds = s.seg[S_DS].selector;
    o->out.es = s.seg[S_ES].selector;
    o->cr2 = s.cr2;
    fx_from_state(o->out.fx, &s.fpu);
    memcpy(o->out.ymm_high, s.fpu.ymm_high, sizeof o->out.ymm_high);
    memcpy(o->memory, g->m->main_ram->hva + GPA_DATA, DATA_SIZE + READONLY_SIZE);
    memcpy(o->memory + DATA_SIZE + READONLY_SIZE, g->m->main_ram->hva + GPA_USER_STACK, STACK_SIZE);
    o->hang = atomic_exchange(&g->hang, false);
    if (exit_reason != VCPU_STOPPED)
        fprintf(stderr, "run answered %d: %s\n", exit_reason, err.text);
    if (!o->hang)
        frame_take(g, &s, o);
}
