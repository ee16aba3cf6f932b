/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The x86-64 architectural state: ONE format for every engine, so that a VM saved under one resumes
 * under another, and the CPU models that say what the guest sees.
 *
 * Registers have the Intel SDM's names. Everything is as the guest would observe it at an
 * instruction boundary.
 */
#ifndef ENGINE_X86_H
#define ENGINE_X86_H

#include "machine/state.h"

#include <stdbool.h>
#include <stdint.h>

/* clang-format off */
enum { R_AX, R_CX, R_DX, R_BX, R_SP, R_BP, R_SI, R_DI, R_8, R_9, R_10, R_11, R_12, R_13, R_14, R_15 };
/* clang-format on */
enum { S_ES, S_CS, S_SS, S_DS, S_FS, S_GS, S_TR, S_LDTR, S_COUNT };

/* Access rights as in a descriptor, packed (bits 0-3 type, 5-6 DPL), and bit 12: unusable */
enum {
    SEG_TYPE = 0xf,
    SEG_S = 1 << 4,
    SEG_DPL_SHIFT = 5,
    SEG_P = 1 << 7,
    SEG_AVL = 1 << 8,
    SEG_L = 1 << 9,
    SEG_DB = 1 << 10,
    SEG_G = 1 << 11,
    SEG_UNUSABLE = 1 << 12
};
struct x86_segment {
    uint64_t base;
    uint32_t limit; /* in bytes, granularity applied */
    uint16_t selector;
    uint16_t attr;
};
struct x86_table {
    uint64_t base;
    uint16_t limit;
};

enum x86_activity { X86_RUNNING, X86_HALTED, X86_WAIT_SIPI }; /* mp_state */

struct x86_fpu {
    uint16_t fcw, fsw; /* TOP is in fsw bits 11-13 */
    uint8_t ftw;       /* abridged: bit i set: physical register i not empty */
    uint16_t fop;
    uint64_t fip, fdp; /* with selectors in bits 32-47 when saved by 32-bit code */
    uint8_t st[8][16]; /* by stack position ST(0)..ST(7), 10 bytes used */
    uint32_t mxcsr;
    uint8_t xmm[16][16];
    uint8_t ymm_high[16][16];
};

struct x86_lapic {      /* registers as the APIC page has them; x2APIC ids follow apic_base */
    uint64_t apic_base; /* IA32_APIC_BASE */
    uint32_t id, tpr, ldr, dfr, svr, esr;
    uint32_t isr[8], tmr[8], irr[8];
    uint64_t icr;
    uint32_t lvt_timer, lvt_thermal, lvt_perf, lvt_lint0, lvt_lint1, lvt_error, lvt_cmci;
    uint32_t timer_initial, timer_divide;
    uint64_t timer_deadline_ns; /* guest time of the next expiry (all modes); 0: none */
    uint64_t tsc_deadline;      /* the MSR; 0: disarmed */
};

struct x86_kvmclock { /* MSRs 0x4b564d01 and 0x4b564d00 */
    uint64_t system_time, wall_clock;
};

struct arch_state {
    uint64_t gpr[16];
    uint64_t rip, rflags;
    struct x86_segment seg[S_COUNT];
    struct x86_table gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, cr8;
    uint64_t efer, xcr0;
    uint64_t dr[4], dr6, dr7;
    uint64_t pdptr[4]; /* PAE paging: as loaded; valid when PAE without long mode */
    struct x86_fpu fpu;
    struct x86_lapic lapic;

    uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, misc_enable, spec_ctrl;
    uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
    int64_t tsc_offset; /* added to the machine's TSC */
    struct x86_kvmclock kvmclock;

    /* Events not delivered yet */
    uint8_t activity; /* enum x86_activity */
    uint8_t nmi_pending, nmi_masked, smi_pending, in_smm;
    uint8_t init_pending, sipi_pending, sipi_vector;
    uint8_t interrupt_shadow; /* 1 after STI, 2 after MOV SS */
    /* An event whose delivery was cut short; type as in VMX: 0 interrupt, 2 NMI, 3 exception, 4 INT
     * n, 6 INT3 and INTO */
    uint8_t injected_valid, injected_vector, injected_type, injected_has_error;
    uint32_t injected_error;
};

extern const struct state_desc arch_state_desc; /* engine/x86.c */

/* ---- CPU models ---- */

struct cpuid_entry {
    uint32_t leaf, subleaf, eax, ebx, ecx, edx;
};
enum { CPUID_MAX = 64 };
#define CPUID_ANY_SUBLEAF 0xffffffffu /* what the leaf answers does not depend on ECX */

/* A named baseline: its CPUID words before topology, APIC id and OSXSAVE are filled in. */
struct cpu_model {
    const char *name, *about;
    /* Ends with leaf 0xffffffff. NULL ("host"): only an engine that can run the host's own CPU
     * knows them. */
    const struct cpuid_entry *entries;
};

extern const struct cpu_model cpu_models[];               /* ends with a NULL name */
const struct cpu_model *cpu_model_find(const char *name); /* NULL: unknown */

/*
 * The CPUID table of one vCPU: the model's entries with APIC id, topology (`cpus` in one package),
 * TSC and hypervisor leaves filled in. Returns the count, 0 for a model without entries. OSXSAVE,
 * OSPKE and (leaf 0xd) sizes depend on registers: engines fill them in.
 */
unsigned cpuid_build(const struct cpu_model *model, uint32_t apic_id, unsigned cpus,
                     uint64_t tsc_khz, struct cpuid_entry out[CPUID_MAX]);
/* Looks a leaf up as CPUID does: an unknown leaf or subleaf gives zeros. Entries with
 * CPUID_ANY_SUBLEAF match all. */
void cpuid_lookup(const struct cpuid_entry *table, unsigned count, uint32_t leaf, uint32_t subleaf,
                  uint32_t out[4]);
/* Power-on values; the boot CPU (apic_id 0) runs at the reset vector, others wait for SIPI. */
void arch_state_reset(struct arch_state *state, uint32_t apic_id);

#endif
