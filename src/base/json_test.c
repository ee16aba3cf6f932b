/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/json.h"

#include "base/text.h"

#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static int parse(const char *text, struct err *err)
{
    AUTO(json_decref) json_t *value = NULL;
    return json_parse(text, strlen(text), &value, err);
}

static void strictness(void **state)
{
    struct err err = { 0 };
    assert_int_equal(parse("{\"a\": [1, true, null, \"x\"]}", &err), 0);
    assert_int_equal(parse("17", &err), 0);
    static const char *const bad[] = {
        "",
        " ",
        "{",
        "{\"a\": 1} x",
        "{\"a\": 1, \"a\": 2}",
        "[1,]",
        "{'a': 1}",
        "\"\xff\"",
        "99999999999999999999",
        "1e999",
        "\"\\u0000\"",
        "[\"a\nb\"]",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err = (struct err){ 0 };
        assert_int_equal(parse(bad[i], &err), -EINVAL);
        assert_non_null(strstr(err.text, "invalid JSON in line"));
    }
}

static void depth(void **state)
{
    AUTO(buf_fini) struct buf text = { 0 };
    for (int i = 0; i < JSON_MAX_DEPTH; i++)
        buf_add(&text, "[", 1);
    for (int i = 0; i < JSON_MAX_DEPTH; i++)
        buf_add(&text, "]", 1);
    struct err err = { 0 };
    assert_int_equal(parse((char *)text.data, &err), 0);

    AUTO(buf_fini) struct buf deeper = { 0 };
    buf_printf(&deeper, "[%s]", text.data);
    assert_int_equal(parse((char *)deeper.data, &err), -EINVAL);
    assert_non_null(strstr(err.text, "deep"));

    /* Brackets in strings are no depth; escaped quotes do not end a string. */
    buf_fini(&deeper);
    buf_printf(&deeper, "[\"\\\"");
    for (int i = 0; i < 1000; i++)
        buf_add(&deeper, "[{", 2);
    buf_printf(&deeper, "\"]");
    assert_int_equal(parse((char *)deeper.data, &err), 0);

    /* Neither are those that were closed. */
    buf_fini(&deeper);
    buf_printf(&deeper, "[[]");
    for (int i = 0; i < 1000; i++)
        buf_printf(&deeper, ",[]");
    buf_printf(&deeper, "]");
    assert_int_equal(parse((char *)deeper.data, &err), 0);
}

static void too_large(void **state)
{
    AUTO(buf_fini) struct buf text = { 0 };
    memset(buf_grow(&text, JSON_MAX_BYTES + 1), ' ', JSON_MAX_BYTES + 1);
    assert_int_equal(parse((char *)text.data, NULL), -EFBIG);
}

static void members(void **state)
{
    AUTO(json_decref) json_t *o = NULL;
    static const char text[] =
        "{\"s\": \"x\", \"n\": 5, \"b\": true, \"minus\": -1, \"real\": 1.5}";
    assert_int_equal(json_parse(text, strlen(text), &o, NULL), 0);

    const char *s = "old";
    uint64_t n = 77;
    bool b = false;
    struct err err = { 0 };
    assert_int_equal(json_get_string(o, "s", &s, &err), 1);
    assert_string_equal(s, "x");
    assert_int_equal(json_get_string(o, "none", &s, &err), 0);
    assert_string_equal(s, "x");
    assert_int_equal(json_get_string(o, "n", &s, &err), -EINVAL);
    assert_string_equal(err.text, "'n' must be a string");

    assert_int_equal(json_get_u64(o, "n", 5, 5, &n, &err), 1);
    assert_int_equal(n, 5);
    assert_int_equal(json_get_u64(o, "n", 6, 9, &n, &err), -EINVAL);
    assert_string_equal(err.text, "'n' must be between 6 and 9");
    assert_int_equal(json_get_u64(o, "minus", 0, UINT64_MAX, &n, &err), -EINVAL);
    assert_int_equal(json_get_u64(o, "real", 0, UINT64_MAX, &n, &err), -EINVAL);
    assert_string_equal(err.text, "'real' must be a whole number");
    assert_int_equal(n, 5);

    assert_int_equal(json_get_bool(o, "b", &b, &err), 1);
    assert_true(b);
    assert_int_equal(json_get_bool(o, "n", &b, &err), -EINVAL);

    static const char *const all[] = { "s", "n", "b", "minus", "real", NULL };
    static const char *const some[] = { "s", "n", "b", "minus", NULL };
    assert_int_equal(json_only(o, all, &err), 0);
    assert_int_equal(json_only(o, some, &err), -EINVAL);
    assert_string_equal(err.text, "unknown member 'real'");

    AUTO(json_decref) json_t *array = json_array();
    assert_int_equal(json_get_u64(array, "n", 0, 1, &n, &err), -EINVAL);
    assert_int_equal(json_only(array, all, &err), -EINVAL);
}

static void printing(void **state)
{
    AUTO(json_decref) json_t *o = json_pack("{s:i,s:[b]}", "a", 1, "l", 0);
    char *text = json_print(o);
    assert_string_equal(text, "{\"a\":1,\"l\":[false]}");
    free(text);
}

static void from_file(void **state)
{
    char path[] = "/tmp/json_test.XXXXXX";
    AUTO(fd_close) int fd = mkstemp(path);
    assert_true(fd >= 0);
    AUTO(json_decref) json_t *o = NULL;
    struct err err = { 0 };
    assert_int_equal(write_full(fd, "[1]", 3), 0);
    assert_int_equal(json_parse_file(path, &o, &err), 0);
    assert_int_equal(json_array_size(o), 1);
    assert_int_equal(write_full(fd, "]", 1), 0);
    assert_int_equal(json_parse_file(path, &o, &err), -EINVAL);
    assert_ptr_equal(strstr(err.text, path), err.text);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strictness), cmocka_unit_test(depth),    cmocka_unit_test(too_large),
        cmocka_unit_test(members),    cmocka_unit_test(printing), cmocka_unit_test(from_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
