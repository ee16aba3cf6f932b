/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SSE to SSE4.1 floating point: arithmetic, comparisons, conversions; MXCSR exceptions.
 *
 * What the guest sees of exceptions (SDM volume 1, 11.5.2 and appendix E): with all masked, the
 * host's flags as they are. An unmasked invalid, denormal or divide-by-zero stops the operation
 * before rounding, so overflow, underflow and inexact are not reported with it. Unmasked underflow
 * means "tiny", exact or not, and unmasked overflow and underflow report inexact against an
 * unbounded exponent: the x87 unit with reduced precision gives exactly that.
 */
#include "engine/soft/fp_avx.h"

const uint32_t fp_host_mxcsr = MX_INIT;

/* ---- Exceptions ---- */

struct element { /* one scalar operation out of a packed one */
    uint64_t a, b;
    enum fp_op op;
};

/* Elements in 16 bytes, and in all */
static unsigned shape_elements(unsigned shape)
{
    return shape == FP_PS ? 4 : shape == FP_PD ? 2 : 1;
}
static unsigned kind_elements(unsigned kind)
{
    return shape_elements(kind & 3) * (kind & FP_256 ? 2 : 1);
}
static enum fp_op kind_op(unsigned kind) { return (enum fp_op)((kind & ~(unsigned)FP_256) >> 2); }
static bool shape_double(unsigned shape) { return shape >= FP_SD; }

static uint64_t lane(const void *x, bool wide, unsigned n)
{
    return wide ? ((const uint64_t *)x)[n] : ((const uint32_t *)x)[n];
}

static struct element element_of(unsigned kind, const x128 *d, const x128 *s, unsigned n)
{
    const unsigned shape = kind & 3;
    const bool wide = shape_double(shape);
    struct element e = { .op = kind_op(kind) };

    if (e.op == FP_HADD || e.op == FP_HSUB) { /* each 16 bytes on their own */
        const unsigned whole = shape_elements(shape), half = whole / 2;
        const x128 *from = n % whole < half ? d : s;
        const unsigned first = n / whole * whole + n % half * 2;
        e.a = lane(from, wide, first);
        e.b = lane(from, wide, first + 1);
        e.op = e.op == FP_HADD ? FP_ADD : FP_SUB;
        return e;
    }
    if (e.op == FP_NARROW) {
        e.a = lane(s, true, n);
        return e;
    }
    e.a = lane(d, wide, n);
    e.b = lane(s, wide, n);
    if (e.op == FP_ADDSUB)
        e.op = n & 1 ? FP_ADD : FP_SUB;
    return e;
}

/* Is the result of element n denormal? */
static bool lane_tiny(unsigned shape, const void *r, unsigned n)
{
    uint64_t x = lane(r, shape_double(shape), n);
    if (shape_double(shape))
        return !(x >> 52 & 0x7ff) && x << 12;
    return !(x >> 23 & 0xff) && (uint32_t)x << 9;
}

#define SCALAR(text)                                                                               \
    __asm__ volatile("ldmxcsr %0\n\tmovq %2, %%xmm0\n\t" text " %3, %%xmm0\n\tmovq %%xmm0, %1\n\t" \
                     "stmxcsr %0\n\tldmxcsr %4"                                                    \
                     : "+m"(mx), "=m"(*r)                                                          \
                     : "m"(e->a), "m"(e->b), "m"(fp_host_mxcsr)                                    \
                     : "xmm0")
/* One element with all exceptions masked: its flags and its result */
static unsigned element_run(const struct element *e, bool wide, uint32_t mx, uint64_t *r)
{
    switch (e->op) {
    case FP_ADD:
        if (wide)
            SCALAR("addsd");
        else
            SCALAR("addss");
        break;
    case FP_SUB:
        if (wide)
            SCALAR("subsd");
        else
            SCALAR("subss");
        break;
    case FP_MUL:
        if (wide)
            SCALAR("mulsd");
        else
            SCALAR("mulss");
        break;
    case FP_DIV:
        if (wide)
            SCALAR("divsd");
        else
            SCALAR("divss");
        break;
    default: /* FP_NARROW */
        __asm__ volatile("ldmxcsr %0\n\tpxor %%xmm0, %%xmm0\n\tcvtsd2ss %2, %%xmm0\n\tmovq %%xmm0, "
                         "%1\n\tstmxcsr %0\n\t"
                         "ldmxcsr %3"
                         : "+m"(mx), "=m"(*r)
                         : "m"(e->a), "m"(fp_host_mxcsr)
                         : "xmm0");
    }
    return mx & MX_FLAGS;
}

#define X87_PE(load, text)                                                                 \
    __asm__ volatile("fnclex\n\tfldcw %1\n\t" load " %2\n\t" load " %3\n\tfnclex\n\t" text \
                     "\n\tfnstsw %0\n\tfstp %%st(0)\n\tfninit"                             \
                     : "=m"(sw)                                                            \
                     : "m"(cw), "m"(e->a), "m"(b)                                          \
                     : "st", "st(1)", "st(2)")
/* Inexact with an unbounded exponent? x87 rounds to the precision of the control word and has
 * exponents to spare. */
static bool element_inexact(const struct element *e, bool wide, uint32_t mx)
{
    const bool narrow = e->op == FP_NARROW;
    const uint64_t one = 0x3ff0000000000000;
    const uint64_t b = narrow ? one : e->b;
    const uint16_t cw = (uint16_t)(0x3f | (wide && !narrow ? 0x200 : 0) | (mx >> 13 & 3) << 10);
    uint16_t sw;

    if (narrow)
        X87_PE("fldl", "fmulp");
    else if (e->op == FP_ADD) {
        if (wide)
            X87_PE("fldl", "faddp");
        else
            X87_PE("flds", "faddp");
    } else if (e->op == FP_SUB) {
        if (wide)
            X87_PE("fldl", ".byte 0xde, 0xe9");
        else
            X87_PE("flds", ".byte 0xde, 0xe9");
    } else if (e->op == FP_MUL) {
        if (wide)
            X87_PE("fldl", "fmulp");
        else
            X87_PE("flds", "fmulp");
    } else {
        if (wide)
            X87_PE("fldl", ".byte 0xde, 0xf9");
        else
            X87_PE("flds", ".byte 0xde, 0xf9");
    }
    return sw & MX_PE;
}

/* The inexact flag when overflow or underflow is reported unmasked */
static unsigned inexact_flag(uint32_t mx, unsigned unmasked, unsigned kind, const x128 *d,
                             const x128 *s)
{
    const unsigned shape = kind & 3;
    const bool wide = shape_double(shape);
    for (unsigned n = 0; n < kind_elements(kind); n++) {
        const struct element e = element_of(kind, d, s, n);
        x128 r = { { 0, 0 } };
        unsigned flags = element_run(&e, wide, mx, &r.q[0]);
        if (lane_tiny(e.op == FP_NARROW ? FP_SS : shape, &r, 0))
            flags |= MX_UE;
        if (flags & unmasked & (MX_OE | MX_UE) ? element_inexact(&e, wide, mx) : flags & MX_PE)
            return MX_PE;
    }
    return 0;
}

int fp_check_slow(struct soft_vcpu *v, unsigned flags, unsigned kind, const x128 *d, const x128 *s,
                  const x128 *r)
{
    const unsigned unmasked = ~v->fpu.mxcsr >> 7 & MX_FLAGS;
    const bool narrow = kind_op(kind) == FP_NARROW;

    if (flags & unmasked & (MX_IE | MX_DE | MX_ZE)) {
        flags &= MX_IE | MX_DE | MX_ZE;
    } else {
        if (kind && unmasked & MX_UE)
            for (unsigned n = 0; n < kind_elements(kind); n++)
                if (lane_tiny(narrow ? FP_PS : kind & 3, r, n))
                    flags |= MX_UE;
        if (flags & unmasked & (MX_OE | MX_UE) && kind) {
            x87_leave_host(v); /* its unit is needed */
            flags = (flags & ~(unsigned)MX_PE) | inexact_flag(fp_mxcsr(v), unmasked, kind, d, s);
        }
    }
    v->fpu.mxcsr |= flags;
    if (!(flags & unmasked))
        return 0;
    return v->cr4 & CR4_OSXMMEXCPT ? raise(v, EXC_XM) : raise_ud(v);
}

/* ---- Arithmetic ---- */

#define FOUR(name, op)                                   \
    SSE_FP(name##ps, #name "ps", 16, FP_KIND(op, FP_PS)) \
    SSE_FP(name##pd, #name "pd", 16, FP_KIND(op, FP_PD)) \
    SSE_FP(name##ss, #name "ss", 4, FP_KIND(op, FP_SS))  \
    SSE_FP(name##sd, #name "sd", 8, FP_KIND(op, FP_SD))
/* kind 0: results are never tiny */
#define FOUR_PLAIN(name)                \
    SSE_FP(name##ps, #name "ps", 16, 0) \
    SSE_FP(name##pd, #name "pd", 16, 0) \
    SSE_FP(name##ss, #name "ss", 4, 0)  \
    SSE_FP(name##sd, #name "sd", 8, 0)
#define TWO(name, op)                                    \
    SSE_FP(name##ps, #name "ps", 16, FP_KIND(op, FP_PS)) \
    SSE_FP(name##pd, #name "pd", 16, FP_KIND(op, FP_PD))
/* clang-format off */
FOUR(add, FP_ADD)
FOUR(sub, FP_SUB)
FOUR(mul, FP_MUL)
FOUR(div, FP_DIV)
FOUR_PLAIN(sqrt)
FOUR_PLAIN(min)
FOUR_PLAIN(max)
TWO(addsub, FP_ADDSUB)
TWO(hadd, FP_HADD)
TWO(hsub, FP_HSUB);
/* clang-format on */

/* Approximations: no exceptions, no rounding control */
/* clang-format off */
SSE_OP(rcpps, "rcpps", 16)
SSE_OP(rcpss, "rcpss", 4)
SSE_OP(rsqrtps, "rsqrtps", 16)
SSE_OP(rsqrtss, "rsqrtss", 4);
/* clang-format on */

/* ---- Instructions with the immediate in the encoding: one function for each value that differs
 * ---- */

static int fp_apply_imm(struct soft_vcpu *v, const struct insn *i, fp_fn *run, unsigned size)
{
    x128 buf;
    ENTER(sse);
    const x128 *s = source(v, i, size, &buf);
    return s ? fp_apply(v, run, 0, xmm(v, i->reg), s) : OP_FAULT;
}

#define IMM_FN(n, text) \
    static void n(const x128 *d, const x128 *s, x128 *r, uint32_t *mxcsr) { FP_BODY(text); }
/* clang-format off */
#define CMP(name, size)                                                                         \
    IMM_FN(name##_0, #name " $0,") IMM_FN(name##_1, #name " $1,")                               \
    IMM_FN(name##_2, #name " $2,") IMM_FN(name##_3, #name " $3,")                               \
    IMM_FN(name##_4, #name " $4,") IMM_FN(name##_5, #name " $5,")                               \
    IMM_FN(name##_6, #name " $6,") IMM_FN(name##_7, #name " $7,")                               \
    static int name(struct soft_vcpu *v, const struct insn *i)                                  \
    {                                                                                           \
        static fp_fn *const run[8] = { name##_0, name##_1, name##_2, name##_3,                  \
                                       name##_4, name##_5, name##_6, name##_7 };                \
        return fp_apply_imm(v, i, run[i->imm & 7], size);                                       \
    }                                                                                           \
    const struct op op_sse_##name = OP_ALL(name);
CMP(cmpps, 16)
CMP(cmppd, 16)
CMP(cmpss, 4)
CMP(cmpsd, 8);

/* With bit 2 of the immediate MXCSR says how to round, bit 3 keeps inexact from being reported. */
#define ROUND(name, size)                                                                       \
    IMM_FN(name##_0, #name " $0,") IMM_FN(name##_1, #name " $1,")                               \
    IMM_FN(name##_2, #name " $2,") IMM_FN(name##_3, #name " $3,")                               \
    IMM_FN(name##_4, #name " $4,") IMM_FN(name##_8, #name " $8,")                               \
    IMM_FN(name##_9, #name " $9,") IMM_FN(name##_10, #name " $10,")                             \
    IMM_FN(name##_11, #name " $11,") IMM_FN(name##_12, #name " $12,")                           \
    static int name(struct soft_vcpu *v, const struct insn *i)                                  \
    {                                                                                           \
        static fp_fn *const run[16] = { name##_0,  name##_1,  name##_2,  name##_3,              \
                                        name##_4,  name##_4,  name##_4,  name##_4,              \
                                        name##_8,  name##_9,  name##_10, name##_11,             \
                                        name##_12, name##_12, name##_12, name##_12 };           \
        return fp_apply_imm(v, i, run[i->imm & 15], size);                                      \
    }                                                                                           \
    const struct op op_sse_##name = OP_ALL(name);
ROUND(roundps, 16)
ROUND(roundpd, 16)
ROUND(roundss, 4)
ROUND(roundsd, 8);
/* clang-format on */

/* The low half of the immediate only says which elements get the sum, the others get zero. */
#define DP_FN(name, n) IMM_FN(name##_##n, #name " $((" #n " << 4) | 15),")
/* clang-format off */
DP_FN(dpps, 0) DP_FN(dpps, 1) DP_FN(dpps, 2) DP_FN(dpps, 3) DP_FN(dpps, 4) DP_FN(dpps, 5) DP_FN(dpps, 6) DP_FN(dpps, 7)
DP_FN(dpps, 8) DP_FN(dpps, 9) DP_FN(dpps, 10) DP_FN(dpps, 11) DP_FN(dpps, 12) DP_FN(dpps, 13) DP_FN(dpps, 14)
DP_FN(dpps, 15) DP_FN(dppd, 0) DP_FN(dppd, 1) DP_FN(dppd, 2) DP_FN(dppd, 3);
/* clang-format on */

/*
 * With something unmasked the steps are taken one by one, since an exception in one keeps the next
 * from happening: products, sums of neighbours, for four elements the sum of those.
 */
static int dp_stepwise(struct soft_vcpu *v, const x128 *d, const x128 *s, unsigned select,
                       bool wide)
{
    x128 a = *d, b = *s, r;
    for (unsigned n = 0; n < 16; n++) {
        if (select >> n / (wide ? 8 : 4) & 1)
            continue;
        ((uint8_t *)&a)[n] = 0;
        ((uint8_t *)&b)[n] = 0;
    }
    uint32_t mx = fp_mxcsr(v);
    (wide ? run_mulpd : run_mulps)(&a, &b, &r, &mx);
    TRY(fp_check(v, mx, FP_KIND(FP_MUL, wide ? FP_PD : FP_PS), &a, &b, &r));
    for (unsigned step = wide ? 1 : 2; step; step--) {
        a = r;
        mx = fp_mxcsr(v);
        (wide ? run_haddpd : run_haddps)(&a, &a, &r, &mx);
        TRY(fp_check(v, mx, FP_KIND(FP_HADD, wide ? FP_PD : FP_PS), &a, &a, &r));
    }
    return 0;
}

static int dp(struct soft_vcpu *v, const struct insn *i, fp_fn *run, unsigned select, bool wide)
{
    x128 buf, r;
    uint32_t mx = fp_mxcsr(v);
    ENTER(sse);
    x128 *d = xmm(v, i->reg);
    const x128 *s = source(v, i, 16, &buf);
    if (!s)
        return OP_FAULT;
    run(d, s, &r, &mx);
    if ((v->fpu.mxcsr & MX_MASKS) != MX_MASKS)
        TRY(dp_stepwise(v, d, s, select, wide));
    else
        v->fpu.mxcsr |= mx & MX_FLAGS;
    for (unsigned n = 0; n < 16; n++)
        if (!(i->imm >> n / (wide ? 8 : 4) & 1))
            ((uint8_t *)&r)[n] = 0;
    *d = r;
    return OP_NEXT;
}
static int dpps(struct soft_vcpu *v, const struct insn *i)
{
    static fp_fn *const run[16] = { dpps_0,  dpps_1,  dpps_2,  dpps_3, dpps_4,  dpps_5,
                                    dpps_6,  dpps_7,  dpps_8,  dpps_9, dpps_10, dpps_11,
                                    dpps_12, dpps_13, dpps_14, dpps_15 };
    return dp(v, i, run[i->imm >> 4 & 15], i->imm >> 4 & 15, false);
}
static int dppd(struct soft_vcpu *v, const struct insn *i)
{
    static fp_fn *const run[4] = { dppd_0, dppd_1, dppd_2, dppd_3 };
    return dp(v, i, run[i->imm >> 4 & 3], i->imm >> 4 & 3, true);
}
const struct op op_sse_dpps = OP_ALL(dpps);
const struct op op_sse_dppd = OP_ALL(dppd);

/* ---- Comparisons into the flags ---- */

/* Legacy and VEX form of an instruction that writes no vector register */
#define WITH_VEX(name)                                               \
    static int sse_##name(struct soft_vcpu *v, const struct insn *i) \
    {                                                                \
        ENTER(sse);                                                  \
        return name(v, i);                                           \
    }                                                                \
    static int avx_##name(struct soft_vcpu *v, const struct insn *i) \
    {                                                                \
        ENTER(avx);                                                  \
        return name(v, i);                                           \
    }                                                                \
    const struct op op_sse_##name = OP_ALL(sse_##name);              \
    const struct op op_avx_##name = OP_ALL(avx_##name);

#define COMI(name, size)                                               \
    static inline int name(struct soft_vcpu *v, const struct insn *i)  \
    {                                                                  \
        x128 buf;                                                      \
        uint32_t mx = fp_mxcsr(v), cc;                                 \
        const x128 *d = xmm(v, i->reg), *s = source(v, i, size, &buf); \
        if (!s)                                                        \
            return OP_FAULT;                                           \
        __asm__ volatile("ldmxcsr %0\n\tmovaps %2, %%xmm0\n\t" #name   \
                         " %3, %%xmm0\n\tlahf\n\tseto %%al\n\t"        \
                         "stmxcsr %0\n\tldmxcsr %4"                    \
                         : "+m"(mx), "=&a"(cc)                         \
                         : "m"(*d), "m"(*s), "m"(fp_host_mxcsr)        \
                         : "xmm0", "cc");                              \
        TRY(fp_check(v, mx, 0, d, s, d));                              \
        v->cc = cc & 0xffff;                                           \
        return OP_NEXT;                                                \
    }                                                                  \
    WITH_VEX(name)
/* clang-format off */
COMI(ucomiss, 4)
COMI(ucomisd, 8)
COMI(comiss, 4)
COMI(comisd, 8);
/* clang-format on */

/* ---- Conversions ---- */

/* clang-format off */
SSE_FP(cvtps2pd, "cvtps2pd", 8, 0)
SSE_FP(cvtss2sd, "cvtss2sd", 4, 0)
SSE_FP(cvtpd2ps, "cvtpd2ps", 16, FP_KIND(FP_NARROW, FP_PD))
SSE_FP(cvtsd2ss, "cvtsd2ss", 8, FP_KIND(FP_NARROW, FP_SD))
SSE_FP(cvtdq2ps, "cvtdq2ps", 16, 0)
SSE_FP(cvtps2dq, "cvtps2dq", 16, 0)
SSE_FP(cvttps2dq, "cvttps2dq", 16, 0)
SSE_FP(cvtpd2dq, "cvtpd2dq", 16, 0)
SSE_FP(cvttpd2dq, "cvttpd2dq", 16, 0)
SSE_FP(cvtdq2pd, "cvtdq2pd", 8, 0);
/* clang-format on */

/* General register or memory to a scalar, by REX.W */
/* clang-format off */
FP_FN(cvtsi2ssl, "cvtsi2ssl")
FP_FN(cvtsi2ssq, "cvtsi2ssq")
FP_FN(cvtsi2sdl, "cvtsi2sdl")
FP_FN(cvtsi2sdq, "cvtsi2sdq");
/* clang-format on */
#define CVTSI(name)                                                                              \
    static int name(struct soft_vcpu *v, const struct insn *i)                                   \
    {                                                                                            \
        x128 s = { { v->gpr[i->rm], 0 } };                                                       \
        ENTER(sse);                                                                              \
        if (i->flags & IF_MEM)                                                                   \
            TRY(fetch(v, i, i->size, false, &s));                                                \
        return fp_apply(v, i->size == 8 ? run_##name##q : run_##name##l, 0, xmm(v, i->reg), &s); \
    }                                                                                            \
    const struct op op_sse_##name = OP_ALL(name);
/* clang-format off */
CVTSI(cvtsi2ss)
CVTSI(cvtsi2sd);
/* clang-format on */

/* A scalar to a general register */
#define CVT2SI_RUN(text, reg)                                                           \
    __asm__ volatile("ldmxcsr %0\n\t" text " %2, %" reg "1\n\tstmxcsr %0\n\tldmxcsr %3" \
                     : "+m"(mx), "=&r"(r)                                               \
                     : "m"(*s), "m"(fp_host_mxcsr))
#define CVT2SI(name, bytes)                                           \
    static inline int name(struct soft_vcpu *v, const struct insn *i) \
    {                                                                 \
        x128 buf;                                                     \
        uint32_t mx = fp_mxcsr(v);                                    \
        uint64_t r;                                                   \
        const x128 *s = source(v, i, bytes, &buf);                    \
        if (!s)                                                       \
            return OP_FAULT;                                          \
        if (i->size == 8)                                             \
            CVT2SI_RUN(#name "q", "q");                               \
        else                                                          \
            CVT2SI_RUN(#name "l", "k");                               \
        TRY(fp_check(v, mx, 0, s, s, s));                             \
        v->gpr[i->reg] = r;                                           \
        return OP_NEXT;                                               \
    }                                                                 \
    WITH_VEX(name)
/* clang-format off */
CVT2SI(cvtss2si, 4)
CVT2SI(cvttss2si, 4)
CVT2SI(cvtsd2si, 8)
CVT2SI(cvttsd2si, 8);
/* clang-format on */

/* ---- Conversions between XMM and MMX ---- */

/*
 * MMX integers to XMM: done by the twin that takes them from an XMM register, which has the same
 * exceptions. Only the register form is an MMX instruction.
 */
static int cvtpi2ps(struct soft_vcpu *v, const struct insn *i)
{
    x128 s = { { *mm(v, i->rm), 0 } }, r;
    uint32_t mx = fp_mxcsr(v);
    ENTER(sse);
    if (i->flags & IF_MEM) {
        TRY(fetch(v, i, 8, false, &s));
    } else {
        ENTER(mmx);
        mmx_used(v);
    }
    run_cvtdq2ps(&s, &s, &r, &mx);
    TRY(fp_check(v, mx, 0, &s, &s, &r));
    xmm(v, i->reg)->q[0] = r.q[0];
    return OP_NEXT;
}
static int cvtpi2pd_r(struct soft_vcpu *v, const struct insn *i)
{
    const x128 s = { { *mm(v, i->rm), 0 } };
    ENTER(sse_mmx);
    SSE_RUN("cvtdq2pd", xmm(v, i->reg), &s); /* exact */
    mmx_used(v);
    return OP_NEXT;
}
static int cvtpi2pd_m(struct soft_vcpu *v, const struct insn *i)
{
    x128 s;
    ENTER(sse);
    TRY(fetch(v, i, 8, false, &s));
    SSE_RUN("cvtdq2pd", xmm(v, i->reg), &s);
    return OP_NEXT;
}
const struct op op_cvtpi2ps = OP_ALL(cvtpi2ps);
const struct op op_cvtpi2pd = OP_RM(cvtpi2pd_r, cvtpi2pd_m);

/* XMM to MMX. The upper half of a source of single floats must not raise anything: it is cleared.
 */
#define CVT2PI(name, twin, bytes)                                   \
    static int name(struct soft_vcpu *v, const struct insn *i)      \
    {                                                               \
        x128 buf, r;                                                \
        uint32_t mx = fp_mxcsr(v);                                  \
        ENTER(sse_mmx);                                             \
        const x128 *s = source(v, i, bytes, &buf);                  \
        if (!s)                                                     \
            return OP_FAULT;                                        \
        const x128 low = { { s->q[0], bytes == 8 ? 0 : s->q[1] } }; \
        mmx_used(v);                                                \
        run_##twin(&low, &low, &r, &mx);                            \
        TRY(fp_check(v, mx, 0, &low, &low, &r));                    \
        mm_set(v, i->reg, r.q[0]);                                  \
        return OP_NEXT;                                             \
    }                                                               \
    const struct op op_##name = OP_ALL(name);
/* clang-format off */
CVT2PI(cvtps2pi, cvtps2dq, 8)
CVT2PI(cvttps2pi, cvttps2dq, 8)
CVT2PI(cvtpd2pi, cvtpd2dq, 16)
CVT2PI(cvttpd2pi, cvttpd2dq, 16);
/* clang-format on */
