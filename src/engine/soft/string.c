/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * String instructions, with REP in bulk.
 *
 * A repeated instruction works element by element until its pages are in the TLB, then on all
 * elements that can be reached in them at once, up or down. MOVS and STOS are the host's own REP
 * instruction, whose semantics (overlap included) are the guest's. After each such piece the
 * registers stand as the SDM wants them at an interrupt, and the instruction gives way when a
 * request waits.
 */
#include "engine/soft/mem.h"
#include "engine/soft/run.h"
#include "engine/soft/sys.h"
#include "machine/machine.h"

#include <string.h>

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
        /* A trap comes behind every element. */
        uint64_t done = bulk && count > 1 && !(v->flags & FL_TF) ? bulk(v, i, count) : 0;
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

/* ---- Bulk: the elements that lie in the pages of the first ones ---- */

/* One side of a string: where its first element is, and how many can be reached from there on in
 * the direction of DF: in this page, without the index wrapping, inside the segment. */
struct run {
    uint8_t *p;
    uint64_t count;
};

static bool run_find(struct soft_vcpu *v, const struct insn *i, unsigned seg, unsigned reg,
                     bool write, uint64_t count, struct run *run)
{
    const uint64_t size = i->size, index = index_get(v, i, reg), mask = size_mask(i->asize);
    const bool down = v->flags & FL_DF;
    uint64_t va;
    if (segment_linear(v, seg, index, i->size, write, &va))
        return false;
    const struct tlb_entry *e = tlb_slot(v, va);
    run->p = tlb_hit(e, write ? e->write : e->read, va, i->size);
    if (!run->p)
        return false;
    const uint64_t in_page = va & (PAGE_SIZE - 1);
    uint64_t n = down ? in_page / size + 1 : (PAGE_SIZE - in_page) / size;
    const uint64_t unwrapped = down ? index / size + 1 : (mask - index) / size;
    if (n > unwrapped)
        n = unwrapped;
    if (n > count)
        n = count;
    if (n < 2)
        return false; /* one by one */
    const uint64_t last = down ? index - (n - 1) * size : index + (n - 1) * size;
    if (v->mode != MODE_64 && segment_check(v, seg, last, i->size, write))
        return false; /* the limit is on the way */
    run->count = n;
    return true;
}

static bool source_run(struct soft_vcpu *v, const struct insn *i, uint64_t count, struct run *run)
{
    return run_find(v, i, i->seg, R_SI, false, count, run);
}
static bool destination_run(struct soft_vcpu *v, const struct insn *i, bool write, uint64_t count,
                            struct run *run)
{
    return run_find(v, i, S_ES, R_DI, write, count, run);
}

/* `n` elements of the string at rSI or rDI are done. */
static void advance(struct soft_vcpu *v, const struct insn *i, unsigned reg, uint64_t n)
{
    index_add(v, i, reg, step_of(v, i, i->size) * (int64_t)n);
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

#define HOST_REP(name, ...)                                             \
    do {                                                                \
        if (v->flags & FL_DF)                                           \
            __asm__ volatile("std\n\trep " name "\n\tcld" __VA_ARGS__); \
        else                                                            \
            __asm__ volatile("rep " name __VA_ARGS__);                  \
    } while (0)

static uint64_t movs_bulk(struct soft_vcpu *v, const struct insn *i, uint64_t count)
{
    struct run from, to;
    if (!source_run(v, i, count, &from) || !destination_run(v, i, true, from.count, &to))
        return 0;
    uint64_t left = to.count;
    switch (i->size) {
    case 1: HOST_REP("movsb", : "+S"(from.p), "+D"(to.p), "+c"(left) : : "memory"); break;
    case 2: HOST_REP("movsw", : "+S"(from.p), "+D"(to.p), "+c"(left) : : "memory"); break;
    case 4: HOST_REP("movsl", : "+S"(from.p), "+D"(to.p), "+c"(left) : : "memory"); break;
    default: HOST_REP("movsq", : "+S"(from.p), "+D"(to.p), "+c"(left) : : "memory");
    }
    advance(v, i, R_SI, to.count);
    advance(v, i, R_DI, to.count);
    return to.count;
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
    struct run to;
    if (!destination_run(v, i, true, count, &to))
        return 0;
    uint64_t left = to.count, ax = v->gpr[R_AX];
    switch (i->size) {
    case 1: HOST_REP("stosb", : "+D"(to.p), "+c"(left) : "a"(ax) : "memory"); break;
    case 2: HOST_REP("stosw", : "+D"(to.p), "+c"(left) : "a"(ax) : "memory"); break;
    case 4: HOST_REP("stosl", : "+D"(to.p), "+c"(left) : "a"(ax) : "memory"); break;
    default: HOST_REP("stosq", : "+D"(to.p), "+c"(left) : "a"(ax) : "memory");
    }
    advance(v, i, R_DI, to.count);
    return to.count;
}

static void accumulator_set(struct soft_vcpu *v, unsigned size, uint64_t x)
{
    if (size == 1)
        *(uint8_t *)&v->gpr[R_AX] = (uint8_t)x;
    else
        gpr_set(v, R_AX, size, x);
}

static uint64_t element(const struct run *run, unsigned size, bool down, uint64_t n)
{
    uint64_t x = 0;
    const uint8_t *p = down ? run->p - n * size : run->p + n * size;
    switch (size) {
    case 1: return *(const volatile uint8_t *)p;
    case 2: return memcpy(&x, p, 2), x;
    case 4: return memcpy(&x, p, 4), x;
    default: return memcpy(&x, p, 8), x;
    }
}

static int lods_one(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t from, x;
    int r = source(v, i, i->size, &from);
    if (!r)
        r = load_any(v, from, i->size, &x);
    if (r)
        return r;
    accumulator_set(v, i->size, x);
    index_add(v, i, R_SI, step_of(v, i, i->size));
    return OP_NEXT;
}

/* Only the last of them is left in the accumulator. */
static uint64_t lods_bulk(struct soft_vcpu *v, const struct insn *i, uint64_t count)
{
    struct run from;
    if (!source_run(v, i, count, &from))
        return 0;
    accumulator_set(v, i->size, element(&from, i->size, v->flags & FL_DF, from.count - 1));
    advance(v, i, R_SI, from.count);
    return from.count;
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

/*
 * The comparison ends with the first pair that differs (REPE) or is equal (REPNE). The flags are
 * made from the last pair anew: should another vCPU have changed it meanwhile, they are those of
 * the new values, and repeat() goes on if these say so.
 */

/* How many of `n` elements going up are equal, 8 bytes at a time; at most n. */
static uint64_t equal_elements(const uint8_t *a, const uint8_t *b, unsigned size, uint64_t n)
{
    uint64_t bytes = n * size, k = 0, x, y;
    for (; k + 8 <= bytes; k += 8) {
        memcpy(&x, a + k, 8);
        memcpy(&y, b + k, 8);
        if (x != y)
            return (k + (unsigned)__builtin_ctzll(x ^ y) / 8) / size;
    }
    while (k < bytes && a[k] == b[k])
        k++;
    return k / size;
}

static uint64_t cmps_bulk(struct soft_vcpu *v, const struct insn *i, uint64_t count)
{
    const bool down = v->flags & FL_DF, while_equal = i->flags & IF_REP;
    struct run first, second;
    if (!source_run(v, i, count, &first) || !destination_run(v, i, false, first.count, &second))
        return 0;
    const uint64_t n = second.count;
    uint64_t k = 0;
    if (while_equal && !down)
        k = equal_elements(first.p, second.p, i->size, n);
    else
        while (k < n && (element(&first, i->size, down, k) == element(&second, i->size, down, k)) ==
                            while_equal)
            k++;
    const uint64_t last = k < n ? k : n - 1;
    compare(v, i->size, element(&first, i->size, down, last),
            element(&second, i->size, down, last));
    advance(v, i, R_SI, last + 1);
    advance(v, i, R_DI, last + 1);
    return last + 1;
}

static uint64_t scas_bulk(struct soft_vcpu *v, const struct insn *i, uint64_t count)
{
    const bool down = v->flags & FL_DF, while_equal = i->flags & IF_REP;
    const uint64_t ax = v->gpr[R_AX] & size_mask(i->size);
    struct run at;
    if (!destination_run(v, i, false, count, &at))
        return 0;
    uint64_t k = 0;
    if (!while_equal && !down && i->size == 1) {
        const uint8_t *hit = memchr(at.p, (int)ax, at.count);
        k = hit ? (uint64_t)(hit - at.p) : at.count;
    } else {
        while (k < at.count && (element(&at, i->size, down, k) == ax) == while_equal)
            k++;
    }
    const uint64_t last = k < at.count ? k : at.count - 1;
    compare(v, i->size, ax, element(&at, i->size, down, last));
    advance(v, i, R_DI, last + 1);
    return last + 1;
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
    return repeat(v, i, lods_one, lods_bulk, false);
}
static int cmps(struct soft_vcpu *v, const struct insn *i)
{
    return repeat(v, i, cmps_one, cmps_bulk, true);
}
static int scas(struct soft_vcpu *v, const struct insn *i)
{
    return repeat(v, i, scas_one, scas_bulk, true);
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
