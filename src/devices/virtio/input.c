/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtio keyboard or tablet (VIRTIO 1.2, 5.8): events are Linux' own, one in each buffer of
 * queue 0. What the guest has no buffers for waits in a ring; when that is full whole groups of
 * events (up to SYN_REPORT) are dropped. The guest's lights come by queue 1 and are taken.
 */
#include "devices/virtio/input.h"

#include "base/checked.h"
#include "devices/input.h"
#include "devices/virtio/virtio_pci.h"
#include "machine/machine.h"

#include <endian.h>
#include <linux/input.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_input.h>
#include <stdlib.h>
#include <string.h>

enum { QUEUE_EVENTS, QUEUE_STATUS, QUEUES, QUEUE_SIZE = 64, RING = 128 };
enum { CONFIG_LEN = sizeof(struct virtio_input_config) };

struct vinput_event {
    uint16_t type, code;
    uint32_t value;
};

struct vinput_regs {
    struct virtio_regs virtio;
    /* dev.lock */
    uint8_t select, subsel;
    uint8_t start, count; /* of the ring */
    uint32_t buttons;     /* held, as the guest was told */
    struct vinput_event ring[RING];
};

struct vinput {
    struct virtio_device vdev;
    struct vinput_regs regs;
    enum virtio_input_kind kind;  /* fixed at create */
    struct input *input;          /* borrowed; may be NULL */
    struct input_handler handler; /* main loop */
    bool active;                  /* main loop: as the hub was told */
    bool still;                   /* dev.lock: paused; what people do is lost */
    atomic_bool driver, posted;   /* the guest's driver is there; the main loop will hear of it */
};

static struct vinput *vinput_of(struct virtio_device *vdev) { return (struct vinput *)vdev; }

/* ---- to the guest; io_loop ---- */

static void vinput_activate(void *arg)
{
    struct vinput *vi = arg;
    atomic_store(&vi->posted, false);
    bool active = atomic_load(&vi->driver);
    if (active != vi->active)
        input_set_active(vi->input, &vi->handler, active);
    vi->active = active;
}

static void vinput_driver(struct vinput *vi, bool there)
{
    if (!vi->input || atomic_exchange(&vi->driver, there) == there)
        return;
    if (!atomic_exchange(&vi->posted, true))
        loop_post(vi->vdev.pci.dev.machine->loop, vinput_activate, vi);
}

static bool vinput_take(struct vinput *vi, struct virtio_input_event *out)
{
    struct vinput_regs *r = &vi->regs;
    LOCKED(&vi->vdev.pci.dev.lock);
    if (!r->count)
        return false;
    const struct vinput_event *e = &r->ring[r->start];
    *out = (struct virtio_input_event){ htole16(e->type), htole16(e->code), htole32(e->value) };
    r->start = (uint8_t)((r->start + 1) % RING);
    r->count--;
    return true;
}

static bool vinput_waiting(struct vinput *vi)
{
    LOCKED(&vi->vdev.pci.dev.lock);
    return vi->regs.count;
}

static void vinput_flush(struct vinput *vi)
{
    struct virtqueue *vq = &vi->vdev.queues[QUEUE_EVENTS];
    while (vinput_waiting(vi)) {
        struct virtqueue_elem *elem = virtqueue_pop(vq);
        struct virtio_input_event event;
        if (!elem)
            return; /* the driver rings when it gives buffers */
        if (!vinput_take(vi, &event)) {
            virtqueue_unpop(elem);
            return;
        }
        size_t len = iov_from_buf(elem->in, elem->in_count, 0, &event, sizeof event);
        virtio_complete(&vi->vdev, elem, (uint32_t)len);
    }
}

static void vinput_status(struct virtio_device *vdev, struct virtqueue_elem *elem)
{
    virtio_complete(vdev, elem, 0);
}

static void vinput_queue(struct virtio_device *vdev, unsigned queue)
{
    vinput_driver(vinput_of(vdev), true);
    if (queue == QUEUE_STATUS)
        virtio_queue_each(vdev, queue, vinput_status);
    else
        vinput_flush(vinput_of(vdev));
}

/* ---- people; main loop ---- */

static void vinput_add(struct vinput *vi, const struct vinput_event *events, unsigned count)
{
    struct vinput_regs *r = &vi->regs;
    {
        LOCKED(&vi->vdev.pci.dev.lock);
        if (vi->still || !count || count + 1 > (unsigned)(RING - r->count))
            return;
        for (unsigned i = 0; i < count; i++)
            r->ring[(r->start + r->count++) % RING] = events[i];
        r->ring[(r->start + r->count++) % RING] = (struct vinput_event){ EV_SYN, SYN_REPORT, 0 };
    }
    virtio_kick(&vi->vdev, QUEUE_EVENTS);
}

static void vinput_key(void *arg, unsigned code, bool down)
{
    struct vinput_event e = { EV_KEY, (uint16_t)code, down };
    vinput_add(arg, &e, 1);
}

static bool vinput_keys_wait(void *arg)
{
    struct vinput *vi = arg;
    LOCKED(&vi->vdev.pci.dev.lock);
    return !vi->still && vi->regs.count;
}

static void vinput_position(void *arg, unsigned x, unsigned y)
{
    struct vinput_event e[2] = { { EV_ABS, ABS_X, x }, { EV_ABS, ABS_Y, y } };
    vinput_add(arg, e, 2);
}

static const uint16_t button_codes[] = { BTN_LEFT, BTN_RIGHT, BTN_MIDDLE };

static void vinput_buttons(void *arg, unsigned held)
{
    struct vinput *vi = arg;
    struct vinput_event e[ARRAY_LEN(button_codes)];
    unsigned count = 0;
    {
        LOCKED(&vi->vdev.pci.dev.lock);
        for (unsigned i = 0; i < ARRAY_LEN(button_codes); i++)
            if ((held ^ vi->regs.buttons) >> i & 1)
                e[count++] = (struct vinput_event){ EV_KEY, button_codes[i], held >> i & 1 };
        vi->regs.buttons = held & 7;
    }
    vinput_add(vi, e, count);
}

static void vinput_wheel(void *arg, int notches)
{
    struct vinput_event e = { EV_REL, REL_WHEEL, (uint32_t)notches };
    vinput_add(arg, &e, 1);
}

/* ---- configuration (5.8.4) ---- */

static void bit_set(struct virtio_input_config *c, unsigned bit)
{
    c->u.bitmap[bit / 8] |= (uint8_t)(1 << bit % 8);
    if (c->size < bit / 8 + 1)
        c->size = (uint8_t)(bit / 8 + 1);
}

static void config_bits(const struct vinput *vi, struct virtio_input_config *c)
{
    bool keyboard = vi->kind == VIRTIO_INPUT_KEYBOARD;
    if (c->subsel == EV_KEY && keyboard) {
        for (unsigned code = KEY_ESC; code <= KEY_MICMUTE; code++)
            bit_set(c, code);
    } else if (c->subsel == EV_KEY) {
        for (unsigned i = 0; i < ARRAY_LEN(button_codes); i++)
            bit_set(c, button_codes[i]);
    } else if (c->subsel == EV_ABS && !keyboard) {
        bit_set(c, ABS_X);
        bit_set(c, ABS_Y);
    } else if (c->subsel == EV_REL && !keyboard) {
        bit_set(c, REL_WHEEL);
    } else if (c->subsel == EV_LED && keyboard) {
        bit_set(c, LED_NUML);
        bit_set(c, LED_CAPSL);
        bit_set(c, LED_SCROLLL);
    } else if (c->subsel == EV_REP && keyboard) {
        c->size = 1; /* the guest's kernel repeats */
    }
}

static void vinput_config(struct virtio_device *vdev, uint8_t *out)
{
    const struct vinput *vi = vinput_of(vdev);
    bool keyboard = vi->kind == VIRTIO_INPUT_KEYBOARD;
    const char *name = keyboard ? "Bedplate Virtio Keyboard" : "Bedplate Virtio Tablet";
    struct virtio_input_config c = { .select = vi->regs.select, .subsel = vi->regs.subsel };
    switch (c.select) {
    case VIRTIO_INPUT_CFG_ID_NAME:
        c.size = (uint8_t)strlen(name);
        memcpy(c.u.string, name, c.size);
        break;
    case VIRTIO_INPUT_CFG_ID_DEVIDS:
        c.size = sizeof c.u.ids;
        c.u.ids.bustype = htole16(BUS_VIRTUAL);
        c.u.ids.product = htole16(vi->kind);
        c.u.ids.version = htole16(1);
        break;
    case VIRTIO_INPUT_CFG_EV_BITS: config_bits(vi, &c); break;
    case VIRTIO_INPUT_CFG_ABS_INFO:
        if (!keyboard && c.subsel <= ABS_Y) {
            c.size = sizeof c.u.abs;
            c.u.abs.max = htole32(INPUT_POSITION_MAX);
        }
        break;
    }
    memcpy(out, &c, CONFIG_LEN);
}

static void vinput_config_write(struct virtio_device *vdev, unsigned offset, unsigned size,
                                uint64_t value)
{
    struct vinput_regs *r = &vinput_of(vdev)->regs;
    for (unsigned i = 0; i < size; i++) {
        if (offset + i == 0)
            r->select = (uint8_t)(value >> 8 * i);
        else if (offset + i == 1)
            r->subsel = (uint8_t)(value >> 8 * i);
    }
}

/* ---- life ---- */

static void vinput_reset(struct virtio_device *vdev)
{
    struct vinput *vi = vinput_of(vdev);
    LOCKED(&vdev->pci.dev.lock);
    vi->regs.select = vi->regs.subsel = vi->regs.start = vi->regs.count = 0;
    vi->regs.buttons = 0;
    memset(vi->regs.ring, 0, sizeof vi->regs.ring);
    vinput_driver(vi, false);
}

static void vinput_pause(struct virtio_device *vdev, unsigned lane)
{
    LOCKED(&vdev->pci.dev.lock);
    vinput_of(vdev)->still = true;
}

static void vinput_resume(struct virtio_device *vdev, unsigned lane)
{
    {
        LOCKED(&vdev->pci.dev.lock);
        vinput_of(vdev)->still = false;
    }
    virtio_kick(vdev, QUEUE_EVENTS);
}

static void vinput_destroy(struct device *dev)
{
    struct vinput *vi = vinput_of(virtio_of(dev));
    if (vi->input)
        input_remove(vi->input, &vi->handler);
    virtio_fini(&vi->vdev);
    free(vi);
}

static const struct virtio_ops vinput_ops = {
    .id = VIRTIO_ID_INPUT,
    .class_code = 0x090000,
    .config = vinput_config,
    .config_write = vinput_config_write,
    .queue = vinput_queue,
    .reset = vinput_reset,
    .pause = vinput_pause,
    .resume = vinput_resume,
};

static int vinput_check(const void *state, struct err *err)
{
    const struct vinput_regs *r = state;
    if (r->start >= RING || r->count > RING)
        return err_set(err, EINVAL, "the input device cannot be in the saved state");
    return 0;
}

static const struct state_field event_fields[] = {
    STATE_U16(struct vinput_event, type),
    STATE_U16(struct vinput_event, code),
    STATE_U32(struct vinput_event, value),
    STATE_END,
};
static const struct state_desc event_state = {
    .name = "virtio-input-event",
    .version = 1,
    .size = sizeof(struct vinput_event),
    .fields = event_fields,
};
static const struct state_field vinput_fields[] = {
    STATE_STRUCT(struct vinput_regs, virtio, &virtio_state),
    STATE_U8(struct vinput_regs, select),
    STATE_U8(struct vinput_regs, subsel),
    STATE_U8(struct vinput_regs, start),
    STATE_U8(struct vinput_regs, count),
    STATE_U32(struct vinput_regs, buttons),
    STATE_STRUCTS(struct vinput_regs, ring, &event_state),
    STATE_END,
};
static const struct state_desc vinput_state = {
    .name = "virtio-input",
    .version = 1,
    .base = offsetof(struct vinput, regs),
    .size = sizeof(struct vinput_regs),
    .fields = vinput_fields,
    .check = vinput_check,
};
static const struct device_type vinput_type = {
    .name = "virtio-input",
    .about = "a virtio keyboard or tablet",
    .destroy = vinput_destroy,
    VIRTIO_DEVICE_FUNCTIONS,
    .state = &vinput_state,
};

int virtio_input_create(struct machine *m, const char *id, enum virtio_input_kind kind,
                        struct input *input, struct pci_device **out, struct err *err)
{
    struct vinput *vi = calloc(1, sizeof *vi);
    if (!vi)
        return err_set(err, ENOMEM, "out of memory");
    vi->kind = kind;
    const struct virtio_params params = { .ops = &vinput_ops,
                                          .id = id,
                                          .regs = &vi->regs.virtio,
                                          .queues = QUEUES,
                                          .config_len = CONFIG_LEN,
                                          .queue_size = QUEUE_SIZE };
    int r = virtio_init(&vi->vdev, m, &vinput_type, &params, err);
    if (r < 0) {
        vinput_destroy(&vi->vdev.pci.dev);
        return r;
    }
    bool keyboard = kind == VIRTIO_INPUT_KEYBOARD;
    vi->handler = (struct input_handler){
        .name = keyboard ? "virtio keyboard" : "virtio tablet",
        .kinds = keyboard ? INPUT_KEYBOARD : INPUT_TABLET,
        .key = vinput_key,
        .keys_wait = vinput_keys_wait,
        .position = vinput_position,
        .buttons = vinput_buttons,
        .wheel = vinput_wheel,
        .arg = vi,
    };
    vi->input = input;
    if (input)
        input_add(input, &vi->handler, false);
    *out = &vi->vdev.pci;
    return 0;
}
