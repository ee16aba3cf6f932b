/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * All files of an image, in memory: its own and those that it names (extents, a data file). What
 * reaches them is recorded in one order, so that all lose power at one moment.
 *
 * For tests that are linked with --wrap=image_open_part and --wrap=image_create_part.
 */
#ifndef BLOCK_TEST_DISK_H
#define BLOCK_TEST_DISK_H

#include "block/image.h"
#include "block/test_store.h"

enum { DISK_FILES = 5 };

struct file {
    char name[64];
    struct recorder recorder;
    struct buf content;
    struct buf durable; /* for the cuts: what is there at the last flush before */
    size_t from;
};
struct disk {
    struct file files[DISK_FILES]; /* the image, and what it names */
    unsigned count;
    size_t clock;
};

/* Another file, empty; nothing is recorded yet. */
struct file *disk_add(struct disk *disk, const char *name);
void disk_fini(struct disk *disk);
/* The first file, whose image is created or opened now and may ask for the others. */
int disk_use(struct disk *disk, struct store **out);
/* From here on events count, and cuts begin with what is there. */
void disk_record(struct disk *disk);
/* A copy that records nothing. */
void disk_copy(const struct disk *from, struct disk *to);
/* What may be there after a cut behind `when` events, of which there are never fewer than in the
 * call before; `choice` as in recorder_cut. False: nothing else may. */
bool disk_cut(struct disk *disk, size_t when, unsigned choice, uint64_t *seed, struct disk *out);

#endif
