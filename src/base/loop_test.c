/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/loop.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static struct loop *loop;

static int setup(void **state) { return loop_create(&loop, NULL); }

static int teardown(void **state)
{
    loop_destroy(loop);
    return 0;
}

static void stop_with(void *arg) { loop_stop(loop, *(int *)arg); }

static void *run_thread(void *arg)
{
    *(int *)arg = loop_run(loop);
    return NULL;
}

/* ---- posts ---- */

enum { POSTERS = 4, POSTS = 5000 };

struct poster {
    pthread_t thread;
    int next;
    struct posted {
        struct poster *poster;
        int n;
    } posted[POSTS];
};
static struct poster posters[POSTERS];
static int posts_seen;

static void posted_run(void *arg)
{
    struct posted *posted = arg;
    assert_true(loop_is_current(loop));
    assert_int_equal(posted->poster->next, posted->n); /* the order of posting */
    posted->poster->next++;
    if (++posts_seen == POSTERS * POSTS)
        loop_stop(loop, 3);
}

static void *poster_run(void *arg)
{
    struct poster *poster = arg;
    for (int i = 0; i < POSTS; i++) {
        poster->posted[i] = (struct posted){ poster, i };
        loop_post(loop, posted_run, &poster->posted[i]);
    }
    return NULL;
}

static void posts_from_threads(void **state)
{
    for (int i = 0; i < POSTERS; i++)
        assert_int_equal(pthread_create(&posters[i].thread, NULL, poster_run, &posters[i]), 0);
    assert_int_equal(loop_run(loop), 3);
    for (int i = 0; i < POSTERS; i++)
        pthread_join(posters[i].thread, NULL);
    assert_int_equal(posts_seen, POSTERS * POSTS);
}

static int depth;

static void post_again(void *arg)
{
    int *left = arg;
    assert_int_equal(depth, 0); /* never inside loop_post */
    depth++;
    if (--*left)
        loop_post(loop, post_again, left);
    depth--;
}

static void posts_before_the_end_run(void **state)
{
    int left = 10, status = 7;
    loop_post(loop, stop_with, &status);
    loop_post(loop, post_again, &left);
    assert_int_equal(loop_run(loop), 7);
    assert_int_equal(left, 0);
}

static void stop_is_not_lost(void **state)
{
    loop_stop(loop, 4);
    loop_stop(loop, 5); /* the first counts */
    assert_int_equal(loop_run(loop), 4);
    loop_stop(loop, 6); /* and it can run again */
    assert_int_equal(loop_run(loop), 6);
}

static void dropped_posts(void **state)
{
    int status = 0;
    loop_post(loop, stop_with, &status); /* the leak checker looks at this one */
}

/* ---- calls ---- */

static _Atomic int called;

static void call_nested(void *arg) { called += 100; }

static void call_count(void *arg)
{
    assert_true(loop_is_current(loop));
    called++;
    if (arg)
        loop_call(loop, call_nested, NULL); /* on the loop itself: at once */
}

static void calls(void **state)
{
    called = 0;
    loop_call(loop, call_count, NULL); /* nobody runs it */
    assert_int_equal(called, 1);

    int status = -1;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run_thread, &status), 0);
    for (int i = 0; i < 1000; i++) {
        loop_call(loop, call_count, NULL);
        assert_int_equal(called, 2 + i);
    }
    loop_call(loop, call_count, &status);
    assert_int_equal(called, 1102);
    loop_stop(loop, 9);
    /* However the end of the loop falls, this one neither hangs nor is lost. */
    loop_call(loop, call_nested, NULL);
    assert_int_equal(called, 1202);
    pthread_join(thread, NULL);
    assert_int_equal(status, 9);
}

/* Calls while the loop starts and stops all the time: each runs, and never two at once. */
static _Atomic int inside;
static int counted;

static void call_alone(void *arg)
{
    assert_int_equal(atomic_fetch_add(&inside, 1), 0);
    assert_true(loop_is_current(loop));
    counted++;
    atomic_fetch_sub(&inside, 1);
}

static void *call_often(void *arg)
{
    for (int i = 0; i < 2000; i++)
        loop_call(loop, call_alone, NULL);
    return NULL;
}

static void calls_around_start_and_end(void **state)
{
    pthread_t threads[3];
    counted = 0;
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, call_often, NULL), 0);
    for (int i = 0; i < 2000; i++) {
        loop_post(loop, call_alone, NULL);
        loop_stop(loop, i);
        assert_int_equal(loop_run(loop), i);
    }
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(counted, 8000);
}

/* ---- watches ---- */

struct channel {
    int fds[2];
    struct loop_watch *watch;
    _Atomic int reads; /* on the loop's thread, while another looks */
    int hangups;
    struct channel *victim; /* whose watch the call-back destroys */
};

static void channel_event(void *arg, unsigned events)
{
    struct channel *c = arg;
    assert_non_null(c->watch);
    char byte;
    if (events & LOOP_READ && read(c->fds[0], &byte, 1) == 1)
        c->reads++;
    if (events & LOOP_HANGUP)
        c->hangups++;
    if (c->victim) {
        loop_watch_destroy(TAKE(c->victim->watch));
        c->victim = NULL;
    }
}

static void channel_open(struct channel *c)
{
    assert_int_equal(pipe(c->fds), 0);
    assert_int_equal(
        loop_watch_create(loop, c->fds[0], LOOP_READ, channel_event, c, &c->watch, NULL), 0);
}

static void channel_close(struct channel *c)
{
    loop_watch_destroy(TAKE(c->watch));
    fd_close(c->fds[0]);
    fd_close(c->fds[1]);
}

/* Lets the loop turn until nothing is left to do. */
static void turn(uint64_t ms)
{
    static int zero;
    struct loop_timer *timer;
    assert_int_equal(loop_timer_create(loop, stop_with, &zero, &timer, NULL), 0);
    loop_timer_arm(timer, monotonic_ns() + ms * 1000000);
    assert_int_equal(loop_run(loop), 0);
    loop_timer_destroy(timer);
}

static void watches(void **state)
{
    struct channel c = { 0 };
    channel_open(&c);
    assert_int_equal(write(c.fds[1], "abc", 3), 3);
    turn(20);
    assert_int_equal(c.reads, 3); /* level-triggered */

    loop_watch_events(c.watch, 0);
    assert_int_equal(write(c.fds[1], "d", 1), 1);
    turn(20);
    assert_int_equal(c.reads, 3);
    loop_watch_events(c.watch, LOOP_READ);
    turn(20);
    assert_int_equal(c.reads, 4);

    fd_close(TAKE_FD(c.fds[1]));
    c.victim = &c; /* destroys itself at the hang-up, which would come for ever otherwise */
    turn(20);
    assert_int_equal(c.hangups, 1);
    assert_null(c.watch);
    channel_close(&c);

    struct loop_watch *watch = NULL;
    struct err err = { 0 };
    assert_int_equal(loop_watch_create(loop, -1, LOOP_READ, channel_event, &c, &watch, &err),
                     -EBADF);
    assert_null(watch);
}

static void writable(void **state)
{
    struct channel c = { 0 };
    assert_int_equal(pipe(c.fds), 0);
    c.victim = &c;
    assert_int_equal(
        loop_watch_create(loop, c.fds[1], LOOP_WRITE, channel_event, &c, &c.watch, NULL), 0);
    turn(20);
    assert_null(c.watch);
    channel_close(&c);
}

/* Two watches are ready in one round and each would destroy the other: only one may be called. */
static void destroyed_in_the_same_round(void **state)
{
    struct channel a = { 0 }, b = { 0 };
    channel_open(&a);
    channel_open(&b);
    a.victim = &b;
    b.victim = &a;
    assert_int_equal(write(a.fds[1], "x", 1), 1);
    assert_int_equal(write(b.fds[1], "x", 1), 1);
    turn(20);
    assert_int_equal(a.reads + b.reads, 1);
    assert_true(!a.watch != !b.watch);
    channel_close(&a);
    channel_close(&b);
}

static void left_overs(void **state)
{
    /* Not destroyed by us: loop_destroy does, the leak checker looks. */
    static struct channel c;
    channel_open(&c);
    struct loop_timer *timer;
    assert_int_equal(loop_timer_create(loop, stop_with, NULL, &timer, NULL), 0);
    loop_timer_arm(timer, monotonic_ns() + 1000000000000ull);
    loop_destroy(TAKE(loop));
    close(c.fds[0]);
    close(c.fds[1]);
}

/* ---- timers ---- */

enum { TIMERS = 50 };

struct clock {
    struct loop_timer *timer;
    uint64_t deadline_ns;
    _Atomic int fired; /* on the loop's thread, while another looks */
    bool again, destroys;
    struct clock *victim;
};
static uint64_t last_deadline_ns;

static void clock_fired(void *arg)
{
    struct clock *clock = arg;
    assert_non_null(clock->timer);
    assert_true(monotonic_ns() >= clock->deadline_ns); /* never early */
    assert_true(clock->deadline_ns >= last_deadline_ns);
    last_deadline_ns = clock->deadline_ns;
    clock->fired++;
    if (clock->again)
        loop_timer_arm(clock->timer, 0);
    if (clock->victim)
        loop_timer_destroy(TAKE(clock->victim->timer));
    if (clock->destroys)
        loop_timer_destroy(TAKE(clock->timer));
}

static void clock_set(struct clock *clock, uint64_t deadline_ns)
{
    if (!clock->timer)
        assert_int_equal(loop_timer_create(loop, clock_fired, clock, &clock->timer, NULL), 0);
    clock->deadline_ns = deadline_ns;
    loop_timer_arm(clock->timer, deadline_ns);
}

static void timers_in_order(void **state)
{
    static struct clock clocks[TIMERS];
    memset(clocks, 0, sizeof clocks);
    last_deadline_ns = 0;
    uint64_t now = monotonic_ns();
    for (unsigned i = 0; i < TIMERS; i++) /* in a mixed order, some equal, some past */
        clock_set(&clocks[i], now - 5000000 + (i * 37 % 40) * 1000000);
    loop_timer_disarm(clocks[7].timer);
    loop_timer_disarm(clocks[7].timer);
    clocks[8].destroys = true;
    turn(100);
    for (int i = 0; i < TIMERS; i++) {
        assert_int_equal(clocks[i].fired, i != 7);
        loop_timer_destroy(clocks[i].timer);
    }
}

static void timer_moves(void **state)
{
    struct clock early = { 0 }, late = { 0 };
    last_deadline_ns = 0;
    uint64_t now = monotonic_ns();
    clock_set(&early, now + 1000000);
    clock_set(&late, now + 20000000);
    clock_set(&early, now + 30000000); /* pushed back behind the other */
    turn(100);
    assert_int_equal(early.fired, 1); /* order is checked in the call-back */
    assert_int_equal(late.fired, 1);
    clock_set(&late, monotonic_ns() + 1000000000000ull);
    clock_set(&late, monotonic_ns());
    turn(20);
    assert_int_equal(late.fired, 2);
    loop_timer_destroy(early.timer);
    loop_timer_destroy(late.timer);
}

static void timer_destroys_due_one(void **state)
{
    struct clock a = { 0 }, b = { .victim = &a };
    a.victim = &b;
    last_deadline_ns = 0;
    clock_set(&a, 1);
    clock_set(&b, 1);
    turn(20);
    assert_int_equal(a.fired + b.fired, 1);
    loop_timer_destroy(a.timer);
    loop_timer_destroy(b.timer);
}

/* A timer that is always due must not keep posts and watches from their turn. */
static void restless_timer(void **state)
{
    struct clock clock = { .again = true };
    last_deadline_ns = 0;
    clock_set(&clock, 0);
    struct channel c = { 0 };
    channel_open(&c);
    assert_int_equal(write(c.fds[1], "x", 1), 1);
    int status;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run_thread, &status), 0);
    called = 0;
    loop_call(loop, call_count, NULL);
    assert_int_equal(called, 1);
    const struct timespec ms = { .tv_nsec = 1000000 };
    for (unsigned i = 0; i < 60000 && (!c.reads || clock.fired < 2); i++)
        nanosleep(&ms, NULL);
    loop_stop(loop, 2);
    pthread_join(thread, NULL);
    assert_int_equal(status, 2);
    assert_int_equal(c.reads, 1);
    assert_true(clock.fired > 1);
    loop_timer_destroy(clock.timer);
    channel_close(&c);
}

#define LOOP_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOOP_TEST(posts_from_threads),
        LOOP_TEST(posts_before_the_end_run),
        LOOP_TEST(stop_is_not_lost),
        LOOP_TEST(dropped_posts),
        LOOP_TEST(calls),
        LOOP_TEST(calls_around_start_and_end),
        LOOP_TEST(watches),
        LOOP_TEST(writable),
        LOOP_TEST(destroyed_in_the_same_round),
        LOOP_TEST(left_overs),
        LOOP_TEST(timers_in_order),
        LOOP_TEST(timer_moves),
        LOOP_TEST(timer_destroys_due_one),
        LOOP_TEST(restless_timer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
