/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The lock is an flock: it ends with its holder, and the pid inside is only for the message. */
#include "vmm/run_dir.h"

#include "base/json.h"
#include "base/text.h"
#include "vmm/exit_status.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

enum { LOCK_TRIES = 20, LOCK_WAIT_MS = 50 };

static char *path_join(const char *dir, const char *name)
{
    char *path;
    if (asprintf(&path, "%s/%s", dir, name) < 0)
        abort(); /* out of memory */
    return path;
}

/* The keeper of a VM that just ended holds the lock until it has tidied up. */
static int lock_take(int fd)
{
    for (int i = 0; i < LOCK_TRIES; i++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return 0;
        if (errno != EWOULDBLOCK)
            return -errno;
        nanosleep(&(struct timespec){ .tv_nsec = LOCK_WAIT_MS * 1000000 }, NULL);
    }
    return -EBUSY;
}

static int lock_open(const char *dir, int *out, struct err *err)
{
    AUTO(free) char *path = path_join(dir, "lock");
    AUTO(fd_close) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_errno(err, errno, "cannot open %s", path);
    int r = lock_take(fd);
    char holder[32] = "";
    if (r == -EBUSY) {
        ssize_t n = pread(fd, holder, sizeof holder - 1, 0);
        holder[n > 0 ? n : 0] = 0;
        uint64_t pid = strtoull(holder, NULL, 10);
        return err_set(err, EBUSY,
                       "%s is used by the VM of process %" PRIu64
                       "; end that or take another directory",
                       dir, pid);
    }
    if (r < 0)
        return err_errno(err, -r, "cannot lock %s", path);
    int len = snprintf(holder, sizeof holder, "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite_full(fd, holder, (size_t)len, 0) < 0)
        return err_errno(err, errno, "cannot write %s", path);
    *out = TAKE_FD(fd);
    return 0;
}

static int file_open(const char *path, int flags, int *out, struct err *err)
{
    *out = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | flags, 0644);
    return *out < 0 ? err_errno(err, errno, "cannot open %s", path) : 0;
}

int run_dir_open(const char *path, struct run_dir *out, struct err *err)
{
    *out = (struct run_dir)RUN_DIR_NONE;
    if (!path)
        return 0;
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return err_errno(err, errno, "cannot create %s", path);
    int r = lock_open(path, &out->lock_fd, err);
    if (r < 0)
        return r;
    AUTO(free) char *log = path_join(path, "log");
    out->control_path = path_join(path, "control.sock");
    out->exit_path = path_join(path, "exit.json");
    out->exit_part = path_join(path, "exit.json.part");
    /* An old record must not be taken for this run's. */
    if (unlink(out->exit_path) < 0 && errno != ENOENT)
        return err_errno(err, errno, "cannot remove %s", out->exit_path);
    AUTO(free) char *serial = path_join(path, "serial.log");
    r = file_open(log, O_APPEND, &out->log_fd, err);
    if (r == 0)
        r = file_open(serial, O_TRUNC, &out->serial_fd, err);
    if (r == 0)
        r = file_open(out->exit_part, O_TRUNC, &out->exit_fd, err);
    return r;
}

int run_dir_exit_record(struct run_dir *dir, struct keeper *keeper, int status, const char *reason,
                        struct err *err)
{
    if (dir->exit_fd < 0)
        return 0;
    time_t now = time(NULL);
    struct tm tm;
    char when[32];
    gmtime_r(&now, &tm);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
    AUTO(json_decref)
    json_t *record = json_pack("{s:i, s:s, s:s, s:s}", "status", status, "name",
                               exit_statuses[status].name, "reason", reason, "time", when);
    if (!record) /* the reason is not UTF-8 */
        record = json_pack("{s:i, s:s, s:s, s:s}", "status", status, "name",
                           exit_statuses[status].name, "reason", "", "time", when);
    AUTO(free) char *text = json_print(record);
    int r = pwrite_full(dir->exit_fd, text, strlen(text), 0);
    if (r == 0)
        r = pwrite_full(dir->exit_fd, "\n", 1, (off_t)strlen(text));
    if (r == 0 && fsync(dir->exit_fd) < 0)
        r = -errno;
    if (r < 0)
        return err_errno(err, -r, "cannot write the exit record");
    return keeper_rename(keeper, KEEPER_EXIT_RECORD, err);
}

void run_dir_close(struct run_dir *dir)
{
    fd_close(dir->log_fd);
    fd_close(dir->exit_fd);
    fd_close(dir->serial_fd);
    fd_close(dir->lock_fd);
    free(dir->control_path);
    free(dir->exit_part);
    free(dir->exit_path);
    *dir = (struct run_dir)RUN_DIR_NONE;
}
