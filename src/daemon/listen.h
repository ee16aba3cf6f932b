/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where the API is served: the unix socket of this host, made here or by systemd, and TLS for
 * others. Loop only. */
#ifndef DAEMON_LISTEN_H
#define DAEMON_LISTEN_H

#include "daemon/daemon.h"

/* Of the options; listen NULL: nowhere. Borrowed for the daemon's life. */
struct remote {
    const char *listen, *certificate, *key, *ca, *crl;
};

int listen_start(struct daemon *daemon, const struct remote *remote, struct err *err);
/* Reads the certificates anew; the old ones stay when the new ones are no good. */
void listen_reload(struct daemon *daemon);
void listen_stop(struct daemon *daemon);
/* Tells systemd, where that has started us, that we are ready (sd_notify(3)). */
void ready_tell(void);

#endif
