/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2 as a whole: internal snapshots, resizing, emptying, preallocation. Nothing else may run on
 * the image meanwhile.
 *
 * A cluster's refcount counts the paths to it: header or snapshot table -> L1 -> L2 -> data, each
 * snapshot by itself. So a snapshot adds one along its whole tree. Every operation goes: count up,
 * make durable, switch the header in one write, make durable, count down (invariants 1, 3 and 5 of
 * qcow2_meta.c). A cut between leaves counts that are too high, never too low. The flag COPIED may
 * be missing on the way, which costs a copy later, or be set where the only other "user" is a leak.
 */
#include "block/qcow2.h"

#include "base/checked.h"
#include "base/text.h"

#include <string.h>
#include <time.h>

/* ---- walking a tree ---- */

enum walk {
    WALK_CHECK,   /* can every count go up? */
    WALK_UP,      /* counts up, COPIED off */
    WALK_DOWN,    /* counts down, at once: the tree is durably unreachable */
    WALK_REFRESH, /* COPIED where the count is 1; of the active tree */
};

static int walk_cluster(struct qcow2 *q, uint64_t offset, enum walk how)
{
    uint64_t cluster = offset >> q->cluster_bits, count;
    switch (how) {
    case WALK_CHECK: {
        int r = refcount_get(q, cluster, &count);
        return r < 0 ? r : count == refcount_max(q) ? -EOVERFLOW : 0;
    }
    case WALK_UP: return refcount_add(q, cluster, 1);
    case WALK_DOWN: clusters_free_now(q, offset, 1); return 0;
    case WALK_REFRESH: return 0;
    }
    return 0;
}

/* Sets or clears COPIED of an entry, by the count of what it points to. */
static int walk_flag(struct qcow2 *q, uint64_t *entry, enum walk how)
{
    uint64_t count = 2;
    if (how == WALK_REFRESH) {
        int r = refcount_get(q, (*entry & L2E_OFFSET_MASK) >> q->cluster_bits, &count);
        if (r < 0)
            return r;
    }
    *entry = count == 1 ? *entry | L2E_COPIED : *entry & ~L2E_COPIED;
    return 0;
}

static int walk_entry(struct qcow2 *q, uint64_t table, uint64_t guest, enum walk how)
{
    struct l2_entry e;
    int r = l2_get(q, table, guest, &e);
    if (r < 0)
        return r;
    if (e.entry & L2E_COMPRESSED) {
        uint64_t offset, len;
        compressed_place(q, e.entry, &offset, &len);
        uint64_t end = offset + len;
        for (offset = round_down(offset, q->cluster_size); r == 0 && offset < end;
             offset += q->cluster_size)
            r = walk_cluster(q, offset, how);
        return r;
    }
    if (!(e.entry & L2E_OFFSET_MASK))
        return 0;
    r = walk_cluster(q, e.entry & L2E_OFFSET_MASK, how);
    if (r < 0 || how == WALK_CHECK || how == WALK_DOWN)
        return r;
    uint64_t before = e.entry;
    r = walk_flag(q, &e.entry, how);
    return r < 0 || e.entry == before ? r : l2_set(q, table, guest, e);
}

static int walk_table(struct qcow2 *q, uint64_t *l1_entry, enum walk how)
{
    uint64_t table = *l1_entry & L1E_OFFSET_MASK;
    if (table & (q->cluster_size - 1))
        return qcow2_corrupt(q, "an L2 table is not aligned", table);
    uint64_t count = 1;
    int r = 0;
    if (how == WALK_REFRESH) /* a shared table's clusters are shared */
        r = refcount_get(q, table >> q->cluster_bits, &count);
    for (uint64_t i = 0; r == 0 && count == 1 && i < 1ull << q->l2_bits; i++)
        r = walk_entry(q, table, i << q->cluster_bits, how);
    if (r == 0)
        r = walk_cluster(q, table, how);
    if (r == 0 && (how == WALK_UP || how == WALK_REFRESH))
        r = walk_flag(q, l1_entry, how);
    return r;
}

/* Changes the flags in `l1`, too; the caller writes that. */
static int walk_tree(struct qcow2 *q, uint64_t *l1, uint32_t size, enum walk how)
{
    for (uint32_t i = 0; i < size; i++) {
        if (!(l1[i] & L1E_OFFSET_MASK))
            continue;
        int r = qcow2_balance(q);
        if (r < 0)
            return r;
        LOCKED(&q->lock);
        uint64_t before = l1[i];
        r = walk_table(q, &l1[i], how);
        if (l1 == q->l1 && l1[i] != before)
            l1_set(q, i, l1[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- the snapshot table ---- */

static void snapshot_fini(struct qcow2_snapshot *s)
{
    free(s->pub.id);
    free(s->pub.name);
    free(s->unknown);
}

void snapshots_free(struct qcow2 *q)
{
    for (unsigned i = 0; i < q->snapshot_count; i++)
        snapshot_fini(&q->snapshots[i]);
    free(q->snapshots);
}

enum { SNAPSHOT_HEAD = 40, SNAPSHOT_EXTRA = 24 };

static int snapshot_load(struct qcow2 *q, struct qcow2_snapshot *s, uint64_t *at, uint64_t end)
{
    uint8_t head[SNAPSHOT_HEAD], extra[SNAPSHOT_EXTRA] = { 0 };
    if (!range_fits(*at, sizeof head, end))
        return -EFBIG;
    int r = store_read(q->image.store, head, sizeof head, *at);
    if (r < 0)
        return r;
    s->l1_offset = get64(head);
    s->l1_size = get32(head + 8);
    uint32_t id_len = get16(head + 12), name_len = get16(head + 14);
    s->pub.date_s = get32(head + 16);
    s->pub.date_ns = get32(head + 20);
    s->pub.vm_clock_ns = get64(head + 24);
    s->pub.vm_state_size = get32(head + 32);
    s->extra_size = get32(head + 36);
    *at += sizeof head;
    if (s->extra_size > 1024 || !range_fits(*at, (uint64_t)s->extra_size + id_len + name_len, end))
        return -EFBIG;
    uint32_t known = s->extra_size < sizeof extra ? s->extra_size : sizeof extra;
    r = store_read(q->image.store, extra, known, *at);
    if (known >= 8)
        s->pub.vm_state_size = get64(extra);
    s->pub.disk_size = known >= 16 ? get64(extra + 8) : q->header.size;
    s->icount = known >= 24 ? get64(extra + 16) : UINT64_MAX;
    if (r == 0 && s->extra_size > known) {
        s->unknown = malloc(s->extra_size - known);
        r = s->unknown ? store_read(q->image.store, s->unknown, s->extra_size - known, *at + known)
                       : -ENOMEM;
    }
    *at += s->extra_size;
    s->pub.id = calloc(1, id_len + 1);
    s->pub.name = calloc(1, name_len + 1);
    if (!s->pub.id || !s->pub.name)
        return -ENOMEM;
    if (r == 0)
        r = store_read(q->image.store, s->pub.id, id_len, *at);
    if (r == 0)
        r = store_read(q->image.store, s->pub.name, name_len, *at + id_len);
    *at = round_up(*at + id_len + name_len, 8);
    return r;
}

int snapshots_load(struct qcow2 *q, struct err *err)
{
    uint32_t count = q->header.nb_snapshots;
    if (!count)
        return 0;
    uint64_t at = q->header.snapshots_offset, end = at + QCOW2_MAX_SNAPSHOT_TABLE;
    if (!qcow2_table_fits(q, at, QCOW2_MAX_SNAPSHOT_TABLE))
        return err_set(err, EINVAL, "the snapshot table lies at a wrong offset");
    q->snapshots = calloc(count, sizeof *q->snapshots);
    if (!q->snapshots)
        return err_set(err, ENOMEM, "out of memory");
    for (uint32_t i = 0; i < count; i++) {
        struct qcow2_snapshot *s = &q->snapshots[i];
        q->snapshot_count = i + 1;
        int r = snapshot_load(q, s, &at, end);
        if (r == -EFBIG)
            return err_set(err, EFBIG, "the snapshot table is larger than 16 MiB");
        if (r < 0)
            return err_errno(err, -r, "cannot read the snapshot table");
        if (s->l1_size > QCOW2_MAX_L1 / 8 || !qcow2_table_fits(q, s->l1_offset, s->l1_size * 8ull))
            return err_set(err, EINVAL, "snapshot %s: its L1 table lies at a wrong offset",
                           s->pub.id);
    }
    return 0;
}

static void snapshot_build(const struct qcow2_snapshot *s, struct buf *out)
{
    uint8_t head[SNAPSHOT_HEAD] = { 0 }, extra[SNAPSHOT_EXTRA];
    uint32_t more = s->extra_size > SNAPSHOT_EXTRA ? s->extra_size - SNAPSHOT_EXTRA : 0;
    size_t id_len = strlen(s->pub.id), name_len = strlen(s->pub.name);
    put64(head, s->l1_offset);
    put32(head + 8, s->l1_size);
    put16(head + 12, (uint16_t)id_len);
    put16(head + 14, (uint16_t)name_len);
    put32(head + 16, (uint32_t)s->pub.date_s);
    put32(head + 20, s->pub.date_ns);
    put64(head + 24, s->pub.vm_clock_ns);
    put32(head + 32, s->pub.vm_state_size > UINT32_MAX ? 0 : (uint32_t)s->pub.vm_state_size);
    put32(head + 36, SNAPSHOT_EXTRA + more);
    put64(extra, s->pub.vm_state_size);
    put64(extra + 8, s->pub.disk_size);
    put64(extra + 16, s->icount);
    buf_add(out, head, sizeof head);
    buf_add(out, extra, sizeof extra);
    if (more)
        buf_add(out, s->unknown, more);
    buf_add(out, s->pub.id, id_len);
    buf_add(out, s->pub.name, name_len);
    buf_grow(out, round_up(out->len, 8) - out->len);
}

static int snapshot_table_size(struct qcow2 *q, uint64_t *out)
{
    struct buf buf = { 0 };
    for (unsigned i = 0; i < q->snapshot_count; i++)
        snapshot_build(&q->snapshots[i], &buf);
    *out = buf.len;
    buf_fini(&buf);
    return 0;
}

/* Writes the table anew and switches the header to it. `old_len`: bytes of the present one. */
static int snapshots_save(struct qcow2 *q, uint64_t old_len)
{
    AUTO(buf_fini) struct buf buf = { 0 };
    for (unsigned i = 0; i < q->snapshot_count; i++)
        snapshot_build(&q->snapshots[i], &buf);
    if (buf.len > QCOW2_MAX_SNAPSHOT_TABLE)
        return -EFBIG;
    uint64_t at = 0, clusters = clusters_of(q, buf.len);
    uint64_t old_at = q->header.snapshots_offset, old_count = q->header.nb_snapshots;
    int r = 0;
    if (clusters) {
        pthread_mutex_lock(&q->lock);
        r = clusters_alloc(q, &clusters, true, &at, NULL);
        if (r == 0)
            r = qcow2_write_meta(q, buf.data, buf.len, at);
        pthread_mutex_unlock(&q->lock);
    }
    if (r == 0)
        r = qcow2_flush(&q->image); /* also the refcounts of what it points to */
    if (r < 0)
        return r;
    LOCKED(&q->lock);
    q->header.snapshots_offset = at;
    q->header.nb_snapshots = q->snapshot_count;
    r = qcow2_write_header(q);
    if (r < 0) {
        q->header.snapshots_offset = old_at;
        q->header.nb_snapshots = (uint32_t)old_count;
        return r;
    }
    if (old_count)
        clusters_free_now(q, old_at, clusters_of(q, old_len));
    return 0;
}

/* ---- L1 tables ---- */

static int l1_write_new(struct qcow2 *q, const uint64_t *l1, uint32_t size, uint64_t *offset)
{
    uint64_t clusters = clusters_of(q, size * 8ull);
    AUTO(free) uint8_t *raw = calloc(clusters ? clusters : 1, q->cluster_size);
    if (!raw)
        return -ENOMEM;
    for (uint32_t i = 0; i < size; i++)
        put64(raw + i * 8ull, l1[i]);
    LOCKED(&q->lock);
    *offset = 0;
    if (!clusters)
        return 0;
    int r = clusters_alloc(q, &clusters, true, offset, NULL);
    return r < 0 ? r : qcow2_write_meta(q, raw, clusters << q->cluster_bits, *offset);
}

static int l1_load(struct qcow2 *q, const struct qcow2_snapshot *s, uint64_t **out)
{
    uint64_t *l1 = calloc(s->l1_size + 1, 8);
    if (!l1)
        return -ENOMEM;
    int r = qcow2_read_table(q, s->l1_offset, s->l1_size, l1);
    if (r < 0) {
        free(l1);
        return r;
    }
    *out = l1;
    return 0;
}

/* Puts another active L1 table and size into the header; takes l1. */
static int l1_switch(struct qcow2 *q, uint64_t *take_l1, uint32_t l1_size, uint64_t disk_size)
{
    AUTO(free) uint64_t *l1 = take_l1;
    AUTO(free) uint8_t *dirty = calloc(l1_size / 64 + 1, 1);
    uint64_t offset;
    if (!dirty)
        return -ENOMEM;
    int r = l1_write_new(q, l1, l1_size, &offset);
    if (r == 0)
        r = qcow2_flush(&q->image);
    if (r < 0)
        return r;
    LOCKED(&q->lock);
    struct qcow2_header before = q->header;
    q->header.l1_table_offset = offset;
    q->header.l1_size = l1_size;
    q->header.size = disk_size;
    r = qcow2_write_header(q);
    if (r < 0) {
        q->header = before;
        return r;
    }
    clusters_free_now(q, before.l1_table_offset, clusters_of(q, before.l1_size * 8ull));
    free(q->l1);
    free(q->l1_dirty);
    q->l1 = TAKE(l1);
    q->l1_dirty = TAKE(dirty);
    q->l1_size = l1_size;
    q->l1_any_dirty = false;
    q->image.size = disk_size;
    return 0;
}

/* ---- snapshots ---- */

int qcow2_snapshot_count(struct image *image) { return (int)qcow2_of(image)->snapshot_count; }

const struct image_snapshot *qcow2_snapshot_at(struct image *image, unsigned n)
{
    struct qcow2 *q = qcow2_of(image);
    return n < q->snapshot_count ? &q->snapshots[n].pub : NULL;
}

static int snapshot_may(struct qcow2 *q, struct err *err)
{
    if (q->image.readonly)
        return err_set(err, EROFS, "is open read-only");
    if (q->data_file)
        return err_set(err, ENOTSUP, "an image with a data file cannot hold snapshots");
    return 0;
}

static int snapshot_fail(int r, const char *what, struct err *err)
{
    if (r == -EOVERFLOW)
        return err_set(err, EOVERFLOW,
                       "%s: the refcounts of this image are too narrow for one more snapshot; "
                       "convert it with -o refcount_bits=16",
                       what);
    return err_errno(err, -r, "%s", what);
}

static int snapshot_append(struct qcow2 *q, const char *name)
{
    struct qcow2_snapshot *list =
        realloc(q->snapshots, (q->snapshot_count + 1) * sizeof *q->snapshots);
    if (!list)
        return -ENOMEM;
    q->snapshots = list;
    unsigned long highest = 0;
    for (unsigned i = 0; i < q->snapshot_count; i++) {
        unsigned long id = strtoul(list[i].pub.id, NULL, 10);
        highest = id > highest ? id : highest;
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct qcow2_snapshot *s = &list[q->snapshot_count];
    *s = (struct qcow2_snapshot){
        .pub = { .name = strdup(name),
                 .disk_size = q->image.size,
                 .date_s = (uint64_t)now.tv_sec,
                 .date_ns = (uint32_t)now.tv_nsec },
        .l1_size = q->l1_size,
        .icount = UINT64_MAX,
        .extra_size = SNAPSHOT_EXTRA,
    };
    if (asprintf(&s->pub.id, "%lu", highest + 1) < 0)
        s->pub.id = NULL;
    if (!s->pub.id || !s->pub.name) {
        snapshot_fini(s);
        return -ENOMEM;
    }
    q->snapshot_count++;
    return 0;
}

int qcow2_snapshot_create(struct image *image, const char *name, struct err *err)
{
    struct qcow2 *q = qcow2_of(image);
    int r = snapshot_may(q, err);
    if (r < 0)
        return r;
    if (q->snapshot_count == QCOW2_MAX_SNAPSHOTS || strlen(name) > UINT16_MAX)
        return err_set(err, EFBIG, "there is no room for one more snapshot");
    uint64_t old_len;
    r = snapshot_table_size(q, &old_len);
    if (r == 0)
        r = qcow2_flush(image);
    if (r == 0)
        r = walk_tree(q, q->l1, q->l1_size, WALK_CHECK);
    if (r == 0)
        r = snapshot_append(q, name);
    if (r < 0)
        return snapshot_fail(r, "cannot make the snapshot", err);
    struct qcow2_snapshot *s = &q->snapshots[q->snapshot_count - 1];
    r = walk_tree(q, q->l1, q->l1_size, WALK_UP);
    if (r == 0)
        r = l1_write_new(q, q->l1, q->l1_size, &s->l1_offset);
    if (r == 0)
        r = snapshots_save(q, old_len);
    if (r < 0) {
        snapshot_fini(s);
        q->snapshot_count--;
        return snapshot_fail(r, "cannot make the snapshot", err);
    }
    return 0;
}

/* After counts went down. */
static int snapshot_settle(struct qcow2 *q)
{
    int r = walk_tree(q, q->l1, q->l1_size, WALK_REFRESH);
    return r < 0 ? r : qcow2_flush(&q->image);
}

int qcow2_snapshot_delete(struct image *image, unsigned n, struct err *err)
{
    struct qcow2 *q = qcow2_of(image);
    int r = snapshot_may(q, err);
    if (r < 0)
        return r;
    AUTO(free) uint64_t *l1 = NULL;
    uint64_t old_len;
    snapshot_table_size(q, &old_len);
    struct qcow2_snapshot gone = q->snapshots[n];
    r = l1_load(q, &gone, &l1);
    if (r < 0)
        return err_errno(err, -r, "cannot read the snapshot's L1 table");
    size_t behind = (q->snapshot_count - n - 1) * sizeof gone;
    memmove(&q->snapshots[n], &q->snapshots[n + 1], behind);
    q->snapshot_count--;
    r = snapshots_save(q, old_len);
    if (r < 0) {
        memmove(&q->snapshots[n + 1], &q->snapshots[n], behind);
        q->snapshots[n] = gone;
        q->snapshot_count++;
        return err_errno(err, -r, "cannot write the snapshot table");
    }
    r = walk_tree(q, l1, gone.l1_size, WALK_DOWN);
    pthread_mutex_lock(&q->lock);
    clusters_free_now(q, gone.l1_offset, clusters_of(q, gone.l1_size * 8ull));
    pthread_mutex_unlock(&q->lock);
    snapshot_fini(&gone);
    if (r == 0)
        r = snapshot_settle(q);
    return r < 0 ? err_errno(err, -r, "the snapshot is gone, but giving back its space failed") : 0;
}

int qcow2_snapshot_apply(struct image *image, unsigned n, struct err *err)
{
    struct qcow2 *q = qcow2_of(image);
    int r = snapshot_may(q, err);
    if (r < 0)
        return r;
    const struct qcow2_snapshot *s = &q->snapshots[n];
    uint64_t per_l1 = 1ull << (q->l2_bits + q->cluster_bits);
    if (s->pub.disk_size / per_l1 + !!(s->pub.disk_size % per_l1) > s->l1_size)
        return err_set(err, EINVAL, "the snapshot's L1 table is too short");
    if (q->bitmap_count && s->pub.disk_size != image->size)
        return err_set(err, ENOTSUP,
                       "the snapshot has another size, which its dirty bitmaps would "
                       "not fit; remove them first");
    /* Whatever differs from the present content is a change. */
    r = bitmaps_record(q, 0, image->size);
    uint64_t *l1 = NULL;
    if (r == 0)
        r = qcow2_flush(image);
    if (r == 0)
        r = l1_load(q, s, &l1);
    if (r == 0)
        r = walk_tree(q, l1, s->l1_size, WALK_CHECK);
    if (r == 0)
        r = walk_tree(q, l1, s->l1_size, WALK_UP);
    if (r < 0) {
        free(l1);
        return snapshot_fail(r, "cannot go back to the snapshot", err);
    }
    uint32_t old_size = q->l1_size;
    AUTO(free) uint64_t *old = malloc(old_size * 8ull + 8);
    if (!old) {
        free(l1);
        return err_set(err, ENOMEM, "out of memory");
    }
    memcpy(old, q->l1, old_size * 8ull);
    r = l1_switch(q, l1, s->l1_size, s->pub.disk_size);
    if (r < 0)
        return snapshot_fail(r, "cannot go back to the snapshot", err);
    r = walk_tree(q, old, old_size, WALK_DOWN);
    if (r == 0)
        r = snapshot_settle(q);
    return r < 0 ? err_errno(err, -r, "cannot give back the space of the old state") : 0;
}

int qcow2_snapshot_view(struct image *image, unsigned n, struct err *err)
{
    struct qcow2 *q = qcow2_of(image);
    const struct qcow2_snapshot *s = &q->snapshots[n];
    uint64_t per_l1 = 1ull << (q->l2_bits + q->cluster_bits), *l1;
    if (!image->readonly)
        return err_set(err, EINVAL, "a snapshot can only be looked at read-only");
    if (s->pub.disk_size / per_l1 + !!(s->pub.disk_size % per_l1) > s->l1_size)
        return err_set(err, EINVAL, "the snapshot's L1 table is too short");
    int r = l1_load(q, s, &l1);
    if (r < 0)
        return err_errno(err, -r, "cannot read the snapshot's L1 table");
    LOCKED(&q->lock);
    free(q->l1);
    q->l1 = l1;
    q->l1_size = s->l1_size;
    image->size = s->pub.disk_size;
    return 0;
}

/* ---- size ---- */

static int resize_grow(struct qcow2 *q, uint64_t size, struct err *err)
{
    uint64_t per_l1 = 1ull << (q->l2_bits + q->cluster_bits);
    uint64_t need = size / per_l1 + !!(size % per_l1), old = q->image.size;
    if (need > QCOW2_MAX_L1 / 8)
        return err_set(err, EFBIG,
                       "with clusters of %u bytes a disk has at most %llu TiB; convert the image "
                       "with -o cluster_size=2M",
                       q->cluster_size, (unsigned long long)(per_l1 / 8 * QCOW2_MAX_L1 >> 40));
    if (need < q->l1_size)
        need = q->l1_size;
    uint64_t *l1 = calloc(need + 1, 8);
    if (!l1)
        return err_set(err, ENOMEM, "out of memory");
    int r = qcow2_flush(&q->image);
    memcpy(l1, q->l1, q->l1_size * 8ull);
    if (r < 0)
        free(l1);
    else
        r = l1_switch(q, l1, (uint32_t)need, old);
    if (r < 0)
        return err_errno(err, -r, "cannot grow");

    /* What a smaller disk left in its last cluster, and what lies below, must not appear, also when
     * the power goes: the new part is zero before the header tells of it. */
    uint64_t zero_end = round_up(old, q->cluster_size);
    struct image *backing = q->image.backing;
    if (backing && backing->size > zero_end)
        zero_end = backing->size;
    if (zero_end > size)
        zero_end = size;
    q->image.size = size;
    if (zero_end > old)
        r = qcow2_zero(&q->image, old, zero_end - old, IMAGE_UNMAP);
    if (r == 0)
        r = qcow2_flush(&q->image);
    LOCKED(&q->lock);
    q->header.size = size;
    if (r == 0)
        r = qcow2_write_header(q);
    if (r < 0)
        q->header.size = q->image.size = old;
    return r < 0 ? err_errno(err, -r, "cannot grow") : 0;
}

static int resize_shrink(struct qcow2 *q, uint64_t size, struct err *err)
{
    uint64_t old = q->image.size;
    int r = qcow2_flush(&q->image);
    if (r == 0) {
        LOCKED(&q->lock);
        q->header.size = size;
        r = qcow2_write_header(q);
        if (r == 0)
            q->image.size = size;
        else
            q->header.size = old;
    }
    uint64_t from = round_up(size, q->cluster_size), end = round_up(old, q->cluster_size);
    if (r == 0 && end > from)
        r = qcow2_unallocate(q, from, end - from);
    return r < 0 ? err_errno(err, -r, "cannot shrink") : 0;
}

int qcow2_resize(struct image *image, uint64_t size, enum image_preallocation prealloc,
                 struct err *err)
{
    struct qcow2 *q = qcow2_of(image);
    uint64_t old = image->size;
    if (size % 512)
        return err_set(err, EINVAL, "the size is a multiple of 512");
    if (q->snapshot_count && q->version < 3)
        return err_set(err, ENOTSUP,
                       "has snapshots, which in version 2 know no size of their own; "
                       "delete them first");
    if (size == old)
        return 0;
    int r = bitmaps_resize_begin(q, size, err);
    if (r < 0)
        return r;
    r = size > old ? resize_grow(q, size, err) : resize_shrink(q, size, err);
    int kept = bitmaps_resize_end(q);
    if (r == 0 && kept < 0)
        r = err_errno(err, -kept, "cannot write the bitmaps");
    if (r == 0 && q->data_file && size > old) {
        r = store_truncate(q->data_file, size);
        if (r < 0)
            return err_errno(err, -r, "cannot grow the data file");
    }
    if (r == 0 && prealloc && size > old) {
        r = qcow2_preallocate(q, old, size, prealloc);
        if (r < 0)
            return err_errno(err, -r, "cannot preallocate");
    }
    if (r < 0)
        return r;
    r = qcow2_flush(image);
    return r < 0 ? err_errno(err, -r, "cannot flush") : 0;
}

int qcow2_empty(struct image *image, struct err *err)
{
    struct qcow2 *q = qcow2_of(image);
    int r = qcow2_unallocate(q, 0, round_up(image->size, q->cluster_size));
    if (r == 0)
        r = qcow2_flush(image);
    return r < 0 ? err_errno(err, -r, "cannot empty it") : 0;
}

/* ---- preallocation ---- */

/* A run of clusters without a place, in one L2 table. Lock. *done: clusters handled. */
static int preallocate_run(struct qcow2 *q, uint64_t guest, uint64_t clusters,
                           enum image_preallocation prealloc, uint64_t *done)
{
    uint64_t table, host = guest, n = 0;
    bool fresh = false;
    int r = l2_table_own(q, guest, &table);
    struct l2_entry e = { 0 };
    for (; r == 0 && n < clusters; n++) {
        r = l2_get(q, table, guest + (n << q->cluster_bits), &e);
        if (r == 0 && (e.entry || e.bitmap))
            break;
    }
    *done = n ? n : 1;
    if (r < 0 || !n)
        return r;
    if (!q->data_file) {
        r = clusters_alloc(q, &n, false, &host, &fresh);
        *done = n;
        fresh &= !q->plain;
    }
    if (r == 0 && (prealloc >= PREALLOC_FALLOC || (!fresh && !q->data_file)))
        r = store_zero(q->data, host, n << q->cluster_bits, true);
    for (uint64_t i = 0; r == 0 && i < n; i++) {
        e.entry = (host + (i << q->cluster_bits)) | L2E_COPIED;
        e.bitmap = q->subclusters > 1 && !q->image.backing_name ? L2B_ALL_ALLOC : 0;
        r = l2_set(q, table, guest + (i << q->cluster_bits), e);
    }
    return r;
}

int qcow2_preallocate(struct qcow2 *q, uint64_t from, uint64_t to,
                      enum image_preallocation prealloc)
{
    uint64_t covers = 1ull << (q->l2_bits + q->cluster_bits);
    from = round_up(from, q->cluster_size);
    to = round_up(to, q->cluster_size);
    int r = 0;
    for (uint64_t done; r == 0 && from < to; from += done << q->cluster_bits) {
        uint64_t part = covers - (from & (covers - 1));
        if (part > to - from)
            part = to - from;
        r = qcow2_balance(q);
        if (r < 0)
            return r;
        LOCKED(&q->lock);
        r = preallocate_run(q, from, part >> q->cluster_bits, prealloc, &done);
    }
    if (r < 0)
        return r;
    uint64_t size, end = q->data_file ? q->image.size : q->file_end;
    r = store_size(q->data, &size);
    if (r == 0 && size < end)
        r = store_truncate(q->data, end);
    return r < 0 ? r : qcow2_flush(&q->image);
}
