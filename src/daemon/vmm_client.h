/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A connection to one bedplate-vmm by its control socket (docs/control-protocol.md). What comes
 * from there is not trusted: lines are bounded, JSON is checked. Loop only.
 */
#ifndef DAEMON_VMM_CLIENT_H
#define DAEMON_VMM_CLIENT_H

#include "base/cleanup.h"
#include "base/err.h"
#include "base/json.h"
#include "base/loop.h"

#include <sys/types.h>

struct vmm_client;

struct vmm_client_calls {
    void (*ready)(void *arg, pid_t pid); /* hello is over */
    /* `what` with its members, see the protocol. */
    void (*event)(void *arg, const char *what, const json_t *event);
    /* The connection is gone (the client must be destroyed, here or later). */
    void (*lost)(void *arg);
};

/* `ok` is the answer's member, or NULL with err. */
typedef void (*vmm_client_done)(void *arg, const json_t *ok, const struct err *err);

/* Connects; -ENOENT and -ECONNREFUSED: nobody is there (yet). `calls` and arg are borrowed. */
int vmm_client_create(struct loop *loop, const char *path, const struct vmm_client_calls *calls,
                      void *arg, struct vmm_client **out, struct err *err);
/* Calls none of `calls` any more: for one that is going to be destroyed. */
void vmm_client_silence(struct vmm_client *client);
/* Requests without an answer end with an error first. */
void vmm_client_destroy(struct vmm_client *client);
DEFINE_AUTO(struct vmm_client *, vmm_client_destroy)

/* take_members: the request's, without id and do; NULL: none. done may be NULL. fd: goes along;
 * -1: none. */
void vmm_client_ask(struct vmm_client *client, const char *what, json_t *take_members, int fd,
                    vmm_client_done done, void *arg);

#endif
