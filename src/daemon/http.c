/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libmicrohttpd on our loop: its epoll descriptor is one more watch, its time-outs one timer. A
 * request that cannot be answered at once has its connection suspended.
 */
#include "daemon/http.h"

#include "base/log.h"
#include "base/text.h"

#include <arpa/inet.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <microhttpd.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { CHAIN_MAX = 8 };

struct http {
    struct loop *loop;
    struct MHD_Daemon *mhd;
    struct loop_watch *watch;
    struct loop_timer *timer;
    http_handler handler;
    void (*replied)(void *arg, const struct http_request *request, unsigned status);
    void *arg;
    bool tls;
    gnutls_x509_trust_list_t clients; /* whose certificates are believed; NULL: nobody's */
    time_t crl_until;                 /* what is known of revoked ones is good till then; 0: ever */
    struct http_request *requests;    /* all that live */
    bool running;                     /* inside MHD_run */
    unsigned turns; /* of MHD_run since its descriptor had something, that want the next at once */
    bool closing;
};

struct http_stream {
    struct http *http;
    struct MHD_UpgradeResponseHandle *mhd;
    int fd;
    void (*upgraded)(void *arg, struct http_stream *stream, int fd, const void *early, size_t len);
    void *arg;
};

struct http_request {
    struct http *http;
    struct MHD_Connection *connection;
    struct http_request *next, **prev;
    char *method, *path;
    struct buf body;
    struct buf headers; /* "name\0value\0" of the answer */
    struct MHD_Response *response;
    unsigned status;
    bool dispatched, suspended, too_large;
    struct http_identity identity;
    struct http_stream *stream; /* asked for, and not there yet */
};

/* ---- running MHD ---- */

static bool answering(const struct http *http)
{
    for (const struct http_request *r = http->requests; r; r = r->next)
        if (!r->suspended)
            return true;
    return false;
}

/*
 * How long until the next turn. As long as a TLS handshake is half done MHD (0.9.75) wants one at
 * once, since it does not note there that nothing more can be read: anybody could keep it busy with
 * a few bytes. What comes in shows on its descriptor; so a number of turns without anything there
 * is as many as other work wants, and after those an answer that is being written goes on each
 * millisecond at the latest.
 */
static uint64_t next_turn_ms(struct http *http, uint64_t wanted_ms)
{
    bool writes = answering(http);
    if (wanted_ms)
        http->turns = 0;
    else if (++http->turns > (writes ? 64 : 8))
        return writes ? 1 : 50;
    return wanted_ms;
}

static void http_run(struct http *http)
{
    MHD_UNSIGNED_LONG_LONG ms;
    if (http->running || http->closing)
        return;
    http->running = true;
    MHD_run(http->mhd);
    http->running = false;
    if (MHD_get_timeout(http->mhd, &ms) == MHD_YES)
        loop_timer_arm(http->timer, monotonic_ns() + next_turn_ms(http, ms) * 1000000ull);
    else
        loop_timer_disarm(http->timer);
}

static void http_ready(void *arg, unsigned events)
{
    struct http *http = arg;
    http->turns = 0;
    http_run(http);
}

static void http_timeout(void *arg) { http_run(arg); }

/* ---- requests ---- */

static void request_free(struct http_request *r)
{
    *r->prev = r->next;
    if (r->next)
        r->next->prev = r->prev;
    if (r->response)
        MHD_destroy_response(r->response);
    if (r->stream) {
        r->stream->upgraded(r->stream->arg, NULL, -1, NULL, 0);
        free(r->stream);
    }
    buf_fini(&r->body);
    buf_fini(&r->headers);
    free(r->method);
    free(r->path);
    free(r);
}

static struct http_request *request_new(struct http *http, struct MHD_Connection *connection,
                                        const char *url, const char *method)
{
    struct http_request *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->http = http;
    r->connection = connection;
    r->method = strdup(method);
    r->path = strdup(url);
    if (!r->method || !r->path) {
        free(r->method);
        free(r->path);
        free(r);
        return NULL;
    }
    r->prev = &http->requests;
    r->next = http->requests;
    if (r->next)
        r->next->prev = &r->next;
    http->requests = r;
    return r;
}

static enum MHD_Result send_response(struct http_request *r)
{
    enum MHD_Result result = MHD_queue_response(r->connection, r->status, r->response);
    MHD_destroy_response(r->response);
    r->response = NULL;
    return result;
}

static void via_fill(struct http_request *r)
{
    char address[64] = "?";
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *peer = info ? info->client_addr : NULL;
    if (peer && peer->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)peer)->sin_addr, address, sizeof address);
    else if (peer && peer->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)peer)->sin6_addr, address,
                  sizeof address);
    snprintf(r->identity.via, sizeof r->identity.via, r->http->tls ? "tls %s" : "unix", address);
}

static void dispatch(struct http_request *r)
{
    static const char too_large[] =
        "{\"error\": {\"code\": \"too-large\", \"message\": \"the body is larger than 1 MiB\"}}\n";
    r->dispatched = true;
    if (r->too_large)
        http_reply(r, 413, "application/json", too_large, strlen(too_large));
    else
        r->http->handler(r->http->arg, r);
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *len, void **context)
{
    struct http_request *r = *context;
    if (!r) {
        *context = request_new(arg, connection, url, method);
        return *context ? MHD_YES : MHD_NO;
    }
    if (*len) {
        r->too_large |= r->body.len + *len > HTTP_BODY_MAX;
        if (!r->too_large)
            buf_add(&r->body, data, *len);
        *len = 0;
        return MHD_YES;
    }
    if (!r->dispatched) {
        via_fill(r);
        dispatch(r);
    }
    if (r->response)
        return send_response(r);
    r->suspended = true;
    MHD_suspend_connection(connection);
    return MHD_YES;
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **context,
                         enum MHD_RequestTerminationCode code)
{
    if (*context)
        request_free(*context);
    *context = NULL;
}

const char *http_method(const struct http_request *request) { return request->method; }
const char *http_path(const struct http_request *request) { return request->path; }

const char *http_query(const struct http_request *request, const char *name)
{
    return MHD_lookup_connection_value(request->connection, MHD_GET_ARGUMENT_KIND, name);
}

const char *http_header(const struct http_request *request, const char *name)
{
    return MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, name);
}

struct each {
    bool (*fn)(void *arg, const char *name, const char *value);
    void *arg;
};

static enum MHD_Result each_value(void *arg, enum MHD_ValueKind kind, const char *name,
                                  const char *value)
{
    struct each *each = arg;
    return each->fn(each->arg, name, value ? value : "") ? MHD_YES : MHD_NO;
}

void http_query_each(const struct http_request *request,
                     bool (*fn)(void *arg, const char *name, const char *value), void *arg)
{
    struct each each = { fn, arg };
    MHD_get_connection_values(request->connection, MHD_GET_ARGUMENT_KIND, each_value, &each);
}

const char *http_body(const struct http_request *request, size_t *len)
{
    *len = request->body.len;
    return (const char *)request->body.data;
}

struct http_identity *http_identity(struct http_request *request) { return &request->identity; }
const struct http_identity *http_identity_of(const struct http_request *request)
{
    return &request->identity;
}

/* libmicrohttpd asks for the certificate and leaves the judgement to us. */
static bool chain_believed(const struct http *http, gnutls_x509_crt_t *chain, unsigned count)
{
    unsigned status = ~0u;
    if (http->crl_until && time(NULL) > http->crl_until)
        return false; /* who was revoked since is not known */
    return gnutls_x509_trust_list_verify_crt(http->clients, chain, count, 0, &status, NULL) == 0 &&
           status == 0;
}

bool http_certificate(const struct http_request *request, char *out, size_t len)
{
    unsigned count = 0, known = 0;
    gnutls_x509_crt_t chain[CHAIN_MAX];
    const union MHD_ConnectionInfo *info =
        request->http->clients
            ? MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_GNUTLS_SESSION)
            : NULL;
    if (!info)
        return false;
    const gnutls_datum_t *peers = gnutls_certificate_get_peers(info->tls_session, &count);
    while (peers && known < count && known < CHAIN_MAX &&
           gnutls_x509_crt_init(&chain[known]) == 0) {
        known++;
        if (gnutls_x509_crt_import(chain[known - 1], &peers[known - 1], GNUTLS_X509_FMT_DER) < 0)
            break;
    }
    bool found =
        known && known == count && chain_believed(request->http, chain, count) &&
        gnutls_x509_crt_get_dn_by_oid(chain[0], GNUTLS_OID_X520_COMMON_NAME, 0, 0, out, &len) == 0;
    while (known)
        gnutls_x509_crt_deinit(chain[--known]);
    return found;
}

int http_peer(const struct http_request *request, uid_t *uid, pid_t *pid)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (!info || getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ||
        peer.pid == 0)
        return -1;
    *uid = peer.uid;
    *pid = peer.pid;
    return 0;
}

/* ---- answers ---- */

void http_reply_header(struct http_request *request, const char *name, const char *value)
{
    buf_add(&request->headers, name, strlen(name) + 1);
    buf_add(&request->headers, value, strlen(value) + 1);
}

static void add_headers(struct http_request *r)
{
    for (size_t at = 0; at < r->headers.len;) {
        const char *name = (const char *)r->headers.data + at;
        const char *value = name + strlen(name) + 1;
        MHD_add_response_header(r->response, name, value);
        at += strlen(name) + strlen(value) + 2;
    }
}

void http_reply(struct http_request *request, unsigned status, const char *type, const void *body,
                size_t len)
{
    request->response = MHD_create_response_from_buffer(len, (void *)body, MHD_RESPMEM_MUST_COPY);
    if (!request->response)
        abort();
    request->status = status;
    if (request->http->replied)
        request->http->replied(request->http->arg, request, status);
    if (len)
        MHD_add_response_header(request->response, "Content-Type", type);
    MHD_add_response_header(request->response, "Cache-Control", "no-store");
    MHD_add_response_header(request->response, "X-Content-Type-Options", "nosniff");
    add_headers(request);
    if (!request->suspended)
        return;
    request->suspended = false;
    MHD_resume_connection(request->connection);
    http_run(request->http);
}

void http_reply_json(struct http_request *request, unsigned status, json_t *take_json)
{
    AUTO(json_decref) json_t *json = take_json;
    AUTO(free) char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    if (json && !text)
        abort(); /* out of memory: all texts in it are UTF-8 */
    AUTO(buf_fini) struct buf body = { 0 };
    if (text)
        buf_printf(&body, "%s\n", text);
    http_reply(request, status, "application/json", body.data, body.len);
}

/* ---- WebSockets ---- */

static void on_upgrade(void *arg, struct MHD_Connection *connection, void *context,
                       const char *early, size_t len, MHD_socket fd,
                       struct MHD_UpgradeResponseHandle *handle)
{
    struct http_stream *stream = arg;
    ((struct http_request *)context)->stream = NULL;
    stream->mhd = handle;
    stream->fd = fd;
    stream->upgraded(stream->arg, stream, fd, early, len);
}

void http_upgrade(struct http_request *request,
                  void (*upgraded)(void *arg, struct http_stream *stream, int fd, const void *early,
                                   size_t len),
                  void *arg)
{
    struct http_stream *stream = malloc(sizeof *stream);
    if (!stream)
        abort();
    *stream = (struct http_stream){ request->http, NULL, -1, upgraded, arg };
    request->response = MHD_create_response_for_upgrade(on_upgrade, stream);
    if (!request->response)
        abort();
    request->status = MHD_HTTP_SWITCHING_PROTOCOLS;
    request->stream = stream;
    add_headers(request);
}

static void run_posted(void *arg)
{
    http_run(arg); /* takes it out of those that are upgraded */
    http_run(arg); /* and closes it */
}

void http_stream_close(struct http_stream *stream)
{
    shutdown(stream->fd, SHUT_RDWR); /* libmicrohttpd closes it in its own time */
    MHD_upgrade_action(stream->mhd, MHD_UPGRADE_ACTION_CLOSE);
    loop_post(stream->http->loop, run_posted, stream->http); /* to clean up behind it */
    free(stream);
}

const struct http *http_of(const struct http_stream *stream) { return stream->http; }

/* ---- life ---- */

static int crl_set(struct http *http, const char *text, struct err *err)
{
    const gnutls_datum_t pem = { (uint8_t *)text, (unsigned)strlen(text) };
    gnutls_x509_crl_t *lists = NULL;
    unsigned count = 0;
    if (gnutls_x509_crl_list_import2(&lists, &count, &pem, GNUTLS_X509_FMT_PEM, 0) < 0 || !count)
        return err_set(err, EINVAL, "--tls-crl: there is no list of revoked certificates in it");
    for (unsigned i = 0; i < count; i++) {
        time_t until = gnutls_x509_crl_get_next_update(lists[i]);
        if (until != (time_t)-1 && (!http->crl_until || until < http->crl_until))
            http->crl_until = until;
    }
    int added = gnutls_x509_trust_list_add_crls(http->clients, lists, count, 0, 0);
    gnutls_free(lists); /* they are the trust list's */
    return added == (int)count ? 0
                               : err_set(err, EINVAL, "--tls-crl: a list is of no CA in --tls-ca");
}

static int clients_set(struct http *http, const struct http_tls *tls, struct err *err)
{
    const gnutls_datum_t ca = { (uint8_t *)tls->ca, (unsigned)strlen(tls->ca) };
    if (gnutls_x509_trust_list_init(&http->clients, 0) < 0)
        abort(); /* out of memory */
    if (gnutls_x509_trust_list_add_trust_mem(http->clients, &ca, NULL, GNUTLS_X509_FMT_PEM, 0, 0) <
        1)
        return err_set(err, EINVAL, "--tls-ca: there is no certificate in it");
    return tls->crl ? crl_set(http, tls->crl, err) : 0;
}

void http_quiesce(struct http *http) { fd_close(MHD_quiesce_daemon(http->mhd)); }

int http_create(struct loop *loop, int take_fd, const struct http_tls *tls, http_handler handler,
                void (*replied)(void *arg, const struct http_request *request, unsigned status),
                void *arg, struct http **out, struct err *err)
{
    struct http *made = calloc(1, sizeof *made);
    if (!made) {
        fd_close(take_fd);
        return err_set(err, ENOMEM, "out of memory");
    }
    AUTO(http_destroy) struct http *http = made;
    http->loop = loop;
    http->handler = handler;
    http->replied = replied;
    http->tls = tls;
    http->arg = arg;
    if (tls && tls->ca && clients_set(http, tls, err) < 0) {
        fd_close(take_fd);
        return -err->code;
    }
    const struct MHD_OptionItem plain[] = { { MHD_OPTION_END, 0, NULL } };
    const struct MHD_OptionItem secure[] = {
        { MHD_OPTION_HTTPS_MEM_CERT, 0, tls ? (void *)tls->certificate : NULL },
        { MHD_OPTION_HTTPS_MEM_KEY, 0, tls ? (void *)tls->key : NULL },
        { MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)"SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2" },
        { tls && tls->ca ? MHD_OPTION_HTTPS_MEM_TRUST : MHD_OPTION_END, 0,
          tls ? (void *)tls->ca : NULL },
        { MHD_OPTION_END, 0, NULL },
    };
    http->mhd = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE | (tls ? MHD_USE_TLS : 0), 0,
        NULL, NULL, on_request, http, MHD_OPTION_LISTEN_SOCKET, take_fd,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)HTTP_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)HTTP_IDLE_S,
        MHD_OPTION_ARRAY, tls ? secure : plain, MHD_OPTION_END);
    if (!http->mhd) {
        fd_close(take_fd);
        return err_set(err, EIO,
                       tls ? "the TLS server does not start: is the key the certificate's?"
                           : "libmicrohttpd does not start");
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    int r = loop_timer_create(loop, http_timeout, http, &http->timer, err);
    if (r == 0)
        r = loop_watch_create(loop, info->epoll_fd, LOOP_READ, http_ready, http, &http->watch, err);
    if (r < 0)
        return r;
    *out = TAKE(http);
    return 0;
}

void http_destroy(struct http *http)
{
    if (!http)
        return;
    http->closing = true;
    if (http->watch)
        loop_watch_destroy(http->watch);
    if (http->timer)
        loop_timer_destroy(http->timer);
    for (struct http_request *r = http->requests; r; r = r->next)
        if (r->suspended)
            MHD_resume_connection(r->connection);
    if (http->mhd)
        MHD_stop_daemon(http->mhd);
    if (http->clients)
        gnutls_x509_trust_list_deinit(http->clients, 1);
    free(http);
}
