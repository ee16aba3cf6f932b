/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What clients of the control socket can ask for: docs/control-protocol.md tells the same for
 * people. */
#include "base/ids.h"
#include "base/text.h"
#include "board/board.h"
#include "vmm/inspect.h"
#include "vmm/vmm.h"

#include <string.h>

#define COMMAND(name)                                                               \
    static int name(void *arg, struct control_request *request, const json_t *args, \
                    json_t **result, struct err *err)

static json_t *disk_status(const struct vmm *vmm, unsigned index)
{
    const struct block_node *node = vmm->disks[index];
    char name[16];
    media_name(vmm, index, name, sizeof name);
    if (!node)
        return json_pack("{s:s, s:n}", "drive", name, "path");
    json_t *out =
        json_pack("{s:s, s:s, s:s, s:I, s:b, s:s}", "drive", name, "path", block_path(node),
                  "format", block_format(node), "size", (json_int_t)block_size(node), "readonly",
                  block_readonly(node), "backend", block_backend(node));
    if (out && vmm->options.disks[index].port)
        json_object_set_new(out, "device", json_string(name));
    return out;
}

static json_t *net_status(const struct vmm *vmm, unsigned index)
{
    const struct net_options *net = &vmm->options.nets[index];
    char mac[MAC_TEXT];
    mac_print(net->mac, mac);
    json_t *out = json_pack("{s:s, s:s}", "backend", vmm->nets[index]->name, "mac", mac);
    if (net->port)
        json_object_set_new(out, "device", json_string(net->id));
    return out;
}

COMMAND(do_status)
{
    struct vmm *vmm = arg;
    struct machine *m = vmm->machine;
    char sandbox[SANDBOX_TEXT];
    sandbox_print(&vmm->sandbox, sandbox);
    json_t *disks = json_array(), *nets = json_array();
    for (unsigned i = 0; i < vmm->options.disk_count; i++)
        json_array_append_new(disks, disk_status(vmm, i));
    for (unsigned i = 0; i < vmm->options.net_count; i++)
        json_array_append_new(nets, net_status(vmm, i));
    *result = json_pack(
        "{s:s, s:s, s:s, s:s, s:i, s:I, s:s, s:I, s:i, s:s, s:b, s:o, s:o, s:o, s:o, s:o}", "state",
        vmm->saving.active ? "saving" : machine_state_name((enum machine_state)m->state),
        "paused-by", vmm->paused_by, "engine", vmm->engine->name, "cpu", vmm->cpu_name, "cpus",
        (int)m->cpus, "memory", (json_int_t)m->main_ram->size, "profile", vmm->options.profile,
        "guest-ns", (json_int_t)guest_now_ns(m), "pid", (int)getpid(), "sandbox", sandbox,
        "no-reboot", vmm->options.no_reboot, "disks", disks, "nets", nets, "screen",
        video_status(vmm), "usb", usb_status(vmm), "ports", ports_status(vmm));
    if (*result && vmm->balloon)
        json_object_set_new(*result, "memory-target",
                            json_integer((json_int_t)balloon_target(vmm)));
    return *result ? 0 : err_set(err, EINVAL, "a name or path is not valid UTF-8");
}

COMMAND(do_pause)
{
    vmm_pause(arg, "user");
    return 0;
}

COMMAND(do_resume) { return vmm_resume(arg, err); }

COMMAND(do_power_button)
{
    struct vmm *vmm = arg;
    if (vmm->machine->state != MACHINE_RUNNING)
        return err_set(err, EAGAIN, "the VM does not run; resume it first");
    board_power_button(vmm->board);
    return 0;
}

COMMAND(do_reset) { return vmm_reset(arg, err); }

COMMAND(do_quit)
{
    vmm_end(arg, EXIT_QUIT, "control command quit");
    return 0;
}

COMMAND(do_save)
{
    static const char *const thens[] = { "end", "pause", "resume" };
    const char *then = "end";
    bool use_fd = false;
    int r = json_get_string(args, "then", &then, err);
    if (r >= 0)
        r = json_get_bool(args, "fd", &use_fd, err);
    if (r < 0)
        return r;
    int index = 0;
    while (index < 3 && strcmp(then, thens[index]) != 0)
        index++;
    if (index == 3)
        return err_set(err, EINVAL, "'then' is end, pause or resume");
    if (index && !use_fd)
        return err_set(
            err, EINVAL,
            "only a VM that is saved to a descriptor (\"fd\": true) can go on afterwards");
    int fd = use_fd ? control_take_fd(request) : -1;
    if (use_fd && fd < 0)
        return err_set(err, EBADF, "no descriptor came with the request");
    r = vmm_save(arg, fd, index, request, err);
    return r < 0 ? r : CONTROL_LATER;
}

COMMAND(do_screenshot) { return video_screenshot(arg, request, args, result, err); }

COMMAND(do_send_keys) { return video_send_keys(arg, request, args, err); }

COMMAND(do_send_pointer) { return video_send_pointer(arg, args, err); }

COMMAND(do_medium_eject)
{
    const char *drive = NULL;
    bool force = false;
    int r = json_get_string(args, "drive", &drive, err);
    if (r >= 0)
        r = json_get_bool(args, "force", &force, err);
    if (r < 0)
        return r;
    if (!drive)
        return err_set(err, EINVAL, "'drive' is missing; status lists the drives");
    return media_eject(arg, drive, force, err);
}

COMMAND(do_medium_insert)
{
    const char *drive = NULL, *name = "medium", *format = NULL;
    int r = json_get_string(args, "drive", &drive, err);
    if (r >= 0)
        r = json_get_string(args, "name", &name, err);
    if (r >= 0)
        r = json_get_string(args, "format", &format, err);
    if (r < 0)
        return r;
    if (!drive)
        return err_set(err, EINVAL, "'drive' is missing; status lists the drives");
    int fd = control_take_fd(request);
    if (fd < 0)
        return err_set(err, EBADF, "no descriptor came with the request");
    return media_insert(arg, drive, name, format, fd, err);
}

static int device_add_disk(struct vmm *vmm, const char *id, const json_t *args, int fd,
                           unsigned *port, struct err *err)
{
    struct hotplug_disk disk = { .id = id, .name = id };
    int r = json_get_string(args, "name", &disk.name, err);
    if (r >= 0)
        r = json_get_string(args, "format", &disk.format, err);
    if (r >= 0)
        r = json_get_bool(args, "readonly", &disk.readonly, err);
    disk.options = json_object_get(args, "options");
    if (r >= 0 && disk.options && !json_is_object(disk.options))
        r = err_set(err, EINVAL, "'options' is an object: {\"serial\": \"S-1\"}");
    if (r < 0) {
        fd_close(fd);
        return r;
    }
    return hotplug_add_disk(vmm, &disk, fd, port, err);
}

static int device_add_net(struct vmm *vmm, const char *id, const json_t *args, int fd,
                          unsigned *port, struct err *err)
{
    AUTO(fd_close) int owned = fd;
    const char *text = NULL;
    uint8_t mac[6];
    int r = json_get_string(args, "mac", &text, err);
    if (r < 0)
        return r;
    r = text ? mac_parse(text, mac, err) : mac_make(mac, err);
    return r < 0 ? r : hotplug_add_net(vmm, id, mac, TAKE_FD(owned), port, err);
}

COMMAND(do_device_add)
{
    const char *kind = NULL, *id = NULL;
    unsigned port = 0;
    AUTO(fd_close) int fd = control_take_fd(request); /* a refused request takes it along, too */
    int r = json_get_string(args, "kind", &kind, err);
    if (r >= 0)
        r = json_get_string(args, "device", &id, err);
    if (r < 0)
        return r;
    if (!kind || !id || (strcmp(kind, "disk") != 0 && strcmp(kind, "net") != 0))
        return err_set(err, EINVAL, "'kind' (disk or net) and 'device' (a new id) are needed");
    if (fd < 0)
        return err_set(err, EBADF, "no descriptor came with the request");
    r = *kind == 'd' ? device_add_disk(arg, id, args, TAKE_FD(fd), &port, err)
                     : device_add_net(arg, id, args, TAKE_FD(fd), &port, err);
    if (r == 0)
        *result = json_pack("{s:i}", "slot", (int)port);
    return r;
}

COMMAND(do_device_remove)
{
    const char *id = NULL;
    bool force = false;
    int r = json_get_string(args, "device", &id, err);
    if (r >= 0)
        r = json_get_bool(args, "force", &force, err);
    if (r < 0)
        return r;
    if (!id)
        return err_set(err, EINVAL, "'device' is missing");
    return hotplug_remove(arg, id, force, err);
}

COMMAND(do_usb_attach)
{
    const char *device = NULL;
    int r = json_get_string(args, "device", &device, err);
    if (r < 0)
        return r;
    if (!device)
        return err_set(err, EINVAL, "'device' is missing: tablet or keyboard");
    return usb_attach(arg, device, result, err);
}

COMMAND(do_usb_detach)
{
    uint64_t port = 0;
    int r = json_get_u64(args, "port", 1, OPTIONS_MAX_USB, &port, err);
    if (r == 0)
        return err_set(err, EINVAL, "'port' is missing; status tells what is at which");
    return r < 0 ? r : usb_detach(arg, (unsigned)port, err);
}

static void counter_add(void *arg, const char *name, uint64_t value)
{
    json_object_set_new(arg, name, json_integer((json_int_t)value));
}

struct net_counters {
    struct vmm *vmm;
    json_t *list;
};

static void nets_count(void *arg)
{
    struct net_counters *counters = arg;
    for (unsigned i = 0; i < counters->vmm->options.net_count; i++) {
        const struct net_backend *net = counters->vmm->nets[i];
        json_array_append_new(
            counters->list, json_pack("{s:s, s:I, s:I, s:I, s:b}", "backend", net->name, "sent",
                                      (json_int_t)net->sent, "received", (json_int_t)net->received,
                                      "dropped", (json_int_t)net->dropped, "up", net->up));
    }
}

COMMAND(do_counters)
{
    struct vmm *vmm = arg;
    json_t *engine = json_object();
    if (vmm->engine->counters)
        vmm->engine->counters(vmm->machine->engine, counter_add, engine);
    struct net_counters nets = { .vmm = vmm, .list = json_array() };
    loop_call(vmm->machine->io_loop, nets_count, &nets);
    *result = json_pack("{s:o, s:o, s:I, s:I}", "engine", engine, "nets", nets.list, "serial-lost",
                        (json_int_t)(vmm->serial ? stream_lost(vmm->serial) : 0), "console-lost",
                        (json_int_t)(vmm->console ? stream_lost(vmm->console) : 0));
    return 0;
}

COMMAND(do_console_log)
{
    struct vmm *vmm = arg;
    const char *port = "serial";
    uint64_t bytes = STREAM_HISTORY;
    int r = json_get_string(args, "port", &port, err);
    if (r >= 0)
        r = json_get_u64(args, "bytes", 0, STREAM_HISTORY, &bytes, err);
    if (r < 0)
        return r;
    bool serial = strcmp(port, "serial") == 0;
    struct stream *stream = serial ? vmm->serial : vmm->console;
    if (!serial && strcmp(port, "console") != 0)
        return err_set(err, EINVAL, "'port' is serial or console");
    if (!stream)
        return err_set(err, ENODEV, "the VM has no such port; --%s says where it goes", port);
    AUTO(buf_fini) struct buf data = { 0 };
    AUTO(buf_fini) struct buf text = { 0 };
    uint64_t before = stream_history(stream, bytes, &data);
    buf_grow(&text, 0); /* not NULL, if there is nothing */
    buf_base64(&text, data.data, data.len);
    *result = json_pack("{s:I, s:s%}", "before", (json_int_t)before, "data", text.data, text.len);
    return 0;
}

/* State stands still only while the machine does. */
COMMAND(do_inspect)
{
    struct vmm *vmm = arg;
    const char *device = NULL;
    uint64_t vcpu = 0;
    int has_device = json_get_string(args, "device", &device, err);
    int has_vcpu = has_device < 0 ? has_device : json_get_u64(args, "vcpu", 0, 255, &vcpu, err);
    if (has_vcpu < 0)
        return has_vcpu;
    if (has_device && has_vcpu)
        return err_set(err, EINVAL, "one of 'device' and 'vcpu', not both");
    if (!has_device && !has_vcpu) {
        *result = json_pack("{s:o}", "devices", inspect_devices(vmm->machine));
        return 0;
    }
    bool running = vmm->machine->state == MACHINE_RUNNING;
    if (running)
        machine_pause(vmm->machine);
    int r = has_device ? inspect_device(vmm->machine, device, result, err)
                       : inspect_vcpu(vmm->machine, (unsigned)vcpu, result, err);
    if (running)
        machine_resume(vmm->machine);
    return r;
}

static const char *const save_members[] = { "fd", "then", NULL }, *const inspect_members[] = {
    "device", "vcpu", NULL
};

static const char *const screenshot_members[] = { "fd", "format", NULL };
static const char *const keys_members[] = { "keys", "text", NULL };
static const char *const pointer_members[] = { "x", "y", "buttons", NULL };

static const char *const add_members[] = { "kind", "device",   "name",    "format",
                                           "mac",  "readonly", "options", NULL };
static const char *const remove_members[] = { "device", "force", NULL };
static const char *const log_members[] = { "port", "bytes", NULL };
static const char *const balloon_members[] = { "target", NULL };
static const char *const usb_attach_members[] = { "device", NULL };
static const char *const usb_detach_members[] = { "port", NULL };
static const char *const eject_members[] = { "drive", "force", NULL };
static const char *const insert_members[] = { "drive", "name", "format", NULL };

/* clang-format off */
static const char *const snapshot_members[] = { "disk", "path", "backing", "existing", NULL };
static const char *const resize_members[] = { "disk", "size", "shrink", NULL };
static const char *const stream_members[] = { "disk", "base", "speed", NULL };
static const char *const commit_members[] = { "disk", "layer", "base", "fd", "keep", "resume", "speed", NULL };
static const char *const rebase_members[] = { "disk", "path", "format", "backing", "unsafe", "speed", NULL };
static const char *const mirror_members[] = { "disk", "path", "format", "stay", "resume", "speed", NULL };
static const char *const backup_members[] = { "disk", "path", "format", "bitmap", "incremental", "resume", "speed", NULL };
static const char *const throttle_members[] = { "disk", "limits", NULL };
static const char *const job_members[] = { "job", NULL }, *const speed_members[] = { "job", "speed", NULL };
/* clang-format on */

const struct control_command vmm_commands[] = {
    { "status", "state, engine, vCPUs, memory, disks, nets", NULL, do_status },
    { "pause", "stop the vCPUs, the devices and the guest's clock", NULL, do_pause },
    { "resume", "go on after a pause", NULL, do_resume },
    { "power-button", "press the power button: the guest may shut down", NULL, do_power_button },
    { "reset", "reset the machine as its reset button would", NULL, do_reset },
    { "quit", "end the VM at once", NULL, do_quit },
    { "save", "write the state to --save's file or a descriptor", save_members, do_save },
    { "medium-eject", "open a drive and take its medium out", eject_members, do_medium_eject },
    { "medium-insert", "put the image that came as a descriptor into a drive", insert_members,
      do_medium_insert },
    { "device-add", "plug in a disk or network card whose file came as a descriptor", add_members,
      do_device_add },
    { "device-remove", "ask the guest to let go of what was plugged in, or take it by force",
      remove_members, do_device_remove },
    { "usb-attach", "plug a tablet or a keyboard into the USB controller", usb_attach_members,
      do_usb_attach },
    { "usb-detach", "pull out what is at a USB port", usb_detach_members, do_usb_detach },
    { "counters", "what the engine and the network cards counted", NULL, do_counters },
    { "balloon", "memory the guest gave back, its statistics; with 'target', what it shall do with",
      balloon_members, do_balloon },
    { "console-log", "the last output of the serial port or the console, base64", log_members,
      do_console_log },
    { "inspect", "state of a device or a vCPU; without either: the devices", inspect_members,
      do_inspect },
    { "screenshot", "a picture of the screen as PNG, or its text", screenshot_members,
      do_screenshot },
    { "send-keys", "press keys (\"ctrl-alt-delete\") or type text", keys_members, do_send_keys },
    { "send-pointer", "move the pointer and hold buttons", pointer_members, do_send_pointer },
    { "disk-snapshot", "go on in an overlay, the empty file that came as a descriptor",
      snapshot_members, do_disk_snapshot },
    { "disk-resize", "change a disk's size; virtio guests are told", resize_members,
      do_disk_resize },
    { "disk-stream", "job: pull the layers above 'base', or all, into the top image",
      stream_members, do_disk_stream },
    { "disk-commit", "job: merge 'layer' (the top) down into 'base' (the one below)",
      commit_members, do_disk_commit },
    { "disk-rebase", "job: put the disk over another image, which came as a descriptor, or none",
      rebase_members, do_disk_rebase },
    { "disk-mirror", "job: copy to the file that came as a descriptor, then switch to it",
      mirror_members, do_disk_mirror },
    { "disk-backup", "job: copy this moment's content to the file that came as a descriptor",
      backup_members, do_disk_backup },
    { "disk-throttle", "show or set a disk's limits a second", throttle_members, do_disk_throttle },
    { "job-list", "jobs that run, and the last that ended", NULL, do_job_list },
    { "job-pause", "let a job rest", job_members, do_job_pause },
    { "job-resume", "let a paused job go on", job_members, do_job_resume },
    { "job-cancel", "end a job; the disk stays whole", job_members, do_job_cancel },
    { "job-speed", "limit a job's bytes a second", speed_members, do_job_speed },
    { "job-complete", "let a mirror that is ready finish", job_members, do_job_complete },
    { NULL, NULL, NULL, NULL },
};
