/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The 8254 interval timer.
 *
 * Follows the Intel 8254 data sheet (order 231164). Nothing counts: a channel knows when its count
 * was loaded (guest time) and everything else is worked out from the ticks since. Only channel 0 is
 * wired to an interrupt; channel 1 refreshed the memory of the first PCs and only shows in bit 4 of
 * port 0x61; channel 2 drives a loudspeaker that nobody hears: port 0x61 has its gate, its
 * output and the speaker's own bit, and kernels calibrate the TSC against it. A timer that could
 * not fire in time (the host was busy) skips the ticks it missed. The hardware-triggered modes 1
 * and 5 also start when a count is loaded, which no PC software can tell.
 */
#include "devices/pit.h"

#include "machine/clock.h"
#include "machine/irq.h"
#include "machine/machine.h"

#include <stdlib.h>

enum { CHANNELS = 3, REGION_PIT = 0, REGION_PORT61, REGIONS, PRIORITY = 10 };
enum { ACCESS_LATCH = 0, ACCESS_LOW = 1, ACCESS_HIGH = 2, ACCESS_BOTH = 3 };
enum { PORT61_GATE2 = 1, PORT61_SPEAKER = 2, PORT61_REFRESH = 0x10, PORT61_OUT2 = 0x20 };
enum { REFRESH_NS = 15085 };

struct channel_regs {
    uint64_t start_ns; /* guest time of the first tick after the count was loaded */
    uint64_t next_ns;  /* guest time of the next interrupt of channel 0; 0: none */
    uint32_t count;    /* 1 to 0x10000; 0: never loaded */
    uint32_t held;     /* ticks into the count while the gate is low, in modes that it stops */
    uint32_t latched;
    uint8_t latched_bytes; /* of `latched` that are still to be read */
    uint8_t latched_high;  /* the next of them is the high one */
    uint8_t status, status_latched;
    uint8_t access, mode, bcd, gate;
    uint8_t read_high, write_high; /* which byte comes next in ACCESS_BOTH */
    uint8_t write_low;             /* the byte that waits for its high one */
    uint8_t null_count;            /* a mode was set, no count yet */
};

struct pit_regs {
    struct channel_regs channel[CHANNELS];
    uint64_t speaker; /* bits of port 0x61 that only read back */
};

struct pit {
    struct device dev;
    struct pit_regs regs; /* dev.lock */
    struct irq_pin pin;
    struct guest_timer *timer;
    struct mapping *maps[REGIONS];
};

/* ---- Time ---- */

static uint64_t ticks_of_ns(uint64_t ns)
{
    return (uint64_t)((unsigned __int128)ns * PIT_HZ / 1000000000);
}

/* The first nanosecond at which ticks_of_ns() is `ticks`. */
static uint64_t ns_of_ticks(uint64_t ticks)
{
    return (uint64_t)(((unsigned __int128)ticks * 1000000000 + PIT_HZ - 1) / PIT_HZ);
}

static bool channel_gate_stops(const struct channel_regs *c)
{
    return c->mode == 0 || c->mode == 2 || c->mode == 3 || c->mode == 4;
}

static uint64_t channel_ticks(const struct channel_regs *c, uint64_t now)
{
    if (channel_gate_stops(c) && !c->gate)
        return c->held;
    return now > c->start_ns ? ticks_of_ns(now - c->start_ns) : 0;
}

static bool channel_periodic(const struct channel_regs *c) { return c->mode == 2 || c->mode == 3; }

static bool channel_output(const struct channel_regs *c, uint64_t now)
{
    uint64_t ticks = channel_ticks(c, now);
    bool stopped = !c->count || (channel_gate_stops(c) && !c->gate);

    switch (c->mode) {
    case 0: return c->count && ticks >= c->count;
    case 1: return !c->count || ticks >= c->count;
    case 2: return stopped || ticks % c->count != c->count - 1;
    case 3: return stopped || ticks % c->count < (c->count + 1) / 2;
    default: return !c->count || ticks != c->count; /* strobes: low for one tick */
    }
}

static uint16_t to_bcd(uint32_t n)
{
    return (uint16_t)(n % 10 | n / 10 % 10 << 4 | n / 100 % 10 << 8 | n / 1000 % 10 << 12);
}

static uint32_t from_bcd(uint16_t n)
{
    return (n & 15u) + (n >> 4 & 15u) * 10 + (n >> 8 & 15u) * 100 + (n >> 12 & 15u) * 1000;
}

static uint16_t channel_counter(const struct channel_regs *c, uint64_t now)
{
    uint64_t ticks = channel_ticks(c, now);
    uint32_t range = c->bcd ? 10000 : 0x10000, value;

    if (!c->count)
        return 0;
    if (c->mode == 3) /* counts down by two, twice */
        value = (uint32_t)(c->count - 2 * ticks % c->count) & ~1u;
    else if (c->mode == 2)
        value = (uint32_t)(c->count - ticks % c->count);
    else /* wraps round and goes on */
        value = (uint32_t)((c->count + range - ticks % range) % range);
    return c->bcd ? to_bcd(value % 10000) : (uint16_t)value;
}

/* ---- The interrupt of channel 0 ---- */

/* Between interrupts the output counts as high in the periodic modes: their low phases interrupt
 * nobody. */
static bool pit_level(const struct channel_regs *c, uint64_t now)
{
    return channel_periodic(c) || channel_output(c, now);
}

/* Guest time at which the output rises next, after `now`; 0: never. */
static uint64_t channel_next_rise(const struct channel_regs *c, uint64_t now)
{
    if (!c->count || (channel_gate_stops(c) && !c->gate) || c->mode == 1 || c->mode == 5)
        return 0;
    uint64_t ticks = channel_ticks(c, now), rise = c->count;
    if (channel_periodic(c))
        rise = (ticks / c->count + 1) * c->count;
    else if (c->mode == 4)
        rise = (uint64_t)c->count + 1;
    return ticks >= rise ? 0 : c->start_ns + ns_of_ticks(rise);
}

static void pit_arm(struct pit *pit)
{
    struct channel_regs *c = &pit->regs.channel[0];
    if (c->next_ns)
        guest_timer_arm(pit->timer, c->next_ns);
    else
        guest_timer_disarm(pit->timer);
}

static void pit_expired(void *arg)
{
    struct pit *pit = arg;
    struct channel_regs *c = &pit->regs.channel[0];
    LOCKED(&pit->dev.lock);
    uint64_t now = guest_now_ns(pit->dev.machine);

    /* The guest may have loaded another count while we waited for the lock. */
    if (c->next_ns && now >= c->next_ns) {
        irq_pin_set(&pit->pin, false);
        irq_pin_set(&pit->pin, true);
        c->next_ns = channel_next_rise(c, now);
    }
    pit_arm(pit);
}

/* A channel was programmed: only channel 0 has anything to tell. */
static void channel_changed(struct pit *pit, unsigned index, uint64_t now)
{
    struct channel_regs *c = &pit->regs.channel[0];
    if (index)
        return;
    c->next_ns = channel_next_rise(c, now);
    irq_pin_set(&pit->pin, pit_level(c, now));
    pit_arm(pit);
}

/* ---- Registers ---- */

static void channel_load(struct pit *pit, unsigned index, uint16_t value)
{
    struct channel_regs *c = &pit->regs.channel[index];
    uint64_t now = guest_now_ns(pit->dev.machine);

    c->count = c->bcd ? from_bcd(value) : value;
    if (!c->count)
        c->count = c->bcd ? 10000 : 0x10000;
    if (c->count == 1 && channel_periodic(c))
        c->count = 2; /* 1 is illegal there */
    c->start_ns = now;
    c->held = 0;
    c->null_count = 0;
    channel_changed(pit, index, now);
}

static void channel_write(struct pit *pit, unsigned index, uint8_t value)
{
    struct channel_regs *c = &pit->regs.channel[index];
    switch (c->access) {
    case ACCESS_LOW: channel_load(pit, index, value); break;
    case ACCESS_HIGH: channel_load(pit, index, (uint16_t)(value << 8)); break;
    case ACCESS_BOTH:
        if (c->write_high)
            channel_load(pit, index, (uint16_t)(value << 8 | c->write_low));
        else
            c->write_low = value;
        c->write_high = !c->write_high;
        break;
    }
}

static uint8_t channel_read(struct pit *pit, unsigned index)
{
    struct channel_regs *c = &pit->regs.channel[index];
    bool high;

    if (c->status_latched) {
        c->status_latched = 0;
        return c->status;
    }
    if (c->latched_bytes) {
        high = c->latched_high;
        c->latched_high = 1;
        c->latched_bytes--;
        return (uint8_t)(c->latched >> (high ? 8 : 0));
    }
    uint16_t now = channel_counter(c, guest_now_ns(pit->dev.machine));
    high = c->access == ACCESS_HIGH || (c->access == ACCESS_BOTH && c->read_high);
    if (c->access == ACCESS_BOTH)
        c->read_high = !c->read_high;
    return (uint8_t)(now >> (high ? 8 : 0));
}

static void channel_latch_count(struct channel_regs *c, uint64_t now)
{
    if (c->latched_bytes)
        return;
    c->latched = channel_counter(c, now);
    c->latched_bytes = c->access == ACCESS_BOTH ? 2 : 1;
    c->latched_high = c->access == ACCESS_HIGH;
}

static void channel_latch_status(struct channel_regs *c, uint64_t now)
{
    if (c->status_latched)
        return;
    c->status = (uint8_t)(channel_output(c, now) << 7 | c->null_count << 6 | c->access << 4 |
                          c->mode << 1 | c->bcd);
    c->status_latched = 1;
}

static void pit_read_back(struct pit *pit, uint8_t value)
{
    uint64_t now = guest_now_ns(pit->dev.machine);
    for (unsigned i = 0; i < CHANNELS; i++) {
        if (!(value & 2 << i))
            continue;
        if (!(value & 0x20))
            channel_latch_count(&pit->regs.channel[i], now);
        if (!(value & 0x10))
            channel_latch_status(&pit->regs.channel[i], now);
    }
}

static void pit_control(struct pit *pit, uint8_t value)
{
    unsigned index = value >> 6, access = value >> 4 & 3, mode = value >> 1 & 7;
    uint64_t now = guest_now_ns(pit->dev.machine);

    if (index == 3) {
        pit_read_back(pit, value);
        return;
    }
    struct channel_regs *c = &pit->regs.channel[index];
    if (access == ACCESS_LATCH) {
        channel_latch_count(c, now);
        return;
    }
    *c = (struct channel_regs){
        .access = (uint8_t)access,
        .mode = (uint8_t)(mode > 5 ? mode - 4 : mode),
        .bcd = value & 1,
        .gate = c->gate,
        .null_count = 1,
    };
    channel_changed(pit, index, now);
}

/* The gate of channel 2: high again it goes on in modes 0 and 4, and starts over in the others. */
static void channel_set_gate(struct pit *pit, unsigned index, bool gate)
{
    struct channel_regs *c = &pit->regs.channel[index];
    uint64_t now = guest_now_ns(pit->dev.machine);

    if (gate == c->gate)
        return;
    if (gate)
        c->start_ns = now - (c->mode == 0 || c->mode == 4 ? ns_of_ticks(c->held) : 0);
    else if (channel_gate_stops(c) && c->count) {
        uint64_t ticks = channel_ticks(c, now);
        c->held = channel_periodic(c) ? 0 : ticks < UINT16_MAX ? (uint32_t)ticks : UINT16_MAX;
    }
    c->gate = gate;
}

static uint8_t port61_read(struct pit *pit)
{
    struct channel_regs *c = &pit->regs.channel[2];
    uint64_t now = guest_now_ns(pit->dev.machine);
    return (uint8_t)(pit->regs.speaker | (c->gate ? PORT61_GATE2 : 0) |
                     (now / REFRESH_NS & 1 ? PORT61_REFRESH : 0) |
                     (channel_output(c, now) ? PORT61_OUT2 : 0));
}

static uint64_t pit_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct pit *pit = (struct pit *)dev;
    if (region == REGION_PORT61)
        return port61_read(pit);
    return offset < CHANNELS ? channel_read(pit, (unsigned)offset) : 0; /* control: write-only */
}

static void pit_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                      uint64_t value)
{
    struct pit *pit = (struct pit *)dev;
    if (region == REGION_PORT61) {
        pit->regs.speaker = value & (PORT61_SPEAKER | 0x0c);
        channel_set_gate(pit, 2, value & PORT61_GATE2);
    } else if (offset < CHANNELS) {
        channel_write(pit, (unsigned)offset, (uint8_t)value);
    } else {
        pit_control(pit, (uint8_t)value);
    }
}

/* ---- Life ---- */

static void pit_power_on(struct pit *pit)
{
    pit->regs = (struct pit_regs){ 0 };
    for (unsigned i = 0; i < CHANNELS; i++)
        pit->regs.channel[i] = (struct channel_regs){
            .access = ACCESS_BOTH, .mode = 3, .gate = i != 2, .null_count = 1
        };
}

static void pit_reset(struct device *dev)
{
    struct pit *pit = (struct pit *)dev;
    LOCKED(&dev->lock);
    pit_power_on(pit);
    guest_timer_disarm(pit->timer);
    irq_pin_set(&pit->pin, false);
}

static int pit_loaded(struct device *dev, struct err *err)
{
    struct pit *pit = (struct pit *)dev;
    LOCKED(&dev->lock);
    uint64_t now = guest_now_ns(dev->machine);
    for (unsigned i = 0; i < CHANNELS; i++)
        if (pit->regs.channel[i].start_ns > now)
            return err_set(err, EINVAL, "timer channel %u was loaded in the future", i);
    irq_pin_set(&pit->pin, pit_level(&pit->regs.channel[0], now));
    pit_arm(pit);
    return 0;
}

static void pit_destroy(struct device *dev)
{
    struct pit *pit = (struct pit *)dev;
    guest_timer_destroy(pit->timer);
    for (unsigned i = 0; i < REGIONS; i++)
        map_remove(dev->machine, pit->maps[i]);
    device_fini(dev);
    free(pit);
}

static int channel_check(const void *state, struct err *err)
{
    const struct channel_regs *c = state;
    bool bits = c->latched_high <= 1 && c->status_latched <= 1 && c->bcd <= 1 && c->gate <= 1 &&
                c->read_high <= 1 && c->write_high <= 1 && c->null_count <= 1;
    if (!bits || c->count > 0x10000 || c->mode > 5 || c->access < ACCESS_LOW ||
        c->access > ACCESS_BOTH || c->latched_bytes > 2 || c->held > UINT16_MAX ||
        c->latched > UINT16_MAX)
        return err_set(err, EINVAL, "a timer channel cannot be in the saved state");
    return 0;
}

static const struct state_field channel_fields[] = {
    STATE_U64(struct channel_regs, start_ns),      STATE_U64(struct channel_regs, next_ns),
    STATE_U32(struct channel_regs, count),         STATE_U32(struct channel_regs, held),
    STATE_U32(struct channel_regs, latched),       STATE_U8(struct channel_regs, latched_bytes),
    STATE_U8(struct channel_regs, latched_high),   STATE_U8(struct channel_regs, status),
    STATE_U8(struct channel_regs, status_latched), STATE_U8(struct channel_regs, access),
    STATE_U8(struct channel_regs, mode),           STATE_U8(struct channel_regs, bcd),
    STATE_U8(struct channel_regs, gate),           STATE_U8(struct channel_regs, read_high),
    STATE_U8(struct channel_regs, write_high),     STATE_U8(struct channel_regs, write_low),
    STATE_U8(struct channel_regs, null_count),     STATE_END,
};
static const struct state_desc channel_state = {
    .name = "channel",
    .version = 1,
    .size = sizeof(struct channel_regs),
    .fields = channel_fields,
    .check = channel_check,
};
static const struct state_field pit_fields[] = {
    STATE_STRUCTS(struct pit_regs, channel, &channel_state),
    STATE_U64(struct pit_regs, speaker),
    STATE_END,
};
static const struct state_desc pit_state = {
    .name = "pit",
    .version = 1,
    .base = offsetof(struct pit, regs),
    .size = sizeof(struct pit_regs),
    .fields = pit_fields,
};
static const struct device_type pit_type = {
    .name = "pit",
    .about = "8254 interval timer",
    .threads = DEVICE_LOCKED,
    .destroy = pit_destroy,
    .read = pit_read,
    .write = pit_write,
    .reset = pit_reset,
    .loaded = pit_loaded,
    .state = &pit_state,
};

int pit_create(struct machine *m, struct err *err)
{
    struct pit *pit = calloc(1, sizeof *pit);
    if (!pit)
        return err_set(err, ENOMEM, "out of memory");
    device_init(&pit->dev, m, &pit_type, "pit");
    irq_pin_init(&pit->pin, m, 0);
    pit_power_on(pit);
    AUTO(device_destroy) struct device *dev = &pit->dev;

    int r = guest_timer_create(m, pit_expired, pit, &pit->timer, err);
    if (r >= 0)
        r = map_device(m, SPACE_IO, 0x40, 4, dev, REGION_PIT, PRIORITY, &pit->maps[0], err);
    if (r >= 0)
        r = map_device(m, SPACE_IO, 0x61, 1, dev, REGION_PORT61, PRIORITY, &pit->maps[1], err);
    if (r < 0)
        return err_prefix(err, "interval timer");
    machine_add_device(m, TAKE(dev));
    return 0;
}
