/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What can befall a daemon, for its tests: a library that is preloaded into bedplated. While the
 * file that MISHAP_WHILE names is there, MISHAP is
 *
 *   die:N    the process is killed right before the Nth call that others can see: a write, sync,
 *            rename, removal, directory, message, or process made
 *   full:N   from the Nth write to a file on, the disk is full
 *   clock    the calendar is as many seconds ahead as that file says
 *
 * Other programs that inherit it are left alone.
 */
#undef _FILE_OFFSET_BITS /* it would make one of pwrite and pwrite64 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static atomic_long calls;

static const char *mishap(void)
{
    const char *what = getenv("MISHAP"), *file = getenv("MISHAP_WHILE");
    bool ours = strcmp(program_invocation_short_name, "bedplated") == 0;
    return ours && what && file && access(file, F_OK) == 0 ? what : "";
}

/* A call that others can see is about to be made. */
static void step(void)
{
    const char *what = mishap();
    if (strncmp(what, "die:", 4) == 0 && atomic_fetch_add(&calls, 1) + 1 == atol(what + 4))
        kill(getpid(), SIGKILL);
}

static bool full(int fd)
{
    const char *what = mishap();
    struct stat st;
    return strncmp(what, "full:", 5) == 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
           atomic_fetch_add(&calls, 1) + 1 >= atol(what + 5);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRITES(name, args, pass) \
    ssize_t name args            \
    {                            \
        step();                  \
        if (full(fd)) {          \
            errno = ENOSPC;      \
            return -1;           \
        }                        \
        return NEXT(name) pass;  \
    }
#define STEPS(type, name, args, pass) \
    type name args                    \
    {                                 \
        step();                       \
        return NEXT(name) pass;       \
    }

/* clang-format off */
WRITES(write, (int fd, const void *data, size_t len), (fd, data, len))
WRITES(pwrite, (int fd, const void *data, size_t len, off_t at), (fd, data, len, at))
WRITES(pwrite64, (int fd, const void *data, size_t len, off64_t at), (fd, data, len, at))
STEPS(int, fsync, (int fd), (fd))
STEPS(int, fdatasync, (int fd), (fd))
STEPS(int, rename, (const char *from, const char *to), (from, to))
STEPS(int, unlink, (const char *path), (path))
STEPS(int, unlinkat, (int dir, const char *path, int flags), (dir, path, flags))
STEPS(int, mkdir, (const char *path, mode_t mode), (path, mode))
STEPS(int, rmdir, (const char *path), (path))
STEPS(ssize_t, send, (int fd, const void *data, size_t len, int flags), (fd, data, len, flags))
STEPS(ssize_t, sendmsg, (int fd, const struct msghdr *msg, int flags), (fd, msg, flags))
STEPS(int, posix_spawn, (pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
      const posix_spawnattr_t *attr, char *const argv[], char *const envp[]),
      (pid, path, actions, attr, argv, envp))
/* clang-format on */

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int r = NEXT(clock_gettime)(clock, now);
    if (r < 0 || clock != CLOCK_REALTIME || strcmp(mishap(), "clock") != 0)
        return r;
    char text[32] = "";
    int fd = open(getenv("MISHAP_WHILE"), O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && read(fd, text, sizeof text - 1) > 0)
        now->tv_sec += atol(text);
    if (fd >= 0)
        close(fd);
    return r;
}
