/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Images of blocks with one flat table; see flat.h for the rules. */
#include "block/flat.h"

#include "base/checked.h"
#include "base/log.h"

#include <string.h>

enum { ZERO_CHUNK = 1 << 20 };

void flat_init(struct flat *flat)
{
    pthread_mutex_init(&flat->lock, NULL);
    pthread_mutex_init(&flat->flush_lock, NULL);
}

int flat_setup(struct flat *flat, uint64_t blocks, struct err *err)
{
    if (blocks > FLAT_MAX_BLOCKS)
        return err_set(err, EFBIG, "has %llu blocks, more than %llu", (unsigned long long)blocks,
                       FLAT_MAX_BLOCKS);
    flat->blocks = blocks;
    flat->host = calloc(blocks + 1, sizeof *flat->host);
    return flat->host ? 0 : err_set(err, ENOMEM, "out of memory");
}

int flat_close(struct image *image)
{
    struct flat *flat = flat_of(image);
    int r = image->readonly || !flat->host ? 0 : flat_flush(image);
    if (r < 0)
        log_error("%s: closing: %s; what was written since the last flush may be lost", image->path,
                  strerror(-r));
    free(flat->host);
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

static uint64_t flat_host(struct flat *flat, uint64_t offset)
{
    LOCKED(&flat->lock);
    return flat->host[offset / flat->block_size];
}

/* ---- reading ---- */

static int flat_read_part(struct flat *flat, void *data, size_t len, uint64_t offset)
{
    uint64_t host = flat_host(flat, offset), in_block = offset % flat->block_size;
    if (host == FLAT_NONE)
        return image_read_backing(&flat->image, data, len, offset);
    if (host == FLAT_ZERO) {
        memset(data, 0, len);
        return 0;
    }
    if (flat->read_packed)
        return flat->read_packed(flat, host, data, len, in_block);
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

int flat_status(struct image *image, uint64_t offset, uint64_t len, struct image_extent *out)
{
    struct flat *flat = flat_of(image);
    LOCKED(&flat->lock);
    uint64_t block = offset / flat->block_size, host = flat->host[block];
    uint64_t in_block = offset % flat->block_size, have = flat->block_size - in_block;
    bool plain = host > FLAT_ZERO && !flat->read_packed;
    for (; have < len; have += flat->block_size) {
        uint64_t next = flat->host[++block];
        if (plain ? next != host + in_block + have : next != host || host > FLAT_ZERO)
            break;
    }
    out->len = have < len ? have : len;
    out->flags = host == FLAT_NONE   ? 0
                 : host == FLAT_ZERO ? IMAGE_ALLOCATED | IMAGE_ZERO
                 : plain             ? IMAGE_ALLOCATED | IMAGE_HOST
                                     : IMAGE_ALLOCATED | IMAGE_COMPRESSED;
    out->host = plain ? host + in_block : 0;
    return 0;
}

/* ---- writing ---- */

static int flat_mark(struct flat *flat, uint64_t block)
{
    if (flat->dirty_count == flat->dirty_room) {
        size_t room = flat->dirty_room ? flat->dirty_room * 2 : 64;
        uint64_t *dirty = realloc(flat->dirty, room * sizeof *dirty);
        if (!dirty)
            return -ENOMEM;
        flat->dirty = dirty;
        flat->dirty_room = room;
    }
    flat->dirty[flat->dirty_count++] = block;
    atomic_store(&flat->unclean, 1);
    return 0;
}

/* A block that is not there yet: as the backing image has it, with `data` over it. */
static int flat_add(struct flat *flat, const void *data, size_t len, uint64_t offset)
{
    uint64_t block = offset / flat->block_size, start = block * flat->block_size, host;
    uint64_t size =
        flat->image.size - start < flat->block_size ? flat->image.size - start : flat->block_size;
    LOCKED(&flat->lock);
    if (flat->host[block] > FLAT_ZERO) /* somebody was quicker */
        return store_write(flat->image.store, data, len, flat->host[block] + (offset - start));
    bool copy = flat->image.backing && flat->host[block] == FLAT_NONE;
    int r = flat->add(flat, block, &host);
    if (r == 0 && copy) {
        AUTO(free) uint8_t *whole = malloc(size);
        r = whole ? image_read_backing(&flat->image, whole, size, start) : -ENOMEM;
        if (r == 0) {
            memcpy(whole + (offset - start), data, len);
            r = store_write(flat->image.store, whole, size, host);
        }
    } else if (r == 0) {
        r = store_write(flat->image.store, data, len, host + (offset - start));
    }
    if (r == 0)
        r = flat_mark(flat, block);
    if (r == 0)
        flat->host[block] = host;
    return r;
}

int flat_write(struct image *image, const void *data, size_t len, uint64_t offset)
{
    struct flat *flat = flat_of(image);
    if (!flat->add)
        return -EROFS;
    for (size_t at = 0, part; at < len; at += part) {
        part = flat_part(flat, offset + at, len - at);
        const uint8_t *from = (const uint8_t *)data + at;
        uint64_t host = flat_host(flat, offset + at);
        int r = host > FLAT_ZERO
                    ? store_write(image->store, from, part, host + (offset + at) % flat->block_size)
                    : flat_add(flat, from, part, offset + at);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Zeros are written, except where nothing is and nothing is below. */
int flat_zero(struct image *image, uint64_t offset, uint64_t len, unsigned flags)
{
    struct flat *flat = flat_of(image);
    AUTO(free) uint8_t *zeros = calloc(1, len < ZERO_CHUNK ? len : ZERO_CHUNK);
    if (!zeros)
        return -ENOMEM;
    while (len) {
        uint64_t part = flat_part(flat, offset, len < ZERO_CHUNK ? len : ZERO_CHUNK);
        uint64_t host = flat_host(flat, offset);
        bool zero = host == FLAT_ZERO || (host == FLAT_NONE && !image->backing);
        int r = zero ? 0 : flat_write(image, zeros, part, offset);
        if (r < 0)
            return r;
        offset += part;
        len -= part;
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
    for (; r == 0 && i < count; i++) {
        uint64_t host = flat_host(flat, dirty[i] * flat->block_size);
        r = flat->enter(flat, dirty[i], host);
    }
    if (r == 0 && count)
        r = store_flush(image->store);
    pthread_mutex_lock(&flat->lock);
    for (i = 0; r < 0 && i < count; i++)
        flat_mark(flat, dirty[i]);
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
    AUTO(free) uint64_t *sorted = malloc((flat->blocks + 1) * sizeof *sorted);
    if (!sorted)
        return err_set(err, ENOMEM, "out of memory");
    uint64_t used = 0, size;
    int r = store_size(image->store, &size);
    if (r < 0)
        return err_errno(err, -r, "cannot ask for the size");
    for (uint64_t i = 0; i < flat->blocks; i++)
        if (flat->host[i] > FLAT_ZERO)
            sorted[used++] = flat->host[i];
    qsort(sorted, used, sizeof *sorted, by_value);
    n->allocated = used;
    n->end = size;
    for (uint64_t i = 0; i < used; i++) {
        uint64_t need = flat->read_packed ? 1 : flat->block_size;
        bool overlap = i && sorted[i] - sorted[i - 1] < need, outside = sorted[i] >= size;
        if (!overlap && !outside)
            continue;
        n->corruptions++;
        char text[96];
        snprintf(text, sizeof text, "corruption: the block at offset %#llx %s",
                 (unsigned long long)sorted[i],
                 outside ? "lies outside of the file" : "overlaps another");
        if (check->report)
            check->report(check->arg, text);
    }
    return 0;
}

/* ---- around the image ---- */

bool flat_direct_map(struct image *image, struct block_hold *hold, uint64_t offset, uint64_t len,
                     bool write, uint64_t *host)
{
    struct flat *flat = flat_of(image);
    if (flat->read_packed || flat_part(flat, offset, len) != len ||
        pthread_mutex_trylock(&flat->lock))
        return false;
    uint64_t at = flat->host[offset / flat->block_size];
    pthread_mutex_unlock(&flat->lock);
    *host = at + offset % flat->block_size;
    return at > FLAT_ZERO && (!write || flat->add);
}

/* Blocks stay where they are, so there is nothing to hold. */
void flat_direct_done(struct image *image, struct block_hold *hold) {}
bool flat_is_clean(struct image *image) { return !atomic_load(&flat_of(image)->unclean); }
