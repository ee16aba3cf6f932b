/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Virtual machines: what was asked for ("wanted", kept in the store) against what is (the VM's
 * process).
 *
 * vm_drive() looks at both and takes the next step towards the one from the other; it is called
 * whenever either may have changed, and at the start of the daemon, so that nothing else must know
 * at which step a former daemon was killed. Jobs are told what came of it: a job is over when its
 * VM is as it wanted, or cannot be.
 *
 * A VM's process is a session of its own and no child that matters: daemons come and go. It is
 * found again by its control socket, and its end by its lock and exit record in the run directory.
 */
#include "daemon/daemon.h"

#include "base/log.h"
#include "base/text.h"
#include "daemon/vmm_client.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    CONNECT_MS = 10,      /* between looks for a starting VM's socket */
    START_LIMIT_S = 60,   /* for a process to answer */
    KILL_GRACE_MS = 5000, /* between "quit" and SIGKILL */
    BACKOFF_MIN_MS = 1000,
    BACKOFF_MAX_MS = 60000,
    SETTLED_S = 60, /* a VM that ran so long begins with the shortest back-off again */
};

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

static struct vm *vms;
static uint64_t last_job;

static void vm_drive(struct vm *vm);

static struct object *vm_object(const struct vm *vm)
{
    return objects_get(vm->daemon->objects, "vms", vm->id);
}

static const char *vm_wanted(const struct vm *vm)
{
    struct object *object = vm_object(vm);
    return object ? object_text(object, "wanted") : "deleted";
}

static void vm_dir(const struct vm *vm, char out[PATH_MAX])
{
    if (snprintf(out, PATH_MAX, "%s/vms/%s", vm->daemon->run_dir, vm->id) >= PATH_MAX)
        abort(); /* run_dir was checked at start */
}

/* ---- keeping what changed ---- */

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

static void update_try(struct update *u);

static void update_free(struct update *u)
{
    json_decref(u->vm_patch);
    json_decref(u->job_patch);
    json_decref(u->vm_new);
    json_decref(u->job_new);
    free(u);
}

static void update_over(struct update *u, const struct api_error *error)
{
    struct vm *vm = u->vm;
    bool goes = (u->delete_vm && !error) || (u->vm_new && error); /* `then` forgets the VM */
    vm->updates = u->next;
    if (!vm->updates)
        vm->updates_end = &vm->updates;
    else if (!goes)
        update_try(vm->updates);
    if (error)
        log_error("VM %s: %s", vm->id, error->message);
    if (u->then)
        u->then(u, error);
    update_free(u);
}

static void update_done(void *arg, struct object *object, const struct api_error *error)
{
    struct update *u = arg;
    if (error && error->status == 412 && !u->vm_new)
        update_try(u); /* on what somebody else made of it */
    else
        update_over(u, error);
}

static json_t *patched(const struct object *object, json_t *patch)
{
    json_t *json = object_edit(object), *value;
    const char *key;
    json_object_foreach(patch, key, value)
    {
        if (json_is_null(value))
            json_object_del(json, key);
        else
            json_object_set(json, key, value);
    }
    return json;
}

static void nothing_to_keep(void *arg) { update_over(arg, NULL); }

static void update_try(struct update *u)
{
    struct objects_change changes[2];
    struct objects *objects = u->vm->daemon->objects;
    unsigned count = 0;
    struct object *vm = vm_object(u->vm);
    struct object *job = u->job[0] ? objects_get(objects, "jobs", u->job) : NULL;
    if (u->vm_new)
        changes[count++] = (struct objects_change){ .kind = "vms",
                                                    .id = u->vm->id,
                                                    .take_json = json_deep_copy(u->vm_new) };
    else if (vm && (u->vm_patch || u->delete_vm))
        changes[count++] = (struct objects_change){
            .kind = "vms",
            .id = vm->id,
            .take_json = u->delete_vm ? NULL : patched(vm, u->vm_patch),
            .expect = vm->revision,
        };
    if (u->job_new)
        changes[count++] = (struct objects_change){ .kind = "jobs",
                                                    .id = u->job,
                                                    .take_json = json_deep_copy(u->job_new) };
    else if (job && u->job_patch)
        changes[count++] = (struct objects_change){ .kind = "jobs",
                                                    .id = job->id,
                                                    .take_json = patched(job, u->job_patch),
                                                    .expect = job->revision };
    if (count)
        objects_change(objects, changes, count, update_done, u);
    else
        loop_post(u->vm->daemon->loop, nothing_to_keep, u);
}

static struct update *update_new(struct vm *vm, json_t *take_patch)
{
    struct update *u = calloc(1, sizeof *u);
    if (!u)
        abort();
    u->vm = vm;
    u->vm_patch = take_patch;
    return u;
}

static void update_queue(struct update *u)
{
    struct vm *vm = u->vm;
    *vm->updates_end = u;
    vm->updates_end = &u->next;
    if (vm->updates == u)
        update_try(u);
}

/* What is now, and what became of the job if that is its end: state NULL: still running. */
static void vm_tell(struct vm *vm, json_t *take_patch, const char *job_state, json_t *take_error)
{
    struct update *u = update_new(vm, take_patch);
    if (vm->job[0] && vm->job_kept && job_state) {
        strcpy(u->job, vm->job);
        u->job_patch =
            json_pack("{s:s, s:f, s:n}", "state", job_state, "ended", time_now(), "stage");
        if (take_error)
            json_object_set_new(u->job_patch, "error", take_error);
        if (strcmp(job_state, "done") == 0)
            json_object_set_new(u->job_patch, "progress", json_integer(100));
        vm->job[0] = 0;
    } else {
        json_decref(take_error);
    }
    update_queue(u);
}

static json_t *job_error(const char *code, const char *message, const char *hint)
{
    json_t *error = json_pack("{s:s, s:s}", "code", code, "message", message);
    if (hint)
        json_object_set_new(error, "hint", json_string(hint));
    return error;
}

static void vm_event(struct vm *vm, const char *kind, json_t *take_detail)
{
    struct object *object = vm_object(vm);
    event_add(kind, "vms", vm->id, object ? object_text(object, "name") : "", take_detail);
}

/* ---- timers ---- */

static void timer_set(struct vm *vm, int timing, uint64_t ms)
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
    waitpid(vm->pid, NULL, WNOHANG); /* when it was our child */
    process_gone(vm);
}

/* Its end is noticed from now on. */
static void pid_follow(struct vm *vm, pid_t pid)
{
    if (vm->pid == pid && vm->pid_watch)
        return;
    pid_forget(vm);
    vm->pid = pid;
    vm->pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (vm->pid_fd < 0 || loop_watch_create(vm->daemon->loop, vm->pid_fd, LOOP_READ, pid_ended, vm,
                                            &vm->pid_watch, NULL) < 0)
        log_warning("%s: its process %d cannot be followed", vm->id, (int)pid);
}

/* Does a process hold the run directory? */
static bool lock_held(const char *dir)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/lock", dir) >= (int)sizeof path)
        return false;
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return false;
    bool held = flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
    close(fd);
    return held;
}

/* The last line that it said, for a process that ended before it could leave a record. */
static void last_words(const char *dir, char *out, size_t len)
{
    char path[PATH_MAX + 16];
    AUTO(buf_fini) struct buf text = { 0 };
    snprintf(path, sizeof path, "%s/stderr", dir);
    if (file_read(path, 64 << 10, &text, NULL) < 0 || !text.len)
        return;
    text.data[text.len - 1] = 0; /* its newline */
    const char *line = strrchr((const char *)text.data, '\n');
    line = line ? line + 1 : (const char *)text.data;
    const char *colon = strncmp(line, "bedplate-vmm: ", 14) == 0 ? line + 14 : line;
    if (*colon)
        snprintf(out, len, "%s", colon);
}

static json_t *exit_record(const struct vm *vm)
{
    char dir[PATH_MAX], path[PATH_MAX + 16], why[300] = "its process was killed or crashed";
    json_t *record = NULL;
    struct err err;
    vm_dir(vm, dir);
    snprintf(path, sizeof path, "%s/exit.json", dir);
    if (json_parse_file(path, &record, &err) < 0 || !json_is_object(record)) {
        json_decref(record);
        if (vm->real == STARTING)
            last_words(dir, why, sizeof why);
        record = json_pack("{s:i, s:s, s:s, s:f}", "status", 255, "name", "killed", "reason", why,
                           "time", time_now());
        return record ? record : json_pack("{s:i, s:s}", "status", 255, "name", "killed");
    }
    json_object_set_new(record, "time", json_real(time_now()));
    return record;
}

static int write_config(struct vm *vm, const char *dir, struct err *err)
{
    char path[PATH_MAX + 16];
    AUTO(json_decref) json_t *config = vm_config(vm_object(vm), dir);
    AUTO(free) char *text = json_dumps(config, JSON_INDENT(2));
    snprintf(path, sizeof path, "%s/config.json", dir);
    AUTO(fd_close) int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_errno(err, errno, "cannot write %s", path);
    int r = write_full(fd, text, strlen(text));
    return r < 0 ? err_errno(err, -r, "cannot write %s", path) : 0;
}

/* In a session of its own; what it says to standard error before it has a log is kept beside it. */
static int spawn(struct vm *vm, const char *dir, pid_t *pid, struct err *err)
{
    char config[PATH_MAX + 16], errors[PATH_MAX + 16];
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    snprintf(config, sizeof config, "%s/config.json", dir);
    char *const argv[] = { vm->daemon->vmm, (char *)"--config", config, NULL };
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
    posix_spawn_file_actions_adddup2(&actions, 0, 1);
    snprintf(errors, sizeof errors, "%s/stderr", dir);
    posix_spawn_file_actions_addopen(&actions, 2, errors, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    int r = posix_spawn(pid, vm->daemon->vmm, &actions, &attr, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    return r ? err_errno(err, r, "cannot start %s", vm->daemon->vmm) : 0;
}

static void start_failed(struct vm *vm, const char *why)
{
    vm->real = GONE;
    timer_set(vm, TIMER_NONE, 0);
    vm_event(vm, "vm.failed", json_pack("{s:s}", "reason", why));
    vm_tell(vm,
            json_pack("{s:s, s:s, s:s, s:n}", "state", "failed", "wanted", "stopped", "error", why,
                      "pid"),
            "failed", job_error("start-failed", why, "bedplate logs shows more"));
}

static void vm_start(struct vm *vm)
{
    char dir[PATH_MAX], exit_path[PATH_MAX + 16];
    struct err err;
    pid_t pid;
    vm_dir(vm, dir);
    if (lock_held(dir)) { /* it runs already: a daemon before us was killed after starting it */
        vm->real = STARTING;
        vm->start_deadline_ns = monotonic_ns() + START_LIMIT_S * 1000000000ull;
        timer_set(vm, TIMER_CONNECT, 0);
        return;
    }
    if (mkdir(dir, 0700) < 0 && errno != EEXIST) {
        err_errno(&err, errno, "cannot make %s", dir);
        start_failed(vm, err.text);
        return;
    }
    snprintf(exit_path, sizeof exit_path, "%s/exit.json", dir);
    unlink(exit_path);
    if (write_config(vm, dir, &err) < 0 || spawn(vm, dir, &pid, &err) < 0) {
        start_failed(vm, err.text);
        return;
    }
    vm->real = STARTING;
    vm->asked_to_stop = vm->killing = vm->asked_to_pause = false;
    vm->start_deadline_ns = monotonic_ns() + START_LIMIT_S * 1000000000ull;
    pid_follow(vm, pid);
    timer_set(vm, TIMER_CONNECT, CONNECT_MS);
}

/* ---- the process's word ---- */

static void client_free_posted(void *arg) { vmm_client_destroy(arg); }

/* Not at once: we may be inside one of its call-backs. */
static void client_drop(struct vm *vm)
{
    if (vm->client)
        loop_post(vm->daemon->loop, client_free_posted, TAKE(vm->client));
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
    vm->paused = strcmp(state, "running") != 0;
    if (!was_up) {
        vm->up_since_ns = monotonic_ns();
        timer_set(vm, TIMER_NONE, 0);
        vm_event(vm, "vm.started", NULL);
    }
    bool settled = strcmp(vm_wanted(vm), vm->paused ? "paused" : "running") == 0;
    vm_tell(vm,
            json_pack("{s:s, s:i, s:s, s:n, s:b}", "state", vm->paused ? "paused" : "running",
                      "pid", (int)vm->pid, "running_engine", engine ? engine : "", "error",
                      "pending", 0),
            settled ? "done" : NULL, NULL);
    vm_drive(vm);
}

static void client_ready(void *arg, pid_t pid)
{
    struct vm *vm = arg;
    pid_follow(vm, pid);
    vmm_client_ask(vm->client, "status", NULL, -1, status_known, vm);
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
    if (strcmp(what, "running") == 0 || strcmp(what, "paused") == 0)
        vmm_client_ask(vm->client, "status", NULL, -1, status_known, vm);
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

static void try_connect(struct vm *vm)
{
    char dir[PATH_MAX], path[PATH_MAX + 16];
    vm_dir(vm, dir);
    snprintf(path, sizeof path, "%s/control.sock", dir);
    int r = vmm_client_create(vm->daemon->loop, path, &client_calls, vm, &vm->client, NULL);
    if (r == 0)
        return;
    if (!vm->pid_watch && !lock_held(dir)) {
        process_gone(vm);
        return;
    }
    if (monotonic_ns() > vm->start_deadline_ns) {
        if (vm->pid)
            kill(vm->pid, SIGKILL);
        start_failed(vm, "its process does not answer; it was killed");
        return;
    }
    timer_set(vm, TIMER_CONNECT, CONNECT_MS);
}

/* ---- its end ---- */

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

static void process_gone(struct vm *vm)
{
    json_t *record = exit_record(vm);
    int status = (int)json_integer_value(json_object_get(record, "status"));
    const char *reason = json_string_value(json_object_get(record, "reason"));
    bool was_starting = vm->real == STARTING,
         wanted_up = strcmp(vm_wanted(vm), "running") == 0 || strcmp(vm_wanted(vm), "paused") == 0;
    char why[400];
    snprintf(why, sizeof why, "%s", reason ? reason : "no reason is known");
    client_drop(vm);
    pid_forget(vm);
    vm->real = GONE;
    vm->paused = false;
    timer_set(vm, TIMER_NONE, 0);
    vm_event(vm, "vm.ended", json_pack("{s:i, s:s}", "status", status, "reason", why));
    json_t *patch = json_pack("{s:o, s:n, s:n}", "exit", record, "pid", "running_engine");
    if (!vm_object(vm)) {
        json_decref(patch);
        return;
    }
    if (vm->restart) {
        json_object_set_new(patch, "wanted", json_string("running"));
        json_object_set_new(patch, "state", json_string("starting"));
        vm->restart = false;
        vm_tell(vm, patch, NULL, NULL);
        vm_start(vm);
        return;
    }
    if (was_starting && wanted_up && vm->job[0]) {
        vm_tell(vm, patch, NULL, NULL);
        start_failed(vm, why);
        return;
    }
    if (restart_wanted(vm, status)) {
        restart_later(vm, patch);
        return;
    }
    bool failed = wanted_up && status != 0 && status != 7 && status != 8;
    json_object_set_new(patch, "state", json_string(failed ? "failed" : "stopped"));
    json_object_set_new(patch, "error", failed ? json_string(why) : json_null());
    if (wanted_up)
        json_object_set_new(patch, "wanted", json_string("stopped"));
    bool deleting = strcmp(vm_wanted(vm), "deleted") == 0;
    vm_tell(vm, patch,
            deleting ? NULL
            : failed ? "failed"
                     : "done",
            failed ? job_error("ended", why, NULL) : NULL);
    if (deleting)
        vm_drive(vm);
}

static void remove_dir(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(path);
}

static void vm_forget(struct vm *vm)
{
    struct vm **p = &vms;
    struct api_error error = { 0 };
    while (*p != vm)
        p = &(*p)->next;
    *p = vm->next;
    api_fail(&error, 404, "not-found", "", "the VM was deleted");
    for (struct update *u = vm->updates, *next; u; u = next) {
        next = u->next;
        if (u->request)
            reply_error(u->request, &error);
        update_free(u);
    }
    client_drop(vm);
    pid_forget(vm);
    loop_timer_destroy(vm->timer);
    free(vm);
}

static void deleted(struct update *u, const struct api_error *error)
{
    if (!error)
        vm_forget(u->vm);
}

static void vm_delete(struct vm *vm)
{
    char dir[PATH_MAX];
    vm_dir(vm, dir);
    remove_dir(dir);
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
    vm->killing = true;
    if (vm->client)
        vmm_client_ask(vm->client, "quit", NULL, -1, NULL, NULL);
    else if (vm->pid)
        kill(vm->pid, SIGKILL);
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
    timer_set(vm, TIMER_STOP, vm->stop_timeout_s * 1000ull);
}

static void vm_drive(struct vm *vm)
{
    const char *wanted = vm_wanted(vm);
    bool up = strcmp(wanted, "running") == 0 || strcmp(wanted, "paused") == 0;

    if (vm->real == STARTING)
        return; /* its first status drives on */
    if (up && vm->real == GONE && vm->timing != TIMER_RESTART)
        vm_start(vm);
    else if (up && vm->real == UP && vm->paused != (strcmp(wanted, "paused") == 0) &&
             !vm->asked_to_pause)
        vmm_client_ask(vm->client, vm->paused ? "resume" : "pause", NULL, -1, NULL, NULL);
    else if (strcmp(wanted, "stopped") == 0 && vm->real == UP)
        vm->stop_timeout_s || vm->restart ? stop_asked(vm) : kill_asked(vm);
    else if (strcmp(wanted, "deleted") == 0)
        vm->real == UP ? kill_asked(vm) : vm_delete(vm);
}

static void vm_timer(void *arg)
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
            kill(vm->pid, SIGKILL);
        break;
    case TIMER_RESTART:
        vm->timing = TIMER_NONE;
        if (strcmp(vm_wanted(vm), "running") == 0)
            vm_start(vm);
        break;
    }
}

static struct vm *vm_new(struct daemon *daemon, const char *id)
{
    struct vm *vm = calloc(1, sizeof *vm);
    if (!vm || loop_timer_create(daemon->loop, vm_timer, vm, &vm->timer, NULL) < 0)
        abort();
    vm->daemon = daemon;
    vm->pid_fd = -1;
    vm->updates_end = &vm->updates;
    snprintf(vm->id, sizeof vm->id, "%s", id);
    vm->next = vms;
    vms = vm;
    return vm;
}

static struct vm *vm_of(struct daemon *daemon, const char *id)
{
    for (struct vm *vm = vms; vm; vm = vm->next)
        if (strcmp(vm->id, id) == 0)
            return vm;
    return vm_new(daemon, id);
}

/* ---- requests ---- */

/* The job's object, kept in the same transaction as what it changes. */
static json_t *job_new(struct vm *vm, const char *kind, const char *name, char id[24])
{
    char object[64];
    snprintf(id, 24, "%llu", (unsigned long long)++last_job);
    snprintf(object, sizeof object, "vms/%s", vm->id);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:f}", "id", id, "kind", kind, "object", object,
                     "name", name, "state", "running", "created", time_now());
}

static void asked(struct update *u, const struct api_error *error)
{
    struct vm *vm = u->vm;
    bool current = strcmp(vm->job, u->job) == 0; /* not given up for a kill meanwhile */
    if (error) {
        reply_error(u->request, error);
        if (u->vm_new)
            vm_forget(vm);
        else if (current)
            vm->job[0] = 0;
        return;
    }
    reply_object(u->request, 202, objects_get(vm->daemon->objects, "jobs", u->job));
    if (!current)
        return;
    vm->job_kept = true;
    const char *wanted = vm_wanted(vm);
    bool there = strcmp(wanted, "stopped") == 0   ? vm->real == GONE
                 : strcmp(wanted, "running") == 0 ? vm->real == UP && !vm->paused
                                                  : false;
    if (there) /* nothing to do */
        vm_tell(vm, json_pack("{s:s}", "state", wanted), "done", NULL);
    else
        vm_drive(vm);
}

/* Keeps the change and a job for it; the job is the answer. */
static void ask(struct http_request *request, struct vm *vm, const char *kind, const char *name,
                json_t *take_patch, json_t *take_new)
{
    struct update *u = update_new(vm, take_patch);
    u->vm_new = take_new;
    u->job_new = job_new(vm, kind, name, u->job);
    u->request = request;
    u->then = asked;
    strcpy(vm->job, u->job);
    vm->job_kept = false;
    update_queue(u);
}

static int name_free(struct daemon *daemon, const char *name, const char *id,
                     struct api_error *error)
{
    struct object *other = objects_find(daemon->objects, "vms", name, NULL);
    if (!other || strcmp(object_text(other, "name"), name) != 0 ||
        (id && strcmp(other->id, id) == 0))
        return 0;
    api_fail(error, 409, "exists", "name", "there is a VM '%s'", name);
    api_hint(error, "choose another name, or delete it first");
    return -1;
}

void vms_create(struct daemon *daemon, struct http_request *request, json_t *take_json)
{
    struct api_error error = { 0 };
    char id[37];
    object_new_id(id);
    if (name_free(daemon, json_string_value(json_object_get(take_json, "name")), NULL, &error) <
        0) {
        json_decref(take_json);
        reply_error(request, &error);
        return;
    }
    json_object_set_new(take_json, "id", json_string(id));
    json_object_set_new(take_json, "state", json_string("creating"));
    json_object_set_new(take_json, "wanted", json_string("stopped"));
    json_object_set_new(take_json, "created", json_real(time_now()));
    char console[PATH_MAX + 80];
    snprintf(console, sizeof console, "%s/vms/%s/serial.sock", daemon->run_dir, id);
    json_object_set_new(take_json, "console", json_string(console));
    ask(request, vm_new(daemon, id), "vm.create",
        json_string_value(json_object_get(take_json, "name")), NULL, take_json);
}

static void patched_done(void *arg, struct object *object, const struct api_error *error)
{
    struct http_request *request = arg;
    if (error)
        reply_error(request, error);
    else
        reply_object(request, 200, object);
}

void vms_patch(struct daemon *daemon, struct http_request *request, struct object *object,
               json_t *take_json, uint64_t expect)
{
    struct api_error error = { 0 };
    const char *name = json_string_value(json_object_get(take_json, "name"));
    if (name_free(daemon, name, object->id, &error) < 0) {
        json_decref(take_json);
        reply_error(request, &error);
        return;
    }
    json_object_del(take_json, "revision");
    const struct objects_change change = {
        .kind = "vms", .id = object->id, .take_json = take_json, .expect = expect
    };
    objects_change(daemon->objects, &change, 1, patched_done, request);
}

static int busy(const struct vm *vm, struct api_error *error)
{
    if (!vm->job[0])
        return 0;
    api_fail(error, 409, "busy", "", "job %s is under way for this VM", vm->job);
    api_hint(error, "wait for it, or kill the VM");
    return -1;
}

void vms_delete(struct daemon *daemon, struct http_request *request, struct object *object)
{
    struct api_error error = { 0 };
    struct vm *vm = vm_of(daemon, object->id);
    if (vm->real != GONE) {
        api_fail(&error, 409, "running", "", "the VM '%s' runs", object_text(object, "name"));
        api_hint(&error, "stop or kill it first");
        reply_error(request, &error);
        return;
    }
    if (busy(vm, &error) < 0) {
        reply_error(request, &error);
        return;
    }
    timer_set(vm, TIMER_NONE, 0);
    ask(request, vm, "vm.delete", object_text(object, "name"),
        json_pack("{s:s, s:s}", "wanted", "deleted", "state", "deleting"), NULL);
}

/* ---- actions that go to the process ---- */

static void forwarded(void *arg, const json_t *ok, const struct err *err)
{
    struct http_request *request = arg;
    struct api_error error = { 0 };
    if (!ok) {
        api_fail(&error, 409, "refused", "", "%s", err->text);
        reply_error(request, &error);
    } else if (json_object_size(ok)) {
        http_reply_json(request, 200, json_incref((json_t *)ok));
    } else {
        http_reply(request, 204, "", NULL, 0);
    }
}

static const struct {
    const char *action, *command;
} forwards[] = {
    { "reset", "reset" },
    { "screenshot", "screenshot" },
    { "send-keys", "send-keys" },
};

static int need_up(const struct vm *vm, struct api_error *error)
{
    if (vm->real == UP && vm->client)
        return 0;
    api_fail(error, 409, "not-running", "", "the VM does not run");
    api_hint(error, "start it first");
    return -1;
}

static void pause_kept(struct update *u, const struct api_error *error)
{
    if (error)
        reply_error(u->request, error);
    else
        http_reply(u->request, 204, "", NULL, 0);
}

struct pausing {
    struct daemon *daemon;
    struct http_request *request;
    char id[40];
    bool pause;
};

/* The answer comes when the new state shows. */
static void pause_done(void *arg, const json_t *ok, const struct err *err)
{
    struct pausing *p = arg;
    if (ok) {
        struct vm *vm = vm_of(p->daemon, p->id);
        struct update *u =
            update_new(vm, json_pack("{s:s}", "state", p->pause ? "paused" : "running"));
        vm->paused = p->pause;
        u->request = p->request;
        u->then = pause_kept;
        update_queue(u);
    } else {
        forwarded(p->request, NULL, err);
    }
    free(p);
}

static void want(struct vm *vm, const char *wanted)
{
    vm_tell(vm, json_pack("{s:s}", "wanted", wanted), NULL, NULL);
}

/* Lifecycle: which action may begin when, and what it makes the VM want. */
static const struct move {
    const char *action, *wanted, *state, *job;
} moves[] = {
    { "start", "running", "starting", "vm.start" },
    { "stop", "stopped", "stopping", "vm.stop" },
    { "kill", "stopped", "stopping", "vm.kill" },
    { "restart", "stopped", "stopping", "vm.restart" },
};

static void move_begin(struct daemon *daemon, struct http_request *request, struct vm *vm,
                       struct object *object, const struct move *move, const json_t *args)
{
    bool kill_it = strcmp(move->action, "kill") == 0;
    struct api_error error = { 0 };
    if (!kill_it && busy(vm, &error) < 0) {
        reply_error(request, &error);
        return;
    }
    if (kill_it &&
        vm->job[0]) { /* what was under way is given up; its beginning is kept before its end */
        vm->job_kept = true;
        vm_tell(vm, json_object(), "failed",
                job_error("killed", "the VM was killed meanwhile", NULL));
    }
    vm->restart = strcmp(move->action, "restart") == 0 && vm->real != GONE;
    vm->stop_timeout_s = (unsigned)json_integer_value(json_object_get(args, "timeout"));
    vm->asked_to_stop = vm->asked_to_pause = false;
    vm->killing = false;
    vm->backoff_ms = 0;
    if (vm->real == GONE)
        timer_set(vm, TIMER_NONE, 0);
    const char *wanted = move->wanted, *state = move->state;
    if (strcmp(move->action, "restart") == 0 && vm->real == GONE) {
        wanted = "running";
        state = "starting";
    }
    bool there = strcmp(wanted, "stopped") == 0 ? vm->real == GONE : vm->real == UP && !vm->paused;
    json_t *patch =
        json_pack("{s:s, s:s, s:n}", "wanted", wanted, "state", there ? wanted : state, "error");
    if (strcmp(wanted, "running") == 0 && vm->real == GONE)
        json_object_set_new(patch, "started", json_real(time_now()));
    ask(request, vm, move->job, object_text(object, "name"), patch, NULL);
}

void vms_action(struct daemon *daemon, struct http_request *request, struct object *object,
                const char *action, const json_t *args)
{
    struct api_error error = { 0 };
    struct vm *vm = vm_of(daemon, object->id);
    for (unsigned i = 0; i < sizeof moves / sizeof *moves; i++)
        if (strcmp(moves[i].action, action) == 0) {
            move_begin(daemon, request, vm, object, &moves[i], args);
            return;
        }
    if (need_up(vm, &error) < 0) {
        reply_error(request, &error);
        return;
    }
    if (strcmp(action, "pause") == 0 || strcmp(action, "resume") == 0) {
        struct pausing *p = calloc(1, sizeof *p);
        if (!p)
            abort();
        *p = (struct pausing){ .daemon = daemon, .request = request, .pause = action[0] == 'p' };
        strcpy(p->id, vm->id);
        want(vm, p->pause ? "paused" : "running");
        vmm_client_ask(vm->client, action, NULL, -1, pause_done, p);
        return;
    }
    for (unsigned i = 0; i < sizeof forwards / sizeof *forwards; i++)
        if (strcmp(forwards[i].action, action) == 0) {
            vmm_client_ask(vm->client, forwards[i].command, json_deep_copy(args), -1, forwarded,
                           request);
            return;
        }
    api_fail(&error, 501, "not-there", "", "the action '%s' is not there yet", action);
    reply_error(request, &error);
}

/* ---- start and end ---- */

void vms_changed(struct daemon *daemon, struct object *object, const json_t *was, const json_t *now)
{
    if (!was)
        event_add("vm.created", "vms", object->id, object_text(object, "name"), NULL);
}

void vms_count(struct daemon *daemon, unsigned *defined, unsigned *running)
{
    size_t count;
    objects_list(daemon->objects, "vms", &count);
    *defined = (unsigned)count;
    *running = 0;
    for (struct vm *vm = vms; vm; vm = vm->next)
        *running += vm->real == UP;
}

/* A job that a former daemon left: its VM goes on with it. */
static void job_adopt(struct daemon *daemon, struct object *job)
{
    const char *object = object_text(job, "object");
    uint64_t number = strtoull(job->id, NULL, 10);
    last_job = number > last_job ? number : last_job;
    if (strcmp(object_text(job, "state"), "running") != 0 || strncmp(object, "vms/", 4) != 0 ||
        !objects_get(daemon->objects, "vms", object + 4))
        return;
    struct vm *vm = vm_of(daemon, object + 4);
    snprintf(vm->job, sizeof vm->job, "%s", job->id);
    vm->job_kept = true;
    vm->restart = strcmp(object_text(job, "kind"), "vm.restart") == 0 &&
                  strcmp(object_text(vm_object(vm), "wanted"), "stopped") == 0;
    vm->stop_timeout_s = strcmp(object_text(job, "kind"), "vm.kill") == 0 ? 0 : 90;
}

/* What is real, and then on from there. */
static void vm_adopt(struct vm *vm)
{
    char dir[PATH_MAX];
    const char *wanted = vm_wanted(vm), *state = object_text(vm_object(vm), "state");
    vm_dir(vm, dir);
    if (lock_held(dir)) {
        vm->real = STARTING;
        vm->start_deadline_ns = monotonic_ns() + START_LIMIT_S * 1000000000ull;
        timer_set(vm, TIMER_CONNECT, 0);
        return;
    }
    bool was_up = strcmp(state, "running") == 0 || strcmp(state, "paused") == 0 ||
                  strcmp(state, "stopping") == 0;
    if (was_up) { /* it ended while nobody looked */
        process_gone(vm);
        return;
    }
    if (vm->job[0] && strcmp(wanted, "stopped") == 0)
        vm_tell(vm, json_pack("{s:s}", "state", "stopped"), "done", NULL);
    else
        vm_drive(vm);
}

static int by_order(const void *a, const void *b)
{
    const struct object *const *x = a, *const *y = b;
    json_int_t m =
        json_integer_value(json_object_get(json_object_get((*x)->json, "autostart"), "order"));
    json_int_t n =
        json_integer_value(json_object_get(json_object_get((*y)->json, "autostart"), "order"));
    return m < n ? -1 : m > n;
}

/* After a start of the host: those that are to run and do not, one after the other with their
 * delays. */
static void autostart(struct daemon *daemon)
{
    size_t count;
    struct object **list = objects_list(daemon->objects, "vms", &count);
    struct object **order = malloc((count + 1) * sizeof(struct object *));
    uint64_t delay_ms = 0;
    size_t n = 0;
    if (!order)
        abort();
    for (size_t i = 0; i < count; i++) {
        const json_t *a = json_object_get(list[i]->json, "autostart");
        if (json_is_true(json_object_get(a, "enabled")))
            order[n++] = list[i];
    }
    qsort(order, n, sizeof(struct object *), by_order);
    for (size_t i = 0; i < n; i++) {
        struct vm *vm = vm_of(daemon, order[i]->id);
        const json_t *a = json_object_get(order[i]->json, "autostart");
        if (vm->real != GONE || vm->job[0] || vm->timing != TIMER_NONE)
            continue;
        vm_tell(vm, json_pack("{s:s, s:s}", "wanted", "running", "state", "starting"), NULL, NULL);
        timer_set(vm, TIMER_RESTART, delay_ms + 1);
        delay_ms += (uint64_t)json_integer_value(json_object_get(a, "delay")) * 1000;
    }
    free(order);
}

int vms_start(struct daemon *daemon, struct err *err)
{
    size_t count, jobs;
    char dir[PATH_MAX + 8];
    snprintf(dir, sizeof dir, "%s/vms", daemon->run_dir);
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return err_errno(err, errno, "cannot make %s", dir);
    struct object **list = objects_list(daemon->objects, "jobs", &jobs);
    for (size_t i = 0; i < jobs; i++)
        job_adopt(daemon, list[i]);
    list = objects_list(daemon->objects, "vms", &count);
    for (size_t i = 0; i < count; i++)
        vm_adopt(vm_of(daemon, list[i]->id));
    autostart(daemon);
    return 0;
}

void vms_stop(struct daemon *daemon)
{
    while (vms) {
        struct vm *vm = vms;
        vmm_client_destroy(TAKE(vm->client));
        vm_forget(vm);
    }
}
