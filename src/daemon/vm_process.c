/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtual machine: what was asked for ("wanted", kept in the store) against what is (the VM's
 * process).
 *
 * vm_drive() looks at both and takes the next step towards the one from the other; it is called
 * whenever either may have changed, and at the start of the daemon, so that nothing else must know
 * at which step a former daemon was killed. Jobs are told what came of it: a job is over when its
 * VM is as it wanted, or cannot be.
 *
 * A VM's process is a session of its own and no child that matters: daemons come and go. It is
 * found again by its control socket, and its end by the locks and the exit record in the run
 * directory.
 */
#include "base/log.h"
#include "base/text.h"
#include "daemon/child.h"
#include "daemon/images.h"
#include "daemon/seed.h"
#include "daemon/vms.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    CONNECT_MS = 10,      /* between looks for a starting VM's socket */
    EFFORT_MS = 500,      /* between looks for what a starting process does */
    START_LIMIT_S = 60,   /* for a process to answer, of its own time (effort.h) */
    KILL_GRACE_MS = 5000, /* between "quit" and SIGKILL */
    BACKOFF_MIN_MS = 1000,
    BACKOFF_MAX_MS = 60000,
    PROGRESS_MS = 500, /* between what is kept of a save's progress */
    SETTLED_S = 60,    /* a VM that ran so long begins with the shortest back-off again */
};

/* ---- timers ---- */

void timer_set(struct vm *vm, int timing, uint64_t ms)
{
    vm->timing = timing;
    if (timing == TIMER_NONE)
        loop_timer_disarm(vm->timer);
    else
        loop_timer_arm(vm->timer, monotonic_ns() + ms * 1000000ull);
}

/* ---- the process ---- */

static void process_gone(struct vm *vm);

static void pid_forget(struct vm *vm)
{
    if (vm->pid_watch)
        loop_watch_destroy(TAKE(vm->pid_watch));
    fd_close(vm->pid_fd);
    vm->pid_fd = -1;
    vm->pid = 0;
}

static void pid_ended(void *arg, unsigned events)
{
    struct vm *vm = arg;
    siginfo_t info;
    waitid(P_PIDFD, (id_t)vm->pid_fd, &info, WEXITED | WNOHANG); /* when it was our child */
    process_gone(vm);
}

/* Its end is noticed from now on: that of bedplate-jail where we started it, which ends when all is
 * over, of the VM's own process where a former daemon did. */
static void pid_follow(struct vm *vm, pid_t pid)
{
    vm->pid = pid;
    if (vm->pid_watch)
        return;
    vm->pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (vm->pid_fd < 0 || loop_watch_create(vm->daemon->loop, vm->pid_fd, LOOP_READ, pid_ended, vm,
                                            &vm->pid_watch, NULL) < 0)
        log_warning("%s: its process %d cannot be followed", vm->id, (int)pid);
}

/* What it says to standard error before it has a log is kept beside it. */
static int spawn(struct vm *vm, const int *fds, unsigned fd_count, pid_t *pid, struct err *err)
{
    char config[PATH_MAX], path[PATH_MAX];
    vm_run_path(vm, "start.json", config);
    vm_run_path(vm, "stderr", path);
    AUTO(fd_close) int errors = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (errors < 0)
        return err_errno(err, errno, "cannot write %s", path);
    return vm_jail_start(vm, config, errors, fds, fd_count, pid, err);
}

/* A saved state that was not used stays one. */
static void start_failed(struct vm *vm, const char *why)
{
    bool saved = vm_saved_size(vm) >= 0;
    vm->real = GONE;
    timer_set(vm, TIMER_NONE, 0);
    vm_event(vm, "vm.failed", json_pack("{s:s}", "reason", why));
    vm_tell(vm,
            json_pack("{s:s, s:s, s:s, s:n}", "state", saved ? "saved" : "failed", "wanted",
                      saved ? "saved" : "stopped", "error", why, "pid"),
            "failed", job_error("start-failed", why, NULL));
}

static void await(struct vm *vm, uint64_t ms)
{
    vm->real = STARTING;
    vm->gave_up = false;
    effort_begin(&vm->effort);
    timer_set(vm, TIMER_CONNECT, ms);
}

/* Out of the object, or as it was when the state was saved: the rest is in that. */
static json_t *start_config(struct vm *vm)
{
    static const char *const in_state[] = {
        "firmware", "cpus", "cpu", "memory", "profile", "boot"
    };
    json_t *saved = vm_saved_config(vm);
    json_decref(vm->config);
    vm->config = saved ? saved : vm_config(vm, vm_object(vm)->json);
    json_t *config = json_deep_copy(vm->config);
    if (!saved)
        return config;
    for (unsigned i = 0; i < sizeof in_state / sizeof *in_state; i++)
        json_object_del(config, in_state[i]);
    if (!json_object_get(config, "kernel")) {
        json_object_del(config, "initrd");
        json_object_del(config, "cmdline");
    }
    json_object_set(config, "restore", json_object_get(config, "save"));
    json_object_set_new(config, "restore-once", json_true());
    return config;
}

static void process_start(struct vm *vm)
{
    struct err err;
    pid_t pid;
    int fds[VM_FDS_MAX];
    unsigned fd_count = 0;
    AUTO(json_decref) json_t *config = start_config(vm);
    json_decref(vm->begun);
    vm->begun = json_deep_copy(vm_object(vm)->json);
    int r = net_taps_open(config, fds, VM_FDS_MAX, &fd_count, &err);
    if (r == 0)
        r = vm_config_write(vm, "config.json", vm->config, &err);
    if (r == 0)
        r = vm_config_write(vm, "start.json", config, &err);
    if (r == 0)
        r = vm_config_write(vm, "object.json", vm->begun, &err);
    if (r == 0) {
        vm_exit_forget(vm);
        r = spawn(vm, fds, fd_count, &pid, &err);
    }
    while (fd_count)
        close(fds[--fd_count]);
    if (r < 0) {
        start_failed(vm, err.text);
        return;
    }
    vm->asked_to_stop = vm->killing = vm->asked_to_pause = vm->asked_to_save = false;
    vm->ended = false;
    pid_forget(vm);
    pid_follow(vm, pid);
    await(vm, CONNECT_MS);
    vm_stage(vm, json_object_get(config, "restore") ? "loading the saved state" : "starting", -1);
}

static void disk_made(void *arg, int status, const char *said)
{
    struct vm *vm = arg;
    char part[PATH_MAX], path[PATH_MAX];
    vm->maker = NULL; /* it is gone after this call */
    vm_part_path(vm, "disk.qcow2", part);
    vm_state_path(vm, "disk.qcow2", path);
    const bool made = status == 0 && rename(part, path) == 0;
    vm_parts_remove(vm);
    if (made) {
        vm->real = GONE;
        if (strcmp(vm_wanted(vm), "stopped") == 0) /* it was killed meanwhile */
            vm_tell(vm, json_pack("{s:s}", "state", "stopped"), "done", NULL);
        else
            vm_drive(vm);
        return;
    }
    start_failed(vm, *said ? said : "its disk could not be made from the image");
}

/* The overlay over its image. 1: it is being made, and its end drives on; 0: it is there. */
static int disk_make(struct vm *vm, struct err *err)
{
    static const struct child_calls calls = { NULL, disk_made };
    char path[PATH_MAX], base[PATH_MAX], size[32];
    const struct object *object = vm_object(vm);
    const char *name = object_text(object, "image");
    json_int_t bytes = json_integer_value(json_object_get(object->json, "disk_size"));
    struct api_error error;
    vm_state_path(vm, "disk.qcow2", path);
    if (!*name || access(path, F_OK) == 0)
        return 0;
    const struct object *image = image_ready(vm->daemon, name, &error);
    if (!image)
        return err_set(err, ENOENT, "%s", error.message);
    image_path(vm->daemon, image->id, "disk.qcow2", base);
    vm_parts_remove(vm);
    vm_part_path(vm, "disk.qcow2", path);
    snprintf(size, sizeof size, "%lld", (long long)bytes);
    char *const argv[] = {
        vm->daemon->img, (char *)"create", (char *)"-f", (char *)"qcow2",     (char *)"-b", base,
        (char *)"-F",    (char *)"qcow2",  path,         bytes ? size : NULL, NULL
    };
    int r = child_start(vm->daemon->loop, argv, &calls, vm, &vm->maker, err);
    if (r < 0)
        return r;
    vm->real = STARTING;
    vm_stage(vm, "making its disk", -1);
    return 1;
}

static void vm_start(struct vm *vm)
{
    struct err err;
    char path[PATH_MAX];
    const json_t *json = vm_object(vm)->json;
    bool held = vm_lock_held(vm);
    if (held && vm->ended) { /* the keeper of the process that ended is tidying up */
        timer_set(vm, TIMER_KEEPER, CONNECT_MS);
        return;
    }
    if (held) { /* it runs already: a daemon before us was killed after starting it */
        await(vm, 0);
        return;
    }
    vm_state_path(vm, "seed.iso", path);
    int r = vm_dirs_make(vm, &err);
    if (r == 0 && json_object_get(json, "cloud_init"))
        r = seed_write(path, json, &err);
    if (r == 0)
        r = disk_make(vm, &err);
    if (r == 0)
        process_start(vm);
    else if (r < 0)
        start_failed(vm, err.text);
}

/* ---- the process's word ---- */

static void client_free_posted(void *arg) { vmm_client_destroy(arg); }

/* Not at once: we may be inside one of its call-backs. */
static void client_drop(struct vm *vm)
{
    vm_agent_forget(vm);
    if (!vm->client)
        return;
    vmm_client_silence(vm->client); /* its end would be taken for that of the next process */
    loop_post(vm->daemon->loop, client_free_posted, TAKE(vm->client));
}

static const char *screen_address(const json_t *status)
{
    const char *address =
        json_string_value(json_object_get(json_object_get(status, "screen"), "vnc"));
    return address && strncmp(address, "unix:", 5) == 0 ? address + 5 : NULL;
}

static const char *paused_by(const struct vm *vm)
{
    const char *by = json_string_value(json_object_get(vm->status, "paused-by"));
    const char *state = json_string_value(json_object_get(vm->status, "state"));
    if (state && strcmp(state, "created") == 0) /* it waits for one */
        return "debugger";
    return vm->paused && by ? by : "";
}

/* It goes on when its debugger lets it. */
static bool debugged(const struct vm *vm) { return strcmp(paused_by(vm), "debugger") == 0; }

/* By its watchdog, a full disk, an error: nobody asked for that. */
static bool is_own_pause(const char *by)
{
    static const char *const others[] = { "", "user", "save", "debugger" };
    bool own = true;
    for (unsigned i = 0; i < sizeof others / sizeof *others; i++)
        own &= strcmp(by, others[i]) != 0;
    return own;
}

static void own_pause_kept(struct update *u, const struct api_error *error)
{
    struct vm *vm = u->vm;
    vm->asked_to_pause = false;
    vm->paused_itself |= error != NULL;
    vm_look(vm);
}

/* So it stays until somebody lets it go on: otherwise what is wanted would be brought about again
 * at once. */
static void own_pause(struct vm *vm)
{
    if (!vm->paused_itself || !is_own_pause(paused_by(vm)) || vm->asked_to_pause ||
        strcmp(vm_wanted(vm), "running") != 0)
        return;
    vm->paused_itself = false;
    struct update *u = update_new(vm, json_pack("{s:s}", "wanted", "paused"));
    u->then = own_pause_kept;
    vm->asked_to_pause = true; /* until then the process is right */
    update_queue(u);
}

static void status_known(void *arg, const json_t *ok, const struct err *err)
{
    struct vm *vm = arg;
    const char *state = json_string_value(json_object_get(ok, "state"));
    const char *engine = json_string_value(json_object_get(ok, "engine"));
    if (!state || vm->real == GONE)
        return; /* its end is noticed elsewhere */
    bool was_up = vm->real == UP;
    vm->real = UP;
    if (!was_up) {
        vm->up_since_ns = monotonic_ns();
        if (!vm->killing)
            timer_set(vm, TIMER_NONE, 0);
        vm_event(vm, "vm.started", NULL);
    }
    if (strcmp(state, "saving") == 0) { /* its outcome is an event; a daemon before us asked */
        vm->asked_to_save = true;
        vm_drive(vm);
        return;
    }
    vm->paused = strcmp(state, "running") != 0;
    if (vm_saved_used(vm))
        vm_saved_forget(vm);
    vm_live_status(vm, ok);
    vm_agent_status(vm, ok);
    if (!was_up && !vm->job[0]) /* while no daemon was there; a job resumes it */
        vm->paused_itself = vm->paused;
    own_pause(vm);
    bool settled = debugged(vm) || strcmp(vm_wanted(vm), vm->paused ? "paused" : "running") == 0;
    json_t *patch = vm_live_tell(vm);
    json_object_update_new(patch, json_pack("{s:s, s:s?, s:i, s:s, s:n, s:s*}", "state",
                                            vm->paused ? "paused" : "running", "paused_by",
                                            *paused_by(vm) ? paused_by(vm) : NULL, "pid",
                                            (int)vm->pid, "running_engine", engine ? engine : "",
                                            "error", "vnc", screen_address(ok)));
    vm_tell(vm, patch, settled ? "done" : NULL, NULL);
    vm_drive(vm);
}

/* ---- saving ---- */

/* The VM goes on as it was. */
static void save_failed(struct vm *vm, const char *why)
{
    const char *state = vm->paused ? "paused" : "running";
    if (!vm->asked_to_save)
        return;
    vm->asked_to_save = false;
    vm_event(vm, "vm.save-failed", json_pack("{s:s}", "reason", why));
    vm_tell(vm, json_pack("{s:s, s:s}", "state", state, "wanted", state), "failed",
            job_error("save-failed", why, NULL));
}

static void save_answered(void *arg, const json_t *ok, const struct err *err)
{
    struct vm *vm = arg;
    if (!ok && vm->client)
        save_failed(vm, err->text);
}

static void save_progress(struct vm *vm, const json_t *event)
{
    double done = json_number_value(json_object_get(event, "done"));
    double total = json_number_value(json_object_get(event, "total"));
    uint64_t now = monotonic_ns();
    if (now - vm->told_ns < PROGRESS_MS * 1000000ull || total <= 0)
        return;
    vm->told_ns = now;
    vm_stage(vm, "writing memory", (int)(done / total * 100));
}

static void save_asked(struct vm *vm)
{
    struct err err;
    if (vm->asked_to_save)
        return;
    vm->asked_to_save = true;
    if (vm_saved_prepare(vm, &err) < 0)
        save_failed(vm, err.text);
    else
        vmm_client_ask(vm->client, "save", NULL, -1, save_answered, vm);
}

void vm_look(struct vm *vm)
{
    if (vm->client)
        vmm_client_ask(vm->client, "status", NULL, -1, status_known, vm);
}

/* ---- events ---- */

static void client_ready(void *arg, pid_t pid)
{
    struct vm *vm = arg;
    pid_follow(vm, pid);
    vm_look(vm);
}

static void client_event(void *arg, const char *what, const json_t *event)
{
    struct vm *vm = arg;
    static const struct {
        const char *what, *kind;
    } told[] = { { "paused", "vm.paused" },       { "reset", "vm.reset" },
                 { "disk-full", "vm.disk-full" }, { "disk-error", "vm.disk-error" },
                 { "watchdog", "vm.watchdog" },   { "panicked", "vm.panicked" } };
    for (unsigned i = 0; i < sizeof told / sizeof *told; i++)
        if (strcmp(told[i].what, what) == 0)
            vm_event(vm, told[i].kind, NULL);
    const char *device = json_string_value(json_object_get(event, "device"));
    if (strcmp(what, "device-removed") == 0 && device && vm->removing)
        json_object_del(vm->removing, device);
    if (strcmp(what, "port") == 0) {
        vm_agent_port(vm, json_string_value(json_object_get(event, "port")),
                      json_is_true(json_object_get(event, "open")));
        vm_live_drive(vm);
    }
    const char *by = json_string_value(json_object_get(event, "by"));
    if (strcmp(what, "paused") == 0 || strcmp(what, "running") == 0)
        vm->paused_itself = by && is_own_pause(by);
    if (strcmp(what, "save-progress") == 0)
        save_progress(vm, event);
    else if (strcmp(what, "save-failed") == 0)
        save_failed(vm,
                    json_string_value(json_object_get(event, "text")) ?: "the VM gave no reason");
    else if (vm->asked_to_save)
        return; /* it is paused for that */
    else if (strcmp(what, "running") == 0 || strcmp(what, "paused") == 0 ||
             strcmp(what, "device-removed") == 0)
        vm_look(vm);
}

/* The socket closes before the process is gone; that is noticed by its pid. */
static void client_lost(void *arg)
{
    struct vm *vm = arg;
    client_drop(vm);
    if (!vm->pid_watch)
        process_gone(vm);
}

static const struct vmm_client_calls client_calls = { client_ready, client_event, client_lost };

/* One that hangs is killed, which says the rest. */
static void give_up(struct vm *vm)
{
    if (vm->pid && vm_jail_kill(vm) == 0)
        vm->gave_up = true;
    else if (!vm->pid)
        start_failed(vm, "its process does not answer");
}

static void try_connect(struct vm *vm)
{
    char path[PATH_MAX];
    pid_t jail = vm->pid_watch ? 0 : vm_jail_pid(vm); /* that a daemon before us started */
    if (jail)
        pid_follow(vm, jail);
    vm_run_path(vm, "control.sock", path);
    if (!vm->client)
        vmm_client_create(vm->daemon->loop, path, &client_calls, vm, &vm->client, NULL);
    if (jail && !vm->client) {
        vm_drive(vm); /* what waited for its number, to be killed, can be done now */
        if (vm->killing)
            return;
    }
    bool gone = !vm->client && !vm->pid_watch && !vm_lock_held(vm);
    if (gone && strcmp(object_text(vm_object(vm), "state"), "starting") == 0) {
        vm->real = GONE; /* only a keeper was left, or it is told again what is wrong */
        timer_set(vm, TIMER_NONE, 0);
        vm_drive(vm);
        return;
    }
    if (gone) {
        process_gone(vm);
        return;
    }
    timer_set(vm, TIMER_CONNECT, vm->client ? EFFORT_MS : CONNECT_MS);
    if (monotonic_ns() - vm->effort.seen_ns >= EFFORT_MS * 1000000ull &&
        effort_look(&vm->effort, vm->pid) > START_LIMIT_S * 1000000000ull)
        give_up(vm);
}

/* ---- its end ---- */

static bool is_wanted_up(const struct vm *vm)
{
    const char *wanted = vm_wanted(vm);
    return strcmp(wanted, "running") == 0 || strcmp(wanted, "paused") == 0;
}

static bool restart_wanted(const struct vm *vm, int status)
{
    struct object *object = vm_object(vm);
    const char *policy = object ? object_text(object, "restart") : "never";
    if (strcmp(vm_wanted(vm), "running") != 0)
        return false;
    return strcmp(policy, "always") == 0 || (strcmp(policy, "on-failure") == 0 && status != 0);
}

static void restart_later(struct vm *vm, json_t *take_patch)
{
    bool settled = monotonic_ns() - vm->up_since_ns > SETTLED_S * 1000000000ull;
    vm->backoff_ms = settled || !vm->backoff_ms ? BACKOFF_MIN_MS : vm->backoff_ms * 2;
    vm->backoff_ms = vm->backoff_ms < BACKOFF_MAX_MS ? vm->backoff_ms : BACKOFF_MAX_MS;
    json_int_t count = json_integer_value(json_object_get(vm_object(vm)->json, "restarts"));
    json_object_set_new(take_patch, "restarts", json_integer(count + 1));
    json_object_set_new(take_patch, "state", json_string("starting"));
    vm_tell(vm, take_patch, NULL, NULL);
    timer_set(vm, TIMER_RESTART, vm->backoff_ms);
}

static void process_forget(struct vm *vm)
{
    client_drop(vm);
    pid_forget(vm);
    vm->real = GONE;
    vm->ended = true;
    vm->gave_up = vm->doomed = false;
    vm->paused = vm->paused_itself = false;
    vm_live_forget(vm);
    vm_jail_end(vm);
    timer_set(vm, TIMER_NONE, 0);
}

/* The rest of process_gone, when nothing begins again. */
static void settle(struct vm *vm, json_t *take_patch, int status, const char *why)
{
    const char *wanted = vm_wanted(vm);
    bool up = is_wanted_up(vm), saving = strcmp(wanted, "saved") == 0;
    bool saved = vm_saved_size(vm) >= 0 && (up || saving);
    bool failed = !saved && (saving || (up && status != EXIT_POWERED_OFF && status != EXIT_QUIT));
    const char *state = saved ? "saved" : failed && up ? "failed" : "stopped";
    json_object_set_new(take_patch, "state", json_string(state));
    json_object_set_new(take_patch, "error", failed ? json_string(why) : json_null());
    if (up || saving)
        json_object_set_new(take_patch, "wanted", json_string(saved ? "saved" : "stopped"));
    if (!saved)
        vm_saved_forget(vm);
    bool deleting = strcmp(wanted, "deleted") == 0;
    json_t *more = failed && saving ? job_error("save-failed", why, NULL)
                   : failed         ? job_error("ended", why, NULL)
                   : saved
                       ? json_pack("{s:{s:I}}", "result", "bytes", (json_int_t)vm_saved_size(vm))
                       : NULL;
    vm_tell(vm, take_patch, deleting ? NULL : failed ? "failed" : "done", more);
    if (deleting)
        vm_drive(vm);
}

static void process_gone(struct vm *vm)
{
    bool was_starting = vm->real == STARTING, was_doomed = vm->doomed, wanted_up = is_wanted_up(vm);
    json_t *record = vm_exit_record(vm, was_starting);
    int status = (int)json_integer_value(json_object_get(record, "status"));
    const char *reason = json_string_value(json_object_get(record, "reason"));
    char why[400];
    snprintf(why, sizeof why, "%s",
             vm->gave_up ? "its process did not answer, and was killed"
             : reason    ? reason
                         : "no reason is known");
    process_forget(vm);
    vm_event(vm, "vm.ended", json_pack("{s:i, s:s}", "status", status, "reason", why));
    json_t *patch =
        json_pack("{s:o, s:n, s:n, s:n, s:n, s:n, s:n, s:n}", "exit", record, "pid", "paused_by",
                  "running_engine", "vnc", "now", "pending", "change_error");
    if (!vm_object(vm)) {
        json_decref(patch);
    } else if (vm->restart) {
        json_object_set_new(patch, "wanted", json_string("running"));
        json_object_set_new(patch, "state", json_string("starting"));
        vm->restart = false;
        vm_tell(vm, patch, NULL, NULL);
        vm_start(vm);
    } else if (was_starting && wanted_up && was_doomed) {
        vm_tell(vm, patch, NULL, NULL);
        vm_start(vm);
    } else if (was_starting && wanted_up && vm->job[0]) {
        vm_tell(vm, patch, NULL, NULL);
        start_failed(vm, why);
    } else if (restart_wanted(vm, status) && status != EXIT_SAVED) {
        restart_later(vm, patch);
    } else {
        settle(vm, patch, status, why);
    }
}

static void deleted(struct update *u, const struct api_error *error)
{
    if (!error)
        vm_forget(u->vm);
}

static void vm_delete(struct vm *vm)
{
    vm_dirs_remove(vm);
    struct update *u = update_new(vm, NULL);
    u->delete_vm = true;
    strcpy(u->job, vm->job);
    u->job_patch = json_pack("{s:s, s:f, s:i, s:n}", "state", "done", "ended", time_now(),
                             "progress", 100, "stage");
    u->then = deleted;
    vm_event(vm, "vm.deleted", NULL);
    update_queue(u);
}

/* ---- the next step ---- */

static void kill_asked(struct vm *vm)
{
    if (vm->killing)
        return;
    vm->killing = vm->doomed = true;
    if (vm->client)
        vmm_client_ask(vm->client, "quit", NULL, -1, NULL, NULL);
    else if (vm->pid)
        vm_jail_kill(vm);
    timer_set(vm, TIMER_KILL, KILL_GRACE_MS);
}

static void stop_asked(struct vm *vm)
{
    if (vm->asked_to_stop || vm->killing)
        return;
    vm->asked_to_stop = true;
    if (vm->paused)
        vmm_client_ask(vm->client, "resume", NULL, -1, NULL, NULL); /* to hear its power button */
    vmm_client_ask(vm->client, "power-button", NULL, -1, NULL, NULL);
    vm_agent_shutdown(vm);
    vm_stage(vm, "waiting for the guest to shut down", -1);
    timer_set(vm, TIMER_STOP, vm->stop_timeout_s * 1000ull);
}

void vm_drive(struct vm *vm)
{
    const char *wanted = vm_wanted(vm);
    bool up = is_wanted_up(vm);
    bool kill_it = strcmp(wanted, "stopped") == 0 && !vm->stop_timeout_s && !vm->restart;

    if (vm->real == STARTING) { /* its first status drives on */
        if (kill_it && vm->pid)
            kill_asked(vm);
        return;
    }
    if (up && vm->real == GONE && vm->timing != TIMER_RESTART && vm->timing != TIMER_KEEPER)
        vm_start(vm);
    else if (up && vm->real == UP && vm->paused != (strcmp(wanted, "paused") == 0) &&
             !vm->asked_to_pause && !debugged(vm))
        vmm_client_ask(vm->client, vm->paused ? "resume" : "pause", NULL, -1, NULL, NULL);
    else if (strcmp(wanted, "stopped") == 0 && vm->real == UP)
        vm->stop_timeout_s || vm->restart ? stop_asked(vm) : kill_asked(vm);
    else if (strcmp(wanted, "saved") == 0 && vm->real == UP)
        save_asked(vm);
    else if (strcmp(wanted, "saved") == 0)
        settle(vm, json_object(), EXIT_KILLED, "the VM ended before it was saved");
    else if (strcmp(wanted, "deleted") == 0)
        vm->real == UP ? kill_asked(vm) : vm_delete(vm);
}

void vm_timer(void *arg)
{
    struct vm *vm = arg;
    switch (vm->timing) {
    case TIMER_NONE: break;
    case TIMER_CONNECT: try_connect(vm); break;
    case TIMER_STOP:
        vm_event(vm, "vm.stop-deadline", NULL);
        kill_asked(vm);
        break;
    case TIMER_KILL:
        if (vm->pid)
            vm_jail_kill(vm);
        break;
    case TIMER_KEEPER:
        vm->timing = TIMER_NONE;
        vm_start(vm);
        break;
    case TIMER_RESTART:
        vm->timing = TIMER_NONE;
        if (strcmp(vm_wanted(vm), "running") == 0)
            vm_start(vm);
        break;
    }
}

/* What is real, and then on from there. */
void vm_adopt(struct vm *vm)
{
    const char *wanted = vm_wanted(vm), *state = object_text(vm_object(vm), "state");
    if (vm_is_copying(vm)) {
        vm_copy_drive(vm);
        return;
    }
    if (vm_lock_held(vm)) {
        vm->config = vm_config_read(vm, "config.json");
        vm->begun = vm_config_read(vm, "object.json");
        vm_id_adopt(vm);
        vm->doomed = !is_wanted_up(vm) && strcmp(wanted, "saved") != 0;
        await(vm, 0);
        return;
    }
    cgroup_remove(vm->id); /* a daemon before us was killed over it */
    bool was_up = strcmp(state, "running") == 0 || strcmp(state, "paused") == 0 ||
                  strcmp(state, "stopping") == 0 || strcmp(state, "saving") == 0;
    if (strcmp(wanted, "stopped") == 0 && !was_up) /* thrown away, and the daemon killed over it */
        vm_saved_forget(vm);
    if (was_up) /* it ended while nobody looked */
        process_gone(vm);
    else if (vm->job[0] && strcmp(wanted, "stopped") == 0)
        vm_tell(vm, json_pack("{s:s}", "state", "stopped"), "done", NULL);
    else if (strcmp(state, "saved") != 0)
        vm_drive(vm);
}

void vm_release(struct vm *vm)
{
    client_drop(vm);
    pid_forget(vm);
    vm_live_forget(vm);
    child_release(TAKE(vm->maker));
}
