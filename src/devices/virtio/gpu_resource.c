/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pictures that a guest keeps in a virtio display adapter: host memory that the guest fills
 * from pieces of its own by TRANSFER_TO_HOST_2D.
 *
 * The guest decides how many there are and how large, so all of them together have a limit.
 */
#include "devices/virtio/gpu_priv.h"

#include "base/checked.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD = 20, PIECE = 16 }; /* of a saved resource: id, format, width, height, pieces */

static uint64_t picture_bytes(uint32_t width, uint32_t height)
{
    return 4ull * width * height; /* both at most GPU_MAX_SIDE */
}

struct gpu_resource *gpu_resource_find(const struct gpu *gpu, uint32_t id)
{
    struct gpu_resource *res = gpu->resources.first;
    while (res && res->id != id)
        res = res->next;
    return res;
}

bool gpu_rect_inside(const struct virtio_gpu_rect *r, uint32_t width, uint32_t height)
{
    return le32toh(r->width) && le32toh(r->height) &&
           range_fits(le32toh(r->x), le32toh(r->width), width) &&
           range_fits(le32toh(r->y), le32toh(r->height), height);
}

static bool size_possible(uint32_t width, uint32_t height)
{
    return width && height && width <= GPU_MAX_SIDE && height <= GPU_MAX_SIDE;
}

uint32_t gpu_resource_create(struct gpu *gpu, uint32_t id, uint32_t format, uint32_t width,
                             uint32_t height)
{
    if (!id || gpu_resource_find(gpu, id))
        return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
    if (!gpu_format_known(format) || !size_possible(width, height))
        return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
    uint64_t bytes = picture_bytes(width, height);
    if (gpu->resources.count == GPU_MAX_RESOURCES || bytes > GPU_MAX_BYTES - gpu->resources.bytes)
        return VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY;
    struct gpu_resource *res = calloc(1, sizeof *res);
    uint32_t *pixels = calloc(1, bytes);
    if (!res || !pixels) {
        free(res);
        free(pixels);
        return VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY;
    }
    LOCKED(&gpu->lock);
    *res = (struct gpu_resource){ .next = gpu->resources.first,
                                  .id = id,
                                  .format = format,
                                  .width = width,
                                  .height = height,
                                  .pixels = pixels };
    gpu->resources.first = res;
    gpu->resources.count++;
    gpu->resources.bytes += bytes;
    return VIRTIO_GPU_RESP_OK_NODATA;
}

uint32_t gpu_resource_attach(struct gpu *gpu, struct gpu_resource *res, struct gpu_piece *pieces,
                             uint32_t count)
{
    uint64_t bytes = (uint64_t)count * sizeof *pieces;
    if (res->pieces)
        return VIRTIO_GPU_RESP_ERR_UNSPEC;
    if (bytes > GPU_MAX_BYTES - gpu->resources.bytes)
        return VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY;
    res->pieces = pieces;
    res->piece_count = count;
    gpu->resources.bytes += bytes;
    return VIRTIO_GPU_RESP_OK_NODATA;
}

void gpu_resource_detach(struct gpu *gpu, struct gpu_resource *res)
{
    gpu->resources.bytes -= (uint64_t)res->piece_count * sizeof *res->pieces;
    free(TAKE(res->pieces));
    res->piece_count = 0;
}

void gpu_resource_destroy(struct gpu *gpu, struct gpu_resource *res)
{
    gpu_resource_detach(gpu, res);
    LOCKED(&gpu->lock);
    struct gpu_resource **at = &gpu->resources.first;
    while (*at != res)
        at = &(*at)->next;
    *at = res->next;
    gpu->resources.count--;
    gpu->resources.bytes -= picture_bytes(res->width, res->height);
    free(res->pixels);
    free(res);
}

void gpu_resources_drop(struct gpu *gpu)
{
    while (gpu->resources.first)
        gpu_resource_destroy(gpu, gpu->resources.first);
}

/* ---- from guest memory ---- */

struct backing { /* a place in the pieces; it only moves forward */
    const struct gpu_resource *res;
    uint32_t piece;
    uint64_t before; /* bytes of the pieces before that one */
};

/* Copies [offset, offset + len) of the backing; false: it ends before, or is no memory. */
static bool backing_read(struct machine *m, struct backing *at, uint64_t offset, uint8_t *out,
                         size_t len)
{
    while (len) {
        if (at->piece == at->res->piece_count)
            return false;
        const struct gpu_piece *piece = &at->res->pieces[at->piece];
        uint64_t within = offset - at->before;
        if (within >= piece->len) {
            at->before += piece->len;
            at->piece++;
            continue;
        }
        size_t n = piece->len - within < len ? (size_t)(piece->len - within) : len;
        uint64_t gpa;
        if (!add_u64(piece->gpa, within, &gpa) || mem_read(m, gpa, out, n) < 0)
            return false;
        offset += n;
        out += n;
        len -= n;
    }
    return true;
}

uint32_t gpu_resource_transfer(struct gpu *gpu, struct gpu_resource *res,
                               const struct virtio_gpu_rect *area, uint64_t offset)
{
    uint32_t x = le32toh(area->x), y = le32toh(area->y);
    uint32_t width = le32toh(area->width), height = le32toh(area->height);
    size_t line = 4ull * width, pitch = 4ull * res->width;
    struct machine *m = gpu->vdev.pci.dev.machine;
    struct backing at = { .res = res };
    /* Whole lines lie one behind the other: many at once. A line is at most GPU_BOUNCE long. */
    uint32_t at_once = width == res->width ? (uint32_t)(GPU_BOUNCE / line) : 1;
    for (uint32_t done = 0; done < height;) {
        uint32_t lines = height - done < at_once ? height - done : at_once;
        uint64_t from;
        if (!add_u64(offset, (uint64_t)done * pitch, &from) ||
            !backing_read(m, &at, from, gpu->bounce, lines * line))
            return VIRTIO_GPU_RESP_ERR_UNSPEC;
        LOCKED(&gpu->lock);
        memcpy((uint8_t *)res->pixels + (y + done) * pitch + 4ull * x, gpu->bounce, lines * line);
        done += lines;
    }
    return VIRTIO_GPU_RESP_OK_NODATA;
}

/* ---- state ---- */

static void put32(struct buf *out, uint32_t value)
{
    value = htole32(value);
    buf_add(out, &value, sizeof value);
}

static uint32_t get32(const uint8_t *data)
{
    uint32_t value;
    memcpy(&value, data, sizeof value);
    return le32toh(value);
}

void gpu_resources_save(const struct gpu *gpu, struct buf *out)
{
    for (const struct gpu_resource *res = gpu->resources.first; res; res = res->next) {
        put32(out, res->id);
        put32(out, res->format);
        put32(out, res->width);
        put32(out, res->height);
        put32(out, res->piece_count);
        for (uint32_t i = 0; i < res->piece_count; i++) {
            uint64_t gpa = htole64(res->pieces[i].gpa);
            buf_add(out, &gpa, sizeof gpa);
            put32(out, res->pieces[i].len);
            put32(out, 0);
        }
        buf_add(out, res->pixels, picture_bytes(res->width, res->height));
    }
}

/* Pieces and pixels behind the head at `data`, which was found whole. */
static int resource_load(struct gpu *gpu, const struct gpu_resource *head, const uint8_t *data)
{
    uint32_t count = head->piece_count;
    if (gpu_resource_create(gpu, head->id, head->format, head->width, head->height) !=
        VIRTIO_GPU_RESP_OK_NODATA)
        return -EINVAL;
    struct gpu_resource *res = gpu->resources.first;
    memcpy(res->pixels, data + (size_t)count * PIECE, picture_bytes(res->width, res->height));
    if (!count)
        return 0;
    struct gpu_piece *pieces = calloc(count, sizeof *pieces);
    if (!pieces)
        return -ENOMEM;
    for (uint32_t i = 0; i < count; i++, data += PIECE) {
        memcpy(&pieces[i].gpa, data, 8);
        pieces[i].gpa = le64toh(pieces[i].gpa);
        pieces[i].len = get32(data + 8);
    }
    if (gpu_resource_attach(gpu, res, pieces, count) == VIRTIO_GPU_RESP_OK_NODATA)
        return 0;
    free(pieces);
    return -EINVAL;
}

int gpu_resources_load(struct gpu *gpu, const uint8_t *data, size_t len, struct gpu_resource *want,
                       struct err *err)
{
    uint32_t id = want ? want->id : 0;
    for (size_t at = 0; at < len;) {
        if (len - at < HEAD)
            return err_set(err, EINVAL, "the display adapter's resources end early");
        struct gpu_resource head = { .id = get32(data + at),
                                     .format = get32(data + at + 4),
                                     .width = get32(data + at + 8),
                                     .height = get32(data + at + 12),
                                     .piece_count = get32(data + at + 16) };
        at += HEAD;
        if (!head.id || !gpu_format_known(head.format) || !size_possible(head.width, head.height) ||
            head.piece_count > GPU_MAX_BACKING)
            return err_set(err, EINVAL, "the display adapter cannot have such a resource");
        uint64_t body = (uint64_t)head.piece_count * PIECE + picture_bytes(head.width, head.height);
        if (body > len - at)
            return err_set(err, EINVAL, "the display adapter's resources end early");
        if (want && head.id == id) {
            *want = head;
        }
        if (gpu && resource_load(gpu, &head, data + at) < 0)
            return err_set(err, EINVAL, "the display adapter cannot hold its resources");
        at += body;
    }
    return 0;
}
