/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Moves: registers and memory, extension, LEA, byte order. What a handler that does not care for
 * sizes reads its operand by.
 */
#include "engine/soft/int.h"

int operand_get(struct soft_vcpu *v, const struct insn *i, uint64_t *out)
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
    v->gpr[i->reg] = i->flags & IF_SLOWEA ? ea_offset(v, i) : ea_plain(v, i);
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
