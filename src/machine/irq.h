/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Interrupts: pins onto global system interrupts (GSI), chips that listen to GSIs, and messages to
 * local APICs.
 *
 *   device pin --irq_pin_set--> GSI (OR of its pins) --> PIC (0-15) and IOAPIC (0-23) --msi_send-->
 * engine PIC --extint_set--> engine --extint_ack--> PIC        engine --irq_eoi(vector)--> IOAPIC
 *
 * All functions may be called from any thread, with a device's lock held; chips take only their own
 * lock and never call back into devices from `set` (lock order: device, then PIC/IOAPIC, then
 * engine).
 */
#ifndef MACHINE_IRQ_H
#define MACHINE_IRQ_H

#include <stdbool.h>
#include <stdint.h>

struct machine;

enum { GSI_COUNT = 24 };

struct irq_pin { /* embedded in a device; level is derived state, restored by the device's `loaded`
                  */
    struct machine *machine;
    unsigned gsi;
    bool level; /* machine's irq lock */
};
void irq_pin_init(struct irq_pin *pin, struct machine *m, unsigned gsi);
void irq_pin_set(struct irq_pin *pin, bool level);
static inline void irq_pin_pulse(struct irq_pin *pin)
{
    irq_pin_set(pin, true);
    irq_pin_set(pin, false);
}

/* The line `to` (1 to 15) follows line `gsi` (16 and more), too; 0: no longer. PCI interrupts reach
 * the PICs so. */
void irq_route(struct machine *m, unsigned gsi, unsigned to);

struct irq_chip { /* embedded in PIC and IOAPIC; fixed once added */
    void (*set)(struct irq_chip *chip, unsigned gsi, bool level);
    void (*eoi)(struct irq_chip *chip, uint8_t vector); /* NULL: not interested */
    int (*ack)(struct irq_chip *chip); /* PIC only: vector, or -1 when nothing pends */
    struct irq_chip *next;
};
void irq_chip_add(struct machine *m, struct irq_chip *chip);
void irq_chip_remove(struct machine *m, struct irq_chip *chip);

/* For chips and MSI devices: an interrupt message, as PCI MSI has it (address 0xfeexxxxx). */
void msi_send(struct machine *m, uint64_t address, uint32_t data);
/* IOAPIC tells which vectors are level-triggered, so that KVM's split irqchip reports their EOI. */
void irq_eoi_watch(struct machine *m, unsigned gsi, uint64_t msi_address, uint32_t msi_data,
                   bool level, bool masked);

void extint_set(struct machine *m, bool level); /* by the PIC: its INTR output */
int extint_ack(struct machine *m); /* by an engine taking an ExtINT: vector or -1 (spurious) */
void irq_eoi(struct machine *m, uint8_t vector); /* by an engine, for level-triggered vectors */

#endif
