/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/images.h"

#include "base/log.h"
#include "daemon/child.h"
#include "daemon/vms.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* One that is being made. */
struct making {
    struct daemon *daemon;
    char id[UUID_TEXT], job[24];
    json_t *words; /* owned; the image's fields that tell what it is made of */
    struct child *child;
    int64_t size; /* of the disk, when the program has told it */
    bool cancelled;
    struct http_request *request; /* until it is answered */
    struct job_key *key;
    struct making *next;
};

static struct making *makings;

void image_path(const struct daemon *daemon, const char *id, const char *name, char out[PATH_MAX])
{
    if (snprintf(out, PATH_MAX, "%s/images/%s%s%s", daemon->state_dir, id, *name ? "/" : "",
                 name) >= PATH_MAX)
        abort(); /* the state directory's length was checked at start */
}

static struct object *image_object(const struct making *m)
{
    return objects_get(m->daemon->objects, "images", m->id);
}

static void making_free(struct making *m)
{
    struct making **p = &makings;
    while (*p && *p != m)
        p = &(*p)->next;
    if (*p)
        *p = m->next;
    child_release(m->child);
    job_key_end(m->key);
    json_decref(m->words);
    free(m);
}

/* ---- what becomes of it ---- */

static void made(struct making *m)
{
    char path[PATH_MAX];
    struct stat st = { 0 };
    json_t *json = object_edit(image_object(m));
    image_path(m->daemon, m->id, "disk.qcow2", path);
    stat(path, &st);
    json_object_set_new(json, "state", json_string("ready"));
    json_object_set_new(json, "size", json_integer(m->size));
    json_object_set_new(json, "bytes", json_integer((json_int_t)st.st_blocks * 512));
    image_path(m->daemon, m->id, "vmlinuz", path);
    json_object_set_new(json, "boots_directly", json_boolean(access(path, R_OK) == 0));
    const struct objects_change change = {
        .kind = "images", .id = m->id, .take_json = json, .expect = STORE_ANY
    };
    event_add("image.ready", "images", m->id, object_text(image_object(m), "name"), NULL);
    job_tell(m->daemon, m->job,
             json_pack("{s:s, s:f, s:i, s:n, s:{s:s}}", "state", "done", "ended", time_now(),
                       "progress", 100, "stage", "result", "id", m->id),
             &change);
}

/* Nothing of it stays. */
static void failed(struct making *m, const char *why)
{
    char dir[PATH_MAX];
    image_path(m->daemon, m->id, "", dir);
    dir_remove(dir);
    const struct objects_change change = { .kind = "images", .id = m->id, .expect = STORE_ANY };
    json_t *patch = json_pack("{s:s, s:f, s:n}", "state", m->cancelled ? "cancelled" : "failed",
                              "ended", time_now(), "stage");
    if (!m->cancelled)
        json_object_update_new(patch, job_error("image-failed", why, NULL));
    job_tell(m->daemon, m->job, patch, &change);
}

/* ---- the program ---- */

/* "size BYTES", or what it does now: "unpacking", "40% setting up". */
static void said(void *arg, const char *line)
{
    struct making *m = arg;
    char *end;
    long percent = strtol(line, &end, 10);
    bool known = end != line && strncmp(end, "% ", 2) == 0 && percent >= 0 && percent <= 100;
    if (strncmp(line, "size ", 5) == 0) {
        m->size = strtoll(line + 5, NULL, 10);
        return;
    }
    const char *stage = known ? end + 2 : line;
    job_tell(m->daemon, m->job,
             json_pack("{s:s%, s:o}", "stage", stage, strnlen(stage, 120), "progress",
                       known ? json_integer(percent) : json_null()),
             NULL);
}

static void ended(void *arg, int status, const char *said)
{
    struct making *m = arg;
    m->child = NULL; /* it is gone after this call */
    if (status == 0)
        made(m);
    else
        failed(m, *said ? said : "bedplate-make-image was killed");
    making_free(m);
}

static const struct child_calls calls = { said, ended };

static char *word_of(const struct making *m, const char *field)
{
    const char *text = json_string_value(json_object_get(m->words, field));
    return (char *)(text ? text : "");
}

static void begin(struct making *m)
{
    char dir[PATH_MAX];
    struct err err;
    image_path(m->daemon, m->id, "", dir);
    char *const argv[] = { m->daemon->make_image, dir,
                           word_of(m, "source"),  word_of(m, "sha256"),
                           word_of(m, "sums"),    word_of(m, "signature"),
                           word_of(m, "keyring"), NULL };
    int r =
        mkdir(dir, 0700) < 0 && errno != EEXIST ? err_errno(&err, errno, "cannot make %s", dir) : 0;
    if (r == 0)
        r = child_start(m->daemon->loop, argv, &calls, m, &m->child, &err);
    if (r < 0) {
        failed(m, err.text);
        making_free(m);
    }
}

static struct making *making_new(struct daemon *daemon, const json_t *image)
{
    struct making *m = calloc(1, sizeof *m);
    if (!m)
        abort();
    m->daemon = daemon;
    snprintf(m->id, sizeof m->id, "%s", json_string_value(json_object_get(image, "id")));
    m->words = json_deep_copy(image);
    m->next = makings;
    makings = m;
    return m;
}

/* ---- what clients ask for ---- */

static void create_kept(void *arg, struct object *object, const struct api_error *error)
{
    struct making *m = arg;
    struct http_request *request = TAKE(m->request);
    job_key_end(TAKE(m->key));
    if (error) {
        reply_error(request, error);
        making_free(m);
        return;
    }
    reply_object(request, 202, objects_get(m->daemon->objects, "jobs", m->job));
    begin(m);
}

void images_create(struct daemon *daemon, struct http_request *request, json_t *take_json)
{
    AUTO(json_decref) json_t *json = take_json;
    const char *name = json_string_value(json_object_get(json, "name"));
    struct api_error error = { 0 };
    char id[UUID_TEXT];
    bool signature = json_object_get(json, "signature"), keyring = json_object_get(json, "keyring");
    if (signature != keyring)
        api_fail(&error, 422, "invalid", "keyring",
                 signature ? "is required with a signature"
                           : "is for a signature, and there is none");
    if (error.status || objects_name_free(daemon->objects, "images", name, NULL, &error) < 0) {
        reply_error(request, &error);
        return;
    }
    object_new_id(id);
    json_object_set_new(json, "id", json_string(id));
    json_object_set_new(json, "state", json_string("creating"));
    json_object_set_new(json, "created", json_real(time_now()));
    struct making *m = making_new(daemon, json);
    m->request = request;
    m->key = job_key_begin(request);
    json_t *job = job_new(request, "image.create", "images", id, name, m->job);
    const struct objects_change changes[] = {
        { .kind = "images", .id = id, .take_json = TAKE(json) },
        { .kind = "jobs", .id = m->job, .take_json = job },
    };
    objects_change(daemon->objects, changes, 2, create_kept, m);
}

static struct deleting {
    struct daemon *daemon;
    struct http_request *request;
    char id[UUID_TEXT];
    struct deleting *next;
} * deletings; /* no VM may be made from these any more */

struct object *image_ready(struct daemon *daemon, const char *name, struct api_error *error)
{
    struct object *image = objects_find(daemon->objects, "images", name, error);
    const struct deleting *d = image ? deletings : NULL;
    while (d && strcmp(d->id, image->id) != 0)
        d = d->next;
    if (image && !d && strcmp(object_text(image, "state"), "ready") == 0)
        return image;
    if (image) {
        api_fail(error, 409, "not-ready", "image", "the image '%s' is being %s", name,
                 d ? "deleted" : "made");
        api_hint(error, d ? "choose another" : "wait for its job");
    } else {
        snprintf(error->field, sizeof error->field, "image");
        api_hint(error, "make it first: bedplate image create NAME --source debian-12");
    }
    return NULL;
}

static void delete_kept(void *arg, struct object *object, const struct api_error *error)
{
    struct deleting d = *(struct deleting *)arg, **p = &deletings;
    char dir[PATH_MAX];
    while (*p != arg)
        p = &(*p)->next;
    *p = d.next;
    free(arg);
    if (error) {
        reply_error(d.request, error);
        return;
    }
    image_path(d.daemon, d.id, "", dir);
    dir_remove(dir);
    http_reply(d.request, 204, "", NULL, 0);
}

void images_delete(struct daemon *daemon, struct http_request *request, struct object *image)
{
    struct api_error error = { 0 };
    const char *user = vms_from_image(object_text(image, "name"));
    if (user) {
        api_fail(&error, 409, "in-use", "", "the VM '%s' was made from this image", user);
        api_hint(&error, "delete the VM first: its disk holds only what differs");
    }
    if (!error.status && strcmp(object_text(image, "state"), "ready") != 0) {
        api_fail(&error, 409, "busy", "", "the image is being made");
        api_hint(&error, "cancel its job");
    }
    struct deleting *d = error.status ? NULL : malloc(sizeof *d);
    if (!d) {
        reply_error(request, &error);
        return;
    }
    *d = (struct deleting){ daemon, request, "", deletings };
    deletings = d;
    snprintf(d->id, sizeof d->id, "%s", image->id);
    event_add("image.deleted", "images", image->id, object_text(image, "name"), NULL);
    const struct objects_change change = { .kind = "images",
                                           .id = image->id,
                                           .expect = image->revision };
    objects_change(daemon->objects, &change, 1, delete_kept, d);
}

void image_job_cancel(struct daemon *daemon, struct object *job, struct api_error *error)
{
    for (struct making *m = makings; m; m = m->next)
        if (strcmp(m->job, job->id) == 0 && m->child) {
            m->cancelled = true;
            child_kill(m->child);
            return;
        }
    api_fail(error, 409, "ended", "", "the job is over");
}

/* ---- start and end of the daemon ---- */

int images_start(struct daemon *daemon, struct err *err)
{
    char dir[PATH_MAX];
    size_t count;
    snprintf(dir, sizeof dir, "%.4000s/images", daemon->state_dir);
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return err_errno(err, errno, "cannot make %s", dir);
    orphans_remove(daemon, "images");
    struct object **jobs = objects_list(daemon->objects, "jobs", &count);
    for (size_t i = 0; i < count; i++) {
        const char *object = object_text(jobs[i], "object");
        if (strcmp(object_text(jobs[i], "state"), "running") != 0 ||
            strncmp(object, "images/", 7) != 0)
            continue;
        struct object *image = objects_get(daemon->objects, "images", object + 7);
        if (!image)
            continue;
        struct making *m = making_new(daemon, image->json);
        snprintf(m->job, sizeof m->job, "%s", jobs[i]->id);
    }
    for (struct making *m = makings, *next; m; m = next) {
        next = m->next;
        begin(m);
    }
    return 0;
}

void images_stop(void)
{
    while (makings)
        making_free(makings);
}
