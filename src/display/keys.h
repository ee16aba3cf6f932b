/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Keys by the several names they have: codes of Linux' input-event-codes.h inside, PC scan codes
 * and X keysyms from VNC viewers, names and characters from people. Any thread.
 *
 * Keysyms and characters say what is printed on a key, not where it is: where, a layout says, which
 * must be the guest's. Viewers that send scan codes need none.
 */
#ifndef DISPLAY_KEYS_H
#define DISPLAY_KEYS_H

#include "display/layouts.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All answer 0 (KEY_RESERVED) for what they do not know. */

/* XT scan code; bit 7 for those that follow 0xe0 (as QEMU's extended key events have it). */
unsigned key_of_scancode(unsigned scancode);
/* The layout is the guest's. Shift and AltGr are keys of their own, which the viewer sends, too. */
unsigned key_of_keysym(const struct layout *layout, uint32_t keysym);
/* On a US keyboard. *shift: the key gives this symbol with Shift. */
unsigned key_of_char(char c, bool *shift);
/* "ctrl", "f1", "a", "kpenter" ...; not NUL-terminated. Case does not matter. */
unsigned key_of_name(const char *name, size_t len);

#endif
