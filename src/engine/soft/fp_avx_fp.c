/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * AVX floating point: arithmetic, comparisons, rounding, dot products, conversions; F16C.
 * Exceptions are those of fp_ssefp.c.
 */
#include "engine/soft/fp_avx.h"

typedef void vfp_fn(const x256 *a, const x256 *s, x256 *r, uint32_t *mxcsr, unsigned imm);

/* `load`: of the first operand, for instructions that have one */
#define VFP_BODY(load, text, reg, end, ...)                                                  \
    __asm__ volatile("vldmxcsr %1\n\t" load text "\n\tvmovaps %%ymm0, %0\n\tvstmxcsr %1\n\t" \
                     "vldmxcsr %4" end                                                       \
                     : "=m"(*r), "+m"(*mxcsr)                                                \
                     : "m"(*a), "m"(*s), "m"(fp_host_mxcsr), ##__VA_ARGS__                   \
                     : "xmm0")
#define VFP3(text, reg, end, ...) \
    VFP_BODY("vmovaps %2, %%" reg "\n\t", text " %3, %%" reg ", %%" reg, reg, end, ##__VA_ARGS__)
#define VFP2(text, reg, end, ...) VFP_BODY("", text " %3, %%" reg, reg, end, ##__VA_ARGS__)

#define VFP_FN(name, body, text, reg, end)                                                        \
    static inline void name(const x256 *a, const x256 *s, x256 *r, uint32_t *mxcsr, unsigned imm) \
    {                                                                                             \
        body(text, reg, end);                                                                     \
    }
#define VFP_FN_X(name, body, text) VFP_FN(name, body, text, "xmm0", "")
#define VFP_FN_Y(name, body, text) VFP_FN(name, body, text, "ymm0", "\n\tvzeroupper")

struct vfp_run {
    vfp_fn *x, *y;
    uint8_t size_x, size_y; /* of the memory operand */
    uint8_t kind_x, kind_y; /* FP_KIND */
};

static inline __attribute__((always_inline)) int vfp_apply(struct soft_vcpu *v,
                                                           const struct insn *i, struct vfp_run run)
{
    x256 buf, r;
    uint32_t mx = fp_mxcsr(v);
    const bool wide = vex_wide(i);
    ENTER(avx);
    const x256 *a = ymm(v, i->vvvv), *s = vsource(v, i, wide ? run.size_y : run.size_x, &buf);
    if (!s)
        return OP_FAULT;
    (wide ? run.y : run.x)(a, s, &r, &mx, (uint8_t)i->imm);
    TRY(fp_check(v, mx, wide ? run.kind_y : run.kind_x, (const x128 *)a, (const x128 *)s,
                 (const x128 *)&r));
    *ymm(v, i->reg) = r;
    return OP_NEXT;
}
#define VFP_HANDLER(name, ...)                                       \
    static int avx_##name(struct soft_vcpu *v, const struct insn *i) \
    {                                                                \
        return vfp_apply(v, i, (struct vfp_run){ __VA_ARGS__ });     \
    }                                                                \
    const struct op op_avx_##name = OP_ALL(avx_##name);

/* ---- Arithmetic. Kind 0: results are never tiny. ---- */

#define PACKED(name, kind)                    \
    VFP_FN_X(run_##name##_x, VFP3, "v" #name) \
    VFP_FN_Y(run_##name##_y, VFP3, "v" #name) \
    VFP_HANDLER(name, run_##name##_x, run_##name##_y, 16, 32, kind, (kind) ? (kind) | FP_256 : 0)
#define SCALAR(name, size, kind)          \
    VFP_FN_X(run_##name, VFP3, "v" #name) \
    VFP_HANDLER(name, run_##name, run_##name, size, size, kind, kind)
#define FOUR(name, op)                      \
    PACKED(name##ps, FP_KIND(op, FP_PS))    \
    PACKED(name##pd, FP_KIND(op, FP_PD))    \
    SCALAR(name##ss, 4, FP_KIND(op, FP_SS)) \
    SCALAR(name##sd, 8, FP_KIND(op, FP_SD))
#define TWO(name, op)                    \
    PACKED(name##ps, FP_KIND(op, FP_PS)) \
    PACKED(name##pd, FP_KIND(op, FP_PD))
/* V = op W; with a memory operand the assembler must be told its size when the result is narrower.
 */
#define UNARY(name, text_x, text_y, size_x, size_y, kind)                   \
    VFP_FN_X(run_##name##_x, VFP2, text_x)                                  \
    VFP_FN_Y(run_##name##_y, VFP2, text_y)                                  \
    VFP_HANDLER(name, run_##name##_x, run_##name##_y, size_x, size_y, kind, \
                (kind) ? (kind) | FP_256 : 0)
#define SAME(name) UNARY(name, "v" #name, "v" #name, 16, 32, 0)
/* clang-format off */
FOUR(add, FP_ADD)
FOUR(sub, FP_SUB)
FOUR(mul, FP_MUL)
FOUR(div, FP_DIV)
PACKED(minps, 0) PACKED(minpd, 0) SCALAR(minss, 4, 0) SCALAR(minsd, 8, 0)
PACKED(maxps, 0) PACKED(maxpd, 0) SCALAR(maxss, 4, 0) SCALAR(maxsd, 8, 0)
SAME(sqrtps) SAME(sqrtpd) SCALAR(sqrtss, 4, 0) SCALAR(sqrtsd, 8, 0)
TWO(addsub, FP_ADDSUB)
TWO(hadd, FP_HADD)
TWO(hsub, FP_HSUB)
/* Approximations: no exceptions, no rounding control */
AVX_UNARY(rcpps, 16, 32) AVX_OP_X(rcpss, 4)
AVX_UNARY(rsqrtps, 16, 32) AVX_OP_X(rsqrtss, 4);
/* clang-format on */

/* ---- Conversions ---- */

/* clang-format off */
UNARY(cvtps2pd, "vcvtps2pd", "vcvtps2pd", 8, 16, 0)
SAME(cvtdq2ps) SAME(cvtps2dq) SAME(cvttps2dq)
UNARY(cvtdq2pd, "vcvtdq2pd", "vcvtdq2pd", 8, 16, 0)
SCALAR(cvtss2sd, 4, 0)
SCALAR(cvtsd2ss, 8, FP_KIND(FP_NARROW, FP_SD));
/* clang-format on */

/* Four doubles to four elements of 4 bytes: the result is XMM for both lengths. */
#define FROM_PD(name, kind)                                                                   \
    VFP_FN_X(run_##name##_x, VFP2, "v" #name "x")                                             \
    static inline void run_##name##_y(const x256 *a, const x256 *s, x256 *r, uint32_t *mxcsr, \
                                      unsigned imm)                                           \
    {                                                                                         \
        VFP_BODY("", "v" #name "y %3, %%xmm0", , "\n\tvzeroupper");                           \
    }                                                                                         \
    VFP_HANDLER(name, run_##name##_x, run_##name##_y, 16, 32, kind, (kind) ? (kind) | FP_256 : 0)
/* clang-format off */
FROM_PD(cvtpd2ps, FP_KIND(FP_NARROW, FP_PD))
FROM_PD(cvtpd2dq, 0)
FROM_PD(cvttpd2dq, 0);
/* clang-format on */

/* General register or memory to a scalar, by VEX.W */
#define CVTSI(name)                                                                   \
    VFP_FN_X(run_##name##l, VFP3, "v" #name "l")                                      \
    VFP_FN_X(run_##name##q, VFP3, "v" #name "q")                                      \
    static int avx_##name(struct soft_vcpu *v, const struct insn *i)                  \
    {                                                                                 \
        x256 s = { { v->gpr[i->rm], 0, 0, 0 } }, r;                                   \
        const x256 *a = ymm(v, i->vvvv);                                              \
        uint32_t mx = fp_mxcsr(v);                                                    \
        ENTER(avx);                                                                   \
        if (i->flags & IF_MEM)                                                        \
            TRY(vfetch(v, i, i->size, false, &s));                                    \
        (i->size == 8 ? run_##name##q : run_##name##l)(a, &s, &r, &mx, 0);            \
        TRY(fp_check(v, mx, 0, (const x128 *)a, (const x128 *)&s, (const x128 *)&r)); \
        *ymm(v, i->reg) = r;                                                          \
        return OP_NEXT;                                                               \
    }                                                                                 \
    const struct op op_avx_##name = OP_ALL(avx_##name);
/* clang-format off */
CVTSI(cvtsi2ss)
CVTSI(cvtsi2sd);
/* clang-format on */

/* ---- The immediate is part of the encoding ---- */

/* Cases for a switch over the immediate: three or two operands, XMM or YMM */
#define CASE3_X(n, text)                       \
    case n:                                    \
        VFP3(text " %5,", "xmm0", "", "i"(n)); \
        break;
#define CASE3_Y(n, text)                                     \
    case n:                                                  \
        VFP3(text " %5,", "ymm0", "\n\tvzeroupper", "i"(n)); \
        break;
#define CASE2_X(n, text)                       \
    case n:                                    \
        VFP2(text " %5,", "xmm0", "", "i"(n)); \
        break;
#define CASE2_Y(n, text)                                     \
    case n:                                                  \
        VFP2(text " %5,", "ymm0", "\n\tvzeroupper", "i"(n)); \
        break;
#define IMM_FN(name, what) \
    static void name(const x256 *a, const x256 *s, x256 *r, uint32_t *mxcsr, unsigned imm) { what }

/* clang-format off */
#define CMPPS_X(n) CASE3_X(n, "vcmpps")
#define CMPPS_Y(n) CASE3_Y(n, "vcmpps")
#define CMPPD_X(n) CASE3_X(n, "vcmppd")
#define CMPPD_Y(n) CASE3_Y(n, "vcmppd")
#define CMPSS(n) CASE3_X(n, "vcmpss")
#define CMPSD(n) CASE3_X(n, "vcmpsd")
#define CMP(CASE) switch (imm & 31) { REP16(CASE, 0) REP16(CASE, 16) }
IMM_FN(cmpps_x, CMP(CMPPS_X)) IMM_FN(cmpps_y, CMP(CMPPS_Y))
IMM_FN(cmppd_x, CMP(CMPPD_X)) IMM_FN(cmppd_y, CMP(CMPPD_Y))
IMM_FN(cmpss, CMP(CMPSS)) IMM_FN(cmpsd, CMP(CMPSD))
VFP_HANDLER(cmpps, cmpps_x, cmpps_y, 16, 32, 0, 0)
VFP_HANDLER(cmppd, cmppd_x, cmppd_y, 16, 32, 0, 0)
VFP_HANDLER(cmpss, cmpss, cmpss, 4, 4, 0, 0)
VFP_HANDLER(cmpsd, cmpsd, cmpsd, 8, 8, 0, 0)

#define ROUNDPS_X(n) CASE2_X(n, "vroundps")
#define ROUNDPS_Y(n) CASE2_Y(n, "vroundps")
#define ROUNDPD_X(n) CASE2_X(n, "vroundpd")
#define ROUNDPD_Y(n) CASE2_Y(n, "vroundpd")
#define ROUNDSS(n) CASE3_X(n, "vroundss")
#define ROUNDSD(n) CASE3_X(n, "vroundsd")
#define ROUND(CASE) switch (imm & 15) { REP16(CASE, 0) }
IMM_FN(roundps_x, ROUND(ROUNDPS_X)) IMM_FN(roundps_y, ROUND(ROUNDPS_Y))
IMM_FN(roundpd_x, ROUND(ROUNDPD_X)) IMM_FN(roundpd_y, ROUND(ROUNDPD_Y))
IMM_FN(roundss, ROUND(ROUNDSS)) IMM_FN(roundsd, ROUND(ROUNDSD))
VFP_HANDLER(roundps, roundps_x, roundps_y, 16, 32, 0, 0)
VFP_HANDLER(roundpd, roundpd_x, roundpd_y, 16, 32, 0, 0)
VFP_HANDLER(roundss, roundss, roundss, 4, 4, 0, 0)
VFP_HANDLER(roundsd, roundsd, roundsd, 8, 8, 0, 0);
/* clang-format on */

/* ---- Dot products: the low half of the immediate only says which elements get the sum ---- */

/* clang-format off */
#define DPPS_X(n) case n: VFP3("vdpps %5,", "xmm0", "", "i"((n) << 4 | 15)); break;
#define DPPS_Y(n) case n: VFP3("vdpps %5,", "ymm0", "\n\tvzeroupper", "i"((n) << 4 | 15)); break;
#define DPPD(n) case n: VFP3("vdppd %5,", "xmm0", "", "i"((n) << 4 | 15)); break;
IMM_FN(dpps_x, switch (imm >> 4) { REP16(DPPS_X, 0) })
IMM_FN(dpps_y, switch (imm >> 4) { REP16(DPPS_Y, 0) })
IMM_FN(dppd_x, switch (imm >> 4 & 3) { REP4(DPPD, 0) });
/* clang-format on */

/* As dp_stepwise of fp_ssefp.c: with something unmasked an exception in one step keeps the next
 * from happening. */
static int dp_stepwise(struct soft_vcpu *v, const x256 *p, const x256 *q, unsigned select,
                       bool doubles, bool wide)
{
    const unsigned shape = doubles ? FP_PD : FP_PS, length = wide ? FP_256 : 0;
    vfp_fn *mul = doubles ? run_mulpd_x : wide ? run_mulps_y : run_mulps_x;
    vfp_fn *hadd = doubles ? run_haddpd_x : wide ? run_haddps_y : run_haddps_x;
    x256 a = *p, b = *q, r;
    for (unsigned n = 0; n < 32; n++) {
        if (select >> n % 16 / (doubles ? 8 : 4) & 1)
            continue;
        ((uint8_t *)&a)[n] = 0;
        ((uint8_t *)&b)[n] = 0;
    }
    uint32_t mx = fp_mxcsr(v);
    mul(&a, &b, &r, &mx, 0);
    TRY(fp_check(v, mx, FP_KIND(FP_MUL, shape) | length, (x128 *)&a, (x128 *)&b, (x128 *)&r));
    for (unsigned step = doubles ? 1 : 2; step; step--) {
        a = r;
        mx = fp_mxcsr(v);
        hadd(&a, &a, &r, &mx, 0);
        TRY(fp_check(v, mx, FP_KIND(FP_HADD, shape) | length, (x128 *)&a, (x128 *)&a, (x128 *)&r));
    }
    return 0;
}

static int dp(struct soft_vcpu *v, const struct insn *i, vfp_fn *run, bool doubles)
{
    x256 buf, r;
    uint32_t mx = fp_mxcsr(v);
    ENTER(avx);
    const x256 *a = ymm(v, i->vvvv), *s = vsource(v, i, vex_bytes(i), &buf);
    if (!s)
        return OP_FAULT;
    run(a, s, &r, &mx, (uint8_t)i->imm);
    if ((v->fpu.mxcsr & MX_MASKS) != MX_MASKS)
        TRY(dp_stepwise(v, a, s, (unsigned)i->imm >> 4 & 15, doubles, vex_wide(i)));
    else
        v->fpu.mxcsr |= mx & MX_FLAGS;
    for (unsigned n = 0; n < 32; n++)
        if (!(i->imm >> n % 16 / (doubles ? 8 : 4) & 1))
            ((uint8_t *)&r)[n] = 0;
    *ymm(v, i->reg) = r;
    return OP_NEXT;
}
static int dpps(struct soft_vcpu *v, const struct insn *i)
{
    return dp(v, i, vex_wide(i) ? dpps_y : dpps_x, false);
}
static int dppd(struct soft_vcpu *v, const struct insn *i) { return dp(v, i, dppd_x, true); }
const struct op op_avx_dpps = OP_ALL(dpps);
const struct op op_avx_dppd = OP_ALL(dppd);

/* ---- Half precision: MXCSR's DAZ and FTZ do not matter to it ---- */

VFP_FN_X(run_cvtph2ps_x, VFP2, "vcvtph2ps")
VFP_FN_Y(run_cvtph2ps_y, VFP2, "vcvtph2ps")
VFP_HANDLER(cvtph2ps, run_cvtph2ps_x, run_cvtph2ps_y, 8, 16, 0, 0)

/* clang-format off */
#define PS2PH_BODY(n, reg, end)                                                               \
    case n:                                                                                   \
        __asm__ volatile("vldmxcsr %1\n\tvmovaps %2, %%" reg "\n\tvcvtps2ph %4, %%" reg ", %%xmm0\n\t" \
                         "vmovaps %%ymm0, %0\n\tvstmxcsr %1\n\tvldmxcsr %3" end               \
                         : "=m"(*r), "+m"(*mxcsr)                                             \
                         : "m"(*s), "m"(fp_host_mxcsr), "i"(n)                                \
                         : "xmm0");                                                           \
        break;
#define PS2PH_X(n) PS2PH_BODY(n, "xmm0", "")
#define PS2PH_Y(n) PS2PH_BODY(n, "ymm0", "\n\tvzeroupper")
IMM_FN(cvtps2ph_x, switch (imm & 7) { REP4(PS2PH_X, 0) REP4(PS2PH_X, 4) })
IMM_FN(cvtps2ph_y, switch (imm & 7) { REP4(PS2PH_Y, 0) REP4(PS2PH_Y, 4) });
/* clang-format on */

static bool half_tiny(uint16_t x) { return !(x >> 10 & 31) && x & 0x3ff; }

/* Does the single-precision value need more than the 11 bits of a half's mantissa, were its
 * exponent unbounded? */
static bool half_inexact(uint32_t x)
{
    const uint32_t exponent = x >> 23 & 0xff, fraction = x & 0x7fffff;
    if (exponent == 0xff || !(x & 0x7fffffff))
        return false;
    if (exponent)
        return fraction & 0x1fff;
    const unsigned lowest = (unsigned)__builtin_ctz(fraction),
                   highest = 31 - (unsigned)__builtin_clz(fraction);
    return highest - lowest > 10;
}

/* The inexact flag when overflow or underflow is reported unmasked, as inexact_flag of fp_ssefp.c
 */
static unsigned half_inexact_flag(uint32_t mx, unsigned unmasked, const uint32_t *s, unsigned count,
                                  unsigned imm)
{
    for (unsigned n = 0; n < count; n++) {
        const x256 one = { { s[n], 0, 0, 0 } };
        uint32_t flags = mx;
        x256 r;
        cvtps2ph_x(&one, &one, &r, &flags, imm);
        if (half_tiny((uint16_t)r.q[0]))
            flags |= MX_UE;
        const bool zero = mx & MX_DAZ && !(s[n] >> 23 & 0xff);
        if (flags & unmasked & (MX_OE | MX_UE) ? half_inexact(s[n]) && !zero : flags & MX_PE)
            return MX_PE;
    }
    return 0;
}

/* As fp_check_slow, for results that are halves */
static int half_check(struct soft_vcpu *v, unsigned flags, const x256 *s, const x256 *r,
                      unsigned count, unsigned imm)
{
    const unsigned unmasked = ~v->fpu.mxcsr >> 7 & MX_FLAGS;

    if (flags & unmasked & (MX_IE | MX_DE)) {
        flags &= MX_IE | MX_DE;
    } else {
        for (unsigned n = 0; n < count; n++)
            if (unmasked & MX_UE && half_tiny(((const uint16_t *)r)[n]))
                flags |= MX_UE;
        if (flags & unmasked & (MX_OE | MX_UE))
            flags = (flags & ~(unsigned)MX_PE) |
                    half_inexact_flag(fp_mxcsr(v), unmasked, (const uint32_t *)s, count, imm);
    }
    v->fpu.mxcsr |= flags;
    if (!(flags & unmasked))
        return 0;
    return v->cr4 & CR4_OSXMMEXCPT ? raise(v, EXC_XM) : raise_ud(v);
}

/* The destination is W: a store that cannot be done faults before anything is converted. */
static int cvtps2ph(struct soft_vcpu *v, const struct insn *i)
{
    const bool wide = vex_wide(i);
    const unsigned count = wide ? 8 : 4, imm = (uint8_t)i->imm;
    const x256 *s = ymm(v, i->reg);
    uint32_t mx = fp_mxcsr(v);
    uint64_t va = 0;
    x256 r;
    ENTER(avx);
    if (i->flags & IF_MEM) {
        TRY(ea(v, i, count * 2, true, &va));
        TRY(gva_probe_write(v, va, count * 2));
    }
    (wide ? cvtps2ph_y : cvtps2ph_x)(s, s, &r, &mx, imm);
    TRY(half_check(v, mx & MX_FLAGS, s, &r, count, imm));
    if (!(i->flags & IF_MEM))
        *ymm(v, i->rm) = r;
    else if (wide)
        TRY(store128(v, va, (const x128 *)&r));
    else
        TRY(store64(v, va, r.q[0]));
    return OP_NEXT;
}
const struct op op_avx_cvtps2ph = OP_ALL(cvtps2ph);
