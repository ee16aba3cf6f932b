/* SPDX-License-Identifier: GPL-2.0-or-later */
/* TLS for the clients of `serve`, by GnuTLS. */
#ifndef IMG_TLS_H
#define IMG_TLS_H

#include "base/err.h"
#include "block/nbd_server.h"

struct tls;

/* certificates: a directory with server-cert.pem and server-key.pem, and ca-cert.pem where clients
 * have to show a certificate of that authority. psk: a file with lines USER:HEXKEY. One of both. */
int tls_create(const char *certificates, const char *psk, struct tls **out, struct err *err);
/* Any thread; arg: a struct tls. */
int tls_start(void *arg, int fd, struct nbd_io **out);

#endif
