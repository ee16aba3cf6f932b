/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Images of blocks with one flat table; see flat.h for the rules. */
#include "block/flat.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/text.h"

#include <string.h>

enum { ZERO_CHUNK = 1 << 20, MIN_PACKED = 512 /* bytes of a packed block */ };

void flat_init(struct flat *flat)
{
    pthread_mutex_init(&flat->lock, NULL);
    pthread_mutex_init(&flat->flush_lock, NULL);
}

static bool flat_has_below(const struct flat *flat)
{
    return flat->outer ? flat->outer->backing : flat->image.backing;
}

static int flat_read_below(struct flat *flat, void *data, size_t len, uint64_t offset)
{
    return image_read_backing(flat->outer ? flat->outer : &flat->image, data, len,
                              flat->outer_start + offset);
}

int flat_close(struct image *image)
{
    struct flat *flat = flat_of(image);
    int r = image->readonly || (!flat->host && !flat->pages) ? 0 : flat_flush(image);
    if (r < 0)
        log_error("%s: closing: %s; what was written since the last flush may be lost", image->path,
                  strerror(-r));
    flat_table_free(flat);
    free(flat->partial);
    free(flat->dirty);
    pthread_mutex_destroy(&flat->lock);
    pthread_mutex_destroy(&flat->flush_lock);
    return r;
}

/* The part of the range that lies in one block. */
static uint64_t flat_part(const struct flat *flat, uint64_t offset, uint64_t len)
{
    uint64_t left = flat->block_size - offset % flat->block_size;
    return left < len ? left : len;
}

static int flat_host(struct flat *flat, uint64_t offset, uint64_t *host)
{
    LOCKED(&flat->lock);
    return flat_get(flat, offset / flat->block_size, host);
}

static uint64_t flat_block_len(const struct flat *flat, uint64_t block)
{
    uint64_t left = flat->image.size - block * flat->block_size;
    return left < flat->block_size ? left : flat->block_size;
}

static bool flat_is_partial(struct flat *flat, uint64_t block)
{
    if (!flat->partial)
        return false;
    LOCKED(&flat->lock);
    return flat->partial[block];
}

/* ---- reading ---- */

/* Within one block; some of its sectors are here, others below. */
static int flat_read_partial(struct flat *flat, uint8_t *data, size_t len, uint64_t offset,
                             uint64_t host)
{
    uint64_t block = offset / flat->block_size, in_block = offset % flat->block_size;
    while (len) {
        uint64_t run;
        bool here;
        int r = flat->present(flat, block, in_block, &run, &here);
        size_t part = run < len ? run : len;
        if (r == 0 && here)
            r = store_read(flat->image.store, data, part, host + in_block);
        else if (r == 0)
            r = flat_read_below(flat, data, part, offset);
        if (r < 0)
            return r;
        data += part;
        len -= part;
        offset += part;
        in_block += part;
    }
    return 0;
}

static int flat_read_part(struct flat *flat, void *data, size_t len, uint64_t offset)
{
    uint64_t host, in_block = offset % flat->block_size;
    int r = flat_host(flat, offset, &host);
    if (r < 0)
        return r;
    if (host == FLAT_NONE)
        return flat_read_below(flat, data, len, offset);
    if (host == FLAT_ZERO) {
        memset(data, 0, len);
        return 0;
    }
    if (flat->read_packed)
        return flat->read_packed(flat, host, data, len, in_block);
    if (flat_is_partial(flat, offset / flat->block_size))
        return flat_read_partial(flat, data, len, offset, host);
    return store_read(flat->image.store, data, len, host + in_block);
}

int flat_read(struct image *image, void *data, size_t len, uint64_t offset)
{
    struct flat *flat = flat_of(image);
    for (size_t at = 0, part; at < len; at += part) {
        part = flat_part(flat, offset + at, len - at);
        int r = flat_read_part(flat, (uint8_t *)data + at, part, offset + at);
        if (r < 0)
            return r;
    }
    return 0;
}

static int flat_status_partial(struct flat *flat, uint64_t offset, uint64_t len,
                               struct image_extent *out)
{
    uint64_t run, host, in_block = offset % flat->block_size;
    bool here;
    int r = flat_host(flat, offset, &host);
    if (r == 0)
        r = flat->present(flat, offset / flat->block_size, in_block, &run, &here);
    if (r < 0)
        return r;
    out->len = run < len ? run : len;
    out->flags = here ? IMAGE_ALLOCATED | IMAGE_HOST : 0;
    out->host = here ? host + in_block : 0;
    return 0;
}

int flat_status(struct image *image, uint64_t offset, uint64_t len, struct image_extent *out)
{
    struct flat *flat = flat_of(image);
    if (flat->partial) /* each block may be so */
        len = flat_part(flat, offset, len);
    if (flat_is_partial(flat, offset / flat->block_size))
        return flat_status_partial(flat, offset, len, out);
    LOCKED(&flat->lock);
    uint64_t block = offset / flat->block_size, host, next;
    uint64_t in_block = offset % flat->block_size, have = flat->block_size - in_block;
    int r = flat_get(flat, block, &host);
    if (r < 0)
        return r;
    bool plain = host > FLAT_ZERO && !flat->read_packed;
    /* As far as the table is at hand. */
    for (; have < len && flat_peek(flat, ++block, &next); have += flat->block_size)
        if (plain ? next != host + in_block + have : next != host || host > FLAT_ZERO)
            break;
    out->len = have < len ? have : len;
    out->flags = host == FLAT_NONE   ? 0
                 : host == FLAT_ZERO ? IMAGE_ALLOCATED | IMAGE_ZERO
                 : plain             ? IMAGE_ALLOCATED | IMAGE_HOST
                                     : IMAGE_ALLOCATED | IMAGE_COMPRESSED;
    out->host = plain ? host + in_block : 0;
    return 0;
}

/* ---- writing ---- */

/* Brings [from, to) of the disk, inside one block, from below to the block's place. */
static int flat_copy_below(struct flat *flat, uint64_t from, uint64_t to, uint64_t host)
{
    uint64_t chunk = to - from < ZERO_CHUNK ? to - from : ZERO_CHUNK;
    AUTO(free) uint8_t *data = chunk ? malloc(chunk) : NULL;
    if (chunk && !data)
        return -ENOMEM;
    for (uint64_t part; from < to; from += part) {
        part = to - from < chunk ? to - from : chunk;
        int r = flat_read_below(flat, data, part, from);
        if (r == 0)
            r = store_write(flat->image.store, data, part, host + from % flat->block_size);
        if (r < 0)
            return r;
    }
    return 0;
}

/* A block that is not there yet: as the image below has it, with `data` over it. */
static int flat_add(struct flat *flat, const void *data, size_t len, uint64_t offset)
{
    uint64_t block = offset / flat->block_size, start = block * flat->block_size, host;
    LOCKED(&flat->lock);
    int r = flat_get(flat, block, &host);
    if (r < 0)
        return r;
    if (host > FLAT_ZERO) /* somebody was quicker */
        return store_write(flat->image.store, data, len, host + (offset - start));
    bool copy = flat_has_below(flat) && host == FLAT_NONE;
    r = flat->add(flat, block, &host);
    if (r == 0 && copy)
        r = flat_copy_below(flat, start, offset, host);
    if (r == 0)
        r = store_write(flat->image.store, data, len, host + (offset - start));
    if (r == 0 && copy)
        r = flat_copy_below(flat, offset + len, start + flat_block_len(flat, block), host);
    return r < 0 ? r : flat_set(flat, block, host);
}

/* Brings the sectors that a block lacks from below. */
static int flat_complete(struct flat *flat, uint64_t block)
{
    uint64_t start = block * flat->block_size, len = flat_block_len(flat, block);
    LOCKED(&flat->lock);
    if (!flat->partial[block])
        return 0;
    uint64_t host;
    int r = flat_get(flat, block, &host);
    for (uint64_t at = 0, run = 0; r == 0 && at < len; at += run) {
        bool here = false;
        r = flat->present(flat, block, at, &run, &here);
        run = run < len - at ? run : len - at;
        if (r == 0 && !here)
            r = flat_copy_below(flat, start + at, start + at + run, host);
    }
    if (r == 0)
        r = store_flush(flat->image.store);
    if (r == 0)
        r = flat->completed(flat, block);
    if (r == 0)
        flat->partial[block] = 0;
    return r;
}

int flat_write(struct image *image, const void *data, size_t len, uint64_t offset)
{
    struct flat *flat = flat_of(image);
    if (!flat->add)
        return -EROFS;
    pthread_mutex_lock(&flat->lock);
    bool many = flat->dirty_pages > FLAT_PAGES_MAX / 2;
    pthread_mutex_unlock(&flat->lock);
    int full = many ? flat_flush(image) : 0; /* the cache keeps its bound */
    if (full < 0)
        return full;
    for (size_t at = 0, part; at < len; at += part) {
        part = flat_part(flat, offset + at, len - at);
        const uint8_t *from = (const uint8_t *)data + at;
        uint64_t host;
        int r = flat_host(flat, offset + at, &host);
        if (r == 0 && flat_is_partial(flat, (offset + at) / flat->block_size))
            r = flat_complete(flat, (offset + at) / flat->block_size);
        if (r < 0)
            return r;
        r = host > FLAT_ZERO
                ? store_write(image->store, from, part, host + (offset + at) % flat->block_size)
                : flat_add(flat, from, part, offset + at);
        if (r < 0)
            return r;
    }
    return 0;
}

/* A whole block becomes zeros by its entry, where that is possible. */
static int flat_zero_entry(struct flat *flat, uint64_t block, bool *done)
{
    LOCKED(&flat->lock);
    uint64_t host;
    int r = flat_get(flat, block, &host);
    *done = r == 0 && host == FLAT_NONE;
    return *done ? flat_set(flat, block, FLAT_ZERO) : r;
}

/* Zeros are stored, except where nothing is and nothing is below. */
int flat_zero(struct image *image, uint64_t offset, uint64_t len, unsigned flags)
{
    struct flat *flat = flat_of(image);
    if (!flat->add)
        return -EROFS;
    AUTO(free) uint8_t *zeros = calloc(1, len < ZERO_CHUNK ? len : ZERO_CHUNK);
    if (!zeros)
        return -ENOMEM;
    while (len) {
        uint64_t part = flat_part(flat, offset, len), block = offset / flat->block_size;
        uint64_t host;
        int r = flat_host(flat, offset, &host);
        if (r < 0)
            return r;
        bool done = host == FLAT_ZERO || (host == FLAT_NONE && !flat_has_below(flat));
        if (!done && flat->zero_entries && part == flat_block_len(flat, block))
            r = flat_zero_entry(flat, block, &done);
        if (r == 0 && !done && host > FLAT_ZERO && !flat_is_partial(flat, block)) {
            r = store_zero(image->store, host + offset % flat->block_size, part,
                           !(flags & IMAGE_UNMAP));
            done = true;
        }
        if (r == 0 && !done) {
            part = part < ZERO_CHUNK ? part : ZERO_CHUNK;
            r = flat_write(image, zeros, part, offset);
        }
        if (r < 0)
            return r;
        offset += part;
        len -= part;
    }
    return 0;
}

/* Only what lies here as it is: a hole in a packed or partial block would say nothing. */
int flat_discard(struct image *image, uint64_t offset, uint64_t len)
{
    struct flat *flat = flat_of(image);
    if (!flat->add)
        return -EROFS;
    for (uint64_t part, host; len; len -= part, offset += part) {
        part = flat_part(flat, offset, len);
        int r = flat_host(flat, offset, &host);
        if (r < 0)
            return r;
        if (host > FLAT_ZERO && !flat_is_partial(flat, offset / flat->block_size))
            store_punch(image->store, host + offset % flat->block_size, part);
    }
    return 0;
}

int flat_flush(struct image *image)
{
    struct flat *flat = flat_of(image);
    LOCKED(&flat->flush_lock);
    pthread_mutex_lock(&flat->lock);
    uint64_t *dirty = flat->dirty;
    size_t count = flat->dirty_count, i = 0;
    flat->dirty = NULL;
    flat->dirty_count = flat->dirty_room = 0;
    pthread_mutex_unlock(&flat->lock);

    int r = store_flush(image->store);
    if (r == 0 && count && flat->enter_all) {
        r = flat->enter_all(flat, dirty, count);
    } else {
        for (uint64_t host; r == 0 && i < count; i++) {
            r = flat_host(flat, dirty[i] * flat->block_size, &host);
            if (r == 0)
                r = flat->enter(flat, dirty[i], host);
        }
        if (r == 0 && count)
            r = store_flush(image->store);
    }
    pthread_mutex_lock(&flat->lock);
    for (i = 0; i < count; i++) {
        if (r < 0)
            flat_mark(flat, dirty[i]);
        flat_unmark(flat, dirty[i]);
    }
    if (!flat->dirty_count)
        atomic_store(&flat->unclean, 0);
    pthread_mutex_unlock(&flat->lock);
    free(dirty);
    return r;
}

/* ---- checking ---- */

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

int flat_check(struct image *image, struct image_check *check, struct err *err)
{
    struct flat *flat = flat_of(image);
    struct image_problem_count *n = &check->count;
    *n = (struct image_problem_count){ .clusters = flat->blocks };
    AUTO(buf_fini) struct buf places = { 0 };
    uint64_t size, need = flat->read_packed ? 1 : flat->block_size;
    int r = store_size(image->store, &size);
    if (r < 0)
        return err_errno(err, -r, "cannot ask for the size");
    pthread_mutex_lock(&flat->lock);
    /* More than that overlap, which is found among so many, too. */
    r = flat_places(flat, size / (flat->read_packed ? MIN_PACKED : need) + 2, &places);
    pthread_mutex_unlock(&flat->lock);
    if (r < 0)
        return err_errno(err, -r, "cannot read the block table");
    uint64_t used = places.len / sizeof need, *sorted = (uint64_t *)places.data;
    if (used)
        qsort(sorted, used, sizeof *sorted, by_value);
    n->allocated = used;
    n->end = size;
    for (uint64_t i = 0; i < used; i++) {
        bool overlap = (i && sorted[i] - sorted[i - 1] < need) || sorted[i] < flat->first;
        bool outside = sorted[i] >= size || flat->reach >= size - sorted[i];
        if (!overlap && !outside)
            continue;
        n->corruptions++;
        char text[96];
        snprintf(text, sizeof text, "corruption: the block at offset %#llx %s",
                 (unsigned long long)sorted[i],
                 outside ? "lies outside of the file" : "overlaps another or metadata");
        if (check->report)
            check->report(check->arg, text);
    }
    return 0;
}

int flat_check_whole(const struct flat *flat, struct err *err)
{
    uint64_t last = 0;
    for (uint64_t i = 0; i < flat->blocks; i++)
        if (flat->host[i] > last)
            last = flat->host[i];
    return last <= FLAT_ZERO ? 0 : image_check_whole(&flat->image, last + flat->reach + 1, err);
}

/* ---- another size ---- */

int flat_check_size(uint64_t size, uint64_t unit, uint64_t most, enum image_preallocation prealloc,
                    struct err *err)
{
    if (!size || size % unit)
        return err_set(err, EINVAL, "its size has to be a multiple of %llu bytes, and not 0",
                       (unsigned long long)unit);
    if (size > most)
        return err_set(err, EFBIG, "can have at most %llu GiB; convert it to qcow2",
                       (unsigned long long)most >> 30);
    if (prealloc != PREALLOC_OFF)
        return err_set(err, ENOTSUP,
                       "cannot be resized with preallocation; leave --preallocation away");
    return 0;
}

int flat_zero_tail(struct flat *flat)
{
    uint64_t size = flat->image.size, used = size % flat->block_size, host;
    uint64_t block = size / flat->block_size;
    if (!used)
        return 0;
    if (flat_is_partial(flat, block)) {
        int r = flat_complete(flat, block);
        if (r < 0)
            return r;
    }
    int r = flat_host(flat, size, &host);
    if (r < 0 || host <= FLAT_ZERO)
        return r;
    return store_zero(flat->image.store, host + used, flat->block_size - used, true);
}

void flat_give_back(struct flat *flat, uint64_t lead, const struct buf *gone)
{
    const uint64_t *places = (const uint64_t *)gone->data;
    for (size_t i = 0; i < gone->len / sizeof *places; i++)
        store_punch(flat->image.store, places[i] - lead, lead + flat->block_size);
}

/* ---- around the image ---- */

bool flat_direct_map(struct image *image, struct block_hold *hold, uint64_t offset, uint64_t len,
                     bool write, uint64_t *host)
{
    struct flat *flat = flat_of(image);
    if (flat->read_packed || flat_part(flat, offset, len) != len || !image_lock_soon(&flat->lock))
        return false;
    uint64_t block = offset / flat->block_size, at = FLAT_NONE;
    bool known = flat_peek(flat, block, &at), partial = flat->partial && flat->partial[block];
    pthread_mutex_unlock(&flat->lock);
    *host = at + offset % flat->block_size;
    return known && !partial && at > FLAT_ZERO && (!write || flat->add);
}

/* Blocks stay where they are, so there is nothing to hold. */
void flat_direct_done(struct image *image, struct block_hold *hold) {}
bool flat_is_clean(struct image *image) { return !atomic_load(&flat_of(image)->unclean); }
