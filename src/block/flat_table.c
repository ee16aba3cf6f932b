/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The table of flat.h: whole in memory, or, for formats that can read a piece of it, as a cache of
 * pages. A page with entries that are not in the file yet stays.
 */
#include "block/flat.h"

#include "base/text.h"

#include <string.h>

struct flat_page {
    unsigned dirty; /* entries of it in flat->dirty */
    bool recent;    /* used since the hand last passed */
    uint64_t host[FLAT_PAGE];
};

int flat_setup(struct flat *flat, uint64_t blocks, struct err *err)
{
    uint64_t most = flat->load ? FLAT_MAX_PAGED : FLAT_MAX_BLOCKS;
    if (blocks > most)
        return err_set(err, EFBIG, "has %llu blocks, more than %llu", (unsigned long long)blocks,
                       (unsigned long long)most);
    flat->blocks = blocks;
    flat->page_count = blocks / FLAT_PAGE + 1;
    if (flat->load)
        flat->pages = calloc(flat->page_count, sizeof *flat->pages);
    else
        flat->host = calloc(blocks + 1, sizeof *flat->host);
    return flat->pages || flat->host ? 0 : err_set(err, ENOMEM, "out of memory");
}

void flat_table_free(struct flat *flat)
{
    for (uint64_t i = 0; flat->pages && i < flat->page_count; i++)
        free(flat->pages[i]);
    free(flat->pages);
    free(flat->host);
}

/* The memory of a page that nobody needs, or new memory. */
static struct flat_page *page_room(struct flat *flat)
{
    /* Twice around: the first time takes the marks away. */
    for (uint64_t left = 2 * flat->page_count; flat->loaded >= FLAT_PAGES_MAX && left; left--) {
        struct flat_page **at = &flat->pages[flat->hand];
        flat->hand = (flat->hand + 1) % flat->page_count;
        if (!*at || (*at)->dirty)
            continue;
        if ((*at)->recent) {
            (*at)->recent = false;
            continue;
        }
        flat->loaded--;
        return TAKE(*at);
    }
    return malloc(sizeof(struct flat_page));
}

static int page_get(struct flat *flat, uint64_t number, struct flat_page **out)
{
    struct flat_page *page = flat->pages[number];
    if (!page) {
        page = page_room(flat);
        if (!page)
            return -ENOMEM;
        memset(page, 0, sizeof *page);
        int r = flat->load(flat, number, page->host);
        if (r < 0) {
            free(page);
            return r;
        }
        flat->pages[number] = page;
        flat->loaded++;
    }
    page->recent = true;
    *out = page;
    return 0;
}

int flat_get(struct flat *flat, uint64_t block, uint64_t *host)
{
    struct flat_page *page;
    if (flat->host) {
        *host = flat->host[block];
        return 0;
    }
    int r = page_get(flat, block / FLAT_PAGE, &page);
    if (r == 0)
        *host = page->host[block % FLAT_PAGE];
    return r;
}

bool flat_peek(const struct flat *flat, uint64_t block, uint64_t *host)
{
    const struct flat_page *page = flat->host ? NULL : flat->pages[block / FLAT_PAGE];
    if (flat->host)
        *host = flat->host[block];
    else if (page)
        *host = page->host[block % FLAT_PAGE];
    return flat->host || page;
}

int flat_mark(struct flat *flat, uint64_t block)
{
    struct flat_page *page = NULL;
    if (flat->dirty_count == flat->dirty_room) {
        size_t room = flat->dirty_room ? flat->dirty_room * 2 : 64;
        uint64_t *dirty = realloc(flat->dirty, room * sizeof *dirty);
        if (!dirty)
            return -ENOMEM;
        flat->dirty = dirty;
        flat->dirty_room = room;
    }
    int r = flat->host ? 0 : page_get(flat, block / FLAT_PAGE, &page);
    if (r < 0)
        return r;
    if (page && !page->dirty++)
        flat->dirty_pages++;
    flat->dirty[flat->dirty_count++] = block;
    atomic_store(&flat->unclean, 1);
    return 0;
}

int flat_set(struct flat *flat, uint64_t block, uint64_t host)
{
    int r = flat_mark(flat, block);
    if (r < 0)
        return r;
    if (flat->host)
        flat->host[block] = host;
    else
        flat->pages[block / FLAT_PAGE]->host[block % FLAT_PAGE] = host; /* dirty, so it is there */
    return 0;
}

void flat_unmark(struct flat *flat, uint64_t block)
{
    struct flat_page *page = flat->host ? NULL : flat->pages[block / FLAT_PAGE];
    if (page && !--page->dirty)
        flat->dirty_pages--;
}

/* Past the cache, which has better things to keep. */
static int places_from(struct flat *flat, uint64_t first, uint64_t most, struct buf *out)
{
    uint64_t own[FLAT_PAGE];
    int r = 0;
    for (uint64_t n = first / FLAT_PAGE, at; r == 0 && (at = n * FLAT_PAGE) < flat->blocks; n++) {
        uint64_t *host = own, end = flat->blocks - at < FLAT_PAGE ? flat->blocks - at : FLAT_PAGE;
        if (flat->host) {
            host = flat->host + at;
        } else if (flat->pages[n]) {
            host = flat->pages[n]->host;
        } else {
            memset(own, 0, sizeof own);
            r = flat->load(flat, n, own);
        }
        for (uint64_t i = at < first ? first - at : 0; r == 0 && i < end; i++)
            if (host[i] > FLAT_ZERO && out->len / sizeof *host < most)
                buf_add(out, &host[i], sizeof *host);
    }
    return r;
}

int flat_places(struct flat *flat, uint64_t most, struct buf *out)
{
    return places_from(flat, 0, most, out);
}

/* ---- another size ---- */

static int pages_fit(struct flat *flat, uint64_t count)
{
    if (count > flat->page_count) {
        struct flat_page **pages = realloc(flat->pages, count * sizeof *pages);
        if (!pages)
            return -ENOMEM;
        memset(pages + flat->page_count, 0, (count - flat->page_count) * sizeof *pages);
        flat->pages = pages;
    }
    for (uint64_t i = count; i < flat->page_count; i++) {
        flat->loaded -= flat->pages[i] != NULL;
        free(TAKE(flat->pages[i]));
    }
    flat->page_count = count;
    flat->hand = 0;
    return 0;
}

static int hosts_fit(struct flat *flat, uint64_t blocks, uint64_t fill)
{
    uint64_t *host = realloc(flat->host, (blocks + 1) * sizeof *host);
    if (!host)
        return -ENOMEM;
    flat->host = host;
    for (uint64_t i = flat->blocks; i < blocks; i++)
        host[i] = fill;
    uint8_t *partial = flat->partial ? realloc(flat->partial, blocks + 1) : NULL;
    if (flat->partial && !partial)
        return -ENOMEM;
    flat->partial = partial;
    if (partial && blocks > flat->blocks)
        memset(partial + flat->blocks, 0, blocks - flat->blocks);
    return 0;
}

static void dirty_fit(struct flat *flat, uint64_t blocks)
{
    size_t kept = 0;
    for (size_t i = 0; i < flat->dirty_count; i++)
        if (flat->dirty[i] < blocks)
            flat->dirty[kept++] = flat->dirty[i];
        else
            flat_unmark(flat, flat->dirty[i]);
    flat->dirty_count = kept;
}

int flat_table_fit(struct flat *flat, uint64_t blocks, uint64_t fill, struct buf *gone)
{
    LOCKED(&flat->lock);
    int r = places_from(flat, blocks, UINT64_MAX, gone);
    if (r < 0)
        return r;
    dirty_fit(flat, blocks);
    uint64_t kept = blocks < flat->blocks ? blocks : flat->blocks;
    r = flat->host ? hosts_fit(flat, blocks, fill) : pages_fit(flat, blocks / FLAT_PAGE + 1);
    if (r < 0)
        return r;
    flat->page_count = blocks / FLAT_PAGE + 1;
    struct flat_page *edge = flat->pages ? flat->pages[kept / FLAT_PAGE] : NULL;
    for (uint64_t i = kept % FLAT_PAGE; edge && i < FLAT_PAGE; i++)
        edge->host[i] = FLAT_NONE;
    flat->blocks = blocks;
    return 0;
}
