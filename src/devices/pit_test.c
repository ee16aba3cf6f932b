/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The PIT, driven as Linux does: calibration on channel 2, ticks on channel 0. */
#include "devices/pit.h"

#include "devices/test_machine.h"

#include <unistd.h>

static unsigned ticks;

static void count_tick(struct irq_chip *chip, unsigned gsi, bool level)
{
    if (gsi == 0 && level)
        __atomic_add_fetch(&ticks, 1, __ATOMIC_SEQ_CST);
}

static struct irq_chip listener = { .set = count_tick };

static int setup(void **state)
{
    struct err err = { 0 };
    struct machine *m = test_machine_create(4 << 20);
    ticks = 0;
    irq_chip_add(m, &listener);
    return pit_create(m, &err);
}

static int teardown(void **state)
{
    test_machine_destroy();
    return 0;
}

static uint64_t ns(uint64_t pit_ticks) { return (pit_ticks * 1000000000 + PIT_HZ - 1) / PIT_HZ; }

static unsigned read_count(unsigned port)
{
    unsigned low = inb(port);
    return low | (unsigned)inb(port) << 8;
}

/* pit_calibrate_tsc: one-shot on channel 2, then wait for its output in port 0x61. */
static void calibration(void **state)
{
    outb(0x61, (inb(0x61) & ~0x02u) | 0x01);
    outb(0x43, 0xb0);
    outb(0x42, 0x9b);
    outb(0x42, 0x2e); /* 11931: 10 ms */
    assert_int_equal(inb(0x61) & 0x21, 0x01);
    test_time(1000000000 + ns(11930));
    assert_int_equal(inb(0x61) & 0x20, 0);
    test_time(1000000000 + ns(11931));
    assert_int_equal(inb(0x61) & 0x20, 0x20);
}

/* quick_pit_calibrate reads the high byte of the counter as it falls. */
static void counter_falls(void **state)
{
    outb(0x61, 0x01);
    outb(0x43, 0xb0);
    outb(0x42, 0xff);
    outb(0x42, 0xff);
    test_time(1000000000 + ns(0x100));
    assert_int_equal(inb(0x42), 0xff);
    assert_int_equal(inb(0x42), 0xfe);
    test_time(1000000000 + ns(0x10100));
    inb(0x42);
    assert_int_equal(inb(0x42), 0xfe); /* wrapped */
}

static void latches_and_read_back(void **state)
{
    outb(0x43, 0x34);                  /* channel 0, both bytes, rate generator */
    outb(0x43, 0xe2);                  /* status of channel 0 */
    assert_int_equal(inb(0x40), 0xf4); /* output high, null count */
    outb(0x40, 0x00);
    outb(0x40, 0x10);
    test_time(1000000000 + ns(1));
    outb(0x43, 0x00); /* latch */
    test_time(1000000000 + ns(500));
    assert_int_equal(inb(0x40), 0xff);
    assert_int_equal(inb(0x40), 0x0f);
    outb(0x43, 0xc2); /* count and status */
    assert_int_equal(inb(0x40), 0xb4);
    assert_int_equal(read_count(0x40), 0x1000 - 500);
}

static void square_wave_and_bcd(void **state)
{
    outb(0x61, 0x01);
    outb(0x43, 0xb7); /* channel 2, square wave, BCD */
    outb(0x42, 0x00);
    outb(0x42, 0x01); /* 100 */
    test_time(1000000000 + ns(10));
    assert_int_equal(inb(0x61) & 0x20, 0x20);
    assert_int_equal(read_count(0x42), 0x80);
    test_time(1000000000 + ns(60));
    assert_int_equal(inb(0x61) & 0x20, 0);
}

static void gate_stops_and_goes_on(void **state)
{
    outb(0x61, 0x01);
    outb(0x43, 0xb0);
    outb(0x42, 0xe8);
    outb(0x42, 0x03); /* 1000 */
    test_time(1000000000 + ns(400));
    outb(0x61, 0x00);
    test_time(2000000000);
    assert_int_equal(inb(0x61) & 0x20, 0);
    outb(0x61, 0x01);
    test_time(2000000000 + ns(590));
    assert_int_equal(inb(0x61) & 0x20, 0);
    test_time(2000000000 + ns(601));
    assert_int_equal(inb(0x61) & 0x20, 0x20);
}

static void refresh_toggles(void **state)
{
    uint8_t first = inb(0x61);
    test_time(1000000000 + 15085);
    assert_int_equal((first ^ inb(0x61)) & 0x10, 0x10);
}

static void periodic_interrupt(void **state)
{
    outb(0x43, 0x34);
    outb(0x40, 0xa9);
    outb(0x40, 0x04); /* 1 kHz */
    unsigned before = __atomic_load_n(&ticks, __ATOMIC_SEQ_CST);
    clock_start(test_machine.m);
    for (unsigned i = 0; i < 60000 && __atomic_load_n(&ticks, __ATOMIC_SEQ_CST) < before + 10; i++)
        usleep(1000);
    clock_stop(test_machine.m);
    assert_true(ticks >= before + 10);
    test_round_trip(machine_find_device(test_machine.m, "pit"));
}

static void one_shot_interrupt(void **state)
{
    outb(0x43, 0x30); /* output low until the count ends */
    outb(0x40, 0xff);
    outb(0x40, 0x01);
    unsigned before = __atomic_load_n(&ticks, __ATOMIC_SEQ_CST);
    clock_start(test_machine.m);
    for (unsigned i = 0; i < 60000 && __atomic_load_n(&ticks, __ATOMIC_SEQ_CST) == before; i++)
        usleep(1000);
    usleep(5000);
    clock_stop(test_machine.m);
    assert_int_equal(ticks, before + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(calibration, setup, teardown),
        cmocka_unit_test_setup_teardown(counter_falls, setup, teardown),
        cmocka_unit_test_setup_teardown(latches_and_read_back, setup, teardown),
        cmocka_unit_test_setup_teardown(square_wave_and_bcd, setup, teardown),
        cmocka_unit_test_setup_teardown(gate_stops_and_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(refresh_toggles, setup, teardown),
        cmocka_unit_test_setup_teardown(periodic_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(one_shot_interrupt, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
