/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Objects in memory over the store. */
#include "daemon/objects.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 4096, KINDS_MAX = 16 };

struct node {
    struct object object;
    struct node *by_id; /* in its bucket */
    char id[];
};

struct kind {
    const char *name;
    struct object **list; /* sorted by object_key */
    size_t count, room;
    struct node *buckets[BUCKETS];
};

struct objects {
    struct store *store;
    struct kind kinds[KINDS_MAX];
    unsigned kind_count;
    void (*changed)(void *arg, struct object *object, const json_t *was, const json_t *now);
    void *arg;
};

static struct kind *kind_of(struct objects *objects, const char *name)
{
    for (unsigned i = 0; i < objects->kind_count; i++)
        if (strcmp(objects->kinds[i].name, name) == 0)
            return &objects->kinds[i];
    abort(); /* our own mistake */
}

static unsigned bucket(const char *id)
{
    unsigned hash = 5381;
    for (; *id; id++)
        hash = hash * 33 + (unsigned char)*id;
    return hash % BUCKETS;
}

/* Names are unique and kept under keys of their own; jobs have numbers. */
static bool named(const char *kind) { return strcmp(kind, "jobs") != 0; }

const char *object_key(const struct object *object)
{
    return named(object->kind) ? object_text(object, "name") : object->id;
}

/* Numbers in the order of their value: shorter ones come first. */
int object_key_compare(const char *kind, const char *a, const char *b)
{
    size_t m = strlen(a), n = strlen(b);
    return named(kind) || m == n ? strcmp(a, b) : m < n ? -1 : 1;
}

/* The first place that is not before `object`. */
static size_t place_of(const struct kind *kind, const struct object *object)
{
    size_t low = 0, high = kind->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (object_key_compare(kind->name, object_key(kind->list[middle]), object_key(object)) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void list_insert(struct kind *kind, struct object *object)
{
    if (kind->count == kind->room) {
        kind->room = kind->room ? kind->room * 2 : 16;
        kind->list = realloc(kind->list, kind->room * sizeof(struct object *));
        if (!kind->list)
            abort();
    }
    size_t at = place_of(kind, object);
    memmove(kind->list + at + 1, kind->list + at, (kind->count - at) * sizeof *kind->list);
    kind->list[at] = object;
    kind->count++;
}

static void list_remove(struct kind *kind, const struct object *object)
{
    size_t at = place_of(kind, object);
    memmove(kind->list + at, kind->list + at + 1, (kind->count - at - 1) * sizeof *kind->list);
    kind->count--;
}

static struct node *node_find(struct kind *kind, const char *id)
{
    struct node *n = kind->buckets[bucket(id)];
    while (n && strcmp(n->id, id) != 0)
        n = n->by_id;
    return n;
}

static void node_free(struct node *n)
{
    json_decref(n->object.json);
    free(n->object.shown);
    free(n);
}

/* ---- the store's news ---- */

static struct object *object_set(struct objects *objects, struct kind *kind, const char *id,
                                 json_t *take_json, uint64_t revision)
{
    struct node *n = node_find(kind, id);
    json_object_set_new(take_json, "revision", json_integer((json_int_t)revision));
    json_t *was = n ? n->object.json : NULL;
    if (n) {
        list_remove(kind, &n->object);
    } else {
        n = calloc(1, sizeof *n + strlen(id) + 1);
        if (!n)
            abort();
        strcpy(n->id, id);
        n->object.kind = kind->name;
        n->object.id = n->id;
        n->by_id = kind->buckets[bucket(id)];
        kind->buckets[bucket(id)] = n;
    }
    free(TAKE(n->object.shown));
    n->object.json = take_json;
    n->object.revision = revision;
    list_insert(kind, &n->object);
    if (objects->changed)
        objects->changed(objects->arg, &n->object, was, take_json);
    json_decref(was);
    return &n->object;
}

static void object_gone(struct objects *objects, struct kind *kind, const char *id)
{
    struct node **p = &kind->buckets[bucket(id)];
    while (*p && strcmp((*p)->id, id) != 0)
        p = &(*p)->by_id;
    struct node *n = *p;
    if (!n)
        return;
    if (objects->changed)
        objects->changed(objects->arg, &n->object, n->object.json, NULL);
    list_remove(kind, &n->object);
    *p = n->by_id;
    node_free(n);
}

struct loading {
    struct objects *objects;
    struct kind *kind;
    struct err *err;
    int result;
};

static void entry_loaded(void *arg, const struct store_entry *entry)
{
    struct loading *loading = arg;
    json_t *json = NULL;
    const char *id = strrchr(entry->key, '/') + 1;
    if (loading->result < 0)
        return;
    loading->result = json_parse(entry->value, entry->len, &json, loading->err);
    if (loading->result < 0)
        err_prefix(loading->err, "the store's %s", entry->key);
    else
        object_set(loading->objects, loading->kind, id, json, entry->revision);
}

/* ---- look-up ---- */

struct object *objects_get(struct objects *objects, const char *kind, const char *id)
{
    struct node *n = node_find(kind_of(objects, kind), id);
    return n ? &n->object : NULL;
}

int objects_name_free(struct objects *objects, const char *kind, const char *name, const char *id,
                      struct api_error *error)
{
    struct object *other = objects_find(objects, kind, name, NULL);
    if (!other || strcmp(object_text(other, "name"), name) != 0 ||
        (id && strcmp(other->id, id) == 0))
        return 0;
    api_fail(error, 409, "exists", "name", "the name '%s' is taken", name);
    api_hint(error, "choose another name, or delete it first");
    return -1;
}

struct object **objects_list(struct objects *objects, const char *kind, size_t *count)
{
    struct kind *k = kind_of(objects, kind);
    *count = k->count;
    return k->list;
}

void objects_missing(const char *kind, const char *which, struct api_error *error)
{
    const struct api_resource *resource = api_resource_find(kind);
    const char *one = resource ? resource->singular : kind;
    api_fail(error, 404, "not-found", "", "there is no %s '%.64s'", one, which);
    api_hint(error, "bedplate %s shows those that there are", strcmp(kind, "vms") ? one : "list");
}

struct object *objects_find(struct objects *objects, const char *kind, const char *which,
                            struct api_error *error)
{
    struct kind *k = kind_of(objects, kind);
    struct node *n = node_find(k, which);
    struct object *fits = NULL;
    unsigned count = 0;
    size_t len = strlen(which);
    if (n)
        return &n->object;
    for (size_t i = 0; i < k->count; i++) {
        struct object *o = k->list[i];
        const char *name = object_key(o);
        if (strcmp(name, which) == 0)
            return o;
        if (!named(kind))
            continue;
        if (len &&
            (strncmp(name, which, len) == 0 || (len >= 4 && strncmp(o->id, which, len) == 0))) {
            fits = o;
            count++;
        }
    }
    if (count == 1)
        return fits;
    if (error && count > 1) {
        api_fail(error, 404, "ambiguous", "", "%u %s begin with '%.64s'", count, kind, which);
        api_hint(error, "give more of the name");
    } else if (error) {
        objects_missing(kind, which, error);
    }
    return NULL;
}

json_t *object_edit(const struct object *object)
{
    json_t *copy = json_deep_copy(object->json);
    json_object_del(copy, "revision");
    return copy;
}

json_t *object_patched(const struct object *object, const json_t *patch)
{
    json_t *json = object_edit(object), *value;
    const char *key;
    json_object_foreach((json_t *)patch, key, value)
    {
        if (json_is_null(value))
            json_object_del(json, key);
        else
            json_object_set(json, key, value);
    }
    return json;
}

void object_new_id(char out[UUID_TEXT])
{
    uint8_t uuid[16];
    if (uuid_make(uuid, NULL) < 0)
        abort();
    uuid_print(uuid, out);
}

/* ---- changes ---- */

struct pending {
    struct objects *objects;
    unsigned count;
    struct {
        struct kind *kind;
        char id[40];
        json_t *json;
    } changes[OBJECTS_CHANGES_MAX];
    objects_done done;
    void *arg;
};

static void store_answered(void *arg, int result, uint64_t revision, const struct err *err)
{
    struct pending *p = arg;
    struct api_error error = { 0 };
    struct object *first = NULL;

    for (unsigned i = 0; i < p->count; i++) {
        json_t *json = p->changes[i].json;
        if (result < 0) {
            json_decref(json);
            continue;
        }
        struct object *object = NULL;
        if (json)
            object = object_set(p->objects, p->changes[i].kind, p->changes[i].id, json, revision);
        else
            object_gone(p->objects, p->changes[i].kind, p->changes[i].id);
        first = i ? first : object;
    }
    if (result == -EAGAIN) {
        api_fail(&error, 412, "changed", "", "it was changed by somebody else meanwhile");
        api_hint(&error, "read it again and repeat the change");
    } else if (result < 0) {
        api_fail(&error, result == -ENOSPC ? 507 : 500, "store", "",
                 "the change could not be kept: %s", err->text);
    }
    p->done(p->arg, first, result < 0 ? &error : NULL);
    free(p);
}

enum { OPS_MAX = OBJECTS_CHANGES_MAX * 3 };

struct ops {
    struct store_op list[OPS_MAX];
    unsigned count;
    char *texts[OPS_MAX * 2];
    unsigned text_count;
};

static char *ops_text(struct ops *ops, char *text)
{
    if (!text)
        abort();
    ops->texts[ops->text_count++] = text;
    return text;
}

static void ops_add(struct ops *ops, const char *kind, const char *id, bool name, char *take_value,
                    uint64_t expect)
{
    char *key;
    if (asprintf(&key, "%s/%s/%s", name ? "/names" : "", kind, id) < 0)
        abort();
    struct store_op *op = &ops->list[ops->count++];
    *op = (struct store_op){ .key = ops_text(ops, key), .expect = expect };
    if (take_value) {
        op->value = ops_text(ops, take_value);
        op->len = strlen(take_value);
    }
}

/* The name's key is made, moved or removed along; a name that is taken fails the transaction. */
static void ops_name(struct ops *ops, const struct objects_change *c, const json_t *was)
{
    const char *old = json_string_value(json_object_get(was, "name"));
    const char *new = json_string_value(json_object_get(c->take_json, "name"));
    if (old && (!new || strcmp(old, new) != 0))
        ops_add(ops, c->kind, old, true, NULL, STORE_ANY);
    if (new && (!old || strcmp(old, new) != 0))
        ops_add(ops, c->kind, new, true, strdup(c->id), 0);
}

void objects_change(struct objects *objects, const struct objects_change *changes, unsigned count,
                    objects_done done, void *arg)
{
    struct ops ops = { .count = 0 };
    struct pending *p = calloc(1, sizeof *p);
    if (!p || !count || count > OBJECTS_CHANGES_MAX)
        abort();
    *p = (struct pending){ .objects = objects, .count = count, .done = done, .arg = arg };
    for (unsigned i = 0; i < count; i++) {
        const struct objects_change *c = &changes[i];
        struct object *was = objects_get(objects, c->kind, c->id);
        p->changes[i].kind = kind_of(objects, c->kind);
        snprintf(p->changes[i].id, sizeof p->changes[i].id, "%s", c->id);
        p->changes[i].json = c->take_json;
        ops_add(&ops, c->kind, c->id, false, c->take_json ? json_print(c->take_json) : NULL,
                c->expect);
        if (named(c->kind))
            ops_name(&ops, c, was ? was->json : NULL);
    }
    store_txn(objects->store, ops.list, ops.count, store_answered, p);
    for (unsigned i = 0; i < ops.text_count; i++)
        free(ops.texts[i]);
}

/* ---- life ---- */

int objects_create(struct store *store, const char *const *kinds,
                   void (*changed)(void *arg, struct object *object, const json_t *was,
                                   const json_t *now),
                   void *arg, struct objects **out, struct err *err)
{
    AUTO(objects_destroy) struct objects *objects = calloc(1, sizeof *objects);
    if (!objects)
        return err_set(err, ENOMEM, "out of memory");
    objects->store = store;
    for (; *kinds; kinds++) {
        char prefix[64];
        uint64_t revision;
        struct kind *kind = &objects->kinds[objects->kind_count++];
        struct loading loading = { objects, kind, err, 0 };
        kind->name = *kinds;
        snprintf(prefix, sizeof prefix, "/%s/", *kinds);
        int r = store_load(store, prefix, entry_loaded, &loading, &revision, err);
        if (r == 0)
            r = loading.result;
        if (r < 0)
            return r;
    }
    objects->changed = changed;
    objects->arg = arg;
    *out = TAKE(objects);
    return 0;
}

void objects_destroy(struct objects *objects)
{
    if (!objects)
        return;
    for (unsigned k = 0; k < objects->kind_count; k++) {
        struct kind *kind = &objects->kinds[k];
        for (unsigned b = 0; b < BUCKETS; b++)
            for (struct node *n = kind->buckets[b], *next; n; n = next) {
                next = n->by_id;
                node_free(n);
            }
        free(kind->list);
    }
    free(objects);
}
