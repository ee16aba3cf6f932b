/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * String instructions, with REP in bulk.
 *
 * A repeated instruction works element by element until both its pages are in the TLB, then a
 * page's worth at a time on the host's own REP instruction, whose semantics (overlap included) are
 * the guest's. After each such piece the registers stand as the SDM wants them at an interrupt, and
 * the instruction gives way when a request waits.
 */
#include "engine/soft/mem.h"
#include "engine/soft/run.h"
#include "engine/soft/sys.h"
#include "machine/machine.h"

enum { REPEATS = IF_REP | IF_REPNE };

static uint64_t index_get(const struct soft_vcpu *v, const struct insn *i, unsigned reg)
{
    return v->gpr[reg] & size_mask(i->asize);
}

static void index_add(struct soft_vcpu *v, const struct insn *i, unsigned reg, int64_t delta)
{
    gpr_set(v, reg, i->asize, (v->gpr[reg] + (uint64_t)delta) & size_mask(i->asize));
}

static int64_t step_of(const struct soft_vcpu *v, const struct insn *i, unsigned size)
{
    (void)i;
    return v->flags & FL_DF ? -(int64_t)size : (int64_t)size;
}

static int source(struct soft_vcpu *v, const struct insn *i, unsigned size, uint64_t *va)
{
    return segment_linear(v, i->seg, index_get(v, i, R_SI), size, false, va);
}

static int destination(struct soft_vcpu *v, const struct insn *i, unsigned size, bool write,
                       uint64_t *va)
{
    return segment_linear(v, S_ES, index_get(v, i, R_DI), size, write, va);
}

static int load_any(struct soft_vcpu *v, uint64_t va, unsigned size, uint64_t *out)
{
    *out = 0;
    switch (size) {
    case 1: return load8(v, va, (uint8_t *)out);
    case 2: return load16(v, va, (uint16_t *)out);
    case 4: return load32(v, va, (uint32_t *)out);
    default: return load64(v, va, out);
    }
}

static int store_any(struct soft_vcpu *v, uint64_t va, unsigned size, uint64_t value)
{
    switch (size) {
    case 1: return store8(v, va, (uint8_t)value);
    case 2: return store16(v, va, (uint16_t)value);
    case 4: return store32(v, va, (uint32_t)value);
    default: return store64(v, va, value);
    }
}

static bool interrupted(const struct soft_vcpu *v)
{
    return atomic_load_explicit(&v->request, memory_order_relaxed);
}

/* Runs `one` as often as REP says. `bulk` (may be NULL) does up to `count` elements at once and
 * answers how many. */
typedef int one_fn(struct soft_vcpu *v, const struct insn *i);
typedef uint64_t bulk_fn(struct soft_vcpu *v, const struct insn *i, uint64_t count);

static int repeat(struct soft_vcpu *v, const struct insn *i, one_fn *one, bulk_fn *bulk, bool by_zf)
{
    if (!(i->flags & REPEATS))
        return one(v, i);
    for (;;) {
        uint64_t count = v->gpr[R_CX] & size_mask(i->asize);
        if (!count)
            break;
        uint64_t done = bulk && count > 1 ? bulk(v, i, count) : 0;
        if (!done) {
            int r = one(v, i);
            if (r)
                return r;
            done = 1;
        }
        gpr_set(v, R_CX, i->asize, count - done);
        if (by_zf && !(v->cc >> 14 & 1) == !!(i->flags & IF_REP))
            break;
        if (count != done && interrupted(v))
            return OP_AGAIN;
    }
    return OP_NEXT;
}

/* How many elements from `va` on, going up, lie in its page and may be reached by the host address
 * *p. */
static uint64_t reach(struct soft_vcpu *v, uint64_t va, unsigned size, bool write, uint8_t **p)
{
    const struct tlb_entry *e = tlb_slot(v, va);
    *p = tlb_hit(e, write ? e->write : e->read, va, 1);
    if (!*p)
        return 0;
    return (PAGE_SIZE - (va & (PAGE_SIZE - 1))) / size;
}

/* Bulk work only where addresses cannot wrap and no limit can be passed on the way. */
static bool plain(const struct soft_vcpu *v, const struct insn *i)
{
    return v->mode == MODE_64 && i->asize == 8 && !(v->flags & FL_DF);
}

/* ---- MOVS, STOS, LODS ---- */

static int movs_one(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t from, to, x;
    int r = source(v, i, i->size, &from);
    if (!r)
        r = load_any(v, from, i->size, &x);
    if (!r)
        r = destination(v, i, i->size, true, &to);
    if (!r)
        r = store_any(v, to, i->size, x);
    if (r)
        return r;
    int64_t step = step_of(v, i, i->size);
    index_add(v, i, R_SI, step);
    index_add(v, i, R_DI, step);
    return OP_NEXT;
}

static uint64_t movs_bulk(struct soft_vcpu *v, const struct insn *i, uint64_t count)
{
    if (!plain(v, i))
        return 0;
    uint8_t *from = NULL, *to = NULL;
    uint64_t a = reach(v, v->gpr[R_SI] + v->seg_base[i->seg], i->size, false, &from);
    uint64_t b = reach(v, v->gpr[R_DI], i->size, true, &to);
    uint64_t n = a < b ? a : b;
    if (n > count)
        n = count;
    if (!n)
        return 0;
    uint64_t left = n;
    switch (i->size) {
    case 1: __asm__ volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(left) : : "memory"); break;
    case 2: __asm__ volatile("rep movsw" : "+S"(from), "+D"(to), "+c"(left) : : "memory"); break;
    case 4: __asm__ volatile("rep movsl" : "+S"(from), "+D"(to), "+c"(left) : : "memory"); break;
    default: __asm__ volatile("rep movsq" : "+S"(from), "+D"(to), "+c"(left) : : "memory");
    }
    v->gpr[R_SI] += n * i->size;
    v->gpr[R_DI] += n * i->size;
    return n;
}

static int stos_one(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t to;
    int r = destination(v, i, i->size, true, &to);
    if (!r)
        r = store_any(v, to, i->size, v->gpr[R_AX]);
    if (!r)
        index_add(v, i, R_DI, step_of(v, i, i->size));
    return r;
}

static uint64_t stos_bulk(struct soft_vcpu *v, const struct insn *i, uint64_t count)
{
    if (!plain(v, i))
        return 0;
    uint8_t *to = NULL;
    uint64_t n = reach(v, v->gpr[R_DI], i->size, true, &to);
    if (n > count)
        n = count;
    if (!n)
        return 0;
    uint64_t left = n, ax = v->gpr[R_AX];
    switch (i->size) {
    case 1: __asm__ volatile("rep stosb" : "+D"(to), "+c"(left) : "a"(ax) : "memory"); break;
    case 2: __asm__ volatile("rep stosw" : "+D"(to), "+c"(left) : "a"(ax) : "memory"); break;
    case 4: __asm__ volatile("rep stosl" : "+D"(to), "+c"(left) : "a"(ax) : "memory"); break;
    default: __asm__ volatile("rep stosq" : "+D"(to), "+c"(left) : "a"(ax) : "memory");
    }
    v->gpr[R_DI] += n * i->size;
    return n;
}

static int lods_one(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t from, x;
    int r = source(v, i, i->size, &from);
    if (!r)
        r = load_any(v, from, i->size, &x);
    if (r)
        return r;
    if (i->size == 1)
        *(uint8_t *)&v->gpr[R_AX] = (uint8_t)x;
    else
        gpr_set(v, R_AX, i->size, x);
    index_add(v, i, R_SI, step_of(v, i, i->size));
    return OP_NEXT;
}

/* ---- CMPS, SCAS ---- */

static void compare(struct soft_vcpu *v, unsigned size, uint64_t a, uint64_t b)
{
    uint16_t out;
    switch (size) {
    case 1:
        __asm__("cmpb %b2, %b1\n\tlahf\n\tseto %%al" : "=&a"(out) : "q"(a), "q"(b) : "cc");
        break;
    case 2:
        __asm__("cmpw %w2, %w1\n\tlahf\n\tseto %%al" : "=&a"(out) : "r"(a), "r"(b) : "cc");
        break;
    case 4:
        __asm__("cmpl %k2, %k1\n\tlahf\n\tseto %%al" : "=&a"(out) : "r"(a), "r"(b) : "cc");
        break;
    default: __asm__("cmpq %2, %1\n\tlahf\n\tseto %%al" : "=&a"(out) : "r"(a), "r"(b) : "cc");
    }
    v->cc = out;
}

static int cmps_one(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t first, second, a, b;
    int r = source(v, i, i->size, &first);
    if (!r)
        r = load_any(v, first, i->size, &a);
    if (!r)
        r = destination(v, i, i->size, false, &second);
    if (!r)
        r = load_any(v, second, i->size, &b);
    if (r)
        return r;
    compare(v, i->size, a, b);
    int64_t step = step_of(v, i, i->size);
    index_add(v, i, R_SI, step);
    index_add(v, i, R_DI, step);
    return OP_NEXT;
}

static int scas_one(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t at, b;
    int r = destination(v, i, i->size, false, &at);
    if (!r)
        r = load_any(v, at, i->size, &b);
    if (r)
        return r;
    compare(v, i->size, v->gpr[R_AX], b);
    index_add(v, i, R_DI, step_of(v, i, i->size));
    return OP_NEXT;
}

/* ---- INS, OUTS ---- */

static unsigned io_size(const struct insn *i) { return i->size > 4 ? 4 : i->size; }

static int ins_one(struct soft_vcpu *v, const struct insn *i)
{
    unsigned size = io_size(i);
    uint16_t port = (uint16_t)v->gpr[R_DX];
    uint64_t to;
    struct rmw m;
    int r = io_check(v, port, size);
    if (!r)
        r = destination(v, i, size, true, &to);
    if (!r) /* the page must be there before the device gives up its data */
        r = rmw_begin(v, to, size, &m);
    if (!r)
        r = store_any(v, to, size, bus_read(machine_of(v), SPACE_IO, port, size));
    if (!r)
        index_add(v, i, R_DI, step_of(v, i, size));
    return r;
}

static int outs_one(struct soft_vcpu *v, const struct insn *i)
{
    unsigned size = io_size(i);
    uint16_t port = (uint16_t)v->gpr[R_DX];
    uint64_t from, x;
    int r = io_check(v, port, size);
    if (!r)
        r = source(v, i, size, &from);
    if (!r)
        r = load_any(v, from, size, &x);
    if (r)
        return r;
    bus_write(machine_of(v), SPACE_IO, port, size, x);
    index_add(v, i, R_SI, step_of(v, i, size));
    return OP_NEXT;
}

static int movs(struct soft_vcpu *v, const struct insn *i)
{
    return repeat(v, i, movs_one, movs_bulk, false);
}
static int stos(struct soft_vcpu *v, const struct insn *i)
{
    return repeat(v, i, stos_one, stos_bulk, false);
}
static int lods(struct soft_vcpu *v, const struct insn *i)
{
    return repeat(v, i, lods_one, NULL, false);
}
static int cmps(struct soft_vcpu *v, const struct insn *i)
{
    return repeat(v, i, cmps_one, NULL, true);
}
static int scas(struct soft_vcpu *v, const struct insn *i)
{
    return repeat(v, i, scas_one, NULL, true);
}
static int ins(struct soft_vcpu *v, const struct insn *i)
{
    int r = io_check(v, (uint16_t)v->gpr[R_DX], io_size(i)); /* even for a count of 0 */
    return r ? r : repeat(v, i, ins_one, NULL, false);
}
static int outs(struct soft_vcpu *v, const struct insn *i)
{
    int r = io_check(v, (uint16_t)v->gpr[R_DX], io_size(i));
    return r ? r : repeat(v, i, outs_one, NULL, false);
}

static int xlat(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t va, offset = (v->gpr[R_BX] + (uint8_t)v->gpr[R_AX]) & size_mask(i->asize);
    uint8_t x;
    int r = segment_linear(v, i->seg, offset, 1, false, &va);
    if (!r)
        r = load8(v, va, &x);
    if (!r)
        *(uint8_t *)&v->gpr[R_AX] = x;
    return r;
}

const struct op op_movs = OP_ALL(movs), op_stos = OP_ALL(stos), op_lods = OP_ALL(lods),
                op_cmps = OP_ALL(cmps), op_scas = OP_ALL(scas), op_ins = OP_ALL(ins),
                op_outs = OP_ALL(outs), op_xlat = OP_ALL(xlat);
