/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One daemon a store that hosts could share: the key /daemon, under a lease that is kept while this
 * one lives. A daemon that lost its lease ends, because another may have taken its place; its VMs
 * run on, and the next start loads what is kept.
 */
#include "base/log.h"
#include "daemon/daemon.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LEASE_S = 15, KEEP_S = 5, TRIES = 20 };

static struct guard {
    struct daemon *daemon;
    struct loop_timer *timer;
    uint64_t lease, kept_ns;
    bool done;
    int result;
    struct err err;
} guard;

static void taken(void *arg, int result, uint64_t revision, const struct err *err)
{
    guard.done = true;
    guard.result = result;
    if (err)
        guard.err = *err;
    loop_stop(guard.daemon->loop, 0);
}

static void tick(void *arg)
{
    struct err err;
    int r = store_lease_keep(guard.daemon->store, guard.lease, &err);
    if (r == 0)
        guard.kept_ns = monotonic_ns();
    else
        log_warning("the store: %s", err.text);
    if (r == -ENOENT || monotonic_ns() - guard.kept_ns > LEASE_S * 1000000000ull) {
        log_error("this daemon's place in the store is lost; it ends, VMs run on");
        loop_stop(guard.daemon->loop, 1);
        return;
    }
    loop_timer_arm(guard.timer, monotonic_ns() + KEEP_S * 1000000000ull);
}

int guard_start(struct daemon *daemon, struct err *err)
{
    char value[300] = "";
    gethostname(value, sizeof value - 1);
    AUTO(json_decref) json_t *json = json_pack("{s:s, s:i}", "host", value, "pid", (int)getpid());
    AUTO(free) char *text = json_print(json);
    guard.daemon = daemon;
    int r = store_lease_grant(daemon->store, LEASE_S, &guard.lease, err);
    struct store_op op = {
        .key = "/daemon", .value = text, .len = strlen(text), .lease = guard.lease
    };
    /* The lease of one that was killed has yet to end. */
    for (unsigned tries = 0; r == 0 && tries < TRIES; tries++) {
        guard.done = false;
        store_txn(daemon->store, &op, 1, taken, NULL);
        loop_run(daemon->loop);
        r = guard.result == -EAGAIN ? 0 : guard.result;
        if (guard.result != -EAGAIN)
            break;
        sleep(1);
        r = store_lease_keep(daemon->store, guard.lease, err);
    }
    if (r == 0 && guard.result == -EAGAIN)
        return err_set(err, EBUSY, "another bedplated uses this store");
    if (r < 0 && guard.result < 0)
        *err = guard.err;
    if (r == 0)
        r = loop_timer_create(daemon->loop, tick, NULL, &guard.timer, err);
    if (r < 0)
        return r;
    guard.kept_ns = monotonic_ns();
    loop_timer_arm(guard.timer, monotonic_ns() + KEEP_S * 1000000000ull);
    return 0;
}

void guard_stop(void)
{
    if (!guard.timer)
        return;
    loop_timer_destroy(TAKE(guard.timer));
    store_lease_revoke(guard.daemon->store, guard.lease, NULL);
}
