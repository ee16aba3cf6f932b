/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How bedplate-vmm ends: one table for the process status, exit.json, the man page and
 * docs/exit-status.md.
 */
#ifndef VMM_EXIT_STATUS_H
#define VMM_EXIT_STATUS_H

enum exit_status {
    EXIT_POWEROFF = 0,
    EXIT_INTERNAL = 1,
    EXIT_USAGE = 2,
    EXIT_FILE = 3,
    EXIT_ENGINE = 4,
    EXIT_RESET = 5,
    EXIT_TRIPLE_FAULT = 6,
    EXIT_QUIT = 7,
    EXIT_SAVED = 8,
    EXIT_WATCHDOG = 9,
    EXIT_STATUS_COUNT
};

struct exit_status_info {
    const char *name; /* in exit.json and in the event "ended" */
    const char *about;
};
extern const struct exit_status_info exit_statuses[EXIT_STATUS_COUNT];

#endif
