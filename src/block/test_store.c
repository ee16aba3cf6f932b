/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The stores of test_store.h. */
#include "block/test_store.h"

#include "base/checked.h"

#include <string.h>

enum { SECTOR = 512 };

struct recorder_store {
    struct store store;
    struct recorder *recorder;
};

uint64_t test_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static struct recorder *recorder_of(struct store *store)
{
    return CONTAINER_OF(store, struct recorder_store, store)->recorder;
}

static bool recorder_fails(struct recorder *r, unsigned kind)
{
    return r->fail_in >= 0 && (r->fail_kinds & kind) && r->fail_in-- == 0;
}

static void recorder_add(struct recorder *r, bool flush, const void *data, size_t len,
                         uint64_t offset)
{
    if (r->off)
        return;
    if (r->count == r->room) {
        r->room = r->room ? r->room * 2 : 256;
        r->events = realloc(r->events, r->room * sizeof *r->events);
    }
    struct store_event *e = &r->events[r->count++];
    *e = (struct store_event){ .flush = flush, .offset = offset, .len = len };
    if (r->clock)
        e->when = (*r->clock)++;
    if (len) {
        e->data = malloc(len);
        memcpy(e->data, data, len);
    }
}

static void content_write(struct buf *buf, const void *data, size_t len, uint64_t offset)
{
    if (offset + len > buf->len)
        buf_grow(buf, offset + len - buf->len);
    memcpy(buf->data + offset, data, len);
}

static int recorder_read(struct store *store, void *data, size_t len, uint64_t offset)
{
    struct recorder *r = recorder_of(store);
    LOCKED(&r->lock);
    if (recorder_fails(r, 1))
        return -r->fail_code;
    size_t have = offset < r->content->len ? r->content->len - offset : 0;
    have = have < len ? have : len;
    if (have)
        memcpy(data, r->content->data + offset, have);
    memset((char *)data + have, 0, len - have);
    return 0;
}

static int recorder_write(struct store *store, const void *data, size_t len, uint64_t offset)
{
    struct recorder *r = recorder_of(store);
    if (r->delay_us)
        usleep(r->delay_us);
    if (r->event)
        r->event(r->event_arg);
    LOCKED(&r->lock);
    if (recorder_fails(r, 2))
        return -r->fail_code;
    if (r->size_max && offset + len > r->size_max)
        return -ENOSPC;
    recorder_add(r, false, data, len, offset);
    content_write(r->content, data, len, offset);
    return 0;
}

static int recorder_flush(struct store *store)
{
    struct recorder *r = recorder_of(store);
    if (r->delay_us)
        usleep(r->delay_us);
    if (r->event)
        r->event(r->event_arg);
    LOCKED(&r->lock);
    if (recorder_fails(r, 4))
        return -r->fail_code;
    recorder_add(r, true, NULL, 0, 0);
    return 0;
}

/* A hole is a row of zeros that reaches the disk like any write. */
static int recorder_punch(struct store *store, uint64_t offset, uint64_t len)
{
    struct recorder *r = recorder_of(store);
    LOCKED(&r->lock);
    if (offset >= r->content->len)
        return 0;
    len = len < r->content->len - offset ? len : r->content->len - offset;
    memset(r->content->data + offset, 0, len);
    recorder_add(r, false, r->content->data + offset, len, offset);
    return 0;
}

static void content_cut(struct buf *buf, uint64_t size)
{
    if (size > buf->len)
        buf_grow(buf, size - buf->len);
    buf->len = size;
}

static int recorder_truncate(struct store *store, uint64_t size)
{
    struct recorder *r = recorder_of(store);
    LOCKED(&r->lock);
    if (recorder_fails(r, 8))
        return -r->fail_code;
    recorder_add(r, false, NULL, 0, size);
    if (!r->off)
        r->events[r->count - 1].cut = true;
    content_cut(r->content, size);
    return 0;
}

static int recorder_size(struct store *store, uint64_t *out)
{
    *out = recorder_of(store)->content->len;
    return 0;
}

static void recorder_close(struct store *store)
{
    free(CONTAINER_OF(store, struct recorder_store, store));
}

static const struct store_ops recorder_ops = {
    .read = recorder_read,
    .write = recorder_write,
    .flush = recorder_flush,
    .punch = recorder_punch,
    .truncate = recorder_truncate,
    .size = recorder_size,
    .close = recorder_close,
};

void recorder_init(struct recorder *recorder, struct buf *content)
{
    *recorder = (struct recorder){ .content = content, .fail_in = -1 };
    pthread_mutex_init(&recorder->lock, NULL);
}

void recorder_fini(struct recorder *recorder)
{
    for (size_t i = 0; i < recorder->count; i++)
        free(recorder->events[i].data);
    free(recorder->events);
    pthread_mutex_destroy(&recorder->lock);
}

int recorder_open(struct recorder *recorder, struct store **out)
{
    struct recorder_store *store = calloc(1, sizeof *store);
    if (!store)
        return -ENOMEM;
    store->store = (struct store){ &recorder_ops, -1 };
    store->recorder = recorder;
    *out = &store->store;
    return 0;
}

/* The sectors of an event that made it: a piece ends at each sector boundary of the file. */
static void cut_event(const struct store_event *e, bool torn, bool random, uint64_t *seed,
                      struct buf *out)
{
    if (e->cut && (torn || random ? test_random(seed) & 1 : true))
        content_cut(out, e->offset);
    size_t keep = torn ? test_random(seed) % (e->len + 1) : e->len;
    for (size_t at = 0; at < e->len;) {
        size_t part = SECTOR - (e->offset + at) % SECTOR;
        part = part < e->len - at ? part : e->len - at;
        if (random ? test_random(seed) & 1 : at + part <= keep)
            content_write(out, e->data + at, part, e->offset + at);
        at += part;
    }
}

size_t recorder_count_at(const struct recorder *recorder, size_t when)
{
    size_t count = 0;
    while (count < recorder->count && recorder->events[count].when < when)
        count++;
    return count;
}

bool recorder_cut(const struct recorder *recorder, size_t count, struct buf *durable, size_t *from,
                  unsigned choice, uint64_t *seed, struct buf *out)
{
    size_t last_flush = *from;
    for (size_t i = *from; i < count; i++)
        if (recorder->events[i].flush)
            last_flush = i + 1;
    for (; *from < last_flush; (*from)++)
        cut_event(&recorder->events[*from], false, false, seed, durable);
    out->len = 0;
    if (durable->len)
        buf_add(out, durable->data, durable->len);
    for (size_t i = last_flush; i < count; i++)
        cut_event(&recorder->events[i], choice == 1 && i == count - 1, choice > 1, seed, out);
    return last_flush < count;
}
