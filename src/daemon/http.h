/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * HTTP/1.1 by libmicrohttpd on the daemon's loop: whole requests come in, answers go out, now or
 * later.
 *
 * Bodies are at most HTTP_BODY_MAX bytes. Loop only.
 */
#ifndef DAEMON_HTTP_H
#define DAEMON_HTTP_H

#include "base/cleanup.h"
#include "base/err.h"
#include "base/json.h"
#include "base/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { HTTP_BODY_MAX = 1 << 20, HTTP_CONNECTIONS_MAX = 1000, HTTP_IDLE_S = 120 };

struct http;
struct http_request;

/* Answers by http_reply_*, now or later, exactly once. */
typedef void (*http_handler)(void *arg, struct http_request *request);

/* PEM texts, borrowed. ca: whose client certificates are asked for and believed; NULL: none. crl:
 * which of them no more; NULL: none is known. */
struct http_tls {
    const char *certificate, *key, *ca, *crl;
};

/* Serves who connects to this listening socket; takes it. tls NULL: in the clear, for unix sockets.
 * replied: each answer's status, when it is given; may be NULL. */
int http_create(struct loop *loop, int take_fd, const struct http_tls *tls, http_handler handler,
                void (*replied)(void *arg, const struct http_request *request, unsigned status),
                void *arg, struct http **out, struct err *err);
/* Takes no more connections, and serves those that there are. */
void http_quiesce(struct http *http);
/* Requests that were not answered are cut off. */
void http_destroy(struct http *http);
DEFINE_AUTO(struct http *, http_destroy)

/* ---- a request; valid until it is answered ---- */

const char *http_method(const struct http_request *request);
const char *http_path(const struct http_request *request); /* decoded, without the query */
/* NULL: not given. */
const char *http_query(const struct http_request *request, const char *name);
const char *http_header(const struct http_request *request, const char *name);
/* Calls fn for each ?name=value; stops when it returns false. */
void http_query_each(const struct http_request *request,
                     bool (*fn)(void *arg, const char *name, const char *value), void *arg);
const char *http_body(const struct http_request *request, size_t *len);
/* Who asks, as access.c found out; `via` (the way, and from where) is there from the start. */
struct http_identity {
    char user[64]; /* "": nobody knows */
    int role;      /* enum api_role */
    bool limited;  /* by a token, to less than the user may */
    char vm[40];   /* id of the only VM that may be touched; "": any */
    char via[80];
};
struct http_identity *http_identity(struct http_request *request);
const struct http_identity *http_identity_of(const struct http_request *request);
/* The common name of the client's certificate, when it has one that is valid. */
bool http_certificate(const struct http_request *request, char *out, size_t len);
/* Of a unix socket's peer; -1: not a unix socket. */
int http_peer(const struct http_request *request, uid_t *uid, pid_t *pid);

/* ---- WebSockets ---- */

struct http_stream;
/* Answers with 101, and gives the connection away when that is sent: fd belongs to the stream until
 * http_stream_close(). stream NULL: the client was gone first. early: what came behind the request;
 * valid during the call. All streams must be closed before http_destroy. */
void http_upgrade(struct http_request *request,
                  void (*upgraded)(void *arg, struct http_stream *stream, int fd, const void *early,
                                   size_t len),
                  void *arg);
void http_stream_close(struct http_stream *stream);
const struct http *http_of(const struct http_stream *stream);

/* ---- answers ---- */

/* Adds a header to the answer to come; text is copied. */
void http_reply_header(struct http_request *request, const char *name, const char *value);
void http_reply(struct http_request *request, unsigned status, const char *type, const void *body,
                size_t len);
void http_reply_json(struct http_request *request, unsigned status, json_t *take_json);

#endif
