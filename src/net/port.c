/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A back end on one non-blocking descriptor.
 *
 * Invariants:
 * 1. While reading is paused, frames stay in `in` and in the descriptor; none is lost here.
 * 2. While `full` is set, senders are told -EAGAIN and the watch waits for room; then `ready`.
 * 3. A half-sent frame (STREAM) is finished before anything else is sent.
 */
#include "net/driver.h"

#include "base/checked.h"
#include "base/log.h"
#include "net/offload.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/socket.h>

enum {
    PORT_IN = 256 << 10,
    PORT_BUDGET = 128, /* frames for one call of the loop, so that others get their turn */
    PORT_STREAM_HEAD = 4,
    PORT_MAX_IOV = 64,
};

static struct port *port_of(struct net_backend *backend)
{
    return CONTAINER_OF(backend, struct port, backend);
}

static void port_events(struct port *port)
{
    if (port->watch)
        loop_watch_events(port->watch,
                          (port->reading ? LOOP_READ : 0) | (port->full ? LOOP_WRITE : 0));
}

static void port_lost(struct port *port, const char *what)
{
    char why[160];
    if (!port->backend.up)
        return;
    loop_watch_destroy(TAKE(port->watch));
    snprintf(why, sizeof why, "%s", what);
    if (port->lost)
        port->lost(port, why, sizeof why);
    log_error("net %s: %s; its link is down", port->backend.name, why);
    port->full = false;
    net_link(&port->backend, false);
}

/* ---- sending ---- */

static int port_full(struct port *port)
{
    port->full = true;
    port_events(port);
    return -EAGAIN;
}

static int port_send_error(struct port *port, int code)
{
    switch (code) {
    case EAGAIN: return port_full(port);
    case EPIPE:
    case ECONNRESET:
    case EBADFD:
    case ENODEV:
        if (port->framing == PORT_PACKET && !port->seqpacket)
            break; /* a datagram peer may come back */
        port_lost(port, strerror(code));
        break;
    }
    return -code; /* counted as dropped: a tap that is down, no buffers, ... */
}

static bool port_flush(struct port *port)
{
    while (port->out_start < port->out_end) {
        ssize_t n = send(port->fd, port->out + port->out_start, port->out_end - port->out_start,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            port_send_error(port, errno);
            return false;
        }
        port->out_start += (size_t)n;
    }
    port->out_start = port->out_end = 0;
    return true;
}

static void port_keep_rest(struct port *port, const struct iovec *iov, unsigned count, size_t sent)
{
    for (unsigned i = 0; i < count; i++) {
        size_t skip = sent < iov[i].iov_len ? sent : iov[i].iov_len;
        memcpy(port->out + port->out_end, (char *)iov[i].iov_base + skip, iov[i].iov_len - skip);
        port->out_end += iov[i].iov_len - skip;
        sent -= skip;
    }
}

static void port_tap_header(const struct net_offload *offload, struct virtio_net_hdr *out)
{
    *out = (struct virtio_net_hdr){
        .flags = offload->needs_csum ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0,
        .gso_type = (uint8_t)offload->gso,
        .hdr_len = offload->hdr_len,
        .gso_size = offload->gso_size,
        .csum_start = offload->csum_start,
        .csum_offset = offload->csum_offset,
    };
    if (offload->ecn && offload->gso != NET_GSO_NONE)
        out->gso_type |= VIRTIO_NET_HDR_GSO_ECN;
}

int port_send(struct net_backend *backend, const struct iovec *iov, unsigned count,
              const struct net_offload *offload)
{
    struct port *port = port_of(backend);
    struct iovec all[PORT_MAX_IOV + 1];
    size_t len = 0;
    if (port->full || !port_flush(port))
        return backend->up ? -EAGAIN : -EPIPE;

    for (unsigned i = 0; i < count; i++) {
        if (count > PORT_MAX_IOV) /* scattered wildly: gather */
            memcpy(backend->scratch + len, iov[i].iov_base, iov[i].iov_len);
        else
            all[i + 1] = iov[i];
        len += iov[i].iov_len;
    }
    if (count > PORT_MAX_IOV) {
        all[1] = (struct iovec){ backend->scratch, len };
        count = 1;
    }

    struct virtio_net_hdr header;
    uint32_t prefix = htonl((uint32_t)len);
    struct iovec *first = all;
    if (port->framing == PORT_TAP) {
        port_tap_header(offload, &header);
        all[0] = (struct iovec){ &header, sizeof header };
        count++;
    } else if (port->framing == PORT_STREAM) {
        all[0] = (struct iovec){ &prefix, sizeof prefix };
        count++;
        len += sizeof prefix;
    } else {
        first = all + 1;
    }
    ssize_t n;
    do {
        struct msghdr msg = { .msg_iov = first, .msg_iovlen = count };
        n = port->framing == PORT_TAP ? writev(port->fd, first, (int)count)
                                      : sendmsg(port->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return port_send_error(port, errno);
    if (port->framing == PORT_STREAM && (size_t)n < len) {
        port_keep_rest(port, first, count, (size_t)n);
        port_full(port); /* this one counts as sent; the next has to wait */
    }
    return 0;
}

/* ---- receiving ---- */

static bool port_deliver_tap(struct port *port, uint8_t *data, size_t len)
{
    struct virtio_net_hdr header;
    if (len < sizeof header)
        return true;
    memcpy(&header, data, sizeof header);
    struct net_offload offload = {
        .needs_csum = header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .csum_valid = header.flags & VIRTIO_NET_HDR_F_DATA_VALID,
        .ecn = header.gso_type & VIRTIO_NET_HDR_GSO_ECN,
        .gso = (enum net_gso)(header.gso_type & ~VIRTIO_NET_HDR_GSO_ECN),
        .csum_start = header.csum_start,
        .csum_offset = header.csum_offset,
        .gso_size = header.gso_size,
        .hdr_len = header.hdr_len,
    };
    return net_deliver(&port->backend, data + sizeof header, len - sizeof header, &offload);
}

/* Delivers what is in the buffer. False: the receiver wants no more, or the link went down. */
static bool port_deliver(struct port *port)
{
    static const struct net_offload complete;
    while (port->in_start < port->in_end) {
        uint8_t *data = port->in + port->in_start;
        size_t len = port->in_end - port->in_start, whole = len;
        bool taken;
        if (port->framing == PORT_STREAM) {
            uint32_t prefix;
            if (len < sizeof prefix)
                break;
            memcpy(&prefix, data, sizeof prefix);
            prefix = ntohl(prefix);
            if (prefix > NET_MAX_FRAME) {
                port_lost(port, "the other side does not speak the length-prefixed protocol");
                return false;
            }
            whole = sizeof prefix + prefix;
            if (len < whole)
                break;
            taken = net_deliver(&port->backend, data + sizeof prefix, prefix, &complete);
        } else if (port->framing == PORT_TAP) {
            taken = port_deliver_tap(port, data, len);
        } else {
            taken = net_deliver(&port->backend, data, len, &complete);
        }
        if (!taken)
            return false;
        port->in_start += whole;
        if (port->framing == PORT_STREAM && !port->reading)
            return false; /* the receiver paused us from inside */
    }
    /* A part of a frame moves to the front, so that the rest fits behind it. */
    if (port->in_start) {
        memmove(port->in, port->in + port->in_start, port->in_end - port->in_start);
        port->in_end -= port->in_start;
        port->in_start = 0;
    }
    return port->backend.up;
}

static void port_read(struct port *port)
{
    for (unsigned n = 0; n < PORT_BUDGET && port->reading && port_deliver(port); n++) {
        ssize_t got = read(port->fd, port->in + port->in_end, PORT_IN - port->in_end);
        if (got > 0) {
            port->in_end += (size_t)got;
            continue;
        }
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        bool datagrams = port->framing == PORT_PACKET && !port->seqpacket;
        if (datagrams && (!got || errno == ECONNREFUSED || errno == ECONNRESET))
            continue;
        port_lost(port, got < 0 ? strerror(errno) : "the other side closed it");
        return;
    }
    if (port->reading)
        port_deliver(port);
}

static void port_event(void *arg, unsigned events)
{
    struct port *port = arg;
    if ((events & LOOP_READ) && port->reading)
        port_read(port);
    if ((events & LOOP_WRITE) && port->full && port->backend.up) {
        port->full = false;
        port_events(port);
        if (port_flush(port))
            net_ready(&port->backend);
    }
    if ((events & LOOP_HANGUP) && port->backend.up)
        port_lost(port, "the other side closed it");
}

/* ---- life ---- */

static void port_resumed(void *arg)
{
    struct port *port = arg;
    if (port->reading && port->backend.up)
        port_deliver(port);
}

void port_pause(struct net_backend *backend, bool paused)
{
    struct port *port = port_of(backend);
    port->reading = !paused;
    port_events(port);
    /* What waits in the buffer makes no event. */
    if (!paused && port->in_start < port->in_end)
        loop_timer_arm(port->resume, 0);
}

int port_init(struct port *port, const struct net_driver *driver, struct loop *loop,
              const char *name, int fd, enum port_framing framing, struct err *err)
{
    port->fd = -1;
    int type = 0, flags = fcntl(fd, F_GETFL);
    socklen_t len = sizeof type;
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return err_errno(err, errno, "descriptor %d", fd);
    if (framing == PORT_PACKET && !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len))
        port->seqpacket = type == SOCK_SEQPACKET;
    int r = net_backend_init(&port->backend, driver, loop, name, err);
    if (r < 0)
        return r;
    port->framing = framing;
    port->in = malloc(PORT_IN);
    port->out = malloc(NET_MAX_FRAME + PORT_STREAM_HEAD);
    if (!port->in || !port->out)
        return err_set(err, ENOMEM, "out of memory");
    r = loop_timer_create(loop, port_resumed, port, &port->resume, err);
    if (!r)
        r = loop_watch_create(loop, fd, 0, port_event, port, &port->watch, err);
    if (!r)
        port->fd = fd;
    return r;
}

void port_fini(struct port *port)
{
    loop_watch_destroy(port->watch);
    loop_timer_destroy(port->resume);
    fd_close(port->fd);
    free(port->in);
    free(port->out);
    net_backend_fini(&port->backend);
}
