/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Finding, starting and ending helper processes (helper.h). */
#include "base/helper.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/loop.h"
#include "base/text.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { HELPER_ARGS_MAX = 256, HELPER_END_TRIES = 100, ORDER_MAX = 64 << 10 };

static char helper_ids[64];    /* for the environment of helpers; "": none */
static int helper_broker = -1; /* borrowed */

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
    char *const environment[] = { *helper_ids ? helper_ids : NULL, NULL };
    int r = posix_spawn(pid, path, &actions, &attr, argv, environment);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    return -r;
}

void helper_run_as(uid_t uid, gid_t gid)
{
    snprintf(helper_ids, sizeof helper_ids, HELPER_IDS "=%u:%u", (unsigned)uid, (unsigned)gid);
}

static int helper_start_here(const char *program, const char *room, const char *const *argv,
                             bool ours, int *fd, pid_t *pid, struct err *err)
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

/* ---- by another process ---- */

/* An order is the program, its room, its arguments, each with a zero byte behind it. */
struct answer {
    int result;
    pid_t pid;
    char text[512]; /* result < 0: why */
};

static bool answer_send(int socket, const struct answer *answer, int fd)
{
    char control[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec iov = { (void *)answer, sizeof *answer };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    if (fd >= 0) {
        msg.msg_control = control;
        msg.msg_controllen = sizeof control;
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        *c = (struct cmsghdr){ CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS };
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    return sendmsg(socket, &msg, MSG_NOSIGNAL) == (ssize_t)sizeof *answer;
}

static bool answer_receive(int socket, struct answer *answer, int *fd)
{
    char control[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec iov = { answer, sizeof *answer };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control
    };
    ssize_t n;
    while ((n = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR) {
    }
    struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&msg);
    *fd = -1;
    if (c && c->cmsg_type == SCM_RIGHTS)
        memcpy(fd, CMSG_DATA(c), sizeof *fd);
    return n == (ssize_t)sizeof *answer;
}

void helper_ask(int socket) { helper_broker = socket; }

static int helper_start_there(const char *program, const char *room, const char *const *argv,
                              int *fd, pid_t *pid, struct err *err)
{
    AUTO(buf_fini) struct buf order = { 0 };
    struct answer answer;
    buf_add(&order, program, strlen(program) + 1);
    buf_add(&order, room, strlen(room) + 1);
    for (; *argv; argv++)
        buf_add(&order, *argv, strlen(*argv) + 1);
    if (order.len > ORDER_MAX)
        return err_set(err, E2BIG, "too many arguments for %s", program);
    if (send(helper_broker, order.data, order.len, MSG_NOSIGNAL) != (ssize_t)order.len ||
        !answer_receive(helper_broker, &answer, fd))
        return err_set(err, EPIPE, "cannot start %s: who would start it is gone", program);
    answer.text[sizeof answer.text - 1] = 0;
    if (answer.result < 0)
        return err_set(err, -answer.result, "%s", answer.text);
    *pid = answer.pid;
    return 0;
}

/* Only programs of ours: who asks could not run others where we are. */
static int order_carry_out(char *text, size_t len, int *fd, pid_t *pid, struct err *err)
{
    const char *words[HELPER_ARGS_MAX];
    unsigned count = 0;
    for (char *at = text; at < text + len && count < HELPER_ARGS_MAX - 1; at += strlen(at) + 1)
        words[count++] = at;
    words[count] = NULL;
    if (count < 2 || strncmp(words[0], "bedplate-", 9) != 0 || strchr(words[0], '/') ||
        strchr(words[1], '/') || strchr(words[1], '.'))
        return err_set(err, EINVAL, "the order names no helper");
    return helper_start_here(words[0], words[1], words + 2, true, fd, pid, err);
}

bool helper_serve(int socket)
{
    AUTO(free) char *text = malloc(ORDER_MAX + 1);
    struct answer answer = { 0 };
    struct err err = { 0 };
    int fd = -1;
    ssize_t n = -1;
    while (text && (n = recv(socket, text, ORDER_MAX, 0)) < 0 && errno == EINTR) {
    }
    if (n <= 0)
        return false;
    text[n] = 0;
    answer.result = order_carry_out(text, (size_t)n, &fd, &answer.pid, &err);
    snprintf(answer.text, sizeof answer.text, "%s", err.text);
    bool sent = answer_send(socket, &answer, fd);
    fd_close(fd);
    return sent;
}

int helper_start(const char *program, const char *room, const char *const *argv, bool ours, int *fd,
                 pid_t *pid, struct err *err)
{
    return helper_broker >= 0 ? helper_start_there(program, room, argv, fd, pid, err)
                              : helper_start_here(program, room, argv, ours, fd, pid, err);
}

/* ---- its life ---- */

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
        if (r < 0 && errno == ECHILD)
            status = -1;
        if (r == *pid || (r < 0 && errno != EINTR))
            *pid = 0;
        else if (i == HELPER_END_TRIES && kill(*pid, SIGKILL) < 0)
            break; /* locked down: it is left to init */
        else
            usleep(2000);
    }
    return status;
}
