/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory operands in translated code: the check against the TLB, and windows.
 *
 * A window is one check for several accesses by the same base register: r15 becomes the host
 * address of a range that all of them lie in, as far as looking ahead in the block can tell. What
 * it covers later needs no check, no scratch register and leaves the host's flags alone.
 *
 * Invariants
 *  1. r15 and what `tr.window` says of it go together on the straight way through a block: slow
 * paths come back with the same r15, and nothing is assumed where a block begins.
 *  2. A window stays in one block, which holds no safe point: what the TLB said when it was opened
 * is as true for its last access as for its first.
 *  3. Where a window cannot be opened the one instruction is run by its handler and the block left
 * behind it. A block that this happens to often (its frame lies across two pages, its page has no
 * store tag) is translated again without windows.
 */
#include "engine/soft/run.h"
#include "engine/soft/translate.h"

enum { WINDOW_MAX = 256, LOOK_AHEAD = 32 };

/* Can this address be computed inline? */
static bool plain_address(const struct tr *t, const struct insn *i)
{
    return narrow(t) || (!(i->flags & IF_SLOWEA) && is_near(i->disp));
}

unsigned address_reg(struct tr *t, unsigned slot, unsigned scratch)
{
    if (slot == REG_NONE)
        return H_NONE;
    if (slot == REG_RIP) {
        emit_load(&t->e, scratch, in_vcpu(offsetof(struct soft_vcpu, jit_page)));
        t->held[scratch == H_14] = REG_NONE;
        return scratch;
    }
    return reg_get(t, slot, scratch);
}

int32_t address_disp(const struct tr *t, unsigned base, int64_t disp)
{
    if (base == REG_RIP)
        disp += t->block->place;
    if (base == R_SP)
        disp += t->ahead;
    return (int32_t)disp;
}

void slow_if(struct tr *t, unsigned cc, const struct insn *i)
{
    assert(t->slow_count < MAX_SLOW);
    t->slow[t->slow_count++] = (struct slow){
        .site = emit_jcc_forward(&t->e, cc),
        .insn = i,
        .fp = t->fp,
        .flags_at = t->flags,
        .producer = t->producer,
        .ahead = t->ahead,
    };
}

void fp_enter_if(struct tr *t, unsigned cc, struct fp_state fp)
{
    assert(t->slow_count < MAX_SLOW && t->flags != IN_HOST);
    t->fp = fp;
    t->slow[t->slow_count] = (struct slow){
        .site = emit_jcc_forward(&t->e, cc),
        .fp_back = fp,
    };
    t->slow[t->slow_count++].back = t->e.p;
    held_drop(t);
}

/* ---- Last pages (cpu.h) ---- */

#define LAST_AT(field, site) in_vcpu(offsetof(struct soft_vcpu, last.field) + (site)*8u)

/* Sites are more than there is room for; those of one block have different places. */
static unsigned site_new(struct jit *j, bool write, bool window)
{
    enum { OPERANDS = LAST_WINDOWS / 2, WINDOWS = (LAST_SITES - LAST_WINDOWS) / 2 };
    unsigned n = window ? OPERANDS + j->sites++ % WINDOWS : j->sites++ % OPERANDS;
    return n * 2 + write;
}

/* The code of CPL 0 goes without: CLAC, STAC and SYSCALL choose its table without telling. */
static bool has_last_page(const struct tr *t)
{
    return t->jit->last && !(t->block->key & CODE_CPL0) && !(t->block->scattered >> t->n & 1);
}

static struct slow *check_last_page(struct tr *t, const struct insn *i, unsigned reg, unsigned size,
                                    bool write)
{
    struct emit *e = &t->e;
    unsigned site = site_new(t->jit, write, reg == H_15);
    emit_op(e, 0, 8, 0x2b, reg, LAST_AT(tag, site), 0);
    emit_op(e, 0, 8, 0x3b, reg, LAST_AT(room, site), 0);
    slow_if(t, CC_AE, i);
    struct slow *slow = &t->slow[t->slow_count - 1];
    emit_op(e, 0, 8, 0x03, reg, LAST_AT(host, site), 0);
    slow->last_site = (uint16_t)site;
    slow->last_size = (uint16_t)size;
    unsigned form = reg == H_15                 ? LAST_IN_WINDOW
                    : size > code_store_most[0] ? LAST_LONG
                                                : LAST_SHORT;
    slow->second = t->jit->last_find[form][write];
    slow->checked = emit_exec(e);
    return slow;
}

void last_slow_path(struct tr *t, const struct slow *s)
{
    struct emit *e = &t->e;
    emit_imm32(e, H_14,
               (uint32_t)(PAGE_SIZE - s->last_size) << LAST_SIZE_SHIFT | s->last_site * 8u);
}

/* ---- The check ---- */

/* The address in `reg`, rax or r15, checked against the TLB: a host address. Uses r14. Invariant 1
 * of jit.h. */
static struct slow *check(struct tr *t, const struct insn *i, unsigned reg, unsigned size,
                          bool write)
{
    struct emit *e = &t->e;
    held_drop(t);
    if (has_last_page(t))
        return check_last_page(t, i, reg, size, write);
    emit_op(e, 0, 4, 0x89, reg, in_reg(H_14), 0);
    emit_op(e, 0, 4, 0xc1, 5, in_reg(H_14), 0), e8(e, PAGE_SHIFT - 5);
    emit_alu_imm(e, 0, 4, 4, in_reg(H_14), (TLB_SIZE - 1) << 5, 0);
    _Static_assert(sizeof(struct tlb_entry) == 32, "the shift above");
    emit_op(e, 0, 8, 0x03, H_14, in_vcpu(offsetof(struct soft_vcpu, tlb)), 0);
    size_t tag = write ? offsetof(struct tlb_entry, write) : offsetof(struct tlb_entry, read);
    emit_op(e, 0, 8, 0x2b, reg, at_offset(H_14, (int32_t)tag), 0);
    emit_alu_imm(e, 0, 8, 7, in_reg(reg), (int32_t)(PAGE_SIZE - size), 0);
    slow_if(t, CC_A, i);
    struct slow *slow = &t->slow[t->slow_count - 1];
    if (write && reg == H_AX) { /* perhaps only code elsewhere in the page is in its way */
        slow->second = t->jit->code_store[size > code_store_most[0]];
        slow->checked = emit_exec(e);
    }
    emit_op(e, 0, 8, 0x03, reg, at_offset(H_14, offsetof(struct tlb_entry, host)), 0);
    return slow;
}

/* rax: an offset in the segment that becomes a linear address. Uses r14. */
static void segment_apply(struct tr *t, const struct insn *i, unsigned seg, unsigned size,
                          bool write)
{
    struct emit *e = &t->e;
    const struct place_of base = in_vcpu(offsetof(struct soft_vcpu, seg_base) + seg * 8u);
    if (seg != S_FS && seg != S_GS && (!narrow(t) || (t->block->key & CODE_FLAT && seg != S_CS)))
        return;
    if (narrow(t)) {
        emit_lea(e, 8, H_14, H_AX, H_NONE, 0, (int32_t)size);
        emit_op(e, 0, 8, 0x3b, H_14, in_vcpu(offsetof(struct soft_vcpu, seg_room[write][seg])), 0);
        slow_if(t, CC_A, i);
    }
    emit_op(e, 0, lea_size(t), 0x03, H_AX, base, 0);
}

static void cut_to_16(struct tr *t, unsigned size)
{
    if (size == 2)
        emit_op(&t->e, 0, 4, OPC(OF0, 0, 0xb7), H_AX, in_reg(H_AX), 0);
}

void string_destination(struct tr *t, const struct insn *i, bool write)
{
    emit_lea(&t->e, lea_size(t), H_AX, host_of[R_DI], H_NONE, 0, 0);
    cut_to_16(t, i->asize);
    segment_apply(t, i, S_ES, i->size, write);
    check(t, i, H_AX, i->size, write);
}

bool address(struct tr *t, const struct insn *i, unsigned size, bool write)
{
    if (!plain_address(t, i))
        return false;
    flags_spill(t);
    unsigned base = address_reg(t, i->base, H_AX);
    unsigned index = address_reg(t, i->index, H_14);
    emit_lea(&t->e, lea_size(t), H_AX, base, index, i->scale, address_disp(t, i->base, i->disp));
    cut_to_16(t, i->asize);
    segment_apply(t, i, i->seg, size, write);
    check(t, i, H_AX, size, write);
    return true;
}

bool bit_string_address(struct tr *t, const struct insn *i)
{
    struct emit *e = &t->e;
    if (narrow(t) || i->asize != 8 || i->size < 4 || !plain_address(t, i))
        return false;
    flags_spill(t);
    unsigned base = address_reg(t, i->base, H_AX);
    unsigned index = address_reg(t, i->index, H_14);
    emit_lea(e, 8, H_AX, base, index, i->scale, address_disp(t, i->base, i->disp));
    held_drop(t);
    emit_op(e, 0, 8, i->size == 8 ? 0x8b : 0x63, H_14, in_reg(reg_get(t, i->reg, H_14)), 0);
    held_drop(t);
    emit_op(e, 0, 8, 0xc1, 7, in_reg(H_14), 0), e8(e, i->size == 8 ? 6 : 5); /* sar */
    emit_lea(e, 8, H_AX, H_AX, H_14, i->size == 8 ? 3 : 2, 0);
    segment_apply(t, i, i->seg, i->size, false);
    check(t, i, H_AX, i->size, false);
    return true;
}

/* ---- Windows ---- */

static bool covers(const struct window *w, int64_t at, unsigned size, bool write)
{
    return at >= w->first && at + size <= w->first + w->size && (w->write || !write);
}

/*
 * The accesses by `base` from the present instruction on, which is the first: how many there are,
 * and the range they lie in, from where the register points now.
 */
static unsigned look_ahead(const struct tr *t, unsigned base, int64_t disp, unsigned size,
                           bool write, struct window *w)
{
    unsigned uses = 0;
    int64_t moved = 0, first = disp, last = disp + size;
    for (unsigned n = t->n; n < t->block->count && n < t->n + LOOK_AHEAD; n++) {
        const struct insn *i = &t->block->insns[n];
        if (n > t->n && t->labels[n].sources & FROM_BELOW)
            break;
        struct access a =
            n == t->n ? (struct access){ (uint8_t)base, write, size, disp } : access_of(i);
        if (a.size && a.base == base) {
            int64_t from = a.disp + moved < first ? a.disp + moved : first;
            int64_t to = a.disp + moved + a.size > last ? a.disp + moved + a.size : last;
            if (to - from <= WINDOW_MAX) {
                first = from;
                last = to;
                write |= a.write;
                uses++;
            }
        }
        int64_t by;
        if (!register_moves(i, base, &by))
            break;
        moved += by;
    }
    *w = (struct window){ (uint8_t)base, write, (int32_t)first, (int32_t)(last - first), 0 };
    return uses;
}

/* lea of where the window begins */
static void window_address(struct tr *t, unsigned reg, const struct window *w)
{
    unsigned base = address_reg(t, w->base, H_AX);
    emit_lea(&t->e, 8, reg, base, H_NONE, 0, address_disp(t, w->base, w->first));
}

bool window_operand(struct tr *t, const struct insn *i, unsigned base, int64_t disp, unsigned size,
                    bool write)
{
    struct window *w = &t->window, wanted;
    if (w->base == base && covers(w, disp + w->moved, size, write)) {
        t->mem = at_offset(H_15, (int32_t)(disp + w->moved - w->first));
        return true;
    }
    if (!t->jit->windows || narrow(t) || t->block->no_windows || size > WINDOW_MAX)
        return false;
    unsigned uses = look_ahead(t, base, disp, size, write, &wanted);
    if (uses < 2)
        return false;
    if (w->base != REG_NONE && w->base != base) { /* is the present one worth more? */
        struct window present;
        if (look_ahead(t, w->base, w->first - w->moved, 1, false, &present) > uses)
            return false;
    }
    flags_spill(t);
    held_drop(t); /* the slow path comes back here */
    uint8_t *again = emit_exec(&t->e);
    window_address(t, H_15, &wanted);
    struct slow *slow = check(t, i, H_15, (unsigned)wanted.size, wanted.write);
    slow->window = wanted;
    slow->again = again;
    *w = wanted;
    t->mem = at_offset(H_15, (int32_t)(disp - w->first));
    return true;
}

void window_follow(struct tr *t, const struct insn *i)
{
    int64_t by;
    if (t->window.base == REG_NONE)
        return;
    if (register_moves(i, t->window.base, &by) &&
        by + t->window.moved == (int32_t)(by + t->window.moved))
        t->window.moved += (int32_t)by;
    else
        t->window.base = REG_NONE;
}

void window_slow_path(struct tr *t, const struct slow *s)
{
    struct emit *e = &t->e;
    window_address(t, H_AX, &s->window);
    emit_store(e, in_vcpu(offsetof(struct soft_vcpu, jit_window_va)), H_AX);
    emit_imm32(e, H_15, (uint32_t)s->window.size << 1 | s->window.write);
    pins_undo(t);
    number_load(t, s->insn);
    emit_imm64(e, H_14, (uint64_t)(uintptr_t)t->block);
    emit_call(e, t->jit->open_window);
    pins_set(t);
}

bool mem_operand(struct tr *t, const struct insn *i, unsigned size, bool write)
{
    if (!plain_address(t, i))
        return false;
    if (i->seg != S_FS && i->seg != S_GS && i->index == REG_NONE && i->base != REG_NONE &&
        window_operand(t, i, i->base, i->disp, size, write))
        return true;
    t->mem = at(H_AX);
    return address(t, i, size, write);
}

/* ---- The stack ---- */

static void stack_check(struct tr *t, const struct insn *i, unsigned reg, int32_t offset,
                        bool write)
{
    if (window_operand(t, i, reg, offset, i->size, write))
        return;
    flags_spill(t);
    emit_lea(&t->e, lea_size(t), H_AX, host_of[reg], H_NONE, 0, address_disp(t, reg, offset));
    cut_to_16(t, stack_size_of(t));
    segment_apply(t, i, S_SS, i->size, write);
    check(t, i, H_AX, i->size, write);
    t->mem = at(H_AX);
}
void stack_operand(struct tr *t, const struct insn *i, int32_t offset, bool write)
{
    stack_check(t, i, R_SP, offset, write);
}
void frame_operand(struct tr *t, const struct insn *i) { stack_check(t, i, R_BP, 0, false); }
