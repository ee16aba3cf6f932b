/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ACPI power management: the fixed hardware of ACPI 6.4, section 4.8, with a 32-bit PM timer.
 *
 * The machine is always in ACPI mode (SCI_EN reads one; there is no SMI command port). Writing
 * SLP_TYP 5 with SLP_EN powers off; other sleep states are not offered and ignored.
 *
 * Ports 0x64 and 0x92 are here because a reset is all that they can do: there is no keyboard
 * controller, and address line 20 is always enabled. Port 0x64 reads as no controller would (0xff),
 * except for the "input buffer full" bit, for which guests wait before they send the reset command.
 */
#include "devices/pm.h"

#include "base/log.h"
#include "machine/clock.h"
#include "machine/irq.h"
#include "machine/machine.h"

#include <assert.h>
#include <stdlib.h>

enum {
    REGION_EVENT,
    REGION_CONTROL,
    REGION_TIMER,
    REGION_GPE0,
    REGION_SMI,
    REGION_KEYBOARD,
    REGION_PORT92,
    REGIONS
};
enum { PM_TIMER_HZ = 3579545, PRIORITY = 10 };
enum { TMR = 1 << 0, GBL = 1 << 5, PWRBTN = 1 << 8, SLPBTN = 1 << 9, RTC = 1 << 10, WAK = 1 << 15 };
enum { STATUS_BITS = TMR | GBL | PWRBTN | SLPBTN | RTC | WAK };
enum { ENABLE_BITS = TMR | GBL | PWRBTN | SLPBTN | RTC };
enum { SCI_EN = 1 << 0, SLEEP_TYPE_SHIFT = 10, SLEEP_TYPE_MASK = 7, SLEEP_ENABLE = 1 << 13 };
enum { KEYBOARD_STATUS = 0xfd, PULSE_RESET_MASK = 0xf1, PULSE_RESET = 0xf0 };
/* SMI_EN of the ICH9. Software interrupts of system management mode do not exist yet; APMC_EN,
 * which always reads one, tells the firmware that somebody else has set them up. */
enum { SMI_ENABLE_APMC = 1 << 5, SMI_ENABLE_BITS = 0x0001ffff };
enum { PORT92_RESET = 1, PORT92_A20 = 2 };

struct pm_regs {
    uint32_t halves; /* changes of the timer's top bit that `status` knows of */
    uint16_t status, enable, control;
    uint16_t gpe_status, gpe_enable;
    uint16_t port92;
    uint32_t smi_enable;
};

struct pm {
    struct device dev;
    struct pm_regs regs; /* dev.lock */
    uint32_t base;       /* of the ACPI ports; 0: not decoded */
    struct irq_pin sci;
    struct guest_timer *timer;
    struct mapping *maps[REGIONS];
};

/* ---- Timer and SCI ---- */

static uint64_t pm_ticks(struct pm *pm)
{
    return (uint64_t)((unsigned __int128)guest_now_ns(pm->dev.machine) * PM_TIMER_HZ / 1000000000);
}

/* The status bit is set whenever the timer's most significant bit changes. */
static void pm_check_timer(struct pm *pm)
{
    uint32_t halves = (uint32_t)(pm_ticks(pm) >> 31);
    if (halves != pm->regs.halves)
        pm->regs.status |= TMR;
    pm->regs.halves = halves;
}

static void pm_update(struct pm *pm)
{
    struct pm_regs *regs = &pm->regs;
    irq_pin_set(&pm->sci, (regs->status & regs->enable) || (regs->gpe_status & regs->gpe_enable));
    if ((regs->enable & TMR) && !(regs->status & TMR)) {
        unsigned __int128 next = (unsigned __int128)((pm_ticks(pm) >> 31) + 1) << 31;
        guest_timer_arm(pm->timer, (uint64_t)((next * 1000000000 + PM_TIMER_HZ - 1) / PM_TIMER_HZ));
    } else {
        guest_timer_disarm(pm->timer);
    }
}

static void pm_expired(void *arg)
{
    struct pm *pm = arg;
    LOCKED(&pm->dev.lock);
    pm_check_timer(pm);
    pm_update(pm);
}

static void pm_raise(struct device *dev, unsigned event)
{
    struct pm *pm = (struct pm *)dev;
    LOCKED(&dev->lock);
    pm->regs.status |= (uint16_t)event;
    pm_update(pm);
}

void pm_power_button(struct device *dev) { pm_raise(dev, PWRBTN); }
void pm_rtc_alarm(struct device *dev) { pm_raise(dev, RTC); }

void pm_gpe_raise(struct device *dev, unsigned event)
{
    struct pm *pm = (struct pm *)dev;
    assert(event < 16);
    LOCKED(&dev->lock);
    pm->regs.gpe_status |= (uint16_t)(1 << event);
    pm_update(pm);
}

/* ---- Registers: each block is read and written by bytes, which makes every access size right ----
 */

static uint8_t read_byte(struct pm *pm, unsigned region, unsigned offset)
{
    const struct pm_regs *regs = &pm->regs;
    unsigned high = offset % 2 * 8;

    switch (region) {
    case REGION_EVENT: return (uint8_t)((offset < 2 ? regs->status : regs->enable) >> high);
    case REGION_CONTROL: return (uint8_t)((regs->control | SCI_EN) >> high);
    case REGION_GPE0: return (uint8_t)((offset < 2 ? regs->gpe_status : regs->gpe_enable) >> high);
    case REGION_SMI:
        return offset < 4 ? (uint8_t)((regs->smi_enable | SMI_ENABLE_APMC) >> 8 * offset) : 0;
    case REGION_KEYBOARD: return KEYBOARD_STATUS;
    case REGION_PORT92: return (uint8_t)(regs->port92 | PORT92_A20);
    }
    return 0xff;
}

static uint64_t pm_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct pm *pm = (struct pm *)dev;
    uint64_t value = 0;

    if (region == REGION_TIMER)
        return (uint32_t)pm_ticks(pm) >> 8 * offset;
    pm_check_timer(pm);
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)read_byte(pm, region, (unsigned)offset + i) << 8 * i;
    return value;
}

static void put_byte(uint16_t *reg, unsigned high, uint8_t value, unsigned writable)
{
    unsigned mask = writable & 0xffu << high;
    *reg = (uint16_t)((*reg & ~mask) | ((unsigned)value << high & mask));
}

static void write_control(struct pm *pm, unsigned high, uint8_t value)
{
    put_byte(&pm->regs.control, high, value, SLEEP_TYPE_MASK << SLEEP_TYPE_SHIFT);
    if (!((unsigned)value << high & SLEEP_ENABLE))
        return;
    if ((pm->regs.control >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK) == PM_SLEEP_TYPE_S5)
        machine_post_event(pm->dev.machine, MACHINE_POWEROFF, "ACPI S5");
}

static void write_port92(struct pm *pm, uint8_t value)
{
    if (value & ~pm->regs.port92 & PORT92_RESET)
        machine_post_event(pm->dev.machine, MACHINE_RESET, "fast reset (port 0x92)");
    pm->regs.port92 = value & PORT92_RESET;
}

static void write_byte(struct pm *pm, unsigned region, unsigned offset, uint8_t value)
{
    struct pm_regs *regs = &pm->regs;
    unsigned high = offset % 2 * 8;

    switch (region) {
    case REGION_EVENT:
        if (offset < 2)
            regs->status &= (uint16_t) ~((unsigned)value << high);
        else
            put_byte(&regs->enable, high, value, ENABLE_BITS);
        break;
    case REGION_CONTROL: write_control(pm, high, value); break;
    case REGION_GPE0:
        if (offset < 2)
            regs->gpe_status &= (uint16_t) ~((unsigned)value << high);
        else
            put_byte(&regs->gpe_enable, high, value, 0xffff);
        break;
    case REGION_SMI:
        if (offset < 4) {
            uint32_t mask = SMI_ENABLE_BITS & 0xffu << 8 * offset;
            regs->smi_enable = (regs->smi_enable & ~mask) | ((uint32_t)value << 8 * offset & mask);
        }
        break;
    case REGION_KEYBOARD:
        /* Pulse output lines; line 0 is the CPU's reset. */
        if ((value & PULSE_RESET_MASK) == PULSE_RESET)
            machine_post_event(pm->dev.machine, MACHINE_RESET, "keyboard controller (port 0x64)");
        break;
    case REGION_PORT92: write_port92(pm, value); break;
    }
}

static void pm_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                     uint64_t value)
{
    struct pm *pm = (struct pm *)dev;
    if (region == REGION_TIMER)
        return;
    pm_check_timer(pm);
    for (unsigned i = 0; i < size; i++)
        write_byte(pm, region, (unsigned)offset + i, (uint8_t)(value >> 8 * i));
    pm_update(pm);
}

/* ---- Life ---- */

static void pm_reset(struct device *dev)
{
    struct pm *pm = (struct pm *)dev;
    LOCKED(&dev->lock);
    pm->regs = (struct pm_regs){ .halves = (uint32_t)(pm_ticks(pm) >> 31) };
    pm_update(pm);
}

static int pm_loaded(struct device *dev, struct err *err)
{
    struct pm *pm = (struct pm *)dev;
    LOCKED(&dev->lock);
    pm_update(pm);
    return 0;
}

static int pm_check(const void *state, struct err *err)
{
    const struct pm_regs *regs = state;
    if ((regs->status & ~STATUS_BITS) || (regs->enable & ~ENABLE_BITS) ||
        (regs->control & ~(SLEEP_TYPE_MASK << SLEEP_TYPE_SHIFT)) || regs->port92 > 1 ||
        (regs->smi_enable & ~SMI_ENABLE_BITS))
        return err_set(err, EINVAL, "power management cannot be in the saved state");
    return 0;
}

static void pm_destroy(struct device *dev)
{
    struct pm *pm = (struct pm *)dev;
    guest_timer_destroy(pm->timer);
    for (unsigned i = 0; i < REGIONS; i++)
        map_remove(dev->machine, pm->maps[i]);
    device_fini(dev);
    free(pm);
}

static const struct state_field pm_fields[] = {
    STATE_U32(struct pm_regs, halves),
    STATE_U16(struct pm_regs, status),
    STATE_U16(struct pm_regs, enable),
    STATE_U16(struct pm_regs, control),
    STATE_U16(struct pm_regs, gpe_status),
    STATE_U16(struct pm_regs, gpe_enable),
    STATE_U16(struct pm_regs, port92),
    STATE_U32(struct pm_regs, smi_enable),
    STATE_END,
};
static const struct state_desc pm_state = {
    .name = "pm",
    .version = 1,
    .base = offsetof(struct pm, regs),
    .size = sizeof(struct pm_regs),
    .fields = pm_fields,
    .check = pm_check,
};
static const struct device_type pm_type = {
    .name = "pm",
    .about = "ACPI power management and reset",
    .threads = DEVICE_LOCKED,
    .destroy = pm_destroy,
    .read = pm_read,
    .write = pm_write,
    .reset = pm_reset,
    .loaded = pm_loaded,
    .state = &pm_state,
};

/* Ports: the first ones move with PMBASE. */
static const struct {
    uint16_t port, size;
} places[REGIONS] = {
    [REGION_EVENT] = { PM_EVENT_PORT, 4 }, [REGION_CONTROL] = { PM_CONTROL_PORT, 2 },
    [REGION_TIMER] = { PM_TIMER_PORT, 4 }, [REGION_GPE0] = { PM_GPE0_PORT, PM_GPE0_LEN },
    [REGION_SMI] = { PM_SMI_PORT, 8 },     [REGION_KEYBOARD] = { 0x64, 1 },
    [REGION_PORT92] = { 0x92, 1 },
};

static int pm_map(struct pm *pm, unsigned region, uint32_t port, struct err *err)
{
    return map_device(pm->dev.machine, SPACE_IO, port, places[region].size, &pm->dev, region,
                      PRIORITY, &pm->maps[region], err);
}

void pm_place(struct device *dev, uint32_t base)
{
    struct pm *pm = (struct pm *)dev;
    struct err err;

    if (base == pm->base)
        return;
    pm->base = base;
    for (unsigned i = 0; i <= REGION_SMI; i++) {
        map_remove(dev->machine, TAKE(pm->maps[i]));
        if (base && pm_map(pm, i, base + places[i].port - PM_BASE, &err) < 0)
            log_guest("pm: ports cannot be at %#x: %s", base, err.text);
    }
}

int pm_create(struct machine *m, struct device **out, struct err *err)
{
    struct pm *pm = calloc(1, sizeof *pm);
    if (!pm)
        return err_set(err, ENOMEM, "out of memory");
    device_init(&pm->dev, m, &pm_type, "pm");
    irq_pin_init(&pm->sci, m, PM_SCI_GSI);
    pm->base = PM_BASE;
    AUTO(device_destroy) struct device *dev = &pm->dev;

    int r = guest_timer_create(m, pm_expired, pm, &pm->timer, err);
    for (unsigned i = 0; i < REGIONS && r >= 0; i++)
        r = pm_map(pm, i, places[i].port, err);
    if (r < 0)
        return err_prefix(err, "power management");
    *out = dev;
    machine_add_device(m, TAKE(dev));
    return 0;
}
