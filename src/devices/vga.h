/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The display adapter: a VGA with the Bochs display registers and a linear frame buffer (PCI
 * 1234:1111), as SeaVGABIOS, OVMF, GRUB, Linux (vga16fb, bochs-drm) and Windows know it.
 */
#ifndef DEVICES_VGA_H
#define DEVICES_VGA_H

#include "devices/pci.h"
#include "devices/screen.h"

struct vga_options {
    const char *id;         /* "vga0" */
    uint64_t memory;        /* bytes, power of two from 1 MiB to 256 MiB; 0: 16 MiB */
    unsigned width, height; /* what the monitor prefers (EDID); 0: 1280 x 800 */
    struct screen *screen;  /* borrowed; longer-lived than the device */
};

/* Not yet on the bus. Its memory joins the machine as "vram". Main loop, before the machine runs.
 */
int vga_create(struct machine *m, const struct vga_options *options, struct pci_device **out,
               struct err *err);

#endif
