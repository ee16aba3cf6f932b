/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/log.h"

#include "base/text.h"

#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static char content[65536];
static int fd;

/* What the log file holds now. */
static const char *logged(void)
{
    ssize_t n = pread(fd, content, sizeof content - 1, 0);
    content[n > 0 ? n : 0] = 0;
    return content;
}

static int count(const char *needle)
{
    int n = 0;
    for (const char *p = logged(); (p = strstr(p, needle)); p++)
        n++;
    return n;
}

static int setup(void **state)
{
    fd = memfd_create("log_test", 0);
    log_set_level(LOG_ERROR, LOG_INFO);
    log_set_file(fd);
    return fd < 0;
}

static int teardown(void **state)
{
    log_set_file(-1);
    close(fd);
    return 0;
}

static void levels(void **state)
{
    log_debug("vm web-1: not this");
    log_info("vm web-1: this n=%d", 5);
    log_set_level(LOG_ERROR, LOG_DEBUG);
    log_debug("vm web-1: now this");
    assert_int_equal(count("not this"), 0);
    assert_int_equal(count("Z info vm web-1: this n=5\n"), 1);
    assert_int_equal(count("Z debug vm web-1: now this\n"), 1);
    int year, month, day;
    assert_int_equal(sscanf(logged(), "%d-%d-%dT", &year, &month, &day), 3);
    assert_true(year > 2000);
}

static void one_line_each(void **state)
{
    errno = ENOSPC;
    log_info("name '%s'", "a\nb\x1b[2Jc");
    assert_int_equal(errno, ENOSPC); /* callers may log first and return -errno then */
    assert_int_equal(count("name 'a?b?[2Jc'\n"), 1);
    assert_int_equal(count("\n"), 1);

    char text[5000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    log_info("%s", text);
    assert_int_equal(count("\n"), 2);
}

/* Waits for the start of a second, so that a test within it sees one window. */
static void second_start(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct timespec rest = { .tv_nsec = 1000000000 - now.tv_nsec + 20000000 };
    if (rest.tv_nsec >= 1000000000) {
        rest.tv_sec = 1;
        rest.tv_nsec -= 1000000000;
    }
    nanosleep(&rest, NULL);
}

static void guest_is_limited(void **state)
{
    log_set_level(LOG_ERROR, LOG_WARNING);
    struct log_rate rate = { 0 };
    second_start();
    for (int i = 0; i < 1000; i++)
        log_write_limited(&rate, LOG_WARNING, "guest did %d", i);
    /* Two windows if the machine stalled for most of a second. */
    int lines = count("guest did");
    assert_true(lines >= 10 && lines <= 20);
    second_start();
    log_write_limited(&rate, LOG_WARNING, "after");
    char want[64];
    snprintf(want, sizeof want, "after held_back=%d\n", 1000 - lines);
    if (lines == 10)
        assert_int_equal(count(want), 1);
    log_write_limited(&rate, LOG_WARNING, "then");
    assert_int_equal(count("then\n"), 1); /* counted once */

    /* Call sites are apart. */
    for (int i = 0; i < 3; i++)
        log_guest("site a");
    log_guest("site b");
    assert_int_equal(count("site a"), 3);
    assert_int_equal(count("site b"), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(levels, setup, teardown),
        cmocka_unit_test_setup_teardown(one_line_each, setup, teardown),
        cmocka_unit_test_setup_teardown(guest_is_limited, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
