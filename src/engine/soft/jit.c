/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Translated code's home: its memory in two views, the code that enters and leaves it, and how
 * blocks are joined.
 *
 * The invariants are in jit.h.
 */
#include "engine/soft/jit.h"

#include "base/cleanup.h"
#include "engine/soft/code.h"
#include "engine/soft/emit.h"
#include "engine/soft/jit_regs.h"
#include "engine/soft/mem.h"
#include "engine/soft/run.h"

#include <asm/prctl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HWCAP2_FSGSBASE_BIT = 1 << 1 };

void (*jit_inspect)(const struct jit *j);

/* A check did not find its last page. Once this has happened often in a short time, whoever is
 * there when it is looked at is most likely the one: it does better with the table alone. */
static void last_look(struct soft_vcpu *v, struct block *b, unsigned insn)
{
    enum { MISSES = 1024, CYCLES = 128 /* for each */ };
    uint64_t now = __builtin_ia32_rdtsc();
    if (now - v->last_looked < (uint64_t)MISSES * CYCLES) {
        v->jit_again = b;
        v->jit_again_insn = insn;
    }
    v->last_looked = now;
    v->last_misses = MISSES;
}

const uint8_t *jit_handler(struct soft_vcpu *v, unsigned n, struct block *b)
{
    const struct insn *i = &b->insns[n];
    v->run->current = b;
    if (unlikely(v->last_misses < 0))
        last_look(v, b, n);
    if (unlikely(v->fpu.x87_in_host) && insn_rows[i->row].attr & AT_X87REGS)
        x87_leave_host_slow(v);
    v->gpr[REG_RIP] = b->key & CODE_BY_IP ? b->ip : v->jit_page + b->place;
    int r = __atomic_load_n(&i->fn, __ATOMIC_RELAXED)(v, i);
    /* A store of its own may have retired the block: what follows in it must not run. */
    if (r == OP_NEXT && likely(!atomic_load_explicit(&b->stale, memory_order_relaxed)))
        return NULL;
    v->jit_answer = vcpu_finish(v, i, r);
    const uint8_t *code = v->jit_answer == STEP_ON ? code_go_on(v) : NULL;
    return code ? code : soft_engine_of(v)->code.jit.leave_answered;
}

uint64_t jit_scattered(const struct block *b, unsigned insn)
{
    _Static_assert(BLOCK_MAX < 64, "one bit each");
    if (insn >= BLOCK_MAX)
        return b->scattered;
    uint64_t now = b->scattered | 1ull << insn;
    return __builtin_popcountll(now) >= SCATTERED_MAX ? ~0ull : now;
}

bool jit_open_window(struct soft_vcpu *v, unsigned n, struct block *b, unsigned window)
{
    if (unlikely(v->last_misses < 0))
        last_look(v, b, n);
    if (tlb_can_open(v, v->jit_window_va, window >> 1, window & 1))
        return true;
    if (++b->window_faults >= WINDOW_FAULTS_MAX) {
        v->jit_again = b;
        v->jit_again_insn = BLOCK_MAX;
    }
    return false;
}

/* ---- Entry, exits, calls: made once ---- */

static void registers_load(struct emit *e)
{
    for (unsigned g = 0; g < 16; g++)
        if (host_of[g] != H_NONE)
            emit_load(e, host_of[g], in_vcpu(GPR_AT(g)));
}

static void registers_store(struct emit *e)
{
    for (unsigned g = 0; g < 16; g++)
        if (host_of[g] != H_NONE)
            emit_store(e, in_vcpu(GPR_AT(g)), host_of[g]);
}

static const uint8_t kept[] = {
    H_BX, H_BP, H_12, H_13, H_14, H_15
}; /* callee-saved registers of the host's ABI */

static void emit_push(struct emit *e, unsigned reg)
{
    if (reg >= 8)
        e8(e, 0x41);
    e8(e, 0x50 | (reg & 7));
}
static void emit_pop(struct emit *e, unsigned reg)
{
    if (reg >= 8)
        e8(e, 0x41);
    e8(e, 0x58 | (reg & 7));
}

/* int enter(code): rsp is a multiple of 16 while blocks run. */
static void emit_enter(struct emit *e)
{
    for (unsigned n = 0; n < ARRAY_LEN(kept); n++)
        emit_push(e, kept[n]);
    emit_alu_imm(e, 0, 8, 5, in_reg(H_SP), 8, 0);
    emit_store(e, in_reg(H_AX), H_DI);
    registers_load(e);
    emit_op(e, 0, 4, 0xff, 4, in_reg(H_AX), 0); /* jmp rax */
}

/* Returns eax to whoever called enter. */
static void emit_leave(struct emit *e)
{
    emit_alu_imm(e, 0, 8, 0, in_reg(H_SP), 8, 0);
    for (unsigned n = ARRAY_LEN(kept); n-- > 0;)
        emit_pop(e, kept[n]);
    e8(e, 0xc3);
}

#define FPU_AT(field) offsetof(struct soft_vcpu, fpu.field)

/* Moves all vector registers, wide or only their lower halves. load: from the vCPU */
static void emit_vectors(struct emit *e, bool wide, bool load)
{
    for (unsigned n = 0; n < 16; n++) {
        struct place_of o = in_vcpu(FPU_AT(vec) + n * 32);
        if (wide)
            emit_vex(e, 4, VEX_L, OPC(OF0, 0, load ? 0x28 : 0x29), n, 0, o);
        else
            emit_op(e, 0, 4, OPC(OF0, 0, load ? 0x28 : 0x29), n, o, 0);
    }
}
static void emit_set(struct emit *e, size_t field, unsigned value)
{
    emit_op(e, 0, 1, 0xc6, 0, in_vcpu(field), 0);
    e8(e, value);
}

/* Before C runs. Invariant 7. Spoils the flags. */
static void emit_vec_leave(struct emit *e)
{
    emit_alu_imm(e, 0, 1, 7, in_vcpu(FPU_AT(vec_in_host)), VEC_XMM, 0);
    uint8_t *out = emit_jcc_forward(e, CC_B);
    uint8_t *wide = emit_jcc_forward(e, CC_A);
    emit_vectors(e, false, false);
    uint8_t *over = emit_jcc_forward(e, CC_E);
    emit_land(e, wide);
    emit_vectors(e, true, false);
    emit_vex(e, 4, 0, OPC(OF0, 0, 0x77), VEX_NO_MODRM, 0, in_reg(0));
    emit_land(e, over);
    emit_set(e, FPU_AT(vec_in_host), VEC_OUT);
    emit_alu_imm(e, 0, 1, 7, in_vcpu(FPU_AT(mxcsr_in_host)), 0, 0);
    uint8_t *none = emit_jcc_forward(e, CC_E);
    emit_op(e, 0, 4, OPC(OF0, 0, 0xae), 3, in_vcpu(FPU_AT(mxcsr)), 0);
    emit_set(e, FPU_AT(mxcsr_in_host), 0);
    emit_land(e, none);
    emit_land(e, out);
}

/* Called by translated code that needs the vectors, or has called a handler and goes on with them.
 */
static void emit_vec_enter(struct emit *e, unsigned how)
{
    emit_alu_imm(e, 0, 1, 7, in_vcpu(FPU_AT(vec_in_host)), (int)how, 0);
    uint8_t *there = emit_jcc_forward(e, CC_AE);
    if (how == VEC_YMM) /* the XMM halves may be there, and changed */
        emit_vec_leave(e);
    emit_vectors(e, how == VEC_YMM, true);
    emit_set(e, FPU_AT(vec_in_host), how);
    emit_land(e, there);
    e8(e, 0xc3);
}
static void emit_mxcsr_enter(struct emit *e)
{
    emit_op(e, 0, 4, OPC(OF0, 0, 0xae), 2, in_vcpu(FPU_AT(mxcsr)), 0);
    emit_set(e, FPU_AT(mxcsr_in_host), 1);
    e8(e, 0xc3);
}

/* Calls fn(vCPU, al, r14, r15d). */
static void emit_c_call(struct emit *e, const void *fn)
{
    emit_vec_leave(e);
    registers_store(e);
    emit_load(e, H_DI, in_vcpu(offsetof(struct soft_vcpu, self)));
    emit_op(e, 0, 4, OPC(OF0, 0, 0xb6), H_SI, in_reg(H_AX), 0); /* movzx esi, al */
    emit_store(e, in_reg(H_DX), H_14);
    emit_store32(e, in_reg(H_CX), H_15);
    emit_alu_imm(e, 0, 8, 5, in_reg(H_SP), 8, 0);
    emit_imm64(e, H_AX, (uint64_t)(uintptr_t)fn);
    emit_op(e, 0, 4, 0xff, 2, in_reg(H_AX), 0);
    emit_alu_imm(e, 0, 8, 0, in_reg(H_SP), 8, 0);
}

/* Comes back, or goes on elsewhere. */
static void emit_call_handler(struct emit *e)
{
    emit_c_call(e, (const void *)(uintptr_t)jit_handler);
    registers_load(e);
    emit_op(e, 0, 8, 0x85, H_AX, in_reg(H_AX), 0); /* test rax, rax */
    uint8_t *other = emit_jcc_forward(e, CC_NE);
    e8(e, 0xc3);
    emit_land(e, other);
    emit_alu_imm(e, 0, 8, 0, in_reg(H_SP), 8, 0);
    emit_op(e, 0, 4, 0xff, 4, in_reg(H_AX), 0); /* jmp rax */
}

/* Called by translated code that needs the x87 unit. Leaves the vectors in the vCPU. */
static void emit_x87_enter(struct emit *e)
{
    emit_c_call(e, (const void *)(uintptr_t)x87_enter_host);
    registers_load(e);
    e8(e, 0xc3);
}

/* Comes back with "not zero" if it is worth trying again. */
static void emit_open_window(struct emit *e)
{
    emit_c_call(e, (const void *)(uintptr_t)jit_open_window);
    registers_load(e);
    emit_op(e, 0, 1, 0x84, H_AX, in_reg(H_AX), 0); /* test al, al */
    e8(e, 0xc3);
}

void emit_flags_save(struct emit *e)
{
    e8(e, 0x9f);                                             /* lahf */
    emit_op(e, 0, 1, OPC(OF0, 0, 0x90), 0, in_reg(H_AX), 0); /* seto al */
    emit_op(e, 0, 2, 0x89, H_AX, in_vcpu(offsetof(struct soft_vcpu, cc)), 0);
}

void emit_flags_load(struct emit *e)
{
    emit_op(e, 0, 4, OPC(OF0, 0, 0xb7), H_AX, in_vcpu(offsetof(struct soft_vcpu, cc)), 0);
    e8(e, 0x04), e8(e, 127); /* add al, 127: OF */
    e8(e, 0x9e);             /* sahf */
}

void emit_quick_entry(struct emit *e)
{
    emit_op(e, 0, 4, 0x89, H_14, in_reg(H_AX), 0);
    emit_op(e, 0, 4, 0xc1, 5, in_reg(H_AX), 0), e8(e, QUICK_MIX);
    emit_op(e, 0, 4, 0x31, H_14, in_reg(H_AX), 0);
    emit_op(e, 0, 4, 0xc1, 4, in_reg(H_AX), 0), e8(e, QUICK_SHIFT);
    emit_alu_imm(e, 0, 4, 4, in_reg(H_AX), (QUICK_SIZE - 1) << QUICK_SHIFT, 0);
    emit_op(e, 0, 8, 0x03, H_AX, in_vcpu(offsetof(struct soft_vcpu, quick.entries)), 0);
}

void emit_jump_found(struct emit *e)
{
    emit_alu_imm(e, 0, 8, 4, in_reg(H_14), -(int32_t)PAGE_SIZE, 0);
    emit_store(e, in_vcpu(offsetof(struct soft_vcpu, jit_page)), H_14);
    emit_op(e, 0, 4, 0xff, 4, at_offset(H_AX, offsetof(struct quick_entry, code)), 0);
}

/* rax = the first place of the address in r14 in the jump cache, as code_lookup has it. Uses r15.
 */
static void emit_jump_entry(struct emit *e)
{
    emit_store(e, in_reg(H_AX), H_14); /* both parts of the index */
    emit_op(e, 0, 8, 0xc1, 5, in_reg(H_AX), 0), e8(e, JUMP_MIX);
    emit_op(e, 0, 4, 0x31, H_14, in_reg(H_AX), 0);
    _Static_assert(sizeof(struct jump_entry) == 1 << 5 && PAGE_SHIFT == JUMP_PAGE_BITS + 5,
                   "the entries of a page take a page");
    emit_op(e, 0, 4, 0x89, H_AX, in_reg(H_15), 0);
    emit_alu_imm(e, 0, 4, 4, in_reg(H_AX), (1 << JUMP_PAGE_BITS) - 1, 0);
    emit_alu_imm(e, 0, 4, 4, in_reg(H_15), (JUMP_PAGES - 1) << PAGE_SHIFT, 0);
    emit_op(e, 0, 4, 0xc1, 4, in_reg(H_AX), 0), e8(e, 5);
    emit_op(e, 0, 8, 0x01, H_15, in_reg(H_AX), 0);
    emit_op(e, 0, 8, 0x03, H_AX, in_vcpu(offsetof(struct soft_vcpu, jump)), 0);
}

/* r14: where to go, which the quick table does not have. Carry clear: rax is a quick entry with it,
 * in the table from now on, or a jump entry that has no place there. Uses r15. */
static void emit_find(struct emit *e)
{
    _Static_assert(offsetof(struct jump_entry, va) == offsetof(struct quick_entry, va) &&
                       offsetof(struct jump_entry, code) == offsetof(struct quick_entry, code) &&
                       sizeof(struct quick_entry) == 1 << QUICK_SHIFT,
                   "one stands for the other");
    uint8_t *miss[2], *next[2] = { NULL, NULL }, *quick[2];
    const struct place_of code = at_offset(H_AX, offsetof(struct quick_entry, code));
    emit_jump_entry(e);
    for (unsigned way = 0; way < 2; way++) {
        if (way) {
            emit_land(e, next[0]);
            emit_land(e, next[1]);
            emit_alu_imm(e, 0, 8, 6, in_reg(H_AX), sizeof(struct jump_entry), 0);
        }
        emit_op(e, 0, 8, 0x39, H_14, at_offset(H_AX, offsetof(struct jump_entry, va)), 0);
        next[0] = emit_jcc_forward(e, CC_NE);
        emit_load(e, H_15, at_offset(H_AX, offsetof(struct jump_entry, key)));
        emit_op(e, 0, 8, 0x3b, H_15, in_vcpu(offsetof(struct soft_vcpu, jump_key)), 0);
        uint8_t *hit = emit_jcc_forward(e, CC_E);
        emit_op(e, 0, 8, 0x3b, H_15, in_vcpu(offsetof(struct soft_vcpu, jump_key_global)), 0);
        next[1] = emit_jcc_forward(e, CC_NE);
        emit_land(e, hit);
        emit_alu_imm(e, 0, 8, 7, code, 0, 0);
        miss[way] = emit_jcc_forward(e, CC_E);
        emit_op(e, 0, 8, 0x3b, H_15, in_vcpu(offsetof(struct soft_vcpu, quick.key)), 0);
        quick[way] = emit_jcc_forward(e, CC_E);
        e8(e, 0xf8), e8(e, 0xc3); /* clc; ret */
    }
    emit_land(e, quick[0]);
    emit_land(e, quick[1]);
    emit_load(e, H_15, code);
    emit_quick_entry(e);
    emit_store(e, at_offset(H_AX, offsetof(struct quick_entry, va)), H_14);
    emit_store(e, code, H_15);
    e8(e, 0xf8), e8(e, 0xc3); /* clc; ret */
    emit_land(e, next[0]);
    emit_land(e, next[1]);
    emit_land(e, miss[0]);
    emit_land(e, miss[1]);
    e8(e, 0xf9), e8(e, 0xc3); /* stc; ret */
}

/* r14: where to go, which the quick table does not have. */
static void emit_find_on(struct emit *e, const struct jit *j)
{
    emit_call(e, j->find);
    emit_jcc(e, CC_B, j->leave_to);
    emit_jump_found(e);
}

/* A store of up to `most` bytes found no tag. rax: address - write tag, r14: the TLB's entry. Carry
 * clear: the page has only code elsewhere; rax is the offset in the page, at most 4096 - most, as
 * behind a check that succeeded. Invariant 3 of code_page.h. Carry set: rax is spoilt. */
static void emit_code_store(struct emit *e, unsigned most)
{
    const unsigned granules = (most >> GRANULE_BITS) + 1; /* that it may touch */
    emit_push(e, H_CX);
    emit_load(e, H_CX, at_offset(H_14, offsetof(struct tlb_entry, write)));
    emit_op(e, 0, 8, 0x01, H_CX, in_reg(H_AX), 0);
    emit_op(e, 0, 8, 0x2b, H_AX, at_offset(H_14, offsetof(struct tlb_entry, read)), 0);
    emit_alu_imm(e, 0, 8, 7, in_reg(H_AX), (int)(PAGE_SIZE - most), 0);
    uint8_t *outside = emit_jcc_forward(e, CC_A);
    /* In this page and yet no tag: tlb_none or tlb_code_tag. */
    emit_op(e, 0, 8, 0xc1, 5, in_reg(H_CX), 0), e8(e, TLB_CODE_SHIFT);
    emit_op(e, 0, 8, 0xc1, 4, in_reg(H_CX), 0), e8(e, CODE_PAGE_BITS);
    uint8_t *none = emit_jcc_forward(e, CC_E);
    emit_push(e, H_DX);
    emit_op(e, 0, 4, 0x89, H_AX, in_reg(H_DX), 0);
    emit_op(e, 0, 4, 0xc1, 5, in_reg(H_DX), 0), e8(e, GRANULE_BITS + 3);
    _Static_assert(offsetof(struct code_page, granules) == 0, "the load below");
    emit_op(e, 0, 8, 0x01, H_DX, in_reg(H_CX), 0);
    emit_load(e, H_DX, at(H_CX)); /* from the byte with the first one's bit on */
    emit_op(e, 0, 4, 0x89, H_AX, in_reg(H_CX), 0);
    emit_op(e, 0, 4, 0xc1, 5, in_reg(H_CX), 0), e8(e, GRANULE_BITS);
    emit_alu_imm(e, 0, 4, 4, in_reg(H_CX), 7, 0);
    emit_op(e, 0, 8, 0xd3, 5, in_reg(H_DX), 0); /* shr rdx, cl */
    emit_op(e, 0, 1, 0xf6, 0, in_reg(H_DX), 0), e8(e, (1u << granules) - 1);
    emit_pop(e, H_DX);
    uint8_t *hit = emit_jcc_forward(e, CC_NE);
    emit_pop(e, H_CX);
    e8(e, 0xf8), e8(e, 0xc3); /* clc; ret */
    emit_land(e, outside);
    emit_land(e, none);
    emit_land(e, hit);
    emit_pop(e, H_CX);
    e8(e, 0xf9), e8(e, 0xc3); /* stc; ret */
}

/* Looks into the table, for the site to remember. code_store: what else a store may ask, or NULL.
 */
static void emit_last_find(struct emit *e, const uint8_t *code_store, bool write, bool window)
{
    const size_t tag = write ? offsetof(struct tlb_entry, write) : offsetof(struct tlb_entry, read);
    const int32_t last = offsetof(struct soft_vcpu, last);
    emit_alu_imm(e, 0, 4, 5, in_vcpu(offsetof(struct soft_vcpu, last_misses)), 1, 0);
    uint8_t *look = emit_jcc_forward(e, CC_S);
    if (window)
        emit_store(e, in_reg(H_AX), H_15);
    emit_push(e, H_CX);
    emit_push(e, H_DX);
    emit_store32(e, in_reg(H_DX), H_14);
    emit_op(e, 0, 4, OPC(OF0, 0, 0xb7), H_CX, in_reg(H_14), 0);
    emit_op(e, 0, 8, 0x03, H_CX, in_vcpu(offsetof(struct soft_vcpu, self)), 0);
    emit_op(e, 0, 8, 0x03, H_AX, at_offset(H_CX, last + (int32_t)offsetof(struct last_pages, tag)),
            0);
    emit_op(e, 0, 4, 0x89, H_AX, in_reg(H_14), 0);
    emit_op(e, 0, 4, 0xc1, 5, in_reg(H_14), 0), e8(e, PAGE_SHIFT - 5);
    emit_alu_imm(e, 0, 4, 4, in_reg(H_14), (TLB_SIZE - 1) << 5, 0);
    emit_op(e, 0, 8, 0x03, H_14, in_vcpu(offsetof(struct soft_vcpu, tlb)), 0);
    emit_op(e, 0, 8, 0x2b, H_AX, at_offset(H_14, (int32_t)tag), 0);
    emit_op(e, 0, 4, 0xc1, 5, in_reg(H_DX), 0), e8(e, LAST_SIZE_SHIFT);
    emit_op(e, 0, 8, 0x39, H_DX, in_reg(H_AX), 0);
    uint8_t *miss = emit_jcc_forward(e, CC_A);
    emit_op(e, 0, 8, 0x03, H_AX, at_offset(H_14, offsetof(struct tlb_entry, host)), 0);
    emit_load(e, H_DX, in_vcpu(offsetof(struct soft_vcpu, user_tlb)));
    emit_op(e, 0, 8, 0x3b, H_DX, in_vcpu(offsetof(struct soft_vcpu, tlb)), 0);
    uint8_t *other = emit_jcc_forward(e, CC_NE);
    emit_load(e, H_DX, at_offset(H_14, (int32_t)tag));
    emit_store(e, at_offset(H_CX, last + (int32_t)offsetof(struct last_pages, tag)), H_DX);
    emit_load(e, H_DX, at_offset(H_14, offsetof(struct tlb_entry, host)));
    emit_store(e, at_offset(H_CX, last + (int32_t)offsetof(struct last_pages, host)), H_DX);
    emit_op(e, 0, 8, 0xc7, 0, at_offset(H_CX, last + (int32_t)offsetof(struct last_pages, room)),
            0);
    e32(e, PAGE_SIZE + 1 - (window ? LAST_WINDOW : LAST_OPERAND));
    emit_land(e, other);
    emit_pop(e, H_DX);
    emit_pop(e, H_CX);
    if (window)
        emit_store(e, in_reg(H_15), H_AX);
    e8(e, 0xf8), e8(e, 0xc3); /* clc; ret */
    emit_land(e, miss);
    emit_pop(e, H_DX);
    emit_pop(e, H_CX);
    if (code_store) {
        emit_call(e, code_store);
        uint8_t *no = emit_jcc_forward(e, CC_B);
        emit_op(e, 0, 8, 0x03, H_AX, at_offset(H_14, offsetof(struct tlb_entry, host)), 0);
        e8(e, 0xf8), e8(e, 0xc3); /* clc; ret */
        emit_land(e, no);
    }
    emit_land(e, look);
    e8(e, 0xf9), e8(e, 0xc3); /* stc; ret */
}

/* Which table the kernel looks into. Uses rax. */
static void ac_select(struct emit *e, unsigned ac)
{
    emit_load(e, H_AX, in_vcpu(offsetof(struct soft_vcpu, ac[ac].tlb)));
    emit_store(e, in_vcpu(offsetof(struct soft_vcpu, tlb)), H_AX);
    emit_op(e, 0, 1, 0x8a, H_AX, in_vcpu(offsetof(struct soft_vcpu, ac[ac].mode)), 0);
    emit_op(e, 0, 1, 0x88, H_AX, in_vcpu(offsetof(struct soft_vcpu, tlb_mode)), 0);
}
/* CLAC, STAC */
static void emit_ac(struct emit *e, unsigned ac)
{
    ac_select(e, ac);
    e8(e, 0xc3);
}

/* ---- SYSCALL and SYSRET: what sys.c does, from 64-bit code to 64-bit code ---- */

/* flags_set with all of RFLAGS, from eax. Uses r14. */
static void flags_all_set(struct emit *e)
{
    emit_store32(e, in_reg(H_14), H_AX);
    emit_alu_imm(e, 0, 4, 4, in_reg(H_14), ~F_ALL, 0);
    emit_alu_imm(e, 0, 4, 1, in_reg(H_14), FL_FIXED, 0);
    emit_store32(e, in_vcpu(offsetof(struct soft_vcpu, flags)), H_14);
    emit_store32(e, in_reg(H_14), H_AX); /* flags_to_cc (cpu.h) */
    emit_alu_imm(e, 0, 4, 4, in_reg(H_14), 0xd5, 0);
    emit_op(e, 0, 4, 0xc1, 4, in_reg(H_14), 0), e8(e, 8);
    emit_alu_imm(e, 0, 4, 1, in_reg(H_14), 0x200, 0);
    emit_op(e, 0, 4, 0xc1, 5, in_reg(H_AX), 0), e8(e, 11);
    emit_alu_imm(e, 0, 4, 4, in_reg(H_AX), 1, 0);
    emit_op(e, 0, 4, 0x09, H_AX, in_reg(H_14), 0);
    emit_store32(e, in_vcpu(offsetof(struct soft_vcpu, cc)), H_14);
}

/* A flat segment with the selector in ax */
static void segment_set(struct emit *e, unsigned seg, uint16_t attr)
{
    const size_t at = offsetof(struct soft_vcpu, seg) + seg * sizeof(struct x86_segment);
    emit_op(e, 0, 8, 0xc7, 0, in_vcpu(at + offsetof(struct x86_segment, base)), 0), e32(e, 0);
    emit_op(e, 0, 4, 0xc7, 0, in_vcpu(at + offsetof(struct x86_segment, limit)), 0), e32(e, ~0u);
    emit_op(e, 0, 2, 0x89, H_AX, in_vcpu(at + offsetof(struct x86_segment, selector)), 0);
    emit_op(e, 0, 2, 0xc7, 0, in_vcpu(at + offsetof(struct x86_segment, attr)), 0);
    e8(e, (uint8_t)attr), e8(e, (uint8_t)(attr >> 8));
}

/* The selector of CS is in ax, SS follows at `ss`; the jump cache's keys become those of the other
 * level. Uses rax. */
static void level_set(struct emit *e, unsigned cpl, int ss)
{
    const uint16_t dpl = (uint16_t)(SEG_P | SEG_S | SEG_G | cpl << SEG_DPL_SHIFT);
    segment_set(e, S_CS, dpl | 0xb | SEG_L);
    emit_alu_imm(e, 0, 4, 0, in_reg(H_AX), ss, 0);
    segment_set(e, S_SS, dpl | 3 | SEG_DB);
    emit_set(e, offsetof(struct soft_vcpu, cpl), cpl);
    emit_set(e, offsetof(struct soft_vcpu, align_check), 0);
    _Static_assert(JUMP_KEY_SHIFT == 32, "CODE_CPL0 lies in the upper half of a key");
    emit_alu_imm(e, 0, 4, 6, in_vcpu(offsetof(struct soft_vcpu, jump_key) + 4), CODE_CPL0, 0);
    emit_alu_imm(e, 0, 4, 6, in_vcpu(offsetof(struct soft_vcpu, jump_key_global) + 4), CODE_CPL0,
                 0);
    const size_t level =
        offsetof(struct soft_vcpu, quick_levels) + (cpl ? sizeof(struct quick_jumps) : 0);
    emit_load(e, H_AX, in_vcpu(level + offsetof(struct quick_jumps, entries)));
    emit_store(e, in_vcpu(offsetof(struct soft_vcpu, quick.entries)), H_AX);
    emit_load(e, H_AX, in_vcpu(level + offsetof(struct quick_jumps, key)));
    emit_store(e, in_vcpu(offsetof(struct soft_vcpu, quick.key)), H_AX);
}

/* r14: the address behind it. Answers LSTAR there. */
static void emit_syscall(struct emit *e)
{
    emit_store(e, in_reg(host_of[R_CX]), H_14);
    emit_op(e, 0, 4, OPC(OF0, 0, 0xb6), H_AX, in_vcpu(offsetof(struct soft_vcpu, cc)), 0);
    emit_op(e, 0, 4, 0xc1, 4, in_reg(H_AX), 0), e8(e, 11); /* cc_to_flags (cpu.h) */
    emit_op(e, 0, 4, OPC(OF0, 0, 0xb6), H_14, in_vcpu(offsetof(struct soft_vcpu, cc) + 1), 0);
    emit_alu_imm(e, 0, 4, 4, in_reg(H_14), 0xd5, 0);
    emit_op(e, 0, 4, 0x09, H_14, in_reg(H_AX), 0);
    emit_op(e, 0, 4, 0x0b, H_AX, in_vcpu(offsetof(struct soft_vcpu, flags)), 0);
    emit_alu_imm(e, 0, 4, 4, in_reg(H_AX), ~FL_RF, 0);
    emit_store32(e, in_reg(host_of[R_11]), H_AX);
    emit_load32(e, H_14, in_vcpu(offsetof(struct soft_vcpu, sfmask)));
    emit_op(e, 0, 4, 0xf7, 2, in_reg(H_14), 0); /* not */
    emit_op(e, 0, 4, 0x21, H_14, in_reg(H_AX), 0);
    flags_all_set(e);
    emit_op(e, 0, 4, 0xf7, 0, in_vcpu(offsetof(struct soft_vcpu, flags)), 0), e32(e, FL_AC);
    uint8_t *ac = emit_jcc_forward(e, CC_NE);
    ac_select(e, 0);
    emit_land(e, ac);
    uint8_t *none = emit_jcc_forward(e, CC_E);
    ac_select(e, 1);
    emit_land(e, none);
    emit_load32(e, H_AX, in_vcpu(offsetof(struct soft_vcpu, star) + 4));
    emit_alu_imm(e, 0, 4, 4, in_reg(H_AX), 0xfffc, 0);
    level_set(e, 0, 8);
    emit_load(e, H_14, in_vcpu(offsetof(struct soft_vcpu, lstar)));
    e8(e, 0xc3);
}

/* Answers guest RCX in r14. No TF and AC in guest R11, and nothing that waits for IF. */
static void emit_sysret(struct emit *e)
{
    emit_load32(e, H_14, in_vcpu(offsetof(struct soft_vcpu, flags)));
    emit_alu_imm(e, 0, 4, 4, in_reg(H_14), ~SYSRET_FLAGS, 0);
    emit_load32(e, H_AX, in_reg(host_of[R_11]));
    emit_alu_imm(e, 0, 4, 4, in_reg(H_AX), SYSRET_FLAGS, 0);
    emit_op(e, 0, 4, 0x09, H_14, in_reg(H_AX), 0);
    flags_all_set(e);
    emit_load(e, H_AX, in_vcpu(offsetof(struct soft_vcpu, user_tlb)));
    emit_store(e, in_vcpu(offsetof(struct soft_vcpu, tlb)), H_AX);
    emit_set(e, offsetof(struct soft_vcpu, tlb_mode), TLB_USER);
    emit_load32(e, H_AX, in_vcpu(offsetof(struct soft_vcpu, star) + 4));
    emit_op(e, 0, 4, 0xc1, 5, in_reg(H_AX), 0), e8(e, 16);
    emit_alu_imm(e, 0, 4, 0, in_reg(H_AX), 16, 0);
    emit_alu_imm(e, 0, 4, 1, in_reg(H_AX), 3, 0);
    level_set(e, 3, -8);
    emit_load(e, H_14, in_reg(host_of[R_CX]));
    e8(e, 0xc3);
}

/* tsc_now (tsc.c). Carry clear: guest RAX and RDX have it. Uses rax and r14. */
static void emit_read_tsc(struct emit *e)
{
    enum { HIGH = 32 };
    emit_store(e, in_reg(H_14), H_DX);
    e8(e, 0x0f), e8(e, 0x31); /* rdtsc */
    emit_op(e, 0, 8, 0xc1, 4, in_reg(H_DX), 0), e8(e, HIGH);
    emit_op(e, 0, 8, 0x09, H_DX, in_reg(H_AX), 0);
    emit_op(e, 0, 8, 0x2b, H_AX, in_vcpu(offsetof(struct soft_vcpu, tsc.host)), 0);
    emit_op(e, 0, 8, 0x3b, H_AX, in_vcpu(offsetof(struct soft_vcpu, tsc.limit)), 0);
    uint8_t *none = emit_jcc_forward(e, CC_AE);
    emit_op(e, 0, 8, 0xf7, 4, in_vcpu(offsetof(struct soft_vcpu, tsc.mul)), 0);
    emit_op(e, 0, 8, OPC(OF0, 0, 0xac), H_DX, in_reg(H_AX), 0), e8(e, HIGH); /* shrd */
    emit_op(e, 0, 8, 0x03, H_AX, in_vcpu(offsetof(struct soft_vcpu, tsc.guest)), 0);
    emit_op(e, 0, 8, 0x03, H_AX, in_vcpu(offsetof(struct soft_vcpu, tsc_offset)), 0);
    emit_op(e, 0, 4, 0x89, H_AX, in_reg(host_of[R_AX]), 0);
    emit_op(e, 0, 8, 0xc1, 5, in_reg(H_AX), 0), e8(e, HIGH);
    emit_op(e, 0, 4, 0x89, H_AX, in_reg(H_DX), 0);
    e8(e, 0xf8), e8(e, 0xc3); /* clc; ret */
    emit_land(e, none);
    emit_store(e, in_reg(H_DX), H_14);
    e8(e, 0xf9), e8(e, 0xc3); /* stc; ret */
}

static void shared_code_make(struct jit *j)
{
    struct emit e = { j->rw, j->rw + j->size, j->rx - j->rw };
    j->enter = (int (*)(const uint8_t *))(uintptr_t)emit_exec(&e);
    emit_enter(&e);
    j->leave_link = emit_exec(&e);
    emit_store32(&e, in_vcpu(offsetof(struct soft_vcpu, jit_link)), H_AX);
    emit_store32(&e, in_vcpu(offsetof(struct soft_vcpu, jit_link_from)), H_14);
    emit_store32(&e, in_reg(H_AX), H_14);
    emit_alu_imm(&e, 0, 4, 4, in_reg(H_AX), (1 << NAME_PLACE_BITS) - 1, 0);
    j->leave_at = emit_exec(&e);
    emit_load(&e, H_14, in_vcpu(offsetof(struct soft_vcpu, jit_page)));
    emit_op(&e, 0, 8, 0x01, H_AX, in_reg(H_14), 0);
    j->leave_to = emit_exec(&e);
    emit_vec_leave(&e);
    registers_store(&e);
    emit_store(&e, in_vcpu(offsetof(struct soft_vcpu, rip)), H_14);
    e8(&e, 0xb8), e32(&e, STEP_ON);
    emit_leave(&e);
    j->leave_answered = emit_exec(&e);
    emit_load32(&e, H_AX, in_vcpu(offsetof(struct soft_vcpu, jit_answer)));
    emit_leave(&e);
    j->call_handler = emit_exec(&e);
    emit_call_handler(&e);
    j->flags_save = emit_exec(&e);
    emit_flags_save(&e);
    e8(&e, 0xc3);
    j->flags_load = emit_exec(&e);
    emit_flags_load(&e);
    e8(&e, 0xc3);
    j->x87_enter = emit_exec(&e);
    emit_x87_enter(&e);
    for (unsigned how = VEC_XMM; how <= VEC_YMM; how++) {
        j->vec_enter[how] = emit_exec(&e);
        emit_vec_enter(&e, how);
    }
    j->mxcsr_enter = emit_exec(&e);
    emit_mxcsr_enter(&e);
    j->find = emit_exec(&e);
    emit_find(&e);
    j->find_on = emit_exec(&e);
    emit_find_on(&e, j);
    j->find_nothing = emit_exec(&e);
    e8(&e, 0xf9), e8(&e, 0xc3);
    j->open_window = emit_exec(&e);
    emit_open_window(&e);
    for (unsigned ac = 0; ac < 2; ac++) {
        j->ac[ac] = emit_exec(&e);
        emit_ac(&e, ac);
    }
    j->read_tsc = emit_exec(&e);
    emit_read_tsc(&e);
    j->syscall = emit_exec(&e);
    emit_syscall(&e);
    j->sysret = emit_exec(&e);
    emit_sysret(&e);
    for (unsigned n = 0; n < ARRAY_LEN(j->code_store); n++) {
        j->code_store[n] = emit_exec(&e);
        emit_code_store(&e, code_store_most[n]);
    }
    for (unsigned n = 0; n < 6; n++) {
        j->last_find[n / 2][n % 2] = emit_exec(&e);
        emit_last_find(&e, n % 2 && n / 2 < LAST_IN_WINDOW ? j->code_store[n / 2] : NULL, n % 2,
                       n / 2 == LAST_IN_WINDOW);
    }
    while ((e.p - j->rw) & 63)
        e8(&e, 0xcc);
    j->first = j->used = (size_t)(e.p - j->rw);
}

int jit_create(struct jit *j, size_t size, struct err *err)
{
    AUTO(fd_close) int fd = memfd_create("translated-code", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
        return err_errno(err, errno, "memory for translated code");
    j->size = j->room = size;
    j->names = mmap(NULL, JIT_NAMES * sizeof(*j->names), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    j->rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    j->rx = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (j->rw == MAP_FAILED || j->rx == MAP_FAILED || j->names == MAP_FAILED) {
        int code = errno;
        jit_destroy(j);
        return err_errno(err, code,
                         "memory for translated code; --engine soft,jit=off does without");
    }
    shared_code_make(j);
    return 0;
}

void jit_destroy(struct jit *j)
{
    if (jit_inspect && j->used)
        jit_inspect(j);
    if (j->rw && j->rw != MAP_FAILED)
        munmap(j->rw, j->size);
    if (j->rx && j->rx != MAP_FAILED)
        munmap(j->rx, j->size);
    if (j->names && j->names != MAP_FAILED)
        munmap(j->names, JIT_NAMES * sizeof(*j->names));
    j->rw = j->rx = NULL;
    j->names = NULL;
}

void jit_room_set(struct jit *j, size_t room)
{
    assert(room <= j->size);
    j->room = room;
    j->full = false;
}

void jit_reset(struct jit *j)
{
    if (jit_inspect)
        jit_inspect(j);
    j->used = j->first;
    j->named = 0;
    j->full = false;
}

void jit_filled(struct jit *j, size_t used)
{
    /* What is written counts as resident in both views, as long as it is mapped. Little is written
     * again, for joining and retiring. */
    enum { PIECE = 256 << 10 };
    if (used / PIECE != j->used / PIECE)
        madvise(j->rw, used / PIECE * PIECE, MADV_DONTNEED);
    j->used = used;
}

/* ---- Joining and retiring ---- */

/* Invariant 3. */
static void start_replace(struct jit *j, const uint8_t *code, const uint8_t *to)
{
    uint8_t *start = (uint8_t *)code - j->rx + j->rw;
    uint64_t bytes;
    memcpy(&bytes, start, 8);
    int64_t rel = to - (code + 5);
    bytes = (bytes & ~0xffffffffffull) | 0xe9 | (uint64_t)(uint32_t)rel << 8;
    __atomic_store_n((uint64_t *)(void *)start, bytes, __ATOMIC_RELEASE);
}

void jit_retire(struct jit *j, struct block *b)
{
    if (b->code)
        start_replace(j, b->code, b->code + b->out);
}

void jit_replace(struct jit *j, const uint8_t *old, const struct block *b)
{
    start_replace(j, old, b->code);
}

void jit_link(struct jit *j, uint32_t slot, const struct block *to)
{
    int64_t rel = to->code - (j->rx + slot + 4);
    __atomic_store_n((int32_t *)(void *)(j->rw + slot), (int32_t)rel, __ATOMIC_RELEASE);
}

bool jit_thread_begin(struct soft_vcpu *v)
{
    if (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE_BIT)
        __asm__ volatile("wrgsbase %0" : : "r"(v));
    else if (syscall(SYS_arch_prctl, ARCH_SET_GS, v) < 0)
        return false;
    return true;
}
