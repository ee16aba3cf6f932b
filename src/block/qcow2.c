/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The qcow2 format: header, opening, creating, the table. Versions 2 and 3; the other parts are
 * listed in qcow2.h.
 *
 * Not supported, and refused in a sentence: the old AES encryption, incompatible features that we
 * do not know, writing to images marked corrupt.
 */
#include "block/qcow2.h"

#include "base/checked.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "block/luks.h"

#include <string.h>

enum { /* header extensions */
       EXT_END = 0,
       EXT_BACKING_FORMAT = 0xe2792aca,
       EXT_FEATURE_NAMES = 0x6803f857,
       EXT_BITMAPS = 0x23852875,
       EXT_CRYPTO = 0x0537be77,
       EXT_DATA_FILE = 0x44415441,
};
enum { MAX_BACKING_NAME = 1023, MAX_EXTENSIONS = 64 };

/* ---- the header as bytes ---- */

static void header_swap(struct qcow2_header *h)
{
    h->magic = get32(&h->magic);
    h->version = get32(&h->version);
    h->backing_file_offset = get64(&h->backing_file_offset);
    h->backing_file_size = get32(&h->backing_file_size);
    h->cluster_bits = get32(&h->cluster_bits);
    h->size = get64(&h->size);
    h->crypt_method = get32(&h->crypt_method);
    h->l1_size = get32(&h->l1_size);
    h->l1_table_offset = get64(&h->l1_table_offset);
    h->refcount_table_offset = get64(&h->refcount_table_offset);
    h->refcount_table_clusters = get32(&h->refcount_table_clusters);
    h->nb_snapshots = get32(&h->nb_snapshots);
    h->snapshots_offset = get64(&h->snapshots_offset);
    h->incompatible_features = get64(&h->incompatible_features);
    h->compatible_features = get64(&h->compatible_features);
    h->autoclear_features = get64(&h->autoclear_features);
    h->refcount_order = get32(&h->refcount_order);
    h->header_length = get32(&h->header_length);
}

static void extension_add(struct buf *out, uint32_t type, const void *data, size_t len)
{
    uint8_t head[8];
    put32(head, type);
    put32(head + 4, (uint32_t)len);
    buf_add(out, head, 8);
    if (len)
        buf_add(out, data, len);
    buf_grow(out, round_up(len, 8) - len);
}

static void extensions_build(struct qcow2 *q, struct buf *out)
{
    if (q->image.backing_format)
        extension_add(out, EXT_BACKING_FORMAT, q->image.backing_format,
                      strlen(q->image.backing_format));
    if (q->data_file_name)
        extension_add(out, EXT_DATA_FILE, q->data_file_name, strlen(q->data_file_name));
    if (q->bitmap_count) {
        uint8_t bitmaps[24] = { 0 };
        put32(bitmaps, q->bitmap_count);
        put64(bitmaps + 8, q->bitmap_dir_size);
        put64(bitmaps + 16, q->bitmap_dir_offset);
        extension_add(out, EXT_BITMAPS, bitmaps, sizeof bitmaps);
    }
    if (q->crypt_len) {
        uint8_t crypt[16];
        put64(crypt, q->crypt_offset);
        put64(crypt + 8, q->crypt_len);
        extension_add(out, EXT_CRYPTO, crypt, sizeof crypt);
    }
    if (q->unknown_len)
        buf_add(out, q->unknown_extensions, q->unknown_len);
    extension_add(out, EXT_END, NULL, 0);
}

/*
 * The name of the backing file goes where the old one is not, and reaches the disk before the
 * sector with the numbers (invariant 5). Extensions normally share that sector.
 */
int qcow2_write_header(struct qcow2 *q)
{
    struct qcow2_header *h = &q->header;
    AUTO(buf_fini) struct buf out = { 0 };
    size_t own = q->version == 2 ? HEADER_V2 : sizeof *h;
    buf_grow(&out, own);
    extensions_build(q, &out);

    const char *name = q->image.backing_name;
    size_t name_len = name ? strlen(name) : 0;
    uint64_t name_at = 0;
    if (name) {
        name_at = out.len;
        uint64_t old = h->backing_file_offset, old_len = h->backing_file_size;
        if (ranges_overlap(name_at, name_len, old, old_len) && name_at + name_len > QCOW2_SECTOR)
            name_at = round_up(old + old_len, 8);
        if (name_at + name_len > q->cluster_size)
            name_at = out.len;
    }
    if (out.len > q->cluster_size || name_at + name_len > q->cluster_size)
        return -EFBIG;
    h->backing_file_offset = name_at;
    h->backing_file_size = (uint32_t)name_len;
    h->header_length = (uint32_t)own;

    struct qcow2_header raw = *h;
    header_swap(&raw);
    memcpy(out.data, &raw, own);
    if (name && name_at + name_len > out.len)
        buf_grow(&out, name_at + name_len - out.len);
    if (name)
        memcpy(out.data + name_at, name, name_len);
    int r = 0;
    if (out.len > QCOW2_SECTOR)
        r = qcow2_write_meta(q, out.data + QCOW2_SECTOR, out.len - QCOW2_SECTOR, QCOW2_SECTOR);
    if (r == 0)
        r = store_flush(q->image.store);
    if (r == 0)
        r = qcow2_write_meta(q, out.data, out.len < QCOW2_SECTOR ? out.len : QCOW2_SECTOR, 0);
    return r < 0 ? r : store_flush(q->image.store);
}

/* ---- opening: what the header says ---- */

static int header_check_features(struct qcow2 *q, const struct image_options *options,
                                 struct err *err)
{
    const struct qcow2_header *h = &q->header;
    uint64_t unknown = h->incompatible_features & ~(uint64_t)INCOMPAT_KNOWN;
    if (unknown)
        return err_set(
            err, ENOTSUP,
            "unknown feature bit %d; convert the image with the program that made it, or "
            "upgrade",
            __builtin_ctzll(unknown));
    if (h->crypt_method != CRYPT_NONE && h->crypt_method != CRYPT_LUKS)
        return err_set(
            err, ENOTSUP,
            "is encrypted (method %u), which is not supported; decrypt it with: qemu-img convert",
            h->crypt_method);
    if ((h->incompatible_features & INCOMPAT_CORRUPT) && !options->readonly && !options->for_check)
        return err_set(err, EUCLEAN,
                       "is marked corrupt; repair it with: bedplate-img check --repair all");
    return 0;
}

static int header_check_numbers(struct qcow2 *q, struct err *err)
{
    const struct qcow2_header *h = &q->header;
    bool extended = h->incompatible_features & INCOMPAT_EXTENDED_L2;
    if (h->cluster_bits < 9 || h->cluster_bits > 21)
        return err_set(err, EINVAL, "cluster_bits is %u, not within 9 and 21", h->cluster_bits);
    if (extended && h->cluster_bits < 14)
        return err_set(err, EINVAL, "sub-clusters need clusters of at least 16 KiB");
    if (h->refcount_order > 6)
        return err_set(err, EINVAL, "refcount_order is %u, above 6", h->refcount_order);
    if (h->version == 3 && (h->header_length < HEADER_V3 || h->header_length % 8 ||
                            h->header_length > 1u << h->cluster_bits))
        return err_set(err, EINVAL, "header length %u is wrong", h->header_length);
    if (h->size > 1ull << 62)
        return err_set(err, EFBIG, "the disk is larger than 2^62 bytes");
    if ((h->incompatible_features & INCOMPAT_COMPRESSION) ? h->compression_type != COMPRESS_ZSTD
                                                          : h->compression_type != COMPRESS_ZLIB)
        return err_set(err, ENOTSUP, "compression type %u is unknown", h->compression_type);
    if (h->compression_type > COMPRESS_ZSTD)
        return err_set(err, ENOTSUP, "compression type %u is unknown", h->compression_type);
    return 0;
}

bool qcow2_table_fits(const struct qcow2 *q, uint64_t offset, uint64_t len)
{
    return !(offset & (q->cluster_size - 1)) && range_fits(offset, len, QCOW2_MAX_OFFSET);
}

static int header_check_tables(struct qcow2 *q, struct err *err)
{
    const struct qcow2_header *h = &q->header;
    uint64_t per_l1 = 1ull << (q->l2_bits + q->cluster_bits);
    uint64_t need = h->size / per_l1 + !!(h->size % per_l1);
    if (h->l1_size > QCOW2_MAX_L1 / 8)
        return err_set(err, EFBIG, "the L1 table is larger than 32 MiB");
    if (h->l1_size < need)
        return err_set(err, EINVAL, "the L1 table is too short for the disk");
    if (h->l1_size && !qcow2_table_fits(q, h->l1_table_offset, h->l1_size * 8ull))
        return err_set(err, EINVAL, "the L1 table lies at a wrong offset");
    uint64_t len = (uint64_t)h->refcount_table_clusters << q->cluster_bits;
    if (!len || len > QCOW2_MAX_REFTABLE)
        return err_set(err, EFBIG, "the refcount table has %u clusters",
                       h->refcount_table_clusters);
    if (!h->refcount_table_offset || !qcow2_table_fits(q, h->refcount_table_offset, len))
        return err_set(err, EINVAL, "the refcount table lies at a wrong offset");
    if (h->nb_snapshots > QCOW2_MAX_SNAPSHOTS)
        return err_set(err, EFBIG, "has %u snapshots, more than %d", h->nb_snapshots,
                       QCOW2_MAX_SNAPSHOTS);
    return 0;
}

static int header_read(struct qcow2 *q, const struct image_options *options, struct err *err)
{
    struct qcow2_header *h = &q->header;
    int r = store_read(q->image.store, h, sizeof *h, 0);
    if (r < 0)
        return err_errno(err, -r, "cannot read the header");
    header_swap(h);
    if (h->magic != QCOW2_MAGIC)
        return err_set(err, EINVAL, "is not in qcow2 format");
    if (h->version != 2 && h->version != 3)
        return err_set(err, ENOTSUP,
                       "is in qcow format version %u; convert it with: qemu-img "
                       "convert -O qcow2",
                       h->version);
    if (h->version == 2) {
        memset(&h->incompatible_features, 0, sizeof *h - HEADER_V2);
        h->refcount_order = 4;
        h->header_length = HEADER_V2;
    } else if (h->header_length < sizeof *h) {
        h->compression_type = 0;
    }
    r = header_check_features(q, options, err);
    if (r == 0)
        r = header_check_numbers(q, err);
    if (r < 0)
        return r;
    bool extended = h->incompatible_features & INCOMPAT_EXTENDED_L2;
    q->version = h->version;
    q->cluster_bits = h->cluster_bits;
    q->cluster_size = 1u << h->cluster_bits;
    q->page_size = q->cluster_size < QCOW2_PAGE ? q->cluster_size : QCOW2_PAGE;
    q->refcount_order = h->refcount_order;
    q->entry_size = extended ? 16 : 8;
    q->l2_bits = q->cluster_bits - (extended ? 4 : 3);
    q->subclusters = extended ? 32 : 1;
    q->sub_bits = q->cluster_bits - (extended ? 5 : 0);
    q->compression = h->compression_type;
    q->codecs = codecs_create(q->compression == COMPRESS_ZSTD);
    if (!q->codecs)
        return err_set(err, ENOMEM, "out of memory");
    q->has_zero_flag = q->version >= 3;
    return header_check_tables(q, err);
}

/* ---- opening: extensions and names ---- */

static int extension_take(struct qcow2 *q, uint32_t type, const uint8_t *data, uint32_t len,
                          struct buf *unknown, struct err *err)
{
    switch (type) {
    case EXT_BACKING_FORMAT:
        free(q->image.backing_format);
        q->image.backing_format = strndup((const char *)data, len);
        return q->image.backing_format ? 0 : err_set(err, ENOMEM, "out of memory");
    case EXT_DATA_FILE:
        free(q->data_file_name);
        q->data_file_name = strndup((const char *)data, len);
        return q->data_file_name ? 0 : err_set(err, ENOMEM, "out of memory");
    case EXT_FEATURE_NAMES: return 0; /* for those who do not know a bit */
    case EXT_CRYPTO:
        if (len != 16 || q->crypt_len)
            return err_set(err, EINVAL, "the header extension of encryption has %u bytes", len);
        q->crypt_offset = get64(data);
        q->crypt_len = get64(data + 8);
        return 0;
    case EXT_BITMAPS:
        if (len != 24)
            return err_set(err, EINVAL, "the header extension of bitmaps has %u bytes", len);
        /* Whoever changed the image without knowing bitmaps has cleared the bit. */
        if (!(q->header.autoclear_features & AUTOCLEAR_BITMAPS))
            return 0;
        q->bitmap_count = get32(data);
        q->bitmap_dir_size = get64(data + 8);
        q->bitmap_dir_offset = get64(data + 16);
        return 0;
    }
    extension_add(unknown, type, data, len);
    return 0;
}

static int extensions_read(struct qcow2 *q, struct err *err)
{
    const struct qcow2_header *h = &q->header;
    AUTO(buf_fini) struct buf unknown = { 0 };
    AUTO(free) uint8_t *data = malloc(q->cluster_size);
    if (!data)
        return err_set(err, ENOMEM, "out of memory");
    int r = store_read(q->image.store, data, q->cluster_size, 0);
    if (r < 0)
        return err_errno(err, -r, "cannot read the header");
    uint64_t end = q->cluster_size, at = h->header_length;
    if (h->backing_file_offset > at && h->backing_file_offset < end)
        end = h->backing_file_offset;
    for (unsigned n = 0; at + 8 <= end && n < MAX_EXTENSIONS; n++) {
        uint32_t type = get32(data + at), len = get32(data + at + 4);
        if (type == EXT_END)
            break;
        if (!range_fits(at + 8, len, end))
            return err_set(err, EINVAL, "a header extension reaches past its place");
        r = extension_take(q, type, data + at + 8, len, &unknown, err);
        if (r < 0)
            return r;
        at += 8 + round_up(len, 8);
    }
    q->unknown_len = unknown.len;
    q->unknown_extensions = TAKE(unknown.data);

    if (!h->backing_file_offset)
        return 0;
    uint32_t len = h->backing_file_size;
    if (len > MAX_BACKING_NAME || !range_fits(h->backing_file_offset, len, q->cluster_size))
        return err_set(err, EINVAL, "the name of the backing file lies at a wrong place");
    if (!len)
        return 0;
    q->image.backing_name = strndup((char *)data + h->backing_file_offset, len);
    return q->image.backing_name ? 0 : err_set(err, ENOMEM, "out of memory");
}

int qcow2_read_table(struct qcow2 *q, uint64_t offset, uint64_t count, uint64_t *out)
{
    int r = store_read(q->image.store, out, count * 8, offset);
    for (uint64_t i = 0; r == 0 && i < count; i++)
        out[i] = get64(&out[i]);
    return r;
}

static int tables_read(struct qcow2 *q, struct err *err)
{
    const struct qcow2_header *h = &q->header;
    q->l1_size = h->l1_size;
    q->reftable_entries = ((uint64_t)h->refcount_table_clusters << q->cluster_bits) / 8;
    q->l1 = calloc(q->l1_size + 1, 8);
    q->l1_dirty = calloc(q->l1_size / 64 + 1, 1);
    q->reftable = calloc(q->reftable_entries, 8);
    if (!q->l1 || !q->l1_dirty || !q->reftable)
        return err_set(err, ENOMEM, "out of memory");
    int r = qcow2_read_table(q, h->l1_table_offset, q->l1_size, q->l1);
    if (r == 0)
        r = qcow2_read_table(q, h->refcount_table_offset, q->reftable_entries, q->reftable);
    if (r == 0)
        r = store_size(q->image.store, &q->file_end);
    return r < 0 ? err_errno(err, -r, "cannot read the tables") : 0;
}

/* A table is written before what points to it, so one behind the end tells of a file that was cut
 * off. */
static int tables_are_whole(const struct qcow2 *q, struct err *err)
{
    uint64_t last = q->header.refcount_table_offset;
    if (q->l1_size && q->header.l1_table_offset > last)
        last = q->header.l1_table_offset;
    for (uint32_t i = 0; i < q->l1_size; i++)
        if ((q->l1[i] & L1E_OFFSET_MASK) > last)
            last = q->l1[i] & L1E_OFFSET_MASK;
    for (uint64_t i = 0; i < q->reftable_entries; i++)
        if ((q->reftable[i] & REFT_OFFSET_MASK) > last)
            last = q->reftable[i] & REFT_OFFSET_MASK;
    return image_check_whole(&q->image, last + 1, err);
}

/* ---- opening ---- */

/* Whoever crashed with the dirty bit set had left its refcounts for later. */
static int qcow2_undirty(struct qcow2 *q, struct err *err)
{
    log_warning("%s: was not closed properly; its refcounts are rebuilt", q->image.path);
    struct image_check check = { .repair_leaks = true, .repair_all = true };
    int r = qcow2_check(&q->image, &check, err);
    if (r < 0)
        return r;
    if (check.count.corruptions > check.count.corruptions_fixed || check.count.check_errors)
        return err_set(err, EUCLEAN, "is damaged; look at it with: bedplate-img check");
    return 0;
}

static int qcow2_open_data_file(struct qcow2 *q, const struct image_options *options,
                                struct err *err)
{
    q->data = q->image.store;
    if (!(q->header.incompatible_features & INCOMPAT_DATA_FILE))
        return 0;
    if (!q->data_file_name || !q->data_file_name[0])
        return err_set(err, EINVAL, "keeps its data in another file, but does not say which");
    int r = image_open_part(&q->image, q->data_file_name, &q->data_file, err);
    if (r < 0)
        return err_prefix(err, "data file");
    q->data = q->data_file;
    return 0;
}

/* QEMU numbers the sectors by their place in the file. */
static int qcow2_open_crypt(struct qcow2 *q, const struct image_options *options, struct err *err)
{
    bool encrypted = q->header.crypt_method == CRYPT_LUKS;
    struct luks_header *header;
    if (!encrypted && !q->crypt_len)
        return 0;
    if (!encrypted || !q->crypt_len || q->crypt_offset & (q->cluster_size - 1) ||
        !range_fits(q->crypt_offset, q->crypt_len, QCOW2_MAX_OFFSET))
        return err_set(err, EINVAL, "its LUKS header lies at a wrong place");
    if (q->data_file)
        return err_set(err, ENOTSUP, "is encrypted and has a data file, which is not supported");
    header = malloc(sizeof *header);
    if (!header)
        return err_set(err, ENOMEM, "out of memory");
    int r = luks_read(q->image.store, q->crypt_offset, q->crypt_len, header, err);
    if (r == 0)
        r = luks_open_store(q->image.store, q->crypt_offset, header, 0, 0, options, &q->plain, err);
    free(header);
    if (r == 0)
        q->data = q->plain;
    return r;
}

static int qcow2_start_writing(struct qcow2 *q, struct err *err)
{
    uint64_t known = AUTOCLEAR_BITMAPS | AUTOCLEAR_DATA_FILE_RAW | AUTOCLEAR_INTENT;
    int r;
    if (q->header.incompatible_features & INCOMPAT_DIRTY) {
        r = qcow2_undirty(q, err);
        if (r < 0)
            return r;
    }
    if (q->header.autoclear_features & ~known) {
        q->header.autoclear_features &= known;
        r = qcow2_write_header(q);
        if (r < 0)
            return err_errno(err, -r, "cannot write the header");
    }
    return bitmaps_start(q, err);
}

static int qcow2_open(struct image *image, const struct image_options *options, struct err *err)
{
    struct qcow2 *q = qcow2_of(image);
    pthread_mutex_init(&q->lock, NULL);
    pthread_mutex_init(&q->flush_lock, NULL);
    pthread_mutex_init(&q->intent_lock, NULL);
    pthread_cond_init(&q->hold_freed, NULL);
    q->holds_tail = &q->holds;
    if (pages_init(q) < 0)
        return err_set(err, ENOMEM, "out of memory");
    int r = header_read(q, options, err);
    if (r == 0)
        r = extensions_read(q, err);
    if (r == 0)
        r = tables_read(q, err);
    if (r == 0)
        r = tables_are_whole(q, err);
    if (r == 0)
        r = snapshots_load(q, err);
    if (r == 0)
        r = bitmaps_load(q, err);
    if (r == 0)
        r = qcow2_open_data_file(q, options, err);
    if (r == 0)
        r = qcow2_open_crypt(q, options, err);
    if (r < 0)
        return r;
    image->size = q->header.size;
    image->cluster_size = q->cluster_size;
    image->direct_store = q->plain ? NULL : q->data;
    image->unpackable = q->plain || q->data_file;
    return image->readonly || options->for_check ? 0 : qcow2_start_writing(q, err);
}

/* Readers that are not as kind as we are expect the last cluster to be there whole. */
static int qcow2_round_file(struct qcow2 *q)
{
    uint64_t size;
    int r = store_size(q->image.store, &size);
    return r == 0 && size < q->file_end ? store_truncate(q->image.store, q->file_end) : r;
}

static int qcow2_close(struct image *image)
{
    struct qcow2 *q = qcow2_of(image);
    int r = 0;
    if (!image->readonly && q->data && q->l1) {
        r = qcow2_flush(image);
        if (r == 0)
            r = bitmaps_store(q);
        if (r == 0)
            r = qcow2_flush(image); /* refcounts that the first one let go down */
        if (r == 0)
            r = qcow2_round_file(q);
    }
    if (r < 0)
        log_error("%s: closing: %s; what was written since the last flush may be lost", image->path,
                  strerror(-r));
    snapshots_free(q);
    bitmaps_free(q);
    free(q->intent);
    pages_free(q);
    store_close(q->data_file);
    store_close(q->plain);
    free(q->data_file_name);
    free(q->unknown_extensions);
    free(q->l1);
    free(q->l1_dirty);
    free(q->reftable);
    free(q->pending.runs);
    free(q->unpacked);
    codecs_destroy(q->codecs);
    pthread_cond_destroy(&q->hold_freed);
    pthread_mutex_destroy(&q->intent_lock);
    pthread_mutex_destroy(&q->flush_lock);
    pthread_mutex_destroy(&q->lock);
    return r;
}

static int qcow2_set_backing(struct image *image, const char *backing, const char *format,
                             struct err *err)
{
    struct qcow2 *q = qcow2_of(image);
    if (backing && strlen(backing) > MAX_BACKING_NAME)
        return err_set(err, ENAMETOOLONG, "a backing file's name has at most %d bytes",
                       MAX_BACKING_NAME);
    AUTO(free) char *name = backing ? strdup(backing) : NULL;
    AUTO(free) char *of = backing && format ? strdup(format) : NULL;
    if ((backing && !name) || (backing && format && !of))
        return err_set(err, ENOMEM, "out of memory");
    int r = qcow2_flush(image);
    LOCKED(&q->lock);
    char *old_name = image->backing_name, *old_format = image->backing_format;
    image->backing_name = name;
    image->backing_format = of;
    if (r == 0)
        r = qcow2_write_header(q);
    if (r < 0) {
        image->backing_name = old_name;
        image->backing_format = old_format;
        return err_errno(err, -r, "cannot write the header");
    }
    name = old_name;
    of = old_format;
    return 0;
}

/* ---- facts ---- */

static int qcow2_info(struct image *image, json_t *into)
{
    struct qcow2 *q = qcow2_of(image);
    const struct qcow2_header *h = &q->header;
    json_object_set_new(into, "compat", json_string(q->version == 2 ? "0.10" : "1.1"));
    json_object_set_new(into, "compression-type", json_string(q->compression ? "zstd" : "zlib"));
    json_object_set_new(into, "refcount-bits", json_integer(1 << q->refcount_order));
    if (q->crypt_len)
        json_object_set_new(into, "encrypted", json_string("luks"));
    if (q->version < 3)
        return 0;
    json_object_set_new(into, "lazy-refcounts", json_boolean(h->compatible_features & COMPAT_LAZY));
    json_object_set_new(into, "corrupt", json_boolean(h->incompatible_features & INCOMPAT_CORRUPT));
    json_object_set_new(into, "extended-l2", json_boolean(q->subclusters > 1));
    if (q->data_file_name) {
        json_object_set_new(into, "data-file", json_string(q->data_file_name));
        json_object_set_new(into, "data-file-raw",
                            json_boolean(h->autoclear_features & AUTOCLEAR_DATA_FILE_RAW));
    }
    json_t *bitmaps = json_array();
    for (unsigned i = 0; i < q->bitmap_count; i++) {
        const struct qcow2_bitmap *b = &q->bitmaps[i];
        json_t *flags = json_array();
        if (b->flags & BITMAP_IN_USE)
            json_array_append_new(flags, json_string("in-use"));
        if (b->flags & BITMAP_AUTO)
            json_array_append_new(flags, json_string("auto"));
        json_array_append_new(bitmaps,
                              json_pack("{s:s, s:I, s:o}", "name", b->name, "granularity",
                                        (json_int_t)1 << b->granularity_bits, "flags", flags));
    }
    if (q->bitmap_count)
        json_object_set(into, "bitmaps", bitmaps);
    json_decref(bitmaps);
    return 0;
}

const struct image_format image_qcow2 = {
    .name = "qcow2",
    .about = "grows as it is written; backing files, snapshots, compression",
    .options = qcow2_options,
    .can_back = true,
    .struct_size = sizeof(struct qcow2),
    .create = qcow2_create,
    .open = qcow2_open,
    .close = qcow2_close,
    .read = qcow2_read,
    .write = qcow2_write,
    .zero = qcow2_zero,
    .discard = qcow2_discard,
    .flush = qcow2_flush,
    .status = qcow2_status,
    .write_compressed = qcow2_write_compressed,
    .check = qcow2_check,
    .resize = qcow2_resize,
    .set_backing = qcow2_set_backing,
    .empty = qcow2_empty,
    .snapshot_count = qcow2_snapshot_count,
    .snapshot_at = qcow2_snapshot_at,
    .snapshot_create = qcow2_snapshot_create,
    .snapshot_apply = qcow2_snapshot_apply,
    .snapshot_delete = qcow2_snapshot_delete,
    .snapshot_view = qcow2_snapshot_view,
    .info = qcow2_info,
    .direct_map = qcow2_direct_map,
    .direct_done = qcow2_direct_done,
    .is_clean = qcow2_is_clean,
};
