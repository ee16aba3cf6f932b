/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The PCI core through the host bridge: configuration cycles, BARs, MSI-X and INTx of a model made
 * for the test. */
#include "devices/pci.h"

#include "devices/option_rom.h"
#include "devices/pci_host.h"
#include "devices/test_machine.h"

struct probe_regs {
    struct pci_regs pci;
};
struct probe {
    struct pci_device pci;
    struct probe_regs regs;
    uint64_t last_write;
    unsigned last_region;
    uint64_t mapped[PCI_BARS]; /* 0: not */
};

static struct pci_bus *bus;
static struct probe *probe;
static bool gsi_level[GSI_COUNT];

static uint64_t probe_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    return 0x1000 * region + offset;
}

static void probe_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                        uint64_t value)
{
    struct probe *p = (struct probe *)dev;
    p->last_region = region;
    p->last_write = value;
}

static void probe_reset(struct device *dev) { pci_reset((struct pci_device *)dev); }
static int probe_loaded(struct device *dev, struct err *err)
{
    return pci_loaded((struct pci_device *)dev, err);
}

static void probe_destroy(struct device *dev)
{
    pci_device_fini((struct pci_device *)dev);
    free(dev);
}

static void probe_mapped(struct pci_device *pci, unsigned bar, uint64_t address, bool mapped)
{
    struct probe *p = (struct probe *)pci;
    if (!mapped)
        assert_int_equal(p->mapped[bar], address);
    p->mapped[bar] = mapped ? address : 0;
}

static const struct state_field probe_fields[] = {
    STATE_STRUCT(struct probe_regs, pci, &pci_state),
    STATE_END,
};
static const struct state_desc probe_state = {
    .name = "probe",
    .version = 1,
    .base = offsetof(struct probe, regs),
    .size = sizeof(struct probe_regs),
    .fields = probe_fields,
};
static const struct device_type probe_type = {
    .name = "probe",
    .about = "a PCI function for tests",
    .threads = DEVICE_LOCKED,
    .destroy = probe_destroy,
    .read = probe_read,
    .write = probe_write,
    .reset = probe_reset,
    .loaded = probe_loaded,
    .state = &probe_state,
};
static const struct pci_ids probe_ids = {
    .vendor = 0x1af4,
    .device = 0x10ff,
    .subsystem_vendor = 0x1af4,
    .subsystem = 0x1100,
    .class_code = 0x00ff00,
    .revision = 7,
    .interrupt_pin = 1,
};
static const struct pci_ops probe_ops = { .bar_mapped = probe_mapped };

/* BAR 0: 4 KiB with MSI-X; BAR 1: ports; BAR 2: 64-bit of 16 KiB */
static struct probe *probe_create(const char *id)
{
    struct err err = { 0 };
    struct probe *p = calloc(1, sizeof *p);
    pci_device_init(&p->pci, test_machine.m, &probe_type, id, &probe_ids, &probe_ops, &p->regs.pci);
    pci_bar_add(&p->pci, 0, 0x1000, 0);
    pci_bar_add(&p->pci, 1, 0x20, PCI_BAR_IO);
    pci_bar_add(&p->pci, 2, 0x4000, PCI_BAR_64 | PCI_BAR_PREFETCH);
    pci_msix_init(&p->pci, 0, 0x800, 0xc00, 3);
    if (pci_bus_add(bus, &p->pci, -1, &err) < 0)
        fail_msg("%s", err.text);
    machine_add_device(test_machine.m, &p->pci.dev);
    return p;
}

static void see_level(struct irq_chip *chip, unsigned gsi, bool level) { gsi_level[gsi] = level; }
static struct irq_chip listener = { .set = see_level };

static int setup(void **state)
{
    struct err err = { 0 };
    struct machine *m = test_machine_create(4 << 20);
    memset(gsi_level, 0, sizeof gsi_level);
    irq_chip_add(m, &listener);
    if (pci_host_create(m, NULL, &bus, &err) < 0)
        return -1;
    probe = probe_create("probe0");
    return 0;
}

static int teardown(void **state)
{
    test_machine_destroy();
    return 0;
}

enum { SLOT1 = 1 << 3 };

static uint32_t config(unsigned offset, unsigned size)
{
    return pci_config_read(bus, SLOT1, offset, size);
}
static void config_set(unsigned offset, unsigned size, uint32_t v)
{
    pci_config_write(bus, SLOT1, offset, size, v);
}

static void two_ways_to_configuration(void **state)
{
    out(0xcf8, 4, 0x80000000);
    assert_int_equal(in(0xcfc, 4), 0x29c08086);
    assert_int_equal(in(0xcf8, 4), 0x80000000);
    out(0xcf8, 4, 0x80000000 | SLOT1 << 8 | 8);
    assert_int_equal(in(0xcfc, 1), 7);
    assert_int_equal(in(0xcfe, 2), 0x00ff);
    out(0xcf8, 4, 0x80000000 | 31 << 11);
    assert_int_equal(in(0xcfc, 4), 0xffffffff); /* an empty slot */
    out(0xcf8, 4, SLOT1 << 8);                  /* not enabled */
    assert_int_equal(in(0xcfc, 4), 0xffffffff);
    assert_int_equal(mmio_read(0xb0000000 + (SLOT1 << 12), 4), 0x10ff1af4);
    assert_int_equal(mmio_read(0xb0000000 + (SLOT1 << 12) + 0x100, 4), 0);
    assert_int_equal(mmio_read(0xb0000000, 8), 0x29c08086ull);
    assert_int_equal(mmio_read(0xb0100000, 4), 0xffffffff); /* bus 1 */
    config_set(PCI_VENDOR_ID, 4, 0);
    assert_int_equal(config(PCI_VENDOR_ID, 2), 0x1af4);
    assert_int_equal(config(0x41, 4), 0xffffffff); /* crosses a dword */
}

static void bars_are_measured_and_decoded(void **state)
{
    config_set(PCI_BAR0, 4, 0xffffffff);
    assert_int_equal(config(PCI_BAR0, 4), 0xfffff000);
    config_set(PCI_BAR0 + 4, 4, 0xffffffff);
    assert_int_equal(config(PCI_BAR0 + 4, 4), 0xffffffe1);
    config_set(PCI_BAR0 + 8, 4, 0xffffffff);
    config_set(PCI_BAR0 + 12, 4, 0xffffffff);
    assert_int_equal(config(PCI_BAR0 + 8, 4), 0xffffc00c);
    assert_int_equal(config(PCI_BAR0 + 12, 4), 0xffffffff);

    config_set(PCI_BAR0, 4, 0xc0001000);
    assert_int_equal(mmio_read(0xc0001010, 4), 0xffffffff);
    config_set(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    assert_int_equal(mmio_read(0xc0001010, 4), 0x10);
    assert_int_equal(probe->mapped[0], 0xc0001000);
    config_set(PCI_BAR0, 4, 0xd0000000); /* moves while decoded */
    assert_int_equal(mmio_read(0xc0001010, 4), 0xffffffff);
    mmio_write(0xd0000020, 4, 0x1234);
    assert_int_equal(probe->last_write, 0x1234);
    assert_int_equal(probe->last_region, 0);
    config_set(PCI_BAR0 + 8, 4, 0);
    config_set(PCI_BAR0 + 12, 4, 0x20);
    assert_int_equal(mmio_read(0x2000000008, 4), 0x2008);

    config_set(PCI_BAR0 + 4, 4, 0xc000);
    assert_int_equal(in(0xc004, 2), 0xffff);
    config_set(PCI_COMMAND, 2, PCI_COMMAND_IO);
    assert_int_equal(in(0xc004, 2), 0x1004);
    assert_int_equal(mmio_read(0xd0000020, 4), 0xffffffff);
    assert_int_equal(probe->mapped[0], 0);
}

static void bars_never_cover_ram_nor_each_other(void **state)
{
    struct probe *other = probe_create("probe1");
    config_set(PCI_BAR0, 4, 0xc0000000);
    config_set(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    pci_config_write(bus, other->pci.devfn, PCI_BAR0, 4, 0xc0000000);
    pci_config_write(bus, other->pci.devfn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    assert_int_equal(probe->mapped[0], 0xc0000000);
    assert_int_equal(other->mapped[0], 0);
    config_set(PCI_BAR0, 4, 0xc0010000); /* makes room */
    assert_int_equal(other->mapped[0], 0xc0000000);
}

static void msix(void **state)
{
    config_set(PCI_BAR0, 4, 0xc0000000);
    config_set(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    unsigned cap = config(PCI_CAPABILITY_LIST, 1);
    assert_int_equal(config(cap, 1), PCI_CAP_MSIX);
    assert_int_equal(config(cap + 2, 2), 2);
    assert_int_equal(config(cap + 4, 4), 0x800);
    assert_int_equal(config(cap + 8, 4), 0xc00);
    assert_int_equal(mmio_read(0xc000080c, 4), 1); /* masked at first */
    mmio_write(0xc0000810, 8, 0xfee01007);         /* vector 1; reserved bits do not stick */
    mmio_write(0xc0000818, 4, 0x55);
    assert_int_equal(mmio_read(0xc0000810, 4), 0xfee01004);

    pci_msix_notify(&probe->pci, 1);
    assert_int_equal(test_machine.msi_count, 0); /* not enabled: lost */
    config_set(cap + 2, 2, 0x8000);
    assert_true(pci_msix_enabled(&probe->pci));
    assert_int_equal(mmio_read(0xc0000c00, 8), 0);
    pci_msix_notify(&probe->pci, 1);
    assert_int_equal(mmio_read(0xc0000c00, 8), 2);
    mmio_write(0xc000081c, 4, 0);
    assert_int_equal(test_machine.msi_count, 1);
    assert_int_equal(test_machine.msi_address, 0xfee01004);
    assert_int_equal(test_machine.msi_data, 0x55);
    assert_int_equal(mmio_read(0xc0000c00, 8), 0);

    config_set(cap + 2, 2, 0xc000); /* the function's mask */
    pci_msix_notify(&probe->pci, 1);
    assert_int_equal(test_machine.msi_count, 1);
    config_set(cap + 2, 2, 0x8000);
    assert_int_equal(test_machine.msi_count, 2);
    pci_msix_notify(&probe->pci, 3); /* no such vector */
    config_set(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    pci_msix_notify(&probe->pci, 1); /* no bus mastering */
    assert_int_equal(test_machine.msi_count, 2);
}

static void intx(void **state)
{
    unsigned gsi = pci_intx_gsi(1, 1);
    pci_intx_set(&probe->pci, true);
    assert_true(gsi_level[gsi]);
    assert_int_equal(config(PCI_STATUS, 2) & PCI_STATUS_INTX, PCI_STATUS_INTX);
    assert_int_equal(config(PCI_COMMAND, 4) >> 16 & PCI_STATUS_INTX, PCI_STATUS_INTX);
    config_set(PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
    assert_false(gsi_level[gsi]);
    config_set(PCI_COMMAND, 2, 0);
    assert_true(gsi_level[gsi]);
    config_set(config(PCI_CAPABILITY_LIST, 1) + 2, 2, 0x8000); /* MSI-X takes over */
    assert_false(gsi_level[gsi]);
}

static void assigned_as_firmware_does(void **state)
{
    struct err err = { 0 };
    struct probe *other = probe_create("probe1");
    const struct pci_windows windows = { .mem32 = 0xc0000000,
                                         .mem32_size = 0x10000,
                                         .mem64 = 0x4000000000,
                                         .mem64_size = 0x4000,
                                         .io = 0xc000,
                                         .io_size = 0x100 };
    assert_int_equal(pci_bus_assign(bus, &windows, &err), 0);
    assert_int_equal(probe->mapped[2], 0x4000000000);
    assert_int_equal(other->mapped[2], 0xc0000000); /* the 64-bit window was full */
    assert_int_equal(probe->mapped[0], 0xc0004000);
    assert_int_equal(other->mapped[0], 0xc0005000);
    assert_int_equal(other->mapped[1], 0xc020);
    assert_int_equal(config(PCI_INTERRUPT_LINE, 1), pci_intx_gsi(1, 1));
    assert_true(pci_bus_master(&probe->pci));

    const struct pci_windows small = {
        .mem32 = 0xc0000000, .mem32_size = 0x8000, .io = 0xc000, .io_size = 0x100
    };
    assert_int_equal(pci_bus_assign(bus, &small, &err), -ENOSPC);
    assert_non_null(strstr(err.text, "probe0: no room for its BAR 0"));
}

static void state_and_reset(void **state)
{
    struct err err = { 0 };
    config_set(PCI_BAR0, 4, 0xc0000000);
    config_set(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    mmio_write(0xc0000818, 4, 0x77);
    test_round_trip(&probe->pci.dev);
    assert_int_equal(mmio_read(0xc0000818, 4), 0x77);

    probe->regs.pci.config[PCI_DEVICE_ID] ^= 1; /* another device's state */
    assert_int_equal(pci_loaded(&probe->pci, &err), -EINVAL);

    probe_reset(&probe->pci.dev);
    assert_int_equal(config(PCI_BAR0, 4), 0);
    assert_int_equal(probe->mapped[0], 0);
    assert_int_equal(config(PCI_COMMAND, 2), 0);
}

static void reset_register(void **state)
{
    outb(0xcf9, 0x02);
    assert_int_equal(test_events(), 0);
    outb(0xcf9, 0x06);
    outb(0xcf9, 0x06); /* no edge */
    assert_int_equal(test_events(), 1);
    assert_int_equal(test_machine.event, MACHINE_RESET);
}

static void expansion_rom(void **state)
{
    struct ram *rom;
    struct machine *m = test_machine.m;
    struct probe *p = calloc(1, sizeof *p);
    assert_int_equal(ram_create("rom", 8192, &rom, NULL), 0);
    assert_int_equal(machine_add_ram(m, rom, NULL), 0);
    memset(rom->hva, 0x5a, 8192);
    pci_device_init(&p->pci, m, &probe_type, "card", &probe_ids, NULL, &p->regs.pci);
    pci_rom_add(&p->pci, rom);
    assert_int_equal(pci_bus_add(bus, &p->pci, 3, NULL), 0);
    machine_add_device(m, &p->pci.dev);
    unsigned devfn = p->pci.devfn;
    pci_config_write(bus, devfn, PCI_EXPANSION_ROM, 4, 0xfffffffe);
    assert_int_equal(pci_config_read(bus, devfn, PCI_EXPANSION_ROM, 4), 0xffffe000);
    pci_config_write(bus, devfn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    pci_config_write(bus, devfn, PCI_EXPANSION_ROM, 4, 0xc0020000);
    assert_int_equal(mmio_read(0xc0020000, 4), 0xffffffff); /* not enabled */
    pci_config_write(bus, devfn, PCI_EXPANSION_ROM, 4, 0xc0020001);
    assert_int_equal(mmio_read(0xc0021ffc, 4), 0x5a5a5a5a);
    mmio_write(0xc0020000, 4, 0);
    assert_int_equal(mmio_read(0xc0020000, 4), 0x5a5a5a5a);
    pci_config_write(bus, devfn, PCI_EXPANSION_ROM, 4, 0xc0040001);
    assert_int_equal(mmio_read(0xc0020000, 4), 0xffffffff);
    test_round_trip(&p->pci.dev);
    assert_int_equal(mmio_read(0xc0040000, 4), 0x5a5a5a5a);
    pci_config_write(bus, devfn, PCI_COMMAND, 2, 0);
    assert_int_equal(mmio_read(0xc0040000, 4), 0xffffffff);
}

/* Two images, of which the first is for a BIOS and begins with a wrong sum. */
static void rom_images(void **state)
{
    static const uint8_t pcir[] = { 'P', 'C', 'I', 'R', 0xf4, 0x1a, 0x00, 0x10, 0, 0, 0x18 };
    uint8_t data[2048] = { 0 }, before[2048], sum = 0;
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *image = data + 1024 * i;
        image[0] = 0x55, image[1] = 0xaa, image[2] = 2, image[0x18] = 0x1c;
        memcpy(image + 0x1c, pcir, sizeof pcir);
        image[0x1c + 0x10] = 2;
        image[0x1c + 0x14] = i ? 3 : 0;
        image[0x1c + 0x15] = i ? 0x80 : 0;
    }
    memcpy(before, data, sizeof data);
    assert_int_equal(option_rom_fit(data, 2047, 0x8086, 0x10d3, NULL), -EINVAL);
    data[1024] = 0;
    assert_int_equal(option_rom_fit(data, 2048, 0x8086, 0x10d3, NULL), -EINVAL);
    data[1024] = 0x55;
    assert_memory_equal(data, before, sizeof data);
    assert_int_equal(option_rom_fit(data, 2048, 0x8086, 0x10d3, NULL), 0);
    for (unsigned i = 0; i < 1024; i++)
        sum = (uint8_t)(sum + data[i]);
    assert_int_equal(sum, 0);
    assert_memory_equal(data + 0x20, "\x86\x80\xd3\x10", 4);
    assert_memory_equal(data + 1024 + 0x20, "\x86\x80\xd3\x10", 4);
}

static void slots_run_out(void **state)
{
    struct err err = { 0 };
    char id[16];
    for (unsigned i = 2; i < 32; i++) {
        snprintf(id, sizeof id, "fill%u", i);
        probe_create(id);
    }
    struct probe *p = calloc(1, sizeof *p);
    pci_device_init(&p->pci, test_machine.m, &probe_type, "late", &probe_ids, NULL, &p->regs.pci);
    assert_int_equal(pci_bus_add(bus, &p->pci, -1, &err), -ENOSPC);
    assert_int_equal(pci_bus_add(bus, &p->pci, 5, &err), -EBUSY);
    probe_destroy(&p->pci.dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(two_ways_to_configuration, setup, teardown),
        cmocka_unit_test_setup_teardown(bars_are_measured_and_decoded, setup, teardown),
        cmocka_unit_test_setup_teardown(bars_never_cover_ram_nor_each_other, setup, teardown),
        cmocka_unit_test_setup_teardown(msix, setup, teardown),
        cmocka_unit_test_setup_teardown(intx, setup, teardown),
        cmocka_unit_test_setup_teardown(assigned_as_firmware_does, setup, teardown),
        cmocka_unit_test_setup_teardown(state_and_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(reset_register, setup, teardown),
        cmocka_unit_test_setup_teardown(slots_run_out, setup, teardown),
        cmocka_unit_test_setup_teardown(expansion_rom, setup, teardown),
        cmocka_unit_test(rom_images),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
