/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is printed on the keys of several countries' keyboards. Any thread. */
#ifndef DISPLAY_LAYOUTS_H
#define DISPLAY_LAYOUTS_H

#include <uchar.h>

enum layout_level { LAYOUT_PLAIN, LAYOUT_SHIFT, LAYOUT_ALTGR, LAYOUT_LEVELS };

struct layout;

#define LAYOUT_NAMES "us, gb, de, fr, es, it and se"
extern const struct layout layout_us;
const struct layout *layout_find(const char *name); /* as X names it; NULL: there is none */
/* The code of the key that gives a character with nothing, Shift or AltGr held, 0: none does. A
 * dead key counts as its combining character (U+0300 to U+036F). `level` may be NULL. */
unsigned layout_key(const struct layout *layout, char32_t c, enum layout_level *level);

#endif
