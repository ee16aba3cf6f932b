/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * VHDX: dynamic, fixed and differencing, read, written and created. vhdx.h has the layout and how
 * changes become durable.
 *
 * The BAT has an entry for each block, and after every `chunk` of them one for a sector bitmap,
 * which says what sectors of a partially present block of a differencing disk are there. Blocks of
 * ours are always whole.
 */
#include "block/vhdx.h"

#include "base/checked.h"
#include "base/json.h"
#include "block/bytes.h"

#include <inttypes.h>
#include <string.h>
#include <sys/random.h>

enum {
    LOCATOR_MAX = 64 << 10,
};
#define BAT_PLACE 0xfffffffffff00000ull

int vhdx_guid_make(uint8_t *out)
{
    if (getrandom(out, 16, 0) != 16)
        return -EIO;
    out[7] = (uint8_t)((out[7] & 0x0f) | 0x40); /* version 4, RFC 4122 */
    out[8] = (uint8_t)((out[8] & 0x3f) | 0x80);
    return 0;
}

void vhdx_guid_print(const uint8_t *g, char out[40])
{
    snprintf(out, 40, "{%08x-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x}", le32(g), le16(g + 4),
             le16(g + 6), g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15]);
}

/* ---- headers ---- */

/* Writes vhdx->header into the slot that does not count, which then does; then into the other one,
 * so that either is good. */
static int headers_write(struct vhdx *vhdx)
{
    static const uint32_t places[] = { HEADER_1, HEADER_2 };
    int r = 0;
    for (unsigned i = 0; r == 0 && i < 2; i++) {
        vhdx->header_slot ^= 1;
        set_le64(vhdx->header + HEAD_SEQUENCE, le64(vhdx->header + HEAD_SEQUENCE) + 1);
        set_le32(vhdx->header + HEAD_CHECKSUM,
                 crc32c_without(vhdx->header, VHDX_HEADER_LEN, HEAD_CHECKSUM));
        r = store_write(vhdx->flat.image.store, vhdx->header, VHDX_HEADER_LEN,
                        places[vhdx->header_slot]);
        if (r == 0)
            r = store_flush(vhdx->flat.image.store);
    }
    return r;
}

static int headers_read(struct vhdx *vhdx, struct err *err)
{
    static const uint32_t places[] = { HEADER_1, HEADER_2 };
    uint8_t data[VHDX_HEADER_LEN];
    bool found = false;
    for (unsigned i = 0; i < 2; i++) {
        int r = store_read(vhdx->flat.image.store, data, sizeof data, places[i]);
        if (r < 0)
            return err_errno(err, -r, "cannot read a header");
        if (memcmp(data, "head", 4) ||
            crc32c_without(data, sizeof data, HEAD_CHECKSUM) != le32(data + HEAD_CHECKSUM) ||
            (found && le64(data + HEAD_SEQUENCE) < le64(vhdx->header + HEAD_SEQUENCE)))
            continue;
        found = true;
        vhdx->header_slot = i;
        memcpy(vhdx->header, data, sizeof data);
    }
    const uint8_t *h = vhdx->header;
    if (!found)
        return err_set(err, EINVAL, "has no good header; restore it from a backup");
    if (le16(h + HEAD_VERSION) != 1 || le16(h + HEAD_LOG_VERSION) != 0)
        return err_set(err, ENOTSUP,
                       "is a VHDX of version %u with a log of version %u; known are "
                       "1 and 0",
                       le16(h + HEAD_VERSION), le16(h + HEAD_LOG_VERSION));
    vhdx->log.at = le64(h + HEAD_LOG);
    vhdx->log.len = le32(h + HEAD_LOG_LEN);
    if (vhdx->log.at < VHDX_MIB || vhdx->log.at % VHDX_MIB || vhdx->log.at > 1ull << 60 ||
        !vhdx->log.len || vhdx->log.len % VHDX_MIB || vhdx->log.len > VHDX_LOG_MAX)
        return err_set(err, EINVAL,
                       "its log of %" PRIu64 " bytes lies at a wrong place, or is too large",
                       vhdx->log.len);
    return 0;
}

static bool log_is_named(const struct vhdx *vhdx)
{
    static const guid none;
    return memcmp(vhdx->header + HEAD_LOG_GUID, none, 16) != 0;
}

static int log_open(struct vhdx *vhdx, struct err *err)
{
    if (!log_is_named(vhdx))
        return 0;
    memcpy(vhdx->log.guid, vhdx->header + HEAD_LOG_GUID, 16);
    int r = vhdx_log_replay(vhdx, err);
    if (r < 0 || vhdx->flat.image.readonly)
        return r;
    memset(vhdx->header + HEAD_LOG_GUID, 0, 16);
    r = headers_write(vhdx);
    return r < 0 ? err_errno(err, -r, "cannot write a header") : 0;
}

/* Before the first change: a fresh log with an empty entry is there, the header names it and has
 * new ids of the file and of its content. */
int vhdx_touch(struct vhdx *vhdx)
{
    if (atomic_load(&vhdx->touched))
        return 0;
    LOCKED(&vhdx->touch_lock);
    if (atomic_load(&vhdx->touched))
        return 0;
    uint8_t *h = vhdx->header;
    int r = vhdx_guid_make(vhdx->log.guid);
    if (r == 0)
        r = vhdx_guid_make(h + HEAD_FILE_GUID);
    if (r == 0)
        r = vhdx_guid_make(h + HEAD_DATA_GUID);
    if (r < 0)
        return r;
    vhdx->log.head = 0;
    vhdx->log.sequence = 1;
    r = vhdx_log_append(vhdx, NULL, 0);
    if (r < 0)
        return r;
    memcpy(h + HEAD_LOG_GUID, vhdx->log.guid, 16);
    r = headers_write(vhdx);
    if (r == 0)
        atomic_store(&vhdx->touched, 1);
    return r;
}

/* ---- the BAT ---- */

uint64_t vhdx_bat_index(const struct vhdx *vhdx, uint64_t block)
{
    return block + block / vhdx->chunk;
}

uint64_t vhdx_bat_entries(const struct vhdx *vhdx, uint64_t blocks)
{
    uint64_t chunks = (blocks + vhdx->chunk - 1) / vhdx->chunk;
    return vhdx->has_parent ? chunks * (vhdx->chunk + 1)
           : blocks         ? blocks + (blocks - 1) / vhdx->chunk
                            : 0;
}

int vhdx_commit_pages(struct vhdx *vhdx, const struct vhdx_page *pages, unsigned count)
{
    int r = vhdx_log_append(vhdx, pages, count);
    for (unsigned i = 0; r == 0 && i < count; i++)
        r = store_write(vhdx->flat.image.store, pages[i].data, VHDX_PAGE, pages[i].offset);
    return r;
}

/* The page of the BAT that begins with entry `first`. */
static void bat_page(const struct vhdx *vhdx, uint64_t first, struct vhdx_page *out)
{
    memset(out->data, 0, VHDX_PAGE);
    out->offset = vhdx->bat_at + first * 8;
    for (uint64_t i = 0; i < VHDX_PAGE / 8 && first + i < vhdx->bat_entries; i++)
        set_le64(out->data + i * 8, vhdx->bat[first + i]);
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int vhdx_commit(struct flat *flat, uint64_t *blocks, size_t count)
{
    struct vhdx *vhdx = vhdx_of(&flat->image);
    AUTO(free) struct vhdx_page *pages = malloc(VHDX_LOG_PAGES * sizeof *pages);
    if (!pages)
        return -ENOMEM;
    qsort(blocks, count, sizeof *blocks, by_number);
    pthread_mutex_lock(&flat->lock);
    for (size_t i = 0; i < count; i++) {
        uint64_t host = flat->host[blocks[i]], end = host + flat->block_size;
        vhdx->bat[vhdx_bat_index(vhdx, blocks[i])] =
            host > FLAT_ZERO ? host | BAT_PRESENT : BAT_ZERO;
        if (host > FLAT_ZERO && end > vhdx->durable_end)
            vhdx->durable_end = end;
    }
    pthread_mutex_unlock(&flat->lock);
    unsigned n = 0;
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++) {
        uint64_t first = round_down(vhdx_bat_index(vhdx, blocks[i]), VHDX_PAGE / 8);
        if (n && pages[n - 1].offset == vhdx->bat_at + first * 8)
            continue;
        if (n == VHDX_LOG_PAGES) {
            r = vhdx_commit_pages(vhdx, pages, n);
            n = 0;
            if (r == 0) /* the next entry's tail leaves these behind */
                r = store_flush(flat->image.store);
        }
        bat_page(vhdx, first, &pages[n++]);
    }
    return r < 0 ? r : vhdx_commit_pages(vhdx, pages, n);
}

/* At the end of the file, which reaches to the block's end then. */
static int vhdx_add(struct flat *flat, uint64_t block, uint64_t *host)
{
    static const uint8_t zero[512];
    uint64_t end = flat->end + flat->block_size;
    int r = store_write(flat->image.store, zero, sizeof zero, end - sizeof zero);
    if (r < 0)
        return r;
    *host = flat->end;
    flat->end = end;
    return 0;
}

/* The first sector is in the lowest bit. */
static int vhdx_present(struct flat *flat, uint64_t block, uint64_t in_block, uint64_t *run,
                        bool *here)
{
    enum { LOOK = 64, SECTOR = 512 };
    struct vhdx *vhdx = vhdx_of(&flat->image);
    uint8_t bits[LOOK];
    uint64_t unit = vhdx->sector;
    uint64_t chunk = block / vhdx->chunk,
             entry = vhdx->bat[chunk * (vhdx->chunk + 1) + vhdx->chunk];
    uint64_t all = flat->block_size / unit, sector = in_block / unit;
    uint64_t before = block % vhdx->chunk * all; /* whole bytes: blocks have 2048 sectors or more */
    int r = store_read(flat->image.store, bits, LOOK, (entry & BAT_PLACE) + (before + sector) / 8);
    if (r < 0)
        return r;
    uint64_t first = round_down(sector, 8), end = first + LOOK * 8 < all ? first + LOOK * 8 : all;
    uint64_t at = sector;
    *here = bits[(at - first) / 8] & 1 << (at & 7);
    while (at < end && !(bits[(at - first) / 8] & 1 << (at & 7)) == !*here)
        at++;
    *run = at * unit - in_block;
    return 0;
}

/* Its BAT entry becomes "present" with the next commit. */
static int vhdx_completed(struct flat *flat, uint64_t block) { return flat_mark(flat, block); }

/* ---- data: the first change is announced ---- */

static int vhdx_write(struct image *image, const void *data, size_t len, uint64_t offset)
{
    int r = vhdx_touch(vhdx_of(image));
    return r < 0 ? r : flat_write(image, data, len, offset);
}

static int vhdx_zero(struct image *image, uint64_t offset, uint64_t len, unsigned flags)
{
    int r = vhdx_touch(vhdx_of(image));
    return r < 0 ? r : flat_zero(image, offset, len, flags);
}

static int vhdx_discard(struct image *image, uint64_t offset, uint64_t len)
{
    int r = vhdx_touch(vhdx_of(image));
    return r < 0 ? r : flat_discard(image, offset, len);
}

static bool vhdx_direct_map(struct image *image, struct block_hold *hold, uint64_t offset,
                            uint64_t len, bool write, uint64_t *host)
{
    return (!write || atomic_load(&vhdx_of(image)->touched)) &&
           flat_direct_map(image, hold, offset, len, write, host);
}

/* ---- regions and metadata ---- */

struct regions {
    uint64_t bat, bat_len, metadata, metadata_len;
};

static int regions_read(struct vhdx *vhdx, struct regions *out, struct err *err)
{
    struct store *store = vhdx->flat.image.store;
    AUTO(free) uint8_t *table = malloc(REGIONS_LEN);
    if (!table)
        return err_set(err, ENOMEM, "out of memory");
    bool good = false;
    for (unsigned i = 0; i < 2 && !good; i++) {
        int r = store_read(store, table, REGIONS_LEN, i ? REGIONS_2 : REGIONS_1);
        if (r < 0)
            return err_errno(err, -r, "cannot read the table of regions");
        good = !memcmp(table, "regi", 4) &&
               crc32c_without(table, REGIONS_LEN, 4) == le32(table + 4) &&
               le32(table + 8) <= MAX_REGIONS;
    }
    if (!good)
        return err_set(err, EINVAL, "has no good table of regions; restore it from a backup");
    *out = (struct regions){ 0 };
    for (uint32_t i = 0; i < le32(table + 8); i++) {
        const uint8_t *e = table + 16 + 32 * i;
        uint64_t at = le64(e + 16), len = le32(e + 24);
        if (at < VHDX_MIB || at % VHDX_MIB || at > 1ull << 60 || !len || len % VHDX_MIB)
            return err_set(err, EINVAL, "a region lies at a wrong place");
        if (!memcmp(e, region_bat, 16) && !out->bat) {
            out->bat = at;
            out->bat_len = len;
        } else if (!memcmp(e, region_metadata, 16) && !out->metadata) {
            out->metadata = at;
            out->metadata_len = len;
        } else if (le32(e + 28) & 1) {
            return err_set(err, ENOTSUP, "has a required region that is unknown, or one twice");
        }
    }
    if (!out->bat || !out->metadata)
        return err_set(err, EINVAL, "lacks the block table or the metadata");
    const struct vhdx_log *log = &vhdx->log;
    if (ranges_overlap(out->bat, out->bat_len, out->metadata, out->metadata_len) ||
        ranges_overlap(out->bat, out->bat_len, log->at, log->len) ||
        ranges_overlap(out->metadata, out->metadata_len, log->at, log->len))
        return err_set(err, EINVAL, "its regions overlap");
    return 0;
}

uint8_t *vhdx_item(const struct vhdx *vhdx, uint8_t *table, const guid which)
{
    for (uint32_t i = 0, count = le16(table + 10); i < count && i < MAX_REGIONS; i++) {
        uint8_t *e = table + 32 + 32 * i;
        uint64_t at = le32(e + ITEM_OFFSET), len = le32(e + ITEM_LEN);
        if (!memcmp(e, which, 16))
            return at >= METADATA_LEN && range_fits(at, len, vhdx->metadata_len) ? e : NULL;
    }
    return NULL;
}

static int item_read(const struct vhdx *vhdx, uint8_t *table, const guid which, uint8_t *out,
                     uint32_t len)
{
    const uint8_t *e = vhdx_item(vhdx, table, which);
    if (!e || le32(e + ITEM_LEN) < len)
        return -EINVAL;
    return store_read(vhdx->flat.image.store, out, len, vhdx->metadata_at + le32(e + ITEM_OFFSET));
}

static int items_are_known(const uint8_t *table, struct err *err)
{
    static const guid *const known[] = { &item_parameters, &item_size,     &item_disk_id,
                                         &item_sector,     &item_physical, &item_locator };
    for (uint32_t i = 0, count = le16(table + 10); i < count && i < MAX_REGIONS; i++) {
        const uint8_t *e = table + 32 + 32 * i;
        bool found = false;
        for (unsigned k = 0; k < ARRAY_LEN(known); k++)
            found |= !memcmp(e, *known[k], 16);
        if (!found && (le32(e + ITEM_FLAGS) & ITEM_IS_REQUIRED))
            return err_set(err, ENOTSUP,
                           "has a required item of metadata that is unknown; convert it with "
                           "the program that made it");
    }
    return 0;
}

/* A value of the parent locator, or "". */
static void locator_get(const uint8_t *data, uint32_t len, const char *key, char *out, size_t room)
{
    char name[64];
    out[0] = 0;
    for (uint32_t i = 0, count = le16(data + 18); i < count && 20 + 12 * (i + 1) <= len; i++) {
        const uint8_t *e = data + 20 + 12 * i;
        uint32_t key_at = le32(e), value_at = le32(e + 4), key_len = le16(e + 8),
                 value_len = le16(e + 10);
        if (!range_fits(key_at, key_len, len) || !range_fits(value_at, value_len, len))
            continue;
        utf8_from_utf16le(data + key_at, key_len, name, sizeof name);
        if (!strcmp(name, key)) {
            utf8_from_utf16le(data + value_at, value_len, out, room);
            return;
        }
    }
}

/* A path of Windows as a path beside the image: of an absolute one only the last part counts. */
static char *locator_path(const uint8_t *data, uint32_t len)
{
    char text[4096];
    const char *name = text;
    locator_get(data, len, "relative_path", text, sizeof text);
    bool relative = text[0];
    if (!relative)
        locator_get(data, len, "absolute_win32_path", text, sizeof text);
    for (char *p = text; *p; p++)
        if (*p == '\\')
            *p = '/';
    if (!relative && text[0] != '/')
        name = strrchr(text, '/') ? strrchr(text, '/') + 1 : text;
    return strdup(!strncmp(name, "./", 2) ? name + 2 : name);
}

static int parent_read(struct vhdx *vhdx, uint8_t *table, struct err *err)
{
    struct image *image = &vhdx->flat.image;
    const uint8_t *e = vhdx_item(vhdx, table, item_locator);
    uint32_t len = e ? le32(e + ITEM_LEN) : 0;
    if (len < 20 || len > LOCATOR_MAX)
        return err_set(err, EINVAL, "is a differencing disk that does not name its parent");
    AUTO(free) uint8_t *data = malloc(len);
    if (!data)
        return err_set(err, ENOMEM, "out of memory");
    int r = store_read(image->store, data, len, vhdx->metadata_at + le32(e + ITEM_OFFSET));
    if (r < 0)
        return err_errno(err, -r, "cannot read its parent's name");
    if (memcmp(data, locator_vhdx, 16))
        return err_set(err, ENOTSUP, "names its parent in an unknown way");
    locator_get(data, len, "parent_linkage", vhdx->linkage[0], sizeof vhdx->linkage[0]);
    locator_get(data, len, "parent_linkage2", vhdx->linkage[1], sizeof vhdx->linkage[1]);
    image->backing_name = locator_path(data, len);
    image->backing_format = strdup("vhdx");
    if (!image->backing_name || !image->backing_format)
        return err_set(err, ENOMEM, "out of memory");
    return image->backing_name[0]
               ? 0
               : err_set(err, EINVAL, "is a differencing disk that does not name its parent");
}

static int metadata_read(struct vhdx *vhdx, struct err *err)
{
    struct flat *flat = &vhdx->flat;
    struct image *image = &flat->image;
    AUTO(free) uint8_t *table = malloc(METADATA_LEN);
    uint8_t parameters[8], size[8], logical[4];
    if (!table)
        return err_set(err, ENOMEM, "out of memory");
    int r = store_read(image->store, table, METADATA_LEN, vhdx->metadata_at);
    if (r == 0 && memcmp(table, "metadata", 8))
        return err_set(err, EINVAL, "its metadata is damaged; restore it from a backup");
    if (r == 0)
        r = item_read(vhdx, table, item_parameters, parameters, 8);
    if (r == 0)
        r = item_read(vhdx, table, item_size, size, 8);
    if (r == 0)
        r = item_read(vhdx, table, item_sector, logical, 4);
    if (r < 0)
        return err_errno(err, -r, "cannot read its metadata");
    r = items_are_known(table, err);
    if (r < 0)
        return r;
    uint32_t sector = le32(logical);
    flat->block_size = le32(parameters);
    image->size = le64(size);
    if (!is_power_of_two(flat->block_size) || flat->block_size < VHDX_MIB ||
        flat->block_size > 256 << 20 || (sector != 512 && sector != 4096) || image->size % 512 ||
        image->size > VHDX_MAX_SIZE)
        return err_set(err, EINVAL, "its metadata makes no sense");
    vhdx->chunk = (1ull << 23) * sector / flat->block_size;
    vhdx->sector = sector;
    vhdx->has_parent = le32(parameters + 4) & PARAM_PARENT;
    vhdx->fixed = le32(parameters + 4) & PARAM_FIXED;
    return vhdx->has_parent ? parent_read(vhdx, table, err) : 0;
}

/* ---- opening ---- */

/* Where the blocks lie; none in what is not for blocks. */
static int bat_take(struct vhdx *vhdx, const struct regions *regions, uint64_t block,
                    struct err *err)
{
    struct flat *flat = &vhdx->flat;
    uint64_t entry = vhdx->bat[vhdx_bat_index(vhdx, block)], host = entry & BAT_PLACE;
    unsigned state = entry & 7;
    bool partial = state == BAT_PARTIAL && vhdx->has_parent;
    if (state == BAT_PRESENT || partial) {
        if (host < VHDX_MIB || host > 1ull << 60 ||
            ranges_overlap(host, flat->block_size, vhdx->log.at, vhdx->log.len) ||
            ranges_overlap(host, flat->block_size, regions->bat, regions->bat_len) ||
            ranges_overlap(host, flat->block_size, regions->metadata, regions->metadata_len))
            return err_set(err, EINVAL, "block %" PRIu64 " lies at a wrong place", block);
        flat->host[block] = host;
        if (partial)
            flat->partial[block] = 1;
        if (host + flat->block_size > flat->end)
            flat->end = host + flat->block_size;
        return 0;
    }
    if (state > BAT_UNMAPPED)
        return err_set(err, ENOTSUP, "block %" PRIu64 " has state %u", block, state);
    flat->host[block] = state == BAT_NONE && vhdx->has_parent ? FLAT_NONE : FLAT_ZERO;
    return 0;
}

/* The sector bitmaps that partial blocks need are there. */
static int bitmaps_check(struct vhdx *vhdx, struct err *err)
{
    struct flat *flat = &vhdx->flat;
    for (uint64_t b = 0; vhdx->has_parent && b < flat->blocks; b++) {
        uint64_t chunk = b / vhdx->chunk;
        if (!flat->partial[b])
            continue;
        uint64_t entry = vhdx->bat[chunk * (vhdx->chunk + 1) + vhdx->chunk];
        if ((entry & 7) != BAT_PRESENT || (entry & BAT_PLACE) < VHDX_MIB ||
            (entry & BAT_PLACE) > 1ull << 60)
            return err_set(err, EINVAL, "block %" PRIu64 " is partial, but has no sector bitmap",
                           b);
        if ((entry & BAT_PLACE) + VHDX_MIB > flat->end)
            flat->end = (entry & BAT_PLACE) + VHDX_MIB;
    }
    return 0;
}

static int bat_read(struct vhdx *vhdx, const struct regions *regions, struct err *err)
{
    struct flat *flat = &vhdx->flat;
    uint64_t blocks = flat->blocks;
    vhdx->bat_entries = vhdx_bat_entries(vhdx, blocks);
    vhdx->bat_at = regions->bat;
    vhdx->bat_len = regions->bat_len;
    if (vhdx->bat_entries * 8 > regions->bat_len)
        return err_set(err, EINVAL, "its block table is too short for the disk");
    vhdx->bat = malloc(vhdx->bat_entries * 8 + 8);
    if (!vhdx->bat)
        return err_set(err, ENOMEM, "out of memory");
    int r = store_read(flat->image.store, vhdx->bat, vhdx->bat_entries * 8, vhdx->bat_at);
    if (r < 0)
        return err_errno(err, -r, "cannot read the block table");
    for (uint64_t i = 0; i < vhdx->bat_entries; i++)
        vhdx->bat[i] = le64((uint8_t *)&vhdx->bat[i]);
    for (uint64_t b = 0; r == 0 && b < blocks; b++)
        r = bat_take(vhdx, regions, b, err);
    return r < 0 ? r : bitmaps_check(vhdx, err);
}

static int vhdx_open(struct image *image, const struct image_options *options, struct err *err)
{
    struct vhdx *vhdx = vhdx_of(image);
    struct flat *flat = &vhdx->flat;
    struct regions regions = { 0 };
    struct store *file = image->store;
    uint8_t magic[8];
    uint64_t size = 0;
    flat_init(flat);
    pthread_mutex_init(&vhdx->touch_lock, NULL);
    int r = store_read(image->store, magic, sizeof magic, 0);
    if (r < 0)
        return err_errno(err, -r, "cannot read its beginning");
    if (memcmp(magic, "vhdxfile", 8))
        return err_set(err, EINVAL, "is not in VHDX format");
    r = headers_read(vhdx, err);
    if (r == 0)
        r = log_open(vhdx, err);
    if (r == 0)
        r = regions_read(vhdx, &regions, err);
    if (r < 0)
        return r;
    vhdx->metadata_at = regions.metadata;
    vhdx->metadata_len = regions.metadata_len;
    r = metadata_read(vhdx, err);
    if (r == 0)
        r = flat_setup(flat, image->size / flat->block_size + !!(image->size % flat->block_size),
                       err);
    if (r == 0 && store_size(image->store, &size) < 0)
        r = err_set(err, EIO, "cannot ask for the size");
    if (r < 0)
        return r;
    flat->partial = vhdx->has_parent ? calloc(flat->blocks + 1, 1) : NULL;
    if (vhdx->has_parent && !flat->partial)
        return err_set(err, ENOMEM, "out of memory");
    image->cluster_size = (uint32_t)flat->block_size;
    image->discard_unit = FLAT_DISCARD;
    image->direct_store =
        image->store == file ? file : NULL; /* not around a log that is not replayed */
    flat->add = image->readonly ? NULL : vhdx_add;
    flat->enter_all = vhdx_commit;
    flat->zero_entries = true;
    flat->present = vhdx_present;
    flat->completed = vhdx_completed;
    flat->end = round_up(size, VHDX_MIB);
    vhdx->durable_end = size;
    flat->reach = flat->block_size - 1;
    r = bat_read(vhdx, &regions, err);
    return r < 0 ? r : flat_check_whole(flat, err);
}

/* The log is done with. When anything fails it stays, to be replayed by the next one to open. */
static int vhdx_settle(struct vhdx *vhdx)
{
    struct image *image = &vhdx->flat.image;
    if (!atomic_load(&vhdx->touched))
        return 0;
    int r = flat_flush(image);
    if (r == 0)
        r = store_flush(image->store); /* what the commit wrote in place */
    if (r < 0)
        return r;
    memset(vhdx->header + HEAD_LOG_GUID, 0, 16);
    return headers_write(vhdx);
}

static int vhdx_close(struct image *image)
{
    struct vhdx *vhdx = vhdx_of(image);
    int r = vhdx_settle(vhdx), closed = flat_close(image);
    pthread_mutex_destroy(&vhdx->touch_lock);
    free(vhdx->bat);
    return r < 0 ? r : closed;
}

static int vhdx_check_backing(struct image *image, struct err *err)
{
    struct vhdx *vhdx = vhdx_of(image);
    char id[40];
    vhdx_guid_print(vhdx_of(image->backing)->header + HEAD_DATA_GUID, id);
    if (!strcasecmp(id, vhdx->linkage[0]) || !strcasecmp(id, vhdx->linkage[1]))
        return 0;
    return err_set(
        err, EINVAL,
        "backing file %s was changed since, or is another one (its content id is %s instead of "
        "%s); if it is right, record it anew with: bedplate-img rebase -u -F vhdx -b",
        image->backing->path, id, vhdx->linkage[0]);
}

static int vhdx_info(struct image *image, json_t *into)
{
    const struct vhdx *vhdx = vhdx_of(image);
    char id[40];
    vhdx_guid_print(vhdx->header + HEAD_DATA_GUID, id);
    json_object_set_new(into, "subformat",
                        json_string(vhdx->has_parent ? "differencing"
                                    : vhdx->fixed    ? "fixed"
                                                     : "dynamic"));
    json_object_set_new(into, "content-id", json_string(id));
    json_object_set_new(into, "log-size", json_integer((json_int_t)vhdx->log.len));
    json_object_set_new(into, "log-to-replay", json_boolean(log_is_named(vhdx)));
    return 0;
}

const struct image_format image_vhdx = {
    .name = "vhdx",
    .about = "Hyper-V's: dynamic, fixed, differencing",
    .options = vhdx_options,
    .struct_size = sizeof(struct vhdx),
    .can_back = true,
    .create = vhdx_create,
    .open = vhdx_open,
    .close = vhdx_close,
    .read = flat_read,
    .write = vhdx_write,
    .zero = vhdx_zero,
    .discard = vhdx_discard,
    .flush = flat_flush,
    .status = flat_status,
    .check = flat_check,
    .resize = vhdx_resize,
    .set_backing = vhdx_set_backing,
    .check_backing = vhdx_check_backing,
    .info = vhdx_info,
    .direct_map = vhdx_direct_map,
    .direct_done = flat_direct_done,
    .is_clean = flat_is_clean,
};
