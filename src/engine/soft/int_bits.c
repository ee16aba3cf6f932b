/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Shifts and rotates, single bits, bit counts, BMI. As in int_alu.c, the host computes the flags.
 */
#include "engine/soft/int.h"

/* ---- Shifts and rotates ---- */

#define SHIFT_SIZE(name, bits, s)                                                               \
    static inline uint32_t name##_do_##bits(uint##bits##_t *d, uint8_t count, uint32_t cc)      \
    {                                                                                           \
        uint16_t flags = (uint16_t)cc;                                                          \
        if (!(count & (bits == 64 ? 63 : 31)))                                                  \
            return cc;                                                                          \
        __asm__(FLAGS_IN #name #s " %%cl, %[d]\n\tlahf\n\tseto %%al"                            \
                : "+a"(flags), [d] "+q"(*d)                                                     \
                : "c"(count)                                                                    \
                : "cc");                                                                        \
        return flags;                                                                           \
    }                                                                                           \
    static inline int name##_r_##bits(struct soft_vcpu *v, const struct insn *i, uint8_t count) \
    {                                                                                           \
        uint##bits##_t d = GET_##bits(v, i, rm);                                                \
        v->cc = name##_do_##bits(&d, count, v->cc);                                             \
        SET_##bits(v, i, rm, d);                                                                \
        return OP_NEXT;                                                                         \
    }                                                                                           \
    static inline int name##_m_##bits(struct soft_vcpu *v, const struct insn *i, uint8_t count) \
    {                                                                                           \
        MODIFY(bits, p);                                                                        \
        v->cc = name##_do_##bits(p, count, v->cc);                                              \
        rmw_end(v, &m);                                                                         \
        return OP_NEXT;                                                                         \
    }                                                                                           \
    H(name##_1_r_##bits) { return name##_r_##bits(v, i, 1); }                                   \
    H(name##_1_m_##bits) { return name##_m_##bits(v, i, 1); }                                   \
    H(name##_c_r_##bits) { return name##_r_##bits(v, i, (uint8_t)v->gpr[R_CX]); }               \
    H(name##_c_m_##bits) { return name##_m_##bits(v, i, (uint8_t)v->gpr[R_CX]); }               \
    H(name##_i_r_##bits) { return name##_r_##bits(v, i, (uint8_t)i->imm); }                     \
    H(name##_i_m_##bits) { return name##_m_##bits(v, i, (uint8_t)i->imm); }
#define SHIFT(name)                                                    \
    SHIFT_SIZE(name, 8, b)                                             \
    SHIFT_SIZE(name, 16, w)                                            \
    SHIFT_SIZE(name, 32, l)                                            \
    SHIFT_SIZE(name, 64, q)                                            \
    const struct op op_##name##_E1 = OP_SIZES(name##_1_r, name##_1_m); \
    const struct op op_##name##_EC = OP_SIZES(name##_c_r, name##_c_m); \
    const struct op op_##name##_EI = OP_SIZES(name##_i_r, name##_i_m);
SHIFT(rol)
SHIFT(ror)
SHIFT(rcl)
SHIFT(rcr)
SHIFT(shl)
SHIFT(shr)
SHIFT(sar)

#define DOUBLE_SHIFT_SIZE(name, bits, s)                                                        \
    static inline uint32_t name##_do_##bits(uint##bits##_t *d, uint##bits##_t x, uint8_t count, \
                                            uint32_t cc)                                        \
    {                                                                                           \
        uint16_t flags = (uint16_t)cc;                                                          \
        if (!(count & (bits == 64 ? 63 : 31)))                                                  \
            return cc;                                                                          \
        __asm__(FLAGS_IN #name #s " %%cl, %[x], %[d]\n\tlahf\n\tseto %%al"                      \
                : "+a"(flags), [d] "+r"(*d)                                                     \
                : [x] "r"(x), "c"(count)                                                        \
                : "cc");                                                                        \
        return flags;                                                                           \
    }                                                                                           \
    static inline int name##_r_##bits(struct soft_vcpu *v, const struct insn *i, uint8_t count) \
    {                                                                                           \
        uint##bits##_t d = GET_##bits(v, i, rm);                                                \
        v->cc = name##_do_##bits(&d, GET_##bits(v, i, reg), count, v->cc);                      \
        SET_##bits(v, i, rm, d);                                                                \
        return OP_NEXT;                                                                         \
    }                                                                                           \
    static inline int name##_m_##bits(struct soft_vcpu *v, const struct insn *i, uint8_t count) \
    {                                                                                           \
        MODIFY(bits, p);                                                                        \
        v->cc = name##_do_##bits(p, GET_##bits(v, i, reg), count, v->cc);                       \
        rmw_end(v, &m);                                                                         \
        return OP_NEXT;                                                                         \
    }                                                                                           \
    H(name##_c_r_##bits) { return name##_r_##bits(v, i, (uint8_t)v->gpr[R_CX]); }               \
    H(name##_c_m_##bits) { return name##_m_##bits(v, i, (uint8_t)v->gpr[R_CX]); }               \
    H(name##_i_r_##bits) { return name##_r_##bits(v, i, (uint8_t)i->imm); }                     \
    H(name##_i_m_##bits) { return name##_m_##bits(v, i, (uint8_t)i->imm); }
#define DOUBLE_SHIFT(name)                                             \
    DOUBLE_SHIFT_SIZE(name, 16, w)                                     \
    DOUBLE_SHIFT_SIZE(name, 32, l)                                     \
    DOUBLE_SHIFT_SIZE(name, 64, q)                                     \
    const struct op op_##name##_EGC = OP_WIDE(name##_c_r, name##_c_m); \
    const struct op op_##name##_EGI = OP_WIDE(name##_i_r, name##_i_m);
DOUBLE_SHIFT(shld)
DOUBLE_SHIFT(shrd)

/* ---- Bits ---- */

/* A bit index in a register reaches beyond the memory operand. */
static int bit_address(struct soft_vcpu *v, const struct insn *i, int64_t index, uint64_t *va)
{
    unsigned shift = i->size == 8 ? 6 : i->size == 4 ? 5 : 4;
    int64_t delta = (index >> shift) * i->size;
    uint64_t offset = (ea_offset(v, i) + (uint64_t)delta) & size_mask(i->asize);
    return segment_linear(v, i->seg, offset, i->size, true, va);
}

#define BIT_SIZE(name, change, atomic, bits)                                                     \
    static inline int name##_r_##bits(struct soft_vcpu *v, const struct insn *i, uint64_t index) \
    {                                                                                            \
        uint##bits##_t d = GET_##bits(v, i, rm);                                                 \
        uint##bits##_t bit = (uint##bits##_t)((uint##bits##_t)1 << (index & (bits - 1)));        \
        carry_set(v, d &bit);                                                                    \
        d = (uint##bits##_t)(change);                                                            \
        SET_##bits(v, i, rm, d);                                                                 \
        return OP_NEXT;                                                                          \
    }                                                                                            \
    static inline int name##_at_##bits(struct soft_vcpu *v, const struct insn *i, uint64_t va,   \
                                       uint64_t index)                                           \
    {                                                                                            \
        struct rmw m;                                                                            \
        int fault = rmw_begin(v, va, bits / 8, &m);                                              \
        if (fault)                                                                               \
            return fault;                                                                        \
        uint##bits##_t *p = m.p, d;                                                              \
        uint##bits##_t bit = (uint##bits##_t)((uint##bits##_t)1 << (index & (bits - 1)));        \
        if (i->flags & IF_LOCK) {                                                                \
            d = atomic;                                                                          \
        } else {                                                                                 \
            d = *p;                                                                              \
            *p = (uint##bits##_t)(change);                                                       \
        }                                                                                        \
        rmw_end(v, &m);                                                                          \
        carry_set(v, d &bit);                                                                    \
        return OP_NEXT;                                                                          \
    }                                                                                            \
    H(name##_eg_r_##bits) { return name##_r_##bits(v, i, v->gpr[i->reg]); }                      \
    H(name##_ei_r_##bits) { return name##_r_##bits(v, i, (uint8_t)i->imm); }                     \
    H(name##_eg_m_##bits)                                                                        \
    {                                                                                            \
        uint64_t va;                                                                             \
        int64_t index = sign_extend(v->gpr[i->reg], bits / 8);                                   \
        int fault = bit_address(v, i, index, &va);                                               \
        return fault ? fault : name##_at_##bits(v, i, va, (uint64_t)index);                      \
    }                                                                                            \
    H(name##_ei_m_##bits)                                                                        \
    {                                                                                            \
        uint64_t va;                                                                             \
        int fault = ea(v, i, bits / 8, true, &va);                                               \
        return fault ? fault : name##_at_##bits(v, i, va, (uint8_t)i->imm);                      \
    }
#define BIT(name, change, atomic)                                       \
    BIT_SIZE(name, change, atomic, 16)                                  \
    BIT_SIZE(name, change, atomic, 32)                                  \
    BIT_SIZE(name, change, atomic, 64)                                  \
    const struct op op_##name##_EG = OP_WIDE(name##_eg_r, name##_eg_m); \
    const struct op op_##name##_EI = OP_WIDE(name##_ei_r, name##_ei_m);
BIT(bts, d | bit, __atomic_fetch_or(p, bit, __ATOMIC_SEQ_CST))
BIT(btr, d & ~bit, __atomic_fetch_and(p, (__typeof__(bit))~bit, __ATOMIC_SEQ_CST))
BIT(btc, d ^ bit, __atomic_fetch_xor(p, bit, __ATOMIC_SEQ_CST))

H(bt_eg)
{
    uint64_t index = v->gpr[i->reg], x = v->gpr[i->rm];
    if (i->flags & IF_MEM) {
        int64_t wide = sign_extend(index, i->size);
        unsigned shift = i->size == 8 ? 6 : i->size == 4 ? 5 : 4;
        uint64_t va, offset = (ea_offset(v, i) + (uint64_t)((wide >> shift) * i->size)) &
                              size_mask(i->asize);
        x = 0;
        int r = segment_linear(v, i->seg, offset, i->size, false, &va);
        if (!r)
            r = gva_load(v, va, &x, i->size);
        if (r)
            return r;
    }
    carry_set(v, x >> (index & (i->size * 8u - 1)) & 1);
    return OP_NEXT;
}
H(bt_ei)
{
    uint64_t x;
    int r = operand_get(v, i, &x);
    if (r)
        return r;
    carry_set(v, x >> ((uint8_t)i->imm & (i->size * 8u - 1)) & 1);
    return OP_NEXT;
}
const struct op op_bt_EG = OP_ALL(bt_eg), op_bt_EI = OP_ALL(bt_ei);

/* The destination goes in whole: BSF and BSR of zero leave it as it was. */
#define SCAN_SIZE(name, bits, s, mod)                                              \
    static inline void name##_do_##bits(struct soft_vcpu *v, const struct insn *i, \
                                        uint##bits##_t x)                          \
    {                                                                              \
        uint16_t out;                                                              \
        uint64_t d = v->gpr[i->reg];                                               \
        __asm__(#name #s " %[x], %" mod "[d]\n\tlahf\n\tseto %%al"                 \
                : "=&a"(out), [d] "+r"(d)                                          \
                : [x] "r"(x)                                                       \
                : "cc");                                                           \
        v->gpr[i->reg] = d;                                                        \
        v->cc = out;                                                               \
    }                                                                              \
    H(name##_r_##bits)                                                             \
    {                                                                              \
        name##_do_##bits(v, i, GET_##bits(v, i, rm));                              \
        return OP_NEXT;                                                            \
    }                                                                              \
    H(name##_m_##bits)                                                             \
    {                                                                              \
        FETCH(bits, x);                                                            \
        name##_do_##bits(v, i, x);                                                 \
        return OP_NEXT;                                                            \
    }
#define SCAN(name)              \
    SCAN_SIZE(name, 16, w, "w") \
    SCAN_SIZE(name, 32, l, "k") \
    SCAN_SIZE(name, 64, q, "q") \
    const struct op op_##name##_GE = OP_WIDE(name##_r, name##_m);
SCAN(bsf)
SCAN(bsr)
SCAN(tzcnt)
SCAN(lzcnt)
SCAN(popcnt)

H(crc32)
{
    uint64_t x;
    int r = operand_get(v, i, &x);
    if (r)
        return r;
    uint64_t crc = (uint32_t)v->gpr[i->reg];
    switch (i->size) {
    case 1: __asm__("crc32b %b1, %k0" : "+r"(crc) : "q"(x)); break;
    case 2: __asm__("crc32w %w1, %k0" : "+r"(crc) : "r"(x)); break;
    case 4: __asm__("crc32l %k1, %k0" : "+r"(crc) : "r"(x)); break;
    default: __asm__("crc32q %1, %0" : "+r"(crc) : "r"(x));
    }
    v->gpr[i->reg] = (uint32_t)crc;
    return OP_NEXT;
}
const struct op op_crc32_GE = OP_ALL(crc32);

/* ---- BMI ---- */

/* Three operands: VEX.vvvv, r/m, register; `d` by the instruction's own order. */
#define BMI_FLAGS(name, template32, template64, destination)  \
    H(name)                                                   \
    {                                                         \
        uint64_t x, d = 0, y = v->gpr[i->vvvv];               \
        uint16_t out;                                         \
        int r = operand_get(v, i, &x);                        \
        if (r)                                                \
            return r;                                         \
        if (i->size == 8)                                     \
            __asm__(template64 "\n\tlahf\n\tseto %%al"        \
                    : "=&a"(out), [d] "+r"(d)                 \
                    : [x] "r"(x), [y] "r"(y)                  \
                    : "cc");                                  \
        else                                                  \
            __asm__(template32 "\n\tlahf\n\tseto %%al"        \
                    : "=&a"(out), [d] "+r"(d)                 \
                    : [x] "r"(x), [y] "r"(y)                  \
                    : "cc");                                  \
        v->gpr[destination] = i->size == 8 ? d : (uint32_t)d; \
        v->cc = out;                                          \
        return OP_NEXT;                                       \
    }                                                         \
    const struct op op_##name = OP_ALL(name);
BMI_FLAGS(andn, "andnl %k[x], %k[y], %k[d]", "andnq %[x], %[y], %[d]", i->reg)
BMI_FLAGS(blsr, "blsrl %k[x], %k[d]", "blsrq %[x], %[d]", i->vvvv)
BMI_FLAGS(blsi, "blsil %k[x], %k[d]", "blsiq %[x], %[d]", i->vvvv)
BMI_FLAGS(blsmsk, "blsmskl %k[x], %k[d]", "blsmskq %[x], %[d]", i->vvvv)
BMI_FLAGS(bzhi, "bzhil %k[y], %k[x], %k[d]", "bzhiq %[y], %[x], %[d]", i->reg)
BMI_FLAGS(bextr, "bextrl %k[y], %k[x], %k[d]", "bextrq %[y], %[x], %[d]", i->reg)

#define BMI_QUIET(name, expression32, expression64) \
    H(name)                                         \
    {                                               \
        uint64_t x, d, y = v->gpr[i->vvvv];         \
        int r = operand_get(v, i, &x);              \
        if (r)                                      \
            return r;                               \
        if (i->size == 8)                           \
            d = (expression64);                     \
        else                                        \
            d = (uint32_t)(expression32);           \
        (void)y;                                    \
        v->gpr[i->reg] = d;                         \
        return OP_NEXT;                             \
    }                                               \
    const struct op op_##name = OP_ALL(name);
static inline uint64_t pdep64(uint64_t source, uint64_t mask)
{
    __asm__("pdepq %1, %0, %0" : "+r"(source) : "r"(mask));
    return source;
}
static inline uint64_t pext64(uint64_t source, uint64_t mask)
{
    __asm__("pextq %1, %0, %0" : "+r"(source) : "r"(mask));
    return source;
}
BMI_QUIET(pdep, pdep64((uint32_t)y, (uint32_t)x), pdep64(y, x))
BMI_QUIET(pext, pext64((uint32_t)y, (uint32_t)x), pext64(y, x))
BMI_QUIET(shlx, (uint32_t)x << (y & 31), x << (y & 63))
BMI_QUIET(shrx, (uint32_t)x >> (y & 31), x >> (y & 63))
BMI_QUIET(sarx, (int32_t)x >> (y & 31), (uint64_t)((int64_t)x >> (y & 63)))
BMI_QUIET(rorx,
          (uint32_t)x >> (i->imm & 31) | (uint32_t)((uint64_t)(uint32_t)x << (32 - (i->imm & 31))),
          x >> (i->imm & 63) | (i->imm & 63 ? x << (64 - (i->imm & 63)) : 0))

H(mulx)
{
    uint64_t x;
    int r = operand_get(v, i, &x);
    if (r)
        return r;
    if (i->size == 8) {
        unsigned __int128 product = (unsigned __int128)v->gpr[R_DX] * x;
        v->gpr[i->vvvv] = (uint64_t)product;
        v->gpr[i->reg] = (uint64_t)(product >> 64);
    } else {
        uint64_t product = (uint64_t)(uint32_t)v->gpr[R_DX] * x;
        v->gpr[i->vvvv] = (uint32_t)product;
        v->gpr[i->reg] = product >> 32;
    }
    return OP_NEXT;
}
const struct op op_mulx = OP_ALL(mulx);
