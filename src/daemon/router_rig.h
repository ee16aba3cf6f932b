/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon's insides for its fuzzers, without anything outside: requests are structures in
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
    /* In the place of a VM's process: its pid, or -1; NULL: it cannot be started. */
    pid_t (*process)(const struct daemon *daemon);
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

/* Zero-initialise; buf_fini() of its body frees. */
struct rig_reply {
    unsigned status; /* 0: not answered yet */
    struct buf body;
};
/* Answered now or later, in *reply. It aborts if that is twice, or a refusal without a reason. */
void rig_send(struct daemon *daemon, const struct rig_ask *ask, struct rig_reply *reply);
/* Runs the loop until it is answered, and aborts if it is not. Returns the status; *answer (may be
 * NULL): its JSON, or NULL. */
unsigned rig_request(struct daemon *daemon, const struct rig_ask *ask, json_t **answer);
void rig_turn(struct daemon *daemon); /* of the loop: what is due */
/* Lets what is under way come to its end. */
void rig_settle(struct daemon *daemon);

#endif
