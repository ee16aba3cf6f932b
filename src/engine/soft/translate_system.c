/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What kernels do all the time besides computing: interrupt flag, AC, GS, PUSHF, fences, and the
 * flags' own instructions.
 *
 * Translated for CPL 0 only where a privilege is asked for; elsewhere the handler decides.
 */
#include "engine/soft/run.h"
#include "engine/soft/translate.h"

#define FLAGS_AT offsetof(struct soft_vcpu, flags)

static bool kernel(const struct tr *t) { return t->block->key & CODE_CPL0; }

/* Sets or clears one of the flags that are never in the host's. */
static void flag_write(struct tr *t, uint32_t flag, bool set)
{
    flags_spill(t);
    held_drop(t);
    emit_alu_imm(&t->e, 0, 4, set ? 1 : 4, in_vcpu(FLAGS_AT), (int32_t)(set ? flag : ~flag), 0);
}

/* param: the flag set? */
bool tr_direction(struct tr *t, const struct insn *i, unsigned set)
{
    flag_write(t, FL_DF, set);
    return true;
}

bool tr_cli(struct tr *t, const struct insn *i, unsigned param)
{
    if (!kernel(t))
        return false;
    flag_write(t, FL_IF, false);
    return true;
}

/*
 * No interrupt comes before the next instruction, as that is in this block. One that waits already
 * comes right behind it, as the handler has it; one that comes later finds the next block's look at
 * the requests.
 */
bool tr_sti(struct tr *t, const struct insn *i, unsigned param)
{
    if (!kernel(t) || t->n + 1 == t->block->count)
        return false;
    flags_spill(t);
    held_drop(t);
    emit_alu_imm(&t->e, 0, 1, 7, in_vcpu(offsetof(struct soft_vcpu, held_back)), 0, 0);
    slow_if(t, CC_NE, i);
    flag_write(t, FL_IF, true);
    return true;
}

/* STAC and CLAC: which of the TLB's tables is looked into. What a window covers was allowed by the
 * other one. */
bool tr_ac(struct tr *t, const struct insn *i, unsigned set)
{
    if (!kernel(t) || t->block->key & CODE_REAL)
        return false;
    flag_write(t, FL_AC, set);
    emit_call(&t->e, t->jit->ac[set]);
    t->window.base = REG_NONE;
    return true;
}

bool tr_swapgs(struct tr *t, const struct insn *i, unsigned param)
{
    struct emit *e = &t->e;
    const struct place_of kernel_base = in_vcpu(offsetof(struct soft_vcpu, kernel_gs_base));
    const struct place_of base = in_vcpu(offsetof(struct soft_vcpu, seg[S_GS].base));
    held_drop(t);
    emit_load(e, H_AX, kernel_base);
    emit_load(e, H_14, base);
    emit_store(e, base, H_AX);
    emit_store(e, in_vcpu(offsetof(struct soft_vcpu, seg_base[S_GS])), H_AX);
    emit_store(e, kernel_base, H_14);
    return true;
}

static struct place_of base_of(unsigned seg)
{
    return in_vcpu(offsetof(struct soft_vcpu, seg) + seg * sizeof(struct x86_segment) +
                   offsetof(struct x86_segment, base));
}

static void fsgsbase_enabled(struct tr *t, const struct insn *i)
{
    flags_spill(t);
    held_drop(t);
    emit_op(&t->e, 0, 4, 0xf7, 0, in_vcpu(offsetof(struct soft_vcpu, cr4)), 0);
    e32(&t->e, CR4_FSGSBASE);
    slow_if(t, CC_E, i);
}

/* RDFSBASE, RDGSBASE */
bool tr_read_base(struct tr *t, const struct insn *i, unsigned seg)
{
    fsgsbase_enabled(t, i);
    unsigned d = reg_new(t, i->rm, H_AX);
    emit_op(&t->e, 0, i->size, 0x8b, d, base_of(seg), 0);
    reg_put(t, i->rm, d);
    return true;
}

/* WRFSBASE, WRGSBASE */
bool tr_write_base(struct tr *t, const struct insn *i, unsigned seg)
{
    fsgsbase_enabled(t, i);
    emit_op(&t->e, 0, i->size, 0x8b, H_14, in_reg(reg_get(t, i->rm, H_14)), 0);
    held_drop(t);
    if (i->size == 8)
        check_target(t, i); /* canonical, as a place to jump to is */
    emit_store(&t->e, base_of(seg), H_14);
    emit_store(&t->e, in_vcpu(offsetof(struct soft_vcpu, seg_base) + seg * 8), H_14);
    return true;
}

/* MOV from a segment register to a general one */
bool tr_read_selector(struct tr *t, const struct insn *i, unsigned param)
{
    const struct place_of selector =
        in_vcpu(offsetof(struct soft_vcpu, seg) + i->reg * sizeof(struct x86_segment) +
                offsetof(struct x86_segment, selector));
    if (is_mem(i))
        return false;
    unsigned d = i->size == 2 ? reg_get(t, i->rm, H_AX) : reg_new(t, i->rm, H_AX);
    if (i->size == 2)
        emit_op(&t->e, 0, 2, 0x8b, d, selector, 0);
    else
        emit_op(&t->e, 0, 4, OPC(OF0, 0, 0xb7), d, selector, 0); /* movzx */
    reg_put(t, i->rm, d);
    return true;
}

/* param: opcode of CLC, STC, CMC */
bool tr_carry(struct tr *t, const struct insn *i, unsigned opcode)
{
    flags_fetch(t);
    e8(&t->e, opcode);
    flags_new(t);
    return true;
}

/* param: ModRM. The host's own: what is ordered is the same. */
enum { LFENCE = 0xe8 };
bool tr_fence(struct tr *t, const struct insn *i, unsigned modrm)
{
    e8(&t->e, 0x0f), e8(&t->e, 0xae), e8(&t->e, modrm);
    return true;
}

bool tr_pushf(struct tr *t, const struct insn *i, unsigned param)
{
    struct emit *e = &t->e;
    const struct place_of value = in_vcpu(offsetof(struct soft_vcpu, jit_value));
    if (!push_size_fits(t, i) || t->block->key & CODE_V86)
        return false;
    flags_commit(t);
    held_drop(t);
    emit_op(e, 0, 4, OPC(OF0, 0, 0xb6), H_AX, in_vcpu(CC_AT), 0); /* cc_to_flags (cpu.h) */
    emit_op(e, 0, 4, 0xc1, 4, in_reg(H_AX), 0), e8(e, 11);
    emit_op(e, 0, 4, OPC(OF0, 0, 0xb6), H_14, in_vcpu(CC_AT + 1), 0);
    emit_alu_imm(e, 0, 4, 4, in_reg(H_14), 0xd5, 0);
    emit_op(e, 0, 4, 0x09, H_14, in_reg(H_AX), 0);
    emit_op(e, 0, 4, 0x0b, H_AX, in_vcpu(FLAGS_AT), 0);
    emit_alu_imm(e, 0, 4, 4, in_reg(H_AX), ~(FL_RF | FL_VM), 0);
    emit_store(e, value, H_AX);
    stack_operand(t, i, -i->size, true);
    emit_load(e, H_14, value);
    emit_op(e, 0, i->size, 0x89, H_14, t->mem, 0);
    stack_move(t, -i->size);
    return true;
}

/*
 * What CPL 0 loads into the status flags, IF and DF; RF is cleared. Other bits that change, and an
 * interrupt that waits for IF, are left to the handler; a later one finds the next block's look at
 * the requests.
 */
bool tr_popf(struct tr *t, const struct insn *i, unsigned param)
{
    enum { OTHERS = FL_TF | FL_IOPL | FL_NT, OTHERS_UPPER = FL_AC | FL_ID };
    struct emit *e = &t->e;
    const bool upper = i->size > 2;
    if (!push_size_fits(t, i) || !kernel(t))
        return false;
    flags_commit(t);
    held_drop(t);
    stack_operand(t, i, 0, false);
    emit_op(e, 0, i->size, 0x8b, H_14, t->mem, 0);
    if (upper)
        emit_alu_imm(e, 0, 4, 4, in_reg(H_14), ~FL_RF, 0);
    emit_load32(e, H_AX, in_vcpu(FLAGS_AT));
    emit_op(e, 0, 4, 0x31, H_14, in_reg(H_AX), 0);
    emit_op(e, 0, 4, 0xf7, 0, in_reg(H_AX), 0); /* test */
    e32(e, upper ? OTHERS | OTHERS_UPPER : OTHERS);
    slow_if(t, CC_NE, i);
    emit_op(e, 0, 4, 0xf7, 0, in_reg(H_AX), 0);
    e32(e, FL_IF);
    uint8_t *same = emit_jcc_forward(e, CC_E);
    emit_alu_imm(e, 0, 1, 7, in_vcpu(offsetof(struct soft_vcpu, held_back)), 0, 0);
    slow_if(t, CC_NE, i);
    emit_land(e, same);
    emit_alu_imm(e, 0, 4, 4, in_reg(H_AX), upper ? FL_DF | FL_IF | FL_RF : FL_DF | FL_IF, 0);
    emit_op(e, 0, 4, 0x31, H_AX, in_vcpu(FLAGS_AT), 0);
    emit_op(e, 0, 4, 0x8b, H_AX, in_reg(H_14), 0); /* flags_to_cc (cpu.h) */
    emit_alu_imm(e, 0, 4, 4, in_reg(H_AX), 0xd5, 0);
    emit_op(e, 0, 4, 0xc1, 4, in_reg(H_AX), 0), e8(e, 8);
    emit_op(e, 0, 4, 0xc1, 5, in_reg(H_14), 0), e8(e, 11);
    emit_alu_imm(e, 0, 4, 4, in_reg(H_14), 1, 0);
    emit_op(e, 0, 4, 0x09, H_14, in_reg(H_AX), 0);
    emit_alu_imm(e, 0, 4, 1, in_reg(H_AX), 0x200, 0);
    emit_op(e, 0, 4, 0x89, H_AX, in_vcpu(CC_AT), 0);
    t->producer.kind = PRODUCER_NONE;
    stack_move(t, i->size);
    return true;
}

/* param: RDTSCP? Behind what came before, and with the number of the CPU. */
bool tr_rdtsc(struct tr *t, const struct insn *i, unsigned ordered)
{
    flags_spill(t);
    held_drop(t);
    if (ordered)
        tr_fence(t, i, LFENCE);
    emit_call(&t->e, t->jit->read_tsc);
    slow_if(t, CC_B, i);
    if (ordered)
        emit_load32(&t->e, H_CX, in_vcpu(offsetof(struct soft_vcpu, tsc_aux)));
    return true;
}

/* What system calls need of EFER. */
static void syscall_enabled(struct tr *t, const struct insn *i)
{
    emit_op(&t->e, 0, 4, 0xf7, 0, in_vcpu(offsetof(struct soft_vcpu, efer)), 0);
    e32(&t->e, EFER_SCE);
    slow_if(t, CC_E, i);
}

/* From user mode: what the kernel does to itself is rare. */
bool tr_syscall(struct tr *t, const struct insn *i, unsigned param)
{
    if (!t->jit->syscalls || narrow(t) || t->block->key & CODE_CPL0)
        return false;
    fp_spill(t);
    flags_commit(t);
    syscall_enabled(t, i);
    pins_undo(t);
    address_here(t, insn_end(i));
    emit_call(&t->e, t->jit->syscall);
    exit_to(t);
    t->ended = true;
    return true;
}

/* What waits for IF, single steps and checked alignment are left to the handler. */
bool tr_sysret(struct tr *t, const struct insn *i, unsigned param)
{
    struct emit *e = &t->e;
    if (!t->jit->syscalls || narrow(t) || i->size != 8 || !kernel(t))
        return false;
    fp_spill(t);
    flags_commit(t);
    syscall_enabled(t, i);
    emit_load(e, H_14, in_reg(reg_get(t, R_CX, H_14)));
    check_target(t, i);
    emit_op(e, 0, 4, 0xf7, 0, in_reg(reg_get(t, R_11, H_AX)), 0);
    e32(e, FL_TF | FL_AC);
    slow_if(t, CC_NE, i);
    emit_alu_imm(e, 0, 1, 7, in_vcpu(offsetof(struct soft_vcpu, held_back)), 0, 0);
    slow_if(t, CC_NE, i);
    pins_undo(t);
    emit_call(e, t->jit->sysret);
    exit_to(t);
    t->ended = true;
    return true;
}
