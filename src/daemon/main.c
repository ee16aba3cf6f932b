/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bedplated: keeps the virtual machines of a host, or of one user.
 *
 *   bedplated           for the host, as root: /var/lib/bedplate, /run/bedplate
 *   bedplated --user    for one user: XDG_STATE_HOME/bedplate, XDG_RUNTIME_DIR/bedplate
 *
 * Its API is HTTP on the socket `api.sock` in the run directory. VMs are processes of their own and
 * outlive it.
 */
#include "base/helper.h"
#include "base/log.h"
#include "base/text.h"
#include "daemon/aside.h"
#include "daemon/audit.h"
#include "daemon/cgroup.h"
#include "daemon/daemon.h"
#include "daemon/disks.h"
#include "daemon/images.h"
#include "daemon/listen.h"

#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LOCK_TRIES = 500 };
enum { STATE_LIMIT = PATH_MAX - 200 };
/* A VM's sockets lie below it, and a socket's path has 107 bytes; a VM's own ports may have longer
 * names than this one. */
#define LONGEST_SOCKET "/vms/01234567-89ab-cdef-0123-456789abcdef/control.sock"
enum { PATH_LIMIT = 107 - (sizeof LONGEST_SOCKET - 1) };

static const char *const kinds[] = { "images", "disks", "vms", "jobs", "users", "tokens", NULL };

/* ---- directories ---- */

static int directory_path(char out[PATH_MAX], const char *given, const char *variable,
                          const char *below_home, const char *system, bool user, struct err *err)
{
    const char *xdg = getenv(variable), *home = getenv("HOME");
    int n;
    if (given)
        n = snprintf(out, PATH_MAX, "%s", given);
    else if (!user)
        n = snprintf(out, PATH_MAX, "%s", system);
    else if (xdg && *xdg == '/')
        n = snprintf(out, PATH_MAX, "%s/bedplate", xdg);
    else if (below_home && home && *home == '/')
        n = snprintf(out, PATH_MAX, "%s/%s/bedplate", home, below_home);
    else if (!below_home)
        n = snprintf(out, PATH_MAX, "/tmp/bedplate-%u", (unsigned)geteuid());
    else
        return err_set(err, EINVAL, "HOME is not set; name a directory by --state-dir");
    return n < PATH_MAX ? 0 : err_set(err, ENAMETOOLONG, "the path of a directory is too long");
}

/* Ours alone: whoever could write into it would be served as us. */
static int directory_make(const char *path, struct err *err)
{
    struct stat st;
    char part[PATH_MAX];
    snprintf(part, sizeof part, "%s", path);
    for (char *slash = part + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        if (mkdir(part, 0755) < 0 && errno != EEXIST)
            return err_errno(err, errno, "cannot make %s", part);
    }
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return err_errno(err, errno, "cannot make %s", path);
    if (lstat(path, &st) < 0 || !S_ISDIR(st.st_mode))
        return err_set(err, ENOTDIR, "%s is no directory", path);
    if (st.st_uid != geteuid() || (st.st_mode & 022))
        return err_set(err, EPERM, "%s must belong to you and be writable by nobody else", path);
    return 0;
}

/* The daemon that wrote its number there. */
static bool holder_lives(int fd)
{
    char text[16] = "";
    pid_t pid = pread(fd, text, sizeof text - 1, 0) > 0 ? (pid_t)atoi(text) : 0;
    return pid > 0 && kill(pid, 0) == 0;
}

static int lock_state(const char *state_dir, int *out, struct err *err)
{
    char path[PATH_MAX + 8];
    snprintf(path, sizeof path, "%s/lock", state_dir);
    AUTO(fd_close) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_errno(err, errno, "cannot open %s", path);
    /* A daemon that was killed while it started a VM leaves the lock to that child for a moment. */
    for (unsigned tries = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; tries++) {
        if (tries == LOCK_TRIES || holder_lives(fd))
            return err_set(err, EBUSY, "another bedplated uses %s", state_dir);
        usleep(20000);
    }
    char text[16];
    int len = snprintf(text, sizeof text, "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)len, 0) != len)
        return err_errno(err, errno, "cannot write %s", path);
    *out = TAKE_FD(fd);
    return 0;
}

static int find_programs(struct daemon *daemon, struct err *err)
{
    int r = program_find("bedplate-vmm", "vmm", daemon->vmm, PATH_MAX, err);
    if (r == 0)
        r = program_find("bedplate-jail", "jail", daemon->jail, PATH_MAX, err);
    if (r == 0)
        r = program_find("bedplate-img", "img", daemon->img, PATH_MAX, err);
    if (r == 0)
        r = program_find("bedplate-make-image", "images", daemon->make_image, PATH_MAX, err);
    return r;
}

/* ---- life ---- */

static void object_changed(void *arg, struct object *object, const json_t *was, const json_t *now)
{
    if (strcmp(object->kind, "vms") == 0)
        vms_changed(arg, object, was, now);
}

static int signal_fd;

static void on_signal(void *arg, unsigned events)
{
    struct daemon *daemon = arg;
    struct signalfd_siginfo info;
    if (read(signal_fd, &info, sizeof info) != sizeof info)
        return;
    if (info.ssi_signo == SIGHUP) {
        listen_reload(daemon);
        return;
    }
    log_info("ended by a signal; VMs run on");
    loop_stop(daemon->loop, 0);
}

static int watch_signals(struct daemon *daemon, struct err *err)
{
    struct loop_watch *watch; /* the loop's */
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return signal_fd < 0 ? err_errno(err, errno, "signalfd")
                         : loop_watch_create(daemon->loop, signal_fd, LOOP_READ, on_signal, daemon,
                                             &watch, err);
}

static int serve(struct daemon *daemon, const struct remote *remote, struct err *err)
{
    char path[PATH_MAX + 8];
    snprintf(path, sizeof path, "%s/store", daemon->state_dir);
    bool etcd = daemon->etcd.url;
    int r = etcd ? store_etcd_open(daemon->loop, &daemon->etcd, "/bedplate", &daemon->store, err)
                 : store_sqlite_open(daemon->loop, path, &daemon->store, err);
    if (r == 0 && etcd)
        r = guard_start(daemon, err);
    if (r == 0)
        r = objects_create(daemon->store, kinds, object_changed, daemon, &daemon->objects, err);
    if (r == 0)
        r = audit_start(daemon, err);
    if (r == 0)
        r = vms_start(daemon, err);
    if (r == 0)
        r = images_start(daemon, err);
    if (r == 0)
        r = disks_start(daemon, err);
    if (r == 0)
        r = jobs_start(daemon, err);
    if (r == 0)
        r = listen_start(daemon, remote, err);
    if (r == 0)
        ready_tell();
    if (r == 0 && loop_run(daemon->loop) != 0)
        r = err_set(err, EIO, "the store was lost");
    jobs_stop();
    aside_stop();
    disks_stop();
    images_stop();
    vms_stop(daemon);
    listen_stop(daemon);
    audit_stop();
    objects_destroy(daemon->objects);
    guard_stop();
    store_close(daemon->store);
    return r;
}

static int run(struct daemon *daemon, const char *state_dir, const char *run_dir,
               const struct remote *remote, struct err *err)
{
    AUTO(fd_close) int lock = -1;
    if (!daemon->user && !state_dir && geteuid() != 0)
        return err_set(err, EPERM, "the host's daemon is root's; bedplated --user is your own");
    int r = directory_path(daemon->state_dir, state_dir, "XDG_STATE_HOME", ".local/state",
                           "/var/lib/bedplate", daemon->user, err);
    if (r == 0)
        r = directory_path(daemon->run_dir, run_dir, "XDG_RUNTIME_DIR", NULL, "/run/bedplate",
                           daemon->user, err);
    if (r == 0 && strlen(daemon->state_dir) > STATE_LIMIT)
        r = err_set(err, ENAMETOOLONG, "the path of the state directory is too long");
    if (r == 0 && strlen(daemon->run_dir) > PATH_LIMIT)
        r = err_set(
            err, ENAMETOOLONG,
            "the run directory %s is too long: VMs' sockets lie in it; name a shorter one by "
            "--run-dir",
            daemon->run_dir);
    if (r == 0)
        r = directory_make(daemon->state_dir, err);
    if (r == 0)
        r = directory_make(daemon->run_dir, err);
    if (r == 0)
        r = lock_state(daemon->state_dir, &lock, err);
    if (r == 0)
        r = find_programs(daemon, err);
    if (r == 0)
        r = loop_create(&daemon->loop, err);
    if (r == 0)
        r = watch_signals(daemon, err);
    if (r == 0) {
        vm_ids_begin(daemon);
        cgroups_begin(daemon->loop, daemon->user);
        r = serve(daemon, remote, err);
        cgroups_end();
    }
    loop_destroy(daemon->loop);
    return r;
}

static int print_openapi(void)
{
    AUTO(json_decref) json_t *document = api_openapi(BEDPLATE_VERSION);
    json_dumpf(document, stdout, JSON_INDENT(2));
    return puts("") < 0;
}

static int print_reference(void)
{
    AUTO(buf_fini) struct buf page = { 0 };
    api_reference(&page);
    return fwrite(page.data, 1, page.len, stdout) != page.len;
}

static int ids_parse(const char *text, struct vm_ids *out, struct err *err)
{
    unsigned first = 0, last = 0;
    char more;
    if (sscanf(text, "%u-%u%c", &first, &last, &more) != 2 || !first || last < first ||
        last > INT32_MAX)
        return err_set(err, EINVAL, "'%.40s' is no range; write it like 200000-265535", text);
    *out = (struct vm_ids){ first, first, last - first + 1 };
    return 0;
}

/* ---- the command line ---- */

static struct daemon daemon_here;
static struct remote remote_here;
static const char *state_dir, *run_dir, *vm_ids;

static int print_help(void);
static int print_man(void);
static int print_version(void) { return printf("bedplated %s\n", BEDPLATE_VERSION) < 0; }

/* Help, man page and parsing. */
static const struct word {
    const char *name, *value, *about;
    const char **text;  /* where its value goes */
    int (*print)(void); /* prints, and that is all */
} words[] = {
    { "user", NULL, "for the user who starts it, without privileges", NULL, NULL },
    { "state-dir", "DIR",
      "what survives (default /var/lib/bedplate; with --user ~/.local/state/bedplate)", &state_dir,
      NULL },
    { "run-dir", "DIR", "sockets (default /run/bedplate; with --user $XDG_RUNTIME_DIR/bedplate)",
      &run_dir, NULL },
    { "store", "URL",
      "keep the objects in the etcd (3.4 or later) at http://HOST:PORT or https://HOST:PORT, not "
      "in a file",
      &daemon_here.etcd.url, NULL },
    { "store-ca", "FILE", "the CA of etcd's certificate, PEM (default: those that the host trusts)",
      &daemon_here.etcd.ca, NULL },
    { "store-cert", "FILE", "a certificate for an etcd that wants one, PEM",
      &daemon_here.etcd.certificate, NULL },
    { "store-key", "FILE", "its key, PEM", &daemon_here.etcd.key, NULL },
    { "store-user", "NAME", "for an etcd that has users", &daemon_here.etcd.user, NULL },
    { "store-password-file", "FILE", "whose first line is that user's password",
      &daemon_here.etcd.password_file, NULL },
    { "listen", "ADDRESS:PORT",
      "serve the API there too, with TLS, to users with a token or a certificate",
      &remote_here.listen, NULL },
    { "tls-cert", "FILE", "certificate for that, with its chain, PEM", &remote_here.certificate,
      NULL },
    { "tls-key", "FILE", "its key, PEM", &remote_here.key, NULL },
    { "tls-ca", "FILE", "whose client certificates are believed, PEM", &remote_here.ca, NULL },
    { "tls-crl", "FILE", "which of them are revoked, PEM; all are, once it is out of date",
      &remote_here.crl, NULL },
    { "vm-ids", "FIRST-LAST",
      "user ids, and group ids, of VMs' processes, for root's daemon (default "
      "2130706432-2130771967)",
      &vm_ids, NULL },
    { "openapi", NULL, "print the OpenAPI document and exit", NULL, print_openapi },
    { "reference", NULL, "print the API's reference page and exit", NULL, print_reference },
    { "help-man", NULL, "print the man page and exit", NULL, print_man },
    { "version", NULL, "print the version and exit", NULL, print_version },
    { "help", NULL, "print this and exit", NULL, print_help },
};
enum { WORDS = sizeof words / sizeof *words, ABOUT_AT = 2 + 30 };

static int print_help(void)
{
    printf("usage: bedplated [--user] [OPTIONS]\n\nKeeps virtual machines. Its API is HTTP on the "
           "socket api.sock in the run directory.\n\n");
    for (unsigned i = 0; i < WORDS; i++) {
        int len = printf("  --%s%s%s", words[i].name, words[i].value ? " " : "",
                         words[i].value ? words[i].value : "");
        printf("%*s%s\n", len < ABOUT_AT ? ABOUT_AT - len : 1, "", words[i].about);
    }
    return 0;
}

static void roff(const char *text)
{
    for (; *text; text++)
        printf(*text == '-' ? "\\-" : "%c", *text);
}

static int print_man(void)
{
    printf(
        ".TH BEDPLATED 8 \"\" \"Bedplate %s\" \"Bedplate\"\n.SH NAME\nbedplated \\- keeps virtual "
        "machines\n.SH SYNOPSIS\n.B bedplated\n[\\fB\\-\\-user\\fR] [\\fIoptions\\fR]\n.SH "
        "DESCRIPTION\nKeeps the virtual machines of a host, or of one user. Its API is HTTP on the "
        "socket api.sock in the run directory; bedplate(1) is its client, and starts a "
        "user\\(aqs own when none answers. Virtual machines are processes of their own: they "
        "outlive it, and the next one finds them. SIGHUP has it read its TLS certificates "
        "anew.\n.SH OPTIONS\n",
        BEDPLATE_VERSION);
    for (unsigned i = 0; i < WORDS; i++) {
        printf(".TP\n\\fB\\-\\-");
        roff(words[i].name);
        printf("\\fR %s%s%s\n", words[i].value ? "\\fI" : "", words[i].value ? words[i].value : "",
               words[i].value ? "\\fR" : "");
        roff(words[i].about);
        puts(".");
    }
    printf(".SH EXIT STATUS\n0 when it was ended by a signal, 1 when it cannot go on, 2 for wrong "
           "words.\n.SH SEE ALSO\nbedplate(1), bedplate\\-vmm(1), bedplate\\-img(1)\n");
    return 0;
}

static int wrong_words(const char *why)
{
    fprintf(stderr, "bedplated: %s\n", why);
    return 2;
}

/* -1: go on; otherwise the status to end with. */
static int words_take(int argc, char **argv)
{
    struct option options[WORDS + 1] = { 0 };
    for (unsigned i = 0; i < WORDS; i++)
        options[i] =
            (struct option){ words[i].name, words[i].value ? required_argument : no_argument, NULL,
                             (int)i + 1 };
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == '?')
            return 2;
        const struct word *word = &words[c - 1];
        if (word->print)
            return word->print();
        if (word->text)
            *word->text = optarg;
        else
            daemon_here.user = true;
    }
    return -1;
}

int main(int argc, char **argv)
{
    struct err err = { 0 };
    const struct etcd_place *etcd = &daemon_here.etcd;
    int r = words_take(argc, argv);
    if (r >= 0)
        return r;
    if (optind < argc) {
        err_set(&err, EINVAL, "unexpected argument '%s'", argv[optind]);
        return wrong_words(err.text);
    }
    if (vm_ids && ids_parse(vm_ids, &daemon_here.ids, &err) < 0) {
        err_prefix(&err, "--vm-ids");
        return wrong_words(err.text);
    }
    if (!etcd->url &&
        (etcd->ca || etcd->certificate || etcd->key || etcd->user || etcd->password_file))
        return wrong_words("the options --store-... are for --store URL");
    daemon_here.started_ns = monotonic_ns();
    r = run(&daemon_here, state_dir, run_dir, &remote_here, &err);
    if (r < 0)
        fprintf(stderr, "bedplated: %s\n", err.text);
    return r < 0;
}
