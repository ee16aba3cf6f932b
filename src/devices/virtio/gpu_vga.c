/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtio display adapter that is a VGA, too, in one PCI function of class VGA (1af4:1050), as
 * QEMU's virtio-vga is: SeaVGABIOS, OVMF and GRUB find the frame buffer in BAR 0 and the VGA's
 * registers at the beginning of BAR 2, drivers find the virtio structures by their capabilities
 * behind them.
 */
#include "devices/virtio/gpu_priv.h"

enum { BAR_LFB = VGA_LFB };

static struct gpu *gpu_of(struct device *dev) { return (struct gpu *)dev; }

static bool is_virtio(unsigned region, uint64_t offset)
{
    return region == GPU_VGA_BAR && offset >= VGA_MMIO_SIZE;
}

static uint64_t gpu_vga_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    return is_virtio(region, offset) ? virtio_read(dev, region, offset, size)
                                     : vga_region_read(&gpu_of(dev)->vga, region, offset, size);
}

static void gpu_vga_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                          uint64_t value)
{
    if (is_virtio(region, offset))
        virtio_write(dev, region, offset, size, value);
    else
        vga_region_write(&gpu_of(dev)->vga, region, offset, size, value);
}

void gpu_vga_bar_mapped(struct virtio_device *vdev, unsigned bar, uint64_t address, bool mapped)
{
    if (bar == BAR_LFB)
        vga_lfb_mapped(&gpu_of(&vdev->pci.dev)->vga, address, mapped);
}

/* ---- what is shown; main loop ---- */

static bool driver_shows(struct gpu *gpu)
{
    LOCKED(&gpu->lock);
    return gpu->vga_regs.driver_shows;
}

void gpu_vga_draw(void *arg, struct screen *screen)
{
    struct gpu *gpu = arg;
    if (driver_shows(gpu))
        gpu_draw(gpu, screen);
    else
        vga_draw(&gpu->vga, screen);
}

bool gpu_vga_text(void *arg, struct buf *out)
{
    struct gpu *gpu = arg;
    return !driver_shows(gpu) && vga_text(&gpu->vga, out);
}

/* ---- life ---- */

static void gpu_vga_reset(struct device *dev)
{
    struct gpu *gpu = gpu_of(dev);
    vga_power_on(&gpu->vga);
    {
        LOCKED(&gpu->lock);
        gpu->vga_regs.driver_shows = 0;
    }
    virtio_reset(dev);
}

static int gpu_vga_loaded(struct device *dev, struct err *err)
{
    vga_regs_loaded(&gpu_of(dev)->vga);
    return virtio_loaded(dev, err);
}

static int gpu_vga_check(const void *state, struct err *err)
{
    const struct gpu_vga_regs *r = state;
    int result = gpu_check(&r->gpu, err);
    if (result == 0)
        result = vga_regs_check(&r->vga, err);
    if (result == 0 && r->driver_shows > 1)
        return err_set(err, EINVAL, "the display adapter cannot be in the saved state");
    return result;
}

static const struct state_field vga_fields[] = {
    VGA_REGS_FIELDS,
    STATE_END,
};
static const struct state_desc vga_state = {
    .name = "vga",
    .version = 1,
    .size = sizeof(struct vga_regs),
    .fields = vga_fields,
};
static const struct state_field gpu_vga_fields[] = {
    GPU_REGS_FIELDS,
    STATE_U32(struct gpu_vga_regs, driver_shows),
    STATE_STRUCT(struct gpu_vga_regs, vga, &vga_state),
    STATE_END,
};
static const struct state_desc gpu_vga_state = {
    .name = "virtio-vga",
    .version = 1,
    .base = offsetof(struct gpu, vga_regs),
    .size = offsetof(struct gpu_vga_regs, vga) + sizeof(struct vga_regs),
    .fields = gpu_vga_fields,
    .check = gpu_vga_check,
};
const struct device_type gpu_vga_type = {
    .name = "virtio-vga",
    .about = "a virtio display adapter with a VGA in it",
    .threads = DEVICE_LOCKED,
    .read = gpu_vga_read,
    .write = gpu_vga_write,
    .reset = gpu_vga_reset,
    .pause = virtio_pause,
    .resume = virtio_resume,
    .loaded = gpu_vga_loaded,
    .destroy = gpu_destroy,
    .state = &gpu_vga_state,
};

int gpu_vga_init(struct gpu *gpu, const struct virtio_gpu_options *options, struct err *err)
{
    const struct vga_options vga = { .width = options->width, .height = options->height };
    struct pci_device *pci = &gpu->vdev.pci;
    pci_bar_add(pci, BAR_LFB, VGA_MEMORY_DEFAULT, PCI_BAR_PREFETCH);
    pci->writable[PCI_COMMAND] |= PCI_COMMAND_IO; /* as vga_pci.c has it */
    return vga_init(&gpu->vga, &pci->dev, &gpu->vga_regs.vga, &vga, err);
}
