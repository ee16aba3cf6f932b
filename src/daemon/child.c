/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/child.h"

#include "base/text.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 480 }; /* what is longer is cut */

/* A pipe that is read by lines. */
struct lines {
    struct child *child;
    int fd;
    struct loop_watch *watch;
    size_t len;
    char text[LINE_MAX_BYTES + 1];
};

struct child {
    const struct child_calls *calls;
    void *arg;
    pid_t pid;
    int pid_fd;
    struct loop_watch *watch;
    struct lines out, errors;
    char said[LINE_MAX_BYTES + 1];
};

int process_spawn(char *const argv[], int out, int errors, const int *fds, unsigned fd_count,
                  pid_t *pid, struct err *err)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
    posix_spawn_file_actions_adddup2(&actions, out < 0 ? 0 : out, 1);
    posix_spawn_file_actions_adddup2(&actions, errors < 0 ? 0 : errors, 2);
    for (unsigned i = 0; i < fd_count; i++)
        posix_spawn_file_actions_adddup2(&actions, fds[i], CHILD_FD + (int)i);
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    int r = posix_spawn(pid, argv[0], &actions, &attr, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    return r ? err_errno(err, r, "cannot start %s", argv[0]) : 0;
}

/* ---- what it says ---- */

static void line_over(struct lines *lines)
{
    struct child *child = lines->child;
    lines->text[lines->len] = 0;
    if (lines->len && lines == &child->errors)
        memcpy(child->said, lines->text, lines->len + 1);
    else if (lines->len && child->calls->line)
        child->calls->line(child->arg, lines->text);
    lines->len = 0;
}

static void lines_take(struct lines *lines)
{
    char data[4096];
    for (ssize_t n; (n = read(lines->fd, data, sizeof data)) > 0;)
        for (ssize_t i = 0; i < n; i++)
            if (data[i] == '\n')
                line_over(lines);
            else if (lines->len < LINE_MAX_BYTES)
                lines->text[lines->len++] = data[i];
}

static void lines_ready(void *arg, unsigned events)
{
    struct lines *lines = arg;
    lines_take(lines);
    if (events & LOOP_HANGUP && lines->watch)
        loop_watch_destroy(TAKE(lines->watch));
}

static void lines_close(struct lines *lines)
{
    if (lines->watch)
        loop_watch_destroy(TAKE(lines->watch));
    fd_close(lines->fd);
    lines->fd = -1;
}

/* *theirs: the end for the child. */
static int lines_open(struct lines *lines, struct loop *loop, int *theirs, struct err *err)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return err_errno(err, errno, "cannot make a pipe");
    lines->fd = ends[0];
    *theirs = ends[1];
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    return loop_watch_create(loop, ends[0], LOOP_READ, lines_ready, lines, &lines->watch, err);
}

/* ---- its life ---- */

void child_release(struct child *child)
{
    if (!child)
        return;
    if (child->watch)
        loop_watch_destroy(child->watch);
    fd_close(child->pid_fd);
    lines_close(&child->out);
    lines_close(&child->errors);
    free(child);
}
DEFINE_AUTO(struct child *, child_release)

void child_kill(struct child *child) { kill(-child->pid, SIGKILL); }

/* Without the name of the program of ours that says it. */
static const char *sentence(const char *said)
{
    static const char ours[] = "bedplate-";
    size_t name = strspn(said, "abcdefghijklmnopqrstuvwxyz-");
    bool named = strncmp(said, ours, strlen(ours)) == 0 && strncmp(said + name, ": ", 2) == 0;
    return named ? said + name + 2 : said;
}

static void child_over(void *arg, unsigned events)
{
    struct child *child = arg;
    int status;
    if (waitpid(child->pid, &status, WNOHANG) != child->pid)
        return;
    lines_take(&child->out);
    line_over(&child->out);
    lines_take(&child->errors);
    line_over(&child->errors);
    child->calls->ended(child->arg, WIFEXITED(status) ? WEXITSTATUS(status) : -1,
                        sentence(child->said));
    child_release(child);
}

int child_start(struct loop *loop, char *const argv[], const struct child_calls *calls, void *arg,
                struct child **out, struct err *err)
{
    AUTO(fd_close) int out_end = -1, errors_end = -1;
    AUTO(child_release) struct child *child = calloc(1, sizeof *child);
    if (!child)
        return err_set(err, ENOMEM, "out of memory");
    *child = (struct child){ .calls = calls, .arg = arg, .pid_fd = -1 };
    child->out = child->errors = (struct lines){ .child = child, .fd = -1 };
    int r = lines_open(&child->out, loop, &out_end, err);
    if (r == 0)
        r = lines_open(&child->errors, loop, &errors_end, err);
    if (r == 0)
        r = process_spawn(argv, out_end, errors_end, NULL, 0, &child->pid, err);
    if (r < 0)
        return r;
    child->pid_fd = (int)syscall(SYS_pidfd_open, child->pid, 0);
    r = child->pid_fd < 0 ? err_errno(err, errno, "cannot follow %s", argv[0])
                          : loop_watch_create(loop, child->pid_fd, LOOP_READ, child_over, child,
                                              &child->watch, err);
    if (r < 0) {
        child_kill(child);
        return r;
    }
    *out = TAKE(child);
    return 0;
}
