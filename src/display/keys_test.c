/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Symbols of several countries' keyboards and the keys that they are on. */
#include "display/keys.h"

#include "base/checked.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <linux/input-event-codes.h>

static void keysyms_are_where_the_layout_has_them(void **state)
{
    static const struct {
        const char *layout;
        uint32_t keysym;
        unsigned key;
    } cases[] = {
        { "us", 'z', KEY_Z },
        { "us", '@', KEY_2 },
        { "us", 0xdf, 0 }, /* sharp s */
        { "gb", '@', KEY_APOSTROPHE },
        { "gb", 0xa3, KEY_3 }, /* pound */
        { "de", 'z', KEY_Y },
        { "de", 'Z', KEY_Y },
        { "de", '@', KEY_Q },
        { "de", 0xdf, KEY_MINUS },
        { "de", 0xfc, KEY_LEFTBRACE }, /* u with diaeresis */
        { "de", 0x20ac, KEY_E },       /* euro */
        { "de", 0x10020ac, KEY_E },    /* by its number in Unicode */
        { "de", '<', KEY_102ND },
        { "de", 0xfe52, KEY_GRAVE }, /* dead circumflex */
        { "de", '^', KEY_GRAVE },    /* the same from a viewer without dead keys */
        { "de", '`', KEY_EQUAL },
        { "de", 0xff0d, KEY_ENTER },
        { "de", 0xfe03, KEY_RIGHTALT },
        { "de", ' ', KEY_SPACE },
        { "fr", 'a', KEY_Q },
        { "fr", 'm', KEY_SEMICOLON },
        { "fr", '1', KEY_1 },
        { "fr", 0xe9, KEY_2 },           /* e with acute */
        { "fr", '^', KEY_9 },            /* with AltGr */
        { "fr", 0xfe52, KEY_LEFTBRACE }, /* the dead one */
        { "es", 0xf1, KEY_SEMICOLON },   /* n with tilde */
        { "it", 0xe8, KEY_LEFTBRACE },
        { "se", 0xe5, KEY_LEFTBRACE },
        { "se", '~', KEY_RIGHTBRACE },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        if (key_of_keysym(layout_find(cases[i].layout), cases[i].keysym) != cases[i].key)
            fail_msg("%s 0x%x: key %u, not %u", cases[i].layout, cases[i].keysym,
                     key_of_keysym(layout_find(cases[i].layout), cases[i].keysym), cases[i].key);
    assert_null(layout_find("xx"));
}

static void text_is_typed_as_on_a_us_keyboard(void **state)
{
    bool shift;
    for (char c = ' '; c < 0x7f; c++)
        assert_true(key_of_char(c, &shift));
    assert_int_equal(key_of_char('a', &shift), KEY_A);
    assert_false(shift);
    assert_int_equal(key_of_char('<', &shift), KEY_COMMA);
    assert_true(shift);
    assert_int_equal(key_of_char('\xe9', &shift), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keysyms_are_where_the_layout_has_them),
        cmocka_unit_test(text_is_typed_as_on_a_us_keyboard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
