/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Helper processes: programs of ours that do, confined, what a VM must not do itself.
 *
 * A helper gets one end of a socket pair as descriptor HELPER_FD, sends one line, which says
 * whether it works, and ends when that socket closes or its parent dies. It has no environment, a
 * process group of its own (Ctrl-C on the terminal is the VM's), and /dev/null for input and
 * output; stderr is the parent's. Call these before the process locks itself down.
 */
#ifndef BASE_HELPER_H
#define BASE_HELPER_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { HELPER_FD = 3 };
#define HELPER_IDS "BEDPLATE_IDS" /* in a helper's environment: "UID:GID", see helper_run_as */
#define HELPER_HELLO "ok: "       /* how the helper's first line begins; otherwise it is an error */

/* A program of ours: beside the one that runs, in the folder `room` of the same build, in libexec,
 * or in BEDPLATE_LIBEXEC. */
int program_find(const char *program, const char *room, char *path, size_t len, struct err *err);

/* Starts `program`, which program_find() finds. argv[0] and, if it is to die with us (`ours`),
 * "--parent PID" are put before argv (NULL-terminated). *fd: our end of the socket pair. */
int helper_start(const char *program, const char *room, const char *const *argv, bool ours, int *fd,
                 pid_t *pid, struct err *err);
/* Waits for its first line; *hello gets what follows HELPER_HELLO. */
int helper_wait(const char *program, int fd, unsigned timeout_ms, char *hello, size_t len,
                struct err *err);
/* After its socket was shut: waits for its end, kills it when that takes long, and sets *pid to 0.
 * Answers the status of waitpid; -1: it was started by another process, which knows. */
int helper_end(pid_t *pid);

/* Helpers started from now on become these ids as far as they would become nobody. */
void helper_run_as(uid_t uid, gid_t gid);

/*
 * A VM's process in an empty network name space has its helpers, which need the host's, started by
 * the process that put it there. `socket`: one end of a pair of SOCK_SEQPACKET.
 */

/* helper_start() asks there from now on; -1: no longer. */
void helper_ask(int socket);
/* The other end: waits for an order and carries it out; false: there will be no more. */
bool helper_serve(int socket);

#endif
