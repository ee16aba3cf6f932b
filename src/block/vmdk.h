/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside the VMDK format ("Virtual Disk Format 5.0", VMware). Little-endian.
 *
 * A descriptor (text, in a file of its own or embedded in the one sparse file) lists extents, which
 * lie one after the other on the disk: flat ones are plain ranges of files, sparse ones have
 * directories of tables of grains:
 *
 *   sparse:  [header][descriptor][redundant directory, tables][directory, tables][grains]...
 *   stream:  [header][descriptor]([marker][packed grain])... [tables][directory][footer][end]
 *
 * vmdk.c         the image: descriptor, extents, parent
 * vmdk_sparse.c  one sparse extent, and how a stream is written
 * vmdk_create.c  new images, naming a parent
 * vmdk_resize.c  another size
 */
#ifndef BLOCK_VMDK_H
#define BLOCK_VMDK_H

#include "block/flat.h"

enum { /* offsets in a sparse header */
       VMDK_VERSION = 4,
       VMDK_FLAGS = 8,
       VMDK_CAPACITY = 12,
       VMDK_GRAIN = 20,
       VMDK_DESCRIPTOR = 28,
       VMDK_DESCRIPTOR_LEN = 36,
       VMDK_PER_TABLE = 44,
       VMDK_SPARE_DIRECTORY = 48,
       VMDK_DIRECTORY = 56,
       VMDK_OVERHEAD = 64,
       VMDK_NEWLINES = 73,
       VMDK_COMPRESSION = 77,
       VMDK_HEADER = 512,
};
enum {
    FLAG_NEWLINES = 1,
    FLAG_SPARE = 2,
    FLAG_ZERO_GRAINS = 4,
    FLAG_PACKED = 1 << 16,
    FLAG_MARKERS = 1 << 17
};
enum {
    VMDK_SECTOR = 512,
    PER_TABLE = 512,
    GRAIN = 128, /* sectors */
    DESCRIPTOR_SECTORS = 20,
    DESCRIPTOR_MAX = 1 << 20,
};
#define DIRECTORY_AT_END UINT64_MAX
#define VMDK_SPARSE_MAX (2040ull << 30) /* sectors of the file are numbered with 32 bits */
#define VMDK_FLAT_MAX (1ull << 50)

struct sparse {
    struct flat flat;
    uint64_t tables;         /* grain tables */
    uint32_t *table, *spare; /* by table: its sector. Fixed but for resizing */
    bool stream;             /* being written for the first time */
    bool for_check;          /* what lies behind the end of the file is the check's to tell */
    bool cut_seen;           /* it was told. lock */
    uint8_t header[VMDK_HEADER];
};

enum extent_kind { EXTENT_FLAT, EXTENT_ZERO, EXTENT_SPARSE };
struct extent {
    enum extent_kind kind;
    uint64_t start, len;   /* of the disk */
    char *name;            /* of its file; NULL: the image's own */
    struct store *store;   /* owned by the first extent with that name */
    uint64_t offset;       /* EXTENT_FLAT: where it begins in the file */
    struct sparse *sparse; /* EXTENT_SPARSE */
    bool borrowed;         /* the store belongs to the image or another extent */
};

struct vmdk {
    struct image image;
    struct extent *extents;
    unsigned count;
    char *text;                 /* the descriptor */
    uint64_t text_at, text_len; /* where it lies in image.store */
    char create_type[48];
    uint32_t cid, parent_cid;
    pthread_mutex_t touch_lock;
    atomic_uint touched; /* the content id has been changed */
};

static inline struct vmdk *vmdk_of(struct image *image) { return (struct vmdk *)image; }

#define VMDK_NO_PARENT 0xffffffffu

/* ---- vmdk_sparse.c ---- */

/* Opens the sparse extent in `store` (borrowed), which is at `start` of the image's disk. Its
 * flat.image has the facts that flat_* need. */
int vmdk_sparse_open(struct image *image, struct store *store, uint64_t start, struct sparse **out,
                     struct err *err);
int vmdk_sparse_close(struct sparse *sparse);
/* One whole grain of a new stream; any order, each once. */
int vmdk_stream_write(struct sparse *sparse, const void *data, size_t len, uint64_t offset);

/* ---- vmdk_create.c ---- */

extern const struct image_option vmdk_options[];
int vmdk_create(const struct image_create *create, struct store *store, struct err *err);
int vmdk_set_backing(struct image *image, const char *backing, const char *format, struct err *err);
/* Puts another text, filled up to vmdk->text_len, in the place of the embedded one, together with
 * what else changed in the one sparse extent's header. */
int vmdk_replace_descriptor(struct vmdk *vmdk, const struct buf *text);

/* ---- vmdk_resize.c ---- */

int vmdk_resize(struct image *image, uint64_t size, enum image_preallocation prealloc,
                struct err *err);

/* ---- vmdk.c ---- */

int vmdk_touch(struct vmdk *vmdk); /* before any change */
bool vmdk_line_is_extent(const char *line);

#endif
