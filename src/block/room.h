/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How much an image may grow by what a job will write into it, looked at before it starts. */
#ifndef BLOCK_ROOM_H
#define BLOCK_ROOM_H

#include "block/image.h"

struct room {
    struct image *into;
    uint64_t bytes; /* that it does not have yet */
    uint64_t end;   /* of what was counted */
};

/* This range will be written. Ranges come in rising order. */
int room_add(struct room *room, uint64_t offset, uint64_t len);
/* -ENOSPC with a sentence when its file system has less than that and the tables for it. */
int room_check(const struct room *room, struct err *err);

#endif
