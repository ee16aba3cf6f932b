/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What clients see of an object, as a text: its table says which members there are, in which order,
 * and which are secrets.
 *
 * A list of ten thousand objects is made in one go, so no JSON is built, and no member looked up by
 * its name: objects have their members in about the table's order.
 */
#include "api/api.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static bool is_named(const struct api_field *field, const char *name)
{
    return field->name[0] == name[0] && strcmp(field->name, name) == 0;
}

/* The field of this name: at `from` or behind, or else before it. NULL: there is none. */
static const struct api_field *field_from(const struct api_field *fields,
                                          const struct api_field *from, const char *name)
{
    for (const struct api_field *f = from; f->name; f++)
        if (is_named(f, name))
            return f;
    for (const struct api_field *f = fields; f < from; f++)
        if (is_named(f, name))
            return f;
    return NULL;
}

static void object_show(const struct api_field *fields, const json_t *object, const bool *wanted,
                        struct buf *out);

static void value_show(const struct api_field *field, const json_t *value, struct buf *out)
{
    if (field->type == API_OBJECT && json_is_object(value)) {
        object_show(field->fields, value, NULL, out);
    } else if (field->type == API_LIST && field->element == API_OBJECT) {
        buf_add(out, "[", 1);
        for (size_t i = 0; i < json_array_size(value); i++) {
            if (i)
                buf_add(out, ",", 1);
            object_show(field->fields, json_array_get(value, i), NULL, out);
        }
        buf_add(out, "]", 1);
    } else {
        json_add(out, value);
    }
}

/* wanted: by the fields' places; NULL: all. */
static void object_show(const struct api_field *fields, const json_t *object, const bool *wanted,
                        struct buf *out)
{
    const json_t *values[API_FIELDS_MAX] = { NULL };
    const struct api_field *next = fields;
    for (void *at = json_object_iter((json_t *)object); at;
         at = json_object_iter_next((json_t *)object, at)) {
        const struct api_field *f = field_from(fields, next, json_object_iter_key(at));
        if (!f)
            continue;
        assert(f - fields < API_FIELDS_MAX);
        values[f - fields] = json_object_iter_value(at);
        next = f + 1;
    }
    size_t begin = out->len;
    for (size_t i = 0; fields[i].name; i++) {
        if (!values[i] || fields[i].flags & API_SECRET || (wanted && !wanted[i]))
            continue;
        buf_add(out, out->len == begin ? "{\"" : ",\"", 2);
        buf_add(out, fields[i].name, strlen(fields[i].name));
        buf_add(out, "\":", 2);
        value_show(&fields[i], values[i], out);
    }
    buf_add(out, &"{}"[out->len > begin], out -> len > begin ? 1 : 2);
}

int api_show(const struct api_field *fields, const json_t *object, const char *only,
             struct buf *out, struct api_error *error)
{
    bool wanted[API_FIELDS_MAX] = { false };
    for (const char *name = only ? only : ""; *name; name += strspn(name, ",")) {
        char word[64];
        size_t len = strcspn(name, ",");
        snprintf(word, sizeof word, "%.*s", (int)(len < 63 ? len : 63), name);
        const struct api_field *f = api_field_find(fields, word);
        if (!f)
            return api_fail(error, 400, "invalid", "fields", "there is no field '%s'", word);
        wanted[f - fields] = true;
        name += len;
    }
    object_show(fields, object, only ? wanted : NULL, out);
    return 0;
}
