/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The tables as documents: OpenAPI 3.1 for programs, a Markdown page for people. */
#include "api/api.h"

#include <stdio.h>
#include <string.h>

/* ---- schemas ---- */

static json_t *object_schema(const struct api_field *fields, bool request);

static json_t *string_schema(const struct api_field *f)
{
    json_t *schema = json_pack("{s:s}", "type", "string");
    static const char *const patterns[] = {
        [API_TEXT] = NULL,
        [API_NAME] = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        [API_UUID] = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
        [API_PATH] = "^/",
        [API_IMAGE] = "^(/|nbds?(\\+[a-z]+)?://|disk:)",
        [API_MAC] = "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$",
        [API_ENUM] = NULL,
    };
    if (f->format == API_ENUM) {
        json_t *choices = json_array();
        for (const char *const *c = f->choices; *c; c++)
            json_array_append_new(choices, json_string(*c));
        json_object_set_new(schema, "enum", choices);
    } else if (patterns[f->format]) {
        json_object_set_new(schema, "pattern", json_string(patterns[f->format]));
    }
    if (f->min && f->type == API_STRING)
        json_object_set_new(schema, "minLength", json_integer(f->min));
    if (f->max && f->type == API_STRING)
        json_object_set_new(schema, "maxLength", json_integer(f->max));
    return schema;
}

static void add_range(json_t *schema, const struct api_field *f, const char *min, const char *max)
{
    json_object_set_new(schema, min, json_integer(f->min));
    if (f->max)
        json_object_set_new(schema, max, json_integer(f->max));
}

static json_t *value_schema(const struct api_field *f, enum api_type type, bool request)
{
    json_t *schema;
    switch (type) {
    case API_STRING: return string_schema(f);
    case API_INTEGER:
        schema = json_pack("{s:s}", "type", "integer");
        if (f->type == API_INTEGER)
            add_range(schema, f, "minimum", "maximum");
        return schema;
    case API_SIZE:
        schema = json_pack("{s:s, s:s}", "type", "integer", "format", "int64");
        if (f->type == API_SIZE)
            add_range(schema, f, "minimum", "maximum");
        if (!request)
            return schema;
        return json_pack("{s:[o, {s:s, s:s}]}", "anyOf", schema, "type", "string", "pattern",
                         "^[0-9]+(\\.[0-9]+)?([BKMGT](i?B)?)?$");
    case API_BOOLEAN: return json_pack("{s:s}", "type", "boolean");
    case API_TIME: return json_pack("{s:s}", "type", "number");
    case API_OBJECT: return object_schema(f->fields, request);
    case API_LIST:
        schema =
            json_pack("{s:s, s:o}", "type", "array", "items", value_schema(f, f->element, request));
        if (f->max)
            json_object_set_new(schema, "maxItems", json_integer(f->max));
        if (f->min)
            json_object_set_new(schema, "minItems", json_integer(f->min));
        return schema;
    case API_MAP:
        return json_pack("{s:s, s:{s:s}}", "type", "object", "additionalProperties", "type",
                         "string");
    case API_ANY: return json_object();
    }
    return json_object();
}

/* request: what clients may send; otherwise what they get. */
static json_t *object_schema(const struct api_field *fields, bool request)
{
    json_t *properties = json_object(), *required = json_array();
    for (const struct api_field *f = fields; f && f->name; f++) {
        if (request ? f->flags & API_SERVER : f->flags & API_SECRET)
            continue;
        json_t *schema = value_schema(f, f->type, request);
        json_object_set_new(schema, "description", json_string(f->about));
        json_t *initial = f->initial ? json_loads(f->initial, JSON_DECODE_ANY, NULL) : NULL;
        if (initial && request)
            json_object_set_new(schema, "default", initial);
        else
            json_decref(initial);
        json_object_set_new(properties, f->name, schema);
        if (request && f->flags & API_REQUIRED)
            json_array_append_new(required, json_string(f->name));
    }
    json_t *schema = json_pack("{s:s, s:o, s:b}", "type", "object", "properties", properties,
                               "additionalProperties", 0);
    if (json_array_size(required))
        json_object_set_new(schema, "required", required);
    else
        json_decref(required);
    return schema;
}

/* Patches: the same members, none required, null removes. */
static json_t *patch_schema(const struct api_field *fields)
{
    json_t *schema = object_schema(fields, true),
           *properties = json_object_get(schema, "properties");
    const char *key;
    json_t *value;
    json_object_del(schema, "required");
    json_object_foreach(properties, key, value)
    {
        const struct api_field *f = api_field_find(fields, key);
        json_object_del(value, "default");
        if (f->flags & (API_REQUIRED | API_FIXED))
            continue;
        json_t *copy = json_deep_copy(value);
        json_object_del(copy, "description");
        json_object_clear(value);
        json_object_set_new(value, "anyOf", json_pack("[o, {s:s}]", copy, "type", "null"));
        json_object_set_new(value, "description", json_string(f->about));
    }
    return schema;
}

/* ---- paths ---- */

static json_t *reference(const char *what, const char *name)
{
    char text[120];
    snprintf(text, sizeof text, "#/components/%s/%s", what, name);
    return json_pack("{s:s}", "$ref", text);
}

static json_t *json_content(json_t *schema)
{
    return json_pack("{s:{s:o}}", "application/json", "schema", schema);
}

static json_t *answer(const char *about, json_t *schema)
{
    if (!schema)
        return json_pack("{s:s}", "description", about);
    return json_pack("{s:s, s:o}", "description", about, "content", json_content(schema));
}

static json_t *parameter(const char *name, const char *in, const char *about, json_t *schema)
{
    return json_pack("{s:s, s:s, s:b, s:s, s:o}", "name", name, "in", in, "required",
                     strcmp(in, "path") == 0, "description", about, "schema", schema);
}

static json_t *operation(const struct api_resource *r, const char *verb, const char *about,
                         enum api_role role)
{
    char id[80], description[120];
    snprintf(id, sizeof id, "%s_%s", r->name, verb);
    for (char *c = id; *c; c++)
        if (*c == '-')
            *c = '_';
    snprintf(description, sizeof description, "Needs the role %s.", api_role_names[role]);
    return json_pack("{s:s, s:s, s:s, s:[s], s:{s:o, s:o}, s:[]}", "operationId", id, "summary",
                     about, "description", description, "tags", r->name, "responses", "4XX",
                     reference("responses", "error"), "5XX", reference("responses", "error"),
                     "parameters");
}

static void add_answer(json_t *op, const char *status, json_t *take_answer)
{
    json_object_set_new(json_object_get(op, "responses"), status, take_answer);
}

static void add_parameter(json_t *op, json_t *take_parameter)
{
    json_array_append_new(json_object_get(op, "parameters"), take_parameter);
}

static void add_body(json_t *op, json_t *schema, bool required)
{
    json_object_set_new(
        op, "requestBody",
        json_pack("{s:b, s:o}", "required", required, "content", json_content(schema)));
}

static void add_job_or(json_t *op, bool job, const char *status, const char *about, json_t *schema)
{
    if (job) {
        add_answer(op, "202", answer("the job that does it", reference("schemas", "job")));
        json_decref(schema);
    } else {
        add_answer(op, status, answer(about, schema));
    }
}

static json_t *idempotency_key(void)
{
    return parameter(
        "Idempotency-Key", "header",
        "a text of your own, 1 to 127 characters: the request repeated with it answers "
        "with the job that it began the first time",
        json_pack("{s:s, s:i}", "type", "string", "maxLength", 127));
}

static json_t *list_path(const struct api_resource *r)
{
    json_t *path = json_object();
    char about[120];
    if (r->verbs & API_CAN_LIST) {
        snprintf(about, sizeof about, "list %s", r->name);
        json_t *op = operation(r, "list", about, r->read_role);
        add_parameter(op, parameter("limit", "query", "entries at most",
                                    json_pack("{s:s, s:i, s:i}", "type", "integer", "minimum", 1,
                                              "maximum", 10000)));
        add_parameter(op, parameter("after", "query", "`next` of the page before",
                                    json_pack("{s:s}", "type", "string")));
        add_parameter(op, parameter("fields", "query", "only these, separated by commas",
                                    json_pack("{s:s}", "type", "string")));
        for (const struct api_field *f = r->fields; f->name; f++)
            if (f->flags & API_FILTER)
                add_parameter(op, parameter(f->name, "query", "only those where it is this",
                                            json_pack("{s:s}", "type", "string")));
        json_t *page = json_pack(
            "{s:s, s:{s:{s:s, s:o}, s:{s:s, s:s}}, s:[s]}", "type", "object", "properties", "items",
            "type", "array", "items", reference("schemas", r->singular), "next", "type", "string",
            "description", "there is more; give it as ?after=", "required", "items");
        add_answer(op, "200", answer("a page", page));
        json_object_set_new(path, "get", op);
    }
    if (r->verbs & API_CAN_CREATE) {
        char name[40];
        snprintf(about, sizeof about, "create a %s", r->singular);
        snprintf(name, sizeof name, "%s_new", r->singular);
        json_t *op = operation(r, "create", about, r->create_role);
        add_body(op, reference("schemas", name), true);
        if (r->create_job) {
            add_parameter(op, idempotency_key());
            add_parameter(op, parameter("dry_run", "query", "true: only answer what it would be",
                                        json_pack("{s:s}", "type", "boolean")));
            add_answer(op, "200", answer("what it would be", reference("schemas", r->singular)));
        }
        add_job_or(op, r->create_job, "201", "it was made", reference("schemas", r->singular));
        json_object_set_new(path, "post", op);
    }
    return path;
}

static void add_id(json_t *op, const struct api_resource *r)
{
    char about[80];
    snprintf(about, sizeof about, "id or name of the %s", r->singular);
    add_parameter(op, parameter("id", "path", about, json_pack("{s:s}", "type", "string")));
}

static json_t *if_match(void)
{
    return parameter("If-Match", "header", "the ETag that was read; 412 when it is another by now",
                     json_pack("{s:s}", "type", "string"));
}

static json_t *object_path(const struct api_resource *r)
{
    json_t *path = json_object(), *op;
    char about[120], name[40];
    if (r->verbs & API_CAN_READ) {
        snprintf(about, sizeof about, "read a %s", r->singular);
        op = operation(r, "read", about, r->read_role);
        add_id(op, r);
        add_answer(
            op, "200",
            answer("the object; its ETag is in the header", reference("schemas", r->singular)));
        json_object_set_new(path, "get", op);
    }
    if (r->verbs & API_CAN_PATCH) {
        snprintf(about, sizeof about, "change a %s", r->singular);
        snprintf(name, sizeof name, "%s_patch", r->singular);
        op = operation(r, "patch", about, r->write_role);
        add_id(op, r);
        add_parameter(op, if_match());
        json_object_set_new(op, "requestBody",
                            json_pack("{s:b, s:{s:{s:o}, s:{s:o}}}", "required", 1, "content",
                                      "application/merge-patch+json", "schema",
                                      reference("schemas", name), "application/json", "schema",
                                      reference("schemas", name)));
        add_answer(op, "200", answer("the object as it is now", reference("schemas", r->singular)));
        json_object_set_new(path, "patch", op);
    }
    if (r->verbs & API_CAN_DELETE) {
        snprintf(about, sizeof about, "delete a %s", r->singular);
        op = operation(r, "delete", about, r->write_role);
        add_id(op, r);
        add_parameter(op, if_match());
        if (r->delete_job)
            add_parameter(op, idempotency_key());
        add_job_or(op, r->delete_job, "204", "it is gone", NULL);
        json_object_set_new(path, "delete", op);
    }
    return path;
}

static json_t *action_path(const struct api_resource *r, const struct api_action *a)
{
    json_t *op = operation(r, a->name, a->about, a->role);
    add_id(op, r);
    if (a->args) {
        bool required = false;
        for (const struct api_field *f = a->args; f->name; f++)
            required |= f->flags & API_REQUIRED;
        add_body(op, object_schema(a->args, true), required);
    }
    if (a->job)
        add_parameter(op, idempotency_key());
    add_job_or(op, a->job, a->answer ? "200" : "204", "done",
               a->answer ? object_schema(a->answer, false) : NULL);
    return json_pack("{s:o}", "post", op);
}

/* WebSockets have no place in such a document: the page for people has them. */
static json_t *other_path(const struct api_other *o)
{
    char description[80] = "For everybody.";
    if (!o->open)
        snprintf(description, sizeof description, "Needs the role %s.", api_role_names[o->role]);
    json_t *schema = json_pack("{s:s}", "type", strncmp(o->type, "text", 4) ? "object" : "string");
    json_t *good = json_pack("{s:s, s:{s:{s:o}}}", "description", o->about, "content", o->type,
                             "schema", schema);
    return json_pack("{s:{s:s, s:s, s:s, s:[s], s:{s:o, s:o, s:o}}}", "get", "operationId", o->name,
                     "summary", o->about, "description", description, "tags", o->tag, "responses",
                     "200", good, "4XX", reference("responses", "error"), "5XX",
                     reference("responses", "error"));
}

json_t *api_openapi(const char *version)
{
    json_t *paths = json_object(), *schemas = json_object(), *tags = json_array();
    char text[160];
    for (const struct api_resource *r = api_resources; r->name; r++) {
        json_array_append_new(tags,
                              json_pack("{s:s, s:s}", "name", r->name, "description", r->about));
        json_object_set_new(schemas, r->singular, object_schema(r->fields, false));
        if (r->verbs & API_CAN_CREATE) {
            snprintf(text, sizeof text, "%s_new", r->singular);
            json_object_set_new(schemas, text, object_schema(r->fields, true));
        }
        if (r->verbs & API_CAN_PATCH) {
            snprintf(text, sizeof text, "%s_patch", r->singular);
            json_object_set_new(schemas, text, patch_schema(r->fields));
        }
        snprintf(text, sizeof text, "/v1/%s", r->name);
        json_object_set_new(paths, text, list_path(r));
        snprintf(text, sizeof text, "/v1/%s/{id}", r->name);
        if (r->verbs & (API_CAN_READ | API_CAN_PATCH | API_CAN_DELETE))
            json_object_set_new(paths, text, object_path(r));
        for (const struct api_action *a = r->actions; a && a->name; a++) {
            snprintf(text, sizeof text, "/v1/%s/{id}/%s", r->name, a->name);
            json_object_set_new(paths, text, action_path(r, a));
        }
    }
    for (const struct api_other *o = api_others; o->path; o++)
        if (o->type)
            json_object_set_new(paths, o->path, other_path(o));
    json_array_append_new(
        tags, json_pack("{s:s, s:s}", "name", "daemon", "description", "the daemon itself"));
    json_object_set_new(
        schemas, "error",
        json_pack("{s:s, s:[s], s:{s:{s:s, s:[s, s], s:{s:{s:s}, s:{s:s}, s:{s:s}, s:{s:s}}}}}",
                  "type", "object", "required", "error", "properties", "error", "type", "object",
                  "required", "code", "message", "properties", "code", "type", "string", "message",
                  "type", "string", "field", "type", "string", "hint", "type", "string"));
    return json_pack(
        "{s:s, s:{s:s, s:s, s:s, s:{s:s, s:s}}, s:[{s:s}], s:o, s:o, s:{s:o, s:{s:o}}, s:[]}",
        "openapi", "3.1.0", "info", "title", "Bedplate", "version", version, "description",
        "Virtual machines on this host.", "license", "name", "GPL-2.0-or-later", "identifier",
        "GPL-2.0-or-later", "servers", "url", "/", "tags", tags, "paths", paths, "components",
        "schemas", schemas, "responses", "error",
        answer("what went wrong", reference("schemas", "error")), "security");
}

/* ---- the page for people ---- */

static void page_type(struct buf *out, const struct api_field *f, enum api_type type)
{
    static const char *const names[] = {
        [API_STRING] = "string",   [API_INTEGER] = "integer", [API_SIZE] = "size",
        [API_BOOLEAN] = "boolean", [API_TIME] = "time",       [API_OBJECT] = "object",
        [API_LIST] = "list of ",   [API_MAP] = "map",         [API_ANY] = "any",
    };
    if (type == API_STRING && f->format == API_ENUM) {
        for (const char *const *c = f->choices; *c; c++)
            buf_printf(out, "%s`%s`", c == f->choices ? "" : ", ", *c);
        return;
    }
    buf_printf(out, "%s", names[type]);
    if (type == API_LIST)
        page_type(out, f, f->element);
}

static void page_fields(struct buf *out, const struct api_field *fields, const char *prefix)
{
    for (const struct api_field *f = fields; f && f->name; f++) {
        char below[120];
        buf_printf(out, "| `%s%s` | ", prefix, f->name);
        page_type(out, f, f->type);
        buf_printf(out, " | %s%s%s%s%s | %s%s%s |\n", f->flags & API_REQUIRED ? "required " : "",
                   f->flags & API_SERVER ? "server " : "", f->flags & API_FIXED ? "fixed " : "",
                   f->flags & API_LIVE ? "live " : "", f->flags & API_SECRET ? "secret " : "",
                   f->about, f->initial ? "; default " : "", f->initial ? f->initial : "");
        if (!f->fields)
            continue;
        snprintf(below, sizeof below, "%s%s%s.", prefix, f->name, f->type == API_LIST ? "[]" : "");
        page_fields(out, f->fields, below);
    }
}

/* What it takes to list, make, read, change and delete. */
static void page_requests(struct buf *out, const struct api_resource *r)
{
    const struct {
        bool can;
        const char *method, *rest, *role, *about;
    } rows[] = {
        { r->verbs & API_CAN_LIST, "GET", "", api_role_names[r->read_role],
          "a page of them: `limit`, `after`, `fields`, and fields to filter by" },
        { r->verbs & API_CAN_CREATE, "POST", "", api_role_names[r->create_role],
          r->create_job ? "create one; answers with a job" : "create one" },
        { r->verbs & API_CAN_READ, "GET", "/{id}", api_role_names[r->read_role], "read one" },
        { r->verbs & API_CAN_PATCH, "PATCH", "/{id}", api_role_names[r->write_role],
          "change one (JSON merge patch; `If-Match`)" },
        { r->verbs & API_CAN_DELETE, "DELETE", "/{id}", api_role_names[r->write_role],
          r->delete_job ? "delete one; answers with a job" : "delete one" },
    };
    buf_printf(out, "| request | role | |\n|---|---|---|\n");
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].can)
            buf_printf(out, "| %s `/v1/%s%s` | %s | %s |\n", rows[i].method, r->name, rows[i].rest,
                       rows[i].role, rows[i].about);
    buf_printf(out, "\n");
}

void api_reference(struct buf *out)
{
    static const char head[] = "| field | type | | |\n|---|---|---|---|\n";
    buf_printf(out, "# API reference\n\nGenerated from the tables in `src/api/table.c`.\n");
    for (const struct api_resource *r = api_resources; r->name; r++) {
        buf_printf(out, "\n## %s\n\nPath `/v1/%s`: %s.\n\n", r->name, r->name, r->about);
        page_requests(out, r);
        buf_printf(out, "%s", head);
        page_fields(out, r->fields, "");
        for (const struct api_action *a = r->actions; a && a->name; a++) {
            buf_printf(out, "\n### POST `/v1/%s/{id}/%s`\n\n%s; role %s%s.\n", r->name, a->name,
                       a->about, api_role_names[a->role], a->job ? "; answers with a job" : "");
            if (a->args) {
                buf_printf(out, "\n%s", head);
                page_fields(out, a->args, "");
            }
            if (a->answer) {
                buf_printf(out, "\nIts answer:\n\n%s", head);
                page_fields(out, a->answer, "");
            }
        }
    }
    buf_printf(out, "\n## others\n\n| path | role | |\n|---|---|---|\n");
    for (const struct api_other *o = api_others; o->path; o++)
        buf_printf(out, "| GET `%s` | %s | %s%s |\n", o->path,
                   o->open ? "everybody" : api_role_names[o->role], o->about,
                   o->type ? "" : "; a WebSocket");
}
