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
enum { PATH_LIMIT = 60 /* a VM's sockets lie below it, and a socket's path has 107 bytes */ };

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

static const char usage[] =
    "usage: bedplated [--user] [--state-dir DIR] [--run-dir DIR] [--store URL] [--listen "
    "ADDRESS:PORT ...]\n\n"
    "Keeps virtual machines. Its API is HTTP on the socket api.sock in the run directory.\n\n"
    "  --user           for the user who starts it, without privileges\n"
    "  --state-dir DIR  what survives (default /var/lib/bedplate; with --user "
    "~/.local/state/bedplate)\n"
    "  --run-dir DIR    sockets (default /run/bedplate; with --user $XDG_RUNTIME_DIR/bedplate)\n"
    "  --store URL      keep the objects in the etcd (3.4 or later) at http://HOST:PORT or "
    "https://HOST:PORT, not in a file\n"
    "  --store-ca FILE  the CA of etcd's certificate, PEM (default: those that the host trusts)\n"
    "  --store-cert FILE, --store-key FILE\n"
    "                   certificate and key for an etcd that wants them, PEM\n"
    "  --store-user NAME, --store-password-file FILE\n"
    "                   for an etcd that has users; the file's first line is the password\n"
    "  --listen ADDRESS:PORT\n"
    "                   serve the API there too, with TLS, to users with a token or a certificate\n"
    "  --tls-cert FILE, --tls-key FILE\n"
    "                   certificate (with its chain) and key for that, PEM\n"
    "  --tls-ca FILE    whose client certificates are believed, PEM\n"
    "  --tls-crl FILE   which of them are revoked, PEM; all are, once it is out of date\n"
    "  --vm-ids FIRST-LAST\n"
    "                   user ids, and group ids, of VMs' processes, for root's daemon (default "
    "2130706432-2130771967)\n"
    "  --openapi        print the OpenAPI document and exit\n"
    "  --reference      print the API's reference page and exit\n"
    "  --version        print the version and exit\n"
    "  --help           print this and exit\n";

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

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "user", no_argument, NULL, 'u' },
        { "state-dir", required_argument, NULL, 's' },
        { "run-dir", required_argument, NULL, 'r' },
        { "openapi", no_argument, NULL, 'o' },
        { "store", required_argument, NULL, 'S' },
        { "reference", no_argument, NULL, 'R' },
        { "store-ca", required_argument, NULL, 'A' },
        { "store-cert", required_argument, NULL, 'C' },
        { "store-key", required_argument, NULL, 'K' },
        { "store-user", required_argument, NULL, 'U' },
        { "store-password-file", required_argument, NULL, 'P' },
        { "version", no_argument, NULL, 'v' },
        { "listen", required_argument, NULL, 'l' },
        { "tls-cert", required_argument, NULL, 'c' },
        { "tls-key", required_argument, NULL, 'k' },
        { "tls-ca", required_argument, NULL, 'a' },
        { "tls-crl", required_argument, NULL, 'x' },
        { "vm-ids", required_argument, NULL, 'i' },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
    };
    static struct daemon daemon;
    const char *state_dir = NULL, *run_dir = NULL;
    struct remote remote = { 0 };
    struct err err = { 0 };
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (c) {
        case 'u': daemon.user = true; break;
        case 's': state_dir = optarg; break;
        case 'r': run_dir = optarg; break;
        case 'S': daemon.etcd.url = optarg; break;
        case 'A': daemon.etcd.ca = optarg; break;
        case 'C': daemon.etcd.certificate = optarg; break;
        case 'K': daemon.etcd.key = optarg; break;
        case 'U': daemon.etcd.user = optarg; break;
        case 'P': daemon.etcd.password_file = optarg; break;
        case 'l': remote.listen = optarg; break;
        case 'c': remote.certificate = optarg; break;
        case 'k': remote.key = optarg; break;
        case 'a': remote.ca = optarg; break;
        case 'x': remote.crl = optarg; break;
        case 'i':
            if (ids_parse(optarg, &daemon.ids, &err) < 0) {
                fprintf(stderr, "bedplated: --vm-ids: %s\n", err.text);
                return 2;
            }
            break;
        case 'o': return print_openapi();
        case 'R': return print_reference();
        case 'v': return printf("bedplated %s\n", BEDPLATE_VERSION) < 0;
        case 'h': return fputs(usage, stdout) < 0;
        default: return 2;
        }
    if (optind < argc) {
        fprintf(stderr, "bedplated: unexpected argument '%s'\n", argv[optind]);
        return 2;
    }
    const struct etcd_place *etcd = &daemon.etcd;
    if (!etcd->url &&
        (etcd->ca || etcd->certificate || etcd->key || etcd->user || etcd->password_file)) {
        fprintf(stderr, "bedplated: the options --store-... are for --store URL\n");
        return 2;
    }
    daemon.started_ns = monotonic_ns();
    int r = run(&daemon, state_dir, run_dir, &remote, &err);
    if (r < 0)
        fprintf(stderr, "bedplated: %s\n", err.text);
    return r < 0;
}
