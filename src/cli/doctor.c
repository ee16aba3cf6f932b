/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bedplate doctor: what this host has for virtual machines, and what to do about what it has not.
 */
#include "base/cleanup.h"
#include "base/sub_range.h"
#include "cli/cli.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <pwd.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <unistd.h>

/* GOOD; NOTE: it works without, less well; BAD: it does not work. */
enum verdict { GOOD, NOTE, BAD };

struct doctor {
    json_t *findings;
    bool bad;
};

static void found(struct doctor *d, const char *what, enum verdict verdict, const char *todo,
                  const char *format, ...) __attribute__((format(printf, 5, 6)));
static void found(struct doctor *d, const char *what, enum verdict verdict, const char *todo,
                  const char *format, ...)
{
    static const char *const words[] = { "good", "note", "bad" };
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    json_t *finding =
        json_pack("{s:s, s:s, s:s}", "check", what, "verdict", words[verdict], "found", text);
    if (todo && verdict != GOOD)
        json_object_set_new(finding, "todo", json_string(todo));
    json_array_append_new(d->findings, finding);
    d->bad |= verdict == BAD;
}

/* ---- the checks ---- */

static void check_kvm(struct doctor *d)
{
    static const char soft[] = "VMs run by the soft engine";
    AUTO(fd_close) int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0 && errno == EACCES) {
        found(d, "kvm", NOTE, "as root: usermod -aG kvm USER, then log in anew",
              "/dev/kvm is there, but not for you; %s", soft);
        return;
    }
    if (kvm < 0) {
        found(
            d, "kvm", NOTE,
            "load kvm_intel or kvm_amd, switch virtualization on in the firmware, or ask who runs "
            "this virtual machine for nested virtualization",
            "no /dev/kvm (%s); %s", strerror(errno), soft);
        return;
    }
    AUTO(fd_close) int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    if (vm < 0)
        found(d, "kvm", NOTE, "another hypervisor may hold the CPU's extensions",
              "/dev/kvm makes no VM (%s); %s", strerror(errno), soft);
    else
        found(d, "kvm", GOOD, NULL, "/dev/kvm makes VMs");
}

static void check_memory(struct doctor *d)
{
    long long available = 0;
    char line[200];
    FILE *file = fopen("/proc/meminfo", "re");
    while (file && fgets(line, sizeof line, file))
        sscanf(line, "MemAvailable: %lld", &available);
    if (file)
        fclose(file);
    found(d, "memory", available < 1 << 20 ? NOTE : GOOD, "a desktop guest wants 2 GiB",
          "%.1f GiB are available", (double)available / (1 << 20));
}

/* Where the daemon that answered keeps its state. */
static void check_disk(struct doctor *d, const struct cli *cli)
{
    const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    bool host = strncmp(cli->socket_path, "/run/bedplate/", 14) == 0;
    const char *path = host ? "/var/lib" : xdg && *xdg ? xdg : home ? home : "/";
    struct statvfs fs;
    if (statvfs(path, &fs) < 0) {
        found(d, "disk", NOTE, "make it", "%s: %s", path, strerror(errno));
        return;
    }
    double free_gib = (double)fs.f_bavail * (double)fs.f_frsize / (1 << 30);
    found(d, "disk", free_gib < 2 ? NOTE : GOOD,
          "an image of Debian takes 600 MB, and as much again to make it",
          "%.1f GiB are free at %s", free_gib, path);
}

static bool program_there(const char *name)
{
    static const char *const dirs[] = { "/usr/bin", "/bin", "/usr/sbin", "/sbin",
                                        "/usr/local/bin" };
    char path[200];
    for (unsigned i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        snprintf(path, sizeof path, "%s/%s", dirs[i], name);
        if (access(path, X_OK) == 0)
            return true;
    }
    return false;
}

static void check_programs(struct doctor *d)
{
    static const struct {
        const char *name, *package, *why;
        bool user_only;
    } programs[] = {
        { "mmdebstrap", "mmdebstrap", "makes the image debian-12", false },
        { "mke2fs", "e2fsprogs", "makes the image debian-12", false },
        { "fakeroot", "fakeroot", "makes the image debian-12 without root", true },
        { "newuidmap", "uidmap", "makes the image debian-12 without root", true },
        { "curl", "curl", "downloads images", false },
        { "ssh", "openssh-client", "bedplate ssh", false },
    };
    for (unsigned i = 0; i < sizeof programs / sizeof *programs; i++) {
        char todo[100];
        bool there = program_there(programs[i].name);
        if (programs[i].user_only && geteuid() == 0)
            continue;
        snprintf(todo, sizeof todo, "apt-get install %s", programs[i].package);
        found(d, programs[i].name, there ? GOOD : NOTE, todo, "%s (%s)",
              there ? "is there" : "is missing", programs[i].why);
    }
}

static void check_firmware(struct doctor *d)
{
    bool bios = access("/usr/share/seabios/bios-256k.bin", R_OK) == 0;
    bool uefi = access("/usr/share/OVMF/OVMF_CODE_4M.fd", R_OK) == 0;
    found(d, "bios", bios ? GOOD : NOTE, "apt-get install seabios", "%s",
          bios ? "is there" : "is missing: VMs need a kernel given, or UEFI");
    found(d, "uefi", uefi ? GOOD : NOTE, "apt-get install ovmf", "%s",
          uefi ? "is there" : "is missing");
}

/* Those that bedplate-jail makes. */
static void check_namespaces(struct doctor *d)
{
    int status = -1;
    pid_t pid = fork();
    if (pid == 0)
        _exit(unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS |
                      CLONE_NEWCGROUP | CLONE_NEWNET) < 0);
    if (pid > 0)
        waitpid(pid, &status, 0);
    found(d, "namespaces", status == 0 ? GOOD : NOTE,
          "sysctl kernel.unprivileged_userns_clone=1 and user.max_user_namespaces, or a container "
          "with fewer limits",
          "%s",
          status == 0 ? "VMs' processes and helpers get users, roots and networks of their own"
                      : "are refused: VMs' processes and helpers are confined by Landlock and "
                        "seccomp alone");
}

static void check_ids(struct doctor *d)
{
    static const char *const files[] = { "/etc/subuid", "/etc/subgid" };
    const struct passwd *user = getpwuid(geteuid());
    if (geteuid() == 0 || !user)
        return;
    for (unsigned i = 0; i < 2; i++) {
        unsigned first, count;
        bool have = sub_range(files[i], &first, &count);
        char todo[120];
        snprintf(todo, sizeof todo, "as root: usermod --add-%ss 100000-165535 %s", files[i] + 5,
                 user->pw_name);
        found(d, files[i] + 5, have ? GOOD : NOTE, todo,
              have ? "%s has a range for you"
                   : "%s has no range for you: debian-12 cannot be made, and VMs run as you",
              files[i]);
    }
}

static void check_kernel(struct doctor *d)
{
    struct io_uring_params params = { 0 };
    AUTO(fd_close) int ring = (int)syscall(SYS_io_uring_setup, 4, &params);
    found(d, "io_uring", ring >= 0 ? GOOD : NOTE,
          "sysctl kernel.io_uring_disabled=0, or another seccomp profile", "%s",
          ring >= 0 ? "is there" : "is refused: disks are served by threads");
    long landlock = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    found(d, "landlock", landlock > 0 ? GOOD : NOTE, "boot with lsm=landlock,...",
          landlock > 0 ? "version %ld"
                       : "is not there (%ld): VMs' processes are confined by seccomp alone",
          landlock);
}

/* The daemon has tried. */
static void check_limits(struct doctor *d, struct cli *cli)
{
    AUTO(json_decref) json_t *page = NULL;
    if (client_call(cli, "GET", "/v1/hosts", NULL, &page) != CLI_OK)
        return;
    const json_t *host = json_array_get(json_object_get(page, "items"), 0);
    const char *by = json_string_value(json_object_get(host, "limits_by"));
    const char *warning = json_string_value(json_object_get(host, "warning"));
    json_int_t ids = json_integer_value(json_object_get(host, "vm_ids"));
    found(d, "limits", warning ? NOTE : GOOD,
          "run the daemon as a service of systemd, or as root, or give its user a control group",
          "%s",
          warning ? warning
          : by    ? by
                  : "");
    found(d, "vm-ids", ids ? GOOD : NOTE,
          "apt-get install uidmap; as root: usermod --add-subuids 100000-165535 --add-subgids "
          "100000-165535 USER; then start the daemon anew",
          ids ? "each VM runs as a user of its own, of %lld" : "%lld: VMs run as the daemon's user",
          (long long)ids);
}

/* Scopes of a user's own systemd take a process later by D-Bus only. */
static void check_bus(struct doctor *d, const struct cli *cli)
{
    const char *run = getenv("XDG_RUNTIME_DIR"), *bus = getenv("DBUS_SESSION_BUS_ADDRESS");
    char path[PATH_MAX];
    if (!run || strncmp(cli->socket_path, run, strlen(run)) != 0)
        return; /* not one's own daemon */
    snprintf(path, sizeof path, "%.4000s/systemd/private", run);
    if (access(path, F_OK) < 0)
        return;
    snprintf(path, sizeof path, "%.4000s/bus", run);
    bool there = (bus && *bus) || access(path, F_OK) == 0;
    found(d, "user-bus", there ? GOOD : NOTE,
          "apt-get install dbus-user-session, then log in anew and start the daemon anew", "%s",
          there
              ? "VMs' scopes take the helpers of cards that are plugged in"
              : "you have no D-Bus of your own: the helper of a card that is plugged in is outside "
                "of its VM's limits");
}

static void check_time(struct doctor *d)
{
    struct timex t = { 0 };
    bool synchronised = adjtimex(&t) >= 0 && !(t.status & STA_UNSYNC);
    found(d, "time", synchronised ? GOOD : NOTE, "apt-get install systemd-timesyncd (or chrony)",
          "%s", synchronised ? "is synchronised" : "is not synchronised: guests get this host's");
}

static void check_daemon(struct doctor *d, struct cli *cli)
{
    AUTO(json_decref) json_t *health = NULL;
    bool good = client_call(cli, "GET", "/v1/health", NULL, &health) == CLI_OK;
    found(d, "daemon", good ? GOOD : BAD, "bedplated --user tells why it does not start", "%s%s",
          good ? "answers at " : "does not answer",
          good ? cli->url ? cli->url : cli->socket_path : "");
}

/* ---- telling ---- */

static void print(struct cli *cli, const json_t *findings)
{
    size_t i;
    const json_t *f;
    bool colours = isatty(STDOUT_FILENO);
    json_array_foreach(findings, i, f)
    {
        const char *verdict = json_string_value(json_object_get(f, "verdict"));
        const char *todo = json_string_value(json_object_get(f, "todo"));
        const char *colour = *verdict == 'g'   ? "\033[32m"
                             : *verdict == 'n' ? "\033[33m"
                                               : "\033[31m";
        if (cli->quiet && *verdict == 'g')
            continue;
        printf("%s%-4s%s  %-11s %s\n", colours ? colour : "", verdict, colours ? "\033[0m" : "",
               json_string_value(json_object_get(f, "check")),
               json_string_value(json_object_get(f, "found")));
        if (todo)
            printf("                  to do: %s\n", todo);
    }
}

int do_doctor(struct cli *cli, const struct command *command, int argc, char **argv)
{
    int r = want_words(command, argc, 0, 0);
    if (r != CLI_OK)
        return r;
    struct doctor d = { .findings = json_array() };
    check_kvm(&d);
    check_memory(&d);
    check_kernel(&d);
    check_namespaces(&d);
    check_ids(&d);
    check_firmware(&d);
    check_programs(&d);
    check_time(&d);
    check_daemon(&d, cli);
    check_disk(&d, cli);
    check_limits(&d, cli);
    check_bus(&d, cli);
    if (cli->json)
        output_json(d.findings);
    else
        print(cli, d.findings);
    json_decref(d.findings);
    return d.bad ? CLI_FAILED : CLI_OK;
}
