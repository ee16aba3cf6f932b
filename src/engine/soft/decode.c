/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The decoder: bytes to struct insn, by the instruction table.
 *
 * Follows the SDM, volume 2, chapter 2. Where Intel and AMD differ it is Intel: 66 does not shorten
 * near branches in 64-bit mode, far pointers in memory take REX.W, SYSCALL exists in 64-bit mode
 * only.
 *
 * Invariants
 *  1. A slot (map, opcode, ModRM.reg) lists its rows so that the first that fits is the one: rows
 * that demand more come first.
 *  2. Nothing is read at or beyond code[len].
 */
#include "base/checked.h"
#include "engine/soft/insn.h"
#include "engine/x86.h"

#include <assert.h>
#include <string.h>

enum { INSN_MAX = 15, LINKS = 1 << 15 };
enum { REX_B = 1, REX_X = 2, REX_R = 4, REX_W = 8 };
enum { SHORT = -1 }; /* more bytes are needed */

struct link {
    uint16_t row, next; /* next: index into links, 0 at the end */
};
struct slot {
    uint16_t first; /* index into links, 0: no row */
    bool modrm;
};
static struct slot slots[MAP_COUNT][256][8];
static struct link links[LINKS];
static unsigned links_used = 1;

/* What is known of an instruction while it is read. */
struct cursor {
    const uint8_t *code;
    unsigned len, pos;
    int mode;
    bool opsize, addrsize, lock, vex;
    uint8_t rep;  /* 0, 0xf2 or 0xf3: the last one */
    int seg;      /* override, -1: none */
    uint8_t rex;  /* REX_*, also from VEX */
    bool has_rex; /* SPL..DIL instead of AH..BH */
    uint8_t vvvv, vex_l;
    uint8_t pfx; /* P_NONE, P_66, P_F3, P_F2 */
    uint8_t map, opcode;
    uint8_t mod, reg3, rm3; /* ModRM; mod 3 without */
    uint8_t modrm;
    int64_t disp;
};

/* The next n bytes, sign-extended (no change for n 0): false when they are not there. */
static bool take(struct cursor *c, unsigned n, int64_t *out)
{
    if (c->len - c->pos < n)
        return false;
    if (!n)
        return true;
    uint64_t value = 0;
    if (c->len - c->pos >= sizeof value) /* as mostly: one load */
        memcpy(&value, c->code + c->pos, sizeof value);
    else
        memcpy(&value, c->code + c->pos, n);
    unsigned unused = 64 - n * 8;
    *out = (int64_t)(value << unused) >> unused;
    c->pos += n;
    return true;
}

static bool take_byte(struct cursor *c, uint8_t *out)
{
    if (c->pos == c->len)
        return false;
    *out = c->code[c->pos++];
    return true;
}

/* Legacy prefixes and REX, up to the first opcode byte. */
static bool take_prefixes(struct cursor *c, uint8_t *opcode)
{
    for (;;) {
        uint8_t b;
        if (!take_byte(c, &b))
            return false;
        switch (b) {
        case 0x66: c->opsize = true; break;
        case 0x67: c->addrsize = true; break;
        case 0xf0: c->lock = true; break;
        case 0xf2:
        case 0xf3: c->rep = b; break;
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e: /* ES CS SS DS have no effect in 64-bit mode, not even on an earlier FS or GS */
            if (c->mode != MODE_64)
                c->seg = S_ES + (b >> 3 & 3);
            break;
        case 0x64: c->seg = S_FS; break;
        case 0x65: c->seg = S_GS; break;
        default:
            if (c->mode == MODE_64 && (b & 0xf0) == 0x40) {
                c->rex = b & 0xf;
                c->has_rex = true;
                continue;
            }
            *opcode = b;
            return true;
        }
        /* REX counts only right before the opcode. */
        c->rex = 0;
        c->has_rex = false;
    }
}

/* Outside 64-bit mode C4 and C5 are LES and LDS when what follows is a ModRM of memory: 1 VEX, 0
 * not, SHORT. */
static int is_vex(const struct cursor *c, uint8_t b)
{
    if (b != 0xc4 && b != 0xc5)
        return 0;
    if (c->mode == MODE_64)
        return 1;
    if (c->pos == c->len)
        return SHORT;
    return c->code[c->pos] >= 0xc0;
}

/* VEX payload and opcode. 1, 0 for #UD, SHORT. */
static int take_vex(struct cursor *c, uint8_t b)
{
    static const uint8_t prefix[4] = { P_NONE, P_66, P_F3, P_F2 };
    uint8_t p0, p1, map = 1;

    if (c->opsize || c->rep || c->lock || c->has_rex)
        return 0;
    if (!take_byte(c, &p0))
        return SHORT;
    p1 = p0;
    c->rex = p0 & 0x80 ? 0 : REX_R;
    if (b == 0xc4) {
        if (!take_byte(c, &p1))
            return SHORT;
        c->rex = (~p0 >> 5 & 7) | (p1 & 0x80 ? REX_W : 0);
        map = p0 & 0x1f;
    }
    if (map < 1 || map > 3)
        return 0;
    c->vvvv = ~p1 >> 3 & 15;
    if (c->mode != MODE_64)
        c->rex &= REX_W;
    c->vex = c->has_rex = true;
    c->vex_l = p1 >> 2 & 1;
    c->pfx = prefix[p1 & 3];
    c->map = V0F + map - 1;
    return take_byte(c, &c->opcode) ? 1 : SHORT;
}

/* Map and opcode. 1, 0 for #UD, SHORT. */
static int take_opcode(struct cursor *c)
{
    uint8_t b;
    if (!take_prefixes(c, &b))
        return SHORT;
    int vex = is_vex(c, b);
    if (vex)
        return vex < 0 ? vex : take_vex(c, b);

    c->pfx = c->rep == 0xf3 ? P_F3 : c->rep == 0xf2 ? P_F2 : c->opsize ? P_66 : P_NONE;
    c->map = M1;
    if (b == 0x0f) {
        c->map = M0F;
        if (!take_byte(c, &b))
            return SHORT;
        if (b == 0x38 || b == 0x3a) {
            c->map = b == 0x38 ? M38 : M3A;
            if (!take_byte(c, &b))
                return SHORT;
        }
    }
    /* NOP with REX.B is XCHG r8,rAX, even after F3: the row of 91 serves it, the register comes
     * from c->opcode. */
    c->opcode = b;
    return 1;
}

static const struct slot *slot_of(const struct cursor *c)
{
    uint8_t opcode = c->opcode;
    if (c->map == M1 && opcode == 0x90 && c->rex & REX_B)
        opcode = 0x91;
    return &slots[c->map][opcode][c->reg3];
}

/* VEX.L and VEX.W as the row wants them */
static bool row_fits_vex(const struct insn_row *row, const struct cursor *c, uint64_t features)
{
    const uint32_t refused =
        (c->vex_l ? AT_VEXL0 : AT_VEXL1) | (c->rex & REX_W ? AT_VEXW0 : AT_VEXW1);
    return !(row->attr & refused) &&
           !(row->attr & AT_L1AVX2 && c->vex_l && !(features >> FT_AVX2 & 1));
}

static bool row_fits(const struct insn_row *row, const struct cursor *c, uint64_t features)
{
    return (row->pfx == P_ANY || row->pfx == c->pfx) &&
           (row->mod == MOD_ANY || row->mod == MOD_NONE ||
            (row->mod == MOD_REG) == (c->mod == 3)) &&
           (row->rm < 0 || row->rm == c->rm3) &&
           !(row->attr & (c->mode == MODE_64 ? AT_NO64 : AT_ONLY64)) &&
           (!c->vex || row_fits_vex(row, c, features)) && features >> row->feature & 1;
}

static const struct insn_row *row_find(const struct cursor *c, uint64_t features)
{
    for (unsigned n = slot_of(c)->first; n; n = links[n].next) {
        const struct insn_row *row = &insn_rows[links[n].row];
        if (row_fits(row, c, features))
            return row;
    }
    return NULL;
}

/* LOCK's place, vvvv, registers that do not exist. */
static bool row_allows(const struct insn_row *row, const struct cursor *c)
{
    if (c->lock && !(row->attr & AT_LOCK && row->mod != MOD_NONE && c->mod != 3))
        return false;
    if (c->vex && !(row->attr & AT_VVVV) && c->vvvv)
        return false;
    unsigned reg = c->reg3 | (c->rex & REX_R ? 8 : 0);
    if (row->args[0] == A_Cy || row->args[1] == A_Cy)
        return 1u << reg & 0x11d; /* CR0 CR2 CR3 CR4 CR8 */
    if (row->args[0] == A_Dy || row->args[1] == A_Dy)
        return reg < 8;
    return true;
}

static unsigned operand_size(const struct insn_row *row, const struct cursor *c)
{
    bool m64 = c->mode == MODE_64;
    unsigned v = c->opsize != (c->mode == MODE_16) ? 2 : 4;
    switch (row->size) {
    case SZ_B: return 1;
    case SZ_W: return 2;
    case SZ_D: return 4;
    case SZ_Q: return 8;
    case SZ_Y: return m64 && c->rex & REX_W ? 8 : 4;
    case SZ_M: return m64 ? 8 : 4;
    case SZ_Z: return m64 && c->rex & REX_W ? 4 : v;
    case SZ_F64: return m64 ? 8 : v;
    case SZ_D64: return m64 && (v == 4 || c->rex & REX_W) ? 8 : v;
    default: return m64 && c->rex & REX_W ? 8 : v;
    }
}

static bool take_address16(struct cursor *c, struct insn *i)
{
    static const uint8_t base[8] = { R_BX, R_BX, R_BP, R_BP, R_SI, R_DI, R_BP, R_BX };
    static const uint8_t index[8] = {
        R_SI, R_DI, R_SI, R_DI, REG_NONE, REG_NONE, REG_NONE, REG_NONE
    };
    if (c->mod == 0 && c->rm3 == 6)
        return take(c, 2, &c->disp);
    i->base = base[c->rm3];
    i->index = index[c->rm3];
    if (i->base == R_BP)
        i->seg = S_SS;
    return take(c, c->mod, &c->disp);
}

/* 32- and 64-bit addressing. *rip: relative to the next instruction. */
static bool take_address(struct cursor *c, struct insn *i, bool *rip)
{
    unsigned base = c->rm3, disp = c->mod == 1 ? 1 : c->mod == 2 ? 4 : 0;
    if (base == 4) {
        uint8_t sib;
        if (!take_byte(c, &sib))
            return false;
        unsigned index = (sib >> 3 & 7) | (c->rex & REX_X ? 8 : 0);
        i->scale = index == 4 ? 0 : sib >> 6;
        i->index = index == 4 ? REG_NONE : index;
        base = sib & 7;
        if (base == 5 && c->mod == 0) {
            base = REG_NONE;
            disp = 4;
        }
    } else if (base == 5 && c->mod == 0) {
        *rip = c->mode == MODE_64;
        base = *rip ? REG_RIP : REG_NONE;
        disp = 4;
    }
    if (base < 8)
        base |= c->rex & REX_B ? 8 : 0;
    i->base = base;
    if (base == R_SP || base == R_BP)
        i->seg = S_SS;
    return take(c, disp, &c->disp);
}

/*
 * The index of a vector of addresses: a vector register, and there must be one, apart from
 * destination and mask. False: #UD. Follows take_address, which took it for a general register.
 */
static bool take_vector_index(struct cursor *c, struct insn *i, unsigned sib_at)
{
    if (i->asize == 2 || c->rm3 != 4)
        return false;
    const uint8_t sib = c->code[sib_at];
    i->scale = sib >> 6;
    i->index = REG_NONE;
    const uint8_t index = (sib >> 3 & 7) | (c->rex & REX_X ? 8 : 0);
    i->imm = (int64_t)index << SEL_SHIFT;
    return index != i->reg && index != i->vvvv && i->reg != i->vvvv;
}

static uint8_t byte_offset(const struct cursor *c, unsigned reg)
{
    return !c->has_rex && reg >= 4 && reg < 8 ? (reg - 4) * 8 + 1 : reg * 8;
}

/* What ModRM left to say: registers in the opcode, implied ones, immediates. False: more bytes are
 * needed. */
static bool take_operand(struct cursor *c, struct insn *i, const struct insn_row *row, unsigned n,
                         bool *memory)
{
    enum operand arg = row->args[n];
    int64_t second = 0;
    unsigned imm = i->size == 8 ? 4 : i->size;
    switch (arg) {
    case A_Eb: i->rm_off = byte_offset(c, i->rm); return true;
    case A_Gb: i->reg_off = byte_offset(c, i->reg); return true;
    case A_Zb:
    case A_Zv:
    case A_Zy:
        i->reg = i->rm = (c->opcode & 7) | (c->rex & REX_B ? 8 : 0);
        i->reg_off = i->rm_off = arg == A_Zb ? byte_offset(c, i->rm) : i->rm * 8;
        return true;
    case A_rAX: /* without ModRM; after a Z operand only reg, in all others both are 0 anyway */
        i->reg = i->reg_off = 0;
        return true;
    case A_Sw: i->reg &= 7; return true;
    case A_Pq: i->reg &= 7; return true;
    case A_Nq:
    case A_Qd:
    case A_Qq: i->rm &= 7; return true;
    case A_ES:
    case A_CS:
    case A_SS:
    case A_DS:
    case A_FS:
    case A_GS: i->reg = S_ES + (arg - A_ES); return true;
    case A_Xb:
    case A_Xv:
        *memory = true;
        i->base = R_SI;
        i->seg = c->seg < 0 ? S_DS : c->seg;
        return true;
    case A_Yb:
    case A_Yv:
        *memory = true;
        if (i->base != R_SI) {
            i->base = R_DI;
            i->seg = S_ES;
        }
        return true;
    case A_Ob:
    case A_Ov: *memory = true; return take(c, i->asize, &c->disp);
    case A_Ib:
        if (!take(c, 1, &second))
            return false;
        second &= 0xff;
        i->imm |= row->args[0] == A_Iw ? second << SEL_SHIFT : second; /* ENTER's level */
        return true;
    case A_Lx:
        if (!take(c, 1, &second))
            return false;
        i->imm = (second >> 4 & (c->mode == MODE_64 ? 15 : 7)) << SEL_SHIFT;
        return true;
    case A_Ibs: return take(c, 1, &i->imm);
    case A_Iw:
        if (!take(c, 2, &i->imm))
            return false;
        i->imm &= 0xffff;
        return true;
    case A_Iz: return take(c, imm, &i->imm);
    case A_Iv: return take(c, i->size, &i->imm);
    case A_Jb: return take(c, 1, &i->imm);
    case A_Jz: return take(c, imm, &i->imm);
    case A_Ap:
        if (!take(c, i->size, &i->imm) || !take(c, 2, &second))
            return false;
        i->imm &= (1ll << i->size * 8) - 1;
        i->imm |= (second & 0xffff) << SEL_SHIFT;
        return true;
    default: return true;
    }
}

/* Of a memory operand; `rip`: from the next instruction. */
static void place_displacement(const struct cursor *c, struct insn *i, bool rip)
{
    const int64_t disp = c->disp + (rip ? insn_end(i) : 0);
    i->disp = (int32_t)disp;
    if (c->mode != MODE_64 || i->asize < 8 || disp != i->disp)
        i->flags |= IF_SLOWEA;
    if (i->asize == 8 && disp != i->disp && !rip)
        i->imm = disp;
}

/* 1, 0 for #UD, SHORT. */
static int decode(struct cursor *c, uint64_t features, unsigned offset, struct insn *i)
{
    int r = take_opcode(c);
    if (r <= 0)
        return r;

    c->mod = 3;
    if (slot_of(c)->modrm) {
        uint8_t modrm;
        if (!take_byte(c, &modrm))
            return SHORT;
        c->modrm = modrm;
        c->mod = modrm >> 6;
        c->reg3 = modrm >> 3 & 7;
        c->rm3 = modrm & 7;
        if (c->map == M0F && c->opcode >= 0x20 && c->opcode <= 0x23)
            c->mod = 3;
    }
    const struct insn_row *row = row_find(c, features | 1ull << FT_BASE);
    if (!row || !row_allows(row, c))
        return 0;

    bool wide = c->mode == MODE_64, rip = false, memory = row->mod != MOD_NONE && c->mod != 3;
    *i = (struct insn){
        .start = offset,
        .size = operand_size(row, c),
        .asize = wide                                  ? (c->addrsize ? 4 : 8)
                 : c->addrsize != (c->mode == MODE_16) ? 2
                                                       : 4,
        .seg = S_DS,
        .base = REG_NONE,
        .index = REG_NONE,
        .reg = row->mod == MOD_NONE ? 0 : c->reg3 | (c->rex & REX_R ? 8 : 0),
        .rm = row->mod == MOD_NONE ? 0 : c->rm3 | (c->rex & REX_B ? 8 : 0),
        .vvvv = wide ? c->vvvv : c->vvvv & 7,
        .vex = c->vex | c->vex_l << 1 | (c->vex && c->rex & REX_W ? 4 : 0),
        .row = row - insn_rows,
        .imm = row->attr & AT_X87 ? c->modrm : 0,
    };
    i->reg_off = i->reg * 8;
    i->rm_off = i->rm * 8;
    if (memory) {
        const unsigned sib_at = c->pos;
        if (i->asize == 2 ? !take_address16(c, i) : !take_address(c, i, &rip))
            return SHORT;
        if ((row->args[1] == A_VMd || row->args[1] == A_VMq) && !take_vector_index(c, i, sib_at))
            return 0;
    }
    if (c->seg >= 0)
        i->seg = c->seg;
    for (unsigned n = 0; n < sizeof row->args && row->args[n]; n++) {
        if (!take_operand(c, i, row, n, &memory))
            return SHORT;
    }

    i->len = c->pos;
    if (row->args[0] == A_Jb || row->args[0] == A_Jz)
        i->imm += insn_end(i);
    if (c->lock)
        i->flags |= IF_LOCK;
    if (row->attr & AT_REP && c->rep)
        i->flags |= c->rep == 0xf3 ? IF_REP : IF_REPNE;
    if (memory) {
        i->flags |= IF_MEM;
        place_displacement(c, i, rip);
    }
    unsigned n = (unsigned)__builtin_ctz(i->size);
    i->fn = memory ? row->op->m[n] : row->op->r[n];
    return i->fn != NULL;
}

int insn_decode(const uint8_t *code, unsigned len, int mode, uint64_t features, unsigned offset,
                struct insn *out, bool *gp)
{
    struct cursor c = {
        .code = code, .len = len < INSN_MAX ? len : INSN_MAX, .mode = mode, .seg = -1
    };
    *gp = false;
    int r = decode(&c, features, offset, out);
    if (r > 0)
        return out->len;
    if (r == 0)
        return -1;
    if (c.len < INSN_MAX)
        return 0;
    *gp = true;
    return -1;
}

/* ---- The look-up tables ---- */

/* How much a row demands: more comes first (invariant 1). */
static unsigned row_rank(const struct insn_row *row)
{
    return (row->pfx != P_ANY ? 4u : 0) + (row->rm >= 0 ? 2u : 0) +
           (row->mod == MOD_MEM || row->mod == MOD_REG);
}

static bool rows_clash(const struct insn_row *a, const struct insn_row *b)
{
    bool modes = !((a->attr | b->attr) & AT_NO64 && (a->attr | b->attr) & AT_ONLY64);
    bool mods = a->mod == b->mod || a->mod == MOD_ANY || b->mod == MOD_ANY;
    bool rms = a->rm == b->rm || a->rm < 0 || b->rm < 0;
    const uint32_t both = a->attr | b->attr;
    bool vex = !((both & AT_VEXL0 && both & AT_VEXL1) || (both & AT_VEXW0 && both & AT_VEXW1));
    return modes && mods && rms && vex && a->pfx == b->pfx && row_rank(a) == row_rank(b);
}

static void slot_add(struct slot *slot, unsigned row)
{
    uint16_t *at = &slot->first;
    for (; *at && row_rank(&insn_rows[links[*at].row]) >= row_rank(&insn_rows[row]);
         at = &links[*at].next)
        assert(!rows_clash(&insn_rows[links[*at].row], &insn_rows[row]));
    assert(links_used < LINKS);
    links[links_used] = (struct link){ .row = row, .next = *at };
    *at = links_used++;
}

void insn_table_init(void)
{
    if (links_used > 1)
        return;
    for (unsigned n = 0; n < insn_row_count; n++) {
        const struct insn_row *row = &insn_rows[n];
        for (int reg = 0; reg < 8; reg++) {
            struct slot *slot = &slots[row->map][row->opcode][reg];
            slot->modrm |= row->mod != MOD_NONE;
            if (row->ext < 0 || row->ext == reg)
                slot_add(slot, n);
        }
    }
}
