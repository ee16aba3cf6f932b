/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * System instructions: control and debug registers, MSRs, CPUID, descriptor tables, SYSCALL and its
 * kin, flags with privileges, port I/O, time.
 */
#include "engine/soft/sys.h"

#include "base/log.h"
#include "engine/soft/mem.h"
#include "engine/soft/run.h"
#include "engine/soft/seg.h"
#include "machine/machine.h"

#include <string.h>
#include <sys/random.h>

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

/* ---- CPUID ---- */

const struct cpuid_entry *vcpu_cpuid(const struct soft_vcpu *v, uint32_t leaf, uint32_t subleaf)
{
    for (unsigned n = 0; n < v->cpuid_count; n++)
        if (v->cpuid[n].leaf == leaf &&
            (v->cpuid[n].subleaf == subleaf || v->cpuid[n].subleaf == CPUID_ANY_SUBLEAF))
            return &v->cpuid[n];
    return NULL;
}

static int cpuid(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    uint32_t leaf = (uint32_t)v->gpr[R_AX], subleaf = (uint32_t)v->gpr[R_CX];
    struct cpuid_entry e = { 0 };
    const struct cpuid_entry *found = vcpu_cpuid(v, leaf, subleaf);
    if (found)
        e = *found;
    if (leaf == 1 && v->cr4 & CR4_OSXSAVE)
        e.ecx |= 1 << 27;
    else if (leaf == 0xb && !found)
        e.ecx = subleaf & 0xff, e.edx = v->vcpu.apic_id;
    else if (leaf == 0xd && subleaf == 0)
        e.ebx = 576 + (v->xcr0 & 4 ? 256 : 0);
    v->gpr[R_AX] = e.eax;
    v->gpr[R_BX] = e.ebx;
    v->gpr[R_CX] = e.ecx;
    v->gpr[R_DX] = e.edx;
    return OP_NEXT;
}

/* ---- Time ---- */

static int rdtsc(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    if (v->cr4 & CR4_TSD && v->cpl)
        return raise_gp(v, 0);
    uint64_t tsc = tsc_now(v);
    v->gpr[R_AX] = (uint32_t)tsc;
    v->gpr[R_DX] = tsc >> 32;
    return OP_NEXT;
}

static int rdtscp(struct soft_vcpu *v, const struct insn *i)
{
    int r = rdtsc(v, i);
    if (r == OP_NEXT)
        v->gpr[R_CX] = (uint32_t)v->tsc_aux;
    return r;
}

static int rdpid(struct soft_vcpu *v, const struct insn *i)
{
    v->gpr[i->rm] = (uint32_t)v->tsc_aux;
    return OP_NEXT;
}

static int rdpmc(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    return raise_gp(v, 0); /* the models have no performance counters */
}

/* struct pvclock_vcpu_time_info of the KVM paravirtual ABI */
struct pvclock {
    uint32_t version, pad;
    uint64_t tsc_timestamp, system_time;
    uint32_t mul;
    int8_t shift;
    uint8_t flags, pad2[2];
};

void kvmclock_update(struct soft_vcpu *v)
{
    struct machine *m = machine_of(v);
    if (!(v->kvmclock.system_time & 1))
        return;
    uint64_t gpa = v->kvmclock.system_time & ~1ull;
    struct pvclock now;
    if (mem_read(m, gpa, &now, sizeof now) < 0)
        return;
    uint32_t version = (now.version | 1) + 2;
    uint64_t ns = guest_now_ns(m);

    /* ns = (tsc << shift) * mul >> 32 */
    uint64_t khz = m->tsc_khz;
    int8_t shift = 0;
    uint64_t scaled = khz; /* kHz after shifting; 10^6 < scaled <= 2 * 10^6 makes mul fit */
    while (scaled > 2000000)
        scaled >>= 1, shift--;
    while (scaled <= 1000000)
        scaled <<= 1, shift++;
    unsigned __int128 product = (unsigned __int128)1000000 << 32;
    uint64_t divisor = khz;
    uint32_t mul = shift <= 0 ? (uint32_t)((product << -shift) / divisor)
                              : (uint32_t)((product >> shift) / divisor);
    struct pvclock out = {
        .version = version,
        .tsc_timestamp = tsc_of_ns(ns, khz) + (uint64_t)v->tsc_offset,
        .system_time = ns,
        .mul = mul,
        .shift = shift,
        .flags = 1, /* stable: all vCPUs see one clock */
    };
    /* Odd while it changes. Other vCPUs read their own copy, so the order of these stores is
     * enough. */
    mem_write(m, gpa, &version, 4);
    mem_write(m, gpa + 8, &out.tsc_timestamp, sizeof out - 8);
    version++;
    mem_write(m, gpa, &version, 4);
}

static void wall_clock_write(struct soft_vcpu *v, uint64_t gpa)
{
    uint64_t epoch = guest_epoch_ns(machine_of(v));
    uint32_t record[3] = { 2, (uint32_t)(epoch / 1000000000), (uint32_t)(epoch % 1000000000) };
    mem_write(machine_of(v), gpa, record, sizeof record);
}

/* ---- MSRs ---- */

enum {
    MSR_TSC = 0x10,
    MSR_APIC_BASE = 0x1b,
    MSR_TSC_ADJUST = 0x3b,
    MSR_SPEC_CTRL = 0x48,
    MSR_MTRRCAP = 0xfe,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP,
    MSR_SYSENTER_EIP,
    MSR_MCG_CAP = 0x179,
    MSR_MCG_STATUS,
    MSR_MISC_ENABLE = 0x1a0,
    MSR_MTRR_PHYS = 0x200,
    MSR_MTRR_FIX64K = 0x250,
    MSR_MTRR_FIX16K = 0x258,
    MSR_MTRR_FIX4K = 0x268,
    MSR_PAT = 0x277,
    MSR_MTRR_DEF = 0x2ff,
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_X2APIC = 0x800,
    MSR_EFER = 0xc0000080,
    MSR_STAR,
    MSR_LSTAR,
    MSR_CSTAR,
    MSR_SFMASK,
    MSR_FS_BASE = 0xc0000100,
    MSR_GS_BASE,
    MSR_KERNEL_GS_BASE,
    MSR_TSC_AUX,
    MSR_KVM_WALL = 0x4b564d00,
    MSR_KVM_TIME = 0x4b564d01,
    MSR_KVM_WALL_OLD = 0x11,
    MSR_KVM_TIME_OLD = 0x12,
};

static uint64_t *mtrr_register(struct soft_vcpu *v, uint32_t msr)
{
    if (msr >= MSR_MTRR_PHYS && msr < MSR_MTRR_PHYS + 16)
        return msr & 1 ? &v->mtrr_mask[(msr - MSR_MTRR_PHYS) / 2]
                       : &v->mtrr_base[(msr - MSR_MTRR_PHYS) / 2];
    if (msr == MSR_MTRR_FIX64K)
        return &v->mtrr_fixed[0];
    if (msr == MSR_MTRR_FIX16K || msr == MSR_MTRR_FIX16K + 1)
        return &v->mtrr_fixed[1 + msr - MSR_MTRR_FIX16K];
    if (msr >= MSR_MTRR_FIX4K && msr < MSR_MTRR_FIX4K + 8)
        return &v->mtrr_fixed[3 + msr - MSR_MTRR_FIX4K];
    return msr == MSR_MTRR_DEF ? &v->mtrr_def_type : NULL;
}

/* Registers that are plain storage with canonical addresses or free values. */
static uint64_t *plain_register(struct soft_vcpu *v, uint32_t msr, bool *address)
{
    *address = false;
    switch (msr) {
    case MSR_SYSENTER_CS: return &v->sysenter_cs;
    case MSR_STAR: return &v->star;
    case MSR_SFMASK: return &v->sfmask;
    case MSR_TSC_AUX: return &v->tsc_aux;
    case MSR_MISC_ENABLE: return &v->misc_enable;
    default: break;
    }
    *address = true;
    switch (msr) {
    case MSR_SYSENTER_ESP: return &v->sysenter_esp;
    case MSR_SYSENTER_EIP: return &v->sysenter_eip;
    case MSR_LSTAR: return &v->lstar;
    case MSR_CSTAR: return &v->cstar;
    case MSR_KERNEL_GS_BASE: return &v->kernel_gs_base;
    default: return NULL;
    }
}

/* Answers false for #GP. */
static bool msr_read(struct soft_vcpu *v, uint32_t msr, uint64_t *out)
{
    bool address;
    uint64_t *plain = plain_register(v, msr, &address);
    if (!plain)
        plain = mtrr_register(v, msr);
    if (plain) {
        *out = *plain;
        return true;
    }
    if (msr >= MSR_X2APIC && msr < MSR_X2APIC + 0x100)
        return lapic_msr_read(&v->lapic, msr, guest_now_ns(machine_of(v)), out);
    switch (msr) {
    case MSR_TSC: *out = tsc_now(v); return true;
    case MSR_TSC_ADJUST: *out = (uint64_t)v->tsc_offset; return true;
    case MSR_APIC_BASE: *out = v->lapic.regs.apic_base; return true;
    case MSR_TSC_DEADLINE: *out = lapic_tsc_deadline(&v->lapic); return true;
    case MSR_MTRRCAP: *out = 8 | 1 << 8 | 1 << 10; return true;
    case MSR_PAT: *out = v->pat; return true;
    case MSR_MCG_CAP:
    case MSR_MCG_STATUS: *out = 0; return true;
    case MSR_EFER: *out = v->efer; return true;
    case MSR_FS_BASE: *out = v->seg[S_FS].base; return true;
    case MSR_GS_BASE: *out = v->seg[S_GS].base; return true;
    case MSR_KVM_TIME:
    case MSR_KVM_TIME_OLD: *out = v->kvmclock.system_time; return true;
    case MSR_KVM_WALL:
    case MSR_KVM_WALL_OLD: *out = v->kvmclock.wall_clock; return true;
    /* What kernels read from every CPU of this vendor: microcode level, hardware configuration,
     * interrupt-pending message, system configuration, OS-visible work-arounds, performance
     * counters of old. All read as zero. */
    case 0x8b:
    case 0xc0010015:
    case 0xc0010055:
    case 0xc0010010:
    case 0xc0010140:
    case 0xc0010141:
    case 0xc001001f:
    case 0xc0011022:
    case 0xc0011023:
    case 0xc0011029:
    case 0xc001102a:
    case 0xc0010112:
    case 0xc0010113:
    case 0xc0010000:
    case 0xc0010001:
    case 0xc0010002:
    case 0xc0010003:
    case 0xc0010004:
    case 0xc0010005:
    case 0xc0010006:
    case 0xc0010007:
    case 0x17:
    case 0x2a: *out = 0; return true;
    default: return false;
    }
}

static int efer_write(struct soft_vcpu *v, uint64_t value)
{
    if (value & ~(uint64_t)(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE))
        return -1;
    if ((value ^ v->efer) & EFER_LME && v->cr0 & CR0_PG)
        return -1;
    uint64_t old = v->efer;
    v->efer = (value & ~(uint64_t)EFER_LMA) | (v->efer & EFER_LMA);
    if ((old ^ v->efer) & EFER_NXE)
        tlb_flush(v);
    return 0;
}

static bool pat_valid(uint64_t value)
{
    for (unsigned n = 0; n < 8; n++, value >>= 8)
        if ((value & 0xff) > 7 || (value & 0xff) == 2 || (value & 0xff) == 3)
            return false;
    return true;
}

static bool msr_write(struct soft_vcpu *v, uint32_t msr, uint64_t value)
{
    struct machine *m = machine_of(v);
    bool address;
    uint64_t *plain = plain_register(v, msr, &address);
    if (plain && address && !is_canonical(value))
        return false;
    if (!plain)
        plain = mtrr_register(v, msr);
    if (plain) {
        *plain = value;
        return true;
    }
    if (msr >= MSR_X2APIC && msr < MSR_X2APIC + 0x100) {
        bool ok = lapic_msr_write(&v->lapic, msr, value, guest_now_ns(m));
        vcpu_lapic_changed(v);
        return ok;
    }
    switch (msr) {
    case MSR_TSC:
        v->tsc_offset += (int64_t)(value - tsc_now(v));
        kvmclock_update(v);
        return true;
    case MSR_TSC_ADJUST:
        v->tsc_offset = (int64_t)value;
        kvmclock_update(v);
        return true;
    case MSR_APIC_BASE: {
        bool ok = lapic_base_write(&v->lapic, value);
        vcpu_lapic_changed(v);
        return ok;
    }
    case MSR_TSC_DEADLINE:
        lapic_set_tsc_deadline(&v->lapic, value,
                               value ? ns_of_tsc(value - (uint64_t)v->tsc_offset, m->tsc_khz) : 0);
        vcpu_lapic_changed(v);
        return true;
    case MSR_PAT:
        if (!pat_valid(value))
            return false;
        v->pat = value;
        return true;
    case MSR_EFER: return efer_write(v, value) == 0;
    case MSR_FS_BASE:
    case MSR_GS_BASE: {
        if (!is_canonical(value))
            return false;
        unsigned seg = msr == MSR_FS_BASE ? S_FS : S_GS;
        v->seg[seg].base = v->seg_base[seg] = value;
        return true;
    }
    case MSR_KVM_TIME:
    case MSR_KVM_TIME_OLD:
        v->kvmclock.system_time = value;
        kvmclock_update(v);
        return true;
    case MSR_KVM_WALL:
    case MSR_KVM_WALL_OLD:
        v->kvmclock.wall_clock = value;
        wall_clock_write(v, value);
        return true;
    case MSR_MCG_STATUS:
    case 0x8b:
    case 0xc0010015:
    case 0xc0010055:
    case 0xc001001f:
    case 0xc0011022:
    case 0xc0011029:
    case 0xc0010000:
    case 0xc0010001:
    case 0xc0010002:
    case 0xc0010003:
    case 0xc0010010: return true;
    default: return false;
    }
}

static int rdmsr(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    uint64_t value;
    uint32_t msr = (uint32_t)v->gpr[R_CX];
    if (!msr_read(v, msr, &value)) {
        log_debug("vcpu %u: read of unknown MSR %#x", v->vcpu.index, msr);
        return raise_gp(v, 0);
    }
    v->gpr[R_AX] = (uint32_t)value;
    v->gpr[R_DX] = value >> 32;
    return OP_NEXT;
}

static int wrmsr(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    uint32_t msr = (uint32_t)v->gpr[R_CX];
    if (!msr_write(v, msr, v->gpr[R_DX] << 32 | (uint32_t)v->gpr[R_AX])) {
        log_debug("vcpu %u: refused write of MSR %#x", v->vcpu.index, msr);
        return raise_gp(v, 0);
    }
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

static int nothing(struct soft_vcpu *v, const struct insn *i)
{
    (void)v, (void)i;
    return OP_NEXT;
}

static int clflush(struct soft_vcpu *v,
                   const struct insn *i) /* faults as a load of one byte does */
{
    uint64_t va;
    uint8_t byte;
    int r = ea(v, i, 1, false, &va);
    return r ? r : load8(v, va, &byte);
}

static int fence(struct soft_vcpu *v, const struct insn *i)
{
    (void)v, (void)i;
    atomic_thread_fence(memory_order_seq_cst);
    return OP_NEXT;
}

static int pause_insn(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    vcpu_spin(v);
    return OP_NEXT;
}

/* ---- SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS ---- */

static void flat_segments(struct soft_vcpu *v, uint16_t cs, uint16_t ss, uint8_t cpl, bool cs64)
{
    v->seg[S_CS] = (struct x86_segment){
        .selector = cs,
        .limit = 0xffffffff,
        .attr = (uint16_t)(SEG_P | SEG_S | SEG_G | 0xb | cpl << SEG_DPL_SHIFT |
                           (cs64 ? SEG_L : SEG_DB)),
    };
    v->seg[S_SS] = (struct x86_segment){
        .selector = ss,
        .limit = 0xffffffff,
        .attr = (uint16_t)(SEG_P | SEG_S | SEG_G | SEG_DB | 3 | cpl << SEG_DPL_SHIFT),
    };
    v->cpl = cpl;
    vcpu_mode_update(v);
}

static int syscall_insn(struct soft_vcpu *v, const struct insn *i)
{
    if (!(v->efer & EFER_SCE) || !v->long_mode)
        return raise_ud(v);
    v->gpr[R_CX] = next_rip(v, i);
    v->gpr[R_11] = rflags_get(v) & ~(uint32_t)FL_RF;
    v->rip = v->mode == MODE_64 ? v->lstar : v->cstar;
    flags_set(v, 0, (uint32_t)v->sfmask | FL_RF);
    uint16_t cs = (uint16_t)(v->star >> 32 & 0xfffc);
    flat_segments(v, cs, (uint16_t)(cs + 8), 0, true);
    return OP_JUMP;
}

static int sysret_insn(struct soft_vcpu *v, const struct insn *i)
{
    if (!(v->efer & EFER_SCE) || v->mode != MODE_64)
        return raise_ud(v);
    if (v->cpl || (i->size == 8 && !is_canonical(v->gpr[R_CX])))
        return raise_gp(v, 0);
    uint16_t base = (uint16_t)(v->star >> 48);
    uint16_t cs = (uint16_t)((base + (i->size == 8 ? 16 : 0)) | 3), ss = (uint16_t)((base + 8) | 3);
    flags_set(v, (uint32_t)v->gpr[R_11], SYSRET_FLAGS);
    flat_segments(v, cs, ss, 3, i->size == 8);
    v->rip = i->size == 8 ? v->gpr[R_CX] : (uint32_t)v->gpr[R_CX];
    return OP_JUMP;
}

static int sysenter_insn(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    if (real_mode(v) || !(v->sysenter_cs & 0xfffc))
        return raise_gp(v, 0);
    flags_set(v, 0, FL_VM | FL_IF | FL_RF);
    uint16_t cs = (uint16_t)(v->sysenter_cs & 0xfffc);
    flat_segments(v, cs, (uint16_t)(cs + 8), 0, v->long_mode);
    v->gpr[R_SP] = v->long_mode ? v->sysenter_esp : (uint32_t)v->sysenter_esp;
    v->rip = v->long_mode ? v->sysenter_eip : (uint32_t)v->sysenter_eip;
    return OP_JUMP;
}

static int sysexit_insn(struct soft_vcpu *v, const struct insn *i)
{
    if (real_mode(v) || !(v->sysenter_cs & 0xfffc) || v->cpl)
        return raise_gp(v, 0);
    bool wide = i->size == 8;
    if (wide && (!is_canonical(v->gpr[R_CX]) || !is_canonical(v->gpr[R_DX])))
        return raise_gp(v, 0);
    uint16_t cs = (uint16_t)((v->sysenter_cs & 0xfffc) + (wide ? 32 : 16));
    uint64_t rip = wide ? v->gpr[R_DX] : (uint32_t)v->gpr[R_DX];
    uint64_t sp = wide ? v->gpr[R_CX] : (uint32_t)v->gpr[R_CX];
    flat_segments(v, cs | 3, (uint16_t)(cs + 8) | 3, 3, wide);
    v->gpr[R_SP] = sp;
    v->rip = rip;
    return OP_JUMP;
}

static int swapgs(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    uint64_t base = v->seg[S_GS].base;
    v->seg[S_GS].base = v->seg_base[S_GS] = v->kernel_gs_base;
    v->kernel_gs_base = base;
    return OP_NEXT;
}

static int fsgsbase_check(struct soft_vcpu *v) { return v->cr4 & CR4_FSGSBASE ? 0 : raise_ud(v); }

static int rd_base(struct soft_vcpu *v, const struct insn *i, unsigned seg)
{
    int r = fsgsbase_check(v);
    if (!r)
        gpr_set(v, i->rm, i->size, v->seg[seg].base);
    return r;
}
static int wr_base(struct soft_vcpu *v, const struct insn *i, unsigned seg)
{
    int r = fsgsbase_check(v);
    uint64_t value = i->size == 8 ? v->gpr[i->rm] : (uint32_t)v->gpr[i->rm];
    if (!r && !is_canonical(value))
        r = raise_gp(v, 0);
    if (!r)
        v->seg[seg].base = v->seg_base[seg] = value;
    return r;
}
static int rdfsbase(struct soft_vcpu *v, const struct insn *i) { return rd_base(v, i, S_FS); }
static int rdgsbase(struct soft_vcpu *v, const struct insn *i) { return rd_base(v, i, S_GS); }
static int wrfsbase(struct soft_vcpu *v, const struct insn *i) { return wr_base(v, i, S_FS); }
static int wrgsbase(struct soft_vcpu *v, const struct insn *i) { return wr_base(v, i, S_GS); }

/* ---- Flags with privileges ---- */

static bool io_privileged(const struct soft_vcpu *v) { return v->cpl <= (v->flags >> 12 & 3); }

static int cli(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    if (!io_privileged(v))
        return virtual_cli(v);
    v->flags &= ~(uint32_t)FL_IF;
    return OP_NEXT;
}

static int sti(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    if (!io_privileged(v))
        return virtual_sti(v);
    if (v->flags & FL_IF)
        return OP_NEXT;
    v->flags |= FL_IF;
    /* Nobody looks at the requests within a block, and nothing waits. */
    if (!v->held_back && !v->run->single && i[1].fn != op_block_end)
        return OP_NEXT;
    v->interrupt_shadow = 1;
    vcpu_request_self(v, REQ_INTERRUPT);
    return OP_END;
}

static int pushf(struct soft_vcpu *v, const struct insn *i)
{
    if (v8086_mode(v))
        return v86_pushf(v, i);
    return push(v, i->size, rflags_get(v) & ~(uint32_t)(FL_RF | FL_VM));
}

static int popf(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t value;
    if (v8086_mode(v))
        return v86_popf(v, i);
    int r = pop(v, i->size, &value);
    if (r)
        return r;
    uint32_t mask = F_ALL | FL_TF | FL_DF | FL_NT;
    if (i->size > 2)
        mask |= FL_AC | FL_ID | FL_RF;
    if (io_privileged(v))
        mask |= FL_IF;
    if (v->cpl == 0)
        mask |= FL_IOPL;
    uint32_t before = v->flags;
    flags_set(v, (uint32_t)value & ~(uint32_t)FL_RF, mask);
    return (before ^ v->flags) & (FL_IF | FL_TF | FL_AC) ? OP_END : OP_NEXT;
}

static int ac_write(struct soft_vcpu *v, uint32_t value)
{
    if (v->cpl)
        return raise_ud(v);
    v->flags = (v->flags & ~(uint32_t)FL_AC) | value;
    tlb_mode_changed(v);
    return OP_NEXT;
}
static int clac(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    return ac_write(v, 0);
}
static int stac(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    return ac_write(v, FL_AC);
}

static int hlt(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    v->activity = X86_HALTED;
    vcpu_request_self(v, REQ_INTERRUPT);
    return OP_END;
}

/* ---- Port I/O ---- */

int io_check(struct soft_vcpu *v, uint16_t port, unsigned size)
{
    if (real_mode(v) || (io_privileged(v) && !v8086_mode(v)))
        return 0;
    const struct x86_segment *tr = &v->seg[S_TR];
    uint16_t base, bits;
    if (tr->attr & SEG_UNUSABLE || tr->limit < 0x67 || (tr->attr & SEG_TYPE & ~2) == 1)
        return raise_gp(v, 0);
    int r = gva_load_system(v, tr->base + 0x66, &base, 2);
    if (r)
        return r;
    uint32_t at = (uint32_t)base + port / 8;
    if (at + 1 > tr->limit)
        return raise_gp(v, 0);
    r = gva_load_system(v, tr->base + at, &bits, 2);
    if (r)
        return r;
    return bits >> (port & 7) & ((1u << size) - 1) ? raise_gp(v, 0) : 0;
}

static int in(struct soft_vcpu *v, const struct insn *i, uint16_t port)
{
    unsigned size = i->size > 4 ? 4 : i->size;
    int r = io_check(v, port, size);
    if (r)
        return r;
    uint64_t value = bus_read(machine_of(v), SPACE_IO, port, size);
    if (size == 1)
        *(uint8_t *)&v->gpr[R_AX] = (uint8_t)value;
    else
        gpr_set(v, R_AX, size, value);
    return OP_NEXT;
}
static int out(struct soft_vcpu *v, const struct insn *i, uint16_t port)
{
    unsigned size = i->size > 4 ? 4 : i->size;
    int r = io_check(v, port, size);
    if (r)
        return r;
    bus_write(machine_of(v), SPACE_IO, port, size, v->gpr[R_AX] & size_mask(size));
    return OP_END; /* it may have changed the address map */
}
static int in_i(struct soft_vcpu *v, const struct insn *i) { return in(v, i, (uint8_t)i->imm); }
static int in_dx(struct soft_vcpu *v, const struct insn *i)
{
    return in(v, i, (uint16_t)v->gpr[R_DX]);
}
static int out_i(struct soft_vcpu *v, const struct insn *i) { return out(v, i, (uint8_t)i->imm); }
static int out_dx(struct soft_vcpu *v, const struct insn *i)
{
    return out(v, i, (uint16_t)v->gpr[R_DX]);
}

/* ---- Random numbers, extended control register, hypercalls ---- */

static int random_number(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t value;
    bool ok = getrandom(&value, sizeof value, GRND_NONBLOCK) == sizeof value;
    gpr_set(v, i->rm, i->size, ok ? value : 0);
    status_set(v, ok ? CF : 0);
    return OP_NEXT;
}

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

static int hypercall(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    v->gpr[R_AX] = (uint64_t)-1000; /* KVM_ENOSYS: no call is offered by the model's leaves */
    return OP_NEXT;
}

static int undefined(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    return raise_ud(v);
}

const struct op op_mov_RC = OP_ALL(mov_rc), op_mov_CR = OP_ALL(mov_cr), op_mov_RD = OP_ALL(mov_rd),
                op_mov_DR = OP_ALL(mov_dr), op_clts = OP_ALL(clts), op_lmsw = OP_ALL(lmsw),
                op_smsw = OP_ALL(smsw), op_cpuid = OP_ALL(cpuid), op_rdtsc = OP_ALL(rdtsc),
                op_rdtscp = OP_ALL(rdtscp), op_rdpid = OP_ALL(rdpid), op_rdpmc = OP_ALL(rdpmc),
                op_rdmsr = OP_ALL(rdmsr), op_wrmsr = OP_ALL(wrmsr), op_lgdt = OP_ALL(lgdt),
                op_lidt = OP_ALL(lidt), op_sgdt = OP_ALL(sgdt), op_sidt = OP_ALL(sidt),
                op_invlpg = OP_ALL(invlpg), op_invpcid = OP_ALL(invpcid), op_invd = OP_ALL(nothing),
                op_nop = OP_ALL(nothing), op_pause = OP_ALL(pause_insn),
                op_clflush = OP_ALL(clflush), op_lfence = OP_ALL(fence), op_mfence = OP_ALL(fence),
                op_sfence = OP_ALL(fence), op_syscall = OP_ALL(syscall_insn),
                op_sysret = OP_ALL(sysret_insn), op_sysenter = OP_ALL(sysenter_insn),
                op_sysexit = OP_ALL(sysexit_insn), op_swapgs = OP_ALL(swapgs),
                op_rdfsbase = OP_ALL(rdfsbase), op_rdgsbase = OP_ALL(rdgsbase),
                op_wrfsbase = OP_ALL(wrfsbase), op_wrgsbase = OP_ALL(wrgsbase),
                op_cli = OP_ALL(cli), op_sti = OP_ALL(sti), op_pushf = OP_ALL(pushf),
                op_popf = OP_ALL(popf), op_clac = OP_ALL(clac), op_stac = OP_ALL(stac),
                op_hlt = OP_ALL(hlt), op_in_I = OP_ALL(in_i), op_in_DX = OP_ALL(in_dx),
                op_out_I = OP_ALL(out_i), op_out_DX = OP_ALL(out_dx),
                op_rdrand = OP_ALL(random_number), op_rdseed = OP_ALL(random_number),
                op_xgetbv = OP_ALL(xgetbv), op_xsetbv = OP_ALL(xsetbv),
                op_vmcall = OP_ALL(hypercall), op_vmmcall = OP_ALL(hypercall),
                op_monitor = OP_ALL(undefined), op_mwait = OP_ALL(undefined),
                op_rsm = OP_ALL(undefined);
