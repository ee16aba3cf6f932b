/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the VMM and bedplate-display say to each other over their socket pair.
 *
 * All messages are one struct, in host byte order. With the first one (SETUP) come the descriptors:
 * the pixels' memfd, the listening socket, and with a clipboard the guest agent's socket
 * (agent_wire.h). Each side checks what the other sends.
 */
#ifndef DISPLAY_WIRE_H
#define DISPLAY_WIRE_H

#include <stdint.h>

#define DISPLAY_HELPER "bedplate-display"

enum display_kind {
    /* to the helper */
    /* a: width, b: height, c: 1 if viewers may ask for sizes, d: 1 with a clipboard */
    DISPLAY_SETUP = 1,
    DISPLAY_RESIZED, /* a: width, b: height */
    DISPLAY_CHANGED, /* a: x, b: y, c: width, d: height */
    /* to the VMM */
    DISPLAY_VIEWERS, /* a: how many there are now */
    DISPLAY_KEY,     /* a: Linux key code, b: 1 down, 0 up */
    DISPLAY_POINTER, /* a: x, b: y, c: buttons held (INPUT_BUTTON_*) */
    DISPLAY_WHEEL,   /* a: 1 away from the user, 0 towards */
    DISPLAY_ASK,     /* a: width, b: height that a viewer would like */
};

enum { DISPLAY_FDS_MAX = 3 };

struct display_message {
    uint32_t kind, a, b, c, d;
};

#endif
