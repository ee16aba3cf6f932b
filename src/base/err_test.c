/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/err.h"

#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void sentence(void **state)
{
    struct err err = { 0 };
    assert_int_equal(err_set(&err, EINVAL, "unknown feature bit %d", 6), -EINVAL);
    assert_int_equal(err.code, EINVAL);
    assert_string_equal(err.text, "unknown feature bit 6");
    assert_int_equal(err_prefix(&err, "%s.qcow2", "base"), -EINVAL);
    assert_int_equal(err_prefix(&err, "disk root"), -EINVAL);
    assert_string_equal(err.text, "disk root: base.qcow2: unknown feature bit 6");
}

static void of_errno(void **state)
{
    struct err err = { 0 };
    assert_int_equal(err_errno(&err, ENOENT, "cannot open %s", "x"), -ENOENT);
    assert_string_equal(err.text, "cannot open x: No such file or directory");
}

static void own_text_as_argument(void **state)
{
    struct err err = { 0 };
    err_set(&err, EIO, "inner");
    err_set(&err, EPROTO, "outer (%s)", err.text);
    assert_string_equal(err.text, "outer (inner)");
}

static void too_long(void **state)
{
    struct err err = { 0 };
    char text[1000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    err_set(&err, EIO, "%s", text);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_int_equal(err_prefix(&err, "disk"), -EIO);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_memory_equal(err.text, "disk: xxx", 9);
    assert_int_equal(err_prefix(&err, "%s", text), -EIO);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_int_equal(err_errno(&err, EIO, "%s", text), -EIO);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
}

static void without_buffer(void **state)
{
    assert_int_equal(err_set(NULL, ENOSPC, "full"), -ENOSPC);
    assert_int_equal(err_errno(NULL, ENOSPC, "full"), -ENOSPC);
    assert_int_equal(err_prefix(NULL, "disk"), -EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sentence),
        cmocka_unit_test(of_errno),
        cmocka_unit_test(own_text_as_argument),
        cmocka_unit_test(too_long),
        cmocka_unit_test(without_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
