/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The options: what each does with its value, and the table of all. */
#include "vmm/options_table.h"

#include "base/checked.h"
#include "base/ids.h"
#include "base/text.h"
#include "display/agent_wire.h"
#include "engine/x86.h"
#include "net/net.h"
#include "vmm/options_disk.h"
#include "vmm/options_words.h"

#include <inttypes.h>
#include <string.h>
#include <sys/un.h>

enum { MEMORY_UNIT = 1 << 20, MEMORY_MIN = 4 << 20, CPUS_MAX = 255 };

static int path_set(char **field, const char *value, struct err *err)
{
    if (!*value)
        return err_set(err, EINVAL, "the path is empty; name a file");
    return text_set(field, value, err);
}

static int socket_set(char **field, const char *path, struct err *err)
{
    struct sockaddr_un addr;
    if (!*path)
        return err_set(err, EINVAL, "the path is empty; write unix:PATH");
    if (strlen(path) >= sizeof addr.sun_path)
        return err_set(err, EINVAL,
                       "'%.40s...' is too long for a socket; take a path of at most %zu bytes",
                       path, sizeof addr.sun_path - 1);
    return text_set(field, path, err);
}

/* The rest of text behind prefix, or NULL. */
static const char *behind(const char *text, const char *prefix)
{
    size_t len = strlen(prefix);
    return strncmp(text, prefix, len) == 0 ? text + len : NULL;
}

/* ---- setters ---- */

static const char *engine_name(size_t i)
{
    static const char *const names[] = { "auto", "kvm", "soft", NULL };
    return names[i];
}

static int engine_set(struct options *o, const char *value, struct err *err)
{
    size_t len = strcspn(value, ",");
    char name[32];
    snprintf(name, sizeof name, "%.*s", (int)(len < 31 ? len : 31), value);
    int r = choice_set("engine", name, engine_name, err);
    if (r < 0)
        return r;
    if (value[len] && r == 0)
        return err_set(err, EINVAL, "'auto' takes no options; name the engine that they are for");
    if (value[len] && (r = text_set(&o->engine_options, value + len + 1, err)) < 0)
        return r;
    return text_set(&o->engine, name, err);
}

static const char *cpu_model_name(size_t i) { return cpu_models[i].name; }

static int cpu_set(struct options *o, const char *value, struct err *err)
{
    int r = choice_set("CPU model", value, cpu_model_name, err);
    return r < 0 ? r : text_set(&o->cpu, value, err);
}

static int cpus_set(struct options *o, const char *value, struct err *err)
{
    uint64_t n;
    struct err why = { 0 };
    if (number_parse(value, 0, UINT64_MAX, &n, &why) < 0)
        return err_set(err, EINVAL, "%s; write a number from 1 to %d", why.text, CPUS_MAX);
    if (n < 1 || n > CPUS_MAX)
        return err_set(err, EINVAL, "%" PRIu64 " vCPUs cannot be had; a VM has 1 to %d", n,
                       CPUS_MAX);
    o->cpus = (unsigned)n;
    return 0;
}

static int memory_set(struct options *o, const char *value, struct err *err)
{
    uint64_t bytes;
    int r = size_parse(value, MEMORY_UNIT, &bytes, err);
    if (r < 0)
        return r;
    if (bytes < MEMORY_MIN)
        return err_set(err, EINVAL, "'%s' is too little; a VM has at least %d MiB", value,
                       MEMORY_MIN >> 20);
    if (bytes > OPTIONS_MEMORY_MAX)
        return err_set(err, EINVAL, "'%s' is too much; a VM has at most 1 TiB", value);
    if (bytes % MEMORY_UNIT)
        return err_set(err, EINVAL, "'%s' is not a whole number of MiB", value);
    o->memory = bytes;
    return 0;
}

static const char *profile_name(size_t i)
{
    static const char *const names[] = { "pc-1", "micro-1", NULL };
    return names[i];
}

static int profile_set(struct options *o, const char *value, struct err *err)
{
    int r = choice_set("profile", value, profile_name, err);
    return r < 0 ? r : text_set(&o->profile, value, err);
}

static int kernel_set(struct options *o, const char *value, struct err *err)
{
    return path_set(&o->kernel, value, err);
}
static int initrd_set(struct options *o, const char *value, struct err *err)
{
    return path_set(&o->initrd, value, err);
}
static int cmdline_set(struct options *o, const char *value, struct err *err)
{
    return text_set(&o->cmdline, value, err);
}

static int firmware_set(struct options *o, const char *value, struct err *err)
{
    return path_set(&o->firmware, value, err);
}
static int uefi_vars_set(struct options *o, const char *value, struct err *err)
{
    return path_set(&o->uefi_vars, value, err);
}

static const char *boot_key(size_t i)
{
    static const char *const names[] = { "order", "menu", "timeout", NULL };
    return names[i];
}

static int boot_order_set(struct boot_options *boot, const char *value, struct err *err)
{
    size_t len = value ? strlen(value) : 0;
    bool good = len >= 1 && len < sizeof boot->order && strspn(value, "cdn") == len;
    for (size_t i = 0; good && i < len; i++)
        good = !strchr(value + i + 1, value[i]);
    if (!good)
        return err_set(err, EINVAL,
                       "order is one to three of the letters c (disk), d (CD) and n (network), "
                       "each once, as in order=dc");
    memcpy(boot->order, value, len + 1);
    return 0;
}

static int boot_part(struct options *o, const char *key, const char *value, struct err *err)
{
    struct boot_options *boot = &o->boot;
    if (strcmp(key, "order") == 0)
        return boot_order_set(boot, value, err);
    if (strcmp(key, "menu") == 0) {
        if (!value || (strcmp(value, "on") != 0 && strcmp(value, "off") != 0))
            return err_set(err, EINVAL, "menu is 'on' or 'off'");
        boot->menu = strcmp(value, "on") == 0;
        return 0;
    }
    if (strcmp(key, "timeout") == 0) {
        uint64_t ms;
        int r = number_parse(value ? value : "", 0, 65535, &ms, err);
        if (r < 0)
            return err_prefix(err, "timeout in milliseconds");
        boot->timeout_ms = (unsigned)ms;
        return 0;
    }
    return unknown_word(err, "boot option", "", key, boot_key);
}

static int boot_set(struct options *o, const char *value, struct err *err)
{
    AUTO(free) char *copy = strdup(value);
    if (!copy)
        return err_set(err, ENOMEM, "out of memory");
    int r = 0;
    for (char *rest = copy, *part; r == 0 && (part = strsep(&rest, ","));) {
        const char *key = strsep(&part, "=");
        r = boot_part(o, key, part, err);
    }
    return r;
}

const char *options_disk_bus(size_t i)
{
    static const char *const names[] = { "virtio", "sata", "ide", "floppy", NULL };
    return names[i];
}

static int disk_new(struct options *o, const char *path, struct err *err)
{
    if (!path || !*path)
        return err_set(err, EINVAL, "the path is empty; name an image");
    if (o->disk_count == OPTIONS_MAX_DISKS)
        return err_set(err, EINVAL, "a VM has at most %d disks", OPTIONS_MAX_DISKS);
    struct disk_options *new = &o->disks[o->disk_count++];
    *new = (struct disk_options){ 0 };
    return text_set(&new->path, path, err);
}

static int disk_part(struct options *o, const char *key, const char *value, struct err *err)
{
    if (strcmp(key, "path") == 0)
        return disk_new(o, value, err);
    return options_disk_part(&o->disks[o->disk_count - 1], key, value, err);
}

static const char *cdrom_key(size_t i)
{
    static const char *const names[] = { "path", "bus", NULL };
    return names[i];
}

static const char *cdrom_bus(size_t i)
{
    static const char *const names[] = { "sata", "ide", NULL };
    return names[i];
}

static int cdrom_part(struct options *o, const char *key, const char *value, struct err *err)
{
    if (strcmp(key, "path") == 0) {
        int r = disk_new(o, value, err);
        if (r < 0)
            return r;
        struct disk_options *disk = &o->disks[o->disk_count - 1];
        disk->cdrom = disk->readonly = true;
        disk->bus = DISK_SATA;
        if (strcmp(value, "none") == 0)
            free(TAKE(disk->path));
        return 0;
    }
    if (strcmp(key, "bus") != 0)
        return unknown_word(err, "CD-ROM option", "", key, cdrom_key);
    int r = choice_set("bus of a CD-ROM drive", value ? value : "", cdrom_bus, err);
    if (r >= 0)
        o->disks[o->disk_count - 1].bus = r ? DISK_IDE : DISK_SATA;
    return r < 0 ? r : 0;
}

static const char *net_key(size_t i)
{
    static const char *const names[] = { "backend", "hostfwd",  "mac", "model",
                                         "tftp",    "bootfile", NULL };
    return names[i];
}

const char *options_net_model(size_t i)
{
    static const char *const names[] = { "virtio", "e1000e", NULL };
    return names[i];
}

static int net_backend_set(struct net_options *net, const char *value, struct err *err)
{
    const char *rest;
    if (strcmp(value, "user") == 0) {
        net->kind = NET_OPTION_USER;
        return 0;
    }
    if ((rest = behind(value, "tap:"))) {
        net->kind = NET_OPTION_TAP;
        if (!*rest || strlen(rest) > 15)
            return err_set(err, EINVAL,
                           "'%.40s' names no interface; write tap:NAME with 1 to 15 letters",
                           value);
        return text_set(&net->tap, rest, err);
    }
    if ((rest = behind(value, "fd:"))) {
        uint64_t fd;
        net->kind = NET_OPTION_FD;
        int r = number_parse(rest, 3, INT32_MAX, &fd, err);
        if (r < 0)
            return err_prefix(err, "fd");
        net->fd = (int)fd;
        return 0;
    }
    return err_set(err, EINVAL, "'%.60s' is no network; write user, tap:NAME or fd:N", value);
}

static int net_boot_set(struct net_options *net, const char *key, const char *value,
                        struct err *err)
{
    enum { BOOTFILE_MAX = 127 }; /* of DHCP's field */
    bool tftp = strcmp(key, "tftp") == 0;
    if (net->kind != NET_OPTION_USER)
        return err_set(err, EINVAL, "%s works with the network 'user' only", key);
    int r = value_needed(key, value, tftp ? "tftp=/srv/tftp" : "bootfile=pxelinux.0", err);
    if (r < 0)
        return r;
    if (tftp)
        return path_set(&net->tftp, value, err);
    if (strlen(value) > BOOTFILE_MAX)
        return err_set(err, EINVAL, "bootfile is longer than %d characters", BOOTFILE_MAX);
    return text_set(&net->bootfile, value, err);
}

static int net_part(struct options *o, const char *key, const char *value, struct err *err)
{
    if (strcmp(key, "backend") == 0) {
        if (o->net_count == OPTIONS_MAX_NETS)
            return err_set(err, EINVAL, "a VM has at most %d network cards", OPTIONS_MAX_NETS);
        struct net_options *new = &o->nets[o->net_count++];
        *new = (struct net_options){ .fd = -1 };
        return net_backend_set(new, value ? value : "", err);
    }
    struct net_options *net = &o->nets[o->net_count - 1];
    int r;
    if (strcmp(key, "mac") == 0) {
        r = value_needed(key, value, "mac=52:54:00:12:34:56", err);
        if (r == 0)
            r = mac_parse(value, net->mac, err);
        net->has_mac = r == 0;
        return r;
    }
    if (strcmp(key, "model") == 0) {
        r = choice_set("model", value ? value : "", options_net_model, err);
        if (r >= 0)
            net->model = (enum net_model)r;
        return r < 0 ? r : 0;
    }
    if (strcmp(key, "hostfwd") == 0) {
        struct net_hostfwd parsed;
        if (net->kind != NET_OPTION_USER)
            return err_set(err, EINVAL, "hostfwd works with the network 'user' only");
        if (net->hostfwd_count == OPTIONS_MAX_HOSTFWD)
            return err_set(err, EINVAL, "a network card has at most %d hostfwd",
                           OPTIONS_MAX_HOSTFWD);
        r = value_needed(key, value, "hostfwd=tcp:127.0.0.1:2222-:22", err);
        if (r == 0)
            r = net_hostfwd_parse(value, &parsed, err);
        return r < 0 ? r : text_set(&net->hostfwd[net->hostfwd_count++], value, err);
    }
    if (strcmp(key, "tftp") == 0 || strcmp(key, "bootfile") == 0)
        return net_boot_set(net, key, value, err);
    return unknown_word(err, "network option", "", key, net_key);
}

static int stream_set(struct stream_options *stream, const char *value, struct err *err)
{
    const char *rest;
    if (strcmp(value, "none") == 0) {
        stream->kind = STREAM_NONE;
        return 0;
    }
    if (strcmp(value, "stdio") == 0) {
        stream->kind = STREAM_STDIO;
        return 0;
    }
    if ((rest = behind(value, "file:"))) {
        stream->kind = STREAM_FILE;
        return path_set(&stream->path, rest, err);
    }
    if ((rest = behind(value, "unix:"))) {
        stream->kind = STREAM_UNIX;
        return socket_set(&stream->path, rest, err);
    }
    return err_set(err, EINVAL,
                   "'%.60s' cannot be connected; write stdio, file:PATH, unix:PATH or none", value);
}

static int serial_set(struct options *o, const char *value, struct err *err)
{
    return stream_set(&o->serial, value, err);
}
static int console_set(struct options *o, const char *value, struct err *err)
{
    return stream_set(&o->console, value, err);
}
static int debug_console_set(struct options *o, const char *value, struct err *err)
{
    return stream_set(&o->debug_console, value, err);
}

/* As udev takes it for a file's name, and short enough for the device. */
static bool port_name_good(const char *name, size_t len)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    return len && len <= 63 && *name != '.' && strspn(name, letters) >= len;
}

static int port_add(struct options *o, const char *name, size_t len, struct err *err)
{
    if (o->port_count == OPTIONS_MAX_PORTS)
        return err_set(err, EINVAL, "a VM has at most %d ports", OPTIONS_MAX_PORTS);
    for (unsigned i = 0; i < o->port_count; i++)
        if (strlen(o->ports[i].name) == len && memcmp(o->ports[i].name, name, len) == 0)
            return err_set(err, EINVAL, "there are two ports '%s'", o->ports[i].name);
    struct port_options *port = &o->ports[o->port_count++];
    *port = (struct port_options){ .name = strndup(name, len) };
    return port->name ? 0 : err_set(err, ENOMEM, "out of memory");
}

static int port_set(struct options *o, const char *value, struct err *err)
{
    const char *equals = strchr(value, '=');
    const char *path = equals ? behind(equals + 1, "unix:") : NULL;
    if (!path)
        return err_set(err, EINVAL, "'%.60s' is no port; write NAME=unix:PATH", value);
    size_t len = (size_t)(equals - value);
    if (!port_name_good(value, len))
        return err_set(err, EINVAL,
                       "a port's name has 1 to 63 letters, digits, '.', '_' and '-', and does not "
                       "begin with '.'");
    int r = port_add(o, value, len, err);
    return r < 0 ? r : socket_set(&o->ports[o->port_count - 1].path, path, err);
}

int options_clipboard_port(struct options *o, struct err *err)
{
    return port_add(o, CLIPBOARD_PORT, strlen(CLIPBOARD_PORT), err);
}

bool options_has_clipboard(const struct options *o)
{
    return o->port_count && !o->ports[o->port_count - 1].path;
}

static int clipboard_set(struct viewer_options *v, const char *value, struct err *err)
{
    v->clipboard = value && strcmp(value, "on") == 0;
    v->no_clipboard = value && strcmp(value, "off") == 0;
    return v->clipboard || v->no_clipboard
               ? 0
               : err_set(err, EINVAL, "write clipboard=on or clipboard=off");
}

static int display_part(struct options *o, const char *key, const char *value, struct err *err)
{
    struct viewer_options *v = &o->viewer;
    const struct {
        const char *key, *example;
        char **text;
    } texts[] = { { "keymap", "keymap=de", &v->keymap },
                  { "password-file", "password-file=FILE", &v->password_file },
                  { "tls-cert", "tls-cert=FILE", &v->tls_cert },
                  { "tls-key", "tls-key=FILE", &v->tls_key },
                  { "tls-ca", "tls-ca=FILE", &v->tls_ca } };
    if (strcmp(key, "viewer") == 0) {
        const char *address = behind(value ? value : "", "vnc=");
        if (address && *address)
            return text_set(&v->address, address, err);
        return strcmp(value ? value : "", "none") == 0
                   ? 0
                   : err_set(err, EINVAL,
                             "'%.60s' is no display; write vnc=unix:PATH, vnc=127.0.0.1:5901, "
                             "vnc=:1 or none",
                             value ? value : "");
    }
    if (strcmp(key, "clipboard") == 0)
        return clipboard_set(v, value, err);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        if (strcmp(key, texts[i].key) == 0) {
            int r = value_needed(key, value, texts[i].example, err);
            return r < 0 ? r : text_set(texts[i].text, value, err);
        }
    return err_set(
        err, EINVAL,
        "'%.60s' is unknown; there are keymap, clipboard, password-file, tls-cert, tls-key and "
        "tls-ca",
        key);
}

const char *options_video(size_t i)
{
    static const char *const names[] = { "none", "vga", "virtio", "virtio-vga", NULL };
    return names[i];
}

static int video_set(struct options *o, const char *value, struct err *err)
{
    int r = choice_set("display adapter", value, options_video, err);
    if (r < 0)
        return r;
    o->video = (enum video_adapter)r;
    return 0;
}

static const char *watchdog_name(size_t i)
{
    static const char *const names[] = { "reset", "pause", "exit", "none", NULL };
    return names[i];
}

const char *options_usb_device(size_t i)
{
    static const char *const names[] = { "none", "tablet", "keyboard", NULL };
    return names[i];
}

static int usb_set(struct options *o, const char *value, struct err *err)
{
    int r = choice_set("USB device", value, options_usb_device, err);
    if (r < 0)
        return r;
    if (o->usb_count == OPTIONS_MAX_USB)
        return err_set(err, EINVAL, "the USB controller has %d ports", OPTIONS_MAX_USB);
    o->usb = true;
    if (r)
        o->usb_devices[o->usb_count++] = (unsigned)r;
    return 0;
}

static const char *virtio_input_name(size_t i)
{
    static const char *const names[] = { "tablet", "keyboard", NULL };
    return names[i];
}

static int virtio_input_set(struct options *o, const char *value, struct err *err)
{
    int r = choice_set("virtio input device", value, virtio_input_name, err);
    if (r >= 0)
        o->virtio_input |= 2u << r;
    return r < 0 ? r : 0;
}

static const char *on_off_name(size_t i)
{
    static const char *const names[] = { "off", "on", NULL };
    return names[i];
}

static int balloon_set(struct options *o, const char *value, struct err *err)
{
    int r = choice_set("balloon", value, on_off_name, err);
    o->balloon = r == 1;
    return r < 0 ? r : 0;
}

static int uuid_set(struct options *o, const char *value, struct err *err)
{
    o->has_uuid = true;
    return uuid_parse(value, o->uuid, err);
}

static int watchdog_set(struct options *o, const char *value, struct err *err)
{
    int r = choice_set("watchdog action", value, watchdog_name, err);
    if (r < 0)
        return r;
    o->watchdog = (enum watchdog_action)r;
    return 0;
}

static int run_dir_set(struct options *o, const char *value, struct err *err)
{
    return path_set(&o->run_dir, value, err);
}
static int control_set(struct options *o, const char *value, struct err *err)
{
    const char *path = behind(value, "unix:");
    if (!path)
        return err_set(err, EINVAL, "'%.60s' is no socket; write unix:PATH", value);
    return socket_set(&o->control, path, err);
}
static int config_set(struct options *o, const char *value, struct err *err)
{
    return path_set(&o->config, value, err);
}
static int save_set(struct options *o, const char *value, struct err *err)
{
    return path_set(&o->save, value, err);
}
static int restore_set(struct options *o, const char *value, struct err *err)
{
    return path_set(&o->restore, value, err);
}

static int gdb_set(struct options *o, const char *value, struct err *err)
{
    size_t len = strlen(value);
    AUTO(free) char *where = strdup(value);
    if (!where)
        return err_set(err, ENOMEM, "out of memory");
    if (len > 5 && strcmp(value + len - 5, ",wait") == 0) {
        where[len - 5] = 0;
        o->gdb.wait = true;
    }
    const char *rest;
    if ((rest = behind(where, "unix:")))
        return socket_set(&o->gdb.unix_path, rest, err);
    if ((rest = behind(where, "tcp:127.0.0.1:")) || (rest = behind(where, "tcp:localhost:"))) {
        uint64_t port;
        int r = number_parse(rest, 1, 65535, &port, err);
        if (r < 0)
            return err_prefix(err, "port");
        o->gdb.tcp_port = (uint16_t)port;
        return 0;
    }
    return err_set(err, EINVAL,
                   "'%.60s' is no place for a debugger; write unix:PATH or tcp:127.0.0.1:PORT",
                   where);
}

static int no_reboot_set(struct options *o, const char *value, struct err *err)
{
    o->no_reboot = true;
    return 0;
}

static int restore_once_set(struct options *o, const char *value, struct err *err)
{
    o->restore_once = true;
    return 0;
}
static int check_set(struct options *o, const char *value, struct err *err)
{
    o->check = true;
    return 0;
}
static int version_set(struct options *o, const char *value, struct err *err)
{
    o->version = true;
    return 0;
}
static int help_set(struct options *o, const char *value, struct err *err)
{
    o->help = true;
    return 0;
}
static int man_set(struct options *o, const char *value, struct err *err)
{
    o->man = true;
    return 0;
}

/* ---- the table ---- */

/* clang-format off */
const struct option option_table[] = {
    { "engine", "auto|kvm|soft[,OPTIONS]", 0, "what runs the vCPUs",
      "auto (the default) takes KVM where the host really has it and the software engine elsewhere, and says on "
      "standard error which and why. OPTIONS are the engine's own.", engine_set },
    { "cpu", "MODEL", 0, "the CPU that the guest sees",
      "The default is x86-64-v2 under the software engine, host under KVM. A VM that shall be saved and restored elsewhere "
      "needs a model that both places offer.", cpu_set },
    { "cpus", "N", 0, "number of vCPUs, 1 to 255 (default 1)", NULL, cpus_set },
    { "memory", "SIZE", 0, "guest memory, as in 512M or 2G; a bare number is MiB (default 512M)",
      "More than the host has free is allowed with a warning, more than it has is refused.", memory_set },
    { "profile", "pc-1|micro-1", 0, "the hardware that the guest sees (default pc-1)", NULL, profile_set },
    { "uuid", "UUID", 0, "what the guest is told that it is (SMBIOS, fw_cfg; default: random)", NULL, uuid_set },
    { "kernel", "FILE", 0, "kernel to boot: a bzImage or an ELF file with a PVH entry", NULL, kernel_set },
    { "initrd", "FILE", 0, "initial ramdisk for the kernel", NULL, initrd_set },
    { "cmdline", "TEXT", 0, "the kernel's command line", NULL, cmdline_set },
    { "firmware", "bios|uefi|FILE", 0, "firmware to boot with: the packages seabios and ovmf, or an image",
      "The default is bios where there is a disk and no --kernel, and none with --kernel. A kernel given with uefi is handed "
      "to the firmware.", firmware_set },
    { "uefi-vars", "FILE", 0, "keeps the UEFI variables; made from the package's template if missing",
      "Each VM needs a file of its own. Without this option variables are lost when the VM ends.", uefi_vars_set },
    { "boot", "order=cdn[,menu=on|off][,timeout=MS]", 0, "what firmware boots from: c disk, d CD, n network (default cdn)",
      "menu=on offers the firmware's boot menu for so many milliseconds (default 3000).", boot_set },
    { "disk", "PATH[,format=F][,readonly][,bus=virtio|sata|ide|floppy][,NAME=VALUE]...", OPTION_MANY,
      "a disk (virtio-blk unless bus= says otherwise); may be repeated",
      "PATH is a file, a block device or an export nbd://HOST/NAME (see bedplate-img(1); its TLS parameters may be parts: "
      "tls-certificates=DIRECTORY, tls-psk-file=FILE). "
      "Without format the image's magic decides; a file without any known magic is opened as raw with a warning, and the "
      "guest cannot write a magic into its first sector. key-file names a file that holds the passphrase of an encrypted image "
      "and nothing else. "
      "cache=writeback (the default) uses the host's cache, none goes around it, unsafe ignores the guest's flushes. "
      "discard=unmap (the default) gives trimmed space back, ignore keeps it. copy-on-read=on keeps in an overlay what was read from the images below it. detect-zeroes=on|unmap finds zeros in what "
      "the guest writes. iops=N, bps=SIZE and the same with -rd and -wr limit a second's requests and bytes; -burst and "
      "-burst-s behind them allow more for a while; throttle-group=NAME shares one disk's limits. queues=N gives the "
      "disk so many queues, each served by a thread of its own: queue 0 by the one of all other devices, queue 1 of every disk by "
      "the next, and so on. io-thread=NAME serves them by a thread of that name instead, io-thread=NAME+NAME... by several in "
      "turn. serial=TEXT. "
      "on-full (the host's disk is full) and on-error (another error of the host) say what follows: the guest "
      "sees an error (report, the default), the VM pauses until it is resumed, which tries again (pause), or the guest is "
      "told that all is well (ignore). A path with a comma can be given in a configuration file.", NULL, disk_part, "path" },
    { "cdrom", "ISO|none[,bus=sata|ide]", OPTION_MANY, "a CD-ROM drive with this image, or empty; may be repeated",
      "The drives are called cdrom0, cdrom1 and so on; medium-eject and medium-insert of the control socket change their "
      "media while the VM runs.", NULL, cdrom_part, "path" },
    { "net", "user[,hostfwd=SPEC]...[,tftp=DIR][,bootfile=NAME]|tap:NAME|fd:N[,mac=MAC][,model=virtio|e1000e]", OPTION_MANY,
      "a network card (virtio-net unless model= says otherwise); may be repeated",
      "user is NAT without any privileges, in a confined helper process; hostfwd=tcp:127.0.0.1:2222-:22 forwards a port of "
      "the host to the guest. tap:NAME takes a tap interface, fd:N an inherited descriptor of a tap or a socket.",
      NULL, net_part, "backend" },
    { "serial", "stdio|file:PATH|unix:PATH|none", 0, "where the serial port goes (default stdio)",
      "unix:PATH is a socket for up to 16 viewers at once: each gets the last 64 KiB of output, then what comes, and all may type. With stdio, Ctrl-A X ends the VM and Ctrl-A H lists "
      "the other keys.", serial_set },
    { "console", "stdio|file:PATH|unix:PATH|none", 0, "adds a virtio console (hvc0) and says where it goes (default none)",
      "When the serial port and the console both are stdio they share the terminal: what is typed goes to the console "
      "once the guest has opened it.", console_set },
    { "port", "NAME=unix:PATH", OPTION_MANY, "adds a virtio-serial port that programs in the guest open by its name",
      "It is /dev/virtio-ports/NAME in a Linux guest, and joined with the socket PATH. The guest agent of Debian's package "
      "qemu-guest-agent speaks over org.qemu.guest_agent.0. A VM has at most 7.", port_set },
    { "display", "vnc=unix:PATH|vnc=ADDRESS:PORT|vnc=:N|none", 0, "where the screen can be looked at (default none)",
      "The VNC server is a confined process of its own. vnc=:N is port 5900 + N on 127.0.0.1; port 0 takes one that is "
      "free. keymap=us|gb|de|fr|es|it|se: the layout that the guest has, for viewers that send symbols instead of QEMU's extended key events "
      "(default us). clipboard=on|off: texts go between the viewers' clipboard and that of a guest which runs an agent for it, as of Debian's "
      "package spice-vdagent; the port com.redhat.spice.0 is added for it (default on; with profile micro-1 off). password-file=FILE: viewers must know the password in its first line (at most 8 characters). "
      "tls-cert=FILE,tls-key=FILE: viewers must speak TLS (VeNCrypt, X.509); tls-ca=FILE: and show a certificate of that "
      "authority. Addresses that others reach need TLS and one of the two.", NULL, display_part, "viewer" },
    { "video", "vga|virtio|none", 0, "the display adapter (default: vga with --display, otherwise none)",
      "virtio is virtio-vga with profile pc: a VGA until a driver for virtio takes over; and with profile micro a virtio adapter alone.",
      video_set },
    { "debug-console", "stdio|file:PATH|unix:PATH|none", 0, "where ports 0x402 and 0xe9 go: firmware's log (default none)",
      NULL, debug_console_set },
    { "usb", "tablet|keyboard|none", OPTION_MANY, "adds a USB controller (xHCI) with this device; may be repeated",
      "A tablet's pointer is where the viewer's is; --display adds one unless --usb is given. usb-attach and usb-detach of the control socket plug devices while the VM "
      "runs; none is a controller with nothing plugged in.", usb_set },
    { "virtio-input", "tablet|keyboard", OPTION_MANY, "adds a virtio tablet or keyboard; may be given once for each",
      NULL, virtio_input_set },
    { "balloon", "on|off", 0, "memory that the guest does not use goes back to the host (default on)",
      "The guest's driver (virtio-balloon) reports free pages by itself; the control command balloon asks it to do with less, "
      "and for its statistics.", balloon_set },
    { "watchdog", "reset|pause|exit|none", 0, "what a watchdog that fires does (default reset)", NULL, watchdog_set },
    { "no-reboot", NULL, 0, "a reset by the guest ends the VM", NULL, no_reboot_set },
    { "run-dir", "DIR", 0, "directory for the control socket, log, lock and exit record; created if missing",
      "It holds control.sock, log, lock and, after a controlled end, exit.json. One VM uses a directory at a time. Without "
      "this option nothing is written.", run_dir_set },
    { "control", "unix:PATH", 0, "socket for the control protocol",
      "With --run-dir the default is control.sock in it; without, there is none.", control_set },
    { "save", "FILE", 0, "file that SIGUSR1 or the control command save writes the VM's state to",
      "The VM ends after its state was saved. Disk contents are not part of the file.", save_set },
    { "restore", "FILE", 0, "start from a saved state instead of booting",
      "vCPUs, memory, CPU model and profile come from the file; the same disks and network cards must be given in the same "
      "order. A --kernel given with it is started when the guest resets itself; without one, a reset ends the VM.", restore_set },
    { "restore-once", NULL, 0, "renames the file of --restore to FILE.used before the guest runs",
      "So no state can go on twice: while FILE is there it was not used.", restore_once_set },
    { "gdb", "unix:PATH|tcp:127.0.0.1:PORT[,wait]", 0, "serve the remote protocol of gdb",
      "With wait the guest does not start before a debugger says continue.", gdb_set },
    { "config", "FILE", OPTION_CLI_ONLY, "read options from a JSON file",
      "Members have the options' names. What may be repeated is an array; flags are true or false; disk and net may be "
      "objects: {\"memory\": \"2G\", \"disk\": [{\"path\": \"a.img\", \"format\": \"raw\"}]}. The command line wins over "
      "the file.", config_set },
    { "check", NULL, OPTION_CLI_ONLY, "check options and configuration file, then exit", NULL, check_set },
    { "version", NULL, OPTION_CLI_ONLY, "print the version and exit", NULL, version_set },
    { "help", NULL, OPTION_CLI_ONLY, "print this help and exit", NULL, help_set },
    { "help-man", NULL, OPTION_CLI_ONLY | OPTION_HIDDEN, "print the man page and exit", NULL, man_set },
};
/* clang-format on */

const size_t option_count = ARRAY_LEN(option_table);
_Static_assert(ARRAY_LEN(option_table) <= 64, "options.given has a bit for each");

const char *option_name(size_t i)
{
    if (i >= ARRAY_LEN(option_table))
        return NULL;
    return option_table[i].flags & OPTION_HIDDEN ? "" : option_table[i].name;
}

const struct option *option_find(const char *name, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(option_table); i++)
        if (strlen(option_table[i].name) == len && memcmp(option_table[i].name, name, len) == 0)
            return &option_table[i];
    return NULL;
}

uint64_t option_bit(const struct option *option) { return 1ull << (option - option_table); }

bool options_given(const struct options *options, const char *name)
{
    const struct option *option = option_find(name, strlen(name));
    assert(option);
    return options->given & option_bit(option);
}
