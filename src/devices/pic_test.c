/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The PICs as Linux and DOS-age software program them, and the I/O APIC beside them. */
#include "devices/pic.h"

#include "devices/ioapic.h"
#include "devices/test_machine.h"

static struct irq_pin pins[GSI_COUNT];

static int setup(void **state)
{
    struct err err = { 0 };
    struct machine *m = test_machine_create(4 << 20);
    assert_int_equal(pic_create(m, &err), 0);
    assert_int_equal(ioapic_create(m, &err), 0);
    for (unsigned i = 0; i < GSI_COUNT; i++)
        irq_pin_init(&pins[i], m, i);
    return 0;
}

static int teardown(void **state)
{
    test_machine_destroy();
    return 0;
}

/* As init_8259A does: vectors 0x30 and 0x38, all masked but what `imr` leaves open. */
static void program(unsigned imr)
{
    outb(0x21, 0xff);
    outb(0x20, 0x11);
    outb(0x21, 0x30);
    outb(0x21, 0x04);
    outb(0x21, 0x01);
    outb(0xa0, 0x11);
    outb(0xa1, 0x38);
    outb(0xa1, 0x02);
    outb(0xa1, 0x01);
    outb(0x21, imr & 0xff);
    outb(0xa1, imr >> 8);
}

static void edges_and_priorities(void **state)
{
    program(0);
    assert_int_equal(inb(0x21), 0);
    assert_int_equal(extint_ack(test_machine.m), -1);
    irq_pin_pulse(&pins[4]);
    irq_pin_pulse(&pins[1]);
    assert_true(test_machine.extint);
    assert_int_equal(inb(0x20), 0x12); /* IRR */
    assert_int_equal(extint_ack(test_machine.m), 0x31);
    assert_false(test_machine.extint); /* 4 waits behind 1 */
    outb(0x20, 0x0b);
    assert_int_equal(inb(0x20), 0x02); /* ISR */
    outb(0x20, 0x0a);
    outb(0x20, 0x61); /* specific EOI of 1 */
    assert_true(test_machine.extint);
    assert_int_equal(extint_ack(test_machine.m), 0x34);
    outb(0x20, 0x20);
    outb(0x20, 0x0b);
    assert_int_equal(inb(0x20), 0);
}

static void slave_through_cascade(void **state)
{
    program(0);
    irq_pin_pulse(&pins[8]);
    assert_true(test_machine.extint);
    assert_int_equal(extint_ack(test_machine.m), 0x38);
    outb(0x20, 0x0b);
    outb(0xa0, 0x0b);
    assert_int_equal(inb(0x20), 0x04);
    assert_int_equal(inb(0xa0), 0x01);
    irq_pin_pulse(&pins[3]); /* lower priority than the cascade */
    assert_false(test_machine.extint);
    outb(0xa0, 0x20);
    outb(0x20, 0x62);
    assert_int_equal(extint_ack(test_machine.m), 0x33);
}

static void masked_edge_is_kept(void **state)
{
    program(0xffff);
    irq_pin_pulse(&pins[5]);
    assert_false(test_machine.extint);
    outb(0x21, 0xdf);
    assert_true(test_machine.extint);
    assert_int_equal(extint_ack(test_machine.m), 0x35);
}

static void level_triggered(void **state)
{
    program(0);
    outb(0x4d1, 0x02); /* 9 */
    assert_int_equal(inb(0x4d1), 0x02);
    outb(0x4d0, 0xff);
    assert_int_equal(inb(0x4d0), 0xf8); /* 0 to 2 are always edges */
    irq_pin_set(&pins[9], true);
    assert_int_equal(extint_ack(test_machine.m), 0x39);
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    assert_true(test_machine.extint); /* still up: again */
    irq_pin_set(&pins[9], false);
    assert_false(test_machine.extint);
}

static void auto_eoi_rotation_and_poll(void **state)
{
    program(0);
    outb(0x20, 0x11);
    outb(0x21, 0x30);
    outb(0x21, 0x04);
    outb(0x21, 0x03); /* auto EOI */
    irq_pin_pulse(&pins[0]);
    assert_int_equal(extint_ack(test_machine.m), 0x30);
    outb(0x20, 0x0b);
    assert_int_equal(inb(0x20), 0);

    program(0);
    irq_pin_pulse(&pins[3]);
    outb(0x20, 0x0c); /* poll */
    assert_int_equal(inb(0x20), 0x83);
    outb(0x20, 0xa0); /* rotate on EOI: 3 is lowest now, 4 highest */
    irq_pin_pulse(&pins[1]);
    irq_pin_pulse(&pins[4]);
    assert_int_equal(extint_ack(test_machine.m), 0x34);
}

static void pic_keeps_state(void **state)
{
    struct device *dev = machine_find_device(test_machine.m, "pic");
    program(0);
    irq_pin_set(&pins[6], true);
    test_round_trip(dev);
    assert_true(test_machine.extint);
    assert_int_equal(extint_ack(test_machine.m), 0x36);
    dev->type->reset(dev);
    assert_false(test_machine.extint);
}

/* ---- I/O APIC ---- */

static void redirect(unsigned pin, uint64_t entry)
{
    mmio_write(IOAPIC_BASE, 4, 0x11 + 2 * pin);
    mmio_write(IOAPIC_BASE + 0x10, 4, entry >> 32);
    mmio_write(IOAPIC_BASE, 4, 0x10 + 2 * pin);
    mmio_write(IOAPIC_BASE + 0x10, 4, (uint32_t)entry);
}

static uint32_t redirected(unsigned pin)
{
    mmio_write(IOAPIC_BASE, 4, 0x10 + 2 * pin);
    return (uint32_t)mmio_read(IOAPIC_BASE + 0x10, 4);
}

static void ioapic_identity(void **state)
{
    mmio_write(IOAPIC_BASE, 4, 1);
    assert_int_equal(mmio_read(IOAPIC_BASE + 0x10, 4), 0x00170020);
    mmio_write(IOAPIC_BASE, 4, 0);
    mmio_write(IOAPIC_BASE + 0x10, 4, 0xffffffff);
    assert_int_equal(mmio_read(IOAPIC_BASE + 0x10, 4), 0x0f000000);
    assert_int_equal(redirected(5), 0x10000); /* masked */
}

static void ioapic_edges(void **state)
{
    redirect(4, 0x0200000000000044); /* to APIC 2 */
    irq_pin_set(&pins[4], true);
    assert_int_equal(test_machine.msi_count, 1);
    assert_int_equal(test_machine.msi_address, 0xfee02000);
    assert_int_equal(test_machine.msi_data, 0x44);
    irq_pin_set(&pins[4], false);
    irq_pin_set(&pins[4], true);
    assert_int_equal(test_machine.msi_count, 2);
    irq_pin_pulse(&pins[0]); /* masked; wired to pin 2 */
    assert_int_equal(test_machine.msi_count, 2);
    redirect(2, 0x30);
    irq_pin_pulse(&pins[0]);
    assert_int_equal(test_machine.msi_data, 0x30);
}

static void ioapic_levels(void **state)
{
    redirect(18, 0xa051); /* level, active low, vector 0x51 */
    irq_pin_set(&pins[18], true);
    assert_int_equal(test_machine.msi_count, 1);
    assert_int_equal(test_machine.msi_data, 0xc051);
    assert_int_equal(redirected(18), 0xe051); /* remote IRR */
    irq_eoi(test_machine.m, 0x50);
    assert_int_equal(test_machine.msi_count, 1);
    irq_eoi(test_machine.m, 0x51); /* still up */
    assert_int_equal(test_machine.msi_count, 2);
    irq_pin_set(&pins[18], false);
    mmio_write(IOAPIC_BASE + 0x40, 4, 0x51);
    assert_int_equal(redirected(18), 0xa051);
    assert_int_equal(test_machine.msi_count, 2);

    redirect(18, 0x1a051);
    irq_pin_set(&pins[18], true);
    assert_int_equal(test_machine.msi_count, 2);
    redirect(18, 0xa051); /* unmasked while up */
    assert_int_equal(test_machine.msi_count, 3);
    test_round_trip(machine_find_device(test_machine.m, "ioapic"));
    assert_int_equal(redirected(18), 0xe051);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(edges_and_priorities, setup, teardown),
        cmocka_unit_test_setup_teardown(slave_through_cascade, setup, teardown),
        cmocka_unit_test_setup_teardown(masked_edge_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(level_triggered, setup, teardown),
        cmocka_unit_test_setup_teardown(auto_eoi_rotation_and_poll, setup, teardown),
        cmocka_unit_test_setup_teardown(pic_keeps_state, setup, teardown),
        cmocka_unit_test_setup_teardown(ioapic_identity, setup, teardown),
        cmocka_unit_test_setup_teardown(ioapic_edges, setup, teardown),
        cmocka_unit_test_setup_teardown(ioapic_levels, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
