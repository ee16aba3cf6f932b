/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What clients ask of virtual machines. */
#include "daemon/vms.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void asked(struct update *u, const struct api_error *error)
{
    struct vm *vm = u->vm;
    bool current = strcmp(vm->job, u->job) == 0; /* not given up for a kill meanwhile */
    if (error) {
        reply_error(u->request, error);
        if (u->vm_new)
            vm_forget(vm);
        else if (current)
            vm->job[0] = 0;
        return;
    }
    reply_object(u->request, 202, objects_get(vm->daemon->objects, "jobs", u->job));
    if (!current)
        return;
    vm->job_kept = true;
    const char *wanted = vm_wanted(vm);
    bool there = strcmp(wanted, "stopped") == 0   ? vm->real == GONE
                 : strcmp(wanted, "running") == 0 ? vm->real == UP && !vm->paused
                                                  : false;
    if (there) /* nothing to do */
        vm_tell(vm, json_pack("{s:s}", "state", wanted), "done", NULL);
    else
        vm_drive(vm);
}

/* Keeps the change and a job for it; the job is the answer. */
static void ask(struct http_request *request, struct vm *vm, const char *kind, const char *name,
                json_t *take_patch, json_t *take_new)
{
    struct update *u = update_new(vm, take_patch);
    u->vm_new = take_new;
    u->job_new = job_new(vm, kind, name, u->job);
    u->request = request;
    u->then = asked;
    strcpy(vm->job, u->job);
    vm->job_kept = false;
    update_queue(u);
}

static int name_free(struct daemon *daemon, const char *name, const char *id,
                     struct api_error *error)
{
    struct object *other = objects_find(daemon->objects, "vms", name, NULL);
    if (!other || strcmp(object_text(other, "name"), name) != 0 ||
        (id && strcmp(other->id, id) == 0))
        return 0;
    api_fail(error, 409, "exists", "name", "there is a VM '%s'", name);
    api_hint(error, "choose another name, or delete it first");
    return -1;
}

void vms_create(struct daemon *daemon, struct http_request *request, json_t *take_json)
{
    struct api_error error = { 0 };
    char id[UUID_TEXT];
    object_new_id(id);
    if (name_free(daemon, json_string_value(json_object_get(take_json, "name")), NULL, &error) <
        0) {
        json_decref(take_json);
        reply_error(request, &error);
        return;
    }
    json_object_set_new(take_json, "id", json_string(id));
    json_object_set_new(take_json, "state", json_string("creating"));
    json_object_set_new(take_json, "wanted", json_string("stopped"));
    json_object_set_new(take_json, "created", json_real(time_now()));
    char console[PATH_MAX + 80];
    snprintf(console, sizeof console, "%s/vms/%s/serial.sock", daemon->run_dir, id);
    json_object_set_new(take_json, "console", json_string(console));
    ask(request, vm_new(daemon, id), "vm.create",
        json_string_value(json_object_get(take_json, "name")), NULL, take_json);
}

struct patching {
    struct daemon *daemon;
    struct http_request *request;
};

/* Without a precondition of the client's a change that met one of the daemon's own is made again,
 * on what that left. */
static void patched_done(void *arg, struct object *object, const struct api_error *error)
{
    struct patching p = *(struct patching *)arg;
    const char *match = http_header(p.request, "If-Match");
    free(arg);
    if (!error)
        reply_object(p.request, 200, object);
    else if (error->status == 412 && (!match || strcmp(match, "*") == 0))
        router_request(p.daemon, p.request);
    else
        reply_error(p.request, error);
}

void vms_patch(struct daemon *daemon, struct http_request *request, struct object *object,
               json_t *take_json, uint64_t expect)
{
    struct api_error error = { 0 };
    const char *name = json_string_value(json_object_get(take_json, "name"));
    if (name_free(daemon, name, object->id, &error) < 0) {
        json_decref(take_json);
        reply_error(request, &error);
        return;
    }
    struct patching *patching = malloc(sizeof *patching);
    if (!patching)
        abort();
    *patching = (struct patching){ daemon, request };
    json_object_del(take_json, "revision");
    const struct objects_change change = {
        .kind = "vms", .id = object->id, .take_json = take_json, .expect = expect
    };
    objects_change(daemon->objects, &change, 1, patched_done, patching);
}

static int busy(const struct vm *vm, struct api_error *error)
{
    if (!vm->job[0])
        return 0;
    api_fail(error, 409, "busy", "", "job %s is under way for this VM", vm->job);
    api_hint(error, "wait for it, or kill the VM");
    return -1;
}

void vms_delete(struct daemon *daemon, struct http_request *request, struct object *object)
{
    struct api_error error = { 0 };
    struct vm *vm = vm_of(daemon, object->id);
    if (vm->real != GONE) {
        api_fail(&error, 409, "running", "", "the VM '%s' runs", object_text(object, "name"));
        api_hint(&error, "stop or kill it first");
        reply_error(request, &error);
        return;
    }
    if (busy(vm, &error) < 0) {
        reply_error(request, &error);
        return;
    }
    timer_set(vm, TIMER_NONE, 0);
    ask(request, vm, "vm.delete", object_text(object, "name"),
        json_pack("{s:s, s:s}", "wanted", "deleted", "state", "deleting"), NULL);
}

/* ---- actions that go to the process ---- */

static void forwarded(void *arg, const json_t *ok, const struct err *err)
{
    struct http_request *request = arg;
    struct api_error error = { 0 };
    if (!ok) {
        api_fail(&error, 409, "refused", "", "%s", err->text);
        reply_error(request, &error);
    } else if (json_object_size(ok)) {
        http_reply_json(request, 200, json_incref((json_t *)ok));
    } else {
        http_reply(request, 204, "", NULL, 0);
    }
}

static const struct {
    const char *action, *command;
} forwards[] = {
    { "reset", "reset" },
    { "screenshot", "screenshot" },
    { "send-keys", "send-keys" },
};

static int need_up(const struct vm *vm, struct api_error *error)
{
    if (vm->real == UP && vm->client)
        return 0;
    api_fail(error, 409, "not-running", "", "the VM does not run");
    api_hint(error, "start it first");
    return -1;
}

static void pause_kept(struct update *u, const struct api_error *error)
{
    u->vm->asked_to_pause = false;
    if (error)
        reply_error(u->request, error);
    else
        http_reply(u->request, 204, "", NULL, 0);
}

struct pausing {
    struct daemon *daemon;
    struct http_request *request;
    char id[40];
    bool pause;
};

/* The answer comes when the new state shows. */
static void pause_done(void *arg, const json_t *ok, const struct err *err)
{
    struct pausing *p = arg;
    if (ok) {
        struct vm *vm = vm_of(p->daemon, p->id);
        struct update *u =
            update_new(vm, json_pack("{s:s}", "state", p->pause ? "paused" : "running"));
        vm->paused = p->pause;
        u->request = p->request;
        u->then = pause_kept;
        update_queue(u);
    } else {
        vm_of(p->daemon, p->id)->asked_to_pause = false;
        forwarded(p->request, NULL, err);
    }
    free(p);
}

static void want(struct vm *vm, const char *wanted)
{
    vm_tell(vm, json_pack("{s:s}", "wanted", wanted), NULL, NULL);
}

/* Lifecycle: which action may begin when, and what it makes the VM want. */
static const struct move {
    const char *action, *wanted, *state, *job;
} moves[] = {
    { "start", "running", "starting", "vm.start" },
    { "stop", "stopped", "stopping", "vm.stop" },
    { "kill", "stopped", "stopping", "vm.kill" },
    { "restart", "stopped", "stopping", "vm.restart" },
};

static void move_begin(struct daemon *daemon, struct http_request *request, struct vm *vm,
                       struct object *object, const struct move *move, const json_t *args)
{
    bool kill_it = strcmp(move->action, "kill") == 0;
    struct api_error error = { 0 };
    if (!kill_it && busy(vm, &error) < 0) {
        reply_error(request, &error);
        return;
    }
    if (kill_it &&
        vm->job[0]) { /* what was under way is given up; its beginning is kept before its end */
        vm->job_kept = true;
        vm_tell(vm, json_object(), "failed",
                job_error("killed", "the VM was killed meanwhile", NULL));
    }
    vm->restart = strcmp(move->action, "restart") == 0 && vm->real != GONE;
    vm->stop_timeout_s = (unsigned)json_integer_value(json_object_get(args, "timeout"));
    vm->asked_to_stop = vm->asked_to_pause = false;
    vm->killing = false;
    vm->backoff_ms = 0;
    if (vm->real == GONE)
        timer_set(vm, TIMER_NONE, 0);
    const char *wanted = move->wanted, *state = move->state;
    if (strcmp(move->action, "restart") == 0 && vm->real == GONE) {
        wanted = "running";
        state = "starting";
    }
    bool there = strcmp(wanted, "stopped") == 0 ? vm->real == GONE : vm->real == UP && !vm->paused;
    json_t *patch =
        json_pack("{s:s, s:s, s:n}", "wanted", wanted, "state", there ? wanted : state, "error");
    if (strcmp(wanted, "running") == 0 && vm->real == GONE)
        json_object_set_new(patch, "started", json_real(time_now()));
    ask(request, vm, move->job, object_text(object, "name"), patch, NULL);
}

void vms_action(struct daemon *daemon, struct http_request *request, struct object *object,
                const char *action, const json_t *args)
{
    struct api_error error = { 0 };
    struct vm *vm = vm_of(daemon, object->id);
    for (unsigned i = 0; i < sizeof moves / sizeof *moves; i++)
        if (strcmp(moves[i].action, action) == 0) {
            move_begin(daemon, request, vm, object, &moves[i], args);
            return;
        }
    if (need_up(vm, &error) < 0) {
        reply_error(request, &error);
        return;
    }
    if (strcmp(action, "pause") == 0 || strcmp(action, "resume") == 0) {
        struct pausing *p = calloc(1, sizeof *p);
        if (!p)
            abort();
        *p = (struct pausing){ .daemon = daemon, .request = request, .pause = action[0] == 'p' };
        strcpy(p->id, vm->id);
        vm->asked_to_pause = true; /* until what is wanted is kept, the process is right */
        want(vm, p->pause ? "paused" : "running");
        vmm_client_ask(vm->client, action, NULL, -1, pause_done, p);
        return;
    }
    for (unsigned i = 0; i < sizeof forwards / sizeof *forwards; i++)
        if (strcmp(forwards[i].action, action) == 0) {
            vmm_client_ask(vm->client, forwards[i].command, json_deep_copy(args), -1, forwarded,
                           request);
            return;
        }
    api_fail(&error, 501, "not-there", "", "the action '%s' is not there yet", action);
    reply_error(request, &error);
}
