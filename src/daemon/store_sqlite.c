/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The store on one host: SQLite in WAL mode with synchronous=FULL, so that what was answered
 * survives a power cut.
 *
 * A thread owns the connection. Transactions that come while one is being synced wait in a queue
 * and then share the next commit: each in a savepoint of its own, so one that fails its comparison
 * takes no other with it. Changes are kept in a log table for a while, for watches that begin in
 * the past.
 */
#include "daemon/store_sqlite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum {
    BATCH_MAX = 256,
    BUSY_MS = 5000,
};

struct txn {
    struct txn *next;
    struct store_op *ops; /* with keys and values of its own behind them */
    unsigned count;
    store_done done;
    void *arg;
    int result;
    uint64_t revision;
    struct err err;
};

int sqlite_error(struct sqlite_store *s, struct err *err, const char *what)
{
    int code = sqlite3_errcode(s->db) & 0xff;
    int number = code == SQLITE_FULL ? ENOSPC : code == SQLITE_BUSY ? EBUSY : EIO;
    return err_set(err, number, "%s: %s%s", what, sqlite3_errmsg(s->db),
                   code == SQLITE_FULL ? "; make room on the disk of the state directory" : "");
}

int64_t sqlite_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now); /* leases do not care for the wall clock's jumps */
    return now.tv_sec;
}

/* ---- one transaction, on the connection's owner ---- */

void sqlite_bind(sqlite3_stmt *stmt, int at, const char *text)
{
    sqlite3_bind_text(stmt, at, text, -1, SQLITE_STATIC);
}

static uint64_t key_revision(struct sqlite_store *s, const char *key)
{
    uint64_t revision = 0;
    sqlite_bind(s->sql.get, 1, key);
    if (sqlite3_step(s->sql.get) == SQLITE_ROW)
        revision = (uint64_t)sqlite3_column_int64(s->sql.get, 0);
    sqlite3_reset(s->sql.get);
    return revision;
}

static int run(struct sqlite_store *s, sqlite3_stmt *stmt, struct err *err)
{
    int code = sqlite3_step(stmt);
    sqlite3_reset(stmt);
    sqlite3_clear_bindings(stmt);
    return code == SQLITE_DONE || code == SQLITE_ROW ? 0 : sqlite_error(s, err, "the store");
}

static int op_write(struct sqlite_store *s, const struct store_op *op, uint64_t revision,
                    struct err *err)
{
    int r;
    if (op->value) {
        sqlite_bind(s->sql.put, 1, op->key);
        sqlite3_bind_text(s->sql.put, 2, op->value, (int)op->len, SQLITE_STATIC);
        sqlite3_bind_int64(s->sql.put, 3, (sqlite3_int64)revision);
        sqlite3_bind_int64(s->sql.put, 4, (sqlite3_int64)op->lease);
        r = run(s, s->sql.put, err);
    } else {
        sqlite_bind(s->sql.delete, 1, op->key);
        r = run(s, s->sql.delete, err);
    }
    if (r < 0)
        return r;
    sqlite3_bind_int64(s->sql.log, 1, (sqlite3_int64)revision);
    sqlite_bind(s->sql.log, 2, op->key);
    if (op->value)
        sqlite3_bind_text(s->sql.log, 3, op->value, (int)op->len, SQLITE_STATIC);
    return run(s, s->sql.log, err);
}

/* A deleted key that was not there changes nothing and is not logged. */
static bool op_changes(struct sqlite_store *s, const struct store_op *op)
{
    return !op->only_compare && (op->value || key_revision(s, op->key));
}

static int lease_alive(struct sqlite_store *s, uint64_t lease, struct err *err)
{
    sqlite3_bind_int64(s->sql.lease_get, 1, (sqlite3_int64)lease);
    int code = sqlite3_step(s->sql.lease_get);
    sqlite3_reset(s->sql.lease_get);
    return code == SQLITE_ROW ? 0 : err_set(err, ENOENT, "the lease has ended");
}

static int txn_apply(struct sqlite_store *s, struct txn *txn, struct err *err)
{
    bool changes = false;
    for (unsigned i = 0; i < txn->count; i++) {
        const struct store_op *op = &txn->ops[i];
        if (op->expect != STORE_ANY && key_revision(s, op->key) != op->expect)
            return err_set(err, EAGAIN, "%s was changed meanwhile", op->key);
        int r = op->lease ? lease_alive(s, op->lease, err) : 0;
        if (r < 0)
            return r;
        changes |= op_changes(s, op);
    }
    uint64_t revision = s->revision + (changes ? 1 : 0);
    for (unsigned i = 0; i < txn->count; i++)
        if (op_changes(s, &txn->ops[i])) {
            int r = op_write(s, &txn->ops[i], revision, err);
            if (r < 0)
                return r;
        }
    s->revision = txn->revision = revision;
    return 0;
}

int sqlite_run(struct sqlite_store *s, const char *sql, struct err *err)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK
               ? 0
               : sqlite_error(s, err, "the store");
}

/* ---- the thread: batches share one commit ---- */

static void batch_fail(struct txn *batch, const struct err *err)
{
    for (struct txn *t = batch; t; t = t->next) {
        t->result = -err->code;
        t->err = *err;
    }
}

static void batch_run(struct sqlite_store *s, struct txn *batch)
{
    struct err err;
    uint64_t before = s->revision;
    if (sqlite_run(s, "BEGIN IMMEDIATE", &err) < 0) {
        batch_fail(batch, &err);
        return;
    }
    for (struct txn *t = batch; t; t = t->next) {
        uint64_t was = s->revision;
        t->result = sqlite_run(s, "SAVEPOINT one", &t->err);
        if (t->result == 0)
            t->result = txn_apply(s, t, &t->err);
        if (t->result < 0) {
            s->revision = was;
            sqlite_run(s, "ROLLBACK TO one", NULL);
        }
        sqlite_run(s, "RELEASE one", NULL);
    }
    sqlite3_bind_int64(s->sql.trim, 1, (sqlite3_int64)s->revision - LOG_KEPT);
    run(s, s->sql.trim, NULL);
    if (sqlite_run(s, "COMMIT", &err) < 0) {
        sqlite_run(s, "ROLLBACK", NULL);
        s->revision = before;
        batch_fail(batch, &err);
    }
}

static void sqlite_free(struct sqlite_store *s);

void sqlite_post(struct sqlite_store *s, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&s->lock);
    s->posted++;
    pthread_mutex_unlock(&s->lock);
    loop_post(s->store.loop, fn, arg);
}

/* Called by what was posted, last of all. */
void sqlite_post_ran(struct sqlite_store *s)
{
    pthread_mutex_lock(&s->lock);
    bool last = --s->posted == 0 && s->stopping;
    pthread_mutex_unlock(&s->lock);
    if (last)
        sqlite_free(s);
}

struct finished {
    struct sqlite_store *store;
    struct txn *batch;
};

static void txn_free(struct txn *txn)
{
    free(txn->ops);
    free(txn);
}

/* Loop. */
static void batch_finished(void *arg)
{
    struct finished *finished = arg;
    struct txn *next;
    for (struct txn *t = finished->batch; t; t = next) {
        next = t->next;
        if (!finished->store->stopping)
            t->done(t->arg, t->result, t->revision, t->result < 0 ? &t->err : NULL);
        txn_free(t);
    }
    if (!finished->store->stopping)
        sqlite_watches_tell(finished->store);
    sqlite_post_ran(finished->store);
    free(finished);
}

static void *store_thread(void *arg)
{
    struct sqlite_store *s = arg;
    for (;;) {
        struct finished *finished = calloc(1, sizeof *finished);
        if (!finished)
            abort();
        finished->store = s;
        pthread_mutex_lock(&s->lock);
        while (!s->queue && !s->stopping)
            pthread_cond_wait(&s->wake, &s->lock);
        struct txn **end = &finished->batch;
        for (unsigned n = 0; s->queue && n < BATCH_MAX; n++) {
            *end = s->queue;
            end = &s->queue->next;
            s->queue = s->queue->next;
        }
        *end = NULL;
        if (!s->queue)
            s->queue_end = &s->queue;
        pthread_mutex_unlock(&s->lock);
        if (!finished->batch) {
            free(finished);
            return NULL;
        }
        pthread_mutex_lock(&s->db_lock);
        batch_run(s, finished->batch);
        pthread_mutex_unlock(&s->db_lock);
        sqlite_post(s, batch_finished, finished);
    }
}

static void sqlite_txn(struct store *store, const struct store_op *ops, unsigned count,
                       store_done done, void *arg)
{
    struct sqlite_store *s = sqlite_of(store);
    size_t bytes = 0;
    for (unsigned i = 0; i < count; i++)
        bytes += strlen(ops[i].key) + 1 + (ops[i].value ? ops[i].len + 1 : 0);
    struct txn *txn = calloc(1, sizeof *txn);
    if (!txn)
        abort();
    txn->ops = malloc(count * sizeof *ops + bytes);
    if (!txn->ops)
        abort();
    char *at = (char *)(txn->ops + count);
    memcpy(txn->ops, ops, count * sizeof *ops);
    for (unsigned i = 0; i < count; i++) {
        txn->ops[i].key = strcpy(at, ops[i].key);
        at += strlen(at) + 1;
        if (!ops[i].value)
            continue;
        txn->ops[i].value = memcpy(at, ops[i].value, ops[i].len);
        at[ops[i].len] = 0;
        at += ops[i].len + 1;
    }
    txn->count = count;
    txn->done = done;
    txn->arg = arg;
    LOCKED(&s->lock);
    *s->queue_end = txn;
    s->queue_end = &txn->next;
    pthread_cond_signal(&s->wake);
}

/* ---- reading ---- */

/* The first key behind all with this prefix. */
char *sqlite_prefix_end(const char *prefix)
{
    char *end = strdup(prefix);
    if (!end)
        abort();
    end[strlen(end) - 1]++; /* prefixes end with a plain character */
    return end;
}

void sqlite_row(sqlite3_stmt *stmt, struct store_entry *out)
{
    *out = (struct store_entry){ .key = (const char *)sqlite3_column_text(stmt, 0),
                                 .value = (const char *)sqlite3_column_text(stmt, 1),
                                 .len = (size_t)sqlite3_column_bytes(stmt, 1),
                                 .revision = (uint64_t)sqlite3_column_int64(stmt, 2) };
}

static int sqlite_load(struct store *store, const char *prefix,
                       void (*each)(void *arg, const struct store_entry *entry), void *arg,
                       uint64_t *revision, struct err *err)
{
    struct sqlite_store *s = sqlite_of(store);
    AUTO(free) char *end = sqlite_prefix_end(prefix);
    int code;
    LOCKED(&s->db_lock);
    sqlite_bind(s->sql.load, 1, prefix);
    sqlite_bind(s->sql.load, 2, end);
    while ((code = sqlite3_step(s->sql.load)) == SQLITE_ROW) {
        struct store_entry entry;
        sqlite_row(s->sql.load, &entry);
        each(arg, &entry);
    }
    sqlite3_reset(s->sql.load);
    *revision = s->revision;
    return code == SQLITE_DONE ? 0 : sqlite_error(s, err, "the store cannot be read");
}

/* ---- leases ---- */

static int lease_set(struct sqlite_store *s, uint64_t lease, unsigned seconds, struct err *err)
{
    sqlite3_bind_int64(s->sql.lease_put, 1, (sqlite3_int64)lease);
    sqlite3_bind_int64(s->sql.lease_put, 2, seconds);
    sqlite3_bind_int64(s->sql.lease_put, 3, sqlite_now() + seconds);
    return run(s, s->sql.lease_put, err);
}

static int sqlite_lease_grant(struct store *store, unsigned seconds, uint64_t *lease,
                              struct err *err)
{
    struct sqlite_store *s = sqlite_of(store);
    LOCKED(&s->db_lock);
    do
        sqlite3_randomness(sizeof *lease, lease);
    while ((*lease &= INT64_MAX) == 0);
    return lease_set(s, *lease, seconds, err);
}

static int sqlite_lease_keep(struct store *store, uint64_t lease, struct err *err)
{
    struct sqlite_store *s = sqlite_of(store);
    LOCKED(&s->db_lock);
    sqlite3_bind_int64(s->sql.lease_get, 1, (sqlite3_int64)lease);
    int code = sqlite3_step(s->sql.lease_get);
    unsigned seconds = (unsigned)sqlite3_column_int64(s->sql.lease_get, 0);
    bool over = sqlite3_column_int64(s->sql.lease_get, 1) < sqlite_now();
    sqlite3_reset(s->sql.lease_get);
    if (code != SQLITE_ROW || over)
        return err_set(err, ENOENT, "the lease has ended");
    return lease_set(s, lease, seconds, err);
}

static void nobody_waits(void *arg, int result, uint64_t revision, const struct err *err) {}

/* Its keys go by an ordinary transaction, so that watches hear of it. */
static void lease_end(struct sqlite_store *s, uint64_t lease)
{
    struct store_op ops[STORE_OPS_MAX];
    unsigned count = 0;
    {
        LOCKED(&s->db_lock);
        sqlite3_bind_int64(s->sql.lease_keys, 1, (sqlite3_int64)lease);
        while (count < STORE_OPS_MAX && sqlite3_step(s->sql.lease_keys) == SQLITE_ROW) {
            char *key = strdup((const char *)sqlite3_column_text(s->sql.lease_keys, 0));
            if (!key)
                abort();
            ops[count++] = (struct store_op){
                .key = key,
                .expect = (uint64_t)sqlite3_column_int64(s->sql.lease_keys, 1),
            };
        }
        sqlite3_reset(s->sql.lease_keys);
        if (count < STORE_OPS_MAX) { /* all of them: the lease itself goes, too */
            sqlite3_bind_int64(s->sql.lease_delete, 1, (sqlite3_int64)lease);
            run(s, s->sql.lease_delete, NULL);
        }
    }
    for (unsigned i = 0; i < count; i++) {
        /* One by one: a key that was written anew under another lease stays. */
        sqlite_txn(&s->store, &ops[i], 1, nobody_waits, NULL);
        free((char *)ops[i].key);
    }
}

static int sqlite_lease_revoke(struct store *store, uint64_t lease, struct err *err)
{
    struct sqlite_store *s = sqlite_of(store);
    int r;
    {
        LOCKED(&s->db_lock);
        r = lease_alive(s, lease, err);
    }
    if (r == 0)
        lease_end(s, lease);
    return r;
}

static void leases_look(void *arg)
{
    struct sqlite_store *s = arg;
    uint64_t over[64];
    if (s->stopping)
        return;
    unsigned count = 0;
    {
        LOCKED(&s->db_lock);
        sqlite3_bind_int64(s->sql.leases_over, 1, sqlite_now());
        while (count < 64 && sqlite3_step(s->sql.leases_over) == SQLITE_ROW)
            over[count++] = (uint64_t)sqlite3_column_int64(s->sql.leases_over, 0);
        sqlite3_reset(s->sql.leases_over);
    }
    for (unsigned i = 0; i < count; i++)
        lease_end(s, over[i]);
    loop_timer_arm(s->lease_timer, monotonic_ns() + 500000000ull);
}

/* ---- life ---- */

/* Leases were counted by a clock that begins anew when the host starts. */
static int leases_adopt(struct sqlite_store *s, struct err *err)
{
    char sql[160];
    snprintf(sql, sizeof sql, "UPDATE lease SET ends = %lld + seconds", (long long)sqlite_now());
    return sqlite_run(s, sql, err);
}

static void unprepare(struct sqlite_store *s)
{
    sqlite3_stmt *stmt;
    while (s->db && (stmt = sqlite3_next_stmt(s->db, NULL)))
        sqlite3_finalize(stmt);
}

static void sqlite_free(struct sqlite_store *s)
{
    if (!s)
        return;
    if (s->lease_timer)
        loop_timer_destroy(s->lease_timer);
    sqlite_watches_free(s);
    unprepare(s);
    sqlite3_close(s->db);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->db_lock);
    pthread_cond_destroy(&s->wake);
    free(s);
}
DEFINE_AUTO(struct sqlite_store *, sqlite_free)

static void sqlite_close_store(struct store *store)
{
    struct sqlite_store *s = sqlite_of(store);
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    if (!s->posted)
        sqlite_free(s);
}

static const struct store_type sqlite_type = {
    .name = "sqlite",
    .close = sqlite_close_store,
    .txn = sqlite_txn,
    .load = sqlite_load,
    .watch = sqlite_watch,
    .unwatch = sqlite_unwatch,
    .lease_grant = sqlite_lease_grant,
    .lease_keep = sqlite_lease_keep,
    .lease_revoke = sqlite_lease_revoke,
    .backup = sqlite_backup_to,
};

int store_sqlite_open(struct loop *loop, const char *path, struct store **out, struct err *err)
{
    struct sqlite_store *made = calloc(1, sizeof *made);
    if (!made)
        return err_set(err, ENOMEM, "out of memory");
    pthread_mutex_init(&made->lock, NULL);
    pthread_mutex_init(&made->db_lock, NULL);
    pthread_cond_init(&made->wake, NULL);
    AUTO(sqlite_free) struct sqlite_store *s = made;
    s->store = (struct store){ &sqlite_type, loop };
    s->queue_end = &s->queue;

    mode_t mask = umask(0077);
    int code = sqlite3_open_v2(
        path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    umask(mask);
    if (code != SQLITE_OK)
        return err_set(err, EIO, "cannot open the store %s: %s", path, sqlite3_errmsg(s->db));
    sqlite3_busy_timeout(s->db, BUSY_MS);
    int r = sqlite_file_open(s, path, err);
    if (r == 0)
        r = leases_adopt(s, err);
    if (r == 0)
        r = loop_timer_create(loop, leases_look, s, &s->lease_timer, err);
    if (r < 0)
        return r;
    r = pthread_create(&s->thread, NULL, store_thread, s);
    if (r)
        return err_errno(err, r, "cannot start the store's thread");
    loop_timer_arm(s->lease_timer, monotonic_ns() + 500000000ull);
    *out = &((struct sqlite_store *)TAKE(s))->store;
    return 0;
}
