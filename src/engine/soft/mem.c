/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Accesses of handlers that are more than a tag compare: page crossings, MMIO, pages with code,
 * alignment checks, watchpoints; and segment-checked addressing and the stack.
 */
#include "engine/soft/mem.h"

#include "engine/soft/place.h"
#include "engine/soft/run.h"

/* ---- Watchpoints: the guest's debug registers and the host's debugger ---- */

static void watch_check(struct soft_vcpu *v, uint64_t va, unsigned size, bool write)
{
    for (unsigned n = 0; n < 4; n++) {
        unsigned kind = v->dr7 >> (16 + n * 4) & 3, code = v->dr7 >> (18 + n * 4) & 3;
        unsigned len = code == 2 ? 8 : code + 1;
        if (!(v->dr7 >> (n * 2) & 3) || kind == DEBUG_EXEC || (kind == DEBUG_WRITE && !write))
            continue;
        if (ranges_overlap(va, size, v->dr[n] & ~(uint64_t)(len - 1), len))
            v->run->dr6_trap |= 1u << n;
    }
    for (unsigned n = 0; n < v->run->point_count; n++) {
        const struct debug_point *p = &v->run->points[n];
        if (p->kind != DEBUG_EXEC && (write || p->kind == DEBUG_ACCESS) &&
            ranges_overlap(va, size, p->gva, p->len))
            v->run->host_hit = (int)n;
    }
}

/* ---- Accesses that missed the fast path ---- */

/* How much of [va, va + size) lies in va's page. */
static unsigned head_size(uint64_t va, unsigned size)
{
    uint64_t left = PAGE_SIZE - (va & (PAGE_SIZE - 1));
    return left < size ? (unsigned)left : size;
}

/* SDM vol. 3A 6.15, table 6-7. Ten bytes count as eight, 32 as 16; areas of several fields are not
 * checked, as on AMD's CPUs. */
static bool misaligned(uint64_t va, unsigned size)
{
    unsigned align = size == 10 ? 8 : size == 32 ? 16 : size;
    return align <= 16 && !(align & (align - 1)) && va & (align - 1) && is_canonical(va);
}

/* Where [va, va + size) is: `head` bytes in its first page, the others, if any, in the second. */
struct span {
    struct place first, second;
    unsigned head;
};

/* Raises whatever an access to all of it would. That its end is no address comes before a fault of
 * the first page. */
static int span_find(struct soft_vcpu *v, uint64_t va, unsigned size, enum access_kind access,
                     struct span *s)
{
    if (alignment_is_checked(v) && misaligned(va, size))
        return raise_error(v, EXC_AC, 0);
    s->head = head_size(va, size);
    if (s->head < size && v->long_mode && !is_canonical(va + size - 1))
        return raise_noncanonical(v);
    int r = tlb_translate(v, va, access, &s->first);
    return r || s->head == size ? r : tlb_translate(v, linear(v, va + s->head), access, &s->second);
}

int gva_load(struct soft_vcpu *v, uint64_t va, void *out, unsigned size)
{
    va = linear(v, va);
    const uint8_t *hit = tlb_hit(tlb_slot(v, va), tlb_slot(v, va)->read, va, size);
    if (hit) { /* descriptors, above all */
        bytes_load(out, hit, size);
        return 0;
    }
    struct span s;
    int r = span_find(v, va, size, ACCESS_READ, &s);
    if (r)
        return r;
    if (unlikely(v->run->watch))
        watch_check(v, va, size, false);
    place_load(v, &s.first, out, s.head);
    if (s.head < size)
        place_load(v, &s.second, (uint8_t *)out + s.head, size - s.head);
    return 0;
}

/* A store to a page that has a store tag, or that only its code keeps from having one. */
static bool store_by_tag(struct soft_vcpu *v, uint64_t va, const void *data, unsigned size)
{
    const struct tlb_entry *e = tlb_slot(v, va);
    uint8_t *to = tlb_hit(e, e->write, va, size);
    if (to) {
        bytes_store(to, data, size);
        return true;
    }
    to = tlb_hit(e, e->read, va, size);
    struct code_page *p = e->write == e->read ? NULL : tlb_code_page(e->write);
    if (!to || !p)
        return false;
    bytes_store(to, data, size);
    code_stored(v, p, va & (PAGE_SIZE - 1), size);
    return true;
}

int gva_store(struct soft_vcpu *v, uint64_t va, const void *data, unsigned size)
{
    va = linear(v, va);
    if (store_by_tag(v, va, data, size))
        return 0;
    struct span s;
    int r = span_find(v, va, size, ACCESS_WRITE, &s);
    if (r)
        return r;
    if (unlikely(v->run->watch))
        watch_check(v, va, size, true);
    place_store(v, &s.first, data, s.head);
    if (s.head < size)
        place_store(v, &s.second, (const uint8_t *)data + s.head, size - s.head);
    return 0;
}

int gva_probe_write(struct soft_vcpu *v, uint64_t va, unsigned size)
{
    struct span s;
    return span_find(v, linear(v, va), size, ACCESS_WRITE, &s);
}

int gva_load_slow(struct soft_vcpu *v, uint64_t va, void *out, unsigned size)
{
    va = linear(v, va);
    tlb_refill(v, va, ACCESS_READ);
    return gva_load(v, va, out, size);
}
int gva_store_slow(struct soft_vcpu *v, uint64_t va, const void *data, unsigned size)
{
    va = linear(v, va);
    tlb_refill(v, va, ACCESS_WRITE);
    return gva_store(v, va, data, size);
}

int gva_load_system(struct soft_vcpu *v, uint64_t va, void *out, unsigned size)
{
    unsigned mode = tlb_system_begin(v);
    int r = gva_load(v, va, out, size);
    tlb_system_end(v, mode);
    return r;
}

int gva_store_system(struct soft_vcpu *v, uint64_t va, const void *data, unsigned size)
{
    unsigned mode = tlb_system_begin(v);
    int r = gva_store(v, va, data, size);
    tlb_system_end(v, mode);
    return r;
}

int rmw_begin_slow(struct soft_vcpu *v, uint64_t va, unsigned size, struct rmw *r)
{
    va = linear(v, va);
    struct span s;
    int fault = span_find(v, va, size, ACCESS_WRITE, &s);
    if (fault)
        return fault;
    r->va = va;
    r->size = size;
    r->code = NULL;
    if (unlikely(v->run->watch))
        watch_check(v, va, size, true);
    const struct place *p = &s.first;
    if (p->hva && p->writable_ram && s.head == size) {
        place_mark_dirty(p);
        r->p = p->hva;
        r->direct = true;
        if (place_has_code(p)) {
            r->code = p->ram;
            r->offset = p->offset;
        }
        return 0;
    }
    r->p = r->copy;
    r->direct = false;
    return gva_load(v, va, r->copy, size);
}

void rmw_end_slow(struct soft_vcpu *v, struct rmw *r)
{
    if (r->direct)
        code_written(soft_engine_of(v), r->code, r->offset, r->size);
    else /* translated just now: only another vCPU can have unmapped it */
        gva_store(v, r->va, r->copy, r->size);
}

/* ---- Effective addresses outside plain 64-bit addressing ---- */

uint64_t ea_indexed(const struct soft_vcpu *v, const struct insn *i, uint64_t index)
{
    uint64_t offset = v->gpr[i->base] + (index << i->scale) + (uint64_t)insn_disp(i);
    return offset & size_mask(i->asize);
}

/* Segment limit and type checks, SDM vol. 3A 5.3 and 5.4; `limit` violations of SS raise #SS. */
int segment_check(struct soft_vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool write)
{
    if (likely(offset + size <= v->seg_room[write][seg]))
        return 0;
    const struct x86_segment *s = &v->seg[seg];
    unsigned vector = seg == S_SS ? EXC_SS : EXC_GP;
    if (s->attr & SEG_UNUSABLE || !(s->attr & SEG_P))
        return raise_gp(v, 0);
    if (v->cr0 & CR0_PE && !v8086_mode(v)) {
        bool code = s->attr & 8;
        if (write ? code || !(s->attr & 2) : code && !(s->attr & 2))
            return raise_gp(v, 0);
    }
    bool expand_down = (s->attr & 0xc) == 4;
    uint64_t last = offset + size - 1;
    if (expand_down) {
        uint64_t top = s->attr & SEG_DB ? 0xffffffff : 0xffff;
        if (offset <= s->limit || last > top)
            return raise_error(v, (uint8_t)vector, 0);
    } else if (last > s->limit) {
        return raise_error(v, (uint8_t)vector, 0);
    }
    return 0;
}

int segment_linear(struct soft_vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool write,
                   uint64_t *va)
{
    if (v->mode == MODE_64) {
        *va = offset + v->seg_base[seg];
        return 0;
    }
    if (size == 0)
        size = 1;
    int r = segment_check(v, seg, offset, size, write);
    if (r)
        return r;
    *va = (offset + v->seg_base[seg]) & 0xffffffff;
    return 0;
}

int ea_slow(struct soft_vcpu *v, const struct insn *i, unsigned size, bool write, uint64_t *va)
{
    return segment_linear(v, i->seg, ea_offset(v, i), size, write, va);
}

/* ---- Stack ---- */

int push(struct soft_vcpu *v, unsigned size, uint64_t value)
{
    uint64_t mask = size_mask(v->stack_size);
    uint64_t sp = (v->gpr[R_SP] - size) & mask;
    uint64_t va = sp;
    int r = 0;
    if (v->mode != MODE_64)
        r = segment_linear(v, S_SS, sp, size, true, &va);
    if (!r)
        r = size == 8   ? store64(v, va, value)
            : size == 4 ? store32(v, va, (uint32_t)value)
                        : store16(v, va, (uint16_t)value);
    if (r)
        return v->exc.vector == EXC_GP && v->mode == MODE_64 ? raise_error(v, EXC_SS, 0) : r;
    v->gpr[R_SP] = (v->gpr[R_SP] & ~mask) | sp;
    return 0;
}

int pop(struct soft_vcpu *v, unsigned size, uint64_t *value)
{
    uint64_t mask = size_mask(v->stack_size);
    uint64_t sp = v->gpr[R_SP] & mask;
    uint64_t va = sp, got = 0;
    int r = 0;
    if (v->mode != MODE_64)
        r = segment_linear(v, S_SS, sp, size, false, &va);
    if (!r) {
        uint32_t d = 0;
        uint16_t w = 0;
        if (size == 8)
            r = load64(v, va, &got);
        else if (size == 4)
            r = load32(v, va, &d), got = d;
        else
            r = load16(v, va, &w), got = w;
    }
    if (r)
        return v->exc.vector == EXC_GP && v->mode == MODE_64 ? raise_error(v, EXC_SS, 0) : r;
    *value = got;
    v->gpr[R_SP] = (v->gpr[R_SP] & ~mask) | ((sp + size) & mask);
    return 0;
}
