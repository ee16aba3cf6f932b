/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * NOR flash with the command set of Intel's 28F (Common Flash Interface, JESD68; command set 1):
 * read array, identifier, query and status; program a byte or a buffer; erase a block.
 *
 * While it reads as an array the memory is mapped as ROM whose writes come here, else all accesses
 * do. Programming clears bits, erasing sets them, as in the real chip.
 *
 * The file follows the contents when the guest goes back to reading the array, which is how drivers
 * end each program or erase operation: the bytes are on disk (fdatasync) before the guest's write
 * returns, so the order of operations is the order on disk, and neither a killed process nor a
 * power cut loses an operation that the guest saw end. This is the one register handler that waits
 * for a disk: a real chip makes its driver wait no less, and firmware polls nothing that could be
 * made to.
 */
#include "devices/pflash.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/text.h"
#include "machine/machine.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PRIORITY = 10, BUFFER_SIZE = 256 };
enum command {
    READ_ARRAY = 0xff,
    READ_ID = 0x90,
    READ_QUERY = 0x98,
    READ_STATUS = 0x70,
    CLEAR_STATUS = 0x50,
    PROGRAM = 0x40,
    PROGRAM_ALTERNATE = 0x10,
    ERASE = 0x20,
    BUFFER = 0xe8,
    LOCK = 0x60,
    CONFIRM = 0xd0,
};
enum { STATUS_READY = 0x80, STATUS_ERASE_ERROR = 0x20, STATUS_PROGRAM_ERROR = 0x10 };
enum { VENDOR_INTEL = 0x89, DEVICE_28F128 = 0x18 };
enum stage { /* what the next write is */
             STAGE_COMMAND,
             STAGE_PROGRAM,
             STAGE_ERASE,
             STAGE_LOCK,
             STAGE_COUNT,
             STAGE_DATA,
             STAGE_CONFIRM
};

struct pflash_regs {
    uint8_t buffer[BUFFER_SIZE];
    uint64_t buffer_start;           /* where in the flash it goes; UINT64_MAX: not known yet */
    uint64_t dirty_start, dirty_end; /* differ from the file; empty: equal ends */
    uint32_t buffer_len, buffer_have;
    uint8_t mode; /* what reads give: READ_ARRAY, READ_ID, READ_QUERY or READ_STATUS */
    uint8_t stage;
    uint8_t status;
    uint8_t reserved[5]; /* zero */
};

struct pflash {
    struct device dev;
    struct pflash_regs regs; /* dev.lock */
    uint64_t gpa;
    struct ram *ram;
    int fd;
    bool array;              /* dev.lock; how it is mapped now */
    struct mapping *mapping; /* dev.lock */
};

/* ---- contents ---- */

static void pflash_changed(struct pflash *flash, uint64_t start, uint64_t len)
{
    struct pflash_regs *regs = &flash->regs;
    if (regs->dirty_start == regs->dirty_end) {
        regs->dirty_start = start;
        regs->dirty_end = start + len;
    }
    if (start < regs->dirty_start)
        regs->dirty_start = start;
    if (start + len > regs->dirty_end)
        regs->dirty_end = start + len;
    ram_written(flash->dev.machine, flash->ram, start, len);
}

static void pflash_sync(struct pflash *flash)
{
    struct pflash_regs *regs = &flash->regs;
    uint64_t start = regs->dirty_start, len = regs->dirty_end - start;
    int r = 0;

    if (flash->fd >= 0 && len) {
        r = pwrite_full(flash->fd, flash->ram->hva + start, len, (off_t)start);
        if (r == 0 && fdatasync(flash->fd) < 0)
            r = -errno;
    }
    if (r < 0) {
        regs->status |= STATUS_PROGRAM_ERROR;
        log_error("%s: the file of UEFI variables cannot be written: %s", flash->dev.id,
                  strerror(-r));
        return; /* the range stays dirty: the next operation tries again */
    }
    regs->dirty_start = regs->dirty_end = 0;
}

static void program(struct pflash *flash, uint64_t at, const uint8_t *data, size_t len)
{
    if (!range_fits(at, len, flash->ram->size)) {
        flash->regs.status |= STATUS_PROGRAM_ERROR;
        return;
    }
    for (size_t i = 0; i < len; i++)
        flash->ram->hva[at + i] &= data[i];
    pflash_changed(flash, at, len);
}

static void erase(struct pflash *flash, uint64_t at)
{
    uint64_t block = round_down(at, PFLASH_BLOCK);
    memset(flash->ram->hva + block, 0xff, PFLASH_BLOCK);
    pflash_changed(flash, block, PFLASH_BLOCK);
}

/* ---- mapping ---- */

static int pflash_map(struct pflash *flash, bool array, struct err *err)
{
    struct machine *m = flash->dev.machine;
    if (flash->mapping && flash->array == array)
        return 0;
    map_remove(m, TAKE(flash->mapping));
    flash->array = array;
    if (!array)
        return map_device(m, SPACE_MEMORY, flash->gpa, flash->ram->size, &flash->dev, 0, PRIORITY,
                          &flash->mapping, err);
    return map_rom_trap(m, SPACE_MEMORY, flash->gpa, flash->ram->size, flash->ram, 0, &flash->dev,
                        0, PRIORITY, &flash->mapping, err);
}

static void pflash_set_mode(struct pflash *flash, enum command mode)
{
    struct err err;
    if (mode == READ_ARRAY)
        pflash_sync(flash);
    flash->regs.mode = (uint8_t)mode;
    if (pflash_map(flash, mode == READ_ARRAY, &err) < 0)
        log_guest("%s: %s", flash->dev.id, err.text);
}

/* ---- reading ---- */

static uint8_t query_byte(const struct pflash *flash, uint64_t offset)
{
    uint64_t blocks = flash->ram->size / PFLASH_BLOCK - 1;
    switch (offset) { /* JESD68, table 1: vendor's set, voltages, timeouts, geometry */
    case 0x10: return 'Q';
    case 0x11: return 'R';
    case 0x12: return 'Y';
    case 0x13: return 1;
    case 0x15: return 0x31;
    case 0x1b: return 0x45;
    case 0x1c: return 0x55;
    case 0x1f: return 7;
    case 0x20: return 7;
    case 0x21: return 10;
    case 0x23: return 4;
    case 0x24: return 4;
    case 0x25: return 4;
    case 0x27: return (uint8_t)(63 - __builtin_clzll(flash->ram->size));
    case 0x2a: return 8; /* a buffer of 256 bytes */
    case 0x2c: return 1;
    case 0x2d: return (uint8_t)blocks;
    case 0x2e: return (uint8_t)(blocks >> 8);
    case 0x2f: return (uint8_t)(PFLASH_BLOCK >> 8);
    case 0x30: return (uint8_t)(PFLASH_BLOCK >> 16);
    case 0x31: return 'P';
    case 0x32: return 'R';
    case 0x33: return 'I';
    case 0x34: return '1';
    case 0x35: return '0';
    default: return 0;
    }
}

static uint8_t read_byte(const struct pflash *flash, uint64_t offset)
{
    switch (flash->regs.mode) {
    case READ_ARRAY: return flash->ram->hva[offset];
    case READ_ID:
        switch (offset & (PFLASH_BLOCK - 1)) {
        case 0: return VENDOR_INTEL;
        case 1: return DEVICE_28F128;
        default: return 0; /* no block is locked */
        }
    case READ_QUERY: return query_byte(flash, offset);
    default: return flash->regs.status;
    }
}

static uint64_t pflash_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    const struct pflash *flash = CONTAINER_OF(dev, struct pflash, dev);
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)read_byte(flash, offset + i) << 8 * i;
    return value;
}

/* ---- writing ---- */

static void write_command(struct pflash *flash, uint64_t offset, uint8_t value)
{
    struct pflash_regs *regs = &flash->regs;
    switch (value) {
    case READ_ARRAY:
    case READ_ID:
    case READ_QUERY:
    case READ_STATUS: pflash_set_mode(flash, (enum command)value); return;
    case CLEAR_STATUS:
        /* With the ready bit, until the next operation ends: by that firmware tells this chip from
         * RAM and ROM. */
        regs->status = 0;
        return;
    case PROGRAM:
    case PROGRAM_ALTERNATE: regs->stage = STAGE_PROGRAM; break;
    case ERASE: regs->stage = STAGE_ERASE; break;
    case LOCK: regs->stage = STAGE_LOCK; break;
    case BUFFER:
        regs->stage = STAGE_COUNT;
        regs->buffer_start = UINT64_MAX;
        break;
    default: pflash_set_mode(flash, READ_ARRAY); return;
    }
    pflash_set_mode(flash, READ_STATUS);
}

/* Data of a buffer lies within one aligned piece of the flash, in any order; what was not written
 * stays as it is. */
static void write_data(struct pflash *flash, uint64_t offset, uint8_t value)
{
    struct pflash_regs *regs = &flash->regs;
    if (regs->buffer_start == UINT64_MAX) {
        regs->buffer_start = round_down(offset, BUFFER_SIZE);
        memset(regs->buffer, 0xff, sizeof regs->buffer);
    }
    if (offset < regs->buffer_start || offset - regs->buffer_start >= BUFFER_SIZE)
        regs->status |= STATUS_PROGRAM_ERROR;
    else
        regs->buffer[offset - regs->buffer_start] = value;
    if (++regs->buffer_have >= regs->buffer_len)
        regs->stage = STAGE_CONFIRM;
}

static void write_byte(struct pflash *flash, uint64_t offset, uint8_t value)
{
    struct pflash_regs *regs = &flash->regs;
    enum stage stage = regs->stage;

    if (stage != STAGE_DATA)
        regs->stage = STAGE_COMMAND;
    switch (stage) {
    case STAGE_COMMAND: write_command(flash, offset, value); break;
    case STAGE_PROGRAM:
        program(flash, offset, &value, 1);
        regs->status |= STATUS_READY;
        break;
    case STAGE_ERASE:
        if (value == CONFIRM)
            erase(flash, offset);
        else
            regs->status |= STATUS_ERASE_ERROR | STATUS_PROGRAM_ERROR;
        regs->status |= STATUS_READY;
        break;
    case STAGE_LOCK: break; /* blocks have no locks: accepted, nothing to do */
    case STAGE_COUNT:
        regs->status |= STATUS_READY;
        regs->buffer_len = value + 1u;
        regs->buffer_have = 0;
        regs->stage = STAGE_DATA;
        break;
    case STAGE_DATA: write_data(flash, offset, value); break;
    case STAGE_CONFIRM:
        if (value == CONFIRM && !(regs->status & STATUS_PROGRAM_ERROR))
            program(flash, regs->buffer_start, regs->buffer, BUFFER_SIZE);
        else
            regs->status |= STATUS_PROGRAM_ERROR;
        regs->status |= STATUS_READY;
        break;
    }
}

static void pflash_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                         uint64_t value)
{
    struct pflash *flash = CONTAINER_OF(dev, struct pflash, dev);
    if (size == 1 || flash->regs.stage != STAGE_DATA) {
        write_byte(flash, offset, (uint8_t)value); /* commands are one byte on a one-byte chip */
        return;
    }
    for (unsigned i = 0; i < size && flash->regs.stage == STAGE_DATA; i++)
        write_byte(flash, offset + i, (uint8_t)(value >> 8 * i));
}

/* ---- life ---- */

/* A chip that loses power in the middle of an operation keeps what was done of it. */
static void pflash_reset(struct device *dev)
{
    struct pflash *flash = CONTAINER_OF(dev, struct pflash, dev);
    LOCKED(&dev->lock);
    flash->regs.stage = STAGE_COMMAND;
    flash->regs.status = STATUS_READY;
    pflash_set_mode(flash, READ_ARRAY);
}

/* The variables are those of the saved state, and so the file's, too. */
static int pflash_loaded(struct device *dev, struct err *err)
{
    struct pflash *flash = CONTAINER_OF(dev, struct pflash, dev);
    LOCKED(&dev->lock);
    if (flash->fd >= 0) {
        int r = pwrite_full(flash->fd, flash->ram->hva, flash->ram->size, 0);
        if (r == 0 && fdatasync(flash->fd) < 0)
            r = -errno;
        if (r < 0)
            return err_errno(err, -r, "the file of UEFI variables cannot be written");
        flash->regs.dirty_start = flash->regs.dirty_end = 0;
    }
    return pflash_map(flash, flash->regs.mode == READ_ARRAY, err);
}

static int pflash_check(const void *state, struct err *err)
{
    const struct pflash_regs *regs = state;
    static const uint8_t none[sizeof regs->reserved];
    bool mode = regs->mode == READ_ARRAY || regs->mode == READ_ID || regs->mode == READ_QUERY ||
                regs->mode == READ_STATUS;
    if (!mode || regs->stage > STAGE_CONFIRM || regs->buffer_len > BUFFER_SIZE ||
        regs->buffer_have > BUFFER_SIZE || regs->dirty_start > regs->dirty_end ||
        memcmp(regs->reserved, none, sizeof none))
        return err_set(err, EINVAL, "the flash cannot be in the saved state");
    return 0;
}

static void pflash_destroy(struct device *dev)
{
    struct pflash *flash = CONTAINER_OF(dev, struct pflash, dev);
    map_remove(dev->machine, flash->mapping);
    device_fini(dev);
    free(flash);
}

static const struct state_field pflash_fields[] = {
    STATE_BYTES(struct pflash_regs, buffer),
    STATE_U64(struct pflash_regs, buffer_start),
    STATE_U64(struct pflash_regs, dirty_start),
    STATE_U64(struct pflash_regs, dirty_end),
    STATE_U32(struct pflash_regs, buffer_len),
    STATE_U32(struct pflash_regs, buffer_have),
    STATE_U8(struct pflash_regs, mode),
    STATE_U8(struct pflash_regs, stage),
    STATE_U8(struct pflash_regs, status),
    STATE_BYTES(struct pflash_regs, reserved),
    STATE_END,
};
static const struct state_desc pflash_state = {
    .name = "pflash",
    .version = 1,
    .base = offsetof(struct pflash, regs),
    .size = sizeof(struct pflash_regs),
    .fields = pflash_fields,
    .check = pflash_check,
};
static const struct device_type pflash_type = {
    .name = "pflash",
    .about = "NOR flash",
    .threads = DEVICE_LOCKED,
    .destroy = pflash_destroy,
    .read = pflash_read,
    .write = pflash_write,
    .reset = pflash_reset,
    .loaded = pflash_loaded,
    .state = &pflash_state,
};

int pflash_create(struct machine *m, const struct pflash_config *config, struct device **out,
                  struct err *err)
{
    struct pflash *flash = calloc(1, sizeof *flash);
    if (!flash)
        return err_set(err, ENOMEM, "out of memory");
    device_init(&flash->dev, m, &pflash_type, config->id);
    AUTO(device_destroy) struct device *dev = &flash->dev;
    flash->gpa = config->gpa;
    flash->ram = config->ram;
    flash->fd = config->fd;
    flash->regs.mode = READ_ARRAY;
    flash->regs.status = STATUS_READY;
    int r = pflash_map(flash, true, err);
    if (r < 0)
        return err_prefix(err, "%s", config->id);
    *out = dev;
    machine_add_device(m, TAKE(dev));
    return 0;
}
