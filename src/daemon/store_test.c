/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One suite for every engine of the store.
 *
 *   store_test               SQLite in a temporary directory
 *   store_test etcd URL      an etcd that is empty
 *   store_test etcd-killed URL   an etcd that is killed and started again meanwhile
 *   store_test etcd-secured URL CA CERTIFICATE KEY USER PASSWORD-FILE
 *                            an etcd that wants all these, and whose tokens live for 2 seconds
 * The last three by tests/daemon/etcd.py.
 */
#include "base/text.h"
#include "daemon/store.h"
#include "daemon/store_etcd.h"

#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct loop *loop;
static struct store *store;
static char path[64];

static struct etcd_place place; /* url NULL: SQLite */

static int engine_open(struct err *err)
{
    return place.url ? store_etcd_open(loop, &place, "/test", &store, err)
                     : store_sqlite_open(loop, path, &store, err);
}

/* ---- waiting for call-backs ---- */

struct outcome {
    bool done;
    int result;
    uint64_t revision;
    struct err err;
};

static void stop_soon(void *arg) { loop_stop(loop, 0); }

static void txn_done(void *arg, int result, uint64_t revision, const struct err *err)
{
    struct outcome *o = arg;
    *o = (struct outcome){ true, result, revision, { 0 } };
    if (err)
        o->err = *err;
}

static void run_for(unsigned ms)
{
    struct loop_timer *timer;
    assert_int_equal(loop_timer_create(loop, stop_soon, NULL, &timer, NULL), 0);
    loop_timer_arm(timer, monotonic_ns() + ms * 1000000ull);
    loop_run(loop);
    loop_timer_destroy(timer);
}

enum { ROUND_MS = 10, ROUNDS = 6000 }; /* a minute, for hosts that are busy */

static void run_until(const bool *flag)
{
    for (unsigned i = 0; !*flag && i < ROUNDS; i++)
        run_for(ROUND_MS);
    assert_true(*flag);
}

static struct outcome txn(const struct store_op *ops, unsigned count)
{
    struct outcome o = { 0 };
    store_txn(store, ops, count, txn_done, &o);
    assert_false(o.done); /* never inside the call */
    run_until(&o.done);
    return o;
}

static struct store_op put(const char *key, const char *value, uint64_t expect)
{
    return (struct store_op){ .key = key, .value = value, .len = strlen(value), .expect = expect };
}
static struct store_op del(const char *key, uint64_t expect)
{
    return (struct store_op){ .key = key, .expect = expect };
}

struct seen {
    char text[4000];
    bool lost;
};

static void see(void *arg, const struct store_entry *entry)
{
    struct seen *seen = arg;
    size_t at = strlen(seen->text);
    snprintf(seen->text + at, sizeof seen->text - at, "%s=%s ", entry->key,
             entry->value ? entry->value : "(gone)");
    if (entry->value)
        assert_int_equal(strlen(entry->value), entry->len);
}
static void run_until_seen(const struct seen *seen, const char *text)
{
    for (unsigned i = 0; i < ROUNDS && strlen(seen->text) < strlen(text); i++)
        run_for(ROUND_MS);
    assert_string_equal(seen->text, text);
}

static void see_lost(void *arg) { ((struct seen *)arg)->lost = true; }

static const char *load(const char *prefix, struct seen *seen)
{
    uint64_t revision;
    struct err err;
    *seen = (struct seen){ 0 };
    if (store_load(store, prefix, see, seen, &revision, &err) < 0)
        fail_msg("%s", err.text);
    return seen->text;
}

static void count_entry(void *arg, const struct store_entry *entry) { ++*(unsigned *)arg; }

/* ---- the suite ---- */

static void compare_and_swap(void **state)
{
    struct seen seen;
    struct outcome a = txn((struct store_op[]){ put("/t/a", "1", 0) }, 1);
    assert_int_equal(a.result, 0);
    assert_int_equal(txn((struct store_op[]){ put("/t/a", "2", 0) }, 1).result, -EAGAIN);
    struct outcome b = txn((struct store_op[]){ put("/t/a", "2", a.revision) }, 1);
    assert_int_equal(b.result, 0);
    assert_true(b.revision > a.revision);
    assert_int_equal(txn((struct store_op[]){ put("/t/a", "3", a.revision) }, 1).result, -EAGAIN);
    assert_int_equal(txn((struct store_op[]){ put("/t/a", "4", STORE_ANY) }, 1).result, 0);
    assert_string_equal(load("/t/", &seen), "/t/a=4 ");

    /* All or nothing. */
    struct store_op both[] = { put("/t/b", "1", 0), put("/t/a", "5", 0) };
    assert_int_equal(txn(both, 2).result, -EAGAIN);
    assert_string_equal(load("/t/", &seen), "/t/a=4 ");
    struct store_op look[] = { put("/t/b", "1", 0), { .key = "/t/zz", .only_compare = true } };
    assert_int_equal(txn(look, 2).result, 0);
    struct store_op wrong[] = { put("/t/c", "1", 0),
                                { .key = "/t/a", .expect = 1, .only_compare = true } };
    assert_int_equal(txn(wrong, 2).result, -EAGAIN);
    assert_string_equal(load("/t/", &seen), "/t/a=4 /t/b=1 ");

    assert_int_equal(
        txn((struct store_op[]){ del("/t/a", STORE_ANY), del("/t/none", STORE_ANY) }, 2).result, 0);
    assert_string_equal(load("/t/", &seen), "/t/b=1 ");
    assert_int_equal(txn((struct store_op[]){ put("/t/a", "again", 0) }, 1).result, 0);
    assert_int_equal(
        txn((struct store_op[]){ del("/t/a", STORE_ANY), del("/t/b", STORE_ANY) }, 2).result, 0);
    assert_string_equal(load("/t/", &seen), "");
}

static void many_at_once(void **state)
{
    enum { COUNT = 300 };
    static struct outcome outcomes[COUNT];
    struct seen seen;
    memset(outcomes, 0, sizeof outcomes);
    assert_int_equal(txn((struct store_op[]){ put("/m/counter", "0", STORE_ANY) }, 1).result, 0);
    for (unsigned i = 0; i < COUNT; i++) {
        char key[32];
        snprintf(key, sizeof key, "/m/%03u", i);
        struct store_op op = put(key, "x", 0);
        store_txn(store, &op, 1, txn_done, &outcomes[i]);
    }
    for (unsigned i = 0; i < COUNT; i++) {
        run_until(&outcomes[i].done);
        assert_int_equal(outcomes[i].result, 0);
        if (i)
            assert_true(outcomes[i].revision > outcomes[i - 1].revision);
    }
    /* Of many that expect the same revision exactly one wins. */
    uint64_t revision = txn((struct store_op[]){ put("/m/counter", "1", STORE_ANY) }, 1).revision;
    memset(outcomes, 0, sizeof outcomes);
    for (unsigned i = 0; i < 20; i++) {
        struct store_op op = put("/m/counter", "2", revision);
        store_txn(store, &op, 1, txn_done, &outcomes[i]);
    }
    unsigned winners = 0;
    for (unsigned i = 0; i < 20; i++) {
        run_until(&outcomes[i].done);
        winners += outcomes[i].result == 0;
    }
    assert_int_equal(winners, 1);
    load("/m/0", &seen);
    assert_memory_equal(seen.text, "/m/000=x /m/001=x ", 18);
}

static void watches(void **state)
{
    struct seen seen = { 0 }, below = { 0 };
    struct store_watch *w, *v;
    uint64_t start = txn((struct store_op[]){ put("/w/a", "1", STORE_ANY) }, 1).revision;
    txn((struct store_op[]){ put("/w/b", "2", STORE_ANY), put("/x/b", "no", STORE_ANY) }, 2);
    assert_int_equal(store_watch(store, "/w/", start, see, see_lost, &seen, &w, NULL), 0);
    assert_int_equal(store_watch(store, "/w/b", start, see, see_lost, &below, &v, NULL), 0);
    txn((struct store_op[]){ put("/w/a", "3", STORE_ANY) }, 1);
    txn((struct store_op[]){ del("/w/b", STORE_ANY) }, 1);
    run_until_seen(&seen, "/w/b=2 /w/a=3 /w/b=(gone) ");
    run_until_seen(&below, "/w/b=2 /w/b=(gone) ");
    store->type->unwatch(w);
    txn((struct store_op[]){ put("/w/a", "4", STORE_ANY) }, 1);
    run_for(100);
    assert_null(strstr(seen.text, "=4"));
    store->type->unwatch(v);
}

static void leases(void **state)
{
    enum { KEPT_S = 5 }; /* longer than this process may have to wait for a CPU */
    struct seen seen = { 0 }, now;
    struct store_watch *w;
    uint64_t lease, kept;
    struct err err;
    uint64_t revision = txn((struct store_op[]){ put("/l/0", "0", STORE_ANY) }, 1).revision;
    assert_int_equal(store_watch(store, "/l/", revision, see, see_lost, &seen, &w, NULL), 0);
    assert_int_equal(store_lease_grant(store, 2, &lease, &err), 0);
    assert_int_equal(store_lease_grant(store, KEPT_S, &kept, &err), 0);
    struct store_op a = put("/l/a", "1", 0), b = put("/l/b", "1", 0);
    a.lease = lease;
    b.lease = kept;
    assert_int_equal(txn(&a, 1).result, 0);
    assert_int_equal(txn(&b, 1).result, 0);
    uint64_t end = monotonic_ns() + (KEPT_S + 1) * 1000000000ull;
    while (monotonic_ns() < end) {
        run_for(100);
        assert_int_equal(store_lease_keep(store, kept, &err), 0);
    }
    run_until_seen(&seen, "/l/a=1 /l/b=1 /l/a=(gone) ");
    assert_int_equal(store_lease_keep(store, lease, &err), -ENOENT);
    a.expect = 0;
    assert_true(txn(&a, 1).result < 0); /* under a lease that has ended nothing is written */
    assert_int_equal(store_lease_revoke(store, kept, &err), 0);
    run_until_seen(&seen, "/l/a=1 /l/b=1 /l/a=(gone) /l/b=(gone) ");
    assert_string_equal(load("/l/", &now), "/l/0=0 ");
    store->type->unwatch(w);
}

static void limits(void **state)
{
    static char big[STORE_VALUE_MAX + 2];
    char key[600];
    memset(big, 'x', STORE_VALUE_MAX + 1);
    assert_int_equal(txn((struct store_op[]){ put("/big", big, 0) }, 1).result, -E2BIG);
    big[STORE_VALUE_MAX] = 0;
    assert_int_equal(txn((struct store_op[]){ put("/big", big, 0) }, 1).result, 0);
    struct store_op two[] = { put("/big", big, STORE_ANY), put("/big2", big, STORE_ANY) };
    assert_int_equal(txn(two, 2).result, -E2BIG);
    assert_int_equal(txn((struct store_op[]){ del("/big", STORE_ANY) }, 1).result, 0);
    static const char *const bad[] = { "", "/", "a", "/a/", "/a//b", "/a\nb" };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(txn((struct store_op[]){ put(bad[i], "1", STORE_ANY) }, 1).result,
                         -EINVAL);
    memset(key, 'k', sizeof key);
    key[0] = '/';
    key[STORE_KEY_MAX + 1] = 0;
    assert_int_equal(txn((struct store_op[]){ put(key, "1", STORE_ANY) }, 1).result, -EINVAL);
    struct store_op ops[STORE_OPS_MAX + 1];
    char keys[STORE_OPS_MAX + 1][16];
    for (unsigned i = 0; i <= STORE_OPS_MAX; i++) {
        snprintf(keys[i], sizeof keys[i], "/o/%u", i);
        ops[i] = put(keys[i], "1", STORE_ANY);
    }
    assert_int_equal(txn(ops, STORE_OPS_MAX + 1).result, -E2BIG);
    assert_int_equal(txn(ops, STORE_OPS_MAX).result, 0);
    assert_int_equal(
        txn((struct store_op[]){ put("/o/1", "1", STORE_ANY), del("/o/1", STORE_ANY) }, 2).result,
        -EINVAL);
}

/* ---- SQLite's own ---- */

static void reopened(void **state)
{
    struct seen seen;
    struct err err;
    struct outcome a = txn((struct store_op[]){ put("/r/a", "kept", STORE_ANY) }, 1);
    store_close(store);
    assert_int_equal(engine_open(&err), 0);
    assert_string_equal(load("/r/", &seen), "/r/a=kept ");
    struct outcome b = txn((struct store_op[]){ put("/r/a", "next", a.revision) }, 1);
    assert_int_equal(b.result, 0);
    assert_true(b.revision > a.revision);
}

static void old_watch_is_lost(void **state)
{
    struct seen seen = { 0 };
    struct store_watch *w;
    struct outcome last = { 0 };
    for (unsigned i = 0; i < 20100; i++) {
        struct store_op op = put("/many", i % 2 ? "1" : "2", STORE_ANY);
        last.done = false;
        store_txn(store, &op, 1, txn_done, &last);
        if (i % 256 == 255)
            run_until(&last.done);
    }
    run_until(&last.done);
    run_for(50);
    assert_int_equal(store_watch(store, "/many", 1, see, see_lost, &seen, &w, NULL), 0);
    run_until(&seen.lost);
    store->type->unwatch(w);
}

static void backup(void **state)
{
    char copy[80];
    struct err err;
    struct seen seen;
    snprintf(copy, sizeof copy, "%s.copy", path);
    txn((struct store_op[]){ put("/b/a", "1", STORE_ANY) }, 1);
    assert_int_equal(store_backup(store, copy, &err), 0);
    assert_int_equal(store_backup(store, copy, &err), -EEXIST);
    txn((struct store_op[]){ put("/b/a", "2", STORE_ANY) }, 1);
    struct store *first = store;
    assert_int_equal(store_sqlite_open(loop, copy, &store, &err), 0);
    assert_string_equal(load("/b/", &seen), "/b/a=1 ");
    store_close(store);
    store = first;
    unlink(copy);
}

static void damaged(void **state)
{
    char bad[80];
    struct err err = { 0 };
    struct store *none = NULL;
    snprintf(bad, sizeof bad, "%s.bad", path);
    FILE *f = fopen(bad, "w");
    for (unsigned i = 0; i < 10000; i++)
        fputs("no database", f);
    fclose(f);
    assert_true(store_sqlite_open(loop, bad, &none, &err) < 0);
    assert_non_null(strstr(err.text, bad));
    unlink(bad);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(bad, &db), SQLITE_OK);
    sqlite3_exec(db, "PRAGMA user_version = 99", NULL, NULL, NULL);
    sqlite3_close(db);
    assert_true(store_sqlite_open(loop, bad, &none, &err) < 0);
    assert_non_null(strstr(err.text, "newer release"));
    unlink(bad);
}

/* ---- etcd's own ---- */

static void no_backup(void **state)
{
    struct err err;
    assert_int_equal(store_backup(store, "/tmp/copy", &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "etcdctl snapshot save"));
}

static void compacted_watch_is_lost(void **state)
{
    struct etcd *etcd = (struct etcd *)store;
    struct seen seen = { 0 }, late = { 0 };
    struct store_watch *w, *v;
    struct err err;
    uint64_t first = txn((struct store_op[]){ put("/c/a", "1", STORE_ANY) }, 1).revision, last = 0;
    for (unsigned i = 0; i < 5; i++)
        last = txn((struct store_op[]){ put("/c/a", "2", STORE_ANY) }, 1).revision;
    AUTO(json_decref) json_t *answer = NULL;
    json_t *ask = json_pack("{s:o}", "revision", json_sprintf("%llu", (unsigned long long)last));
    assert_int_equal(etcd_call(etcd, etcd->curl, "/v3/kv/compaction", ask, &answer, &err), 0);
    assert_int_equal(store_watch(store, "/c/", first, see, see_lost, &seen, &w, NULL), 0);
    assert_int_equal(store_watch(store, "/c/", last, see, see_lost, &late, &v, NULL), 0);
    run_until(&seen.lost);
    assert_string_equal(seen.text, "");
    txn((struct store_op[]){ put("/c/a", "3", STORE_ANY) }, 1);
    run_until_seen(&late, "/c/a=3 ");
    store->type->unwatch(w);
    store->type->unwatch(v);
}

/* More than one page, and a text that is not ASCII. */
static void many_keys(void **state)
{
    static struct outcome outcomes[1201];
    static struct seen seen;
    char key[32];
    for (unsigned i = 0; i <= 1200; i++) {
        snprintf(key, sizeof key, "/p/%04u", i);
        struct store_op op = put(key, i ? "" : "\xc3\xa4", STORE_ANY);
        store_txn(store, &op, 1, txn_done, &outcomes[i]);
    }
    run_until(&outcomes[1200].done);
    load("/p/0000", &seen);
    assert_string_equal(seen.text, "/p/0000=\xc3\xa4 ");
    unsigned count = 0;
    uint64_t revision;
    struct err err;
    assert_int_equal(store_load(store, "/p/", count_entry, &count, &revision, &err), 0);
    assert_int_equal(count, 1201);
}

/* Each way to ask renews a token that is over. */
static void token_is_renewed(void **state)
{
    enum { TOKEN_MS = 2000 + 1500 }; /* etcd looks for old ones each second */
    struct etcd *etcd = (struct etcd *)store;
    struct seen seen = { 0 };
    struct store_watch *w;
    struct err err;
    uint64_t lease;
    unsigned logins = etcd->logins;
    run_for(TOKEN_MS);
    uint64_t last = txn((struct store_op[]){ put("/t/a", "1", STORE_ANY) }, 1).revision;
    assert_int_equal(etcd->logins, ++logins);
    run_for(TOKEN_MS);
    assert_string_equal(load("/t/", &seen), "/t/a=1 ");
    assert_int_equal(etcd->logins, ++logins);
    run_for(TOKEN_MS);
    assert_int_equal(store_lease_grant(store, 60, &lease, &err), 0);
    assert_int_equal(etcd->logins, ++logins);
    run_for(TOKEN_MS);
    struct seen told = { 0 };
    assert_int_equal(store_watch(store, "/t/", last, see, see_lost, &told, &w, NULL), 0);
    for (unsigned i = 0; i < ROUNDS && etcd->logins == logins; i++)
        run_for(ROUND_MS);
    assert_int_equal(etcd->logins, logins + 1);
    txn((struct store_op[]){ put("/t/a", "2", STORE_ANY) }, 1);
    run_until_seen(&told, "/t/a=2 ");
    store->type->unwatch(w);
}

/* etcd is killed and started again meanwhile (by the script): each number is written on the one
 * before, so what was reported must be what happened. */
static void killed_again_and_again(void **state)
{
    struct seen seen;
    uint64_t revision = 0, end = monotonic_ns() + 12 * 1000000000ull;
    unsigned number = 0, failed = 0;
    while (monotonic_ns() < end) {
        char text[16];
        snprintf(text, sizeof text, "%u", number + 1);
        struct store_op op = put("/k/counter", text, revision);
        struct outcome o = { 0 };
        store_txn(store, &op, 1, txn_done, &o);
        for (unsigned i = 0; !o.done && i < 6000; i++)
            run_for(10);
        assert_true(o.done);
        if (o.result == -EAGAIN)
            fail_msg("number %u, %u failed before: %s", number, failed, o.err.text);
        failed += o.result < 0;
        if (o.result == 0) {
            number++;
            revision = o.revision;
        }
    }
    char want[40];
    snprintf(want, sizeof want, "/k/counter=%u ", number);
    assert_string_equal(load("/k/", &seen), want);
    printf("%u written, %u failed\n", number, failed);
    assert_true(number > 20 && failed > 0);
}

static int setup(void **state)
{
    struct err err;
    if (loop_create(&loop, &err) < 0 || engine_open(&err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return -1;
    }
    return 0;
}

static int teardown(void **state)
{
    store_close(store);
    run_for(1);
    loop_destroy(loop);
    return 0;
}

static const struct CMUnitTest sqlite_tests[] = {
    cmocka_unit_test(compare_and_swap), cmocka_unit_test(many_at_once),
    cmocka_unit_test(watches),          cmocka_unit_test(leases),
    cmocka_unit_test(limits),           cmocka_unit_test(reopened),
    cmocka_unit_test(backup),           cmocka_unit_test(old_watch_is_lost),
    cmocka_unit_test(damaged),
};
static const struct CMUnitTest etcd_tests[] = {
    cmocka_unit_test(compare_and_swap), cmocka_unit_test(many_at_once),
    cmocka_unit_test(watches),          cmocka_unit_test(leases),
    cmocka_unit_test(limits),           cmocka_unit_test(reopened),
    cmocka_unit_test(many_keys),        cmocka_unit_test(compacted_watch_is_lost),
    cmocka_unit_test(no_backup),
};
static const struct CMUnitTest secured_tests[] = { cmocka_unit_test(token_is_renewed) };
static const struct CMUnitTest killed_tests[] = { cmocka_unit_test(killed_again_and_again) };

int main(int argc, char **argv)
{
    char dir[] = "/tmp/store_test.XXXXXX";
    const char *mode = argc > 1 ? argv[1] : "";
    bool killed = argc == 3 && strcmp(mode, "etcd-killed") == 0;
    bool secured = argc == 8 && strcmp(mode, "etcd-secured") == 0;
    if (killed || secured || (argc == 3 && strcmp(mode, "etcd") == 0)) {
        place.url = argv[2];
        if (killed)
            return cmocka_run_group_tests(killed_tests, setup, teardown);
        if (secured)
            place = (struct etcd_place){ argv[2], argv[3], argv[4], argv[5], argv[6], argv[7] };
        int failed = cmocka_run_group_tests(etcd_tests, setup, teardown);
        return secured && !failed ? cmocka_run_group_tests(secured_tests, setup, teardown) : failed;
    }
    if (argc > 1 || !mkdtemp(dir))
        return 1;
    snprintf(path, sizeof path, "%s/store", dir);
    int failed = cmocka_run_group_tests(sqlite_tests, setup, teardown);
    static const char *const ends[] = { "", "-wal", "-shm" };
    for (unsigned i = 0; i < 3; i++) {
        char file[80];
        snprintf(file, sizeof file, "%s%s", path, ends[i]);
        unlink(file);
    }
    rmdir(dir);
    return failed;
}
