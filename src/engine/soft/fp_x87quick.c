/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The common x87 instructions without the whole state: loads, stores, arithmetic, comparisons.
 *
 * Only the operands go to the host's stack, which is empty before and after. That holds when all
 * exceptions are masked and no register is used empty or overwritten full; everything else is left
 * to fp_x87.c (answer: false), which is the reference for what is done here.
 *
 * The host's exception flags may stay set as long as they are set in the guest's status word, too:
 * nothing is delivered while they are masked, and clearing them each time would be the largest
 * cost.
 */
#include "engine/soft/fp_x87.h"

enum { C1 = 0x200, C2 = 0x400, C023 = 0x4500, SW_FLAGS = 0x3f, FCW_MASKS = 0x3f };

/* `a` is ST(0), in and out, `b` ST(1) or the operand in memory. Answers the status word. */
typedef uint16_t quick_fn(void *a, void *b, uint32_t *cc);

static unsigned top_of(const struct soft_fpu *f) { return f->fsw >> 11 & 7; }
static bool used(const struct soft_fpu *f, unsigned n)
{
    return f->ftw >> ((top_of(f) + n) & 7) & 1;
}
static uint8_t *st(struct soft_fpu *f, unsigned n) { return f->st[(top_of(f) + n) & 7]; }

static inline void host_enter(const struct soft_fpu *f)
{
    uint16_t sw;
    __asm__ volatile("fnstsw %0" : "=a"(sw));
    if (unlikely(sw & SW_FLAGS & ~f->fsw))
        __asm__ volatile("fnclex");
    if (unlikely(f->fcw != FCW_INIT))
        __asm__ volatile("fldcw %0" : : "m"(f->fcw));
}
static inline void host_leave(const struct soft_fpu *f)
{
    static const uint16_t host = FCW_INIT;
    if (unlikely(f->fcw != FCW_INIT))
        __asm__ volatile("fldcw %0" : : "m"(host));
}
static uint16_t host_run(const struct soft_fpu *f, quick_fn *run, void *a, void *b, uint32_t *cc)
{
    host_enter(f);
    const uint16_t sw = run(a, b, cc);
    host_leave(f);
    return sw;
}

static void st_pop(struct soft_fpu *f)
{
    const unsigned top = top_of(f);
    f->ftw &= (uint8_t) ~(1u << top);
    f->fsw = (uint16_t)((f->fsw & ~FSW_TOP) | ((top + 1) & 7) << 11);
}
/* The new ST(0), which must have been empty. */
static uint8_t *st_push(struct soft_fpu *f)
{
    const unsigned top = (top_of(f) - 1) & 7;
    f->ftw |= (uint8_t)(1u << top);
    f->fsw = (uint16_t)((f->fsw & ~FSW_TOP) | top << 11);
    return f->st[top];
}
/* Exception flags accumulate; of the condition bits those that the instruction sets are replaced.
 */
static void status_merge(struct soft_fpu *f, uint16_t sw, unsigned conditions)
{
    f->fsw = (uint16_t)((f->fsw & ~conditions) | (sw & (conditions | SW_FLAGS)));
}
static bool all_masked(const struct soft_fpu *f) { return (f->fcw & FCW_MASKS) == FCW_MASKS; }

/* ---- Host instructions, by encoding as in fp_x87.c ---- */

#define QUICK(name, text)                                                             \
    static uint16_t name(void *a, void *b, uint32_t *cc)                              \
    {                                                                                 \
        uint16_t sw;                                                                  \
        __asm__ volatile(text : "=a"(sw) : "S"(a), "D"(b), "d"(cc) : "memory", "cc"); \
        return sw;                                                                    \
    }
/* ST(0) op memory */
#define ARITH_MEM(op, ext)  \
    QUICK(mem_##op##_##ext, \
          "fldt (%1)\n\t.byte 0x" #op ", (" #ext " << 3) | 7\n\tfnstsw %0\n\tfstpt (%1)")
/* ST(0) op ST(1), either may change; and both the same register */
#define ARITH_REG(op, ext)                                                                 \
    QUICK(reg_##op##_##ext##_1, "fldt (%2)\n\tfldt (%1)\n\t.byte 0x" #op ", 0xc1 | (" #ext \
                                " << 3)\n\tfnstsw %0\n\tfstpt (%1)\n\tfstpt (%2)")         \
    QUICK(reg_##op##_##ext##_0,                                                            \
          "fldt (%1)\n\t.byte 0x" #op ", 0xc0 | (" #ext " << 3)\n\tfnstsw %0\n\tfstpt (%1)")
/* FCOMI: the status flags to *cc */
#define COMI_REG(op, ext)                                                             \
    QUICK(reg_##op##_##ext##_1,                                                       \
          "fldt (%2)\n\tfldt (%1)\n\t.byte 0x" #op ", 0xc1 | (" #ext                  \
          " << 3)\n\tlahf\n\tseto %%al\n\tmovzwl %%ax, %%eax\n\tmovl %%eax, (%3)\n\t" \
          "fnstsw %0\n\tfstpt (%1)\n\tfstpt (%2)")                                    \
    QUICK(reg_##op##_##ext##_0,                                                       \
          "fldt (%1)\n\t.byte 0x" #op ", 0xc0 | (" #ext                               \
          " << 3)\n\tlahf\n\tseto %%al\n\tmovzwl %%ax, %%eax\n\tmovl %%eax, (%3)\n\t" \
          "fnstsw %0\n\tfstpt (%1)")
#define LOAD_MEM(op, ext) \
    QUICK(mem_##op##_##ext, ".byte 0x" #op ", (" #ext " << 3) | 7\n\tfnstsw %0\n\tfstpt (%1)")
/* Popping stores only: the register stays where it is. */
#define STORE_MEM(op, ext) \
    QUICK(mem_##op##_##ext, "fldt (%1)\n\t.byte 0x" #op ", (" #ext " << 3) | 7\n\tfnstsw %0")

/* D9 E0..FF: ST(0) alone, a constant pushed, ST(0) and ST(1) of which either may change */
#define UNARY(n) QUICK(d9_##n, "fldt (%1)\n\t.byte 0xd9, 0x" #n "\n\tfnstsw %0\n\tfstpt (%1)")
#define CONSTANT(n) QUICK(d9_##n, ".byte 0xd9, 0x" #n "\n\tfnstsw %0\n\tfstpt (%1)")
#define BINARY(n)                                               \
    QUICK(d9_##n, "fldt (%2)\n\tfldt (%1)\n\t.byte 0xd9, 0x" #n \
                  "\n\tfnstsw %0\n\tfstpt (%1)\n\tfstpt (%2)")
/* The result replaces ST(1), ST(0) is popped. */
#define BINARY_POP(n) \
    QUICK(d9_##n, "fldt (%2)\n\tfldt (%1)\n\t.byte 0xd9, 0x" #n "\n\tfnstsw %0\n\tfstpt (%2)")

/* clang-format off */
#define SEVEN(m, op) m(op, 0) m(op, 1) m(op, 2) m(op, 4) m(op, 5) m(op, 6) m(op, 7)
SEVEN(ARITH_MEM, d8) SEVEN(ARITH_MEM, da) SEVEN(ARITH_MEM, dc) SEVEN(ARITH_MEM, de)
SEVEN(ARITH_REG, d8)
ARITH_REG(dc, 0) ARITH_REG(dc, 1) ARITH_REG(dc, 4) ARITH_REG(dc, 5) ARITH_REG(dc, 6) ARITH_REG(dc, 7)
ARITH_REG(dd, 4)
COMI_REG(db, 5) COMI_REG(db, 6)
LOAD_MEM(d9, 0) LOAD_MEM(db, 0) LOAD_MEM(db, 5) LOAD_MEM(dd, 0) LOAD_MEM(df, 0) LOAD_MEM(df, 5)
STORE_MEM(d9, 3) STORE_MEM(db, 1) STORE_MEM(db, 3) STORE_MEM(db, 7) STORE_MEM(dd, 1) STORE_MEM(dd, 3)
STORE_MEM(df, 1) STORE_MEM(df, 3) STORE_MEM(df, 7)

UNARY(e0) UNARY(e1) UNARY(e4) UNARY(e5) UNARY(f0) UNARY(fa) UNARY(fc) UNARY(fe) UNARY(ff)
CONSTANT(e8) CONSTANT(e9) CONSTANT(ea) CONSTANT(eb) CONSTANT(ec) CONSTANT(ed) CONSTANT(ee)
BINARY(fd)
BINARY_POP(f1) BINARY_POP(f3) BINARY_POP(f9)

/* ---- What an encoding does: the host function that does not pop, and how often to pop after it ---- */

enum kind { NONE, ARITH, COMPARE, COMPARE_FLAGS };
struct quick {
    quick_fn *run[2];   /* ST(0) with itself, with another register */
    uint8_t kind, pops;
};
#define R(op, ext, kind, pops) { { reg_##op##_##ext##_0, reg_##op##_##ext##_1 }, kind, pops }
static const struct quick registers[8][8] = {
    [0] = { R(d8, 0, ARITH, 0), R(d8, 1, ARITH, 0), R(d8, 2, COMPARE, 0), R(d8, 2, COMPARE, 1),
            R(d8, 4, ARITH, 0), R(d8, 5, ARITH, 0), R(d8, 6, ARITH, 0), R(d8, 7, ARITH, 0) },
    [2] = { [5] = R(dd, 4, COMPARE, 2) },
    [3] = { [5] = R(db, 5, COMPARE_FLAGS, 0), [6] = R(db, 6, COMPARE_FLAGS, 0) },
    [4] = { R(dc, 0, ARITH, 0), R(dc, 1, ARITH, 0), R(d8, 2, COMPARE, 0), R(d8, 2, COMPARE, 1),
            R(dc, 4, ARITH, 0), R(dc, 5, ARITH, 0), R(dc, 6, ARITH, 0), R(dc, 7, ARITH, 0) },
    [5] = { [4] = R(dd, 4, COMPARE, 0), [5] = R(dd, 4, COMPARE, 1) },
    [6] = { R(dc, 0, ARITH, 1), R(dc, 1, ARITH, 1), R(d8, 2, COMPARE, 1), R(d8, 2, COMPARE, 2),
            R(dc, 4, ARITH, 1), R(dc, 5, ARITH, 1), R(dc, 6, ARITH, 1), R(dc, 7, ARITH, 1) },
    [7] = { [5] = R(db, 5, COMPARE_FLAGS, 1), [6] = R(db, 6, COMPARE_FLAGS, 1) },
};
/*
 * D9 E0..FF and the condition bits that each sets. FPREM sets them only when its operands are valid: it, FPTAN, FXTRACT,
 * FSINCOS and what moves TOP are left to fp_x87.c.
 */
enum shape { SHAPE_NONE, SHAPE_UNARY, SHAPE_CONSTANT, SHAPE_BINARY, SHAPE_BINARY_POP };
static const struct {
    quick_fn *run;
    uint8_t shape;
    uint16_t conditions;
} d9[32] = {
    [0x00] = { d9_e0, SHAPE_UNARY, C1 }, [0x01] = { d9_e1, SHAPE_UNARY, C1 },
    [0x04] = { d9_e4, SHAPE_UNARY, C1 | C023 }, [0x05] = { d9_e5, SHAPE_UNARY, C1 | C023 },
    [0x08] = { d9_e8, SHAPE_CONSTANT, C1 }, [0x09] = { d9_e9, SHAPE_CONSTANT, C1 },
    [0x0a] = { d9_ea, SHAPE_CONSTANT, C1 }, [0x0b] = { d9_eb, SHAPE_CONSTANT, C1 },
    [0x0c] = { d9_ec, SHAPE_CONSTANT, C1 }, [0x0d] = { d9_ed, SHAPE_CONSTANT, C1 },
    [0x0e] = { d9_ee, SHAPE_CONSTANT, C1 },
    [0x10] = { d9_f0, SHAPE_UNARY, C1 }, [0x11] = { d9_f1, SHAPE_BINARY_POP, C1 },
    [0x13] = { d9_f3, SHAPE_BINARY_POP, C1 },
    [0x19] = { d9_f9, SHAPE_BINARY_POP, C1 },
    [0x1a] = { d9_fa, SHAPE_UNARY, C1 }, [0x1c] = { d9_fc, SHAPE_UNARY, C1 },
    [0x1d] = { d9_fd, SHAPE_BINARY, C1 },
    [0x1e] = { d9_fe, SHAPE_UNARY, C1 | C2 }, [0x1f] = { d9_ff, SHAPE_UNARY, C1 | C2 },
};
#define M(op) { mem_##op##_0, mem_##op##_1, mem_##op##_2, mem_##op##_2, mem_##op##_4, mem_##op##_5, mem_##op##_6, mem_##op##_7 }
static quick_fn *const arithmetic[8][8] = { [0] = M(d8), [2] = M(da), [4] = M(dc), [6] = M(de) };
static quick_fn *const loads[8][8] = {
    [1] = { mem_d9_0 }, [3] = { [0] = mem_db_0, [5] = mem_db_5 }, [5] = { mem_dd_0 },
    [7] = { [0] = mem_df_0, [5] = mem_df_5 },
};
static quick_fn *const stores[8][8] = {
    [1] = { [2] = mem_d9_3, [3] = mem_d9_3 },
    [3] = { [1] = mem_db_1, [2] = mem_db_3, [3] = mem_db_3, [7] = mem_db_7 },
    [5] = { [1] = mem_dd_1, [2] = mem_dd_3, [3] = mem_dd_3 },
    [7] = { [1] = mem_df_1, [2] = mem_df_3, [3] = mem_df_3, [7] = mem_df_7 },
};
/* clang-format on */

/* Does FCOMI clear C1, as the SDM says? Not everywhere. FXAM of -1 sets it before. */
static bool comi_clears_c1(void)
{
    static _Atomic int8_t known; /* 0: not yet, 1: it does, 2: it does not */
    uint16_t sw;
    if (!known) {
        __asm__ volatile(
            "fld1\n\tfchs\n\tfxam\n\tfcomi %%st(0), %%st(0)\n\tfnstsw %0\n\tfstp %%st(0)"
            : "=a"(sw)
            :
            : "cc");
        known = sw & C1 ? 2 : 1;
    }
    return known == 1;
}

/* FLD, FXCH, FST and FSTP between registers: copies, with C1 cleared */
static bool quick_move(struct soft_fpu *f, unsigned op, unsigned ext, unsigned n)
{
    uint8_t t[16];
    if (!used(f, 0) && !(op == 1 && ext == 0))
        return false;
    memcpy(t, st(f, n), 16);
    if (op == 1 && ext == 0) {
        if (!used(f, n) || used(f, 7))
            return false;
        memcpy(st_push(f), t, 16);
    } else if (op == 1 && ext == 1) {
        if (!used(f, n))
            return false;
        memcpy(st(f, n), st(f, 0), 16);
        memcpy(st(f, 0), t, 16);
    } else if (op == 5 && (ext == 2 || ext == 3)) {
        memcpy(st(f, n), st(f, 0), 16);
        f->ftw |= (uint8_t)(1u << ((top_of(f) + n) & 7));
        if (ext == 3)
            st_pop(f);
    } else {
        return false;
    }
    f->fsw &= (uint16_t)~C1;
    return true;
}

bool x87_quick_registers(struct soft_vcpu *v, unsigned op, unsigned ext, unsigned n)
{
    struct soft_fpu *f = &v->fpu;
    const struct quick *q = &registers[op][ext];
    uint32_t cc = 0;
    if (!all_masked(f))
        return false;
    if (q->kind == NONE)
        return quick_move(f, op, ext, n);
    if (!used(f, 0) || !used(f, n))
        return false;
    const uint16_t sw = host_run(f, q->run[n != 0], st(f, 0), st(f, n), &cc);
    if (q->kind == COMPARE_FLAGS) {
        status_merge(f, sw & ~C1, comi_clears_c1() ? C1 : 0);
        v->cc = cc;
    } else {
        status_merge(f, sw, q->kind == COMPARE ? C1 | C023 : C1);
    }
    for (unsigned k = q->pops; k; k--)
        st_pop(f);
    return true;
}

bool x87_quick_d9(struct soft_vcpu *v, unsigned n)
{
    struct soft_fpu *f = &v->fpu;
    const unsigned shape = d9[n].shape;
    if (!shape || !all_masked(f))
        return false;
    if (shape == SHAPE_CONSTANT) {
        if (used(f, 7))
            return false;
        const uint16_t sw = host_run(f, d9[n].run, st(f, 7), NULL, NULL);
        st_push(f);
        status_merge(f, sw, d9[n].conditions);
        return true;
    }
    if (!used(f, 0) || (shape != SHAPE_UNARY && !used(f, 1)))
        return false;
    status_merge(f, host_run(f, d9[n].run, st(f, 0), st(f, 1), NULL), d9[n].conditions);
    if (shape == SHAPE_BINARY_POP)
        st_pop(f);
    return true;
}

bool x87_quick_load(struct soft_vcpu *v, unsigned op, unsigned ext, void *operand)
{
    struct soft_fpu *f = &v->fpu;
    if (!all_masked(f))
        return false;
    if (arithmetic[op][ext]) {
        if (!used(f, 0))
            return false;
        const uint16_t sw = host_run(f, arithmetic[op][ext], st(f, 0), operand, NULL);
        status_merge(f, sw, ext == 2 || ext == 3 ? C1 | C023 : C1);
        if (ext == 3)
            st_pop(f);
        return true;
    }
    if (!loads[op][ext] || used(f, 7))
        return false;
    const uint16_t sw = host_run(f, loads[op][ext], st(f, 7), operand, NULL);
    st_push(f);
    status_merge(f, sw, C1);
    return true;
}

bool x87_quick_store(const struct soft_fpu *f, unsigned op, unsigned ext, void *operand,
                     uint16_t *sw)
{
    if (!all_masked(f) || !used(f, 0) || !stores[op][ext])
        return false;
    *sw = host_run(f, stores[op][ext], (void *)(uintptr_t)f->st[top_of(f)], operand, NULL);
    return true;
}

void x87_quick_stored(struct soft_fpu *f, unsigned ext, uint16_t sw)
{
    status_merge(f, sw, C1);
    if (ext != 2)
        st_pop(f);
}
