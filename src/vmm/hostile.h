/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A VMM that has been taken over, for tests: the build bedplate-vmm-hostile does, after its lock,
 * what an attacker would, and says what came of it; or does it without some layers of the lock,
 * which shows that the others hold alone, and that each deed works where none does.
 *
 * The environment tells it: HOSTILE_WITHOUT names layers to leave out ("jail landlock capabilities
 * seccomp"); HOSTILE_FILE, HOSTILE_DIRECTORY, HOSTILE_SOCKET, HOSTILE_PORT and HOSTILE_PROCESS what
 * to reach for.
 */
#ifndef VMM_HOSTILE_H
#define VMM_HOSTILE_H

#include <stdbool.h>

#ifdef HOSTILE_ACTIONS
struct machine;
bool hostile_without(const char *layer);
/* On the threads that face the guest; prints a line for each deed. */
void hostile_run(struct machine *machine);
#else
static inline bool hostile_without(const char *layer) { return false; }
#endif

#endif
