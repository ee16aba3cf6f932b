/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Watches of the etcd engine. Each is a request that never ends: etcd writes a line of JSON for
 * every change. A thread of its own reads all of them and posts what they say to the loop.
 *
 * A connection that was lost is made again from the last revision that was told. Changes that etcd
 * has compacted away by then are not told; `lost` says so.
 */
#include "base/log.h"
#include "base/text.h"
#include "daemon/store_etcd.h"

#include <stdlib.h>
#include <string.h>

enum { LINE_MAX_BYTES = 64 << 20, AGAIN_MS = 500, POLL_MS = 1000 };

struct store_watch {
    struct store_watch *next; /* the loop's list, under lock */
    struct etcd *etcd;
    struct store_follower follower;
    bool dead;     /* under lock: nobody watches; freed when nothing refers to it */
    unsigned refs; /* under lock: what was posted, and the watcher while it reads */

    /* The watcher's. */
    CURL *curl; /* NULL: not connected */
    struct curl_slist *headers;
    uint64_t seen;     /* all changes up to here were posted */
    uint64_t again_ns; /* not before */
    struct buf line;
    bool over;    /* it was lost for good */
    bool refused; /* etcd ended it: perhaps our token has */
};

/* ---- what the loop is told ---- */

struct told {
    struct store_watch *watch;
    struct told *next;
    struct store_entry entry;
    struct buf room;
    bool lost;
};

static void watch_unref(struct store_watch *w)
{
    pthread_mutex_lock(&w->etcd->lock);
    w->refs--;
    pthread_mutex_unlock(&w->etcd->lock);
}

static void told_run(void *arg)
{
    struct etcd *etcd = ((struct told *)arg)->watch->etcd;
    for (struct told *t = arg, *next; t; t = next) {
        next = t->next;
        if (!t->watch->dead && !etcd->stopping) {
            if (t->lost)
                t->watch->follower.lost(t->watch->follower.arg);
            else
                t->watch->follower.changed(t->watch->follower.arg, &t->entry);
        }
        buf_fini(&t->room);
        watch_unref(t->watch);
        free(t);
    }
    etcd_post_ran(etcd);
}

static struct told *told_new(struct store_watch *w)
{
    struct told *told = calloc(1, sizeof *told);
    if (!told)
        abort();
    told->watch = w;
    pthread_mutex_lock(&w->etcd->lock);
    w->refs++;
    pthread_mutex_unlock(&w->etcd->lock);
    return told;
}

static void watch_lost(struct store_watch *w)
{
    struct told *told = told_new(w);
    told->lost = w->over = true;
    etcd_post(w->etcd, told_run, told);
}

/* ---- what etcd says ---- */

static void events_arrived(struct store_watch *w, const json_t *events)
{
    struct told *list = NULL, **end = &list;
    for (size_t i = 0; i < json_array_size(events); i++) {
        const json_t *event = json_array_get(events, i), *kv = json_object_get(event, "kv");
        const char *type = json_string_value(json_object_get(event, "type"));
        struct told *told = told_new(w);
        if (etcd_entry(w->etcd, kv, type && strcmp(type, "DELETE") == 0, &told->entry,
                       &told->room) < 0) {
            log_warning("etcd tells of a key that is not ours");
            watch_unref(w);
            free(told);
            continue;
        }
        w->seen = told->entry.revision > w->seen ? told->entry.revision : w->seen;
        *end = told;
        end = &told->next;
    }
    if (list)
        etcd_post(w->etcd, told_run, list);
}

static void line_arrived(struct store_watch *w, const char *text, size_t len)
{
    AUTO(json_decref) json_t *line = NULL;
    struct err err;
    if (json_parse(text, len, &line, &err) < 0) {
        log_warning("etcd: a watch says what is not JSON: %s", err.text);
        return;
    }
    const json_t *result = json_object_get(line, "result");
    if (etcd_number(result, "compact_revision"))
        watch_lost(w);
    else if (json_is_true(json_object_get(result, "canceled")) || json_object_get(line, "error"))
        w->refused = true;
    else
        events_arrived(w, json_object_get(result, "events"));
}

static size_t watch_take(char *data, size_t size, size_t count, void *arg)
{
    struct store_watch *w = arg;
    const uint8_t *end;
    if (w->over || w->line.len + size * count > LINE_MAX_BYTES)
        return 0; /* ends the request */
    buf_add(&w->line, data, size * count);
    while (w->line.len && (end = memchr(w->line.data, '\n', w->line.len))) {
        size_t len = (size_t)(end - w->line.data) + 1;
        line_arrived(w, (const char *)w->line.data, len - 1);
        memmove(w->line.data, w->line.data + len, w->line.len - len);
        w->line.len -= len;
    }
    return w->refused ? 0 : size * count;
}

/* ---- the watcher ---- */

static void watch_connect(struct store_watch *w)
{
    struct etcd *etcd = w->etcd;
    AUTO(json_decref)
    json_t *body = json_pack("{s:{s:o, s:o, s:o}}", "create_request", "key",
                             etcd_key(etcd, w->follower.prefix), "range_end",
                             etcd_range_end(etcd, w->follower.prefix), "start_revision",
                             json_sprintf("%llu", (unsigned long long)w->seen + 1));
    AUTO(free) char *text = json_print(body);
    w->curl = curl_easy_init();
    if (!w->curl)
        abort();
    w->line.len = 0;
    w->refused = false;
    etcd_request(etcd, w->curl, "/v3/watch", text, &w->headers);
    curl_easy_setopt(w->curl, CURLOPT_WRITEFUNCTION, watch_take);
    curl_easy_setopt(w->curl, CURLOPT_WRITEDATA, w);
    curl_easy_setopt(w->curl, CURLOPT_PRIVATE, w);
    curl_multi_add_handle(etcd->multi, w->curl);
}

static void watch_disconnect(struct store_watch *w)
{
    if (!w->curl)
        return;
    curl_multi_remove_handle(w->etcd->multi, w->curl);
    curl_easy_cleanup(TAKE(w->curl));
    curl_slist_free_all(TAKE(w->headers));
    w->again_ns = monotonic_ns() + AGAIN_MS * 1000000ull;
}

static void watch_free(struct store_watch *w)
{
    watch_disconnect(w);
    buf_fini(&w->line);
    store_follower_fini(&w->follower);
    free(w);
}

/* New ones are connected, lost connections made again, those that nobody wants removed. */
static void watches_tend(struct etcd *etcd)
{
    LOCKED(&etcd->lock);
    for (struct store_watch **p = &etcd->watches, *w; (w = *p);) {
        if (w->dead && !w->refs) {
            *p = w->next;
            watch_free(w);
            continue;
        }
        if (!w->dead && !w->curl && !w->over && monotonic_ns() >= w->again_ns)
            watch_connect(w);
        p = &w->next;
    }
}

/* For watches that are connected again: with a token that is new. */
static void token_renew(struct etcd *etcd)
{
    struct err err;
    CURL *curl = curl_easy_init();
    if (!curl)
        abort();
    if (etcd_login(etcd, curl, &err) < 0)
        log_warning("watching the store: %s", err.text);
    curl_easy_cleanup(curl);
}

static void connections_ended(struct etcd *etcd)
{
    CURLMsg *message;
    int left;
    bool refused = false;
    while ((message = curl_multi_info_read(etcd->multi, &left))) {
        struct store_watch *w = NULL;
        if (message->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&w);
        refused |= w->refused;
        watch_disconnect(w);
    }
    if (refused && etcd->place->user)
        token_renew(etcd);
}

void *etcd_watcher(void *arg)
{
    struct etcd *etcd = arg;
    for (;;) {
        int running;
        pthread_mutex_lock(&etcd->lock);
        bool stopping = etcd->stopping;
        pthread_mutex_unlock(&etcd->lock);
        if (stopping)
            return NULL;
        watches_tend(etcd);
        curl_multi_perform(etcd->multi, &running);
        connections_ended(etcd);
        curl_multi_poll(etcd->multi, NULL, 0, POLL_MS, NULL);
    }
}

/* ---- the loop ---- */

int etcd_watch(struct store *store, uint64_t after, const struct store_follower *follower,
               struct store_watch **out, struct err *err)
{
    struct etcd *etcd = (struct etcd *)store;
    struct store_watch *w = calloc(1, sizeof *w);
    if (!w || store_follower_copy(&w->follower, follower, err) < 0) {
        free(w);
        return err_set(err, ENOMEM, "out of memory");
    }
    w->etcd = etcd;
    w->seen = after;
    pthread_mutex_lock(&etcd->lock);
    w->next = etcd->watches;
    etcd->watches = w;
    pthread_mutex_unlock(&etcd->lock);
    curl_multi_wakeup(etcd->multi);
    *out = w;
    return 0;
}

void etcd_unwatch(struct store_watch *watch)
{
    struct etcd *etcd = watch->etcd;
    pthread_mutex_lock(&etcd->lock);
    watch->dead = true;
    pthread_mutex_unlock(&etcd->lock);
    curl_multi_wakeup(etcd->multi);
}

void etcd_watches_free(struct etcd *etcd)
{
    for (struct store_watch *w = etcd->watches, *next; w; w = next) {
        next = w->next;
        watch_free(w);
    }
    etcd->watches = NULL;
}
