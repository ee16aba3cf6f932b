/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ram objects: a memfd, its mapping, and a byte of flags per page. */
#include "base/checked.h"
#include "machine/priv.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/* Guests race with themselves as they like, and devices with guests: the thread sanitizer is to
 * look at our own memory only. */
#ifndef __has_feature
#define __has_feature(feature) 0
#endif
#if defined __SANITIZE_THREAD__ || __has_feature(thread_sanitizer)
void AnnotateBenignRaceSized(const char *file, int line, const volatile void *mem, size_t size,
                             const char *description);
static void races_are_the_guests(const struct ram *ram)
{
    AnnotateBenignRaceSized(__FILE__, __LINE__, ram->hva, ram->size, "guest memory");
}
#else
static void races_are_the_guests(const struct ram *ram) { (void)ram; }
#endif

int ram_create(const char *name, uint64_t size, struct ram **out, struct err *err)
{
    if (!size || size % PAGE_SIZE || size > (uint64_t)1 << 47)
        return err_set(err, EINVAL, "memory size %llu is not a positive number of 4 KiB pages",
                       (unsigned long long)size);
    AUTO(free) struct ram *ram = calloc(1, sizeof *ram);
    if (!ram)
        return err_set(err, ENOMEM, "out of memory");
    AUTO(fd_close) int fd = memfd_create("guest-ram", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
        return err_errno(err, errno, "cannot create memory \"%s\"", name);

    void *hva = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (hva == MAP_FAILED)
        return err_errno(err, errno, "cannot map memory \"%s\"", name);
    void *flags = mmap(NULL, size >> PAGE_SHIFT, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (flags == MAP_FAILED) {
        int code = errno;
        munmap(hva, size);
        return err_errno(err, code, "cannot map the page flags of memory \"%s\"", name);
    }
    /* What the guest knows does not belong into our core dumps. */
    madvise(hva, size, MADV_DONTDUMP);

    ram->hva = hva;
    ram->size = size;
    ram->page_flags = flags;
    ram->fd = TAKE_FD(fd);
    snprintf(ram->name, sizeof ram->name, "%s", name);
    races_are_the_guests(ram);
    *out = TAKE(ram);
    return 0;
}

void ram_destroy(struct ram *ram)
{
    if (!ram)
        return;
    munmap(ram->hva, ram->size);
    munmap((void *)ram->page_flags, ram->size >> PAGE_SHIFT);
    close(ram->fd);
    free(ram);
}

bool ram_discard(struct ram *ram, uint64_t offset, uint64_t len)
{
    assert(range_fits(offset, len, ram->size));
    return madvise(ram->hva + offset, len, MADV_REMOVE) == 0;
}

void ram_written(struct machine *m, struct ram *ram, uint64_t offset, uint64_t len)
{
    if (!len)
        return;
    assert(range_fits(offset, len, ram->size));
    /* An engine marks a page as code, then reads its bytes; we wrote the bytes, now look for the
     * mark. With both orders kept, one of us sees the other. */
    store_load_fence();

    uint8_t dirty = ram->dirty_log ? RAM_PAGE_DIRTY : 0;
    bool code = false;
    uint64_t last = (offset + len - 1) >> PAGE_SHIFT;
    for (uint64_t page = offset >> PAGE_SHIFT; page <= last; page++) {
        uint8_t flags = ram->page_flags[page];
        code |= flags & RAM_PAGE_CODE;
        if (dirty & ~flags)
            atomic_fetch_or(&ram->page_flags[page], dirty);
    }
    if (code && m->engine)
        m->engine->type->invalidate(m->engine, ram, offset, len);
}
