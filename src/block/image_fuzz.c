/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hostile images: opens the input as each format (the first byte says which, and how), then reads,
 * checks, writes and takes a snapshot. Whatever is in it, that ends soon and within little memory.
 */
#include "base/checked.h"
#include "base/json.h"
#include "base/log.h"
#include "block/crypt.h"
#include "block/image.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { READ_SIZE = 128 << 10, FILE_MAX = 16 << 20 };

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
    image_flush(image);
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
    static const struct crypt_budget budget = { 8000, 64, 64 };
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
    if (store_open_memory(data + 1, len - 1, FILE_MAX, &store, &err) < 0)
        return 0;
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
