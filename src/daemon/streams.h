/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * WebSockets: a VM's serial console and its screen (VNC) as binary messages, in both directions,
 * and events as they happen, a JSON text each. Loop only.
 */
#ifndef DAEMON_STREAMS_H
#define DAEMON_STREAMS_H

#include "daemon/daemon.h"

/* Is it a request for a WebSocket? */
bool stream_wanted(const struct http_request *request);
/* Answer the request, with 101 or an error. */
void stream_socket(struct daemon *daemon, struct http_request *request, const char *path);
void stream_events(struct daemon *daemon, struct http_request *request);
/* Those of one server, before its http_destroy; NULL: all. */
void streams_close(const struct http *http);

#endif
