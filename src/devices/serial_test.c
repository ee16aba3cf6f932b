/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The UART, driven as Linux's 8250 driver does. */
#include "devices/serial.h"

#include "devices/test_machine.h"

enum { BASE = 0x3f8 };
static struct device *serial;
static char sent[64];
static size_t sent_len;
static unsigned rooms;
static bool irq;

static void take_output(void *arg, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len && sent_len < sizeof sent; i++)
        sent[sent_len++] = (char)data[i];
}

static void has_room(void *arg) { rooms++; }

static void see_irq(struct irq_chip *chip, unsigned gsi, bool level)
{
    if (gsi == 4)
        irq = level;
}

static struct irq_chip listener = { .set = see_irq };

static int setup(void **state)
{
    struct err err = { 0 };
    struct machine *m = test_machine_create(4 << 20);
    struct serial_config config = {
        .id = "serial0", .port = BASE, .gsi = 4, .output = take_output, .input_room = has_room
    };
    sent_len = 0;
    rooms = 0;
    irq = false;
    irq_chip_add(m, &listener);
    return serial_create(m, &config, &serial, &err);
}

static int teardown(void **state)
{
    test_machine_destroy();
    return 0;
}

/* autoconfig() of the 8250 driver */
static void detected_as_16550a(void **state)
{
    outb(BASE + 1, 0);
    assert_int_equal(inb(BASE + 1) & 0xf, 0);
    outb(BASE + 1, 0xf);
    assert_int_equal(inb(BASE + 1), 0xf);
    outb(BASE + 1, 0);
    outb(BASE + 4, 0x10 | 0x0a);
    assert_int_equal(inb(BASE + 6) & 0xf0, 0x90);
    outb(BASE + 4, 0);
    assert_int_equal(inb(BASE + 6) & 0xf0, 0xb0);
    outb(BASE + 2, 1);
    assert_int_equal(inb(BASE + 2) >> 6, 3);
    outb(BASE + 7, 0xa5);
    assert_int_equal(inb(BASE + 7), 0xa5);
    outb(BASE + 3, 0x83);
    outb(BASE, 0x0c);
    outb(BASE + 1, 0x01);
    assert_int_equal(inb(BASE), 0x0c);
    assert_int_equal(inb(BASE + 1), 0x01);
    outb(BASE + 3, 0x03);
    assert_int_equal(inb(BASE + 1), 0);
}

static void sends(void **state)
{
    outb(BASE, 'h');
    outb(BASE, 'i');
    assert_int_equal(sent_len, 2);
    assert_memory_equal(sent, "hi", 2);
    assert_int_equal(inb(BASE + 5), 0x60);
}

static void transmitter_interrupt(void **state)
{
    outb(BASE + 1, 2);
    assert_true(irq);
    assert_int_equal(inb(BASE + 2), 0x02);
    assert_false(irq); /* reading IIR was the acknowledgement */
    assert_int_equal(inb(BASE + 2), 0x01);
    outb(BASE, 'x');
    assert_true(irq);
    outb(BASE + 1, 0);
    assert_false(irq);
    outb(BASE + 1, 2);
    assert_true(irq);
}

static void receives_with_flow_control(void **state)
{
    const uint8_t text[] = "0123456789abcdefghij";
    outb(BASE + 2, 0x81); /* FIFO, trigger at 8 */
    outb(BASE + 1, 1);
    assert_int_equal(serial_input(serial, text, 4), 4);
    assert_true(irq);
    assert_int_equal(inb(BASE + 2), 0xcc); /* time-out: below the trigger */
    assert_int_equal(serial_input(serial, text + 4, 4), 4);
    assert_int_equal(inb(BASE + 2), 0xc4);
    assert_int_equal(serial_input(serial, text + 8, 12), 8);
    assert_int_equal(inb(BASE + 5), 0x61);
    for (unsigned i = 0; i < 7; i++)
        assert_int_equal(inb(BASE), text[i]);
    assert_int_equal(rooms, 0);
    inb(BASE);
    assert_int_equal(rooms, 1);
    for (unsigned i = 8; i < 16; i++)
        assert_int_equal(inb(BASE), text[i]);
    assert_false(irq);
    assert_int_equal(inb(BASE + 5), 0x60);
    assert_int_equal(rooms, 1);
}

static void without_fifo_one_byte(void **state)
{
    assert_int_equal(serial_input(serial, (const uint8_t *)"ab", 2), 1);
    assert_int_equal(inb(BASE), 'a');
    assert_int_equal(rooms, 1);
    assert_int_equal(serial_input(serial, (const uint8_t *)"b", 1), 1);
}

static void loopback(void **state)
{
    outb(BASE + 4, 0x10);
    outb(BASE, 'L');
    assert_int_equal(sent_len, 0);
    assert_int_equal(inb(BASE + 5) & 1, 1);
    assert_int_equal(serial_input(serial, (const uint8_t *)"z", 1), 0);
    outb(BASE, 'M'); /* nowhere to go */
    assert_int_equal(inb(BASE + 5) & 2, 2);
    assert_int_equal(inb(BASE + 5) & 2, 0);
    assert_int_equal(inb(BASE), 'L');
}

static void modem_status_interrupt(void **state)
{
    inb(BASE + 6);
    outb(BASE + 1, 8);
    assert_false(irq);
    outb(BASE + 4, 0x10);
    assert_true(irq);
    assert_int_equal(inb(BASE + 2) & 0xf, 0);
    assert_int_equal(inb(BASE + 6), 0x0b);
    assert_false(irq);
}

static void keeps_state(void **state)
{
    outb(BASE + 2, 0x01);
    outb(BASE + 1, 3);
    serial_input(serial, (const uint8_t *)"keep", 4);
    test_round_trip(serial);
    assert_true(irq);
    assert_int_equal(inb(BASE), 'k');
    serial->type->reset(serial);
    assert_false(irq);
    assert_int_equal(inb(BASE + 5), 0x60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(detected_as_16550a, setup, teardown),
        cmocka_unit_test_setup_teardown(sends, setup, teardown),
        cmocka_unit_test_setup_teardown(transmitter_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(receives_with_flow_control, setup, teardown),
        cmocka_unit_test_setup_teardown(without_fifo_one_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(loopback, setup, teardown),
        cmocka_unit_test_setup_teardown(modem_status_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(keeps_state, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
