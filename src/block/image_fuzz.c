/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hostile images: opens the input by its magic (the first byte says how), then reads, checks,
 * writes and takes a snapshot. Whatever is in it, that ends soon and within little memory.
 */
#include "base/checked.h"
#include "base/json.h"
#include "base/log.h"
#include "block/bytes.h"
#include "block/crypt.h"
#include "block/image.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { READ_SIZE = 128 << 10, FILE_MAX = 20 << 20, PIECE_HEAD = 6 };

static int refuse(const struct block_opener *opener, const char *path, int flags, int *fd,
                  struct err *err)
{
    return err_set(err, EACCES, "the fuzzer opens no files");
}
static const struct block_opener no_files = { .open = refuse };

static void look(struct image *image, uint8_t *buf)
{
    uint64_t size = image_size(image),
             places[] = { 0, size / 2, size > READ_SIZE ? size - READ_SIZE : 0 };
    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        uint64_t left = size - places[i];
        size_t n = left < READ_SIZE ? (size_t)left : READ_SIZE;
        struct image_extent extent;
        unsigned depth;
        if (n)
            image_read(image, buf, n, places[i]);
        if (n)
            image_map(image, places[i], left, &extent, &depth);
    }
    json_t *info = json_object();
    image_info(image, info);
    json_decref(info);
}

static void change(struct image *image, uint8_t *buf)
{
    struct err err;
    uint64_t size = image_size(image);
    size_t n = size < READ_SIZE ? (size_t)size : READ_SIZE;
    memset(buf, 0x55, READ_SIZE);
    image_write(image, buf, n / 2, n / 4);
    image_zero(image, 0, n, IMAGE_UNMAP);
    image_flush(image);
    image_write(image, buf, n > 512 ? 512 : n, size - (n > 512 ? 512 : n));
    image_discard(image, 0, n);
    if (image_snapshot_count(image) < 8) {
        image_snapshot_create(image, "fuzz", &err);
        image_write(image, buf, n / 2, 0);
        image_snapshot_apply(image, "fuzz", &err);
        image_snapshot_delete(image, "fuzz", &err);
    }
    image_resize(image, size / 512 * 512 + 4096, PREALLOC_OFF, &err);
    image_resize(image, size / 8192 * 4096 + 4096, PREALLOC_OFF, &err);
    image_discard(image, 0, 4096);
    image_resize(image, size / 4096 * 4096 + (300ull << 30), PREALLOC_OFF, &err);
    image_flush(image);
}

/* Images that are mostly empty, as VHDX is: pieces of [offset 4][length 2][data], little-endian. */
static int open_sparse(const uint8_t *data, size_t len, struct store **out)
{
    struct err err;
    int r = store_open_memory(NULL, 0, FILE_MAX, out, &err);
    while (r == 0 && len > PIECE_HEAD) {
        size_t n = le16(data + 4);
        n = n < len - PIECE_HEAD ? n : len - PIECE_HEAD;
        r = store_write(*out, data + PIECE_HEAD, n, le32(data));
        data += PIECE_HEAD + n;
        len -= PIECE_HEAD + n;
        if (r < 0)
            store_close(*out);
    }
    return r;
}

/* ---- checksums, which no mutation would hit: put right before opening ---- */

static void fix_crc(struct store *store, uint64_t at, uint64_t len, const char *magic)
{
    AUTO(free) uint8_t *data = malloc(len);
    store_read(store, data, len, at);
    if (memcmp(data, magic, 4))
        return;
    set_le32(data + 4, crc32c_without(data, len, 4));
    store_write(store, data, len, at);
}

static void fix_vhdx(struct store *store)
{
    enum { KIB = 1 << 10, MIB = 1 << 20, PAGE = 4096 };
    fix_crc(store, 64 * KIB, PAGE, "head");
    fix_crc(store, 128 * KIB, PAGE, "head");
    fix_crc(store, 192 * KIB, 64 * KIB, "regi");
    fix_crc(store, 256 * KIB, 64 * KIB, "regi");
    for (uint64_t at = MIB; at < MIB + 16 * PAGE; at += PAGE) {
        uint8_t entry[64];
        store_read(store, entry, sizeof entry, at);
        uint32_t entry_len = le32(entry + 8);
        if (entry_len >= sizeof entry && entry_len <= MIB && at + entry_len <= 2 * MIB)
            fix_crc(store, at, entry_len, "loge");
    }
}

static void fix_vhd(struct store *store, uint64_t at, size_t len, size_t sum_at)
{
    uint8_t data[1024];
    uint32_t sum = 0;
    store_read(store, data, len, at);
    for (size_t i = 0; i < len; i++)
        sum += i >= sum_at && i < sum_at + 4 ? 0 : data[i];
    set_be32(data + sum_at, ~sum);
    store_write(store, data, len, at);
}

static void fix_luks2(struct store *store)
{
    enum { SIZE = 16 << 10, SUM = 448 };
    AUTO(free) uint8_t *data = malloc(SIZE);
    uint8_t sum[32];
    store_read(store, data, SIZE, 0);
    memset(data + SUM, 0, 64);
    crypt_hash("sha256", data, SIZE, sum);
    store_write(store, sum, sizeof sum, SUM);
}

static void fix_checksums(struct store *store)
{
    uint8_t magic[8];
    uint64_t size = 0;
    store_size(store, &size);
    store_read(store, magic, sizeof magic, 0);
    if (!memcmp(magic, "vhdxfile", 8))
        fix_vhdx(store);
    else if (!memcmp(magic, "LUKS\xba\xbe\0\2", 8))
        fix_luks2(store);
    else if (!memcmp(magic, "conectix", 8) && size >= 2048) {
        fix_vhd(store, 0, 512, 64);
        fix_vhd(store, size - 512, 512, 64);
        fix_vhd(store, 512, 1024, 36);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static uint8_t buf[READ_SIZE];
    log_set_level(LOG_ERROR - 1, LOG_ERROR - 1);
    if (len < 2)
        return 0;
    struct store *store;
    struct image *image;
    struct err err;
    uint8_t how = data[0];
    bool write = how & 1, repair = how & 2;
    static const struct image_secret secret = { "fuzz", 4 };
    static const struct crypt_budget budget = { .iterations = 8000,
                                                .memory_kib = 64,
                                                .argon_passes = 64 };
    struct image_options options = {
        .path = "fuzz",
        .secret = how & 4 ? NULL : &secret,
        .budget = &budget,
        .no_key = true,
        .readonly = !write,
        .for_check = repair,
        .no_backing = true,
        .opener = &no_files,
        .no_lock = true,
    };
    bool sparse = how & 8;
    if (sparse ? open_sparse(data + 1, len - 1, &store) < 0
               : store_open_memory(data + 1, len - 1, FILE_MAX, &store, &err) < 0)
        return 0;
    if (how & 16)
        fix_checksums(store);
    if (image_open_store(&options, store, &image, &err) < 0)
        return 0;
    if (image_size(image)) {
        look(image, buf);
        struct image_check check = { .repair_leaks = write && repair,
                                     .repair_all = write && repair };
        image_check(image, &check, &err);
        if (write)
            change(image, buf);
        look(image, buf);
    }
    image_close(image);
    return 0;
}
