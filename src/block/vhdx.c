/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * VHDX ([MS-VHDX]), dynamic and fixed, read only. Little-endian.
 *
 *   64K, 128K  two headers; the one with the higher sequence number counts
 *   192K, 256K two copies of the table of regions: block table (BAT), metadata
 *
 * The BAT has an entry for each block, and after every `chunk` of them one for a sector bitmap. An
 * image whose log is not empty was not closed properly and is refused: replaying means writing.
 */
#include "block/flat.h"

#include "base/checked.h"

#include <string.h>

enum {
    HEADER_1 = 64 << 10,
    HEADER_2 = 128 << 10,
    REGIONS_1 = 192 << 10,
    REGIONS_2 = 256 << 10,
    HEADER_LEN = 4096,
    REGIONS_LEN = 64 << 10,
    MAX_REGIONS = 2047,
    METADATA_LEN = 64 << 10,
};
enum { BAT_NONE = 0, BAT_UNDEFINED = 1, BAT_ZERO = 2, BAT_UNMAPPED = 3, BAT_PRESENT = 6 };

typedef uint8_t guid[16];
static const guid region_bat = { 0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
                                 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08 };
static const guid region_metadata = { 0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
                                      0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e };
static const guid item_parameters = { 0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d,
                                      0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b };
static const guid item_size = { 0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48,
                                0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8 };
static const guid item_sector = { 0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47,
                                  0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f };

static uint16_t le16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static uint32_t le32(const uint8_t *p) { return le16(p) | (uint32_t)le16(p + 2) << 16; }
static uint64_t le64(const uint8_t *p) { return le32(p) | (uint64_t)le32(p + 4) << 32; }

/* CRC-32C with the checksum's own four bytes, at 4, taken as zeros. */
static bool checksum_is_good(const uint8_t *data, size_t len)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < len; i++) {
        crc ^= i >= 4 && i < 8 ? 0 : data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc == le32(data + 4);
}

static int vhdx_check_header(struct image *image, struct err *err)
{
    static const uint32_t places[] = { HEADER_1, HEADER_2 };
    uint8_t data[HEADER_LEN], log[16] = { 0 };
    static const uint8_t no_log[16];
    uint64_t best = 0;
    bool found = false;
    for (unsigned i = 0; i < 2; i++) {
        int r = store_read(image->store, data, sizeof data, places[i]);
        if (r < 0)
            return err_errno(err, -r, "cannot read a header");
        if (memcmp(data, "head", 4) || !checksum_is_good(data, sizeof data) ||
            (found && le64(data + 8) < best))
            continue;
        if (le16(data + 66) != 1)
            return err_set(err, ENOTSUP, "is a VHDX of version %u", le16(data + 66));
        found = true;
        best = le64(data + 8);
        memcpy(log, data + 48, sizeof log);
    }
    if (!found)
        return err_set(err, EINVAL, "has no good header");
    if (memcmp(log, no_log, sizeof log))
        return err_set(err, EUCLEAN,
                       "was not closed properly and has a log to be replayed; do that "
                       "with: qemu-img check -r all");
    return 0;
}

static int vhdx_regions(struct image *image, uint64_t *bat, uint64_t *bat_len, uint64_t *metadata,
                        struct err *err)
{
    AUTO(free) uint8_t *table = malloc(REGIONS_LEN);
    if (!table)
        return err_set(err, ENOMEM, "out of memory");
    int r = store_read(image->store, table, REGIONS_LEN, REGIONS_1);
    if (r == 0 && (memcmp(table, "regi", 4) || !checksum_is_good(table, REGIONS_LEN)))
        r = store_read(image->store, table, REGIONS_LEN, REGIONS_2);
    if (r < 0)
        return err_errno(err, -r, "cannot read the table of regions");
    uint32_t count = le32(table + 8);
    if (memcmp(table, "regi", 4) || !checksum_is_good(table, REGIONS_LEN) || count > MAX_REGIONS)
        return err_set(err, EINVAL, "has no good table of regions");
    *bat = *metadata = 0;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *e = table + 16 + 32 * i;
        uint64_t at = le64(e + 16);
        if (at > 1ull << 60)
            return err_set(err, EINVAL, "a region lies at a wrong place");
        if (!memcmp(e, region_bat, 16)) {
            *bat = at;
            *bat_len = le32(e + 24);
        } else if (!memcmp(e, region_metadata, 16)) {
            *metadata = at;
        } else if (le32(e + 28) & 1) {
            return err_set(err, ENOTSUP, "has a required region that is unknown");
        }
    }
    return *bat && *metadata ? 0 : err_set(err, EINVAL, "lacks the block table or the metadata");
}

/* Reads an item of the metadata; its table has been read. */
static int vhdx_item(struct image *image, const uint8_t *table, uint64_t base, const guid which,
                     uint8_t *out, uint32_t len)
{
    for (uint32_t i = 0, count = le16(table + 10); i < count && i < MAX_REGIONS; i++) {
        const uint8_t *e = table + 32 + 32 * i;
        if (!memcmp(e, which, 16) && le32(e + 20) >= len)
            return store_read(image->store, out, len, base + le32(e + 16));
    }
    return -ENOENT;
}

static int vhdx_metadata(struct image *image, uint64_t base, uint32_t *sector, struct err *err)
{
    struct flat *flat = flat_of(image);
    AUTO(free) uint8_t *table = malloc(METADATA_LEN);
    uint8_t parameters[8], size[8], logical[4];
    if (!table)
        return err_set(err, ENOMEM, "out of memory");
    int r = store_read(image->store, table, METADATA_LEN, base);
    if (r == 0 && memcmp(table, "metadata", 8))
        r = -EINVAL;
    if (r == 0)
        r = vhdx_item(image, table, base, item_parameters, parameters, 8);
    if (r == 0)
        r = vhdx_item(image, table, base, item_size, size, 8);
    if (r == 0)
        r = vhdx_item(image, table, base, item_sector, logical, 4);
    if (r < 0)
        return err_errno(err, -r, "cannot read its metadata");
    if (le32(parameters + 4) & 2)
        return err_set(err, ENOTSUP, "is a differencing VHDX, which is not supported");
    flat->block_size = le32(parameters);
    *sector = le32(logical);
    image->size = le64(size);
    if (!is_power_of_two(flat->block_size) || flat->block_size < 1 << 20 ||
        flat->block_size > 256 << 20 || (*sector != 512 && *sector != 4096) || image->size % 512 ||
        image->size > 64ull << 40)
        return err_set(err, EINVAL, "its metadata makes no sense");
    return 0;
}

static int vhdx_read_bat(struct flat *flat, uint64_t at, uint64_t len, uint64_t chunk,
                         struct err *err)
{
    uint64_t entries = flat->blocks ? flat->blocks + (flat->blocks - 1) / chunk : 0;
    if (entries * 8 > len)
        return err_set(err, EINVAL, "its block table is too short for the disk");
    AUTO(free) uint8_t *bat = malloc(entries * 8 + 8);
    if (!bat)
        return err_set(err, ENOMEM, "out of memory");
    int r = store_read(flat->image.store, bat, entries * 8, at);
    if (r < 0)
        return err_errno(err, -r, "cannot read the block table");
    for (uint64_t b = 0; b < flat->blocks; b++) {
        uint64_t entry = le64(bat + (b + b / chunk) * 8), host = entry >> 20 << 20;
        switch (entry & 7) {
        case BAT_PRESENT:
            if (!host || host > 1ull << 60)
                return err_set(err, EINVAL, "a block lies at a wrong place");
            flat->host[b] = host;
            break;
        case BAT_NONE:
        case BAT_UNDEFINED:
        case BAT_ZERO:
        case BAT_UNMAPPED: flat->host[b] = FLAT_ZERO; break;
        default: return err_set(err, ENOTSUP, "a block has state %u", (unsigned)(entry & 7));
        }
    }
    return 0;
}

static int vhdx_open(struct image *image, const struct image_options *options, struct err *err)
{
    struct flat *flat = flat_of(image);
    uint8_t magic[8];
    uint64_t bat = 0, bat_len = 0, metadata = 0;
    uint32_t sector = 0;
    flat_init(flat);
    int r = store_read(image->store, magic, sizeof magic, 0);
    if (r < 0)
        return err_errno(err, -r, "cannot read its beginning");
    if (memcmp(magic, "vhdxfile", 8))
        return err_set(err, EINVAL, "is not in VHDX format");
    if (!image->readonly)
        return err_set(err, EROFS, "VHDX images can only be read; convert it, or add readonly");
    r = vhdx_check_header(image, err);
    if (r == 0)
        r = vhdx_regions(image, &bat, &bat_len, &metadata, err);
    if (r == 0)
        r = vhdx_metadata(image, metadata, &sector, err);
    if (r == 0)
        r = flat_setup(flat, image->size / flat->block_size + !!(image->size % flat->block_size),
                       err);
    if (r < 0)
        return r;
    image->cluster_size = (uint32_t)flat->block_size;
    image->direct_store = image->store;
    return vhdx_read_bat(flat, bat, bat_len, (1ull << 23) * sector / flat->block_size, err);
}

const struct image_format image_vhdx = {
    .name = "vhdx",
    .about = "Hyper-V's; can be read",
    .struct_size = sizeof(struct flat),
    .open = vhdx_open,
    .close = flat_close,
    .read = flat_read,
    .status = flat_status,
    .check = flat_check,
    .direct_map = flat_direct_map,
    .direct_done = flat_direct_done,
    .is_clean = flat_is_clean,
};
