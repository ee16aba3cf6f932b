/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * VNC over TLS: VeNCrypt (RFB community specification, 7.2.8 "VeNCrypt"), which libvncserver does
 * not serve itself.
 *
 * Each such viewer gets a thread that speaks version, security type and TLS with it, and then
 * passes bytes to and from an ordinary connection of libvncserver.
 */
#ifndef DISPLAY_VNC_TLS_H
#define DISPLAY_VNC_TLS_H

#include "base/err.h"

#include <stdbool.h>

struct vnc_tls;

/* Files as in display.h; ca may be NULL. Before confinement. */
int vnc_tls_create(const char *cert, const char *key, const char *ca, bool password,
                   struct vnc_tls **out, struct err *err);
/* Takes the viewer's socket; *inner is the end for libvncserver, to be closed by it. */
int vnc_tls_accept(struct vnc_tls *tls, int take_fd, int *inner, struct err *err);

#endif
