/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mirror: a tap that keeps a second image the same as the one it lies on.
 *
 * At first it only notes what is written, and mirror_copy() works through the notes. Once
 * `active`, every write goes to both before it is acknowledged, so the notes only shrink and the
 * two converge however fast the guest writes. Copying holds a range exclusively, and so do active
 * writes, since two that overlap must arrive at both in one order.
 */
#ifndef BLOCK_MIRROR_H
#define BLOCK_MIRROR_H

#include "block/granules.h"
#include "block/job.h"
#include "block/journal.h"
#include "block/ranges.h"
#include "block/tap.h"

#include <stdatomic.h>

struct mirror {
    struct tap tap;
    struct image *target; /* borrowed */
    struct job *job;      /* borrowed: woken when there is something to copy */
    struct granules dirty;
    bool compare; /* the target has some of it, nobody knows what; fixed when the job begins */
    struct ranges ranges;
    atomic_bool active;
    struct journal journal; /* of who runs the job, begun by it; the job's thread */
};

int mirror_init(struct mirror *m, struct image *below, struct image *target, struct job *job,
                struct err *err);
void mirror_fini(struct mirror *m);
/* Until nothing is noted: 0 or -errno; -ECANCELED. `held`: the guest waits for this, so the job's
 * speed and pauses do not count. */
int mirror_copy(struct mirror *m, uint8_t *data, bool held);
/* Notes everything that is not zero in both. */
int mirror_note_all(struct mirror *m);
/* From the first copy to job_complete: 0 or -errno. */
int mirror_run(struct mirror *m, uint8_t *data, bool complete_itself);
/* Held: the last copies; then both are durable and the same. */
int mirror_finish(struct mirror *m, uint8_t *data);

#endif
