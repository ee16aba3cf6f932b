/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The LPC bridge of an ICH9 (00:1f.0): where the ACPI ports are, and PCI interrupts on the PICs. */
#ifndef DEVICES_LPC_H
#define DEVICES_LPC_H

#include "devices/pci.h"

enum { LPC_SLOT = 31, LPC_RCBA_BASE = 0xfed1c000, LPC_RCBA_SIZE = 0x4000 };

/* Adds it to the machine, which owns it. `pm`: the chip whose ports it places; they are not decoded
 * before the guest says so, or lpc_as_firmware does. Main loop, before the machine runs. */
int lpc_create(struct machine *m, struct pci_bus *bus, struct device *pm, struct err *err);
/* What a firmware leaves in its registers: ACPI ports at PM_BASE. */
void lpc_as_firmware(struct pci_bus *bus);

#endif
