/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The floppy disk controller of a PC with up to two drives.
 */
#ifndef DEVICES_DISK_FDC_H
#define DEVICES_DISK_FDC_H

#include "block/block.h"
#include "machine/device.h"

enum { FDC_DRIVES = 2 };

struct fdc_drive_config {
    const char *id;          /* "floppy0"; NULL: there is no drive */
    struct block_node *node; /* borrowed; NULL: no disk in it */
    bool readonly;
};

/* Adds it to the machine, which owns it. `dma` is the machine's (isa_dma.h). Refuses images of
 * sizes that no floppy disk has. */
int fdc_create(struct machine *m, struct device *dma, const struct fdc_drive_config *drives,
               struct device **out, struct err *err);
/* Main loop: takes the disk out (the node is the caller's again), puts one in. */
int fdc_eject(struct device *dev, unsigned drive, struct err *err);
int fdc_insert(struct device *dev, unsigned drive, struct block_node *node, bool readonly,
               struct err *err);

#endif
