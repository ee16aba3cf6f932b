/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The IDE channels, driven as SeaBIOS and Linux' ata_piix drive them; then at random. */
#include "devices/disk/ide_model.h"

#include <unistd.h>

enum { FIRST = 0x1f0, SECOND = 0x170, BUFFER = 0x4000, TABLE = 0x3000 };
static bool irq[2];

static void see_irq(struct irq_chip *chip, unsigned gsi, bool level)
{
    if (gsi == 14 || gsi == 15)
        irq[gsi - 14] = level;
}
static struct irq_chip listener;

static int setup(void **state)
{
    device_fuzz_begin(&ide_model);
    listener = (struct irq_chip){ .set = see_irq };
    irq_chip_add(test_machine.m, &listener);
    return 0;
}

static int teardown(void **state)
{
    device_fuzz_end(&ide_model);
    return 0;
}

static uint8_t wait_status(unsigned base)
{
    for (unsigned i = 0; i < 60000; i++) {
        uint8_t status = inb(base + 0x206);
        if (!(status & 0x80))
            return inb(base + 7);
        usleep(1000);
    }
    fail_msg("it stays busy");
    return 0;
}

static void command(unsigned base, uint8_t device, uint32_t lba, unsigned count, uint8_t cmd)
{
    outb(base + 6, (uint8_t)(device | (lba >> 24 & 15)));
    outb(base + 2, count);
    outb(base + 3, lba & 0xff);
    outb(base + 4, lba >> 8 & 0xff);
    outb(base + 5, lba >> 16 & 0xff);
    outb(base + 7, cmd);
}

static void data_in(unsigned base, uint8_t *data, unsigned len)
{
    for (unsigned i = 0; i < len; i += 2) {
        uint16_t value = (uint16_t)in(base, 2);
        memcpy(data + i, &value, 2);
    }
}

static void identifies(void **state)
{
    uint8_t sector[512];
    command(FIRST, 0xa0, 0, 0, 0xec);
    assert_int_equal(wait_status(FIRST), 0x58);
    data_in(FIRST, sector, 512);
    assert_memory_equal(sector + 20, "idks 0", 6);
    assert_int_equal(inb(FIRST + 7), 0x50);
    command(FIRST, 0xb0, 0, 0, 0xec); /* there is no slave */
    assert_int_equal(inb(FIRST + 7), 0);
    command(SECOND, 0xb0, 0, 0, 0xec);
    assert_int_equal(wait_status(SECOND) & 1, 1);
    assert_int_equal(inb(SECOND + 4), 0x14);
    assert_int_equal(inb(SECOND + 5), 0xeb);
    command(SECOND, 0xb0, 0, 0, 0xa1);
    assert_int_equal(wait_status(SECOND), 0x58);
    data_in(SECOND, sector, 512);
    assert_int_equal(sector[1], 0x85);
}

static void pio_by_sectors_and_blocks(void **state)
{
    uint8_t data[16 * 512];
    uint32_t place;
    command(FIRST, 0xe0, 0, 16, 0x20);
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(wait_status(FIRST), 0x58);
        data_in(FIRST, data + i * 512, 512);
    }
    memcpy(&place, data + 4096, 4);
    assert_int_equal(place, 4096);
    command(FIRST, 0xe0, 0, 8, 0xc6); /* eight sectors a block */
    wait_status(FIRST);
    command(FIRST, 0xe0, 8, 16, 0xc4);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(wait_status(FIRST), 0x58);
        data_in(FIRST, data + i * 4096, 4096);
    }
    memcpy(&place, data + 4096, 4);
    assert_int_equal(place, 8192);
    command(FIRST, 0xe0, 5, 2, 0x30);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(wait_status(FIRST), 0x58);
        assert_int_equal(irq[0], false);
        for (unsigned j = 0; j < 256; j++)
            out(FIRST, 2, 0x1000 * i + j);
        while (!irq[0])
            usleep(100);
    }
    assert_int_equal(wait_status(FIRST), 0x50);
    command(FIRST, 0xe0, 6, 1, 0x20);
    assert_int_equal(wait_status(FIRST), 0x58);
    data_in(FIRST, data, 512);
    memcpy(&place, data, 4);
    assert_int_equal(place, 0x10011000);
}

static void dma(unsigned base, unsigned bm, uint8_t direction, uint32_t bytes)
{
    uint32_t prds[4] = { BUFFER, 512, BUFFER + 512, (bytes - 512) | 1u << 31 };
    mem_write(test_machine.m, TABLE, prds, sizeof prds);
    out(bm + 4, 4, TABLE);
    outb(bm + 2, 0x66);
    outb(bm, direction);
    outb(bm, direction | 1);
    for (unsigned i = 0; !(inb(bm + 2) & 4); i++) {
        assert_true(i < 60000);
        usleep(1000);
    }
    assert_int_equal(inb(bm + 2) & 3, 0);
    outb(bm, 0);
}

static void bus_master_dma(void **state)
{
    uint32_t place = 0;
    command(FIRST, 0xe0, 8, 8, 0xc8);
    dma(FIRST, IDE_BM, 8, 4096);
    assert_true(irq[0]);
    assert_int_equal(wait_status(FIRST), 0x50);
    assert_false(irq[0]);
    mem_read(test_machine.m, BUFFER, &place, 4);
    assert_int_equal(place, 4096);
    command(FIRST, 0xe0, 16, 8, 0xca);
    dma(FIRST, IDE_BM, 0, 4096);
    command(FIRST, 0xe0, 16, 1, 0x20);
    assert_int_equal(wait_status(FIRST), 0x58);
    assert_int_equal(in(FIRST, 4), 4096);
}

static uint8_t packet(const uint8_t bytes[12], unsigned features, unsigned limit)
{
    outb(SECOND + 6, 0xb0);
    outb(SECOND + 1, features);
    outb(SECOND + 4, limit & 0xff);
    outb(SECOND + 5, limit >> 8);
    outb(SECOND + 7, 0xa0);
    assert_int_equal(wait_status(SECOND), 0x58);
    assert_int_equal(inb(SECOND + 2), 1);
    for (unsigned i = 0; i < 12; i += 2)
        out(SECOND, 2, bytes[i] | bytes[i + 1] << 8);
    return features & 1 ? 0 : wait_status(SECOND);
}
#define PACKET(f, l, ...) packet((const uint8_t[12]){ __VA_ARGS__ }, f, l)

static void packets_in_slices(void **state)
{
    uint8_t data[4096];
    uint32_t place;
    assert_int_equal(PACKET(0, 0, 0), 0x51); /* unit attention */
    assert_int_equal(inb(SECOND + 1) >> 4, 6);
    assert_int_equal(PACKET(0, 0, 0), 0x50);
    assert_int_equal(PACKET(0, 1000, 0x28, 0, 0, 0, 0, 2, 0, 0, 2), 0x58);
    for (unsigned at = 0; at < 4096;) {
        unsigned slice = inb(SECOND + 4) | inb(SECOND + 5) << 8;
        assert_int_equal(slice, at < 4000 ? 1000 : 96);
        assert_int_equal(inb(SECOND + 2), 2);
        data_in(SECOND, data + at, slice);
        at += slice;
        assert_int_equal(wait_status(SECOND), at < 4096 ? 0x58 : 0x50);
    }
    assert_int_equal(inb(SECOND + 2), 3);
    memcpy(&place, data, 4);
    assert_int_equal(place, 4096);
    PACKET(1, 0, 0x28, 0, 0, 0, 0, 4, 0, 0, 2);
    dma(SECOND, IDE_BM + 8, 8, 4096);
    mem_read(test_machine.m, BUFFER, &place, 4);
    assert_int_equal(place, 8192);
}

static void resets_while_it_works(void **state)
{
    for (unsigned i = 0; i < 50; i++) {
        command(FIRST, 0xe0, 8, 8, i % 2 ? 0x20 : 0x24);
        outb(FIRST + 0x206, 0x04);
        assert_int_equal(inb(FIRST + 0x206), 0x80);
        outb(FIRST + 0x206, 0x00);
        assert_int_equal(wait_status(FIRST), 0x50);
        assert_int_equal(inb(FIRST + 1), 1);
    }
}

/* A command that was under way when the state was saved ends all the same. */
static void restored_commands_end(void **state)
{
    uint8_t data[512];
    for (unsigned i = 0; i < 20; i++) {
        command(FIRST, 0xe0, 8, 2, 0x20);
        fuzz_save_and_restore();
        assert_int_equal(wait_status(FIRST), 0x58);
        data_in(FIRST, data, 100);
        fuzz_save_and_restore();
        data_in(FIRST, data, 412);
        assert_int_equal(wait_status(FIRST), 0x58);
        data_in(FIRST, data, 512);
        assert_int_equal(wait_status(FIRST), 0x50);
        command(FIRST, 0xe0, 8, 8, 0xc8);
        fuzz_save_and_restore();
        dma(FIRST, IDE_BM, 8, 4096);
    }
}

static void survives_anything(void **state) { device_fuzz_random(&ide_model, 60); }
static void survives_any_state(void **state) { device_fuzz_states(&ide_model, 300); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(identifies, setup, teardown),
        cmocka_unit_test_setup_teardown(pio_by_sectors_and_blocks, setup, teardown),
        cmocka_unit_test_setup_teardown(bus_master_dma, setup, teardown),
        cmocka_unit_test_setup_teardown(packets_in_slices, setup, teardown),
        cmocka_unit_test_setup_teardown(resets_while_it_works, setup, teardown),
        cmocka_unit_test_setup_teardown(restored_commands_end, setup, teardown),
        cmocka_unit_test(survives_anything),
        cmocka_unit_test(survives_any_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
