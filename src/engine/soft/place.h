/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Physical memory as a vCPU sees it: where an address is, and loads and stores there.
 *
 * For walk.c, tlb.c and mem.c, on the vCPU's own thread, or where its state may be read.
 *
 * Invariants
 *  1. A window (run->window) is a large piece of plain RAM and says what the address map does: each
 * change of the map comes with REQ_FLUSH, and tlb_flush drops the windows.
 *  2. A page is marked dirty before it is stored to, and its code is dropped behind the store.
 */
#ifndef ENGINE_SOFT_PLACE_H
#define ENGINE_SOFT_PLACE_H

#include "engine/soft/run.h"

#include <string.h>

/* Where a byte of guest memory is. */
struct place {
    uint8_t *hva; /* NULL for anything behind the bus: nothing below is set then */
    uint64_t gpa;
    struct ram *ram; /* RAM or ROM */
    uint64_t offset; /* in ram */
    bool writable_ram;
    bool whole_page; /* all of the page is there, in one piece */
};

/* Answers whether the address lies in a window: *p is set if so. */
static inline bool place_find_quick(const struct soft_vcpu *v, uint64_t gpa, struct place *p)
{
    const struct ram_window *w = v->run->window;
    for (unsigned n = 0; n < RAM_WINDOWS; n++)
        if (gpa - w[n].gpa < w[n].size) {
            uint64_t offset = w[n].offset + (gpa - w[n].gpa);
            *p = (struct place){ w[n].ram->hva + offset, gpa, w[n].ram, offset, true, true };
            return true;
        }
    return false;
}

/* By the address map; may make a window of what is there. */
void place_look_up(struct soft_vcpu *v, uint64_t gpa, struct place *p);

static inline void place_find(struct soft_vcpu *v, uint64_t gpa, struct place *p)
{
    if (!place_find_quick(v, gpa, p))
        place_look_up(v, gpa, p);
}

/* Up to the end of the page. Behind the bus in the largest natural pieces; the local APIC is each
 * vCPU's own. */
void place_load(struct soft_vcpu *v, const struct place *p, void *out, unsigned size);
void place_store(struct soft_vcpu *v, const struct place *p, const void *data, unsigned size);

/* For who stores to p->hva himself. A store is not noted twice in a round of the dirty log: that
 * ends only when every vCPU has been at a safe point, and what is stored until then is of it. */
static inline bool place_is_clean(const struct place *p)
{
    return atomic_load(&p->ram->dirty_log) &&
           !(atomic_load(&p->ram->page_flags[p->offset >> PAGE_SHIFT]) & RAM_PAGE_DIRTY);
}
static inline void place_mark_dirty(const struct place *p)
{
    if (place_is_clean(p))
        atomic_fetch_or(&p->ram->page_flags[p->offset >> PAGE_SHIFT], RAM_PAGE_DIRTY);
}
/* Then code_written has to follow the store. */
static inline bool place_has_code(const struct place *p)
{
    return atomic_load(&p->ram->page_flags[p->offset >> PAGE_SHIFT]) & RAM_PAGE_CODE;
}

/* Between guest memory and an operand: one access where the size is one that a CPU has. */
static inline void bytes_load(void *out, const uint8_t *from, unsigned size)
{
    switch (size) {
    case 1: *(uint8_t *)out = *(const volatile uint8_t *)from; break;
    case 2: *(uint16_t *)out = *(const volatile uint16_t *)from; break;
    case 4: *(uint32_t *)out = *(const volatile uint32_t *)from; break;
    case 8: *(uint64_t *)out = *(const volatile uint64_t *)from; break;
    default: memcpy(out, from, size);
    }
}
static inline void bytes_store(uint8_t *to, const void *data, unsigned size)
{
    switch (size) {
    case 1: *(volatile uint8_t *)to = *(const uint8_t *)data; break;
    case 2: *(volatile uint16_t *)to = *(const uint16_t *)data; break;
    case 4: *(volatile uint32_t *)to = *(const uint32_t *)data; break;
    case 8: *(volatile uint64_t *)to = *(const uint64_t *)data; break;
    default: memcpy(to, data, size);
    }
}

#endif
