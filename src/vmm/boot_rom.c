/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The expansion ROMs that network cards boot from: iPXE, for a BIOS and for UEFI in one file, of
 * the package ipxe-qemu. A card has one when the VM was told to boot from the network.
 *
 * A ROM is a memory of the machine, one for all cards of a model, so a saved VM brings it along.
 */
#include "base/checked.h"
#include "base/text.h"
#include "devices/option_rom.h"
#include "devices/pci.h"
#include "machine/machine.h"
#include "vmm/vmm.h"

#include <stdlib.h>
#include <string.h>

enum { ROM_MAX = SNAPSHOT_MAX_ROM };

/* By enum net_model. */
static const struct {
    const char *path, *ram;
} roms[] = {
    { "/usr/lib/ipxe/qemu/efi-virtio.rom", "rom-virtio" },
    { "/usr/lib/ipxe/qemu/efi-e1000e.rom", "rom-e1000e" },
};

static bool rom_wanted(const struct options *o, const struct net_options *net)
{
    return o->firmware && options_given(o, "boot") && strchr(o->boot.order, 'n') && !net->port;
}

static uint64_t rom_size(size_t len)
{
    uint64_t size = PAGE_SIZE;
    while (size < len)
        size *= 2;
    return size;
}

static int rom_read(const char *path, const struct pci_device *pci, struct buf *out,
                    struct err *err)
{
    int r = file_read(path, ROM_MAX, out, err);
    if (r == -ENOENT)
        return err_set(err, ENOENT,
                       "%s is not there; install the package ipxe-qemu, or leave n out of --boot "
                       "order=",
                       path);
    if (r == 0)
        r = option_rom_fit(
            out->data, out->len,
            pci->power_on[PCI_VENDOR_ID] | pci->power_on[PCI_VENDOR_ID + 1] << 8,
            (uint16_t)(pci->power_on[PCI_DEVICE_ID] | pci->power_on[PCI_DEVICE_ID + 1] << 8), err);
    return r < 0 ? err_prefix(err, "%s", path) : 0;
}

/* `content` is empty when a saved state brings it. */
static int rom_create(struct vmm *vmm, unsigned model, uint64_t size, const struct buf *content,
                      struct err *err)
{
    struct ram *ram;
    int r = ram_create(roms[model].ram, size, &ram, err);
    if (r < 0)
        return r;
    if (content->len) {
        memset(ram->hva, 0xff, size);
        memcpy(ram->hva, content->data, content->len);
    }
    r = machine_add_ram(vmm->machine, ram, err);
    if (r == 0)
        vmm->net_roms[model] = ram;
    return r;
}

int boot_rom_plug(struct vmm *vmm, struct net_options *net, struct pci_device *pci, struct err *err)
{
    AUTO(buf_fini) struct buf content = { 0 };
    int r = 0;
    if (!vmm->restore && rom_wanted(&vmm->options, net)) {
        r = rom_read(roms[net->model].path, pci, &content, err);
        net->rom_size = rom_size(content.len);
    }
    if (r < 0 || !net->rom_size)
        return r;
    if (!vmm->net_roms[net->model])
        r = rom_create(vmm, net->model, net->rom_size, &content, err);
    if (r == 0 && vmm->net_roms[net->model]->size != net->rom_size)
        r = err_set(err, EINVAL, "the saved VM's network cards have different ROMs");
    if (r == 0)
        pci_rom_add(pci, vmm->net_roms[net->model]);
    return r;
}
