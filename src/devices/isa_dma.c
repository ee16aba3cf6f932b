/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two Intel 8237A as a PC/AT wires them: channels 0 to 3 move bytes, 4 cascades, 5 to 7 move words;
 * page registers extend addresses to 24 bits. Single, block and demand mode are the same here, and
 * there is no memory to memory transfer, as on every PC.
 */
#include "devices/isa_dma.h"

#include "machine/machine.h"

#include <stdlib.h>

enum { PRIORITY = 10, CHANNELS = 8, REGION_LOW, REGION_HIGH, REGION_PAGES, REGIONS };
enum { MODE_TO_MEMORY = 0x04, MODE_FROM_MEMORY = 0x08, MODE_AUTO = 0x10, MODE_DOWN = 0x20 };
enum { COMMAND_DISABLE = 0x04 };

struct dma_channel {
    uint16_t address, count, base_address, base_count;
    uint8_t mode, masked;
};

struct isa_dma_regs {
    struct dma_channel channels[CHANNELS];
    uint8_t pages[16];
    uint8_t high_byte[2]; /* of each controller: the next access is of the upper byte */
    uint8_t command[2], status[2];
};

struct isa_dma {
    struct device dev;
    struct isa_dma_regs regs; /* dev.lock */
    void (*ready)(void *arg); /* fixed at create */
    void *arg;
    struct mapping *maps[REGIONS];
};

static uint8_t counter_read(struct isa_dma_regs *r, unsigned controller, uint16_t value)
{
    r->high_byte[controller] ^= 1;
    return (uint8_t)(r->high_byte[controller] ? value : value >> 8);
}

static void counter_write(struct isa_dma_regs *r, unsigned controller, uint16_t *base,
                          uint16_t *now, uint8_t value)
{
    if (r->high_byte[controller])
        *base = (uint16_t)((*base & 0x00ff) | value << 8);
    else
        *base = (uint16_t)((*base & 0xff00) | value);
    r->high_byte[controller] ^= 1;
    *now = *base;
}

static void controller_clear(struct isa_dma_regs *r, unsigned controller)
{
    r->high_byte[controller] = r->command[controller] = r->status[controller] = 0;
    for (unsigned i = 0; i < 4; i++)
        r->channels[4 * controller + i].masked = 1;
}

static uint64_t dma_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct isa_dma_regs *r = &((struct isa_dma *)dev)->regs;
    if (region == REGION_PAGES)
        return r->pages[offset];
    unsigned controller = region == REGION_HIGH, reg = (unsigned)offset >> controller;
    const struct dma_channel *c = &r->channels[4 * controller + reg / 2 % 4];
    if (reg < 8)
        return counter_read(r, controller, reg & 1 ? c->count : c->address);
    if (reg != 8)
        return 0;
    uint8_t status = r->status[controller];
    r->status[controller] = 0;
    return status;
}

static void control_write(struct isa_dma_regs *r, unsigned controller, unsigned reg, uint8_t value)
{
    struct dma_channel *channels = &r->channels[4 * controller];
    switch (reg) {
    case 8: r->command[controller] = value; break;
    case 10: channels[value & 3].masked = value >> 2 & 1; break;
    case 11: channels[value & 3].mode = value & 0xfc; break;
    case 12: r->high_byte[controller] = 0; break;
    case 13: controller_clear(r, controller); break;
    case 14:
    case 15:
        for (unsigned i = 0; i < 4; i++)
            channels[i].masked = reg == 15 ? value >> i & 1 : 0;
        break;
    }
}

static void dma_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                      uint64_t value)
{
    struct isa_dma *dma = (struct isa_dma *)dev;
    struct isa_dma_regs *r = &dma->regs;
    if (region == REGION_PAGES) {
        r->pages[offset] = (uint8_t)value;
        return;
    }
    unsigned controller = region == REGION_HIGH, reg = (unsigned)offset >> controller;
    struct dma_channel *c = &r->channels[4 * controller + reg / 2 % 4];
    if (reg >= 8)
        control_write(r, controller, reg, (uint8_t)value);
    else if (reg & 1)
        counter_write(r, controller, &c->base_count, &c->count, (uint8_t)value);
    else
        counter_write(r, controller, &c->base_address, &c->address, (uint8_t)value);
    if (dma->ready)
        dma->ready(dma->arg);
}

void isa_dma_set_ready(struct device *dev, void (*ready)(void *arg), void *arg)
{
    struct isa_dma *dma = (struct isa_dma *)dev;
    dma->ready = ready;
    dma->arg = arg;
}

/* ---- by devices ---- */

static bool channel_ready(const struct isa_dma_regs *r, unsigned channel, bool to_memory)
{
    const struct dma_channel *c = &r->channels[channel];
    unsigned wanted = to_memory ? MODE_TO_MEMORY : MODE_FROM_MEMORY, direction = c->mode & 0x0c;
    /* Verifying (neither) moves nothing, but counts. */
    return !c->masked && !(r->command[0] & COMMAND_DISABLE) &&
           (direction == wanted || direction == 0);
}

bool isa_dma_ready(struct device *dev, unsigned channel, bool to_memory)
{
    LOCKED(&dev->lock);
    return channel_ready(&((struct isa_dma *)dev)->regs, channel, to_memory);
}

int isa_dma_move(struct device *dev, unsigned channel, uint8_t *data, unsigned len, bool to_memory,
                 bool *terminal)
{
    static const uint8_t pages[4] = { 7, 3, 1, 2 };
    struct isa_dma_regs *r = &((struct isa_dma *)dev)->regs;
    struct dma_channel *c = &r->channels[channel];
    unsigned moved, direction;
    uint64_t gpa;
    bool down;
    *terminal = false;
    {
        LOCKED(&dev->lock);
        if (!channel_ready(r, channel, to_memory))
            return 0;
        direction = c->mode & 0x0c;
        down = c->mode & MODE_DOWN;
        gpa = (uint64_t)r->pages[pages[channel]] << 16;
        moved = c->count + 1u < len ? c->count + 1u : len;
        unsigned room = down ? c->address + 1u : 0x10000u - c->address; /* it wraps in its page */
        moved = moved < room ? moved : room;
        gpa += down ? c->address + 1u - moved : c->address;
    }
    int result = 0;
    for (unsigned i = 0; down && i < moved / 2; i++) {
        uint8_t byte = data[i];
        data[i] = data[moved - 1 - i];
        data[moved - 1 - i] = byte;
    }
    if (direction)
        result = to_memory ? mem_write(dev->machine, gpa, data, moved)
                           : mem_read(dev->machine, gpa, data, moved);
    LOCKED(&dev->lock);
    c->address = (uint16_t)(down ? c->address - moved : c->address + moved);
    *terminal = c->count + 1u == moved;
    c->count = (uint16_t)(c->count - moved);
    if (*terminal) {
        r->status[0] |= (uint8_t)(1 << channel);
        if (c->mode & MODE_AUTO) {
            c->address = c->base_address;
            c->count = c->base_count;
        } else {
            c->masked = 1;
        }
    }
    return result < 0 ? result : (int)moved;
}

/* ---- life ---- */

static void dma_reset(struct device *dev)
{
    struct isa_dma *dma = (struct isa_dma *)dev;
    LOCKED(&dev->lock);
    dma->regs = (struct isa_dma_regs){ 0 };
    controller_clear(&dma->regs, 0);
    controller_clear(&dma->regs, 1);
}

static int dma_check(const void *state, struct err *err)
{
    const struct isa_dma_regs *r = state;
    bool fine = r->high_byte[0] <= 1 && r->high_byte[1] <= 1;
    for (unsigned i = 0; i < CHANNELS; i++)
        fine = fine && r->channels[i].masked <= 1;
    return fine ? 0 : err_set(err, EINVAL, "the DMA controller cannot be in the saved state");
}

static void dma_destroy(struct device *dev)
{
    struct isa_dma *dma = (struct isa_dma *)dev;
    for (unsigned i = 0; i < REGIONS; i++)
        map_remove(dev->machine, dma->maps[i]);
    device_fini(dev);
    free(dma);
}

static const struct state_field channel_fields[] = {
    STATE_U16(struct dma_channel, address),
    STATE_U16(struct dma_channel, count),
    STATE_U16(struct dma_channel, base_address),
    STATE_U16(struct dma_channel, base_count),
    STATE_U8(struct dma_channel, mode),
    STATE_U8(struct dma_channel, masked),
    STATE_END,
};
static const struct state_desc channel_state = {
    .name = "isa-dma-channel",
    .version = 1,
    .size = sizeof(struct dma_channel),
    .fields = channel_fields,
};
static const struct state_field dma_fields[] = {
    STATE_STRUCTS(struct isa_dma_regs, channels, &channel_state),
    STATE_BYTES(struct isa_dma_regs, pages),
    STATE_BYTES(struct isa_dma_regs, high_byte),
    STATE_BYTES(struct isa_dma_regs, command),
    STATE_BYTES(struct isa_dma_regs, status),
    STATE_END,
};
static const struct state_desc dma_state = {
    .name = "isa-dma",
    .version = 1,
    .base = offsetof(struct isa_dma, regs),
    .size = sizeof(struct isa_dma_regs),
    .fields = dma_fields,
    .check = dma_check,
};
static const struct device_type dma_type = {
    .name = "isa-dma",
    .about = "DMA controllers of the ISA bus",
    .threads = DEVICE_LOCKED,
    .destroy = dma_destroy,
    .read = dma_read,
    .write = dma_write,
    .reset = dma_reset,
    .state = &dma_state,
};

int isa_dma_create(struct machine *m, struct device **out, struct err *err)
{
    static const struct {
        unsigned region;
        uint16_t port, size;
    } places[] = { { REGION_LOW, 0x00, 16 },
                   { REGION_HIGH, 0xc0, 32 },
                   { REGION_PAGES, 0x80, 16 } };
    struct isa_dma *dma = calloc(1, sizeof *dma);
    if (!dma)
        return err_set(err, ENOMEM, "out of memory");
    device_init(&dma->dev, m, &dma_type, "isa-dma");
    AUTO(device_destroy) struct device *dev = &dma->dev;
    dma_reset(dev);
    for (unsigned i = 0; i < 3; i++) {
        int r = map_device(m, SPACE_IO, places[i].port, places[i].size, dev, places[i].region,
                           PRIORITY, &dma->maps[i], err);
        if (r < 0)
            return err_prefix(err, "DMA controller");
    }
    *out = dev;
    machine_add_device(m, TAKE(dev));
    return 0;
}
