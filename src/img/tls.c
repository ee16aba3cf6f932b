/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TLS 1.2 and later for clients (tls.h). All files are read at the start, before the process locks
 * itself down.
 */
#include "img/tls.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/text.h"

#include <gnutls/gnutls.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TLS_PRIORITY "NORMAL:-VERS-TLS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"
enum { HANDSHAKE_MS = 20000, PSK_FILE_MAX = 1 << 20 };

struct tls {
    gnutls_certificate_credentials_t certificates; /* NULL: keys */
    gnutls_psk_server_credentials_t keys;
    struct buf key_file;
    bool clients_show;
};

struct tls_io {
    struct nbd_io io;
    gnutls_session_t session;
};

static int tls_error(int code, const char *what, struct err *err)
{
    return err_set(err, EINVAL, "%s: %s", what, gnutls_strerror(code));
}

static int load_certificates(struct tls *tls, const char *folder, struct err *err)
{
    char cert[512], key[512], ca[512];
    snprintf(cert, sizeof cert, "%s/server-cert.pem", folder);
    snprintf(key, sizeof key, "%s/server-key.pem", folder);
    snprintf(ca, sizeof ca, "%s/ca-cert.pem", folder);
    int r = gnutls_certificate_allocate_credentials(&tls->certificates);
    if (r < 0)
        return tls_error(r, "TLS", err);
    r = gnutls_certificate_set_x509_key_file(tls->certificates, cert, key, GNUTLS_X509_FMT_PEM);
    if (r < 0)
        return tls_error(r, cert, err);
    if (access(ca, F_OK) < 0)
        return 0;
    r = gnutls_certificate_set_x509_trust_file(tls->certificates, ca, GNUTLS_X509_FMT_PEM);
    tls->clients_show = true;
    return r < 0 ? tls_error(r, ca, err) : 0;
}

/* GnuTLS would open the file for each client. */
static int find_key(gnutls_session_t session, const char *user, gnutls_datum_t *key)
{
    const struct tls *tls = gnutls_session_get_ptr(session);
    const char *line = (const char *)tls->key_file.data, *end = line + tls->key_file.len;
    size_t len = strlen(user);
    while (line < end) {
        size_t rest = strcspn(line, "\n");
        if (rest > len && !memcmp(line, user, len) && line[len] == ':') {
            gnutls_datum_t hex = { (unsigned char *)(uintptr_t)(line + len + 1),
                                   (unsigned)(rest - len - 1) };
            return gnutls_hex_decode2(&hex, key) < 0 ? -1 : 0;
        }
        line += rest + 1;
    }
    return -1;
}

static int load_keys(struct tls *tls, const char *path, struct err *err)
{
    int r = file_read(path, PSK_FILE_MAX, &tls->key_file, err);
    if (r < 0)
        return r;
    buf_grow(&tls->key_file, 1); /* the end of the last line */
    if (gnutls_psk_allocate_server_credentials(&tls->keys) < 0)
        return err_set(err, ENOMEM, "out of memory");
    gnutls_psk_set_server_credentials_function(tls->keys, find_key);
    return 0;
}

int tls_create(const char *certificates, const char *psk, struct tls **out, struct err *err)
{
    AUTO(free) struct tls *tls = calloc(1, sizeof *tls);
    if (!tls)
        return err_set(err, ENOMEM, "out of memory");
    int r = certificates ? load_certificates(tls, certificates, err) : load_keys(tls, psk, err);
    if (r < 0)
        return r;
    *out = TAKE(tls);
    return 0;
}

/* ---- a client ---- */

static struct tls_io *tls_of(struct nbd_io *io) { return CONTAINER_OF(io, struct tls_io, io); }

static ssize_t tls_read(struct nbd_io *io, void *data, size_t len)
{
    ssize_t n;
    do
        n = gnutls_record_recv(tls_of(io)->session, data, len);
    while (n == GNUTLS_E_INTERRUPTED || n == GNUTLS_E_AGAIN);
    return n < 0 ? -EIO : n;
}

static int tls_send(gnutls_session_t session, const char *data, size_t len)
{
    while (len) {
        ssize_t n = gnutls_record_send(session, data, len);
        if (n == GNUTLS_E_INTERRUPTED || n == GNUTLS_E_AGAIN)
            continue;
        if (n < 0)
            return -EIO;
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

static int tls_write(struct nbd_io *io, struct iovec *iov, unsigned count)
{
    gnutls_session_t session = tls_of(io)->session;
    int r = 0;
    gnutls_record_cork(session);
    for (unsigned i = 0; r == 0 && i < count; i++)
        r = tls_send(session, iov[i].iov_base, iov[i].iov_len);
    int sent = gnutls_record_uncork(session, GNUTLS_RECORD_WAIT);
    return r < 0 || sent < 0 ? -EIO : 0;
}

static void tls_close(struct nbd_io *io)
{
    gnutls_bye(tls_of(io)->session, GNUTLS_SHUT_WR);
    gnutls_deinit(tls_of(io)->session);
    free(tls_of(io));
}

static int session_set_up(const struct tls *tls, gnutls_session_t session, int fd)
{
    int r = gnutls_priority_set_direct(
        session, tls->keys ? TLS_PRIORITY ":+ECDHE-PSK:+DHE-PSK:+PSK" : TLS_PRIORITY, NULL);
    if (r == 0)
        r = tls->keys ? gnutls_credentials_set(session, GNUTLS_CRD_PSK, tls->keys)
                      : gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, tls->certificates);
    if (tls->clients_show) {
        gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE);
        gnutls_session_set_verify_cert(session, NULL, 0);
    }
    gnutls_session_set_ptr(session, (void *)(uintptr_t)tls);
    gnutls_transport_set_int(session, fd);
    gnutls_handshake_set_timeout(session, HANDSHAKE_MS);
    while (r == 0 && (r = gnutls_handshake(session)) < 0 && !gnutls_error_is_fatal(r))
        r = 0;
    return r;
}

int tls_start(void *arg, int fd, struct nbd_io **out)
{
    struct tls_io *io = calloc(1, sizeof *io);
    if (!io)
        return -ENOMEM;
    io->io = (struct nbd_io){ tls_read, tls_write, tls_close };
    if (gnutls_init(&io->session, GNUTLS_SERVER) < 0) {
        free(io);
        return -ENOMEM;
    }
    int r = session_set_up(arg, io->session, fd);
    if (r < 0) {
        log_guest("NBD: a client gets no TLS session: %s", gnutls_strerror(r));
        gnutls_deinit(io->session);
        free(io);
        return -EACCES;
    }
    *out = &io->io;
    return 0;
}
