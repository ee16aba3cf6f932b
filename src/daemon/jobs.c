/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Jobs: long work that clients asked for. A job is kept in the same transaction as what it makes
 * its object want, with the idempotency key of its request: a client that repeats a request whose
 * answer it missed gets the job that it began, also from another daemon. Ended jobs go after
 * JOBS_KEPT_S, and the oldest when there are more than JOBS_KEPT.
 */
#include "base/log.h"
#include "daemon/disks.h"
#include "daemon/images.h"
#include "daemon/vms.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { JOBS_KEPT = 1000, JOBS_KEPT_S = 7 * 24 * 3600, LOOK_MS = 60000 };

static uint64_t last_job;
static struct loop_timer *prune_timer;
static bool pruning;

/* ---- new ones ---- */

/* What a repeated request must be the same in (FNV-1a). */
static void fingerprint(const struct http_request *request, char out[20])
{
    size_t len;
    const char *body = http_body(request, &len),
               *texts[] = { http_method(request), http_path(request) };
    uint64_t hash = 0xcbf29ce484222325;
    for (unsigned i = 0; i < 2; i++)
        for (const char *c = texts[i]; *c; c++)
            hash = (hash ^ (uint8_t)*c) * 0x100000001b3;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (uint8_t)body[i]) * 0x100000001b3;
    snprintf(out, 20, "%016llx", (unsigned long long)hash);
}

void job_seen(const char *id)
{
    uint64_t number = strtoull(id, NULL, 10);
    last_job = number > last_job ? number : last_job;
}

json_t *job_new(struct http_request *request, const char *kind, const char *object_kind,
                const char *object_id, const char *name, char id[24])
{
    char object[64], user[64];
    snprintf(id, 24, "%llu", (unsigned long long)++last_job);
    snprintf(object, sizeof object, "%s/%s", object_kind, object_id);
    request_user(request, user, sizeof user);
    json_t *job =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:f}", "id", id, "kind", kind, "object", object,
                  "name", name, "user", user, "state", "running", "created", time_now());
    const char *key = http_header(request, "Idempotency-Key");
    if (key) {
        char print[20];
        fingerprint(request, print);
        json_object_set_new(job, "key", json_string(key));
        json_object_set_new(job, "request", json_string(print));
    }
    return job;
}

json_t *job_error(const char *code, const char *message, const char *hint)
{
    json_t *error = json_pack("{s:s, s:s}", "code", code, "message", message);
    if (hint)
        json_object_set_new(error, "hint", json_string(hint));
    return json_pack("{s:o}", "error", error);
}

static void told(void *arg, struct object *object, const struct api_error *error)
{
    if (error)
        log_error("what became of a job could not be kept: %s", error->message);
}

void job_tell(struct daemon *daemon, const char *id, json_t *take_patch,
              const struct objects_change *object)
{
    AUTO(json_decref) json_t *patch = take_patch;
    struct objects_change changes[2];
    unsigned count = 0;
    struct object *job = objects_get(daemon->objects, "jobs", id);
    if (object)
        changes[count++] = *object;
    if (job) {
        changes[count++] = (struct objects_change){
            .kind = "jobs", .id = id, .take_json = object_patched(job, patch), .expect = STORE_ANY
        };
    }
    if (count)
        objects_change(daemon->objects, changes, count, told, NULL);
}

/* ---- idempotency ---- */

static struct job_key *keys; /* of requests whose jobs are being kept */

static bool key_pending(const char *key)
{
    const struct job_key *k = keys;
    while (k && strcmp(k->text, key) != 0)
        k = k->next;
    return k;
}

static struct object *job_with_key(struct daemon *daemon, const char *key, const char *user)
{
    size_t count;
    struct object **list = objects_list(daemon->objects, "jobs", &count);
    for (size_t i = 0; i < count; i++)
        if (strcmp(object_text(list[i], "key"), key) == 0 &&
            strcmp(object_text(list[i], "user"), user) == 0)
            return list[i];
    return NULL;
}

bool job_repeated(struct daemon *daemon, struct http_request *request)
{
    const char *key = http_header(request, "Idempotency-Key");
    struct api_error error = { 0 };
    char print[20], user[64];
    if (!key)
        return false;
    fingerprint(request, print);
    request_user(request, user, sizeof user);
    struct object *job = job_with_key(daemon, key, user);
    if (!*key || strlen(key) >= sizeof keys->text)
        api_fail(&error, 400, "invalid", "Idempotency-Key", "has 1 to %zu characters",
                 sizeof keys->text - 1);
    else if (key_pending(key))
        api_fail(&error, 409, "busy", "Idempotency-Key", "the first request with it is under way");
    else if (job && strcmp(object_text(job, "request"), print) != 0)
        api_fail(&error, 422, "reused", "Idempotency-Key", "another request came with it: job %s",
                 job->id);
    if (error.status)
        reply_error(request, &error);
    else if (job)
        reply_object(request, 202, job);
    return error.status || job;
}

struct job_key *job_key_begin(struct http_request *request)
{
    const char *text = http_header(request, "Idempotency-Key");
    if (!text)
        return NULL;
    struct job_key *key = calloc(1, sizeof *key);
    if (!key)
        abort();
    snprintf(key->text, sizeof key->text, "%s", text);
    key->next = keys;
    keys = key;
    return key;
}

void job_key_end(struct job_key *key)
{
    struct job_key **p = &keys;
    while (*p && *p != key)
        p = &(*p)->next;
    if (key && *p)
        *p = key->next;
    free(key);
}

/* ---- old ones ---- */

static bool ended(const struct object *job) { return json_object_get(job->json, "ended") != NULL; }

static void pruned(void *arg, struct object *object, const struct api_error *error)
{
    pruning = false;
    if (error)
        log_warning("old jobs could not be removed: %s", error->message);
    else
        jobs_prune(arg); /* a change has room for some of them only */
}

void jobs_prune(struct daemon *daemon)
{
    struct objects_change changes[OBJECTS_CHANGES_MAX];
    unsigned count = 0;
    size_t all, over = 0;
    struct object **list = objects_list(daemon->objects, "jobs", &all);
    double limit = time_now() - JOBS_KEPT_S;
    if (pruning)
        return;
    for (size_t i = 0; i < all; i++)
        over += ended(list[i]);
    over = over > JOBS_KEPT ? over - JOBS_KEPT : 0;
    for (size_t i = 0; i < all && count < OBJECTS_CHANGES_MAX; i++) {
        double end = json_number_value(json_object_get(list[i]->json, "ended"));
        if (!ended(list[i]) || (!over && end > limit))
            continue;
        over -= over > 0;
        changes[count++] = (struct objects_change){ .kind = "jobs",
                                                    .id = list[i]->id,
                                                    .expect = list[i]->revision };
    }
    if (!count)
        return;
    pruning = true;
    objects_change(daemon->objects, changes, count, pruned, daemon);
}

static void look(void *arg)
{
    jobs_prune(arg);
    loop_timer_arm(prune_timer, monotonic_ns() + LOOK_MS * 1000000ull);
}

int jobs_start(struct daemon *daemon, struct err *err)
{
    int r = loop_timer_create(daemon->loop, look, daemon, &prune_timer, err);
    if (r == 0)
        look(daemon);
    return r;
}

void jobs_stop(void)
{
    if (prune_timer)
        loop_timer_destroy(TAKE(prune_timer));
}

/* ---- actions ---- */

static void job_cancel(struct daemon *daemon, struct object *job, struct api_error *error)
{
    if (strncmp(object_text(job, "object"), "images/", 7) == 0)
        image_job_cancel(daemon, job, error);
    else if (strncmp(object_text(job, "object"), "disks/", 6) == 0)
        disk_job_cancel(daemon, job, error);
    else
        vm_job_cancel(daemon, job, error);
}

void jobs_action(struct daemon *daemon, struct http_request *request, struct object *job,
                 const char *action)
{
    struct api_error error = { 0 };
    if (ended(job))
        api_fail(&error, 409, "ended", "", "the job is over: %s", object_text(job, "state"));
    else
        job_cancel(daemon, job, &error); /* the only action */
    if (error.status)
        reply_error(request, &error);
    else
        http_reply(request, 204, "", NULL, 0);
}
