/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every chip of the board under random register accesses, with its state saved and restored in
 * between; and the search for bytes of state that no table covers.
 *
 *   chips_fuzz_test [SEED [ROUNDS]]     prints the seed when it starts, so that a failure can be
 * repeated
 */
#include "base/checked.h"
#include "devices/hpet.h"
#include "devices/i6300esb.h"
#include "devices/i8042.h"
#include "devices/input.h"
#include "devices/ioapic.h"
#include "devices/lpc.h"
#include "devices/pci_host.h"
#include "devices/pci_port.h"
#include "devices/pflash.h"
#include "devices/pic.h"
#include "devices/pit.h"
#include "devices/pm.h"
#include "devices/rtc.h"
#include "devices/serial.h"
#include "devices/test_machine.h"

#include <stdio.h>
#include <time.h>

static uint64_t seed = 1;
static unsigned rounds = 200;
static struct pci_bus *bus;
static struct device *serial, *pm, *port;
enum { FLASH = 0xf0000000, FLASH_SIZE = 4 * PFLASH_BLOCK };
static struct input *input;

static uint64_t random_u64(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}
static unsigned pick(unsigned n) { return (unsigned)(random_u64() >> 33) % n; }

static void slot_power(void *arg, struct device *dev, bool on) {}

static int chipset_create(struct machine *m, struct err *err)
{
    struct ram *rom, *flash;
    struct device *dev;
    if (ram_create("firmware", 0x20000, &rom, err) < 0 || machine_add_ram(m, rom, err) < 0 ||
        ram_create("uefi-vars", FLASH_SIZE, &flash, err) < 0 || machine_add_ram(m, flash, err) < 0)
        return -1;
    const struct mch_config mch = { .ram = m->main_ram, .low_ram = 4 << 20, .rom = rom };
    const struct pci_port_config slot = {
        .id = "port1", .devfn = 2 << 3, .number = 1, .power = slot_power
    };
    const struct pflash_config chip = { .id = "flash", .gpa = FLASH, .ram = flash, .fd = -1 };
    if (pci_host_create(m, &mch, &bus, err) < 0 || lpc_create(m, bus, pm, err) < 0 ||
        pci_port_create(m, bus, &slot, &port, err) < 0 || hpet_create(m, err) < 0 ||
        pflash_create(m, &chip, &dev, err) < 0)
        return -1;
    pci_host_as_firmware(bus);
    lpc_as_firmware(bus);
    return 0;
}

static int setup(void **state)
{
    struct err err = { 0 };
    struct machine *m = test_machine_create(4 << 20);
    struct device *rtc;
    const struct serial_config config = { .id = "serial0", .port = 0x3f8, .gsi = 4 };
    const struct pci_windows windows = {
        .mem32 = 0xc0000000, .mem32_size = 0x4000000, .io = 0xc000, .io_size = 0x1000
    };
    if (input_create(&input, &err) < 0 || i8042_create(m, input, &err) < 0)
        return -1;
    if (ioapic_create(m, &err) < 0 || pic_create(m, &err) < 0 || pit_create(m, &err) < 0 ||
        rtc_create(m, &rtc, &err) < 0 || pm_create(m, &pm, &err) < 0 ||
        serial_create(m, &config, &serial, &err) < 0 || chipset_create(m, &err) < 0 ||
        i6300esb_create(m, bus, 1, "watchdog0", &err) < 0)
        return -1;
    rtc_connect_pm(rtc, pm);
    return pci_bus_assign(bus, &windows, &err);
}

static int teardown(void **state)
{
    test_machine_destroy();
    input_destroy(input);
    return 0;
}

/* A value that is likely to mean something: few bits, or all, or anything. */
static uint64_t random_value(void)
{
    switch (pick(4)) {
    case 0: return 1ull << pick(64);
    case 1: return random_u64() & 0xff;
    case 2: return UINT64_MAX << pick(64);
    default: return random_u64();
    }
}

struct target {
    enum space space;
    uint64_t start;
    unsigned size;
};

static void random_access(void)
{
    static const struct target targets[] = {
        { SPACE_IO, 0x20, 2 },
        { SPACE_IO, 0xa0, 2 },
        { SPACE_IO, 0x4d0, 2 },
        { SPACE_IO, 0x40, 4 },
        { SPACE_IO, 0x60, 2 },
        { SPACE_IO, 0x60, 1 },
        { SPACE_IO, 0x64, 1 },
        { SPACE_IO, 0x70, 2 },
        { SPACE_IO, 0x92, 1 },
        { SPACE_IO, 0x3f8, 8 },
        { SPACE_IO, 0x600, 12 },
        { SPACE_IO, 0x620, 4 },
        { SPACE_IO, 0xcf8, 8 },
        { SPACE_MEMORY, IOAPIC_BASE, 0x60 },
        { SPACE_MEMORY, 0xb0000000, 0x100 }, /* host bridge */
        { SPACE_MEMORY, 0xb0008000, 0x80 },  /* watchdog */
        { SPACE_MEMORY, 0xb0008ff0, 0x20 },  /* end of its configuration, begin of nothing */
        { SPACE_MEMORY, 0xc0000000, 0x20 },
        { SPACE_MEMORY, 0xb0010000, 0x100 }, /* root port */
        { SPACE_MEMORY, 0xb0100000, 0x100 }, /* behind it */
        { SPACE_MEMORY, 0xb00f8000, 0x100 }, /* LPC bridge */
        { SPACE_MEMORY, HPET_BASE, 0x180 },
        { SPACE_MEMORY, FLASH, FLASH_SIZE },
        { SPACE_MEMORY, 0xa0000, 0x60000 },
        { SPACE_IO, 0xb2, 2 },
    };
    const struct target *t = &targets[pick(ARRAY_LEN(targets))];
    unsigned size = 1u << pick(t->space == SPACE_IO ? 3 : 4);
    uint64_t address = t->start + pick(t->size);
    if (pick(2))
        bus_read(test_machine.m, t->space, address, size);
    else
        bus_write(test_machine.m, t->space, address, size, random_value());
}

static void random_event(void)
{
    uint8_t text[20] = "some input for you";
    switch (pick(9)) {
    case 5: input_key(input, pick(260), pick(2)); break;
    case 6: input_pointer(input, pick(1000), pick(700), 1000, 700, pick(8)); break;
    case 7: input_wheel(input, (int)pick(9) - 4); break;
    case 0: serial_input(serial, text, pick(sizeof text)); break;
    case 1: pm_power_button(pm); break;
    case 2: pm_gpe_raise(pm, pick(16)); break;
    case 3: irq_eoi(test_machine.m, (uint8_t)pick(256)); break;
    case 4: extint_ack(test_machine.m); break;
    default: pci_intx_set(pci_bus_device(bus, 8), pick(2)); break;
    }
}

/* Timers fire between the accesses of a round, and the clock stands still for the round trip. */
static void registers_survive_anything(void **state)
{
    printf("seed %llu, %u rounds\n", (unsigned long long)seed, rounds);
    for (unsigned round = 0; round < rounds; round++) {
        clock_start(test_machine.m);
        for (unsigned i = 0; i < 2000; i++)
            if (pick(20))
                random_access();
            else
                random_event();
        clock_stop(test_machine.m);
        test_events();
        for (struct device *dev = test_machine.m->devices; dev; dev = dev->next) {
            test_round_trip(dev);
            if (!pick(10))
                dev->type->reset(dev);
        }
    }
}

/* Random bytes for a chip's state are refused, or the chip lives with them. */
static void hostile_state(void **state)
{
    struct err err = { 0 };
    for (unsigned round = 0; round < rounds; round++)
        for (struct device *dev = test_machine.m->devices; dev; dev = dev->next) {
            const struct state_desc *desc = dev->type->state;
            struct buf bytes = { 0 };
            uint8_t *live = (uint8_t *)dev + desc->base;
            void *scratch = calloc(1, desc->size), *kept = malloc(desc->size);
            memcpy(kept, live, desc->size);
            state_encode(desc, live, &bytes);
            for (unsigned i = 1 + pick(4); i > 0 && bytes.len > 6; i--)
                bytes.data[6 + pick((unsigned)bytes.len - 6)] = (uint8_t)random_u64();
            if (state_decode(desc, bytes.data, bytes.len, scratch, &err) == 0) {
                memcpy(live, scratch, desc->size);
                if (dev->type->loaded && dev->type->loaded(dev, &err) < 0)
                    memcpy(live, kept, desc->size);
                clock_start(test_machine.m);
                for (unsigned i = 0; i < 50; i++)
                    random_access();
                clock_stop(test_machine.m);
            }
            test_events();
            dev->type->reset(dev);
            free(scratch);
            free(kept);
            buf_fini(&bytes);
        }
}

static void tables_cover_every_byte(void **state)
{
    for (struct device *dev = test_machine.m->devices; dev; dev = dev->next) {
        const struct state_desc *desc = dev->type->state;
        uint8_t *covered = calloc(1, desc->size);
        state_coverage(desc, covered);
        for (size_t i = 0; i < desc->size; i++)
            if (!covered[i])
                fail_msg("%s: no field covers byte %zu of its state", dev->id, i);
        free(covered);
    }
}

int main(int argc, char **argv)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)now.tv_nsec * 2 + 1;
    rounds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : rounds;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(tables_cover_every_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(registers_survive_anything, setup, teardown),
        cmocka_unit_test_setup_teardown(hostile_state, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
