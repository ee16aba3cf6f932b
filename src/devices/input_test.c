/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which device gets what, and that nothing stays pressed on the one that loses the events. */
#include "devices/input.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct probe {
    struct input_handler handler;
    char log[512];
};

#define SAY(...) snprintf(p->log + strlen(p->log), sizeof p->log - strlen(p->log), __VA_ARGS__)

static void on_key(void *arg, unsigned code, bool down)
{
    struct probe *p = arg;
    SAY("%c%u ", down ? '+' : '-', code);
}

static void on_motion(void *arg, int dx, int dy)
{
    struct probe *p = arg;
    SAY("m%d,%d ", dx, dy);
}

static void on_position(void *arg, unsigned x, unsigned y)
{
    struct probe *p = arg;
    SAY("p%u,%u ", x, y);
}

static void on_buttons(void *arg, unsigned held)
{
    struct probe *p = arg;
    SAY("b%u ", held);
}

static void on_wheel(void *arg, int notches)
{
    struct probe *p = arg;
    SAY("w%d ", notches);
}

static void probe_init(struct probe *p, unsigned kinds)
{
    *p = (struct probe){ .handler = { "probe", kinds, on_key, on_motion, on_position, on_buttons,
                                      on_wheel, p } };
}

static void latest_keyboard_types(void **state)
{
    (void)state;
    AUTO(input_destroy) struct input *input = NULL;
    struct probe old, new;
    probe_init(&old, INPUT_KEYBOARD);
    probe_init(&new, INPUT_KEYBOARD);
    assert_int_equal(input_create(&input, NULL), 0);
    assert_false(input_key(input, 30, true));

    input_add(input, &old.handler, true);
    input_add(input, &new.handler, false);
    assert_true(input_key(input, 30, true));
    input_set_active(input, &new.handler, true); /* 30 goes up on the old one */
    assert_true(input_key(input, 30, false));    /* and is not held on the new one */
    assert_true(input_key(input, 31, true));
    assert_string_equal(old.log, "+30 -30 ");
    assert_string_equal(new.log, "+31 ");
    input_set_active(input, &new.handler, false);
    input_key(input, 32, true);
    input_release_all(input);
    assert_string_equal(old.log, "+30 -30 +32 -32 ");
    assert_string_equal(new.log, "+31 -31 ");
    assert_false(input_key(input, INPUT_KEY_MAX + 1, true));
}

static void pointer_becomes_what_the_guest_has(void **state)
{
    (void)state;
    AUTO(input_destroy) struct input *input = NULL;
    struct probe mouse, tablet;
    probe_init(&mouse, INPUT_MOUSE);
    probe_init(&tablet, INPUT_TABLET);
    assert_int_equal(input_create(&input, NULL), 0);
    input_add(input, &mouse.handler, true);
    input_add(input, &tablet.handler, false);

    input_pointer(input, 10, 10, 100, 100, 0); /* the first one only says where it is */
    input_pointer(input, 15, 7, 100, 100, INPUT_BUTTON_LEFT);
    input_wheel(input, -1);
    assert_string_equal(mouse.log, "m5,-3 b1 w-1 ");
    assert_false(input_has_tablet(input));

    input_set_active(input, &tablet.handler, true);
    assert_true(input_has_tablet(input));
    input_pointer(input, 0, 200, 101, 101, 0);
    input_pointer(input, 50, 100, 101, 101, INPUT_BUTTON_RIGHT);
    input_remove(input, &tablet.handler);
    assert_string_equal(tablet.log, "p0,32767 p16383,32767 b2 b0 ");
    assert_string_equal(mouse.log, "m5,-3 b1 w-1 b0 ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(latest_keyboard_types),
        cmocka_unit_test(pointer_becomes_what_the_guest_has),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
