/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What gpu.c (commands, life), gpu_resource.c (the guest's pictures), gpu_draw.c (pixels for the
 * screen) and gpu_vga.c (a VGA in the same function) share.
 *
 * Threads: commands run on the device's loop, drawing on the main loop. Only the device's loop
 * changes what is under `lock`, so it reads that without; the main loop reads with the lock, a line
 * at a time. Guest memory is never touched with the lock held.
 */
#ifndef DEVICES_VIRTIO_GPU_PRIV_H
#define DEVICES_VIRTIO_GPU_PRIV_H

#include "base/text.h"
#include "devices/vga_priv.h"
#include "devices/virtio/gpu.h"
#include "devices/virtio/virtio_pci.h"

#include <linux/virtio_gpu.h>

enum {
    GPU_MAX_RESOURCES = 4096,
    GPU_MAX_SIDE = 16384,
    GPU_MAX_BACKING = 16384, /* pieces of memory behind one resource */
    GPU_CURSOR = 64,         /* pixels square */
    GPU_DIRTY = 16,          /* areas that are told apart */
};
#define GPU_MAX_BYTES (256ull << 20) /* pixels and pieces of all resources */
enum { GPU_SAVED_MAX = 320 << 20 };  /* that, with the heads */

struct gpu_piece {
    uint64_t gpa;
    uint32_t len;
};

struct gpu_resource {
    struct gpu_resource *next;
    uint32_t id, format, width, height;
    uint32_t *pixels; /* as the guest's format has them */
    struct gpu_piece *pieces;
    uint32_t piece_count;
};

struct gpu_resources {
    struct gpu_resource *first;
    unsigned count;
    uint64_t bytes;
};

struct gpu_area { /* [x0, x1) x [y0, y1) */
    uint32_t x0, y0, x1, y1;
};

struct gpu_regs {
    struct virtio_regs virtio;
    uint32_t events;        /* VIRTIO_GPU_EVENT_*; dev.lock */
    uint32_t width, height; /* that the monitor prefers; gpu->lock */
    /* The rest: the device's loop, gpu->lock to change it */
    uint32_t scanout;              /* resource shown; 0: none */
    uint32_t scanout_x, scanout_y; /* the part of it */
    uint32_t scanout_w, scanout_h;
    uint32_t cursor_shown; /* 0 or 1 */
    uint32_t reserved;
    uint32_t cursor_x, cursor_y; /* two's complement: it may stick out at the top and left */
    uint32_t cursor[GPU_CURSOR * GPU_CURSOR]; /* 0xAARRGGBB, colours multiplied by alpha */
    uint8_t *resources; /* owned; what gpu_resources_save wrote; only set while paused */
    size_t resources_len;
};

struct gpu_vga_regs { /* of an adapter that is a VGA, too */
    struct gpu_regs gpu;
    uint32_t driver_shows; /* 1: a driver has set the scanout since the reset; gpu->lock */
    struct vga_regs vga;   /* dev.lock */
};

struct gpu {
    struct virtio_device vdev;
    union {
        struct gpu_regs regs;
        struct gpu_vga_regs vga_regs;
    };
    bool is_vga;           /* fixed at create */
    struct vga vga;        /* if so */
    struct screen *screen; /* borrowed; main loop */
    pthread_mutex_t lock;  /* leaf */
    /* the device's loop, lock to change */
    struct gpu_resources resources;
    struct gpu_area dirty[GPU_DIRTY]; /* lock: drawing empties it */
    unsigned dirty_count;
    atomic_bool told;                /* the main loop will hear, or has heard, of what is dirty */
    uint8_t *bounce;                 /* GPU_BOUNCE bytes; the device's loop */
    uint32_t line[SCREEN_MAX_WIDTH]; /* main loop */
};
enum { GPU_BOUNCE = 64 << 10 };

/* ---- gpu_resource.c ---- */

struct gpu_resource *gpu_resource_find(const struct gpu *gpu, uint32_t id);
/* Each answers with a VIRTIO_GPU_RESP_*. */
uint32_t gpu_resource_create(struct gpu *gpu, uint32_t id, uint32_t format, uint32_t width,
                             uint32_t height);
/* Takes `pieces` when it answers OK. */
uint32_t gpu_resource_attach(struct gpu *gpu, struct gpu_resource *res, struct gpu_piece *pieces,
                             uint32_t count);
void gpu_resource_detach(struct gpu *gpu, struct gpu_resource *res);
void gpu_resource_destroy(struct gpu *gpu, struct gpu_resource *res);
void gpu_resources_drop(struct gpu *gpu); /* all */
/* From guest memory, `offset` bytes into the backing on. The area is inside the resource. */
uint32_t gpu_resource_transfer(struct gpu *gpu, struct gpu_resource *res,
                               const struct virtio_gpu_rect *area, uint64_t offset);
bool gpu_rect_inside(const struct virtio_gpu_rect *r, uint32_t width, uint32_t height);

/* All resources as bytes, and back into a device that has none. `gpu` NULL: only looks whether the
 * bytes are whole and possible, and finds the resource `want` (may be NULL). */
void gpu_resources_save(const struct gpu *gpu, struct buf *out);
int gpu_resources_load(struct gpu *gpu, const uint8_t *data, size_t len, struct gpu_resource *want,
                       struct err *err);

/* ---- gpu_draw.c ---- */

bool gpu_format_known(uint32_t format);
void gpu_convert(uint32_t format, const uint32_t *from, uint32_t *to, uint32_t count);
/* These parts of the screen changed; the device's loop, or nobody else runs. */
void gpu_dirty(struct gpu *gpu, struct gpu_area area);
void gpu_dirty_all(struct gpu *gpu);
struct gpu_area gpu_cursor_area(const struct gpu *gpu);
/* A screen_source's function; arg is the struct gpu. */
void gpu_draw(void *arg, struct screen *screen);

/* ---- gpu_vga.c ---- */

enum { GPU_VGA_BAR = 2, GPU_VGA_BAR_OFFSET = VIRTIO_BAR_SIZE };
int gpu_vga_init(struct gpu *gpu, const struct virtio_gpu_options *options, struct err *err);
extern const struct device_type gpu_vga_type;
void gpu_vga_bar_mapped(struct virtio_device *vdev, unsigned bar, uint64_t address, bool mapped);
/* A screen_source's functions; arg is the struct gpu. */
void gpu_vga_draw(void *arg, struct screen *screen);
bool gpu_vga_text(void *arg, struct buf *out);

/* ---- gpu.c ---- */

int gpu_check(const void *state, struct err *err);
void gpu_destroy(struct device *dev);
/* State of a struct gpu_regs that is the first member */
/* clang-format off */
#define GPU_REGS_FIELDS                                                      \
    STATE_STRUCT(struct gpu_regs, virtio, &virtio_state),                    \
    STATE_U32(struct gpu_regs, events),                                      \
    STATE_U32(struct gpu_regs, width),                                       \
    STATE_U32(struct gpu_regs, height),                                      \
    STATE_U32(struct gpu_regs, scanout),                                     \
    STATE_U32(struct gpu_regs, scanout_x),                                   \
    STATE_U32(struct gpu_regs, scanout_y),                                   \
    STATE_U32(struct gpu_regs, scanout_w),                                   \
    STATE_U32(struct gpu_regs, scanout_h),                                   \
    STATE_U32(struct gpu_regs, cursor_shown),                                \
    STATE_U32(struct gpu_regs, reserved),                                    \
    STATE_U32(struct gpu_regs, cursor_x),                                    \
    STATE_U32(struct gpu_regs, cursor_y),                                    \
    STATE_UINTS(struct gpu_regs, cursor),                                    \
    STATE_VARBYTES(struct gpu_regs, resources, resources_len, GPU_SAVED_MAX)
/* clang-format on */

/* Does one command: reads `elem->out`, answers into `elem->in`. Returns the bytes written. */
uint32_t gpu_command(struct gpu *gpu, const struct virtqueue_elem *elem);
void gpu_cursor_command(struct gpu *gpu, const struct virtqueue_elem *elem);

#endif
