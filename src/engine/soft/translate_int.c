/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * General registers: what each instruction looks like, in one table, and the few that fit no table.
 *
 * The ModRM.rm operand is used where it is (checked memory, a host register, or rax loaded from the
 * vCPU), the ModRM.reg one likewise with r14; so a form has no memory and register variants.
 */
#include "engine/soft/run.h"
#include "engine/soft/translate.h"

/* ---- Operands ---- */

static bool high_byte(unsigned offset) { return offset & 7; }
static unsigned rm_register(const struct insn *i, unsigned size)
{
    return size == 1 ? i->rm_off / 8u : i->rm;
}
static unsigned reg_register(const struct insn *i)
{
    return i->size == 1 ? i->reg_off / 8u : i->reg;
}

/* Only whole registers are written without being read. */
static unsigned reg_for(struct tr *t, unsigned n, unsigned size, enum use use, unsigned scratch)
{
    return use == USE_WRITE && size >= 4 ? reg_new(t, n, scratch) : reg_get(t, n, scratch);
}

/* AH to BH, which only an encoding without REX can name: the host's own, or AH of rax. */
static bool high_operand(const struct insn *i, const struct form *f)
{
    return !is_mem(i) && i->size == 1 && high_byte(i->rm_off) && !f->reg;
}
static struct place_of high_get(struct tr *t, const struct insn *i)
{
    unsigned n = i->rm_off / 8u;
    if (n == R_AX) {
        held_drop(t);
        emit_load(&t->e, H_AX, in_reg(host_of[R_AX]));
    }
    return in_reg(4 + n);
}
static void high_put(struct tr *t, const struct insn *i)
{
    if (i->rm_off / 8 == R_AX)
        emit_store(&t->e, in_reg(host_of[R_AX]), H_AX);
}

/* The ModRM.rm operand of `size` bytes, ready to be named; a register by way of rax. False for AH
 * to BH and addresses that are left to the handler. */
static bool rm_operand(struct tr *t, const struct insn *i, unsigned size, enum use use,
                       struct place_of *o)
{
    if (is_mem(i)) {
        if (!mem_operand(t, i, size, use >= USE_WRITE))
            return false;
        *o = t->mem;
        return true;
    }
    if (size == 1 && high_byte(i->rm_off))
        return false;
    *o = in_reg(reg_for(t, rm_register(i, size), size, use, H_AX));
    return true;
}

bool rm_load(struct tr *t, const struct insn *i)
{
    struct place_of o;
    if (!rm_operand(t, i, i->size, USE_READ, &o))
        return false;
    emit_op(&t->e, 0, i->size, 0x8b, H_14, o, 0);
    t->held[1] = REG_NONE;
    return true;
}

/* ---- The table of forms ---- */

/* clang-format off */
#define ALU(X, name, n, rm, flags, producer)                                  \
    X(op_##name##_EG, SIZED | (n) * 8, rm, USE_READ, 0, IMM_NONE, flags, producer)        \
    X(op_##name##_GE, SIZED | ((n) * 8 + 2), USE_READ, rm, 0, IMM_NONE, flags, producer)  \
    X(op_##name##_EI, SIZED | 0x80, rm, USE_NONE, n, IMM_ALU, flags, producer)
#define ROTATE(X, name, n)                                                    \
    X(op_##name##_EI, SIZED | 0xc0, USE_CHANGE, USE_NONE, n, IMM_COUNT, FLAGS_SOME, 0)    \
    X(op_##name##_E1, SIZED | 0xd0, USE_CHANGE, USE_NONE, n, IMM_NONE, FLAGS_SOME, 0)     \
    X(op_##name##_EC, SIZED | 0xd2, USE_CHANGE, USE_NONE, n, IMM_NONE, FLAGS_SOME, 0)
/* A count of zero keeps the flags; one in CL is known when it runs. */
#define SHIFT(X, name, n)                                                     \
    X(op_##name##_EI, SIZED | 0xc0, USE_CHANGE, USE_NONE, n, IMM_COUNT, FLAGS_NEW, 0)     \
    X(op_##name##_E1, SIZED | 0xd0, USE_CHANGE, USE_NONE, n, IMM_NONE, FLAGS_NEW, 0)      \
    X(op_##name##_EC, SIZED | 0xd2, USE_CHANGE, USE_NONE, n, IMM_NONE, FLAGS_SOME, 0)
/* They define CF and keep ZF. */
#define BIT(X, name, n, rm)                                                   \
    X(op_##name##_EI, OPC(OF0, 0, 0xba), rm, USE_NONE, n, IMM_8, FLAGS_SOME, 0)           \
    X(op_##name##_EG, OPC(OF0, 0, 0x83 | (n) << 3), rm, USE_READ, 0, IMM_NONE, FLAGS_SOME, 0)
#define SETCC(X, cc, n)                                                       \
    X(op_set##cc, OPC(OF0, 0, 0x90 | (n)), USE_CHANGE, USE_NONE, 0, IMM_NONE, FLAGS_READ, 0)

/* handlers, opcode, use of rm and reg, ModRM.reg where it names no register, immediate, flags, and
 * how the flags can be made again */
#define FORMS(X)                                                                                   \
    ALU(X, add, 0, USE_CHANGE, FLAGS_NEW, PRODUCER_ADD)                                            \
    ALU(X, or, 1, USE_CHANGE, FLAGS_NEW, PRODUCER_LOGIC)                                           \
    ALU(X, adc, 2, USE_CHANGE, FLAGS_CARRY, 0)                                                     \
    ALU(X, sbb, 3, USE_CHANGE, FLAGS_CARRY, 0)                                                     \
    ALU(X, and, 4, USE_CHANGE, FLAGS_NEW, PRODUCER_LOGIC)                                          \
    ALU(X, sub, 5, USE_CHANGE, FLAGS_NEW, PRODUCER_SUB)                                            \
    ALU(X, xor, 6, USE_CHANGE, FLAGS_NEW, PRODUCER_LOGIC)                                          \
    ALU(X, cmp, 7, USE_READ, FLAGS_NEW, PRODUCER_CMP)                                              \
    X(op_test_EG, SIZED | 0x84, USE_READ, USE_READ, 0, IMM_NONE, FLAGS_NEW, PRODUCER_TEST)         \
    X(op_test_EI, SIZED | 0xf6, USE_READ, USE_NONE, 0, IMM_WORD, FLAGS_NEW, PRODUCER_TEST)         \
    X(op_mov_EG, SIZED | 0x88, USE_WRITE, USE_READ, 0, IMM_NONE, FLAGS_KEPT, 0)                    \
    X(op_mov_GE, SIZED | 0x8a, USE_READ, USE_WRITE, 0, IMM_NONE, FLAGS_KEPT, 0)                    \
    X(op_mov_EI, SIZED | 0xc6, USE_WRITE, USE_NONE, 0, IMM_WORD, FLAGS_KEPT, 0)                    \
    X(op_movzx_GEb, FROM(1) | OPC(OF0, 0, 0xb6), USE_READ, USE_WRITE, 0, IMM_NONE, FLAGS_KEPT, 0)  \
    X(op_movsx_GEb, FROM(1) | OPC(OF0, 0, 0xbe), USE_READ, USE_WRITE, 0, IMM_NONE, FLAGS_KEPT, 0)  \
    X(op_movzx_GEw, FROM(2) | OPC(OF0, 0, 0xb7), USE_READ, USE_WRITE, 0, IMM_NONE, FLAGS_KEPT, 0)  \
    X(op_movsx_GEw, FROM(2) | OPC(OF0, 0, 0xbf), USE_READ, USE_WRITE, 0, IMM_NONE, FLAGS_KEPT, 0)  \
    X(op_movsxd_GE, FROM(4) | 0x63, USE_READ, USE_WRITE, 0, IMM_NONE, FLAGS_KEPT, 0)               \
    X(op_xchg_EG, SIZED | 0x86, USE_CHANGE, USE_CHANGE, 0, IMM_NONE, FLAGS_KEPT, 0)                \
    X(op_xadd_EG, SIZED | OPC(OF0, 0, 0xc0), USE_CHANGE, USE_CHANGE, 0, IMM_NONE, FLAGS_NEW, 0)    \
    X(op_inc_E, SIZED | 0xfe, USE_CHANGE, USE_NONE, 0, IMM_NONE, FLAGS_CARRY, 0)                   \
    X(op_dec_E, SIZED | 0xfe, USE_CHANGE, USE_NONE, 1, IMM_NONE, FLAGS_CARRY, 0)                   \
    X(op_not_E, SIZED | 0xf6, USE_CHANGE, USE_NONE, 2, IMM_NONE, FLAGS_KEPT, 0)                    \
    X(op_neg_E, SIZED | 0xf6, USE_CHANGE, USE_NONE, 3, IMM_NONE, FLAGS_NEW, 0)                     \
    ROTATE(X, rol, 0) ROTATE(X, ror, 1) SHIFT(X, shl, 4) SHIFT(X, shr, 5) SHIFT(X, sar, 7)         \
    X(op_rcl_E1, SIZED | 0xd0, USE_CHANGE, USE_NONE, 2, IMM_NONE, FLAGS_ALL, 0)                    \
    X(op_rcr_E1, SIZED | 0xd0, USE_CHANGE, USE_NONE, 3, IMM_NONE, FLAGS_ALL, 0)                    \
    X(op_shld_EGI, OPC(OF0, 0, 0xa4), USE_CHANGE, USE_READ, 0, IMM_COUNT, FLAGS_NEW, 0)            \
    X(op_shrd_EGI, OPC(OF0, 0, 0xac), USE_CHANGE, USE_READ, 0, IMM_COUNT, FLAGS_NEW, 0)            \
    X(op_imul_GE, OPC(OF0, 0, 0xaf), USE_READ, USE_CHANGE, 0, IMM_NONE, FLAGS_NEW, 0)              \
    X(op_imul_GEI, 0x69, USE_READ, USE_WRITE, 0, IMM_WORD, FLAGS_NEW, 0)                           \
    BIT(X, bt, 4, USE_READ) BIT(X, bts, 5, USE_CHANGE)                                             \
    BIT(X, btr, 6, USE_CHANGE) BIT(X, btc, 7, USE_CHANGE)                                          \
    X(op_bsf_GE, OPC(OF0, 0, 0xbc), USE_READ, USE_CHANGE, 0, IMM_NONE, FLAGS_NEW, 0)               \
    X(op_bsr_GE, OPC(OF0, 0, 0xbd), USE_READ, USE_CHANGE, 0, IMM_NONE, FLAGS_NEW, 0)               \
    X(op_tzcnt_GE, OPC(OF0, 0xf3, 0xbc), USE_READ, USE_CHANGE, 0, IMM_NONE, FLAGS_NEW, 0)          \
    X(op_lzcnt_GE, OPC(OF0, 0xf3, 0xbd), USE_READ, USE_CHANGE, 0, IMM_NONE, FLAGS_NEW, 0)          \
    X(op_popcnt_GE, OPC(OF0, 0xf3, 0xb8), USE_READ, USE_CHANGE, 0, IMM_NONE, FLAGS_NEW, 0)         \
    SETCC(X, o, 0) SETCC(X, no, 1) SETCC(X, b, 2) SETCC(X, nb, 3) SETCC(X, z, 4) SETCC(X, nz, 5)   \
    SETCC(X, be, 6) SETCC(X, nbe, 7) SETCC(X, s, 8) SETCC(X, ns, 9) SETCC(X, p, 10)                \
    SETCC(X, np, 11) SETCC(X, l, 12) SETCC(X, nl, 13) SETCC(X, le, 14) SETCC(X, nle, 15)
/* clang-format on */

#define X(name, ...) extern const struct op name;
FORMS(X)
#undef X

const struct form forms[] = {
#define X(name, ...) { &name, __VA_ARGS__ },
    FORMS(X)
#undef X
};
const unsigned form_count = ARRAY_LEN(forms);

unsigned form_regs_written(const struct form *f, const struct insn *i)
{
    return (f->reg >= USE_WRITE ? 1u << reg_register(i) : 0) |
           (f->rm >= USE_WRITE && !is_mem(i) ? 1u << rm_register(i, i->size) : 0);
}

/* ---- Writing a form ---- */

/* What the table cannot say of this instruction. */
static bool form_fits(const struct form *f, const struct insn *i)
{
    if (f->reg && i->size == 1 && high_byte(i->reg_off))
        return false;
    /* Both are written, and rax and r14 would be two copies of one register; the shape in memory
     * is what matters anyway. */
    if (f->reg >= USE_WRITE && f->rm >= USE_WRITE && !is_mem(i) &&
        reg_register(i) == rm_register(i, i->size))
        return false;
    /* The register says which bits in memory. */
    if (f->imm == IMM_NONE && f->reg && f->flags == FLAGS_SOME && is_mem(i))
        return false;
    if (f->imm == IMM_COUNT) /* double shifts of 16 bits by more are undefined */
        return shift_count(i) && (f->opcode & SIZED || i->size >= 4);
    return is_small(i->imm);
}

static bool wants_flags(const struct tr *t, const struct form *f)
{
    return f->flags == FLAGS_READ || f->flags == FLAGS_ALL ||
           (f->flags == FLAGS_SOME && !flags_dead_behind(t));
}

/* Before the operands are looked for, as it may take rax and r14. */
static void flags_before(struct tr *t, const struct form *f, const struct insn *i)
{
    if (wants_flags(t, f) && is_mem(i))
        flags_commit(t); /* bringing them back needs nothing but rax then */
    else if (wants_flags(t, f))
        flags_fetch(t);
    if (f->flags != FLAGS_CARRY)
        return;
    if (is_mem(i) && t->producer.kind) /* no register is left to make them again later */
        flags_commit(t);
    else if (t->flags == IN_PRODUCER)
        flags_fetch(t);
}

static void form_imm(struct tr *t, const struct form *f, const struct insn *i)
{
    if (f->imm == IMM_COUNT)
        e8(&t->e, shift_count(i));
    else if (f->imm == IMM_8 || (f->imm == IMM_WORD && i->size == 1))
        e8(&t->e, (uint8_t)i->imm);
    else if (f->imm == IMM_WORD && i->size == 2)
        e8(&t->e, (uint8_t)i->imm), e8(&t->e, (uint8_t)(i->imm >> 8));
    else if (f->imm == IMM_WORD)
        e32(&t->e, (uint32_t)i->imm);
}

/* From AH to BH, which only an encoding without REX can name: by way of host AH. */
static bool extend_high(struct tr *t, const struct insn *i, const struct form *f)
{
    unsigned s = t->host[i->rm_off / 8];
    if (s == H_NONE || i->size < 4)
        return false;
    held_drop(t);
    emit_op(&t->e, 0, 4, 0x89, s, in_reg(H_AX), 0);
    emit_op(&t->e, 0, 4, f->opcode & FORM_OPCODE, H_AX, in_reg(4), 0);
    unsigned d = reg_new(t, i->reg, H_14);
    if (i->size == 8) /* MOVSX; of what MOVZX gives, bit 31 is clear */
        emit_op(&t->e, 0, 8, 0x63, d, in_reg(H_AX), 0);
    else
        emit_op(&t->e, 0, 4, 0x8b, d, in_reg(H_AX), 0);
    reg_put(t, i->reg, d);
    return true;
}

/* The operand in memory, checked, is not named by rax any more; the host has the flags. */
static void flags_behind(struct tr *t, struct place_of *o)
{
    if (o->reg == H_AX) {
        emit_store(&t->e, in_reg(H_14), H_AX);
        *o = at(H_14);
    }
    held_drop(t);
    flags_fetch(t);
}

/* BT of memory with the bit's number in a register, which may lie anywhere before or behind the
 * operand that the address names. */
static bool bit_string_test(struct tr *t, const struct insn *i)
{
    const bool keep = !flags_dead_behind(t);
    if (keep && t->host[i->reg] == H_NONE) /* rax cannot hold it while the flags come back */
        return false;
    if (keep)
        flags_commit(t);
    if (!bit_string_address(t, i))
        return false;
    emit_op(&t->e, 0, i->size, 0x8b, H_14, at(H_AX), 0);
    if (keep)
        flags_fetch(t);
    emit_op(&t->e, 0, i->size, OPC(OF0, 0, 0xa3), reg_get(t, i->reg, H_AX), in_reg(H_14), 0);
    held_drop(t);
    flags_new(t);
    return true;
}

bool tr_form(struct tr *t, const struct insn *i, unsigned param)
{
    const struct form *f = &forms[param];
    unsigned from = f->opcode >> FORM_FROM_SHIFT, rm_size = from ? from : i->size;
    struct place_of o;
    if (from == 1 && !is_mem(i) && high_byte(i->rm_off))
        return extend_high(t, i, f);
    if (f->op == &op_bt_EG && is_mem(i))
        return bit_string_test(t, i);
    if (!form_fits(f, i))
        return false;
    const bool high = high_operand(i, f);
    flags_before(t, f, i);
    if (high)
        o = high_get(t, i);
    else if (!rm_operand(t, i, rm_size, f->rm, &o))
        return false;
    if (is_mem(i) && wants_flags(t, f))
        flags_behind(t, &o);
    unsigned n = reg_register(i), reg = f->ext;
    if (f->reg)
        reg = reg_for(t, n, i->size, f->reg, H_14);
    if (f->flags == FLAGS_CARRY)
        carry_fetch(t);
    unsigned lock = i->flags & IF_LOCK ? E_LOCK : 0;
    if (f->imm == IMM_ALU) {
        emit_alu_imm(&t->e, lock, i->size, reg, o, (int32_t)i->imm, i->size == 1 && !high ? 2 : 0);
    } else {
        unsigned wide = f->opcode & SIZED && i->size > 1;
        unsigned bytes = (f->reg && i->size == 1 ? 1u : 0) | (rm_size == 1 && !high ? 2u : 0);
        emit_op(&t->e, lock, i->size, (f->opcode & FORM_OPCODE) | wide, reg, o, bytes);
        form_imm(t, f, i);
    }
    if (f->rm >= USE_WRITE && high)
        high_put(t, i);
    else if (f->rm >= USE_WRITE && !is_mem(i))
        reg_put(t, rm_register(i, rm_size), o.reg);
    if (f->reg >= USE_WRITE)
        reg_put(t, n, reg);
    if (f->flags >= FLAGS_CARRY)
        flags_new(t);
    if (f->producer && !is_mem(i) && !high) {
        unsigned rm = rm_register(i, rm_size);
        bool to_reg = f->reg && f->opcode & 2; /* the encoding's direction bit */
        producer_set(t, f->producer, i, to_reg ? n : rm, !f->reg ? REG_NONE : to_reg ? rm : n);
    }
    return true;
}

/* ---- What fits no form ---- */

bool tr_mov_ei(struct tr *t, const struct insn *i, unsigned param)
{
    if (is_small(i->imm) || is_mem(i) || i->size < 8)
        return tr_form(t, i, param);
    unsigned d = reg_new(t, i->rm, H_AX);
    emit_imm64(&t->e, d, (uint64_t)i->imm);
    reg_put(t, i->rm, d);
    return true;
}

bool tr_lea(struct tr *t, const struct insn *i, unsigned param)
{
    const bool cut = i->asize == 2 && i->size > 2; /* to 16 bits */
    if (!address_size_fits(t, i) || i->size < (narrow(t) ? 2 : 4) || !is_near(insn_disp(i)))
        return false;
    unsigned base = address_reg(t, i->base, H_AX), index = address_reg(t, i->index, H_14);
    unsigned d = i->size == 2 ? reg_get(t, i->reg, H_AX) : reg_new(t, i->reg, H_AX);
    emit_lea(&t->e, i->size, d, base, index, i->scale, address_disp(t, i->base, i->disp));
    if (cut)
        emit_op(&t->e, 0, 4, OPC(OF0, 0, 0xb7), d, in_reg(d), 0);
    reg_put(t, i->reg, d);
    return true;
}

/* param: extension 4 MUL, 5 IMUL. Guest RDX is the host's own. */
bool tr_mul(struct tr *t, const struct insn *i, unsigned param)
{
    if (i->size < 2)
        return false;
    unsigned factor = is_mem(i) ? H_14 : reg_get(t, i->rm, H_14);
    if (is_mem(i) && !rm_load(t, i))
        return false;
    emit_op(&t->e, 0, 8, 0x8b, H_AX, in_reg(host_of[R_AX]), 0);
    emit_op(&t->e, 0, i->size, 0xf7, param, in_reg(factor), 0);
    emit_op(&t->e, 0, 8, 0x8b, host_of[R_AX], in_reg(H_AX), 0);
    flags_new(t);
    return true;
}

/* param: 0 DIV, 1 IDIV. What would overflow, and signed dividends wider than one word, go to the
 * handler. */
bool tr_div(struct tr *t, const struct insn *i, unsigned is_signed)
{
    struct emit *e = &t->e;
    if (i->size < 2 || !rm_load(t, i))
        return false;
    flags_spill(t); /* a register or a window has not */
    emit_op(e, 0, i->size, 0x8b, H_AX, in_reg(host_of[R_AX]), 0);
    if (is_signed) {
        emit_op(e, 0, i->size, 0xc1, 7, in_reg(H_AX), 0), e8(e, i->size * 8u - 1);
        emit_op(e, 0, i->size, 0x39, H_DX, in_reg(H_AX), 0);
        slow_if(t, CC_NE, i);
        emit_lea(e, i->size, H_AX, H_14, H_NONE, 0, 1); /* divisor 0 or -1 */
        emit_alu_imm(e, 0, i->size, 7, in_reg(H_AX), 1, 0);
        slow_if(t, CC_BE, i);
        emit_op(e, 0, i->size, 0x8b, H_AX, in_reg(host_of[R_AX]), 0);
    } else {
        emit_op(e, 0, i->size, 0x39, H_14, in_reg(H_DX), 0);
        slow_if(t, CC_AE, i);
    }
    emit_op(e, 0, i->size, 0xf7, is_signed ? 7 : 6, in_reg(H_14), 0);
    emit_op(e, 0, i->size, 0x8b, host_of[R_AX], in_reg(H_AX), 0);
    if (!flags_dead_behind(t)) { /* undefined, but the handler's */
        emit_op(e, 0, 4, 0x39, H_14, in_reg(H_14), 0);
        flags_new(t);
    }
    return true;
}

bool tr_cbw(struct tr *t, const struct insn *i, unsigned param)
{
    unsigned a = host_of[R_AX];
    if (i->size == 8)
        emit_op(&t->e, 0, 8, 0x63, a, in_reg(a), 0);
    else if (i->size == 4)
        emit_op(&t->e, 0, 4, OPC(OF0, 0, 0xbf), a, in_reg(a), 0);
    else
        emit_op(&t->e, 0, 2, OPC(OF0, 0, 0xbe), a, in_reg(a), 2);
    return true;
}

bool tr_cwd(struct tr *t, const struct insn *i, unsigned param)
{
    emit_op(&t->e, 0, 8, 0x8b, H_AX, in_reg(host_of[R_AX]), 0);
    if (i->size == 8)
        e8(&t->e, 0x48);
    else if (i->size == 2)
        e8(&t->e, 0x66);
    e8(&t->e, 0x99);
    return true;
}

bool tr_bswap(struct tr *t, const struct insn *i, unsigned param)
{
    if (i->size < 4)
        return false;
    unsigned d = reg_get(t, i->rm, H_AX);
    if (i->size == 8 || d >= 8)
        e8(&t->e, 0x40 | (i->size == 8 ? 8 : 0) | d >> 3);
    e8(&t->e, 0x0f);
    e8(&t->e, 0xc8 | (d & 7));
    reg_put(t, i->rm, d);
    return true;
}

bool tr_cmov(struct tr *t, const struct insn *i, unsigned cc)
{
    if (is_mem(i)) {
        flags_commit(t); /* bringing them back needs nothing but rax then */
        if (!rm_load(t, i))
            return false;
    }
    flags_fetch(t);
    unsigned s = is_mem(i) ? H_14 : reg_get(t, i->rm, H_14);
    unsigned d = reg_get(t, i->reg, H_AX);
    emit_op(&t->e, 0, i->size, OPC(OF0, 0, 0x40 | cc), d, in_reg(s), 0);
    reg_put(t, i->reg, d);
    return true;
}

bool tr_sahf(struct tr *t, const struct insn *i, unsigned param)
{
    flags_fetch(t); /* OF stays */
    emit_op(&t->e, 0, 4, 0x8b, H_AX, in_reg(host_of[R_AX]), 0);
    e8(&t->e, 0x9e);
    flags_new(t);
    return true;
}

bool tr_nop(struct tr *t, const struct insn *i, unsigned param) { return true; }

bool tr_cmpxchg(struct tr *t, const struct insn *i, unsigned param)
{
    if (!is_mem(i) || (i->size == 1 && high_byte(i->reg_off)))
        return false;
    unsigned reg = reg_register(i);
    if (t->host[reg] == H_NONE || !mem_operand(t, i, i->size, true))
        return false;
    struct place_of mem = t->mem;
    if (mem.reg == H_AX) {
        emit_op(&t->e, 0, 8, 0x8b, H_14, in_reg(H_AX), 0);
        mem = at(H_14);
    }
    held_drop(t);
    emit_op(&t->e, 0, 8, 0x8b, H_AX, in_reg(host_of[R_AX]), 0);
    emit_op(&t->e, E_LOCK, i->size, OPC(OF0, 0, i->size == 1 ? 0xb0 : 0xb1), t->host[reg], mem,
            i->size == 1 ? 1 : 0);
    emit_op(&t->e, 0, 8, 0x8b, host_of[R_AX], in_reg(H_AX), 0);
    flags_new(t);
    return true;
}

/* Sixteen bytes; they have to be aligned. */
bool tr_cmpxchg16b(struct tr *t, const struct insn *i, unsigned param)
{
    if (i->size != 8 || !(t->jit->features >> FT_CX16 & 1) || t->host[R_BX] != host_of[R_BX])
        return false;
    flags_commit(t);
    if (!mem_operand(t, i, 16, true))
        return false;
    struct place_of mem = t->mem;
    alignment_check(t, i, 16);
    flags_behind(t, &mem);
    emit_load(&t->e, H_AX, in_reg(host_of[R_AX]));
    emit_op(&t->e, E_LOCK, 8, OPC(OF0, 0, 0xc7), 1, mem, 0);
    emit_store(&t->e, in_reg(host_of[R_AX]), H_AX);
    flags_new(t);
    return true;
}
