/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The xHCI controller: registers, ports, interrupts, life (xHCI 1.1; rings are in xhci_rings.c).
 *
 * One interrupter, 32-byte contexts, no streams, no scratch pad. Devices are HID ones on the USB 2
 * ports, plugged and pulled while the machine runs; what is plugged where is part of the state.
 *
 *  1. Whatever touches the guest's memory runs on io_loop, and not while HCHalted reads one: RUN
 *     and HCRST take effect there.
 */
#include "devices/usb/xhci_priv.h"

#include "base/checked.h"
#include "machine/clock.h"

#include <stdlib.h>
#include <string.h>

enum { BAR = 0, BAR_SIZE = 0x4000, MSIX_TABLE = 0x3000, MSIX_PBA = 0x3800 };
enum { OPERATIONAL = 0x40, PORTS = 0x440, RUNTIME = 0x1000, DOORBELLS = 0x2000, EXTENDED = 0x20 };
enum { USBCMD = 0x40, USBSTS = 0x44, PAGESIZE = 0x48, DNCTRL = 0x54, CRCR = 0x58, DCBAAP = 0x70 };
enum { CONFIG = 0x78, MFINDEX = 0x1000, IMAN = 0x1020, IMOD = 0x1024, ERSTSZ = 0x1028 };
enum { ERSTBA = 0x1030, ERDP = 0x1038, MICROFRAME_NS = 125000 };
enum { /* 5.4.8 */
       PORT_CONNECTED = 1 << 0,
       PORT_ENABLED = 1 << 1,
       PORT_RESET = 1 << 4,
       PORT_LINK = 15 << 5,
       PORT_LINK_DETECT = 5 << 5,
       PORT_LINK_POLLING = 7 << 5,
       PORT_POWER = 1 << 9,
       PORT_SPEED = 15 << 10,
       PORT_SPEED_HIGH = 3 << 10,
       PORT_LINK_WRITE = 1 << 16,
       PORT_CONNECT_CHANGE = 1 << 17,
       PORT_ENABLE_CHANGE = 1 << 18,
       PORT_RESET_CHANGE = 1 << 21,
       PORT_LINK_CHANGE = 1 << 22,
       PORT_CHANGES = 0x7f << 17,
       PORT_WAKE = 7 << 25,
};

/* ---- interrupts; lock held ---- */

static bool irq_wanted(const struct xhci_regs *r)
{
    return (r->iman & IMAN_PENDING) && (r->iman & IMAN_ENABLE) && (r->usbcmd & CMD_INTERRUPTS);
}

/* What pends is told also when it may be told only now: a driver that resumes the ports turns
 * interrupts off for a while. */
void xhci_update_irq(struct xhci *xhci)
{
    struct xhci_regs *r = &xhci->regs;
    if (irq_wanted(r) && pci_msix_enabled(&xhci->pci)) {
        r->iman &= ~(uint32_t)IMAN_PENDING; /* 4.17.5: by itself, with messages */
        pci_msix_notify(&xhci->pci, 0);
    }
    pci_intx_set(&xhci->pci, irq_wanted(r));
}

static void xhci_interrupt(struct xhci *xhci)
{
    struct xhci_regs *r = &xhci->regs;
    r->usbsts |= STS_EVENT;
    r->iman |= IMAN_PENDING;
    xhci_update_irq(xhci);
}

void xhci_event_posted(struct xhci *xhci)
{
    struct xhci_regs *r = &xhci->regs;
    if (r->erdp & ERDP_BUSY)
        return; /* told when the driver is through */
    r->erdp |= ERDP_BUSY;
    xhci_interrupt(xhci);
}

/* The driver is through: is there more than it has seen? */
static void xhci_events_seen(struct xhci *xhci, uint64_t erdp)
{
    struct xhci_regs *r = &xhci->regs;
    bool through = erdp & ERDP_BUSY;
    r->erdp = (erdp & ~15ull) | (r->erdp & ERDP_BUSY);
    if (!through || !(r->erdp & ERDP_BUSY))
        return;
    r->erdp &= ~(uint64_t)ERDP_BUSY;
    if (r->event_ready && (r->erdp & ~15ull) != r->event_base + r->event_next * 16ull)
        xhci_event_posted(xhci);
}

/* ---- ports; lock held ---- */

static void port_changed(struct xhci *xhci, unsigned port, uint32_t change)
{
    xhci->regs.portsc[port] |= change;
    xhci->regs.port_events |= 1u << port;
    xhci->regs.usbsts |= STS_PORT;
    io_work_kick(&xhci->work);
}

static bool port_occupied(const struct xhci *xhci, unsigned port)
{
    return port < XHCI_USB2_PORTS && xhci->regs.hids[port].kind;
}

static void port_power_on(struct xhci *xhci, unsigned port)
{
    xhci->regs.portsc[port] = PORT_POWER | PORT_LINK_DETECT;
    if (port_occupied(xhci, port)) {
        xhci->regs.portsc[port] = PORT_POWER | PORT_LINK_POLLING | PORT_CONNECTED | PORT_SPEED_HIGH;
        port_changed(xhci, port, PORT_CONNECT_CHANGE);
    }
}

static void port_reset(struct xhci *xhci, unsigned port)
{
    if (!port_occupied(xhci, port))
        return;
    hid_reset(&xhci->regs.hids[port]);
    xhci_input_changed(xhci, port);
    uint32_t *portsc = &xhci->regs.portsc[port];
    *portsc = (*portsc & ~(uint32_t)(PORT_LINK | PORT_SPEED)) | PORT_ENABLED | PORT_SPEED_HIGH;
    port_changed(xhci, port, PORT_RESET_CHANGE);
}

static void port_write(struct xhci *xhci, unsigned port, uint32_t value)
{
    uint32_t *portsc = &xhci->regs.portsc[port];
    *portsc &= ~(value & PORT_CHANGES);
    *portsc = (*portsc & ~(uint32_t)PORT_WAKE) | (value & PORT_WAKE);
    if (!(value & PORT_POWER)) {
        *portsc &= ~(uint32_t)PORT_POWER;
        return;
    }
    *portsc |= PORT_POWER;
    if (value & PORT_ENABLED) { /* writing one turns it off */
        *portsc &= ~(uint32_t)PORT_ENABLED;
        return;
    }
    if ((value & PORT_LINK_WRITE) && (*portsc & PORT_ENABLED)) {
        uint32_t link = value & PORT_LINK;
        if (link == 15 << 5) /* resume */
            link = 0;
        *portsc = (*portsc & ~(uint32_t)PORT_LINK) | link;
        if (!link)
            port_changed(xhci, port, PORT_LINK_CHANGE);
    }
    if (value & (PORT_RESET | 1u << 31))
        port_reset(xhci, port);
}

/* ---- people ---- */

static void input_update(void *arg)
{
    struct xhci_port_input *in = arg;
    struct xhci *xhci = in->xhci;
    bool active;
    atomic_store(&in->posted, false);
    {
        LOCKED(&xhci->pci.dev.lock);
        active = xhci->regs.hids[in->port].kind && xhci->regs.hids[in->port].configuration;
    }
    if (in->added)
        input_set_active(xhci->input, &in->handler, active);
}

void xhci_input_changed(struct xhci *xhci, unsigned port)
{
    if (xhci->input && !atomic_exchange(&xhci->inputs[port].posted, true))
        loop_post(xhci->pci.dev.machine->loop, input_update, &xhci->inputs[port]);
}

static struct hid *input_hid(struct xhci_port_input *in)
{
    return in->xhci->paused ? NULL : &in->xhci->regs.hids[in->port];
}

static void input_key_event(void *arg, unsigned code, bool down)
{
    struct xhci_port_input *in = arg;
    LOCKED(&in->xhci->pci.dev.lock);
    if (input_hid(in))
        hid_key(input_hid(in), code, down);
    io_work_kick(&in->xhci->work);
}

static bool input_keys_wait_at(void *arg)
{
    struct xhci_port_input *in = arg;
    LOCKED(&in->xhci->pci.dev.lock);
    return input_hid(in) && hid_has_report(input_hid(in));
}

static void input_position_event(void *arg, unsigned x, unsigned y)
{
    struct xhci_port_input *in = arg;
    LOCKED(&in->xhci->pci.dev.lock);
    if (input_hid(in))
        hid_position(input_hid(in), x, y);
    io_work_kick(&in->xhci->work);
}

static void input_buttons_event(void *arg, unsigned held)
{
    struct xhci_port_input *in = arg;
    LOCKED(&in->xhci->pci.dev.lock);
    if (input_hid(in))
        hid_buttons(input_hid(in), held);
    io_work_kick(&in->xhci->work);
}

static void input_wheel_event(void *arg, int notches)
{
    struct xhci_port_input *in = arg;
    LOCKED(&in->xhci->pci.dev.lock);
    if (input_hid(in))
        hid_wheel(input_hid(in), notches);
    io_work_kick(&in->xhci->work);
}

/* Main loop: the hub knows what is plugged in. */
static void input_connect(struct xhci *xhci, unsigned port)
{
    struct xhci_port_input *in = &xhci->inputs[port];
    enum hid_kind kind = (enum hid_kind)xhci->regs.hids[port].kind;
    if (!xhci->input)
        return;
    if (in->added)
        input_remove(xhci->input, &in->handler);
    in->added = kind != HID_NONE;
    if (!in->added)
        return;
    in->handler = (struct input_handler){ .arg = in };
    if (kind == HID_KEYBOARD) {
        in->handler.name = "USB keyboard";
        in->handler.kinds = INPUT_KEYBOARD;
        in->handler.key = input_key_event;
        in->handler.keys_wait = input_keys_wait_at;
    } else {
        in->handler.name = "USB tablet";
        in->handler.kinds = INPUT_TABLET;
        in->handler.position = input_position_event;
        in->handler.buttons = input_buttons_event;
        in->handler.wheel = input_wheel_event;
    }
    input_add(xhci->input, &in->handler, xhci->regs.hids[port].configuration);
}

enum hid_kind xhci_device_at(struct pci_device *pci, unsigned port)
{
    struct xhci *xhci = (struct xhci *)pci;
    return port >= 1 && port <= XHCI_USB2_PORTS ? (enum hid_kind)xhci->regs.hids[port - 1].kind
                                                : HID_NONE;
}

struct plug_call {
    struct xhci *xhci;
    unsigned port;
    enum hid_kind kind;
};

static void plug_do(void *arg)
{
    struct plug_call *call = arg;
    struct xhci *xhci = call->xhci;
    uint32_t *portsc = &xhci->regs.portsc[call->port];
    LOCKED(&xhci->pci.dev.lock);
    hid_init(&xhci->regs.hids[call->port], call->kind);
    *portsc &= ~(uint32_t)(PORT_CONNECTED | PORT_ENABLED | PORT_LINK | PORT_SPEED);
    if (call->kind)
        *portsc |= PORT_CONNECTED | PORT_LINK_POLLING | PORT_SPEED_HIGH;
    else
        *portsc |= PORT_LINK_DETECT;
    port_changed(xhci, call->port, PORT_CONNECT_CHANGE);
}

int xhci_attach(struct pci_device *pci, enum hid_kind kind, struct err *err)
{
    struct xhci *xhci = (struct xhci *)pci;
    for (unsigned port = 0; port < XHCI_USB2_PORTS; port++) {
        if (xhci->regs.hids[port].kind)
            continue;
        struct plug_call call = { xhci, port, kind };
        loop_call(pci->dev.machine->io_loop, plug_do, &call);
        input_connect(xhci, port);
        return (int)port + 1;
    }
    return err_set(err, ENOSPC, "%s: all %d ports are taken", pci->dev.id, XHCI_USB2_PORTS);
}

int xhci_detach(struct pci_device *pci, unsigned port, struct err *err)
{
    struct xhci *xhci = (struct xhci *)pci;
    if (!xhci_device_at(pci, port))
        return err_set(err, ENODEV, "%s: nothing is at port %u", pci->dev.id, port);
    struct plug_call call = { xhci, port - 1, HID_NONE };
    loop_call(pci->dev.machine->io_loop, plug_do, &call);
    input_connect(xhci, port - 1);
    return 0;
}

/* ---- registers; lock held ---- */

static uint32_t capability_read(unsigned at)
{
    static const uint32_t usb2[] = { 0x02000402, 0x20425355, 1 | XHCI_USB2_PORTS << 8, 0 };
    static const uint32_t usb3[] = { 0x03000002, 0x20425355,
                                     (1 + XHCI_USB2_PORTS) | (XHCI_PORTS - XHCI_USB2_PORTS) << 8,
                                     0 };
    if (at >= EXTENDED && at < EXTENDED + 16)
        return usb2[(at - EXTENDED) / 4];
    if (at >= EXTENDED + 16 && at < OPERATIONAL)
        return usb3[(at - EXTENDED - 16) / 4];
    switch (at) {
    case 0x00: return 0x0100u << 16 | OPERATIONAL;
    case 0x04: return (uint32_t)XHCI_PORTS << 24 | 1 << 8 | XHCI_SLOTS;
    case 0x08: return 0x0000000f;
    case 0x10: return EXTENDED / 4 << 16 | 1; /* 64-bit addresses */
    case 0x14: return DOORBELLS;
    case 0x18: return RUNTIME;
    }
    return 0;
}

static uint32_t half(uint64_t value, unsigned at) { return (uint32_t)(value >> (at & 4 ? 32 : 0)); }

static uint32_t reg_read(struct xhci *xhci, unsigned at)
{
    const struct xhci_regs *r = &xhci->regs;
    if (at < OPERATIONAL)
        return capability_read(at);
    if (at >= PORTS && at < PORTS + 16 * XHCI_PORTS)
        return at % 16 ? 0 : r->portsc[(at - PORTS) / 16];
    switch (at) {
    case USBCMD: return r->usbcmd;
    case USBSTS: return r->usbsts;
    case PAGESIZE: return 1;
    case DNCTRL: return r->dnctrl;
    case CRCR: return r->command_running ? CRCR_RUNNING : 0;
    case DCBAAP:
    case DCBAAP + 4: return half(r->dcbaap, at);
    case CONFIG: return r->config;
    case MFINDEX: return (uint32_t)(guest_now_ns(xhci->pci.dev.machine) / MICROFRAME_NS) & 0x3fff;
    case IMAN: return r->iman;
    case IMOD: return r->imod;
    case ERSTSZ: return r->erstsz;
    case ERSTBA:
    case ERSTBA + 4: return half(r->erstba, at);
    case ERDP:
    case ERDP + 4: return half(r->erdp, at);
    }
    return 0;
}

static void set_half(uint64_t *value, unsigned at, uint32_t half_value)
{
    if (at & 4)
        *value = (uint32_t)*value | (uint64_t)half_value << 32;
    else
        *value = *value >> 32 << 32 | half_value;
}

/*
 * 4.23.2: a driver that suspends the controller writes all registers again afterwards, by which the
 * event ring begins anew. What they do not show, how far events have come, is kept and restored at
 * once, while nothing runs. Ports and slots lose nothing.
 */
static void save_or_restore(struct xhci *xhci, uint32_t command)
{
    struct xhci_regs *r = &xhci->regs;
    if (command & CMD_SAVE) {
        r->kept = r->event_ready;
        r->kept_next = r->kept ? r->event_next : 0;
    }
    if ((command & CMD_RESTORE) && r->kept) {
        r->event_next = r->kept_next;
        r->event_ready = 1;
    } else if (command & CMD_RESTORE) {
        r->usbsts |= STS_RESTORE_ERROR; /* the driver starts the controller anew */
    }
    if (command & CMD_RUN)
        r->kept = r->kept_next = 0; /* the event ring may be another one from here on */
}

static void write_command(struct xhci *xhci, uint32_t value)
{
    struct xhci_regs *r = &xhci->regs;
    if (r->usbcmd & CMD_RESET)
        return;
    if (r->usbsts & STS_HALTED)
        save_or_restore(xhci, value);
    r->usbcmd = value & (CMD_RUN | CMD_RESET | CMD_INTERRUPTS | 1 << 3 | 1 << 10);
    if (value & CMD_RUN)
        r->usbsts &= ~(uint32_t)STS_HALTED;
    io_work_kick(&xhci->work);
}

static void write_crcr(struct xhci *xhci, unsigned at, uint32_t value)
{
    struct xhci_regs *r = &xhci->regs;
    if (at == CRCR && r->command_running && (value & (CRCR_STOP | CRCR_ABORT))) {
        r->command_running = 0; /* commands are over at once: nothing is cut off */
        r->doorbells[0] = 0;
        return;
    }
    if (r->command_running)
        return;
    set_half(&r->command.at, at, at & 4 ? value : value & ~63u);
    if (at == CRCR)
        r->command.cycle = value & 1;
}

static void reg_write(struct xhci *xhci, unsigned at, uint32_t value)
{
    struct xhci_regs *r = &xhci->regs;
    if (at >= PORTS && at < PORTS + 16 * XHCI_PORTS) {
        if (at % 16 == 0)
            port_write(xhci, (at - PORTS) / 16, value);
        return;
    }
    if (at >= DOORBELLS && at <= DOORBELLS + 4 * XHCI_SLOTS) {
        r->doorbells[(at - DOORBELLS) / 4] |= at == DOORBELLS ? 1u : 1u << (value & 31);
        io_work_kick(&xhci->work);
        return;
    }
    switch (at) {
    case USBCMD: write_command(xhci, value); break;
    case USBSTS:
        r->usbsts &= ~(value & (STS_ERROR | STS_EVENT | STS_PORT | STS_RESTORE_ERROR));
        break;
    case DNCTRL: r->dnctrl = value & 0xffff; break;
    case CRCR:
    case CRCR + 4: write_crcr(xhci, at, value); break;
    case DCBAAP:
    case DCBAAP + 4:
        set_half(&r->dcbaap, at, value);
        r->dcbaap &= ~63ull;
        break;
    case CONFIG: r->config = value & 0xff; break;
    case IMAN:
        r->iman = (r->iman & ~(value & IMAN_PENDING) & IMAN_PENDING) | (value & IMAN_ENABLE);
        break;
    case IMOD: r->imod = value; break;
    case ERSTSZ: r->erstsz = value & 0xffff; break;
    case ERSTBA:
    case ERSTBA + 4:
        set_half(&r->erstba, at, value);
        r->erstba &= ~63ull;
        r->event_ready = 0;
        r->event_next = 0;
        io_work_kick(&xhci->work);
        break;
    case ERDP: /* the lower half counts when it is written, the upper one comes after it */
        xhci_events_seen(xhci, (r->erdp >> 32 << 32) | value);
        io_work_kick(&xhci->work);
        break;
    case ERDP + 4: set_half(&r->erdp, at, value); break;
    }
    xhci_update_irq(xhci);
}

static uint64_t xhci_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct xhci *xhci = (struct xhci *)dev;
    unsigned at = (unsigned)offset & ~3u;
    uint64_t value = reg_read(xhci, at);
    if (size == 8)
        value |= (uint64_t)reg_read(xhci, at + 4) << 32;
    return value >> 8 * (offset & 3);
}

static void xhci_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct xhci *xhci = (struct xhci *)dev;
    if (size < 4 || offset & 3)
        return;
    if (size == 8) /* a whole pointer: its upper half first, since the lower one counts */
        reg_write(xhci, (unsigned)offset + 4, (uint32_t)(value >> 32));
    reg_write(xhci, (unsigned)offset, (uint32_t)value);
}

static void xhci_config_written(struct pci_device *pci, unsigned offset, unsigned size)
{
    io_work_kick(&((struct xhci *)pci)->work);
}

/* ---- life ---- */

/* io_loop or nobody there; lock held. Devices stay plugged in. */
static void xhci_power_on(struct xhci *xhci)
{
    struct xhci_regs *r = &xhci->regs;
    r->dcbaap = r->erstba = r->erdp = 0;
    r->usbcmd = r->dnctrl = r->config = r->iman = r->erstsz = 0;
    r->usbsts = STS_HALTED;
    r->imod = 4000;
    r->port_events = 0;
    memset(r->doorbells, 0, sizeof r->doorbells);
    memset(r->slots, 0, sizeof r->slots);
    r->command = (struct xhci_ring){ 0 };
    r->command_running = r->event_ready = r->event_cycle = 0;
    r->event_base = 0;
    r->event_size = r->event_next = 0;
    r->kept = r->kept_next = 0;
    for (unsigned i = 0; i < XHCI_USB2_PORTS; i++) {
        hid_reset(&r->hids[i]);
        xhci_input_changed(xhci, i);
    }
    for (unsigned i = 0; i < XHCI_PORTS; i++)
        port_power_on(xhci, i);
    xhci_update_irq(xhci);
}

static void xhci_work(void *arg)
{
    struct xhci *xhci = arg;
    struct xhci_regs *r = &xhci->regs;
    {
        LOCKED(&xhci->pci.dev.lock);
        if (r->usbcmd & CMD_RESET)
            xhci_power_on(xhci);
        if (!(r->usbcmd & CMD_RUN)) {
            r->usbsts |= STS_HALTED;
            r->command_running = 0;
            return;
        }
        if (!pci_bus_master(&xhci->pci))
            return;
    }
    xhci_run(xhci);
}

static void xhci_reset(struct device *dev)
{
    struct xhci *xhci = (struct xhci *)dev;
    {
        LOCKED(&dev->lock);
        xhci_power_on(xhci);
    }
    pci_reset(&xhci->pci);
}

static void xhci_set_paused(struct xhci *xhci, bool paused)
{
    LOCKED(&xhci->pci.dev.lock);
    xhci->paused = paused;
}

static void xhci_pause(struct device *dev)
{
    struct xhci *xhci = (struct xhci *)dev;
    io_work_pause(&xhci->work);
    xhci_set_paused(xhci, true);
}

static void xhci_resume(struct device *dev)
{
    struct xhci *xhci = (struct xhci *)dev;
    xhci_set_paused(xhci, false);
    io_work_resume(&xhci->work);
}

static int xhci_loaded(struct device *dev, struct err *err)
{
    struct xhci *xhci = (struct xhci *)dev;
    int r = pci_loaded(&xhci->pci, err);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < XHCI_USB2_PORTS; i++)
        input_connect(xhci, i);
    LOCKED(&dev->lock);
    pci_intx_set(&xhci->pci, irq_wanted(&xhci->regs));
    return 0;
}

static int xhci_check(const void *state, struct err *err)
{
    const struct xhci_regs *r = state;
    int result = xhci_rings_check(r, err);
    for (unsigned i = 0; result == 0 && i < XHCI_USB2_PORTS; i++)
        result = hid_check(&r->hids[i], err);
    return result;
}

static void xhci_destroy(struct device *dev)
{
    struct xhci *xhci = (struct xhci *)dev;
    io_work_fini(&xhci->work);
    for (unsigned i = 0; i < XHCI_USB2_PORTS; i++)
        if (xhci->inputs[i].added)
            input_remove(xhci->input, &xhci->inputs[i].handler);
    pci_device_fini(&xhci->pci);
    free(xhci);
}

static const struct state_field xhci_fields[] = {
    STATE_STRUCT(struct xhci_regs, pci, &pci_state),
    STATE_U64(struct xhci_regs, dcbaap),
    STATE_U64(struct xhci_regs, erstba),
    STATE_U64(struct xhci_regs, erdp),
    STATE_U32(struct xhci_regs, usbcmd),
    STATE_U32(struct xhci_regs, usbsts),
    STATE_U32(struct xhci_regs, dnctrl),
    STATE_U32(struct xhci_regs, config),
    STATE_U32(struct xhci_regs, iman),
    STATE_U32(struct xhci_regs, imod),
    STATE_U32(struct xhci_regs, erstsz),
    STATE_UINTS(struct xhci_regs, doorbells),
    STATE_UINTS(struct xhci_regs, portsc),
    STATE_U32(struct xhci_regs, port_events),
    STATE_U32(struct xhci_regs, reserved),
    STATE_STRUCTS(struct xhci_regs, hids, &hid_state),
    STATE_STRUCT(struct xhci_regs, command, &xhci_ring_state),
    STATE_U8(struct xhci_regs, command_running),
    STATE_U8(struct xhci_regs, event_ready),
    STATE_U8(struct xhci_regs, event_cycle),
    STATE_BYTES(struct xhci_regs, event_reserved),
    STATE_U64(struct xhci_regs, event_base),
    STATE_U32(struct xhci_regs, event_size),
    STATE_U32(struct xhci_regs, event_next),
    STATE_STRUCTS(struct xhci_regs, slots, &xhci_slot_state),
    STATE_U32(struct xhci_regs, kept),
    STATE_U32(struct xhci_regs, kept_next),
    STATE_END,
};
static const struct state_desc xhci_state = {
    .name = "xhci",
    .version = 1,
    .base = offsetof(struct xhci, regs),
    .size = sizeof(struct xhci_regs),
    .fields = xhci_fields,
    .check = xhci_check,
};
static const struct device_type xhci_type = {
    .name = "xhci",
    .about = "USB 3 controller with tablet and keyboard",
    .threads = DEVICE_LOCKED,
    .destroy = xhci_destroy,
    .read = xhci_read,
    .write = xhci_write,
    .reset = xhci_reset,
    .pause = xhci_pause,
    .resume = xhci_resume,
    .loaded = xhci_loaded,
    .state = &xhci_state,
};

int xhci_create(struct machine *m, const char *id, struct input *input, struct pci_device **out,
                struct err *err)
{
    static const struct pci_ids ids = {
        .vendor = 0x1b36,
        .device = 0x000d,
        .class_code = 0x0c0330,
        .revision = 1,
        .interrupt_pin = 1,
    };
    static const struct pci_ops ops = { .config_written = xhci_config_written };
    struct xhci *xhci = calloc(1, sizeof *xhci);
    if (!xhci)
        return err_set(err, ENOMEM, "out of memory");
    pci_device_init(&xhci->pci, m, &xhci_type, id, &ids, &ops, &xhci->regs.pci);
    pci_bar_add(&xhci->pci, BAR, BAR_SIZE, PCI_BAR_64);
    pci_msix_init(&xhci->pci, BAR, MSIX_TABLE, MSIX_PBA, 1);
    pci_config_init(&xhci->pci, 0x60, 1, 0x30, 0); /* the release of USB: 3.0 */
    io_work_init(&xhci->work, m, xhci_work, xhci);
    xhci->paused = true;
    xhci->input = input;
    for (unsigned i = 0; i < XHCI_USB2_PORTS; i++)
        xhci->inputs[i] = (struct xhci_port_input){ .xhci = xhci, .port = i };
    xhci_power_on(xhci);
    *out = &xhci->pci;
    return 0;
}
