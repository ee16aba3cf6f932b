/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The virtio display adapter, driven as a guest's driver would. */
#include "base/text.h"
#include "devices/pci.h"
#include "devices/virtio/gpu_priv.h"
#include "devices/virtio/test_rig.h"

#include <endian.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { COMMAND = 0, REPLY = 8192, MEMORY = 16384, MEMORY_SIZE = 1 << 20 };

struct adapter {
    struct guest g;
    struct gdev d;
    struct gq q[2];
    struct screen *screen;
    uint64_t memory;
};

static bool is_vga; /* the adapters of this test are VGAs, too */

static int vga_setup(void **state)
{
    is_vga = true;
    return 0;
}

static int vga_teardown(void **state)
{
    is_vga = false;
    return 0;
}

static void adapter_open(struct adapter *a)
{
    struct pci_device *pci;
    struct virtio_gpu_options options = {
        .id = "gpu0", .width = 640, .height = 400, .vga = is_vga
    };
    memset(a, 0, sizeof *a);
    guest_init(&a->g, true);
    assert_int_equal(screen_create(a->g.loop, &a->screen, NULL), 0);
    options.screen = a->screen;
    assert_int_equal(virtio_gpu_create(a->g.m, &options, &pci, NULL), 0);
    gdev_add(&a->d, &a->g, pci);
    a->memory = guest_alloc(&a->g, MEMORY + MEMORY_SIZE);
}

static void adapter_start(struct adapter *a, uint64_t features)
{
    gdev_negotiate(&a->d, features | BIT(VIRTIO_GPU_F_EDID));
    for (unsigned i = 0; i < 2; i++)
        gdev_queue(&a->d, &a->q[i], i, ring_flags(features), 64);
    gdev_driver_ok(&a->d);
}

static void adapter_close(struct adapter *a)
{
    guest_run_loop(&a->g);
    screen_destroy(a->screen); /* its timer is the loop's */
    guest_fini(&a->g);
}

/* Sends `len` bytes that begin with a header; answers the reply's type and takes the reply. */
static uint32_t command(struct adapter *a, unsigned queue, const void *cmd, uint32_t len, void *out,
                        uint32_t room)
{
    struct virtio_gpu_ctrl_hdr hdr = { 0 };
    uint32_t written;
    guest_write(&a->g, a->memory + COMMAND, cmd, len);
    struct gq_buf bufs[3] = { { a->memory + COMMAND, 24, false },
                              { a->memory + COMMAND + 24, len - 24, false },
                              { a->memory + REPLY, room, true } };
    if (len == 24)
        bufs[1] = bufs[2];
    assert_true(gq_add(&a->q[queue], bufs, (len == 24 ? 1 : 2) + (room != 0)) >= 0);
    gdev_kick(&a->q[queue]);
    gq_wait(&a->q[queue], &written);
    if (!room)
        return 0;
    guest_read(&a->g, a->memory + REPLY, out, written < room ? written : room);
    guest_read(&a->g, a->memory + REPLY, &hdr, sizeof hdr);
    return le32toh(hdr.type);
}

static uint32_t simple(struct adapter *a, const void *cmd, uint32_t len)
{
    struct virtio_gpu_ctrl_hdr reply;
    return command(a, 0, cmd, len, &reply, sizeof reply);
}

static uint32_t create(struct adapter *a, uint32_t id, uint32_t format, uint32_t w, uint32_t h)
{
    struct virtio_gpu_resource_create_2d cmd = { { htole32(VIRTIO_GPU_CMD_RESOURCE_CREATE_2D) },
                                                 htole32(id),
                                                 htole32(format),
                                                 htole32(w),
                                                 htole32(h) };
    return simple(a, &cmd, sizeof cmd);
}

/* The backing in two pieces, the first of `first` bytes. */
static uint32_t attach(struct adapter *a, uint32_t id, uint32_t first)
{
    struct {
        struct virtio_gpu_resource_attach_backing cmd;
        struct virtio_gpu_mem_entry entries[2];
    } cmd = { { { htole32(VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING) }, htole32(id), htole32(2) },
              { { htole64(a->memory + MEMORY), htole32(first) },
                { htole64(a->memory + MEMORY + first), htole32(MEMORY_SIZE - first) } } };
    return simple(a, &cmd, sizeof cmd);
}

static struct virtio_gpu_rect rect(uint32_t x, uint32_t y, uint32_t w, uint32_t h)
{
    return (struct virtio_gpu_rect){ htole32(x), htole32(y), htole32(w), htole32(h) };
}

static uint32_t transfer(struct adapter *a, uint32_t id, struct virtio_gpu_rect r, uint64_t offset)
{
    struct virtio_gpu_transfer_to_host_2d cmd = {
        { htole32(VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D) }, r, htole64(offset), htole32(id)
    };
    return simple(a, &cmd, sizeof cmd);
}

static uint32_t scanout(struct adapter *a, uint32_t id, struct virtio_gpu_rect r)
{
    struct virtio_gpu_set_scanout cmd = {
        { htole32(VIRTIO_GPU_CMD_SET_SCANOUT) }, r, 0, htole32(id)
    };
    return simple(a, &cmd, sizeof cmd);
}

static uint32_t flush(struct adapter *a, uint32_t id, struct virtio_gpu_rect r)
{
    struct virtio_gpu_resource_flush cmd = { { htole32(VIRTIO_GPU_CMD_RESOURCE_FLUSH) },
                                             r,
                                             htole32(id) };
    return simple(a, &cmd, sizeof cmd);
}

static uint32_t by_id(struct adapter *a, uint32_t type, uint32_t id)
{
    struct virtio_gpu_resource_unref cmd = { { htole32(type) }, htole32(id) };
    return simple(a, &cmd, sizeof cmd);
}

static void cursor(struct adapter *a, uint32_t type, uint32_t id, uint32_t x, uint32_t y)
{
    struct virtio_gpu_update_cursor cmd = { { htole32(type) },
                                            { 0, htole32(x), htole32(y) },
                                            htole32(id) };
    command(a, 1, &cmd, sizeof cmd, NULL, 0);
}

/* The guest's picture: each pixel tells its place. */
static void paint(struct adapter *a, uint32_t w, uint32_t h)
{
    for (uint32_t y = 0; y < h; y++)
        for (uint32_t x = 0; x < w; x++) {
            uint32_t pixel = htole32(0xff000000 | y << 12 | x);
            guest_write(&a->g, a->memory + MEMORY + 4ull * (y * w + x), &pixel, 4);
        }
}

static uint32_t shown(struct adapter *a, uint32_t x, uint32_t y)
{
    screen_refresh(a->screen);
    return screen_pixels(a->screen)[y * screen_width(a->screen) + x];
}

enum { OK = VIRTIO_GPU_RESP_OK_NODATA };
enum { BGRX = VIRTIO_GPU_FORMAT_B8G8R8X8_UNORM, BGRA = VIRTIO_GPU_FORMAT_B8G8R8A8_UNORM };

/* A picture of 320 x 200, shown from (20, 10) on. */
static void picture(struct adapter *a)
{
    paint(a, 320, 200);
    assert_int_equal(create(a, 1, BGRX, 320, 200), OK);
    assert_int_equal(attach(a, 1, 1000), OK);
    assert_int_equal(transfer(a, 1, rect(0, 0, 320, 200), 0), OK);
    assert_int_equal(scanout(a, 1, rect(20, 10, 200, 100)), OK);
}

static void test_picture(void **state)
{
    struct adapter a;
    adapter_open(&a);
    machine_start(a.g.m);
    adapter_start(&a, RING_FEATURES);
    assert_int_equal(shown(&a, 0, 0), 0); /* the monitor's size, black */
    assert_int_equal(screen_width(a.screen), 640);
    assert_int_equal(screen_height(a.screen), 400);
    picture(&a);
    assert_int_equal(shown(&a, 0, 0), 10 << 12 | 20);
    assert_int_equal(screen_width(a.screen), 200);
    assert_int_equal(screen_height(a.screen), 100);
    assert_int_equal(shown(&a, 199, 99), 109 << 12 | 219);

    /* Only what is flushed is looked at again. */
    uint32_t red = htole32(0x00ff0000);
    for (unsigned y = 40; y < 50; y++)
        for (unsigned x = 60; x < 70; x++)
            guest_write(&a.g, a.memory + MEMORY + 4ull * (y * 320 + x), &red, 4);
    assert_int_equal(transfer(&a, 1, rect(60, 40, 10, 10), 4 * (40 * 320 + 60)), OK);
    assert_int_equal(shown(&a, 40, 30), 40 << 12 | 60);
    assert_int_equal(flush(&a, 1, rect(60, 40, 5, 10)), OK);
    assert_int_equal(shown(&a, 40, 30), 0xff0000);
    assert_int_equal(shown(&a, 44, 39), 0xff0000);
    assert_int_equal(shown(&a, 45, 30), 40 << 12 | 65);
    assert_int_equal(shown(&a, 39, 30), 40 << 12 | 59);
    assert_int_equal(flush(&a, 1, rect(0, 0, 320, 200)), OK);
    assert_int_equal(shown(&a, 45, 30), 0xff0000);

    /* The picture goes when it is destroyed. */
    assert_int_equal(by_id(&a, VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING, 1), OK);
    assert_int_equal(by_id(&a, VIRTIO_GPU_CMD_RESOURCE_UNREF, 1), OK);
    assert_int_equal(shown(&a, 45, 30), 0);
    assert_int_equal(screen_width(a.screen), 640);
    adapter_close(&a);
}

static void test_formats(void **state)
{
    /* The bytes of a pixel whose red is 0x11, green 0x22, blue 0x33 */
    static const struct {
        uint32_t format;
        uint8_t bytes[4];
    } formats[] = {
        { VIRTIO_GPU_FORMAT_B8G8R8A8_UNORM, { 0x33, 0x22, 0x11, 0xff } },
        { VIRTIO_GPU_FORMAT_B8G8R8X8_UNORM, { 0x33, 0x22, 0x11, 0x77 } },
        { VIRTIO_GPU_FORMAT_A8R8G8B8_UNORM, { 0xff, 0x11, 0x22, 0x33 } },
        { VIRTIO_GPU_FORMAT_X8R8G8B8_UNORM, { 0x77, 0x11, 0x22, 0x33 } },
        { VIRTIO_GPU_FORMAT_R8G8B8A8_UNORM, { 0x11, 0x22, 0x33, 0xff } },
        { VIRTIO_GPU_FORMAT_X8B8G8R8_UNORM, { 0x77, 0x33, 0x22, 0x11 } },
        { VIRTIO_GPU_FORMAT_A8B8G8R8_UNORM, { 0xff, 0x33, 0x22, 0x11 } },
        { VIRTIO_GPU_FORMAT_R8G8B8X8_UNORM, { 0x11, 0x22, 0x33, 0x77 } },
    };
    struct adapter a;
    adapter_open(&a);
    machine_start(a.g.m);
    adapter_start(&a, 0);
    for (unsigned i = 0; i < sizeof formats / sizeof *formats; i++) {
        guest_write(&a.g, a.memory + MEMORY, formats[i].bytes, 4);
        assert_int_equal(create(&a, i + 1, formats[i].format, 16, 16), OK);
        assert_int_equal(attach(&a, i + 1, 4096), OK);
        assert_int_equal(transfer(&a, i + 1, rect(0, 0, 1, 1), 0), OK);
        assert_int_equal(scanout(&a, i + 1, rect(0, 0, 16, 16)), OK);
        assert_int_equal(shown(&a, 0, 0), 0x112233);
    }
    assert_int_equal(create(&a, 99, 5, 16, 16), VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER);
    adapter_close(&a);
}

static void test_cursor(void **state)
{
    struct adapter a;
    adapter_open(&a);
    machine_start(a.g.m);
    adapter_start(&a, BIT(VIRTIO_F_RING_PACKED));
    picture(&a);
    uint32_t half = htole32(0x80800000), whole = htole32(0xff00ff00), none = 0;
    for (unsigned i = 0; i < 64 * 64; i++)
        guest_write(&a.g, a.memory + MEMORY + 4ull * i,
                    i % 64 == 1 ? &half
                    : i % 64    ? &none
                                : &whole,
                    4);
    assert_int_equal(create(&a, 2, BGRA, 64, 64), OK);
    assert_int_equal(attach(&a, 2, 4096), OK);
    assert_int_equal(transfer(&a, 2, rect(0, 0, 64, 64), 0), OK);
    cursor(&a, VIRTIO_GPU_CMD_UPDATE_CURSOR, 2, 30, 20);
    assert_int_equal(shown(&a, 30, 20), 0x00ff00);
    uint32_t under = 30 << 12 | 51, third = under & 0xff, second = under >> 8 & 0xff;
    assert_int_equal(shown(&a, 31, 20), (0x80 + 127 * (under >> 16) / 255) << 16 |
                                            second * 127 / 255 << 8 | third * 127 / 255);
    assert_int_equal(shown(&a, 32, 20), 30 << 12 | 52); /* transparent */
    cursor(&a, VIRTIO_GPU_CMD_MOVE_CURSOR, 0, 100, 50);
    assert_int_equal(shown(&a, 30, 20), 30 << 12 | 50);
    assert_int_equal(shown(&a, 100, 50), 0x00ff00);
    cursor(&a, VIRTIO_GPU_CMD_MOVE_CURSOR, 0, (uint32_t)-1, (uint32_t)-60); /* sticks out */
    assert_int_equal(shown(&a, 100, 50), 60 << 12 | 120);
    assert_int_not_equal(shown(&a, 0, 3), 13 << 12 | 20);
    assert_int_equal(shown(&a, 0, 4), 14 << 12 | 20);
    cursor(&a, VIRTIO_GPU_CMD_MOVE_CURSOR, 0, 199, 99);
    assert_int_equal(shown(&a, 199, 99), 0x00ff00);
    cursor(&a, VIRTIO_GPU_CMD_UPDATE_CURSOR, 0, 199, 99);
    assert_int_equal(shown(&a, 199, 99), 109 << 12 | 219);
    adapter_close(&a);
}

static void test_monitor(void **state)
{
    struct adapter a;
    struct virtio_gpu_ctrl_hdr info = { htole32(VIRTIO_GPU_CMD_GET_DISPLAY_INFO),
                                        htole32(VIRTIO_GPU_FLAG_FENCE), htole64(0x1234567890) };
    struct virtio_gpu_cmd_get_edid get = { { htole32(VIRTIO_GPU_CMD_GET_EDID) } };
    struct virtio_gpu_resp_display_info display;
    struct virtio_gpu_resp_edid edid;
    adapter_open(&a);
    machine_start(a.g.m);
    adapter_start(&a, RING_FEATURES);
    assert_int_equal(gdev_config(&a.d, 8, 4), 1);
    assert_int_equal(command(&a, 0, &info, sizeof info, &display, sizeof display),
                     VIRTIO_GPU_RESP_OK_DISPLAY_INFO);
    assert_int_equal(display.hdr.flags, htole32(VIRTIO_GPU_FLAG_FENCE));
    assert_int_equal(display.hdr.fence_id, htole64(0x1234567890));
    assert_int_equal(le32toh(display.pmodes[0].r.width), 640);
    assert_int_equal(le32toh(display.pmodes[0].enabled), 1);
    assert_int_equal(le32toh(display.pmodes[1].enabled), 0);

    assert_true(screen_ask_size(a.screen, 1024, 768));
    assert_int_equal(gdev_config(&a.d, 0, 4), VIRTIO_GPU_EVENT_DISPLAY);
    command(&a, 0, &info, sizeof info, &display, sizeof display);
    assert_int_equal(le32toh(display.pmodes[0].r.width), 1024);
    assert_int_equal(command(&a, 0, &get, sizeof get, &edid, sizeof edid), VIRTIO_GPU_RESP_OK_EDID);
    assert_int_equal(le32toh(edid.size), 128);
    assert_int_equal(edid.edid[56] | (edid.edid[58] & 0xf0) << 4, 1024);
    assert_int_equal(edid.edid[59] | (edid.edid[61] & 0xf0) << 4, 768);
    bus_write(a.g.m, SPACE_MEMORY, a.d.config + 4, 4, VIRTIO_GPU_EVENT_DISPLAY);
    assert_int_equal(gdev_config(&a.d, 0, 4), 0);
    screen_ask_size(a.screen, 1000000, 0); /* what a monitor can have at most */
    command(&a, 0, &info, sizeof info, &display, sizeof display);
    assert_int_equal(le32toh(display.pmodes[0].r.width), 4095);
    assert_int_equal(le32toh(display.pmodes[0].r.height), 64);
    get.scanout = htole32(1);
    assert_int_equal(simple(&a, &get, sizeof get), VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID);
    adapter_close(&a);
}

static void test_refuses(void **state)
{
    enum { ID = VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID, NO = VIRTIO_GPU_RESP_ERR_UNSPEC };
    enum { BAD = VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER, MEM = VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY };
    struct adapter a;
    adapter_open(&a);
    machine_start(a.g.m);
    adapter_start(&a, RING_FEATURES);
    assert_int_equal(create(&a, 0, BGRX, 16, 16), ID);
    assert_int_equal(create(&a, 1, BGRX, 16, 0), BAD);
    assert_int_equal(create(&a, 1, BGRX, 0x40000000, 0x40000000), BAD);
    assert_int_equal(create(&a, 1, BGRX, 16384, 16384), MEM);
    assert_int_equal(create(&a, 1, BGRX, 100, 100), OK);
    assert_int_equal(create(&a, 1, BGRX, 100, 100), ID);
    assert_int_equal(transfer(&a, 1, rect(0, 0, 100, 100), 0), ID); /* nothing behind it */
    assert_int_equal(attach(&a, 7, 4096), ID);
    assert_int_equal(attach(&a, 1, 4096), OK);
    assert_int_equal(attach(&a, 1, 4096), NO);
    assert_int_equal(transfer(&a, 1, rect(1, 0, 100, 100), 0), BAD);
    assert_int_equal(transfer(&a, 1, rect(0xffffffff, 0, 2, 1), 0), BAD);
    assert_int_equal(transfer(&a, 1, rect(0, 0, 100, 100), MEMORY_SIZE - 39999), NO);
    assert_int_equal(transfer(&a, 1, rect(0, 0, 100, 100), MEMORY_SIZE - 40000), OK);
    assert_int_equal(transfer(&a, 1, rect(0, 0, 100, 100), UINT64_MAX - 100), NO);
    assert_int_equal(scanout(&a, 1, rect(0, 0, 101, 100)), BAD);
    assert_int_equal(scanout(&a, 2, rect(0, 0, 100, 100)), ID);
    assert_int_equal(flush(&a, 1, rect(0, 0, 0, 1)), BAD);
    assert_int_equal(flush(&a, 2, rect(0, 0, 1, 1)), ID);
    assert_int_equal(by_id(&a, VIRTIO_GPU_CMD_RESOURCE_UNREF, 2), ID);
    assert_int_equal(by_id(&a, VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING, 1), OK);
    assert_int_equal(by_id(&a, VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING, 1), ID);
    assert_int_equal(by_id(&a, VIRTIO_GPU_CMD_RESOURCE_CREATE_3D, 1), NO);
    struct virtio_gpu_resource_attach_backing many = {
        { htole32(VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING) }, htole32(1), htole32(5)
    };
    assert_int_equal(simple(&a, &many, sizeof many), NO); /* the entries are not there */
    many.nr_entries = htole32(0x10000000);
    assert_int_equal(simple(&a, &many, sizeof many), BAD);
    unsigned made = 1; /* 64 MiB each: the limit of all together */
    while (create(&a, made + 1, BGRX, 4096, 4096) == OK)
        made++;
    assert_int_equal(made, 4);
    adapter_close(&a);
}

/* What is shown, and what is only kept, goes along. */
static void test_move(void **state)
{
    struct adapter a, to;
    struct buf saved = { 0 }, again = { 0 };
    adapter_open(&a);
    machine_start(a.g.m);
    adapter_start(&a, RING_FEATURES);
    picture(&a);
    assert_int_equal(create(&a, 2, BGRA, 64, 64), OK);
    assert_int_equal(attach(&a, 2, 4096), OK);
    assert_int_equal(transfer(&a, 2, rect(0, 0, 64, 64), 0), OK);
    cursor(&a, VIRTIO_GPU_CMD_UPDATE_CURSOR, 2, 7, 8);
    screen_refresh(a.screen);
    machine_pause(a.g.m);
    device_save(&a.d.pci->dev, &saved);

    adapter_open(&to);
    memcpy(to.g.m->main_ram->hva, a.g.m->main_ram->hva, GUEST_MEMORY);
    assert_int_equal(device_load(&to.d.pci->dev, saved.data, saved.len, NULL), 0);
    device_save(&to.d.pci->dev, &again);
    assert_int_equal(saved.len, again.len);
    memcpy(to.q, a.q, sizeof to.q);
    to.q[0].g = to.q[1].g = &to.g;
    machine_start(to.g.m);
    screen_refresh(to.screen);
    assert_int_equal(screen_width(to.screen), 200);
    assert_memory_equal(screen_pixels(to.screen), screen_pixels(a.screen), 200 * 100 * 4);
    assert_int_equal(transfer(&to, 1, rect(0, 0, 320, 200), 4), OK); /* its memory is known */
    assert_int_equal(by_id(&to, VIRTIO_GPU_CMD_RESOURCE_UNREF, 2), OK);
    gdev_reset(&to.d);
    screen_refresh(to.screen);
    if (!is_vga) /* a VGA that is off has no size of its own */
        assert_int_equal(screen_width(to.screen), 640);
    assert_int_equal(screen_pixels(to.screen)[0], 0);

    /* Damaged state is refused or loads; it never crashes. */
    rnd_seed(11);
    machine_pause(to.g.m);
    for (unsigned i = 0; i < 300; i++) {
        struct buf bad = { 0 };
        buf_add(&bad, saved.data, saved.len);
        size_t end = saved.len - 320 * 200 * 4 - 64 * 64 * 4; /* not in pixels, mostly */
        for (unsigned n = 0; n < 3; n++)
            bad.data[rnd((unsigned)(i & 1 ? end : saved.len))] = (uint8_t)rnd32();
        device_load(&to.d.pci->dev, bad.data, bad.len, NULL);
        screen_refresh(to.screen);
        buf_fini(&bad);
    }
    buf_fini(&saved);
    buf_fini(&again);
    adapter_close(&to);
    adapter_close(&a);
}

static void test_garbage(void **state)
{
    struct adapter a;
    adapter_open(&a);
    machine_start(a.g.m);
    new_seed("gpu");
    garbage(&a.d, a.q, 2, 60);
    adapter_start(&a, 0);
    picture(&a);
    assert_int_equal(shown(&a, 0, 0), 10 << 12 | 20);
    adapter_close(&a);
}

static void test_coverage(void **state)
{
    struct adapter a;
    adapter_open(&a);
    assert_int_equal(device_uncovered(a.d.pci->dev.type), 0);
    adapter_close(&a);
}

static void dispi(struct adapter *a, unsigned index, unsigned value)
{
    bus_write(a->g.m, SPACE_IO, 0x1ce, 2, index);
    bus_write(a->g.m, SPACE_IO, 0x1cf, 2, value);
}

/* The VGA is shown until a driver shows something, and when that is gone. */
static void test_vga(void **state)
{
    struct adapter a;
    adapter_open(&a);
    machine_start(a.g.m);
    assert_int_equal(pci_config_read(a.g.bus, a.d.pci->devfn, PCI_CLASS_PROG - 1, 4) >> 8,
                     0x030000);
    dispi(&a, DISPI_XRES, 320);
    dispi(&a, DISPI_YRES, 200);
    dispi(&a, DISPI_BPP, 32);
    dispi(&a, DISPI_ENABLE, DISPI_ENABLED);
    bus_write(a.g.m, SPACE_MEMORY, 0xa0000 + 4 * (320 * 2 + 3), 4, 0x123456);
    assert_int_equal(shown(&a, 3, 2), 0x123456);
    assert_int_equal(screen_width(a.screen), 320);
    uint64_t bar = a.d.common - GPU_VGA_BAR_OFFSET;
    assert_int_equal(bus_read(a.g.m, SPACE_MEMORY, bar + 0x500 + 2 * DISPI_XRES, 2), 320);
    assert_int_equal(bus_read(a.g.m, SPACE_MEMORY, bar, 4), 0xffffff00); /* the EDID */
    uint64_t frame = pci_config_read(a.g.bus, a.d.pci->devfn, PCI_BAR0, 4) & ~15u;
    assert_int_equal(bus_read(a.g.m, SPACE_MEMORY, frame + 4 * (320 * 2 + 3), 4), 0x123456);

    adapter_start(&a, RING_FEATURES);
    assert_int_equal(shown(&a, 3, 2), 0x123456); /* it has not shown anything */
    picture(&a);
    assert_int_equal(shown(&a, 0, 0), 10 << 12 | 20);
    assert_int_equal(scanout(&a, 0, rect(0, 0, 0, 0)), OK);
    assert_int_equal(shown(&a, 3, 2), 0); /* the driver's darkness */
    assert_int_equal(screen_width(a.screen), 640);
    gdev_reset(&a.d);
    assert_int_equal(shown(&a, 3, 2), 0x123456);
    adapter_close(&a);
}

/* gpu_test ['*pattern*'] */
int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_picture),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_cursor),
        cmocka_unit_test(test_monitor),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_move),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_coverage),
        cmocka_unit_test_setup_teardown(test_vga, vga_setup, vga_teardown),
        cmocka_unit_test_setup_teardown(test_move, vga_setup, vga_teardown),
        cmocka_unit_test_setup_teardown(test_garbage, vga_setup, vga_teardown),
        cmocka_unit_test_setup_teardown(test_coverage, vga_setup, vga_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
