/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The keeper: a small process beside the VMM that does the few things which the VMM no longer may,
 * or no longer can.
 *
 * The VMM's sandbox knows no paths, so the keeper renames finished files into place (only those
 * agreed before the lock). And when the VMM is gone, however it died, the keeper restores the
 * terminal and removes sockets and unfinished files. It is forked first, while the VMM is small and
 * single-threaded. Main thread.
 */
#ifndef VMM_KEEPER_H
#define VMM_KEEPER_H

#include "base/cleanup.h"
#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>
#include <termios.h>

enum { KEEPER_MAX_PATHS = 8 };
enum keeper_file { KEEPER_EXIT_RECORD, KEEPER_SAVE, KEEPER_RESTORED, KEEPER_FILES };

struct keeper_config {
    bool own_mounts; /* the VMM's root is going to be empty: the keeper holds on to this one */
    bool has_terminal;
    int terminal_fd;
    struct termios terminal;
    /* Borrowed texts; NULL: not there. `part` is renamed to `path` on request, or else removed at
     * the end, but for KEEPER_RESTORED: a state that was not used stays what it is. */
    const char *part[KEEPER_FILES], *path[KEEPER_FILES];
    const char *remove[KEEPER_MAX_PATHS]; /* sockets; up to the first NULL */
    int lock_fd;                          /* held until the keeper has tidied up; -1: none */
};

struct keeper {
    int fd; /* owned; -1: not started */
    pid_t pid;
    const struct keeper_config *config; /* borrowed; fixed at create */
};

int keeper_start(const struct keeper_config *config, struct keeper *out, struct err *err);
/* What the keeper does at the end: for a start that fails before there is one. */
void keeper_tidy(const struct keeper_config *config);
/* Puts a finished file (synced by the caller) into its place. Before the keeper runs there is no
 * lock yet, and it is done at once. */
int keeper_rename(struct keeper *keeper, enum keeper_file file, struct err *err);
/* Tidies up and waits for it. */
void keeper_end(struct keeper *keeper);

#endif
