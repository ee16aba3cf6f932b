/* SPDX-License-Identifier: GPL-2.0-or-later */
/* --engine soft,OPTION,...: docs/soft-engine.md says what each is for. */
#ifndef ENGINE_SOFT_OPTIONS_H
#define ENGINE_SOFT_OPTIONS_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct soft_options {
    /* true unless given as off */
    bool jit, link, lookup, quick, sse, x87, windows, loops, pins, syscall, granules, tsc, last,
        stack;
    bool perf;                /* a map of translated code for perf */
    uint64_t translate_after; /* a block is interpreted so many times before */
    /* Bytes of translated code, at first and at most; decoded blocks may take twice as much. 0: the
     * engine's choice */
    uint64_t code, code_most;
    char trace[256]; /* the file for executed blocks, or "" */
};

/* `text`: options separated by commas, or NULL. */
int soft_options_parse(const char *text, struct soft_options *out, struct err *err);

#endif
