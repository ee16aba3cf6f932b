/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Multiplication, division, and the decimal adjustments and BOUND, which are gone in 64-bit mode.
 */
#include "engine/soft/int.h"

/* ---- Multiplication and division ---- */

static void carry_overflow_set(struct soft_vcpu *v, bool on)
{
    v->cc = on ? v->cc | 0x101 : v->cc & ~0x101u;
}

static void product_set(struct soft_vcpu *v, unsigned size, unsigned __int128 product)
{
    if (size == 1) {
        *(uint16_t *)&v->gpr[R_AX] = (uint16_t)product;
        return;
    }
    gpr_set(v, R_AX, size, (uint64_t)product & size_mask(size));
    gpr_set(v, R_DX, size, (uint64_t)(product >> size * 8) & size_mask(size));
}

H(mul)
{
    uint64_t x;
    int r = operand_get(v, i, &x);
    if (r)
        return r;
    unsigned __int128 product = (unsigned __int128)(v->gpr[R_AX] & size_mask(i->size)) * x;
    product_set(v, i->size, product);
    carry_overflow_set(v, product >> i->size * 8);
    return OP_NEXT;
}
H(imul)
{
    uint64_t x;
    int r = operand_get(v, i, &x);
    if (r)
        return r;
    __int128 product = (__int128)sign_extend(v->gpr[R_AX], i->size) * sign_extend(x, i->size);
    product_set(v, i->size, (unsigned __int128)product);
    carry_overflow_set(v, product != sign_extend((uint64_t)product, i->size));
    return OP_NEXT;
}
const struct op op_mul_E = OP_ALL(mul), op_imul_E = OP_ALL(imul);

#define IMUL_SIZE(bits, s)                                                                      \
    static inline uint##bits##_t imul_do_##bits(struct soft_vcpu *v, uint##bits##_t a,          \
                                                uint##bits##_t b)                               \
    {                                                                                           \
        uint16_t out;                                                                           \
        __asm__("imul" #s " %[b], %[a]\n\tlahf\n\tseto %%al"                                    \
                : "=&a"(out), [a] "+r"(a)                                                       \
                : [b] "r"(b)                                                                    \
                : "cc");                                                                        \
        v->cc = out;                                                                            \
        return a;                                                                               \
    }                                                                                           \
    H(imul_ge_r_##bits)                                                                         \
    {                                                                                           \
        SET_##bits(v, i, reg, imul_do_##bits(v, GET_##bits(v, i, reg), GET_##bits(v, i, rm)));  \
        return OP_NEXT;                                                                         \
    }                                                                                           \
    H(imul_ge_m_##bits)                                                                         \
    {                                                                                           \
        FETCH(bits, x);                                                                         \
        SET_##bits(v, i, reg, imul_do_##bits(v, GET_##bits(v, i, reg), x));                     \
        return OP_NEXT;                                                                         \
    }                                                                                           \
    H(imul_gei_r_##bits)                                                                        \
    {                                                                                           \
        SET_##bits(v, i, reg, imul_do_##bits(v, GET_##bits(v, i, rm), (uint##bits##_t)i->imm)); \
        return OP_NEXT;                                                                         \
    }                                                                                           \
    H(imul_gei_m_##bits)                                                                        \
    {                                                                                           \
        FETCH(bits, x);                                                                         \
        SET_##bits(v, i, reg, imul_do_##bits(v, x, (uint##bits##_t)i->imm));                    \
        return OP_NEXT;                                                                         \
    }
WIDE_SIZES(IMUL_SIZE)
const struct op op_imul_GE = OP_WIDE(imul_ge_r, imul_ge_m),
                op_imul_GEI = OP_WIDE(imul_gei_r, imul_gei_m);

static unsigned __int128 dividend_get(const struct soft_vcpu *v, unsigned size)
{
    if (size == 1)
        return (uint16_t)v->gpr[R_AX];
    return (unsigned __int128)(v->gpr[R_DX] & size_mask(size)) << size * 8 |
           (v->gpr[R_AX] & size_mask(size));
}

static void quotient_set(struct soft_vcpu *v, unsigned size, uint64_t quotient, uint64_t remainder)
{
    if (size == 1) {
        *(uint16_t *)&v->gpr[R_AX] = (uint16_t)((quotient & 0xff) | (remainder & 0xff) << 8);
        return;
    }
    gpr_set(v, R_AX, size, quotient & size_mask(size));
    gpr_set(v, R_DX, size, remainder & size_mask(size));
}

/* Undefined by the SDM, and different from maker to maker: those of a comparison of equals, so that
 * translated code, which does not keep what was there before, has the same. */
static void quotient_flags(struct soft_vcpu *v) { status_set(v, ZF | PF); }

H(divide)
{
    uint64_t x;
    int r = operand_get(v, i, &x);
    if (r)
        return r;
    unsigned __int128 n = dividend_get(v, i->size);
    if (!x || (uint64_t)(n >> i->size * 8) >= x)
        return raise(v, EXC_DE);
    if (i->size == 8) {
        uint64_t q, rem;
        __asm__("divq %[x]"
                : "=a"(q), "=d"(rem)
                : "a"((uint64_t)n), "d"((uint64_t)(n >> 64)), [x] "r"(x)
                : "cc");
        quotient_set(v, 8, q, rem);
    } else {
        quotient_set(v, i->size, (uint64_t)n / x, (uint64_t)n % x);
    }
    quotient_flags(v);
    return OP_NEXT;
}

H(idiv)
{
    uint64_t x;
    int r = operand_get(v, i, &x);
    if (r)
        return r;
    unsigned double_bits = i->size * 16;
    __int128 n = (__int128)(dividend_get(v, i->size) << (128 - double_bits)) >> (128 - double_bits);
    __int128 d = sign_extend(x, i->size);
    if (!d || (d == -1 && n == (__int128)((unsigned __int128)1 << 127)))
        return raise(v, EXC_DE);
    __int128 q = n / d;
    if (q != sign_extend((uint64_t)q, i->size))
        return raise(v, EXC_DE);
    quotient_set(v, i->size, (uint64_t)q, (uint64_t)(n % d));
    quotient_flags(v);
    return OP_NEXT;
}
const struct op op_div_E = OP_ALL(divide), op_idiv_E = OP_ALL(idiv);

/* ---- Decimal arithmetic and other things that are gone in 64-bit mode ---- */

static uint32_t status_of(uint8_t x)
{
    return (x ? 0u : ZF) | (x & 0x80 ? SF : 0u) | (__builtin_parity(x) ? 0u : PF);
}

H(daa)
{
    (void)i;
    uint8_t al = (uint8_t)v->gpr[R_AX], old = al;
    uint32_t fl = cc_to_flags(v->cc), out = 0;
    if ((al & 15) > 9 || fl & AF) {
        al = (uint8_t)(al + 6);
        out |= AF;
    }
    if (old > 0x99 || fl & CF) {
        al = (uint8_t)(al + 0x60);
        out |= CF;
    }
    SET_A_8(v, al);
    status_set(v, out | status_of(al));
    return OP_NEXT;
}
H(das)
{
    (void)i;
    uint8_t al = (uint8_t)v->gpr[R_AX], old = al;
    uint32_t fl = cc_to_flags(v->cc), out = 0;
    if ((al & 15) > 9 || fl & AF) {
        out |= AF | (al < 6 ? CF : 0u);
        al = (uint8_t)(al - 6);
    }
    if (old > 0x99 || fl & CF) {
        al = (uint8_t)(al - 0x60);
        out |= CF;
    }
    SET_A_8(v, al);
    status_set(v, out | status_of(al));
    return OP_NEXT;
}
static int ascii_adjust(struct soft_vcpu *v, int sign)
{
    uint16_t ax = (uint16_t)v->gpr[R_AX];
    uint32_t fl = cc_to_flags(v->cc);
    bool adjust = (ax & 15) > 9 || fl & AF;
    if (adjust)
        ax = (uint16_t)(ax + sign * 0x106);
    *(uint16_t *)&v->gpr[R_AX] = ax & 0xff0f;
    status_set(v, (fl & (OF | SF | ZF | PF)) | (adjust ? AF | CF : 0u));
    return OP_NEXT;
}
H(aaa)
{
    (void)i;
    return ascii_adjust(v, 1);
}
H(aas)
{
    (void)i;
    return ascii_adjust(v, -1);
}
H(aam)
{
    uint8_t base = (uint8_t)i->imm, al = (uint8_t)v->gpr[R_AX];
    if (!base)
        return raise(v, EXC_DE);
    *(uint16_t *)&v->gpr[R_AX] = (uint16_t)(al / base << 8 | al % base);
    status_set(v, status_of(al % base));
    return OP_NEXT;
}
H(aad)
{
    uint16_t ax = (uint16_t)v->gpr[R_AX];
    uint8_t al = (uint8_t)((ax & 0xff) + (ax >> 8) * (uint8_t)i->imm);
    *(uint16_t *)&v->gpr[R_AX] = al;
    status_set(v, status_of(al));
    return OP_NEXT;
}
H(salc)
{
    (void)i;
    SET_A_8(v, COND_b(v->cc) ? 0xff : 0);
    return OP_NEXT;
}
H(bound)
{
    uint64_t va;
    uint32_t pair[2] = { 0 };
    int r = ea(v, i, i->size * 2u, false, &va);
    if (!r)
        r = gva_load(v, va, pair, i->size * 2u);
    if (r)
        return r;
    int64_t low = (int32_t)pair[0], high = (int32_t)pair[1];
    if (i->size == 2)
        low = (int16_t)pair[0], high = (int16_t)(pair[0] >> 16);
    int64_t index = sign_extend(v->gpr[i->reg], i->size);
    return index < low || index > high ? raise(v, EXC_BR) : OP_NEXT;
}
const struct op op_daa = OP_ALL(daa), op_das = OP_ALL(das), op_aaa = OP_ALL(aaa),
                op_aas = OP_ALL(aas), op_aam = OP_ALL(aam), op_aad = OP_ALL(aad),
                op_salc = OP_ALL(salc), op_bound = OP_ALL(bound);
