/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * FMA: x * y + z with one rounding.
 *
 * Forms 132, 213 and 231 say which operands are multiplied: of the first (destination), the second
 * (VEX.vvvv) and the third (W). Exceptions are those of fp_ssefp.c; when the guest unmasks overflow
 * or underflow, each element is looked at by itself.
 */
#include "engine/soft/fp_avx.h"

typedef void fma_fn(const x256 *d, const x256 *a, const x256 *s, x256 *r, uint32_t *mxcsr);

#define FMA_BODY(text, reg, end)                                                                \
    __asm__ volatile("vldmxcsr %1\n\tvmovaps %2, %%" reg "0\n\tvmovaps %3, %%" reg "1\n\t" text \
                     " %4, %%" reg "1, %%" reg "0\n\tvmovaps %%ymm0, %0\n\tvstmxcsr %1\n\t"     \
                     "vldmxcsr %5" end                                                          \
                     : "=m"(*r), "+m"(*mxcsr)                                                   \
                     : "m"(*d), "m"(*a), "m"(*s), "m"(fp_host_mxcsr)                            \
                     : "xmm0", "xmm1")
#define FMA_FN(name, text, reg, end)                                                        \
    static void name(const x256 *d, const x256 *a, const x256 *s, x256 *r, uint32_t *mxcsr) \
    {                                                                                       \
        FMA_BODY(text, reg, end);                                                           \
    }

/* What an instruction computes: how its operands are ordered and which of them are negated */
enum {
    FMA_132 = 0,
    FMA_213 = 1,
    FMA_231 = 2,
    FMA_FORM = 3,
    FMA_NEGATE_PRODUCT = 4,
    FMA_NEGATE_ADDEND = 8,
    FMA_ALTERNATE = 16, /* turns FMA_NEGATE_ADDEND round for even elements */
    FMA_SCALAR = 32,
    FMA_DOUBLE = 64,
};

/* ---- One element ---- */

struct fma { /* bits of single or double floats */
    uint64_t x, y, z;
};

static uint64_t lane(const x256 *r, bool wide, unsigned n)
{
    return wide ? r->q[n] : ((const uint32_t *)r)[n];
}

static struct fma fma_element(unsigned what, const x256 *d, const x256 *a, const x256 *s,
                              unsigned n)
{
    const bool wide = what & FMA_DOUBLE;
    const uint64_t sign = wide ? 1ull << 63 : 1ull << 31;
    const uint64_t first = lane(d, wide, n), second = lane(a, wide, n), third = lane(s, wide, n);
    struct fma e;
    switch (what & FMA_FORM) {
    case FMA_132: e = (struct fma){ first, third, second }; break;
    case FMA_213: e = (struct fma){ second, first, third }; break;
    default: e = (struct fma){ second, third, first };
    }
    if (what & FMA_NEGATE_PRODUCT)
        e.x ^= sign;
    /* FMADDSUB: even elements subtract; FMSUBADD: odd ones */
    if (!!(what & FMA_NEGATE_ADDEND) != (what & FMA_ALTERNATE && !(n & 1)))
        e.z ^= sign;
    return e;
}

/* Its flags and result with all exceptions masked */
static unsigned fma_run(const struct fma *e, bool wide, uint32_t mx, uint64_t *r)
{
#define RUN(text)                                                                            \
    __asm__ volatile("vldmxcsr %0\n\tvmovq %2, %%xmm0\n\tvmovq %3, %%xmm1\n\t" text          \
                     " %4, %%xmm1, %%xmm0\n\tvmovq %%xmm0, %1\n\tvstmxcsr %0\n\tvldmxcsr %5" \
                     : "+m"(mx), "=m"(*r)                                                    \
                     : "m"(e->y), "m"(e->x), "m"(e->z), "m"(fp_host_mxcsr)                   \
                     : "xmm0", "xmm1")
    if (wide)
        RUN("vfmadd213sd");
    else
        RUN("vfmadd213ss");
#undef RUN
    return mx & MX_FLAGS;
}

/* A finite float as mantissa bits, exponent and sign: value = 1.mantissa * 2^exponent; false: zero
 */
struct parts {
    uint64_t sign, mantissa;
    int exponent;
};
static bool parts_of(uint64_t x, bool wide, bool daz, struct parts *p)
{
    const int bits = wide ? 52 : 23, bias = wide ? 1023 : 127;
    const uint64_t mask = (1ull << bits) - 1;
    p->sign = x >> (wide ? 63 : 31);
    p->mantissa = x & mask;
    p->exponent = (int)(x >> bits & (wide ? 0x7ff : 0xff)) - bias;
    if (p->exponent != -bias)
        return true;
    if (!p->mantissa || daz)
        return false;
    const int shift = bits - 63 + __builtin_clzll(p->mantissa);
    p->mantissa = p->mantissa << shift & mask;
    p->exponent = 1 - bias - shift;
    return true;
}
static uint64_t parts_join(const struct parts *p, bool wide, int exponent)
{
    return p->sign << (wide ? 63 : 31) |
           (uint64_t)(exponent + (wide ? 1023 : 127)) << (wide ? 52 : 23) | p->mantissa;
}

/*
 * Inexact with an unbounded exponent? The same sum with the product's exponent moved to 0 and the
 * addend's by as much: nothing overflows or underflows there. An addend that is very much larger or
 * smaller than the product only has to stay so.
 */
static bool fma_inexact(const struct fma *e, bool wide, uint32_t mx)
{
    const int far = wide ? 200 : 60;
    struct parts x, y, z;
    uint64_t r;
    const bool daz = mx & MX_DAZ;
    if (!parts_of(e->x, wide, daz, &x) || !parts_of(e->y, wide, daz, &y))
        return false; /* the sum is the addend */
    struct fma moved = { parts_join(&x, wide, 0), parts_join(&y, wide, 0), 0 };
    if (parts_of(e->z, wide, daz, &z)) {
        int distance = z.exponent - x.exponent - y.exponent;
        distance = distance > far ? far : distance < -far ? -far : distance;
        moved.z = parts_join(&z, wide, distance);
    }
    return fma_run(&moved, wide, mx, &r) & MX_PE;
}

static bool tiny(uint64_t x, bool wide)
{
    return wide ? !(x >> 52 & 0x7ff) && x << 12 : !(x >> 23 & 0xff) && (uint32_t)x << 9;
}

/* ---- Exceptions, when some are unmasked: see fp_check_slow ---- */

static int fma_check_slow(struct soft_vcpu *v, unsigned flags, unsigned what, unsigned count,
                          const x256 *d, const x256 *a, const x256 *s)
{
    const unsigned unmasked = ~v->fpu.mxcsr >> 7 & MX_FLAGS;
    const bool wide = what & FMA_DOUBLE;
    const uint32_t mx = fp_mxcsr(v);

    if (flags & unmasked & (MX_IE | MX_DE)) {
        flags &= MX_IE | MX_DE;
    } else {
        flags &= ~(unsigned)MX_PE;
        for (unsigned n = 0; n < count; n++) {
            const struct fma e = fma_element(what, d, a, s, n);
            uint64_t r = 0;
            unsigned own = fma_run(&e, wide, mx, &r);
            if (unmasked & MX_UE && tiny(r, wide))
                own |= MX_UE;
            if (own & unmasked & (MX_OE | MX_UE))
                own = (own & ~(unsigned)MX_PE) | (fma_inexact(&e, wide, mx) ? MX_PE : 0);
            flags |= own;
        }
    }
    v->fpu.mxcsr |= flags;
    if (!(flags & unmasked))
        return 0;
    return v->cr4 & CR4_OSXMMEXCPT ? raise(v, EXC_XM) : raise_ud(v);
}

/* ---- Handlers ---- */

static inline __attribute__((always_inline)) int fma_apply(struct soft_vcpu *v,
                                                           const struct insn *i, fma_fn *x,
                                                           fma_fn *y, unsigned what)
{
    const unsigned element = what & FMA_DOUBLE ? 8 : 4;
    const unsigned bytes = what & FMA_SCALAR ? element : vex_bytes(i);
    x256 buf, r;
    uint32_t mx = fp_mxcsr(v);
    ENTER(avx);
    x256 *d = ymm(v, i->reg);
    const x256 *a = ymm(v, i->vvvv), *s = vsource(v, i, bytes, &buf);
    if (!s)
        return OP_FAULT;
    (bytes == 32 ? y : x)(d, a, s, &r, &mx);
    const unsigned unmasked = ~v->fpu.mxcsr >> 7 & MX_FLAGS, flags = mx & MX_FLAGS;
    if (unlikely((flags | MX_UE) & unmasked))
        TRY(fma_check_slow(v, flags, what, bytes / element, d, a, s));
    else
        v->fpu.mxcsr |= flags;
    *d = r;
    return OP_NEXT;
}

#define HANDLER(name, y, what)                                       \
    static int avx_##name(struct soft_vcpu *v, const struct insn *i) \
    {                                                                \
        return fma_apply(v, i, run_##name##_x, y, what);             \
    }                                                                \
    const struct op op_avx_##name = OP_ALL(avx_##name);
#define PACKED(name, what)                                     \
    FMA_FN(run_##name##_x, "v" #name, "xmm", "")               \
    FMA_FN(run_##name##_y, "v" #name, "ymm", "\n\tvzeroupper") \
    HANDLER(name, run_##name##_y, what)
#define SCALAR(name, what)                       \
    FMA_FN(run_##name##_x, "v" #name, "xmm", "") \
    HANDLER(name, run_##name##_x, (what) | FMA_SCALAR)
#define TWO(name, form, what)                   \
    PACKED(name##form##ps, FMA_##form | (what)) \
    PACKED(name##form##pd, FMA_##form | (what) | FMA_DOUBLE)
#define FOUR(name, form, what)                  \
    TWO(name, form, what)                       \
    SCALAR(name##form##ss, FMA_##form | (what)) \
    SCALAR(name##form##sd, FMA_##form | (what) | FMA_DOUBLE)
#define FORM(form)                                             \
    FOUR(fmadd, form, 0)                                       \
    FOUR(fmsub, form, FMA_NEGATE_ADDEND)                       \
    FOUR(fnmadd, form, FMA_NEGATE_PRODUCT)                     \
    FOUR(fnmsub, form, FMA_NEGATE_PRODUCT | FMA_NEGATE_ADDEND) \
    TWO(fmaddsub, form, FMA_ALTERNATE)                         \
    TWO(fmsubadd, form, FMA_ALTERNATE | FMA_NEGATE_ADDEND)
/* clang-format off */
FORM(132)
FORM(213)
FORM(231);
/* clang-format on */
