/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The floppy controller with its DMA controller as tests and the fuzzer use them. */
#ifndef DEVICES_DISK_FDC_MODEL_H
#define DEVICES_DISK_FDC_MODEL_H

#include "devices/disk/disk_model.h"
#include "devices/disk/fdc.h"
#include "devices/isa_dma.h"

#include <unistd.h>

static struct block_node *fdc_node;
static struct device *fdc_dev, *fdc_dma;

static inline void fdc_model_create(struct machine *m)
{
    struct err err = { 0 };
    fdc_node = model_image_sized(1474560);
    const struct fdc_drive_config drives[FDC_DRIVES] = { { .id = "floppy0", .node = fdc_node } };
    if (isa_dma_create(m, &fdc_dma, &err) < 0 || fdc_create(m, fdc_dma, drives, &fdc_dev, &err) < 0)
        fail_msg("%s", err.text);
}

static inline void fdc_model_destroy(void) { block_close(fdc_node); }

/* A transfer is set up, or the disk changes. */
static inline void fdc_model_event(unsigned what, uint32_t value)
{
    struct err err = { 0 };
    if (what & 1) {
        if (what & 2)
            fdc_eject(fdc_dev, 0, &err);
        else
            fdc_insert(fdc_dev, 0, fdc_node, false, &err);
        return;
    }
    outb(0x0c, 0);
    outb(0x0b, (what & 2 ? 0x4a : 0x46) | (value >> 28 & 0x30));
    outb(0x04, value & 0xff);
    outb(0x04, value >> 8 & 0xff);
    outb(0x81, value >> 16 & 3);
    outb(0x05, 0xff);
    outb(0x05, value >> 18 & 0x0f);
    outb(0x0a, 2);
    for (unsigned i = 0; i < 3; i++) {
        usleep(100);
        fuzz_settle();
    }
}

static const struct fuzz_target fdc_targets[] = {
    { SPACE_IO, 0x3f0, 8 }, { SPACE_IO, 0x3f5, 1 }, { SPACE_IO, 0x3f5, 1 }, { SPACE_IO, 0x3f2, 1 },
    { SPACE_IO, 0x00, 16 }, { SPACE_IO, 0xc0, 32 }, { SPACE_IO, 0x80, 16 }, { SPACE_IO, 0x3f5, 1 },
};
static const struct fuzz_model fdc_model = {
    .create = fdc_model_create,
    .destroy = fdc_model_destroy,
    .event = fdc_model_event,
    .targets = fdc_targets,
    .target_count = ARRAY_LEN(fdc_targets),
};

#endif
