/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside the qcow2 format. Follows QEMU's docs/interop/qcow2.txt; field names are its.
 *
 *   guest offset = | l1 index | l2 index | offset in the cluster |
 *   header -> L1 table -> L2 tables -> data clusters
 *   header -> refcount table -> refcount blocks (one number for each cluster of the file)
 *
 * qcow2_meta.c   cached metadata, refcounts, allocation, write-back; the invariants are there
 * qcow2_map.c    guest data: L2 entries, reading, writing, zeroing, compression
 * qcow2_admin.c  snapshots, resizing, emptying, preallocation
 * qcow2_check.c  consistency and repair
 * qcow2_bitmap.c persistent dirty bitmaps
 * qcow2_intent.c how they survive a crash
 * qcow2_create.c new images
 * qcow2.c        header, opening, the format's table
 */
#ifndef BLOCK_QCOW2_H
#define BLOCK_QCOW2_H

#include "block/codec.h"
#include "block/image.h"

#include <pthread.h>
#include <stdatomic.h>

#define QCOW2_MAGIC 0x514649fbu
#define L1E_OFFSET_MASK 0x00fffffffffffe00ull
#define L2E_OFFSET_MASK 0x00fffffffffffe00ull
#define L2E_COPIED (1ull << 63)
#define L2E_COMPRESSED (1ull << 62)
#define L2E_ZERO 1ull
#define L2B_ALL_ZERO 0xffffffff00000000ull /* the bitmap of an extended entry */
#define L2B_ALL_ALLOC 0x00000000ffffffffull
#define REFT_OFFSET_MASK 0xfffffffffffffe00ull
#define QCOW2_MAX_OFFSET (1ull << 56)

enum {
    QCOW2_PAGE = 4096,
    QCOW2_CACHE_PAGES = 4096, /* 16 MiB */
    QCOW2_MAX_L1 = 32 << 20,
    QCOW2_MAX_REFTABLE = 8 << 20,
    QCOW2_MAX_SNAPSHOTS = 65536,
    QCOW2_MAX_SNAPSHOT_TABLE = 16 << 20,
    QCOW2_SECTOR = 512,
};

enum { /* incompatible features */
       INCOMPAT_DIRTY = 1,
       INCOMPAT_CORRUPT = 2,
       INCOMPAT_DATA_FILE = 4,
       INCOMPAT_COMPRESSION = 8,
       INCOMPAT_EXTENDED_L2 = 16,
       INCOMPAT_KNOWN = 31,
};
enum { COMPAT_LAZY = 1 };
enum { AUTOCLEAR_BITMAPS = 1, AUTOCLEAR_DATA_FILE_RAW = 2 };
#define AUTOCLEAR_INTENT (1ull << 63) /* our own: qcow2_intent.c */
enum { CRYPT_NONE = 0, CRYPT_LUKS = 2 };
enum { COMPRESS_ZLIB = 0, COMPRESS_ZSTD = 1 };

struct qcow2_header { /* big-endian in the file */
    uint32_t magic, version;
    uint64_t backing_file_offset;
    uint32_t backing_file_size, cluster_bits;
    uint64_t size;
    uint32_t crypt_method, l1_size;
    uint64_t l1_table_offset, refcount_table_offset;
    uint32_t refcount_table_clusters, nb_snapshots;
    uint64_t snapshots_offset;
    /* version 3 */
    uint64_t incompatible_features, compatible_features, autoclear_features;
    uint32_t refcount_order, header_length;
    uint8_t compression_type, padding[7];
} __attribute__((packed));
_Static_assert(sizeof(struct qcow2_header) == 112, "layout");
enum { HEADER_V2 = 72, HEADER_V3 = 104 };

enum page_kind { PAGE_REFCOUNT, PAGE_L2 };
struct page { /* a piece of a refcount block or L2 table */
    uint64_t offset;
    enum page_kind kind;
    bool dirty;
    bool writing; /* a copy is on its way to the file */
    bool used;    /* since it was last passed by who looks for room */
    struct page *hash_next, *newer, *older;
    uint8_t data[QCOW2_PAGE];
};

struct qcow2_free { /* clusters that lose a reference once that is durable */
    uint64_t offset, clusters;
};
struct qcow2_free_list {
    struct qcow2_free *runs;
    size_t count, room;
};

struct qcow2_snapshot {
    struct image_snapshot pub;
    uint64_t l1_offset;
    uint32_t l1_size;
    uint64_t icount;
    uint8_t *unknown; /* further extra data, kept */
    uint32_t extra_size;
};

struct qcow2_bitmap {
    char *name;
    uint64_t table_offset;
    uint32_t table_size, flags;
    uint8_t type, granularity_bits;
    uint8_t *extra;
    uint32_t extra_size;
    uint8_t *bits;      /* loaded: one bit for each granule; NULL: not loaded. lock */
    uint64_t bit_count; /* of the bytes; the last ones may stand for nothing */
    bool incomplete;    /* new: its bits are to be set yet, so the file does not promise them */
    uint64_t granules;
};
enum { BITMAP_IN_USE = 1, BITMAP_AUTO = 2, BITMAP_EXTRA_COMPATIBLE = 4 };

struct qcow2 {
    struct image image;
    struct store *data; /* image.store, data_file or plain */
    struct store *data_file;
    struct store *plain;              /* of an encrypted image: the plain text of image.store */
    uint64_t crypt_offset, crypt_len; /* of its LUKS header */
    char *data_file_name;
    /* Fixed at open. */
    unsigned version, cluster_bits, refcount_order, entry_size, l2_bits, subclusters, sub_bits;
    uint32_t cluster_size, page_size;
    unsigned compression;
    uint64_t compat;
    bool has_zero_flag;
    uint64_t backing_file_offset;
    struct qcow2_header header; /* as last written, host order. lock */
    uint8_t *unknown_extensions;
    size_t unknown_len;

    pthread_mutex_t lock; /* everything below */
    pthread_cond_t hold_freed;
    pthread_mutex_t flush_lock; /* one write-back at a time; taken before lock */
    uint64_t *l1;
    uint32_t l1_size;
    uint8_t *l1_dirty; /* one byte for each 64 entries */
    bool l1_any_dirty;
    uint64_t *reftable;
    uint64_t reftable_entries;
    struct page **page_hash;
    struct page *newest, *oldest;
    unsigned page_count, dirty_l2, dirty_refcounts;
    atomic_uint unclean; /* L2 pages or L1 parts not yet durable */
    struct qcow2_free_list pending;
    uint64_t free_hint; /* no free cluster below, as far as known */
    uint64_t file_end;  /* bytes from here on were never written: they read as zeros */
    uint64_t pack_at;   /* where the next compressed cluster may go; 0: nowhere yet */
    struct block_hold *holds, **holds_tail;
    unsigned hold_waiters;
    unsigned exclusive_holds;
    bool corrupt_seen;
    uint64_t unpacked_key; /* of the last compressed cluster; 0: none */
    uint8_t *unpacked;
    struct codecs *codecs; /* fixed once open */
    struct qcow2_snapshot *snapshots;
    unsigned snapshot_count;
    struct qcow2_bitmap *bitmaps;
    unsigned bitmap_count;
    uint64_t bitmap_dir_offset, bitmap_dir_size;
    bool bitmaps_used; /* marked IN_USE in the file */
    uint8_t *intent;   /* regions noted in the file; NULL: no notes are kept */
    uint32_t intent_len;
    unsigned region_bits;
    uint64_t intent_at;
    pthread_mutex_t intent_lock; /* one note at a time; taken before lock */
};

static inline struct qcow2 *qcow2_of(struct image *image) { return (struct qcow2 *)image; }

static inline uint16_t get16(const void *p) { return __builtin_bswap16(*(const uint16_t *)p); }
static inline uint32_t get32(const void *p) { return __builtin_bswap32(*(const uint32_t *)p); }
static inline uint64_t get64(const void *p) { return __builtin_bswap64(*(const uint64_t *)p); }
static inline void put16(void *p, uint16_t v) { *(uint16_t *)p = __builtin_bswap16(v); }
static inline void put32(void *p, uint32_t v) { *(uint32_t *)p = __builtin_bswap32(v); }
static inline void put64(void *p, uint64_t v) { *(uint64_t *)p = __builtin_bswap64(v); }

static inline uint64_t clusters_of(const struct qcow2 *q, uint64_t bytes)
{
    return (bytes >> q->cluster_bits) + !!(bytes & (q->cluster_size - 1));
}

/* ---- qcow2_meta.c; all with q->lock held unless said otherwise ---- */

int qcow2_corrupt(struct qcow2 *q, const char *what, uint64_t offset); /* logs; -EIO */
int page_get(struct qcow2 *q, uint64_t offset, enum page_kind kind, struct page **out);
bool page_cached(struct qcow2 *q, uint64_t offset); /* page_get would not read the file */
struct page *page_peek(struct qcow2 *q, uint64_t offset, enum page_kind kind); /* NULL: it would */
void page_dirty(struct qcow2 *q, struct page *page);
void pages_forget(struct qcow2 *q, uint64_t offset, uint64_t len); /* dirty or not */
int pages_init(struct qcow2 *q);
void pages_free(struct qcow2 *q);

int refcount_get(struct qcow2 *q, uint64_t cluster, uint64_t *out);
int refcount_set(struct qcow2 *q, uint64_t cluster, uint64_t value); /* allocates its block */
int refcount_add(struct qcow2 *q, uint64_t cluster, int delta);
/* Up to *clusters contiguous ones (exactly, if `exact`), with refcount 1. *fresh: they were never
 * written, so they read as zeros. */
int clusters_alloc(struct qcow2 *q, uint64_t *clusters, bool exact, uint64_t *offset, bool *fresh);
/* What no table has ever pointed to. */
void clusters_free_now(struct qcow2 *q, uint64_t offset, uint64_t clusters);
/* What a table pointed to until just now (invariant 3). */
int clusters_free_later(struct qcow2 *q, uint64_t offset, uint64_t clusters);
void l1_set(struct qcow2 *q, uint32_t index, uint64_t entry);
int qcow2_write_meta(struct qcow2 *q, const void *data, size_t len, uint64_t offset);
/* Without q->lock: makes everything durable that was done before. */
int qcow2_flush(struct image *image);
/* Without q->lock, before taking it for a change: keeps the cache within its bound. */
int qcow2_balance(struct qcow2 *q);
bool qcow2_is_clean(struct image *image);
uint64_t refcount_max(const struct qcow2 *q);
uint64_t refcounts_per_block(const struct qcow2 *q);
uint64_t refcount_read(const struct qcow2 *q, const uint8_t *block, uint64_t index);
void refcount_write(const struct qcow2 *q, uint8_t *block, uint64_t index, uint64_t value);

/* ---- qcow2_map.c ---- */

struct l2_entry {
    uint64_t entry, bitmap;
};
int l2_table_get(struct qcow2 *q, uint64_t guest, uint64_t *offset); /* lock; 0: there is none */
int l2_table_own(struct qcow2 *q, uint64_t guest, uint64_t *offset); /* lock */
int l2_get(struct qcow2 *q, uint64_t table, uint64_t guest, struct l2_entry *out);  /* lock */
int l2_set(struct qcow2 *q, uint64_t table, uint64_t guest, struct l2_entry value); /* lock */
void compressed_place(const struct qcow2 *q, uint64_t entry, uint64_t *offset, uint64_t *len);
bool entry_has_host(const struct qcow2 *q, uint64_t entry); /* not for compressed ones */
int entry_free(struct qcow2 *q, uint64_t entry);            /* lock; later, all that it points to */
void hold_take(struct qcow2 *q, struct block_hold *hold, uint64_t start, uint64_t end,
               bool exclusive);                           /* lock, given up while waiting */
void hold_drop(struct qcow2 *q, struct block_hold *hold); /* lock */
int qcow2_read(struct image *image, void *data, size_t len, uint64_t offset);
int qcow2_write(struct image *image, const void *data, size_t len, uint64_t offset);
int qcow2_zero(struct image *image, uint64_t offset, uint64_t len, unsigned flags);
int qcow2_discard(struct image *image, uint64_t offset, uint64_t len);
int qcow2_status(struct image *image, uint64_t offset, uint64_t len, struct image_extent *out);
int qcow2_write_compressed(struct image *image, const void *data, size_t len, uint64_t offset);
bool qcow2_direct_map(struct image *image, struct block_hold *hold, uint64_t offset, uint64_t len,
                      bool write, uint64_t *host);
void qcow2_direct_done(struct image *image, struct block_hold *hold);
int qcow2_unallocate(struct qcow2 *q, uint64_t offset, uint64_t len); /* whole clusters */

/* ---- qcow2.c ---- */

int qcow2_write_header(struct qcow2 *q); /* lock; durable when it returns */
int qcow2_read_table(struct qcow2 *q, uint64_t offset, uint64_t count, uint64_t *out);
bool qcow2_table_fits(const struct qcow2 *q, uint64_t offset, uint64_t len);

/* ---- qcow2_create.c ---- */

extern const struct image_option qcow2_options[];
int qcow2_create(const struct image_create *create, struct store *store, struct err *err);

/* ---- qcow2_admin.c ---- */

int snapshots_load(struct qcow2 *q, struct err *err);
void snapshots_free(struct qcow2 *q);
int qcow2_snapshot_count(struct image *image);
const struct image_snapshot *qcow2_snapshot_at(struct image *image, unsigned n);
int qcow2_snapshot_create(struct image *image, const char *name, struct err *err);
int qcow2_snapshot_apply(struct image *image, unsigned n, struct err *err);
int qcow2_snapshot_delete(struct image *image, unsigned n, struct err *err);
int qcow2_snapshot_view(struct image *image, unsigned n, struct err *err);
int qcow2_resize(struct image *image, uint64_t size, enum image_preallocation prealloc,
                 struct err *err);
int qcow2_empty(struct image *image, struct err *err);
int qcow2_preallocate(struct qcow2 *q, uint64_t from, uint64_t to,
                      enum image_preallocation prealloc);

/* ---- qcow2_check.c ---- */

int qcow2_check(struct image *image, struct image_check *check, struct err *err);

/* ---- qcow2_bitmap.c ---- */

int bitmaps_load(struct qcow2 *q, struct err *err);
/* Before the first change of a writable image: marks the recording bitmaps as in use. */
int bitmaps_start(struct qcow2 *q, struct err *err);
int bitmaps_store(struct qcow2 *q); /* on closing */
/* Before a write: notes it for after a crash, and marks it. 0 or -errno. */
int bitmaps_record(struct qcow2 *q, uint64_t offset, uint64_t len);
void bitmaps_mark(struct qcow2 *q, uint64_t offset, uint64_t len); /* noted already; lock */
void bitmap_mark(struct qcow2_bitmap *b, uint64_t offset, uint64_t len);
/* Saves all bits, so that a crash loses none of what is noted now. Nothing else is running. */
int qcow2_bitmaps_checkpoint(struct image *image, struct err *err);
void bitmaps_free(struct qcow2 *q);
/* Without bits; what is marked in it counts after a crash once all were saved, by a checkpoint or
 * by closing. */
int qcow2_bitmap_add(struct image *image, const char *name, uint32_t granularity, struct err *err);
int qcow2_bitmap_remove(struct image *image, const char *name, struct err *err);
/* Around a change of the disk's size to `size`: first all bitmaps are loaded and marked as in use,
 * then their bits fitted. What is new counts as written. */
int bitmaps_resize_begin(struct qcow2 *q, uint64_t size, struct err *err);
int bitmaps_resize_end(struct qcow2 *q);

struct bitmap_bits {
    uint8_t *data; /* the receiver's */
    uint64_t count;
    unsigned granularity_bits;
};
/* A copy of the bits of one that is complete. Nothing else is running. */
int qcow2_bitmap_read(struct image *image, const char *name, struct bitmap_bits *out,
                      struct err *err);
/* Any image: is it a qcow2 of a version that has bitmaps, open for writing? */
bool qcow2_keeps_bitmaps(struct image *image);
/* Is it there, complete, and does it record? */
bool qcow2_bitmap_is_good(struct image *image, const char *name);
/* The name of bitmap `n`, but for those of our own use; NULL: there are no more. */
const char *qcow2_bitmap_name(struct image *image, unsigned n);
void qcow2_bitmap_clear(struct image *image, const char *name);
void qcow2_bitmap_mark(struct image *image, const char *name, uint64_t offset, uint64_t len);
/* Another image holds the disk from now on, and with it what was written since. Both are qcow2, and
 * nothing else is running. */
int qcow2_bitmaps_move(struct image *from, struct image *to, struct err *err);

/* ---- qcow2_intent.c ---- */

struct qcow2_bitmap *intent_entry(struct qcow2 *q); /* NULL: there is none */
bool intent_is_name(const char *name);
/* Is all of it noted? lock */
bool intent_covers(const struct qcow2 *q, uint64_t offset, uint64_t len);
int intent_widen(struct qcow2 *q, uint64_t offset, uint64_t len);
/* The notes that a crash left, if they are complete: the caller frees. */
int intent_load(struct qcow2 *q, uint8_t **notes);
void intent_apply(const struct qcow2 *q, const uint8_t *notes, struct qcow2_bitmap *b);
/* In new clusters; the caller saves the directory, then frees the old ones. notes NULL: none. */
int intent_renew(struct qcow2 *q, const uint8_t *notes);
/* Takes the entry off the list: the caller saves the directory, then frees its clusters and
 * memory; or puts it back before the list grows. */
struct intent_dropped {
    struct qcow2_bitmap entry;
    uint8_t *notes;
};
void intent_drop(struct qcow2 *q, struct intent_dropped *gone);
void intent_put_back(struct qcow2 *q, struct intent_dropped *gone);

#endif
