/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The packet commands of a CD-ROM drive (MMC-5, SPC-3): one data track on a medium of whole
 * 2048-byte sectors; larger media present themselves as DVD-ROM.
 *
 * Not there: audio, raw sectors, writing, DVD structures.
 */
#include "devices/disk/ata.h"

#include "base/checked.h"

#include <string.h>

enum { PROFILE_CD = 0x08, PROFILE_DVD = 0x10, CD_SECTORS_MAX = 450000 /* 100 minutes */ };
enum { LEAD_OUT = 0xaa, FRAMES = 75, PREGAP = 150 };
enum { ASC_COMMAND = 0x20, ASC_RANGE = 0x21, ASC_FIELD = 0x24, ASC_NO_MEDIUM = 0x3a };
enum { ASCQ_TRAY_CLOSED = 1, ASCQ_TRAY_OPEN = 2, ASC_LOCKED = 0x53, ASCQ_LOCKED = 2 };

static unsigned get16(const uint8_t *p) { return (unsigned)p[0] << 8 | p[1]; }
static uint32_t get32(const uint8_t *p) { return (uint32_t)get16(p) << 16 | get16(p + 2); }
static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}

void atapi_fail(struct ata_drive *drive, struct ata_taskfile *tf, unsigned key, unsigned asc,
                unsigned ascq)
{
    drive->regs->sense_key = (uint8_t)key;
    drive->regs->asc = (uint8_t)asc;
    drive->regs->ascq = (uint8_t)ascq;
    tf->count = ATA_REASON_COMMAND | ATA_REASON_IN;
    tf->status = ATA_READY | ATA_ERR;
    tf->error = (uint8_t)(key << 4 | ATA_ABRT);
}

static bool medium_there(const struct ata_drive *drive)
{
    return drive->size && !drive->regs->tray_open;
}

static uint32_t medium_sectors(const struct ata_drive *drive)
{
    uint64_t n = (drive->size + ATA_CD_SECTOR - 1) / ATA_CD_SECTOR;
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

/* A reply of `len` bytes, of which the guest asked for at most `room`. */
static void reply(struct ata_plan *plan, unsigned len, unsigned room)
{
    plan->kind = len && room ? ATA_REPLY : ATA_NO_DATA;
    plan->len = len < room ? len : room;
}

static void refuse(struct ata_drive *drive, struct ata_taskfile *tf, unsigned asc)
{
    atapi_fail(drive, tf, SENSE_ILLEGAL, asc, 0);
}

/* ---- commands that describe the drive ---- */

static void request_sense(struct ata_drive *drive, const uint8_t *packet, struct ata_plan *plan)
{
    struct ata_regs *r = drive->regs;
    uint8_t *d = plan->data;
    if (!r->sense_key && r->attention) { /* asked for, it is told this way (SPC-3, 6.27) */
        r->sense_key = SENSE_ATTENTION;
        r->asc = r->attention;
        r->attention = 0;
    }
    memset(d, 0, 18);
    d[0] = 0x70;
    d[2] = r->sense_key;
    d[7] = 10;
    d[12] = r->asc;
    d[13] = r->ascq;
    r->sense_key = r->asc = r->ascq = 0;
    reply(plan, 18, packet[4]);
}

static void inquiry(struct ata_drive *drive, struct ata_taskfile *tf, const uint8_t *packet,
                    struct ata_plan *plan)
{
    uint8_t *d = plan->data;
    if (packet[1] & 3 || packet[2]) { /* no pages of vital product data */
        refuse(drive, tf, ASC_FIELD);
        return;
    }
    memset(d, 0, 36);
    d[0] = 5; /* CD-ROM */
    d[1] = 0x80;
    d[3] = 0x21;
    d[4] = 31;
    memcpy(d + 8, "BEDPLATECD-ROM          1.0 ", 28);
    reply(plan, 36, get16(packet + 3));
}

static unsigned page_capabilities(const struct ata_drive *drive, uint8_t *p)
{
    memset(p, 0, 20);
    p[0] = 0x2a;
    p[1] = 18;
    p[2] = 0x0b; /* reads CD-R, CD-RW, DVD-ROM */
    p[4] = 0x60; /* mode 2 form 1 and 2 are on the same kind of medium */
    p[6] = (uint8_t)(0x29 | (drive->regs->locked ? 2 : 0)); /* tray, eject, lock */
    put16(p + 8, 7056);                                     /* kB/s */
    put16(p + 12, 512);
    put16(p + 14, 7056);
    return 20;
}

static unsigned page_errors(uint8_t *p)
{
    static const uint8_t page[8] = { 0x01, 6, 0, 5 };
    memcpy(p, page, sizeof page);
    return sizeof page;
}

static unsigned page_device(uint8_t *p)
{
    static const uint8_t page[8] = { 0x0d, 6, 0, 13, 0, 60, 0, FRAMES };
    memcpy(p, page, sizeof page);
    return sizeof page;
}

static void mode_sense(struct ata_drive *drive, struct ata_taskfile *tf, const uint8_t *packet,
                       struct ata_plan *plan)
{
    uint8_t *d = plan->data;
    unsigned page = packet[2] & 0x3f, control = packet[2] >> 6, len = 8;
    bool all = page == 0x3f;
    if (control == 3) { /* saved values: there are none */
        atapi_fail(drive, tf, SENSE_ILLEGAL, 0x39, 0);
        return;
    }
    memset(d, 0, 8);
    if (page == 0x01 || all)
        len += page_errors(d + len);
    if (page == 0x0d || all)
        len += page_device(d + len);
    if (page == 0x2a || all)
        len += page_capabilities(drive, d + len);
    if (len == 8) {
        refuse(drive, tf, ASC_FIELD);
        return;
    }
    if (control == 1) /* what could be changed: nothing */
        for (unsigned at = 8; at < len; at += 2 + d[at + 1])
            memset(d + at + 2, 0, d[at + 1]);
    put16(d, len - 2);
    d[2] = drive->regs->tray_open ? 0x71 : drive->size ? 0x01 : 0x70; /* medium type */
    reply(plan, len, get16(packet + 7));
}

static void mode_select(struct ata_drive *drive, const uint8_t *packet, struct ata_plan *plan)
{
    unsigned len = get16(packet + 7);
    plan->len = len < ATA_DATA_MAX ? len : ATA_DATA_MAX;
    plan->kind = plan->len ? ATA_TAKE : ATA_NO_DATA;
}

/* ---- GET CONFIGURATION ---- */

static unsigned feature(uint8_t *d, unsigned code, bool current, unsigned version, unsigned len)
{
    put16(d, code);
    d[2] = (uint8_t)(version << 2 | 2 | current); /* persistent */
    d[3] = (uint8_t)len;
    memset(d + 4, 0, len);
    return 4 + len;
}

static void get_configuration(struct ata_drive *drive, struct ata_taskfile *tf,
                              const uint8_t *packet, struct ata_plan *plan)
{
    enum { ALL, CURRENT, ONE };
    unsigned how = packet[1] & 3, from = get16(packet + 2), len = 8;
    bool there = medium_there(drive), dvd = there && medium_sectors(drive) > CD_SECTORS_MAX;
    uint8_t *d = plan->data;
    if (how == 3) {
        refuse(drive, tf, ASC_FIELD);
        return;
    }
    memset(d, 0, 8);
    static const uint16_t codes[] = { 0x00, 0x01, 0x02, 0x03, 0x10, 0x1e, 0x1f };
    for (unsigned i = 0; i < ARRAY_LEN(codes); i++) {
        unsigned code = codes[i];
        bool current = code <= 3 || (there && (code == 0x10 || (code == 0x1f) == dvd));
        uint8_t *at = d + len;
        if (how == ONE ? code != from : code < from || (how == CURRENT && !current))
            continue;
        switch (code) {
        case 0x00:
            len += feature(at, code, true, 0, 8);
            put16(at + 4, PROFILE_DVD);
            at[6] = dvd;
            put16(at + 8, PROFILE_CD);
            at[10] = there && !dvd;
            break;
        case 0x01:
            len += feature(at, code, true, 2, 8);
            put32(at + 4, 2); /* ATAPI */
            at[8] = 1;
            break;
        case 0x02: len += feature(at, code, true, 1, 4); break;
        case 0x03:
            len += feature(at, code, true, 0, 4);
            at[4] = 0x29; /* tray, eject, lock */
            break;
        case 0x10:
            len += feature(at, code, current, 0, 8);
            put32(at + 4, ATA_CD_SECTOR);
            put16(at + 8, 1);
            break;
        default: len += feature(at, code, current, code == 0x1e ? 2 : 0, 4);
        }
    }
    put32(d, len - 4);
    put16(d + 6, dvd ? PROFILE_DVD : there ? PROFILE_CD : 0);
    reply(plan, len, get16(packet + 7));
}

/* ---- the tray ---- */

static void get_event(struct ata_drive *drive, struct ata_taskfile *tf, const uint8_t *packet,
                      struct ata_plan *plan)
{
    enum { MEDIA = 4 };
    struct ata_regs *r = drive->regs;
    uint8_t *d = plan->data;
    if (!(packet[1] & 1)) { /* only polled */
        refuse(drive, tf, ASC_FIELD);
        return;
    }
    memset(d, 0, 8);
    d[3] = 1 << MEDIA;
    if (!(packet[4] & 1 << MEDIA)) {
        d[2] = 0x80; /* none of the classes asked for */
        put16(d, 2);
        reply(plan, 4, get16(packet + 7));
        return;
    }
    put16(d, 6);
    d[2] = MEDIA;
    d[4] = r->event;
    d[5] = (uint8_t)(r->tray_open | (drive->size && !r->tray_open ? 2 : 0));
    r->event = ATA_EVENT_NONE;
    reply(plan, 8, get16(packet + 7));
}

static void start_stop(struct ata_drive *drive, struct ata_taskfile *tf, const uint8_t *packet)
{
    enum { START = 1, LOAD_EJECT = 2 };
    struct ata_regs *r = drive->regs;
    if (!(packet[4] & LOAD_EJECT) || packet[4] >> 4)
        return; /* spinning up and down, power */
    if (packet[4] & START) {
        if (r->tray_open && drive->size) {
            r->attention = ASC_CHANGED;
            r->event = ATA_EVENT_NEW;
        }
        r->tray_open = 0;
    } else if (r->locked) {
        atapi_fail(drive, tf, SENSE_ILLEGAL, ASC_LOCKED, ASCQ_LOCKED);
    } else {
        if (!r->tray_open && drive->size)
            r->event = ATA_EVENT_REMOVED;
        r->tray_open = 1;
    }
}

/* ---- the medium ---- */

static void put_address(uint8_t *p, uint32_t lba, bool msf)
{
    if (!msf) {
        put32(p, lba);
        return;
    }
    lba += PREGAP;
    p[0] = 0;
    p[1] = (uint8_t)(lba / FRAMES / 60);
    p[2] = (uint8_t)(lba / FRAMES % 60);
    p[3] = (uint8_t)(lba % FRAMES);
}

/* One data track and the lead-out. */
static void read_toc(struct ata_drive *drive, struct ata_taskfile *tf, const uint8_t *packet,
                     struct ata_plan *plan)
{
    bool msf = packet[1] & 2;
    unsigned format = packet[2] & 15, from = packet[6], len = 4;
    uint8_t *d = plan->data;
    if (!format)
        format = packet[9] >> 6; /* where it was in older versions of the standard */
    memset(d, 0, 20);
    d[2] = d[3] = 1; /* first and last track, or session */
    if (format == 0) {
        if (from > 1 && from != LEAD_OUT) {
            refuse(drive, tf, ASC_FIELD);
            return;
        }
        for (unsigned track = from <= 1 ? 1 : LEAD_OUT; track; len += 8) {
            d[len + 1] = 0x14; /* a data track */
            d[len + 2] = (uint8_t)track;
            put_address(d + len + 4, track == 1 ? 0 : medium_sectors(drive), msf);
            track = track == 1 ? LEAD_OUT : 0;
        }
    } else if (format == 1) {
        d[5] = 0x14;
        d[6] = 1;
        put_address(d + 8, 0, msf);
        len = 12;
    } else {
        refuse(drive, tf, ASC_FIELD);
        return;
    }
    put16(d, len - 2);
    reply(plan, len, get16(packet + 7));
}

static void read_capacity(struct ata_drive *drive, struct ata_plan *plan)
{
    put32(plan->data, medium_sectors(drive) - 1);
    put32(plan->data + 4, ATA_CD_SECTOR);
    reply(plan, 8, 8);
}

static void read_disc_information(struct ata_drive *drive, const uint8_t *packet,
                                  struct ata_plan *plan)
{
    uint8_t *d = plan->data;
    memset(d, 0, 34);
    put16(d, 32);
    d[2] = 0x0e; /* complete, and so is the last session */
    d[3] = d[4] = d[5] = d[6] = 1;
    d[7] = 0x20; /* unrestricted use */
    reply(plan, 34, get16(packet + 7));
}

static void read_sectors(struct ata_drive *drive, struct ata_taskfile *tf, uint32_t lba,
                         uint32_t count, struct ata_plan *plan)
{
    if (!range_fits(lba, count, medium_sectors(drive))) {
        refuse(drive, tf, ASC_RANGE);
        return;
    }
    plan->kind = count ? ATA_READ : ATA_NO_DATA;
    plan->offset = (uint64_t)lba * ATA_CD_SECTOR;
    plan->len = (uint64_t)count * ATA_CD_SECTOR;
}

static void read_cd(struct ata_drive *drive, struct ata_taskfile *tf, const uint8_t *packet,
                    struct ata_plan *plan)
{
    uint32_t count = (uint32_t)packet[6] << 16 | get16(packet + 7);
    unsigned parts = packet[9] & 0xf8;
    if (parts == 0)
        return; /* nothing of the sector */
    if (parts != 0x10)
        refuse(drive, tf, ASC_FIELD); /* more than the user's data */
    else
        read_sectors(drive, tf, get32(packet + 2), count, plan);
}

/* ---- one command ---- */

enum { NEEDS_MEDIUM = 1, DESPITE_ATTENTION = 2, KNOWN = 4 };

static unsigned command_flags(uint8_t command)
{
    switch (command) {
    case 0x03: /* REQUEST SENSE */
    case 0x12: /* INQUIRY */
    case 0x46: /* GET CONFIGURATION */
    case 0x4a: /* GET EVENT STATUS NOTIFICATION */ return KNOWN | DESPITE_ATTENTION;
    case 0x00: /* TEST UNIT READY */
    case 0x25: /* READ CAPACITY */
    case 0x28: /* READ(10) */
    case 0x2b: /* SEEK */
    case 0x43: /* READ TOC */
    case 0x51: /* READ DISC INFORMATION */
    case 0xa8: /* READ(12) */
    case 0xbe: /* READ CD */ return KNOWN | NEEDS_MEDIUM;
    case 0x1b: /* START STOP UNIT */
    case 0x1e: /* PREVENT ALLOW MEDIUM REMOVAL */
    case 0x55: /* MODE SELECT(10) */
    case 0x5a: /* MODE SENSE(10) */
    case 0xbb: /* SET CD SPEED */
    case 0xbd: /* MECHANISM STATUS */ return KNOWN;
    }
    return 0;
}

static bool may_go_on(struct ata_drive *drive, struct ata_taskfile *tf, uint8_t command)
{
    struct ata_regs *r = drive->regs;
    unsigned flags = command_flags(command);
    if (!(flags & DESPITE_ATTENTION) && r->attention) {
        unsigned asc = r->attention;
        r->attention = 0;
        atapi_fail(drive, tf, SENSE_ATTENTION, asc, 0);
        return false;
    }
    if (!(flags & KNOWN)) {
        refuse(drive, tf, ASC_COMMAND);
        return false;
    }
    if ((flags & NEEDS_MEDIUM) && !medium_there(drive)) {
        atapi_fail(drive, tf, SENSE_NOT_READY, ASC_NO_MEDIUM,
                   r->tray_open ? ASCQ_TRAY_OPEN : ASCQ_TRAY_CLOSED);
        return false;
    }
    if (command != 0x03)
        r->sense_key = r->asc = r->ascq = 0;
    return true;
}

void atapi_begin(struct ata_drive *drive, struct ata_taskfile *tf, const uint8_t *packet,
                 struct ata_plan *plan)
{
    tf->count = ATA_REASON_COMMAND | ATA_REASON_IN;
    if (!may_go_on(drive, tf, packet[0]))
        return;
    switch (packet[0]) {
    case 0x03: request_sense(drive, packet, plan); break;
    case 0x12: inquiry(drive, tf, packet, plan); break;
    case 0x1b: start_stop(drive, tf, packet); break;
    case 0x1e: drive->regs->locked = packet[4] & 1; break;
    case 0x25: read_capacity(drive, plan); break;
    case 0x28: read_sectors(drive, tf, get32(packet + 2), get16(packet + 7), plan); break;
    case 0x2b:
        if (get32(packet + 2) >= medium_sectors(drive))
            refuse(drive, tf, ASC_RANGE);
        break;
    case 0x43: read_toc(drive, tf, packet, plan); break;
    case 0x46: get_configuration(drive, tf, packet, plan); break;
    case 0x4a: get_event(drive, tf, packet, plan); break;
    case 0x51: read_disc_information(drive, packet, plan); break;
    case 0x55: mode_select(drive, packet, plan); break;
    case 0x5a: mode_sense(drive, tf, packet, plan); break;
    case 0xa8: read_sectors(drive, tf, get32(packet + 2), get32(packet + 6), plan); break;
    case 0xbd:
        memset(plan->data, 0, 8);
        plan->data[1] = drive->regs->tray_open ? 0x10 : 0;
        reply(plan, 8, get16(packet + 8));
        break;
    case 0xbe: read_cd(drive, tf, packet, plan); break;
    }
}
