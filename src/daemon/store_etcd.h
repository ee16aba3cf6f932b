/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of the etcd engine share: requests to the JSON gateway (etcd 3.4 and later), where
 * keys and values are base64 and 64-bit numbers are strings.
 */
#ifndef DAEMON_STORE_ETCD_H
#define DAEMON_STORE_ETCD_H

#include "base/json.h"
#include "base/text.h"
#include "daemon/store.h"

#include <curl/curl.h>
#include <pthread.h>

struct etcd {
    struct store store;
    const struct etcd_place *place; /* borrowed */
    char *url, *prefix;             /* "http://127.0.0.1:2379", and what comes before each key */
    char client[40];                /* random: in our marker */
    char host[256];                 /* names it */
    CURL *curl;                     /* the loop's */
    CURL *worker_curl;
    pthread_t worker, watcher;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wake;
    struct etcd_txn *queue, **queue_end;
    struct store_watch *watches; /* the loop's list; the watcher has its own view of each */
    CURLM *multi;                /* the watcher's */
    bool stopping;
    unsigned posted; /* to the loop and not run yet: the last one after close frees */
    uint64_t markers;
    pthread_mutex_t token_lock; /* of what follows */
    char *token;                /* of a user who has logged in, or NULL */
    unsigned logins;
};

/* store_etcd_call.c */

/* Is this a place that can be asked? */
int etcd_place_check(const struct etcd_place *place, struct err *err);
/* Asks for a token by the user's password, which is read from its file each time. Waits. */
int etcd_login(struct etcd *etcd, CURL *curl, struct err *err);
/* POST path; *out is the answer's object. A token that is over is replaced meanwhile. -EIO: no
 * answer came, and what was asked may have happened; another error: etcd refused it. Waits. */
int etcd_call(struct etcd *etcd, CURL *curl, const char *path, json_t *take_body, json_t **out,
              struct err *err);
/* Options that all requests have. `path` is appended to the URL. */
void etcd_request(struct etcd *etcd, CURL *curl, const char *path, const char *body,
                  struct curl_slist **headers);

uint64_t etcd_number(const json_t *object, const char *member);
json_t *etcd_key(const struct etcd *etcd, const char *key);       /* with the prefix, base64 */
json_t *etcd_range_end(const struct etcd *etcd, const char *key); /* the first behind the prefix */
/* `kv` as an entry: its texts are in *room, which the caller frees. */
int etcd_entry(const struct etcd *etcd, const json_t *kv, bool deleted, struct store_entry *out,
               struct buf *room);

void etcd_post(struct etcd *etcd, void (*fn)(void *arg), void *arg);
void etcd_post_ran(struct etcd *etcd); /* last of all in what was posted */

/* store_etcd_watch.c */
void *etcd_watcher(void *arg);
int etcd_watch(struct store *store, uint64_t after, const struct store_follower *follower,
               struct store_watch **out, struct err *err);
void etcd_unwatch(struct store_watch *watch);
void etcd_watches_free(struct etcd *etcd);

#endif
