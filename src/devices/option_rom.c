/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A ROM is a chain of images, each with a header, a PCI data structure that names the card, and for
 * a PC's BIOS a checksum, which is put right by a byte that the specification leaves to the image
 * (offset 6, behind the jump to its entry).
 */
#include "devices/option_rom.h"

#include "base/checked.h"

#include <stdbool.h>
#include <string.h>

enum { HEADER = 0x1c, LENGTH = 2, CHECKSUM = 6, POINTER = 0x18, UNIT = 512 };
enum {
    DATA_LEN = 0x18,
    VENDOR = 4,
    DEVICE = 6,
    IMAGE_LENGTH = 0x10,
    CODE_TYPE = 0x14,
    LAST = 0x15
};
enum { CODE_PC = 0, LAST_IMAGE = 0x80 };

struct image {
    uint8_t *start, *pcir;
    size_t len;
    bool last;
};

static size_t get16(const uint8_t *p) { return p[0] | (size_t)p[1] << 8; }

static void put16(uint8_t *p, uint16_t value)
{
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
}

static bool image_find(uint8_t *data, size_t len, size_t at, struct image *out)
{
    if (!range_fits(at, HEADER, len) || data[at] != 0x55 || data[at + 1] != 0xaa)
        return false;
    size_t pcir = get16(data + at + POINTER);
    if (pcir < HEADER || !range_fits(at + pcir, DATA_LEN, len) ||
        memcmp(data + at + pcir, "PCIR", 4) != 0)
        return false;
    *out = (struct image){ .start = data + at, .pcir = data + at + pcir };
    out->len = UNIT * get16(out->pcir + IMAGE_LENGTH);
    out->last = out->pcir[LAST] & LAST_IMAGE;
    return out->len >= pcir + DATA_LEN && range_fits(at, out->len, len);
}

static void image_fit(const struct image *image, uint16_t vendor, uint16_t device)
{
    put16(image->pcir + VENDOR, vendor);
    put16(image->pcir + DEVICE, device);
    size_t summed = (size_t)UNIT * image->start[LENGTH];
    if (image->pcir[CODE_TYPE] != CODE_PC || summed > image->len)
        return;
    uint8_t sum = 0;
    for (size_t i = 0; i < summed; i++)
        sum = (uint8_t)(sum + image->start[i]);
    image->start[CHECKSUM] = (uint8_t)(image->start[CHECKSUM] - sum);
}

int option_rom_fit(uint8_t *data, size_t len, uint16_t vendor, uint16_t device, struct err *err)
{
    struct image image = { 0 };
    for (unsigned fit = 0; fit < 2; fit++) /* first a look at all of them */
        for (size_t at = 0;; at += image.len) {
            if (!image_find(data, len, at, &image))
                return err_set(err, EINVAL, "it is no expansion ROM");
            if (fit)
                image_fit(&image, vendor, device);
            if (image.last)
                break;
        }
    return 0;
}
