/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Arithmetic and logic, compare and exchange, and the flags' own instructions.
 *
 * They run on the host's own instructions, followed by LAHF and SETO, so results and flags (the
 * undefined ones, too) are the host's. Instructions that keep some flags get them set first: ADD
 * $127 turns AL = 0 or 1 into OF, SAHF does the rest.
 */
#include "engine/soft/int.h"

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

/* ---- One flag carries ---- */

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
