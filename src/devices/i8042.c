/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The PS/2 controller (Intel 8042 as in the PC/AT and PS/2), with what hangs behind it: ps2.c.
 *
 * Follows the IBM PS/2 Hardware Interface Technical Reference. One byte at a time waits in the
 * output buffer: an answer of the controller itself first, then the keyboard's, then the mouse's.
 * The reset line resets the machine. The commands for password and input port are answered as a
 * controller without them does.
 *
 * Address line 20 is one gate, which the output port and the chipset's port 0x92 both set and read.
 * While it is closed, the conventional memory shows again from 1 MiB on: that is all that code with
 * 20-bit addresses can tell (it reaches 0x10ffef). Other odd megabytes stay what they are.
 */
#include "devices/i8042.h"

#include "base/log.h"
#include "devices/input.h"
#include "devices/ps2.h"
#include "machine/irq.h"
#include "machine/machine.h"

#include <assert.h>
#include <stdlib.h>

enum { PORT_DATA = 0x60, PORT_COMMAND = 0x64, PORT_FAST = 0x92 };
enum {
    PRIORITY = 11 /* above the reset ports of pm.c */,
    PRIORITY_A20 = 7 /* above RAM and PAM */
};
enum { REGION_DATA, REGION_COMMAND, REGION_FAST, REGIONS };
enum { FAST_RESET = 1 << 0, FAST_A20 = 1 << 1 };
enum { WRAP_AT = 1 << 20, WRAP_SIZE = 0xa0000 };
enum { GSI_KEYBOARD = 1, GSI_MOUSE = 12 };
enum {
    STATUS_FULL = 1 << 0, /* of the output buffer */
    STATUS_SYSTEM = 1 << 2,
    STATUS_COMMAND = 1 << 3,
    STATUS_UNLOCKED = 1 << 4,
    STATUS_MOUSE = 1 << 5, /* the output buffer holds a byte of the mouse */
};
enum {
    MODE_KEYBOARD_IRQ = 1 << 0,
    MODE_MOUSE_IRQ = 1 << 1,
    MODE_SYSTEM = 1 << 2,
    MODE_KEYBOARD_OFF = 1 << 4,
    MODE_MOUSE_OFF = 1 << 5,
    MODE_TRANSLATE = 1 << 6,
    MODE_POWER_ON = MODE_KEYBOARD_IRQ | MODE_MOUSE_IRQ | MODE_SYSTEM | MODE_TRANSLATE,
};
enum { OUTPUT_RESET = 1 << 0, OUTPUT_A20 = 1 << 1, OUTPUT_POWER_ON = 0xcf };
enum { OUTPUT_KEYBOARD_FULL = 1 << 4, OUTPUT_MOUSE_FULL = 1 << 5 };
enum { BREAK = 0xf0, TRANSLATED_BREAK = 0x80 };
enum { ANSWER_NONE, ANSWER_KEYBOARD, ANSWER_MOUSE }; /* as whose byte it appears */

struct i8042_regs {
    struct ps2_mouse mouse;
    struct ps2_keyboard keyboard;
    uint8_t mode, status, data, output;
    uint8_t pending;    /* the command that awaits its byte; 0: none */
    uint8_t break_seen; /* 0xf0 came and was swallowed by the translation */
    uint8_t answer, answer_from;
};

struct i8042 {
    struct device dev;
    struct i8042_regs regs; /* dev.lock */
    bool paused;            /* dev.lock */
    struct irq_pin keyboard_pin, mouse_pin;
    struct input *input; /* borrowed; may be NULL */
    struct input_handler keyboard_handler, mouse_handler;
    struct mapping *maps[REGIONS];
    struct mapping *wrap; /* dev.lock; conventional memory at 1 MiB, while the gate is closed */
};

/* ---- address line 20 ---- */

static void a20_update(struct i8042 *kbc)
{
    struct machine *m = kbc->dev.machine;
    bool open = kbc->regs.output & OUTPUT_A20;
    struct err err;
    if (open == !kbc->wrap)
        return;
    if (open)
        map_remove(m, TAKE(kbc->wrap));
    else if (map_ram(m, SPACE_MEMORY, WRAP_AT, WRAP_SIZE, REGION_RAM, m->main_ram, 0, PRIORITY_A20,
                     &kbc->wrap, &err) < 0)
        log_guest("i8042: address line 20 cannot be gated: %s", err.text);
}

static void a20_set(struct i8042 *kbc, bool open)
{
    kbc->regs.output = (uint8_t)((kbc->regs.output & ~OUTPUT_A20) | (open ? OUTPUT_A20 : 0));
    a20_update(kbc);
}

/* ---- the output buffer ---- */

static void i8042_update_irq(struct i8042 *kbc)
{
    const struct i8042_regs *regs = &kbc->regs;
    bool full = regs->status & STATUS_FULL, mouse = regs->status & STATUS_MOUSE;
    irq_pin_set(&kbc->keyboard_pin, full && !mouse && (regs->mode & MODE_KEYBOARD_IRQ));
    irq_pin_set(&kbc->mouse_pin, full && mouse && (regs->mode & MODE_MOUSE_IRQ));
}

/* False: the byte was swallowed. */
static bool i8042_translate(struct i8042_regs *regs, uint8_t *byte)
{
    if (!(regs->mode & MODE_TRANSLATE))
        return true;
    if (*byte == BREAK) {
        regs->break_seen = 1;
        return false;
    }
    *byte = ps2_translation[*byte];
    if (regs->break_seen)
        *byte |= TRANSLATED_BREAK;
    regs->break_seen = 0;
    return true;
}

/* The next byte for the output buffer and whose it is. */
static unsigned i8042_next(struct i8042_regs *regs, uint8_t *byte)
{
    if (regs->answer_from) {
        unsigned from = regs->answer_from;
        *byte = regs->answer;
        regs->answer_from = ANSWER_NONE;
        return from;
    }
    if (!(regs->mode & MODE_KEYBOARD_OFF))
        while (ps2_keyboard_read(&regs->keyboard, byte))
            if (i8042_translate(regs, byte))
                return ANSWER_KEYBOARD;
    if (!(regs->mode & MODE_MOUSE_OFF) && ps2_mouse_read(&regs->mouse, byte))
        return ANSWER_MOUSE;
    return ANSWER_NONE;
}

/* After each change: fills the buffer if it is empty, and sets the interrupts. */
static void i8042_update(struct i8042 *kbc)
{
    struct i8042_regs *regs = &kbc->regs;
    if (!(regs->status & STATUS_FULL)) {
        unsigned from = i8042_next(regs, &regs->data);
        if (from)
            regs->status |= STATUS_FULL;
        if (from == ANSWER_MOUSE)
            regs->status |= STATUS_MOUSE;
    }
    i8042_update_irq(kbc);
}

static void i8042_answer(struct i8042_regs *regs, unsigned from, uint8_t byte)
{
    regs->answer = byte;
    regs->answer_from = (uint8_t)from;
}

/* ---- ports ---- */

static void i8042_write_output(struct i8042 *kbc, uint8_t value)
{
    kbc->regs.output = value & ~(OUTPUT_KEYBOARD_FULL | OUTPUT_MOUSE_FULL);
    a20_update(kbc);
    if (!(value & OUTPUT_RESET))
        machine_post_event(kbc->dev.machine, MACHINE_RESET, "keyboard controller");
}

static uint8_t i8042_read_output(const struct i8042_regs *regs)
{
    unsigned full = regs->status & STATUS_MOUSE ? OUTPUT_MOUSE_FULL : OUTPUT_KEYBOARD_FULL;
    return regs->output | (uint8_t)(regs->status & STATUS_FULL ? full : 0);
}

static void i8042_command(struct i8042 *kbc, uint8_t command)
{
    struct i8042_regs *regs = &kbc->regs;
    regs->pending = 0;
    switch (command) {
    case 0x20: i8042_answer(regs, ANSWER_KEYBOARD, regs->mode); break;
    case 0x60:
    case 0xd1: /* output port */
    case 0xd2: /* into the output buffer as if from the keyboard, the mouse */
    case 0xd3:
    case 0xd4: regs->pending = command; break;                   /* to the mouse */
    case 0xa4: i8042_answer(regs, ANSWER_KEYBOARD, 0xf1); break; /* no password */
    case 0xa7: regs->mode |= MODE_MOUSE_OFF; break;
    case 0xa8: regs->mode &= (uint8_t)~MODE_MOUSE_OFF; break;
    case 0xa9: /* tests of the lines */
    case 0xab:
    case 0xe0: i8042_answer(regs, ANSWER_KEYBOARD, 0x00); break;
    case 0xaa:
        regs->status |= STATUS_SYSTEM;
        i8042_answer(regs, ANSWER_KEYBOARD, 0x55);
        break;
    case 0xad: regs->mode |= MODE_KEYBOARD_OFF; break;
    case 0xae: regs->mode &= (uint8_t)~MODE_KEYBOARD_OFF; break;
    case 0xc0: i8042_answer(regs, ANSWER_KEYBOARD, 0x80); break; /* input port: not locked */
    case 0xd0: i8042_answer(regs, ANSWER_KEYBOARD, i8042_read_output(regs)); break;
    case 0xdd: a20_set(kbc, false); break;
    case 0xdf: a20_set(kbc, true); break;
    default:
        if (command >= 0xf0 && !(command & OUTPUT_RESET)) /* pulses the lines whose bit is 0 */
            machine_post_event(kbc->dev.machine, MACHINE_RESET, "keyboard controller");
    }
}

static void i8042_data(struct i8042 *kbc, uint8_t value)
{
    struct i8042_regs *regs = &kbc->regs;
    uint8_t command = regs->pending;
    regs->pending = 0;
    switch (command) {
    case 0x60:
        regs->mode = value & 0x7f;
        regs->status = (regs->status & (uint8_t)~STATUS_SYSTEM) | (value & MODE_SYSTEM);
        break;
    case 0xd1: i8042_write_output(kbc, value); break;
    case 0xd2: i8042_answer(regs, ANSWER_KEYBOARD, value); break;
    case 0xd3: i8042_answer(regs, ANSWER_MOUSE, value); break;
    case 0xd4:
        regs->mode &= (uint8_t)~MODE_MOUSE_OFF; /* sending turns the interface on */
        ps2_mouse_write(&regs->mouse, value);
        break;
    default: regs->mode &= (uint8_t)~MODE_KEYBOARD_OFF; ps2_keyboard_write(&regs->keyboard, value);
    }
}

static uint64_t i8042_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct i8042 *kbc = (struct i8042 *)dev;
    struct i8042_regs *regs = &kbc->regs;
    if (region == REGION_COMMAND)
        return regs->status;
    if (region == REGION_FAST)
        return regs->output & OUTPUT_A20 ? FAST_A20 : 0;
    uint8_t value = regs->data;
    if (regs->status & STATUS_FULL) {
        regs->status &= (uint8_t) ~(STATUS_FULL | STATUS_MOUSE);
        i8042_update_irq(kbc); /* down, so that the next byte is an edge */
        i8042_update(kbc);
    }
    return value;
}

static void i8042_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                        uint64_t value)
{
    struct i8042 *kbc = (struct i8042 *)dev;
    if (region == REGION_FAST) {
        a20_set(kbc, value & FAST_A20);
        if (value & FAST_RESET)
            machine_post_event(dev->machine, MACHINE_RESET, "fast reset (port 0x92)");
        return;
    }
    if (region == REGION_COMMAND) {
        kbc->regs.status |= STATUS_COMMAND;
        i8042_command(kbc, (uint8_t)value);
    } else {
        kbc->regs.status &= (uint8_t)~STATUS_COMMAND;
        i8042_data(kbc, (uint8_t)value);
    }
    i8042_update(kbc);
}

/* ---- people ---- */

/* What is done to a VM that stands still is lost, as it would be with the cables pulled. */
static void i8042_key(void *arg, unsigned code, bool down)
{
    struct i8042 *kbc = arg;
    LOCKED(&kbc->dev.lock);
    if (kbc->paused)
        return;
    ps2_keyboard_key(&kbc->regs.keyboard, code, down);
    i8042_update(kbc);
}

static bool i8042_keys_wait(void *arg)
{
    struct i8042 *kbc = arg;
    LOCKED(&kbc->dev.lock);
    const struct ps2_port *port = &kbc->regs.keyboard.port;
    return !kbc->paused && port->enabled && (port->event_count || kbc->regs.status & STATUS_FULL);
}

static void i8042_motion(void *arg, int dx, int dy)
{
    struct i8042 *kbc = arg;
    LOCKED(&kbc->dev.lock);
    if (kbc->paused)
        return;
    ps2_mouse_motion(&kbc->regs.mouse, dx, dy);
    i8042_update(kbc);
}

static void i8042_buttons(void *arg, unsigned held)
{
    struct i8042 *kbc = arg;
    LOCKED(&kbc->dev.lock);
    if (kbc->paused)
        return;
    ps2_mouse_buttons(&kbc->regs.mouse, held);
    i8042_update(kbc);
}

static void i8042_wheel(void *arg, int notches)
{
    struct i8042 *kbc = arg;
    LOCKED(&kbc->dev.lock);
    if (kbc->paused)
        return;
    ps2_mouse_wheel(&kbc->regs.mouse, notches);
    i8042_update(kbc);
}

/* ---- life ---- */

static void i8042_power_on(struct i8042_regs *regs)
{
    *regs = (struct i8042_regs){ .mode = MODE_POWER_ON,
                                 .status = STATUS_SYSTEM | STATUS_UNLOCKED,
                                 .output = OUTPUT_POWER_ON };
    ps2_keyboard_init(&regs->keyboard);
    ps2_mouse_init(&regs->mouse);
}

static void i8042_reset(struct device *dev)
{
    struct i8042 *kbc = (struct i8042 *)dev;
    LOCKED(&dev->lock);
    i8042_power_on(&kbc->regs);
    a20_update(kbc);
    i8042_update_irq(kbc);
}

static void i8042_set_paused(struct device *dev, bool paused)
{
    LOCKED(&dev->lock);
    ((struct i8042 *)dev)->paused = paused;
}

static void i8042_pause(struct device *dev) { i8042_set_paused(dev, true); }
static void i8042_resume(struct device *dev) { i8042_set_paused(dev, false); }

static int i8042_loaded(struct device *dev, struct err *err)
{
    LOCKED(&dev->lock);
    a20_update((struct i8042 *)dev);
    i8042_update_irq((struct i8042 *)dev);
    return 0;
}

static int i8042_check(const void *state, struct err *err)
{
    const struct i8042_regs *regs = state;
    if (regs->answer_from > ANSWER_MOUSE || regs->break_seen > 1)
        return err_set(err, EINVAL, "the keyboard controller cannot be in the saved state");
    int r = ps2_keyboard_state.check(&regs->keyboard, err);
    return r < 0 ? r : ps2_mouse_state.check(&regs->mouse, err);
}

static void i8042_destroy(struct device *dev)
{
    struct i8042 *kbc = (struct i8042 *)dev;
    if (kbc->input) {
        input_remove(kbc->input, &kbc->keyboard_handler);
        input_remove(kbc->input, &kbc->mouse_handler);
    }
    map_remove(dev->machine, kbc->wrap);
    for (unsigned i = 0; i < REGIONS; i++)
        map_remove(dev->machine, kbc->maps[i]);
    device_fini(dev);
    free(kbc);
}

static const struct state_field i8042_fields[] = {
    STATE_STRUCT(struct i8042_regs, keyboard, &ps2_keyboard_state),
    STATE_STRUCT(struct i8042_regs, mouse, &ps2_mouse_state),
    STATE_U8(struct i8042_regs, mode),
    STATE_U8(struct i8042_regs, status),
    STATE_U8(struct i8042_regs, data),
    STATE_U8(struct i8042_regs, output),
    STATE_U8(struct i8042_regs, pending),
    STATE_U8(struct i8042_regs, break_seen),
    STATE_U8(struct i8042_regs, answer),
    STATE_U8(struct i8042_regs, answer_from),
    STATE_END,
};
static const struct state_desc i8042_state = {
    .name = "i8042",
    .version = 1,
    .base = offsetof(struct i8042, regs),
    .size = sizeof(struct i8042_regs),
    .fields = i8042_fields,
    .check = i8042_check,
};
static const struct device_type i8042_type = {
    .name = "i8042",
    .about = "PS/2 controller with keyboard and mouse",
    .threads = DEVICE_LOCKED,
    .destroy = i8042_destroy,
    .read = i8042_read,
    .write = i8042_write,
    .reset = i8042_reset,
    .pause = i8042_pause,
    .resume = i8042_resume,
    .loaded = i8042_loaded,
    .state = &i8042_state,
};

int i8042_create(struct machine *m, struct input *input, struct err *err)
{
    struct i8042 *kbc = calloc(1, sizeof *kbc);
    if (!kbc)
        return err_set(err, ENOMEM, "out of memory");
    device_init(&kbc->dev, m, &i8042_type, "i8042");
    irq_pin_init(&kbc->keyboard_pin, m, GSI_KEYBOARD);
    irq_pin_init(&kbc->mouse_pin, m, GSI_MOUSE);
    i8042_power_on(&kbc->regs);
    AUTO(device_destroy) struct device *dev = &kbc->dev;

    int r = map_device(m, SPACE_IO, PORT_DATA, 1, dev, REGION_DATA, PRIORITY,
                       &kbc->maps[REGION_DATA], err);
    if (r >= 0)
        r = map_device(m, SPACE_IO, PORT_COMMAND, 1, dev, REGION_COMMAND, PRIORITY,
                       &kbc->maps[REGION_COMMAND], err);
    if (r >= 0)
        r = map_device(m, SPACE_IO, PORT_FAST, 1, dev, REGION_FAST, PRIORITY,
                       &kbc->maps[REGION_FAST], err);
    if (r < 0)
        return err_prefix(err, "PS/2 controller");
    kbc->keyboard_handler = (struct input_handler){ .name = "PS/2 keyboard",
                                                    .kinds = INPUT_KEYBOARD,
                                                    .key = i8042_key,
                                                    .keys_wait = i8042_keys_wait,
                                                    .arg = kbc };
    kbc->mouse_handler = (struct input_handler){ .name = "PS/2 mouse",
                                                 .kinds = INPUT_MOUSE,
                                                 .motion = i8042_motion,
                                                 .buttons = i8042_buttons,
                                                 .wheel = i8042_wheel,
                                                 .arg = kbc };
    if (input) {
        input_add(input, &kbc->keyboard_handler, true);
        input_add(input, &kbc->mouse_handler, true);
        kbc->input = input;
    }
    machine_add_device(m, TAKE(dev));
    return 0;
}
