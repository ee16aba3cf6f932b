/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A whole file encrypted with LUKS: a header, and the disk as cipher text. The image is the raw
 * disk behind a store of plain text (crypt.h); a sector is written whole, so a cut leaves it old or
 * new.
 */
#include "block/luks.h"

#include "base/checked.h"

#include <string.h>

struct luks_image {
    struct image image;
    struct luks_header header;
};

static struct luks_image *luks_of(struct image *image) { return (struct luks_image *)image; }

static int luks_image_open(struct image *image, const struct image_options *options,
                           struct err *err)
{
    struct luks_image *luks = luks_of(image);
    const struct luks_header *h = &luks->header;
    uint64_t size;
    image->noisy = true;
    int r = store_size(image->store, &size);
    if (r < 0)
        return err_errno(err, -r, "cannot ask for the size");
    r = luks_read(image->store, 0, size, &luks->header, err);
    if (r < 0)
        return r;
    if (h->payload > size || (h->payload_len && h->payload_len > size - h->payload))
        return err_set(err, EINVAL,
                       "ends before its LUKS payload; it was cut off, so copy it again");
    image->size = round_down(h->payload_len ? h->payload_len : size - h->payload, h->sector_size);
    return luks_open_store(image->store, 0, h, h->payload, h->first_sector, options, &image->disk,
                           err);
}

static int luks_image_close(struct image *image)
{
    store_close(image->disk);
    return 0;
}

static int luks_image_zero(struct image *image, uint64_t offset, uint64_t len, unsigned flags)
{
    return store_zero(image->disk, offset, len, true);
}

static int luks_image_status(struct image *image, uint64_t offset, uint64_t len,
                             struct image_extent *out)
{
    *out = (struct image_extent){ .len = len, .flags = IMAGE_ALLOCATED };
    return 0;
}

static int luks_image_resize(struct image *image, uint64_t size, enum image_preallocation prealloc,
                             struct err *err)
{
    struct luks_image *luks = luks_of(image);
    if (luks->header.payload_len || size % luks->header.sector_size)
        return err_set(err, EINVAL, "its LUKS header fixes its size, or sectors of %u bytes",
                       luks->header.sector_size);
    /* What was never written would decrypt to noise; a disk grows with zeros. */
    return image_disk_resize(image, size, true, err);
}

static int luks_image_create(const struct image_create *create, struct store *store,
                             struct err *err)
{
    uint64_t len;
    int r = luks_create_len(create, "", &len, err);
    if (r == 0)
        r = luks_create(create, "", store, 0, err);
    if (r < 0)
        return r;
    r = store_truncate(store, len + create->size);
    return r < 0 ? err_errno(err, -r, "cannot set the size") : 0;
}

static int luks_image_info(struct image *image, struct json_t *into)
{
    return luks_info(&luks_of(image)->header, into);
}

static const struct image_option luks_options[] = {
    { "version", "1 or 2: of LUKS (1)" },
    { "key-secret", "the id of an --object secret that has the passphrase" },
    { "cipher-alg", "aes-256 or aes-128 (aes-256)" },
    { "cipher-mode", "xts" },
    { "ivgen-alg", "plain64" },
    { "hash-alg", "sha1, sha224, sha256, sha384 or sha512 (sha256)" },
    { "iter-time", "milliseconds that trying a passphrase shall take with pbkdf2 (1000)" },
    { "kdf", "argon2id or pbkdf2, for version 2 (argon2id)" },
    { "sector-size", "512 or 4096, for version 2 (512)" },
    { NULL },
};

const struct image_format image_luks = {
    .name = "luks",
    .about = "a raw disk encrypted with LUKS, version 1 or 2",
    .options = luks_options,
    .struct_size = sizeof(struct luks_image),
    .create = luks_image_create,
    .open = luks_image_open,
    .close = luks_image_close,
    .read = image_disk_read,
    .write = image_disk_write,
    .zero = luks_image_zero,
    .flush = image_disk_flush,
    .status = luks_image_status,
    .resize = luks_image_resize,
    .info = luks_image_info,
};
