/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * VeNCrypt version 0.2 with X.509 certificates of the server: X509None, or X509Vnc where a password
 * is set (the VNC challenge then goes through TLS).
 *
 *   viewer                thread                                  libvncserver
 *   version, type 19  <-> here
 *   VeNCrypt 0.2, sub-type <-> here, then TLS
 *                         version, type 1 or 2              <->   as to any viewer
 *   from then on everything goes through as it is
 */
#include "display/vnc_tls.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { SECURITY_NONE = 1, SECURITY_VNC = 2, SECURITY_VENCRYPT = 19 };
enum { X509_NONE = 260, X509_VNC = 261 };
enum { MAX_CONNECTIONS = 32, HANDSHAKE_S = 20, CHUNK = 16384 };

struct vnc_tls {
    SSL_CTX *context;
    bool password;
    atomic_uint connections;
};

struct connection {
    struct vnc_tls *tls;
    int outer, inner; /* owned */
    SSL *ssl;         /* owned; NULL before it is negotiated */
};

/* ---- both handshakes, on blocking sockets with a time limit ---- */

static bool say(int fd, const void *data, size_t len) { return write_full(fd, data, len) == 0; }
static bool hear(int fd, void *data, size_t len) { return read_full(fd, data, len) == 0; }

static bool negotiate_viewer(struct connection *c)
{
    uint8_t version[12], byte, two[2], four[4];
    static const uint8_t types[2] = { 1, SECURITY_VENCRYPT }, vencrypt[2] = { 0, 2 };
    unsigned sub = c->tls->password ? X509_VNC : X509_NONE;
    uint8_t subs[5] = { 1, 0, 0, (uint8_t)(sub >> 8), (uint8_t)sub };

    if (!say(c->outer, "RFB 003.008\n", 12) || !hear(c->outer, version, 12) ||
        memcmp(version, "RFB 003.008\n", 12) != 0)
        return false;
    if (!say(c->outer, types, 2) || !hear(c->outer, &byte, 1) || byte != SECURITY_VENCRYPT)
        return false;
    if (!say(c->outer, vencrypt, 2) || !hear(c->outer, two, 2))
        return false;
    byte = two[0] != 0 || two[1] != 2; /* 0: the version is fine */
    if (!say(c->outer, &byte, 1) || byte)
        return false;
    if (!say(c->outer, subs, sizeof subs) || !hear(c->outer, four, 4))
        return false;
    byte = memcmp(four, subs + 1, 4) == 0; /* 1: go on with TLS */
    return say(c->outer, &byte, 1) && byte;
}

static bool negotiate_tls(struct connection *c)
{
    c->ssl = SSL_new(c->tls->context);
    return c->ssl && SSL_set_fd(c->ssl, c->outer) == 1 && SSL_accept(c->ssl) == 1;
}

/* Towards libvncserver this is a viewer that chooses what was agreed. */
static bool negotiate_inner(struct connection *c)
{
    uint8_t version[12], count, types[255];
    uint8_t want = c->tls->password ? SECURITY_VNC : SECURITY_NONE;

    if (!hear(c->inner, version, 12) || !say(c->inner, "RFB 003.008\n", 12) ||
        !hear(c->inner, &count, 1) || !count || !hear(c->inner, types, count) ||
        !memchr(types, want, count))
        return false;
    return say(c->inner, &want, 1);
}

static void set_timeout(int fd, unsigned seconds)
{
    struct timeval limit = { .tv_sec = seconds };
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

/* ---- passing on ---- */

/* One direction's bytes that wait to be written. */
struct chunk {
    uint8_t data[CHUNK];
    size_t start, end;
};

/* Moves what can be moved now; false: the connection is over. */
static bool viewer_to_inner(struct connection *c, struct chunk *chunk)
{
    for (;;) {
        if (chunk->start == chunk->end) {
            int n = SSL_read(c->ssl, chunk->data, CHUNK);
            if (n <= 0) {
                int error = SSL_get_error(c->ssl, n);
                return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
            }
            chunk->start = 0;
            chunk->end = (size_t)n;
        }
        ssize_t n = send(c->inner, chunk->data + chunk->start, chunk->end - chunk->start,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN;
        chunk->start += (size_t)n;
    }
}

static bool inner_to_viewer(struct connection *c, struct chunk *chunk)
{
    for (;;) {
        if (chunk->start == chunk->end) {
            ssize_t n = recv(c->inner, chunk->data, CHUNK, MSG_DONTWAIT);
            if (n <= 0)
                return n < 0 && errno == EAGAIN;
            chunk->start = 0;
            chunk->end = (size_t)n;
        }
        int n = SSL_write(c->ssl, chunk->data + chunk->start, (int)(chunk->end - chunk->start));
        if (n <= 0) {
            int error = SSL_get_error(c->ssl, n);
            return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
        }
        chunk->start += (size_t)n;
    }
}

static void pass_on(struct connection *c, struct chunk chunks[2])
{
    fcntl(c->outer, F_SETFL, O_NONBLOCK);
    for (;;) {
        if (!viewer_to_inner(c, &chunks[0]) || !inner_to_viewer(c, &chunks[1]))
            return;
        bool in_waits = chunks[0].start != chunks[0].end;
        bool out_waits = chunks[1].start != chunks[1].end;
        struct pollfd polls[2] = {
            { .fd = c->outer,
              .events = (short)((in_waits ? 0 : POLLIN) | (out_waits ? POLLOUT : 0)) },
            { .fd = c->inner,
              .events = (short)((out_waits ? 0 : POLLIN) | (in_waits ? POLLOUT : 0)) },
        };
        if (poll(polls, 2, -1) < 0 && errno != EINTR)
            return;
        /* A peer that is gone shows as HUP even when nothing is asked of it. */
        if ((polls[0].revents & (POLLERR | POLLHUP)) || (polls[1].revents & POLLERR))
            return;
        if ((polls[1].revents & (POLLHUP | POLLIN)) == POLLHUP)
            return;
    }
}

static void *connection_thread(void *arg)
{
    struct connection *c = arg;
    struct chunk *chunks = calloc(2, sizeof *chunks);

    set_timeout(c->outer, HANDSHAKE_S);
    set_timeout(c->inner, HANDSHAKE_S);
    if (chunks && negotiate_viewer(c) && negotiate_tls(c) && negotiate_inner(c))
        pass_on(c, chunks);
    ERR_clear_error();
    if (c->ssl)
        SSL_free(c->ssl);
    close(c->outer);
    close(c->inner);
    free(chunks);
    atomic_fetch_sub(&c->tls->connections, 1);
    free(c);
    return NULL;
}

int vnc_tls_accept(struct vnc_tls *tls, int take_fd, int *inner, struct err *err)
{
    int pair[2];
    pthread_t thread;
    AUTO(fd_close) int outer = take_fd;
    if (atomic_load(&tls->connections) >= MAX_CONNECTIONS)
        return err_set(err, EMFILE, "%d viewers are connected", MAX_CONNECTIONS);
    struct connection *c = calloc(1, sizeof *c);
    if (!c || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        free(c);
        return err_set(err, ENOMEM, "out of memory");
    }
    *c = (struct connection){ .tls = tls, .outer = TAKE_FD(outer), .inner = pair[0] };
    atomic_fetch_add(&tls->connections, 1);
    int r = pthread_create(&thread, NULL, connection_thread, c);
    if (r) {
        atomic_fetch_sub(&tls->connections, 1);
        close(c->outer);
        close(pair[0]);
        close(pair[1]);
        free(c);
        return err_errno(err, r, "cannot start a thread");
    }
    pthread_detach(thread);
    *inner = pair[1];
    return 0;
}

/* ---- start ---- */

static int tls_error(struct err *err, const char *what, const char *path)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    return err_set(err, EINVAL, "%s: %s: %s", what, path, reason ? reason : "OpenSSL refuses it");
}

int vnc_tls_create(const char *cert, const char *key, const char *ca, bool password,
                   struct vnc_tls **out, struct err *err)
{
    struct vnc_tls *tls = calloc(1, sizeof *tls);
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    if (!tls || !context)
        return err_set(err, ENOMEM, "out of memory");
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* TigerVNC 1.12 waits for ever if TLS 1.3's session tickets come in one packet with what
     * follows them: GnuTLS wants to be called again after a ticket, and the viewer goes to
     * select(). */
    SSL_CTX_set_num_tickets(context, 0);
    if (SSL_CTX_use_certificate_chain_file(context, cert) != 1)
        return tls_error(err, "the certificate", cert);
    if (SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(context) != 1)
        return tls_error(err, "the key", key);
    if (ca) {
        if (SSL_CTX_load_verify_locations(context, ca, NULL) != 1)
            return tls_error(err, "the certificate authority", ca);
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    }
    tls->context = context;
    tls->password = password;
    *out = tls;
    return 0;
}
