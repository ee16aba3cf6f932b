/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The floppy controller, driven as SeaBIOS and Linux' floppy driver do; then at random. */
#include "devices/disk/fdc_model.h"

enum { BUFFER = 0x4000 };
static bool irq;

static void see_irq(struct irq_chip *chip, unsigned gsi, bool level)
{
    if (gsi == 6)
        irq = level;
}
static struct irq_chip listener;

static void wait_irq(void)
{
    for (unsigned i = 0; !irq; i++) {
        assert_true(i < 60000);
        usleep(1000);
    }
}

static void command(const uint8_t *bytes, unsigned len)
{
    for (unsigned i = 0; i < len; i++) {
        assert_int_equal(inb(0x3f4) & 0xc0, 0x80);
        outb(0x3f5, bytes[i]);
    }
}
#define COMMAND(...) \
    command((const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static void result(uint8_t *bytes, unsigned len)
{
    for (unsigned i = 0; i < len; i++) {
        assert_int_equal(inb(0x3f4) & 0xd0, 0xd0);
        bytes[i] = inb(0x3f5);
    }
    assert_int_equal(inb(0x3f4), 0x80);
}

static int setup(void **state)
{
    uint8_t st0[2];
    device_fuzz_begin(&fdc_model);
    irq = false;
    listener = (struct irq_chip){ .set = see_irq };
    irq_chip_add(test_machine.m, &listener);
    outb(0x3f2, 0x00);
    outb(0x3f2, 0x1c);
    wait_irq();
    for (unsigned i = 0; i < 4; i++) {
        COMMAND(0x08);
        result(st0, 2);
        assert_int_equal(st0[0], 0xc0 | i);
    }
    assert_false(irq);
    COMMAND(0x03, 0xaf, 0x02);
    return 0;
}

static int teardown(void **state)
{
    device_fuzz_end(&fdc_model);
    return 0;
}

static void dma_set(uint8_t mode, unsigned bytes)
{
    outb(0x0a, 6);
    outb(0x0c, 0);
    outb(0x0b, mode);
    outb(0x04, BUFFER & 0xff);
    outb(0x04, BUFFER >> 8);
    outb(0x81, 0);
    outb(0x05, (bytes - 1) & 0xff);
    outb(0x05, (bytes - 1) >> 8);
    outb(0x0a, 2);
}

static uint32_t word(uint64_t gpa)
{
    uint32_t value = 0;
    mem_read(test_machine.m, gpa, &value, 4);
    return value;
}

static void change_line_and_seeks(void **state)
{
    uint8_t bytes[9];
    struct err err = { 0 };
    assert_int_equal(inb(0x3f7), 0x80);
    COMMAND(0x07, 0);
    wait_irq();
    COMMAND(0x08);
    result(bytes, 2);
    assert_int_equal(bytes[0], 0x20);
    assert_int_equal(inb(0x3f7), 0);
    COMMAND(0x0f, 0, 40);
    COMMAND(0x08);
    result(bytes, 2);
    assert_int_equal(bytes[1], 40);
    COMMAND(0x04, 0);
    result(bytes, 1);
    assert_int_equal(bytes[0], 0x28);
    COMMAND(0x10);
    result(bytes, 1);
    assert_int_equal(bytes[0], 0x90);
    assert_int_equal(fdc_eject(fdc_dev, 0, &err), 0);
    assert_int_equal(fdc_eject(fdc_dev, 0, &err), -ENOMEDIUM);
    assert_int_equal(inb(0x3f7), 0x80);
    assert_int_equal(fdc_insert(fdc_dev, 0, fdc_node, false, &err), 0);
    COMMAND(0x08);
    result(bytes, 1);
    assert_int_equal(bytes[0], 0x80);
    COMMAND(0x1f);
    result(bytes, 1);
    assert_int_equal(bytes[0], 0x80);
}

/* Cylinder 0, head 1, sector 1 is the 19th: image byte 9216. */
static void reads_across_heads(void **state)
{
    uint8_t bytes[7];
    dma_set(0x46, 18 * 512);
    COMMAND(0xe6, 0, 0, 0, 7, 2, 18, 0x1b, 0xff); /* from sector 7 on, both sides */
    wait_irq();
    result(bytes, 7);
    assert_memory_equal(bytes, ((uint8_t[]){ 0, 0, 0, 0, 1, 7, 2 }), 7);
    assert_false(irq);
    assert_int_equal(word(BUFFER + 1024), 4096); /* the 9th sector */
    assert_int_equal(word(BUFFER + 1024 + 4096), 8192);
    assert_int_equal(inb(0x08) & 4, 4); /* terminal count */
}

/* Of the sector that this test writes to. */
static uint32_t first_word(void)
{
    uint8_t bytes[7];
    dma_set(0x46, 512);
    COMMAND(0x46, 0, 3, 0, 5, 2, 18, 0x1b, 0xff);
    wait_irq();
    result(bytes, 7);
    return word(BUFFER);
}

static void writes_and_formats(void **state)
{
    uint8_t bytes[7];
    mem_write(test_machine.m, BUFFER, "floppy", 6);
    dma_set(0x4a, 512);
    COMMAND(0xc5, 0, 3, 0, 5, 2, 18, 0x1b, 0xff);
    wait_irq();
    result(bytes, 7);
    assert_int_equal(bytes[0], 0);
    assert_int_equal(first_word(), 0x706f6c66);
    for (unsigned i = 0; i < 18; i++) {
        uint8_t about[4] = { 3, 0, (uint8_t)(i + 1), 2 };
        mem_write(test_machine.m, BUFFER + 4 * i, about, 4);
    }
    dma_set(0x4a, 72);
    COMMAND(0x4d, 0, 2, 18, 0x54, 0xf6);
    wait_irq();
    result(bytes, 7);
    assert_int_equal(bytes[0], 0);
    assert_int_equal(first_word(), 0xf6f6f6f6);
}

static void tells_what_is_wrong(void **state)
{
    uint8_t bytes[7];
    dma_set(0x46, 512);
    COMMAND(0x46, 0, 0, 0, 19, 2, 19, 0x1b, 0xff); /* no such sector */
    wait_irq();
    result(bytes, 7);
    assert_int_equal(bytes[0], 0x40);
    assert_int_equal(bytes[1], 0x04);
    COMMAND(0x4a, 0); /* what is under the head */
    wait_irq();
    result(bytes, 7);
    assert_int_equal(bytes[0], 0);
    COMMAND(0x46, 1, 0, 0, 1, 2, 18, 0x1b, 0xff); /* no second drive */
    wait_irq();
    result(bytes, 7);
    assert_int_equal(bytes[0], 0x49);
    dma_set(0x46, 1024);
    COMMAND(0x46, 0, 0, 0, 18, 2, 18, 0x1b, 0xff); /* the track ends before the count */
    wait_irq();
    result(bytes, 7);
    assert_int_equal(bytes[1], 0x80);
}

static void restored_transfers_end(void **state)
{
    uint8_t bytes[7];
    for (unsigned i = 0; i < 10; i++) {
        uint32_t nothing = 0;
        mem_write(test_machine.m, BUFFER + 512, &nothing, 4);
        dma_set(0x46, 1024);
        COMMAND(0x46, 0, 0, 0, 8, 2, 18, 0x1b, 0xff);
        fuzz_save_and_restore();
        wait_irq();
        result(bytes, 7);
        assert_int_equal(bytes[0], 0);
        assert_int_equal(word(BUFFER + 512), 4096);
    }
    COMMAND(0x08 + 0x08); /* VERSION, saved before it is read */
    fuzz_save_and_restore();
    result(bytes, 1);
    assert_int_equal(bytes[0], 0x90);
}

static void survives_anything(void **state) { device_fuzz_random(&fdc_model, 40); }
static void survives_any_state(void **state) { device_fuzz_states(&fdc_model, 300); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(change_line_and_seeks, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_across_heads, setup, teardown),
        cmocka_unit_test_setup_teardown(writes_and_formats, setup, teardown),
        cmocka_unit_test_setup_teardown(tells_what_is_wrong, setup, teardown),
        cmocka_unit_test_setup_teardown(restored_transfers_end, setup, teardown),
        cmocka_unit_test(survives_anything),
        cmocka_unit_test(survives_any_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
