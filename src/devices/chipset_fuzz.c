/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fw_cfg with its DMA, flash commands, and the configuration space of host bridge, LPC bridge and
 * root port with what is behind it, under whatever a guest does.
 *
 * Input: operations of 12 bytes: what, size, address (2), value (8).
 */
#include "base/loop.h"
#include "devices/fw_cfg.h"
#include "devices/lpc.h"
#include "devices/pci_host.h"
#include "devices/pci_port.h"
#include "devices/pflash.h"
#include "devices/pm.h"
#include "machine/machine.h"

#include <stdlib.h>
#include <string.h>

enum { FLASH = 0xffc00000, FLASH_SIZE = 8 * PFLASH_BLOCK, MEMORY = 4 << 20, OPERATION = 12 };

static struct machine *machine;
static struct pci_bus *bus;

struct plain {
    struct pci_device pci;
    struct pci_regs regs;
};

static void plain_reset(struct device *dev) { pci_reset(pci_device_of(dev)); }
static void plain_destroy(struct device *dev)
{
    pci_device_fini(pci_device_of(dev));
    free(dev);
}
static const struct device_type plain_type = { .name = "plain",
                                               .about = "a function with a BAR",
                                               .threads = DEVICE_LOCKED,
                                               .reset = plain_reset,
                                               .destroy = plain_destroy };

static void slot_power(void *arg, struct device *port, bool on)
{
    if (on)
        pci_port_power_good(port);
}

static void check(int r)
{
    if (r < 0)
        abort();
}

static void start(void)
{
    static const struct pci_ids ids = { .vendor = 0x1af4, .device = 1, .interrupt_pin = 1 };
    struct loop *loop;
    struct ram *rom, *vars;
    struct device *pm, *port, *fw, *flash;
    struct err err;
    check(loop_create(&loop, &err));
    const struct machine_config config = { .memory = MEMORY, .loop = loop };
    check(machine_create(&config, &machine, &err));
    check(
        map_ram(machine, SPACE_MEMORY, 0, MEMORY, REGION_RAM, machine->main_ram, 0, 5, NULL, &err));
    check(ram_create("firmware", 0x40000, &rom, &err));
    check(machine_add_ram(machine, rom, &err));
    check(ram_create("uefi-vars", FLASH_SIZE, &vars, &err));
    check(machine_add_ram(machine, vars, &err));
    const struct mch_config mch = { .ram = machine->main_ram, .low_ram = MEMORY, .rom = rom };
    const struct pci_port_config slot = {
        .id = "port1", .devfn = 28 << 3, .number = 1, .power = slot_power
    };
    const struct pflash_config chip = { .id = "flash", .gpa = FLASH, .ram = vars, .fd = -1 };
    check(pm_create(machine, &pm, &err));
    check(pci_host_create(machine, &mch, &bus, &err));
    check(lpc_create(machine, bus, pm, &err));
    check(pci_port_create(machine, bus, &slot, &port, &err));
    check(pflash_create(machine, &chip, &flash, &err));
    check(fw_cfg_create(machine, &fw, &err));
    fw_cfg_add_file(fw, "etc/some", "some contents", 13);
    fw_cfg_add_writable(fw, "etc/answer", 8);

    struct plain *plain = calloc(1, sizeof *plain);
    pci_device_init(&plain->pci, machine, &plain_type, "plain", &ids, NULL, &plain->regs);
    pci_bar_add(&plain->pci, 0, 4096, 0);
    pci_msix_init(&plain->pci, 0, 0, 2048, 4);
    check(pci_port_plug(port, &plain->pci, &err));
    machine_add_device(machine, &plain->pci.dev);
}

static void drain(void *arg) {}

/* A request at 0x1000, whose control field is the guest's. */
static void dma(const uint8_t *op, uint32_t address, uint64_t value)
{
    uint8_t request[16] = { 0 };
    request[1] = op[2]; /* the key */
    request[0] = op[3] & 1 ? 0x80 : 0;
    request[3] = op[4];
    request[6] = op[5];
    request[7] = op[6];
    memcpy(request + 12, op + 7, 4);
    mem_write(machine, 0x1000 + (address & 0xff0), request, sizeof request);
    bus_write(machine, SPACE_IO, 0x518, 4, __builtin_bswap32(0x1000 + (address & 0xff0)));
    loop_call(machine->io_loop, drain, NULL);
}

static void operate(const uint8_t op[OPERATION])
{
    unsigned size = 1u << (op[1] & 3), address = op[2] | op[3] << 8;
    static const unsigned functions[] = { 0, 31 << 3, 28 << 3, 1 << 8, 0x80 << 8 };
    uint64_t value = 0;
    memcpy(&value, op + 4, 8);
    uint32_t bdf = functions[op[1] >> 2 & 3];

    switch (op[0] % 12) {
    case 0: dma(op, address, value); break;
    case 1: bus_write(machine, SPACE_IO, 0x510 + address % 12, size & 7, value); break;
    case 2: bus_read(machine, SPACE_IO, 0x510 + address % 12, size & 7); break;
    case 3:
    case 4: bus_write(machine, SPACE_MEMORY, FLASH + address % FLASH_SIZE, 1, value); break;
    case 5: bus_write(machine, SPACE_MEMORY, FLASH + address % FLASH_SIZE, size, value); break;
    case 6: bus_read(machine, SPACE_MEMORY, FLASH + address % FLASH_SIZE, size); break;
    case 7:
    case 8:
        bus_write(machine, SPACE_IO, 0xcf8, 4, 0x80000000 | bdf << 8 | (address & 0xfc));
        bus_write(machine, SPACE_IO, 0xcfc + (address & 3), size > 4 ? 4 : size, value);
        break;
    case 9: bus_read(machine, SPACE_MEMORY, 0xb0000000 + (bdf << 12) + address % 4096, size); break;
    case 10:
        bus_write(machine, SPACE_MEMORY, 0xa0000 + (address * 8 % 0x60000), size, value);
        break;
    case 11: bus_read(machine, SPACE_MEMORY, 0xa0000 + (address * 8 % 0x60000), size); break;
    }
}

static void stop(void *arg) { loop_stop(arg, 0); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (!machine)
        start();
    for (struct device *dev = machine->devices; dev; dev = dev->next)
        if (dev->type->reset)
            dev->type->reset(dev);
    pci_host_as_firmware(bus);
    for (size_t i = 0; i + OPERATION <= len; i += OPERATION)
        operate(data + i);
    loop_call(machine->io_loop, drain, NULL);
    loop_post(machine->loop, stop, machine->loop);
    loop_run(machine->loop);
    return 0;
}
