/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * AVX and AVX2: packed integers, logic, shifts, tests; strings, AES and the carry-less product in
 * their VEX forms.
 */
#include "engine/soft/fp_avx.h"

/* clang-format off */
AVX_OP(punpcklbw) AVX_OP(punpcklwd) AVX_OP(punpckldq) AVX_OP(punpcklqdq)
AVX_OP(punpckhbw) AVX_OP(punpckhwd) AVX_OP(punpckhdq) AVX_OP(punpckhqdq)
AVX_OP(packsswb) AVX_OP(packssdw) AVX_OP(packuswb) AVX_OP(packusdw)
AVX_OP(pcmpgtb) AVX_OP(pcmpgtw) AVX_OP(pcmpgtd) AVX_OP(pcmpgtq)
AVX_OP(pcmpeqb) AVX_OP(pcmpeqw) AVX_OP(pcmpeqd) AVX_OP(pcmpeqq)
AVX_OP(paddb) AVX_OP(paddw) AVX_OP(paddd) AVX_OP(paddq) AVX_OP(psubb) AVX_OP(psubw) AVX_OP(psubd) AVX_OP(psubq)
AVX_OP(paddsb) AVX_OP(paddsw) AVX_OP(paddusb) AVX_OP(paddusw)
AVX_OP(psubsb) AVX_OP(psubsw) AVX_OP(psubusb) AVX_OP(psubusw)
AVX_OP(pminub) AVX_OP(pminuw) AVX_OP(pminud) AVX_OP(pminsb) AVX_OP(pminsw) AVX_OP(pminsd)
AVX_OP(pmaxub) AVX_OP(pmaxuw) AVX_OP(pmaxud) AVX_OP(pmaxsb) AVX_OP(pmaxsw) AVX_OP(pmaxsd)
AVX_OP(pavgb) AVX_OP(pavgw) AVX_OP(psadbw)
AVX_OP(pmullw) AVX_OP(pmulhw) AVX_OP(pmulhuw) AVX_OP(pmuludq) AVX_OP(pmuldq) AVX_OP(pmulld)
AVX_OP(pmaddwd) AVX_OP(pmaddubsw) AVX_OP(pmulhrsw)
AVX_OP(phaddw) AVX_OP(phaddd) AVX_OP(phaddsw) AVX_OP(phsubw) AVX_OP(phsubd) AVX_OP(phsubsw)
AVX_OP(psignb) AVX_OP(psignw) AVX_OP(psignd)
AVX_OP(pand) AVX_OP(pandn) AVX_OP(por) AVX_OP(pxor)
AVX_OP(andps) AVX_OP(andnps) AVX_OP(orps) AVX_OP(xorps) AVX_OP(andpd) AVX_OP(andnpd) AVX_OP(orpd) AVX_OP(xorpd)
AVX_OP(psllvd) AVX_OP(psllvq) AVX_OP(psrlvd) AVX_OP(psrlvq) AVX_OP(psravd)
AVX_UNARY(pabsb, 16, 32) AVX_UNARY(pabsw, 16, 32) AVX_UNARY(pabsd, 16, 32) AVX_UNARY_X(phminposuw)
AVX_UNARY(pmovsxbw, 8, 16) AVX_UNARY(pmovsxbd, 4, 8) AVX_UNARY(pmovsxbq, 2, 4)
AVX_UNARY(pmovsxwd, 8, 16) AVX_UNARY(pmovsxwq, 4, 8) AVX_UNARY(pmovsxdq, 8, 16)
AVX_UNARY(pmovzxbw, 8, 16) AVX_UNARY(pmovzxbd, 4, 8) AVX_UNARY(pmovzxbq, 2, 4)
AVX_UNARY(pmovzxwd, 8, 16) AVX_UNARY(pmovzxwq, 4, 8) AVX_UNARY(pmovzxdq, 8, 16);
/* clang-format on */

/* ---- Shifts ---- */

/* The count has 16 bytes in memory for both lengths. The immediate form puts its result into
 * VEX.vvvv, and its count where the register form of the host wants it. */
#define SHIFT(name)                                                                              \
    AVX_FN(run_##name, AVX_BODY3, "v" #name, "v" #name)                                          \
    AVX_HANDLER(name, run_##name##_x, run_##name##_y, 16, 16)                                    \
    static int avx_##name##_imm(struct soft_vcpu *v, const struct insn *i)                       \
    {                                                                                            \
        const x256 count = { { (uint8_t)i->imm, 0, 0, 0 } };                                     \
        ENTER(avx);                                                                              \
        (vex_wide(i) ? run_##name##_y : run_##name##_x)(ymm(v, i->vvvv), ymm(v, i->rm), &count); \
        return OP_NEXT;                                                                          \
    }                                                                                            \
    const struct op op_avx_##name##_imm = OP_ALL(avx_##name##_imm);
/* clang-format off */
SHIFT(psrlw) SHIFT(psrld) SHIFT(psrlq) SHIFT(psraw) SHIFT(psrad) SHIFT(psllw) SHIFT(pslld) SHIFT(psllq);
/* clang-format on */

/* By bytes, each 16 on their own */
static int shift_bytes(struct soft_vcpu *v, const struct insn *i, bool left)
{
    const unsigned by = (uint8_t)i->imm > 15 ? 16 : (uint8_t)i->imm;
    const uint8_t *s = v->fpu.vec[i->rm];
    x256 r = { { 0, 0, 0, 0 } };
    ENTER(avx);
    for (unsigned lane = 0; lane < vex_bytes(i); lane += 16)
        memcpy((uint8_t *)&r + lane + (left ? by : 0), s + lane + (left ? 0 : by), 16 - by);
    *ymm(v, i->vvvv) = r;
    return OP_NEXT;
}
static int psrldq(struct soft_vcpu *v, const struct insn *i) { return shift_bytes(v, i, false); }
static int pslldq(struct soft_vcpu *v, const struct insn *i) { return shift_bytes(v, i, true); }
const struct op op_avx_psrldq = OP_ALL(psrldq);
const struct op op_avx_pslldq = OP_ALL(pslldq);

/* ---- Tests into the flags: ZF when a AND s is zero, CF when NOT a AND s is, in the bits of `mask`
 * ---- */

static int test(struct soft_vcpu *v, const struct insn *i, uint64_t mask)
{
    x256 buf;
    uint64_t both = 0, only_s = 0;
    ENTER(avx);
    const x256 *a = ymm(v, i->reg), *s = vsource(v, i, vex_bytes(i), &buf);
    if (!s)
        return OP_FAULT;
    for (unsigned n = 0; n < vex_bytes(i) / 8; n++) {
        both |= a->q[n] & s->q[n] & mask;
        only_s |= ~a->q[n] & s->q[n] & mask;
    }
    status_set(v, (both ? 0 : ZF) | (only_s ? 0 : CF));
    return OP_NEXT;
}
static int ptest(struct soft_vcpu *v, const struct insn *i) { return test(v, i, ~0ull); }
static int testps(struct soft_vcpu *v, const struct insn *i)
{
    return test(v, i, 0x8000000080000000);
}
static int testpd(struct soft_vcpu *v, const struct insn *i) { return test(v, i, 1ull << 63); }
const struct op op_avx_ptest = OP_ALL(ptest);
const struct op op_avx_testps = OP_ALL(testps);
const struct op op_avx_testpd = OP_ALL(testpd);

/* ---- The immediate is part of the encoding ---- */

#define IMM_BODY(text, n, reg, end)                                              \
    __asm__("vmovdqa %1, %%" reg "\n\t" text " %3, %2, %%" reg ", %%" reg "\n\t" \
            "vmovdqa %%ymm0, %0" end                                             \
            : "=m"(*d)                                                           \
            : "m"(*a), "m"(*s), "i"(n)                                           \
            : "xmm0")
/* Bits 0-2 say what the lower 16 bytes do, bits 3-5 what the upper. */
#define MPSADBW_X(n)                         \
    case n:                                  \
        IMM_BODY("vmpsadbw", n, "xmm0", ""); \
        break;
#define MPSADBW_Y(n) \
    case n: IMM_BODY("vmpsadbw", n, "ymm0", "\n\tvzeroupper"); break;
/* clang-format off */
static void mpsadbw_x(x256 *d, const x256 *a, const x256 *s, unsigned imm)
{
    switch (imm & 7) { REP4(MPSADBW_X, 0) REP4(MPSADBW_X, 4) }
}
static void mpsadbw_y(x256 *d, const x256 *a, const x256 *s, unsigned imm)
{
    switch (imm & 63) { REP64(MPSADBW_Y, 0) }
}
/* clang-format on */
static int mpsadbw(struct soft_vcpu *v, const struct insn *i)
{
    x256 buf;
    ENTER(avx);
    const x256 *s = vsource(v, i, vex_bytes(i), &buf);
    if (!s)
        return OP_FAULT;
    (vex_wide(i) ? mpsadbw_y : mpsadbw_x)(ymm(v, i->reg), ymm(v, i->vvvv), s, (unsigned)i->imm);
    return OP_NEXT;
}
const struct op op_avx_mpsadbw = OP_ALL(mpsadbw);

/* clang-format off */
#define PCLMUL(n) case n: IMM_BODY("vpclmulqdq", ((n) & 1) | ((n) & 2) << 3, "xmm0", ""); break;
static void pclmulqdq_x(x256 *d, const x256 *a, const x256 *s, unsigned imm)
{
    switch ((imm & 1) | (imm >> 3 & 2)) { REP4(PCLMUL, 0) }
}
/* clang-format on */
static int pclmulqdq(struct soft_vcpu *v, const struct insn *i)
{
    x256 buf;
    ENTER(avx);
    const x256 *s = vsource(v, i, 16, &buf);
    if (!s)
        return OP_FAULT;
    pclmulqdq_x(ymm(v, i->reg), ymm(v, i->vvvv), s, (unsigned)i->imm);
    return OP_NEXT;
}
const struct op op_avx_pclmulqdq = OP_ALL(pclmulqdq);

/* ---- AES ---- */

/* clang-format off */
AVX_OP_X(aesenc, 16) AVX_OP_X(aesenclast, 16) AVX_OP_X(aesdec, 16) AVX_OP_X(aesdeclast, 16) AVX_UNARY_X(aesimc);
/* clang-format on */

/* The round constant is only xored into elements 1 and 3. */
static int aeskeygenassist(struct soft_vcpu *v, const struct insn *i)
{
    x256 buf, r, *d = &r;
    ENTER(avx);
    const x256 *s = vsource(v, i, 16, &buf);
    if (!s)
        return OP_FAULT;
    AVX_BODY2("vaeskeygenassist $0,", "xmm0", "");
    ((uint32_t *)&r)[1] ^= (uint8_t)i->imm;
    ((uint32_t *)&r)[3] ^= (uint8_t)i->imm;
    *ymm(v, i->reg) = r;
    return OP_NEXT;
}
const struct op op_avx_aeskeygenassist = OP_ALL(aeskeygenassist);

/* ---- Strings: as the legacy forms, but a mask in XMM0 clears the rest of YMM0 ---- */

#define STRINGS(name, to_mask)                                       \
    static int avx_##name(struct soft_vcpu *v, const struct insn *i) \
    {                                                                \
        ENTER(avx);                                                  \
        TRY(sse_strings(v, i, name##_run, to_mask));                 \
        if (to_mask)                                                 \
            ymm_set_low(v, 0, *xmm(v, 0));                           \
        return OP_NEXT;                                              \
    }                                                                \
    const struct op op_avx_##name = OP_ALL(avx_##name);
/* clang-format off */
STRINGS(pcmpestri, false)
STRINGS(pcmpestrm, true)
STRINGS(pcmpistri, false)
STRINGS(pcmpistrm, true);
/* clang-format on */
