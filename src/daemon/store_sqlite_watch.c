/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Watches on SQLite: after each commit they are told what the log table has since they last looked.
 */
#include "daemon/store_sqlite.h"

#include <stdlib.h>
#include <string.h>

struct told {
    struct told *next;
    struct store_entry entry; /* texts behind it */
};

static void told_add(struct told ***end, const struct store_entry *entry)
{
    size_t key = strlen(entry->key) + 1;
    struct told *told = malloc(sizeof *told + key + entry->len + 1);
    if (!told)
        abort();
    char *text = (char *)(told + 1);
    told->entry = *entry;
    told->entry.key = memcpy(text, entry->key, key);
    if (entry->value) {
        told->entry.value = memcpy(text + key, entry->value, entry->len);
        text[key + entry->len] = 0;
    }
    told->next = NULL;
    **end = told;
    *end = &told->next;
}

/* Changes after `seen`; false: the log does not reach back that far. */
static bool log_read(struct sqlite_store *s, struct store_watch *w, struct told **list)
{
    AUTO(free) char *stop = sqlite_prefix_end(w->follower.prefix);
    struct told **end = list;
    *list = NULL;
    LOCKED(&s->db_lock);
    if (s->revision > LOG_KEPT && w->seen < s->revision - LOG_KEPT)
        return false;
    sqlite3_bind_int64(s->sql.log_load, 1, (sqlite3_int64)w->seen);
    sqlite_bind(s->sql.log_load, 2, w->follower.prefix);
    sqlite_bind(s->sql.log_load, 3, stop);
    while (sqlite3_step(s->sql.log_load) == SQLITE_ROW) {
        struct store_entry entry;
        sqlite_row(s->sql.log_load, &entry);
        told_add(&end, &entry);
    }
    sqlite3_reset(s->sql.log_load);
    w->seen = s->revision;
    return true;
}

static void watch_tell(struct sqlite_store *s, struct store_watch *w)
{
    struct told *list, *next;
    if (!log_read(s, w, &list)) {
        w->follower.lost(w->follower.arg);
        return;
    }
    for (; list; list = next) {
        next = list->next;
        if (!w->dead)
            w->follower.changed(w->follower.arg, &list->entry);
        free(list);
    }
}

static void watches_sweep(struct sqlite_store *s)
{
    for (struct store_watch **p = &s->watches; *p;) {
        struct store_watch *w = *p;
        if (!w->dead) {
            p = &w->next;
            continue;
        }
        *p = w->next;
        store_follower_fini(&w->follower);
        free(w);
    }
}

void sqlite_watches_tell(struct sqlite_store *s)
{
    if (s->calling)
        return;
    s->calling++;
    for (struct store_watch *w = s->watches; w; w = w->next)
        if (!w->dead)
            watch_tell(s, w);
    s->calling--;
    watches_sweep(s);
}

static void watches_tell_posted(void *arg)
{
    struct sqlite_store *s = arg;
    if (!s->stopping)
        sqlite_watches_tell(s);
    sqlite_post_ran(s);
}

int sqlite_watch(struct store *store, uint64_t after, const struct store_follower *follower,
                 struct store_watch **out, struct err *err)
{
    struct sqlite_store *s = sqlite_of(store);
    struct store_watch *w = calloc(1, sizeof *w);
    if (!w || store_follower_copy(&w->follower, follower, err) < 0) {
        free(w);
        return err_set(err, ENOMEM, "out of memory");
    }
    w->store = s;
    w->seen = after;
    w->next = s->watches;
    s->watches = w;
    *out = w;
    sqlite_post(s, watches_tell_posted, s); /* what has changed since `after` */
    return 0;
}

void sqlite_unwatch(struct store_watch *watch)
{
    watch->dead = true;
    if (!watch->store->calling)
        watches_sweep(watch->store);
}

void sqlite_watches_free(struct sqlite_store *s)
{
    for (struct store_watch *w = s->watches; w; w = w->next)
        w->dead = true;
    watches_sweep(s);
}
