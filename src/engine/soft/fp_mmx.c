/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * MMX, with the additions of SSE, SSE2 and SSSE3 to it.
 *
 * Each leaves the host's x87 unit empty (EMMS), as C expects it.
 */
#include "engine/soft/fp.h"

#define MMX_RUN(text, d, s)                                                           \
    __asm__ volatile("movq %0, %%mm0\n\t" text " %1, %%mm0\n\tmovq %%mm0, %0\n\temms" \
                     : "+m"(*(d))                                                     \
                     : "m"(*(s))                                                      \
                     : "mm0")

/* P = P op Q; `size`: of the memory operand. */
#define MMX_OP(name, size)                                           \
    static int mmx_##name(struct soft_vcpu *v, const struct insn *i) \
    {                                                                \
        x128 buf = { { *mm(v, i->rm), 0 } };                         \
        uint64_t d = *mm(v, i->reg);                                 \
        ENTER(mmx);                                                  \
        if (i->flags & IF_MEM)                                       \
            TRY(fetch(v, i, size, false, &buf));                     \
        MMX_RUN(#name, &d, &buf.q[0]);                               \
        mm_set(v, i->reg, d);                                        \
        mmx_used(v);                                                 \
        return OP_NEXT;                                              \
    }                                                                \
    const struct op op_mmx_##name = OP_ALL(mmx_##name);
#define SAME(name) MMX_OP(name, 8)
/* clang-format off */
MMX_OP(punpcklbw, 4) MMX_OP(punpcklwd, 4) MMX_OP(punpckldq, 4)
SAME(punpckhbw) SAME(punpckhwd) SAME(punpckhdq) SAME(packsswb) SAME(packssdw) SAME(packuswb)
SAME(pcmpgtb) SAME(pcmpgtw) SAME(pcmpgtd) SAME(pcmpeqb) SAME(pcmpeqw) SAME(pcmpeqd)
SAME(psrlw) SAME(psrld) SAME(psrlq) SAME(psraw) SAME(psrad) SAME(psllw) SAME(pslld) SAME(psllq)
SAME(paddb) SAME(paddw) SAME(paddd) SAME(paddq) SAME(psubb) SAME(psubw) SAME(psubd) SAME(psubq)
SAME(paddsb) SAME(paddsw) SAME(paddusb) SAME(paddusw) SAME(psubsb) SAME(psubsw) SAME(psubusb) SAME(psubusw)
SAME(pminub) SAME(pminsw) SAME(pmaxub) SAME(pmaxsw) SAME(pavgb) SAME(pavgw) SAME(psadbw)
SAME(pmullw) SAME(pmulhw) SAME(pmulhuw) SAME(pmuludq) SAME(pmaddwd)
SAME(pand) SAME(pandn) SAME(por) SAME(pxor)
SAME(pshufb) SAME(phaddw) SAME(phaddd) SAME(phaddsw) SAME(phsubw) SAME(phsubd) SAME(phsubsw) SAME(pmaddubsw)
SAME(psignb) SAME(psignw) SAME(psignd) SAME(pmulhrsw) SAME(pabsb) SAME(pabsw) SAME(pabsd);
/* clang-format on */

#define SHIFT(name)                                                  \
    static int name##_imm(struct soft_vcpu *v, const struct insn *i) \
    {                                                                \
        const uint64_t count = (uint8_t)i->imm;                      \
        uint64_t d = *mm(v, i->rm);                                  \
        ENTER(mmx);                                                  \
        MMX_RUN(#name, &d, &count);                                  \
        mm_set(v, i->rm, d);                                         \
        mmx_used(v);                                                 \
        return OP_NEXT;                                              \
    }                                                                \
    const struct op op_mmx_##name##_imm = OP_ALL(name##_imm);
/* clang-format off */
SHIFT(psrlw) SHIFT(psrld) SHIFT(psrlq) SHIFT(psraw) SHIFT(psrad) SHIFT(psllw) SHIFT(pslld) SHIFT(psllq);
/* clang-format on */

/* The source, register or memory, zero-extended. NULL: fault. */
static const uint64_t *mmx_source(struct soft_vcpu *v, const struct insn *i, unsigned size,
                                  x128 *buf)
{
    if (!(i->flags & IF_MEM))
        return mm(v, i->rm);
    return fetch(v, i, size, false, buf) ? NULL : buf->q;
}
static int mmx_set(struct soft_vcpu *v, unsigned n, uint64_t value)
{
    mm_set(v, n, value);
    mmx_used(v);
    return OP_NEXT;
}

/* ---- Moves ---- */

static int movq_load(struct soft_vcpu *v, const struct insn *i)
{
    x128 buf;
    ENTER(mmx);
    const uint64_t *s = mmx_source(v, i, 8, &buf);
    return s ? mmx_set(v, i->reg, *s) : OP_FAULT;
}
static int movq_store_r(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(mmx);
    return mmx_set(v, i->rm, *mm(v, i->reg));
}
static int movq_store_m(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(mmx);
    TRY(put(v, i, 8, false, mm(v, i->reg)));
    mmx_used(v);
    return OP_NEXT;
}
const struct op op_mmx_movq = OP_ALL(movq_load);
const struct op op_mmx_movq_st = OP_RM(movq_store_r, movq_store_m);

static int movd_r(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(mmx);
    return mmx_set(v, i->reg, v->gpr[i->rm] & size_mask(i->size));
}
static int movd_m(struct soft_vcpu *v, const struct insn *i)
{
    x128 s;
    ENTER(mmx);
    TRY(fetch(v, i, i->size, false, &s));
    return mmx_set(v, i->reg, s.q[0]);
}
static int movd_st_r(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(mmx);
    gpr_set(v, i->rm, i->size, *mm(v, i->reg));
    mmx_used(v);
    return OP_NEXT;
}
static int movd_st_m(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(mmx);
    TRY(put(v, i, i->size, false, mm(v, i->reg)));
    mmx_used(v);
    return OP_NEXT;
}
const struct op op_mmx_movd = OP_RM(movd_r, movd_m);
const struct op op_mmx_movd_st = OP_RM(movd_st_r, movd_st_m);

static int movq2dq(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(sse_mmx);
    *xmm(v, i->reg) = (x128){ { *mm(v, i->rm), 0 } };
    mmx_used(v);
    return OP_NEXT;
}
static int movdq2q(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(sse_mmx);
    return mmx_set(v, i->reg, xmm(v, i->rm)->q[0]);
}
const struct op op_movq2dq = OP_ALL(movq2dq);
const struct op op_movdq2q = OP_ALL(movdq2q);

static int maskmovq(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(mmx);
    TRY(masked_store(v, i, mm(v, i->reg), mm(v, i->rm), 8));
    mmx_used(v);
    return OP_NEXT;
}
const struct op op_mmx_maskmovq = OP_ALL(maskmovq);

static int emms(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(mmx);
    v->fpu.ftw = 0;
    v->fpu.fsw &= ~FSW_TOP;
    return OP_NEXT;
}
const struct op op_emms = OP_ALL(emms);

/* ---- Shuffles, inserts ---- */

static int pshufw(struct soft_vcpu *v, const struct insn *i)
{
    x128 buf;
    uint64_t r = 0;
    ENTER(mmx);
    const uint64_t *s = mmx_source(v, i, 8, &buf);
    if (!s)
        return OP_FAULT;
    for (unsigned n = 0; n < 4; n++)
        r |= (*s >> 16 * (i->imm >> 2 * n & 3) & 0xffff) << 16 * n;
    return mmx_set(v, i->reg, r);
}
const struct op op_mmx_pshufw = OP_ALL(pshufw);

/* d:s shifted right by bytes */
static int palignr(struct soft_vcpu *v, const struct insn *i)
{
    x128 buf;
    unsigned n = (uint8_t)i->imm * 8u;
    ENTER(mmx);
    const uint64_t *s = mmx_source(v, i, 8, &buf);
    if (!s)
        return OP_FAULT;
    unsigned __int128 both = (unsigned __int128)*mm(v, i->reg) << 64 | *s;
    return mmx_set(v, i->reg, n > 127 ? 0 : (uint64_t)(both >> n));
}
const struct op op_mmx_palignr = OP_ALL(palignr);

static int pinsrw_r(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(mmx);
    ((uint16_t *)mm(v, i->reg))[i->imm & 3] = (uint16_t)v->gpr[i->rm];
    return mmx_set(v, i->reg, *mm(v, i->reg));
}
static int pinsrw_m(struct soft_vcpu *v, const struct insn *i)
{
    x128 s;
    ENTER(mmx);
    TRY(fetch(v, i, 2, false, &s));
    ((uint16_t *)mm(v, i->reg))[i->imm & 3] = (uint16_t)s.q[0];
    return mmx_set(v, i->reg, *mm(v, i->reg));
}
static int pextrw(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(mmx);
    v->gpr[i->reg] = ((uint16_t *)mm(v, i->rm))[i->imm & 3];
    mmx_used(v);
    return OP_NEXT;
}
static int pmovmskb(struct soft_vcpu *v, const struct insn *i)
{
    uint32_t mask;
    ENTER(mmx);
    __asm__("movq %1, %%mm0\n\tpmovmskb %%mm0, %0\n\temms"
            : "=r"(mask)
            : "m"(*mm(v, i->rm))
            : "mm0");
    v->gpr[i->reg] = mask;
    mmx_used(v);
    return OP_NEXT;
}
const struct op op_mmx_pinsrw = OP_RM(pinsrw_r, pinsrw_m);
const struct op op_mmx_pextrw = OP_ALL(pextrw);
const struct op op_mmx_pmovmskb = OP_ALL(pmovmskb);
