/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The translator's core: where flags and registers are while a block is written.
 *
 * From a decoded block to host code in one pass: the instruction's own form with other registers.
 * Each kind of instruction has a small function that writes its host form (translate_*.c); what has
 * none, or comes in an unusual form (high byte registers, 16-bit addresses), calls the
 * interpreter's handler. translate_block.c puts the block together. The registers and invariants
 * are in jit.h.
 */
#include "engine/soft/translate.h"

#include "engine/soft/run.h"

/* ---- Registers ---- */

/* R12 to R15 live in the vCPU. What simple instructions leave of them in rax and r14 is remembered,
 * because a load that waits for the store before it costs five cycles. */

/* rax, or rax and r14, no longer hold what t->held says. */
static void held_drop_ax(struct tr *t) { t->held[0] = REG_NONE; }
void held_drop(struct tr *t) { t->held[0] = t->held[1] = REG_NONE; }

unsigned reg_get(struct tr *t, unsigned n, unsigned scratch)
{
    if (t->host[n] != H_NONE)
        return t->host[n];
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
unsigned reg_new(const struct tr *t, unsigned n, unsigned scratch)
{
    return t->host[n] != H_NONE ? t->host[n] : scratch;
}
void reg_put(struct tr *t, unsigned n, unsigned h)
{
    if (t->host[n] != H_NONE)
        return;
    emit_store(&t->e, in_vcpu(GPR_AT(n)), h);
    held_drop(t);
    t->held[h == H_14] = (uint8_t)n;
}

/* ---- Pinned registers ---- */

enum { PINNED_FIRST = 12, PINNED_END = 16 };

void pins_choose(struct tr *t, unsigned used, const unsigned *uses)
{
    /* Outside handlers only those of string instructions are implicit: regs_named knows. */
    static const uint8_t places[] = { 11, 10, 9, 8, R_DI, R_SI, R_BX };
    unsigned left = 0;
    for (unsigned n = 0; n < ARRAY_LEN(places); n++)
        if (!(used >> places[n] & 1))
            left |= 1u << places[n];
    while (left) {
        unsigned best = PINNED_FIRST, place = (unsigned)__builtin_ctz(left);
        for (unsigned n = PINNED_FIRST; n < PINNED_END; n++)
            if (t->host[best] != H_NONE || (t->host[n] == H_NONE && uses[n] > uses[best]))
                best = n;
        if (t->host[best] != H_NONE || uses[best] < 2)
            return;
        t->host[best] = host_of[place];
        t->host[place] = H_NONE;
        left &= left - 1;
    }
}

static void pins_move(struct tr *t, bool set)
{
    for (unsigned n = PINNED_FIRST; n < PINNED_END; n++) {
        if (t->host[n] == H_NONE)
            continue;
        unsigned displaced = 0;
        while (host_of[displaced] != t->host[n])
            displaced++;
        emit_store(&t->e, in_vcpu(GPR_AT(set ? displaced : n)), t->host[n]);
        emit_load(&t->e, t->host[n], in_vcpu(GPR_AT(set ? n : displaced)));
    }
}
void pins_set(struct tr *t) { pins_move(t, true); }
void pins_undo(struct tr *t) { pins_move(t, false); }

/* ---- Producers of flags ---- */

void producer_set(struct tr *t, enum producer_kind kind, const struct insn *i, unsigned a,
                  unsigned b)
{
    flags_new(t);
    if (kind == PRODUCER_LOGIC) /* its flags are those of its result alone */
        b = a;
    if ((kind == PRODUCER_ADD || kind == PRODUCER_SUB) && a == b)
        return;
    t->producer = (struct producer){ kind, i->size, (uint8_t)a, (uint8_t)b,
                                     b == REG_NONE ? (int32_t)i->imm : 0 };
}

unsigned producer_regs(const struct producer *p)
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

/* ---- Flags ---- */

/* Writes the host's flags to v->cc; they stay valid in the host, too. Uses rax. */
static void flags_save(struct tr *t)
{
    if (t->flags != IN_HOST)
        return;
    held_drop_ax(t);
    if (t->aside)
        emit_call(&t->e, t->jit->flags_save);
    else
        emit_flags_save(&t->e);
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
    if (t->aside)
        emit_call(&t->e, t->jit->flags_load);
    else
        emit_flags_load(&t->e);
    t->flags = IN_BOTH;
}
/* Brings only the carry into the host's flags, without a register. */
void carry_fetch(struct tr *t)
{
    assert(t->flags != IN_PRODUCER);
    if (t->flags != IN_CC)
        return;
    emit_op(&t->e, 0, 4, OPC(OF0, 0, 0xba), 4, in_vcpu(CC_AT), 0); /* bt dword, 8 */
    e8(&t->e, 8);
}
