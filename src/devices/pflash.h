/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * NOR flash with Intel's command set (CFI), one byte wide: what UEFI firmware keeps its variables
 * in.
 */
#ifndef DEVICES_PFLASH_H
#define DEVICES_PFLASH_H

#include "machine/device.h"

struct ram;

enum { PFLASH_BLOCK = 4096 };

struct pflash_config {
    const char *id;
    uint64_t gpa;
    struct ram *ram; /* the contents; whole blocks. The machine's */
    int fd;          /* a file of the same bytes that follows them; borrowed. -1: none */
};

/* Adds it to the machine, which owns it. Main loop, before the machine runs. */
int pflash_create(struct machine *m, const struct pflash_config *config, struct device **out,
                  struct err *err);

#endif
