/* SPDX-License-Identifier: GPL-2.0-or-later */
/* All virtual machines: which there are, and what a daemon finds when it starts. */
#include "daemon/vms.h"
#include "base/log.h"
#include "base/text.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static struct vm *vms;

struct object *vm_object(const struct vm *vm)
{
    return objects_get(vm->daemon->objects, "vms", vm->id);
}

const char *vm_wanted(const struct vm *vm)
{
    struct object *object = vm_object(vm);
    return object ? object_text(object, "wanted") : "deleted";
}

struct vm *vm_new(struct daemon *daemon, const char *id)
{
    struct vm *vm = calloc(1, sizeof *vm);
    if (!vm || loop_timer_create(daemon->loop, vm_timer, vm, &vm->timer, NULL) < 0)
        abort();
    vm->daemon = daemon;
    vm->pid_fd = vm->own_id = -1;
    vm->updates_end = &vm->updates;
    snprintf(vm->id, sizeof vm->id, "%s", id);
    vm->next = vms;
    vms = vm;
    return vm;
}

const struct vm *vms_first(void) { return vms; }

struct vm *vm_find(const char *id)
{
    struct vm *vm = vms;
    while (vm && strcmp(vm->id, id) != 0)
        vm = vm->next;
    return vm;
}

struct vm *vm_of(struct daemon *daemon, const char *id)
{
    struct vm *vm = vm_find(id);
    return vm ? vm : vm_new(daemon, id);
}

void vm_forget(struct vm *vm)
{
    struct vm **p = &vms;
    struct api_error error = { 0 };
    while (*p != vm)
        p = &(*p)->next;
    *p = vm->next;
    api_fail(&error, 404, "not-found", "", "the VM was deleted");
    for (struct update *u = vm->updates, *next; u; u = next) {
        next = u->next;
        if (u->request)
            reply_error(u->request, &error);
        update_free(u);
    }
    vm_release(vm);
    loop_timer_destroy(vm->timer);
    free(vm);
}

/* ---- start and end ---- */

void vms_changed(struct daemon *daemon, struct object *object, const json_t *was, const json_t *now)
{
    if (!was)
        event_add("vm.created", "vms", object->id, object_text(object, "name"), NULL);
}

void vms_count(struct daemon *daemon, unsigned *defined, unsigned *running)
{
    size_t count;
    objects_list(daemon->objects, "vms", &count);
    *defined = (unsigned)count;
    *running = 0;
    for (struct vm *vm = vms; vm; vm = vm->next)
        *running += vm->real == UP;
}

/* The name of the first VM, kept or about to be, whose `field` is this. */
static const char *vm_with(const char *field, const char *value, bool copying)
{
    for (struct vm *vm = vms; vm; vm = vm->next) {
        struct object *object = vm_object(vm);
        const json_t *json = object ? object->json : vm->updates ? vm->updates->vm_new : NULL;
        const char *is = json_string_value(json_object_get(json, field));
        if (is && strcmp(is, value) == 0 && (!copying || json_object_get(json, "copies")))
            return json_string_value(json_object_get(json, "name"));
    }
    return NULL;
}

const char *vms_from_image(const char *image) { return vm_with("image", image, false); }

const char *vms_cloned_from(const char *id, bool copying)
{
    return vm_with(copying ? "source" : "linked_to", id, copying);
}

/* Of the time that its guest has to shut down; a clock that was set makes it neither longer nor
 * negative. */
static unsigned timeout_left(const struct object *job)
{
    double timeout = json_number_value(json_object_get(job->json, "timeout"));
    double past = time_now() - json_number_value(json_object_get(job->json, "created"));
    double left = timeout - (past > 0 ? past : 0);
    return left > 0 ? (unsigned)left : 0;
}

/* A job that a former daemon left: its VM goes on with it. */
static void job_adopt(struct daemon *daemon, struct object *job)
{
    const char *object = object_text(job, "object");
    job_seen(job->id);
    if (strcmp(object_text(job, "state"), "running") != 0 || strncmp(object, "vms/", 4) != 0 ||
        !objects_get(daemon->objects, "vms", object + 4))
        return;
    struct vm *vm = vm_of(daemon, object + 4);
    snprintf(vm->job, sizeof vm->job, "%s", job->id);
    vm->job_kept = true;
    vm->restart = strcmp(object_text(job, "kind"), "vm.restart") == 0 &&
                  strcmp(object_text(vm_object(vm), "wanted"), "stopped") == 0;
    vm->stop_timeout_s = timeout_left(job);
}

static int by_order(const void *a, const void *b)
{
    const struct object *const *x = a, *const *y = b;
    json_int_t m =
        json_integer_value(json_object_get(json_object_get((*x)->json, "autostart"), "order"));
    json_int_t n =
        json_integer_value(json_object_get(json_object_get((*y)->json, "autostart"), "order"));
    return m < n ? -1 : m > n;
}

/* The run directory is emptied when the host starts; where it is not, the boot's id tells. */
static bool first_since_boot(const struct daemon *daemon)
{
    char path[PATH_MAX + 8];
    AUTO(buf_fini) struct buf now = { 0 };
    AUTO(buf_fini) struct buf then = { 0 };
    snprintf(path, sizeof path, "%s/boot", daemon->run_dir);
    if (file_read("/proc/sys/kernel/random/boot_id", 64, &now, NULL) < 0)
        buf_printf(&now, "unknown");
    if (file_read(path, 64, &then, NULL) == 0 && then.len == now.len &&
        memcmp(then.data, now.data, now.len) == 0)
        return false;
    AUTO(fd_close) int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write_full(fd, now.data, now.len) < 0)
        log_warning("cannot write %s: the next daemon will take itself for the first", path);
    return true;
}

/* That it is wanted is kept: its turn comes. */
static void autostart_kept(struct update *u, const struct api_error *error)
{
    if (!error && u->vm->real == GONE && !u->vm->job[0])
        timer_set(u->vm, TIMER_RESTART, u->vm->start_delay_ms + 1);
}

/* After a start of the host: those that are to run and do not, one after the other with their
 * delays. */
static void autostart(struct daemon *daemon)
{
    size_t count;
    struct object **list = objects_list(daemon->objects, "vms", &count);
    struct object **order = malloc((count + 1) * sizeof(struct object *));
    unsigned delay_ms = 0;
    size_t n = 0;
    if (!order)
        abort();
    for (size_t i = 0; i < count; i++) {
        const json_t *a = json_object_get(list[i]->json, "autostart");
        if (json_is_true(json_object_get(a, "enabled")) &&
            !json_is_true(json_object_get(list[i]->json, "template")))
            order[n++] = list[i];
    }
    qsort(order, n, sizeof(struct object *), by_order);
    for (size_t i = 0; i < n; i++) {
        struct vm *vm = vm_of(daemon, order[i]->id);
        const json_t *a = json_object_get(order[i]->json, "autostart");
        if (vm->real != GONE || vm->job[0] || vm->timing != TIMER_NONE)
            continue;
        struct update *u =
            update_new(vm, json_pack("{s:s, s:s}", "wanted", "running", "state", "starting"));
        u->then = autostart_kept;
        vm->start_delay_ms = delay_ms;
        delay_ms += (unsigned)json_integer_value(json_object_get(a, "delay")) * 1000;
        update_queue(u);
    }
    free(order);
}

int vms_start(struct daemon *daemon, struct err *err)
{
    size_t count, jobs;
    char dir[PATH_MAX + 8];
    const char *const parents[] = { daemon->run_dir, daemon->state_dir };
    for (unsigned i = 0; i < 2; i++) {
        snprintf(dir, sizeof dir, "%s/vms", parents[i]);
        if (mkdir(dir, 0700) < 0 && errno != EEXIST)
            return err_errno(err, errno, "cannot make %s", dir);
    }
    struct object **list = objects_list(daemon->objects, "jobs", &jobs);
    for (size_t i = 0; i < jobs; i++)
        job_adopt(daemon, list[i]);
    list = objects_list(daemon->objects, "vms", &count);
    for (size_t i = 0; i < count; i++)
        vm_adopt(vm_of(daemon, list[i]->id));
    if (first_since_boot(daemon))
        autostart(daemon);
    return 0;
}

void vms_stop(struct daemon *daemon)
{
    while (vms) {
        struct vm *vm = vms;
        vmm_client_destroy(TAKE(vm->client));
        vm_forget(vm);
    }
}
