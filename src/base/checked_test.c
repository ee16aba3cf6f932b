/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/checked.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void sums(void **state)
{
    uint64_t n = 7;
    assert_true(add_u64(1, 2, &n));
    assert_int_equal(n, 3);
    assert_false(add_u64(UINT64_MAX, 1, &n));
    assert_int_equal(n, 3); /* left alone */
    assert_true(mul_u64(1ull << 32, (1ull << 32) - 1, &n));
    assert_false(mul_u64(1ull << 32, 1ull << 32, &n));
    assert_true(n == ((1ull << 32) - 1) << 32);
}

static void ranges(void **state)
{
    assert_true(range_fits(0, 10, 10));
    assert_true(range_fits(10, 0, 10));
    assert_false(range_fits(11, 0, 10));
    assert_false(range_fits(1, 10, 10));
    assert_false(range_fits(1, UINT64_MAX, 10)); /* the sum would wrap to 0 */

    assert_true(ranges_overlap(0, 2, 1, 1));
    assert_true(ranges_overlap(1, 1, 0, 2));
    assert_false(ranges_overlap(0, 1, 1, 1));
    assert_false(ranges_overlap(5, 0, 0, 10)); /* nothing overlaps an empty range */
    assert_true(ranges_overlap(UINT64_MAX - 1, 2, UINT64_MAX, 1));
    assert_false(ranges_overlap(UINT64_MAX, 1, 0, 1));
}

static void powers(void **state)
{
    assert_false(is_power_of_two(0));
    assert_true(is_power_of_two(1));
    assert_true(is_power_of_two(1ull << 63));
    assert_false(is_power_of_two(6));
    assert_int_equal(round_down(4097, 4096), 4096);
    assert_int_equal(round_up(4097, 4096), 8192);
    assert_int_equal(round_up(4096, 4096), 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums),
        cmocka_unit_test(ranges),
        cmocka_unit_test(powers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
