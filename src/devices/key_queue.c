/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Keys that wait for the guest. A guest that fetches none gets each after two seconds all the same:
 * then it is the keyboard that drops them, as a real one would.
 */
#include "devices/key_queue.h"

#include "base/loop.h"
#include "devices/input.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

enum { WAITS_MAX = 2000 / KEY_QUEUE_STEP_MS };

struct key_queue {
    struct input *input;      /* borrowed */
    struct loop_timer *timer; /* owned */
    unsigned pace_ms;
    void (*idle)(void *arg, bool taken);
    void *arg;
    unsigned start, count; /* of the ring */
    unsigned waits;        /* for the guest to fetch what came before */
    bool running;          /* the timer is armed */
    struct {
        uint16_t code;
        bool down;
    } ring[KEY_QUEUE_MAX];
};

static void queue_later(struct key_queue *queue, unsigned ms)
{
    queue->running = true;
    loop_timer_arm(queue->timer, monotonic_ns() + ms * 1000000ull);
}

void key_queue_clear(struct key_queue *queue) { queue->count = 0; }

static void queue_run(void *arg)
{
    struct key_queue *queue = arg;
    bool taken = true;

    queue->running = false;
    while (queue->count && taken) {
        if (input_keys_wait(queue->input) && queue->waits++ < WAITS_MAX) {
            queue_later(queue, KEY_QUEUE_STEP_MS);
            return;
        }
        queue->waits = 0;
        unsigned at = queue->start;
        queue->start = (at + 1) % KEY_QUEUE_MAX;
        queue->count--;
        taken = input_key(queue->input, queue->ring[at].code, queue->ring[at].down);
        if (taken && queue->count && queue->pace_ms) {
            queue_later(queue, queue->pace_ms);
            return;
        }
    }
    key_queue_clear(queue);
    queue->idle(queue->arg, taken);
}

bool key_queue_add(struct key_queue *queue, unsigned code, bool down)
{
    assert(code <= INPUT_KEY_MAX);
    if (queue->count == KEY_QUEUE_MAX)
        return false;
    unsigned at = (queue->start + queue->count++) % KEY_QUEUE_MAX;
    queue->ring[at].code = (uint16_t)code;
    queue->ring[at].down = down;
    return true;
}

void key_queue_start(struct key_queue *queue)
{
    if (!queue->running)
        queue_later(queue, 0);
}

bool key_queue_is_empty(const struct key_queue *queue) { return !queue->count; }

int key_queue_create(struct loop *loop, struct input *input, unsigned pace_ms,
                     void (*idle)(void *arg, bool taken), void *arg, struct key_queue **out,
                     struct err *err)
{
    AUTO(key_queue_destroy) struct key_queue *queue = calloc(1, sizeof *queue);
    if (!queue)
        return err_set(err, ENOMEM, "out of memory");
    queue->input = input;
    queue->pace_ms = pace_ms;
    queue->idle = idle;
    queue->arg = arg;
    int r = loop_timer_create(loop, queue_run, queue, &queue->timer, err);
    if (r < 0)
        return r;
    *out = TAKE(queue);
    return 0;
}

void key_queue_destroy(struct key_queue *queue)
{
    if (!queue)
        return;
    if (queue->timer)
        loop_timer_destroy(queue->timer);
    free(queue);
}
