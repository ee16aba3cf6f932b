/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The store in etcd: transactions, reading, leases.
 *
 * Transactions go one after the other by a thread of their own. Each writes, beside what it was
 * asked to, a marker with a number of ours: when the connection is lost before the answer, the
 * marker tells whether the transaction happened, so that none is reported wrongly.
 */
#include "daemon/store_etcd.h"

#include "base/ids.h"
#include "base/log.h"
#include "base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    RESOLVE_TRIES = 30, /* to learn what became of a transaction, a second apart */
    PAGE = 500          /* keys a request when reading */
};

struct etcd_txn {
    struct etcd_txn *next;
    struct etcd *etcd;
    json_t *body;
    uint64_t marker; /* 0: it writes nothing */
    store_done done;
    void *arg;
    int result;
    uint64_t revision;
    struct err err;
};

static struct etcd *of(struct store *store) { return (struct etcd *)store; }

/* ---- keys, values, numbers ---- */

uint64_t etcd_number(const json_t *object, const char *member)
{
    const json_t *value = json_object_get(object, member);
    return json_is_string(value) ? strtoull(json_string_value(value), NULL, 10)
                                 : (uint64_t)json_integer_value(value);
}

static json_t *number_json(uint64_t n) { return json_sprintf("%llu", (unsigned long long)n); }

static json_t *base64_json(const void *data, size_t len)
{
    AUTO(buf_fini) struct buf text = { 0 };
    buf_base64(&text, data, len);
    return json_stringn(text.len ? (const char *)text.data : "", text.len);
}

json_t *etcd_key(const struct etcd *etcd, const char *key)
{
    AUTO(buf_fini) struct buf whole = { 0 };
    buf_printf(&whole, "%s%s", etcd->prefix, key);
    return base64_json(whole.data, whole.len);
}

json_t *etcd_range_end(const struct etcd *etcd, const char *key)
{
    AUTO(buf_fini) struct buf whole = { 0 };
    buf_printf(&whole, "%s%s", etcd->prefix, key);
    whole.data[whole.len - 1]++; /* prefixes end with a plain character */
    return base64_json(whole.data, whole.len);
}

int etcd_entry(const struct etcd *etcd, const json_t *kv, bool deleted, struct store_entry *out,
               struct buf *room)
{
    const char *key = json_string_value(json_object_get(kv, "key"));
    const char *value = json_string_value(json_object_get(kv, "value"));
    size_t skip = strlen(etcd->prefix), at;
    struct buf texts = { 0 };
    if (!key || base64_parse(key, strlen(key), &texts) < 0 || texts.len <= skip ||
        memcmp(texts.data, etcd->prefix, skip) != 0 || memchr(texts.data, 0, texts.len)) {
        buf_fini(&texts);
        return -EPROTO;
    }
    buf_add(&texts, "", 1);
    at = texts.len;
    if (value && base64_parse(value, strlen(value), &texts) < 0) {
        buf_fini(&texts);
        return -EPROTO;
    }
    buf_add(&texts, "", 1);
    *out = (struct store_entry){ .key = (char *)texts.data + skip,
                                 .value = deleted ? NULL : (char *)texts.data + at,
                                 .len = deleted ? 0 : texts.len - 1 - at,
                                 .revision = etcd_number(kv, "mod_revision") };
    *room = texts;
    return 0;
}

/* ---- transactions ---- */

static json_t *op_compare(const struct etcd *etcd, const struct store_op *op)
{
    return json_pack("{s:o, s:s, s:s, s:o}", "key", etcd_key(etcd, op->key), "target", "MOD",
                     "result", "EQUAL", "mod_revision", number_json(op->expect));
}

static json_t *put_json(const struct etcd *etcd, const char *key, const char *value, size_t len,
                        uint64_t lease)
{
    json_t *put =
        json_pack("{s:o, s:o}", "key", etcd_key(etcd, key), "value", base64_json(value, len));
    if (lease)
        json_object_set_new(put, "lease", number_json(lease));
    return json_pack("{s:o}", "request_put", put);
}

enum { MARKER_KEY = 300, MARKER_TEXT = 64 };

static void marker_key(const struct etcd *etcd, char out[MARKER_KEY])
{
    snprintf(out, MARKER_KEY, "/txn/%s", etcd->host);
}

static void marker_text(const struct etcd *etcd, uint64_t marker, char out[MARKER_TEXT])
{
    snprintf(out, MARKER_TEXT, "%s %llu", etcd->client, (unsigned long long)marker);
}

static json_t *txn_body(const struct etcd *etcd, const struct store_op *ops, unsigned count,
                        uint64_t marker)
{
    json_t *compare = json_array(), *success = json_array();
    bool writes = false;
    for (unsigned i = 0; i < count; i++) {
        const struct store_op *op = &ops[i];
        if (op->expect != STORE_ANY)
            json_array_append_new(compare, op_compare(etcd, op));
        if (op->only_compare)
            continue;
        writes = true;
        json_array_append_new(success, op->value
                                           ? put_json(etcd, op->key, op->value, op->len, op->lease)
                                           : json_pack("{s:{s:o}}", "request_delete_range", "key",
                                                       etcd_key(etcd, op->key)));
    }
    if (writes) {
        char key[MARKER_KEY], value[MARKER_TEXT];
        marker_key(etcd, key);
        marker_text(etcd, marker, value);
        json_array_append_new(success, put_json(etcd, key, value, strlen(value), 0));
    }
    return json_pack("{s:o, s:o}", "compare", compare, "success", success);
}

/* The connection was lost: did it happen? The worker's transactions are the only ones with our
 * marker. */
static int txn_resolve(struct etcd_txn *txn)
{
    struct etcd *etcd = txn->etcd;
    char key[MARKER_KEY], text[MARKER_TEXT];
    marker_key(etcd, key);
    marker_text(etcd, txn->marker, text);
    for (unsigned tries = 0; tries < RESOLVE_TRIES; tries++) {
        AUTO(json_decref) json_t *answer = NULL;
        AUTO(buf_fini) struct buf room = { 0 };
        struct store_entry entry = { 0 };
        json_t *ask = json_pack("{s:o}", "key", etcd_key(etcd, key));
        int r = etcd_call(etcd, etcd->worker_curl, "/v3/kv/range", ask, &answer, &txn->err);
        if (r == 0) {
            const json_t *kv = json_array_get(json_object_get(answer, "kvs"), 0);
            if (!kv || etcd_entry(etcd, kv, false, &entry, &room) < 0 ||
                strcmp(entry.value, text) != 0)
                return err_set(&txn->err, EIO, "etcd was away; the change did not happen");
            txn->revision = entry.revision;
            return 0;
        }
        pthread_mutex_lock(&etcd->lock);
        bool stopping = etcd->stopping;
        pthread_mutex_unlock(&etcd->lock);
        if (r != -EIO || stopping)
            return r;
        nanosleep(&(struct timespec){ .tv_sec = 1 }, NULL);
    }
    return -EIO;
}

static void txn_run(struct etcd_txn *txn)
{
    AUTO(json_decref) json_t *answer = NULL;
    struct etcd *etcd = txn->etcd;
    txn->result =
        etcd_call(etcd, etcd->worker_curl, "/v3/kv/txn", TAKE(txn->body), &answer, &txn->err);
    if (txn->result == -EIO && txn->marker) {
        txn->result = txn_resolve(txn);
        return;
    }
    if (txn->result < 0)
        return;
    txn->revision = etcd_number(json_object_get(answer, "header"), "revision");
    if (!json_is_true(json_object_get(answer, "succeeded")))
        txn->result = err_set(&txn->err, EAGAIN, "it was changed meanwhile");
}

static void txn_free(struct etcd_txn *txn)
{
    json_decref(txn->body);
    free(txn);
}

static void txn_finished(void *arg)
{
    struct etcd_txn *txn = arg;
    struct etcd *etcd = txn->etcd;
    if (!etcd->stopping)
        txn->done(txn->arg, txn->result, txn->revision, txn->result < 0 ? &txn->err : NULL);
    txn_free(txn);
    etcd_post_ran(etcd);
}

static void *etcd_worker(void *arg)
{
    struct etcd *etcd = arg;
    for (;;) {
        pthread_mutex_lock(&etcd->lock);
        while (!etcd->queue && !etcd->stopping)
            pthread_cond_wait(&etcd->wake, &etcd->lock);
        struct etcd_txn *txn = etcd->queue;
        if (txn) {
            etcd->queue = txn->next;
            if (!etcd->queue)
                etcd->queue_end = &etcd->queue;
        }
        pthread_mutex_unlock(&etcd->lock);
        if (!txn)
            return NULL;
        txn_run(txn);
        etcd_post(etcd, txn_finished, txn);
    }
}

static void etcd_txn(struct store *store, const struct store_op *ops, unsigned count,
                     store_done done, void *arg)
{
    struct etcd *etcd = of(store);
    struct etcd_txn *txn = calloc(1, sizeof *txn);
    if (!txn)
        abort();
    uint64_t marker = ++etcd->markers;
    *txn = (struct etcd_txn){ .etcd = etcd,
                              .body = txn_body(etcd, ops, count, marker),
                              .marker = marker,
                              .done = done,
                              .arg = arg };
    LOCKED(&etcd->lock);
    *etcd->queue_end = txn;
    etcd->queue_end = &txn->next;
    pthread_cond_signal(&etcd->wake);
}

/* ---- reading ---- */

/* Page after page, all at the revision of the first. */
static int etcd_load(struct store *store, const char *prefix,
                     void (*each)(void *arg, const struct store_entry *entry), void *arg,
                     uint64_t *revision, struct err *err)
{
    struct etcd *etcd = of(store);
    AUTO(json_decref) json_t *from = etcd_key(etcd, prefix);
    *revision = 0;
    for (;;) {
        AUTO(json_decref) json_t *answer = NULL;
        AUTO(buf_fini) struct buf last = { 0 };
        json_t *ask = json_pack("{s:O, s:o, s:s, s:o}", "key", from, "range_end",
                                etcd_range_end(etcd, prefix), "limit", "500", "revision",
                                number_json(*revision));
        _Static_assert(PAGE == 500, "the text above");
        int r = etcd_call(etcd, etcd->curl, "/v3/kv/range", ask, &answer, err);
        if (r < 0)
            return r;
        if (!*revision)
            *revision = etcd_number(json_object_get(answer, "header"), "revision");
        const json_t *kvs = json_object_get(answer, "kvs");
        for (size_t i = 0; i < json_array_size(kvs); i++) {
            struct store_entry entry;
            AUTO(buf_fini) struct buf room = { 0 };
            if (etcd_entry(etcd, json_array_get(kvs, i), false, &entry, &room) < 0)
                return err_set(err, EPROTO, "etcd: an entry that is not ours below %s",
                               etcd->prefix);
            each(arg, &entry);
            last.len = 0;
            buf_printf(&last, "%s%s", etcd->prefix, entry.key);
        }
        if (!json_is_true(json_object_get(answer, "more")) || !last.len)
            return 0;
        json_decref(from);
        from = base64_json(last.data, last.len + 1); /* its zero: the next key */
    }
}

/* ---- leases ---- */

static int etcd_lease_grant(struct store *store, unsigned seconds, uint64_t *lease, struct err *err)
{
    struct etcd *etcd = of(store);
    AUTO(json_decref) json_t *answer = NULL;
    int r = etcd_call(etcd, etcd->curl, "/v3/lease/grant",
                      json_pack("{s:o}", "TTL", number_json(seconds)), &answer, err);
    if (r == 0)
        *lease = etcd_number(answer, "ID");
    return r;
}

/* An answer without a TTL: it has ended. */
static int etcd_lease_keep(struct store *store, uint64_t lease, struct err *err)
{
    struct etcd *etcd = of(store);
    AUTO(json_decref) json_t *answer = NULL;
    int r = etcd_call(etcd, etcd->curl, "/v3/lease/keepalive",
                      json_pack("{s:o}", "ID", number_json(lease)), &answer, err);
    if (r == 0 && !etcd_number(json_object_get(answer, "result"), "TTL"))
        r = err_set(err, ENOENT, "the lease has ended");
    return r;
}

static int etcd_lease_revoke(struct store *store, uint64_t lease, struct err *err)
{
    struct etcd *etcd = of(store);
    AUTO(json_decref) json_t *answer = NULL;
    return etcd_call(etcd, etcd->curl, "/v3/lease/revoke",
                     json_pack("{s:o}", "ID", number_json(lease)), &answer, err);
}

static int etcd_backup(struct store *store, const char *path, struct err *err)
{
    return err_set(err, ENOTSUP, "the store is in etcd; back it up with: etcdctl snapshot save %s",
                   path);
}

/* ---- life ---- */

void etcd_post(struct etcd *etcd, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&etcd->lock);
    etcd->posted++;
    pthread_mutex_unlock(&etcd->lock);
    loop_post(etcd->store.loop, fn, arg);
}

static void etcd_free(struct etcd *etcd)
{
    if (!etcd)
        return;
    etcd_watches_free(etcd);
    if (etcd->multi)
        curl_multi_cleanup(etcd->multi);
    curl_easy_cleanup(etcd->curl);
    curl_easy_cleanup(etcd->worker_curl);
    pthread_mutex_destroy(&etcd->lock);
    pthread_mutex_destroy(&etcd->token_lock);
    pthread_cond_destroy(&etcd->wake);
    free(etcd->url);
    free(etcd->prefix);
    free(etcd->token);
    free(etcd);
}
DEFINE_AUTO(struct etcd *, etcd_free)

void etcd_post_ran(struct etcd *etcd)
{
    pthread_mutex_lock(&etcd->lock);
    bool last = --etcd->posted == 0 && etcd->stopping;
    pthread_mutex_unlock(&etcd->lock);
    if (last)
        etcd_free(etcd);
}

static void etcd_close(struct store *store)
{
    struct etcd *etcd = of(store);
    pthread_mutex_lock(&etcd->lock);
    etcd->stopping = true;
    pthread_cond_signal(&etcd->wake);
    pthread_mutex_unlock(&etcd->lock);
    curl_multi_wakeup(etcd->multi);
    pthread_join(etcd->worker, NULL);
    pthread_join(etcd->watcher, NULL);
    if (!etcd->posted)
        etcd_free(etcd);
}

static const struct store_type etcd_type = {
    .name = "etcd",
    .close = etcd_close,
    .txn = etcd_txn,
    .load = etcd_load,
    .watch = etcd_watch,
    .unwatch = etcd_unwatch,
    .lease_grant = etcd_lease_grant,
    .lease_keep = etcd_lease_keep,
    .lease_revoke = etcd_lease_revoke,
    .backup = etcd_backup,
};

static int threads_start(struct etcd *etcd, struct err *err)
{
    int r = pthread_create(&etcd->worker, NULL, etcd_worker, etcd);
    if (r)
        return err_errno(err, r, "cannot start the store's thread");
    r = pthread_create(&etcd->watcher, NULL, etcd_watcher, etcd);
    if (!r)
        return 0;
    etcd->stopping = true;
    pthread_cond_signal(&etcd->wake);
    pthread_join(etcd->worker, NULL);
    return err_errno(err, r, "cannot start the store's thread");
}

int store_etcd_open(struct loop *loop, const struct etcd_place *place, const char *prefix,
                    struct store **out, struct err *err)
{
    struct etcd *made = calloc(1, sizeof *made);
    uint8_t uuid[16];
    if (!made)
        return err_set(err, ENOMEM, "out of memory");
    pthread_mutex_init(&made->lock, NULL);
    pthread_mutex_init(&made->token_lock, NULL);
    pthread_cond_init(&made->wake, NULL);
    AUTO(etcd_free) struct etcd *etcd = made;
    etcd->store = (struct store){ &etcd_type, loop };
    etcd->queue_end = &etcd->queue;
    etcd->place = place;
    etcd->url = strdup(place->url);
    etcd->prefix = strdup(prefix);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    etcd->curl = curl_easy_init();
    etcd->worker_curl = curl_easy_init();
    etcd->multi = curl_multi_init();
    if (!etcd->url || !etcd->prefix || !etcd->curl || !etcd->worker_curl || !etcd->multi)
        return err_set(err, ENOMEM, "out of memory");
    int r = uuid_make(uuid, err);
    if (r == 0)
        r = etcd_place_check(place, err);
    if (r == 0 && place->user)
        r = etcd_login(etcd, etcd->curl, err);
    if (r < 0)
        return r;
    uuid_print(uuid, etcd->client);
    gethostname(etcd->host, sizeof etcd->host - 1);
    AUTO(json_decref) json_t *answer = NULL;
    r = etcd_call(etcd, etcd->curl, "/v3/maintenance/status", json_object(), &answer, err);
    if (r == 0)
        r = threads_start(etcd, err);
    if (r < 0)
        return r;
    *out = &((struct etcd *)TAKE(etcd))->store;
    return 0;
}
