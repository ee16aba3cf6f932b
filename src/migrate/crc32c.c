/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The CPU's instruction where there is one, else a table of one byte (RFC 3720, appendix B.4). */
#include "migrate/crc32c.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#define POLYNOMIAL 0x82f63b78u /* bit-reversed */

static uint32_t table[256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void table_fill(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
        table[i] = crc;
    }
}

uint32_t crc32c_plain(uint32_t crc, const void *data, size_t len)
{
    pthread_once(&table_once, table_fill);
    const uint8_t *bytes = data;
    crc = ~crc;
    for (size_t i = 0; i < len; i++)
        crc = crc >> 8 ^ table[(crc ^ bytes[i]) & 0xff];
    return ~crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse(uint32_t crc, const void *data,
                                                             size_t len)
{
    const uint8_t *bytes = data;
    uint64_t value = ~crc;
    for (; len >= 8; len -= 8, bytes += 8) {
        uint64_t word;
        memcpy(&word, bytes, 8);
        value = __builtin_ia32_crc32di(value, word);
    }
    crc = (uint32_t)value;
    for (; len; len--)
        crc = __builtin_ia32_crc32qi(crc, *bytes++);
    return ~crc;
}

uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
    return __builtin_cpu_supports("sse4.2") ? crc32c_sse(crc, data, len)
                                            : crc32c_plain(crc, data, len);
}
#else
uint32_t crc32c(uint32_t crc, const void *data, size_t len) { return crc32c_plain(crc, data, len); }
#endif
