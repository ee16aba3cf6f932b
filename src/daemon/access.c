/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/access.h"

#include "api/digest.h"
#include "base/log.h"
#include "daemon/aside.h"

#include <argon2.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <unistd.h>

/* Passwords: OWASP's choice of parameters for argon2id, 19 MiB and 2 passes: some 30 ms. */
enum {
    ARGON_PASSES = 2,
    ARGON_KIB = 19 << 10,
    SALT_BYTES = 16,
    HASH_BYTES = 32,
    ENCODED_MAX = 160,
    PASSWORD_MAX = 256 /* the table's */
};
/* Wrong passwords: after FREE_TRIES for a user each further try waits twice as long as the last. */
enum { FREE_TRIES = 3, WAIT_MIN_S = 1, WAIT_MAX_S = 300, GUESSED_MAX = 256 };
enum { SECRET_BYTES = 32, LOGIN_S = 12 * 3600, TOKEN_S = 90 * 24 * 3600 };
#define TOKEN_PREFIX "bedplate_"

static enum api_role role_of(const char *name)
{
    for (unsigned i = 0; api_role_names[i]; i++)
        if (strcmp(api_role_names[i], name) == 0)
            return (enum api_role)i;
    return API_VIEWER;
}

static struct object *user_named(struct daemon *daemon, const char *name)
{
    struct object *user = objects_find(daemon->objects, "users", name, NULL);
    return user && strcmp(object_text(user, "name"), name) == 0 ? user : NULL;
}

/* ---- who asks ---- */

static int identify_local(struct http_request *request, uid_t uid, struct api_error *error)
{
    struct http_identity *who = http_identity(request);
    struct passwd entry, *found = NULL;
    char room[1024];
    if (uid != 0 && uid != geteuid())
        return api_fail(error, 403, "forbidden", "",
                        "this socket is for root and the daemon's own user");
    if (getpwuid_r(uid, &entry, room, sizeof room, &found) == 0 && found)
        snprintf(who->user, sizeof who->user, "%s", entry.pw_name);
    else
        snprintf(who->user, sizeof who->user, "%u", (unsigned)uid);
    who->role = API_ADMIN;
    return 0;
}

static int identify_user(struct http_request *request, const struct object *user,
                         struct api_error *error)
{
    struct http_identity *who = http_identity(request);
    if (json_is_true(json_object_get(user->json, "disabled")))
        return api_fail(error, 403, "disabled", "", "the user '%s' is disabled",
                        object_text(user, "name"));
    snprintf(who->user, sizeof who->user, "%s", object_text(user, "name"));
    who->role = role_of(object_text(user, "role"));
    return 0;
}

static int identify_certificate(struct daemon *daemon, struct http_request *request,
                                const char *subject, struct api_error *error)
{
    size_t count;
    struct object **list = objects_list(daemon->objects, "users", &count);
    for (size_t i = 0; i < count; i++)
        if (strcmp(object_text(list[i], "certificate"), subject) == 0)
            return identify_user(request, list[i], error);
    api_fail(error, 403, "forbidden", "", "no user has the certificate '%.200s'", subject);
    api_hint(error, "an admin can name it in the user's field `certificate`");
    return -1;
}

/* "bedplate_UUID_SECRET" */
static int identify_token(struct daemon *daemon, struct http_request *request, const char *text,
                          struct api_error *error)
{
    struct http_identity *who = http_identity(request);
    char id[UUID_TEXT], digest[DIGEST_TEXT];
    size_t prefix = strlen(TOKEN_PREFIX);
    if (strncmp(text, TOKEN_PREFIX, prefix) != 0 || strlen(text) < prefix + UUID_TEXT)
        return api_fail(error, 401, "token", "", "the token is none of this daemon's");
    snprintf(id, sizeof id, "%s", text + prefix);
    digest_text(text + prefix + UUID_TEXT, strlen(text + prefix + UUID_TEXT), digest);
    const struct object *token = objects_get(daemon->objects, "tokens", id);
    if (!token || !digest_equal(digest, object_text(token, "digest")))
        return api_fail(error, 401, "token", "", "the token is none of this daemon's");
    if (json_number_value(json_object_get(token->json, "expires")) < time_now()) {
        api_fail(error, 401, "expired", "", "the token '%s' has expired",
                 object_text(token, "name"));
        api_hint(error, "make another");
        return -1;
    }
    /* Another user of the same name is not the one whom it was made for. */
    const struct object *user =
        objects_get(daemon->objects, "users", object_text(token, "user_id"));
    if (!user)
        return api_fail(error, 401, "token", "", "the token's user is gone");
    if (identify_user(request, user, error) < 0)
        return -1;
    const char *role = object_text(token, "role");
    who->limited = *role || *object_text(token, "vm_id");
    if (*role && (int)role_of(role) < who->role)
        who->role = role_of(role);
    snprintf(who->vm, sizeof who->vm, "%s", object_text(token, "vm_id"));
    return 0;
}

/* A page cannot give a WebSocket headers of its own, but names of protocols: "bedplate, TOKEN". */
static bool protocol_token(const struct http_request *request, char *out, size_t len)
{
    const char *header = http_header(request, "Sec-WebSocket-Protocol");
    const char *token = header ? strstr(header, TOKEN_PREFIX) : NULL;
    if (!token)
        return false;
    snprintf(out, len, "%.*s", (int)strcspn(token, ", "), token);
    return true;
}

int access_identify(struct daemon *daemon, struct http_request *request, struct api_error *error)
{
    char subject[256], text[160];
    uid_t uid;
    pid_t pid;
    const char *header = http_header(request, "Authorization");
    if (http_peer(request, &uid, &pid) == 0)
        return identify_local(request, uid, error);
    if (header && strncasecmp(header, "Bearer ", 7) == 0)
        return identify_token(daemon, request, header + 7, error);
    if (protocol_token(request, text, sizeof text))
        return identify_token(daemon, request, text, error);
    if (http_certificate(request, subject, sizeof subject))
        return identify_certificate(daemon, request, subject, error);
    api_fail(error, 401, "who", "", "nothing tells who you are");
    api_hint(error, "send a bearer token (POST /v1/tokens with user and password makes one), or "
                    "use a client certificate");
    return -1;
}

/* ---- what they may ---- */

static int refuse(const struct http_request *request, const char *needed, struct api_error *error)
{
    const struct http_identity *who = http_identity_of(request);
    api_fail(error, 403, "forbidden", "", "this needs the role %s, and '%s' is %s here", needed,
             who->user, api_role_names[who->role]);
    return -1;
}

int access_check(const struct http_request *request, const struct api_resource *resource,
                 enum api_role needed, const struct object *object, struct api_error *error)
{
    const struct http_identity *who = http_identity_of(request);
    enum api_role role = (enum api_role)who->role;
    bool vms = strcmp(resource->name, "vms") == 0, jobs = strcmp(resource->name, "jobs") == 0;
    if (who->vm[0] && !((vms && (object || needed == API_VIEWER)) || jobs))
        return api_fail(error, 403, "forbidden", "", "this token is for one VM only");
    if (vms && object && role == API_VIEWER && !who->limited &&
        strcmp(object_text(object, "owner"), who->user) == 0)
        role = API_OPERATOR;
    return role >= needed ? 0 : refuse(request, api_role_names[needed], error);
}

bool access_sees(const struct http_request *request, const struct object *object)
{
    const struct http_identity *who = http_identity_of(request);
    char job[64];
    if (strcmp(object->kind, "tokens") == 0 && !who->vm[0])
        return who->role == API_ADMIN || strcmp(object_text(object, "user"), who->user) == 0;
    if (!who->vm[0])
        return true;
    snprintf(job, sizeof job, "vms/%s", who->vm);
    return strcmp(object->kind, "vms") == 0    ? strcmp(object->id, who->vm) == 0
           : strcmp(object->kind, "jobs") == 0 ? strcmp(object_text(object, "object"), job) == 0
                                               : false;
}

/* ---- passwords ---- */

static void secret_make(uint8_t *out, size_t len)
{
    if (getrandom(out, len, 0) != (ssize_t)len)
        abort();
}

/* Names that passwords were guessed for, the oldest goes first. Also names that nobody has: they
 * must not be told from others by their speed. */
static struct guessed {
    char name[64];
    unsigned wrong, trying;
    uint64_t until_ns, last_ns;
} guessed[GUESSED_MAX];

static struct guessed *guessed_of(const char *name)
{
    struct guessed *oldest = guessed;
    for (unsigned i = 0; i < GUESSED_MAX; i++) {
        if (strcmp(guessed[i].name, name) == 0)
            return &guessed[i];
        if (guessed[i].last_ns < oldest->last_ns)
            oldest = &guessed[i];
    }
    *oldest = (struct guessed){ .wrong = 0 };
    snprintf(oldest->name, sizeof oldest->name, "%s", name);
    return oldest;
}

/* May a password be tried for this name now? Those that are looked at count as wrong. */
static int guess_begin(const char *name, struct api_error *error)
{
    struct guessed *g = guessed_of(name);
    uint64_t now = monotonic_ns();
    if (g->until_ns > now)
        return api_fail(error, 429, "too-often", "password",
                        "too many wrong passwords; try again in %llu s",
                        (unsigned long long)(g->until_ns - now) / 1000000000 + 1);
    if (g->trying && g->wrong + g->trying > FREE_TRIES)
        return api_fail(error, 429, "too-often", "password",
                        "other tries for this user are being looked at; try again");
    g->last_ns = now;
    g->trying++;
    return 0;
}

static void guess_end(const char *name, bool right)
{
    struct guessed *g = guessed_of(name);
    g->trying -= g->trying > 0;
    g->last_ns = monotonic_ns();
    if (right) {
        g->wrong = 0;
    } else if (++g->wrong > FREE_TRIES) {
        unsigned shift = g->wrong - FREE_TRIES - 1;
        uint64_t wait = shift > 8 ? WAIT_MAX_S : (uint64_t)WAIT_MIN_S << shift;
        g->until_ns = g->last_ns + (wait > WAIT_MAX_S ? WAIT_MAX_S : wait) * 1000000000ull;
    }
}

/* A password that is hashed, or compared with a hash, on another thread. */
struct secret {
    struct daemon *daemon;
    struct http_request *request;
    json_t *json; /* of the request: of a user, or a token */
    char id[UUID_TEXT];
    uint64_t expect;
    char password[PASSWORD_MAX + 1];
    uint8_t salt[SALT_BYTES];
    char encoded[ENCODED_MAX];
    bool right;
};

/* Takes the password out of the JSON, which it takes. */
static struct secret *secret_new(struct daemon *daemon, struct http_request *request,
                                 json_t *take_json)
{
    struct secret *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    s->daemon = daemon;
    s->request = request;
    s->json = take_json;
    snprintf(s->password, sizeof s->password, "%s",
             json_string_value(json_object_get(take_json, "password")));
    json_object_del(take_json, "password");
    return s;
}

static void secret_free(struct secret *s)
{
    json_decref(s->json);
    explicit_bzero(s, sizeof *s);
    free(s);
}

static void secret_hash(void *arg)
{
    struct secret *s = arg;
    if (argon2id_hash_encoded(ARGON_PASSES, ARGON_KIB, 1, s->password, strlen(s->password), s->salt,
                              sizeof s->salt, HASH_BYTES, s->encoded,
                              sizeof s->encoded) != ARGON2_OK)
        abort(); /* out of memory */
}

static void secret_compare(void *arg)
{
    struct secret *s = arg;
    s->right = argon2id_verify(s->encoded, s->password, strlen(s->password)) == ARGON2_OK;
}

/* ---- users ---- */

struct asked {
    struct daemon *daemon;
    struct http_request *request;
    bool made;        /* not changed */
    char secret[160]; /* a new token's text */
};

static struct asked *asked_new(struct daemon *daemon, struct http_request *request)
{
    struct asked *a = calloc(1, sizeof *a);
    if (!a)
        abort();
    a->daemon = daemon;
    a->request = request;
    return a;
}

static void asked_kept(void *arg, struct object *object, const struct api_error *error)
{
    struct asked *a = arg;
    if (error) {
        reply_error(a->request, error);
    } else if (!object) {
        http_reply(a->request, 204, "", NULL, 0);
    } else if (a->secret[0]) {
        AUTO(buf_fini) struct buf body = { 0 };
        (void)api_show(api_resource_find(object->kind)->fields, object->json, NULL, &body, NULL);
        body.len--; /* its brace */
        buf_printf(&body, ",\"token\":\"%s\"}\n", a->secret);
        http_reply(a->request, 201, "application/json", body.data, body.len);
        explicit_bzero(body.data, body.len);
    } else {
        reply_object(a->request, a->made ? 201 : 200, object);
    }
    explicit_bzero(a->secret, sizeof a->secret);
    free(a);
}

static void keep(struct daemon *daemon, struct http_request *request, const char *kind,
                 const char *id, json_t *take_json, uint64_t expect)
{
    const struct objects_change change = {
        .kind = kind, .id = id, .take_json = take_json, .expect = expect
    };
    struct asked *a = asked_new(daemon, request);
    a->made = take_json && !expect;
    objects_change(daemon->objects, &change, 1, asked_kept, a);
}

/* No two users with one certificate: it would stand for either. */
static int user_fits(struct daemon *daemon, const json_t *json, const char *id,
                     struct api_error *error)
{
    size_t count;
    struct object **list = objects_list(daemon->objects, "users", &count);
    const char *certificate = json_string_value(json_object_get(json, "certificate"));
    for (size_t i = 0; certificate && *certificate && i < count; i++)
        if (strcmp(list[i]->id, id) != 0 &&
            strcmp(object_text(list[i], "certificate"), certificate) == 0)
            return api_fail(error, 409, "exists", "certificate", "the user '%s' has it",
                            object_text(list[i], "name"));
    return 0;
}

static void user_keep(struct daemon *daemon, struct http_request *request, const char *id,
                      json_t *take_json, uint64_t expect)
{
    struct api_error error = { 0 };
    const char *name = json_string_value(json_object_get(take_json, "name"));
    if (objects_name_free(daemon->objects, "users", name, expect ? id : NULL, &error) < 0 ||
        user_fits(daemon, take_json, id, &error) < 0) {
        json_decref(take_json);
        reply_error(request, &error);
        return;
    }
    keep(daemon, request, "users", id, take_json, expect);
}

static void secret_hashed(void *arg)
{
    struct secret *s = arg;
    json_object_set_new(s->json, "password_hash", json_string(s->encoded));
    user_keep(s->daemon, s->request, s->id, TAKE(s->json), s->expect);
    secret_free(s);
}

/* With what is kept of its password in the place of that. */
static void user_change(struct daemon *daemon, struct http_request *request, const char *id,
                        json_t *take_json, uint64_t expect)
{
    if (!json_object_get(take_json, "password")) {
        user_keep(daemon, request, id, take_json, expect);
        return;
    }
    struct secret *s = secret_new(daemon, request, take_json);
    snprintf(s->id, sizeof s->id, "%s", id);
    s->expect = expect;
    secret_make(s->salt, sizeof s->salt);
    aside_run(daemon->loop, secret_hash, secret_hashed, s);
}

void users_create(struct daemon *daemon, struct http_request *request, json_t *take_json)
{
    char id[UUID_TEXT];
    object_new_id(id);
    json_object_set_new(take_json, "id", json_string(id));
    json_object_set_new(take_json, "created", json_real(time_now()));
    user_change(daemon, request, id, take_json, 0);
}

void users_patch(struct daemon *daemon, struct http_request *request, struct object *user,
                 json_t *take_json, uint64_t expect)
{
    json_object_del(take_json, "revision");
    user_change(daemon, request, user->id, take_json, expect);
}

void users_delete(struct daemon *daemon, struct http_request *request, struct object *user)
{
    keep(daemon, request, "users", user->id, NULL, user->revision);
}

/* ---- tokens ---- */

static void pruned(void *arg, struct object *object, const struct api_error *error) {}

/* Those that are over, and those of users who are gone; some at a time. */
static void tokens_prune(struct daemon *daemon)
{
    struct objects_change changes[OBJECTS_CHANGES_MAX];
    unsigned changed = 0;
    size_t count;
    struct object **list = objects_list(daemon->objects, "tokens", &count);
    for (size_t i = 0; i < count && changed < OBJECTS_CHANGES_MAX; i++)
        if (json_number_value(json_object_get(list[i]->json, "expires")) < time_now() ||
            !objects_get(daemon->objects, "users", object_text(list[i], "user_id")))
            changes[changed++] = (struct objects_change){ .kind = "tokens",
                                                          .id = list[i]->id,
                                                          .expect = list[i]->revision };
    if (changed)
        objects_change(daemon->objects, changes, changed, pruned, NULL);
}

/* For whom, without a password: themselves, or as an admin says. */
static int token_allowed(struct daemon *daemon, struct http_request *request, const char *name,
                         struct api_error *error)
{
    const struct http_identity *who = http_identity(request);
    if (!who->user[0]) {
        access_identify(daemon, request, error); /* it says why not */
        return -1;
    }
    if (who->vm[0] || who->limited)
        return api_fail(error, 403, "forbidden", "", "a token that is limited makes no others");
    if (name && strcmp(name, who->user) != 0 && who->role != API_ADMIN)
        return api_fail(error, 403, "forbidden", "user", "only admins make tokens for others");
    return 0;
}

/* The secret's text, of which the digest is kept. */
static void token_secret(const char *id, char text[160], char digest[DIGEST_TEXT])
{
    uint8_t secret[SECRET_BYTES];
    secret_make(secret, sizeof secret);
    int at = snprintf(text, 160, TOKEN_PREFIX "%s_", id);
    for (unsigned i = 0; i < SECRET_BYTES; i++)
        snprintf(text + at + 2 * i, 3, "%02x", secret[i]);
    digest_text(text + at, SECRET_BYTES * 2, digest);
    explicit_bzero(secret, sizeof secret);
}

/* For somebody who may have it. */
static void token_make(struct daemon *daemon, struct http_request *request, json_t *take_json,
                       bool login)
{
    AUTO(json_decref) json_t *json = take_json;
    struct api_error error = { 0 };
    char id[UUID_TEXT], digest[DIGEST_TEXT];
    const char *name = json_string_value(json_object_get(json, "user"));
    const char *vm = json_string_value(json_object_get(json, "vm"));
    const json_t *expires = json_object_get(json, "expires");
    name = name ? name : http_identity(request)->user;
    const struct object *user = user_named(daemon, name);
    if (!user) {
        api_fail(&error, 422, "invalid", "user", "there is no user '%.63s'", name);
        api_hint(&error, "create it: bedplate user create NAME --role viewer");
    }
    const struct object *only =
        user && vm ? objects_find(daemon->objects, "vms", vm, &error) : NULL;
    const char *called = json_string_value(json_object_get(json, "name"));
    if (!error.status && called)
        (void)objects_name_free(daemon->objects, "tokens", called, NULL, &error);
    if (!error.status && expires && json_number_value(expires) < time_now())
        api_fail(&error, 422, "invalid", "expires", "is over already");
    if (error.status) {
        reply_error(request, &error);
        return;
    }
    object_new_id(id);
    struct asked *a = asked_new(daemon, request);
    token_secret(id, a->secret, digest);
    json_object_set_new(json, "id", json_string(id));
    json_object_set_new(json, "user", json_string(object_text(user, "name")));
    json_object_set_new(json, "user_id", json_string(user->id));
    json_object_set_new(json, "digest", json_string(digest));
    json_object_set_new(json, "created", json_real(time_now()));
    if (!json_object_get(json, "name"))
        json_object_set_new(json, "name", json_sprintf("%s-%.8s", login ? "login" : "token", id));
    if (!expires)
        json_object_set_new(json, "expires", json_real(time_now() + (login ? LOGIN_S : TOKEN_S)));
    if (only)
        json_object_set_new(json, "vm_id", json_string(only->id));
    if (!http_identity(request)->user[0])
        snprintf(http_identity(request)->user, sizeof http_identity(request)->user, "%s",
                 object_text(user, "name"));
    const struct objects_change change = { .kind = "tokens", .id = id, .take_json = TAKE(json) };
    objects_change(daemon->objects, &change, 1, asked_kept, a);
    tokens_prune(daemon);
}

static void secret_compared(void *arg)
{
    struct secret *s = arg;
    struct api_error error = { 0 };
    const char *name = json_string_value(json_object_get(s->json, "user"));
    const struct object *user = user_named(s->daemon, name); /* it may have gone meanwhile */
    bool right = s->right && user && strcmp(object_text(user, "password_hash"), s->encoded) == 0 &&
                 !json_is_true(json_object_get(user->json, "disabled"));
    guess_end(name, right);
    if (right) {
        token_make(s->daemon, s->request, TAKE(s->json), true);
    } else {
        api_fail(&error, 401, "password", "", "no such user, or a wrong password");
        reply_error(s->request, &error);
    }
    secret_free(s);
}

static void login(struct daemon *daemon, struct http_request *request, const char *name,
                  json_t *take_json)
{
    /* Of no password: a user without one is looked at as long as one with. */
    static const char nobody[] = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA"
                                 "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const struct object *user = user_named(daemon, name);
    const char *hash = user ? object_text(user, "password_hash") : "";
    struct secret *s = secret_new(daemon, request, take_json);
    snprintf(s->encoded, sizeof s->encoded, "%s", *hash ? hash : nobody);
    aside_run(daemon->loop, secret_compare, secret_compared, s);
}

void tokens_create(struct daemon *daemon, struct http_request *request, json_t *take_json)
{
    struct api_error error = { 0 };
    const char *name = json_string_value(json_object_get(take_json, "user"));
    bool password = json_object_get(take_json, "password");
    int r = password && !name
                ? api_fail(&error, 422, "invalid", "user", "is needed with a password")
            : password ? guess_begin(name, &error)
                       : token_allowed(daemon, request, name, &error);
    if (r < 0) {
        json_decref(take_json);
        reply_error(request, &error);
    } else if (password) {
        login(daemon, request, name, take_json);
    } else {
        token_make(daemon, request, take_json, false);
    }
}

void tokens_delete(struct daemon *daemon, struct http_request *request, struct object *token)
{
    keep(daemon, request, "tokens", token->id, NULL, token->revision);
}
