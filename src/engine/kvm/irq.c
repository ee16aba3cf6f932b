/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Interrupts under KVM's split irqchip: the local APICs are KVM's; IOAPIC and PIC are ours and send
 * messages and ExtINT. KVM_SIGNAL_MSI costs what an irqfd costs when the sender is in this process,
 * so there are no irqfds.
 */
#include "engine/kvm/kvm.h"

#include "base/log.h"

#include <string.h>

int irqs_create(struct kvm_engine *e, struct err *err)
{
    struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { KVM_ROUTES } };
    if (ioctl(e->fd, KVM_ENABLE_CAP, &split) < 0)
        return err_errno(err, errno, "KVM refuses the split irqchip");
    struct kvm_enable_cap x2apic = {
        .cap = KVM_CAP_X2APIC_API,
        .args = { KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK },
    };
    if (ioctl(e->fd, KVM_ENABLE_CAP, &x2apic) < 0)
        return err_errno(err, errno, "KVM refuses 32-bit APIC ids");
    return 0;
}

void irqs_msi(struct engine *engine, uint64_t address, uint32_t data)
{
    struct kvm_engine *e = kvm_engine_of(engine);
    struct kvm_msi msi = { .address_lo = (uint32_t)address,
                           .address_hi = (uint32_t)(address >> 32),
                           .data = data };
    if (ioctl(e->fd, KVM_SIGNAL_MSI, &msi) < 0)
        log_guest("kvm: message %#x to %#llx failed: %s", data, (unsigned long long)address,
                  strerror(errno));
}

/* KVM reports the EOI of those vectors that a level-triggered route of the first KVM_ROUTES GSIs
 * names. */
static void routes_write(struct kvm_engine *e)
{
    union {
        struct kvm_irq_routing head;
        uint8_t bytes[sizeof(struct kvm_irq_routing) +
                      KVM_ROUTES * sizeof(struct kvm_irq_routing_entry)];
    } table;
    memset(&table, 0, sizeof table);
    for (unsigned gsi = 0; gsi < KVM_ROUTES; gsi++) {
        if (!e->routes[gsi].used)
            continue;
        struct kvm_irq_routing_entry *entry = &table.head.entries[table.head.nr++];
        entry->gsi = gsi;
        entry->type = KVM_IRQ_ROUTING_MSI;
        entry->u.msi.address_lo = (uint32_t)e->routes[gsi].address;
        entry->u.msi.address_hi = (uint32_t)(e->routes[gsi].address >> 32);
        entry->u.msi.data = e->routes[gsi].data;
    }
    if (ioctl(e->fd, KVM_SET_GSI_ROUTING, &table) < 0)
        log_error("kvm: cannot set the interrupt routes: %s", strerror(errno));
}

void irqs_eoi_watch(struct engine *engine, unsigned gsi, uint64_t address, uint32_t data,
                    bool level, bool masked)
{
    struct kvm_engine *e = kvm_engine_of(engine);
    enum { DATA_LEVEL = 1 << 15 };
    if (gsi >= KVM_ROUTES)
        return;
    LOCKED(&e->route_lock);
    __typeof__(e->routes[0]) *route = &e->routes[gsi];
    /* What is in service when its pin is masked still ends with an EOI, so a route stays until a
     * new one takes its place. */
    if (masked || (!level && !route->used))
        return;
    data |= level ? DATA_LEVEL : 0;
    if (route->used == level && route->address == address && route->data == data)
        return;
    route->used = level;
    route->address = address;
    route->data = data;
    routes_write(e);
}

/* ExtINT reaches the first vCPU, whose LINT0 KVM looks at. */
void irqs_extint(struct engine *engine, bool level)
{
    struct kvm_engine *e = kvm_engine_of(engine);
    bool before = atomic_exchange(&e->extint, level);
    if (level && !before && e->vcpu_count)
        vcpu_poke(e->vcpus[0]);
}

void irqs_nmi(struct vcpu *vcpu)
{
    struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
    atomic_store(&v->nmi_wanted, true);
    vcpu_poke(v);
}

int irqs_nmi_flush(struct kvm_vcpu *v)
{
    if (!atomic_exchange(&v->nmi_wanted, false))
        return 0;
    return ioctl(v->fd, KVM_NMI) < 0 ? -errno : 0;
}

static void extint_inject(struct kvm_vcpu *v)
{
    int vector = extint_ack(v->vcpu.engine->machine);
    if (vector < 0)
        return;
    struct kvm_regs regs;
    struct kvm_interrupt interrupt = { .irq = (uint32_t)vector };
    if (ioctl(v->fd, KVM_GET_REGS, &regs) < 0 || ioctl(v->fd, KVM_INTERRUPT, &interrupt) < 0) {
        log_error("kvm: cannot inject the PIC's vector %d: %s", vector, strerror(errno));
        return;
    }
    v->extint_vector = vector;
    v->extint_rip = regs.rip;
}

/* On the vCPU's thread, just before it enters the guest. */
void irqs_before_run(struct kvm_vcpu *v)
{
    struct kvm_engine *e = kvm_engine_of_vcpu(v);
    if (unlikely(atomic_load_explicit(&v->nmi_wanted, memory_order_relaxed)))
        irqs_nmi_flush(v);
    if (v->vcpu.index)
        return;
    if (unlikely(atomic_load(&e->extint)) && v->run->ready_for_interrupt_injection) {
        extint_inject(v);
        v->run->ready_for_interrupt_injection = 0; /* until KVM says so again */
    }
    v->run->request_interrupt_window = atomic_load(&e->extint);
}
