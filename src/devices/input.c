/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The hub between people and the guest's keyboards and pointers. */
#include "devices/input.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { INPUT_DEVICES = 8 };

struct input_device {
    const struct input_handler *handler;
    uint64_t activated; /* 0: inactive; else the higher the later */
};

struct input {
    struct input_device devices[INPUT_DEVICES];
    unsigned count;
    uint64_t activations;
    bool keys[INPUT_KEY_MAX + 1]; /* held */
    unsigned buttons;             /* held */
    bool placed;                  /* last_x, last_y are valid */
    unsigned last_x, last_y;      /* pixels */
};

int input_create(struct input **out, struct err *err)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : err_set(err, ENOMEM, "out of memory");
}

void input_destroy(struct input *input) { free(input); }

static struct input_device *find(struct input *input, const struct input_handler *handler)
{
    for (unsigned i = 0; i < input->count; i++)
        if (input->devices[i].handler == handler)
            return &input->devices[i];
    return NULL;
}

/* The device that events of these kinds go to now. */
static const struct input_handler *target(const struct input *input, unsigned kinds)
{
    const struct input_device *best = NULL;
    for (unsigned i = 0; i < input->count; i++) {
        const struct input_device *d = &input->devices[i];
        if ((d->handler->kinds & kinds) && d->activated &&
            (!best || d->activated > best->activated))
            best = d;
    }
    return best ? best->handler : NULL;
}

/* A tablet is preferred: the pointer is then where the viewer's pointer is. */
static const struct input_handler *pointer_target(const struct input *input)
{
    const struct input_handler *tablet = target(input, INPUT_TABLET);
    return tablet ? tablet : target(input, INPUT_MOUSE);
}

static void keys_up(struct input *input, const struct input_handler *keyboard)
{
    for (unsigned code = 0; code <= INPUT_KEY_MAX; code++) {
        if (input->keys[code] && keyboard)
            keyboard->key(keyboard->arg, code, false);
        input->keys[code] = false;
    }
}

static void buttons_up(struct input *input, const struct input_handler *pointer)
{
    if (input->buttons && pointer)
        pointer->buttons(pointer->arg, 0);
    input->buttons = 0;
}

/* Who gets the events may be another one after `d` changes: the one before lets go. */
static void change_activation(struct input *input, struct input_device *d, uint64_t activated)
{
    const struct input_handler *keyboard = target(input, INPUT_KEYBOARD);
    const struct input_handler *pointer = pointer_target(input);

    d->activated = activated;
    if (keyboard != target(input, INPUT_KEYBOARD))
        keys_up(input, keyboard);
    if (pointer != pointer_target(input)) {
        buttons_up(input, pointer);
        input->placed = false;
    }
}

void input_add(struct input *input, const struct input_handler *handler, bool active)
{
    assert(input->count < INPUT_DEVICES && !find(input, handler));
    input->devices[input->count++] = (struct input_device){ .handler = handler };
    input_set_active(input, handler, active);
}

void input_remove(struct input *input, const struct input_handler *handler)
{
    struct input_device *d = find(input, handler);
    if (!d)
        return;
    change_activation(input, d, 0);
    *d = input->devices[--input->count];
}

void input_set_active(struct input *input, const struct input_handler *handler, bool active)
{
    struct input_device *d = find(input, handler);
    assert(d);
    change_activation(input, d, active ? ++input->activations : 0);
}

bool input_key(struct input *input, unsigned code, bool down)
{
    const struct input_handler *keyboard = target(input, INPUT_KEYBOARD);
    if (!keyboard || code > INPUT_KEY_MAX)
        return false;
    if (!down && !input->keys[code])
        return true; /* it went down elsewhere */
    input->keys[code] = down;
    keyboard->key(keyboard->arg, code, down);
    return true;
}

bool input_keys_wait(const struct input *input)
{
    const struct input_handler *keyboard = target(input, INPUT_KEYBOARD);
    return keyboard && keyboard->keys_wait && keyboard->keys_wait(keyboard->arg);
}

static unsigned scaled(unsigned at, unsigned size)
{
    return size < 2 ? 0 : (unsigned)((uint64_t)at * INPUT_POSITION_MAX / (size - 1));
}

static void pointer_moved(struct input *input, const struct input_handler *pointer, unsigned x,
                          unsigned y, unsigned width, unsigned height)
{
    if (input->placed && x == input->last_x && y == input->last_y)
        return;
    if (pointer->kinds & INPUT_TABLET)
        pointer->position(pointer->arg, scaled(x, width), scaled(y, height));
    else if (input->placed)
        pointer->motion(pointer->arg, (int)x - (int)input->last_x, (int)y - (int)input->last_y);
    input->last_x = x;
    input->last_y = y;
    input->placed = true;
}

bool input_pointer(struct input *input, unsigned x, unsigned y, unsigned width, unsigned height,
                   unsigned buttons)
{
    const struct input_handler *pointer = pointer_target(input);
    if (!pointer || !width || !height)
        return false;
    pointer_moved(input, pointer, x < width ? x : width - 1, y < height ? y : height - 1, width,
                  height);
    if (buttons != input->buttons) {
        input->buttons = buttons;
        pointer->buttons(pointer->arg, buttons);
    }
    return true;
}

bool input_wheel(struct input *input, int notches)
{
    const struct input_handler *pointer = pointer_target(input);
    if (!pointer || !pointer->wheel)
        return false;
    pointer->wheel(pointer->arg, notches);
    return true;
}

void input_release_all(struct input *input)
{
    keys_up(input, target(input, INPUT_KEYBOARD));
    buttons_up(input, pointer_target(input));
    input->placed = false;
}

bool input_has_tablet(const struct input *input) { return target(input, INPUT_TABLET) != NULL; }
