/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Strict parsing of outside JSON, and typed access whose errors name the member. */
#include "base/json.h"

#include "base/text.h"

#include <inttypes.h>
#include <string.h>

/* Jansson recurses, to a depth of its own that is more than a thread with a small stack can take.
 */
static bool depth_fits(const char *text, size_t len)
{
    unsigned depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > JSON_MAX_DEPTH)
                return false;
        } else if ((c == ']' || c == '}') && depth) {
            depth--;
        }
    }
    return true;
}

int json_parse(const char *text, size_t len, json_t **out, struct err *err)
{
    if (len > JSON_MAX_BYTES)
        return err_set(err, EFBIG, "JSON text is larger than %d MiB", JSON_MAX_BYTES >> 20);
    if (!depth_fits(text, len))
        return err_set(err, EINVAL, "JSON is nested more than %d deep", JSON_MAX_DEPTH);

    json_error_t error;
    json_t *value = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (!value)
        return err_set(err, EINVAL, "invalid JSON in line %d: %s", error.line, error.text);
    *out = value;
    return 0;
}

int json_parse_file(const char *path, json_t **out, struct err *err)
{
    AUTO(buf_fini) struct buf text = { 0 };
    int r = file_read(path, JSON_MAX_BYTES, &text, err);
    if (r < 0)
        return r;
    r = json_parse((const char *)text.data, text.len, out, err);
    return r < 0 ? err_prefix(err, "%s", path) : 0;
}

char *json_print(const json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    if (!text)
        abort(); /* out of memory */
    return text;
}

static int piece_add(const char *data, size_t len, void *out)
{
    buf_add(out, data, len);
    return 0;
}

/* Nothing in it needs a backslash. */
static bool is_plain(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == '"' || text[i] == '\\')
            return false;
    return true;
}

void json_add(struct buf *out, const json_t *value)
{
    /* Jansson prepares for nested values, which most are not. */
    if (json_is_string(value) && is_plain(json_string_value(value), json_string_length(value))) {
        buf_add(out, "\"", 1);
        buf_add(out, json_string_value(value), json_string_length(value));
        buf_add(out, "\"", 1);
    } else if (json_dump_callback(value, piece_add, out, JSON_COMPACT | JSON_ENCODE_ANY) < 0) {
        abort(); /* out of memory */
    }
}

/* 1 with *out set, 0 when absent, -EINVAL for something that is no object. */
static int member_find(const json_t *object, const char *name, json_t **out, struct err *err)
{
    if (!json_is_object(object))
        return err_set(err, EINVAL, "expected a JSON object with '%s'", name);
    *out = json_object_get(object, name);
    return *out ? 1 : 0;
}

int json_get_string(const json_t *object, const char *name, const char **out, struct err *err)
{
    json_t *value;
    int r = member_find(object, name, &value, err);
    if (r <= 0)
        return r;
    if (!json_is_string(value))
        return err_set(err, EINVAL, "'%s' must be a string", name);
    *out = json_string_value(value);
    return 1;
}

int json_get_u64(const json_t *object, const char *name, uint64_t min, uint64_t max, uint64_t *out,
                 struct err *err)
{
    json_t *value;
    int r = member_find(object, name, &value, err);
    if (r <= 0)
        return r;
    if (!json_is_integer(value))
        return err_set(err, EINVAL, "'%s' must be a whole number", name);
    json_int_t n = json_integer_value(value);
    if (n < 0 || (uint64_t)n < min || (uint64_t)n > max)
        return err_set(err, EINVAL, "'%s' must be between %" PRIu64 " and %" PRIu64, name, min,
                       max);
    *out = (uint64_t)n;
    return 1;
}

int json_get_bool(const json_t *object, const char *name, bool *out, struct err *err)
{
    json_t *value;
    int r = member_find(object, name, &value, err);
    if (r <= 0)
        return r;
    if (!json_is_boolean(value))
        return err_set(err, EINVAL, "'%s' must be true or false", name);
    *out = json_is_true(value);
    return 1;
}

int json_only(const json_t *object, const char *const *names, struct err *err)
{
    if (!json_is_object(object))
        return err_set(err, EINVAL, "expected a JSON object");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        const char *const *name = names;
        while (*name && strcmp(*name, key) != 0)
            name++;
        if (!*name)
            return err_set(err, EINVAL, "unknown member '%s'", key);
    }
    return 0;
}
