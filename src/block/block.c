/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Nodes and queues: opening by name and magic, the checks that every request passes, completion.
 *
 * Invariants:
 * 1. `done` runs once for each request, on the queue's loop, never inside block_submit.
 * 2. A request that reaches a driver is in range, aligned, within the limits and permitted.
 * 3. The outermost queue counts a request from block_submit until just before `done`.
 */
#include "block/driver.h"

#include "base/checked.h"
#include "base/log.h"
#include "block/chain.h"
#include "block/image.h"
#include "block/lock.h"
#include "block/nbd_client.h"
#include "block/probe.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

/* ---- opening ---- */

static int opener_explain(const char *path, int flags, int code, struct err *err)
{
    switch (code) {
    case ENOENT:
        if ((flags & O_ACCMODE) == O_RDONLY)
            return err_set(err, code, "no such file; name an image that is there");
        return err_set(err, code, "no such file; create one with: truncate -s 10G %s", path);
    case EISDIR: return err_set(err, code, "is a directory; name an image or a block device");
    case EROFS: return err_set(err, code, "is on a read-only file system; add readonly or copy it");
    case EACCES:
    case EPERM:
        if ((flags & O_ACCMODE) == O_RDWR && !access(path, R_OK))
            return err_set(err, code, "may only be read; add readonly or: chmod u+w %s", path);
        return err_set(err, code,
                       "permission denied; check the owner and mode of the file and "
                       "its directories");
    case ETXTBSY: return err_set(err, code, "is a program that is running; name a disk image");
    case ENXIO:
    case ENODEV:
    case ENOMEDIUM: return err_set(err, code, "there is no disk behind this device");
    case EINVAL:
        if (flags & O_DIRECT)
            return err_set(err, code, "the file system has no direct I/O; use cache=writeback");
        break;
    }
    return err_errno(err, code, "cannot open");
}

static int opener_check_kind(mode_t mode, struct err *err)
{
    if (S_ISREG(mode) || S_ISBLK(mode))
        return 0;
    const char *kind = S_ISDIR(mode)    ? "a directory"
                       : S_ISCHR(mode)  ? "a character device"
                       : S_ISFIFO(mode) ? "a pipe"
                                        : "a socket";
    return err_set(err, S_ISDIR(mode) ? EISDIR : EINVAL, "is %s; name an image or a block device",
                   kind);
}

static int opener_files_open(const struct block_opener *opener, const char *path, int flags,
                             int *fd, struct err *err)
{
    /* Looked at before as well: opening a pipe or some devices has effects. */
    struct stat st;
    if (!stat(path, &st)) {
        int r = opener_check_kind(st.st_mode, err);
        if (r < 0)
            return r;
    }
    AUTO(fd_close) int new = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (new < 0)
        return opener_explain(path, flags, errno, err);
    if (fstat(new, &st) < 0)
        return err_errno(err, errno, "cannot look at it");
    int r = opener_check_kind(st.st_mode, err);
    if (r < 0)
        return r;
    *fd = TAKE_FD(new);
    return 0;
}
const struct block_opener block_opener_files = { .open = opener_files_open };

static int block_file_size(int fd, uint64_t *out, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_errno(err, errno, "cannot look at it");
    if (S_ISBLK(st.st_mode)) {
        if (ioctl(fd, BLKGETSIZE64, out) < 0)
            return err_errno(err, errno, "cannot ask for the size");
    } else {
        *out = (uint64_t)st.st_size;
    }
    return 0;
}

static int block_open_file(const struct block_options *options, int *fd, const char **guess,
                           struct err *err)
{
    const struct block_opener *opener = options->opener ? options->opener : &block_opener_files;
    int flags = (options->readonly ? O_RDONLY : O_RDWR) |
                (options->cache == BLOCK_CACHE_DIRECT ? O_DIRECT : 0);
    int new;
    int r = opener->open(opener, options->path, flags, &new, err);
    if (r < 0)
        return r;

    AUTO(fd_close) int guarded = new;
    uint64_t size = 0;
    r = block_file_size(guarded, &size, err);
    if (r < 0)
        return r;
    if (!size && options->readonly)
        return err_set(err, EINVAL, "is empty; name an image with something in it");
    if (!size)
        return err_set(err, EINVAL, "is empty; give it a size with: truncate -s 10G %s",
                       options->path);
    if (!options->no_lock) {
        r = lock_image(guarded, options->path, !options->readonly, err);
        if (r < 0)
            return r;
    }
    *guess = NULL;
    if (!options->format) {
        r = probe_file(guarded, size, guess, err);
        if (r < 0)
            return r;
    }
    *fd = TAKE_FD(guarded);
    return 0;
}

static int block_open_format(const struct block_options *options, struct block_node **out,
                             struct err *err)
{
    /* Refused before the file is touched. */
    if (options->format && !image_format_find(options->format))
        return image_no_format(options->format, err);

    int fd = -1;
    const char *guess = NULL;
    int r = block_open_file(options, &fd, &guess, err);
    if (r < 0)
        return r;

    const char *name = options->format ? options->format : guess ? guess : "raw";
    if (!image_format_find(name)) {
        fd_close(fd);
        return err_set(err, ENOTSUP,
                       "format %s is not supported yet; convert it with: qemu-img convert -O raw "
                       "%s NEW.raw",
                       name, options->path);
    }
    bool plain = !strcmp(name, "raw") && !options->live;
    struct store *store;
    struct block_node *new;
    r = plain ? raw_open(options, fd, &new, err)
              : store_open_fd(fd, !options->no_lock, &store, err);
    if (r == 0 && !plain)
        r = format_node_open(options, name, store, &new, err);
    if (r < 0)
        return r;
    if (!options->format && !guess && !options->readonly) {
        log_warning("%s: no known magic, so it is used as raw, and the guest may not write another "
                    "format's magic into it; format=raw says that it is raw",
                    options->path);
        r = guard_open(new, &new, err);
        if (r < 0)
            return r;
    }
    *out = new;
    return 0;
}

/* An export without a format given is raw: its content belongs to a guest. */
static int block_open_nbd(const struct block_options *options, struct block_node **out,
                          struct err *err)
{
    const char *name = options->format ? options->format : "raw";
    struct nbd_client *client;
    struct store *store;
    if (!image_format_find(name))
        return image_no_format(name, err);
    int r = nbd_client_open(options->path, options->readonly, &client, err);
    if (r == 0 && !strcmp(name, "raw"))
        return nbd_node_open(options, client, out, err);
    if (r == 0)
        r = nbd_store_open(client, &store, err);
    return r < 0 ? r : format_node_open(options, name, store, out, err);
}

int block_open(const struct block_options *options, struct block_node **out, struct err *err)
{
    int r = nbd_is_uri(options->path) ? block_open_nbd(options, out, err)
                                      : block_open_format(options, out, err);
    return r < 0 ? err_prefix(err, "%s", options->path) : 0;
}

int block_node_init(struct block_node *node, const struct block_driver *driver, const char *path,
                    struct err *err)
{
    node->driver = driver;
    node->path = strdup(path);
    return node->path ? 0 : err_set(err, ENOMEM, "out of memory");
}

void block_node_resize(struct block_node *node, uint64_t size)
{
    for (; node; node = node->parent)
        atomic_store(&node->size, size);
}

void block_close(struct block_node *node)
{
    if (!node)
        return;
    assert(!atomic_load(&node->queues));
    block_close(node->child);
    free(node->path);
    node->driver->close(node);
}

uint64_t block_size(const struct block_node *node) { return node->size; }
bool block_readonly(const struct block_node *node) { return node->readonly; }
const struct block_limits *block_limits(const struct block_node *node) { return &node->limits; }

static const struct block_node *below_filters(const struct block_node *node)
{
    while (node->driver->filter)
        node = node->child;
    return node;
}

const char *block_path(const struct block_node *node) { return below_filters(node)->path; }
const char *block_format(const struct block_node *node)
{
    node = below_filters(node);
    return node->driver->format ? node->driver->format(node) : node->driver->name;
}
const char *block_backend(const struct block_node *node)
{
    node = below_filters(node);
    return node->driver->backend(node);
}
struct chain *block_chain(struct block_node *node)
{
    return format_node_chain((struct block_node *)below_filters(node));
}

/* ---- completion ---- */

int block_bounce(struct block_request *req)
{
    assert(!req->bounce);
    if (posix_memalign(&req->bounce, 4096, round_up(req->len, 512)))
        return -ENOMEM;
    char *at = req->bounce;
    for (unsigned i = 0; req->op == BLOCK_WRITE && i < req->iov_count; i++) {
        memcpy(at, req->iov[i].iov_base, req->iov[i].iov_len);
        at += req->iov[i].iov_len;
    }
    req->one = (struct iovec){ req->bounce, req->len };
    return 0;
}

static void block_unbounce(struct block_request *req, int result)
{
    const char *at = req->bounce;
    for (unsigned i = 0; !result && req->op == BLOCK_READ && i < req->iov_count; i++) {
        memcpy(req->iov[i].iov_base, at, req->iov[i].iov_len);
        at += req->iov[i].iov_len;
    }
    free(TAKE(req->bounce));
}

void block_complete(struct block_request *req, int result)
{
    struct block_queue *queue = req->queue->outer;
    if (req->finished)
        req->finished(req, result);
    if (req->bounce)
        block_unbounce(req, result);
    free(TAKE(req->rest));
    queue->in_flight--;
    req->done(req, result == -EDQUOT ? -ENOSPC : result);
}

void block_complete_later(struct block_request *req, int result)
{
    struct block_queue *queue = req->queue->outer;
    req->result = result;
    req->next = NULL;
    *queue->ready_tail = req;
    queue->ready_tail = &req->next;
    eventfd_write(queue->event_fd, 1);
}

static void block_queue_event(void *arg, unsigned events)
{
    struct block_queue *queue = arg;
    eventfd_t count;
    eventfd_read(queue->event_fd, &count);

    struct block_request *ready = TAKE(queue->ready);
    queue->ready_tail = &queue->ready;
    while (ready) {
        struct block_request *req = ready;
        ready = req->next;
        block_complete(req, req->result);
    }
    queue->node->driver->reap(queue);
}

/* ---- queues ---- */

void block_queue_init(struct block_queue *queue, const struct block_queue *init)
{
    *queue = *init;
    if (!queue->outer)
        queue->outer = queue;
    queue->ready_tail = &queue->ready;
}

int block_queue_open_child(struct block_queue *queue, struct err *err)
{
    struct block_node *child = queue->node->child;
    struct block_queue init = {
        .node = child, .outer = queue->outer, .loop = queue->loop, .event_fd = queue->event_fd
    };
    int r = child->driver->queue_create(child, &init, &queue->child, err);
    if (!r)
        atomic_fetch_add(&child->queues, 1);
    return r;
}

static void block_queue_free(struct block_queue *queue)
{
    struct block_node *node = queue->node;
    block_queue_close_child(queue);
    node->driver->queue_destroy(queue);
    atomic_fetch_sub(&node->queues, 1);
}

void block_queue_close_child(struct block_queue *queue)
{
    if (queue->child)
        block_queue_free(TAKE(queue->child));
}

int block_queue_create(struct block_node *node, struct loop *loop, struct block_queue **out,
                       struct err *err)
{
    AUTO(fd_close) int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return err_errno(err, errno, "%s: eventfd", node->path);

    struct block_queue init = { .node = node, .loop = loop, .event_fd = fd };
    struct block_queue *queue;
    int r = node->driver->queue_create(node, &init, &queue, err);
    if (r < 0)
        return err_prefix(err, "%s", node->path);
    atomic_fetch_add(&node->queues, 1);
    r = loop_watch_create(loop, fd, LOOP_READ, block_queue_event, queue, &queue->watch, err);
    if (r < 0) {
        block_queue_free(queue);
        return err_prefix(err, "%s", node->path);
    }
    fd = -1;
    *out = queue;
    return 0;
}

unsigned block_in_flight(const struct block_queue *queue) { return queue->in_flight; }

int block_drain(struct block_queue *queue, uint64_t timeout_ms)
{
    assert_on_loop(queue->loop);
    uint64_t now = monotonic_ns();
    uint64_t deadline =
        timeout_ms > (UINT64_MAX - now) / 1000000 ? UINT64_MAX : now + timeout_ms * 1000000;
    int r = 0;
    queue->draining = true;
    block_kick(queue);
    while (queue->in_flight) {
        now = monotonic_ns();
        uint64_t left_ms = deadline > now ? (deadline - now + 999999) / 1000000 : 0;
        struct pollfd poll_fd = { .fd = queue->event_fd, .events = POLLIN };
        int n = poll(&poll_fd, 1, left_ms > 1000 ? 1000 : (int)left_ms);
        if (n > 0)
            block_queue_event(queue, LOOP_READ);
        else if (!left_ms) {
            r = -ETIMEDOUT;
            break;
        }
        block_kick(queue);
    }
    queue->draining = false;
    return r;
}

void block_queue_destroy(struct block_queue *queue)
{
    if (!queue)
        return;
    block_drain(queue, UINT64_MAX);
    loop_watch_destroy(queue->watch);
    int fd = queue->event_fd;
    block_queue_free(queue);
    close(fd);
}

void block_pass(struct block_queue *queue, struct block_request *req)
{
    queue->child->node->driver->submit(queue->child, req);
}

/* ---- requests ---- */

static int block_check_iov(const struct block_request *req, const struct block_limits *limits)
{
    if (req->len > limits->max_transfer || req->iov_count > limits->max_segments)
        return -EINVAL;
    uint64_t total = 0;
    for (unsigned i = 0; i < req->iov_count; i++)
        if (!add_u64(total, req->iov[i].iov_len, &total))
            return -EINVAL;
    return total == req->len ? 0 : -EINVAL;
}

/* Invariant 2. */
static int block_check(const struct block_node *node, const struct block_request *req)
{
    const struct block_limits *limits = &node->limits;
    if (req->op == BLOCK_FLUSH)
        return 0;
    if (((req->offset | req->len) & (limits->request_align - 1)) ||
        !range_fits(req->offset, req->len, node->size))
        return -EINVAL;
    bool writes =
        req->op == BLOCK_WRITE || req->op == BLOCK_DISCARD || req->op == BLOCK_WRITE_ZEROES;
    if (writes && node->readonly)
        return -EROFS;
    switch (req->op) {
    case BLOCK_READ:
    case BLOCK_WRITE: return block_check_iov(req, limits);
    case BLOCK_DISCARD:
        if (!limits->max_discard)
            return -EOPNOTSUPP;
        return req->len <= limits->max_discard ? 0 : -EINVAL;
    case BLOCK_WRITE_ZEROES: return req->len <= limits->max_write_zeroes ? 0 : -EINVAL;
    case BLOCK_STATUS: return req->len ? 0 : -EINVAL;
    default: return -EINVAL;
    }
}

void block_submit(struct block_queue *queue, struct block_request *req)
{
    assert_on_loop(queue->loop);
    req->queue = queue;
    req->next = NULL;
    req->rest = NULL;
    req->bounce = NULL;
    req->finished = NULL;
    req->at = req->offset;
    req->moved = 0;
    req->step = 0;
    queue->in_flight++;

    int r = block_check(queue->node, req);
    if (r < 0 || (!req->len && req->op != BLOCK_FLUSH))
        block_complete_later(req, r);
    else
        queue->node->driver->submit(queue, req);
}

void block_kick(struct block_queue *queue) { queue->node->driver->kick(queue); }
