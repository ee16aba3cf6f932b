/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2 persistent dirty bitmaps: which granules of the disk were written since a point in time.
 *
 * Bitmaps with the flag AUTO record while the image is open for writing. They are marked IN_USE
 * before the first change and written whole on closing, to new clusters; so a crash leaves them
 * marked, and nobody takes the old bits for complete, unless notes of what was written since
 * complete them (qcow2_intent.c). Others are not touched.
 */
#include "block/qcow2.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/text.h"

#include <string.h>

enum {
    DIR_ENTRY = 24,
    MAX_BITMAPS = 65535,
    MAX_DIR = 1 << 20,
    MAX_BITS_BYTES = 64 << 20,
    MAX_NAME = 1023,
    BITMAP_GRANULARITY = 64 << 10,
};

static void bitmap_fini(struct qcow2_bitmap *b)
{
    free(b->name);
    free(b->extra);
    free(b->bits);
}

void bitmaps_free(struct qcow2 *q)
{
    for (unsigned i = 0; q->bitmaps && i < q->bitmap_count; i++)
        bitmap_fini(&q->bitmaps[i]);
    free(q->bitmaps);
}

/* ---- the directory ---- */

static int bitmap_parse(struct qcow2_bitmap *b, const uint8_t *dir, uint64_t *at, uint64_t len,
                        struct err *err)
{
    if (!range_fits(*at, DIR_ENTRY, len))
        return err_set(err, EINVAL, "the bitmap directory is too short");
    const uint8_t *raw = dir + *at;
    b->table_offset = get64(raw);
    b->table_size = get32(raw + 8);
    b->flags = get32(raw + 12);
    b->type = raw[16];
    b->granularity_bits = raw[17];
    uint32_t name_len = get16(raw + 18);
    b->extra_size = get32(raw + 20);
    *at += DIR_ENTRY;
    if (name_len > MAX_NAME || !range_fits(*at, (uint64_t)b->extra_size + name_len, len))
        return err_set(err, EINVAL, "an entry of the bitmap directory reaches past its end");
    if (b->type != 1 || b->granularity_bits < 9 || b->granularity_bits > 31)
        return err_set(err, ENOTSUP, "a bitmap has type %u and granularity 2^%u", b->type,
                       b->granularity_bits);
    b->extra = malloc(b->extra_size + 1);
    b->name = strndup((const char *)dir + *at + b->extra_size, name_len);
    if (!b->extra || !b->name)
        return err_set(err, ENOMEM, "out of memory");
    memcpy(b->extra, dir + *at, b->extra_size);
    *at = round_up(*at + b->extra_size + name_len, 8);
    return 0;
}

int bitmaps_load(struct qcow2 *q, struct err *err)
{
    uint32_t count = q->bitmap_count;
    q->bitmap_count = 0;
    if (!count)
        return 0;
    if (count > MAX_BITMAPS || q->bitmap_dir_size > MAX_DIR ||
        !qcow2_table_fits(q, q->bitmap_dir_offset, q->bitmap_dir_size))
        return err_set(err, EINVAL, "the bitmap directory is too large or at a wrong offset");
    AUTO(free) uint8_t *dir = malloc(q->bitmap_dir_size + 1);
    q->bitmaps = calloc(count, sizeof *q->bitmaps);
    if (!dir || !q->bitmaps)
        return err_set(err, ENOMEM, "out of memory");
    int r = store_read(q->image.store, dir, q->bitmap_dir_size, q->bitmap_dir_offset);
    if (r < 0)
        return err_errno(err, -r, "cannot read the bitmap directory");
    uint64_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct qcow2_bitmap *b = &q->bitmaps[i];
        q->bitmap_count = i + 1;
        r = bitmap_parse(b, dir, &at, q->bitmap_dir_size, err);
        if (r < 0)
            return r;
        if ((uint64_t)b->table_size * 8 > MAX_BITS_BYTES ||
            !qcow2_table_fits(q, b->table_offset, b->table_size * 8ull))
            return err_set(err, EINVAL, "bitmap %s: its table lies at a wrong offset", b->name);
    }
    return 0;
}

static void bitmap_build(const struct qcow2_bitmap *b, struct buf *out)
{
    uint8_t raw[DIR_ENTRY] = { 0 };
    size_t name_len = strlen(b->name);
    put64(raw, b->table_offset);
    put32(raw + 8, b->table_size);
    put32(raw + 12, b->incomplete ? b->flags & ~(uint32_t)BITMAP_AUTO : b->flags);
    raw[16] = b->type;
    raw[17] = b->granularity_bits;
    put16(raw + 18, (uint16_t)name_len);
    put32(raw + 20, b->extra_size);
    buf_add(out, raw, sizeof raw);
    buf_add(out, b->extra, b->extra_size);
    buf_add(out, b->name, name_len);
    buf_grow(out, round_up(out->len, 8) - out->len);
}

/* Writes the directory to a new place, then switches the header (invariants 1 to 3, 5). */
static int directory_save(struct qcow2 *q)
{
    AUTO(buf_fini) struct buf dir = { 0 };
    for (unsigned i = 0; i < q->bitmap_count; i++)
        bitmap_build(&q->bitmaps[i], &dir);
    if (dir.len > MAX_DIR)
        return -EFBIG;
    uint64_t at = 0, clusters = clusters_of(q, dir.len);
    int r = 0;
    if (clusters) {
        pthread_mutex_lock(&q->lock);
        r = clusters_alloc(q, &clusters, true, &at, NULL);
        if (r == 0)
            r = qcow2_write_meta(q, dir.data, dir.len, at);
        pthread_mutex_unlock(&q->lock);
    }
    if (r == 0)
        r = qcow2_flush(&q->image);
    if (r < 0)
        return r;
    LOCKED(&q->lock);
    uint64_t old = q->bitmap_dir_offset, old_len = q->bitmap_dir_size;
    uint64_t features = q->header.autoclear_features;
    q->bitmap_dir_offset = at;
    q->bitmap_dir_size = dir.len;
    q->header.autoclear_features = (features & ~(AUTOCLEAR_BITMAPS | AUTOCLEAR_INTENT)) |
                                   (q->bitmap_count ? AUTOCLEAR_BITMAPS : 0) |
                                   (q->intent ? AUTOCLEAR_INTENT : 0);
    r = qcow2_write_header(q);
    if (r < 0) {
        q->bitmap_dir_offset = old;
        q->bitmap_dir_size = old_len;
        q->header.autoclear_features = features;
        return r;
    }
    if (old)
        clusters_free_now(q, old, clusters_of(q, old_len));
    return 0;
}

/* ---- bits ---- */

static uint64_t bitmap_granules(uint64_t size, const struct qcow2_bitmap *b)
{
    return (size >> b->granularity_bits) + !!(size & ((1ull << b->granularity_bits) - 1));
}

static uint64_t bitmap_bytes_for(uint64_t size, const struct qcow2_bitmap *b)
{
    return (bitmap_granules(size, b) + 7) / 8;
}

static uint64_t bitmap_bytes(const struct qcow2 *q, const struct qcow2_bitmap *b)
{
    return bitmap_bytes_for(q->image.size, b);
}

static int bits_load(struct qcow2 *q, struct qcow2_bitmap *b)
{
    uint64_t bytes = bitmap_bytes(q, b), clusters = clusters_of(q, bytes);
    if (bytes > MAX_BITS_BYTES || clusters != b->table_size)
        return -EFBIG;
    AUTO(free) uint64_t *table = calloc(clusters + 1, 8);
    AUTO(free) uint8_t *bits = calloc(clusters + 1, q->cluster_size);
    if (!table || !bits)
        return -ENOMEM;
    int r = qcow2_read_table(q, b->table_offset, clusters, table);
    for (uint64_t i = 0; r == 0 && i < clusters; i++) {
        uint8_t *part = bits + (i << q->cluster_bits);
        uint64_t at = table[i] & L1E_OFFSET_MASK;
        if (at)
            r = store_read(q->image.store, part, q->cluster_size, at);
        else if (table[i] & 1)
            memset(part, 0xff, q->cluster_size);
    }
    if (r < 0)
        return r;
    b->bits = TAKE(bits);
    b->bit_count = bytes * 8;
    b->granules = bitmap_granules(q->image.size, b);
    return 0;
}

static void bits_free_clusters(struct qcow2 *q, uint64_t table_offset, uint32_t table_size)
{
    AUTO(free) uint64_t *table = calloc(table_size + 1ull, 8);
    if (!table || !table_offset || qcow2_read_table(q, table_offset, table_size, table) < 0)
        return; /* a leak */
    for (uint32_t i = 0; i < table_size; i++)
        if (table[i] & L1E_OFFSET_MASK)
            clusters_free_now(q, table[i] & L1E_OFFSET_MASK, 1);
    clusters_free_now(q, table_offset, clusters_of(q, table_size * 8ull));
}

/* To new clusters; *table_offset is where its table is now. */
static int bits_save(struct qcow2 *q, const struct qcow2_bitmap *b, uint64_t *table_offset,
                     uint32_t *table_size)
{
    uint64_t clusters = clusters_of(q, bitmap_bytes(q, b)), one;
    uint64_t table_clusters = clusters_of(q, clusters * 8);
    AUTO(free) uint8_t *table = calloc(table_clusters + 1, q->cluster_size);
    if (!table)
        return -ENOMEM;
    LOCKED(&q->lock);
    int r = 0;
    for (uint64_t i = 0; r == 0 && i < clusters; i++) {
        const uint8_t *part = b->bits + (i << q->cluster_bits);
        uint64_t at;
        if (!part[0] && !memcmp(part, part + 1, q->cluster_size - 1))
            continue;
        one = 1;
        r = clusters_alloc(q, &one, true, &at, NULL);
        if (r == 0)
            r = qcow2_write_meta(q, part, q->cluster_size, at);
        put64(table + i * 8, at);
    }
    *table_offset = 0;
    *table_size = (uint32_t)clusters;
    if (r < 0 || !clusters)
        return r;
    r = clusters_alloc(q, &table_clusters, true, table_offset, NULL);
    return r < 0 ? r : qcow2_write_meta(q, table, table_clusters << q->cluster_bits, *table_offset);
}

/* ---- while the image is in use ---- */

/* Loads one that records: -errno, with bits NULL, when what it says is not complete. */
static int bitmap_start(struct qcow2 *q, struct qcow2_bitmap *b, const uint8_t *notes)
{
    bool crashed = b->flags & BITMAP_IN_USE;
    int r = crashed && !notes ? -ENODATA : bits_load(q, b);
    if (r == 0 && crashed)
        intent_apply(q, notes, b);
    if (r == 0)
        q->bitmaps_used = true;
    else /* it shall not be taken for one of those that a later crash leaves */
        b->flags &= ~(uint32_t)BITMAP_AUTO;
    b->flags |= BITMAP_IN_USE;
    return r;
}

/* After the directory was saved without it, or could not be. */
static void intent_free(struct qcow2 *q, struct intent_dropped *gone, bool saved)
{
    LOCKED(&q->lock);
    if (saved)
        bits_free_clusters(q, gone->entry.table_offset, gone->entry.table_size);
    bitmap_fini(&gone->entry);
    free(gone->notes);
}

int bitmaps_start(struct qcow2 *q, struct err *err)
{
    AUTO(free) uint8_t *notes = NULL;
    bool changed = q->header.autoclear_features & AUTOCLEAR_INTENT;
    intent_load(q, &notes);
    for (unsigned i = 0; i < q->bitmap_count; i++) {
        struct qcow2_bitmap *b = &q->bitmaps[i];
        if (!(b->flags & BITMAP_AUTO))
            continue;
        int r = bitmap_start(q, b, notes);
        changed = true;
        if (r < 0)
            log_warning("%s: bitmap %s is not complete (%s) and is kept up no more", q->image.path,
                        b->name, r == -ENODATA ? "not closed properly" : strerror(-r));
    }
    if (!changed)
        return 0;
    struct intent_dropped gone;
    intent_drop(q, &gone);
    int r = q->bitmaps_used ? intent_renew(q, notes) : 0;
    if (r == 0)
        r = directory_save(q);
    intent_free(q, &gone, r == 0);
    return r < 0 ? err_errno(err, -r, "cannot mark the bitmaps as in use") : 0;
}

void bitmap_mark(struct qcow2_bitmap *b, uint64_t offset, uint64_t len)
{
    uint64_t last = (offset + len - 1) >> b->granularity_bits;
    for (uint64_t bit = offset >> b->granularity_bits; bit <= last && bit < b->bit_count; bit++)
        b->bits[bit / 8] |= (uint8_t)(1 << (bit & 7));
}

void bitmaps_mark(struct qcow2 *q, uint64_t offset, uint64_t len)
{
    for (unsigned i = 0; q->bitmaps_used && len && i < q->bitmap_count; i++)
        if ((q->bitmaps[i].flags & BITMAP_AUTO) && q->bitmaps[i].bits)
            bitmap_mark(&q->bitmaps[i], offset, len);
}

int bitmaps_record(struct qcow2 *q, uint64_t offset, uint64_t len)
{
    if (!len)
        return 0;
    pthread_mutex_lock(&q->lock);
    bool noted = intent_covers(q, offset, len);
    pthread_mutex_unlock(&q->lock);
    int r = noted ? 0 : intent_widen(q, offset, len);
    LOCKED(&q->lock);
    if (r == 0)
        bitmaps_mark(q, offset, len);
    return r;
}

/* All loaded bits to new clusters, and what they were before to `old`. */
static int bitmaps_save_bits(struct qcow2 *q, struct qcow2_bitmap *old, bool closing)
{
    int r = 0;
    for (unsigned i = 0; r == 0 && i < q->bitmap_count; i++) {
        struct qcow2_bitmap *b = &q->bitmaps[i];
        if (!b->bits)
            continue;
        old[i] = *b;
        r = bits_save(q, b, &b->table_offset, &b->table_size);
        b->incomplete = false;
        if (closing)
            b->flags &= ~(uint32_t)BITMAP_IN_USE;
    }
    return r;
}

static void bitmaps_free_old(struct qcow2 *q, const struct qcow2_bitmap *old, unsigned count)
{
    LOCKED(&q->lock);
    for (unsigned i = 0; i < count; i++)
        if (old[i].bits)
            bits_free_clusters(q, old[i].table_offset, old[i].table_size);
}

int bitmaps_store(struct qcow2 *q)
{
    struct intent_dropped gone;
    if (!q->bitmaps_used)
        return 0;
    intent_drop(q, &gone);
    AUTO(free) struct qcow2_bitmap *old = calloc(q->bitmap_count + 1, sizeof *old);
    int r = old ? bitmaps_save_bits(q, old, true) : -ENOMEM;
    if (r == 0)
        r = directory_save(q);
    if (r == 0)
        bitmaps_free_old(q, old, q->bitmap_count);
    intent_free(q, &gone, r == 0);
    return r;
}

/* Until the directory is saved, the file's old one counts, and with it the old notes. */
static int bitmaps_checkpoint(struct qcow2 *q)
{
    if (!q->bitmaps_used)
        return 0;
    AUTO(free) struct qcow2_bitmap *old = calloc(q->bitmap_count + 1, sizeof *old);
    struct qcow2_bitmap *entry = intent_entry(q),
                        notes = entry ? *entry : (struct qcow2_bitmap){ 0 };
    uint64_t intent_at = q->intent_at;
    AUTO(free) uint8_t *intent = malloc(q->intent_len + 1);
    if (!old || !intent)
        return -ENOMEM;
    unsigned count = q->bitmap_count;
    bool had = q->intent;
    if (had)
        memcpy(intent, q->intent, q->intent_len);
    int r = bitmaps_save_bits(q, old, false);
    if (r == 0)
        r = intent_renew(q, NULL);
    if (r == 0)
        r = directory_save(q);
    if (r == 0) {
        bitmaps_free_old(q, old, count);
        LOCKED(&q->lock);
        bits_free_clusters(q, notes.table_offset, notes.table_size);
        return 0;
    }
    for (unsigned i = 0; i < count; i++)
        if (old[i].bits) {
            q->bitmaps[i].table_offset = old[i].table_offset;
            q->bitmaps[i].table_size = old[i].table_size;
            q->bitmaps[i].incomplete = old[i].incomplete;
        }
    if (had) {
        memcpy(q->intent, intent, q->intent_len);
        q->intent_at = intent_at;
        intent_entry(q)->table_offset = notes.table_offset;
    }
    return r;
}

int qcow2_bitmaps_checkpoint(struct image *image, struct err *err)
{
    int r = bitmaps_checkpoint(qcow2_of(image));
    return r < 0 ? err_errno(err, -r, "%s: cannot save the bitmaps", image->path) : 0;
}

/* ---- another size ---- */

static int resize_load(struct qcow2 *q, uint64_t size, struct err *err)
{
    for (unsigned i = 0; i < q->bitmap_count; i++) {
        struct qcow2_bitmap *b = &q->bitmaps[i];
        if (intent_is_name(b->name))
            continue;
        if (bitmap_bytes_for(size, b) > MAX_BITS_BYTES)
            return err_set(err, EFBIG, "bitmap %s would become too large; remove it first",
                           b->name);
        if (!b->bits && (b->flags & BITMAP_IN_USE))
            return err_set(err, EINVAL, "bitmap %s is inconsistent; remove it first", b->name);
        int r = b->bits ? 0 : bits_load(q, b);
        if (r < 0)
            return err_errno(err, -r, "cannot read bitmap %s", b->name);
    }
    return 0;
}

int bitmaps_resize_begin(struct qcow2 *q, uint64_t size, struct err *err)
{
    struct intent_dropped gone;
    int r = resize_load(q, size, err);
    if (r < 0 || !q->bitmap_count)
        return r;
    intent_drop(q, &gone);
    for (unsigned i = 0; i < q->bitmap_count; i++) {
        q->bitmaps[i].flags |= BITMAP_IN_USE;
        q->bitmaps_used = true;
    }
    r = directory_save(q);
    if (r < 0) {
        intent_put_back(q, &gone);
        return err_errno(err, -r, "cannot mark the bitmaps as in use");
    }
    intent_free(q, &gone, true);
    return 0;
}

static void bitmaps_fit(struct qcow2 *q)
{
    LOCKED(&q->lock);
    for (unsigned i = 0; i < q->bitmap_count; i++) {
        struct qcow2_bitmap *b = &q->bitmaps[i];
        uint64_t bytes = bitmap_bytes(q, b), old = b->bit_count / 8;
        uint64_t granules = bitmap_granules(q->image.size, b);
        uint8_t *bits = calloc(clusters_of(q, bytes) + 1, q->cluster_size);
        if (bits) {
            memcpy(bits, b->bits, old < bytes ? old : bytes);
            for (uint64_t n = b->granules; n < granules; n++)
                bits[n / 8] |= (uint8_t)(1 << (n & 7));
            for (uint64_t n = granules; n < bytes * 8; n++)
                bits[n / 8] &= (uint8_t) ~(1 << (n & 7));
        }
        free(b->bits);
        b->bits = bits; /* NULL: it stays marked, so nobody takes it for complete */
        b->bit_count = bytes * 8;
        b->granules = granules;
    }
}

int bitmaps_resize_end(struct qcow2 *q)
{
    bitmaps_fit(q);
    return bitmaps_checkpoint(q);
}

/* ---- for backups ---- */

static struct qcow2_bitmap *bitmap_find(struct qcow2 *q, const char *name)
{
    for (unsigned i = 0; i < q->bitmap_count; i++)
        if (!strcmp(q->bitmaps[i].name, name))
            return &q->bitmaps[i];
    return NULL;
}

int qcow2_bitmap_add(struct image *image, const char *name, uint32_t granularity, struct err *err)
{
    struct qcow2 *q = qcow2_of(image);
    if (q->version < 3)
        return err_set(err, ENOTSUP, "version 2 has no bitmaps");
    if (!is_power_of_two(granularity) || granularity < 512 || granularity > 1u << 31)
        return err_set(err, EINVAL, "a granularity is a power of two from 512 to 2G");
    if (intent_is_name(name))
        return err_set(err, EINVAL, "the name %s is for the image's own use", name);
    if (!name[0] || strlen(name) > MAX_NAME || q->bitmap_count >= MAX_BITMAPS)
        return err_set(err, EINVAL, "a bitmap's name has 1 to %d bytes", MAX_NAME);
    if (bitmap_find(q, name))
        return err_set(err, EEXIST, "has a bitmap %s already", name);
    int r = q->intent ? 0 : intent_renew(q, NULL);
    if (r < 0)
        return err_errno(err, -r, "cannot add the bitmap");
    struct qcow2_bitmap *list = realloc(q->bitmaps, (q->bitmap_count + 1) * sizeof *list);
    if (!list)
        return err_set(err, ENOMEM, "out of memory");
    q->bitmaps = list;
    struct qcow2_bitmap *b = &list[q->bitmap_count];
    *b = (struct qcow2_bitmap){ .name = strdup(name),
                                .type = 1,
                                .flags = BITMAP_AUTO | BITMAP_IN_USE,
                                .incomplete = true,
                                .granularity_bits = (uint8_t)__builtin_ctz(granularity) };
    uint64_t bytes = bitmap_bytes(q, b);
    b->bits = bytes > MAX_BITS_BYTES ? NULL : calloc(clusters_of(q, bytes) + 1, q->cluster_size);
    b->bit_count = bytes * 8;
    b->granules = bitmap_granules(q->image.size, b);
    r = b->name && b->bits ? bits_save(q, b, &b->table_offset, &b->table_size) : -ENOMEM;
    if (r == 0) {
        q->bitmap_count++;
        q->bitmaps_used = true;
        r = directory_save(q);
        if (r < 0)
            q->bitmap_count--;
    }
    if (r < 0)
        bitmap_fini(b);
    return r < 0 ? err_errno(err, -r, "cannot add the bitmap") : 0;
}

int qcow2_bitmap_remove(struct image *image, const char *name, struct err *err)
{
    struct qcow2 *q = qcow2_of(image);
    unsigned n;
    if (q->intent && intent_is_name(name))
        return err_set(err, EINVAL, "%s is for the image's own use", name);
    for (n = 0; n < q->bitmap_count && strcmp(q->bitmaps[n].name, name); n++)
        ;
    if (n == q->bitmap_count)
        return err_set(err, ENOENT, "has no bitmap %s", name);
    struct qcow2_bitmap gone = q->bitmaps[n];
    size_t behind = (q->bitmap_count - n - 1) * sizeof gone;
    memmove(&q->bitmaps[n], &q->bitmaps[n + 1], behind);
    q->bitmap_count--;
    int r = directory_save(q);
    if (r < 0) {
        memmove(&q->bitmaps[n + 1], &q->bitmaps[n], behind);
        q->bitmaps[n] = gone;
        q->bitmap_count++;
        return err_errno(err, -r, "cannot write the bitmap directory");
    }
    LOCKED(&q->lock);
    bits_free_clusters(q, gone.table_offset, gone.table_size);
    bitmap_fini(&gone);
    return 0;
}

int qcow2_bitmap_read(struct image *image, const char *name, struct bitmap_bits *out,
                      struct err *err)
{
    struct qcow2 *q = qcow2_of(image);
    struct qcow2_bitmap *b = bitmap_find(q, name);
    if (!b)
        return err_set(err, ENOENT, "has no bitmap %s", name);
    if (!b->bits && b->flags & BITMAP_IN_USE)
        return err_set(err, EINVAL, "bitmap %s is not complete: the image was not closed properly",
                       name);
    LOCKED(&q->lock);
    int r = b->bits ? 0 : bits_load(q, b);
    if (r < 0)
        return err_errno(err, -r, "cannot read bitmap %s", name);
    uint8_t *data = malloc(b->bit_count / 8 + 1);
    if (!data)
        return err_set(err, ENOMEM, "out of memory");
    memcpy(data, b->bits, b->bit_count / 8);
    *out = (struct bitmap_bits){ data, b->granules, b->granularity_bits };
    return 0;
}

bool qcow2_keeps_bitmaps(struct image *image)
{
    return image->format == &image_qcow2 && !image->readonly && qcow2_of(image)->version >= 3;
}

bool qcow2_bitmap_is_good(struct image *image, const char *name)
{
    const struct qcow2_bitmap *b = bitmap_find(qcow2_of(image), name);
    return b && b->bits && (b->flags & BITMAP_AUTO);
}

const char *qcow2_bitmap_name(struct image *image, unsigned n)
{
    struct qcow2 *q = qcow2_of(image);
    for (unsigned i = 0; i < q->bitmap_count; i++)
        if (!intent_is_name(q->bitmaps[i].name) && !n--)
            return q->bitmaps[i].name;
    return NULL;
}

void qcow2_bitmap_clear(struct image *image, const char *name)
{
    struct qcow2 *q = qcow2_of(image);
    struct qcow2_bitmap *b = bitmap_find(q, name);
    LOCKED(&q->lock);
    if (b && b->bits)
        memset(b->bits, 0, b->bit_count / 8);
}

void qcow2_bitmap_mark(struct image *image, const char *name, uint64_t offset, uint64_t len)
{
    struct qcow2 *q = qcow2_of(image);
    struct qcow2_bitmap *b = bitmap_find(q, name);
    LOCKED(&q->lock);
    if (b && b->bits && len)
        bitmap_mark(b, offset, len);
}

/* Those that are complete and record. */
int qcow2_bitmaps_move(struct image *from, struct image *to, struct err *err)
{
    struct qcow2 *q = qcow2_of(from);
    int r = 0;
    for (unsigned i = 0; r == 0 && i < q->bitmap_count; i++) {
        const struct qcow2_bitmap *b = &q->bitmaps[i];
        if (!b->bits || !(b->flags & BITMAP_AUTO))
            continue;
        if (!qcow2_bitmap_is_good(to, b->name)) {
            if (bitmap_find(qcow2_of(to), b->name))
                r = qcow2_bitmap_remove(to, b->name, err);
            if (r == 0)
                r = qcow2_bitmap_add(to, b->name, 1u << b->granularity_bits, err);
        }
        for (uint64_t n = 0; r == 0 && n < b->granules; n++)
            if (b->bits[n / 8] >> (n % 8) & 1) {
                uint64_t at = n << b->granularity_bits, unit = 1ull << b->granularity_bits;
                if (at < to->size)
                    qcow2_bitmap_mark(to, b->name, at, unit < to->size - at ? unit : to->size - at);
            }
    }
    if (r == 0)
        r = qcow2_bitmaps_checkpoint(to, err);
    for (unsigned i = q->bitmap_count; r == 0 && i--;)
        if (q->bitmaps[i].bits && (q->bitmaps[i].flags & BITMAP_AUTO))
            r = qcow2_bitmap_remove(from, q->bitmaps[i].name, err);
    return r;
}
