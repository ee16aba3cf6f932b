/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Changes of a VM that runs: from what its process has to what its object says, as far as that can
 * be done while it runs. The rest waits for the next start, and `pending` names it.
 *
 * What the process has is vm->config: what it was started with, kept in step with what it says of
 * itself (its status), and written to config.json. One step is taken at a time: ask the process,
 * ask for its status, compare again. So nothing is lost with a daemon that is killed anywhere. A
 * step that failed is not tried again before the client changes something.
 */
#include "base/log.h"
#include "daemon/vms.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KEY_ROOM = 4200 };

static const char *text_of(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));
    return text ? text : "";
}

static json_t *list_find(const json_t *list, const char *member, const char *value)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *entry = json_array_get(list, i);
        if (strcasecmp(text_of(entry, member), value) == 0)
            return entry;
    }
    return NULL;
}

static bool plugged_in(const json_t *status_entry)
{
    return json_object_get(status_entry, "device") != NULL;
}

static json_t *drive_find(const struct vm *vm) /* the CD drive; NULL: there is none */
{
    return list_find(json_object_get(vm->status, "disks"), "drive", "cdrom0");
}

/* ---- the configuration follows the status ---- */

/* What was there from the start stays as it is and in its place; what was plugged in follows, in
 * the order of the status: so a saved state finds it again. */
static void list_follow(struct vm *vm, const json_t *wanted, const char *option, const char *status,
                        const char *key)
{
    const json_t *told = json_object_get(vm->status, status),
                 *old = json_object_get(vm->config, option);
    json_t *list = json_array();
    size_t first = 0;
    for (size_t i = 0; i < json_array_size(told); i++) {
        const json_t *entry = json_array_get(told, i);
        bool cdrom = strncmp(text_of(entry, "drive"), "cdrom", 5) == 0;
        const char *value = text_of(entry, key);
        if (cdrom)
            continue;
        json_t *found =
            !plugged_in(entry) ? json_array_get(old, first++) : list_find(old, key, value);
        if (!found)
            found = list_find(json_object_get(wanted, option), key, value);
        if (found)
            json_array_append_new(list, json_deep_copy(found));
        else
            json_array_append_new(list, json_pack("{s:s}", key, value));
    }
    json_object_set_new(vm->config, option, list);
}

static void config_follow(struct vm *vm)
{
    AUTO(json_decref) json_t *wanted = vm_config(vm, vm_object(vm)->json);
    AUTO(json_decref) json_t *old = vm->config ? json_deep_copy(vm->config) : NULL;
    const json_t *drive = drive_find(vm);
    struct err err;
    if (!vm->config) /* its file is gone: the best guess */
        vm->config = json_incref(wanted);
    list_follow(vm, wanted, "disk", "disks", "path");
    list_follow(vm, wanted, "net", "nets", "mac");
    if (drive && !json_is_array(json_object_get(vm->config, "cdrom")))
        json_object_set_new(vm->config, "cdrom",
                            json_string(*text_of(drive, "path") ? text_of(drive, "path") : "none"));
    if ((!old || !json_equal(old, vm->config)) &&
        vm_config_write(vm, "config.json", vm->config, &err) < 0)
        log_warning("VM %s: %s", vm->id, err.text);
}

/* ---- those who wait for the outcome of a change ---- */

struct waiting {
    struct waiting *next;
    struct http_request *request;
};

static void waiters_answer(struct vm *vm)
{
    struct object *object = vm_object(vm);
    struct api_error error = { 0 };
    api_fail(&error, 404, "not-found", "", "the VM was deleted");
    while (vm->waiting) {
        struct waiting *w = vm->waiting;
        vm->waiting = w->next;
        if (object)
            reply_object(w->request, 200, object);
        else
            reply_error(w->request, &error);
        free(w);
    }
}

/* ---- what is, and what waits ---- */

static json_t *copy_members(const json_t *from, const char *const *names)
{
    json_t *to = json_object();
    for (; *names; names++) {
        json_t *value = json_object_get(from, *names);
        if (value && !json_is_null(value))
            json_object_set(to, *names, value);
    }
    return to;
}

/* A limit in a configuration, where sizes are "1048576B"; 0: there is none. */
static json_int_t limit_of(const json_t *config, const char *option)
{
    const json_t *value = json_object_get(config, option);
    return json_is_string(value) ? strtoll(json_string_value(value), NULL, 10)
                                 : json_integer_value(value);
}

static void limits_show(const json_t *config, json_t *now)
{
    char option[32];
    for (unsigned i = 0; disk_limits[i]; i++) {
        option_name(disk_limits[i], option);
        if (limit_of(config, option))
            json_object_set_new(now, disk_limits[i], json_integer(limit_of(config, option)));
    }
}

static json_t *now_list(const struct vm *vm, const char *status, const char *option,
                        const char *key, const char *const *from_status,
                        const char *const *from_config)
{
    const json_t *told = json_object_get(vm->status, status);
    json_t *list = json_array();
    for (size_t i = 0; i < json_array_size(told); i++) {
        const json_t *entry = json_array_get(told, i);
        const json_t *config =
            list_find(json_object_get(vm->config, option), key, text_of(entry, key));
        json_t *now = copy_members(entry, from_status);
        json_object_update_new(now, copy_members(config, from_config));
        limits_show(config, now);
        json_object_set_new(now, "removable", json_boolean(plugged_in(entry)));
        json_array_append_new(list, now);
    }
    return list;
}

static json_t *now_json(const struct vm *vm)
{
    static const char *const top[] = { "cpus", "memory", "cpu", NULL },
                             *disk[] = { "drive", "path", "format", "size", "readonly", NULL },
                             *net[] = { "mac", NULL }, *backend[] = { "backend", NULL },
                             *none[] = { NULL };
    json_t *now = copy_members(vm->status, top);
    if (json_object_get(vm->status, "memory-target"))
        json_object_set(now, "memory_target", json_object_get(vm->status, "memory-target"));
    json_object_set_new(now, "disks", now_list(vm, "disks", "disk", "path", disk, none));
    json_object_set_new(now, "nets", now_list(vm, "nets", "net", "mac", net, backend));
    json_object_set_new(now, "agent", json_boolean(vm->agent_open));
    vm_limits_tell(vm, now);
    return now;
}

static int by_key(const void *a, const void *b)
{
    const json_t *const *x = a, *const *y = b;
    const char *member = json_object_get(*x, "path") ? "path" : "mac";
    return strcasecmp(text_of(*x, member), text_of(*y, member));
}

/* The same entries, in whichever order. */
static bool lists_equal(const json_t *a, const json_t *b)
{
    size_t count = json_array_size(a);
    const json_t **x = malloc((count + 1) * sizeof *x), **y = malloc((count + 1) * sizeof *y);
    bool equal = count == json_array_size(b);
    if (!x || !y)
        abort();
    for (size_t i = 0; equal && i < count; i++) {
        x[i] = json_array_get(a, i);
        y[i] = json_array_get(b, i);
    }
    if (equal) {
        qsort(x, count, sizeof *x, by_key);
        qsort(y, count, sizeof *y, by_key);
    }
    for (size_t i = 0; equal && i < count; i++)
        equal = json_equal(x[i], y[i]);
    free(x);
    free(y);
    return equal;
}

/* What can be done while it runs is compared with what was: its process's configuration. */
static bool option_same(const char *option, const json_t *wanted, const json_t *config)
{
    const json_t *a = json_object_get(wanted, option), *b = json_object_get(config, option);
    if (!a && json_is_string(b) && strcmp(json_string_value(b), "none") == 0)
        return true; /* an empty drive */
    return json_is_array(a) ? lists_equal(a, b) : (!a && !b) || json_equal(a, b);
}

/* The rest with the object that it was started with. */
static bool field_same(const struct vm *vm, const char *field, const json_t *object)
{
    const json_t *a = json_object_get(object, field), *b = json_object_get(vm->begun, field);
    return !vm->begun || (!a && !b) || json_equal(a, b);
}

/* What it is to be now. Its guest's cloud-init was told what it is to do when it started. */
static json_t *config_wanted(const struct vm *vm, const json_t *object)
{
    AUTO(json_decref) json_t *now = json_copy((json_t *)object);
    json_t *told = json_object_get(vm->begun, "cloud_init");
    if (vm->begun && told)
        json_object_set(now, "cloud_init", told);
    else if (vm->begun)
        json_object_del(now, "cloud_init");
    return vm_config(vm, now);
}

static json_t *pending_json(const struct vm *vm, const json_t *object)
{
    static const struct {
        const char *option, *field;
    } live[] = {
        { "memory", "memory" }, { "disk", "disks" }, { "cdrom", "cdrom" }, { "net", "nets" }
    };
    json_t *pending = json_array();
    if (!vm->config)
        return pending;
    AUTO(json_decref) json_t *wanted = config_wanted(vm, object);
    for (const struct api_field *f = api_resource_find("vms")->fields; f->name; f++) {
        const char *option = NULL;
        if (f->flags & (API_LIVE | API_SERVER | API_FIXED))
            continue;
        for (unsigned i = 0; i < sizeof live / sizeof *live; i++)
            if (strcmp(live[i].field, f->name) == 0)
                option = live[i].option;
        if (!(option ? option_same(option, wanted, vm->config) : field_same(vm, f->name, object)))
            json_array_append_new(pending, json_string(f->name));
    }
    vm_limits_pending(vm, object, pending);
    return pending;
}

json_t *vm_live_tell(const struct vm *vm)
{
    const char *key;
    json_t *reason, *why = json_null();
    json_object_foreach(vm->live_failed, key, reason) why = reason;
    return json_pack("{s:o, s:o, s:O}", "now", now_json(vm), "pending",
                     pending_json(vm, vm_object(vm)->json), "change_error", why);
}

void vm_live_forget(struct vm *vm)
{
    json_decref(TAKE(vm->config));
    json_decref(TAKE(vm->begun));
    json_decref(TAKE(vm->status));
    json_decref(TAKE(vm->live_failed));
    json_decref(TAKE(vm->removing));
    net_opening_cancel(TAKE(vm->opening));
    vm->live_busy = false;
    waiters_answer(vm);
}

/* ---- steps ---- */

/* A step that the process was asked for. */
struct step {
    struct vm *vm;
    char key[KEY_ROOM]; /* "add /d.qcow2": what is not tried again if it fails */
    json_t *entry;      /* a disk's limits: config's entry with them becomes true; NULL */
};

static void step_failed(struct vm *vm, const char *key, const char *why)
{
    if (!vm->live_failed)
        vm->live_failed = json_object();
    json_object_set_new(vm->live_failed, key, json_string(why));
    vm_event(vm, "vm.change-failed", json_pack("{s:s}", "reason", why));
}

static bool may_try(const struct vm *vm, const char *key)
{
    return !json_object_get(vm->live_failed, key);
}

static void status_again(void *arg, const json_t *ok, const struct err *err)
{
    struct vm *vm = arg;
    if (!ok || vm->real != UP)
        return;
    vm->live_busy = false;
    vm_live_status(vm, ok);
    vm_live_drive(vm);
}

static void step_answered(void *arg, const json_t *ok, const struct err *err)
{
    struct step *step = arg;
    struct vm *vm = step->vm;
    if (vm->real == UP && vm->client) {
        json_t *disk =
            list_find(json_object_get(vm->config, "disk"), "path", text_of(step->entry, "path"));
        if (!ok)
            step_failed(vm, step->key, err->text);
        else
            vm_event(vm, "vm.changed", json_pack("{s:s}", "step", step->key));
        if (ok && disk) {
            json_object_clear(disk);
            json_object_update(disk, step->entry);
            vm_config_write(vm, "config.json", vm->config, NULL);
        }
        vmm_client_ask(vm->client, "status", NULL, -1, status_again, vm);
    }
    json_decref(step->entry);
    free(step);
}

/* True: it is under way. take_fd: -1: none; on failure to open, `err` says why. */
static bool step_take(struct vm *vm, const char *key, const char *what, json_t *take_members,
                      int take_fd, json_t *take_entry)
{
    struct step *step = calloc(1, sizeof *step);
    if (!step)
        abort();
    step->vm = vm;
    step->entry = take_entry;
    snprintf(step->key, sizeof step->key, "%s", key);
    vm->live_busy = true;
    vmm_client_ask(vm->client, what, take_members, take_fd, step_answered, step);
    fd_close(take_fd);
    return true;
}

/* "hot1" and so on: one that no device has. */
static void device_name(const struct vm *vm, char out[16])
{
    for (unsigned n = 1;; n++) {
        snprintf(out, 16, "hot%u", n);
        if (!list_find(json_object_get(vm->status, "disks"), "device", out) &&
            !list_find(json_object_get(vm->status, "nets"), "device", out))
            return;
    }
}

static bool is_limit(const char *option)
{
    char name[32];
    for (unsigned i = 0; disk_limits[i]; i++) {
        option_name(disk_limits[i], name);
        if (strcmp(name, option) == 0)
            return true;
    }
    return false;
}

/* What device-add knows of a disk. */
static bool disk_pluggable(const json_t *disk)
{
    static const char *const known[] = { "path",   "format",  "bus",      "readonly",
                                         "serial", "on-full", "on-error", "queues" };
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)disk, key, value)
    {
        bool found = is_limit(key);
        for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
            found |= strcmp(known[i], key) == 0;
        if (!found)
            return false;
    }
    const char *bus = text_of(disk, "bus");
    return text_of(disk, "path")[0] == '/' && (!*bus || strcmp(bus, "virtio") == 0);
}

/* With an image or medium by descriptor; failing to open it is the step's failure. */
static bool step_open(struct vm *vm, const char *key, const char *what, json_t *take_members,
                      const char *path, int flags)
{
    struct err err;
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0)
        return step_take(vm, key, what, take_members, fd, NULL);
    err_errno(&err, errno, "cannot open %s", path);
    step_failed(vm, key, err.text);
    json_decref(take_members);
    return false;
}

static bool disk_add(struct vm *vm, const json_t *disk)
{
    static const char *const others[] = { "path", "format", "bus", "readonly" };
    const char *path = text_of(disk, "path"), *format = text_of(disk, "format");
    bool readonly = json_is_true(json_object_get(disk, "readonly"));
    char key[KEY_ROOM], name[16];
    snprintf(key, sizeof key, "add %s", path);
    if (!disk_pluggable(disk) || !may_try(vm, key))
        return false;
    device_name(vm, name);
    json_t *members = json_pack("{s:s, s:s, s:s, s:b}", "kind", "disk", "device", name, "name",
                                path, "readonly", readonly);
    if (*format)
        json_object_set_new(members, "format", json_string(format));
    json_t *options = json_deep_copy(disk);
    for (unsigned i = 0; i < sizeof others / sizeof *others; i++)
        json_object_del(options, others[i]);
    if (json_object_size(options))
        json_object_set_new(members, "options", options);
    else
        json_decref(options);
    return step_open(vm, key, "device-add", members, path, readonly ? O_RDONLY : O_RDWR);
}

/* All by one command: what is left out has no limit. */
static bool disk_limit(struct vm *vm, const json_t *disk, const json_t *now)
{
    char key[KEY_ROOM], name[32];
    bool same = true;
    json_t *limits = json_object(), *entry = json_deep_copy(now);
    for (unsigned i = 0; disk_limits[i]; i++) {
        option_name(disk_limits[i], name);
        json_int_t wanted = limit_of(disk, name);
        same &= wanted == limit_of(now, name);
        json_object_del(entry, name);
        if (!wanted)
            continue;
        json_object_set(entry, name, json_object_get(disk, name));
        json_object_set_new(limits, name, json_integer(wanted));
    }
    snprintf(key, sizeof key, "limit %s", text_of(disk, "path"));
    if (!same && may_try(vm, key))
        return step_take(vm, key, "disk-throttle",
                         json_pack("{s:s, s:o}", "disk", text_of(disk, "path"), "limits", limits),
                         -1, entry);
    json_decref(limits);
    json_decref(entry);
    return false;
}

/* Asks the guest to let go of what the object no longer names: the event device-removed follows. */
static bool device_remove(struct vm *vm, const json_t *told, const char *member,
                          const json_t *wanted)
{
    for (size_t i = 0; i < json_array_size(told); i++) {
        const json_t *entry = json_array_get(told, i);
        const char *value = text_of(entry, member), *device = text_of(entry, "device");
        char key[KEY_ROOM];
        snprintf(key, sizeof key, "remove %s", value);
        if (!*device || list_find(wanted, member, value) || json_object_get(vm->removing, device) ||
            !may_try(vm, key))
            continue;
        if (!vm->removing)
            vm->removing = json_object();
        json_object_set_new(vm->removing, device, json_true());
        return step_take(vm, key, "device-remove", json_pack("{s:s}", "device", device), -1, NULL);
    }
    return false;
}

static bool disks_step(struct vm *vm, const json_t *wanted)
{
    const json_t *told = json_object_get(vm->status, "disks");
    if (device_remove(vm, told, "path", wanted))
        return true;
    for (size_t i = 0; i < json_array_size(wanted); i++) {
        const json_t *disk = json_array_get(wanted, i);
        const json_t *now =
            list_find(json_object_get(vm->config, "disk"), "path", text_of(disk, "path"));
        if (now ? disk_limit(vm, disk, now) : disk_add(vm, disk))
            return true;
    }
    return false;
}

/* Several drives, or one on a bus of its own, are an array: their media change at the next start.
 */
static bool medium_step(struct vm *vm, const json_t *cdrom)
{
    const json_t *drive = drive_find(vm);
    const char *path = text_of(drive, "path"), *wanted = json_string_value(cdrom);
    char key[KEY_ROOM];
    if (!wanted || strcmp(wanted, "none") == 0)
        wanted = "";
    if (!drive || json_is_array(cdrom) || strcmp(path, wanted) == 0)
        return false;
    snprintf(key, sizeof key, "%s %s", *path ? "eject" : "insert", *path ? path : wanted);
    if (!may_try(vm, key))
        return false;
    if (*path)
        return step_take(vm, key, "medium-eject", json_pack("{s:s}", "drive", "cdrom0"), -1, NULL);
    return step_open(vm, key, "medium-insert",
                     json_pack("{s:s, s:s}", "drive", "cdrom0", "name", wanted), wanted, O_RDONLY);
}

static void net_plug(struct vm *vm, int take_fd)
{
    char key[KEY_ROOM], name[16];
    snprintf(key, sizeof key, "add %s", vm->opening_mac);
    device_name(vm, name);
    step_take(vm, key, "device-add",
              json_pack("{s:s, s:s, s:s}", "kind", "net", "device", name, "mac", vm->opening_mac),
              take_fd, NULL);
}

/* vm_live_forget() cancels it: the VM runs. */
static void net_there(void *arg, int take_fd, const struct err *err)
{
    struct vm *vm = arg;
    char key[KEY_ROOM];
    vm->opening = NULL;
    if (!vm->client) { /* its process is about to end */
        fd_close(take_fd);
        return;
    }
    if (take_fd >= 0) {
        net_plug(vm, take_fd);
        return;
    }
    snprintf(key, sizeof key, "add %s", vm->opening_mac);
    vm->live_busy = false;
    step_failed(vm, key, err->text);
    vm_live_drive(vm);
}

static bool nets_step(struct vm *vm, const json_t *wanted)
{
    const json_t *told = json_object_get(vm->status, "nets");
    if (device_remove(vm, told, "mac", wanted))
        return true;
    for (size_t i = 0; i < json_array_size(wanted); i++) {
        const json_t *net = json_array_get(wanted, i);
        const char *mac = text_of(net, "mac");
        char key[KEY_ROOM];
        struct err err;
        int fd;
        snprintf(key, sizeof key, "add %s", mac);
        if (list_find(told, "mac", mac) || json_object_get(net, "model") ||
            json_object_get(net, "tftp") || !may_try(vm, key))
            continue;
        if (net_backend_open(vm, net, net_there, vm, &fd, &vm->opening, &err) < 0) {
            step_failed(vm, key, err.text);
            continue;
        }
        snprintf(vm->opening_mac, sizeof vm->opening_mac, "%s", mac);
        if (fd >= 0)
            net_plug(vm, fd);
        else
            vm->live_busy = true;
        return true;
    }
    return false;
}

/* A guest that shall do with less than it was made with is asked by its balloon. */
static bool memory_step(struct vm *vm, const json_t *wanted)
{
    long long bytes = strtoll(text_of(wanted, "memory"), NULL, 10);
    char key[64];
    snprintf(key, sizeof key, "memory %lld", bytes);
    if (bytes > json_integer_value(json_object_get(vm->status, "memory")) ||
        bytes == json_integer_value(json_object_get(vm->status, "memory-target")) ||
        !may_try(vm, key))
        return false;
    return step_take(vm, key, "balloon", json_pack("{s:I}", "target", (json_int_t)bytes), -1, NULL);
}

void vm_limits_done(struct vm *vm, const char *wrong)
{
    if (vm->real != UP)
        return;
    if (*wrong)
        step_failed(vm, "limits", wrong);
    vm->live_busy = false;
    vm_live_drive(vm);
}

/* Control groups are the daemon's: the process is not asked. */
static bool limits_step(struct vm *vm)
{
    struct err err;
    if (!may_try(vm, "limits"))
        return false;
    int r = vm_limits_step(vm, &err);
    if (r < 0)
        step_failed(vm, "limits", err.text);
    if (r > 0)
        vm_event(vm, "vm.changed", json_pack("{s:s}", "step", "limits"));
    vm->live_busy = r == 2;
    return vm->live_busy;
}

void vm_live_status(struct vm *vm, const json_t *status)
{
    json_decref(vm->status);
    vm->status = json_deep_copy(status);
    config_follow(vm);
    /* A former daemon's VM: its limits are known, and told, once they are set. */
    if (!vm->limits.tasks && !vm->live_busy)
        limits_step(vm);
}

static bool step_next(struct vm *vm)
{
    if (limits_step(vm))
        return true;
    AUTO(json_decref) json_t *wanted = config_wanted(vm, vm_object(vm)->json);
    bool slots = strcmp(text_of(vm->config, "profile"), "pc-1") == 0;
    return (slots && disks_step(vm, json_object_get(wanted, "disk"))) ||
           (slots && nets_step(vm, json_object_get(wanted, "net"))) ||
           medium_step(vm, json_object_get(wanted, "cdrom")) || memory_step(vm, wanted);
}

void vm_live_drive(struct vm *vm)
{
    const char *wanted = vm_wanted(vm);
    bool stays = strcmp(wanted, "running") == 0 || strcmp(wanted, "paused") == 0;
    if (vm->live_busy || !vm->status || !vm->client || vm->real != UP || !stays || step_next(vm))
        return;
    AUTO(json_decref) json_t *tell = vm_live_tell(vm);
    const json_t *is = vm_object(vm)->json;
    const char *key;
    json_t *value;
    bool known = true;
    json_object_foreach(tell, key, value) known &=
        json_equal(value, json_object_get(is, key) ?: json_null());
    if (known)
        waiters_answer(vm);
    else if (!vm->updates) /* the change calls again; so does what is being kept already */
        vm_tell(vm, TAKE(tell), NULL, NULL);
}

void vm_live_wait(struct vm *vm, struct http_request *request)
{
    struct waiting *w = malloc(sizeof *w);
    if (!w)
        abort();
    *w = (struct waiting){ vm->waiting, request };
    vm->waiting = w;
    vm_live_drive(vm);
}
