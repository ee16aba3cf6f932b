/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the floating-point files (fp_*.c) share: entry checks, operands, running host instructions.
 *
 * The arithmetic runs on the host's own units. A handler checks that the guest may use the unit,
 * fetches the memory operand into a local (all faults happen here), runs the same instruction by
 * inline assembly, and only then writes guest state. No host exception can be delivered: SSE runs
 * with all exceptions masked (fp_sse.h), x87 leaves by non-waiting instructions.
 */
#ifndef ENGINE_SOFT_FP_H
#define ENGINE_SOFT_FP_H

#include "engine/soft/mem.h"

#include <string.h>

typedef struct {
    uint64_t q[2];
} __attribute__((aligned(16))) x128;
typedef x128 x128_unaligned __attribute__((aligned(1)));

enum { FSW_ES = 0x80, FSW_B = 0x8000, FSW_TOP = 0x3800, FSW_SF = 0x40 };
enum { FCW_INIT = 0x37f };
enum {
    MX_IE = 1,
    MX_DE = 2,
    MX_ZE = 4,
    MX_OE = 8,
    MX_UE = 16,
    MX_PE = 32,
    MX_FLAGS = 0x3f,
    MX_DAZ = 64
};
enum { MX_MASKS = 0x1f80, MX_FTZ = 0x8000, MX_INIT = 0x1f80, MX_VALID = 0xffff };

static inline x128 *xmm(struct soft_vcpu *v, unsigned n) { return (x128 *)v->fpu.vec[n]; }

/* ---- May the guest use the unit? `ENTER(sse)` opens a handler. ---- */
static inline bool ready_sse(const struct soft_vcpu *v)
{
    return likely(!((v->cr0 & (CR0_EM | CR0_TS)) | (~v->cr4 & CR4_OSFXSR)));
}
static inline int refuse_sse(struct soft_vcpu *v)
{
    return v->cr0 & CR0_EM || !(v->cr4 & CR4_OSFXSR) ? raise_ud(v) : raise(v, EXC_NM);
}
static inline bool ready_mmx(const struct soft_vcpu *v)
{
    return likely(!((v->cr0 & (CR0_EM | CR0_TS)) | (v->fpu.fsw & FSW_ES)));
}
static inline int refuse_mmx(struct soft_vcpu *v)
{
    return v->cr0 & CR0_EM ? raise_ud(v) : raise(v, v->cr0 & CR0_TS ? EXC_NM : EXC_MF);
}
/* x87 instructions that do not wait for pending exceptions */
static inline bool ready_x87_nowait(const struct soft_vcpu *v)
{
    return likely(!(v->cr0 & (CR0_EM | CR0_TS)));
}
static inline int refuse_x87_nowait(struct soft_vcpu *v) { return raise(v, EXC_NM); }
static inline bool ready_x87(const struct soft_vcpu *v) { return ready_mmx(v); }
/* CR0.NE = 0 would report by FERR# and IRQ 13, which no board here has: #MF in both cases. */
static inline int refuse_x87(struct soft_vcpu *v)
{
    return raise(v, v->cr0 & (CR0_EM | CR0_TS) ? EXC_NM : EXC_MF);
}
/* Both register files: cvtpi2ps and its like */
static inline bool ready_sse_mmx(const struct soft_vcpu *v) { return ready_sse(v) && ready_mmx(v); }
static inline int refuse_sse_mmx(struct soft_vcpu *v)
{
    return ready_sse(v) ? refuse_mmx(v) : refuse_sse(v);
}

#define ENTER(unit)                     \
    do {                                \
        if (unlikely(!ready_##unit(v))) \
            return refuse_##unit(v);    \
    } while (0)
#define TRY(call)            \
    do {                     \
        if (unlikely(call))  \
            return OP_FAULT; \
    } while (0)

/* ---- MMX registers: physical x87 registers with the exponent all ones ---- */
static inline uint64_t *mm(struct soft_vcpu *v, unsigned n) { return (uint64_t *)v->fpu.st[n & 7]; }
/* Every MMX instruction but EMMS: TOP = 0, all registers valid. Called when nothing can fault any
 * more. */
static inline void mmx_used(struct soft_vcpu *v)
{
    v->fpu.fsw &= ~FSW_TOP;
    v->fpu.ftw = 0xff;
}
static inline void mm_set(struct soft_vcpu *v, unsigned n, uint64_t value)
{
    *mm(v, n) = value;
    mm(v, n)[1] = 0xffff;
}

/* ---- Memory operands ---- */
static inline int load128(struct soft_vcpu *v, uint64_t va, x128 *out)
{
    const struct tlb_entry *e = tlb_slot(v, va);
    const uint8_t *p = tlb_hit(e, e->read, va, 16);
    if (p) {
        /* One access of 16 bytes: two of 8 would stall whoever reads the copy as a whole. */
        __asm__ volatile("movdqu %1, %%xmm0\n\tmovdqa %%xmm0, %0"
                         : "=m"(*out)
                         : "m"(*(const x128_unaligned *)p)
                         : "xmm0");
        return 0;
    }
    return gva_load(v, va, out, 16);
}
static inline int store128(struct soft_vcpu *v, uint64_t va, const x128 *data)
{
    const struct tlb_entry *e = tlb_slot(v, va);
    uint8_t *p = tlb_hit(e, e->write, va, 16);
    if (p) {
        __asm__ volatile("movdqu %1, %%xmm0\n\tmovdqu %%xmm0, %0"
                         : "=m"(*(x128_unaligned *)p)
                         : "m"(*(const x128_unaligned *)data)
                         : "xmm0");
        return 0;
    }
    return gva_store(v, va, data, 16);
}

/* The memory operand of 1, 2, 4, 8 or 16 bytes, zero-extended. Legacy SSE wants 16-byte operands
 * aligned. */
static inline int fetch(struct soft_vcpu *v, const struct insn *i, unsigned size, bool aligned,
                        x128 *out)
{
    uint64_t va;
    TRY(ea(v, i, size, false, &va));
    if (size < 16)
        *out = (x128){ { 0, 0 } };
    switch (size) {
    case 1: return load8(v, va, (uint8_t *)out);
    case 2: return load16(v, va, (uint16_t *)out);
    case 4: return load32(v, va, (uint32_t *)out);
    case 8: return load64(v, va, out->q);
    default: return aligned && va & 15 ? raise_gp(v, 0) : load128(v, va, out);
    }
}
static inline int put(struct soft_vcpu *v, const struct insn *i, unsigned size, bool aligned,
                      const void *data)
{
    uint64_t va;
    TRY(ea(v, i, size, true, &va));
    switch (size) {
    case 1: return store8(v, va, *(const uint8_t *)data);
    case 2: return store16(v, va, *(const uint16_t *)data);
    case 4: return store32(v, va, *(const uint32_t *)data);
    case 8: return store64(v, va, *(const uint64_t *)data);
    default: return aligned && va & 15 ? raise_gp(v, 0) : store128(v, va, data);
    }
}

/* MASKMOVQ and MASKMOVDQU: the bytes whose mask has its sign set, to DS:rDI (or the overriding
 * segment). */
static inline int masked_store(struct soft_vcpu *v, const struct insn *i, const void *data,
                               const void *mask, unsigned size)
{
    struct insn at = *i;
    uint64_t va;
    at.flags |= IF_MEM;
    at.base = R_DI;
    at.index = REG_NONE;
    at.disp = 0;
    if (at.asize != 8)
        at.flags |= IF_SLOWEA;
    TRY(ea(v, &at, size, true, &va));
    for (unsigned n = 0; n < size; n++)
        if (((const uint8_t *)mask)[n] & 0x80)
            TRY(store8(v, va + n, ((const uint8_t *)data)[n]));
    return OP_NEXT;
}

/* ---- 0..255 as macro arguments, for instructions whose immediate is part of the encoding ---- */
#define REP4(m, b) m(b) m((b) + 1) m((b) + 2) m((b) + 3)
#define REP16(m, b) REP4(m, b) REP4(m, (b) + 4) REP4(m, (b) + 8) REP4(m, (b) + 12)
#define REP64(m, b) REP16(m, b) REP16(m, (b) + 16) REP16(m, (b) + 32) REP16(m, (b) + 48)
#define REP128(m) REP64(m, 0) REP64(m, 64)
#define REP256(m) REP128(m) REP64(m, 128) REP64(m, 192)

#endif
