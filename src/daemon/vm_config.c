/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A VM as the API has it, in the words of bedplate-vmm's options. */
#include "base/text.h"
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

void option_name(const char *field, char out[32])
{
    snprintf(out, 32, "%s", field);
    for (char *c = out; *c; c++)
        if (*c == '_')
            *c = '-';
}

const char *const disk_limits[] = {
    "iops",    "iops_burst",    "iops_burst_s",    "iops_rd", "iops_rd_burst", "iops_rd_burst_s",
    "iops_wr", "iops_wr_burst", "iops_wr_burst_s", "bps",     "bps_burst",     "bps_burst_s",
    "bps_rd",  "bps_rd_burst",  "bps_rd_burst_s",  "bps_wr",  "bps_wr_burst",  "bps_wr_burst_s",
    NULL
};

bool disk_limit_is_size(const char *limit)
{
    return strncmp(limit, "bps", 3) == 0 && strcmp(limit + strlen(limit) - 2, "_s") != 0;
}

static json_t *disk_config(const json_t *disk)
{
    static const char *const same[] = { "path",          "format",         "bus",
                                        "serial",        "cache",          "discard",
                                        "on_full",       "on_error",       "copy_on_read",
                                        "detect_zeroes", "throttle_group", "queues",
                                        "io_thread",     "key_file",       "tls_certificates",
                                        "tls_psk_file" };
    char name[32];
    json_t *out = json_object();
    for (unsigned i = 0; i < sizeof same / sizeof *same; i++) {
        json_t *value = json_object_get(disk, same[i]);
        option_name(same[i], name);
        if (value && !(json_is_integer(value) && json_integer_value(value) == 0))
            json_object_set(out, name, value);
    }
    if (json_is_true(json_object_get(disk, "readonly")))
        json_object_set_new(out, "readonly", json_true());
    for (unsigned i = 0; disk_limits[i]; i++) {
        json_t *value = json_object_get(disk, disk_limits[i]);
        option_name(disk_limits[i], name);
        if (disk_limit_is_size(disk_limits[i]))
            copy_size(out, name, disk, disk_limits[i]);
        else if (json_integer_value(value))
            json_object_set(out, name, value);
    }
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
    copy(out, "tftp", net, "tftp");
    copy(out, "bootfile", net, "bootfile");
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

/* "ISO,bus=ide" */
static json_t *cdrom_config(const char *path, const char *bus)
{
    return json_sprintf("%s%s%s", path && *path ? path : "none", bus ? ",bus=" : "",
                        bus ? bus : "");
}

static void add_cdroms(json_t *out, const json_t *vm)
{
    const json_t *more = json_object_get(vm, "cdroms");
    const char *path = json_string_value(json_object_get(vm, "cdrom")),
               *bus = json_string_value(json_object_get(vm, "cdrom_bus"));
    if (!json_array_size(more) && !bus) {
        copy(out, "cdrom", vm, "cdrom");
        return;
    }
    json_t *list = json_array();
    json_array_append_new(list, cdrom_config(path, bus));
    for (size_t i = 0; i < json_array_size(more); i++) {
        const json_t *drive = json_array_get(more, i);
        json_array_append_new(list, cdrom_config(json_string_value(json_object_get(drive, "path")),
                                                 json_string_value(json_object_get(drive, "bus"))));
    }
    json_object_set_new(out, "cdrom", list);
}

static void add_boot(json_t *out, const json_t *vm)
{
    const char *order = json_string_value(json_object_get(vm, "boot"));
    bool menu = json_is_true(json_object_get(vm, "boot_menu"));
    json_int_t timeout = json_integer_value(json_object_get(vm, "boot_timeout"));
    AUTO(buf_fini) struct buf text = { 0 };
    if ((!order || !*order) && !menu && !timeout)
        return;
    buf_printf(&text, "order=%s%s", order && *order ? order : "cdn", menu ? ",menu=on" : "");
    if (timeout)
        buf_printf(&text, ",timeout=%lld", (long long)timeout);
    json_object_set_new(out, "boot", json_stringn((char *)text.data, text.len));
}

/* Sockets and files in the VM's run directory. */
static void add_sockets(json_t *out, const struct vm *vm, const json_t *json)
{
    static const struct {
        const char *field, *option, *scheme, *file;
    } sockets[] = { { "virtio_console", "console", "unix:", "hvc.sock" },
                    { "debug_console", "debug-console", "file:", "debug.log" },
                    { "gdb", "gdb", "unix:", "gdb.sock" } };
    const json_t *names = json_object_get(json, "ports");
    json_t *ports = json_array();
    char path[PATH_MAX], file[100];
    for (unsigned i = 0; i < sizeof sockets / sizeof *sockets; i++) {
        vm_run_path(vm, sockets[i].file, path);
        if (json_is_true(json_object_get(json, sockets[i].field)))
            set_path(out, sockets[i].option, sockets[i].scheme, path);
    }
    if (json_object_get(out, "gdb") && json_is_true(json_object_get(json, "gdb_wait")))
        json_object_set_new(
            out, "gdb", json_sprintf("%s,wait", json_string_value(json_object_get(out, "gdb"))));
    if (!json_is_false(json_object_get(json, "agent"))) { /* VMs of earlier versions lack it */
        vm_run_path(vm, "agent.sock", path);
        json_array_append_new(ports, json_sprintf(AGENT_PORT "=unix:%s", path));
    }
    for (size_t i = 0; i < json_array_size(names); i++) {
        const char *name = json_string_value(json_array_get(names, i));
        snprintf(file, sizeof file, "port-%.63s.sock", name);
        vm_run_path(vm, file, path);
        json_array_append_new(ports, json_sprintf("%s=unix:%s", name, path));
    }
    if (json_array_size(ports)) /* one alone is written as it always was: VMs that run have it so */
        json_object_set(out, "port", json_array_size(ports) > 1 ? ports : json_array_get(ports, 0));
    json_decref(ports);
}

static void add_display(json_t *out, const struct vm *vm, const json_t *json)
{
    char path[PATH_MAX];
    vm_run_path(vm, "vnc.sock", path);
    json_t *display = json_pack("{s:o}", "viewer", json_sprintf("vnc=unix:%s", path));
    copy(display, "keymap", json, "keymap");
    if (json_is_false(json_object_get(json, "clipboard")))
        json_object_set_new(display, "clipboard", json_string("off"));
    json_object_set_new(out, "display", display);
}

json_t *vm_config(const struct vm *vm, const json_t *json)
{
    static const char *const same[] = { "engine", "cpu",     "cpus",     "profile",  "kernel",
                                        "initrd", "cmdline", "firmware", "watchdog", "video" };
    json_t *out = json_pack("{s:s}", "uuid", vm->id);
    char path[PATH_MAX];
    for (unsigned i = 0; i < sizeof same / sizeof *same; i++)
        copy(out, same[i], json, same[i]);
    copy_size(out, "memory", json, "memory");
    const char *options = json_string_value(json_object_get(json, "engine_options"));
    if (options)
        json_object_set_new(
            out, "engine",
            json_sprintf("%s,%s", json_string_value(json_object_get(json, "engine")), options));
    copy(out, "firmware", json, "firmware_file");
    add_boot(out, json);
    add_cdroms(out, json);
    if (json_array_size(json_object_get(json, "usbs")))
        copy(out, "usb", json, "usbs");
    if (json_array_size(json_object_get(json, "inputs")))
        copy(out, "virtio-input", json, "inputs");
    if (json_is_false(json_object_get(json, "balloon")))
        json_object_set_new(out, "balloon", json_string("off"));
    if (json_is_false(json_object_get(json, "reboot")))
        json_object_set_new(out, "no-reboot", json_true());
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
    add_sockets(out, vm, json);
    if (json_is_true(json_object_get(json, "display")))
        add_display(out, vm, json);
    vm_state_path(vm, "saved", path);
    set_path(out, "save", "", path);
    return out;
}
