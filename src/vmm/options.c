/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An option's value is either one text (`set`) or a list of parts, "first,key=value,flag" (`part`).
 * In JSON a text may be a number, parts may be an object with the same keys, and what may be
 * repeated may be an array.
 */
#include "vmm/options.h"

#include "base/checked.h"
#include "base/ids.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "engine/x86.h"
#include "net/net.h"
#include "vmm/exit_status.h"
#include "vmm/options_disk.h"

#include <ctype.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

enum { MEMORY_UNIT = 1 << 20, MEMORY_MIN = 4 << 20, CPUS_MAX = 255 };
#define MEMORY_MAX (1ull << 40) /* the guest-physical addresses that the board lays out */

enum option_flag {
    OPTION_MANY = 1,     /* may be repeated */
    OPTION_CLI_ONLY = 2, /* makes no sense in a configuration file */
    OPTION_HIDDEN = 4,
};

struct option {
    const char *name;
    const char *value; /* how its value is written; NULL: a flag */
    unsigned flags;
    const char *help;
    const char *more; /* for the man page; may be NULL */
    int (*set)(struct options *o, const char *value, struct err *err);
    /* First with the part named `first` (begins a new item), then with each other part in turn;
     * value is NULL for a part without '='. */
    int (*part)(struct options *o, const char *key, const char *value, struct err *err);
    const char *first;
};

int text_set(char **field, const char *value, struct err *err)
{
    char *copy = strdup(value);
    if (!copy)
        return err_set(err, ENOMEM, "out of memory");
    free(*field);
    *field = copy;
    return 0;
}

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

/* ---- guesses ---- */

/* Edit distance with neighbours swapped counting one, of words shorter than 32. */
static unsigned word_distance(const char *a, const char *b)
{
    enum { MAX = 32 };
    size_t n = strlen(a), m = strlen(b);
    if (n >= MAX || m >= MAX)
        return MAX;
    unsigned d[MAX][MAX];
    for (size_t i = 0; i <= n; i++)
        d[i][0] = (unsigned)i;
    for (size_t j = 0; j <= m; j++)
        d[0][j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++)
        for (size_t j = 1; j <= m; j++) {
            unsigned best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best)
                best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best)
                best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[n][m];
}

const char *options_guess(const char *word, const char *(*get)(size_t i))
{
    size_t len = strlen(word);
    unsigned limit = len < 4 ? 1 : len < 8 ? 2 : 3;
    const char *guess = NULL;
    for (size_t i = 0; get(i); i++) {
        /* A beginning of at least two letters is a good guess, too. */
        if (len >= 2 && strncmp(get(i), word, len) == 0 && !guess)
            guess = get(i);
        unsigned d = word_distance(word, get(i));
        if (d <= limit) {
            limit = d;
            guess = get(i);
        }
    }
    return guess;
}

int unknown_word(struct err *err, const char *what, const char *dashes, const char *word,
                 const char *(*get)(size_t i))
{
    const char *guess = options_guess(word, get);
    if (guess)
        return err_set(err, EINVAL, "unknown %s '%s%.60s'; did you mean '%s%s'?", what, dashes,
                       word, dashes, guess);
    AUTO(buf_fini) struct buf known = { 0 };
    for (size_t i = 0; get(i); i++)
        buf_printf(&known, "%s%s", i ? ", " : "", get(i));
    return err_set(err, EINVAL, "unknown %s '%.60s'; known are %s", what, word, known.data);
}

/* Index of `word`, or the error. */
int choice_set(const char *what, const char *word, const char *(*get)(size_t i), struct err *err)
{
    for (size_t i = 0; get(i); i++)
        if (strcmp(get(i), word) == 0)
            return (int)i;
    return unknown_word(err, what, "", word, get);
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
    if (bytes > MEMORY_MAX)
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

int value_needed(const char *key, const char *value, const char *example, struct err *err)
{
    if (value && *value)
        return 0;
    return err_set(err, EINVAL, "'%s' needs a value, as in %s", key, example);
}

int flag_value(const char *key, const char *value, struct err *err)
{
    return value ? err_set(err, EINVAL, "'%s' takes no value", key) : 0;
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
    if (o->port_count == OPTIONS_MAX_PORTS)
        return err_set(err, EINVAL, "a VM has at most %d ports", OPTIONS_MAX_PORTS);
    for (unsigned i = 0; i < o->port_count; i++)
        if (strlen(o->ports[i].name) == len && memcmp(o->ports[i].name, value, len) == 0)
            return err_set(err, EINVAL, "there are two ports '%s'", o->ports[i].name);
    struct port_options *port = &o->ports[o->port_count++];
    *port = (struct port_options){ .name = strndup(value, len) };
    if (!port->name)
        return err_set(err, ENOMEM, "out of memory");
    return socket_set(&port->path, path, err);
}

static int display_part(struct options *o, const char *key, const char *value, struct err *err)
{
    struct viewer_options *v = &o->viewer;
    const struct {
        const char *key, *example;
        char **text;
    } files[] = { { "password-file", "password-file=FILE", &v->password_file },
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
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        if (strcmp(key, files[i].key) == 0) {
            int r = value_needed(key, value, files[i].example, err);
            return r < 0 ? r : text_set(files[i].text, value, err);
        }
    return err_set(err, EINVAL,
                   "'%.60s' is unknown; there are password-file, tls-cert, tls-key and tls-ca",
                   key);
}

const char *options_video(size_t i)
{
    static const char *const names[] = { "none", "vga", "virtio", NULL };
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
static const struct option option_table[] = {
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
      "free. password-file=FILE: viewers must know the password in its first line (at most 8 characters). "
      "tls-cert=FILE,tls-key=FILE: viewers must speak TLS (VeNCrypt, X.509); tls-ca=FILE: and show a certificate of that "
      "authority. Addresses that others reach need TLS and one of the two.", NULL, display_part, "viewer" },
    { "video", "vga|virtio|none", 0, "the display adapter (default: vga with --display, otherwise none)", NULL, video_set },
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

_Static_assert(ARRAY_LEN(option_table) <= 64, "options.given has a bit for each");

static const char *option_name(size_t i)
{
    if (i >= ARRAY_LEN(option_table))
        return NULL;
    return option_table[i].flags & OPTION_HIDDEN ? "" : option_table[i].name;
}

static const struct option *option_find(const char *name, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(option_table); i++)
        if (strlen(option_table[i].name) == len && memcmp(option_table[i].name, name, len) == 0)
            return &option_table[i];
    return NULL;
}

static uint64_t option_bit(const struct option *option) { return 1ull << (option - option_table); }

bool options_given(const struct options *options, const char *name)
{
    const struct option *option = option_find(name, strlen(name));
    assert(option);
    return options->given & option_bit(option);
}

/* ---- text ---- */

/* Repeating a key within one disk or card would drop the first without a word; hostfwd adds up. */
static int parts_duplicate(const char *const *seen, unsigned count, const char *key,
                           struct err *err)
{
    for (unsigned i = 0; i < count; i++)
        if (strcmp(seen[i], key) == 0 && strcmp(key, "hostfwd") != 0)
            return err_set(err, EINVAL, "'%s' is given twice", key);
    return 0;
}

static int option_parts(struct options *o, const struct option *option, const char *text,
                        struct err *err)
{
    enum { MAX_PARTS = 32 };
    const char *seen[MAX_PARTS];
    unsigned count = 0;
    AUTO(free) char *copy = strdup(text);
    if (!copy)
        return err_set(err, ENOMEM, "out of memory");
    char *rest = copy;
    int r = option->part(o, option->first, strsep(&rest, ","), err);
    while (r == 0 && rest) {
        char *value = strsep(&rest, ",");
        const char *key = strsep(&value, "=");
        if (!*key)
            return err_set(err, EINVAL, "'%.80s' has a comma with nothing behind it", text);
        if (strcmp(key, option->first) == 0 || count == MAX_PARTS)
            return err_set(err, EINVAL, "'%.80s': the %s comes first and once", text,
                           option->first);
        r = parts_duplicate(seen, count, key, err);
        seen[count++] = key;
        if (r == 0)
            r = option->part(o, key, value, err);
    }
    return r;
}

static int option_set(struct options *o, const struct option *option, const char *value,
                      struct err *err)
{
    int r = option->part ? option_parts(o, option, value, err) : option->set(o, value, err);
    return r;
}

/* ---- JSON ---- */

/* The text form of a scalar, in buf or in the value itself. */
static const char *json_scalar(const json_t *value, char buf[24])
{
    if (json_is_string(value) && strlen(json_string_value(value)) == json_string_length(value))
        return json_string_value(value);
    if (!json_is_integer(value))
        return NULL;
    snprintf(buf, 24, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    return buf;
}

static int json_part(struct options *o, const struct option *option, const char *key,
                     const json_t *value, struct err *err)
{
    char buf[24];
    if (json_is_false(value))
        return 0;
    if (json_is_true(value))
        return option->part(o, key, NULL, err);
    const char *text = json_scalar(value, buf);
    if (!text)
        return err_set(err, EINVAL, "'%.60s' must be a string, a number, true or false", key);
    return option->part(o, key, text, err);
}

static int json_parts(struct options *o, const struct option *option, const json_t *object,
                      struct err *err)
{
    const json_t *first = json_object_get(object, option->first);
    if (!json_is_string(first))
        return err_set(err, EINVAL, "the string '%s' is missing", option->first);
    int r = json_part(o, option, option->first, first, err);

    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        if (r < 0)
            return r;
        if (strcmp(key, option->first) == 0)
            continue;
        if (!json_is_array(value)) {
            r = json_part(o, option, key, value, err);
            continue;
        }
        for (size_t i = 0; r == 0 && i < json_array_size(value); i++)
            r = json_part(o, option, key, json_array_get(value, i), err);
    }
    return r;
}

static int json_option_one(struct options *o, const struct option *option, const json_t *value,
                           struct err *err)
{
    char buf[24];
    if (option->part && json_is_object(value))
        return json_parts(o, option, value, err);
    if (!option->value) {
        if (!json_is_boolean(value))
            return err_set(err, EINVAL, "must be true or false");
        return json_is_true(value) ? option->set(o, NULL, err) : 0;
    }
    const char *text = json_scalar(value, buf);
    if (!text)
        return err_set(err, EINVAL, "must be %s",
                       option->part ? "a string or an object" : "a string or a number");
    return option_set(o, option, text, err);
}

static int json_option(struct options *o, const struct option *option, const json_t *value,
                       struct err *err)
{
    if (!json_is_array(value) || !(option->flags & OPTION_MANY))
        return json_option_one(o, option, value, err);
    int r = 0;
    for (size_t i = 0; r == 0 && i < json_array_size(value); i++)
        r = json_option_one(o, option, json_array_get(value, i), err);
    return r;
}

int options_parse_json(const char *text, size_t len, struct options *options, struct err *err)
{
    AUTO(json_decref) json_t *root = NULL;
    int r = json_parse(text, len, &root, err);
    if (r < 0)
        return r;
    if (!json_is_object(root))
        return err_set(err, EINVAL, "the configuration must be a JSON object");

    uint64_t from_cli = options->given;
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value)
    {
        const struct option *option = option_find(key, strlen(key));
        if (!option)
            return unknown_word(err, "option", "", key, option_name);
        if (option->flags & OPTION_CLI_ONLY)
            return err_set(err, EINVAL, "'%s' belongs on the command line", key);
        if (from_cli & option_bit(option))
            continue;
        r = json_option(options, option, value, err);
        if (r < 0)
            return err_prefix(err, "%s", key);
        if (!json_is_false(value))
            options->given |= option_bit(option);
    }
    return 0;
}

/* ---- command line ---- */

static int option_missing_value(const struct option *option, const char *next, struct err *err)
{
    if (!next)
        return err_set(err, EINVAL, "--%s needs a value: --%s %s", option->name, option->name,
                       option->value);
    return err_set(err, EINVAL,
                   "--%s needs a value: --%s %s (if it shall be '%.40s', write --%s=%.40s)",
                   option->name, option->name, option->value, next, option->name, next);
}

/* Takes one option with its value; *used: how many words. */
static int argument_parse(struct options *o, char *const *argv, int *used, struct err *err)
{
    const char *word = argv[0];
    if (word[0] != '-' || !word[1])
        return err_set(
            err, EINVAL,
            "unexpected argument '%.80s'; a kernel is given by --kernel, a disk by --disk", word);
    const char *name = word + (word[1] == '-' ? 2 : 1);
    size_t len = strcspn(name, "=");
    const struct option *option = word[1] == '-' ? option_find(name, len) : NULL;
    if (!option) {
        char bare[40];
        snprintf(bare, sizeof bare, "%.*s", (int)(len < 39 ? len : 39), name);
        const char *guess = options_guess(bare, option_name);
        if (guess && *guess)
            return err_set(err, EINVAL, "unknown option '%.60s'; did you mean --%s?", word, guess);
        return err_set(err, EINVAL, "unknown option '%.60s'; --help lists all", word);
    }
    if ((o->given & option_bit(option)) && !(option->flags & OPTION_MANY))
        return err_set(err, EINVAL, "--%s is given twice; give it once", option->name);

    const char *value = name[len] ? name + len + 1 : NULL;
    *used = 1;
    if (!option->value && value)
        return err_set(err, EINVAL, "--%s takes no value", option->name);
    if (option->value && !value) {
        value = argv[1];
        if (!value || strncmp(value, "--", 2) == 0)
            return option_missing_value(option, value, err);
        *used = 2;
    }
    o->given |= option_bit(option);
    int r = option_set(o, option, value, err);
    return r < 0 ? err_prefix(err, "--%s", option->name) : 0;
}

static int config_load(struct options *o, struct err *err)
{
    AUTO(buf_fini) struct buf text = { 0 };
    int r = file_read(o->config, JSON_MAX_BYTES, &text, err);
    if (r == 0)
        r = options_parse_json((const char *)text.data, text.len, o, err);
    if (r < 0 && text.data)
        err_prefix(err, "%s", o->config);
    return r;
}

static int defaults_set(struct options *o, struct err *err)
{
    int r = 0;
    if (!o->engine)
        r = text_set(&o->engine, "auto", err);
    if (r == 0 && !o->profile)
        r = text_set(&o->profile, "pc-1", err);
    if (!o->cpus)
        o->cpus = 1;
    if (!o->memory)
        o->memory = 512ull << 20;
    if (!o->kernel && !o->firmware && !o->restore && o->disk_count)
        r = r < 0 ? r : text_set(&o->firmware, "bios", err);
    if (!*o->boot.order)
        strcpy(o->boot.order, "cdn");
    if (o->boot.menu && !o->boot.timeout_ms)
        o->boot.timeout_ms = 3000;
    if (!options_given(o, "serial") && o->console.kind != STREAM_STDIO)
        o->serial.kind = STREAM_STDIO;
    if (!options_given(o, "video"))
        o->video = o->viewer.address ? VIDEO_VGA : VIDEO_NONE;
    if (!options_given(o, "balloon"))
        o->balloon = true;
    /* With a tablet the pointer is where the viewer's is. */
    if (r == 0 && o->viewer.address && !o->restore && !options_given(o, "usb"))
        r = usb_set(o, "tablet", err);
    return r;
}

/* What no single option can see. */
static int options_check(const struct options *o, struct err *err)
{
    if (o->restore && !o->kernel && (o->initrd || o->cmdline))
        return err_set(
            err, EINVAL,
            "--restore goes on where the saved VM stood; leave out --%s, or give --kernel too",
            o->initrd ? "initrd" : "cmdline");
    if (!o->restore && !o->kernel && !o->firmware)
        return err_set(err, EINVAL,
                       "nothing to boot; give --disk FILE, --kernel FILE, --firmware or --restore "
                       "FILE");
    if (o->kernel && o->firmware && strcmp(o->firmware, "bios") == 0)
        return err_set(err, EINVAL,
                       "--kernel: a BIOS loads no kernel; leave out --firmware, or take uefi");
    if (o->restore_once && !o->restore)
        return err_set(err, EINVAL, "--restore-once is for --restore FILE; give that, too");
    if (o->restore && o->firmware)
        return err_set(err, EINVAL, "--restore brings its firmware along; leave out --firmware");
    if (o->uefi_vars && !o->firmware && !o->restore)
        return err_set(err, EINVAL, "--uefi-vars is for --firmware uefi; give that, too");
    if (options_given(o, "boot") && !o->firmware && !o->restore)
        return err_set(err, EINVAL, "--boot is for firmware; give --firmware bios or uefi, too");
    if (o->memory > MEMORY_MAX)
        return err_set(err, EINVAL, "too much memory");
    if (o->viewer.address && !o->video)
        return err_set(err, EINVAL,
                       "--display shows the display adapter's screen; leave out --video none");
    for (unsigned i = 0; i < o->disk_count; i++) {
        int r = options_disk_check(&o->disks[i], err);
        if (r < 0)
            return err_prefix(err, "--disk %s", o->disks[i].path ? o->disks[i].path : "none");
    }
    for (unsigned i = 0; i < o->disk_count; i++)
        for (unsigned j = 0; j < i; j++)
            if (o->disks[i].path && o->disks[j].path &&
                strcmp(o->disks[i].path, o->disks[j].path) == 0 &&
                !(o->disks[i].readonly && o->disks[j].readonly))
                return err_set(
                    err, EINVAL,
                    "--disk %s is given twice; a disk that is written belongs to one place",
                    o->disks[i].path);
    return 0;
}

int options_parse(int argc, char *const argv[], struct options *out, struct err *err)
{
    *out = (struct options){ 0 };
    for (int i = 1, used = 1; i < argc; i += used) {
        int r = argument_parse(out, argv + i, &used, err);
        if (r < 0)
            return r;
    }
    if (out->help || out->version || out->man)
        return 0;
    int r = out->config ? config_load(out, err) : 0;
    if (r == 0 && out->check && !out->config && out->given == option_bit(option_find("check", 5)))
        return err_set(err, EINVAL,
                       "--check has nothing to check; add --config FILE or other options");
    if (r == 0)
        r = defaults_set(out, err);
    return r < 0 ? r : options_check(out, err);
}

void options_fini(struct options *o)
{
    char **texts[] = { &o->engine,
                       &o->engine_options,
                       &o->cpu,
                       &o->profile,
                       &o->kernel,
                       &o->firmware,
                       &o->uefi_vars,
                       &o->debug_console.path,
                       &o->initrd,
                       &o->cmdline,
                       &o->run_dir,
                       &o->control,
                       &o->config,
                       &o->save,
                       &o->restore,
                       &o->gdb.unix_path,
                       &o->serial.path,
                       &o->console.path,
                       &o->viewer.address,
                       &o->viewer.password_file,
                       &o->viewer.tls_cert,
                       &o->viewer.tls_key,
                       &o->viewer.tls_ca };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        free(*texts[i]);
        *texts[i] = NULL;
    }
    for (unsigned i = 0; i < o->disk_count; i++) {
        options_disk_fini(&o->disks[i]);
    }
    for (unsigned i = 0; i < o->net_count; i++) {
        free(o->nets[i].tap);
        free(o->nets[i].tftp);
        free(o->nets[i].bootfile);
        free(o->nets[i].id);
        for (unsigned j = 0; j < o->nets[i].hostfwd_count; j++)
            free(o->nets[i].hostfwd[j]);
    }
    for (unsigned i = 0; i < o->port_count; i++) {
        free(o->ports[i].name);
        free(o->ports[i].path);
    }
    o->disk_count = o->net_count = o->port_count = 0;
}

/* ---- the host ---- */

/* A line "Name:  123 kB" of /proc/meminfo in bytes; 0 when it is not there. */
static uint64_t meminfo(const char *name)
{
    AUTO(buf_fini) struct buf text = { 0 };
    if (file_read("/proc/meminfo", 1 << 16, &text, NULL) < 0)
        return 0;
    const char *line = strstr((const char *)text.data, name);
    return line ? strtoull(line + strlen(name), NULL, 10) * 1024 : 0;
}

int options_check_host(const struct options *o, struct err *err)
{
    uint64_t total = meminfo("MemTotal:"), available = meminfo("MemAvailable:");
    char want[32], have[32];
    size_print(o->memory, want, sizeof want);
    if (total && o->memory > total)
        return err_set(err, ENOMEM, "--memory: the host has %s, not %s; give the VM less",
                       size_print(total, have, sizeof have), want);
    if (available && o->memory > available)
        log_warning("--memory: only %s of the host's memory is free, the VM may use %s",
                    size_print(available, have, sizeof have), want);
    return 0;
}

/* ---- help ---- */

void options_print_help(FILE *to)
{
    fprintf(to,
            "bedplate-vmm %s runs one virtual machine.\n\n"
            "usage: bedplate-vmm --disk FILE [options]\n"
            "       bedplate-vmm --kernel FILE [options]\n"
            "       bedplate-vmm --restore FILE [options]\n\n",
            BEDPLATE_VERSION);
    for (size_t i = 0; i < ARRAY_LEN(option_table); i++) {
        const struct option *option = &option_table[i];
        if (option->flags & OPTION_HIDDEN)
            continue;
        char left[160];
        snprintf(left, sizeof left, "--%s%s%s", option->name, option->value ? " " : "",
                 option->value ? option->value : "");
        if (strlen(left) > 24)
            fprintf(to, "  %s\n%26s %s\n", left, "", option->help);
        else
            fprintf(to, "  %-24s %s\n", left, option->help);
    }
    fprintf(to, "\nexit status: 0 when the guest powered off; the man page bedplate-vmm(1) lists "
                "the others\n");
}

/* Text in roff: a leading dot or quote would be a request, a hyphen is written \-. */
static void man_text(FILE *to, const char *text)
{
    if (*text == '.' || *text == '\'')
        fputs("\\&", to);
    for (; *text; text++) {
        if (*text == '-')
            fputs("\\-", to);
        else if (*text == '\\')
            fputs("\\\\", to);
        else
            fputc(*text, to);
    }
}

static void man_option(FILE *to, const struct option *option)
{
    fputs(".TP\n\\fB\\-\\-", to);
    man_text(to, option->name);
    fputs("\\fR", to);
    if (option->value) {
        fputs(" \\fI", to);
        man_text(to, option->value);
        fputs("\\fR", to);
    }
    fputs("\n", to);
    man_text(to, option->help);
    fputs(".\n", to);
    if (option->more) {
        man_text(to, option->more);
        fputs("\n", to);
    }
}

void options_print_man(FILE *to)
{
    fputs(".TH BEDPLATE\\-VMM 1 \"\" \"Bedplate " BEDPLATE_VERSION "\" \"User Commands\"\n"
          ".SH NAME\nbedplate\\-vmm \\- run one virtual machine\n"
          ".SH SYNOPSIS\n.B bedplate\\-vmm \\-\\-kernel\n.IR FILE \" [options]\"\n.br\n"
          ".B bedplate\\-vmm \\-\\-restore\n.IR FILE \" [options]\"\n"
          ".SH DESCRIPTION\n"
          "bedplate\\-vmm opens everything that its virtual machine needs, gives up all further "
          "rights, and runs it.\n"
          "Each option can also be written as \\fB\\-\\-name=value\\fR.\n"
          ".SH OPTIONS\n",
          to);
    for (size_t i = 0; i < ARRAY_LEN(option_table); i++)
        if (!(option_table[i].flags & OPTION_HIDDEN))
            man_option(to, &option_table[i]);
    fputs(".SH CPU MODELS\n", to);
    for (const struct cpu_model *model = cpu_models; model->name; model++) {
        fputs(".TP\n\\fB", to);
        man_text(to, model->name);
        fputs("\\fR\n", to);
        man_text(to, model->about);
        fputs("\n", to);
    }
    fputs(
        ".SH KEYS\nOn a terminal, Ctrl\\-A is followed by a key: X ends the VM, H lists the keys, "
        "Ctrl\\-A sends one "
        "Ctrl\\-A to the guest.\n"
        ".SH SIGNALS\nSIGTERM, SIGINT and SIGHUP end the VM at once, as pulling the plug does, "
        "with all acknowledged "
        "writes kept.\nSIGUSR1 saves the state to the file of \\fB\\-\\-save\\fR and ends the VM.\n"
        ".SH EXIT STATUS\n",
        to);
    for (int i = 0; i < EXIT_STATUS_COUNT; i++) {
        fprintf(to, ".TP\n.B %d\n", i);
        man_text(to, exit_statuses[i].about);
        fprintf(to, " (\\fB%s\\fR).\n", exit_statuses[i].name);
    }
}
