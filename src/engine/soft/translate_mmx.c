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
    const uint8_t *a = row->args;
    bool store = form == MMX_QP || form == MMX_EP, general = form == MMX_PE || form == MMX_EP;
    unsigned arg = store ? a[0] : a[1], reg = i->reg & 7u;
    struct place_of o = in_reg(i->rm & 7u);
    if (!(t->block->key & CODE_X87) || !t->jit->x87)
        return false;
    x87_needed(t);
    if (form == MMX_EMMS) {
        e8(&t->e, 0x0f), e8(&t->e, 0x77);
        return true;
    }
    if (form == MMX_NI)
        reg = (unsigned)row->ext;
    else if (is_mem(i) || general) {
        if (!vec_operand(t, i, general ? e_bytes(arg, i) : q_bytes(arg),
                         store ? USE_WRITE : USE_READ, general, &o))
            return false;
    }
    if (form == MMX_GN)
        reg = reg_new(t, i->reg, H_14);
    operate(t, i, row, reg, o);
    if (form == MMX_GN)
        reg_put(t, i->reg, reg);
    if (form == MMX_EP && !is_mem(i))
        reg_put(t, i->rm, o.reg);
    return true;
}
