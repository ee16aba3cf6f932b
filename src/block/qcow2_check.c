/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2 consistency: counts every reference in the file and compares with the refcounts.
 *
 * A count that is too high is a leak: space lost, nothing else. One that is too low is a
 * corruption: the next allocation would overwrite data. The flag COPIED on a cluster that has
 * really more than one user is a corruption; COPIED missing, or set on a cluster whose count is
 * only too high, is harmless and put right with the leaks.
 *
 * Repairing sets the refcounts to what was counted. Entries that point outside the file or to where
 * no cluster can be are errors that only a copy of what is readable gets rid of.
 */
#include "block/qcow2.h"

#include "base/checked.h"

#include <stdarg.h>
#include <string.h>

enum { COUNT_PAGE = 65536 };
#define CHECK_MAX_CLUSTERS (1ull << 40)
#define CHECK_BEYOND (64ull << 20)

struct counts { /* of references, by cluster; pages of zeros are absent */
    uint32_t **pages;
    uint64_t clusters, page_count;
};

struct checker {
    struct qcow2 *q;
    struct image_check *check;
    struct counts counts;
    uint64_t file_size;
    int error; /* an I/O error or out of memory ends the check */
};

static void __attribute__((format(printf, 2, 3)))
check_say(struct checker *c, const char *format, ...)
{
    if (!c->check->report)
        return;
    char text[200];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    c->check->report(c->check->arg, text);
}

/* ---- counting ---- */

static uint32_t count_get(const struct counts *counts, uint64_t cluster)
{
    uint32_t *page = cluster < counts->clusters ? counts->pages[cluster / COUNT_PAGE] : NULL;
    return page ? page[cluster % COUNT_PAGE] : 0;
}

static int counts_reach(struct counts *counts, uint64_t clusters)
{
    if (clusters <= counts->clusters)
        return 0;
    uint64_t pages = clusters / COUNT_PAGE + 1;
    uint32_t **grown = realloc(counts->pages, pages * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    memset(grown + counts->page_count, 0, (pages - counts->page_count) * sizeof *grown);
    counts->pages = grown;
    counts->page_count = pages;
    counts->clusters = pages * COUNT_PAGE;
    return 0;
}

static void counts_fini(struct counts *counts)
{
    for (uint64_t i = 0; i < counts->page_count; i++)
        free(counts->pages[i]);
    free(counts->pages);
}

/* Counts a reference to each cluster of the range. False: it cannot be right. */
static bool check_count(struct checker *c, uint64_t offset, uint64_t len, const char *what)
{
    struct qcow2 *q = c->q;
    uint64_t first = offset >> q->cluster_bits,
             n = clusters_of(q, (offset & (q->cluster_size - 1)) + len);
    if (!len)
        return true;
    /* What was allocated but never written may lie behind the end of the file. */
    if (offset > c->file_size + CHECK_BEYOND || first + n > CHECK_MAX_CLUSTERS ||
        counts_reach(&c->counts, first + n) < 0) {
        check_say(c, "%s at %#llx lies far outside of the file", what, (unsigned long long)offset);
        c->check->count.corruptions++;
        return false;
    }
    for (uint64_t i = first; i < first + n; i++) {
        uint32_t **page = &c->counts.pages[i / COUNT_PAGE];
        if (!*page && !(*page = calloc(COUNT_PAGE, sizeof **page))) {
            c->error = -ENOMEM;
            return false;
        }
        (*page)[i % COUNT_PAGE]++;
    }
    return true;
}

static bool check_aligned(struct checker *c, uint64_t offset, const char *what)
{
    if (!(offset & (c->q->cluster_size - 1)))
        return true;
    check_say(c, "%s at %#llx is not aligned", what, (unsigned long long)offset);
    c->check->count.corruptions++;
    return false;
}

static void check_entry(struct checker *c, const uint8_t *raw, bool active, uint64_t *last)
{
    struct qcow2 *q = c->q;
    struct image_problem_count *n = &c->check->count;
    uint64_t entry = get64(raw);
    if (entry & L2E_COMPRESSED) {
        uint64_t offset, len;
        compressed_place(q, entry, &offset, &len);
        if (entry & L2E_COPIED) {
            check_say(c, "a compressed cluster at %#llx is marked as COPIED",
                      (unsigned long long)offset);
            n->corruptions++;
        }
        uint64_t start = round_down(offset, q->cluster_size);
        check_count(c, start, offset + len - start, "a compressed cluster");
        n->allocated += active;
        n->compressed += active;
        n->fragmented += active;
        return;
    }
    uint64_t host = entry & L2E_OFFSET_MASK;
    bool data = !(q->has_zero_flag && entry & L2E_ZERO);
    if (q->subclusters > 1) {
        uint64_t bitmap = get64(raw + 8);
        data = bitmap & L2B_ALL_ALLOC;
        if (((bitmap >> 32) & bitmap & L2B_ALL_ALLOC) ||
            (!host && !q->data_file && (bitmap & L2B_ALL_ALLOC))) {
            check_say(c, "an extended L2 entry contradicts itself (bitmap %#llx)",
                      (unsigned long long)bitmap);
            n->corruptions++;
        }
    }
    if (!entry_has_host(q, entry))
        return;
    n->allocated += active;
    if (active) {
        n->fragmented += *last && host != *last + q->cluster_size;
        *last = host;
    }
    if (!check_aligned(c, host, "a data cluster") || q->data_file)
        return;
    if (data && host > c->file_size) {
        check_say(c, "a data cluster at %#llx lies behind the end of the file, which was cut off",
                  (unsigned long long)host);
        n->corruptions++;
    }
    check_count(c, host, q->cluster_size, "a data cluster");
}

static void check_tree(struct checker *c, uint64_t l1_offset, const uint64_t *l1, uint32_t size,
                       bool active)
{
    struct qcow2 *q = c->q;
    uint64_t last = 0;
    AUTO(free) uint8_t *table = malloc(q->cluster_size);
    if (!table) {
        c->error = -ENOMEM;
        return;
    }
    check_count(c, l1_offset, size * 8ull, "an L1 table");
    for (uint32_t i = 0; i < size && !c->error; i++) {
        uint64_t at = l1[i] & L1E_OFFSET_MASK;
        if (!at || !check_aligned(c, at, "an L2 table") ||
            !check_count(c, at, q->cluster_size, "an L2 table"))
            continue;
        /* Once in the active tree and once in each snapshot's. */
        if (count_get(&c->counts, at >> q->cluster_bits) > q->snapshot_count + 1) {
            check_say(c, "the L2 table at %#llx is used more than once", (unsigned long long)at);
            c->check->count.corruptions++;
            continue;
        }
        c->error = store_read(q->image.store, table, q->cluster_size, at);
        for (uint64_t k = 0; !c->error && k < 1ull << q->l2_bits; k++)
            check_entry(c, table + k * q->entry_size, active, &last);
    }
}

static void check_snapshots(struct checker *c)
{
    struct qcow2 *q = c->q;
    uint64_t table_len = 0;
    for (unsigned i = 0; i < q->snapshot_count && !c->error; i++) {
        struct qcow2_snapshot *s = &q->snapshots[i];
        AUTO(free) uint64_t *l1 = calloc(s->l1_size + 1, 8);
        if (!l1) {
            c->error = -ENOMEM;
            return;
        }
        c->error = qcow2_read_table(q, s->l1_offset, s->l1_size, l1);
        if (!c->error)
            check_tree(c, s->l1_offset, l1, s->l1_size, false);
        table_len += 40 + s->extra_size;
        table_len = round_up(table_len + strlen(s->pub.id) + strlen(s->pub.name), 8);
    }
    if (q->snapshot_count)
        check_count(c, q->header.snapshots_offset, table_len, "the snapshot table");
}

static void check_bitmaps(struct checker *c)
{
    struct qcow2 *q = c->q;
    if (q->bitmap_count)
        check_count(c, q->bitmap_dir_offset, q->bitmap_dir_size, "the bitmap directory");
    for (unsigned i = 0; i < q->bitmap_count && !c->error; i++) {
        struct qcow2_bitmap *b = &q->bitmaps[i];
        AUTO(free) uint64_t *table = calloc(b->table_size + 1ull, 8);
        if (!table) {
            c->error = -ENOMEM;
            return;
        }
        check_count(c, b->table_offset, b->table_size * 8ull, "a bitmap table");
        c->error = qcow2_read_table(q, b->table_offset, b->table_size, table);
        for (uint32_t k = 0; !c->error && k < b->table_size; k++)
            if (table[k] & L1E_OFFSET_MASK)
                check_count(c, table[k] & L1E_OFFSET_MASK, q->cluster_size, "a bitmap");
    }
}

static void check_refcount_tables(struct checker *c)
{
    struct qcow2 *q = c->q;
    check_count(c, q->header.refcount_table_offset, q->reftable_entries * 8, "the refcount table");
    for (uint64_t i = 0; i < q->reftable_entries && !c->error; i++) {
        uint64_t block = q->reftable[i] & REFT_OFFSET_MASK;
        if (!block)
            continue;
        if (check_aligned(c, block, "a refcount block") &&
            check_count(c, block, q->cluster_size, "a refcount block") &&
            count_get(&c->counts, block >> q->cluster_bits) > 1) {
            check_say(c, "the refcount block at %#llx is used by something else, too",
                      (unsigned long long)block);
            c->check->count.corruptions++;
        }
    }
}

static void check_references(struct checker *c)
{
    struct qcow2 *q = c->q;
    check_count(c, 0, q->cluster_size, "the header");
    if (q->crypt_len)
        check_count(c, q->crypt_offset, q->crypt_len, "the LUKS header");
    check_tree(c, q->header.l1_table_offset, q->l1, q->l1_size, true);
    if (!c->error)
        check_snapshots(c);
    if (!c->error)
        check_bitmaps(c);
    if (!c->error)
        check_refcount_tables(c);
}

/* ---- comparing ---- */

static void compare_one(struct checker *c, uint64_t cluster, uint64_t have)
{
    struct image_problem_count *n = &c->check->count;
    uint64_t need = count_get(&c->counts, cluster);
    if (need || have)
        n->end = (cluster + 1) << c->q->cluster_bits;
    if (need == have)
        return;
    bool leak = have > need;
    *(leak ? &n->leaks : &n->corruptions) += 1;
    check_say(c, "%s: cluster %llu has refcount %llu, but %llu references",
              leak ? "leak" : "corruption", (unsigned long long)cluster, (unsigned long long)have,
              (unsigned long long)need);
    if (!(leak ? c->check->repair_leaks || c->check->repair_all : c->check->repair_all))
        return;
    uint64_t now;
    int r = refcount_get(c->q, cluster, &now);
    if (r == 0)
        r = refcount_set(c->q, cluster, need);
    if (r < 0) {
        check_say(c, "cluster %llu: cannot set its refcount: %s", (unsigned long long)cluster,
                  strerror(-r));
        return;
    }
    *(leak ? &n->leaks_fixed : &n->corruptions_fixed) += 1;
    if (!need && cluster < c->q->free_hint)
        c->q->free_hint = cluster;
}

static void compare_refcounts(struct checker *c)
{
    struct qcow2 *q = c->q;
    uint64_t per_block = refcounts_per_block(q);
    /* Refcounts of what lies beyond all references and the file are of no use to anybody. */
    uint64_t most = clusters_of(q, c->file_size);
    most = most > c->counts.clusters ? most : c->counts.clusters;
    uint64_t slots = most / per_block + 1;
    AUTO(free) uint8_t *block = malloc(q->cluster_size);
    if (!block) {
        c->error = -ENOMEM;
        return;
    }
    for (uint64_t slot = 0; slot < slots && !c->error; slot++) {
        uint64_t at = slot < q->reftable_entries ? q->reftable[slot] & REFT_OFFSET_MASK : 0;
        memset(block, 0, q->cluster_size);
        if (at & (q->cluster_size - 1))
            continue; /* reported already */
        if (at)
            c->error = store_read(q->image.store, block, q->cluster_size, at);
        else if (slot * per_block >= c->counts.clusters)
            continue;
        for (uint64_t i = 0; !c->error && i < per_block; i++)
            compare_one(c, slot * per_block + i, refcount_read(q, block, i));
    }
}

/* Of one L1 or L2 entry: is COPIED right? True: it was changed. */
static bool check_flag(struct checker *c, uint64_t *entry)
{
    struct image_problem_count *n = &c->check->count;
    uint64_t cluster = (*entry & L2E_OFFSET_MASK) >> c->q->cluster_bits;
    uint32_t users = count_get(&c->counts, cluster);
    bool copied = *entry & L2E_COPIED;
    if (copied == (users == 1))
        return false;
    bool bad = copied;
    if (bad) {
        n->corruptions++;
        check_say(c, "corruption: cluster %llu has %u users, but is marked as COPIED",
                  (unsigned long long)cluster, users);
    }
    if (!(c->check->repair_all || (!bad && c->check->repair_leaks)))
        return false;
    *entry ^= L2E_COPIED;
    n->corruptions_fixed += bad;
    return true;
}

static void check_flags(struct checker *c)
{
    struct qcow2 *q = c->q;
    for (uint32_t i = 0; i < q->l1_size && !c->error && !q->data_file; i++) {
        uint64_t table = q->l1[i] & L1E_OFFSET_MASK;
        if (!table || (table & (q->cluster_size - 1)))
            continue;
        uint64_t entry = q->l1[i];
        if (check_flag(c, &entry))
            l1_set(q, i, entry);
        for (uint64_t k = 0; !c->error && k < 1ull << q->l2_bits; k++) {
            struct l2_entry e;
            uint64_t guest = k << q->cluster_bits;
            c->error = l2_get(q, table, guest, &e);
            if (c->error || (e.entry & L2E_COMPRESSED) || !(e.entry & L2E_OFFSET_MASK))
                continue;
            if (check_flag(c, &e.entry))
                c->error = l2_set(q, table, guest, e);
        }
        if (q->dirty_l2 > QCOW2_CACHE_PAGES / 2) {
            pthread_mutex_unlock(&q->lock);
            c->error = qcow2_flush(&q->image);
            pthread_mutex_lock(&q->lock);
        }
    }
}

/* ---- repairing ---- */

/* Makes the blocks that are missing, so that refcount_set can work; they are references, too. */
static void repair_blocks(struct checker *c)
{
    struct qcow2 *q = c->q;
    uint64_t per_block = refcounts_per_block(q), most = 0;
    for (uint64_t i = 0; i < c->counts.clusters; i++) {
        if (!c->counts.pages[i / COUNT_PAGE]) {
            i |= COUNT_PAGE - 1;
            continue;
        }
        if (count_get(&c->counts, i))
            most = i;
    }
    for (uint64_t slot = 0; slot <= most / per_block && !c->error; slot++) {
        if (slot < q->reftable_entries && (q->reftable[slot] & REFT_OFFSET_MASK))
            continue;
        bool used = false;
        for (uint64_t i = 0; i < per_block && !used; i++)
            used = count_get(&c->counts, slot * per_block + i);
        if (!used || slot >= q->reftable_entries)
            continue;
        /* A cluster that nothing refers to, behind all others. */
        uint64_t at = ++most << q->cluster_bits;
        AUTO(free) uint8_t *block = calloc(1, q->cluster_size);
        uint8_t entry[8];
        put64(entry, at);
        c->error = block ? qcow2_write_meta(q, block, q->cluster_size, at) : -ENOMEM;
        if (!c->error)
            c->error = store_flush(q->image.store);
        if (!c->error)
            c->error = qcow2_write_meta(q, entry, 8, q->header.refcount_table_offset + slot * 8);
        if (!c->error) {
            q->reftable[slot] = at;
            check_count(c, at, q->cluster_size, "a refcount block");
        }
    }
}

int qcow2_check(struct image *image, struct image_check *check, struct err *err)
{
    struct qcow2 *q = qcow2_of(image);
    bool repair = check->repair_leaks || check->repair_all;
    if (repair && image->readonly)
        return err_set(err, EROFS, "is open read-only, so nothing can be repaired");
    check->count = (struct image_problem_count){ .clusters = clusters_of(q, image->size) };
    int r = image->readonly ? 0 : qcow2_flush(image);
    struct checker c = { .q = q, .check = check, .error = r };
    if (!r)
        c.error = store_size(image->store, &c.file_size);

    pthread_mutex_lock(&q->lock);
    if (!c.error)
        check_references(&c);
    /* A repair by wrong numbers would make it worse. */
    bool sound = !check->count.corruptions;
    if (!sound) {
        check->repair_leaks = check->repair_all = false;
        if (repair)
            check_say(&c, "nothing is repaired, since tables themselves are damaged; save what is "
                          "readable with: bedplate-img convert");
    }
    if (!c.error && check->repair_all)
        repair_blocks(&c);
    if (!c.error)
        compare_refcounts(&c);
    if (!c.error)
        check_flags(&c);
    pthread_mutex_unlock(&q->lock);

    if (!c.error && repair)
        c.error = qcow2_flush(image);
    uint64_t marks = INCOMPAT_DIRTY | INCOMPAT_CORRUPT;
    if (!c.error && check->repair_all && (q->header.incompatible_features & marks) &&
        check->count.corruptions == check->count.corruptions_fixed) {
        LOCKED(&q->lock);
        q->header.incompatible_features &= ~marks;
        c.error = qcow2_write_header(q);
    }
    counts_fini(&c.counts);
    if (c.error)
        return err_errno(err, -c.error, "cannot check");
    return 0;
}
