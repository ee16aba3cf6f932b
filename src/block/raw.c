/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Raw images: a regular file or a block device, byte for byte.
 *
 * A file whose size is no multiple of the sector size is used as people expect: the disk is rounded
 * up, the missing end reads as zeros, and the first write there makes the file that long. A file
 * that lost its end while open answers EIO there, instead of hiding the loss behind zeros.
 *
 * After one failed flush every later flush fails, too: the kernel has dropped the dirty pages and
 * would report the next flush as a success.
 */
#include "block/raw.h"

#include "base/checked.h"
#include "base/log.h"
#include "block/lock.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

enum {
    RAW_MAX_TRANSFER = 64 << 20,
    RAW_MAX_DISCARD = 1 << 30,
    RAW_ZERO_CHUNK = 1 << 20,
    RAW_MEMORY_ALIGN = 4096,
};

/* The steps of a request; WRITE_ZEROES takes the first that the file system can. */
enum raw_step {
    STEP_FIRST,
    STEP_ZERO_RANGE,
    STEP_PUNCH,
    STEP_ALLOCATE, /* after PUNCH, where the space is to be kept */
    STEP_ZERO_WRITE,
    STEP_SYNC,
};

static uint8_t raw_zeros[RAW_ZERO_CHUNK] __attribute__((aligned(RAW_MEMORY_ALIGN)));

/* ---- what a request does ---- */

int raw_prepare(struct raw *raw, struct block_request *req)
{
    if (!raw->direct || req->bounce || (req->op != BLOCK_READ && req->op != BLOCK_WRITE))
        return 0;
    uintptr_t bits = 0;
    for (unsigned i = 0; i < req->iov_count; i++)
        bits |= (uintptr_t)req->iov[i].iov_base | req->iov[i].iov_len;
    return bits & (raw->node.limits.request_align - 1) ? block_bounce(req) : 0;
}

/* The part of the memory that has not moved yet, after a short transfer. */
static const struct iovec *raw_remaining(struct block_request *req, unsigned *count)
{
    const struct iovec *iov = block_iov(req, count);
    if (!req->moved)
        return iov;

    if (!req->rest) {
        req->rest = malloc(*count * sizeof *iov);
        if (!req->rest)
            return NULL;
    }
    uint64_t skip = req->moved;
    unsigned n = 0;
    for (unsigned i = 0; i < *count; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        req->rest[n].iov_base = (char *)iov[i].iov_base + skip;
        req->rest[n++].iov_len = iov[i].iov_len - skip;
        skip = 0;
    }
    *count = n;
    return req->rest;
}

static bool raw_is_durable(const struct raw *raw, const struct block_request *req)
{
    return req->flags & BLOCK_FUA && !raw->unsafe;
}

static enum raw_step raw_first_zero_step(struct raw *raw, const struct block_request *req)
{
    bool punch = !atomic_load(&raw->no_punch), range = !atomic_load(&raw->no_zero_range);
    if (req->flags & BLOCK_UNMAP)
        return punch ? STEP_PUNCH : range ? STEP_ZERO_RANGE : STEP_ZERO_WRITE;
    return range ? STEP_ZERO_RANGE : punch ? STEP_PUNCH : STEP_ZERO_WRITE;
}

void raw_next(struct raw *raw, struct block_request *req, struct raw_io *io)
{
    *io = (struct raw_io){ .offset = req->at, .len = req->len };
    if (req->op == BLOCK_READ || req->op == BLOCK_WRITE) {
        io->call = req->op == BLOCK_READ ? RAW_READ : RAW_WRITE;
        io->flags = req->op == BLOCK_WRITE && raw_is_durable(raw, req) ? RWF_DSYNC : 0;
        io->offset += req->moved;
        io->iov = raw_remaining(req, &io->count);
        return;
    }
    if (req->op == BLOCK_WRITE_ZEROES && req->step == STEP_FIRST)
        req->step = raw_first_zero_step(raw, req);
    else if (req->op == BLOCK_DISCARD)
        req->step = STEP_PUNCH;
    else if (req->op == BLOCK_FLUSH)
        req->step = STEP_SYNC;

    switch ((enum raw_step)req->step) {
    case STEP_ZERO_RANGE:
        io->call = RAW_FALLOCATE;
        io->mode = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
        break;
    case STEP_PUNCH:
        io->call = RAW_FALLOCATE;
        io->mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        break;
    case STEP_ALLOCATE:
        io->call = RAW_FALLOCATE;
        io->mode = FALLOC_FL_KEEP_SIZE;
        break;
    case STEP_ZERO_WRITE: {
        uint64_t left = req->len - req->moved;
        req->one = (struct iovec){ raw_zeros, left < RAW_ZERO_CHUNK ? left : RAW_ZERO_CHUNK };
        io->call = RAW_WRITE;
        io->offset += req->moved;
        io->iov = &req->one;
        io->count = 1;
        break;
    }
    case STEP_FIRST:
    case STEP_SYNC: io->call = RAW_SYNC; break;
    }
}

/* Zeros past what is there, for the rounded end; EIO for a file that became shorter. */
static int raw_read_end(struct raw *raw, struct block_request *req)
{
    uint64_t at = req->at + req->moved;
    if (at < raw->file_size) {
        log_guest("%s: the image is shorter than when it was opened; reads there fail",
                  raw->node.path);
        return -EIO;
    }
    unsigned count;
    const struct iovec *iov = raw_remaining(req, &count);
    if (!iov)
        return -ENOMEM;
    for (unsigned i = 0; i < count; i++)
        memset(iov[i].iov_base, 0, iov[i].iov_len);
    return 0;
}

static bool raw_moved(struct raw *raw, struct block_request *req, int answer, int *result)
{
    if (answer < 0) {
        *result = answer;
        return true;
    }
    if (!answer) {
        /* Writing nothing, with no error, is what a full device may do. */
        *result = req->op == BLOCK_READ ? raw_read_end(raw, req) : -ENOSPC;
        return true;
    }
    req->moved += (unsigned)answer;
    *result = 0;
    return req->moved >= req->len;
}

static bool raw_unsupported(int answer)
{
    return answer == -EOPNOTSUPP || answer == -ENOSYS || answer == -ENODEV || answer == -EINVAL;
}

/* After the content of WRITE_ZEROES is in place. */
static bool raw_zeroed(struct raw *raw, struct block_request *req, int *result)
{
    *result = 0;
    if (!raw_is_durable(raw, req))
        return true;
    req->step = STEP_SYNC;
    return false;
}

static bool raw_synced(struct raw *raw, int answer, int *result)
{
    if (answer < 0 && !atomic_exchange(&raw->sync_failed, true))
        log_error(
            "%s: flushing failed (%s); what was written since the last flush may be lost, and "
            "flushes will fail until the image is opened again",
            raw->node.path, strerror(-answer));
    if (answer >= 0 && atomic_load(&raw->sync_failed))
        answer = -EIO;
    *result = answer < 0 ? answer : 0;
    return true;
}

static bool raw_zero_result(struct raw *raw, struct block_request *req, int answer, int *result)
{
    bool unmap = req->flags & BLOCK_UNMAP;
    switch ((enum raw_step)req->step) {
    case STEP_ZERO_RANGE:
        if (raw_unsupported(answer)) {
            atomic_store(&raw->no_zero_range, true);
            req->step = unmap || atomic_load(&raw->no_punch) ? STEP_ZERO_WRITE : STEP_PUNCH;
            return false;
        }
        break;
    case STEP_PUNCH:
        if (raw_unsupported(answer)) {
            atomic_store(&raw->no_punch, true);
            req->step =
                unmap && !atomic_load(&raw->no_zero_range) ? STEP_ZERO_RANGE : STEP_ZERO_WRITE;
            return false;
        }
        if (!answer && !unmap) {
            req->step = STEP_ALLOCATE;
            return false;
        }
        break;
    case STEP_ALLOCATE:
        if (raw_unsupported(answer))
            answer = 0; /* it reads as zeros; keeping the space is a wish */
        break;
    case STEP_ZERO_WRITE:
        if (!raw_moved(raw, req, answer, result))
            return false;
        return *result < 0 || raw_zeroed(raw, req, result);
    case STEP_FIRST:
    case STEP_SYNC: return raw_synced(raw, answer, result);
    }
    *result = answer;
    return answer < 0 || raw_zeroed(raw, req, result);
}

bool raw_result(struct raw *raw, struct block_request *req, int answer, int *result)
{
    if (answer == -EINTR)
        return false;
    switch (req->op) {
    case BLOCK_READ:
    case BLOCK_WRITE: return raw_moved(raw, req, answer, result);
    case BLOCK_FLUSH: return raw_synced(raw, answer, result);
    case BLOCK_DISCARD:
        /* A hint: where nothing can be given back, nothing is. */
        if (raw_unsupported(answer)) {
            atomic_store(&raw->no_punch, true);
            answer = 0;
        }
        *result = answer;
        return true;
    default: return raw_zero_result(raw, req, answer, result);
    }
}

int raw_status(struct raw *raw, struct block_request *req)
{
    uint64_t end = req->at + req->len;
    off_t data = lseek(raw->fd, (off_t)req->at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) { /* a hole up to the end */
        req->status = BLOCK_ZERO;
        req->status_len = req->len;
        return 0;
    }
    uint64_t until = end;
    if (data < 0 && errno == EINVAL) { /* cannot tell */
        req->status = BLOCK_DATA;
    } else if (data < 0) {
        return -errno;
    } else if ((uint64_t)data > req->at) {
        req->status = BLOCK_ZERO;
        until = (uint64_t)data;
    } else {
        off_t hole = lseek(raw->fd, (off_t)req->at, SEEK_HOLE);
        req->status = BLOCK_DATA;
        if (hole > data)
            until = (uint64_t)hole;
    }
    /* Whole sectors; one that is half data is data. */
    uint32_t align = raw->node.limits.request_align;
    until = req->status == BLOCK_ZERO ? round_down(until, align) : round_up(until, align);
    if (until <= req->at) {
        req->status = BLOCK_DATA;
        until = req->at + align;
    }
    req->status_len = (until < end ? until : end) - req->at;
    return 0;
}

/* ---- opening ---- */

/* The smallest read that O_DIRECT takes here. */
static int raw_find_direct_align(struct raw *raw, uint32_t *out, struct err *err)
{
    void *buf;
    if (posix_memalign(&buf, RAW_MEMORY_ALIGN, RAW_MEMORY_ALIGN))
        return err_set(err, ENOMEM, "out of memory");
    uint32_t align = 512;
    ssize_t n;
    while ((n = pread(raw->fd, buf, align, 0)) < 0 && errno == EINVAL && align < RAW_MEMORY_ALIGN)
        align *= 2;
    int code = errno;
    free(buf);
    if (n < 0)
        return err_errno(err, code, "direct I/O does not work; use cache=writeback");
    *out = align;
    return 0;
}

static int raw_inspect(struct raw *raw, struct err *err)
{
    struct stat st;
    if (fstat(raw->fd, &st) < 0)
        return err_errno(err, errno, "cannot look at it");
    raw->block_device = S_ISBLK(st.st_mode);
    raw->file_size = (uint64_t)st.st_size;

    uint32_t align = 1;
    if (raw->block_device) {
        int sector;
        if (ioctl(raw->fd, BLKGETSIZE64, &raw->file_size) < 0 ||
            ioctl(raw->fd, BLKSSZGET, &sector) < 0)
            return err_errno(err, errno, "cannot ask the device for its size");
        align = (uint32_t)sector;
    } else if (raw->direct) {
        int r = raw_find_direct_align(raw, &align, err);
        if (r < 0)
            return r;
    }
    uint32_t sector = align < 512 ? 512 : align;
    if (raw->file_size > (uint64_t)INT64_MAX - sector)
        return err_set(err, EFBIG, "is larger than 8 EiB");
    raw->node.size = round_up(raw->file_size, sector);
    raw->node.limits = (struct block_limits){
        .request_align = align,
        .max_transfer = RAW_MAX_TRANSFER,
        .max_segments = IOV_MAX,
        .max_discard = RAW_MAX_DISCARD,
        .discard_align = raw->block_device ? align : (uint32_t)st.st_blksize,
        .max_write_zeroes = RAW_MAX_DISCARD,
    };
    return 0;
}

void raw_close(struct block_node *node)
{
    struct raw *raw = raw_of(node);
    workers_fini(&raw->workers);
    if (raw->locked)
        lock_release(raw->fd);
    fd_close(raw->fd);
    free(raw);
}

int raw_open(const struct block_options *options, int take_fd, struct block_node **out,
             struct err *err)
{
    AUTO(fd_close) int fd = take_fd;
    /* io_uring answers EAGAIN on non-blocking files. */
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
        return err_errno(err, errno, "fcntl");

    struct raw *raw = calloc(1, sizeof *raw);
    if (!raw)
        return err_set(err, ENOMEM, "out of memory");
    workers_init(&raw->workers, &raw_workers, &raw->node);
    raw->fd = TAKE_FD(fd);
    raw->direct = flags & O_DIRECT;
    raw->unsafe = options->cache == BLOCK_CACHE_UNSAFE;
    raw->locked = !options->no_lock;
    raw->uring = !options->no_uring && raw_uring_works();
    AUTO(block_close) struct block_node *node = &raw->node;
    int r = block_node_init(node, raw->uring ? &raw_uring_driver : &raw_threads_driver,
                            options->path, err);
    if (r < 0)
        return r;
    node->readonly = options->readonly;
    r = raw_inspect(raw, err);
    if (r < 0)
        return r;
    *out = TAKE(node);
    return 0;
}
