/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where a block leads to: exits, branches, calls and returns. */
#include "engine/soft/run.h"
#include "engine/soft/translate.h"

/* ---- Leaving ---- */

void address_here(struct tr *t, int64_t delta)
{
    assert(!by_ip(t));
    emit_load(&t->e, H_14, in_vcpu(offsetof(struct soft_vcpu, jit_page)));
    emit_lea(&t->e, word_of(t), H_14, H_14, H_NONE, 0, (int32_t)(t->block->place + delta));
}

/* ---- Code that counts by IP: constants ---- */

static uint32_t ip_at(const struct tr *t, int64_t delta) { return block_ip_at(t->block, delta); }
/* The address of the IP in r14. */
static void ip_to_address(struct tr *t)
{
    if (word_of(t) == 2)
        emit_op(&t->e, 0, 4, OPC(OF0, 0, 0xb7), H_14, in_reg(H_14), 0);
    emit_alu_imm(&t->e, 0, 4, 0, in_reg(H_14), (int32_t)t->cs.base, 0);
}
/* What lies behind the limit faults at the branch. */
static void check_ip(struct tr *t, const struct insn *i)
{
    if (t->cs.limit >= size_mask(word_of(t)))
        return;
    if (word_of(t) == 2)
        emit_op(&t->e, 0, 4, OPC(OF0, 0, 0xb7), H_14, in_reg(H_14), 0);
    emit_alu_imm(&t->e, 0, 4, 7, in_reg(H_14), (int32_t)t->cs.limit, 0);
    slow_if(t, CC_A, i);
}

/* Can a near branch to a constant be translated? */
static bool branch_fits(const struct tr *t, const struct insn *i)
{
    return i->size == word_of(t) && is_near(i->imm) &&
           !(by_ip(t) && ip_at(t, i->imm) > t->cs.limit);
}

/* rax = the quick entry of the address in r14. What the jump cache does not have either is left to
 * the instruction's handler; NULL: to the dispatcher. */
static void find(struct tr *t, const struct insn *i)
{
    emit_quick_entry(&t->e);
    emit_op(&t->e, 0, 8, 0x39, H_14, at_offset(H_AX, offsetof(struct quick_entry, va)), 0);
    if (!i && !by_ip(t)) {
        emit_jcc(&t->e, CC_NE, t->jit->find_on);
        return;
    }
    slow_if(t, CC_NE, i);
    t->slow[t->slow_count - 1].second = t->jit->find;
    t->slow[t->slow_count - 1].checked = emit_exec(&t->e);
}

/* To the address in r14. */
void exit_to(struct tr *t)
{
    stack_settle(t);
    find(t, NULL);
    emit_jump_found(&t->e);
}

/* To the dispatcher, `delta` behind the block's start. */
void exit_at(struct tr *t, int64_t delta)
{
    stack_settle(t);
    if (by_ip(t)) {
        emit_imm32(&t->e, H_14, ip_at(t, delta));
        emit_jmp(&t->e, t->jit->leave_to);
        return;
    }
    if (narrow(t) && delta) { /* it may wrap */
        address_here(t, delta);
        emit_jmp(&t->e, t->jit->leave_to);
        return;
    }
    const int64_t place = t->block->place + delta;
    if (place >= 0)
        emit_imm32(&t->e, H_AX, (uint32_t)place);
    else
        emit_op(&t->e, 0, 8, 0xc7, 0, in_reg(H_AX), 0), e32(&t->e, (uint32_t)place);
    emit_jmp(&t->e, t->jit->leave_at);
}

/* Straight into the block at `delta` if it lies in this page whole, which the longest instruction
 * there would; through the jump cache otherwise. */
void exit_direct(struct tr *t, int64_t delta)
{
    assert(!t->fp.x87_last && !t->fp.x87_mem && t->flags != IN_HOST);
    struct emit *e = &t->e;
    const struct block *b = t->block;
    pins_undo(t);
    stack_settle(t);
    int64_t place = b->place + delta;
    bool wraps = by_ip(t) && b->ip + delta != ip_at(t, delta);
    if (place < 0 || place > (int64_t)PAGE_SIZE - INSN_LONGEST || wraps) {
        if (by_ip(t))
            emit_imm32(&t->e, H_14, t->cs.base + ip_at(t, delta));
        else
            address_here(t, delta);
        exit_to(t);
        return;
    }
    while ((uintptr_t)(e->p + 1) & 3) /* the displacement is stored whole when it is linked */
        e8(e, 0x90);
    e8(e, 0xe9);
    uint8_t *slot = e->p;
    e32(e, 0);
    emit_land(e, slot); /* not linked yet: tell the dispatcher where to */
    emit_imm32(e, H_AX, (uint32_t)(slot - t->jit->rw));
    emit_imm32(e, H_14, t->name << NAME_PLACE_BITS | (uint32_t)place);
    emit_jmp(e, t->jit->leave_link);
}

static bool windows_equal(const struct window *a, const struct window *b)
{
    if (a->base == REG_NONE || b->base == REG_NONE)
        return a->base == b->base;
    return a->base == b->base && a->write == b->write && a->first == b->first &&
           a->size == b->size && a->moved == b->moved;
}

/* ---- Stack ---- */

/* Far less than what a displacement may be: insn_translate. */
enum { AHEAD_MAX = 1 << 20 };

void stack_reach(struct tr *t, int32_t ahead)
{
    if (t->ahead != ahead)
        emit_lea(&t->e, stack_size_of(t), host_of[R_SP], host_of[R_SP], H_NONE, 0,
                 t->ahead - ahead);
    t->ahead = ahead;
}

void stack_move(struct tr *t, int32_t by)
{
    if (stack_size_of(t) == 8 && t->jit->stack && by <= AHEAD_MAX && by >= -AHEAD_MAX &&
        t->ahead + by <= AHEAD_MAX && t->ahead + by >= -AHEAD_MAX) {
        t->ahead += by;
        return;
    }
    stack_settle(t);
    emit_lea(&t->e, stack_size_of(t), host_of[R_SP], host_of[R_SP], H_NONE, 0, by);
}

bool tr_push(struct tr *t, const struct insn *i, unsigned param)
{
    const struct place_of value = in_vcpu(offsetof(struct soft_vcpu, jit_value));
    if (!push_size_fits(t, i))
        return false;
    if (is_mem(i)) {
        if (!rm_load(t, i))
            return false;
        emit_store(&t->e, value, H_14);
    }
    const struct window window = t->window;
    stack_operand(t, i, -i->size, true);
    if (is_mem(i)) {
        emit_load(&t->e, H_14, value);
        if (!windows_equal(&window, &t->window)) /* the first operand's slow path did not open it */
            t->window.base = REG_NONE;
    }
    unsigned source = is_mem(i) ? H_14 : reg_get(t, i->rm, H_14);
    emit_op(&t->e, 0, i->size, 0x89, source, t->mem, 0);
    stack_move(t, -i->size);
    return true;
}
/* A constant to the operand just checked. */
static void word_store(struct tr *t, unsigned size, uint32_t value)
{
    emit_op(&t->e, 0, size, 0xc7, 0, t->mem, 0);
    if (size == 2)
        e8(&t->e, (uint8_t)value), e8(&t->e, (uint8_t)(value >> 8));
    else
        e32(&t->e, value);
}

bool tr_push_i(struct tr *t, const struct insn *i, unsigned param)
{
    if (!push_size_fits(t, i))
        return false;
    stack_operand(t, i, -i->size, true);
    word_store(t, i->size, (uint32_t)i->imm);
    stack_move(t, -i->size);
    return true;
}
bool tr_pop(struct tr *t, const struct insn *i, unsigned param)
{
    if (!push_size_fits(t, i) || is_mem(i) || (i->rm == R_SP && i->size != stack_size_of(t)))
        return false;
    stack_operand(t, i, 0, false);
    unsigned d = reg_new(t, i->rm, H_14);
    emit_op(&t->e, 0, i->size, 0x8b, d, t->mem, 0);
    reg_put(t, i->rm, d);
    if (i->rm != R_SP)
        stack_move(t, i->size);
    return true;
}
bool tr_leave(struct tr *t, const struct insn *i, unsigned param)
{
    if (i->size != word_of(t) || i->size != stack_size_of(t))
        return false;
    frame_operand(t, i);
    emit_lea(&t->e, i->size, host_of[R_SP], host_of[R_BP], H_NONE, 0, i->size);
    emit_op(&t->e, 0, i->size, 0x8b, host_of[R_BP], t->mem, 0);
    t->ahead = 0;
    return true;
}

/* ---- Branches ---- */

/* ---- Jumps inside the block ----
 *
 * Where a label is known (an instruction of the block that its own jumps lead to), all ways there
 * agree on where things are: the flags in v->cc, or anywhere if they are dead; no window, unless
 * all ways come from above with the same one; nothing in rax and r14. A jump up is a loop, and
 * looks at v->request as the start of a block does (invariant 3 of jit.h). */

static struct side_exit *exit_new(struct tr *t, uint8_t *site, int64_t delta, int label)
{
    struct side_exit *x = &t->exits[t->exit_count++];
    *x = (struct side_exit){
        .site = site,
        .delta = delta,
        .label = (int16_t)label,
        .flags = t->flags,
        .producer = t->producer,
        .fp = t->fp,
        .window = t->window,
        .ahead = t->ahead,
    };
    return x;
}

/* What of `have` is missing where `want` is expected */
static struct fp_state fp_missing(const struct fp_state *have, const struct fp_state *want)
{
    struct fp_state need = { .vec = have->vec < want->vec ? want->vec : 0,
                             .mxcsr = want->mxcsr && !have->mxcsr,
                             .x87 = want->x87 && !have->x87 };
    if (need.x87) { /* it puts the others back */
        need.vec = want->vec;
        need.mxcsr = want->mxcsr;
    }
    return need;
}

static bool fp_is_none(const struct fp_state *fp) { return !fp->vec && !fp->mxcsr && !fp->x87; }

/* Brings things to where the label wants them. Spoils the host's flags unless they are dead. */
static void label_agree(struct tr *t, const struct label *l)
{
    fp_store(t, &t->fp);
    struct fp_state need = fp_missing(&t->fp, &l->fp);
    if (!l->flags_dead)
        flags_commit(t);
    stack_reach(t, l->ahead); /* the flags' producer may be RSP */
    if (!fp_is_none(&need))
        fp_enter(t, &need);
}

bool label_reach(struct tr *t, unsigned n)
{
    struct label *l = &t->labels[n];
    if (!l->sources)
        return !t->ended;
    l->flags_dead = flags_dead_from(t, n);
    bool falls = !t->ended, known = falls;
    struct window window = t->window;
    l->fp = falls ? t->fp : (struct fp_state){ VEC_YMM, true, true, NULL, NULL };
    l->ahead = t->ahead;
    for (unsigned k = 0; k < t->exit_count; k++) {
        const struct side_exit *x = &t->exits[k];
        if (x->label != (int)n || x->leaves)
            continue;
        if (known && !windows_equal(&window, &x->window))
            window.base = REG_NONE;
        else if (!known) {
            window = x->window;
            l->ahead = x->ahead;
        }
        known = true;
        l->fp.vec = x->fp.vec < l->fp.vec ? x->fp.vec : l->fp.vec;
        l->fp.mxcsr &= x->fp.mxcsr;
        l->fp.x87 &= x->fp.x87;
    }
    if (!known) /* only from below, and nothing comes this far */
        return false;
    if (l->sources & FROM_BELOW)
        window.base = REG_NONE;
    l->fp.x87_last = l->fp.x87_mem = NULL;
    if (falls)
        label_agree(t, l);
    l->at = emit_exec(&t->e);
    bool straight = falls;
    for (unsigned k = 0; k < t->exit_count; k++) { /* who has nothing to do comes straight here */
        struct side_exit *x = &t->exits[k];
        struct fp_state need = fp_missing(&x->fp, &l->fp);
        if (x->label != (int)n || x->leaves || !fp_is_none(&need) || x->fp.x87_last ||
            x->fp.x87_mem || x->ahead != l->ahead ||
            !(l->flags_dead || x->flags == IN_CC || x->flags == IN_BOTH))
            continue;
        emit_land(&t->e, x->site);
        x->site = NULL;
        straight = true;
    }
    if (!straight) /* all come from behind the block, where a reader does not see it coming */
        window.base = REG_NONE;
    t->ended = false;
    t->flags = IN_CC;
    t->producer.kind = PRODUCER_NONE;
    t->fp = l->fp;
    t->window = window;
    t->ahead = l->ahead;
    held_drop(t);
    return true;
}

/* Up to a label: a turn of a loop. The host's flags may be needed no more. */
static void loop_turn(struct tr *t, int64_t delta, int label)
{
    const struct label *l = &t->labels[label];
    struct emit *e = &t->e;
    x87_pointers_store(t, &t->fp);
    t->fp.x87_last = t->fp.x87_mem = NULL;
    flags_spill(t);
    if (t->ahead != l->ahead && producer_regs(&t->producer) >> R_SP & 1)
        flags_commit(t);
    stack_reach(t, l->ahead);
    struct fp_state need = fp_missing(&t->fp, &l->fp);
    if (!fp_is_none(&need)) {
        fp_enter(t, &need);
        t->fp = l->fp;
    }
    emit_alu_imm(e, 0, 4, 7, in_vcpu(offsetof(struct soft_vcpu, request)), 0, 0);
    uint8_t *out = emit_jcc_forward(e, CC_NE);
    exit_new(t, out, delta, -1)->leaves = true;
    if (!l->flags_dead)
        flags_commit(t);
    emit_jmp(e, l->at);
    t->block->loops = true;
}

static uint8_t *jmp_forward(struct emit *e)
{
    e8(e, 0xe9);
    e32(e, 0);
    return e->p - 4;
}

bool tr_jmp(struct tr *t, const struct insn *i, unsigned param)
{
    if (!branch_fits(t, i))
        return false;
    int label = jump_inside(t, i);
    if (label >= 0 && t->labels[label].at) {
        loop_turn(t, i->imm, label);
    } else if (label > (int)t->n) {
        flags_spill(t);
        exit_new(t, jmp_forward(&t->e), i->imm, label);
    } else {
        fp_spill(t);
        flags_commit(t);
        exit_direct(t, i->imm);
    }
    t->ended = true;
    return true;
}

bool tr_jcc(struct tr *t, const struct insn *i, unsigned cc)
{
    if (!branch_fits(t, i))
        return false;
    int label = jump_inside(t, i);
    flags_fetch(t);
    if (label < 0 || label > (int)t->n || !t->labels[label].at) {
        exit_new(t, emit_jcc_forward(&t->e, cc), i->imm, label > (int)t->n ? label : -1);
        return true;
    }
    struct producer producer = t->producer;
    struct fp_state fp = t->fp;
    enum flags_where flags = t->flags;
    int32_t ahead = t->ahead;
    uint8_t held[2] = { t->held[0], t->held[1] };
    uint8_t *over = emit_jcc_forward(&t->e, cc ^ 1);
    loop_turn(t, i->imm, label);
    emit_land(&t->e, over);
    t->producer = producer;
    t->fp = fp;
    t->flags = flags;
    t->ahead = ahead;
    memcpy(t->held, held, sizeof held);
    return true;
}

/* A jump to be taken if the count in guest RCX is zero, or is not. No flags; those of a count of 16
 * bits go elsewhere. Answers the place of its displacement. */
static uint8_t *jump_if_count(struct tr *t, unsigned asize, bool zero)
{
    enum { SHORT_JMP = 2, NEAR_JMP = 5 };
    struct emit *e = &t->e;
    if (asize == 2) {
        flags_spill(t);
        emit_op(e, 0, 2, 0x85, H_CX, in_reg(H_CX), 0);
        return emit_jcc_forward(e, zero ? CC_E : CC_NE);
    }
    if (asize == 4)
        e8(e, 0x67);
    e8(e, 0xe3), e8(e, zero ? SHORT_JMP : NEAR_JMP); /* jecxz, jrcxz */
    if (zero)
        e8(e, 0xeb), e8(e, NEAR_JMP);
    return jmp_forward(e);
}

/* param: enum loop_kind */
bool tr_loop(struct tr *t, const struct insn *i, unsigned kind)
{
    if (!branch_fits(t, i))
        return false;
    int label = jump_inside(t, i);
    const bool zero = kind == LOOP_ZERO;
    if (!zero) {
        if (producer_regs(&t->producer) >> R_CX & 1)
            t->producer.kind = PRODUCER_NONE; /* the flags are made already: insn_translate */
        emit_lea(&t->e, i->asize, H_CX, H_CX, H_NONE, 0, -1);
    }
    if (label < 0 || label > (int)t->n || !t->labels[label].at) {
        uint8_t *site = jump_if_count(t, i->asize, zero);
        exit_new(t, site, i->imm, label > (int)t->n ? label : -1);
        return true;
    }
    uint8_t *over = jump_if_count(t, i->asize, !zero);
    struct producer producer = t->producer;
    struct fp_state fp = t->fp;
    enum flags_where flags = t->flags;
    int32_t ahead = t->ahead;
    loop_turn(t, i->imm, label);
    emit_land(&t->e, over);
    t->producer = producer;
    t->fp = fp;
    t->flags = flags;
    t->ahead = ahead;
    return true;
}

void side_exits_write(struct tr *t)
{
    for (unsigned n = 0; n < t->exit_count; n++) {
        const struct side_exit *x = &t->exits[n];
        if (!x->site)
            continue;
        emit_land(&t->e, x->site);
        t->flags = x->flags;
        t->producer = x->producer;
        t->fp = x->fp;
        t->ahead = x->ahead;
        held_drop(t);
        if (x->label >= 0 && t->labels[x->label].at) {
            label_agree(t, &t->labels[x->label]);
            emit_jmp(&t->e, t->labels[x->label].at);
            continue;
        }
        fp_spill(t);
        flags_commit(t);
        if (!x->leaves) {
            exit_direct(t, x->delta);
            continue;
        }
        pins_undo(t);
        exit_at(t, x->delta);
    }
}

/* To the operand just checked. Uses r14. */
static void return_address_store(struct tr *t, const struct insn *i)
{
    if (by_ip(t)) {
        word_store(t, i->size, ip_at(t, insn_end(i)));
        return;
    }
    address_here(t, insn_end(i));
    emit_op(&t->e, 0, i->size, 0x89, H_14, t->mem, 0);
}

bool tr_call(struct tr *t, const struct insn *i, unsigned param)
{
    const int32_t word = (int32_t)word_of(t);
    if (!branch_fits(t, i))
        return false;
    fp_spill(t);
    flags_commit(t);
    stack_operand(t, i, -word, true);
    return_address_store(t, i);
    stack_move(t, -word);
    exit_direct(t, i->imm);
    t->ended = true;
    return true;
}

void check_target(struct tr *t, const struct insn *i)
{
    struct emit *e = &t->e;
    if (by_ip(t))
        check_ip(t, i);
    if (narrow(t)) /* any of 32 bits lies in CS otherwise */
        return;
    emit_op(e, 0, 8, 0x8b, H_AX, in_reg(H_14), 0);
    emit_op(e, 0, 8, 0xc1, 7, in_reg(H_AX), 0), e8(e, 47); /* sar: 0 or -1 */
    emit_alu_imm(e, 0, 4, 0, in_reg(H_AX), 1, 0);
    emit_alu_imm(e, 0, 4, 7, in_reg(H_AX), 1, 0);
    slow_if(t, CC_A, i);
}

/* `find` for an address in r14 that the guest gave. */
static void find_target(struct tr *t, const struct insn *i)
{
    if (by_ip(t)) {
        check_ip(t, i);
        ip_to_address(t);
    }
    find(t, i);
}

/* Through the jump cache; what it does not know, and what faults, is left to the handler. */
bool tr_ret(struct tr *t, const struct insn *i, unsigned with_release)
{
    if (i->size != word_of(t))
        return false;
    fp_spill(t);
    flags_commit(t);
    stack_operand(t, i, 0, false);
    emit_op(&t->e, 0, i->size, 0x8b, H_14, t->mem, 0);
    find_target(t, i);
    stack_move(t, i->size + (with_release ? (uint16_t)i->imm : 0));
    stack_settle(t);
    pins_undo(t);
    emit_jump_found(&t->e);
    t->ended = true;
    return true;
}

bool tr_jmp_e(struct tr *t, const struct insn *i, unsigned param)
{
    if (i->size != word_of(t))
        return false;
    fp_spill(t);
    flags_commit(t);
    if (!rm_load(t, i))
        return false;
    find_target(t, i);
    stack_settle(t);
    pins_undo(t);
    emit_jump_found(&t->e);
    t->ended = true;
    return true;
}

bool tr_call_e(struct tr *t, const struct insn *i, unsigned param)
{
    const int32_t word = (int32_t)word_of(t);
    if (i->size != word || is_mem(i))
        return false;
    fp_spill(t);
    flags_commit(t);
    emit_op(&t->e, 0, i->size, 0x8b, H_14, in_reg(reg_get(t, i->rm, H_AX)), 0);
    check_target(t, i);
    held_drop(t);
    stack_operand(t, i, -word, true);
    return_address_store(t, i);
    emit_op(&t->e, 0, i->size, 0x8b, H_14, in_reg(reg_get(t, i->rm, H_AX)), 0);
    if (by_ip(t))
        ip_to_address(t);
    stack_move(t, -word);
    pins_undo(t);
    exit_to(t);
    t->ended = true;
    return true;
}
