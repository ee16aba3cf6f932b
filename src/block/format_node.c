/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Queues in front of an image (image.h) and the chain under it (chain.h).
 *
 * A request whose range lies in one piece of the image's file, which is the usual case once a disk
 * is written, goes straight on to a raw node over the same file, so qcow2 data moves like raw data.
 * Everything else, and what would have to wait, is carried out by a pool of threads with the
 * image's blocking calls. Both keep the image's holds while data moves, so they may run mixed.
 *
 * The gate lets jobs change the chain:
 *
 * 1. Each queue counts what is `inside` of it: requests, and its loop while that is reaping or
 *    kicking. `closed` keeps requests out: they wait on their queue's list `held`.
 * 2. While it is closed and all counts are 0, the node belongs to the thread that closed it: no
 * loop touches the chain, the child or the pools, and none gets in before it is opened. (Who looks
 *    whether it is closed counts itself first, and touches nothing when it is.)
 * 3. Opening it signals every queue, and reaping takes in what was held.
 */
#include "block/driver.h"

#include "base/checked.h"
#include "base/log.h"
#include "block/chain.h"
#include "block/image.h"
#include "block/populate.h"
#include "block/workers.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/eventfd.h>

enum {
    FORMAT_MAX_TRANSFER =
        64 << 20,           /* as raw nodes have it: a chain may turn from one to the other */
    FORMAT_PIECE = 2 << 20, /* the largest cluster: a multiple of every other */
    FORMAT_MAX_RANGE = 1 << 30,
};

struct format_queue {
    struct block_queue queue;
    struct block_queue *pool;                /* of the workers; owned */
    atomic_uint inside;                      /* written on the loop */
    struct block_request *held, **held_tail; /* came while the gate was closed */
    struct format_queue *next, **prev;       /* queues_lock */
};

struct old_path { /* names that were given out by block_path */
    struct old_path *next;
    char *path;
};

struct format_node {
    struct block_node node;
    struct chain chain;
    const struct image_format *_Atomic format; /* of the top */
    const char *_Atomic backend;
    atomic_bool flush_failed;
    struct workers workers;
    struct populate populate; /* copy_on_read; chain.rest points to it */
    bool copy_on_read;        /* fixed once open */
    bool readonly;            /* fixed once open */

    atomic_bool closed;
    pthread_mutex_t gate_lock; /* with gate_empty: for the last one out; before queues_lock */
    pthread_cond_t gate_empty;
    pthread_mutex_t queues_lock;
    struct format_queue *queues; /* queues_lock */
    struct old_path *old_paths;  /* while held */
};

static struct format_node *format_of(struct block_node *node)
{
    return CONTAINER_OF(node, struct format_node, node);
}

static struct format_node *format_of_chain(struct chain *chain)
{
    return CONTAINER_OF(chain, struct format_node, chain);
}

static struct format_queue *queue_of(struct block_queue *queue)
{
    return CONTAINER_OF(queue, struct format_queue, queue);
}

/* ---- the gate ---- */

static void gate_leave(struct format_queue *fq)
{
    struct format_node *format = format_of(fq->queue.node);
    if (atomic_fetch_sub(&fq->inside, 1) != 1 || !atomic_load(&format->closed))
        return;
    LOCKED(&format->gate_lock);
    pthread_cond_signal(&format->gate_empty);
}

/* For a new request. */
static bool gate_enter(struct format_queue *fq)
{
    atomic_fetch_add(&fq->inside, 1);
    if (!atomic_load(&format_of(fq->queue.node)->closed))
        return true;
    gate_leave(fq);
    return false;
}

/* For what concerns those inside. */
static bool gate_visit(struct format_queue *fq)
{
    if (atomic_fetch_add(&fq->inside, 1) || !atomic_load(&format_of(fq->queue.node)->closed))
        return true;
    gate_leave(fq);
    return false;
}

static bool gate_busy(struct format_node *format)
{
    LOCKED(&format->queues_lock);
    struct format_queue *fq = format->queues;
    while (fq && !atomic_load(&fq->inside))
        fq = fq->next;
    return fq;
}

static void format_hold(struct chain *chain)
{
    struct format_node *format = format_of_chain(chain);
    LOCKED(&format->gate_lock);
    bool before = atomic_exchange(&format->closed, true);
    assert(!before);
    while (gate_busy(format))
        pthread_cond_wait(&format->gate_empty, &format->gate_lock);
}

static void format_release(struct chain *chain)
{
    struct format_node *format = format_of_chain(chain);
    atomic_store(&format->closed, false);
    LOCKED(&format->queues_lock);
    for (struct format_queue *q = format->queues; q; q = q->next)
        eventfd_write(q->queue.event_fd, 1);
}

/* ---- on the workers ---- */

/* After one failed flush every later one fails: what it should have saved may be gone. */
static int format_flush(struct format_node *format)
{
    int r = image_flush(format->chain.view);
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

/* Between `data` and the bytes of the vector from `skip` on. */
static void iov_move(const struct iovec *iov, uint64_t skip, uint8_t *data, size_t len, bool out)
{
    for (; skip >= iov->iov_len; iov++)
        skip -= iov->iov_len;
    for (size_t part; len; len -= part, data += part, iov++, skip = 0) {
        part = iov->iov_len - skip < len ? iov->iov_len - skip : len;
        uint8_t *at = (uint8_t *)iov->iov_base + skip;
        memcpy(out ? at : data, out ? data : at, part);
    }
}

/* Scattered memory goes through a buffer, of bounded size however large the request is. */
static int format_move(struct image *image, const struct block_request *req)
{
    bool read = req->op == BLOCK_READ;
    unsigned count;
    const struct iovec *iov = block_iov(req, &count);
    if (count == 1)
        return read ? image_read(image, iov->iov_base, req->len, req->offset)
                    : image_write(image, iov->iov_base, req->len, req->offset);
    AUTO(free) uint8_t *data = malloc(req->len < FORMAT_PIECE ? req->len : FORMAT_PIECE);
    if (!data)
        return -ENOMEM;
    int r = 0;
    for (uint64_t at = 0, part; r == 0 && at < req->len; at += part) {
        part = FORMAT_PIECE - ((req->offset + at) & (FORMAT_PIECE - 1));
        part = part < req->len - at ? part : req->len - at;
        if (!read)
            iov_move(iov, at, data, part, false);
        r = read ? image_read(image, data, part, req->offset + at)
                 : image_write(image, data, part, req->offset + at);
        if (read && r == 0)
            iov_move(iov, at, data, part, true);
    }
    return r;
}

static int format_execute(struct block_node *node, struct block_request *req)
{
    struct format_node *format = format_of(node);
    struct image *image = format->chain.view;
    int r = -EINVAL;
    switch (req->op) {
    case BLOCK_READ:
    case BLOCK_WRITE: r = format_move(image, req); break;
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

static void format_finished(struct block_request *req, int result)
{
    struct format_node *format = format_of(req->format_queue->node);
    struct image *image = format->chain.top;
    if (req->direct && req->op == BLOCK_FLUSH && result < 0)
        atomic_store(&format->flush_failed, true);
    if (req->direct && !image->format->plain && req->op != BLOCK_FLUSH)
        image->format->direct_done(image, &req->hold);
    gate_leave(queue_of(req->format_queue));
}

/* Only a format's own range checks stand between a request and the file. */
static bool format_find_direct(struct format_node *format, struct block_request *req)
{
    const struct chain *chain = &format->chain;
    struct image *image = chain->top;
    const struct image_format *kind = image->format;
    /* What is read straight from the top concerns no tap. */
    if (chain->view != image && req->op != BLOCK_READ)
        return false;
    if (kind->plain)
        return req->op != BLOCK_FLUSH || !atomic_load(&format->flush_failed);
    bool whole = image->direct_store == image->store && kind->is_clean(image);
    bool write = req->op == BLOCK_WRITE;
    switch (req->op) {
    case BLOCK_FLUSH: return whole && !atomic_load(&format->flush_failed);
    case BLOCK_READ:
    case BLOCK_WRITE:
        return !(write && (req->flags & BLOCK_FUA) && !whole) &&
               kind->direct_map(image, &req->hold, req->offset, req->len, write, &req->at);
    default: return false;
    }
}

/* ---- queues ---- */

/* A request that is inside the gate. */
static void format_go(struct block_queue *queue, struct block_request *req)
{
    req->format_queue = queue;
    req->finished = format_finished;
    req->direct = queue->child && format_find_direct(format_of(queue->node), req);
    if (req->direct) {
        block_pass(queue, req);
        return;
    }
    workers_submit(queue_of(queue)->pool, req);
}

static void format_submit(struct block_queue *queue, struct block_request *req)
{
    struct format_queue *fq = queue_of(queue);
    if (gate_enter(fq)) {
        format_go(queue, req);
        return;
    }
    req->next = NULL;
    *fq->held_tail = req;
    fq->held_tail = &req->next;
}

static void format_kick_inside(struct block_queue *queue)
{
    if (queue->child)
        queue->child->node->driver->kick(queue->child);
    workers_kick(queue_of(queue)->pool);
}

static void format_kick(struct block_queue *queue)
{
    if (!gate_visit(queue_of(queue)))
        return;
    format_kick_inside(queue);
    gate_leave(queue_of(queue));
}

static void format_reap(struct block_queue *queue)
{
    struct format_queue *fq = queue_of(queue);
    if (!gate_visit(fq))
        return;
    bool more = fq->held != NULL;
    while (fq->held && gate_enter(fq)) {
        struct block_request *req = fq->held;
        fq->held = req->next;
        if (!fq->held)
            fq->held_tail = &fq->held;
        format_go(queue, req);
    }
    if (more)
        format_kick_inside(queue);
    if (queue->child)
        queue->child->node->driver->reap(queue->child);
    workers_reap(fq->pool);
    gate_leave(fq);
}

static void format_queue_destroy(struct block_queue *queue)
{
    struct format_node *format = format_of(queue->node);
    struct format_queue *fq = queue_of(queue);
    if (fq->prev) {
        LOCKED(&format->queues_lock);
        *fq->prev = fq->next;
        if (fq->next)
            fq->next->prev = fq->prev;
    }
    if (fq->pool)
        workers_queue_destroy(fq->pool);
    free(fq);
}

static int format_queue_create(struct block_node *node, const struct block_queue *init,
                               struct block_queue **out, struct err *err)
{
    struct format_node *format = format_of(node);
    struct format_queue *fq = calloc(1, sizeof *fq);
    if (!fq)
        return err_set(err, ENOMEM, "out of memory");
    block_queue_init(&fq->queue, init);
    fq->held_tail = &fq->held;
    int r = workers_queue_create(&format->workers, &fq->queue, &fq->pool, err);
    if (r == 0 && node->child)
        r = block_queue_open_child(&fq->queue, err);
    if (r < 0) {
        format_queue_destroy(&fq->queue);
        return r;
    }
    LOCKED(&format->queues_lock);
    fq->next = format->queues;
    fq->prev = &format->queues;
    if (fq->next)
        fq->next->prev = &fq->next;
    format->queues = fq;
    *out = &fq->queue;
    return 0;
}

/* ---- the node ---- */

static void format_close(struct block_node *node)
{
    struct format_node *format = format_of(node);
    workers_fini(&format->workers);
    if (format->chain.rest)
        populate_fini(&format->populate);
    image_close(format->chain.top);
    while (format->old_paths) {
        struct old_path *old = format->old_paths;
        format->old_paths = old->next;
        free(old->path);
        free(old);
    }
    pthread_mutex_destroy(&format->queues_lock);
    pthread_cond_destroy(&format->gate_empty);
    pthread_mutex_destroy(&format->gate_lock);
    free(format);
}

static const char *format_backend(const struct block_node *node)
{
    return CONTAINER_OF(node, const struct format_node, node)->backend;
}

static const char *format_name(const struct block_node *node)
{
    const struct image_format *format = CONTAINER_OF(node, const struct format_node, node)->format;
    return format->name;
}

static const struct block_driver format_driver = {
    .name = "format",
    .about = "an image in a format",
    .close = format_close,
    .queue_create = format_queue_create,
    .queue_destroy = format_queue_destroy,
    .submit = format_submit,
    .kick = format_kick,
    .reap = format_reap,
    .backend = format_backend,
    .format = format_name,
};

struct chain *format_node_chain(struct block_node *node)
{
    if (node->driver != &format_driver || !format_of(node)->chain.hold)
        return NULL;
    return &format_of(node)->chain;
}

/* A raw node over the same open file, for direct requests. */
static int format_open_child(struct format_node *format, const struct block_options *options,
                             struct err *err)
{
    struct image *image = format->chain.top;
    struct block_node *node = &format->node;
    format->backend = "threads";
    if (!image->direct_store || image->direct_store->fd < 0 ||
        !(image->format->direct_map || image->format->plain))
        return 0;
    int fd = fcntl(image->direct_store->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return err_errno(err, errno, "cannot duplicate its descriptor");
    struct block_options child = *options;
    child.no_lock = true; /* the image has it */
    int r = raw_open(&child, fd, &node->child, err);
    if (r < 0)
        return r;
    node->child->parent = node;
    format->backend = block_backend(node->child);
    return 0;
}

/* The size that users see: a raw file's missing end reads as zeros. */
static uint64_t format_size(const struct format_node *format)
{
    struct image *image = format->chain.top;
    uint64_t align = format->node.limits.request_align;
    align = align < 512 ? 512 : align;
    if (image->format->plain)
        image->size = round_up(image->size, align);
    return round_down(image->size, align);
}

/* ---- the chain changed ---- */

static void format_renew_child(struct format_node *format)
{
    struct block_node *node = &format->node, *old = node->child;
    struct err err = { 0 };
    for (struct format_queue *fq = format->queues; fq; fq = fq->next)
        block_queue_close_child(&fq->queue);
    node->child = NULL;
    block_close(old);
    /* Rings cannot be made any more once the process is locked down. */
    struct block_options options = { .path = image_path(format->chain.top),
                                     .readonly = format->readonly,
                                     .no_uring = true };
    int r = format_open_child(format, &options, &err);
    for (struct format_queue *fq = format->queues; node->child && r == 0 && fq; fq = fq->next)
        r = block_queue_open_child(&fq->queue, &err);
    if (r < 0)
        log_warning("%s: requests go the slow way: %s", options.path, err.text);
}

/* Copying on read as long as there is something to copy from. */
static void format_rest(struct format_node *format)
{
    struct chain *chain = &format->chain;
    if (chain->rest)
        populate_fini(&format->populate);
    chain->rest = NULL;
    if (format->copy_on_read && chain->top->backing && chain->top->cluster_size) {
        populate_init(&format->populate, chain->top, UINT32_MAX, false, true);
        chain->rest = &format->populate.tap.image;
    }
    chain_unset_view(chain);
}

static void format_changed(struct chain *chain)
{
    struct format_node *format = format_of_chain(chain);
    struct block_node *node = &format->node;
    const char *path = image_path(chain->top);
    if (strcmp(node->path, path) != 0) {
        struct old_path *old = malloc(sizeof *old);
        char *new = strdup(path);
        if (!old || !new)
            abort();
        *old = (struct old_path){ format->old_paths, node->path };
        format->old_paths = old;
        node->path = new;
    }
    format->format = chain->top->format;
    LOCKED(&format->queues_lock);
    format_renew_child(format);
    block_node_resize(node, format_size(format));
    format_rest(format);
}

int format_node_open(const struct block_options *options, const char *name,
                     struct store *take_store, struct block_node **out, struct err *err)
{
    AUTO(store_close) struct store *store = take_store;
    store->no_flush = options->cache == BLOCK_CACHE_UNSAFE;
    struct image_options image_options = {
        .path = options->path,
        .format = name,
        .readonly = options->readonly,
        .no_lock = options->no_lock,
        .direct = options->cache == BLOCK_CACHE_DIRECT,
        .unsafe = options->cache == BLOCK_CACHE_UNSAFE,
        .opener = options->opener,
        .secret = options->secret,
    };
    struct format_node *format = calloc(1, sizeof *format);
    if (!format)
        return err_set(err, ENOMEM, "out of memory");
    workers_init(&format->workers, &format_workers, &format->node);
    pthread_mutex_init(&format->gate_lock, NULL);
    pthread_cond_init(&format->gate_empty, NULL);
    pthread_mutex_init(&format->queues_lock, NULL);
    AUTO(block_close) struct block_node *node = &format->node;
    int r = block_node_init(node, &format_driver, options->path, err);
    if (r < 0)
        return r;
    r = image_open_within(&image_options, TAKE(store), &format->chain.top, err);
    if (r == 0)
        r = format_open_child(format, options, err);
    if (r < 0)
        return r;
    const struct image *image = format->chain.top;
    format->format = image->format;
    format->copy_on_read = options->copy_on_read && !options->readonly;
    format_rest(format);
    if (options->live) {
        format->chain.hold = format_hold;
        format->chain.release = format_release;
        format->chain.changed = format_changed;
    }
    uint32_t align = node->child ? node->child->limits.request_align : 1;
    format->readonly = node->readonly = options->readonly || !image->format->write;
    node->limits = (struct block_limits){
        .request_align = align,
        .max_transfer = FORMAT_MAX_TRANSFER,
        .max_segments = IOV_MAX,
        .max_discard = FORMAT_MAX_RANGE,
        .discard_align = image->discard_unit   ? image->discard_unit
                         : image->cluster_size ? image->cluster_size
                                               : 512,
        .max_write_zeroes = FORMAT_MAX_RANGE,
    };
    if (image->format->plain && node->child)
        node->limits.discard_align = node->child->limits.discard_align;
    node->size = format_size(format);
    *out = TAKE(node);
    return 0;
}
