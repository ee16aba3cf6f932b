/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * AVX, AVX2, FMA and F16C in translated code: as in translate_sse.c, with whole YMM registers and
 * VEX prefixes.
 *
 * Only where the block's key says that AVX may be used and all exceptions are masked. Gathers,
 * masked moves, string comparisons and blends by a fourth register are left to the handlers.
 */
#include "engine/soft/translate.h"

#include <string.h>

/* Bytes of a vector-or-memory operand; `l`: VEX.L. 0: not one. */
static unsigned x_bytes(unsigned a, unsigned l)
{
    switch (a) {
    case A_Wx:
    case A_Mx: return l ? 32 : 16;
    case A_Ux: return 16;
    case A_Wdq:
    case A_Mdq: return 16;
    case A_Wdd: return l ? 32 : 8;
    case A_Wh: return l ? 16 : 8;
    case A_Wf: return l ? 8 : 4;
    case A_We: return l ? 4 : 2;
    case A_Wq:
    case A_Mq: return 8;
    case A_Wd: return 4;
    case A_Ww: return 2;
    case A_Wb: return 1;
    default: return 0;
    }
}
static bool is_x(unsigned a) { return x_bytes(a, 0); }
static bool is_e(unsigned a)
{
    return a == A_Ey || a == A_Rd || a == A_Mb || a == A_Mw || a == A_Md;
}

enum avx_form avx_form_of(const struct insn_row *row)
{
    static const char *const left[] = { "gather", "maskmov", "pcmpestr", "pcmpistr", "mxcsr" };
    const uint8_t *a = row->args;
    if (!(row->attr & AT_AVX) || row->map < V0F)
        return AVX_NONE;
    for (unsigned n = 0; n < ARRAY_LEN(left); n++)
        if (strstr(row->name, left[n]))
            return AVX_NONE;
    if (strncmp(row->name, "vzero", 5) == 0)
        return AVX_ZERO;
    bool imm2 = !a[2] || a[2] == A_Ib, imm3 = !a[3] || a[3] == A_Ib;
    if (is_v(a[0]) && a[1] == A_Hx && (is_x(a[2]) || is_e(a[2])) && imm3)
        return AVX_VHX;
    if (a[3])
        return AVX_NONE;
    if (is_v(a[0]) && (is_x(a[1]) || is_e(a[1])) && imm2)
        return AVX_VX;
    if ((is_x(a[0]) || is_e(a[0])) && is_v(a[1]) && imm2)
        return AVX_XV;
    if ((a[0] == A_Gy || a[0] == A_Gd) && is_x(a[1]) && imm2)
        return AVX_GX;
    if (a[0] == A_Hx && a[1] == A_Ux && a[2] == A_Ib)
        return AVX_HUI;
    return AVX_NONE;
}

static void operate(struct tr *t, const struct insn *i, const struct insn_row *row, unsigned reg,
                    unsigned vvvv, struct place_of o)
{
    static const uint8_t prefix[] = {
        [P_ANY] = 0, [P_NONE] = 0, [P_66] = 0x66, [P_F3] = 0xf3, [P_F2] = 0xf2
    };
    static const unsigned map[] = { [V0F] = OF0, [V38] = OF38, [V3A] = OF3A };
    bool has_imm = false;
    for (unsigned n = 1; n < 4; n++)
        has_imm |= row->args[n] == A_Ib;
    emit_vex(&t->e, i->vex & 4 ? 8 : 4, i->vex >> 1 & 1,
             OPC(map[row->map], prefix[row->pfx], row->opcode), reg, vvvv, o);
    if (has_imm)
        e8(&t->e, (uint8_t)i->imm);
}

bool tr_avx(struct tr *t, const struct insn *i, unsigned form)
{
    const struct insn_row *row = &insn_rows[i->row];
    unsigned reg = i->reg, vvvv = form == AVX_VHX || form == AVX_HUI ? i->vvvv : 0;
    struct place_of o = in_reg(i->rm);
    bool put = false; /* a general register was written */
    /* VZEROUPPER and VZEROALL reach only the registers that the code can name. */
    if (!t->wide || (form == AVX_ZERO && narrow(t)))
        return false;
    vec_needed(t, uses_mxcsr(row->name + 1));
    if (form == AVX_HUI) { /* shifts by an immediate, the destination is in VEX.vvvv */
        reg = (unsigned)row->ext;
    } else if (form == AVX_ZERO) { /* VZEROUPPER, VZEROALL */
        reg = VEX_NO_MODRM;
        o = in_reg(0);
    } else {
        unsigned arg = row->args[form == AVX_VHX ? 2 : form == AVX_XV ? 0 : 1];
        unsigned size = is_e(arg) ? e_bytes(arg, i) : x_bytes(arg, i->vex >> 1 & 1);
        if (!vec_operand(t, i, size, form == AVX_XV ? USE_WRITE : USE_READ, is_e(arg), &o))
            return false;
        put = form == AVX_XV && is_e(arg) && !is_mem(i);
    }
    if (form == AVX_GX)
        reg = reg_new(t, i->reg, H_14);
    operate(t, i, row, reg, vvvv, o);
    if (form == AVX_GX)
        reg_put(t, i->reg, reg);
    if (put)
        reg_put(t, i->rm, o.reg);
    if (row->writes) /* VCOMISS and its kin, VPTEST, VTESTPS: flags instead of a result */
        flags_new(t);
    return true;
}
