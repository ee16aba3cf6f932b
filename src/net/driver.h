/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What kinds of back ends share. For this room only. */
#ifndef NET_DRIVER_H
#define NET_DRIVER_H

#include "net/net.h"

int net_backend_init(struct net_backend *backend, const struct net_driver *driver,
                     struct loop *loop, const char *name, struct err *err);
void net_backend_fini(struct net_backend *backend);
/* A frame from outside. False: the receiver has no room; reading is paused, keep the frame. */
bool net_deliver(struct net_backend *backend, uint8_t *frame, size_t len,
                 const struct net_offload *offload);
void net_ready(struct net_backend *backend); /* sending is possible again */
void net_link(struct net_backend *backend, bool up);

/* ---- port.c: a back end that reads and writes frames on one descriptor ---- */

enum port_framing {
    PORT_TAP,    /* struct virtio_net_hdr before each frame */
    PORT_PACKET, /* a datagram is a frame */
    PORT_STREAM, /* a 32-bit big-endian length before each frame */
};

struct port {
    struct net_backend backend;
    int fd; /* owned */
    enum port_framing framing;
    struct loop_watch *watch;
    struct loop_timer *resume; /* to deliver what is in the buffer, not inside net_resume */
    bool reading, full;        /* which events the watch wants; full: -EAGAIN was answered */
    bool seqpacket;
    uint8_t *in; /* owned; frames not yet delivered: [in_start, in_end) */
    size_t in_start, in_end;
    uint8_t *out; /* owned; STREAM: the rest of a frame that was half sent */
    size_t out_start, out_end;
    /* The other side is gone; the link is down already. Says why, for the log. */
    void (*lost)(struct port *port, char *why, size_t len);
};

/* Takes fd only on success. The driver's send, pause and destroy are port_send, port_pause and (at
 * last) port_fini. */
int port_init(struct port *port, const struct net_driver *driver, struct loop *loop,
              const char *name, int fd, enum port_framing framing, struct err *err);
void port_fini(struct port *port);
int port_send(struct net_backend *backend, const struct iovec *iov, unsigned count,
              const struct net_offload *offload);
void port_pause(struct net_backend *backend, bool paused);

#endif
