/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Handlers of the usual SSE shape, made by macros.
 *
 * SSE_OP: V = V op W, no floating-point exceptions. SSE_FP: the same with MXCSR: the host runs with
 * the guest's rounding, DAZ and FTZ, all exceptions masked and all flags clear; fp_check() then
 * decides what the guest sees.
 */
#ifndef ENGINE_SOFT_FP_SSE_H
#define ENGINE_SOFT_FP_SSE_H

#include "engine/soft/fp.h"

#define SSE_RUN(text, d, s)                                                          \
    __asm__ volatile("movdqa %0, %%xmm0\n\t" text " %1, %%xmm0\n\tmovdqa %%xmm0, %0" \
                     : "+m"(*(d))                                                    \
                     : "m"(*(s))                                                     \
                     : "xmm0")

/* `size`: of the memory operand. */
#define SSE_OP(name, text, size)                                         \
    static int sse_##name##_r(struct soft_vcpu *v, const struct insn *i) \
    {                                                                    \
        ENTER(sse);                                                      \
        SSE_RUN(text, xmm(v, i->reg), xmm(v, i->rm));                    \
        return OP_NEXT;                                                  \
    }                                                                    \
    static int sse_##name##_m(struct soft_vcpu *v, const struct insn *i) \
    {                                                                    \
        x128 s;                                                          \
        ENTER(sse);                                                      \
        TRY(fetch(v, i, size, true, &s));                                \
        SSE_RUN(text, xmm(v, i->reg), &s);                               \
        return OP_NEXT;                                                  \
    }                                                                    \
    const struct op op_sse_##name = OP_RM(sse_##name##_r, sse_##name##_m);

/* The source operand wherever it is; `buf` holds it when it is in memory. NULL: fault. */
static inline const x128 *source(struct soft_vcpu *v, const struct insn *i, unsigned size,
                                 x128 *buf)
{
    if (!(i->flags & IF_MEM))
        return xmm(v, i->rm);
    return fetch(v, i, size, true, buf) ? NULL : buf;
}

/*
 * What a floating-point instruction computes. Needed only when the guest unmasks overflow or
 * underflow: tininess and inexactness must then be found for each element with an unbounded
 * exponent.
 */
enum fp_op { FP_OTHER, FP_ADD, FP_SUB, FP_MUL, FP_DIV, FP_ADDSUB, FP_HADD, FP_HSUB, FP_NARROW };
enum fp_shape { FP_SS = 0, FP_PS = 1, FP_SD = 2, FP_PD = 3 };
#define FP_KIND(op, shape) ((op) << 2 | (shape))
enum { FP_256 = 128 }; /* with a packed kind: operands and result have 32 bytes */

typedef void fp_fn(const x128 *d, const x128 *s, x128 *r, uint32_t *mxcsr);
extern const uint32_t fp_host_mxcsr;

#define FP_BODY(text)                                                               \
    __asm__ volatile("ldmxcsr %1\n\tmovaps %2, %%xmm0\n\t" text                     \
                     " %3, %%xmm0\n\tmovaps %%xmm0, %0\n\tstmxcsr %1\n\tldmxcsr %4" \
                     : "=m"(*r), "+m"(*mxcsr)                                       \
                     : "m"(*d), "m"(*s), "m"(fp_host_mxcsr)                         \
                     : "xmm0")
#define FP_FN(name, text)                                                                 \
    static inline void run_##name(const x128 *d, const x128 *s, x128 *r, uint32_t *mxcsr) \
    {                                                                                     \
        FP_BODY(text);                                                                    \
    }

/* MXCSR to run with. FTZ counts only while underflow is masked. */
static inline uint32_t fp_mxcsr(const struct soft_vcpu *v)
{
    uint32_t mx = (v->fpu.mxcsr & ~(uint32_t)MX_FLAGS) | MX_MASKS;
    return unlikely(!(v->fpu.mxcsr & MX_UE << 7)) ? mx & ~(uint32_t)MX_FTZ : mx;
}

int fp_check_slow(struct soft_vcpu *v, unsigned flags, unsigned kind, const x128 *d, const x128 *s,
                  const x128 *r);
/* Merges the flags of a run; OP_FAULT: the guest gets #XM (or #UD) and its destination stays as it
 * was. */
static inline int fp_check(struct soft_vcpu *v, unsigned mxcsr, unsigned kind, const x128 *d,
                           const x128 *s, const x128 *r)
{
    unsigned unmasked = ~v->fpu.mxcsr >> 7 & MX_FLAGS, flags = mxcsr & MX_FLAGS;
    if (unlikely(((flags | MX_UE) & unmasked)))
        return fp_check_slow(v, flags, kind, d, s, r);
    v->fpu.mxcsr |= flags;
    return 0;
}

static inline __attribute__((always_inline)) int fp_apply(struct soft_vcpu *v, fp_fn *run,
                                                          unsigned kind, x128 *d, const x128 *s)
{
    uint32_t mx = fp_mxcsr(v);
    x128 r;
    run(d, s, &r, &mx);
    TRY(fp_check(v, mx, kind, d, s, &r));
    *d = r;
    return OP_NEXT;
}

#define SSE_FP(name, text, size, kind)                                       \
    FP_FN(name, text)                                                        \
    static int sse_##name##_r(struct soft_vcpu *v, const struct insn *i)     \
    {                                                                        \
        ENTER(sse);                                                          \
        return fp_apply(v, run_##name, kind, xmm(v, i->reg), xmm(v, i->rm)); \
    }                                                                        \
    static int sse_##name##_m(struct soft_vcpu *v, const struct insn *i)     \
    {                                                                        \
        x128 s;                                                              \
        ENTER(sse);                                                          \
        TRY(fetch(v, i, size, true, &s));                                    \
        return fp_apply(v, run_##name, kind, xmm(v, i->reg), &s);            \
    }                                                                        \
    const struct op op_sse_##name = OP_RM(sse_##name##_r, sse_##name##_m);

/* ---- What the VEX forms share with the legacy ones: all but the check for the unit ---- */

struct strings;
typedef void strings_fn(struct strings *t, unsigned imm);
strings_fn pcmpestri_run, pcmpestrm_run, pcmpistri_run, pcmpistrm_run;
int sse_strings(struct soft_vcpu *v, const struct insn *i, strings_fn *run, bool to_mask);

#endif
