/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Keyboard and pointer events on their way from people (VNC, control socket) to the guest's input
 * devices (PS/2, USB, virtio-input).
 *
 * One hub a machine. Devices add themselves with what they can take; an event goes to the one
 * device of its kind whose driver in the guest asked for it last, as with several keyboards on a
 * desk of which one is typed on. Keys are codes of Linux' input-event-codes.h (KEY_A is 30):
 * positions on the keyboard, not letters, so layouts stay the guest's business.
 *
 * Main loop only, no device lock held; handlers run on it and take their own locks.
 */
#ifndef DEVICES_INPUT_H
#define DEVICES_INPUT_H

#include "base/cleanup.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct input;

enum input_kind {
    INPUT_KEYBOARD = 1,
    INPUT_MOUSE = 2,  /* relative motion */
    INPUT_TABLET = 4, /* absolute position */
};

enum {
    INPUT_BUTTON_LEFT = 1,
    INPUT_BUTTON_RIGHT = 2,
    INPUT_BUTTON_MIDDLE = 4,
    INPUT_KEY_MAX = 0x2ff, /* the highest code */
    INPUT_POSITION_MAX = 0x7fff,
};

/* NULL where a device does not take the kind. */
struct input_handler {
    const char *name; /* of the device, for messages */
    unsigned kinds;   /* of enum input_kind, at most one of MOUSE and TABLET */
    void (*key)(void *arg, unsigned code, bool down);
    void (*motion)(void *arg, int dx, int dy);           /* pixels; down is positive */
    void (*position)(void *arg, unsigned x, unsigned y); /* 0 to INPUT_POSITION_MAX each */
    void (*buttons)(void *arg, unsigned held);           /* all INPUT_BUTTON_* held now */
    void (*wheel)(void *arg, int notches);               /* away from the user is positive */
    void *arg;
    bool (*keys_wait)(void *arg); /* has the guest keys to fetch still? NULL: it is not known */
};

int input_create(struct input **out, struct err *err);
void input_destroy(struct input *input); /* NULL is fine */
DEFINE_AUTO(struct input *, input_destroy)

/* `handler` is borrowed until input_remove. A device that is always alive (PS/2) adds itself with
 * active; others start inactive. */
void input_add(struct input *input, const struct input_handler *handler, bool active);
void input_remove(struct input *input, const struct input_handler *handler);
/* The guest's driver took the device into use, or let go of it. Keys and buttons that are held go
 * up on the device that loses the events. */
void input_set_active(struct input *input, const struct input_handler *handler, bool active);

/* ---- From people ---- */

/* False: no device takes it. Unknown codes are ignored. */
bool input_key(struct input *input, unsigned code, bool down);
/* Who sends many keys waits meanwhile: a keyboard's queue is short, and what does not fit is lost.
 */
bool input_keys_wait(const struct input *input);
/* Absolute pointer on a screen of width x height; becomes relative motion where the guest has only
 * a mouse. Positions beyond the edge count as the edge. */
bool input_pointer(struct input *input, unsigned x, unsigned y, unsigned width, unsigned height,
                   unsigned buttons);
bool input_wheel(struct input *input, int notches);
/* A viewer went away: nothing stays held. */
void input_release_all(struct input *input);
/* Does an absolute pointer reach the guest? */
bool input_has_tablet(const struct input *input);

#endif
