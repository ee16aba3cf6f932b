/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SSE and SSE2: moves, shuffles, logic and packed integers. Arithmetic is in fp_ssefp.c, SSE3 and
 * later in fp_sse4.c.
 */
#include "engine/soft/fp_sse.h"

/* ---- Moves ---- */

/* The whole register from memory, the rest zero; and the low part of the register to memory */
#define LOAD(name, size, aligned)                              \
    static int name(struct soft_vcpu *v, const struct insn *i) \
    {                                                          \
        x128 s;                                                \
        ENTER(sse);                                            \
        TRY(fetch(v, i, size, aligned, &s));                   \
        *xmm(v, i->reg) = s;                                   \
        return OP_NEXT;                                        \
    }
#define STORE(name, size, aligned, half)                           \
    static int name(struct soft_vcpu *v, const struct insn *i)     \
    {                                                              \
        ENTER(sse);                                                \
        return put(v, i, size, aligned, &xmm(v, i->reg)->q[half]); \
    }
/* clang-format off */
LOAD(load_a, 16, true)
LOAD(load_u, 16, false)
LOAD(load_4, 4, false)
LOAD(load_8, 8, false)
STORE(store_a, 16, true, 0)
STORE(store_u, 16, false, 0)
STORE(store_4, 4, false, 0)
STORE(store_8, 8, false, 0)
STORE(store_high, 8, false, 1);
/* clang-format on */

/* Register to register: `d` is the destination, `s` the source. */
#define MOVE(name, to, from, what)                             \
    static int name(struct soft_vcpu *v, const struct insn *i) \
    {                                                          \
        ENTER(sse);                                            \
        x128 *d = xmm(v, i->to);                               \
        const x128 *s = xmm(v, i->from);                       \
        what;                                                  \
        return OP_NEXT;                                        \
    }
/* clang-format off */
MOVE(move, reg, rm, *d = *s)
MOVE(move_back, rm, reg, *d = *s)
MOVE(move_4, reg, rm, *(uint32_t *)d = (uint32_t)s->q[0])
MOVE(move_4_back, rm, reg, *(uint32_t *)d = (uint32_t)s->q[0])
MOVE(move_8, reg, rm, d->q[0] = s->q[0])
MOVE(move_8_back, rm, reg, d->q[0] = s->q[0])
MOVE(move_hl, reg, rm, d->q[0] = s->q[1])
MOVE(move_lh, reg, rm, d->q[1] = s->q[0])
MOVE(move_q, reg, rm, *d = ((x128){ { s->q[0], 0 } }))
MOVE(move_q_back, rm, reg, *d = ((x128){ { s->q[0], 0 } }));
/* clang-format on */

const struct op op_sse_mova = OP_RM(move, load_a);
const struct op op_sse_mova_st = OP_RM(move_back, store_a);
const struct op op_sse_movu = OP_RM(move, load_u);
const struct op op_sse_movu_st = OP_RM(move_back, store_u);
const struct op op_sse_movss = OP_RM(move_4, load_4);
const struct op op_sse_movss_st = OP_RM(move_4_back, store_4);
const struct op op_sse_movsd = OP_RM(move_8, load_8);
const struct op op_sse_movsd_st = OP_RM(move_8_back, store_8);
const struct op op_sse_movq = OP_RM(move_q, load_8);
const struct op op_sse_movq_st = OP_RM(move_q_back, store_8);

static int movlp_m(struct soft_vcpu *v, const struct insn *i)
{
    x128 s;
    ENTER(sse);
    TRY(fetch(v, i, 8, false, &s));
    xmm(v, i->reg)->q[0] = s.q[0];
    return OP_NEXT;
}
static int movhp_m(struct soft_vcpu *v, const struct insn *i)
{
    x128 s;
    ENTER(sse);
    TRY(fetch(v, i, 8, false, &s));
    xmm(v, i->reg)->q[1] = s.q[0];
    return OP_NEXT;
}
const struct op op_sse_movlp = OP_RM(move_hl, movlp_m); /* register form: movhlps */
const struct op op_sse_movlp_st = OP_ALL(store_8);
const struct op op_sse_movhp = OP_RM(move_lh, movhp_m); /* register form: movlhps */
const struct op op_sse_movhp_st = OP_ALL(store_high);

/* movd, movq between general registers or memory and XMM, by REX.W */
static int movd_r(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(sse);
    *xmm(v, i->reg) = (x128){ { v->gpr[i->rm] & size_mask(i->size), 0 } };
    return OP_NEXT;
}
static int movd_st_r(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(sse);
    gpr_set(v, i->rm, i->size, xmm(v, i->reg)->q[0]);
    return OP_NEXT;
}
const struct op op_sse_movd = { .r = { [2] = movd_r, movd_r }, .m = { [2] = load_4, load_8 } };
const struct op op_sse_movd_st = { .r = { [2] = movd_st_r, movd_st_r },
                                   .m = { [2] = store_4, store_8 } };

static int maskmovdqu(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(sse);
    return masked_store(v, i, xmm(v, i->reg), xmm(v, i->rm), 16);
}
const struct op op_sse_maskmovdqu = OP_ALL(maskmovdqu);

/* Sign bits to a general register */
#define MOVMSK(name, text)                                     \
    static int name(struct soft_vcpu *v, const struct insn *i) \
    {                                                          \
        uint32_t mask;                                         \
        ENTER(sse);                                            \
        __asm__("movdqa %1, %%xmm0\n\t" text " %%xmm0, %0"     \
                : "=r"(mask)                                   \
                : "m"(*xmm(v, i->rm))                          \
                : "xmm0");                                     \
        v->gpr[i->reg] = mask;                                 \
        return OP_NEXT;                                        \
    }                                                          \
    const struct op op_sse_##name = OP_ALL(name);
/* clang-format off */
MOVMSK(movmskps, "movmskps")
MOVMSK(movmskpd, "movmskpd")
MOVMSK(pmovmskb, "pmovmskb");
/* clang-format on */

/* ---- Packed integers and logic ---- */

#define SAME(name) SSE_OP(name, #name, 16)
/* clang-format off */
SAME(punpcklbw) SAME(punpcklwd) SAME(punpckldq) SAME(punpcklqdq)
SAME(punpckhbw) SAME(punpckhwd) SAME(punpckhdq) SAME(punpckhqdq)
SAME(packsswb) SAME(packssdw) SAME(packuswb)
SAME(pcmpgtb) SAME(pcmpgtw) SAME(pcmpgtd) SAME(pcmpeqb) SAME(pcmpeqw) SAME(pcmpeqd)
SAME(psrlw) SAME(psrld) SAME(psrlq) SAME(psraw) SAME(psrad) SAME(psllw) SAME(pslld) SAME(psllq)
SAME(paddb) SAME(paddw) SAME(paddd) SAME(paddq) SAME(psubb) SAME(psubw) SAME(psubd) SAME(psubq)
SAME(paddsb) SAME(paddsw) SAME(paddusb) SAME(paddusw) SAME(psubsb) SAME(psubsw) SAME(psubusb) SAME(psubusw)
SAME(pminub) SAME(pminsw) SAME(pmaxub) SAME(pmaxsw) SAME(pavgb) SAME(pavgw) SAME(psadbw)
SAME(pmullw) SAME(pmulhw) SAME(pmulhuw) SAME(pmuludq) SAME(pmaddwd)
SAME(pand) SAME(pandn) SAME(por) SAME(pxor)
SAME(andps) SAME(andnps) SAME(orps) SAME(xorps) SAME(andpd) SAME(andnpd) SAME(orpd) SAME(xorpd)
SAME(unpcklps) SAME(unpckhps) SAME(unpcklpd) SAME(unpckhpd);
/* clang-format on */

/* Shifts by an immediate: the register is ModRM.rm, the count goes where the register form of the
 * host wants it. */
#define SHIFT(name)                                                  \
    static int name##_imm(struct soft_vcpu *v, const struct insn *i) \
    {                                                                \
        const x128 count = { { (uint8_t)i->imm, 0 } };               \
        ENTER(sse);                                                  \
        SSE_RUN(#name, xmm(v, i->rm), &count);                       \
        return OP_NEXT;                                              \
    }                                                                \
    const struct op op_sse_##name##_imm = OP_ALL(name##_imm);
/* clang-format off */
SHIFT(psrlw) SHIFT(psrld) SHIFT(psrlq) SHIFT(psraw) SHIFT(psrad) SHIFT(psllw) SHIFT(pslld) SHIFT(psllq);
/* clang-format on */

/* Shifts by bytes */
static unsigned __int128 whole(const x128 *x) { return (unsigned __int128)x->q[1] << 64 | x->q[0]; }
static void whole_set(x128 *x, unsigned __int128 value)
{
    *x = (x128){ { (uint64_t)value, (uint64_t)(value >> 64) } };
}
static int psrldq(struct soft_vcpu *v, const struct insn *i)
{
    unsigned n = (uint8_t)i->imm;
    ENTER(sse);
    whole_set(xmm(v, i->rm), n > 15 ? 0 : whole(xmm(v, i->rm)) >> n * 8);
    return OP_NEXT;
}
static int pslldq(struct soft_vcpu *v, const struct insn *i)
{
    unsigned n = (uint8_t)i->imm;
    ENTER(sse);
    whole_set(xmm(v, i->rm), n > 15 ? 0 : whole(xmm(v, i->rm)) << n * 8);
    return OP_NEXT;
}
const struct op op_sse_psrldq = OP_ALL(psrldq);
const struct op op_sse_pslldq = OP_ALL(pslldq);

/* ---- Shuffles by an immediate: d and s are the old values, r the result ---- */
#define SHUFFLE(name, type, what)                              \
    static int name(struct soft_vcpu *v, const struct insn *i) \
    {                                                          \
        x128 buf, r;                                           \
        const unsigned imm = (uint8_t)i->imm;                  \
        ENTER(sse);                                            \
        const x128 *src = source(v, i, 16, &buf);              \
        if (!src)                                              \
            return OP_FAULT;                                   \
        const type *s = (const type *)src;                     \
        const type *d = (const type *)xmm(v, i->reg);          \
        type *out = (type *)&r;                                \
        (void)d;                                               \
        what;                                                  \
        *xmm(v, i->reg) = r;                                   \
        return OP_NEXT;                                        \
    }                                                          \
    const struct op op_sse_##name = OP_ALL(name);

/* clang-format off */
SHUFFLE(pshufd, uint32_t, for (unsigned n = 0; n < 4; n++) out[n] = s[imm >> 2 * n & 3])
SHUFFLE(pshuflw, uint16_t, r.q[1] = src->q[1]; for (unsigned n = 0; n < 4; n++) out[n] = s[imm >> 2 * n & 3])
SHUFFLE(pshufhw, uint16_t, r.q[0] = src->q[0];
        for (unsigned n = 0; n < 4; n++) out[4 + n] = s[4 + (imm >> 2 * n & 3)])
SHUFFLE(shufps, uint32_t, for (unsigned n = 0; n < 4; n++) out[n] = (n < 2 ? d : s)[imm >> 2 * n & 3])
SHUFFLE(shufpd, uint64_t, out[0] = d[imm & 1]; out[1] = s[imm >> 1 & 1]);
/* clang-format on */

static int pinsrw_r(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(sse);
    ((uint16_t *)xmm(v, i->reg))[i->imm & 7] = (uint16_t)v->gpr[i->rm];
    return OP_NEXT;
}
static int pinsrw_m(struct soft_vcpu *v, const struct insn *i)
{
    x128 s;
    ENTER(sse);
    TRY(fetch(v, i, 2, false, &s));
    ((uint16_t *)xmm(v, i->reg))[i->imm & 7] = (uint16_t)s.q[0];
    return OP_NEXT;
}
static int pextrw(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(sse);
    v->gpr[i->reg] = ((uint16_t *)xmm(v, i->rm))[i->imm & 7];
    return OP_NEXT;
}
const struct op op_sse_pinsrw = OP_RM(pinsrw_r, pinsrw_m);
const struct op op_sse_pextrw = OP_ALL(pextrw);
