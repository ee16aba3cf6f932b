/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The loop of a test program of this room, which its test cases run for a while. */
#ifndef NET_LOOP_FOR_TEST_H
#define NET_LOOP_FOR_TEST_H

#include "base/log.h"
#include "base/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define NOTHING_HAPPENED 99

static struct loop *loop;

static void give_up(void *arg) { loop_stop(loop, NOTHING_HAPPENED); }

/* Runs the loop until a call-back stops it: the number it gave, or NOTHING_HAPPENED. */
static int run_for(unsigned ms)
{
    struct loop_timer *timer;
    struct err err;
    assert_int_equal(loop_timer_create(loop, give_up, NULL, &timer, &err), 0);
    loop_timer_arm(timer, monotonic_ns() + ms * 1000000ull);
    int r = loop_run(loop);
    loop_timer_destroy(timer);
    return r;
}

static int loop_setup(void **state)
{
    struct err err;
    log_set_level(LOG_ERROR, LOG_ERROR);
    return loop_create(&loop, &err);
}

static int loop_teardown(void **state)
{
    loop_destroy(loop);
    return 0;
}

#endif
