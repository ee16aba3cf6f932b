/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Clones: a VM like another, with disks of its own. A full clone has copies; a linked one has
 * overlays over the disks of a template, which never runs and so never changes.
 *
 * What is still to be made is kept in the object as "copies", next to the job: a daemon that was
 * killed meanwhile goes on with what is not there yet.
 */
#include "daemon/child.h"
#include "daemon/images.h"
#include "daemon/vms.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const json_t *copies_of(const struct vm *vm)
{
    const struct object *object = vm_object(vm);
    return object ? json_object_get(object->json, "copies") : NULL;
}

bool vm_is_copying(const struct vm *vm) { return copies_of(vm); }

static const char *text_of(const json_t *object, const char *field)
{
    return json_string_value(json_object_get(object, field));
}

/* ---- making them ---- */

static void forgotten(struct update *u, const struct api_error *error)
{
    if (!error)
        vm_forget(u->vm);
}

/* Nothing of the clone stays. */
static void give_up(struct vm *vm, const char *why)
{
    struct update *u = update_new(vm, NULL);
    vm_dirs_remove(vm);
    u->delete_vm = true;
    u->then = forgotten;
    strcpy(u->job, vm->job);
    u->job_patch = json_pack("{s:s, s:f, s:n}", "state", vm->killing ? "cancelled" : "failed",
                             "ended", time_now(), "stage");
    if (!vm->killing)
        json_object_update_new(u->job_patch, job_error("clone-failed", why, NULL));
    update_queue(u);
}

static const json_t *next_copy(const struct vm *vm)
{
    const json_t *list = copies_of(vm);
    char path[PATH_MAX];
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *copy = json_array_get(list, i);
        vm_state_path(vm, text_of(copy, "name"), path);
        if (access(path, F_OK) < 0)
            return copy;
    }
    return NULL;
}

static void copied(void *arg, int status, const char *said)
{
    struct vm *vm = arg;
    char part[PATH_MAX], path[PATH_MAX];
    const json_t *copy = next_copy(vm);
    vm->maker = NULL; /* it is gone after this call */
    if (copy) {
        vm_part_path(vm, text_of(copy, "name"), part);
        vm_state_path(vm, text_of(copy, "name"), path);
    }
    if (status == 0 && copy && rename(part, path) == 0)
        vm_copy_drive(vm);
    else
        give_up(vm, *said ? said : "a copy could not be made");
}

static int copy_start(struct vm *vm, const json_t *copy, struct err *err)
{
    static const struct child_calls calls = { NULL, copied };
    const char *from = text_of(copy, "from"), *format = text_of(copy, "format");
    const char *how = text_of(copy, "how");
    char part[PATH_MAX];
    char *words[12];
    unsigned n = 0;
    vm_parts_remove(vm);
    vm_part_path(vm, text_of(copy, "name"), part);
    if (strcmp(how, "file") == 0) {
        words[n++] = (char *)"/bin/cp";
    } else {
        bool linked = strcmp(how, "linked") == 0;
        words[n++] = vm->daemon->img;
        words[n++] = (char *)(linked ? "create" : "convert");
        words[n++] = (char *)(linked ? "-f" : "-O");
        words[n++] = (char *)"qcow2";
        if (format)
            words[n++] = (char *)(linked ? "-F" : "-f");
        if (format)
            words[n++] = (char *)format;
        if (linked)
            words[n++] = (char *)"-b";
    }
    words[n++] = (char *)from;
    words[n++] = part;
    words[n] = NULL;
    return child_start(vm->daemon->loop, words, &calls, vm, &vm->maker, err);
}

void vm_copy_drive(struct vm *vm)
{
    struct err err;
    const json_t *copy = next_copy(vm);
    if (vm->maker)
        return;
    int r = vm_dirs_make(vm, &err);
    if (r == 0 && copy)
        r = copy_start(vm, copy, &err);
    if (r < 0) {
        give_up(vm, err.text);
    } else if (copy) {
        vm_stage(vm, "copying disks", -1);
    } else {
        vm_parts_remove(vm);
        vm_tell(vm, json_pack("{s:s, s:n}", "state", "stopped", "copies"), "done",
                json_pack("{s:{s:s}}", "result", "id", vm->id));
    }
}

bool vm_copy_cancel(struct vm *vm)
{
    if (!vm->maker)
        return false;
    vm->killing = true;
    child_kill(vm->maker);
    return true;
}

/* ---- asking for one ---- */

/* The new VM's disk for one of the source's, and what must be copied for it. */
static int disk_plan(const struct vm *clone, json_t *disk, bool linked, json_t *copies,
                     struct api_error *error)
{
    const char *path = text_of(disk, "path"), *format = text_of(disk, "format");
    char to[PATH_MAX];
    if (json_is_true(json_object_get(disk, "readonly")))
        return 0; /* it can be shared */
    if (strstr(path, "://"))
        return api_fail(error, 422, "invalid", "",
                        "the disk %.200s lies elsewhere: it cannot be copied", path);
    json_t *copy =
        json_pack("{s:s, s:s, s:o, s:s*}", "from", path, "how", linked ? "linked" : "full", "name",
                  json_sprintf("disk%zu.qcow2", json_array_size(copies)), "format", format);
    json_array_append_new(copies, copy);
    vm_state_path(clone, text_of(copy, "name"), to);
    json_object_set_new(disk, "path", json_string(to));
    json_object_set_new(disk, "format", json_string("qcow2"));
    return 0;
}

/* What a clone has of its source: all that clients set, but what stands for one VM alone. */
static json_t *like(const struct object *source)
{
    static const char *const own[] = { "name", "template", "autostart", NULL };
    json_t *vm = json_object();
    for (const struct api_field *f = api_resource_find("vms")->fields; f->name; f++) {
        const char *const *o = own;
        while (*o && strcmp(*o, f->name) != 0)
            o++;
        json_t *value = json_object_get(source->json, f->name);
        if (!*o && !(f->flags & API_SERVER) && value)
            json_object_set_new(vm, f->name, json_deep_copy(value));
    }
    json_t *nets = json_object_get(vm, "nets");
    for (size_t i = 0; i < json_array_size(nets); i++)
        json_object_del(json_array_get(nets, i), "mac");
    return vm;
}

int vm_clone_plan(const struct vm *clone, const struct vm *source, bool linked, json_t **out,
                  struct api_error *error)
{
    const struct object *object = vm_object(source);
    AUTO(json_decref) json_t *vm = like(object);
    AUTO(json_decref) json_t *copies = json_array();
    AUTO(json_decref) json_t *disks = json_array();
    char path[PATH_MAX];
    vm_state_path(source, "disk.qcow2", path);
    if (json_object_get(vm, "image") && access(path, F_OK) == 0) { /* else it makes one itself */
        json_array_append_new(disks, json_pack("{s:s, s:s, s:s, s:b}", "path", path, "format",
                                               "qcow2", "bus", "virtio", "readonly", 0));
        json_object_del(vm, "image");
        json_object_del(vm, "disk_size");
    }
    json_array_extend(disks, json_object_get(vm, "disks"));
    for (size_t i = 0; i < json_array_size(disks); i++)
        if (disk_plan(clone, json_array_get(disks, i), linked, copies, error) < 0)
            return -1;
    vm_state_path(source, "uefi-vars", path);
    if (access(path, F_OK) == 0)
        json_array_append_new(
            copies, json_pack("{s:s, s:s, s:s}", "from", path, "how", "file", "name", "uefi-vars"));
    json_object_set(vm, "disks", disks);
    json_object_set(vm, "copies", copies);
    json_object_set_new(vm, "source", json_string(source->id));
    if (linked)
        json_object_set_new(vm, "linked_to", json_string(source->id));
    *out = TAKE(vm);
    return 0;
}
