/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The host bridge of the board (Intel 82G33 "Q35" MCH as far as drivers look): configuration access
 * by ports 0xcf8-0xcff and by ECAM, and the reset register at port 0xcf9 that lies between them.
 */
#ifndef DEVICES_PCI_HOST_H
#define DEVICES_PCI_HOST_H

#include "devices/mch.h"
#include "devices/pci.h"

enum {
    PCI_HOST_ECAM_BASE = 0xb0000000,
    PCI_HOST_ECAM_SIZE = 0x10000000,
    PCI_HOST_RESET_PORT = 0xcf9
};

/* Adds the bridge to the machine, which owns it; *bus lives as long. Without `mch` ECAM stays where
 * it is and all memory is RAM, as micro-1 has it; with it the bridge has the registers of a Q35,
 * and their power-on state: ECAM is off, firmware shows below 1 MiB. Main loop, before the machine
 * runs.
 */
int pci_host_create(struct machine *m, const struct mch_config *mch, struct pci_bus **bus,
                    struct err *err);
/* What a firmware leaves in a Q35's registers: ECAM at PCI_HOST_ECAM_BASE, RAM in place of ROM. */
void pci_host_as_firmware(struct pci_bus *bus);

#endif
