/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What clients ask of virtual machines. */
#include "daemon/disks.h"
#include "daemon/images.h"
#include "daemon/vms.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Is it as it was asked to be? A VM that is to be saved is so when its process has ended. */
static bool is_there(const struct vm *vm, const char *wanted)
{
    return strcmp(wanted, "stopped") == 0   ? vm->real == GONE
           : strcmp(wanted, "running") == 0 ? vm->real == UP && !vm->paused
                                            : false;
}

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
    if (vm_is_copying(vm)) {
        vm_copy_drive(vm);
        return;
    }
    const char *wanted = vm_wanted(vm);
    bool there = is_there(vm, wanted);
    if (there && vm->real == GONE) /* thrown away by a kill */
        vm_saved_forget(vm);
    if (there) /* nothing to do */
        vm_tell(vm, json_pack("{s:s}", "state", wanted), "done",
                u->vm_new ? json_pack("{s:{s:s}}", "result", "id", vm->id) : NULL);
    else
        vm_drive(vm);
}

/* Keeps the change and a job for it; the job is the answer. */
static void ask(struct http_request *request, struct vm *vm, const char *kind, const char *name,
                json_t *take_patch, json_t *take_new)
{
    json_t *stage = json_object_get(take_patch, "state");
    struct update *u = update_new(vm, take_patch);
    u->vm_new = take_new;
    u->job_new = job_new(request, kind, "vms", vm->id, name, u->job);
    if (stage)
        json_object_set(u->job_new, "stage", stage);
    u->request = request;
    u->key = job_key_begin(request);
    json_object_set_new(u->job_new, "timeout", json_integer(vm->stop_timeout_s));
    u->then = asked;
    strcpy(vm->job, u->job);
    vm->job_kept = false;
    update_queue(u);
}

/* ---- network cards' addresses ---- */

static bool mac_used(const json_t *nets, const char *mac, size_t but)
{
    for (size_t i = 0; i < json_array_size(nets); i++) {
        const char *other = json_string_value(json_object_get(json_array_get(nets, i), "mac"));
        if (i != but && other && strcasecmp(other, mac) == 0)
            return true;
    }
    return false;
}

static bool mac_used_anywhere(struct daemon *daemon, const char *mac)
{
    size_t count;
    struct object **list = objects_list(daemon->objects, "vms", &count);
    for (size_t i = 0; i < count; i++)
        if (mac_used(json_object_get(list[i]->json, "nets"), mac, SIZE_MAX))
            return true;
    return false;
}

static void mac_new(struct daemon *daemon, const json_t *nets, char out[MAC_TEXT])
{
    uint8_t mac[6];
    do {
        if (mac_make(mac, NULL) < 0)
            abort();
        mac_print(mac, out);
    } while (mac_used(nets, out, SIZE_MAX) || mac_used_anywhere(daemon, out));
}

static int macs_check(const json_t *nets, struct api_error *error)
{
    for (size_t i = 0; i < json_array_size(nets); i++) {
        const char *mac = json_string_value(json_object_get(json_array_get(nets, i), "mac"));
        char field[32];
        snprintf(field, sizeof field, "nets[%zu].mac", i);
        if (mac && mac_used(nets, mac, i))
            return api_fail(error, 422, "invalid", field, "another card has the address %s, too",
                            mac);
    }
    return 0;
}

/* Cards without an address keep the one that was in their place (`was`, NULL: none), or get one. */
static int macs_fill(struct daemon *daemon, json_t *nets, const json_t *was,
                     struct api_error *error)
{
    if (macs_check(nets, error) < 0)
        return -1;
    for (size_t i = 0; i < json_array_size(nets); i++) {
        json_t *net = json_array_get(nets, i);
        const char *mac = json_string_value(json_object_get(net, "mac"));
        const char *old = json_string_value(json_object_get(json_array_get(was, i), "mac"));
        char made[MAC_TEXT];
        if (mac)
            continue;
        if (!old || mac_used(nets, old, i)) {
            mac_new(daemon, nets, made);
            old = made;
        }
        json_object_set_new(net, "mac", json_string(old));
    }
    return 0;
}

/* ---- create, change, delete ---- */

/* ?dry_run=true: what it would be, without what is chosen at random when it is made. */
static bool dry_run(const struct http_request *request)
{
    const char *text = http_query(request, "dry_run");
    return text && strcmp(text, "true") == 0;
}

/* The words of an image that boots directly; LABEL=root is what bedplate-make-image gives it. */
#define IMAGE_CMDLINE "root=LABEL=root ro console=ttyS0 quiet"

/* A VM from an image has a disk of its own as its first, and the image's kernel unless something
 * else boots. The disk is made before its first start. */
static int image_use(struct daemon *daemon, json_t *vm, struct api_error *error)
{
    char path[PATH_MAX];
    const char *name = json_string_value(json_object_get(vm, "image"));
    json_int_t size = json_integer_value(json_object_get(vm, "disk_size"));
    if (!name)
        return !size ? 0
                     : api_fail(error, 422, "invalid", "disk_size",
                                "is of a disk that is made from an image, and there is none");
    const struct object *image = image_ready(daemon, name, error);
    if (!image)
        return -1;
    json_int_t least = json_integer_value(json_object_get(image->json, "size"));
    if (size && size < least)
        return api_fail(error, 422, "invalid", "disk_size",
                        "the image's disk has %lld bytes, and this one must have as many at least",
                        (long long)least);
    json_object_set(vm, "image", json_object_get(image->json, "name"));
    bool boots = json_object_get(vm, "kernel") || json_object_get(vm, "firmware");
    if (!boots && json_is_true(json_object_get(image->json, "boots_directly"))) {
        image_path(daemon, image->id, "vmlinuz", path);
        json_object_set_new(vm, "kernel", json_string(path));
        image_path(daemon, image->id, "initrd.img", path);
        json_object_set_new(vm, "initrd", json_string(path));
        if (!json_object_get(vm, "cmdline"))
            json_object_set_new(vm, "cmdline", json_string(IMAGE_CMDLINE));
    }
    return 0;
}

/* What the server sets in a new VM. id NULL: none is chosen. */
static void object_begin(struct daemon *daemon, struct http_request *request, json_t *json,
                         const char *id)
{
    char user[64];
    request_user(request, user, sizeof user);
    json_object_set_new(json, "owner", json_string(user));
    json_object_set_new(json, "state", json_string("creating"));
    json_object_set_new(json, "wanted", json_string("stopped"));
    json_object_set_new(json, "created", json_real(time_now()));
    if (!id)
        return;
    json_object_set_new(json, "id", json_string(id));
    json_object_set_new(json, "console",
                        json_sprintf("%s/vms/%s/serial.sock", daemon->run_dir, id));
}

void vms_create(struct daemon *daemon, struct http_request *request, json_t *take_json)
{
    AUTO(json_decref) json_t *json = take_json;
    const char *name = json_string_value(json_object_get(json, "name"));
    struct api_error error = { 0 };
    json_t *nets = json_object_get(json, "nets");
    bool dry = dry_run(request);
    char id[UUID_TEXT];
    object_new_id(id);
    if (objects_name_free(daemon->objects, "vms", name, NULL, &error) < 0 ||
        (dry ? macs_check(nets, &error) : macs_fill(daemon, nets, NULL, &error)) < 0 ||
        disks_resolve(daemon, json, &error) < 0 || image_use(daemon, json, &error) < 0) {
        reply_error(request, &error);
        return;
    }
    object_begin(daemon, request, json, dry ? NULL : id);
    if (dry)
        http_reply_json(request, 200, TAKE(json));
    else
        ask(request, vm_new(daemon, id), "vm.create", name, NULL, TAKE(json));
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
    struct vm *vm = error ? NULL : vm_of(p.daemon, object->id);
    if (vm && vm->real == UP) {
        json_decref(TAKE(vm->live_failed));
        vm_live_wait(vm, p.request);
    } else if (!error)
        reply_object(p.request, 200, object);
    else if (error->status == 412 && (!match || strcmp(match, "*") == 0))
        router_request(p.daemon, p.request);
    else
        reply_error(p.request, error);
}

/* A VM that runs is none, and one whose disks lie below others' stays one. */
static int template_change_check(const struct object *object, const json_t *now,
                                 struct api_error *error)
{
    bool was = json_is_true(json_object_get(object->json, "template"));
    bool is = json_is_true(json_object_get(now, "template"));
    const char *state = object_text(object, "state");
    const char *clone = was && !is ? vms_cloned_from(object->id, false) : NULL;
    if (clone)
        return api_fail(error, 409, "in-use", "template",
                        "the disks of the VM '%s' lie over its own", clone);
    if (is && !was && strcmp(state, "stopped") != 0 && strcmp(state, "failed") != 0)
        return api_fail(error, 409, "running", "template", "the VM is %s; stop it first", state);
    return 0;
}

void vms_patch(struct daemon *daemon, struct http_request *request, struct object *object,
               json_t *take_json, bool live, uint64_t expect)
{
    struct api_error error = { 0 };
    const char *name = json_string_value(json_object_get(take_json, "name"));
    if (objects_name_free(daemon->objects, "vms", name, object->id, &error) < 0 ||
        macs_fill(daemon, json_object_get(take_json, "nets"), json_object_get(object->json, "nets"),
                  &error) < 0 ||
        disks_resolve(daemon, take_json, &error) < 0) {
        json_decref(take_json);
        reply_error(request, &error);
        return;
    }
    if (template_change_check(object, take_json, &error) < 0) {
        json_decref(take_json);
        reply_error(request, &error);
        return;
    }
    struct patching *patching = malloc(sizeof *patching);
    if (!patching)
        abort();
    *patching = (struct patching){ daemon, request };
    if (!live && strcmp(object_text(object, "state"), "saved") == 0) {
        api_fail(&error, 409, "saved", "", "the VM is saved, and goes on as it was");
        api_hint(&error, "start it first, or kill it to throw the saved state away");
        json_decref(take_json);
        reply_error(request, &error);
        return;
    }
    json_object_del(take_json, "revision");
    const struct objects_change change = {
        .kind = "vms", .id = object->id, .take_json = take_json, .expect = expect
    };
    objects_change(daemon->objects, &change, 1, patched_done, patching);
}

static int need_up(const struct vm *vm, struct api_error *error)
{
    if (vm->real == UP && vm->client)
        return 0;
    if (vm->real == STARTING)
        return api_fail(error, 503, "starting", "",
                        "the VM is starting, or the daemon is and looks for it; try again in a "
                        "moment");
    api_fail(error, 409, "not-running", "", "the VM does not run");
    api_hint(error, "start it first");
    return -1;
}

static int busy(const struct vm *vm, struct api_error *error)
{
    if (!vm->job[0])
        return 0;
    api_fail(error, 409, "busy", "", "job %s is under way for this VM", vm->job);
    api_hint(error, "wait for it, or kill the VM");
    return -1;
}

static int not_being_cloned(const struct vm *vm, struct api_error *error)
{
    const char *clone = vms_cloned_from(vm->id, true);
    if (!clone && !vm_is_copying(vm))
        return 0;
    if (clone)
        api_fail(error, 409, "busy", "", "the VM '%s' is being cloned from it", clone);
    else
        api_fail(error, 409, "busy", "", "its disks are being copied");
    api_hint(error, "wait for that job, or cancel it");
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
    const char *clone = vms_cloned_from(object->id, false);
    if (clone) {
        api_fail(&error, 409, "in-use", "", "the disks of the VM '%s' lie over its own", clone);
        api_hint(&error, "delete that one first");
    }
    if (clone || busy(vm, &error) < 0 || not_being_cloned(vm, &error) < 0) {
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
    { "reset", "reset" },     { "screenshot", "screenshot" }, { "send-keys", "send-keys" },
    { "log", "console-log" }, { "balloon", "balloon" },
};

/* Of a VM that ended. One that was killed left nothing. */
static void log_left(struct http_request *request, const struct vm *vm, const json_t *args)
{
    char path[PATH_MAX];
    size_t bytes = (size_t)json_integer_value(json_object_get(args, "bytes"));
    AUTO(buf_fini) struct buf text = { 0 };
    AUTO(buf_fini) struct buf data = { 0 };
    vm_run_path(vm, "serial.log", path);
    file_read(path, 1 << 20, &text, NULL);
    size_t from = text.len > bytes ? text.len - bytes : 0;
    buf_grow(&data, 0); /* not NULL, if there is nothing */
    if (text.len)
        buf_base64(&data, text.data + from, text.len - from);
    http_reply_json(request, 200, json_pack("{s:s%}", "data", data.data, data.len));
}

static void pause_kept(struct update *u, const struct api_error *error)
{
    u->vm->asked_to_pause = false;
    if (error)
        reply_error(u->request, error);
    else
        http_reply(u->request, 204, "", NULL, 0);
    vm_look(u->vm); /* it may have paused itself meanwhile */
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
            update_new(vm, json_pack("{s:s, s:s?}", "state", p->pause ? "paused" : "running",
                                     "paused_by", p->pause ? "user" : NULL));
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
    enum { ANY, ONLY_UP, ONLY_SAVED, NOT_SAVED } when;
} moves[] = {
    { "start", "running", "starting", "vm.start", ANY },
    { "stop", "stopped", "stopping", "vm.stop", NOT_SAVED },
    { "kill", "stopped", "stopping", "vm.kill", ANY },
    { "restart", "stopped", "stopping", "vm.restart", NOT_SAVED },
    { "save", "saved", "saving", "vm.save", ONLY_UP },
    { "restore", "running", "starting", "vm.restore", ONLY_SAVED },
};

/* A template stands still, so that what lies over its disks stays right. */
static int template_check(const struct object *object, const char *action, struct api_error *error)
{
    if (!json_is_true(json_object_get(object->json, "template")))
        return 0;
    api_fail(error, 409, "template", "", "'%s' is a template: it cannot %s",
             object_text(object, "name"), action);
    api_hint(error, "clone it: bedplate clone %s NAME --linked", object_text(object, "name"));
    return -1;
}

static int clone_check(struct vm *vm, const struct object *object, bool linked,
                       struct api_error *error)
{
    const char *state = object_text(object, "state");
    if (linked && !json_is_true(json_object_get(object->json, "template"))) {
        api_fail(error, 409, "no-template", "linked",
                 "'%s' is no template, so its disks may change", object_text(object, "name"));
        api_hint(error, "make it one (bedplate template %s), or clone it without --linked",
                 object_text(object, "name"));
        return -1;
    }
    if (busy(vm, error) < 0)
        return -1;
    if (vm->real == GONE && (strcmp(state, "stopped") == 0 || strcmp(state, "failed") == 0))
        return 0;
    api_fail(error, 409, "running", "", "the VM is %s", state);
    api_hint(error, "stop it first");
    return -1;
}

static void clone_begin(struct daemon *daemon, struct http_request *request, struct vm *source,
                        const struct object *object, const json_t *args)
{
    const char *name = json_string_value(json_object_get(args, "name"));
    bool linked = json_is_true(json_object_get(args, "linked"));
    struct api_error error = { 0 };
    json_t *json = NULL;
    char id[UUID_TEXT];
    object_new_id(id);
    struct vm *vm = vm_new(daemon, id);
    if (clone_check(source, object, linked, &error) < 0 ||
        objects_name_free(daemon->objects, "vms", name, NULL, &error) < 0 ||
        vm_clone_plan(vm, source, linked, &json, &error) < 0 ||
        macs_fill(daemon, json_object_get(json, "nets"), NULL, &error) < 0) {
        json_decref(json);
        vm_forget(vm);
        reply_error(request, &error);
        return;
    }
    json_object_set_new(json, "name", json_string(name));
    object_begin(daemon, request, json, id);
    ask(request, vm, "vm.clone", name, NULL, json);
}

static int move_allowed(const struct move *move, const struct vm *vm, const struct object *object,
                        struct api_error *error)
{
    bool saved = strcmp(object_text(object, "state"), "saved") == 0;
    if (move->when == ONLY_UP && vm->real == GONE) /* STARTING: it is saved when it is up */
        return need_up(vm, error);
    if (move->when == ONLY_SAVED && !saved)
        return api_fail(error, 409, "not-saved", "", "the VM has no saved state");
    if (move->when == NOT_SAVED && saved) {
        api_fail(error, 409, "saved", "", "the VM is saved");
        api_hint(error, "start goes on from there; kill throws the saved state away");
        return -1;
    }
    return 0;
}

static void move_begin(struct daemon *daemon, struct http_request *request, struct vm *vm,
                       struct object *object, const struct move *move, const json_t *args)
{
    bool kill_it = strcmp(move->action, "kill") == 0;
    struct api_error error = { 0 };
    bool starts = strcmp(move->wanted, "running") == 0 || strcmp(move->action, "restart") == 0;
    if (not_being_cloned(vm, &error) < 0 || (!kill_it && busy(vm, &error) < 0) ||
        (starts && template_check(object, move->action, &error) < 0) ||
        move_allowed(move, vm, object, &error) < 0) {
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
    vm->asked_to_stop = vm->asked_to_pause = vm->asked_to_save = false;
    vm->killing = false;
    vm->backoff_ms = 0;
    if (vm->real == GONE)
        timer_set(vm, TIMER_NONE, 0);
    const char *wanted = move->wanted, *state = move->state;
    if (strcmp(move->action, "restart") == 0 && vm->real == GONE) {
        wanted = "running";
        state = "starting";
    }
    bool there = is_there(vm, wanted);
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
    if (strcmp(action, "clone") == 0) {
        clone_begin(daemon, request, vm, object, args);
        return;
    }
    if (strcmp(action, "log") == 0 && vm->real == GONE) {
        log_left(request, vm, args);
        return;
    }
    bool pauses = strcmp(action, "pause") == 0 || strcmp(action, "resume") == 0;
    if (need_up(vm, &error) < 0 || (pauses && busy(vm, &error) < 0)) {
        reply_error(request, &error);
        return;
    }
    if (pauses) {
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
    if (vm_agent_action(vm, request, action, args))
        return;
    api_fail(&error, 501, "not-there", "", "the action '%s' is not there yet", action);
    reply_error(request, &error);
}

/* ---- giving up a job ---- */

/* A VM that was going on from its saved state goes back there, and is saved again if it runs. */
static void start_cancel(struct vm *vm)
{
    bool saved = vm_saved_size(vm) >= 0 || vm_saved_used(vm);
    const char *wanted = saved ? "saved" : "stopped";
    vm->stop_timeout_s = 0; /* as soon as it answers */
    vm->restart = false;
    if (vm->real == GONE)
        timer_set(vm, TIMER_NONE, 0);
    vm_tell(vm,
            json_pack("{s:s, s:s}", "wanted", wanted, "state",
                      vm->real == GONE ? wanted
                      : saved          ? "saving"
                                       : "stopping"),
            "cancelled", NULL);
}

static void stop_cancel(struct vm *vm)
{
    timer_set(vm, TIMER_NONE, 0);
    vm->asked_to_stop = vm->restart = false;
    const char *state = vm->paused ? "paused" : "running";
    vm_tell(vm, json_pack("{s:s, s:s}", "wanted", state, "state", state), "cancelled", NULL);
}

void vm_job_cancel(struct daemon *daemon, struct object *job, struct api_error *error)
{
    const char *object = object_text(job, "object"), *kind = object_text(job, "kind");
    struct vm *vm = vm_of(daemon, object + strlen("vms/"));
    bool starts = strcmp(kind, "vm.start") == 0 || strcmp(kind, "vm.restore") == 0;
    bool stops = strcmp(kind, "vm.stop") == 0 || strcmp(kind, "vm.restart") == 0;
    if (vm_is_copying(vm) && vm_copy_cancel(vm))
        return;
    if (strcmp(vm->job, job->id) != 0 || !vm->job_kept)
        api_fail(error, 409, "ended", "", "the job is over");
    else if (starts ||
             (stops && strcmp(vm_wanted(vm), "running") == 0)) /* a restart's second half */
        start_cancel(vm);
    else if (stops && !vm->killing)
        stop_cancel(vm);
    else
        api_fail(error, 409, "too-late", "", "a job %s cannot be cancelled%s", kind,
                 stops ? " once the VM is being killed" : "");
}
