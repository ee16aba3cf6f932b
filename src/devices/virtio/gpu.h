/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtio display adapter (VIRTIO 1.2, 5.7): 2D resources, one screen, a cursor, EDID. OVMF and
 * Linux have drivers; a BIOS has none, so it may be a VGA, too, which is shown until a driver shows
 * something, and again when that is gone.
 */
#ifndef DEVICES_VIRTIO_GPU_H
#define DEVICES_VIRTIO_GPU_H

#include "devices/screen.h"
#include "machine/machine.h"

struct pci_device;

struct virtio_gpu_options {
    const char *id;         /* "gpu0" */
    unsigned width, height; /* what the monitor prefers; 0: 1280 x 800 */
    struct screen *screen;  /* borrowed; longer-lived than the device */
    bool vga;               /* it is one, too; its memory joins the machine as "vram" */
    struct loop *loop;      /* where commands are done; NULL: machine->io_loop */
};

/* Not yet on the bus. Main loop, before the machine runs. */
int virtio_gpu_create(struct machine *m, const struct virtio_gpu_options *options,
                      struct pci_device **out, struct err *err);

#endif
