/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Addresses of NBD exports, as NetworkBlockDevice/nbd doc/uri.md has them:
 *
 *     nbd[s]://[USER@]HOST[:PORT]/EXPORT[?PARAMETER=VALUE&...]
 *     nbd[s]+unix://[USER@]/EXPORT?socket=PATH[&...]
 *
 * The parameters are the table in nbd_uri.c. For the helper program, which takes one apart.
 */
#ifndef BLOCK_NBD_URI_H
#define BLOCK_NBD_URI_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct nbd_uri {
    bool tls;
    const char *text;  /* the address as it was given; borrowed */
    char *host, *port; /* NULL: a Unix socket */
    char *socket;      /* NULL: TCP */
    char *export;      /* "" is the default export */
    char *user;        /* of TLS with pre-shared keys; or NULL */
    char *certificates, *psk;
    unsigned connections, timeout_s, reconnect_s;
};

int nbd_uri_parse(const char *text, struct nbd_uri *out, struct err *err);
void nbd_uri_fini(struct nbd_uri *uri); /* also after a failure */

#endif
