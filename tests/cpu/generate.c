/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Makes random cases out of the instruction table: encodings, operands that mostly point into the
 * test's memory, states.
 */
#include "case.h"
#include "engine/soft/insn.h"

#include <string.h>

uint64_t random_state = 1;
uint32_t random_attr;

/* Registers that start as pointers into the data, in 64- and 32-bit code. RSP points into the
 * stack, RCX and R8 are small. */
static const uint8_t pointers[] = { R_BX, R_BP, R_SI, R_DI, R_9, R_10, R_11, R_12, R_13 };
enum { POINTERS_32 = 4, TRIES_MAX = 1000 };

const char *row_excluded(const struct insn_row *row, int mode, uint64_t features)
{
    if (row->attr & (mode == MODE_64 ? AT_NO64 : AT_ONLY64))
        return "not in this mode";
    if (!(features >> row->feature & 1))
        return "the host or the engine has no such instruction";
    if (row->map == M1 && row->opcode == 0x9a)
        return "what a far call that fails leaves below the stack pointer differs by maker";
    if (!strcmp(row->name, "int1"))
        return "hypervisors on AMD's CPUs report it at a wrong RIP";
    if (row->map == M1 && row->opcode == 0xca)
        return "AMD reads the outer stack before it checks the selector, Intel does not";
    if (row->attr & AT_NORAND)
        return "depends on the host's state";
    return NULL;
}

/* ---- Encodings ---- */

struct encoder {
    uint8_t *p;
    unsigned len;
    int mode;
    bool vector_index; /* the address has a vector of indices */
};

static void emit(struct encoder *e, uint64_t value, unsigned bytes)
{
    memcpy(e->p + e->len, &value, bytes);
    e->len += bytes;
}

static uint64_t random_value(void)
{
    static const uint64_t edges[] = { 0,
                                      1,
                                      2,
                                      0x7f,
                                      0x80,
                                      0xff,
                                      0x7fff,
                                      0x8000,
                                      0xffff,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      0x7fffffffffffffff,
                                      0x8000000000000000,
                                      ~0ull,
                                      0x5555555555555555 };
    switch (random_below(4)) {
    case 0: return edges[random_below(sizeof edges / sizeof *edges)];
    case 1: return random64() >> random_below(64);
    case 2: return -(random64() >> random_below(64));
    default: return random64();
    }
}

static bool has_arg(const struct insn_row *row, unsigned first, unsigned last)
{
    for (unsigned n = 0; n < 4 && row->args[n]; n++) {
        if (row->args[n] >= first && row->args[n] <= last)
            return true;
    }
    return false;
}

static bool is_string(const struct insn_row *row) { return has_arg(row, A_Xb, A_Yv); }
static bool has_memory(const struct insn_row *row, unsigned mod)
{
    return (row->mod != MOD_NONE && mod != 3) || is_string(row) || has_arg(row, A_Ob, A_Ov);
}

/* Legacy prefixes and REX. What the row's mandatory prefix leaves open is chosen at random. */
static unsigned emit_prefixes(struct encoder *e, const struct insn_row *row, unsigned mod)
{
    static const uint8_t seg64[] = { 0x64, 0x65, 0x26, 0x2e, 0x36, 0x3e },
                         seg32[] = { 0x26, 0x2e, 0x36, 0x3e };
    bool vex = row->map >= V0F, memory = has_memory(row, mod);
    unsigned rex = 0;
    if (memory && one_in(10))
        emit(e, e->mode == MODE_64 ? seg64[random_below(6)] : seg32[random_below(4)], 1);
    if (memory && one_in(16))
        emit(e, 0x67, 1);
    if (!vex) {
        bool free66 = row->pfx != P_NONE && row->pfx != P_66;
        if (row->pfx == P_66 || (free66 && row->size != SZ_B && one_in(4)))
            emit(e, 0x66, 1);
        if (row->pfx == P_F3 || row->pfx == P_F2)
            emit(e, row->pfx == P_F3 ? 0xf3 : 0xf2, 1);
        else if (row->pfx == P_ANY && row->attr & AT_REP && one_in(3))
            emit(e, one_in(2) ? 0xf3 : 0xf2, 1);
        if (row->attr & AT_LOCK && memory && one_in(4))
            emit(e, 0xf0, 1);
    }
    if (e->mode == MODE_64 && (vex || !one_in(4))) {
        rex = random_below(8) | (one_in(2) ? 8 : 0);
        if (!vex)
            emit(e, 0x40 | rex, 1);
    }
    if (vex && row->attr & AT_VEXW0)
        rex &= ~8u;
    if (vex && row->attr & AT_VEXW1)
        rex |= 8;
    return rex;
}

static void emit_opcode(struct encoder *e, const struct insn_row *row, unsigned rex)
{
    static const uint8_t pp[] = { 0, 0, 1, 2, 3 };
    if (row->map >= V0F) {
        unsigned vvvv = row->attr & AT_VVVV ? random_below(16) : 0, l = row->attr & AT_VEXL0 ? 0
                                                                        : row->attr & AT_VEXL1
                                                                            ? 1
                                                                            : random_below(2);
        if (e->mode != MODE_64)
            vvvv &= 7;
        unsigned last = (~vvvv & 15) << 3 | l << 2 | pp[row->pfx];
        if (row->map == V0F && !(rex & 11) && one_in(2)) {
            emit(e, 0xc5, 1);
            emit(e, (rex & 4 ? 0 : 0x80) | last, 1);
        } else {
            emit(e, 0xc4, 1);
            emit(e, (~rex & 7) << 5 | (row->map - V0F + 1), 1);
            emit(e, (rex & 8) << 4 | last, 1);
        }
    } else if (row->map != M1) {
        emit(e, 0x0f, 1);
        if (row->map != M0F)
            emit(e, row->map == M38 ? 0x38 : 0x3a, 1);
    }
    emit(e, row->opcode, 1);
}

static unsigned pointer_register(const struct encoder *e, unsigned *rex)
{
    unsigned reg = pointers[random_below(e->mode == MODE_64 ? sizeof pointers : POINTERS_32)];
    if (one_in(12))
        reg = random_below(e->mode == MODE_64 ? 16 : 8);
    *rex = (*rex & ~1u) | reg >> 3;
    return reg & 7;
}

static int32_t random_disp(void)
{
    int32_t disp = (int32_t)random_below(0x200) - 0x100;
    return one_in(2) ? disp & ~15 : disp;
}

/* mod 0..2 ModRM with what follows. The base register may need REX.B, so the prefixes come after:
 * the caller knows rex. */
static void emit_memory(struct encoder *e, unsigned mod, unsigned reg, unsigned base, unsigned rex)
{
    int32_t disp = random_disp();
    bool sib = base == 4 || e->vector_index || one_in(4);
    if (mod == 0 && base == 5)
        mod = 1;
    emit(e, mod << 6 | reg << 3 | (sib ? 4 : base), 1);
    if (sib) {
        unsigned index = e->vector_index ? random_below(8) : one_in(2) ? 4 : 1; /* none or RCX/R9 */
        emit(e, random_below(index == 1 && rex & 2 ? 1 : 4) << 6 | index << 3 | base, 1);
    }
    if (mod)
        emit(e, (uint64_t)(int64_t)disp, mod == 1 ? 1 : 4);
}

/* An absolute or RIP-relative address in the data; *fixup: where its displacement is if it is
 * relative. */
static void emit_absolute(struct encoder *e, unsigned reg, unsigned *fixup)
{
    uint32_t target = DATA_VA + 16 * random_below((DATA_SIZE + READONLY_SIZE) / 16);
    if (e->mode == MODE_64 && one_in(2)) {
        emit(e, reg << 3 | 4, 1);
        emit(e, 0x25, 1);
    } else {
        emit(e, reg << 3 | 5, 1);
        if (e->mode == MODE_64)
            *fixup = e->len;
    }
    emit(e, target, 4);
}

static void emit_modrm(struct encoder *e, const struct insn_row *row, unsigned mod, unsigned base,
                       unsigned rex, bool address16, unsigned *fixup)
{
    unsigned reg = row->ext >= 0 ? (unsigned)row->ext : random_below(8);
    unsigned rm = row->rm >= 0 ? (unsigned)row->rm : random_below(8);
    if (mod == 3) {
        emit(e, 0xc0 | reg << 3 | rm, 1);
    } else if (address16) {
        if (mod == 0 && rm == 6)
            mod = 1;
        emit(e, mod << 6 | reg << 3 | rm, 1);
        emit(e, (uint64_t)(int64_t)random_disp(), mod);
    } else if (!e->vector_index && one_in(8)) {
        emit_absolute(e, reg, fixup);
    } else {
        emit_memory(e, mod, reg, base, rex);
    }
}

static void emit_immediates(struct encoder *e, const struct insn_row *row, unsigned size,
                            unsigned asize)
{
    unsigned z = size == 8 ? 4 : size;
    for (unsigned n = 0; n < 4; n++) {
        switch (row->args[n]) {
        case A_Ib:
        case A_Lx:
        case A_Ibs: emit(e, random_value(), 1); break;
        case A_Iw: emit(e, one_in(2) ? random_below(64) : random_value(), 2); break;
        case A_Iz: emit(e, random_value(), z); break;
        case A_Iv: emit(e, random_value(), size); break;
        case A_Jb: emit(e, random_value(), 1); break; /* targets come when the code is complete */
        case A_Jz: emit(e, random_value(), z); break;
        case A_Ob:
        case A_Ov:
            emit(e, (e->mode == MODE_16 ? 0 : DATA_VA) + random_below(DATA_SIZE), asize);
            break;
        case A_Ap: emit(e, random_value(), size + 2); break;
        default: break;
        }
    }
}

/* Where CPUs of different makers differ, and the engine follows one of them. */
static bool differs_by_maker(const struct insn_row *row, const struct insn *i, const uint8_t *bytes,
                             int mode)
{
    bool opsize = false;
    for (unsigned n = 0; n < i->len && bytes[n] != row->opcode; n++)
        opsize |= bytes[n] == 0x66;
    if (row->size == SZ_F64 && row->attr & AT_END && mode == MODE_64 && opsize)
        return true; /* AMD cuts RIP to 16 bits, Intel ignores the prefix */
    if (has_arg(row, A_Mp, A_Mp) && i->size == 8)
        return true; /* far pointers have 64-bit offsets on Intel's only */
    if (row->feature == FT_SHA && i->flags & IF_MEM)
        return true; /* AMD does not want it aligned */
    return row->map == M0F && row->opcode == 0x0d &&
           !(i->flags & IF_MEM); /* PREFETCHW of a register */
}

/* One instruction of `row` for address `va`; its length, or 0 when the choices made did not fit
 * together. */
static unsigned generate_insn(uint8_t *out, const struct insn_row *row, int mode, uint64_t features,
                              uint64_t va, struct insn *decoded)
{
    uint8_t bytes[32];
    struct encoder e = { .p = bytes, .mode = mode, .vector_index = has_arg(row, A_VMd, A_VMq) };
    unsigned mod = row->mod == MOD_MEM   ? random_below(3)
                   : row->mod == MOD_ANY ? random_below(4)
                                         : 3;
    unsigned fixup = 0, base = 0;
    if (row->map == M0F && row->opcode >= 0x20 && row->opcode <= 0x23)
        mod = random_below(4);

    unsigned rex = emit_prefixes(&e, row, mod);
    if (row->mod != MOD_NONE && mod != 3) {
        unsigned wanted = rex;
        base = pointer_register(&e, &wanted);
        if (row->map >= V0F)
            rex = wanted;
        else if (rex && e.len)
            bytes[e.len - 1] = 0x40 | (rex = wanted); /* REX was the last of the prefixes */
        else if (mode == MODE_64 && wanted & 1)
            emit(&e, 0x40 | (rex = wanted), 1);
    }
    emit_opcode(&e, row, rex);
    bool addrsize = false;
    for (unsigned n = 0; n < e.len && bytes[n] != row->opcode; n++)
        addrsize |= bytes[n] == 0x67;
    unsigned asize = mode == MODE_64 ? (addrsize ? 4 : 8) : addrsize == (mode == MODE_16) ? 4 : 2;
    if (row->mod != MOD_NONE)
        emit_modrm(&e, row, mod, base, rex, asize == 2, &fixup);

    /* The decoder knows sizes best: ask it with enough bytes behind. */
    struct insn probe;
    bool gp;
    uint8_t padded[48] = { 0 };
    memcpy(padded, bytes, e.len);
    if (insn_decode(padded, 15, mode, features, 0, &probe, &gp) <= 0 ||
        &insn_rows[probe.row] != row)
        return 0;
    emit_immediates(&e, row, probe.size, probe.asize);
    if (e.len > 15 || insn_decode(bytes, e.len, mode, features, 0, decoded, &gp) != (int)e.len ||
        differs_by_maker(row, decoded, bytes, mode))
        return 0;
    if (fixup) {
        uint32_t target;
        memcpy(&target, bytes + fixup, 4);
        target -= (uint32_t)va + e.len;
        memcpy(bytes + fixup, &target, 4);
    }
    memcpy(out, bytes, e.len);
    return e.len;
}

/* ---- States ---- */

static uint64_t data_pointer(int mode)
{
    uint64_t at = one_in(16) ? random_below(DATA_SIZE + READONLY_SIZE)
                             : 0x200 + random_below(DATA_SIZE - 0x400);
    if (one_in(2))
        at &= ~15ull;
    return mode == MODE_16 ? at : DATA_VA + at;
}

static void random_x87_register(uint8_t *st)
{
    uint64_t mantissa = random_value() | (one_in(16) ? 0 : 1ull << 63);
    uint16_t exponent;
    switch (random_below(8)) {
    case 0: exponent = 0; break;
    case 1: exponent = 0x7fff; break;
    case 2: exponent = random64(); break;
    default: exponent = 0x3fff - 70 + random_below(140); break;
    }
    if (exponent == 0 && one_in(2))
        mantissa &= ~(1ull << 63);
    exponent = (exponent & 0x7fff) | (one_in(2) ? 0x8000 : 0);
    memcpy(st, &mantissa, 8);
    memcpy(st + 8, &exponent, 2);
}

static void random_vector(uint8_t *xmm)
{
    static const double doubles[] = { 0,     -0.0,    1,        -1,    1.5,         3.14159,
                                      1e300, -1e-300, 4.9e-324, 1e308, 2147483648.5 };
    static const float floats[] = { 0, -0.0f, 1, -1, 2.5f, 1e38f, -1e-38f, 1e-45f, 3e9f };
    for (unsigned n = 0; n < 16; n += 8) {
        uint64_t value =
            one_in(8) ? random64() & 0xff000000ff : random_value(); /* small indices, too */
        double d = doubles[random_below(sizeof doubles / sizeof *doubles)];
        float f[2] = { floats[random_below(9)], floats[random_below(9)] };
        switch (random_below(4)) {
        case 0: memcpy(xmm + n, &d, 8); break;
        case 1: memcpy(xmm + n, f, 8); break;
        default: memcpy(xmm + n, &value, 8); break;
        }
    }
}

static void random_fx(uint8_t *fx)
{
    memset(fx, 0, 512);
    uint16_t fcw = 0x37f, fsw = random64() & 0x7f00 & ~0x80;
    uint32_t mxcsr = 0x1f80;
    if (one_in(3))
        fcw = (random64() & 0xf3f) | 0x40;
    if (one_in(3))
        mxcsr = (random64() & 0xffff) | (one_in(2) ? 0x1f80 : 0);
    if (one_in(4))
        fsw = 0;
    if (one_in(6))
        fsw |= random64() & 0x3f;
    if (fsw & ~fcw & 0x3f)
        fsw |= 0x8080; /* an exception is pending */
    memcpy(fx, &fcw, 2);
    memcpy(fx + 2, &fsw, 2);
    fx[4] = one_in(2) ? 0xff : random64();
    memcpy(fx + 24, &mxcsr, 4);
    for (unsigned n = 0; n < 8; n++)
        random_x87_register(fx + 32 + n * 16);
    for (unsigned n = 0; n < 16; n++)
        random_vector(fx + 160 + n * 16);
}

static void random_regs(struct regs *r, int mode, unsigned offset)
{
    bool narrow = mode != MODE_64;
    for (unsigned n = 0; n < 16; n++)
        r->gpr[n] = random_value();
    for (unsigned n = 0; n < sizeof pointers; n++)
        r->gpr[pointers[n]] = data_pointer(mode);
    if (!one_in(4))
        r->gpr[R_CX] = random_below(24);
    r->gpr[R_SP] = (mode == MODE_16 ? 0 : STACK_VA) +
                   (one_in(16) ? random_below(STACK_SIZE) : 0x200 + 8 * random_below(0x180));
    for (unsigned n = 0; narrow && n < 16; n++)
        r->gpr[n] = n < 8 ? (uint32_t)r->gpr[n] : 0;
    r->rip = (mode == MODE_16 ? 0 : CODE_VA) + offset;
    r->rflags =
        0x202 | (random64() & F_ALL) | (one_in(6) ? 1 << 10 : 0) | (one_in(16) ? 1 << 18 : 0);
    r->cs = mode == MODE_64 ? SEL_USER64 : mode == MODE_32 ? SEL_USER32 : SEL_CODE16;
    r->ss = mode == MODE_16 ? SEL_STACK16 : SEL_DATA;
    r->ds = mode == MODE_64 ? 0 : mode == MODE_32 ? SEL_DATA : SEL_DATA16;
    r->es = mode == MODE_64 ? 0 : mode == MODE_32 ? SEL_DATA : SEL_EXTRA16;
    random_fx(r->fx);
    for (unsigned n = 0; n < 16; n++)
        random_vector(r->ymm_high[n]);
}

/* Flags without a defined value after `row`, given those before it. */
static uint16_t undefined_after(const struct insn_row *row, uint16_t before, bool branched)
{
    /* What may keep its value counts as read; what was jumped over wrote nothing. */
    uint16_t always = branched ? 0 : row->writes & ~row->reads;
    return (before & ~always) | row->undefined;
}

bool stores_environment(const struct insn_row *row)
{
    static const char *const names[] = { "fnstenv", "fnsave",  "fxsave",   "fxsave64",
                                         "xsave",   "xsave64", "xsaveopt", "xsaveopt64" };
    for (unsigned n = 0; n < sizeof names / sizeof *names; n++) {
        if (!strcmp(names[n], row->name))
            return true;
    }
    return false;
}

/* What FLDENV and FRSTOR load, x87 pointers included, need not be what is stored again. */
static bool loads_environment(const struct insn_row *row)
{
    return !strcmp(row->name, "fldenv") || !strcmp(row->name, "frstor") ||
           !strncmp(row->name, "fxrstor", 7) || !strncmp(row->name, "xrstor", 6);
}

static const struct insn_row *random_row(int mode, uint64_t features, uint16_t undefined,
                                         bool environment)
{
    for (;;) {
        const struct insn_row *row = &insn_rows[random_below(insn_row_count)];
        if (random_attr && !(row->attr & random_attr) && !one_in(4))
            continue;
        if (stores_environment(row) && !environment)
            continue;
        if (!row_excluded(row, mode, features) && !(row->reads & undefined))
            return row;
    }
}

/* Branches lead to a later instruction or the end, seldom anywhere else. */
static void branches_aim(struct cpu_case *c)
{
    for (unsigned n = 0; n < c->count; n++) {
        unsigned arg = insn_rows[c->row[n]].args[0], target = n + 1 + random_below(c->count - n);
        if (arg != A_Jb && arg != A_Jz)
            continue;
        unsigned bytes = 1;
        if (arg == A_Jz) {
            bool gp;
            struct insn i;
            insn_decode(c->code + c->start[n], 15, c->mode, ~0ull, 0, &i, &gp);
            bytes = i.size == 2 ? 2 : 4;
            if (one_in(8) && (c->code[c->start[n + 1] - 1] + 1) & 0xfe)
                continue; /* far away */
        }
        int32_t disp = c->start[target] - c->start[n + 1];
        memcpy(c->code + c->start[n + 1] - bytes, &disp, bytes);
    }
}

static const uint16_t selectors[] = { 0,          3,          SEL_USER32,  SEL_DATA,   SEL_USER64,
                                      SEL_CODE16, SEL_DATA16, SEL_EXTRA16, SEL_STACK16 };
static uint16_t random_selector(void)
{
    return selectors[random_below(sizeof selectors / sizeof *selectors)];
}

static uint8_t *stack_at(struct cpu_case *c, uint64_t offset)
{
    uint64_t at = c->in.gpr[R_SP] + offset - (c->mode == MODE_16 ? 0 : STACK_VA);
    return at + 8 <= STACK_SIZE ? c->memory + DATA_SIZE + READONLY_SIZE + at : NULL;
}

/* What a first instruction that loads segments or returns finds on the stack and in registers. */
static void frame_fill(struct cpu_case *c)
{
    const struct insn_row *row = &insn_rows[c->row[0]];
    bool gp, far_return = row->map == M1 && (row->opcode == 0xcb || row->opcode == 0xcf);
    bool near_return = row->map == M1 && (row->opcode == 0xc2 || row->opcode == 0xc3);
    struct insn i;
    if (one_in(8))
        c->in.gpr[one_in(2) ? R_AX : R_DX] = random_selector();
    if (one_in(4) || insn_decode(c->code, 15, c->mode, ~0ull, 0, &i, &gp) <= 0)
        return;
    uint64_t frame[5] = { c->in.rip + c->start[1 + random_below(c->count)], c->in.cs,
                          0x202 | (random64() & 0x244dd5), c->in.gpr[R_SP], c->in.ss };
    if (!far_return && !near_return)
        frame[0] = random_selector();
    unsigned words = !far_return ? 1 : row->opcode == 0xcb ? 2 : c->mode == MODE_64 ? 5 : 3;
    for (unsigned n = 0; n < words; n++) {
        uint8_t *p = stack_at(c, n * i.size);
        if (p && !one_in(16))
            memcpy(p, &frame[n], i.size);
    }
}

void case_generate(struct cpu_case *c, int mode, uint64_t features, int wanted)
{
    c->mode = mode;
    c->offset = one_in(4) ? 0x1000 - random_below(16) : 0x100 + random_below(0x1e00);
    c->len = c->count = 0;
    c->undefined = 0;
    unsigned count = one_in(2) ? 1 : 1 + random_below(INSNS_MAX);
    const struct insn_row *row = NULL;
    bool environment = true, branched = false;
    unsigned tries = 0;
    while (c->count < count) {
        if (!row)
            row = c->count == 0 && wanted >= 0
                      ? &insn_rows[wanted]
                      : random_row(mode, features, c->undefined, environment);
        struct insn i;
        unsigned len = generate_insn(c->code + c->len, row, mode, features,
                                     (mode == MODE_16 ? 0 : CODE_VA) + c->offset + c->len, &i);
        if (!len) {
            if (++tries % TRIES_MAX == 0)
                row = random_row(mode, features, c->undefined,
                                 environment); /* no such form in this mode */
            continue;
        }
        c->start[c->count] = c->len;
        c->row[c->count++] = i.row;
        c->len += len;
        environment &= !loads_environment(row);
        if (stores_environment(row))
            count = c->count;
        c->undefined = undefined_after(row, c->undefined, branched);
        branched |= has_arg(row, A_Jb, A_Jz);
        row = NULL;
    }
    c->start[c->count] = c->len;
    branches_aim(c);
    random_regs(&c->in, mode, c->offset);
    for (unsigned n = 0; n < MEMORY_SIZE; n += 8) {
        if (n >= DATA_SIZE && n < DATA_SIZE + READONLY_SIZE)
            continue; /* set once */
        uint64_t value = one_in(8) ? random_value() : random64();
        memcpy(c->memory + n, &value, 8);
    }
    frame_fill(c);
}
