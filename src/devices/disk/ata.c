/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command layer of ATA hard disks (ATA/ATAPI-8 ACS), and the commands that a packet device
 * shares with them.
 *
 * Left out because no driver of a disk this size needs them: security, SMART (its support bit is
 * off), host protected area, streaming, and the queued commands before NCQ.
 */
#include "devices/disk/ata.h"

#include "base/checked.h"

#include <stdio.h>
#include <string.h>

enum { MULTIPLE_MAX = 16, HEADS = 16, SECTORS = 63, CYLINDERS_MAX = 16383 };
enum { DEVICE_LBA = 0x40, DEVICE_SLAVE = 0x10 };
enum { TRIM_RANGE = 8, TRIM_PER_SECTOR = ATA_SECTOR / TRIM_RANGE, DSM_SECTORS_MAX = 8 };
enum { NCQ_DEPTH = 32, LOG_NCQ_ERROR = 0x10, LOG_DIRECTORY = 0x00 };
#define LBA28_MAX 0x0fffffffull

/* ---- outcomes ---- */

static void ata_ok(struct ata_taskfile *tf)
{
    tf->status = ATA_READY;
    tf->error = 0;
}

static void ata_fail(struct ata_taskfile *tf, struct ata_plan *plan, uint8_t error)
{
    tf->status = ATA_READY | ATA_ERR;
    tf->error = error;
    plan->kind = ATA_NO_DATA;
}

void ata_signature(const struct ata_drive *drive, struct ata_taskfile *tf)
{
    tf->count = 1;
    tf->lba = drive->cdrom ? 0xeb1401 : 0x000001;
    tf->device = 0;
    tf->error = 1;                             /* diagnostics passed */
    tf->status = drive->cdrom ? 0 : ATA_READY; /* a packet device waits for a command first */
}

void ata_reset(struct ata_drive *drive, bool hard)
{
    struct ata_regs *r = drive->regs;
    uint8_t tray = r->tray_open, event = r->event;
    if (!hard) { /* the settings stay; a packet device tells of the reset (SPC-3, 5.6) */
        r->multiple = r->standby = r->ncq_failed = 0;
        r->attention = drive->cdrom ? ASC_RESET : 0;
        r->locked = 0;
        return;
    }
    *r = (struct ata_regs){ .write_cache = 1,
                            .look_ahead = 1,
                            .multiple = MULTIPLE_MAX,
                            .heads = HEADS,
                            .sectors = SECTORS,
                            .dma_mode = 0x45, /* UDMA/100 */
                            .attention = drive->cdrom ? ASC_RESET : 0,
                            .tray_open = tray,
                            .event = event };
}

/* ---- IDENTIFY ---- */

static void put16(uint8_t *data, unsigned word, unsigned value)
{
    data[2 * word] = (uint8_t)value;
    data[2 * word + 1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *data, unsigned word, uint64_t value)
{
    put16(data, word, (unsigned)value & 0xffff);
    put16(data, word + 1, (unsigned)(value >> 16) & 0xffff);
}

/* Text has its bytes swapped in each word and is padded by spaces. */
static void put_text(uint8_t *data, unsigned word, const char *text, unsigned len)
{
    size_t given = strlen(text);
    for (unsigned i = 0; i < len; i++)
        data[2 * word + (i ^ 1)] = i < given ? (uint8_t)text[i] : ' ';
}

static unsigned cylinders(uint64_t sectors, unsigned heads, unsigned per_track)
{
    uint64_t n = heads && per_track ? sectors / (heads * per_track) : 0;
    return n < CYLINDERS_MAX ? (unsigned)n : CYLINDERS_MAX;
}

static void identify_common(const struct ata_drive *drive, uint8_t *d)
{
    const struct ata_regs *r = drive->regs;
    unsigned mode = r->dma_mode & 7;
    put_text(d, 10, drive->serial, ATA_SERIAL_LEN);
    put_text(d, 23, "1.0", 8);
    put_text(d, 27, drive->cdrom ? "BEDPLATE CD-ROM" : "BEDPLATE HARDDISK", ATA_MODEL_LEN);
    put16(d, 53, 7);
    put16(d, 63, 7 | ((r->dma_mode & 0xf8) == 0x20 ? 0x100u << mode : 0));
    put16(d, 64, 3); /* PIO 3 and 4 */
    for (unsigned i = 65; i <= 68; i++)
        put16(d, i, 120); /* cycle times in ns */
    put16(d, 80, 0x1f0);  /* ATA 4 to 8 */
    put16(d, 88, 0x3f | ((r->dma_mode & 0xf8) == 0x40 ? 0x100u << mode : 0));
    put16(d, 93, drive->sata ? 0 : 0x6001 | 0x2000); /* an 80-wire cable */
    if (drive->sata)
        put16(d, 76, 0x0006 | (drive->cdrom ? 0 : 0x100)); /* 1.5 and 3 Gbit/s; NCQ */
    put16(d, 222, drive->sata ? 0x1010 : 0x0010);          /* transport: SATA 2.5, or parallel */
}

static void identify_disk(const struct ata_drive *drive, uint8_t *d)
{
    const struct ata_regs *r = drive->regs;
    uint64_t sectors = drive->size / ATA_SECTOR;
    uint64_t lba28 = sectors < LBA28_MAX ? sectors : LBA28_MAX;
    unsigned now = cylinders(sectors, r->heads, r->sectors);

    put16(d, 0, 0x0040);
    put16(d, 1, cylinders(sectors, HEADS, SECTORS));
    put16(d, 3, HEADS);
    put16(d, 6, SECTORS);
    put16(d, 47, 0x8000 | MULTIPLE_MAX);
    put16(d, 49, 0x0f00); /* LBA, DMA, IORDY */
    put16(d, 50, 0x4000);
    put16(d, 54, now);
    put16(d, 55, r->heads);
    put16(d, 56, r->sectors);
    put32(d, 57, (uint64_t)now * r->heads * r->sectors);
    put16(d, 59, r->multiple ? 0x100 | r->multiple : 0);
    put32(d, 60, lba28);
    put16(d, 75, NCQ_DEPTH - 1);
    /* Commands: look-ahead and write cache, flush and flush ext, 48-bit, and FUA. */
    unsigned features = 0x0060 | (drive->cdrom ? 0x10 : 0);
    put16(d, 69, 0x4020); /* TRIM is deterministic, but not zeros */
    put16(d, 82, features);
    put16(d, 83, 0x7400);
    put16(d, 84, 0x4040);
    put16(d, 85, (r->write_cache ? 0x20u : 0) | (r->look_ahead ? 0x40u : 0));
    put16(d, 86, 0x3400);
    put16(d, 87, 0x4040);
    put32(d, 100, sectors);
    put32(d, 102, sectors >> 32);
    put16(d, 105, DSM_SECTORS_MAX);
    put16(d, 106, 0x6003);                  /* eight logical sectors to a physical one */
    put16(d, 169, drive->readonly ? 0 : 1); /* TRIM */
    put16(d, 217, 1);                       /* does not rotate */
}

static void identify_packet(const struct ata_drive *drive, uint8_t *d)
{
    put16(d, 0, 0x85c0); /* CD-ROM, removable, 12-byte packets, fast DRQ */
    put16(d, 49, 0x0f00);
    put16(d, 82, 0x0210); /* packets, DEVICE RESET */
    put16(d, 83, 0x4000);
    put16(d, 84, 0x4000);
    put16(d, 85, 0x0210);
    put16(d, 87, 0x4000);
}

static void plan_reply(struct ata_plan *plan, unsigned len)
{
    plan->kind = ATA_REPLY;
    plan->len = len;
    plan->pio = true;
    plan->drq_sectors = 1;
}

static void ata_identify(struct ata_drive *drive, struct ata_plan *plan)
{
    memset(plan->data, 0, ATA_SECTOR);
    identify_common(drive, plan->data);
    if (drive->cdrom)
        identify_packet(drive, plan->data);
    else
        identify_disk(drive, plan->data);
    uint8_t sum = 0;
    plan->data[510] = 0xa5;
    for (unsigned i = 0; i < 511; i++)
        sum = (uint8_t)(sum + plan->data[i]);
    plan->data[511] = (uint8_t)-sum;
    plan_reply(plan, ATA_SECTOR);
}

/* ---- addresses ---- */

/* In the sense of the task file: LBA, or cylinder, head and sector. UINT64_MAX: no such place. */
static uint64_t ata_lba(const struct ata_drive *drive, const struct ata_taskfile *tf, bool ext)
{
    const struct ata_regs *r = drive->regs;
    if (ext)
        return tf->lba & 0xffffffffffff;
    if (tf->device & DEVICE_LBA)
        return (tf->lba & 0xffffff) | (uint64_t)(tf->device & 15) << 24;
    unsigned sector = tf->lba & 0xff, head = tf->device & 15;
    uint64_t cylinder = tf->lba >> 8 & 0xffff;
    if (!sector || sector > r->sectors || head >= r->heads)
        return UINT64_MAX;
    return (cylinder * r->heads + head) * r->sectors + sector - 1;
}

static bool plan_range(const struct ata_drive *drive, struct ata_plan *plan, uint64_t lba,
                       uint64_t count)
{
    if (!range_fits(lba, count, drive->size / ATA_SECTOR))
        return false;
    plan->offset = lba * ATA_SECTOR;
    plan->len = count * ATA_SECTOR;
    return true;
}

static uint64_t ata_count(const struct ata_taskfile *tf, bool ext)
{
    uint64_t count = ext ? tf->count : tf->count & 0xff;
    return count ? count : ext ? 65536 : 256;
}

/* ---- READ and WRITE ---- */

enum { RW_WRITE = 1, RW_EXT = 2, RW_PIO = 4, RW_MULTIPLE = 8, RW_FUA = 16, RW_VERIFY = 32 };

static void ata_rw(struct ata_drive *drive, struct ata_taskfile *tf, struct ata_plan *plan,
                   unsigned flags)
{
    bool write = flags & RW_WRITE, ext = flags & RW_EXT;
    if ((flags & RW_MULTIPLE) && !drive->regs->multiple) {
        ata_fail(tf, plan, ATA_ABRT);
        return;
    }
    if (!plan_range(drive, plan, ata_lba(drive, tf, ext), ata_count(tf, ext))) {
        ata_fail(tf, plan, ATA_IDNF);
        return;
    }
    if (write && drive->readonly) {
        ata_fail(tf, plan, ATA_ABRT);
        return;
    }
    if (flags & RW_VERIFY) /* the bytes need not be looked at: a bad sector shows when it is read */
        return;
    plan->kind = write ? ATA_WRITE : ATA_READ;
    plan->pio = flags & RW_PIO;
    plan->drq_sectors = flags & RW_MULTIPLE ? drive->regs->multiple : 1;
    plan->fua = write && ((flags & RW_FUA) || !drive->regs->write_cache);
}

static void ata_fpdma(struct ata_drive *drive, struct ata_taskfile *tf, struct ata_plan *plan,
                      bool write)
{
    uint64_t count = tf->features ? tf->features : 65536;
    if (!drive->sata) {
        ata_fail(tf, plan, ATA_ABRT);
        return;
    }
    plan->ncq = true;
    plan->tag = (uint8_t)(tf->count >> 3 & 31);
    if (!plan_range(drive, plan, tf->lba & 0xffffffffffff, count)) {
        ata_fail(tf, plan, ATA_IDNF);
        return;
    }
    if (write && drive->readonly) {
        ata_fail(tf, plan, ATA_ABRT);
        return;
    }
    plan->kind = write ? ATA_WRITE : ATA_READ;
    plan->fua = write && ((tf->device & 0x80) || !drive->regs->write_cache);
}

/* ---- the rest ---- */

static void ata_trim(struct ata_drive *drive, struct ata_taskfile *tf, struct ata_plan *plan)
{
    if ((tf->features & 0xff) != 1 || !tf->count || tf->count > DSM_SECTORS_MAX ||
        drive->readonly) {
        ata_fail(tf, plan, ATA_ABRT);
        return;
    }
    plan->kind = ATA_TAKE;
    plan->len = (uint64_t)tf->count * ATA_SECTOR;
}

int ata_take(struct ata_drive *drive, struct ata_plan *plan)
{
    if (plan->packet)
        return 0; /* MODE SELECT: nothing of ours can be set */
    uint64_t sectors = drive->size / ATA_SECTOR;
    for (unsigned i = 0; i < plan->len / TRIM_RANGE; i++) {
        uint64_t entry;
        memcpy(&entry, plan->data + i * TRIM_RANGE, sizeof entry);
        if (!range_fits(entry & 0xffffffffffff, entry >> 48, sectors))
            return -EINVAL;
    }
    plan->kind = ATA_TRIM;
    return 0;
}

/* ACS 9.23: the log directory, and page 10h about the NCQ command that failed. */
static void ata_read_log(struct ata_drive *drive, struct ata_taskfile *tf, struct ata_plan *plan,
                         bool pio)
{
    struct ata_regs *r = drive->regs;
    unsigned log = tf->lba & 0xff, page = (unsigned)(tf->lba >> 8 & 0xff) | (tf->lba >> 32 & 0xff);
    uint8_t *d = plan->data;
    memset(d, 0, ATA_SECTOR);
    if (page || tf->count != 1 || (log != LOG_DIRECTORY && log != LOG_NCQ_ERROR)) {
        ata_fail(tf, plan, ATA_ABRT);
        return;
    }
    plan_reply(plan, ATA_SECTOR);
    plan->pio = pio;
    if (log == LOG_DIRECTORY) {
        d[0] = 1; /* version */
        d[2 * LOG_NCQ_ERROR] = 1;
        return;
    }
    d[0] = r->ncq_failed ? r->ncq_tag : 0x80;
    d[2] = r->ncq_status;
    d[3] = r->ncq_error;
    for (unsigned i = 0; i < 3; i++) {
        d[4 + i] = (uint8_t)(r->ncq_lba >> 8 * i);
        d[8 + i] = (uint8_t)(r->ncq_lba >> (24 + 8 * i));
    }
    d[7] = DEVICE_LBA;
    uint8_t sum = 0;
    for (unsigned i = 0; i < 511; i++)
        sum = (uint8_t)(sum + d[i]);
    d[511] = (uint8_t)-sum;
    r->ncq_failed = 0;
}

static bool ata_set_features(struct ata_drive *drive, const struct ata_taskfile *tf)
{
    struct ata_regs *r = drive->regs;
    unsigned mode = tf->count & 0xff;
    switch (tf->features & 0xff) {
    case 0x02: r->write_cache = 1; return true;
    case 0x82: r->write_cache = 0; return true;
    case 0xaa: r->look_ahead = 1; return true;
    case 0x55: r->look_ahead = 0; return true;
    case 0x66: /* defaults after reset: kept, or not */
    case 0xcc: return true;
    case 0x05: /* power management, acoustics: there is nothing to turn */
    case 0x85:
    case 0x42:
    case 0xc2: return !drive->cdrom;
    case 0x10: /* SATA features: none */
    case 0x90: return drive->sata;
    case 0x03:
        if (mode <= 0x0c)
            return true; /* PIO modes */
        if ((mode & 0xf8) == 0x20 ? (mode & 7) > 2 : (mode & 0xf8) != 0x40 || (mode & 7) > 5)
            return false;
        r->dma_mode = (uint8_t)mode;
        return true;
    }
    return false;
}

static void ata_native_max(struct ata_drive *drive, struct ata_taskfile *tf, bool ext)
{
    uint64_t last = drive->size / ATA_SECTOR - 1;
    if (ext) {
        tf->lba = last;
        return;
    }
    last = last < LBA28_MAX ? last : LBA28_MAX;
    tf->lba = last & 0xffffff;
    tf->device = (uint8_t)((tf->device & 0xf0) | last >> 24);
}

static bool ata_init_parameters(struct ata_drive *drive, const struct ata_taskfile *tf)
{
    uint8_t sectors = (uint8_t)tf->count, heads = (uint8_t)((tf->device & 15) + 1);
    if (!sectors)
        return false;
    drive->regs->heads = heads;
    drive->regs->sectors = sectors;
    return true;
}

static bool ata_set_multiple(struct ata_drive *drive, unsigned count)
{
    if (count > MULTIPLE_MAX || (count && !is_power_of_two(count)))
        return false;
    drive->regs->multiple = (uint8_t)count;
    return true;
}

/* What both kinds of device know. False: something else. */
static bool begin_common(struct ata_drive *drive, struct ata_taskfile *tf, struct ata_plan *plan)
{
    struct ata_regs *r = drive->regs;
    bool fine = true;
    switch (tf->command) {
    case 0x90: /* EXECUTE DEVICE DIAGNOSTIC */
        ata_signature(drive, tf);
        tf->status = ATA_READY;
        return true;
    case 0xef: fine = ata_set_features(drive, tf); break;
    case 0x94: /* STANDBY, IDLE, SLEEP by their names old and new */
    case 0x96:
    case 0x99:
    case 0xe0:
    case 0xe2:
    case 0xe6: r->standby = 1; break;
    case 0x95:
    case 0x97:
    case 0xe1:
    case 0xe3: r->standby = 0; break;
    case 0x98:
    case 0xe5: tf->count = r->standby ? 0x00 : 0xff; break; /* CHECK POWER MODE */
    case 0xe7:
    case 0xea: plan->kind = drive->size && !drive->readonly ? ATA_FLUSH : ATA_NO_DATA; break;
    default: return false;
    }
    if (!fine)
        ata_fail(tf, plan, ATA_ABRT);
    return true;
}

static void begin_disk(struct ata_drive *drive, struct ata_taskfile *tf, struct ata_plan *plan)
{
    bool fine = true;
    switch (tf->command) {
    case 0xec: ata_identify(drive, plan); break;
    case 0x20:
    case 0x21: ata_rw(drive, tf, plan, RW_PIO); break;
    case 0x24: ata_rw(drive, tf, plan, RW_PIO | RW_EXT); break;
    case 0xc4: ata_rw(drive, tf, plan, RW_PIO | RW_MULTIPLE); break;
    case 0x29: ata_rw(drive, tf, plan, RW_PIO | RW_MULTIPLE | RW_EXT); break;
    case 0xc8:
    case 0xc9: ata_rw(drive, tf, plan, 0); break;
    case 0x25: ata_rw(drive, tf, plan, RW_EXT); break;
    case 0x30:
    case 0x31: ata_rw(drive, tf, plan, RW_WRITE | RW_PIO); break;
    case 0x34: ata_rw(drive, tf, plan, RW_WRITE | RW_PIO | RW_EXT); break;
    case 0xc5: ata_rw(drive, tf, plan, RW_WRITE | RW_PIO | RW_MULTIPLE); break;
    case 0x39: ata_rw(drive, tf, plan, RW_WRITE | RW_PIO | RW_MULTIPLE | RW_EXT); break;
    case 0xce: ata_rw(drive, tf, plan, RW_WRITE | RW_PIO | RW_MULTIPLE | RW_EXT | RW_FUA); break;
    case 0xca:
    case 0xcb: ata_rw(drive, tf, plan, RW_WRITE); break;
    case 0x35: ata_rw(drive, tf, plan, RW_WRITE | RW_EXT); break;
    case 0x3d: ata_rw(drive, tf, plan, RW_WRITE | RW_EXT | RW_FUA); break;
    case 0x40:
    case 0x41: ata_rw(drive, tf, plan, RW_VERIFY); break;
    case 0x42: ata_rw(drive, tf, plan, RW_VERIFY | RW_EXT); break;
    case 0x60: ata_fpdma(drive, tf, plan, false); break;
    case 0x61: ata_fpdma(drive, tf, plan, true); break;
    case 0x06: ata_trim(drive, tf, plan); break;
    case 0x2f: ata_read_log(drive, tf, plan, true); break;
    case 0x47: ata_read_log(drive, tf, plan, false); break;
    case 0x27: ata_native_max(drive, tf, true); break;
    case 0xf8: ata_native_max(drive, tf, false); break;
    case 0x91: fine = ata_init_parameters(drive, tf); break;
    case 0xc6: fine = ata_set_multiple(drive, tf->count & 0xff); break;
    case 0x10: /* RECALIBRATE, SEEK: nothing moves */
    case 0x70: break;
    default: fine = false;
    }
    if (!fine)
        ata_fail(tf, plan, ATA_ABRT);
}

static void begin_packet_device(struct ata_drive *drive, struct ata_taskfile *tf,
                                const uint8_t *packet, struct ata_plan *plan)
{
    switch (tf->command) {
    case ATA_CMD_PACKET:
        plan->packet = true;
        if (packet)
            atapi_begin(drive, tf, packet, plan);
        break;
    case 0xa1: ata_identify(drive, plan); break;
    case ATA_CMD_DEVICE_RESET:
        ata_signature(drive, tf);
        tf->status = 0;
        break;
    case 0xec: /* this is how hosts find out (ACS 7.12.3) */
    case 0x20:
        ata_signature(drive, tf);
        ata_fail(tf, plan, ATA_ABRT);
        break;
    default: ata_fail(tf, plan, ATA_ABRT);
    }
}

void ata_begin(struct ata_drive *drive, struct ata_taskfile *tf, const uint8_t *packet,
               struct ata_plan *plan)
{
    plan->kind = ATA_NO_DATA;
    plan->pio = plan->packet = plan->ncq = plan->fua = false;
    plan->drq_sectors = 1;
    plan->tag = 0;
    plan->offset = plan->len = 0;
    ata_ok(tf);
    if (begin_common(drive, tf, plan))
        return;
    if (drive->cdrom)
        begin_packet_device(drive, tf, packet, plan);
    else
        begin_disk(drive, tf, plan);
}

void ata_end(struct ata_drive *drive, struct ata_taskfile *tf, const struct ata_plan *plan,
             int result)
{
    if (plan->packet) {
        tf->count = ATA_REASON_COMMAND | ATA_REASON_IN;
        if (result < 0)
            atapi_fail(drive, tf, result == -EFAULT ? SENSE_HARDWARE : SENSE_MEDIUM,
                       result == -EFAULT ? 0x47 : 0x11, 0);
        else
            ata_ok(tf);
        return;
    }
    if (result == 0) {
        ata_ok(tf);
        return;
    }
    tf->status = ATA_READY | ATA_ERR;
    tf->error = plan->kind == ATA_READ && result != -EFAULT ? ATA_UNC : ATA_ABRT;
    if (plan->kind == ATA_READ || plan->kind == ATA_WRITE)
        tf->lba = plan->offset / ATA_SECTOR;
    if (plan->ncq) {
        struct ata_regs *r = drive->regs;
        r->ncq_failed = 1;
        r->ncq_tag = plan->tag;
        r->ncq_status = tf->status;
        r->ncq_error = tf->error;
        r->ncq_lba = tf->lba;
    }
}

/* ---- state ---- */

int ata_check(const struct ata_regs *r, struct err *err)
{
    if (r->multiple > MULTIPLE_MAX || !r->heads || r->heads > HEADS || !r->sectors ||
        r->write_cache > 1 || r->look_ahead > 1 || r->locked > 1 || r->tray_open > 1 ||
        r->event > ATA_EVENT_REMOVED || r->ncq_tag > 31)
        return err_set(err, EINVAL, "the disk drive cannot be in the saved state");
    return 0;
}

static const struct state_field ata_fields[] = {
    STATE_U64(struct ata_regs, ncq_lba),
    STATE_U8(struct ata_regs, write_cache),
    STATE_U8(struct ata_regs, look_ahead),
    STATE_U8(struct ata_regs, multiple),
    STATE_U8(struct ata_regs, heads),
    STATE_U8(struct ata_regs, sectors),
    STATE_U8(struct ata_regs, dma_mode),
    STATE_U8(struct ata_regs, standby),
    STATE_U8(struct ata_regs, sense_key),
    STATE_U8(struct ata_regs, asc),
    STATE_U8(struct ata_regs, ascq),
    STATE_U8(struct ata_regs, attention),
    STATE_U8(struct ata_regs, locked),
    STATE_U8(struct ata_regs, tray_open),
    STATE_U8(struct ata_regs, event),
    STATE_U8(struct ata_regs, ncq_failed),
    STATE_U8(struct ata_regs, ncq_tag),
    STATE_U8(struct ata_regs, ncq_status),
    STATE_U8(struct ata_regs, ncq_error),
    STATE_BYTES(struct ata_regs, reserved),
    STATE_END,
};
const struct state_desc ata_state = {
    .name = "ata",
    .version = 1,
    .size = sizeof(struct ata_regs),
    .fields = ata_fields,
};
