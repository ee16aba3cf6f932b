/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bedplate-nbd: the connection to an NBD server, with its TLS session and credentials, in a process
 * of its own. Started by nbd_client_open, one for each disk.
 *
 * The order: take the address apart, lock down with copies of the credentials and what name
 * look-ups read, and only then connect, since a server's first byte may be hostile.
 */
#include "base/checked.h"
#include "base/confine.h"
#include "base/helper.h"
#include "base/log.h"
#include "base/text.h"
#include "block/nbd_relay.h"

#include <getopt.h>
#include <libgen.h>
#include <netdb.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum { NBD_FILES_MAX = 12, NBD_OPEN_FILES = 128 };

/* ---- confinement ---- */

struct files { /* what the process still reads, or connects to, afterwards */
    struct confine_file list[NBD_FILES_MAX];
    unsigned count;
    char *texts[NBD_FILES_MAX]; /* owned */
    unsigned text_count;
    bool secrets;
};

static const char *files_text(struct files *files, char *take_text)
{
    if (!take_text)
        abort();
    return files->texts[files->text_count++] = take_text;
}

static void files_add(struct files *files, const char *path, const char *name)
{
    files->list[files->count++] = (struct confine_file){ .path = path, .name = name };
}

static int files_add_secret(struct files *files, const char *path, const char *name,
                            struct err *err)
{
    if (access(path, R_OK) < 0)
        return err_errno(err, errno, "cannot read %s", path);
    files->secrets = true;
    files_add(files, path, name);
    return 0;
}

/* ca-cert.pem must be there; a certificate of ours only where the server wants one. */
static int files_add_certificates(struct files *files, const char *directory, struct err *err)
{
    static const char *const names[] = { "ca-cert.pem", "ca-crl.pem", "client-cert.pem",
                                         "client-key.pem" };
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        char *path, *name;
        if (asprintf(&path, "%s/%s", directory, names[i]) < 0 ||
            asprintf(&name, "tls/%s", names[i]) < 0)
            abort();
        files_text(files, path);
        files_text(files, name);
        if (i && access(path, F_OK) < 0)
            continue;
        int r = files_add_secret(files, path, name, err);
        if (r < 0)
            return err_prefix(err, "TLS certificates");
    }
    return 0;
}

static int files_find(struct files *files, const struct nbd_uri *uri, struct err *err)
{
    int r = 0;
    if (uri->host) {
        files_add(files, "/etc/resolv.conf", "etc/resolv.conf");
        files_add(files, "/etc/hosts", "etc/hosts");
        /* Only what the C library has built in: others would be loaded from files. */
        files->list[files->count++] =
            (struct confine_file){ .name = "etc/nsswitch.conf", .text = "hosts: files dns\n" };
    } else {
        const char *copy = files_text(files, strdup(uri->socket));
        files->list[files->count++] = (struct confine_file){
            .path = dirname((char *)(uintptr_t)copy), .name = "socket", .directory = true
        };
    }
    if (uri->psk)
        r = files_add_secret(files, uri->psk, "tls-psk", err);
    else if (uri->certificates)
        r = files_add_certificates(files, uri->certificates, err);
    else if (uri->tls)
        files_add(files, "/etc/ssl/certs/ca-certificates.crt", "etc/ssl/certs/ca-certificates.crt");
    return r;
}

/* From now on files have other names. */
static int uri_rename(struct nbd_uri *uri, struct err *err)
{
    char *path = NULL;
    if (uri->socket) {
        const char *slash = strrchr(uri->socket, '/');
        if (asprintf(&path, "/socket/%s", slash ? slash + 1 : uri->socket) < 0)
            return err_set(err, ENOMEM, "out of memory");
        free(uri->socket);
        uri->socket = path;
    }
    if (uri->psk) {
        free(uri->psk);
        uri->psk = strdup("/tls-psk");
    }
    if (uri->certificates) {
        free(uri->certificates);
        uri->certificates = strdup("/tls");
    }
    return 0;
}

/* clang-format off */
static const int calls[] = {
    SCMP_SYS(connect), SCMP_SYS(getsockname), SCMP_SYS(getpeername), SCMP_SYS(setsockopt),
    SCMP_SYS(getsockopt), SCMP_SYS(bind), SCMP_SYS(sendmmsg), SCMP_SYS(sched_yield), SCMP_SYS(uname),
    SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(access),
};
static const struct confine_call conditional[] = {
    { SCMP_SYS(socket), SCMP_A0_64(SCMP_CMP_EQ, AF_INET) },
    { SCMP_SYS(socket), SCMP_A0_64(SCMP_CMP_EQ, AF_INET6) },
    { SCMP_SYS(socket), SCMP_A0_64(SCMP_CMP_EQ, AF_UNIX) },
    { SCMP_SYS(ioctl), SCMP_A1_64(SCMP_CMP_EQ, FIONREAD) },
};
/* clang-format on */

static int nbd_confine(struct nbd_uri *uri, pid_t parent, char *summary, size_t len,
                       struct err *err)
{
    struct files files = { 0 };
    int r = files_find(&files, uri, err);
    const struct confine_plan plan = {
        .name = "bedplate-nbd",
        .parent = parent,
        .files = files.list,
        .file_count = files.count,
        .keep_ids = uri->socket != NULL,
        .files_are_ours = files.secrets,
        .open_files = NBD_OPEN_FILES,
        .calls = calls,
        .call_count = ARRAY_LEN(calls),
        .conditional = conditional,
        .conditional_count = ARRAY_LEN(conditional),
    };
    bool own_root = false;
    if (r == 0)
        r = confine(&plan, &own_root, summary, len, err);
    if (r == 0 && own_root)
        r = uri_rename(uri, err);
    for (unsigned i = 0; i < files.text_count; i++)
        free(files.texts[i]);
    return r;
}

/* ---- start ---- */

struct settings {
    const char *uri;
    pid_t parent;
    bool readonly;
};

static int settings_parse(int argc, char **argv, struct settings *out, struct err *err)
{
    static const struct option options[] = {
        { "parent", required_argument, NULL, 'p' },
        { "uri", required_argument, NULL, 'u' },
        { "read-only", no_argument, NULL, 'r' },
        { NULL, 0, NULL, 0 },
    };
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'p': out->parent = atoi(optarg); break;
        case 'u': out->uri = optarg; break;
        case 'r': out->readonly = true; break;
        default: return err_set(err, EINVAL, "unknown option");
        }
    }
    return out->uri && optind == argc ? 0 : err_set(err, EINVAL, "it needs --uri");
}

int main(int argc, char **argv)
{
    struct settings settings = { 0 };
    struct nbd_uri uri = { 0 };
    struct nbd_relay *relay = NULL;
    struct nbd_export export = { 0 };
    struct err err;
    char confined[64] = "", hello[520];
    struct stat st;

    if (fstat(HELPER_FD, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        fprintf(stderr, "bedplate-nbd is started for disks on NBD servers, not by hand\n");
        return 2;
    }
    syscall(SYS_close_range, HELPER_FD + 1, ~0u, 0);
    signal(SIGPIPE, SIG_IGN);
    int r = settings_parse(argc, argv, &settings, &err);
    if (r == 0)
        r = nbd_uri_parse(settings.uri, &uri, &err);
    if (r == 0)
        r = nbd_confine(&uri, settings.parent, confined, sizeof confined, &err);
    const struct nbd_relay_config config = { .uri = &uri,
                                             .fd = HELPER_FD,
                                             .readonly = settings.readonly };
    if (r == 0)
        r = nbd_relay_create(&config, &relay, &export, &err);
    if (r < 0)
        snprintf(hello, sizeof hello, "%s\n", err.text);
    else
        snprintf(hello, sizeof hello,
                 HELPER_HELLO "size=%lu flags=%x align=%u max=%u connections=%u %s\n", export.size,
                 export.flags, export.align, export.max_transfer, export.connections, confined);
    if (write_full(HELPER_FD, hello, strlen(hello)) < 0 || r < 0)
        return 1;
    nbd_relay_run(relay);
}
