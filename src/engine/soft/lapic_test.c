/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The local APIC by its registers: priorities, destinations, modes, the timer, and posts from other
 * threads. */
#include "engine/soft/lapic.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
    struct lapic l;
    unsigned ipis, eois;
    _Atomic unsigned wakes;
    uint64_t icr;
    uint8_t eoi_vector;
};

static void on_ipi(void *arg, uint64_t icr)
{
    struct fixture *f = arg;
    f->ipis++;
    f->icr = icr;
}
static void on_eoi(void *arg, uint8_t vector)
{
    struct fixture *f = arg;
    f->eois++;
    f->eoi_vector = vector;
}
static void on_wake(void *arg) { ((struct fixture *)arg)->wakes++; }

static void fixture_init(struct fixture *f, uint32_t apic_id)
{
    memset(f, 0, sizeof *f);
    lapic_setup(&f->l, apic_id,
                &(struct lapic_links){
                    .arg = f, .send_ipi = on_ipi, .level_eoi = on_eoi, .wake = on_wake });
}

static uint32_t get_at(struct fixture *f, uint32_t offset, uint64_t now)
{
    return lapic_mmio_read(&f->l, offset, 4, now);
}
static uint32_t get(struct fixture *f, uint32_t offset) { return get_at(f, offset, 0); }
static void put_at(struct fixture *f, uint32_t offset, uint32_t value, uint64_t now)
{
    lapic_mmio_write(&f->l, offset, 4, value, now);
}
static void put(struct fixture *f, uint32_t offset, uint32_t value) { put_at(f, offset, value, 0); }
static void enable(struct fixture *f) { put(f, 0xf0, 0x1ff); }
static void go_x2apic(struct fixture *f)
{
    assert_true(lapic_base_write(&f->l, f->l.regs.apic_base | 1 << 10));
}

static void test_power_on(void **state)
{
    struct fixture f;
    fixture_init(&f, 5);
    assert_int_equal(get(&f, 0x20), 5 << 24);
    assert_int_equal(get(&f, 0x30), 0x50014);
    assert_int_equal(get(&f, 0xe0), 0xffffffff);
    assert_int_equal(get(&f, 0xf0), 0xff);
    for (uint32_t offset = 0x320; offset <= 0x370; offset += 0x10)
        assert_int_equal(get(&f, offset), 0x10000);
    assert_true(lapic_is_at(&f.l, 0xfee00080));
    assert_false(lapic_is_at(&f.l, 0xfee01000));
    assert_int_equal(f.l.regs.apic_base & 0x100, 0);
    assert_int_equal(lapic_pending_vector(&f.l), -1);
    assert_int_equal(lapic_timer_next_ns(&f.l), 0);
    fixture_init(&f, 0);
    assert_int_equal(f.l.regs.apic_base, 0xfee00900);
}

static void test_priorities(void **state)
{
    struct fixture f;
    fixture_init(&f, 0);
    lapic_post(&f.l, 0x41, false); /* software-disabled: lost */
    enable(&f);
    assert_int_equal(lapic_pending_vector(&f.l), -1);
    lapic_post(&f.l, 0x41, false);
    lapic_post(&f.l, 0x41, false);
    lapic_post(&f.l, 0x35, true);
    assert_int_equal(f.wakes, 2);
    assert_int_equal(lapic_pending_vector(&f.l), 0x41);
    assert_int_equal(get(&f, 0x220), 2); /* IRR, vectors 64-95 */
    lapic_ack(&f.l, 0x41);
    assert_int_equal(get(&f, 0x120), 2);
    assert_int_equal(get(&f, 0x220), 0);
    assert_int_equal(get(&f, 0xa0), 0x40);
    assert_int_equal(lapic_pending_vector(&f.l), -1);
    lapic_post(&f.l, 0x4f, false); /* the same class waits */
    assert_int_equal(lapic_pending_vector(&f.l), -1);
    lapic_post(&f.l, 0x50, false);
    assert_int_equal(lapic_pending_vector(&f.l), 0x50);
    lapic_ack(&f.l, 0x50);
    put(&f, 0xb0, 0);
    assert_int_equal(get(&f, 0xa0), 0x40);
    put(&f, 0xb0, 0);
    assert_int_equal(f.eois, 0);
    assert_int_equal(lapic_pending_vector(&f.l), 0x4f);
    lapic_ack(&f.l, 0x4f);
    lapic_eoi(&f.l);
    assert_int_equal(lapic_pending_vector(&f.l), 0x35);
    assert_int_equal(get(&f, 0x190), 1u << 0x15); /* TMR */
    lapic_ack(&f.l, 0x35);
    lapic_eoi(&f.l);
    assert_int_equal(f.eois, 1);
    assert_int_equal(f.eoi_vector, 0x35);
    lapic_eoi(&f.l); /* nothing in service */
    assert_int_equal(f.eois, 1);

    lapic_post(&f.l, 0x35, false); /* edge this time */
    assert_int_equal(lapic_pending_vector(&f.l), 0x35);
    assert_int_equal(get(&f, 0x190), 0);
    put(&f, 0x80, 0x30);
    assert_int_equal(lapic_cr8(&f.l), 3);
    assert_int_equal(lapic_pending_vector(&f.l), -1);
    lapic_set_cr8(&f.l, 2);
    assert_int_equal(get(&f, 0x80), 0x20);
    assert_int_equal(lapic_pending_vector(&f.l), 0x35);
    put(&f, 0x80, 0x1ff);
    assert_int_equal(get(&f, 0x80), 0xff);
    assert_int_equal(get(&f, 0xa0), 0xff);
    lapic_post(&f.l, 0xff, false);
    assert_int_equal(lapic_pending_vector(&f.l), -1);
}

/* Every vector against every task priority, by the definition. */
static void test_priority_sweep(void **state)
{
    struct fixture f;
    fixture_init(&f, 0);
    enable(&f);
    for (unsigned vector = 16; vector < 256; vector++)
        for (unsigned cr8 = 0; cr8 < 16; cr8++) {
            lapic_set_cr8(&f.l, (uint8_t)cr8);
            lapic_post(&f.l, (uint8_t)vector, vector & 1);
            bool due = vector / 16 > cr8;
            assert_int_equal(lapic_pending_vector(&f.l), due ? (int)vector : -1);
            lapic_set_cr8(&f.l, 0);
            lapic_ack(&f.l, lapic_pending_vector(&f.l));
            lapic_eoi(&f.l);
        }
    assert_int_equal(f.eois, 120 * 16);
}

static void test_software_disable(void **state)
{
    struct fixture f;
    fixture_init(&f, 0);
    enable(&f);
    put(&f, 0x320, 0x31);
    put(&f, 0x350, 0x700);
    assert_true(lapic_takes_extint(&f.l));
    lapic_post(&f.l, 0x41, false);
    put(&f, 0xf0, 0xff);
    assert_int_equal(get(&f, 0x320), 0x10031);
    assert_false(lapic_takes_extint(&f.l));
    put(&f, 0x320, 0x31);
    assert_int_equal(get(&f, 0x320), 0x10031);
    assert_int_equal(lapic_pending_vector(&f.l), 0x41); /* what was there stays */
    lapic_post(&f.l, 0x42, false);
    assert_int_equal(lapic_pending_vector(&f.l), 0x41);
    put(&f, 0xf0, 0xffffffff);
    assert_int_equal(get(&f, 0xf0), 0x1ff);
    put(&f, 0x350, 0x10700);
    assert_false(lapic_takes_extint(&f.l));
    put(&f, 0x350, 0x400);
    assert_false(lapic_takes_extint(&f.l));
}

static void test_lvt_bits(void **state)
{
    static const struct {
        uint32_t offset, writable;
    } lvt[] = { { 0x320, 0x700ff }, { 0x330, 0x107ff }, { 0x340, 0x107ff },
                { 0x350, 0x1a7ff }, { 0x360, 0x1a7ff }, { 0x370, 0x100ff } };
    struct fixture f;
    fixture_init(&f, 0);
    enable(&f);
    for (unsigned i = 0; i < 6; i++) {
        put(&f, lvt[i].offset, 0xffffffff);
        assert_int_equal(get(&f, lvt[i].offset), lvt[i].writable);
        put(&f, lvt[i].offset, 0);
        assert_int_equal(get(&f, lvt[i].offset), 0);
    }
}

static void test_errors(void **state)
{
    struct fixture f;
    fixture_init(&f, 0);
    enable(&f);
    put(&f, 0x370, 0xfe);
    put(&f, 0x300, 0x0f); /* IPI with vector 15 */
    assert_int_equal(f.ipis, 0);
    assert_int_equal(get(&f, 0x280), 0); /* not latched yet */
    assert_int_equal(lapic_pending_vector(&f.l), 0xfe);
    lapic_post(&f.l, 7, false);
    (void)get(&f, 0x3d0); /* no register there */
    put(&f, 0x280, 0);
    assert_int_equal(get(&f, 0x280), 0xe0);
    put(&f, 0x280, 0);
    assert_int_equal(get(&f, 0x280), 0);
    put(&f, 0x30, 1);
    put(&f, 0x280, 0);
    assert_int_equal(get(&f, 0x280), 0x80);
    assert_int_equal(lapic_mmio_read(&f.l, 0x20, 8, 0), 0);
    assert_int_equal(lapic_mmio_read(&f.l, 0x34, 4, 0), 0);
    lapic_mmio_write(&f.l, 0x80, 1, 0x55, 0);
    lapic_mmio_write(&f.l, 0x84, 4, 0x55, 0);
    assert_int_equal(get(&f, 0x80), 0);
}

static void test_icr(void **state)
{
    struct fixture f;
    fixture_init(&f, 0);
    enable(&f);
    put(&f, 0x310, 0x03ffffff);
    put(&f, 0x300, 0xfff51234 | 0x1000);
    assert_int_equal(f.ipis, 1);
    assert_int_equal(f.icr, 0x0300000000040234);
    assert_int_equal(get(&f, 0x300), 0x00040234);
    assert_int_equal(get(&f, 0x310), 0x03000000);
    put(&f, 0x300, 0x4500); /* INIT needs no vector */
    assert_int_equal(f.ipis, 2);

    go_x2apic(&f);
    assert_true(lapic_msr_write(&f.l, 0x830, 0x1234567800000031, 0));
    assert_int_equal(f.icr, 0x1234567800000031);
    uint64_t value;
    assert_true(lapic_msr_read(&f.l, 0x830, 0, &value));
    assert_int_equal(value, 0x1234567800000031);
    assert_true(lapic_msr_write(&f.l, 0x83f, 0x55, 0));
    assert_int_equal(f.icr, 1 << 18 | 0x55);
    assert_false(lapic_msr_write(&f.l, 0x83f, 0x155, 0));
    assert_false(lapic_msr_write(&f.l, 0x830, 1 << 12, 0));
}

static void test_xapic_destinations(void **state)
{
    struct fixture f;
    fixture_init(&f, 5);
    assert_true(lapic_accepts(&f.l, 5, false));
    assert_false(lapic_accepts(&f.l, 4, false));
    assert_false(lapic_accepts(&f.l, 0x105, false));
    assert_true(lapic_accepts(&f.l, 0xff, false));
    assert_true(lapic_accepts(&f.l, 0xffffffff, false));
    assert_false(lapic_accepts(&f.l, 0, true));
    assert_true(lapic_accepts(&f.l, 0xff, true));
    put(&f, 0xd0, 0x04ffffff);
    assert_int_equal(get(&f, 0xd0), 0x04000000);
    assert_true(lapic_accepts(&f.l, 0x0c, true));
    assert_false(lapic_accepts(&f.l, 0x08, true));
    put(&f, 0xe0, 0);
    assert_int_equal(get(&f, 0xe0), 0x0fffffff);
    put(&f, 0xd0, 0x24000000); /* cluster 2, member 2 */
    assert_true(lapic_accepts(&f.l, 0x26, true));
    assert_false(lapic_accepts(&f.l, 0x22, true));
    assert_false(lapic_accepts(&f.l, 0x16, true));
    put(&f, 0x20, 0x09123456);
    assert_true(lapic_accepts(&f.l, 9, false));
    assert_int_equal(get(&f, 0x20), 0x09000000);
    assert_true(lapic_base_write(&f.l, 0xfee00000));
    assert_false(lapic_accepts(&f.l, 0xff, false));
}

static void test_x2apic(void **state)
{
    struct fixture f;
    fixture_init(&f, 0x25);
    enable(&f);
    uint64_t value;
    assert_false(lapic_msr_read(&f.l, 0x802, 0, &value));
    assert_false(lapic_msr_write(&f.l, 0x808, 0, 0));
    go_x2apic(&f);
    assert_false(lapic_is_at(&f.l, 0xfee00000));
    assert_true(lapic_msr_read(&f.l, 0x802, 0, &value));
    assert_int_equal(value, 0x25);
    assert_true(lapic_msr_read(&f.l, 0x80d, 0, &value));
    assert_int_equal(value, 2 << 16 | 1 << 5);
    assert_true(lapic_accepts(&f.l, 0x25, false));
    assert_true(lapic_accepts(&f.l, 0xff, false));
    assert_true(lapic_accepts(&f.l, 0xffffffff, true));
    assert_false(lapic_accepts(&f.l, 0x26, false));
    assert_true(lapic_accepts(&f.l, 0x00020060, true));
    assert_false(lapic_accepts(&f.l, 0x00020040, true));
    assert_false(lapic_accepts(&f.l, 0x00030020, true));

    static const uint16_t read_only[] = { 0x802, 0x803, 0x80a, 0x80d, 0x810, 0x818, 0x827, 0x839 };
    for (unsigned i = 0; i < sizeof read_only / sizeof read_only[0]; i++) {
        assert_true(lapic_msr_read(&f.l, read_only[i], 0, &value));
        assert_false(lapic_msr_write(&f.l, read_only[i], 0, 0));
    }
    static const uint16_t missing[] = { 0x800, 0x804, 0x809, 0x80c, 0x80e, 0x82f,
                                        0x831, 0x83a, 0x840, 0x8ff, 0x7ff, 0x900 };
    for (unsigned i = 0; i < sizeof missing / sizeof missing[0]; i++) {
        assert_false(lapic_msr_read(&f.l, missing[i], 0, &value));
        assert_false(lapic_msr_write(&f.l, missing[i], 0, 0));
    }
    assert_false(lapic_msr_read(&f.l, 0x80b, 0, &value));
    assert_false(lapic_msr_write(&f.l, 0x80b, 1, 0));
    assert_false(lapic_msr_write(&f.l, 0x828, 1, 0));
    assert_true(lapic_msr_write(&f.l, 0x828, 0, 0));
    assert_false(lapic_msr_write(&f.l, 0x808, 0x100, 0));
    assert_true(lapic_msr_write(&f.l, 0x808, 0x70, 0));
    assert_int_equal(lapic_cr8(&f.l), 7);
    lapic_post(&f.l, 0x91, true);
    assert_int_equal(lapic_pending_vector(&f.l), 0x91);
    lapic_ack(&f.l, 0x91);
    assert_true(lapic_msr_write(&f.l, 0x80b, 0, 0));
    assert_int_equal(f.eois, 1);
}

static void test_base(void **state)
{
    struct fixture f;
    fixture_init(&f, 3);
    const uint64_t at = 0xfee00000, en = 0x800, x2 = 0x400;
    assert_false(lapic_base_write(&f.l, at | x2));
    assert_false(lapic_base_write(&f.l, at | en | 1));
    assert_false(lapic_base_write(&f.l, at | en | 1ull << 52));
    assert_true(lapic_base_write(&f.l, 0xfed00000 | en));
    assert_true(lapic_is_at(&f.l, 0xfed00fff));
    assert_true(lapic_base_write(&f.l, at | en | x2));
    assert_false(lapic_base_write(&f.l, at | en));
    assert_true(lapic_base_write(&f.l, at | en | x2));
    enable(&f);
    assert_true(lapic_base_write(&f.l, at));
    assert_false(lapic_is_at(&f.l, at));
    assert_false(lapic_base_write(&f.l, at | en | x2));
    assert_true(lapic_base_write(&f.l, at | en));
    assert_int_equal(get(&f, 0x20), 3 << 24);
    assert_int_equal(get(&f, 0xf0), 0xff);

    /* Switched off, the boot CPU is wired to the PIC, the others to nothing. */
    assert_true(lapic_base_write(&f.l, at));
    assert_false(lapic_takes_extint(&f.l));
    fixture_init(&f, 0);
    assert_false(lapic_takes_extint(&f.l));
    assert_true(lapic_base_write(&f.l, at | 0x100));
    assert_true(lapic_takes_extint(&f.l));
}

/* ---- timer ---- */

static void test_timer_one_shot(void **state)
{
    struct fixture f;
    fixture_init(&f, 0);
    enable(&f);
    put(&f, 0x320, 0x40);
    put(&f, 0x3e0, 0xb); /* by 1 */
    put_at(&f, 0x380, 1000, 500);
    assert_int_equal(lapic_timer_next_ns(&f.l), 1500);
    assert_int_equal(get_at(&f, 0x390, 500), 1000);
    assert_int_equal(get_at(&f, 0x390, 1499), 1);
    assert_int_equal(get_at(&f, 0x390, 1600), 0);
    lapic_timer_expire(&f.l, 1499);
    assert_int_equal(lapic_pending_vector(&f.l), -1);
    lapic_timer_expire(&f.l, 1500);
    assert_int_equal(lapic_pending_vector(&f.l), 0x40);
    assert_int_equal(lapic_timer_next_ns(&f.l), 0);
    assert_int_equal(get(&f, 0x380), 1000);
    lapic_ack(&f.l, 0x40);
    lapic_timer_expire(&f.l, 5000);
    assert_int_equal(lapic_pending_vector(&f.l), -1);
    put_at(&f, 0x380, 1000, 500);
    put_at(&f, 0x380, 0, 600);
    assert_int_equal(lapic_timer_next_ns(&f.l), 0);
    assert_int_equal(get_at(&f, 0x390, 600), 0);
}

static void test_timer_divide(void **state)
{
    static const unsigned codes[8] = { 0, 1, 2, 3, 8, 9, 10, 11 };
    static const unsigned shifts[8] = { 1, 2, 3, 4, 5, 6, 7, 0 };
    struct fixture f;
    fixture_init(&f, 0);
    enable(&f);
    put(&f, 0x320, 0x40);
    for (unsigned i = 0; i < 8; i++) {
        put(&f, 0x3e0, codes[i] | 4);
        assert_int_equal(get(&f, 0x3e0), codes[i]);
        put_at(&f, 0x380, 100, 7);
        assert_int_equal(lapic_timer_next_ns(&f.l), 7 + (100u << shifts[i]));
        assert_int_equal(get_at(&f, 0x390, 7 + (30u << shifts[i])), 70);
    }
    /* Slower from the middle: 50 counts are left, of 16 ns each. */
    put_at(&f, 0x380, 100, 1000);
    put_at(&f, 0x3e0, 3, 1050);
    assert_int_equal(lapic_timer_next_ns(&f.l), 1050 + 50 * 16);
    assert_int_equal(get_at(&f, 0x390, 1050), 50);
}

static void test_timer_periodic(void **state)
{
    struct fixture f;
    fixture_init(&f, 0);
    enable(&f);
    put(&f, 0x3e0, 0xb);
    put(&f, 0x320, 1 << 17 | 0x40);
    put_at(&f, 0x380, 100000, 0);
    lapic_timer_expire(&f.l, 100000);
    assert_int_equal(lapic_pending_vector(&f.l), 0x40);
    assert_int_equal(lapic_timer_next_ns(&f.l), 200000);
    lapic_timer_expire(&f.l, 555555); /* late: what was missed is missed, the beat stays */
    assert_int_equal(lapic_timer_next_ns(&f.l), 600000);
    assert_int_equal(get_at(&f, 0x390, 655555), 44445);
    lapic_ack(&f.l, 0x40);
    put_at(&f, 0x320, 1 << 17 | 0x10040, 655555);
    assert_int_equal(lapic_timer_next_ns(&f.l), 0);
    assert_int_equal(get_at(&f, 0x390, 1230000), 70000);
    put_at(&f, 0x320, 1 << 17 | 0x40, 1420000);
    assert_int_equal(lapic_timer_next_ns(&f.l), 1500000);
    assert_int_equal(lapic_pending_vector(&f.l), -1);

    put_at(&f, 0x380, 1, 2000000); /* no period of 1 ns */
    lapic_timer_expire(&f.l, 2000001);
    assert_int_equal(lapic_timer_next_ns(&f.l), 2050001);
}

static void test_timer_masked_one_shot(void **state)
{
    struct fixture f;
    fixture_init(&f, 0);
    enable(&f);
    put(&f, 0x3e0, 0xb);
    put(&f, 0x320, 0x10040);
    put_at(&f, 0x380, 1000, 0);
    assert_int_equal(lapic_timer_next_ns(&f.l), 0);
    put_at(&f, 0x320, 0x40, 1500); /* ran out unheard */
    assert_int_equal(lapic_timer_next_ns(&f.l), 0);
    lapic_timer_expire(&f.l, 1500);
    assert_int_equal(lapic_pending_vector(&f.l), -1);
    put_at(&f, 0x320, 0x10040, 1500);
    put_at(&f, 0x380, 1000, 2000);
    put_at(&f, 0x320, 0x40, 2500);
    assert_int_equal(lapic_timer_next_ns(&f.l), 3000);
}

static void test_tsc_deadline(void **state)
{
    struct fixture f;
    fixture_init(&f, 0);
    enable(&f);
    put(&f, 0x320, 0x40);
    lapic_set_tsc_deadline(&f.l, 5000, 2500);
    assert_int_equal(lapic_tsc_deadline(&f.l), 0); /* another mode */
    put(&f, 0x320, 2 << 17 | 0x40);
    put_at(&f, 0x380, 1000, 0);
    assert_int_equal(get(&f, 0x380), 0);
    lapic_set_tsc_deadline(&f.l, 5000, 2500);
    assert_int_equal(lapic_tsc_deadline(&f.l), 5000);
    assert_int_equal(lapic_timer_next_ns(&f.l), 2500);
    assert_int_equal(get_at(&f, 0x390, 100), 0);
    lapic_timer_expire(&f.l, 2500);
    assert_int_equal(lapic_pending_vector(&f.l), 0x40);
    assert_int_equal(lapic_tsc_deadline(&f.l), 0);
    assert_int_equal(lapic_timer_next_ns(&f.l), 0);
    lapic_set_tsc_deadline(&f.l, 1, 0);
    assert_int_equal(lapic_timer_next_ns(&f.l), 1);
    lapic_set_tsc_deadline(&f.l, 0, 0);
    assert_int_equal(lapic_timer_next_ns(&f.l), 0);
    lapic_set_tsc_deadline(&f.l, UINT64_MAX, UINT64_MAX);
    assert_true(lapic_timer_next_ns(&f.l) < (uint64_t)1 << 62); /* still loads */
    put(&f, 0x320, 0x40);
    assert_int_equal(lapic_tsc_deadline(&f.l), 0);
    assert_int_equal(lapic_timer_next_ns(&f.l), 0);
}

/* ---- resets, state ---- */

static void test_init(void **state)
{
    struct fixture f;
    fixture_init(&f, 2);
    enable(&f);
    go_x2apic(&f);
    lapic_post(&f.l, 0x41, false);
    lapic_init(&f.l);
    assert_true(lapic_x2apic(&f.l));
    uint64_t value;
    assert_true(lapic_msr_read(&f.l, 0x802, 0, &value));
    assert_int_equal(value, 2);
    assert_true(lapic_msr_read(&f.l, 0x80f, 0, &value));
    assert_int_equal(value, 0xff);
    assert_int_equal(lapic_pending_vector(&f.l), -1);
    assert_true(lapic_accepts(&f.l, 2, false));
}

static void test_state(void **state)
{
    struct fixture f, g;
    struct x86_lapic saved, again;
    fixture_init(&f, 2);
    enable(&f);
    put(&f, 0x320, 1 << 17 | 0x40);
    put_at(&f, 0x380, 100000, 77);
    put(&f, 0xd0, 0x04000000);
    put(&f, 0x300, 0x3);
    lapic_post(&f.l, 0x91, true);
    lapic_post(&f.l, 0x81, true);
    assert_int_equal(lapic_pending_vector(&f.l), 0x91);
    lapic_ack(&f.l, 0x91);
    lapic_post(&f.l, 0xa1, false); /* still posted when saved */
    lapic_get(&f.l, &saved);
    assert_int_equal(saved.irr[5], 2);
    assert_int_equal(saved.esr, 0x20);

    fixture_init(&g, 2);
    lapic_set(&g.l, &saved);
    lapic_get(&g.l, &again);
    assert_memory_equal(&saved, &again, sizeof saved);
    assert_int_equal(lapic_timer_next_ns(&g.l), 77 + 200000);
    assert_int_equal(lapic_pending_vector(&g.l), 0xa1);
    assert_true(lapic_accepts(&g.l, 4, true));
    lapic_ack(&g.l, 0xa1);
    lapic_eoi(&g.l);
    assert_int_equal(g.eois, 0);
    lapic_eoi(&g.l);
    assert_int_equal(g.eoi_vector, 0x91);

    /* Bits that are not there do not come in. */
    memset(&saved, 0xff, sizeof saved);
    saved.apic_base = 0xfee00c00;
    saved.timer_deadline_ns = 5;
    saved.timer_initial = 0;
    saved.lvt_timer = 1 << 17 | 0x40;
    lapic_set(&g.l, &saved);
    assert_int_equal(g.l.regs.svr, 0x1ff);
    assert_int_equal(g.l.regs.lvt_error, 0x100ff);
    assert_int_equal(g.l.regs.id, 2);
    lapic_timer_expire(&g.l, 1000000000);
    assert_in_range(lapic_timer_next_ns(&g.l), 1000000001, 1000050000);
}

/* ---- posts from other threads: none is lost, each is heard of ---- */

enum { POSTS = 20000 };

static void *post_many(void *arg)
{
    struct fixture *f = arg;
    for (unsigned i = 0; i < POSTS; i++)
        lapic_post(&f->l, (uint8_t)(32 + i % 224), i & 1);
    return NULL;
}

static void test_posts(void **state)
{
    struct fixture f;
    fixture_init(&f, 0);
    enable(&f);
    pthread_t threads[2];
    unsigned taken[256] = { 0 };
    for (unsigned i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, post_many, &f);
    for (unsigned i = 0; i < 100000; i++) {
        int vector = lapic_pending_vector(&f.l);
        if (vector < 0)
            continue;
        taken[vector]++;
        lapic_ack(&f.l, vector);
        lapic_eoi(&f.l);
        assert_true(lapic_accepts(&f.l, 0, false));
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    for (int vector; (vector = lapic_pending_vector(&f.l)) >= 0; lapic_eoi(&f.l)) {
        taken[vector]++;
        lapic_ack(&f.l, vector);
    }
    for (unsigned vector = 32; vector < 256; vector++)
        assert_true(taken[vector] > 0);
    unsigned total = 0;
    for (unsigned vector = 0; vector < 256; vector++)
        total += taken[vector];
    assert_true(f.wakes <= 2 * POSTS && f.wakes >= total);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_power_on),
        cmocka_unit_test(test_priorities),
        cmocka_unit_test(test_priority_sweep),
        cmocka_unit_test(test_software_disable),
        cmocka_unit_test(test_lvt_bits),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_icr),
        cmocka_unit_test(test_xapic_destinations),
        cmocka_unit_test(test_x2apic),
        cmocka_unit_test(test_base),
        cmocka_unit_test(test_timer_one_shot),
        cmocka_unit_test(test_timer_divide),
        cmocka_unit_test(test_timer_periodic),
        cmocka_unit_test(test_timer_masked_one_shot),
        cmocka_unit_test(test_tsc_deadline),
        cmocka_unit_test(test_init),
        cmocka_unit_test(test_state),
        cmocka_unit_test(test_posts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
