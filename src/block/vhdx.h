/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside the VHDX format ([MS-VHDX]). Little-endian; "field" names are the specification's.
 *
 *   0           file type identifier
 *   64K, 128K   two headers; the good one with the higher sequence number counts
 *   192K, 256K  two copies of the table of regions: block table (BAT), metadata
 *   from 1M on, in multiples of 1M: log, metadata, BAT, blocks
 *
 * vhdx.c         headers, regions, metadata, BAT, opening
 * vhdx_log.c     the log: finding, replaying, appending
 * vhdx_create.c  creating, naming a parent
 * vhdx_resize.c  another size
 *
 * How a change of the BAT becomes durable (vhdx_commit), each line after the one before is durable:
 *   1. the blocks' data, and what the last commit wrote into the BAT in place
 *   2. a log entry with the BAT's pages, whose Tail is itself
 *   3. the pages in place
 * So one valid entry is all that ever has to be replayed, and an entry never overwrites the one
 * before (it is shorter than half of the log). The header names the log from the first change until
 * the image is closed.
 */
#ifndef BLOCK_VHDX_H
#define BLOCK_VHDX_H

#include "block/flat.h"

enum {
    HEADER_1 = 64 << 10,
    HEADER_2 = 128 << 10,
    REGIONS_1 = 192 << 10,
    REGIONS_2 = 256 << 10,
    REGIONS_LEN = 64 << 10,
    MAX_REGIONS = 2047,      /* entries of either table */
    METADATA_LEN = 64 << 10, /* of the table; items come behind it */
    VHDX_HEADER_LEN = 4096,
    VHDX_PAGE = 4096,
    VHDX_MIB = 1 << 20,
    VHDX_LOG_MAX = 64 << 20,
    VHDX_LOG_PAGES = 100, /* of one entry: less than half of the smallest log */
};

enum {
    BAT_NONE = 0,
    BAT_UNDEFINED = 1,
    BAT_ZERO = 2,
    BAT_UNMAPPED = 3,
    BAT_PRESENT = 6,
    BAT_PARTIAL = 7
};
enum { ITEM_OFFSET = 16, ITEM_LEN = 20, ITEM_FLAGS = 24 };
enum { ITEM_IS_DISK = 2, ITEM_IS_REQUIRED = 4 };
enum { PARAM_FIXED = 1, PARAM_PARENT = 2 };
#define VHDX_MAX_SIZE (64ull << 40)

enum { /* header */
       HEAD_CHECKSUM = 4,
       HEAD_SEQUENCE = 8,
       HEAD_FILE_GUID = 16,
       HEAD_DATA_GUID = 32,
       HEAD_LOG_GUID = 48,
       HEAD_LOG_VERSION = 64,
       HEAD_VERSION = 66,
       HEAD_LOG_LEN = 68,
       HEAD_LOG = 72,
};

typedef uint8_t guid[16];
static const guid region_bat = { 0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
                                 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08 };
static const guid region_metadata = { 0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
                                      0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e };
static const guid item_parameters = { 0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d,
                                      0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b };
static const guid item_size = { 0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48,
                                0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8 };
static const guid item_disk_id = { 0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45,
                                   0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46 };
static const guid item_sector = { 0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47,
                                  0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f };
static const guid item_physical = { 0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44,
                                    0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56 };
static const guid item_locator = { 0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45,
                                   0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c };
static const guid locator_vhdx = { 0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a,
                                   0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13 };

struct vhdx_log {
    uint64_t at, len; /* in the file */
    uint8_t guid[16];
    uint64_t head, sequence; /* where the next entry goes, and its number */
};

struct vhdx_page { /* a page of metadata that changes */
    uint64_t offset;
    uint8_t data[VHDX_PAGE];
};

struct vhdx {
    struct flat flat;
    uint8_t header[VHDX_HEADER_LEN]; /* as last written */
    unsigned header_slot;
    struct vhdx_log log; /* flush_lock */
    uint64_t *bat;       /* as in the file, bitmaps' entries too. flush_lock */
    uint64_t bat_at, bat_len,
        bat_entries; /* the region; entries of the disk. Fixed but for resizing */
    uint64_t chunk;  /* blocks for each sector bitmap */
    uint32_t sector;
    uint64_t metadata_at, metadata_len;
    uint64_t durable_end; /* the file is at least this long, durably. flush_lock */
    bool has_parent, fixed;
    char linkage[2][48];        /* content ids of the parent that fit */
    pthread_mutex_t touch_lock; /* one thread announces the first change */
    atomic_uint touched;        /* the header names the log */
};

static inline struct vhdx *vhdx_of(struct image *image) { return (struct vhdx *)image; }

/* ---- vhdx.c ---- */

/* The entry of an item in the metadata's table; NULL: there is none with a good place. */
uint8_t *vhdx_item(const struct vhdx *vhdx, uint8_t *table, const guid which);
/* Before any change. */
int vhdx_touch(struct vhdx *vhdx);
/* Some pages of metadata change at once (steps 2 and 3). flush_lock */
int vhdx_commit_pages(struct vhdx *vhdx, const struct vhdx_page *pages, unsigned count);
/* How many entries the BAT has for so many blocks, and where that of a block is. */
uint64_t vhdx_bat_entries(const struct vhdx *vhdx, uint64_t blocks);
uint64_t vhdx_bat_index(const struct vhdx *vhdx, uint64_t block);
int vhdx_guid_make(uint8_t *out);
void vhdx_guid_print(const uint8_t *g, char out[40]); /* "{83ed0ec1-24c8-49a6-a959-5e4bd1288015}" */

/* ---- vhdx_create.c ---- */

extern const struct image_option vhdx_options[];
int vhdx_create(const struct image_create *create, struct store *store, struct err *err);
int vhdx_set_backing(struct image *image, const char *backing, const char *format, struct err *err);

/* ---- vhdx_resize.c ---- */

int vhdx_resize(struct image *image, uint64_t size, enum image_preallocation prealloc,
                struct err *err);

/* ---- vhdx_log.c ---- */

/* The log that the header names is replayed: into the file, or, in an image opened for reading,
 * into a store that stands in front of it (image->store is replaced). */
int vhdx_log_replay(struct vhdx *vhdx, struct err *err);
/* Appends one entry with these pages (at most VHDX_LOG_PAGES); durable when it returns. */
int vhdx_log_append(struct vhdx *vhdx, const struct vhdx_page *pages, unsigned count);

#endif
