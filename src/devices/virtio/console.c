/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtio console (VIRTIO 1.2, 5.3): one port, or several with names and a control channel.
 *
 * With one port, the multiport feature is not offered: the size of the terminal then travels in the
 * configuration space, which every driver reads alike. The size in a control message is ambiguous
 * (the specification has columns first, Linux before 6.15 rows first); we send what those kernels
 * expect, because they are what is installed.
 *
 *  1. Input that was accepted waits in the port's `input` and is part of the state: nothing that
 *     virtio_console_input took is lost by a pause or a save.
 *  2. Control messages are not queued but pending bits: sent in the order of the bits when the
 * driver has room, however often their reason occurred. So a driver cannot make us grow.
 */
#include "devices/virtio/console.h"

#include "devices/virtio/virtio_pci.h"
#include "machine/machine.h"

#include <assert.h>
#include <endian.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

enum { CONSOLE_QUEUE_SIZE = 128, CONSOLE_INPUT = 4096, CONSOLE_COPY = 4096 };
enum { QUEUE_CONTROL_RX = 2, QUEUE_CONTROL_TX = 3 };

enum pending { /* in the order in which they must arrive */
               PENDING_ADD = 1,
               PENDING_CONSOLE = 2,
               PENDING_NAME = 4,
               PENDING_OPEN = 8,
               PENDING_RESIZE = 16,
               PENDING_CLOSE = 32,
               PENDING_ALL = 63,
};

struct console_port_regs { /* dev->lock */
    uint16_t pending;      /* enum pending */
    uint8_t ready;         /* the driver knows the port */
    uint8_t guest_open;
    uint32_t hung_up; /* 1: until the guest has closed the port */
    uint32_t input_len;
    uint8_t input[CONSOLE_INPUT];
};

struct console_regs {
    struct virtio_regs virtio;
    uint16_t cols, rows;   /* dev->lock */
    uint32_t driver_ready; /* 0 or 1; dev->lock */
    struct console_port_regs ports[VIRTIO_CONSOLE_MAX_PORTS];
};

struct console {
    struct virtio_device vdev;
    struct console_regs regs;
    struct virtio_console_port ports[VIRTIO_CONSOLE_MAX_PORTS]; /* fixed at create */
    char names[VIRTIO_CONSOLE_MAX_PORTS][VIRTIO_CONSOLE_NAME_MAX + 1];
    unsigned first, port_count;                        /* port 0 is there only if first is 0 */
    _Atomic bool wants_room[VIRTIO_CONSOLE_MAX_PORTS]; /* input was refused */
};

static struct console *console_of(struct virtio_device *vdev) { return (struct console *)vdev; }

static bool console_multiport(const struct console *c)
{
    return virtio_has(&c->vdev, VIRTIO_CONSOLE_F_MULTIPORT);
}

/* 5.3.2: ports 0, control, ports 1 and up. */
static unsigned port_rx_queue(unsigned port) { return port ? 2 * port + 2 : 0; }
static unsigned port_tx_queue(unsigned port) { return port_rx_queue(port) + 1; }
static unsigned queue_port(unsigned queue) { return queue < 2 ? 0 : queue / 2 - 1; }

/* ---- To the guest ---- */

/* Moves input into one buffer. Answers how many bytes. */
static uint32_t console_fill(struct console *c, unsigned port, struct virtqueue_elem *elem)
{
    struct console_port_regs *p = &c->regs.ports[port];
    uint8_t piece[CONSOLE_INPUT];
    uint32_t len;
    {
        LOCKED(&c->vdev.pci.dev.lock);
        len = p->input_len < elem->in_bytes ? p->input_len : (uint32_t)elem->in_bytes;
        memcpy(piece, p->input, len);
        p->input_len -= len;
        memmove(p->input, p->input + len, p->input_len);
    }
    return (uint32_t)iov_from_buf(elem->in, elem->in_count, 0, piece, len);
}

static bool console_has_input(struct console *c, unsigned port)
{
    LOCKED(&c->vdev.pci.dev.lock);
    struct console_port_regs *p = &c->regs.ports[port];
    return p->input_len && (p->guest_open || !console_multiport(c));
}

static void console_receive(struct console *c, unsigned port)
{
    struct virtqueue *vq = &c->vdev.queues[port_rx_queue(port)];
    unsigned budget = VIRTIO_BATCH;
    bool moved = false;
    while (budget-- && console_has_input(c, port)) {
        struct virtqueue_elem *elem = virtqueue_pop(vq);
        if (!elem && virtqueue_notification(vq, true))
            continue;
        if (!elem)
            break;
        virtqueue_push(elem, console_fill(c, port, elem));
        moved = true;
    }
    virtqueue_notify(vq);
    if (moved && atomic_exchange(&c->wants_room[port], false) && c->ports[port].input_room)
        c->ports[port].input_room(c->ports[port].arg);
}

size_t virtio_console_input(struct pci_device *pci, unsigned port, const uint8_t *data, size_t len)
{
    struct console *c = (struct console *)pci;
    assert(port < c->port_count);
    size_t taken;
    {
        LOCKED(&pci->dev.lock);
        struct console_port_regs *p = &c->regs.ports[port];
        size_t room = sizeof p->input - p->input_len;
        taken = len < room ? len : room;
        memcpy(p->input + p->input_len, data, taken);
        p->input_len += (uint32_t)taken;
        if (taken < len)
            c->wants_room[port] = true;
    }
    virtio_kick(&c->vdev, port_rx_queue(port));
    return taken;
}

bool virtio_console_is_open(struct pci_device *pci, unsigned port)
{
    struct console *c = (struct console *)pci;
    LOCKED(&pci->dev.lock);
    if (!(c->regs.virtio.status & VIRTIO_CONFIG_S_DRIVER_OK))
        return false;
    return !console_multiport(c) || c->regs.ports[port].guest_open;
}

/* ---- Control messages to the guest ---- */

/* Takes the next message; answers its length, 0 for none. */
static size_t control_next(struct console *c, unsigned port, uint8_t *out)
{
    LOCKED(&c->vdev.pci.dev.lock);
    struct console_port_regs *p = &c->regs.ports[port];
    unsigned bit = p->pending & -p->pending;
    struct virtio_console_control msg = { .id = htole32(port), .value = htole16(1) };
    size_t len = sizeof msg;
    p->pending = (uint16_t)(p->pending & ~bit);
    switch (bit) {
    case PENDING_ADD: msg.event = htole16(VIRTIO_CONSOLE_PORT_ADD); break;
    case PENDING_CONSOLE: msg.event = htole16(VIRTIO_CONSOLE_CONSOLE_PORT); break;
    case PENDING_OPEN: msg.event = htole16(VIRTIO_CONSOLE_PORT_OPEN); break;
    case PENDING_CLOSE:
        msg.event = htole16(VIRTIO_CONSOLE_PORT_OPEN);
        msg.value = 0;
        break;
    case PENDING_NAME:
        msg.event = htole16(VIRTIO_CONSOLE_PORT_NAME);
        memcpy(out + len, c->names[port], strlen(c->names[port]));
        len += strlen(c->names[port]);
        break;
    case PENDING_RESIZE: {
        uint16_t size[2] = { htole16(c->regs.rows), htole16(c->regs.cols) };
        msg.event = htole16(VIRTIO_CONSOLE_RESIZE);
        memcpy(out + len, size, sizeof size);
        len += sizeof size;
        break;
    }
    default: return 0;
    }
    memcpy(out, &msg, sizeof msg);
    return len;
}

static bool control_wanted(struct console *c, unsigned port)
{
    LOCKED(&c->vdev.pci.dev.lock);
    return c->regs.ports[port].pending;
}

/* False: the driver has no room. */
static bool control_send(struct console *c, unsigned port)
{
    struct virtqueue *vq = &c->vdev.queues[QUEUE_CONTROL_RX];
    while (control_wanted(c, port)) {
        struct virtqueue_elem *elem = virtqueue_pop(vq);
        if (!elem && virtqueue_notification(vq, true))
            continue;
        if (!elem)
            return false;
        uint8_t msg[sizeof(struct virtio_console_control) + VIRTIO_CONSOLE_NAME_MAX + 1];
        size_t len = control_next(c, port, msg);
        virtqueue_push(elem, (uint32_t)iov_from_buf(elem->in, elem->in_count, 0, msg, len));
    }
    return true;
}

static void control_flush(struct console *c)
{
    for (unsigned i = 0; i < c->port_count && control_send(c, i); i++)
        ;
    virtqueue_notify(&c->vdev.queues[QUEUE_CONTROL_RX]);
}

/* ---- Control messages from the guest ---- */

static void control_port_ready(struct console *c, unsigned port)
{
    struct console_port_regs *p = &c->regs.ports[port];
    LOCKED(&c->vdev.pci.dev.lock);
    p->ready = 1;
    p->pending |= PENDING_OPEN;
    if (port == 0)
        p->pending |= PENDING_CONSOLE | (c->regs.cols ? PENDING_RESIZE : 0);
    if (c->names[port][0])
        p->pending |= PENDING_NAME;
}

static void control_port_open(struct console *c, unsigned port, bool open)
{
    bool changed;
    {
        LOCKED(&c->vdev.pci.dev.lock);
        struct console_port_regs *p = &c->regs.ports[port];
        changed = p->guest_open != open;
        p->guest_open = open;
        if (!open && p->hung_up) {
            p->hung_up = 0;
            p->pending = (p->pending & ~PENDING_CLOSE) | PENDING_OPEN;
        }
    }
    if (changed && c->ports[port].opened)
        c->ports[port].opened(c->ports[port].arg, open);
    virtio_kick(&c->vdev, port_rx_queue(port)); /* input may have waited */
}

void virtio_console_hang_up(struct pci_device *pci, unsigned port)
{
    struct console *c = (struct console *)pci;
    {
        LOCKED(&pci->dev.lock);
        struct console_port_regs *p = &c->regs.ports[port];
        if (!p->guest_open)
            return;
        p->hung_up = 1;
        p->pending |= PENDING_CLOSE;
        p->input_len = 0;
    }
    virtio_kick(&c->vdev, QUEUE_CONTROL_RX);
}

static void control_driver_ready(struct console *c)
{
    LOCKED(&c->vdev.pci.dev.lock);
    c->regs.driver_ready = 1;
    for (unsigned i = c->first; i < c->port_count; i++)
        c->regs.ports[i].pending |= PENDING_ADD;
}

static void control_received(struct virtio_device *vdev, struct virtqueue_elem *elem)
{
    struct console *c = console_of(vdev);
    struct virtio_console_control msg;
    size_t len = iov_to_buf(elem->out, elem->out_count, 0, &msg, sizeof msg);
    virtio_complete(vdev, elem, 0);
    if (len != sizeof msg)
        return;
    unsigned port = le32toh(msg.id);
    bool value = msg.value;
    if (le16toh(msg.event) == VIRTIO_CONSOLE_DEVICE_READY && value)
        control_driver_ready(c);
    else if (port < c->first || port >= c->port_count)
        return;
    else if (le16toh(msg.event) == VIRTIO_CONSOLE_PORT_READY && value)
        control_port_ready(c, port);
    else if (le16toh(msg.event) == VIRTIO_CONSOLE_PORT_OPEN)
        control_port_open(c, port, value);
}

/* ---- From the guest ---- */

static void console_sent(struct virtio_device *vdev, struct virtqueue_elem *elem)
{
    struct console *c = console_of(vdev);
    const struct virtio_console_port *port = &c->ports[queue_port(elem->vq->index)];
    uint8_t piece[CONSOLE_COPY];
    size_t len;
    for (size_t at = 0;
         port->output && (len = iov_to_buf(elem->out, elem->out_count, at, piece, sizeof piece));
         at += len)
        port->output(port->arg, piece, len);
    virtio_complete(vdev, elem, 0);
}

/* What waits stays in the queue, and so in the guest's memory. */
static bool console_may_send(struct virtio_device *vdev, unsigned queue)
{
    const struct virtio_console_port *port = &console_of(vdev)->ports[queue_port(queue)];
    return !port->output_room || port->output_room(port->arg);
}

void virtio_console_output_room(struct pci_device *pci, unsigned port)
{
    struct console *c = (struct console *)pci;
    virtio_kick(&c->vdev, port_tx_queue(port));
}

static void console_queue(struct virtio_device *vdev, unsigned queue)
{
    struct console *c = console_of(vdev);
    if (queue == QUEUE_CONTROL_TX) {
        virtio_queue_each(vdev, queue, control_received);
        virtio_kick(vdev, QUEUE_CONTROL_RX);
    } else if (queue == QUEUE_CONTROL_RX) {
        control_flush(c);
    } else if (queue & 1) {
        virtio_queue_while(vdev, queue, console_may_send, console_sent);
    } else {
        console_receive(c, queue_port(queue));
    }
}

/* ---- The device ---- */

void virtio_console_resize(struct pci_device *pci, uint16_t cols, uint16_t rows)
{
    struct console *c = (struct console *)pci;
    {
        LOCKED(&pci->dev.lock);
        if (c->regs.cols == cols && c->regs.rows == rows)
            return;
        c->regs.cols = cols;
        c->regs.rows = rows;
        if (c->regs.ports[0].ready)
            c->regs.ports[0].pending |= PENDING_RESIZE;
    }
    virtio_config_changed(&c->vdev);
    if (c->port_count > 1)
        virtio_kick(&c->vdev, QUEUE_CONTROL_RX);
}

static void console_config(struct virtio_device *vdev, uint8_t *out)
{
    struct console *c = console_of(vdev);
    struct virtio_console_config config = { .cols = htole16(c->regs.cols),
                                            .rows = htole16(c->regs.rows),
                                            .max_nr_ports = htole32(c->port_count) };
    memcpy(out, &config, sizeof config);
}

/* 5.3.4: a byte for port 0 before any queue works. */
static void console_config_write(struct virtio_device *vdev, unsigned offset, unsigned size,
                                 uint64_t value)
{
    struct console *c = console_of(vdev);
    uint8_t byte = (uint8_t)value;
    if (offset == offsetof(struct virtio_console_config, emerg_wr) && c->ports[0].output)
        c->ports[0].output(c->ports[0].arg, &byte, 1);
}

static void console_reset(struct virtio_device *vdev)
{
    struct console *c = console_of(vdev);
    for (unsigned i = 0; i < c->port_count; i++) {
        bool was_open;
        {
            LOCKED(&vdev->pci.dev.lock);
            struct console_port_regs *p = &c->regs.ports[i];
            was_open = p->guest_open;
            p->pending = 0;
            p->ready = p->guest_open = 0;
            p->hung_up = 0;
            c->regs.driver_ready = 0;
        }
        if (was_open && c->ports[i].opened)
            c->ports[i].opened(c->ports[i].arg, false);
    }
}

static const struct virtio_ops console_ops = {
    .id = VIRTIO_ID_CONSOLE,
    .class_code = 0x078000,
    .config = console_config,
    .config_write = console_config_write,
    .queue = console_queue,
    .reset = console_reset,
};

static void console_destroy(struct device *dev)
{
    struct console *c = console_of(virtio_of(dev));
    virtio_fini(&c->vdev);
    free(c);
}

static int console_port_check(const void *state, struct err *err)
{
    const struct console_port_regs *p = state;
    if (p->input_len > sizeof p->input || p->pending & ~PENDING_ALL || p->ready > 1 ||
        p->guest_open > 1 || p->hung_up > 1)
        return err_set(err, EINVAL, "a console port in an impossible state");
    return 0;
}

static int console_check(const void *state, struct err *err)
{
    const struct console_regs *regs = state;
    return regs->driver_ready > 1 ? err_set(err, EINVAL, "driver_ready is neither 0 nor 1") : 0;
}

static const struct state_field console_port_fields[] = {
    STATE_U16(struct console_port_regs, pending),
    STATE_U8(struct console_port_regs, ready),
    STATE_U8(struct console_port_regs, guest_open),
    STATE_U32(struct console_port_regs, hung_up),
    STATE_U32(struct console_port_regs, input_len),
    STATE_BYTES(struct console_port_regs, input),
    STATE_END,
};
static const struct state_desc console_port_state = {
    .name = "port",
    .version = 1,
    .size = sizeof(struct console_port_regs),
    .fields = console_port_fields,
    .check = console_port_check,
};
static const struct state_field console_fields[] = {
    STATE_STRUCT(struct console_regs, virtio, &virtio_state),
    STATE_U16(struct console_regs, cols),
    STATE_U16(struct console_regs, rows),
    STATE_U32(struct console_regs, driver_ready),
    STATE_STRUCTS(struct console_regs, ports, &console_port_state),
    STATE_END,
};
static const struct state_desc console_state = {
    .name = "virtio-console",
    .version = 1,
    .base = offsetof(struct console, regs),
    .size = sizeof(struct console_regs),
    .fields = console_fields,
    .check = console_check,
};
static const struct device_type console_type = {
    .name = "virtio-console",
    .about = "a console and named ports",
    .destroy = console_destroy,
    VIRTIO_DEVICE_FUNCTIONS,
    .state = &console_state,
};

int virtio_console_create(struct machine *m, const struct virtio_console_options *options,
                          struct pci_device **out, struct err *err)
{
    unsigned n = options->port_count;
    if (n < 1 || n > VIRTIO_CONSOLE_MAX_PORTS)
        return err_set(err, EINVAL, "a console has 1 to %d ports", VIRTIO_CONSOLE_MAX_PORTS);
    assert(n > 1 || !options->no_console);
    struct console *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(err, ENOMEM, "out of memory");
    c->port_count = n;
    c->first = options->no_console;
    c->regs.cols = options->cols;
    c->regs.rows = options->rows;
    for (unsigned i = 0; i < n; i++) {
        c->ports[i] = options->ports[i];
        const char *name = options->ports[i].name;
        if (name)
            memcpy(c->names[i], name, strnlen(name, VIRTIO_CONSOLE_NAME_MAX));
        c->ports[i].name = NULL; /* names[] has it */
    }
    const struct virtio_params params = {
        .ops = &console_ops,
        .id = options->id,
        .regs = &c->regs.virtio,
        .features =
            (c->first ? 0 : 1ull << VIRTIO_CONSOLE_F_SIZE | 1ull << VIRTIO_CONSOLE_F_EMERG_WRITE) |
            (n > 1 ? 1ull << VIRTIO_CONSOLE_F_MULTIPORT : 0),
        .queues = n > 1 ? 2 * n + 2 : 2,
        .config_len = sizeof(struct virtio_console_config),
        .queue_size = CONSOLE_QUEUE_SIZE,
    };
    int r = virtio_init(&c->vdev, m, &console_type, &params, err);
    if (r < 0) {
        console_destroy(&c->vdev.pci.dev);
        return r;
    }
    *out = &c->vdev.pci;
    return 0;
}
