/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Known answers, and both ways of computing against each other. */
#include "migrate/crc32c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void known_answers(void **state)
{
    uint8_t data[32] = { 0 };
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(crc32c(0, data, 32), 0x8a9136aa); /* RFC 3720, appendix B.4 */
    memset(data, 0xff, 32);
    assert_int_equal(crc32c(0, data, 32), 0x62a8ab43);
    assert_int_equal(crc32c_plain(0, data, 32), 0x62a8ab43);
    assert_int_equal(crc32c(0, "", 0), 0);
}

static void parts_and_plain_agree(void **state)
{
    uint8_t data[1021];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7 + i / 11);
    for (size_t cut = 0; cut <= sizeof data; cut += 5) {
        uint32_t whole = crc32c(0, data, sizeof data);
        assert_int_equal(crc32c(crc32c(0, data, cut), data + cut, sizeof data - cut), whole);
        assert_int_equal(crc32c_plain(crc32c(0, data, cut), data + cut, sizeof data - cut), whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),
        cmocka_unit_test(parts_and_plain_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
