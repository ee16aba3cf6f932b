/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest memory for handlers: effective addresses, loads, stores, read-modify-write.
 *
 * All answer 0 or OP_FAULT with v->exc set, and have then changed nothing. `va` is a linear
 * address. Fast paths are one tag compare into the TLB (tlb.h); everything else (MMIO, page
 * crossings, code pages) is in mem.c.
 */
#ifndef ENGINE_SOFT_MEM_H
#define ENGINE_SOFT_MEM_H

#include "engine/soft/cpu.h"
#include "engine/soft/tlb.h"

int gva_load_slow(struct soft_vcpu *v, uint64_t va, void *out, unsigned size);
int gva_store_slow(struct soft_vcpu *v, uint64_t va, const void *data, unsigned size);
/* Segment limits, 16- and 32-bit addressing, canonical form is left to the page walk. */
int ea_slow(struct soft_vcpu *v, const struct insn *i, unsigned size, bool write, uint64_t *va);

/* The address without segment base where IF_SLOWEA is not set. */
static inline uint64_t ea_plain(const struct soft_vcpu *v, const struct insn *i)
{
    return v->gpr[i->base] + (v->gpr[i->index] << i->scale) + (uint64_t)(int64_t)i->disp;
}
/* The linear address of the memory operand. `write` matters for the segment check outside 64-bit
 * mode. */
static inline int ea(struct soft_vcpu *v, const struct insn *i, unsigned size, bool write,
                     uint64_t *va)
{
    if (unlikely(i->flags & IF_SLOWEA))
        return ea_slow(v, i, size, write, va);
    *va = ea_plain(v, i) + v->seg_base[i->seg];
    return 0;
}
/* The address without segment base, as LEA gives it (all modes; not yet cut to the operand size),
 * and with this index. */
uint64_t ea_indexed(const struct soft_vcpu *v, const struct insn *i, uint64_t index);
static inline uint64_t ea_offset(const struct soft_vcpu *v, const struct insn *i)
{
    return ea_indexed(v, i, v->gpr[i->index]);
}

#define MEM_ACCESS(bits)                                                                  \
    static inline int load##bits(struct soft_vcpu *v, uint64_t va, uint##bits##_t *out)   \
    {                                                                                     \
        const struct tlb_entry *e = tlb_slot(v, va);                                      \
        const uint8_t *p = tlb_hit(e, e->read, va, bits / 8);                             \
        if (p) {                                                                          \
            *out = *(const volatile uint##bits##_t *)p;                                   \
            return 0;                                                                     \
        }                                                                                 \
        return gva_load_slow(v, va, out, bits / 8);                                       \
    }                                                                                     \
    static inline int store##bits(struct soft_vcpu *v, uint64_t va, uint##bits##_t value) \
    {                                                                                     \
        const struct tlb_entry *e = tlb_slot(v, va);                                      \
        uint8_t *p = tlb_hit(e, e->write, va, bits / 8);                                  \
        if (p) {                                                                          \
            *(volatile uint##bits##_t *)p = value;                                        \
            return 0;                                                                     \
        }                                                                                 \
        return gva_store_slow(v, va, &value, bits / 8);                                   \
    }
MEM_ACCESS(8)
MEM_ACCESS(16)
MEM_ACCESS(32)
MEM_ACCESS(64)

/* Any size up to 4096 bytes (XSAVE areas, descriptors, 16-byte operands): faults before any byte is
 * stored. */
int gva_load(struct soft_vcpu *v, uint64_t va, void *out, unsigned size);
int gva_store(struct soft_vcpu *v, uint64_t va, const void *data, unsigned size);
/* Faults as a store of `size` bytes would, and stores nothing. */
int gva_probe_write(struct soft_vcpu *v, uint64_t va, unsigned size);
/* Supervisor accesses whatever the CPL (descriptor tables, TSS). */
int gva_load_system(struct soft_vcpu *v, uint64_t va, void *out, unsigned size);
int gva_store_system(struct soft_vcpu *v, uint64_t va, const void *data, unsigned size);

/*
 * Read-modify-write. After rmw_begin, r.p points at the operand: guest RAM itself (host atomics
 * work on it, r.direct) or a copy (MMIO, page crossing). Change it, then rmw_end: writes the copy
 * back, drops code, marks dirty. No fault is possible in rmw_end.
 */
struct rmw {
    void *p;
    uint64_t va;
    unsigned size;
    bool direct;
    struct ram *code; /* the RAM of a direct operand whose page holds decoded code, or NULL */
    uint64_t offset;  /* of the operand there, whatever the page tables say by now */
    uint8_t copy[16] __attribute__((aligned(16)));
};
int rmw_begin_slow(struct soft_vcpu *v, uint64_t va, unsigned size, struct rmw *r);
void rmw_end_slow(struct soft_vcpu *v, struct rmw *r);
static inline int rmw_begin(struct soft_vcpu *v, uint64_t va, unsigned size, struct rmw *r)
{
    const struct tlb_entry *e = tlb_slot(v, va);
    r->p = tlb_hit(e, e->write, va, size);
    if (r->p) {
        r->direct = true;
        r->code = NULL;
        return 0;
    }
    return rmw_begin_slow(v, va, size, r);
}
static inline void rmw_end(struct soft_vcpu *v, struct rmw *r)
{
    if (unlikely(!r->direct || r->code))
        rmw_end_slow(v, r);
}

/* Offset in a segment -> linear address, with the checks of the current mode (none but the base in
 * 64-bit mode). */
int segment_linear(struct soft_vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool write,
                   uint64_t *va);
int segment_check(struct soft_vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool write);

/* Stack, by the mode's stack width. push/pop move RSP only on success. */
int push(struct soft_vcpu *v, unsigned size, uint64_t value);
int pop(struct soft_vcpu *v, unsigned size, uint64_t *value);

#endif
