/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Raw images through a pool of threads (workers.h), one pool for each node, where io_uring is
 * refused. A worker carries a request through all its calls.
 */
#include "block/raw.h"

#include <fcntl.h>

/* ---- on the workers ---- */

static int threads_call(const struct raw *raw, const struct raw_io *io)
{
    ssize_t r = -1;
    switch (io->call) {
    case RAW_READ: r = preadv(raw->fd, io->iov, (int)io->count, (off_t)io->offset); break;
    case RAW_WRITE:
        r = pwritev2(raw->fd, io->iov, (int)io->count, (off_t)io->offset, io->flags);
        break;
    case RAW_SYNC: r = fdatasync(raw->fd); break;
    case RAW_FALLOCATE: r = fallocate(raw->fd, io->mode, (off_t)io->offset, (off_t)io->len); break;
    }
    return r < 0 ? -errno : (int)r;
}

static int threads_execute(struct block_node *node, struct block_request *req)
{
    struct raw *raw = raw_of(node);
    if (req->op == BLOCK_STATUS)
        return raw_status(raw, req);
    struct raw_io io;
    int answer, result = 0;
    do {
        raw_next(raw, req, &io);
        answer = threads_call(raw, &io);
    } while (!raw_result(raw, req, answer, &result));
    return result;
}

const struct workers_kind raw_workers = {
    .name = "disk",
    .stack = 256 << 10,
    .execute = threads_execute,
};

/* ---- queues ---- */

static void threads_submit(struct block_queue *queue, struct block_request *req)
{
    struct raw *raw = raw_of(queue->node);
    if (raw->unsafe && req->op == BLOCK_FLUSH) {
        block_complete_later(req, 0);
        return;
    }
    int r = raw_prepare(raw, req);
    if (r < 0)
        block_complete_later(req, r);
    else
        workers_submit(queue, req);
}

static int threads_queue_create(struct block_node *node, const struct block_queue *init,
                                struct block_queue **out, struct err *err)
{
    return workers_queue_create(&raw_of(node)->workers, init, out, err);
}

static const char *threads_backend(const struct block_node *node) { return "threads"; }

const struct block_driver raw_threads_driver = {
    .name = "raw",
    .about = "a file or block device, byte for byte, through a pool of threads",
    .close = raw_close,
    .queue_create = threads_queue_create,
    .queue_destroy = workers_queue_destroy,
    .submit = threads_submit,
    .kick = workers_kick,
    .reap = workers_reap,
    .backend = threads_backend,
};
