/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Keys by the several names they have: codes of Linux' input-event-codes.h inside, PC scan codes
 * and X keysyms from VNC viewers, names and characters from people. Any thread.
 *
 * Keysyms and characters say what is printed on a key, not where it is: they are turned into
 * positions as on a US keyboard, which is right when the guest's layout is US. Viewers that send
 * scan codes need no such guess.
 */
#ifndef DISPLAY_KEYS_H
#define DISPLAY_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All answer 0 (KEY_RESERVED) for what they do not know. */

/* XT scan code; bit 7 for those that follow 0xe0 (as QEMU's extended key events have it). */
unsigned key_of_scancode(unsigned scancode);
/* *shift: the key gives this symbol with Shift. */
unsigned key_of_keysym(uint32_t keysym, bool *shift);
unsigned key_of_char(char c, bool *shift);
/* "ctrl", "f1", "a", "kpenter" ...; not NUL-terminated. Case does not matter. */
unsigned key_of_name(const char *name, size_t len);

#endif
