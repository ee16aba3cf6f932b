/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the options of the soft engine say, and what is said to those that are none. */
#include "engine/soft/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void defaults(void **state)
{
    (void)state;
    struct soft_options o;
    struct err err;
    assert_int_equal(soft_options_parse(NULL, &o, &err), 0);
    assert_true(o.jit && o.link && o.lookup && o.quick && o.sse && o.x87 && o.windows && o.loops);
    assert_true(o.pins && o.syscall && o.granules && o.tsc && o.last && o.stack);
    assert_false(o.perf);
    assert_int_equal(o.translate_after, 16);
    assert_int_equal(o.code, 0);
    assert_string_equal(o.trace, "");
}

static void several(void **state)
{
    (void)state;
    struct soft_options o;
    struct err err;
    assert_int_equal(soft_options_parse("hot=0,link=off,code=1M,jit=block,stack=off", &o, &err), 0);
    assert_true(o.jit && o.lookup && o.last);
    assert_false(o.link || o.stack);
    assert_int_equal(o.translate_after, 0);
    assert_int_equal(o.code, 1 << 20);
    assert_int_equal(o.code_most, 1 << 20);
    assert_int_equal(soft_options_parse("code=128K-1G", &o, &err), 0);
    assert_int_equal(o.code, 128 << 10);
    assert_int_equal(o.code_most, 1 << 30);
    assert_int_equal(soft_options_parse("jit=off,perf=on,trace=/tmp/blocks", &o, &err), 0);
    assert_true(o.perf && !o.jit && o.link);
    assert_string_equal(o.trace, "/tmp/blocks");
}

static void refused(void **state)
{
    (void)state;
    const struct {
        const char *text, *why;
    } cases[] = {
        { "link", "option \"link\" is not known; there are jit=off, link=off, " },
        { "hot=0,link=on", "option \"link=on\" is not known" },
        { "lastly=off", "option \"lastly=off\" is not known" },
        { "trace=", "option \"trace=\" is not known" },
        { "hot=65001", "option \"hot=65001\"" },
        { "code=64K", "option \"code=64K\": sizes are from 128K to 1G" },
        { "code=2G", "sizes are from 128K to 1G" },
        { "code=1M-2G", "option \"code=1M-2G\": sizes are from 128K to 1G" },
        { "code=2M-1M", "the first no larger than the second" },
        { "code=1M-", "'' is not a size" },
        { "code=-1M", "'' is not a size" },
    };
    for (unsigned n = 0; n < sizeof cases / sizeof *cases; n++) {
        struct soft_options o = { .code = 7 };
        struct err err = { 0 };
        assert_int_equal(soft_options_parse(cases[n].text, &o, &err), -EINVAL);
        assert_non_null(strstr(err.text, cases[n].why));
        assert_int_equal(o.code, 7);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(several),
        cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
