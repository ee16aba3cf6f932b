/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SSE in translated code.
 *
 * All XMM registers move into the host's when an instruction first needs them, and stay there from
 * block to block; leaving and calling handlers takes them back (invariant 7 of jit.h). Only where
 * the block's key says that SSE may be used and all its exceptions are masked; so nothing here can
 * raise #NM, #UD or #XM. Forms come from the row's operands; what has implicit operands is left to
 * the handlers.
 */
#include "engine/soft/translate.h"

#include <string.h>

bool is_v(unsigned a) { return a == A_Vx || a == A_Vq || a == A_Vd || a == A_Vss || a == A_Vsd; }

/* Bytes of memory of an XMM-or-memory operand; 0: not one. */
static unsigned w_bytes(unsigned a)
{
    switch (a) {
    case A_Wx:
    case A_Mx:
    case A_Ux: return 16;
    case A_Wq:
    case A_Mq: return 8;
    case A_Wd:
    case A_Md: return 4;
    case A_Ww: return 2;
    case A_Wb: return 1;
    default: return 0;
    }
}

/* Bytes of memory of a general-register-or-memory operand */
unsigned e_bytes(unsigned a, const struct insn *i)
{
    switch (a) {
    case A_Ey: return i ? i->size : 8;
    case A_Rd: return 4;
    case A_Mb: return 1;
    case A_Mw: return 2;
    case A_Md: return 4;
    default: return 0;
    }
}

enum sse_form sse_form_of(const struct insn_row *row)
{
    static const char *const implicit[] = { "maskmovdqu", "pcmpestrm", "pcmpestri", "ldmxcsr",
                                            "stmxcsr" };
    const uint8_t *a = row->args;
    if (!(row->attr & AT_SSE) || row->attr & AT_MMX || row->map >= V0F || a[3] ||
        (a[2] && a[2] != A_Ib))
        return SSE_NONE;
    for (unsigned n = 0; n < ARRAY_LEN(implicit); n++)
        if (strcmp(row->name, implicit[n]) == 0)
            return SSE_NONE;
    if (is_v(a[0]) && (a[1] == A_Ey || a[1] == A_Rd || a[1] == A_Mb || a[1] == A_Mw))
        return SSE_VE;
    if (is_v(a[0]) && w_bytes(a[1]))
        return SSE_VW;
    if (is_v(a[1]) &&
        (a[0] == A_Ey || a[0] == A_Rd || a[0] == A_Mb || a[0] == A_Mw || (a[0] == A_Md && a[2])))
        return SSE_EV;
    if (is_v(a[1]) && w_bytes(a[0]) && !a[2])
        return SSE_WV;
    if ((a[0] == A_Gy || a[0] == A_Gd) && w_bytes(a[1]))
        return SSE_GW;
    if (a[0] == A_Ux && a[1] == A_Ib)
        return SSE_UI;
    return SSE_NONE;
}

/* Does it look at MXCSR or set flags there? Moves, logic, shuffles and integers do not. */
bool uses_mxcsr(const char *name)
{
    static const char *const quiet[] = { "mov", "p",   "unpck", "shuf",   "and",     "or",   "xor",
                                         "aes", "sha", "blend", "insert", "extract", "lddqu" };
    for (unsigned n = 0; n < ARRAY_LEN(quiet); n++)
        if (strncmp(name, quiet[n], strlen(quiet[n])) == 0)
            return false;
    return true;
}

/* ---- Where the registers are ---- */

void fp_store(struct tr *t, const struct fp_state *fp) { x87_pointers_store(t, fp); }

void fp_enter(struct tr *t, const struct fp_state *fp)
{
    if (fp->x87) { /* first, because it puts the others back */
        pins_undo(t);
        emit_call(&t->e, t->jit->x87_enter);
        pins_set(t);
    }
    if (fp->vec)
        emit_call(&t->e, t->jit->vec_enter[fp->vec]);
    if (fp->mxcsr)
        emit_call(&t->e, t->jit->mxcsr_enter);
}

void fp_spill(struct tr *t)
{
    fp_store(t, &t->fp);
    t->fp = (struct fp_state){ 0 };
}

void vec_needed(struct tr *t, bool mxcsr)
{
    struct fp_state want = t->fp;
    want.vec = t->wide ? VEC_YMM : VEC_XMM;
    if (t->fp.vec != want.vec) {
        flags_spill(t);
        emit_alu_imm(&t->e, 0, 1, 7, in_vcpu(offsetof(struct soft_vcpu, fpu.vec_in_host)), want.vec,
                     0);
        fp_enter_if(t, CC_B, want);
    }
    if (mxcsr && !t->fp.mxcsr) {
        want.mxcsr = true;
        flags_spill(t);
        emit_alu_imm(&t->e, 0, 1, 7, in_vcpu(offsetof(struct soft_vcpu, fpu.mxcsr_in_host)), 0, 0);
        fp_enter_if(t, CC_E, want);
    }
}

/* ---- Instructions ---- */

static unsigned opcode_of(const struct insn_row *row)
{
    static const uint8_t prefix[] = {
        [P_ANY] = 0, [P_NONE] = 0, [P_66] = 0x66, [P_F3] = 0xf3, [P_F2] = 0xf2
    };
    static const unsigned map[] = { [M1] = 0, [M0F] = OF0, [M38] = OF38, [M3A] = OF3A };
    return OPC(map[row->map], prefix[row->pfx], row->opcode);
}

static void operate(struct tr *t, const struct insn *i, const struct insn_row *row, unsigned reg,
                    struct place_of o)
{
    emit_op(&t->e, 0, row->size == SZ_Y ? i->size : 4, opcode_of(row), reg, o, 0);
    if (row->args[2] == A_Ib || row->args[1] == A_Ib)
        e8(&t->e, (uint8_t)i->imm);
}

/* The operand just checked lies at a multiple of `align`. */
void alignment_check(struct tr *t, const struct insn *i, unsigned align)
{
    flags_spill(t);
    if (t->mem.reg != H_AX) {
        held_drop(t);
        emit_lea(&t->e, 4, H_AX, t->mem.reg, H_NONE, 0, t->mem.disp);
    }
    e8(&t->e, 0xa8), e8(&t->e, align - 1); /* test al */
    slow_if(t, CC_NE, i);
}

bool vec_operand(struct tr *t, const struct insn *i, unsigned size, enum use use, bool general,
                 struct place_of *o)
{
    if (is_mem(i)) {
        if (!size || !mem_operand(t, i, size, use == USE_WRITE))
            return false;
        if (insn_rows[i->row].attr & AT_ALIGN && size >= 16)
            alignment_check(t, i, size);
        *o = t->mem;
    } else if (general) {
        *o = in_reg(use == USE_WRITE ? reg_new(t, i->rm, H_AX) : reg_get(t, i->rm, H_AX));
    } else {
        *o = in_reg(i->rm);
    }
    return true;
}

bool tr_sse(struct tr *t, const struct insn *i, unsigned form)
{
    const struct insn_row *row = &insn_rows[i->row];
    const uint8_t *a = row->args;
    bool store = form == SSE_WV || form == SSE_EV, general = form == SSE_VE || form == SSE_EV;
    unsigned arg = store ? a[0] : a[1], reg = i->reg;
    struct place_of o = in_reg(i->rm);
    if (!(t->block->key & CODE_SSE) || !t->jit->sse)
        return false;
    vec_needed(t, uses_mxcsr(row->name));
    if (form == SSE_UI) /* shifts by an immediate */
        reg = (unsigned)row->ext;
    else if (!vec_operand(t, i, general ? e_bytes(arg, i) : w_bytes(arg),
                          store ? USE_WRITE : USE_READ, general, &o))
        return false;
    if (form == SSE_GW)
        reg = reg_new(t, i->reg, H_14);
    operate(t, i, row, reg, o);
    if (form == SSE_GW)
        reg_put(t, i->reg, reg);
    if (form == SSE_EV && !is_mem(i))
        reg_put(t, i->rm, o.reg);
    if (row->writes) /* COMISS and its kin, PTEST: flags instead of a result */
        flags_new(t);
    return true;
}
