/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the AVX files (fp_avx_*.c, fp_fma.c) share: entry check, operands of 16 or 32 bytes,
 * handlers of the usual shape.
 *
 * As in fp_sse.h, the host's own instruction does the work. For each there are two functions: `_x`
 * with VEX.L 0, which clears bits 128-255 of its result by itself, and `_y` with VEX.L 1, which
 * ends with VZEROUPPER: the C around uses legacy SSE, and mixing the two costs a hundred
 * nanoseconds otherwise.
 */
#ifndef ENGINE_SOFT_FP_AVX_H
#define ENGINE_SOFT_FP_AVX_H

#include "engine/soft/fp_sse.h"

typedef struct {
    uint64_t q[4];
} __attribute__((aligned(32))) x256;
typedef x256 x256_unaligned __attribute__((aligned(1)));

static inline x256 *ymm(struct soft_vcpu *v, unsigned n) { return (x256 *)v->fpu.vec[n]; }
static inline bool vex_wide(const struct insn *i) { return i->vex & 2; }
static inline unsigned vex_bytes(const struct insn *i) { return vex_wide(i) ? 32 : 16; }

/* A destination of 16 bytes: the rest becomes zero. */
static inline void ymm_set_low(struct soft_vcpu *v, unsigned n, x128 value)
{
    *ymm(v, n) = (x256){ { value.q[0], value.q[1], 0, 0 } };
}

/* SDM volume 2, 2.4: unlike legacy SSE, neither CR0.EM nor CR4.OSFXSR matter. */
enum { XCR0_SSE_AVX = 6 };
static inline bool ready_avx(const struct soft_vcpu *v)
{
    return likely(!((v->cr0 & CR0_TS) | (~v->cr4 & CR4_OSXSAVE) | (~v->xcr0 & XCR0_SSE_AVX)));
}
static inline int refuse_avx(struct soft_vcpu *v)
{
    return ~v->cr4 & CR4_OSXSAVE || ~v->xcr0 & XCR0_SSE_AVX ? raise_ud(v) : raise(v, EXC_NM);
}

/* ---- Memory operands: any alignment unless `aligned` ---- */

static inline int load256(struct soft_vcpu *v, uint64_t va, x256 *out)
{
    const struct tlb_entry *e = tlb_slot(v, va);
    const uint8_t *p = tlb_hit(e, e->read, va, 32);
    if (p) {
        __asm__ volatile("vmovdqu %1, %%ymm0\n\tvmovdqa %%ymm0, %0\n\tvzeroupper"
                         : "=m"(*out)
                         : "m"(*(const x256_unaligned *)p)
                         : "xmm0");
        return 0;
    }
    return gva_load(v, va, out, 32);
}
static inline int store256(struct soft_vcpu *v, uint64_t va, const x256 *data)
{
    const struct tlb_entry *e = tlb_slot(v, va);
    uint8_t *p = tlb_hit(e, e->write, va, 32);
    if (p) {
        __asm__ volatile("vmovdqa %1, %%ymm0\n\tvmovdqu %%ymm0, %0\n\tvzeroupper"
                         : "=m"(*(x256_unaligned *)p)
                         : "m"(*data)
                         : "xmm0");
        return 0;
    }
    return gva_store(v, va, data, 32);
}

/* 1, 2, 4, 8, 16 or 32 bytes, zero-extended */
static inline int vfetch(struct soft_vcpu *v, const struct insn *i, unsigned size, bool aligned,
                         x256 *out)
{
    uint64_t va;
    if (size < 32) {
        out->q[2] = out->q[3] = 0;
        return fetch(v, i, size, aligned, (x128 *)out);
    }
    TRY(ea(v, i, 32, false, &va));
    return aligned && va & 31 ? raise_gp(v, 0) : load256(v, va, out);
}
static inline int vput(struct soft_vcpu *v, const struct insn *i, unsigned size, bool aligned,
                       const x256 *data)
{
    uint64_t va;
    if (size < 32)
        return put(v, i, size, aligned, data);
    TRY(ea(v, i, 32, true, &va));
    return aligned && va & 31 ? raise_gp(v, 0) : store256(v, va, data);
}

/* The operand W wherever it is; `buf` holds it when it is in memory. NULL: fault. */
static inline const x256 *vsource(struct soft_vcpu *v, const struct insn *i, unsigned size,
                                  x256 *buf)
{
    if (!(i->flags & IF_MEM))
        return ymm(v, i->rm);
    return vfetch(v, i, size, false, buf) ? NULL : buf;
}

/* ---- V = H op W and V = op W, no floating-point exceptions ---- */

typedef void avx_fn(x256 *d, const x256 *a, const x256 *s);
struct avx_run {
    avx_fn *x, *y;
    uint8_t size_x, size_y; /* of the memory operand */
};

#define AVX_BODY3(text, reg, end)                                            \
    __asm__("vmovdqa %1, %%" reg "\n\t" text " %2, %%" reg ", %%" reg "\n\t" \
            "vmovdqa %%ymm0, %0" end                                         \
            : "=m"(*d)                                                       \
            : "m"(*a), "m"(*s)                                               \
            : "xmm0")
#define AVX_BODY2(text, reg, end) \
    __asm__(text " %1, %%" reg "\n\tvmovdqa %%ymm0, %0" end : "=m"(*d) : "m"(*s) : "xmm0")
#define AVX_FN(name, body, text_x, text_y)                             \
    static inline void name##_x(x256 *d, const x256 *a, const x256 *s) \
    {                                                                  \
        body(text_x, "xmm0", "");                                      \
    }                                                                  \
    static inline void name##_y(x256 *d, const x256 *a, const x256 *s) \
    {                                                                  \
        body(text_y, "ymm0", "\n\tvzeroupper");                        \
    }

static inline __attribute__((always_inline)) int avx_apply(struct soft_vcpu *v,
                                                           const struct insn *i, struct avx_run run)
{
    x256 buf;
    ENTER(avx);
    const x256 *s = vsource(v, i, vex_wide(i) ? run.size_y : run.size_x, &buf);
    if (!s)
        return OP_FAULT;
    (vex_wide(i) ? run.y : run.x)(ymm(v, i->reg), ymm(v, i->vvvv), s);
    return OP_NEXT;
}
#define AVX_HANDLER(name, ...)                                       \
    static int avx_##name(struct soft_vcpu *v, const struct insn *i) \
    {                                                                \
        return avx_apply(v, i, (struct avx_run){ __VA_ARGS__ });     \
    }                                                                \
    const struct op op_avx_##name = OP_ALL(avx_##name);

/* Both lengths; `sizes`: of the memory operand */
#define AVX_OP(name)                                    \
    AVX_FN(run_##name, AVX_BODY3, "v" #name, "v" #name) \
    AVX_HANDLER(name, run_##name##_x, run_##name##_y, 16, 32)
#define AVX_UNARY(name, size_x, size_y)                 \
    AVX_FN(run_##name, AVX_BODY2, "v" #name, "v" #name) \
    AVX_HANDLER(name, run_##name##_x, run_##name##_y, size_x, size_y)
/* 16 bytes only (or a scalar, which ignores VEX.L) */
#define AVX_OP_X(name, size)                                             \
    static inline void run_##name(x256 *d, const x256 *a, const x256 *s) \
    {                                                                    \
        AVX_BODY3("v" #name, "xmm0", "");                                \
    }                                                                    \
    AVX_HANDLER(name, run_##name, run_##name, size, size)
#define AVX_UNARY_X(name)                                                \
    static inline void run_##name(x256 *d, const x256 *a, const x256 *s) \
    {                                                                    \
        AVX_BODY2("v" #name, "xmm0", "");                                \
    }                                                                    \
    AVX_HANDLER(name, run_##name, run_##name, 16, 16)

/*
 * A handler in C: d is the result (all zero at first), a and s the old values, `imm` the immediate,
 * `count` the number of elements in 16 or 32 bytes.
 */
#define AVX_C(name, type, size_x, size_y, what)                                      \
    static int avx_##name(struct soft_vcpu *v, const struct insn *i)                 \
    {                                                                                \
        x256 buf, result = { { 0, 0, 0, 0 } };                                       \
        const unsigned imm = (uint8_t)i->imm, count = vex_bytes(i) / sizeof(type);   \
        ENTER(avx);                                                                  \
        const x256 *source = vsource(v, i, vex_wide(i) ? (size_y) : (size_x), &buf); \
        if (!source)                                                                 \
            return OP_FAULT;                                                         \
        type *d = (type *)&result;                                                   \
        const type *a = (const type *)ymm(v, i->vvvv), *s = (const type *)source;    \
        (void)a, (void)imm;                                                          \
        for (unsigned n = 0; n < count; n++)                                         \
            d[n] = what;                                                             \
        *ymm(v, i->reg) = result;                                                    \
        return OP_NEXT;                                                              \
    }                                                                                \
    const struct op op_avx_##name = OP_ALL(avx_##name);

#endif
