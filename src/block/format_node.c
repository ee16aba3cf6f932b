/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Queues in front of an image (image.h).
 *
 * A request whose range lies in one piece of the image's file, which is the usual case once a disk
 * is written, goes straight on to a raw node over the same file, so qcow2 data moves like raw data.
 * Everything else, and what would have to wait, is carried out by a pool of threads with the
 * image's blocking calls. Both keep the image's holds while data moves, so they may run mixed.
 */
#include "block/driver.h"

#include "base/checked.h"
#include "base/log.h"
#include "block/image.h"
#include "block/workers.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>

enum {
    FORMAT_MAX_TRANSFER = 16 << 20,
    FORMAT_MAX_RANGE = 1 << 30,
};

struct format_node {
    struct block_node node;
    struct image *image;
    atomic_bool flush_failed;
    struct workers workers;
};

static struct format_node *format_of(struct block_node *node)
{
    return CONTAINER_OF(node, struct format_node, node);
}

/* ---- on the workers ---- */

/* After one failed flush every later one fails: what it should have saved may be gone. */
static int format_flush(struct format_node *format)
{
    int r = image_flush(format->image);
    if (r < 0 && !atomic_exchange(&format->flush_failed, true))
        log_error("%s: flushing failed (%s); what was written since the last flush may be lost",
                  format->node.path, strerror(-r));
    return r == 0 && atomic_load(&format->flush_failed) ? -EIO : r;
}

static int format_status(struct image *image, struct block_request *req)
{
    struct image_extent extent;
    unsigned depth;
    int r = image_map(image, req->offset, req->len, &extent, &depth);
    if (r < 0)
        return r;
    req->status = (depth == 0 && (extent.flags & IMAGE_ALLOCATED) ? BLOCK_DATA : 0) |
                  (extent.flags & IMAGE_ZERO ? BLOCK_ZERO : 0);
    if (req->status & BLOCK_ZERO)
        req->status &= ~(unsigned)BLOCK_DATA;
    req->status_len = extent.len;
    return 0;
}

static int format_execute(struct block_node *node, struct block_request *req)
{
    struct format_node *format = format_of(node);
    struct image *image = format->image;
    unsigned count;
    const struct iovec *iov = block_iov(req, &count);
    int r = -EINVAL;
    switch (req->op) {
    case BLOCK_READ: r = image_read(image, iov->iov_base, req->len, req->offset); break;
    case BLOCK_WRITE: r = image_write(image, iov->iov_base, req->len, req->offset); break;
    case BLOCK_FLUSH: return format_flush(format);
    case BLOCK_DISCARD: r = image_discard(image, req->offset, req->len); break;
    case BLOCK_WRITE_ZEROES:
        r = image_zero(image, req->offset, req->len, req->flags & BLOCK_UNMAP ? IMAGE_UNMAP : 0);
        break;
    case BLOCK_STATUS: r = format_status(image, req); break;
    }
    bool durable =
        (req->flags & BLOCK_FUA) && (req->op == BLOCK_WRITE || req->op == BLOCK_WRITE_ZEROES);
    return r == 0 && durable ? format_flush(format) : r;
}

static const struct workers_kind format_workers = {
    .name = "image",
    .stack = 512 << 10,
    .execute = format_execute,
};

/* ---- straight to the file ---- */

static void format_direct_done(struct block_request *req, int result)
{
    struct format_node *format = format_of(req->format_queue->node);
    if (req->op == BLOCK_FLUSH && result < 0)
        atomic_store(&format->flush_failed, true);
    if (req->op != BLOCK_FLUSH)
        format->image->format->direct_done(format->image, &req->hold);
}

static bool format_direct(struct block_queue *queue, struct block_request *req)
{
    struct format_node *format = format_of(queue->node);
    struct image *image = format->image;
    const struct image_format *kind = image->format;
    uint64_t host = 0;
    if (!queue->child)
        return false;
    if (req->op == BLOCK_FLUSH) {
        if (image->direct_store != image->store || !kind->is_clean(image) ||
            atomic_load(&format->flush_failed))
            return false;
    } else if (req->op == BLOCK_READ || req->op == BLOCK_WRITE) {
        bool write = req->op == BLOCK_WRITE;
        if ((write && (req->flags & BLOCK_FUA) &&
             (image->direct_store != image->store || !kind->is_clean(image))) ||
            !kind->direct_map(image, &req->hold, req->offset, req->len, write, &host))
            return false;
    } else {
        return false;
    }
    req->at = host;
    req->format_queue = queue;
    req->finished = format_direct_done;
    block_pass(queue, req);
    return true;
}

/* ---- queues ---- */

static void format_submit(struct block_queue *queue, struct block_request *req)
{
    if (format_direct(queue, req))
        return;
    if ((req->op == BLOCK_READ || req->op == BLOCK_WRITE) && req->iov_count != 1) {
        int r = block_bounce(req);
        if (r < 0) {
            block_complete_later(req, r);
            return;
        }
    }
    workers_submit(queue, req);
}

static void format_kick(struct block_queue *queue)
{
    if (queue->child)
        queue->child->node->driver->kick(queue->child);
    workers_kick(queue);
}

static void format_reap(struct block_queue *queue)
{
    if (queue->child)
        queue->child->node->driver->reap(queue->child);
    workers_reap(queue);
}

static int format_queue_create(struct block_node *node, const struct block_queue *init,
                               struct block_queue **out, struct err *err)
{
    struct block_queue *queue;
    int r = workers_queue_create(&format_of(node)->workers, init, &queue, err);
    if (r < 0)
        return r;
    if (node->child)
        r = block_queue_open_child(queue, err);
    if (r < 0) {
        workers_queue_destroy(queue);
        return r;
    }
    *out = queue;
    return 0;
}

/* ---- the node ---- */

static void format_close(struct block_node *node)
{
    struct format_node *format = format_of(node);
    workers_fini(&format->workers);
    image_close(format->image);
    free(format);
}

static const char *format_backend(const struct block_node *node)
{
    return node->child ? block_backend(node->child) : "threads";
}

static const char *format_name(const struct block_node *node)
{
    return CONTAINER_OF(node, const struct format_node, node)->image->format->name;
}

static const struct block_driver format_driver = {
    .name = "format",
    .about = "an image in a format",
    .close = format_close,
    .queue_create = format_queue_create,
    .queue_destroy = workers_queue_destroy,
    .submit = format_submit,
    .kick = format_kick,
    .reap = format_reap,
    .backend = format_backend,
    .format = format_name,
};

/* A raw node over the same open file, for direct requests. */
static int format_open_child(struct format_node *format, const struct block_options *options,
                             struct err *err)
{
    struct image *image = format->image;
    if (!image->direct_store || image->direct_store->fd < 0 || !image->format->direct_map)
        return 0;
    int fd = fcntl(image->direct_store->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return err_errno(err, errno, "cannot duplicate its descriptor");
    struct block_options child = *options;
    child.no_lock = true; /* the image has it */
    return raw_open(&child, fd, &format->node.child, err);
}

int format_node_open(const struct block_options *options, const char *name, int take_fd,
                     struct block_node **out, struct err *err)
{
    struct store *store;
    int r = store_open_fd(take_fd, !options->no_lock, &store, err);
    if (r < 0)
        return r;
    struct image_options image_options = {
        .path = options->path,
        .format = name,
        .readonly = options->readonly,
        .no_lock = options->no_lock,
        .direct = options->cache == BLOCK_CACHE_DIRECT,
        .opener = options->opener,
    };
    struct format_node *format = calloc(1, sizeof *format);
    if (!format) {
        store_close(store);
        return err_set(err, ENOMEM, "out of memory");
    }
    workers_init(&format->workers, &format_workers, &format->node);
    AUTO(block_close) struct block_node *node = &format->node;
    r = block_node_init(node, &format_driver, options->path, err);
    if (r < 0) {
        store_close(store);
        return r;
    }
    r = image_open_within(&image_options, store, &format->image, err);
    if (r == 0)
        r = format_open_child(format, options, err);
    if (r < 0)
        return r;
    const struct image *image = format->image;
    uint32_t align = node->child ? node->child->limits.request_align : 1;
    node->size = round_down(image->size, align < 512 ? 512 : align);
    node->readonly = options->readonly || !image->format->write;
    node->limits = (struct block_limits){
        .request_align = align,
        .max_transfer = FORMAT_MAX_TRANSFER,
        .max_segments = IOV_MAX,
        .max_discard = FORMAT_MAX_RANGE,
        .discard_align = image->cluster_size ? image->cluster_size : 512,
        .max_write_zeroes = FORMAT_MAX_RANGE,
    };
    *out = TAKE(node);
    return 0;
}
