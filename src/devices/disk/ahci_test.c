/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The SATA controller, driven as Linux' ahci driver does; then at random. */
#include "devices/disk/ahci_model.h"

#include <unistd.h>

enum { PORT = AHCI_AT + 0x100, PORT_STEP = 0x80 };
enum { LIST = 0x1000, FIS = 0x2000, TABLES = 0x3000, TABLE_STEP = 0x200, BUFFER = 0x10000 };
enum { PxIS = 0x10, CMD = 0x18, TFD = 0x20, SIG = 0x24, SSTS = 0x28, SCTL = 0x2c, SERR = 0x30 };
enum { SACT = 0x34, CI = 0x38 };

static uint32_t reg(unsigned port, unsigned at)
{
    return (uint32_t)mmio_read(PORT + port * PORT_STEP + at, 4);
}
static void set(unsigned port, unsigned at, uint32_t value)
{
    mmio_write(PORT + port * PORT_STEP + at, 4, value);
}

static void wait_for(unsigned port, unsigned at, uint32_t mask, uint32_t value)
{
    for (unsigned i = 0; i < 60000; i++) {
        if ((reg(port, at) & mask) == value)
            return;
        usleep(1000);
    }
    fail_msg("register 0x%x of port %u stays 0x%x", at, port, reg(port, at));
}

/* The FIS with the signature is in memory; it sets no flag. */
static void wait_for_signature(unsigned port)
{
    enum { AT_D2H = 0x40, D2H = 0x34 };
    for (unsigned i = 0; i < 60000; i++) {
        uint8_t type = 0;
        mem_read(test_machine.m, FIS + port * 0x100 + AT_D2H, &type, 1);
        if (type == D2H) {
            assert_int_equal(reg(port, PxIS) & 1, 0);
            return;
        }
        usleep(1000);
    }
    fail_msg("port %u posts no signature", port);
}

static void port_start(unsigned port)
{
    mem_write(test_machine.m, FIS + port * 0x100 + 0x40, "", 1);
    set(port, 0x00, LIST + port * 0x400);
    set(port, 0x08, FIS + port * 0x100);
    set(port, CMD, 0x16);
    set(port, CMD, 0x17);
    set(port, 0x14, 0xffffffff);
    wait_for_signature(port);
    set(port, PxIS, 0xffffffff);
    set(port, SERR, 0xffffffff);
}

static int setup(void **state)
{
    device_fuzz_begin(&ahci_model);
    mmio_write(AHCI_AT + 4, 4, 0x80000002);
    port_start(0);
    port_start(1);
    return 0;
}

static int teardown(void **state)
{
    device_fuzz_end(&ahci_model);
    return 0;
}

struct command {
    uint8_t command, device;
    uint16_t features, count;
    uint64_t lba;
    uint8_t packet[12];
    bool write;
    uint32_t bytes; /* in two pieces, the first of them 512 bytes where there is more */
};

static void put(unsigned port, unsigned slot, const struct command *c)
{
    uint8_t table[0x80] = { 0x27, 0x80, c->command, (uint8_t)c->features };
    uint64_t at = TABLES + (port * 32 + slot) * TABLE_STEP;
    uint32_t first = c->bytes > 512 ? 512 : c->bytes, rest = c->bytes - first;
    uint32_t count = (first != 0) + (rest != 0);
    uint32_t header[8] = { 5 | count << 16 | (c->write ? 0x40 : 0), 0, (uint32_t)at };
    uint32_t prds[8] = { BUFFER, 0, 0, first - 1, BUFFER + first, 0, 0, (rest - 1) | 1u << 31 };
    for (unsigned i = 0; i < 3; i++) {
        table[4 + i] = (uint8_t)(c->lba >> 8 * i);
        table[8 + i] = (uint8_t)(c->lba >> (24 + 8 * i));
    }
    table[7] = c->device;
    table[11] = (uint8_t)(c->features >> 8);
    table[12] = (uint8_t)c->count;
    table[13] = (uint8_t)(c->count >> 8);
    memcpy(table + 0x40, c->packet, 12);
    mem_write(test_machine.m, LIST + port * 0x400 + slot * 32, header, sizeof header);
    mem_write(test_machine.m, at, table, sizeof table);
    mem_write(test_machine.m, at + 0x80, prds, count * 16);
}

/* Answers status and error as the task file has them. */
static uint32_t run(unsigned port, struct command c)
{
    put(port, 0, &c);
    set(port, CI, 1);
    wait_for(port, PxIS, 1, 1);
    return reg(port, TFD);
}

static void ok(unsigned port, struct command c)
{
    uint32_t tfd = run(port, c);
    if (tfd & 1)
        fail_msg("command 0x%02x/0x%02x ends with 0x%x", c.command, c.packet[0], tfd);
    wait_for(port, CI, 1, 0);
    set(port, PxIS, 0xffffffff);
}

/* A failed command halts the port until it is started again. */
static void restart(unsigned port)
{
    set(port, CMD, 0x16);
    wait_for(port, CMD, 0x8000, 0);
    set(port, PxIS, 0xffffffff);
    set(port, CMD, 0x17);
}

static uint32_t word(uint64_t gpa)
{
    uint32_t value = 0;
    mem_read(test_machine.m, gpa, &value, 4);
    return value;
}

static void identifies_both(void **state)
{
    assert_int_equal(mmio_read(AHCI_AT + 0x0c, 4), 0x3f);
    assert_int_equal(reg(0, SIG), 0x101);
    assert_int_equal(reg(1, SIG), 0xeb140101);
    assert_int_equal(reg(0, SSTS), 0x123);
    assert_int_equal(reg(2, SSTS), 0);
    ok(0, (struct command){ .command = 0xec, .bytes = 512 });
    assert_int_equal(word(BUFFER + 200), (1 << 20) / 512); /* words 100 and 101 */
    assert_int_equal(word(LIST + 4), 512);                 /* PRDBC */
    uint8_t sum = 0, sector[512];
    mem_read(test_machine.m, BUFFER, sector, sizeof sector);
    for (unsigned i = 0; i < 512; i++)
        sum = (uint8_t)(sum + sector[i]);
    assert_int_equal(sum, 0);
    assert_memory_equal(sector + 20, "idks 0", 6);
    ok(1, (struct command){ .command = 0xa1, .bytes = 512 });
    assert_int_equal(run(1, (struct command){ .command = 0xec, .bytes = 512 }) & 0x4ff, 0x451);
}

static void reads_and_writes(void **state)
{
    ok(0,
       (struct command){ .command = 0x25, .device = 0x40, .lba = 16, .count = 16, .bytes = 8192 });
    assert_int_equal(word(BUFFER), 8192);
    assert_int_equal(word(BUFFER + 4096), 12288);
    mem_write(test_machine.m, BUFFER, "new content", 12);
    ok(0,
       (struct command){
           .command = 0x35, .device = 0x40, .lba = 3, .count = 2, .bytes = 1024, .write = true });
    ok(0, (struct command){ .command = 0xea });
    mem_write(test_machine.m, BUFFER, "something else", 15);
    ok(0, (struct command){ .command = 0x20, .device = 0x40, .lba = 3, .count = 1, .bytes = 512 });
    assert_int_equal(word(BUFFER), 0x2077656e);
    /* cylinder 0, head 0, sector 4 is the same */
    mem_write(test_machine.m, BUFFER, "something else", 15);
    ok(0, (struct command){ .command = 0xc8, .lba = 4, .count = 1, .bytes = 512 });
    assert_int_equal(word(BUFFER), 0x2077656e);
}

static void queued_commands(void **state)
{
    for (unsigned slot = 0; slot < 32; slot++) {
        struct command c = { .command = 0x60,
                             .device = 0x40,
                             .lba = slot * 8,
                             .features = 8,
                             .count = (uint16_t)(slot << 3),
                             .bytes = 4096 };
        put(0, slot, &c);
    }
    set(0, SACT, 0xffffffff);
    set(0, CI, 0xffffffff);
    wait_for(0, SACT, 0xffffffff, 0);
    assert_int_equal(reg(0, CI), 0);
    assert_int_equal(reg(0, PxIS) & 8, 8);
    /* Past the end: the log tells which one. */
    struct command bad = { .command = 0x60,
                           .device = 0x40,
                           .lba = 1 << 20,
                           .features = 8,
                           .count = 5 << 3,
                           .bytes = 4096 };
    put(0, 5, &bad);
    set(0, SACT, 1 << 5);
    set(0, CI, 1 << 5);
    wait_for(0, PxIS, 1 << 30, 1 << 30);
    restart(0);
    ok(0, (struct command){ .command = 0x2f, .lba = 0x10, .count = 1, .bytes = 512 });
    assert_int_equal(word(BUFFER) & 0xff, 0x80); /* refused before it was queued */
}

static void trims(void **state)
{
    uint64_t range = 8 | 8ull << 48;
    ok(0, (struct command){ .command = 0xc8, .device = 0x40, .lba = 8, .count = 1, .bytes = 512 });
    assert_int_equal(word(BUFFER), 4096);
    uint8_t zeros[512] = { 0 };
    mem_write(test_machine.m, BUFFER, zeros, sizeof zeros);
    mem_write(test_machine.m, BUFFER, &range, sizeof range);
    ok(0, (struct command){ .command = 0x06,
                            .device = 0x40,
                            .features = 1,
                            .count = 1,
                            .bytes = 512,
                            .write = true });
    ok(0, (struct command){ .command = 0xc8, .device = 0x40, .lba = 8, .count = 1, .bytes = 512 });
    assert_int_equal(word(BUFFER), 0);
    range = (1 << 20) | 8ull << 48;
    mem_write(test_machine.m, BUFFER, &range, sizeof range);
    assert_int_equal(run(0, (struct command){ .command = 0x06,
                                              .device = 0x40,
                                              .features = 1,
                                              .count = 1,
                                              .bytes = 512,
                                              .write = true }) &
                         1,
                     1);
}

static void errors_halt_the_port(void **state)
{
    assert_int_equal(
        run(0,
            (struct command){
                .command = 0x25, .device = 0x40, .lba = 2047, .count = 2, .bytes = 1024 }),
        0x1051);
    assert_int_equal(reg(0, CI), 1);
    restart(0);
    assert_int_equal(reg(0, CI), 0);
    ok(0, (struct command){ .command = 0xe5 });
    /* Data that would go nowhere */
    struct command c = { .command = 0xec, .bytes = 512 };
    put(0, 0, &c);
    uint32_t nowhere = 0xfff00000;
    mem_write(test_machine.m, TABLES + 0x80, &nowhere, 4);
    set(0, CI, 1);
    wait_for(0, PxIS, 1 << 30, 1 << 30);
}

static void software_and_link_resets(void **state)
{
    uint8_t fis[64] = { 0x27, 0, 0 };
    uint32_t header[8] = { 5, 0, TABLES };
    mem_write(test_machine.m, LIST, header, sizeof header);
    for (unsigned srst = 1; srst < 2; srst--) {
        fis[15] = (uint8_t)(srst << 2);
        mem_write(test_machine.m, TABLES, fis, sizeof fis);
        set(0, CI, 1);
        wait_for(0, CI, 1, 0);
    }
    wait_for(0, TFD, 0xff, 0x50);
    set(1, CMD, 0x16);
    wait_for(1, CMD, 0x8000, 0);
    set(1, SCTL, 0x301);
    assert_int_equal(reg(1, SSTS), 0);
    set(1, SCTL, 0x300);
    wait_for(1, SSTS, 0xf, 3);
    assert_int_equal(reg(1, SIG), 0xeb140101);
    mmio_write(AHCI_AT + 4, 4, 0x80000001);
    for (unsigned i = 0; mmio_read(AHCI_AT + 4, 4) & 1; i++) {
        assert_true(i < 60000);
        usleep(1000);
    }
}

static uint32_t packet(const uint8_t bytes[12], uint32_t len)
{
    struct command c = { .command = 0xa0, .features = 1, .bytes = len };
    memcpy(c.packet, bytes, 12);
    uint32_t tfd = run(1, c);
    if (tfd & 1)
        restart(1);
    else
        set(1, PxIS, 0xffffffff);
    return tfd;
}
#define PACKET(len, ...) packet((const uint8_t[12]){ __VA_ARGS__ }, len)

static uint32_t sense(void)
{
    uint8_t bytes[18];
    assert_int_equal(PACKET(18, 0x03, 0, 0, 0, 18) & 1, 0);
    mem_read(test_machine.m, BUFFER, bytes, sizeof bytes);
    return (uint32_t)bytes[2] << 16 | (uint32_t)bytes[12] << 8 | bytes[13];
}

static void cdrom_reads(void **state)
{
    assert_int_equal(PACKET(0, 0x00), 0x6451); /* unit attention: it was reset */
    assert_int_equal(sense(), 0x062900);
    assert_int_equal(PACKET(0, 0x00), 0x50);
    assert_int_equal(PACKET(36, 0x12, 0, 0, 0, 36), 0x50);
    assert_int_equal(word(BUFFER) & 0xffff, 0x8005);
    assert_int_equal(PACKET(8, 0x25), 0x50);
    assert_int_equal(word(BUFFER), 0xff010000); /* the last of 512 sectors, big-endian */
    assert_int_equal(PACKET(4096, 0x28, 0, 0, 0, 0, 4, 0, 0, 2), 0x50);
    assert_int_equal(word(BUFFER), 8192);
    assert_int_equal(PACKET(4096, 0xa8, 0, 0, 0, 1, 255, 0, 0, 0, 2), 0x5451); /* past the end */
    assert_int_equal(sense(), 0x052100);
    assert_int_equal(PACKET(20, 0x43, 0, 0, 0, 0, 0, 0, 0, 20), 0x50);
    assert_int_equal(word(BUFFER), 0x01011200);
    assert_int_equal(PACKET(255, 0x46, 0, 0, 0, 0, 0, 0, 0, 255), 0x50);
    assert_int_equal(word(BUFFER + 4) >> 16, 0x0800); /* the profile of a CD */
    assert_int_equal(PACKET(255, 0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 255), 0x50);
    assert_int_equal(PACKET(0, 0x2a), 0x5451); /* writing is no command of ours */
}

static void cdrom_changes_its_medium(void **state)
{
    struct err err = { 0 };
    struct ata_drive *drive = ahci_drive(ahci_pci, 1);
    PACKET(0, 0x00);
    assert_int_equal(PACKET(0, 0x1e, 0, 0, 0, 1), 0x50); /* lock */
    assert_int_equal(PACKET(0, 0x1b, 0, 0, 0, 2), 0x5451);
    assert_int_equal(sense(), 0x055302);
    assert_int_equal(ata_medium_eject(drive, false, &err), -EBUSY);
    assert_int_equal(PACKET(8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 0x50);
    assert_int_equal(word(BUFFER + 4) & 0xffff, 0x0201); /* asks to be ejected; is there */
    assert_int_equal(PACKET(0, 0x1e, 0, 0, 0, 0), 0x50);
    assert_int_equal(ata_medium_eject(drive, false, &err), 0);
    assert_int_equal(PACKET(0, 0x00), 0x2451);
    assert_int_equal(sense(), 0x023a02); /* tray open */
    test_round_trip(&ahci_pci->dev);
    assert_int_equal(ata_medium_insert(drive, ahci_cd, &err), 0);
    assert_int_equal(ata_medium_insert(drive, ahci_cd, &err), -EBUSY);
    assert_int_equal(PACKET(0, 0x00), 0x6451);
    assert_int_equal(sense(), 0x062800); /* changed */
    assert_int_equal(PACKET(2048, 0x28, 0, 0, 0, 0, 2, 0, 0, 1), 0x50);
    assert_int_equal(word(BUFFER), 4096);
    assert_int_equal(PACKET(0, 0x1b, 0, 0, 0, 2), 0x50); /* the guest opens, and closes */
    assert_int_equal(PACKET(0, 0x25), 0x2451);
    assert_int_equal(PACKET(0, 0x1b, 0, 0, 0, 3), 0x50);
    assert_int_equal(PACKET(0, 0x00), 0x6451);
    assert_int_equal(PACKET(8, 0x25), 0x50);
}

/* What was in flight when the state was saved starts again. */
static void restored_commands_start_again(void **state)
{
    struct command c = { .command = 0x60, .device = 0x40, .lba = 8, .features = 8, .bytes = 4096 };
    for (unsigned round = 0; round < 20; round++) {
        mem_write(test_machine.m, BUFFER, &round, 4);
        put(0, 0, &c);
        set(0, SACT, 1);
        set(0, CI, 1);
        fuzz_save_and_restore();
        wait_for(0, SACT, 1, 0);
        assert_int_equal(word(BUFFER), 4096);
        set(0, PxIS, 0xffffffff);
    }
}

static void survives_anything(void **state) { device_fuzz_random(&ahci_model, 60); }
static void survives_any_state(void **state) { device_fuzz_states(&ahci_model, 300); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(identifies_both, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_and_writes, setup, teardown),
        cmocka_unit_test_setup_teardown(queued_commands, setup, teardown),
        cmocka_unit_test_setup_teardown(trims, setup, teardown),
        cmocka_unit_test_setup_teardown(errors_halt_the_port, setup, teardown),
        cmocka_unit_test_setup_teardown(software_and_link_resets, setup, teardown),
        cmocka_unit_test_setup_teardown(cdrom_reads, setup, teardown),
        cmocka_unit_test_setup_teardown(cdrom_changes_its_medium, setup, teardown),
        cmocka_unit_test_setup_teardown(restored_commands_start_again, setup, teardown),
        cmocka_unit_test(survives_anything),
        cmocka_unit_test(survives_any_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
