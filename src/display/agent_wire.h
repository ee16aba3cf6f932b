/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The way of a guest agent's bytes between the VMM, which has the virtio-serial port, and
 * bedplate-display, which understands them: a stream of frames over a socket pair, in host byte
 * order, both ways alike.
 *
 * A session begins when a program in the guest opens the port, with an empty frame to the helper.
 * Bytes of an earlier session are of no use: who gets them drops them.
 */
#ifndef DISPLAY_AGENT_WIRE_H
#define DISPLAY_AGENT_WIRE_H

#include <stdint.h>

#define CLIPBOARD_PORT "com.redhat.spice.0" /* where agents look for it */

enum { AGENT_FRAME_MAX = 4096 };

struct agent_frame {
    uint32_t session;
    uint32_t len; /* bytes that follow, at most AGENT_FRAME_MAX */
};

#endif
