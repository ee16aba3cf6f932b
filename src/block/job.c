/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/job.h"

#include "base/checked.h"
#include "base/loop.h"

#include <signal.h>
#include <string.h>
#include <time.h>

enum { JOB_STACK = 512 << 10 };

struct job {
    struct job_work work;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock; /* everything below */
    pthread_cond_t woken; /* CLOCK_MONOTONIC */
    struct job_status status;
    bool cancel, interrupted, pause, complete, ready, wake;
    uint64_t free_at_ns; /* when what was done so far is within the speed */
};

const char *job_state_name(enum job_state state)
{
    static const char *const names[] = { "running", "paused", "ready", "done", "failed" };
    return names[state];
}

int job_create(const struct job_work *work, struct job **out, struct err *err)
{
    struct job *job = calloc(1, sizeof *job);
    if (!job)
        return err_set(err, ENOMEM, "out of memory");
    job->work = *work;
    job->status.kind = work->kind;
    pthread_mutex_init(&job->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&job->woken, &attr);
    pthread_condattr_destroy(&attr);
    *out = job;
    return 0;
}

void job_join(struct job *job)
{
    if (job->started)
        pthread_join(job->thread, NULL);
    job->started = false;
}

void job_destroy(struct job *job)
{
    if (!job)
        return;
    job_join(job);
    pthread_cond_destroy(&job->woken);
    pthread_mutex_destroy(&job->lock);
    free(job);
}

/* ---- states ---- */

static void job_changed(struct job *job)
{
    if (job->work.changed)
        job->work.changed(job, job->work.arg);
}

/* With the lock; gives it up to tell. */
static void job_set_state(struct job *job, enum job_state state)
{
    if (job->status.state == state)
        return;
    job->status.state = state;
    pthread_mutex_unlock(&job->lock);
    job_changed(job);
    pthread_mutex_lock(&job->lock);
}

int job_run(struct job *job, struct err *err)
{
    struct err why = { 0 };
    int r = job->work.run(job, job->work.arg, &why);
    pthread_mutex_lock(&job->lock);
    if (r < 0) {
        if (job->cancel)
            err_set(&why, ECANCELED, "was cancelled");
        job->status.err = why;
        if (err)
            *err = why;
    }
    job_set_state(job, r < 0 ? JOB_FAILED : JOB_DONE);
    pthread_mutex_unlock(&job->lock);
    return r < 0 ? -why.code : 0;
}

static void *job_thread(void *arg)
{
    pthread_setname_np(pthread_self(), "job");
    job_run(arg, NULL);
    return NULL;
}

int job_start(struct job *job, struct err *err)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, JOB_STACK);
    int code = pthread_create(&job->thread, &attr, job_thread, job);
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    job->started = !code;
    return code ? err_errno(err, code, "cannot start a thread for the job") : 0;
}

/* ---- from outside ---- */

void job_get(struct job *job, struct job_status *out)
{
    LOCKED(&job->lock);
    *out = job->status;
}

static void job_flag(struct job *job, bool *flag, bool value)
{
    LOCKED(&job->lock);
    *flag = value;
    pthread_cond_broadcast(&job->woken);
}

void job_pause(struct job *job) { job_flag(job, &job->pause, true); }
void job_resume(struct job *job) { job_flag(job, &job->pause, false); }
void job_cancel(struct job *job) { job_flag(job, &job->cancel, true); }

void job_interrupt(struct job *job)
{
    LOCKED(&job->lock);
    job->interrupted = !job->cancel;
    job->cancel = true;
    pthread_cond_broadcast(&job->woken);
}

void job_wake(struct job *job) { job_flag(job, &job->wake, true); }

void job_set_speed(struct job *job, uint64_t bytes_per_s)
{
    LOCKED(&job->lock);
    job->status.speed = bytes_per_s;
    job->free_at_ns = 0;
    pthread_cond_broadcast(&job->woken);
}

int job_complete(struct job *job, struct err *err)
{
    LOCKED(&job->lock);
    if (!job->ready)
        return err_set(err, EINVAL, "the job is not ready to complete");
    job->complete = true;
    pthread_cond_broadcast(&job->woken);
    return 0;
}

/* ---- for the work ---- */

void job_stage(struct job *job, const char *stage, uint64_t total)
{
    pthread_mutex_lock(&job->lock);
    snprintf(job->status.stage, sizeof job->status.stage, "%s", stage);
    job->status.done = 0;
    job->status.total = total;
    pthread_mutex_unlock(&job->lock);
    job_changed(job);
}

void job_set_total(struct job *job, uint64_t total)
{
    LOCKED(&job->lock);
    job->status.total = total;
}

static void job_wait_until(struct job *job, uint64_t when_ns)
{
    struct timespec ts = { (time_t)(when_ns / 1000000000), (long)(when_ns % 1000000000) };
    pthread_cond_timedwait(&job->woken, &job->lock, &ts);
}

int job_point(struct job *job, uint64_t bytes)
{
    pthread_mutex_lock(&job->lock);
    job->status.done += bytes;
    uint64_t now = monotonic_ns(), speed = job->status.speed;
    if (speed) {
        if (job->free_at_ns < now)
            job->free_at_ns = now;
        job->free_at_ns += (uint64_t)((double)bytes * 1e9 / (double)speed);
    }
    while (!job->cancel && (job->pause || (job->status.speed && job->free_at_ns > now))) {
        if (job->pause) {
            job_set_state(job, JOB_PAUSED);
            if (job->pause && !job->cancel)
                pthread_cond_wait(&job->woken, &job->lock);
        } else {
            job_wait_until(job, job->free_at_ns);
        }
        now = monotonic_ns();
    }
    if (job->status.state == JOB_PAUSED)
        job_set_state(job, JOB_RUNNING);
    int r = job->cancel ? -ECANCELED : 0;
    pthread_mutex_unlock(&job->lock);
    return r;
}

bool job_may_resume(struct job *job)
{
    LOCKED(&job->lock);
    return !job->cancel || job->interrupted;
}

int job_ready(struct job *job, unsigned timeout_ms)
{
    pthread_mutex_lock(&job->lock);
    if (!job->ready) {
        job->ready = true;
        job_set_state(job, JOB_READY);
    }
    if (!job->cancel && !job->complete && !job->wake)
        job_wait_until(job, monotonic_ns() + timeout_ms * 1000000ull);
    job->wake = false;
    int r = job->cancel ? -ECANCELED : job->complete;
    pthread_mutex_unlock(&job->lock);
    return r;
}
