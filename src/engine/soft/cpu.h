/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A vCPU of the soft engine: its registers as the handlers see them, exceptions, flags.
 *
 * Everything here belongs to the vCPU's own thread unless a field says otherwise. Between run()
 * calls any thread that the machine lets read state may.
 */
#ifndef ENGINE_SOFT_CPU_H
#define ENGINE_SOFT_CPU_H

#include "base/checked.h"
#include "engine/soft/fpu.h"
#include "engine/soft/insn.h"
#include "engine/soft/lapic.h"
#include "engine/soft/tsc.h"
#include "engine/x86.h"
#include "machine/engine.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct soft_engine;
struct block;
struct jump_entry;

/* RFLAGS beyond the status flags */
enum {
    FL_TF = 1 << 8,
    FL_IF = 1 << 9,
    FL_DF = 1 << 10,
    FL_IOPL = 3 << 12,
    FL_NT = 1 << 14,
    FL_RF = 1 << 16,
    FL_VM = 1 << 17,
    FL_AC = 1 << 18,
    FL_VIF = 1 << 19,
    FL_VIP = 1 << 20,
    FL_ID = 1 << 21,
    FL_FIXED = 2,
    SYSRET_FLAGS = 0x3c7fd7, /* what SYSRET loads: all but RF and VM */
};
enum {
    CR0_PE = 1,
    CR0_MP = 2,
    CR0_EM = 4,
    CR0_TS = 8,
    CR0_ET = 16,
    CR0_NE = 32,
    CR0_WP = 1 << 16,
    CR0_AM = 1 << 18,
    CR0_NW = 1 << 29,
    CR0_CD = 1 << 30,
};
#define CR0_PG (1ull << 31)
enum {
    CR4_VME = 1,
    CR4_PVI = 2,
    CR4_TSD = 4,
    CR4_DE = 8,
    CR4_PSE = 16,
    CR4_PAE = 32,
    CR4_MCE = 64,
    CR4_PGE = 128,
    CR4_PCE = 256,
    CR4_OSFXSR = 512,
    CR4_OSXMMEXCPT = 1024,
    CR4_UMIP = 2048,
    CR4_LA57 = 1 << 12,
    CR4_FSGSBASE = 1 << 16,
    CR4_PCIDE = 1 << 17,
    CR4_OSXSAVE = 1 << 18,
    CR4_SMEP = 1 << 20,
    CR4_SMAP = 1 << 21,
};
enum { EFER_SCE = 1, EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_NXE = 1 << 11 };

enum {
    EXC_DE,
    EXC_DB,
    EXC_NMI,
    EXC_BP,
    EXC_OF,
    EXC_BR,
    EXC_UD,
    EXC_NM,
    EXC_DF,
    EXC_TS = 10,
    EXC_NP,
    EXC_SS,
    EXC_GP,
    EXC_PF,
    EXC_MF = 16,
    EXC_AC,
    EXC_MC,
    EXC_XM,
};
enum access_kind { ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH };
enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16 }; /* page fault error code */

/* ---- The software TLB: a table for each address space seen lately (context) and mode. A load or
 * store of n bytes may go straight to guest RAM when address - tag <= 4096 - n. ---- */
enum { TLB_BITS = 10, TLB_SIZE = 1 << TLB_BITS };
enum { TLB_KERNEL, TLB_USER, TLB_KERNEL_AC /* CR4.SMAP with EFLAGS.AC, or no SMAP */, TLB_MODES };
struct tlb_entry {
    uint64_t read;  /* the page's linear address: tag for loads */
    uint64_t write; /* tag for stores: absent while the page holds code, is clean under a dirty log,
                       or is not RAM */
    uint64_t host;  /* where the page is */
    uint64_t page_flags; /* host address of the page's byte in ram->page_flags */
};

/* The tag that matches nothing: no address in that page looks into this slot. */
static inline uint64_t tlb_none(unsigned slot) { return (uint64_t)(slot ^ 1) << PAGE_SHIFT; }

/* A store tag that matches nothing either, and says which struct code_page to ask: the page could
 * be written, but for its code. The pointer is aligned to 64 and below 2^48. */
struct code_page;
enum { TLB_CODE_SHIFT = PAGE_SHIFT + TLB_BITS, CODE_PAGE_BITS = 6 };
static inline uint64_t tlb_code_tag(unsigned slot, const struct code_page *p)
{
    return (uint64_t)(uintptr_t)p >> CODE_PAGE_BITS << TLB_CODE_SHIFT | tlb_none(slot);
}
/* The page of such a tag, NULL for tlb_none. Not for a tag that may match. */
static inline struct code_page *tlb_code_page(uint64_t tag)
{
    return (struct code_page *)(uintptr_t)(tag >> TLB_CODE_SHIFT << CODE_PAGE_BITS);
}

/*
 * In front of it, for user code: each check of translated code (a site) remembers the page that it
 * found last, so that its next access there needs no look into the table, and no wait for one.
 */
enum {
    LAST_SITES = 256,   /* the number's lowest bit: of stores */
    LAST_WINDOWS = 192, /* from here on they are of windows */
    LAST_OPERAND = 32,  /* the largest operand of a site, ... */
    LAST_WINDOW = 256,  /* ... and of those */
    LAST_SIZE_SHIFT = 16
};
enum { LAST_SHORT, LAST_LONG, LAST_IN_WINDOW }; /* operands of up to code_store_most[0], [1] */
struct last_pages {
    uint64_t tag[LAST_SITES];
    uint64_t room[LAST_SITES]; /* so many offsets in the page are for this site; 0: no page */
    uint64_t host[LAST_SITES];
};

struct exception {
    uint8_t vector;
    bool has_error;
    uint32_t error;
    uint64_t dr6;      /* for #DB: bits to set */
    bool noncanonical; /* #GP for an address: becomes #SS if the segment is SS */
};

struct soft_vcpu {
    struct vcpu vcpu;

    /* Registers. gpr[REG_NONE] is always 0; gpr[REG_RIP] is the rip of the running block's start.
     */
    uint64_t gpr[18];
    uint64_t rip; /* valid between blocks, and after a handler answered OP_JUMP */
    /* Status flags as LAHF and SETO give them: bits 8-15 SF ZF 0 AF 0 PF 1 CF; bit 0 OF. Nothing
     * else is set. */
    uint32_t cc;
    uint32_t flags;                     /* the rest of RFLAGS, status bits zero, FL_FIXED set */
    struct tlb_entry *tlb;              /* of the current context and mode */
    _Atomic uint32_t request;           /* REQ_* of run.h; any thread */
    uint32_t asid;                      /* names the current address space in the other caches */
    struct soft_vcpu *self;             /* for translated code, which has only gs: */
    struct jump_entry *jump;            /* run->jump */
    uint64_t jump_key, jump_key_global; /* of the current address space and mode */
    struct quick_jumps {
        struct quick_entry *entries; /* in a table of run->quick... */
        uint64_t key;                /* ... and its key */
    } quick, quick_levels[2];        /* of jump_key; for the kernel and for users */
    int jit_answer;                  /* STEP_*: with what translated code was left */
    uint32_t jit_link; /* left by an exit that may be joined: where its displacement is, or 0 */
    uint32_t jit_link_from;     /* its block's name, and where in the page it leads (jit.h) */
    uint64_t jit_page;          /* linear address of the page of the running translated block */
    uint64_t jit_window_va;     /* of a window (translate.h) that could not be opened */
    uint64_t jit_value;         /* of an instruction with two operands in memory */
    struct block *jit_again;    /* to be translated once more, or NULL... */
    unsigned jit_again_insn;    /* ... because of this instruction of it */
    struct tsc_line tsc;        /* a copy */
    uint64_t seg_base[S_COUNT]; /* what addressing adds: 0 for ES CS SS DS in 64-bit mode */
    /* Outside 64-bit mode: so many bytes from offset 0 on may be read (1: written); 0 where more
     * has to be asked (segment_check) */
    uint64_t seg_room[2][S_COUNT];
    uint32_t seg_key; /* CODE_*: what blocks have to know of the segments */

    struct soft_fpu fpu;

    struct x86_segment seg[S_COUNT];
    uint8_t mode; /* MODE_*: code size */
    uint8_t cpl;
    bool long_mode;     /* EFER.LMA */
    uint8_t stack_size; /* 2, 4 or 8 bytes: how much of RSP stack operations use */
    uint64_t cr0, cr2, cr3, cr4;
    uint64_t efer, xcr0;
    uint64_t dr[4], dr6, dr7;
    uint64_t pdptr[4];
    struct x86_table gdtr, idtr;
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, misc_enable, spec_ctrl;
    uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
    int64_t tsc_offset;
    struct x86_kvmclock kvmclock;

    struct exception exc;     /* after OP_FAULT */
    uint8_t exit;             /* enum vcpu_exit, after OP_EXIT */
    uint8_t activity;         /* enum x86_activity */
    uint8_t interrupt_shadow; /* counts down at instruction boundaries */
    bool nmi_masked;
    bool held_back;    /* something may have to be delivered once IF is set; run.c, invariant 3 */
    uint64_t features; /* 1 << FT_x: what the model offers */
    struct cpuid_entry cpuid[CPUID_MAX];
    unsigned cpuid_count;

    struct lapic lapic;
    struct vcpu_run *run; /* run.c: block cache, requests, statistics */
    uint8_t tlb_mode;     /* TLB_* */
    struct {              /* what CLAC and STAC choose in CPL 0 */
        struct tlb_entry *tlb;
        uint8_t mode;
    } ac[2];
    struct tlb_entry *user_tlb; /* what CPL 3 looks into, unless alignment is checked */
    bool align_check;           /* CPL 3, CR0.AM and EFLAGS.AC: the TLB is bypassed */
    struct last_pages last;
    int32_t last_misses;  /* to go until somebody looks who it is that misses so often */
    uint64_t last_looked; /* at the host's TSC */
};

static inline struct soft_vcpu *soft_vcpu_of(struct vcpu *v)
{
    return CONTAINER_OF(v, struct soft_vcpu, vcpu);
}

/* ---- Flags ---- */
static inline uint32_t cc_to_flags(uint32_t cc) { return (cc >> 8 & 0xd5) | (cc & 1) << 11; }
static inline uint32_t flags_to_cc(uint32_t fl)
{
    return (fl & 0xd5) << 8 | 0x200 | (fl >> 11 & 1);
}
static inline uint32_t rflags_get(const struct soft_vcpu *v)
{
    return cc_to_flags(v->cc) | v->flags;
}
/* Sets the status flags only. */
static inline void status_set(struct soft_vcpu *v, uint32_t fl) { v->cc = flags_to_cc(fl); }

/* ---- Exceptions: `return raise_gp(v, 0);` from a handler ---- */
static inline int raise(struct soft_vcpu *v, uint8_t vector)
{
    v->exc = (struct exception){ .vector = vector };
    return OP_FAULT;
}
static inline int raise_error(struct soft_vcpu *v, uint8_t vector, uint32_t error)
{
    v->exc = (struct exception){ .vector = vector, .has_error = true, .error = error };
    return OP_FAULT;
}
static inline int raise_gp(struct soft_vcpu *v, uint32_t error)
{
    return raise_error(v, EXC_GP, error);
}
/* An address is none. */
static inline int raise_noncanonical(struct soft_vcpu *v)
{
    raise_gp(v, 0);
    v->exc.noncanonical = true;
    return OP_FAULT;
}
static inline int raise_ud(struct soft_vcpu *v) { return raise(v, EXC_UD); }

/* Before anything but translated code looks at the x87 unit or MMX registers. */
static inline void x87_leave_host(struct soft_vcpu *v)
{
    if (unlikely(v->fpu.x87_in_host))
        x87_leave_host_slow(v);
}

/* ---- Registers by the decoded offsets ---- */
static inline void *gpr_at(struct soft_vcpu *v, unsigned offset)
{
    return (uint8_t *)v->gpr + offset;
}
static inline void gpr_set(struct soft_vcpu *v, unsigned n, unsigned size,
                           uint64_t value) /* size 2, 4, 8; 4 zero-extends */
{
    if (size == 8)
        v->gpr[n] = value;
    else if (size == 4)
        v->gpr[n] = (uint32_t)value;
    else
        *(uint16_t *)&v->gpr[n] = (uint16_t)value;
}
static inline uint64_t size_mask(unsigned size)
{
    return size == 8 ? ~0ull : (1ull << size * 8) - 1;
}
/* rip of the instruction and of the one behind it (wraps as IP, EIP and RIP do) */
static inline uint64_t rip_mask(const struct soft_vcpu *v)
{
    return v->mode == MODE_64 ? ~0ull : v->mode == MODE_32 ? 0xffffffffull : 0xffffull;
}
static inline uint64_t insn_rip(const struct soft_vcpu *v, const struct insn *i)
{
    return (v->gpr[REG_RIP] + i->start) & rip_mask(v);
}
static inline uint64_t next_rip(const struct soft_vcpu *v, const struct insn *i)
{
    return (v->gpr[REG_RIP] + insn_end(i)) & (v->mode == MODE_16 ? 0xffffull : rip_mask(v));
}
static inline bool is_canonical(uint64_t va) { return (uint64_t)((int64_t)(va << 16) >> 16) == va; }
/* Outside long mode linear addresses have 32 bits. */
static inline uint64_t linear(const struct soft_vcpu *v, uint64_t va)
{
    return v->long_mode ? va : va & 0xffffffff;
}
static inline bool real_mode(const struct soft_vcpu *v) { return !(v->cr0 & CR0_PE); }
static inline bool v8086_mode(const struct soft_vcpu *v) { return v->flags & FL_VM; }

#endif
