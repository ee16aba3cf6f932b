/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A VM's screen for people: VNC, spoken by the confined helper bedplate-display, which has the
 * screen's pixels and nothing else of the VM.
 *
 * Main loop. Create before the process locks itself down: it makes the listening socket and starts
 * the helper.
 */
#ifndef DISPLAY_DISPLAY_H
#define DISPLAY_DISPLAY_H

#include "base/cleanup.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct screen;
struct input;
struct display;

struct display_options {
    const char *unix_path; /* or: */
    const char *host;      /* "127.0.0.1"; an IPv4 or IPv6 address */
    uint16_t port;         /* 0: one that is free */
    const char *keymap;    /* the guest's layout, see layout_find(); NULL: us */
    /* Files that the helper reads; NULL: without */
    const char *password_file;
    const char *tls_cert, *tls_key, *tls_ca; /* ca: viewers must show a certificate of it */
    const char *name;                        /* of the VM, shown by viewers; NULL: "Bedplate" */
    bool resizable;                          /* viewers may ask for another size of the screen */
    int agent_fd; /* the helper's end of an agent_link; borrowed; -1: no clipboard */
};

/* screen and input are borrowed. */
int display_create(struct loop *loop, const struct display_options *options, struct screen *screen,
                   struct input *input, struct display **out, struct err *err);
void display_destroy(struct display *display); /* NULL is fine */
DEFINE_AUTO(struct display *, display_destroy)

/* "unix:PATH" or "127.0.0.1:5901", with the port that was chosen. */
const char *display_address(const struct display *display);
unsigned display_viewers(const struct display *display);
/* False: the helper ended, nobody can look any more. */
bool display_alive(const struct display *display);

/* "unix:PATH", "HOST:PORT", "[IPV6]:PORT", ":DISPLAY" (5900 + DISPLAY on 127.0.0.1). Modifies text;
 * what *out points to lies in it. */
int display_address_parse(char *text, struct display_options *out, struct err *err);

#endif
