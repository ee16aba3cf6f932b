/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/aside.h"

#include <pthread.h>
#include <stdlib.h>

struct piece {
    struct loop *loop;
    void (*work)(void *arg);
    void (*done)(void *arg);
    void *arg;
    struct piece *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct piece *pieces, **pieces_end = &pieces; /* lock */
static bool working;                                 /* lock: the thread takes more */
static pthread_t thread;                             /* loop */
static bool started;                                 /* loop: it is to be joined */

static void piece_done(void *arg)
{
    struct piece *piece = arg;
    piece->done(piece->arg);
    free(piece);
}

static struct piece *piece_take(void)
{
    LOCKED(&lock);
    struct piece *piece = pieces;
    if (piece && !(pieces = piece->next))
        pieces_end = &pieces;
    working = piece;
    return piece;
}

static void *run(void *arg)
{
    for (struct piece *piece; (piece = piece_take());) {
        piece->work(piece->arg);
        loop_post(piece->loop, piece_done, piece);
    }
    return NULL;
}

static void join(void)
{
    if (started)
        pthread_join(thread, NULL);
    started = false;
}

void aside_run(struct loop *loop, void (*work)(void *arg), void (*done)(void *arg), void *arg)
{
    struct piece *piece = calloc(1, sizeof *piece);
    bool start;
    if (!piece)
        abort();
    *piece = (struct piece){ loop, work, done, arg, NULL };
    {
        LOCKED(&lock);
        *pieces_end = piece;
        pieces_end = &piece->next;
        start = !working;
        working = true;
    }
    if (!start)
        return;
    join(); /* the former one is at its end */
    if (pthread_create(&thread, NULL, run, NULL) != 0)
        abort(); /* out of memory */
    started = true;
}

void aside_stop(void)
{
    {
        LOCKED(&lock);
        for (struct piece *piece; (piece = pieces);) {
            pieces = piece->next;
            free(piece);
        }
        pieces_end = &pieces;
    }
    join();
}
