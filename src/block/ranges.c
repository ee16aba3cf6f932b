/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/ranges.h"

#include "base/checked.h"
#include "base/cleanup.h"

void ranges_init(struct ranges *ranges, uint64_t unit)
{
    ranges->unit = unit;
    ranges->first = NULL;
    ranges->last = &ranges->first;
    pthread_mutex_init(&ranges->lock, NULL);
    pthread_cond_init(&ranges->freed, NULL);
}

void ranges_fini(struct ranges *ranges)
{
    pthread_cond_destroy(&ranges->freed);
    pthread_mutex_destroy(&ranges->lock);
}

static bool range_must_wait(const struct ranges *ranges, const struct range *range)
{
    for (const struct range *r = ranges->first; r != range; r = r->next)
        if ((r->exclusive || range->exclusive) && r->start < range->end && range->start < r->end)
            return true;
    return false;
}

void ranges_take(struct ranges *ranges, struct range *range, uint64_t offset, uint64_t len,
                 bool exclusive)
{
    *range = (struct range){ .start = round_down(offset, ranges->unit),
                             .end = round_up(offset + len, ranges->unit),
                             .exclusive = exclusive };
    LOCKED(&ranges->lock);
    range->prev = ranges->last;
    *ranges->last = range;
    ranges->last = &range->next;
    while (range_must_wait(ranges, range))
        pthread_cond_wait(&ranges->freed, &ranges->lock);
}

void ranges_drop(struct ranges *ranges, struct range *range)
{
    LOCKED(&ranges->lock);
    *range->prev = range->next;
    if (range->next)
        range->next->prev = range->prev;
    else
        ranges->last = range->prev;
    pthread_cond_broadcast(&ranges->freed);
}
