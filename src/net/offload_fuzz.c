/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzzes software offloads: 8 bytes of offload header, then a frame. */
#include "net/offload.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int take_segment(void *arg, const struct iovec parts[2])
{
    size_t *left = arg;
    if (parts[1].iov_len > *left)
        abort();
    *left -= parts[1].iov_len;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 8 || size - 8 > NET_MAX_FRAME)
        return 0;
    struct net_offload offload = {
        .needs_csum = true,
        .gso = data[0] & 1 ? NET_GSO_TCPV4 : NET_GSO_TCPV6,
        .gso_size = (uint16_t)(data[2] | data[3] << 8),
        .csum_start = (uint16_t)(data[4] | data[5] << 8),
        .csum_offset = (uint16_t)(data[6] | data[7] << 8),
    };
    size_t len = size - 8, left = len;
    uint8_t *frame = malloc(len + 1); /* exact, for the sanitizers */
    memcpy(frame, data + 8, len);
    offload_segment(frame, len, &offload, offload.gso_size, take_segment, &left);
    offload_checksum(frame, len, &offload);
    free(frame);
    return 0;
}
