/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The IDE channels as tests and their fuzzer use them: a disk on the first, a CD-ROM drive as the
 * slave of the second. */
#ifndef DEVICES_DISK_IDE_MODEL_H
#define DEVICES_DISK_IDE_MODEL_H

#include "devices/disk/disk_model.h"
#include "devices/disk/ide.h"

enum { IDE_BM = 0xc000 };

static struct pci_bus *ide_bus;
static struct pci_device *ide_pci;
static struct block_node *ide_disk, *ide_cd;

static inline void ide_model_create(struct machine *m)
{
    struct err err = { 0 };
    const struct pci_windows windows = { .io = IDE_BM, .io_size = 0x1000 };
    ide_disk = model_image(false);
    ide_cd = model_image(true);
    const struct ata_drive_config drives[IDE_DRIVES] = {
        [0] = { .id = "disk0", .node = ide_disk },
        [3] = { .id = "cdrom0", .node = ide_cd, .cdrom = true },
    };
    if (pci_bus_create(&ide_bus, &err) < 0 || ide_create(m, "ide0", drives, &ide_pci, &err) < 0 ||
        pci_bus_add(ide_bus, ide_pci, 1, &err) < 0)
        fail_msg("%s", err.text);
    machine_add_device(m, &ide_pci->dev);
    if (pci_bus_assign(ide_bus, &windows, &err) < 0)
        fail_msg("%s", err.text);
}

static inline void ide_model_destroy(void)
{
    pci_bus_destroy(ide_bus);
    block_close(ide_disk);
    block_close(ide_cd);
}

/* A medium comes and goes, or the guest reads or writes much data. */
static inline void ide_model_event(unsigned what, uint32_t value)
{
    struct err err = { 0 };
    struct ata_drive *drive = ide_drive(ide_pci, 3);
    switch (what & 3) {
    case 0: ata_medium_eject(drive, what & 4, &err); break;
    case 1: ata_medium_insert(drive, ide_cd, &err); break;
    case 2:
        for (unsigned i = 0; i < 128; i++)
            in(what & 4 ? 0x170 : 0x1f0, 4);
        break;
    default:
        for (unsigned i = 0; i < 128; i++)
            out(what & 4 ? 0x170 : 0x1f0, 4, value);
    }
    fuzz_settle();
}

static const struct fuzz_target ide_targets[] = {
    { SPACE_IO, 0x1f0, 8 }, { SPACE_IO, 0x170, 8 },  { SPACE_IO, 0x1f0, 8 },
    { SPACE_IO, 0x3f6, 1 }, { SPACE_IO, 0x376, 1 },  { SPACE_IO, IDE_BM, 16 },
    { SPACE_IO, 0x1f7, 1 }, { SPACE_IO, IDE_BM, 1 },
};
static const struct fuzz_model ide_model = {
    .create = ide_model_create,
    .destroy = ide_model_destroy,
    .event = ide_model_event,
    .targets = ide_targets,
    .target_count = ARRAY_LEN(ide_targets),
};

#endif
