/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * VMDK in one sparse file ("Virtual Disk Format 5.0", VMware): monolithicSparse read, written and
 * created; streamOptimized (packed grains, as in OVA) read. Little-endian.
 *
 *   [header][descriptor][redundant directory, tables][directory, tables][grains]...
 *
 * The two directories of grain tables are flattened into flat.h's one table; an entry is written to
 * both. Descriptor files with extents in other files (monolithicFlat, twoGbMaxExtent*) and backing
 * files (parentFileNameHint) are refused in a sentence.
 */
#include "block/flat.h"

#include "base/checked.h"
#include "base/text.h"

#include <inttypes.h>
#include <string.h>
#include <zlib.h>

enum { /* offsets in the header */
       VMDK_VERSION = 4,
       VMDK_FLAGS = 8,
       VMDK_CAPACITY = 12,
       VMDK_GRAIN = 20,
       VMDK_DESCRIPTOR = 28,
       VMDK_DESCRIPTOR_LEN = 36,
       VMDK_PER_TABLE = 44,
       VMDK_SPARE_DIRECTORY = 48,
       VMDK_DIRECTORY = 56,
       VMDK_OVERHEAD = 64,
       VMDK_UNCLEAN = 72,
       VMDK_NEWLINES = 73,
       VMDK_COMPRESSION = 77,
       VMDK_HEADER = 512,
};
enum { FLAG_NEWLINES = 1, FLAG_SPARE = 2, FLAG_ZERO_GRAINS = 4, FLAG_PACKED = 1 << 16 };
enum { VMDK_SECTOR = 512, PER_TABLE = 512, GRAIN = 128, DESCRIPTOR_SECTORS = 20, MARKER = 12 };

struct vmdk {
    struct flat flat;
    uint64_t tables;         /* grain tables */
    uint32_t *table, *spare; /* by table: its sector. Fixed at open */
    uint32_t grain_sectors;
};

static struct vmdk *vmdk_of(struct image *image) { return (struct vmdk *)image; }
static uint32_t le32(const uint8_t *p)
{
    return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}
static uint64_t le64(const uint8_t *p) { return le32(p) | (uint64_t)le32(p + 4) << 32; }
static void set32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}
static void set64(uint8_t *p, uint64_t v)
{
    set32(p, (uint32_t)v);
    set32(p + 4, (uint32_t)(v >> 32));
}

/* ---- grains ---- */

static int vmdk_add(struct flat *flat, uint64_t block, uint64_t *host)
{
    uint64_t end = flat->end + flat->block_size;
    if (end / VMDK_SECTOR > UINT32_MAX)
        return -EFBIG;
    /* The file reaches to the grain's end, as other programs expect. */
    static const uint8_t zero[VMDK_SECTOR];
    int r = store_write(flat->image.store, zero, sizeof zero, end - sizeof zero);
    if (r < 0)
        return r;
    *host = flat->end;
    flat->end = end;
    return 0;
}

static int vmdk_enter(struct flat *flat, uint64_t block, uint64_t host)
{
    struct vmdk *vmdk = (struct vmdk *)flat;
    uint64_t table = block / PER_TABLE, in_table = block % PER_TABLE * 4;
    uint8_t entry[4];
    set32(entry, (uint32_t)(host / VMDK_SECTOR));
    int r = store_write(flat->image.store, entry, 4,
                        (uint64_t)vmdk->table[table] * VMDK_SECTOR + in_table);
    if (r == 0 && vmdk->spare)
        r = store_write(flat->image.store, entry, 4,
                        (uint64_t)vmdk->spare[table] * VMDK_SECTOR + in_table);
    return r;
}

/* [lba 8][length 4][zlib stream]; the last grain is not kept, readers mostly go forward. */
static int vmdk_read_packed(struct flat *flat, uint64_t host, void *data, size_t len,
                            uint64_t in_block)
{
    uint8_t marker[MARKER];
    int r = store_read(flat->image.store, marker, sizeof marker, host);
    uint32_t packed_len = le32(marker + 8);
    if (r < 0)
        return r;
    if (!packed_len || packed_len > 2 * flat->block_size)
        return -EIO;
    AUTO(free) uint8_t *packed = malloc(packed_len);
    AUTO(free) uint8_t *plain = calloc(1, flat->block_size);
    if (!packed || !plain)
        return -ENOMEM;
    r = store_read(flat->image.store, packed, packed_len, host + MARKER);
    if (r < 0)
        return r;
    uLongf plain_len = flat->block_size;
    if (uncompress(plain, &plain_len, packed, packed_len) != Z_OK)
        return -EIO;
    memcpy(data, plain + in_block, len);
    return 0;
}

/* ---- opening ---- */

static int vmdk_read_directory(struct vmdk *vmdk, uint64_t sector, uint32_t **out, struct err *err)
{
    uint32_t *list = calloc(vmdk->tables + 1, 4);
    if (!list)
        return err_set(err, ENOMEM, "out of memory");
    int r = store_read(vmdk->flat.image.store, list, vmdk->tables * 4, sector * VMDK_SECTOR);
    for (uint64_t i = 0; i < vmdk->tables; i++)
        list[i] = le32((uint8_t *)&list[i]);
    *out = list;
    return r < 0 ? err_errno(err, -r, "cannot read the grain directory") : 0;
}

static int vmdk_read_tables(struct vmdk *vmdk, uint32_t flags, struct err *err)
{
    struct flat *flat = &vmdk->flat;
    uint8_t table[PER_TABLE * 4];
    for (uint64_t t = 0; t < vmdk->tables; t++) {
        if (!vmdk->table[t] && flat->add)
            return err_set(err, ENOTSUP,
                           "lacks a grain table, so it can only be read; add readonly "
                           "or convert it");
        if (!vmdk->table[t])
            continue;
        int r = store_read(flat->image.store, table, sizeof table,
                           (uint64_t)vmdk->table[t] * VMDK_SECTOR);
        if (r < 0)
            return err_errno(err, -r, "cannot read a grain table");
        for (uint64_t i = 0; i < PER_TABLE && t * PER_TABLE + i < flat->blocks; i++) {
            uint32_t entry = le32(table + i * 4);
            bool zero = entry == 1 && (flags & FLAG_ZERO_GRAINS);
            flat->host[t * PER_TABLE + i] = zero ? FLAT_ZERO : (uint64_t)entry * VMDK_SECTOR;
        }
    }
    return 0;
}

static int vmdk_check_descriptor(struct image *image, const uint8_t *h, struct err *err)
{
    uint64_t len = le64(h + VMDK_DESCRIPTOR_LEN) * VMDK_SECTOR,
             at = le64(h + VMDK_DESCRIPTOR) * VMDK_SECTOR;
    if (!len)
        return 0;
    if (len > 1 << 20 || at > 1ull << 40)
        return err_set(err, EINVAL, "its descriptor lies at a wrong place");
    AUTO(free) char *text = calloc(1, len + 1);
    if (!text)
        return err_set(err, ENOMEM, "out of memory");
    int r = store_read(image->store, text, len, at);
    if (r < 0)
        return err_errno(err, -r, "cannot read the descriptor");
    if (strstr(text, "parentFileNameHint"))
        return err_set(err, ENOTSUP,
                       "has a parent file, which is not supported; convert the chain "
                       "with: qemu-img convert -O qcow2");
    return 0;
}

static int vmdk_open(struct image *image, const struct image_options *options, struct err *err)
{
    struct vmdk *vmdk = vmdk_of(image);
    struct flat *flat = &vmdk->flat;
    uint8_t h[VMDK_HEADER];
    uint64_t file_size = 0;
    flat_init(flat);
    int r = store_size(image->store, &file_size);
    if (r == 0)
        r = store_read(image->store, h, sizeof h, 0);
    if (r < 0)
        return err_errno(err, -r, "cannot read the header");
    if (memcmp(h, "KDMV", 4))
        return err_set(err, ENOTSUP,
                       "is no VMDK in one sparse file; convert it with: qemu-img "
                       "convert -O qcow2");
    /* A stream's directory comes last, and the footer says where. */
    if (le64(h + VMDK_DIRECTORY) == UINT64_MAX && file_size >= 3 * VMDK_SECTOR)
        r = store_read(image->store, h, sizeof h, file_size - 2 * VMDK_SECTOR);
    if (r < 0 || memcmp(h, "KDMV", 4))
        return err_set(err, EINVAL, "its footer is missing; it was cut off");
    uint32_t flags = le32(h + VMDK_FLAGS);
    uint64_t grain = le64(h + VMDK_GRAIN), capacity = le64(h + VMDK_CAPACITY);
    bool packed = flags & FLAG_PACKED;
    if (le32(h + VMDK_VERSION) < 1 || le32(h + VMDK_VERSION) > 3)
        return err_set(err, ENOTSUP, "is a VMDK of version %u", le32(h + VMDK_VERSION));
    if (!is_power_of_two(grain) || grain < 8 || grain > 1 << 15 ||
        le32(h + VMDK_PER_TABLE) != PER_TABLE)
        return err_set(err, ENOTSUP, "has grains of %" PRIu64 " sectors, %u a table", grain,
                       le32(h + VMDK_PER_TABLE));
    if (capacity > INT64_MAX / VMDK_SECTOR)
        return err_set(err, EFBIG, "is larger than 8 EiB");
    if (packed && !image->readonly)
        return err_set(err, EROFS,
                       "streamOptimized VMDKs can only be read; convert it, or add readonly");
    r = vmdk_check_descriptor(image, h, err);
    if (r < 0)
        return r;
    image->size = capacity * VMDK_SECTOR;
    flat->block_size = grain * VMDK_SECTOR;
    image->cluster_size = (uint32_t)flat->block_size;
    flat->read_packed = packed ? vmdk_read_packed : NULL;
    flat->add = image->readonly ? NULL : vmdk_add;
    flat->enter = vmdk_enter;
    flat->end = round_up(file_size, flat->block_size);
    image->direct_store = packed ? NULL : image->store;
    r = flat_setup(flat, capacity / grain + !!(capacity % grain), err);
    if (r < 0)
        return r;
    vmdk->tables = flat->blocks / PER_TABLE + !!(flat->blocks % PER_TABLE);
    uint64_t directory = le64(h + VMDK_DIRECTORY), spare = le64(h + VMDK_SPARE_DIRECTORY);
    if (directory > 1ull << 50 || spare > 1ull << 50)
        return err_set(err, EINVAL, "its grain directory lies at a wrong place");
    r = vmdk_read_directory(vmdk, directory, &vmdk->table, err);
    if (r == 0 && (flags & FLAG_SPARE) && !packed)
        r = vmdk_read_directory(vmdk, spare, &vmdk->spare, err);
    return r < 0 ? r : vmdk_read_tables(vmdk, flags, err);
}

static int vmdk_close(struct image *image)
{
    int r = flat_close(image);
    free(vmdk_of(image)->table);
    free(vmdk_of(image)->spare);
    return r;
}

/* ---- creating ---- */

/* A directory at `sector` and the tables right behind it; returns the sector behind. */
static uint64_t vmdk_directory(uint8_t *area, uint64_t sector, uint64_t tables)
{
    uint64_t first = sector + (tables * 4 + VMDK_SECTOR - 1) / VMDK_SECTOR;
    for (uint64_t i = 0; i < tables; i++)
        set32(area + sector * VMDK_SECTOR + i * 4,
              (uint32_t)(first + i * (PER_TABLE * 4 / VMDK_SECTOR)));
    return first + tables * (PER_TABLE * 4 / VMDK_SECTOR);
}

static int vmdk_create(const struct image_create *create, struct store *store, struct err *err)
{
    char kind[32] = "monolithicSparse";
    image_option_get(create->options, "subformat", kind, sizeof kind);
    if (strcmp(kind, "monolithicSparse"))
        return err_set(err, ENOTSUP, "subformat=%s: only monolithicSparse can be created", kind);
    uint64_t capacity = create->size / VMDK_SECTOR,
             grains = capacity / GRAIN + !!(capacity % GRAIN);
    uint64_t tables = grains / PER_TABLE + !!(grains % PER_TABLE);
    if (grains > FLAT_MAX_BLOCKS || create->size % VMDK_SECTOR)
        return err_set(err, EFBIG,
                       "a VMDK has at most 512 GiB here, in sectors of 512 bytes; use qcow2");
    uint64_t spare = 1 + DESCRIPTOR_SECTORS;
    uint64_t most = spare + 2 * (tables * 4 / VMDK_SECTOR + 1 + tables * 4) + GRAIN;
    AUTO(free) uint8_t *area = calloc(most, VMDK_SECTOR);
    if (!area)
        return err_set(err, ENOMEM, "out of memory");
    uint64_t directory = vmdk_directory(area, spare, tables);
    uint64_t overhead = round_up(vmdk_directory(area, directory, tables), GRAIN);

    memcpy(area, "KDMV", 4);
    set32(area + VMDK_VERSION, 1);
    set32(area + VMDK_FLAGS, FLAG_NEWLINES | FLAG_SPARE);
    set64(area + VMDK_CAPACITY, capacity);
    set64(area + VMDK_GRAIN, GRAIN);
    set64(area + VMDK_DESCRIPTOR, 1);
    set64(area + VMDK_DESCRIPTOR_LEN, DESCRIPTOR_SECTORS);
    set32(area + VMDK_PER_TABLE, PER_TABLE);
    set64(area + VMDK_SPARE_DIRECTORY, spare);
    set64(area + VMDK_DIRECTORY, directory);
    set64(area + VMDK_OVERHEAD, overhead);
    memcpy(area + VMDK_NEWLINES, "\n \r\n", 4);
    const char *name = strrchr(create->path, '/');
    uint64_t cylinders = capacity / (63 * 255);
    snprintf((char *)area + VMDK_SECTOR, DESCRIPTOR_SECTORS * VMDK_SECTOR,
             "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
             "createType=\"monolithicSparse\"\n\n# Extent description\nRW %" PRIu64
             " SPARSE \"%s\"\n\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"4\"\n"
             "ddb.geometry.cylinders = \"%" PRIu64 "\"\nddb.geometry.heads = \"255\"\n"
             "ddb.geometry.sectors = \"63\"\nddb.adapterType = \"lsilogic\"\n",
             capacity, name ? name + 1 : create->path, cylinders);
    int r = store_write(store, area, overhead * VMDK_SECTOR, 0);
    return r < 0 ? err_errno(err, -r, "cannot write") : 0;
}

static const struct image_option vmdk_options[] = {
    { "subformat", "monolithicSparse" },
    { NULL },
};

const struct image_format image_vmdk = {
    .name = "vmdk",
    .about = "VMware's in one sparse file; streamOptimized can be read",
    .options = vmdk_options,
    .struct_size = sizeof(struct vmdk),
    .create = vmdk_create,
    .open = vmdk_open,
    .close = vmdk_close,
    .read = flat_read,
    .write = flat_write,
    .zero = flat_zero,
    .flush = flat_flush,
    .status = flat_status,
    .check = flat_check,
    .direct_map = flat_direct_map,
    .direct_done = flat_direct_done,
    .is_clean = flat_is_clean,
};
