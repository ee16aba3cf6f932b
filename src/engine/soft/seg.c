/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Segments: descriptors, segment registers, far jumps, calls and returns. Gates are in gate.c,
 * tasks in task.c.
 */
#include "engine/soft/seg.h"

#include "engine/soft/code.h"
#include "engine/soft/mem.h"
#include "engine/soft/run.h"

enum { TYPE_ACCESSED = 1, TYPE_RW = 2, TYPE_CONFORMING = 4, TYPE_CODE = 8 };

static unsigned dpl_of(const struct x86_segment *s) { return s->attr >> SEG_DPL_SHIFT & 3; }
static bool is_null(uint16_t selector) { return !(selector & 0xfffc); }
static bool is_code(const struct x86_segment *s)
{
    return (s->attr & SEG_S) && (s->attr & TYPE_CODE);
}
static bool is_data(const struct x86_segment *s)
{
    return (s->attr & SEG_S) && !(s->attr & TYPE_CODE);
}

static int descriptor_address(struct soft_vcpu *v, uint16_t selector, uint8_t vector, unsigned size,
                              uint64_t *va)
{
    uint64_t base, limit;
    if (selector & 4) {
        if (v->seg[S_LDTR].attr & SEG_UNUSABLE)
            return raise_error(v, vector, selector & 0xfffc);
        base = v->seg[S_LDTR].base;
        limit = v->seg[S_LDTR].limit;
    } else {
        base = v->gdtr.base;
        limit = v->gdtr.limit;
    }
    uint64_t offset = selector & 0xfff8;
    if (offset + size - 1 > limit)
        return raise_error(v, vector, selector & 0xfffc);
    *va = base + offset;
    return 0;
}

int descriptor_read(struct soft_vcpu *v, uint16_t selector, uint8_t vector, uint64_t *out)
{
    uint64_t va;
    int r = descriptor_address(v, selector, vector, 8, &va);
    return r ? r : gva_load_system(v, va, out, 8);
}

int descriptor_read_high(struct soft_vcpu *v, uint16_t selector, uint8_t vector, uint64_t *out)
{
    uint64_t va;
    int r = descriptor_address(v, selector, vector, 16, &va);
    return r ? r : gva_load_system(v, va + 8, out, 8);
}

void segment_unpack(struct x86_segment *s, uint16_t selector, uint64_t d)
{
    s->selector = selector;
    s->base = (d >> 16 & 0xffffff) | (d >> 32 & 0xff000000);
    s->limit = (uint32_t)((d & 0xffff) | (d >> 32 & 0xf0000));
    s->attr = (uint16_t)((d >> 40 & 0xff) | (d >> 52 & 0xf) << 8);
    if (s->attr & SEG_G)
        s->limit = s->limit << 12 | 0xfff;
}

static int set_accessed(struct soft_vcpu *v, struct x86_segment *s)
{
    if (s->attr & TYPE_ACCESSED)
        return 0;
    uint64_t va;
    uint8_t type = 0;
    int r = descriptor_address(v, s->selector, EXC_GP, 8, &va);
    if (!r)
        r = gva_load_system(v, va + 5, &type, 1);
    type |= TYPE_ACCESSED;
    if (!r)
        r = gva_store_system(v, va + 5, &type, 1);
    if (!r)
        s->attr |= TYPE_ACCESSED;
    return r;
}

/* segment_check (mem.c), as far as one number can tell it. */
static void room_set(struct soft_vcpu *v, unsigned seg)
{
    const struct x86_segment *s = &v->seg[seg];
    const bool typed = v->cr0 & CR0_PE && !v8086_mode(v), code = s->attr & TYPE_CODE;
    const bool usable = !(s->attr & SEG_UNUSABLE) && s->attr & SEG_P && (s->attr & 0xc) != 4;
    const bool read = usable && !(typed && code && !(s->attr & TYPE_RW));
    const bool write = usable && !(typed && (code || !(s->attr & TYPE_RW)));
    v->seg_room[0][seg] = read ? s->limit + 1ull : 0;
    v->seg_room[1][seg] = write ? s->limit + 1ull : 0;
}

/* CS of a block that counts by IP. */
static uint32_t cs_key(const struct soft_vcpu *v)
{
    const struct x86_segment *cs = &v->seg[S_CS];
    if ((real_mode(v) || v8086_mode(v)) && cs->limit == 0xffff && !(cs->base & ~0xffff0ull))
        return CODE_BY_IP | (uint32_t)cs->base << (CODE_CS_SHIFT - 4);
    uint32_t name = code_cs_name(soft_engine_of(v), (uint32_t)cs->base, cs->limit);
    return name ? CODE_BY_IP | name : 0;
}

/* What translated code may take for granted; 0: there is none. */
static uint32_t segments_key(const struct soft_vcpu *v)
{
    const uint64_t all = 1ull << 32, *room = v->seg_room[1], *base = v->seg_base;
    const struct x86_segment *cs = &v->seg[S_CS];
    const uint32_t segments = CODE_SEGMENTS | (v->stack_size == 2 ? CODE_STACK16 : 0);
    if (v->mode == MODE_64 || cs->attr & SEG_UNUSABLE || !(cs->attr & SEG_P))
        return 0;
    if (v->mode == MODE_16 || cs->base || cs->limit != ~0u) {
        uint32_t key = cs_key(v);
        return key ? key | segments : 0;
    }
    bool flat = v->stack_size == 4 && !(base[S_SS] | base[S_DS] | base[S_ES]) &&
                room[S_SS] == all && room[S_DS] == all && room[S_ES] == all;
    return flat ? CODE_FLAT : segments;
}

void segments_changed(struct soft_vcpu *v)
{
    for (unsigned seg = S_ES; seg <= S_GS && v->mode != MODE_64; seg++)
        room_set(v, seg);
    v->seg_key = segments_key(v);
}

static void segment_changed(struct soft_vcpu *v, unsigned seg)
{
    if (v->mode == MODE_64)
        return;
    room_set(v, seg);
    v->seg_key = segments_key(v);
}

static void segment_install(struct soft_vcpu *v, unsigned seg, const struct x86_segment *s)
{
    v->seg[seg] = *s;
    if (seg == S_FS || seg == S_GS || v->mode != MODE_64)
        v->seg_base[seg] = s->base;
    if (seg == S_SS && v->mode != MODE_64)
        v->stack_size = s->attr & SEG_DB ? 4 : 2;
    segment_changed(v, seg);
}

void segment_set_real(struct soft_vcpu *v, unsigned seg, uint16_t selector)
{
    v->seg[seg].selector = selector;
    v->seg[seg].base = (uint64_t)selector << 4;
    if (v8086_mode(v)) {
        v->seg[seg].limit = 0xffff;
        v->seg[seg].attr = SEG_P | SEG_S | 3 | 3 << SEG_DPL_SHIFT;
    } else if (v->seg[seg].attr & SEG_UNUSABLE) {
        v->seg[seg].limit = 0xffff;
        v->seg[seg].attr = SEG_P | SEG_S | 3;
    }
    v->seg_base[seg] = v->seg[seg].base;
    segment_changed(v, seg);
}

int stack_segment_check(struct soft_vcpu *v, uint16_t selector, uint8_t cpl, uint8_t vector,
                        struct x86_segment *out)
{
    uint64_t d;
    int r = descriptor_read(v, selector, vector, &d);
    if (r)
        return r;
    segment_unpack(out, selector, d);
    if ((selector & 3) != cpl || !is_data(out) || !(out->attr & TYPE_RW) || dpl_of(out) != cpl)
        return raise_error(v, vector, selector & 0xfffc);
    if (!(out->attr & SEG_P))
        return raise_error(v, EXC_SS, selector & 0xfffc);
    return set_accessed(v, out);
}

int segment_load(struct soft_vcpu *v, unsigned seg, uint16_t selector)
{
    if (real_mode(v) || v8086_mode(v)) {
        segment_set_real(v, seg, selector);
        return 0;
    }
    struct x86_segment s = { .selector = selector, .attr = SEG_UNUSABLE };
    if (is_null(selector)) {
        if (seg == S_SS) {
            if (v->mode != MODE_64 || v->cpl == 3 || (selector & 3) != v->cpl)
                return raise_gp(v, 0);
            s.attr |= (uint16_t)(v->cpl << SEG_DPL_SHIFT);
        }
        segment_install(v, seg, &s);
        return 0;
    }
    int r;
    if (seg == S_SS) {
        r = stack_segment_check(v, selector, v->cpl, EXC_GP, &s);
        if (r)
            return r;
        segment_install(v, seg, &s);
        return 0;
    }
    uint64_t d;
    r = descriptor_read(v, selector, EXC_GP, &d);
    if (r)
        return r;
    segment_unpack(&s, selector, d);
    bool readable = is_data(&s) || (is_code(&s) && s.attr & TYPE_RW);
    bool conforming = is_code(&s) && s.attr & TYPE_CONFORMING;
    unsigned weakest = (selector & 3) > v->cpl ? selector & 3 : v->cpl;
    if (!readable || (!conforming && weakest > dpl_of(&s)))
        return raise_gp(v, selector & 0xfffc);
    if (!(s.attr & SEG_P))
        return raise_error(v, EXC_NP, selector & 0xfffc);
    r = set_accessed(v, &s);
    if (r)
        return r;
    segment_install(v, seg, &s);
    return 0;
}

int code_segment_check(struct soft_vcpu *v, uint16_t selector, enum transfer how, uint32_t ext,
                       struct x86_segment *out, uint8_t *cpl)
{
    uint32_t error = (selector & 0xfffc) | ext;
    if (is_null(selector))
        return raise_gp(v, ext);
    uint64_t d;
    int r = descriptor_read(v, selector, EXC_GP, &d);
    if (r) {
        v->exc.error |= v->exc.vector == EXC_GP ? ext : 0;
        return r;
    }
    segment_unpack(out, selector, d);
    if (!is_code(out))
        return raise_gp(v, error);
    unsigned dpl = dpl_of(out), rpl = selector & 3;
    bool conforming = out->attr & TYPE_CONFORMING;
    bool bad;
    switch (how) {
    case TRANSFER_JUMP:
        bad = conforming ? dpl > v->cpl : rpl > v->cpl || dpl != v->cpl;
        *cpl = v->cpl;
        break;
    case TRANSFER_RETURN:
        bad = rpl < v->cpl || (conforming ? dpl > rpl : dpl != rpl);
        *cpl = (uint8_t)rpl;
        break;
    default: bad = dpl > v->cpl; *cpl = conforming ? v->cpl : (uint8_t)dpl;
    }
    if (bad || (v->long_mode && out->attr & SEG_L && out->attr & SEG_DB) ||
        (how == TRANSFER_GATE && v->long_mode && !(out->attr & SEG_L)))
        return raise_gp(v, error);
    if (!(out->attr & SEG_P))
        return raise_error(v, EXC_NP, error);
    out->selector = (uint16_t)((selector & 0xfffc) | *cpl);
    return set_accessed(v, out);
}

int target_check(struct soft_vcpu *v, const struct x86_segment *cs, uint64_t rip)
{
    if (v->long_mode && cs->attr & SEG_L)
        return is_canonical(rip) ? 0 : raise_gp(v, 0);
    return rip > cs->limit ? raise_gp(v, 0) : 0;
}

void code_segment_install(struct soft_vcpu *v, const struct x86_segment *cs, uint8_t cpl)
{
    v->seg[S_CS] = *cs;
    v->cpl = cpl;
    vcpu_mode_update(v);
}

void segments_drop_inner(struct soft_vcpu *v)
{
    static const uint8_t data[] = { S_ES, S_DS, S_FS, S_GS };
    for (unsigned n = 0; n < ARRAY_LEN(data); n++) {
        struct x86_segment *s = &v->seg[data[n]];
        bool conforming = is_code(s) && s->attr & TYPE_CONFORMING;
        if (s->attr & SEG_UNUSABLE || conforming || dpl_of(s) >= v->cpl)
            continue;
        struct x86_segment null = { .attr = SEG_UNUSABLE };
        segment_install(v, data[n], &null);
    }
}

/* ---- Far transfers ---- */

static int far_target(struct soft_vcpu *v, uint16_t selector, uint64_t offset,
                      struct x86_segment *cs, uint8_t *cpl)
{
    if (real_mode(v) || v8086_mode(v)) {
        *cs = v->seg[S_CS];
        cs->selector = selector;
        cs->base = (uint64_t)selector << 4;
        *cpl = v->cpl;
        return offset > cs->limit ? raise_gp(v, 0) : 0;
    }
    int r = code_segment_check(v, selector, TRANSFER_JUMP, 0, cs, cpl);
    return r ? r : target_check(v, cs, offset);
}

/* What is no code segment: call gates, task gates, task states. Answers OP_NEXT for code and for
 * what the code segment's own checks find wrong. */
static int system_target(struct soft_vcpu *v, const struct insn *i, uint16_t selector, bool call)
{
    enum { GATE_16 = 4, TASK = 5, GATE = 0xc, TSS_16 = 1, TSS = 9 };
    uint64_t d;
    if (real_mode(v) || v8086_mode(v) || is_null(selector))
        return OP_NEXT;
    int r = descriptor_read(v, selector, EXC_GP, &d);
    if (r)
        return r;
    if (d >> 44 & 1)
        return OP_NEXT;
    unsigned type = d >> 40 & 15;
    if (type == GATE || (type == GATE_16 && !v->long_mode))
        return gate_far(v, i, selector, d, call);
    if (!v->long_mode && (type == TASK || type == TSS_16 || type == TSS))
        return task_far(v, i, selector, d, call);
    return raise_gp(v, selector & 0xfffc);
}

static int jump_far(struct soft_vcpu *v, const struct insn *i, uint16_t selector, uint64_t offset)
{
    struct x86_segment cs;
    uint8_t cpl;
    int r = system_target(v, i, selector, false);
    if (r)
        return r;
    r = far_target(v, selector, offset, &cs, &cpl);
    if (r)
        return r;
    code_segment_install(v, &cs, cpl);
    v->rip = offset;
    return OP_JUMP;
}

static int call_far(struct soft_vcpu *v, const struct insn *i, uint16_t selector, uint64_t offset)
{
    struct x86_segment cs;
    uint8_t cpl;
    uint64_t back = next_rip(v, i), sp = v->gpr[R_SP];
    int r = system_target(v, i, selector, true);
    if (r)
        return r;
    r = far_target(v, selector, offset, &cs, &cpl);
    if (!r)
        r = push(v, i->size, v->seg[S_CS].selector);
    if (!r)
        r = push(v, i->size, back);
    if (r) {
        v->gpr[R_SP] = sp;
        return r;
    }
    code_segment_install(v, &cs, cpl);
    v->rip = offset;
    return OP_JUMP;
}

static int far_pointer(struct soft_vcpu *v, const struct insn *i, uint16_t *selector,
                       uint64_t *offset)
{
    uint64_t va;
    uint8_t bytes[10] = { 0 };
    int r = ea(v, i, i->size + 2u, false, &va);
    if (!r)
        r = gva_load(v, va, bytes, i->size + 2u);
    if (r)
        return r;
    *offset = 0;
    __builtin_memcpy(offset, bytes, i->size);
    __builtin_memcpy(selector, bytes + i->size, 2);
    return 0;
}

static int jmp_far_a(struct soft_vcpu *v, const struct insn *i)
{
    return jump_far(v, i, (uint16_t)insn_sel(i), insn_offset(i));
}
static int call_far_a(struct soft_vcpu *v, const struct insn *i)
{
    return call_far(v, i, (uint16_t)insn_sel(i), insn_offset(i));
}

static int jmp_far_m(struct soft_vcpu *v, const struct insn *i)
{
    uint16_t selector;
    uint64_t offset;
    int r = far_pointer(v, i, &selector, &offset);
    return r ? r : jump_far(v, i, selector, offset);
}

static int call_far_m(struct soft_vcpu *v, const struct insn *i)
{
    uint16_t selector;
    uint64_t offset;
    int r = far_pointer(v, i, &selector, &offset);
    return r ? r : call_far(v, i, selector, offset);
}

static int return_far(struct soft_vcpu *v, const struct insn *i, uint64_t release)
{
    uint64_t sp = v->gpr[R_SP], rip, selector, new_sp, ss_sel;
    int r = pop(v, i->size, &rip);
    if (!r)
        r = pop(v, i->size, &selector);
    if (r)
        goto fault;
    uint64_t mask = size_mask(v->stack_size);
    struct x86_segment cs, ss;
    uint8_t cpl;
    if (real_mode(v) || v8086_mode(v)) {
        segment_set_real(v, S_CS, (uint16_t)selector);
        vcpu_mode_update(v);
        v->gpr[R_SP] = (v->gpr[R_SP] & ~mask) | ((v->gpr[R_SP] + release) & mask);
        v->rip = rip & size_mask(i->size);
        return OP_JUMP;
    }
    r = code_segment_check(v, (uint16_t)selector, TRANSFER_RETURN, 0, &cs, &cpl);
    if (!r)
        r = target_check(v, &cs, rip);
    if (r)
        goto fault;
    v->gpr[R_SP] = (v->gpr[R_SP] & ~mask) | ((v->gpr[R_SP] + release) & mask);
    if (cpl == v->cpl) {
        code_segment_install(v, &cs, cpl);
        v->rip = rip;
        return OP_JUMP;
    }
    r = pop(v, i->size, &new_sp);
    if (!r)
        r = pop(v, i->size, &ss_sel);
    if (!r && is_null((uint16_t)ss_sel)) {
        if (!(v->long_mode && cs.attr & SEG_L) || cpl == 3)
            r = raise_gp(v, 0);
        ss = (struct x86_segment){ .selector = (uint16_t)ss_sel, .attr = SEG_UNUSABLE };
    } else if (!r) {
        r = stack_segment_check(v, (uint16_t)ss_sel, cpl, EXC_GP, &ss);
    }
    if (r)
        goto fault;
    v->seg[S_SS] = ss;
    code_segment_install(v, &cs, cpl);
    mask = size_mask(v->stack_size);
    v->gpr[R_SP] = (new_sp & ~mask & size_mask(i->size)) | ((new_sp + release) & mask);
    segments_drop_inner(v);
    v->rip = rip;
    return OP_JUMP;
fault:
    v->gpr[R_SP] = sp;
    return r;
}

static int retf(struct soft_vcpu *v, const struct insn *i) { return return_far(v, i, 0); }
static int retf_i(struct soft_vcpu *v, const struct insn *i)
{
    return return_far(v, i, (uint16_t)i->imm);
}

/* ---- Segment registers ---- */

static int mov_es(struct soft_vcpu *v, const struct insn *i) /* segment to register or memory */
{
    uint16_t selector = v->seg[i->reg].selector;
    if (!(i->flags & IF_MEM)) {
        gpr_set(v, i->rm, i->size, selector);
        return OP_NEXT;
    }
    uint64_t va;
    int r = ea(v, i, 2, true, &va);
    return r ? r : store16(v, va, selector);
}

/* MOV SS and POP SS hold interrupts and traps off for one instruction. */
static void stack_loaded(struct soft_vcpu *v)
{
    v->interrupt_shadow = 2;
    vcpu_request_self(v, REQ_INTERRUPT);
}

static int mov_se(struct soft_vcpu *v, const struct insn *i)
{
    if (i->reg == S_CS || i->reg > S_GS)
        return raise_ud(v);
    uint16_t selector = (uint16_t)v->gpr[i->rm];
    if (i->flags & IF_MEM) {
        uint64_t va;
        int r = ea(v, i, 2, false, &va);
        if (!r)
            r = load16(v, va, &selector);
        if (r)
            return r;
    }
    int r = segment_load(v, i->reg, selector);
    if (r)
        return r;
    if (i->reg == S_SS)
        stack_loaded(v);
    return OP_END; /* decoding assumed the old stack size and bases */
}

static int push_s(struct soft_vcpu *v, const struct insn *i)
{
    return push(v, i->size, v->seg[i->reg].selector);
}

static int pop_s(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t sp = v->gpr[R_SP], selector;
    int r = pop(v, i->size, &selector);
    if (!r)
        r = segment_load(v, i->reg, (uint16_t)selector);
    if (r) {
        v->gpr[R_SP] = sp;
        return r;
    }
    if (i->reg == S_SS)
        stack_loaded(v);
    return OP_END;
}

static int load_far(struct soft_vcpu *v, const struct insn *i, unsigned seg)
{
    uint16_t selector;
    uint64_t offset;
    int r = far_pointer(v, i, &selector, &offset);
    if (!r)
        r = segment_load(v, seg, selector);
    if (r)
        return r;
    gpr_set(v, i->reg, i->size, offset);
    return OP_END;
}
static int les(struct soft_vcpu *v, const struct insn *i) { return load_far(v, i, S_ES); }
static int lds(struct soft_vcpu *v, const struct insn *i) { return load_far(v, i, S_DS); }
static int lss(struct soft_vcpu *v, const struct insn *i) { return load_far(v, i, S_SS); }
static int lfs(struct soft_vcpu *v, const struct insn *i) { return load_far(v, i, S_FS); }
static int lgs(struct soft_vcpu *v, const struct insn *i) { return load_far(v, i, S_GS); }

/* ---- LAR, LSL, VERR, VERW, ARPL: looking at descriptors without loading them ---- */

static int selector_operand(struct soft_vcpu *v, const struct insn *i, uint16_t *selector)
{
    *selector = (uint16_t)v->gpr[i->rm];
    if (!(i->flags & IF_MEM))
        return 0;
    uint64_t va;
    int r = ea(v, i, 2, false, &va);
    return r ? r : load16(v, va, selector);
}

static void zf_set(struct soft_vcpu *v, bool zf)
{
    uint32_t fl = cc_to_flags(v->cc) & ~(uint32_t)ZF;
    status_set(v, fl | (zf ? ZF : 0));
}

/* 1: visible to LAR/LSL/VERx at this privilege; 0: not; negative: a page fault was raised. */
static int descriptor_peek(struct soft_vcpu *v, uint16_t selector, struct x86_segment *s)
{
    uint64_t d;
    if (is_null(selector))
        return 0;
    if (descriptor_read(v, selector, EXC_GP, &d))
        return v->exc.vector == EXC_PF ? -1 : 0;
    segment_unpack(s, selector, d);
    bool conforming = is_code(s) && s->attr & TYPE_CONFORMING;
    unsigned weakest = (selector & 3) > v->cpl ? selector & 3 : v->cpl;
    return conforming || dpl_of(s) >= weakest;
}

static int lar(struct soft_vcpu *v, const struct insn *i)
{
    uint16_t selector;
    struct x86_segment s;
    int r = selector_operand(v, i, &selector);
    if (r)
        return r;
    int seen = descriptor_peek(v, selector, &s);
    if (seen < 0)
        return OP_FAULT;
    /* system types: 16-bit TSS 1,3, LDT 2, call gate 4,c, task gate 5, TSS 9,b; in long mode only
     * 2, 9, b, c */
    uint16_t types = v->long_mode ? 0x1a04 : 0x1a3e;
    if (seen && !(s.attr & SEG_S) && !(types >> (s.attr & SEG_TYPE) & 1))
        seen = 0;
    if (seen) {
        uint64_t d;
        if (descriptor_read(v, selector, EXC_GP, &d))
            return OP_FAULT;
        gpr_set(v, i->reg, i->size, (d >> 32) & 0x00ffff00);
    }
    zf_set(v, seen);
    return OP_NEXT;
}

static int lsl(struct soft_vcpu *v, const struct insn *i)
{
    uint16_t selector;
    struct x86_segment s;
    int r = selector_operand(v, i, &selector);
    if (r)
        return r;
    int seen = descriptor_peek(v, selector, &s);
    if (seen < 0)
        return OP_FAULT;
    uint16_t types = v->long_mode ? 0x0a04 : 0x0a0e;
    if (seen && !(s.attr & SEG_S) && !(types >> (s.attr & SEG_TYPE) & 1))
        seen = 0;
    if (seen)
        gpr_set(v, i->reg, i->size, s.limit);
    zf_set(v, seen);
    return OP_NEXT;
}

static int verify(struct soft_vcpu *v, const struct insn *i, bool write)
{
    uint16_t selector;
    struct x86_segment s;
    int r = selector_operand(v, i, &selector);
    if (r)
        return r;
    int seen = descriptor_peek(v, selector, &s);
    if (seen < 0)
        return OP_FAULT;
    if (seen)
        seen = write ? is_data(&s) && s.attr & TYPE_RW
                     : is_data(&s) || (is_code(&s) && s.attr & TYPE_RW);
    zf_set(v, seen);
    return OP_NEXT;
}
static int verr(struct soft_vcpu *v, const struct insn *i) { return verify(v, i, false); }
static int verw(struct soft_vcpu *v, const struct insn *i) { return verify(v, i, true); }

static int arpl(struct soft_vcpu *v, const struct insn *i)
{
    uint16_t rpl = v->gpr[i->reg] & 3, selector = (uint16_t)v->gpr[i->rm];
    uint64_t va = 0;
    int r = 0;
    if (i->flags & IF_MEM) {
        r = ea(v, i, 2, false, &va);
        if (!r)
            r = load16(v, va, &selector);
    }
    bool raised = !r && (selector & 3) < rpl;
    if (raised) { /* only then it is written */
        selector = (uint16_t)((selector & ~3u) | rpl);
        if (i->flags & IF_MEM)
            r = ea(v, i, 2, true, &va);
        if (!r && i->flags & IF_MEM)
            r = store16(v, va, selector);
        else if (!r)
            gpr_set(v, i->rm, 2, selector);
    }
    if (r)
        return r;
    zf_set(v, raised);
    return OP_NEXT;
}

/* ---- LDTR and TR ---- */

static int system_segment(struct soft_vcpu *v, unsigned seg, uint16_t selector)
{
    struct x86_segment s = { .selector = selector, .attr = SEG_UNUSABLE };
    if (is_null(selector)) {
        if (seg == S_TR)
            return raise_gp(v, 0);
        v->seg[seg] = s;
        return OP_NEXT;
    }
    if (selector & 4)
        return raise_gp(v, selector & 0xfffc);
    uint64_t d, high = 0;
    int r = descriptor_read(v, selector, EXC_GP, &d);
    if (!r && v->long_mode)
        r = descriptor_read_high(v, selector, EXC_GP, &high);
    if (r)
        return r;
    segment_unpack(&s, selector, d);
    s.base |= high << 32;
    unsigned type = s.attr & (SEG_TYPE | SEG_S);
    if (seg == S_LDTR ? type != 2 : type != 9 && (v->long_mode || type != 1))
        return raise_gp(v, selector & 0xfffc);
    if (!(s.attr & SEG_P))
        return raise_error(v, EXC_NP, selector & 0xfffc);
    if (!is_canonical(s.base))
        return raise_gp(v, selector & 0xfffc);
    if (seg == S_TR) { /* busy */
        uint8_t byte = (uint8_t)(d >> 40) | 2;
        r = gva_store_system(v, v->gdtr.base + (selector & 0xfff8) + 5, &byte, 1);
        if (r)
            return r;
        s.attr |= 2;
    }
    v->seg[seg] = s;
    return OP_NEXT;
}

static int lldt(struct soft_vcpu *v, const struct insn *i)
{
    uint16_t selector;
    int r = selector_operand(v, i, &selector);
    return r ? r : system_segment(v, S_LDTR, selector);
}

static int ltr(struct soft_vcpu *v, const struct insn *i)
{
    uint16_t selector;
    int r = selector_operand(v, i, &selector);
    return r ? r : system_segment(v, S_TR, selector);
}

static int store_selector(struct soft_vcpu *v, const struct insn *i, unsigned seg)
{
    if (v->cr4 & CR4_UMIP && v->cpl)
        return raise_gp(v, 0);
    uint16_t selector = v->seg[seg].selector;
    if (!(i->flags & IF_MEM)) {
        gpr_set(v, i->rm, i->size, selector);
        return OP_NEXT;
    }
    uint64_t va;
    int r = ea(v, i, 2, true, &va);
    return r ? r : store16(v, va, selector);
}
static int sldt(struct soft_vcpu *v, const struct insn *i) { return store_selector(v, i, S_LDTR); }
static int str(struct soft_vcpu *v, const struct insn *i) { return store_selector(v, i, S_TR); }

const struct op op_jmp_far_A = OP_ALL(jmp_far_a), op_call_far_A = OP_ALL(call_far_a),
                op_jmp_far_M = OP_ALL(jmp_far_m), op_call_far_M = OP_ALL(call_far_m),
                op_retf = OP_ALL(retf), op_retf_I = OP_ALL(retf_i), op_mov_ES = OP_ALL(mov_es),
                op_mov_SE = OP_ALL(mov_se), op_push_S = OP_ALL(push_s), op_pop_S = OP_ALL(pop_s),
                op_les = OP_ALL(les), op_lds = OP_ALL(lds), op_lss = OP_ALL(lss),
                op_lfs = OP_ALL(lfs), op_lgs = OP_ALL(lgs), op_lar = OP_ALL(lar),
                op_lsl = OP_ALL(lsl), op_verr = OP_ALL(verr), op_verw = OP_ALL(verw),
                op_arpl = OP_ALL(arpl), op_lldt = OP_ALL(lldt), op_ltr = OP_ALL(ltr),
                op_sldt = OP_ALL(sldt), op_str = OP_ALL(str);
