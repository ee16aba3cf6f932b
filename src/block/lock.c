/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QEMU's image locks, and who holds them. */
#include "block/lock.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

/* The layout of QEMU's block/file-posix.c: bytes of the file, one for each permission. */
enum { LOCK_USED = 100, LOCK_FORBIDDEN = 200 };
enum { PERM_READ = 1, PERM_WRITE = 2, PERM_WRITE_UNCHANGED = 4, PERM_RESIZE = 8 };
enum { PERM_BITS = 4 };
enum { LOCK_TRIES = 40, LOCK_WAIT_US = 25000 };

static int lock_byte(int fd, int type, off_t at)
{
    struct flock lock = { .l_type = (short)type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };
    return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

/* Does another open file description hold that byte? Then *pid is its process or -1. */
static bool lock_held(int fd, off_t at, pid_t *pid)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };
    if (fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
        return false;
    *pid = lock.l_pid;
    return true;
}

/* Does a line of /proc/PID/fdinfo/N say that this descriptor holds a lock on that byte? The line:
 * "lock:\t1: OFDLCK  ADVISORY  READ -1 fd:01:12345 100 101" */
static bool lock_in_fdinfo(const char *path, off_t at)
{
    AUTO(file_close) FILE *f = fopen(path, "re");
    char line[256];
    while (f && fgets(line, sizeof line, f)) {
        long long start, end;
        if (strncmp(line, "lock:", 5))
            continue;
        if (sscanf(line + 5, "%*s %*s %*s %*s %*s %*s %lld %lld", &start, &end) == 2 &&
            start <= at && at <= end)
            return true;
    }
    return false;
}

/* The process with a descriptor for this file that holds a lock on that byte; 0: there is none to
 * see. */
static pid_t lock_find_holder(int fd, off_t at)
{
    struct stat ours, theirs;
    DIR *proc = opendir("/proc");
    pid_t found = 0;
    if (!proc || fstat(fd, &ours) < 0)
        goto out;
    for (struct dirent *p; !found && (p = readdir(proc));) {
        char path[300];
        if (!isdigit((unsigned char)p->d_name[0]))
            continue;
        snprintf(path, sizeof path, "/proc/%.20s/fd", p->d_name);
        DIR *fds = opendir(path);
        for (struct dirent *d; fds && !found && (d = readdir(fds));) {
            pid_t pid = (pid_t)atoi(p->d_name);
            if (pid == getpid() && atoi(d->d_name) == fd)
                continue;
            snprintf(path, sizeof path, "/proc/%.20s/fd/%.20s", p->d_name, d->d_name);
            if (stat(path, &theirs) < 0 || theirs.st_dev != ours.st_dev ||
                theirs.st_ino != ours.st_ino)
                continue;
            snprintf(path, sizeof path, "/proc/%.20s/fdinfo/%.20s", p->d_name, d->d_name);
            if (lock_in_fdinfo(path, at))
                found = pid;
        }
        if (fds)
            closedir(fds);
    }
out:
    if (proc)
        closedir(proc);
    return found;
}

static void lock_name_process(pid_t pid, char *buf, size_t len)
{
    if (pid <= 0) {
        snprintf(buf, len, "another process");
        return;
    }
    if (pid == getpid()) {
        snprintf(buf, len, "another disk of this same process");
        return;
    }
    char path[64], name[32] = "";
    snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    AUTO(file_close) FILE *f = fopen(path, "re");
    if (f && fgets(name, sizeof name, f))
        name[strcspn(name, "\n")] = 0;
    if (name[0])
        snprintf(buf, len, "process %d (%s)", (int)pid, name);
    else
        snprintf(buf, len, "process %d", (int)pid);
}

void lock_release(int fd)
{
    for (int bit = 0; bit < PERM_BITS; bit++) {
        lock_byte(fd, F_UNLCK, LOCK_USED + bit);
        lock_byte(fd, F_UNLCK, LOCK_FORBIDDEN + bit);
    }
}

/* Take first, look afterwards: of two that start at once both may fail, but never both win. On
 * -EBUSY *at is a byte in our way and *pid its holder, or -1. Nothing is held after a failure. */
static int lock_try(int fd, unsigned uses, unsigned forbids, off_t *at, pid_t *pid)
{
    *pid = -1;
    for (int bit = 0; bit < PERM_BITS; bit++) {
        int r = 0;
        *at = LOCK_USED + bit;
        if (uses & (1u << bit))
            r = lock_byte(fd, F_RDLCK, LOCK_USED + bit);
        if (!r && (forbids & (1u << bit))) {
            *at = LOCK_FORBIDDEN + bit;
            r = lock_byte(fd, F_RDLCK, LOCK_FORBIDDEN + bit);
        }
        if (r < 0) {
            lock_release(fd);
            return r == -EAGAIN || r == -EACCES ? -EBUSY : r;
        }
    }
    for (int bit = 0; bit < PERM_BITS; bit++) {
        bool busy = false;
        if (uses & (1u << bit))
            busy = lock_held(fd, *at = LOCK_FORBIDDEN + bit, pid);
        if (!busy && (forbids & (1u << bit)))
            busy = lock_held(fd, *at = LOCK_USED + bit, pid);
        if (busy) {
            lock_release(fd);
            return -EBUSY;
        }
    }
    return 0;
}

int lock_image(int fd, const char *path, bool write, struct err *err)
{
    unsigned uses = PERM_READ | (write ? PERM_WRITE : 0);
    unsigned forbids = PERM_WRITE | PERM_RESIZE;
    pid_t pid;
    off_t at;

    int r;
    for (unsigned tries = 0; (r = lock_try(fd, uses, forbids, &at, &pid)) == -EBUSY; tries++) {
        if (pid <= 0)
            pid = lock_find_holder(fd, at);
        /* The io_uring of a process that has just died lets go of the file a moment later. */
        if (pid > 0 || tries == LOCK_TRIES)
            break;
        usleep(LOCK_WAIT_US);
    }
    if (r == -EBUSY) {
        char who[80];
        lock_name_process(pid, who, sizeof who);
        return err_set(err, EBUSY, "the image is in use by %s; stop that first", who);
    }
    if (r < 0)
        log_warning("%s: the file system cannot lock (%s); nothing keeps a second writer off", path,
                    strerror(-r));
    return 0;
}
