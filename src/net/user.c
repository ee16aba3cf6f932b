/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * User-mode networking: starts bedplate-net (user_helper.c) and talks frames with it over a socket
 * pair, each after its length. The helper first sends one line, which says whether it works.
 *
 * The helper takes large TCP segments whole, but with their checksums complete.
 */
#include "net/driver.h"

#include "base/checked.h"
#include "base/helper.h"
#include "base/log.h"
#include "net/user.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { USER_START_MS = 10000, USER_MAX_FORWARDS = 64 };

struct user {
    struct port port;
    pid_t pid; /* 0 once reaped */
};

/* ---- starting the helper ---- */

static void user_forward_text(const struct net_hostfwd *fwd, char *text, size_t len)
{
    char host[INET_ADDRSTRLEN], guest[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &fwd->host_addr, host, sizeof host);
    inet_ntop(AF_INET, &fwd->guest_addr, guest, sizeof guest);
    snprintf(text, len, "%s:%s:%u-%s:%u", fwd->udp ? "udp" : "tcp", host, fwd->host_port, guest,
             fwd->guest_port);
}

static int user_start(const struct net_user_options *options, int *fd, pid_t *pid, struct err *err)
{
    char forwards[USER_MAX_FORWARDS][80];
    if (options->hostfwd_count > USER_MAX_FORWARDS)
        return err_set(err, EINVAL, "at most %d ports can be forwarded", USER_MAX_FORWARDS);

    const char *argv[2 * USER_MAX_FORWARDS + 12];
    unsigned n = 0;
    if (options->restrict_host)
        argv[n++] = "--restrict";
    argv[n++] = "--hostname";
    argv[n++] = options->hostname ? options->hostname : "bedplate";
    if (options->tftp) {
        argv[n++] = "--tftp";
        argv[n++] = options->tftp;
    }
    if (options->bootfile) {
        argv[n++] = "--bootfile";
        argv[n++] = options->bootfile;
    }
    for (unsigned i = 0; i < options->hostfwd_count; i++) {
        user_forward_text(&options->hostfwd[i], forwards[i], sizeof forwards[i]);
        argv[n++] = "--hostfwd";
        argv[n++] = forwards[i];
    }
    argv[n] = NULL;
    return helper_start(USER_HELPER, "net", argv, true, fd, pid, err);
}

/* ---- its end ---- */

static void user_lost(struct port *port, char *why, size_t len)
{
    struct user *user = CONTAINER_OF(port, struct user, port);
    shutdown(port->fd, SHUT_RDWR); /* if it is alive, it now ends */
    int status = helper_end(&user->pid);
    if (status < 0)
        snprintf(why, len, USER_HELPER " ended");
    else if (WIFSIGNALED(status))
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
    helper_end(&user->pid);
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

static int user_create(struct loop *loop, const struct net_user_options *options,
                       struct net_backend **out, struct err *err)
{
    char confined[256];
    AUTO(fd_close) int ours = -1;
    struct user *user = calloc(1, sizeof *user);
    if (!user)
        return err_set(err, ENOMEM, "out of memory");

    user->port.fd = -1;
    int r = user_start(options, &ours, &user->pid, err);
    if (!r)
        r = helper_wait(USER_HELPER, ours, USER_START_MS, confined, sizeof confined, err);
    if (!r)
        log_info("user network: the helper is confined by %s", confined);
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
