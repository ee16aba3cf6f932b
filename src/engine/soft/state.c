/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The vCPU as the one format that all engines share (engine/x86.h), and back. What is alike in both
 * is one list, so that nothing is saved that is not restored.
 */
#include "engine/soft/run.h"
#include "engine/soft/sys.h"
#include "engine/soft/tlb.h"

#include <string.h>

/* What both hold alike. */
/* clang-format off */
#define ALIKE(X) \
    X(rip) X(seg) X(gdtr) X(idtr) X(cr0) X(cr2) X(cr3) X(cr4) X(efer) X(xcr0) \
    X(dr) X(dr6) X(dr7) X(pdptr) \
    X(star) X(lstar) X(cstar) X(sfmask) X(kernel_gs_base) X(tsc_aux) \
    X(sysenter_cs) X(sysenter_esp) X(sysenter_eip) X(pat) X(misc_enable) X(spec_ctrl) \
    X(mtrr_def_type) X(mtrr_fixed) X(mtrr_base) X(mtrr_mask) X(tsc_offset) X(kvmclock) \
    X(activity) X(interrupt_shadow)
/* clang-format on */
#define TYPE_OF(type, field) __typeof__(((struct type *)0)->field)
#define CHECK(field)                                                                         \
    _Static_assert(                                                                          \
        __builtin_types_compatible_p(TYPE_OF(soft_vcpu, field), TYPE_OF(arch_state, field)), \
        #field);
ALIKE(CHECK)

int soft_get_state(struct vcpu *vcpu, struct arch_state *s, struct err *err)
{
    (void)err;
    struct soft_vcpu *v = soft_vcpu_of(vcpu);
    memset(s, 0, sizeof *s);
#define GET(field) memcpy(&s->field, &v->field, sizeof s->field);
    ALIKE(GET)
    memcpy(s->gpr, v->gpr, sizeof s->gpr);
    s->rflags = rflags_get(v);
    s->cr8 = lapic_cr8(&v->lapic);
    fpu_get(&v->fpu, &s->fpu);
    lapic_get(&v->lapic, &s->lapic);
    s->nmi_pending = atomic_load(&v->run->nmi_pending);
    s->nmi_masked = v->nmi_masked;
    uint32_t requests = atomic_load(&v->request);
    s->init_pending = !!(requests & REQ_INIT);
    s->sipi_pending = !!(requests & REQ_SIPI);
    s->sipi_vector = s->sipi_pending ? atomic_load(&v->run->sipi_vector) : 0;
    return 0;
}

void vcpu_state_install(struct soft_vcpu *v, const struct arch_state *s)
{
#define SET(field) memcpy(&v->field, &s->field, sizeof v->field);
    ALIKE(SET)
    memcpy(v->gpr, s->gpr, sizeof s->gpr);
    v->gpr[REG_NONE] = 0;
    status_set(v, (uint32_t)s->rflags);
    v->flags = ((uint32_t)s->rflags & ~(uint32_t)F_ALL) | FL_FIXED;
    v->cr0 |= CR0_ET;
    v->long_mode = s->efer & EFER_LMA;
    v->xcr0 |= 1;
    fpu_set(&v->fpu, &s->fpu);
    lapic_set(&v->lapic, &s->lapic);
    atomic_store(&v->run->nmi_pending, s->nmi_pending);
    v->nmi_masked = s->nmi_masked;
    atomic_store(&v->run->sipi_vector, s->sipi_vector);
    uint32_t requests =
        REQ_INTERRUPT | (s->init_pending ? REQ_INIT : 0) | (s->sipi_pending ? REQ_SIPI : 0);
    /* What had arrived before this state is not of it, e.g. when a VM comes back to this engine. */
    atomic_fetch_and(&v->request, ~(uint32_t)(REQ_INIT | REQ_SIPI));
    atomic_fetch_or(&v->request, requests);
    v->cpl = v->cr0 & CR0_PE ? v->seg[S_SS].attr >> SEG_DPL_SHIFT & 3 : 0;
    vcpu_mode_update(v);
    tlb_flush(v);
    vcpu_update_careful(v);
    v->run->timer_armed_ns = 0;
}

int soft_set_state(struct vcpu *vcpu, const struct arch_state *s, struct err *err)
{
    struct soft_vcpu *v = soft_vcpu_of(vcpu);
    if (s->in_smm || s->smi_pending)
        return err_set(err, ENOTSUP, "vcpu %u: the soft engine has no system management mode",
                       vcpu->index);
    if (s->xcr0 & ~xcr0_supported(v))
        return err_set(err, ENOTSUP, "vcpu %u: XCR0 %#llx is beyond the CPU model", vcpu->index,
                       (unsigned long long)s->xcr0);
    if (s->cr4 & CR4_LA57)
        return err_set(err, ENOTSUP, "vcpu %u: the soft engine has no 5-level paging", vcpu->index);
    vcpu_state_install(v, s);
    if (s->injected_valid) { /* the other engine had begun to deliver an event: finish it here */
        v->exc = (struct exception){ .vector = s->injected_vector,
                                     .has_error = s->injected_has_error,
                                     .error = s->injected_error };
        if (s->injected_type == 0)
            interrupt_deliver(v, s->injected_vector);
        else
            exception_deliver(v);
    }
    return 0;
}
