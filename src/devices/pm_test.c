/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ACPI's fixed hardware, the old ways to reset, and the watchdog. */
#include "devices/pm.h"

#include "devices/i6300esb.h"
#include "devices/pci_host.h"
#include "devices/test_machine.h"

#include <unistd.h>

static struct device *pm;
static struct pci_bus *bus;
static bool level[GSI_COUNT];

static void see_level(struct irq_chip *chip, unsigned gsi, bool up)
{
    __atomic_store_n(&level[gsi], up, __ATOMIC_SEQ_CST);
}
static struct irq_chip listener = { .set = see_level };

static int setup(void **state)
{
    struct err err = { 0 };
    struct machine *m = test_machine_create(4 << 20);
    memset(level, 0, sizeof level);
    irq_chip_add(m, &listener);
    if (pm_create(m, &pm, &err) < 0 || pci_host_create(m, NULL, &bus, &err) < 0 ||
        i6300esb_create(m, bus, 3, "watchdog0", &err) < 0)
        return -1;
    return 0;
}

static int teardown(void **state)
{
    test_machine_destroy();
    return 0;
}

static void power_button(void **state)
{
    assert_int_equal(in(PM_CONTROL_PORT, 2) & 1, 1); /* SCI_EN */
    pm_power_button(pm);
    assert_false(level[9]);
    out(PM_EVENT_PORT + 2, 2, 0x100);
    assert_true(level[9]);
    assert_int_equal(in(PM_EVENT_PORT, 2), 0x100);
    test_round_trip(pm);
    assert_true(level[9]);
    out(PM_EVENT_PORT, 2, 0x100);
    assert_false(level[9]);
    assert_int_equal(in(PM_EVENT_PORT, 4), 0x01000000);
}

static void general_purpose_event(void **state)
{
    out(PM_GPE0_PORT + 2, 1, 0x04);
    pm_gpe_raise(pm, 2);
    assert_true(level[9]);
    assert_int_equal(inb(PM_GPE0_PORT), 0x04);
    outb(PM_GPE0_PORT, 0x04);
    assert_false(level[9]);
}

static void timer_runs_at_its_rate(void **state)
{
    uint32_t first = (uint32_t)in(PM_TIMER_PORT, 4);
    test_time(2000000000);
    assert_int_equal((uint32_t)in(PM_TIMER_PORT, 4) - first, 3579545);
    assert_int_equal(in(PM_EVENT_PORT, 2) & 1, 0);
    test_time(601000000000); /* the top bit changes each 600 s */
    assert_int_equal(in(PM_EVENT_PORT, 2) & 1, 1);
    out(PM_EVENT_PORT, 2, 1);
    assert_int_equal(in(PM_EVENT_PORT, 2) & 1, 0);
}

static void soft_off(void **state)
{
    out(PM_CONTROL_PORT, 2, 3 << 10 | 1 << 13); /* S3 is not offered */
    assert_int_equal(test_events(), 0);
    out(PM_CONTROL_PORT, 2, PM_SLEEP_TYPE_S5 << 10);
    assert_int_equal(test_events(), 0);
    out(PM_CONTROL_PORT, 2, PM_SLEEP_TYPE_S5 << 10 | 1 << 13);
    assert_int_equal(test_events(), 1);
    assert_int_equal(test_machine.event, MACHINE_POWEROFF);
    assert_int_equal(in(PM_CONTROL_PORT, 2), PM_SLEEP_TYPE_S5 << 10 | 1); /* SLP_EN reads as zero */
}

static void old_resets(void **state)
{
    assert_int_equal(inb(0x64) & 2, 0); /* never busy */
    assert_int_equal(inb(0x60), 0xff);
    outb(0x64, 0xfe);
    assert_int_equal(test_events(), 1);
    assert_int_equal(test_machine.event, MACHINE_RESET);
    outb(0x64, 0xff); /* pulses nothing */
    assert_int_equal(test_events(), 1);
    assert_int_equal(inb(0x92), 2);
    outb(0x80, 1); /* harmless */
    assert_int_equal(test_events(), 1);
}

static void fast_reset(void **state)
{
    outb(0x92, 2);
    assert_int_equal(test_events(), 0);
    outb(0x92, 3);
    assert_int_equal(test_events(), 1);
    assert_int_equal(test_machine.event, MACHINE_RESET);
}

/* ---- Watchdog ---- */

enum { ESB = 3 << 3, ESB_BASE = 0xc0000000 };

static void esb_write(unsigned offset, unsigned value)
{
    mmio_write(ESB_BASE + 0xc, 2, 0x80);
    mmio_write(ESB_BASE + 0xc, 2, 0x86);
    mmio_write(ESB_BASE + offset, offset < 8 ? 4 : 2, value);
}

/* As the Linux driver arms it; `config` goes to the configuration register. */
static void esb_arm(unsigned config, unsigned ms)
{
    pci_config_write(bus, ESB, PCI_BAR0, 4, ESB_BASE);
    pci_config_write(bus, ESB, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    pci_config_write(bus, ESB, 0x60, 2, config);
    esb_write(0, ms);
    esb_write(4, ms);
    esb_write(0xc, 0x100);
    pci_config_write(bus, ESB, 0x68, 1, 2);
}

static unsigned run_until_event(unsigned most_ms)
{
    clock_start(test_machine.m);
    for (unsigned i = 0; i < most_ms && !test_events(); i++)
        usleep(1000);
    clock_stop(test_machine.m);
    return test_events();
}

static void watchdog_fires_after_two_stages(void **state)
{
    esb_arm(0x3, 20);
    uint64_t start = guest_now_ns(test_machine.m);
    assert_int_equal(run_until_event(60000), 1);
    assert_int_equal(test_machine.event, MACHINE_WATCHDOG);
    assert_true(guest_now_ns(test_machine.m) - start >= 2 * 20 * 990000ull);
    assert_int_equal(mmio_read(ESB_BASE + 0xc, 2), 0x200);
    struct device *dev = machine_find_device(test_machine.m, "watchdog0");
    test_round_trip(dev);
    dev->type->reset(dev);
    pci_config_write(bus, ESB, PCI_BAR0, 4, ESB_BASE);
    pci_config_write(bus, ESB, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    assert_int_equal(mmio_read(ESB_BASE + 0xc, 2), 0x200); /* tells why */
    esb_write(0xc, 0x200);
    assert_int_equal(mmio_read(ESB_BASE + 0xc, 2), 0);
}

static void watchdog_first_stage_interrupts(void **state)
{
    esb_arm(0x20, 10); /* interrupt, no reboot */
    unsigned gsi = pci_intx_gsi(3, 1);
    clock_start(test_machine.m);
    for (unsigned i = 0; i < 60000 && !__atomic_load_n(&level[gsi], __ATOMIC_SEQ_CST); i++)
        usleep(1000);
    usleep(50000);
    clock_stop(test_machine.m);
    assert_true(level[gsi]);
    assert_int_equal(test_events(), 0);
    mmio_write(ESB_BASE + 8, 2, 1);
    assert_false(level[gsi]);
}

static void watchdog_is_pinged_and_stopped(void **state)
{
    esb_arm(0x3, 0xfffff);
    esb_write(0xc, 0x100);
    mmio_write(ESB_BASE + 0, 4, 5); /* not unlocked: ignored */
    pci_config_write(bus, ESB, 0x68, 1, 0);
    assert_int_equal(run_until_event(30), 0);
    pci_config_write(bus, ESB, 0x68, 1, 3); /* locked */
    pci_config_write(bus, ESB, 0x68, 1, 0);
    assert_int_equal(pci_config_read(bus, ESB, 0x68, 1), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(power_button, setup, teardown),
        cmocka_unit_test_setup_teardown(general_purpose_event, setup, teardown),
        cmocka_unit_test_setup_teardown(timer_runs_at_its_rate, setup, teardown),
        cmocka_unit_test_setup_teardown(soft_off, setup, teardown),
        cmocka_unit_test_setup_teardown(old_resets, setup, teardown),
        cmocka_unit_test_setup_teardown(fast_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(watchdog_fires_after_two_stages, setup, teardown),
        cmocka_unit_test_setup_teardown(watchdog_first_stage_interrupts, setup, teardown),
        cmocka_unit_test_setup_teardown(watchdog_is_pinged_and_stopped, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
