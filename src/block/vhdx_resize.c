/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * VHDX: another size (vhdx.h has how changes become durable).
 *
 * The size is one item of the metadata, so it changes in one log entry. Before a disk grows, the
 * BAT gets entries for the new blocks: in its region, of which nobody looks at what lies behind the
 * disk's end, or, where that is too short, in a new region behind the last block, which a log entry
 * puts into both tables of regions. After a disk shrank, the entries behind its end are cleared.
 */
#include "block/vhdx.h"

#include "base/checked.h"
#include "base/text.h"
#include "block/bytes.h"

#include <string.h>

enum { REGIONS_HEAD = 16, REGION_LEN = 32, REGION_PLACE = 16, REGION_SIZE = 24 };

/* ---- pages of metadata ---- */

static int size_write(struct vhdx *vhdx, uint64_t size)
{
    AUTO(free) uint8_t *table = malloc(METADATA_LEN);
    struct vhdx_page page;
    if (!table)
        return -ENOMEM;
    struct store *store = vhdx->flat.image.store;
    int r = store_read(store, table, METADATA_LEN, vhdx->metadata_at);
    const uint8_t *item = r == 0 ? vhdx_item(vhdx, table, item_size) : NULL;
    if (r == 0 && !item)
        r = -EINVAL;
    if (r < 0)
        return r;
    uint64_t place = vhdx->metadata_at + le32(item + ITEM_OFFSET), in_page = place % VHDX_PAGE;
    if (in_page > VHDX_PAGE - 8)
        return -EINVAL;
    page.offset = place - in_page;
    r = store_read(store, page.data, VHDX_PAGE, page.offset);
    if (r < 0)
        return r;
    set_le64(page.data + in_page, size);
    LOCKED(&vhdx->flat.flush_lock);
    r = store_flush(store); /* step 1 */
    return r < 0 ? r : vhdx_commit_pages(vhdx, &page, 1);
}

/* Both tables of regions say that the BAT is there. */
static int region_write(struct vhdx *vhdx, uint64_t at, uint64_t len)
{
    static const uint32_t places[] = { REGIONS_1, REGIONS_2 };
    struct store *store = vhdx->flat.image.store;
    AUTO(free) uint8_t *table = malloc(REGIONS_LEN);
    AUTO(free) struct vhdx_page *pages = malloc(2 * sizeof *pages);
    if (!table || !pages)
        return -ENOMEM;
    for (unsigned i = 0; i < 2; i++) {
        int r = store_read(store, table, REGIONS_LEN, places[i]);
        if (r < 0)
            return r;
        /* One that is damaged is made good. */
        if (memcmp(table, "regi", 4) || crc32c_without(table, REGIONS_LEN, 4) != le32(table + 4)) {
            r = store_read(store, table, REGIONS_LEN, places[!i]);
            if (r < 0)
                return r;
            r = store_write(store, table, REGIONS_LEN, places[i]);
            if (r < 0)
                return r;
        }
        uint8_t *e = table + REGIONS_HEAD;
        uint8_t *end = table + VHDX_PAGE - REGION_LEN;
        while (e <= end && memcmp(e, region_bat, 16))
            e += REGION_LEN;
        if (e > end)
            return -EINVAL;
        set_le64(e + REGION_PLACE, at);
        set_le32(e + REGION_SIZE, (uint32_t)len);
        set_le32(table + 4, crc32c_without(table, REGIONS_LEN, 4));
        pages[i].offset = places[i];
        memcpy(pages[i].data, table, VHDX_PAGE);
    }
    LOCKED(&vhdx->flat.flush_lock);
    int r = store_flush(store); /* step 1 */
    return r < 0 ? r : vhdx_commit_pages(vhdx, pages, 2);
}

/* ---- the BAT ---- */

static int bat_write(struct vhdx *vhdx, uint64_t from, uint64_t to, uint64_t place)
{
    AUTO(free) uint8_t *raw = malloc((to - from) * 8 + 1);
    if (!raw)
        return -ENOMEM;
    for (uint64_t i = from; i < to; i++)
        set_le64(raw + (i - from) * 8, vhdx->bat[i]);
    return store_write(vhdx->flat.image.store, raw, (to - from) * 8, place + from * 8);
}

/* The whole BAT goes into a new region at the file's end. */
static int bat_move(struct vhdx *vhdx, uint64_t entries)
{
    struct flat *flat = &vhdx->flat;
    uint64_t at = flat->end, len = round_up(entries * 8, VHDX_MIB);
    static const uint8_t zero[512];
    flat->end = at + len; /* no block goes over half a table */
    int r = bat_write(vhdx, 0, entries, at);
    if (r == 0) /* whole, as other programs expect */
        r = store_write(flat->image.store, zero, sizeof zero, at + len - sizeof zero);
    if (r == 0)
        r = store_flush(flat->image.store);
    if (r < 0)
        return r;
    vhdx->durable_end = flat->end;
    r = region_write(vhdx, at, len);
    if (r < 0)
        return r;
    vhdx->bat_at = at;
    vhdx->bat_len = len;
    return 0;
}

/* Entries for the blocks behind the disk's end. A new block reads as zeros, whatever is below. */
static int bat_grow(struct vhdx *vhdx, uint64_t blocks)
{
    uint64_t entries = vhdx_bat_entries(vhdx, blocks), old = vhdx->bat_entries;
    uint64_t *bat = realloc(vhdx->bat, (entries + 1) * sizeof *bat);
    if (!bat)
        return -ENOMEM;
    vhdx->bat = bat;
    for (uint64_t i = old; i < entries; i++)
        bat[i] = BAT_NONE;
    for (uint64_t b = vhdx->flat.blocks; vhdx->has_parent && b < blocks; b++)
        bat[vhdx_bat_index(vhdx, b)] = BAT_ZERO;
    if (entries * 8 > vhdx->bat_len)
        return bat_move(vhdx, entries);
    /* In the last chunk of a differencing disk there were entries for more blocks than it had. */
    uint64_t from = vhdx_bat_index(vhdx, vhdx->flat.blocks);
    return from < entries ? bat_write(vhdx, from, entries, vhdx->bat_at) : 0;
}

/* ---- the disk ---- */

/* A fixed disk has all of its blocks. */
static int blocks_add(struct vhdx *vhdx, uint64_t from)
{
    struct flat *flat = &vhdx->flat;
    int r = 0;
    for (uint64_t b = from, host; vhdx->fixed && r == 0 && b < flat->blocks; b++) {
        LOCKED(&flat->lock);
        r = flat->add(flat, b, &host);
        if (r == 0)
            r = flat_set(flat, b, host);
    }
    return r;
}

/* What the image below has behind this one's old end does not show through. */
static int edge_clear(struct image *image, uint64_t from, uint64_t to)
{
    uint64_t below = image->backing ? image->backing->size : 0;
    to = to < below ? to : below;
    return from < to ? flat_zero(image, from, to - from, 0) : 0;
}

static int vhdx_grow(struct vhdx *vhdx, uint64_t size, uint64_t blocks)
{
    struct flat *flat = &vhdx->flat;
    struct image *image = &flat->image;
    uint64_t old = image->size, old_blocks = flat->blocks;
    AUTO(buf_fini) struct buf gone = { 0 };
    int r = flat_zero_tail(flat);
    if (r == 0)
        r = bat_grow(vhdx, blocks);
    if (r == 0)
        r = flat_table_fit(flat, blocks, FLAT_ZERO, &gone);
    if (r < 0)
        return r;
    vhdx->bat_entries = vhdx_bat_entries(vhdx, blocks);
    image->size = size;
    r = blocks_add(vhdx, old_blocks);
    if (r == 0)
        r = edge_clear(image, old, size);
    if (r == 0)
        r = flat_flush(image);
    if (r == 0)
        r = size_write(vhdx, size);
    if (r == 0)
        return 0;
    image->size = old;
    flat_table_fit(flat, old_blocks, FLAT_ZERO, &gone);
    vhdx->bat_entries = vhdx_bat_entries(vhdx, old_blocks);
    return r;
}

static int vhdx_shrink(struct vhdx *vhdx, uint64_t size, uint64_t blocks)
{
    struct flat *flat = &vhdx->flat;
    AUTO(buf_fini) struct buf gone = { 0 };
    int r = size_write(vhdx, size);
    if (r < 0)
        return r;
    flat->image.size = size;
    r = flat_table_fit(flat, blocks, FLAT_ZERO, &gone);
    uint64_t from = vhdx_bat_index(vhdx, blocks), old = vhdx->bat_entries;
    uint64_t bitmap = round_up(blocks, vhdx->chunk) / vhdx->chunk * (vhdx->chunk + 1) - 1;
    for (uint64_t i = from; i < old; i++)
        if (i != bitmap) /* of the last chunk that stays */
            vhdx->bat[i] = BAT_NONE;
    vhdx->bat_entries = vhdx_bat_entries(vhdx, blocks);
    if (r == 0 && from < old)
        r = bat_write(vhdx, from, old, vhdx->bat_at);
    if (r == 0)
        r = store_flush(flat->image.store);
    if (r == 0)
        flat_give_back(flat, 0, &gone);
    return r;
}

int vhdx_resize(struct image *image, uint64_t size, enum image_preallocation prealloc,
                struct err *err)
{
    struct vhdx *vhdx = vhdx_of(image);
    uint64_t unit = vhdx->flat.block_size, most = FLAT_MAX_BLOCKS * unit;
    int r = flat_check_size(size, vhdx->sector, most < VHDX_MAX_SIZE ? most : VHDX_MAX_SIZE,
                            prealloc, err);
    if (r < 0 || size == image->size)
        return r;
    r = vhdx_touch(vhdx);
    if (r == 0)
        r = flat_flush(image);
    uint64_t blocks = size / unit + !!(size % unit);
    if (r == 0)
        r = size > image->size ? vhdx_grow(vhdx, size, blocks) : vhdx_shrink(vhdx, size, blocks);
    return r < 0 ? err_errno(err, -r, "cannot write its tables") : 0;
}
