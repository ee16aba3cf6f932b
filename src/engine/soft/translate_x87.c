/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * x87 in translated code: the same instructions, on the guest's own state in the host's unit.
 *
 * The first x87 instruction of a block looks whether the state is there, and has it brought in if
 * not (fp_host.c). It stays when the block is left. TOP, tags, C0-C3 and the masked responses are
 * the hardware's own, so nothing of them is known here.
 *
 * Only where the key says that all exceptions are masked, none pending and CR0.EM and TS clear.
 * What unmasks one leaves the block.
 *
 * FIP, FOP and FDP are not the host's (makers differ in when they record them): they are written
 * from constants where somebody may look, which is seldom.
 */
#include "engine/soft/translate.h"

#define FPU_AT(field) offsetof(struct soft_vcpu, fpu.field)

enum { FCW_USED = 0x1f3f, FCW_MASKED = 0x7f }; /* as the handler keeps it; bit 6 is always set */

/* ---- The pointers ---- */

/* rax to a pointer; outside 64-bit code its upper half is the selector. Uses r14. */
static void pointer_store(struct tr *t, size_t at, unsigned seg)
{
    emit_op(&t->e, 0, word_of(t), 0x89, H_AX, in_vcpu(at), 0);
    if (!narrow(t))
        return;
    emit_op(&t->e, 0, 4, OPC(OF0, 0, 0xb7), H_14,
            in_vcpu(offsetof(struct soft_vcpu, seg) + seg * sizeof(struct x86_segment) +
                    offsetof(struct x86_segment, selector)),
            0);
    emit_op(&t->e, 0, 4, 0x89, H_14, in_vcpu(at + 4), 0);
}

static unsigned pointer_reg(struct tr *t, unsigned slot, unsigned scratch)
{
    if (slot == REG_NONE)
        return H_NONE;
    if (slot == REG_RIP) {
        emit_load(&t->e, scratch, in_vcpu(offsetof(struct soft_vcpu, jit_page)));
        return scratch;
    }
    if (t->host[slot] != H_NONE)
        return t->host[slot];
    emit_load(&t->e, scratch, in_vcpu(GPR_AT(slot)));
    return scratch;
}

static void data_pointer_store(struct tr *t, const struct insn *i)
{
    unsigned base = pointer_reg(t, i->base, H_AX), index = pointer_reg(t, i->index, H_14);
    emit_lea(&t->e, word_of(t), H_AX, base, index, i->scale, address_disp(t, i->base, i->disp));
    pointer_store(t, FPU_AT(fdp), i->seg);
    held_drop(t);
}

unsigned x87_pointer_regs(const struct fp_state *fp)
{
    const struct insn *i = fp->x87_mem;
    return (1u << i->base | 1u << i->index) & 0xffff;
}

void x87_data_pointer_commit(struct tr *t)
{
    data_pointer_store(t, t->fp.x87_mem);
    t->fp.x87_mem = NULL;
}

void x87_pointers_store(struct tr *t, const struct fp_state *fp)
{
    if (fp->x87_mem)
        data_pointer_store(t, fp->x87_mem);
    const struct insn *i = fp->x87_last;
    if (!i)
        return;
    unsigned fop = (insn_rows[i->row].opcode & 7u) << 8 | insn_modrm(i);
    emit_load(&t->e, H_AX, in_vcpu(offsetof(struct soft_vcpu, jit_page)));
    emit_lea(&t->e, word_of(t), H_AX, H_AX, H_NONE, 0, (int32_t)(t->block->place + i->start));
    pointer_store(t, FPU_AT(fip), S_CS);
    emit_op(&t->e, 0, 2, 0xc7, 0, in_vcpu(FPU_AT(fop)), 0);
    e8(&t->e, fop & 0xff), e8(&t->e, fop >> 8);
    held_drop(t);
}

static void remember(struct tr *t, const struct insn *i)
{
    t->fp.x87_last = i;
    if (is_mem(i))
        t->fp.x87_mem = i;
}

/* ---- Instructions ---- */

void x87_needed(struct tr *t)
{
    if (t->fp.x87)
        return;
    struct fp_state want = t->fp;
    want.x87 = true;
    flags_spill(t);
    emit_alu_imm(&t->e, 0, 1, 7, in_vcpu(FPU_AT(x87_in_host)), 0, 0);
    fp_enter_if(t, CC_E, want);
}

/* Bytes of the memory operand */
static unsigned operand_bytes(const struct insn_row *row)
{
    switch (row->args[0]) {
    case A_Mw: return 2;
    case A_Md: return 4;
    case A_Mq: return 8;
    default: return 10; /* A_Mt */
    }
}

static void operate(struct tr *t, const struct insn *i, const struct insn_row *row)
{
    if (is_mem(i)) {
        emit_op(&t->e, 0, 4, row->opcode, (unsigned)row->ext, at(H_AX), 0);
    } else {
        e8(&t->e, row->opcode);
        e8(&t->e, 0xc0u | (unsigned)row->ext << 3 | (i->rm & 7u));
    }
}

/* FLDCW: the word goes to the vCPU and from there to the unit, if it masks all exceptions. */
static bool control_word_load(struct tr *t, const struct insn *i)
{
    struct emit *e = &t->e;
    if (!address(t, i, 2, false))
        return false;
    emit_op(e, 0, 4, OPC(OF0, 0, 0xb7), H_14, at(H_AX), 0);
    emit_op(e, 0, 4, 0xf7, 2, in_reg(H_14), 0); /* not: what is masked is clear now */
    emit_op(e, 0, 4, 0xf7, 0, in_reg(H_14), 0), e32(e, FCW_MASKED & FCW_USED);
    slow_if(t, CC_NE, i);
    emit_op(e, 0, 4, 0xf7, 2, in_reg(H_14), 0);
    emit_alu_imm(e, 0, 4, 4, in_reg(H_14), FCW_USED, 0);
    emit_alu_imm(e, 0, 4, 1, in_reg(H_14), FCW_MASKED, 0);
    emit_op(e, 0, 2, 0x89, H_14, in_vcpu(FPU_AT(fcw)), 0);
    emit_op(e, 0, 4, 0xd9, 5, in_vcpu(FPU_AT(fcw)), 0);
    held_drop(t);
    return true;
}

bool tr_x87(struct tr *t, const struct insn *i, unsigned form)
{
    const struct insn_row *row = &insn_rows[i->row];
    if (!(t->block->key & CODE_X87) || !t->jit->x87)
        return false;
    /* The pointers are told of flat code. */
    if (t->block->key & CODE_SEGMENTS || (is_mem(i) && i->asize != word_of(t)))
        return false;
    if (form == X87_NOTHING)
        return true;
    x87_needed(t);
    switch (form) {
    case X87_LOAD:
    case X87_STORE:
        if (!address(t, i, operand_bytes(row), form == X87_STORE))
            return false;
        operate(t, i, row);
        remember(t, i);
        return true;
    case X87_REG:
        operate(t, i, row);
        remember(t, i);
        return true;
    case X87_COMI:
        operate(t, i, row);
        flags_new(t);
        remember(t, i);
        return true;
    case X87_CMOV:
        flags_fetch(t);
        operate(t, i, row);
        remember(t, i);
        return true;
    case X87_LDCW: return control_word_load(t, i);
    case X87_STCW:
    case X87_STSW:
        if (!address(t, i, 2, true))
            return false;
        operate(t, i, row);
        return true;
    case X87_STSW_AX:
        e8(&t->e, 0xdf), e8(&t->e, 0xe0);
        emit_op(&t->e, 0, 2, 0x89, H_AX, in_reg(host_of[R_AX]), 0);
        return true;
    case X87_CLEX: e8(&t->e, 0xdb), e8(&t->e, 0xe2); return true;
    default: remember(t, i); return true; /* FNOP */
    }
}
