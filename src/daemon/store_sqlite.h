/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of the SQLite engine share.
 *
 *   store_sqlite.c        transactions and their thread, reading, leases
 *   store_sqlite_watch.c  watches
 *   store_sqlite_file.c   the file: its versions, its integrity, its copy
 */
#ifndef DAEMON_STORE_SQLITE_H
#define DAEMON_STORE_SQLITE_H

#include "daemon/store.h"

#include <pthread.h>
#include <sqlite3.h>

enum { LOG_KEPT = 20000 /* changes that watches can begin before */ };

struct store_watch {
    struct store_watch *next;
    struct sqlite_store *store;
    struct store_follower follower;
    uint64_t seen; /* changes up to here were told */
    bool dead;     /* unwatched while it is being called */
};

struct sqlite_store {
    struct store store;
    pthread_t thread;
    pthread_mutex_t lock; /* of the queue */
    pthread_cond_t wake;
    struct txn *queue, **queue_end;
    bool stopping;
    unsigned posted; /* to the loop and not yet run: the last one after close frees; loop and
                        thread, under lock */

    pthread_mutex_t db_lock; /* of the connection */
    sqlite3 *db;
    uint64_t revision;
    struct {
        sqlite3_stmt *get, *put, *delete, *log, *trim, *load, *log_load, *lease_put, *lease_delete,
            *leases_over, *lease_keys, *lease_get;
    } sql;
    struct store_watch *watches; /* loop */
    unsigned calling;            /* watches are being called */
    struct loop_timer *lease_timer;
};

static inline struct sqlite_store *sqlite_of(struct store *store)
{
    return (struct sqlite_store *)store;
}

/* ---- store_sqlite.c ---- */

/* What SQLite says, as ours. The connection's owner. */
int sqlite_error(struct sqlite_store *s, struct err *err, const char *what);
int sqlite_run(struct sqlite_store *s, const char *sql, struct err *err);
void sqlite_bind(sqlite3_stmt *stmt, int at, const char *text);
int64_t sqlite_now(void); /* seconds, for leases */
/* The first key behind all with this prefix; the caller frees it. */
char *sqlite_prefix_end(const char *prefix);
void sqlite_row(sqlite3_stmt *stmt, struct store_entry *out); /* key, value, revision */
/* Runs it on the loop while the store lives; it calls sqlite_post_ran last of all. */
void sqlite_post(struct sqlite_store *s, void (*fn)(void *arg), void *arg);
void sqlite_post_ran(struct sqlite_store *s);

/* ---- store_sqlite_watch.c ---- */

int sqlite_watch(struct store *store, uint64_t after, const struct store_follower *follower,
                 struct store_watch **out, struct err *err);
void sqlite_unwatch(struct store_watch *watch);
void sqlite_watches_tell(struct sqlite_store *s); /* what changed */
void sqlite_watches_free(struct sqlite_store *s);

/* ---- store_sqlite_file.c ---- */

/* Checks it, brings it to our version, prepares the statements. */
int sqlite_file_open(struct sqlite_store *s, const char *path, struct err *err);
int sqlite_backup_to(struct store *store, const char *path, struct err *err);

#endif
