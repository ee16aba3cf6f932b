/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The API described once: every object with its fields, every action with its arguments. Out of
 * these tables come validation, the OpenAPI document, the reference page, the CLI's options and its
 * man pages.
 *
 *   GET    /v1/vms              list; ?limit= ?after= ?fields=a,b ?FIELD=value
 *   POST   /v1/vms              create
 *   GET    /v1/vms/{id or name} read; its ETag goes into If-Match of the next two
 *   PATCH  /v1/vms/{...}        change (JSON merge patch, RFC 7396)
 *   DELETE /v1/vms/{...}
 *   POST   /v1/vms/{...}/start  an action; those that take long answer 202 with a job
 *
 * The tables are constant; the functions may be called from any thread.
 */
#ifndef API_API_H
#define API_API_H

#include "base/err.h"
#include "base/json.h"
#include "base/text.h"

#include <stdbool.h>
#include <stdint.h>

enum api_type {
    API_STRING,
    API_INTEGER,
    API_SIZE, /* bytes: a number, or "512M" in requests; always a number in answers */
    API_BOOLEAN,
    API_TIME,   /* seconds since 1970 with fractions, by the server */
    API_OBJECT, /* with `fields` */
    API_LIST,   /* of `element`, with `fields` when that is API_OBJECT */
    API_MAP,    /* of strings by names */
    API_ANY,    /* any JSON: results of jobs, details of events */
};

enum api_flag {
    API_REQUIRED = 1, /* when the object is created, the action called */
    API_SERVER = 2,   /* set by the server only */
    API_FIXED = 4,    /* cannot be changed after creation */
    API_LIVE = 8,     /* a change reaches a running VM at once; others wait for its next start */
    API_SECRET = 16,  /* taken (with API_SERVER: kept), never shown */
    API_FILTER = 32,  /* lists can be filtered by it */
    API_PLURAL = 64,  /* a list whose option keeps its s: another field has the singular */
};

/* What a string must look like. */
enum api_format {
    API_TEXT, /* UTF-8 without control characters (newlines are fine) */
    API_NAME, /* letters, digits, . _ -; begins with a letter or digit; at most 63 */
    API_UUID,
    API_PATH,  /* absolute, of a file on the server's host */
    API_IMAGE, /* the same, or the address of a disk elsewhere: nbd://, nbds://, nbd+unix:// */
    API_MAC,
    API_ENUM, /* one of `choices` */
};

struct api_field {
    const char *name;
    enum api_type type;
    unsigned flags;
    const char *about; /* one clause, no full stop */
    /* API_STRING, and the elements of a list of strings */
    enum api_format format;
    const char *const *choices; /* NULL-terminated */
    /* The number's range, the string's length, the list's entries; 0 and 0: the type's own. */
    int64_t min, max;
    enum api_type element;
    const struct api_field *fields; /* ends with a NULL name */
    const char *initial;            /* JSON text of the default; NULL: absent */
};

enum api_role {
    API_VIEWER,
    API_OPERATOR,
    API_ADMIN
}; /* who may, at least; owners count as
     operators on their VMs */

struct api_action {
    const char *name, *about;
    const struct api_field *args, *answer; /* NULL: none */
    enum api_role role;
    bool job; /* answers 202 with a job */
};

enum api_verb {
    API_CAN_LIST = 1,
    API_CAN_READ = 2,
    API_CAN_CREATE = 4,
    API_CAN_PATCH = 8,
    API_CAN_DELETE = 16
};

struct api_resource {
    const char *name, *singular; /* "vms", "vm" */
    const char *about;
    const struct api_field *fields;
    const struct api_action *actions; /* ends with a NULL name; NULL: none */
    unsigned verbs;
    enum api_role read_role, write_role, create_role;
    bool create_job, delete_job; /* creating or deleting takes long: 202 with a job */
};

extern const struct api_resource api_resources[]; /* ends with a NULL name */

/* What is not of a resource's kind, all by GET: WebSockets, and documents. */
struct api_other {
    const char *path; /* "/v1/vms/{id}/console" */
    const char *name, *tag, *about;
    const char *type; /* of the answer; NULL: a WebSocket, which is answered with 101 */
    bool open;        /* also to those whom nobody knows */
    enum api_role role;
};
extern const struct api_other api_others[]; /* ends with a NULL path */
const struct api_other *api_other_find(const char *path);

const struct api_resource *api_resource_find(const char *name);
const struct api_action *api_action_find(const struct api_resource *resource, const char *name);
const struct api_field *api_field_find(const struct api_field *fields, const char *name);

/* ---- errors, as clients see them ---- */

struct api_error {
    unsigned status; /* HTTP */
    char code[40];   /* "invalid", "not-found", "conflict", ... for programs */
    char field[160]; /* "disks[2].size"; "" where no field is at fault */
    char message[480];
    char hint[240]; /* what to do; may be "" */
};

/* Returns -1. */
int api_fail(struct api_error *error, unsigned status, const char *code, const char *field,
             const char *format, ...) __attribute__((format(printf, 5, 6)));
void api_hint(struct api_error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
json_t *api_error_json(const struct api_error *error);

/* ---- validation ---- */

/* A whole new object (or an action's arguments): required fields are there, none is unknown or the
 * server's, all have their types and ranges. *out (owned by the caller) is `in` with sizes as
 * numbers and defaults filled in. */
int api_check_new(const struct api_field *fields, const json_t *in, json_t **out,
                  struct api_error *error);
/* `patch` applied to `old` (RFC 7396). *out is the whole new object. *live: all changed fields are
 * API_LIVE. */
int api_check_patch(const struct api_field *fields, const json_t *old, const json_t *patch,
                    json_t **out, bool *live, struct api_error *error);
enum { API_FIELDS_MAX = 96 }; /* of one table */
/* What a client may see, behind what is in `out`: JSON without secrets, reduced to `only`
 * (comma-separated top-level names; NULL: all). Fails when there is no such field. */
int api_show(const struct api_field *fields, const json_t *object, const char *only,
             struct buf *out, struct api_error *error);
/* Does the object pass the filter FIELD=value of a list? Unknown or unfilterable: fails. 1 yes, 0
 * no. */
int api_filter(const struct api_field *fields, const json_t *object, const char *field,
               const char *value, struct api_error *error);

/* ---- documents ---- */

json_t *api_openapi(const char *version); /* OpenAPI 3.1 */
/* Each role with what it may ask for: {"name": "viewer", "requests": ["GET /v1/vms", ...]}. */
json_t *api_roles(void);
extern const char *const api_role_names[]; /* by enum api_role; ends with NULL */
void api_reference(struct buf *out);       /* a page in Markdown */

#endif
