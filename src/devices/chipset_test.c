/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The chips that firmware talks to: memory under the host bridge's registers, fw_cfg by ports and
 * by DMA, the flash with its file, bridges and the hot-plug slot, interrupts on the PICs.
 */
#include "base/checked.h"
#include "devices/fw_cfg.h"
#include "devices/hpet.h"
#include "devices/lpc.h"
#include "devices/pci_host.h"
#include "devices/pci_port.h"
#include "devices/pflash.h"
#include "devices/pm.h"
#include "devices/test_machine.h"

#include <sys/mman.h>
#include <unistd.h>

enum { FLASH = 0xffc00000, FLASH_SIZE = 4 * PFLASH_BLOCK, MEMORY = 4 << 20 };
enum { LPC = LPC_SLOT << 3, PORT = 28 << 3 };

static struct pci_bus *bus;
static struct device *port, *fw, *flash;
static struct ram *vars;
static int flash_fd;
static unsigned power_on, power_off;

static void slot_power(void *arg, struct device *dev, bool on)
{
    power_on += on;
    power_off += !on;
    if (on)
        pci_port_power_good(dev);
}

static int setup(void **state)
{
    struct err err = { 0 };
    struct machine *m = test_machine_create(MEMORY);
    struct ram *rom;
    struct device *pm;
    power_on = power_off = 0;
    flash_fd = memfd_create("vars", MFD_CLOEXEC);
    assert_int_equal(ftruncate(flash_fd, FLASH_SIZE), 0);
    assert_int_equal(map_ram(m, SPACE_MEMORY, 0, MEMORY, REGION_RAM, m->main_ram, 0, 5, NULL, &err),
                     0);
    assert_int_equal(ram_create("firmware", 0x40000, &rom, &err), 0);
    assert_int_equal(machine_add_ram(m, rom, &err), 0);
    memset(rom->hva, 0xb1, rom->size);
    assert_int_equal(ram_create("uefi-vars", FLASH_SIZE, &vars, &err), 0);
    assert_int_equal(machine_add_ram(m, vars, &err), 0);
    memset(vars->hva, 0xff, FLASH_SIZE);
    const struct mch_config mch = { .ram = m->main_ram, .low_ram = MEMORY, .rom = rom };
    const struct pci_port_config slot = {
        .id = "port1", .devfn = PORT, .number = 1, .power = slot_power
    };
    const struct pflash_config chip = { .id = "flash", .gpa = FLASH, .ram = vars, .fd = flash_fd };
    assert_int_equal(pm_create(m, &pm, &err), 0);
    assert_int_equal(pci_host_create(m, &mch, &bus, &err), 0);
    assert_int_equal(lpc_create(m, bus, pm, &err), 0);
    assert_int_equal(pci_port_create(m, bus, &slot, &port, &err), 0);
    assert_int_equal(hpet_create(m, &err), 0);
    assert_int_equal(pflash_create(m, &chip, &flash, &err), 0);
    assert_int_equal(fw_cfg_create(m, &fw, &err), 0);
    return 0;
}

static int teardown(void **state)
{
    test_machine_destroy();
    close(flash_fd);
    return 0;
}

/* ---- host bridge ---- */

static void pam_shadows_the_rom(void **state)
{
    uint32_t word = 0x12345678;
    mmio_write(0xf0000, 4, word);
    assert_int_equal(mmio_read(0xf0000, 4), 0xb1b1b1b1); /* ROM ignores it */
    assert_int_equal(mmio_read(0xd0000, 4), UINT32_MAX); /* nothing there */
    pci_config_write(bus, 0, MCH_PAM0, 1, 0x20);         /* reads ROM, writes RAM */
    mmio_write(0xf0000, 4, word);
    assert_int_equal(mmio_read(0xf0000, 4), 0xb1b1b1b1);
    pci_config_write(bus, 0, MCH_PAM0, 1, 0x10); /* RAM, read-only */
    assert_int_equal(mmio_read(0xf0000, 4), word);
    mmio_write(0xf0000, 4, 0);
    assert_int_equal(mmio_read(0xf0000, 4), word);
    pci_config_write(bus, 0, MCH_PAM0, 1, 0x30);
    mmio_write(0xf0000, 4, 1);
    assert_int_equal(mmio_read(0xf0000, 4), 1);
    pci_bus_device(bus, 0)->dev.type->reset(&pci_bus_device(bus, 0)->dev);
    assert_int_equal(mmio_read(0xf0000, 4), 0xb1b1b1b1);
}

static void smram_opens_and_locks(void **state)
{
    mmio_write(0xa0000, 1, 1);
    assert_int_equal(mmio_read(0xa0000, 1), 0xff);
    pci_config_write(bus, 0, MCH_SMRAM, 1, 0x4a); /* enabled, open */
    mmio_write(0xa0000, 1, 0x77);
    assert_int_equal(mmio_read(0xa0000, 1), 0x77);
    pci_config_write(bus, 0, MCH_SMRAM, 1, 0x1a); /* closed, locked */
    assert_int_equal(mmio_read(0xa0000, 1), 0xff);
    assert_int_equal(bus_read(test_machine.m, SPACE_SMM, 0xa0000, 1), 0x77);
    pci_config_write(bus, 0, MCH_SMRAM, 1, 0x4a);
    assert_int_equal(mmio_read(0xa0000, 1), 0xff);
}

static void ecam_moves(void **state)
{
    assert_int_equal(mmio_read(0xb0000000, 4), UINT32_MAX);
    pci_config_write(bus, 0, 0x60, 4, 0xe0000000 | 2 << 1 | 1); /* 64 MiB */
    assert_int_equal(mmio_read(0xe0000000, 4), 0x29c08086);
    pci_config_write(bus, 0, 0x60, 4, 0xb0000001);
    assert_int_equal(mmio_read(0xe0000000, 4), UINT32_MAX);
    assert_int_equal(mmio_read(0xb00f8000, 4), 0x29188086);
}

/* ---- LPC bridge ---- */

static void acpi_ports_move(void **state)
{
    assert_int_equal(in(0x604, 2), 0xffff);
    lpc_as_firmware(bus);
    assert_int_equal(in(0x604, 2), 1);
    pci_config_write(bus, LPC, 0x40, 4, 0x801);
    assert_int_equal(in(0x604, 2), 0xffff);
    assert_int_equal(in(0x804, 2), 1);
    assert_int_equal(in(0x830, 4) & 0x20, 0x20); /* SMM is taken */
}

/* The clock jumps by `ms` and goes on until the port reads `want`. */
static void pass_until(unsigned ms, unsigned at, unsigned want)
{
    struct machine *m = test_machine.m;
    test_time(guest_now_ns(m) + ms * 1000000ull);
    clock_start(m);
    for (unsigned i = 0; i < 5000 && in(at, 2) != want; i++)
        usleep(1000);
    clock_stop(m);
    assert_int_equal(in(at, 2), want);
}

static void tco_timer_counts_twice(void **state)
{
    enum { TCO = 0x660, STS1 = TCO + 4, STS2 = TCO + 6, CNT = TCO + 8, TMR = TCO + 0x12 };
    enum { GCS = LPC_RCBA_BASE + 0x3410, NO_REBOOT = 0x20 };
    struct device *tco = machine_find_device(test_machine.m, "tco");
    lpc_as_firmware(bus);
    assert_int_equal(mmio_read(GCS, 4), 0);
    out(TMR, 2, 50); /* 30 s, as Linux sets and compares it */
    assert_int_equal(in(TMR, 2), 50);
    out(TCO, 2, 1);
    pass_until(29000, STS1, 0); /* 1 s is left */
    assert_int_equal(in(TCO, 2), 1);
    out(CNT, 2, 0x800);
    pass_until(60000, STS1, 0); /* halted */
    assert_int_equal(in(TCO, 2), 1);
    out(CNT, 2, 0);
    pass_until(1000, STS1, 8);
    test_round_trip(tco);
    assert_int_equal(in(STS2, 2), 0);
    assert_int_equal(test_events(), 0);
    pass_until(2400, STS2, 6);
    assert_int_equal(test_events(), 1);
    assert_int_equal(test_machine.event, MACHINE_WATCHDOG);

    tco->type->reset(tco);
    assert_int_equal(in(STS1, 2), 0);
    assert_int_equal(in(STS2, 2), 6); /* tells why */
    out(STS2, 1, 6);
    assert_int_equal(in(STS2, 2), 0);
    mmio_write(GCS, 4, NO_REBOOT);
    assert_int_equal(mmio_read(GCS, 4), NO_REBOOT);
    out(TCO, 2, 1);
    pass_until(2400, STS1, 8);
    pass_until(2400, STS2, 6);
    assert_int_equal(test_events(), 1); /* no second one */
}

struct listener {
    struct irq_chip chip;
    unsigned levels;
};
static void listener_set(struct irq_chip *chip, unsigned gsi, bool level)
{
    struct listener *l = CONTAINER_OF(chip, struct listener, chip);
    l->levels = (l->levels & ~(1u << gsi)) | (unsigned)level << gsi;
}

static void pci_interrupts_reach_the_pics(void **state)
{
    struct listener l = { .chip.set = listener_set };
    struct irq_pin pin;
    irq_chip_add(test_machine.m, &l.chip);
    irq_pin_init(&pin, test_machine.m, 17); /* PIRQB */
    irq_pin_set(&pin, true);
    assert_int_equal(l.levels, 1 << 17);
    pci_config_write(bus, LPC, 0x61, 1, 11);
    assert_int_equal(l.levels, 1 << 17 | 1 << 11);
    pci_config_write(bus, LPC, 0x61, 1, 10);
    assert_int_equal(l.levels, 1 << 17 | 1 << 10);
    irq_pin_set(&pin, false);
    assert_int_equal(l.levels, 0);
    pci_config_write(bus, LPC, 0x61, 1, 0x8a); /* not routed */
    irq_pin_set(&pin, true);
    assert_int_equal(l.levels, 1 << 17);
    irq_pin_set(&pin, false);
    irq_chip_remove(test_machine.m, &l.chip);
}

/* ---- fw_cfg ---- */

static void idle(void *arg) {}

static uint32_t dma(uint32_t control, uint32_t len, uint64_t gpa)
{
    struct {
        uint32_t control, len;
        uint64_t gpa;
    } request = { __builtin_bswap32(control), __builtin_bswap32(len), __builtin_bswap64(gpa) };
    assert_int_equal(mem_write(test_machine.m, 0x1000, &request, sizeof request), 0);
    out(0x514, 4, 0);
    out(0x518, 4, __builtin_bswap32(0x1000));
    loop_call(test_machine.m->io_loop, idle, NULL);
    assert_int_equal(mem_read(test_machine.m, 0x1000, &request, 4), 0);
    return __builtin_bswap32(request.control);
}

static void fw_cfg_by_ports_and_dma(void **state)
{
    enum { READ = 2, SKIP = 4, SELECT = 8, WRITE = 16, FILE_KEY = 0x20 };
    char text[16] = { 0 };
    uint64_t answer = 0;
    fw_cfg_add_file(fw, "opt/text", "hello, firmware", 15);
    fw_cfg_add_writable(fw, "opt/answer", 8);
    out(0x510, 2, 0);
    assert_int_equal(inb(0x511), 'Q');
    assert_int_equal(inb(0x511), 'E');
    assert_int_equal(in(0x514, 4), 0x554d4551);                      /* "QEMU" in memory's order */
    assert_int_equal(dma(SELECT | READ | 0x19 << 16, 4, 0x2000), 0); /* the directory */
    assert_int_equal(mmio_read(0x2000, 4), 2u << 24);
    assert_int_equal(dma(READ, 64, 0x2000), 0);
    assert_int_equal(mmio_read(0x2004, 2), FILE_KEY << 8);
    assert_int_equal(dma(SELECT | SKIP | FILE_KEY << 16, 7, 0), 0);
    assert_int_equal(dma(READ, 8, 0x2000), 0);
    mem_read(test_machine.m, 0x2000, text, 8);
    assert_string_equal(text, "firmware");
    assert_int_equal(dma(READ, 4, 0x2000), 0); /* behind its end */
    assert_int_equal(mmio_read(0x2000, 4), 0);

    assert_int_equal(dma(SELECT | WRITE | FILE_KEY << 16, 4, 0x2000), 1); /* read-only */
    mmio_write(0x2000, 8, 0x1122334455667788);
    assert_int_equal(dma(SELECT | WRITE | (FILE_KEY + 1) << 16, 8, 0x2000), 0);
    assert_true(fw_cfg_read_file(fw, "opt/answer", &answer, 8));
    assert_int_equal(answer, 0x1122334455667788);
    assert_int_equal(dma(SELECT | WRITE | (FILE_KEY + 1) << 16, 9, 0x2000), 1);
    assert_int_equal(dma(SELECT | READ | FILE_KEY << 16, 15, MEMORY - 4), 1); /* no memory there */
    fw->type->reset(fw);
    assert_true(fw_cfg_read_file(fw, "opt/answer", &answer, 8));
    assert_int_equal(answer, 0);
    assert_false(fw_cfg_read_file(fw, "opt/none", &answer, 8));
}

/* A request that waits while the machine is paused is done afterwards. */
static void fw_cfg_waits_while_paused(void **state)
{
    uint32_t request[4] = { __builtin_bswap32(8 | 2), __builtin_bswap32(4), 0,
                            __builtin_bswap32(0x2000) };
    fw->type->pause(fw);
    mem_write(test_machine.m, 0x1000, request, sizeof request);
    out(0x518, 4, __builtin_bswap32(0x1000));
    loop_call(test_machine.m->io_loop, idle, NULL);
    assert_int_equal(mmio_read(0x1000, 4), request[0]);
    fw->type->resume(fw);
    loop_call(test_machine.m->io_loop, idle, NULL);
    assert_int_equal(mmio_read(0x1000, 4), 0);
    assert_int_equal(mmio_read(0x2000, 4), 0x554d4551);
}

/* ---- flash ---- */

static uint32_t in_file(off_t offset)
{
    uint32_t word;
    assert_int_equal(pread_full(flash_fd, &word, 4, offset), 0);
    return word;
}

static void flash_programs_and_erases(void **state)
{
    mmio_write(FLASH, 1, 0x50);
    mmio_write(FLASH, 1, 0x70);
    assert_int_equal(mmio_read(FLASH, 1), 0); /* by that firmware knows a flash */
    mmio_write(FLASH, 1, 0xff);
    assert_int_equal(mmio_read(FLASH, 4), UINT32_MAX);
    for (unsigned i = 0; i < 4; i++) {
        mmio_write(FLASH + 0x1000 + i, 1, 0x10);
        mmio_write(FLASH + 0x1000 + i, 1, 0x5a + i);
    }
    assert_int_equal(mmio_read(FLASH, 1), 0x80);
    mmio_write(FLASH, 1, 0xff);
    assert_int_equal(mmio_read(FLASH + 0x1000, 4), 0x5d5c5b5a);
    assert_int_equal(in_file(0x1000), 0x5d5c5b5a);
    mmio_write(FLASH + 0x1000, 1, 0x40); /* programming only clears bits */
    mmio_write(FLASH + 0x1000, 1, 0x0f);
    mmio_write(FLASH, 1, 0xff);
    assert_int_equal(mmio_read(FLASH + 0x1000, 1), 0x5a & 0x0f);
    mmio_write(FLASH + 0x1004, 1, 0x20);
    mmio_write(FLASH + 0x1004, 1, 0xff); /* not confirmed */
    assert_int_equal(mmio_read(FLASH, 1) & 0x20, 0x20);
    mmio_write(FLASH + 0x1004, 1, 0x20);
    mmio_write(FLASH + 0x1004, 1, 0xd0);
    mmio_write(FLASH, 1, 0xff);
    assert_int_equal(mmio_read(FLASH + 0x1000, 4), UINT32_MAX);
    assert_int_equal(in_file(0x1000), UINT32_MAX);
}

static void flash_takes_buffers(void **state)
{
    mmio_write(FLASH + 0x2000, 1, 0xe8);
    mmio_write(FLASH + 0x2000, 1, 3);
    for (unsigned i = 0; i < 4; i++)
        mmio_write(FLASH + 0x2010 + i, 1, 0x11 * (i + 1));
    mmio_write(FLASH + 0x2000, 1, 0xd0);
    mmio_write(FLASH, 1, 0xff);
    assert_int_equal(mmio_read(FLASH + 0x2010, 4), 0x44332211);
    assert_int_equal(in_file(0x2010), 0x44332211);
    assert_int_equal(mmio_read(FLASH + 0x2014, 4), UINT32_MAX);
    mmio_write(FLASH, 1, 0x98);
    assert_int_equal(mmio_read(FLASH + 0x10, 1), 'Q');
    mmio_write(FLASH, 1, 0x90);
    assert_int_equal(mmio_read(FLASH, 1), 0x89);
}

static void flash_follows_its_state(void **state)
{
    vars->hva[5] = 0x12; /* as a loaded memory */
    struct err err = { 0 };
    assert_int_equal(flash->type->loaded(flash, &err), 0);
    assert_int_equal(in_file(4) >> 8 & 0xff, 0x12);
}

/* ---- bridge and slot ---- */

struct plain {
    struct pci_device pci;
    struct pci_regs regs;
    unsigned resets;
};
static uint64_t plain_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    return 0x42;
}
static void plain_reset(struct device *dev)
{
    CONTAINER_OF(pci_device_of(dev), struct plain, pci)->resets++;
    pci_reset(pci_device_of(dev));
}
static void plain_destroy(struct device *dev)
{
    pci_device_fini(pci_device_of(dev));
    free(dev);
}
static const struct device_type plain_type = { .name = "plain",
                                               .about = "a function with a BAR",
                                               .threads = DEVICE_LOCKED,
                                               .read = plain_read,
                                               .reset = plain_reset,
                                               .destroy = plain_destroy };

static struct plain *plain_create(void)
{
    static const struct pci_ids ids = { .vendor = 0x1af4, .device = 1, .interrupt_pin = 1 };
    struct plain *plain = calloc(1, sizeof *plain);
    pci_device_init(&plain->pci, test_machine.m, &plain_type, "plain", &ids, NULL, &plain->regs);
    pci_bar_add(&plain->pci, 0, 4096, 0);
    return plain;
}

static void windows_pass_on(void **state)
{
    struct err err = { 0 };
    struct plain *plain = plain_create();
    const struct pci_windows windows = { .mem32 = 0xc0000000, .mem32_size = 0x4000000 };
    assert_int_equal(pci_port_plug(port, &plain->pci, &err), 0);
    machine_add_device(test_machine.m, &plain->pci.dev);
    assert_int_equal(pci_bus_assign(bus, &windows, &err), 0);
    uint32_t bar = pci_cycle_read(bus, 1, 0, PCI_BAR0, 4);
    assert_int_equal(mmio_read(bar, 1), 0x42);
    assert_int_equal(pci_cycle_read(bus, 1, 0, 0, 4), 0x00011af4);
    assert_int_equal(pci_cycle_read(bus, 1, 8, 0, 4), UINT32_MAX);
    assert_int_equal(pci_cycle_read(bus, 2, 0, 0, 4), UINT32_MAX);
    assert_true(pci_bus_master(&plain->pci));
    pci_config_write(bus, PORT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    assert_false(pci_bus_master(&plain->pci));
    pci_config_write(bus, PORT, PCI_COMMAND, 2, 0);
    assert_int_equal(mmio_read(bar, 1), 0xff);
    pci_config_write(bus, PORT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    assert_int_equal(mmio_read(bar, 1), 0x42);
    pci_config_write(bus, PORT, PCI_MEMORY_BASE, 4, 0xd000d000);
    assert_int_equal(mmio_read(bar, 1), 0xff);
    pci_config_write(bus, PORT, PCI_SECONDARY_BUS, 2, 0x0707);
    assert_int_equal(pci_cycle_read(bus, 7, 0, 0, 4), 0x00011af4);
    assert_int_equal(pci_cycle_read(bus, 1, 0, 0, 4), UINT32_MAX);
}

static unsigned slot_register(unsigned offset)
{
    unsigned cap = pci_config_read(bus, PORT, PCI_CAPABILITY_LIST, 1);
    while (pci_config_read(bus, PORT, cap, 1) != PCI_CAP_EXPRESS)
        cap = pci_config_read(bus, PORT, cap + 1, 1);
    return cap + offset;
}

static void slot_comes_and_goes(void **state)
{
    enum { CONTROL = 24, STATUS = 26, POWER_OFF = 1 << 10, PRESENT = 1 << 6, BUTTON = 1 };
    struct err err = { 0 };
    struct plain *plain = plain_create();
    unsigned control = slot_register(CONTROL), status = slot_register(STATUS);
    pci_config_write(bus, PORT, PCI_SECONDARY_BUS, 2, 0x0101);
    assert_int_equal(pci_config_read(bus, PORT, control, 2) & POWER_OFF, POWER_OFF);
    test_machine.m->state = MACHINE_PAUSED; /* it has run */
    assert_int_equal(pci_port_plug(port, &plain->pci, &err), 0);
    assert_int_equal(pci_config_read(bus, PORT, status, 2) & (PRESENT | BUTTON | 8), PRESENT | 9);
    assert_int_equal(pci_cycle_read(bus, 1, 0, 0, 4), UINT32_MAX); /* no power yet */
    pci_config_write(bus, PORT, status, 2, BUTTON | 8);
    assert_int_equal(pci_config_read(bus, PORT, status, 2), PRESENT);
    pci_config_write(bus, PORT, control, 2, 0x100);
    test_events();
    assert_int_equal(power_on, 1);
    assert_int_equal(pci_cycle_read(bus, 1, 0, 0, 4), 0x00011af4);

    assert_int_equal(pci_port_ask(port, &err), 0);
    assert_int_equal(pci_config_read(bus, PORT, status, 2) & BUTTON, BUTTON);
    pci_config_write(bus, PORT, control, 2, 0x200); /* its light blinks */
    assert_int_equal(pci_port_ask(port, &err), -EBUSY);
    pci_config_write(bus, PORT, control, 2, POWER_OFF | 0x300);
    test_events();
    assert_true(power_off > 0);
    assert_int_equal(pci_cycle_read(bus, 1, 0, 0, 4), UINT32_MAX);
    assert_ptr_equal(pci_port_unplug(port), &plain->pci);
    assert_int_equal(pci_config_read(bus, PORT, status, 2) & PRESENT, 0);
    device_destroy(&plain->pci.dev);
    test_machine.m->state = MACHINE_CREATED;
}

/* ---- HPET ---- */

static void hpet_counts_and_interrupts(void **state)
{
    struct listener l = { .chip.set = listener_set };
    irq_chip_add(test_machine.m, &l.chip);
    assert_int_equal(mmio_read(HPET_BASE, 8) >> 32, 10000000);
    assert_int_equal(mmio_read(HPET_BASE + 0xf0, 8), 0);
    mmio_write(HPET_BASE + 0x10, 8, 1);
    uint64_t start = guest_now_ns(test_machine.m);
    test_time(start + 5000);
    assert_int_equal(mmio_read(HPET_BASE + 0xf0, 8), 500);
    mmio_write(HPET_BASE + 0x100, 8, 18 << 9 | 4 | 2); /* GSI 18, level */
    mmio_write(HPET_BASE + 0x108, 8, 600);
    test_time(start + 5990);
    assert_int_equal(mmio_read(HPET_BASE + 0x20, 8), 0);
    test_time(start + 6000);
    assert_int_equal(mmio_read(HPET_BASE + 0x20, 8), 1);
    assert_int_equal(l.levels, 1 << 18);
    mmio_write(HPET_BASE + 0x20, 4, 1);
    assert_int_equal(l.levels, 0);
    mmio_write(HPET_BASE + 0x100, 8, 18 << 9 | 4 | 2 | 8 | 0x40); /* periodic from 700, every 50 */
    mmio_write(HPET_BASE + 0x108, 8, 700);
    mmio_write(HPET_BASE + 0x108, 8, 50);
    test_time(start + 7000);
    assert_int_equal(mmio_read(HPET_BASE + 0x20, 8), 1);
    assert_int_equal(mmio_read(HPET_BASE + 0x108, 8), 750);
    irq_chip_remove(test_machine.m, &l.chip);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(pam_shadows_the_rom),
        TEST(smram_opens_and_locks),
        TEST(ecam_moves),
        TEST(acpi_ports_move),
        TEST(tco_timer_counts_twice),
        TEST(pci_interrupts_reach_the_pics),
        TEST(fw_cfg_by_ports_and_dma),
        TEST(fw_cfg_waits_while_paused),
        TEST(flash_programs_and_erases),
        TEST(flash_takes_buffers),
        TEST(flash_follows_its_state),
        TEST(windows_pass_on),
        TEST(slot_comes_and_goes),
        TEST(hpet_counts_and_interrupts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
