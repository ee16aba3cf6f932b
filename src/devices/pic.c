/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two 8259A interrupt controllers, the slave on the master's input 2.
 *
 * Follows the Intel 8259A data sheet (order 231468) for ICW1-4, OCW1-3, rotation, special mask,
 * poll and special fully nested mode; the ELCR at 0x4d0 as in Intel's south bridges. 8080 vectors
 * and buffered mode are not there: no PC has them. An edge stays latched in the IRR until it is
 * acknowledged, as on the chip sets that replaced the discrete part.
 */
#include "devices/pic.h"

#include "base/checked.h"
#include "machine/irq.h"
#include "machine/machine.h"

#include <stdlib.h>
#include <string.h>

enum { MASTER, SLAVE, CHIPS };
enum { REGION_MASTER = MASTER, REGION_SLAVE = SLAVE, REGION_ELCR, REGIONS };
enum { CASCADE = 2, SPURIOUS = 7, PRIORITY = 10 };

enum { ICW1_INIT = 0x10, ICW1_LEVEL = 0x08, ICW1_SINGLE = 0x02, ICW1_ICW4 = 0x01 };
enum { ICW4_AUTO_EOI = 0x02, ICW4_FULLY_NESTED = 0x10 };
enum { OCW3 = 0x08, OCW3_POLL = 0x04, OCW3_SPECIAL_MASK_SELECT = 0x40, OCW3_SPECIAL_MASK = 0x20 };

/* What the next write to the odd port means. */
enum { EXPECT_OCW1, EXPECT_ICW2, EXPECT_ICW3, EXPECT_ICW4 };

struct pic_chip_regs {
    uint8_t lines; /* levels of the inputs */
    uint8_t irr, isr, imr;
    uint8_t elcr;
    uint8_t vector_base;
    uint8_t lowest; /* input of lowest priority */
    uint8_t expect;
    uint8_t icw4_needed, single;
    uint8_t read_isr, poll;
    uint8_t special_mask, auto_eoi, rotate_on_auto_eoi, fully_nested;
};

struct pic_regs {
    struct pic_chip_regs chip[CHIPS];
};

struct pic {
    struct device dev;
    struct pic_regs regs; /* dev.lock */
    struct irq_chip irq;
    struct mapping *maps[REGIONS];
    bool output; /* INTR of the master; derived */
};

/* ---- Priorities ---- */

/* Rank of the highest-priority input in `set`: 0 is served first, 8 means none. */
static unsigned chip_rank(const struct pic_chip_regs *chip, uint8_t set)
{
    unsigned rank = 0;
    while (rank < 8 && !(set >> ((chip->lowest + 1 + rank) & 7) & 1))
        rank++;
    return rank;
}

/* The input that may interrupt now, or -1. */
static int chip_pending(const struct pic_chip_regs *chip, bool master)
{
    uint8_t service = chip->isr;
    if (chip->special_mask)
        service &= (uint8_t)~chip->imr;
    if (chip->fully_nested && master)
        service &= (uint8_t) ~(1 << CASCADE);
    unsigned rank = chip_rank(chip, chip->irr & (uint8_t)~chip->imr);
    if (rank == 8 || rank >= chip_rank(chip, service))
        return -1;
    return (int)(chip->lowest + 1 + rank) & 7;
}

static void chip_line(struct pic_chip_regs *chip, unsigned input, bool level)
{
    uint8_t bit = (uint8_t)(1 << input);
    if (chip->elcr & bit)
        chip->irr = level ? chip->irr | bit : chip->irr & (uint8_t)~bit;
    else if (level && !(chip->lines & bit))
        chip->irr |= bit;
    chip->lines = level ? chip->lines | bit : chip->lines & (uint8_t)~bit;
}

static void chip_acknowledge(struct pic_chip_regs *chip, unsigned input)
{
    uint8_t bit = (uint8_t)(1 << input);
    if (!(chip->elcr & bit))
        chip->irr &= (uint8_t)~bit;
    if (!chip->auto_eoi)
        chip->isr |= bit;
    else if (chip->rotate_on_auto_eoi)
        chip->lowest = (uint8_t)input;
}

/* Carries the slave's output to the master and the master's to the CPUs. */
static void pic_update(struct pic *pic)
{
    struct pic_chip_regs *master = &pic->regs.chip[MASTER];
    bool slave = chip_pending(&pic->regs.chip[SLAVE], false) >= 0;

    /* The cascade input follows its line: the slave holds it up until it has been acknowledged. */
    master->irr = slave ? master->irr | 1 << CASCADE : master->irr & (uint8_t) ~(1 << CASCADE);
    bool output = chip_pending(master, true) >= 0;
    if (output != pic->output) {
        pic->output = output;
        extint_set(pic->dev.machine, output);
    }
}

/* ---- The interrupt side ---- */

static void pic_set(struct irq_chip *irq, unsigned gsi, bool level)
{
    struct pic *pic = CONTAINER_OF(irq, struct pic, irq);
    if (gsi >= 16 || gsi == CASCADE)
        return;
    LOCKED(&pic->dev.lock);
    chip_line(&pic->regs.chip[gsi >> 3], gsi & 7, level);
    pic_update(pic);
}

static int pic_acknowledge(struct pic *pic)
{
    struct pic_chip_regs *master = &pic->regs.chip[MASTER], *slave = &pic->regs.chip[SLAVE];
    int input = chip_pending(master, true);

    if (input < 0)
        return -1;
    chip_acknowledge(master, (unsigned)input);
    if (input != CASCADE)
        return master->vector_base + input;
    input = chip_pending(slave, false);
    if (input >= 0)
        chip_acknowledge(slave, (unsigned)input);
    return slave->vector_base + (input < 0 ? SPURIOUS : input);
}

static int pic_ack(struct irq_chip *irq)
{
    struct pic *pic = CONTAINER_OF(irq, struct pic, irq);
    LOCKED(&pic->dev.lock);
    int vector = pic_acknowledge(pic);
    pic_update(pic);
    return vector;
}

/* ---- Registers ---- */

/* Clears a chip except for what is wired to it. Inputs that are high count as new edges only after
 * they have been low. */
static void chip_init(struct pic_chip_regs *chip)
{
    uint8_t lines = chip->lines, elcr = chip->elcr;
    *chip =
        (struct pic_chip_regs){ .lines = lines, .elcr = elcr, .irr = lines & elcr, .lowest = 7 };
}

static void chip_ocw2(struct pic_chip_regs *chip, uint8_t value)
{
    bool rotate = value & 0x80, specific = value & 0x40, eoi = value & 0x20;
    unsigned input = value & 7;

    if (!eoi && !specific) {
        chip->rotate_on_auto_eoi = rotate;
        return;
    }
    if (eoi && !specific) {
        unsigned rank = chip_rank(chip, chip->isr);
        if (rank == 8)
            return;
        input = (chip->lowest + 1 + rank) & 7;
    }
    if (eoi)
        chip->isr &= (uint8_t) ~(1 << input);
    if (rotate)
        chip->lowest = (uint8_t)input;
}

static void chip_ocw3(struct pic_chip_regs *chip, uint8_t value)
{
    if (value & OCW3_POLL)
        chip->poll = 1;
    if (value & 2)
        chip->read_isr = value & 1;
    if (value & OCW3_SPECIAL_MASK_SELECT)
        chip->special_mask = !!(value & OCW3_SPECIAL_MASK);
}

static void chip_write_even(struct pic_chip_regs *chip, uint8_t value)
{
    if (value & ICW1_INIT) {
        chip_init(chip);
        chip->icw4_needed = value & ICW1_ICW4;
        chip->single = !!(value & ICW1_SINGLE);
        chip->expect = EXPECT_ICW2;
    } else if (value & OCW3) {
        chip_ocw3(chip, value);
    } else {
        chip_ocw2(chip, value);
    }
}

static void chip_write_odd(struct pic_chip_regs *chip, uint8_t value)
{
    switch (chip->expect) {
    case EXPECT_ICW2:
        chip->vector_base = value & 0xf8;
        chip->expect = !chip->single ? EXPECT_ICW3 : chip->icw4_needed ? EXPECT_ICW4 : EXPECT_OCW1;
        break;
    case EXPECT_ICW3: /* the cascade is wired, not programmed */
        chip->expect = chip->icw4_needed ? EXPECT_ICW4 : EXPECT_OCW1;
        break;
    case EXPECT_ICW4:
        chip->auto_eoi = !!(value & ICW4_AUTO_EOI);
        chip->fully_nested = !!(value & ICW4_FULLY_NESTED);
        chip->expect = EXPECT_OCW1;
        break;
    default: chip->imr = value; break;
    }
}

static uint8_t pic_poll(struct pic *pic, unsigned which)
{
    struct pic_chip_regs *chip = &pic->regs.chip[which];
    int input = chip_pending(chip, which == MASTER);

    chip->poll = 0;
    if (input < 0)
        return 0;
    chip_acknowledge(chip, (unsigned)input);
    pic_update(pic);
    return (uint8_t)(0x80 | input);
}

static uint64_t pic_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct pic *pic = (struct pic *)dev;

    if (region == REGION_ELCR)
        return pic->regs.chip[offset & 1].elcr;
    struct pic_chip_regs *chip = &pic->regs.chip[region];
    if (chip->poll)
        return pic_poll(pic, region);
    return offset ? chip->imr : chip->read_isr ? chip->isr : chip->irr;
}

static void pic_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                      uint64_t value)
{
    static const uint8_t elcr_writable[CHIPS] = { 0xf8, 0xde }; /* not 0, 1, 2, 8 and 13 */
    struct pic *pic = (struct pic *)dev;

    if (region == REGION_ELCR)
        pic->regs.chip[offset & 1].elcr = (uint8_t)value & elcr_writable[offset & 1];
    else if (offset)
        chip_write_odd(&pic->regs.chip[region], (uint8_t)value);
    else
        chip_write_even(&pic->regs.chip[region], (uint8_t)value);
    pic_update(pic);
}

/* ---- Life ---- */

static void pic_reset(struct device *dev)
{
    struct pic *pic = (struct pic *)dev;
    LOCKED(&dev->lock);
    for (unsigned i = 0; i < CHIPS; i++) {
        pic->regs.chip[i].elcr = 0;
        chip_init(&pic->regs.chip[i]);
    }
    pic_update(pic);
}

static int pic_loaded(struct device *dev, struct err *err)
{
    struct pic *pic = (struct pic *)dev;
    LOCKED(&dev->lock);
    pic->output = false;
    extint_set(dev->machine, false);
    pic_update(pic);
    return 0;
}

static void pic_destroy(struct device *dev)
{
    struct pic *pic = (struct pic *)dev;
    irq_chip_remove(dev->machine, &pic->irq);
    for (unsigned i = 0; i < REGIONS; i++)
        map_remove(dev->machine, pic->maps[i]);
    device_fini(dev);
    free(pic);
}

static int pic_check(const void *state, struct err *err)
{
    const struct pic_regs *regs = state;
    for (unsigned i = 0; i < CHIPS; i++)
        if (regs->chip[i].lowest > 7 || regs->chip[i].expect > EXPECT_ICW4 ||
            regs->chip[i].vector_base & 7)
            return err_set(err, EINVAL, "an interrupt controller cannot be in the saved state");
    return 0;
}

static const struct state_field pic_chip_fields[] = {
    STATE_U8(struct pic_chip_regs, lines),
    STATE_U8(struct pic_chip_regs, irr),
    STATE_U8(struct pic_chip_regs, isr),
    STATE_U8(struct pic_chip_regs, imr),
    STATE_U8(struct pic_chip_regs, elcr),
    STATE_U8(struct pic_chip_regs, vector_base),
    STATE_U8(struct pic_chip_regs, lowest),
    STATE_U8(struct pic_chip_regs, expect),
    STATE_U8(struct pic_chip_regs, icw4_needed),
    STATE_U8(struct pic_chip_regs, single),
    STATE_U8(struct pic_chip_regs, read_isr),
    STATE_U8(struct pic_chip_regs, poll),
    STATE_U8(struct pic_chip_regs, special_mask),
    STATE_U8(struct pic_chip_regs, auto_eoi),
    STATE_U8(struct pic_chip_regs, rotate_on_auto_eoi),
    STATE_U8(struct pic_chip_regs, fully_nested),
    STATE_END,
};
static const struct state_desc pic_chip_state = {
    .name = "8259",
    .version = 1,
    .size = sizeof(struct pic_chip_regs),
    .fields = pic_chip_fields,
};
static const struct state_field pic_fields[] = {
    STATE_STRUCTS(struct pic_regs, chip, &pic_chip_state),
    STATE_END,
};
static const struct state_desc pic_state = {
    .name = "pic",
    .version = 1,
    .base = offsetof(struct pic, regs),
    .size = sizeof(struct pic_regs),
    .fields = pic_fields,
    .check = pic_check,
};
static const struct device_type pic_type = {
    .name = "pic",
    .about = "pair of 8259A interrupt controllers",
    .threads = DEVICE_LOCKED,
    .destroy = pic_destroy,
    .read = pic_read,
    .write = pic_write,
    .reset = pic_reset,
    .loaded = pic_loaded,
    .state = &pic_state,
};

int pic_create(struct machine *m, struct err *err)
{
    static const uint16_t ports[REGIONS] = { 0x20, 0xa0, 0x4d0 };
    struct pic *pic = calloc(1, sizeof *pic);
    if (!pic)
        return err_set(err, ENOMEM, "out of memory");
    device_init(&pic->dev, m, &pic_type, "pic");
    pic->regs.chip[MASTER].lowest = pic->regs.chip[SLAVE].lowest = 7;
    pic->irq.set = pic_set;
    pic->irq.ack = pic_ack;
    irq_chip_add(m, &pic->irq);
    AUTO(device_destroy) struct device *dev = &pic->dev;

    for (unsigned i = 0; i < REGIONS; i++) {
        int r = map_device(m, SPACE_IO, ports[i], 2, dev, i, PRIORITY, &pic->maps[i], err);
        if (r < 0)
            return err_prefix(err, "interrupt controller");
    }
    machine_add_device(m, TAKE(dev));
    return 0;
}
