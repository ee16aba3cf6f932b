/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the daemon keeps what must not be lost: keys with revisions, transactions that compare and
 * swap, watches and leases. On one host it is SQLite; in a cluster etcd, which has the same
 * notions.
 *
 * Each transaction that changes something gets a revision, one higher than the one before; a key
 * remembers the revision of its last change. Values are JSON texts of at most STORE_VALUE_MAX
 * bytes, a transaction has at most STORE_OPS_MAX operations: etcd's usual limits.
 *
 * All on the loop given at creation, except that the engine may work on threads of its own.
 * Call-backs never run inside the call that asked for them.
 */
#ifndef DAEMON_STORE_H
#define DAEMON_STORE_H

#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store;
struct store_watch;

enum {
    STORE_KEY_MAX = 512,
    STORE_VALUE_MAX = 1 << 20,
    STORE_OPS_MAX = 100,
    STORE_BYTES_MAX = 1400 << 10
};
#define STORE_ANY UINT64_MAX

struct store_op {
    const char *key;   /* "/vms/UUID": no empty parts, no control characters */
    const char *value; /* NULL: the key goes */
    size_t len;
    uint64_t expect;   /* the key's revision must be this; 0: there must be none; STORE_ANY */
    uint64_t lease;    /* the key goes when this lease ends; 0: none */
    bool only_compare; /* nothing is written, only `expect` is looked at */
};

struct store_entry {
    const char *key,
        *value; /* value NULL: was deleted (watches only); NUL-terminated all the same */
    size_t len;
    uint64_t revision; /* of the last change */
};

/* result: 0; -EAGAIN: a comparison failed, nothing was written; another -errno with err. */
typedef void (*store_done)(void *arg, int result, uint64_t revision, const struct err *err);

/* Who watches what. */
struct store_follower {
    char *prefix;
    void (*changed)(void *arg, const struct store_entry *entry);
    void (*lost)(void *arg);
    void *arg;
};

struct store_type {
    const char *name;
    void (*close)(struct store *store);
    void (*txn)(struct store *store, const struct store_op *ops, unsigned count, store_done done,
                void *arg);
    int (*load)(struct store *store, const char *prefix,
                void (*each)(void *arg, const struct store_entry *entry), void *arg,
                uint64_t *revision, struct err *err);
    int (*watch)(struct store *store, uint64_t after, const struct store_follower *follower,
                 struct store_watch **out, struct err *err);
    void (*unwatch)(struct store_watch *watch);
    int (*lease_grant)(struct store *store, unsigned seconds, uint64_t *lease, struct err *err);
    int (*lease_keep)(struct store *store, uint64_t lease, struct err *err);
    int (*lease_revoke)(struct store *store, uint64_t lease, struct err *err);
    int (*backup)(struct store *store, const char *path, struct err *err);
};

struct store {
    const struct store_type *type;
    struct loop *loop;
};

/* One file (and SQLite's -wal and -shm beside it), made when missing. Its integrity is checked. */
int store_sqlite_open(struct loop *loop, const char *path, struct store **out, struct err *err);

/* Where an etcd is, and as whom it is asked. All but the URL may be NULL. */
struct etcd_place {
    const char *url;               /* http://HOST:PORT or https://HOST:PORT */
    const char *ca;                /* PEM file: who signs etcd's certificate; else the host's own */
    const char *certificate, *key; /* PEM files: ours, for an etcd that wants one */
    const char *user, *password_file;
};

/* An etcd (3.4 or later) by its JSON gateway; `prefix` ("/bedplate") is put before each key.
 * `place` is borrowed until the store is closed. */
int store_etcd_open(struct loop *loop, const struct etcd_place *place, const char *prefix,
                    struct store **out, struct err *err);

/* Transactions that were asked for are carried out first; their call-backs do not come any more. */
static inline void store_close(struct store *store)
{
    if (store)
        store->type->close(store);
}
DEFINE_AUTO(struct store *, store_close)

/* All or nothing. ops are copied. Breaking the limits above gives -E2BIG. */
void store_txn(struct store *store, const struct store_op *ops, unsigned count, store_done done,
               void *arg);

/* Everything below a prefix at one revision, in the order of keys; waits. */
static inline int store_load(struct store *store, const char *prefix,
                             void (*each)(void *arg, const struct store_entry *entry), void *arg,
                             uint64_t *revision, struct err *err)
{
    return store->type->load(store, prefix, each, arg, revision, err);
}

/* Calls `changed` for every change below the prefix after that revision, in order. `lost`: the
 * store no longer knows all changes since then (compaction) or was gone too long: load again and
 * watch anew. */
static inline int store_watch(struct store *store, const char *prefix, uint64_t after,
                              void (*changed)(void *arg, const struct store_entry *entry),
                              void (*lost)(void *arg), void *arg, struct store_watch **out,
                              struct err *err)
{
    const struct store_follower follower = { (char *)prefix, changed, lost, arg };
    return store->type->watch(store, after, &follower, out, err);
}

/* A lease lives `seconds` after it was granted or last kept; then its keys are deleted. */
static inline int store_lease_grant(struct store *store, unsigned seconds, uint64_t *lease,
                                    struct err *err)
{
    return store->type->lease_grant(store, seconds, lease, err);
}
/* -ENOENT: it has ended. */
static inline int store_lease_keep(struct store *store, uint64_t lease, struct err *err)
{
    return store->type->lease_keep(store, lease, err);
}
static inline int store_lease_revoke(struct store *store, uint64_t lease, struct err *err)
{
    return store->type->lease_revoke(store, lease, err);
}

/* A consistent copy into a new file, while the store is in use. -ENOTSUP: the engine has its own
 * way. */
static inline int store_backup(struct store *store, const char *path, struct err *err)
{
    return store->type->backup(store, path, err);
}

/* For engines: a copy with a prefix of its own, which store_follower_fini() frees. */
int store_follower_copy(struct store_follower *to, const struct store_follower *from,
                        struct err *err);
static inline void store_follower_fini(struct store_follower *follower) { free(follower->prefix); }
/* For engines: limits and keys of a transaction. */
int store_txn_check(const struct store_op *ops, unsigned count, struct err *err);

#endif
