/* SPDX-License-Identifier: GPL-2.0-or-later */
/* IPv4 reassembly (RFC 791, section 3.2) of fragments that come in order. */
#include "net/reassemble.h"

#include "net/offload.h"

#include <string.h>

enum { ETH = 14, HEAD = ETH + 20, MORE = 0x2000, OFFSET = 0x1fff };

static unsigned get16(const uint8_t *p) { return p[0] * 256u + p[1]; }
static void put16(uint8_t *p, unsigned value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

/* Same protocol, addresses and identification? */
static bool slot_matches(const struct reassembly_slot *slot, const uint8_t *frame)
{
    const uint8_t *a = slot->frame + ETH, *b = frame + ETH;
    return slot->used && a[9] == b[9] && !memcmp(a + 12, b + 12, 8) && !memcmp(a + 4, b + 4, 2);
}

static struct reassembly_slot *slot_find(struct reassembly *all, const uint8_t *frame)
{
    for (unsigned i = 0; i < REASSEMBLE_SLOTS; i++)
        if (slot_matches(&all->slots[i], frame))
            return &all->slots[i];
    return NULL;
}

static struct reassembly_slot *slot_oldest(struct reassembly *all)
{
    struct reassembly_slot *oldest = &all->slots[0];
    for (unsigned i = 1; i < REASSEMBLE_SLOTS; i++)
        if (all->slots[i].used < oldest->used)
            oldest = &all->slots[i];
    return oldest;
}

/* Adds a fragment whose header has been checked. Answers the slot if the datagram is whole. */
static struct reassembly_slot *reassemble_add(struct reassembly *all, const uint8_t *frame,
                                              unsigned total, unsigned bits)
{
    size_t offset = (bits & OFFSET) * 8, len = total - 20;
    struct reassembly_slot *slot = slot_find(all, frame);
    if (!offset) {
        if (!slot)
            slot = slot_oldest(all);
        memcpy(slot->frame, frame, HEAD);
        slot->len = HEAD;
    }
    if (!slot)
        return NULL;
    bool bad = slot->len - HEAD != offset || slot->len + len > REASSEMBLE_FRAME ||
               ((bits & MORE) && (!len || len % 8));
    if (bad) {
        slot->used = 0;
        return NULL;
    }
    memcpy(slot->frame + slot->len, frame + HEAD, len);
    slot->len += len;
    slot->used = ++all->clock;
    return bits & MORE ? NULL : slot;
}

bool reassemble(struct reassembly *all, const uint8_t *frame, size_t len, const uint8_t **out,
                size_t *out_len)
{
    *out = frame;
    *out_len = len;
    if (len < ETH || get16(frame + 12) != 0x0800)
        return true;
    if (len < HEAD || frame[ETH] >> 4 != 4)
        return false;
    unsigned header = (frame[ETH] & 15) * 4u, total = get16(frame + ETH + 2);
    unsigned bits = get16(frame + ETH + 6);
    if (header < 20 || total < header || total > len - ETH)
        return false;
    if (!(bits & (MORE | OFFSET)))
        return true;
    if (header != 20 || offload_fold(offload_sum(frame + ETH, 20, 0)))
        return false;

    struct reassembly_slot *whole = reassemble_add(all, frame, total, bits);
    if (!whole)
        return false;
    uint8_t *ip = whole->frame + ETH;
    put16(ip + 2, (unsigned)(whole->len - ETH));
    put16(ip + 6, 0);
    put16(ip + 10, 0);
    put16(ip + 10, offload_fold(offload_sum(ip, 20, 0)));
    whole->used = 0;
    *out = whole->frame;
    *out_len = whole->len;
    return true;
}
