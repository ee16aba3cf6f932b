/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon: what its files share. One loop, one thread (the store has one of its own).
 *
 *   main.c        options, directories, sockets, start and end
 *   router.c      HTTP to objects and actions
 *   objects.c     objects in memory over the store
 *   vms.c, vm_*.c virtual machines, see vms.h
 *   streams.c     WebSockets
 *   cgroup.c      what VMs may take of the host
 *   jobs.c        long work and what became of it
 *   guard.c       one daemon a store
 *   metrics.c     for Prometheus
 *   events.c      what happened, for those who follow
 */
#ifndef DAEMON_DAEMON_H
#define DAEMON_DAEMON_H

#include "api/api.h"
#include "daemon/http.h"
#include "daemon/objects.h"

#include <limits.h>
#include <time.h>

/* Ids of the host for VMs: `count` from these on. */
struct vm_ids {
    unsigned uid, gid, count;
};

struct daemon {
    struct loop *loop;
    struct store *store;
    struct objects *objects;
    struct http *http, *remote; /* the unix socket; TLS, or NULL */
    bool user;                  /* for one user, without privileges */
    char state_dir[PATH_MAX];   /* survives: store, VMs' own disks */
    char run_dir[PATH_MAX];     /* does not: sockets, VMs' run directories */
    char vmm[PATH_MAX], jail[PATH_MAX], img[PATH_MAX], make_image[PATH_MAX]; /* the programs */
    struct vm_ids ids;
    struct etcd_place etcd; /* url NULL: the store is a file in state_dir */
    uint64_t started_ns;
    uint64_t requests, refused; /* HTTP; for /metrics */
};

static inline double time_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)(now.tv_nsec / 1000000) / 1000;
}

/* ---- router.c ---- */

void router_request(void *arg, struct http_request *request); /* arg: the daemon */
/* Answers with the error. */
void reply_error(struct http_request *request, const struct api_error *error);
/* The object, with its ETag. */
void reply_object(struct http_request *request, unsigned status, struct object *object);

/* Who asks, as jobs and objects keep it. */
void request_user(const struct http_request *request, char *out, size_t len);

/* ---- vm_jail.c ---- */

void vm_ids_begin(struct daemon *daemon); /* unless they were given: finds out which there are */

/* ---- vms.c ---- */

/* After the objects were loaded: finds the processes of VMs that run, reads what became of others,
 * goes on with what was under way, and starts those with autostart. */
int vms_start(struct daemon *daemon, struct err *err);
/* Lets go of the VMs, which run on. */
void vms_stop(struct daemon *daemon);
/* `take_json`: checked by the table. Answers the request. */
void vms_create(struct daemon *daemon, struct http_request *request, json_t *take_json);
void vms_patch(struct daemon *daemon, struct http_request *request, struct object *vm,
               json_t *take_json, bool live, uint64_t expect);
void vms_delete(struct daemon *daemon, struct http_request *request, struct object *vm);
void vms_action(struct daemon *daemon, struct http_request *request, struct object *vm,
                const char *action, const json_t *args);
/* objects_create's call-back passes changes on. */
void vms_changed(struct daemon *daemon, struct object *object, const json_t *was,
                 const json_t *now);
/* The name of a VM that was made from it; NULL: none. */
const char *vms_from_image(const char *image);
void vms_count(struct daemon *daemon, unsigned *defined, unsigned *running);

/* ---- jobs.c ---- */

/* After the objects were loaded and the VMs started. */
int jobs_start(struct daemon *daemon, struct err *err);
void jobs_stop(void);
/* Forgets ended jobs that are too old or too many. */
void jobs_prune(struct daemon *daemon);
void jobs_action(struct daemon *daemon, struct http_request *request, struct object *job,
                 const char *action);
/* Answers a request whose idempotency key has been seen; false: it is new. */
bool job_repeated(struct daemon *daemon, struct http_request *request);

/* ---- vm_files.c ---- */

void dir_remove(const char *path); /* with all that is in it */
/* A daemon that was killed may have left folders in STATE/KIND of objects that are deleted. */
void orphans_remove(struct daemon *daemon, const char *kind);

/* ---- metrics.c ---- */

void metrics_reply(struct daemon *daemon, struct http_request *request); /* answers it */

/* ---- guard.c ---- */

/* Takes the store for this daemon; fails when another has it. Runs the loop meanwhile. */
int guard_start(struct daemon *daemon, struct err *err);
void guard_stop(void);

/* ---- events.c ---- */

void event_add(const char *kind, const char *object_kind, const char *id, const char *name,
               json_t *take_detail);
/* Tells all that come from now on; one follower, who shares them out. */
void events_follow(void (*told)(void *arg, const json_t *event), void *arg);
json_t *events_after(uint64_t after, size_t limit, const char *kind, const char *object);

#endif
