/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An event loop over epoll: descriptors, timers, and work posted from other threads.
 *
 * One thread runs a loop (loop_run); only loop_post and loop_stop may be called from other threads.
 * Call-backs run on the loop's thread, without locks held. A watch or timer may be destroyed from
 * inside its own call-back.
 */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include "base/cleanup.h"
#include "base/err.h"

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

struct loop;
struct loop_watch;
struct loop_timer;

/* HANGUP is always reported, need not be asked for. */
enum { LOOP_READ = 1, LOOP_WRITE = 2, LOOP_HANGUP = 4 };

int loop_create(struct loop **out, struct err *err);
void loop_destroy(struct loop *loop); /* not while it runs; destroys remaining watches and timers */
DEFINE_AUTO(struct loop *, loop_destroy)

/* Runs until loop_stop and returns the status given there. What was posted by then still runs. */
int loop_run(struct loop *loop);
/* The first status counts. Before loop_run: that will return at once. */
void loop_stop(struct loop *loop, int status);
/* Called on the thread that runs it, or while nobody does? */
bool loop_is_current(const struct loop *loop);
#define assert_on_loop(loop) assert(loop_is_current(loop))

/* Runs fn(arg) once on the loop, in the order of posting; never inside loop_post. While nobody runs
 * the loop it waits for the next loop_run; loop_destroy drops it. Aborts when out of memory. */
void loop_post(struct loop *loop, void (*fn)(void *arg), void *arg);
/* Posts and waits for fn to have run; runs it directly when already on the loop. While nobody runs
 * the loop the caller is its thread for that long: loop_run and other loop_calls wait until it is
 * done. */
void loop_call(struct loop *loop, void (*fn)(void *arg), void *arg);

/* Borrows fd (destroy the watch before closing it), one watch for each fd; level-triggered. */
int loop_watch_create(struct loop *loop, int fd, unsigned events,
                      void (*fn)(void *arg, unsigned events), void *arg, struct loop_watch **out,
                      struct err *err);
void loop_watch_events(struct loop_watch *watch, unsigned events);
void loop_watch_destroy(struct loop_watch *watch);

/* A one-shot timer on CLOCK_MONOTONIC, created disarmed. A deadline that is past fires at once, but
 * never inside loop_timer_arm. */
int loop_timer_create(struct loop *loop, void (*fn)(void *arg), void *arg, struct loop_timer **out,
                      struct err *err);
void loop_timer_arm(struct loop_timer *timer, uint64_t deadline_ns); /* absolute */
void loop_timer_disarm(struct loop_timer *timer);
void loop_timer_destroy(struct loop_timer *timer);

uint64_t monotonic_ns(void); /* CLOCK_MONOTONIC */

#endif
