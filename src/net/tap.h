/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Taps by descriptor. For this room only; the rest of it calls net_tap_create (net.h). */
#ifndef NET_TAP_H
#define NET_TAP_H

#include "net/driver.h"

bool tap_is(int fd);
/* Takes fd, on failure, too. */
int tap_create(struct loop *loop, int take_fd, const char *name, struct net_backend **out,
               struct err *err);

#endif
