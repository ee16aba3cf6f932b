/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pins joined on a line, chips that listen, messages that reach the engine. */
#include "machine/fake_engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

struct tap_chip {
    struct irq_chip chip;
    unsigned sets, edges, eois;
    int level[GSI_COUNT];
    int vector;
};

static void tap_set(struct irq_chip *chip, unsigned gsi, bool level)
{
    struct tap_chip *tap = (struct tap_chip *)chip;
    tap->sets++;
    tap->edges += level && !tap->level[gsi];
    tap->level[gsi] = level;
}

static void tap_eoi(struct irq_chip *chip, uint8_t vector)
{
    ((struct tap_chip *)chip)->eois += vector;
}

static int tap_ack(struct irq_chip *chip) { return ((struct tap_chip *)chip)->vector; }

static void test_lines(void **state)
{
    struct machine *m = fake_machine_create(PAGE_SIZE, 1, NULL, NULL);
    struct tap_chip ioapic = { .chip = { .set = tap_set, .eoi = tap_eoi } };
    struct tap_chip pic = { .chip = { .set = tap_set, .ack = tap_ack }, .vector = 0x20 };
    assert_int_equal(extint_ack(m), -1);
    irq_chip_add(m, &ioapic.chip);
    irq_chip_add(m, &pic.chip);

    struct irq_pin a, b, other;
    irq_pin_init(&a, m, 5);
    irq_pin_init(&b, m, 5);
    irq_pin_init(&other, m, 23);
    irq_pin_set(&a, false);
    assert_int_equal(ioapic.sets, 0);
    irq_pin_set(&a, true);
    irq_pin_set(&b, true);
    irq_pin_set(&b, true);
    irq_pin_set(&a, false);
    assert_int_equal(ioapic.sets, 1);
    assert_int_equal(ioapic.level[5], 1);
    irq_pin_pulse(&other);
    assert_int_equal(ioapic.level[23], 0);
    assert_int_equal(ioapic.edges, 2);
    irq_pin_set(&b, false);
    assert_int_equal(ioapic.level[5], 0);
    assert_int_equal(pic.sets, ioapic.sets);

    irq_eoi(m, 0x31);
    assert_int_equal(ioapic.eois, 0x31);
    assert_int_equal(extint_ack(m), 0x20);
    pic.vector = -1;
    assert_int_equal(extint_ack(m), -1);
    irq_chip_remove(m, &ioapic.chip);
    irq_eoi(m, 0x31);
    assert_int_equal(ioapic.eois, 0x31);
    fake_machine_destroy(m);
}

static void test_engine_calls(void **state)
{
    struct machine *m = fake_machine_create(PAGE_SIZE, 1, NULL, NULL);
    msi_send(m, 0xfee01000, 0x4041);
    assert_int_equal(fake_engine(m)->msis, 1);
    assert_int_equal(fake_engine(m)->msi_address, 0xfee01000);
    assert_int_equal(fake_engine(m)->msi_data, 0x4041);
    extint_set(m, true);
    assert_true(fake_engine(m)->extint);
    irq_eoi_watch(m, 3, 0xfee00000, 0x30, true, false); /* this engine has no use for it */
    fake_machine_destroy(m);

    m = fake_machine_create(PAGE_SIZE, 0, NULL, NULL);
    msi_send(m, 0xfee01000, 0x4041);
    extint_set(m, true);
    irq_eoi_watch(m, 3, 0xfee00000, 0x30, true, false);
    fake_machine_destroy(m);
}

/* Many pins on one line from many threads: what the chip saw last is the line's level. */
static void *toggle(void *arg)
{
    struct machine *m = arg;
    struct irq_pin pin;
    irq_pin_init(&pin, m, 9);
    for (unsigned i = 0; i < 5000; i++)
        irq_pin_pulse(&pin);
    return NULL;
}

static void test_threads(void **state)
{
    struct machine *m = fake_machine_create(PAGE_SIZE, 0, NULL, NULL);
    struct tap_chip chip = { .chip = { .set = tap_set } };
    irq_chip_add(m, &chip.chip);
    pthread_t threads[3];
    for (unsigned i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, toggle, m);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(chip.level[9], 0);
    assert_int_equal(chip.sets, 2 * chip.edges); /* changes alternate: none was lost or doubled */
    fake_machine_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_engine_calls),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
