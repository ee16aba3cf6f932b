/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Stores: files (also opened with O_DIRECT) and memory.
 *
 * With O_DIRECT everything goes through an aligned buffer; a write whose edges are not aligned
 * reads them first, under a lock, so that two neighbours do not undo each other.
 */
#include "block/store.h"

#include "base/checked.h"
#include "base/text.h"
#include "block/lock.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

enum { STORE_ALIGN = 4096, STORE_ZERO_CHUNK = 256 << 10 };

/* ---- a file ---- */

struct disk_store {
    struct store store;
    int fd;
    bool locked, direct, device; /* fixed at create */
    uint32_t align;              /* of direct I/O */
    bool sync_failed;            /* lock */
    pthread_mutex_t lock;        /* read-modify-write with O_DIRECT */
};

static struct disk_store *disk_of(struct store *store)
{
    return CONTAINER_OF(store, struct disk_store, store);
}

/* A part that is no multiple of `unit` ends the file: direct reads could not go on there. */
static int disk_pread(int fd, void *data, size_t len, uint64_t offset, size_t unit)
{
    size_t at = 0;
    while (at < len) {
        ssize_t n = pread(fd, (char *)data + at, len - at, (off_t)(offset + at));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        at += (size_t)n;
        if (!n || (size_t)n % unit)
            break;
    }
    memset((char *)data + at, 0, len - at);
    return 0;
}

static int disk_read(struct store *store, void *data, size_t len, uint64_t offset)
{
    struct disk_store *file = disk_of(store);
    if (!file->direct)
        return disk_pread(file->fd, data, len, offset, 1);
    uint64_t start = round_down(offset, file->align), end = round_up(offset + len, file->align);
    AUTO(free) char *buf = NULL;
    if (posix_memalign((void **)&buf, STORE_ALIGN, end - start))
        return -ENOMEM;
    int r = disk_pread(file->fd, buf, end - start, start, file->align);
    if (r < 0)
        return r;
    memcpy(data, buf + (offset - start), len);
    return 0;
}

static int disk_write_direct(struct disk_store *file, const void *data, size_t len, uint64_t offset)
{
    uint64_t start = round_down(offset, file->align), end = round_up(offset + len, file->align);
    AUTO(free) char *buf = NULL;
    if (posix_memalign((void **)&buf, STORE_ALIGN, end - start))
        return -ENOMEM;
    LOCKED(&file->lock);
    int r = 0;
    if (start != offset || end != offset + len)
        r = disk_read(&file->store, buf, end - start, start);
    memcpy(buf + (offset - start), data, len);
    return r < 0 ? r : pwrite_full(file->fd, buf, end - start, (off_t)start);
}

static int disk_write(struct store *store, const void *data, size_t len, uint64_t offset)
{
    struct disk_store *file = disk_of(store);
    if (offset > (uint64_t)INT64_MAX - len - STORE_ALIGN)
        return -EFBIG;
    if (file->direct)
        return disk_write_direct(file, data, len, offset);
    return pwrite_full(file->fd, data, len, (off_t)offset);
}

/* After one failure the kernel has dropped the dirty pages and would call the next one a success.
 */
static int disk_flush(struct store *store)
{
    struct disk_store *file = disk_of(store);
    int r;
    while ((r = fdatasync(file->fd)) < 0 && errno == EINTR)
        ;
    r = r < 0 ? -errno : 0;
    LOCKED(&file->lock);
    if (r < 0)
        file->sync_failed = true;
    return file->sync_failed && !r ? -EIO : r;
}

static int disk_fallocate(int fd, int mode, uint64_t offset, uint64_t len)
{
    int r;
    while ((r = fallocate(fd, mode, (off_t)offset, (off_t)len)) < 0 && errno == EINTR)
        ;
    return r < 0 ? -errno : 0;
}

static int disk_size(struct store *store, uint64_t *out)
{
    struct disk_store *file = disk_of(store);
    struct stat st;
    if (fstat(file->fd, &st) < 0)
        return -errno;
    *out = (uint64_t)st.st_size;
    if (S_ISBLK(st.st_mode) && ioctl(file->fd, BLKGETSIZE64, out) < 0)
        return -errno;
    return 0;
}

static int disk_truncate(struct store *store, uint64_t size)
{
    struct disk_store *file = disk_of(store);
    uint64_t now = 0;
    if (size > INT64_MAX)
        return -EFBIG;
    if (file->device) {
        int r = disk_size(store, &now);
        return r < 0 ? r : size <= now ? 0 : -ENOSPC;
    }
    return ftruncate(file->fd, (off_t)size) < 0 ? -errno : 0;
}

static int disk_zero(struct store *store, uint64_t offset, uint64_t len, bool keep)
{
    struct disk_store *file = disk_of(store);
    uint64_t size;
    int r = disk_size(store, &size);
    if (r < 0)
        return r;
    /* Past the end there are no bytes to make zero, only a length to have. */
    if (!file->device && offset + len > size) {
        r = disk_truncate(store, offset + len);
        if (r < 0)
            return r;
    }
    r = disk_fallocate(file->fd,
                       (keep ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE) | FALLOC_FL_KEEP_SIZE,
                       offset, len);
    if (r < 0 && keep)
        r = disk_fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, len);
    return r;
}

static int disk_punch(struct store *store, uint64_t offset, uint64_t len)
{
    return disk_fallocate(disk_of(store)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                          len);
}

static int disk_status(struct store *store, uint64_t offset, uint64_t *len, bool *zero)
{
    int fd = disk_of(store)->fd;
    *zero = false;
    off_t data = lseek(fd, (off_t)offset, SEEK_DATA);
    if (data < 0) {
        *zero = errno == ENXIO;
        return 0;
    }
    uint64_t until;
    if ((uint64_t)data > offset) {
        *zero = true;
        until = (uint64_t)data;
    } else {
        off_t hole = lseek(fd, (off_t)offset, SEEK_HOLE);
        until = hole > data ? (uint64_t)hole : offset + *len;
    }
    if (until - offset < *len)
        *len = until - offset;
    return 0;
}

static void disk_close_store(struct store *store)
{
    struct disk_store *file = disk_of(store);
    if (file->locked)
        lock_release(file->fd);
    fd_close(file->fd);
    pthread_mutex_destroy(&file->lock);
    free(file);
}

static const struct store_ops disk_ops = {
    .read = disk_read,
    .write = disk_write,
    .flush = disk_flush,
    .zero = disk_zero,
    .punch = disk_punch,
    .truncate = disk_truncate,
    .size = disk_size,
    .status = disk_status,
    .close = disk_close_store,
};

/* The smallest read that works with O_DIRECT. */
static uint32_t disk_find_align(int fd)
{
    void *buf;
    uint32_t align = 512;
    if (posix_memalign(&buf, STORE_ALIGN, STORE_ALIGN))
        return STORE_ALIGN;
    while (align < STORE_ALIGN && pread(fd, buf, align, 0) < 0)
        align *= 2;
    free(buf);
    return align;
}

int store_open_fd(int take_fd, bool locked, struct store **out, struct err *err)
{
    AUTO(fd_close) int fd = take_fd;
    struct stat st;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fstat(fd, &st) < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
        return err_errno(err, errno, "cannot look at it");
    struct disk_store *file = calloc(1, sizeof *file);
    if (!file)
        return err_set(err, ENOMEM, "out of memory");
    file->fd = TAKE_FD(fd);
    file->store = (struct store){ &disk_ops, file->fd };
    file->locked = locked;
    file->direct = flags & O_DIRECT;
    file->align = file->direct ? disk_find_align(file->fd) : 1;
    file->device = S_ISBLK(st.st_mode);
    pthread_mutex_init(&file->lock, NULL);
    *out = &file->store;
    return 0;
}

/* ---- memory ---- */

struct memory_store {
    struct store store;
    pthread_mutex_t lock;
    struct buf buf; /* lock */
    uint64_t max_size;
};

static struct memory_store *memory_of(struct store *store)
{
    return CONTAINER_OF(store, struct memory_store, store);
}

static int memory_read(struct store *store, void *data, size_t len, uint64_t offset)
{
    struct memory_store *memory = memory_of(store);
    LOCKED(&memory->lock);
    size_t have = offset < memory->buf.len ? memory->buf.len - offset : 0;
    if (have > len)
        have = len;
    if (have)
        memcpy(data, memory->buf.data + offset, have);
    memset((char *)data + have, 0, len - have);
    return 0;
}

static int memory_write(struct store *store, const void *data, size_t len, uint64_t offset)
{
    struct memory_store *memory = memory_of(store);
    LOCKED(&memory->lock);
    if (!range_fits(offset, len, memory->max_size))
        return -ENOSPC;
    if (offset + len > memory->buf.len)
        buf_grow(&memory->buf, offset + len - memory->buf.len);
    memcpy(memory->buf.data + offset, data, len);
    return 0;
}

static int memory_flush(struct store *store) { return 0; }

static int memory_truncate(struct store *store, uint64_t size)
{
    struct memory_store *memory = memory_of(store);
    LOCKED(&memory->lock);
    if (size > memory->max_size)
        return -ENOSPC;
    if (size > memory->buf.len)
        buf_grow(&memory->buf, size - memory->buf.len);
    memory->buf.len = size;
    return 0;
}

static int memory_size(struct store *store, uint64_t *out)
{
    struct memory_store *memory = memory_of(store);
    LOCKED(&memory->lock);
    *out = memory->buf.len;
    return 0;
}

static void memory_close(struct store *store)
{
    struct memory_store *memory = memory_of(store);
    buf_fini(&memory->buf);
    pthread_mutex_destroy(&memory->lock);
    free(memory);
}

static const struct store_ops memory_ops = {
    .read = memory_read,
    .write = memory_write,
    .flush = memory_flush,
    .truncate = memory_truncate,
    .size = memory_size,
    .close = memory_close,
};

int store_open_memory(const void *data, size_t len, uint64_t max_size, struct store **out,
                      struct err *err)
{
    struct memory_store *memory = calloc(1, sizeof *memory);
    if (!memory)
        return err_set(err, ENOMEM, "out of memory");
    memory->store = (struct store){ &memory_ops, -1 };
    memory->max_size = max_size;
    pthread_mutex_init(&memory->lock, NULL);
    if (len)
        buf_add(&memory->buf, data, len);
    *out = &memory->store;
    return 0;
}

/* ---- calls ---- */

void store_close(struct store *store)
{
    if (store)
        store->ops->close(store);
}

int store_read(struct store *store, void *data, size_t len, uint64_t offset)
{
    return len ? store->ops->read(store, data, len, offset) : 0;
}

int store_write(struct store *store, const void *data, size_t len, uint64_t offset)
{
    int r = len ? store->ops->write(store, data, len, offset) : 0;
    return r == -EDQUOT ? -ENOSPC : r;
}

int store_flush(struct store *store) { return store->no_flush ? 0 : store->ops->flush(store); }

int store_zero(struct store *store, uint64_t offset, uint64_t len, bool keep)
{
    if (!len)
        return 0;
    if (store->ops->zero) {
        int r = store->ops->zero(store, offset, len, keep);
        if (r != -EOPNOTSUPP && r != -ENOSYS && r != -ENODEV && r != -EINVAL)
            return r;
    }
    size_t chunk = len < STORE_ZERO_CHUNK ? len : STORE_ZERO_CHUNK;
    AUTO(free) char *zeros = calloc(1, chunk);
    if (!zeros)
        return -ENOMEM;
    for (uint64_t at = 0; at < len; at += chunk) {
        int r = store_write(store, zeros, len - at < chunk ? len - at : chunk, offset + at);
        if (r < 0)
            return r;
    }
    return 0;
}

void store_punch(struct store *store, uint64_t offset, uint64_t len)
{
    if (len && store->ops->punch)
        store->ops->punch(store, offset, len);
}

int store_truncate(struct store *store, uint64_t size) { return store->ops->truncate(store, size); }
int store_size(struct store *store, uint64_t *out) { return store->ops->size(store, out); }

int store_status(struct store *store, uint64_t offset, uint64_t *len, bool *zero)
{
    *zero = false;
    return store->ops->status ? store->ops->status(store, offset, len, zero) : 0;
}
