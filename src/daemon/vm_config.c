/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A VM as the API has it, in the words of bedplate-vmm's options. */
#include "daemon/vms.h"

#include <stdio.h>
#include <string.h>

static void copy(json_t *to, const char *option, const json_t *from, const char *field)
{
    json_t *value = json_object_get(from, field);
    if (value && !(json_is_string(value) && !*json_string_value(value)))
        json_object_set(to, option, value);
}

/* bedplate-vmm counts bare numbers in units of its own. */
static void copy_size(json_t *to, const char *option, const json_t *from, const char *field)
{
    char text[32];
    json_int_t bytes = json_integer_value(json_object_get(from, field));
    snprintf(text, sizeof text, "%lldB", (long long)bytes);
    if (bytes)
        json_object_set_new(to, option, json_string(text));
}

static json_t *disk_config(const json_t *disk)
{
    static const char *const same[] = { "path",  "format",  "bus", "serial",
                                        "cache", "discard", "iops" };
    json_t *out = json_object();
    for (unsigned i = 0; i < sizeof same / sizeof *same; i++) {
        json_t *value = json_object_get(disk, same[i]);
        if (value && !(json_is_integer(value) && json_integer_value(value) == 0))
            json_object_set(out, same[i], value);
    }
    if (json_is_true(json_object_get(disk, "readonly")))
        json_object_set_new(out, "readonly", json_true());
    copy(out, "on-full", disk, "on_full");
    copy_size(out, "bps", disk, "bps");
    return out;
}

static json_t *net_config(const json_t *net)
{
    const char *backend = json_string_value(json_object_get(net, "backend"));
    char text[40];
    json_t *out = json_object();
    if (strcmp(backend, "tap") == 0)
        snprintf(text, sizeof text, "tap:%s", json_string_value(json_object_get(net, "tap")));
    else
        snprintf(text, sizeof text, "%s", backend);
    json_object_set_new(out, "backend", json_string(text));
    copy(out, "mac", net, "mac");
    const char *model = json_string_value(json_object_get(net, "model"));
    if (model && strcmp(model, "virtio") != 0)
        copy(out, "model", net, "model");
    json_t *forwards = json_object_get(net, "forwards");
    if (json_array_size(forwards))
        json_object_set(out, "hostfwd", forwards);
    return out;
}

static void set_path(json_t *out, const char *option, const char *before, const char *path)
{
    json_object_set_new(out, option, json_sprintf("%s%s", before, path));
}

/* Its disk from an image comes first, what cloud-init reads last. */
static void add_drives(json_t *out, const struct vm *owner, const json_t *vm)
{
    json_t *disks = json_array(), *nets = json_array();
    const json_t *list = json_object_get(vm, "disks");
    char path[PATH_MAX];
    if (json_object_get(vm, "image")) {
        vm_state_path(owner, "disk.qcow2", path);
        json_array_append_new(disks, json_pack("{s:s, s:s}", "path", path, "format", "qcow2"));
    }
    for (size_t i = 0; i < json_array_size(list); i++)
        json_array_append_new(disks, disk_config(json_array_get(list, i)));
    if (json_object_get(vm, "cloud_init")) {
        vm_state_path(owner, "seed.iso", path);
        json_array_append_new(
            disks, json_pack("{s:s, s:s, s:b}", "path", path, "format", "raw", "readonly", 1));
    }
    list = json_object_get(vm, "nets");
    for (size_t i = 0; i < json_array_size(list); i++)
        json_array_append_new(nets, net_config(json_array_get(list, i)));
    json_object_set_new(out, "disk", disks);
    json_object_set_new(out, "net", nets);
}

json_t *vm_config(const struct vm *vm, const json_t *json)
{
    static const char *const same[] = { "engine", "cpu",     "cpus",     "profile", "kernel",
                                        "initrd", "cmdline", "firmware", "cdrom",   "watchdog" };
    json_t *out = json_pack("{s:s}", "uuid", vm->id);
    char path[PATH_MAX];
    for (unsigned i = 0; i < sizeof same / sizeof *same; i++)
        copy(out, same[i], json, same[i]);
    copy_size(out, "memory", json, "memory");
    const char *boot = json_string_value(json_object_get(json, "boot"));
    if (boot && *boot)
        json_object_set_new(out, "boot", json_sprintf("order=%s", boot));
    if (!json_object_get(out, "kernel") && !json_object_get(out, "firmware"))
        json_object_set_new(out, "firmware", json_string("bios"));
    const char *firmware = json_string_value(json_object_get(out, "firmware"));
    if (firmware && strcmp(firmware, "uefi") == 0) {
        vm_state_path(vm, "uefi-vars", path);
        set_path(out, "uefi-vars", "", path);
    }
    add_drives(out, vm, json);
    vm_run_path(vm, "", path);
    set_path(out, "run-dir", "", path);
    vm_run_path(vm, "serial.sock", path);
    set_path(out, "serial", "unix:", path);
    if (!json_is_false(json_object_get(json, "agent"))) { /* VMs of earlier versions lack it */
        vm_run_path(vm, "agent.sock", path);
        set_path(out, "port", AGENT_PORT "=unix:", path);
    }
    if (json_is_true(json_object_get(json, "display"))) {
        vm_run_path(vm, "vnc.sock", path);
        json_object_set_new(out, "display",
                            json_pack("{s:o}", "viewer", json_sprintf("vnc=unix:%s", path)));
    }
    vm_state_path(vm, "saved", path);
    set_path(out, "save", "", path);
    return out;
}
