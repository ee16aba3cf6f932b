/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/granules.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <stdlib.h>

enum { MAX_BYTES = 16 << 20 };

int granules_init(struct granules *set, uint64_t size, uint64_t unit, struct err *err)
{
    while (size / unit / 8 >= MAX_BYTES)
        unit *= 2;
    *set = (struct granules){ .size = size, .unit = unit };
    set->count = size / unit + !!(size % unit);
    set->words = calloc(set->count / 64 + 1, 8);
    if (!set->words)
        return err_set(err, ENOMEM, "out of memory");
    pthread_mutex_init(&set->lock, NULL);
    return 0;
}

void granules_fini(struct granules *set)
{
    if (!set->words)
        return;
    free(TAKE(set->words));
    pthread_mutex_destroy(&set->lock);
}

static bool granule_is(const struct granules *set, uint64_t n)
{
    return set->words[n / 64] >> (n % 64) & 1;
}

void granules_add(struct granules *set, uint64_t offset, uint64_t len)
{
    if (!len)
        return;
    LOCKED(&set->lock);
    for (uint64_t n = offset / set->unit; n <= (offset + len - 1) / set->unit; n++) {
        set->members += !granule_is(set, n);
        set->words[n / 64] |= 1ull << (n % 64);
    }
}

void granules_remove(struct granules *set, uint64_t offset, uint64_t len)
{
    uint64_t end = offset + len >= set->size ? set->count : (offset + len) / set->unit;
    LOCKED(&set->lock);
    for (uint64_t n = round_up(offset, set->unit) / set->unit; n < end; n++) {
        set->members -= granule_is(set, n);
        set->words[n / 64] &= ~(1ull << (n % 64));
    }
}

bool granules_any(struct granules *set, uint64_t offset, uint64_t len)
{
    LOCKED(&set->lock);
    if (!set->members || !len)
        return false;
    for (uint64_t n = offset / set->unit; n <= (offset + len - 1) / set->unit; n++)
        if (granule_is(set, n))
            return true;
    return false;
}

uint64_t granules_bytes(struct granules *set)
{
    LOCKED(&set->lock);
    return set->members * set->unit;
}

bool granules_next(struct granules *set, uint64_t most, uint64_t *offset, uint64_t *len)
{
    LOCKED(&set->lock);
    if (!set->members)
        return false;
    uint64_t n = set->next < set->count ? set->next : 0;
    while (!granule_is(set, n)) {
        if (!(n % 64) && !set->words[n / 64])
            n += 64;
        else
            n++;
        if (n >= set->count)
            n = 0;
    }
    uint64_t end = n + 1;
    while (end < set->count && granule_is(set, end) && (end + 1 - n) * set->unit <= most)
        end++;
    set->next = end;
    *offset = n * set->unit;
    uint64_t until = end * set->unit;
    *len = (until < set->size ? until : set->size) - *offset;
    return true;
}

void granules_each(struct granules *set, void (*fn)(void *arg, uint64_t offset, uint64_t len),
                   void *arg)
{
    LOCKED(&set->lock);
    for (uint64_t n = 0, end; set->members && n < set->count; n = end) {
        end = n + 1;
        if (!granule_is(set, n)) {
            if (!(n % 64) && !set->words[n / 64])
                end = n + 64;
            continue;
        }
        while (end < set->count && granule_is(set, end))
            end++;
        uint64_t until = end * set->unit;
        fn(arg, n * set->unit, (until < set->size ? until : set->size) - n * set->unit);
    }
}
