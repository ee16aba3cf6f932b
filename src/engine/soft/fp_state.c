/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Saving and restoring the floating-point state: FXSAVE, XSAVE and their relatives, MXCSR, the
 * architectural state.
 *
 * SDM volume 1, chapters 10.5 (FXSAVE) and 13 (XSAVE, standard format only: the models do not offer
 * the compacted one). The AVX component is complete here; it is reached once XCR0 can hold it.
 */
#include "engine/soft/fp.h"

#include <cpuid.h>

enum { XC_X87 = 1, XC_SSE = 2, XC_AVX = 4 };
enum { XSAVE_HEADER = 512, XSAVE_AVX = 576, XSAVE_MAX = XSAVE_AVX + 256 };

struct fxsave_x87 { /* the first 24 bytes */
    uint16_t fcw, fsw;
    uint8_t ftw, zero;
    uint16_t fop;
    uint64_t fip, fdp;
};
struct xsave_area {
    struct fxsave_x87 x87;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16]; /* by stack position */
    uint8_t xmm[16][16];
    uint8_t unused[96];
    uint64_t xstate_bv, xcomp_bv, reserved[6];
    uint8_t ymm_high[16][16];
};
_Static_assert(offsetof(struct xsave_area, xstate_bv) == XSAVE_HEADER, "layout of the XSAVE area");
_Static_assert(sizeof(struct xsave_area) == XSAVE_MAX, "layout of the XSAVE area");

static unsigned fpu_top(const struct soft_fpu *fpu) { return fpu->fsw >> 11 & 7; }

/* ES and B are no state of their own: they follow from the flags and the masks. */
static void fpu_summarise(struct soft_fpu *fpu)
{
    fpu->fsw &= (uint16_t) ~(FSW_ES | FSW_B);
    if (fpu->fsw & ~fpu->fcw & 0x3f)
        fpu->fsw |= FSW_ES | FSW_B;
}

static void x87_reset(struct soft_fpu *fpu)
{
    memset(fpu->st, 0, sizeof fpu->st);
    fpu->fcw = FCW_INIT;
    fpu->fsw = 0;
    fpu->ftw = 0;
    fpu->fop = 0;
    fpu->fip = fpu->fdp = 0;
}

void fpu_reset(struct soft_fpu *fpu)
{
    memset(fpu, 0, sizeof *fpu);
    fpu->fcw = 0x40; /* at power-on; FNINIT gives 0x37f */
    fpu->ftw = 0xff;
    fpu->mxcsr = MX_INIT;
}

static void st_get(const struct soft_fpu *fpu, uint8_t out[8][16])
{
    memset(out, 0, 8 * 16);
    for (unsigned n = 0; n < 8; n++)
        memcpy(out[n], fpu->st[(fpu_top(fpu) + n) & 7], 10);
}

static void st_set(struct soft_fpu *fpu, const uint8_t in[8][16])
{
    memset(fpu->st, 0, sizeof fpu->st);
    for (unsigned n = 0; n < 8; n++)
        memcpy(fpu->st[(fpu_top(fpu) + n) & 7], in[n], 10);
}

void fpu_get(const struct soft_fpu *fpu, struct x86_fpu *out)
{
    out->fcw = fpu->fcw;
    out->fsw = fpu->fsw;
    out->ftw = fpu->ftw;
    out->fop = fpu->fop;
    out->fip = fpu->fip;
    out->fdp = fpu->fdp;
    out->mxcsr = fpu->mxcsr;
    st_get(fpu, out->st);
    for (unsigned n = 0; n < 16; n++) {
        memcpy(out->xmm[n], fpu->vec[n], 16);
        memcpy(out->ymm_high[n], fpu->vec[n] + 16, 16);
    }
}

void fpu_set(struct soft_fpu *fpu, const struct x86_fpu *in)
{
    fpu->fcw = (in->fcw & 0x1f3f) | 0x40;
    fpu->fsw = in->fsw;
    fpu->ftw = in->ftw;
    fpu->fop = in->fop & 0x7ff;
    fpu->fip = in->fip;
    fpu->fdp = in->fdp;
    fpu->mxcsr = in->mxcsr & MX_VALID;
    st_set(fpu, in->st);
    fpu_summarise(fpu);
    for (unsigned n = 0; n < 16; n++) {
        memcpy(fpu->vec[n], in->xmm[n], 16);
        memcpy(fpu->vec[n] + 16, in->ymm_high[n], 16);
    }
}

uint64_t xcr0_supported(const struct soft_vcpu *v)
{
    return XC_X87 | XC_SSE | (v->features >> FT_AVX & 1 ? XC_AVX : 0);
}

/* The CPU may have AVX and the host's kernel not save its registers. */
static bool host_saves_avx(unsigned leaf_1_ecx)
{
    uint32_t low, high;
    if (!(leaf_1_ecx >> 27 & 1)) /* OSXSAVE */
        return false;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & (XC_SSE | XC_AVX)) == (XC_SSE | XC_AVX);
}

uint64_t fp_host_features(void)
{
    unsigned a, b, c, d;
    uint64_t has = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return 0;
    static const struct {
        uint8_t feature, reg, bit;
    } leaf1[] = {
        { FT_CMOV, 3, 15 },  { FT_MMX, 3, 23 },   { FT_FXSR, 3, 24 },  { FT_SSE, 3, 25 },
        { FT_SSE2, 3, 26 },  { FT_SSE3, 2, 0 },   { FT_PCLMUL, 2, 1 }, { FT_SSSE3, 2, 9 },
        { FT_SSE41, 2, 19 }, { FT_SSE42, 2, 20 }, { FT_AES, 2, 25 },
    };
    for (unsigned n = 0; n < ARRAY_LEN(leaf1); n++)
        has |= (uint64_t)((leaf1[n].reg == 2 ? c : d) >> leaf1[n].bit & 1) << leaf1[n].feature;
    static const struct {
        uint8_t feature, bit; /* of ECX */
    } avx[] = { { FT_AVX, 28 }, { FT_FMA, 12 }, { FT_F16C, 29 } };
    const bool avx_usable = host_saves_avx(c);
    for (unsigned n = 0; avx_usable && n < ARRAY_LEN(avx); n++)
        has |= (uint64_t)(c >> avx[n].bit & 1) << avx[n].feature;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        has |= (uint64_t)(b >> 29 & 1) << FT_SHA;
        has |= (uint64_t)(avx_usable && b >> 5 & 1) << FT_AVX2;
    }
    /* These are done without the host's help. */
    return has | 1ull << FT_XSAVE | 1ull << FT_XSAVEOPT;
}

/* ---- FXSAVE and the legacy region of XSAVE ---- */

/* In 64-bit mode with REX.W the pointers have 64 bits; else offset and selector. */
static uint64_t pointer_out(const struct insn *i, uint64_t p)
{
    return i->size == 8 ? p : p & 0xffffffffffffull;
}

static void x87_out(const struct soft_vcpu *v, const struct insn *i, struct xsave_area *a)
{
    a->x87 = (struct fxsave_x87){
        .fcw = v->fpu.fcw,
        .fsw = v->fpu.fsw,
        .ftw = v->fpu.ftw,
        .fop = v->fpu.fop,
        .fip = pointer_out(i, v->fpu.fip),
        .fdp = pointer_out(i, v->fpu.fdp),
    };
    st_get(&v->fpu, a->st);
}

static void x87_in(struct soft_vcpu *v, const struct insn *i, const struct xsave_area *a)
{
    struct soft_fpu *f = &v->fpu;
    f->fcw = (a->x87.fcw & 0x1f3f) | 0x40;
    f->fsw = a->x87.fsw;
    f->ftw = a->x87.ftw;
    f->fop = a->x87.fop & 0x7ff;
    f->fip = pointer_out(i, a->x87.fip);
    f->fdp = pointer_out(i, a->x87.fdp);
    st_set(f, a->st);
    fpu_summarise(f);
}

/* How many XMM registers the code at hand can name */
static unsigned xmm_count(const struct soft_vcpu *v) { return v->mode == MODE_64 ? 16 : 8; }

static void xmm_out(const struct soft_vcpu *v, struct xsave_area *a)
{
    for (unsigned n = 0; n < xmm_count(v); n++)
        memcpy(a->xmm[n], v->fpu.vec[n], 16);
}

static void xmm_in(struct soft_vcpu *v, const struct xsave_area *a)
{
    for (unsigned n = 0; n < xmm_count(v); n++)
        memcpy(v->fpu.vec[n], a->xmm[n], 16);
}

static int fxsave(struct soft_vcpu *v, const struct insn *i)
{
    struct xsave_area a;
    uint64_t va;
    ENTER(x87_nowait);
    TRY(ea(v, i, 512, true, &va));
    if (va & 15)
        return raise_gp(v, 0);
    x87_out(v, i, &a);
    a.mxcsr = v->fpu.mxcsr;
    a.mxcsr_mask = MX_VALID;
    xmm_out(v, &a);
    TRY(gva_store(v, va, &a, offsetof(struct xsave_area, xmm) + 16 * xmm_count(v)));
    return OP_NEXT;
}

static int fxrstor(struct soft_vcpu *v, const struct insn *i)
{
    struct xsave_area a;
    uint64_t va;
    ENTER(x87_nowait);
    TRY(ea(v, i, 512, false, &va));
    if (va & 15)
        return raise_gp(v, 0);
    TRY(gva_load(v, va, &a, 512));
    if (a.mxcsr & ~MX_VALID)
        return raise_gp(v, 0);
    x87_in(v, i, &a);
    v->fpu.mxcsr = a.mxcsr;
    xmm_in(v, &a);
    return OP_NEXT;
}

/* ---- XSAVE ---- */

static int xsave_enter(struct soft_vcpu *v, const struct insn *i, unsigned size, bool write,
                       uint64_t *va)
{
    if (!(v->cr4 & CR4_OSXSAVE))
        return raise_ud(v);
    if (v->cr0 & CR0_TS)
        return raise(v, EXC_NM);
    TRY(ea(v, i, size, write, va));
    return *va & 63 ? raise_gp(v, 0) : 0;
}

static uint64_t xsave_requested(const struct soft_vcpu *v)
{
    return v->xcr0 & ((uint64_t)(uint32_t)v->gpr[R_DX] << 32 | (uint32_t)v->gpr[R_AX]);
}

static bool all_zero(const void *p, size_t n)
{
    const uint8_t *b = p;
    return !b[0] && !memcmp(b, b + 1, n - 1);
}

/* Which components are not in their initial state */
static uint64_t xsave_in_use(const struct soft_vcpu *v)
{
    const struct soft_fpu *f = &v->fpu;
    uint64_t used = 0;
    if (f->fcw != FCW_INIT || f->fsw || f->ftw || f->fop || f->fip || f->fdp ||
        !all_zero(f->st, sizeof f->st))
        used |= XC_X87;
    for (unsigned n = 0; n < xmm_count(v); n++) {
        if (!all_zero(f->vec[n], 16))
            used |= XC_SSE;
        if (!all_zero(f->vec[n] + 16, 16))
            used |= XC_AVX;
    }
    return used;
}

/* Stores `what` of the area. Bytes of components that were not asked for keep their contents. */
static int xsave_store(struct soft_vcpu *v, const struct insn *i, uint64_t va, uint64_t rfbm,
                       uint64_t what)
{
    struct xsave_area a;
    uint64_t old_bv;
    TRY(gva_load(v, va + XSAVE_HEADER, &old_bv, 8));
    if (what & XC_X87) {
        x87_out(v, i, &a);
        TRY(gva_store(v, va, &a.x87, sizeof a.x87));
        TRY(gva_store(v, va + offsetof(struct xsave_area, st), a.st, sizeof a.st));
    }
    if (rfbm & (XC_SSE | XC_AVX)) {
        a.mxcsr = v->fpu.mxcsr;
        a.mxcsr_mask = MX_VALID;
        TRY(gva_store(v, va + offsetof(struct xsave_area, mxcsr), &a.mxcsr, 8));
    }
    if (what & XC_SSE) {
        xmm_out(v, &a);
        TRY(gva_store(v, va + offsetof(struct xsave_area, xmm), a.xmm, 16 * xmm_count(v)));
    }
    if (what & XC_AVX) {
        for (unsigned n = 0; n < xmm_count(v); n++)
            memcpy(a.ymm_high[n], v->fpu.vec[n] + 16, 16);
        TRY(gva_store(v, va + XSAVE_AVX, a.ymm_high, 16 * xmm_count(v)));
    }
    return store64(v, va + XSAVE_HEADER, (old_bv & ~rfbm) | (xsave_in_use(v) & rfbm));
}

static unsigned xsave_size(const struct soft_vcpu *v)
{
    return v->xcr0 & XC_AVX ? XSAVE_MAX : XSAVE_AVX;
}

static int xsave(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t va;
    TRY(xsave_enter(v, i, xsave_size(v), true, &va));
    return xsave_store(v, i, va, xsave_requested(v), xsave_requested(v));
}

/* The init optimisation only; whether memory still holds what was restored from it is not tracked.
 */
static int xsaveopt(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t va;
    TRY(xsave_enter(v, i, xsave_size(v), true, &va));
    return xsave_store(v, i, va, xsave_requested(v), xsave_requested(v) & xsave_in_use(v));
}

static void xmm_clear(struct soft_vcpu *v, unsigned offset)
{
    for (unsigned n = 0; n < xmm_count(v); n++)
        memset(v->fpu.vec[n] + offset, 0, 16);
}

static int xrstor(struct soft_vcpu *v, const struct insn *i)
{
    struct xsave_area a;
    uint64_t va, rfbm = xsave_requested(v);
    TRY(xsave_enter(v, i, xsave_size(v), false, &va));
    TRY(gva_load(v, va, &a, XSAVE_AVX));
    if (a.xcomp_bv || a.reserved[0] || (a.xstate_bv & ~v->xcr0))
        return raise_gp(v, 0);
    if (rfbm & (XC_SSE | XC_AVX) && a.mxcsr & ~MX_VALID)
        return raise_gp(v, 0);
    if (rfbm & a.xstate_bv & XC_AVX)
        TRY(gva_load(v, va + XSAVE_AVX, a.ymm_high, 16 * xmm_count(v)));

    if (rfbm & XC_X87) {
        if (a.xstate_bv & XC_X87)
            x87_in(v, i, &a);
        else
            x87_reset(&v->fpu);
    }
    if (rfbm & (XC_SSE | XC_AVX))
        v->fpu.mxcsr = a.mxcsr;
    if (rfbm & XC_SSE) {
        if (a.xstate_bv & XC_SSE)
            xmm_in(v, &a);
        else
            xmm_clear(v, 0);
    }
    if (rfbm & XC_AVX) {
        xmm_clear(v, 16);
        for (unsigned n = 0; a.xstate_bv & XC_AVX && n < xmm_count(v); n++)
            memcpy(v->fpu.vec[n] + 16, a.ymm_high[n], 16);
    }
    return OP_NEXT;
}

/* ---- MXCSR ---- */

static int ldmxcsr(struct soft_vcpu *v, const struct insn *i)
{
    x128 src;
    ENTER(sse);
    TRY(fetch(v, i, 4, false, &src));
    if (src.q[0] & ~(uint64_t)MX_VALID)
        return raise_gp(v, 0);
    v->fpu.mxcsr = (uint32_t)src.q[0];
    return OP_NEXT;
}

static int stmxcsr(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(sse);
    return put(v, i, 4, false, &v->fpu.mxcsr);
}

const struct op op_fxsave = OP_ALL(fxsave);
const struct op op_fxrstor = OP_ALL(fxrstor);
const struct op op_xsave = OP_ALL(xsave);
const struct op op_xsaveopt = OP_ALL(xsaveopt);
const struct op op_xrstor = OP_ALL(xrstor);
const struct op op_ldmxcsr = OP_ALL(ldmxcsr);
const struct op op_stmxcsr = OP_ALL(stmxcsr);
