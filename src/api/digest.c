/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "api/digest.h"

#include "base/json.h"
#include "base/text.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void digest_text(const void *data, size_t len, char out[DIGEST_TEXT])
{
    unsigned char sum[SHA256_DIGEST_LENGTH];
    SHA256(data, len, sum);
    for (unsigned i = 0; i < sizeof sum; i++)
        snprintf(out + 2 * i, 3, "%02x", sum[i]);
}

bool digest_equal(const char *a, const char *b)
{
    return strlen(a) == strlen(b) && CRYPTO_memcmp(a, b, strlen(a)) == 0;
}

void audit_hash(const char *before, const json_t *record, char out[DIGEST_TEXT])
{
    static const char *const texts[] = { "id", "user", "via", "method", "path" };
    AUTO(json_decref) json_t *parts = json_array();
    AUTO(buf_fini) struct buf text = { 0 };
    for (unsigned i = 0; i < sizeof texts / sizeof *texts; i++)
        json_array_append(parts, json_object_get(record, texts[i]));
    double time = json_number_value(json_object_get(record, "time"));
    json_array_append_new(parts, json_integer((json_int_t)(time * 1000 + 0.5)));
    json_array_append(parts, json_object_get(record, "status"));
    AUTO(free) char *dumped = json_dumps(parts, JSON_COMPACT);
    if (!dumped)
        abort(); /* out of memory */
    buf_printf(&text, "%s\n%s", before, dumped);
    digest_text(text.data, text.len, out);
}
