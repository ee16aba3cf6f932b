/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The PS/2 controller, driven as Linux' i8042, atkbd and psmouse drivers do. */
#include "devices/i8042.h"

#include "devices/input.h"
#include "devices/test_machine.h"

#include <linux/input-event-codes.h>

static struct input *input;
static bool irq1, irq12;
static unsigned edges1;

static void see_irq(struct irq_chip *chip, unsigned gsi, bool level)
{
    if (gsi == 1) {
        edges1 += level && !irq1;
        irq1 = level;
    } else if (gsi == 12) {
        irq12 = level;
    }
}

static struct irq_chip listener = { .set = see_irq };

static struct device *kbc(void) { return machine_find_device(test_machine.m, "i8042"); }

static int setup(void **state)
{
    struct err err = { 0 };
    struct machine *m = test_machine_create(4 << 20);
    irq1 = irq12 = false;
    edges1 = 0;
    irq_chip_add(m, &listener);
    return input_create(&input, &err) < 0 ? -1 : i8042_create(m, input, &err);
}

static int teardown(void **state)
{
    test_machine_destroy();
    input_destroy(input);
    return 0;
}

static uint8_t next(void)
{
    if (!(inb(0x64) & 1))
        fail_msg("no byte waits");
    return inb(0x60);
}

static void expect(const uint8_t *bytes, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(next(), bytes[i]);
    assert_int_equal(inb(0x64) & 1, 0);
}
#define EXPECT(...) \
    expect((const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static void press(unsigned code)
{
    input_key(input, code, true);
    input_key(input, code, false);
}

static void controller_commands(void **state)
{
    outb(0x64, 0xaa);
    EXPECT(0x55);
    outb(0x64, 0xab);
    EXPECT(0);
    outb(0x64, 0xa9);
    EXPECT(0);
    outb(0x64, 0x60);
    outb(0x60, 0x47);
    outb(0x64, 0x20);
    EXPECT(0x47);
    outb(0x64, 0xa7);
    outb(0x64, 0x20);
    EXPECT(0x67);
    outb(0x64, 0xd3); /* the loop test of Linux: back as if from the mouse */
    outb(0x60, 0x5a);
    assert_int_equal(inb(0x64) & 0x21, 0x21);
    EXPECT(0x5a);
    outb(0x64, 0xd1);
    outb(0x60, 0xcd); /* address line 20 off */
    outb(0x64, 0xd0);
    EXPECT(0xcd);
}

static void keyboard_is_identified(void **state)
{
    outb(0x64, 0x60);
    outb(0x60, 0x03); /* no translation */
    outb(0x60, 0xff);
    EXPECT(0xfa, 0xaa);
    outb(0x60, 0xf2);
    EXPECT(0xfa, 0xab, 0x83);
    outb(0x60, 0xed);
    EXPECT(0xfa);
    outb(0x60, 0x07);
    EXPECT(0xfa);
    outb(0x60, 0xee);
    EXPECT(0xee);
    outb(0x60, 0xf0);
    EXPECT(0xfa);
    outb(0x60, 0x03); /* no set 3 */
    EXPECT(0xfe);
    outb(0x60, 0xfe);
    EXPECT(0xfe);
}

static void keys_in_each_set(void **state)
{
    press(KEY_A); /* translated to set 1, as firmware leaves it */
    EXPECT(0x1e, 0x9e);
    press(KEY_RIGHT);
    EXPECT(0xe0, 0x4d, 0xe0, 0xcd);
    press(KEY_PAUSE);
    EXPECT(0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5);
    press(KEY_F7);
    EXPECT(0x41, 0xc1);
    outb(0x64, 0x60);
    outb(0x60, 0x03);
    press(KEY_A);
    EXPECT(0x1c, 0xf0, 0x1c);
    press(KEY_RIGHTCTRL);
    EXPECT(0xe0, 0x14, 0xe0, 0xf0, 0x14);
    outb(0x60, 0xf0);
    EXPECT(0xfa);
    outb(0x60, 0x01);
    EXPECT(0xfa);
    press(KEY_A);
    EXPECT(0x1e, 0x9e);
    press(500); /* no such key */
    assert_int_equal(inb(0x64) & 1, 0);
}

/* Each letter and digit: set 1 is the Linux code itself. */
static void letters_are_their_codes(void **state)
{
    for (unsigned code = KEY_ESC; code <= KEY_SPACE; code++) {
        press(code);
        EXPECT((uint8_t)code, (uint8_t)(code | 0x80));
    }
}

static void each_byte_is_an_edge(void **state)
{
    press(KEY_A);
    assert_true(irq1);
    assert_int_equal(edges1, 1);
    next();
    assert_true(irq1);
    assert_int_equal(edges1, 2);
    next();
    assert_false(irq1);
    outb(0x64, 0x60);
    outb(0x60, 0x02); /* keyboard's interrupt off */
    press(KEY_A);
    assert_false(irq1);
}

static void full_queue_drops_whole_keys(void **state)
{
    for (unsigned i = 0; i < 100; i++)
        press(KEY_RIGHT);
    unsigned bytes = 0;
    for (; inb(0x64) & 1; bytes++)
        assert_int_equal(next(), bytes % 4 % 2 ? (bytes % 4 == 1 ? 0x4d : 0xcd) : 0xe0);
    assert_true(bytes >= 40);
}

static void keys_that_the_guest_has_not_fetched_are_known(void **state)
{
    assert_false(input_keys_wait(input));
    press(KEY_A);
    assert_true(input_keys_wait(input));
    next();
    assert_true(input_keys_wait(input));
    next();
    assert_false(input_keys_wait(input));
}

static void mouse_write(uint8_t byte)
{
    outb(0x64, 0xd4);
    outb(0x60, byte);
    assert_int_equal(inb(0x64) & 0x21, 0x21);
    assert_int_equal(next(), 0xfa);
}

static void mouse_moves_and_clicks(void **state)
{
    mouse_write(0xff);
    EXPECT(0xaa, 0x00);
    mouse_write(0xf4);
    input_pointer(input, 100, 100, 800, 600, 0); /* where it is */
    input_pointer(input, 105, 98, 800, 600, 0);
    assert_true(irq12);
    EXPECT(0x08, 5, 2);
    input_pointer(input, 105, 98, 800, 600, INPUT_BUTTON_RIGHT);
    EXPECT(0x0a, 0, 0);
    input_pointer(input, 85, 118, 800, 600, 0);
    EXPECT(0x3a, 0xec, 0xec, 0x38 & 0x08, 0, 0);
    assert_false(irq12);
}

static void mouse_has_a_wheel(void **state)
{
    static const uint8_t rates[] = { 200, 100, 80 };
    for (unsigned i = 0; i < 3; i++) {
        mouse_write(0xf3);
        mouse_write(rates[i]);
    }
    mouse_write(0xf2);
    EXPECT(3);
    mouse_write(0xf4);
    input_wheel(input, 1); /* away from the user is negative */
    EXPECT(0x08, 0, 0, 0xff);
    mouse_write(0xe9);
    EXPECT(0x20, 2, 80);
}

static void motion_adds_up_while_nobody_reads(void **state)
{
    int x = 0;
    mouse_write(0xf4);
    input_pointer(input, 0, 0, 40000, 600, 0);
    for (unsigned i = 1; i <= 200; i++)
        input_pointer(input, i * 10, 0, 40000, 600, 0);
    while (inb(0x64) & 1) {
        uint8_t flags = next();
        x += next() - (flags & 0x10 ? 256 : 0);
        next();
    }
    assert_int_equal(x, 2000);
}

static void reset_line(void **state)
{
    outb(0x64, 0xfe);
    assert_int_equal(test_events(), 1);
    assert_int_equal(test_machine.event, MACHINE_RESET);
}

static void saved_between_the_bytes_of_a_key(void **state)
{
    press(KEY_RIGHT);
    next();
    test_round_trip(kbc());
    EXPECT(0x4d, 0xe0, 0xcd);
    outb(0x64, 0x60);
    test_round_trip(kbc());
    outb(0x60, 0x12);
    outb(0x64, 0x20);
    EXPECT(0x12);
}

/* The same byte at 0x500 and 0x100500? */
static bool wraps(void)
{
    uint8_t low = 1, high = 2;
    mem_write(test_machine.m, 0x500, &low, 1);
    mem_write(test_machine.m, 0x100500, &high, 1);
    mem_read(test_machine.m, 0x500, &low, 1);
    return low == 2;
}

static void address_line_20(void **state)
{
    struct mapping *ram;
    struct machine *m = test_machine.m;
    uint8_t byte = 0x77;
    assert_int_equal(
        map_ram(m, SPACE_MEMORY, 0, 4 << 20, REGION_RAM, m->main_ram, 0, 5, &ram, NULL), 0);
    assert_false(wraps());
    assert_int_equal(inb(0x92), 2);
    outb(0x92, 0);
    assert_int_equal(inb(0x92), 0);
    assert_true(wraps());
    outb(0x64, 0xd0);
    assert_int_equal(next() & 2, 0); /* one gate */
    test_round_trip(kbc());
    assert_true(wraps());
    outb(0x64, 0xdf);
    assert_false(wraps());
    outb(0x64, 0xd1);
    outb(0x60, 0xdd);
    assert_true(wraps());
    mem_write(m, 0x300000, &byte, 1); /* above, nothing is hidden */
    mem_read(m, 0x200000, &byte, 1);
    assert_int_equal(byte, 0);
    kbc()->type->reset(kbc());
    assert_false(wraps());
    assert_int_equal(test_events(), 0);
    outb(0x92, 3);
    assert_int_equal(test_events(), 1);
    assert_int_equal(test_machine.event, MACHINE_RESET);
    assert_false(wraps());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(controller_commands, setup, teardown),
        cmocka_unit_test_setup_teardown(keyboard_is_identified, setup, teardown),
        cmocka_unit_test_setup_teardown(keys_in_each_set, setup, teardown),
        cmocka_unit_test_setup_teardown(letters_are_their_codes, setup, teardown),
        cmocka_unit_test_setup_teardown(each_byte_is_an_edge, setup, teardown),
        cmocka_unit_test_setup_teardown(full_queue_drops_whole_keys, setup, teardown),
        cmocka_unit_test_setup_teardown(keys_that_the_guest_has_not_fetched_are_known, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(mouse_moves_and_clicks, setup, teardown),
        cmocka_unit_test_setup_teardown(mouse_has_a_wheel, setup, teardown),
        cmocka_unit_test_setup_teardown(motion_adds_up_while_nobody_reads, setup, teardown),
        cmocka_unit_test_setup_teardown(reset_line, setup, teardown),
        cmocka_unit_test_setup_teardown(saved_between_the_bytes_of_a_key, setup, teardown),
        cmocka_unit_test_setup_teardown(address_line_20, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
