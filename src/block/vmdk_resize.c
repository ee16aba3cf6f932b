/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * VMDK: another size, of images with one extent: a sparse one in the image's own file, or a flat
 * one beside it.
 *
 * A sparse one has its capacity and the places of its directories in one sector, the header. What
 * the new directories and tables need lies behind the last grain, durable before the header says
 * so. A flat one grows before its descriptor does and shrinks after it; the descriptor is one
 * sector.
 */
#include "block/vmdk.h"

#include "base/checked.h"
#include "base/text.h"
#include "block/bytes.h"

#include <inttypes.h>
#include <string.h>

enum { TABLE_SECTORS = PER_TABLE * 4 / VMDK_SECTOR, GEOMETRY_MAX = 65535 };

/* ---- the descriptor ---- */

static uint64_t text_number(const char *text, const char *key, uint64_t absent)
{
    const char *p = strstr(text, key);
    p = p ? strchr(p, '"') : NULL;
    uint64_t n = p ? strtoull(p + 1, NULL, 10) : 0;
    return n && n <= GEOMETRY_MAX ? n : absent;
}

/* The descriptor with another size in the extent's line and in the geometry. */
static void text_resize(const char *text, uint64_t sectors, struct buf *out)
{
    uint64_t heads = text_number(text, "ddb.geometry.heads", 16);
    uint64_t per_track = text_number(text, "ddb.geometry.sectors", 63);
    for (const char *p = text; *p;) {
        size_t len = strcspn(p, "\n"), done = 0;
        if (vmdk_line_is_extent(p)) {
            done = strcspn(p, " ") + 1;
            buf_add(out, p, done);
            buf_printf(out, "%" PRIu64, sectors);
            done += strspn(p + done, "0123456789");
        } else if (!strncmp(p, "ddb.geometry.cylinders", 22)) {
            buf_printf(out, "ddb.geometry.cylinders = \"%" PRIu64 "\"",
                       sectors / (heads * per_track));
            done = len;
        }
        buf_add(out, p + done, len - done);
        buf_add(out, "\n", 1);
        p += len + (p[len] == '\n');
    }
}

/* ---- a sparse extent ---- */

/* The directories and tables as they shall be. */
struct tables {
    uint64_t count;
    uint32_t *table, *spare; /* NULL: as they are */
};

static void tables_free(struct tables *t)
{
    free(t->table);
    free(t->spare);
}
DEFINE_AUTO(struct tables *, tables_free)

/* A directory for `count` tables at `sector`: those of `now`, and new ones in a row from `first`
 * on. */
static int directory_write(struct sparse *sparse, const uint32_t *now, uint64_t count,
                           uint64_t sector, uint64_t first, uint32_t **out)
{
    AUTO(free) uint8_t *raw = malloc(count * 4);
    uint32_t *list = calloc(count + 1, 4);
    if (!raw || !list) {
        free(list);
        return -ENOMEM;
    }
    for (uint64_t t = 0; t < count; t++) {
        list[t] =
            t < sparse->tables ? now[t] : (uint32_t)(first + (t - sparse->tables) * TABLE_SECTORS);
        set_le32(raw + t * 4, list[t]);
    }
    *out = list;
    return store_write(sparse->flat.image.store, raw, count * 4, sector * VMDK_SECTOR);
}

/* [spare directory][directory][spare tables][tables] behind the last grain, where the file is not
 * yet, so the tables are empty. */
static int tables_add(struct sparse *sparse, struct tables *t, struct err *err)
{
    static const uint8_t zero[VMDK_SECTOR];
    struct flat *flat = &sparse->flat;
    uint64_t directory = (t->count * 4 + VMDK_SECTOR - 1) / VMDK_SECTOR;
    uint64_t added = (t->count - sparse->tables) * TABLE_SECTORS;
    unsigned copies = sparse->spare ? 2 : 1;
    uint64_t at = flat->end / VMDK_SECTOR, first = at + copies * directory;
    uint64_t end = first + copies * added;
    if (end > UINT32_MAX)
        return err_set(err, EFBIG, "its file has no room for the tables; convert it to qcow2");
    int r = store_write(flat->image.store, zero, VMDK_SECTOR, (end - 1) * VMDK_SECTOR);
    if (r == 0 && sparse->spare) {
        r = directory_write(sparse, sparse->spare, t->count, at, first, &t->spare);
        set_le64(sparse->header + VMDK_SPARE_DIRECTORY, at);
        at += directory;
        first += added;
    }
    if (r == 0)
        r = directory_write(sparse, sparse->table, t->count, at, first, &t->table);
    set_le64(sparse->header + VMDK_DIRECTORY, at);
    flat->end = round_up(end * VMDK_SECTOR, flat->block_size);
    return r < 0 ? err_errno(err, -r, "cannot write its tables") : 0;
}

/* Entries of the last table behind the disk's end: a larger disk may have left some. */
static int tables_clear_rest(struct sparse *sparse)
{
    static const uint8_t none[PER_TABLE * 4];
    struct flat *flat = &sparse->flat;
    uint64_t first = flat->blocks % PER_TABLE, table = flat->blocks / PER_TABLE;
    if (!first)
        return 0;
    size_t len = (PER_TABLE - first) * 4;
    int r = store_write(flat->image.store, none, len,
                        (uint64_t)sparse->table[table] * VMDK_SECTOR + first * 4);
    if (r == 0 && sparse->spare)
        r = store_write(flat->image.store, none, len,
                        (uint64_t)sparse->spare[table] * VMDK_SECTOR + first * 4);
    return r;
}

/* The header makes the new size true, then memory follows. */
static int sparse_switch(struct vmdk *vmdk, const struct buf *text, uint64_t blocks,
                         struct tables *tables, struct buf *gone)
{
    struct sparse *sparse = vmdk->extents[0].sparse;
    struct flat *flat = &sparse->flat;
    uint64_t old = flat->blocks;
    int r = blocks > old ? flat_table_fit(flat, blocks, FLAT_NONE, gone) : 0;
    if (r < 0)
        return r;
    r = vmdk_replace_descriptor(vmdk, text);
    if (r < 0) {
        flat_table_fit(flat, old, FLAT_NONE, gone);
        return r;
    }
    if (tables->table) {
        free(sparse->table);
        sparse->table = TAKE(tables->table);
    }
    if (tables->spare) {
        free(sparse->spare);
        sparse->spare = TAKE(tables->spare);
    }
    r = flat_table_fit(flat, blocks, FLAT_NONE, gone); /* reads tables that go */
    sparse->tables = tables->count;
    return r;
}

static int sparse_resize(struct vmdk *vmdk, const struct buf *text, uint64_t size, struct err *err)
{
    struct sparse *sparse = vmdk->extents[0].sparse;
    struct flat *flat = &sparse->flat;
    uint8_t header[VMDK_HEADER];
    uint64_t blocks = size / flat->block_size + !!(size % flat->block_size);
    AUTO(tables_free) struct tables *tables = &(struct tables){ 0 };
    AUTO(buf_fini) struct buf gone = { 0 };
    tables->count = blocks / PER_TABLE + !!(blocks % PER_TABLE);
    int r = flat_flush(&flat->image);
    if (r == 0 && size > flat->image.size)
        r = flat_zero_tail(flat);
    if (r == 0 && size > flat->image.size)
        r = tables_clear_rest(sparse);
    if (r < 0)
        return err_errno(err, -r, "cannot write its tables");
    memcpy(header, sparse->header, VMDK_HEADER);
    if (tables->count > sparse->tables)
        r = tables_add(sparse, tables, err);
    set_le64(sparse->header + VMDK_CAPACITY, size / VMDK_SECTOR);
    if (r == 0) {
        r = sparse_switch(vmdk, text, blocks, tables, &gone);
        r = r < 0 ? err_errno(err, -r, "cannot write its header") : 0;
    }
    if (r < 0) { /* what perhaps was written is taken back */
        memcpy(sparse->header, header, VMDK_HEADER);
        if (store_write(flat->image.store, header, VMDK_HEADER, 0) == 0)
            store_flush(flat->image.store);
        return r;
    }
    flat->image.size = size;
    flat_give_back(flat, 0, &gone);
    return 0;
}

/* ---- a flat extent ---- */

static int file_grow(const struct extent *e, uint64_t size)
{
    uint64_t file, from = e->offset + e->len, to = e->offset + size;
    int r = store_size(e->store, &file);
    if (r == 0 && file > from) /* what lies there was not of the disk */
        r = store_zero(e->store, from, (file < to ? file : to) - from, false);
    if (r == 0 && file < to)
        r = store_truncate(e->store, to);
    return r < 0 ? r : store_flush(e->store);
}

static int flat_resize(struct vmdk *vmdk, const struct buf *text, uint64_t size)
{
    const struct extent *e = &vmdk->extents[0];
    int r = size > e->len ? file_grow(e, size) : 0;
    if (r == 0)
        r = store_write(vmdk->image.store, text->data, text->len, 0);
    if (r == 0)
        r = store_flush(vmdk->image.store);
    if (r == 0 && size < e->len)
        r = store_truncate(e->store, e->offset + size);
    return r;
}

/* ---- the image ---- */

static int resize_check(const struct vmdk *vmdk, struct err *err)
{
    const struct extent *e = &vmdk->extents[0];
    bool cut = !strncasecmp(vmdk->create_type, "twoGb", 5);
    if (cut || vmdk->count > 1 || (e->sparse && e->name))
        return err_set(err, ENOTSUP,
                       "is cut into extents of their own sizes (%s); convert it to "
                       "subformat=monolithicSparse or to qcow2 to resize it",
                       vmdk->create_type);
    if (vmdk->parent_cid != VMDK_NO_PARENT)
        return err_set(err, ENOTSUP,
                       "is an overlay, which has the size of its backing file; commit or convert "
                       "it first");
    if (e->sparse && e->sparse->flat.read_packed)
        return err_set(err, ENOTSUP,
                       "streamOptimized VMDKs cannot be resized; convert it to another subformat");
    if (e->kind == EXTENT_ZERO)
        return err_set(err, ENOTSUP, "has no file for its data; convert it");
    return 0;
}

/* Brings the text to the length that it replaces, with what readers skip. */
static int text_fit(const struct vmdk *vmdk, bool sparse, struct buf *text, struct err *err)
{
    uint64_t room = sparse ? vmdk->text_len - 1 : VMDK_SECTOR;
    size_t used = text->len;
    if (used > room || (!sparse && vmdk->text_len > VMDK_SECTOR))
        return err_set(err, ENOSPC,
                       "its descriptor has more than the %" PRIu64 " bytes that can be changed "
                       "safely; convert it to resize it",
                       room);
    if (used < vmdk->text_len)
        memset(buf_grow(text, vmdk->text_len - used), sparse ? 0 : '\n', vmdk->text_len - used);
    return 0;
}

int vmdk_resize(struct image *image, uint64_t size, enum image_preallocation prealloc,
                struct err *err)
{
    struct vmdk *vmdk = vmdk_of(image);
    AUTO(buf_fini) struct buf text = { 0 };
    bool sparse = vmdk->extents[0].kind == EXTENT_SPARSE;
    int r = resize_check(vmdk, err);
    if (r == 0)
        r = flat_check_size(size, VMDK_SECTOR, sparse ? VMDK_SPARSE_MAX : VMDK_FLAT_MAX, prealloc,
                            err);
    if (r < 0 || size == image->size)
        return r;
    r = vmdk_touch(vmdk);
    if (r < 0)
        return err_errno(err, -r, "cannot change its content id");
    text_resize(vmdk->text, size / VMDK_SECTOR, &text);
    r = text_fit(vmdk, sparse, &text, err);
    if (r == 0 && sparse) {
        r = sparse_resize(vmdk, &text, size, err);
    } else if (r == 0) {
        r = flat_resize(vmdk, &text, size);
        r = r < 0 ? err_errno(err, -r, "cannot write") : 0;
    }
    if (r < 0)
        return r;
    vmdk->text_len = text.len;
    buf_add(&text, "", 1);
    free(vmdk->text);
    vmdk->text = (char *)TAKE(text.data);
    vmdk->extents[0].len = image->size = size;
    return 0;
}
