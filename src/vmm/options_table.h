/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The table of options, for those who read it: the command line, configuration files, the help and
 * the man page. An option's value is either one text (`set`) or a list of parts,
 * "first,key=value,flag" (`part`).
 */
#ifndef VMM_OPTIONS_TABLE_H
#define VMM_OPTIONS_TABLE_H

#include "vmm/options.h"

#define OPTIONS_MEMORY_MAX (1ull << 40) /* the guest-physical addresses that the board lays out */

enum option_flag {
    OPTION_MANY = 1,     /* may be repeated */
    OPTION_CLI_ONLY = 2, /* makes no sense in a configuration file */
    OPTION_HIDDEN = 4,
};

struct option {
    const char *name;
    const char *value; /* how its value is written; NULL: a flag */
    unsigned flags;
    const char *help;
    const char *more; /* for the man page; may be NULL */
    int (*set)(struct options *o, const char *value, struct err *err);
    /* First with the part named `first` (begins a new item), then with each other part in turn;
     * value is NULL for a part without '='. */
    int (*part)(struct options *o, const char *key, const char *value, struct err *err);
    const char *first;
};

extern const struct option option_table[];
extern const size_t option_count;

/* Names in order, "" for a hidden one, NULL behind the last. */
const char *option_name(size_t i);
const struct option *option_find(const char *name, size_t len); /* NULL: there is none */
uint64_t option_bit(const struct option *option);               /* in options.given */

#endif
