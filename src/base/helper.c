/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Finding, starting and ending helper processes (helper.h). */
#include "base/helper.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/loop.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { HELPER_ARGS_MAX = 256, HELPER_END_TRIES = 100 };

static bool program_try(char *path, size_t len, const char *dir, size_t dir_len, const char *below,
                        const char *program)
{
    snprintf(path, len, "%.*s%s/%s", (int)dir_len, dir, below, program);
    return !access(path, X_OK);
}

int program_find(const char *program, const char *room, char *path, size_t len, struct err *err)
{
    const char *libexec = getenv("BEDPLATE_LIBEXEC");
    if (libexec && program_try(path, len, libexec, strlen(libexec), "", program))
        return 0;
    char self[PATH_MAX], in_build[64];
    snprintf(in_build, sizeof in_build, "/../%s", room);
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0) {
        self[n] = 0;
        size_t dir_len = (size_t)(strrchr(self, '/') - self);
        const char *const below[] = { "", in_build, "/../libexec/bedplate" };
        for (unsigned i = 0; i < ARRAY_LEN(below); i++)
            if (program_try(path, len, self, dir_len, below[i], program))
                return 0;
    }
    return err_set(err, ENOENT,
                   "the program %s is missing; reinstall, or set BEDPLATE_LIBEXEC to its directory",
                   program);
}

static int helper_spawn(const char *path, char *const *argv, int socket, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
    posix_spawn_file_actions_adddup2(&actions, 0, 1);
    posix_spawn_file_actions_adddup2(&actions, socket, HELPER_FD);

    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
                                        POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    char *const environment[] = { NULL };
    int r = posix_spawn(pid, path, &actions, &attr, argv, environment);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    return -r;
}

int helper_start(const char *program, const char *room, const char *const *argv, bool ours, int *fd,
                 pid_t *pid, struct err *err)
{
    char path[PATH_MAX], parent[24];
    int r = program_find(program, room, path, sizeof path, err);
    if (r < 0)
        return r;
    const char *all[HELPER_ARGS_MAX] = { program, "--parent", parent };
    unsigned n = ours ? 3 : 1;
    snprintf(parent, sizeof parent, "%d", (int)getpid());
    while (*argv && n < HELPER_ARGS_MAX - 1)
        all[n++] = *argv++;
    all[n] = NULL;
    assert(!*argv);

    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(err, errno, "socketpair");
    r = helper_spawn(path, (char *const *)all, pair[1], pid);
    fd_close(pair[1]);
    if (r < 0) {
        close(pair[0]);
        return err_errno(err, -r, "cannot start %s", path);
    }
    *fd = pair[0];
    return 0;
}

/* Byte by byte: other things follow the line. */
int helper_wait(const char *program, int fd, unsigned timeout_ms, char *hello, size_t len,
                struct err *err)
{
    char line[520];
    size_t n = 0;
    uint64_t deadline = monotonic_ns() + timeout_ms * 1000000ull;
    while (n < sizeof line - 1) {
        uint64_t now = monotonic_ns();
        struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
        int r = now < deadline ? poll(&poll_fd, 1, (int)((deadline - now) / 1000000) + 1) : 0;
        if (r < 0 && errno == EINTR)
            continue;
        if (!r)
            return err_set(err, ETIMEDOUT, "%s does not answer", program);
        if (read(fd, &line[n], 1) != 1)
            return err_set(err, EIO, "%s ended while starting", program);
        if (line[n] == '\n')
            break;
        n++;
    }
    line[n] = 0;
    if (strncmp(line, HELPER_HELLO, strlen(HELPER_HELLO)))
        return err_set(err, EIO, "%s", line);
    snprintf(hello, len, "%s", line + strlen(HELPER_HELLO));
    return 0;
}

int helper_end(pid_t *pid)
{
    int status = 0;
    for (unsigned i = 0; *pid; i++) {
        pid_t r = waitpid(*pid, &status, WNOHANG);
        if (r == *pid || (r < 0 && errno != EINTR))
            *pid = 0;
        else if (i == HELPER_END_TRIES && kill(*pid, SIGKILL) < 0)
            break; /* locked down: it is left to init */
        else
            usleep(2000);
    }
    return status;
}
