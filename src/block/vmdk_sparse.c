/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sparse extents of VMDK: the two directories of grain tables are flattened into flat.h's one
 * table, and an entry is written to both.
 *
 * A stream (streamOptimized) is written once, by vmdk_stream_write; its tables, directory and
 * footer follow when it is closed. Until then it has no footer, and opening says that it was cut
 * off.
 */
#include "block/vmdk.h"

#include "base/checked.h"
#include "base/log.h"
#include "block/bytes.h"

#include <inttypes.h>
#include <string.h>
#include <zlib.h>

enum { MARKER = 12 };
enum { MARK_END = 0, MARK_TABLE = 1, MARK_DIRECTORY = 2, MARK_FOOTER = 3 };

static struct sparse *sparse_of(struct flat *flat)
{
    return CONTAINER_OF(flat, struct sparse, flat);
}

/* ---- grains ---- */

static int sparse_add(struct flat *flat, uint64_t block, uint64_t *host)
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

static int sparse_enter(struct flat *flat, uint64_t block, uint64_t host)
{
    struct sparse *sparse = sparse_of(flat);
    uint64_t table = block / PER_TABLE, in_table = block % PER_TABLE * 4;
    uint8_t entry[4];
    set_le32(entry, host == FLAT_ZERO ? 1 : (uint32_t)(host / VMDK_SECTOR));
    int r = store_write(flat->image.store, entry, 4,
                        (uint64_t)sparse->table[table] * VMDK_SECTOR + in_table);
    if (r == 0 && sparse->spare)
        r = store_write(flat->image.store, entry, 4,
                        (uint64_t)sparse->spare[table] * VMDK_SECTOR + in_table);
    return r;
}

/* [sector of the disk 8][length 4][zlib stream] */
static int sparse_read_packed(struct flat *flat, uint64_t host, void *data, size_t len,
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

static int directory_read(struct sparse *sparse, uint64_t sector, uint32_t **out, struct err *err)
{
    uint32_t *list = calloc(sparse->tables + 1, 4);
    if (!list)
        return err_set(err, ENOMEM, "out of memory");
    *out = list;
    int r = store_read(sparse->flat.image.store, list, sparse->tables * 4, sector * VMDK_SECTOR);
    for (uint64_t i = 0; i < sparse->tables; i++)
        list[i] = le32((uint8_t *)&list[i]);
    return r < 0 ? err_errno(err, -r, "cannot read the grain directory") : 0;
}

/* Both directories and all tables are made with the image, before anything names them. */
static int tables_are_whole(const struct sparse *sparse, struct err *err)
{
    uint64_t last = le64(sparse->header + VMDK_DIRECTORY);
    for (uint64_t t = 0; t < sparse->tables; t++) {
        last = sparse->table[t] > last ? sparse->table[t] : last;
        if (sparse->spare && sparse->spare[t] > last)
            last = sparse->spare[t];
    }
    return image_check_whole(&sparse->flat.image, last * VMDK_SECTOR + 1, err);
}

/* Grains cannot be added where there is no table for them. */
static int tables_check(struct sparse *sparse, struct err *err)
{
    for (uint64_t t = 0; sparse->flat.add && t < sparse->tables; t++)
        if (!sparse->table[t] || (sparse->spare && !sparse->spare[t]))
            return err_set(err, ENOTSUP,
                           "lacks a grain table, so it can only be read; add readonly "
                           "or convert it");
    return 0;
}

/* An entry is written after its grain. */
static int sparse_cut_off(struct sparse *sparse)
{
    if (!sparse->cut_seen)
        log_error("%s: was cut off: grains lie behind the end of its file; copy it again",
                  sparse->flat.image.path);
    sparse->cut_seen = true;
    return -EIO;
}

/* A page of flat.h is a grain table. */
static int table_load(struct flat *flat, uint64_t page, uint64_t host[FLAT_PAGE])
{
    _Static_assert((int)FLAT_PAGE == (int)PER_TABLE, "a page is a grain table");
    struct sparse *sparse = sparse_of(flat);
    uint8_t table[PER_TABLE * 4];
    uint64_t size = 0;
    bool zeros = le32(sparse->header + VMDK_FLAGS) & FLAG_ZERO_GRAINS;
    if (page >= sparse->tables || !sparse->table[page])
        return 0;
    int r = store_read(flat->image.store, table, sizeof table,
                       (uint64_t)sparse->table[page] * VMDK_SECTOR);
    if (r == 0)
        r = store_size(flat->image.store, &size);
    for (unsigned i = 0; r == 0 && i < PER_TABLE; i++) {
        uint32_t entry = le32(table + i * 4);
        host[i] = entry == 1 && zeros ? FLAT_ZERO : (uint64_t)entry * VMDK_SECTOR;
        if (host[i] > FLAT_ZERO && host[i] >= size && !sparse->for_check)
            r = sparse_cut_off(sparse);
    }
    return r;
}

static int header_read(struct sparse *sparse, uint64_t *file_size, struct err *err)
{
    struct store *store = sparse->flat.image.store;
    uint8_t *h = sparse->header;
    int r = store_size(store, file_size);
    if (r == 0)
        r = store_read(store, h, VMDK_HEADER, 0);
    if (r < 0)
        return err_errno(err, -r, "cannot read the header");
    if (memcmp(h, "KDMV", 4))
        return err_set(err, EINVAL, "is no sparse extent of a VMDK");
    if (le64(h + VMDK_DIRECTORY) != DIRECTORY_AT_END)
        return 0;
    uint64_t end_of_head = le64(h + VMDK_OVERHEAD);
    sparse->stream = !sparse->flat.image.readonly && end_of_head < 1 << 20 &&
                     *file_size == end_of_head * VMDK_SECTOR;
    if (sparse->stream)
        return 0;
    /* A stream's directory comes last, and the footer says where. */
    if (*file_size >= 3 * VMDK_SECTOR)
        r = store_read(store, h, VMDK_HEADER, *file_size - 2 * VMDK_SECTOR);
    return r == 0 && !memcmp(h, "KDMV", 4)
               ? 0
               : err_set(err, EINVAL, "its footer is missing; it was cut off, so copy it again");
}

static int header_check(struct sparse *sparse, struct err *err)
{
    const uint8_t *h = sparse->header;
    uint32_t flags = le32(h + VMDK_FLAGS);
    uint64_t grain = le64(h + VMDK_GRAIN), capacity = le64(h + VMDK_CAPACITY);
    bool packed = flags & FLAG_PACKED;
    if (le32(h + VMDK_VERSION) < 1 || le32(h + VMDK_VERSION) > 3)
        return err_set(err, ENOTSUP, "is a VMDK of version %u; known are 1 to 3",
                       le32(h + VMDK_VERSION));
    if (!is_power_of_two(grain) || grain < 8 || grain > 1 << 15 ||
        le32(h + VMDK_PER_TABLE) != PER_TABLE)
        return err_set(err, ENOTSUP, "has grains of %" PRIu64 " sectors, %u a table", grain,
                       le32(h + VMDK_PER_TABLE));
    if (capacity > INT64_MAX / VMDK_SECTOR)
        return err_set(err, EFBIG, "is larger than 8 EiB");
    if (packed && (le16(h + VMDK_COMPRESSION) != 1 || !(flags & FLAG_MARKERS)))
        return err_set(err, ENOTSUP, "is packed in an unknown way (%u)",
                       le16(h + VMDK_COMPRESSION));
    if (packed && !sparse->flat.image.readonly && !sparse->stream)
        return err_set(err, EROFS,
                       "streamOptimized VMDKs can only be read; convert it, or add readonly");
    if (le64(h + VMDK_SPARE_DIRECTORY) > 1ull << 50 ||
        (!sparse->stream && le64(h + VMDK_DIRECTORY) > 1ull << 50))
        return err_set(err, EINVAL, "its grain directory lies at a wrong place");
    return 0;
}

static int sparse_setup(struct sparse *sparse, uint64_t file_size, struct err *err)
{
    struct flat *flat = &sparse->flat;
    const uint8_t *h = sparse->header;
    uint32_t flags = le32(h + VMDK_FLAGS);
    uint64_t grain = le64(h + VMDK_GRAIN), capacity = le64(h + VMDK_CAPACITY);
    bool packed = flags & FLAG_PACKED;
    flat->image.size = capacity * VMDK_SECTOR;
    flat->block_size = grain * VMDK_SECTOR;
    flat->read_packed = packed ? sparse_read_packed : NULL;
    flat->add = flat->image.readonly || packed ? NULL : sparse_add;
    flat->enter = sparse_enter;
    flat->load = sparse->stream ? NULL : table_load;
    uint64_t overhead = le64(h + VMDK_OVERHEAD);
    flat->first = overhead < 1ull << 40 ? overhead * VMDK_SECTOR : 0;
    flat->zero_entries = flags & FLAG_ZERO_GRAINS;
    flat->end = packed ? round_up(file_size, VMDK_SECTOR) : round_up(file_size, flat->block_size);
    int r = flat_setup(flat, capacity / grain + !!(capacity % grain), err);
    if (r < 0)
        return r;
    sparse->tables = flat->blocks / PER_TABLE + !!(flat->blocks % PER_TABLE);
    if (sparse->stream)
        return 0;
    r = directory_read(sparse, le64(h + VMDK_DIRECTORY), &sparse->table, err);
    if (r == 0 && (flags & FLAG_SPARE) && !packed)
        r = directory_read(sparse, le64(h + VMDK_SPARE_DIRECTORY), &sparse->spare, err);
    if (r == 0)
        r = tables_are_whole(sparse, err);
    return r < 0 ? r : tables_check(sparse, err);
}

static void sparse_free(struct sparse *sparse)
{
    free(sparse->table);
    free(sparse->spare);
    free(sparse);
}

int vmdk_sparse_open(struct image *image, struct store *store, uint64_t start, struct sparse **out,
                     struct err *err)
{
    struct sparse *sparse = calloc(1, sizeof *sparse);
    if (!sparse)
        return err_set(err, ENOMEM, "out of memory");
    struct flat *flat = &sparse->flat;
    flat_init(flat);
    flat->outer = image;
    flat->outer_start = start;
    flat->image.store = store;
    flat->image.readonly = image->readonly;
    flat->image.path = image->path;
    sparse->for_check = image->opening->for_check;
    uint64_t file_size;
    int r = header_read(sparse, &file_size, err);
    if (r == 0)
        r = header_check(sparse, err);
    if (r == 0)
        r = sparse_setup(sparse, file_size, err);
    if (r < 0) {
        flat->image.readonly = true; /* nothing to flush */
        flat_close(&flat->image);
        sparse_free(sparse);
        return r;
    }
    *out = sparse;
    return 0;
}

/* ---- a stream ---- */

int vmdk_stream_write(struct sparse *sparse, const void *data, size_t len, uint64_t offset)
{
    struct flat *flat = &sparse->flat;
    uint64_t block = offset / flat->block_size;
    uLongf packed_len = compressBound(flat->block_size);
    AUTO(free) uint8_t *plain = calloc(1, flat->block_size);
    AUTO(free) uint8_t *packed = calloc(1, round_up(MARKER + packed_len, VMDK_SECTOR));
    if (!plain || !packed)
        return -ENOMEM;
    memcpy(plain, data, len);
    if (compress2(packed + MARKER, &packed_len, plain, flat->block_size, Z_DEFAULT_COMPRESSION) !=
        Z_OK)
        return -EIO;
    set_le64(packed, offset / VMDK_SECTOR);
    set_le32(packed + 8, (uint32_t)packed_len);
    uint64_t whole = round_up(MARKER + packed_len, VMDK_SECTOR);
    LOCKED(&flat->lock);
    if (flat->host[block] != FLAT_NONE)
        return -EROFS;
    if ((flat->end + whole) / VMDK_SECTOR > UINT32_MAX)
        return -EFBIG;
    int r = store_write(flat->image.store, packed, whole, flat->end);
    if (r < 0)
        return r;
    flat->host[block] = flat->end;
    flat->end += whole;
    return 0;
}

/* A marker and `len` bytes of metadata behind it; *sector says where these are. */
static int stream_append(struct sparse *sparse, unsigned mark, const uint8_t *data, uint64_t len,
                         uint32_t *sector)
{
    struct flat *flat = &sparse->flat;
    uint8_t marker[VMDK_SECTOR] = { 0 };
    set_le64(marker, len / VMDK_SECTOR);
    set_le32(marker + 12, mark);
    int r = store_write(flat->image.store, marker, sizeof marker, flat->end);
    if (r == 0 && len)
        r = store_write(flat->image.store, data, len, flat->end + VMDK_SECTOR);
    *sector = (uint32_t)(flat->end / VMDK_SECTOR + 1);
    flat->end += VMDK_SECTOR + len;
    return r;
}

static int stream_finish(struct sparse *sparse)
{
    struct flat *flat = &sparse->flat;
    uint64_t len = round_up(sparse->tables * 4 + 1, VMDK_SECTOR);
    AUTO(free) uint8_t *directory = calloc(1, len);
    uint32_t sector;
    int r = directory ? 0 : -ENOMEM;
    for (uint64_t t = 0; r == 0 && t < sparse->tables; t++) {
        uint8_t table[PER_TABLE * 4] = { 0 };
        bool any = false;
        for (uint64_t i = 0; i < PER_TABLE && t * PER_TABLE + i < flat->blocks; i++) {
            uint64_t host = flat->host[t * PER_TABLE + i];
            set_le32(table + i * 4, (uint32_t)(host / VMDK_SECTOR));
            any |= host != 0;
        }
        if (!any)
            continue;
        r = stream_append(sparse, MARK_TABLE, table, sizeof table, &sector);
        set_le32(directory + t * 4, sector);
    }
    if (r == 0)
        r = stream_append(sparse, MARK_DIRECTORY, directory, len, &sector);
    if (r < 0)
        return r;
    set_le64(sparse->header + VMDK_DIRECTORY, sector);
    r = stream_append(sparse, MARK_FOOTER, sparse->header, VMDK_HEADER, &sector);
    if (r == 0)
        r = stream_append(sparse, MARK_END, NULL, 0, &sector);
    return r < 0 ? r : store_flush(flat->image.store);
}

int vmdk_sparse_close(struct sparse *sparse)
{
    if (!sparse)
        return 0;
    int r = sparse->stream ? stream_finish(sparse) : 0;
    int closed = flat_close(&sparse->flat.image);
    sparse_free(sparse);
    return r < 0 ? r : closed;
}
