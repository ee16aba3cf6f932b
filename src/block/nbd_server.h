/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Serving an image by NBD: fixed newstyle handshake, structured replies, the contexts
 * base:allocation and qemu:dirty-bitmap:NAME, several connections of one client. Clients are
 * hostile.
 *
 * The caller accepts connections and gives each a thread, which nbd_serve keeps until its client
 * leaves; requests are carried out by the server's workers. TLS is the caller's, behind nbd_io.
 */
#ifndef BLOCK_NBD_SERVER_H
#define BLOCK_NBD_SERVER_H

#include "base/cleanup.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct image;
struct nbd_server;

/* The bytes of one connection. One thread reads while another writes. */
struct nbd_io {
    /* Waits for at least one byte: how many, 0 at the end, or -errno. */
    ssize_t (*read)(struct nbd_io *io, void *data, size_t len);
    int (*write)(struct nbd_io *io, struct iovec *iov, unsigned count); /* all, or -errno */
    void (*close)(struct nbd_io *io);                                   /* not the descriptor */
};

struct nbd_dirty { /* a bitmap to show; bit set: granule written */
    const char *name;
    const uint8_t *bits;
    uint64_t count;
    unsigned granularity_bits;
};
enum { NBD_DIRTY_MAX = 16 };

struct nbd_server_options { /* what it points to outlives the server */
    struct image *image;
    const char *name, *description; /* of the export */
    bool readonly;
    const struct nbd_dirty *bitmaps;
    unsigned bitmap_count; /* at most NBD_DIRTY_MAX */
    unsigned workers;      /* 0: requests are carried out where they are read */
    /* Makes TLS of a connection; NULL: there is none. Otherwise clients have to use it. */
    int (*start_tls)(void *arg, int fd, struct nbd_io **out);
    void *arg;
};

int nbd_server_create(const struct nbd_server_options *options, struct nbd_server **out,
                      struct err *err);
void nbd_server_destroy(struct nbd_server *server); /* no connection is left */
DEFINE_AUTO(struct nbd_server *, nbd_server_destroy)

/* One client from its first byte to its last; then nothing of it is in flight. The caller closes
 * fd. Any thread. */
void nbd_serve(struct nbd_server *server, int fd);

#endif
