/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files about VMs share. Loop only.
 *
 *   vms.c          all of them: start and end of the daemon
 *   vm_requests.c  what clients ask for
 *   vm_process.c   a VM's process, and the next step towards what was asked
 *   vm_updates.c   keeping what changed
 */
#ifndef DAEMON_VMS_H
#define DAEMON_VMS_H

#include "daemon/daemon.h"
#include "daemon/vmm_client.h"

enum real { GONE, STARTING, UP };

struct vm {
    struct daemon *daemon;
    char id[40];
    enum real real;
    bool paused; /* UP: by its own word */
    pid_t pid;
    int pid_fd; /* -1: none */
    struct loop_watch *pid_watch;
    struct vmm_client *client;
    struct loop_timer *timer; /* connecting, or a stop's deadline, or a restart's back-off */
    enum { TIMER_NONE, TIMER_CONNECT, TIMER_STOP, TIMER_KILL, TIMER_RESTART } timing;
    uint64_t start_deadline_ns, up_since_ns;
    unsigned backoff_ms;
    unsigned stop_timeout_s;
    bool asked_to_stop, asked_to_pause;
    bool killing;  /* the deadline is over, or kill was asked for */
    bool restart;  /* stop first, then start */
    char job[24];  /* id of the job under way; "": none */
    bool job_kept; /* what it wants is in the store: only now can it be over */
    struct update *updates, **updates_end; /* one after the other; the first is being kept */
    struct vm *next;
};

/*
 * Changes of one VM are kept one after the other, each made on what the one before left: a change
 * that meets a client's edit is tried again, and none may overtake it.
 */
struct update {
    struct update *next;
    struct vm *vm;
    char job[24];
    json_t *vm_patch, *job_patch; /* null members go */
    json_t *vm_new, *job_new;     /* made together with it */
    bool delete_vm;
    void (*then)(struct update *update, const struct api_error *error);
    struct http_request *request; /* answered by `then` */
};

/* ---- vms.c ---- */

struct vm *vm_of(struct daemon *daemon, const char *id); /* made when it is not there */
struct vm *vm_new(struct daemon *daemon, const char *id);
void vm_forget(struct vm *vm);                 /* its object is gone */
struct object *vm_object(const struct vm *vm); /* NULL: it is gone */
const char *vm_wanted(const struct vm *vm);    /* "deleted" when it is gone */

/* ---- vm_updates.c ---- */

struct update *update_new(struct vm *vm, json_t *take_patch);
void update_queue(struct update *u); /* takes it */
void update_free(struct update *u);
/* What is now, and what became of the job if that is its end (job_state; NULL: it goes on). */
void vm_tell(struct vm *vm, json_t *take_patch, const char *job_state, json_t *take_error);
json_t *job_error(const char *code, const char *message, const char *hint);
/* A new job's object; its number becomes *id. */
json_t *job_new(struct vm *vm, const char *kind, const char *name, char id[24]);
void job_seen(const char *id); /* numbers go on behind it */
void vm_event(struct vm *vm, const char *kind, json_t *take_detail);

/* ---- vm_process.c ---- */

void vm_dir(const struct vm *vm, char out[PATH_MAX]); /* its run directory */
/* Takes the next step from what is to what is wanted. Call it whenever either may have changed. */
void vm_drive(struct vm *vm);
/* For a daemon that starts: finds the process, or what became of it, and goes on from there. */
void vm_adopt(struct vm *vm);
void vm_timer(void *arg);
void timer_set(struct vm *vm, int timing, uint64_t ms);
/* Lets go of process and connection. */
void vm_release(struct vm *vm);

#endif
