/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From HTTP to objects and actions, driven by the tables of `api`: which paths there are, what a
 * body must look like, what an answer may show.
 */
#include "base/log.h"
#include "base/text.h"
#include "daemon/access.h"
#include "daemon/audit.h"
#include "daemon/cgroup.h"
#include "daemon/daemon.h"
#include "daemon/disks.h"
#include "daemon/images.h"
#include "daemon/streams.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <unistd.h>

enum { LIST_LIMIT = 1000, LIST_LIMIT_MAX = 10000, SEGMENTS = 4 };

/* ---- answers ---- */

void reply_error(struct http_request *request, const struct api_error *error)
{
    if (error->status == 401)
        http_reply_header(request, "WWW-Authenticate", "Bearer");
    http_reply_json(request, error->status, api_error_json(error));
}

static void fail(struct http_request *request, unsigned status, const char *code,
                 const char *message)
{
    struct api_error error = { 0 };
    api_fail(&error, status, code, "", "%s", message);
    reply_error(request, &error);
}

/* Listing ten thousand objects takes most of its time with making these. */
static const char *show(struct object *object)
{
    if (!object->shown) {
        struct buf text = { 0 };
        (void)api_show(api_resource_find(object->kind)->fields, object->json, NULL, &text, NULL);
        object->shown = realloc(text.data, text.len + 1);
        if (!object->shown)
            abort();
    }
    return object->shown;
}

static void add_etag(struct http_request *request, const struct object *object)
{
    char etag[32];
    snprintf(etag, sizeof etag, "\"%llu\"", (unsigned long long)object->revision);
    http_reply_header(request, "ETag", etag);
}

void reply_object(struct http_request *request, unsigned status, struct object *object)
{
    AUTO(buf_fini) struct buf body = { 0 };
    char location[100];
    snprintf(location, sizeof location, "/v1/%s/%s", object->kind, object->id);
    add_etag(request, object);
    if (status != 200)
        http_reply_header(request, "Location", location);
    buf_printf(&body, "%s\n", show(object));
    http_reply(request, status, "application/json", body.data, body.len);
}

/* ---- who asks ---- */

void request_user(const struct http_request *request, char *out, size_t len)
{
    snprintf(out, len, "%s", http_identity_of(request)->user);
}

/* ---- lists ---- */

struct listing {
    const struct api_resource *resource;
    const json_t *object; /* NULL: only checks the names of filters */
    bool fits;
    int result;
    struct api_error *error;
};

static bool each_filter(void *arg, const char *name, const char *value)
{
    struct listing *l = arg;
    static const char *const others[] = { "limit", "after", "fields" };
    for (unsigned i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(others[i], name) == 0)
            return true;
    int r = api_filter(l->resource->fields, l->object, name, value, l->error);
    if (r < 0)
        l->result = -1;
    l->fits &= r == 1;
    return r == 1;
}

static int list_limit(struct http_request *request, size_t *limit, struct api_error *error)
{
    const char *text = http_query(request, "limit");
    uint64_t n = LIST_LIMIT;
    if (text && number_parse(text, 1, LIST_LIMIT_MAX, &n, NULL) < 0)
        return api_fail(error, 400, "invalid", "limit", "must be from 1 to %d", LIST_LIMIT_MAX);
    *limit = n;
    return 0;
}

/* An item of a list, as a text; false: there is no such field. */
static bool list_add(struct buf *items, const struct api_resource *resource, struct object *object,
                     const char *only, struct api_error *error)
{
    if (items->len)
        buf_add(items, ",", 1);
    if (only)
        return api_show(resource->fields, object->json, only, items, error) == 0;
    const char *shown = show(object);
    buf_add(items, shown, strlen(shown));
    return true;
}

static void list_reply(struct http_request *request, const struct buf *items, const char *next)
{
    AUTO(buf_fini) struct buf body = { 0 };
    AUTO(json_decref) json_t *word = next ? json_string(next) : NULL;
    AUTO(free) char *text = word ? json_print(word) : NULL;
    buf_printf(&body, "{\"items\":[");
    buf_add(&body, items->len ? (const void *)items->data : "", items->len);
    if (text)
        buf_printf(&body, "],\"next\":%s}\n", text);
    else
        buf_printf(&body, "]}\n");
    http_reply(request, 200, "application/json", body.data, body.len);
}

/* What is wrong fails on empty lists, too. */
static int list_probe(struct http_request *request, const struct api_resource *resource,
                      struct api_error *error)
{
    AUTO(json_decref) json_t *nothing = json_object();
    AUTO(buf_fini) struct buf text = { 0 };
    struct listing probe = { resource, nothing, true, 0, error };
    http_query_each(request, each_filter, &probe);
    return probe.result < 0
               ? -1
               : api_show(resource->fields, nothing, http_query(request, "fields"), &text, error);
}

static void list_objects(struct daemon *daemon, struct http_request *request,
                         const struct api_resource *resource)
{
    struct api_error error = { 0 };
    size_t limit, count, listed = 0;
    const char *after = http_query(request, "after"), *only = http_query(request, "fields");
    AUTO(buf_fini) struct buf items = { 0 };
    if (list_probe(request, resource, &error) < 0 || list_limit(request, &limit, &error) < 0) {
        reply_error(request, &error);
        return;
    }
    struct object **list = objects_list(daemon->objects, resource->name, &count);
    const char *next = NULL;
    for (size_t i = 0; i < count && !next; i++) {
        if (after && object_key_compare(resource->name, object_key(list[i]), after) <= 0)
            continue;
        if (!access_sees(request, list[i]))
            continue;
        struct listing l = { resource, list[i]->json, true, 0, &error };
        http_query_each(request, each_filter, &l);
        if (!l.fits)
            continue;
        if (!list_add(&items, resource, list[i], only, &error)) {
            reply_error(request, &error);
            return;
        }
        if (++listed == limit && i + 1 < count)
            next = object_key(list[i]);
    }
    list_reply(request, &items, next);
}

/* Of what is no object of the store. */
static void list_items(struct http_request *request, const struct api_resource *resource,
                       json_t *take_items)
{
    struct api_error error = { 0 };
    AUTO(json_decref) json_t *items = take_items;
    AUTO(buf_fini) struct buf text = { 0 };
    const char *only = http_query(request, "fields");
    const json_t *item;
    size_t i;
    int r = list_probe(request, resource, &error);
    json_array_foreach(items, i, item)
    {
        struct listing l = { resource, item, true, 0, &error };
        if (r == 0)
            http_query_each(request, each_filter, &l);
        if (r < 0 || !l.fits)
            continue;
        if (text.len)
            buf_add(&text, ",", 1);
        r = api_show(resource->fields, item, only, &text, &error);
    }
    if (r < 0)
        reply_error(request, &error);
    else
        list_reply(request, &text, NULL);
}

/* Numbered ones: behind `after`, `limit` at most. */
static void list_numbered(struct http_request *request, const struct api_resource *resource)
{
    struct api_error error = { 0 };
    struct err err;
    const char *text = http_query(request, "after");
    uint64_t after = text ? strtoull(text, NULL, 10) : 0;
    size_t limit;
    if (list_limit(request, &limit, &error) < 0) {
        reply_error(request, &error);
        return;
    }
    json_t *items = strcmp(resource->name, "audit") == 0
                        ? audit_after(after, limit, &err)
                        : events_after(after, limit, http_query(request, "kind"),
                                       http_query(request, "object"));
    if (items)
        list_items(request, resource, items);
    else
        fail(request, 500, "audit", err.text);
}

/* ---- this host ---- */

static json_t *host_json(struct daemon *daemon)
{
    char name[256] = "";
    struct sysinfo info;
    struct statvfs disk;
    unsigned defined, running;
    gethostname(name, sizeof name - 1);
    sysinfo(&info);
    vms_count(daemon, &defined, &running);
    json_t *host = json_pack("{s:s, s:s, s:s, s:i, s:I, s:I, s:i, s:i}", "id", name, "name", name,
                             "version", BEDPLATE_VERSION, "cpus", get_nprocs(), "memory",
                             (json_int_t)info.totalram * info.mem_unit, "memory_free",
                             (json_int_t)info.freeram * info.mem_unit, "vms", (int)defined,
                             "running", (int)running);
    if (statvfs(daemon->state_dir, &disk) == 0)
        json_object_set_new(host, "disk_free",
                            json_integer((json_int_t)disk.f_bavail * (json_int_t)disk.f_frsize));
    json_object_set_new(host, "vm_ids", json_integer((json_int_t)daemon->ids.count));
    json_object_set_new(host, "limits_by", json_string(cgroups_about()));
    if (*cgroups_missing())
        json_object_set_new(host, "warning", json_string(cgroups_missing()));
    return host;
}

/* ---- bodies and preconditions ---- */

static int body_json(struct http_request *request, json_t **out, struct api_error *error)
{
    size_t len;
    struct err err;
    const char *body = http_body(request, &len);
    if (!len) {
        *out = json_object();
        return 0;
    }
    if (json_parse(body, len, out, &err) == 0)
        return 0;
    return api_fail(error, 400, "not-json", "", "the body is not JSON: %s", err.text);
}

/* If-Match: the revision that must still be the object's. */
static int precondition(struct http_request *request, const struct object *object, uint64_t *expect,
                        struct api_error *error)
{
    const char *match = http_header(request, "If-Match");
    *expect = object->revision;
    if (!match || strcmp(match, "*") == 0)
        return 0;
    char now[32];
    snprintf(now, sizeof now, "\"%llu\"", (unsigned long long)object->revision);
    if (strcmp(match, now) == 0)
        return 0;
    api_fail(error, 412, "changed", "", "it was changed meanwhile: its ETag is %s, not %.40s", now,
             match);
    api_hint(error, "read it again and repeat the change");
    return -1;
}

/* Repeating is safe where the answer is a job, which the key finds. Elsewhere it would promise what
 * is not kept. */
static int no_key(struct http_request *request, struct api_error *error)
{
    if (!http_header(request, "Idempotency-Key"))
        return 0;
    return api_fail(error, 400, "invalid", "Idempotency-Key",
                    "is for requests that answer with a job");
}

/* ---- dispatch ---- */

/* The kinds that clients make and delete. */
static const struct kind {
    const char *name;
    void (*create)(struct daemon *daemon, struct http_request *request, json_t *take_json);
    void (*delete)(struct daemon *daemon, struct http_request *request, struct object *object);
} kinds[] = {
    { "vms", vms_create, vms_delete },          { "images", images_create, images_delete },
    { "disks", disks_create, disks_delete },    { "users", users_create, users_delete },
    { "tokens", tokens_create, tokens_delete },
};

static const struct kind *kind_of(const struct api_resource *resource)
{
    const struct kind *kind = kinds;
    while (strcmp(kind->name, resource->name) != 0)
        kind++; /* the tables' verbs let no others come here */
    return kind;
}

static void create(struct daemon *daemon, struct http_request *request,
                   const struct api_resource *resource)
{
    struct api_error error = { 0 };
    AUTO(json_decref) json_t *body = NULL;
    json_t *object = NULL;
    if (body_json(request, &body, &error) < 0 ||
        api_check_new(resource->fields, body, &object, &error) < 0) {
        reply_error(request, &error);
        return;
    }
    kind_of(resource)->create(daemon, request, object);
}

static void patch(struct daemon *daemon, struct http_request *request,
                  const struct api_resource *resource, struct object *object)
{
    struct api_error error = { 0 };
    AUTO(json_decref) json_t *body = NULL;
    json_t *changed = NULL;
    uint64_t expect;
    bool live;
    if (no_key(request, &error) < 0 || precondition(request, object, &expect, &error) < 0 ||
        body_json(request, &body, &error) < 0 ||
        api_check_patch(resource->fields, object->json, body, &changed, &live, &error) < 0) {
        reply_error(request, &error);
        return;
    }
    if (strcmp(resource->name, "users") == 0)
        users_patch(daemon, request, object, changed, expect);
    else
        vms_patch(daemon, request, object, changed, live, expect);
}

static void act(struct daemon *daemon, struct http_request *request,
                const struct api_resource *resource, struct object *object, const char *name)
{
    struct api_error error = { 0 };
    AUTO(json_decref) json_t *body = NULL;
    AUTO(json_decref) json_t *args = NULL;
    const struct api_action *action = api_action_find(resource, name);
    if (!action) {
        api_fail(&error, 404, "not-found", "", "%s have no action '%.64s'", resource->name, name);
        reply_error(request, &error);
    } else if (access_check(request, resource, action->role, object, &error) < 0) {
        reply_error(request, &error);
    } else if (!action->job && no_key(request, &error) < 0) {
        reply_error(request, &error);
    } else if (body_json(request, &body, &error) < 0 ||
               api_check_new(action->args, body, &args, &error) < 0) {
        reply_error(request, &error);
    } else if (strcmp(resource->name, "jobs") == 0) {
        jobs_action(daemon, request, object, action->name);
    } else if (strcmp(resource->name, "disks") == 0) {
        disks_action(daemon, request, object, action, args);
    } else {
        vms_action(daemon, request, object, action->name, args);
    }
}

/* This host has no object in the store; its id is its name. */
static void host_act(struct daemon *daemon, struct http_request *request,
                     const struct api_resource *resource, const char *which, const char *name)
{
    AUTO(json_decref) json_t *host = host_json(daemon);
    AUTO(json_decref) json_t *body = NULL;
    AUTO(json_decref) json_t *args = NULL;
    const struct api_action *action = api_action_find(resource, name);
    struct api_error error = { 0 };
    struct err err;
    int r = 0;
    if (strcmp(json_string_value(json_object_get(host, "id")), which) != 0)
        r = api_fail(&error, 404, "not-found", "", "there is no host '%.80s'", which);
    else if (!action)
        r = api_fail(&error, 404, "not-found", "", "hosts have no action '%.64s'", name);
    else if (access_check(request, resource, action->role, NULL, &error) < 0 ||
             no_key(request, &error) < 0 || body_json(request, &body, &error) < 0 ||
             api_check_new(action->args, body, &args, &error) < 0)
        r = -1;
    else if (store_backup(daemon->store, json_string_value(json_object_get(args, "path")), &err) <
             0)
        r = api_fail(&error, 409, "backup", "path", "%s", err.text);
    if (r < 0)
        reply_error(request, &error);
    else
        http_reply(request, 204, "", NULL, 0);
}

/* What somebody may not see is not there. */
static struct object *find(struct daemon *daemon, struct http_request *request,
                           const struct api_resource *resource, const char *which,
                           struct api_error *error)
{
    struct object *object = objects_find(daemon->objects, resource->name, which, error);
    if (!object || access_sees(request, object))
        return object;
    objects_missing(resource->name, which, error);
    return NULL;
}

static void on_object(struct daemon *daemon, struct http_request *request,
                      const struct api_resource *resource, const char *which)
{
    struct api_error error = { 0 };
    const char *method = http_method(request);
    struct object *object = find(daemon, request, resource, which, &error);
    bool get = strcmp(method, "GET") == 0;
    uint64_t expect;
    if (!object || access_check(request, resource, get ? resource->read_role : resource->write_role,
                                object, &error) < 0) {
        reply_error(request, &error);
    } else if (get) {
        reply_object(request, 200, object);
    } else if (strcmp(method, "PATCH") == 0 && resource->verbs & API_CAN_PATCH) {
        patch(daemon, request, resource, object);
    } else if (strcmp(method, "DELETE") == 0 && resource->verbs & API_CAN_DELETE) {
        if (precondition(request, object, &expect, &error) < 0)
            reply_error(request, &error);
        else
            kind_of(resource)->delete (daemon, request, object);
    } else {
        fail(request, 405, "method", "this object does not take this method");
    }
}

/* GET /v1/vms/ID/console and .../vnc. */
static void on_stream(struct daemon *daemon, struct http_request *request,
                      const struct api_resource *resource, char *const *rest)
{
    struct api_error error = { 0 };
    char path[100];
    struct object *vm = find(daemon, request, resource, rest[0], &error);
    snprintf(path, sizeof path, "/v1/%s/{id}/%.40s", resource->name, rest[1]);
    const struct api_other *stream = api_other_find(path);
    if (!stream)
        fail(request, 404, "not-found", "VMs have the streams console and vnc");
    else if (!vm || access_check(request, resource, stream->role, vm, &error) < 0)
        reply_error(request, &error);
    else
        stream_socket(daemon, request, object_text(vm, rest[1]));
}

static void on_resource(struct daemon *daemon, struct http_request *request,
                        const struct api_resource *resource, char *const *rest)
{
    struct api_error error = { 0 };
    const char *method = http_method(request);
    bool get = strcmp(method, "GET") == 0, post = strcmp(method, "POST") == 0;

    bool login = post && !rest[0] && strcmp(resource->name, "tokens") == 0;
    /* Objects' and actions' roles are looked at when the object is known: it may be who asks's own.
     */
    enum api_role needed = get ? resource->read_role : resource->create_role;
    if (!rest[0] && !login && access_check(request, resource, needed, NULL, &error) < 0) {
        reply_error(request, &error);
        return;
    }
    if (!get && job_repeated(daemon, request))
        return;
    if (strcmp(resource->name, "hosts") == 0 && post && rest[0] && rest[1]) {
        host_act(daemon, request, resource, rest[0], rest[1]);
    } else if (!(resource->verbs & API_CAN_READ)) {
        if (!get || rest[0])
            fail(request, rest[0] ? 404 : 405, "method", "these are only listed");
        else if (strcmp(resource->name, "events") == 0 && stream_wanted(request))
            stream_events(daemon, request);
        else if (strcmp(resource->name, "events") == 0 || strcmp(resource->name, "audit") == 0)
            list_numbered(request, resource);
        else if (strcmp(resource->name, "roles") == 0)
            list_items(request, resource, api_roles());
        else
            list_items(request, resource, json_pack("[o]", host_json(daemon)));
    } else if (!rest[0] && get) {
        list_objects(daemon, request, resource);
    } else if (!rest[0] && post && resource->verbs & API_CAN_CREATE) {
        create(daemon, request, resource);
    } else if (!rest[0]) {
        fail(request, 405, "method", "this list does not take this method");
    } else if (!rest[1]) {
        on_object(daemon, request, resource, rest[0]);
    } else if (get && stream_wanted(request)) {
        on_stream(daemon, request, resource, rest);
    } else if (!post) {
        fail(request, 405, "method",
             "actions are asked for by POST, console and vnc as WebSockets");
    } else {
        struct object *object = find(daemon, request, resource, rest[0], &error);
        if (object)
            act(daemon, request, resource, object, rest[1]);
        else
            reply_error(request, &error);
    }
}

static void on_path(struct daemon *daemon, struct http_request *request, char *path)
{
    char *parts[SEGMENTS + 1] = { NULL }, *part;
    unsigned count = 0;
    while ((part = strsep(&path, "/")))
        if (*part && count < SEGMENTS)
            parts[count++] = part;
        else if (*part)
            count = SEGMENTS + 1;
    const char *first = count ? parts[0] : "", *second = count > 1 ? parts[1] : "";
    const struct api_resource *resource =
        strcmp(first, "v1") == 0 && count <= SEGMENTS ? api_resource_find(second) : NULL;
    if (resource)
        on_resource(daemon, request, resource, parts + 2);
    else if (strcmp(first, "metrics") == 0 && count == 1 && *http_identity(request)->vm)
        fail(request, 403, "forbidden", "this token is for one VM only");
    else if (strcmp(first, "metrics") == 0 && count == 1)
        metrics_reply(daemon, request);
    else if (strcmp(first, "v1") == 0 && strcmp(second, "version") == 0 && count == 2)
        http_reply_json(request, 200,
                        json_pack("{s:s, s:i}", "version", BEDPLATE_VERSION, "api", 1));
    else if (strcmp(first, "v1") == 0 && strcmp(second, "health") == 0 && count == 2)
        http_reply_json(request, 200, json_pack("{s:s}", "health", "good"));
    else if (strcmp(first, "v1") == 0 && strcmp(second, "openapi.json") == 0 && count == 2)
        http_reply_json(request, 200, api_openapi(BEDPLATE_VERSION));
    else
        fail(request, 404, "not-found",
             "there is nothing at this path; /v1/openapi.json lists what there is");
}

/* Logging in, and what tells nothing that matters. */
static bool open_to_all(const struct http_request *request)
{
    const char *path = http_path(request);
    const struct api_other *other = api_other_find(path);
    return (strcmp(path, "/v1/tokens") == 0 && strcmp(http_method(request), "POST") == 0) ||
           (other && other->open);
}

void router_request(void *arg, struct http_request *request)
{
    struct daemon *daemon = arg;
    struct api_error error = { 0 };
    AUTO(free) char *path = strdup(http_path(request));
    daemon->requests++;
    if (!path) {
        fail(request, 503, "memory", "out of memory");
    } else if (access_identify(daemon, request, &error) < 0 && !open_to_all(request)) {
        daemon->refused++;
        reply_error(request, &error);
    } else {
        on_path(daemon, request, path);
    }
}
