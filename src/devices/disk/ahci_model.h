/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The SATA controller as tests and its fuzzer use it: a disk at port 0, a CD-ROM drive at port 1.
 */
#ifndef DEVICES_DISK_AHCI_MODEL_H
#define DEVICES_DISK_AHCI_MODEL_H

#include "devices/disk/ahci.h"
#include "devices/disk/disk_model.h"

enum { AHCI_AT = 0xc0000000 };

static struct pci_bus *ahci_bus;
static struct pci_device *ahci_pci;
static struct block_node *ahci_disk, *ahci_cd;

static inline void ahci_model_create(struct machine *m)
{
    struct err err = { 0 };
    const struct pci_windows windows = { .mem32 = AHCI_AT, .mem32_size = 0x10000 };
    ahci_disk = model_image(false);
    ahci_cd = model_image(true);
    const struct ata_drive_config ports[AHCI_PORTS] = {
        { .id = "disk0", .node = ahci_disk }, { .id = "cdrom0", .node = ahci_cd, .cdrom = true }
    };
    if (pci_bus_create(&ahci_bus, &err) < 0 ||
        ahci_create(m, "ahci0", ports, &ahci_pci, &err) < 0 ||
        pci_bus_add(ahci_bus, ahci_pci, 1, &err) < 0)
        fail_msg("%s", err.text);
    machine_add_device(m, &ahci_pci->dev);
    if (pci_bus_assign(ahci_bus, &windows, &err) < 0)
        fail_msg("%s", err.text);
}

static inline void ahci_model_destroy(void)
{
    pci_bus_destroy(ahci_bus);
    block_close(ahci_disk);
    block_close(ahci_cd);
}

/* A medium comes and goes. */
static inline void ahci_model_event(unsigned what, uint32_t value)
{
    struct err err = { 0 };
    if (what & 1)
        ata_medium_eject(ahci_drive(ahci_pci, 1), what & 2, &err);
    else
        ata_medium_insert(ahci_drive(ahci_pci, 1), ahci_cd, &err);
}

static const struct fuzz_target ahci_targets[] = {
    { SPACE_MEMORY, AHCI_AT, 0x20 },         { SPACE_MEMORY, AHCI_AT + 0x100, 0x40 },
    { SPACE_MEMORY, AHCI_AT + 0x180, 0x40 }, { SPACE_MEMORY, AHCI_AT, 0x1000 },
    { SPACE_MEMORY, AHCI_AT + 0x110, 0x08 }, { SPACE_MEMORY, AHCI_AT + 0x134, 0x08 },
    { SPACE_MEMORY, AHCI_AT + 0x1b4, 0x08 },
};
static const struct fuzz_model ahci_model = {
    .create = ahci_model_create,
    .destroy = ahci_model_destroy,
    .event = ahci_model_event,
    .targets = ahci_targets,
    .target_count = ARRAY_LEN(ahci_targets),
};

#endif
