/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtio display adapter (VIRTIO 1.2, 5.7): the 2D commands, the cursor's, and one scanout.
 *
 * A command is done when it is answered, so a fence needs nothing but its number in the answer. A
 * system says which part of its picture changed (RESOURCE_FLUSH), and only that is looked at again.
 * Left out: 3D, blobs, UUIDs; no driver needs them for a screen.
 */
#include "devices/virtio/gpu_priv.h"

#include "base/checked.h"
#include "base/loop.h"
#include "devices/edid.h"

#include <endian.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

enum { QUEUE_CONTROL, QUEUE_CURSOR, QUEUES, QUEUE_SIZE = 256 };
enum { WIDTH_DEFAULT = 1280, HEIGHT_DEFAULT = 800, SIDE_MIN = 64, SIDE_MAX = 4095 };

static struct gpu *gpu_of(struct virtio_device *vdev) { return (struct gpu *)vdev; }

/* A command from the driver: all that the kinds below have in front of pieces of memory. */
union gpu_request {
    struct virtio_gpu_ctrl_hdr hdr;
    struct virtio_gpu_resource_create_2d create;
    struct virtio_gpu_resource_unref unref;
    struct virtio_gpu_set_scanout scanout;
    struct virtio_gpu_resource_flush flush;
    struct virtio_gpu_transfer_to_host_2d transfer;
    struct virtio_gpu_resource_attach_backing attach;
    struct virtio_gpu_resource_detach_backing detach;
    struct virtio_gpu_cmd_get_edid edid;
    struct virtio_gpu_update_cursor cursor;
};

union gpu_reply {
    struct virtio_gpu_ctrl_hdr hdr;
    struct virtio_gpu_resp_display_info display;
    struct virtio_gpu_resp_edid edid;
};

/* ---- what is shown ---- */

/* Lock held. From the first word of a driver to its end the VGA in the adapter is not shown. */
static void driver_shows(struct gpu *gpu, bool shows)
{
    if (gpu->is_vga)
        gpu->vga_regs.driver_shows = shows;
}

static void scanout_off(struct gpu *gpu, bool shows)
{
    {
        LOCKED(&gpu->lock);
        driver_shows(gpu, shows);
        gpu->regs.scanout = 0;
        gpu->regs.scanout_x = gpu->regs.scanout_y = 0;
        gpu->regs.scanout_w = gpu->regs.scanout_h = 0;
    }
    gpu_dirty_all(gpu);
}

static uint32_t do_set_scanout(struct gpu *gpu, const struct virtio_gpu_set_scanout *cmd)
{
    uint32_t id = le32toh(cmd->resource_id);
    struct gpu_regs *r = &gpu->regs;
    if (le32toh(cmd->scanout_id) != 0)
        return VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID;
    if (!id) {
        scanout_off(gpu, true);
        return VIRTIO_GPU_RESP_OK_NODATA;
    }
    const struct gpu_resource *res = gpu_resource_find(gpu, id);
    if (!res)
        return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
    if (!gpu_rect_inside(&cmd->r, res->width, res->height) ||
        le32toh(cmd->r.width) > SCREEN_MAX_WIDTH || le32toh(cmd->r.height) > SCREEN_MAX_HEIGHT)
        return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
    {
        LOCKED(&gpu->lock);
        driver_shows(gpu, true);
        r->scanout = id;
        r->scanout_x = le32toh(cmd->r.x);
        r->scanout_y = le32toh(cmd->r.y);
        r->scanout_w = le32toh(cmd->r.width);
        r->scanout_h = le32toh(cmd->r.height);
    }
    gpu_dirty_all(gpu);
    return VIRTIO_GPU_RESP_OK_NODATA;
}

static uint32_t do_flush(struct gpu *gpu, const struct virtio_gpu_resource_flush *cmd)
{
    const struct gpu_regs *r = &gpu->regs;
    const struct gpu_resource *res = gpu_resource_find(gpu, le32toh(cmd->resource_id));
    if (!res)
        return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
    if (!gpu_rect_inside(&cmd->r, res->width, res->height))
        return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
    if (r->scanout != res->id)
        return VIRTIO_GPU_RESP_OK_NODATA;
    uint32_t x = le32toh(cmd->r.x), y = le32toh(cmd->r.y);
    uint32_t x1 = x + le32toh(cmd->r.width), y1 = y + le32toh(cmd->r.height);
    struct gpu_area area = { x > r->scanout_x ? x - r->scanout_x : 0,
                             y > r->scanout_y ? y - r->scanout_y : 0,
                             x1 > r->scanout_x ? x1 - r->scanout_x : 0,
                             y1 > r->scanout_y ? y1 - r->scanout_y : 0 };
    gpu_dirty(gpu, area);
    return VIRTIO_GPU_RESP_OK_NODATA;
}

/* ---- resources ---- */

static uint32_t do_unref(struct gpu *gpu, const struct virtio_gpu_resource_unref *cmd)
{
    struct gpu_resource *res = gpu_resource_find(gpu, le32toh(cmd->resource_id));
    if (!res)
        return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
    if (gpu->regs.scanout == res->id)
        scanout_off(gpu, true);
    gpu_resource_destroy(gpu, res);
    return VIRTIO_GPU_RESP_OK_NODATA;
}

static uint32_t do_attach(struct gpu *gpu, const struct virtio_gpu_resource_attach_backing *cmd,
                          const struct virtqueue_elem *elem)
{
    uint32_t count = le32toh(cmd->nr_entries);
    struct gpu_resource *res = gpu_resource_find(gpu, le32toh(cmd->resource_id));
    if (!res)
        return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
    if (!count || count > GPU_MAX_BACKING)
        return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
    AUTO(free) struct gpu_piece *pieces = calloc(count, sizeof *pieces);
    if (!pieces)
        return VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY;
    for (uint32_t i = 0; i < count; i++) {
        struct virtio_gpu_mem_entry entry;
        if (iov_to_buf(elem->out, elem->out_count, sizeof *cmd + i * sizeof entry, &entry,
                       sizeof entry) < sizeof entry)
            return VIRTIO_GPU_RESP_ERR_UNSPEC;
        pieces[i].gpa = le64toh(entry.addr);
        pieces[i].len = le32toh(entry.length);
    }
    uint32_t answer = gpu_resource_attach(gpu, res, pieces, count);
    if (answer == VIRTIO_GPU_RESP_OK_NODATA)
        pieces = NULL;
    return answer;
}

static uint32_t do_detach(struct gpu *gpu, const struct virtio_gpu_resource_detach_backing *cmd)
{
    struct gpu_resource *res = gpu_resource_find(gpu, le32toh(cmd->resource_id));
    if (!res || !res->pieces)
        return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
    gpu_resource_detach(gpu, res);
    return VIRTIO_GPU_RESP_OK_NODATA;
}

static uint32_t do_transfer(struct gpu *gpu, const struct virtio_gpu_transfer_to_host_2d *cmd)
{
    struct gpu_resource *res = gpu_resource_find(gpu, le32toh(cmd->resource_id));
    if (!res || !res->pieces)
        return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
    if (!gpu_rect_inside(&cmd->r, res->width, res->height))
        return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
    return gpu_resource_transfer(gpu, res, &cmd->r, le64toh(cmd->offset));
}

/* ---- the monitor ---- */

static uint32_t do_display_info(struct gpu *gpu, struct virtio_gpu_resp_display_info *reply)
{
    LOCKED(&gpu->lock);
    reply->pmodes[0].r.width = htole32(gpu->regs.width);
    reply->pmodes[0].r.height = htole32(gpu->regs.height);
    reply->pmodes[0].enabled = htole32(1);
    return VIRTIO_GPU_RESP_OK_DISPLAY_INFO;
}

static uint32_t do_edid(struct gpu *gpu, const struct virtio_gpu_cmd_get_edid *cmd,
                        struct virtio_gpu_resp_edid *reply)
{
    if (le32toh(cmd->scanout) != 0)
        return VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID;
    LOCKED(&gpu->lock);
    reply->size = htole32(128);
    edid_make(gpu->regs.width, gpu->regs.height, reply->edid);
    return VIRTIO_GPU_RESP_OK_EDID;
}

/* ---- queues; on the device's loop ---- */

static uint32_t gpu_do(struct gpu *gpu, const union gpu_request *cmd,
                       const struct virtqueue_elem *elem, union gpu_reply *reply, size_t *len)
{
    switch (le32toh(cmd->hdr.type)) {
    case VIRTIO_GPU_CMD_GET_DISPLAY_INFO:
        *len = sizeof reply->display;
        return do_display_info(gpu, &reply->display);
    case VIRTIO_GPU_CMD_GET_EDID:
        *len = sizeof reply->edid;
        return do_edid(gpu, &cmd->edid, &reply->edid);
    case VIRTIO_GPU_CMD_RESOURCE_CREATE_2D:
        return gpu_resource_create(gpu, le32toh(cmd->create.resource_id),
                                   le32toh(cmd->create.format), le32toh(cmd->create.width),
                                   le32toh(cmd->create.height));
    case VIRTIO_GPU_CMD_RESOURCE_UNREF: return do_unref(gpu, &cmd->unref);
    case VIRTIO_GPU_CMD_SET_SCANOUT: return do_set_scanout(gpu, &cmd->scanout);
    case VIRTIO_GPU_CMD_RESOURCE_FLUSH: return do_flush(gpu, &cmd->flush);
    case VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D: return do_transfer(gpu, &cmd->transfer);
    case VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING: return do_attach(gpu, &cmd->attach, elem);
    case VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING: return do_detach(gpu, &cmd->detach);
    }
    return VIRTIO_GPU_RESP_ERR_UNSPEC;
}

uint32_t gpu_command(struct gpu *gpu, const struct virtqueue_elem *elem)
{
    union gpu_request cmd = { 0 };
    union gpu_reply reply = { 0 };
    size_t len = sizeof reply.hdr;
    uint32_t type = VIRTIO_GPU_RESP_ERR_UNSPEC;
    if (iov_to_buf(elem->out, elem->out_count, 0, &cmd, sizeof cmd) >= sizeof cmd.hdr)
        type = gpu_do(gpu, &cmd, elem, &reply, &len);
    reply.hdr.type = htole32(type);
    if (le32toh(cmd.hdr.flags) & VIRTIO_GPU_FLAG_FENCE) {
        reply.hdr.flags = htole32(VIRTIO_GPU_FLAG_FENCE);
        reply.hdr.fence_id = cmd.hdr.fence_id;
        reply.hdr.ctx_id = cmd.hdr.ctx_id;
    }
    return (uint32_t)iov_from_buf(elem->in, elem->in_count, 0, &reply, len);
}

void gpu_cursor_command(struct gpu *gpu, const struct virtqueue_elem *elem)
{
    union gpu_request cmd = { 0 };
    struct gpu_regs *r = &gpu->regs;
    iov_to_buf(elem->out, elem->out_count, 0, &cmd, sizeof cmd);
    uint32_t type = le32toh(cmd.hdr.type), id = le32toh(cmd.cursor.resource_id);
    bool update = type == VIRTIO_GPU_CMD_UPDATE_CURSOR;
    if ((!update && type != VIRTIO_GPU_CMD_MOVE_CURSOR) || le32toh(cmd.cursor.pos.scanout_id) != 0)
        return;
    struct gpu_area before = gpu_cursor_area(gpu);
    {
        LOCKED(&gpu->lock);
        r->cursor_x = le32toh(cmd.cursor.pos.x);
        r->cursor_y = le32toh(cmd.cursor.pos.y);
        if (update) {
            const struct gpu_resource *res = gpu_resource_find(gpu, id);
            r->cursor_shown = id && res && res->width == GPU_CURSOR && res->height == GPU_CURSOR;
            if (r->cursor_shown)
                gpu_convert(res->format, res->pixels, r->cursor, GPU_CURSOR * GPU_CURSOR);
        }
    }
    gpu_dirty(gpu, before);
    gpu_dirty(gpu, gpu_cursor_area(gpu));
}

static void gpu_control_elem(struct virtio_device *vdev, struct virtqueue_elem *elem)
{
    virtio_complete(vdev, elem, gpu_command(gpu_of(vdev), elem));
}

static void gpu_cursor_elem(struct virtio_device *vdev, struct virtqueue_elem *elem)
{
    gpu_cursor_command(gpu_of(vdev), elem);
    virtio_complete(vdev, elem, 0);
}

static void gpu_queue(struct virtio_device *vdev, unsigned queue)
{
    virtio_queue_each(vdev, queue, queue == QUEUE_CONTROL ? gpu_control_elem : gpu_cursor_elem);
}

/* ---- configuration; dev.lock held ---- */

static void gpu_config(struct virtio_device *vdev, uint8_t *out)
{
    struct virtio_gpu_config config = { .events_read = htole32(gpu_of(vdev)->regs.events),
                                        .num_scanouts = htole32(1) };
    memcpy(out, &config, sizeof config);
}

static void gpu_config_write(struct virtio_device *vdev, unsigned offset, unsigned size,
                             uint64_t value)
{
    if (offset == offsetof(struct virtio_gpu_config, events_clear) && size == 4)
        gpu_of(vdev)->regs.events &= ~(uint32_t)value;
}

/* Somebody who looks would like another size. Main loop. */
static void gpu_resize(void *arg, unsigned width, unsigned height)
{
    struct gpu *gpu = arg;
    width = width < SIDE_MIN ? SIDE_MIN : width > SIDE_MAX ? SIDE_MAX : width;
    height = height < SIDE_MIN ? SIDE_MIN : height;
    height = height > SCREEN_MAX_HEIGHT ? SCREEN_MAX_HEIGHT : height;
    {
        LOCKED(&gpu->lock);
        if (gpu->regs.width == width && gpu->regs.height == height)
            return;
        gpu->regs.width = width;
        gpu->regs.height = height;
    }
    {
        LOCKED(&gpu->vdev.pci.dev.lock);
        gpu->regs.events |= VIRTIO_GPU_EVENT_DISPLAY;
    }
    virtio_config_changed(&gpu->vdev);
    gpu_dirty_all(gpu);
}

/* ---- life ---- */

static void gpu_forget_saved(struct gpu *gpu)
{
    free(TAKE(gpu->regs.resources));
    gpu->regs.resources_len = 0;
}

static void gpu_reset(struct virtio_device *vdev)
{
    struct gpu *gpu = gpu_of(vdev);
    scanout_off(gpu, false);
    gpu_resources_drop(gpu);
    gpu_forget_saved(gpu);
    {
        LOCKED(&gpu->lock);
        gpu->regs.cursor_shown = gpu->regs.cursor_x = gpu->regs.cursor_y = 0;
        memset(gpu->regs.cursor, 0, sizeof gpu->regs.cursor);
    }
    LOCKED(&vdev->pci.dev.lock);
    gpu->regs.events = 0;
}

static void gpu_pause(struct virtio_device *vdev, unsigned lane)
{
    struct gpu *gpu = gpu_of(vdev);
    struct buf out = { 0 };
    gpu_resources_save(gpu, &out);
    gpu_forget_saved(gpu);
    gpu->regs.resources = out.data;
    gpu->regs.resources_len = out.len;
}

static void gpu_resume(struct virtio_device *vdev, unsigned lane)
{
    gpu_forget_saved(gpu_of(vdev));
}

static int gpu_loaded(struct virtio_device *vdev, struct err *err)
{
    struct gpu *gpu = gpu_of(vdev);
    gpu_resources_drop(gpu);
    int r = gpu_resources_load(gpu, gpu->regs.resources, gpu->regs.resources_len, NULL, err);
    if (r < 0)
        gpu_resources_drop(gpu);
    gpu_dirty_all(gpu);
    return r;
}

int gpu_check(const void *state, struct err *err)
{
    const struct gpu_regs *r = state;
    struct gpu_resource shown = { .id = r->scanout };
    struct virtio_gpu_rect part = { htole32(r->scanout_x), htole32(r->scanout_y),
                                    htole32(r->scanout_w), htole32(r->scanout_h) };
    int result = gpu_resources_load(NULL, r->resources, r->resources_len, &shown, err);
    if (result < 0)
        return result;
    if (r->events & ~VIRTIO_GPU_EVENT_DISPLAY || r->cursor_shown > 1 || r->width < SIDE_MIN ||
        r->width > SIDE_MAX || r->height < SIDE_MIN || r->height > SCREEN_MAX_HEIGHT ||
        (r->scanout && (!gpu_rect_inside(&part, shown.width, shown.height) ||
                        r->scanout_w > SCREEN_MAX_WIDTH || r->scanout_h > SCREEN_MAX_HEIGHT)))
        return err_set(err, EINVAL, "the display adapter cannot be in the saved state");
    return 0;
}

void gpu_destroy(struct device *dev)
{
    struct gpu *gpu = gpu_of(virtio_of(dev));
    virtio_fini(&gpu->vdev);
    gpu_resources_drop(gpu);
    gpu_forget_saved(gpu);
    free(gpu->bounce);
    pthread_mutex_destroy(&gpu->lock);
    free(gpu);
}

#define GPU_OPS                                                                       \
    .id = VIRTIO_ID_GPU, .config = gpu_config, .config_write = gpu_config_write,      \
    .queue = gpu_queue, .reset = gpu_reset, .pause = gpu_pause, .resume = gpu_resume, \
    .loaded = gpu_loaded
static const struct virtio_ops gpu_ops = { GPU_OPS, .class_code = 0x038000 };
/* With a VGA in it: what QEMU's virtio-vga is to drivers. */
static const struct virtio_ops gpu_vga_ops = {
    GPU_OPS,
    .class_code = 0x030000,
    .bar_mapped = gpu_vga_bar_mapped,
};

static const struct state_field gpu_fields[] = {
    GPU_REGS_FIELDS,
    STATE_END,
};
static const struct state_desc gpu_state = {
    .name = "virtio-gpu",
    .version = 1,
    .base = offsetof(struct gpu, regs),
    .size = sizeof(struct gpu_regs),
    .fields = gpu_fields,
    .check = gpu_check,
};
static const struct device_type gpu_type = {
    .name = "virtio-gpu",
    .about = "a virtio display adapter",
    VIRTIO_DEVICE_FUNCTIONS,
    .destroy = gpu_destroy,
    .state = &gpu_state,
};

int virtio_gpu_create(struct machine *m, const struct virtio_gpu_options *options,
                      struct pci_device **out, struct err *err)
{
    struct gpu *gpu = calloc(1, sizeof *gpu);
    uint8_t *bounce = malloc(GPU_BOUNCE);
    if (!gpu || !bounce) {
        free(gpu);
        free(bounce);
        return err_set(err, ENOMEM, "out of memory");
    }
    pthread_mutex_init(&gpu->lock, NULL);
    gpu->bounce = bounce;
    gpu->screen = options->screen;
    gpu->is_vga = options->vga;
    gpu->regs.width = options->width ? options->width : WIDTH_DEFAULT;
    gpu->regs.height = options->height ? options->height : HEIGHT_DEFAULT;
    const struct virtio_params params = { .ops = gpu->is_vga ? &gpu_vga_ops : &gpu_ops,
                                          .id = options->id,
                                          .regs = &gpu->regs.virtio,
                                          .features = 1ull << VIRTIO_GPU_F_EDID,
                                          .queues = QUEUES,
                                          .config_len = sizeof(struct virtio_gpu_config),
                                          .queue_size = QUEUE_SIZE,
                                          .bar = gpu->is_vga ? GPU_VGA_BAR : VIRTIO_BAR,
                                          .bar_offset = gpu->is_vga ? GPU_VGA_BAR_OFFSET : 0,
                                          .loops = options->loop ? &options->loop : NULL,
                                          .loop_count = options->loop ? 1 : 0 };
    int r = virtio_init(&gpu->vdev, m, gpu->is_vga ? &gpu_vga_type : &gpu_type, &params, err);
    if (r == 0 && gpu->is_vga)
        r = gpu_vga_init(gpu, options, err);
    if (r < 0) {
        gpu_destroy(&gpu->vdev.pci.dev);
        return r;
    }
    screen_set_source(gpu->screen,
                      &(struct screen_source){ .draw = gpu->is_vga ? gpu_vga_draw : gpu_draw,
                                               .text = gpu->is_vga ? gpu_vga_text : NULL,
                                               .resize = gpu_resize,
                                               .arg = gpu });
    gpu_dirty_all(gpu);
    *out = &gpu->vdev.pci;
    return 0;
}
