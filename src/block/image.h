/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Images: formats over stores, with blocking calls.
 *
 * An image is what a format makes of a store, with the chain of backing images under it. The calls
 * of the first group may come from any number of threads at once; the others want the image for
 * themselves. format_node.c puts the queues of block.h in front; the image tool calls directly.
 *
 * A power cut at any moment leaves an image that opens, checks clean except for leaks, and holds
 * everything written before the last image_flush that returned 0.
 */
#ifndef BLOCK_IMAGE_H
#define BLOCK_IMAGE_H

#include "block/block.h"
#include "block/store.h"

struct image;
struct image_format;
struct json_t;

/* ---- opening ---- */

struct image_secret { /* a passphrase, byte for byte */
    const void *data;
    size_t len;
};
struct crypt_budget;
/* All of a file, which nothing but the passphrase may be in (a newline counts, too). */
int image_secret_read(const char *path, struct image_secret *out, struct err *err);
void image_secret_free(struct image_secret *secret);

struct image_options {
    const char *path;
    const char *format; /* NULL: by the magic */
    bool readonly;
    bool no_lock;
    bool no_backing; /* leave the chain below closed; unallocated parts read as zeros */
    bool for_check;  /* open although marked corrupt or dirty, change nothing on opening */
    bool direct;     /* O_DIRECT */
    bool unsafe;     /* flushing does nothing */
    bool no_key;     /* without a secret: open an encrypted image all the same, its data closed */
    const struct image_secret *secret; /* for all encrypted images of the chain; NULL: none */
    const struct crypt_budget *budget; /* of key derivation; NULL: crypt_budget_default */
    const struct block_opener *opener; /* NULL: block_opener_files */
};

int image_open(const struct image_options *options, struct image **out, struct err *err);
/* Over a store of the caller's making, which it takes; for tests and fuzzers. Backing files are
 * looked for beside options->path. */
int image_open_store(const struct image_options *options, struct store *take_store,
                     struct image **out, struct err *err);
/* The same, without the path before the sentence of an error. */
int image_open_within(const struct image_options *options, struct store *take_store,
                      struct image **out, struct err *err);
/* For an image opened with no_backing: takes the image below. */
void image_attach_backing(struct image *image, struct image *take_backing);
/* Writes back what is cached and closes: 0, or -errno when something may be lost. */
int image_close(struct image *image);
static inline void image_drop(struct image *image) { image_close(image); }
DEFINE_AUTO(struct image *, image_drop)

/* ---- data; any thread ---- */

enum { IMAGE_UNMAP = 1 };

int image_read(struct image *image, void *data, size_t len, uint64_t offset);
int image_write(struct image *image, const void *data, size_t len, uint64_t offset);
int image_zero(struct image *image, uint64_t offset, uint64_t len, unsigned flags);
int image_discard(struct image *image, uint64_t offset, uint64_t len);
int image_flush(struct image *image);

enum image_extent_flag {
    IMAGE_ALLOCATED = 1,  /* this layer decides what is read */
    IMAGE_ZERO = 2,       /* it surely reads as zeros */
    IMAGE_COMPRESSED = 4, /* stored packed */
    IMAGE_HOST = 8,       /* `host` says where in the file */
};
struct image_extent {
    uint64_t len; /* > 0 */
    unsigned flags;
    uint64_t host;
};
/* What is at `offset` in this layer, for at most `len` (> 0) bytes. */
int image_status(struct image *image, uint64_t offset, uint64_t len, struct image_extent *out);
/* The same through the chain: *depth counts layers down to the one that decides. Never
 * !IMAGE_ALLOCATED without IMAGE_ZERO. */
int image_map(struct image *image, uint64_t offset, uint64_t len, struct image_extent *out,
              unsigned *depth);

/* ---- the whole image; one thread, nothing else running ---- */

struct image_problem_count {
    uint64_t corruptions, leaks, check_errors;
    uint64_t corruptions_fixed, leaks_fixed;
    uint64_t clusters, allocated, compressed, fragmented; /* of the guest's disk */
    uint64_t end; /* of the last cluster in use, in the file */
};
struct image_check {
    bool repair_leaks, repair_all;
    /* A sentence for each problem; NULL: only counted. */
    void (*report)(void *arg, const char *text);
    void *arg;
    struct image_problem_count count;
};
int image_check(struct image *image, struct image_check *check, struct err *err);

enum image_preallocation { PREALLOC_OFF, PREALLOC_METADATA, PREALLOC_FALLOC, PREALLOC_FULL };
int image_resize(struct image *image, uint64_t size, enum image_preallocation prealloc,
                 struct err *err);

/* One whole cluster (image_cluster_size, shorter only at the end of the image), packed. 0 also
 * where it did not shrink and was stored plain. */
int image_write_compressed(struct image *image, const void *data, size_t len, uint64_t offset);
/* Changes the recorded backing file (NULL: none); does not look at data. */
int image_set_backing(struct image *image, const char *backing, const char *format,
                      struct err *err);
/* Everything in this layer becomes unallocated; used after its data was committed downwards. */
int image_empty(struct image *image, struct err *err);

struct image_snapshot {
    char *id, *name;
    uint64_t vm_state_size, disk_size;
    uint64_t date_s, vm_clock_ns;
    uint32_t date_ns;
};
int image_snapshot_count(struct image *image);
const struct image_snapshot *image_snapshot_at(struct image *image, unsigned n);
int image_snapshot_create(struct image *image, const char *name, struct err *err);
int image_snapshot_apply(struct image *image, const char *name_or_id, struct err *err);
int image_snapshot_delete(struct image *image, const char *name_or_id, struct err *err);
/* A read-only image shows the snapshot from now on. */
int image_snapshot_view(struct image *image, const char *name_or_id, struct err *err);

/* ---- creation ---- */

struct image_create {
    const char *path;
    const char *format;
    uint64_t size;
    const char *backing, *backing_format;
    const char *options;               /* "name=value,..." of the format */
    const struct image_secret *secret; /* of an encrypted image */
    bool no_overwrite;
};
int image_create(const struct image_create *create, struct err *err);
/* Into a store, which the caller keeps. */
int image_create_store(const struct image_create *create, struct store *store, struct err *err);

/* ---- questions ---- */

uint64_t image_size(const struct image *image);
bool image_readonly(const struct image *image);
const char *image_path(const struct image *image);
const char *image_format_name(const struct image *image);
struct image *image_backing(const struct image *image);         /* NULL: none, or not opened */
const char *image_backing_name(const struct image *image);      /* as recorded, or NULL */
const char *image_backing_format(const struct image *image);    /* as recorded, or NULL */
uint32_t image_cluster_size(const struct image *image);         /* 0: has none */
struct store *image_store(const struct image *image);           /* of its (first) file */
int image_info(struct image *image, struct json_t *into);       /* format's own facts */
const struct image_format *image_format_find(const char *name); /* NULL: unknown */
const struct image_format *const *image_formats(void);          /* NULL-terminated */
/* Where `name`, as recorded in the image at `parent`, is looked for. The caller frees. */
char *image_child_path(const char *parent, const char *name);

/* ---- formats plug in here ---- */

struct image_option { /* of create; the table ends with a NULL name */
    const char *name, *about;
};

struct image_format { /* absent functions: the operation is refused by name */
    const char *name, *about;
    const struct image_option *options;
    size_t struct_size; /* of what embeds struct image */
    bool can_back;      /* has a place for the name of a backing file */
    bool plain;         /* the file is the disk: any request may go straight to direct_store */
    int (*create)(const struct image_create *create, struct store *store, struct err *err);
    /* Fills a new image whose common part (below) is ready; fails without freeing `image`. */
    int (*open)(struct image *image, const struct image_options *options, struct err *err);
    int (*close)(struct image *image); /* also after a failed open; 0 or -errno */
    int (*read)(struct image *image, void *data, size_t len, uint64_t offset);
    int (*write)(struct image *image, const void *data, size_t len, uint64_t offset);
    int (*zero)(struct image *image, uint64_t offset, uint64_t len, unsigned flags);
    int (*discard)(struct image *image, uint64_t offset, uint64_t len); /* NULL: does nothing */
    int (*flush)(struct image *image);
    int (*status)(struct image *image, uint64_t offset, uint64_t len, struct image_extent *out);
    int (*write_compressed)(struct image *image, const void *data, size_t len, uint64_t offset);
    int (*check)(struct image *image, struct image_check *check, struct err *err);
    int (*resize)(struct image *image, uint64_t size, enum image_preallocation prealloc,
                  struct err *err);
    int (*set_backing)(struct image *image, const char *backing, const char *format,
                       struct err *err);
    int (*empty)(struct image *image, struct err *err);
    /* The backing image is open now: is it the one that this image was made over? */
    int (*check_backing)(struct image *image, struct err *err);
    int (*snapshot_count)(struct image *image);
    const struct image_snapshot *(*snapshot_at)(struct image *image, unsigned n);
    int (*snapshot_create)(struct image *image, const char *name, struct err *err);
    int (*snapshot_apply)(struct image *image, unsigned n, struct err *err);
    int (*snapshot_delete)(struct image *image, unsigned n, struct err *err);
    int (*snapshot_view)(struct image *image, unsigned n, struct err *err);
    int (*info)(struct image *image, struct json_t *into);
    /* Does [offset, offset + len) lie in one piece of image->direct_store, so that a request may go
     * there? Never blocks; when true, `hold` is in use until direct_done. */
    bool (*direct_map)(struct image *image, struct block_hold *hold, uint64_t offset, uint64_t len,
                       bool write, uint64_t *host);
    void (*direct_done)(struct image *image, struct block_hold *hold);
    /* Would a flush of the store alone do? Never blocks. */
    bool (*is_clean)(struct image *image);
};

struct image { /* embedded first by each format; fixed once open unless it says otherwise */
    const struct image_format *format;
    char *path;
    uint64_t size;
    bool readonly;
    bool noisy;       /* what was never written reads as anything */
    bool unpackable;  /* write_compressed does not work on this one */
    bool packed_only; /* a new stream: takes whole clusters by write_compressed, in order, once */
    uint32_t cluster_size;
    uint32_t discard_unit; /* smaller discards give nothing back; 0: cluster_size, or a sector */
    struct store *store;   /* owned */
    struct store *direct_store; /* borrowed; NULL: no direct_map */
    struct store *disk;         /* the disk byte for byte; NULL: a format with tables */
    struct image *backing;      /* owned */
    char *backing_name, *backing_format;
    const struct image_options *opening; /* while opening only */
    bool may_name_files;                 /* while opening only: its format was not a mere guess */
};

/* For direct_map: takes the lock of a table unless it is held for longer than another queue's
 * look-up takes, for who has it then may be waiting for the file. */
static inline bool image_lock_soon(pthread_mutex_t *lock)
{
    enum { TRIES = 200 };
    for (unsigned i = 0; i < TRIES; i++)
        if (!pthread_mutex_trylock(lock))
            return true;
    return false;
}

extern const struct image_format image_raw, image_luks, image_qcow2, image_vdi, image_vhd,
    image_vhdx, image_vmdk;

/* While opening: something begins or ends at `needed`. -EINVAL with a sentence when the file ends
 * before; a check opens it all the same. */
int image_check_whole(const struct image *image, uint64_t needed, struct err *err);
/* -ENOTSUP with a sentence that lists the formats. */
int image_no_format(const char *name, struct err *err);
/* Opens a further file of an image (data file, extent) by its recorded name. */
int image_open_part(const struct image *image, const char *name, struct store **out,
                    struct err *err);
/* Creates a further file of a new image, beside it. */
int image_create_part(const struct image_create *create, const char *name, struct store **out,
                      struct err *err);
/* The data below this layer; zeros behind the end of the backing image. */
int image_read_backing(struct image *image, void *data, size_t len, uint64_t offset);

/* For formats with image->disk (raw_image.c). Resizing writes zeros to what is new when told to. */
int image_disk_read(struct image *image, void *data, size_t len, uint64_t offset);
int image_disk_write(struct image *image, const void *data, size_t len, uint64_t offset);
int image_disk_flush(struct image *image);
int image_disk_resize(struct image *image, uint64_t size, bool zero, struct err *err);

/* "name=value,..." one after the other; ",," stands for a comma in a value. */
int image_option_get(const char *options, const char *name, char *value, size_t room);
int image_option_check(const struct image_format *format, const char *options, struct err *err);

#endif
