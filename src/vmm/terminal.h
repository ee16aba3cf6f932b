/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The terminal that the VMM was started on: raw mode, the Ctrl-A keys, its size.
 *
 * The keeper process puts the old mode back after any death. Main loop's thread.
 */
#ifndef VMM_TERMINAL_H
#define VMM_TERMINAL_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <termios.h>

/* What the user asked for by a key behind Ctrl-A. */
enum terminal_key { TERMINAL_QUIT, TERMINAL_HELP };

struct terminal {
    int fd;              /* borrowed */
    struct termios mode; /* before us */
    bool is_raw;
    bool after_escape; /* Ctrl-A was typed, its key not yet */
    void (*key)(void *arg, enum terminal_key key);
    void *arg;
};

/* Is fd a terminal (true: its mode is kept in *out)? */
bool terminal_find(struct terminal *out, int fd);
void terminal_raw(struct terminal *terminal);     /* also after a stop (SIGCONT) */
void terminal_restore(struct terminal *terminal); /* NULL-like before terminal_raw: nothing */
/* Takes the Ctrl-A sequences out of typed bytes, in place; returns the length of what is the
 * guest's. */
size_t terminal_filter(struct terminal *terminal, uint8_t *data, size_t len);
bool terminal_size(const struct terminal *terminal, uint16_t *columns, uint16_t *rows);

extern const char terminal_help[]; /* with \r\n line ends */

#endif
