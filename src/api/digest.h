/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SHA-256 as text, and the chain of audit records that it links. Any thread. */
#ifndef API_DIGEST_H
#define API_DIGEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum { DIGEST_TEXT = 65 };

void digest_text(const void *data, size_t len, char out[DIGEST_TEXT]);
bool digest_equal(const char *a, const char *b); /* in the same time, wherever they differ */

/* SHA-256 over the "hash" of the record before ("" for the first), a newline, and the JSON array of
 * id, user, via, method, path, the time in milliseconds, and status, without blanks. */
void audit_hash(const char *before, const json_t *record, char out[DIGEST_TEXT]);

#endif
