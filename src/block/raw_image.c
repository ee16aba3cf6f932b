/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Raw images: the file is the disk. What other formats whose disk is a store share is here, too. */
#include "block/image.h"

#include <string.h>

/* ---- over image->disk ---- */

int image_disk_read(struct image *image, void *data, size_t len, uint64_t offset)
{
    return store_read(image->disk, data, len, offset);
}

int image_disk_write(struct image *image, const void *data, size_t len, uint64_t offset)
{
    return store_write(image->disk, data, len, offset);
}

static int raw_image_close(struct image *image) { return 0; }

int image_disk_flush(struct image *image) { return store_flush(image->store); }

int image_disk_resize(struct image *image, uint64_t size, bool zero, struct err *err)
{
    bool grows = size > image->size;
    int r = store_truncate(image->disk, size);
    /* Zeros that reached the disk before the length did would leave a length between the two. */
    if (r == 0 && zero && grows)
        r = store_flush(image->store);
    if (r == 0 && zero && grows)
        r = store_zero(image->disk, image->size, size - image->size, true);
    if (r == 0)
        r = store_flush(image->store);
    if (r < 0 && grows)
        store_truncate(image->disk, image->size);
    if (r < 0)
        return err_errno(err, -r, "cannot set the size");
    image->size = size;
    return 0;
}

/* ---- raw ---- */

static int raw_image_open(struct image *image, const struct image_options *options, struct err *err)
{
    int r = store_size(image->store, &image->size);
    if (r < 0)
        return err_errno(err, -r, "cannot ask for the size");
    image->disk = image->direct_store = image->store;
    return 0;
}

static int raw_image_zero(struct image *image, uint64_t offset, uint64_t len, unsigned flags)
{
    return store_zero(image->store, offset, len, !(flags & IMAGE_UNMAP));
}

static int raw_image_discard(struct image *image, uint64_t offset, uint64_t len)
{
    store_punch(image->store, offset, len);
    return 0;
}

static int raw_image_status(struct image *image, uint64_t offset, uint64_t len,
                            struct image_extent *out)
{
    bool zero;
    out->len = len;
    int r = store_status(image->store, offset, &out->len, &zero);
    if (r < 0)
        return r;
    out->flags = IMAGE_ALLOCATED | IMAGE_HOST | (zero ? IMAGE_ZERO : 0);
    out->host = offset;
    return 0;
}

static int raw_image_resize(struct image *image, uint64_t size, enum image_preallocation prealloc,
                            struct err *err)
{
    return image_disk_resize(image, size, prealloc >= PREALLOC_FALLOC, err);
}

static int raw_image_create(const struct image_create *create, struct store *store, struct err *err)
{
    char prealloc[16] = "off";
    image_option_get(create->options, "preallocation", prealloc, sizeof prealloc);
    if (strcmp(prealloc, "off") && strcmp(prealloc, "falloc") && strcmp(prealloc, "full"))
        return err_set(err, EINVAL, "preallocation=%s: there is off, falloc, full", prealloc);
    int r = store_truncate(store, create->size);
    if (r == 0 && strcmp(prealloc, "off"))
        r = store_zero(store, 0, create->size, true);
    return r < 0 ? err_errno(err, -r, "cannot set the size") : 0;
}

static const struct image_option raw_options[] = {
    { "preallocation", "off, falloc or full: take the space now" },
    { NULL },
};

const struct image_format image_raw = {
    .name = "raw",
    .about = "the disk byte for byte",
    .plain = true,
    .struct_size = sizeof(struct image),
    .options = raw_options,
    .create = raw_image_create,
    .open = raw_image_open,
    .close = raw_image_close,
    .read = image_disk_read,
    .write = image_disk_write,
    .zero = raw_image_zero,
    .discard = raw_image_discard,
    .flush = image_disk_flush,
    .status = raw_image_status,
    .resize = raw_image_resize,
};
