/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Every object and action of the API. Order is the order in documents and forms. */
#include "api/api.h"

/* clang-format off */
#define END { .name = NULL }
#define WORDS(...) (const char *const[]){ __VA_ARGS__, NULL }

/* ---- virtual machines ---- */

static const struct api_field disk_fields[] = {
    { "path", API_STRING, API_REQUIRED, "image file, or nbd:// address", .max = 4096 },
    { "format", API_STRING, 0, "image format; absent: found out by its magic", API_ENUM,
      .choices = WORDS("raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi") },
    { "readonly", API_BOOLEAN, 0, "the guest cannot write", .initial = "false" },
    { "bus", API_STRING, 0, "how the guest sees it", API_ENUM, .choices = WORDS("virtio", "sata", "ide", "floppy"),
      .initial = "\"virtio\"" },
    { "serial", API_STRING, 0, "serial number that the guest reads", .max = 20 },
    { "cache", API_STRING, 0, "what the host caches", API_ENUM, .choices = WORDS("none", "writeback", "unsafe") },
    { "discard", API_STRING, 0, "whether trimmed space is given back", API_ENUM, .choices = WORDS("unmap", "ignore") },
    { "iops", API_INTEGER, API_LIVE, "requests a second at most; 0: no limit", .min = 0, .max = 10000000 },
    { "bps", API_SIZE, API_LIVE, "bytes a second at most; 0: no limit", .min = 0, .max = 1ll << 40 },
    { "on_full", API_STRING, 0, "when the host's disk is full: the guest sees an error, or the VM pauses", API_ENUM,
      .choices = WORDS("report", "pause") },
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
    END
};

static const struct api_field limit_fields[] = {
    { "cpu_percent", API_INTEGER, API_LIVE, "of one host CPU at most; 250 is two and a half; 0: no limit", .min = 0, .max = 100000 },
    { "cpu_weight", API_INTEGER, API_LIVE, "share of a busy host's CPUs beside other VMs; 100 is usual", .min = 1, .max = 10000 },
    { "memory", API_SIZE, API_LIVE, "memory of the host at most, all overhead included; 0: no limit", .min = 0, .max = 1ll << 44 },
    { "io_weight", API_INTEGER, API_LIVE, "share of the host's disks beside other VMs; 100 is usual", .min = 1, .max = 1000 },
    { "pids", API_INTEGER, API_LIVE, "processes and threads of the VM at most", .min = 8, .max = 100000 },
    END
};

static const struct api_field cloud_init_fields[] = {
    { "user", API_STRING, 0, "account that is made in the guest", API_NAME },
    { "ssh_keys", API_LIST, 0, "public keys that may log in", .max = 32, .element = API_STRING },
    { "password", API_STRING, API_SECRET, "of the account; absent: keys only", .max = 256 },
    { "hostname", API_STRING, 0, "name of the guest; absent: the VM's", API_NAME },
    { "user_data", API_STRING, API_SECRET, "more #cloud-config, merged by cloud-init", .max = 65536 },
    END
};

static const struct api_field autostart_fields[] = {
    { "enabled", API_BOOLEAN, API_LIVE, "start with the daemon", .initial = "false" },
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

static const struct api_field vm_fields[] = {
    { "id", API_STRING, API_SERVER, "UUID, for life; the guest sees it, too", API_UUID },
    { "name", API_STRING, API_REQUIRED | API_LIVE | API_FILTER, "unique on this host", API_NAME },
    { "description", API_STRING, API_LIVE, "for people", .max = 4096 },
    { "labels", API_MAP, API_LIVE, "names and values, for people and scripts" },
    { "owner", API_STRING, API_SERVER | API_FILTER, "user who made it" },
    { "state", API_STRING, API_SERVER | API_FILTER, "what it is now", API_ENUM,
      .choices = WORDS("stopped", "starting", "running", "paused", "stopping", "saving", "saved", "failed", "creating",
                       "deleting") },
    { "wanted", API_STRING, API_SERVER | API_FILTER, "what it was last asked to be", API_ENUM,
      .choices = WORDS("stopped", "running", "paused", "saved", "deleted") },
    { "cpus", API_INTEGER, 0, "vCPUs", .min = 1, .max = 255, .initial = "1" },
    { "memory", API_SIZE, 0, "of the guest", .min = 2 << 20, .max = 508ll << 30, .initial = "536870912" },
    { "balloon", API_SIZE, API_LIVE, "memory that the guest keeps; 0: all of it", .min = 0, .max = 508ll << 30 },
    { "cpu", API_STRING, 0, "CPU model; absent: the engine's default", .max = 63 },
    { "engine", API_STRING, 0, "what runs the vCPUs", API_ENUM, .choices = WORDS("auto", "kvm", "soft"), .initial = "\"auto\"" },
    { "profile", API_STRING, API_FIXED, "the board", API_ENUM, .choices = WORDS("pc-1", "micro-1"), .initial = "\"pc-1\"" },
    { "firmware", API_STRING, 0, "what boots when no kernel is given", API_ENUM, .choices = WORDS("bios", "uefi") },
    { "boot", API_STRING, 0, "order of devices: c disk, d CD, n network", .max = 4 },
    { "kernel", API_STRING, 0, "a kernel to boot directly", API_PATH },
    { "initrd", API_STRING, 0, "its initial RAM disk", API_PATH },
    { "cmdline", API_STRING, 0, "its command line", .max = 2047 },
    { "image", API_STRING, API_FIXED | API_FILTER, "catalog image that the first disk is an overlay of", API_NAME },
    { "disk_size", API_SIZE, API_FIXED, "size of that disk; absent: the image's", .min = 1 << 20, .max = 1ll << 50 },
    { "disks", API_LIST, 0, "further disks, in order", .max = 16, .element = API_OBJECT, .fields = disk_fields },
    { "cdrom", API_STRING, API_LIVE, "image in the CD drive; \"\": an empty drive", .max = 4096 },
    { "nets", API_LIST, 0, "network cards", .max = 8, .element = API_OBJECT, .fields = net_fields,
      .initial = "[{\"backend\": \"user\", \"model\": \"virtio\"}]" },
    { "display", API_BOOLEAN, 0, "a screen, by VNC", .initial = "false" },
    { "watchdog", API_STRING, 0, "what a watchdog that fires does", API_ENUM, .choices = WORDS("reset", "pause", "exit", "none"),
      .initial = "\"reset\"" },
    { "restart", API_STRING, API_LIVE, "what happens when the VM ends by itself", API_ENUM,
      .choices = WORDS("never", "on-failure", "always"), .initial = "\"never\"" },
    { "autostart", API_OBJECT, API_LIVE, "start with the daemon", .fields = autostart_fields },
    { "limits", API_OBJECT, API_LIVE, "what of the host it may use", .fields = limit_fields },
    { "cloud_init", API_OBJECT, 0, "first set-up of the guest, by a NoCloud disk", .fields = cloud_init_fields },
    { "template", API_BOOLEAN, API_SERVER | API_FILTER, "only to be cloned" },
    { "pending", API_BOOLEAN, API_SERVER, "changes wait for the next start" },
    { "pid", API_INTEGER, API_SERVER, "of its process, while it runs" },
    { "running_engine", API_STRING, API_SERVER, "what runs its vCPUs now" },
    { "started", API_TIME, API_SERVER, "when it last started" },
    { "restarts", API_INTEGER, API_SERVER, "how often the restart policy has started it again" },
    { "exit", API_OBJECT, API_SERVER, "how it last ended", .fields = exit_fields },
    { "error", API_STRING, API_SERVER, "why the state is failed" },
    { "created", API_TIME, API_SERVER, "when it was made" },
    { "revision", API_INTEGER, API_SERVER, "changes with each change; the ETag" },
    END
};

static const struct api_field stop_args[] = {
    { "timeout", API_INTEGER, 0, "seconds for the guest to shut down; then it is killed", .min = 0, .max = 86400, .initial = "90" },
    END
};
static const struct api_field clone_args[] = {
    { "name", API_STRING, API_REQUIRED, "of the new VM", API_NAME },
    { "linked", API_BOOLEAN, 0, "disks are overlays of the original's (a template's) disks", .initial = "false" },
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
static const struct api_field insert_args[] = {
    { "path", API_STRING, API_REQUIRED, "image of the medium", API_PATH },
    END
};
static const struct api_field exec_args[] = {
    { "command", API_LIST, API_REQUIRED, "program and arguments", .min = 1, .max = 256, .element = API_STRING },
    { "input", API_STRING, 0, "its standard input", .max = 65536 },
    { "timeout", API_INTEGER, 0, "seconds", .min = 1, .max = 86400, .initial = "60" },
    END
};
static const struct api_field exec_answer[] = {
    { "status", API_INTEGER, API_SERVER, "exit status; 128 + signal when one ended it" },
    { "output", API_STRING, API_SERVER, "standard output" },
    { "errors", API_STRING, API_SERVER, "standard error" },
    END
};
static const struct api_field agent_answer[] = {
    { "version", API_STRING, API_SERVER, "of the agent" },
    { "hostname", API_STRING, API_SERVER, "of the guest" },
    { "os", API_STRING, API_SERVER, "what it runs" },
    { "addresses", API_LIST, API_SERVER, "IP addresses, without loopback", .element = API_STRING },
    END
};

static const struct api_action vm_actions[] = {
    { "start", "start it, or resume it when it is paused or saved", NULL, NULL, API_OPERATOR, true },
    { "stop", "ask the guest to shut down (ACPI); kill it when it does not in time", stop_args, NULL, API_OPERATOR, true },
    { "kill", "end it at once, as pulling the plug would", NULL, NULL, API_OPERATOR, true },
    { "restart", "stop, then start", stop_args, NULL, API_OPERATOR, true },
    { "reset", "press the reset button", NULL, NULL, API_OPERATOR, false },
    { "pause", "let it stand still", NULL, NULL, API_OPERATOR, false },
    { "resume", "go on after a pause", NULL, NULL, API_OPERATOR, false },
    { "save", "write its state to disk and end it; start goes on from there", NULL, NULL, API_OPERATOR, true },
    { "clone", "a copy under another name, with identity of its own", clone_args, NULL, API_OPERATOR, true },
    { "template", "make it a template, which is only cloned", NULL, NULL, API_OPERATOR, false },
    { "screenshot", "a picture or the text of its screen", screenshot_args, screenshot_answer, API_VIEWER, false },
    { "send-keys", "press keys", keys_args, NULL, API_OPERATOR, false },
    { "eject", "open the CD drive", NULL, NULL, API_OPERATOR, false },
    { "insert", "put a medium into the CD drive", insert_args, NULL, API_OPERATOR, false },
    { "agent", "what the agent in the guest says of it", NULL, agent_answer, API_VIEWER, false },
    { "exec", "run a program in the guest, by its agent", exec_args, exec_answer, API_OPERATOR, false },
    END
};

/* ---- disks: image files in the daemon's own directory ---- */

static const struct api_field disk_object_fields[] = {
    { "id", API_STRING, API_SERVER, "UUID", API_UUID },
    { "name", API_STRING, API_REQUIRED | API_FIXED | API_FILTER, "unique", API_NAME },
    { "size", API_SIZE, API_REQUIRED | API_FIXED, "as the guest sees it", .min = 512, .max = 1ll << 50 },
    { "format", API_STRING, API_FIXED, "of the file", API_ENUM, .choices = WORDS("qcow2", "raw"), .initial = "\"qcow2\"" },
    { "path", API_STRING, API_SERVER, "of the file", API_PATH },
    { "used", API_SIZE, API_SERVER, "bytes on the host's disk" },
    { "vm", API_STRING, API_SERVER | API_FILTER, "that it belongs to" },
    { "owner", API_STRING, API_SERVER | API_FILTER, "user who made it" },
    { "created", API_TIME, API_SERVER, "when" },
    { "revision", API_INTEGER, API_SERVER, "the ETag" },
    END
};

static const struct api_field resize_args[] = {
    { "size", API_SIZE, API_REQUIRED, "the new size", .min = 512, .max = 1ll << 50 },
    { "shrink", API_BOOLEAN, 0, "yes, what lies behind may be cut off", .initial = "false" },
    END
};

static const struct api_action disk_actions[] = {
    { "resize", "another size; a running VM sees it at once", resize_args, NULL, API_OPERATOR, true },
    END
};

/* ---- images ---- */

static const struct api_field image_fields[] = {
    { "id", API_STRING, API_SERVER, "UUID", API_UUID },
    { "name", API_STRING, API_REQUIRED | API_FIXED | API_FILTER, "unique; debian-12 is built here when no source is given", API_NAME },
    { "source", API_STRING, API_FIXED, "a URL, or an absolute path of an image, to import", .max = 4096 },
    { "sha256", API_STRING, API_FIXED, "what the source must have", .min = 64, .max = 64 },
    { "state", API_STRING, API_SERVER | API_FILTER, "whether it can be used", API_ENUM,
      .choices = WORDS("creating", "ready", "failed", "deleting") },
    { "error", API_STRING, API_SERVER, "why it failed" },
    { "size", API_SIZE, API_SERVER, "as a guest sees it" },
    { "used", API_SIZE, API_SERVER, "bytes on the host's disk" },
    { "format", API_STRING, API_SERVER, "of the file" },
    { "kernel", API_BOOLEAN, API_SERVER, "it brings a kernel to boot directly" },
    { "cloud_init", API_BOOLEAN, API_SERVER, "its system reads NoCloud" },
    { "users", API_INTEGER, API_SERVER, "overlays, templates and jobs that need it" },
    { "created", API_TIME, API_SERVER, "when" },
    { "revision", API_INTEGER, API_SERVER, "the ETag" },
    END
};

/* ---- jobs, events, audit ---- */

static const struct api_field job_fields[] = {
    { "id", API_STRING, API_SERVER, "number" },
    { "kind", API_STRING, API_SERVER | API_FILTER, "what it does: \"vm.start\"" },
    { "object", API_STRING, API_SERVER | API_FILTER, "to what: \"vms/UUID\"" },
    { "name", API_STRING, API_SERVER, "of that object, when the job began" },
    { "state", API_STRING, API_SERVER | API_FILTER, "how far it is", API_ENUM,
      .choices = WORDS("queued", "running", "done", "failed", "cancelled") },
    { "stage", API_STRING, API_SERVER, "what it does now" },
    { "progress", API_INTEGER, API_SERVER, "0 to 100; absent: unknown", .max = 100 },
    { "result", API_ANY, API_SERVER, "what it made" },
    { "error", API_ANY, API_SERVER, "why it failed: code, message, field, hint" },
    { "user", API_STRING, API_SERVER | API_FILTER, "who asked" },
    { "created", API_TIME, API_SERVER, "when" },
    { "ended", API_TIME, API_SERVER, "when it was over" },
    { "revision", API_INTEGER, API_SERVER, "the ETag" },
    END
};
static const struct api_action job_actions[] = {
    { "cancel", "give up; what was half made is removed", NULL, NULL, API_OPERATOR, false },
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

static const struct api_field audit_fields[] = {
    { "id", API_STRING, API_SERVER, "number, without gaps" },
    { "time", API_TIME, API_SERVER, "when" },
    { "user", API_STRING, API_SERVER | API_FILTER, "who" },
    { "via", API_STRING, API_SERVER, "unix, tls or token, and from where" },
    { "method", API_STRING, API_SERVER, "of HTTP" },
    { "path", API_STRING, API_SERVER, "asked for" },
    { "status", API_INTEGER, API_SERVER | API_FILTER, "answered" },
    { "hash", API_STRING, API_SERVER, "SHA-256 over the record and the hash of the one before" },
    END
};

/* ---- access ---- */

static const struct api_field user_fields[] = {
    { "id", API_STRING, API_SERVER, "UUID", API_UUID },
    { "name", API_STRING, API_REQUIRED | API_FIXED | API_FILTER, "to log in with", API_NAME },
    { "role", API_STRING, API_FILTER, "what the user may do on everything", API_ENUM, .choices = WORDS("viewer", "operator", "admin"),
      .initial = "\"viewer\"" },
    { "password", API_STRING, API_SECRET, "kept as an argon2id hash; absent: no login by password", .min = 8, .max = 256 },
    { "certificate", API_STRING, API_FILTER, "subject (CN) of the client certificate that stands for the user", .max = 255 },
    { "disabled", API_BOOLEAN, 0, "may not log in", .initial = "false" },
    { "created", API_TIME, API_SERVER, "when" },
    { "revision", API_INTEGER, API_SERVER, "the ETag" },
    END
};

static const struct api_field role_fields[] = {
    { "id", API_STRING, API_SERVER, "its name" },
    { "name", API_STRING, API_SERVER, "viewer, operator or admin" },
    { "about", API_STRING, API_SERVER, "what it may" },
    { "allows", API_LIST, API_SERVER, "\"vms.start\" and so on", .element = API_STRING },
    END
};

static const struct api_field token_fields[] = {
    { "id", API_STRING, API_SERVER, "UUID", API_UUID },
    { "name", API_STRING, API_REQUIRED | API_FIXED | API_FILTER, "what it is for", API_NAME },
    { "user", API_STRING, API_SERVER | API_FILTER, "whom it stands for" },
    { "role", API_STRING, API_FIXED, "no more than this role may; absent: the user's", API_ENUM,
      .choices = WORDS("viewer", "operator", "admin") },
    { "vm", API_STRING, API_FIXED, "only this VM", API_NAME },
    { "expires", API_TIME, API_FIXED, "when it ends; absent: in 90 days" },
    { "token", API_STRING, API_SERVER, "the secret; shown once, in the answer to its creation" },
    { "used", API_TIME, API_SERVER, "when it was last used" },
    { "created", API_TIME, API_SERVER, "when" },
    { "revision", API_INTEGER, API_SERVER, "the ETag" },
    END
};

/* ---- hosts ---- */

static const struct api_field host_fields[] = {
    { "id", API_STRING, API_SERVER, "the host's machine id" },
    { "name", API_STRING, API_SERVER | API_FILTER, "host name" },
    { "version", API_STRING, API_SERVER, "of Bedplate" },
    { "cpus", API_INTEGER, API_SERVER, "that VMs can use" },
    { "memory", API_SIZE, API_SERVER, "in all" },
    { "memory_free", API_SIZE, API_SERVER, "now" },
    { "disk_free", API_SIZE, API_SERVER, "where images lie" },
    { "engines", API_LIST, API_SERVER, "that can run here", .element = API_STRING },
    { "vms", API_INTEGER, API_SERVER, "defined" },
    { "running", API_INTEGER, API_SERVER, "of them running" },
    { "findings", API_LIST, API_SERVER, "what bedplate doctor says", .element = API_ANY },
    END
};

enum {
    READ = API_CAN_LIST | API_CAN_READ,
    ALL = READ | API_CAN_CREATE | API_CAN_PATCH | API_CAN_DELETE,
};

const struct api_resource api_resources[] = {
    { "vms", "vm", "virtual machines", vm_fields, vm_actions, ALL, API_VIEWER, API_OPERATOR, API_OPERATOR, true, true },
    { "disks", "disk", "disks in the daemon's own directory", disk_object_fields, disk_actions,
      READ | API_CAN_CREATE | API_CAN_DELETE, API_VIEWER, API_OPERATOR, API_OPERATOR, false, false },
    { "images", "image", "the catalog of images that new VMs start from", image_fields, NULL,
      READ | API_CAN_CREATE | API_CAN_DELETE, API_VIEWER, API_OPERATOR, API_OPERATOR, true, false },
    { "jobs", "job", "long work: what goes on and what became of it", job_fields, job_actions, READ, API_VIEWER, API_OPERATOR,
      API_ADMIN, false, false },
    { "events", "event", "what happened; also as a WebSocket stream", event_fields, NULL, READ, API_VIEWER, API_ADMIN, API_ADMIN,
      false, false },
    { "users", "user", "who may use the API from elsewhere", user_fields, NULL, ALL, API_ADMIN, API_ADMIN, API_ADMIN, false, false },
    { "roles", "role", "what users may do", role_fields, NULL, READ, API_VIEWER, API_ADMIN, API_ADMIN, false, false },
    { "tokens", "token", "bearer tokens for scripts", token_fields, NULL, READ | API_CAN_CREATE | API_CAN_DELETE, API_VIEWER,
      API_VIEWER, API_VIEWER, false, false },
    { "hosts", "host", "this host, and later those of its cluster", host_fields, NULL, READ, API_VIEWER, API_ADMIN, API_ADMIN, false,
      false },
    { "audit", "audit", "who asked for what: append-only, each record chained to the one before", audit_fields, NULL, READ,
      API_ADMIN, API_ADMIN, API_ADMIN, false, false },
    END
};
/* clang-format on */
