/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fw_cfg after QEMU's specification (docs/specs/fw_cfg), with the DMA interface.
 *
 * A register handler may not touch guest memory, so a DMA request is posted to the loop io/0; the
 * guest waits for the control field to become zero, as the specification wants it to. One request
 * runs at a time. While it is under way (`dma_busy`) the address is part of the state, and it is
 * begun from its start again after a restore: requests only copy, so doing one twice is harmless.
 *
 * Invariant: every item's bytes lie inside `data` (or have a source), checked on loading.
 */
#include "devices/fw_cfg.h"

#include "base/checked.h"
#include "base/log.h"
#include "machine/machine.h"

#include <assert.h>
#include <endian.h>
#include <stdlib.h>
#include <string.h>

enum { REGION_PORTS, REGION_DMA, REGIONS };
enum { KEY_SIGNATURE = 0x00, KEY_FEATURES = 0x01, KEY_DIRECTORY = 0x19, KEY_FIRST_FILE = 0x20 };
enum { KEY_MASK = 0xbfff /* bit 14 asks for write access, which only DMA has */ };
enum { FEATURE_PORTS = 1, FEATURE_DMA = 2 };
enum { DMA_ERROR = 1, DMA_READ = 2, DMA_SKIP = 4, DMA_SELECT = 8, DMA_WRITE = 16 };
enum { ITEMS_MAX = 96, DATA_MAX = 8 << 20, PRIORITY = 10, CHUNK = 4096 };
enum { ITEM_WRITABLE = 1, ITEM_SOURCE = 2 };
#define DMA_SIGNATURE 0x51454d5520434647ull /* "QEMU CFG" */

struct item {
    uint64_t offset; /* in data; of a source: in its file */
    uint64_t len;
    uint16_t key;
    uint8_t flags;
    uint8_t name[61]; /* zero-terminated; empty: no file */
};

struct fw_cfg_regs {
    struct item items[ITEMS_MAX];
    uint8_t *data;
    size_t data_len;
    uint64_t dma_address; /* as written so far; of the request that is under way */
    uint64_t offset;      /* of the next byte of the selected item */
    uint32_t item_count;
    uint16_t key; /* selected */
    uint16_t dma_busy;
};

struct fw_cfg {
    struct device dev;
    struct fw_cfg_regs regs; /* dev.lock */
    bool paused;             /* dev.lock */
    int sources[ITEMS_MAX];  /* descriptor of each item with ITEM_SOURCE; fixed once running */
    struct mapping *maps[REGIONS];
};

static struct fw_cfg *fw_cfg_of(struct device *dev)
{
    return CONTAINER_OF(dev, struct fw_cfg, dev);
}

/* ---- items ---- */

static int item_find(const struct fw_cfg_regs *regs, unsigned key)
{
    for (unsigned i = 0; i < regs->item_count; i++)
        if (regs->items[i].key == key)
            return (int)i;
    return -1;
}

/* Copies bytes of the selected item and moves on; what lies behind its end reads as zeros. */
static void item_read(struct fw_cfg *cfg, uint8_t *out, size_t len)
{
    struct fw_cfg_regs *regs = &cfg->regs;
    int i = item_find(regs, regs->key);

    memset(out, 0, len);
    if (i >= 0 && regs->offset < regs->items[i].len) {
        const struct item *item = &regs->items[i];
        uint64_t there = item->len - regs->offset, n = len < there ? len : there;
        if (!(item->flags & ITEM_SOURCE))
            memcpy(out, regs->data + item->offset + regs->offset, n);
        else if (cfg->sources[i] < 0 ||
                 pread_full(cfg->sources[i], out, n, (off_t)(item->offset + regs->offset)) < 0)
            log_guest("fw_cfg: item %#x cannot be read", regs->key);
    }
    regs->offset += len;
}

static bool item_write(struct fw_cfg *cfg, const uint8_t *data, size_t len)
{
    struct fw_cfg_regs *regs = &cfg->regs;
    int i = item_find(regs, regs->key);

    if (i < 0 || !(regs->items[i].flags & ITEM_WRITABLE) ||
        !range_fits(regs->offset, len, regs->items[i].len))
        return false;
    memcpy(regs->data + regs->items[i].offset + regs->offset, data, len);
    regs->offset += len;
    return true;
}

static void item_select(struct fw_cfg *cfg, unsigned key)
{
    cfg->regs.key = (uint16_t)(key & KEY_MASK);
    cfg->regs.offset = 0;
}

/* ---- DMA: on the loop io/0. The lock is not held while guest memory is touched. ---- */

static int dma_copy(struct fw_cfg *cfg, uint32_t control, uint64_t gpa, uint32_t len)
{
    struct machine *m = cfg->dev.machine;
    uint8_t chunk[CHUNK];

    while (len) {
        uint32_t n = len < CHUNK ? len : CHUNK;
        int r = 0;
        if (control & DMA_WRITE)
            r = mem_read(m, gpa, chunk, n);
        if (r < 0)
            return r;
        {
            LOCKED(&cfg->dev.lock);
            if (control & DMA_READ)
                item_read(cfg, chunk, n);
            else if (!item_write(cfg, chunk, n))
                return -EACCES;
        }
        if (control & DMA_READ)
            r = mem_write(m, gpa, chunk, n);
        if (r < 0)
            return r;
        gpa += n;
        len -= n;
    }
    return 0;
}

static int dma_run(struct fw_cfg *cfg, uint32_t control, uint64_t gpa, uint32_t len)
{
    if (control & DMA_SELECT) {
        LOCKED(&cfg->dev.lock);
        item_select(cfg, control >> 16);
    }
    if (control & (DMA_READ | DMA_WRITE)) {
        if (!range_fits(gpa, len, 1ull << 52))
            return -EFAULT;
        return dma_copy(cfg, control, gpa, len);
    }
    if (control & DMA_SKIP) {
        LOCKED(&cfg->dev.lock);
        cfg->regs.offset += len;
    }
    return 0;
}

static void dma_work(void *arg)
{
    struct fw_cfg *cfg = arg;
    struct machine *m = cfg->dev.machine;
    struct {
        uint32_t control, len;
        uint64_t gpa;
    } request;
    uint64_t at;
    {
        LOCKED(&cfg->dev.lock);
        if (cfg->paused || !cfg->regs.dma_busy)
            return; /* resume posts it again */
        at = cfg->regs.dma_address;
    }
    int r = mem_read(m, at, &request, sizeof request);
    if (r == 0) {
        r = dma_run(cfg, be32toh(request.control), be64toh(request.gpa), be32toh(request.len));
        {
            LOCKED(&cfg->dev.lock);
            cfg->regs.dma_busy = 0;
            cfg->regs.dma_address = 0;
        }
        uint32_t done = htobe32(r < 0 ? DMA_ERROR : 0);
        mem_write(m, at, &done, sizeof done);
    } else {
        LOCKED(&cfg->dev.lock);
        cfg->regs.dma_busy = 0;
        cfg->regs.dma_address = 0;
    }
    if (r < 0)
        log_guest("fw_cfg: a request of the guest failed");
}

/* ---- ports ---- */

static uint64_t dma_read(uint64_t offset, unsigned size)
{
    uint8_t bytes[16] = { 0 };
    uint64_t value = 0, signature = htobe64(DMA_SIGNATURE);
    memcpy(bytes, &signature, sizeof signature);
    memcpy(&value, bytes + (offset & 7), size);
    return value;
}

static void dma_write(struct fw_cfg *cfg, uint64_t offset, unsigned size, uint64_t value)
{
    struct fw_cfg_regs *regs = &cfg->regs;

    if (regs->dma_busy) {
        log_guest("fw_cfg: the guest did not wait for its last request");
        return;
    }
    if (size == 4 && offset == 0) {
        regs->dma_address = (uint64_t)be32toh((uint32_t)value) << 32;
        return;
    }
    if (size == 4 && offset == 4)
        regs->dma_address |= be32toh((uint32_t)value);
    else if (size == 8 && offset == 0)
        regs->dma_address = be64toh(value);
    else
        return;
    regs->dma_busy = 1;
    loop_post(cfg->dev.machine->io_loop, dma_work, cfg);
}

static uint64_t fw_cfg_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct fw_cfg *cfg = fw_cfg_of(dev);
    if (region == REGION_DMA)
        return dma_read(offset, size);
    if (offset == 0)
        return 0; /* the selector is write-only */
    uint8_t byte;
    item_read(cfg, &byte, 1);
    return byte;
}

static void fw_cfg_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                         uint64_t value)
{
    struct fw_cfg *cfg = fw_cfg_of(dev);
    if (region == REGION_DMA)
        dma_write(cfg, offset, size, value);
    else if (offset == 0 && size == 2)
        item_select(cfg, (unsigned)value);
}

/* ---- life ---- */

static void fw_cfg_reset(struct device *dev)
{
    struct fw_cfg *cfg = fw_cfg_of(dev);
    LOCKED(&dev->lock);
    item_select(cfg, 0);
    cfg->regs.dma_address = 0;
    cfg->regs.dma_busy = 0;
    for (unsigned i = 0; i < cfg->regs.item_count; i++) {
        const struct item *item = &cfg->regs.items[i];
        if (item->flags & ITEM_WRITABLE)
            memset(cfg->regs.data + item->offset, 0, item->len);
    }
}

static void fw_cfg_idle(void *arg) {}

/* Afterwards no request runs: one that was posted sees `paused`, one that ran has ended. */
static void fw_cfg_pause(struct device *dev)
{
    struct fw_cfg *cfg = fw_cfg_of(dev);
    {
        LOCKED(&dev->lock);
        cfg->paused = true;
    }
    loop_call(dev->machine->io_loop, fw_cfg_idle, NULL);
}

static void fw_cfg_resume(struct device *dev)
{
    struct fw_cfg *cfg = fw_cfg_of(dev);
    LOCKED(&dev->lock);
    cfg->paused = false;
    if (cfg->regs.dma_busy)
        loop_post(dev->machine->io_loop, dma_work, cfg);
}

static int fw_cfg_check(const void *state, struct err *err)
{
    const struct fw_cfg_regs *regs = state;
    bool good = regs->item_count <= ITEMS_MAX && regs->dma_busy <= 1;
    for (unsigned i = 0; good && i < regs->item_count; i++) {
        const struct item *item = &regs->items[i];
        good = !item->name[sizeof item->name - 1] &&
               ((item->flags & ITEM_SOURCE) ? range_fits(item->offset, item->len, 1ull << 62)
                                            : range_fits(item->offset, item->len, regs->data_len));
    }
    return good ? 0 : err_set(err, EINVAL, "fw_cfg cannot be in the saved state");
}

static void fw_cfg_destroy(struct device *dev)
{
    struct fw_cfg *cfg = fw_cfg_of(dev);
    for (unsigned i = 0; i < REGIONS; i++)
        map_remove(dev->machine, cfg->maps[i]);
    free(cfg->regs.data);
    device_fini(dev);
    free(cfg);
}

/* ---- adding ---- */

static struct item *item_add(struct fw_cfg *cfg, uint16_t key, const void *data, size_t len)
{
    struct fw_cfg_regs *regs = &cfg->regs;
    assert(regs->item_count < ITEMS_MAX && item_find(regs, key) < 0);
    assert(len <= DATA_MAX - regs->data_len);
    uint8_t *grown = realloc(regs->data, regs->data_len + len + 1);
    if (!grown)
        abort();
    regs->data = grown;
    if (data)
        memcpy(grown + regs->data_len, data, len);
    else
        memset(grown + regs->data_len, 0, len);
    cfg->sources[regs->item_count] = -1;
    struct item *item = &regs->items[regs->item_count++];
    *item = (struct item){ .key = key, .offset = regs->data_len, .len = len };
    regs->data_len += len;
    return item;
}

void fw_cfg_add(struct device *dev, uint16_t key, const void *data, size_t len)
{
    item_add(fw_cfg_of(dev), key, data, len);
}

void fw_cfg_add_int(struct device *dev, uint16_t key, uint64_t value, unsigned bytes)
{
    uint64_t little = htole64(value);
    fw_cfg_add(dev, key, &little, bytes);
}

void fw_cfg_add_source(struct device *dev, uint16_t key, int fd, uint64_t offset, uint64_t len)
{
    struct fw_cfg *cfg = fw_cfg_of(dev);
    struct item *item = item_add(cfg, key, NULL, 0);
    item->flags = ITEM_SOURCE;
    item->offset = offset;
    item->len = len;
    cfg->sources[item - cfg->regs.items] = fd;
}

/* The directory has a fixed place for each item that may come, so that adding only fills it in. */
struct directory {
    uint32_t count;
    struct {
        uint32_t len;
        uint16_t key, reserved;
        char name[FW_CFG_NAME_SIZE];
    } files[ITEMS_MAX];
};

static struct item *file_add(struct fw_cfg *cfg, const char *name, const void *data, size_t len)
{
    int at = item_find(&cfg->regs, KEY_DIRECTORY);
    struct directory directory;
    memcpy(&directory, cfg->regs.data + cfg->regs.items[at].offset, sizeof directory);
    uint32_t n = be32toh(directory.count);
    uint16_t key = (uint16_t)(KEY_FIRST_FILE + n);
    assert(strlen(name) < FW_CFG_NAME_SIZE && n < ITEMS_MAX);

    directory.count = htobe32(n + 1);
    directory.files[n].len = htobe32((uint32_t)len);
    directory.files[n].key = htobe16(key);
    strcpy(directory.files[n].name, name);
    memcpy(cfg->regs.data + cfg->regs.items[at].offset, &directory, sizeof directory);
    struct item *item = item_add(cfg, key, data, len);
    strcpy((char *)item->name, name);
    return item;
}

void fw_cfg_add_file(struct device *dev, const char *name, const void *data, size_t len)
{
    file_add(fw_cfg_of(dev), name, data, len);
}

void fw_cfg_add_writable(struct device *dev, const char *name, size_t len)
{
    file_add(fw_cfg_of(dev), name, NULL, len)->flags = ITEM_WRITABLE;
}

bool fw_cfg_read_file(struct device *dev, const char *name, void *out, size_t len)
{
    struct fw_cfg *cfg = fw_cfg_of(dev);
    LOCKED(&dev->lock);
    for (unsigned i = 0; i < cfg->regs.item_count; i++) {
        const struct item *item = &cfg->regs.items[i];
        if (strcmp((const char *)item->name, name) || item->len < len ||
            (item->flags & ITEM_SOURCE))
            continue;
        memcpy(out, cfg->regs.data + item->offset, len);
        return true;
    }
    return false;
}

/* ---- tables ---- */

static const struct state_field item_fields[] = {
    STATE_U64(struct item, offset), STATE_U64(struct item, len),    STATE_U16(struct item, key),
    STATE_U8(struct item, flags),   STATE_BYTES(struct item, name), STATE_END,
};
static const struct state_desc item_state = {
    .name = "fw_cfg-item", .version = 1, .size = sizeof(struct item), .fields = item_fields
};
static const struct state_field fw_cfg_fields[] = {
    STATE_STRUCTS(struct fw_cfg_regs, items, &item_state),
    STATE_VARBYTES(struct fw_cfg_regs, data, data_len, DATA_MAX),
    STATE_U64(struct fw_cfg_regs, dma_address),
    STATE_U64(struct fw_cfg_regs, offset),
    STATE_U32(struct fw_cfg_regs, item_count),
    STATE_U16(struct fw_cfg_regs, key),
    STATE_U16(struct fw_cfg_regs, dma_busy),
    STATE_END,
};
static const struct state_desc fw_cfg_state = {
    .name = "fw_cfg",
    .version = 1,
    .base = offsetof(struct fw_cfg, regs),
    .size = sizeof(struct fw_cfg_regs),
    .fields = fw_cfg_fields,
    .check = fw_cfg_check,
};
static const struct device_type fw_cfg_type = {
    .name = "fw_cfg",
    .about = "what firmware asks for",
    .threads = DEVICE_LOCKED,
    .destroy = fw_cfg_destroy,
    .read = fw_cfg_read,
    .write = fw_cfg_write,
    .reset = fw_cfg_reset,
    .pause = fw_cfg_pause,
    .resume = fw_cfg_resume,
    .state = &fw_cfg_state,
};

int fw_cfg_create(struct machine *m, struct device **out, struct err *err)
{
    static const struct {
        uint16_t port, size;
    } places[REGIONS] = {
        [REGION_PORTS] = { 0x510, 2 },
        [REGION_DMA] = { 0x514, 8 },
    };
    struct fw_cfg *cfg = calloc(1, sizeof *cfg);
    if (!cfg)
        return err_set(err, ENOMEM, "out of memory");
    device_init(&cfg->dev, m, &fw_cfg_type, "fw_cfg");
    AUTO(device_destroy) struct device *dev = &cfg->dev;
    for (unsigned i = 0; i < REGIONS; i++) {
        int r = map_device(m, SPACE_IO, places[i].port, places[i].size, dev, i, PRIORITY,
                           &cfg->maps[i], err);
        if (r < 0)
            return err_prefix(err, "fw_cfg");
    }
    fw_cfg_add(dev, KEY_SIGNATURE, "QEMU", 4);
    fw_cfg_add_int(dev, KEY_FEATURES, FEATURE_PORTS | FEATURE_DMA, 4);
    fw_cfg_add(dev, KEY_DIRECTORY, NULL, sizeof(struct directory));
    *out = dev;
    machine_add_device(m, TAKE(dev));
    return 0;
}
