/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The real-time clock: reading and setting the time, alarms and their event of power management,
 * periodic interrupts. */
#include "devices/rtc.h"

#include "devices/pm.h"
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

/* ---- With power management ---- */

enum { RTC_STS = 1 << 10, RTC_EN = 1 << 10 };
static bool sci;

static void see_sci(struct irq_chip *chip, unsigned gsi, bool level)
{
    if (gsi == PM_SCI_GSI)
        __atomic_store_n(&sci, level, __ATOMIC_SEQ_CST);
}

static struct irq_chip sci_listener = { .set = see_sci };

static int setup_with_pm(void **state)
{
    struct err err = { 0 };
    struct device *pm;
    sci = false;
    if (setup(state) < 0 || pm_create(test_machine.m, &pm, &err) < 0)
        return -1;
    irq_chip_add(test_machine.m, &sci_listener);
    rtc_connect_pm(rtc, pm);
    return 0;
}

static bool rtc_status(void) { return in(PM_EVENT_PORT, 2) & RTC_STS; }
static void clear_rtc_status(void) { out(PM_EVENT_PORT, 2, RTC_STS); }

/* 22:13:22, guest time 2 s. */
static void set_alarm(void)
{
    cmos_set(1, 0x22);
    cmos_set(3, 0x13);
    cmos_set(5, 0x22);
}

/* As another process does: its chip is as after power-on when the state comes. */
static void restore_in_new_chip(void)
{
    const struct state_desc *desc = rtc->type->state;
    struct err err = { 0 };
    AUTO(buf_fini) struct buf saved = { 0 };
    uint8_t *regs = (uint8_t *)rtc + desc->base;

    state_encode(desc, regs, &saved);
    rtc->type->reset(rtc);
    assert_int_equal(state_decode(desc, saved.data, saved.len, regs, &err), 0);
    assert_int_equal(rtc->type->loaded(rtc, &err), 0);
}

static void alarm_raises_the_sci(void **state)
{
    set_alarm();
    cmos_set(0x0b, 0x22);
    out(PM_EVENT_PORT + 2, 2, RTC_EN);
    assert_int_equal(in(PM_EVENT_PORT + 2, 2), RTC_EN);
    test_time(1950000000);
    clock_start(test_machine.m); /* nothing reads a register: the clock has to say so by itself */
    for (unsigned i = 0; i < 60000 && !__atomic_load_n(&sci, __ATOMIC_SEQ_CST); i++)
        usleep(1000);
    clock_stop(test_machine.m);
    assert_true(sci);
    assert_true(rtc_status());
    clear_rtc_status();
    assert_false(sci);
}

/* As the ICH9 sets it, whether RTC_EN is set or not. */
static void one_event_for_each_alarm(void **state)
{
    set_alarm();
    cmos_set(0x0b, 0x22);
    test_time(2000000000);
    cmos(0x0a); /* does not look at flags */
    assert_false(rtc_status());
    outb(0x71, 0x26); /* a write does */
    assert_true(rtc_status());
    assert_false(sci);
    out(PM_EVENT_PORT + 2, 2, RTC_EN);
    assert_true(sci);
    clear_rtc_status();
    assert_false(sci);
    restore_in_new_chip(); /* IRQ 8 is up still, register C unread */
    cmos_set(0x40, 1);
    assert_false(rtc_status());
    assert_int_equal(cmos(0x0c) & 0xa0, 0xa0);
    assert_false(rtc_status());
    test_time((2 + 86400) * 1000000000ull);
    assert_int_equal(cmos(0x0c) & 0xa0, 0xa0);
    assert_true(rtc_status());
}

static void no_event_without_the_alarm_interrupt(void **state)
{
    set_alarm();
    cmos_set(0x0b, 0x52); /* PIE, UIE */
    test_time(2500000000);
    cmos_set(0x40, 1);
    assert_int_equal(interrupts, 1);
    assert_false(rtc_status());
    cmos_set(0x0b, 0x72); /* the flag is up, and now it asks for an interrupt, too */
    assert_true(rtc_status());
    clear_rtc_status();
    rtc->type->reset(rtc);
    assert_false(rtc_status());
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
        cmocka_unit_test_setup_teardown(alarm_raises_the_sci, setup_with_pm, teardown),
        cmocka_unit_test_setup_teardown(one_event_for_each_alarm, setup_with_pm, teardown),
        cmocka_unit_test_setup_teardown(no_event_without_the_alarm_interrupt, setup_with_pm,
                                        teardown),
        cmocka_unit_test_setup_teardown(periodic_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(memory_survives_reset, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
