/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The host's end of the VDAgent protocol (spice-protocol, vd_agent.h), its clipboard only: what
 * Debian's spice-vdagent and Windows' agent speak over the port com.redhat.spice.0.
 *
 * Both sides announce what they can. Who has a new text grabs the clipboard; the other one requests
 * the text when it wants it. Bytes from the guest are hostile: nothing is kept that is longer than
 * VDAGENT_TEXT_MAX, and a guest that grabs all the time is asked ten times a second.
 *
 * One thread. Texts are as in cut_text.h.
 */
#ifndef DISPLAY_VDAGENT_H
#define DISPLAY_VDAGENT_H

#include "base/cleanup.h"
#include "base/text.h"

enum {
    VDAGENT_TEXT_MAX = 1 << 20,
    VDAGENT_OUTPUT_MAX = 2 << 20, /* while more waits, give it no input */
    VDAGENT_REQUEST_MS = 100,
};

struct vdagent;

struct vdagent *vdagent_create(void (*text)(void *arg, const struct buf *text), void *arg);
void vdagent_destroy(struct vdagent *agent); /* NULL is fine */
DEFINE_AUTO(struct vdagent *, vdagent_destroy)

/* A program in the guest has opened the port: all before is forgotten, output, too. */
void vdagent_opened(struct vdagent *agent);
/* Bytes from the guest. */
void vdagent_input(struct vdagent *agent, const uint8_t *data, size_t len);
/* People have put this into their clipboard. What is longer than VDAGENT_TEXT_MAX is left out, and
 * so is what the guest has just given them. */
void vdagent_offer(struct vdagent *agent, const struct buf *text);
/* People look: asks for the guest's text if it has a new one and it is time. Answers in how many
 * ms to come again, -1: no need. */
int vdagent_ask(struct vdagent *agent, uint64_t now_ms);
/* Bytes for the guest, and how many there are; they are taken from the beginning. */
size_t vdagent_output(const struct vdagent *agent, const uint8_t **data);
void vdagent_output_taken(struct vdagent *agent, size_t len);

#endif
