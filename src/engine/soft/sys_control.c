/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Control and debug registers, descriptor tables, the guest's TLB, the extended control register.
 */
#include "engine/soft/sys.h"

#include "engine/soft/mem.h"
#include "engine/soft/run.h"
#include "machine/machine.h"

#include <string.h>

/* ---- Control registers ---- */

static int pdptrs_load(struct soft_vcpu *v, uint64_t cr3)
{
    uint64_t entries[4], gpa = cr3 & 0xffffffe0;
    for (unsigned n = 0; n < 4; n++) {
        entries[n] = bus_read(machine_of(v), SPACE_MEMORY, gpa + n * 8, 8);
        if (entries[n] & 1 && entries[n] & (0x1e6 | ~v->run->phys_mask))
            return raise_gp(v, 0);
    }
    memcpy(v->pdptr, entries, sizeof entries);
    return 0;
}

int cr0_write(struct soft_vcpu *v, uint64_t value)
{
    const uint64_t known = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM |
                           (1u << 29) | (1u << 30) | CR0_PG;
    uint64_t old = v->cr0;
    if (value >> 32 || (value & CR0_PG && !(value & CR0_PE)) ||
        (value & CR0_NW && !(value & CR0_CD)))
        return raise_gp(v, 0);
    value = (value & known) | CR0_ET;
    bool paging_on = value & ~old & CR0_PG, paging_off = old & ~value & CR0_PG;
    if (paging_on && v->efer & EFER_LME) {
        if (!(v->cr4 & CR4_PAE) || v->seg[S_CS].attr & SEG_L)
            return raise_gp(v, 0);
    } else if (paging_on && v->cr4 & CR4_PAE) {
        int r = pdptrs_load(v, v->cr3);
        if (r)
            return r;
    }
    if (paging_off && (v->mode == MODE_64 || v->cr4 & CR4_PCIDE))
        return raise_gp(v, 0);
    v->cr0 = value;
    if (paging_on && v->efer & EFER_LME) {
        v->long_mode = true;
        v->efer |= EFER_LMA;
    }
    if (paging_off) {
        v->long_mode = false;
        v->efer &= ~(uint64_t)EFER_LMA;
    }
    if ((old ^ value) & (CR0_PG | CR0_WP))
        tlb_flush(v);
    /* PE alone changes no translation: it cannot be cleared while paging is on. */
    if ((old ^ value) & (CR0_PG | CR0_WP | CR0_PE))
        vcpu_mode_update(v);
    return 0;
}

int cr3_write(struct soft_vcpu *v, uint64_t value)
{
    bool pcide = v->cr4 & CR4_PCIDE;
    bool keep = pcide && value >> 63;
    if (pcide)
        value &= ~(1ull << 63);
    if (v->long_mode && value & ~v->run->phys_mask)
        return raise_gp(v, 0);
    if (!v->long_mode && v->cr4 & CR4_PAE && v->cr0 & CR0_PG) {
        int r = pdptrs_load(v, value);
        if (r)
            return r;
    }
    v->cr3 = value;
    tlb_switch(v, keep);
    return 0;
}

static uint64_t cr4_known(const struct soft_vcpu *v)
{
    uint64_t known = CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE |
                     CR4_OSFXSR | CR4_OSXMMEXCPT;
    struct {
        unsigned feature;
        uint64_t bit;
    } more[] = {
        { FT_XSAVE, CR4_OSXSAVE },
        { FT_FSGSBASE, CR4_FSGSBASE },
        { FT_SMAP, CR4_SMAP },
    };
    for (unsigned n = 0; n < ARRAY_LEN(more); n++)
        if (v->features >> more[n].feature & 1)
            known |= more[n].bit;
    const struct cpuid_entry *one = vcpu_cpuid(v, 1, 0), *seven = vcpu_cpuid(v, 7, 0);
    if (one && one->edx >> 1 & 1)
        known |= CR4_VME | CR4_PVI;
    if (one && one->ecx >> 17 & 1)
        known |= CR4_PCIDE;
    if (seven && seven->ebx >> 7 & 1)
        known |= CR4_SMEP;
    if (seven && seven->ecx >> 2 & 1)
        known |= CR4_UMIP;
    return known;
}

static int cr4_write(struct soft_vcpu *v, uint64_t value)
{
    uint64_t old = v->cr4, changed = old ^ value;
    if (value & ~cr4_known(v))
        return raise_gp(v, 0);
    if (v->long_mode && !(value & CR4_PAE))
        return raise_gp(v, 0);
    if (value & ~old & CR4_PCIDE && (!v->long_mode || v->cr3 & 0xfff))
        return raise_gp(v, 0);
    if (!v->long_mode && v->cr0 & CR0_PG && value & CR4_PAE &&
        changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) {
        int r = pdptrs_load(v, v->cr3);
        if (r)
            return r;
    }
    v->cr4 = value;
    v->tsc.limit = 0;
    if (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_PCIDE | CR4_SMEP | CR4_SMAP))
        tlb_flush(v);
    tlb_mode_changed(v);
    return 0;
}

static int mov_rc(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t value;
    switch (i->reg) {
    case 0: value = v->cr0; break;
    case 2: value = v->cr2; break;
    case 3: value = v->cr3; break;
    case 4: value = v->cr4; break;
    case 8: value = lapic_cr8(&v->lapic); break;
    default: return raise_ud(v);
    }
    gpr_set(v, i->rm, v->mode == MODE_64 ? 8 : 4, value);
    return OP_NEXT;
}

static int mov_cr(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t value = v->mode == MODE_64 ? v->gpr[i->rm] : (uint32_t)v->gpr[i->rm];
    int r;
    switch (i->reg) {
    case 0: r = cr0_write(v, value); break;
    case 2:
        v->cr2 = value;
        r = 0;
        break;
    case 3: r = cr3_write(v, value); break;
    case 4: r = cr4_write(v, value); break;
    case 8:
        if (value >> 4)
            return raise_gp(v, 0);
        lapic_set_cr8(&v->lapic, (uint8_t)value);
        vcpu_request_self(v, REQ_INTERRUPT);
        r = 0;
        break;
    default: return raise_ud(v);
    }
    return r ? r : OP_END;
}

static int clts(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    v->cr0 &= ~(uint64_t)CR0_TS;
    return OP_NEXT;
}

static int operand16(struct soft_vcpu *v, const struct insn *i, uint16_t *out)
{
    *out = (uint16_t)v->gpr[i->rm];
    if (!(i->flags & IF_MEM))
        return 0;
    uint64_t va;
    int r = ea(v, i, 2, false, &va);
    return r ? r : load16(v, va, out);
}

static int lmsw(struct soft_vcpu *v, const struct insn *i)
{
    uint16_t value;
    int r = operand16(v, i, &value);
    if (!r) /* cannot clear PE */
        r = cr0_write(v, (v->cr0 & ~14ull) | (value & 15));
    return r ? r : OP_END;
}

static int smsw(struct soft_vcpu *v, const struct insn *i)
{
    if (v->cr4 & CR4_UMIP && v->cpl)
        return raise_gp(v, 0);
    if (!(i->flags & IF_MEM)) {
        gpr_set(v, i->rm, i->size, v->cr0);
        return OP_NEXT;
    }
    uint64_t va;
    int r = ea(v, i, 2, true, &va);
    return r ? r : store16(v, va, (uint16_t)v->cr0);
}

/* ---- Debug registers ---- */

static int debug_number(struct soft_vcpu *v, const struct insn *i, unsigned *n)
{
    *n = i->reg;
    if (i->reg > 7 || ((i->reg == 4 || i->reg == 5) && v->cr4 & CR4_DE))
        return raise_ud(v);
    if (v->dr7 >> 13 & 1) {
        v->exc = (struct exception){ .vector = EXC_DB, .dr6 = 1 << 13 };
        return OP_FAULT;
    }
    if (i->reg == 4 || i->reg == 5)
        *n += 2;
    return 0;
}

static int mov_rd(struct soft_vcpu *v, const struct insn *i)
{
    unsigned n;
    int r = debug_number(v, i, &n);
    if (r)
        return r;
    uint64_t value = n < 4 ? v->dr[n] : n == 6 ? v->dr6 : v->dr7;
    gpr_set(v, i->rm, v->mode == MODE_64 ? 8 : 4, value);
    return OP_NEXT;
}

static int mov_dr(struct soft_vcpu *v, const struct insn *i)
{
    unsigned n;
    int r = debug_number(v, i, &n);
    if (r)
        return r;
    uint64_t value = v->mode == MODE_64 ? v->gpr[i->rm] : (uint32_t)v->gpr[i->rm];
    if (n >= 6 && value >> 32)
        return raise_gp(v, 0);
    if (n < 4)
        v->dr[n] = value;
    else if (n == 6)
        v->dr6 = (value & 0xe00f) | 0xffff0ff0;
    else
        v->dr7 = (value & 0xffff2fff) | 0x400;
    vcpu_update_careful(v);
    return OP_END;
}

/* ---- Descriptor tables ---- */

static int load_table(struct soft_vcpu *v, const struct insn *i, struct x86_table *table)
{
    uint8_t bytes[10] = { 0 };
    unsigned size = v->mode == MODE_64 ? 10 : 6;
    uint64_t va;
    int r = ea(v, i, size, false, &va);
    if (!r)
        r = gva_load(v, va, bytes, size);
    if (r)
        return r;
    uint64_t base = 0;
    uint16_t limit;
    memcpy(&limit, bytes, 2);
    memcpy(&base, bytes + 2, size - 2);
    if (v->mode != MODE_64 && i->size == 2)
        base &= 0xffffff;
    if (!is_canonical(base))
        return raise_gp(v, 0);
    table->base = base;
    table->limit = limit;
    return OP_NEXT;
}
static int lgdt(struct soft_vcpu *v, const struct insn *i) { return load_table(v, i, &v->gdtr); }
static int lidt(struct soft_vcpu *v, const struct insn *i) { return load_table(v, i, &v->idtr); }

static int store_table(struct soft_vcpu *v, const struct insn *i, const struct x86_table *table)
{
    if (v->cr4 & CR4_UMIP && v->cpl)
        return raise_gp(v, 0);
    uint8_t bytes[10];
    unsigned size = v->mode == MODE_64 ? 10 : 6;
    memcpy(bytes, &table->limit, 2);
    memcpy(bytes + 2, &table->base, 8);
    uint64_t va;
    int r = ea(v, i, size, true, &va);
    return r ? r : gva_store(v, va, bytes, size);
}
static int sgdt(struct soft_vcpu *v, const struct insn *i) { return store_table(v, i, &v->gdtr); }
static int sidt(struct soft_vcpu *v, const struct insn *i) { return store_table(v, i, &v->idtr); }

/* ---- TLB ---- */

static int invlpg(struct soft_vcpu *v, const struct insn *i)
{
    tlb_flush_page(v, ea_offset(v, i) + v->seg_base[i->seg]);
    return OP_END; /* the page may be this block's own: what follows has to be looked up */
}

static int invpcid(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t descriptor[2], va,
        type = v->mode == MODE_64 ? v->gpr[i->reg] : (uint32_t)v->gpr[i->reg];
    int r = ea(v, i, 16, false, &va);
    if (!r)
        r = gva_load(v, va, descriptor, 16);
    if (r)
        return r;
    if (type > 3 || (type < 2 && descriptor[0] >> 12) ||
        (type == 0 && !is_canonical(descriptor[1])))
        return raise_gp(v, 0);
    if (type == 0 && descriptor[0] == (v->cr3 & 0xfff))
        tlb_flush_page(v, descriptor[1]);
    else
        tlb_flush(v); /* more than asked for is allowed */
    return OP_END;
}

/* ---- Extended control register ---- */

static int xgetbv(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    if (!(v->cr4 & CR4_OSXSAVE))
        return raise_ud(v);
    if ((uint32_t)v->gpr[R_CX])
        return raise_gp(v, 0);
    v->gpr[R_AX] = (uint32_t)v->xcr0;
    v->gpr[R_DX] = v->xcr0 >> 32;
    return OP_NEXT;
}

static int xsetbv(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    if (!(v->cr4 & CR4_OSXSAVE))
        return raise_ud(v);
    uint64_t value = v->gpr[R_DX] << 32 | (uint32_t)v->gpr[R_AX];
    if ((uint32_t)v->gpr[R_CX] || v->cpl || !(value & 1) || value & ~xcr0_supported(v) ||
        (value & 6) == 4)
        return raise_gp(v, 0);
    v->xcr0 = value;
    return OP_END;
}

const struct op op_mov_RC = OP_ALL(mov_rc), op_mov_CR = OP_ALL(mov_cr), op_mov_RD = OP_ALL(mov_rd),
                op_mov_DR = OP_ALL(mov_dr), op_clts = OP_ALL(clts), op_lmsw = OP_ALL(lmsw),
                op_smsw = OP_ALL(smsw), op_lgdt = OP_ALL(lgdt), op_lidt = OP_ALL(lidt),
                op_sgdt = OP_ALL(sgdt), op_sidt = OP_ALL(sidt), op_invlpg = OP_ALL(invlpg),
                op_invpcid = OP_ALL(invpcid), op_xgetbv = OP_ALL(xgetbv),
                op_xsetbv = OP_ALL(xsetbv);
