/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The x87 unit.
 *
 * Every computing instruction runs on the host's unit with the guest's whole x87 state in it,
 * unmasked exceptions included: FXRSTOR, the instruction, FXSAVE, FNINIT. So stack faults, tags,
 * C0-C3, biased results and the rest are the hardware's own. An exception that the instruction
 * leaves pending would be delivered by the next waiting instruction; FXSAVE and FNINIT do not wait,
 * so none ever is.
 *
 * Invariants
 *  1. At entry of a waiting instruction no unmasked exception is pending (ES clear), else #MF.
 *  2. The guest's state is replaced only after the memory operand was read or written.
 *  3. ST(i) is shown to the host as ST(1), the two physical registers exchanged before and after,
 * so that one host instruction serves seven encodings. i = 0 has its own, as has FLD ST(7).
 *
 * The common cases take a shortcut first (fp_x87quick.c).
 *
 * The last instruction's opcode, pointer and data pointer are kept by hand (hosts differ in when
 * they record them).
 */
#include "engine/soft/fp_x87.h"

enum { FSW_IE = 1, FSW_DE = 2, FSW_ZE = 4, FSW_OE = 8, FSW_UE = 16, FSW_PE = 32 };

struct fx_image { /* FXSAVE, 64-bit form */
    uint16_t fcw, fsw;
    uint8_t ftw, zero;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16];
    uint8_t rest[512 - 160];
} __attribute__((aligned(16)));
_Static_assert(sizeof(struct fx_image) == 512, "FXSAVE image");

/* Runs one instruction on the image; `operand`: the memory operand's bytes. */
typedef void x87_fn(struct fx_image *image, void *operand);

#define X87_RUN(text)                                                                          \
    __asm__ volatile("fxrstor64 (%1)\n\t" text "\n\tfxsave64 (%1)\n\tfninit"                   \
                     : "+a"(cc)                                                                \
                     : "r"(image), "D"(operand)                                                \
                     : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", \
                       "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",    \
                       "xmm15")

/* ---- Host instructions by encoding: opcode byte (d8..df, without the d), ModRM.reg ---- */

#define MEM_FN(op, ext)                                                 \
    static void mem_##op##_##ext(struct fx_image *image, void *operand) \
    {                                                                   \
        uint32_t cc = 0;                                                \
        X87_RUN(".byte 0x" #op ", (" #ext " << 3) | 7"); /* (%rdi) */   \
    }
/*
 * With ST(0) and with ST(1). The status flags (as v->cc) are handed in and back in the operand:
 * FCOMI and its like set them, hosts differ in whether they do so when an unmasked exception is
 * raised.
 */
#define REG_FN(op, ext, n)                                                                  \
    static void reg_##op##_##ext##_##n(struct fx_image *image, void *operand)               \
    {                                                                                       \
        uint32_t cc = *(uint32_t *)operand;                                                 \
        X87_RUN("addb $0x7f, %%al\n\tsahf\n\t.byte 0x" #op ", 0xc0 | (" #ext " << 3) | " #n \
                "\n\tlahf\n\tseto %%al");                                                   \
        *(uint32_t *)operand = cc & 0xffff;                                                 \
    }
/* FCMOVcc: ZF, CF and PF are all set or all clear on entry, as the operand's first byte says. */
#define CMOV_FN(op, ext, n)                                                                  \
    static void reg_##op##_##ext##_##n(struct fx_image *image, void *operand)                \
    {                                                                                        \
        uint32_t cc = 0;                                                                     \
        X87_RUN("movb (%2), %%ah\n\tsahf\n\t.byte 0x" #op ", 0xc0 | (" #ext " << 3) | " #n); \
    }
#define REGS(op, ext) REG_FN(op, ext, 0) REG_FN(op, ext, 1)
#define CMOVS(op, ext) CMOV_FN(op, ext, 0) CMOV_FN(op, ext, 1)
#define ALL_EXT(m, op) m(op, 0) m(op, 1) m(op, 2) m(op, 3) m(op, 4) m(op, 5) m(op, 6) m(op, 7)

/* clang-format off */
ALL_EXT(MEM_FN, d8)
ALL_EXT(MEM_FN, da)
ALL_EXT(MEM_FN, dc)
ALL_EXT(MEM_FN, de)
ALL_EXT(MEM_FN, df)
MEM_FN(d9, 0) MEM_FN(d9, 2) MEM_FN(d9, 3)
MEM_FN(db, 0) MEM_FN(db, 1) MEM_FN(db, 2) MEM_FN(db, 3) MEM_FN(db, 5) MEM_FN(db, 7)
MEM_FN(dd, 0) MEM_FN(dd, 1) MEM_FN(dd, 2) MEM_FN(dd, 3)

ALL_EXT(REGS, d8)
ALL_EXT(REGS, dc)
REGS(d9, 0) REGS(d9, 1) REGS(d9, 3)
CMOVS(da, 0) CMOVS(da, 1) CMOVS(da, 2) CMOVS(da, 3)
CMOVS(db, 0) CMOVS(db, 1) CMOVS(db, 2) CMOVS(db, 3)
REGS(db, 5) REGS(db, 6)
REGS(dd, 0) REGS(dd, 1) REGS(dd, 2) REGS(dd, 3) REGS(dd, 4) REGS(dd, 5)
REGS(de, 0) REGS(de, 1) REGS(de, 2) REGS(de, 4) REGS(de, 5) REGS(de, 6) REGS(de, 7)
REGS(df, 0) REGS(df, 1) REGS(df, 2) REGS(df, 3) REGS(df, 5) REGS(df, 6);
/* clang-format on */
/* FUCOMPP and FCOMPP name ST(1) in their only encoding. FLD ST(7) pushes onto its own source. */
/* clang-format off */
REG_FN(da, 5, 1)
REG_FN(de, 3, 1)
REG_FN(d9, 0, 7)

#define M(op, ext) mem_##op##_##ext
#define M8(op) { M(op, 0), M(op, 1), M(op, 2), M(op, 3), M(op, 4), M(op, 5), M(op, 6), M(op, 7) }
static x87_fn *const mem_fns[8][8] = {
    M8(d8),
    { M(d9, 0), NULL, M(d9, 2), M(d9, 3) },
    M8(da),
    { M(db, 0), M(db, 1), M(db, 2), M(db, 3), NULL, M(db, 5), NULL, M(db, 7) },
    M8(dc),
    { M(dd, 0), M(dd, 1), M(dd, 2), M(dd, 3) },
    M8(de),
    M8(df),
};
#define R(op, ext) { reg_##op##_##ext##_0, reg_##op##_##ext##_1 }
#define R8(op) { R(op, 0), R(op, 1), R(op, 2), R(op, 3), R(op, 4), R(op, 5), R(op, 6), R(op, 7) }
static x87_fn *const reg_fns[8][8][2] = {
    R8(d8),
    { R(d9, 0), R(d9, 1), { NULL, NULL }, R(d9, 3) },
    { R(da, 0), R(da, 1), R(da, 2), R(da, 3), { NULL, NULL }, { NULL, reg_da_5_1 } },
    { R(db, 0), R(db, 1), R(db, 2), R(db, 3), { NULL, NULL }, R(db, 5), R(db, 6) },
    R8(dc),
    { R(dd, 0), R(dd, 1), R(dd, 2), R(dd, 3), R(dd, 4), R(dd, 5) },
    { R(de, 0), R(de, 1), R(de, 2), { NULL, reg_de_3_1 }, R(de, 4), R(de, 5), R(de, 6), R(de, 7) },
    { R(df, 0), R(df, 1), R(df, 2), R(df, 3), { NULL, NULL }, R(df, 5), R(df, 6) },
};
/* clang-format on */

/* D9 E0..FF: the low five bits of ModRM say what. */
#define D9_FN(n)                                              \
    static void d9_##n(struct fx_image *image, void *operand) \
    {                                                         \
        uint32_t cc = 0;                                      \
        X87_RUN(".byte 0xd9, 0x" #n);                         \
    }
/* clang-format off */
D9_FN(e0) D9_FN(e1) D9_FN(e4) D9_FN(e5) D9_FN(e8) D9_FN(e9) D9_FN(ea) D9_FN(eb) D9_FN(ec) D9_FN(ed) D9_FN(ee)
D9_FN(f0) D9_FN(f1) D9_FN(f2) D9_FN(f3) D9_FN(f4) D9_FN(f5) D9_FN(f6) D9_FN(f7) D9_FN(f8) D9_FN(f9) D9_FN(fa)
D9_FN(fb) D9_FN(fc) D9_FN(fd) D9_FN(fe) D9_FN(ff)

static x87_fn *const d9_fns[32] = {
    d9_e0, d9_e1, NULL,  NULL,  d9_e4, d9_e5, NULL,  NULL,  d9_e8, d9_e9, d9_ea, d9_eb, d9_ec, d9_ed, d9_ee, NULL,
    d9_f0, d9_f1, d9_f2, d9_f3, d9_f4, d9_f5, d9_f6, d9_f7, d9_f8, d9_f9, d9_fa, d9_fb, d9_fc, d9_fd, d9_fe, d9_ff,
};
/* clang-format on */

/* ---- Guest state to the host's unit and back ---- */

static unsigned top_of(unsigned fsw) { return fsw >> 11 & 7; }

static void image_load(const struct soft_fpu *f, struct fx_image *image)
{
    const unsigned top = top_of(f->fsw);
    image->fcw = f->fcw;
    image->fsw = f->fsw;
    image->ftw = f->ftw;
    image->zero = 0;
    image->fop = 0;
    image->fip = image->fdp = 0;
    image->mxcsr = MX_INIT;
    for (unsigned n = 0; n < 8; n++)
        memcpy(image->st[n], f->st[(top + n) & 7], 16);
}

static void image_store(struct soft_fpu *f, const struct fx_image *image)
{
    const unsigned top = top_of(image->fsw);
    f->fsw = image->fsw;
    f->ftw = image->ftw;
    for (unsigned n = 0; n < 8; n++)
        memcpy(f->st[(top + n) & 7], image->st[n], 10);
}

/* Exchanges two physical registers with their tags (invariant 3). */
static void registers_swap(struct soft_fpu *f, unsigned a, unsigned b)
{
    uint8_t t[16];
    memcpy(t, f->st[a], 16);
    memcpy(f->st[a], f->st[b], 16);
    memcpy(f->st[b], t, 16);
    const unsigned differ = (f->ftw >> a ^ f->ftw >> b) & 1;
    f->ftw ^= (uint8_t)(differ << a | differ << b);
}

/* Exceptions among `which` that are raised and unmasked */
static unsigned unmasked(const struct soft_fpu *f, unsigned fsw, unsigned which)
{
    return fsw & ~f->fcw & which;
}

static unsigned opcode_of(const struct insn *i) { return insn_rows[i->row].opcode & 7; }

static uint64_t far_pointer(const struct soft_vcpu *v, unsigned seg, uint64_t offset)
{
    return v->mode == MODE_64 ? offset : (uint32_t)offset | (uint64_t)v->seg[seg].selector << 32;
}

/* FOP, FIP and FDP after a computing instruction */
static void remember(struct soft_vcpu *v, const struct insn *i)
{
    if (i->flags & IF_MEM)
        v->fpu.fdp = far_pointer(v, i->seg, ea_offset(v, i));
    v->fpu.fop = (uint16_t)(opcode_of(i) << 8 | insn_modrm(i));
    v->fpu.fip = far_pointer(v, S_CS, insn_rip(v, i));
}

/* ---- Computing instructions ---- */

static void run_registers(struct soft_vcpu *v, x87_fn *run, void *operand)
{
    struct fx_image image;
    image_load(&v->fpu, &image);
    run(&image, operand);
    image_store(&v->fpu, &image);
}

/* No operand or ST(0) only */
static int x87_d9(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(x87);
    const unsigned n = (i->reg & 3u) << 3 | (i->rm & 7);
    if (!x87_quick_d9(v, n))
        run_registers(v, d9_fns[n], NULL);
    remember(v, i);
    return OP_NEXT;
}

/* ST(0) with ST(i) */
static int run_sti(struct soft_vcpu *v, const struct insn *i, uint32_t *operand)
{
    const unsigned top = top_of(v->fpu.fsw), n = i->rm & 7;
    const unsigned one = (top + 1) & 7, other = (top + n) & 7;
    x87_fn *run = reg_fns[opcode_of(i)][i->reg & 7][n != 0];
    const bool fld7 = run == reg_d9_0_1 && n == 7;
    const bool swap = n > 1 && !fld7;
    ENTER(x87);
    if (x87_quick_registers(v, opcode_of(i), i->reg & 7, n)) {
        remember(v, i);
        return OP_NEXT;
    }
    if (swap)
        registers_swap(&v->fpu, one, other);
    run_registers(v, fld7 ? reg_d9_0_7 : run, operand);
    if (swap)
        registers_swap(&v->fpu, one, other);
    remember(v, i);
    return OP_NEXT;
}
static int x87_sti(struct soft_vcpu *v, const struct insn *i)
{
    uint32_t unused = 0;
    return run_sti(v, i, &unused);
}
static int x87_comi(struct soft_vcpu *v, const struct insn *i) { return run_sti(v, i, &v->cc); }
static int x87_cmov(struct soft_vcpu *v, const struct insn *i)
{
    static const uint8_t flag[4] = { CF, ZF, CF | ZF, PF };
    uint32_t operand = rflags_get(v) & flag[i->reg & 3] ? CF | ZF | PF : 0;
    return run_sti(v, i, &operand);
}

/* Bytes of the memory operands */
/* clang-format off */
static const uint8_t mem_size[8][8] = {
    { 4, 4, 4, 4, 4, 4, 4, 4 }, { 4, 0, 4, 4 },
    { 4, 4, 4, 4, 4, 4, 4, 4 }, { 4, 4, 4, 4, 0, 10, 0, 10 },
    { 8, 8, 8, 8, 8, 8, 8, 8 }, { 8, 8, 8, 8 },
    { 2, 2, 2, 2, 2, 2, 2, 2 }, { 2, 2, 2, 2, 10, 8, 10, 8 },
};
/* clang-format on */

static int x87_load(struct soft_vcpu *v, const struct insn *i)
{
    uint8_t operand[16] = { 0 };
    uint64_t va;
    const unsigned op = opcode_of(i), ext = i->reg & 7;
    ENTER(x87);
    TRY(ea(v, i, mem_size[op][ext], false, &va));
    TRY(gva_load(v, va, operand, mem_size[op][ext]));
    if (!x87_quick_load(v, op, ext, operand))
        run_registers(v, mem_fns[op][ext], operand);
    remember(v, i);
    return OP_NEXT;
}

/* An unmasked invalid operation, overflow or underflow keeps a store from happening. */
static int x87_store(struct soft_vcpu *v, const struct insn *i)
{
    uint8_t operand[16] = { 0 };
    struct fx_image image;
    uint64_t va;
    uint16_t sw;
    const unsigned op = opcode_of(i), ext = i->reg & 7;
    ENTER(x87);
    TRY(ea(v, i, mem_size[op][ext], true, &va));
    if (x87_quick_store(&v->fpu, op, ext, operand, &sw)) {
        TRY(gva_store(v, va, operand, mem_size[op][ext]));
        x87_quick_stored(&v->fpu, ext, sw);
        remember(v, i);
        return OP_NEXT;
    }
    image_load(&v->fpu, &image);
    mem_fns[op][ext](&image, operand);
    if (!unmasked(&v->fpu, image.fsw, FSW_IE | FSW_DE | FSW_ZE | FSW_OE | FSW_UE))
        TRY(gva_store(v, va, operand, mem_size[op][ext]));
    else
        TRY(gva_probe_write(v, va, mem_size[op][ext]));
    image_store(&v->fpu, &image);
    remember(v, i);
    return OP_NEXT;
}

/* ---- Control ---- */

/* ES and B follow from flags and masks. */
static void summarise(struct soft_fpu *f)
{
    f->fsw &= (uint16_t) ~(FSW_ES | FSW_B);
    if (unmasked(f, f->fsw, 0x3f))
        f->fsw |= FSW_ES | FSW_B;
}

static int fldcw(struct soft_vcpu *v, const struct insn *i)
{
    x128 s;
    ENTER(x87);
    TRY(fetch(v, i, 2, false, &s));
    v->fpu.fcw = (uint16_t)((s.q[0] & 0x1f3f) | 0x40);
    summarise(&v->fpu);
    /* With an exception unmasked translated code cannot go on. */
    return (v->fpu.fcw & 0x3f) == 0x3f ? OP_NEXT : OP_END;
}
static int fnstcw(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(x87_nowait);
    return put(v, i, 2, false, &v->fpu.fcw);
}
static int fnstsw(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(x87_nowait);
    return put(v, i, 2, false, &v->fpu.fsw);
}
static int fnstsw_ax(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(x87_nowait);
    gpr_set(v, R_AX, 2, v->fpu.fsw);
    return OP_NEXT;
}
static int fnclex(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(x87_nowait);
    v->fpu.fsw &= 0x7f00;
    return OP_NEXT;
}
static void init(struct soft_fpu *f)
{
    f->fcw = FCW_INIT;
    f->fsw = 0;
    f->ftw = 0;
    f->fop = 0;
    f->fip = f->fdp = 0;
}
static int fninit(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(x87_nowait);
    init(&v->fpu);
    return OP_NEXT;
}
static int fnop(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(x87);
    remember(v, i);
    return OP_NEXT;
}
/* FENI, FDISI, FSETPM of older units */
static int fnop_nowait(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(x87_nowait);
    return OP_NEXT;
}
static int fwait(struct soft_vcpu *v, const struct insn *i)
{
    if ((v->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
        return raise(v, EXC_NM);
    return v->fpu.fsw & FSW_ES ? raise(v, EXC_MF) : OP_NEXT;
}

/* FINCSTP, FDECSTP, FFREE run as above; they change no data registers. */

/* ---- Environment and state: 14 or 28 bytes by operand size, formats by mode (SDM volume 1,
 * figures 8-9 to 8-12) ---- */

/* The full tag word: 0 valid, 1 zero, 2 special, 3 empty */
static uint16_t full_tags(const struct soft_fpu *f)
{
    unsigned tags = 0;
    for (unsigned n = 0; n < 8; n++) {
        uint64_t mantissa;
        uint16_t exponent;
        memcpy(&mantissa, f->st[n], 8);
        memcpy(&exponent, f->st[n] + 8, 2);
        exponent &= 0x7fff;
        unsigned tag = 3;
        if (f->ftw >> n & 1)
            tag = !exponent && !mantissa                             ? 1
                  : exponent && exponent != 0x7fff && mantissa >> 63 ? 0
                                                                     : 2;
        tags |= tag << 2 * n;
    }
    return (uint16_t)tags;
}

static bool real_format(const struct soft_vcpu *v) { return real_mode(v) || v8086_mode(v); }
static unsigned env_size(const struct insn *i) { return i->size == 2 ? 14 : 28; }

static void env_out(const struct soft_vcpu *v, const struct insn *i, uint8_t *out)
{
    const struct soft_fpu *f = &v->fpu;
    const uint32_t fcs = f->fip >> 32 & 0xffff, fds = f->fdp >> 32 & 0xffff;
    uint32_t ip = (uint32_t)f->fip, dp = (uint32_t)f->fdp, cs = fcs, ds = fds;

    if (real_format(v)) { /* linear addresses; the opcode beside the upper bits */
        ip += fcs << 4;
        dp += fds << 4;
        if (i->size == 2) {
            cs = (ip >> 16 & 15) << 12 | f->fop;
            ds = (dp >> 16 & 15) << 12;
        } else {
            cs = (ip >> 16) << 12 | f->fop;
            ds = (dp >> 16) << 12;
            ip &= 0xffff;
            dp &= 0xffff;
        }
    } else if (i->size != 2) {
        cs |= (uint32_t)f->fop << 16;
    }
    if (i->size == 2) {
        const uint16_t env[7] = { f->fcw,       f->fsw,       full_tags(f), (uint16_t)ip,
                                  (uint16_t)cs, (uint16_t)dp, (uint16_t)ds };
        memcpy(out, env, sizeof env);
    } else {
        const uint32_t ones = 0xffff0000; /* what hardware stores in the unused halves */
        const uint32_t env[7] = { f->fcw | ones,
                                  f->fsw | ones,
                                  full_tags(f) | ones,
                                  ip,
                                  cs,
                                  dp,
                                  ds | (real_format(v) ? 0 : ones) };
        memcpy(out, env, sizeof env);
    }
}

static void env_in(struct soft_vcpu *v, const struct insn *i, const uint8_t *in)
{
    struct soft_fpu *f = &v->fpu;
    uint32_t env[7];
    if (i->size == 2) {
        uint16_t env16[7];
        memcpy(env16, in, sizeof env16);
        for (unsigned n = 0; n < 7; n++)
            env[n] = env16[n];
    } else {
        memcpy(env, in, sizeof env);
    }
    f->fcw = (uint16_t)((env[0] & 0x1f3f) | 0x40);
    f->fsw = (uint16_t)env[1];
    f->ftw = 0;
    for (unsigned n = 0; n < 8; n++)
        if ((env[2] >> 2 * n & 3) != 3)
            f->ftw |= (uint8_t)(1u << n);
    if (!real_format(v)) {
        f->fip = env[3] | (uint64_t)(env[4] & 0xffff) << 32;
        f->fdp = env[5] | (uint64_t)(env[6] & 0xffff) << 32;
        if (i->size != 2)
            f->fop = env[4] >> 16 & 0x7ff;
    } else {
        f->fip = (env[3] & 0xffff) | (env[4] >> 12 & 0xffff) << 16;
        f->fdp = (env[5] & 0xffff) | (env[6] >> 12 & 0xffff) << 16;
        f->fop = env[4] & 0x7ff;
    }
    summarise(f);
}

static int fnstenv(struct soft_vcpu *v, const struct insn *i)
{
    uint8_t out[28];
    uint64_t va;
    ENTER(x87_nowait);
    TRY(ea(v, i, env_size(i), true, &va));
    env_out(v, i, out);
    TRY(gva_store(v, va, out, env_size(i)));
    v->fpu.fcw |= 0x3f; /* masks all */
    summarise(&v->fpu);
    return OP_NEXT;
}
static int fldenv(struct soft_vcpu *v, const struct insn *i)
{
    uint8_t in[28];
    uint64_t va;
    ENTER(x87);
    TRY(ea(v, i, env_size(i), false, &va));
    TRY(gva_load(v, va, in, env_size(i)));
    env_in(v, i, in);
    return OP_NEXT;
}
static int fnsave(struct soft_vcpu *v, const struct insn *i)
{
    uint8_t out[28 + 80];
    uint64_t va;
    const unsigned size = env_size(i), top = top_of(v->fpu.fsw);
    ENTER(x87_nowait);
    TRY(ea(v, i, size + 80, true, &va));
    env_out(v, i, out);
    for (unsigned n = 0; n < 8; n++)
        memcpy(out + size + 10 * n, v->fpu.st[(top + n) & 7], 10);
    TRY(gva_store(v, va, out, size + 80));
    init(&v->fpu);
    return OP_NEXT;
}
static int frstor(struct soft_vcpu *v, const struct insn *i)
{
    uint8_t in[28 + 80];
    uint64_t va;
    const unsigned size = env_size(i);
    ENTER(x87);
    TRY(ea(v, i, size + 80, false, &va));
    TRY(gva_load(v, va, in, size + 80));
    env_in(v, i, in);
    for (unsigned n = 0; n < 8; n++)
        memcpy(v->fpu.st[(top_of(v->fpu.fsw) + n) & 7], in + size + 10 * n, 10);
    return OP_NEXT;
}

const struct op op_x87_d9 = OP_ALL(x87_d9);
const struct op op_x87_sti = OP_ALL(x87_sti);
const struct op op_x87_comi = OP_ALL(x87_comi);
const struct op op_x87_cmov = OP_ALL(x87_cmov);
const struct op op_x87_load = OP_ALL(x87_load);
const struct op op_x87_store = OP_ALL(x87_store);
const struct op op_fldcw = OP_ALL(fldcw);
const struct op op_fnstcw = OP_ALL(fnstcw);
const struct op op_fnstsw = OP_ALL(fnstsw);
const struct op op_fnstsw_ax = OP_ALL(fnstsw_ax);
const struct op op_fnclex = OP_ALL(fnclex);
const struct op op_fninit = OP_ALL(fninit);
const struct op op_fnop = OP_ALL(fnop);
const struct op op_fnop_nowait = OP_ALL(fnop_nowait);
const struct op op_fwait = OP_ALL(fwait);
const struct op op_fnstenv = OP_ALL(fnstenv);
const struct op op_fldenv = OP_ALL(fldenv);
const struct op op_fnsave = OP_ALL(fnsave);
const struct op op_frstor = OP_ALL(frstor);
