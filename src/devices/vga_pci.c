/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The plain display adapter: a PCI function (1234:1111) with nothing but a VGA in it, its frame
 * buffer in BAR 0 and its registers in BAR 2.
 */
#include "base/checked.h"
#include "devices/vga_priv.h"
#include "machine/machine.h"

#include <stdlib.h>

enum { BAR_LFB = VGA_LFB, BAR_MMIO = VGA_MMIO };

struct vga_pci_regs {
    struct vga_regs vga; /* first, as VGA_REGS_FIELDS wants it */
    struct pci_regs pci;
};

struct vga_pci {
    struct pci_device pci;
    struct vga_pci_regs regs; /* dev.lock; regs.pci as pci.h says */
    struct vga vga;
};

static struct vga *vga_of(struct device *dev) { return &((struct vga_pci *)dev)->vga; }

static uint64_t vga_pci_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    return vga_region_read(vga_of(dev), region, offset, size);
}

static void vga_pci_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                          uint64_t value)
{
    vga_region_write(vga_of(dev), region, offset, size, value);
}

static void vga_pci_bar_mapped(struct pci_device *pci, unsigned bar, uint64_t address, bool mapped)
{
    if (bar == BAR_LFB)
        vga_lfb_mapped(vga_of(&pci->dev), address, mapped);
}

static void vga_pci_reset(struct device *dev)
{
    vga_power_on(vga_of(dev));
    pci_reset(pci_device_of(dev));
}

static int vga_pci_loaded(struct device *dev, struct err *err)
{
    vga_regs_loaded(vga_of(dev));
    return pci_loaded(pci_device_of(dev), err);
}

static int vga_pci_check(const void *state, struct err *err)
{
    return vga_regs_check(&((const struct vga_pci_regs *)state)->vga, err);
}

static void vga_pci_destroy(struct device *dev)
{
    pci_device_fini(pci_device_of(dev));
    free(dev);
}

static const struct state_field vga_pci_fields[] = {
    STATE_STRUCT(struct vga_pci_regs, pci, &pci_state),
    VGA_REGS_FIELDS,
    STATE_END,
};
static const struct state_desc vga_pci_state = {
    .name = "vga",
    .version = 1,
    .base = offsetof(struct vga_pci, regs),
    .size = sizeof(struct vga_pci_regs),
    .fields = vga_pci_fields,
    .check = vga_pci_check,
};
static const struct device_type vga_pci_type = {
    .name = "vga",
    .about = "display adapter: VGA with a linear frame buffer",
    .threads = DEVICE_LOCKED,
    .destroy = vga_pci_destroy,
    .read = vga_pci_read,
    .write = vga_pci_write,
    .reset = vga_pci_reset,
    .loaded = vga_pci_loaded,
    .state = &vga_pci_state,
};

int vga_create(struct machine *m, const struct vga_options *options, struct pci_device **out,
               struct err *err)
{
    static const struct pci_ids ids = {
        .vendor = 0x1234,
        .device = 0x1111,
        .subsystem_vendor = 0x1af4,
        .subsystem = 0x1100,
        .class_code = 0x030000,
        .revision = 2,
    };
    static const struct pci_ops ops = { .bar_mapped = vga_pci_bar_mapped };
    uint64_t memory = options->memory ? options->memory : VGA_MEMORY_DEFAULT;
    if (!is_power_of_two(memory) || memory < 1 << 20 || memory > 256 << 20)
        return err_set(err, EINVAL, "video memory is a power of two from 1M to 256M");
    struct vga_pci *vga = calloc(1, sizeof *vga);
    if (!vga)
        return err_set(err, ENOMEM, "out of memory");
    struct pci_device *pci = &vga->pci;
    pci_device_init(pci, m, &vga_pci_type, options->id, &ids, &ops, &vga->regs.pci);
    AUTO(device_destroy) struct device *dev = &pci->dev;
    pci_bar_add(pci, BAR_LFB, memory, PCI_BAR_PREFETCH);
    pci_bar_add(pci, BAR_MMIO, VGA_MMIO_SIZE, 0);
    /* It has ports, though no BAR for them: seabios takes only a function for the VGA whose I/O is
     * on. */
    pci->writable[PCI_COMMAND] |= PCI_COMMAND_IO;
    int r = vga_init(&vga->vga, dev, &vga->regs.vga, options, err);
    if (r < 0)
        return r;
    screen_set_source(options->screen, &(struct screen_source){
                                           .draw = vga_draw, .text = vga_text, .arg = &vga->vga });
    *out = pci_device_of(TAKE(dev));
    return 0;
}
