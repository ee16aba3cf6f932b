/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Host instructions as bytes: the only place that writes machine code.
 *
 * An operand is a host register, [rax] or [r14] (where the address has passed its check), a field
 * of the vCPU at gs:, or an address for LEA. There is no way to write any other form, and opcodes
 * come from the caller's own constants, never from guest bytes.
 */
#ifndef ENGINE_SOFT_EMIT_H
#define ENGINE_SOFT_EMIT_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum host_reg {
    H_AX,
    H_CX,
    H_DX,
    H_BX,
    H_SP,
    H_BP,
    H_SI,
    H_DI,
    H_8,
    H_9,
    H_10,
    H_11,
    H_12,
    H_13,
    H_14,
    H_15,
    H_NONE
};

struct emit {
    uint8_t *p, *end; /* where the next byte goes in the writable view; end of the room */
    int64_t to_exec;  /* executable address - writable address */
};

static inline void e8(struct emit *e, unsigned byte)
{
    assert(e->p < e->end);
    *e->p++ = (uint8_t)byte;
}
static inline void e32(struct emit *e, uint32_t value)
{
    assert(e->p + 4 <= e->end);
    memcpy(e->p, &value, 4);
    e->p += 4;
}
static inline void e64(struct emit *e, uint64_t value)
{
    assert(e->p + 8 <= e->end);
    memcpy(e->p, &value, 8);
    e->p += 8;
}
static inline uint8_t *emit_exec(const struct emit *e) { return e->p + e->to_exec; }

/* ---- Operands ---- */

enum where { W_REG, W_AT, W_GS, W_ADDRESS };
struct place_of {
    enum where where;
    uint8_t reg;                /* W_REG: the register; W_AT: the base (a checked address) */
    int32_t disp;               /* W_GS: offset in the vCPU; W_AT: small offset; W_ADDRESS */
    uint8_t base, index, scale; /* W_ADDRESS, for LEA */
};
static inline struct place_of in_reg(unsigned reg)
{
    return (struct place_of){ .where = W_REG, .reg = (uint8_t)reg };
}
static inline struct place_of at(unsigned base)
{
    return (struct place_of){ .where = W_AT, .reg = (uint8_t)base };
}
static inline struct place_of at_offset(unsigned base, int32_t disp)
{
    return (struct place_of){ .where = W_AT, .reg = (uint8_t)base, .disp = disp };
}
static inline struct place_of in_vcpu(size_t offset)
{
    return (struct place_of){ .where = W_GS, .disp = (int32_t)offset };
}

/* ---- Instructions ---- */

/* Opcodes: map in bits 16-17 (0 one byte, 1 0F, 2 0F38, 3 0F3A), mandatory prefix in bits 8-15,
 * opcode in bits 0-7. */
enum { OF0 = 1 << 16, OF38 = 2 << 16, OF3A = 3 << 16 };
#define OPC(map, prefix, opcode) ((map) | (prefix) << 8 | (opcode))

static inline void emit_modrm(struct emit *e, unsigned reg, struct place_of o)
{
    unsigned field = (reg & 7) << 3;
    unsigned base, index = H_NONE, scale = 0;
    switch (o.where) {
    case W_REG: e8(e, 0xc0 | field | (o.reg & 7)); return;
    case W_GS:
        e8(e, field | 4);
        e8(e, 0x25);
        e32(e, (uint32_t)o.disp);
        return;
    case W_AT: base = o.reg; break;
    default: base = o.base, index = o.index, scale = o.scale;
    }
    if (base == H_NONE) { /* [index * scale + disp32] or [disp32] */
        e8(e, field | 4);
        e8(e, scale << 6 | (index == H_NONE ? 4 : index & 7) << 3 | 5);
        e32(e, (uint32_t)o.disp);
        return;
    }
    bool sib = index != H_NONE || (base & 7) == 4;
    bool none = o.disp == 0 && (base & 7) != 5;
    bool byte = o.disp == (int8_t)o.disp;
    e8(e, (none ? 0u : byte ? 0x40u : 0x80u) | field | (sib ? 4 : base & 7));
    if (sib)
        e8(e, scale << 6 | (index == H_NONE ? 4 : index & 7) << 3 | (base & 7));
    if (none)
        return;
    if (byte)
        e8(e, (uint8_t)o.disp);
    else
        e32(e, (uint32_t)o.disp);
}

enum { E_LOCK = 1 };

/* size 1, 2, 4, 8: operand size (8 sets REX.W, 2 the 66 prefix). `reg`: register or opcode
 * extension. byte_regs: which of the operands are byte registers (bit 0 reg, bit 1 rm), so that
 * SPL..DIL are meant and not AH..BH. */
static inline void emit_op(struct emit *e, unsigned flags, unsigned size, unsigned opc,
                           unsigned reg, struct place_of o, unsigned byte_regs)
{
    assert(e->end - e->p >= 24);
    if (o.where == W_GS)
        e8(e, 0x65);
    if (flags & E_LOCK)
        e8(e, 0xf0);
    if (size == 2)
        e8(e, 0x66);
    if (opc >> 8 & 0xff)
        e8(e, opc >> 8 & 0xff);
    unsigned rex = (size == 8 ? 8 : 0) | (reg & 8) >> 1;
    bool force = (byte_regs & 1 && reg >= 4);
    if (o.where == W_REG) {
        rex |= o.reg >> 3;
        force |= byte_regs & 2 && o.reg >= 4;
    } else if (o.where == W_AT) {
        rex |= o.reg >> 3;
    } else if (o.where == W_ADDRESS) {
        rex |= o.base != H_NONE && o.base & 8 ? 1 : 0;
        rex |= o.index != H_NONE && o.index & 8 ? 2 : 0;
    }
    if (rex || force)
        e8(e, 0x40 | rex);
    switch (opc >> 16) {
    case 0: break;
    case 1: e8(e, 0x0f); break;
    case 2: e8(e, 0x0f), e8(e, 0x38); break;
    default: e8(e, 0x0f), e8(e, 0x3a);
    }
    e8(e, opc & 0xff);
    emit_modrm(e, reg, o);
}

enum { VEX_L = 1, VEX_NO_MODRM = 16 };

/* The same with a VEX prefix of three bytes. vvvv: the register, 0 where there is none. size 8 sets
 * VEX.W. */
static inline void emit_vex(struct emit *e, unsigned size, unsigned l, unsigned opc, unsigned reg,
                            unsigned vvvv, struct place_of o)
{
    assert(e->end - e->p >= 24);
    unsigned prefix = opc >> 8 & 0xff;
    unsigned pp = prefix == 0x66 ? 1 : prefix == 0xf3 ? 2 : prefix == 0xf2 ? 3 : 0;
    bool b = (o.where == W_REG || o.where == W_AT) && o.reg & 8;
    if (o.where == W_GS)
        e8(e, 0x65);
    e8(e, 0xc4);
    e8(e, (reg & 8 && reg != VEX_NO_MODRM ? 0 : 0x80u) | 0x40 | (b ? 0 : 0x20u) | opc >> 16);
    e8(e, (size == 8 ? 0x80u : 0) | (~vvvv & 15) << 3 | (l & 1) << 2 | pp);
    e8(e, opc & 0xff);
    if (reg != VEX_NO_MODRM)
        emit_modrm(e, reg, o);
}

/* mov host register <- operand and back, 8 bytes unless said */
static inline void emit_load(struct emit *e, unsigned reg, struct place_of o)
{
    emit_op(e, 0, 8, 0x8b, reg, o, 0);
}
static inline void emit_store(struct emit *e, struct place_of o, unsigned reg)
{
    emit_op(e, 0, 8, 0x89, reg, o, 0);
}
static inline void emit_load32(struct emit *e, unsigned reg, struct place_of o)
{
    emit_op(e, 0, 4, 0x8b, reg, o, 0);
}
static inline void emit_store32(struct emit *e, struct place_of o, unsigned reg)
{
    emit_op(e, 0, 4, 0x89, reg, o, 0);
}
static inline void emit_lea(struct emit *e, unsigned size, unsigned reg, unsigned base,
                            unsigned index, unsigned scale, int32_t disp)
{
    if (size >= 4 && base != H_NONE && index == H_NONE && !disp) { /* nobody waits for a move */
        emit_op(e, 0, size, 0x8b, reg, in_reg(base), 0);
        return;
    }
    emit_op(e, 0, size, 0x8d, reg,
            (struct place_of){ .where = W_ADDRESS,
                               .disp = disp,
                               .base = (uint8_t)base,
                               .index = (uint8_t)index,
                               .scale = (uint8_t)scale },
            0);
}
static inline void emit_imm64(struct emit *e, unsigned reg, uint64_t value)
{
    e8(e, 0x48 | reg >> 3);
    e8(e, 0xb8 | (reg & 7));
    e64(e, value);
}
static inline void emit_imm32(struct emit *e, unsigned reg, uint32_t value)
{
    if (reg >= 8)
        e8(e, 0x41);
    e8(e, 0xb8 | (reg & 7));
    e32(e, value);
}
/* Group 1 with an immediate: op 0..7 = add or adc sbb and sub xor cmp */
static inline void emit_alu_imm(struct emit *e, unsigned flags, unsigned size, unsigned op,
                                struct place_of o, int32_t imm, unsigned byte_regs)
{
    if (size == 1) {
        emit_op(e, flags, 1, 0x80, op, o, byte_regs);
        e8(e, (uint8_t)imm);
    } else if (imm == (int8_t)imm) {
        emit_op(e, flags, size, 0x83, op, o, 0);
        e8(e, (uint8_t)imm);
    } else {
        emit_op(e, flags, size, 0x81, op, o, 0);
        if (size == 2)
            e8(e, (uint8_t)imm), e8(e, (uint8_t)(imm >> 8));
        else
            e32(e, (uint32_t)imm);
    }
}

/* ---- Jumps. Targets are executable addresses. ---- */

static inline void emit_rel32(struct emit *e, const uint8_t *target)
{
    int64_t rel = target - (emit_exec(e) + 4);
    assert(rel == (int32_t)rel);
    e32(e, (uint32_t)rel);
}
static inline void emit_jmp(struct emit *e, const uint8_t *target)
{
    e8(e, 0xe9), emit_rel32(e, target);
}
static inline void emit_call(struct emit *e, const uint8_t *target)
{
    e8(e, 0xe8), emit_rel32(e, target);
}
static inline void emit_jcc(struct emit *e, unsigned cc, const uint8_t *target)
{
    e8(e, 0x0f);
    e8(e, 0x80 | cc);
    emit_rel32(e, target);
}
/* A forward jump whose target comes later: returns the place of its displacement (writable view).
 */
static inline uint8_t *emit_jcc_forward(struct emit *e, unsigned cc)
{
    e8(e, 0x0f);
    e8(e, 0x80 | cc);
    e32(e, 0);
    return e->p - 4;
}
static inline void emit_land(struct emit *e, uint8_t *site)
{
    int32_t rel = (int32_t)(e->p - (site + 4));
    memcpy(site, &rel, 4);
}
enum {
    CC_O,
    CC_NO,
    CC_B,
    CC_AE,
    CC_E,
    CC_NE,
    CC_BE,
    CC_A,
    CC_S,
    CC_NS,
    CC_P,
    CC_NP,
    CC_L,
    CC_GE,
    CC_LE,
    CC_G
};

#endif
