/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where a block leads to: exits, branches, calls and returns. */
#include "engine/soft/run.h"
#include "engine/soft/translate.h"

/* ---- Leaving ---- */

/* r14 = the address `delta` behind the block's start */
static void address_here(struct tr *t, int64_t delta)
{
    emit_load(&t->e, H_14, in_vcpu(offsetof(struct soft_vcpu, jit_page)));
    emit_lea(&t->e, word_of(t), H_14, H_14, H_NONE, 0, (int32_t)(block_place(t->block) + delta));
}

/* On, at the code that `find` found: rax and r14. */
static void jump_found(struct tr *t)
{
    emit_store(&t->e, in_vcpu(offsetof(struct soft_vcpu, jit_page)), H_14);
    emit_op(&t->e, 0, 4, 0xff, 4, in_reg(H_AX), 0);
}

/* To the address in r14, through the jump cache. */
static void exit_to(struct tr *t)
{
    emit_call(&t->e, t->jit->find);
    emit_jcc(&t->e, CC_B, t->jit->leave_to);
    jump_found(t);
}

/* To the dispatcher, `delta` behind the block's start. */
void exit_at(struct tr *t, int64_t delta)
{
    if (narrow(t) && delta) { /* it may wrap */
        address_here(t, delta);
        emit_jmp(&t->e, t->jit->leave_to);
        return;
    }
    emit_op(&t->e, 0, 8, 0xc7, 0, in_reg(H_AX), 0);
    e32(&t->e, (uint32_t)(block_place(t->block) + delta));
    emit_jmp(&t->e, t->jit->leave_at);
}

/* Straight into the block at `delta` if it lies in this page whole, which the longest instruction
 * there would; through the jump cache otherwise. */
void exit_direct(struct tr *t, int64_t delta)
{
    assert(!t->fp.x87_last && !t->fp.x87_mem && t->flags != IN_HOST);
    struct emit *e = &t->e;
    const struct block *b = t->block;
    int64_t place = block_place(b) + delta;
    if (place < 0 || place > (int64_t)PAGE_SIZE - INSN_LONGEST) {
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
    emit_imm64(e, H_AX, (uint64_t)(uintptr_t)(slot + e->to_exec));
    emit_store(e, in_vcpu(offsetof(struct soft_vcpu, jit_link)), H_AX);
    emit_imm64(e, H_AX, (uint64_t)(uintptr_t)b);
    emit_store(e, in_vcpu(offsetof(struct soft_vcpu, jit_link_block)), H_AX);
    exit_at(t, delta);
}

/* ---- Stack ---- */

static void stack_move(struct tr *t, int32_t by)
{
    emit_lea(&t->e, word_of(t), host_of[R_SP], host_of[R_SP], H_NONE, 0, by);
}

bool tr_push(struct tr *t, const struct insn *i, unsigned param)
{
    const int32_t word = (int32_t)word_of(t);
    if (i->size != word || is_mem(i))
        return false;
    stack_operand(t, i, -word, true);
    emit_op(&t->e, 0, i->size, 0x89, reg_get(t, i->rm, H_14), t->mem, 0);
    stack_move(t, -word);
    return true;
}
bool tr_push_i(struct tr *t, const struct insn *i, unsigned param)
{
    const int32_t word = (int32_t)word_of(t);
    if (i->size != word)
        return false;
    stack_operand(t, i, -word, true);
    emit_op(&t->e, 0, i->size, 0xc7, 0, t->mem, 0);
    e32(&t->e, (uint32_t)i->imm);
    stack_move(t, -word);
    return true;
}
bool tr_pop(struct tr *t, const struct insn *i, unsigned param)
{
    const int32_t word = (int32_t)word_of(t);
    if (i->size != word || is_mem(i) || i->rm == R_SP)
        return false;
    stack_operand(t, i, 0, false);
    unsigned d = reg_new(i->rm, H_14);
    emit_op(&t->e, 0, i->size, 0x8b, d, t->mem, 0);
    reg_put(t, i->rm, d);
    stack_move(t, word);
    return true;
}
bool tr_leave(struct tr *t, const struct insn *i, unsigned param)
{
    if (i->size != word_of(t))
        return false;
    frame_operand(t, i);
    emit_lea(&t->e, i->size, host_of[R_SP], host_of[R_BP], H_NONE, 0, i->size);
    emit_op(&t->e, 0, i->size, 0x8b, host_of[R_BP], t->mem, 0);
    return true;
}

/* ---- Branches ---- */

bool tr_jmp(struct tr *t, const struct insn *i, unsigned param)
{
    if (i->size != word_of(t) || !is_near(i->imm))
        return false;
    fp_spill(t);
    flags_commit(t);
    exit_direct(t, i->imm);
    t->ended = true;
    return true;
}

bool tr_jcc(struct tr *t, const struct insn *i, unsigned cc)
{
    if (i->size != word_of(t) || !is_near(i->imm))
        return false;
    flags_fetch(t);
    t->exits[t->exit_count++] = (struct side_exit){
        .site = emit_jcc_forward(&t->e, cc),
        .delta = i->imm,
        .flags = t->flags,
        .fp = t->fp,
    };
    return true;
}

void side_exits_write(struct tr *t)
{
    for (unsigned n = 0; n < t->exit_count; n++) {
        const struct side_exit *x = &t->exits[n];
        emit_land(&t->e, x->site);
        t->flags = x->flags;
        t->producer.kind = PRODUCER_NONE;
        held_drop(t);
        t->fp = x->fp;
        fp_spill(t);
        flags_commit(t);
        exit_direct(t, x->delta);
    }
}

bool tr_call(struct tr *t, const struct insn *i, unsigned param)
{
    const int32_t word = (int32_t)word_of(t);
    if (i->size != word || !is_near(i->imm))
        return false;
    fp_spill(t);
    flags_commit(t);
    stack_operand(t, i, -word, true);
    address_here(t, insn_end(i));
    emit_op(&t->e, 0, i->size, 0x89, H_14, t->mem, 0);
    stack_move(t, -word);
    exit_direct(t, i->imm);
    t->ended = true;
    return true;
}

/* A target in r14 that is not canonical faults at the branch, which has not moved anything yet.
 * Uses rax. */
static void check_target(struct tr *t, const struct insn *i)
{
    struct emit *e = &t->e;
    if (narrow(t)) /* any of 32 bits lies in CS */
        return;
    emit_op(e, 0, 8, 0x8b, H_AX, in_reg(H_14), 0);
    emit_op(e, 0, 8, 0xc1, 7, in_reg(H_AX), 0), e8(e, 47); /* sar: 0 or -1 */
    emit_alu_imm(e, 0, 4, 0, in_reg(H_AX), 1, 0);
    emit_alu_imm(e, 0, 4, 7, in_reg(H_AX), 1, 0);
    slow_if(t, CC_A, i);
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
    emit_call(&t->e, t->jit->find);
    slow_if(t, CC_B, i);
    stack_move(t, i->size + (with_release ? (uint16_t)i->imm : 0));
    jump_found(t);
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
    emit_call(&t->e, t->jit->find);
    slow_if(t, CC_B, i);
    jump_found(t);
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
    address_here(t, insn_end(i));
    emit_op(&t->e, 0, i->size, 0x89, H_14, t->mem, 0);
    emit_op(&t->e, 0, i->size, 0x8b, H_14, in_reg(reg_get(t, i->rm, H_AX)), 0);
    stack_move(t, -word);
    exit_to(t);
    t->ended = true;
    return true;
}
