/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Jobs: long work on disks that reports progress and can be slowed, paused and cancelled.
 *
 * A job's work runs on one thread: its own (job_start) or the caller's (job_run), with blocking
 * calls. It calls job_point() between pieces, which is where it waits and learns that it was
 * cancelled. All other functions are for any thread.
 *
 * Whatever a job does, the disk it works on is whole at every moment: a job that is cancelled,
 * fails, or dies with its process loses nothing and may be started again.
 */
#ifndef BLOCK_JOB_H
#define BLOCK_JOB_H

#include "base/cleanup.h"
#include "base/err.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct job;

enum job_state {
    JOB_RUNNING,
    JOB_PAUSED,
    JOB_READY, /* waits for job_complete; keeps its copy up to date */
    JOB_DONE,
    JOB_FAILED, /* also by cancelling: err.code is ECANCELED */
};

struct job_status {
    const char *kind;
    char stage[32];
    enum job_state state;
    uint64_t done, total; /* bytes; total may grow while guests write */
    uint64_t speed;       /* bytes a second; 0: no limit */
    struct err err;       /* of JOB_FAILED */
};

struct job_work {
    const char *kind; /* "commit" */
    /* On the job's thread: 0 or -errno with a sentence. */
    int (*run)(struct job *job, void *arg, struct err *err);
    /* On the job's thread, without locks: its state is another, or it ended. NULL: nobody cares. */
    void (*changed)(struct job *job, void *arg);
    void *arg;
};

int job_create(const struct job_work *work, struct job **out, struct err *err);
/* Joins. NULL is fine. */
void job_destroy(struct job *job);
DEFINE_AUTO(struct job *, job_destroy)
int job_start(struct job *job, struct err *err);
/* Waits for the end of a job that was started. */
void job_join(struct job *job);
int job_run(struct job *job, struct err *err);

void job_get(struct job *job, struct job_status *out);
const char *job_state_name(enum job_state state);
void job_pause(struct job *job);
void job_resume(struct job *job);
void job_cancel(struct job *job); /* harmless at any time */
/* The same, but it shall be possible to go on later: what is kept for that stays. */
void job_interrupt(struct job *job);
void job_set_speed(struct job *job, uint64_t bytes_per_s);
/* -EINVAL unless it is ready. */
int job_complete(struct job *job, struct err *err);

/* ---- for the work, on its thread ---- */

void job_stage(struct job *job, const char *stage, uint64_t total);
void job_set_total(struct job *job, uint64_t total);
/* `bytes` more are done. 0, or -ECANCELED. Waits while the job is paused or too fast. */
int job_point(struct job *job, uint64_t bytes);
/* After a failure: may it be wanted that a later job goes on where this one was? */
bool job_may_resume(struct job *job);
/* Nothing is left to do for now: waits for at most timeout_ms, or until the job is woken. 0,
 * -ECANCELED, or 1: it shall complete. */
int job_ready(struct job *job, unsigned timeout_ms);
/* Any thread: there is something to do again. */
void job_wake(struct job *job);

#endif
