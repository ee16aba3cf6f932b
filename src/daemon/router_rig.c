/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * In the place of http.c, child.c, aside.c, cgroup.c, net_backend.c, the store's engines and
 * argon2: see router_rig.h. A request is freed when it is answered, so that a sanitizer sees who
 * uses it behind that.
 */
#include "daemon/router_rig.h"

#include "base/text.h"
#include "daemon/aside.h"
#include "daemon/audit.h"
#include "daemon/child.h"
#include "daemon/disks.h"
#include "daemon/images.h"
#include "daemon/vms.h"

#include <argon2.h>
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAIRS = 16, TURNS = 200 };

struct rig_world rig_world;
static struct daemon *rig_daemon;

/* ---- requests ---- */

struct http_request {
    struct daemon *daemon;
    struct rig_reply *reply;
    struct rig_ask ask;
    char bearer[200];
    const char *names[PAIRS], *values[PAIRS];
    unsigned pairs;
    struct http_identity identity;
};

struct http_stream {
    char none;
};

const char *http_method(const struct http_request *r) { return r->ask.method; }
const char *http_path(const struct http_request *r) { return r->ask.path; }
struct http_identity *http_identity(struct http_request *r) { return &r->identity; }
const struct http_identity *http_identity_of(const struct http_request *r) { return &r->identity; }

const char *http_body(const struct http_request *r, size_t *len)
{
    *len = r->ask.len;
    return r->ask.body;
}

const char *http_query(const struct http_request *r, const char *name)
{
    for (unsigned i = 0; i < r->pairs; i++)
        if (strcmp(r->names[i], name) == 0)
            return r->values[i];
    return NULL;
}

void http_query_each(const struct http_request *r,
                     bool (*fn)(void *arg, const char *name, const char *value), void *arg)
{
    for (unsigned i = 0; i < r->pairs && fn(arg, r->names[i], r->values[i]); i++)
        ;
}

const char *http_header(const struct http_request *r, const char *name)
{
    const struct {
        const char *name, *value;
    } headers[] = {
        { "If-Match", r->ask.precondition },
        { "Idempotency-Key", r->ask.key },
        { "Authorization", r->ask.token ? r->bearer : NULL },
        { "Host", "bedplate" },
        { "Upgrade", r->ask.upgrade_key ? "websocket" : NULL },
        { "Connection", r->ask.upgrade_key ? "Upgrade" : NULL },
        { "Sec-WebSocket-Version", r->ask.upgrade_key ? "13" : NULL },
        { "Sec-WebSocket-Key", r->ask.upgrade_key },
    };
    for (unsigned i = 0; i < sizeof headers / sizeof *headers; i++)
        if (strcasecmp(headers[i].name, name) == 0)
            return headers[i].value;
    return NULL;
}

bool http_certificate(const struct http_request *r, char *out, size_t len) { return false; }

int http_peer(const struct http_request *r, uid_t *uid, pid_t *pid)
{
    *uid = geteuid();
    *pid = getpid();
    return r->ask.token ? -1 : 0;
}

/* Each refusal says why, for people and for programs. */
static void check_refusal(const struct rig_reply *reply)
{
    AUTO(json_decref) json_t *json = NULL;
    int r = json_parse((char *)reply->body.data, reply->body.len, &json, NULL);
    const json_t *error = json_object_get(json, "error");
    const char *code = json_string_value(json_object_get(error, "code"));
    const char *message = json_string_value(json_object_get(error, "message"));
    assert(r == 0 && code && *code && message && *message);
}

static void answer(struct http_request *r, unsigned status)
{
    assert(!r->reply->status && status >= 200 && status < 600);
    r->reply->status = status;
    if (status >= 400)
        check_refusal(r->reply);
    audit_request(r->daemon, r, status);
    free(r);
}

void http_reply_header(struct http_request *r, const char *name, const char *value)
{
    assert(r->ask.method && *name && !strpbrk(value, "\r\n"));
}

void http_reply(struct http_request *r, unsigned status, const char *type, const void *body,
                size_t len)
{
    buf_add(&r->reply->body, body ? body : "", len);
    answer(r, status);
}

void http_reply_json(struct http_request *r, unsigned status, json_t *take_json)
{
    AUTO(free) char *text = json_print(take_json);
    json_decref(take_json);
    http_reply(r, status, "application/json", text, strlen(text));
}

/* The client is gone before it is upgraded. */
void http_upgrade(struct http_request *r,
                  void (*upgraded)(void *arg, struct http_stream *stream, int fd, const void *early,
                                   size_t len),
                  void *arg)
{
    assert(!r->reply->status);
    r->reply->status = 101;
    free(r);
    upgraded(arg, NULL, -1, NULL, 0);
}

void http_stream_close(struct http_stream *stream) { abort(); /* there are none */ }
const struct http *http_of(const struct http_stream *stream) { return NULL; }

static void query_parse(struct http_request *r)
{
    char *rest = r->ask.query, *pair;
    while (rest && (pair = strsep(&rest, "&")) && r->pairs < PAIRS) {
        char *value = strchr(pair, '=');
        if (value)
            *value++ = 0;
        r->names[r->pairs] = pair;
        r->values[r->pairs++] = value ? value : "";
    }
}

static void turn_ends(void *arg) { loop_stop(arg, 0); }

void rig_turn(struct daemon *daemon)
{
    loop_post(daemon->loop, turn_ends, daemon->loop);
    loop_run(daemon->loop);
}

void rig_settle(struct daemon *daemon)
{
    for (unsigned i = 0; i < TURNS / 4; i++)
        rig_turn(daemon);
}

void rig_send(struct daemon *daemon, const struct rig_ask *ask, struct rig_reply *reply)
{
    struct http_request *r = calloc(1, sizeof *r);
    if (!r)
        abort();
    r->daemon = daemon;
    r->reply = reply;
    r->ask = *ask;
    snprintf(r->bearer, sizeof r->bearer, "Bearer %s", ask->token ? ask->token : "");
    strcpy(r->identity.via, "unix");
    query_parse(r);
    router_request(daemon, r);
}

unsigned rig_request(struct daemon *daemon, const struct rig_ask *ask, json_t **out)
{
    struct rig_reply reply = { 0 };
    rig_send(daemon, ask, &reply);
    for (unsigned i = 0; i < TURNS && !reply.status; i++)
        rig_turn(daemon);
    assert(reply.status);
    json_t *json = NULL;
    int r = reply.body.len ? json_parse((char *)reply.body.data, reply.body.len, &json, NULL) : 0;
    assert(r == 0 || strcmp(ask->path, "/metrics") == 0);
    buf_fini(&reply.body);
    if (out)
        *out = json;
    else
        json_decref(json);
    return reply.status;
}

/* ---- programs ---- */

struct child {
    const struct child_calls *calls;
    void *arg;
    bool killed, released;
};

static void child_ends(void *arg)
{
    struct child *child = arg;
    int status = child->killed ? -1 : rig_world.programs_fail;
    if (!child->released && child->calls->line)
        child->calls->line(child->arg, "{\"size\": 1048576}");
    if (!child->released)
        child->calls->ended(child->arg, status, status ? "it did not work" : "");
    free(child);
}

int child_start(struct loop *loop, char *const argv[], const struct child_calls *calls, void *arg,
                struct child **out, struct err *err)
{
    struct child *child = calloc(1, sizeof *child);
    if (!child)
        abort();
    for (unsigned i = 0; argv[i]; i++)
        assert(strlen(argv[i]) < 1 << 20);
    *child = (struct child){ .calls = calls, .arg = arg };
    *out = child;
    loop_post(loop, child_ends, child);
    return 0;
}

void child_kill(struct child *child) { child->killed = true; }

void child_release(struct child *child)
{
    if (child)
        child->released = true;
}

/* Of a VM's process. */
int process_spawn(char *const argv[], int out, int errors, const int *fds, unsigned fd_count,
                  pid_t *pid, struct err *err)
{
    *pid = rig_world.process ? rig_world.process(rig_daemon) : -1;
    return *pid > 0 ? 0 : err_set(err, ENOSYS, "there are no programs here");
}

struct piece {
    void (*work)(void *arg);
    void (*done)(void *arg);
    void *arg;
};

static void piece_run(void *arg)
{
    struct piece piece = *(struct piece *)arg;
    free(arg);
    piece.work(piece.arg);
    piece.done(piece.arg);
}

void aside_run(struct loop *loop, void (*work)(void *arg), void (*done)(void *arg), void *arg)
{
    struct piece *piece = malloc(sizeof *piece);
    if (!piece)
        abort();
    *piece = (struct piece){ work, done, arg };
    loop_post(loop, piece_run, piece);
}

/* A hash that takes no time. */
int argon2id_hash_encoded(const uint32_t passes, const uint32_t memory, const uint32_t lanes,
                          const void *password, const size_t len, const void *salt,
                          const size_t salt_len, const size_t hash_len, char *encoded,
                          const size_t encoded_len)
{
    snprintf(encoded, encoded_len, "hash of %zu", len);
    return ARGON2_OK;
}

int argon2id_verify(const char *encoded, const void *password, const size_t len)
{
    char own[32];
    snprintf(own, sizeof own, "hash of %zu", len);
    return strcmp(own, encoded) == 0 ? ARGON2_OK : ARGON2_VERIFY_MISMATCH;
}

/* ---- control groups and networks ---- */

const char *cgroups_about(void) { return ""; }
const char *cgroups_missing(void) { return "none"; }
bool cgroups_limit_cpu(void) { return false; }
bool cgroups_weigh_io(void) { return false; }
int cgroup_make(const char *id, const struct cgroup_limits *limits, char *words[CGROUP_WORDS],
                unsigned *before, struct err *err)
{
    *before = 0;
    words[0] = NULL;
    return 0;
}
int cgroup_limit(const char *id, pid_t pid, const struct cgroup_limits *limits,
                 void (*done)(void *arg, const char *wrong), void *arg, struct err *err)
{
    return 0;
}
void cgroup_remove(const char *id) {}

int net_backend_open(const struct vm *vm, const json_t *net, net_opened opened, void *arg, int *fd,
                     struct net_opening **opening, struct err *err)
{
    return err_set(err, ENOSYS, "there are no networks here");
}
void net_opening_cancel(struct net_opening *opening) {}
int net_taps_open(json_t *config, int *fds, unsigned room, unsigned *count, struct err *err)
{
    return 0;
}

/* ---- a store that forgets ---- */

static struct store store;
static uint64_t revision;

struct txn {
    store_done done;
    void *arg;
    struct err err;
    int result;
};

static void txn_done(void *arg)
{
    struct txn txn = *(struct txn *)arg;
    free(arg);
    txn.done(txn.arg, txn.result, ++revision, txn.result < 0 ? &txn.err : NULL);
}

static void txn(struct store *s, const struct store_op *ops, unsigned count, store_done done,
                void *arg)
{
    struct txn *txn = calloc(1, sizeof *txn);
    struct err ignored;
    if (!txn)
        abort();
    txn->done = done;
    txn->arg = arg;
    txn->result = store_txn_check(ops, count, &txn->err);
    for (unsigned i = 0; i < count && txn->result == 0; i++) {
        json_t *json = NULL; /* names' values are words */
        if (ops[i].value && ops[i].value[0] == '{')
            assert(json_parse(ops[i].value, ops[i].len, &json, &ignored) == 0);
        json_decref(json);
    }
    if (txn->result == 0 && rig_world.store_fails)
        txn->result = err_set(&txn->err, ENOSPC, "the disk is full");
    loop_post(s->loop, txn_done, txn);
}

static int load(struct store *s, const char *prefix,
                void (*each)(void *arg, const struct store_entry *entry), void *arg, uint64_t *at,
                struct err *err)
{
    *at = revision;
    return 0;
}

static int backup(struct store *s, const char *path, struct err *err)
{
    return err_set(err, ENOTSUP, "there is nothing to copy");
}

/* ---- life ---- */

static const char *const kinds[] = { "images", "disks", "vms", "jobs", "users", "tokens", NULL };

static void object_changed(void *arg, struct object *object, const json_t *was, const json_t *now)
{
    if (strcmp(object->kind, "vms") == 0)
        vms_changed(arg, object, was, now);
}

void rig_begin(struct daemon *daemon, const char *dir)
{
    static const struct store_type type = {
        .name = "rig", .txn = txn, .load = load, .backup = backup
    };
    struct err err = { 0 };
    *daemon = (struct daemon){ .user = true, .store = &store };
    snprintf(daemon->state_dir, sizeof daemon->state_dir, "%s/s", dir);
    snprintf(daemon->run_dir, sizeof daemon->run_dir, "%s/r", dir);
    (void)mkdir(dir, 0700);
    (void)mkdir(daemon->state_dir, 0700);
    (void)mkdir(daemon->run_dir, 0700);
    rig_world = (struct rig_world){ 0 };
    rig_daemon = daemon;
    revision = 0;
    int r = loop_create(&daemon->loop, &err);
    assert(r == 0);
    store = (struct store){ &type, daemon->loop };
    r = objects_create(daemon->store, kinds, object_changed, daemon, &daemon->objects, &err);
    assert(r == 0);
    r = audit_start(daemon, &err);
    assert(r == 0);
    r = vms_start(daemon, &err);
    assert(r == 0);
    r = images_start(daemon, &err);
    assert(r == 0);
    r = disks_start(daemon, &err);
    assert(r == 0);
    r = jobs_start(daemon, &err);
    assert(r == 0);
}

void rig_end(struct daemon *daemon)
{
    rig_settle(daemon);
    jobs_stop();
    disks_stop();
    images_stop();
    vms_stop(daemon);
    rig_settle(daemon); /* programs that were let go */
    audit_stop();
    objects_destroy(daemon->objects);
    loop_destroy(daemon->loop);
    dir_remove(daemon->state_dir);
    dir_remove(daemon->run_dir);
}
