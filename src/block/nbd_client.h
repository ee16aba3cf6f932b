/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disks on NBD servers. The connection, its TLS session and its credentials live in a helper
 * process, bedplate-nbd (nbd_helper.c); here is what talks with the helper over a socket pair: the
 * transmission phase of the NBD protocol with structured replies and the context base:allocation,
 * without its handshake. The helper reads what a hostile server sends, so its replies count as
 * hostile, too.
 *
 * Requests come from any thread and are finished on the client's thread `nbd-in`. For this room.
 *
 *     nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH, nbds:// and nbds+unix:// with TLS;
 *     parameters behind '?', joined by '&': see nbd_helper.c
 */
#ifndef BLOCK_NBD_CLIENT_H
#define BLOCK_NBD_CLIENT_H

#include "base/cleanup.h"
#include "base/err.h"
#include "block/block.h"
#include "block/nbd_wire.h"
#include "block/store.h"

#include <stdbool.h>

struct nbd_client;

struct nbd_request { /* the submitter's until `done` */
    enum nbd_command command;
    unsigned flags; /* enum nbd_command_flag */
    uint64_t offset;
    uint32_t len;
    const struct iovec *iov; /* READ, WRITE: adds up to len */
    unsigned iov_count;
    void (*done)(struct nbd_request *req, int result); /* 0 or -errno */
    /* Answer of BLOCK_STATUS: bits of enum nbd_state for the first status_len (1 to len) bytes. */
    uint32_t status, status_len;

    struct nbd_request *next; /* private */
    uint64_t sent;
    uint32_t got;
    int result;
};

struct nbd_export { /* what the helper's first line says; checked */
    uint64_t size;
    unsigned flags; /* enum nbd_export_flag */
    uint32_t align, max_transfer;
    unsigned connections;
};

/* Does the name mean an NBD export? */
bool nbd_is_uri(const char *path);
/* Starts the helper, which connects. */
int nbd_client_open(const char *uri, bool readonly, struct nbd_client **out, struct err *err);
/* Over a descriptor that is connected already: for tests and the fuzzer. */
int nbd_client_create(int take_fd, const struct nbd_export *export, const char *name,
                      struct nbd_client **out, struct err *err);
void nbd_client_close(struct nbd_client *client); /* nothing is in flight */
DEFINE_AUTO(struct nbd_client *, nbd_client_close)

const struct nbd_export *nbd_client_export(const struct nbd_client *client);
void nbd_submit(struct nbd_client *client, struct nbd_request *req);

/* A store with blocking calls, for images in files of an export and for the tool. Takes client. */
int nbd_store_open(struct nbd_client *take_client, struct store **out, struct err *err);
/* The node over a raw export. Takes client. */
int nbd_node_open(const struct block_options *options, struct nbd_client *take_client,
                  struct block_node **out, struct err *err);

#endif
