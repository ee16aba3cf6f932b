/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The I/O APIC, version 0x20: 24 redirection entries, index/data windows and the EOI register.
 *
 * Follows the Intel 82093AA data sheet and the ICH9 one (EOI register, 24 entries). GSI 0, the PIT,
 * is wired to pin 2 as on PCs, where pin 0 carries the PICs; nothing else drives pin 2, which for
 * the PICs is the cascade.
 */
#include "devices/ioapic.h"

#include "base/checked.h"
#include "machine/irq.h"
#include "machine/machine.h"

#include <stdlib.h>
#include <string.h>

enum { WINDOW_INDEX = 0x00, WINDOW_DATA = 0x10, WINDOW_EOI = 0x40 };
enum { REG_ID = 0x00, REG_VERSION = 0x01, REG_ARBITRATION = 0x02, REG_ENTRIES = 0x10 };
enum { VERSION = 0x20, PRIORITY = 20 };

/* A redirection entry */
#define ENTRY_VECTOR 0xffull
#define ENTRY_DELIVERY_MODE (7ull << 8)
#define ENTRY_LOGICAL (1ull << 11)
#define ENTRY_ACTIVE_LOW (1ull << 13)
#define ENTRY_REMOTE_IRR (1ull << 14)
#define ENTRY_LEVEL (1ull << 15)
#define ENTRY_MASKED (1ull << 16)
#define ENTRY_DESTINATION (0xffull << 56)
#define ENTRY_WRITABLE                                                                     \
    (ENTRY_VECTOR | ENTRY_DELIVERY_MODE | ENTRY_LOGICAL | ENTRY_ACTIVE_LOW | ENTRY_LEVEL | \
     ENTRY_MASKED | ENTRY_DESTINATION)

struct ioapic_regs {
    uint64_t entry[IOAPIC_PINS];
    uint32_t lines; /* levels of the inputs */
    uint16_t id;    /* as in bits 24-27 of its register */
    uint16_t index;
};

struct ioapic {
    struct device dev;
    struct ioapic_regs regs; /* dev.lock */
    struct irq_chip irq;
    struct mapping *map;
};

/* ---- Messages ---- */

static uint64_t entry_msi_address(uint64_t entry)
{
    return 0xfee00000 | entry >> 56 << 12 | (entry & ENTRY_LOGICAL ? 4 : 0);
}

static uint32_t entry_msi_data(uint64_t entry)
{
    uint32_t data = entry & (ENTRY_VECTOR | ENTRY_DELIVERY_MODE);
    return entry & ENTRY_LEVEL ? data | 1 << 15 | 1 << 14 : data;
}

static void pin_send(struct ioapic *ioapic, unsigned pin)
{
    uint64_t entry = ioapic->regs.entry[pin];
    msi_send(ioapic->dev.machine, entry_msi_address(entry), entry_msi_data(entry));
}

/* A level input is sent once, then not again until its EOI (remote IRR). */
static void pin_service_level(struct ioapic *ioapic, unsigned pin)
{
    uint64_t *entry = &ioapic->regs.entry[pin];
    if (!(ioapic->regs.lines >> pin & 1) || (*entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR)))
        return;
    *entry |= ENTRY_REMOTE_IRR;
    pin_send(ioapic, pin);
}

static void pin_line(struct ioapic *ioapic, unsigned pin, bool level)
{
    struct ioapic_regs *regs = &ioapic->regs;
    uint64_t entry = regs->entry[pin];
    bool was = regs->lines >> pin & 1;

    /*
     * Devices speak in "asserted"; the polarity bit says how the wire looks, and board and guest
     * agree on it. So it does not invert anything here.
     */
    regs->lines = level ? regs->lines | 1u << pin : regs->lines & ~(1u << pin);
    if (entry & ENTRY_LEVEL)
        pin_service_level(ioapic, pin);
    else if (level && !was && !(entry & ENTRY_MASKED)) /* edges while masked are lost */
        pin_send(ioapic, pin);
}

static void ioapic_set(struct irq_chip *irq, unsigned gsi, bool level)
{
    struct ioapic *ioapic = CONTAINER_OF(irq, struct ioapic, irq);
    if (gsi == 2 || gsi >= IOAPIC_PINS)
        return;
    LOCKED(&ioapic->dev.lock);
    pin_line(ioapic, gsi ? gsi : 2, level);
}

static void ioapic_end(struct ioapic *ioapic, uint8_t vector)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t *entry = &ioapic->regs.entry[pin];
        if ((*entry & ENTRY_VECTOR) != vector || !(*entry & ENTRY_LEVEL))
            continue;
        *entry &= ~ENTRY_REMOTE_IRR;
        pin_service_level(ioapic, pin);
    }
}

static void ioapic_eoi(struct irq_chip *irq, uint8_t vector)
{
    struct ioapic *ioapic = CONTAINER_OF(irq, struct ioapic, irq);
    LOCKED(&ioapic->dev.lock);
    ioapic_end(ioapic, vector);
}

static void pin_watch(struct ioapic *ioapic, unsigned pin)
{
    uint64_t entry = ioapic->regs.entry[pin];
    irq_eoi_watch(ioapic->dev.machine, pin, entry_msi_address(entry), entry_msi_data(entry),
                  entry & ENTRY_LEVEL, entry & ENTRY_MASKED);
}

/* ---- Registers ---- */

static uint32_t register_read(const struct ioapic_regs *regs, unsigned index)
{
    switch (index) {
    case REG_ID:
    case REG_ARBITRATION: return (uint32_t)regs->id << 24;
    case REG_VERSION: return VERSION | (IOAPIC_PINS - 1) << 16;
    }
    unsigned pin = (index - REG_ENTRIES) / 2;
    if (index < REG_ENTRIES || pin >= IOAPIC_PINS)
        return UINT32_MAX;
    return (uint32_t)(regs->entry[pin] >> (index % 2 ? 32 : 0));
}

static void entry_write(struct ioapic *ioapic, unsigned pin, bool high, uint32_t value)
{
    uint64_t old = ioapic->regs.entry[pin];
    uint64_t wanted =
        high ? (old & 0xffffffff) | (uint64_t)value << 32 : (old & ~0xffffffffull) | value;
    uint64_t entry = (wanted & ENTRY_WRITABLE) | (old & ENTRY_REMOTE_IRR);

    /* Linux clears a stuck remote IRR by switching to edge and back; chips with that quirk forget
     * it. */
    if (!(entry & ENTRY_LEVEL))
        entry &= ~ENTRY_REMOTE_IRR;
    ioapic->regs.entry[pin] = entry;
    pin_watch(ioapic, pin);
    if (entry & ENTRY_LEVEL)
        pin_service_level(ioapic, pin);
}

static void register_write(struct ioapic *ioapic, unsigned index, uint32_t value)
{
    unsigned pin = (index - REG_ENTRIES) / 2;
    if (index == REG_ID)
        ioapic->regs.id = value >> 24 & 0xf;
    else if (index >= REG_ENTRIES && pin < IOAPIC_PINS)
        entry_write(ioapic, pin, index % 2, value);
}

static uint64_t ioapic_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct ioapic *ioapic = (struct ioapic *)dev;
    uint64_t value = 0;

    if (offset % 16 + size > 4)
        return UINT64_MAX;
    if (offset / 16 * 16 == WINDOW_INDEX)
        value = ioapic->regs.index;
    else if (offset / 16 * 16 == WINDOW_DATA)
        value = register_read(&ioapic->regs, ioapic->regs.index);
    return value >> offset % 16 * 8;
}

static void ioapic_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                         uint64_t value)
{
    struct ioapic *ioapic = (struct ioapic *)dev;

    if (offset == WINDOW_INDEX)
        ioapic->regs.index = value & 0xff;
    else if (offset == WINDOW_DATA && size == 4)
        register_write(ioapic, ioapic->regs.index, (uint32_t)value);
    else if (offset == WINDOW_EOI)
        ioapic_end(ioapic, (uint8_t)value);
}

/* ---- Life ---- */

static void ioapic_power_on(struct ioapic *ioapic)
{
    uint32_t lines = ioapic->regs.lines;
    ioapic->regs = (struct ioapic_regs){ .lines = lines };
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        ioapic->regs.entry[pin] = ENTRY_MASKED;
}

static void ioapic_reset(struct device *dev)
{
    struct ioapic *ioapic = (struct ioapic *)dev;
    LOCKED(&dev->lock);
    ioapic_power_on(ioapic);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        pin_watch(ioapic, pin);
}

static int ioapic_loaded(struct device *dev, struct err *err)
{
    struct ioapic *ioapic = (struct ioapic *)dev;
    LOCKED(&dev->lock);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        pin_watch(ioapic, pin);
    return 0;
}

static void ioapic_destroy(struct device *dev)
{
    struct ioapic *ioapic = (struct ioapic *)dev;
    irq_chip_remove(dev->machine, &ioapic->irq);
    map_remove(dev->machine, ioapic->map);
    device_fini(dev);
    free(ioapic);
}

static int ioapic_check(const void *state, struct err *err)
{
    const struct ioapic_regs *regs = state;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        if (regs->entry[pin] & ~(ENTRY_WRITABLE | ENTRY_REMOTE_IRR))
            return err_set(err, EINVAL, "I/O APIC entry %u has reserved bits set", pin);
    if (regs->index > 0xff || regs->id > 0xf || regs->lines >> IOAPIC_PINS)
        return err_set(err, EINVAL, "the I/O APIC cannot be in the saved state");
    return 0;
}

static const struct state_field ioapic_fields[] = {
    STATE_UINTS(struct ioapic_regs, entry),
    STATE_U32(struct ioapic_regs, lines),
    STATE_U16(struct ioapic_regs, id),
    STATE_U16(struct ioapic_regs, index),
    STATE_END,
};
static const struct state_desc ioapic_state = {
    .name = "ioapic",
    .version = 1,
    .base = offsetof(struct ioapic, regs),
    .size = sizeof(struct ioapic_regs),
    .fields = ioapic_fields,
    .check = ioapic_check,
};
static const struct device_type ioapic_type = {
    .name = "ioapic",
    .about = "I/O APIC with 24 pins",
    .threads = DEVICE_LOCKED,
    .destroy = ioapic_destroy,
    .read = ioapic_read,
    .write = ioapic_write,
    .reset = ioapic_reset,
    .loaded = ioapic_loaded,
    .state = &ioapic_state,
};

int ioapic_create(struct machine *m, struct err *err)
{
    struct ioapic *ioapic = calloc(1, sizeof *ioapic);
    if (!ioapic)
        return err_set(err, ENOMEM, "out of memory");
    device_init(&ioapic->dev, m, &ioapic_type, "ioapic");
    ioapic_power_on(ioapic);
    ioapic->irq.set = ioapic_set;
    ioapic->irq.eoi = ioapic_eoi;
    irq_chip_add(m, &ioapic->irq);
    AUTO(device_destroy) struct device *dev = &ioapic->dev;

    int r =
        map_device(m, SPACE_MEMORY, IOAPIC_BASE, IOAPIC_SIZE, dev, 0, PRIORITY, &ioapic->map, err);
    if (r < 0)
        return err_prefix(err, "I/O APIC");
    machine_add_device(m, TAKE(dev));
    return 0;
}
