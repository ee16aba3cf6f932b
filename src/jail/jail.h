/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What bedplate-jail tells the program that it runs.
 *
 * JAIL_VARIABLE in its environment: "UID GID SOCKET SPACES", for example "2130706433 2130706433 5
 * user,mount,pid,ipc,uts,net".
 *
 * The program is in its control groups. It has root's powers inside its name spaces, and no others,
 * to open what it was told to open; then it is to give them up: become UID and GID (or stay who it
 * is, where they are -1), and leave the root that it sees for an empty one, for which the mount
 * name space is its own. It has helpers started through SOCKET (base/helper.h); where that is -1,
 * it starts them itself. SPACES: the name spaces of its own, "-" where the host refuses all.
 */
#ifndef JAIL_JAIL_H
#define JAIL_JAIL_H

#define JAIL_VARIABLE "BEDPLATE_JAIL"

#endif
