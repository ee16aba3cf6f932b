/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control protocol's carrier: JSON lines on a unix socket (docs/control-protocol.md). Knows
 * clients, request ids and their outcomes, numbered events, descriptors; what the commands do is in
 * commands.c.
 *
 * Main loop's thread only, but for control_event(). Clients are not trusted to behave: lines,
 * queues and tables are bounded, and a client that breaks a bound is dropped.
 */
#ifndef VMM_CONTROL_H
#define VMM_CONTROL_H

#include "base/cleanup.h"
#include "base/err.h"
#include "base/json.h"
#include "base/loop.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    CONTROL_PROTOCOL = 1,
    CONTROL_MAX_CLIENTS = 32,
    CONTROL_MAX_LINE = 64 << 10,
    CONTROL_MAX_QUEUE = 4 << 20, /* bytes that a client has not read yet */
    CONTROL_MAX_FDS = 8,         /* of one client, received and not used yet */
    CONTROL_EVENTS = 1024,       /* kept for replay */
    CONTROL_OUTCOMES = 256,      /* kept for asking again */
    CONTROL_MAX_OUTCOME = 16 << 10,
};

struct control;
struct control_request;

struct control_command {
    const char *name, *about;
    const char *const *members; /* besides "id" and "do"; NULL-terminated; NULL: none */
    /* 0 with *result (owned by the caller then, may be NULL), -errno with a sentence, or
     * CONTROL_LATER: the command calls control_finish. */
    int (*run)(void *arg, struct control_request *request, const json_t *args, json_t **result,
               struct err *err);
};
enum { CONTROL_LATER = 1 };
#define CONTROL_COMMAND(name)                                                                 \
    int name(void *arg, struct control_request *request, const json_t *args, json_t **result, \
             struct err *err)

/* commands end with a NULL name; borrowed. arg goes to each run. */
int control_create(struct loop *loop, const struct control_command *commands, void *arg,
                   struct control **out, struct err *err);
void control_destroy(struct control *control);
DEFINE_AUTO(struct control *, control_destroy)
/* Serves who connects to this listening socket; takes it. One per control. */
int control_listen(struct control *control, int take_fd, struct err *err);
/* Serves one connected client; takes fd. */
int control_add_client(struct control *control, int take_fd, struct err *err);

/* Ends a request that was left with CONTROL_LATER. Takes result; err: why it failed, or NULL. */
void control_finish(struct control_request *request, json_t *take_result, const struct err *err);
/* The next descriptor that the client sent with its line, owned by the caller; -1: there is none.
 */
int control_take_fd(struct control_request *request);

/* Numbers and keeps an event, and sends it to the clients that follow. Takes members (an object,
 * may be NULL). Any thread. */
void control_event(struct control *control, const char *what, json_t *take_members);
/* Tries for at most timeout_ms to get everything queued to the clients: before the process ends. */
void control_flush(struct control *control, unsigned timeout_ms);

#endif
