/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/audit.h"

#include "api/digest.h"
#include "base/log.h"
#include "base/text.h"
#include "daemon/aside.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STRIDE = 256 };

/* Where every STRIDE-th record begins, so that a page is found without reading all before it. */
static struct {
    int fd;
    struct loop *loop;
    bool syncing, unsynced; /* a sync is under way; and does not have all */
    uint64_t last;          /* id */
    off_t end;
    char hash[DIGEST_TEXT];
    off_t *marks;
    size_t mark_count;
} audit = { .fd = -1 };

static void mark(off_t at)
{
    if ((audit.last - 1) % STRIDE)
        return;
    if (!(audit.mark_count & (audit.mark_count - 1))) {
        size_t room = audit.mark_count ? audit.mark_count * 2 : 1;
        off_t *marks = realloc(audit.marks, room * sizeof *marks);
        if (!marks)
            abort();
        audit.marks = marks;
    }
    audit.marks[audit.mark_count++] = at;
}

/* ---- start ---- */

/* Takes the line into account; false: it is no record. */
static bool known(const char *line, size_t len, off_t at)
{
    AUTO(json_decref) json_t *record = json_loadb(line, len, 0, NULL);
    const char *hash = json_string_value(json_object_get(record, "hash"));
    const char *id = json_string_value(json_object_get(record, "id"));
    if (!hash || strlen(hash) != DIGEST_TEXT - 1 || !id)
        return false;
    audit.last = strtoull(id, NULL, 10);
    strcpy(audit.hash, hash);
    audit.end = at + (off_t)len;
    mark(at);
    return true;
}

int audit_start(struct daemon *daemon, struct err *err)
{
    char path[PATH_MAX];
    audit.loop = daemon->loop;
    snprintf(path, sizeof path, "%.4000s/audit.log", daemon->state_dir);
    audit.fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (audit.fd < 0)
        return err_errno(err, errno, "cannot open %s", path);
    FILE *file = fdopen(dup(audit.fd), "re");
    char *line = NULL;
    size_t room = 0;
    off_t at = 0;
    ssize_t len;
    bool whole = true;
    if (!file)
        return err_errno(err, errno, "cannot read %s", path);
    while (whole && (len = getline(&line, &room, file)) > 0) {
        whole = line[len - 1] == '\n' && known(line, (size_t)len, at);
        at += len;
    }
    bool more = !whole && getline(&line, &room, file) > 0;
    free(line);
    fclose(file);
    if (more)
        return err_set(err, EIO,
                       "%s has been damaged behind record %llu; move it away, and keep it for "
                       "whoever looks into it",
                       path, (unsigned long long)audit.last);
    if (!whole && ftruncate(audit.fd, audit.end) < 0)
        return err_errno(err, errno, "cannot cut %s", path);
    return 0;
}

void audit_stop(void)
{
    if (audit.fd >= 0)
        fsync(audit.fd);
    fd_close(audit.fd);
    free(audit.marks);
    memset(&audit, 0, sizeof audit);
    audit.fd = -1;
}

/* ---- keeping over a power cut ---- */

static void sync_run(void *arg)
{
    if (fdatasync(audit.fd) < 0) /* the thread is waited for before it is closed */
        log_error("the audit log cannot be synced: %s", strerror(errno));
}

/* Records that come while one sync is under way share the next. */
static void sync_done(void *arg)
{
    audit.syncing = audit.unsynced;
    audit.unsynced = false;
    if (audit.syncing)
        aside_run(audit.loop, sync_run, sync_done, NULL);
}

static void sync_begin(void)
{
    audit.unsynced = audit.syncing;
    if (!audit.syncing)
        aside_run(audit.loop, sync_run, sync_done, NULL);
    audit.syncing = true;
}

/* ---- adding ---- */

void audit_request(void *arg, const struct http_request *request, unsigned status)
{
    const struct http_identity *who = http_identity_of(request);
    const char *method = http_method(request), *path = http_path(request);
    char id[24], hash[DIGEST_TEXT];
    if (strcmp(method, "GET") == 0 && status != 401 && status != 403)
        return;
    snprintf(id, sizeof id, "%llu", (unsigned long long)audit.last + 1);
    AUTO(json_decref)
    json_t *record = json_pack("{s:s, s:f, s:s, s:s, s:s, s:s%, s:i}", "id", id, "time", time_now(),
                               "user", who->user, "via", who->via, "method", method, "path", path,
                               strnlen(path, 1000), "status", (int)status);
    if (!record) /* a path that is not UTF-8 */
        record = json_pack("{s:s, s:f, s:s, s:s, s:s, s:s, s:i}", "id", id, "time", time_now(),
                           "user", who->user, "via", who->via, "method", "?", "path", "?", "status",
                           (int)status);
    audit_hash(audit.hash, record, hash);
    json_object_set_new(record, "hash", json_string(hash));
    AUTO(free) char *text = json_dumps(record, JSON_COMPACT);
    AUTO(buf_fini) struct buf line = { 0 };
    buf_printf(&line, "%s\n", text);
    int r = write_full(audit.fd, line.data, line.len);
    if (r < 0) { /* none of it, rather than a part */
        log_error("the audit log cannot be written: %s; %s %s was answered with %u", strerror(-r),
                  method, path, status);
        if (ftruncate(audit.fd, audit.end) < 0)
            log_error("and it cannot be cut");
        return;
    }
    audit.last++;
    mark(audit.end);
    audit.end += (off_t)line.len;
    strcpy(audit.hash, hash);
    sync_begin();
}

/* ---- reading ---- */

json_t *audit_after(uint64_t after, size_t limit, struct err *err)
{
    json_t *records = json_array();
    size_t skip = after / STRIDE;
    if (after >= audit.last)
        return records;
    FILE *file = fdopen(dup(audit.fd), "re");
    char *line = NULL;
    size_t room = 0;
    if (!file || fseeko(file, audit.marks[skip], SEEK_SET) < 0) {
        err_errno(err, errno, "the audit log cannot be read");
        json_decref(records);
        records = NULL;
    }
    while (records && json_array_size(records) < limit && getline(&line, &room, file) > 0) {
        json_t *record = json_loads(line, 0, NULL);
        const char *id = json_string_value(json_object_get(record, "id"));
        if (id && strtoull(id, NULL, 10) > after)
            json_array_append(records, record);
        json_decref(record);
    }
    free(line);
    if (file)
        fclose(file);
    return records;
}
