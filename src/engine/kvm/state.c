/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The architectural state to and from KVM.
 *
 * The order matters. Reading: mp_state first, because asking for it makes KVM accept pending INITs
 * and SIPIs, which change registers. Writing: control registers before what they permit (XCR0, APIC
 * page), registers before events (setting registers drops a pending exception), mp_state last.
 */
#include "engine/kvm/kvm.h"

#include <string.h>

enum { CR0_PG_BIT = 31, CR4_PAE = 1 << 5, EFER_LMA = 1 << 10, FLAG_IF = 1 << 9 };
enum { XSAVE_X87 = 1, XSAVE_SSE = 2, XSAVE_AVX = 4 };
enum { XSAVE_LEGACY = 512, XSAVE_BV = 512, XSAVE_AVX_OFFSET = 576, XSAVE_MIN = 832 };

/* ---- model-specific registers ---- */

/* KVM's structures that end in arrays, as buffers of one entry. */
union one_msr {
    struct kvm_msrs head;
    uint8_t bytes[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
};

int msr_get(struct kvm_vcpu *v, uint32_t index, uint64_t *out)
{
    union one_msr msr = { .head.nmsrs = 1 };
    msr.head.entries[0].index = index;
    int r = ioctl(v->fd, KVM_GET_MSRS, &msr);
    if (r == 1)
        *out = msr.head.entries[0].data;
    return r == 1 ? 0 : r < 0 ? -errno : -EINVAL;
}

int msr_set(struct kvm_vcpu *v, uint32_t index, uint64_t value)
{
    union one_msr msr = { .head.nmsrs = 1 };
    msr.head.entries[0] = (struct kvm_msr_entry){ .index = index, .data = value };
    int r = ioctl(v->fd, KVM_SET_MSRS, &msr);
    return r == 1 ? 0 : r < 0 ? -errno : -EINVAL;
}

#define MSR(index, field)                         \
    {                                             \
        index, offsetof(struct arch_state, field) \
    }
static const struct {
    uint32_t index;
    size_t offset;
} state_msrs[] = {
    MSR(0xc0000081, star),
    MSR(0xc0000082, lstar),
    MSR(0xc0000083, cstar),
    MSR(0xc0000084, sfmask),
    MSR(0xc0000102, kernel_gs_base),
    MSR(0xc0000103, tsc_aux),
    MSR(0x174, sysenter_cs),
    MSR(0x175, sysenter_esp),
    MSR(0x176, sysenter_eip),
    MSR(0x277, pat),
    MSR(0x1a0, misc_enable),
    MSR(0x48, spec_ctrl),
    MSR(0x250, mtrr_fixed[0]),
    MSR(0x258, mtrr_fixed[1]),
    MSR(0x259, mtrr_fixed[2]),
    MSR(0x268, mtrr_fixed[3]),
    MSR(0x269, mtrr_fixed[4]),
    MSR(0x26a, mtrr_fixed[5]),
    MSR(0x26b, mtrr_fixed[6]),
    MSR(0x26c, mtrr_fixed[7]),
    MSR(0x26d, mtrr_fixed[8]),
    MSR(0x26e, mtrr_fixed[9]),
    MSR(0x26f, mtrr_fixed[10]),
    MSR(0x200, mtrr_base[0]),
    MSR(0x201, mtrr_mask[0]),
    MSR(0x202, mtrr_base[1]),
    MSR(0x203, mtrr_mask[1]),
    MSR(0x204, mtrr_base[2]),
    MSR(0x205, mtrr_mask[2]),
    MSR(0x206, mtrr_base[3]),
    MSR(0x207, mtrr_mask[3]),
    MSR(0x208, mtrr_base[4]),
    MSR(0x209, mtrr_mask[4]),
    MSR(0x20a, mtrr_base[5]),
    MSR(0x20b, mtrr_mask[5]),
    MSR(0x20c, mtrr_base[6]),
    MSR(0x20d, mtrr_mask[6]),
    MSR(0x20e, mtrr_base[7]),
    MSR(0x20f, mtrr_mask[7]),
    MSR(0x2ff, mtrr_def_type),
    MSR(0x4b564d01, kvmclock.system_time),
    MSR(0x4b564d00, kvmclock.wall_clock),
};
#undef MSR

static uint64_t *state_msr(struct arch_state *s, size_t i)
{
    return (uint64_t *)(void *)((char *)s + state_msrs[i].offset);
}

/* A register that this guest's CPU has not reads as its default. */
static void msrs_get(struct kvm_vcpu *v, struct arch_state *s)
{
    for (size_t i = 0; i < ARRAY_LEN(state_msrs); i++)
        msr_get(v, state_msrs[i].index, state_msr(s, i));
}

static int msrs_set(struct kvm_vcpu *v, struct arch_state *s, struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(state_msrs); i++) {
        uint64_t value = *state_msr(s, i);
        int r = msr_set(v, state_msrs[i].index, value);
        if (r < 0 && value)
            return err_set(err, ENOTSUP, "vcpu %u: KVM refuses the value %#llx for MSR %#x",
                           v->vcpu.index, (unsigned long long)value, state_msrs[i].index);
    }
    return 0;
}

/* ---- general and system registers ---- */

/* KVM's order of the general registers is not the encoding's. */
static void gpr_get(const struct kvm_regs *r, struct arch_state *s)
{
    const uint64_t low[8] = { r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi };
    memcpy(s->gpr, low, sizeof low);
    memcpy(s->gpr + 8, &r->r8, 8 * sizeof r->r8);
    s->rip = r->rip;
    s->rflags = r->rflags;
}

static struct kvm_regs gpr_set(const struct arch_state *s)
{
    const uint64_t *g = s->gpr;
    struct kvm_regs r = {
        .rax = g[R_AX],
        .rcx = g[R_CX],
        .rdx = g[R_DX],
        .rbx = g[R_BX],
        .rsp = g[R_SP],
        .rbp = g[R_BP],
        .rsi = g[R_SI],
        .rdi = g[R_DI],
        .rip = s->rip,
        .rflags = s->rflags,
    };
    memcpy(&r.r8, g + 8, 8 * sizeof r.r8);
    return r;
}

static struct x86_segment segment_get(const struct kvm_segment *k)
{
    return (struct x86_segment){
        .base = k->base,
        .limit = k->limit,
        .selector = k->selector,
        .attr = (uint16_t)((k->type & SEG_TYPE) | (k->s ? SEG_S : 0) |
                           (k->dpl & 3) << SEG_DPL_SHIFT | (k->present ? SEG_P : 0) |
                           (k->avl ? SEG_AVL : 0) | (k->l ? SEG_L : 0) | (k->db ? SEG_DB : 0) |
                           (k->g ? SEG_G : 0) | (k->unusable ? SEG_UNUSABLE : 0)),
    };
}

static struct kvm_segment segment_set(const struct x86_segment *s)
{
    return (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->selector,
        .type = s->attr & SEG_TYPE,
        .s = !!(s->attr & SEG_S),
        .dpl = s->attr >> SEG_DPL_SHIFT & 3,
        .present = !!(s->attr & SEG_P),
        .avl = !!(s->attr & SEG_AVL),
        .l = !!(s->attr & SEG_L),
        .db = !!(s->attr & SEG_DB),
        .g = !!(s->attr & SEG_G),
        .unusable = !!(s->attr & SEG_UNUSABLE),
    };
}

static bool pae_paging(const struct arch_state *s)
{
    return s->cr0 >> CR0_PG_BIT & 1 && s->cr4 & CR4_PAE && !(s->efer & EFER_LMA);
}

static void sregs_get(const struct kvm_sregs2 *k, struct arch_state *s)
{
    const struct kvm_segment *from[S_COUNT] = {
        [S_ES] = &k->es, [S_CS] = &k->cs, [S_SS] = &k->ss, [S_DS] = &k->ds,
        [S_FS] = &k->fs, [S_GS] = &k->gs, [S_TR] = &k->tr, [S_LDTR] = &k->ldt,
    };
    for (unsigned i = 0; i < S_COUNT; i++)
        s->seg[i] = segment_get(from[i]);
    s->gdtr = (struct x86_table){ k->gdt.base, k->gdt.limit };
    s->idtr = (struct x86_table){ k->idt.base, k->idt.limit };
    s->cr0 = k->cr0;
    s->cr2 = k->cr2;
    s->cr3 = k->cr3;
    s->cr4 = k->cr4;
    s->cr8 = k->cr8;
    s->efer = k->efer;
    s->lapic.apic_base = k->apic_base;
    if (k->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID)
        memcpy(s->pdptr, k->pdptrs, sizeof s->pdptr);
}

static struct kvm_sregs2 sregs_set(const struct arch_state *s)
{
    struct kvm_sregs2 k = {
        .es = segment_set(&s->seg[S_ES]),
        .cs = segment_set(&s->seg[S_CS]),
        .ss = segment_set(&s->seg[S_SS]),
        .ds = segment_set(&s->seg[S_DS]),
        .fs = segment_set(&s->seg[S_FS]),
        .gs = segment_set(&s->seg[S_GS]),
        .tr = segment_set(&s->seg[S_TR]),
        .ldt = segment_set(&s->seg[S_LDTR]),
        .gdt = { .base = s->gdtr.base, .limit = s->gdtr.limit },
        .idt = { .base = s->idtr.base, .limit = s->idtr.limit },
        .cr0 = s->cr0,
        .cr2 = s->cr2,
        .cr3 = s->cr3,
        .cr4 = s->cr4,
        .cr8 = s->cr8,
        .efer = s->efer,
        .apic_base = s->lapic.apic_base,
    };
    if (pae_paging(s)) {
        k.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
        memcpy(k.pdptrs, s->pdptr, sizeof k.pdptrs);
    }
    return k;
}

/* ---- FPU, in the standard form of XSAVE ---- */

static void fpu_unpack(const uint8_t *area, struct x86_fpu *f)
{
    uint64_t bv;
    memcpy(&bv, area + XSAVE_BV, sizeof bv);
    f->fcw = 0x37f;
    memcpy(&f->mxcsr, area + 24, sizeof f->mxcsr);
    if (bv & XSAVE_X87) {
        memcpy(&f->fcw, area, 2);
        memcpy(&f->fsw, area + 2, 2);
        f->ftw = area[4];
        memcpy(&f->fop, area + 6, 2);
        memcpy(&f->fip, area + 8, 8);
        memcpy(&f->fdp, area + 16, 8);
        for (unsigned i = 0; i < 8; i++)
            memcpy(f->st[i], area + 32 + 16 * i, 10);
    }
    if (bv & XSAVE_SSE)
        memcpy(f->xmm, area + 160, sizeof f->xmm);
    if (bv & XSAVE_AVX)
        memcpy(f->ymm_high, area + XSAVE_AVX_OFFSET, sizeof f->ymm_high);
}

static void fpu_pack(const struct x86_fpu *f, bool avx, uint8_t *area)
{
    uint64_t bv = XSAVE_X87 | XSAVE_SSE | (avx ? XSAVE_AVX : 0);
    memcpy(area, &f->fcw, 2);
    memcpy(area + 2, &f->fsw, 2);
    area[4] = f->ftw;
    memcpy(area + 6, &f->fop, 2);
    memcpy(area + 8, &f->fip, 8);
    memcpy(area + 16, &f->fdp, 8);
    memcpy(area + 24, &f->mxcsr, 4);
    for (unsigned i = 0; i < 8; i++)
        memcpy(area + 32 + 16 * i, f->st[i], 10);
    memcpy(area + 160, f->xmm, sizeof f->xmm);
    memcpy(area + XSAVE_BV, &bv, sizeof bv);
    if (avx)
        memcpy(area + XSAVE_AVX_OFFSET, f->ymm_high, sizeof f->ymm_high);
}

static int fpu_get(struct kvm_vcpu *v, struct arch_state *s)
{
    struct kvm_engine *e = kvm_engine_of_vcpu(v);
    AUTO(free) uint8_t *area = calloc(1, e->xsave_size);
    if (!area)
        return -ENOMEM;
    if (ioctl(v->fd, e->xsave_size > 4096 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, area) < 0)
        return -errno;
    fpu_unpack(area, &s->fpu);
    return 0;
}

static int fpu_set(struct kvm_vcpu *v, const struct arch_state *s)
{
    struct kvm_engine *e = kvm_engine_of_vcpu(v);
    AUTO(free) uint8_t *area = calloc(1, e->xsave_size);
    if (!area)
        return -ENOMEM;
    fpu_pack(&s->fpu, e->host_avx, area);
    return ioctl(v->fd, KVM_SET_XSAVE, area) < 0 ? -errno : 0;
}

/* ---- local APIC ---- */

enum { X2APIC = 1 << 10 };

static void lapic_unpack(const struct kvm_lapic_state *page, struct x86_lapic *l)
{
    bool x2 = l->apic_base & X2APIC;
    l->id = apic_get(page, APIC_ID);
    l->tpr = apic_get(page, APIC_TPR);
    l->ldr = apic_get(page, APIC_LDR);
    l->dfr = x2 ? ~0u : apic_get(page, APIC_DFR);
    l->svr = apic_get(page, APIC_SVR);
    l->esr = apic_get(page, APIC_ESR);
    for (unsigned i = 0; i < 8; i++) {
        l->isr[i] = apic_get(page, APIC_ISR + 16 * i);
        l->tmr[i] = apic_get(page, APIC_TMR + 16 * i);
        l->irr[i] = apic_get(page, APIC_IRR + 16 * i);
    }
    l->icr = apic_get(page, APIC_ICR) | (uint64_t)apic_get(page, APIC_ICR2) << 32;
    l->lvt_timer = apic_get(page, APIC_TIMER);
    l->lvt_thermal = apic_get(page, APIC_THERMAL);
    l->lvt_perf = apic_get(page, APIC_PERF);
    l->lvt_lint0 = apic_get(page, APIC_LINT0);
    l->lvt_lint1 = apic_get(page, APIC_LINT1);
    l->lvt_error = apic_get(page, APIC_ERROR);
    l->lvt_cmci = apic_get(page, APIC_CMCI);
    l->timer_divide = apic_get(page, APIC_DIVIDE) & 0xb;
}

/* `page` holds KVM's own, whose version register stays. */
static void lapic_pack(const struct x86_lapic *l, struct kvm_lapic_state *page)
{
    apic_set(page, APIC_ID, l->id);
    apic_set(page, APIC_TPR, l->tpr);
    apic_set(page, APIC_LDR, l->ldr);
    apic_set(page, APIC_DFR, l->dfr);
    apic_set(page, APIC_SVR, l->svr);
    apic_set(page, APIC_ESR, l->esr);
    for (unsigned i = 0; i < 8; i++) {
        apic_set(page, APIC_ISR + 16 * i, l->isr[i]);
        apic_set(page, APIC_TMR + 16 * i, l->tmr[i]);
        apic_set(page, APIC_IRR + 16 * i, l->irr[i]);
    }
    apic_set(page, APIC_ICR, (uint32_t)l->icr);
    apic_set(page, APIC_ICR2, (uint32_t)(l->icr >> 32));
    apic_set(page, APIC_TIMER, l->lvt_timer);
    apic_set(page, APIC_THERMAL, l->lvt_thermal);
    apic_set(page, APIC_PERF, l->lvt_perf);
    apic_set(page, APIC_LINT0, l->lvt_lint0);
    apic_set(page, APIC_LINT1, l->lvt_lint1);
    apic_set(page, APIC_ERROR, l->lvt_error);
    apic_set(page, APIC_CMCI, l->lvt_cmci);
    apic_set(page, APIC_DIVIDE, l->timer_divide);
}

static int lapic_get(struct kvm_vcpu *v, struct arch_state *s)
{
    struct kvm_lapic_state page;
    if (ioctl(v->fd, KVM_GET_LAPIC, &page) < 0)
        return -errno;
    struct kvm_timer t = time_read(v, &page);
    lapic_unpack(&page, &s->lapic);
    s->tsc_offset = t.tsc_offset;
    s->lapic.timer_initial = t.initial;
    s->lapic.tsc_deadline = t.tsc_deadline;
    s->lapic.timer_deadline_ns = t.deadline_ns;
    if (t.tsc_deadline) {
        uint64_t khz = v->vcpu.engine->machine->tsc_khz;
        int64_t machine_tsc = (int64_t)(t.tsc_deadline - (uint64_t)t.tsc_offset);
        s->lapic.timer_deadline_ns = machine_tsc > 0 ? ns_of_tsc((uint64_t)machine_tsc, khz) : 1;
        if (s->lapic.timer_deadline_ns >> 62) /* centuries away, where sums overflow */
            s->lapic.timer_deadline_ns = ((uint64_t)1 << 62) - 1;
    }
    return 0;
}

static int lapic_set(struct kvm_vcpu *v, const struct arch_state *s)
{
    const struct x86_lapic *l = &s->lapic;
    struct kvm_timer t = {
        .tsc_offset = s->tsc_offset,
        .tsc_deadline = l->tsc_deadline,
        .deadline_ns = l->tsc_deadline ? 0 : l->timer_deadline_ns,
        .initial = l->timer_initial,
    };
    struct kvm_lapic_state page;
    if (ioctl(v->fd, KVM_GET_LAPIC, &page) < 0)
        return -errno;
    lapic_pack(l, &page);
    time_fill_page(kvm_engine_of_vcpu(v), &t, &page);
    if (ioctl(v->fd, KVM_SET_LAPIC, &page) < 0)
        return -errno;
    return time_write(v, &t);
}

/* ---- events ---- */

static void injected_put(struct arch_state *s, uint8_t type, uint8_t vector)
{
    s->injected_valid = 1;
    s->injected_type = type;
    s->injected_vector = vector;
}

enum { EVENT_INTERRUPT = 0, EVENT_NMI = 2, EVENT_EXCEPTION = 3, EVENT_INT_N = 4, EVENT_INT3 = 6 };

static void events_unpack(const struct kvm_vcpu_events *k, struct arch_state *s)
{
    if (k->exception.injected) {
        uint8_t nr = k->exception.nr;
        injected_put(s, nr == 3 || nr == 4 ? EVENT_INT3 : EVENT_EXCEPTION, nr);
        s->injected_has_error = !!k->exception.has_error_code;
        s->injected_error = k->exception.has_error_code ? k->exception.error_code : 0;
    } else if (k->nmi.injected) {
        injected_put(s, EVENT_NMI, 2);
    } else if (k->interrupt.injected) {
        injected_put(s, k->interrupt.soft ? EVENT_INT_N : EVENT_INTERRUPT, k->interrupt.nr);
    }
    s->nmi_pending = !!k->nmi.pending;
    s->nmi_masked = !!k->nmi.masked;
    s->sipi_vector = (uint8_t)k->sipi_vector;
    /* 1 after STI, 2 after MOV SS; KVM numbers them the other way round. */
    s->interrupt_shadow = k->interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? 2
                          : k->interrupt.shadow & KVM_X86_SHADOW_INT_STI  ? 1
                                                                          : 0;
}

static struct kvm_vcpu_events events_pack(const struct arch_state *s)
{
    struct kvm_vcpu_events k = {
        .nmi = { .pending = s->nmi_pending, .masked = s->nmi_masked },
        .sipi_vector = s->sipi_vector,
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
                 KVM_VCPUEVENT_VALID_SHADOW,
    };
    k.interrupt.shadow = s->interrupt_shadow == 2   ? KVM_X86_SHADOW_INT_MOV_SS
                         : s->interrupt_shadow == 1 ? KVM_X86_SHADOW_INT_STI
                                                    : 0;
    if (!s->injected_valid)
        return k;
    switch (s->injected_type) {
    case EVENT_NMI: k.nmi.injected = 1; break;
    case EVENT_EXCEPTION:
    case EVENT_INT3:
        k.exception.injected = 1;
        k.exception.nr = s->injected_vector;
        k.exception.has_error_code = s->injected_has_error;
        k.exception.error_code = s->injected_error;
        break;
    default:
        k.interrupt.injected = 1;
        k.interrupt.nr = s->injected_vector;
        k.interrupt.soft = s->injected_type == EVENT_INT_N;
        break;
    }
    return k;
}

/* KVM keeps the PIC's vector to itself until it delivers it. It has not when the guest did nothing
 * since: to run a handler means to tell the PIC about its end, by an exit. */
static void extint_get(const struct kvm_vcpu *v, struct arch_state *s)
{
    if (v->extint_vector >= 0 && !s->injected_valid && s->rip == v->extint_rip &&
        s->rflags & FLAG_IF)
        injected_put(s, EVENT_INTERRUPT, (uint8_t)v->extint_vector);
}

static void mp_unpack(uint32_t mp_state, struct arch_state *s)
{
    switch (mp_state) {
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED: s->activity = X86_WAIT_SIPI; break;
    case KVM_MP_STATE_SIPI_RECEIVED:
        s->activity = X86_WAIT_SIPI;
        s->sipi_pending = 1;
        break;
    case KVM_MP_STATE_HALTED: s->activity = X86_HALTED; break;
    default: s->activity = X86_RUNNING;
    }
}

static uint32_t mp_pack(const struct arch_state *s)
{
    switch (s->activity) {
    case X86_WAIT_SIPI:
        return s->sipi_pending ? KVM_MP_STATE_SIPI_RECEIVED : KVM_MP_STATE_INIT_RECEIVED;
    case X86_HALTED: return KVM_MP_STATE_HALTED;
    default: return KVM_MP_STATE_RUNNABLE;
    }
}

/* ---- all of it ---- */

#define GET(v, request, out) (ioctl((v)->fd, request, out) < 0 ? -errno : 0)

static int registers_get(struct kvm_vcpu *v, struct arch_state *s)
{
    struct kvm_mp_state mp;
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;
    struct kvm_debugregs debug;
    struct kvm_xcrs xcrs;
    struct kvm_vcpu_events events;
    int r = irqs_nmi_flush(v);
    if (r < 0 || (r = GET(v, KVM_GET_MP_STATE, &mp)) < 0 || (r = GET(v, KVM_GET_REGS, &regs)) < 0 ||
        (r = GET(v, KVM_GET_SREGS2, &sregs)) < 0 || (r = GET(v, KVM_GET_DEBUGREGS, &debug)) < 0 ||
        (r = GET(v, KVM_GET_XCRS, &xcrs)) < 0 || (r = GET(v, KVM_GET_VCPU_EVENTS, &events)) < 0)
        return r;
    gpr_get(&regs, s);
    sregs_get(&sregs, s);
    memcpy(s->dr, debug.db, sizeof s->dr);
    s->dr6 = (uint32_t)debug.dr6;
    s->dr7 = (uint32_t)debug.dr7;
    s->xcr0 = 1;
    for (uint32_t i = 0; i < xcrs.nr_xcrs && i < KVM_MAX_XCRS; i++)
        if (xcrs.xcrs[i].xcr == 0)
            s->xcr0 = xcrs.xcrs[i].value;
    events_unpack(&events, s);
    mp_unpack(mp.mp_state, s);
    if (!s->sipi_pending)
        s->sipi_vector = 0;
    extint_get(v, s);
    return 0;
}

int state_get(struct vcpu *vcpu, struct arch_state *out, struct err *err)
{
    struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
    memset(out, 0, sizeof *out);
    int r = registers_get(v, out);
    if (r == 0)
        r = fpu_get(v, out);
    if (r == 0)
        r = lapic_get(v, out);
    if (r < 0)
        return err_errno(err, -r, "vcpu %u: KVM does not tell its state", vcpu->index);
    msrs_get(v, out);
    return 0;
}

static int refused(const struct kvm_vcpu *v, const char *what, int r, struct err *err)
{
    return err_errno(err, -r, "vcpu %u: KVM refuses its %s", v->vcpu.index, what);
}

static int controls_set(struct kvm_vcpu *v, const struct arch_state *s, struct err *err)
{
    struct kvm_sregs2 sregs = sregs_set(s);
    struct kvm_regs regs = gpr_set(s);
    struct kvm_debugregs debug = { .dr6 = s->dr6, .dr7 = s->dr7 };
    memcpy(debug.db, s->dr, sizeof debug.db);
    struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = s->xcr0 };
    if (ioctl(v->fd, KVM_SET_SREGS2, &sregs) < 0)
        return refused(v, "control registers", -errno, err);
    if (ioctl(v->fd, KVM_SET_REGS, &regs) < 0)
        return refused(v, "general registers", -errno, err);
    if (ioctl(v->fd, KVM_SET_DEBUGREGS, &debug) < 0)
        return refused(v, "debug registers", -errno, err);
    if (ioctl(v->fd, KVM_SET_XCRS, &xcrs) < 0)
        return refused(v, "XCR0", -errno, err);
    return 0;
}

/* INIT and SIPI that wait behind something else come as the messages that they were. A vCPU that
 * waits for SIPI is as INIT leaves it: another would only take back the SIPI that mp_state carries.
 */
static void inits_send(struct kvm_vcpu *v, const struct arch_state *s)
{
    enum { MODE_INIT = 5 << 8, MODE_STARTUP = 6 << 8, ASSERT = 1 << 14 };
    uint64_t address = 0xfee00000u | (uint64_t)(v->vcpu.apic_id & 0xff) << 12;
    if (s->init_pending && s->activity != X86_WAIT_SIPI)
        irqs_msi(v->vcpu.engine, address, MODE_INIT | ASSERT);
    if (s->sipi_pending && s->activity != X86_WAIT_SIPI)
        irqs_msi(v->vcpu.engine, address, MODE_STARTUP | ASSERT | s->sipi_vector);
}

static int events_set(struct kvm_vcpu *v, const struct arch_state *s, struct err *err)
{
    struct kvm_vcpu_events events = events_pack(s);
    struct kvm_mp_state mp = { .mp_state = mp_pack(s) };
    atomic_store(&v->nmi_wanted, false);
    v->extint_vector = -1;
    v->run->ready_for_interrupt_injection = 0; /* it was said of another state */
    if (ioctl(v->fd, KVM_SET_VCPU_EVENTS, &events) < 0)
        return refused(v, "pending events", -errno, err);
    if (ioctl(v->fd, KVM_SET_MP_STATE, &mp) < 0)
        return refused(v, "activity", -errno, err);
    inits_send(v, s);
    return 0;
}

int state_set(struct vcpu *vcpu, const struct arch_state *state, struct err *err)
{
    struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
    struct arch_state s = *state;
    if (s.in_smm || s.smi_pending)
        return err_set(err, ENOTSUP, "vcpu %u: the kvm engine has no system management mode",
                       vcpu->index);
    int r = controls_set(v, &s, err);
    if (r < 0)
        return r;
    r = fpu_set(v, &s);
    if (r < 0)
        return refused(v, "FPU", r, err);
    r = msrs_set(v, &s, err);
    if (r < 0)
        return r;
    r = lapic_set(v, &s);
    if (r < 0)
        return refused(v, "local APIC", r, err);
    return events_set(v, &s, err);
}
