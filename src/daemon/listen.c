/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/listen.h"

#include "base/log.h"
#include "base/text.h"
#include "daemon/audit.h"
#include "daemon/streams.h"

#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static struct remote remote;
static int remote_fd = -1;  /* listens; each server has a copy */
static struct http *former; /* of before the last reload: serves whom it had */

/* ---- the socket of this host ---- */

/* Of systemd.socket(5), sd_listen_fds(3): the socket is there already, as descriptor 3. */
static bool socket_given(int *out)
{
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    if (!pid || !count || atoi(pid) != (int)getpid() || strcmp(count, "1") != 0)
        return false;
    fcntl(3, F_SETFD, FD_CLOEXEC);
    fcntl(3, F_SETFL, fcntl(3, F_GETFL) | O_NONBLOCK);
    unsetenv("LISTEN_PID"); /* not for the programs that we start */
    unsetenv("LISTEN_FDS");
    *out = 3;
    return true;
}

static int listen_api(const char *run_dir, int *out, struct err *err)
{
    if (socket_given(out))
        return 0;
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    snprintf(addr.sun_path, sizeof addr.sun_path, "%s/api.sock", run_dir);
    AUTO(fd_close) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    unlink(addr.sun_path); /* the lock says that nobody else serves it */
    if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof addr) < 0 ||
        chmod(addr.sun_path, 0600) < 0 || listen(fd, 128) < 0)
        return err_errno(err, errno, "cannot listen on %s", addr.sun_path);
    *out = TAKE_FD(fd);
    return 0;
}

/* ---- the API for other hosts ---- */

enum { PEM_MAX = 1 << 20 };

/* "127.0.0.1:8443", "[::1]:8443". */
static int listen_address(const char *text, int *out, struct err *err)
{
    char host[64] = "";
    const char *colon = strrchr(text, ':'), *end = colon;
    uint64_t port;
    if (colon && text[0] == '[' && colon[-1] == ']') {
        text++;
        end--;
    }
    if (!colon || end - text >= (long)sizeof host ||
        number_parse(colon + 1, 1, 65535, &port, NULL) < 0)
        return err_set(err, EINVAL, "--listen needs ADDRESS:PORT, like 127.0.0.1:8443");
    memcpy(host, text, (size_t)(end - text));
    struct addrinfo *found;
    const struct addrinfo hints = { .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV,
                                    .ai_socktype = SOCK_STREAM };
    int r = getaddrinfo(host, colon + 1, &hints, &found);
    if (r)
        return err_set(err, EINVAL, "--listen %s: %s", host, gai_strerror(r));
    AUTO(fd_close) int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, 128) < 0)
        r = err_errno(err, errno, "cannot listen on %s port %s", host, colon + 1);
    freeaddrinfo(found);
    *out = r == 0 ? TAKE_FD(fd) : -1;
    return r;
}

/* *fd: taken. */
static int serve_remote(struct daemon *daemon, int take_fd, struct http **out, struct err *err)
{
    AUTO(fd_close) int fd = take_fd;
    AUTO(buf_fini) struct buf certificate = { 0 };
    AUTO(buf_fini) struct buf key = { 0 };
    AUTO(buf_fini) struct buf ca = { 0 };
    AUTO(buf_fini) struct buf crl = { 0 };
    int r = file_read(remote.certificate, PEM_MAX, &certificate, err);
    if (r == 0)
        r = file_read(remote.key, PEM_MAX, &key, err);
    if (r == 0 && remote.ca)
        r = file_read(remote.ca, PEM_MAX, &ca, err);
    if (r == 0 && remote.crl)
        r = file_read(remote.crl, PEM_MAX, &crl, err);
    if (r < 0)
        return r;
    const struct http_tls tls = { (const char *)certificate.data, (const char *)key.data,
                                  remote.ca ? (const char *)ca.data : NULL,
                                  remote.crl ? (const char *)crl.data : NULL };
    r = http_create(daemon->loop, TAKE_FD(fd), &tls, router_request, audit_request, daemon, out,
                    err);
    explicit_bzero(key.data, key.len);
    return r;
}

/* Those who are connected go on as they are; those of two reloads ago are cut off. */
void listen_reload(struct daemon *daemon)
{
    struct http *made;
    struct err err;
    if (!daemon->remote)
        return;
    int fd = fcntl(remote_fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0 || serve_remote(daemon, fd, &made, &err) < 0) {
        log_error("the former certificate stays in use: %s", fd < 0 ? strerror(errno) : err.text);
        return;
    }
    if (former)
        streams_close(former);
    http_destroy(former);
    former = daemon->remote;
    http_quiesce(former);
    daemon->remote = made;
    log_info("the TLS certificate was read anew");
}

/* ---- start and end ---- */

int listen_start(struct daemon *daemon, const struct remote *options, struct err *err)
{
    int fd;
    remote = *options;
    if (remote.listen && (!remote.certificate || !remote.key))
        return err_set(
            err, EINVAL,
            "--listen needs --tls-cert and --tls-key: the API is not served in the clear");
    if (remote.crl && !remote.ca)
        return err_set(err, EINVAL, "--tls-crl is for the clients of --tls-ca");
    int r = listen_api(daemon->run_dir, &fd, err);
    if (r == 0)
        r = http_create(daemon->loop, fd, NULL, router_request, audit_request, daemon,
                        &daemon->http, err);
    if (r < 0 || !remote.listen)
        return r;
    r = listen_address(remote.listen, &remote_fd, err);
    fd = r == 0 ? fcntl(remote_fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (r == 0 && fd < 0)
        r = err_errno(err, errno, "cannot copy a socket");
    return r == 0 ? serve_remote(daemon, fd, &daemon->remote, err) : r;
}

void listen_stop(struct daemon *daemon)
{
    streams_close(NULL);
    http_destroy(daemon->http);
    http_destroy(daemon->remote);
    http_destroy(former);
    fd_close(remote_fd);
}

void ready_tell(void)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    const char *path = getenv("NOTIFY_SOCKET");
    if (!path || (*path != '/' && *path != '@') || strlen(path) >= sizeof addr.sun_path)
        return;
    memcpy(addr.sun_path, path, strlen(path));
    if (*path == '@')
        addr.sun_path[0] = 0; /* an abstract one */
    AUTO(fd_close) int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (fd < 0 || sendto(fd, "READY=1", 7, MSG_NOSIGNAL, (struct sockaddr *)&addr, len) < 0)
        log_warning("systemd could not be told that the daemon is ready: %s", strerror(errno));
    unsetenv("NOTIFY_SOCKET");
}
