/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/tap.h"

#include "base/text.h"

#include <string.h>

void tap_init(struct tap *tap, const struct image_format *kind, struct image *below)
{
    tap->below = below;
    tap->image = (struct image){
        .format = kind,
        .path = below->path,
        .size = below->size,
        .readonly = below->readonly,
        .cluster_size = below->cluster_size,
        .store = below->store,
    };
}

int tap_read(struct image *image, void *data, size_t len, uint64_t offset)
{
    return image_read(tap_of(image)->below, data, len, offset);
}

int tap_flush(struct image *image) { return image_flush(tap_of(image)->below); }

int tap_status(struct image *image, uint64_t offset, uint64_t len, struct image_extent *out)
{
    unsigned depth;
    int r = image_map(tap_of(image)->below, offset, len, out, &depth);
    out->flags = IMAGE_ALLOCATED | (out->flags & IMAGE_ZERO);
    return r;
}

/* `want` NULL: zeros. `there` has room for len. */
static int tap_compare(struct image *image, uint64_t offset, uint64_t len, const uint8_t *want,
                       uint8_t *there, bool *same)
{
    struct image_extent extent;
    unsigned depth;
    int r = image_map(image, offset, len, &extent, &depth);
    *same = r == 0 && !want && extent.flags & IMAGE_ZERO && extent.len == len;
    if (r < 0 || *same)
        return r;
    r = image_read(image, there, len, offset);
    *same = r == 0 && (want ? !memcmp(want, there, len) : memory_is_zero(there, len));
    return r;
}

int tap_copy(struct image *from, struct image *to, uint64_t offset, uint64_t len, uint8_t *data,
             bool compare)
{
    uint64_t most = compare ? COPY_PIECE / 2 : COPY_PIECE;
    for (uint64_t end = offset + len; offset < end;) {
        struct image_extent extent;
        unsigned depth;
        int r = image_map(from, offset, end - offset < most ? end - offset : most, &extent, &depth);
        if (r < 0)
            return r;
        bool zero = extent.flags & IMAGE_ZERO, same = false;
        if (!zero) {
            r = image_read(from, data, extent.len, offset);
            zero = r == 0 && memory_is_zero(data, extent.len);
        }
        if (r == 0 && compare)
            r = tap_compare(to, offset, extent.len, zero ? NULL : data, data + most, &same);
        if (r == 0 && !same)
            r = zero ? image_zero(to, offset, extent.len, IMAGE_UNMAP)
                     : image_write(to, data, extent.len, offset);
        if (r < 0)
            return r;
        offset += extent.len;
    }
    return 0;
}
