/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * "Open": everything that needs a path or a privilege, in the order in which mistakes are cheap to
 * tell: first what the user named, then the machine.
 */
#include "base/checked.h"
#include "base/ids.h"
#include "base/log.h"
#include "board/board.h"
#include "devices/debugcon.h"
#include "devices/i6300esb.h"
#include "devices/nic/e1000e.h"
#include "devices/pci.h"
#include "devices/serial.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/console.h"
#include "devices/virtio/net.h"
#include "devices/virtio/rng.h"
#include "vmm/engines.h"
#include "vmm/vmm.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

/* ---- files ---- */

static int boot_file_open(const char *option, const char *path, int *out, struct err *err)
{
    if (!path)
        return 0;
    struct stat st;
    AUTO(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_errno(err, errno, "--%s: cannot open %s", option, path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "--%s: %s is %s; name a file", option, path,
                       S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
    if (st.st_size == 0)
        return err_set(err, EINVAL, "--%s: %s is empty", option, path);
    *out = TAKE_FD(fd);
    return 0;
}

/* The unfinished file has a fixed name, so what a killed process left is found and used again. */
static int save_file_open(struct vmm *vmm, struct err *err)
{
    const char *path = vmm->options.save;
    if (!path)
        return 0;
    if (asprintf(&vmm->save_part, "%s.part", path) < 0)
        return err_set(err, ENOMEM, "out of memory");
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "--save: %s exists and is no regular file", path);
    AUTO(fd_close) int fd = open(vmm->save_part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_errno(err, errno, "--save: cannot create %s", vmm->save_part);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return err_set(err, EBUSY, "--save: another VM is going to save to %s", path);
    vmm->save_fd = TAKE_FD(fd);
    vmm->keep.part[KEEPER_SAVE] = vmm->save_part;
    vmm->keep.path[KEEPER_SAVE] = path;
    return 0;
}

void vmm_keep_removed(struct vmm *vmm, const char *path)
{
    unsigned i = 0;
    while (vmm->keep.remove[i])
        i++;
    assert(i + 1 < KEEPER_MAX_PATHS);
    vmm->keep.remove[i] = path;
}

/* ---- a saved state ---- */

static int restore_mismatch(const struct vmm *vmm, const struct snapshot_config *saved,
                            struct err *err)
{
    const struct options *o = &vmm->options;
    char text[32];
    if (options_given(o, "cpus") && o->cpus != saved->cpus)
        return err_set(err, EINVAL, "the saved VM has %u vCPUs; leave out --cpus", saved->cpus);
    if (options_given(o, "memory") && o->memory != saved->memory)
        return err_set(err, EINVAL, "the saved VM has %s of memory; leave out --memory",
                       size_print(saved->memory, text, sizeof text));
    if (o->cpu && strcmp(o->cpu, saved->cpu) != 0)
        return err_set(err, EINVAL, "the saved VM has the CPU %s; leave out --cpu", saved->cpu);
    if (options_given(o, "profile") && strcmp(o->profile, saved->profile) != 0)
        return err_set(err, EINVAL, "the saved VM has the profile %s; leave out --profile",
                       saved->profile);
    if (o->disk_count != saved->disk_count)
        return err_set(err, EINVAL,
                       "the saved VM has %u disks, %u are given; give the same in the same order",
                       saved->disk_count, o->disk_count);
    if (o->net_count != saved->net_count)
        return err_set(
            err, EINVAL,
            "the saved VM has %u network cards, %u are given; give the same in the same order",
            saved->net_count, o->net_count);
    return 0;
}

static int text_replace(char **field, const char *text, struct err *err)
{
    char *copy = strdup(text);
    if (!copy)
        return err_set(err, ENOMEM, "out of memory");
    free(*field);
    *field = copy;
    return 0;
}

/* What was plugged in comes into its slot again. */
static int restore_slot(uint32_t port, const char *saved, unsigned *out, char **id, struct err *err)
{
    if (!port)
        return 0;
    if (!hotplug_id_good(saved))
        return err_set(err, EINVAL, "the id of what is in slot %u is none", port);
    *out = port;
    return text_replace(id, saved, err);
}

static int restore_video(struct options *o, const struct snapshot_config *saved, struct err *err)
{
    enum video_adapter adapter = VIDEO_NONE;
    if (o->video && !saved->video)
        return err_set(err, EINVAL, "--restore: the saved VM has no screen; leave out --%s",
                       options_given(o, "video") ? "video" : "display");
    while (saved->video && options_video(adapter) &&
           strcmp(options_video(adapter), saved->video_model) != 0)
        adapter++;
    if (!options_video(adapter))
        return err_set(err, EINVAL, "--restore: there is no display adapter '%s'",
                       saved->video_model);
    if (o->video == VIDEO_VIRTIO && adapter == VIDEO_VIRTIO_VGA)
        o->video = adapter;
    if (options_given(o, "video") && o->video != adapter)
        return err_set(err, EINVAL, "--restore: the saved VM has --video %s, not %s",
                       options_video(adapter), options_video(o->video));
    o->video = adapter;
    return 0;
}

/* Takes the VM's shape from the saved state. */
static int restore_open(struct vmm *vmm, struct err *err)
{
    struct options *o = &vmm->options;
    if (!o->restore)
        return 0;
    int fd = -1;
    int r = boot_file_open("restore", o->restore, &fd, err);
    if (r == 0)
        r = snapshot_open(fd, &vmm->restore, err);
    if (r < 0)
        return fd < 0 ? r : err_prefix(err, "--restore: %s", o->restore);
    if (o->restore_once) {
        if (asprintf(&vmm->restored_path, "%s.used", o->restore) < 0)
            return err_set(err, ENOMEM, "out of memory");
        vmm->keep.part[KEEPER_RESTORED] = o->restore;
        vmm->keep.path[KEEPER_RESTORED] = vmm->restored_path;
    }
    const struct snapshot_config *saved = snapshot_config(vmm->restore);
    r = restore_mismatch(vmm, saved, err);
    if (r == 0)
        r = text_replace(&o->cpu, saved->cpu, err);
    if (r == 0)
        r = text_replace(&o->profile, saved->profile, err);
    if (r < 0)
        return err_prefix(err, "--restore");
    o->cpus = saved->cpus;
    o->memory = saved->memory;
    r = restore_video(o, saved, err);
    if (r < 0)
        return r;
    if (o->usb && !saved->usb)
        return err_set(err, EINVAL, "--restore: the saved VM has no USB; leave out --usb");
    o->usb = saved->usb;
    if (o->virtio_input & ~saved->virtio_input)
        return err_set(err, EINVAL,
                       "--restore: the saved VM has other input devices; leave out --virtio-input");
    o->virtio_input = (unsigned)saved->virtio_input;
    if (options_given(o, "balloon") && o->balloon != saved->balloon)
        return err_set(err, EINVAL, "--restore: the saved VM has %s balloon; leave out --balloon",
                       saved->balloon ? "a" : "no");
    o->balloon = saved->balloon;
    r = ports_restore(vmm, saved, err);
    if (r < 0)
        return err_prefix(err, "--restore");
    o->usb_count = 0; /* what is plugged in is part of the state */
    r = vmm_firmware_restore(o, saved, &vmm->firmware, err);
    if (r < 0)
        return err_prefix(err, "--restore");
    if (saved->console && o->console.kind == STREAM_NONE)
        return err_set(err, EINVAL, "--restore: the saved VM has a virtio console; give --console");
    if (!saved->console && o->console.kind != STREAM_NONE)
        return err_set(err, EINVAL,
                       "--restore: the saved VM has no virtio console; leave out --console");
    for (unsigned i = 0; i < saved->disk_count && r == 0; i++) {
        o->disks[i].queues = saved->disks[i].queues;
        r = restore_slot(saved->disks[i].port, saved->disks[i].id, &o->disks[i].port,
                         &o->disks[i].id, err);
    }
    for (unsigned i = 0; i < saved->net_count && r == 0; i++)
        r = restore_slot(saved->nets[i].port, saved->nets[i].id, &o->nets[i].port, &o->nets[i].id,
                         err);
    if (r < 0)
        return err_prefix(err, "--restore");
    for (unsigned i = 0; i < saved->net_count; i++) {
        const char *model = options_net_model(o->nets[i].model);
        if (strcmp(model, saved->nets[i].model) != 0)
            return err_set(err, EINVAL,
                           "--restore: network card %u of the saved VM has model=%s, not %s", i,
                           saved->nets[i].model, model);
        memcpy(o->nets[i].mac, saved->nets[i].mac, 6);
        o->nets[i].rom_size = saved->nets[i].rom_size;
        o->nets[i].has_mac = true;
    }
    return 0;
}

/* The disks must be those that were saved, as far as can be told without reading them whole. */
static int restore_check_disks(const struct vmm *vmm, struct err *err)
{
    const struct snapshot_config *saved = snapshot_config(vmm->restore);
    for (unsigned i = 0; i < saved->disk_count; i++) {
        const struct block_node *node = vmm->disks[i];
        int r = media_check_saved(vmm, i, &saved->disks[i], err);
        if (r < 0)
            return r;
        if (!node)
            continue;
        if (block_size(node) != saved->disks[i].size ||
            block_readonly(node) != saved->disks[i].readonly)
            return err_set(err, EINVAL,
                           "--restore: disk %s is not the one that was saved (%llu bytes%s then, "
                           "%llu bytes%s now)",
                           block_path(node), (unsigned long long)saved->disks[i].size,
                           saved->disks[i].readonly ? ", read-only" : "",
                           (unsigned long long)block_size(node),
                           block_readonly(node) ? ", read-only" : "");
    }
    return 0;
}

void vmm_snapshot_config(const struct vmm *vmm, struct snapshot_config *out)
{
    const struct options *o = &vmm->options;
    *out = (struct snapshot_config){ .cpus = vmm->machine->cpus,
                                     .memory = vmm->machine->main_ram->size,
                                     .tsc_khz = vmm->machine->tsc_khz,
                                     .console = o->console.kind != STREAM_NONE,
                                     .video = o->video,
                                     .usb = o->usb,
                                     .virtio_input = o->virtio_input,
                                     .balloon = o->balloon,
                                     .disk_count = o->disk_count,
                                     .net_count = o->net_count };
    ports_names(vmm, out->ports, sizeof out->ports);
    out->firmware_size = vmm->firmware.board.code_size;
    out->vars_size = vmm->firmware.board.vars_size;
    snprintf(out->engine, sizeof out->engine, "%s", vmm->engine->name);
    snprintf(out->video_model, sizeof out->video_model, "%s", options_video(o->video));
    snprintf(out->cpu, sizeof out->cpu, "%s", vmm->cpu_name);
    snprintf(out->profile, sizeof out->profile, "%s", o->profile);
    for (unsigned i = 0; i < o->disk_count; i++) {
        const struct block_node *node = vmm->disks[i];
        snprintf(out->disks[i].format, sizeof out->disks[i].format, "%s",
                 node ? block_format(node) : "none");
        media_bus_name(&o->disks[i], out->disks[i].bus, sizeof out->disks[i].bus);
        out->disks[i].size = node ? block_size(node) : 0;
        out->disks[i].readonly = node ? block_readonly(node) : o->disks[i].readonly;
        out->disks[i].queues = o->disks[i].queues;
        out->disks[i].port = o->disks[i].port;
        if (o->disks[i].id)
            snprintf(out->disks[i].id, sizeof out->disks[i].id, "%s", o->disks[i].id);
    }
    for (unsigned i = 0; i < o->net_count; i++) {
        memcpy(out->nets[i].mac, o->nets[i].mac, 6);
        out->nets[i].rom_size = o->nets[i].rom_size;
        out->nets[i].port = o->nets[i].port;
        if (o->nets[i].id)
            snprintf(out->nets[i].id, sizeof out->nets[i].id, "%s", o->nets[i].id);
        snprintf(out->nets[i].model, sizeof out->nets[i].model, "%s",
                 options_net_model(o->nets[i].model));
    }
}

/* ---- terminal, serial port, console ---- */

static size_t console_input(void *arg, const uint8_t *data, size_t len)
{
    struct vmm *vmm = arg;
    return virtio_console_input(pci_device_of(vmm->console_dev), 0, data, len);
}

static size_t serial_take(void *arg, const uint8_t *data, size_t len)
{
    struct vmm *vmm = arg;
    return serial_input(vmm->serial_dev, data, len);
}

/* The terminal belongs to the console once the guest has opened that, to the serial port until
 * then. */
static size_t stdio_input(void *arg, const uint8_t *data, size_t len)
{
    struct vmm *vmm = arg;
    bool to_console =
        vmm->console == vmm->stdio &&
        (vmm->serial != vmm->stdio || virtio_console_is_open(pci_device_of(vmm->console_dev), 0));
    return to_console ? console_input(vmm, data, len) : serial_take(vmm, data, len);
}

static void serial_output(void *arg, const uint8_t *data, size_t len)
{
    struct vmm *vmm = arg;
    if (vmm->serial)
        stream_write(vmm->serial, data, len);
}

static void serial_room(void *arg)
{
    struct vmm *vmm = arg;
    if (vmm->serial)
        stream_more_room(vmm->serial);
}

static void debug_output(void *arg, const uint8_t *data, size_t len)
{
    struct vmm *vmm = arg;
    if (vmm->debug_console)
        stream_write(vmm->debug_console, data, len);
}

static void console_output(void *arg, const uint8_t *data, size_t len)
{
    struct vmm *vmm = arg;
    if (vmm->console)
        stream_write(vmm->console, data, len);
}

static void console_room(void *arg)
{
    struct vmm *vmm = arg;
    if (vmm->console)
        stream_more_room(vmm->console);
}

static size_t terminal_input(void *arg, uint8_t *data, size_t len)
{
    return terminal_filter(arg, data, len);
}

static int stdio_open(struct vmm *vmm, struct err *err)
{
    bool has_terminal = terminal_find(&vmm->terminal, STDIN_FILENO);
    int r = stream_create(vmm->loop, "stdio", STDIN_FILENO, STDOUT_FILENO, &vmm->stdio, err);
    if (r < 0)
        return r;
    if (has_terminal) {
        vmm->keep.has_terminal = true;
        vmm->keep.terminal_fd = STDIN_FILENO;
        vmm->keep.terminal = vmm->terminal.mode;
        stream_set_filter(vmm->stdio, terminal_input, &vmm->terminal);
    }
    return 0;
}

static int stream_open(struct vmm *vmm, const char *name, const struct stream_options *options,
                       struct stream **out, struct err *err)
{
    int r = 0;
    switch (options->kind) {
    case STREAM_NONE: return 0;
    case STREAM_STDIO:
        if (!vmm->stdio)
            r = stdio_open(vmm, err);
        *out = vmm->stdio;
        return r;
    case STREAM_FILE: r = stream_create_file(vmm->loop, name, options->path, out, err); break;
    case STREAM_UNIX:
        r = stream_create_unix(vmm->loop, name, options->path, STREAM_TAIL, out, err);
        if (r == 0)
            vmm_keep_removed(vmm, options->path);
        break;
    }
    return r < 0 ? err_prefix(err, "--%s", name) : 0;
}

static void streams_connect(struct vmm *vmm)
{
    if (vmm->stdio)
        stream_set_input(vmm->stdio, stdio_input, vmm);
    if (vmm->serial && vmm->serial != vmm->stdio)
        stream_set_input(vmm->serial, serial_take, vmm);
    if (vmm->console && vmm->console != vmm->stdio)
        stream_set_input(vmm->console, console_input, vmm);
}

/* ---- devices ---- */

int vmm_plug(struct vmm *vmm, struct pci_device *pci, struct err *err)
{
    int r = pci_bus_add(board_pci_bus(vmm->board), pci, -1, err);
    if (r < 0)
        device_destroy(&pci->dev);
    else
        machine_add_device(vmm->machine, &pci->dev);
    return r;
}

static int disk_loops(struct vmm *vmm, const struct disk_options *disk,
                      struct loop *loops[OPTIONS_MAX_QUEUES], unsigned *count, struct err *err)
{
    char name[IO_THREAD_NAME];
    int r = 0;
    for (; r == 0 && options_disk_thread(disk, *count, name); (*count)++)
        r = machine_io_loop(vmm->machine, name, &loops[*count], err);
    return r;
}

static int disks_plug(struct vmm *vmm, struct err *err)
{
    for (unsigned i = 0; i < vmm->options.disk_count; i++) {
        const struct disk_options *disk = &vmm->options.disks[i];
        if (disk->bus != DISK_VIRTIO)
            continue;
        char id[16];
        snprintf(id, sizeof id, "disk%u", i);
        struct virtio_blk_options options = {
            .id = disk->id ? disk->id : id,
            .node = vmm->disks[i],
            .readonly = disk->readonly,
            .queues = disk->queues,
            .serial = disk->serial,
            .on_full = disk->on_full,
            .on_error = disk->on_error,
        };
        struct pci_device *pci;
        struct loop *loops[OPTIONS_MAX_QUEUES];
        options.loops = loops;
        int r = disk_loops(vmm, disk, loops, &options.loop_count, err);
        if (r == 0)
            r = virtio_blk_create(vmm->machine, &options, &pci, err);
        if (r == 0)
            r = disk->port ? hotplug_plug(vmm, pci, disk->port, err) : vmm_plug(vmm, pci, err);
        if (r < 0)
            return err_prefix(err, "--disk %s", disk->path);
        vmm->disk_devices[i] = pci;
        if (!disk->port)
            board_add_boot(vmm->board, 'c', pci, "scsi", "/disk@0,0");
    }
    return media_plug(vmm, err);
}

struct net_opening {
    struct vmm *vmm;
    unsigned index;
    int result;
    struct err *err;
};

/* Where the files are that the user network serves; *out is to be freed. */
static int tftp_folder(const char *path, char **out, struct err *err)
{
    enum { PATH_LEN_MAX = 200 }; /* bedplate-net binds it into a root of its own */
    struct stat st;
    AUTO(free) char *real = realpath(path, NULL);
    if (!real || stat(real, &st) < 0)
        return err_errno(err, errno, "tftp=%s", path);
    if (!S_ISDIR(st.st_mode) || strlen(real) < 2 || strlen(real) > PATH_LEN_MAX)
        return err_set(err, EINVAL, "tftp=%s: it is no directory, or / itself, or too long a path",
                       path);
    *out = TAKE(real);
    return 0;
}

static int net_open_user(struct loop *loop, const struct net_options *net, struct net_backend **out,
                         struct err *err)
{
    struct net_hostfwd hostfwd[OPTIONS_MAX_HOSTFWD];
    for (unsigned i = 0; i < net->hostfwd_count; i++) {
        int r = net_hostfwd_parse(net->hostfwd[i], &hostfwd[i], err);
        if (r < 0)
            return r;
    }
    AUTO(free) char *tftp = NULL;
    int r = net->tftp ? tftp_folder(net->tftp, &tftp, err) : 0;
    if (r < 0)
        return r;
    struct net_user_options options = { .hostfwd = hostfwd,
                                        .hostfwd_count = net->hostfwd_count,
                                        .tftp = tftp,
                                        .bootfile = net->bootfile };
    return net_user_create(loop, &options, out, err);
}

/* A back end is made on the loop that it lives on. */
static void net_open(void *arg)
{
    struct net_opening *opening = arg;
    const struct net_options *net = &opening->vmm->options.nets[opening->index];
    struct loop *loop = opening->vmm->machine->io_loop;
    struct net_backend **out = &opening->vmm->nets[opening->index];
    switch (net->kind) {
    case NET_OPTION_USER: opening->result = net_open_user(loop, net, out, opening->err); break;
    case NET_OPTION_TAP: opening->result = net_tap_create(loop, net->tap, out, opening->err); break;
    case NET_OPTION_FD: opening->result = net_fd_create(loop, net->fd, out, opening->err); break;
    }
}

static int net_create(struct vmm *vmm, unsigned index, const char *id, struct pci_device **out,
                      struct err *err)
{
    const struct net_options *net = &vmm->options.nets[index];
    if (net->model == NET_E1000E) {
        struct e1000e_options options = { .id = id, .take_backend = vmm->nets[index] };
        memcpy(options.mac, net->mac, 6);
        return e1000e_create(vmm->machine, &options, out, err);
    }
    struct virtio_net_options options = { .id = id, .take_backend = vmm->nets[index] };
    memcpy(options.mac, net->mac, 6);
    return virtio_net_create(vmm->machine, &options, out, err);
}

static int nets_plug(struct vmm *vmm, struct err *err)
{
    for (unsigned i = 0; i < vmm->options.net_count; i++) {
        struct net_options *net = &vmm->options.nets[i];
        struct net_opening opening = { .vmm = vmm, .index = i, .err = err };
        loop_call(vmm->machine->io_loop, net_open, &opening);
        if (opening.result < 0)
            return err_prefix(err, "--net");
        int r = net->has_mac ? 0 : mac_make(net->mac, err);
        if (r < 0)
            return r;
        char id[16];
        snprintf(id, sizeof id, "net%u", i);
        struct pci_device *pci;
        r = net_create(vmm, i, net->id ? net->id : id, &pci, err);
        if (r == 0)
            r = boot_rom_plug(vmm, net, pci, err);
        if (r == 0)
            r = net->port ? hotplug_plug(vmm, pci, net->port, err) : vmm_plug(vmm, pci, err);
        if (r < 0)
            return err_prefix(err, "--net");
        if (!net->port)
            board_add_boot(vmm->board, 'n', pci, "ethernet", "/ethernet-phy@0");
    }
    return 0;
}

static int console_plug(struct vmm *vmm, struct err *err)
{
    if (vmm->options.console.kind == STREAM_NONE)
        return 0;
    struct virtio_console_port port = {
        .name = "console", .output = console_output, .input_room = console_room, .arg = vmm
    };
    struct virtio_console_options options = { .id = "console0", .ports = &port, .port_count = 1 };
    terminal_size(&vmm->terminal, &options.cols, &options.rows);
    struct pci_device *pci;
    int r = virtio_console_create(vmm->machine, &options, &pci, err);
    if (r == 0)
        r = vmm_plug(vmm, pci, err);
    if (r < 0)
        return err_prefix(err, "--console");
    vmm->console_dev = &pci->dev;
    return 0;
}

static int rng_plug(struct vmm *vmm, struct err *err)
{
    struct pci_device *pci;
    int r = virtio_rng_create(vmm->machine, "rng0", &pci, err);
    return r < 0 ? r : vmm_plug(vmm, pci, err);
}

/* ---- the machine ---- */

static int engine_open(struct vmm *vmm, const struct cpu_model **model, struct err *err)
{
    const struct options *o = &vmm->options;
    int r =
        engine_choose(o->engine, &vmm->engine, vmm->engine_reason, sizeof vmm->engine_reason, err);
    if (r == 0)
        r = engine_cpu_model(vmm->engine, o->cpu, model, err);
    if (r == 0)
        vmm->cpu_name = (*model)->name;
    return r;
}

static void machine_event(void *arg, enum machine_event event, unsigned vcpu, const char *detail)
{
    vmm_machine_event(arg, event, vcpu, detail);
}

static int machine_open(struct vmm *vmm, const struct cpu_model *model, struct err *err)
{
    const struct options *o = &vmm->options;
    struct machine_config config = {
        .engine = vmm->engine,
        .engine_config = { .max_vcpus = o->cpus,
                           .model = model,
                           .options = o->engine_options,
                           .tsc_khz = vmm->restore ? snapshot_config(vmm->restore)->tsc_khz : 0 },
        .cpus = o->cpus,
        .memory = o->memory,
        .loop = vmm->loop,
        .on_event = machine_event,
        .on_vcpu_thread = sandbox_lock_vcpu,
        .arg = vmm,
    };
    return machine_create(&config, &vmm->machine, err);
}

static int board_open(struct vmm *vmm, struct err *err)
{
    const struct options *o = &vmm->options;
    struct board_config config = {
        .profile = o->profile,
        .kernel_fd = vmm->kernel_fd,
        .initrd_fd = vmm->initrd_fd,
        .kernel_name = o->kernel,
        .initrd_name = o->initrd,
        .cmdline = o->cmdline,
        .firmware = vmm->firmware.board,
        .menu = { .show = o->boot.menu, .timeout_ms = o->boot.timeout_ms },
        .boot_order = o->boot.order,
        .port_power = hotplug_power,
        .port_arg = vmm,
        .serial_output = serial_output,
        .serial_room = serial_room,
        .serial_arg = vmm,
    };
    memcpy(config.uuid, o->uuid, sizeof config.uuid);
    int r = o->has_uuid ? 0 : uuid_make(config.uuid, err);
    if (r == 0)
        r = input_create(&vmm->input, err);
    if (r == 0)
        r = video_open(vmm, err);
    if (r < 0)
        return r;
    config.input = vmm->input;
    r = board_create(vmm->machine, &config, &vmm->board, err);
    if (r < 0)
        return r;
    vmm->serial_dev = board_serial(vmm->board);
    vmm->can_reset = vmm->kernel_fd >= 0 || config.firmware.kind != FIRMWARE_NONE;
    if (o->debug_console.kind != STREAM_NONE)
        r = debugcon_create(vmm->machine, debug_output, vmm, err);
    return r;
}

static int devices_open(struct vmm *vmm, struct err *err)
{
    int r = video_plug(vmm, err);
    if (r == 0)
        r = disks_plug(vmm, err);
    if (r == 0)
        r = nets_plug(vmm, err);
    if (r == 0)
        r = console_plug(vmm, err);
    if (r == 0)
        r = rng_plug(vmm, err);
    if (r == 0)
        r = i6300esb_create(vmm->machine, board_pci_bus(vmm->board), -1, "watchdog0", err);
    if (r == 0)
        r = usb_plug(vmm, err);
    if (r == 0)
        r = virtio_inputs_plug(vmm, err);
    if (r == 0)
        r = balloon_plug(vmm, err);
    if (r == 0)
        r = ports_plug(vmm, err);
    return r;
}

static int control_open(struct vmm *vmm, struct err *err)
{
    int r = control_create(vmm->loop, vmm_commands, vmm, &vmm->control, err);
    const char *path = vmm->options.control ? vmm->options.control : vmm->run_dir.control_path;
    if (r < 0 || !path)
        return r;
    int fd = stream_listen(path, err);
    if (fd < 0)
        return err_prefix(err, "control socket");
    vmm_keep_removed(vmm, path);
    return control_listen(vmm->control, fd, err);
}

static int run_dir_use(struct vmm *vmm, struct err *err)
{
    int r = run_dir_open(vmm->options.run_dir, &vmm->run_dir, err);
    if (r < 0)
        return err_prefix(err, "--run-dir");
    if (vmm->run_dir.log_fd >= 0)
        log_set_file(vmm->run_dir.log_fd);
    vmm->keep.lock_fd = vmm->run_dir.lock_fd;
    vmm->keep.part[KEEPER_EXIT_RECORD] = vmm->run_dir.exit_part;
    vmm->keep.path[KEEPER_EXIT_RECORD] = vmm->run_dir.exit_path;
    return 0;
}

/* Each step with the status that its failure has. */
int vmm_open(struct vmm *vmm, enum exit_status *status, struct err *err)
{
    const struct options *o = &vmm->options;
    const struct cpu_model *model = NULL;
    *status = EXIT_FILE;
    int r = run_dir_use(vmm, err);
    if (r == 0)
        r = boot_file_open("kernel", o->kernel, &vmm->kernel_fd, err);
    if (r == 0)
        r = boot_file_open("initrd", o->initrd, &vmm->initrd_fd, err);
    if (r == 0)
        r = vmm_firmware_open(o, &vmm->firmware, err);
    if (r == 0)
        r = restore_open(vmm, err);
    if (r == 0)
        r = disks_open(vmm, err);
    if (r == 0 && vmm->restore)
        r = restore_check_disks(vmm, err);
    if (r == 0)
        r = save_file_open(vmm, err);
    if (r == 0 && (r = options_check_host(o, err)) < 0)
        *status = EXIT_USAGE;
    if (r < 0)
        return r;

    *status = EXIT_ENGINE;
    r = engine_open(vmm, &model, err);
    if (r < 0)
        return r;
    if (strcmp(o->engine, "auto") == 0)
        vmm_say("engine: %s", vmm->engine_reason);
    r = machine_open(vmm, model, err);
    if (r < 0)
        return r;

    *status = EXIT_FILE;
    r = stream_open(vmm, "serial", &o->serial, &vmm->serial, err);
    if (r == 0)
        r = stream_open(vmm, "console", &o->console, &vmm->console, err);
    if (r == 0)
        r = stream_open(vmm, "debug-console", &o->debug_console, &vmm->debug_console, err);
    if (r == 0)
        r = board_open(vmm, err);
    if (r == 0)
        r = devices_open(vmm, err);
    if (r == 0)
        r = board_finish(vmm->board, err);
    if (r == 0)
        r = control_open(vmm, err);
    if (r == 0 && (o->gdb.unix_path || o->gdb.tcp_port))
        r = debugger_create(vmm, &vmm->debugger, err);
    if (r == 0 && o->gdb.unix_path)
        vmm_keep_removed(vmm, o->gdb.unix_path);
    if (r == 0)
        streams_connect(vmm);
    return r;
}

void vmm_close(struct vmm *vmm)
{
    debugger_destroy(vmm->debugger);
    snapshot_close(vmm->restore);
    disk_jobs_end(vmm, NULL);
    machine_destroy(vmm->machine);
    board_destroy(vmm->board);
    video_close(vmm);
    balloon_close(vmm);
    ports_close(vmm);
    input_destroy(vmm->input);
    disks_close(vmm);
    control_destroy(vmm->control);
    if (vmm->serial != vmm->stdio)
        stream_destroy(vmm->serial);
    if (vmm->console != vmm->stdio)
        stream_destroy(vmm->console);
    if (vmm->debug_console != vmm->stdio)
        stream_destroy(vmm->debug_console);
    stream_destroy(vmm->stdio);
    fd_close(vmm->kernel_fd);
    fd_close(vmm->initrd_fd);
    vmm_firmware_close(&vmm->firmware);
}
