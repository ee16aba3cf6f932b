/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The IDE function of PIIX3: two channels at their old ports with two drives each, for systems that
 * know nothing newer.
 */
#ifndef DEVICES_DISK_IDE_H
#define DEVICES_DISK_IDE_H

#include "devices/disk/ata.h"
#include "devices/pci.h"

enum { IDE_DRIVES = 4 }; /* primary master, primary slave, secondary master, secondary slave */

/* The caller plugs it in (pci_bus_add, machine_add_device) and owns it until then. */
int ide_create(struct machine *m, const char *id, const struct ata_drive_config drives[IDE_DRIVES],
               struct pci_device **out, struct err *err);
/* For changing media. */
struct ata_drive *ide_drive(struct pci_device *pci, unsigned drive);

#endif
