/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The two devices behind a PS/2 controller: a keyboard and a mouse with wheel.
 *
 * Plain registers without a lock: the controller (i8042.c) guards them with its own. Each has two
 * queues towards the controller: answers to commands, which go first, and what people do.
 */
#ifndef DEVICES_PS2_H
#define DEVICES_PS2_H

#include "machine/state.h"

#include <stdbool.h>
#include <stdint.h>

enum { PS2_ANSWERS = 8, PS2_EVENTS = 64 };

struct ps2_port { /* what both have */
    uint8_t answers[PS2_ANSWERS];
    uint8_t events[PS2_EVENTS]; /* a ring */
    uint8_t answer_count;
    uint8_t event_start, event_count;
    uint8_t command; /* whose parameter is awaited; 0: none */
    uint8_t last;    /* for "resend" */
    uint8_t enabled; /* scanning, or data reporting */
};

struct ps2_keyboard {
    struct ps2_port port;
    uint8_t set;  /* of scan codes: 1 or 2 */
    uint8_t leds; /* as the guest set them */
};

struct ps2_mouse {
    struct ps2_port port;
    uint16_t moved;      /* a packet is due */
    uint16_t dx, dy, dz; /* moved since the last packet, two's complement; dy is positive upwards */
    uint8_t buttons, sent_buttons;
    uint8_t id; /* 0: three buttons, 3: with wheel, 4: with five buttons */
    uint8_t rate, resolution, scaling;
    uint8_t remote, wrap;
    uint8_t knock[2]; /* the two sample rates set last: the sequence that turns the wheel on */
};

extern const struct state_desc ps2_keyboard_state, ps2_mouse_state;

void ps2_keyboard_init(struct ps2_keyboard *k);
void ps2_mouse_init(struct ps2_mouse *m);
/* A byte from the guest. */
void ps2_keyboard_write(struct ps2_keyboard *k, uint8_t byte);
void ps2_mouse_write(struct ps2_mouse *m, uint8_t byte);
/* The next byte for the guest; false: there is none. */
bool ps2_keyboard_read(struct ps2_keyboard *k, uint8_t *byte);
bool ps2_mouse_read(struct ps2_mouse *m, uint8_t *byte);

/* What people do; codes and units of devices/input.h. */
void ps2_keyboard_key(struct ps2_keyboard *k, unsigned code, bool down);
void ps2_mouse_motion(struct ps2_mouse *m, int dx, int dy);
void ps2_mouse_buttons(struct ps2_mouse *m, unsigned held);
void ps2_mouse_wheel(struct ps2_mouse *m, int notches);

/* The set 1 code of a set 2 code: what the controller's translation does. */
extern const uint8_t ps2_translation[256];

#endif
