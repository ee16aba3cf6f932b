/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest that writes random values into every register of every device and every field of live
 * virtqueues. 32-bit, no paging, no interrupts taken; two CPUs do the same at once.
 *
 *   seed=N    what all choices follow from (what two CPUs make of it in time does not)
 *   steps=N   how much each CPU does
 *   chaos     nothing is spared: resets, ends, inter-processor interrupts, writes to any memory
 *
 * Without `chaos` the guest keeps out of its own way, by these rules:
 * 1. No port or register that resets the machine or powers it off.
 * 2. Messages and interrupt routes have the delivery mode "fixed": no NMI, INIT or SMI.
 * 3. Devices write only to the areas below, and no device but blk to what blk reads. The balloon
 * reads page numbers only where they are those of areas, for it gives the pages away.
 * 4. Disks 0 and 1 are never asked to write: no byte that such a disk may take for a request header
 * is 1, 11 or 13 with zeros behind it (OUT, DISCARD, WRITE ZEROES). Disk 2 is fair game.
 *
 * At the end everything is set up anew, a block of disk 1 is compared, one of disk 2 written and
 * read back, and "HOSTILE done" says that it worked.
 */
#include <stdbool.h>
#include <stdint.h>

enum { ECAM = 0xb0000000, IOAPIC = 0xfec00000, LAPIC = 0xfee00000, WINDOW = 0xc8000000 };
enum { RAM_END = 64 << 20, AP_PAGE = 0x6000 };
/* The areas: request headers, indirect tables, what blk reads and writes, page numbers for the
 * balloon, what the others use, rings of 256 KiB a device. Lengths are random, so what devices
 * write runs over into the areas above it; the program lies below. */
enum {
    HEADERS = 0x1000000,
    TABLES = 0x1080000,
    BLK_OUT = 0x1200000,
    PFNS = 0x1300000,
    BLK_IN = 0x1400000,
    OTHERS = 0x1800000,
    RINGS = 0x2800000,
    AREA = 0x100000,
    HEADERS_SIZE = 0x10000,
    TABLES_SIZE = 0x10000,
    RING_ROOM = 0x40000
};
enum { DESC = 0, AVAIL = 0x4000, USED = 0x8000, QUEUE_ROOM = 0x10000, MAX_QUEUES = 4, SIZE = 128 };
enum { MAX_DEVICES = 24, VIRTIO_NET = 1, VIRTIO_BLK = 2, VIRTIO_BALLOON = 5, SECTOR = 512 };
enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };

/* Offsets of virtio's common configuration, and of BAR registers: virtio 1.2, 4.1.4.3. */
enum {
    FEATURE_SELECT = 0,
    FEATURE = 4,
    DRIVER_SELECT = 8,
    DRIVER_FEATURE = 12,
    STATUS = 20,
    QUEUE_SELECT = 22,
    QUEUE_SIZE = 24,
    QUEUE_VECTOR = 26,
    QUEUE_ENABLE = 28,
    QUEUE_NOTIFY = 30,
    QUEUE_DESC = 32,
    QUEUE_END = 56,
    COMMON_SIZE = 60
};

struct start_info {
    uint32_t magic, version, flags, modules;
    uint64_t modlist, cmdline;
};

struct descriptor {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

struct device {
    uint32_t config;             /* its page of the ECAM */
    uint32_t bar_at, bar_size;   /* the largest memory BAR, where we put it; 0: none */
    uint32_t msix_at, msix_size; /* the vector table in it */
    uint32_t common, notify, notify_multiplier, specific;
    uint16_t type; /* virtio device type, 0: another device */
    uint8_t disk;  /* which, for blk */
    uint8_t number;
    uint16_t queues;
    bool packed; /* for a whole run: the descriptors of one kind mean something else in the other */
    uint32_t window; /* the capability that reaches the BAR through configuration space; 0: none */
};

static struct device devices[MAX_DEVICES];
static unsigned device_count;
static bool chaos;
static uint32_t steps, seed;
static volatile uint32_t second_runs, second_stop;

extern const uint8_t ap_code[], ap_code_end[];
void hostile_main(const struct start_info *info);
void hostile_second(void);

/* ---- accesses ---- */

static void out8(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}
static void out16(uint16_t port, uint16_t v)
{
    __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}
static void out32(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}
static uint8_t in8(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static uint32_t in32(uint16_t port)
{
    uint32_t v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static volatile uint8_t *m8(uint32_t at) { return (volatile uint8_t *)at; }
static volatile uint16_t *m16(uint32_t at) { return (volatile uint16_t *)at; }
static volatile uint32_t *m32(uint32_t at) { return (volatile uint32_t *)at; }
static volatile uint64_t *m64(uint32_t at) { return (volatile uint64_t *)at; }

/* One access. Nothing here uses x87, so no EMMS, which KVM cannot emulate. */
static void write64(uint32_t at, uint64_t v)
{
    __asm__ volatile("movq %0, %%mm0; movq %%mm0, (%1)" : : "m"(v), "r"(at) : "memory");
}

/* The PM timer, 3.58 MHz. */
static bool late(uint32_t since, uint32_t seconds)
{
    return ((in32(0x608) - since) & 0xffffff) > 3579545 * seconds;
}

static void say(const char *text)
{
    static const uint8_t setup[][2] = { { 3, 0x80 }, { 0, 1 }, { 1, 0 }, { 3, 3 },
                                        { 1, 0 },    { 2, 0 }, { 4, 3 } };
    for (unsigned i = 0; i < sizeof setup / sizeof *setup; i++)
        out8(0x3f8 + setup[i][0], setup[i][1]);
    for (; *text; text++) {
        while (!(in8(0x3fd) & 0x20))
            ;
        out8(0x3f8, (uint8_t)*text);
    }
}

static void __attribute__((noreturn)) end(void)
{
    for (;;) {
        out16(0x604, 5 << 10 | 1 << 13);
        __asm__ volatile("pause");
    }
}

static void __attribute__((noreturn)) fail(const char *why)
{
    say("\nHOSTILE FAIL ");
    say(why);
    say("\n");
    end();
}

static void say_hex(const char *what, uint32_t n)
{
    char text[] = "=........ ";
    for (unsigned i = 0; i < 8; i++)
        text[1 + i] = "0123456789abcdef"[n >> (28 - 4 * i) & 15];
    say(what);
    say(text);
}

static void __attribute__((noreturn)) fail_device(const char *why, const struct device *dev)
{
    say("\nHOSTILE ");
    say_hex("config", dev->config);
    say_hex("type", dev->type);
    say_hex("bar", *m32(dev->config + 0x10));
    say_hex("common", dev->common);
    say_hex("status", *m32(dev->common + STATUS));
    fail(why);
}

/* ---- choices ---- */

struct dice {
    uint32_t a, b;
};

static uint32_t roll(struct dice *d)
{
    d->a ^= d->a << 13;
    d->a ^= d->a >> 17;
    d->a ^= d->a << 5;
    d->b += 0x9e3779b9;
    return d->a + d->b;
}

static uint32_t below(struct dice *d, uint32_t n) { return n ? roll(d) % n : 0; }

static uint32_t value(struct dice *d)
{
    uint32_t bit = 1u << below(d, 32);
    switch (below(d, 10)) {
    case 0: return 0;
    case 1: return ~0u;
    case 2: return bit;
    case 3: return bit - 1;
    case 4: return 0u - bit;
    case 5:
    case 6: return below(d, 256);
    case 7: return below(d, 65536);
    default: return roll(d);
    }
}

/* A length of memory. */
static uint32_t length(struct dice *d)
{
    switch (below(d, 8)) {
    case 0: return 0;
    case 1: return value(d);
    case 2: return 1 + below(d, 32);
    case 3: return below(d, AREA);
    default: return SECTOR * (1 + below(d, 16));
    }
}

/* Where no RAM is: behind its end, over its end, device memory, addresses that wrap. */
static uint64_t nowhere(struct dice *d)
{
    switch (below(d, 6)) {
    case 0: return RAM_END - below(d, 64) - 1; /* nothing else lies there */
    case 1: return RAM_END + below(d, 0x10000000);
    case 2: return ECAM + below(d, 0x100000);
    case 3: return WINDOW + below(d, 0x400000);
    case 4: return 0ull - roll(d) % 65536;
    default: return (uint64_t)(roll(d) | 0x100) << 32 | roll(d);
    }
}

static uint32_t ring_of(const struct device *dev, unsigned queue)
{
    return RINGS + dev->number * RING_ROOM + queue % MAX_QUEUES * QUEUE_ROOM;
}

/* Rules 3 and 4. */
static uint64_t address(struct dice *d, const struct device *dev, bool device_writes)
{
    bool tame = dev->type == VIRTIO_BLK && dev->disk < 2;
    uint32_t choice = below(d, 10);
    if (chaos && choice == 9)
        return below(d, RAM_END);
    if (choice < 2)
        return nowhere(d);
    if (dev->type == VIRTIO_BALLOON && !device_writes && !chaos)
        return PFNS + (below(d, AREA / 2) & ~3u);
    if (choice == 2 && (device_writes || !tame))
        return RINGS + dev->number * RING_ROOM + below(d, RING_ROOM);
    if (dev->type != VIRTIO_BLK)
        return OTHERS + below(d, AREA);
    if (device_writes)
        return BLK_IN + (below(d, AREA) & ~(choice & 1 ? 0u : 511u));
    return choice < 6 ? HEADERS + (below(d, HEADERS_SIZE) & ~15u) : BLK_OUT + below(d, AREA);
}

/* ---- virtqueues ---- */

/* The halves of the last word change places in packed rings. */
static void put(struct dice *d, const struct device *dev, volatile struct descriptor *at,
                uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
    at->addr = ~0ull << 40; /* while it is half written */
    at->len = len;
    if (dev->packed)
        flags |= below(d, 2) ? 0x80 : 0x8000; /* available in one round or the other */
    at->flags = dev->packed ? next : flags;
    at->next = dev->packed ? flags : next;
    at->addr = addr;
}

static void describe(struct dice *d, const struct device *dev, volatile struct descriptor *at,
                     bool plain)
{
    bool device_writes = below(d, 2), indirect = !plain && below(d, 8) == 0;
    uint16_t flags = device_writes ? WRITE : 0;
    uint16_t next = (uint16_t)(below(d, 8) ? below(d, SIZE) : value(d));
    if (below(d, 3))
        flags |= NEXT;
    if (!plain && below(d, 8) == 0)
        flags |= (uint16_t)(value(d) & ~(uint32_t)(WRITE | INDIRECT));
    if (indirect) {
        uint32_t table = TABLES + (dev->packed ? TABLES_SIZE : 0) + (below(d, TABLES_SIZE) & ~15u);
        put(d, dev, at, below(d, 4) ? table : nowhere(d),
            below(d, 4) ? 16 * below(d, 40) : value(d),
            (uint16_t)(INDIRECT | (below(d, 4) ? 0 : flags)), next);
    } else {
        put(d, dev, at, address(d, dev, device_writes), length(d), flags, next);
    }
}

/* Header, data, status: something that blk carries out. */
static unsigned request(struct dice *d, const struct device *dev, volatile struct descriptor *table)
{
    unsigned head = below(d, SIZE - 3);
    uint32_t at = BLK_IN + (below(d, AREA - 65536) & ~511u);
    put(d, dev, &table[head + 2], at + 32768, 1, WRITE, 0);
    put(d, dev, &table[head + 1], at, SECTOR * (1 + below(d, 8)), NEXT | WRITE,
        (uint16_t)(head + 2));
    put(d, dev, &table[head], HEADERS + (below(d, HEADERS_SIZE) & ~15u), 16, NEXT,
        (uint16_t)(head + 1));
    return head;
}

static void notify(struct dice *d, const struct device *dev, unsigned queue)
{
    uint32_t at = dev->notify + (below(d, 16) ? queue : below(d, 64)) * dev->notify_multiplier;
    *m16(at) = (uint16_t)(below(d, 16) ? queue : value(d));
}

static void queue_step(struct dice *d, const struct device *dev)
{
    unsigned queue = below(d, dev->queues < MAX_QUEUES ? dev->queues : MAX_QUEUES);
    uint32_t ring = ring_of(dev, queue);
    volatile struct descriptor *table = (volatile struct descriptor *)(ring + DESC);
    unsigned head = below(d, SIZE);
    if (dev->type == VIRTIO_BLK && below(d, 3))
        head = request(d, dev, table);
    else
        for (unsigned i = below(d, 6) + 1; i; i--)
            describe(d, dev, &table[(head + i - 1) % SIZE], false);
    if (!dev->packed) {
        volatile uint16_t *avail = m16(ring + AVAIL);
        uint16_t index = avail[1];
        avail[2 + index % SIZE] = (uint16_t)(below(d, 16) ? head : value(d));
        if (below(d, 40) == 0)
            avail[0] = (uint16_t)value(d);
        if (below(d, 40) == 0)
            avail[2 + SIZE] = (uint16_t)value(d); /* used_event */
        avail[1] = (uint16_t)(below(d, 60) ? index + 1u + (below(d, 10) == 0) : value(d));
    }
    notify(d, dev, queue);
}

static void fill(void)
{
    struct dice d = { seed | 1, 77 };
    /* Rule 4: request headers of IN, FLUSH, GET_ID and unknown types; no byte is 1, 11 or 13. */
    static const uint8_t types[] = { 0, 0, 0, 4, 8, 16, 0x80, 0xff };
    for (uint32_t at = HEADERS; at < HEADERS + HEADERS_SIZE; at += 16) {
        *m32(at) = types[below(&d, 8)];
        *m32(at + 4) = 0;
        *m32(at + 8) = below(&d, 4) ? (roll(&d) & 0x6f0) : (roll(&d) | 0x20202020);
        *m32(at + 12) = below(&d, 16) ? 0 : 0xffffffff;
    }
    for (uint32_t at = 0; at < AREA; at += 4) {
        *m32(BLK_OUT + at) = roll(&d) | 0x20202020;
        *m32(BLK_IN + at) = roll(&d) | 0x20202020;
        *m32(OTHERS + at) = roll(&d);
        *m32(PFNS + at) =
            below(&d, 16) ? (OTHERS >> 12) + below(&d, AREA >> 12) : value(&d) | RAM_END;
    }
    /* Tables are used by all kinds, so they follow the rules of tame disks. */
    for (uint32_t at = 0; at < 2 * TABLES_SIZE; at += 16) {
        struct device tame = { .type = VIRTIO_BLK, .packed = at >= TABLES_SIZE };
        describe(&d, &tame, (volatile struct descriptor *)(TABLES + at), true);
    }
    for (uint32_t at = HEADERS; !chaos && at < HEADERS + HEADERS_SIZE; at++)
        if (*m8(at) == 1 || *m8(at) == 11 || *m8(at) == 13)
            *m8(at) = 0x20;
}

/* ---- setting up ---- */

static void config_scan(struct device *dev)
{
    for (uint8_t at = *m8(dev->config + 0x34), i = 0; at && i < 20;
         at = *m8(dev->config + at + 1), i++) {
        uint32_t cap = dev->config + at;
        if (*m8(cap) == 0x11) {
            dev->msix_at = *m32(cap + 4) & ~7u;
            dev->msix_size = ((*m16(cap + 2) & 0x7ffu) + 1) * 16;
            *m16(cap + 2) = 0x8000;
        }
        if (*m8(cap) != 9)
            continue;
        uint32_t offset = *m32(cap + 8);
        switch (*m8(cap + 3)) {
        case 1: dev->common = offset; break;
        case 2:
            dev->notify = offset;
            dev->notify_multiplier = *m32(cap + 16);
            break;
        case 4: dev->specific = offset; break;
        case 5: dev->window = cap; break;
        }
    }
}

/* Every memory BAR gets a place of its own, as if nothing had happened. */
static void bars_assign(struct device *dev)
{
    *m16(dev->config + 4) = 0;
    uint32_t window = WINDOW + dev->number * 0x100000u, port = 0xc000 + dev->number * 0x200u;
    dev->bar_size = 0;
    for (unsigned i = 0; i < 6; i++) {
        uint32_t bar = dev->config + 0x10 + 4 * i;
        *m32(bar) = ~0u;
        uint32_t mask = *m32(bar);
        if (!mask)
            continue;
        if (mask & 1) {
            *m32(bar) = port;
            port += 0x80;
            continue;
        }
        uint32_t size = 0u - (mask & ~15u);
        window = (window + size - 1) & ~(size - 1);
        *m32(bar) = window;
        if (size > dev->bar_size) {
            dev->bar_size = size;
            dev->bar_at = window;
        }
        window += size;
        if ((mask & 6) == 4)
            *m32(dev->config + 0x10 + 4 * ++i) = 0;
    }
    *m16(dev->config + 4) = 7;
}

static void device_setup(struct device *dev)
{
    bars_assign(dev);
    dev->common = dev->notify = dev->specific = dev->msix_size = 0;
    config_scan(dev);
    dev->common += dev->bar_at;
    dev->notify += dev->bar_at;
    if (dev->specific)
        dev->specific += dev->bar_at;
    dev->msix_at += dev->bar_at;
}

static void find_devices(void)
{
    unsigned disks = 0;
    for (uint32_t slot = 0; slot < 256 && device_count < MAX_DEVICES; slot++) {
        uint32_t config = ECAM + slot * 4096;
        if (*m16(config) == 0xffff)
            continue;
        struct device *dev = &devices[device_count];
        *dev = (struct device){ .config = config, .number = (uint8_t)device_count++ };
        if (*m16(config) == 0x1af4)
            dev->type = (uint16_t)(*m16(config + 2) - 0x1040);
        if (dev->type == VIRTIO_BLK)
            dev->disk = (uint8_t)disks++;
        device_setup(dev);
        dev->packed = (seed >> (dev->number % 8) & 3) == 0;
        if (dev->type)
            dev->queues = *m16(dev->common + 18);
    }
}

static uint32_t features(struct dice *d, struct device *dev, unsigned half, bool plain)
{
    *m32(dev->common + FEATURE_SELECT) = half;
    uint32_t offered = *m32(dev->common + FEATURE);
    if (half == 0)
        return plain ? 0 : offered & (below(d, 2) ? ~0u : roll(d));
    /* VERSION_1, RING_PACKED and RING_RESET: bits 32, 34, 40. */
    return offered & (plain ? 1u : 1u | (dev->packed ? 4u : 0u) | (below(d, 2) ? 1u << 8 : 0u));
}

/* A driver's start: virtio 1.2, 3.1.1. */
static void virtio_start(struct dice *d, struct device *dev, bool plain)
{
    uint32_t c = dev->common, since = in32(0x608);
    *m8(c + STATUS) = 0;
    while (*m8(c + STATUS) != 0)
        if (late(since, plain ? 4 : 1)) {
            if (!plain || chaos)
                return; /* the other CPU may have started it at the same time */
            fail_device("it does not end its reset", dev);
        }
    *m8(c + STATUS) = 1;
    *m8(c + STATUS) = 3;
    for (unsigned half = 0; half < 2; half++) {
        uint32_t wanted = features(d, dev, half, plain);
        *m32(c + DRIVER_SELECT) = half;
        *m32(c + DRIVER_FEATURE) = wanted;
    }
    *m8(c + STATUS) = 11;
    for (unsigned i = 0; i < dev->queues && i < MAX_QUEUES; i++) {
        uint32_t ring = ring_of(dev, i);
        for (uint32_t at = ring; at < ring + QUEUE_ROOM; at += 4)
            *m32(at) = 0;
        *m16(c + QUEUE_SELECT) = (uint16_t)i;
        *m16(c + QUEUE_SIZE) = SIZE;
        *m16(c + QUEUE_VECTOR) = plain ? 0xffff : (uint16_t)below(d, 4);
        for (unsigned part = 0; part < 3; part++) {
            *m32(c + QUEUE_DESC + 8 * part) = ring + part * 0x4000;
            *m32(c + QUEUE_DESC + 8 * part + 4) = 0;
        }
        *m16(c + QUEUE_ENABLE) = 1;
    }
    *m8(c + STATUS) = 15;
}

/* ---- random accesses ---- */

/* Does the range have a port that must be left alone (rule 1)? */
static bool spared(struct dice *d, uint16_t port, unsigned size)
{
    static const uint16_t ports[][2] = { { 0x64, 1 }, { 0x92, 1 }, { 0xcf9, 1 }, { 0x604, 2 } };
    if (port == 0xcf8 && size == 4)
        return false;
    for (unsigned i = 0; i < sizeof ports / sizeof *ports; i++)
        if (port < ports[i][0] + ports[i][1] && port + size > ports[i][0])
            return !chaos || below(d, 200); /* or most runs would be over at once */
    return false;
}

static void port_step(struct dice *d)
{
    static const uint16_t bases[][2] = { { 0x20, 2 },   { 0xa0, 2 },   { 0x4d0, 2 },
                                         { 0x40, 4 },   { 0x60, 8 },   { 0x70, 4 },
                                         { 0x3f8, 8 },  { 0x600, 16 }, { 0x620, 8 },
                                         { 0xcf8, 8 },  { 0x608, 16 }, { 0x80, 16 },
                                         { 0x510, 12 }, { 0x660, 32 }, { 0xc000, 0x4000 } };
    unsigned which = below(d, 16);
    uint16_t port = (uint16_t)roll(d);
    if (which < sizeof bases / sizeof *bases)
        port = (uint16_t)(bases[which][0] + below(d, bases[which][1]));
    unsigned size = 1u << below(d, 3);
    uint32_t v = value(d), how = below(d, 8);
    if (port > 0x10000 - size)
        return;
    if (how < 3) { /* reads have effects, too */
        if (size == 1)
            in8(port);
        else
            in32(port);
    } else if (!spared(d, port, size) && how == 3) {
        uint32_t source = OTHERS + below(d, AREA - 64), count = 1 + below(d, 8);
        __asm__ volatile("rep outsb"
                         : "+S"(source), "+c"(count)
                         : "d"(spared(d, port, 1) ? 0x80 : port)
                         : "memory");
    } else if (!spared(d, port, size)) {
        if (size == 1)
            out8(port, (uint8_t)v);
        else if (size == 2)
            out16(port, (uint16_t)v);
        else
            out32(port, v);
    }
}

static void memory_write(uint32_t at, unsigned size, uint64_t v)
{
    switch (size) {
    case 1: *m8(at) = (uint8_t)v; break;
    case 2: *m16(at) = (uint16_t)v; break;
    case 4: *m32(at) = (uint32_t)v; break;
    default: write64(at, v); break;
    }
}

static void memory_step(struct dice *d, uint32_t at, unsigned size, uint64_t v)
{
    uint32_t x = (uint32_t)v;
    switch (below(d, 12)) {
    case 0: (void)*m8(at); break;
    case 1: (void)*m32(at); break;
    case 2: (void)*m64(at); break;
    case 3: /* locked; only where any value may go */
        if (chaos)
            __asm__ volatile("lock xaddl %0, (%1)" : "+r"(x) : "r"(at) : "memory");
        break;
    default: memory_write(at, size, v); break;
    }
}

static bool overlaps(uint32_t at, unsigned size, uint32_t start, uint32_t len)
{
    return at < start + len && at + size > start;
}

/* Somewhere in a device's memory. */
static void bar_step(struct dice *d, struct device *dev)
{
    if (!dev->bar_size)
        return;
    uint32_t at = dev->bar_at + below(d, dev->bar_size);
    if (dev->type && below(d, 3))
        at = dev->common + below(d, COMMON_SIZE);
    else if (dev->specific && below(d, 3) == 0)
        at = dev->specific + below(d, 64);
    else if (dev->msix_size && below(d, 3) == 0)
        at = dev->msix_at + below(d, dev->msix_size + 16);
    unsigned size = 1u << below(d, 4);
    if (below(d, 4))
        at &= ~(size - 1);
    if (at + size > dev->bar_at + dev->bar_size)
        return;
    uint64_t v = (uint64_t)value(d) << 32 | value(d);
    if (!chaos && overlaps(at, size, dev->msix_at, dev->msix_size)) {
        v &= 0xf8f8f8f8f8f8f8f8; /* rule 2 */
        if (below(d, 2)) {
            at &= ~3u;
            size = 4;
            if (at % 16 == 0)
                v = LAPIC;
        }
    }
    if (!chaos && dev->type &&
        overlaps(at, size, dev->common + QUEUE_DESC, QUEUE_END - QUEUE_DESC)) {
        at &= ~3u; /* rule 3 */
        v = address(d, dev, true);
        size = below(d, 2) ? 4 : 8;
        if (at & 4) {
            v = v >> 32 ? v >> 32 : below(d, 2);
            size = 4;
        }
    }
    memory_step(d, at, size, v);
}

/* virtio 1.2, 4.1.4.9: the BAR's registers through configuration space. */
static void window_step(struct dice *d, const struct device *dev)
{
    uint32_t offset = below(d, 4) ? below(d, COMMON_SIZE) : value(d), len = 1u << below(d, 3);
    if (!chaos && overlaps(offset, 4, QUEUE_DESC, QUEUE_END - QUEUE_DESC))
        return;
    *m32(dev->window + 8) = offset;
    *m32(dev->window + 12) = below(d, 8) ? len : value(d);
    *m32(dev->window + 16) = value(d);
    *m32(dev->window + 8) = 0;
    *m32(dev->window + 12) = 0;
}

/* Registers by which a guest loses its own memory, or finds the reset register elsewhere (rule 1).
 */
static bool chipset(const struct device *dev, uint32_t at)
{
    uint32_t id = *m32(dev->config);
    return (id == 0x29c08086 || id == 0x29188086) && at >= dev->config + 0x40 - 8;
}

static void config_step(struct dice *d, const struct device *dev)
{
    uint32_t at = dev->config + below(d, below(d, 4) ? 256 : 4096);
    unsigned size = 1u << below(d, 3);
    at &= ~(size - 1);
    uint32_t v = value(d);
    if (!chaos && chipset(dev, at)) {
        (void)*m32(at & ~3u);
    } else if (dev->window && below(d, 4) == 0) {
        window_step(d, dev);
    } else if (!chaos && dev->window && overlaps(at, 8, dev->window, 20)) {
        (void)*m32(at & ~3u); /* rule 3: window_step does that */
    } else if (below(d, 4) == 0) {
        out32(0xcf8, 0x80000000 | ((dev->config - ECAM) >> 4) | (at & 0xfc));
        out32(0xcfc, v);
    } else {
        memory_step(d, at, size, v);
    }
}

static void chip_step(struct dice *d)
{
    uint32_t v = value(d);
    switch (below(d, 3)) {
    case 0: /* I/O APIC */
        *m32(IOAPIC) = below(d, 80);
        *m32(IOAPIC + 16) = chaos ? v : v & ~0x700u;
        break;
    case 1:
        memory_step(d, IOAPIC + (chaos ? below(d, 4096) : below(d, 16)), 1u << below(d, 3), v);
        break;
    default: {
        uint32_t reg = below(d, 0x40) * 16;
        if (!chaos && (reg == 0x300 || reg == 0x310))
            return;
        if (!chaos && reg >= 0x320 && reg <= 0x370)
            v &= ~0x700u;
        if (!chaos && reg == 0x2f0)
            v = 0x10000;
        if (below(d, 2))
            *m32(LAPIC + reg) = v;
        else
            (void)*m32(LAPIC + reg + below(d, 4));
    }
    }
}

static void step(struct dice *d)
{
    struct device *dev = &devices[below(d, device_count)];
    switch (below(d, 12)) {
    case 0: port_step(d); break;
    case 1: chip_step(d); break;
    case 2: config_step(d, dev); break;
    case 3:
    case 4: bar_step(d, dev); break;
    default:
        if (dev->type)
            queue_step(d, dev);
        else
            bar_step(d, dev);
    }
    if (below(d, 60) == 0) {
        bars_assign(dev);
        if (dev->type)
            virtio_start(d, dev, false);
    }
}

static void hammer(uint32_t which)
{
    struct dice d = { (seed * 2654435761u ^ which) | 1, seed };
    for (uint32_t i = 0; i < steps && !second_stop; i++)
        step(&d);
}

void hostile_second(void)
{
    hammer(2);
    second_runs = 0;
    for (;;)
        __asm__ volatile("cli; hlt");
}

static void second_start(void)
{
    for (uint32_t i = 0; ap_code + i < ap_code_end; i++)
        *m8(AP_PAGE + i) = ap_code[i];
    second_runs = 1;
    *m32(LAPIC + 0x310) = 1u << 24;
    *m32(LAPIC + 0x300) = 0x4500; /* INIT */
    for (uint32_t since = in32(0x608); !late(since, 1);)
        ;
    *m32(LAPIC + 0x310) = 1u << 24;
    *m32(LAPIC + 0x300) = 0x4600 | AP_PAGE >> 12;
}

/* ---- does it still work? ---- */

static uint8_t disk_transfer(struct device *dev, uint32_t type, uint32_t sector, uint32_t buffer)
{
    struct dice d = { 1, 1 };
    virtio_start(&d, dev, true);
    uint32_t ring = ring_of(dev, 0), header = TABLES;
    volatile struct descriptor *table = (volatile struct descriptor *)ring;
    *m32(header) = type;
    *m32(header + 4) = 0;
    *m64(header + 8) = sector;
    *m8(header + 16) = 0xff;
    table[0].addr = header, table[0].len = 16, table[0].flags = NEXT, table[0].next = 1;
    table[1].addr = buffer, table[1].len = SECTOR,
    table[1].flags = (uint16_t)(NEXT | (type ? 0 : WRITE));
    table[1].next = 2;
    table[2].addr = header + 16, table[2].len = 1, table[2].flags = WRITE;
    *m16(ring + AVAIL + 4) = 0;
    *m16(ring + AVAIL + 2) = 1;
    *m16(dev->notify) = 0;
    for (uint32_t since = in32(0x608); *m16(ring + USED + 2) != 1;)
        if (late(since, 4))
            fail_device("a request is not answered", dev);
    return *m8(header + 16);
}

/* Each 4 bytes of the disks tell their place. */
static void disk_check(struct device *dev)
{
    if (disk_transfer(dev, 0, 5, OTHERS) != 0)
        fail("a disk cannot be read");
    for (uint32_t i = 0; dev->disk < 2 && i < SECTOR; i += 4)
        if (*m32(OTHERS + i) != ((5 * SECTOR + i) | 0x20202020))
            fail("a disk's content changed");
    if (dev->disk == 0)
        return;
    /* The content that is there already, so that disk 1 stays as it is. */
    if (disk_transfer(dev, 1, 5, OTHERS) != 0)
        fail("a disk cannot be written");
    for (uint32_t i = 0; i < SECTOR; i++)
        *m8(OTHERS + AREA / 2 + i) = 0;
    if (disk_transfer(dev, 0, 5, OTHERS + AREA / 2) != 0)
        fail("a disk cannot be read again");
    for (uint32_t i = 0; i < SECTOR; i++)
        if (*m8(OTHERS + i) != *m8(OTHERS + AREA / 2 + i))
            fail("a disk does not keep what was written");
}

/* ---- the course of things ---- */

static const char *argument(const char *cmdline, const char *name)
{
    for (; *cmdline; cmdline++) {
        unsigned n = 0;
        while (name[n] && cmdline[n] == name[n])
            n++;
        if (!name[n])
            return cmdline + n;
    }
    return 0;
}

static uint32_t number(const char *text)
{
    uint32_t n = 0;
    for (; text && *text >= '0' && *text <= '9'; text++)
        n = n * 10 + (uint32_t)(*text - '0');
    return n;
}

void hostile_main(const struct start_info *info)
{
    const char *cmdline = (const char *)(uint32_t)info->cmdline;
    seed = number(argument(cmdline, "seed="));
    steps = number(argument(cmdline, "steps="));
    chaos = argument(cmdline, "chaos") != 0;
    say("HOSTILE start\n");

    struct dice d = { seed | 1, 5 };
    find_devices();
    fill();
    for (unsigned i = 0; i < device_count; i++)
        if (devices[i].type)
            virtio_start(&d, &devices[i], false);
    second_start();
    hammer(1);
    second_stop = 1;
    for (uint32_t since = in32(0x608); second_runs;)
        if (late(since, 4))
            fail("the second CPU does not end");

    for (unsigned i = 0; i < device_count; i++)
        device_setup(&devices[i]);
    for (unsigned i = 0; i < device_count; i++) {
        if (devices[i].type)
            virtio_start(&d, &devices[i], true);
        if (devices[i].type == VIRTIO_BLK)
            disk_check(&devices[i]);
    }
    say("\nHOSTILE done\n");
    end();
}

/* The compiler asks for these. */
void *memset(void *to, int c, uint32_t n);
void *memset(void *to, int c, uint32_t n)
{
    for (volatile uint8_t *p = to; n; n--)
        *p++ = (uint8_t)c;
    return to;
}
void *memcpy(void *restrict to, const void *restrict from, uint32_t n);
void *memcpy(void *restrict to, const void *restrict from, uint32_t n)
{
    volatile uint8_t *t = to;
    for (const uint8_t *f = from; n; n--)
        *t++ = *f++;
    return to;
}
