/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A 16550A UART.
 *
 * Follows the National PC16550D data sheet. The line has no speed: a byte is sent the moment it is
 * written, so the transmitter is always empty again. Received bytes below the FIFO's trigger level
 * raise the time-out interrupt at once instead of after four characters' time, which saves a person
 * at a console the wait. There are no line errors; a modem is always connected and ready.
 */
#include "devices/serial.h"

#include "machine/irq.h"
#include "machine/machine.h"

#include <stdlib.h>
#include <string.h>

enum { PORTS = 8, FIFO_SIZE = 16, PRIORITY = 10 };
enum { RBR_THR_DLL = 0, IER_DLM, IIR_FCR, LCR, MCR, LSR, MSR, SCR };
enum { IER_RDA = 1, IER_THRE = 2, IER_RLS = 4, IER_MSI = 8 };
enum {
    IIR_NONE = 1,
    IIR_MSI = 0,
    IIR_THRE = 2,
    IIR_RDA = 4,
    IIR_RLS = 6,
    IIR_TIMEOUT = 0xc,
    IIR_FIFO = 0xc0
};
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2, FCR_CLEAR_TX = 4, FCR_KEPT = 0xc9 };
enum { LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 0x10, MCR_WRITABLE = 0x1f };
enum { LSR_DR = 1, LSR_OE = 2, LSR_ERRORS = 0x1e, LSR_THRE = 0x20, LSR_TEMT = 0x40 };
enum {
    MSR_DELTAS = 0x0f,
    MSR_TERI = 4,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80
};

struct serial_regs {
    uint8_t fifo[FIFO_SIZE]; /* received; the oldest first */
    uint8_t fifo_len;
    uint8_t ier, fcr, lcr, mcr, msr, scr;
    uint8_t dll, dlm;
    uint8_t overrun;      /* LSR_OE */
    uint8_t thre_pending; /* the transmitter became empty and IIR has not said so yet */
    uint8_t starved;      /* the other end waits for input_room */
};

struct serial {
    struct device dev;
    struct serial_config config; /* fixed at create; the id is dev.id */
    struct serial_regs regs;     /* dev.lock */
    struct irq_pin pin;
    struct mapping *map;
};

/* ---- Interrupts ---- */

static unsigned fifo_trigger(const struct serial_regs *regs)
{
    static const uint8_t levels[4] = { 1, 4, 8, 14 };
    return regs->fcr & FCR_ENABLE ? levels[regs->fcr >> 6] : 1;
}

static uint8_t interrupt_id(const struct serial_regs *regs)
{
    if ((regs->ier & IER_RLS) && regs->overrun)
        return IIR_RLS;
    if ((regs->ier & IER_RDA) && regs->fifo_len)
        return regs->fifo_len >= fifo_trigger(regs) ? IIR_RDA : IIR_TIMEOUT;
    if ((regs->ier & IER_THRE) && regs->thre_pending)
        return IIR_THRE;
    if ((regs->ier & IER_MSI) && (regs->msr & MSR_DELTAS))
        return IIR_MSI;
    return IIR_NONE;
}

static void serial_update(struct serial *serial)
{
    irq_pin_set(&serial->pin, interrupt_id(&serial->regs) != IIR_NONE);
}

/* ---- The line ---- */

static unsigned fifo_room(const struct serial_regs *regs)
{
    unsigned size = regs->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
    return regs->fifo_len < size ? size - regs->fifo_len : 0;
}

static void serial_receive(struct serial *serial, uint8_t byte)
{
    struct serial_regs *regs = &serial->regs;
    if (fifo_room(regs))
        regs->fifo[regs->fifo_len++] = byte;
    else
        regs->overrun = 1;
}

static uint8_t serial_take(struct serial *serial)
{
    struct serial_regs *regs = &serial->regs;
    uint8_t byte = regs->fifo[0];
    if (!regs->fifo_len)
        return 0;
    memmove(regs->fifo, regs->fifo + 1, FIFO_SIZE - 1);
    regs->fifo[FIFO_SIZE - 1] = 0;
    regs->fifo_len--;
    return byte;
}

/* Tells the other end that was turned away, once there is room for more than a byte or two. */
static void serial_feed(struct serial *serial)
{
    struct serial_regs *regs = &serial->regs;
    if (!regs->starved || regs->fifo_len > FIFO_SIZE / 2 || !fifo_room(regs) ||
        (regs->mcr & MCR_LOOP))
        return;
    regs->starved = 0;
    if (serial->config.input_room)
        serial->config.input_room(serial->config.arg);
}

size_t serial_input(struct device *dev, const uint8_t *data, size_t len)
{
    struct serial *serial = (struct serial *)dev;
    LOCKED(&dev->lock);
    size_t room = serial->regs.mcr & MCR_LOOP ? 0 : fifo_room(&serial->regs);
    size_t taken = len < room ? len : room;

    for (size_t i = 0; i < taken; i++)
        serial_receive(serial, data[i]);
    if (taken < len)
        serial->regs.starved = 1;
    serial_update(serial);
    return taken;
}

static void serial_send(struct serial *serial, uint8_t byte)
{
    if (serial->regs.mcr & MCR_LOOP)
        serial_receive(serial, byte);
    else if (serial->config.output)
        serial->config.output(serial->config.arg, &byte, 1);
    serial->regs.thre_pending = 1;
}

/* The modem lines: those of a modem that is always there, or our own outputs in loopback. */
static void serial_modem(struct serial_regs *regs)
{
    uint8_t lines = MSR_CTS | MSR_DSR | MSR_DCD;
    if (regs->mcr & MCR_LOOP)
        lines = (regs->mcr & MCR_RTS ? MSR_CTS : 0) | (regs->mcr & MCR_DTR ? MSR_DSR : 0) |
                (regs->mcr & MCR_OUT1 ? MSR_RI : 0) | (regs->mcr & MCR_OUT2 ? MSR_DCD : 0);
    uint8_t changed = (regs->msr ^ lines) >> 4;
    if (!(regs->msr & MSR_RI) || (lines & MSR_RI))
        changed &= (uint8_t)~MSR_TERI; /* only the trailing edge counts */
    regs->msr = lines | (regs->msr & MSR_DELTAS) | changed;
}

/* ---- Registers ---- */

static uint8_t read_iir(struct serial_regs *regs)
{
    uint8_t id = interrupt_id(regs);
    if (id == IIR_THRE)
        regs->thre_pending = 0;
    return id | (regs->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct serial_regs *regs)
{
    uint8_t value =
        LSR_THRE | LSR_TEMT | (regs->fifo_len ? LSR_DR : 0) | (regs->overrun ? LSR_OE : 0);
    regs->overrun = 0;
    return value;
}

static uint8_t read_msr(struct serial_regs *regs)
{
    uint8_t value = regs->msr;
    regs->msr &= (uint8_t)~MSR_DELTAS;
    return value;
}

static uint64_t serial_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct serial *serial = (struct serial *)dev;
    struct serial_regs *regs = &serial->regs;
    uint8_t value = 0;

    switch (offset) {
    case RBR_THR_DLL: value = regs->lcr & LCR_DLAB ? regs->dll : serial_take(serial); break;
    case IER_DLM: value = regs->lcr & LCR_DLAB ? regs->dlm : regs->ier; break;
    case IIR_FCR: value = read_iir(regs); break;
    case LCR: value = regs->lcr; break;
    case MCR: value = regs->mcr; break;
    case LSR: value = read_lsr(regs); break;
    case MSR: value = read_msr(regs); break;
    case SCR: value = regs->scr; break;
    }
    serial_update(serial);
    serial_feed(serial);
    return value;
}

static void write_ier(struct serial_regs *regs, uint8_t value)
{
    /* Enabling it while the transmitter is empty, and it always is, makes the interrupt pend. */
    if ((value & IER_THRE) && !(regs->ier & IER_THRE))
        regs->thre_pending = 1;
    regs->ier = value & 0x0f;
}

static void write_fcr(struct serial_regs *regs, uint8_t value)
{
    bool toggled = (value ^ regs->fcr) & FCR_ENABLE;
    if (toggled || (value & FCR_CLEAR_RX)) {
        memset(regs->fifo, 0, sizeof regs->fifo);
        regs->fifo_len = 0;
    }
    regs->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
}

static void serial_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                         uint64_t v)
{
    struct serial *serial = (struct serial *)dev;
    struct serial_regs *regs = &serial->regs;
    uint8_t value = (uint8_t)v;

    switch (offset) {
    case RBR_THR_DLL:
        if (regs->lcr & LCR_DLAB)
            regs->dll = value;
        else
            serial_send(serial, value);
        break;
    case IER_DLM:
        if (regs->lcr & LCR_DLAB)
            regs->dlm = value;
        else
            write_ier(regs, value);
        break;
    case IIR_FCR: write_fcr(regs, value); break;
    case LCR: regs->lcr = value; break;
    case MCR:
        regs->mcr = value & MCR_WRITABLE;
        serial_modem(regs);
        break;
    case SCR: regs->scr = value; break;
    }
    serial_update(serial);
    serial_feed(serial);
}

/* ---- Life ---- */

static void serial_power_on(struct serial_regs *regs)
{
    uint8_t starved = regs->starved;
    *regs =
        (struct serial_regs){ .dll = 1, .msr = MSR_CTS | MSR_DSR | MSR_DCD, .starved = starved };
}

static void serial_reset(struct device *dev)
{
    struct serial *serial = (struct serial *)dev;
    LOCKED(&dev->lock);
    serial_power_on(&serial->regs);
    serial_update(serial);
    serial_feed(serial);
}

static int serial_loaded(struct device *dev, struct err *err)
{
    struct serial *serial = (struct serial *)dev;
    LOCKED(&dev->lock);
    serial_update(serial);
    serial->regs.starved = 1; /* the other end is a new one and may have been turned away */
    serial_feed(serial);
    return 0;
}

static int serial_check(const void *state, struct err *err)
{
    const struct serial_regs *regs = state;
    if (regs->fifo_len > (regs->fcr & FCR_ENABLE ? FIFO_SIZE : 1) || (regs->ier & ~0x0f) ||
        (regs->fcr & ~FCR_KEPT) || (regs->mcr & ~MCR_WRITABLE) || regs->overrun > 1 ||
        regs->thre_pending > 1 || regs->starved > 1)
        return err_set(err, EINVAL, "the serial port cannot be in the saved state");
    return 0;
}

static void serial_destroy(struct device *dev)
{
    struct serial *serial = (struct serial *)dev;
    map_remove(dev->machine, serial->map);
    device_fini(dev);
    free(serial);
}

static const struct state_field serial_fields[] = {
    STATE_BYTES(struct serial_regs, fifo), STATE_U8(struct serial_regs, fifo_len),
    STATE_U8(struct serial_regs, ier),     STATE_U8(struct serial_regs, fcr),
    STATE_U8(struct serial_regs, lcr),     STATE_U8(struct serial_regs, mcr),
    STATE_U8(struct serial_regs, msr),     STATE_U8(struct serial_regs, scr),
    STATE_U8(struct serial_regs, dll),     STATE_U8(struct serial_regs, dlm),
    STATE_U8(struct serial_regs, overrun), STATE_U8(struct serial_regs, thre_pending),
    STATE_U8(struct serial_regs, starved), STATE_END,
};
static const struct state_desc serial_state = {
    .name = "serial",
    .version = 1,
    .base = offsetof(struct serial, regs),
    .size = sizeof(struct serial_regs),
    .fields = serial_fields,
    .check = serial_check,
};
static const struct device_type serial_type = {
    .name = "serial",
    .about = "16550A serial port",
    .threads = DEVICE_LOCKED,
    .destroy = serial_destroy,
    .read = serial_read,
    .write = serial_write,
    .reset = serial_reset,
    .loaded = serial_loaded,
    .state = &serial_state,
};

int serial_create(struct machine *m, const struct serial_config *config, struct device **out,
                  struct err *err)
{
    struct serial *serial = calloc(1, sizeof *serial);
    if (!serial)
        return err_set(err, ENOMEM, "out of memory");
    device_init(&serial->dev, m, &serial_type, config->id);
    serial->config = *config;
    serial->config.id = serial->dev.id;
    irq_pin_init(&serial->pin, m, config->gsi);
    serial_power_on(&serial->regs);
    AUTO(device_destroy) struct device *dev = &serial->dev;

    int r = map_device(m, SPACE_IO, config->port, PORTS, dev, 0, PRIORITY, &serial->map, err);
    if (r < 0)
        return err_prefix(err, "%s", dev->id);
    *out = dev;
    machine_add_device(m, TAKE(dev));
    return 0;
}
