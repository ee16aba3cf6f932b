/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What VHD, VHDX, VDI and VMDK have in common: a disk cut into blocks of one size, and one flat
 * table that says where each block lies in the file. Blocks are only ever added at the file's end.
 *
 * A block is made whole, with what the backing image has around the data, before its entry is
 * written; entries reach the disk on a flush, after the data: data, flush, entries, flush. Since no
 * block moves or goes, a cut leaves at worst a block that no entry names. What is discarded becomes
 * a hole in the file, at its place. A block that another program left partial (some of its sectors
 * are in the image below) is completed before it is written to.
 */
#ifndef BLOCK_FLAT_H
#define BLOCK_FLAT_H

#include "block/image.h"

#include <pthread.h>
#include <stdatomic.h>

#define FLAT_NONE 0ull                           /* not in this image */
#define FLAT_ZERO 1ull                           /* reads as zeros */
#define FLAT_MAX_BLOCKS (8ull << 20)             /* of a table that is whole in memory */
#define FLAT_MAX_PAGED (512ull << 20)            /* of one that is read as needed */
enum { FLAT_PAGE = 512, FLAT_PAGES_MAX = 4096 }; /* entries of a page; pages kept: 16 MiB */
enum { FLAT_DISCARD = 4096 };                    /* what a file has holes of */
struct flat_page;
struct buf;

struct flat {
    struct image image;
    /* An extent of a larger image: that one has the backing image, and this begins there at
     * `outer_start`. NULL: the image itself. */
    struct image *outer;
    uint64_t outer_start;
    /* Set by the format's open. */
    uint64_t block_size, blocks;
    /* Reads a page's entries from the file; NULL: open fills all of `host`. Set before flat_setup.
     * lock */
    int (*load)(struct flat *flat, uint64_t page, uint64_t host[FLAT_PAGE]);
    uint64_t *host; /* by block: offset of its data in the file, or one of the above. lock */
    /* Makes room for a block at the end of the file; answers where its data goes, reading as zeros.
     * lock. NULL: no blocks can be added. */
    int (*add)(struct flat *flat, uint64_t block, uint64_t *host);
    /* Writes the entry of a block whose data is durable. No lock. */
    int (*enter)(struct flat *flat, uint64_t block, uint64_t host);
    /* In place of enter: the entries of `count` blocks are durable when it returns. flush_lock. */
    int (*enter_all)(struct flat *flat, uint64_t *blocks, size_t count);
    bool zero_entries; /* an entry can be FLAT_ZERO */
    /* Differencing disks of others may hold only some sectors of a block: by block, does it? NULL:
     * no format of that kind. lock */
    uint8_t *partial;
    /* Is the sector at `in_block` of a partial block there, and for how many bytes more is that so?
     * Any thread. */
    int (*present)(struct flat *flat, uint64_t block, uint64_t in_block, uint64_t *run, bool *here);
    /* All sectors of a partial block are there now, durably: says so in the image. lock */
    int (*completed)(struct flat *flat, uint64_t block);
    /* Reads from a block that is not stored plain; NULL: all are. */
    int (*read_packed)(struct flat *flat, uint64_t host, void *data, size_t len, uint64_t in_block);

    struct flat_page **pages; /* flat_table.c. lock */
    uint64_t page_count, hand;
    unsigned loaded, dirty_pages;

    pthread_mutex_t lock, flush_lock;
    uint64_t *dirty; /* blocks whose entry is not written. lock */
    size_t dirty_count, dirty_room;
    atomic_uint unclean;
    uint64_t end;   /* where the next block goes. lock */
    uint64_t first; /* no block lies before this; for the check */
    uint64_t reach; /* a whole block lies within the file with this byte of it */
};

static inline struct flat *flat_of(struct image *image) { return (struct flat *)image; }

/* First thing in open. */
void flat_init(struct flat *flat);

/* ---- flat_table.c; with lock ---- */

/* When the fields above are known: a table of blocks, all FLAT_NONE, or to be loaded. No lock. */
int flat_setup(struct flat *flat, uint64_t blocks, struct err *err);
void flat_table_free(struct flat *flat);
int flat_get(struct flat *flat, uint64_t block, uint64_t *host);
bool flat_peek(const struct flat *flat, uint64_t block, uint64_t *host); /* never blocks */
int flat_set(struct flat *flat, uint64_t block,
             uint64_t host);                         /* and its entry has to be written */
int flat_mark(struct flat *flat, uint64_t block);    /* only that */
void flat_unmark(struct flat *flat, uint64_t block); /* it is written */
/* Where all blocks lie (uint64_t), at most so many. */
int flat_places(struct flat *flat, uint64_t most, struct buf *out);
/* Another number of blocks. New ones are `fill`; in a table of pages FLAT_NONE, and there the
 * format sees to it that the file says so. Where the blocks lie that go is added to *gone, and
 * their entries need not be written any more. Nothing else is running. */
int flat_table_fit(struct flat *flat, uint64_t blocks, uint64_t fill, struct buf *gone);

/* ---- flat.c ---- */

int flat_close(struct image *image);
int flat_read(struct image *image, void *data, size_t len, uint64_t offset);
int flat_write(struct image *image, const void *data, size_t len, uint64_t offset);
int flat_zero(struct image *image, uint64_t offset, uint64_t len, unsigned flags);
int flat_discard(struct image *image, uint64_t offset, uint64_t len);
int flat_flush(struct image *image);
int flat_status(struct image *image, uint64_t offset, uint64_t len, struct image_extent *out);
/* No two entries may name the same place, none lies outside the file. */
int flat_check(struct image *image, struct image_check *check, struct err *err);
bool flat_direct_map(struct image *image, struct block_hold *hold, uint64_t offset, uint64_t len,
                     bool write, uint64_t *host);
void flat_direct_done(struct image *image, struct block_hold *hold);
bool flat_is_clean(struct image *image);
/* While opening, when the table is in memory: an entry is written after its block, so one that the
 * file does not reach tells of a file that was cut off. */
int flat_check_whole(const struct flat *flat, struct err *err);
/* Before a disk grows: what the last block has behind its end reads as zeros. */
int flat_zero_tail(struct flat *flat);
/* After it shrank: `lead` bytes in front of those places and the blocks there are not needed. */
void flat_give_back(struct flat *flat, uint64_t lead, const struct buf *gone);
/* What every such format refuses: a size of 0 or of a part of `unit`, more than `most`, and
 * preallocation. */
int flat_check_size(uint64_t size, uint64_t unit, uint64_t most, enum image_preallocation prealloc,
                    struct err *err);

#endif
