/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The clipboard between viewers and the guest's agent, in bedplate-display. It has a thread of its
 * own, so that neither a guest's agent nor a viewer that does not read holds up the screen.
 */
#ifndef DISPLAY_VNC_CLIPBOARD_H
#define DISPLAY_VNC_CLIPBOARD_H

#include "base/err.h"

#include <rfb/rfb.h>
#include <stdbool.h>

/* `fd` is the agent's socket (agent_wire.h), which it takes. Before the process is confined. */
int vnc_clipboard_create(int fd, rfbScreenInfoPtr server, struct err *err);
/* Starts the thread. Afterwards. */
int vnc_clipboard_start(struct err *err);
/* Somebody (`on`) or nobody looks. Any thread. */
void vnc_clipboard_watch(bool on);

#endif
