/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The host bridge of the board (Intel 82G33 "Q35" MCH as far as drivers look): configuration access
 * by ports 0xcf8-0xcff and by ECAM, and the reset register at port 0xcf9 that lies between them.
 */
#ifndef DEVICES_PCI_HOST_H
#define DEVICES_PCI_HOST_H

#include "devices/pci.h"

enum {
    PCI_HOST_ECAM_BASE = 0xb0000000,
    PCI_HOST_ECAM_SIZE = 0x10000000,
    PCI_HOST_RESET_PORT = 0xcf9
};

/* Adds the bridge to the machine, which owns it; *bus lives as long. Main loop, before the machine
 * runs. */
int pci_host_create(struct machine *m, struct pci_bus **bus, struct err *err);

#endif
