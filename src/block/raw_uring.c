/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Raw images through io_uring: one ring for each queue.
 *
 * io_uring would carry out system calls that seccomp forbids, so a ring is bound before it is
 * enabled: only reads, writes, fsync and fallocate, and only on the one registered file. What is
 * finished is signalled through the queue's eventfd, which the loop watches.
 */
#include "block/raw.h"

#include "base/checked.h"
#include "base/log.h"

#include <liburing.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

enum { URING_ENTRIES = 128 };

struct uring_queue {
    struct block_queue queue;
    struct io_uring ring;
    unsigned in_ring;                              /* submitted or about to be; <= cq entries */
    struct block_request *waiting, **waiting_tail; /* for room in the ring */
};

static const uint8_t uring_ops[] = {
    IORING_OP_READV,
    IORING_OP_WRITEV,
    IORING_OP_FSYNC,
    IORING_OP_FALLOCATE,
};

/* ---- the ring ---- */

static bool uring_has_ops(struct io_uring *ring)
{
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    bool all = probe != NULL;
    for (unsigned i = 0; all && i < ARRAY_LEN(uring_ops); i++)
        all = io_uring_opcode_supported(probe, uring_ops[i]);
    io_uring_free_probe(probe);
    return all;
}

/* Debian 12's liburing.so lacks the wrappers of the two calls that need this. */
static int uring_register(struct io_uring *ring, unsigned what, void *arg, unsigned count)
{
    long r = syscall(__NR_io_uring_register, ring->ring_fd, what, arg, count);
    return r < 0 ? -errno : 0;
}

static int uring_bind(struct io_uring *ring, int fd, int event_fd)
{
    struct io_uring_restriction rules[ARRAY_LEN(uring_ops) + 2] = { 0 };
    unsigned n = 0;
    for (; n < ARRAY_LEN(uring_ops); n++) {
        rules[n].opcode = IORING_RESTRICTION_SQE_OP;
        rules[n].sqe_op = uring_ops[n];
    }
    rules[n].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
    rules[n++].sqe_flags = IOSQE_FIXED_FILE;
    rules[n].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    rules[n++].sqe_flags = IOSQE_FIXED_FILE;

    int r = io_uring_register_files(ring, &fd, 1);
    if (!r)
        r = io_uring_register_eventfd(ring, event_fd);
    if (!r)
        r = uring_register(ring, IORING_REGISTER_RESTRICTIONS, rules, n);
    if (!r)
        r = uring_register(ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    return r;
}

static int uring_make(struct io_uring *ring, int fd, int event_fd)
{
    struct io_uring_params params = { .flags = IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP };
    int r = io_uring_queue_init_params(URING_ENTRIES, ring, &params);
    if (r < 0)
        return r;
    unsigned need = IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;
    r = (params.features & need) == need && uring_has_ops(ring) ? uring_bind(ring, fd, event_fd)
                                                                : -EOPNOTSUPP;
    if (r < 0)
        io_uring_queue_exit(ring);
    return r;
}

bool raw_uring_works(void)
{
    AUTO(fd_close) int fd = eventfd(0, EFD_CLOEXEC);
    struct io_uring ring;
    int r = fd < 0 ? -errno : uring_make(&ring, fd, fd);
    if (r < 0) {
        log_info("io_uring is not to be had (%s); disks use threads", strerror(-r));
        return false;
    }
    io_uring_queue_exit(&ring);
    return true;
}

/* ---- requests ---- */

static struct uring_queue *uring_of(struct block_queue *queue)
{
    return CONTAINER_OF(queue, struct uring_queue, queue);
}

static void uring_wait(struct uring_queue *uring, struct block_request *req)
{
    req->next = NULL;
    *uring->waiting_tail = req;
    uring->waiting_tail = &req->next;
}

static void uring_fill(struct io_uring_sqe *sqe, const struct raw_io *io)
{
    switch (io->call) {
    case RAW_READ: io_uring_prep_readv(sqe, 0, io->iov, io->count, io->offset); break;
    case RAW_WRITE: io_uring_prep_writev2(sqe, 0, io->iov, io->count, io->offset, io->flags); break;
    case RAW_SYNC: io_uring_prep_fsync(sqe, 0, IORING_FSYNC_DATASYNC); break;
    case RAW_FALLOCATE:
        io_uring_prep_fallocate(sqe, 0, io->mode, (off_t)io->offset, (off_t)io->len);
        break;
    }
    sqe->flags |= IOSQE_FIXED_FILE;
}

/* Puts the request's next call into the ring. False: no room now. */
static bool uring_push(struct uring_queue *uring, struct block_request *req)
{
    if (uring->in_ring >= *uring->ring.cq.kring_entries)
        return false;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
    if (!sqe) {
        io_uring_submit(&uring->ring);
        sqe = io_uring_get_sqe(&uring->ring);
        if (!sqe)
            return false;
    }
    struct raw_io io;
    raw_next(raw_of(uring->queue.node), req, &io);
    uring_fill(sqe, &io);
    io_uring_sqe_set_data(sqe, req);
    uring->in_ring++;
    return true;
}

static void uring_push_waiting(struct uring_queue *uring)
{
    while (uring->waiting && uring_push(uring, uring->waiting)) {
        uring->waiting = uring->waiting->next;
        if (!uring->waiting)
            uring->waiting_tail = &uring->waiting;
    }
}

static void uring_submit(struct block_queue *queue, struct block_request *req)
{
    struct uring_queue *uring = uring_of(queue);
    struct raw *raw = raw_of(queue->node);
    if (req->op == BLOCK_STATUS) {
        /* The one call that io_uring lacks. It reads no data, only the map of the file. */
        block_complete_later(req, raw_status(raw, req));
        return;
    }
    if (raw->unsafe && req->op == BLOCK_FLUSH) {
        block_complete_later(req, 0);
        return;
    }
    int r = raw_prepare(raw, req);
    if (r < 0) {
        block_complete_later(req, r);
        return;
    }
    if (uring->waiting || !uring_push(uring, req))
        uring_wait(uring, req);
}

static void uring_kick(struct block_queue *queue)
{
    struct uring_queue *uring = uring_of(queue);
    if (!io_uring_sq_ready(&uring->ring))
        return;
    int r = io_uring_submit(&uring->ring);
    /* Refused for now (out of memory): what is in flight will bring us here again, and if nothing
     * is, the loop itself. */
    if (r < 0)
        eventfd_write(queue->event_fd, 1);
}

static void uring_reap(struct block_queue *queue)
{
    struct uring_queue *uring = uring_of(queue);
    struct raw *raw = raw_of(queue->node);
    struct io_uring_cqe *cqe;

    while (!io_uring_peek_cqe(&uring->ring, &cqe)) {
        struct block_request *req = io_uring_cqe_get_data(cqe);
        int answer = cqe->res, result;
        io_uring_cqe_seen(&uring->ring, cqe);
        uring->in_ring--;
        if (answer == -EAGAIN)
            answer = -EINTR;
        if (raw_result(raw, req, answer, &result))
            block_complete(req, result);
        else if (!uring_push(uring, req))
            uring_wait(uring, req);
    }
    uring_push_waiting(uring);
    uring_kick(queue);
}

/* ---- queues ---- */

static int uring_queue_create(struct block_node *node, const struct block_queue *init,
                              struct block_queue **out, struct err *err)
{
    struct uring_queue *uring = calloc(1, sizeof *uring);
    if (!uring)
        return err_set(err, ENOMEM, "out of memory");
    block_queue_init(&uring->queue, init);
    uring->waiting_tail = &uring->waiting;
    int r = uring_make(&uring->ring, raw_of(node)->fd, init->event_fd);
    if (r < 0) {
        free(uring);
        return err_errno(err, -r, "cannot make an io_uring (raise RLIMIT_MEMLOCK?)");
    }
    *out = &uring->queue;
    return 0;
}

static void uring_queue_destroy(struct block_queue *queue)
{
    struct uring_queue *uring = uring_of(queue);
    io_uring_queue_exit(&uring->ring);
    free(uring);
}

static const char *uring_backend(const struct block_node *node) { return "io_uring"; }

const struct block_driver raw_uring_driver = {
    .name = "raw",
    .about = "a file or block device, byte for byte, through io_uring",
    .close = raw_close,
    .queue_create = uring_queue_create,
    .queue_destroy = uring_queue_destroy,
    .submit = uring_submit,
    .kick = uring_kick,
    .reap = uring_reap,
    .backend = uring_backend,
};
