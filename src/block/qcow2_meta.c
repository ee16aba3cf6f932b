/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2 metadata: cached pages of refcount blocks and L2 tables, allocation, and the order in which
 * all of it reaches the disk.
 *
 * "Durable" below means: written, and a flush of the file has returned since. Between two flushes
 * the disk may keep any subset of what was written, by sectors. Invariants:
 *
 * 1. A table entry (L1, L2, refcount table, header) reaches the disk only when the cluster it
 *    points to has, durably, a refcount that counts this reference.
 * 2. A table entry reaches the disk only when what it points to is durable: the data of a data
 *    cluster with its copied edges, the initial content of a table. (Later changes of a table are
 *    changes of single entries, for which 1 and 2 hold again; no entry crosses a sector.)
 * 3. A refcount goes down only when the entry that no longer counts is durably gone. Until then
 *    the cluster is on the list `pending`, so nobody else can be given it.
 * 4. Every acknowledged flush made durable: data first, refcounts with it, then tables
 * (qcow2_flush).
 * 5. The header's fields that belong together lie in one sector and change in one write.
 * 6. A page whose copy is being written, or that is dirty, is never evicted; so what is read from
 *    the file is current.
 *
 * From 1 and 3: at any cut, every refcount is at least the number of references on the disk; the
 * difference is leaks. From 2 and 4: every flushed byte is reachable and right.
 *
 * So one guest flush costs one flush of the file while only data was written in place, and two when
 * clusters were allocated since the last.
 */
#include "block/qcow2.h"

#include "base/checked.h"
#include "base/log.h"

#include <string.h>

enum { HASH_SIZE = 4096, SCAN_MAX = 1 << 20 };

int qcow2_corrupt(struct qcow2 *q, const char *what, uint64_t offset)
{
    if (!q->corrupt_seen)
        log_error("%s: %s at offset %#llx; run: bedplate-img check %s", q->image.path, what,
                  (unsigned long long)offset, q->image.path);
    q->corrupt_seen = true;
    return -EIO;
}

int qcow2_write_meta(struct qcow2 *q, const void *data, size_t len, uint64_t offset)
{
    if (offset + len > q->file_end)
        q->file_end = offset + len;
    return store_write(q->image.store, data, len, offset);
}

/* ---- pages ---- */

static struct page **page_slot(struct qcow2 *q, uint64_t offset)
{
    uint64_t hash = (offset / q->page_size) * 0x9e3779b97f4a7c15ull;
    struct page **slot = &q->page_hash[hash >> 52];
    while (*slot && (*slot)->offset != offset)
        slot = &(*slot)->hash_next;
    return slot;
}
_Static_assert(HASH_SIZE == 1 << (64 - 52), "the hash's top bits");

static void page_unlink(struct qcow2 *q, struct page *page)
{
    *(page->newer ? &page->newer->older : &q->newest) = page->older;
    *(page->older ? &page->older->newer : &q->oldest) = page->newer;
}

static void page_front(struct qcow2 *q, struct page *page)
{
    page->newer = NULL;
    page->older = q->newest;
    *(q->newest ? &q->newest->newer : &q->oldest) = page;
    q->newest = page;
}

static void page_count_dirty(struct qcow2 *q, struct page *page, bool dirty)
{
    if (page->dirty == dirty)
        return;
    page->dirty = dirty;
    *(page->kind == PAGE_L2 ? &q->dirty_l2 : &q->dirty_refcounts) += dirty ? 1u : -1u;
}

void page_dirty(struct qcow2 *q, struct page *page)
{
    page_count_dirty(q, page, true);
    if (page->kind == PAGE_L2)
        atomic_store(&q->unclean, 1);
}

static void page_drop(struct qcow2 *q, struct page *page)
{
    *page_slot(q, page->offset) = page->hash_next;
    page_unlink(q, page);
    page_count_dirty(q, page, false);
    q->page_count--;
    free(page);
}

void pages_forget(struct qcow2 *q, uint64_t offset, uint64_t len)
{
    for (uint64_t at = offset; at < offset + len; at += q->page_size) {
        struct page *page = *page_slot(q, at);
        if (page && !page->writing)
            page_drop(q, page);
    }
}

int pages_init(struct qcow2 *q)
{
    q->page_hash = calloc(HASH_SIZE, sizeof(struct page *));
    return q->page_hash ? 0 : -ENOMEM;
}

void pages_free(struct qcow2 *q)
{
    while (q->oldest)
        page_drop(q, q->oldest);
    free(q->page_hash);
}

bool page_cached(struct qcow2 *q, uint64_t offset)
{
    return *page_slot(q, round_down(offset, q->page_size));
}

struct page *page_peek(struct qcow2 *q, uint64_t offset, enum page_kind kind)
{
    struct page *page = *page_slot(q, round_down(offset, q->page_size));
    if (!page || page->kind != kind)
        return NULL;
    page->used = true;
    return page;
}

/* Makes room: the oldest page that was not used since it was last passed here goes. Beyond the
 * bound when 64 dirty ones come first (invariant 6), until the next qcow2_balance. */
static struct page *page_new(struct qcow2 *q)
{
    for (unsigned kept = 0; q->page_count >= QCOW2_CACHE_PAGES && kept < 64;) {
        struct page *page = q->oldest;
        if (!page->used && !page->dirty && !page->writing) {
            page_drop(q, page);
            break;
        }
        kept += !page->used;
        page->used = false;
        page_unlink(q, page);
        page_front(q, page);
    }
    return calloc(1, sizeof(struct page));
}

int page_get(struct qcow2 *q, uint64_t offset, enum page_kind kind, struct page **out)
{
    offset = round_down(offset, q->page_size);
    struct page *page = *page_slot(q, offset);
    if (page) {
        if (page->kind != kind)
            return qcow2_corrupt(q, "two tables overlap", offset);
        page->used = true;
        *out = page;
        return 0;
    }
    page = page_new(q);
    if (!page)
        return -ENOMEM;
    int r = store_read(q->image.store, page->data, q->page_size, offset);
    if (r < 0) {
        free(page);
        return r;
    }
    page->offset = offset;
    page->kind = kind;
    page->hash_next = NULL;
    *page_slot(q, offset) = page;
    page_front(q, page);
    q->page_count++;
    *out = page;
    return 0;
}

/* ---- refcounts ---- */

uint64_t refcount_max(const struct qcow2 *q)
{
    return q->refcount_order == 6 ? UINT64_MAX : (1ull << (1u << q->refcount_order)) - 1;
}

uint64_t refcounts_per_block(const struct qcow2 *q)
{
    return (uint64_t)q->cluster_size * 8 >> q->refcount_order;
}

uint64_t refcount_read(const struct qcow2 *q, const uint8_t *block, uint64_t index)
{
    switch (q->refcount_order) {
    case 3: return block[index];
    case 4: return get16(block + index * 2);
    case 5: return get32(block + index * 4);
    case 6: return get64(block + index * 8);
    }
    unsigned width = 1u << q->refcount_order, shift = (index * width) & 7;
    return (block[index * width / 8] >> shift) & ((1u << width) - 1);
}

void refcount_write(const struct qcow2 *q, uint8_t *block, uint64_t index, uint64_t value)
{
    switch (q->refcount_order) {
    case 3: block[index] = (uint8_t)value; return;
    case 4: put16(block + index * 2, (uint16_t)value); return;
    case 5: put32(block + index * 4, (uint32_t)value); return;
    case 6: put64(block + index * 8, value); return;
    }
    unsigned width = 1u << q->refcount_order, shift = (index * width) & 7;
    uint8_t *byte = &block[index * width / 8], mask = (uint8_t)(((1u << width) - 1) << shift);
    *byte = (uint8_t)((*byte & ~mask) | (value << shift));
}

/* The page with the count of `cluster`, and its index there. *page NULL: no block, so it is 0. */
static int refcount_page(struct qcow2 *q, uint64_t cluster, struct page **page, uint64_t *index)
{
    uint64_t per_block = refcounts_per_block(q), slot = cluster / per_block;
    *page = NULL;
    uint64_t block = slot < q->reftable_entries ? q->reftable[slot] & REFT_OFFSET_MASK : 0;
    if (!block)
        return 0;
    if ((block & (q->cluster_size - 1)) || block >= QCOW2_MAX_OFFSET)
        return qcow2_corrupt(q, "a refcount block is not aligned", block);
    uint64_t per_page = (uint64_t)q->page_size * 8 >> q->refcount_order;
    uint64_t in_block = cluster % per_block;
    *index = in_block % per_page;
    return page_get(q, block + in_block / per_page * q->page_size, PAGE_REFCOUNT, page);
}

int refcount_get(struct qcow2 *q, uint64_t cluster, uint64_t *out)
{
    struct page *page;
    uint64_t index;
    int r = refcount_page(q, cluster, &page, &index);
    if (r == 0)
        *out = page ? refcount_read(q, page->data, index) : 0;
    return r;
}

/*
 * Room for a missing block at the start of what it counts: [block][more blocks][new refcount
 * table]. The rest of that is only needed when the table, too, is too short.
 */
static int reftable_grow(struct qcow2 *q, uint64_t slot, uint64_t start)
{
    uint64_t per_block = refcounts_per_block(q), per_cluster = q->cluster_size / 8;
    uint64_t blocks = 1, table_clusters, entries;
    for (;; blocks++) {
        entries = q->reftable_entries + q->reftable_entries / 2;
        if (entries < slot + blocks)
            entries = slot + blocks;
        table_clusters = (entries + per_cluster - 1) / per_cluster;
        uint64_t room = per_block - start % per_block + (blocks - 1) * per_block;
        if (blocks + table_clusters <= room)
            break;
    }
    entries = table_clusters * per_cluster;
    if (entries * 8 > QCOW2_MAX_REFTABLE)
        return -EFBIG;

    AUTO(free) uint64_t *table = calloc(entries, 8);
    AUTO(free) uint8_t *raw = calloc(entries, 8);
    AUTO(free) uint8_t *block = calloc(1, q->cluster_size);
    if (!table || !raw || !block)
        return -ENOMEM;
    uint64_t first = start, total = blocks + table_clusters;
    memcpy(table, q->reftable, q->reftable_entries * 8);
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t covers = (slot + i) * per_block;
        memset(block, 0, q->cluster_size);
        for (uint64_t c = 0; c < per_block; c++)
            if (covers + c >= first && covers + c < first + total)
                refcount_write(q, block, c, 1);
        uint64_t at = (first + i) << q->cluster_bits;
        pages_forget(q, at, q->cluster_size);
        int r = qcow2_write_meta(q, block, q->cluster_size, at);
        if (r < 0)
            return r;
        table[slot + i] = at;
    }
    for (uint64_t i = 0; i < entries; i++)
        put64(raw + i * 8, table[i]);
    uint64_t table_at = (first + blocks) << q->cluster_bits;
    pages_forget(q, table_at, table_clusters << q->cluster_bits);
    int r = qcow2_write_meta(q, raw, entries * 8, table_at);
    if (r == 0)
        r = store_flush(q->image.store);
    if (r < 0)
        return r;
    uint64_t old = q->header.refcount_table_offset,
             old_clusters = q->header.refcount_table_clusters;
    q->header.refcount_table_offset = table_at;
    q->header.refcount_table_clusters = (uint32_t)table_clusters;
    r = qcow2_write_header(q);
    if (r < 0) { /* which of the two the disk has is unknown; neither may be reused */
        q->header.refcount_table_offset = old;
        q->header.refcount_table_clusters = (uint32_t)old_clusters;
        return r;
    }
    free(q->reftable);
    q->reftable = TAKE(table);
    q->reftable_entries = entries;
    return clusters_free_later(q, old, old_clusters);
}

/* Makes a block for the region of `cluster`, in `cluster` itself (which is free, having none). */
static int refcount_block_make(struct qcow2 *q, uint64_t cluster)
{
    uint64_t per_block = refcounts_per_block(q), slot = cluster / per_block;
    if (slot >= q->reftable_entries)
        return reftable_grow(q, slot, cluster);

    AUTO(free) uint8_t *block = calloc(1, q->cluster_size);
    if (!block)
        return -ENOMEM;
    uint64_t at = cluster << q->cluster_bits;
    refcount_write(q, block, cluster % per_block, 1);
    pages_forget(q, at, q->cluster_size);
    int r = qcow2_write_meta(q, block, q->cluster_size, at);
    if (r == 0)
        r = store_flush(q->image.store); /* invariants 1 and 2 for the table's entry */
    uint8_t entry[8];
    put64(entry, at);
    if (r == 0)
        r = qcow2_write_meta(q, entry, 8, q->header.refcount_table_offset + slot * 8);
    if (r == 0)
        q->reftable[slot] = at;
    return r;
}

int refcount_set(struct qcow2 *q, uint64_t cluster, uint64_t value)
{
    struct page *page;
    uint64_t index;
    if (value > refcount_max(q))
        return -EOVERFLOW;
    int r = refcount_page(q, cluster, &page, &index);
    if (r < 0)
        return r;
    if (!page)
        return qcow2_corrupt(q, "a cluster in use has no refcount block",
                             cluster << q->cluster_bits);
    refcount_write(q, page->data, index, value);
    page_dirty(q, page);
    return 0;
}

int refcount_add(struct qcow2 *q, uint64_t cluster, int delta)
{
    uint64_t count;
    int r = refcount_get(q, cluster, &count);
    if (r < 0)
        return r;
    if (delta < 0 && !count)
        return qcow2_corrupt(q, "a cluster in use has refcount 0", cluster << q->cluster_bits);
    if (delta > 0 && count == refcount_max(q))
        return -EOVERFLOW;
    return refcount_set(q, cluster, delta < 0 ? count - 1 : count + 1);
}

/* ---- allocation ---- */

/* Places that a hostile refcount of 0 must not hand out. */
static bool cluster_is_vital(const struct qcow2 *q, uint64_t offset)
{
    return offset == 0 ||
           ranges_overlap(offset, q->cluster_size, q->header.l1_table_offset,
                          (uint64_t)q->l1_size * 8) ||
           ranges_overlap(offset, q->cluster_size, q->header.refcount_table_offset,
                          q->reftable_entries * 8);
}

/* Counts free clusters at `first`, up to `want`; makes a refcount block where one is missing, which
 * may take `first` itself: then it answers 0. */
static int clusters_count_free(struct qcow2 *q, uint64_t first, uint64_t want, uint64_t *out)
{
    uint64_t n = 0;
    for (; n < want; n++) {
        struct page *page;
        uint64_t index;
        int r = refcount_page(q, first + n, &page, &index);
        if (r < 0)
            return r;
        if (!page) {
            if (n)
                break;
            r = refcount_block_make(q, first);
            if (r < 0)
                return r;
            break;
        }
        if (refcount_read(q, page->data, index))
            break;
    }
    *out = n;
    return 0;
}

int clusters_alloc(struct qcow2 *q, uint64_t *clusters, bool exact, uint64_t *offset, bool *fresh)
{
    uint64_t want = *clusters, at = q->free_hint, n;
    bool lowest = true; /* nothing free was passed */
    for (uint64_t scanned = 0;; scanned++) {
        if (at >= QCOW2_MAX_OFFSET >> q->cluster_bits)
            return -EFBIG;
        int r = clusters_count_free(q, at, want, &n);
        if (r < 0)
            return r;
        if (n == want || (n && !exact))
            break;
        lowest &= !n;
        at += n ? n : 1;
        if (lowest)
            q->free_hint = at;
        /* A long full image: do not read all its refcounts for one request. */
        if (scanned == SCAN_MAX && at < clusters_of(q, q->file_end)) {
            at = clusters_of(q, q->file_end);
            lowest = false;
        }
    }
    for (uint64_t i = 0; i < n; i++) {
        uint64_t where = (at + i) << q->cluster_bits;
        int r = cluster_is_vital(q, where)
                    ? qcow2_corrupt(q, "a table in use has refcount 0", where)
                    : refcount_set(q, at + i, 1);
        if (r < 0) {
            while (i--)
                refcount_set(q, at + i, 0);
            return r;
        }
        pages_forget(q, where, q->cluster_size);
    }
    if (lowest)
        q->free_hint = at + n;
    *clusters = n;
    *offset = at << q->cluster_bits;
    if (fresh)
        *fresh = *offset >= q->file_end;
    if (*offset + (n << q->cluster_bits) > q->file_end)
        q->file_end = *offset + (n << q->cluster_bits);
    return 0;
}

static void cluster_release(struct qcow2 *q, uint64_t cluster, bool punch)
{
    uint64_t count = 0;
    if (refcount_add(q, cluster, -1) < 0 || refcount_get(q, cluster, &count) < 0 || count)
        return;
    uint64_t offset = cluster << q->cluster_bits;
    pages_forget(q, offset, q->cluster_size);
    if (q->pack_at && (q->pack_at - 1) >> q->cluster_bits == cluster)
        q->pack_at = 0;
    if (cluster < q->free_hint)
        q->free_hint = cluster;
    if (offset + q->cluster_size > q->file_end) /* it may have been written past the end */
        q->file_end = offset + q->cluster_size;
    if (punch)
        store_punch(q->image.store, offset, q->cluster_size);
}

void clusters_free_now(struct qcow2 *q, uint64_t offset, uint64_t clusters)
{
    for (uint64_t i = 0; i < clusters; i++)
        cluster_release(q, (offset >> q->cluster_bits) + i, false);
}

static int free_list_add(struct qcow2_free_list *list, uint64_t offset, uint64_t clusters,
                         unsigned cluster_bits)
{
    struct qcow2_free *last = list->count ? &list->runs[list->count - 1] : NULL;
    if (last && last->offset + (last->clusters << cluster_bits) == offset) {
        last->clusters += clusters;
        return 0;
    }
    if (list->count == list->room) {
        size_t room = list->room ? list->room * 2 : 64;
        struct qcow2_free *runs = realloc(list->runs, room * sizeof *runs);
        if (!runs)
            return -ENOMEM; /* a leak */
        list->runs = runs;
        list->room = room;
    }
    list->runs[list->count++] = (struct qcow2_free){ offset, clusters };
    return 0;
}

int clusters_free_later(struct qcow2 *q, uint64_t offset, uint64_t clusters)
{
    atomic_store(&q->unclean, 1);
    return free_list_add(&q->pending, offset, clusters, q->cluster_bits);
}

void l1_set(struct qcow2 *q, uint32_t index, uint64_t entry)
{
    q->l1[index] = entry;
    q->l1_dirty[index / 64] = 1;
    q->l1_any_dirty = true;
    atomic_store(&q->unclean, 1);
}

/* ---- write-back ---- */

static int refcounts_write(struct qcow2 *q)
{
    for (struct page *page = q->newest; page && q->dirty_refcounts; page = page->older) {
        if (!page->dirty || page->kind != PAGE_REFCOUNT)
            continue;
        int r = qcow2_write_meta(q, page->data, q->page_size, page->offset);
        if (r < 0)
            return r;
        page_count_dirty(q, page, false);
    }
    return 0;
}

struct table_part {    /* a copy of a part of an L1 or L2 table, as it was when data was flushed */
    struct page *page; /* NULL: L1 */
    uint32_t l1_first;
    uint64_t offset;
    size_t len;
    uint8_t *data;
};
struct table_parts {
    struct table_part *part;
    size_t count;
    struct qcow2_free_list frees;
};

static int parts_collect(struct qcow2 *q, struct table_parts *parts)
{
    size_t most = q->dirty_l2 + (q->l1_any_dirty ? (q->l1_size + 63) / 64 : 0);
    parts->part = calloc(most ? most : 1, sizeof *parts->part);
    if (!parts->part)
        return -ENOMEM;
    for (struct page *page = q->newest; page; page = page->older) {
        if (!page->dirty || page->kind != PAGE_L2)
            continue;
        struct table_part *part = &parts->part[parts->count];
        *part = (struct table_part){ page, 0, page->offset, q->page_size, malloc(q->page_size) };
        if (!part->data)
            return -ENOMEM;
        memcpy(part->data, page->data, q->page_size);
        parts->count++;
    }
    for (uint32_t i = 0; q->l1_any_dirty && i < q->l1_size; i += 64) {
        if (!q->l1_dirty[i / 64])
            continue;
        uint32_t n = q->l1_size - i < 64 ? q->l1_size - i : 64;
        struct table_part *part = &parts->part[parts->count];
        *part = (struct table_part){ NULL, i, q->header.l1_table_offset + i * 8ull, n * 8,
                                     malloc(512) };
        if (!part->data)
            return -ENOMEM;
        for (uint32_t k = 0; k < n; k++)
            put64(part->data + k * 8, q->l1[i + k]);
        parts->count++;
    }
    for (size_t i = 0; i < parts->count; i++) {
        struct table_part *part = &parts->part[i];
        if (part->page) {
            page_count_dirty(q, part->page, false);
            part->page->writing = true;
        } else {
            q->l1_dirty[part->l1_first / 64] = 0;
        }
    }
    q->l1_any_dirty = false;
    parts->frees = q->pending;
    q->pending = (struct qcow2_free_list){ 0 };
    return 0;
}

static int parts_write(struct qcow2 *q, const struct table_parts *parts)
{
    int r = store_flush(q->image.store);
    if (r == 0 && q->data_file)
        r = store_flush(q->data_file);
    if (r == 0 && !parts->count)
        return 0;
    for (size_t i = 0; r == 0 && i < parts->count; i++)
        r = store_write(q->image.store, parts->part[i].data, parts->part[i].len,
                        parts->part[i].offset);
    return r < 0 ? r : store_flush(q->image.store);
}

static void parts_end(struct qcow2 *q, struct table_parts *parts, int result)
{
    for (size_t i = 0; i < parts->count; i++) {
        struct table_part *part = &parts->part[i];
        if (part->page)
            part->page->writing = false;
        if (result < 0 && part->page)
            page_dirty(q, part->page);
        else if (result < 0)
            l1_set(q, part->l1_first, q->l1[part->l1_first]);
        free(part->data);
    }
    free(parts->part);
    for (size_t i = 0; i < parts->frees.count; i++) {
        struct qcow2_free *run = &parts->frees.runs[i];
        if (result < 0)
            clusters_free_later(q, run->offset, run->clusters);
        for (uint64_t c = 0; !result && c < run->clusters; c++)
            cluster_release(q, (run->offset >> q->cluster_bits) + c, true);
    }
    free(parts->frees.runs);
}

/* Invariant 4. The lock is free while the disk works. */
int qcow2_flush(struct image *image)
{
    struct qcow2 *q = qcow2_of(image);
    LOCKED(&q->flush_lock);
    pthread_mutex_lock(&q->lock);
    struct table_parts parts = { 0 };
    int r = refcounts_write(q);
    if (r == 0) {
        r = parts_collect(q, &parts);
        if (r < 0) { /* nothing was taken yet */
            for (size_t i = 0; i < parts.count; i++)
                free(parts.part[i].data);
            free(parts.part);
        }
    }
    pthread_mutex_unlock(&q->lock);
    if (r < 0)
        return r;
    r = parts_write(q, &parts);
    pthread_mutex_lock(&q->lock);
    parts_end(q, &parts, r);
    if (!q->dirty_l2 && !q->l1_any_dirty && !q->pending.count)
        atomic_store(&q->unclean, 0);
    pthread_mutex_unlock(&q->lock);
    return r;
}

int qcow2_balance(struct qcow2 *q)
{
    pthread_mutex_lock(&q->lock);
    bool full = q->dirty_l2 + q->dirty_refcounts > QCOW2_CACHE_PAGES / 2;
    pthread_mutex_unlock(&q->lock);
    return full ? qcow2_flush(&q->image) : 0;
}

bool qcow2_is_clean(struct image *image) { return !atomic_load(&qcow2_of(image)->unclean); }
