/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Every object and action of the API. Order is the order in documents and forms. */
#include "api/api.h"

/* clang-format off */
#define END { .name = NULL }
#define WORDS(...) (const char *const[]){ __VA_ARGS__, NULL }

/* ---- virtual machines ---- */

/* A limit of a disk, and how far and how long it may be exceeded. */
#define LIMIT(name, type, flags, what, most) \
    { name, type, flags, what " a second at most; 0: no limit", .min = 0, .max = most }, \
    { name "_burst", type, flags, what " a second for a while, when there were fewer before; 0: no more than else", .min = 0, .max = most }, \
    { name "_burst_s", API_INTEGER, flags, "seconds of that; 0: one", .min = 0, .max = 3600 }
#define IOPS_MAX 10000000
#define BPS_MAX (1ll << 40)

static const struct api_field disk_fields[] = {
    { "path", API_STRING, API_REQUIRED, "image file, nbd:// address, or disk:NAME", API_IMAGE, .max = 4096 },
    { "format", API_STRING, 0, "image format; absent: found out by its magic", API_ENUM,
      .choices = WORDS("raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi") },
    { "readonly", API_BOOLEAN, 0, "the guest cannot write", .initial = "false" },
    { "bus", API_STRING, 0, "how the guest sees it", API_ENUM, .choices = WORDS("virtio", "sata", "ide", "floppy"),
      .initial = "\"virtio\"" },
    { "serial", API_STRING, 0, "serial number that the guest reads", .max = 20 },
    { "cache", API_STRING, 0, "what the host caches", API_ENUM, .choices = WORDS("none", "writeback", "unsafe") },
    { "discard", API_STRING, 0, "whether trimmed space is given back", API_ENUM, .choices = WORDS("unmap", "ignore") },
    LIMIT("iops", API_INTEGER, 0, "requests", IOPS_MAX),
    LIMIT("bps", API_SIZE, 0, "bytes", BPS_MAX),
    LIMIT("iops_rd", API_INTEGER, 0, "reads", IOPS_MAX),
    LIMIT("iops_wr", API_INTEGER, 0, "writes", IOPS_MAX),
    LIMIT("bps_rd", API_SIZE, 0, "bytes read", BPS_MAX),
    LIMIT("bps_wr", API_SIZE, 0, "bytes written", BPS_MAX),
    { "throttle_group", API_STRING, 0, "a name; disks of one group share the limits that one of them has", .min = 1, .max = 63 },
    { "on_full", API_STRING, 0, "when the host's disk is full: the guest sees an error, the VM pauses, or the guest is told that all is well", API_ENUM,
      .choices = WORDS("report", "pause", "ignore") },
    { "on_error", API_STRING, 0, "the same for other errors of the host's disk", API_ENUM, .choices = WORDS("report", "pause", "ignore") },
    { "copy_on_read", API_STRING, 0, "keep in the image what was read from below it", API_ENUM, .choices = WORDS("off", "on") },
    { "detect_zeroes", API_STRING, 0, "write zeros without room for them; unmap: give that room back", API_ENUM,
      .choices = WORDS("off", "on", "unmap") },
    { "queues", API_INTEGER, 0, "queues of a virtio disk, each served by a thread (those of a disk that is plugged in by one); 0: as it is usual", .min = 0, .max = 64 },
    { "io_thread", API_STRING, 0, "a name; disks of one name are served by one thread", .min = 1, .max = 63 },
    { "key_file", API_STRING, 0, "the passphrase of an encrypted image, and nothing else", API_PATH, .max = 4096 },
    { "tls_certificates", API_STRING, 0, "folder with an NBD client's certificates", API_PATH, .max = 4096 },
    { "tls_psk_file", API_STRING, 0, "file with an NBD client's pre-shared key", API_PATH, .max = 4096 },
    END
};

static const struct api_field cdrom_fields[] = {
    { "path", API_STRING, 0, "image; absent: empty", API_PATH, .max = 4096 },
    { "bus", API_STRING, 0, "how the guest sees the drive", API_ENUM, .choices = WORDS("sata", "ide") },
    END
};

static const struct api_field net_fields[] = {
    { "backend", API_STRING, API_REQUIRED, "user: NAT without privileges; tap: a tap interface of the host", API_ENUM,
      .choices = WORDS("user", "tap") },
    { "tap", API_STRING, 0, "name of the interface, for backend tap", .min = 1, .max = 15 },
    { "mac", API_STRING, 0, "address of the card; absent: made once and kept", API_MAC },
    { "model", API_STRING, 0, "the card", API_ENUM, .choices = WORDS("virtio", "e1000e"), .initial = "\"virtio\"" },
    { "forwards", API_LIST, 0, "ports of the host to the guest, for backend user: \"tcp:127.0.0.1:2222-:22\"", .max = 16,
      .element = API_STRING },
    { "tftp", API_STRING, 0, "folder that backend user serves by TFTP", API_PATH, .max = 4096 },
    { "bootfile", API_STRING, 0, "the file in it that a guest boots from the network", .min = 1, .max = 127 },
    END
};

static const struct api_field cloud_init_fields[] = {
    { "user", API_STRING, 0, "a user with sudo who has the keys; absent: the image's own", API_NAME },
    { "hostname", API_STRING, 0, "absent: the VM's name", API_NAME },
    { "ssh_keys", API_LIST, 0, "public keys that may come in by ssh", .max = 32, .element = API_STRING },
    { "user_data", API_STRING, 0, "user data of cloud-init's own, instead of the others", .max = 16384 },
    END
};

static const struct api_field autostart_fields[] = {
    { "enabled", API_BOOLEAN, API_LIVE, "start when the host has started", .initial = "false" },
    { "order", API_INTEGER, API_LIVE, "lower ones start first", .min = 0, .max = 1000000, .initial = "100" },
    { "delay", API_INTEGER, API_LIVE, "seconds to wait after it, before the next", .min = 0, .max = 3600, .initial = "0" },
    END
};

static const struct api_field exit_fields[] = {
    { "status", API_INTEGER, API_SERVER, "of the VM's process", .max = 255 },
    { "name", API_STRING, API_SERVER, "what the status means" },
    { "reason", API_STRING, API_SERVER, "one sentence" },
    { "time", API_TIME, API_SERVER, "when" },
    END
};

static const struct api_field now_disk_fields[] = {
    { "drive", API_STRING, API_SERVER, "what it is called in the VM" },
    { "path", API_STRING, API_SERVER, "image file or address; absent: an empty drive" },
    { "format", API_STRING, API_SERVER, "of the image" },
    { "size", API_SIZE, API_SERVER, "that the guest sees" },
    { "readonly", API_BOOLEAN, API_SERVER, "the guest cannot write" },
    LIMIT("iops", API_INTEGER, API_SERVER, "requests", IOPS_MAX),
    LIMIT("bps", API_SIZE, API_SERVER, "bytes", BPS_MAX),
    LIMIT("iops_rd", API_INTEGER, API_SERVER, "reads", IOPS_MAX),
    LIMIT("iops_wr", API_INTEGER, API_SERVER, "writes", IOPS_MAX),
    LIMIT("bps_rd", API_SIZE, API_SERVER, "bytes read", BPS_MAX),
    LIMIT("bps_wr", API_SIZE, API_SERVER, "bytes written", BPS_MAX),
    { "removable", API_BOOLEAN, API_SERVER, "it was plugged in while the VM ran, and can be removed so" },
    END
};

static const struct api_field now_net_fields[] = {
    { "mac", API_STRING, API_SERVER, "address of the card", API_MAC },
    { "backend", API_STRING, API_SERVER, "where its frames go" },
    { "removable", API_BOOLEAN, API_SERVER, "it was plugged in while the VM ran, and can be removed so" },
    END
};

static const struct api_field now_fields[] = {
    { "cpus", API_INTEGER, API_SERVER, "vCPUs" },
    { "memory", API_SIZE, API_SERVER, "that it was made with" },
    { "memory_target", API_SIZE, API_SERVER, "that the guest is asked to do with" },
    { "cpu", API_STRING, API_SERVER, "CPU model" },
    { "disks", API_LIST, API_SERVER, "disks and drives", .element = API_OBJECT, .fields = now_disk_fields },
    { "nets", API_LIST, API_SERVER, "network cards", .element = API_OBJECT, .fields = now_net_fields },
    { "agent", API_BOOLEAN, API_SERVER, "something in the guest, its agent, listens at the agent's port" },
    { "cpu_limit", API_INTEGER, API_SERVER, "in percent of one CPU; 0: none" },
    { "cpu_weight", API_INTEGER, API_SERVER, "share of the CPUs" },
    { "io_weight", API_INTEGER, API_SERVER, "share of the disks" },
    { "limits", API_STRING, API_SERVER, "by what control groups the host limits it, and to how much memory and how many threads" },
    { "confinement", API_STRING, API_SERVER, "what keeps its process from the host, and what does not" },
    { "warning", API_STRING, API_SERVER, "what this host cannot limit" },
    END
};

static const struct api_field vm_fields[] = {
    { "id", API_STRING, API_SERVER, "UUID, for life; the guest sees it, too", API_UUID },
    { "name", API_STRING, API_REQUIRED | API_LIVE | API_FILTER, "unique on this host", API_NAME },
    { "description", API_STRING, API_LIVE, "for people", .max = 4096 },
    { "labels", API_MAP, API_LIVE, "names and values, for people and scripts" },
    { "owner", API_STRING, API_SERVER | API_FILTER, "user who made it" },
    { "state", API_STRING, API_SERVER | API_FILTER, "what it is now", API_ENUM,
      .choices = WORDS("stopped", "starting", "running", "paused", "stopping", "saving", "saved", "failed", "creating", "deleting") },
    { "paused_by", API_STRING, API_SERVER, "why it is paused: user, disk-full, disk-error, watchdog, debugger" },
    { "wanted", API_STRING, API_SERVER | API_FILTER, "what it was last asked to be", API_ENUM,
      .choices = WORDS("stopped", "running", "paused", "saved", "deleted") },
    { "cpus", API_INTEGER, 0, "vCPUs", .min = 1, .max = 255, .initial = "1" },
    { "memory", API_SIZE, 0, "of the guest", .min = 2 << 20, .max = 508ll << 30, .initial = "536870912" },
    { "cpu_limit", API_INTEGER, API_LIVE, "time of the host's CPUs at most, in percent of one; 0: no limit", .min = 0, .max = 100000,
      .initial = "0" },
    { "cpu_weight", API_INTEGER, API_LIVE, "share of the host's CPUs when they are short; others have 100", .min = 1, .max = 10000,
      .initial = "100" },
    { "io_weight", API_INTEGER, API_LIVE, "share of the host's disks when they are short; others have 100", .min = 1, .max = 10000,
      .initial = "100" },
    { "cpu", API_STRING, 0, "CPU model; absent: the engine's default", .max = 63 },
    { "engine", API_STRING, 0, "what runs the vCPUs", API_ENUM, .choices = WORDS("auto", "kvm", "soft"), .initial = "\"auto\"" },
    { "engine_options", API_STRING, 0, "options of the engine, like \"jit=off\"", .min = 1, .max = 200 },
    { "profile", API_STRING, API_FIXED, "the board", API_ENUM, .choices = WORDS("pc-1", "micro-1"), .initial = "\"pc-1\"" },
    { "firmware", API_STRING, 0, "what boots when no kernel is given", API_ENUM, .choices = WORDS("bios", "uefi") },
    { "firmware_file", API_STRING, 0, "an image to boot with instead", API_PATH },
    { "boot", API_STRING, 0, "order of devices: c disk, d CD, n network", .max = 4 },
    { "boot_menu", API_BOOLEAN, 0, "firmware offers a menu", .initial = "false" },
    { "boot_timeout", API_INTEGER, 0, "milliseconds that the menu waits; 0: as it is usual", .min = 0, .max = 65535 },
    { "kernel", API_STRING, 0, "a kernel to boot directly", API_PATH },
    { "initrd", API_STRING, 0, "its initial RAM disk", API_PATH },
    { "cmdline", API_STRING, 0, "its command line", .max = 2047 },
    { "image", API_STRING, API_FIXED | API_FILTER, "image of the catalog that its first disk begins with", API_NAME },
    { "disk_size", API_SIZE, API_FIXED, "of that disk; absent: as the image's", .min = 1 << 20, .max = 1ll << 60 },
    { "cloud_init", API_OBJECT, 0, "what cloud-init in the guest is told", .fields = cloud_init_fields },
    { "disks", API_LIST, 0, "further disks, in order", .max = 16, .element = API_OBJECT, .fields = disk_fields },
    { "cdrom", API_STRING, 0, "image in the CD drive", API_PATH, .max = 4096 },
    { "cdrom_bus", API_STRING, 0, "how the guest sees that drive", API_ENUM, .choices = WORDS("sata", "ide") },
    { "cdroms", API_LIST, API_PLURAL, "further CD drives", .max = 3, .element = API_OBJECT, .fields = cdrom_fields },
    { "nets", API_LIST, 0, "network cards", .max = 8, .element = API_OBJECT, .fields = net_fields,
      .initial = "[{\"backend\": \"user\", \"model\": \"virtio\"}]" },
    { "agent", API_BOOLEAN, 0, "a port for the guest agent", .initial = "true" },
    { "display", API_BOOLEAN, 0, "a screen, by VNC", .initial = "false" },
    { "keymap", API_STRING, 0, "the keyboard layout that the guest has, for viewers that send symbols; absent: us", API_ENUM,
      .choices = WORDS("us", "gb", "de", "fr", "es", "it", "se") },
    { "clipboard", API_BOOLEAN, 0, "with `display`: texts go between the viewers' clipboard and the guest's, if its agent (spice-vdagent) runs",
      .initial = "true" },
    { "video", API_STRING, 0, "the display adapter; absent: vga with `display`, otherwise none", API_ENUM,
      .choices = WORDS("vga", "virtio", "none") },
    { "usbs", API_LIST, 0, "a USB controller with these: tablet, keyboard", .max = 8, .element = API_STRING },
    { "inputs", API_LIST, 0, "virtio input devices: tablet, keyboard", .max = 2, .element = API_STRING },
    { "ports", API_LIST, 0, "names of virtio-serial ports, for programs in the guest; sockets port-NAME.sock beside `console`", .max = 6,
      .element = API_STRING },
    { "virtio_console", API_BOOLEAN, 0, "a virtio console (hvc0); a socket hvc.sock beside `console`", .initial = "false" },
    { "debug_console", API_BOOLEAN, 0, "keep what firmware says on its debug port, in debug.log beside `console`", .initial = "false" },
    { "gdb", API_BOOLEAN, 0, "serve gdb; a socket gdb.sock beside `console`", .initial = "false" },
    { "gdb_wait", API_BOOLEAN, 0, "with `gdb`: the VM waits until a debugger lets it begin", .initial = "false" },
    { "balloon", API_BOOLEAN, 0, "memory that the guest does not use goes back to the host", .initial = "true" },
    { "reboot", API_BOOLEAN, 0, "a reset by the guest starts it anew; otherwise it ends the VM", .initial = "true" },
    { "watchdog", API_STRING, 0, "what a watchdog that fires does", API_ENUM, .choices = WORDS("reset", "pause", "exit", "none"),
      .initial = "\"reset\"" },
    { "restart", API_STRING, API_LIVE, "what happens when the VM ends by itself", API_ENUM,
      .choices = WORDS("never", "on-failure", "always"), .initial = "\"never\"" },
    { "template", API_BOOLEAN, API_FILTER, "it never runs; linked clones can be made of it", .initial = "false" },
    { "linked_to", API_STRING, API_SERVER | API_FILTER, "the template whose disks are below its own", API_UUID },
    { "source", API_STRING, API_SERVER, "the VM that it was cloned from", API_UUID },
    { "copies", API_ANY, API_SERVER | API_SECRET, "what is still to be copied" },
    { "autostart", API_OBJECT, API_LIVE, "start when the host has started", .fields = autostart_fields },
    { "pending", API_LIST, API_SERVER, "fields whose change is not real: it waits for the guest or for the next start", .element = API_STRING },
    { "change_error", API_STRING, API_SERVER, "why a change could not be made while it runs" },
    { "now", API_OBJECT, API_SERVER, "what is real while it runs", .fields = now_fields },
    { "pid", API_INTEGER, API_SERVER, "of its process, while it runs" },
    { "console", API_STRING, API_SERVER, "socket of its serial console, on this host", API_PATH },
    { "vnc", API_STRING, API_SERVER, "socket of its screen (VNC), on this host, while it runs with `display`", API_PATH },
    { "running_engine", API_STRING, API_SERVER, "what runs its vCPUs now" },
    { "started", API_TIME, API_SERVER, "when it last started" },
    { "restarts", API_INTEGER, API_SERVER, "how often the restart policy has started it again" },
    { "exit", API_OBJECT, API_SERVER, "how it last ended", .fields = exit_fields },
    { "error", API_STRING, API_SERVER, "what last went wrong with it" },
    { "created", API_TIME, API_SERVER, "when it was made" },
    { "revision", API_INTEGER, API_SERVER, "changes with each change; the ETag" },
    END
};

static const struct api_field stop_args[] = {
    { "timeout", API_INTEGER, 0, "seconds for the guest to shut down; then it is killed", .min = 0, .max = 86400, .initial = "90" },
    END
};
static const struct api_field screenshot_answer[] = {
    { "width", API_INTEGER, API_SERVER, "pixels" },
    { "height", API_INTEGER, API_SERVER, "pixels" },
    { "png", API_STRING, API_SERVER, "the picture, base64" },
    { "text", API_STRING, API_SERVER, "the text on the screen, with \"format\": \"text\"" },
    END
};
static const struct api_field screenshot_args[] = {
    { "format", API_STRING, 0, "of the answer", API_ENUM, .choices = WORDS("png", "text"), .initial = "\"png\"" },
    END
};
static const struct api_field keys_args[] = {
    { "keys", API_LIST, 0, "chords like \"ctrl-alt-delete\", one after the other", .max = 256, .element = API_STRING },
    { "text", API_STRING, 0, "text to type on a US keyboard", .max = 1000 },
    END
};
static const struct api_field log_args[] = {
    { "bytes", API_INTEGER, 0, "at most, the last ones", .min = 0, .max = 1 << 20, .initial = "1048576" },
    END
};
static const struct api_field log_answer[] = {
    { "data", API_STRING, API_SERVER, "what the guest wrote to its serial port, base64" },
    { "before", API_INTEGER, API_SERVER, "bytes that came before it; absent for a VM that ended" },
    END
};
static const struct api_field balloon_args[] = {
    { "target", API_SIZE, 0, "memory that the guest shall do with; absent: as it is", .min = 4096, .max = 508ll << 30 },
    END
};
static const struct api_field balloon_answer[] = {
    { "memory", API_SIZE, API_SERVER, "that the VM was made with" },
    { "target", API_SIZE, API_SERVER, "memory that the guest shall do with" },
    { "actual", API_SIZE, API_SERVER, "memory that it does with, by its own word" },
    { "driver", API_BOOLEAN, API_SERVER, "the guest has loaded a driver for it" },
    { "inflated", API_SIZE, API_SERVER, "bytes given back by filling the balloon" },
    { "reported", API_SIZE, API_SERVER, "bytes given back as free pages" },
    { "stats", API_ANY, API_SERVER, "what the guest's driver tells: free, available, total, caches and others" },
    { "stats-age", API_ANY, API_SERVER, "of these, in seconds" },
    END
};
static const struct api_field clone_args[] = {
    { "name", API_STRING, API_REQUIRED, "of the new VM", API_NAME },
    { "linked", API_BOOLEAN, 0, "its disks hold only what differs; of templates only", .initial = "false" },
    END
};
static const struct api_field exec_args[] = {
    { "command", API_LIST, API_REQUIRED, "program and arguments", .max = 256, .element = API_STRING },
    { "input", API_STRING, 0, "for its standard input, base64", .max = 700 << 10 },
    { "timeout", API_INTEGER, 0, "seconds to wait for its end", .min = 0, .max = 86400, .initial = "60" },
    END
};
static const struct api_field exec_answer[] = {
    { "status", API_INTEGER, API_SERVER, "its exit status; 128 and the signal that ended it" },
    { "out", API_STRING, API_SERVER, "its standard output, base64" },
    { "err", API_STRING, API_SERVER, "its standard error, base64" },
    { "truncated", API_BOOLEAN, API_SERVER, "there was more output than the agent keeps" },
    END
};
static const struct api_field read_args[] = {
    { "path", API_STRING, API_REQUIRED, "of a file in the guest", .max = 4096 },
    { "offset", API_INTEGER, 0, "where to begin", .min = 0, .max = INT64_MAX, .initial = "0" },
    { "bytes", API_INTEGER, 0, "at most", .min = 1, .max = 1 << 20, .initial = "1048576" },
    END
};
static const struct api_field read_answer[] = {
    { "data", API_STRING, API_SERVER, "base64" },
    { "end", API_BOOLEAN, API_SERVER, "the file ends there" },
    END
};
static const struct api_field write_args[] = {
    { "path", API_STRING, API_REQUIRED, "of a file in the guest", .max = 4096 },
    { "data", API_STRING, API_REQUIRED, "base64", .max = 700 << 10 },
    { "append", API_BOOLEAN, 0, "behind what is in the file, instead of in its place", .initial = "false" },
    END
};
static const struct api_field freeze_answer[] = {
    { "filesystems", API_INTEGER, API_SERVER, "how many" },
    END
};
static const struct api_field addresses_answer[] = {
    { "interfaces", API_ANY, API_SERVER, "network interfaces: name, mac, addresses" },
    END
};
static const struct api_action vm_actions[] = {
    { "start", "start it, go on from its saved state, or resume it when it is paused", NULL, NULL, API_OPERATOR, true },
    { "stop", "ask the guest to shut down (ACPI); kill it when it does not in time", stop_args, NULL, API_OPERATOR, true },
    { "kill", "end it at once, as pulling the plug would; a saved state is thrown away", NULL, NULL, API_OPERATOR, true },
    { "restart", "stop, then start", stop_args, NULL, API_OPERATOR, true },
    { "reset", "press the reset button", NULL, NULL, API_OPERATOR, false },
    { "pause", "let it stand still", NULL, NULL, API_OPERATOR, false },
    { "resume", "go on after a pause", NULL, NULL, API_OPERATOR, false },
    { "save", "write its state to the disk of this host and end it; it goes on from there at its next start", NULL, NULL, API_OPERATOR, true },
    { "restore", "go on from the saved state", NULL, NULL, API_OPERATOR, true },
    { "clone", "make another VM like it, with disks of its own", clone_args, NULL, API_OPERATOR, true },
    { "screenshot", "a picture or the text of its screen", screenshot_args, screenshot_answer, API_VIEWER, false },
    { "log", "what its serial port last said", log_args, log_answer, API_VIEWER, false },
    { "balloon", "how its guest fares with its memory; asks it to do with less, or more again", balloon_args, balloon_answer,
      API_OPERATOR, false },
    { "exec", "run a command in the guest (guest agent)", exec_args, exec_answer, API_OPERATOR, false },
    { "file-read", "read a part of a file in the guest (guest agent)", read_args, read_answer, API_OPERATOR, false },
    { "file-write", "write a file in the guest (guest agent)", write_args, NULL, API_OPERATOR, false },
    { "freeze", "write out and freeze the guest's file systems (guest agent)", NULL, freeze_answer, API_OPERATOR, false },
    { "thaw", "let the guest's file systems go on (guest agent)", NULL, freeze_answer, API_OPERATOR, false },
    { "addresses", "the guest's network addresses (guest agent)", NULL, addresses_answer, API_VIEWER, false },
    { "set-time", "set the guest's clock to the host's (guest agent)", NULL, NULL, API_OPERATOR, false },
    { "send-keys", "press keys", keys_args, NULL, API_OPERATOR, false },
    END
};

/* ---- images ---- */

static const struct api_field image_fields[] = {
    { "id", API_STRING, API_SERVER, "UUID", API_UUID },
    { "name", API_STRING, API_REQUIRED | API_FILTER, "unique on this host", API_NAME },
    { "description", API_STRING, 0, "for people", .max = 4096 },
    { "source", API_STRING, API_REQUIRED, "debian-12: made on this host out of Debian's packages; or an http(s):// address, or the "
      "path of a disk image on this host", .min = 1, .max = 4096 },
    { "sha256", API_STRING, 0, "what the file or the download must have", .min = 64, .max = 64 },
    { "sums", API_STRING, 0, "address or path of a list of such sums (SHA256SUMS), which has one for the source's name", .min = 1, .max = 4096 },
    { "signature", API_STRING, 0, "address or path of a detached OpenPGP signature: of the list of sums, or without one of the source", .min = 1,
      .max = 4096 },
    { "keyring", API_STRING, 0, "the keys that it may be by: a file that gpgv reads; required with a signature", API_PATH, .max = 4096 },
    { "state", API_STRING, API_SERVER | API_FILTER, "what it is now", API_ENUM, .choices = WORDS("creating", "ready") },
    { "size", API_SIZE, API_SERVER, "of the disk as guests see it" },
    { "bytes", API_SIZE, API_SERVER, "what it takes here" },
    { "boots_directly", API_BOOLEAN, API_SERVER, "it has a kernel beside it, so that VMs need no firmware" },
    { "created", API_TIME, API_SERVER, "when it was made" },
    { "revision", API_INTEGER, API_SERVER, "the ETag" },
    END
};

/* ---- disks ---- */

static const struct api_field kept_disk_fields[] = {
    { "id", API_STRING, API_SERVER, "UUID", API_UUID },
    { "name", API_STRING, API_REQUIRED | API_FILTER, "unique on this host; VMs have it as disk:NAME", API_NAME },
    { "description", API_STRING, 0, "for people", .max = 4096 },
    { "format", API_STRING, API_FILTER, "of its file", API_ENUM, .choices = WORDS("raw", "qcow2", "vmdk", "vhd", "vhdx"),
      .initial = "\"qcow2\"" },
    { "size", API_SIZE, 0, "that guests see; without a source", .min = 512, .max = 1ll << 60 },
    { "source", API_STRING, 0, "the path of an image on this host to copy, of any format that bedplate-img reads; absent: empty", API_PATH,
      .max = 4096 },
    { "state", API_STRING, API_SERVER | API_FILTER, "what it is now", API_ENUM, .choices = WORDS("creating", "ready") },
    { "path", API_STRING, API_SERVER, "its file", API_PATH },
    { "created", API_TIME, API_SERVER, "when it was made" },
    { "revision", API_INTEGER, API_SERVER, "the ETag" },
    END
};

static const struct api_field disk_resize_args[] = {
    { "size", API_SIZE, API_REQUIRED, "that guests see", .min = 512, .max = 1ll << 60 },
    { "shrink", API_BOOLEAN, 0, "it may lose its end", .initial = "false" },
    END
};
static const struct api_field snapshot_args[] = {
    { "name", API_STRING, API_REQUIRED, "of the snapshot", API_NAME },
    END
};
static const struct api_field info_answer[] = {
    { "format", API_STRING, API_SERVER, "of its file" },
    { "virtual-size", API_SIZE, API_SERVER, "that guests see" },
    { "actual-size", API_SIZE, API_SERVER, "what it takes here" },
    { "snapshots", API_ANY, API_SERVER, "inside of it" },
    { "filename", API_STRING, API_SERVER, "of its file" },
    { "cluster-size", API_INTEGER, API_SERVER, "what its file is divided into" },
    { "backing-filename", API_STRING, API_SERVER, "what it lies over" },
    { "full-backing-filename", API_STRING, API_SERVER, "the same, from the root on" },
    { "backing-filename-format", API_STRING, API_SERVER, "of that" },
    { "dirty-flag", API_BOOLEAN, API_SERVER, "always false" },
    { "format-specific", API_ANY, API_SERVER, "what only this format has" },
    END
};

static const struct api_action disk_actions[] = {
    { "info", "what its file is, as bedplate-img info --json tells", NULL, info_answer, API_VIEWER, false },
    { "resize", "give it another size; a VM that runs with it tells its guest", disk_resize_args, NULL, API_OPERATOR, true },
    { "check", "look for damage; the job's result is what bedplate-img check --json tells", NULL, NULL, API_OPERATOR, true },
    { "snapshot", "keep what it holds, inside of it (qcow2)", snapshot_args, NULL, API_OPERATOR, true },
    { "revert", "go back to a snapshot; what was written since is lost", snapshot_args, NULL, API_OPERATOR, true },
    { "delete-snapshot", "forget a snapshot", snapshot_args, NULL, API_OPERATOR, true },
    END
};

/* ---- jobs, events ---- */

static const struct api_field job_fields[] = {
    { "id", API_STRING, API_SERVER, "number" },
    { "kind", API_STRING, API_SERVER | API_FILTER, "what it does: \"vm.start\"" },
    { "object", API_STRING, API_SERVER | API_FILTER, "to what: \"vms/UUID\"" },
    { "name", API_STRING, API_SERVER, "of that object, when the job began" },
    { "state", API_STRING, API_SERVER | API_FILTER, "how far it is", API_ENUM,
      .choices = WORDS("running", "done", "failed", "cancelled") },
    { "stage", API_STRING, API_SERVER, "what it does now" },
    { "progress", API_INTEGER, API_SERVER, "0 to 100; absent: unknown", .max = 100 },
    { "result", API_ANY, API_SERVER, "what it made" },
    { "error", API_ANY, API_SERVER, "why it failed: code, message, field, hint" },
    { "user", API_STRING, API_SERVER | API_FILTER, "who asked" },
    { "key", API_STRING, API_SERVER | API_FILTER, "the idempotency key of the request" },
    { "created", API_TIME, API_SERVER, "when" },
    { "ended", API_TIME, API_SERVER, "when it was over" },
    { "revision", API_INTEGER, API_SERVER, "the ETag" },
    END
};

static const struct api_action job_actions[] = {
    { "cancel", "give it up: a start, or a stop while the guest is shutting down", NULL, NULL, API_OPERATOR, false },
    END
};

static const struct api_field event_fields[] = {
    { "id", API_STRING, API_SERVER, "number, rising" },
    { "time", API_TIME, API_SERVER, "when" },
    { "kind", API_STRING, API_SERVER | API_FILTER, "what happened: \"vm.started\"" },
    { "object", API_STRING, API_SERVER | API_FILTER, "to what: \"vms/UUID\"" },
    { "name", API_STRING, API_SERVER, "of that object" },
    { "detail", API_ANY, API_SERVER, "more" },
    END
};

/* ---- access ---- */

#define ROLES WORDS("viewer", "operator", "admin")
const char *const api_role_names[] = { "viewer", "operator", "admin", NULL };

static const struct api_field role_fields[] = {
    { "id", API_STRING, API_SERVER, "the name" },
    { "name", API_STRING, API_SERVER, "what users and tokens have as their role" },
    { "requests", API_LIST, API_SERVER, "what it may ask for; each has what those before it may, and who made a VM is an operator there",
      .element = API_STRING },
    END
};

static const struct api_field user_fields[] = {
    { "id", API_STRING, API_SERVER, "UUID", API_UUID },
    { "name", API_STRING, API_REQUIRED | API_FIXED | API_FILTER, "to log in with", API_NAME },
    { "role", API_STRING, API_FILTER, "what the user may on everything; who owns a VM is an operator there", API_ENUM, .choices = ROLES,
      .initial = "\"viewer\"" },
    { "password", API_STRING, API_SECRET, "kept as an argon2id hash; absent: no login by password", .min = 8, .max = 256 },
    { "password_hash", API_STRING, API_SERVER | API_SECRET, "what is kept of it" },
    { "certificate", API_STRING, API_FILTER, "common name of the client certificate that stands for the user", .max = 255 },
    { "disabled", API_BOOLEAN, 0, "may do nothing", .initial = "false" },
    { "created", API_TIME, API_SERVER, "when" },
    { "revision", API_INTEGER, API_SERVER, "the ETag" },
    END
};

static const struct api_field token_fields[] = {
    { "id", API_STRING, API_SERVER, "UUID", API_UUID },
    { "name", API_STRING, API_FIXED | API_FILTER, "what it is for; absent: made up", API_NAME },
    { "user", API_STRING, API_FIXED | API_FILTER, "whom it stands for; absent: you", API_NAME },
    { "password", API_STRING, API_SECRET, "the user's: to log in, without a token yet; never kept", .max = 256 },
    { "role", API_STRING, API_FIXED, "no more than this role may; absent: what the user may", API_ENUM, .choices = ROLES },
    { "vm", API_STRING, API_FIXED, "only this VM", API_NAME },
    { "expires", API_TIME, API_FIXED, "when it ends; absent: in 90 days, or 12 hours after a login" },
    { "user_id", API_STRING, API_SERVER | API_SECRET, "of that user: another one of the same name is not meant" },
    { "vm_id", API_STRING, API_SERVER | API_SECRET, "of that VM" },
    { "digest", API_STRING, API_SERVER | API_SECRET, "what is kept of the secret" },
    { "token", API_STRING, API_SERVER, "the secret; shown once, in the answer to its creation" },
    { "created", API_TIME, API_SERVER, "when" },
    { "revision", API_INTEGER, API_SERVER, "the ETag" },
    END
};

static const struct api_field audit_fields[] = {
    { "id", API_STRING, API_SERVER, "number, without gaps" },
    { "time", API_TIME, API_SERVER, "when" },
    { "user", API_STRING, API_SERVER, "who; empty: nobody that is known" },
    { "via", API_STRING, API_SERVER, "unix, or tls and from where" },
    { "method", API_STRING, API_SERVER, "of HTTP" },
    { "path", API_STRING, API_SERVER, "asked for" },
    { "status", API_INTEGER, API_SERVER, "answered" },
    { "hash", API_STRING, API_SERVER, "SHA-256 over the hash of the record before and this one, see docs/daemon.md" },
    END
};

/* ---- hosts ---- */

static const struct api_field host_fields[] = {
    { "id", API_STRING, API_SERVER, "the host's name" },
    { "name", API_STRING, API_SERVER | API_FILTER, "the same" },
    { "version", API_STRING, API_SERVER, "of Bedplate" },
    { "cpus", API_INTEGER, API_SERVER, "that VMs can use" },
    { "memory", API_SIZE, API_SERVER, "in all" },
    { "memory_free", API_SIZE, API_SERVER, "now" },
    { "disk_free", API_SIZE, API_SERVER, "where images lie" },
    { "vms", API_INTEGER, API_SERVER, "defined" },
    { "running", API_INTEGER, API_SERVER, "of them running" },
    { "vm_ids", API_INTEGER, API_SERVER, "user ids that VMs' processes can have" },
    { "limits_by", API_STRING, API_SERVER, "what holds VMs to their limits: systemd, or control groups and which; empty: nothing" },
    { "warning", API_STRING, API_SERVER, "what this host cannot limit" },
    END
};

static const struct api_field backup_args[] = {
    { "path", API_STRING, API_REQUIRED, "a new file on the daemon's host", API_PATH, .max = 4096 },
    END
};
static const struct api_action host_actions[] = {
    { "backup", "copy the store, while it is in use, into a new file that a store can be replaced by", backup_args, NULL, API_ADMIN, false },
    END
};

enum {
    READ = API_CAN_LIST | API_CAN_READ,
    IMAGES = READ | API_CAN_CREATE | API_CAN_DELETE,
    ALL = READ | API_CAN_CREATE | API_CAN_PATCH | API_CAN_DELETE,
};

const struct api_resource api_resources[] = {
    { "vms", "vm", "virtual machines", vm_fields, vm_actions, ALL, API_VIEWER, API_OPERATOR, API_OPERATOR, true, true },
    { "images", "image", "disks that VMs begin with", image_fields, NULL, IMAGES, API_VIEWER, API_OPERATOR, API_OPERATOR, true, false },
    { "disks", "disk", "disk files that the daemon keeps", kept_disk_fields, disk_actions, IMAGES, API_VIEWER, API_OPERATOR, API_OPERATOR,
      true, false },
    { "jobs", "job", "long work: what goes on and what became of it", job_fields, job_actions, READ, API_VIEWER, API_OPERATOR,
      API_ADMIN, false, false },
    { "events", "event", "what happened", event_fields, NULL, API_CAN_LIST, API_VIEWER, API_ADMIN, API_ADMIN,
      false, false },
    { "users", "user", "who may use the API from elsewhere", user_fields, NULL, ALL, API_ADMIN, API_ADMIN, API_ADMIN, false, false },
    { "roles", "role", "what the roles may", role_fields, NULL, API_CAN_LIST, API_VIEWER, API_ADMIN, API_ADMIN, false, false },
    { "tokens", "token", "bearer tokens, for logins and scripts", token_fields, NULL, READ | API_CAN_CREATE | API_CAN_DELETE, API_VIEWER,
      API_VIEWER, API_VIEWER, false, false },
    { "audit", "record", "every change and every refusal", audit_fields, NULL, API_CAN_LIST, API_ADMIN, API_ADMIN, API_ADMIN, false, false },
    { "hosts", "host", "this host, and later those of its cluster", host_fields, host_actions, API_CAN_LIST, API_VIEWER, API_ADMIN, API_ADMIN, false,
      false },
    END
};

const struct api_other api_others[] = {
    { "/v1/vms/{id}/console", "vms_console", "vms", "the serial console: binary messages both ways, after its history", NULL, false,
      API_OPERATOR },
    { "/v1/vms/{id}/vnc", "vms_vnc", "vms", "the screen (VNC): binary messages both ways", NULL, false, API_OPERATOR },
    { "/v1/version", "version", "daemon", "the daemon's version, and the API's", "application/json", true, API_VIEWER },
    { "/v1/health", "health", "daemon", "good, when it serves", "application/json", true, API_VIEWER },
    { "/v1/openapi.json", "openapi", "daemon", "this document", "application/json", false, API_VIEWER },
    { "/metrics", "metrics", "daemon", "figures for Prometheus", "text/plain", false, API_VIEWER },
    { .path = NULL },
};
/* clang-format on */
