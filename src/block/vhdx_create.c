/* SPDX-License-Identifier: GPL-2.0-or-later */
/* VHDX: new images, and the name of a parent in a differencing one (vhdx.h). */
#include "block/vhdx.h"

#include "base/checked.h"
#include "base/text.h"
#include "block/bytes.h"

#include <inttypes.h>
#include <string.h>

/* ---- naming a parent ---- */

/* The parent locator for a parent, into `data`: its length, or -errno. */
static int locator_make(const char *path, const char *name, uint8_t *data, size_t room,
                        struct err *err)
{
    AUTO(free) char *full = image_child_path(path, name), *windows = NULL;
    if (!full)
        return err_set(err, ENOMEM, "out of memory");
    struct image_options options = {
        .path = full, .format = "vhdx", .readonly = true, .no_backing = true
    };
    AUTO(image_drop) struct image *parent = NULL;
    char id[40];
    int r = image_open(&options, &parent, err);
    if (r < 0)
        return err_prefix(err, "backing file");
    vhdx_guid_print(vhdx_of(parent)->header + HEAD_DATA_GUID, id);
    if (asprintf(&windows, "%s%s", name[0] == '/' ? "" : "./", name) < 0)
        return err_set(err, ENOMEM, "out of memory");
    for (char *p = windows; *p; p++)
        *p = *p == '/' ? '\\' : *p;
    const char *texts[][2] = { { "parent_linkage", id }, { "relative_path", windows } };
    memset(data, 0, room);
    memcpy(data, locator_vhdx, 16);
    set_le16(data + 18, ARRAY_LEN(texts));
    size_t at = 20 + 12 * ARRAY_LEN(texts);
    for (unsigned i = 0; i < ARRAY_LEN(texts); i++)
        for (unsigned k = 0; k < 2; k++) {
            size_t len = utf16le_from_utf8(texts[i][k], data + at, room - at);
            if (room - at < 8 ||
                len < strlen(texts[i][k])) /* it takes two bytes a byte, or fewer */
                return err_set(err, ENAMETOOLONG, "its backing file's name is too long for a VHDX");
            set_le32(data + 20 + 12 * i + 4 * k, (uint32_t)at);
            set_le16(data + 20 + 12 * i + 8 + 2 * k, (uint16_t)len);
            at += len;
        }
    return (int)at;
}

/* A page of the metadata's room for items that no item uses: its offset in the region, or 0. */
static uint32_t metadata_free_page(const struct vhdx *vhdx, const uint8_t *table)
{
    for (uint64_t at = METADATA_LEN; range_fits(at, VHDX_PAGE, vhdx->metadata_len);
         at += VHDX_PAGE) {
        bool used = false;
        for (uint32_t i = 0, count = le16(table + 10); i < count && i < MAX_REGIONS; i++) {
            const uint8_t *e = table + 32 + 32 * i;
            used |= ranges_overlap(at, VHDX_PAGE, le32(e + ITEM_OFFSET), le32(e + ITEM_LEN));
        }
        if (!used)
            return (uint32_t)at;
    }
    return 0;
}

/* The new locator lies in a page of its own; the table's page that points to it is one change. */
int vhdx_set_backing(struct image *image, const char *backing, const char *format, struct err *err)
{
    struct vhdx *vhdx = vhdx_of(image);
    if (!vhdx->has_parent)
        return err_set(err, ENOTSUP, "is no differencing VHDX, so it can have no backing file");
    if (!backing || strcmp(format, "vhdx"))
        return err_set(err, ENOTSUP, "a differencing VHDX has to have a VHDX below it; convert it");
    AUTO(free) uint8_t *table = malloc(METADATA_LEN);
    struct vhdx_page pages[2];
    if (!table)
        return err_set(err, ENOMEM, "out of memory");
    int len = locator_make(image->path, backing, pages[0].data, VHDX_PAGE, err);
    if (len < 0)
        return len;
    int r = store_read(image->store, table, METADATA_LEN, vhdx->metadata_at);
    uint8_t *e = r == 0 ? vhdx_item(vhdx, table, item_locator) : NULL;
    uint32_t place = metadata_free_page(vhdx, table);
    if (!e || !place)
        return err_set(err, ENOSPC, "has no room for another parent's name");
    set_le32(e + ITEM_OFFSET, place);
    set_le32(e + ITEM_LEN, (uint32_t)len);
    uint64_t page = round_down((uint64_t)(e - table), VHDX_PAGE);
    pages[0].offset = vhdx->metadata_at + place;
    pages[1].offset = vhdx->metadata_at + page;
    memcpy(pages[1].data, table + page, VHDX_PAGE);
    r = vhdx_touch(vhdx);
    if (r == 0)
        r = flat_flush(image);
    if (r == 0)
        r = store_flush(image->store); /* step 1 */
    if (r == 0)
        r = vhdx_commit_pages(vhdx, pages, 2);
    return r < 0 ? err_errno(err, -r, "cannot write its metadata") : 0;
}

/* ---- creating ---- */

struct plan {
    uint64_t size, block, log_len, bat_len, data_at;
    uint64_t blocks, chunk, bitmaps;
    bool fixed, zero;
    const char *backing;
};

/* As other programs choose it: few blocks for large disks. */
static uint64_t default_block(const struct image_create *create)
{
    if (create->backing)
        return 2 << 20;
    return create->size > 32ull << 40    ? 64 << 20
           : create->size > 100ull << 30 ? 32 << 20
           : create->size > 1ull << 30   ? 16 << 20
                                         : 8 << 20;
}

static int plan_option(const struct image_create *create, const char *name, uint64_t min,
                       uint64_t max, uint64_t *out, struct err *err)
{
    char text[32];
    if (!image_option_get(create->options, name, text, sizeof text))
        return 0;
    int r = size_parse(text, 1, out, err);
    if (r < 0)
        return err_prefix(err, "%s", name);
    if (!*out) /* "0: choose" */
        *out = min;
    if (*out < min || *out > max || *out % VHDX_MIB)
        return err_set(err, EINVAL, "%s=%s: there is from %" PRIu64 "M to %" PRIu64 "M, in MiB",
                       name, text, min >> 20, max >> 20);
    return 0;
}

static int plan_make(const struct image_create *create, struct plan *p, struct err *err)
{
    char kind[16] = "dynamic", zero[8] = "on";
    *p = (struct plan){ .size = create->size, .log_len = VHDX_MIB, .backing = create->backing };
    p->block = default_block(create);
    image_option_get(create->options, "subformat", kind, sizeof kind);
    image_option_get(create->options, "block_state_zero", zero, sizeof zero);
    p->fixed = !strcmp(kind, "fixed");
    p->zero = !strcmp(zero, "on") && !create->backing;
    if (!p->fixed && strcmp(kind, "dynamic"))
        return err_set(err, EINVAL, "subformat=%s: there is fixed and dynamic", kind);
    if (strcmp(zero, "on") && strcmp(zero, "off"))
        return err_set(err, EINVAL, "block_state_zero=%s: there is on and off", zero);
    if (p->fixed && create->backing)
        return err_set(err, EINVAL, "a fixed VHDX has no backing file; leave subformat=fixed away");
    if (create->size > VHDX_MAX_SIZE || create->size % 512)
        return err_set(err, EFBIG, "a VHDX has at most 64 TiB, in sectors of 512 bytes; use qcow2");
    int r = plan_option(create, "log_size", VHDX_MIB, VHDX_LOG_MAX, &p->log_len, err);
    if (r == 0)
        r = plan_option(create, "block_size", VHDX_MIB, 256 << 20, &p->block, err);
    if (r == 0 && !is_power_of_two(p->block))
        r = err_set(err, EINVAL, "block_size=%" PRIu64 "M is no power of two", p->block >> 20);
    if (r < 0)
        return r;
    p->blocks = create->size / p->block + !!(create->size % p->block);
    if (p->blocks > FLAT_MAX_BLOCKS)
        return err_set(err, EFBIG, "block_size=%" PRIu64 "M is too small for this size",
                       p->block >> 20);
    p->chunk = (1ull << 23) * 512 / p->block;
    p->bat_len = round_up((p->blocks + p->blocks / p->chunk + 2) * 8 + p->chunk * 8, VHDX_MIB);
    /* One sector bitmap for each chunk, without a bit set: other readers look at it for blocks that
     * are not there. */
    p->bitmaps = create->backing ? (p->blocks + p->chunk - 1) / p->chunk : 0;
    p->data_at = VHDX_MIB + p->log_len + VHDX_MIB + p->bat_len + p->bitmaps * VHDX_MIB;
    return 0;
}

/* [identifier], headers, regions: the first MiB. */
static int create_front(const struct plan *p, uint8_t *front, struct err *err)
{
    static const char creator[] = "bedplate";
    memcpy(front, "vhdxfile", 8);
    utf16le_from_utf8(creator, front + 8, 512);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *h = front + (i ? HEADER_2 : HEADER_1);
        memcpy(h, "head", 4);
        set_le64(h + HEAD_SEQUENCE, i + 1);
        if (vhdx_guid_make(h + HEAD_FILE_GUID) < 0 || vhdx_guid_make(h + HEAD_DATA_GUID) < 0)
            return err_set(err, EIO, "the host gives no random numbers");
        if (i) { /* the same ids in both */
            memcpy(h + HEAD_FILE_GUID, front + HEADER_1 + HEAD_FILE_GUID, 32);
        }
        set_le16(h + HEAD_VERSION, 1);
        set_le32(h + HEAD_LOG_LEN, (uint32_t)p->log_len);
        set_le64(h + HEAD_LOG, VHDX_MIB);
        set_le32(h + HEAD_CHECKSUM, crc32c_without(h, VHDX_HEADER_LEN, HEAD_CHECKSUM));
        uint8_t *t = front + (i ? REGIONS_2 : REGIONS_1);
        memcpy(t, "regi", 4);
        set_le32(t + 8, 2);
        memcpy(t + 16, region_bat, 16);
        set_le64(t + 32, VHDX_MIB + p->log_len + VHDX_MIB);
        set_le32(t + 40, (uint32_t)p->bat_len);
        set_le32(t + 44, 1);
        memcpy(t + 48, region_metadata, 16);
        set_le64(t + 64, VHDX_MIB + p->log_len);
        set_le32(t + 72, VHDX_MIB);
        set_le32(t + 76, 1);
        set_le32(t + 4, crc32c_without(t, REGIONS_LEN, 4));
    }
    return 0;
}

static uint8_t *create_item(uint8_t *area, const guid which, uint32_t len, uint32_t flags)
{
    uint32_t n = le16(area + 10), at = METADATA_LEN + n * 64;
    uint8_t *e = area + 32 + 32 * n;
    memcpy(e, which, 16);
    set_le32(e + ITEM_OFFSET, at);
    set_le32(e + ITEM_LEN, len);
    set_le32(e + ITEM_FLAGS, flags);
    set_le16(area + 10, (uint16_t)(n + 1));
    return area + at;
}

/* The table and the items, 128 KiB together; a locator takes the last page of it. */
static int create_metadata(const struct plan *p, const char *path, uint8_t *area, struct err *err)
{
    memcpy(area, "metadata", 8);
    uint8_t *item = create_item(area, item_parameters, 8, ITEM_IS_REQUIRED);
    set_le32(item, (uint32_t)p->block);
    set_le32(item + 4, (p->fixed ? PARAM_FIXED : 0) | (p->backing ? PARAM_PARENT : 0));
    item = create_item(area, item_size, 8, ITEM_IS_DISK | ITEM_IS_REQUIRED);
    set_le64(item, p->size);
    item = create_item(area, item_disk_id, 16, ITEM_IS_DISK | ITEM_IS_REQUIRED);
    if (vhdx_guid_make(item) < 0)
        return err_set(err, EIO, "the host gives no random numbers");
    item = create_item(area, item_sector, 4, ITEM_IS_DISK | ITEM_IS_REQUIRED);
    set_le32(item, 512);
    item = create_item(area, item_physical, 4, ITEM_IS_DISK | ITEM_IS_REQUIRED);
    set_le32(item, 4096);
    if (!p->backing)
        return 0;
    uint32_t at = 2 * METADATA_LEN - VHDX_PAGE;
    int len = locator_make(path, p->backing, area + at, VHDX_PAGE, err);
    if (len < 0)
        return len;
    create_item(area, item_locator, (uint32_t)len, ITEM_IS_REQUIRED);
    set_le32(area + 32 + 32 * (le16(area + 10) - 1) + ITEM_OFFSET, at);
    return 0;
}

static int create_write(const struct plan *p, struct store *store, const uint8_t *front,
                        const uint8_t *metadata)
{
    uint64_t bat_at = VHDX_MIB + p->log_len + VHDX_MIB;
    AUTO(free) uint8_t *bat = calloc(1, p->bat_len);
    if (!bat)
        return -ENOMEM;
    for (uint64_t b = 0; b < p->blocks; b++)
        set_le64(bat + (b + b / p->chunk) * 8, p->fixed  ? (p->data_at + b * p->block) | BAT_PRESENT
                                               : p->zero ? BAT_ZERO
                                                         : BAT_NONE);
    for (uint64_t i = 0; i < p->bitmaps; i++)
        set_le64(bat + (i * (p->chunk + 1) + p->chunk) * 8,
                 (bat_at + p->bat_len + i * VHDX_MIB) | BAT_PRESENT);
    uint64_t end = p->data_at + (p->fixed ? p->blocks * p->block : 0);
    int r = store_write(store, bat, p->bat_len, bat_at);
    if (r == 0)
        r = store_write(store, metadata, 2 * METADATA_LEN, VHDX_MIB + p->log_len);
    if (r == 0)
        r = store_write(store, front, VHDX_MIB, 0);
    return r < 0 ? r : store_truncate(store, end);
}

int vhdx_create(const struct image_create *create, struct store *store, struct err *err)
{
    struct plan plan;
    int r = plan_make(create, &plan, err);
    if (r < 0)
        return r;
    AUTO(free) uint8_t *front = calloc(1, VHDX_MIB);
    AUTO(free) uint8_t *metadata = calloc(2, METADATA_LEN);
    if (!front || !metadata)
        return err_set(err, ENOMEM, "out of memory");
    r = create_front(&plan, front, err);
    if (r == 0)
        r = create_metadata(&plan, create->path, metadata, err);
    if (r < 0)
        return r;
    r = create_write(&plan, store, front, metadata);
    return r < 0 ? err_errno(err, -r, "cannot write") : 0;
}

const struct image_option vhdx_options[] = {
    { "subformat", "dynamic or fixed (dynamic); with a backing file: differencing" },
    { "block_size", "1M to 256M; 0 or left away: by the size" },
    { "log_size", "1M to 64M (1M)" },
    { "block_state_zero", "on: what was never written is recorded as zeros; off: as absent (on)" },
    { NULL },
};
