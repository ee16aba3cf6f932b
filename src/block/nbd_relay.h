/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The heart of bedplate-nbd: requests from the socket pair go to the server over one or more
 * connections of libnbd, and answers back. See nbd_relay.c for what happens when a connection is
 * lost. One thread.
 */
#ifndef BLOCK_NBD_RELAY_H
#define BLOCK_NBD_RELAY_H

#include "base/err.h"
#include "block/nbd_client.h"
#include "block/nbd_uri.h"

struct nbd_relay;

struct nbd_relay_config {
    const struct nbd_uri
        *uri; /* outlives the relay; file names in it as the process now sees them */
    int fd;   /* of the socket pair; borrowed */
    bool readonly;
};

/* Connects once; *export says what is there. */
int nbd_relay_create(const struct nbd_relay_config *config, struct nbd_relay **out,
                     struct nbd_export *export, struct err *err);
/* Until the socket pair closes. */
void nbd_relay_run(struct nbd_relay *relay);

#endif
