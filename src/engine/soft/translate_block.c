/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A block from its head to its slow paths, and which instruction is translated how. */
#include "engine/soft/run.h"
#include "engine/soft/translate.h"

#include <stdlib.h>

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
        t->slow[n].ahead_back = t->ahead;
    }
}

void number_load(struct tr *t, const struct insn *i)
{
    _Static_assert(BLOCK_MAX <= UINT8_MAX, "a number for each");
    e8(&t->e, 0xb0), e8(&t->e, (unsigned)(i - t->block->insns));
}

void handler_call(struct tr *t, const struct insn *i)
{
    pins_undo(t);
    number_load(t, i);
    if (t->aside) {
        emit_call(&t->e, t->slow_call);
    } else {
        emit_imm64(&t->e, H_14, (uint64_t)(uintptr_t)t->block);
        emit_call(&t->e, t->jit->call_handler);
    }
    pins_set(t);
}

/* ---- The table ---- */

struct translation {
    tr_fn *fn;
    uint8_t param;
};
static struct translation *translations; /* by row; made once */

/* clang-format off */
#define OPS(X)                                                                                   \
    X(op_mov_EI, tr_mov_ei, 0) X(op_lea, tr_lea, 0) X(op_mul_E, tr_mul, 4)                        \
    X(op_imul_E, tr_mul, 5) X(op_div_E, tr_div, 0) X(op_idiv_E, tr_div, 1)                        \
    X(op_cbw, tr_cbw, 0) X(op_cwd, tr_cwd, 0) X(op_bswap_Z, tr_bswap, 0) X(op_sahf, tr_sahf, 0)   \
    X(op_cmpxchg_EG, tr_cmpxchg, 0) X(op_nop, tr_nop, 0) X(op_push_E, tr_push, 0)                 \
    X(op_push_I, tr_push_i, 0) X(op_pop_E, tr_pop, 0) X(op_leave, tr_leave, 0)                    \
    X(op_loop, tr_loop, LOOP_COUNT) X(op_jrcxz, tr_loop, LOOP_ZERO)                              \
    X(op_jmp_J, tr_jmp, 0) X(op_call_J, tr_call, 0) X(op_ret, tr_ret, 0) X(op_ret_I, tr_ret, 1)   \
    X(op_jmp_E, tr_jmp_e, 0) X(op_call_E, tr_call_e, 0)                                           \
    X(op_sti, tr_sti, 0) X(op_cli, tr_cli, 0) X(op_cld, tr_direction, 0)                          \
    X(op_std, tr_direction, 1) X(op_clac, tr_ac, 0) X(op_stac, tr_ac, 1)                          \
    X(op_rdfsbase, tr_read_base, S_FS) X(op_rdgsbase, tr_read_base, S_GS)                         \
    X(op_wrfsbase, tr_write_base, S_FS) X(op_wrgsbase, tr_write_base, S_GS)                       \
    X(op_mov_ES, tr_read_selector, 0)                                                             \
    X(op_swapgs, tr_swapgs, 0) X(op_clc, tr_carry, 0xf8) X(op_stc, tr_carry, 0xf9)                \
    X(op_cmc, tr_carry, 0xf5) X(op_lfence, tr_fence, 0xe8) X(op_mfence, tr_fence, 0xf0)           \
    X(op_sfence, tr_fence, 0xf8) X(op_pushf, tr_pushf, 0)                                         \
    X(op_syscall, tr_syscall, 0) X(op_sysret, tr_sysret, 0) X(op_popf, tr_popf, 0)                \
    X(op_movs, tr_string, STRING_MOVS) X(op_cmps, tr_string, STRING_CMPS)                         \
    X(op_stos, tr_string, STRING_STOS) X(op_lods, tr_string, STRING_LODS)                         \
    X(op_scas, tr_string, STRING_SCAS)                                                            \
    X(op_rdtsc, tr_rdtsc, 0) X(op_rdtscp, tr_rdtsc, 1) X(op_cmpxchg8b, tr_cmpxchg16b, 0)          \
    X(op_x87_load, tr_x87, X87_LOAD) X(op_x87_store, tr_x87, X87_STORE)                           \
    X(op_x87_sti, tr_x87, X87_REG) X(op_x87_d9, tr_x87, X87_REG) X(op_x87_comi, tr_x87, X87_COMI) \
    X(op_x87_cmov, tr_x87, X87_CMOV) X(op_fldcw, tr_x87, X87_LDCW)                                \
    X(op_fnstcw, tr_x87, X87_STCW) X(op_fnstsw, tr_x87, X87_STSW)                                 \
    X(op_fnstsw_ax, tr_x87, X87_STSW_AX) X(op_fnclex, tr_x87, X87_CLEX)                           \
    X(op_fnop, tr_x87, X87_NOP) X(op_fnop_nowait, tr_x87, X87_NOTHING)                            \
    X(op_fwait, tr_x87, X87_NOTHING)                                                              \
    CONDITION(o, 0) CONDITION(no, 1) CONDITION(b, 2) CONDITION(nb, 3) CONDITION(z, 4)             \
    CONDITION(nz, 5) CONDITION(be, 6) CONDITION(nbe, 7) CONDITION(s, 8) CONDITION(ns, 9)          \
    CONDITION(p, 10) CONDITION(np, 11) CONDITION(l, 12) CONDITION(nl, 13) CONDITION(le, 14)       \
    CONDITION(nle, 15)
/* clang-format on */

extern const struct op op_fldenv, op_frstor;
extern const struct op op_ldmxcsr, op_avx_ldmxcsr, op_fxrstor, op_xrstor, op_clts;
#define CONDITION(cc, n) X_(op_j##cc) X_(op_cmov##cc##_GE)
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
#define CONDITION(cc, n) { &op_j##cc, { tr_jcc, n } }, { &op_cmov##cc##_GE, { tr_cmov, n } },
#define X(name, fn, param) { &name, { fn, param } },
    OPS(X)
#undef X
#undef CONDITION
};

static struct translation translation_of(const struct insn_row *row)
{
    unsigned form;
    if ((form = sse_form_of(row)))
        return (struct translation){ tr_sse, (uint8_t)form };
    if ((form = mmx_form_of(row)))
        return (struct translation){ tr_mmx, (uint8_t)form };
    if ((form = avx_form_of(row)))
        return (struct translation){ tr_avx, (uint8_t)form };
    struct translation how = { NULL, 0 };
    for (unsigned n = 0; n < form_count; n++)
        if (row->op == forms[n].op)
            how = (struct translation){ tr_form, (uint8_t)n };
    for (unsigned n = 0; n < ARRAY_LEN(by_op); n++)
        if (row->op == by_op[n].op)
            how.fn = by_op[n].how.fn, how.param |= by_op[n].how.param;
    return how;
}

void jit_table_init(void)
{
    static bool done;
    if (done)
        return;
    translations = calloc(insn_row_count, sizeof *translations);
    if (!translations)
        abort();
    for (unsigned r = 0; r < insn_row_count; r++)
        translations[r] = translation_of(&insn_rows[r]);
    done = true;
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

/* Which it looks at: of a shift, which keeps them when the count is zero, its row says more. */
static unsigned flags_read(const struct insn *i)
{
    const struct translation *how = &translations[i->row];
    bool shifts = how->fn == tr_form && forms[how->param].imm == IMM_COUNT && i->size >= 4;
    return shifts && shift_count(i) ? 0 : insn_rows[i->row].reads;
}

/* Does it leave no old status flag, whatever its operands are? */
static bool sets_all_flags(const struct insn *i)
{
    return insn_rows[i->row].writes == F_ALL && !flags_read(i);
}

/* An instruction on whole registers that nothing can stop: no handler, no fault. */
static bool is_certain(const struct insn *i)
{
    tr_fn *fn = translations[i->row].fn;
    return (fn == tr_form || fn == tr_mov_ei || fn == tr_lea) && i->size >= 4 && own_handler(i) &&
           (fn == tr_lea || !is_mem(i));
}

/* Will all flags be made anew before anything can look at them? */
bool flags_dead_from(const struct tr *t, unsigned n)
{
    for (; n < t->block->count; n++) {
        const struct insn *i = &t->block->insns[n];
        if (!is_certain(i))
            return false;
        if (sets_all_flags(i))
            return true;
        if (flags_read(i)) /* what keeps some does not look at them */
            return false;
    }
    return false;
}
bool flags_dead_behind(const struct tr *t) { return flags_dead_from(t, t->n + 1); }

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
    return fn == tr_form || fn == tr_lea || fn == tr_bswap || fn == tr_cmov || fn == tr_jcc ||
           fn == tr_nop;
}

/* Which guest registers it writes; all, where nobody has looked. */
static unsigned regs_written(const struct translation *how, const struct insn *i)
{
    tr_fn *fn = how->fn;
    unsigned reg = 1u << i->reg, rm = is_mem(i) ? 0 : 1u << i->rm;
    if (fn == tr_form || fn == tr_mov_ei)
        return form_regs_written(&forms[how->param], i);
    if (fn == tr_nop || fn == tr_jcc || fn == tr_jmp || fn == tr_sahf || fn == tr_cli ||
        fn == tr_sti || fn == tr_direction || fn == tr_ac || fn == tr_swapgs || fn == tr_carry ||
        fn == tr_fence || fn == tr_write_base)
        return 0;
    if (fn == tr_loop)
        return how->param == LOOP_ZERO ? 0 : 1u << R_CX;
    if (fn == tr_string)
        return string_regs_written(how->param);
    if (fn == tr_bswap || fn == tr_read_base || fn == tr_read_selector)
        return rm;
    if (fn == tr_lea || fn == tr_cmov)
        return reg;
    if (fn == tr_mul || fn == tr_div)
        return 1u << R_AX | 1u << R_DX;
    if (fn == tr_cbw || fn == tr_cmpxchg)
        return 1u << R_AX;
    if (fn == tr_cwd)
        return 1u << R_DX;
    if (fn == tr_cmpxchg16b || fn == tr_rdtsc)
        return 1u << R_AX | 1u << R_DX | (how->param ? 1u << R_CX : 0);
    if (fn == tr_x87)
        return how->param == X87_STSW_AX ? 1u << R_AX : 0;
    if (fn == tr_sse)
        return how->param == SSE_GW       ? reg
               : how->param == SSE_EV     ? rm
               : insn_rows[i->row].writes ? 1u << R_CX /* PCMPISTRI */
                                          : 0;
    if (fn == tr_mmx)
        return how->param == MMX_GN ? reg : how->param == MMX_EP ? rm : 0;
    if (fn == tr_avx)
        return how->param == AVX_GX ? reg : how->param == AVX_XV ? rm : 0;
    if (fn == tr_push || fn == tr_push_i || fn == tr_pushf || fn == tr_popf)
        return 1u << R_SP;
    if (fn == tr_pop)
        return 1u << R_SP | rm;
    return ~0u;
}

/* Which guest registers its translation names; some more where that is easier to tell. */
static unsigned regs_named(const struct insn *i)
{
    const struct translation *how = &translations[i->row];
    if (!how->fn)
        return 0;
    unsigned regs = (1u << i->base | 1u << i->index) & 0xffff;
    unsigned reg = i->size == 1 ? i->reg_off / 8u : i->reg;
    unsigned rm = is_mem(i) ? 0 : 1u << (i->size == 1 ? i->rm_off / 8u : i->rm);
    bool form = how->fn == tr_form || how->fn == tr_mov_ei;
    if (how->fn == tr_string)
        return regs | 1u << R_SI | 1u << R_DI;
    return regs | (form && !forms[how->param].reg ? 0 : 1u << reg) | rm;
}

/* By how much it moves a register that it adds a constant to. */
static bool form_adds(const struct insn *i, unsigned slot, int64_t *by)
{
    extern const struct op op_add_EI, op_sub_EI, op_inc_E, op_dec_E;
    const struct op *op = insn_rows[i->row].op;
    if (is_mem(i) || i->size != 8 || i->rm != slot)
        return false;
    *by = op == &op_add_EI ? i->imm : op == &op_sub_EI ? -i->imm : op == &op_inc_E ? 1 : -1;
    return op == &op_add_EI || op == &op_sub_EI || op == &op_inc_E || op == &op_dec_E;
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
    if (slot == R_SP && (how->fn == tr_push || how->fn == tr_push_i || how->fn == tr_pushf)) {
        *by = -8;
        return i->size == 8;
    }
    if (slot == R_SP && how->fn == tr_pop) {
        *by = 8;
        return direct && i->rm != R_SP;
    }
    if (slot == R_SP && how->fn == tr_popf) {
        *by = 8;
        return i->size == 8;
    }
    if (form_adds(i, slot, by))
        return is_small(*by);
    *by = 0;
    if (how->fn == tr_lea && i->size == 8 && i->asize == 8 && i->reg == slot && i->base == slot &&
        i->index == REG_NONE) {
        *by = i->disp;
        return true;
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
    if ((fn == tr_push && !is_mem(i)) || fn == tr_push_i || fn == tr_pushf || fn == tr_call ||
        fn == tr_call_e)
        return (struct access){ R_SP, true, 8, -8 };
    if (fn == tr_ret || fn == tr_popf || (fn == tr_pop && !is_mem(i)))
        return (struct access){ R_SP, false, 8, 0 };
    if (fn == tr_leave)
        return (struct access){ R_BP, false, 8, 0 };
    if (!is_mem(i) || i->flags & IF_SLOWEA || i->seg == S_FS || i->seg == S_GS ||
        i->index != REG_NONE || i->base == REG_NONE || !is_near(i->disp) || fn == tr_x87 ||
        fn == tr_nop || fn == tr_lea || fn == tr_string)
        return a;
    bool write = ((fn == tr_form || fn == tr_mov_ei) && forms[how->param].rm >= USE_WRITE) ||
                 fn == tr_cmpxchg || fn == tr_cmpxchg16b ||
                 (fn == tr_sse && (how->param == SSE_WV || how->param == SSE_EV)) ||
                 (fn == tr_avx && how->param == AVX_XV);
    return (struct access){ i->base, write,
                            fn == tr_sse   ? 16u
                            : fn == tr_avx ? 32u
                                           : i->size,
                            i->disp };
}

/* Does it move RSP by a constant, and is that all that anybody can see of it? */
static bool only_moves_stack(const struct tr *t, const struct insn *i, int64_t *by)
{
    tr_fn *fn = translations[i->row].fn;
    return stack_size_of(t) == 8 && t->jit->stack && (fn == tr_form || fn == tr_lea) &&
           register_moves(i, R_SP, by) && *by && (fn == tr_lea || flags_dead_behind(t));
}

/* Must RSP be in its register? It need not where it only moves, or is the base of an address. */
static bool wants_stack(const struct insn *i)
{
    enum { NEAR = 1 << 30 };
    tr_fn *fn = translations[i->row].fn;
    struct insn registers = *i;
    registers.base = registers.index = REG_NONE;
    return !fn || fn == tr_syscall || fn == tr_sysret || regs_named(&registers) >> R_SP & 1 ||
           (is_mem(i) && i->base == R_SP && (i->disp > NEAR || i->disp < -NEAR));
}

static void insn_translate(struct tr *t, const struct insn *i)
{
    const struct translation *how = &translations[i->row];
    /* Will the registers that the flags could be made from again be others behind this instruction?
     */
    bool spoils = regs_written(how, i) & producer_regs(&t->producer);
    bool checks = is_mem(i) || how->fn == tr_push || how->fn == tr_push_i || how->fn == tr_pop ||
                  how->fn == tr_pushf || how->fn == tr_popf || how->fn == tr_sti ||
                  how->fn == tr_rdtsc || how->fn == tr_read_base || how->fn == tr_leave ||
                  how->fn == tr_x87 || how->fn == tr_sse || how->fn == tr_avx || how->fn == tr_mmx;
    if (spoils && !sets_all_flags(i) && (checks || t->flags == IN_PRODUCER))
        flags_commit(t);

    if (t->fp.x87_mem && regs_written(how, i) & x87_pointer_regs(&t->fp))
        x87_data_pointer_commit(t);

    int64_t by;
    if (only_moves_stack(t, i, &by)) {
        stack_move(t, (int32_t)by);
        window_follow(t, i);
        if (how->fn != tr_lea) /* nobody looks at the flags that it makes, or at older ones */
            t->flags = IN_CC;
        if (how->fn != tr_lea || spoils)
            t->producer.kind = PRODUCER_NONE;
        return;
    }
    if (wants_stack(i))
        stack_settle(t);

    uint8_t *start = t->e.p;
    unsigned slow_count = t->slow_count, exit_count = t->exit_count, flag_writes = t->flag_writes;
    enum flags_where flags = t->flags;
    struct producer producer = t->producer;
    struct fp_state fp = t->fp;
    struct window window = t->window;
    int32_t ahead = t->ahead;
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
        t->ahead = ahead;
        held_drop(t);
    }
    t->window.base = REG_NONE;
    stack_settle(t);
    flags_commit(t);
    t->producer.kind = PRODUCER_NONE;
    fp_spill(t);
    handler_call(t, i);
    held_drop(t);
    if (changes_mode(i)) {
        pins_undo(t);
        exit_at(t, insn_end(i));
        t->ended = true;
    }
}

static void slow_paths_write(struct tr *t)
{
    if (!t->slow_count)
        return;
    t->aside = true;
    t->slow_call = emit_exec(&t->e);
    emit_imm64(&t->e, H_14, (uint64_t)(uintptr_t)t->block);
    emit_jmp(&t->e, t->jit->call_handler);
    for (unsigned n = 0; n < t->slow_count; n++) {
        const struct slow *s = &t->slow[n];
        emit_land(&t->e, s->site);
        if (s->last_size)
            last_slow_path(t, s);
        if (s->second) {
            emit_call(&t->e, s->second);
            emit_jcc(&t->e, CC_AE, s->checked);
        }
        if (!s->insn && s->second) { /* code that goes by IP: from an address to IP */
            emit_alu_imm(&t->e, 0, 4, 5, in_reg(H_14), (int32_t)t->cs.base, 0);
            emit_jmp(&t->e, t->jit->leave_to);
            continue;
        }
        if (!s->insn) {
            fp_enter(t, &s->fp_back);
            emit_jmp(&t->e, s->back + t->e.to_exec);
            continue;
        }
        t->ahead = s->ahead;
        stack_settle(t);
        fp_store(t, &s->fp);
        held_drop(t);
        t->flags = s->flags_at;
        t->producer = s->producer;
        flags_commit(t);
        if (s->window.size) {
            window_slow_path(t, s);
            uint8_t *no = emit_jcc_forward(&t->e, CC_E);
            fp_enter(t, &s->fp);
            stack_reach(t, s->ahead);
            emit_jmp(&t->e, s->again);
            emit_land(&t->e, no);
            t->ahead = 0;
            handler_call(t, s->insn);
            pins_undo(t);
            exit_at(t, insn_end(s->insn));
            continue;
        }
        handler_call(t, s->insn);
        if (!s->back) { /* a branch: its handler never answers OP_NEXT */
            pins_undo(t);
            exit_at(t, 0);
            continue;
        }
        fp_enter(t, &s->fp_back);
        if (s->flags == IN_HOST || s->flags == IN_BOTH) {
            t->flags = IN_CC;
            flags_fetch(t);
        }
        stack_reach(t, s->ahead_back);
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

int jump_inside(const struct tr *t, const struct insn *i)
{
    const struct block *b = t->block;
    unsigned low = 0, high = b->count;
    if (!t->jit->loops || i->imm < 0 || i->imm >= (int64_t)b->bytes)
        return -1;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (b->insns[middle].start < i->imm)
            low = middle + 1;
        else
            high = middle;
    }
    return low < b->count && b->insns[low].start == i->imm ? (int)low : -1;
}

static bool is_branch(tr_fn *fn) { return fn == tr_jcc || fn == tr_jmp || fn == tr_loop; }

static void labels_find(struct tr *t)
{
    for (unsigned n = 0; n < t->block->count; n++) {
        const struct insn *i = &t->block->insns[n];
        tr_fn *fn = translations[i->row].fn;
        int to = is_branch(fn) ? jump_inside(t, i) : -1;
        if (to >= 0 && own_handler(i) && i->size == word_of(t))
            t->labels[to].sources |= to > (int)n ? FROM_ABOVE : FROM_BELOW;
    }
}

/* Which registers are worth a place: those in loops. */
static void pins_find(struct tr *t)
{
    unsigned uses[16] = { 0 }, used = 0, end = 0;
    for (unsigned n = 0; n < t->block->count; n++) {
        const struct insn *i = &t->block->insns[n];
        tr_fn *fn = translations[i->row].fn;
        int to = is_branch(fn) ? jump_inside(t, i) : -1;
        if (to >= 0 && to <= (int)n)
            end = n;
    }
    for (unsigned n = 0; n < t->block->count; n++) {
        unsigned regs = regs_named(&t->block->insns[n]);
        used |= regs;
        for (unsigned r = 12; n <= end && r < 16; r++)
            uses[r] += regs >> r & 1;
    }
    if (end)
        pins_choose(t, used, uses);
}

void jit_translate(struct jit *j, struct block *b, struct jit_cs cs)
{
    size_t room = BLOCK_ROOM + (size_t)b->count * INSN_ROOM;
    if (j->room - j->used < room || j->named == JIT_NAMES) {
        j->full = true;
        return;
    }
    jit_table_init();
    struct tr t = { .e = { j->rw + j->used, j->rw + j->used + room, j->rx - j->rw },
                    .jit = j,
                    .block = b,
                    .cs = cs,
                    .name = j->named };
    __atomic_store_n(&j->names[j->named++], b, __ATOMIC_RELAXED);
    t.wide = has_avx(j, b);
    held_drop(&t);
    t.window.base = REG_NONE;
    uint8_t *start = t.e.p;
    /* Invariant 3: cmp dword gs:[request], 0; jne leave */
    emit_alu_imm(&t.e, 0, 4, 7, in_vcpu(offsetof(struct soft_vcpu, request)), 0, 0);
    uint8_t *out = emit_jcc_forward(&t.e, CC_NE);
    labels_find(&t);
    memcpy(t.host, host_of, sizeof t.host);
    if (j->pins)
        pins_find(&t);
    pins_set(&t);
    for (t.n = 0; t.n < b->count; t.n++)
        if (label_reach(&t, t.n))
            insn_translate(&t, &b->insns[t.n]);
    if (!t.ended) {
        flags_commit(&t);
        fp_spill(&t);
        exit_direct(&t, b->bytes);
    }
    side_exits_write(&t);
    slow_paths_write(&t);
    emit_land(&t.e, out);
    b->out = (uint32_t)(t.e.p - start);
    t.ahead = 0;
    exit_at(&t, 0);
    do /* INT3 between blocks: nothing runs into the next, and readers see where one begins */
        e8(&t.e, 0xcc);
    while ((t.e.p - j->rw) & 15);
    jit_filled(j, (size_t)(t.e.p - j->rw));
    j->blocks++;
    j->bytes_in += b->bytes;
    atomic_store_explicit(&b->code, start + t.e.to_exec, memory_order_release);
}
