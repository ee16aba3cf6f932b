/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Keys in a burst reach a keyboard that holds one at a time, all of them and in their order. */
#include "devices/key_queue.h"

#include "base/loop.h"
#include "devices/input.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { BURST = 200, LOOKS = 3 };

struct keyboard {
    struct loop *loop;
    struct input *input;
    unsigned fetched[BURST], count;
    bool full;      /* a key is here that the guest has not fetched */
    unsigned looks; /* the guest fetches it after some of them; 0: never */
    bool taken;     /* what idle() was told */
};

static void on_key(void *arg, unsigned code, bool down)
{
    struct keyboard *k = arg;
    if (k->full && k->looks)
        fail_msg("a key came before the one before it was fetched");
    k->fetched[k->count++] = code << 1 | down;
    k->full = true;
}

static bool on_keys_wait(void *arg)
{
    struct keyboard *k = arg;
    if (k->looks && k->looks-- == 1) {
        k->full = false;
        k->looks = LOOKS;
    }
    return k->full;
}

static void on_idle(void *arg, bool taken)
{
    struct keyboard *k = arg;
    k->taken = taken;
    loop_stop(k->loop, 0);
}

static void type(struct keyboard *k, const struct input_handler *handler, unsigned count)
{
    struct err err;
    AUTO(key_queue_destroy) struct key_queue *queue = NULL;
    assert_int_equal(loop_create(&k->loop, &err), 0);
    assert_int_equal(input_create(&k->input, &err), 0);
    if (handler)
        input_add(k->input, handler, true);
    assert_int_equal(key_queue_create(k->loop, k->input, 0, on_idle, k, &queue, &err), 0);
    for (unsigned i = 0; i < count; i++)
        assert_true(key_queue_add(queue, 1 + i / 2, i % 2 == 0));
    key_queue_start(queue);
    assert_int_equal(k->count, 0);
    loop_run(k->loop);
    assert_true(key_queue_is_empty(queue));
    key_queue_destroy(TAKE(queue));
    input_destroy(k->input);
    loop_destroy(k->loop);
}

static void a_burst_arrives_whole(void **state)
{
    (void)state;
    struct keyboard k = { .looks = LOOKS };
    const struct input_handler handler = {
        .kinds = INPUT_KEYBOARD, .key = on_key, .keys_wait = on_keys_wait, .arg = &k
    };
    type(&k, &handler, BURST);
    assert_true(k.taken);
    assert_int_equal(k.count, BURST);
    for (unsigned i = 0; i < BURST; i++)
        assert_int_equal(k.fetched[i], (1 + i / 2) << 1 | (i % 2 == 0));
}

static void a_guest_that_fetches_nothing_does_not_hold_keys_for_ever(void **state)
{
    (void)state;
    struct keyboard k = { .looks = 0 };
    const struct input_handler handler = {
        .kinds = INPUT_KEYBOARD, .key = on_key, .keys_wait = on_keys_wait, .arg = &k
    };
    type(&k, &handler, 2);
    assert_int_equal(k.count, 2);
}

static void without_a_keyboard_it_says_so(void **state)
{
    (void)state;
    struct keyboard k = { .taken = true };
    type(&k, NULL, 2);
    assert_false(k.taken);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    struct err err;
    struct keyboard k = { 0 };
    AUTO(key_queue_destroy) struct key_queue *queue = NULL;
    assert_int_equal(loop_create(&k.loop, &err), 0);
    assert_int_equal(key_queue_create(k.loop, NULL, 0, on_idle, &k, &queue, &err), 0);
    for (unsigned i = 0; i < KEY_QUEUE_MAX; i++)
        assert_true(key_queue_add(queue, 1, true));
    assert_false(key_queue_add(queue, 1, false));
    key_queue_clear(queue);
    assert_true(key_queue_is_empty(queue) && key_queue_add(queue, 1, false));
    key_queue_destroy(TAKE(queue));
    loop_destroy(k.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_burst_arrives_whole),
        cmocka_unit_test(a_guest_that_fetches_nothing_does_not_hold_keys_for_ever),
        cmocka_unit_test(without_a_keyboard_it_says_so),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
