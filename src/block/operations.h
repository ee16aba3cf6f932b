/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What jobs do to the chain of a disk that may be in use meanwhile (chain.h): snapshot, stream,
 * commit, rebase, mirror, backup, resize. All run on the job's thread and end with 0 or -errno and
 * a sentence; then the disk is what it was before, apart from leaked or superfluous copies.
 *
 * At every moment of every one of them, the file that was the top when it began, opened with the
 * chain that it records, holds every byte that a completed flush covers; so a process that dies in
 * the middle loses nothing, and the operation is simply begun again. (After a completed snapshot,
 * or a commit or mirror that switched, new writes are in the new top, of course.)
 *
 * Space. Stream: the top grows at most by what the layers that go away have allocated. Commit: the
 * base grows at most by what the layers above it have allocated and it has not; nothing is given
 * back before the end. Both rounded up to clusters, plus tables; a job that its file system has no
 * room for is refused before it starts (room.h). Rebase: the top grows at most to the disk's size.
 */
#ifndef BLOCK_OPERATIONS_H
#define BLOCK_OPERATIONS_H

#include "block/chain.h"
#include "block/job.h"

/* Lays a new image over the top. `store` is taken, on failure too. */
struct snapshot_options {
    const char *path;    /* of the new image: how people and the chain call it */
    const char *backing; /* how it names the present top; NULL: found out */
    bool existing;       /* it was created already; otherwise it is made, as qcow2 */
};
int chain_snapshot(struct chain *chain, const struct snapshot_options *options,
                   struct store *take_store, struct err *err);

/* Pulls what lies between the top and `base` (by name; NULL: everything) into the top. */
int chain_stream(struct job *job, struct chain *chain, const char *base, struct err *err);

/* Merges `layer` (by name; NULL: the top) and what lies between into `base` (NULL: the one below).
 * base_store is the base's file, open for writing, and taken; NULL: it is open for writing already.
 * Committing the top empties it, and ends with the base as the top unless `keep`. In use, overlays
 * that know their base by an id (VHD, VHDX, VMDK) are refused; otherwise they stay as they are, and
 * the caller records the base anew once it is closed. */
struct commit_options {
    const char *layer, *base;
    struct store *take_base_store;
    bool keep;
    bool keep_data; /* do not empty the top; with `keep` */
    bool resume;    /* go on where the same commit left off (journal.h) */
};
int chain_commit(struct job *job, struct chain *chain, const struct commit_options *options,
                 struct err *err);

/* Copies the disk to `target`, which is taken, until the two are the same; then waits for
 * job_complete and, if it shall, goes on with the target as the only layer. A target that is not
 * switched to stays as it was at that moment. */
struct mirror_options {
    struct image *take_target;
    bool stay;   /* do not switch */
    bool resume; /* go on where a mirror to this target left off */
};
int chain_mirror(struct job *job, struct chain *chain, const struct mirror_options *options,
                 struct err *err);

/* Copies the disk as it is when the job starts to `target`, which is taken. */
struct backup_options {
    struct image *take_target;
    const char *bitmap; /* of the top, which is qcow2. NULL: none */
    bool incremental;   /* only what the bitmap has; otherwise it starts anew with this backup */
    bool resume;        /* go on where the same backup left off; it is of another moment, though */
};
int chain_backup(struct job *job, struct chain *chain, const struct backup_options *options,
                 struct err *err);

/* Puts the top over another image with its chain, which is taken (NULL: none): what would read
 * differently is copied into the top before. `name`: how the top shall record it. `unsafe`: the
 * content is said to be the same, so nothing is read. */
struct rebase_options {
    struct image *take_base;
    const char *name, *format; /* format NULL: the base's */
    bool unsafe;
};
int chain_rebase(struct job *job, struct chain *chain, const struct rebase_options *options,
                 struct err *err);

int chain_resize(struct chain *chain, uint64_t size, enum image_preallocation prealloc, bool shrink,
                 struct err *err);

/* An image in a file that came as a descriptor: nothing else may be opened for it, and what is
 * below it is the caller's to attach. Takes store. */
int chain_open_store(const char *path, const char *format, bool readonly, struct store *take_store,
                     struct image **out, struct err *err);

#endif
