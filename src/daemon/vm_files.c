/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A VM's directories.
 *
 *   RUN/vms/ID     lock, control.sock, exit.json, log: of its process, see docs/exit-status.md
 *                  jail         locked as long as its jail is there: from before that makes the
 *                               process, until all is over; and the jail's number
 *                  start.json   the configuration that its process was started with
 *                  config.json  the one that it has now: some things change while it runs
 *                  object.json  its object when it was started
 *                  serial.log   the last output of its serial port, once it ended
 *                  stderr       what it said before it had a log
 *   STATE/vms/ID   uefi-vars    UEFI variables
 *                  saved        the VM's saved state, and saved.json, the configuration it needs;
 *                  saved.used   until the VM that went on from it is known to run
 */
#include "base/text.h"
#include "daemon/vms.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NOTES_MAX = 64 << 10 };

static void path_make(const char *dir, const struct vm *vm, const char *name, char out[PATH_MAX])
{
    if (snprintf(out, PATH_MAX, "%s/vms/%s%s%s", dir, vm->id, *name ? "/" : "", name) >= PATH_MAX)
        abort(); /* both directories' lengths were checked at start */
}

void vm_run_path(const struct vm *vm, const char *name, char out[PATH_MAX])
{
    path_make(vm->daemon->run_dir, vm, name, out);
}

void vm_state_path(const struct vm *vm, const char *name, char out[PATH_MAX])
{
    path_make(vm->daemon->state_dir, vm, name, out);
}

int vm_dirs_make(const struct vm *vm, struct err *err)
{
    char dir[PATH_MAX];
    vm_run_path(vm, "", dir);
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return err_errno(err, errno, "cannot make %s", dir);
    vm_state_path(vm, "", dir);
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return err_errno(err, errno, "cannot make %s", dir);
    return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *where)
{
    remove(path);
    return 0;
}

void dir_remove(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

void orphans_remove(struct daemon *daemon, const char *kind)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.4000s/%s", daemon->state_dir, kind);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        if (entry->d_name[0] == '.' || objects_get(daemon->objects, kind, entry->d_name))
            continue;
        snprintf(path, sizeof path, "%.3800s/%s/%s", daemon->state_dir, kind, entry->d_name);
        dir_remove(path);
    }
    if (dir)
        closedir(dir);
}

void vm_dirs_remove(const struct vm *vm)
{
    char dir[PATH_MAX];
    vm_run_path(vm, "", dir);
    dir_remove(dir);
    vm_state_path(vm, "", dir);
    dir_remove(dir);
}

void vm_part_path(const struct vm *vm, const char *name, char out[PATH_MAX])
{
    char part[80];
    snprintf(part, sizeof part, "%.40s.%d.part", name, (int)getpid());
    vm_state_path(vm, part, out);
}

void vm_parts_remove(const struct vm *vm)
{
    char dir[PATH_MAX];
    vm_state_path(vm, "", dir);
    DIR *entries = opendir(dir);
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        const char *end = strrchr(entry->d_name, '.');
        if (end && strcmp(end, ".part") == 0)
            unlinkat(dirfd(entries), entry->d_name, 0);
    }
    if (entries)
        closedir(entries);
}

int vm_lock_take(const struct vm *vm, int *fd, struct err *err)
{
    char path[PATH_MAX];
    vm_run_path(vm, "jail", path);
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (*fd >= 0 && flock(*fd, LOCK_EX | LOCK_NB) == 0 && ftruncate(*fd, 0) == 0)
        return 0;
    int r = err_errno(err, errno, "cannot lock %s", path);
    fd_close(*fd);
    return r;
}

static bool file_locked(const struct vm *vm, const char *name)
{
    char path[PATH_MAX];
    vm_run_path(vm, name, path);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return false;
    bool held = flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
    close(fd);
    return held;
}

pid_t vm_jail_pid(const struct vm *vm)
{
    char path[PATH_MAX];
    AUTO(buf_fini) struct buf text = { 0 };
    vm_run_path(vm, "jail", path);
    if (!file_locked(vm, "jail") || file_read(path, 16, &text, NULL) < 0)
        return 0;
    buf_add(&text, "", 1);
    return (pid_t)atoi((const char *)text.data);
}

/* The jail's comes first: a look at the process's own would be in the way of one that takes it. */
bool vm_lock_held(const struct vm *vm)
{
    return file_locked(vm, "jail") || file_locked(vm, "lock");
}

/* ---- how it ended ---- */

/* The last line that it said, for a process that ended before it could leave a record. */
static void last_words(const struct vm *vm, char *out, size_t len)
{
    char path[PATH_MAX];
    AUTO(buf_fini) struct buf text = { 0 };
    vm_run_path(vm, "stderr", path);
    if (file_read(path, NOTES_MAX, &text, NULL) < 0 || !text.len)
        return;
    text.data[text.len - 1] = 0; /* its newline */
    const char *line = strrchr((const char *)text.data, '\n');
    line = line ? line + 1 : (const char *)text.data;
    const char *colon = strncmp(line, "bedplate-vmm: ", 14) == 0 ? line + 14 : line;
    if (*colon)
        snprintf(out, len, "%s", colon);
}

static double record_time(const json_t *record)
{
    const char *text = json_string_value(json_object_get(record, "time"));
    struct tm tm = { 0 };
    return text && strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm) ? (double)timegm(&tm) : time_now();
}

json_t *vm_exit_record(const struct vm *vm, bool starting)
{
    char path[PATH_MAX], why[300] = "its process was killed or crashed";
    json_t *record = NULL;
    struct err err;
    vm_run_path(vm, "config.json", path);
    if (access(path, F_OK) < 0) /* the record was there, too */
        snprintf(why, sizeof why, "the host went down, or its user logged out, while it ran");
    vm_run_path(vm, "exit.json", path);
    if (json_parse_file(path, &record, &err) < 0 || !json_is_object(record)) {
        json_decref(record);
        if (starting)
            last_words(vm, why, sizeof why);
        record = json_pack("{s:i, s:s, s:s, s:f}", "status", EXIT_KILLED, "name", "killed",
                           "reason", why, "time", time_now());
        return record ? record : json_pack("{s:i, s:s}", "status", EXIT_KILLED, "name", "killed");
    }
    json_object_set_new(record, "time", json_real(record_time(record)));
    return record;
}

void vm_exit_forget(const struct vm *vm)
{
    char path[PATH_MAX];
    vm_run_path(vm, "exit.json", path);
    unlink(path);
}

/* ---- configurations ---- */

/* There whole or not at all; `synced`: also after a power cut. */
static int json_write(const char *path, const json_t *value, bool synced, struct err *err)
{
    char part[PATH_MAX + 8];
    AUTO(free) char *text = json_print(value);
    snprintf(part, sizeof part, "%s.part", path);
    AUTO(fd_close) int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_errno(err, errno, "cannot write %s", part);
    int r = write_full(fd, text, strlen(text));
    if (r == 0 && ((synced && fsync(fd) < 0) || rename(part, path) < 0))
        r = -errno;
    if (r < 0)
        unlink(part);
    return r < 0 ? err_errno(err, -r, "cannot write %s", path) : 0;
}

int vm_config_write(const struct vm *vm, const char *name, const json_t *config, struct err *err)
{
    char path[PATH_MAX];
    vm_run_path(vm, name, path);
    return json_write(path, config, false, err); /* no process outlives a power cut */
}

json_t *vm_config_read(const struct vm *vm, const char *name)
{
    char path[PATH_MAX];
    json_t *config = NULL;
    vm_run_path(vm, name, path);
    if (json_parse_file(path, &config, NULL) < 0 || !json_is_object(config)) {
        json_decref(config);
        return NULL;
    }
    return config;
}

/* ---- a saved state ---- */

int vm_saved_prepare(const struct vm *vm, struct err *err)
{
    char path[PATH_MAX];
    vm_state_path(vm, "saved.json", path);
    return json_write(path, vm->config, true, err);
}

json_t *vm_saved_config(const struct vm *vm)
{
    char path[PATH_MAX];
    json_t *config = NULL;
    if (vm_saved_size(vm) < 0)
        return NULL;
    vm_state_path(vm, "saved.json", path);
    if (json_parse_file(path, &config, NULL) < 0 || !json_is_object(config)) {
        json_decref(config);
        return NULL;
    }
    return config;
}

int64_t vm_saved_size(const struct vm *vm)
{
    char path[PATH_MAX];
    struct stat st;
    vm_state_path(vm, "saved", path);
    return stat(path, &st) == 0 ? (int64_t)st.st_size : -1;
}

/* --restore-once renames it before the guest runs. */
bool vm_saved_used(const struct vm *vm)
{
    char path[PATH_MAX];
    vm_state_path(vm, "saved.used", path);
    return access(path, F_OK) == 0;
}

void vm_saved_forget(const struct vm *vm)
{
    static const char *const names[] = { "saved", "saved.used", "saved.json" };
    char path[PATH_MAX];
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        vm_state_path(vm, names[i], path);
        unlink(path);
    }
}
