/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Answers as people read them. */
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void output_json(const json_t *value)
{
    json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
    puts("");
}

void output_time(const json_t *value, char out[TIME_TEXT])
{
    time_t seconds = (time_t)json_number_value(value);
    struct tm tm;
    strftime(out, TIME_TEXT, "%Y-%m-%d %H:%M:%S", localtime_r(&seconds, &tm));
}

static void cell(const struct api_field *f, const json_t *value, char *out, size_t len)
{
    char text[64];
    out[0] = 0;
    switch (json_typeof(value ? value : json_null())) {
    case JSON_STRING: snprintf(out, len, "%s", json_string_value(value)); break;
    case JSON_TRUE: snprintf(out, len, "yes"); break;
    case JSON_FALSE: snprintf(out, len, "no"); break;
    case JSON_INTEGER:
        if (f && f->type == API_SIZE)
            snprintf(out, len, "%s",
                     size_print((uint64_t)json_integer_value(value), text, sizeof text));
        else
            snprintf(out, len, "%lld", (long long)json_integer_value(value));
        break;
    case JSON_REAL: {
        if (f && f->type != API_TIME) {
            snprintf(out, len, "%.1f", json_real_value(value));
            break;
        }
        output_time(value, text);
        snprintf(out, len, "%s", text);
        break;
    }
    case JSON_NULL: snprintf(out, len, "-"); break;
    default: {
        AUTO(free) char *json = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
        snprintf(out, len, "%s", json ? json : "");
    }
    }
}

void output_plain(FILE *to, const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        bool high = c[0] == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0; /* U+0080 to U+009F */
        putc(*c < 0x20 || *c == 0x7f || high ? '?' : *c, to);
        c += high;
    }
}

static const struct api_field *field_anywhere(const char *name)
{
    for (const struct api_resource *r = api_resources; r->name; r++) {
        const struct api_field *f = api_field_find(r->fields, name);
        if (f)
            return f;
    }
    return NULL;
}

enum { COLUMNS_MAX = 12, CELL_MAX = 200 };

void output_table(const json_t *items, const char *const *columns)
{
    size_t widths[COLUMNS_MAX] = { 0 }, count = json_array_size(items);
    char text[CELL_MAX];
    for (unsigned c = 0; columns[c]; c++) {
        widths[c] = strlen(columns[c]);
        for (size_t i = 0; i < count; i++) {
            cell(field_anywhere(columns[c]), json_object_get(json_array_get(items, i), columns[c]),
                 text, sizeof text);
            widths[c] = strlen(text) > widths[c] ? strlen(text) : widths[c];
        }
    }
    for (unsigned c = 0; columns[c]; c++) {
        for (const char *p = columns[c]; *p; p++)
            putchar(*p == '_' ? ' ' : *p >= 'a' && *p <= 'z' ? *p - 32 : *p);
        printf("%*s", columns[c + 1] ? (int)(widths[c] - strlen(columns[c]) + 2) : 0, "");
    }
    puts("");
    for (size_t i = 0; i < count; i++) {
        for (unsigned c = 0; columns[c]; c++) {
            cell(field_anywhere(columns[c]), json_object_get(json_array_get(items, i), columns[c]),
                 text, sizeof text);
            output_plain(stdout, text);
            printf("%*s", columns[c + 1] ? (int)(widths[c] - strlen(text) + 2) : 0, "");
        }
        puts("");
    }
}

static void print_fields(const struct api_field *fields, const json_t *object, int depth)
{
    char text[4096];
    for (const struct api_field *f = fields; f->name; f++) {
        const json_t *value = json_object_get(object, f->name);
        if (!value)
            continue;
        printf("%*s%s:", depth, "", f->name);
        if (f->type == API_OBJECT && json_is_object(value)) {
            puts("");
            print_fields(f->fields, value, depth + 2);
        } else if (f->type == API_LIST && f->element == API_OBJECT && json_array_size(value)) {
            puts("");
            for (size_t i = 0; i < json_array_size(value); i++) {
                printf("%*s-\n", depth + 2, "");
                print_fields(f->fields, json_array_get(value, i), depth + 4);
            }
        } else {
            cell(f, value, text, sizeof text);
            putchar(' ');
            output_plain(stdout, text);
            puts("");
        }
    }
}

void output_object(const struct api_field *fields, const json_t *object)
{
    print_fields(fields, object, 0);
}
