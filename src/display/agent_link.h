/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The VMM's end of the way between a virtio-serial port and bedplate-display (agent_wire.h). It
 * moves bytes and does not look at them.
 */
#ifndef DISPLAY_AGENT_LINK_H
#define DISPLAY_AGENT_LINK_H

#include "base/cleanup.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct loop;
struct agent_link;

/* *helper_fd: the helper's end, the caller's. Main loop. */
int agent_link_create(struct loop *loop, int *helper_fd, struct agent_link **out, struct err *err);
/* NULL is fine. After the port's device, when the loop runs no more. */
void agent_link_destroy(struct agent_link *link);
DEFINE_AUTO(struct agent_link *, agent_link_destroy)

/* `input` takes up to len bytes for the guest and answers how many it took; `output_go`: there is
 * room again for what the guest sends. Both on the loop. */
void agent_link_set_port(struct agent_link *link,
                         size_t (*input)(void *arg, const uint8_t *data, size_t len),
                         void (*output_go)(void *arg), void *arg);

/* ---- for the port: any thread, locks may be held ---- */

/* A program in the guest has opened or closed the port. */
void agent_link_opened(struct agent_link *link, bool open);
bool agent_link_output_room(struct agent_link *link);
void agent_link_output(struct agent_link *link, const uint8_t *data, size_t len);
void agent_link_input_room(struct agent_link *link); /* `input` took less than offered */

#endif
