/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Taking an NBD address apart (nbd_uri.h). */
#include "block/nbd_uri.h"

#include "base/checked.h"
#include "base/text.h"
#include "block/nbd_wire.h"

#include <ctype.h>
#include <string.h>

enum { DEFAULT_CONNECTIONS = 4, MAX_CONNECTIONS = 16, DEFAULT_TIMEOUT_S = 30 };
enum { DEFAULT_RECONNECT_S = 60, MAX_S = 86400 };

struct uri_parameter {
    const char *name;
    size_t text;   /* offset of a char *, or 0 */
    size_t number; /* offset of an unsigned, or 0 */
    uint64_t min, max;
};
#define TEXT(name, field)                              \
    {                                                  \
        name, offsetof(struct nbd_uri, field), 0, 0, 0 \
    }
#define NUMBER(name, field, min, max)                      \
    {                                                      \
        name, 0, offsetof(struct nbd_uri, field), min, max \
    }

static const struct uri_parameter parameters[] = {
    TEXT("socket", socket),
    TEXT("tls-certificates",
         certificates),        /* a directory: ca-cert.pem, client-cert.pem, -key.pem */
    TEXT("tls-psk-file", psk), /* lines USER:HEXKEY */
    NUMBER("connections", connections, 1, MAX_CONNECTIONS), /* at most, where the server allows */
    NUMBER("timeout", timeout_s, 1, MAX_S),     /* without an answer for so long it is lost */
    NUMBER("reconnect", reconnect_s, 0, MAX_S), /* so long requests wait for a lost server */
};

/* Text up to one of `stop` or the end, with %XX decoded. NULL with an error: it has a NUL or a bad
 * escape. */
static char *uri_part(const char **at, const char *stop, struct err *err)
{
    size_t len = strcspn(*at, stop), n = 0;
    char *out = malloc(len + 1);
    if (!out) {
        err_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    for (const char *p = *at, *end = p + len; p < end; p++) {
        char c = *p;
        if (c == '%') {
            char hex[3] = { 0 };
            if (end - p > 2 && isxdigit((unsigned char)p[1]) && isxdigit((unsigned char)p[2]))
                memcpy(hex, p + 1, 2);
            c = (char)strtoul(hex, NULL, 16);
            p += 2;
        }
        if (!c) {
            err_set(err, EINVAL, "'%%' in an NBD address is followed by two hexadecimal digits");
            free(out);
            return NULL;
        }
        out[n++] = c;
    }
    out[n] = 0;
    *at += len;
    return out;
}

static int uri_parameter(struct nbd_uri *uri, const char **at, struct err *err)
{
    AUTO(free) char *name = uri_part(at, "=&", err);
    if (!name)
        return -EINVAL;
    if (**at == '=')
        (*at)++;
    AUTO(free) char *value = uri_part(at, "&", err);
    if (!value)
        return -EINVAL;
    char known[200] = "";
    for (size_t i = 0; i < ARRAY_LEN(parameters); i++) {
        const struct uri_parameter *p = &parameters[i];
        size_t len = strlen(known);
        snprintf(known + len, sizeof known - len, "%s%s", i ? ", " : "", p->name);
        if (strcmp(p->name, name))
            continue;
        if (!*value)
            return err_set(err, EINVAL, "the NBD parameter %s needs a value", name);
        if (p->text) {
            char **field = (char **)((char *)uri + p->text);
            free(*field);
            *field = TAKE(value);
            return 0;
        }
        uint64_t number;
        int r = number_parse(value, p->min, p->max, &number, err);
        if (r < 0)
            return err_prefix(err, "the NBD parameter %s", name);
        *(unsigned *)((char *)uri + p->number) = (unsigned)number;
        return 0;
    }
    return err_set(err, EINVAL, "there is no NBD parameter '%.40s'; known are %s", name, known);
}

static int uri_host(struct nbd_uri *uri, const char **at, struct err *err)
{
    if (**at == '[') { /* an IPv6 address */
        (*at)++;
        uri->host = uri_part(at, "]/", err);
        if (uri->host && **at != ']')
            return err_set(err, EINVAL, "the IPv6 address in the NBD address lacks its ']'");
        (*at)++;
    } else {
        uri->host = uri_part(at, ":/?", err);
    }
    if (!uri->host)
        return -EINVAL;
    if (!*uri->host)
        return err_set(err, EINVAL, "the NBD address names no host; write nbd://HOST/EXPORT");
    char fallback[8];
    snprintf(fallback, sizeof fallback, "%d", NBD_DEFAULT_PORT);
    if (**at == ':') {
        (*at)++;
        uri->port = uri_part(at, "/?", err);
    } else {
        uri->port = strdup(fallback);
    }
    uint64_t port;
    if (!uri->port)
        return -EINVAL;
    int r = number_parse(uri->port, 1, 65535, &port, err);
    return r < 0 ? err_prefix(err, "the NBD address's port") : 0;
}

int nbd_uri_parse(const char *text, struct nbd_uri *out, struct err *err)
{
    *out = (struct nbd_uri){ .text = text,
                             .connections = DEFAULT_CONNECTIONS,
                             .timeout_s = DEFAULT_TIMEOUT_S,
                             .reconnect_s = DEFAULT_RECONNECT_S };
    const char *at = text;
    bool unix_socket = false;
    if (strncmp(at, "nbd", 3))
        return err_set(err, EINVAL, "is no NBD address; it begins with nbd:// or nbds://");
    at += 3;
    if (*at == 's') {
        out->tls = true;
        at++;
    }
    if (!strncmp(at, "+unix", 5)) {
        unix_socket = true;
        at += 5;
    }
    if (strncmp(at, "://", 3))
        return err_set(err, EINVAL,
                       "is no NBD address; there are nbd://, nbds://, nbd+unix:// and "
                       "nbds+unix://");
    at += 3;
    size_t user = strcspn(at, "@/?");
    if (at[user] == '@') {
        out->user = uri_part(&at, "@", err);
        if (!out->user)
            return -EINVAL;
        at++;
    }
    int r = unix_socket ? 0 : uri_host(out, &at, err);
    if (r < 0)
        return r;
    if (*at && *at != '/' && *at != '?')
        return err_set(err, EINVAL, "the NBD address goes on with '%.20s' where /EXPORT should be",
                       at);
    at += *at == '/';
    out->export = uri_part(&at, "?", err);
    if (!out->export)
        return -EINVAL;
    if (strlen(out->export) > NBD_NAME_MAX)
        return err_set(err, EINVAL, "the export's name is longer than 4096 bytes");
    while (*at) {
        at++;
        r = uri_parameter(out, &at, err);
        if (r < 0)
            return r;
    }
    if (unix_socket != !!out->socket)
        return err_set(err, EINVAL,
                       unix_socket ? "the NBD address lacks ?socket=PATH"
                                   : "?socket=PATH goes with nbd+unix:// and nbds+unix:// only");
    if (!out->tls && (out->certificates || out->psk))
        return err_set(err, EINVAL, "TLS parameters go with nbds:// and nbds+unix:// only");
    if (out->psk && out->certificates)
        return err_set(err, EINVAL, "give either tls-certificates or tls-psk-file");
    return 0;
}

void nbd_uri_fini(struct nbd_uri *uri)
{
    char *texts[] = { uri->host, uri->port, uri->socket,      uri->export,
                      uri->user, uri->psk,  uri->certificates };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        free(texts[i]);
}
