/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon's objects in memory, as the store has them: reads need no disk, writes go to the store
 * first and show here when they are kept.
 *
 * An object is a JSON object with "id", and but for jobs a "name" that is unique among its kind.
 * Keys: /KIND/ID, and /names/KIND/NAME with the id as value. Loop only.
 */
#ifndef DAEMON_OBJECTS_H
#define DAEMON_OBJECTS_H

#include "api/api.h"
#include "base/ids.h"
#include "daemon/store.h"

struct objects;

struct object {
    const char *kind, *id;
    json_t *json; /* with "revision"; replaced at each change, never edited */
    uint64_t revision;
    char *shown;   /* its text for clients, once somebody has asked; goes with `json` */
    void *runtime; /* of who looks after this kind; not kept */
};

/* `kinds` ends with NULL and is borrowed. changed: something was made, changed (`now`) or deleted
 * (now NULL); on the loop, before the writer's call-back. */
int objects_create(struct store *store, const char *const *kinds,
                   void (*changed)(void *arg, struct object *object, const json_t *was,
                                   const json_t *now),
                   void *arg, struct objects **out, struct err *err);
void objects_destroy(struct objects *objects);
DEFINE_AUTO(struct objects *, objects_destroy)

/* By id, by name, or by the beginning of one that fits only one object. NULL: none; *error (may be
 * NULL) says why. */
struct object *objects_find(struct objects *objects, const char *kind, const char *which,
                            struct api_error *error);
/* The error that there is none, and what lists those that there are. */
void objects_missing(const char *kind, const char *which, struct api_error *error);
struct object *objects_get(struct objects *objects, const char *kind, const char *id);
/* What lists are sorted by and paged by: names, or ids of kinds that have numbers (jobs, whose
 * "name" is their object's). */
const char *object_key(const struct object *object);
int object_key_compare(const char *kind, const char *a, const char *b);
/* All of a kind, sorted. The array is the callee's and valid until the next change. */
struct object **objects_list(struct objects *objects, const char *kind, size_t *count);

static inline const char *object_text(const struct object *object, const char *field)
{
    const char *text = json_string_value(json_object_get(object->json, field));
    return text ? text : "";
}

/* error NULL: it is kept, and `object` is it (NULL after a deletion). */
typedef void (*objects_done)(void *arg, struct object *object, const struct api_error *error);

/* Several changes that are kept together or not at all. */
struct objects_change {
    const char *kind, *id;
    json_t *take_json; /* the whole new object; NULL: it goes */
    uint64_t expect;   /* revision; 0: it is new; STORE_ANY */
};
enum { OBJECTS_CHANGES_MAX = 8 };
void objects_change(struct objects *objects, const struct objects_change *changes, unsigned count,
                    objects_done done, void *arg);

/* Has no other of this kind than `id` (NULL: a new one) this name? */
int objects_name_free(struct objects *objects, const char *kind, const char *name, const char *id,
                      struct api_error *error);

/* A copy of the object's JSON to change, without its revision. */
json_t *object_edit(const struct object *object);
/* The same with these members; null ones go. */
json_t *object_patched(const struct object *object, const json_t *patch);

void object_new_id(char out[UUID_TEXT]); /* a random UUID */

#endif
