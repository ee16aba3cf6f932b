/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What makes dirty bitmaps survive a crash: before the first write to a region of the disk the
 * region is noted in the file, durably. After a crash every region that is noted counts as written
 * in every recording bitmap, over the bits that were saved last.
 *
 * The notes are the data of one more bitmap, of large granules, that the directory lists as
 * inconsistent, so other programs leave it alone; it is there only while the image is open for
 * writing, or after a crash. That nobody else wrote to the image meanwhile is told by a feature bit
 * of the kind that whoever does not know it has to clear before writing (autoclear).
 *
 * 1. A region is noted, and that is durable, before data in it changes.
 * 2. Notes start anew only in a new cluster, with all bits saved, by one change of the header.
 */
#include "block/qcow2.h"

#include "base/checked.h"

#include <string.h>

enum { INTENT_MAX = 4096, REGION_MIN = 22, REGION_MAX = 31, AHEAD = 8 };
static const char intent_name[] = "bedplate-intent";

struct qcow2_bitmap *intent_entry(struct qcow2 *q)
{
    for (unsigned i = 0; i < q->bitmap_count; i++)
        if (!strcmp(q->bitmaps[i].name, intent_name))
            return &q->bitmaps[i];
    return NULL;
}

bool intent_is_name(const char *name) { return !strcmp(name, intent_name); }

/* The bytes of the notes for a disk of that size; 0: it is too large for any. */
static uint32_t intent_geometry(const struct qcow2 *q, unsigned *region_bits)
{
    uint64_t most = q->cluster_size < INTENT_MAX ? q->cluster_size : INTENT_MAX;
    for (*region_bits = REGION_MIN; *region_bits <= REGION_MAX; ++*region_bits)
        if ((q->image.size >> *region_bits) < most * 8)
            return (uint32_t)most;
    return 0;
}

/* ---- while writing ---- */

bool intent_covers(const struct qcow2 *q, uint64_t offset, uint64_t len)
{
    if (!q->intent)
        return true;
    for (uint64_t n = offset >> q->region_bits; n <= (offset + len - 1) >> q->region_bits; n++)
        if (!(q->intent[n / 8] >> (n % 8) & 1))
            return false;
    return true;
}

int intent_widen(struct qcow2 *q, uint64_t offset, uint64_t len)
{
    uint8_t notes[INTENT_MAX];
    uint64_t first = offset >> q->region_bits, last = (offset + len - 1) >> q->region_bits;
    uint64_t most = (q->image.size - 1) >> q->region_bits;
    LOCKED(&q->intent_lock);
    pthread_mutex_lock(&q->lock);
    memcpy(notes, q->intent, q->intent_len);
    pthread_mutex_unlock(&q->lock);
    /* Who writes from front to back waits once for several regions. */
    if (first && notes[(first - 1) / 8] >> ((first - 1) % 8) & 1)
        last = last + AHEAD < most ? last + AHEAD : most;
    for (uint64_t n = first; n <= last; n++)
        notes[n / 8] |= (uint8_t)(1 << (n % 8));
    int r = store_write(q->image.store, notes, q->intent_len, q->intent_at);
    if (r == 0)
        r = store_flush(q->image.store);
    if (r < 0)
        return r;
    LOCKED(&q->lock);
    memcpy(q->intent, notes, q->intent_len);
    return 0;
}

/* ---- their place in the file ---- */

int intent_load(struct qcow2 *q, uint8_t **out)
{
    struct qcow2_bitmap *b = intent_entry(q);
    unsigned region_bits;
    uint32_t len = intent_geometry(q, &region_bits);
    uint64_t data_at;
    if (!b || !len || !(q->header.autoclear_features & AUTOCLEAR_INTENT) || b->table_size != 1 ||
        b->granularity_bits != region_bits)
        return -ENOENT;
    AUTO(free) uint8_t *notes = malloc(len);
    if (!notes)
        return -ENOMEM;
    int r = qcow2_read_table(q, b->table_offset, 1, &data_at);
    if (r == 0)
        r = store_read(q->image.store, notes, len, data_at & L1E_OFFSET_MASK);
    if (r == 0 && !(data_at & L1E_OFFSET_MASK))
        r = -EINVAL;
    if (r == 0)
        *out = TAKE(notes);
    return r;
}

void intent_apply(const struct qcow2 *q, const uint8_t *notes, struct qcow2_bitmap *b)
{
    unsigned region_bits;
    uint32_t len = intent_geometry(q, &region_bits);
    for (uint64_t n = 0; n < len * 8ull && n << region_bits < q->image.size; n++) {
        if (!(notes[n / 8] >> (n % 8) & 1))
            continue;
        uint64_t at = n << region_bits, left = q->image.size - at, region = 1ull << region_bits;
        bitmap_mark(b, at, region < left ? region : left);
    }
}

/* Two clusters with the notes and a table that points to them. Lock. */
static int intent_write(struct qcow2 *q, const uint8_t *notes, uint32_t len, uint64_t *data_at,
                        uint64_t *table_at)
{
    AUTO(free) uint8_t *cluster = calloc(1, q->cluster_size);
    uint64_t one = 1;
    if (!cluster)
        return -ENOMEM;
    if (notes)
        memcpy(cluster, notes, len);
    int r = clusters_alloc(q, &one, true, data_at, NULL);
    if (r == 0)
        r = qcow2_write_meta(q, cluster, q->cluster_size, *data_at);
    one = 1;
    if (r == 0)
        r = clusters_alloc(q, &one, true, table_at, NULL);
    memset(cluster, 0, q->cluster_size);
    put64(cluster, *data_at);
    return r < 0 ? r : qcow2_write_meta(q, cluster, q->cluster_size, *table_at);
}

static int intent_enter(struct qcow2 *q, uint64_t table_at)
{
    struct qcow2_bitmap *b = intent_entry(q);
    if (!b) {
        b = realloc(q->bitmaps, (q->bitmap_count + 1) * sizeof *b);
        if (!b)
            return -ENOMEM;
        q->bitmaps = b;
        b += q->bitmap_count;
        *b = (struct qcow2_bitmap){ .name = strdup(intent_name) };
        if (!b->name)
            return -ENOMEM;
        q->bitmap_count++;
    }
    b->table_offset = table_at;
    b->table_size = 1;
    b->flags = BITMAP_IN_USE;
    b->type = 1;
    b->granularity_bits = (uint8_t)q->region_bits;
    return 0;
}

int intent_renew(struct qcow2 *q, const uint8_t *notes)
{
    unsigned region_bits;
    uint32_t len = intent_geometry(q, &region_bits);
    uint64_t data_at, table_at;
    if (!len)
        return 0; /* the bitmaps do not survive a crash */
    AUTO(free) uint8_t *own = calloc(1, len);
    if (!own)
        return -ENOMEM;
    if (notes)
        memcpy(own, notes, len);
    LOCKED(&q->lock);
    int r = intent_write(q, notes, len, &data_at, &table_at);
    unsigned old_bits = q->region_bits;
    q->region_bits = region_bits;
    if (r == 0)
        r = intent_enter(q, table_at);
    if (r < 0) {
        q->region_bits = old_bits;
        return r; /* what was allocated leaks */
    }
    free(q->intent);
    q->intent = TAKE(own);
    q->intent_len = len;
    q->intent_at = data_at;
    return 0;
}

void intent_drop(struct qcow2 *q, struct intent_dropped *gone)
{
    struct qcow2_bitmap *b = intent_entry(q);
    LOCKED(&q->lock);
    *gone = (struct intent_dropped){ .notes = TAKE(q->intent) };
    if (!b)
        return;
    gone->entry = *b;
    size_t behind = (size_t)(q->bitmaps + q->bitmap_count - b - 1);
    memmove(b, b + 1, behind * sizeof *b);
    q->bitmap_count--;
}

void intent_put_back(struct qcow2 *q, struct intent_dropped *gone)
{
    LOCKED(&q->lock);
    if (gone->entry.name)
        q->bitmaps[q->bitmap_count++] = gone->entry; /* its place is still there */
    q->intent = gone->notes;
    *gone = (struct intent_dropped){ 0 };
}
