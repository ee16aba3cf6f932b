/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Decoding a block, and the handlers that stand for no instruction of the guest's. The invariants
 * are in code_block.h.
 */
#include "engine/soft/code_block.h"

#include "engine/soft/run.h"
#include "engine/soft/tlb.h"

#include <string.h>

/* ---- Handlers that stand for no guest instruction ---- */

int op_stale(struct soft_vcpu *v, const struct insn *i)
{
    (void)v, (void)i;
    return OP_AGAIN;
}

/* Behind the last instruction; its own length is 0, so "the next instruction" is where the block
 * ended. */
int op_block_end(struct soft_vcpu *v, const struct insn *i)
{
    v->rip = insn_rip(v, i);
    return OP_JUMP;
}

static int op_privileged(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    return raise_gp(v, 0);
}

static int op_undefined(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    return raise_ud(v);
}

/* ---- Decoding ---- */

/* So that the bytes of an instruction at `used` are there, or all up to the page's end at `room`.
 */
static void source_copy(struct source *src, unsigned used, unsigned room)
{
    while (src->copied < used + INSN_LONGEST && src->copied < room) {
        unsigned n = room - src->copied < SOURCE_PIECE ? room - src->copied : SOURCE_PIECE;
        memcpy(src->bytes + src->copied, src->ram->hva + src->offset + src->copied, n);
        src->copied += n;
    }
}

static void block_key_attrs(struct soft_vcpu *v, struct insn *i)
{
    uint32_t attr = insn_rows[i->row].attr;
    if (attr & AT_CPL0 && v->cpl)
        i->fn = op_privileged;
    if (attr & AT_PM && (real_mode(v) || v8086_mode(v)))
        i->fn = op_undefined;
}

static void insn_bad(struct insn *i, unsigned offset, bool gp)
{
    *i = (struct insn){ .fn = gp ? op_privileged : op_undefined,
                        .start = (uint16_t)offset,
                        .base = REG_NONE,
                        .index = REG_NONE };
}

/* Does a conditional branch further up lead behind this jump, where the block is to go on then? */
static bool jumps_over(const struct block *b, unsigned count, unsigned used)
{
    extern const struct op op_jmp_J, op_jmp_E, op_ret, op_ret_I;
    const struct op *op = insn_rows[b->insns[count - 1].row].op;
    if (op != &op_jmp_J && op != &op_jmp_E && op != &op_ret && op != &op_ret_I)
        return false;
    for (unsigned n = 0; n < count; n++)
        if (insn_rows[b->insns[n].row].attr & AT_FALLS && b->insns[n].imm == (int64_t)used)
            return true;
    return false;
}

int source_second(struct soft_vcpu *v, struct source *src)
{
    const uint64_t va2 = round_down(src->va, PAGE_SIZE) + PAGE_SIZE;
    bool global2;
    int r = tlb_fetch(v, va2, &src->ram2, &src->page2, &global2);
    if (r == 0)
        src->global &= global2;
    return r;
}

/* The bytes of an instruction that begins before the first page's end, at the block's start, and
 * goes on in the second. Answers OP_FAULT when that cannot be had. */
static int source_cross(struct soft_vcpu *v, struct source *src, unsigned room)
{
    int r = source_second(v, src);
    if (r)
        return r;
    if (!src->ram2)
        return raise_gp(v, 0);
    code_page_mark(v, src->ram2, src->page2);
    memcpy(src->bytes + room, src->ram2->hva + src->page2, INSN_LONGEST - room);
    return 0;
}

static void block_end(struct block *b, const struct source *src, unsigned count, unsigned used)
{
    b->insns[count] = (struct insn){
        .fn = op_block_end, .start = (uint16_t)used, .base = REG_NONE, .index = REG_NONE
    };
    b->count = (uint8_t)count;
    b->bytes = (uint16_t)used;
    b->ram = (uint8_t)src->ram->index;
    b->page = (uint32_t)(src->offset >> PAGE_SHIFT);
    b->place = src->offset & (PAGE_SIZE - 1);
    b->ram2 = b->place + used > PAGE_SIZE ? (uint8_t)src->ram2->index : NO_RAM;
    b->page2 = (uint32_t)(src->page2 >> PAGE_SHIFT);
    b->heat = 0; /* `b` is the scratch block, which ran before as others */
}

int block_decode(struct soft_vcpu *v, struct source *src, struct block *b)
{
    const unsigned room = (unsigned)(PAGE_SIZE - (src->offset & (PAGE_SIZE - 1)));
    const bool loops = soft_engine_of(v)->code.jit.loops;
    unsigned used = 0, count = 0;
    counter_add_one(&v->run->blocks_decoded);
    while (count < BLOCK_MAX) {
        struct insn *i = &b->insns[count];
        bool gp = false;
        unsigned left = room - used < INSN_LONGEST ? room - used : INSN_LONGEST;
        source_copy(src, used, room);
        int len = insn_decode(src->bytes + used, left, v->mode, v->features, used, i, &gp);
        if (len <= 0 && count) /* its own block, so that its bytes are fully accounted for */
            break;
        if (len == 0) {
            int r = source_cross(v, src, room);
            if (r)
                return r;
            left = INSN_LONGEST;
            len = insn_decode(src->bytes, left, v->mode, v->features, 0, i, &gp);
        }
        count++;
        if (len <= 0) {
            insn_bad(i, used, gp);
            used += left; /* whatever is written there may make it another instruction */
            break;
        }
        block_key_attrs(v, i);
        used += (unsigned)len;
        if (used >= room || ((insn_rows[i->row].attr & (AT_END | AT_FALLS)) == AT_END &&
                             !(loops && jumps_over(b, count, used))))
            break;
    }
    block_end(b, src, count, used);
    return 0;
}

bool block_is_current(const struct block *b, const struct source *src)
{
    const size_t head = block_head(b);
    return memcmp(src->bytes, src->ram->hva + src->offset, head) == 0 &&
           (b->ram2 == NO_RAM ||
            memcmp(src->bytes + head, src->ram2->hva + src->page2, block_tail(b)) == 0);
}
