/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The file of the SQLite engine: its tables by version, its integrity, its copy. */
#include "daemon/store_sqlite.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SCHEMA = 1 };

/* Migrations by version: entry i takes a store of version i to i + 1. */
static const char *const migrations[] = {
    "CREATE TABLE kv (key TEXT PRIMARY KEY, value TEXT NOT NULL, revision INTEGER NOT NULL,"
    " lease INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE INDEX kv_lease ON kv (lease) WHERE lease != 0;"
    "CREATE TABLE log (n INTEGER PRIMARY KEY, revision INTEGER NOT NULL, key TEXT NOT NULL,"
    " value TEXT);"
    "CREATE INDEX log_revision ON log (revision);"
    "CREATE TABLE lease (id INTEGER PRIMARY KEY, seconds INTEGER NOT NULL, ends INTEGER NOT NULL);"
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL);",
};
_Static_assert(sizeof migrations / sizeof *migrations == SCHEMA, "one for each version");

static int64_t query_number(struct sqlite_store *s, const char *sql)
{
    sqlite3_stmt *stmt;
    int64_t value = 0;
    if (sqlite3_prepare_v2(s->db, sql, -1, &stmt, NULL) != SQLITE_OK)
        return -1;
    if (sqlite3_step(stmt) == SQLITE_ROW)
        value = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return value;
}

static int integrity(struct sqlite_store *s, const char *path, struct err *err)
{
    sqlite3_stmt *stmt;
    bool good = false;
    char why[200] = "it cannot be read";
    if (sqlite3_prepare_v2(s->db, "PRAGMA quick_check(1)", -1, &stmt, NULL) == SQLITE_OK) {
        if (sqlite3_step(stmt) == SQLITE_ROW) {
            const char *text = (const char *)sqlite3_column_text(stmt, 0);
            good = text && strcmp(text, "ok") == 0;
            snprintf(why, sizeof why, "%.190s", text ? text : "");
        }
        sqlite3_finalize(stmt);
    }
    return good ? 0
                : err_set(err, EIO, "the store %s is damaged (%s); put a backup in its place", path,
                          why);
}

static int migrate(struct sqlite_store *s, const char *path, struct err *err)
{
    int64_t version = query_number(s, "PRAGMA user_version");
    if (version > SCHEMA)
        return err_set(err, EINVAL,
                       "the store %s was written by a newer release (version %lld, this one knows "
                       "%d); run that release",
                       path, (long long)version, SCHEMA);
    for (; version >= 0 && version < SCHEMA; version++) {
        char stamp[64];
        snprintf(stamp, sizeof stamp, "PRAGMA user_version = %lld", (long long)version + 1);
        int r = sqlite_run(s, "BEGIN IMMEDIATE", err);
        if (r == 0)
            r = sqlite_run(s, migrations[version], err);
        if (r == 0)
            r = sqlite_run(s, stamp, err);
        if (r == 0)
            r = sqlite_run(s, "COMMIT", err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int prepare(struct sqlite_store *s, struct err *err)
{
    const struct {
        sqlite3_stmt **stmt;
        const char *sql;
    } all[] = {
        { &s->sql.get, "SELECT revision FROM kv WHERE key = ?" },
        { &s->sql.put,
          "INSERT INTO kv VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
          " value = excluded.value, revision = excluded.revision, lease = excluded.lease" },
        { &s->sql.delete, "DELETE FROM kv WHERE key = ?" },
        { &s->sql.log, "INSERT INTO log (revision, key, value) VALUES (?, ?, ?)" },
        { &s->sql.trim, "DELETE FROM log WHERE revision < ?" },
        { &s->sql.load,
          "SELECT key, value, revision FROM kv WHERE key >= ? AND key < ? ORDER BY key" },
        { &s->sql.log_load, "SELECT key, value, revision FROM log WHERE revision > ? AND key >= ?"
                            " AND key < ? ORDER BY n" },
        { &s->sql.lease_put, "INSERT OR REPLACE INTO lease VALUES (?, ?, ?)" },
        { &s->sql.lease_delete, "DELETE FROM lease WHERE id = ?" },
        { &s->sql.leases_over, "SELECT id FROM lease WHERE ends < ? LIMIT 64" },
        { &s->sql.lease_keys, "SELECT key, revision FROM kv WHERE lease = ? LIMIT 100" },
        { &s->sql.lease_get, "SELECT seconds, ends FROM lease WHERE id = ?" },
    };
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        if (sqlite3_prepare_v3(s->db, all[i].sql, -1, SQLITE_PREPARE_PERSISTENT, all[i].stmt,
                               NULL) != SQLITE_OK)
            return sqlite_error(s, err, "the store");
    return 0;
}

/* The highest revision that ever was survives its keys' deletion in the log, which always keeps the
 * last changes. */
static uint64_t last_revision(struct sqlite_store *s)
{
    return (uint64_t)query_number(s, "SELECT max(coalesce((SELECT max(revision) FROM log), 0),"
                                     " coalesce((SELECT max(revision) FROM kv), 0))");
}

int sqlite_file_open(struct sqlite_store *s, const char *path, struct err *err)
{
    int r = integrity(s, path, err);
    if (r == 0)
        r = sqlite_run(s,
                       "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                       "PRAGMA cache_size = -2000",
                       err);
    if (r == 0)
        r = migrate(s, path, err);
    if (r == 0)
        r = prepare(s, err);
    if (r == 0)
        s->revision = last_revision(s);
    return r;
}

/* ---- backup ---- */

static bool folder_writable(const char *path)
{
    char folder[PATH_MAX];
    int len = snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (len >= (int)sizeof folder || !slash)
        return false;
    slash[slash == folder] = 0;
    return access(folder, W_OK | X_OK) == 0;
}

int sqlite_backup_to(struct store *store, const char *path, struct err *err)
{
    struct sqlite_store *s = sqlite_of(store);
    sqlite3 *copy = NULL;
    struct stat st;
    if (stat(path, &st) == 0)
        return err_set(err, EEXIST, "%s exists; name a new file", path);
    if (errno != ENOENT || !folder_writable(path))
        return err_set(err, ENOENT,
                       "%s cannot be made; name a file in a folder that the daemon can write to",
                       path);
    LOCKED(&s->db_lock);
    int code = sqlite3_open_v2(path, &copy, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
    sqlite3_backup *backup =
        code == SQLITE_OK ? sqlite3_backup_init(copy, "main", s->db, "main") : NULL;
    if (backup) {
        sqlite3_backup_step(backup, -1);
        code = sqlite3_backup_finish(backup);
    }
    int r = backup && code == SQLITE_OK
                ? 0
                : err_set(err, EIO, "cannot back up to %s: %s", path, sqlite3_errmsg(copy));
    sqlite3_close(copy);
    return r;
}
