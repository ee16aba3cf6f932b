/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The real-time clock: reading and setting the time, alarms, periodic interrupts. */
#include "devices/rtc.h"

#include "devices/test_machine.h"

#include <unistd.h>

static struct device *rtc;
static unsigned interrupts;

static void count_irq(struct irq_chip *chip, unsigned gsi, bool level)
{
    if (gsi == 8 && level)
        __atomic_add_fetch(&interrupts, 1, __ATOMIC_SEQ_CST);
}

static struct irq_chip listener = { .set = count_irq };

static int setup(void **state)
{
    struct err err = { 0 };
    struct machine *m = test_machine_create(4 << 20);
    interrupts = 0;
    irq_chip_add(m, &listener);
    /* 2023-11-14 22:13:20 UTC, a Tuesday, is guest time 0 */
    return rtc_create(m, &rtc, &err);
}

static int teardown(void **state)
{
    test_machine_destroy();
    return 0;
}

static uint8_t cmos(unsigned index)
{
    outb(0x70, index);
    return inb(0x71);
}

static void cmos_set(unsigned index, unsigned value)
{
    outb(0x70, index);
    outb(0x71, value);
}

static void shows_the_time(void **state)
{
    assert_int_equal(cmos(0), 0x21);
    assert_int_equal(cmos(2), 0x13);
    assert_int_equal(cmos(4), 0x22);
    assert_int_equal(cmos(6), 3);
    assert_int_equal(cmos(7), 0x14);
    assert_int_equal(cmos(8), 0x11);
    assert_int_equal(cmos(9), 0x23);
    assert_int_equal(cmos(0x32), 0x20);
    assert_int_equal(cmos(0x0d), 0x80);
    cmos_set(0x0b, 0x04); /* binary, 12 hours */
    assert_int_equal(cmos(4), 0x8a);
    assert_int_equal(cmos(2), 13);
}

static void update_in_progress(void **state)
{
    assert_int_equal(cmos(0x0a) & 0x80, 0);
    test_time(1999800000);
    assert_int_equal(cmos(0x0a) & 0x80, 0x80);
    test_time(2000000000);
    assert_int_equal(cmos(0x0a) & 0x80, 0);
    assert_int_equal(cmos(0), 0x22);
}

static void keeps_a_set_time(void **state)
{
    cmos_set(0x0b, 0x82); /* SET */
    cmos_set(0, 0x59);
    cmos_set(2, 0x59);
    cmos_set(4, 0x23);
    cmos_set(7, 0x28);
    cmos_set(8, 0x02);
    cmos_set(9, 0x24);
    cmos_set(0x32, 0x20);
    test_time(60000000000);
    assert_int_equal(cmos(0), 0x59); /* stands still */
    cmos_set(0x0b, 0x02);
    assert_int_equal(cmos(4), 0x23);
    test_time(61000000000);
    assert_int_equal(cmos(0), 0x00);
    assert_int_equal(cmos(4), 0x00);
    assert_int_equal(cmos(7), 0x29); /* a leap year */
    assert_int_equal(cmos(6), 5);
    test_round_trip(rtc);
    assert_int_equal(cmos(7), 0x29);
}

static void flags_without_interrupts(void **state)
{
    cmos(0x0c);
    assert_int_equal(cmos(0x0c) & 0x10, 0);
    test_time(2000000000);
    assert_int_equal(cmos(0x0c) & 0x90, 0x10);
    cmos_set(1, 0x25);
    cmos_set(3, 0x13);
    cmos_set(5, 0xff); /* any hour */
    test_time(4000000000);
    assert_int_equal(cmos(0x0c) & 0x20, 0);
    test_time(5000000000);
    assert_int_equal(cmos(0x0c) & 0x20, 0x20);
    assert_int_equal(interrupts, 0);
}

static void wait_for_interrupt(unsigned most_ms)
{
    clock_start(test_machine.m);
    for (unsigned i = 0; i < most_ms && !__atomic_load_n(&interrupts, __ATOMIC_SEQ_CST); i++)
        usleep(1000);
    clock_stop(test_machine.m);
    assert_int_equal(interrupts, 1);
}

static void update_interrupt(void **state)
{
    test_time(1950000000);
    cmos_set(0x0b, 0x12);
    wait_for_interrupt(60000);
    assert_int_equal(cmos(0x0c) & 0x90, 0x90);
    assert_int_equal(cmos(0x0c) & 0x80, 0);
}

static void alarm_interrupt(void **state)
{
    test_time(1950000000);
    cmos_set(1, 0x22);
    cmos_set(3, 0x13);
    cmos_set(5, 0x22);
    cmos_set(0x0b, 0x22);
    wait_for_interrupt(60000);
    assert_int_equal(cmos(0x0c) & 0xa0, 0xa0);
}

static void periodic_interrupt(void **state)
{
    cmos_set(0x0a, 0x2d); /* 8 Hz */
    cmos_set(0x0b, 0x42);
    wait_for_interrupt(60000);
    assert_int_equal(cmos(0x0c) & 0xc0, 0xc0);
}

static void memory_survives_reset(void **state)
{
    rtc_set_cmos(rtc, 0x34, 0xab);
    cmos_set(0x40, 0xcd);
    cmos_set(0x0b, 0x72);
    rtc->type->reset(rtc);
    assert_int_equal(cmos(0x34), 0xab);
    assert_int_equal(cmos(0x40), 0xcd);
    assert_int_equal(cmos(0x0b), 0x02);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(shows_the_time, setup, teardown),
        cmocka_unit_test_setup_teardown(update_in_progress, setup, teardown),
        cmocka_unit_test_setup_teardown(keeps_a_set_time, setup, teardown),
        cmocka_unit_test_setup_teardown(flags_without_interrupts, setup, teardown),
        cmocka_unit_test_setup_teardown(update_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(alarm_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(periodic_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(memory_survives_reset, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
