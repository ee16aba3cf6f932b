/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The soft engine behind the engine interface: creation, messages, dirty log, debugger.
 */
#include "engine/soft/engine.h"

#include "base/log.h"
#include "engine/soft/mem.h"
#include "engine/soft/options.h"
#include "engine/soft/run.h"
#include "engine/soft/sys.h"
#include "engine/soft/trace.h"
#include "engine/soft/walk.h"
#include "machine/machine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static struct soft_engine *engine_of(struct engine *e)
{
    return CONTAINER_OF(e, struct soft_engine, engine);
}

/* ---- Features of the CPU model ---- */

static const struct {
    uint8_t feature;
    uint32_t leaf;
    char reg;
    uint8_t bit;
} feature_bits[] = {
    { FT_CMOV, 1, 'd', 15 },
    { FT_CX8, 1, 'd', 8 },
    { FT_FXSR, 1, 'd', 24 },
    { FT_MMX, 1, 'd', 23 },
    { FT_SSE, 1, 'd', 25 },
    { FT_SSE2, 1, 'd', 26 },
    { FT_SEP, 1, 'd', 11 },
    { FT_SSE3, 1, 'c', 0 },
    { FT_PCLMUL, 1, 'c', 1 },
    { FT_MONITOR, 1, 'c', 3 },
    { FT_SSSE3, 1, 'c', 9 },
    { FT_FMA, 1, 'c', 12 },
    { FT_CX16, 1, 'c', 13 },
    { FT_SSE41, 1, 'c', 19 },
    { FT_SSE42, 1, 'c', 20 },
    { FT_MOVBE, 1, 'c', 22 },
    { FT_POPCNT, 1, 'c', 23 },
    { FT_AES, 1, 'c', 25 },
    { FT_XSAVE, 1, 'c', 26 },
    { FT_AVX, 1, 'c', 28 },
    { FT_F16C, 1, 'c', 29 },
    { FT_RDRAND, 1, 'c', 30 },
    { FT_FSGSBASE, 7, 'b', 0 },
    { FT_BMI1, 7, 'b', 3 },
    { FT_AVX2, 7, 'b', 5 },
    { FT_BMI2, 7, 'b', 8 },
    { FT_INVPCID, 7, 'b', 10 },
    { FT_RDSEED, 7, 'b', 18 },
    { FT_ADX, 7, 'b', 19 },
    { FT_SMAP, 7, 'b', 20 },
    { FT_CLFLUSHOPT, 7, 'b', 23 },
    { FT_CLWB, 7, 'b', 24 },
    { FT_SHA, 7, 'b', 29 },
    { FT_RDPID, 7, 'c', 22 },
    { FT_GFNI, 7, 'c', 8 },
    { FT_XSAVEOPT, 0xd, 'a', 0 },
    { FT_LZCNT, 0x80000001, 'c', 5 },
    { FT_LAHF64, 0x80000001, 'c', 0 },
    { FT_SYSCALL, 0x80000001, 'd', 11 },
    { FT_RDTSCP, 0x80000001, 'd', 27 },
};

static uint64_t features_of(const struct soft_vcpu *v)
{
    uint64_t features = 1ull << FT_BASE;
    for (unsigned n = 0; n < ARRAY_LEN(feature_bits); n++) {
        const struct cpuid_entry *e =
            vcpu_cpuid(v, feature_bits[n].leaf, feature_bits[n].leaf == 0xd ? 1 : 0);
        if (!e)
            continue;
        uint32_t word = feature_bits[n].reg == 'a'   ? e->eax
                        : feature_bits[n].reg == 'b' ? e->ebx
                        : feature_bits[n].reg == 'c' ? e->ecx
                                                     : e->edx;
        if (word >> feature_bits[n].bit & 1)
            features |= 1ull << feature_bits[n].feature;
    }
    return features;
}

/* What runs on the host's own units, so the host must have it. */
#define FT(f) (1ull << (f))
static const uint64_t FP_FEATURES = FT(FT_MMX) | FT(FT_SSE) | FT(FT_SSE2) | FT(FT_SSE3) |
                                    FT(FT_SSSE3) | FT(FT_SSE41) | FT(FT_SSE42) | FT(FT_AES) |
                                    FT(FT_PCLMUL) | FT(FT_SHA) | FT(FT_AVX) | FT(FT_AVX2) |
                                    FT(FT_FMA) | FT(FT_F16C);

/* ---- Creation ---- */

/* Room for translated code, and twice as much for decoded blocks: they are what fills first when it
 * is half as much again, and what runs a few times is then decoded all the time. More than at first
 * does not make the list of bench/ faster, but large programs: so it grows where it is filled again
 * soon (code_cache.c), up to an eighth of the guest's memory. */
static void code_room(struct soft_options *o, uint64_t memory)
{
    enum { FIRST = 12 << 20, LEAST = 64 << 20, MOST = 128 << 20 };
    if (o->code)
        return;
    o->code = FIRST;
    o->code_most = memory / 8 < LEAST ? LEAST : memory / 8 > MOST ? MOST : memory / 8;
}

static int soft_probe(bool *slow, struct err *err)
{
    (void)err;
    *slow = false;
    return 0;
}

static void soft_destroy(struct engine *engine)
{
    struct soft_engine *e = engine_of(engine);
    code_cache_fini(&e->code);
    jit_destroy(&e->code.jit);
    trace_destroy(e->trace);
    pthread_mutex_destroy(&e->tsc.lock);
    pthread_cond_destroy(&e->quiet);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

static int soft_create(struct machine *m, const struct engine_config *config, struct engine **out,
                       struct err *err)
{
    struct soft_options options;
    int r = soft_options_parse(config->options, &options, err);
    if (r < 0)
        return r;
    if (!config->model->entries)
        return err_set(err, EINVAL,
                       "engine soft: CPU model \"%s\" needs hardware virtualization; use x86-64-v2",
                       config->model->name);
    struct soft_engine *e = calloc(1, sizeof *e);
    if (!e)
        return err_set(err, ENOMEM, "out of memory");
    insn_table_init();
    e->engine.type = &engine_soft;
    e->engine.machine = m;
    e->max_vcpus = config->max_vcpus;
    e->model = config->model;
    m->tsc_khz = config->tsc_khz ? config->tsc_khz : 1000000;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->quiet, NULL);
    code_cache_init(&e->code);
    e->code.jit_on = options.jit;
    e->code.translate_after = (unsigned)options.translate_after;
    code_room(&options, config->memory);
    e->code.limit = options.code * 2;
    e->code.limit_most = options.code_most * 2;
    r = options.jit ? jit_create(&e->code.jit, round_up(options.code_most, PAGE_SIZE), err) : 0;
    if (r == 0 && options.jit)
        jit_room_set(&e->code.jit, options.code);
    if (r == 0)
        r = trace_create(*options.trace ? options.trace : NULL, options.perf, &e->trace, err);
    if (r < 0) {
        soft_destroy(&e->engine);
        return r;
    }
    tsc_clock_init(&e->tsc, options.tsc);
    e->code.pages.granules = options.granules;
    e->code.quick = options.quick;
    const bool traced = *options.trace;
    struct jit *jit = &e->code.jit;
    jit->link = options.link && !traced;
    jit->loops = options.loops && !traced;
    jit->sse = options.sse;
    jit->x87 = options.x87 && x87_host_able();
    jit->windows = options.windows;
    jit->pins = options.pins;
    jit->syscalls = options.syscall;
    jit->last = options.last;
    jit->stack = options.stack;
    if (!options.lookup || traced) {
        jit->find = jit->find_nothing;
        jit->find_on = jit->leave_to;
    }
    jit_table_init();
    *out = &e->engine;
    return 0;
}

static void timer_fired(void *arg)
{
    struct soft_vcpu *v = arg;
    vcpu_request(v, REQ_TIMER);
}

/* ---- Messages ---- */

enum {
    DELIVER_FIXED,
    DELIVER_LOWEST,
    DELIVER_SMI,
    DELIVER_NMI = 4,
    DELIVER_INIT,
    DELIVER_SIPI,
    DELIVER_EXTINT
};

static void deliver_to(struct soft_vcpu *v, unsigned mode, uint8_t vector, bool level)
{
    switch (mode) {
    case DELIVER_FIXED:
    case DELIVER_LOWEST:
        lapic_post(&v->lapic, vector, level);
        vcpu_request(v, REQ_INTERRUPT);
        break;
    case DELIVER_NMI:
        atomic_store(&v->run->nmi_pending, true);
        vcpu_request(v, REQ_INTERRUPT);
        break;
    case DELIVER_INIT: vcpu_request(v, REQ_INIT); break;
    case DELIVER_SIPI:
        atomic_store(&v->run->sipi_vector, vector);
        vcpu_request(v, REQ_SIPI);
        break;
    default: break; /* SMI: no SMM yet; ExtINT comes by the PIC's line */
    }
}

void soft_msi(struct engine *engine, uint64_t address, uint32_t data)
{
    struct soft_engine *e = engine_of(engine);
    uint32_t dest = (uint32_t)(address >> 12 & 0xff) | (uint32_t)(address >> 32 & 0xffffff00);
    bool logical = address >> 2 & 1;
    unsigned mode = data >> 8 & 7;
    for (unsigned n = 0; n < e->vcpu_count; n++) {
        struct soft_vcpu *v = e->vcpus[n];
        if (!lapic_accepts(&v->lapic, dest, logical))
            continue;
        deliver_to(v, mode, (uint8_t)data, data >> 15 & 1);
        if (mode == DELIVER_LOWEST)
            return;
    }
}

/* The interrupt command register was written. SDM vol. 3A 11.6. */
static void ipi_send(void *arg, uint64_t icr)
{
    struct soft_vcpu *self = arg;
    struct soft_engine *e = soft_engine_of(self);
    unsigned shorthand = icr >> 18 & 3, mode = icr >> 8 & 7;
    bool level_deassert = mode == DELIVER_INIT && icr >> 15 & 1 && !(icr >> 14 & 1);
    if (level_deassert)
        return;
    uint32_t dest = lapic_x2apic(&self->lapic) ? (uint32_t)(icr >> 32) : (uint32_t)(icr >> 56);
    for (unsigned n = 0; n < e->vcpu_count; n++) {
        struct soft_vcpu *v = e->vcpus[n];
        bool hit;
        switch (shorthand) {
        case 0: hit = lapic_accepts(&v->lapic, dest, icr >> 11 & 1); break;
        case 1: hit = v == self; break;
        case 2: hit = true; break;
        default: hit = v != self;
        }
        if (!hit)
            continue;
        deliver_to(v, mode, (uint8_t)icr, false);
        if (mode == DELIVER_LOWEST)
            return;
    }
}

static void level_eoi(void *arg, uint8_t vector)
{
    struct soft_vcpu *v = arg;
    irq_eoi(machine_of(v), vector);
}

static void lapic_woke(void *arg)
{
    struct soft_vcpu *v = arg;
    vcpu_request(v, REQ_INTERRUPT);
}

static void soft_extint(struct engine *engine, bool level)
{
    struct soft_engine *e = engine_of(engine);
    atomic_store(&e->extint, level);
    for (unsigned n = 0; level && n < e->vcpu_count; n++)
        vcpu_request(e->vcpus[n], REQ_INTERRUPT);
}

static void soft_nmi(struct vcpu *vcpu) { deliver_to(soft_vcpu_of(vcpu), DELIVER_NMI, 0, false); }

/* ---- vCPUs ---- */

static void soft_vcpu_reset(struct vcpu *vcpu)
{
    struct soft_vcpu *v = soft_vcpu_of(vcpu);
    struct arch_state state;
    arch_state_reset(&state, v->vcpu.apic_id);
    atomic_store(&v->request, 0);
    vcpu_state_install(v, &state);
}

static void soft_vcpu_destroy(struct vcpu *vcpu)
{
    if (!vcpu)
        return;
    struct soft_vcpu *v = soft_vcpu_of(vcpu);
    if (v->run) {
        guest_timer_destroy(v->run->timer);
        pthread_cond_destroy(&v->run->wake);
        free(v->run->scratch);
        free(v->run->tlbs);
        free(v->run);
    }
    free(v);
}

static int soft_vcpu_create(struct engine *engine, unsigned index, uint32_t apic_id,
                            struct vcpu **out, struct err *err)
{
    struct soft_engine *e = engine_of(engine);
    assert(index == e->vcpu_count && index < e->max_vcpus);
    struct soft_vcpu *v = aligned_alloc(64, round_up(sizeof *v, 64));
    struct vcpu_run *run = aligned_alloc(64, round_up(sizeof *run, 64));
    struct block *scratch = calloc(1, sizeof *scratch + (BLOCK_MAX + 1) * sizeof(struct insn));
    void *tlbs =
        aligned_alloc(4096, sizeof(struct tlb_entry) * TLB_CONTEXTS * TLB_MODES * TLB_SIZE);
    if (!v || !run || !scratch || !tlbs) {
        free(tlbs);
        free(v);
        free(run);
        free(scratch);
        return err_set(err, ENOMEM, "out of memory");
    }
    memset(v, 0, sizeof *v);
    memset(run, 0, sizeof *run);
    v->run = run;
    v->self = v;
    v->jump = run->jump;
    v->quick = v->quick_levels[0] = (struct quick_jumps){ run->quick[0].entries, ~0ull };
    v->quick_levels[1] = (struct quick_jumps){ run->quick[1].entries, ~0ull };
    run->scratch = scratch;
    run->tlbs = tlbs;
    run->host_hit = -1;
    pthread_cond_init(&run->wake, NULL);
    atomic_store(&run->parked, true);
    v->vcpu.engine = engine;
    v->vcpu.index = index;
    v->vcpu.apic_id = apic_id;
    v->cpuid_count =
        cpuid_build(e->model, apic_id, e->max_vcpus, engine->machine->tsc_khz, v->cpuid);
    v->features = e->code.jit.features = features_of(v);
    if (v->features & FP_FEATURES & ~fp_host_features()) {
        soft_vcpu_destroy(&v->vcpu);
        return err_set(err, ENOTSUP,
                       "engine soft: this host's CPU lacks instructions of CPU model \"%s\"; use "
                       "another --cpu",
                       e->model->name);
    }
    const struct cpuid_entry *sizes = vcpu_cpuid(v, 0x80000008, 0);
    run->phys_mask = (1ull << (sizes ? sizes->eax & 0xff : 36)) - 1;
    int r = guest_timer_create(engine->machine, timer_fired, v, &run->timer, err);
    if (r < 0) {
        soft_vcpu_destroy(&v->vcpu);
        return r;
    }
    lapic_setup(&v->lapic, apic_id,
                &(struct lapic_links){
                    .arg = v, .send_ipi = ipi_send, .level_eoi = level_eoi, .wake = lapic_woke });
    struct arch_state state;
    arch_state_reset(&state, apic_id);
    vcpu_state_install(v, &state);
    e->vcpus[e->vcpu_count++] = v;
    *out = &v->vcpu;
    return 0;
}

static void soft_kick(struct vcpu *vcpu) { vcpu_request(soft_vcpu_of(vcpu), REQ_STOP); }

/* ---- Memory ---- */

static void soft_map_changed(struct engine *engine)
{
    struct soft_engine *e = engine_of(engine);
    for (unsigned n = 0; n < e->vcpu_count; n++)
        vcpu_request(e->vcpus[n], REQ_FLUSH);
}

static void soft_invalidate(struct engine *engine, struct ram *ram, uint64_t offset, uint64_t len)
{
    code_written(engine_of(engine), ram, offset, len);
}

static void drop_all_writes(void *arg)
{
    struct soft_engine *e = arg;
    for (unsigned n = 0; n < e->vcpu_count; n++)
        tlb_drop_writes(e->vcpus[n]);
}

static int soft_dirty_log(struct engine *engine, bool on, struct err *err)
{
    (void)err;
    if (on)
        soft_rendezvous(engine, drop_all_writes, engine_of(engine));
    return 0;
}

static void soft_dirty_sync(struct engine *engine, struct ram *ram, uint64_t *bitmap)
{
    (void)ram, (void)bitmap; /* page_flags is the log */
    soft_rendezvous(engine, drop_all_writes, engine_of(engine));
}

static void soft_clock_changed(struct engine *engine, bool running)
{
    struct soft_engine *e = engine_of(engine);
    for (unsigned n = 0; running && n < e->vcpu_count; n++)
        kvmclock_update(e->vcpus[n]);
}

/* ---- Debugger ---- */

static int soft_debug(struct vcpu *vcpu, const struct debug_point *points, unsigned count,
                      bool single, struct err *err)
{
    struct soft_vcpu *v = soft_vcpu_of(vcpu);
    if (count > ARRAY_LEN(v->run->points))
        return err_set(err, ENOSPC, "at most %zu breakpoints and watchpoints",
                       ARRAY_LEN(v->run->points));
    memcpy(v->run->points, points, count * sizeof *points);
    v->run->point_count = count;
    v->run->step = single;
    v->run->skip_points = true;
    vcpu_update_careful(v);
    return 0;
}

static int soft_translate(struct vcpu *vcpu, uint64_t gva, uint64_t *gpa)
{
    struct walk w;
    if (!walk_quiet(soft_vcpu_of(vcpu), gva, ACCESS_READ, TLB_KERNEL_AC, &w))
        return -EFAULT;
    *gpa = w.gpa;
    return 0;
}

static void soft_counters(struct engine *engine,
                          void (*add)(void *arg, const char *name, uint64_t value), void *arg)
{
    struct soft_engine *e = engine_of(engine);
    uint64_t decoded = 0, walks = 0, exceptions = 0, interrupts = 0, mmio = 0, halts = 0;
    for (unsigned n = 0; n < e->vcpu_count; n++) {
        const struct vcpu_run *run = e->vcpus[n]->run;
        decoded += run->blocks_decoded;
        walks += run->walks;
        exceptions += run->exceptions;
        interrupts += run->interrupts;
        mmio += run->mmio;
        halts += run->halts;
    }
    add(arg, "soft_blocks_decoded_total", decoded);
    add(arg, "soft_page_walks_total", walks);
    add(arg, "soft_exceptions_total", exceptions);
    add(arg, "soft_interrupts_total", interrupts);
    add(arg, "soft_mmio_total", mmio);
    add(arg, "soft_halts_total", halts);
    LOCKED(&e->code.lock);
    add(arg, "soft_code_bytes", e->code.bytes);
    add(arg, "soft_code_limit", e->code.limit);
    add(arg, "soft_code_flushes_total", e->code.flushes);
    add(arg, "soft_code_cold_drops_total", e->code.cold_drops);
}

const struct engine_type engine_soft = {
    .name = "soft",
    .about = "Bedplate's own x86-64 engine; needs no hardware virtualization",
    .probe = soft_probe,
    .create = soft_create,
    .destroy = soft_destroy,
    .vcpu_create = soft_vcpu_create,
    .vcpu_destroy = soft_vcpu_destroy,
    .vcpu_reset = soft_vcpu_reset,
    .run = soft_run,
    .kick = soft_kick,
    .rendezvous = soft_rendezvous,
    .get_state = soft_get_state,
    .set_state = soft_set_state,
    .map_changed = soft_map_changed,
    .invalidate = soft_invalidate,
    .dirty_log = soft_dirty_log,
    .dirty_sync = soft_dirty_sync,
    .msi = soft_msi,
    .extint = soft_extint,
    .nmi = soft_nmi,
    .clock_changed = soft_clock_changed,
    .debug = soft_debug,
    .translate = soft_translate,
    .counters = soft_counters,
};
