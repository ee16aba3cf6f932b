/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Integer instructions: moves, arithmetic, shifts, bits, branches.
 *
 * Arithmetic runs on the host's own instructions, followed by LAHF and SETO, so results and flags
 * (the undefined ones, too) are the host's. Instructions that keep some flags get them set first:
 * ADD $127 turns AL = 0 or 1 into OF, SAHF does the rest. Handlers are generated for each operand
 * size; the register forms touch nothing but v.
 */
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
#define GET_16(v, i, f) ((uint16_t)(v)->gpr[(i)->f])
#define GET_32(v, i, f) ((uint32_t)(v)->gpr[(i)->f])
#define GET_64(v, i, f) ((v)->gpr[(i)->f])
#define SET_8(v, i, f, x) (*(uint8_t *)gpr_at(v, (i)->f##_off) = (x))
#define SET_16(v, i, f, x) (*(uint16_t *)&(v)->gpr[(i)->f] = (x))
#define SET_32(v, i, f, x) ((v)->gpr[(i)->f] = (uint32_t)(x))
#define SET_64(v, i, f, x) ((v)->gpr[(i)->f] = (x))
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

/* ---- Two-operand arithmetic ---- */

#define CARRY_IN "btl $8, %k[cc]\n\t"
#define NO_CARRY ""
#define ALU_SIZE(name, carry, bits, s)                                                             \
    static inline uint32_t name##_do_##bits(uint##bits##_t *d, uint##bits##_t x, uint32_t cc)      \
    {                                                                                              \
        uint16_t out;                                                                              \
        __asm__(carry #name #s " %[x], %[d]\n\tlahf\n\tseto %%al"                                  \
                : "=&a"(out), [d] "+q"(*d)                                                         \
                : [x] "q"(x), [cc] "r"(cc)                                                         \
                : "cc");                                                                           \
        return out;                                                                                \
    }                                                                                              \
    static inline uint32_t name##_lock_##bits(uint##bits##_t *d, uint##bits##_t x, uint32_t cc)    \
    {                                                                                              \
        uint16_t out;                                                                              \
        __asm__ volatile(carry "lock " #name #s " %[x], %[d]\n\tlahf\n\tseto %%al"                 \
                         : "=&a"(out), [d] "+m"(*d)                                                \
                         : [x] "q"(x), [cc] "r"(cc)                                                \
                         : "cc", "memory");                                                        \
        return out;                                                                                \
    }                                                                                              \
    H(name##_eg_r_##bits)                                                                          \
    {                                                                                              \
        uint##bits##_t d = GET_##bits(v, i, rm);                                                   \
        v->cc = name##_do_##bits(&d, GET_##bits(v, i, reg), v->cc);                                \
        SET_##bits(v, i, rm, d);                                                                   \
        return OP_NEXT;                                                                            \
    }                                                                                              \
    H(name##_ge_r_##bits)                                                                          \
    {                                                                                              \
        uint##bits##_t d = GET_##bits(v, i, reg);                                                  \
        v->cc = name##_do_##bits(&d, GET_##bits(v, i, rm), v->cc);                                 \
        SET_##bits(v, i, reg, d);                                                                  \
        return OP_NEXT;                                                                            \
    }                                                                                              \
    H(name##_ei_r_##bits)                                                                          \
    {                                                                                              \
        uint##bits##_t d = GET_##bits(v, i, rm);                                                   \
        v->cc = name##_do_##bits(&d, (uint##bits##_t)i->imm, v->cc);                               \
        SET_##bits(v, i, rm, d);                                                                   \
        return OP_NEXT;                                                                            \
    }                                                                                              \
    H(name##_ge_m_##bits)                                                                          \
    {                                                                                              \
        FETCH(bits, x);                                                                            \
        uint##bits##_t d = GET_##bits(v, i, reg);                                                  \
        v->cc = name##_do_##bits(&d, x, v->cc);                                                    \
        SET_##bits(v, i, reg, d);                                                                  \
        return OP_NEXT;                                                                            \
    }                                                                                              \
    static inline int name##_m_##bits(struct soft_vcpu *v, const struct insn *i, uint##bits##_t x) \
    {                                                                                              \
        MODIFY(bits, p);                                                                           \
        if (i->flags & IF_LOCK)                                                                    \
            v->cc = name##_lock_##bits(p, x, v->cc);                                               \
        else                                                                                       \
            v->cc = name##_do_##bits(p, x, v->cc);                                                 \
        rmw_end(v, &m);                                                                            \
        return OP_NEXT;                                                                            \
    }                                                                                              \
    H(name##_eg_m_##bits) { return name##_m_##bits(v, i, GET_##bits(v, i, reg)); }                 \
    H(name##_ei_m_##bits) { return name##_m_##bits(v, i, (uint##bits##_t)i->imm); }

#define ALU(name, carry)                                                 \
    ALU_SIZE(name, carry, 8, b)                                          \
    ALU_SIZE(name, carry, 16, w)                                         \
    ALU_SIZE(name, carry, 32, l)                                         \
    ALU_SIZE(name, carry, 64, q)                                         \
    const struct op op_##name##_EG = OP_SIZES(name##_eg_r, name##_eg_m); \
    const struct op op_##name##_GE = OP_SIZES(name##_ge_r, name##_ge_m); \
    const struct op op_##name##_EI = OP_SIZES(name##_ei_r, name##_ei_m);

ALU(add, NO_CARRY)
ALU(or, NO_CARRY)
ALU(adc, CARRY_IN)
ALU(sbb, CARRY_IN)
ALU(and, NO_CARRY)
ALU(sub, NO_CARRY)
ALU(xor, NO_CARRY)

/* CMP and TEST write nothing but flags. */
#define COMPARE_SIZE(name, bits, s)                                             \
    static inline uint32_t name##_do_##bits(uint##bits##_t a, uint##bits##_t b) \
    {                                                                           \
        uint16_t out;                                                           \
        __asm__(#name #s " %[b], %[a]\n\tlahf\n\tseto %%al"                     \
                : "=&a"(out)                                                    \
                : [a] "q"(a), [b] "q"(b)                                        \
                : "cc");                                                        \
        return out;                                                             \
    }                                                                           \
    H(name##_eg_r_##bits)                                                       \
    {                                                                           \
        v->cc = name##_do_##bits(GET_##bits(v, i, rm), GET_##bits(v, i, reg));  \
        return OP_NEXT;                                                         \
    }                                                                           \
    H(name##_eg_m_##bits)                                                       \
    {                                                                           \
        FETCH(bits, x);                                                         \
        v->cc = name##_do_##bits(x, GET_##bits(v, i, reg));                     \
        return OP_NEXT;                                                         \
    }                                                                           \
    H(name##_ei_r_##bits)                                                       \
    {                                                                           \
        v->cc = name##_do_##bits(GET_##bits(v, i, rm), (uint##bits##_t)i->imm); \
        return OP_NEXT;                                                         \
    }                                                                           \
    H(name##_ei_m_##bits)                                                       \
    {                                                                           \
        FETCH(bits, x);                                                         \
        v->cc = name##_do_##bits(x, (uint##bits##_t)i->imm);                    \
        return OP_NEXT;                                                         \
    }
#define COMPARE(name)                                                    \
    COMPARE_SIZE(name, 8, b)                                             \
    COMPARE_SIZE(name, 16, w)                                            \
    COMPARE_SIZE(name, 32, l)                                            \
    COMPARE_SIZE(name, 64, q)                                            \
    const struct op op_##name##_EG = OP_SIZES(name##_eg_r, name##_eg_m); \
    const struct op op_##name##_EI = OP_SIZES(name##_ei_r, name##_ei_m);
COMPARE(cmp)
COMPARE(test)

#define CMP_GE(bits, s)                                                     \
    H(cmp_ge_r_##bits)                                                      \
    {                                                                       \
        v->cc = cmp_do_##bits(GET_##bits(v, i, reg), GET_##bits(v, i, rm)); \
        return OP_NEXT;                                                     \
    }                                                                       \
    H(cmp_ge_m_##bits)                                                      \
    {                                                                       \
        FETCH(bits, x);                                                     \
        v->cc = cmp_do_##bits(GET_##bits(v, i, reg), x);                    \
        return OP_NEXT;                                                     \
    }
SIZES(CMP_GE)
const struct op op_cmp_GE = OP_SIZES(cmp_ge_r, cmp_ge_m);

/* ---- One operand ---- */

#define FLAGS_IN "addb $127, %%al\n\tsahf\n\t"
#define UNARY_SIZE(name, bits, s)                                                               \
    static inline uint32_t name##_do_##bits(uint##bits##_t *d, uint32_t cc)                     \
    {                                                                                           \
        uint16_t flags = (uint16_t)cc;                                                          \
        __asm__(FLAGS_IN #name #s " %[d]\n\tlahf\n\tseto %%al"                                  \
                : "+a"(flags), [d] "+q"(*d)                                                     \
                :                                                                               \
                : "cc");                                                                        \
        return flags;                                                                           \
    }                                                                                           \
    static inline uint32_t name##_lock_##bits(uint##bits##_t *d, uint32_t cc)                   \
    {                                                                                           \
        uint16_t flags = (uint16_t)cc;                                                          \
        __asm__ volatile(FLAGS_IN "lock " #name #s " %[d]\n\tlahf\n\tseto %%al"                 \
                         : "+a"(flags), [d] "+m"(*d)                                            \
                         :                                                                      \
                         : "cc", "memory");                                                     \
        return flags;                                                                           \
    }                                                                                           \
    H(name##_r_##bits)                                                                          \
    {                                                                                           \
        uint##bits##_t d = GET_##bits(v, i, rm);                                                \
        v->cc = name##_do_##bits(&d, v->cc);                                                    \
        SET_##bits(v, i, rm, d);                                                                \
        return OP_NEXT;                                                                         \
    }                                                                                           \
    H(name##_m_##bits)                                                                          \
    {                                                                                           \
        MODIFY(bits, p);                                                                        \
        v->cc = i->flags & IF_LOCK ? name##_lock_##bits(p, v->cc) : name##_do_##bits(p, v->cc); \
        rmw_end(v, &m);                                                                         \
        return OP_NEXT;                                                                         \
    }
#define UNARY(name)         \
    UNARY_SIZE(name, 8, b)  \
    UNARY_SIZE(name, 16, w) \
    UNARY_SIZE(name, 32, l) \
    UNARY_SIZE(name, 64, q) \
    const struct op op_##name##_E = OP_SIZES(name##_r, name##_m);
UNARY(inc)
UNARY(dec)
UNARY(neg)
UNARY(not )

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

/* ---- Multiplication and division ---- */

static void carry_overflow_set(struct soft_vcpu *v, bool on)
{
    v->cc = on ? v->cc | 0x101 : v->cc & ~0x101u;
}

/* The memory or register operand of one-operand forms, zero-extended. */
static int operand_get(struct soft_vcpu *v, const struct insn *i, uint64_t *out)
{
    if (!(i->flags & IF_MEM)) {
        *out = i->size == 1 ? GET_8(v, i, rm) : v->gpr[i->rm] & size_mask(i->size);
        return 0;
    }
    uint64_t va;
    *out = 0;
    int r = ea(v, i, i->size, false, &va);
    if (r)
        return r;
    switch (i->size) {
    case 1: {
        uint8_t x = 0;
        r = load8(v, va, &x), *out = x;
        return r;
    }
    case 2: {
        uint16_t x = 0;
        r = load16(v, va, &x), *out = x;
        return r;
    }
    case 4: {
        uint32_t x = 0;
        r = load32(v, va, &x), *out = x;
        return r;
    }
    default: return load64(v, va, out);
    }
}

static int64_t sign_extend(uint64_t x, unsigned size)
{
    return (int64_t)(x << (64 - size * 8)) >> (64 - size * 8);
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
    return OP_NEXT;
}
const struct op op_div_E = OP_ALL(divide), op_idiv_E = OP_ALL(idiv);

/* ---- Moves ---- */

#define MOVE_SIZE(bits, s)                                                                  \
    H(mov_eg_r_##bits)                                                                      \
    {                                                                                       \
        SET_##bits(v, i, rm, GET_##bits(v, i, reg));                                        \
        return OP_NEXT;                                                                     \
    }                                                                                       \
    H(mov_eg_m_##bits) { STORE(bits, GET_##bits(v, i, reg)); }                              \
    H(mov_ge_r_##bits)                                                                      \
    {                                                                                       \
        SET_##bits(v, i, reg, GET_##bits(v, i, rm));                                        \
        return OP_NEXT;                                                                     \
    }                                                                                       \
    H(mov_ge_m_##bits)                                                                      \
    {                                                                                       \
        FETCH(bits, x);                                                                     \
        SET_##bits(v, i, reg, x);                                                           \
        return OP_NEXT;                                                                     \
    }                                                                                       \
    H(mov_ei_r_##bits)                                                                      \
    {                                                                                       \
        SET_##bits(v, i, rm, (uint##bits##_t)i->imm);                                       \
        return OP_NEXT;                                                                     \
    }                                                                                       \
    H(mov_ei_m_##bits) { STORE(bits, i->imm); }                                             \
    H(mov_ao_##bits)                                                                        \
    {                                                                                       \
        FETCH(bits, x);                                                                     \
        SET_A_##bits(v, x);                                                                 \
        return OP_NEXT;                                                                     \
    }                                                                                       \
    H(mov_oa_##bits) { STORE(bits, v->gpr[R_AX]); }                                         \
    H(xchg_r_##bits)                                                                        \
    {                                                                                       \
        uint##bits##_t x = GET_##bits(v, i, rm), y = GET_##bits(v, i, reg);                 \
        SET_##bits(v, i, rm, y);                                                            \
        SET_##bits(v, i, reg, x);                                                           \
        return OP_NEXT;                                                                     \
    }                                                                                       \
    H(xchg_m_##bits)                                                                        \
    {                                                                                       \
        MODIFY(bits, p);                                                                    \
        uint##bits##_t x = __atomic_exchange_n(p, GET_##bits(v, i, reg), __ATOMIC_SEQ_CST); \
        rmw_end(v, &m);                                                                     \
        SET_##bits(v, i, reg, x);                                                           \
        return OP_NEXT;                                                                     \
    }
SIZES(MOVE_SIZE)
const struct op op_mov_EG = OP_SIZES(mov_eg_r, mov_eg_m), op_mov_GE = OP_SIZES(mov_ge_r, mov_ge_m),
                op_mov_EI = OP_SIZES(mov_ei_r, mov_ei_m), op_mov_AO = OP_SIZES(mov_ao, mov_ao),
                op_mov_OA = OP_SIZES(mov_oa, mov_oa), op_xchg_EG = OP_SIZES(xchg_r, xchg_m);

#define EXTEND(name, bits, from, cast)                    \
    H(name##_r_##bits)                                    \
    {                                                     \
        SET_##bits(v, i, reg, cast GET_##from(v, i, rm)); \
        return OP_NEXT;                                   \
    }                                                     \
    H(name##_m_##bits)                                    \
    {                                                     \
        FETCH(from, x);                                   \
        SET_##bits(v, i, reg, cast x);                    \
        return OP_NEXT;                                   \
    }
EXTEND(movzxb, 16, 8, (uint8_t))
EXTEND(movzxb, 32, 8, (uint8_t))
EXTEND(movzxb, 64, 8, (uint8_t))
EXTEND(movzxw, 16, 16, (uint16_t))
EXTEND(movzxw, 32, 16, (uint16_t))
EXTEND(movzxw, 64, 16, (uint16_t))
EXTEND(movsxb, 16, 8, (uint16_t)(int8_t))
EXTEND(movsxb, 32, 8, (uint32_t)(int8_t))
EXTEND(movsxb, 64, 8, (uint64_t)(int8_t))
EXTEND(movsxw, 16, 16, (uint16_t)(int16_t))
EXTEND(movsxw, 32, 16, (uint32_t)(int16_t))
EXTEND(movsxw, 64, 16, (uint64_t)(int16_t))
EXTEND(movsxd, 16, 16, (uint16_t)(int16_t))
EXTEND(movsxd, 32, 32, (uint32_t)(int32_t))
EXTEND(movsxd, 64, 32, (uint64_t)(int32_t))
const struct op op_movzx_GEb = OP_WIDE(movzxb_r, movzxb_m),
                op_movzx_GEw = OP_WIDE(movzxw_r, movzxw_m),
                op_movsx_GEb = OP_WIDE(movsxb_r, movsxb_m),
                op_movsx_GEw = OP_WIDE(movsxw_r, movsxw_m),
                op_movsxd_GE = OP_WIDE(movsxd_r, movsxd_m);

H(lea_16)
{
    SET_16(v, i, reg, (uint16_t)ea_offset(v, i));
    return OP_NEXT;
}
H(lea_32)
{
    SET_32(v, i, reg, (uint32_t)ea_offset(v, i));
    return OP_NEXT;
}
H(lea_64)
{
    v->gpr[i->reg] = i->asize == 8
                         ? v->gpr[i->base] + (v->gpr[i->index] << i->scale) + (uint64_t)i->disp
                         : ea_offset(v, i);
    return OP_NEXT;
}
const struct op op_lea = OP_WIDE(lea, lea);

#define MOVBE_SIZE(bits, s)                              \
    H(movbe_gm_##bits)                                   \
    {                                                    \
        FETCH(bits, x);                                  \
        SET_##bits(v, i, reg, __builtin_bswap##bits(x)); \
        return OP_NEXT;                                  \
    }                                                    \
    H(movbe_mg_##bits) { STORE(bits, __builtin_bswap##bits(GET_##bits(v, i, reg))); }
WIDE_SIZES(MOVBE_SIZE)
const struct op op_movbe_GM = OP_WIDE(movbe_gm, movbe_gm),
                op_movbe_MG = OP_WIDE(movbe_mg, movbe_mg);

H(bswap)
{
    if (i->size == 8)
        v->gpr[i->rm] = __builtin_bswap64(v->gpr[i->rm]);
    else if (i->size == 4)
        v->gpr[i->rm] = __builtin_bswap32((uint32_t)v->gpr[i->rm]);
    else
        *(uint16_t *)&v->gpr[i->rm] = 0; /* undefined by the SDM; what processors do */
    return OP_NEXT;
}
const struct op op_bswap_Z = OP_ALL(bswap);

H(cbw)
{
    gpr_set(v, R_AX, i->size, (uint64_t)sign_extend(v->gpr[R_AX], i->size / 2u));
    return OP_NEXT;
}
H(cwd)
{
    gpr_set(v, R_DX, i->size, sign_extend(v->gpr[R_AX], i->size) < 0 ? ~0ull : 0);
    return OP_NEXT;
}
const struct op op_cbw = OP_ALL(cbw), op_cwd = OP_ALL(cwd);

/* ---- Bits ---- */

/* A bit index in a register reaches beyond the memory operand. */
static int bit_address(struct soft_vcpu *v, const struct insn *i, int64_t index, uint64_t *va)
{
    unsigned shift = i->size == 8 ? 6 : i->size == 4 ? 5 : 4;
    int64_t delta = (index >> shift) * i->size;
    uint64_t offset = (ea_offset(v, i) + (uint64_t)delta) & size_mask(i->asize);
    return segment_linear(v, i->seg, offset, i->size, true, va);
}

static void carry_set(struct soft_vcpu *v, bool on)
{
    v->cc = on ? v->cc | 0x100 : v->cc & ~0x100u;
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

static int add_one_flag(struct soft_vcpu *v, const struct insn *i, unsigned flag_bit)
{
    uint64_t x;
    int r = operand_get(v, i, &x);
    if (r)
        return r;
    unsigned __int128 sum =
        (unsigned __int128)(v->gpr[i->reg] & size_mask(i->size)) + x + (v->cc >> flag_bit & 1);
    gpr_set(v, i->reg, i->size, (uint64_t)sum & size_mask(i->size));
    v->cc = (v->cc & ~(1u << flag_bit)) | (uint32_t)(sum >> i->size * 8 & 1) << flag_bit;
    return OP_NEXT;
}
H(adcx) { return add_one_flag(v, i, 8); }
H(adox) { return add_one_flag(v, i, 0); }
const struct op op_adcx = OP_ALL(adcx), op_adox = OP_ALL(adox);

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

/* ---- Compare and exchange, exchange and add ---- */

#define EXCHANGE_SIZE(bits, s)                                                       \
    H(cmpxchg_r_##bits)                                                              \
    {                                                                                \
        uint##bits##_t acc = (uint##bits##_t)v->gpr[R_AX], d = GET_##bits(v, i, rm); \
        v->cc = cmp_do_##bits(acc, d);                                               \
        if (acc == d)                                                                \
            SET_##bits(v, i, rm, GET_##bits(v, i, reg));                             \
        else                                                                         \
            SET_A_##bits(v, d);                                                      \
        return OP_NEXT;                                                              \
    }                                                                                \
    H(cmpxchg_m_##bits)                                                              \
    {                                                                                \
        MODIFY(bits, p);                                                             \
        uint##bits##_t acc = (uint##bits##_t)v->gpr[R_AX], d = acc;                  \
        bool same = __atomic_compare_exchange_n(p, &d, GET_##bits(v, i, reg), false, \
                                                __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
        rmw_end(v, &m);                                                              \
        v->cc = cmp_do_##bits(acc, d);                                               \
        if (!same)                                                                   \
            SET_A_##bits(v, d);                                                      \
        return OP_NEXT;                                                              \
    }                                                                                \
    H(xadd_r_##bits)                                                                 \
    {                                                                                \
        uint##bits##_t d = GET_##bits(v, i, rm), old = d;                            \
        v->cc = add_do_##bits(&d, GET_##bits(v, i, reg), 0);                         \
        SET_##bits(v, i, reg, old);                                                  \
        SET_##bits(v, i, rm, d);                                                     \
        return OP_NEXT;                                                              \
    }                                                                                \
    H(xadd_m_##bits)                                                                 \
    {                                                                                \
        MODIFY(bits, p);                                                             \
        uint##bits##_t x = GET_##bits(v, i, reg);                                    \
        uint##bits##_t old = __atomic_fetch_add(p, x, __ATOMIC_SEQ_CST), d = old;    \
        rmw_end(v, &m);                                                              \
        v->cc = add_do_##bits(&d, x, 0);                                             \
        SET_##bits(v, i, reg, old);                                                  \
        return OP_NEXT;                                                              \
    }
SIZES(EXCHANGE_SIZE)
const struct op op_cmpxchg_EG = OP_SIZES(cmpxchg_r, cmpxchg_m),
                op_xadd_EG = OP_SIZES(xadd_r, xadd_m);

static void zero_flag_set(struct soft_vcpu *v, bool on)
{
    v->cc = on ? v->cc | 0x4000 : v->cc & ~0x4000u;
}

H(cmpxchg8b)
{
    uint64_t va;
    struct rmw m;
    int r = ea(v, i, 8, true, &va);
    if (!r)
        r = rmw_begin(v, va, 8, &m);
    if (r)
        return r;
    uint64_t old = v->gpr[R_DX] << 32 | (uint32_t)v->gpr[R_AX];
    uint64_t new = v->gpr[R_CX] << 32 | (uint32_t)v->gpr[R_BX];
    bool same = __atomic_compare_exchange_n((uint64_t *)m.p, &old, new, false, __ATOMIC_SEQ_CST,
                                            __ATOMIC_SEQ_CST);
    rmw_end(v, &m);
    zero_flag_set(v, same);
    if (!same) {
        v->gpr[R_AX] = (uint32_t)old;
        v->gpr[R_DX] = old >> 32;
    }
    return OP_NEXT;
}

H(cmpxchg16b)
{
    if (!(v->features >> FT_CX16 & 1))
        return raise_ud(v);
    uint64_t va;
    struct rmw m;
    int r = ea(v, i, 16, true, &va);
    if (!r && va & 15)
        r = raise_gp(v, 0);
    if (!r)
        r = rmw_begin(v, va, 16, &m);
    if (r)
        return r;
    uint64_t low = v->gpr[R_AX], high = v->gpr[R_DX];
    bool same;
    __asm__ volatile("lock cmpxchg16b %[m]"
                     : "=@ccz"(same), [m] "+m"(*(unsigned __int128 *)m.p), "+a"(low), "+d"(high)
                     : "b"(v->gpr[R_BX]), "c"(v->gpr[R_CX])
                     : "memory");
    rmw_end(v, &m);
    zero_flag_set(v, same);
    if (!same) {
        v->gpr[R_AX] = low;
        v->gpr[R_DX] = high;
    }
    return OP_NEXT;
}
const struct op op_cmpxchg8b = { { cmpxchg8b, cmpxchg8b, cmpxchg8b, cmpxchg16b },
                                 { cmpxchg8b, cmpxchg8b, cmpxchg8b, cmpxchg16b } };

/* ---- Conditions ---- */

#define COND_o(cc) ((cc)&1)
#define COND_b(cc) ((cc) >> 8 & 1)
#define COND_z(cc) ((cc) >> 14 & 1)
#define COND_be(cc) (((cc)&0x4100) != 0)
#define COND_s(cc) ((cc) >> 15 & 1)
#define COND_p(cc) ((cc) >> 10 & 1)
#define COND_l(cc) (((cc) >> 15 ^ (cc)) & 1)
#define COND_le(cc) (COND_z(cc) | COND_l(cc))

/* Outside 64-bit mode the operand size cuts the target. */
static inline uint64_t branch_target(const struct soft_vcpu *v, const struct insn *i)
{
    uint64_t target = v->gpr[REG_RIP] + (uint64_t)i->imm;
    return likely(v->mode == MODE_64) ? target : target & size_mask(i->size == 2 ? 2 : 4);
}

/* The branch faults, not what it leads to. */
static inline bool beyond_limit(const struct soft_vcpu *v, uint64_t target)
{
    return v->mode != MODE_64 && unlikely(target > v->seg[S_CS].limit);
}

static inline int branch(struct soft_vcpu *v, const struct insn *i, bool taken)
{
    if (!taken)
        return OP_NEXT;
    uint64_t target = branch_target(v, i);
    if (beyond_limit(v, target))
        return raise_gp(v, 0);
    v->rip = target;
    return OP_JUMP;
}

#define CMOV_SIZE(cc, test, bits)                                  \
    H(cmov##cc##_r_##bits)                                         \
    {                                                              \
        uint##bits##_t x = GET_##bits(v, i, rm);                   \
        SET_##bits(v, i, reg, (test) ? x : GET_##bits(v, i, reg)); \
        return OP_NEXT;                                            \
    }                                                              \
    H(cmov##cc##_m_##bits)                                         \
    {                                                              \
        FETCH(bits, x);                                            \
        SET_##bits(v, i, reg, (test) ? x : GET_##bits(v, i, reg)); \
        return OP_NEXT;                                            \
    }
#define CONDITION(cc, test)                                       \
    H(jump_##cc) { return branch(v, i, test); }                   \
    H(set##cc##_r)                                                \
    {                                                             \
        SET_8(v, i, rm, (uint8_t)(test));                         \
        return OP_NEXT;                                           \
    }                                                             \
    H(set##cc##_m) { STORE(8, test); }                            \
    CMOV_SIZE(cc, test, 16)                                       \
    CMOV_SIZE(cc, test, 32)                                       \
    CMOV_SIZE(cc, test, 64)                                       \
    const struct op op_j##cc = OP_ALL(jump_##cc);                 \
    const struct op op_set##cc = OP_RM(set##cc##_r, set##cc##_m); \
    const struct op op_cmov##cc##_GE = OP_WIDE(cmov##cc##_r, cmov##cc##_m);
CONDITION(o, COND_o(v->cc))
CONDITION(no, !COND_o(v->cc))
CONDITION(b, COND_b(v->cc))
CONDITION(nb, !COND_b(v->cc))
CONDITION(z, COND_z(v->cc))
CONDITION(nz, !COND_z(v->cc))
CONDITION(be, COND_be(v->cc))
CONDITION(nbe, !COND_be(v->cc))
CONDITION(s, COND_s(v->cc))
CONDITION(ns, !COND_s(v->cc))
CONDITION(p, COND_p(v->cc))
CONDITION(np, !COND_p(v->cc))
CONDITION(l, COND_l(v->cc))
CONDITION(nl, !COND_l(v->cc))
CONDITION(le, COND_le(v->cc))
CONDITION(nle, !COND_le(v->cc))

/* ---- Branches, calls, stack ---- */

static inline int push_any(struct soft_vcpu *v, unsigned size, uint64_t value)
{
    if (likely(v->mode == MODE_64 && size == 8)) {
        int r = store64(v, v->gpr[R_SP] - 8, value);
        if (unlikely(r))
            return v->exc.vector == EXC_GP ? raise_error(v, EXC_SS, 0) : r;
        v->gpr[R_SP] -= 8;
        return 0;
    }
    return push(v, size, value);
}

static inline int pop_any(struct soft_vcpu *v, unsigned size, uint64_t *value)
{
    if (likely(v->mode == MODE_64 && size == 8)) {
        int r = load64(v, v->gpr[R_SP], value);
        if (unlikely(r))
            return v->exc.vector == EXC_GP ? raise_error(v, EXC_SS, 0) : r;
        v->gpr[R_SP] += 8;
        return 0;
    }
    return pop(v, size, value);
}

static int indirect_target(struct soft_vcpu *v, const struct insn *i, uint64_t *target)
{
    int r = operand_get(v, i, target);
    if (!r && unlikely(v->mode == MODE_64 ? !is_canonical(*target) : beyond_limit(v, *target)))
        return raise_gp(v, 0);
    return r;
}

H(jmp_j) { return branch(v, i, true); }
H(call_j)
{
    if (beyond_limit(v, branch_target(v, i)))
        return raise_gp(v, 0);
    int r = push_any(v, i->size, next_rip(v, i));
    return r ? r : branch(v, i, true);
}
H(jmp_e)
{
    uint64_t target;
    int r = indirect_target(v, i, &target);
    if (r)
        return r;
    v->rip = target;
    return OP_JUMP;
}
H(call_e)
{
    uint64_t target;
    int r = indirect_target(v, i, &target);
    if (!r)
        r = push_any(v, i->size, next_rip(v, i));
    if (r)
        return r;
    v->rip = target;
    return OP_JUMP;
}

static int ret_near(struct soft_vcpu *v, const struct insn *i, uint64_t release)
{
    uint64_t target, sp = v->gpr[R_SP];
    int r = pop_any(v, i->size, &target);
    if (!r && unlikely(v->mode == MODE_64 ? !is_canonical(target) : beyond_limit(v, target)))
        r = raise_gp(v, 0);
    if (r) {
        v->gpr[R_SP] = sp;
        return r;
    }
    if (release) {
        uint64_t mask = size_mask(v->stack_size);
        v->gpr[R_SP] = (v->gpr[R_SP] & ~mask) | ((v->gpr[R_SP] + release) & mask);
    }
    v->rip = target;
    return OP_JUMP;
}
H(ret) { return ret_near(v, i, 0); }
H(ret_i) { return ret_near(v, i, (uint16_t)i->imm); }

static uint64_t count_get(const struct soft_vcpu *v, const struct insn *i)
{
    return v->gpr[R_CX] & size_mask(i->asize);
}
static int loop_if(struct soft_vcpu *v, const struct insn *i, bool condition)
{
    uint64_t count = (v->gpr[R_CX] - 1) & size_mask(i->asize);
    int r = branch(v, i, count && condition);
    if (r != OP_FAULT)
        gpr_set(v, R_CX, i->asize, count);
    return r;
}
H(jrcxz) { return branch(v, i, !count_get(v, i)); }
H(loop) { return loop_if(v, i, true); }
H(loope) { return loop_if(v, i, COND_z(v->cc)); }
H(loopne) { return loop_if(v, i, !COND_z(v->cc)); }
const struct op op_jmp_J = OP_ALL(jmp_j), op_call_J = OP_ALL(call_j), op_jmp_E = OP_ALL(jmp_e),
                op_call_E = OP_ALL(call_e), op_ret = OP_ALL(ret), op_ret_I = OP_ALL(ret_i),
                op_jrcxz = OP_ALL(jrcxz), op_loop = OP_ALL(loop), op_loope = OP_ALL(loope),
                op_loopne = OP_ALL(loopne);

H(push_r) { return push_any(v, i->size, v->gpr[i->rm]); }
H(push_m)
{
    uint64_t x;
    int r = operand_get(v, i, &x);
    return r ? r : push_any(v, i->size, x);
}
H(push_i) { return push_any(v, i->size, (uint64_t)i->imm); }
H(pop_r)
{
    uint64_t x;
    int r = pop_any(v, i->size, &x);
    if (!r)
        gpr_set(v, i->rm, i->size, x);
    return r;
}
H(pop_m) /* the address is computed with RSP already moved */
{
    uint64_t x, va, sp = v->gpr[R_SP];
    int r = pop_any(v, i->size, &x);
    if (!r)
        r = ea(v, i, i->size, true, &va);
    if (!r)
        r = gva_store(v, va, &x, i->size);
    if (r)
        v->gpr[R_SP] = sp;
    return r;
}
const struct op op_push_E = OP_RM(push_r, push_m), op_push_I = OP_ALL(push_i),
                op_pop_E = OP_RM(pop_r, pop_m);

H(pusha)
{
    uint64_t sp = v->gpr[R_SP];
    for (unsigned n = 0; n < 8; n++) {
        int r = push(v, i->size, n == R_SP ? sp : v->gpr[n]);
        if (r) {
            v->gpr[R_SP] = sp;
            return r;
        }
    }
    return OP_NEXT;
}
H(popa)
{
    uint64_t sp = v->gpr[R_SP], x[8];
    for (unsigned n = 8; n-- > 0;) {
        int r = pop(v, i->size, &x[n]);
        if (r) {
            v->gpr[R_SP] = sp;
            return r;
        }
    }
    for (unsigned n = 0; n < 8; n++)
        if (n != R_SP)
            gpr_set(v, n, i->size, x[n]);
    return OP_NEXT;
}

H(enter)
{
    uint64_t sp = v->gpr[R_SP], mask = size_mask(v->stack_size), bp = v->gpr[R_BP] & mask;
    unsigned level = i->sel & 31;
    int r = push(v, i->size, v->gpr[R_BP]);
    uint64_t frame = v->gpr[R_SP];
    for (unsigned n = 1; !r && n < level; n++) {
        uint64_t va, x = 0;
        bp = (bp - i->size) & mask;
        r = segment_linear(v, S_SS, bp, i->size, false, &va);
        if (!r)
            r = gva_load(v, va, &x, i->size);
        if (!r)
            r = push(v, i->size, x);
    }
    if (!r && level)
        r = push(v, i->size, frame);
    if (!r) { /* the frame's last byte must be writable */
        uint64_t va, end = (v->gpr[R_SP] - (uint16_t)i->imm) & mask;
        r = segment_linear(v, S_SS, end, 1, true, &va);
        struct rmw m;
        if (!r)
            r = rmw_begin(v, va, 1, &m);
        if (!r)
            v->gpr[R_SP] = (v->gpr[R_SP] & ~mask) | end;
    }
    if (r) {
        v->gpr[R_SP] = sp;
        if (v->exc.noncanonical)
            v->exc.vector = EXC_SS;
        return r;
    }
    gpr_set(v, R_BP, i->size, frame);
    return OP_NEXT;
}
H(leave)
{
    uint64_t sp = v->gpr[R_SP], mask = size_mask(v->stack_size), x;
    v->gpr[R_SP] = (v->gpr[R_SP] & ~mask) | (v->gpr[R_BP] & mask);
    int r = pop_any(v, i->size, &x);
    if (r) {
        v->gpr[R_SP] = sp;
        return r;
    }
    gpr_set(v, R_BP, i->size, x);
    return OP_NEXT;
}
const struct op op_pusha = OP_ALL(pusha), op_popa = OP_ALL(popa), op_enter = OP_ALL(enter),
                op_leave = OP_ALL(leave);

/* ---- Flags ---- */

H(lahf)
{
    ((uint8_t *)&v->gpr[R_AX])[1] = (uint8_t)(cc_to_flags(v->cc) & 0xd5) | 2;
    return OP_NEXT;
}
H(sahf)
{
    uint8_t ah = ((uint8_t *)&v->gpr[R_AX])[1];
    status_set(v, (ah & 0xd5u) | (cc_to_flags(v->cc) & OF));
    return OP_NEXT;
}
H(clc)
{
    (void)i;
    carry_set(v, false);
    return OP_NEXT;
}
H(stc)
{
    (void)i;
    carry_set(v, true);
    return OP_NEXT;
}
H(cmc)
{
    (void)i;
    v->cc ^= 0x100;
    return OP_NEXT;
}
H(cld)
{
    (void)i;
    v->flags &= ~(uint32_t)FL_DF;
    return OP_NEXT;
}
H(std)
{
    (void)i;
    v->flags |= FL_DF;
    return OP_NEXT;
}
const struct op op_lahf = OP_ALL(lahf), op_sahf = OP_ALL(sahf), op_clc = OP_ALL(clc),
                op_stc = OP_ALL(stc), op_cmc = OP_ALL(cmc), op_cld = OP_ALL(cld),
                op_std = OP_ALL(std);

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
