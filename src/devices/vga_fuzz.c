/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The display adapter under whatever a guest does to its ports, its window and its BAR, drawing now
 * and then.
 *
 * Input: operations of 8 bytes: what, size, address (2), value (4).
 */
#include "base/loop.h"
#include "devices/pci_host.h"
#include "devices/screen.h"
#include "devices/vga.h"
#include "machine/machine.h"

#include <stdlib.h>
#include <string.h>

static struct machine *machine;
static struct screen *screen;
static struct pci_device *vga;

static void start(void)
{
    struct loop *loop;
    struct pci_bus *bus;
    struct err err;
    if (loop_create(&loop, &err) < 0)
        abort();
    const struct machine_config config = { .memory = 2 << 20, .loop = loop };
    if (machine_create(&config, &machine, &err) < 0 || screen_create(loop, &screen, &err) < 0)
        abort();
    const struct vga_options options = { .id = "vga0", .memory = 1 << 20, .screen = screen };
    if (pci_host_create(machine, NULL, &bus, &err) < 0 ||
        vga_create(machine, &options, &vga, &err) < 0 || pci_bus_add(bus, vga, -1, &err) < 0)
        abort();
    machine_add_device(machine, &vga->dev);
}

static void operate(const uint8_t op[8])
{
    unsigned size = 1u << (op[1] & 3), address = op[2] | op[3] << 8;
    uint32_t value = 0;
    memcpy(&value, op + 4, 4);
    uint64_t window = 0xa0000 + (address << 1 & 0x1ffff), port = 0x3b0 + address % 0x30;

    switch (op[0] % 10) {
    case 0: bus_write(machine, SPACE_MEMORY, window, size, value); break;
    case 1: bus_read(machine, SPACE_MEMORY, window, size); break;
    case 2:
    case 3: bus_write(machine, SPACE_IO, port, size & 3, value); break;
    case 4: bus_read(machine, SPACE_IO, port, size > 4 ? 4 : size); break;
    case 5:
    case 6:
        bus_write(machine, SPACE_IO, 0x1ce, 2, address % 12);
        bus_write(machine, SPACE_IO, 0x1cf, 2, value);
        break;
    case 7: device_write(&vga->dev, 2, address % 4096, size, value); break;
    case 8: device_read(&vga->dev, 2, address % 4096, size); break;
    case 9: screen_refresh(screen); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (!machine)
        start();
    vga->dev.type->reset(&vga->dev);
    for (size_t i = 0; i + 8 <= len; i += 8)
        operate(data + i);
    struct buf text = { 0 };
    screen_refresh(screen);
    screen_text(screen, &text);
    buf_fini(&text);
    return 0;
}
