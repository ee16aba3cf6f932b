/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest clock is CLOCK_MONOTONIC plus an offset, and the timer thread sleeps towards the
 * earliest timer.
 *
 *  1. `offset` says all: CLOCK_STOPPED means that the time is `stopped`. A reader that finds the
 * offset the same before and behind its look at the host's clock has a true guest time.
 *  2. A timer is in `timers` (armed), or `running`, or both (armed again by its own fn), or
 * neither.
 *  3. fn runs without the lock; clock_stop and guest_timer_destroy wait for it.
 */
#include "machine/clock.h"

#include "base/checked.h"
#include "machine/priv.h"

#include <sys/prctl.h>
#include <time.h>

#define CLOCK_STOPPED INT64_MIN

struct guest_timer {
    struct machine *machine;
    struct guest_timer *next;
    bool armed; /* clock lock, like next and deadline_ns */
    bool dying; /* clock lock: being destroyed, cannot be armed any more */
    uint64_t deadline_ns;
    void (*fn)(void *arg);
    void *arg;
};

/* ---- reading ---- */

uint64_t guest_now_ns(struct machine *m)
{
    struct guest_clock *clock = &m->priv->clock;
    for (;;) {
        int64_t offset = clock->offset;
        if (offset == CLOCK_STOPPED)
            return clock->stopped;
        uint64_t now = monotonic_ns() + (uint64_t)offset;
        if (likely(clock->offset == offset)) /* 1 */
            return now;
    }
}

uint64_t guest_epoch_ns(struct machine *m) { return m->priv->clock.epoch_ns; }

uint64_t guest_to_host_ns(struct machine *m, uint64_t guest_ns)
{
    int64_t offset = m->priv->clock.offset;
    if (offset == CLOCK_STOPPED)
        return UINT64_MAX;
    __int128 host = (__int128)guest_ns - offset;
    return host < 0 ? 0 : host > UINT64_MAX ? UINT64_MAX : (uint64_t)host;
}

uint64_t tsc_of_ns(uint64_t ns, uint64_t tsc_khz)
{
    return (uint64_t)((unsigned __int128)ns * tsc_khz / 1000000);
}

uint64_t ns_of_tsc(uint64_t tsc, uint64_t tsc_khz)
{
    unsigned __int128 ns = ((unsigned __int128)tsc * 1000000 + tsc_khz - 1) / tsc_khz;
    return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

/* ---- timers ---- */

static void timer_unlink(struct guest_clock *clock, struct guest_timer *timer)
{
    if (!timer->armed)
        return;
    struct guest_timer **at = &clock->timers;
    while (*at != timer)
        at = &(*at)->next;
    *at = timer->next;
    timer->armed = false;
}

int guest_timer_create(struct machine *m, void (*fn)(void *arg), void *arg,
                       struct guest_timer **out, struct err *err)
{
    struct guest_timer *timer = calloc(1, sizeof *timer);
    if (!timer)
        return err_set(err, ENOMEM, "out of memory");
    *timer = (struct guest_timer){ .machine = m, .fn = fn, .arg = arg };
    *out = timer;
    return 0;
}

void guest_timer_arm(struct guest_timer *timer, uint64_t deadline_ns)
{
    struct guest_clock *clock = &timer->machine->priv->clock;
    LOCKED(&clock->lock);
    if (timer->dying)
        return;
    timer_unlink(clock, timer);
    timer->deadline_ns = deadline_ns;
    struct guest_timer **at = &clock->timers;
    while (*at && (*at)->deadline_ns <= deadline_ns)
        at = &(*at)->next;
    timer->next = *at;
    *at = timer;
    timer->armed = true;
    if (clock->timers == timer)
        pthread_cond_signal(&clock->changed);
}

void guest_timer_disarm(struct guest_timer *timer)
{
    struct guest_clock *clock = &timer->machine->priv->clock;
    LOCKED(&clock->lock);
    timer_unlink(clock, timer);
}

void guest_timer_destroy(struct guest_timer *timer)
{
    if (!timer)
        return;
    struct guest_clock *clock = &timer->machine->priv->clock;
    pthread_mutex_lock(&clock->lock);
    timer->dying = true; /* its own fn may be about to arm it again */
    timer_unlink(clock, timer);
    while (clock->running == timer && !pthread_equal(clock->thread, pthread_self()))
        pthread_cond_wait(&clock->idle, &clock->lock);
    pthread_mutex_unlock(&clock->lock);
    free(timer);
}

static void timer_run(struct guest_clock *clock, struct guest_timer *timer)
{
    void (*fn)(void *arg) = timer->fn;
    void *arg = timer->arg;
    timer_unlink(clock, timer);
    clock->running = timer;
    pthread_mutex_unlock(&clock->lock);
    fn(arg); /* may destroy the timer */
    pthread_mutex_lock(&clock->lock);
    clock->running = NULL;
    pthread_cond_broadcast(&clock->idle);
}

static void *timers_thread(void *arg)
{
    struct machine *m = arg;
    struct guest_clock *clock = &m->priv->clock;
    prctl(PR_SET_TIMERSLACK, 1);
    pthread_mutex_lock(&clock->lock);
    while (!clock->quit) {
        struct guest_timer *first = clock->timers;
        uint64_t host_ns = first ? guest_to_host_ns(m, first->deadline_ns) : UINT64_MAX;
        if (host_ns == UINT64_MAX) {
            pthread_cond_wait(&clock->changed, &clock->lock);
        } else if (host_ns <= monotonic_ns()) {
            timer_run(clock, first);
        } else {
            struct timespec until = { .tv_sec = (time_t)(host_ns / 1000000000u),
                                      .tv_nsec = (long)(host_ns % 1000000000u) };
            pthread_cond_timedwait(&clock->changed, &clock->lock, &until);
        }
    }
    pthread_mutex_unlock(&clock->lock);
    return NULL;
}

/* ---- starting and stopping ---- */

static void clock_tell_engine(struct machine *m, bool running)
{
    if (m->engine && m->engine->type->clock_changed)
        m->engine->type->clock_changed(m->engine, running);
}

void clock_start(struct machine *m)
{
    struct guest_clock *clock = &m->priv->clock;
    pthread_mutex_lock(&clock->lock);
    assert(clock->offset == CLOCK_STOPPED);
    clock->offset = (int64_t)(clock->stopped - monotonic_ns());
    pthread_cond_signal(&clock->changed);
    pthread_mutex_unlock(&clock->lock);
    clock_tell_engine(m, true);
}

void clock_stop(struct machine *m)
{
    struct guest_clock *clock = &m->priv->clock;
    pthread_mutex_lock(&clock->lock);
    assert(clock->offset != CLOCK_STOPPED);
    clock->stopped = guest_now_ns(m);
    clock->offset = CLOCK_STOPPED;
    while (clock->running) /* 3 */
        pthread_cond_wait(&clock->idle, &clock->lock);
    pthread_mutex_unlock(&clock->lock);
    clock_tell_engine(m, false);
}

void clock_set(struct machine *m, uint64_t guest_ns, uint64_t epoch_ns)
{
    struct guest_clock *clock = &m->priv->clock;
    pthread_mutex_lock(&clock->lock);
    assert(clock->offset == CLOCK_STOPPED);
    clock->stopped = guest_ns;
    clock->epoch_ns = epoch_ns;
    pthread_mutex_unlock(&clock->lock);
    clock_tell_engine(m, false);
}

int clock_init(struct machine *m, struct err *err)
{
    struct guest_clock *clock = &m->priv->clock;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    clock->epoch_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    clock->offset = CLOCK_STOPPED;

    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&clock->lock, NULL);
    pthread_cond_init(&clock->changed, &monotonic);
    pthread_cond_init(&clock->idle, NULL);
    pthread_condattr_destroy(&monotonic);
    int code = thread_start("timers", timers_thread, m, &clock->thread);
    clock->thread_made = !code;
    return code ? err_errno(err, code, "cannot create thread timers") : 0;
}

void clock_fini(struct machine *m)
{
    struct guest_clock *clock = &m->priv->clock;
    if (clock->thread_made) {
        pthread_mutex_lock(&clock->lock);
        clock->quit = true;
        pthread_cond_signal(&clock->changed);
        pthread_mutex_unlock(&clock->lock);
        pthread_join(clock->thread, NULL);
    }
    pthread_cond_destroy(&clock->idle);
    pthread_cond_destroy(&clock->changed);
    pthread_mutex_destroy(&clock->lock);
}

/* ---- saved form ---- */

static int clock_state_check(const void *state, struct err *err)
{
    const struct clock_state *clock = state;
    if (clock->guest_ns >> 62 || clock->epoch_ns >> 62)
        return err_set(err, EINVAL, "the guest clock is out of range");
    return 0;
}

static const struct state_field clock_fields[] = {
    STATE_U64(struct clock_state, guest_ns),
    STATE_U64(struct clock_state, epoch_ns),
    STATE_END,
};
const struct state_desc clock_state_desc = {
    .name = "clock",
    .version = 1,
    .size = sizeof(struct clock_state),
    .fields = clock_fields,
    .check = clock_state_check,
};
