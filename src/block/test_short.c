/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The filter "short" for tests: linked (--wrap) under all reads and writes of files, it moves only
 * a part of what is asked for, as the kernel may when a signal comes or space runs out.
 *
 * Direct access keeps whole blocks, since the kernel never cuts one.
 */
#include <fcntl.h>
#include <liburing.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/uio.h>

enum { BLOCK = 4096, IOV_ROOM = 1024 };

static atomic_uint turn;

/* At least a byte, or a block. */
static size_t part_of(size_t len, size_t unit)
{
    static const unsigned parts[] = { 1, 2, 3, 7, 50 };
    unsigned which = atomic_fetch_add(&turn, 1) % 6;
    if (which == 5 || len <= unit)
        return len;
    size_t part = len / parts[which] / unit * unit;
    return part ? part : unit;
}

static size_t unit_of(int fd) { return fcntl(fd, F_GETFL) & O_DIRECT ? BLOCK : 1; }

ssize_t __real_pread64(int fd, void *data, size_t len, off_t offset);
ssize_t __wrap_pread64(int fd, void *data, size_t len, off_t offset);
ssize_t __wrap_pread64(int fd, void *data, size_t len, off_t offset)
{
    return __real_pread64(fd, data, part_of(len, unit_of(fd)), offset);
}

ssize_t __real_pwrite64(int fd, const void *data, size_t len, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t len, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t len, off_t offset)
{
    return __real_pwrite64(fd, data, part_of(len, unit_of(fd)), offset);
}

/* A copy of the vector that ends earlier: the number of its entries, or 0 where it stays. */
static int vector_cut(const struct iovec *iov, unsigned count, size_t unit, struct iovec *out)
{
    size_t total = 0;
    for (unsigned i = 0; i < count; i++)
        total += iov[i].iov_len;
    size_t left = part_of(total, unit);
    if (left == total || count > IOV_ROOM)
        return 0;
    unsigned n = 0;
    for (; left; n++) {
        out[n] = iov[n];
        if (out[n].iov_len > left)
            out[n].iov_len = left;
        left -= out[n].iov_len;
    }
    return (int)n;
}

ssize_t __real_preadv64(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t __wrap_preadv64(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t __wrap_preadv64(int fd, const struct iovec *iov, int count, off_t offset)
{
    struct iovec cut[IOV_ROOM];
    int n = vector_cut(iov, (unsigned)count, unit_of(fd), cut);
    return __real_preadv64(fd, n ? cut : iov, n ? n : count, offset);
}

ssize_t __real_pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    struct iovec cut[IOV_ROOM];
    int n = vector_cut(iov, (unsigned)count, unit_of(fd), cut);
    return __real_pwritev64v2(fd, n ? cut : iov, n ? n : count, offset, flags);
}

/* The kernel copies vectors while it takes requests in. Which file it is stays unknown here, so
 * blocks stay whole. */
int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring)
{
    struct iovec(*cuts)[IOV_ROOM] = calloc(io_uring_sq_ready(ring) + 1, sizeof *cuts);
    if (!cuts)
        abort();
    for (unsigned i = 0, at = ring->sq.sqe_head; at != ring->sq.sqe_tail; i++, at++) {
        struct io_uring_sqe *sqe = &ring->sq.sqes[at & *ring->sq.kring_mask];
        if (sqe->opcode != IORING_OP_READV && sqe->opcode != IORING_OP_WRITEV)
            continue;
        const struct iovec *iov = (const struct iovec *)(uintptr_t)sqe->addr;
        int n = vector_cut(iov, sqe->len, BLOCK, cuts[i]);
        if (n) {
            sqe->addr = (uintptr_t)cuts[i];
            sqe->len = (unsigned)n;
        }
    }
    int r = __real_io_uring_submit(ring);
    free(cuts);
    return r;
}
