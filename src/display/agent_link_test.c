/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The way between a port and the display's helper: sessions, and either side that does not read. */
#include "display/agent_link.h"

#include "base/checked.h"
#include "base/loop.h"
#include "base/text.h"
#include "display/agent_wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static struct loop *loop;
static struct agent_link *link_;
static int helper;
static struct buf input; /* what the guest got */
static size_t input_room;
static unsigned goes;

static size_t take_input(void *arg, const uint8_t *data, size_t len)
{
    size_t n = len < input_room ? len : input_room;
    buf_add(&input, data, n);
    input_room -= n;
    return n;
}

static void output_go(void *arg) { goes++; }

static void stop(void *arg) { loop_stop(loop, 0); }

/* What is to be done now is done. */
static void settle(void)
{
    struct err err;
    struct loop_timer *timer;
    assert_int_equal(loop_timer_create(loop, stop, NULL, &timer, &err), 0);
    loop_timer_arm(timer, monotonic_ns() + 5000000);
    loop_run(loop);
    loop_timer_destroy(timer);
}

static int setup(void **state)
{
    struct err err;
    if (loop_create(&loop, &err) < 0 || agent_link_create(loop, &helper, &link_, &err) < 0)
        return -1;
    agent_link_set_port(link_, take_input, output_go, NULL);
    input_room = 1 << 20;
    goes = 0;
    return 0;
}

static int teardown(void **state)
{
    if (helper >= 0)
        close(helper);
    agent_link_destroy(link_);
    loop_destroy(loop);
    buf_fini(&input);
    return 0;
}

static void helper_gets(uint32_t session, const char *text)
{
    struct agent_frame frame;
    char data[AGENT_FRAME_MAX];
    assert_int_equal(recv(helper, &frame, sizeof frame, MSG_DONTWAIT), sizeof frame);
    assert_int_equal(frame.session, session);
    assert_int_equal(frame.len, strlen(text));
    if (frame.len)
        assert_int_equal(recv(helper, data, frame.len, MSG_DONTWAIT), frame.len);
    assert_memory_equal(data, text, frame.len);
}

static void helper_says(uint32_t session, const char *text)
{
    struct agent_frame frame = { session, (uint32_t)strlen(text) };
    assert_int_equal(write_full(helper, &frame, sizeof frame), 0);
    assert_int_equal(write_full(helper, text, strlen(text)), 0);
}

static void guest_got(const char *text)
{
    settle();
    assert_int_equal(input.len, strlen(text));
    assert_memory_equal(input.data, text, input.len);
    buf_fini(&input);
}

static void sessions(void **state)
{
    char none;
    agent_link_opened(link_, true);
    agent_link_output(link_, (const uint8_t *)"one", 3);
    settle();
    helper_gets(1, "one"); /* bytes begin a session as well as an empty frame */
    helper_gets(1, "");
    helper_says(1, "first");
    guest_got("first");
    agent_link_opened(link_, false);
    settle();
    assert_int_equal(recv(helper, &none, 1, MSG_DONTWAIT), -1);
    helper_says(1, "late");
    guest_got("");
    agent_link_opened(link_, true);
    settle();
    helper_gets(2, "");
    helper_says(1, "later");
    helper_says(2, "second");
    guest_got("second");
}

static void a_guest_that_does_not_read(void **state)
{
    agent_link_opened(link_, true);
    settle();
    input_room = 3;
    helper_says(1, "abcdef");
    helper_says(1, "ghi");
    guest_got("abc");
    guest_got("");
    input_room = 4;
    agent_link_input_room(link_);
    guest_got("defg");
    agent_link_opened(link_, false); /* the rest is for nobody */
    input_room = 100;
    agent_link_opened(link_, true);
    helper_says(2, "new");
    guest_got("new");
}

static void a_helper_that_does_not_read(void **state)
{
    uint8_t data[AGENT_FRAME_MAX] = { 'x' };
    char drained[65536];
    size_t sent = 0, got = 0;
    agent_link_opened(link_, true);
    while (agent_link_output_room(link_)) {
        agent_link_output(link_, data, sizeof data);
        sent += sizeof data;
        settle();
        assert_true(sent < 64 << 20);
    }
    assert_int_equal(goes, 0);
    ssize_t n;
    while ((n = recv(helper, drained, sizeof drained, MSG_DONTWAIT)) > 0) {
        got += (size_t)n;
        settle();
    }
    assert_int_equal(goes, 1);
    assert_int_equal(got, sent + (sent / sizeof data + 1) * sizeof(struct agent_frame));
    assert_true(agent_link_output_room(link_));
}

static void a_helper_that_talks_nonsense_or_is_gone(void **state)
{
    const struct agent_frame frame = { 1, AGENT_FRAME_MAX + 1 };
    char none;
    agent_link_opened(link_, true);
    settle();
    helper_gets(1, "");
    assert_int_equal(write_full(helper, &frame, sizeof frame), 0);
    settle();
    assert_int_equal(recv(helper, &none, 1, MSG_DONTWAIT), 0); /* hung up */
    for (unsigned i = 0; i < 100000; i++)
        agent_link_output(link_, (const uint8_t *)"abc", 3);
    assert_true(agent_link_output_room(link_)); /* nobody waits for it */
    guest_got("");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sessions, setup, teardown),
        cmocka_unit_test_setup_teardown(a_guest_that_does_not_read, setup, teardown),
        cmocka_unit_test_setup_teardown(a_helper_that_does_not_read, setup, teardown),
        cmocka_unit_test_setup_teardown(a_helper_that_talks_nonsense_or_is_gone, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
