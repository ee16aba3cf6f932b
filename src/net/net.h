/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Network back ends: what carries the frames of a NIC to and from the outside.
 *
 * A back end lives on one loop; every function and call-back here runs on it (creation may happen
 * before the loop runs). Frames are Ethernet without FCS, with an offload header beside them.
 * Create back ends before the process locks itself down.
 *
 * Flow control, to the outside: net_send answers -EAGAIN when the back end can take no more, and
 * `ready` is called once when it can again. To the guest: `receive` answers false when the NIC has
 * no buffers, the back end keeps that frame and stops reading until net_resume.
 */
#ifndef NET_NET_H
#define NET_NET_H

#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

enum {
    NET_MAX_FRAME = 65536 + 64, /* with segmentation offload: Ethernet, VLANs and 64 KiB */
    NET_MIN_FRAME = 14,         /* an Ethernet header; shorter ones are dropped */
};

enum net_gso { NET_GSO_NONE = 0, NET_GSO_TCPV4 = 1, NET_GSO_TCPV6 = 4 }; /* as in virtio-net */

/* What is left to do with a frame, like the header of virtio-net (virtio 1.2, 5.1.6). All zero: the
 * frame is complete. From a guest every field is hostile; back ends check. */
struct net_offload {
    bool needs_csum;  /* sum from csum_start to the end, store at csum_start + csum_offset */
    bool csum_valid;  /* towards the guest: the checksums have been verified */
    bool ecn;         /* a TCP segment with CWR that may be cut all the same */
    enum net_gso gso; /* needs_csum is then set, too */
    uint16_t csum_start, csum_offset;
    uint16_t gso_size; /* payload of each segment */
    uint16_t hdr_len;  /* a hint; never trusted */
};

/* Sets of features. `takes`: what a guest may leave undone in net_send. net_set_receive_offloads:
 * what the NIC's driver accepts undone. */
enum net_feature { NET_CSUM = 1, NET_TSO4 = 2, NET_TSO6 = 4, NET_TSO_ECN = 8 };

/* The NIC. */
struct net_receiver {
    /* A frame for the guest; valid during the call. False: no room, offer it again after
     * net_resume. */
    bool (*receive)(void *arg, const uint8_t *frame, size_t len, const struct net_offload *offload);
    void (*ready)(void *arg);         /* after -EAGAIN: send again; may come unasked */
    void (*link)(void *arg, bool up); /* the link changed, e.g. because the helper died */
};

struct net_backend;

/* A kind of back end. For net_send and friends, not for NICs. */
struct net_driver {
    const char *name, *about;
    /* The offload asks for nothing outside `takes`; the frame has 14 to NET_MAX_FRAME bytes. */
    int (*send)(struct net_backend *backend, const struct iovec *iov, unsigned count,
                const struct net_offload *offload);
    void (*pause)(struct net_backend *backend, bool paused);             /* stop or start reading */
    int (*set_offloads)(struct net_backend *backend, unsigned features); /* absent: takes any */
    void (*destroy)(struct net_backend *backend);
};

struct net_backend { /* embedded in each kind; fields on the loop */
    const struct net_driver *driver;
    struct loop *loop;
    char name[64];     /* for log lines and status: "user", "tap:vm1", "fd:5" */
    unsigned takes;    /* net_feature; fixed at create; net_send does the rest in software */
    unsigned delivers; /* net_feature that the receiver accepts */
    bool up;
    bool paused;
    const struct net_receiver *receiver; /* NULL: nothing is read */
    void *receiver_arg;
    uint8_t *scratch;                 /* owned; a linear copy of a frame for software offloads */
    uint64_t sent, received, dropped; /* frames */
};

/* Any offload may be asked for. iov may be guest memory that changes meanwhile. 0: taken (or
 * dropped: malformed frames and a link that is down drop silently, as a cable would); -EAGAIN:
 * nothing was taken, wait for `ready`. */
int net_send(struct net_backend *backend, const struct iovec *iov, unsigned count,
             const struct net_offload *offload);
/* Nothing is read until there is a receiver. NULL detaches. */
void net_set_receiver(struct net_backend *backend, const struct net_receiver *receiver, void *arg);
void net_pause(struct net_backend *backend);
void net_resume(struct net_backend *backend); /* also after `receive` answered false */
/* Default after creation: none, so every frame arrives complete and at most MTU-sized. */
int net_set_receive_offloads(struct net_backend *backend, unsigned features);
void net_destroy(struct net_backend *backend); /* not from inside its call-backs */
DEFINE_AUTO(struct net_backend *, net_destroy)

/* ---- hostfwd ---- */

struct net_hostfwd {
    bool udp;
    struct in_addr host_addr;  /* default 127.0.0.1: only this machine */
    uint16_t host_port;        /* not 0 */
    struct in_addr guest_addr; /* default: what DHCP gives the guest */
    uint16_t guest_port;
};
/* "tcp:127.0.0.1:2222-:22", "udp::5353-10.0.2.15:53"; "tcp" may be left out as in ":2222-:22". An
 * empty host address is 127.0.0.1; write 0.0.0.0 to open it to everybody. */
int net_hostfwd_parse(const char *text, struct net_hostfwd *out, struct err *err);

/* ---- the kinds ---- */

struct net_user_options {
    const struct net_hostfwd *hostfwd;
    unsigned hostfwd_count;
    bool restrict_host;   /* the guest reaches only what hostfwd opens */
    const char *hostname; /* NULL: "bedplate" */
    const char *tftp;     /* an absolute path: files below it are served by TFTP; NULL: none */
    const char *bootfile; /* what DHCP names to boot, a file or a URL; NULL: nothing */
};
/* NAT by libslirp in the confined process bedplate-net, which is looked for in $BEDPLATE_LIBEXEC,
 * beside our own executable and in ../net, ../libexec/bedplate of it. 10.0.2.0/24 with the guest at
 * .15, the host at .2, DNS at .3; fec0::/64. Fails when a forwarded port is taken. */
int net_user_create(struct loop *loop, const struct net_user_options *options,
                    struct net_backend **out, struct err *err);
pid_t net_user_pid(const struct net_backend *backend); /* of the helper; 0: there is none */

/* An existing or new tap interface; bringing it up and bridging it is the administrator's. */
int net_tap_create(struct loop *loop, const char *ifname, struct net_backend **out,
                   struct err *err);

/* A descriptor handed to us: a tap, a datagram or seqpacket socket (one frame each) or a stream
 * socket (a 32-bit big-endian length before each frame). Takes fd, on failure, too. */
int net_fd_create(struct loop *loop, int take_fd, struct net_backend **out, struct err *err);

#endif
