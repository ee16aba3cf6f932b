/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The floating-point handlers beside the host's CPU: every row of insn_fp.def and insn_avx.def in
 * random encodings on random operands.
 *
 * The same bytes are decoded and run by the handler, and run natively from a page of code.
 * Registers, flags, MXCSR, the x87 unit and memory must be equal afterwards; where the host raises
 * SIGFPE the handler must raise #XM. FOP, FIP and FDP differ between hosts and are tested apart.
 */
#include "engine/soft/fp.h"
#include "engine/soft/fp_native.h"
#include "engine/soft/run.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <cmocka.h>

/* ---- Guest memory: host addresses as they are, but for one page that faults ---- */

static bool no_access;
static uint8_t *pages; /* one page of memory, and one that is not there */
static bool faults(uint64_t va, unsigned size)
{
    const uint64_t hole = (uintptr_t)pages + PAGE_SIZE;
    return no_access || (va < hole + PAGE_SIZE && va + size > hole);
}
int gva_load(struct soft_vcpu *v, uint64_t va, void *out, unsigned size)
{
    if (faults(va, size))
        return raise(v, EXC_PF);
    memcpy(out, (const void *)(uintptr_t)va, size);
    return 0;
}
int gva_store(struct soft_vcpu *v, uint64_t va, const void *data, unsigned size)
{
    if (faults(va, size))
        return raise(v, EXC_PF);
    memcpy((void *)(uintptr_t)va, data, size);
    return 0;
}
int gva_probe_write(struct soft_vcpu *v, uint64_t va, unsigned size)
{
    return faults(va, size) ? raise(v, EXC_PF) : 0;
}
int gva_load_slow(struct soft_vcpu *v, uint64_t va, void *out, unsigned size)
{
    return gva_load(v, va, out, size);
}
int gva_store_slow(struct soft_vcpu *v, uint64_t va, const void *data, unsigned size)
{
    return gva_store(v, va, data, size);
}
int ea_slow(struct soft_vcpu *v, const struct insn *i, unsigned size, bool write, uint64_t *va)
{
    *va = ea_offset(v, i) + v->seg_base[i->seg];
    return 0;
}
int segment_linear(struct soft_vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool write,
                   uint64_t *va)
{
    *va = offset + v->seg_base[seg];
    return 0;
}
uint64_t ea_indexed(const struct soft_vcpu *v, const struct insn *i, uint64_t index)
{
    return v->gpr[i->base] + (index << i->scale) + (uint64_t)insn_disp(i);
}

/* ---- Random operands ---- */

static uint64_t seed = 1;
static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1d;
}
static unsigned below(unsigned n) { return (unsigned)((rnd() >> 32) % n); }

/* A floating-point pattern with the given field widths: zeros, denormals, ordinary, limits,
 * infinities, NaNs. */
static uint64_t pattern(unsigned exponent_bits, unsigned mantissa_bits)
{
    const uint64_t max_e = (1ull << exponent_bits) - 1, max_m = (1ull << mantissa_bits) - 1,
                   bias = max_e >> 1;
    uint64_t e, m = rnd() & max_m;
    switch (below(12)) {
    case 0: e = m = 0; break;
    case 1: e = 0; break;
    case 2: e = 0, m = 1; break;
    case 3: e = 1, m &= 1; break;
    case 4: e = max_e, m = 0; break;
    case 5: e = max_e, m |= 1; break;
    case 6: e = max_e - 1 - below(2); break;
    case 7: e = 1 + below(mantissa_bits); break;
    case 8: e = bias + below(64); break;
    case 9: e = bias, m = 0; break;
    case 10: e = bias / 2 + below(4), m &= 3ull << (mantissa_bits - 2); break;
    default: e = rnd() & max_e;
    }
    return (rnd() & 1) << (exponent_bits + mantissa_bits) | e << mantissa_bits | m;
}
static void random_bytes(void *p, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        ((uint8_t *)p)[k] = (uint8_t)(rnd() >> 40);
}
static void random_f80(uint8_t *p)
{
    uint64_t m = rnd();
    uint16_t e;
    switch (below(10)) {
    case 0: e = 0, m = 0; break;
    case 1: e = 0, m >>= 1 + below(40); break;
    case 2: e = 0x7fff, m = 1ull << 63; break;
    case 3: e = 0x7fff, m |= 1ull << 63; break;
    case 4: e = (uint16_t)(0x7ffe - below(3)), m |= 1ull << 63; break;
    case 5: e = (uint16_t)(1 + below(3)), m |= 1ull << 63; break;
    case 6: e = (uint16_t)(0x3fff + below(70)), m |= 1ull << 63; break;
    case 7: e = 0x3fff, m = 1ull << 63; break;
    case 8: e = (uint16_t)rnd(); break; /* pseudo- and unnormal ones too */
    default: e = (uint16_t)(0x3fff - 40 + below(80)), m |= 1ull << 63;
    }
    e = (uint16_t)((e & 0x7fff) | (rnd() & 1) << 15);
    memcpy(p, &m, 8);
    memcpy(p + 8, &e, 2);
}
/* 16 bytes for a vector or an operand in memory */
static void random_operand(uint8_t *p)
{
    uint64_t q[2];
    uint32_t d[4];
    switch (below(4)) {
    case 0: random_bytes(p, 16); return;
    case 1:
        for (unsigned n = 0; n < 4; n++)
            d[n] = (uint32_t)pattern(8, 23);
        memcpy(p, d, 16);
        return;
    case 2:
        q[0] = pattern(11, 52);
        q[1] = pattern(11, 52);
        memcpy(p, q, 16);
        return;
    default:
        memset(p, 0, 16);
        random_f80(p);
        if (below(2))
            p[0] = (uint8_t)below(70), memset(p + 1, 0, 7); /* a shift count */
    }
}

static bool host_has(enum feature f) { return fp_host_features() >> f & 1; }

static void random_state(struct native *n)
{
    static const uint16_t precision[3] = { 0, 0x200, 0x300 };
    struct fx *f = &n->fx;
    memset(n, 0, sizeof *n);
    for (unsigned r = 0; r < 15; r++)
        n->gpr[r] = below(2) ? rnd() : (uint64_t)(int64_t)(int8_t)rnd();
    n->flags = 0x202 | (rnd() & (CF | PF | AF | ZF | SF | OF));
    const bool masked = below(2);
    f->fcw = (uint16_t)(0x40 | precision[below(3)] | below(4) << 10 | (masked ? 0x3f : below(64)));
    f->fsw = (uint16_t)(rnd() & 0x7f00) | (uint16_t)(rnd() & f->fcw & 0x3f); /* nothing pending */
    f->ftw = (uint8_t)(below(3) ? 0xff : rnd());
    f->mxcsr = (uint32_t)((masked ? 0x1f80 : rnd() & 0x1f80) | below(4) << 13 |
                          (below(3) ? 0 : rnd() & 0x8040) | (below(3) ? 0 : rnd() & 0x3f));
    const bool equal = !below(8);
    for (unsigned r = 0; r < 8; r++)
        random_f80(f->st[equal && r ? 0 : r]);
    n->avx = host_has(FT_AVX);
    for (unsigned r = 0; r < 16; r++) {
        random_operand(f->xmm[r]);
        if (n->avx)
            random_operand(n->ymm[r] + 16);
    }
    if (equal)
        memcpy(f->xmm[1], f->xmm[2], 16);
}

/* ---- Encodings ---- */

static bool arg_in(const struct insn_row *row, enum operand from, enum operand to)
{
    for (unsigned n = 0; n < 4; n++)
        if (row->args[n] >= from && row->args[n] <= to)
            return true;
    return false;
}
/* RSP and R15 are the native runner's, RDI addresses the memory operand. */
static unsigned random_gpr(void)
{
    static const uint8_t usable[12] = { R_AX, R_CX, R_DX, R_BX, R_BP, R_SI,
                                        R_8,  R_9,  R_10, R_11, R_12, R_14 };
    return usable[below(12)];
}

/* VEX.RXB as they are encoded, inverted */
static void vex_prefix(const struct insn_row *row, uint8_t *code, unsigned r, unsigned x,
                       unsigned b, unsigned vvvv)
{
    static const uint8_t pp[5] = { 0, 0, 1, 2, 3 };
    unsigned w = row->attr & AT_VEXW0 ? 0 : row->attr & AT_VEXW1 ? 1 : below(2);
    unsigned l = row->attr & AT_VEXL0 ? 0 : row->attr & AT_VEXL1 ? 1 : below(2);
    if (row->attr & AT_L1AVX2 && !host_has(FT_AVX2))
        l = 0;
    code[0] = 0xc4;
    code[1] = (uint8_t)(!r << 7 | !x << 6 | !b << 5 | (row->map - V0F + 1));
    code[2] = (uint8_t)(w << 7 | (~vvvv & 15) << 3 | l << 2 | pp[row->pfx]);
}

static bool row_gathers(const struct insn_row *row) { return arg_in(row, A_VMd, A_VMq); }

/* RDI with a displacement, so that operands are not aligned where they need not be; RDI and a
 * vector of indices. */
static unsigned encode_vex(const struct insn_row *row, uint8_t *code)
{
    bool memory = row->mod == MOD_MEM || (row->mod == MOD_ANY && below(2));
    unsigned reg = row->ext >= 0 ? (unsigned)row->ext : below(16), rm = below(16), len = 5;
    unsigned vvvv = row->attr & AT_VVVV ? below(16) : 0, index = 0;
    if (arg_in(row, A_Gb, A_Gz))
        reg = random_gpr();
    if (arg_in(row, A_Eb, A_Ez) || arg_in(row, A_Rv, A_Rq))
        rm = random_gpr();
    if (memory)
        rm = 7;
    if (row_gathers(row)) {
        rm = 4;
        index = (reg + 1 + below(14)) & 15;
        do
            vvvv = below(16);
        while (vvvv == reg || vvvv == index);
    }
    vex_prefix(row, code, reg >> 3, index >> 3, rm >> 3, vvvv);
    code[3] = row->opcode;
    if (row->mod == MOD_NONE)
        return 4;
    code[4] = (uint8_t)((memory ? 0x40 : 0xc0) | (reg & 7) << 3 | (rm & 7));
    if (row_gathers(row))
        code[len++] = (uint8_t)(below(4) << 6 | (index & 7) << 3 | 7);
    if (memory)
        code[len++] = row->attr & AT_ALIGN ? 0 : (uint8_t)below(32);
    if (arg_in(row, A_Ib, A_Ib) || arg_in(row, A_Lx, A_Lx))
        code[len++] = (uint8_t)rnd();
    return len;
}

static unsigned encode(const struct insn_row *row, uint8_t *code)
{
    static const uint8_t prefix[5] = { 0, 0, 0x66, 0xf3, 0xf2 };
    if (row->attr & AT_AVX)
        return encode_vex(row, code);
    unsigned len = 0, rex = 0;
    bool memory = row->mod == MOD_MEM || (row->mod == MOD_ANY && below(2));
    unsigned reg = row->ext >= 0 ? (unsigned)row->ext : below(16),
             rm = row->rm >= 0 ? (unsigned)row->rm : below(16);

    if (arg_in(row, A_Gb, A_Gz))
        reg = random_gpr();
    if (arg_in(row, A_Eb, A_Ez) || arg_in(row, A_Rv, A_Rq))
        rm = random_gpr();
    if (memory)
        rm = 7;
    if (row->size == SZ_Z && below(2))
        code[len++] = 0x66;
    if (prefix[row->pfx])
        code[len++] = prefix[row->pfx];
    if (row->mod != MOD_NONE && row->ext < 0 && reg > 7)
        rex |= 0x44;
    if (row->mod != MOD_NONE && row->rm < 0 && rm > 7)
        rex |= 0x41;
    if (row->size == SZ_Y && below(2))
        rex |= 0x48;
    if (rex)
        code[len++] = (uint8_t)rex;
    if (row->map != M1)
        code[len++] = 0x0f;
    if (row->map == M38 || row->map == M3A)
        code[len++] = row->map == M38 ? 0x38 : 0x3a;
    code[len++] = row->opcode;
    if (row->mod != MOD_NONE)
        code[len++] = (uint8_t)((memory ? 0 : 0xc0) | (reg & 7) << 3 | (rm & 7));
    if (arg_in(row, A_Ib, A_Ib))
        code[len++] = (uint8_t)rnd();
    return len;
}

/* ---- Both, and the comparison ---- */

static struct soft_vcpu vcpu;
static uint8_t *code_page;
static uint8_t memory_before[128] __attribute__((aligned(64)));
static uint8_t memory[128] __attribute__((aligned(64)));

static void soft_load(struct soft_vcpu *v, const struct native *n)
{
    for (unsigned r = 0; r < 16; r++)
        v->gpr[r] = n->gpr[r];
    status_set(v, (uint32_t)n->flags & F_ALL);
    v->flags = FL_FIXED | FL_IF;
    v->fpu.fcw = n->fx.fcw;
    v->fpu.fsw = n->fx.fsw;
    v->fpu.ftw = n->fx.ftw;
    v->fpu.mxcsr = n->fx.mxcsr;
    memset(v->fpu.st, 0, sizeof v->fpu.st);
    for (unsigned r = 0; r < 8; r++)
        memcpy(v->fpu.st[((n->fx.fsw >> 11) + r) & 7], n->fx.st[r], 10);
    for (unsigned r = 0; r < 16; r++)
        memcpy(v->fpu.vec[r], n->fx.xmm[r], 16);
    for (unsigned r = 0; r < 16; r++)
        memcpy(v->fpu.vec[r] + 16, n->ymm[r] + 16, 16);
}

static bool differ(char *out, size_t size, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static bool differ(char *out, size_t size, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(out, size, fmt, ap);
    va_end(ap);
    return true;
}

/* FNSTENV and FNSAVE: where opcode and pointers lie; a mask of bytes not to compare */
static bool environment_byte(const struct insn_row *row, unsigned size, unsigned n)
{
    if (strcmp(row->name, "fnstenv") && strcmp(row->name, "fnsave"))
        return false;
    return size == 2 ? n >= 6 && n < 14 : n >= 12 && n < 28;
}

static bool states_differ(const struct soft_vcpu *v, int result, const struct native *n,
                          const uint8_t *soft_memory, const struct insn_row *row, unsigned size,
                          char *out, size_t room)
{
    static const uint8_t vectors[] = { 0, EXC_XM, EXC_PF };
    if ((result == OP_FAULT) != (n->trapped != 0) || v->exc.vector != vectors[n->trapped])
        return differ(out, room, "answer %d (vector %u), host trapped %u", result, v->exc.vector,
                      (unsigned)n->trapped);
    for (unsigned r = 0; r < 15; r++)
        if (r != R_SP && v->gpr[r] != n->gpr[r])
            return differ(out, room, "gpr %u: %llx, host %llx", r, (unsigned long long)v->gpr[r],
                          (unsigned long long)n->gpr[r]);
    if ((rflags_get(v) & F_ALL) != (n->flags & F_ALL))
        return differ(out, room, "flags %x, host %x", rflags_get(v) & F_ALL,
                      (unsigned)n->flags & F_ALL);
    if (v->fpu.mxcsr != n->fx.mxcsr)
        return differ(out, room, "mxcsr %x, host %x", v->fpu.mxcsr, n->fx.mxcsr);
    if (v->fpu.fcw != n->fx.fcw || v->fpu.fsw != n->fx.fsw || v->fpu.ftw != n->fx.ftw)
        return differ(out, room, "fcw %x fsw %x ftw %x, host %x %x %x", v->fpu.fcw, v->fpu.fsw,
                      v->fpu.ftw, n->fx.fcw, n->fx.fsw, n->fx.ftw);
    for (unsigned r = 0; r < 8; r++)
        if (memcmp(v->fpu.st[((v->fpu.fsw >> 11) + r) & 7], n->fx.st[r], 10))
            return differ(out, room, "st(%u)", r);
    for (unsigned r = 0; r < 32; r++) {
        const uint8_t *ours = v->fpu.vec[r % 16] + r / 16 * 16,
                      *theirs = r < 16 ? n->fx.xmm[r] : n->ymm[r % 16] + 16;
        uint64_t a[2], b[2];
        memcpy(a, ours, 16);
        memcpy(b, theirs, 16);
        if (a[0] != b[0] || a[1] != b[1])
            return differ(out, room, "%s %u %016llx%016llx, host %016llx%016llx",
                          r < 16 ? "xmm" : "upper half of ymm", r % 16, (unsigned long long)a[1],
                          (unsigned long long)a[0], (unsigned long long)b[1],
                          (unsigned long long)b[0]);
    }
    for (unsigned k = 0; k < sizeof memory; k++)
        if (soft_memory[k] != memory[k] && !environment_byte(row, size, k))
            return differ(out, room, "memory[%u] %02x, host %02x", k, soft_memory[k], memory[k]);
    return false;
}

/* Small indices, so that the addresses are in the test's memory */
static void indices_fill(struct native *n, unsigned reg, const struct insn_row *row)
{
    const bool wide = row->opcode & 1; /* indices of 8 bytes */
    uint8_t index[32] = { 0 };
    for (unsigned k = 0; k < 32; k += wide ? 8 : 4)
        index[k] = (uint8_t)below(4);
    memcpy(n->fx.xmm[reg], index, 16);
    memcpy(n->ymm[reg] + 16, index + 16, 16);
}

/* One random encoding of the row on random operands. False: they differ (the first few are
 * printed). */
static bool compare(const struct insn_row *row, unsigned *printed)
{
    static uint8_t soft_memory[sizeof memory];
    struct native before, n;
    struct insn i;
    uint8_t code[16] = { 0 };
    char what[200];
    bool gp;

    random_state(&n);
    for (unsigned k = 0; k < sizeof memory; k += 16)
        random_operand(memory_before + k);
    n.gpr[R_DI] = (uintptr_t)memory;
    n.gpr[R_15] = 0;
    unsigned len = encode(row, code);
    memcpy(code_page, code, len);
    code_page[len] = 0xc3;
    n.code = code_page;
    assert_int_equal(insn_decode(code, len, MODE_64, ~0ull, 0, &i, &gp), len);
    assert_ptr_equal(&insn_rows[i.row], row);
    if (row_gathers(row))
        indices_fill(&n, insn_sel(&i), row);
    before = n;

    soft_load(&vcpu, &n);
    memcpy(memory, memory_before, sizeof memory);
    vcpu.exc.vector = 0;
    int result = i.fn(&vcpu, &i);
    memcpy(soft_memory, memory, sizeof memory);

    memcpy(memory, memory_before, sizeof memory);
    native_run(&n);
    if (!states_differ(&vcpu, result, &n, soft_memory, row, i.size, what, sizeof what))
        return true;
    if ((*printed)++ < 2) {
        fprintf(stderr, "%s:", row->name);
        for (unsigned k = 0; k < len; k++)
            fprintf(stderr, " %02x", code[k]);
        fprintf(stderr, ": %s (mxcsr %x fcw %x fsw %x ftw %x before)\n", what, before.fx.mxcsr,
                before.fx.fcw, before.fx.fsw, before.fx.ftw);
    }
    return false;
}

static bool row_is_ours(const struct insn_row *row)
{
    return row->attr & (AT_SSE | AT_MMX | AT_X87 | AT_AVX) &&
           (row->feature == FT_BASE || host_has(row->feature)) &&
           (!(row->attr & AT_AVX) || host_has(FT_AVX));
}

extern const struct op decode_ops_any; /* what decode_ops.c gives rows without a handler */

static void test_against_host(void **state)
{
    const char *rounds = getenv("FP_ROUNDS");
    const unsigned count = rounds ? (unsigned)atoi(rounds) : 400;
    unsigned failures = 0, rows = 0;
    native_init(); /* in the test: cmocka takes the signals, too */
    if (!host_has(FT_AVX) || !host_has(FT_AVX2) || !host_has(FT_FMA) || !host_has(FT_F16C))
        fprintf(stderr, "the host's CPU has not all of AVX, AVX2, FMA and F16C: what it lacks is "
                        "not compared\n");
    for (unsigned r = 0; r < insn_row_count; r++) {
        const struct insn_row *row = &insn_rows[r];
        if (!row_is_ours(row) || !strcmp(row->name, "ldmxcsr") || !strcmp(row->name, "vldmxcsr"))
            continue;
        assert_ptr_not_equal(row->op, &decode_ops_any);
        unsigned bad = 0, printed = 0;
        for (unsigned n = 0; n < count; n++)
            bad += !compare(row, &printed);
        if (bad)
            fprintf(stderr, "%s (%02x): %u of %u differ\n", row->name, row->opcode, bad, count);
        failures += bad != 0;
        rows++;
    }
    fprintf(stderr, "%u rows, %u operands each\n", rows, count);
    assert_true(rows > 400);
    assert_int_equal(failures, 0);
}

/* ---- What the host cannot show ---- */

static void vcpu_ready(void)
{
    static struct tlb_entry tlb[TLB_SIZE];
    static struct vcpu_run vcpu_run;
    memset(&vcpu, 0, sizeof vcpu);
    vcpu.tlb = tlb;
    vcpu.run = &vcpu_run;
    vcpu.mode = MODE_64;
    vcpu.cr0 = CR0_PE | CR0_NE | CR0_MP | CR0_ET;
    vcpu.cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    vcpu.xcr0 = 7;
    vcpu.features = ~0ull;
    vcpu.fpu.fcw = FCW_INIT;
    vcpu.fpu.mxcsr = MX_INIT;
    vcpu.gpr[R_DI] = (uintptr_t)memory;
    for (unsigned n = 0; n < TLB_SIZE; n++)
        tlb[n].read = tlb[n].write = tlb_none(n);
}

#define RUN(...) run((const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))
static int run(const uint8_t *code, unsigned len)
{
    struct insn i;
    bool gp;
    vcpu.exc = (struct exception){ 0 };
    assert_int_equal(insn_decode(code, len, vcpu.mode, ~0ull, 0, &i, &gp), len);
    return i.fn(&vcpu, &i);
}
#define ADDPS 0x0f, 0x58, 0xc1     /* addps xmm0, xmm1 */
#define ADDPS_MEM 0x0f, 0x58, 0x07 /* addps xmm0, [rdi] */
#define PADDB_MMX 0x0f, 0xfc, 0xc1 /* paddb mm0, mm1 */
#define FADD 0xd8, 0xc1            /* fadd st0, st1 */

static void test_not_available(void **state)
{
    vcpu_ready();
    vcpu.cr0 |= CR0_TS;
    assert_int_equal(RUN(ADDPS), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_NM);
    assert_int_equal(RUN(PADDB_MMX), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_NM);
    assert_int_equal(RUN(FADD), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_NM);
    assert_int_equal(RUN(0x9b), OP_FAULT); /* fwait: TS and MP */
    vcpu.cr0 &= ~(uint64_t)CR0_MP;
    assert_int_equal(RUN(0x9b), OP_NEXT);
    assert_int_equal(RUN(0x0f, 0xae, 0x07), OP_FAULT); /* fxsave */
    assert_int_equal(vcpu.exc.vector, EXC_NM);

    vcpu_ready();
    vcpu.cr0 |= CR0_EM;
    assert_int_equal(RUN(ADDPS), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_UD);
    assert_int_equal(RUN(PADDB_MMX), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_UD);
    assert_int_equal(RUN(FADD), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_NM);

    vcpu_ready();
    vcpu.cr4 &= ~(uint64_t)CR4_OSFXSR;
    assert_int_equal(RUN(ADDPS), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_UD);
    assert_int_equal(RUN(PADDB_MMX), OP_NEXT);
}

static void test_alignment(void **state)
{
    vcpu_ready();
    vcpu.gpr[R_DI] += 8;
    assert_int_equal(RUN(ADDPS_MEM), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_GP);
    assert_true(vcpu.exc.has_error);
    assert_int_equal(RUN(0x0f, 0x10, 0x07), OP_NEXT);                /* movups */
    assert_int_equal(RUN(0x0f, 0x28, 0x07), OP_FAULT);               /* movaps */
    assert_int_equal(RUN(0x0f, 0x29, 0x07), OP_FAULT);               /* movaps, store */
    assert_int_equal(RUN(0x66, 0x0f, 0x3a, 0x63, 0x07, 0), OP_NEXT); /* pcmpistri */
    assert_int_equal(RUN(0xf3, 0x0f, 0x58, 0x07), OP_NEXT);          /* addss */
}

#define VADDPS 0xc5, 0xf4, 0x58, 0xc2     /* vaddps ymm0, ymm1, ymm2 */
#define VADDPS_MEM 0xc5, 0xf4, 0x58, 0x07 /* vaddps ymm0, ymm1, [rdi] */

static void test_avx_not_available(void **state)
{
    if (!host_has(FT_AVX))
        skip();
    vcpu_ready();
    vcpu.cr0 |= CR0_TS;
    assert_int_equal(RUN(VADDPS), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_NM);
    vcpu.cr4 &= ~(uint64_t)CR4_OSXSAVE; /* comes before TS */
    assert_int_equal(RUN(VADDPS), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_UD);

    vcpu_ready();
    vcpu.xcr0 = 3;
    assert_int_equal(RUN(VADDPS), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_UD);
    assert_int_equal(RUN(ADDPS), OP_NEXT);

    /* What legacy SSE needs, AVX does not. */
    vcpu_ready();
    vcpu.cr0 |= CR0_EM;
    vcpu.cr4 &= ~(uint64_t)CR4_OSFXSR;
    assert_int_equal(RUN(VADDPS), OP_NEXT);
    assert_int_equal(RUN(0xc5, 0xfc, 0x77), OP_NEXT); /* vzeroall */
    assert_int_equal(RUN(ADDPS), OP_FAULT);
}

static void test_avx_alignment(void **state)
{
    if (!host_has(FT_AVX))
        skip();
    vcpu_ready();
    vcpu.gpr[R_DI] += 16;
    assert_int_equal(RUN(0xc5, 0xf8, 0x28, 0x07), OP_NEXT);  /* vmovaps xmm0, [rdi] */
    assert_int_equal(RUN(0xc5, 0xfc, 0x28, 0x07), OP_FAULT); /* vmovaps ymm0, [rdi] */
    assert_int_equal(vcpu.exc.vector, EXC_GP);
    assert_int_equal(RUN(0xc5, 0xfd, 0x7f, 0x07), OP_FAULT); /* vmovdqa [rdi], ymm0 */
    vcpu.gpr[R_DI] += 1;
    assert_int_equal(RUN(0xc5, 0xf8, 0x28, 0x07), OP_FAULT);
    assert_int_equal(RUN(0xc5, 0xfe, 0x6f, 0x07), OP_NEXT); /* vmovdqu ymm0, [rdi] */
    assert_int_equal(RUN(VADDPS_MEM), OP_NEXT);
}

#define VGATHERDPS 0xc4, 0xe2, 0x6d, 0x92, 0x04, 0x8f /* ymm0, [rdi + ymm1*4], ymm2 */
#define VMASKMOVPS_LOAD 0xc4, 0xe2, 0x6d, 0x2c, 0x07  /* ymm0, ymm2, [rdi] */
#define VMASKMOVPS_STORE 0xc4, 0xe2, 0x6d, 0x2e, 0x07 /* [rdi], ymm2, ymm0 */

/* A gather stops where an element faults, and goes on from there. */
static void test_gather_goes_on(void **state)
{
    uint32_t *d = (uint32_t *)vcpu.fpu.vec[0], *index = (uint32_t *)vcpu.fpu.vec[1],
             *mask = (uint32_t *)vcpu.fpu.vec[2], *data = (uint32_t *)pages;
    vcpu_ready();
    vcpu.gpr[R_DI] = (uintptr_t)pages;
    for (uint32_t n = 0; n < 8; n++) {
        data[n] = 100 + n;
        d[n] = 1;
        index[n] = 7 - n;
        mask[n] = n == 1 ? 0x7fffffff : 0x80000000 + n;
    }
    index[3] = PAGE_SIZE / 4;
    assert_int_equal(RUN(VGATHERDPS), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_PF);
    const uint32_t half_done[8] = { 107, 1, 105, 1, 1, 1, 1, 1 }, left[8] = {
        0, 0, 0, 0x80000003, 0x80000004, 0x80000005, 0x80000006, 0x80000007
    };
    assert_memory_equal(d, half_done, 32);
    assert_memory_equal(mask, left, 32);
    mask[3] = 0;
    vcpu.flags |= FL_TF; /* the trap of what was done now comes first */
    assert_int_equal(RUN(VGATHERDPS), OP_NEXT);
    mask[3] = mask[4] = 0x80000000;
    index[3] = 3, index[4] = PAGE_SIZE / 4;
    assert_int_equal(RUN(VGATHERDPS), OP_AGAIN);
    assert_int_equal(mask[3], 0);
    assert_int_equal(RUN(VGATHERDPS), OP_FAULT);
    vcpu.flags &= ~(uint32_t)FL_TF;
    mask[3] = mask[4] = mask[5] = mask[6] = mask[7] = 0x80000000;
    index[4] = 3;
    index[3] = 4;
    assert_int_equal(RUN(VGATHERDPS), OP_NEXT);
    const uint32_t done[8] = { 107, 1, 105, 104, 103, 102, 101, 100 }, none[8] = { 0 };
    assert_memory_equal(d, done, 32);
    assert_memory_equal(mask, none, 32);
}

/* Elements that are not asked for do not fault; a store that faults has stored nothing. */
static void test_masked_moves(void **state)
{
    uint32_t *d = (uint32_t *)vcpu.fpu.vec[0], *mask = (uint32_t *)vcpu.fpu.vec[2];
    uint32_t *last = (uint32_t *)(pages + PAGE_SIZE - 16);
    vcpu_ready();
    vcpu.gpr[R_DI] = (uintptr_t)last;
    for (uint32_t n = 0; n < 8; n++) {
        d[n] = 1 + n;
        mask[n] = n < 4 && n != 2 ? 0x80000000 : 0x7fffffff;
    }
    memset(last, 0xcc, 16);
    assert_int_equal(RUN(VMASKMOVPS_STORE), OP_NEXT);
    assert_memory_equal(last, ((uint32_t[]){ 1, 2, 0xcccccccc, 4 }), 16);
    assert_int_equal(RUN(VMASKMOVPS_LOAD), OP_NEXT);
    assert_memory_equal(d, ((uint32_t[8]){ 1, 2, 0, 4 }), 32);
    mask[4] = 0x80000000;
    d[0] = 9;
    assert_int_equal(RUN(VMASKMOVPS_STORE), OP_FAULT);
    assert_int_equal(last[0], 1);
    assert_int_equal(RUN(VMASKMOVPS_LOAD), OP_FAULT);
    assert_int_equal(d[0], 9);
    assert_int_equal(vcpu.exc.vector, EXC_PF);
}

/* A fault changes nothing: every row with a memory operand, on a page that is not there. */
static void test_faults_change_nothing(void **state)
{
    static struct soft_vcpu before;
    unsigned tried = 0;
    no_access = true;
    for (unsigned r = 0; r < insn_row_count; r++) {
        const struct insn_row *row = &insn_rows[r];
        struct native n;
        struct insn i;
        uint8_t code[16];
        bool gp;
        if (!row_is_ours(row) || row_gathers(row) || strstr(row->name, "maskmov"))
            continue; /* those that may access nothing have their own test */
        for (unsigned k = 0; k < 20; k++) {
            vcpu_ready();
            random_state(&n);
            soft_load(&vcpu, &n);
            vcpu.gpr[R_DI] = (uintptr_t)memory;
            unsigned len = encode(row, code);
            insn_decode(code, len, MODE_64, ~0ull, 0, &i, &gp);
            if (!(i.flags & IF_MEM))
                continue;
            memcpy(&before, &vcpu, sizeof before);
            assert_int_equal(i.fn(&vcpu, &i), OP_FAULT);
            assert_int_equal(vcpu.exc.vector, EXC_PF);
            assert_memory_equal(before.gpr, vcpu.gpr, sizeof before.gpr);
            assert_memory_equal(&before.fpu, &vcpu.fpu, sizeof before.fpu);
            assert_int_equal(before.cc, vcpu.cc);
            tried++;
        }
    }
    no_access = false;
    assert_true(tried > 2000);
}

/* An unmasked x87 exception waits for the next waiting instruction. */
static void test_pending(void **state)
{
    vcpu_ready();
    vcpu.fpu.fcw = 0x37b;                       /* divide by zero unmasked */
    assert_int_equal(RUN(0xd9, 0xe8), OP_NEXT); /* fld1 */
    assert_int_equal(RUN(0xd9, 0xee), OP_NEXT); /* fldz */
    assert_int_equal(RUN(0xde, 0xf9), OP_NEXT); /* fdivp: 1/0 */
    assert_int_equal(vcpu.fpu.fsw & (FSW_ES | 4), FSW_ES | 4);
    assert_int_equal(RUN(0xdf, 0xe0), OP_NEXT); /* fnstsw ax does not wait */
    assert_int_equal(vcpu.gpr[R_AX] & 0xffff, vcpu.fpu.fsw);
    assert_int_equal(RUN(FADD), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_MF);
    assert_int_equal(RUN(PADDB_MMX), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_MF);
    assert_int_equal(RUN(0x9b), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_MF);
    assert_int_equal(RUN(0xdb, 0xe2), OP_NEXT); /* fnclex */
    assert_int_equal(RUN(0x9b), OP_NEXT);

    /* FLDCW that unmasks a flag raised earlier makes it pending. */
    vcpu_ready();
    vcpu.fpu.fsw = 4;
    memcpy(memory, (uint16_t[]){ 0x37b }, 2);
    assert_int_equal(RUN(0xd9, 0x2f), OP_END);
    assert_true(vcpu.fpu.fsw & FSW_ES);
    assert_int_equal(RUN(0xdb, 0xe3), OP_NEXT); /* fninit */
    assert_int_equal(vcpu.fpu.fcw, 0x37f);
    assert_int_equal(vcpu.fpu.fsw, 0);
}

static void test_sse_exception_vector(void **state)
{
    vcpu_ready();
    vcpu.fpu.mxcsr = 0x1f00; /* invalid unmasked */
    memset(vcpu.fpu.vec[1], 0xff, 16);
    vcpu.fpu.vec[1][2] = 0x80; /* signalling NaN */
    vcpu.fpu.vec[1][3] = 0x7f;
    assert_int_equal(RUN(ADDPS), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_XM);
    vcpu.cr4 &= ~(uint64_t)CR4_OSXMMEXCPT;
    assert_int_equal(RUN(ADDPS), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_UD);
    assert_int_equal(vcpu.fpu.mxcsr, 0x1f01);
}

static void test_last_instruction(void **state)
{
    vcpu_ready();
    vcpu.gpr[REG_RIP] = 0x123456789a;
    assert_int_equal(RUN(0xd9, 0x07), OP_NEXT); /* fld dword [rdi] */
    assert_int_equal(vcpu.fpu.fip, 0x123456789a);
    assert_int_equal(vcpu.fpu.fdp, (uintptr_t)memory);
    assert_int_equal(vcpu.fpu.fop, 0x107);
    assert_int_equal(RUN(0xde, 0xc2), OP_NEXT); /* faddp st2 */
    assert_int_equal(vcpu.fpu.fop, 0x6c2);
    vcpu.mode = MODE_32;
    vcpu.seg[S_CS].selector = 0x23;
    vcpu.seg[S_DS].selector = 0x2b;
    vcpu.gpr[REG_RIP] = 0x1000;
    RUN(0xd9, 0x07);
    assert_int_equal(vcpu.fpu.fip, 0x2300001000);
    assert_int_equal(vcpu.fpu.fdp >> 32, 0x2b);
}

/* FNSTENV's four formats (SDM volume 1, figures 8-9 to 8-12) and the way back */
static void test_environment(void **state)
{
    static const struct {
        uint8_t operand_prefix, protected, words;
        uint32_t expect[4]; /* from the fourth word on: IP, CS, DP, DS and where the opcode is */
    } formats[] = {
        { 0x66, 1, 0, { 0x5678, 0x0107000f, 0x9abc, 0xffff0017 } },
        { 0, 1, 1, { 0x5678, 0x000f, 0x9abc, 0x0017 } },
        { 0x66, 0, 0, { 0x5768, 0x0107, 0x9c2c, 0 } },
        { 0, 0, 1, { 0x5768, 0x0107, 0x9c2c, 0 } },
    };
    for (unsigned n = 0; n < ARRAY_LEN(formats); n++) {
        vcpu_ready();
        vcpu.mode = MODE_16;
        vcpu.gpr[R_BX] = (uintptr_t)memory;
        if (!formats[n].protected)
            vcpu.cr0 &= ~(uint64_t)CR0_PE;
        vcpu.fpu.fcw = 0x272;
        vcpu.fpu.fsw = 0x3902;
        vcpu.fpu.ftw = 0x81;
        vcpu.fpu.st[0][7] = 0x80; /* special: exponent 0 */
        vcpu.fpu.fop = 0x107;
        vcpu.fpu.fip = 0x0f00005678;
        vcpu.fpu.fdp = 0x1700009abc;
        const struct soft_fpu before = vcpu.fpu;
        memset(memory, 0xcc, sizeof memory);
        if (formats[n].operand_prefix)
            assert_int_equal(RUN(0x66, 0xd9, 0x37), OP_NEXT);
        else
            assert_int_equal(RUN(0xd9, 0x37), OP_NEXT);
        assert_int_equal(vcpu.fpu.fcw, 0x27f);
        assert_int_equal(vcpu.fpu.fsw, 0x3902);
        uint32_t env[7];
        for (unsigned k = 0; k < 7; k++) {
            env[k] = 0;
            memcpy(&env[k], memory + k * (formats[n].words ? 2 : 4), formats[n].words ? 2 : 4);
        }
        assert_int_equal((uint16_t)env[0], 0x272);
        assert_int_equal((uint16_t)env[1], 0x3902);
        assert_int_equal((uint16_t)env[2], 0x7ffe); /* R7 zero, R0 special, the rest empty */
        for (unsigned k = 0; k < 4; k++)
            assert_int_equal(env[3 + k], formats[n].expect[k]);
        assert_int_equal(memory[formats[n].words ? 14 : 28], 0xcc);

        vcpu.fpu.fcw = FCW_INIT;
        vcpu.fpu.fsw = 0;
        vcpu.fpu.ftw = 0xff;
        if (formats[n].operand_prefix)
            assert_int_equal(RUN(0x66, 0xd9, 0x27), OP_NEXT);
        else
            assert_int_equal(RUN(0xd9, 0x27), OP_NEXT);
        assert_int_equal(vcpu.fpu.fcw, before.fcw);
        assert_int_equal(vcpu.fpu.fsw, before.fsw);
        assert_int_equal(vcpu.fpu.ftw, before.ftw);
        if (formats[n].protected)
            assert_int_equal(vcpu.fpu.fip, before.fip);
        else
            assert_int_equal(vcpu.fpu.fip, 0x5768); /* linear, the segment is lost */
    }
}

/* ---- State ---- */

static uint8_t area[1024] __attribute__((aligned(64)));

static void test_fxsave(void **state)
{
    static struct fx ours, theirs __attribute__((aligned(16)));
    struct native n;
    native_init();
    for (unsigned k = 0; k < 50; k++) {
        vcpu_ready();
        random_state(&n);
        soft_load(&vcpu, &n);
        vcpu.gpr[R_DI] = (uintptr_t)area;
        memset(area, 0, sizeof area);
        assert_int_equal(RUN(0x48, 0x0f, 0xae, 0x07), OP_NEXT); /* fxsave64 */
        memcpy(&ours, area, 512);
        static struct native m;
        m = n;
        m.code = memcpy(code_page, "\xc3", 1);
        native_run(&m);
        theirs = m.fx;
        assert_int_equal(ours.mxcsr, theirs.mxcsr);
        assert_int_equal(ours.fsw, theirs.fsw);
        assert_int_equal(ours.fcw, theirs.fcw);
        assert_int_equal(ours.ftw, theirs.ftw);
        assert_memory_equal(ours.st, theirs.st, sizeof ours.st);
        assert_memory_equal(ours.xmm, theirs.xmm, sizeof ours.xmm);

        /* And back into a vCPU that has other contents */
        static struct soft_vcpu saved;
        memcpy(&saved, &vcpu, sizeof saved);
        random_state(&n);
        for (unsigned r = 0; r < 16; r++) /* these it leaves alone */
            memcpy(n.ymm[r] + 16, saved.fpu.vec[r] + 16, 16);
        soft_load(&vcpu, &n);
        vcpu.gpr[R_DI] = (uintptr_t)area;
        assert_int_equal(RUN(0x48, 0x0f, 0xae, 0x0f), OP_NEXT); /* fxrstor64 */
        assert_memory_equal(&vcpu.fpu, &saved.fpu, sizeof saved.fpu);

        struct x86_fpu arch;
        fpu_get(&vcpu.fpu, &arch);
        fpu_reset(&vcpu.fpu);
        fpu_set(&vcpu.fpu, &arch);
        assert_memory_equal(&vcpu.fpu, &saved.fpu, sizeof saved.fpu);
    }
    memset(area + 24, 0xff, 4); /* reserved bits of MXCSR */
    assert_int_equal(RUN(0x48, 0x0f, 0xae, 0x0f), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_GP);
    vcpu.gpr[R_DI] += 8;
    assert_int_equal(RUN(0x0f, 0xae, 0x07), OP_FAULT);
}

static void area_bv(uint64_t *bv) { memcpy(bv, area + 512, 8); }

static void test_xsave(void **state)
{
    static struct soft_vcpu saved;
    struct native n;
    uint64_t bv;

    for (unsigned mask = 0; mask < 8; mask++) {
        vcpu_ready();
        random_state(&n);
        soft_load(&vcpu, &n);
        for (unsigned r = 0; r < 16; r++)
            random_bytes(vcpu.fpu.vec[r] + 16, 16);
        memcpy(&saved, &vcpu, sizeof saved);
        vcpu.gpr[R_DI] = (uintptr_t)area;
        vcpu.gpr[R_AX] = mask;
        vcpu.gpr[R_DX] = 0;
        memset(area, 0xcc, sizeof area);
        memset(area + 512, 0, 64);
        assert_int_equal(RUN(0x48, 0x0f, 0xae, 0x27), OP_NEXT); /* xsave64 */
        area_bv(&bv);
        assert_int_equal(bv, mask);
        assert_int_equal(area[0] == 0xcc && area[1] == 0xcc, !(mask & 1));
        assert_int_equal(area[27] == 0xcc, !(mask & 6));
        assert_int_equal(area[500], 0xcc);

        /* Into other contents: what was not asked for stays, what is not in the area becomes
         * initial. */
        random_state(&n);
        soft_load(&vcpu, &n);
        memset(vcpu.fpu.vec[3] + 16, 0x77, 16);
        const struct soft_fpu other = vcpu.fpu;
        vcpu.gpr[R_DI] = (uintptr_t)area;
        vcpu.gpr[R_AX] = 7;
        vcpu.gpr[R_DX] = 0;
        if (!(mask & 6))
            memcpy(area + 24, &other.mxcsr, 4);
        assert_int_equal(RUN(0x48, 0x0f, 0xae, 0x2f), OP_NEXT); /* xrstor64 */
        static const uint8_t zero[16];
        assert_memory_equal(vcpu.fpu.vec[5], mask & 2 ? saved.fpu.vec[5] : zero, 16);
        assert_memory_equal(vcpu.fpu.vec[3] + 16, mask & 4 ? saved.fpu.vec[3] + 16 : zero, 16);
        assert_int_equal(vcpu.fpu.fcw, mask & 1 ? saved.fpu.fcw : FCW_INIT);
        assert_int_equal(vcpu.fpu.ftw, mask & 1 ? saved.fpu.ftw : 0);
        assert_int_equal(vcpu.fpu.mxcsr, mask & 6 ? saved.fpu.mxcsr : other.mxcsr);
        vcpu.fpu = other;
        vcpu.gpr[R_AX] = 0;
        assert_int_equal(RUN(0x48, 0x0f, 0xae, 0x2f), OP_NEXT);
        assert_memory_equal(&vcpu.fpu, &other, sizeof other);
    }

    /* XSAVEOPT leaves out what is in its initial state. */
    vcpu_ready();
    vcpu.gpr[R_DI] = (uintptr_t)area;
    vcpu.gpr[R_AX] = 7;
    vcpu.fpu.vec[1][3] = 1;
    memset(area, 0xcc, sizeof area);
    memset(area + 512, 0, 64);
    assert_int_equal(RUN(0x48, 0x0f, 0xae, 0x37), OP_NEXT);
    area_bv(&bv);
    assert_int_equal(bv, 2);
    assert_int_equal(area[0], 0xcc);
    assert_int_equal(area[160 + 16 + 3], 1);

    /* Refused headers */
    area[512] = 8; /* a component that XCR0 has not */
    assert_int_equal(RUN(0x48, 0x0f, 0xae, 0x2f), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_GP);
    area[512] = 2;
    area[527] = 0x80; /* compacted */
    assert_int_equal(RUN(0x48, 0x0f, 0xae, 0x2f), OP_FAULT);
    area[527] = 0;
    assert_int_equal(RUN(0x48, 0x0f, 0xae, 0x2f), OP_NEXT);
    vcpu.gpr[R_DI] += 16;
    assert_int_equal(RUN(0x48, 0x0f, 0xae, 0x2f), OP_FAULT);
    vcpu.cr4 &= ~(uint64_t)CR4_OSXSAVE;
    assert_int_equal(RUN(0x48, 0x0f, 0xae, 0x2f), OP_FAULT);
    assert_int_equal(vcpu.exc.vector, EXC_UD);
}

/* Outside 64-bit mode only eight XMM registers are there. */
static void test_xsave32(void **state)
{
    vcpu_ready();
    vcpu.mode = MODE_32;
    memset(vcpu.fpu.vec, 0x5a, sizeof vcpu.fpu.vec);
    memset(area, 0xcc, sizeof area);
    vcpu.gpr[R_DI] = (uintptr_t)area;
    assert_int_equal(RUN(0x0f, 0xae, 0x07), OP_NEXT);
    assert_int_equal(area[160 + 7 * 16], 0x5a);
    assert_int_equal(area[160 + 8 * 16], 0xcc);
}

static int setup(void **state)
{
    code_page =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pages = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code_page == MAP_FAILED || pages == MAP_FAILED ||
        mprotect(pages + PAGE_SIZE, PAGE_SIZE, PROT_NONE) != 0)
        return -1;
    insn_table_init();
    vcpu_ready();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_host),     cmocka_unit_test(test_not_available),
        cmocka_unit_test(test_alignment),        cmocka_unit_test(test_avx_not_available),
        cmocka_unit_test(test_avx_alignment),    cmocka_unit_test(test_gather_goes_on),
        cmocka_unit_test(test_masked_moves),     cmocka_unit_test(test_faults_change_nothing),
        cmocka_unit_test(test_pending),          cmocka_unit_test(test_sse_exception_vector),
        cmocka_unit_test(test_last_instruction), cmocka_unit_test(test_environment),
        cmocka_unit_test(test_fxsave),           cmocka_unit_test(test_xsave),
        cmocka_unit_test(test_xsave32),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
