/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SSE3, SSSE3, SSE4.1, SSE4.2, AES, PCLMULQDQ and SHA on XMM registers (floating-point arithmetic:
 * fp_ssefp.c).
 */
#include "engine/soft/fp_sse.h"

#define SAME(name) SSE_OP(name, #name, 16)

/* ---- SSE3, SSSE3 ---- */

/* clang-format off */
SAME(movsldup) SAME(movshdup)
SSE_OP(movddup, "movddup", 8)
SAME(pshufb) SAME(phaddw) SAME(phaddd) SAME(phaddsw) SAME(phsubw) SAME(phsubd) SAME(phsubsw) SAME(pmaddubsw)
SAME(psignb) SAME(psignw) SAME(psignd) SAME(pmulhrsw) SAME(pabsb) SAME(pabsw) SAME(pabsd);
/* clang-format on */

static int palignr(struct soft_vcpu *v, const struct insn *i)
{
    uint8_t both[48] = { 0 };
    x128 buf;
    const unsigned n = (uint8_t)i->imm;
    ENTER(sse);
    const x128 *s = source(v, i, 16, &buf);
    if (!s)
        return OP_FAULT;
    memcpy(both, s, 16);
    memcpy(both + 16, xmm(v, i->reg), 16);
    memcpy(xmm(v, i->reg), both + (n > 32 ? 32 : n), 16);
    return OP_NEXT;
}
const struct op op_sse_palignr = OP_ALL(palignr);

/* ---- SSE4.1 ---- */

/* clang-format off */
SAME(pmuldq) SAME(pcmpeqq) SAME(packusdw) SAME(pcmpgtq) SAME(pmulld) SAME(phminposuw)
SAME(pminsb) SAME(pminsd) SAME(pminuw) SAME(pminud) SAME(pmaxsb) SAME(pmaxsd) SAME(pmaxuw) SAME(pmaxud)
SSE_OP(pmovsxbw, "pmovsxbw", 8) SSE_OP(pmovsxbd, "pmovsxbd", 4) SSE_OP(pmovsxbq, "pmovsxbq", 2)
SSE_OP(pmovsxwd, "pmovsxwd", 8) SSE_OP(pmovsxwq, "pmovsxwq", 4) SSE_OP(pmovsxdq, "pmovsxdq", 8)
SSE_OP(pmovzxbw, "pmovzxbw", 8) SSE_OP(pmovzxbd, "pmovzxbd", 4) SSE_OP(pmovzxbq, "pmovzxbq", 2)
SSE_OP(pmovzxwd, "pmovzxwd", 8) SSE_OP(pmovzxwq, "pmovzxwq", 4) SSE_OP(pmovzxdq, "pmovzxdq", 8);
/* clang-format on */

/* Instructions that take XMM0 as a third operand */
#define SSE_OP0(name)                                                                        \
    static int name(struct soft_vcpu *v, const struct insn *i)                               \
    {                                                                                        \
        x128 buf;                                                                            \
        ENTER(sse);                                                                          \
        const x128 *s = source(v, i, 16, &buf);                                              \
        if (!s)                                                                              \
            return OP_FAULT;                                                                 \
        __asm__("movdqa %1, %%xmm0\n\tmovdqa %0, %%xmm1\n\t" #name " %%xmm0, %2, %%xmm1\n\t" \
                "movdqa %%xmm1, %0"                                                          \
                : "+m"(*xmm(v, i->reg))                                                      \
                : "m"(*xmm(v, 0)), "m"(*s)                                                   \
                : "xmm0", "xmm1");                                                           \
        return OP_NEXT;                                                                      \
    }                                                                                        \
    const struct op op_sse_##name = OP_ALL(name);
/* clang-format off */
SSE_OP0(pblendvb)
SSE_OP0(blendvps)
SSE_OP0(blendvpd);
/* clang-format on */

static int ptest(struct soft_vcpu *v, const struct insn *i)
{
    x128 buf;
    ENTER(sse);
    const x128 *d = xmm(v, i->reg), *s = source(v, i, 16, &buf);
    if (!s)
        return OP_FAULT;
    const bool zf = !((d->q[0] & s->q[0]) | (d->q[1] & s->q[1]));
    const bool cf = !((~d->q[0] & s->q[0]) | (~d->q[1] & s->q[1]));
    status_set(v, (zf ? ZF : 0) | (cf ? CF : 0));
    return OP_NEXT;
}
const struct op op_sse_ptest = OP_ALL(ptest);

#define BLEND(name, type)                                           \
    static int name(struct soft_vcpu *v, const struct insn *i)      \
    {                                                               \
        x128 buf;                                                   \
        ENTER(sse);                                                 \
        const x128 *s = source(v, i, 16, &buf);                     \
        if (!s)                                                     \
            return OP_FAULT;                                        \
        for (unsigned n = 0; n < 16 / sizeof(type); n++)            \
            if (i->imm >> n & 1)                                    \
                ((type *)xmm(v, i->reg))[n] = ((const type *)s)[n]; \
        return OP_NEXT;                                             \
    }                                                               \
    const struct op op_sse_##name = OP_ALL(name);
/* clang-format off */
BLEND(blendps, uint32_t)
BLEND(blendpd, uint64_t)
BLEND(pblendw, uint16_t);
/* clang-format on */

/* Elements out of and into a register; the size of pextrd/q and pinsrd/q is the operand size. */
static int extract(struct soft_vcpu *v, const struct insn *i, unsigned size)
{
    x128 r = { { 0, 0 } };
    ENTER(sse);
    memcpy(&r, (uint8_t *)xmm(v, i->reg) + (i->imm & (16 / size - 1)) * size, size);
    if (i->flags & IF_MEM)
        return put(v, i, size, false, &r);
    v->gpr[i->rm] = r.q[0];
    return OP_NEXT;
}
static int insert(struct soft_vcpu *v, const struct insn *i, unsigned size)
{
    x128 s = { { v->gpr[i->rm], 0 } };
    ENTER(sse);
    if (i->flags & IF_MEM)
        TRY(fetch(v, i, size, false, &s));
    memcpy((uint8_t *)xmm(v, i->reg) + (i->imm & (16 / size - 1)) * size, &s, size);
    return OP_NEXT;
}
static int pextrb(struct soft_vcpu *v, const struct insn *i) { return extract(v, i, 1); }
static int pextrw(struct soft_vcpu *v, const struct insn *i) { return extract(v, i, 2); }
static int pextrd(struct soft_vcpu *v, const struct insn *i) { return extract(v, i, i->size); }
static int extractps(struct soft_vcpu *v, const struct insn *i) { return extract(v, i, 4); }
static int pinsrb(struct soft_vcpu *v, const struct insn *i) { return insert(v, i, 1); }
static int pinsrd(struct soft_vcpu *v, const struct insn *i) { return insert(v, i, i->size); }
const struct op op_sse_pextrb = OP_ALL(pextrb);
const struct op op_sse_pextrw_st = OP_ALL(pextrw);
const struct op op_sse_pextrd = OP_ALL(pextrd);
const struct op op_sse_extractps = OP_ALL(extractps);
const struct op op_sse_pinsrb = OP_ALL(pinsrb);
const struct op op_sse_pinsrd = OP_ALL(pinsrd);

static int insertps(struct soft_vcpu *v, const struct insn *i)
{
    x128 buf;
    const unsigned imm = (uint8_t)i->imm;
    ENTER(sse);
    const x128 *s = source(v, i, 4, &buf);
    if (!s)
        return OP_FAULT;
    const uint32_t element = ((const uint32_t *)s)[i->flags & IF_MEM ? 0 : imm >> 6];
    uint32_t *d = (uint32_t *)xmm(v, i->reg);
    d[imm >> 4 & 3] = element;
    for (unsigned n = 0; n < 4; n++)
        if (imm >> n & 1)
            d[n] = 0;
    return OP_NEXT;
}
const struct op op_sse_insertps = OP_ALL(insertps);

/* ---- The immediate is part of the encoding: a function for each value, picked from a table ----
 */

typedef void imm_fn(x128 *d, const x128 *s);
static int imm_apply(struct soft_vcpu *v, const struct insn *i, imm_fn *run)
{
    x128 buf;
    ENTER(sse);
    const x128 *s = source(v, i, 16, &buf);
    if (!s)
        return OP_FAULT;
    run(xmm(v, i->reg), s);
    return OP_NEXT;
}
#define IMM_FN(fn, text) \
    static void fn(x128 *d, const x128 *s) { SSE_RUN(text, d, s); }
/* clang-format off */
IMM_FN(mpsadbw_0, "mpsadbw $0,") IMM_FN(mpsadbw_1, "mpsadbw $1,") IMM_FN(mpsadbw_2, "mpsadbw $2,")
IMM_FN(mpsadbw_3, "mpsadbw $3,") IMM_FN(mpsadbw_4, "mpsadbw $4,") IMM_FN(mpsadbw_5, "mpsadbw $5,")
IMM_FN(mpsadbw_6, "mpsadbw $6,") IMM_FN(mpsadbw_7, "mpsadbw $7,");
/* clang-format on */
static int mpsadbw(struct soft_vcpu *v, const struct insn *i)
{
    static imm_fn *const run[8] = { mpsadbw_0, mpsadbw_1, mpsadbw_2, mpsadbw_3,
                                    mpsadbw_4, mpsadbw_5, mpsadbw_6, mpsadbw_7 };
    return imm_apply(v, i, run[i->imm & 7]);
}
const struct op op_sse_mpsadbw = OP_ALL(mpsadbw);

/* clang-format off */
IMM_FN(pclmulqdq_0, "pclmulqdq $0,") IMM_FN(pclmulqdq_1, "pclmulqdq $1,")
IMM_FN(pclmulqdq_2, "pclmulqdq $16,") IMM_FN(pclmulqdq_3, "pclmulqdq $17,");
/* clang-format on */
static int pclmulqdq(struct soft_vcpu *v, const struct insn *i)
{
    static imm_fn *const run[4] = { pclmulqdq_0, pclmulqdq_1, pclmulqdq_2, pclmulqdq_3 };
    return imm_apply(v, i, run[(i->imm & 1) | (i->imm >> 3 & 2)]);
}
const struct op op_sse_pclmulqdq = OP_ALL(pclmulqdq);

/* clang-format off */
IMM_FN(sha1rnds4_0, "sha1rnds4 $0,") IMM_FN(sha1rnds4_1, "sha1rnds4 $1,")
IMM_FN(sha1rnds4_2, "sha1rnds4 $2,") IMM_FN(sha1rnds4_3, "sha1rnds4 $3,");
/* clang-format on */
static int sha1rnds4(struct soft_vcpu *v, const struct insn *i)
{
    static imm_fn *const run[4] = { sha1rnds4_0, sha1rnds4_1, sha1rnds4_2, sha1rnds4_3 };
    return imm_apply(v, i, run[i->imm & 3]);
}
const struct op op_sse_sha1rnds4 = OP_ALL(sha1rnds4);

/* ---- AES, SHA ---- */

/* clang-format off */
SAME(aesimc) SAME(aesenc) SAME(aesenclast) SAME(aesdec) SAME(aesdeclast)
SAME(sha1nexte) SAME(sha1msg1) SAME(sha1msg2) SAME(sha256msg1) SAME(sha256msg2)
SSE_OP0(sha256rnds2);
/* clang-format on */

/* The round constant is only xored into elements 1 and 3. */
/* clang-format off */
IMM_FN(keygen, "aeskeygenassist $0,");
/* clang-format on */
static int aeskeygenassist(struct soft_vcpu *v, const struct insn *i)
{
    TRY(imm_apply(v, i, keygen));
    ((uint32_t *)xmm(v, i->reg))[1] ^= (uint8_t)i->imm;
    ((uint32_t *)xmm(v, i->reg))[3] ^= (uint8_t)i->imm;
    return OP_NEXT;
}
const struct op op_sse_aeskeygenassist = OP_ALL(aeskeygenassist);

/* ---- SSE4.2 strings ---- */

struct strings {
    const x128 *d, *s;
    int32_t alen, dlen; /* explicit lengths, cut to -16..16 */
    uint32_t index;     /* results */
    uint32_t cc;
    x128 mask;
};

#define STR_CASE(text, n)                                                               \
    case n:                                                                             \
        __asm__("movdqa %3, %%xmm1\n\t" text " %5, %4, %%xmm1\n\tlahf\n\tseto %%al\n\t" \
                "movdqa %%xmm0, %2"                                                     \
                : "=&a"(cc), "=&c"(t->index), "=m"(t->mask)                             \
                : "m"(*t->d), "m"(*t->s), "i"(n), "0"(t->alen), "d"(t->dlen)            \
                : "xmm0", "xmm1", "cc");                                                \
        break;
#define ESTRI(n) STR_CASE("pcmpestri", n)
#define ESTRM(n) STR_CASE("pcmpestrm", n)
#define ISTRI(n) STR_CASE("pcmpistri", n)
#define ISTRM(n) STR_CASE("pcmpistrm", n)
/* Bit 7 of the immediate means nothing. */
#define STRINGS(name, CASE)                          \
    void name##_run(struct strings *t, unsigned imm) \
    {                                                \
        uint32_t cc = 0;                             \
        switch (imm & 127) {                         \
            REP128(CASE)                             \
        }                                            \
        t->cc = cc & 0xffff;                         \
    }
/* clang-format off */
STRINGS(pcmpestri, ESTRI)
STRINGS(pcmpestrm, ESTRM)
STRINGS(pcmpistri, ISTRI)
STRINGS(pcmpistrm, ISTRM);
/* clang-format on */

/* An explicit length: EAX or EDX, with REX.W all of RAX or RDX; its absolute value counts, up
 * to 16. */
static int32_t string_length(const struct insn *i, uint64_t reg)
{
    const int64_t n = i->size == 8 ? (int64_t)reg : (int32_t)reg;
    return n > 16 ? 16 : n < -16 ? -16 : (int32_t)n;
}

int sse_strings(struct soft_vcpu *v, const struct insn *i, strings_fn *run, bool to_mask)
{
    x128 buf = { { 0, 0 } };
    struct strings t = { .d = xmm(v, i->reg), .s = xmm(v, i->rm) };
    if (i->flags & IF_MEM) {
        TRY(fetch(v, i, 16, false, &buf)); /* need not be aligned */
        t.s = &buf;
    }
    t.alen = string_length(i, v->gpr[R_AX]);
    t.dlen = string_length(i, v->gpr[R_DX]);
    run(&t, (uint8_t)i->imm);
    v->cc = t.cc;
    if (to_mask)
        *xmm(v, 0) = t.mask;
    else
        v->gpr[R_CX] = t.index;
    return OP_NEXT;
}
static int pcmpestri(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(sse);
    return sse_strings(v, i, pcmpestri_run, false);
}
static int pcmpestrm(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(sse);
    return sse_strings(v, i, pcmpestrm_run, true);
}
static int pcmpistri(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(sse);
    return sse_strings(v, i, pcmpistri_run, false);
}
static int pcmpistrm(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(sse);
    return sse_strings(v, i, pcmpistrm_run, true);
}
const struct op op_sse_pcmpestri = OP_ALL(pcmpestri);
const struct op op_sse_pcmpestrm = OP_ALL(pcmpestrm);
const struct op op_sse_pcmpistri = OP_ALL(pcmpistri);
const struct op op_sse_pcmpistrm = OP_ALL(pcmpistrm);
