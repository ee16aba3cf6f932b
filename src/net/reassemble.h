/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Puts IPv4 fragments together before libslirp sees them, because its own reassembly (4.7) corrupts
 * its heap on fragments that overlap. Ours takes what real stacks send over a link that keeps the
 * order: each fragment right behind the one before. Anything else is dropped.
 */
#ifndef NET_REASSEMBLE_H
#define NET_REASSEMBLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { REASSEMBLE_SLOTS = 8, REASSEMBLE_FRAME = 14 + 65535 };

struct reassembly { /* zero-initialise; about 512 KiB */
    uint64_t clock;
    struct reassembly_slot {
        uint64_t used; /* the clock when last touched; 0: free */
        size_t len;    /* of the frame so far */
        uint8_t frame[REASSEMBLE_FRAME];
    } slots[REASSEMBLE_SLOTS];
};

/* True: *out is a frame to hand on, the given one or a whole datagram that is valid until the next
 * call. False: it was kept or dropped. */
bool reassemble(struct reassembly *all, const uint8_t *frame, size_t len, const uint8_t **out,
                size_t *out_len);

#endif
