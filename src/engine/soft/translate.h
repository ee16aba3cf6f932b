/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the translator share: the state of one translation, and its building blocks. */
#ifndef ENGINE_SOFT_TRANSLATE_H
#define ENGINE_SOFT_TRANSLATE_H

#include "engine/soft/code_block.h"
#include "engine/soft/emit.h"
#include "engine/soft/jit.h"
#include "engine/soft/jit_regs.h"

/* Where the status flags are: invariant 2 of jit.h. */
enum flags_where {
    IN_CC,
    IN_HOST,
    IN_BOTH,
    IN_PRODUCER /* nowhere: the producer can make them again */
};

/* An instruction whose flags follow from what is still in registers: computing them again where
 * they are really needed (a fault, an exit) is cheaper than saving them before every memory access.
 */
enum producer_kind {
    PRODUCER_NONE,
    PRODUCER_CMP,
    PRODUCER_TEST,
    PRODUCER_LOGIC,
    PRODUCER_ADD,
    PRODUCER_SUB
};
struct producer {
    uint8_t kind, size;
    uint8_t a, b; /* guest registers; b REG_NONE: imm */
    int32_t imm;
};

/* What of the floating-point state is known to be in the host's registers; invariant 7 of jit.h. */
struct fp_state {
    uint8_t vec;     /* VEC_* */
    bool mxcsr, x87; /* mxcsr only with vec */
    /* The last computing x87 instruction, and the last one with a memory operand, that FIP, FOP and
     * FDP do not tell yet; or NULL */
    const struct insn *x87_last, *x87_mem;
};

/* What r15 is the host address of (translate_mem.c). */
struct window {
    uint8_t base;        /* slot of the register, REG_NONE: nothing */
    bool write;          /* opened with the store tag */
    int32_t first, size; /* from where the register pointed when it was opened */
    int32_t moved;       /* the register since */
};

enum { MAX_SLOW = BLOCK_MAX * 4 };
struct slow { /* a check that failed: run the handler, come back behind the instruction */
    uint8_t *site;
    const struct insn *insn; /* NULL: no handler, only fp_back is to be had, or to leave for r14 */
    struct window window;    /* size 0: no window was opened here */
    const uint8_t *again;    /* where opening it begins */
    uint16_t last_site, last_size; /* the check of this site, of so many bytes; size 0: of none */
    const uint8_t *second;  /* first asks this, code_store or find: if carry is clear, on at... */
    const uint8_t *checked; /* ... where the check ends */
    uint8_t *back;          /* NULL: a branch, whose handler never comes back */
    enum flags_where flags_at, flags; /* at the check; what the code behind expects */
    struct producer producer;         /* at the check */
    struct fp_state fp, fp_back;      /* at the check, and what the code behind expects */
    int32_t ahead, ahead_back;        /* tr.ahead: the same */
};

/* A jump whose way on is written behind the block's straight one, or that waits for its label. */
struct side_exit {
    uint8_t *site; /* NULL: done */
    int64_t delta;
    int16_t label; /* the instruction of this block that it leads to, or -1 */
    bool leaves;   /* something is requested: to the dispatcher */
    enum flags_where flags;
    struct producer producer;
    struct fp_state fp;
    struct window window;
    int32_t ahead;
};

/* An instruction that jumps of its own block lead to (translate_branch.c). */
enum { FROM_ABOVE = 1, FROM_BELOW = 2 };
struct label {
    uint8_t sources;    /* FROM_* */
    bool flags_dead;    /* nothing looks at the status flags there; else they are in v->cc */
    const uint8_t *at;  /* executable; NULL: not reached yet */
    struct fp_state fp; /* what the code there expects */
    int32_t ahead;      /* the same */
};

struct tr {
    struct emit e;
    struct jit *jit;
    struct block *block;
    struct jit_cs cs;
    enum flags_where flags;
    struct producer producer; /* of the current flags */
    unsigned flag_writes;     /* instructions so far that set flags */
    struct fp_state fp;
    uint8_t held[2]; /* which of R12 to R15 rax and r14 still hold after a simple instruction, or
                        REG_NONE */
    struct window window;
    int32_t ahead;       /* RSP is its host register and this: stack_move */
    struct place_of mem; /* the operand, behind mem_operand and its kin */
    bool wide;           /* the block has AVX: it needs whole YMM registers; fixed */
    bool ended;          /* an exit was written: nothing follows */
    bool aside;          /* slow paths are being written: small before fast */
    const uint8_t
        *slow_call; /* of them: goes to the handler of the instruction in al; executable */
    uint32_t name;  /* of this translation */
    unsigned n;
    unsigned slow_count;
    struct slow slow[MAX_SLOW];
    unsigned exit_count;
    struct side_exit exits[BLOCK_MAX];
    struct label labels[BLOCK_MAX];
    uint8_t host[16]; /* where guest registers are in this block; fixed */
};

/* Writes the host form of one instruction; false (whatever was written is dropped): call the
 * handler. */
typedef bool tr_fn(struct tr *t, const struct insn *i, unsigned param);

#define CC_AT offsetof(struct soft_vcpu, cc)

/* Code of 16 or 32 bits? */
static inline bool narrow(const struct tr *t) { return (t->block->key & CODE_MODE) != MODE_64; }
/* Is the block of one IP and CS only? Then addresses in code are constants. */
static inline bool by_ip(const struct tr *t) { return t->block->key & CODE_BY_IP; }
/* The size of code addresses and returns, and of what a push is without a prefix */
static inline unsigned word_of(const struct tr *t)
{
    unsigned mode = t->block->key & CODE_MODE;
    return mode == MODE_64 ? 8 : mode == MODE_32 ? 4 : 2;
}
/* How much of RSP counts */
static inline unsigned stack_size_of(const struct tr *t)
{
    return t->block->key & CODE_STACK16 ? 2 : narrow(t) ? 4 : 8;
}
/* In which size addresses are computed */
static inline unsigned lea_size(const struct tr *t) { return narrow(t) ? 4 : 8; }
/* Of a memory operand, as far as it is translated */
static inline bool address_size_fits(const struct tr *t, const struct insn *i)
{
    return narrow(t) ? i->asize <= 4 : i->asize == 8;
}
static inline bool is_mem(const struct insn *i) { return i->flags & IF_MEM; }
static inline bool is_small(int64_t x) { return x == (int32_t)x; }
/* Can it be told from the page's start? */
static inline bool is_near(int64_t x) { return is_small(x) && is_small(x + (int64_t)PAGE_SIZE); }

/* ---- translate.c ---- */

/* rax and r14 no longer hold guest registers. */
void held_drop(struct tr *t);
/* The host register with guest register n: its own, or `scratch` loaded from the vCPU. */
unsigned reg_get(struct tr *t, unsigned n, unsigned scratch);
/* The register to write guest register n to, when its old value does not matter; then reg_put. */
unsigned reg_new(const struct tr *t, unsigned n, unsigned scratch);
void reg_put(struct tr *t, unsigned n, unsigned h);

/* In a block with a loop, registers that it does not use give their place to some of R12 to R15.
 * Between pins_set and pins_undo; no flags, no scratch register. */
void pins_choose(struct tr *t, unsigned used, const unsigned *uses);
void pins_set(struct tr *t);
void pins_undo(struct tr *t);

/* Something follows that spoils the host's flags. May use rax. */
void flags_spill(struct tr *t);
/* The flags go to v->cc: before a handler is called or the block left. Uses rax and r14. */
void flags_commit(struct tr *t);
/* The host's flags have all flags. Uses rax (and r14). */
void flags_fetch(struct tr *t);
/* The host's carry is the guest's, without a register. Not while a producer has the flags. */
void carry_fetch(struct tr *t);
/* The instruction just written has set the host's flags. */
void flags_new(struct tr *t);
/* The same, from guest registers a and b (REG_NONE: an immediate), which still hold. */
void producer_set(struct tr *t, enum producer_kind kind, const struct insn *i, unsigned a,
                  unsigned b);
unsigned producer_regs(const struct producer *p);

/* ---- translate_block.c ---- */

/* al = the instruction's number, for C. */
void number_load(struct tr *t, const struct insn *i);

/* Will all flags be made anew before anything can look at those of the present instruction? */
bool flags_dead_behind(const struct tr *t);

/* How an instruction touches memory, as far as can be said ahead; size 0: not by a lone base
 * register. */
struct access {
    uint8_t base;
    bool write;
    unsigned size; /* at most */
    int64_t disp;
};
struct access access_of(const struct insn *i);
/* false: the register will hold something else; *by: how it moves otherwise. */
bool register_moves(const struct insn *i, unsigned slot, int64_t *by);

/* Will they be from instruction n on? */
bool flags_dead_from(const struct tr *t, unsigned n);
/* Does it jump to an instruction of its own block? Answers which, or -1. */
int jump_inside(const struct tr *t, const struct insn *i);
/* Calls the handler of the instruction, with all registers where C expects them. */
void handler_call(struct tr *t, const struct insn *i);

/* ---- translate_int.c ---- */

/* How an instruction uses an operand; WRITE: its old value does not matter. */
enum use { USE_NONE, USE_READ, USE_WRITE, USE_CHANGE };
/* What follows ModRM: nothing, as group 1 has it, a byte, a shift count, or of the operand's size
 * (4 at most) */
enum form_imm { IMM_NONE, IMM_ALU, IMM_8, IMM_COUNT, IMM_WORD };
/* From FLAGS_CARRY on they make flags. CARRY: of the old ones carry counts; SOME: keeps some, ALL:
 * the same, and looks at them. */
enum form_flags { FLAGS_KEPT, FLAGS_READ, FLAGS_CARRY, FLAGS_SOME, FLAGS_ALL, FLAGS_NEW };
/* In form.opcode: OPC; SIZED: even opcode for bytes, odd for the other sizes; FROM: the bytes of rm
 * where they are not the operand size */
enum { FORM_OPCODE = 0xfffff, SIZED = 1 << 20, FORM_FROM_SHIFT = 24 };
#define FROM(bytes) ((bytes) << FORM_FROM_SHIFT)
struct form {
    const struct op *op;
    uint32_t opcode;
    uint8_t rm, reg; /* enum use */
    uint8_t ext;     /* of the opcode, where reg is no operand */
    uint8_t imm, flags, producer;
};
extern const struct form forms[];
extern const unsigned form_count;
/* Of a shift by a constant */
static inline unsigned shift_count(const struct insn *i)
{
    return (unsigned)i->imm & (i->size == 8 ? 63 : 31);
}
unsigned form_regs_written(const struct form *f, const struct insn *i);
/* r14 = the ModRM.rm operand. False: left to the handler. */
bool rm_load(struct tr *t, const struct insn *i);
tr_fn tr_form, tr_mov_ei, tr_lea, tr_mul, tr_div, tr_cbw, tr_cwd, tr_bswap, tr_cmov, tr_sahf,
    tr_nop, tr_cmpxchg, tr_cmpxchg16b;

/* ---- translate_branch.c ---- */

/* To the dispatcher, `delta` behind the block's start. */
void exit_at(struct tr *t, int64_t delta);
/* Straight into the block at `delta` if it is in this page, through the jump cache otherwise. */
void exit_direct(struct tr *t, int64_t delta);
void side_exits_write(struct tr *t);
/* r14 = the address `delta` behind the block's start */
void address_here(struct tr *t, int64_t delta);
/* To the address in r14, through the jump cache. */
void exit_to(struct tr *t);
/* A target in r14 that is not canonical faults at the branch, which has not moved anything yet.
 * Uses rax. */
void check_target(struct tr *t, const struct insn *i);
/* Where instruction n begins: false if nothing leads there. */
bool label_reach(struct tr *t, unsigned n);
enum loop_kind { LOOP_COUNT, LOOP_ZERO /* JCXZ */ };
tr_fn tr_push, tr_push_i, tr_pop, tr_leave, tr_jmp, tr_jcc, tr_loop, tr_call, tr_ret, tr_jmp_e,
    tr_call_e;

/* RSP moves by a constant. In 64-bit code that is only noted, and its register follows where RSP
 * itself is wanted: in a chain of pushes and pops each would wait for the one before. */
void stack_move(struct tr *t, int32_t by);
/* The register follows until RSP is `ahead` of it; 0: it is RSP. No flags. */
void stack_reach(struct tr *t, int32_t ahead);
static inline void stack_settle(struct tr *t) { stack_reach(t, 0); }
static inline bool push_size_fits(const struct tr *t, const struct insn *i)
{
    return narrow(t) ? i->size >= 2 : i->size == 8;
}

/* ---- translate_system.c ---- */

tr_fn tr_direction, tr_cli, tr_sti, tr_ac, tr_swapgs, tr_read_base, tr_write_base, tr_read_selector,
    tr_carry, tr_fence, tr_pushf, tr_popf, tr_rdtsc, tr_syscall, tr_sysret;

/* ---- translate_string.c ---- */

enum string_kind { STRING_MOVS, STRING_CMPS, STRING_STOS, STRING_LODS, STRING_SCAS };
unsigned string_regs_written(unsigned kind);
tr_fn tr_string;

/* ---- translate_mem.c ---- */

/* The host register with an address's base or index; H_NONE where there is none. */
unsigned address_reg(struct tr *t, unsigned slot, unsigned scratch);
int32_t address_disp(const struct tr *t, unsigned base, int64_t disp);
/* t->mem = the memory operand, checked; may use rax and r14, and spill the flags. False: an address
 * that is left to the handler. */
bool mem_operand(struct tr *t, const struct insn *i, unsigned size, bool write);
/* The same for an operand on the stack, of the instruction's size: at RSP + offset, and at RBP. */
void stack_operand(struct tr *t, const struct insn *i, int32_t offset, bool write);
void frame_operand(struct tr *t, const struct insn *i);
/* rax = checked host address of the string operand at ES:rDI. */
void string_destination(struct tr *t, const struct insn *i, bool write);
bool window_operand(struct tr *t, const struct insn *i, unsigned base, int64_t disp, unsigned size,
                    bool write);
/* The instruction has been written: is the window still of use? */
void window_follow(struct tr *t, const struct insn *i);
/* Looks for the page that a site does not have, and comes back if there is one. */
void last_slow_path(struct tr *t, const struct slow *s);
/* Asks whether the window can be opened now: "not zero" if it can. */
void window_slow_path(struct tr *t, const struct slow *s);
/* rax = checked host address of the memory operand. Spills the flags, uses r14. False: an address
 * that is left to the handler. */
bool address(struct tr *t, const struct insn *i, unsigned size, bool write);
/* The same for what BT reads: the bit's number in i->reg moves the operand. 64-bit code. */
bool bit_string_address(struct tr *t, const struct insn *i);
/* Jumps to the instruction's slow path on a condition. */
void slow_if(struct tr *t, unsigned cc, const struct insn *i);
/* On a condition brings into the host what `fp` says (fp_enter), and comes back to here. */
void fp_enter_if(struct tr *t, unsigned cc, struct fp_state fp);

/* ---- translate_sse.c ---- */

enum sse_form { SSE_NONE, SSE_VW, SSE_WV, SSE_VE, SSE_EV, SSE_GW, SSE_UI };
enum sse_form sse_form_of(const struct insn_row *row);
tr_fn tr_sse;
bool is_v(unsigned arg); /* is the operand a vector register? */
unsigned e_bytes(unsigned arg,
                 const struct insn *i); /* general register or memory: bytes; 0: neither */
bool uses_mxcsr(const char *name);      /* legacy mnemonic */
/* The ModRM.rm operand, ready to be named: memory of `size` bytes (0: none; aligned where the row
 * wants that), a general register by way of rax, or a vector register. False: left to the handler.
 */
bool vec_operand(struct tr *t, const struct insn *i, unsigned size, enum use use, bool general,
                 struct place_of *o);
/* The operand just checked has to lie at a multiple of `align`. */
void alignment_check(struct tr *t, const struct insn *i, unsigned align);
/* Vector registers, and MXCSR where it counts, are in the host's behind this. Before the address of
 * a memory operand: it spoils flags and scratch. */
void vec_needed(struct tr *t, bool mxcsr);
/* A handler is called, or the block left: what has to be in the vCPU for that, and nothing is known
 * of the host's registers any more. */
void fp_spill(struct tr *t);
/* For slow paths: the same; and to have what `fp` says. */
void fp_store(struct tr *t, const struct fp_state *fp);
void fp_enter(struct tr *t, const struct fp_state *fp);

/* ---- translate_x87.c ---- */

enum x87_form {
    X87_LOAD,
    X87_STORE,
    X87_REG,
    X87_COMI,
    X87_CMOV,
    X87_LDCW,
    X87_STCW,
    X87_STSW,
    X87_STSW_AX,
    X87_CLEX,
    X87_NOP,
    X87_NOTHING
};
tr_fn tr_x87;
/* The x87 unit is in the host's behind this. Before the address of a memory operand, as vec_needed.
 */
void x87_needed(struct tr *t);
/* FIP, FOP and FDP as they are behind the instructions so far. Uses rax and r14. */
void x87_pointers_store(struct tr *t, const struct fp_state *fp);
/* Guest registers that FDP still has to be computed from. */
unsigned x87_pointer_regs(const struct fp_state *fp);
/* They are about to change. */
void x87_data_pointer_commit(struct tr *t);

/* ---- translate_mmx.c ---- */

enum mmx_form { MMX_NONE, MMX_PQ, MMX_PE, MMX_QP, MMX_EP, MMX_GN, MMX_NI, MMX_EMMS };
enum mmx_form mmx_form_of(const struct insn_row *row);
tr_fn tr_mmx;

/* ---- translate_avx.c ---- */

enum avx_form { AVX_NONE, AVX_VHX, AVX_VX, AVX_XV, AVX_GX, AVX_HUI, AVX_ZERO };
enum avx_form avx_form_of(const struct insn_row *row);
tr_fn tr_avx;

#endif
