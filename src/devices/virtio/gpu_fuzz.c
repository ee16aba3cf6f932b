/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The commands of a virtio display adapter, with the pictures drawn in between.
 *
 * Input: commands one after the other, each a byte of length (in words of 4 bytes; bit 7: for the
 * cursor queue) and that many words, of which the first is the low byte of the type and the second
 * the flags as they are. What lies behind is the guest's memory as it was left by the last run.
 */
#include "devices/virtio/gpu_priv.h"

#include "devices/virtio/guest_model.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { COMMANDS = 64 };

static struct gpu *gpu;
static struct guest g;

static void start(void)
{
    struct pci_device *pci;
    struct screen *screen;
    guest_init(&g, false);
    if (screen_create(g.loop, &screen, NULL) < 0 ||
        virtio_gpu_create(g.m, &(struct virtio_gpu_options){ .id = "gpu0", .screen = screen }, &pci,
                          NULL) < 0)
        abort();
    gpu = (struct gpu *)pci;
}

/* What is in the state loads, and is the same. */
static void round_trip(void)
{
    struct buf first = { 0 }, second = { 0 };
    gpu_resources_save(gpu, &first);
    gpu_resources_drop(gpu);
    int r = gpu_resources_load(gpu, first.data, first.len, NULL, NULL);
    assert(r == 0);
    gpu_resources_save(gpu, &second);
    assert(first.len == second.len);
    buf_fini(&first);
    buf_fini(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (!gpu)
        start();
    /* As state: refused, or loaded into a device that has none. */
    if (gpu_resources_load(gpu, data, len, NULL, NULL) == 0)
        round_trip();
    gpu_resources_drop(gpu);
    size_t at = 0;
    for (unsigned n = 0; n < COMMANDS && at < len; n++) {
        uint32_t cmd[128] = { 0 }, reply[512];
        size_t bytes = 4ul * (data[at] & 127);
        bool cursor = data[at++] & 128;
        bytes = bytes < len - at ? bytes : len - at;
        memcpy(cmd, data + at, bytes);
        at += bytes;
        cmd[0] = (cmd[0] & 0x0f) | (cursor ? 0x300 : 0x100);
        struct iovec out = { cmd, bytes }, in = { reply, sizeof reply };
        struct virtqueue_elem elem = { .out = &out,
                                       .out_count = 1,
                                       .out_bytes = bytes,
                                       .in = &in,
                                       .in_count = 1,
                                       .in_bytes = sizeof reply };
        if (cursor)
            gpu_cursor_command(gpu, &elem);
        else
            gpu_command(gpu, &elem);
        if (n % 4 == 3)
            screen_refresh(gpu->screen);
    }
    screen_refresh(gpu->screen);
    round_trip();
    gpu->vdev.ops->reset(&gpu->vdev);
    assert(!gpu->resources.count && !gpu->resources.bytes);
    guest_run_loop(&g);
    return 0;
}
