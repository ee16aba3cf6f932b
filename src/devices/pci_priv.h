/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What pci.c (configuration space, buses), pci_bar.c, pci_irq.c and pci_assign.c share. */
#ifndef DEVICES_PCI_PRIV_H
#define DEVICES_PCI_PRIV_H

#include "devices/pci.h"

enum { FUNCTIONS = 256, ROM = PCI_BARS, DECODERS = PCI_BARS + 1 };
enum { MSIX_CONTROL = 2 }; /* in the capability */
enum { MSIX_REGION_TABLE, MSIX_REGION_PBA };

struct pci_bus {
    struct pci_bus *root;
    struct pci_device *bridge; /* NULL: this is the root */
    pthread_mutex_t lock;      /* the root's is used */
    struct pci_device *functions[FUNCTIONS];
};

/* Stores atomically, for some read without the bus lock. */
void pci_config_put(struct pci_device *pci, unsigned offset, unsigned size, uint32_t value);
/* Does the bridge pass on anything now? Bus lock held. */
bool pci_link_up(struct pci_device *bridge);
/* Which GSI the function's pin is wired to, through the bridges above it. */
unsigned pci_function_gsi(const struct pci_device *pci, unsigned pin);

/* ---- pci_bar.c; bus lock held ---- */

void pci_bars_update(struct pci_bus *bus);
void pci_bar_unmap(struct pci_device *pci, unsigned index);

/* ---- pci_irq.c; irq_lock held ---- */

extern const struct device_type pci_msix_type;
void pci_intx_update(struct pci_device *pci);
void pci_msix_send_pending(struct pci_device *pci, unsigned first, unsigned last);
void pci_msix_power_on(struct pci_regs *regs);
void pci_msix_loaded(struct pci_regs *regs);

#endif
