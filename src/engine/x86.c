/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The saved form of an x86-64 vCPU, its power-on values, and the CPU models.
 *
 * The check refuses what no x86 can be in, whatever its model (SDM volume
 * 3, 2.5, 4.1, 11.11, 27.3); what a model lacks is refused by the engine's set_state, which knows
 * the model.
 */
#include "engine/x86.h"

#include "base/checked.h"

#include <assert.h>
#include <string.h>

#define BIT(n) (1u << (n))

/* Control bits that the rules below name. */
enum { CR0_PE = 1, CR0_NW = 1 << 29, CR0_CD = 1 << 30, CR0_ALLOWED_LOW = 0x6005003f };
#define CR0_PG (1ull << 31)
#define CR0_ALLOWED (CR0_PG | CR0_ALLOWED_LOW)
enum { CR4_PAE = 1 << 5, CR4_LA57 = 1 << 12, CR4_PCIDE = 1 << 17, CR4_ALLOWED = 0x01f77fff };
enum { EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_ALLOWED = 0x4d01 };
enum { RFLAGS_ONE = 2, RFLAGS_VM = 1 << 17, RFLAGS_ALLOWED = 0x3f7fd7 };
enum { XCR0_X87 = 1, XCR0_SSE = 2, XCR0_AVX = 4 };
enum { APIC_BASE_BSP = 1 << 8, APIC_BASE_X2 = 1 << 10, APIC_BASE_ENABLE = 1 << 11 };
#define PHYSICAL_MASK 0x000fffffffffffffull

/* ---- Which states can be ---- */

static int refuse(struct err *err, const char *what)
{
    return err_set(err, EINVAL, "%s holds a value that no CPU can have", what);
}

static bool canonical(const struct arch_state *s, uint64_t va)
{
    unsigned shift = s->cr4 & CR4_LA57 ? 7 : 16;
    return (uint64_t)((int64_t)(va << shift) >> shift) == va;
}

static int control_check(const struct arch_state *s, struct err *err)
{
    bool paging = s->cr0 & CR0_PG, lma = s->efer & EFER_LMA;
    if (s->cr0 & ~CR0_ALLOWED || (paging && !(s->cr0 & CR0_PE)) ||
        (s->cr0 & CR0_NW && !(s->cr0 & CR0_CD)))
        return refuse(err, "cr0");
    if (s->efer & ~(uint64_t)EFER_ALLOWED || lma != (paging && s->efer & EFER_LME))
        return refuse(err, "efer");
    if (s->cr4 & ~(uint64_t)CR4_ALLOWED || (lma && !(s->cr4 & CR4_PAE)) ||
        (s->cr4 & CR4_PCIDE && !lma))
        return refuse(err, "cr4");
    if (s->cr3 & ~PHYSICAL_MASK)
        return refuse(err, "cr3");
    if (s->cr8 > 15)
        return refuse(err, "cr8");
    if (!(s->xcr0 & XCR0_X87) || s->xcr0 & ~(uint64_t)(XCR0_X87 | XCR0_SSE | XCR0_AVX) ||
        (s->xcr0 & XCR0_AVX && !(s->xcr0 & XCR0_SSE)))
        return refuse(err, "xcr0");
    if (s->dr6 >> 32 || s->dr7 >> 32)
        return refuse(err, "dr6 or dr7");
    return 0;
}

static int execution_check(const struct arch_state *s, struct err *err)
{
    bool lma = s->efer & EFER_LMA;
    if (!(s->rflags & RFLAGS_ONE) || s->rflags & ~(uint64_t)RFLAGS_ALLOWED ||
        (s->rflags & RFLAGS_VM && (lma || !(s->cr0 & CR0_PE))))
        return refuse(err, "rflags");
    /* A guest can run off the end of the canonical half, so RIP may be anything in 64-bit code. */
    uint16_t cs = s->seg[S_CS].attr;
    if (lma && cs & SEG_L ? cs & SEG_DB : s->rip >> 32)
        return refuse(err, "rip or cs");
    return 0;
}

static int segments_check(const struct arch_state *s, struct err *err)
{
    for (unsigned i = 0; i < S_COUNT; i++) {
        const struct x86_segment *seg = &s->seg[i];
        bool wide = i == S_FS || i == S_GS || i == S_TR || i == S_LDTR;
        if (seg->attr & 0xe000 || (wide ? !canonical(s, seg->base) : seg->base >> 32))
            return refuse(err, "a segment");
    }
    if (!canonical(s, s->gdtr.base) || !canonical(s, s->idtr.base))
        return refuse(err, "gdtr or idtr");
    const uint64_t addresses[] = { s->lstar, s->cstar, s->kernel_gs_base, s->sysenter_esp,
                                   s->sysenter_eip };
    for (size_t i = 0; i < ARRAY_LEN(addresses); i++)
        if (!canonical(s, addresses[i]))
            return refuse(err, "an address register");
    return 0;
}

static bool memory_type_valid(uint8_t type, bool pat)
{
    return type == 0 || type == 1 || (type >= 4 && type <= 6) || (pat && type == 7);
}

static bool memory_types_valid(uint64_t types, bool pat)
{
    for (unsigned i = 0; i < 8; i++)
        if (!memory_type_valid((uint8_t)(types >> 8 * i), pat))
            return false;
    return true;
}

static int mtrr_check(const struct arch_state *s, struct err *err)
{
    if (!memory_types_valid(s->pat, true))
        return refuse(err, "pat");
    bool fine =
        !(s->mtrr_def_type & ~0xcffull) && memory_type_valid((uint8_t)s->mtrr_def_type, false);
    for (unsigned i = 0; i < ARRAY_LEN(s->mtrr_fixed); i++)
        fine = fine && memory_types_valid(s->mtrr_fixed[i], false);
    for (unsigned i = 0; i < ARRAY_LEN(s->mtrr_base); i++)
        fine = fine && !(s->mtrr_base[i] & (~PHYSICAL_MASK | 0xf00)) &&
               memory_type_valid((uint8_t)s->mtrr_base[i], false) &&
               !(s->mtrr_mask[i] & (~PHYSICAL_MASK | 0x7ff));
    return fine ? 0 : refuse(err, "an MTRR");
}

static int events_check(const struct arch_state *s, struct err *err)
{
    if (s->activity > X86_WAIT_SIPI)
        return refuse(err, "activity");
    const uint8_t flags[] = { s->nmi_pending,    s->nmi_masked,        s->smi_pending,
                              s->in_smm,         s->init_pending,      s->sipi_pending,
                              s->injected_valid, s->injected_has_error };
    for (size_t i = 0; i < ARRAY_LEN(flags); i++)
        if (flags[i] > 1)
            return refuse(err, "a pending event");
    if (s->interrupt_shadow > 2)
        return refuse(err, "interrupt_shadow");
    uint8_t type = s->injected_type;
    if (type > 6 || type == 1 || type == 5 || (type == 2 && s->injected_vector != 2) ||
        (type == 3 && s->injected_vector > 31))
        return refuse(err, "the injected event");
    return 0;
}

static int arch_state_check(const void *state, struct err *err)
{
    const struct arch_state *s = state;
    int r = control_check(s, err);
    if (r == 0)
        r = execution_check(s, err);
    if (r == 0)
        r = segments_check(s, err);
    if (r == 0)
        r = mtrr_check(s, err);
    if (r == 0)
        r = events_check(s, err);
    return r;
}

static int fpu_check(const void *state, struct err *err)
{
    const struct x86_fpu *fpu = state;
    return fpu->mxcsr >> 16 ? refuse(err, "mxcsr") : 0;
}

static int lapic_check(const void *state, struct err *err)
{
    const struct x86_lapic *l = state;
    uint64_t base = l->apic_base;
    uint64_t flags = APIC_BASE_BSP | APIC_BASE_X2 | APIC_BASE_ENABLE;
    if (base & ~(PHYSICAL_MASK & ~0xfffull) & ~flags ||
        (base & APIC_BASE_X2 && !(base & APIC_BASE_ENABLE)))
        return refuse(err, "apic_base");
    bool x2 = base & APIC_BASE_X2;
    if (l->tpr > 0xff || (!x2 && (l->id & 0xffffff || l->ldr & 0xffffff)))
        return refuse(err, "an APIC register");
    if ((l->isr[0] | l->irr[0] | l->tmr[0]) & 0xffff)
        return refuse(err, "an APIC vector below 16");
    if (l->timer_divide & ~0xbu || l->timer_deadline_ns >> 62)
        return refuse(err, "the APIC timer");
    return 0;
}

/* ---- The tables ---- */

#define F(kind, f) STATE_##kind(struct x86_segment, f)
static const struct state_field segment_fields[] = {
    F(U64, base), F(U32, limit), F(U16, selector), F(U16, attr), STATE_END,
};
#undef F
static const struct state_desc segment_state = {
    .name = "segment",
    .version = 1,
    .size = sizeof(struct x86_segment),
    .fields = segment_fields,
};

#define F(kind, f) STATE_##kind(struct x86_table, f)
static const struct state_field table_fields[] = { F(U64, base), F(U16, limit), STATE_END };
#undef F
static const struct state_desc table_state = {
    .name = "table",
    .version = 1,
    .size = sizeof(struct x86_table),
    .fields = table_fields,
};

#define F(kind, f) STATE_##kind(struct x86_fpu, f)
static const struct state_field fpu_fields[] = {
    F(U16, fcw),  F(U16, fsw),   F(U8, ftw),    F(U16, fop),        F(U64, fip), F(U64, fdp),
    F(BYTES, st), F(U32, mxcsr), F(BYTES, xmm), F(BYTES, ymm_high), STATE_END,
};
#undef F
static const struct state_desc fpu_state = {
    .name = "fpu",
    .version = 1,
    .size = sizeof(struct x86_fpu),
    .fields = fpu_fields,
    .check = fpu_check,
};

#define F(kind, f) STATE_##kind(struct x86_lapic, f)
static const struct state_field lapic_fields[] = {
    F(U64, apic_base),
    F(U32, id),
    F(U32, tpr),
    F(U32, ldr),
    F(U32, dfr),
    F(U32, svr),
    F(U32, esr),
    F(UINTS, isr),
    F(UINTS, tmr),
    F(UINTS, irr),
    F(U64, icr),
    F(U32, lvt_timer),
    F(U32, lvt_thermal),
    F(U32, lvt_perf),
    F(U32, lvt_lint0),
    F(U32, lvt_lint1),
    F(U32, lvt_error),
    F(U32, lvt_cmci),
    F(U32, timer_initial),
    F(U32, timer_divide),
    F(U64, timer_deadline_ns),
    F(U64, tsc_deadline),
    STATE_END,
};
#undef F
static const struct state_desc lapic_state = {
    .name = "lapic",
    .version = 1,
    .size = sizeof(struct x86_lapic),
    .fields = lapic_fields,
    .check = lapic_check,
};

#define F(kind, f) STATE_##kind(struct x86_kvmclock, f)
static const struct state_field kvmclock_fields[] = {
    F(U64, system_time),
    F(U64, wall_clock),
    STATE_END,
};
#undef F
static const struct state_desc kvmclock_state = {
    .name = "kvmclock",
    .version = 1,
    .size = sizeof(struct x86_kvmclock),
    .fields = kvmclock_fields,
};

#define F(kind, f) STATE_##kind(struct arch_state, f)
#define SUB(f, desc) STATE_STRUCT(struct arch_state, f, &desc)
static const struct state_field arch_state_fields[] = {
    F(UINTS, gpr),
    F(U64, rip),
    F(U64, rflags),
    STATE_STRUCTS(struct arch_state, seg, &segment_state),
    SUB(gdtr, table_state),
    SUB(idtr, table_state),
    F(U64, cr0),
    F(U64, cr2),
    F(U64, cr3),
    F(U64, cr4),
    F(U64, cr8),
    F(U64, efer),
    F(U64, xcr0),
    F(UINTS, dr),
    F(U64, dr6),
    F(U64, dr7),
    F(UINTS, pdptr),
    SUB(fpu, fpu_state),
    SUB(lapic, lapic_state),
    F(U64, star),
    F(U64, lstar),
    F(U64, cstar),
    F(U64, sfmask),
    F(U64, kernel_gs_base),
    F(U64, tsc_aux),
    F(U64, sysenter_cs),
    F(U64, sysenter_esp),
    F(U64, sysenter_eip),
    F(U64, pat),
    F(U64, misc_enable),
    F(U64, spec_ctrl),
    F(U64, mtrr_def_type),
    F(UINTS, mtrr_fixed),
    F(UINTS, mtrr_base),
    F(UINTS, mtrr_mask),
    F(U64, tsc_offset),
    SUB(kvmclock, kvmclock_state),
    F(U8, activity),
    F(U8, nmi_pending),
    F(U8, nmi_masked),
    F(U8, smi_pending),
    F(U8, in_smm),
    F(U8, init_pending),
    F(U8, sipi_pending),
    F(U8, sipi_vector),
    F(U8, interrupt_shadow),
    F(U8, injected_valid),
    F(U8, injected_vector),
    F(U8, injected_type),
    F(U8, injected_has_error),
    F(U32, injected_error),
    STATE_END,
};
#undef F
#undef SUB
const struct state_desc arch_state_desc = {
    .name = "cpu",
    .version = 1,
    .size = sizeof(struct arch_state),
    .fields = arch_state_fields,
    .check = arch_state_check,
};

/* ---- Power-on (SDM volume 3, table 10-1) ---- */

#define SIGNATURE 0x00060fb1u /* family 15, model 107, stepping 1 */

static void lapic_reset(struct x86_lapic *l, uint32_t apic_id)
{
    enum { MASKED = 1 << 16 };
    l->apic_base = 0xfee00000u | APIC_BASE_ENABLE | (apic_id ? 0 : APIC_BASE_BSP);
    l->id = apic_id << 24;
    l->dfr = ~0u;
    l->svr = 0xff;
    l->lvt_timer = l->lvt_thermal = l->lvt_perf = MASKED;
    l->lvt_lint0 = l->lvt_lint1 = l->lvt_error = l->lvt_cmci = MASKED;
}

void arch_state_reset(struct arch_state *state, uint32_t apic_id)
{
    memset(state, 0, sizeof *state);
    state->gpr[R_DX] = SIGNATURE;
    state->rip = 0xfff0;
    state->rflags = RFLAGS_ONE;
    for (unsigned i = 0; i < S_COUNT; i++)
        state->seg[i] = (struct x86_segment){ .limit = 0xffff, .attr = SEG_P | SEG_S | 3 };
    state->seg[S_CS].selector = 0xf000;
    state->seg[S_CS].base = 0xffff0000;
    state->seg[S_CS].attr = SEG_P | SEG_S | 0xb;
    state->seg[S_TR].attr = SEG_P | 0xb;
    state->seg[S_LDTR].attr = SEG_P | 2;
    state->gdtr.limit = state->idtr.limit = 0xffff;
    state->cr0 = 0x60000010;
    state->xcr0 = XCR0_X87;
    state->dr6 = 0xffff0ff0;
    state->dr7 = 0x400;
    state->fpu.fcw = 0x37f;
    state->fpu.mxcsr = 0x1f80;
    state->pat = 0x0007040600070406;
    state->misc_enable = 1; /* fast strings */
    state->activity = apic_id ? X86_WAIT_SIPI : X86_RUNNING;
    lapic_reset(&state->lapic, apic_id);
}

/* ---- CPU models ---- */

/* A plain K8 by AMD's names: Linux knows no hardware fault of it that costs time to work around. */
#define VENDOR_B 0x68747541u /* "Auth" */
#define VENDOR_D 0x69746e65u /* "enti" */
#define VENDOR_C 0x444d4163u /* "cAMD" */

/* clang-format off */
/* Leaf 1 EDX, of which leaf 0x80000001 repeats all but SEP, CLFLUSH, SSE and SSE2 */
#define LEAF_1_D_COMMON                                                                          \
    (BIT(0) /* FPU */ | BIT(1) /* VME */ | BIT(2) /* DE */ | BIT(3) /* PSE */ | BIT(4) /* TSC */ | BIT(5) /* MSR */ | \
     BIT(6) /* PAE */ | BIT(7) /* MCE */ | BIT(8) /* CX8 */ | BIT(9) /* APIC */ |                  \
     BIT(12) /* MTRR */ | BIT(13) /* PGE */ | BIT(14) /* MCA */ | BIT(15) /* CMOV */ |             \
     BIT(16) /* PAT */ | BIT(17) /* PSE36 */ | BIT(23) /* MMX */ | BIT(24) /* FXSR */)
#define LEAF_1_D                                                                                 \
    (LEAF_1_D_COMMON | BIT(11) /* SEP */ | BIT(19) /* CLFLUSH */ | BIT(25) /* SSE */ |            \
     BIT(26) /* SSE2 */)
#define V2_1_C                                                                                   \
    (BIT(0) /* SSE3 */ | BIT(1) /* PCLMULQDQ */ | BIT(9) /* SSSE3 */ | BIT(13) /* CX16 */ |       \
     BIT(17) /* PCID */ | BIT(19) /* SSE4.1 */ | BIT(20) /* SSE4.2 */ | BIT(21) /* x2APIC */ |    \
     BIT(22) /* MOVBE */ | BIT(23) /* POPCNT */ | BIT(24) /* TSC deadline */ | BIT(25) /* AES */ |\
     BIT(26) /* XSAVE */ | BIT(30) /* RDRAND */ | BIT(31) /* hypervisor */)
#define V3_1_C (V2_1_C | BIT(12) /* FMA */ | BIT(28) /* AVX */ | BIT(29) /* F16C */)
#define V2_7_B                                                                                   \
    (BIT(0) /* FSGSBASE */ | BIT(3) /* BMI1 */ | BIT(7) /* SMEP */ | BIT(8) /* BMI2 */ |          \
     BIT(9) /* ERMS */ | BIT(10) /* INVPCID */ | BIT(18) /* RDSEED */ | BIT(19) /* ADX */ |       \
     BIT(20) /* SMAP */ | BIT(23) /* CLFLUSHOPT */)
#define V3_7_B (V2_7_B | BIT(5) /* AVX2 */)
#define LEAF_7_C BIT(2) /* UMIP */
#define EXT_1_C (BIT(0) /* LAHF in 64-bit mode */ | BIT(4) /* CR8 by LOCK MOV CR0 */ | BIT(5) /* LZCNT */)
#define EXT_1_D                                                                                  \
    (LEAF_1_D_COMMON | BIT(11) /* SYSCALL */ | BIT(20) /* NX */ | BIT(26) /* 1 GiB pages */ |     \
     BIT(27) /* RDTSCP */ | BIT(29) /* LM */)

#define ANY CPUID_ANY_SUBLEAF
#define CHARS(a, b, c, d) ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)
/* What v2 and v3 differ in: leaf 1 ECX, leaf 7 EBX, their digit, and leaf 0xd, which follows. */
#define MODEL_ENTRIES(leaf_1_c, leaf_7_b, digit)                                                 \
    { 0x0, ANY, 0xd, VENDOR_B, VENDOR_C, VENDOR_D },                                             \
    { 0x1, ANY, SIGNATURE, 8 << 8 /* CLFLUSH of 64 bytes */, leaf_1_c, LEAF_1_D },               \
    { 0x6, ANY, BIT(2) /* the APIC timer never stops */, 0, 0, 0 },                              \
    { 0x7, 0, 0, leaf_7_b, LEAF_7_C, 0 },                                                        \
    { 0x80000000, ANY, 0x80000008, VENDOR_B, VENDOR_C, VENDOR_D },                               \
    { 0x80000001, ANY, SIGNATURE, 0, EXT_1_C, EXT_1_D },                                         \
    { 0x80000002, ANY, CHARS('B', 'e', 'd', 'p'), CHARS('l', 'a', 't', 'e'),                     \
      CHARS(' ', 'x', '8', '6'), CHARS('-', '6', '4', '-') },                                    \
    { 0x80000003, ANY, CHARS('v', digit, 0, 0), 0, 0, 0 },                                       \
    { 0x80000004, ANY, 0, 0, 0, 0 },                                                             \
    /* libc sizes its copies by these: L1 32 KiB, L2 1 MiB, L3 16 MiB, lines of 64 bytes */      \
    { 0x80000005, ANY, 0, 0, 0x20080140, 0x20080140 },                                           \
    { 0x80000006, ANY, 0, 0, 0x04008140, 0x00808140 },                                           \
    { 0x80000007, ANY, 0, 0, 0, BIT(8) /* invariant TSC */ },                                    \
    { 0x80000008, ANY, 40 | 48 << 8 /* physical and virtual address bits */, 0, 0, 0 }

static const struct cpuid_entry v2_entries[] = {
    MODEL_ENTRIES(V2_1_C, V2_7_B, '2'),
    { 0xd, 0, XCR0_X87 | XCR0_SSE, 576, 576, 0 },
    { 0xd, 1, BIT(0) /* XSAVEOPT */, 0, 0, 0 },
    { 0xffffffff, 0, 0, 0, 0, 0 },
};
static const struct cpuid_entry v3_entries[] = {
    MODEL_ENTRIES(V3_1_C, V3_7_B, '3'),
    { 0xd, 0, XCR0_X87 | XCR0_SSE | XCR0_AVX, 832, 832, 0 },
    { 0xd, 1, BIT(0) /* XSAVEOPT */, 0, 0, 0 },
    { 0xd, 2, 256, 576, 0, 0 },
    { 0xffffffff, 0, 0, 0, 0, 0 },
};
/* clang-format on */

const struct cpu_model cpu_models[] = {
    { "x86-64-v2", "SSE4.2, AES, BMI; runs on every engine and moves between all of them",
      v2_entries },
    { "x86-64-v3", "x86-64-v2 with AVX2 and FMA", v3_entries },
    { "host", "what this host's CPU has; moves between like hosts only", NULL },
    { NULL, NULL, NULL },
};

const struct cpu_model *cpu_model_find(const char *name)
{
    for (const struct cpu_model *model = cpu_models; model->name; model++)
        if (!strcmp(model->name, name))
            return model;
    return NULL;
}

/* How many bits number `cpus` cores? */
static unsigned core_bits(unsigned cpus)
{
    unsigned bits = 0;
    while ((1u << bits) < cpus)
        bits++;
    return bits;
}

static void entry_fill_topology(struct cpuid_entry *e, uint32_t apic_id, unsigned cpus)
{
    switch (e->leaf) {
    case 0x1:
        e->ebx |= apic_id << 24 | (cpus > 1 ? cpus << 16 : 0);
        e->edx |= cpus > 1 ? BIT(28) /* HTT: more than one logical CPU */ : 0;
        break;
    case 0x80000001: e->ecx |= cpus > 1 ? BIT(1) /* and they are cores */ : 0; break;
    case 0x80000008: e->ecx = core_bits(cpus) << 12 | (cpus - 1); break;
    }
}

unsigned cpuid_build(const struct cpu_model *model, uint32_t apic_id, unsigned cpus,
                     uint64_t tsc_khz, struct cpuid_entry out[CPUID_MAX])
{
    if (!model->entries)
        return 0;
    unsigned count = 0;
    for (const struct cpuid_entry *e = model->entries; e->leaf != 0xffffffff; e++) {
        assert(count < CPUID_MAX);
        out[count] = *e;
        entry_fill_topology(&out[count++], apic_id, cpus);
    }

    const struct cpuid_entry filled[] = {
        /* one thread per core, then the cores of the package */
        { 0xb, 0, 0, 1, 1 << 8 | 0, apic_id },
        { 0xb, 1, core_bits(cpus), cpus, 2 << 8 | 1, apic_id },
        { 0xb, 2, 0, 0, 2, apic_id },
        /* "KVMKVMKVM": the paravirtual interface that every Linux knows */
        { 0x40000000, CPUID_ANY_SUBLEAF, 0x40000010, 0x4b4d564b, 0x564b4d56, 0x4d },
        /* no I/O delay, the clock's second set of MSRs, and its reading never goes back */
        { 0x40000001, CPUID_ANY_SUBLEAF, BIT(1) | BIT(3) | BIT(24), 0, 0, 0 },
        /* TSC and APIC timer in kHz; the timer counts nanoseconds of the guest clock */
        { 0x40000010, CPUID_ANY_SUBLEAF, (uint32_t)tsc_khz, 1000000, 0, 0 },
    };
    assert(count + ARRAY_LEN(filled) <= CPUID_MAX);
    memcpy(&out[count], filled, sizeof filled);
    return count + (unsigned)ARRAY_LEN(filled);
}

void cpuid_lookup(const struct cpuid_entry *table, unsigned count, uint32_t leaf, uint32_t subleaf,
                  uint32_t out[4])
{
    memset(out, 0, 4 * sizeof *out);
    for (const struct cpuid_entry *e = table; e < table + count; e++)
        if (e->leaf == leaf && (e->subleaf == subleaf || e->subleaf == CPUID_ANY_SUBLEAF)) {
            out[0] = e->eax;
            out[1] = e->ebx;
            out[2] = e->ecx;
            out[3] = e->edx;
            return;
        }
}
