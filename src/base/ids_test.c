/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/ids.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void uuids(void **state)
{
    static const char text[] = "123e4567-e89b-12d3-a456-4266141740fF";
    uint8_t uuid[16], other[16];
    char printed[UUID_TEXT];
    struct err err;
    assert_int_equal(uuid_parse(text, uuid, &err), 0);
    assert_int_equal(uuid[0], 0x12);
    assert_int_equal(uuid[7], 0xd3);
    assert_int_equal(uuid[15], 0xff);
    uuid_print(uuid, printed);
    assert_string_equal(printed, "123e4567-e89b-12d3-a456-4266141740ff");
    assert_int_equal(uuid_make(uuid, &err), 0);
    assert_int_equal(uuid_make(other, &err), 0);
    assert_memory_not_equal(uuid, other, 16);
    assert_int_equal(uuid[6] >> 4, 4);
    assert_int_equal(uuid[8] >> 6, 2);
    static const char *const bad[] = { "", "123e4567e89b12d3a4564266141740ff",
                                       "123e4567-e89b-12d3-a456-4266141740f",
                                       "123e4567-e89b-12d3-a456-4266141740ff0",
                                       "123e4567-e89b-12d3-a456-4266141740fg" };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(uuid_parse(bad[i], other, &err), -EINVAL);
}

static void macs(void **state)
{
    uint8_t mac[6];
    char printed[MAC_TEXT];
    struct err err;
    assert_int_equal(mac_parse("52:54:00:aB:cd:09", mac, &err), 0);
    mac_print(mac, printed);
    assert_string_equal(printed, "52:54:00:ab:cd:09");
    assert_int_equal(mac_make(mac, &err), 0);
    assert_memory_equal(mac, "\x52\x54\x00", 3);
    assert_int_equal(mac_parse("01:00:00:00:00:00", mac, &err), -EINVAL);
    assert_non_null(strstr(err.text, "multicast"));
    assert_int_equal(mac_parse("52:54:00:12:34", mac, &err), -EINVAL);
    assert_int_equal(mac_parse("52-54-00-12-34-56", mac, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(uuids), cmocka_unit_test(macs) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
