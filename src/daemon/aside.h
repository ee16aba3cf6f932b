/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sums that take long, aside from the loop: one after the other on a thread, which is there while
 * there is work. Loop only.
 */
#ifndef DAEMON_ASIDE_H
#define DAEMON_ASIDE_H

#include "base/loop.h"

/* work(arg) runs on the thread, then done(arg) on the loop, which must run until then. */
void aside_run(struct loop *loop, void (*work)(void *arg), void (*done)(void *arg), void *arg);
void aside_stop(void); /* waits for what is being worked on; the rest is dropped */

#endif
