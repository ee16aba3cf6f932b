/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a virtio display adapter's resources to the screen: what is dirty, a line at a time, with
 * the cursor over it.
 */
#include "devices/virtio/gpu_priv.h"

#include "base/checked.h"
#include "base/loop.h"

#include <byteswap.h>
#include <endian.h>
#include <string.h>

/* ---- what is dirty ---- */

static void gpu_stir(void *arg) { screen_stir(((struct gpu *)arg)->screen); }

/* A screen that nobody has looked at since it was last told needs no telling. */
static void gpu_tell(struct gpu *gpu)
{
    if (!atomic_exchange(&gpu->told, true))
        loop_post(gpu->vdev.pci.dev.machine->loop, gpu_stir, gpu);
}

static void area_join(struct gpu_area *a, const struct gpu_area *b)
{
    a->x0 = a->x0 < b->x0 ? a->x0 : b->x0;
    a->y0 = a->y0 < b->y0 ? a->y0 : b->y0;
    a->x1 = a->x1 > b->x1 ? a->x1 : b->x1;
    a->y1 = a->y1 > b->y1 ? a->y1 : b->y1;
}

static bool area_contains(const struct gpu_area *a, const struct gpu_area *b)
{
    return a->x0 <= b->x0 && a->y0 <= b->y0 && a->x1 >= b->x1 && a->y1 >= b->y1;
}

void gpu_dirty(struct gpu *gpu, struct gpu_area area)
{
    if (area.x0 >= area.x1 || area.y0 >= area.y1)
        return;
    {
        LOCKED(&gpu->lock);
        unsigned i = 0;
        while (i < gpu->dirty_count && !area_contains(&gpu->dirty[i], &area))
            i++;
        if (i == GPU_DIRTY)
            area_join(&gpu->dirty[GPU_DIRTY - 1], &area);
        else if (i == gpu->dirty_count)
            gpu->dirty[gpu->dirty_count++] = area;
    }
    gpu_tell(gpu);
}

void gpu_dirty_all(struct gpu *gpu)
{
    {
        LOCKED(&gpu->lock);
        gpu->dirty[0] = (struct gpu_area){ 0, 0, SCREEN_MAX_WIDTH, SCREEN_MAX_HEIGHT };
        gpu->dirty_count = 1;
    }
    gpu_tell(gpu);
}

static int64_t cursor_at(uint32_t place) { return (int32_t)place; }

static uint32_t clamped(int64_t value, uint32_t most)
{
    return value < 0 ? 0 : value > most ? most : (uint32_t)value;
}

struct gpu_area gpu_cursor_area(const struct gpu *gpu)
{
    const struct gpu_regs *r = &gpu->regs;
    int64_t x = cursor_at(r->cursor_x), y = cursor_at(r->cursor_y);
    if (!r->cursor_shown)
        return (struct gpu_area){ 0 };
    return (struct gpu_area){ clamped(x, SCREEN_MAX_WIDTH), clamped(y, SCREEN_MAX_HEIGHT),
                              clamped(x + GPU_CURSOR, SCREEN_MAX_WIDTH),
                              clamped(y + GPU_CURSOR, SCREEN_MAX_HEIGHT) };
}

/* ---- pixels ---- */

bool gpu_format_known(uint32_t format)
{
    switch (format) {
    case VIRTIO_GPU_FORMAT_B8G8R8A8_UNORM:
    case VIRTIO_GPU_FORMAT_B8G8R8X8_UNORM:
    case VIRTIO_GPU_FORMAT_A8R8G8B8_UNORM:
    case VIRTIO_GPU_FORMAT_X8R8G8B8_UNORM:
    case VIRTIO_GPU_FORMAT_R8G8B8A8_UNORM:
    case VIRTIO_GPU_FORMAT_X8B8G8R8_UNORM:
    case VIRTIO_GPU_FORMAT_A8B8G8R8_UNORM:
    case VIRTIO_GPU_FORMAT_R8G8B8X8_UNORM: return true;
    }
    return false;
}

/* 0xAARRGGBB of a pixel whose bytes are in the order of the format's name. */
static uint32_t argb(uint32_t format, uint32_t pixel)
{
    pixel = le32toh(pixel);
    switch (format) {
    case VIRTIO_GPU_FORMAT_A8R8G8B8_UNORM:
    case VIRTIO_GPU_FORMAT_X8R8G8B8_UNORM: return bswap_32(pixel);
    case VIRTIO_GPU_FORMAT_R8G8B8A8_UNORM:
    case VIRTIO_GPU_FORMAT_R8G8B8X8_UNORM:
        return (pixel & 0xff00ff00) | (pixel & 0xff) << 16 | (pixel >> 16 & 0xff);
    case VIRTIO_GPU_FORMAT_A8B8G8R8_UNORM:
    case VIRTIO_GPU_FORMAT_X8B8G8R8_UNORM: return pixel >> 8 | pixel << 24;
    default: return pixel;
    }
}

void gpu_convert(uint32_t format, const uint32_t *from, uint32_t *to, uint32_t count)
{
    if (format == VIRTIO_GPU_FORMAT_B8G8R8X8_UNORM || format == VIRTIO_GPU_FORMAT_B8G8R8A8_UNORM) {
        memcpy(to, from, 4ull * count); /* what systems use: kept out of the loop below */
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        to[i] = argb(format, from[i]);
}

/* `over` has its colours multiplied by its alpha. */
static uint32_t blended(uint32_t over, uint32_t under)
{
    uint32_t keep = 255 - (over >> 24), out = 0;
    for (unsigned shift = 0; shift < 24; shift += 8) {
        uint32_t c = (over >> shift & 0xff) + (under >> shift & 0xff) * keep / 255;
        out |= (c < 255 ? c : 255) << shift;
    }
    return out;
}

static void cursor_over(const struct gpu *gpu, uint32_t y, uint32_t x0, uint32_t x1, uint32_t *line)
{
    const struct gpu_regs *r = &gpu->regs;
    struct gpu_area a = gpu_cursor_area(gpu);
    if (y < a.y0 || y >= a.y1)
        return;
    const uint32_t *row = r->cursor + (y - cursor_at(r->cursor_y)) * GPU_CURSOR;
    for (uint32_t x = a.x0 > x0 ? a.x0 : x0; x < a.x1 && x < x1; x++)
        line[x - x0] = blended(row[x - cursor_at(r->cursor_x)], line[x - x0]);
}

/* Lock held. The size of what is shown. */
static void shown_size(const struct gpu *gpu, uint32_t *width, uint32_t *height)
{
    const struct gpu_regs *r = &gpu->regs;
    *width = r->scanout ? r->scanout_w : r->width;
    *height = r->scanout ? r->scanout_h : r->height;
}

/* Pixels [x0, x1) of line y into `line`; false: what is shown has changed, and that is dirty. */
static bool line_take(struct gpu *gpu, uint32_t y, uint32_t x0, uint32_t x1, uint32_t *line)
{
    const struct gpu_regs *r = &gpu->regs;
    uint32_t width, height;
    LOCKED(&gpu->lock);
    shown_size(gpu, &width, &height);
    if (x1 > width || y >= height)
        return false;
    const struct gpu_resource *res = gpu_resource_find(gpu, r->scanout);
    /* After a state that was refused the registers may not fit. */
    if (!res || !range_fits(r->scanout_x, r->scanout_w, res->width) ||
        !range_fits(r->scanout_y, r->scanout_h, res->height)) {
        memset(line, 0, 4ull * (x1 - x0));
        return true;
    }
    gpu_convert(res->format,
                res->pixels + (size_t)(r->scanout_y + y) * res->width + r->scanout_x + x0, line,
                x1 - x0);
    for (uint32_t i = 0; i < x1 - x0; i++)
        line[i] &= 0xffffff;
    cursor_over(gpu, y, x0, x1, line);
    return true;
}

void gpu_draw(void *arg, struct screen *screen)
{
    struct gpu *gpu = arg;
    struct gpu_area areas[GPU_DIRTY];
    uint32_t width, height;
    unsigned count;
    atomic_store(&gpu->told, false); /* before the list is taken: what comes later is told again */
    {
        LOCKED(&gpu->lock);
        shown_size(gpu, &width, &height);
        count = gpu->dirty_count;
        memcpy(areas, gpu->dirty, sizeof areas);
        gpu->dirty_count = 0;
    }
    screen_resize(screen, width, height);
    for (unsigned i = 0; i < count; i++) {
        struct gpu_area a = areas[i];
        a.x1 = a.x1 < width ? a.x1 : width;
        a.y1 = a.y1 < height ? a.y1 : height;
        for (uint32_t y = a.y0; a.x0 < a.x1 && y < a.y1; y++) {
            if (!line_take(gpu, y, a.x0, a.x1, gpu->line))
                return;
            screen_line(screen, a.x0, y, a.x1 - a.x0, gpu->line);
        }
    }
}
