/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The log of VHDX ([MS-VHDX] 2.3): a ring of entries, each a row of 4 KiB pages to be written and
 * ranges to be zeroed.
 *
 *   entry: [header 64][descriptors 32 each]... up to a page boundary, then a page for each "desc"
 *
 * The active sequence is the row of valid entries with rising sequence numbers whose last one (the
 * head) names an entry of the row as its Tail and has the highest number; it is replayed from that
 * tail on. All of the log is hostile: how much is checksummed and what is replayed is bounded.
 */
#include "block/vhdx.h"

#include "base/checked.h"
#include "block/bytes.h"

#include <string.h>

enum { /* of an entry */
       ENTRY_CHECKSUM = 4,
       ENTRY_LEN = 8,
       ENTRY_TAIL = 12,
       ENTRY_SEQUENCE = 16,
       ENTRY_COUNT = 24,
       ENTRY_GUID = 32,
       ENTRY_FLUSHED = 48,
       ENTRY_LAST = 56,
       ENTRY_HEADER = 64,
};
enum { /* of a descriptor */
       DESC_TRAILING = 4,
       DESC_LEADING = 8, /* or the length of zeros */
       DESC_OFFSET = 16,
       DESC_SEQUENCE = 24,
       DESC_LEN = 32,
};
enum { DATA_HIGH = 4, DATA_BYTES = 8, DATA_LOW = 4092 };
enum { CHECKSUM_ROUNDS = 8 };      /* so many times the log's length is checksummed at most */
#define REPLAY_GROWTH (1ull << 30) /* a replay makes the file at most this much longer */

struct entry {
    uint64_t at, len, tail, sequence, flushed;
};

struct patch {
    uint64_t offset, len;
    uint8_t *data; /* a page; NULL: zeros */
};
struct patches {
    struct patch *list;
    size_t count, room;
};

struct search {
    struct vhdx *vhdx;
    uint64_t budget; /* bytes that may still be checksummed */
};

static void patches_free(struct patches *p)
{
    for (size_t i = 0; i < p->count; i++)
        free(p->list[i].data);
    free(p->list);
    *p = (struct patches){ 0 };
}

/* From the ring; len is at most the ring's. */
static int log_read(struct vhdx *vhdx, uint8_t *data, uint64_t len, uint64_t at)
{
    const struct vhdx_log *log = &vhdx->log;
    uint64_t first = log->len - at < len ? log->len - at : len;
    int r = store_read(vhdx->flat.image.store, data, first, log->at + at);
    if (r == 0 && first < len)
        r = store_read(vhdx->flat.image.store, data + first, len - first, log->at);
    return r;
}

static int log_write(struct vhdx *vhdx, const uint8_t *data, uint64_t len, uint64_t at)
{
    const struct vhdx_log *log = &vhdx->log;
    uint64_t first = log->len - at < len ? log->len - at : len;
    int r = store_write(vhdx->flat.image.store, data, first, log->at + at);
    if (r == 0 && first < len)
        r = store_write(vhdx->flat.image.store, data + first, len - first, log->at);
    return r;
}

static uint64_t entry_head_len(uint64_t count)
{
    return round_up(ENTRY_HEADER + count * DESC_LEN, VHDX_PAGE);
}

/* Do the descriptors and the pages behind them belong together? */
static bool entry_parts_fit(const uint8_t *data, uint64_t len)
{
    uint64_t sequence = le64(data + ENTRY_SEQUENCE), count = le32(data + ENTRY_COUNT);
    if (entry_head_len(count) > len)
        return false;
    uint64_t page = entry_head_len(count);
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *d = data + ENTRY_HEADER + i * DESC_LEN;
        if (le64(d + DESC_SEQUENCE) != sequence || le64(d + DESC_OFFSET) % VHDX_PAGE)
            return false;
        if (!memcmp(d, "zero", 4)) {
            if (le64(d + DESC_LEADING) % VHDX_PAGE)
                return false;
            continue;
        }
        if (memcmp(d, "desc", 4) || len - page < VHDX_PAGE || memcmp(data + page, "data", 4) ||
            le32(data + page + DATA_HIGH) != sequence >> 32 ||
            le32(data + page + DATA_LOW) != (uint32_t)sequence)
            return false;
        page += VHDX_PAGE;
    }
    return page == len;
}

/* 1: there is a valid entry at `at`, described in *out and, if wanted, read into *data (the
 * caller frees it). 0: there is none. */
static int entry_get(struct search *s, uint64_t at, struct entry *out, uint8_t **data)
{
    struct vhdx_log *log = &s->vhdx->log;
    uint8_t h[ENTRY_HEADER];
    int r = log_read(s->vhdx, h, sizeof h, at);
    if (r < 0)
        return r;
    *out = (struct entry){
        .at = at,
        .len = le32(h + ENTRY_LEN),
        .tail = le32(h + ENTRY_TAIL),
        .sequence = le64(h + ENTRY_SEQUENCE),
        .flushed = le64(h + ENTRY_FLUSHED),
    };
    if (memcmp(h, "loge", 4) || memcmp(h + ENTRY_GUID, log->guid, 16) || !out->sequence ||
        !out->len || out->len % VHDX_PAGE || out->len > log->len || out->tail % VHDX_PAGE ||
        out->tail >= log->len)
        return 0;
    if (out->len > s->budget)
        return -E2BIG;
    s->budget -= out->len;
    AUTO(free) uint8_t *whole = malloc(out->len);
    if (!whole)
        return -ENOMEM;
    r = log_read(s->vhdx, whole, out->len, at);
    if (r < 0)
        return r;
    if (crc32c_without(whole, out->len, ENTRY_CHECKSUM) != le32(whole + ENTRY_CHECKSUM) ||
        !entry_parts_fit(whole, out->len))
        return 0;
    if (data)
        *data = TAKE(whole);
    return 1;
}

/* The row of entries that begins at `at`: *head is its last one. 0: there is none. *complete: the
 * head's tail is an entry of the row. */
static int row_find(struct search *s, uint64_t at, struct entry *head, bool *complete)
{
    uint64_t used = 0, log_len = s->vhdx->log.len;
    struct entry e;
    int r, count = 0;
    uint64_t pages = log_len / VHDX_PAGE;
    AUTO(free) uint8_t *begins = calloc(1, pages); /* by page: an entry of the row begins there */
    if (!begins)
        return -ENOMEM;
    while ((r = entry_get(s, (at + used) % log_len, &e, NULL)) > 0) {
        if ((count && e.sequence != head->sequence + 1) || used + e.len > log_len)
            break;
        *head = e;
        begins[e.at / VHDX_PAGE] = 1;
        used += e.len;
        count++;
    }
    if (r < 0)
        return r;
    *complete = count && begins[head->tail / VHDX_PAGE];
    return count;
}

static int sequence_find(struct search *s, struct entry *best)
{
    uint64_t log_len = s->vhdx->log.len;
    *best = (struct entry){ 0 };
    for (uint64_t at = 0; at < log_len;) {
        struct entry head = { 0 };
        bool complete = false;
        int r = row_find(s, at, &head, &complete);
        if (r < 0)
            return r;
        if (complete && head.sequence > best->sequence)
            *best = head;
        uint64_t end = r ? head.at + head.len : at + VHDX_PAGE;
        if (r && head.at < at) /* it went around the ring's end */
            break;
        at = end;
    }
    return best->sequence != 0;
}

static int patch_add(struct patches *p, uint64_t offset, uint64_t len, const uint8_t *data)
{
    if (p->count == p->room) {
        size_t room = p->room ? p->room * 2 : 64;
        struct patch *list = realloc(p->list, room * sizeof *list);
        if (!list)
            return -ENOMEM;
        p->list = list;
        p->room = room;
    }
    uint8_t *copy = data ? malloc(len) : NULL;
    if (data && !copy)
        return -ENOMEM;
    if (data)
        memcpy(copy, data, len);
    p->list[p->count++] = (struct patch){ offset, len, copy };
    return 0;
}

static int entry_patches(const uint8_t *entry, uint64_t file_size, struct patches *out)
{
    uint64_t count = le32(entry + ENTRY_COUNT);
    const uint8_t *page = entry + entry_head_len(count);
    int r = 0;
    for (uint64_t i = 0; r == 0 && i < count; i++) {
        const uint8_t *d = entry + ENTRY_HEADER + i * DESC_LEN;
        uint64_t offset = le64(d + DESC_OFFSET);
        if (!memcmp(d, "zero", 4)) {
            uint64_t len = le64(d + DESC_LEADING);
            if (offset < file_size)
                len = len < file_size - offset ? len : file_size - offset;
            r = offset < file_size && len ? patch_add(out, offset, len, NULL) : 0;
            continue;
        }
        uint8_t whole[VHDX_PAGE];
        memcpy(whole, page, VHDX_PAGE);
        memcpy(whole, d + DESC_LEADING, DATA_BYTES);
        memcpy(whole + DATA_LOW, d + DESC_TRAILING, 4);
        r = offset > file_size + REPLAY_GROWTH ? -EFBIG : patch_add(out, offset, VHDX_PAGE, whole);
        page += VHDX_PAGE;
    }
    return r;
}

/* From the tail of the active sequence to its head. */
static int sequence_read(struct search *s, const struct entry *head, uint64_t file_size,
                         struct patches *out)
{
    uint64_t at = head->tail, log_len = s->vhdx->log.len;
    for (;;) {
        struct entry e;
        AUTO(free) uint8_t *data = NULL;
        int r = entry_get(s, at, &e, &data);
        if (r == 0)
            r = -EUCLEAN;
        if (r > 0)
            r = entry_patches(data, file_size, out);
        if (r < 0 || at == head->at)
            return r;
        at = (at + e.len) % log_len;
    }
}

/* ---- the store in front of a file that may not be changed ---- */

struct patched {
    struct store store;
    struct store *below; /* owned */
    struct patches patches;
};

static struct patched *patched_of(struct store *store)
{
    return CONTAINER_OF(store, struct patched, store);
}

static int patched_read(struct store *store, void *data, size_t len, uint64_t offset)
{
    struct patched *patched = patched_of(store);
    int r = store_read(patched->below, data, len, offset);
    for (size_t i = 0; r == 0 && i < patched->patches.count; i++) {
        const struct patch *p = &patched->patches.list[i];
        if (!ranges_overlap(p->offset, p->len, offset, len))
            continue;
        uint64_t from = p->offset > offset ? p->offset : offset;
        uint64_t to = p->offset + p->len < offset + len ? p->offset + p->len : offset + len;
        uint8_t *at = (uint8_t *)data + (from - offset);
        if (p->data)
            memcpy(at, p->data + (from - p->offset), to - from);
        else
            memset(at, 0, to - from);
    }
    return r;
}

static int patched_write(struct store *store, const void *data, size_t len, uint64_t offset)
{
    return -EROFS;
}

static int patched_flush(struct store *store) { return 0; }
static int patched_truncate(struct store *store, uint64_t size) { return -EROFS; }

static int patched_size(struct store *store, uint64_t *out)
{
    return store_size(patched_of(store)->below, out);
}

static void patched_close(struct store *store)
{
    struct patched *patched = patched_of(store);
    patches_free(&patched->patches);
    store_close(patched->below);
    free(patched);
}

static const struct store_ops patched_ops = {
    .read = patched_read,
    .write = patched_write,
    .flush = patched_flush,
    .truncate = patched_truncate,
    .size = patched_size,
    .close = patched_close,
};

static int patched_put(struct vhdx *vhdx, struct patches *take_patches)
{
    struct patched *patched = calloc(1, sizeof *patched);
    struct image *image = &vhdx->flat.image;
    if (!patched)
        return -ENOMEM;
    patched->store = (struct store){ &patched_ops, image->store->fd };
    patched->below = image->store;
    patched->patches = *take_patches;
    *take_patches = (struct patches){ 0 };
    image->store = &patched->store;
    return 0;
}

/* ---- replaying ---- */

static int patches_write(struct store *store, const struct patches *patches)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < patches->count; i++) {
        const struct patch *p = &patches->list[i];
        r = p->data ? store_write(store, p->data, p->len, p->offset)
                    : store_zero(store, p->offset, p->len, true);
    }
    return r < 0 ? r : store_flush(store);
}

static int replay(struct vhdx *vhdx, struct patches *patches, struct err *err)
{
    struct image *image = &vhdx->flat.image;
    struct search search = { vhdx, vhdx->log.len * CHECKSUM_ROUNDS };
    struct entry head = { 0 };
    uint64_t file_size;
    int r = store_size(image->store, &file_size);
    if (r == 0)
        r = sequence_find(&search, &head);
    if (r < 0)
        return err_errno(err, -r, "its log cannot be read");
    if (!r)
        return err_set(err, EUCLEAN,
                       "was not closed properly, and its log has no valid entry; what it holds can "
                       "not be trusted, so restore it from a backup");
    if (head.flushed > file_size)
        return err_set(err, EUCLEAN,
                       "was cut off: its log expects %llu bytes, there are %llu; restore it from a "
                       "backup",
                       (unsigned long long)head.flushed, (unsigned long long)file_size);
    search.budget = vhdx->log.len;
    r = sequence_read(&search, &head, file_size, patches);
    if (r == 0)
        r = image->readonly ? patched_put(vhdx, patches) : patches_write(image->store, patches);
    return r < 0 ? err_errno(err, -r, "its log cannot be replayed") : 0;
}

int vhdx_log_replay(struct vhdx *vhdx, struct err *err)
{
    struct patches patches = { 0 };
    int r = replay(vhdx, &patches, err);
    patches_free(&patches);
    return r;
}

/* ---- appending ---- */

int vhdx_log_append(struct vhdx *vhdx, const struct vhdx_page *pages, unsigned count)
{
    struct vhdx_log *log = &vhdx->log;
    uint64_t head_len = entry_head_len(count), len = head_len + (uint64_t)count * VHDX_PAGE;
    AUTO(free) uint8_t *entry = calloc(1, len);
    if (!entry)
        return -ENOMEM;
    memcpy(entry, "loge", 4);
    set_le32(entry + ENTRY_LEN, (uint32_t)len);
    set_le32(entry + ENTRY_TAIL, (uint32_t)log->head);
    set_le64(entry + ENTRY_SEQUENCE, log->sequence);
    set_le32(entry + ENTRY_COUNT, count);
    memcpy(entry + ENTRY_GUID, log->guid, 16);
    set_le64(entry + ENTRY_FLUSHED, vhdx->durable_end);
    set_le64(entry + ENTRY_LAST, vhdx->durable_end);
    for (unsigned i = 0; i < count; i++) {
        uint8_t *d = entry + ENTRY_HEADER + i * DESC_LEN;
        uint8_t *page = entry + head_len + (uint64_t)i * VHDX_PAGE;
        memcpy(page, pages[i].data, VHDX_PAGE);
        memcpy(d, "desc", 4);
        memcpy(d + DESC_TRAILING, page + DATA_LOW, 4);
        memcpy(d + DESC_LEADING, page, DATA_BYTES);
        set_le64(d + DESC_OFFSET, pages[i].offset);
        set_le64(d + DESC_SEQUENCE, log->sequence);
        memcpy(page, "data", 4);
        set_le32(page + DATA_HIGH, (uint32_t)(log->sequence >> 32));
        set_le32(page + DATA_LOW, (uint32_t)log->sequence);
    }
    set_le32(entry + ENTRY_CHECKSUM, crc32c_without(entry, len, ENTRY_CHECKSUM));
    int r = log_write(vhdx, entry, len, log->head);
    if (r == 0)
        r = store_flush(vhdx->flat.image.store);
    if (r < 0)
        return r;
    log->head = (log->head + len) % log->len;
    log->sequence++;
    return 0;
}
