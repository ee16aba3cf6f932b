/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The real-time clock: Motorola MC146818A, as PCs have it, with the century in CMOS byte 0x32.
 *
 * Time is the guest's clock (epoch + guest time) plus an offset that the guest chose by setting
 * another time. Nothing ticks: registers are worked out when they are read, flags of register C
 * when it is read or when an enabled interrupt comes due. Daylight saving (DSE) and the square-wave
 * output are not there, as on every PC's chip set.
 *
 * An alarm's interrupt, when it begins, is also an event of power management (RTC_STS, ACPI 6.4,
 * section 4.8.2.4), whatever the interrupt controllers make of the interrupt.
 */
#include "devices/rtc.h"

#include "devices/pm.h"
#include "machine/clock.h"
#include "machine/irq.h"
#include "machine/machine.h"

#include <assert.h>
#include <stdlib.h>
#include <time.h>

enum { CMOS_SIZE = 128, GSI_RTC = 8, PRIORITY = 10 };
enum {
    SECONDS = 0,
    SECONDS_ALARM,
    MINUTES,
    MINUTES_ALARM,
    HOURS,
    HOURS_ALARM,
    WEEKDAY,
    DAY,
    MONTH,
    YEAR,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
    CENTURY = 0x32
};
enum { A_UIP = 0x80, A_DIVIDER = 0x70, A_DIVIDER_32K = 0x20, A_RATE = 0x0f };
enum { B_SET = 0x80, B_PIE = 0x40, B_AIE = 0x20, B_UIE = 0x10, B_BINARY = 0x04, B_24H = 0x02 };
enum { C_IRQF = 0x80, C_PF = 0x40, C_AF = 0x20, C_UF = 0x10 };
enum { D_VALID = 0x80, ALARM_ANY = 0xc0, HOUR_PM = 0x80 };
enum { DAY_SECONDS = 86400 };
#define SECOND_NS 1000000000ull
#define UIP_NS 244000ull /* the update is announced so long before it */
/* 1970 to 9999 and then some; keeps all sums in range, whatever is set or loaded */
#define TIME_MAX_NS (SECOND_NS * DAY_SECONDS * 365 * 290)

struct rtc_regs {
    uint64_t offset_ns;      /* added (modulo 2^64) to the guest's UTC */
    uint64_t checked_ns;     /* guest time up to which the flags of register C are right */
    uint8_t cmos[CMOS_SIZE]; /* time bytes: only valid while B_SET */
    uint64_t index;
};

struct rtc {
    struct device dev;
    struct rtc_regs regs; /* dev.lock */
    struct irq_pin pin;
    struct device *pm; /* the machine's; NULL: the alarm is an interrupt alone */
    bool alarm;        /* what `regs` say: the alarm asks for an interrupt; dev.lock */
    struct guest_timer *timer;
    struct mapping *map;
};

/* ---- Time and registers ---- */

static uint64_t rtc_time_ns(struct rtc *rtc, uint64_t now)
{
    return (guest_epoch_ns(rtc->dev.machine) + now + rtc->regs.offset_ns) % TIME_MAX_NS;
}

static uint8_t encode(const struct rtc_regs *regs, int n)
{
    return (uint8_t)(regs->cmos[REG_B] & B_BINARY ? n : n / 10 << 4 | n % 10);
}

static int decode(const struct rtc_regs *regs, uint8_t n)
{
    return regs->cmos[REG_B] & B_BINARY ? n : (n >> 4) * 10 + (n & 15);
}

static uint8_t encode_hour(const struct rtc_regs *regs, int hour)
{
    if (regs->cmos[REG_B] & B_24H)
        return encode(regs, hour);
    uint8_t value = encode(regs, hour % 12 ? hour % 12 : 12);
    return hour >= 12 ? value | HOUR_PM : value;
}

static int decode_hour(const struct rtc_regs *regs, uint8_t value)
{
    if (regs->cmos[REG_B] & B_24H)
        return decode(regs, value);
    return decode(regs, value & (uint8_t)~HOUR_PM) % 12 + (value & HOUR_PM ? 12 : 0);
}

/* Fills the time bytes with the time of now. */
static void time_to_cmos(struct rtc *rtc, uint64_t now)
{
    struct rtc_regs *regs = &rtc->regs;
    time_t seconds = (time_t)(rtc_time_ns(rtc, now) / SECOND_NS);
    struct tm tm;

    if (!gmtime_r(&seconds, &tm))
        return;
    regs->cmos[SECONDS] = encode(regs, tm.tm_sec);
    regs->cmos[MINUTES] = encode(regs, tm.tm_min);
    regs->cmos[HOURS] = encode_hour(regs, tm.tm_hour);
    regs->cmos[WEEKDAY] = encode(regs, tm.tm_wday + 1);
    regs->cmos[DAY] = encode(regs, tm.tm_mday);
    regs->cmos[MONTH] = encode(regs, tm.tm_mon + 1);
    regs->cmos[YEAR] = encode(regs, tm.tm_year % 100);
    regs->cmos[CENTURY] = encode(regs, (tm.tm_year + 1900) / 100);
}

/* The guest set the time bytes: they are the time of now. Nonsense becomes some time. */
static void cmos_to_time(struct rtc *rtc, uint64_t now)
{
    const struct rtc_regs *regs = &rtc->regs;
    struct tm tm = {
        .tm_sec = decode(regs, regs->cmos[SECONDS]),
        .tm_min = decode(regs, regs->cmos[MINUTES]),
        .tm_hour = decode_hour(regs, regs->cmos[HOURS]),
        .tm_mday = decode(regs, regs->cmos[DAY]),
        .tm_mon = decode(regs, regs->cmos[MONTH]) - 1,
        .tm_year = decode(regs, regs->cmos[CENTURY]) * 100 + decode(regs, regs->cmos[YEAR]) - 1900,
    };
    time_t seconds = timegm(&tm);
    uint64_t wanted = seconds < 0 ? 0 : (uint64_t)seconds % (TIME_MAX_NS / SECOND_NS) * SECOND_NS;
    rtc->regs.offset_ns = wanted - guest_epoch_ns(rtc->dev.machine) - now;
}

static bool rtc_runs(const struct rtc_regs *regs)
{
    return !(regs->cmos[REG_B] & B_SET) && (regs->cmos[REG_A] & A_DIVIDER) == A_DIVIDER_32K;
}

/* ---- Flags and interrupts ---- */

/* Of register A's rate; 0: no periodic interrupt. In units of 1/32768 s. */
static unsigned period_ticks(const struct rtc_regs *regs)
{
    unsigned rate = regs->cmos[REG_A] & A_RATE;
    return !rate ? 0 : rate <= 2 ? 1u << (rate + 6) : 1u << (rate - 1);
}

/* Periodic interrupts lie on a grid of guest time, so they need no phase of their own. */
static uint64_t period_number(const struct rtc_regs *regs, uint64_t now)
{
    return (uint64_t)((unsigned __int128)now * 32768 / SECOND_NS) / period_ticks(regs);
}

static uint64_t period_start_ns(const struct rtc_regs *regs, uint64_t number)
{
    unsigned __int128 ticks = (unsigned __int128)number * period_ticks(regs);
    return (uint64_t)((ticks * SECOND_NS + 32767) / 32768);
}

static bool alarm_hits(const struct rtc_regs *regs, unsigned index, int value)
{
    uint8_t alarm = regs->cmos[index];
    if ((alarm & ALARM_ANY) == ALARM_ANY)
        return true;
    return (index == HOURS_ALARM ? decode_hour(regs, alarm) : decode(regs, alarm)) == value;
}

/* The first second of the day at or after `from` that the alarm names; DAY_SECONDS if there is
 * none. */
static int alarm_in_day(const struct rtc_regs *regs, int from)
{
    for (int h = from / 3600; h < 24; h++) {
        if (!alarm_hits(regs, HOURS_ALARM, h))
            continue;
        for (int m = h == from / 3600 ? from / 60 % 60 : 0; m < 60; m++) {
            if (!alarm_hits(regs, MINUTES_ALARM, m))
                continue;
            int first = h * 3600 + m * 60;
            for (int s = from > first ? from - first : 0; s < 60; s++)
                if (alarm_hits(regs, SECONDS_ALARM, s))
                    return first + s;
        }
    }
    return DAY_SECONDS;
}

/* The first second after `seconds` at which the alarm goes off; UINT64_MAX: it names no time of the
 * day. */
static uint64_t alarm_after(const struct rtc_regs *regs, uint64_t seconds)
{
    uint64_t day = (seconds + 1) / DAY_SECONDS;
    int hit = alarm_in_day(regs, (int)((seconds + 1) % DAY_SECONDS));
    if (hit < DAY_SECONDS)
        return day * DAY_SECONDS + (uint64_t)hit;
    hit = alarm_in_day(regs, 0);
    return hit < DAY_SECONDS ? (day + 1) * DAY_SECONDS + (uint64_t)hit : UINT64_MAX;
}

static bool alarm_asks(const struct rtc_regs *regs)
{
    return regs->cmos[REG_C] & regs->cmos[REG_B] & C_AF;
}

/* After the flags or their enables changed: the interrupt, and once for each alarm its event. */
static void rtc_update(struct rtc *rtc)
{
    struct rtc_regs *regs = &rtc->regs;
    bool alarm = alarm_asks(regs);

    if (regs->cmos[REG_C] & regs->cmos[REG_B] & (C_PF | C_AF | C_UF))
        regs->cmos[REG_C] |= C_IRQF;
    irq_pin_set(&rtc->pin, regs->cmos[REG_C] & C_IRQF);
    if (alarm && !rtc->alarm && rtc->pm)
        pm_rtc_alarm(rtc->pm);
    rtc->alarm = alarm;
}

/* Sets the flags of what happened since the last time, and the interrupt with them. */
static void rtc_check_flags(struct rtc *rtc, uint64_t now)
{
    struct rtc_regs *regs = &rtc->regs;
    uint64_t before = rtc_time_ns(rtc, regs->checked_ns) / SECOND_NS;
    uint64_t after = rtc_time_ns(rtc, now) / SECOND_NS;

    if (rtc_runs(regs) && after > before) {
        regs->cmos[REG_C] |= C_UF;
        if (alarm_after(regs, before) <= after)
            regs->cmos[REG_C] |= C_AF;
    }
    if (period_ticks(regs) && period_number(regs, now) > period_number(regs, regs->checked_ns))
        regs->cmos[REG_C] |= C_PF;
    regs->checked_ns = now;
    rtc_update(rtc);
}

/* Arms the timer for the next enabled interrupt. One that is up already waits for register C to be
 * read. */
static void rtc_arm(struct rtc *rtc, uint64_t now)
{
    struct rtc_regs *regs = &rtc->regs;
    uint64_t next = UINT64_MAX, time = rtc_time_ns(rtc, now), seconds = time / SECOND_NS;
    uint8_t wanted = regs->cmos[REG_B] & (uint8_t)~regs->cmos[REG_C];

    if (rtc_runs(regs) && (wanted & B_UIE))
        next = now + SECOND_NS - time % SECOND_NS;
    if (rtc_runs(regs) && (wanted & B_AIE) && alarm_after(regs, seconds) != UINT64_MAX) {
        uint64_t alarm = now + (alarm_after(regs, seconds) * SECOND_NS - time);
        next = alarm < next ? alarm : next;
    }
    if (period_ticks(regs) && (wanted & B_PIE)) {
        uint64_t period = period_start_ns(regs, period_number(regs, now) + 1);
        next = period < next ? period : next;
    }
    if (next == UINT64_MAX)
        guest_timer_disarm(rtc->timer);
    else
        guest_timer_arm(rtc->timer, next);
}

static void rtc_expired(void *arg)
{
    struct rtc *rtc = arg;
    LOCKED(&rtc->dev.lock);
    uint64_t now = guest_now_ns(rtc->dev.machine);
    rtc_check_flags(rtc, now);
    rtc_arm(rtc, now);
}

/* ---- Ports ---- */

static bool is_time(unsigned index)
{
    return index == SECONDS || index == MINUTES || index == HOURS || index == CENTURY ||
           (index >= WEEKDAY && index <= YEAR);
}

static uint64_t rtc_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct rtc *rtc = (struct rtc *)dev;
    struct rtc_regs *regs = &rtc->regs;
    uint64_t now = guest_now_ns(dev->machine);
    unsigned index = (unsigned)regs->index;

    if (offset == 0)
        return 0xff; /* the index is write-only */
    if (is_time(index) && !(regs->cmos[REG_B] & B_SET))
        time_to_cmos(rtc, now);
    if (index == REG_A)
        return regs->cmos[REG_A] |
               (rtc_runs(regs) && rtc_time_ns(rtc, now) % SECOND_NS >= SECOND_NS - UIP_NS ? A_UIP
                                                                                          : 0);
    if (index == REG_C) {
        rtc_check_flags(rtc, now);
        uint8_t flags = regs->cmos[REG_C];
        regs->cmos[REG_C] = 0;
        rtc_update(rtc);
        rtc_arm(rtc, now);
        return flags;
    }
    return index == REG_D ? D_VALID : regs->cmos[index];
}

static void rtc_write_b(struct rtc *rtc, uint8_t value, uint64_t now)
{
    struct rtc_regs *regs = &rtc->regs;
    bool was_set = regs->cmos[REG_B] & B_SET;

    if (!was_set)
        time_to_cmos(rtc, now); /* in the old format: B_SET freezes what there is */
    regs->cmos[REG_B] = value;
    if (value & B_SET)
        regs->cmos[REG_B] &= (uint8_t)~B_UIE;
    else if (was_set)
        cmos_to_time(rtc, now);
}

static void rtc_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                      uint64_t value)
{
    struct rtc *rtc = (struct rtc *)dev;
    struct rtc_regs *regs = &rtc->regs;
    uint64_t now = guest_now_ns(dev->machine);
    unsigned index = (unsigned)regs->index;

    if (offset == 0) {
        regs->index = value & (CMOS_SIZE - 1); /* bit 7 would mask NMIs, of which we have none */
        return;
    }
    rtc_check_flags(rtc, now);
    if (index == REG_C || index == REG_D)
        return;
    if (index == REG_A) {
        regs->cmos[REG_A] = (uint8_t)value & (A_DIVIDER | A_RATE);
    } else if (index == REG_B) {
        rtc_write_b(rtc, (uint8_t)value, now);
    } else if (is_time(index) && !(regs->cmos[REG_B] & B_SET)) {
        time_to_cmos(rtc, now);
        regs->cmos[index] = (uint8_t)value;
        cmos_to_time(rtc, now);
    } else {
        regs->cmos[index] = (uint8_t)value;
    }
    rtc_check_flags(rtc, now);
    rtc_arm(rtc, now);
}

/* ---- Life ---- */

/* The battery keeps time, CMOS memory and registers A and D; reset clears enables and flags. */
static void rtc_reset(struct device *dev)
{
    struct rtc *rtc = (struct rtc *)dev;
    LOCKED(&dev->lock);
    rtc->regs.cmos[REG_B] &= B_24H | B_BINARY;
    rtc->regs.cmos[REG_C] = 0;
    rtc->regs.index = 0;
    guest_timer_disarm(rtc->timer);
    rtc_update(rtc);
}

static int rtc_loaded(struct device *dev, struct err *err)
{
    struct rtc *rtc = (struct rtc *)dev;
    LOCKED(&dev->lock);
    irq_pin_set(&rtc->pin, rtc->regs.cmos[REG_C] & C_IRQF);
    rtc->alarm = alarm_asks(&rtc->regs); /* its event is in the state of power management */
    rtc_arm(rtc, guest_now_ns(dev->machine));
    return 0;
}

static int rtc_check(const void *state, struct err *err)
{
    const struct rtc_regs *regs = state;
    if (regs->index >= CMOS_SIZE || (regs->cmos[REG_A] & A_UIP))
        return err_set(err, EINVAL, "the real-time clock cannot be in the saved state");
    return 0;
}

static void rtc_destroy(struct device *dev)
{
    struct rtc *rtc = (struct rtc *)dev;
    guest_timer_destroy(rtc->timer);
    map_remove(dev->machine, rtc->map);
    device_fini(dev);
    free(rtc);
}

void rtc_connect_pm(struct device *dev, struct device *pm) { ((struct rtc *)dev)->pm = pm; }

void rtc_set_cmos(struct device *dev, unsigned index, uint8_t value)
{
    assert(index > REG_D && index < CMOS_SIZE);
    ((struct rtc *)dev)->regs.cmos[index] = value;
}

static const struct state_field rtc_fields[] = {
    STATE_U64(struct rtc_regs, offset_ns),
    STATE_U64(struct rtc_regs, checked_ns),
    STATE_BYTES(struct rtc_regs, cmos),
    STATE_U64(struct rtc_regs, index),
    STATE_END,
};
static const struct state_desc rtc_state = {
    .name = "rtc",
    .version = 1,
    .base = offsetof(struct rtc, regs),
    .size = sizeof(struct rtc_regs),
    .fields = rtc_fields,
    .check = rtc_check,
};
static const struct device_type rtc_type = {
    .name = "rtc",
    .about = "MC146818 clock with CMOS memory",
    .threads = DEVICE_LOCKED,
    .destroy = rtc_destroy,
    .read = rtc_read,
    .write = rtc_write,
    .reset = rtc_reset,
    .loaded = rtc_loaded,
    .state = &rtc_state,
};

int rtc_create(struct machine *m, struct device **out, struct err *err)
{
    struct rtc *rtc = calloc(1, sizeof *rtc);
    if (!rtc)
        return err_set(err, ENOMEM, "out of memory");
    device_init(&rtc->dev, m, &rtc_type, "rtc");
    irq_pin_init(&rtc->pin, m, GSI_RTC);
    rtc->regs.cmos[REG_A] = A_DIVIDER_32K | 6; /* 1024 Hz, as firmware leaves it */
    rtc->regs.cmos[REG_B] = B_24H;
    AUTO(device_destroy) struct device *dev = &rtc->dev;

    int r = guest_timer_create(m, rtc_expired, rtc, &rtc->timer, err);
    if (r >= 0)
        r = map_device(m, SPACE_IO, 0x70, 2, dev, 0, PRIORITY, &rtc->map, err);
    if (r < 0)
        return err_prefix(err, "real-time clock");
    *out = dev;
    machine_add_device(m, TAKE(dev));
    return 0;
}
