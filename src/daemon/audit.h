/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The audit log: who asked for what, every change and every refusal. STATE/audit.log has a JSON
 * object a line, only ever added to; each has the SHA-256 over itself and the one before (api/
 * digest.h), so that a line cannot be changed or taken out without all later ones showing it.
 * Loop only.
 */
#ifndef DAEMON_AUDIT_H
#define DAEMON_AUDIT_H

#include "daemon/daemon.h"

/* Goes on behind the last record. A last line that is not whole, of a host that went down, goes. */
int audit_start(struct daemon *daemon, struct err *err);
void audit_stop(void);
/* http_create's call-back: what was asked and answered. */
void audit_request(void *arg, const struct http_request *request, unsigned status);
/* GET /v1/audit: records behind `after`. */
json_t *audit_after(uint64_t after, size_t limit, struct err *err);

#endif
