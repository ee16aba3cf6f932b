/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A PS/2 keyboard (scan code sets 2 and 1) and a PS/2 mouse with the wheel of the IntelliMouse and
 * the two further buttons of the IntelliMouse Explorer.
 *
 * Follows the IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device
 * Controller". Set 3 is refused, as many keyboards do. Keys are not repeated here (who types holds
 * the key on a keyboard that repeats), so the rate of repetition is taken and forgotten.
 */
#include "devices/ps2.h"

#include "base/checked.h"

#include <string.h>

enum { ACK = 0xfa, RESEND = 0xfe, SELF_TEST_PASSED = 0xaa, ECHO = 0xee };
enum { BREAK = 0xf0, EXTENDED = 0xe0, EXTENDED_KEY = 0x100, SET1_BREAK = 0x80 };
enum { KEY_PAUSE = 119 };
enum { MOUSE_PLAIN = 0, MOUSE_WHEEL = 3, MOUSE_EXPLORER = 4 };
enum { MOUSE_RATE = 100, MOUSE_RESOLUTION = 2 };

/* clang-format off */
const uint8_t ps2_translation[256] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40,
    0x3e, 0x0f, 0x29, 0x59, 0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a,
    0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, 0x67, 0x2e, 0x2d, 0x20,
    0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24,
    0x16, 0x08, 0x09, 0x5f, 0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60,
    0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, 0x6d, 0x73, 0x28, 0x74,
    0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b,
    0x47, 0x7e, 0x7f, 0x6f, 0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45,
    0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, 0x80, 0x81, 0x82, 0x41,
    0x54, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f,
    0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b,
    0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7,
    0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 0xb0, 0xb1, 0xb2, 0xb3,
    0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xbb, 0xbc, 0xbd, 0xbe, 0xbf,
    0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xcb,
    0xcc, 0xcd, 0xce, 0xcf, 0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7,
    0xd8, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xe0, 0xe1, 0xe2, 0xe3,
    0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xeb, 0xec, 0xed, 0xee, 0xef,
    0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa, 0xfb,
    0xfc, 0xfd, 0xfe, 0xff,
};

/* By Linux key code: the code of set 2, with EXTENDED_KEY where 0xe0 precedes it; 0: no such key. */
static const uint16_t set2_codes[] = {
    0x000, 0x076, 0x016, 0x01e, 0x026, 0x025, 0x02e, 0x036, 0x03d, 0x03e,
    0x046, 0x045, 0x04e, 0x055, 0x066, 0x00d, 0x015, 0x01d, 0x024, 0x02d,
    0x02c, 0x035, 0x03c, 0x043, 0x044, 0x04d, 0x054, 0x05b, 0x05a, 0x014,
    0x01c, 0x01b, 0x023, 0x02b, 0x034, 0x033, 0x03b, 0x042, 0x04b, 0x04c,
    0x052, 0x00e, 0x012, 0x05d, 0x01a, 0x022, 0x021, 0x02a, 0x032, 0x031,
    0x03a, 0x041, 0x049, 0x04a, 0x059, 0x07c, 0x011, 0x029, 0x058, 0x005,
    0x006, 0x004, 0x00c, 0x003, 0x00b, 0x083, 0x00a, 0x001, 0x009, 0x077,
    0x07e, 0x06c, 0x075, 0x07d, 0x07b, 0x06b, 0x073, 0x074, 0x079, 0x069,
    0x072, 0x07a, 0x070, 0x071, 0x084, 0x000, 0x061, 0x078, 0x007, 0x051,
    0x063, 0x062, 0x064, 0x013, 0x067, 0x027, 0x15a, 0x114, 0x14a, 0x17c,
    0x111, 0x000, 0x16c, 0x175, 0x17d, 0x16b, 0x174, 0x169, 0x172, 0x17a,
    0x170, 0x171, 0x000, 0x123, 0x121, 0x132, 0x137, 0x000, 0x000, 0x000,
    0x000, 0x000, 0x000, 0x000, 0x06a, 0x11f, 0x127, 0x12f, 0x128, 0x000,
    0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000,
    0x12b, 0x000, 0x13f, 0x15e, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000,
    0x000, 0x000, 0x000, 0x000, 0x000, 0x148, 0x118, 0x000, 0x138, 0x130,
    0x000, 0x000, 0x000, 0x14d, 0x134, 0x115, 0x13b, 0x000, 0x000, 0x000,
    0x000, 0x000, 0x13a, 0x120, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000,
    0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000,
    0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000,
    0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000,
    0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x000, 0x110, 0x000, 0x000,
};
/* clang-format on */

/* ---- queues ---- */

static void port_answer(struct ps2_port *port, uint8_t byte)
{
    if (port->answer_count < PS2_ANSWERS)
        port->answers[port->answer_count++] = byte;
}

static unsigned port_room(const struct ps2_port *port) { return PS2_EVENTS - port->event_count; }

static void port_event(struct ps2_port *port, const uint8_t *bytes, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        port->events[(port->event_start + port->event_count++) % PS2_EVENTS] = bytes[i];
}

static bool port_read(struct ps2_port *port, uint8_t *byte)
{
    if (port->answer_count) {
        *byte = port->answers[0];
        memmove(port->answers, port->answers + 1, --port->answer_count);
    } else if (port->event_count) {
        *byte = port->events[port->event_start];
        port->event_start = (uint8_t)((port->event_start + 1) % PS2_EVENTS);
        port->event_count--;
    } else {
        return false;
    }
    port->last = *byte;
    return true;
}

/* ---- keyboard ---- */

static void keyboard_defaults(struct ps2_keyboard *k)
{
    k->set = 2;
    k->leds = 0;
}

void ps2_keyboard_init(struct ps2_keyboard *k)
{
    memset(k, 0, sizeof *k);
    keyboard_defaults(k);
    k->port.enabled = 1;
}

/* Answers false where the parameter is not one. */
static bool keyboard_parameter(struct ps2_keyboard *k, uint8_t command, uint8_t byte)
{
    switch (command) {
    case 0xed: k->leds = byte & 7; return true;
    case 0xf0:
        if (byte > 2)
            return false;
        port_answer(&k->port, ACK);
        if (byte == 0)
            port_answer(&k->port, k->set);
        else
            k->set = byte;
        return true;
    }
    return true;
}

static void keyboard_command(struct ps2_keyboard *k, uint8_t byte)
{
    struct ps2_port *port = &k->port;
    switch (byte) {
    case 0xed:
    case 0xf0:
    case 0xf3: port->command = byte; break;
    case ECHO: port_answer(port, ECHO); return;
    case 0xf2:
        port_answer(port, ACK);
        port_answer(port, 0xab);
        port_answer(port, 0x83);
        return;
    case 0xf4: port->enabled = 1; break;
    case 0xf5:
    case 0xf6:
        keyboard_defaults(k);
        port->event_count = 0;
        port->enabled = byte == 0xf6;
        break;
    case 0xfe: port_answer(port, port->last); return;
    case 0xff:
        ps2_keyboard_init(k);
        port_answer(port, ACK);
        port_answer(port, SELF_TEST_PASSED);
        return;
    default:
        if (byte < 0xf7 || byte > 0xfa) { /* those four concern set 3 only */
            port_answer(port, RESEND);
            return;
        }
    }
    port_answer(port, ACK);
}

void ps2_keyboard_write(struct ps2_keyboard *k, uint8_t byte)
{
    uint8_t command = k->port.command;
    k->port.answer_count = 0; /* a new byte ends whatever was being answered */
    k->port.command = 0;
    if (!command || byte >= 0xed) {
        keyboard_command(k, byte);
        return;
    }
    if (!keyboard_parameter(k, command, byte))
        port_answer(&k->port, RESEND);
    else if (command != 0xf0)
        port_answer(&k->port, ACK);
}

bool ps2_keyboard_read(struct ps2_keyboard *k, uint8_t *byte) { return port_read(&k->port, byte); }

void ps2_keyboard_key(struct ps2_keyboard *k, unsigned code, bool down)
{
    static const uint8_t pause[2][8] = { { 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5 },
                                         { 0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77 } };
    uint8_t bytes[8];
    unsigned count = 0;
    if (!k->port.enabled)
        return;
    if (code == KEY_PAUSE) { /* sends everything when it goes down */
        count = !down ? 0 : k->set == 1 ? 6 : 8;
        memcpy(bytes, pause[k->set - 1], sizeof bytes);
    } else {
        unsigned key = code < ARRAY_LEN(set2_codes) ? set2_codes[code] : 0;
        if (!key)
            return;
        if (key & EXTENDED_KEY)
            bytes[count++] = EXTENDED;
        if (!down && k->set == 2)
            bytes[count++] = BREAK;
        uint8_t byte = (uint8_t)key;
        if (k->set == 1)
            byte = ps2_translation[byte] | (down ? 0 : SET1_BREAK);
        bytes[count++] = byte;
    }
    /* A full queue drops whole keys, never half of one. */
    if (count <= port_room(&k->port))
        port_event(&k->port, bytes, count);
}

/* ---- mouse ---- */

static void mouse_defaults(struct ps2_mouse *m)
{
    m->port.enabled = 0;
    m->rate = MOUSE_RATE;
    m->resolution = MOUSE_RESOLUTION;
    m->scaling = m->remote = m->wrap = 0;
    m->dx = m->dy = m->dz = 0;
    m->moved = 0;
    m->port.event_count = 0;
}

void ps2_mouse_init(struct ps2_mouse *m)
{
    uint8_t held = m->buttons;
    memset(m, 0, sizeof *m);
    mouse_defaults(m);
    m->buttons = m->sent_buttons = held;
}

/* Takes from a counter what fits into one packet. */
static int mouse_take(uint16_t *counter, int low, int high)
{
    int value = (int16_t)*counter;
    value = value < low ? low : value > high ? high : value;
    *counter = (uint16_t)(*counter - (unsigned)value);
    return value;
}

static unsigned mouse_packet(struct ps2_mouse *m, uint8_t out[4])
{
    int dx = mouse_take(&m->dx, -256, 255), dy = mouse_take(&m->dy, -256, 255), dz = 0;
    if (m->id != MOUSE_PLAIN)
        dz = mouse_take(&m->dz, -8, 7);
    else
        m->dz = 0;
    m->sent_buttons = m->buttons;
    m->moved = m->dx || m->dy || m->dz;
    out[0] = (uint8_t)(8 | (m->buttons & 7) | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0));
    out[1] = (uint8_t)dx;
    out[2] = (uint8_t)dy;
    out[3] = (uint8_t)dz;
    if (m->id == MOUSE_EXPLORER)
        out[3] = (uint8_t)((dz & 0x0f) | (m->buttons >> 3 & 3) << 4);
    return m->id == MOUSE_PLAIN ? 3 : 4;
}

/* Sends packets while there is something new. Half the queue is kept for presses that come while
 * the guest does not look; motion adds up meanwhile. */
static void mouse_report(struct ps2_mouse *m)
{
    uint8_t packet[4];
    if (!m->port.enabled || m->remote || m->wrap)
        return;
    while (m->moved || m->buttons != m->sent_buttons) {
        bool pressed = m->buttons != m->sent_buttons;
        if (port_room(&m->port) < (pressed ? 4 : PS2_EVENTS / 2))
            return;
        port_event(&m->port, packet, mouse_packet(m, packet));
    }
}

/* Rates 200, 100, 80 turn the wheel on, then 200, 200, 80 two more buttons. */
static void mouse_set_rate(struct ps2_mouse *m, uint8_t rate)
{
    if (m->knock[0] == 200 && m->knock[1] == 100 && rate == 80)
        m->id = MOUSE_WHEEL;
    else if (m->knock[0] == 200 && m->knock[1] == 200 && rate == 80 && m->id == MOUSE_WHEEL)
        m->id = MOUSE_EXPLORER;
    m->knock[0] = m->knock[1];
    m->knock[1] = rate;
    m->rate = rate;
}

static void mouse_status(struct ps2_mouse *m)
{
    uint8_t held = (uint8_t)((m->buttons & 1) << 2 | (m->buttons & 2) >> 1 | (m->buttons & 4) >> 1);
    port_answer(&m->port,
                (uint8_t)(m->remote << 6 | m->port.enabled << 5 | m->scaling << 4 | held));
    port_answer(&m->port, m->resolution);
    port_answer(&m->port, m->rate);
}

static void mouse_command(struct ps2_mouse *m, uint8_t byte)
{
    uint8_t packet[4];
    port_answer(&m->port, ACK);
    switch (byte) {
    case 0xe6:
    case 0xe7: m->scaling = byte & 1; break;
    case 0xe8:
    case 0xf3: m->port.command = byte; break;
    case 0xe9: mouse_status(m); break;
    case 0xea: m->remote = 0; break;
    case 0xeb:
        for (unsigned i = 0, n = mouse_packet(m, packet); i < n; i++)
            port_answer(&m->port, packet[i]);
        break;
    case 0xec: m->wrap = 0; break;
    case 0xee: m->wrap = 1; break;
    case 0xf0: m->remote = 1; break;
    case 0xf2: port_answer(&m->port, m->id); break;
    case 0xf4: m->port.enabled = 1; break;
    case 0xf5:
        m->port.enabled = 0;
        m->port.event_count = 0;
        break;
    case 0xf6: mouse_defaults(m); break;
    case 0xfe: m->port.answers[0] = m->port.last; break;
    case 0xff:
        ps2_mouse_init(m);
        port_answer(&m->port, ACK);
        port_answer(&m->port, SELF_TEST_PASSED);
        port_answer(&m->port, 0);
        break;
    default: m->port.answers[0] = RESEND;
    }
}

void ps2_mouse_write(struct ps2_mouse *m, uint8_t byte)
{
    uint8_t command = m->port.command;
    m->port.answer_count = 0;
    m->port.command = 0;
    if (m->wrap && byte != 0xec && byte != 0xff) {
        port_answer(&m->port, byte);
    } else if (command == 0xf3) {
        mouse_set_rate(m, byte);
        port_answer(&m->port, ACK);
    } else if (command == 0xe8) {
        m->resolution = byte & 3;
        port_answer(&m->port, ACK);
    } else {
        mouse_command(m, byte);
    }
}

bool ps2_mouse_read(struct ps2_mouse *m, uint8_t *byte)
{
    mouse_report(m); /* there may be room now for what had to wait */
    return port_read(&m->port, byte);
}

static void mouse_add(uint16_t *counter, int delta)
{
    int sum = (int16_t)*counter + (delta < -4096 ? -4096 : delta > 4096 ? 4096 : delta);
    *counter = (uint16_t)(sum < -8192 ? -8192 : sum > 8192 ? 8192 : sum);
}

void ps2_mouse_motion(struct ps2_mouse *m, int dx, int dy)
{
    mouse_add(&m->dx, dx);
    mouse_add(&m->dy, dy < -4096 ? 4096 : -dy);
    m->moved = 1;
    mouse_report(m);
}

void ps2_mouse_buttons(struct ps2_mouse *m, unsigned held)
{
    m->buttons = held & 0x1f;
    mouse_report(m);
}

void ps2_mouse_wheel(struct ps2_mouse *m, int notches)
{
    mouse_add(&m->dz, notches < -4096 ? 4096 : -notches);
    m->moved = 1;
    mouse_report(m);
}

/* ---- state ---- */

static int port_check(const struct ps2_port *port, struct err *err)
{
    if (port->answer_count > PS2_ANSWERS || port->event_count > PS2_EVENTS ||
        port->event_start >= PS2_EVENTS || port->enabled > 1)
        return err_set(err, EINVAL, "a PS/2 device cannot be in the saved state");
    return 0;
}

static int keyboard_check(const void *state, struct err *err)
{
    const struct ps2_keyboard *k = state;
    if (k->set < 1 || k->set > 2)
        return err_set(err, EINVAL, "the keyboard has no scan code set %u", k->set);
    return port_check(&k->port, err);
}

static int mouse_check(const void *state, struct err *err)
{
    const struct ps2_mouse *m = state;
    if ((m->id != MOUSE_PLAIN && m->id != MOUSE_WHEEL && m->id != MOUSE_EXPLORER) ||
        m->remote > 1 || m->wrap > 1 || m->scaling > 1 || m->buttons > 0x1f)
        return err_set(err, EINVAL, "the mouse cannot be in the saved state");
    return port_check(&m->port, err);
}

static const struct state_field port_fields[] = {
    STATE_BYTES(struct ps2_port, answers),
    STATE_BYTES(struct ps2_port, events),
    STATE_U8(struct ps2_port, answer_count),
    STATE_U8(struct ps2_port, event_start),
    STATE_U8(struct ps2_port, event_count),
    STATE_U8(struct ps2_port, command),
    STATE_U8(struct ps2_port, last),
    STATE_U8(struct ps2_port, enabled),
    STATE_END,
};
static const struct state_desc port_state = {
    .name = "ps2-port",
    .version = 1,
    .size = sizeof(struct ps2_port),
    .fields = port_fields,
};

static const struct state_field keyboard_fields[] = {
    STATE_STRUCT(struct ps2_keyboard, port, &port_state),
    STATE_U8(struct ps2_keyboard, set),
    STATE_U8(struct ps2_keyboard, leds),
    STATE_END,
};
const struct state_desc ps2_keyboard_state = {
    .name = "ps2-keyboard",
    .version = 1,
    .size = sizeof(struct ps2_keyboard),
    .fields = keyboard_fields,
    .check = keyboard_check,
};

static const struct state_field mouse_fields[] = {
    STATE_STRUCT(struct ps2_mouse, port, &port_state),
    STATE_U16(struct ps2_mouse, dx),
    STATE_U16(struct ps2_mouse, dy),
    STATE_U16(struct ps2_mouse, dz),
    STATE_U8(struct ps2_mouse, buttons),
    STATE_U8(struct ps2_mouse, sent_buttons),
    STATE_U8(struct ps2_mouse, id),
    STATE_U8(struct ps2_mouse, rate),
    STATE_U8(struct ps2_mouse, resolution),
    STATE_U8(struct ps2_mouse, scaling),
    STATE_U8(struct ps2_mouse, remote),
    STATE_U8(struct ps2_mouse, wrap),
    STATE_BYTES(struct ps2_mouse, knock),
    STATE_U16(struct ps2_mouse, moved),
    STATE_END,
};
const struct state_desc ps2_mouse_state = {
    .name = "ps2-mouse",
    .version = 1,
    .size = sizeof(struct ps2_mouse),
    .fields = mouse_fields,
    .check = mouse_check,
};
