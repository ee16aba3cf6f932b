/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of integer handlers (int_*.c) share: operands by size, and the flags' bits in
 * v->cc.
 *
 * Handlers are generated for each operand size; the register forms touch nothing but v.
 */
#ifndef ENGINE_SOFT_INT_H
#define ENGINE_SOFT_INT_H

#include "engine/soft/mem.h"
#include "engine/soft/run.h"

#define SIZES(X) X(8, b) X(16, w) X(32, l) X(64, q)
#define WIDE_SIZES(X) X(16, w) X(32, l) X(64, q)
#define OP_SIZES(r, m)                                                       \
    {                                                                        \
        { r##_8, r##_16, r##_32, r##_64 }, { m##_8, m##_16, m##_32, m##_64 } \
    }
#define OP_WIDE(r, m)                                                          \
    {                                                                          \
        { r##_16, r##_16, r##_32, r##_64 }, { m##_16, m##_16, m##_32, m##_64 } \
    }

/* A register operand of each size: read, write (32 bits clear the upper half), by `rm` or `reg`. */
#define GET_8(v, i, f) (*(uint8_t *)gpr_at(v, (i)->f##_off))
#define GET_16(v, i, f) (*(uint16_t *)gpr_at(v, (i)->f##_off))
#define GET_32(v, i, f) (*(uint32_t *)gpr_at(v, (i)->f##_off))
#define GET_64(v, i, f) (*(uint64_t *)gpr_at(v, (i)->f##_off))
#define SET_8(v, i, f, x) (GET_8(v, i, f) = (x))
#define SET_16(v, i, f, x) (GET_16(v, i, f) = (x))
#define SET_32(v, i, f, x) (GET_64(v, i, f) = (uint32_t)(x))
#define SET_64(v, i, f, x) (GET_64(v, i, f) = (x))
#define SET_A_8(v, x) (*(uint8_t *)&(v)->gpr[R_AX] = (x))
#define SET_A_16(v, x) (*(uint16_t *)&(v)->gpr[R_AX] = (x))
#define SET_A_32(v, x) ((v)->gpr[R_AX] = (uint32_t)(x))
#define SET_A_64(v, x) ((v)->gpr[R_AX] = (x))

#define H(name) static int name(struct soft_vcpu *v, const struct insn *i)
/* The memory operand's value in `x`, or return the fault. */
#define FETCH(bits, x)                          \
    uint64_t va;                                \
    uint##bits##_t x;                           \
    int fault = ea(v, i, bits / 8, false, &va); \
    if (!fault)                                 \
        fault = load##bits(v, va, &x);          \
    if (unlikely(fault))                        \
    return fault
#define MODIFY(bits, p)                         \
    uint64_t va;                                \
    struct rmw m;                               \
    int fault = ea(v, i, bits / 8, true, &va);  \
    if (!fault)                                 \
        fault = rmw_begin(v, va, bits / 8, &m); \
    if (unlikely(fault))                        \
        return fault;                           \
    uint##bits##_t *p = m.p
#define STORE(bits, x)                         \
    uint64_t va;                               \
    int fault = ea(v, i, bits / 8, true, &va); \
    return unlikely(fault) ? fault : store##bits(v, va, (uint##bits##_t)(x))

/* The memory or register operand of one-operand forms, zero-extended (int_move.c). */
int operand_get(struct soft_vcpu *v, const struct insn *i, uint64_t *out);

static inline int64_t sign_extend(uint64_t x, unsigned size)
{
    return (int64_t)(x << (64 - size * 8)) >> (64 - size * 8);
}

/* ---- Flags ---- */

/* Makes the host's flags v->cc (in ax), before an instruction that keeps some of them. */
#define FLAGS_IN "addb $127, %%al\n\tsahf\n\t"

#define COND_o(cc) ((cc)&1)
#define COND_b(cc) ((cc) >> 8 & 1)
#define COND_z(cc) ((cc) >> 14 & 1)
#define COND_be(cc) (((cc)&0x4100) != 0)
#define COND_s(cc) ((cc) >> 15 & 1)
#define COND_p(cc) ((cc) >> 10 & 1)
#define COND_l(cc) (((cc) >> 15 ^ (cc)) & 1)
#define COND_le(cc) (COND_z(cc) | COND_l(cc))

static inline void carry_set(struct soft_vcpu *v, bool on)
{
    v->cc = on ? v->cc | 0x100 : v->cc & ~0x100u;
}

#endif
