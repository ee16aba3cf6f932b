/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hardware task switches (SDM vol. 3A, chapter 8) and what leads to them: JMP, CALL and IRET, task
 * gates in the IDT, the GDT and LDTs. Not in long mode, which has none.
 *
 * A switch has two halves. Until the old task is saved everything can still fail and leave the vCPU
 * as it was. From then on the new task is what runs, and faults are its own: they are delivered
 * with its EIP, which task_switch has put into v->rip (*inside says so).
 */
#include "engine/soft/mem.h"
#include "engine/soft/run.h"
#include "engine/soft/seg.h"
#include "engine/soft/sys.h"

#include <string.h>

enum { TYPE_TSS16 = 1, TYPE_TASK_GATE = 5, TYPE_TSS32 = 9, TYPE_BUSY = 2 };
enum { TSS16_SIZE = 0x2c, TSS32_SIZE = 0x68 };
enum { DR6_BT = 1 << 15, DR7_LOCAL = 0x155 };

struct tss16 {
    uint16_t link, stacks[6];
    uint16_t ip, flags, gpr[8], es, cs, ss, ds, ldt;
};
_Static_assert(sizeof(struct tss16) == TSS16_SIZE, "figure 8-10");

struct tss32 {
    uint32_t link, stacks[6], cr3;
    uint32_t eip, eflags, gpr[8], es, cs, ss, ds, fs, gs, ldt;
    uint16_t trap, io_base;
};
_Static_assert(sizeof(struct tss32) == TSS32_SIZE, "figure 8-2");

/* The new task, from either form */
struct task {
    bool wide;
    uint32_t cr3, eip, eflags, gpr[8];
    uint16_t seg[6], ldt; /* by S_* */
    bool trap;
};

static bool is_wide(unsigned type) { return type & 8; }

/* ---- The old task is saved ---- */

static int save16(struct soft_vcpu *v, uint64_t rip, uint32_t flags)
{
    struct tss16 t = { .ip = (uint16_t)rip, .flags = (uint16_t)flags };
    for (unsigned n = 0; n < 8; n++)
        t.gpr[n] = (uint16_t)v->gpr[n];
    t.es = v->seg[S_ES].selector;
    t.cs = v->seg[S_CS].selector;
    t.ss = v->seg[S_SS].selector;
    t.ds = v->seg[S_DS].selector;
    return gva_store_system(v, v->seg[S_TR].base + offsetof(struct tss16, ip), &t.ip,
                            offsetof(struct tss16, ldt) - offsetof(struct tss16, ip));
}

static int save32(struct soft_vcpu *v, uint64_t rip, uint32_t flags)
{
    struct tss32 t = { .eip = (uint32_t)rip, .eflags = flags };
    for (unsigned n = 0; n < 8; n++)
        t.gpr[n] = (uint32_t)v->gpr[n];
    t.es = v->seg[S_ES].selector;
    t.cs = v->seg[S_CS].selector;
    t.ss = v->seg[S_SS].selector;
    t.ds = v->seg[S_DS].selector;
    t.fs = v->seg[S_FS].selector;
    t.gs = v->seg[S_GS].selector;
    return gva_store_system(v, v->seg[S_TR].base + offsetof(struct tss32, eip), &t.eip,
                            offsetof(struct tss32, ldt) - offsetof(struct tss32, eip));
}

static int busy_set(struct soft_vcpu *v, uint16_t selector, bool busy)
{
    const uint64_t va = v->gdtr.base + (selector & 0xfff8) + 5;
    uint8_t type;
    int r = gva_load_system(v, va, &type, 1);
    type = (uint8_t)(busy ? type | TYPE_BUSY : type & ~TYPE_BUSY);
    return r ? r : gva_store_system(v, va, &type, 1);
}

/* ---- The new one ---- */

static int task_read(struct soft_vcpu *v, const struct x86_segment *tss, struct task *t)
{
    memset(t, 0, sizeof *t);
    t->wide = is_wide(tss->attr);
    if (!t->wide) {
        struct tss16 s;
        int r = gva_load_system(v, tss->base, &s, sizeof s);
        if (r)
            return r;
        t->eip = s.ip;
        t->eflags = s.flags;
        for (unsigned n = 0; n < 8; n++)
            t->gpr[n] = 0xffff0000 | s.gpr[n];
        t->seg[S_ES] = s.es, t->seg[S_CS] = s.cs, t->seg[S_SS] = s.ss, t->seg[S_DS] = s.ds;
        t->ldt = s.ldt;
        return 0;
    }
    struct tss32 s;
    int r = gva_load_system(v, tss->base, &s, sizeof s);
    if (r)
        return r;
    t->cr3 = s.cr3;
    t->eip = s.eip;
    t->eflags = s.eflags;
    memcpy(t->gpr, s.gpr, sizeof t->gpr);
    t->seg[S_ES] = (uint16_t)s.es, t->seg[S_CS] = (uint16_t)s.cs, t->seg[S_SS] = (uint16_t)s.ss;
    t->seg[S_DS] = (uint16_t)s.ds, t->seg[S_FS] = (uint16_t)s.fs, t->seg[S_GS] = (uint16_t)s.gs;
    t->ldt = (uint16_t)s.ldt;
    t->trap = s.trap & 1;
    return 0;
}

static int ldt_load(struct soft_vcpu *v, uint16_t selector)
{
    uint64_t d;
    struct x86_segment s;
    v->seg[S_LDTR] = (struct x86_segment){ .selector = selector, .attr = SEG_UNUSABLE };
    if (!(selector & 0xfffc))
        return 0;
    if (selector & 4)
        return raise_error(v, EXC_TS, selector & 0xfffc);
    int r = descriptor_read(v, selector, EXC_TS, &d);
    if (r)
        return r;
    segment_unpack(&s, selector, d);
    if ((s.attr & (SEG_TYPE | SEG_S)) != 2 || !(s.attr & SEG_P))
        return raise_error(v, EXC_TS, selector & 0xfffc);
    v->seg[S_LDTR] = s;
    return 0;
}

/* What the checks of a load raise as #GP(selector) is #TS(selector) here. */
static int as_ts(struct soft_vcpu *v, int r)
{
    if (r && v->exc.vector == EXC_GP)
        v->exc.vector = EXC_TS;
    return r;
}

static int segments_load(struct soft_vcpu *v, const struct task *t)
{
    static const uint8_t data[] = { S_DS, S_ES, S_FS, S_GS };
    struct x86_segment s;
    uint8_t cpl;
    if (v8086_mode(v)) {
        for (unsigned n = 0; n < 6; n++)
            segment_set_real(v, n, t->seg[n]);
        vcpu_mode_update(v);
        return 0;
    }
    /* A return to CPL 0 from 0 checks nothing but what a switch checks: RPL is the new CPL. */
    v->cpl = 0;
    int r = as_ts(v, code_segment_check(v, t->seg[S_CS], TRANSFER_RETURN, 0, &s, &cpl));
    v->cpl = t->seg[S_CS] & 3;
    if (r)
        return r;
    code_segment_install(v, &s, cpl);
    if (!(t->seg[S_SS] & 0xfffc))
        return raise_error(v, EXC_TS, 0);
    r = as_ts(v, stack_segment_check(v, t->seg[S_SS], cpl, EXC_TS, &s));
    if (r)
        return r;
    v->seg[S_SS] = s;
    vcpu_mode_update(v);
    for (unsigned n = 0; n < ARRAY_LEN(data); n++) {
        r = as_ts(v, segment_load(v, data[n], t->seg[data[n]]));
        if (r)
            return r;
    }
    return 0;
}

/* Second half: faults are the new task's. */
static int task_enter(struct soft_vcpu *v, const struct x86_segment *tss, const struct task *t,
                      uint32_t eflags)
{
    v->cr0 |= CR0_TS;
    v->seg[S_TR] = *tss;
    v->seg[S_TR].attr |= TYPE_BUSY;
    v->dr7 &= ~(uint64_t)DR7_LOCAL;
    for (unsigned n = 0; n < 8; n++)
        v->gpr[n] = t->gpr[n];
    v->rip = t->eip;
    for (unsigned n = 0; n < 6; n++)
        v->seg[n] = (struct x86_segment){ .selector = t->seg[n], .attr = SEG_UNUSABLE };
    int r = t->wide && v->cr0 & CR0_PG ? cr3_write(v, t->cr3) : 0;
    flags_set(v, eflags,
              F_ALL | FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT |
                  (t->wide ? FL_RF | FL_VM | FL_AC | FL_VIF | FL_VIP | FL_ID : FL_VM));
    v->cpl = v8086_mode(v) ? 3 : t->seg[S_CS] & 3;
    vcpu_mode_update(v);
    vcpu_update_careful(v);
    vcpu_request_self(v, REQ_INTERRUPT);
    if (!r)
        r = ldt_load(v, t->ldt);
    if (!r)
        r = segments_load(v, t);
    if (!r && v->rip > v->seg[S_CS].limit)
        r = raise_gp(v, 0);
    return r;
}

int task_switch(struct soft_vcpu *v, uint16_t selector, const struct task_cause *cause,
                bool *inside)
{
    const bool back = cause->how == TASK_RETURN, nested = cause->how == TASK_CALL;
    const uint32_t error = (selector & 0xfffc) | cause->ext;
    const uint8_t wrong = back ? EXC_TS : EXC_GP;
    struct x86_segment tss;
    struct task t;
    uint64_t d;
    *inside = false;
    if (selector & 4)
        return raise_error(v, wrong, error);
    int r = descriptor_read(v, selector, wrong, &d);
    if (r) {
        v->exc.error |= v->exc.vector == wrong ? cause->ext : 0;
        return r;
    }
    segment_unpack(&tss, selector, d);
    const unsigned type = tss.attr & (SEG_TYPE | SEG_S), want = back ? TYPE_BUSY : 0;
    if ((type & ~(unsigned)(TYPE_BUSY | 8)) != TYPE_TSS16 || (type & TYPE_BUSY) != want)
        return raise_error(v, wrong, error);
    if (!(tss.attr & SEG_P))
        return raise_error(v, EXC_NP, error);
    if (tss.limit < (is_wide(type) ? TSS32_SIZE : TSS16_SIZE) - 1u)
        return raise_error(v, EXC_TS, error);

    const uint16_t old = v->seg[S_TR].selector;
    r = task_read(v, &tss, &t);
    if (!r)
        r = is_wide(v->seg[S_TR].attr)
                ? save32(v, cause->rip, back ? cause->flags & ~(uint32_t)FL_NT : cause->flags)
                : save16(v, cause->rip, back ? cause->flags & ~(uint32_t)FL_NT : cause->flags);
    if (!r && nested)
        r = gva_store_system(v, tss.base, &old, 2);
    if (!r && !nested)
        r = busy_set(v, old, false);
    if (!r && !back)
        r = busy_set(v, selector, true);
    if (r)
        return r;

    *inside = true;
    r = task_enter(v, &tss, &t, nested ? t.eflags | FL_NT : t.eflags);
    if (!r && cause->has_error)
        r = push(v, t.wide ? 4 : 2, cause->error);
    if (!r && t.trap) {
        v->exc = (struct exception){ .vector = EXC_DB, .dr6 = DR6_BT };
        r = OP_FAULT;
    }
    return r;
}

int task_fault(struct soft_vcpu *v)
{
    if (exception_deliver(v))
        return OP_JUMP;
    v->exit = VCPU_SHUTDOWN;
    return OP_EXIT;
}

static int transfer(struct soft_vcpu *v, const struct insn *i, uint16_t selector, unsigned how)
{
    const struct task_cause cause = { .how = how, .rip = next_rip(v, i), .flags = rflags_get(v) };
    bool inside;
    int r = task_switch(v, selector, &cause, &inside);
    if (r)
        return inside ? task_fault(v) : r;
    return OP_JUMP;
}

int task_far(struct soft_vcpu *v, const struct insn *i, uint16_t selector, uint64_t d, bool call)
{
    const unsigned dpl = d >> 45 & 3, type = d >> 40 & 0xf;
    if (dpl < v->cpl || dpl < (selector & 3u))
        return raise_gp(v, selector & 0xfffc);
    if (type == TYPE_TASK_GATE) {
        if (!(d >> 47 & 1))
            return raise_error(v, EXC_NP, selector & 0xfffc);
        selector = (uint16_t)(d >> 16);
        if (!(selector & 0xfffc))
            return raise_gp(v, 0);
    }
    return transfer(v, i, selector, call ? TASK_CALL : TASK_JUMP);
}

int task_return(struct soft_vcpu *v, const struct insn *i)
{
    uint16_t link;
    int r = gva_load_system(v, v->seg[S_TR].base, &link, 2);
    return r ? r : transfer(v, i, link, TASK_RETURN);
}
