/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Programs that the daemon runs: each in a session of its own, with clean signals and nothing on
 * its standard input. Loop only.
 */
#ifndef DAEMON_CHILD_H
#define DAEMON_CHILD_H

#include "base/loop.h"

#include <stddef.h>
#include <sys/types.h>

/* Standard output and errors go to these descriptors (borrowed); -1: to nowhere. fds become
 * CHILD_FD and the next ones there. */
enum { CHILD_FD = 100 };
int process_spawn(char *const argv[], int out, int errors, const int *fds, unsigned fd_count,
                  pid_t *pid, struct err *err);

struct child;

/* line: of its standard output, without the newline; may be NULL. ended: once, after the last line;
 * status is its exit status, or -1 where a signal ended it; said: the last line of its standard
 * errors without the name of our program before it, or "". The child is gone after that. */
struct child_calls {
    void (*line)(void *arg, const char *line);
    void (*ended)(void *arg, int status, const char *said);
};

int child_start(struct loop *loop, char *const argv[], const struct child_calls *calls, void *arg,
                struct child **out, struct err *err);
void child_kill(struct child *child);    /* with all processes of its session's group */
void child_release(struct child *child); /* lets it run on, unwatched; may be NULL */

#endif
