/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Call gates, and the stacks of inner levels (SDM vol. 3A, 5.8).
 */
#include "engine/soft/mem.h"
#include "engine/soft/run.h"
#include "engine/soft/seg.h"

/* ---- Stacks that are not the vCPU's yet ---- */

int stack_from_tss(struct soft_vcpu *v, unsigned cpl, uint16_t *ss, uint64_t *sp)
{
    const struct x86_segment *tr = &v->seg[S_TR];
    uint32_t error = tr->selector & 0xfffc;
    if (v->long_mode) {
        if (4 + cpl * 8 + 7 > tr->limit)
            return raise_error(v, EXC_TS, error);
        *ss = 0;
        return gva_load_system(v, tr->base + 4 + cpl * 8, sp, 8);
    }
    *sp = 0;
    if ((tr->attr & SEG_TYPE & ~2) == 1) { /* 16-bit TSS */
        uint16_t pair[2];
        if (2 + cpl * 4 + 3 > tr->limit)
            return raise_error(v, EXC_TS, error);
        int r = gva_load_system(v, tr->base + 2 + cpl * 4, pair, 4);
        *sp = pair[0];
        *ss = pair[1];
        return r;
    }
    uint32_t pair[2];
    if (4 + cpl * 8 + 5 > tr->limit)
        return raise_error(v, EXC_TS, error);
    int r = gva_load_system(v, tr->base + 4 + cpl * 8, pair, 8);
    *sp = pair[0];
    *ss = (uint16_t)pair[1];
    return r;
}

int inner_stack(struct soft_vcpu *v, uint8_t cpl, struct x86_segment *ss, uint64_t *sp)
{
    uint16_t selector;
    int r = stack_from_tss(v, cpl, &selector, sp);
    if (r)
        return r;
    if (v->long_mode) {
        *ss = (struct x86_segment){ .selector = cpl,
                                    .attr = (uint16_t)(SEG_UNUSABLE | cpl << SEG_DPL_SHIFT) };
        return 0;
    }
    if (!(selector & 0xfffc))
        return raise_error(v, EXC_TS, 0);
    return stack_segment_check(v, selector, cpl, EXC_TS, ss);
}

void frame_begin(const struct soft_vcpu *v, struct frame *f, const struct x86_segment *ss,
                 uint64_t sp, unsigned size)
{
    *f = (struct frame){ .sp = sp, .mask = ~0ull, .size = size };
    if (v->long_mode)
        return;
    f->mask = ss->attr & SEG_DB ? 0xffffffff : 0xffff;
    f->base = ss->base;
    f->limit = (ss->attr & 0xc) == 4 ? 0xffffffff : ss->limit;
    f->checked = true;
    f->error = ss->selector == v->seg[S_SS].selector ? 0 : ss->selector & 0xfffc;
}

int frame_push(struct soft_vcpu *v, struct frame *f, uint64_t value)
{
    uint64_t sp = (f->sp - f->size) & f->mask;
    if (f->checked && sp + f->size - 1 > f->limit)
        return raise_error(v, EXC_SS, f->error);
    uint64_t va = f->checked ? (f->base + sp) & 0xffffffff : sp;
    int r = gva_store(v, va, &value, f->size);
    if (!r)
        f->sp = sp;
    else if (v->exc.vector == EXC_GP)
        return raise_error(v, EXC_SS, f->error);
    return r;
}

/* ---- Call gates ---- */

struct gate {
    uint16_t selector;
    uint64_t target;
    unsigned size, parameters;
};

static int gate_read(struct soft_vcpu *v, uint16_t selector, uint64_t d, struct gate *g)
{
    const uint32_t error = selector & 0xfffc;
    const unsigned dpl = d >> 45 & 3;
    const bool wide = d >> 43 & 1;
    uint64_t high = 0;
    if (dpl < v->cpl || dpl < (selector & 3u))
        return raise_gp(v, error);
    if (v->long_mode) {
        int r = descriptor_read_high(v, selector, EXC_GP, &high);
        if (r)
            return r;
        if (high >> 40 & 0x1f)
            return raise_gp(v, error);
    }
    if (!(d >> 47 & 1))
        return raise_error(v, EXC_NP, error);
    *g = (struct gate){
        .selector = (uint16_t)(d >> 16),
        .target = (d & 0xffff) | (wide ? d >> 32 & 0xffff0000 : 0) | high << 32,
        .size = v->long_mode ? 8
                : wide       ? 4
                             : 2,
        .parameters = v->long_mode ? 0 : d >> 32 & 31,
    };
    return 0;
}

/* The parameters of the outer stack, the last one pushed first */
static int parameters_copy(struct soft_vcpu *v, const struct gate *g, struct frame *f)
{
    const uint64_t mask = size_mask(v->stack_size);
    for (unsigned n = g->parameters; n-- > 0;) {
        const uint64_t sp = (v->gpr[R_SP] + n * g->size) & mask;
        uint64_t va, value = 0;
        int r = segment_linear(v, S_SS, sp, g->size, false, &va);
        if (!r)
            r = gva_load(v, va, &value, g->size);
        if (!r)
            r = frame_push(v, f, value);
        if (r)
            return r;
    }
    return 0;
}

/* CALL to an inner level: its stack comes from the TSS. */
static int call_inner(struct soft_vcpu *v, const struct insn *i, const struct gate *g,
                      const struct x86_segment *cs, uint8_t cpl)
{
    struct x86_segment ss;
    struct frame f;
    uint64_t sp;
    int r = inner_stack(v, cpl, &ss, &sp);
    if (r)
        return r;
    frame_begin(v, &f, &ss, sp, g->size);
    const uint8_t old_cpl = v->cpl;
    v->cpl = cpl;
    tlb_mode_changed(v);
    r = frame_push(v, &f, v->seg[S_SS].selector);
    if (!r)
        r = frame_push(v, &f, v->gpr[R_SP]);
    if (!r)
        r = parameters_copy(v, g, &f);
    if (!r)
        r = frame_push(v, &f, v->seg[S_CS].selector);
    if (!r)
        r = frame_push(v, &f, next_rip(v, i));
    v->cpl = old_cpl;
    tlb_mode_changed(v);
    if (r)
        return r;
    v->seg[S_SS] = ss;
    v->gpr[R_SP] = v->long_mode ? f.sp : (v->gpr[R_SP] & ~f.mask) | f.sp;
    code_segment_install(v, cs, cpl);
    v->rip = g->target;
    return OP_JUMP;
}

int gate_far(struct soft_vcpu *v, const struct insn *i, uint16_t selector, uint64_t d, bool call)
{
    struct x86_segment cs;
    struct gate g;
    uint8_t cpl;
    int r = gate_read(v, selector, d, &g);
    if (!r)
        r = code_segment_check(v, g.selector, TRANSFER_GATE, 0, &cs, &cpl);
    if (r)
        return r;
    if (!call && cpl != v->cpl)
        return raise_gp(v, g.selector & 0xfffc);
    r = target_check(v, &cs, g.target);
    if (r)
        return r;
    if (cpl != v->cpl)
        return call_inner(v, i, &g, &cs, cpl);
    const uint64_t sp = v->gpr[R_SP];
    if (call)
        r = push(v, g.size, v->seg[S_CS].selector);
    if (call && !r)
        r = push(v, g.size, next_rip(v, i));
    if (r) {
        v->gpr[R_SP] = sp;
        return r;
    }
    code_segment_install(v, &cs, cpl);
    v->rip = g.target;
    return OP_JUMP;
}
