/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The instruction table and the decoded instruction.
 *
 * One row per encoding form (insn_int.def, insn_fp.def, insn_avx.def, insn_sys.def) feeds the
 * decoder, the interpreter, the tests and the translator. A row names its `struct op`: the
 * handlers, one for each operand size, for a register or a memory operand.
 */
#ifndef ENGINE_SOFT_INSN_H
#define ENGINE_SOFT_INSN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct soft_vcpu;
struct insn;

/* What a handler answers. Anything but OP_NEXT leaves the block. */
enum op_result {
    OP_NEXT = 0, /* done, go on with the next instruction of the block */
    OP_JUMP,     /* done; v->rip is where to go on */
    OP_END,   /* done; go on behind this instruction, but look for interrupts, mode and code changes
                 first */
    OP_FAULT, /* v->exc says which exception; nothing of the guest's state has changed but what the
                 SDM says */
    OP_AGAIN, /* run this instruction again (a REP that was interrupted, a block that went stale) */
    OP_EXIT,  /* done; v->exit says why run() must return (after this instruction) */
};
typedef int insn_fn(struct soft_vcpu *v, const struct insn *i);

/* clang-format off */
struct op { /* index: operand size 1, 2, 4, 8 bytes -> 0, 1, 2, 3 */
    insn_fn *r[4];      /* ModRM names a register, or there is no ModRM */
    insn_fn *m[4];      /* ModRM names memory */
};
#define OP_ALL(fn) { { fn, fn, fn, fn }, { fn, fn, fn, fn } }
#define OP_RM(rfn, mfn) { { rfn, rfn, rfn, rfn }, { mfn, mfn, mfn, mfn } }

/* clang-format on */

enum { MODE_16, MODE_32, MODE_64 }; /* code size: CS.L and CS.D */

/* clang-format off */
/* Opcode maps. The V maps are the VEX-encoded ones (pp selects like a mandatory prefix). */
enum { M1, M0F, M38, M3A, V0F, V38, V3A, MAP_COUNT };
/* Mandatory prefix: P_ANY ignores 66 (operand size), F2 and F3 (REP); the others demand exactly that one. */
enum { P_ANY, P_NONE, P_66, P_F3, P_F2 };
/* ModRM: none, any, memory only, register only */
enum { MOD_NONE, MOD_ANY, MOD_MEM, MOD_REG };

/*
 * Operands, as the SDM's opcode maps name them: first letter where, then how wide.
 *   E ModRM.rm general register or memory · G ModRM.reg general register · I immediate · J branch displacement · O moffs
 *   Z register in the low 3 opcode bits · A far pointer · M memory only · R register only (rm) · S segment register (reg)
 *   C control register (reg) · D debug register (reg) · B VEX.vvvv general register · 1 the constant one · CL, AL/eAX fixed
 *   P MMX (reg) · Q MMX or memory · V XMM (reg) · W XMM or memory · H VEX.vvvv XMM · F x87 memory or stack
 *   X, Y string operands · L vector register in the upper half of an immediate byte (insn_sel) · VM vector of addresses: SIB's index
 *   is a vector register (insn_sel), `index` none
 * b byte · w word · d dword · q qword · v by operand size · z by operand size, at most 4 bytes · y 4 or 8 by REX.W
 *   x 16 bytes (32 with VEX.L) · h, f, e a half, a fourth, an eighth of x · dq 16 bytes always · dd 8 bytes (32 with VEX.L) · t 10 bytes · p far pointer of operand size · a/s/n/... n: no size (lea, prefetch)
 */
enum operand {
    A_NONE,
    A_Eb, A_Ew, A_Ed, A_Eq, A_Ev, A_Ey, A_Ez,
    A_Gb, A_Gw, A_Gd, A_Gq, A_Gv, A_Gy, A_Gz,
    A_Ib, A_Iw, A_Iz, A_Iv, A_Ibs /* byte, sign-extended to operand size */, A_1,
    A_Jb, A_Jz, A_Ob, A_Ov, A_Ap,
    A_Zb, A_Zv, A_Zy, /* opcode register */
    A_AL, A_AX, A_rAX /* by operand size */, A_CL, A_DX,
    A_Mb, A_Mw, A_Md, A_Mq, A_Mt, A_Mx, A_Mv, A_My, A_Mp, A_Ms /* descriptor table */, A_Mn,
    A_Rv, A_Ry, A_Rd, A_Rq, A_Sw, A_Cy, A_Dy,
    A_By,
    A_Pq, A_Qq, A_Qd, A_Nq,
    A_Vx, A_Vq, A_Vd, A_Vss, A_Vsd, A_Wx, A_Wq, A_Wd, A_Ww, A_Wb, A_Ux /* XMM register only (rm) */, A_Hx,
    A_ST0, A_STi,
    A_Xb, A_Xv, A_Yb, A_Yv,
    A_ES, A_CS, A_SS, A_DS, A_FS, A_GS,
    A_Lx, A_Wdq, A_Wh, A_Wf, A_We, A_Wdd, A_Mdq, A_VMd, A_VMq,
    A_COUNT,
};

/* Operand size rule */
enum {
    SZ_V,       /* 2, 4, 8 by mode, 66 and REX.W */
    SZ_B,       /* 1 */
    SZ_W, SZ_D, SZ_Q,   /* 2, 4, 8 always */
    SZ_D64,     /* like SZ_V, but in 64-bit mode 8 (or 2 with 66): push, pop, ... */
    SZ_F64,     /* in 64-bit mode always 8 (near branches); elsewhere like SZ_V */
    SZ_Y,       /* 8 with REX.W/VEX.W, else 4 */
    SZ_Z,       /* like SZ_V, at most 4: ports */
    SZ_M,       /* 8 in 64-bit mode, else 4: control registers */
};

/* Attributes */
enum {
    AT_LOCK = 1 << 0,       /* LOCK is allowed with a memory destination */
    AT_NO64 = 1 << 1,       /* #UD in 64-bit mode */
    AT_ONLY64 = 1 << 2,     /* #UD outside */
    AT_CPL0 = 1 << 3,       /* #GP(0) unless CPL 0 */
    AT_END = 1 << 4,        /* ends a block: branches, mode changes, whatever may alter what follows */
    AT_REP = 1 << 5,        /* REP/REPE/REPNE repeat it */
    AT_SSE = 1 << 6,        /* #UD/#NM by CR0.EM, CR4.OSFXSR, CR0.TS as for SSE */
    AT_MMX = 1 << 7,        /* #UD/#NM/#MF as for MMX */
    AT_X87 = 1 << 8,        /* #NM by CR0.EM and TS; pending exceptions checked by the handler */
    AT_AVX = 1 << 9,        /* #UD unless XCR0 and CR4.OSXSAVE allow, #NM by CR0.TS */
    AT_ALIGN = 1 << 10,     /* 16-byte memory operand must be aligned (#GP) */
    AT_VEXL0 = 1 << 11,     /* VEX.L must be 0 */
    AT_PM = 1 << 12,        /* #UD in real and virtual-8086 mode */
    AT_IO = 1 << 13,        /* IOPL and the I/O bitmap decide */
    AT_VVVV = 1 << 14,      /* uses VEX.vvvv (else it must be 1111) */
    AT_NORAND = 1 << 15,    /* not for the random comparison with the host CPU (time, serial numbers, host state) */
    AT_VEXL1 = 1 << 16,     /* VEX.L must be 1 */
    AT_VEXW0 = 1 << 17, AT_VEXW1 = 1 << 18, /* VEX.W must be 0, 1 (in all modes) */
    AT_L1AVX2 = 1 << 19,    /* VEX.L = 1 came with AVX2 only */
    AT_FALLS = 1 << 20,     /* a conditional branch: a block goes on behind it */
    AT_FPSTATE = 1 << 21,   /* touches the x87 or MMX registers without AT_X87 or AT_MMX */
    AT_X87REGS = AT_X87 | AT_MMX | AT_FPSTATE,
};

/* CPUID features a row depends on: decode fails (#UD) when the vCPU's model lacks it */
enum feature {
    FT_BASE, FT_CMOV, FT_CX8, FT_CX16, FT_FXSR, FT_MMX, FT_SSE, FT_SSE2, FT_SSE3, FT_SSSE3, FT_SSE41, FT_SSE42,
    FT_POPCNT, FT_LZCNT, FT_BMI1, FT_BMI2, FT_ADX, FT_MOVBE, FT_AES, FT_PCLMUL, FT_XSAVE, FT_XSAVEOPT, FT_FSGSBASE,
    FT_RDRAND, FT_RDSEED, FT_RDTSCP, FT_RDPID, FT_INVPCID, FT_SMAP, FT_CLFLUSHOPT, FT_CLWB, FT_SYSCALL, FT_SEP, FT_LAHF64,
    FT_MONITOR, FT_SHA, FT_AVX, FT_AVX2, FT_FMA, FT_F16C, FT_GFNI,
    FT_COUNT,
};

/* Status flags, at their places in RFLAGS */
enum { CF = 1, PF = 4, AF = 16, ZF = 64, SF = 128, OF = 2048, F_ALL = CF | PF | AF | ZF | SF | OF };

/* clang-format on */

struct insn_row {
    const char *name; /* lower case, the SDM's mnemonic */
    uint8_t map, opcode, pfx, mod;
    int8_t ext, rm;  /* ModRM.reg and ModRM.rm demanded, or -1 */
    uint8_t args[4]; /* enum operand */
    uint8_t size;    /* SZ_* */
    uint8_t feature; /* enum feature */
    uint32_t attr;
    uint16_t reads, writes, undefined; /* status flags read, written, left undefined */
    const struct op *op;
};
extern const struct insn_row insn_rows[];
extern const unsigned insn_row_count;

/*
 * A row in the .def files; whoever includes them defines ROW:
 *
 *   ROW(map, opcode, pfx, mod, ext, rm, name, args, size, attr, feature,
 *       reads, writes, undefined, op)
 *   ROW(M1, 0x01, P_ANY, MOD_ANY, -1, -1, "add", (A_Ev, A_Gv), SZ_V, AT_LOCK, FT_BASE,
 *       0, F_ALL, 0, op_add_EG)
 *
 * `args` are up to four operands in parentheses, NOARGS for none. `writes` are all flags that
 * change, `undefined` those of them that have no defined value; a flag that may keep its old value
 * (count 0) is read, too. Operands are for the length, the access size and the tests; handlers know
 * their own. Opcodes whose low three bits name a register (Z) have eight rows: Z_ROWS. Two rows may
 * share map, opcode and ext only if pfx, mod, rm, VEX.W or VEX.L tell them apart: a row that
 * demands a prefix, a mod or an rm beats one that does not. A row whose feature is missing is not
 * there: then a weaker one gets the encoding (TZCNT becomes BSF).
 */
/* clang-format off */
#define NOARGS (A_NONE)
#define ARGS_LIST(...) { __VA_ARGS__ }
#define Z_ROWS(map, opcode, pfx, name, args, size, attr, feature, reads, writes, undefined, op)                     \
    ROW(map, opcode + 0, pfx, MOD_NONE, -1, -1, name, args, size, attr, feature, reads, writes, undefined, op)      \
    ROW(map, opcode + 1, pfx, MOD_NONE, -1, -1, name, args, size, attr, feature, reads, writes, undefined, op)      \
    ROW(map, opcode + 2, pfx, MOD_NONE, -1, -1, name, args, size, attr, feature, reads, writes, undefined, op)      \
    ROW(map, opcode + 3, pfx, MOD_NONE, -1, -1, name, args, size, attr, feature, reads, writes, undefined, op)      \
    ROW(map, opcode + 4, pfx, MOD_NONE, -1, -1, name, args, size, attr, feature, reads, writes, undefined, op)      \
    ROW(map, opcode + 5, pfx, MOD_NONE, -1, -1, name, args, size, attr, feature, reads, writes, undefined, op)      \
    ROW(map, opcode + 6, pfx, MOD_NONE, -1, -1, name, args, size, attr, feature, reads, writes, undefined, op)      \
    ROW(map, opcode + 7, pfx, MOD_NONE, -1, -1, name, args, size, attr, feature, reads, writes, undefined, op)

/* clang-format on */

enum { REG_NONE = 16, REG_RIP = 17 }; /* slots of v->gpr: always zero; rip of the block's start */
enum {
    IF_LOCK = 1,
    IF_REP = 2 /* F3 */,
    IF_REPNE = 4 /* F2 */,
    IF_MEM = 8,     /* ModRM (or moffs, or string) names memory */
    IF_SLOWEA = 16, /* not plain 64-bit addressing: use ea_slow (segment limits, 16/32-bit
                       addresses, a displacement that `disp` does not hold) */
};

enum { INSN_LONGEST = 15 }; /* bytes */

/*
 * A decoded instruction. `fn` may be exchanged for op_stale by another thread at any time. What
 * handlers of integer instructions need most are whole bytes.
 *
 * imm: Ib and Iw zero-extended, others sign-extended; branches: target - block start; far pointer
 * and ENTER: insn_offset and insn_sel; x87: insn_modrm.
 * reg_off, rm_off: where general registers reg and rm are in v->gpr; AH..BH where the operand is a
 * byte.
 * reg, rm: ModRM.reg and .rm with REX bits; both: the opcode register (Z); in XCHG with rAX reg is
 * rAX; A_AL and A_rAX without ModRM are rm 0; A_Sw and fixed segments: reg is S_x; A_Pq: reg 0-7.
 */
struct insn {
    insn_fn *fn;
    int64_t imm;
    int32_t disp;        /* displacement (moffs: the address), as far as it has room: insn_disp */
    uint16_t start : 12; /* offset of this instruction from the block's start */
    uint16_t len : 4;    /* bytes, 1..15 */
    uint16_t row : 14;   /* in insn_rows */
    uint16_t scale : 2;
    uint8_t base, index; /* slots of v->gpr */
    uint8_t reg_off, rm_off;
    uint8_t flags : 5; /* IF_* */
    uint8_t seg : 3;   /* segment of the memory operand (S_*), override applied */
    uint8_t size : 4;  /* operand size in bytes: 1, 2, 4, 8 */
    uint8_t asize : 4; /* address size in bytes: 2, 4, 8 */
    uint8_t reg : 4, rm : 4;
    uint8_t vvvv : 4, vex : 3; /* VEX.vvvv; vex: bit 0 present, bit 1 L, bit 2 W */
};
_Static_assert(sizeof(struct insn) == 32, "decoded code is mostly these");
enum { INSN_ROWS_MAX = 1 << 14, INSN_START_MAX = (1 << 12) - 1 };

/* The displacement; RIP-relative ones are relative to the block's start. Of 64-bit addresses two
 * may want more than 32 bits: a RIP-relative one just below 2 GiB, as the instruction's place in
 * the block is part of it, and that of a moffs, which is in imm then. */
static inline int64_t insn_disp(const struct insn *i)
{
    if (i->asize < 8 || !(i->flags & IF_SLOWEA))
        return i->disp;
    return i->base == REG_RIP ? (uint32_t)i->disp : i->imm;
}
/* Of a far pointer; ENTER's first immediate. */
static inline uint32_t insn_offset(const struct insn *i) { return (uint32_t)i->imm; }
/* Selector of a far pointer; ENTER's level; the vector register of L and VM operands. */
enum { SEL_SHIFT = 32 };
static inline unsigned insn_sel(const struct insn *i) { return (unsigned)(i->imm >> SEL_SHIFT); }
/* ModRM as encoded, of x87 alone: which remembers it, and has no immediates. */
static inline unsigned insn_modrm(const struct insn *i) { return (unsigned)i->imm; }

/*
 * Decodes one instruction out of `len` bytes (1..15) at `code`. `features` has bit (1 << FT_x) for
 * what the model offers. `offset`: of the instruction from its block's start. Returns its length, 0
 * when more bytes are needed to tell (the caller fetches more, at most 15), -1 for #UD (also too
 * long: *gp set, #GP(0)). fn is set from the row's op.
 */
int insn_decode(const uint8_t *code, unsigned len, int mode, uint64_t features, unsigned offset,
                struct insn *out, bool *gp);
/* Builds the look-up tables from the rows, once; asserts that no two rows claim the same encoding.
 */
void insn_table_init(void);

static inline unsigned insn_end(const struct insn *i) { return i->start + i->len; }

#endif
