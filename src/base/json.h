/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON by jansson, with errors that name the member. Any thread; a json_t belongs to one thread at
 * a time.
 *
 * The json_get_* functions leave *out alone and return 0 when the member is absent, return -EINVAL
 * with a sentence when it has the wrong type or is out of range, and 1 when they found it.
 */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include "base/cleanup.h"
#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

DEFINE_AUTO(json_t *, json_decref)

enum { JSON_MAX_DEPTH = 64, JSON_MAX_BYTES = 16 << 20 };

/* Parses one value out of outside bytes. Refused: deeper or larger than the limits above, duplicate
 * members, anything behind the value. The caller owns *out. */
int json_parse(const char *text, size_t len, json_t **out, struct err *err);
int json_parse_file(const char *path, json_t **out, struct err *err);
char *json_print(const json_t *value); /* compact, one line; the caller frees; never NULL */
struct buf;
void json_add(struct buf *out, const json_t *value); /* the same, behind what is in `out` */

/* The object keeps the string. */
int json_get_string(const json_t *object, const char *name, const char **out, struct err *err);
int json_get_u64(const json_t *object, const char *name, uint64_t min, uint64_t max, uint64_t *out,
                 struct err *err);
int json_get_bool(const json_t *object, const char *name, bool *out, struct err *err);
/* Fails naming the first member of `object` that is not in the NULL-terminated list. */
int json_only(const json_t *object, const char *const *names, struct err *err);

#endif
