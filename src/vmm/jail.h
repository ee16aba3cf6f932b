/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The VM's end of bedplate-jail (jail/jail.h): what it was given for opening files is given up at
 * the lock. A VM that was started directly is in no jail, and nothing here does anything then. Main
 * thread.
 */
#ifndef VMM_JAIL_H
#define VMM_JAIL_H

#include <stdbool.h>

struct jail {
    bool in;
    int uid, gid;    /* to become; -1: none */
    int broker;      /* starts helpers; owned; -1 */
    char spaces[64]; /* name spaces of its own: "user,mount,pid"; "": none */
    /* In force since jail_lock(): */
    bool own_ids, empty_root;
};

/* First thing in main. */
void jail_begin(struct jail *out);
/* Is the mount name space ours? Then the root goes at the lock, for all processes in it. */
bool jail_has_mounts(const struct jail *jail);
/* Part of the lock: no more helpers, another user, nothing in the root. */
void jail_lock(struct jail *jail);

#endif
