/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The symbols on keyboards, as in X's descriptions of them. */
#include "display/layouts.h"

#include "base/checked.h"

#include <linux/input-event-codes.h>
#include <stddef.h>
#include <string.h>

/* The key that each row begins with; the codes go on to the right, and after the rightmost. */
static const unsigned row_first[] = { KEY_1, KEY_Q, KEY_A, KEY_BACKSLASH, KEY_102ND };

enum { ROWS = ARRAY_LEN(row_first) };

struct layout {
    const char *name;
    const char32_t *rows[ROWS][LAYOUT_LEVELS]; /* NULL: nothing; a space: no symbol */
};

#define GRAVE "\u0300"
#define ACUTE "\u0301"
#define CIRCUMFLEX "\u0302"
#define TILDE "\u0303"
#define DIAERESIS "\u0308"

/* clang-format off */
const struct layout layout_us = { "us", {
    { U"1234567890-=", U"!@#$%^&*()_+" },
    { U"qwertyuiop[]", U"QWERTYUIOP{}" },
    { U"asdfghjkl;'`", U"ASDFGHJKL:\"~" },
    { U"\\zxcvbnm,./", U"|ZXCVBNM<>?" },
} };

static const struct layout layouts[] = {
    { "gb", {
        { U"1234567890-=", U"!\"£$%^&*()_+", U"   €" },
        { U"qwertyuiop[]", U"QWERTYUIOP{}" },
        { U"asdfghjkl;'`", U"ASDFGHJKL:@¬" },
        { U"#zxcvbnm,./",  U"~ZXCVBNM<>?" },
        { U"\\",           U"|" },
    } },
    { "de", {
        { U"1234567890ß" ACUTE,      U"!\"§$%&/()=?" GRAVE, U" ²³   {[]}\\" },
        { U"qwertzuiopü+",           U"QWERTZUIOPÜ*",       U"@ €        ~" },
        { U"asdfghjklöä" CIRCUMFLEX, U"ASDFGHJKLÖÄ°" },
        { U"#yxcvbnm,.-",            U"'YXCVBNM;:_",        U"       µ" },
        { U"<",                      U">",                  U"|" },
    } },
    { "fr", {
        { U"&é\"'(-è_çà)=",           U"1234567890°+",           U" ~#{[|`\\^@]}" },
        { U"azertyuiop" CIRCUMFLEX "$", U"AZERTYUIOP" DIAERESIS "£", U"  €        ¤" },
        { U"qsdfghjklmù²",            U"QSDFGHJKLM%" },
        { U"*wxcvbn,;:!",             U"µWXCVBN?./§" },
        { U"<",                       U">" },
    } },
    { "es", {
        { U"1234567890'¡",              U"!\"·$%&/()=?¿",              U"|@#~ ¬" },
        { U"qwertyuiop" GRAVE "+",      U"QWERTYUIOP" CIRCUMFLEX "*",  U"  €       []" },
        { U"asdfghjklñ" ACUTE "º",      U"ASDFGHJKLÑ" DIAERESIS "ª",   U"          {\\" },
        { U"çzxcvbnm,.-",               U"ÇZXCVBNM;:_",                U"}" },
        { U"<",                         U">" },
    } },
    { "it", {
        { U"1234567890'ì",  U"!\"£$%&/()=?^", U"      {  }`~" },
        { U"qwertyuiopè+",  U"QWERTYUIOPé*", U"  €       []" },
        { U"asdfghjklòà\\", U"ASDFGHJKLç°|", U"         @#" },
        { U"ùzxcvbnm,.-",   U"§ZXCVBNM;:_" },
        { U"<",             U">" },
    } },
    { "se", {
        { U"1234567890+" ACUTE,     U"!\"#¤%&/()=?" GRAVE,      U" @£$€ {[]}\\" },
        { U"qwertyuiopå" DIAERESIS, U"QWERTYUIOPÅ" CIRCUMFLEX,  U"  €        " TILDE },
        { U"asdfghjklöä§",          U"ASDFGHJKLÖÄ½" },
        { U"'zxcvbnm,.-",           U"*ZXCVBNM;:_",             U"       µ" },
        { U"<",                     U">",                       U"|" },
    } },
};
/* clang-format on */

const struct layout *layout_find(const char *name)
{
    if (strcmp(name, layout_us.name) == 0)
        return &layout_us;
    for (size_t i = 0; i < ARRAY_LEN(layouts); i++)
        if (strcmp(name, layouts[i].name) == 0)
            return &layouts[i];
    return NULL;
}

unsigned layout_key(const struct layout *layout, char32_t c, enum layout_level *level)
{
    for (unsigned n = 0; c > ' ' && n < LAYOUT_LEVELS; n++)
        for (unsigned row = 0; row < ROWS; row++) {
            const char32_t *symbols = layout->rows[row][n];
            for (unsigned i = 0; symbols && symbols[i]; i++)
                if (symbols[i] == c) {
                    if (level)
                        *level = (enum layout_level)n;
                    return row_first[row] + i;
                }
        }
    return 0;
}
