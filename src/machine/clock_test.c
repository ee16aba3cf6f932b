/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guest clock stops and goes on, and timers fire in its time only. */
#include "machine/fake_engine.h"
#include "machine/priv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { MS = 1000000 };

static void test_clock(void **state)
{
    struct machine *m = fake_machine_create(PAGE_SIZE, 1, NULL, NULL);
    assert_int_equal(guest_now_ns(m), 0);
    assert_true(guest_epoch_ns(m) > 1500000000ull * 1000000000);
    assert_int_equal(guest_to_host_ns(m, 5), UINT64_MAX);
    clock_set(m, 1000, 77);
    assert_int_equal(guest_now_ns(m), 1000);
    assert_int_equal(guest_epoch_ns(m), 77);

    uint64_t before = monotonic_ns();
    clock_start(m);
    assert_true(fake_engine(m)->clock_running);
    usleep(3000);
    uint64_t now = guest_now_ns(m), after = monotonic_ns();
    assert_in_range(now, 1000 + 3 * MS, 1000 + after - before);
    uint64_t host = guest_to_host_ns(m, now + MS);
    assert_in_range(host, before + MS, after + MS);
    assert_int_equal(guest_to_host_ns(m, 0) > 0, 1);
    clock_stop(m);
    assert_false(fake_engine(m)->clock_running);
    now = guest_now_ns(m);
    usleep(2000);
    assert_int_equal(guest_now_ns(m), now);
    before = monotonic_ns();
    clock_start(m);
    uint64_t later = guest_now_ns(m);
    assert_in_range(later - now, 0, monotonic_ns() - before);
    clock_stop(m);
    assert_int_equal(fake_engine(m)->clock_changes, 5);
    fake_machine_destroy(m);
}

static void test_tsc(void **state)
{
    assert_int_equal(tsc_of_ns(1000000, 2500000), 2500000);
    assert_int_equal(tsc_of_ns(1, 2999999), 2);
    assert_int_equal(tsc_of_ns((uint64_t)1 << 60, 3000000), 3 * ((uint64_t)1 << 60));
    assert_int_equal(ns_of_tsc(0, 3000000), 0);
    assert_int_equal(ns_of_tsc(UINT64_MAX, 1), UINT64_MAX);
    static const uint64_t khz[] = { 1, 999999, 1000000, 2100001, 5123457 };
    for (unsigned k = 0; k < 5; k++)
        for (uint64_t tsc = 1; tsc < (uint64_t)1 << 50; tsc = tsc * 3 + 1) {
            uint64_t ns = ns_of_tsc(tsc, khz[k]);
            if (ns == UINT64_MAX)
                continue;
            assert_true(tsc_of_ns(ns, khz[k]) >= tsc);
            assert_true(ns == 0 || tsc_of_ns(ns - 1, khz[k]) < tsc);
        }
}

struct alarm {
    struct machine *m;
    struct guest_timer *timer;
    _Atomic unsigned fired;
    _Atomic uint64_t at_ns;
    uint64_t again_ns; /* fires every so often when set; fixed before arming */
    _Atomic unsigned slow_us;
    _Atomic bool inside;
};

static void alarm_fired(void *arg)
{
    struct alarm *a = arg;
    a->inside = true;
    a->at_ns = guest_now_ns(a->m);
    a->fired++;
    if (a->slow_us)
        usleep(a->slow_us);
    if (a->again_ns)
        guest_timer_arm(a->timer, a->at_ns + a->again_ns);
    a->inside = false;
}

static void alarm_init(struct alarm *a, struct machine *m)
{
    *a = (struct alarm){ .m = m };
    assert_int_equal(guest_timer_create(m, alarm_fired, a, &a->timer, NULL), 0);
}

static void wait_fired(struct alarm *a, unsigned count)
{
    for (unsigned i = 0; i < 60000 && a->fired < count; i++)
        usleep(1000);
    assert_true(a->fired >= count);
}

static void test_timers(void **state)
{
    struct machine *m = fake_machine_create(PAGE_SIZE, 0, NULL, NULL);
    struct alarm a, b, c;
    alarm_init(&a, m);
    alarm_init(&b, m);
    alarm_init(&c, m);
    guest_timer_arm(a.timer, 0);
    usleep(5000);
    assert_int_equal(a.fired, 0); /* the clock stands */
    guest_timer_arm(b.timer, 6 * MS);
    guest_timer_arm(c.timer, 3 * MS);
    guest_timer_arm(c.timer, 1000000ull * MS);
    clock_start(m);
    wait_fired(&a, 1);
    wait_fired(&b, 1);
    assert_true(b.at_ns >= 6 * MS);
    assert_int_equal(c.fired, 0);
    guest_timer_arm(c.timer, guest_now_ns(m) + 2 * MS); /* earlier than before */
    wait_fired(&c, 1);
    clock_stop(m); /* so that it cannot fire before */
    guest_timer_arm(c.timer, guest_now_ns(m) + 3 * MS);
    guest_timer_disarm(c.timer);
    guest_timer_disarm(c.timer);
    clock_start(m);
    usleep(8000);
    assert_int_equal(a.fired, 1);
    assert_int_equal(c.fired, 1);
    guest_timer_arm(c.timer, UINT64_MAX);
    guest_timer_destroy(a.timer);
    guest_timer_destroy(b.timer);
    guest_timer_destroy(c.timer);
    guest_timer_destroy(NULL);
    fake_machine_destroy(m);
}

static void test_timer_order(void **state)
{
    struct machine *m = fake_machine_create(PAGE_SIZE, 0, NULL, NULL);
    struct alarm a[8];
    for (unsigned i = 0; i < 8; i++)
        alarm_init(&a[i], m);
    for (unsigned i = 0; i < 8; i++)
        guest_timer_arm(a[i].timer, (i * 5 % 8 + 1) * MS);
    clock_start(m);
    for (unsigned i = 0; i < 8; i++)
        wait_fired(&a[i], 1);
    clock_stop(m);
    for (unsigned i = 0; i < 8; i++) {
        assert_true(a[i].at_ns >= (i * 5 % 8 + 1) * MS);
        for (unsigned k = 0; k < 8; k++)
            assert_true(i * 5 % 8 >= k * 5 % 8 || a[i].at_ns <= a[k].at_ns);
        guest_timer_destroy(a[i].timer);
    }
    fake_machine_destroy(m);
}

/* Stopping the clock and destroying a timer wait for its function. */
static void test_timer_stop(void **state)
{
    struct machine *m = fake_machine_create(PAGE_SIZE, 0, NULL, NULL);
    struct alarm a;
    alarm_init(&a, m);
    a.again_ns = MS / 2;
    a.slow_us = 2000;
    guest_timer_arm(a.timer, 0);
    for (unsigned i = 0; i < 20; i++) {
        clock_start(m);
        wait_fired(&a, a.fired + 1);
        clock_stop(m);
        assert_false(a.inside);
        unsigned fired = a.fired;
        usleep(1000);
        assert_int_equal(a.fired, fired);
    }
    a.slow_us = 20000;
    clock_start(m);
    wait_fired(&a, a.fired + 1);
    guest_timer_destroy(a.timer);
    assert_false(a.inside);
    unsigned fired = a.fired;
    usleep(3000);
    assert_int_equal(a.fired, fired);
    fake_machine_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clock),      cmocka_unit_test(test_tsc),
        cmocka_unit_test(test_timers),     cmocka_unit_test(test_timer_order),
        cmocka_unit_test(test_timer_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
