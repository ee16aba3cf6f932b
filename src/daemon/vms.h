/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files about VMs share. Loop only.
 *
 *   vms.c          all of them: start and end of the daemon
 *   vm_requests.c  what clients ask for
 *   vm_process.c   a VM's process, and the next step towards what was asked
 *   vm_files.c     its directories
 *   vm_jail.c      what keeps it from the host
 *   vm_clone.c     VMs like others
 *   vm_config.c    its configuration, in the words of its process
 *   vm_live.c      changes while it runs
 *   net_backend.c  far ends of network cards that are plugged in then
 *   vm_agent.c     what it does by the guest agent
 *   vm_updates.c   keeping what changed
 */
#ifndef DAEMON_VMS_H
#define DAEMON_VMS_H

#include "daemon/cgroup.h"
#include "daemon/daemon.h"
#include "daemon/effort.h"
#include "daemon/vmm_client.h"

enum real { GONE, STARTING, UP };

struct vm {
    struct daemon *daemon;
    char id[40];
    enum real real;
    bool paused;                  /* UP: by its own word */
    bool paused_itself;           /* and that it shall stay so is not kept yet */
    json_t *config;               /* of the process, as it is now; NULL: GONE */
    json_t *begun;                /* the object that it was started with; NULL: GONE, or unknown */
    json_t *status;               /* UP: its last word about itself */
    bool live_busy;               /* a step of a live change is under way */
    json_t *live_failed;          /* steps that failed since the last change, and why */
    json_t *removing;             /* devices that the guest was asked to let go of */
    struct net_opening *opening;  /* the far end of a card that is going to be plugged in ... */
    char opening_mac[24];         /* ... and that card's address */
    struct waiting *waiting;      /* for the outcome of a change */
    bool agent_open;              /* UP: something in the guest has the agent's port open */
    struct agent *agent;          /* NULL: nothing was asked yet */
    struct operation *operations; /* under way in the guest */
    pid_t pid;                    /* of its process */
    int own_id;                   /* number of its user id in the daemon's range; -1: none */
    struct cgroup_limits limits;  /* in force; all zero: none that we know of */
    int pid_fd; /* of what we follow: the process, or who waits for it; -1: none */
    struct loop_watch *pid_watch;
    struct vmm_client *client;
    struct child *maker;      /* STARTING: what makes its disk */
    bool ended;               /* GONE: we saw its process end; only its keeper may be left */
    struct loop_timer *timer; /* connecting, or a stop's deadline, or a restart's back-off */
    enum { TIMER_NONE, TIMER_CONNECT, TIMER_STOP, TIMER_KILL, TIMER_KEEPER, TIMER_RESTART } timing;
    struct effort effort; /* STARTING: of its process; looked at beside the tries to connect */
    bool gave_up;         /* it did not answer, and was killed for that */
    bool doomed;          /* it was to end: what is started now is the one after it */
    uint64_t up_since_ns, told_ns;
    unsigned backoff_ms, start_delay_ms;
    unsigned stop_timeout_s;
    bool asked_to_stop, asked_to_pause, asked_to_save;
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
    struct job_key *key;          /* the request's; NULL: none */
};

/* ---- vms.c ---- */

struct vm *vm_of(struct daemon *daemon, const char *id); /* made when it is not there */
struct vm *vm_new(struct daemon *daemon, const char *id);
struct vm *vm_find(const char *id);            /* NULL: there is none */
const struct vm *vms_first(void);              /* the others by `next` */
void vm_forget(struct vm *vm);                 /* its object is gone */
struct object *vm_object(const struct vm *vm); /* NULL: it is gone */
const char *vm_wanted(const struct vm *vm);    /* "deleted" when it is gone */

/* The name of a VM whose disks are being copied from this one's, or else lie over them for good;
 * NULL: none. */
const char *vms_cloned_from(const char *id, bool copying);

/* ---- vm_updates.c ---- */

struct update *update_new(struct vm *vm, json_t *take_patch);
void update_queue(struct update *u); /* takes it */
void update_free(struct update *u);
/* What is now, and what became of the job if that is its end (job_state; NULL: it goes on). more:
 * members of the job, like job_error() or {"result": ...}; may be NULL. */
void vm_tell(struct vm *vm, json_t *take_patch, const char *job_state, json_t *take_more);
/* What the job does now; progress in percent, -1: unknown. */
void vm_stage(struct vm *vm, const char *stage, int progress);
void vm_event(struct vm *vm, const char *kind, json_t *take_detail);

/* ---- jobs.c ---- */

json_t *job_error(const char *code, const char *message, const char *hint);
/* A new job's object; its number becomes *id. */
json_t *job_new(struct http_request *request, const char *kind, const char *object_kind,
                const char *object_id, const char *name, char id[24]);
/* Patches a job that nobody else changes (null members go), and with it, where that is not NULL,
 * another object. */
void job_tell(struct daemon *daemon, const char *id, json_t *take_patch,
              const struct objects_change *object);
void job_seen(const char *id); /* numbers go on behind it */
/* The idempotency key of a request whose job is going to be kept, until job_key_end(): meanwhile
 * no other request with it is taken. NULL: it has none. */
struct job_key {
    struct job_key *next;
    char text[128];
};
struct job_key *job_key_begin(struct http_request *request);
void job_key_end(struct job_key *key);

/* ---- vm_requests.c ---- */

/* Fails where it is too late or cannot be. */
void vm_job_cancel(struct daemon *daemon, struct object *job, struct api_error *error);

/* ---- vm_files.c ---- */

enum { EXIT_POWERED_OFF = 0, EXIT_QUIT = 7, EXIT_SAVED = 8, EXIT_KILLED = 255 };

/* A file in its run or its state directory, or with "" that directory. */
void vm_run_path(const struct vm *vm, const char *name, char out[PATH_MAX]);
void vm_state_path(const struct vm *vm, const char *name, char out[PATH_MAX]);
/* Where a child makes a file before it is there whole, by a name of this daemon's own: the child of
 * a former one, which was killed, may still be making its. vm_parts_remove: those of all. */
void vm_part_path(const struct vm *vm, const char *name, char out[PATH_MAX]);
void vm_parts_remove(const struct vm *vm);
int vm_dirs_make(const struct vm *vm, struct err *err);
void vm_dirs_remove(const struct vm *vm);                        /* with all that is in them */
int vm_lock_take(const struct vm *vm, int *fd, struct err *err); /* for its jail, which holds it */
pid_t vm_jail_pid(
    const struct vm *vm); /* of who holds that; 0: it is not known, or there is none */
bool vm_lock_held(const struct vm *vm); /* does a jail or a process hold the run directory? */
/* starting: what it last said stands for a record that it did not leave. */
json_t *vm_exit_record(const struct vm *vm, bool starting);
void vm_exit_forget(const struct vm *vm);
int vm_config_write(const struct vm *vm, const char *name, const json_t *config, struct err *err);
json_t *vm_config_read(const struct vm *vm, const char *name); /* NULL: there is none */
/* Before its process is asked to save: keeps the configuration that its restoring will need. */
int vm_saved_prepare(const struct vm *vm, struct err *err);
json_t *vm_saved_config(const struct vm *vm); /* NULL: there is no saved state */
int64_t vm_saved_size(const struct vm *vm);   /* -1: there is none */
bool vm_saved_used(const struct vm *vm);      /* one went on, and is not forgotten yet */
void vm_saved_forget(const struct vm *vm);

/* ---- vm_jail.c ---- */

enum { VM_FDS_MAX = 16 };
/* Starts its process with this configuration; fds as process_spawn() has them. */
int vm_jail_start(struct vm *vm, const char *config, int errors, const int *fds, unsigned fd_count,
                  pid_t *pid, struct err *err);
void vm_jail_end(struct vm *vm); /* its process is gone */
/* Kills its process `pid`. That of a jail is spared: it ends when all inside has. As kill(2). */
int vm_jail_kill(const struct vm *vm);
void vm_id_adopt(struct vm *vm); /* its process was started by a former daemon */
/* Brings the limits in force to those asked for. 1: done; 2: vm_limits_done() tells the outcome; 0:
 * nothing was to be done. */
int vm_limits_step(struct vm *vm, struct err *err);
void vm_limits_tell(const struct vm *vm, json_t *now);
void vm_limits_pending(const struct vm *vm, const json_t *object, json_t *pending);

/* ---- vm_clone.c ---- */

/* The object of a clone, with what must be copied for it. */
int vm_clone_plan(const struct vm *clone, const struct vm *source, bool linked, json_t **out,
                  struct api_error *error);
bool vm_is_copying(const struct vm *vm);
void vm_copy_drive(struct vm *vm); /* the next copy, or the end of it */
bool vm_copy_cancel(struct vm *vm);

/* ---- vm_agent.c ---- */

#define AGENT_PORT "org.qemu.guest_agent.0"
/* Begins an action that the guest agent carries out; false: it is none of these. */
bool vm_agent_action(struct vm *vm, struct http_request *request, const char *action,
                     const json_t *args);
/* The VMM's word about its ports. */
void vm_agent_port(struct vm *vm, const char *port, bool open);
void vm_agent_status(struct vm *vm, const json_t *status);
/* Asks the guest to shut down, if its agent is there. */
void vm_agent_shutdown(struct vm *vm);
void vm_agent_forget(struct vm *vm);

/* ---- vm_config.c ---- */

/* A field's name with bedplate-vmm's dashes. */
void option_name(const char *field, char out[32]);
/* The fields of a disk that limit it; ends with NULL. */
extern const char *const disk_limits[];
bool disk_limit_is_size(const char *limit);
/* The configuration for bedplate-vmm out of the VM's object. */
json_t *vm_config(const struct vm *vm, const json_t *object);

/* ---- vm_live.c ---- */

/* Takes what its process says of itself. */
void vm_live_status(struct vm *vm, const json_t *status);
/* Takes the next step of a change that can be made now; call it when one may be due. */
void vm_live_drive(struct vm *vm);
/* What is real, what waits and what went wrong, for the object: now, pending, change_error. */
json_t *vm_live_tell(const struct vm *vm);
/* Answers the request with the object when nothing more can be done for now. */
void vm_live_wait(struct vm *vm, struct http_request *request);
void vm_live_forget(struct vm *vm);                    /* its process is gone */
void vm_limits_done(struct vm *vm, const char *wrong); /* ""; what went wrong */

/* ---- net_backend.c ---- */

/* The far end's descriptor, which is the callee's; or -1 and why. */
typedef void (*net_opened)(void *arg, int take_fd, const struct err *err);
struct net_opening;
/* For an entry of "net" of a configuration. *fd: it is open; -1: `opened` tells later, unless
 * *opening is cancelled. */
int net_backend_open(const struct vm *vm, const json_t *net, net_opened opened, void *arg, int *fd,
                     struct net_opening **opening, struct err *err);
void net_opening_cancel(struct net_opening *opening); /* may be NULL */
/* Opens the taps of a configuration, which then names them as descriptors: fds[0] is CHILD_FD. The
 * caller closes them, also after a failure. */
int net_taps_open(json_t *config, int *fds, unsigned room, unsigned *count, struct err *err);

/* ---- vm_process.c ---- */

/* Takes the next step from what is to what is wanted. Call it whenever either may have changed. */
void vm_drive(struct vm *vm);
/* Asks its process how it is. */
void vm_look(struct vm *vm);
/* For a daemon that starts: finds the process, or what became of it, and goes on from there. */
void vm_adopt(struct vm *vm);
void vm_timer(void *arg);
void timer_set(struct vm *vm, int timing, uint64_t ms);
/* Lets go of process and connection. */
void vm_release(struct vm *vm);

#endif
