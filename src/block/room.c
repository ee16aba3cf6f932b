/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/room.h"

#include "base/checked.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

int room_add(struct room *room, uint64_t offset, uint64_t len)
{
    struct image *into = room->into;
    uint64_t unit = into->cluster_size ? into->cluster_size : 512;
    for (uint64_t end = offset + len; offset < end && offset < into->size;) {
        struct image_extent e;
        uint64_t most = end < into->size ? end - offset : into->size - offset;
        int r = image_status(into, offset, most, &e);
        if (r < 0)
            return r;
        if (!(e.flags & IMAGE_ALLOCATED) || (e.flags & IMAGE_ZERO)) {
            uint64_t first = round_down(offset, unit), last = round_up(offset + e.len, unit);
            first = first > room->end ? first : room->end;
            room->bytes += last > first ? last - first : 0;
            room->end = last;
        }
        offset += e.len;
    }
    return 0;
}

int room_check(const struct room *room, struct err *err)
{
    const struct image *into = room->into;
    const struct store *store = into->direct_store ? into->direct_store : into->store;
    /* Tables: an entry of at most 16 bytes for a cluster, twice. */
    uint64_t tables = into->cluster_size ? room->bytes / into->cluster_size * 32 : 0;
    uint64_t need = room->bytes + tables, have;
    struct stat st;
    struct statvfs fs;
    if (store->fd < 0 || fstat(store->fd, &st) < 0 || !S_ISREG(st.st_mode) ||
        fstatvfs(store->fd, &fs) < 0 || !fs.f_blocks /* it does not say */ ||
        !mul_u64(fs.f_bavail, fs.f_frsize, &have) || need <= have)
        return 0;
    return err_set(err, ENOSPC,
                   "%s: may grow by %llu MiB, and its file system has %llu MiB left; make room "
                   "first",
                   into->path, (unsigned long long)(need >> 20) + 1,
                   (unsigned long long)(have >> 20));
}
