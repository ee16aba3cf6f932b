/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A descriptor handed to us: a tap, or a socket with frames on it. */
#include "net/tap.h"

#include "base/checked.h"

#include <fcntl.h>
#include <sys/socket.h>

static void fd_destroy(struct net_backend *backend)
{
    struct port *port = CONTAINER_OF(backend, struct port, backend);
    port_fini(port);
    free(port);
}

static const struct net_driver fd_driver = {
    .name = "fd",
    .about = "an inherited tap or socket",
    .send = port_send,
    .pause = port_pause,
    .destroy = fd_destroy,
};

static int fd_create(struct loop *loop, int take_fd, const char *name, struct net_backend **out,
                     struct err *err)
{
    AUTO(fd_close) int fd = take_fd;
    int type;
    socklen_t len = sizeof type;
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        fd = -1;
        return err_set(err, EBADF, "there is no such open descriptor");
    }
    if (tap_is(fd))
        return tap_create(loop, TAKE_FD(fd), name, out, err);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
        return err_set(err, EINVAL, "is neither a tap nor a socket");
    if (type != SOCK_STREAM && type != SOCK_DGRAM && type != SOCK_SEQPACKET)
        return err_set(err, EINVAL, "is a socket of a kind that carries no frames");

    struct port *port = calloc(1, sizeof *port);
    if (!port)
        return err_set(err, ENOMEM, "out of memory");
    int r = port_init(port, &fd_driver, loop, name, fd,
                      type == SOCK_STREAM ? PORT_STREAM : PORT_PACKET, err);
    if (r < 0) {
        fd_destroy(&port->backend);
        return r;
    }
    fd = -1;
    *out = &port->backend;
    return 0;
}

int net_fd_create(struct loop *loop, int take_fd, struct net_backend **out, struct err *err)
{
    char name[64];
    snprintf(name, sizeof name, "fd:%d", take_fd);
    int r = fd_create(loop, take_fd, name, out, err);
    return r < 0 ? err_prefix(err, "%s", name) : 0;
}
