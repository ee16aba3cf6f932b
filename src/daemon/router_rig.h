/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon's insides for its fuzzer, without anything outside: requests are structures in
 * memory, the store keeps nothing, programs end at once without having been run, there are no
 * control groups and no networks.
 */
#ifndef DAEMON_ROUTER_RIG_H
#define DAEMON_ROUTER_RIG_H

#include "daemon/daemon.h"

/* How the world around the daemon behaves; set before requests. */
struct rig_world {
    bool programs_fail; /* with status 1; else they end with 0 */
    bool store_fails;   /* as a full disk does */
};
extern struct rig_world rig_world;

/* What is asked. Texts are borrowed until rig_request() returns; NULL: not given. */
struct rig_ask {
    const char *method, *path;
    char *query;                                          /* "a=b&c=d", not encoded */
    const char *precondition, *key, *token, *upgrade_key; /* token NULL: the daemon's own user */
    const void *body;
    size_t len;
};

/* A daemon in this directory, which is made, with nothing in it. */
void rig_begin(struct daemon *daemon, const char *dir);
void rig_end(struct daemon *daemon);
/* Runs the loop until it is answered, and aborts if it is not, or twice, or without a reason.
 * Returns the status; *answer (may be NULL): its JSON, or NULL. */
unsigned rig_request(struct daemon *daemon, const struct rig_ask *ask, json_t **answer);
/* Lets what is under way come to its end. */
void rig_settle(struct daemon *daemon);

#endif
