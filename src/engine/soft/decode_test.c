/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The decoder against Zydis: every map, opcode and ModRM byte with many prefixes in every mode,
 * then random bytes.
 *
 * What both decode must agree in length, mnemonic, operands (registers, sizes, addresses,
 * immediates) and status flags. What only Zydis decodes must belong to an extension that we do not
 * have; what only we decode must be listed in `only_ours`.
 */
#include "engine/soft/insn.h"
#include "engine/x86.h"

#include <Zydis/Zydis.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { REPORTS = 200, BYTES = 24 };

static ZydisDecoder decoders[3];
static unsigned long row_hits[2048], cases, both;
static unsigned reports;
static uint64_t seed = 0x9e3779b97f4a7c15;

static uint64_t random64(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

/* ---- Known differences ---- */

/* Extensions that no row has. */
static const uint8_t not_offered[] = {
    ZYDIS_ISA_EXT_AMD3DNOW,  ZYDIS_ISA_EXT_AMD_INVLPGB,
    ZYDIS_ISA_EXT_AMX_BF16,  ZYDIS_ISA_EXT_AMX_INT8,
    ZYDIS_ISA_EXT_AMX_TILE,  ZYDIS_ISA_EXT_AVX512EVEX,
    ZYDIS_ISA_EXT_AVX512VEX, ZYDIS_ISA_EXT_AVX_VNNI,
    ZYDIS_ISA_EXT_CET,       ZYDIS_ISA_EXT_CLZERO,
    ZYDIS_ISA_EXT_ENQCMD,    ZYDIS_ISA_EXT_FMA4,
    ZYDIS_ISA_EXT_GFNI,      ZYDIS_ISA_EXT_HRESET,
    ZYDIS_ISA_EXT_KEYLOCKER, ZYDIS_ISA_EXT_KEYLOCKER_WIDE,
    ZYDIS_ISA_EXT_MCOMMIT,   ZYDIS_ISA_EXT_MONITORX,
    ZYDIS_ISA_EXT_MOVDIR,    ZYDIS_ISA_EXT_PADLOCK,
    ZYDIS_ISA_EXT_PCONFIG,   ZYDIS_ISA_EXT_PKU,
    ZYDIS_ISA_EXT_PT,        ZYDIS_ISA_EXT_RDPRU,
    ZYDIS_ISA_EXT_RTM,       ZYDIS_ISA_EXT_SERIALIZE,
    ZYDIS_ISA_EXT_SGX,       ZYDIS_ISA_EXT_SGX_ENCLV,
    ZYDIS_ISA_EXT_SHA,       ZYDIS_ISA_EXT_SMX,
    ZYDIS_ISA_EXT_SNP,       ZYDIS_ISA_EXT_SSE4A,
    ZYDIS_ISA_EXT_SVM,       ZYDIS_ISA_EXT_TBM,
    ZYDIS_ISA_EXT_TDX,       ZYDIS_ISA_EXT_TSX_LDTRK,
    ZYDIS_ISA_EXT_UINTR,     ZYDIS_ISA_EXT_VAES,
    ZYDIS_ISA_EXT_VMFUNC,    ZYDIS_ISA_EXT_VPCLMULQDQ,
    ZYDIS_ISA_EXT_VTX,       ZYDIS_ISA_EXT_WAITPKG,
    ZYDIS_ISA_EXT_XOP,       ZYDIS_ISA_EXT_XSAVEC,
    ZYDIS_ISA_EXT_XSAVES,    ZYDIS_ISA_EXT_KNC,
    ZYDIS_ISA_EXT_KNCE,      ZYDIS_ISA_EXT_KNCV,
};

/* Mnemonics of ours that Zydis splits by operand size, or calls otherwise. */
static const char *const names[][5] = {
    { "cbw", "cbw", "cwde", "cdqe" },
    { "cwd", "cwd", "cdq", "cqo" },
    { "pusha", "pusha", "pushad" },
    { "popa", "popa", "popad" },
    { "pushf", "pushf", "pushfd", "pushfq" },
    { "popf", "popf", "popfd", "popfq" },
    { "iret", "iret", "iretd", "iretq" },
    { "jrcxz", "jcxz", "jecxz", "jrcxz" },
    { "cmpxchg8b", "cmpxchg8b", "cmpxchg16b" },
    { "movd", "movd", "movq" },
    { "pextrd", "pextrd", "pextrq" },
    { "pinsrd", "pinsrd", "pinsrq" },
    { "vmovd", "vmovd", "vmovq" },
    { "vpextrd", "vpextrd", "vpextrq" },
    { "vpinsrd", "vpinsrd", "vpinsrq" },
    { "fxsave", "fxsave", "fxsave64" },
    { "fxrstor", "fxrstor", "fxrstor64" },
    { "xsave", "xsave", "xsave64" },
    { "xsaveopt", "xsaveopt", "xsaveopt64" },
    { "xrstor", "xrstor", "xrstor64" },
    { "fstp", "fstp", "fstpnce" },
    { "feni", "feni8087_nop" },
    { "fdisi", "fdisi8087_nop" },
    { "fsetpm", "fsetpm287_nop" },
    { "prefetchw", "prefetch", "prefetchw", "prefetchwt1", "nop" },
};

static bool is_nop(const ZydisDecodedInstruction *z)
{
    return z->meta.category == ZYDIS_CATEGORY_NOP || z->meta.category == ZYDIS_CATEGORY_WIDENOP ||
           z->meta.category == ZYDIS_CATEGORY_PREFETCH || z->mnemonic == ZYDIS_MNEMONIC_NOP;
}

/* Zydis decodes this, we do not. */
static bool only_theirs(const ZydisDecodedInstruction *z)
{
    for (unsigned n = 0; n < sizeof not_offered; n++) {
        if (z->meta.isa_ext == not_offered[n])
            return true;
    }
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_RSM: /* #UD outside SMM, and there is none yet */
    case ZYDIS_MNEMONIC_GETSEC: return true;
    case ZYDIS_MNEMONIC_SYSCALL: /* outside 64-bit mode: AMD's */
    case ZYDIS_MNEMONIC_SYSRET: return z->machine_mode != ZYDIS_MACHINE_MODE_LONG_64;
    default: return false;
    }
}

/* ---- Comparison ---- */

static void report(const char *what, int mode, const uint8_t *code, const struct insn_row *row,
                   const ZydisDecodedInstruction *z)
{
    /* One line for each pair of row and mnemonic, however many encodings it has. */
    static uint64_t seen[REPORTS];
    uint64_t key = (uint64_t)(uintptr_t)what << 32 | (row ? row - insn_rows : 0xffff) << 16 |
                   (z ? z->mnemonic : 0);
    reports++;
    for (unsigned n = 0; n < REPORTS; n++) {
        if (seen[n] == key)
            return;
        if (!seen[n]) {
            seen[n] = key;
            break;
        }
        if (n == REPORTS - 1)
            return;
    }
    fprintf(stderr, "mode %d: %s: ", 16 << mode, what);
    for (unsigned n = 0; n < 15; n++)
        fprintf(stderr, "%02x ", code[n]);
    fprintf(stderr, "ours %s, theirs %s (%s)\n", row ? row->name : "-",
            z ? ZydisMnemonicGetString(z->mnemonic) : "-",
            z ? ZydisISAExtGetString(z->meta.isa_ext) : "-");
}

static bool same_name(const struct insn_row *row, const ZydisDecodedInstruction *z)
{
    const char *theirs = ZydisMnemonicGetString(z->mnemonic);
    size_t len = strcspn(row->name, " "); /* "call far" */
    if ((row->name[len] != 0) != (z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) &&
        z->meta.category != ZYDIS_CATEGORY_INTERRUPT && strcmp(row->name, "iret") != 0 &&
        z->meta.category != ZYDIS_CATEGORY_SYSCALL && z->meta.category != ZYDIS_CATEGORY_SYSRET)
        return false;
    if (strlen(theirs) == len && !strncmp(theirs, row->name, len))
        return true;
    if (!strcmp(row->name, "nop"))
        return is_nop(z);
    if (row->attr & AT_REP)
        return !strncmp(theirs, row->name, len) && strlen(theirs) == len + 1;
    for (unsigned n = 0; n < sizeof names / sizeof *names; n++) {
        if (strcmp(names[n][0], row->name) != 0)
            continue;
        for (unsigned k = 1; k < 5 && names[n][k]; k++) {
            if (!strcmp(names[n][k], theirs))
                return true;
        }
    }
    return false;
}

/* Width in bits of an operand, 0: not checked. */
static unsigned arg_bits(unsigned arg, const struct insn *i)
{
    unsigned z = i->size == 8 ? 4 : i->size, y = i->size == 8 ? 8 : 4;
    unsigned x = i->vex & 2 ? 256 : 128;
    switch (arg) {
    case A_Eb:
    case A_Gb:
    case A_Zb:
    case A_AL:
    case A_CL:
    case A_Mb:
    case A_Wb: return 8;
    case A_Ew:
    case A_Gw:
    case A_AX:
    case A_DX:
    case A_Mw:
    case A_Ww: return 16;
    case A_Ed:
    case A_Gd:
    case A_Md:
    case A_Rd:
    case A_Qd:
    case A_Wd: return 32;
    case A_Eq:
    case A_Gq:
    case A_Mq:
    case A_Rq:
    case A_Pq:
    case A_Qq:
    case A_Nq:
    case A_Wq: return 64;
    case A_Ev:
    case A_Gv:
    case A_Zv:
    case A_rAX:
    case A_Mv:
    case A_Rv: return i->size * 8;
    case A_Ez:
    case A_Gz: return z * 8;
    case A_Ey:
    case A_Gy:
    case A_Zy:
    case A_My:
    case A_Ry:
    case A_By:
    case A_Cy:
    case A_Dy: return y * 8;
    case A_Mt: return 80;
    case A_Mx:
    case A_Wx: return x;
    case A_Wdq:
    case A_Mdq: return 128;
    case A_Wh: return x / 2;
    case A_Wf: return x / 4;
    case A_We: return x / 8;
    case A_Wdd: return x == 256 ? 256 : 64;
    case A_Mp: return (i->size + 2) * 8;
    default: return 0;
    }
}

/* Where a general register operand lives: offset into gpr, or -1. */
static int gpr_offset(ZydisRegister r)
{
    if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
        return (r - ZYDIS_REGISTER_AH) * 8 + 1;
    ZydisRegisterClass class = ZydisRegisterGetClass(r);
    if (class < ZYDIS_REGCLASS_GPR8 || class > ZYDIS_REGCLASS_GPR64)
        return -1;
    return ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r)) * 8;
}

static unsigned gpr_slot(ZydisRegister r)
{
    switch (r) {
    case ZYDIS_REGISTER_NONE: return REG_NONE;
    case ZYDIS_REGISTER_RIP:
    case ZYDIS_REGISTER_EIP: return REG_RIP;
    default: return gpr_offset(r) / 8;
    }
}

static unsigned segment_of(ZydisRegister r)
{
    static const uint8_t by_id[] = { S_ES, S_CS, S_SS, S_DS, S_FS, S_GS };
    return by_id[r - ZYDIS_REGISTER_ES];
}

static const char *memory_differs(const struct insn *i, const ZydisDecodedOperand *o, unsigned bits,
                                  bool x87)
{
    if (!(i->flags & IF_MEM))
        return "not memory";
    /* SS and DS are the same in 64-bit mode but for the vector of a non-canonical address. */
    if (o->mem.type != ZYDIS_MEMOP_TYPE_AGEN && segment_of(o->mem.segment) != i->seg)
        return "segment";
    /* Zydis 4.0 takes R13D for the base where REX.B and 67 come with a SIB byte that has none. */
    if (i->base == REG_NONE && o->mem.base == ZYDIS_REGISTER_R13D)
        return NULL;
    if (o->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
        if (ZydisRegisterGetId(o->mem.index) != (int)insn_sel(i) || i->index != REG_NONE)
            return "vector of addresses";
    } else if (gpr_slot(o->mem.index) != i->index) {
        return "index register";
    }
    if (gpr_slot(o->mem.base) != i->base)
        return "base register";
    if (o->mem.index && o->mem.scale != 1 << i->scale)
        return "scale";
    int64_t disp = o->mem.disp.value, mask = i->asize == 8 ? -1 : (1ll << i->asize * 8) - 1;
    if (i->base == REG_RIP)
        disp += insn_end(i);
    if ((disp ^ insn_disp(i)) & mask)
        return "displacement";
    /* Zydis reads 4 bytes for MOVSXD r16, the CPU 2. */
    if (bits && o->size != bits && !(i->size == 2 && !strcmp(insn_rows[i->row].name, "movsxd")) &&
        o->mem.type != ZYDIS_MEMOP_TYPE_AGEN && !x87)
        return "memory size";
    return NULL;
}

static const char *register_differs(const struct insn *i, unsigned arg,
                                    const ZydisDecodedOperand *o, unsigned bits)
{
    unsigned id = ZydisRegisterGetId(o->reg.value);
    switch (arg) {
    case A_Eb:
    case A_Ew:
    case A_Ed:
    case A_Eq:
    case A_Ev:
    case A_Ey:
    case A_Ez:
    case A_Zb:
    case A_Zv:
    case A_Zy:
    case A_Rv:
    case A_Ry:
    case A_Rd:
    case A_Rq:
        if (gpr_offset(o->reg.value) != i->rm_off)
            return "rm register";
        break;
    case A_Gb:
    case A_Gw:
    case A_Gd:
    case A_Gq:
    case A_Gv:
    case A_Gy:
    case A_Gz:
        if (gpr_offset(o->reg.value) != i->reg_off)
            return "reg register";
        break;
    case A_By: return gpr_offset(o->reg.value) != i->vvvv * 8 ? "vvvv register" : NULL;
    case A_AL:
    case A_AX:
    case A_rAX: return gpr_offset(o->reg.value) != 0 ? "accumulator" : NULL;
    case A_Sw: return segment_of(o->reg.value) != i->reg ? "segment register" : NULL;
    case A_Cy:
    case A_Dy: return id != i->reg ? "control register" : NULL;
    case A_Pq:
    case A_Vx:
    case A_Vq:
    case A_Vd:
    case A_Vss:
    case A_Vsd: return id != i->reg ? "vector reg" : NULL;
    case A_Qq:
    case A_Qd:
    case A_Nq:
    case A_Wx:
    case A_Wq:
    case A_Wd:
    case A_Ww:
    case A_Wb:
    case A_Ux: return id != i->rm ? "vector rm" : NULL;
    case A_Wdq:
    case A_Wh:
    case A_Wf:
    case A_We:
    case A_Wdd: return id != i->rm ? "vector rm" : NULL;
    case A_Lx: return id != insn_sel(i) ? "vector by immediate" : NULL;
    case A_Hx: return id != i->vvvv ? "vector vvvv" : NULL;
    default: return NULL;
    }
    /* Which part of its register LAR, LSL and CRC32 use does not matter to their results. */
    const char *name = insn_rows[i->row].name;
    if (!strcmp(name, "lar") || !strcmp(name, "lsl") || !strcmp(name, "crc32"))
        return NULL;
    return bits && o->size != bits ? "register size" : NULL;
}

static const char *immediate_differs(const struct insn_row *row, const struct insn *i, unsigned arg,
                                     const ZydisDecodedOperand *o)
{
    uint64_t mask = i->size == 8 ? ~0ull : (1ull << i->size * 8) - 1, value = o->imm.value.u;
    switch (arg) {
    case A_Jb:
    case A_Jz: return value != (uint64_t)i->imm - insn_end(i) ? "branch target" : NULL;
    case A_Ib:
        return (value ^ (row->args[0] == A_Iw ? insn_sel(i) : i->imm)) & 0xff ? "immediate byte"
                                                                              : NULL;
    case A_Iw: return value != (uint16_t)i->imm ? "immediate word" : NULL;
    case A_Iz:
    case A_Iv:
    case A_Ibs: return (value ^ i->imm) & mask ? "immediate" : NULL;
    default: return NULL;
    }
}

static const char *operand_differs(const struct insn_row *row, const struct insn *i, unsigned n,
                                   const ZydisDecodedOperand *o)
{
    unsigned arg = row->args[n], bits = arg_bits(arg, i);
    switch (o->type) {
    case ZYDIS_OPERAND_TYPE_MEMORY:
        if (row->mod == MOD_NONE && arg != A_Ob && arg != A_Ov && o->mem.base &&
            !(row->attr & AT_REP))
            return NULL; /* XLAT's address and stack slots */
        if (arg == A_Xb || arg == A_Xv || arg == A_Yb ||
            arg == A_Yv) /* two addresses, or AL is added */
            return i->size * 8 != o->size ? "string size" : NULL;
        return memory_differs(i, o, bits, false);
    case ZYDIS_OPERAND_TYPE_REGISTER: return register_differs(i, arg, o, bits);
    case ZYDIS_OPERAND_TYPE_IMMEDIATE: return immediate_differs(row, i, arg, o);
    case ZYDIS_OPERAND_TYPE_POINTER:
        return o->ptr.offset != insn_offset(i) || o->ptr.segment != insn_sel(i) ? "far pointer"
                                                                                : NULL;
    default: return NULL;
    }
}

static const char *operands_differ(const struct insn_row *row, const struct insn *i,
                                   const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o)
{
    if (is_nop(z) || !strncmp(row->name, "ud", 2))
        return NULL;
    if (row->attr & AT_X87) { /* ST(0) comes and goes; only the memory operand has to agree */
        for (unsigned n = 0; n < z->operand_count_visible; n++) {
            const char *r = o[n].type == ZYDIS_OPERAND_TYPE_MEMORY
                                ? memory_differs(i, &o[n], arg_bits(row->args[0], i), false)
                                : NULL;
            if (r)
                return r;
        }
        return NULL;
    }
    /* Implicit ones come after the visible, in the order of the encoding. */
    for (unsigned n = 0; n < 4 && row->args[n] && n < z->operand_count; n++) {
        const char *r = operand_differs(row, i, n, &o[n]);
        if (r)
            return r;
    }
    return NULL;
}

static const char *flags_differ(const struct insn_row *row, const struct insn *i,
                                const ZydisDecodedInstruction *z)
{
    if (!strcmp(row->name, "vmcall") || !strcmp(row->name, "vmmcall"))
        return NULL; /* hypercalls here, not VMX */
    if (!z->cpu_flags || is_nop(z))
        return row->writes && !is_nop(z) ? "flags" : NULL;
    const ZydisAccessedFlags *f = z->cpu_flags;
    unsigned written = (f->modified | f->set_0 | f->set_1 | f->undefined) & F_ALL;
    /* Zydis 4.0 leaves out what VPTEST and its like clear. */
    const bool test = !strncmp(row->name, "vptest", 6) || !strncmp(row->name, "vtestp", 6);
    if (written != row->writes && !(test && written == (CF | ZF)))
        return "flags written";
    /* Zydis has OF undefined for shifts by one, AF for SBB, CF and OF for BEXTR, the SDM has not.
     */
    bool wrong = row->args[1] == A_1 || !strcmp(row->name, "sbb") || !strcmp(row->name, "bextr");
    if ((!wrong && f->undefined & F_ALL & ~row->undefined) || (row->undefined & ~written))
        return "flags undefined";
    if (f->tested & F_ALL & ~row->reads)
        return "flags read";
    return NULL;
}

static void compare(const uint8_t *code, int mode)
{
    struct insn i;
    bool gp;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
    int len = insn_decode(code, 15, mode, ~0ull, 0x40, &i, &gp);
    bool theirs = ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoders[mode], code, 15, &z, o));
    cases++;
    if (len <= 0) {
        if (theirs && !only_theirs(&z))
            report("not decoded", mode, code, NULL, &z);
        return;
    }
    const struct insn_row *row = &insn_rows[i.row];
    row_hits[i.row]++;
    if (!theirs) {
        report("only we decode", mode, code, row, NULL);
        return;
    }
    both++;
    if (z.mnemonic == ZYDIS_MNEMONIC_PAUSE && row->name[0] == 'x')
        return; /* F3 with REX.B: the CPU exchanges */
    const char *wrong = len != z.length ? "length" : !same_name(row, &z) ? "name" : NULL;
    if (!wrong)
        wrong = operands_differ(row, &i, &z, o);
    if (!wrong)
        wrong = flags_differ(row, &i, &z);
    if (wrong)
        report(wrong, mode, code, row, &z);
}

/* ---- The walk ---- */

static void random_tail(uint8_t *p, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        p[k] = random64() >> 24;
}

static void walk_legacy(int mode, const char *prefixes, unsigned count)
{
    static const char escapes[][3] = { "", "\x0f", "\x0f\x38", "\x0f\x3a" };
    uint8_t code[BYTES];
    for (unsigned map = 0; map < 4; map++) {
        for (unsigned n = 0; n < 0x10000; n++) {
            unsigned at = count, escape = strlen(escapes[map]);
            memcpy(code, prefixes, count);
            memcpy(code + at, escapes[map], escape);
            at += escape;
            code[at++] = n >> 8;
            code[at++] = n;
            random_tail(code + at, BYTES - at);
            compare(code, mode);
        }
    }
}

static void walk_vex(int mode, unsigned pp)
{
    uint8_t code[BYTES];
    for (unsigned map = 0; map < 5; map++) {
        for (unsigned n = 0; n < 0x10000; n++) {
            uint64_t r = random64();
            unsigned at = 0;
            if (map == 4) {
                code[at++] = 0xc5;
                code[at++] = (r & 0x80) | (r & 0x100 ? 0x78 : r & 0x78) | (r & 4) | pp;
            } else {
                code[at++] = 0xc4;
                code[at++] = (r & 0xe0) | map;
                code[at++] = (r >> 8 & 0x80) | (r & 0x100000 ? 0x78 : r >> 8 & 0x78) |
                             (r >> 32 & r >> 33 & 4) | pp;
            }
            code[at++] = n >> 8;
            code[at++] = n;
            random_tail(code + at, BYTES - at);
            compare(code, mode);
        }
    }
}

static void test_walk(void **state)
{
    static const char *const legacy[] = {
        "",         "\x66",         "\xf3", "\xf2",     "\xf0", "\x67",     "\x66\xf3",
        "\xf2\x66", "\x2e\x67\x66", "\x64", "\xf0\x66", "\x36", "\xf3\xf2", "\xf2\xf3"
    };
    static const char *const rex[] = { "\x40",     "\x48",     "\x45",     "\x4f",
                                       "\x66\x49", "\xf3\x48", "\xf2\x4c", "\xf0\x48",
                                       "\x67\x42", "\x48\x66", "\xf3\x41", "\x66\xf2\x48" };
    for (int mode = MODE_16; mode <= MODE_64; mode++) {
        for (unsigned n = 0; n < sizeof legacy / sizeof *legacy; n++)
            walk_legacy(mode, legacy[n], strlen(legacy[n]));
        for (unsigned n = 0; mode == MODE_64 && n < sizeof rex / sizeof *rex; n++)
            walk_legacy(mode, rex[n], strlen(rex[n]));
        for (unsigned pp = 0; pp < 4; pp++)
            walk_vex(mode, pp);
    }
    print_message("%lu cases, %lu decoded by both, %u differences\n", cases, both, reports);
    assert_int_equal(reports, 0);
}

static void test_random(void **state)
{
    uint8_t code[BYTES];
    reports = 0;
    for (unsigned n = 0; n < 1000000; n++) {
        random_tail(code, BYTES);
        compare(code, n % 3);
    }
    assert_int_equal(reports, 0);
}

static void test_every_row_is_reached(void **state)
{
    unsigned missed = 0;
    assert_true(insn_row_count <= sizeof row_hits / sizeof *row_hits);
    for (unsigned n = 0; n < insn_row_count; n++) {
        if (row_hits[n])
            continue;
        const struct insn_row *row = &insn_rows[n];
        print_message("row %u never decoded: %s, map %u opcode %02x ext %d\n", n, row->name,
                      row->map, row->opcode, row->ext);
        missed++;
    }
    print_message("%u rows\n", insn_row_count);
    assert_int_equal(missed, 0);
}

static void decode_expect(const char *bytes, unsigned len, int mode, uint64_t features, int expect,
                          bool expect_gp)
{
    struct insn i;
    bool gp;
    assert_int_equal(insn_decode((const uint8_t *)bytes, len, mode, features, 0, &i, &gp), expect);
    assert_int_equal(gp, expect_gp);
}

static void test_lengths(void **state)
{
    decode_expect("", 0, MODE_64, ~0ull, 0, false);
    decode_expect("\x48", 1, MODE_64, ~0ull, 0, false);
    decode_expect("\x48\x01", 2, MODE_64, ~0ull, 0, false);
    decode_expect("\x48\x01\x80\x00\x00\x00", 6, MODE_64, ~0ull, 0, false);
    decode_expect("\x48\x01\x80\x00\x00\x00\x00", 7, MODE_64, ~0ull, 7, false);
    /* 15 bytes are allowed, 16 are #GP whatever the opcode is. */
    decode_expect("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90", 15, MODE_64,
                  ~0ull, 15, false);
    decode_expect("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66", 15, MODE_64,
                  ~0ull, -1, true);
    decode_expect("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66", 14, MODE_64, ~0ull, 0,
                  false);
}

/* Displacements that 32 bits do not hold, and such that they do just so. */
static void test_far_displacements(void **state)
{
    static const struct {
        const char *bytes;
        uint8_t len, slow;
        uint16_t offset;
        int64_t disp;
    } wanted[] = {
        { "\x48\x8b\x05\xff\xff\xff\x7f", 7, 1, 0, 0x80000006 },
        { "\x48\x8d\x05\xff\xff\xff\x7f", 7, 1, 700, 0x800002c2 },
        { "\xc7\x05\xf8\xff\xff\x7f\x01\x02\x03\x04", 10, 1, 0, 0x80000002 },
        { "\x48\x8b\x05\xf8\xff\xff\x7f", 7, 0, 0, 0x7fffffff },
        { "\x48\x8b\x05\x00\x00\x00\x80", 7, 0, 0, -0x7ffffff9 },
        { "\xa0\x01\x02\x03\x04\x05\x06\x07\x88", 9, 1, 0, (int64_t)0x8807060504030201 },
        { "\xa0\x01\x02\x03\x84\x00\x00\x00\x00", 9, 1, 0, 0x84030201 },
        { "\xa0\x01\x02\x03\x84\xff\xff\xff\xff", 9, 0, 0, (int64_t)0xffffffff84030201 },
    };
    for (unsigned n = 0; n < sizeof wanted / sizeof *wanted; n++) {
        struct insn i;
        bool gp;
        assert_int_equal(insn_decode((const uint8_t *)wanted[n].bytes, wanted[n].len, MODE_64,
                                     ~0ull, wanted[n].offset, &i, &gp),
                         wanted[n].len);
        assert_int_equal(insn_disp(&i), wanted[n].disp);
        assert_int_equal(!!(i.flags & IF_SLOWEA), wanted[n].slow);
    }
}

static void test_features(void **state)
{
    struct insn i;
    bool gp;
    uint64_t none = 0, bmi = 1ull << FT_BMI1;
    assert_int_equal(insn_decode((const uint8_t *)"\xf3\x0f\xbc\xc1", 4, MODE_64, bmi, 0, &i, &gp),
                     4);
    assert_string_equal(insn_rows[i.row].name, "tzcnt");
    assert_int_equal(insn_decode((const uint8_t *)"\xf3\x0f\xbc\xc1", 4, MODE_64, none, 0, &i, &gp),
                     4);
    assert_string_equal(insn_rows[i.row].name, "bsf");
    decode_expect("\xf3\x0f\xb8\xc1", 4, MODE_64, none, -1, false); /* POPCNT */
    decode_expect("\x0f\x01\xca", 3, MODE_64, none, -1, false);     /* CLAC */
}

static int setup(void **state)
{
    static const ZydisMachineMode machine[] = { ZYDIS_MACHINE_MODE_LEGACY_16,
                                                ZYDIS_MACHINE_MODE_LEGACY_32,
                                                ZYDIS_MACHINE_MODE_LONG_64 };
    static const ZydisStackWidth stack[] = { ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32,
                                             ZYDIS_STACK_WIDTH_64 };
    insn_table_init();
    for (int mode = MODE_16; mode <= MODE_64; mode++) {
        ZydisDecoderInit(&decoders[mode], machine[mode], stack[mode]);
        ZydisDecoderEnableMode(&decoders[mode], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
        ZydisDecoderEnableMode(&decoders[mode], ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
        ZydisDecoderEnableMode(&decoders[mode], ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
        ZydisDecoderEnableMode(&decoders[mode], ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lengths),  cmocka_unit_test(test_far_displacements),
        cmocka_unit_test(test_features), cmocka_unit_test(test_walk),
        cmocka_unit_test(test_random),   cmocka_unit_test(test_every_row_is_reached),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
