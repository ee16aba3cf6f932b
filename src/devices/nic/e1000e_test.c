/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The e1000e network card, driven as Linux' and iPXE's drivers drive it; then at random. */
#include "devices/nic/e1000e_model.h"

#include "net/offload.h"

#include <poll.h>

enum { TX = 0x1000, RX = 0x2000, BUFFER = 0x10000, RING = 0x100 }; /* 16 descriptors */

static uint32_t get(unsigned at) { return (uint32_t)mmio_read(E1000E_AT + at, 4); }
static void set(unsigned at, uint32_t value) { mmio_write(E1000E_AT + at, 4, value); }

static int setup(void **state)
{
    device_fuzz_begin(&e1000e_model);
    set(0x00, 1 << 26);
    set(0x3800, TX);
    set(0x3808, RING);
    set(0x400, 2);
    set(0x2800, RX);
    set(0x2808, RING);
    set(0x100, 0x04008002); /* on, broadcasts, no check sum */
    return 0;
}

static int teardown(void **state)
{
    device_fuzz_end(&e1000e_model);
    return 0;
}

static void wait_for(unsigned at, uint32_t value)
{
    for (unsigned i = 0; get(at) != value; i++) {
        if (i == 60000)
            fail_msg("register 0x%x stays 0x%x", at, get(at));
        usleep(1000);
    }
}

static size_t from_cable(uint8_t *frame, size_t room)
{
    struct pollfd p = { .fd = e1000e_cable, .events = POLLIN };
    if (poll(&p, 1, 3000) != 1)
        fail_msg("nothing was sent");
    return (size_t)recv(e1000e_cable, frame, room, 0);
}

static void descriptor(uint64_t gpa, uint64_t low, uint32_t flags, uint32_t upper)
{
    mem_write(test_machine.m, gpa, &low, 8);
    mem_write(test_machine.m, gpa + 8, &flags, 4);
    mem_write(test_machine.m, gpa + 12, &upper, 4);
}

static uint32_t word(uint64_t gpa)
{
    uint32_t value = 0;
    mem_read(test_machine.m, gpa, &value, 4);
    return value;
}

static void eeprom_phy_and_link(void **state)
{
    uint16_t sum = 0;
    for (unsigned i = 0; i < 64; i++) {
        set(0x14, i << 2 | 1);
        assert_int_equal(get(0x14) & 2, 2);
        sum = (uint16_t)(sum + (get(0x14) >> 16));
    }
    assert_int_equal(sum, 0xbaba);
    assert_int_equal(get(0x5400), 0x01005452);
    assert_int_equal(get(0x5404), 0x80000302);
    set(0x20, 2u << 26 | 1 << 21 | 2 << 16);
    assert_int_equal(get(0x20) & 0x1000ffff, 0x10000141);
    set(0x20, 2u << 26 | 2 << 21 | 2 << 16); /* another PHY: none */
    assert_int_equal(get(0x20) >> 30, 1);
    assert_int_equal(get(0x08) & 0x83, 0x83);
}

static void sends_legacy_descriptors(void **state)
{
    uint8_t frame[2000], back[2000];
    for (unsigned i = 0; i < sizeof frame; i++)
        frame[i] = (uint8_t)(i * 7);
    mem_write(test_machine.m, BUFFER, frame, 100);
    mem_write(test_machine.m, BUFFER + 0x1000, frame + 100, 900);
    set(0xd0, 1);
    descriptor(TX, BUFFER, 100, 0);
    descriptor(TX + 16, BUFFER + 0x1000, 900 | 0x0b000000, 0);
    set(0x3818, 1); /* the first part alone is no frame */
    fuzz_settle();
    assert_int_equal(get(0x3810), 0);
    fuzz_save_and_restore();
    set(0x3818, 2);
    assert_int_equal(from_cable(back, sizeof back), 1000);
    assert_memory_equal(back, frame, 1000);
    wait_for(0x3810, 2);
    assert_int_equal(word(TX + 28) & 1, 1);
    assert_int_equal(get(0xc0) & 0x80000001, 0x80000001);
    assert_int_equal(get(0xc0), 0); /* reading cleared it */
}

static void cuts_large_segments(void **state)
{
    uint8_t frame[54 + 3000] = { [12] = 8, [14] = 0x45, [22] = 64, [23] = 6 }, back[2000];
    static const uint8_t addresses[8] = { 10, 0, 2, 15, 10, 0, 2, 2 };
    memcpy(frame + 26, addresses, 8);
    frame[46] = 0x50;
    mem_write(test_machine.m, BUFFER, frame, sizeof frame);
    /* Context: IP at 14 with its sum at 24, TCP at 34 with its sum at 50, 54 of headers, MSS 1000.
     */
    descriptor(TX, 14 | 24 << 8 | 33 << 16 | (uint64_t)(34 | 50 << 8) << 32, 3000 | 0x27000000,
               1000u << 16 | 54 << 8);
    descriptor(TX + 16, BUFFER, (uint32_t)sizeof frame | 0x2d100000, 0x300);
    set(0x3818, 2);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(from_cable(back, sizeof back), 1054);
        assert_int_equal(back[16] << 8 | back[17], 1040);
        assert_int_equal(back[38 + 2] << 8 | back[38 + 3], i * 1000);
        assert_int_equal(offload_fold(offload_sum(back + 14, 20, 0)), 0);
        uint8_t pseudo[4] = { 0, 6, 1020 >> 8, 1020 & 0xff };
        uint32_t sum = offload_sum(back + 26, 8, offload_sum(pseudo, 4, 0));
        assert_int_equal(offload_fold(offload_sum(back + 34, 1020, sum)), 0);
    }
    wait_for(0x3810, 2);
}

static void tags_and_receives(void **state)
{
    uint8_t frame[200] = { 255, 255, 255, 255, 255, 255, [12] = 0x08 }, back[200];
    set(0x00, 0x40140041); /* tags are taken out */
    mem_write(test_machine.m, BUFFER, frame, 100);
    descriptor(TX, BUFFER, 100 | 0x4b000000, 5u << 16);
    set(0x3818, 1);
    assert_int_equal(from_cable(back, sizeof back), 104);
    assert_memory_equal(back + 12, "\x81\0\0\5\x08", 5);
    for (unsigned i = 0; i < 16; i++)
        descriptor(RX + 16 * i, BUFFER + 0x1000 * (i + 1), 0, 0);
    assert_int_equal(send(e1000e_cable, back, 104, 0), 104);
    set(0x2818, 8);
    wait_for(0x2810, 1);
    assert_int_equal(word(RX + 8) & 0xffff, 100);
    assert_int_equal(word(RX + 12), 5u << 16 | 0x0b);
    assert_int_equal(word(BUFFER + 0x1000 + 12), 0x08);
    memcpy(back, "\x52\x54\0\1\2\4", 6); /* for another one */
    send(e1000e_cable, back, 104, 0);
    memcpy(back, "\x52\x54\0\1\2\3", 6);
    send(e1000e_cable, back, 104, 0);
    wait_for(0x2810, 2);
    set(0x5008, 0x8000); /* extended descriptors */
    send(e1000e_cable, back, 104, 0);
    wait_for(0x2810, 3);
    assert_int_equal(word(RX + 40), 0x0b);
    assert_int_equal(word(RX + 44), 5u << 16 | 100);
}

static void waits_for_buffers(void **state)
{
    uint8_t frame[100] = { 255, 255, 255, 255, 255, 255 };
    for (unsigned i = 0; i < 16; i++)
        descriptor(RX + 16 * i, BUFFER, 0, 0);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(send(e1000e_cable, frame, sizeof frame, 0), (int)sizeof frame);
    usleep(20000);
    assert_int_equal(get(0x2810), 0);
    set(0x2818, 3);
    wait_for(0x2810, 3);
    set(0x2818, 6);
    wait_for(0x2810, 5);
}

static void messages_by_cause(void **state)
{
    uint64_t table = E1000E_AT + 0x40000;
    for (unsigned i = 0; i < 5; i++) {
        mmio_write(table + 16 * i, 4, 0xfee00000);
        mmio_write(table + 16 * i + 8, 4, 0x40 + i);
        mmio_write(table + 16 * i + 12, 4, 0);
    }
    unsigned cap = pci_config_read(e1000e_bus, 8, 0x34, 1);
    pci_config_write(e1000e_bus, 8, cap + 2, 2, 0x8000);
    set(0xe4, 0x000a0908); /* RXQ0 0, RXQ1 ..., TXQ0 1, OTHER 2 */
    set(0xe4, 2u << 16 | 8u << 16 | 9 << 8 | 8);
    set(0xdc, 0x01500000);
    set(0xd0, 0x01500004);
    set(0xe0, 0xffffffff);
    set(0x18, 1 << 24);
    set(0xc8, 1 << 22);
    assert_int_equal(test_machine.msi_data, 0x41);
    assert_int_equal(get(0xc0) & (1 << 22), 0); /* cleared by itself, and masked */
    assert_int_equal(get(0xd0) & (1 << 22), 0);
    set(0xc8, 1 << 2);
    assert_int_equal(test_machine.msi_data, 0x42);
    assert_int_equal(get(0xd0), 0x00100004); /* the others stay unmasked */
}

static void survives_anything(void **state) { device_fuzz_random(&e1000e_model, 40); }
static void survives_any_state(void **state) { device_fuzz_states(&e1000e_model, 300); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(eeprom_phy_and_link, setup, teardown),
        cmocka_unit_test_setup_teardown(sends_legacy_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(cuts_large_segments, setup, teardown),
        cmocka_unit_test_setup_teardown(tags_and_receives, setup, teardown),
        cmocka_unit_test_setup_teardown(waits_for_buffers, setup, teardown),
        cmocka_unit_test_setup_teardown(messages_by_cause, setup, teardown),
        cmocka_unit_test(survives_anything),
        cmocka_unit_test(survives_any_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
