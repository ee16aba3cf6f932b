/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One epoll set holds the watches, an eventfd that posts ring, and a timerfd for the earliest
 * timer.
 *
 *  1. What a call-back destroys is unlinked at once, but freed only behind the round of events in
 *     which it may still be named (`dead`).
 *  2. A timer stands in `timers` (sorted, earliest first), in `due` while its round of call-backs
 *     runs, or in neither. Whatever is armed during the round waits for the next one, so a timer
 * that re-arms itself in the past starves nobody.
 *  3. `running` turns false only under the lock with no post queued, so loop_call cannot wait for a
 *     loop that has ended.
 *  4. A loop_call that finds nobody running the loop is its thread for that long (`lent`), so what
 * it calls never runs beside the loop's own call-backs.
 */
#include "base/loop.h"

#include "base/checked.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>

enum { EVENTS_PER_ROUND = 64 };

struct loop_post {
    struct loop_post *next;
    void (*fn)(void *arg);
    void *arg;
};

struct loop_watch {
    struct loop *loop;
    struct loop_watch *next, **prev;
    int fd;
    unsigned events;
    void (*fn)(void *arg, unsigned events); /* NULL once destroyed */
    void *arg;
};

struct loop_timer {
    struct loop *loop;
    struct loop_timer *next, **prev; /* in timers or due; prev is NULL in neither */
    struct loop_timer *all_next, **all_prev;
    uint64_t deadline_ns;
    void (*fn)(void *arg);
    void *arg;
};

struct loop {
    int epoll_fd, wake_fd, timer_fd; /* fixed at create */

    /* of the thread that runs the loop */
    struct loop_watch *watches, *dead;
    struct loop_timer *all_timers, *timers, *due;
    uint64_t timer_fd_ns; /* what timer_fd is set to; UINT64_MAX: never */
    bool in_round;

    _Atomic bool running;      /* written under the lock */
    _Atomic(pthread_t) thread; /* valid while running; written under the lock, before it */

    pthread_mutex_t lock;
    struct loop_post *posts, **posts_end; /* lock */
    bool lent;                            /* lock; running means no more than a loop_call */
    pthread_cond_t returned;              /* lent turned false */
    bool stopping;                        /* lock */
    int status;                           /* lock */
};

uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

bool loop_is_current(const struct loop *loop)
{
    return !loop->running || pthread_equal(loop->thread, pthread_self());
}

static void loop_wake(struct loop *loop)
{
    uint64_t one = 1;
    /* Fails only when the counter is full, and then the loop is awake already. */
    ssize_t n = write(loop->wake_fd, &one, sizeof one);
    (void)n;
}

/* ---- posts ---- */

static void post_append(struct loop *loop, void (*fn)(void *arg), void *arg)
{
    struct loop_post *post = malloc(sizeof *post);
    if (!post)
        abort();
    *post = (struct loop_post){ .fn = fn, .arg = arg };
    if (!loop->posts)
        loop_wake(loop);
    *loop->posts_end = post;
    loop->posts_end = &post->next;
}

void loop_post(struct loop *loop, void (*fn)(void *arg), void *arg)
{
    LOCKED(&loop->lock);
    post_append(loop, fn, arg);
}

static struct loop_post *posts_take(struct loop *loop)
{
    struct loop_post *posts = loop->posts;
    loop->posts = NULL;
    loop->posts_end = &loop->posts;
    return posts;
}

static void posts_run(struct loop_post *posts)
{
    while (posts) {
        struct loop_post *post = posts;
        posts = post->next;
        post->fn(post->arg);
        free(post);
    }
}

struct loop_caller {
    void (*fn)(void *arg);
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done; /* lock */
};

static void caller_run(void *arg)
{
    struct loop_caller *caller = arg;
    caller->fn(caller->arg);
    LOCKED(&caller->lock);
    caller->done = true;
    pthread_cond_signal(&caller->cond);
}

/* Makes the caller the loop's thread. */
static void loop_enter(struct loop *loop, bool lent)
{
    loop->thread = pthread_self();
    loop->lent = lent;
    loop->running = true;
}

static void loop_wait_returned(struct loop *loop)
{
    while (loop->lent && !loop_is_current(loop))
        pthread_cond_wait(&loop->returned, &loop->lock);
}

static void loop_call_lent(struct loop *loop, void (*fn)(void *arg), void *arg)
{
    fn(arg);
    LOCKED(&loop->lock);
    loop->lent = false;
    loop->running = false;
    pthread_cond_broadcast(&loop->returned);
}

void loop_call(struct loop *loop, void (*fn)(void *arg), void *arg)
{
    struct loop_caller caller = {
        .fn = fn, .arg = arg, .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER
    };
    pthread_mutex_lock(&loop->lock);
    loop_wait_returned(loop);
    bool lent = !loop->running;
    bool own = !lent && loop_is_current(loop);
    if (lent)
        loop_enter(loop, true); /* 4 */
    else if (!own)
        post_append(loop, caller_run, &caller);
    pthread_mutex_unlock(&loop->lock);

    if (lent) {
        loop_call_lent(loop, fn, arg);
        return;
    }
    if (own) {
        fn(arg);
        return;
    }
    pthread_mutex_lock(&caller.lock);
    while (!caller.done)
        pthread_cond_wait(&caller.cond, &caller.lock);
    pthread_mutex_unlock(&caller.lock);
    pthread_mutex_destroy(&caller.lock);
    pthread_cond_destroy(&caller.cond);
}

void loop_stop(struct loop *loop, int status)
{
    LOCKED(&loop->lock);
    if (!loop->stopping) {
        loop->stopping = true;
        loop->status = status;
        loop_wake(loop);
    }
}

/* ---- watches ---- */

static uint32_t events_to_epoll(unsigned events)
{
    return (events & LOOP_READ ? EPOLLIN : 0u) | (events & LOOP_WRITE ? EPOLLOUT : 0u);
}

static unsigned events_from_epoll(uint32_t events)
{
    return (events & EPOLLIN ? (unsigned)LOOP_READ : 0) |
           (events & EPOLLOUT ? (unsigned)LOOP_WRITE : 0) |
           (events & (EPOLLHUP | EPOLLERR) ? (unsigned)LOOP_HANGUP : 0);
}

int loop_watch_create(struct loop *loop, int fd, unsigned events,
                      void (*fn)(void *arg, unsigned events), void *arg, struct loop_watch **out,
                      struct err *err)
{
    assert_on_loop(loop);
    struct loop_watch *watch = calloc(1, sizeof *watch);
    if (!watch)
        return err_set(err, ENOMEM, "out of memory");
    *watch = (struct loop_watch){ .loop = loop, .fd = fd, .events = events, .fn = fn, .arg = arg };

    struct epoll_event event = { .events = events_to_epoll(events), .data.ptr = watch };
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        int code = errno;
        free(watch);
        return err_errno(err, code, "cannot watch descriptor %d", fd);
    }
    watch->next = loop->watches;
    watch->prev = &loop->watches;
    if (watch->next)
        watch->next->prev = &watch->next;
    loop->watches = watch;
    *out = watch;
    return 0;
}

void loop_watch_events(struct loop_watch *watch, unsigned events)
{
    assert_on_loop(watch->loop);
    if (events == watch->events)
        return;
    watch->events = events;
    struct epoll_event event = { .events = events_to_epoll(events), .data.ptr = watch };
    int r = epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event);
    assert(r == 0 && "the descriptor was closed before its watch");
}

void loop_watch_destroy(struct loop_watch *watch)
{
    if (!watch)
        return;
    struct loop *loop = watch->loop;
    assert_on_loop(loop);
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    *watch->prev = watch->next;
    if (watch->next)
        watch->next->prev = watch->prev;
    watch->fn = NULL;
    if (loop->in_round) { /* 1 */
        watch->next = loop->dead;
        loop->dead = watch;
    } else {
        free(watch);
    }
}

static void dead_free(struct loop *loop)
{
    while (loop->dead) {
        struct loop_watch *watch = loop->dead;
        loop->dead = watch->next;
        free(watch);
    }
}

/* ---- timers ---- */

static void timer_unlink(struct loop_timer *timer)
{
    if (!timer->prev)
        return;
    *timer->prev = timer->next;
    if (timer->next)
        timer->next->prev = timer->prev;
    timer->prev = NULL;
}

/* An earlier deadline is set at once. A later one is left to the wake-up that comes too early,
 * which saves the system call when a timer is pushed back again and again. */
static void timer_fd_set(struct loop *loop)
{
    uint64_t ns = loop->timers ? loop->timers->deadline_ns : UINT64_MAX;
    if (ns >= loop->timer_fd_ns)
        return;
    /* Zero would disarm it. */
    uint64_t when = ns ? ns : 1;
    struct itimerspec spec = { .it_value = { .tv_sec = (time_t)(when / 1000000000u),
                                             .tv_nsec = (long)(when % 1000000000u) } };
    int r = timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
    assert(r == 0);
    loop->timer_fd_ns = ns;
}

int loop_timer_create(struct loop *loop, void (*fn)(void *arg), void *arg, struct loop_timer **out,
                      struct err *err)
{
    assert_on_loop(loop);
    struct loop_timer *timer = calloc(1, sizeof *timer);
    if (!timer)
        return err_set(err, ENOMEM, "out of memory");
    *timer = (struct loop_timer){ .loop = loop, .fn = fn, .arg = arg };
    timer->all_next = loop->all_timers;
    timer->all_prev = &loop->all_timers;
    if (timer->all_next)
        timer->all_next->all_prev = &timer->all_next;
    loop->all_timers = timer;
    *out = timer;
    return 0;
}

void loop_timer_arm(struct loop_timer *timer, uint64_t deadline_ns)
{
    struct loop *loop = timer->loop;
    assert_on_loop(loop);
    timer_unlink(timer);
    timer->deadline_ns = deadline_ns;

    struct loop_timer **at = &loop->timers;
    while (*at && (*at)->deadline_ns <= deadline_ns)
        at = &(*at)->next;
    timer->next = *at;
    timer->prev = at;
    if (timer->next)
        timer->next->prev = &timer->next;
    *at = timer;
    timer_fd_set(loop);
}

void loop_timer_disarm(struct loop_timer *timer)
{
    assert_on_loop(timer->loop);
    timer_unlink(timer);
}

void loop_timer_destroy(struct loop_timer *timer)
{
    if (!timer)
        return;
    assert_on_loop(timer->loop);
    timer_unlink(timer);
    *timer->all_prev = timer->all_next;
    if (timer->all_next)
        timer->all_next->all_prev = timer->all_prev;
    free(timer);
}

static void timers_run(struct loop *loop)
{
    uint64_t expirations;
    ssize_t n = read(loop->timer_fd, &expirations, sizeof expirations);
    (void)n;
    loop->timer_fd_ns = UINT64_MAX;

    /* 2: what is past becomes `due`, the rest stays. */
    uint64_t now = monotonic_ns();
    struct loop_timer **split = &loop->timers;
    while (*split && (*split)->deadline_ns <= now)
        split = &(*split)->next;
    struct loop_timer *rest = *split;
    if (split != &loop->timers) {
        *split = NULL;
        loop->due = loop->timers;
        loop->due->prev = &loop->due;
        loop->timers = rest;
        if (rest)
            rest->prev = &loop->timers;
    }
    while (loop->due) {
        struct loop_timer *timer = loop->due;
        timer_unlink(timer);
        timer->fn(timer->arg);
    }
    timer_fd_set(loop);
}

/* ---- running ---- */

/* The next round of posts; ends the loop instead once it shall stop and none is left. */
static bool loop_next_posts(struct loop *loop, struct loop_post **posts, int *timeout_ms,
                            int *status)
{
    LOCKED(&loop->lock);
    *posts = posts_take(loop);
    *timeout_ms = loop->stopping ? 0 : -1;
    if (*posts || !loop->stopping)
        return true;
    loop->running = false; /* 3 */
    loop->stopping = false;
    *status = loop->status;
    return false;
}

static void loop_dispatch(struct loop *loop, const struct epoll_event *event)
{
    if (event->data.ptr == &loop->wake_fd) {
        uint64_t count;
        ssize_t n = read(loop->wake_fd, &count, sizeof count);
        (void)n;
    } else if (event->data.ptr == &loop->timer_fd) {
        timers_run(loop);
    } else {
        struct loop_watch *watch = event->data.ptr;
        if (watch->fn)
            watch->fn(watch->arg, events_from_epoll(event->events));
    }
}

int loop_run(struct loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    loop_wait_returned(loop);
    assert(!loop->running);
    loop_enter(loop, false);
    pthread_mutex_unlock(&loop->lock);

    for (;;) {
        struct loop_post *posts;
        int timeout_ms, status;
        if (!loop_next_posts(loop, &posts, &timeout_ms, &status))
            return status;
        posts_run(posts);

        struct epoll_event events[EVENTS_PER_ROUND];
        int n = epoll_wait(loop->epoll_fd, events, EVENTS_PER_ROUND, timeout_ms);
        assert(n >= 0 || errno == EINTR);
        loop->in_round = true;
        for (int i = 0; i < n; i++)
            loop_dispatch(loop, &events[i]);
        loop->in_round = false;
        dead_free(loop);
    }
}

int loop_create(struct loop **out, struct err *err)
{
    struct loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return err_set(err, ENOMEM, "out of memory");
    pthread_mutex_init(&loop->lock, NULL);
    pthread_cond_init(&loop->returned, NULL);
    loop->posts_end = &loop->posts;
    loop->timer_fd_ns = UINT64_MAX;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

    struct epoll_event wake = { .events = EPOLLIN, .data.ptr = &loop->wake_fd };
    struct epoll_event timer = { .events = EPOLLIN, .data.ptr = &loop->timer_fd };
    if (loop->epoll_fd < 0 || loop->wake_fd < 0 || loop->timer_fd < 0 ||
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &wake) < 0 ||
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->timer_fd, &timer) < 0) {
        int code = errno;
        loop_destroy(loop);
        return err_errno(err, code, "cannot create an event loop");
    }
    *out = loop;
    return 0;
}

void loop_destroy(struct loop *loop)
{
    if (!loop)
        return;
    assert(!loop->running);
    while (loop->watches)
        loop_watch_destroy(loop->watches);
    while (loop->all_timers)
        loop_timer_destroy(loop->all_timers);
    struct loop_post *posts = posts_take(loop);
    while (posts) {
        struct loop_post *post = posts;
        posts = post->next;
        free(post);
    }
    fd_close(loop->timer_fd);
    fd_close(loop->wake_fd);
    fd_close(loop->epoll_fd);
    pthread_cond_destroy(&loop->returned);
    pthread_mutex_destroy(&loop->lock);
    free(loop);
}
