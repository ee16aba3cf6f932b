/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a decoded block to host code, in one pass: the instruction's own form with other registers.
 *
 * Each kind of instruction has a small function that writes its host form; what has none, or comes
 * in an unusual form (high byte registers, 16-bit addresses), calls the interpreter's handler. The
 * registers and invariants are in jit.h.
 */
#include "engine/soft/jit.h"

#include "engine/soft/run.h"
#include "engine/soft/translate.h"

#include <stdlib.h>
#include <string.h>

/* ---- Which operation gets which function ---- */

struct translation {
    tr_fn *fn;
    uint8_t param;
};
static struct translation *translations; /* by row; made once */

/* ---- Flags ---- */

/* rax, or rax and r14, no longer hold what t->held says. */
static void held_drop_ax(struct tr *t) { t->held[0] = REG_NONE; }
void held_drop(struct tr *t) { t->held[0] = t->held[1] = REG_NONE; }

#define CC_AT offsetof(struct soft_vcpu, cc)

/* Writes the host's flags to v->cc; they stay valid in the host, too. Uses rax. */
static void flags_save(struct tr *t)
{
    if (t->flags != IN_HOST)
        return;
    held_drop_ax(t);
    e8(&t->e, 0x9f);                                             /* lahf */
    emit_op(&t->e, 0, 1, OPC(OF0, 0, 0x90), 0, in_reg(H_AX), 0); /* seto al */
    emit_op(&t->e, 0, 2, 0x89, H_AX, in_vcpu(CC_AT), 0);
    t->flags = IN_BOTH;
}
void flags_new(struct tr *t)
{
    t->flags = IN_HOST;
    t->flag_writes++;
    t->producer.kind = PRODUCER_NONE;
}

void flags_spill(struct tr *t)
{
    if (t->flags == IN_HOST && t->producer.kind)
        t->flags = IN_PRODUCER;
    else if (t->flags != IN_PRODUCER) {
        flags_save(t);
        t->flags = IN_CC;
    }
}

static void producer_run(struct tr *t);

/* The flags go to v->cc: before a handler is called or the block left. Uses rax and r14. */
void flags_commit(struct tr *t)
{
    if (t->flags == IN_PRODUCER)
        producer_run(t);
    flags_save(t);
    t->flags = IN_CC;
}

/* Brings all flags into the host's. Uses rax (and r14 with a producer). */
void flags_fetch(struct tr *t)
{
    if (t->flags == IN_PRODUCER)
        producer_run(t);
    if (t->flags != IN_CC)
        return;
    held_drop_ax(t);
    emit_op(&t->e, 0, 4, OPC(OF0, 0, 0xb7), H_AX, in_vcpu(CC_AT), 0); /* movzx eax, word */
    e8(&t->e, 0x04), e8(&t->e, 127);                                  /* add al, 127: OF */
    e8(&t->e, 0x9e);                                                  /* sahf */
    t->flags = IN_BOTH;
}
/* Brings only the carry into the host's flags, without a register. */
static void carry_fetch(struct tr *t)
{
    assert(t->flags != IN_PRODUCER);
    if (t->flags != IN_CC)
        return;
    emit_op(&t->e, 0, 4, OPC(OF0, 0, 0xba), 4, in_vcpu(CC_AT), 0); /* bt dword, 8 */
    e8(&t->e, 8);
}

/* ---- Registers ---- */

/* R12 to R15 live in the vCPU. What simple instructions leave of them in rax and r14 is remembered,
 * because a load that waits for the store before it costs five cycles. */

unsigned reg_get(struct tr *t, unsigned n, unsigned scratch)
{
    if (host_of[n] != H_NONE)
        return host_of[n];
    unsigned mine = scratch == H_14, other = !mine;
    if (t->held[mine] == n)
        return scratch;
    if (t->held[other] == n)
        emit_op(&t->e, 0, 8, 0x8b, scratch, in_reg(other ? H_14 : H_AX), 0);
    else
        emit_load(&t->e, scratch, in_vcpu(GPR_AT(n)));
    t->held[mine] = (uint8_t)n;
    return scratch;
}
unsigned reg_new(unsigned n, unsigned scratch)
{
    return host_of[n] != H_NONE ? host_of[n] : scratch;
}
void reg_put(struct tr *t, unsigned n, unsigned h)
{
    if (host_of[n] != H_NONE)
        return;
    emit_store(&t->e, in_vcpu(GPR_AT(n)), h);
    held_drop(t);
    t->held[h == H_14] = (uint8_t)n;
}

static bool high_byte(unsigned offset) { return offset & 7; }
/* Guest register numbers of the operands, false for AH..BH. */
static bool rm_number(const struct insn *i, unsigned *n)
{
    if (i->size == 1 && high_byte(i->rm_off))
        return false;
    *n = i->size == 1 ? i->rm_off / 8u : i->rm;
    return true;
}
static bool reg_number(const struct insn *i, unsigned *n)
{
    if (i->size == 1 && high_byte(i->reg_off))
        return false;
    *n = i->size == 1 ? i->reg_off / 8u : i->reg;
    return true;
}
static unsigned bytes_of(const struct insn *i, unsigned which) { return i->size == 1 ? which : 0; }
/* Opcodes come in pairs: even for bytes, odd for the other sizes. */
static unsigned sized(const struct insn *i, unsigned opcode)
{
    return i->size == 1 ? opcode : opcode | 1;
}

/* ---- Producers of flags ---- */

static void producer_set(struct tr *t, enum producer_kind kind, const struct insn *i, unsigned a,
                         unsigned b)
{
    flags_new(t);
    if ((kind == PRODUCER_ADD || kind == PRODUCER_SUB) && a == b)
        return;
    t->producer = (struct producer){ kind, i->size, (uint8_t)a, (uint8_t)b,
                                     b == REG_NONE ? (int32_t)i->imm : 0 };
}

/* ADD or adc sbb AND SUB XOR CMP, by their numbers; a is the destination. */
static void alu_producer(struct tr *t, const struct insn *i, unsigned n, unsigned a, unsigned b)
{
    static const uint8_t kinds[] = { PRODUCER_ADD, PRODUCER_LOGIC, 0,           0, PRODUCER_LOGIC,
                                     PRODUCER_SUB, PRODUCER_LOGIC, PRODUCER_CMP };
    /* A logic operation's flags are those of its result alone. */
    producer_set(t, kinds[n], i, a, kinds[n] == PRODUCER_LOGIC ? a : b);
}

static unsigned producer_regs(const struct producer *p)
{
    unsigned regs = p->kind ? 1u << p->a : 0;
    return regs | (p->kind && p->b != REG_NONE ? 1u << p->b : 0);
}

/* a `n`-th ALU operation with the producer's second operand */
static void producer_alu(struct tr *t, const struct producer *p, unsigned n, unsigned a, unsigned b)
{
    unsigned bytes = p->size == 1 ? 3 : 0;
    if (p->b == REG_NONE)
        emit_alu_imm(&t->e, 0, p->size, n, in_reg(a), p->imm, bytes & 2);
    else
        emit_op(&t->e, 0, p->size, n * 8 + (p->size > 1), b, in_reg(a), bytes);
}

static void producer_run(struct tr *t)
{
    const struct producer p = t->producer;
    struct emit *e = &t->e;
    unsigned bytes = p.size == 1 ? 3 : 0;
    held_drop(t);
    unsigned b = p.b == REG_NONE ? H_NONE : reg_get(t, p.b, H_14);
    unsigned a = p.a == p.b ? b : reg_get(t, p.a, H_AX);
    switch (p.kind) {
    case PRODUCER_CMP: producer_alu(t, &p, 7, a, b); break;
    case PRODUCER_TEST:
        if (p.b != REG_NONE) {
            emit_op(e, 0, p.size, 0x84 + (p.size > 1), b, in_reg(a), bytes);
            break;
        }
        emit_op(e, 0, p.size, 0xf6 + (p.size > 1), 0, in_reg(a), bytes & 2);
        if (p.size == 1)
            e8(e, (uint8_t)p.imm);
        else if (p.size == 2)
            e8(e, (uint8_t)p.imm), e8(e, (uint8_t)(p.imm >> 8));
        else
            e32(e, (uint32_t)p.imm);
        break;
    case PRODUCER_LOGIC: emit_op(e, 0, p.size, 0x84 + (p.size > 1), a, in_reg(a), bytes); break;
    default: /* undo it, and do it again */
        if (a != H_AX)
            emit_load(e, H_AX, in_reg(a));
        producer_alu(t, &p, p.kind == PRODUCER_ADD ? 5 : 0, H_AX, b);
        producer_alu(t, &p, p.kind == PRODUCER_ADD ? 0 : 7, H_AX, b);
    }
    held_drop(t);
    t->flags = IN_HOST;
}

/* ---- Slow paths ---- */

/* Marks the code behind the instruction as the place where its failed checks come back to. */
static void slow_paths_return(struct tr *t, const struct insn *i)
{
    for (unsigned n = t->slow_count; n-- > 0;) {
        if (!t->slow[n].insn)
            continue;
        if (t->slow[n].insn != i)
            break;
        t->slow[n].back = t->e.p;
        t->slow[n].flags = t->flags;
        t->slow[n].fp_back = t->fp;
    }
}

static void handler_call(struct tr *t, const struct insn *i)
{
    emit_imm64(&t->e, H_AX, (uint64_t)(uintptr_t)i);
    emit_imm64(&t->e, H_14, (uint64_t)(uintptr_t)t->block);
    emit_call(&t->e, t->jit->call_handler);
}

/* ---- Leaving ---- */

static bool small(int64_t x) { return x == (int32_t)x; }
/* Can it be told from the page's start? */
static bool near(int64_t x) { return small(x) && small(x + (int64_t)PAGE_SIZE); }

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
static void exit_at(struct tr *t, int64_t delta)
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

/* Straight into the block at `delta` if it is in this page, through the jump cache otherwise. */
static void exit_direct(struct tr *t, int64_t delta)
{
    assert(!t->fp.x87_last && !t->fp.x87_mem && t->flags != IN_HOST);
    struct emit *e = &t->e;
    const struct block *b = t->block;
    int64_t place = block_place(b) + delta;
    if (place < 0 || place >= (int64_t)PAGE_SIZE) {
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

/* ---- Liveness of flags ---- */

/* Only a handler that the row itself names: a privileged instruction outside CPL 0 has another. */
static bool own_handler(const struct insn *i)
{
    const struct op *op = insn_rows[i->row].op;
    unsigned size = i->size == 8 ? 3 : i->size == 4 ? 2 : i->size == 2 ? 1 : 0;
    insn_fn *fn = __atomic_load_n(&i->fn, __ATOMIC_RELAXED);
    return fn == op->r[size] || fn == op->m[size];
}

/* Does it leave no old status flag, whatever its operands are? */
static bool sets_all_flags(const struct insn *i)
{
    const struct insn_row *row = &insn_rows[i->row];
    return row->writes == F_ALL && !row->reads;
}

extern const struct op op_mov_EG, op_mov_GE, op_mov_EI;

/* Will all flags be made anew before anything can look at those of the present instruction? It
 * passes over moves between whole registers only, which nothing can stop. */
static bool flags_dead_behind(const struct tr *t)
{
    for (unsigned n = t->n + 1; n < t->block->count; n++) {
        const struct insn *i = &t->block->insns[n];
        const struct op *op = insn_rows[i->row].op;
        if (is_mem(i) || !own_handler(i) || i->size < 4)
            return false;
        if (sets_all_flags(i))
            return true;
        if (op != &op_mov_EG && op != &op_mov_GE && op != &op_mov_EI)
            return false;
    }
    return false;
}

/* ---- Two operands ---- */

static bool tr_alu_eg(struct tr *t, const struct insn *i, unsigned n)
{
    unsigned reg, rm = 0;
    bool lock = i->flags & IF_LOCK;
    if (!reg_number(i, &reg))
        return false;
    if (n == 2 || n == 3)
        flags_commit(t);
    if (is_mem(i)) {
        if (!mem_operand(t, i, i->size, n != 7))
            return false;
        unsigned h = reg_get(t, reg, H_14);
        if (n == 2 || n == 3)
            carry_fetch(t);
        emit_op(&t->e, lock ? E_LOCK : 0, i->size, sized(i, n * 8), h, t->mem, bytes_of(i, 1));
    } else {
        if (!rm_number(i, &rm))
            return false;
        unsigned d = reg_get(t, rm, H_AX), s = reg_get(t, reg, H_14);
        if (n == 2 || n == 3)
            carry_fetch(t);
        emit_op(&t->e, 0, i->size, sized(i, n * 8), s, in_reg(d), bytes_of(i, 3));
        if (n != 7)
            reg_put(t, rm, d);
    }
    if (is_mem(i))
        flags_new(t);
    else
        alu_producer(t, i, n, rm, reg);
    return true;
}

static bool tr_alu_ge(struct tr *t, const struct insn *i, unsigned n)
{
    unsigned reg, rm = 0;
    if (!reg_number(i, &reg))
        return false;
    unsigned d;
    if (n == 2 || n == 3)
        flags_commit(t);
    if (is_mem(i)) {
        if (!mem_operand(t, i, i->size, false))
            return false;
        d = reg_get(t, reg, H_14);
        if (n == 2 || n == 3)
            carry_fetch(t);
        emit_op(&t->e, 0, i->size, sized(i, n * 8 + 2), d, t->mem, bytes_of(i, 1));
    } else {
        if (!rm_number(i, &rm))
            return false;
        d = reg_get(t, reg, H_AX);
        unsigned s = reg_get(t, rm, H_14);
        if (n == 2 || n == 3)
            carry_fetch(t);
        emit_op(&t->e, 0, i->size, sized(i, n * 8 + 2), d, in_reg(s), bytes_of(i, 3));
    }
    if (n != 7)
        reg_put(t, reg, d);
    if (is_mem(i))
        flags_new(t);
    else
        alu_producer(t, i, n, reg, rm);
    return true;
}

static bool tr_alu_ei(struct tr *t, const struct insn *i, unsigned n)
{
    unsigned rm = 0;
    if (!small(i->imm))
        return false;
    if (n == 2 || n == 3)
        flags_commit(t);
    if (is_mem(i)) {
        if (!mem_operand(t, i, i->size, n != 7))
            return false;
        if (n == 2 || n == 3)
            carry_fetch(t);
        emit_alu_imm(&t->e, i->flags & IF_LOCK ? E_LOCK : 0, i->size, n, t->mem, (int32_t)i->imm,
                     0);
    } else {
        if (!rm_number(i, &rm))
            return false;
        unsigned d = reg_get(t, rm, H_AX);
        if (n == 2 || n == 3)
            carry_fetch(t);
        emit_alu_imm(&t->e, 0, i->size, n, in_reg(d), (int32_t)i->imm, bytes_of(i, 2));
        if (n != 7)
            reg_put(t, rm, d);
    }
    if (is_mem(i))
        flags_new(t);
    else
        alu_producer(t, i, n, rm, REG_NONE);
    return true;
}

static bool tr_test_eg(struct tr *t, const struct insn *i, unsigned param)
{
    unsigned reg, rm = 0;
    if (!reg_number(i, &reg))
        return false;
    if (is_mem(i)) {
        if (!mem_operand(t, i, i->size, false))
            return false;
        unsigned h = reg_get(t, reg, H_14);
        emit_op(&t->e, 0, i->size, sized(i, 0x84), h, t->mem, bytes_of(i, 1));
    } else {
        if (!rm_number(i, &rm))
            return false;
        unsigned d = reg_get(t, rm, H_AX), s = reg == rm ? d : reg_get(t, reg, H_14);
        emit_op(&t->e, 0, i->size, sized(i, 0x84), s, in_reg(d), bytes_of(i, 3));
    }
    if (is_mem(i))
        flags_new(t);
    else
        producer_set(t, PRODUCER_TEST, i, rm, reg);
    return true;
}

static void immediate(struct tr *t, const struct insn *i)
{
    if (i->size == 1)
        e8(&t->e, (uint8_t)i->imm);
    else if (i->size == 2)
        e8(&t->e, (uint8_t)i->imm), e8(&t->e, (uint8_t)(i->imm >> 8));
    else
        e32(&t->e, (uint32_t)i->imm);
}

static bool tr_test_ei(struct tr *t, const struct insn *i, unsigned param)
{
    unsigned rm = 0;
    if (!small(i->imm))
        return false;
    if (is_mem(i)) {
        if (!mem_operand(t, i, i->size, false))
            return false;
        emit_op(&t->e, 0, i->size, sized(i, 0xf6), 0, t->mem, 0);
    } else {
        if (!rm_number(i, &rm))
            return false;
        unsigned d = reg_get(t, rm, H_AX);
        emit_op(&t->e, 0, i->size, sized(i, 0xf6), 0, in_reg(d), bytes_of(i, 2));
    }
    immediate(t, i);
    if (is_mem(i))
        flags_new(t);
    else
        producer_set(t, PRODUCER_TEST, i, rm, REG_NONE);
    return true;
}

/* ---- Moves: no flags, so the host's stay unless memory is touched ---- */

static bool tr_mov_eg(struct tr *t, const struct insn *i, unsigned param)
{
    unsigned reg, rm;
    if (!reg_number(i, &reg))
        return false;
    if (is_mem(i)) {
        if (!mem_operand(t, i, i->size, true))
            return false;
        unsigned h = reg_get(t, reg, H_14);
        emit_op(&t->e, 0, i->size, sized(i, 0x88), h, t->mem, bytes_of(i, 1));
        return true;
    }
    if (!rm_number(i, &rm))
        return false;
    unsigned s = reg_get(t, reg, H_14);
    unsigned d = i->size < 4 ? reg_get(t, rm, H_AX) : reg_new(rm, H_AX);
    emit_op(&t->e, 0, i->size, sized(i, 0x88), s, in_reg(d), bytes_of(i, 3));
    reg_put(t, rm, d);
    return true;
}

static bool tr_mov_ge(struct tr *t, const struct insn *i, unsigned param)
{
    unsigned reg, rm;
    if (!reg_number(i, &reg))
        return false;
    unsigned d;
    if (is_mem(i)) {
        if (!mem_operand(t, i, i->size, false))
            return false;
        d = i->size < 4 ? reg_get(t, reg, H_14) : reg_new(reg, H_14);
        emit_op(&t->e, 0, i->size, sized(i, 0x8a), d, t->mem, bytes_of(i, 1));
    } else {
        if (!rm_number(i, &rm))
            return false;
        unsigned s = reg_get(t, rm, H_14);
        d = i->size < 4 ? reg_get(t, reg, H_AX) : reg_new(reg, H_AX);
        emit_op(&t->e, 0, i->size, sized(i, 0x8a), d, in_reg(s), bytes_of(i, 3));
    }
    reg_put(t, reg, d);
    return true;
}

static bool tr_mov_ei(struct tr *t, const struct insn *i, unsigned param)
{
    unsigned rm;
    if (is_mem(i)) {
        if (!small(i->imm) || !mem_operand(t, i, i->size, true))
            return false;
        emit_op(&t->e, 0, i->size, sized(i, 0xc6), 0, t->mem, 0);
        immediate(t, i);
        return true;
    }
    if (!rm_number(i, &rm))
        return false;
    unsigned d = i->size < 4 ? reg_get(t, rm, H_AX) : reg_new(rm, H_AX);
    if (i->size == 8 && !small(i->imm)) {
        emit_imm64(&t->e, d, (uint64_t)i->imm);
    } else {
        emit_op(&t->e, 0, i->size, sized(i, 0xc6), 0, in_reg(d), bytes_of(i, 2));
        immediate(t, i);
    }
    reg_put(t, rm, d);
    return true;
}

/* param: opcode behind 0F (b6, b7, be, bf), or 63 for MOVSXD */
static bool tr_extend(struct tr *t, const struct insn *i, unsigned param)
{
    bool from_byte = param == 0xb6 || param == 0xbe;
    unsigned opc = param == 0x63 ? 0x63u : OPC(OF0, 0, param);
    unsigned from = from_byte ? 1 : param == 0x63 ? 4 : 2;
    unsigned d;
    if (is_mem(i)) {
        if (!mem_operand(t, i, from, false))
            return false; /* MOVSXD with 16 bits: makers differ in what they read */
        d = i->size < 4 ? reg_get(t, i->reg, H_14) : reg_new(i->reg, H_14);
        emit_op(&t->e, 0, i->size, opc, d, t->mem, 0);
    } else if (from_byte && high_byte(i->rm_off)) {
        unsigned s = host_of[i->rm_off / 8];
        if (s == H_NONE || i->size < 4)
            return false;
        held_drop(t);
        emit_op(&t->e, 0, 4, 0x89, s, in_reg(H_AX), 0);
        d = reg_new(i->reg, H_14);
        /* From AH, which only an encoding without REX can name. */
        emit_op(&t->e, 0, 4, OPC(OF0, 0, param), H_AX, in_reg(4), 0);
        if (param == 0xbe && i->size == 8)
            emit_op(&t->e, 0, 8, 0x63, d, in_reg(H_AX), 0);
        else
            emit_op(&t->e, 0, 4, 0x8b, d, in_reg(H_AX), 0);
    } else {
        unsigned s = reg_get(t, from_byte ? i->rm_off / 8u : i->rm, H_14);
        d = i->size < 4 ? reg_get(t, i->reg, H_AX) : reg_new(i->reg, H_AX);
        emit_op(&t->e, 0, i->size, opc, d, in_reg(s), from_byte ? 2 : 0);
    }
    reg_put(t, i->reg, d);
    return true;
}

static bool tr_lea(struct tr *t, const struct insn *i, unsigned param)
{
    if (i->size < 4 || i->asize != word_of(t) || !near(i->disp))
        return false;
    unsigned base = address_reg(t, i->base, H_AX), index = address_reg(t, i->index, H_14);
    unsigned d = reg_new(i->reg, H_AX);
    emit_lea(&t->e, i->size, d, base, index, i->scale, address_disp(t, i->base, i->disp));
    reg_put(t, i->reg, d);
    return true;
}

static bool tr_xchg(struct tr *t, const struct insn *i, unsigned param)
{
    unsigned reg, rm;
    if (!reg_number(i, &reg))
        return false;
    if (is_mem(i)) {
        if (!mem_operand(t, i, i->size, true))
            return false;
        unsigned h = reg_get(t, reg, H_14);
        emit_op(&t->e, 0, i->size, sized(i, 0x86), h, t->mem, bytes_of(i, 1));
        reg_put(t, reg, h);
        return true;
    }
    if (!rm_number(i, &rm) || rm == reg)
        return false;
    unsigned a = reg_get(t, rm, H_AX), b = reg_get(t, reg, H_14);
    emit_op(&t->e, 0, i->size, sized(i, 0x86), b, in_reg(a), bytes_of(i, 3));
    reg_put(t, rm, a);
    reg_put(t, reg, b);
    return true;
}

/* ---- One operand ---- */

/* INC and DEC keep the carry, NOT all flags */
enum { UN_INC, UN_DEC, UN_NOT, UN_NEG };
static bool tr_unary(struct tr *t, const struct insn *i, unsigned param)
{
    static const struct {
        uint8_t opcode, ext;
    } form[] = { { 0xfe, 0 }, { 0xfe, 1 }, { 0xf6, 2 }, { 0xf6, 3 } };
    unsigned rm;
    if (param == UN_INC || param == UN_DEC)
        flags_commit(t);
    if (is_mem(i)) {
        if (!mem_operand(t, i, i->size, true))
            return false;
        if (param == UN_INC || param == UN_DEC)
            carry_fetch(t);
        emit_op(&t->e, i->flags & IF_LOCK ? E_LOCK : 0, i->size, sized(i, form[param].opcode),
                form[param].ext, t->mem, 0);
    } else {
        if (!rm_number(i, &rm))
            return false;
        unsigned d = reg_get(t, rm, H_AX);
        if (param == UN_INC || param == UN_DEC)
            carry_fetch(t);
        emit_op(&t->e, 0, i->size, sized(i, form[param].opcode), form[param].ext, in_reg(d),
                bytes_of(i, 2));
        reg_put(t, rm, d);
    }
    if (param != UN_NOT)
        flags_new(t);
    return true;
}

/* param: ModRM extension: rol ror rcl rcr shl shr - sar. Rotates keep all but CF and OF; a count of
 * zero keeps all. */
static bool tr_shift_i(struct tr *t, const struct insn *i, unsigned param)
{
    unsigned count = (unsigned)i->imm & (i->size == 8 ? 63 : 31), rm;
    bool rotate = param < 4;
    if (!count)
        return false;
    if (is_mem(i)) {
        if (rotate || !mem_operand(t, i, i->size, true))
            return false;
        emit_op(&t->e, 0, i->size, sized(i, 0xc0), param, t->mem, 0);
        e8(&t->e, count);
    } else {
        if (!rm_number(i, &rm))
            return false;
        if (rotate && !flags_dead_behind(t))
            flags_fetch(t);
        unsigned d = reg_get(t, rm, H_AX);
        emit_op(&t->e, 0, i->size, sized(i, 0xc0), param, in_reg(d), bytes_of(i, 2));
        e8(&t->e, count);
        reg_put(t, rm, d);
    }
    flags_new(t);
    return true;
}

static bool tr_shift_1(struct tr *t, const struct insn *i, unsigned param)
{
    unsigned rm;
    if (is_mem(i)) {
        if (param < 4 || !mem_operand(t, i, i->size, true))
            return false;
        emit_op(&t->e, 0, i->size, sized(i, 0xd0), param, t->mem, 0);
        flags_new(t);
        return true;
    }
    if (!rm_number(i, &rm))
        return false;
    if (param < 4)
        flags_fetch(t);
    unsigned d = reg_get(t, rm, H_AX);
    emit_op(&t->e, 0, i->size, sized(i, 0xd0), param, in_reg(d), bytes_of(i, 2));
    reg_put(t, rm, d);
    flags_new(t);
    return true;
}

static bool tr_shift_c(struct tr *t, const struct insn *i, unsigned param)
{
    unsigned rm;
    if (is_mem(i) || !rm_number(i, &rm))
        return false;
    flags_fetch(t);
    unsigned d = reg_get(t, rm, H_AX);
    emit_op(&t->e, 0, i->size, sized(i, 0xd2), param, in_reg(d), bytes_of(i, 2));
    reg_put(t, rm, d);
    flags_new(t);
    return true;
}

/* param: a4 SHLD, ac SHRD */
static bool tr_double_shift(struct tr *t, const struct insn *i, unsigned param)
{
    unsigned count = (unsigned)i->imm & (i->size == 8 ? 63 : 31);
    if (is_mem(i) || !count || i->size < 4)
        return false;
    unsigned d = reg_get(t, i->rm, H_AX), s = reg_get(t, i->reg, H_14);
    emit_op(&t->e, 0, i->size, OPC(OF0, 0, param), s, in_reg(d), 0);
    e8(&t->e, count);
    reg_put(t, i->rm, d);
    flags_new(t);
    return true;
}

static bool tr_imul_ge(struct tr *t, const struct insn *i, unsigned param)
{
    unsigned d;
    if (is_mem(i)) {
        if (!mem_operand(t, i, i->size, false))
            return false;
        d = reg_get(t, i->reg, H_14);
        emit_op(&t->e, 0, i->size, OPC(OF0, 0, 0xaf), d, t->mem, 0);
    } else {
        d = reg_get(t, i->reg, H_AX);
        unsigned s = reg_get(t, i->rm, H_14);
        emit_op(&t->e, 0, i->size, OPC(OF0, 0, 0xaf), d, in_reg(s), 0);
    }
    reg_put(t, i->reg, d);
    flags_new(t);
    return true;
}

static bool tr_imul_gei(struct tr *t, const struct insn *i, unsigned param)
{
    if (i->size < 4)
        return false;
    unsigned d;
    if (is_mem(i)) {
        if (!mem_operand(t, i, i->size, false))
            return false;
        d = reg_new(i->reg, H_14);
        emit_op(&t->e, 0, i->size, 0x69, d, t->mem, 0);
    } else {
        unsigned s = reg_get(t, i->rm, H_14);
        d = reg_new(i->reg, H_AX);
        emit_op(&t->e, 0, i->size, 0x69, d, in_reg(s), 0);
    }
    e32(&t->e, (uint32_t)i->imm);
    reg_put(t, i->reg, d);
    flags_new(t);
    return true;
}

/* param: extension 4 MUL, 5 IMUL. Guest RDX is the host's own. */
static bool tr_mul(struct tr *t, const struct insn *i, unsigned param)
{
    if (i->size < 4)
        return false;
    struct place_of factor;
    if (is_mem(i)) {
        if (!mem_operand(t, i, i->size, false))
            return false;
        emit_op(&t->e, 0, i->size, 0x8b, H_14, t->mem, 0);
        factor = in_reg(H_14);
    } else {
        factor = in_reg(reg_get(t, i->rm, H_14));
    }
    emit_op(&t->e, 0, 8, 0x8b, H_AX, in_reg(host_of[R_AX]), 0);
    emit_op(&t->e, 0, i->size, 0xf7, param, factor, 0);
    emit_op(&t->e, 0, 8, 0x8b, host_of[R_AX], in_reg(H_AX), 0);
    flags_new(t);
    return true;
}

/* param: 0 DIV, 1 IDIV. What would overflow, and signed dividends wider than one word, go to the
 * handler. */
static bool tr_div(struct tr *t, const struct insn *i, unsigned is_signed)
{
    struct emit *e = &t->e;
    if (i->size < 4)
        return false;
    if (is_mem(i)) {
        if (!mem_operand(t, i, i->size, false))
            return false;
        emit_op(e, 0, i->size, 0x8b, H_14, t->mem, 0);
        flags_spill(t); /* a window has not */
    } else {
        flags_spill(t);
        emit_op(e, 0, i->size, 0x8b, H_14, in_reg(reg_get(t, i->rm, H_14)), 0);
    }
    emit_op(e, 0, i->size, 0x8b, H_AX, in_reg(host_of[R_AX]), 0);
    if (is_signed) {
        emit_op(e, 0, i->size, 0xc1, 7, in_reg(H_AX), 0), e8(e, i->size * 8u - 1);
        emit_op(e, 0, i->size, 0x39, H_DX, in_reg(H_AX), 0);
        slow_if(t, CC_NE, i);
        emit_lea(e, i->size, H_AX, H_14, H_NONE, 0, 1); /* divisor 0 or -1 */
        emit_alu_imm(e, 0, i->size, 7, in_reg(H_AX), 1, 0);
        slow_if(t, CC_BE, i);
        emit_op(e, 0, i->size, 0x8b, H_AX, in_reg(host_of[R_AX]), 0);
    } else {
        emit_op(e, 0, i->size, 0x39, H_14, in_reg(H_DX), 0);
        slow_if(t, CC_AE, i);
    }
    emit_op(e, 0, i->size, 0xf7, is_signed ? 7 : 6, in_reg(H_14), 0);
    emit_op(e, 0, i->size, 0x8b, host_of[R_AX], in_reg(H_AX), 0);
    return true;
}

static bool tr_cbw(struct tr *t, const struct insn *i, unsigned param)
{
    unsigned a = host_of[R_AX];
    if (i->size == 8)
        emit_op(&t->e, 0, 8, 0x63, a, in_reg(a), 0);
    else if (i->size == 4)
        emit_op(&t->e, 0, 4, OPC(OF0, 0, 0xbf), a, in_reg(a), 0);
    else
        return false;
    return true;
}

static bool tr_cwd(struct tr *t, const struct insn *i, unsigned param)
{
    if (i->size < 4)
        return false;
    emit_op(&t->e, 0, 8, 0x8b, H_AX, in_reg(host_of[R_AX]), 0);
    if (i->size == 8)
        e8(&t->e, 0x48);
    e8(&t->e, 0x99);
    return true;
}

static bool tr_bswap(struct tr *t, const struct insn *i, unsigned param)
{
    if (i->size < 4)
        return false;
    unsigned d = reg_get(t, i->rm, H_AX);
    if (i->size == 8 || d >= 8)
        e8(&t->e, 0x40 | (i->size == 8 ? 8 : 0) | d >> 3);
    e8(&t->e, 0x0f);
    e8(&t->e, 0xc8 | (d & 7));
    reg_put(t, i->rm, d);
    return true;
}

/* ---- Bits ---- */

/* param: extension 4 BT, 5 BTS, 6 BTR, 7 BTC; registers only. They define CF and keep ZF. */
static bool tr_bit_i(struct tr *t, const struct insn *i, unsigned param)
{
    if (is_mem(i))
        return false;
    flags_fetch(t);
    unsigned d = reg_get(t, i->rm, H_AX);
    emit_op(&t->e, 0, i->size, OPC(OF0, 0, 0xba), param, in_reg(d), 0);
    e8(&t->e, (uint8_t)i->imm);
    if (param != 4)
        reg_put(t, i->rm, d);
    flags_new(t);
    return true;
}
static bool tr_bit_g(struct tr *t, const struct insn *i, unsigned param)
{
    if (is_mem(i))
        return false;
    flags_fetch(t);
    unsigned d = reg_get(t, i->rm, H_AX), s = reg_get(t, i->reg, H_14);
    emit_op(&t->e, 0, i->size, OPC(OF0, 0, 0x83 | param << 3), s, in_reg(d), 0);
    if (param != 4)
        reg_put(t, i->rm, d);
    flags_new(t);
    return true;
}

/* param: bit 7: F3 prefix; low bits: opcode - 0xb8 (popcnt 0, bsf and tzcnt 4, bsr and lzcnt 5) */
static bool tr_scan(struct tr *t, const struct insn *i, unsigned param)
{
    unsigned opc = OPC(OF0, param & 0x80 ? 0xf3 : 0, 0xb8 + (param & 7)), d;
    if (is_mem(i)) {
        if (!mem_operand(t, i, i->size, false))
            return false;
        d = reg_get(t, i->reg, H_14);
        emit_op(&t->e, 0, i->size, opc, d, t->mem, 0);
    } else {
        d = reg_get(t, i->reg, H_AX);
        unsigned s = reg_get(t, i->rm, H_14);
        emit_op(&t->e, 0, i->size, opc, d, in_reg(s), 0);
    }
    reg_put(t, i->reg, d);
    flags_new(t);
    return true;
}

static bool tr_setcc(struct tr *t, const struct insn *i, unsigned cc)
{
    unsigned rm;
    if (is_mem(i) || !rm_number(i, &rm))
        return false;
    flags_fetch(t);
    unsigned d = reg_get(t, rm, H_AX);
    emit_op(&t->e, 0, 1, OPC(OF0, 0, 0x90 | cc), 0, in_reg(d), 2);
    reg_put(t, rm, d);
    return true;
}

static bool tr_cmov(struct tr *t, const struct insn *i, unsigned cc)
{
    unsigned s;
    if (is_mem(i)) {
        flags_commit(t); /* bringing them back needs nothing but rax then */
        if (!mem_operand(t, i, i->size, false))
            return false;
        emit_op(&t->e, 0, i->size, 0x8b, H_14, t->mem, 0);
        s = H_14;
        flags_fetch(t);
    } else {
        flags_fetch(t);
        s = reg_get(t, i->rm, H_14);
    }
    unsigned d = reg_get(t, i->reg, H_AX);
    emit_op(&t->e, 0, i->size, OPC(OF0, 0, 0x40 | cc), d, in_reg(s), 0);
    reg_put(t, i->reg, d);
    return true;
}

static bool tr_sahf(struct tr *t, const struct insn *i, unsigned param)
{
    flags_fetch(t); /* OF stays */
    emit_op(&t->e, 0, 4, 0x8b, H_AX, in_reg(host_of[R_AX]), 0);
    e8(&t->e, 0x9e);
    flags_new(t);
    return true;
}

static bool tr_nop(struct tr *t, const struct insn *i, unsigned param) { return true; }

/* ---- Atomics ---- */

static bool tr_cmpxchg(struct tr *t, const struct insn *i, unsigned param)
{
    unsigned reg;
    if (!is_mem(i) || !reg_number(i, &reg) || host_of[reg] == H_NONE ||
        !mem_operand(t, i, i->size, true))
        return false;
    struct place_of mem = t->mem;
    if (mem.reg == H_AX) {
        emit_op(&t->e, 0, 8, 0x8b, H_14, in_reg(H_AX), 0);
        mem = at(H_14);
    }
    held_drop(t);
    emit_op(&t->e, 0, 8, 0x8b, H_AX, in_reg(host_of[R_AX]), 0);
    emit_op(&t->e, E_LOCK, i->size, OPC(OF0, 0, sized(i, 0xb0)), host_of[reg], mem, bytes_of(i, 1));
    emit_op(&t->e, 0, 8, 0x8b, host_of[R_AX], in_reg(H_AX), 0);
    flags_new(t);
    return true;
}

static bool tr_xadd(struct tr *t, const struct insn *i, unsigned param)
{
    unsigned reg;
    if (!is_mem(i) || !reg_number(i, &reg) || !mem_operand(t, i, i->size, true))
        return false;
    unsigned h = reg_get(t, reg, H_14);
    emit_op(&t->e, E_LOCK, i->size, OPC(OF0, 0, sized(i, 0xc0)), h, t->mem, bytes_of(i, 1));
    reg_put(t, reg, h);
    flags_new(t);
    return true;
}

/* ---- Stack ---- */

static void stack_move(struct tr *t, int32_t by)
{
    emit_lea(&t->e, word_of(t), host_of[R_SP], host_of[R_SP], H_NONE, 0, by);
}

static bool tr_push(struct tr *t, const struct insn *i, unsigned param)
{
    const int32_t word = (int32_t)word_of(t);
    if (i->size != word || is_mem(i))
        return false;
    stack_operand(t, i, -word, true);
    emit_op(&t->e, 0, i->size, 0x89, reg_get(t, i->rm, H_14), t->mem, 0);
    stack_move(t, -word);
    return true;
}
static bool tr_push_i(struct tr *t, const struct insn *i, unsigned param)
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
static bool tr_pop(struct tr *t, const struct insn *i, unsigned param)
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
static bool tr_leave(struct tr *t, const struct insn *i, unsigned param)
{
    if (i->size != word_of(t))
        return false;
    frame_operand(t, i);
    emit_lea(&t->e, i->size, host_of[R_SP], host_of[R_BP], H_NONE, 0, i->size);
    emit_op(&t->e, 0, i->size, 0x8b, host_of[R_BP], t->mem, 0);
    return true;
}

/* ---- Branches ---- */

static int64_t end_of(const struct insn *i) { return insn_end(i); }

static bool tr_jmp(struct tr *t, const struct insn *i, unsigned param)
{
    if (i->size != word_of(t) || !near(i->imm))
        return false;
    fp_spill(t);
    flags_commit(t);
    exit_direct(t, i->imm);
    t->ended = true;
    return true;
}

static bool tr_jcc(struct tr *t, const struct insn *i, unsigned cc)
{
    if (i->size != word_of(t) || !near(i->imm))
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

static void side_exits_write(struct tr *t)
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

static bool tr_call(struct tr *t, const struct insn *i, unsigned param)
{
    const int32_t word = (int32_t)word_of(t);
    if (i->size != word || !near(i->imm))
        return false;
    fp_spill(t);
    flags_commit(t);
    stack_operand(t, i, -word, true);
    address_here(t, end_of(i));
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
static bool tr_ret(struct tr *t, const struct insn *i, unsigned with_release)
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

static bool tr_jmp_e(struct tr *t, const struct insn *i, unsigned param)
{
    if (i->size != word_of(t))
        return false;
    fp_spill(t);
    flags_commit(t);
    if (is_mem(i)) {
        if (!mem_operand(t, i, i->size, false))
            return false;
        emit_op(&t->e, 0, i->size, 0x8b, H_14, t->mem, 0);
    } else {
        emit_op(&t->e, 0, i->size, 0x8b, H_14, in_reg(reg_get(t, i->rm, H_AX)), 0);
    }
    emit_call(&t->e, t->jit->find);
    slow_if(t, CC_B, i);
    jump_found(t);
    t->ended = true;
    return true;
}

static bool tr_call_e(struct tr *t, const struct insn *i, unsigned param)
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
    address_here(t, end_of(i));
    emit_op(&t->e, 0, i->size, 0x89, H_14, t->mem, 0);
    emit_op(&t->e, 0, i->size, 0x8b, H_14, in_reg(reg_get(t, i->rm, H_AX)), 0);
    stack_move(t, -word);
    exit_to(t);
    t->ended = true;
    return true;
}

/* ---- The table ---- */

/* clang-format off */
#define OPS(X)                                                                                   \
    X(op_add_EG, tr_alu_eg, 0) X(op_or_EG, tr_alu_eg, 1) X(op_adc_EG, tr_alu_eg, 2)               \
    X(op_sbb_EG, tr_alu_eg, 3) X(op_and_EG, tr_alu_eg, 4) X(op_sub_EG, tr_alu_eg, 5)              \
    X(op_xor_EG, tr_alu_eg, 6) X(op_cmp_EG, tr_alu_eg, 7) X(op_add_GE, tr_alu_ge, 0)              \
    X(op_or_GE, tr_alu_ge, 1) X(op_adc_GE, tr_alu_ge, 2) X(op_sbb_GE, tr_alu_ge, 3)               \
    X(op_and_GE, tr_alu_ge, 4) X(op_sub_GE, tr_alu_ge, 5) X(op_xor_GE, tr_alu_ge, 6)              \
    X(op_cmp_GE, tr_alu_ge, 7) X(op_add_EI, tr_alu_ei, 0) X(op_or_EI, tr_alu_ei, 1)               \
    X(op_adc_EI, tr_alu_ei, 2) X(op_sbb_EI, tr_alu_ei, 3) X(op_and_EI, tr_alu_ei, 4)              \
    X(op_sub_EI, tr_alu_ei, 5) X(op_xor_EI, tr_alu_ei, 6) X(op_cmp_EI, tr_alu_ei, 7)              \
    X(op_test_EG, tr_test_eg, 0) X(op_test_EI, tr_test_ei, 0) X(op_mov_EG, tr_mov_eg, 0)          \
    X(op_mov_GE, tr_mov_ge, 0) X(op_mov_EI, tr_mov_ei, 0) X(op_movzx_GEb, tr_extend, 0xb6)        \
    X(op_movzx_GEw, tr_extend, 0xb7) X(op_movsx_GEb, tr_extend, 0xbe)                             \
    X(op_movsx_GEw, tr_extend, 0xbf) X(op_movsxd_GE, tr_extend, 0x63) X(op_lea, tr_lea, 0)        \
    X(op_xchg_EG, tr_xchg, 0) X(op_inc_E, tr_unary, UN_INC) X(op_dec_E, tr_unary, UN_DEC)         \
    X(op_not_E, tr_unary, UN_NOT) X(op_neg_E, tr_unary, UN_NEG) X(op_rol_EI, tr_shift_i, 0)       \
    X(op_ror_EI, tr_shift_i, 1) X(op_shl_EI, tr_shift_i, 4) X(op_shr_EI, tr_shift_i, 5)           \
    X(op_sar_EI, tr_shift_i, 7) X(op_rol_E1, tr_shift_1, 0) X(op_ror_E1, tr_shift_1, 1)           \
    X(op_rcl_E1, tr_shift_1, 2) X(op_rcr_E1, tr_shift_1, 3) X(op_shl_E1, tr_shift_1, 4)           \
    X(op_shr_E1, tr_shift_1, 5) X(op_sar_E1, tr_shift_1, 7) X(op_rol_EC, tr_shift_c, 0)           \
    X(op_ror_EC, tr_shift_c, 1) X(op_shl_EC, tr_shift_c, 4) X(op_shr_EC, tr_shift_c, 5)           \
    X(op_sar_EC, tr_shift_c, 7) X(op_shld_EGI, tr_double_shift, 0xa4)                             \
    X(op_shrd_EGI, tr_double_shift, 0xac) X(op_imul_GE, tr_imul_ge, 0)                            \
    X(op_imul_GEI, tr_imul_gei, 0) X(op_mul_E, tr_mul, 4) X(op_imul_E, tr_mul, 5)                 \
    X(op_div_E, tr_div, 0) X(op_idiv_E, tr_div, 1) X(op_cbw, tr_cbw, 0) X(op_cwd, tr_cwd, 0)      \
    X(op_bswap_Z, tr_bswap, 0) X(op_bt_EI, tr_bit_i, 4) X(op_bts_EI, tr_bit_i, 5)                 \
    X(op_btr_EI, tr_bit_i, 6) X(op_btc_EI, tr_bit_i, 7) X(op_bt_EG, tr_bit_g, 4)                  \
    X(op_bts_EG, tr_bit_g, 5) X(op_btr_EG, tr_bit_g, 6) X(op_btc_EG, tr_bit_g, 7)                 \
    X(op_bsf_GE, tr_scan, 4) X(op_bsr_GE, tr_scan, 5) X(op_tzcnt_GE, tr_scan, 0x84)               \
    X(op_lzcnt_GE, tr_scan, 0x85) X(op_popcnt_GE, tr_scan, 0x80) X(op_cmpxchg_EG, tr_cmpxchg, 0)  \
    X(op_xadd_EG, tr_xadd, 0) X(op_nop, tr_nop, 0) X(op_push_E, tr_push, 0)                       \
    X(op_push_I, tr_push_i, 0) X(op_pop_E, tr_pop, 0) X(op_leave, tr_leave, 0)                    \
    X(op_jmp_J, tr_jmp, 0) X(op_call_J, tr_call, 0) X(op_ret, tr_ret, 0) X(op_ret_I, tr_ret, 1)   \
    X(op_x87_load, tr_x87, X87_LOAD) X(op_x87_store, tr_x87, X87_STORE)                           \
    X(op_x87_sti, tr_x87, X87_REG) X(op_x87_d9, tr_x87, X87_REG) X(op_x87_comi, tr_x87, X87_COMI) \
    X(op_x87_cmov, tr_x87, X87_CMOV) X(op_fldcw, tr_x87, X87_LDCW)                                \
    X(op_fnstcw, tr_x87, X87_STCW) X(op_fnstsw, tr_x87, X87_STSW)                                 \
    X(op_fnstsw_ax, tr_x87, X87_STSW_AX) X(op_fnclex, tr_x87, X87_CLEX) X(op_fnop, tr_x87, X87_NOP) \
    X(op_fnop_nowait, tr_x87, X87_NOTHING) X(op_fwait, tr_x87, X87_NOTHING) X(op_sahf, tr_sahf, 0) \
    X(op_jmp_E, tr_jmp_e, 0) X(op_call_E, tr_call_e, 0) CONDITION(o, 0) CONDITION(no, 1)          \
    CONDITION(b, 2) CONDITION(nb, 3) CONDITION(z, 4) CONDITION(nz, 5) CONDITION(be, 6)            \
    CONDITION(nbe, 7) CONDITION(s, 8) CONDITION(ns, 9) CONDITION(p, 10) CONDITION(np, 11)         \
    CONDITION(l, 12) CONDITION(nl, 13) CONDITION(le, 14) CONDITION(nle, 15)
/* clang-format on */

extern const struct op op_fldenv, op_frstor;
extern const struct op op_ldmxcsr, op_avx_ldmxcsr, op_fxrstor, op_xrstor, op_clts;
#define CONDITION(cc, n) X_(op_j##cc) X_(op_set##cc) X_(op_cmov##cc##_GE)
#define X_(name) extern const struct op name;
#define X(name, fn, param) X_(name)
OPS(X)
#undef X
#undef X_
#undef CONDITION

static const struct {
    const struct op *op;
    struct translation how;
} by_op[] = {
#define CONDITION(cc, n)                                            \
    { &op_j##cc, { tr_jcc, n } }, { &op_set##cc, { tr_setcc, n } }, \
        { &op_cmov##cc##_GE, { tr_cmov, n } },
#define X(name, fn, param) { &name, { fn, param } },
    OPS(X)
#undef X
#undef CONDITION
};

void jit_table_init(void)
{
    static bool done;
    if (done)
        return;
    translations = calloc(insn_row_count, sizeof *translations);
    if (!translations)
        abort();
    for (unsigned r = 0; r < insn_row_count; r++)
        for (unsigned n = 0; n < ARRAY_LEN(by_op); n++)
            if (insn_rows[r].op == by_op[n].op)
                translations[r] = by_op[n].how;
    for (unsigned r = 0; r < insn_row_count; r++) {
        enum sse_form form = sse_form_of(&insn_rows[r]);
        if (form)
            translations[r] = (struct translation){ tr_sse, (uint8_t)form };
        enum mmx_form mmx = mmx_form_of(&insn_rows[r]);
        if (mmx)
            translations[r] = (struct translation){ tr_mmx, (uint8_t)mmx };
        enum avx_form avx = avx_form_of(&insn_rows[r]);
        if (avx)
            translations[r] = (struct translation){ tr_avx, (uint8_t)avx };
    }
    done = true;
}

/* ---- The block ---- */

/* Behind these the block's key may be another: the dispatcher has to look. */
static bool changes_mode(const struct insn *i)
{
    const struct op *op = insn_rows[i->row].op;
    return op == &op_ldmxcsr || op == &op_avx_ldmxcsr || op == &op_fxrstor || op == &op_xrstor ||
           op == &op_clts || op == &op_fldcw || op == &op_fldenv || op == &op_frstor;
}

/* Without an operand in memory these touch rax and r14 by reg_get and reg_put only, so t->held is
 * true behind them. */
static bool keeps_held(tr_fn *fn)
{
    static tr_fn *const simple[] = {
        tr_alu_eg,  tr_alu_ge,   tr_alu_ei, tr_test_eg, tr_test_ei, tr_mov_eg,       tr_mov_ge,
        tr_mov_ei,  tr_extend,   tr_lea,    tr_unary,   tr_shift_i, tr_shift_1,      tr_shift_c,
        tr_imul_ge, tr_imul_gei, tr_bswap,  tr_bit_i,   tr_bit_g,   tr_double_shift, tr_scan,
        tr_setcc,   tr_cmov,     tr_jcc,    tr_nop,
    };
    for (unsigned n = 0; n < ARRAY_LEN(simple); n++)
        if (simple[n] == fn)
            return true;
    return false;
}

/* Which guest registers it writes; all, where nobody has looked. */
static unsigned regs_written(const struct translation *how, const struct insn *i)
{
    tr_fn *fn = how->fn;
    unsigned reg = 1u << (i->size == 1 ? i->reg_off / 8u : i->reg);
    unsigned rm = is_mem(i) ? 0 : 1u << (i->size == 1 ? i->rm_off / 8u : i->rm);
    if (fn == tr_test_eg || fn == tr_test_ei || fn == tr_nop || fn == tr_jcc || fn == tr_sahf)
        return 0;
    if (fn == tr_alu_eg || fn == tr_alu_ei)
        return how->param == 7 ? 0 : rm;
    if (fn == tr_alu_ge)
        return how->param == 7 ? 0 : reg;
    if (fn == tr_mov_eg || fn == tr_mov_ei || fn == tr_unary || fn == tr_shift_i ||
        fn == tr_shift_1 || fn == tr_shift_c || fn == tr_double_shift || fn == tr_bswap ||
        fn == tr_bit_i || fn == tr_bit_g || fn == tr_setcc)
        return rm;
    if (fn == tr_mov_ge || fn == tr_xadd)
        return reg;
    if (fn == tr_extend || fn == tr_lea || fn == tr_cmov || fn == tr_imul_ge || fn == tr_imul_gei ||
        fn == tr_scan)
        return 1u << i->reg;
    if (fn == tr_xchg)
        return reg | rm;
    if (fn == tr_mul || fn == tr_div)
        return 1u << R_AX | 1u << R_DX;
    if (fn == tr_cbw || fn == tr_cmpxchg)
        return 1u << R_AX;
    if (fn == tr_cwd)
        return 1u << R_DX;
    if (fn == tr_x87)
        return how->param == X87_STSW_AX ? 1u << R_AX : 0;
    if (fn == tr_sse)
        return how->param == SSE_GW                 ? 1u << i->reg
               : how->param == SSE_EV && !is_mem(i) ? 1u << i->rm
               : insn_rows[i->row].writes           ? 1u << R_CX /* PCMPISTRI */
                                                    : 0;
    if (fn == tr_mmx)
        return how->param == MMX_GN                 ? 1u << i->reg
               : how->param == MMX_EP && !is_mem(i) ? 1u << i->rm
                                                    : 0;
    if (fn == tr_avx)
        return how->param == AVX_GX                 ? 1u << i->reg
               : how->param == AVX_XV && !is_mem(i) ? 1u << i->rm
                                                    : 0;
    if (fn == tr_push || fn == tr_push_i)
        return 1u << R_SP;
    if (fn == tr_pop)
        return 1u << R_SP | rm;
    return ~0u;
}

bool register_moves(const struct insn *i, unsigned slot, int64_t *by)
{
    const struct translation *how = &translations[i->row];
    bool direct = !is_mem(i) && i->size == 8;
    *by = 0;
    if (!how->fn || !own_handler(i))
        return false;
    if (slot == REG_RIP)
        return true;
    if (slot == R_SP && (how->fn == tr_push || how->fn == tr_push_i)) {
        *by = -8;
        return i->size == 8;
    }
    if (slot == R_SP && how->fn == tr_pop) {
        *by = 8;
        return direct && i->rm != R_SP;
    }
    if (how->fn == tr_alu_ei && direct && i->rm == slot && (how->param == 0 || how->param == 5)) {
        *by = how->param ? -i->imm : i->imm;
        return small(*by);
    }
    if (how->fn == tr_unary && direct && i->rm == slot &&
        (how->param == UN_INC || how->param == UN_DEC)) {
        *by = how->param == UN_INC ? 1 : -1;
        return true;
    }
    if (how->fn == tr_lea && i->size == 8 && i->asize == 8 && i->reg == slot && i->base == slot &&
        i->index == REG_NONE) {
        *by = i->disp;
        return small(*by);
    }
    return !(regs_written(how, i) >> slot & 1);
}

struct access access_of(const struct insn *i)
{
    const struct translation *how = &translations[i->row];
    tr_fn *fn = how->fn;
    struct access a = { .size = 0 };
    if (!fn || !own_handler(i))
        return a;
    if (fn == tr_push || fn == tr_push_i || fn == tr_call || fn == tr_call_e)
        return (struct access){ R_SP, true, 8, -8 };
    if (fn == tr_ret || (fn == tr_pop && !is_mem(i)))
        return (struct access){ R_SP, false, 8, 0 };
    if (fn == tr_leave)
        return (struct access){ R_BP, false, 8, 0 };
    if (!is_mem(i) || i->flags & IF_SLOWEA || i->seg == S_FS || i->seg == S_GS ||
        i->index != REG_NONE || i->base == REG_NONE || !near(i->disp) || fn == tr_x87 ||
        fn == tr_nop || fn == tr_lea)
        return a;
    bool write = fn == tr_mov_eg || fn == tr_mov_ei || fn == tr_xchg || fn == tr_unary ||
                 fn == tr_shift_i || fn == tr_shift_1 || fn == tr_cmpxchg || fn == tr_xadd ||
                 ((fn == tr_alu_eg || fn == tr_alu_ei) && how->param != 7) ||
                 (fn == tr_sse && (how->param == SSE_WV || how->param == SSE_EV)) ||
                 (fn == tr_avx && how->param == AVX_XV);
    return (struct access){ i->base, write,
                            fn == tr_sse   ? 16u
                            : fn == tr_avx ? 32u
                                           : i->size,
                            i->disp };
}

static void insn_translate(struct tr *t, const struct insn *i)
{
    const struct translation *how = &translations[i->row];
    /* Will the registers that the flags could be made from again be others behind this instruction?
     */
    bool spoils = regs_written(how, i) & producer_regs(&t->producer);
    bool checks = is_mem(i) || how->fn == tr_push || how->fn == tr_push_i || how->fn == tr_pop ||
                  how->fn == tr_leave || how->fn == tr_x87 || how->fn == tr_sse ||
                  how->fn == tr_avx || how->fn == tr_mmx;
    if (spoils && !sets_all_flags(i) && (checks || t->flags == IN_PRODUCER))
        flags_commit(t);

    if (t->fp.x87_mem && regs_written(how, i) & x87_pointer_regs(&t->fp))
        x87_data_pointer_commit(t);

    uint8_t *start = t->e.p;
    unsigned slow_count = t->slow_count, exit_count = t->exit_count, flag_writes = t->flag_writes;
    enum flags_where flags = t->flags;
    struct producer producer = t->producer;
    struct fp_state fp = t->fp;
    struct window window = t->window;
    if (how->fn && own_handler(i)) {
        if (how->fn(t, i, how->param)) {
            window_follow(t, i);
            if (spoils && t->flag_writes == flag_writes)
                t->producer.kind = PRODUCER_NONE;
            if (!t->ended)
                slow_paths_return(t, i);
            /* A handler in between leaves nothing in rax and r14, nor do operands in memory. */
            if (t->slow_count > slow_count || is_mem(i) || !keeps_held(how->fn))
                held_drop(t);
            return;
        }
        t->e.p = start;
        t->slow_count = slow_count;
        t->exit_count = exit_count;
        t->flags = flags;
        t->producer = producer;
        t->fp = fp;
        t->window = window;
        held_drop(t);
    }
    t->window.base = REG_NONE;
    flags_commit(t);
    t->producer.kind = PRODUCER_NONE;
    fp_spill(t);
    handler_call(t, i);
    held_drop(t);
    if (changes_mode(i)) {
        exit_at(t, end_of(i));
        t->ended = true;
    }
}

static void slow_paths_write(struct tr *t)
{
    for (unsigned n = 0; n < t->slow_count; n++) {
        const struct slow *s = &t->slow[n];
        emit_land(&t->e, s->site);
        if (s->checked) { /* perhaps only code elsewhere in the page is in its way */
            emit_call(&t->e, t->jit->code_store);
            emit_jcc(&t->e, CC_AE, s->checked);
        }
        if (!s->insn) {
            fp_enter(t, &s->fp_back);
            emit_jmp(&t->e, s->back + t->e.to_exec);
            continue;
        }
        fp_store(t, &s->fp);
        held_drop(t);
        t->flags = s->flags_at;
        t->producer = s->producer;
        flags_commit(t);
        if (s->window.size) {
            window_slow_path(t, s);
            uint8_t *no = emit_jcc_forward(&t->e, CC_E);
            fp_enter(t, &s->fp);
            emit_jmp(&t->e, s->again);
            emit_land(&t->e, no);
            handler_call(t, s->insn);
            exit_at(t, end_of(s->insn));
            continue;
        }
        handler_call(t, s->insn);
        if (!s->back) { /* a branch: its handler never answers OP_NEXT */
            exit_at(t, 0);
            continue;
        }
        fp_enter(t, &s->fp_back);
        if (s->flags == IN_HOST || s->flags == IN_BOTH) {
            t->flags = IN_CC;
            flags_fetch(t);
        }
        emit_jmp(&t->e, s->back + t->e.to_exec);
    }
}

/* The most a block can take: each instruction's code, its slow paths (IDIV has three), the exits.
 * verify_test writes such blocks. */
enum { INSN_ROOM = 1024, BLOCK_ROOM = 1024 };

static bool has_avx(const struct jit *j, const struct block *b)
{
    if (!(b->key & CODE_AVX) || !j->sse)
        return false;
    for (unsigned n = 0; n < b->count; n++)
        if (insn_rows[b->insns[n].row].attr & AT_AVX)
            return true;
    return false;
}

void jit_translate(struct jit *j, struct block *b)
{
    size_t room = BLOCK_ROOM + (size_t)b->count * INSN_ROOM;
    if (j->size - j->used < room) {
        j->full = true;
        return;
    }
    jit_table_init();
    struct tr t = { .e = { j->rw + j->used, j->rw + j->used + room, j->rx - j->rw },
                    .jit = j,
                    .block = b };
    t.wide = has_avx(j, b);
    held_drop(&t);
    t.window.base = REG_NONE;
    uint8_t *start = t.e.p;
    /* Invariant 3: cmp dword gs:[request], 0; jne leave */
    emit_alu_imm(&t.e, 0, 4, 7, in_vcpu(offsetof(struct soft_vcpu, request)), 0, 0);
    uint8_t *out = emit_jcc_forward(&t.e, CC_NE);
    for (t.n = 0; t.n < b->count && !t.ended; t.n++)
        insn_translate(&t, &b->insns[t.n]);
    if (!t.ended) {
        flags_commit(&t);
        fp_spill(&t);
        exit_direct(&t, b->bytes);
    }
    side_exits_write(&t);
    slow_paths_write(&t);
    emit_land(&t.e, out);
    b->out = emit_exec(&t.e);
    exit_at(&t, 0);
    do /* INT3 between blocks: nothing runs into the next, and readers see where one begins */
        e8(&t.e, 0xcc);
    while ((t.e.p - j->rw) & 15);
    j->used = (size_t)(t.e.p - j->rw);
    j->blocks++;
    j->bytes_in += b->bytes;
    __atomic_store_n(&b->code, start + t.e.to_exec, __ATOMIC_RELEASE);
}
