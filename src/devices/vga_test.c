/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The display adapter as programs use it: text, planes, packed pixels, the Bochs modes. */
#include "devices/edid.h"
#include "devices/pci_host.h"
#include "devices/screen.h"
#include "devices/test_machine.h"
#include "devices/vga.h"

#include <stdio.h>

static struct screen *screen;
static struct pci_device *vga;
static unsigned changes, changed_pixels;

static void on_resized(void *arg, unsigned width, unsigned height) {}

static void on_changed(void *arg, unsigned x, unsigned y, unsigned width, unsigned height)
{
    assert_true(x + width <= screen_width(screen) && y + height <= screen_height(screen));
    changes++;
    changed_pixels += width * height;
}

static int setup(void **state)
{
    struct err err = { 0 };
    struct machine *m = test_machine_create(4 << 20);
    struct pci_bus *bus;
    const struct pci_windows windows = { .mem32 = 0xc0000000, .mem32_size = 0x10000000 };
    const struct vga_options options = { .id = "vga0", .screen = NULL, .memory = 4 << 20 };
    struct vga_options with_screen = options;

    if (screen_create(test_machine.loop, &screen, &err) < 0 ||
        pci_host_create(m, NULL, &bus, &err) < 0)
        return -1;
    with_screen.screen = screen;
    if (vga_create(m, &with_screen, &vga, &err) < 0 || pci_bus_add(bus, vga, -1, &err) < 0)
        return -1;
    machine_add_device(m, &vga->dev);
    screen_set_sink(screen, &(struct screen_sink){ on_resized, on_changed, NULL });
    return pci_bus_assign(bus, &windows, &err);
}

static int teardown(void **state)
{
    screen_destroy(screen); /* its timer is the loop's */
    test_machine_destroy();
    return 0;
}

/* ---- what a BIOS does to set a mode ---- */

struct mode {
    uint8_t misc, sequencer[4], crtc[25], graphics[9], attribute_mode;
};

/* IBM's register values for modes 3 (80 x 25 text), 0x12 (640 x 480, 16 colours) and 0x13
 * (320 x 200, 256 colours) */
static const struct mode mode_3 = {
    .misc = 0x67,
    .sequencer = { 0x00, 0x03, 0x00, 0x02 },
    .crtc = { 0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00,
              0x00, 0x00, 0x00, 0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff },
    .graphics = { 0, 0, 0, 0, 0, 0x10, 0x0e, 0x0f, 0xff },
    .attribute_mode = 0x0c,
};
static const struct mode mode_12 = {
    .misc = 0xe3,
    .sequencer = { 0x01, 0x0f, 0x00, 0x06 },
    .crtc = { 0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0x00, 0x40, 0x00, 0x00, 0x00,
              0x00, 0x00, 0x00, 0xea, 0x8c, 0xdf, 0x28, 0x00, 0xe7, 0x04, 0xe3, 0xff },
    .graphics = { 0, 0, 0, 0, 0, 0x00, 0x05, 0x0f, 0xff },
    .attribute_mode = 0x01,
};
static const struct mode mode_13 = {
    .misc = 0x63,
    .sequencer = { 0x01, 0x0f, 0x00, 0x0e },
    .crtc = { 0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0x00, 0x41, 0x00, 0x00, 0x00,
              0x00, 0x00, 0x00, 0x9c, 0x8e, 0x8f, 0x28, 0x40, 0x96, 0xb9, 0xa3, 0xff },
    .graphics = { 0, 0, 0, 0, 0, 0x40, 0x05, 0x0f, 0xff },
    .attribute_mode = 0x41,
};

static void set_mode(const struct mode *mode)
{
    outb(0x3c2, mode->misc);
    for (unsigned i = 0; i < 4; i++)
        out(0x3c4, 2, (i + 1) | mode->sequencer[i] << 8);
    out(0x3d4, 2, 0x11 | 0x0e << 8); /* unlocks the first ones */
    for (unsigned i = 0; i < 25; i++)
        out(0x3d4, 2, i | mode->crtc[i] << 8);
    for (unsigned i = 0; i < 9; i++)
        out(0x3ce, 2, i | mode->graphics[i] << 8);
    inb(0x3da);
    for (unsigned i = 0; i < 16; i++) {
        outb(0x3c0, i);
        outb(0x3c0, i);
    }
    static const uint8_t rest[] = { 0, 0, 0x0f, 0, 0 };
    for (unsigned i = 0; i < 5; i++) {
        outb(0x3c0, 0x10 + i);
        outb(0x3c0, i ? rest[i] : mode->attribute_mode);
    }
    outb(0x3c0, 0x20); /* the picture on */
    outb(0x3c8, 0);
    for (unsigned i = 0; i < 256; i++) { /* colour i: red i / 4, green 0x3f - i / 4, blue 1 */
        outb(0x3c9, i / 4);
        outb(0x3c9, 0x3f - i / 4);
        outb(0x3c9, 1);
    }
}

static uint32_t expected_colour(unsigned i)
{
    unsigned r = i / 4, g = 0x3f - i / 4, b = 1;
    return (r << 2 | r >> 4) << 16 | (g << 2 | g >> 4) << 8 | (b << 2 | b >> 4);
}

static uint32_t pixel(unsigned x, unsigned y)
{
    return screen_pixels(screen)[y * screen_width(screen) + x];
}

/* ---- */

static void text(void **state)
{
    set_mode(&mode_3);
    outb(0x3d4, 0x0a);
    outb(0x3d5, 0x20); /* no cursor */
    /* A glyph for 'A' into plane 2, as a BIOS loads fonts. */
    out(0x3c4, 2, 0x0402);
    out(0x3c4, 2, 0x0704);
    out(0x3ce, 2, 0x0005);
    out(0x3ce, 2, 0x0406);
    for (unsigned y = 0; y < 16; y++)
        mmio_write(0xa0000 + 'A' * 32 + y, 1, 0x80 | y);
    out(0x3c4, 2, 0x0302);
    out(0x3c4, 2, 0x0204);
    out(0x3ce, 2, 0x1005);
    out(0x3ce, 2, 0x0e06);
    for (unsigned i = 0; i < 80 * 25; i++)
        mmio_write(0xb8000 + 2 * i, 2, 0x0720);
    mmio_write(0xb8000 + 2 * (80 * 3 + 5), 2, 0x1e41); /* row 3, column 5: 'A', 14 on 1 */
    mmio_write(0xb8000 + 2 * (80 * 3 + 6), 2, 0x07c4); /* a line */
    screen_refresh(screen);
    assert_int_equal(screen_width(screen), 720);
    assert_int_equal(screen_height(screen), 400);
    for (unsigned y = 0; y < 16; y++)
        for (unsigned x = 0; x < 9; x++) {
            bool ink = x < 8 && ((0x80 | y) & 0x80 >> x);
            assert_int_equal(pixel(5 * 9 + x, 3 * 16 + y), expected_colour(ink ? 14 : 1));
        }
    AUTO(buf_fini) struct buf shown = { 0 };
    assert_true(screen_text(screen, &shown));
    buf_add(&shown, "", 1);
    assert_string_equal(strtok((char *)shown.data, "\n"), "     A─");
    assert_int_equal(mmio_read(0xb8000 + 2 * (80 * 3 + 5), 2), 0x1e41);

    /* Only what changed is reported. */
    changes = changed_pixels = 0;
    screen_refresh(screen);
    assert_int_equal(changes, 0);
    mmio_write(0xb8000, 2, 0x0741);
    screen_refresh(screen);
    assert_true(changes > 0 && changed_pixels <= 9 * 16);
}

static void planes(void **state)
{
    set_mode(&mode_12);
    for (unsigned i = 0; i < 640 * 480 / 8; i++)
        mmio_write(0xa0000 + i, 1, 0);
    /* Write mode 2 puts a colour into the pixels of the bit mask. */
    out(0x3ce, 2, 0x0205);
    out(0x3ce, 2, 0x2008); /* bit 5 */
    mmio_read(0xa0000 + 80 * 100 + 7, 1);
    mmio_write(0xa0000 + 80 * 100 + 7, 1, 0xb);
    /* Write mode 0 with set/reset and XOR. */
    out(0x3ce, 2, 0x0005);
    out(0x3ce, 2, 0x0f00);
    out(0x3ce, 2, 0x0f01);
    out(0x3ce, 2, 0x1803);
    mmio_read(0xa0000 + 80 * 100 + 7, 1);
    mmio_write(0xa0000 + 80 * 100 + 7, 1, 0);
    screen_refresh(screen);
    assert_int_equal(screen_width(screen), 640);
    assert_int_equal(screen_height(screen), 480);
    assert_int_equal(pixel(7 * 8 + 2, 100), expected_colour(0xb ^ 0xf));
    assert_int_equal(pixel(7 * 8 + 1, 100), expected_colour(0));
    /* Write mode 1 copies the latches, read mode 1 compares colours. */
    out(0x3ce, 2, 0x0003);
    out(0x3ce, 2, 0x0105);
    mmio_read(0xa0000 + 80 * 100 + 7, 1);
    mmio_write(0xa0000 + 80 * 101, 1, 0x55);
    out(0x3ce, 2, 0x0805);
    out(0x3ce, 2, 0x0402);
    out(0x3ce, 2, 0x0f07);
    assert_int_equal(mmio_read(0xa0000 + 80 * 101, 1), 0x20);
    /* Write mode 3: the byte is the mask. */
    out(0x3ce, 2, 0x0305);
    out(0x3ce, 2, 0xff08);
    out(0x3ce, 2, 0x0900);
    mmio_read(0xa0000 + 80 * 102, 1);
    mmio_write(0xa0000 + 80 * 102, 1, 0x81);
    screen_refresh(screen);
    assert_int_equal(pixel(0, 102), expected_colour(9));
    assert_int_equal(pixel(1, 102), expected_colour(0));
    assert_int_equal(pixel(7, 102), expected_colour(9));
}

static void packed(void **state)
{
    set_mode(&mode_13);
    for (unsigned i = 0; i < 320 * 200; i += 4)
        mmio_write(0xa0000 + i, 4, 0x01010101 * (i / 320));
    screen_refresh(screen);
    assert_int_equal(screen_width(screen), 320);
    assert_int_equal(screen_height(screen), 200);
    for (unsigned y = 0; y < 200; y += 7)
        assert_int_equal(pixel(y, y), expected_colour(y));
    assert_int_equal(mmio_read(0xa0000 + 320 * 50 + 3, 1), 50);
}

static void dispi(unsigned index, unsigned value)
{
    out(0x1ce, 2, index);
    out(0x1cf, 2, value);
}

static unsigned dispi_get(unsigned index)
{
    out(0x1ce, 2, index);
    return (unsigned)in(0x1cf, 2);
}

static void bochs_modes(void **state)
{
    uint64_t lfb = vga->bars[0].address, mmio = vga->bars[2].address;
    assert_int_equal(dispi_get(0), 0xb0c5);
    assert_int_equal(dispi_get(10), (4 << 20) >> 16);
    dispi(4, 0);
    dispi(1, 800);
    dispi(2, 600);
    dispi(3, 32);
    dispi(4, 0x41);
    mem_write(test_machine.m, lfb + (800 * 599 + 799) * 4, &(uint32_t){ 0x123456 }, 4);
    screen_refresh(screen);
    assert_int_equal(screen_width(screen), 800);
    assert_int_equal(screen_height(screen), 600);
    assert_int_equal(pixel(799, 599), 0x123456);
    assert_int_equal(pixel(0, 0), 0);

    /* A virtual screen that moves, through the registers in the BAR. */
    mmio_write(mmio + 0x500 + 2 * 6, 2, 1000);
    mmio_write(mmio + 0x500 + 2 * 8, 2, 100);
    mmio_write(mmio + 0x500 + 2 * 9, 2, 50);
    mem_write(test_machine.m, lfb + (1000 * 51 + 102) * 4, &(uint32_t){ 0x654321 }, 4);
    screen_refresh(screen);
    assert_int_equal(pixel(2, 1), 0x654321);
    assert_int_equal(mmio_read(mmio + 0x500 + 2 * 7, 2), (4 << 20) / 4000);

    /* 16 bits a pixel through the bank at 0xa0000. */
    dispi(4, 0);
    dispi(1, 640);
    dispi(2, 480);
    dispi(3, 16);
    dispi(4, 0x41);
    dispi(5, 1);
    mmio_write(0xa0000 + 2, 2, 0xf800);
    screen_refresh(screen);
    unsigned at = (65536 + 2) / 2;
    assert_int_equal(pixel(at % 640, at / 640), 0xf80000);

    /* More than the memory holds is cut. */
    dispi(4, 0);
    dispi(1, 4000);
    dispi(2, 2000);
    dispi(3, 32);
    dispi(4, 0x41);
    assert_true(dispi_get(1) * dispi_get(2) * 4u <= 4u << 20);
    screen_refresh(screen);
    test_round_trip(&vga->dev);
    screen_refresh(screen);
}

static void edid(void **state)
{
    uint8_t id[128], sum = 0;
    edid_make(1920, 1200, id);
    for (unsigned i = 0; i < 128; i++)
        sum = (uint8_t)(sum + id[i]);
    assert_int_equal(sum, 0);
    assert_int_equal(id[54 + 2] | (id[54 + 4] >> 4) << 8, 1920);
    assert_int_equal(id[54 + 5] | (id[54 + 7] >> 4) << 8, 1200);
    assert_int_equal(mmio_read(vga->bars[2].address, 8), 0x00ffffffffffff00);
}

static void png(void **state)
{
    struct err err = { 0 };
    AUTO(buf_fini) struct buf png = { 0 };
    screen_refresh(screen);
    assert_int_equal(screen_png(screen, &png, &err), 0);
    assert_memory_equal(png.data, "\x89PNG\r\n\x1a\n", 8);
    assert_int_equal(png.data[18] << 8 | png.data[19], screen_width(screen));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text),        cmocka_unit_test(planes), cmocka_unit_test(packed),
        cmocka_unit_test(bochs_modes), cmocka_unit_test(edid),   cmocka_unit_test(png),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
