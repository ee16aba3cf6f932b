/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests to etcd's JSON gateway: TLS, logging in, and what its refusals mean.
 *
 * The gateway takes a client's certificate as the permission to connect and never as a user (one
 * that has a common name, which would be the user's, is refused where there are users); a user is
 * told by a token, which a password is exchanged for. etcd forgets a token that was not
 * used for some minutes, when it starts anew, and when its users change. It refuses a request with
 * such a token before it does anything, so the request is sent again with a new one.
 */
#include "base/text.h"
#include "daemon/store_etcd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    TIMEOUT_MS = 10000, /* for one request */
    ANSWER_MAX = 64 << 20,
    PASSWORD_MAX = 4096
};

#define LOGIN_PATH "/v3/auth/authenticate"

int etcd_place_check(const struct etcd_place *place, struct err *err)
{
    bool tls = strncmp(place->url, "https://", 8) == 0;
    const char *host = strstr(place->url, "://");
    if ((!tls && strncmp(place->url, "http://", 7) != 0) || !host[3])
        return err_set(err, EINVAL, "--store must be http://HOST:PORT or https://HOST:PORT");
    if (strchr(place->url, '@'))
        return err_set(err, EINVAL,
                       "--store: no user in the address, where others on this host could read the "
                       "password; use --store-user and --store-password-file");
    if (!tls && (place->ca || place->certificate || place->key))
        return err_set(err, EINVAL,
                       "--store-ca, --store-cert and --store-key are for https:// addresses");
    if (!place->certificate != !place->key)
        return err_set(err, EINVAL, "--store-cert and --store-key are needed together");
    if (!place->user != !place->password_file)
        return err_set(err, EINVAL, "--store-user and --store-password-file are needed together");
    return 0;
}

/* ---- one request ---- */

static size_t take(char *data, size_t size, size_t count, void *arg)
{
    struct buf *answer = arg;
    if (answer->len + size * count > ANSWER_MAX)
        return 0;
    buf_add(answer, data, size * count);
    return size * count;
}

static struct curl_slist *add_token(struct etcd *etcd, struct curl_slist *headers)
{
    AUTO(buf_fini) struct buf header = { 0 };
    LOCKED(&etcd->token_lock);
    if (!etcd->token)
        return headers;
    buf_printf(&header, "Authorization: %s", etcd->token);
    buf_add(&header, "", 1);
    return curl_slist_append(headers, (char *)header.data);
}

void etcd_request(struct etcd *etcd, CURL *curl, const char *path, const char *body,
                  struct curl_slist **headers)
{
    const struct etcd_place *place = etcd->place;
    char url[1200];
    snprintf(url, sizeof url, "%s%s", etcd->url, path);
    *headers = curl_slist_append(NULL, "Content-Type: application/json");
    *headers = curl_slist_append(*headers, "Expect:");
    if (strcmp(path, LOGIN_PATH) != 0) /* which an old token would spoil */
        *headers = add_token(etcd, *headers);
    curl_easy_reset(curl);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, *headers);
    curl_easy_setopt(curl, CURLOPT_COPYPOSTFIELDS, body);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)TIMEOUT_MS);
    curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (place->ca)
        curl_easy_setopt(curl, CURLOPT_CAINFO, place->ca);
    if (place->certificate) {
        curl_easy_setopt(curl, CURLOPT_SSLCERT, place->certificate);
        curl_easy_setopt(curl, CURLOPT_SSLKEY, place->key);
    }
}

/* What etcd says for an error, as ours. */
static int refusal(const json_t *answer, struct err *err)
{
    static const struct {
        const char *words;
        int code;
        const char *instead; /* of etcd's sentence */
    } known[] = {
        { "lease not found", ENOENT, NULL },
        { "too large", E2BIG, NULL },
        { "too many operations", E2BIG, NULL },
        { "space exceeded", ENOSPC, NULL },
        { "timed out", EIO, NULL }, /* what was asked may have happened */
        { "leader", EIO, NULL },
        { "stopped", EIO, NULL },
        { "unavailable", EIO, NULL },
        { "compacted", ESTALE, NULL },
        { "invalid auth token", EKEYEXPIRED, NULL },
        { "auth store is old", EKEYEXPIRED, NULL },
        { "user name is empty", EACCES,
          "wants a user; give --store-user and --store-password-file" },
        { "invalid user ID or password", EACCES,
          "the user or the password is wrong (--store-user, --store-password-file)" },
        { "authentication is not enabled", EINVAL,
          "knows no users; leave out --store-user, or turn its authentication on" },
        { "permission denied", EACCES,
          "the user may not; grant it readwrite on all keys below /bedplate/" },
    };
    const char *text = json_string_value(json_object_get(answer, "error"));
    int code = EPROTO;
    text = text ? text : "an answer that is not understood";
    for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
        if (strstr(text, known[i].words)) {
            code = known[i].code;
            text = known[i].instead ? known[i].instead : text;
        }
    return err_set(err, code, "etcd: %.200s", text);
}

/* Which words of ours it may be about. Of a certificate that it does not take etcd tells by an
 * alert, which may come before, with or instead of an answer. */
static const char *advice(const struct etcd *etcd, CURLcode code)
{
    bool met = code != CURLE_COULDNT_CONNECT && code != CURLE_COULDNT_RESOLVE_HOST &&
               code != CURLE_OPERATION_TIMEDOUT && code != CURLE_SSL_CERTPROBLEM;
    if (code == CURLE_PEER_FAILED_VERIFICATION)
        return "; --store-ca names the file of the CA that signed its certificate";
    if (!met || strncmp(etcd->url, "https", 5) != 0)
        return "";
    return etcd->place->certificate
               ? "; perhaps it does not take the certificate of --store-cert"
               : "; perhaps it wants a certificate of ours: --store-cert and --store-key";
}

static int request(struct etcd *etcd, CURL *curl, const char *path, const char *body, json_t **out,
                   struct err *err)
{
    AUTO(buf_fini) struct buf answer = { 0 };
    AUTO(json_decref) json_t *json = NULL;
    struct curl_slist *headers;
    char reason[CURL_ERROR_SIZE] = "";
    long status = 0;
    etcd_request(etcd, curl, path, body, &headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, reason);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)TIMEOUT_MS);
    CURLcode code = curl_easy_perform(curl);
    curl_slist_free_all(headers);
    if (code != CURLE_OK)
        return err_set(err, EIO, "etcd at %s: %s%s", etcd->url,
                       *reason ? reason : curl_easy_strerror(code), advice(etcd, code));
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    int r = json_parse((const char *)answer.data, answer.len, &json, err);
    if (status == 400 && answer.len && memmem(answer.data, answer.len, "CommonName", 10))
        return err_set(err, EACCES,
                       "etcd: where there are users the certificate of --store-cert must have no "
                       "common name (CN)");
    if (r < 0 || !json_is_object(json))
        return err_set(err, EIO, "etcd at %s answers with status %ld and no JSON", etcd->url,
                       status);
    if (status != 200)
        return refusal(json, err);
    *out = TAKE(json);
    return 0;
}

/* ---- users ---- */

/* Its first line. */
static int password_read(const char *path, struct buf *password, struct err *err)
{
    struct stat st;
    if (stat(path, &st) == 0 && st.st_mode & 07)
        return err_set(err, EPERM,
                       "--store-password-file %s: everybody on this host may open it; chmod 600 it",
                       path);
    int r = file_read(path, PASSWORD_MAX, password, err);
    if (r < 0)
        return err_prefix(err, "--store-password-file");
    buf_add(password, "", 1);
    password->data[strcspn((char *)password->data, "\r\n")] = 0;
    return 0;
}

int etcd_login(struct etcd *etcd, CURL *curl, struct err *err)
{
    AUTO(buf_fini) struct buf password = { 0 };
    AUTO(json_decref) json_t *answer = NULL;
    int r = password_read(etcd->place->password_file, &password, err);
    if (r < 0)
        return r;
    json_t *body =
        json_pack("{s:s, s:s}", "name", etcd->place->user, "password", (char *)password.data);
    explicit_bzero(password.data, password.len);
    if (!body)
        return err_set(err, EINVAL, "--store-user and its password must be UTF-8");
    AUTO(free) char *text = json_print(body);
    json_decref(body);
    r = request(etcd, curl, LOGIN_PATH, text, &answer, err);
    explicit_bzero(text, strlen(text));
    const char *token = json_string_value(json_object_get(answer, "token"));
    if (r < 0 || !token || strpbrk(token, "\r\n"))
        return r < 0 ? r : err_set(err, EPROTO, "etcd gives no token for a right password");
    LOCKED(&etcd->token_lock);
    free(etcd->token);
    etcd->token = strdup(token);
    etcd->logins++;
    return etcd->token ? 0 : err_set(err, ENOMEM, "out of memory");
}

int etcd_call(struct etcd *etcd, CURL *curl, const char *path, json_t *take_body, json_t **out,
              struct err *err)
{
    AUTO(json_decref) json_t *body = take_body;
    AUTO(free) char *text = json_print(body);
    int r = request(etcd, curl, path, text, out, err);
    if (r != -EKEYEXPIRED || !etcd->place->user)
        return r;
    r = etcd_login(etcd, curl, err);
    return r < 0 ? r : request(etcd, curl, path, text, out, err);
}
