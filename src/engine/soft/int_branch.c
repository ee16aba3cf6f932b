/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Control: conditions (Jcc, SETcc, CMOVcc), jumps, calls and returns within a segment, the stack.
 */
#include "engine/soft/int.h"

/* ---- Conditions ---- */

/* Outside 64-bit mode the operand size cuts the target. */
static inline uint64_t branch_target(const struct soft_vcpu *v, const struct insn *i)
{
    uint64_t target = v->gpr[REG_RIP] + (uint64_t)i->imm;
    return likely(v->mode == MODE_64) ? target : target & size_mask(i->size == 2 ? 2 : 4);
}

/* The branch faults, not what it leads to. */
static inline bool beyond_limit(const struct soft_vcpu *v, uint64_t target)
{
    return v->mode != MODE_64 && unlikely(target > v->seg[S_CS].limit);
}

static inline int branch(struct soft_vcpu *v, const struct insn *i, bool taken)
{
    if (!taken)
        return OP_NEXT;
    uint64_t target = branch_target(v, i);
    if (beyond_limit(v, target))
        return raise_gp(v, 0);
    v->rip = target;
    return OP_JUMP;
}

#define CMOV_SIZE(cc, test, bits)                                  \
    H(cmov##cc##_r_##bits)                                         \
    {                                                              \
        uint##bits##_t x = GET_##bits(v, i, rm);                   \
        SET_##bits(v, i, reg, (test) ? x : GET_##bits(v, i, reg)); \
        return OP_NEXT;                                            \
    }                                                              \
    H(cmov##cc##_m_##bits)                                         \
    {                                                              \
        FETCH(bits, x);                                            \
        SET_##bits(v, i, reg, (test) ? x : GET_##bits(v, i, reg)); \
        return OP_NEXT;                                            \
    }
#define CONDITION(cc, test)                                       \
    H(jump_##cc) { return branch(v, i, test); }                   \
    H(set##cc##_r)                                                \
    {                                                             \
        SET_8(v, i, rm, (uint8_t)(test));                         \
        return OP_NEXT;                                           \
    }                                                             \
    H(set##cc##_m) { STORE(8, test); }                            \
    CMOV_SIZE(cc, test, 16)                                       \
    CMOV_SIZE(cc, test, 32)                                       \
    CMOV_SIZE(cc, test, 64)                                       \
    const struct op op_j##cc = OP_ALL(jump_##cc);                 \
    const struct op op_set##cc = OP_RM(set##cc##_r, set##cc##_m); \
    const struct op op_cmov##cc##_GE = OP_WIDE(cmov##cc##_r, cmov##cc##_m);
CONDITION(o, COND_o(v->cc))
CONDITION(no, !COND_o(v->cc))
CONDITION(b, COND_b(v->cc))
CONDITION(nb, !COND_b(v->cc))
CONDITION(z, COND_z(v->cc))
CONDITION(nz, !COND_z(v->cc))
CONDITION(be, COND_be(v->cc))
CONDITION(nbe, !COND_be(v->cc))
CONDITION(s, COND_s(v->cc))
CONDITION(ns, !COND_s(v->cc))
CONDITION(p, COND_p(v->cc))
CONDITION(np, !COND_p(v->cc))
CONDITION(l, COND_l(v->cc))
CONDITION(nl, !COND_l(v->cc))
CONDITION(le, COND_le(v->cc))
CONDITION(nle, !COND_le(v->cc))

/* ---- Branches, calls, stack ---- */

static inline int push_any(struct soft_vcpu *v, unsigned size, uint64_t value)
{
    if (likely(v->mode == MODE_64 && size == 8)) {
        int r = store64(v, v->gpr[R_SP] - 8, value);
        if (unlikely(r))
            return v->exc.vector == EXC_GP ? raise_error(v, EXC_SS, 0) : r;
        v->gpr[R_SP] -= 8;
        return 0;
    }
    return push(v, size, value);
}

static inline int pop_any(struct soft_vcpu *v, unsigned size, uint64_t *value)
{
    if (likely(v->mode == MODE_64 && size == 8)) {
        int r = load64(v, v->gpr[R_SP], value);
        if (unlikely(r))
            return v->exc.vector == EXC_GP ? raise_error(v, EXC_SS, 0) : r;
        v->gpr[R_SP] += 8;
        return 0;
    }
    return pop(v, size, value);
}

static int indirect_target(struct soft_vcpu *v, const struct insn *i, uint64_t *target)
{
    int r = operand_get(v, i, target);
    if (!r && unlikely(v->mode == MODE_64 ? !is_canonical(*target) : beyond_limit(v, *target)))
        return raise_gp(v, 0);
    return r;
}

H(jmp_j) { return branch(v, i, true); }
H(call_j)
{
    if (beyond_limit(v, branch_target(v, i)))
        return raise_gp(v, 0);
    int r = push_any(v, i->size, next_rip(v, i));
    return r ? r : branch(v, i, true);
}
H(jmp_e)
{
    uint64_t target;
    int r = indirect_target(v, i, &target);
    if (r)
        return r;
    v->rip = target;
    return OP_JUMP;
}
H(call_e)
{
    uint64_t target;
    int r = indirect_target(v, i, &target);
    if (!r)
        r = push_any(v, i->size, next_rip(v, i));
    if (r)
        return r;
    v->rip = target;
    return OP_JUMP;
}

static int ret_near(struct soft_vcpu *v, const struct insn *i, uint64_t release)
{
    uint64_t target, sp = v->gpr[R_SP];
    int r = pop_any(v, i->size, &target);
    if (!r && unlikely(v->mode == MODE_64 ? !is_canonical(target) : beyond_limit(v, target)))
        r = raise_gp(v, 0);
    if (r) {
        v->gpr[R_SP] = sp;
        return r;
    }
    if (release) {
        uint64_t mask = size_mask(v->stack_size);
        v->gpr[R_SP] = (v->gpr[R_SP] & ~mask) | ((v->gpr[R_SP] + release) & mask);
    }
    v->rip = target;
    return OP_JUMP;
}
H(ret) { return ret_near(v, i, 0); }
H(ret_i) { return ret_near(v, i, (uint16_t)i->imm); }

static uint64_t count_get(const struct soft_vcpu *v, const struct insn *i)
{
    return v->gpr[R_CX] & size_mask(i->asize);
}
static int loop_if(struct soft_vcpu *v, const struct insn *i, bool condition)
{
    uint64_t count = (v->gpr[R_CX] - 1) & size_mask(i->asize);
    int r = branch(v, i, count && condition);
    if (r != OP_FAULT)
        gpr_set(v, R_CX, i->asize, count);
    return r;
}
H(jrcxz) { return branch(v, i, !count_get(v, i)); }
H(loop) { return loop_if(v, i, true); }
H(loope) { return loop_if(v, i, COND_z(v->cc)); }
H(loopne) { return loop_if(v, i, !COND_z(v->cc)); }
const struct op op_jmp_J = OP_ALL(jmp_j), op_call_J = OP_ALL(call_j), op_jmp_E = OP_ALL(jmp_e),
                op_call_E = OP_ALL(call_e), op_ret = OP_ALL(ret), op_ret_I = OP_ALL(ret_i),
                op_jrcxz = OP_ALL(jrcxz), op_loop = OP_ALL(loop), op_loope = OP_ALL(loope),
                op_loopne = OP_ALL(loopne);

H(push_r) { return push_any(v, i->size, v->gpr[i->rm]); }
H(push_m)
{
    uint64_t x;
    int r = operand_get(v, i, &x);
    return r ? r : push_any(v, i->size, x);
}
H(push_i) { return push_any(v, i->size, (uint64_t)i->imm); }
H(pop_r)
{
    uint64_t x;
    int r = pop_any(v, i->size, &x);
    if (!r)
        gpr_set(v, i->rm, i->size, x);
    return r;
}
H(pop_m) /* the address is computed with RSP already moved */
{
    uint64_t x, va, sp = v->gpr[R_SP];
    int r = pop_any(v, i->size, &x);
    if (!r)
        r = ea(v, i, i->size, true, &va);
    if (!r)
        r = gva_store(v, va, &x, i->size);
    if (r)
        v->gpr[R_SP] = sp;
    return r;
}
const struct op op_push_E = OP_RM(push_r, push_m), op_push_I = OP_ALL(push_i),
                op_pop_E = OP_RM(pop_r, pop_m);

H(pusha)
{
    uint64_t sp = v->gpr[R_SP];
    for (unsigned n = 0; n < 8; n++) {
        int r = push(v, i->size, n == R_SP ? sp : v->gpr[n]);
        if (r) {
            v->gpr[R_SP] = sp;
            return r;
        }
    }
    return OP_NEXT;
}
H(popa)
{
    uint64_t sp = v->gpr[R_SP], x[8];
    for (unsigned n = 8; n-- > 0;) {
        int r = pop(v, i->size, &x[n]);
        if (r) {
            v->gpr[R_SP] = sp;
            return r;
        }
    }
    for (unsigned n = 0; n < 8; n++)
        if (n != R_SP)
            gpr_set(v, n, i->size, x[n]);
    return OP_NEXT;
}

H(enter)
{
    uint64_t sp = v->gpr[R_SP], mask = size_mask(v->stack_size), bp = v->gpr[R_BP] & mask;
    unsigned level = insn_sel(i) & 31;
    int r = push(v, i->size, v->gpr[R_BP]);
    uint64_t frame = v->gpr[R_SP];
    for (unsigned n = 1; !r && n < level; n++) {
        uint64_t va, x = 0;
        bp = (bp - i->size) & mask;
        r = segment_linear(v, S_SS, bp, i->size, false, &va);
        if (!r)
            r = gva_load(v, va, &x, i->size);
        if (!r)
            r = push(v, i->size, x);
    }
    if (!r && level)
        r = push(v, i->size, frame);
    if (!r) { /* the frame's last byte must be writable */
        uint64_t va, end = (v->gpr[R_SP] - (uint16_t)i->imm) & mask;
        r = segment_linear(v, S_SS, end, 1, true, &va);
        struct rmw m;
        if (!r)
            r = rmw_begin(v, va, 1, &m);
        if (!r)
            v->gpr[R_SP] = (v->gpr[R_SP] & ~mask) | end;
    }
    if (r) {
        v->gpr[R_SP] = sp;
        if (v->exc.noncanonical)
            v->exc.vector = EXC_SS;
        return r;
    }
    gpr_set(v, R_BP, i->size, frame);
    return OP_NEXT;
}
H(leave)
{
    uint64_t sp = v->gpr[R_SP], mask = size_mask(v->stack_size), x;
    v->gpr[R_SP] = (v->gpr[R_SP] & ~mask) | (v->gpr[R_BP] & mask);
    int r = pop_any(v, i->size, &x);
    if (r) {
        v->gpr[R_SP] = sp;
        return r;
    }
    gpr_set(v, R_BP, i->size, x);
    return OP_NEXT;
}
const struct op op_pusha = OP_ALL(pusha), op_popa = OP_ALL(popa), op_enter = OP_ALL(enter),
                op_leave = OP_ALL(leave);
