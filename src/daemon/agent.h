/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest agent's client: the protocol of qemu-guest-agent over a virtio-serial port, JSON lines
 * with delimited synchronisation. One question at a time; others wait. Loop only.
 *
 * What comes from the guest is hostile: lines are bounded, JSON is checked, and an answer that
 * breaks the protocol ends the connection and the question. The results' contents are for the
 * caller to check.
 */
#ifndef DAEMON_AGENT_H
#define DAEMON_AGENT_H

#include "base/cleanup.h"
#include "base/err.h"
#include "base/json.h"
#include "base/loop.h"

enum { AGENT_LINE_MAX = 4 << 20 };

struct agent;

/* `result`: the answer's "return", borrowed; or NULL with err: ETIMEDOUT, EREMOTEIO (the agent says
 * no, in its own words), EPROTO (nonsense), others of the connection. May ask again. */
typedef void (*agent_done)(void *arg, const json_t *result, const struct err *err);

/* Connects to the port's socket when there is something to ask. path is copied. */
int agent_create(struct loop *loop, const char *path, struct agent **out, struct err *err);
/* Ends what was asked with an error first. Not from within a call-back. */
void agent_destroy(struct agent *agent);
DEFINE_AUTO(struct agent *, agent_destroy)

/* take_args: NULL: none. done may be NULL. Never calls it before it returns. */
void agent_ask(struct agent *agent, const char *command, json_t *take_args, unsigned timeout_ms,
               agent_done done, void *arg);

/* What the guest sent: for the connection, and the fuzzer. */
void agent_received(struct agent *agent, const uint8_t *data, size_t len);

#endif
