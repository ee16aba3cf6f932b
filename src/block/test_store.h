/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Stores for tests: one that writes down what reaches the disk, and one that fails.
 */
#ifndef BLOCK_TEST_STORE_H
#define BLOCK_TEST_STORE_H

#include "base/text.h"
#include "block/store.h"

struct store_event {
    bool flush, cut; /* cut: the file got the length `offset` */
    size_t when;     /* counted by the recorder's clock */
    uint64_t offset;
    size_t len;
    uint8_t *data;
};

struct recorder { /* belongs to the test; outlives its stores */
    struct store_event *events;
    size_t count, room;
    size_t *clock;       /* counts the events of all files that are cut together; NULL: of none */
    struct buf *content; /* the file; the test's */
    bool off;            /* keep no events */
    uint64_t size_max;   /* ENOSPC beyond; 0: no limit */
    /* From now on this many calls succeed, then one of the kind fails; < 0: all succeed. */
    int64_t fail_in;
    int fail_code;
    unsigned fail_kinds;      /* 1: reads, 2: writes, 4: flushes, 8: changes of length */
    unsigned delay_us;        /* before every write and flush */
    void (*event)(void *arg); /* before them, too, without locks; NULL: none */
    void *event_arg;
    pthread_mutex_t lock;
};

void recorder_init(struct recorder *recorder, struct buf *content);
void recorder_fini(struct recorder *recorder);
int recorder_open(struct recorder *recorder, struct store **out);

/* How many of its events are among the first `when` of the clock. */
size_t recorder_count_at(const struct recorder *recorder, size_t when);

/*
 * What a disk may hold after a power cut behind the first `count` events: *durable is what held at
 * the last flush before, advanced by this call from *from (the count it was built for); *out is
 * that plus a choice of the sectors written since. Choice 0: all of them; 1: those of the first
 * events, the last one torn; otherwise random ones. False: nothing was written since.
 */
bool recorder_cut(const struct recorder *recorder, size_t count, struct buf *durable, size_t *from,
                  unsigned choice, uint64_t *seed, struct buf *out);

uint64_t test_random(uint64_t *seed);

#endif
