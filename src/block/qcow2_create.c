/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2: new images. */
#include "base/checked.h"
#include "base/text.h"
#include "block/luks.h"
#include "block/qcow2.h"

#include <string.h>

/* ---- creating ---- */

struct create_options {
    uint64_t cluster_size, refcount_bits, version;
    bool lazy, extended, data_raw, encrypt;
    uint64_t crypt_len; /* of the LUKS header */
    unsigned compression;
    enum image_preallocation prealloc;
    char data_file[1024], prealloc_name[16];
};

static int option_flag(const char *options, const char *name, bool *out, struct err *err)
{
    char value[16];
    if (!image_option_get(options, name, value, sizeof value))
        return 0;
    *out = !strcmp(value, "on") || !strcmp(value, "true") || !strcmp(value, "yes");
    if (!*out && strcmp(value, "off") && strcmp(value, "false") && strcmp(value, "no"))
        return err_set(err, EINVAL, "%s=%s: say on or off", name, value);
    return 0;
}

static int create_parse(const char *options, struct create_options *o, struct err *err)
{
    char value[32];
    int r = 0;
    *o = (struct create_options){ .cluster_size = 65536, .refcount_bits = 16, .version = 3 };
    if (image_option_get(options, "cluster_size", value, sizeof value))
        r = size_parse(value, 1, &o->cluster_size, err);
    if (r < 0)
        return r;
    if (image_option_get(options, "refcount_bits", value, sizeof value)) {
        r = number_parse(value, 1, 64, &o->refcount_bits, err);
        if (r < 0)
            return err_prefix(err, "refcount_bits");
    }
    if (image_option_get(options, "compat", value, sizeof value)) {
        if (!strcmp(value, "0.10") || !strcmp(value, "v2"))
            o->version = 2;
        else if (strcmp(value, "1.1") && strcmp(value, "v3"))
            return err_set(err, EINVAL, "compat=%s: there is 0.10 and 1.1", value);
    }
    if (image_option_get(options, "compression_type", value, sizeof value)) {
        if (!strcmp(value, "zstd"))
            o->compression = COMPRESS_ZSTD;
        else if (strcmp(value, "zlib"))
            return err_set(err, EINVAL, "compression_type=%s: there is zlib and zstd", value);
    }
    snprintf(o->prealloc_name, sizeof o->prealloc_name, "off");
    image_option_get(options, "preallocation", o->prealloc_name, sizeof o->prealloc_name);
    static const char *const names[] = { "off", "metadata", "falloc", "full" };
    unsigned i;
    for (i = 0; i < ARRAY_LEN(names) && strcmp(names[i], o->prealloc_name); i++)
        ;
    if (i == ARRAY_LEN(names))
        return err_set(err, EINVAL, "preallocation=%s: there is off, metadata, falloc, full",
                       o->prealloc_name);
    o->prealloc = (enum image_preallocation)i;
    image_option_get(options, "data_file", o->data_file, sizeof o->data_file);
    if (image_option_get(options, "encrypt.format", value, sizeof value)) {
        if (strcmp(value, "luks"))
            return err_set(err, EINVAL, "encrypt.format=%s: there is luks", value);
        o->encrypt = true;
    }
    r = option_flag(options, "lazy_refcounts", &o->lazy, err);
    if (r == 0)
        r = option_flag(options, "extended_l2", &o->extended, err);
    if (r == 0)
        r = option_flag(options, "data_file_raw", &o->data_raw, err);
    return r;
}

static int create_check(const struct create_options *o, const struct image_create *create,
                        struct err *err)
{
    if (!is_power_of_two(o->cluster_size) || o->cluster_size < 512 || o->cluster_size > 2 << 20)
        return err_set(err, EINVAL, "cluster_size is a power of two from 512 to 2M");
    if (!is_power_of_two(o->refcount_bits))
        return err_set(err, EINVAL, "refcount_bits is 1, 2, 4, 8, 16, 32 or 64");
    if (o->extended && o->cluster_size < 16384)
        return err_set(err, EINVAL, "extended_l2 needs a cluster_size of at least 16K");
    if (o->version == 2 &&
        (o->refcount_bits != 16 || o->lazy || o->extended || o->compression || o->data_file[0]))
        return err_set(err, EINVAL,
                       "compat=0.10 has none of refcount_bits, lazy_refcounts, "
                       "extended_l2, compression_type and data_file");
    if (o->data_raw && !o->data_file[0])
        return err_set(err, EINVAL, "data_file_raw needs a data_file");
    if (o->data_raw && create->backing)
        return err_set(err, EINVAL, "data_file_raw and a backing file exclude each other");
    if (o->prealloc && create->backing && !o->extended)
        return err_set(err, EINVAL, "preallocation would hide the backing file");
    if (create->size % 512)
        return err_set(err, EINVAL, "the size is a multiple of 512");
    if (o->encrypt && o->data_file[0])
        return err_set(err, EINVAL, "encrypt.format and data_file exclude each other");
    if (!o->encrypt && create->options && strstr(create->options, "encrypt."))
        return err_set(err, EINVAL, "options of encryption need encrypt.format=luks");
    return 0;
}

/* Header, refcount table, refcount blocks, L1 table, LUKS header: one after the other. */
static int create_write(const struct create_options *o, const struct image_create *create,
                        struct store *store, struct err *err)
{
    struct qcow2 q = { 0 }; /* as far as qcow2_write_header looks */
    q.image.store = store;
    q.version = (unsigned)o->version;
    q.cluster_size = (uint32_t)o->cluster_size;
    q.cluster_bits = (unsigned)__builtin_ctzll(o->cluster_size);
    q.refcount_order = (unsigned)__builtin_ctzll(o->refcount_bits);
    uint64_t per_l1 = o->cluster_size * (o->cluster_size / (o->extended ? 16 : 8));
    uint64_t l1_size = create->size / per_l1 + !!(create->size % per_l1);
    if (l1_size > QCOW2_MAX_L1 / 8)
        return err_set(err, EFBIG,
                       "clusters of %llu bytes are too small for this size; give a "
                       "larger cluster_size",
                       (unsigned long long)o->cluster_size);
    if (!l1_size)
        l1_size = 1;
    uint64_t l1_clusters = clusters_of(&q, l1_size * 8);
    uint64_t crypt_clusters = clusters_of(&q, o->crypt_len);
    /* Refcount blocks for header, table, blocks and L1 table. */
    uint64_t per_block = refcounts_per_block(&q), blocks = 1, table = 1, total;
    for (;;) {
        total = 1 + table + blocks + l1_clusters + crypt_clusters;
        uint64_t need = (total + per_block - 1) / per_block;
        uint64_t need_table = clusters_of(&q, need * 8);
        if (need <= blocks && need_table <= table)
            break;
        blocks = need > blocks ? need : blocks;
        table = need_table > table ? need_table : table;
    }
    AUTO(free) uint8_t *area = calloc(table + blocks, o->cluster_size);
    if (!area)
        return err_set(err, ENOMEM, "out of memory");
    uint8_t *block = area + table * o->cluster_size;
    for (uint64_t i = 0; i < blocks; i++)
        put64(area + i * 8, (1 + table + i) << q.cluster_bits);
    for (uint64_t c = 0; c < total; c++)
        refcount_write(&q, block + c / per_block * o->cluster_size, c % per_block, 1);

    q.image.backing_name = (char *)create->backing;
    q.image.backing_format = (char *)create->backing_format;
    q.data_file_name = o->data_file[0] ? (char *)o->data_file : NULL;
    q.crypt_len = o->crypt_len;
    q.crypt_offset = (1 + table + blocks + l1_clusters) << q.cluster_bits;
    q.header = (struct qcow2_header){
        .magic = QCOW2_MAGIC,
        .version = q.version,
        .cluster_bits = q.cluster_bits,
        .size = create->size,
        .crypt_method = o->encrypt ? CRYPT_LUKS : CRYPT_NONE,
        .l1_size = (uint32_t)l1_size,
        .l1_table_offset = (1 + table + blocks) << q.cluster_bits,
        .refcount_table_offset = o->cluster_size,
        .refcount_table_clusters = (uint32_t)table,
        .incompatible_features = (o->extended ? INCOMPAT_EXTENDED_L2 : 0) |
                                 (o->compression ? INCOMPAT_COMPRESSION : 0) |
                                 (o->data_file[0] ? INCOMPAT_DATA_FILE : 0),
        .compatible_features = o->lazy ? COMPAT_LAZY : 0,
        .autoclear_features = o->data_raw ? AUTOCLEAR_DATA_FILE_RAW : 0,
        .refcount_order = q.refcount_order,
        .compression_type = (uint8_t)o->compression,
    };
    uint8_t zero[512] = { 0 };
    int r = store_write(store, area, (table + blocks) * o->cluster_size, o->cluster_size);
    if (r == 0)
        r = store_zero(store, q.header.l1_table_offset, l1_clusters << q.cluster_bits, false);
    if (r == 0) /* the file reaches to the end of the table */
        r = store_write(store, zero, sizeof zero, (total << q.cluster_bits) - sizeof zero);
    if (r < 0)
        return err_errno(err, -r, "cannot write");
    r = o->encrypt ? luks_create(create, "encrypt.", store, q.crypt_offset, err) : 0;
    if (r < 0)
        return r;
    r = qcow2_write_header(&q);
    return r < 0 ? err_errno(err, -r, "cannot write") : 0;
}

static int create_data_file(const struct create_options *o, const struct image_create *create,
                            struct err *err)
{
    AUTO(store_close) struct store *store = NULL;
    int r = image_create_part(create, o->data_file, &store, err);
    if (r < 0)
        return err_prefix(err, "data file");
    r = store_truncate(store, create->size);
    if (r == 0)
        r = store_flush(store);
    return r < 0 ? err_errno(err, -r, "data file %s: cannot set the size", o->data_file) : 0;
}

struct borrowed_store { /* lets an image use a store that stays its owner's */
    struct store store;
    struct store *real;
};
static struct store *real_of(struct store *s) { return ((struct borrowed_store *)s)->real; }
static int borrowed_read(struct store *s, void *data, size_t len, uint64_t offset)
{
    return store_read(real_of(s), data, len, offset);
}
static int borrowed_write(struct store *s, const void *data, size_t len, uint64_t offset)
{
    return store_write(real_of(s), data, len, offset);
}
static int borrowed_flush(struct store *s) { return store_flush(real_of(s)); }
static int borrowed_zero(struct store *s, uint64_t offset, uint64_t len, bool keep)
{
    return store_zero(real_of(s), offset, len, keep);
}
static int borrowed_truncate(struct store *s, uint64_t size)
{
    return store_truncate(real_of(s), size);
}
static int borrowed_size(struct store *s, uint64_t *out) { return store_size(real_of(s), out); }
static void borrowed_close(struct store *s) { free(s); }
static const struct store_ops borrowed_ops = {
    .read = borrowed_read,
    .write = borrowed_write,
    .flush = borrowed_flush,
    .zero = borrowed_zero,
    .truncate = borrowed_truncate,
    .size = borrowed_size,
    .close = borrowed_close,
};

static int create_preallocate(const struct create_options *o, const struct image_create *create,
                              struct store *store, struct err *err)
{
    struct borrowed_store *borrowed = calloc(1, sizeof *borrowed);
    if (!borrowed)
        return err_set(err, ENOMEM, "out of memory");
    *borrowed = (struct borrowed_store){ { &borrowed_ops, -1 }, store };
    struct image_options options = {
        .path = create->path,
        .format = "qcow2",
        .no_backing = true,
        .no_lock = true,
        .secret = create->secret,
    };
    struct image *image;
    int r = image_open_store(&options, &borrowed->store, &image, err);
    if (r < 0)
        return r;
    r = qcow2_preallocate(qcow2_of(image), 0, create->size, o->prealloc);
    int closed = image_close(image);
    if (r == 0)
        r = closed;
    return r < 0 ? err_errno(err, -r, "cannot preallocate") : 0;
}

int qcow2_create(const struct image_create *create, struct store *store, struct err *err)
{
    struct create_options o;
    int r = create_parse(create->options, &o, err);
    if (r == 0)
        r = create_check(&o, create, err);
    if (r == 0 && o.encrypt)
        r = luks_create_len(create, "encrypt.", &o.crypt_len, err);
    if (r == 0 && o.data_file[0])
        r = create_data_file(&o, create, err);
    if (r == 0)
        r = create_write(&o, create, store, err);
    if (r == 0 && o.prealloc)
        r = create_preallocate(&o, create, store, err);
    return r;
}

const struct image_option qcow2_options[] = {
    { "cluster_size", "512 to 2M; larger means less metadata, but more copying (64K)" },
    { "compat", "0.10 or 1.1: the version of the format (1.1)" },
    { "compression_type", "zlib or zstd (zlib)" },
    { "data_file", "keep the data in this file, metadata here" },
    { "data_file_raw", "on or off: the data file is a raw image by itself (off)" },
    { "encrypt.format", "luks: encrypt the data" },
    { "encrypt.key-secret", "the id of an --object secret that has the passphrase" },
    { "encrypt.cipher-alg", "aes-256 or aes-128 (aes-256)" },
    { "encrypt.cipher-mode", "xts" },
    { "encrypt.ivgen-alg", "plain64" },
    { "encrypt.hash-alg", "sha1, sha224, sha256, sha384 or sha512 (sha256)" },
    { "encrypt.iter-time", "milliseconds that trying a passphrase shall take (1000)" },
    { "extended_l2", "on or off: 32 sub-clusters in a cluster (off)" },
    { "lazy_refcounts", "on or off: the flag for QEMU; we always keep refcounts exact (off)" },
    { "preallocation", "off, metadata, falloc or full (off)" },
    { "refcount_bits", "1 to 64: how wide a refcount is (16)" },
    { NULL },
};
