/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Virtual-8086 mode: what its instructions do that depend on IOPL, with and without the virtual
 * interrupt flag of CR4.VME, and CLI and STI of CR4.PVI. SDM vol. 3B, chapter 21.
 */
#include "engine/soft/mem.h"
#include "engine/soft/run.h"
#include "engine/soft/seg.h"
#include "engine/soft/sys.h"

static bool iopl_3(const struct soft_vcpu *v) { return (v->flags & FL_IOPL) == FL_IOPL; }
static bool virtual_flag(const struct soft_vcpu *v) { return v->cr4 & CR4_VME; }

/* FLAGS as a program sees them that has VIF for IF */
static uint32_t flags_shown(const struct soft_vcpu *v)
{
    uint32_t flags = rflags_get(v);
    if (iopl_3(v))
        return flags;
    return (flags & ~(uint32_t)FL_IF) | FL_IOPL | (flags & FL_VIF ? FL_IF : 0);
}

/* Takes FLAGS (16 bits) from such a program; false: #GP. */
static bool flags_take(struct soft_vcpu *v, uint32_t flags)
{
    if (flags & FL_TF || (flags & FL_IF && v->flags & FL_VIP))
        return false;
    flags_set(v, (flags & ~(uint32_t)FL_VIF) | (flags & FL_IF ? FL_VIF : 0),
              F_ALL | FL_DF | FL_NT | FL_VIF);
    return true;
}

int v86_pushf(struct soft_vcpu *v, const struct insn *i)
{
    if (!iopl_3(v) && (!virtual_flag(v) || i->size != 2))
        return raise_gp(v, 0);
    return push(v, i->size, flags_shown(v) & ~(uint32_t)(FL_RF | FL_VM));
}

int v86_popf(struct soft_vcpu *v, const struct insn *i)
{
    const uint64_t sp = v->gpr[R_SP];
    uint64_t value;
    if (!iopl_3(v) && (!virtual_flag(v) || i->size != 2))
        return raise_gp(v, 0);
    int r = pop(v, i->size, &value);
    if (r)
        return r;
    if (iopl_3(v)) {
        flags_set(v, (uint32_t)value,
                  F_ALL | FL_TF | FL_IF | FL_DF | FL_NT | (i->size > 2 ? FL_AC | FL_ID : 0));
        return OP_END;
    }
    if (!flags_take(v, (uint32_t)value)) {
        v->gpr[R_SP] = sp;
        return raise_gp(v, 0);
    }
    return OP_END;
}

int v86_iret(struct soft_vcpu *v, const struct insn *i)
{
    const uint64_t sp = v->gpr[R_SP];
    uint64_t rip, cs, flags;
    if (!iopl_3(v) && (!virtual_flag(v) || i->size != 2))
        return raise_gp(v, 0);
    int r = pop(v, i->size, &rip);
    if (!r)
        r = pop(v, i->size, &cs);
    if (!r)
        r = pop(v, i->size, &flags);
    if (!r && rip > 0xffff)
        r = raise_gp(v, 0);
    if (!r && iopl_3(v))
        flags_set(v, (uint32_t)flags,
                  F_ALL | FL_TF | FL_IF | FL_DF | FL_NT | (i->size > 2 ? FL_AC | FL_ID : 0));
    else if (!r && !flags_take(v, (uint32_t)flags))
        r = raise_gp(v, 0);
    if (r) {
        v->gpr[R_SP] = sp;
        return r;
    }
    segment_set_real(v, S_CS, (uint16_t)cs);
    vcpu_mode_update(v);
    v->rip = rip;
    return OP_JUMP;
}

/* CLI and STI where IOPL forbids them: VIF instead, in virtual-8086 mode and at CPL 3 with PVI */
static bool vif_instead(const struct soft_vcpu *v)
{
    return v->cr4 & (v8086_mode(v) ? CR4_VME : CR4_PVI) && v->cpl == 3;
}
int virtual_cli(struct soft_vcpu *v)
{
    if (!vif_instead(v))
        return raise_gp(v, 0);
    v->flags &= ~(uint32_t)FL_VIF;
    return OP_NEXT;
}
int virtual_sti(struct soft_vcpu *v)
{
    if (!vif_instead(v) || v->flags & FL_VIP)
        return raise_gp(v, 0);
    v->flags |= FL_VIF;
    return OP_NEXT;
}

/* The bit of the interrupt redirection bitmap, which lies below the I/O bitmap: clear, the
 * program's own handler. */
static int redirected(struct soft_vcpu *v, uint8_t vector, bool *own)
{
    const struct x86_segment *tr = &v->seg[S_TR];
    uint16_t base;
    uint8_t bits;
    if (tr->attr & SEG_UNUSABLE || tr->limit < 0x67 || (tr->attr & SEG_TYPE & ~2) == 1)
        return raise_gp(v, 0);
    int r = gva_load_system(v, tr->base + 0x66, &base, 2);
    if (r)
        return r;
    const uint32_t at = base - 32u + vector / 8;
    if (base < 32 || at > tr->limit)
        return raise_gp(v, 0);
    r = gva_load_system(v, tr->base + at, &bits, 1);
    *own = !(bits >> (vector & 7) & 1);
    return r;
}

/* As in real mode, through the vectors at linear address 0 */
static int own_handler(struct soft_vcpu *v, const struct insn *i, uint8_t vector)
{
    const uint64_t sp = v->gpr[R_SP];
    uint16_t target[2];
    int r = gva_load_system(v, vector * 4u, target, 4);
    if (!r)
        r = push(v, 2, flags_shown(v) & 0xffff);
    if (!r)
        r = push(v, 2, v->seg[S_CS].selector);
    if (!r)
        r = push(v, 2, next_rip(v, i));
    if (r) {
        v->gpr[R_SP] = sp;
        return r;
    }
    flags_set(v, 0, FL_TF | (iopl_3(v) ? FL_IF : FL_VIF));
    segment_set_real(v, S_CS, target[1]);
    vcpu_mode_update(v);
    v->rip = target[0];
    return OP_JUMP;
}

int v86_int(struct soft_vcpu *v, const struct insn *i, uint8_t vector)
{
    bool own = false;
    int r = virtual_flag(v) ? redirected(v, vector, &own) : 0;
    if (r)
        return r;
    if (own)
        return own_handler(v, i, vector);
    return iopl_3(v) ? software_interrupt(v, i, vector) : raise_gp(v, 0);
}
