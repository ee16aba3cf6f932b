/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/disks.h"

#include "base/log.h"
#include "base/text.h"
#include "daemon/child.h"
#include "daemon/vms.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OUTPUT_MAX = 1 << 20, WORDS = 8 };

/* bedplate-img at work on a disk. */
struct work {
    struct daemon *daemon;
    const struct task *task;
    char id[UUID_TEXT], path[PATH_MAX], format[16];
    char job[24];                 /* "": the request waits for the end instead */
    json_t *args;                 /* owned; a new disk's are its object */
    struct http_request *request; /* until it is answered */
    struct job_key *key;
    struct child *child;
    bool looking, cancelled; /* looking: the task is done, and info tells what came of it */
    struct buf out;
    struct work *next;
};

static struct work *works;

/* What there is to be done, in words for bedplate-img. argv ends with NULL; text: room for one. */
struct task {
    const char *name; /* the action's */
    void (*words)(struct work *w, const char *argv[WORDS], char text[32]);
    bool resizes;  /* the disk's size is looked at afterwards */
    bool beside;   /* also while a VM uses the disk */
    bool result;   /* what it prints is the result */
    int also_good; /* an exit status that is no failure, either, up to which */
};

static const char *work_arg(const struct work *w, const char *name)
{
    const char *text = json_string_value(json_object_get(w->args, name));
    return text ? text : "";
}

static void create_words(struct work *w, const char *argv[WORDS], char text[32])
{
    const char *source = work_arg(w, "source");
    snprintf(text, 32, "%lld", (long long)json_integer_value(json_object_get(w->args, "size")));
    memcpy(argv,
           *source ? (const char *[]){ "convert", "-q", "-O", w->format, source, w->path, NULL }
                   : (const char *[]){ "create", "-q", "-f", w->format, w->path, text, NULL },
           7 * sizeof *argv);
}

static void resize_words(struct work *w, const char *argv[WORDS], char text[32])
{
    bool shrink = json_is_true(json_object_get(w->args, "shrink"));
    snprintf(text, 32, "%lld", (long long)json_integer_value(json_object_get(w->args, "size")));
    memcpy(argv,
           (const char *[]){ "resize", "-q", "-f", w->format, w->path, text,
                             shrink ? "--shrink" : NULL, NULL },
           8 * sizeof *argv);
}

static void snapshot_with(struct work *w, const char *argv[WORDS], const char *option)
{
    memcpy(argv,
           (const char *[]){ "snapshot", "-q", "-f", w->format, option, work_arg(w, "name"),
                             w->path, NULL },
           8 * sizeof *argv);
}

static void snapshot_words(struct work *w, const char *argv[WORDS], char text[32])
{
    snapshot_with(w, argv, "-c");
}
static void revert_words(struct work *w, const char *argv[WORDS], char text[32])
{
    snapshot_with(w, argv, "-a");
}
static void delete_snapshot_words(struct work *w, const char *argv[WORDS], char text[32])
{
    snapshot_with(w, argv, "-d");
}

static void check_words(struct work *w, const char *argv[WORDS], char text[32])
{
    memcpy(argv, (const char *[]){ "check", "--json", "-f", w->format, w->path, NULL },
           6 * sizeof *argv);
}

static void info_words(struct work *w, const char *argv[WORDS], char text[32])
{
    memcpy(argv, (const char *[]){ "info", "--json", "-U", "-f", w->format, w->path, NULL },
           7 * sizeof *argv);
}

static const struct task tasks[] = {
    { "create", create_words, true, false, false, 0 },
    { "resize", resize_words, true, false, false, 0 },
    { "snapshot", snapshot_words, false, false, false, 0 },
    { "revert", revert_words, true, false, false, 0 },
    { "delete-snapshot", delete_snapshot_words, false, false, false, 0 },
    { "check", check_words, false, false, true, 3 },
    { "info", info_words, false, true, true, 0 },
};

static const struct task *task_find(const char *name)
{
    const struct task *task = tasks;
    while (strcmp(task->name, name) != 0)
        task++; /* the table of the API has no others */
    return task;
}

/* ---- files ---- */

/* name "": its folder. */
static void disk_path(const struct daemon *daemon, const char *id, const char *name,
                      char out[PATH_MAX])
{
    if (snprintf(out, PATH_MAX, "%s/disks/%s%s%s", daemon->state_dir, id, *name ? "/" : "", name) >=
        PATH_MAX)
        abort(); /* the state directory's length was checked at start */
}

/* ---- work ---- */

static struct work *work_new(struct daemon *daemon, const char *task, const json_t *disk,
                             const json_t *args)
{
    struct work *w = calloc(1, sizeof *w);
    if (!w)
        abort();
    *w = (struct work){
        .daemon = daemon, .task = task_find(task), .args = json_deep_copy(args), .next = works
    };
    snprintf(w->id, sizeof w->id, "%s", json_string_value(json_object_get(disk, "id")));
    snprintf(w->path, sizeof w->path, "%s", json_string_value(json_object_get(disk, "path")));
    snprintf(w->format, sizeof w->format, "%s", json_string_value(json_object_get(disk, "format")));
    works = w;
    return w;
}

static void work_free(struct work *w)
{
    struct work **p = &works;
    while (*p != w)
        p = &(*p)->next;
    *p = w->next;
    child_release(w->child);
    job_key_end(w->key);
    json_decref(w->args);
    buf_fini(&w->out);
    free(w);
}

static struct object *work_disk(const struct work *w)
{
    return objects_get(w->daemon->objects, "disks", w->id);
}

/* Tells the job or who waits; the size (-1: as it was) becomes the disk's. */
static void work_done(struct work *w, json_t *take_result, json_int_t size)
{
    struct objects_change change = { .kind = "disks", .id = w->id, .expect = STORE_ANY };
    bool create = w->task->words == create_words;
    json_t *json = size >= 0 && work_disk(w) ? object_edit(work_disk(w)) : NULL;
    if (json) {
        json_object_set_new(json, "size", json_integer(size));
        json_object_set_new(json, "state", json_string("ready"));
    }
    change.take_json = json;
    if (!*w->job) {
        http_reply_json(TAKE(w->request), 200, take_result);
        return;
    }
    if (create)
        take_result = json_pack("{s:s}", "id", w->id);
    json_t *patch = json_pack("{s:s, s:f, s:n}", "state", "done", "ended", time_now(), "stage");
    if (take_result)
        json_object_set_new(patch, "result", take_result);
    job_tell(w->daemon, w->job, patch, json ? &change : NULL);
}

/* Of a disk that could not be made nothing stays. */
static void work_failed(struct work *w, const char *why)
{
    struct objects_change change = { .kind = "disks", .id = w->id, .expect = STORE_ANY };
    struct api_error error = { 0 };
    char dir[PATH_MAX];
    bool create = w->task->words == create_words;
    if (!*w->job) {
        api_fail(&error, 409, "disk", "", "%s", why);
        reply_error(TAKE(w->request), &error);
        return;
    }
    disk_path(w->daemon, w->id, "", dir);
    if (create)
        dir_remove(dir);
    json_t *patch = json_pack("{s:s, s:f, s:n}", "state", w->cancelled ? "cancelled" : "failed",
                              "ended", time_now(), "stage");
    if (!w->cancelled)
        json_object_update_new(patch, job_error("disk-failed", why, NULL));
    job_tell(w->daemon, w->job, patch, create ? &change : NULL);
}

static void work_run(struct work *w);

static void said(void *arg, const char *line)
{
    struct work *w = arg;
    if (w->out.len < OUTPUT_MAX)
        buf_printf(&w->out, "%s\n", line);
}

static void work_over(struct work *w, int status, const char *why)
{
    AUTO(json_decref) json_t *output = NULL;
    bool prints = w->looking || w->task->result;
    bool good = status == 0 || (!w->looking && status > 0 && status <= w->task->also_good);
    if (good && prints && json_parse((const char *)w->out.data, w->out.len, &output, NULL) < 0) {
        good = false;
        why = "what bedplate-img says makes no sense";
    }
    if (!good)
        work_failed(w, *why ? why : "bedplate-img was killed");
    else if (w->looking)
        work_done(w, NULL, json_integer_value(json_object_get(output, "virtual-size")));
    else
        work_done(w, json_incref(output), -1);
}

static void ended(void *arg, int status, const char *said)
{
    struct work *w = arg;
    w->child = NULL; /* it is gone after this call */
    if (status == 0 && w->task->resizes && !w->looking) {
        w->looking = true;
        work_run(w);
        return;
    }
    work_over(w, status, said);
    work_free(w);
}

static const struct child_calls calls = { said, ended };

static void work_run(struct work *w)
{
    const char *argv[WORDS + 1] = { w->daemon->img };
    char text[32];
    struct err err;
    (w->looking ? info_words : w->task->words)(w, argv + 1, text);
    if (child_start(w->daemon->loop, (char *const *)argv, &calls, w, &w->child, &err) < 0) {
        work_failed(w, err.text);
        work_free(w);
    }
}

/* A disk's folder is made with it; what an earlier try left goes first. */
static void create_run(struct work *w)
{
    char dir[PATH_MAX];
    struct err err;
    disk_path(w->daemon, w->id, "", dir);
    dir_remove(dir);
    if (mkdir(dir, 0700) < 0) {
        err_errno(&err, errno, "cannot make %s", dir);
        work_failed(w, err.text);
        work_free(w);
        return;
    }
    work_run(w);
}

/* ---- VMs that have it ---- */

/* The first that has; running: only one that runs. */
static struct object *vm_with(struct daemon *daemon, const char *path, bool running)
{
    size_t count;
    struct object **list = objects_list(daemon->objects, "vms", &count);
    for (size_t i = 0; i < count; i++) {
        const json_t *disks = json_object_get(list[i]->json, "disks");
        if (running && vm_of(daemon, list[i]->id)->real == GONE)
            continue;
        for (size_t j = 0; j < json_array_size(disks); j++) {
            const json_t *at = json_object_get(json_array_get(disks, j), "path");
            if (strcmp(json_string_value(at), path) == 0)
                return list[i];
        }
    }
    return NULL;
}

/* What the VM calls it; NULL: it has let go of it. */
static const char *drive_of(const struct vm *vm, const char *path)
{
    const json_t *disks = json_object_get(vm->status, "disks");
    for (size_t i = 0; i < json_array_size(disks); i++) {
        const json_t *disk = json_array_get(disks, i);
        const char *at = json_string_value(json_object_get(disk, "path"));
        if (at && strcmp(at, path) == 0)
            return json_string_value(json_object_get(disk, "drive"));
    }
    return NULL;
}

static void live_resized(void *arg, const json_t *ok, const struct err *err)
{
    struct work *w = arg;
    struct object *vm = vm_with(w->daemon, w->path, true);
    if (vm)
        vm_look(vm_of(w->daemon, vm->id));
    if (ok)
        work_done(w, NULL, json_integer_value(json_object_get(w->args, "size")));
    else
        work_failed(w, err->text);
    work_free(w);
}

/* By the VM that runs with it. */
static void live_run(struct work *w)
{
    struct object *object = vm_with(w->daemon, w->path, true);
    struct vm *vm = object ? vm_of(w->daemon, object->id) : NULL;
    const char *drive = vm ? drive_of(vm, w->path) : NULL;
    if (!vm) {
        work_run(w); /* it ended meanwhile */
    } else if (!vm->client || !drive) {
        work_failed(w, "the VM that has it is not ready; try again");
        work_free(w);
    } else {
        vmm_client_ask(vm->client, "disk-resize",
                       json_pack("{s:s, s:O, s:O*}", "disk", drive, "size",
                                 json_object_get(w->args, "size"), "shrink",
                                 json_object_get(w->args, "shrink")),
                       -1, live_resized, w);
    }
}

/* ---- what clients ask for ---- */

static void begun(void *arg, struct object *object, const struct api_error *error)
{
    struct work *w = arg;
    struct http_request *request = TAKE(w->request);
    job_key_end(TAKE(w->key));
    if (error) {
        reply_error(request, error);
        work_free(w);
        return;
    }
    reply_object(request, 202, objects_get(w->daemon->objects, "jobs", w->job));
    if (w->task->words == create_words)
        create_run(w);
    else if (w->task->words == resize_words)
        live_run(w);
    else
        work_run(w);
}

/* Keeps the job, and a new disk with it; then begins. */
static void work_begin(struct work *w, struct http_request *request, const char *name,
                       json_t *take_new)
{
    char kind[40];
    unsigned count = 0;
    struct objects_change changes[2];
    snprintf(kind, sizeof kind, "disk.%s", w->task->name);
    w->request = request;
    w->key = job_key_begin(request);
    json_t *job = job_new(request, kind, "disks", w->id, name, w->job);
    if (take_new)
        changes[count++] =
            (struct objects_change){ .kind = "disks", .id = w->id, .take_json = take_new };
    changes[count++] = (struct objects_change){ .kind = "jobs", .id = w->job, .take_json = job };
    objects_change(w->daemon->objects, changes, count, begun, w);
}

void disks_create(struct daemon *daemon, struct http_request *request, json_t *take_json)
{
    AUTO(json_decref) json_t *json = take_json;
    const char *name = json_string_value(json_object_get(json, "name"));
    bool size = json_object_get(json, "size"), source = json_object_get(json, "source");
    struct api_error error = { 0 };
    char id[UUID_TEXT], path[PATH_MAX], file[40];
    if (size == source) {
        api_fail(&error, 422, "invalid", "size",
                 size ? "comes from the source; resize it afterwards"
                      : "is required without a source");
        reply_error(request, &error);
        return;
    }
    if (objects_name_free(daemon->objects, "disks", name, NULL, &error) < 0) {
        reply_error(request, &error);
        return;
    }
    object_new_id(id);
    snprintf(file, sizeof file, "disk.%s", json_string_value(json_object_get(json, "format")));
    disk_path(daemon, id, file, path);
    json_object_set_new(json, "id", json_string(id));
    json_object_set_new(json, "path", json_string(path));
    json_object_set_new(json, "state", json_string("creating"));
    json_object_set_new(json, "created", json_real(time_now()));
    struct work *w = work_new(daemon, "create", json, json);
    work_begin(w, request, name, TAKE(json));
}

/* Nobody works on it, and it is there. */
static int disk_idle(const struct object *disk, struct api_error *error)
{
    for (const struct work *w = works; w; w = w->next)
        if (strcmp(w->id, disk->id) == 0 && *w->job) {
            api_fail(error, 409, "busy", "", "something is being done with the disk");
            api_hint(error, "wait for its job");
            return -1;
        }
    return 0;
}

static void deleted(void *arg, struct object *object, const struct api_error *error)
{
    struct work *w = arg;
    char dir[PATH_MAX];
    if (error) {
        reply_error(TAKE(w->request), error);
    } else {
        disk_path(w->daemon, w->id, "", dir);
        dir_remove(dir);
        http_reply(TAKE(w->request), 204, "", NULL, 0);
    }
    work_free(w);
}

void disks_delete(struct daemon *daemon, struct http_request *request, struct object *disk)
{
    struct api_error error = { 0 };
    const struct object *vm = vm_with(daemon, object_text(disk, "path"), false);
    if (vm) {
        api_fail(&error, 409, "in-use", "", "the VM '%s' has this disk", object_text(vm, "name"));
        api_hint(&error, "take it out of the VM's disks first");
    }
    if (vm || disk_idle(disk, &error) < 0) {
        reply_error(request, &error);
        return;
    }
    /* Among the works, so that nothing begins meanwhile. */
    struct work *w = work_new(daemon, "info", disk->json, NULL);
    snprintf(w->job, sizeof w->job, "(deleting)");
    w->request = request;
    const struct objects_change change = { .kind = "disks",
                                           .id = disk->id,
                                           .expect = disk->revision };
    objects_change(daemon->objects, &change, 1, deleted, w);
}

void disks_action(struct daemon *daemon, struct http_request *request, struct object *disk,
                  const struct api_action *action, const json_t *args)
{
    struct api_error error = { 0 };
    const struct task *task = task_find(action->name);
    const struct object *vm = vm_with(daemon, object_text(disk, "path"), true);
    if (vm && !task->beside && task->words != resize_words) {
        api_fail(&error, 409, "in-use", "", "the VM '%s' runs with this disk",
                 object_text(vm, "name"));
        api_hint(&error, "stop it first");
    }
    if (error.status || (!task->beside && disk_idle(disk, &error) < 0)) {
        reply_error(request, &error);
        return;
    }
    struct work *w = work_new(daemon, action->name, disk->json, args);
    if (action->job) {
        work_begin(w, request, object_text(disk, "name"), NULL);
    } else {
        w->request = request;
        work_run(w);
    }
}

void disk_job_cancel(struct daemon *daemon, struct object *job, struct api_error *error)
{
    struct work *w = works;
    while (w && strcmp(w->job, job->id) != 0)
        w = w->next;
    if (!w || !w->child || w->task->words != create_words) {
        api_fail(error, 409, "too-late", "", "only the making of a disk can be given up");
        return;
    }
    w->cancelled = true;
    child_kill(w->child);
}

int disks_resolve(struct daemon *daemon, json_t *vm, struct api_error *error)
{
    json_t *disks = json_object_get(vm, "disks");
    for (size_t i = 0; i < json_array_size(disks); i++) {
        json_t *entry = json_array_get(disks, i);
        const char *path = json_string_value(json_object_get(entry, "path"));
        if (strncmp(path, "disk:", 5) != 0)
            continue;
        struct object *disk = objects_find(daemon->objects, "disks", path + 5, error);
        bool ready = disk && strcmp(object_text(disk, "state"), "ready") == 0;
        if (disk && !ready)
            api_fail(error, 409, "not-ready", "", "the disk '%.80s' is being made", path + 5);
        if (!ready || disk_idle(disk, error) < 0) {
            snprintf(error->field, sizeof error->field, "disks[%zu].path", i);
            return -1;
        }
        json_object_set(entry, "path", json_object_get(disk->json, "path"));
        if (!json_object_get(entry, "format"))
            json_object_set(entry, "format", json_object_get(disk->json, "format"));
    }
    return 0;
}

/* ---- start and end of the daemon ---- */

static void interrupted(struct daemon *daemon, struct object *job)
{
    struct object *disk = objects_get(daemon->objects, "disks", object_text(job, "object") + 6);
    if (disk && strcmp(object_text(job, "kind"), "disk.create") == 0) {
        struct work *w = work_new(daemon, "create", disk->json, disk->json);
        snprintf(w->job, sizeof w->job, "%s", job->id);
        return;
    }
    json_t *patch = json_pack("{s:s, s:f, s:n}", "state", "failed", "ended", time_now(), "stage");
    json_object_update_new(patch, job_error("interrupted", "the daemon ended meanwhile",
                                            "look at the disk, and ask again"));
    job_tell(daemon, job->id, patch, NULL);
}

int disks_start(struct daemon *daemon, struct err *err)
{
    char dir[PATH_MAX];
    size_t count;
    snprintf(dir, sizeof dir, "%.4000s/disks", daemon->state_dir);
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return err_errno(err, errno, "cannot make %s", dir);
    orphans_remove(daemon, "disks");
    struct object **jobs = objects_list(daemon->objects, "jobs", &count);
    for (size_t i = 0; i < count; i++)
        if (strcmp(object_text(jobs[i], "state"), "running") == 0 &&
            strncmp(object_text(jobs[i], "object"), "disks/", 6) == 0)
            interrupted(daemon, jobs[i]);
    for (struct work *w = works, *next; w; w = next) {
        next = w->next;
        create_run(w);
    }
    return 0;
}

void disks_stop(void)
{
    while (works)
        work_free(works);
}
