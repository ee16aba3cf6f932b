/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much time a process had for what it does: on a slow host, or below a low limit, it is less
 * than the clock says. Any thread.
 *
 * What counts is the time in which it and its descendants sleep, and the CPU time that they use;
 * what does not is that in which one of them waits for a CPU or a disk of the host. So one that
 * waits for what never comes, and one that runs in circles, are both found out.
 */
#ifndef DAEMON_EFFORT_H
#define DAEMON_EFFORT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct effort {
    uint64_t had_ns; /* until the last look */
    uint64_t seen_ns, cpu_ns;
    bool known; /* cpu_ns is what it had used then */
};

void effort_begin(struct effort *effort);
/* Looks again; pid 0 (it is not known yet): all time counts. What it used before its first look
 * does not. Returns had_ns. */
uint64_t effort_look(struct effort *effort, pid_t pid);

#endif
