/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The SATA controller of ICH9 in AHCI mode, with hard disks and CD-ROM drives on its six ports.
 */
#ifndef DEVICES_DISK_AHCI_H
#define DEVICES_DISK_AHCI_H

#include "devices/disk/ata.h"
#include "devices/pci.h"

enum { AHCI_PORTS = 6 };

/* The caller plugs it in (pci_bus_add, machine_add_device) and owns it until then. */
int ahci_create(struct machine *m, const char *id, const struct ata_drive_config ports[AHCI_PORTS],
                struct pci_device **out, struct err *err);
/* For changing media. */
struct ata_drive *ahci_drive(struct pci_device *pci, unsigned port);

#endif
