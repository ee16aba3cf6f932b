/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * User-mode networking: starts bedplate-net (user_helper.c) and talks frames with it over a socket
 * pair, each after its length. The helper first sends one line, which says whether it works.
 *
 * The helper takes large TCP segments whole, but with their checksums complete.
 */
#include "net/driver.h"

#include "base/checked.h"
#include "base/log.h"
#include "net/user.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { USER_START_MS = 10000, USER_MAX_FORWARDS = 64, USER_END_TRIES = 100 };

struct user {
    struct port port;
    pid_t pid; /* 0 once reaped */
};

/* ---- finding and starting the helper ---- */

static bool user_try(char *path, size_t len, const char *dir, size_t dir_len, const char *below)
{
    snprintf(path, len, "%.*s%s/" USER_HELPER, (int)dir_len, dir, below);
    return !access(path, X_OK);
}

static int user_find_helper(char *path, size_t len, struct err *err)
{
    const char *libexec = getenv("BEDPLATE_LIBEXEC");
    if (libexec && user_try(path, len, libexec, strlen(libexec), ""))
        return 0;
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0) {
        self[n] = 0;
        size_t dir_len = (size_t)(strrchr(self, '/') - self);
        static const char *const below[] = { "", "/../net", "/../libexec/bedplate" };
        for (unsigned i = 0; i < ARRAY_LEN(below); i++)
            if (user_try(path, len, self, dir_len, below[i]))
                return 0;
    }
    return err_set(err, ENOENT,
                   "the program " USER_HELPER " is missing; reinstall, or set "
                   "BEDPLATE_LIBEXEC to its directory");
}

static void user_forward_text(const struct net_hostfwd *fwd, char *text, size_t len)
{
    char host[INET_ADDRSTRLEN], guest[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &fwd->host_addr, host, sizeof host);
    inet_ntop(AF_INET, &fwd->guest_addr, guest, sizeof guest);
    snprintf(text, len, "%s:%s:%u-%s:%u", fwd->udp ? "udp" : "tcp", host, fwd->host_port, guest,
             fwd->guest_port);
}

static int user_spawn(const char *path, char *const *argv, int socket, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
    posix_spawn_file_actions_adddup2(&actions, 0, 1);
    posix_spawn_file_actions_adddup2(&actions, socket, USER_HELPER_FD);

    /* A process group of its own: Ctrl-C on the terminal is the VM's. Signals as they come. */
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

static int user_start(const struct net_user_options *options, int socket, pid_t *pid,
                      struct err *err)
{
    char path[PATH_MAX], parent[24], forwards[USER_MAX_FORWARDS][80];
    int r = user_find_helper(path, sizeof path, err);
    if (r < 0)
        return r;
    if (options->hostfwd_count > USER_MAX_FORWARDS)
        return err_set(err, EINVAL, "at most %d ports can be forwarded", USER_MAX_FORWARDS);

    const char *argv[2 * USER_MAX_FORWARDS + 8] = { USER_HELPER, "--parent", parent };
    unsigned n = 3;
    snprintf(parent, sizeof parent, "%d", (int)getpid());
    if (options->restrict_host)
        argv[n++] = "--restrict";
    argv[n++] = "--hostname";
    argv[n++] = options->hostname ? options->hostname : "bedplate";
    for (unsigned i = 0; i < options->hostfwd_count; i++) {
        user_forward_text(&options->hostfwd[i], forwards[i], sizeof forwards[i]);
        argv[n++] = "--hostfwd";
        argv[n++] = forwards[i];
    }
    r = user_spawn(path, (char *const *)argv, socket, pid);
    return r < 0 ? err_errno(err, -r, "cannot start %s", path) : 0;
}

/* ---- its end ---- */

/* Waits for a process that is about to end; kills one that is not. Returns how it ended. */
static int user_reap(struct user *user)
{
    int status = 0;
    for (unsigned i = 0; user->pid; i++) {
        pid_t r = waitpid(user->pid, &status, WNOHANG);
        if (r == user->pid || (r < 0 && errno != EINTR))
            user->pid = 0;
        else if (i == USER_END_TRIES && kill(user->pid, SIGKILL) < 0)
            break; /* locked down: it is left to init */
        else
            usleep(2000);
    }
    return status;
}

static void user_lost(struct port *port, char *why, size_t len)
{
    struct user *user = CONTAINER_OF(port, struct user, port);
    shutdown(port->fd, SHUT_RDWR); /* if it is alive, it now ends */
    int status = user_reap(user);
    if (WIFSIGNALED(status))
        snprintf(why, len, USER_HELPER " was killed by signal %d", WTERMSIG(status));
    else
        snprintf(why, len, USER_HELPER " ended with status %d", WEXITSTATUS(status));
}

static void user_destroy(struct net_backend *backend)
{
    struct user *user = CONTAINER_OF(backend, struct user, port.backend);
    if (user->port.fd >= 0)
        shutdown(user->port.fd, SHUT_RDWR);
    port_fini(&user->port);
    user_reap(user);
    free(user);
}

static const struct net_driver user_driver = {
    .name = "user",
    .about = "NAT in a helper process, without privileges",
    .send = port_send,
    .pause = port_pause,
    .destroy = user_destroy,
};

/* ---- creation ---- */

/* Reads the helper's first line, byte by byte: frames follow it. */
static int user_hello(int fd, struct err *err)
{
    char line[256];
    size_t n = 0;
    uint64_t deadline = monotonic_ns() + USER_START_MS * 1000000ull;
    while (n < sizeof line - 1) {
        uint64_t now = monotonic_ns();
        struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
        int r = now < deadline ? poll(&poll_fd, 1, (int)((deadline - now) / 1000000) + 1) : 0;
        if (r < 0 && errno == EINTR)
            continue;
        if (!r)
            return err_set(err, ETIMEDOUT, USER_HELPER " does not answer");
        if (read(fd, &line[n], 1) != 1)
            return err_set(err, EIO, USER_HELPER " ended while starting");
        if (line[n] == '\n')
            break;
        n++;
    }
    line[n] = 0;
    if (strncmp(line, USER_HELLO, strlen(USER_HELLO)))
        return err_set(err, EIO, "%s", line);
    log_info("user network: the helper is confined by %s", line + strlen(USER_HELLO));
    return 0;
}

static int user_create(struct loop *loop, const struct net_user_options *options,
                       struct net_backend **out, struct err *err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(err, errno, "socketpair");
    AUTO(fd_close) int ours = pair[0];
    AUTO(fd_close) int theirs = pair[1];
    struct user *user = calloc(1, sizeof *user);
    if (!user)
        return err_set(err, ENOMEM, "out of memory");

    user->port.fd = -1;
    int r = user_start(options, theirs, &user->pid, err);
    fd_close(TAKE_FD(theirs));
    if (!r)
        r = user_hello(ours, err);
    if (!r)
        r = port_init(&user->port, &user_driver, loop, "user", ours, PORT_STREAM, err);
    if (r < 0) {
        fd_close(TAKE_FD(ours));
        user_destroy(&user->port.backend);
        return r;
    }
    ours = -1;
    user->port.lost = user_lost;
    user->port.backend.takes = NET_TSO4 | NET_TSO6 | NET_TSO_ECN;
    *out = &user->port.backend;
    return 0;
}

int net_user_create(struct loop *loop, const struct net_user_options *options,
                    struct net_backend **out, struct err *err)
{
    int r = user_create(loop, options, out, err);
    return r < 0 ? err_prefix(err, "user network") : 0;
}

pid_t net_user_pid(const struct net_backend *backend)
{
    return backend->driver == &user_driver ? CONTAINER_OF(backend, struct user, port.backend)->pid
                                           : 0;
}
