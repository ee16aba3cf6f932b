/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Exceptions and interrupts: delivery through the IDT (or the real-mode vectors), double and triple
 * faults, IRET, software interrupts, and what a change of mode means for the vCPU. SDM vol. 3A,
 * chapter 6.
 */
#include "engine/soft/mem.h"
#include "engine/soft/run.h"
#include "engine/soft/seg.h"
#include "engine/soft/sys.h"
#include "machine/machine.h"

#include <string.h>

void vcpu_mode_update(struct soft_vcpu *v)
{
    const struct x86_segment *cs = &v->seg[S_CS];
    bool protected = v->cr0 & CR0_PE;
    if (v->long_mode && cs->attr & SEG_L)
        v->mode = MODE_64;
    else
        v->mode = cs->attr & SEG_DB ? MODE_32 : MODE_16;
    if (!protected)
        v->cpl = 0;
    else if (v->flags & FL_VM)
        v->cpl = 3;
    v->stack_size = v->mode == MODE_64 ? 8 : v->seg[S_SS].attr & SEG_DB ? 4 : 2;
    for (unsigned n = 0; n < S_COUNT; n++) {
        bool flat = v->mode == MODE_64 && n != S_FS && n != S_GS;
        v->seg_base[n] = flat ? 0 : v->seg[n].base;
    }
    segments_changed(v);
    tlb_mode_changed(v);
}

void flags_set(struct soft_vcpu *v, uint32_t flags, uint32_t mask)
{
    uint32_t old = rflags_get(v);
    uint32_t new = (old & ~mask) | (flags & mask);
    status_set(v, new);
    v->flags = (new & ~(uint32_t)F_ALL) | FL_FIXED;
    if ((old ^ new) & (FL_AC | FL_VM))
        tlb_mode_changed(v);
    if ((old ^ new) & FL_TF)
        vcpu_update_careful(v);
    if (new & ~old & FL_IF && v->held_back)
        vcpu_request_self(v, REQ_INTERRUPT);
}

/* ---- Delivery ---- */

struct delivery {
    uint8_t vector;
    bool has_error;
    uint32_t error;
    bool software;  /* INT n, INT3, INTO: gate privilege is checked */
    uint32_t ext;   /* 1: the event is external to the program */
    uint32_t flags; /* image to push */
    uint64_t rip;   /* image to push */
    bool inside;    /* answer: a fault is a new task's own (task.c) */
};

static int deliver_real(struct soft_vcpu *v, const struct delivery *d)
{
    uint16_t vector[2];
    if (d->vector * 4u + 3 > v->idtr.limit)
        return raise_gp(v, 0);
    uint64_t sp = v->gpr[R_SP];
    int r = gva_load_system(v, v->idtr.base + d->vector * 4u, vector, 4);
    if (!r)
        r = push(v, 2, d->flags & 0xffff);
    if (!r)
        r = push(v, 2, v->seg[S_CS].selector);
    if (!r)
        r = push(v, 2, d->rip);
    if (r) {
        v->gpr[R_SP] = sp;
        return r;
    }
    segment_set_real(v, S_CS, vector[1]);
    flags_set(v, 0, FL_IF | FL_TF | FL_AC | FL_RF);
    v->rip = vector[0];
    return 0;
}

/* A task gate: the task that it names is the handler. */
static int deliver_task(struct soft_vcpu *v, struct delivery *d, uint16_t selector)
{
    const struct task_cause cause = {
        .how = TASK_CALL,
        .rip = d->rip,
        .flags = d->flags,
        .ext = d->ext,
        .has_error = d->has_error,
        .error = d->error,
    };
    if (!(selector & 0xfffc))
        return raise_gp(v, d->ext);
    return task_switch(v, selector, &cause, &d->inside);
}

/* From virtual-8086 mode the data segments are saved, too, and null for the handler. */
static const uint8_t v86_saved[] = { S_GS, S_FS, S_DS, S_ES };

static int deliver_protected(struct soft_vcpu *v, struct delivery *d)
{
    unsigned entry = v->long_mode ? 16 : 8;
    uint32_t idt_error = d->vector * 8u + 2 + d->ext;
    uint64_t gate[2] = { 0, 0 };
    if (d->vector * entry + entry - 1 > v->idtr.limit)
        return raise_gp(v, idt_error);
    int r = gva_load_system(v, v->idtr.base + d->vector * entry, gate, entry);
    if (r)
        return r;
    unsigned type = gate[0] >> 40 & 0x1f, gate_dpl = gate[0] >> 45 & 3;
    bool wide = type & 8;
    bool task = type == 5 && !v->long_mode;
    if (!task && (v->long_mode ? (type & 0x1e) != 0xe : (type & 0x16) != 6))
        return raise_gp(v, idt_error);
    if (d->software && gate_dpl < v->cpl)
        return raise_gp(v, idt_error);
    if (!(gate[0] >> 47 & 1))
        return raise_error(v, EXC_NP, idt_error);
    uint16_t selector = (uint16_t)(gate[0] >> 16);
    if (task)
        return deliver_task(v, d, selector);
    uint64_t target = (gate[0] & 0xffff) | (gate[0] >> 32 & 0xffff0000);
    if (v->long_mode)
        target |= gate[1] << 32;
    else if (!wide)
        target &= 0xffff;

    struct x86_segment cs, ss = v->seg[S_SS];
    uint8_t cpl;
    r = code_segment_check(v, selector, TRANSFER_GATE, d->ext, &cs, &cpl);
    if (r)
        return r;
    bool from_v86 = v8086_mode(v);
    if (from_v86 && cpl)
        return raise_gp(v, (selector & 0xfffcu) | d->ext);

    uint64_t sp = v->gpr[R_SP];
    unsigned ist = v->long_mode ? gate[0] >> 32 & 7 : 0;
    if (ist) {
        if (0x24 + ist * 8 + 7 > v->seg[S_TR].limit)
            return raise_error(v, EXC_TS, v->seg[S_TR].selector & 0xfffcu);
        r = gva_load_system(v, v->seg[S_TR].base + 0x1c + ist * 8, &sp, 8);
    }
    bool inner = cpl < v->cpl;
    if (!r && inner) {
        uint64_t tss_sp;
        r = inner_stack(v, cpl, &ss, &tss_sp);
        if (!r && !ist)
            sp = tss_sp;
    }
    if (r)
        return r;

    struct frame f;
    frame_begin(v, &f, &ss, v->long_mode ? sp & ~15ull : sp, v->long_mode ? 8 : wide ? 4 : 2);
    uint8_t old_cpl = v->cpl;
    v->cpl = cpl;
    tlb_mode_changed(v);
    for (unsigned n = 0; !r && from_v86 && n < ARRAY_LEN(v86_saved); n++)
        r = frame_push(v, &f, v->seg[v86_saved[n]].selector);
    if (!r && (inner || v->long_mode)) {
        r = frame_push(v, &f, v->seg[S_SS].selector);
        if (!r)
            r = frame_push(v, &f, v->gpr[R_SP]);
    }
    if (!r)
        r = frame_push(v, &f, d->flags);
    if (!r)
        r = frame_push(v, &f, v->seg[S_CS].selector);
    if (!r)
        r = frame_push(v, &f, d->rip);
    if (!r && d->has_error)
        r = frame_push(v, &f, d->error);
    if (!r && v->long_mode && !is_canonical(target))
        r = raise_gp(v, d->ext);
    v->cpl = old_cpl;
    tlb_mode_changed(v);
    if (r)
        return r;

    if (inner)
        v->seg[S_SS] = ss;
    v->gpr[R_SP] = v->long_mode ? f.sp : (v->gpr[R_SP] & ~f.mask) | f.sp;
    /* An interrupt gate masks interrupts, a trap gate does not. */
    flags_set(v, 0, FL_TF | FL_NT | FL_RF | FL_VM | (type & 1 ? 0 : FL_IF));
    for (unsigned n = 0; from_v86 && n < ARRAY_LEN(v86_saved); n++)
        v->seg[v86_saved[n]] = (struct x86_segment){ .attr = SEG_UNUSABLE };
    code_segment_install(v, &cs, cpl);
    v->rip = target;
    return 0;
}

static int deliver(struct soft_vcpu *v, struct delivery *d)
{
    counter_add_one(&v->run->exceptions);
    return real_mode(v) ? deliver_real(v, d) : deliver_protected(v, d);
}

static bool contributory(uint8_t vector)
{
    return vector == EXC_DE || (vector >= EXC_TS && vector <= EXC_GP);
}

bool exception_deliver(struct soft_vcpu *v)
{
    struct exception x = v->exc;
    for (;;) {
        if (x.vector == EXC_DB) {
            v->dr6 = (v->dr6 & ~0xfull) | x.dr6;
            v->dr7 &= ~(1ull << 13);
        }
        struct delivery d = {
            .vector = x.vector,
            .has_error = x.has_error && !real_mode(v),
            .error = x.error,
            /* Faults push RF set, so that the instruction's own breakpoint does not hit again;
               traps do not. */
            .flags = rflags_get(v) | (x.vector == EXC_DB ? 0 : FL_RF),
            .rip = v->rip,
        };
        if (deliver(v, &d) == 0)
            return true;
        uint8_t first = x.vector, second = v->exc.vector;
        if (first == EXC_DF)
            return false;
        if ((contributory(first) && contributory(second)) ||
            (first == EXC_PF && (contributory(second) || second == EXC_PF)))
            x = (struct exception){ .vector = EXC_DF, .has_error = true };
        else
            x = v->exc;
    }
}

bool interrupt_deliver(struct soft_vcpu *v, uint8_t vector)
{
    struct delivery d = { .vector = vector, .flags = rflags_get(v), .rip = v->rip, .ext = 1 };
    counter_add_one(&v->run->interrupts);
    return deliver(v, &d) == 0 || exception_deliver(v);
}

/* What a handler answers that delivers by itself. A fault is the instruction's own, unless a new
 * task has begun. */
static int delivered(struct soft_vcpu *v, struct delivery *d)
{
    int r = deliver(v, d);
    if (r)
        return d->inside ? task_fault(v) : r;
    return OP_JUMP;
}

/* INT n and INT3 push the address behind them. */
int software_interrupt(struct soft_vcpu *v, const struct insn *i, uint8_t vector)
{
    struct delivery d = {
        .vector = vector, .software = true, .flags = rflags_get(v), .rip = next_rip(v, i)
    };
    return delivered(v, &d);
}

/* ---- IRET ---- */

/* RF is for one instruction, and only where code breakpoints exist or each one traps are they
 * watched: elsewhere nobody would clear it. `flags`: what is loaded. */
static uint32_t resume_flag(const struct soft_vcpu *v, uint64_t flags)
{
    return v->dr7 & 0xff || flags & FL_TF ? FL_RF : 0;
}

static int iret_real(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t sp = v->gpr[R_SP], rip, cs, flags;
    int r = pop(v, i->size, &rip);
    if (!r)
        r = pop(v, i->size, &cs);
    if (!r)
        r = pop(v, i->size, &flags);
    if (!r && rip > v->seg[S_CS].limit)
        r = raise_gp(v, 0);
    if (r) {
        v->gpr[R_SP] = sp;
        return r;
    }
    segment_set_real(v, S_CS, (uint16_t)cs);
    uint32_t mask = F_ALL | FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT;
    if (i->size > 2)
        mask |= FL_AC | FL_ID | resume_flag(v, flags);
    flags_set(v, (uint32_t)flags, mask);
    v->rip = rip;
    return OP_JUMP;
}

/* ESP, SS, ES, DS, FS, GS follow on the stack. */
static int iret_to_v86(struct soft_vcpu *v, uint64_t rip, uint16_t cs, uint32_t flags, uint64_t sp)
{
    static const uint8_t segs[] = { S_SS, S_ES, S_DS, S_FS, S_GS };
    uint64_t image[6];
    int r = 0;
    for (unsigned n = 0; !r && n < ARRAY_LEN(image); n++)
        r = pop(v, 4, &image[n]);
    if (!r && rip > 0xffff)
        r = raise_gp(v, 0);
    if (r) {
        v->gpr[R_SP] = sp;
        return r;
    }
    flags_set(v, flags,
              F_ALL | FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT | FL_VM | FL_AC | FL_VIF | FL_VIP |
                  FL_ID | resume_flag(v, flags));
    v->gpr[R_SP] = image[0];
    segment_set_real(v, S_CS, cs);
    for (unsigned n = 0; n < ARRAY_LEN(segs); n++)
        segment_set_real(v, segs[n], (uint16_t)image[n + 1]);
    vcpu_mode_update(v);
    v->rip = rip;
    return OP_JUMP;
}

static int iret(struct soft_vcpu *v, const struct insn *i)
{
    if (v->nmi_masked) {
        v->nmi_masked = false;
        vcpu_request_self(v, REQ_INTERRUPT);
    }
    if (real_mode(v))
        return iret_real(v, i);
    if (v8086_mode(v))
        return v86_iret(v, i);
    if (v->flags & FL_NT)
        return v->long_mode ? raise_gp(v, 0) : task_return(v, i);

    uint64_t sp = v->gpr[R_SP], rip, selector, flags, new_sp = 0, ss_sel = 0;
    struct x86_segment cs, ss = v->seg[S_SS];
    uint8_t cpl;
    int r = pop(v, i->size, &rip);
    if (!r)
        r = pop(v, i->size, &selector);
    if (!r)
        r = pop(v, i->size, &flags);
    if (!r && !v->long_mode && i->size == 4 && flags & FL_VM && v->cpl == 0)
        return iret_to_v86(v, rip, (uint16_t)selector, (uint32_t)flags, sp);
    if (!r)
        r = code_segment_check(v, (uint16_t)selector, TRANSFER_RETURN, 0, &cs, &cpl);
    if (!r)
        r = target_check(v, &cs, rip);
    if (r)
        goto fault;
    bool outer = cpl != v->cpl, whole = v->mode == MODE_64;
    if (outer || whole) {
        r = pop(v, i->size, &new_sp);
        if (!r)
            r = pop(v, i->size, &ss_sel);
        if (!r && !(ss_sel & 0xfffc)) {
            bool to64 = v->long_mode && cs.attr & SEG_L;
            if (!to64 || cpl == 3 || (ss_sel & 3) != cpl)
                r = raise_gp(v, 0);
            ss = (struct x86_segment){ .selector = (uint16_t)ss_sel,
                                       .attr = (uint16_t)(SEG_UNUSABLE | cpl << SEG_DPL_SHIFT) };
        } else if (!r) {
            r = stack_segment_check(v, (uint16_t)ss_sel, cpl, EXC_GP, &ss);
        }
        if (r)
            goto fault;
    }
    uint32_t mask = F_ALL | FL_TF | FL_DF | FL_NT;
    if (i->size > 2)
        mask |= FL_AC | FL_ID | resume_flag(v, flags);
    if (v->cpl <= (v->flags >> 12 & 3))
        mask |= FL_IF;
    if (v->cpl == 0)
        mask |= FL_IOPL | (i->size > 2 ? FL_VIF | FL_VIP : 0);
    flags_set(v, (uint32_t)flags, mask);
    if (outer || whole) {
        v->seg[S_SS] = ss;
        code_segment_install(v, &cs, cpl);
        uint64_t stack_mask = size_mask(v->stack_size);
        v->gpr[R_SP] = (v->gpr[R_SP] & ~stack_mask) | (new_sp & stack_mask);
        if (v->stack_size != 2)
            v->gpr[R_SP] = new_sp & size_mask(v->stack_size);
        segments_drop_inner(v);
    } else {
        code_segment_install(v, &cs, cpl);
    }
    v->rip = rip;
    return OP_JUMP;
fault:
    v->gpr[R_SP] = sp;
    return r;
}

/* ---- INT and friends ---- */

static int int_i(struct soft_vcpu *v, const struct insn *i)
{
    return v8086_mode(v) ? v86_int(v, i, (uint8_t)i->imm)
                         : software_interrupt(v, i, (uint8_t)i->imm);
}
static int int3(struct soft_vcpu *v, const struct insn *i)
{
    return software_interrupt(v, i, EXC_BP);
}
static int into(struct soft_vcpu *v, const struct insn *i)
{
    return cc_to_flags(v->cc) & OF ? software_interrupt(v, i, EXC_OF) : OP_NEXT;
}
static int int1(struct soft_vcpu *v, const struct insn *i)
{
    struct delivery d = {
        .vector = EXC_DB, .flags = rflags_get(v), .rip = next_rip(v, i), .ext = 1
    };
    return delivered(v, &d);
}
static int ud(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    return raise_ud(v);
}

/* ---- INIT ---- */

void vcpu_init_reset(struct soft_vcpu *v)
{
    struct arch_state power_on;
    arch_state_reset(&power_on, v->vcpu.apic_id);
    memcpy(v->gpr, power_on.gpr, sizeof power_on.gpr);
    v->gpr[REG_NONE] = 0;
    v->rip = power_on.rip;
    status_set(v, 0);
    v->flags = FL_FIXED;
    memcpy(v->seg, power_on.seg, sizeof v->seg);
    v->gdtr = power_on.gdtr;
    v->idtr = power_on.idtr;
    v->cr0 = (power_on.cr0 & ~(uint64_t)(CR0_CD | CR0_NW)) | (v->cr0 & (CR0_CD | CR0_NW));
    v->cr2 = v->cr3 = v->cr4 = 0;
    v->efer = 0;
    v->long_mode = false;
    v->cpl = 0;
    memset(v->dr, 0, sizeof v->dr);
    v->dr6 = power_on.dr6;
    v->dr7 = power_on.dr7;
    v->interrupt_shadow = 0;
    v->nmi_masked = false;
    vcpu_mode_update(v);
    tlb_flush(v);
    vcpu_update_careful(v);
}

const struct op op_iret = OP_ALL(iret), op_int_I = OP_ALL(int_i), op_int3 = OP_ALL(int3),
                op_into = OP_ALL(into), op_int1 = OP_ALL(int1), op_ud = OP_ALL(ud);
