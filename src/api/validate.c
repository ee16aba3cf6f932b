/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests against the tables. Everything in a request is outside data: unknown members, wrong
 * types and impossible values end in an error that names the field by its path.
 */
#include "api/api.h"

#include "base/checked.h"
#include "base/ids.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_ROOM = 160, LIST_MAX = 256, MAP_MAX = 64, TEXT_MAX = 65536, NAME_MAX_LEN = 63 };

/* ---- errors ---- */

int api_fail(struct api_error *error, unsigned status, const char *code, const char *field,
             const char *format, ...)
{
    va_list args;
    error->status = status;
    snprintf(error->code, sizeof error->code, "%s", code);
    snprintf(error->field, sizeof error->field, "%s", field ? field : "");
    error->hint[0] = 0;
    va_start(args, format);
    vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
    return -1;
}

void api_hint(struct api_error *error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error->hint, sizeof error->hint, format, args);
    va_end(args);
}

/* Cut texts may end inside a UTF-8 sequence, which JSON would refuse. */
static json_t *text_json(const char *text)
{
    json_t *value = json_string(text);
    for (size_t len = strlen(text); !value && len > 0; len--)
        value = json_stringn(text, len - 1);
    return value ? value : json_string("");
}

json_t *api_error_json(const struct api_error *error)
{
    json_t *inner = json_object();
    json_object_set_new(inner, "code", text_json(error->code));
    json_object_set_new(inner, "message", text_json(error->message));
    if (error->field[0])
        json_object_set_new(inner, "field", text_json(error->field));
    if (error->hint[0])
        json_object_set_new(inner, "hint", text_json(error->hint));
    return json_pack("{s:o}", "error", inner);
}

static int invalid(struct api_error *error, const char *path, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int invalid(struct api_error *error, const char *path, const char *format, ...)
{
    char message[sizeof error->message];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return api_fail(error, 422, "invalid", path, "%s", message);
}

/* ---- look-up ---- */

const struct api_resource *api_resource_find(const char *name)
{
    for (const struct api_resource *r = api_resources; r->name; r++)
        if (strcmp(r->name, name) == 0)
            return r;
    return NULL;
}

const struct api_other *api_other_find(const char *path)
{
    const struct api_other *o = api_others;
    while (o->path && strcmp(o->path, path) != 0)
        o++;
    return o->path ? o : NULL;
}

const struct api_action *api_action_find(const struct api_resource *resource, const char *name)
{
    for (const struct api_action *a = resource->actions; a && a->name; a++)
        if (strcmp(a->name, name) == 0)
            return a;
    return NULL;
}

const struct api_field *api_field_find(const struct api_field *fields, const char *name)
{
    for (const struct api_field *f = fields; f && f->name; f++)
        if (strcmp(f->name, name) == 0)
            return f;
    return NULL;
}

/* How alike two words are: the field that a mistyped one probably meant. */
static bool alike(const char *a, const char *b)
{
    size_t same = 0, la = strlen(a), lb = strlen(b);
    while (a[same] && a[same] == b[same])
        same++;
    size_t tail = 0;
    while (tail < la - same && tail < lb - same && a[la - 1 - tail] == b[lb - 1 - tail])
        tail++;
    size_t longer = la > lb ? la : lb;
    return longer - same - tail <= 2 && same + tail >= longer / 2;
}

static int unknown_field(const struct api_field *fields, const char *path, const char *name,
                         struct api_error *error)
{
    invalid(error, path, "there is no field '%.80s'", name);
    for (const struct api_field *f = fields; f && f->name; f++)
        if (!(f->flags & API_SERVER) && alike(f->name, name)) {
            api_hint(error, "did you mean '%s'?", f->name);
            break;
        }
    return -1;
}

/* ---- strings ---- */

static bool name_good(const char *text, size_t len)
{
    if (!len || len > NAME_MAX_LEN || !isalnum((unsigned char)text[0]))
        return false;
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr("._-", text[i]))
            return false;
    return true;
}

static bool text_good(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] < 0x20 && text[i] != '\n' && text[i] != '\t')
            return false;
    return true;
}

/* Absolute, and without parts that lead elsewhere. */
static bool path_good(const char *text, size_t len)
{
    return len > 1 && len < 4096 && text[0] == '/' && text_good(text, len) && !strchr(text, '\n') &&
           !strstr(text, "/../") && !(len >= 3 && strcmp(text + len - 3, "/..") == 0);
}

static int check_choice(const struct api_field *f, const char *path, const char *text,
                        struct api_error *error)
{
    char all[200] = "";
    for (const char *const *c = f->choices; *c; c++) {
        if (strcmp(*c, text) == 0)
            return 0;
        size_t at = strlen(all);
        snprintf(all + at, sizeof all - at, "%s%s", at ? (c[1] ? ", " : " or ") : "", *c);
    }
    return invalid(error, path, "must be %s, not '%.60s'", all, text);
}

static int check_string(const struct api_field *f, const char *path, const json_t *value,
                        struct api_error *error)
{
    const char *text = json_string_value(value);
    size_t len = json_string_length(value);
    size_t max = f->max ? (size_t)f->max : TEXT_MAX;
    uint8_t bytes[16];
    struct err err;

    if (strlen(text) != len)
        return invalid(error, path, "has a NUL character in it");
    if (f->format != API_ENUM && (len < (size_t)f->min || len > max))
        return len > max ? invalid(error, path, "has %zu bytes; at most %zu are allowed", len, max)
                         : invalid(error, path, "must not be empty");
    switch (f->format) {
    case API_TEXT:
        return text_good(text, len) ? 0 : invalid(error, path, "has control characters in it");
    case API_NAME:
        return name_good(text, len)
                   ? 0
                   : invalid(error, path,
                             "must have 1 to %d letters, digits, '.', '_' or '-' and begin with a "
                             "letter or digit",
                             NAME_MAX_LEN);
    case API_UUID:
        return uuid_parse(text, bytes, &err) < 0 ? invalid(error, path, "%s", err.text) : 0;
    case API_PATH:
        return path_good(text, len) ? 0
                                    : invalid(error, path, "must be an absolute path without '..'");
    case API_IMAGE:
        return path_good(text, len) ||
                       (strncmp(text, "nbd", 3) == 0 && strstr(text, "://") &&
                        text_good(text, len)) ||
                       (strncmp(text, "disk:", 5) == 0 && name_good(text + 5, len - 5))
                   ? 0
                   : invalid(error, path,
                             "must be an absolute path without '..', an nbd:// address, or the "
                             "disk:NAME of a disk");
    case API_MAC:
        return mac_parse(text, bytes, &err) < 0 ? invalid(error, path, "%s", err.text) : 0;
    case API_ENUM: return check_choice(f, path, text, error);
    }
    return 0;
}

/* ---- values ---- */

static const char *type_words(const struct api_field *f)
{
    switch (f->type) {
    case API_STRING: return "a string";
    case API_INTEGER: return "a whole number";
    case API_SIZE: return "a size like \"2G\", or a number of bytes";
    case API_BOOLEAN: return "true or false";
    case API_TIME: return "a time in seconds";
    case API_OBJECT: return "an object";
    case API_LIST: return "a list";
    case API_MAP: return "an object of strings";
    case API_ANY: return "anything";
    }
    return "";
}

static int check_range(const struct api_field *f, const char *path, json_int_t n,
                       struct api_error *error)
{
    int64_t min = f->min, max = f->min || f->max ? f->max : INT64_MAX;
    char low[32], high[32];
    if (n >= min && n <= max)
        return 0;
    if (f->type == API_SIZE)
        return invalid(error, path, "must be from %s to %s",
                       size_print((uint64_t)min, low, sizeof low),
                       size_print((uint64_t)max, high, sizeof high));
    return invalid(error, path, "must be from %lld to %lld", (long long)min, (long long)max);
}

static int check_size(const struct api_field *f, const char *path, const json_t *value,
                      json_t **out, struct api_error *error)
{
    uint64_t bytes;
    struct err err;
    if (json_is_integer(value)) {
        *out = json_incref((json_t *)value);
        return check_range(f, path, json_integer_value(value), error);
    }
    if (!json_is_string(value))
        return invalid(error, path, "must be %s", type_words(f));
    if (size_parse(json_string_value(value), 1, &bytes, &err) < 0 || bytes > INT64_MAX)
        return invalid(error, path, "must be %s", type_words(f));
    *out = json_integer((json_int_t)bytes);
    return check_range(f, path, (json_int_t)bytes, error);
}

static int check_map(const char *path, const json_t *value, json_t **out, struct api_error *error)
{
    const char *key;
    json_t *member;
    if (!json_is_object(value) || json_object_size(value) > MAP_MAX)
        return invalid(error, path, "must be an object with at most %d strings", MAP_MAX);
    json_object_foreach((json_t *)value, key, member)
    {
        if (!name_good(key, strlen(key)))
            return invalid(error, path, "'%.80s' is no name", key);
        if (!json_is_string(member) || json_string_length(member) > 255)
            return invalid(error, path, "'%.63s' must be a string of at most 255 bytes", key);
    }
    *out = json_incref((json_t *)value);
    return 0;
}

static int check_object(const struct api_field *fields, const char *path, const json_t *in,
                        json_t **out, struct api_error *error);
static int check_value(const struct api_field *f, const char *path, const json_t *value,
                       json_t **out, struct api_error *error);

static int check_list(const struct api_field *f, const char *path, const json_t *value,
                      json_t **out, struct api_error *error)
{
    size_t max = f->max ? (size_t)f->max : LIST_MAX, count = json_array_size(value);
    if (!json_is_array(value))
        return invalid(error, path, "must be a list");
    if (count < (size_t)f->min || count > max)
        return invalid(error, path, "has %zu entries; %lld to %zu are allowed", count,
                       (long long)f->min, max);
    struct api_field element = *f;
    element.type = f->element;
    element.min = element.max = 0;
    AUTO(json_decref) json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        char below[PATH_ROOM];
        json_t *checked = NULL;
        snprintf(below, sizeof below, "%s[%zu]", path, i);
        int r = check_value(&element, below, json_array_get(value, i), &checked, error);
        if (r < 0)
            return r;
        json_array_append_new(list, checked);
    }
    *out = TAKE(list);
    return 0;
}

static int check_value(const struct api_field *f, const char *path, const json_t *value,
                       json_t **out, struct api_error *error)
{
    int r = 0;
    switch (f->type) {
    case API_SIZE: {
        AUTO(json_decref) json_t *size = NULL;
        r = check_size(f, path, value, &size, error);
        *out = r < 0 ? NULL : TAKE(size);
        return r;
    }
    case API_OBJECT: return check_object(f->fields, path, value, out, error);
    case API_LIST: return check_list(f, path, value, out, error);
    case API_MAP: return check_map(path, value, out, error);
    case API_STRING:
        r = json_is_string(value) ? check_string(f, path, value, error)
                                  : invalid(error, path, "must be %s", type_words(f));
        break;
    case API_INTEGER:
        r = json_is_integer(value) ? check_range(f, path, json_integer_value(value), error)
                                   : invalid(error, path, "must be %s", type_words(f));
        break;
    case API_BOOLEAN:
        if (!json_is_boolean(value))
            r = invalid(error, path, "must be %s", type_words(f));
        break;
    case API_TIME:
        if (!json_is_number(value))
            r = invalid(error, path, "must be %s", type_words(f));
        break;
    case API_ANY: break;
    }
    if (r == 0)
        *out = json_incref((json_t *)value);
    return r;
}

static void path_below(char out[PATH_ROOM], const char *path, const char *name)
{
    snprintf(out, PATH_ROOM, "%s%s%.80s", path, *path ? "." : "", name);
}

/* A default that the table got wrong is our bug and shows in the table's test. */
static void set_initial(const struct api_field *f, json_t *object)
{
    json_t *value = f->initial ? json_loads(f->initial, JSON_DECODE_ANY, NULL) : NULL;
    if (value)
        json_object_set_new(object, f->name, value);
}

static int check_object(const struct api_field *fields, const char *path, const json_t *in,
                        json_t **out, struct api_error *error)
{
    const char *key;
    json_t *value;
    char below[PATH_ROOM];
    if (!json_is_object(in))
        return invalid(error, path, *path ? "must be an object" : "the body must be a JSON object");
    AUTO(json_decref) json_t *object = json_object();
    json_object_foreach((json_t *)in, key, value)
    {
        const struct api_field *f = api_field_find(fields, key);
        json_t *checked = NULL;
        path_below(below, path, key);
        if (!f)
            return unknown_field(fields, below, key, error);
        if (f->flags & API_SERVER)
            return invalid(error, below, "is set by the server");
        if (json_is_null(value))
            continue; /* as if it were not there */
        int r = check_value(f, below, value, &checked, error);
        if (r < 0)
            return r;
        json_object_set_new(object, key, checked);
    }
    for (const struct api_field *f = fields; f && f->name; f++) {
        if (json_object_get(object, f->name))
            continue;
        path_below(below, path, f->name);
        if (f->flags & API_REQUIRED)
            return invalid(error, below, "is required");
        set_initial(f, object);
    }
    *out = TAKE(object);
    return 0;
}

int api_check_new(const struct api_field *fields, const json_t *in, json_t **out,
                  struct api_error *error)
{
    static const struct api_field none[] = { { .name = NULL } };
    return check_object(fields ? fields : none, "", in, out, error);
}

/* ---- patches ---- */

/* RFC 7396: members replace, null removes, objects merge. */
static json_t *merged(const json_t *old, const json_t *patch)
{
    const char *key;
    json_t *value;
    json_t *result = json_is_object(old) ? json_copy((json_t *)old) : json_object();
    json_object_foreach((json_t *)patch, key, value)
    {
        if (json_is_null(value))
            json_object_del(result, key);
        else if (json_is_object(value))
            json_object_set_new(result, key, merged(json_object_get(old, key), value));
        else
            json_object_set(result, key, value);
    }
    return result;
}

int api_check_patch(const struct api_field *fields, const json_t *old, const json_t *patch,
                    json_t **out, bool *live, struct api_error *error)
{
    const char *key;
    json_t *value;
    if (!json_is_object(patch))
        return invalid(error, "", "the body must be a JSON object");
    json_object_foreach((json_t *)patch, key, value)
    {
        const struct api_field *f = api_field_find(fields, key);
        if (!f)
            return unknown_field(fields, key, key, error);
        if (f->flags & API_SERVER)
            return invalid(error, key, "is set by the server");
        if (f->flags & API_REQUIRED && json_is_null(value))
            return invalid(error, key, "is required and cannot be removed");
        if (f->flags & API_FIXED && !json_equal(value, json_object_get(old, key)))
            return invalid(error, key, "cannot be changed after creation");
    }
    /* The client's fields are checked as a whole new object, the server's are kept. */
    AUTO(json_decref) json_t *mine = merged(old, patch);
    for (const struct api_field *f = fields; f->name; f++)
        if (f->flags & API_SERVER)
            json_object_del(mine, f->name);
    AUTO(json_decref) json_t *result = NULL;
    int r = api_check_new(fields, mine, &result, error);
    if (r < 0)
        return r;
    *live = true;
    for (const struct api_field *f = fields; f->name; f++) {
        json_t *was = json_object_get(old, f->name);
        if (f->flags & API_SERVER) {
            if (was)
                json_object_set(result, f->name, was);
            continue;
        }
        json_t *now = json_object_get(result, f->name);
        if (!(f->flags & API_LIVE) && !(was == now || (was && now && json_equal(was, now))))
            *live = false;
    }
    *out = TAKE(result);
    return 0;
}

/* ---- filters ---- */

int api_filter(const struct api_field *fields, const json_t *object, const char *field,
               const char *value, struct api_error *error)
{
    const struct api_field *f = api_field_find(fields, field);
    if (!f || !(f->flags & API_FILTER)) {
        api_fail(error, 400, "invalid", field, "lists cannot be filtered by '%.80s'", field);
        for (f = fields; f->name; f++)
            if (f->flags & API_FILTER) {
                size_t at = strlen(error->hint);
                snprintf(error->hint + at, sizeof error->hint - at, "%s%s",
                         at ? ", " : "there are: ", f->name);
            }
        return -1;
    }
    const char *const *choice = f->format == API_ENUM ? f->choices : NULL;
    while (choice && *choice && strcmp(*choice, value) != 0)
        choice++;
    if (choice && !*choice) {
        api_fail(error, 400, "invalid", field, "is never '%.80s'", value);
        for (choice = f->choices; *choice; choice++) {
            size_t at = strlen(error->hint);
            snprintf(error->hint + at, sizeof error->hint - at, "%s%s",
                     at ? ", " : "it is one of: ", *choice);
        }
        return -1;
    }
    const json_t *is = json_object_get(object, field);
    char number[32];
    switch (json_typeof(is ? is : json_null())) {
    case JSON_STRING: return strcmp(json_string_value(is), value) == 0;
    case JSON_TRUE: return strcmp(value, "true") == 0;
    case JSON_FALSE: return strcmp(value, "false") == 0;
    case JSON_INTEGER:
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(is));
        return strcmp(number, value) == 0;
    default: return 0;
    }
}
