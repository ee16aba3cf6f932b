/* SPDX-License-Identifier: GPL-2.0-or-later */
/* VirtualBox's VDI, read only: header, block map of 32-bit numbers, blocks. */
#include "block/flat.h"

#include "base/checked.h"

#include <string.h>

enum { /* offsets in the header; little-endian */
       VDI_SIGNATURE = 0x40,
       VDI_VERSION = 0x44,
       VDI_TYPE = 0x4c,
       VDI_MAP = 0x154,
       VDI_DATA = 0x158,
       VDI_SECTOR = 0x168,
       VDI_SIZE = 0x170,
       VDI_BLOCK = 0x178,
       VDI_EXTRA = 0x17c,
       VDI_BLOCKS = 0x180,
       VDI_HEADER = 512,
};
#define VDI_NOT_ALLOCATED 0xffffffffu
#define VDI_DISCARDED 0xfffffffeu

static uint32_t le32(const uint8_t *p)
{
    return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static int vdi_open(struct image *image, const struct image_options *options, struct err *err)
{
    struct flat *flat = flat_of(image);
    uint8_t h[VDI_HEADER];
    flat_init(flat);
    int r = store_read(image->store, h, sizeof h, 0);
    if (r < 0)
        return err_errno(err, -r, "cannot read the header");
    if (le32(h + VDI_SIGNATURE) != 0xbeda107f)
        return err_set(err, EINVAL, "is not in VDI format");
    uint32_t type = le32(h + VDI_TYPE), block = le32(h + VDI_BLOCK), blocks = le32(h + VDI_BLOCKS);
    uint64_t size = le32(h + VDI_SIZE) | (uint64_t)le32(h + VDI_SIZE + 4) << 32;
    if (le32(h + VDI_VERSION) != 0x00010001)
        return err_set(err, ENOTSUP, "is in VDI version %#x; only 1.1 is known",
                       le32(h + VDI_VERSION));
    if (type != 1 && type != 2)
        return err_set(err, ENOTSUP,
                       "is a VDI of type %u (a snapshot); only dynamic and fixed ones "
                       "can be read",
                       type);
    if (!is_power_of_two(block) || block < 4096 || block > 256 << 20 || le32(h + VDI_EXTRA))
        return err_set(err, ENOTSUP, "has blocks of %u bytes with %u more", block,
                       le32(h + VDI_EXTRA));
    if (size > (uint64_t)blocks * block)
        return err_set(err, EINVAL, "has too few blocks for its size");
    if (!image->readonly)
        return err_set(err, EROFS, "VDI images can only be read; convert it, or add readonly");
    flat->block_size = block;
    image->size = round_down(size, 512);
    image->cluster_size = block;
    image->direct_store = image->store;
    r = flat_setup(flat, blocks, err); /* bounds them */
    if (r < 0)
        return r;
    AUTO(free) uint8_t *map = malloc(blocks * 4ull + 4);
    if (!map)
        return err_set(err, ENOMEM, "out of memory");
    r = store_read(image->store, map, blocks * 4ull, le32(h + VDI_MAP));
    if (r < 0)
        return err_errno(err, -r, "cannot read the block map");
    for (uint32_t i = 0; i < blocks; i++) {
        uint32_t entry = le32(map + i * 4ull);
        flat->host[i] = entry == VDI_NOT_ALLOCATED ? FLAT_NONE
                        : entry == VDI_DISCARDED   ? FLAT_ZERO
                                                   : le32(h + VDI_DATA) + (uint64_t)entry * block;
        if (entry < VDI_DISCARDED && flat->host[i] < VDI_HEADER)
            return err_set(err, EINVAL, "a block lies in the header");
    }
    return flat_check_whole(flat, err);
}

const struct image_format image_vdi = {
    .name = "vdi",
    .about = "VirtualBox's; can be read",
    .struct_size = sizeof(struct flat),
    .open = vdi_open,
    .close = flat_close,
    .read = flat_read,
    .status = flat_status,
    .check = flat_check,
    .direct_map = flat_direct_map,
    .direct_done = flat_direct_done,
    .is_clean = flat_is_clean,
};
