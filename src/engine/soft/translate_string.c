/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One element of a string, upwards. With REP, and where DF is set, the handler does it: in bulk
 * (string.c), or rarely.
 */
#include "engine/soft/run.h"
#include "engine/soft/translate.h"

unsigned string_regs_written(unsigned kind)
{
    return (kind == STRING_STOS || kind == STRING_SCAS ? 0 : 1u << R_SI) |
           (kind == STRING_LODS ? 1u << R_AX : 1u << R_DI);
}

/* The loaded element waits there while the other operand is checked. */
static const struct place_of waits = { .where = W_GS,
                                       .disp = (int32_t)offsetof(struct soft_vcpu, jit_value) };

static void element_move(struct tr *t, unsigned size, unsigned opcode, unsigned reg,
                         struct place_of o)
{
    emit_op(&t->e, 0, size, opcode | (size > 1), reg, o, size == 1 ? 1 : 0);
}

/* r14 = the element at rSI, with the operand at rDI checked in rax */
static void source_element(struct tr *t, const struct insn *i, bool write)
{
    element_move(t, i->size, 0x8a, H_14, t->mem);
    emit_store(&t->e, waits, H_14);
    string_destination(t, i, write);
    emit_load(&t->e, H_14, waits);
}

bool tr_string(struct tr *t, const struct insn *i, unsigned kind)
{
    enum { DF_BYTE = 1 };
    struct emit *e = &t->e;
    if (i->flags & (IF_REP | IF_REPNE) || !address_size_fits(t, i))
        return false;
    flags_spill(t);
    held_drop(t);
    emit_op(e, 0, 1, 0xf6, 0, in_vcpu(offsetof(struct soft_vcpu, flags) + DF_BYTE), 0);
    e8(e, FL_DF >> 8 * DF_BYTE);
    slow_if(t, CC_NE, i);
    if (!mem_operand(t, i, i->size, kind == STRING_STOS))
        return false;
    switch (kind) {
    case STRING_MOVS:
        source_element(t, i, true);
        element_move(t, i->size, 0x88, H_14, at(H_AX));
        break;
    case STRING_CMPS:
        source_element(t, i, false);
        element_move(t, i->size, 0x3a, H_14, at(H_AX));
        break;
    case STRING_STOS: element_move(t, i->size, 0x88, host_of[R_AX], t->mem); break;
    case STRING_SCAS: element_move(t, i->size, 0x3a, host_of[R_AX], t->mem); break;
    default: element_move(t, i->size, 0x8a, host_of[R_AX], t->mem);
    }
    for (unsigned reg = R_SI; reg <= R_DI; reg++)
        if (string_regs_written(kind) >> reg & 1)
            emit_lea(e, i->asize, host_of[reg], host_of[reg], H_NONE, 0, i->size);
    if (kind == STRING_SCAS || kind == STRING_CMPS)
        flags_new(t);
    return true;
}
