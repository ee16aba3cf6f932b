/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A list of pieces of guest memory that a controller was told to fill or to read (PRD tables), used
 * from front to end by checked copies. io_loop.
 */
#ifndef DEVICES_SG_H
#define DEVICES_SG_H

#include <stddef.h>
#include <stdint.h>

struct machine;

struct sg_piece {
    uint64_t gpa, len;
};

struct sg { /* zeroed: empty */
    struct sg_piece *pieces;
    unsigned count, room;
    uint64_t total; /* bytes in all pieces */
    unsigned at;    /* the piece that comes next, and how much of it is used */
    uint64_t used;
};

void sg_clear(struct sg *sg); /* for use again */
void sg_free(struct sg *sg);
void sg_add(struct sg *sg, uint64_t gpa, uint64_t len);
uint64_t sg_left(const struct sg *sg);
/* Moves up to len bytes, as many as are left: how many, or -EFAULT. */
int64_t sg_write(struct machine *m, struct sg *sg, const void *data, uint64_t len);
int64_t sg_read(struct machine *m, struct sg *sg, void *data, uint64_t len);

#endif
