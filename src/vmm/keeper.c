/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A socket pair joins the two: a byte names the file to rename, the answer is an errno. End of file
 * means that the VMM is gone. Signals are blocked, so that a Ctrl-C to the whole group does not
 * kill the one who has to clean up.
 */
#include "vmm/keeper.h"

#include "base/text.h"

#include <cap-ng.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* A power cut must not undo it: a state would be lost, or used twice. */
static int keeper_sync_dir(const char *path)
{
    char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%s", path);
    char *slash = strrchr(dir, '/');
    if (slash)
        slash[slash == dir] = 0;
    AUTO(fd_close) int fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 || (fsync(fd) < 0 && errno != EINVAL) ? errno : 0; /* EINVAL: not here */
}

static int keeper_do_rename(const struct keeper_config *config, unsigned file)
{
    if (file >= KEEPER_FILES || !config->path[file])
        return EINVAL;
    if (rename(config->part[file], config->path[file]) < 0)
        return errno;
    return file == KEEPER_EXIT_RECORD ? 0 : keeper_sync_dir(config->path[file]);
}

void keeper_tidy(const struct keeper_config *config)
{
    if (config->has_terminal)
        tcsetattr(config->terminal_fd, TCSANOW, &config->terminal);
    for (unsigned i = 0; i < KEEPER_FILES; i++)
        if (config->part[i] && i != KEEPER_RESTORED)
            unlink(config->part[i]);
    for (unsigned i = 0; i < KEEPER_MAX_PATHS && config->remove[i]; i++)
        unlink(config->remove[i]);
}

/* Whoever reads our standard output must see its end when the VMM ends. */
static void keeper_close_others(const struct keeper_config *config, int fd)
{
    int keep[] = { config->has_terminal ? config->terminal_fd : -1, config->lock_fd, fd };
    for (int i = 0; i < 3; i++) /* put the kept ones low, in order */
        for (int j = i + 1; j < 3; j++)
            if (keep[j] < keep[i]) {
                int swap = keep[i];
                keep[i] = keep[j];
                keep[j] = swap;
            }
    unsigned next = 0;
    for (int i = 0; i < 3; i++) {
        if (keep[i] < 0)
            continue;
        if ((unsigned)keep[i] > next)
            syscall(SYS_close_range, next, (unsigned)keep[i] - 1, 0);
        next = (unsigned)keep[i] + 1;
    }
    syscall(SYS_close_range, next, ~0u, 0);
}

/* What it had may have let it open the directories of others; for that it stays. */
static void keeper_give_up(void)
{
    bool opens =
        capng_get_caps_process() == 0 && capng_have_capability(CAPNG_PERMITTED, CAP_DAC_OVERRIDE);
    capng_clear(CAPNG_SELECT_BOTH);
    if (opens)
        capng_update(CAPNG_ADD, (capng_type_t)(CAPNG_EFFECTIVE | CAPNG_PERMITTED),
                     CAP_DAC_OVERRIDE);
    capng_apply(CAPNG_SELECT_CAPS);
}

static void keeper_main(const struct keeper_config *config, int fd)
{
    prctl(PR_SET_NAME, "vmm-keeper");
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    keeper_close_others(config, fd);
    int ready = config->own_mounts && unshare(CLONE_NEWNS) < 0 ? errno : 0;
    keeper_give_up();
    if (write_full(fd, &ready, sizeof ready) < 0 || ready)
        _exit(1);
    uint8_t file;
    while (read_full(fd, &file, 1) == 0) {
        int result = keeper_do_rename(config, file);
        if (write_full(fd, &result, sizeof result) < 0)
            break;
    }
    keeper_tidy(config);
    _exit(0);
}

void keeper_end(struct keeper *keeper)
{
    if (keeper->fd < 0)
        return;
    close(keeper->fd);
    keeper->fd = -1;
    while (waitpid(keeper->pid, NULL, 0) < 0 && errno == EINTR) {
    }
}

int keeper_start(const struct keeper_config *config, struct keeper *out, struct err *err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(err, errno, "cannot create a socket pair");

    sigset_t all, old;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old);
    pid_t pid = fork();
    int code = errno;
    if (pid == 0) {
        setsid(); /* a kill of the VMM's whole group must not reach it; nor must the terminal's
                     signals */
        close(pair[0]);
        keeper_main(config, pair[1]);
    }
    sigprocmask(SIG_SETMASK, &old, NULL);
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        return err_errno(err, code, "cannot start the keeper process");
    }
    *out = (struct keeper){ .fd = pair[0], .pid = pid, .config = config };
    code = EPIPE;
    if (read_full(pair[0], &code, sizeof code) < 0 || code) {
        keeper_end(out);
        return err_errno(err, code, "the keeper process cannot keep its root");
    }
    return 0;
}

int keeper_rename(struct keeper *keeper, enum keeper_file file, struct err *err)
{
    uint8_t byte = (uint8_t)file;
    int result;
    if (keeper->fd < 0)
        result = keeper_do_rename(keeper->config, file);
    else if (send(keeper->fd, &byte, 1, MSG_NOSIGNAL) != 1 ||
             read_full(keeper->fd, &result, sizeof result) < 0)
        return err_set(err, EPIPE, "the keeper process is gone; somebody killed it");
    return result ? err_errno(err, result, "cannot put the finished file in place") : 0;
}
