/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * VHD ("Virtual Hard Disk Image Format Specification", Microsoft, 2006): fixed, dynamic, and
 * differencing, all read, written and created. Big-endian.
 *
 *   fixed:    [data][footer]
 *   dynamic:  [copy of footer][dynamic header][BAT] ([sector bitmap][block])... [footer]
 *
 * A new block takes the footer's place, so the new footer is written first, behind it; between the
 * two only the copy at the start is there, which opening accepts (and, for writing, makes the same
 * as the footer first). In a differencing disk a block's bitmap says which sectors it holds; blocks
 * of ours hold all.
 */
#include "block/flat.h"

#include "base/checked.h"
#include "base/json.h"
#include "base/text.h"
#include "block/bytes.h"

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
       DYN_PARENT_UUID = 40,
       DYN_PARENT_TIME = 56,
       DYN_PARENT_NAME = 64,
       DYN_LOCATORS = 576,
       DYN_LEN = 1024,
};
enum { LOCATORS = 8, LOCATOR_LEN = 24, LOCATOR_ROOM = 1024 };
enum { TYPE_FIXED = 2, TYPE_DYNAMIC = 3, TYPE_DIFFERENCING = 4 };
enum { VHD_SECTOR = 512, VHD_BLOCK = 2 << 20, VHD_EPOCH = 946684800 };
#define VHD_UNUSED 0xffffffffu
#define VHD_MAX_SIZE (2040ull << 30)

struct vhd {
    struct flat flat;
    uint8_t footer[FOOTER_LEN];
    uint64_t table, bitmap_size;
    uint8_t dyn[DYN_LEN]; /* the dynamic header */
};

static struct vhd *vhd_of(struct image *image) { return (struct vhd *)image; }

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

/* ---- blocks ---- */

/* The bitmap in front of a block has the first sector in its highest bit. */
static int vhd_present(struct flat *flat, uint64_t block, uint64_t in_block, uint64_t *run,
                       bool *here)
{
    enum { LOOK = 64 };
    uint8_t bits[LOOK];
    uint64_t sector = in_block / VHD_SECTOR, all = flat->block_size / VHD_SECTOR;
    /* Blocks of others do not move, so this needs no lock. */
    uint64_t place = flat->host[block] - vhd_of(&flat->image)->bitmap_size + sector / 8;
    int r = store_read(flat->image.store, bits, sizeof bits, place);
    if (r < 0)
        return r;
    uint64_t first = round_down(sector, 8), end = first + LOOK * 8 < all ? first + LOOK * 8 : all;
    uint64_t at = sector;
    *here = bits[(at - first) / 8] & (0x80 >> (at & 7));
    while (at < end && !(bits[(at - first) / 8] & (0x80 >> (at & 7))) == !*here)
        at++;
    *run = at * VHD_SECTOR - in_block;
    return 0;
}

static int vhd_completed(struct flat *flat, uint64_t block)
{
    struct vhd *vhd = vhd_of(&flat->image);
    AUTO(free) uint8_t *bitmap = malloc(vhd->bitmap_size);
    if (!bitmap)
        return -ENOMEM;
    memset(bitmap, 0xff, vhd->bitmap_size);
    int r = store_write(flat->image.store, bitmap, vhd->bitmap_size,
                        flat->host[block] - vhd->bitmap_size);
    return r < 0 ? r : store_flush(flat->image.store);
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
    set_be32(entry, (uint32_t)((host - vhd->bitmap_size) / VHD_SECTOR));
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

/* A path of Windows, relative or not, as a path beside the image. */
static void vhd_unix_path(char *name)
{
    for (char *p = name; *p; p++)
        if (*p == '\\')
            *p = '/';
    if (!strncmp(name, "./", 2))
        memmove(name, name + 2, strlen(name + 2) + 1);
}

/* The relative locator, or the name, which is in UTF-16 of the other byte order. */
static int vhd_parent(struct image *image, const uint8_t *dyn, struct err *err)
{
    enum { MOST = 1024, NAME = 512 };
    char name[2 * MOST] = "";
    uint8_t raw[MOST];
    for (unsigned i = 0; i < LOCATORS && !name[0]; i++) {
        const uint8_t *l = dyn + DYN_LOCATORS + LOCATOR_LEN * i;
        uint32_t len = be32(l + 8);
        if (memcmp(l, "W2ru", 4) || !len || len > sizeof raw ||
            store_read(image->store, raw, len, be64(l + 16)) < 0)
            continue;
        utf8_from_utf16le(raw, len, name, sizeof name);
    }
    for (unsigned k = 0; !name[0] && k < NAME; k += 2) {
        raw[k] = dyn[DYN_PARENT_NAME + k + 1];
        raw[k + 1] = dyn[DYN_PARENT_NAME + k];
    }
    if (!name[0])
        utf8_from_utf16le(raw, NAME, name, sizeof name);
    vhd_unix_path(name);
    if (!name[0])
        return err_set(err, EINVAL, "is a differencing disk that does not name its parent");
    image->backing_name = strdup(name);
    image->backing_format = strdup("vhd");
    return image->backing_name && image->backing_format ? 0 : err_set(err, ENOMEM, "out of memory");
}

static int vhd_check_backing(struct image *image, struct err *err)
{
    const uint8_t *uuid = vhd_of(image->backing)->footer + FOOTER_UUID;
    if (!memcmp(uuid, vhd_of(image)->dyn + DYN_PARENT_UUID, 16))
        return 0;
    return err_set(err, EINVAL,
                   "backing file %s is not the one it was made over (its id differs); if it is, "
                   "record it anew with: bedplate-img rebase -u -F vhd -b",
                   image->backing->path);
}

static int vhd_read_table(struct vhd *vhd, uint32_t entries, struct err *err)
{
    struct flat *flat = &vhd->flat;
    AUTO(free) uint8_t *table = malloc(entries * 4ull + 4);
    AUTO(free) uint8_t *bitmap = malloc(vhd->bitmap_size);
    if (!table || !bitmap)
        return err_set(err, ENOMEM, "out of memory");
    int r = vhd->table > 1ull << 60
                ? err_set(err, EINVAL, "its block table lies at a wrong place")
                : image_check_whole(&flat->image, vhd->table + entries * 4ull, err);
    if (r < 0)
        return r;
    r = store_read(flat->image.store, table, entries * 4ull, vhd->table);
    for (uint32_t i = 0; r == 0 && i < entries; i++) {
        uint32_t entry = be32(table + i * 4ull);
        if (entry == VHD_UNUSED)
            continue;
        if (entry < 3)
            return err_set(err, EINVAL, "a block lies in the header");
        flat->host[i] = (uint64_t)entry * VHD_SECTOR + vhd->bitmap_size;
        if (!flat->partial)
            continue;
        r = store_read(flat->image.store, bitmap, vhd->bitmap_size, (uint64_t)entry * VHD_SECTOR);
        uint64_t bits = flat->block_size / VHD_SECTOR / 8;
        for (uint64_t k = 0; r == 0 && k < bits; k++)
            flat->partial[i] |= bitmap[k] != 0xff;
    }
    return r < 0 ? err_errno(err, -r, "cannot read the block table") : 0;
}

/* Both copies, the one that counts first; the rest of the image is durable. */
static int footers_write(struct vhd *vhd, const uint8_t *footer, uint64_t end)
{
    struct store *store = vhd->flat.image.store;
    int r = store_write(store, footer, FOOTER_LEN, end);
    if (r == 0)
        r = store_flush(store);
    if (r == 0)
        r = store_write(store, footer, FOOTER_LEN, 0);
    return r < 0 ? r : store_flush(store);
}

/* Makes another footer count, behind what lies from flat->end to `end`. */
static int footers_switch(struct vhd *vhd, const uint8_t *footer, uint64_t end)
{
    vhd->flat.end = end; /* no block goes over what is there now, even when this fails */
    int r = footers_write(vhd, footer, end);
    if (r < 0)
        footers_write(vhd, vhd->footer, end); /* perhaps the new one was written */
    else
        memcpy(vhd->footer, footer, FOOTER_LEN);
    return r;
}

/* A cut between the two of footers_write left an old copy at the start. */
static int footers_agree(struct vhd *vhd, struct err *err)
{
    struct store *store = vhd->flat.image.store;
    uint8_t copy[FOOTER_LEN];
    int r = store_read(store, copy, FOOTER_LEN, 0);
    if (r == 0 && memcmp(copy, vhd->footer, FOOTER_LEN)) {
        r = store_write(store, vhd->footer, FOOTER_LEN, 0);
        if (r == 0)
            r = store_flush(store);
    }
    return r < 0 ? err_errno(err, -r, "cannot mend the copy of its footer") : 0;
}

static int vhd_open_dynamic(struct vhd *vhd, uint32_t type, bool tail, uint64_t file_size,
                            struct err *err)
{
    struct flat *flat = &vhd->flat;
    uint8_t *dyn = vhd->dyn;
    int r = store_read(flat->image.store, dyn, DYN_LEN, be64(vhd->footer + FOOTER_DATA_OFFSET));
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
    flat->first = FOOTER_LEN + DYN_LEN;
    flat->reach = block - 1;
    flat->end = tail ? file_size - FOOTER_LEN : round_up(file_size, VHD_SECTOR);
    uint64_t blocks = flat->image.size / block + !!(flat->image.size % block);
    r = flat_setup(flat, blocks, err);
    if (r == 0 && type == TYPE_DIFFERENCING) {
        flat->partial = calloc(blocks + 1, 1);
        flat->present = vhd_present;
        flat->completed = vhd_completed;
        r = flat->partial ? vhd_parent(&flat->image, dyn, err)
                          : err_set(err, ENOMEM, "out of memory");
    } else if (r == 0) {
        flat->image.direct_store = flat->image.store;
    }
    if (r == 0)
        r = vhd_read_table(vhd, (uint32_t)blocks, err);
    if (r == 0)
        r = flat_check_whole(flat, err);
    return r == 0 && tail && !flat->image.readonly ? footers_agree(vhd, err) : r;
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
    image->discard_unit = FLAT_DISCARD;
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
                               : flat_read(image, data, len, offset);
}

static int vhd_any_write(struct image *image, const void *data, size_t len, uint64_t offset)
{
    return vhd_is_fixed(image) ? store_write(image->store, data, len, offset)
                               : flat_write(image, data, len, offset);
}

static int vhd_any_zero(struct image *image, uint64_t offset, uint64_t len, unsigned flags)
{
    return vhd_is_fixed(image) ? store_zero(image->store, offset, len, !(flags & IMAGE_UNMAP))
                               : flat_zero(image, offset, len, flags);
}

static int vhd_any_discard(struct image *image, uint64_t offset, uint64_t len)
{
    if (!vhd_is_fixed(image))
        return flat_discard(image, offset, len);
    store_punch(image->store, offset, len);
    return 0;
}

static int vhd_any_status(struct image *image, uint64_t offset, uint64_t len,
                          struct image_extent *out)
{
    if (!vhd_is_fixed(image))
        return flat_status(image, offset, len, out);
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

/* ---- headers and footers ---- */

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

/* Both sizes, since libvhdi goes by the original one. Who takes it from the geometry is told by the
 * creator not to. */
static void footer_resize(uint8_t *footer, uint64_t size)
{
    memcpy(footer + FOOTER_CREATOR, "win ", 4); /* "the size field counts, not the geometry" */
    set_be64(footer + FOOTER_ORIGINAL, size);
    set_be64(footer + FOOTER_SIZE, size);
    vhd_geometry(size / VHD_SECTOR, footer);
    set_be32(footer + FOOTER_CHECKSUM, vhd_checksum(footer, FOOTER_LEN, FOOTER_CHECKSUM));
}

static void vhd_footer(uint8_t *footer, uint64_t size, uint32_t type)
{
    memset(footer, 0, FOOTER_LEN);
    memcpy(footer, "conectix", 8);
    set_be32(footer + 8, 2);
    set_be32(footer + 12, 0x00010000);
    set_be64(footer + FOOTER_DATA_OFFSET, type == TYPE_FIXED ? UINT64_MAX : FOOTER_LEN);
    set_be32(footer + FOOTER_TIME, (uint32_t)(time(NULL) - VHD_EPOCH));
    set_be32(footer + 32, 0x00060001);
    memcpy(footer + 36, "Wi2k", 4);
    set_be32(footer + FOOTER_TYPE, type);
    if (getrandom(footer + FOOTER_UUID, 16, 0) != 16)
        footer[FOOTER_UUID] = 1;
    footer_resize(footer, size);
}

/* The parent's id, time and name go into the dynamic header, and its path into a locator, whose
 * data shall lie at `place`. */
static int vhd_name_parent(uint8_t *dyn, uint8_t *data, uint64_t place, const char *path,
                           const char *name, struct err *err)
{
    AUTO(free) char *full = image_child_path(path, name);
    if (!full)
        return err_set(err, ENOMEM, "out of memory");
    struct image_options options = {
        .path = full, .format = "vhd", .readonly = true, .no_backing = true
    };
    AUTO(image_drop) struct image *parent = NULL;
    int r = image_open(&options, &parent, err);
    if (r < 0)
        return err_prefix(err, "backing file");
    const uint8_t *footer = vhd_of(parent)->footer;
    memcpy(dyn + DYN_PARENT_UUID, footer + FOOTER_UUID, 16);
    memcpy(dyn + DYN_PARENT_TIME, footer + FOOTER_TIME, 4);

    AUTO(free) char *windows = NULL;
    bool relative = name[0] != '/';
    if (strlen(name) > LOCATOR_ROOM / 2 - 8 ||
        asprintf(&windows, "%s%s", relative ? "./" : "", name) < 0)
        return err_set(err, ENAMETOOLONG, "its backing file's name is too long for a VHD");
    for (char *p = windows; *p; p++)
        *p = *p == '/' ? '\\' : *p;
    memset(data, 0, LOCATOR_ROOM);
    size_t len = utf16le_from_utf8(windows, data, LOCATOR_ROOM);
    uint8_t *l = dyn + DYN_LOCATORS;
    memset(l, 0, (size_t)LOCATOR_LEN * LOCATORS);
    memcpy(l, "W2ru", 4);
    set_be32(l + 4, LOCATOR_ROOM);
    set_be32(l + 8, (uint32_t)len);
    set_be64(l + 16, place);

    const char *slash = strrchr(name, '/');
    uint8_t utf16[512] = { 0 };
    utf16le_from_utf8(slash ? slash + 1 : name, utf16, sizeof utf16 - 2);
    for (unsigned i = 0; i < sizeof utf16; i += 2)
        set_be16(dyn + DYN_PARENT_NAME + i, le16(utf16 + i));
    return 0;
}

static void vhd_dynamic(uint8_t *dyn, uint64_t size)
{
    memset(dyn, 0, DYN_LEN);
    memcpy(dyn, "cxsparse", 8);
    set_be64(dyn + 8, UINT64_MAX);
    set_be64(dyn + DYN_TABLE, FOOTER_LEN + DYN_LEN);
    set_be32(dyn + DYN_VERSION, 0x00010000);
    set_be32(dyn + DYN_ENTRIES, (uint32_t)(size / VHD_BLOCK + !!(size % VHD_BLOCK)));
    set_be32(dyn + DYN_BLOCK, VHD_BLOCK);
}

/*
 * A new dynamic header goes where the footer was, with the locator and a new footer behind it; then
 * the copy of the footer at the start is made to agree. Until the new footer is there, that copy
 * (and the old header) counts.
 */
static int vhd_set_backing(struct image *image, const char *backing, const char *format,
                           struct err *err)
{
    struct vhd *vhd = vhd_of(image);
    struct flat *flat = &vhd->flat;
    if (!flat->partial)
        return err_set(err, ENOTSUP, "is no differencing VHD, so it can have no backing file");
    if (!backing || strcmp(format, "vhd"))
        return err_set(err, ENOTSUP, "a differencing VHD has to have a VHD below it; convert it");
    uint8_t dyn[DYN_LEN], footer[FOOTER_LEN], data[LOCATOR_ROOM];
    uint64_t at = flat->end;
    memcpy(dyn, vhd->dyn, DYN_LEN);
    memcpy(footer, vhd->footer, FOOTER_LEN);
    int r = vhd_name_parent(dyn, data, at + DYN_LEN, image->path, backing, err);
    if (r < 0)
        return r;
    set_be32(dyn + DYN_CHECKSUM, vhd_checksum(dyn, DYN_LEN, DYN_CHECKSUM));
    set_be64(footer + FOOTER_DATA_OFFSET, at);
    set_be32(footer + FOOTER_CHECKSUM, vhd_checksum(footer, FOOTER_LEN, FOOTER_CHECKSUM));
    r = flat_flush(image);
    if (r == 0)
        r = store_write(image->store, dyn, DYN_LEN, at);
    if (r == 0)
        r = store_write(image->store, data, LOCATOR_ROOM, at + DYN_LEN);
    if (r == 0)
        r = store_flush(image->store);
    flat->end = at + DYN_LEN + LOCATOR_ROOM;
    if (r == 0)
        r = footers_switch(vhd, footer, flat->end);
    if (r < 0)
        return err_errno(err, -r, "cannot write its header");
    memcpy(vhd->dyn, dyn, DYN_LEN);
    return 0;
}

/* ---- another size ---- */

static uint64_t table_room(uint64_t entries) { return round_up(entries * 4, VHD_SECTOR); }

static void dyn_set(uint8_t *dyn, uint64_t table, uint64_t entries)
{
    set_be64(dyn + DYN_TABLE, table);
    set_be32(dyn + DYN_ENTRIES, (uint32_t)entries);
    set_be32(dyn + DYN_CHECKSUM, vhd_checksum(dyn, DYN_LEN, DYN_CHECKSUM));
}

/* The table as it shall be, with unused entries from flat.blocks on. */
static uint8_t *table_make(const struct vhd *vhd, uint64_t entries)
{
    const struct flat *flat = &vhd->flat;
    uint8_t *table = malloc(table_room(entries));
    if (!table)
        return NULL;
    memset(table, 0xff, table_room(entries));
    for (uint64_t i = 0; i < flat->blocks && i < entries; i++)
        if (flat->host[i] > FLAT_ZERO)
            set_be32(table + i * 4, (uint32_t)((flat->host[i] - vhd->bitmap_size) / VHD_SECTOR));
    return table;
}

/*
 * Makes room for `entries` in the table, before the disk has that size. Where the old table's room
 * does, its unused part is written; what counts entries and checksum is one sector. Otherwise a new
 * header and table go behind the last block, to which footers will point: *end and *footer change.
 */
static int table_grow(struct vhd *vhd, uint64_t entries, uint8_t *dyn, uint8_t *footer,
                      uint64_t *end)
{
    struct store *store = vhd->flat.image.store;
    uint64_t room = table_room(be32(dyn + DYN_ENTRIES)), from = vhd->flat.blocks * 4;
    AUTO(free) uint8_t *table = table_make(vhd, entries);
    if (!table)
        return -ENOMEM;
    if (table_room(entries) <= room) {
        int r = store_write(store, table + from, table_room(entries) - from, vhd->table + from);
        if (r == 0)
            r = store_flush(store);
        if (r < 0 || entries <= be32(dyn + DYN_ENTRIES))
            return r;
        dyn_set(dyn, vhd->table, entries);
        r = store_write(store, dyn, VHD_SECTOR, be64(footer + FOOTER_DATA_OFFSET));
        return r < 0 ? r : store_flush(store);
    }
    dyn_set(dyn, *end + DYN_LEN, entries);
    set_be64(footer + FOOTER_DATA_OFFSET, *end);
    int r = store_write(store, dyn, DYN_LEN, *end);
    if (r == 0)
        r = store_write(store, table, table_room(entries), *end + DYN_LEN);
    *end += DYN_LEN + table_room(entries);
    return r < 0 ? r : store_flush(store);
}

static int vhd_resize_dynamic(struct vhd *vhd, uint64_t size, uint8_t *footer)
{
    struct flat *flat = &vhd->flat;
    uint8_t dyn[DYN_LEN];
    uint64_t blocks = size / flat->block_size + !!(size % flat->block_size);
    uint64_t old = flat->blocks, end = flat->end;
    AUTO(buf_fini) struct buf gone = { 0 };
    memcpy(dyn, vhd->dyn, DYN_LEN);
    int r = flat_flush(&flat->image);
    if (r == 0 && size > flat->image.size)
        r = flat_zero_tail(flat);
    if (r == 0 && blocks > flat->blocks)
        r = table_grow(vhd, blocks, dyn, footer, &end);
    flat->end = end;
    if (r == 0 && blocks > flat->blocks)
        r = flat_table_fit(flat, blocks, FLAT_NONE, &gone);
    if (r < 0)
        return r;
    footer_resize(footer, size);
    r = footers_switch(vhd, footer, end);
    if (r < 0) {
        flat_table_fit(flat, old, FLAT_NONE, &gone);
        return r;
    }
    memcpy(vhd->dyn, dyn, DYN_LEN);
    vhd->table = be64(dyn + DYN_TABLE);
    r = flat_table_fit(flat, blocks, FLAT_NONE, &gone);
    flat_give_back(flat, vhd->bitmap_size, &gone);
    return r;
}

/* The footer is the last sector. A cut before the old one's place is cleared leaves that where the
 * disk was never written. What fails is undone, as far as the file can still be written. */
static int fixed_grow(struct vhd *vhd, uint64_t size, const uint8_t *footer)
{
    struct image *image = &vhd->flat.image;
    int r = store_write(image->store, footer, FOOTER_LEN, size);
    if (r == 0)
        r = store_flush(image->store);
    if (r == 0)
        r = store_zero(image->store, image->size, FOOTER_LEN, false);
    if (r == 0)
        r = store_flush(image->store);
    if (r < 0) {
        store_write(image->store, vhd->footer, FOOTER_LEN, image->size);
        store_truncate(image->store, image->size + FOOTER_LEN);
    }
    return r;
}

static int fixed_shrink(struct vhd *vhd, uint64_t size, const uint8_t *footer)
{
    struct store *store = vhd->flat.image.store;
    uint8_t under[FOOTER_LEN]; /* the disk's, where the footer will be */
    int r = store_read(store, under, FOOTER_LEN, size);
    if (r < 0)
        return r;
    r = store_write(store, footer, FOOTER_LEN, size);
    if (r == 0)
        r = store_flush(store);
    if (r == 0)
        r = store_truncate(store, size + FOOTER_LEN);
    if (r < 0) {
        store_write(store, under, FOOTER_LEN, size);
        return r;
    }
    vhd->flat.image.size = size; /* from here on there is no way back */
    memcpy(vhd->footer, footer, FOOTER_LEN);
    return store_flush(store);
}

static int vhd_resize_fixed(struct vhd *vhd, uint64_t size, uint8_t *footer)
{
    footer_resize(footer, size);
    if (size < vhd->flat.image.size)
        return fixed_shrink(vhd, size, footer);
    int r = fixed_grow(vhd, size, footer);
    if (r == 0)
        memcpy(vhd->footer, footer, FOOTER_LEN);
    return r;
}

static int vhd_resize(struct image *image, uint64_t size, enum image_preallocation prealloc,
                      struct err *err)
{
    struct vhd *vhd = vhd_of(image);
    uint8_t footer[FOOTER_LEN];
    if (vhd->flat.partial)
        return err_set(err, ENOTSUP,
                       "is a differencing VHD, which has the size of its backing file; commit or "
                       "convert it first");
    int r = flat_check_size(size, VHD_SECTOR, VHD_MAX_SIZE, prealloc, err);
    if (r < 0 || size == image->size)
        return r;
    memcpy(footer, vhd->footer, FOOTER_LEN);
    r = vhd_is_fixed(image) ? vhd_resize_fixed(vhd, size, footer)
                            : vhd_resize_dynamic(vhd, size, footer);
    if (r < 0)
        return err_errno(err, -r, "cannot write its tables");
    image->size = size;
    return 0;
}

/* ---- creating ---- */

/* [footer][header][table][locator][footer] */
static int vhd_create_dynamic(const struct image_create *create, struct store *store,
                              struct err *err)
{
    uint8_t footer[FOOTER_LEN], dyn[DYN_LEN], locator[LOCATOR_ROOM];
    uint64_t entries = create->size / VHD_BLOCK + !!(create->size % VHD_BLOCK);
    uint64_t table_len = round_up(entries * 4, VHD_SECTOR), at = FOOTER_LEN + DYN_LEN;
    int r = 0;
    vhd_footer(footer, create->size, create->backing ? TYPE_DIFFERENCING : TYPE_DYNAMIC);
    vhd_dynamic(dyn, create->size);
    if (create->backing)
        r = vhd_name_parent(dyn, locator, at + table_len, create->path, create->backing, err);
    if (r < 0)
        return r;
    set_be32(dyn + DYN_CHECKSUM, vhd_checksum(dyn, DYN_LEN, DYN_CHECKSUM));
    AUTO(free) uint8_t *table = malloc(table_len + 1);
    if (!table)
        return err_set(err, ENOMEM, "out of memory");
    memset(table, 0xff, table_len);
    r = store_write(store, footer, FOOTER_LEN, 0);
    if (r == 0)
        r = store_write(store, dyn, DYN_LEN, FOOTER_LEN);
    if (r == 0)
        r = store_write(store, table, table_len, at);
    at += table_len;
    if (r == 0 && create->backing)
        r = store_write(store, locator, LOCATOR_ROOM, at);
    at += create->backing ? LOCATOR_ROOM : 0;
    if (r == 0)
        r = store_write(store, footer, FOOTER_LEN, at);
    return r < 0 ? err_errno(err, -r, "cannot write") : 0;
}

static int vhd_create(const struct image_create *create, struct store *store, struct err *err)
{
    char kind[16] = "dynamic", size_kept[8] = "on";
    image_option_get(create->options, "subformat", kind, sizeof kind);
    image_option_get(create->options, "force_size", size_kept, sizeof size_kept);
    bool fixed = !strcmp(kind, "fixed");
    if (!fixed && strcmp(kind, "dynamic"))
        return err_set(err, EINVAL, "subformat=%s: there is fixed and dynamic", kind);
    if (strcmp(size_kept, "on"))
        return err_set(err, ENOTSUP, "force_size=%s: sizes are always kept as given", size_kept);
    if (create->size > VHD_MAX_SIZE || create->size % VHD_SECTOR)
        return err_set(err, EFBIG,
                       "a VHD has at most 2040 GiB, in sectors of 512 bytes; use qcow2");
    if (!fixed)
        return vhd_create_dynamic(create, store, err);
    if (create->backing)
        return err_set(err, EINVAL, "a fixed VHD has no backing file; leave subformat=fixed away");
    uint8_t footer[FOOTER_LEN];
    vhd_footer(footer, create->size, TYPE_FIXED);
    int r = store_write(store, footer, FOOTER_LEN, create->size);
    return r < 0 ? err_errno(err, -r, "cannot write") : 0;
}

static const struct image_option vhd_options[] = {
    { "subformat", "dynamic or fixed (dynamic); with a backing file: differencing" },
    { "force_size", "on: accepted for qemu-img's sake, the size is always kept" },
    { NULL },
};

static int vhd_info(struct image *image, json_t *into)
{
    static const char *const kinds[] = { "fixed", "dynamic", "differencing" };
    uint32_t type = be32(vhd_of(image)->footer + FOOTER_TYPE);
    json_object_set_new(into, "subformat", json_string(kinds[type - TYPE_FIXED]));
    return 0;
}

const struct image_format image_vhd = {
    .name = "vhd",
    .about = "Virtual PC's and Azure's: fixed, dynamic, differencing",
    .options = vhd_options,
    .struct_size = sizeof(struct vhd),
    .can_back = true,
    .create = vhd_create,
    .open = vhd_open,
    .close = flat_close,
    .read = vhd_any_read,
    .write = vhd_any_write,
    .zero = vhd_any_zero,
    .discard = vhd_any_discard,
    .flush = flat_flush,
    .status = vhd_any_status,
    .check = flat_check,
    .resize = vhd_resize,
    .set_backing = vhd_set_backing,
    .check_backing = vhd_check_backing,
    .info = vhd_info,
    .direct_map = vhd_any_direct,
    .direct_done = flat_direct_done,
    .is_clean = flat_is_clean,
};
