/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the model tells and keeps: CPUID, the time-stamp counter and kvmclock, MSRs.
 */
#include "engine/soft/sys.h"

#include "base/log.h"
#include "engine/soft/mem.h"
#include "engine/soft/run.h"
#include "machine/machine.h"

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

const struct op op_cpuid = OP_ALL(cpuid), op_rdtsc = OP_ALL(rdtsc), op_rdtscp = OP_ALL(rdtscp),
                op_rdpid = OP_ALL(rdpid), op_rdpmc = OP_ALL(rdpmc), op_rdmsr = OP_ALL(rdmsr),
                op_wrmsr = OP_ALL(wrmsr);
