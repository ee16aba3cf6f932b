/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The watchdog of Intel's 6300ESB, on PCI. */
#ifndef DEVICES_I6300ESB_H
#define DEVICES_I6300ESB_H

#include "devices/pci.h"

/* Adds it to the machine, which owns it, in `slot` (-1: any) of the bus. When the second stage
 * expires and the guest did not disable that, MACHINE_WATCHDOG is posted with the id as detail;
 * what then happens is up to who hears it. Main loop, before the machine runs. */
int i6300esb_create(struct machine *m, struct pci_bus *bus, int slot, const char *id,
                    struct err *err);

#endif
