/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a monitor says of itself: VESA E-EDID Standard, release A2, section 3. */
#include "devices/edid.h"

#include <string.h>

enum { DPI = 96, DESCRIPTOR = 18 };

/* Detailed timing, section 3.10.2, with blanking as CVT's reduced blanking has it. */
static void detailed_timing(uint8_t *d, unsigned width, unsigned height)
{
    enum { H_BLANK = 160, H_FRONT = 48, H_SYNC = 32, V_BLANK = 35, V_FRONT = 3, V_SYNC = 6 };
    unsigned clock = (width + H_BLANK) * (height + V_BLANK) * 60 / 10000; /* 10 kHz */
    unsigned mm_x = width * 254 / (10 * DPI), mm_y = height * 254 / (10 * DPI);

    clock = clock < 0xffff ? clock : 0xffff;
    d[0] = (uint8_t)clock;
    d[1] = (uint8_t)(clock >> 8);
    d[2] = (uint8_t)width;
    d[3] = H_BLANK;
    d[4] = (uint8_t)(width >> 8 << 4 | H_BLANK >> 8);
    d[5] = (uint8_t)height;
    d[6] = V_BLANK;
    d[7] = (uint8_t)(height >> 8 << 4 | V_BLANK >> 8);
    d[8] = H_FRONT;
    d[9] = H_SYNC;
    d[10] = V_FRONT << 4 | V_SYNC;
    d[11] = 0;
    d[12] = (uint8_t)mm_x;
    d[13] = (uint8_t)mm_y;
    d[14] = (uint8_t)(mm_x >> 8 << 4 | mm_y >> 8);
    d[17] = 0x18; /* digital, separate sync */
}

static void text_descriptor(uint8_t *d, uint8_t tag, const char *text)
{
    size_t len = strlen(text);
    memset(d, 0, 5);
    d[3] = tag;
    memset(d + 5, ' ', 13);
    memcpy(d + 5, text, len);
    if (len < 13)
        d[5 + len] = '\n';
}

void edid_make(unsigned width, unsigned height, uint8_t out[128])
{
    static const uint8_t header[8] = { 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0 };
    static const uint8_t sizes[][2] = {
        /* standard timings: width / 8 - 31, aspect and rate */
        { 0xd1, 0xc0 }, /* 1920 x 1080 */
        { 0xa9, 0xc0 }, /* 1600 x 900 */
        { 0x81, 0x80 }, /* 1280 x 1024 */
        { 0x81, 0x00 }, /* 1280 x 800 */
        { 0x61, 0x40 }  /* 1024 x 768 */
    };
    memset(out, 0, 128);
    memcpy(out, header, sizeof header);
    out[8] = 0x08; /* "BED", five bits a letter */
    out[9] = 0xa4;
    out[10] = 0x01; /* product 1 */
    out[16] = 1;    /* week and year of "manufacture": 2026 */
    out[17] = 36;
    out[18] = 1; /* EDID 1.4 */
    out[19] = 4;
    out[20] = 0xa5; /* digital, 8 bits a colour, DisplayPort */
    out[21] = (uint8_t)(width * 254 / (100 * DPI));
    out[22] = (uint8_t)(height * 254 / (100 * DPI));
    out[23] = 120;  /* gamma 2.2 */
    out[24] = 0x06; /* sRGB, the first detailed timing is preferred */
    static const uint8_t srgb[10] = { 0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54 };
    memcpy(out + 25, srgb, sizeof srgb);
    out[35] = 0x21; /* 640 x 480 and 800 x 600 at 60 Hz */
    out[36] = 0x08; /* 1024 x 768 at 60 Hz */
    memset(out + 38, 1, 16);
    memcpy(out + 38, sizes, sizeof sizes);
    detailed_timing(out + 54, width, height);
    text_descriptor(out + 54 + DESCRIPTOR, 0xfc, "Bedplate");
    text_descriptor(out + 54 + 2 * DESCRIPTOR, 0xff, "1");
    out[54 + 3 * DESCRIPTOR + 3] = 0x10; /* a dummy */
    uint8_t sum = 0;
    for (unsigned i = 0; i < 127; i++)
        sum = (uint8_t)(sum + out[i]);
    out[127] = (uint8_t)-sum;
}
