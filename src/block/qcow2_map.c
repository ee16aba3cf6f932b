/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2 guest data.
 *
 * A request works through its range in pieces of one kind. The lock is held to look up and to
 * change tables, never while data moves; what keeps the pieces apart meanwhile are holds on ranges
 * of guest clusters, shared by readers and writers in place, exclusive for whoever changes the
 * mapping. Invariants (1-6 are qcow2_meta.c's):
 *
 * 7. A host cluster is read or written for the guest only under a hold on its guest cluster, and an
 *    L2 entry changes only under an exclusive one. So no data moves to or from a freed cluster.
 * 8. A request waits for holds while it has none; holds are granted in the order they were asked
 *    for. So nobody waits in a circle.
 * 9. The entry of a data cluster changes after its data was written, so that the copy of the table
 *    that a flush takes never names data which that flush did not cover.
 */
#include "block/qcow2.h"

#include "base/checked.h"

#include <string.h>

/* ---- holds ---- */

static bool hold_must_wait(const struct qcow2 *q, const struct block_hold *hold)
{
    for (const struct block_hold *h = q->holds; h && h != hold; h = h->next)
        if ((h->exclusive || hold->exclusive) && h->start < hold->end && hold->start < h->end)
            return true;
    return false;
}

static void hold_add(struct qcow2 *q, struct block_hold *hold, uint64_t start, uint64_t end,
                     bool exclusive)
{
    *hold = (struct block_hold){ .start = round_down(start, q->cluster_size),
                                 .end = round_up(end, q->cluster_size),
                                 .exclusive = exclusive };
    hold->prev = q->holds_tail;
    *q->holds_tail = hold;
    q->holds_tail = &hold->next;
    q->exclusive_holds += exclusive;
}

void hold_take(struct qcow2 *q, struct block_hold *hold, uint64_t start, uint64_t end,
               bool exclusive)
{
    hold_add(q, hold, start, end, exclusive);
    if (!exclusive && !q->exclusive_holds)
        return;
    q->hold_waiters++;
    while (hold_must_wait(q, hold))
        pthread_cond_wait(&q->hold_freed, &q->lock);
    q->hold_waiters--;
}

void hold_drop(struct qcow2 *q, struct block_hold *hold)
{
    *hold->prev = hold->next;
    if (hold->next)
        hold->next->prev = hold->prev;
    else
        q->holds_tail = hold->prev;
    q->exclusive_holds -= hold->exclusive;
    if (q->hold_waiters)
        pthread_cond_broadcast(&q->hold_freed);
}

/* ---- L2 tables ---- */

int l2_table_get(struct qcow2 *q, uint64_t guest, uint64_t *offset)
{
    uint64_t index = guest >> (q->l2_bits + q->cluster_bits);
    uint64_t table = index < q->l1_size ? q->l1[index] & L1E_OFFSET_MASK : 0;
    if (table & (q->cluster_size - 1))
        return qcow2_corrupt(q, "an L2 table is not aligned", table);
    *offset = table;
    return 0;
}

static int l2_table_copy(struct qcow2 *q, uint64_t from, uint64_t to)
{
    AUTO(free) uint8_t *data = calloc(1, q->cluster_size);
    if (!data)
        return -ENOMEM;
    for (uint64_t at = 0; from && at < q->cluster_size; at += q->page_size) {
        struct page *page;
        int r = page_get(q, from + at, PAGE_L2, &page);
        if (r < 0)
            return r;
        memcpy(data + at, page->data, q->page_size);
    }
    return qcow2_write_meta(q, data, q->cluster_size, to);
}

/* The table for changes: made, or copied from the one that a snapshot also uses. */
int l2_table_own(struct qcow2 *q, uint64_t guest, uint64_t *offset)
{
    uint64_t index = guest >> (q->l2_bits + q->cluster_bits), old, new, one = 1;
    if (index >= q->l1_size)
        return qcow2_corrupt(q, "the L1 table is too short for the disk", guest);
    int r = l2_table_get(q, guest, &old);
    if (r < 0)
        return r;
    if (old && (q->l1[index] & L2E_COPIED)) {
        *offset = old;
        return 0;
    }
    r = clusters_alloc(q, &one, true, &new, NULL);
    if (r < 0)
        return r;
    r = l2_table_copy(q, old, new);
    if (r < 0) {
        clusters_free_now(q, new, 1);
        return r;
    }
    l1_set(q, (uint32_t)index, new | L2E_COPIED);
    *offset = new;
    return old ? clusters_free_later(q, old, 1) : 0;
}

static uint64_t l2_place(const struct qcow2 *q, uint64_t table, uint64_t guest)
{
    uint64_t index = (guest >> q->cluster_bits) & ((1ull << q->l2_bits) - 1);
    return table + index * q->entry_size;
}

int l2_get(struct qcow2 *q, uint64_t table, uint64_t guest, struct l2_entry *out)
{
    uint64_t place = l2_place(q, table, guest);
    struct page *page;
    int r = page_get(q, place, PAGE_L2, &page);
    if (r < 0)
        return r;
    const uint8_t *raw = page->data + (place & (q->page_size - 1));
    out->entry = get64(raw);
    out->bitmap = q->subclusters > 1 ? get64(raw + 8) : 0;
    return 0;
}

int l2_set(struct qcow2 *q, uint64_t table, uint64_t guest, struct l2_entry value)
{
    uint64_t place = l2_place(q, table, guest);
    struct page *page;
    int r = page_get(q, place, PAGE_L2, &page);
    if (r < 0)
        return r;
    uint8_t *raw = page->data + (place & (q->page_size - 1));
    put64(raw, value.entry);
    if (q->subclusters > 1)
        put64(raw + 8, value.bitmap);
    page_dirty(q, page);
    return 0;
}

/* ---- what an entry says ---- */

enum kind { KIND_UNALLOCATED, KIND_ZERO, KIND_DATA, KIND_COMPRESSED };

bool entry_has_host(const struct qcow2 *q, uint64_t entry)
{
    return (entry & L2E_OFFSET_MASK) || (q->data_file && (entry & L2E_COPIED));
}

static enum kind entry_kind(const struct qcow2 *q, struct l2_entry e, unsigned sub)
{
    if (e.entry & L2E_COMPRESSED)
        return KIND_COMPRESSED;
    bool host = entry_has_host(q, e.entry);
    if (q->subclusters > 1) {
        if (e.bitmap & (1ull << (32 + sub)))
            return KIND_ZERO;
        return host && (e.bitmap & (1ull << sub)) ? KIND_DATA : KIND_UNALLOCATED;
    }
    if (q->has_zero_flag && (e.entry & L2E_ZERO))
        return KIND_ZERO;
    return host ? KIND_DATA : KIND_UNALLOCATED;
}

/* May data be written to the cluster's host offset without asking who else uses it? */
static bool entry_is_ours(const struct qcow2 *q, uint64_t entry)
{
    return !(entry & L2E_COMPRESSED) && (entry & L2E_COPIED) && entry_has_host(q, entry);
}

void compressed_place(const struct qcow2 *q, uint64_t entry, uint64_t *offset, uint64_t *len)
{
    unsigned shift = 62 - (q->cluster_bits - 8);
    uint64_t sectors = ((entry >> shift) & ((1ull << (q->cluster_bits - 8)) - 1)) + 1;
    *offset = entry & ((1ull << shift) - 1);
    *len = sectors * QCOW2_SECTOR - (*offset & (QCOW2_SECTOR - 1));
}

int entry_free(struct qcow2 *q, uint64_t entry)
{
    if (entry & L2E_COMPRESSED) {
        uint64_t offset, len;
        compressed_place(q, entry, &offset, &len);
        uint64_t first = round_down(offset, q->cluster_size);
        q->unpacked_key = 0;
        return clusters_free_later(q, first, clusters_of(q, offset + len - first));
    }
    if (!(entry & L2E_OFFSET_MASK) || q->data_file)
        return 0;
    return clusters_free_later(q, entry & L2E_OFFSET_MASK, 1);
}

struct piece {
    enum kind kind;
    bool ours;
    uint64_t len, host;    /* host: of DATA; of the first byte */
    struct l2_entry entry; /* of the first cluster */
};

static int piece_one(struct qcow2 *q, uint64_t guest, struct piece *out)
{
    uint64_t table;
    int r = l2_table_get(q, guest, &table);
    if (r < 0)
        return r;
    uint64_t in_cluster = guest & (q->cluster_size - 1);
    *out = (struct piece){ .kind = KIND_UNALLOCATED };
    if (!table) {
        uint64_t covers = 1ull << (q->l2_bits + q->cluster_bits);
        out->len = covers - (guest & (covers - 1));
        return 0;
    }
    r = l2_get(q, table, guest, &out->entry);
    if (r < 0)
        return r;
    unsigned sub = (unsigned)(in_cluster >> q->sub_bits);
    out->kind = entry_kind(q, out->entry, sub);
    out->ours = entry_is_ours(q, out->entry.entry);
    out->len = out->kind == KIND_COMPRESSED ? q->cluster_size - in_cluster
                                            : ((uint64_t)(sub + 1) << q->sub_bits) - in_cluster;
    if (out->kind != KIND_DATA)
        return 0;
    out->host = (out->entry.entry & L2E_OFFSET_MASK) + in_cluster;
    if ((out->host - in_cluster) & (q->cluster_size - 1))
        return qcow2_corrupt(q, "a data cluster is not aligned", out->host);
    return 0;
}

/* The longest piece of one kind at `guest`, at most `len` bytes, contiguous in the file. */
static int piece_get(struct qcow2 *q, uint64_t guest, uint64_t len, struct piece *out)
{
    int r = piece_one(q, guest, out);
    while (!r && out->len < len && out->kind != KIND_COMPRESSED) {
        struct piece next;
        r = piece_one(q, guest + out->len, &next);
        if (r < 0 || next.kind != out->kind || next.ours != out->ours ||
            (next.kind == KIND_DATA && next.host != out->host + out->len))
            break;
        out->len += next.len;
    }
    if (out->len > len)
        out->len = len;
    return r;
}

/* ---- packed clusters ---- */

/* Reads from one packed cluster; the last one stays unpacked. Under a hold. */
static int packed_read(struct qcow2 *q, uint64_t entry, uint64_t in_cluster, void *data, size_t len)
{
    pthread_mutex_lock(&q->lock);
    bool hit = q->unpacked_key == entry;
    if (hit)
        memcpy(data, q->unpacked + in_cluster, len);
    pthread_mutex_unlock(&q->lock);
    if (hit)
        return 0;

    uint64_t offset, packed_len;
    compressed_place(q, entry, &offset, &packed_len);
    AUTO(free) uint8_t *packed = malloc(packed_len);
    if (!packed)
        return -ENOMEM;
    int r = store_read(q->image.store, packed, packed_len, offset);
    if (r == 0 && len == q->cluster_size)
        return codecs_unpack(q->codecs, packed, packed_len, data, len);
    AUTO(free) uint8_t *plain = malloc(q->cluster_size);
    if (r == 0)
        r = plain ? codecs_unpack(q->codecs, packed, packed_len, plain, q->cluster_size) : -ENOMEM;
    if (r < 0)
        return r;
    memcpy(data, plain + in_cluster, len);
    pthread_mutex_lock(&q->lock);
    uint8_t *old = q->unpacked;
    q->unpacked = TAKE(plain);
    q->unpacked_key = entry;
    pthread_mutex_unlock(&q->lock);
    free(old);
    return 0;
}

/* ---- reading ---- */

/* A cluster is written before an entry names it; one behind the end was cut off. Lock. */
static bool data_is_there(const struct qcow2 *q, uint64_t host)
{
    return q->data_file || (host & ~(uint64_t)(q->cluster_size - 1)) <= q->file_end;
}

/* Under a hold of the caller's. */
static int map_read(struct qcow2 *q, uint8_t *data, uint64_t len, uint64_t guest)
{
    while (len) {
        struct piece piece;
        pthread_mutex_lock(&q->lock);
        int r = piece_get(q, guest, len, &piece);
        if (r == 0 && piece.kind == KIND_DATA && !data_is_there(q, piece.host))
            r = qcow2_corrupt(q, "data lies behind the end of the file, which was cut off",
                              piece.host);
        pthread_mutex_unlock(&q->lock);
        if (r < 0)
            return r;
        switch (piece.kind) {
        case KIND_UNALLOCATED: r = image_read_backing(&q->image, data, piece.len, guest); break;
        case KIND_ZERO: memset(data, 0, piece.len); break;
        case KIND_DATA: r = store_read(q->data, data, piece.len, piece.host); break;
        case KIND_COMPRESSED:
            r = packed_read(q, piece.entry.entry, guest & (q->cluster_size - 1), data, piece.len);
            break;
        }
        if (r < 0)
            return r;
        data += piece.len;
        guest += piece.len;
        len -= piece.len;
    }
    return 0;
}

int qcow2_read(struct image *image, void *data, size_t len, uint64_t offset)
{
    struct qcow2 *q = qcow2_of(image);
    struct block_hold hold;
    pthread_mutex_lock(&q->lock);
    hold_take(q, &hold, offset, offset + len, false);
    pthread_mutex_unlock(&q->lock);
    int r = map_read(q, data, len, offset);
    pthread_mutex_lock(&q->lock);
    hold_drop(q, &hold);
    pthread_mutex_unlock(&q->lock);
    return r;
}

int qcow2_status(struct image *image, uint64_t offset, uint64_t len, struct image_extent *out)
{
    struct qcow2 *q = qcow2_of(image);
    struct piece piece;
    LOCKED(&q->lock);
    int r = piece_get(q, offset, len, &piece);
    if (r < 0)
        return r;
    out->len = piece.len;
    switch (piece.kind) {
    case KIND_UNALLOCATED: out->flags = 0; break;
    case KIND_ZERO: out->flags = IMAGE_ALLOCATED | IMAGE_ZERO; break;
    case KIND_DATA:
        out->flags = IMAGE_ALLOCATED | IMAGE_HOST;
        out->host = piece.host;
        break;
    case KIND_COMPRESSED: out->flags = IMAGE_ALLOCATED | IMAGE_COMPRESSED; break;
    }
    return 0;
}

/* ---- writing ---- */

struct allocation { /* a run of clusters that get new data, under an exclusive hold */
    uint64_t guest, clusters, host; /* of the first cluster */
    bool fresh, reuse;
    struct l2_entry old; /* of the first cluster */
    uint64_t start, end; /* what data covers, and what is to be written with copied edges: */
    uint64_t copy_start, copy_end;
};

/* Where the edges that data does not cover must come from elsewhere. */
static void allocation_edges(const struct qcow2 *q, struct allocation *a)
{
    uint64_t unit = 1ull << q->sub_bits;
    /* A cluster that moves takes all of it along. */
    if (!a->reuse && ((a->old.entry & L2E_COMPRESSED) || entry_has_host(q, a->old.entry)))
        unit = q->cluster_size;
    a->copy_start = round_down(a->start, unit);
    a->copy_end = round_up(a->end, unit);
}

static bool needs_new_host(struct qcow2 *q, uint64_t table, uint64_t guest)
{
    struct l2_entry e;
    return l2_get(q, table, guest, &e) == 0 && !entry_is_ours(q, e.entry);
}

/* Decides how much of [guest, guest + len) to do at once, and finds the room. Lock. */
static int allocation_plan(struct qcow2 *q, uint64_t guest, uint64_t len, struct allocation *a)
{
    uint64_t table;
    int r = l2_table_own(q, guest, &table);
    if (r < 0)
        return r;
    *a = (struct allocation){ .guest = round_down(guest, q->cluster_size), .start = guest };
    r = l2_get(q, table, guest, &a->old);
    if (r < 0)
        return r;
    uint64_t covers = 1ull << (q->l2_bits + q->cluster_bits);
    uint64_t most = clusters_of(q, guest + len - a->guest);
    uint64_t in_table = (covers - (a->guest & (covers - 1))) >> q->cluster_bits;
    if (most > in_table)
        most = in_table;
    a->clusters = 1;
    a->reuse = entry_is_ours(q, a->old.entry);
    if (a->reuse) {
        a->host = a->old.entry & L2E_OFFSET_MASK;
    } else {
        /* Only clusters that take nothing along ride with others (allocation_edges). */
        bool bare = !(a->old.entry & L2E_COMPRESSED) && !entry_has_host(q, a->old.entry);
        while ((bare || q->subclusters == 1) && a->clusters < most &&
               needs_new_host(q, table, a->guest + (a->clusters << q->cluster_bits))) {
            struct l2_entry e;
            l2_get(q, table, a->guest + (a->clusters << q->cluster_bits), &e);
            if (q->subclusters > 1 && (e.entry & (L2E_COMPRESSED | L2E_OFFSET_MASK)))
                break;
            a->clusters++;
        }
        if (q->data_file) {
            a->host = a->guest;
        } else {
            r = clusters_alloc(q, &a->clusters, false, &a->host, &a->fresh);
            if (r < 0)
                return r;
            a->fresh &= !q->plain; /* zeros of the file are no zeros of its plain text */
        }
    }
    uint64_t end = a->guest + (a->clusters << q->cluster_bits);
    a->end = end < guest + len ? end : guest + len;
    allocation_edges(q, a);
    return 0;
}

/* Writes what the guest's disk has in [from, to) to its new place. */
static int allocation_copy(struct qcow2 *q, const struct allocation *a, uint64_t from, uint64_t to)
{
    if (from >= to)
        return 0;
    uint64_t host = a->host + (from - a->guest);
    AUTO(free) uint8_t *data = malloc(to - from);
    if (!data)
        return -ENOMEM;
    int r = map_read(q, data, to - from, from);
    if (r < 0)
        return r;
    if (a->fresh) {
        bool zero = !data[0] && !memcmp(data, data + 1, to - from - 1);
        if (zero)
            return 0;
    }
    return store_write(q->data, data, to - from, host);
}

/* Points the entries at the new data. Lock. */
static int allocation_enter(struct qcow2 *q, const struct allocation *a)
{
    uint64_t table;
    int r = l2_table_own(q, a->guest, &table);
    for (uint64_t i = 0; r == 0 && i < a->clusters; i++) {
        uint64_t guest = a->guest + (i << q->cluster_bits);
        struct l2_entry old, new;
        r = l2_get(q, table, guest, &old);
        if (r < 0)
            return r;
        new.entry = (a->host + (i << q->cluster_bits)) | L2E_COPIED;
        new.bitmap = 0;
        if (q->subclusters > 1) {
            uint64_t from = a->copy_start > guest ? a->copy_start - guest : 0;
            uint64_t to = a->copy_end - guest;
            if (to > q->cluster_size)
                to = q->cluster_size;
            uint64_t n = (to - from) >> q->sub_bits;
            uint64_t bits = ((1ull << n) - 1) << (from >> q->sub_bits);
            uint64_t keep = old.entry & L2E_COMPRESSED ? 0 : old.bitmap;
            new.bitmap = (keep | bits) & ~(bits << 32);
        }
        r = l2_set(q, table, guest, new);
        if (r == 0 && !a->reuse)
            r = entry_free(q, old.entry);
    }
    return r;
}

/* Under an exclusive hold on all clusters of [guest, guest + len). *done: how much was written. */
static int allocation_write(struct qcow2 *q, const uint8_t *data, uint64_t len, uint64_t guest,
                            uint64_t *done)
{
    struct allocation a;
    pthread_mutex_lock(&q->lock);
    int r = allocation_plan(q, guest, len, &a);
    pthread_mutex_unlock(&q->lock);
    if (r < 0)
        return r;
    /* A disk's last cluster may reach past its end. */
    uint64_t disk_end = q->image.size;
    uint64_t copy_end = a.copy_end < disk_end ? a.copy_end : disk_end;
    r = allocation_copy(q, &a, a.copy_start, a.start);
    if (r == 0)
        r = allocation_copy(q, &a, a.end, copy_end < a.end ? a.end : copy_end);
    if (r == 0)
        r = store_write(q->data, data, a.end - a.start, a.host + (a.start - a.guest));
    /* What lies past the end of the disk would come to light when it grows. */
    if (r == 0 && a.copy_end > disk_end && !a.fresh && a.copy_end > a.end)
        r = store_zero(q->data, a.host + (disk_end - a.guest), a.copy_end - disk_end, true);

    LOCKED(&q->lock);
    if (r == 0)
        r = allocation_enter(q, &a); /* invariant 9 */
    else if (!a.reuse && !q->data_file)
        clusters_free_now(q, a.host, a.clusters);
    *done = a.end - a.start;
    return r;
}

/* Writes a piece at the start of the range; *done: how much. */
static int map_write_piece(struct qcow2 *q, const uint8_t *data, uint64_t len, uint64_t guest,
                           uint64_t *done)
{
    struct piece piece;
    struct block_hold hold;
    pthread_mutex_lock(&q->lock);
    int r = piece_get(q, guest, len, &piece);
    if (r == 0) {
        bool in_place = piece.kind == KIND_DATA && piece.ours;
        hold_take(q, &hold, guest, guest + (in_place ? piece.len : len), !in_place);
        /* It may have changed while we waited. */
        r = piece_get(q, guest, in_place ? piece.len : len, &piece);
        bool still = piece.kind == KIND_DATA && piece.ours;
        pthread_mutex_unlock(&q->lock);
        *done = 0;
        if (r == 0 && still) {
            r = store_write(q->data, data, piece.len, piece.host);
            *done = piece.len;
        } else if (r == 0 && !in_place) {
            r = allocation_write(q, data, len, guest, done);
        }
        pthread_mutex_lock(&q->lock);
        hold_drop(q, &hold);
    }
    pthread_mutex_unlock(&q->lock);
    return r;
}

int qcow2_write(struct image *image, const void *data, size_t len, uint64_t offset)
{
    struct qcow2 *q = qcow2_of(image);
    int r = qcow2_balance(q);
    if (r == 0)
        r = bitmaps_record(q, offset, len);
    for (uint64_t at = 0, done; r == 0 && at < len; at += done)
        r = map_write_piece(q, (const uint8_t *)data + at, len - at, offset + at, &done);
    return r;
}

/* ---- zeros and discards ---- */

enum zap { ZAP_KEEP, ZAP_ZERO, ZAP_UNALLOCATE };

static struct l2_entry zap_entry(const struct qcow2 *q, struct l2_entry old, enum zap how)
{
    if (how == ZAP_UNALLOCATE)
        return (struct l2_entry){ 0 };
    struct l2_entry new = { 0 };
    /* A raw data file keeps every cluster in its place. */
    if ((how == ZAP_KEEP || q->data_file) && entry_is_ours(q, old.entry))
        new.entry = old.entry &(L2E_OFFSET_MASK | L2E_COPIED);
    if (q->subclusters > 1)
        new.bitmap = L2B_ALL_ZERO;
    else
        new.entry |= L2E_ZERO;
    return new;
}

/* Whole clusters, in one L2 table, under an exclusive hold. Lock. */
static int zap_clusters(struct qcow2 *q, uint64_t guest, uint64_t clusters, enum zap how)
{
    uint64_t table;
    int r = l2_table_get(q, guest, &table);
    if (r < 0 || (!table && how == ZAP_UNALLOCATE))
        return r;
    if (!table && !q->image.backing && !q->data_file)
        return 0; /* zeros already */
    r = l2_table_own(q, guest, &table);
    for (uint64_t i = 0; r == 0 && i < clusters; i++, guest += q->cluster_size) {
        struct l2_entry old;
        r = l2_get(q, table, guest, &old);
        if (r < 0)
            return r;
        struct l2_entry new = zap_entry(q, old, how);
        if (!memcmp(&new, &old, sizeof new))
            continue;
        if (!old.entry && !old.bitmap && !q->image.backing)
            continue;
        r = l2_set(q, table, guest, new);
        if (r == 0 && (new.entry &L2E_OFFSET_MASK) != (old.entry & L2E_OFFSET_MASK))
            r = entry_free(q, old.entry);
    }
    return r;
}

/* Whole clusters. */
static int zap_range(struct qcow2 *q, uint64_t offset, uint64_t len, enum zap how)
{
    uint64_t covers = 1ull << (q->l2_bits + q->cluster_bits), end = offset + len;
    for (int r; offset < end;) {
        uint64_t part = covers - (offset & (covers - 1));
        if (part > end - offset)
            part = end - offset;
        r = qcow2_balance(q);
        if (r < 0)
            return r;
        struct block_hold hold;
        LOCKED(&q->lock);
        hold_take(q, &hold, offset, offset + part, true);
        r = zap_clusters(q, offset, part >> q->cluster_bits, how);
        hold_drop(q, &hold);
        if (r < 0)
            return r;
        offset += part;
    }
    return 0;
}

int qcow2_unallocate(struct qcow2 *q, uint64_t offset, uint64_t len)
{
    return zap_range(q, offset, len, ZAP_UNALLOCATE);
}

/* Zeros by writing them, unless the range reads as zeros already. */
static int write_zeros(struct qcow2 *q, uint64_t offset, uint64_t len)
{
    enum { CHUNK = 1 << 20 };
    AUTO(free) uint8_t *zeros = calloc(1, len < CHUNK ? len : CHUNK);
    if (!zeros && len)
        return -ENOMEM;
    while (len) {
        uint64_t part = len < CHUNK ? len : CHUNK;
        struct image_extent extent;
        unsigned depth;
        int r = image_map(&q->image, offset, part, &extent, &depth);
        if (r < 0)
            return r;
        part = extent.len;
        if (!(extent.flags & IMAGE_ZERO))
            r = qcow2_write(&q->image, zeros, part, offset);
        if (r < 0)
            return r;
        offset += part;
        len -= part;
    }
    return 0;
}

int qcow2_zero(struct image *image, uint64_t offset, uint64_t len, unsigned flags)
{
    struct qcow2 *q = qcow2_of(image);
    uint64_t end = offset + len, last = round_up(end, q->cluster_size);
    uint64_t first = round_up(offset, q->cluster_size);
    /* The last cluster of the disk counts as whole. */
    uint64_t until = end == image->size ? last : round_down(end, q->cluster_size);
    if (until <= first)
        return write_zeros(q, offset, len);
    if (!q->has_zero_flag && image->backing)
        return write_zeros(q, offset, len);

    int r = write_zeros(q, offset, first - offset);
    if (r == 0 && until < end)
        r = write_zeros(q, until, end - until);
    if (r < 0)
        return r;
    r = bitmaps_record(q, first, (until < end ? until : end) - first);
    if (r < 0)
        return r;
    if (q->data_file) {
        r = store_zero(q->data_file, first, (until < end ? until : end) - first,
                       !(flags & IMAGE_UNMAP));
        if (r < 0)
            return r;
    }
    return zap_range(q, first, until - first,
                     !q->has_zero_flag     ? ZAP_UNALLOCATE
                     : flags & IMAGE_UNMAP ? ZAP_ZERO
                                           : ZAP_KEEP);
}

int qcow2_discard(struct image *image, uint64_t offset, uint64_t len)
{
    struct qcow2 *q = qcow2_of(image);
    uint64_t first = round_up(offset, q->cluster_size), end = offset + len;
    uint64_t until =
        end == image->size ? round_up(end, q->cluster_size) : round_down(end, q->cluster_size);
    /* What is below must not come to light; version 2 cannot say "zero". */
    if (until <= first || (!q->has_zero_flag && image->backing))
        return 0;
    return qcow2_zero(image, first, (until < end ? until : end) - first, IMAGE_UNMAP);
}

/* ---- compression ---- */

/* Finds room for `len` packed bytes, each cluster of it counted. Lock. */
static int packed_alloc(struct qcow2 *q, uint64_t len, uint64_t *out)
{
    uint64_t in_cluster = q->pack_at & (q->cluster_size - 1);
    uint64_t current = round_down(q->pack_at, q->cluster_size), count = 0, one = 1, new;
    bool shared = q->pack_at && in_cluster;
    if (shared && (refcount_get(q, current >> q->cluster_bits, &count) < 0 || !count ||
                   count == refcount_max(q)))
        shared = false;
    if (shared && in_cluster + len <= q->cluster_size) {
        int r = refcount_add(q, current >> q->cluster_bits, 1);
        *out = q->pack_at;
        q->pack_at += len;
        return r;
    }
    int r = clusters_alloc(q, &one, true, &new, NULL);
    if (r < 0)
        return r;
    if (shared && new == current + q->cluster_size) {
        r = refcount_add(q, current >> q->cluster_bits, 1);
        *out = q->pack_at;
    } else {
        *out = new;
    }
    q->pack_at = *out + len;
    return r;
}

static int packed_enter(struct qcow2 *q, uint64_t guest, const void *packed, size_t len)
{
    uint64_t table, place;
    unsigned shift = 62 - (q->cluster_bits - 8);
    struct l2_entry old;
    struct block_hold hold;
    LOCKED(&q->lock);
    hold_take(q, &hold, guest, guest + q->cluster_size, true);
    int r = l2_table_own(q, guest, &table);
    if (r == 0)
        r = l2_get(q, table, guest, &old);
    if (r == 0)
        r = packed_alloc(q, len, &place);
    if (r == 0) {
        pthread_mutex_unlock(&q->lock);
        r = store_write(q->image.store, packed, len, place);
        pthread_mutex_lock(&q->lock);
        uint64_t sectors = (place + len - 1) / QCOW2_SECTOR - place / QCOW2_SECTOR;
        struct l2_entry new = { L2E_COMPRESSED | place | sectors << shift, 0 };
        if (r == 0)
            r = l2_table_own(q, guest, &table);
        if (r == 0)
            r = l2_set(q, table, guest, new);
        if (r == 0)
            r = entry_free(q, old.entry);
        q->unpacked_key = 0;
    }
    hold_drop(q, &hold);
    return r;
}

int qcow2_write_compressed(struct image *image, const void *data, size_t len, uint64_t offset)
{
    struct qcow2 *q = qcow2_of(image);
    if ((offset & (q->cluster_size - 1)) || len > q->cluster_size ||
        (len < q->cluster_size && offset + len != image->size))
        return -EINVAL;
    if (q->data_file || q->plain)
        return -EOPNOTSUPP;
    int r = qcow2_balance(q);
    if (r < 0)
        return r;
    AUTO(free) uint8_t *plain = calloc(1, q->cluster_size);
    AUTO(free) uint8_t *packed = malloc(q->cluster_size);
    if (!plain || !packed)
        return -ENOMEM;
    memcpy(plain, data, len);
    size_t n = codecs_pack(q->codecs, plain, q->cluster_size, packed, q->cluster_size - 1);
    if (!n)
        return qcow2_write(image, data, len, offset);
    r = bitmaps_record(q, offset, len);
    return r < 0 ? r : packed_enter(q, offset, packed, n);
}

/* ---- around the image ---- */

/* Within one cluster, which is nearly every request: one look into one page. */
static bool direct_one(struct qcow2 *q, uint64_t table, uint64_t offset, bool write, uint64_t *host)
{
    uint64_t place = l2_place(q, table, offset), in_cluster = offset & (q->cluster_size - 1);
    struct page *page = page_peek(q, place, PAGE_L2);
    if (!page)
        return false;
    struct l2_entry e = { .entry = get64(page->data + (place & (q->page_size - 1))) };
    if (entry_kind(q, e, 0) != KIND_DATA || (write && !entry_is_ours(q, e.entry)) ||
        (e.entry & L2E_OFFSET_MASK & (q->cluster_size - 1)))
        return false;
    *host = (e.entry & L2E_OFFSET_MASK) + in_cluster;
    return true;
}

/* A look-up that would read from the file blocks. */
static bool direct_find(struct qcow2 *q, uint64_t offset, uint64_t len, bool write, uint64_t *host)
{
    struct piece piece;
    uint64_t table = 0, last = offset + len - 1;
    if (l2_table_get(q, offset, &table) < 0 || !table ||
        offset >> (q->l2_bits + q->cluster_bits) != last >> (q->l2_bits + q->cluster_bits))
        return false;
    if (q->subclusters == 1 && offset >> q->cluster_bits == last >> q->cluster_bits)
        return direct_one(q, table, offset, write, host);
    uint64_t first_page = l2_place(q, table, offset), last_page = l2_place(q, table, last);
    if (last_page - first_page >= q->page_size || !page_cached(q, first_page) ||
        !page_cached(q, last_page) || piece_get(q, offset, len, &piece) < 0 || piece.len != len ||
        piece.kind != KIND_DATA || (write && !piece.ours))
        return false;
    *host = piece.host;
    return true;
}

bool qcow2_direct_map(struct image *image, struct block_hold *hold, uint64_t offset, uint64_t len,
                      bool write, uint64_t *host)
{
    struct qcow2 *q = qcow2_of(image);
    uint64_t found;
    if (!image_lock_soon(&q->lock))
        return false;
    bool ok = direct_find(q, offset, len, write, &found) && data_is_there(q, found);
    if (ok && write && !intent_covers(q, offset, len))
        ok = false;
    if (ok) {
        hold_add(q, hold, offset, offset + len, false);
        if (q->exclusive_holds && hold_must_wait(q, hold)) {
            hold_drop(q, hold);
            ok = false;
        }
    }
    if (ok && write)
        bitmaps_mark(q, offset, len);
    if (ok)
        *host = found;
    pthread_mutex_unlock(&q->lock);
    return ok;
}

void qcow2_direct_done(struct image *image, struct block_hold *hold)
{
    struct qcow2 *q = qcow2_of(image);
    LOCKED(&q->lock);
    hold_drop(q, hold);
}
