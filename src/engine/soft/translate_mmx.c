/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * MMX in translated code: on the guest's x87 unit in the host's, of which MM0 to MM7 are a part
 * (translate_x87.c). That the registers all become valid and TOP zero is the hardware's own doing.
 *
 * Forms come from the row's operands. What touches XMM registers, too, and MASKMOVQ are left to the
 * handlers.
 */
#include "engine/soft/translate.h"

#include <string.h>

/* Bytes of an MMX-or-memory operand; 0: not one. */
static unsigned q_bytes(unsigned a)
{
    return a == A_Qq || a == A_Mq || a == A_Nq ? 8 : a == A_Qd ? 4 : 0;
}

enum mmx_form mmx_form_of(const struct insn_row *row)
{
    const uint8_t *a = row->args;
    if (!(row->attr & AT_MMX) || row->attr & AT_SSE || row->map >= V0F ||
        strcmp(row->name, "maskmovq") == 0)
        return MMX_NONE;
    if (!a[0])
        return MMX_EMMS;
    if (a[0] == A_Pq && q_bytes(a[1]))
        return MMX_PQ;
    if (a[0] == A_Pq && e_bytes(a[1], NULL))
        return MMX_PE;
    if (q_bytes(a[0]) && a[1] == A_Pq)
        return MMX_QP;
    if (a[0] == A_Ey && a[1] == A_Pq)
        return MMX_EP;
    if (a[0] == A_Gd && a[1] == A_Nq)
        return MMX_GN;
    if (a[0] == A_Nq && a[1] == A_Ib)
        return MMX_NI;
    return MMX_NONE;
}

static void operate(struct tr *t, const struct insn *i, const struct insn_row *row, unsigned reg,
                    struct place_of o)
{
    static const unsigned map[] = { [M0F] = OF0, [M38] = OF38, [M3A] = OF3A };
    emit_op(&t->e, 0, row->size == SZ_Y ? i->size : 4, OPC(map[row->map], 0, row->opcode), reg, o,
            0);
    if (row->args[2] == A_Ib || row->args[1] == A_Ib)
        e8(&t->e, (uint8_t)i->imm);
}

bool tr_mmx(struct tr *t, const struct insn *i, unsigned form)
{
    const struct insn_row *row = &insn_rows[i->row];
    const unsigned reg = i->reg & 7u, rm = i->rm & 7u;
    if (!(t->block->key & CODE_X87) || !t->jit->x87)
        return false;
    x87_needed(t);
    unsigned h;
    switch (form) {
    case MMX_PQ:
        if (is_mem(i) && !address(t, i, q_bytes(row->args[1]), false))
            return false;
        operate(t, i, row, reg, is_mem(i) ? at(H_AX) : in_reg(rm));
        return true;
    case MMX_PE:
        if (is_mem(i) && !address(t, i, e_bytes(row->args[1], i), false))
            return false;
        operate(t, i, row, reg, is_mem(i) ? at(H_AX) : in_reg(reg_get(t, i->rm, H_AX)));
        return true;
    case MMX_QP:
        if (is_mem(i) && !address(t, i, 8, true))
            return false;
        operate(t, i, row, reg, is_mem(i) ? at(H_AX) : in_reg(rm));
        return true;
    case MMX_EP:
        if (is_mem(i)) {
            if (!address(t, i, e_bytes(row->args[0], i), true))
                return false;
            operate(t, i, row, reg, at(H_AX));
            return true;
        }
        h = reg_new(i->rm, H_AX);
        operate(t, i, row, reg, in_reg(h));
        reg_put(t, i->rm, h);
        return true;
    case MMX_GN:
        h = reg_new(i->reg, H_AX);
        operate(t, i, row, h, in_reg(rm));
        reg_put(t, i->reg, h);
        return true;
    case MMX_NI: operate(t, i, row, (unsigned)row->ext, in_reg(rm)); return true;
    default: e8(&t->e, 0x0f), e8(&t->e, 0x77); return true; /* EMMS */
    }
}
