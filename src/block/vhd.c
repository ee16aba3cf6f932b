/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * VHD ("Virtual Hard Disk Image Format Specification", Microsoft, 2006): fixed, dynamic, and
 * differencing, all read and written; fixed and dynamic are created. Big-endian.
 *
 *   fixed:    [data][footer]
 *   dynamic:  [copy of footer][dynamic header][BAT] ([sector bitmap][block])... [footer]
 *
 * A new block takes the footer's place, so the new footer is written first, behind it; between the
 * two only the copy at the start is there, which opening accepts. In a differencing disk a block's
 * bitmap says which sectors it holds; the first write to a block that is not whole makes it whole.
 */
#include "block/flat.h"

#include "base/checked.h"
#include "base/text.h"

#include <string.h>
#include <sys/random.h>
#include <time.h>

enum { /* footer */
       FOOTER_DATA_OFFSET = 16,
       FOOTER_TIME = 24,
       FOOTER_CREATOR = 28,
       FOOTER_ORIGINAL = 40,
       FOOTER_SIZE = 48,
       FOOTER_CYLINDERS = 56,
       FOOTER_HEADS = 58,
       FOOTER_SECTORS = 59,
       FOOTER_TYPE = 60,
       FOOTER_CHECKSUM = 64,
       FOOTER_UUID = 68,
       FOOTER_LEN = 512,
};
enum { /* dynamic header */
       DYN_TABLE = 16,
       DYN_VERSION = 24,
       DYN_ENTRIES = 28,
       DYN_BLOCK = 32,
       DYN_CHECKSUM = 36,
       DYN_PARENT_NAME = 64,
       DYN_LOCATORS = 576,
       DYN_LEN = 1024,
};
enum { TYPE_FIXED = 2, TYPE_DYNAMIC = 3, TYPE_DIFFERENCING = 4 };
enum { VHD_SECTOR = 512, VHD_BLOCK = 2 << 20, VHD_EPOCH = 946684800 };
#define VHD_UNUSED 0xffffffffu
#define VHD_MAX_SIZE (2040ull << 30)

struct vhd {
    struct flat flat;
    uint8_t footer[FOOTER_LEN];
    uint64_t table, bitmap_size;
    uint8_t *partial; /* by block of a differencing disk: not all sectors are in it. flat.lock */
};

static struct vhd *vhd_of(struct image *image) { return (struct vhd *)image; }
static uint16_t be16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
static uint64_t be64(const uint8_t *p) { return (uint64_t)be32(p) << 32 | be32(p + 4); }
static void set32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}
static void set64(uint8_t *p, uint64_t v)
{
    set32(p, (uint32_t)(v >> 32));
    set32(p + 4, (uint32_t)v);
}

static uint32_t vhd_checksum(const uint8_t *data, size_t len, size_t at)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < len; i++)
        if (i < at || i >= at + 4)
            sum += data[i];
    return ~sum;
}

static bool footer_is_good(const uint8_t *footer)
{
    return !memcmp(footer, "conectix", 8) &&
           be32(footer + FOOTER_CHECKSUM) == vhd_checksum(footer, FOOTER_LEN, FOOTER_CHECKSUM);
}

/* ---- reading differencing blocks ---- */

static int vhd_read(struct image *image, void *data, size_t len, uint64_t offset)
{
    struct vhd *vhd = vhd_of(image);
    struct flat *flat = &vhd->flat;
    if (!vhd->partial)
        return flat_read(image, data, len, offset);
    uint8_t *to = data;
    while (len) {
        uint64_t block = offset / flat->block_size, in_block = offset % flat->block_size;
        size_t part = flat->block_size - in_block < len ? flat->block_size - in_block : len;
        pthread_mutex_lock(&flat->lock);
        bool partial = vhd->partial[block];
        uint64_t host = flat->host[block];
        pthread_mutex_unlock(&flat->lock);
        uint8_t bits = 0xff;
        int r = 0;
        if (partial) {
            uint64_t sector = in_block / VHD_SECTOR;
            r = store_read(image->store, &bits, 1, host - vhd->bitmap_size + sector / 8);
            size_t one = VHD_SECTOR - in_block % VHD_SECTOR;
            part = one < part ? one : part;
            if (r == 0 && !(bits & (0x80 >> (sector & 7))))
                r = image_read_backing(image, to, part, offset);
            else if (r == 0)
                r = store_read(image->store, to, part, host + in_block);
        } else {
            r = flat_read(image, to, part, offset);
        }
        if (r < 0)
            return r;
        to += part;
        offset += part;
        len -= part;
    }
    return 0;
}

static int vhd_status(struct image *image, uint64_t offset, uint64_t len, struct image_extent *out)
{
    struct vhd *vhd = vhd_of(image);
    if (!vhd->partial)
        return flat_status(image, offset, len, out);
    uint64_t left = vhd->flat.block_size - offset % vhd->flat.block_size;
    int r = flat_status(image, offset, left < len ? left : len, out);
    LOCKED(&vhd->flat.lock);
    if (r < 0 || !vhd->partial[offset / vhd->flat.block_size])
        return r;
    uint64_t sector = offset % vhd->flat.block_size / VHD_SECTOR;
    uint8_t bits;
    r = store_read(image->store, &bits, 1,
                   vhd->flat.host[offset / vhd->flat.block_size] - vhd->bitmap_size + sector / 8);
    if (!(bits & (0x80 >> (sector & 7))))
        *out = (struct image_extent){ .len = out->len };
    uint64_t one = VHD_SECTOR - offset % VHD_SECTOR;
    out->len = one < out->len ? one : out->len;
    return r;
}

/* Brings the sectors that a block lacks from below, then says in its bitmap that it has all. */
static int vhd_complete(struct vhd *vhd, uint64_t block)
{
    struct image *image = &vhd->flat.image;
    uint64_t start = block * vhd->flat.block_size;
    uint64_t size =
        image->size - start < vhd->flat.block_size ? image->size - start : vhd->flat.block_size;
    AUTO(free) uint8_t *data = malloc(size);
    AUTO(free) uint8_t *bitmap = malloc(vhd->bitmap_size);
    if (!data || !bitmap)
        return -ENOMEM;
    int r = vhd_read(image, data, size, start);
    LOCKED(&vhd->flat.lock);
    if (!vhd->partial[block])
        return 0;
    uint64_t host = vhd->flat.host[block];
    if (r == 0)
        r = store_write(image->store, data, size, host);
    if (r == 0)
        r = store_flush(image->store);
    memset(bitmap, 0xff, vhd->bitmap_size);
    if (r == 0)
        r = store_write(image->store, bitmap, vhd->bitmap_size, host - vhd->bitmap_size);
    if (r == 0)
        r = store_flush(image->store);
    if (r == 0)
        vhd->partial[block] = 0;
    return r;
}

/* ---- writing ---- */

static int vhd_write(struct image *image, const void *data, size_t len, uint64_t offset)
{
    struct vhd *vhd = vhd_of(image);
    uint64_t last = (offset + len - 1) / vhd->flat.block_size;
    for (uint64_t b = offset / vhd->flat.block_size; vhd->partial && b <= last; b++) {
        pthread_mutex_lock(&vhd->flat.lock);
        bool partial = vhd->partial[b];
        pthread_mutex_unlock(&vhd->flat.lock);
        int r = partial ? vhd_complete(vhd, b) : 0;
        if (r < 0)
            return r;
    }
    return flat_write(image, data, len, offset);
}

static int vhd_zero(struct image *image, uint64_t offset, uint64_t len, unsigned flags)
{
    enum { CHUNK = 1 << 20 };
    if (!vhd_of(image)->partial)
        return flat_zero(image, offset, len, flags);
    AUTO(free) uint8_t *zeros = calloc(1, len < CHUNK ? len : CHUNK);
    if (!zeros)
        return -ENOMEM;
    for (uint64_t at = 0, part; at < len; at += part) {
        part = len - at < CHUNK ? len - at : CHUNK;
        int r = vhd_write(image, zeros, part, offset + at);
        if (r < 0)
            return r;
    }
    return 0;
}

/* [bitmap][block][footer] at the end, over the old footer. */
static int vhd_add(struct flat *flat, uint64_t block, uint64_t *host)
{
    struct vhd *vhd = (struct vhd *)flat;
    uint64_t at = flat->end, end = at + vhd->bitmap_size + flat->block_size;
    if (end / VHD_SECTOR >= VHD_UNUSED)
        return -EFBIG;
    AUTO(free) uint8_t *bitmap = malloc(vhd->bitmap_size);
    if (!bitmap)
        return -ENOMEM;
    memset(bitmap, 0xff, vhd->bitmap_size);
    int r = store_write(flat->image.store, vhd->footer, FOOTER_LEN, end);
    if (r == 0)
        r = store_write(flat->image.store, bitmap, vhd->bitmap_size, at);
    if (r < 0)
        return r;
    flat->end = end;
    *host = at + vhd->bitmap_size;
    return 0;
}

static int vhd_enter(struct flat *flat, uint64_t block, uint64_t host)
{
    struct vhd *vhd = (struct vhd *)flat;
    uint8_t entry[4];
    set32(entry, (uint32_t)((host - vhd->bitmap_size) / VHD_SECTOR));
    return store_write(flat->image.store, entry, 4, vhd->table + block * 4);
}

/* ---- opening ---- */

/* Old programs take the size from the geometry. */
static uint64_t footer_size(const uint8_t *footer)
{
    const uint8_t *app = footer + FOOTER_CREATOR;
    uint64_t sectors =
        (uint64_t)be16(footer + FOOTER_CYLINDERS) * footer[FOOTER_HEADS] * footer[FOOTER_SECTORS];
    bool geometry = !memcmp(app, "vpc ", 4) || !memcmp(app, "qemu", 4);
    if (geometry && sectors && sectors < 65535ull * 16 * 255)
        return sectors * VHD_SECTOR;
    return round_down(be64(footer + FOOTER_SIZE), VHD_SECTOR);
}

/* The relative locator, or the name; both end up as a path beside the image. */
static int vhd_parent(struct image *image, const uint8_t *dyn, struct err *err)
{
    char name[512];
    size_t n = 0;
    for (unsigned i = 0; i < 8 && !n; i++) {
        const uint8_t *l = dyn + DYN_LOCATORS + 24 * i;
        uint8_t raw[512];
        uint32_t len = be32(l + 8);
        if (memcmp(l, "W2ru", 4) || !len || len > sizeof raw ||
            store_read(image->store, raw, len, be64(l + 16)) < 0)
            continue;
        for (uint32_t k = 0; k + 1 < len && raw[k]; k += 2)
            name[n++] = raw[k + 1] ? '?' : raw[k] == '\\' ? '/' : (char)raw[k];
    }
    for (unsigned k = 0;
         !n && k < 512 && (dyn[DYN_PARENT_NAME + k] || dyn[DYN_PARENT_NAME + k + 1]); k += 2) {
        for (n = 0; k < 512 && dyn[DYN_PARENT_NAME + k + 1]; k += 2)
            name[n++] = (char)dyn[DYN_PARENT_NAME + k + 1];
        break;
    }
    if (!n)
        return err_set(err, EINVAL, "is a differencing disk that does not name its parent");
    image->backing_name = strndup(name, n);
    image->backing_format = strdup("vhd");
    return image->backing_name && image->backing_format ? 0 : err_set(err, ENOMEM, "out of memory");
}

static int vhd_read_table(struct vhd *vhd, uint32_t entries, struct err *err)
{
    struct flat *flat = &vhd->flat;
    AUTO(free) uint8_t *table = malloc(entries * 4ull + 4);
    AUTO(free) uint8_t *bitmap = malloc(vhd->bitmap_size);
    if (!table || !bitmap)
        return err_set(err, ENOMEM, "out of memory");
    int r = store_read(flat->image.store, table, entries * 4ull, vhd->table);
    for (uint32_t i = 0; r == 0 && i < entries; i++) {
        uint32_t entry = be32(table + i * 4ull);
        if (entry == VHD_UNUSED)
            continue;
        if (entry < 3)
            return err_set(err, EINVAL, "a block lies in the header");
        flat->host[i] = (uint64_t)entry * VHD_SECTOR + vhd->bitmap_size;
        if (!vhd->partial)
            continue;
        r = store_read(flat->image.store, bitmap, vhd->bitmap_size, (uint64_t)entry * VHD_SECTOR);
        uint64_t bits = flat->block_size / VHD_SECTOR / 8;
        for (uint64_t k = 0; r == 0 && k < bits; k++)
            vhd->partial[i] |= bitmap[k] != 0xff;
    }
    return r < 0 ? err_errno(err, -r, "cannot read the block table") : 0;
}

static int vhd_open_dynamic(struct vhd *vhd, uint32_t type, bool tail, uint64_t file_size,
                            struct err *err)
{
    struct flat *flat = &vhd->flat;
    uint8_t dyn[DYN_LEN];
    int r = store_read(flat->image.store, dyn, sizeof dyn, be64(vhd->footer + FOOTER_DATA_OFFSET));
    if (r < 0)
        return err_errno(err, -r, "cannot read the dynamic header");
    if (memcmp(dyn, "cxsparse", 8) ||
        be32(dyn + DYN_CHECKSUM) != vhd_checksum(dyn, DYN_LEN, DYN_CHECKSUM))
        return err_set(err, EINVAL, "has a damaged dynamic header");
    uint32_t entries = be32(dyn + DYN_ENTRIES), block = be32(dyn + DYN_BLOCK);
    if (!is_power_of_two(block) || block < 4096 || block > 256 << 20)
        return err_set(err, EINVAL, "has blocks of %u bytes", block);
    if (flat->image.size > (uint64_t)entries * block)
        return err_set(err, EINVAL, "has too few blocks for its size");
    flat->block_size = flat->image.cluster_size = block;
    vhd->table = be64(dyn + DYN_TABLE);
    vhd->bitmap_size = round_up(block / VHD_SECTOR / 8, VHD_SECTOR);
    flat->add = vhd_add;
    flat->enter = vhd_enter;
    flat->end = tail ? file_size - FOOTER_LEN : round_up(file_size, VHD_SECTOR);
    uint64_t blocks = flat->image.size / block + !!(flat->image.size % block);
    r = flat_setup(flat, blocks, err);
    if (r == 0 && type == TYPE_DIFFERENCING) {
        vhd->partial = calloc(blocks + 1, 1);
        r = vhd->partial ? vhd_parent(&flat->image, dyn, err)
                         : err_set(err, ENOMEM, "out of memory");
    } else if (r == 0) {
        flat->image.direct_store = flat->image.store;
    }
    return r < 0 ? r : vhd_read_table(vhd, (uint32_t)blocks, err);
}

static int vhd_open(struct image *image, const struct image_options *options, struct err *err)
{
    struct vhd *vhd = vhd_of(image);
    struct flat *flat = &vhd->flat;
    uint64_t size;
    flat_init(flat);
    int r = store_size(image->store, &size);
    if (r == 0 && size >= FOOTER_LEN)
        r = store_read(image->store, vhd->footer, FOOTER_LEN, size - FOOTER_LEN);
    bool tail = footer_is_good(vhd->footer);
    if (r == 0 && !tail) /* cut off while a block was added */
        r = store_read(image->store, vhd->footer, FOOTER_LEN, 0);
    if (r < 0)
        return err_errno(err, -r, "cannot read the footer");
    if (!footer_is_good(vhd->footer))
        return err_set(err, EINVAL, "is not in VHD format, or its footer is damaged");
    uint32_t type = be32(vhd->footer + FOOTER_TYPE);
    image->size = footer_size(vhd->footer);
    if (type == TYPE_DYNAMIC || type == TYPE_DIFFERENCING)
        return vhd_open_dynamic(vhd, type, tail, size, err);
    if (type != TYPE_FIXED)
        return err_set(err, ENOTSUP, "is a VHD of unknown type %u", type);
    if (image->size > size - FOOTER_LEN)
        return err_set(err, EINVAL, "is shorter than its disk");
    flat->block_size = 256 << 20;
    flat->add = vhd_add; /* never called: all blocks are there */
    flat->enter = vhd_enter;
    image->direct_store = image->store;
    /* Block 0 is told from FLAT_NONE by its place: fixed disks are handled whole. */
    return flat_setup(flat, 0, err);
}

/* Fixed: the disk is the file. */
static bool vhd_is_fixed(struct image *image) { return !vhd_of(image)->flat.blocks; }

static int vhd_any_read(struct image *image, void *data, size_t len, uint64_t offset)
{
    return vhd_is_fixed(image) ? store_read(image->store, data, len, offset)
                               : vhd_read(image, data, len, offset);
}

static int vhd_any_write(struct image *image, const void *data, size_t len, uint64_t offset)
{
    return vhd_is_fixed(image) ? store_write(image->store, data, len, offset)
                               : vhd_write(image, data, len, offset);
}

static int vhd_any_zero(struct image *image, uint64_t offset, uint64_t len, unsigned flags)
{
    return vhd_is_fixed(image) ? store_zero(image->store, offset, len, !(flags & IMAGE_UNMAP))
                               : vhd_zero(image, offset, len, flags);
}

static int vhd_any_status(struct image *image, uint64_t offset, uint64_t len,
                          struct image_extent *out)
{
    if (!vhd_is_fixed(image))
        return vhd_status(image, offset, len, out);
    bool zero;
    int r = store_status(image->store, offset, &out->len, &zero);
    out->flags = IMAGE_ALLOCATED | IMAGE_HOST | (zero ? IMAGE_ZERO : 0);
    out->host = offset;
    return r;
}

static bool vhd_any_direct(struct image *image, struct block_hold *hold, uint64_t offset,
                           uint64_t len, bool write, uint64_t *host)
{
    *host = offset;
    return vhd_is_fixed(image) || flat_direct_map(image, hold, offset, len, write, host);
}

static int vhd_close(struct image *image)
{
    int r = flat_close(image);
    free(vhd_of(image)->partial);
    return r;
}

/* ---- creating ---- */

/* The specification's appendix: cylinders, heads and sectors for a number of sectors. */
static void vhd_geometry(uint64_t total, uint8_t *footer)
{
    uint32_t sectors, heads, rest;
    if (total > 65535ull * 16 * 255)
        total = 65535ull * 16 * 255;
    if (total >= 65535ull * 16 * 63) {
        sectors = 255;
        heads = 16;
        rest = (uint32_t)(total / sectors);
    } else {
        sectors = 17;
        rest = (uint32_t)(total / sectors);
        heads = (rest + 1023) / 1024;
        heads = heads < 4 ? 4 : heads;
        if (rest >= heads * 1024 || heads > 16) {
            sectors = 31;
            heads = 16;
            rest = (uint32_t)(total / sectors);
        }
        if (rest >= heads * 1024) {
            sectors = 63;
            heads = 16;
            rest = (uint32_t)(total / sectors);
        }
    }
    footer[FOOTER_CYLINDERS] = (uint8_t)(rest / heads >> 8);
    footer[FOOTER_CYLINDERS + 1] = (uint8_t)(rest / heads);
    footer[FOOTER_HEADS] = (uint8_t)heads;
    footer[FOOTER_SECTORS] = (uint8_t)sectors;
}

static void vhd_footer(uint8_t *footer, uint64_t size, uint32_t type)
{
    memset(footer, 0, FOOTER_LEN);
    memcpy(footer, "conectix", 8);
    set32(footer + 8, 2);
    set32(footer + 12, 0x00010000);
    set64(footer + FOOTER_DATA_OFFSET, type == TYPE_FIXED ? UINT64_MAX : FOOTER_LEN);
    set32(footer + FOOTER_TIME, (uint32_t)(time(NULL) - VHD_EPOCH));
    memcpy(footer + FOOTER_CREATOR, "win ", 4); /* "the size field counts, not the geometry" */
    set32(footer + 32, 0x00060001);
    memcpy(footer + 36, "Wi2k", 4);
    set64(footer + FOOTER_ORIGINAL, size);
    set64(footer + FOOTER_SIZE, size);
    vhd_geometry(size / VHD_SECTOR, footer);
    set32(footer + FOOTER_TYPE, type);
    if (getrandom(footer + FOOTER_UUID, 16, 0) != 16)
        footer[FOOTER_UUID] = 1;
    set32(footer + FOOTER_CHECKSUM, vhd_checksum(footer, FOOTER_LEN, FOOTER_CHECKSUM));
}

static int vhd_create(const struct image_create *create, struct store *store, struct err *err)
{
    char kind[16] = "dynamic";
    image_option_get(create->options, "subformat", kind, sizeof kind);
    bool fixed = !strcmp(kind, "fixed");
    if (!fixed && strcmp(kind, "dynamic"))
        return err_set(err, EINVAL, "subformat=%s: there is fixed and dynamic", kind);
    if (create->size > VHD_MAX_SIZE || create->size % VHD_SECTOR)
        return err_set(err, EFBIG,
                       "a VHD has at most 2040 GiB, in sectors of 512 bytes; use qcow2");
    uint8_t footer[FOOTER_LEN], dyn[DYN_LEN] = "cxsparse";
    vhd_footer(footer, create->size, fixed ? TYPE_FIXED : TYPE_DYNAMIC);
    if (fixed) {
        int r = store_write(store, footer, FOOTER_LEN, create->size);
        return r < 0 ? err_errno(err, -r, "cannot write") : 0;
    }
    uint64_t entries = create->size / VHD_BLOCK + !!(create->size % VHD_BLOCK);
    set64(dyn + 8, UINT64_MAX);
    set64(dyn + DYN_TABLE, FOOTER_LEN + DYN_LEN);
    set32(dyn + DYN_VERSION, 0x00010000);
    set32(dyn + DYN_ENTRIES, (uint32_t)entries);
    set32(dyn + DYN_BLOCK, VHD_BLOCK);
    set32(dyn + DYN_CHECKSUM, vhd_checksum(dyn, DYN_LEN, DYN_CHECKSUM));
    uint64_t table_len = round_up(entries * 4, VHD_SECTOR);
    AUTO(free) uint8_t *table = malloc(table_len + 1);
    if (!table)
        return err_set(err, ENOMEM, "out of memory");
    memset(table, 0xff, table_len);
    int r = store_write(store, footer, FOOTER_LEN, 0);
    if (r == 0)
        r = store_write(store, dyn, DYN_LEN, FOOTER_LEN);
    if (r == 0)
        r = store_write(store, table, table_len, FOOTER_LEN + DYN_LEN);
    if (r == 0)
        r = store_write(store, footer, FOOTER_LEN, FOOTER_LEN + DYN_LEN + table_len);
    return r < 0 ? err_errno(err, -r, "cannot write") : 0;
}

static const struct image_option vhd_options[] = {
    { "subformat", "dynamic or fixed (dynamic)" },
    { NULL },
};

const struct image_format image_vhd = {
    .name = "vhd",
    .about = "Virtual PC's and Azure's: fixed, dynamic, differencing",
    .options = vhd_options,
    .struct_size = sizeof(struct vhd),
    .create = vhd_create,
    .open = vhd_open,
    .close = vhd_close,
    .read = vhd_any_read,
    .write = vhd_any_write,
    .zero = vhd_any_zero,
    .flush = flat_flush,
    .status = vhd_any_status,
    .check = flat_check,
    .direct_map = vhd_any_direct,
    .direct_done = flat_direct_done,
    .is_clean = flat_is_clean,
};
