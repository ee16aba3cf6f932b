/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Keeping what changed of a VM, in the order in which it changed. */
#include "base/log.h"
#include "daemon/vms.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void update_try(struct update *u);

void update_free(struct update *u)
{
    json_decref(u->vm_patch);
    json_decref(u->job_patch);
    json_decref(u->vm_new);
    json_decref(u->job_new);
    job_key_end(u->key);
    free(u);
}

static void update_over(struct update *u, const struct api_error *error)
{
    struct vm *vm = u->vm;
    bool goes = (u->delete_vm && !error) || (u->vm_new && error); /* `then` forgets the VM */
    vm->updates = u->next;
    if (!vm->updates)
        vm->updates_end = &vm->updates;
    else if (!goes)
        update_try(vm->updates);
    if (error)
        log_error("VM %s: %s", vm->id, error->message);
    if (u->then)
        u->then(u, error);
    update_free(u);
    if (!goes && !vm->updates)
        vm_live_drive(vm);
}

static void update_done(void *arg, struct object *object, const struct api_error *error)
{
    struct update *u = arg;
    if (error && error->status == 412 && !u->vm_new)
        update_try(u); /* on what somebody else made of it */
    else
        update_over(u, error);
}

static void nothing_to_keep(void *arg) { update_over(arg, NULL); }

static void update_try(struct update *u)
{
    struct objects_change changes[2];
    struct objects *objects = u->vm->daemon->objects;
    unsigned count = 0;
    struct object *vm = vm_object(u->vm);
    struct object *job = u->job[0] ? objects_get(objects, "jobs", u->job) : NULL;
    if (u->vm_new)
        changes[count++] = (struct objects_change){ .kind = "vms",
                                                    .id = u->vm->id,
                                                    .take_json = json_deep_copy(u->vm_new) };
    else if (vm && (u->vm_patch || u->delete_vm))
        changes[count++] = (struct objects_change){
            .kind = "vms",
            .id = vm->id,
            .take_json = u->delete_vm ? NULL : object_patched(vm, u->vm_patch),
            .expect = vm->revision,
        };
    if (u->job_new)
        changes[count++] = (struct objects_change){ .kind = "jobs",
                                                    .id = u->job,
                                                    .take_json = json_deep_copy(u->job_new) };
    else if (job && u->job_patch)
        changes[count++] = (struct objects_change){ .kind = "jobs",
                                                    .id = job->id,
                                                    .take_json = object_patched(job, u->job_patch),
                                                    .expect = job->revision };
    if (count)
        objects_change(objects, changes, count, update_done, u);
    else
        loop_post(u->vm->daemon->loop, nothing_to_keep, u);
}

struct update *update_new(struct vm *vm, json_t *take_patch)
{
    struct update *u = calloc(1, sizeof *u);
    if (!u)
        abort();
    u->vm = vm;
    u->vm_patch = take_patch;
    return u;
}

void update_queue(struct update *u)
{
    struct vm *vm = u->vm;
    *vm->updates_end = u;
    vm->updates_end = &u->next;
    if (vm->updates == u)
        update_try(u);
}

void vm_tell(struct vm *vm, json_t *take_patch, const char *job_state, json_t *take_more)
{
    struct update *u = update_new(vm, take_patch);
    if (vm->job[0] && vm->job_kept && job_state) {
        strcpy(u->job, vm->job);
        u->job_patch =
            json_pack("{s:s, s:f, s:n}", "state", job_state, "ended", time_now(), "stage");
        if (take_more)
            json_object_update(u->job_patch, take_more);
        if (strcmp(job_state, "done") == 0)
            json_object_set_new(u->job_patch, "progress", json_integer(100));
        vm->job[0] = 0;
    }
    json_decref(take_more);
    update_queue(u);
}

void vm_stage(struct vm *vm, const char *stage, int progress)
{
    if (!vm->job[0] || !vm->job_kept)
        return;
    const struct object *job = objects_get(vm->daemon->objects, "jobs", vm->job);
    if (job && progress < 0 && strcmp(object_text(job, "stage"), stage) == 0)
        return;
    struct update *u = update_new(vm, NULL);
    strcpy(u->job, vm->job);
    u->job_patch = json_pack("{s:s}", "stage", stage);
    if (progress >= 0)
        json_object_set_new(u->job_patch, "progress", json_integer(progress));
    update_queue(u);
}

void vm_event(struct vm *vm, const char *kind, json_t *take_detail)
{
    struct object *object = vm_object(vm);
    event_add(kind, "vms", vm->id, object ? object_text(object, "name") : "", take_detail);
}
