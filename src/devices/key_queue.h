/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Keys on their way to the guest's keyboard that wait until it has fetched the ones before: a
 * keyboard's own queue is short and drops what does not fit, and programs type faster than guests
 * read.
 *
 * Main loop only.
 */
#ifndef DEVICES_KEY_QUEUE_H
#define DEVICES_KEY_QUEUE_H

#include "base/cleanup.h"
#include "base/err.h"

#include <stdbool.h>

struct input;
struct key_queue;
struct loop;

enum { KEY_QUEUE_MAX = 4096, KEY_QUEUE_STEP_MS = 12 };

/* `pace_ms` passes between two keys, 0: as fast as the guest fetches them. `idle` is called from
 * the loop whenever no key is left, and may destroy the queue; taken is false if the guest had no
 * keyboard for one and the rest was thrown away. */
int key_queue_create(struct loop *loop, struct input *input, unsigned pace_ms,
                     void (*idle)(void *arg, bool taken), void *arg, struct key_queue **out,
                     struct err *err);
void key_queue_destroy(struct key_queue *queue); /* NULL is fine */
DEFINE_AUTO(struct key_queue *, key_queue_destroy)

/* False: the queue is full. */
bool key_queue_add(struct key_queue *queue, unsigned code, bool down);
/* Keys go out from the loop from now on. */
void key_queue_start(struct key_queue *queue);
void key_queue_clear(struct key_queue *queue);
bool key_queue_is_empty(const struct key_queue *queue);

#endif
