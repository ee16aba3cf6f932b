/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * In software, what a network card would do: checksums, and cutting a large TCP segment into small
 * ones. Frame and offload header come from a guest and are hostile; the frame must be a private
 * copy. Pure functions, any thread.
 */
#ifndef NET_OFFLOAD_H
#define NET_OFFLOAD_H

#include "net/net.h"

enum {
    OFFLOAD_MIN_GSO = 8, /* payload of one segment; smaller asks for floods */
    OFFLOAD_MAX_HEADERS = 14 + 8 + 60 + 60 + 256, /* with VLANs, IPv6 extensions, TCP options */
};

/* The features (net_feature) that the offload header asks for. */
unsigned offload_needs(const struct net_offload *offload);

/* RFC 1071 over bytes; `sum` carries on a sum begun before, over an even number of bytes. */
uint32_t offload_sum(const uint8_t *data, size_t len, uint32_t sum);
uint16_t offload_fold(uint32_t sum); /* the complement, in network order as a number */

/* Completes the checksum that needs_csum asks for. -EINVAL: outside the frame. */
int offload_checksum(uint8_t *frame, size_t len, const struct net_offload *offload);

/* Cuts a TCP frame into segments of at most `size` bytes of payload, each complete with checksums,
 * and passes them to emit as two parts, until that fails. What emit returned, or -EINVAL for a
 * frame that is no TCP over IPv4 (IPv6) as offload->gso says. */
typedef int offload_emit(void *arg, const struct iovec parts[2]);
int offload_segment(const uint8_t *frame, size_t len, const struct net_offload *offload,
                    unsigned size, offload_emit *emit, void *arg);

#endif
