/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands for disks: jobs (stream, commit, mirror, backup), what is over in a moment (snapshot,
 * resize), and throttling.
 *
 * Each works on a thread of its own; what the main loop keeps of it is a struct disk_job. The VMM
 * can open nothing any more, so files arrive as descriptors with the request. A job's thread
 * reports through control_event and posts its end to the main loop, which joins it.
 */
#include "base/log.h"
#include "base/text.h"
#include "block/chain.h"
#include "block/lock.h"
#include "block/operations.h"
#include "devices/virtio/blk.h"
#include "vmm/vmm.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

enum { JOBS_KEPT = 32 }; /* finished ones that job-list still shows */

enum disk_work {
    WORK_SNAPSHOT,
    WORK_RESIZE,
    WORK_STREAM,
    WORK_COMMIT,
    WORK_REBASE,
    WORK_MIRROR,
    WORK_BACKUP
};
static const char *const work_names[] = { "snapshot", "resize", "stream", "commit",
                                          "rebase",   "mirror", "backup" };

struct disk_job {
    struct disk_job *next; /* newest first */
    struct vmm *vmm;
    unsigned number;
    char disk[64];           /* its id */
    struct block_node *node; /* the disk; while it is there */
    enum disk_work work;
    struct chain *chain;
    struct job *job;
    bool ended;                      /* and joined */
    struct control_request *request; /* answered at the end; NULL: it was at the start */
    /* What the request said; owned. */
    char *path, *name, *base;
    struct store *store;
    struct image *target;
    uint64_t size;
    bool flag, resume;
};

/* ---- how a job is told ---- */

static void job_name(const struct disk_job *dj, char out[24])
{
    snprintf(out, 24, "job-%u", dj->number);
}

static json_t *job_json(const struct disk_job *dj)
{
    struct job_status s;
    char id[24];
    job_get(dj->job, &s);
    job_name(dj, id);
    json_t *out =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "job", id, "kind", s.kind, "disk",
                  dj->disk, "state", job_state_name(s.state), "stage", s.stage, "done",
                  (json_int_t)s.done, "total", (json_int_t)s.total, "speed", (json_int_t)s.speed);
    if (out && s.state == JOB_FAILED) {
        const char *code = strerrorname_np(s.err.code);
        json_object_set_new(out, "code", json_string(code ? code : "EIO"));
        json_object_set_new(out, "text", json_string(s.err.text));
    }
    return out;
}

static void disk_job_free(struct disk_job *dj)
{
    if (!dj)
        return;
    job_destroy(dj->job);
    store_close(dj->store);
    image_close(dj->target);
    free(dj->path);
    free(dj->name);
    free(dj->base);
    free(dj);
}
DEFINE_AUTO(struct disk_job *, disk_job_free)

/* The oldest finished ones are forgotten. */
static void jobs_forget(struct vmm *vmm)
{
    unsigned kept = 0;
    for (struct disk_job **at = &vmm->jobs; *at;) {
        struct disk_job *dj = *at;
        if (!dj->ended || kept++ < JOBS_KEPT) {
            at = &dj->next;
            continue;
        }
        *at = dj->next;
        disk_job_free(dj);
    }
}

/* ---- on the job's thread ---- */

static int disk_job_run(struct job *job, void *arg, struct err *err)
{
    struct disk_job *dj = arg;
    switch (dj->work) {
    case WORK_SNAPSHOT: {
        struct snapshot_options o = { dj->path, dj->base, dj->flag };
        return chain_snapshot(dj->chain, &o, TAKE(dj->store), err);
    }
    case WORK_RESIZE: return chain_resize(dj->chain, dj->size, PREALLOC_OFF, dj->flag, err);
    case WORK_STREAM: return chain_stream(job, dj->chain, dj->base, err);
    case WORK_COMMIT: {
        struct commit_options o = { .layer = dj->name,
                                    .base = dj->base,
                                    .take_base_store = TAKE(dj->store),
                                    .keep = dj->flag,
                                    .resume = dj->resume };
        return chain_commit(job, dj->chain, &o, err);
    }
    case WORK_REBASE: {
        struct rebase_options o = { .take_base = TAKE(dj->target),
                                    .name = dj->base,
                                    .unsafe = dj->flag };
        return chain_rebase(job, dj->chain, &o, err);
    }
    case WORK_MIRROR: {
        struct mirror_options o = { TAKE(dj->target), dj->flag, dj->resume };
        return chain_mirror(job, dj->chain, &o, err);
    }
    case WORK_BACKUP: {
        struct backup_options o = { TAKE(dj->target), dj->name, dj->flag, dj->resume };
        return chain_backup(job, dj->chain, &o, err);
    }
    }
    return -EINVAL;
}

struct ending { /* by number: when this arrives the disk and its jobs may be gone */
    struct vmm *vmm;
    unsigned number;
};

/* On the main loop. */
static void disk_job_ended(void *arg)
{
    struct ending ending = *(struct ending *)arg;
    struct vmm *vmm = ending.vmm;
    struct disk_job *dj = vmm->jobs;
    struct job_status s;
    free(arg);
    while (dj && dj->number != ending.number)
        dj = dj->next;
    if (!dj)
        return;
    job_join(dj->job);
    job_get(dj->job, &s);
    dj->ended = true;
    for (unsigned i = 0; dj->work == WORK_RESIZE && i < vmm->options.disk_count; i++)
        if (vmm->disks[i] == dj->node && vmm->disk_devices[i])
            virtio_blk_resized(vmm->disk_devices[i]);
    vmm_event(vmm, "job", job_json(dj));
    if (dj->request) {
        bool good = s.state == JOB_DONE;
        control_finish(TAKE(dj->request),
                       good ? json_pack("{s:s, s:I}", "path", block_path(dj->node), "size",
                                        (json_int_t)block_size(dj->node))
                            : NULL,
                       good ? NULL : &s.err);
    }
    jobs_forget(vmm);
}

static void disk_job_changed(struct job *job, void *arg)
{
    struct disk_job *dj = arg;
    struct job_status s;
    job_get(job, &s);
    if (s.state != JOB_DONE && s.state != JOB_FAILED) {
        vmm_event(dj->vmm, "job", job_json(dj));
        return;
    }
    struct ending *ending = malloc(sizeof *ending);
    if (!ending)
        abort();
    *ending = (struct ending){ dj->vmm, dj->number };
    loop_post(dj->vmm->loop, disk_job_ended, ending);
}

/* ---- starting ---- */

static int disk_find(const struct vmm *vmm, const json_t *args, unsigned *out, struct err *err)
{
    const char *name = NULL;
    int r = json_get_string(args, "disk", &name, err);
    for (unsigned i = 0; r > 0 && i < vmm->options.disk_count; i++) {
        char id[64];
        media_name(vmm, i, id, sizeof id);
        *out = i;
        if (vmm->disks[i] && (!strcmp(id, name) || !strcmp(block_path(vmm->disks[i]), name)))
            return 0;
    }
    if (r < 0)
        return r;
    return name ? err_set(err, ENOENT, "there is no disk '%.200s'; status lists them", name)
                : err_set(err, EINVAL, "'disk' is missing: an id or a path from status");
}

static int text_get(const json_t *args, const char *member, char **out, struct err *err)
{
    const char *text = NULL;
    int r = json_get_string(args, member, &text, err);
    if (r > 0 && !*text)
        return err_set(err, EINVAL, "'%s' is empty", member);
    if (r > 0 && !(*out = strdup(text)))
        return err_set(err, ENOMEM, "out of memory");
    return r < 0 ? r : 0;
}

/* A file that came with the request, as a store. */
static int store_take(struct control_request *request, const char *path, bool write, bool lock,
                      struct store **out, struct err *err)
{
    AUTO(fd_close) int fd = control_take_fd(request);
    struct stat st;
    if (fd < 0)
        return err_set(err, EBADF, "no descriptor came with the request");
    if (fstat(fd, &st) < 0)
        return err_errno(err, errno, "the descriptor");
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return err_set(err, EINVAL, "the descriptor is neither of a file nor of a block device");
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) != (write ? O_RDWR : O_RDONLY))
        return err_set(err, EINVAL, "the descriptor is not open for %s",
                       write ? "reading and writing" : "reading only");
    if (lock) {
        int r = lock_image(fd, path, write, err);
        if (r < 0)
            return err_prefix(err, "%s", path);
    }
    return store_open_fd(TAKE_FD(fd), true, out, err);
}

static int disk_job_create(struct vmm *vmm, const json_t *args, enum disk_work work,
                           struct disk_job **out, struct err *err)
{
    unsigned disk = 0;
    int r = disk_find(vmm, args, &disk, err);
    if (r < 0)
        return r;
    char id[64];
    struct block_node *node = vmm->disks[disk];
    media_name(vmm, disk, id, sizeof id);
    struct chain *chain = block_chain(node);
    if (!chain)
        return err_set(err, ENOTSUP, "%s has no chain that could change", id);
    if (block_readonly(node))
        return err_set(err, EROFS, "%s is read-only", id);
    for (const struct disk_job *other = vmm->jobs; other; other = other->next)
        if (!other->ended && other->node == node) {
            char what[24];
            job_name(other, what);
            return err_set(err, EBUSY, "%s is busy with %s (%s); wait for it or cancel it", id,
                           what, work_names[other->work]);
        }
    uint64_t speed = 0;
    r = json_get_u64(args, "speed", 1, INT64_MAX, &speed, err);
    if (r < 0)
        return r;
    struct disk_job *dj = calloc(1, sizeof *dj);
    if (!dj)
        return err_set(err, ENOMEM, "out of memory");
    *dj = (struct disk_job){ .vmm = vmm, .node = node, .work = work, .chain = chain };
    snprintf(dj->disk, sizeof dj->disk, "%s", id);
    struct job_work what = {
        .kind = work_names[work], .run = disk_job_run, .changed = disk_job_changed, .arg = dj
    };
    r = job_create(&what, &dj->job, err);
    if (r < 0) {
        disk_job_free(dj);
        return r;
    }
    job_set_speed(dj->job, speed);
    *out = dj;
    return 0;
}

/* Takes dj, on failure too. `answer`: when it has ended, not at once. */
static int disk_job_begin(struct disk_job *take_dj, bool answer, struct control_request *request,
                          json_t **result, struct err *err)
{
    AUTO(disk_job_free) struct disk_job *dj = take_dj;
    struct vmm *vmm = dj->vmm;
    char id[24];
    dj->number = ++vmm->job_last;
    job_name(dj, id);
    dj->request = answer ? request : NULL;
    int r = job_start(dj->job, err);
    if (r < 0)
        return r;
    dj->next = vmm->jobs;
    vmm->jobs = TAKE(dj);
    if (answer)
        return CONTROL_LATER;
    *result = json_pack("{s:s}", "job", id);
    return 0;
}

/* ---- the commands ---- */

#define COMMAND(name) CONTROL_COMMAND(name)

COMMAND(do_disk_snapshot)
{
    AUTO(disk_job_free) struct disk_job *dj = NULL;
    int r = disk_job_create(arg, args, WORK_SNAPSHOT, &dj, err);
    if (r == 0)
        r = text_get(args, "path", &dj->path, err);
    if (r == 0 && !dj->path)
        r = err_set(err, EINVAL, "'path' is missing: what the new image is called");
    if (r == 0)
        r = text_get(args, "backing", &dj->base, err);
    if (r == 0)
        r = json_get_bool(args, "existing", &dj->flag, err);
    if (r >= 0)
        r = store_take(request, dj->path, true, true, &dj->store, err);
    uint64_t size = 0;
    if (r == 0 && !dj->flag && store_size(dj->store, &size) == 0 && size)
        r = err_set(err, EEXIST, "%s: is not empty; say \"existing\": true if it is an overlay",
                    dj->path);
    return r < 0 ? r : disk_job_begin(TAKE(dj), true, request, result, err);
}

COMMAND(do_disk_resize)
{
    AUTO(disk_job_free) struct disk_job *dj = NULL;
    int r = disk_job_create(arg, args, WORK_RESIZE, &dj, err);
    if (r == 0)
        r = json_get_u64(args, "size", 512, 1ull << 62, &dj->size, err);
    if (r == 0)
        r = err_set(err, EINVAL, "'size' is missing: bytes");
    if (r > 0)
        r = json_get_bool(args, "shrink", &dj->flag, err);
    return r < 0 ? r : disk_job_begin(TAKE(dj), true, request, result, err);
}

COMMAND(do_disk_stream)
{
    AUTO(disk_job_free) struct disk_job *dj = NULL;
    int r = disk_job_create(arg, args, WORK_STREAM, &dj, err);
    if (r == 0)
        r = text_get(args, "base", &dj->base, err);
    return r < 0 ? r : disk_job_begin(TAKE(dj), false, request, result, err);
}

COMMAND(do_disk_commit)
{
    AUTO(disk_job_free) struct disk_job *dj = NULL;
    bool fd = false;
    int r = disk_job_create(arg, args, WORK_COMMIT, &dj, err);
    if (r == 0)
        r = text_get(args, "layer", &dj->name, err);
    if (r == 0)
        r = text_get(args, "base", &dj->base, err);
    if (r == 0)
        r = json_get_bool(args, "keep", &dj->flag, err);
    if (r >= 0)
        r = json_get_bool(args, "resume", &dj->resume, err);
    if (r >= 0)
        r = json_get_bool(args, "fd", &fd, err);
    if (r >= 0 && fd)
        r = store_take(request, "base", true, false, &dj->store, err);
    return r < 0 ? r : disk_job_begin(TAKE(dj), false, request, result, err);
}

/* The new base: it and then each image below it came as a descriptor. */
static int layers_take(struct control_request *request, const char *path, const char *format,
                       struct image **out, struct err *err)
{
    enum { LAYERS_MAX = 100 };
    struct store *store;
    int r = store_take(request, path, false, true, &store, err);
    if (r == 0)
        r = chain_open_store(path, format, true, store, out, err);
    struct image *above = r == 0 ? *out : NULL, *next;
    for (unsigned n = 1; r == 0 && image_backing_name(above); n++) {
        if (!image_backing_format(above))
            return err_set(err, EINVAL,
                           "%s: records no format for what is below it; do so with: "
                           "bedplate-img rebase -u -F",
                           image_path(above));
        AUTO(free) char *below = image_child_path(image_path(above), image_backing_name(above));
        if (!below || n == LAYERS_MAX)
            return err_set(err, below ? ELOOP : ENOMEM, "%s: has too many images below it", path);
        r = store_take(request, below, false, true, &store, err);
        if (r == 0)
            r = chain_open_store(below, image_backing_format(above), true, store, &next, err);
        if (r == 0)
            image_attach_backing(above, next);
        above = r == 0 ? next : above;
    }
    return r;
}

COMMAND(do_disk_rebase)
{
    AUTO(disk_job_free) struct disk_job *dj = NULL;
    const char *format = NULL;
    int r = disk_job_create(arg, args, WORK_REBASE, &dj, err);
    if (r == 0)
        r = text_get(args, "path", &dj->path, err);
    if (r == 0)
        r = text_get(args, "backing", &dj->base, err);
    if (r == 0)
        r = json_get_bool(args, "unsafe", &dj->flag, err);
    if (r >= 0)
        r = json_get_string(args, "format", &format, err);
    if (r >= 0 && dj->path && !format)
        r = err_set(err, EINVAL, "'format' is missing: that of the image at 'path'");
    if (r >= 0 && dj->path && !dj->base)
        dj->base = chain_name_for(image_path(dj->chain->top), dj->path, err);
    if (r >= 0 && dj->path)
        r = dj->base ? layers_take(request, dj->path, format, &dj->target, err) : -err->code;
    return r < 0 ? r : disk_job_begin(TAKE(dj), false, request, result, err);
}

/* The target of a mirror or backup. */
static int target_open(struct disk_job *dj, struct control_request *request, const json_t *args,
                       struct err *err)
{
    const char *format = "raw";
    int r = text_get(args, "path", &dj->path, err);
    if (r == 0 && !dj->path)
        r = err_set(err, EINVAL, "'path' is missing: what the target is called");
    if (r == 0)
        r = json_get_string(args, "format", &format, err);
    if (r >= 0)
        r = store_take(request, dj->path, true, true, &dj->store, err);
    return r < 0 ? r : chain_open_store(dj->path, format, false, TAKE(dj->store), &dj->target, err);
}

COMMAND(do_disk_mirror)
{
    AUTO(disk_job_free) struct disk_job *dj = NULL;
    int r = disk_job_create(arg, args, WORK_MIRROR, &dj, err);
    if (r == 0)
        r = target_open(dj, request, args, err);
    if (r == 0)
        r = json_get_bool(args, "stay", &dj->flag, err);
    if (r >= 0)
        r = json_get_bool(args, "resume", &dj->resume, err);
    return r < 0 ? r : disk_job_begin(TAKE(dj), false, request, result, err);
}

COMMAND(do_disk_backup)
{
    AUTO(disk_job_free) struct disk_job *dj = NULL;
    int r = disk_job_create(arg, args, WORK_BACKUP, &dj, err);
    if (r == 0)
        r = target_open(dj, request, args, err);
    if (r == 0)
        r = text_get(args, "bitmap", &dj->name, err);
    if (r == 0)
        r = json_get_bool(args, "incremental", &dj->flag, err);
    if (r >= 0)
        r = json_get_bool(args, "resume", &dj->resume, err);
    return r < 0 ? r : disk_job_begin(TAKE(dj), false, request, result, err);
}

/* "iops-rd", "iops-rd-burst", "iops-rd-burst-s" and so on, as in --disk. */
static int limits_set(const json_t *given, struct throttle_limits *limits, struct err *err)
{
    char names[THROTTLE_KINDS * 3][24];
    const char *all[THROTTLE_KINDS * 3 + 1] = { NULL };
    for (unsigned i = 0; i < THROTTLE_KINDS; i++) {
        struct throttle_limit *l = &limits->of[i];
        uint64_t *const values[] = { &l->rate, &l->burst, &l->burst_s };
        static const char *const ends[] = { "", "-burst", "-burst-s" };
        for (unsigned k = 0; k < 3; k++) {
            char *name = names[i * 3 + k];
            snprintf(name, sizeof names[0], "%s%s", throttle_names[i], ends[k]);
            all[i * 3 + k] = name;
            int r = json_get_u64(given, name, 0, THROTTLE_MAX_RATE, values[k], err);
            if (r < 0)
                return r;
        }
    }
    int r = json_only(given, all, err);
    return r < 0 ? r : throttle_check(limits, err);
}

static json_t *limits_json(const struct throttle_limits *limits)
{
    json_t *out = json_object();
    for (unsigned i = 0; i < THROTTLE_KINDS; i++) {
        const struct throttle_limit *l = &limits->of[i];
        char name[32];
        json_object_set_new(out, throttle_names[i], json_integer((json_int_t)l->rate));
        if (!l->burst)
            continue;
        snprintf(name, sizeof name, "%s-burst", throttle_names[i]);
        json_object_set_new(out, name, json_integer((json_int_t)l->burst));
        snprintf(name, sizeof name, "%s-burst-s", throttle_names[i]);
        json_object_set_new(out, name, json_integer((json_int_t)(l->burst_s ? l->burst_s : 1)));
    }
    return out;
}

COMMAND(do_disk_throttle)
{
    struct vmm *vmm = arg;
    unsigned disk;
    int r = disk_find(vmm, args, &disk, err);
    if (r < 0)
        return r;
    struct throttle_group *group = vmm->throttles[disk];
    const json_t *given = json_object_get(args, "limits");
    struct throttle_limits limits = { 0 };
    if (given && !json_is_object(given))
        return err_set(err, EINVAL, "'limits' is an object: {\"iops\": 500}");
    if (given) {
        r = limits_set(given, &limits, err);
        if (r < 0)
            return r;
        throttle_group_set(group, &limits);
    }
    throttle_group_get(group, &limits);
    const char *name = throttle_group_name(group);
    *result = json_pack("{s:o, s:s?}", "limits", limits_json(&limits), "group", name);
    return 0;
}

COMMAND(do_job_list)
{
    struct vmm *vmm = arg;
    json_t *list = json_array();
    for (const struct disk_job *dj = vmm->jobs; dj; dj = dj->next)
        json_array_append_new(list, job_json(dj));
    *result = json_pack("{s:o}", "jobs", list);
    return 0;
}

static int job_find(struct vmm *vmm, const json_t *args, struct job **out, struct err *err)
{
    const char *name = NULL;
    int r = json_get_string(args, "job", &name, err);
    if (r <= 0)
        return r < 0 ? r : err_set(err, EINVAL, "'job' is missing: an id from job-list");
    for (const struct disk_job *dj = vmm->jobs; dj; dj = dj->next) {
        char id[24];
        job_name(dj, id);
        if (strcmp(id, name))
            continue;
        if (dj->ended)
            return err_set(err, ESRCH, "%s has ended", id);
        *out = dj->job;
        return 0;
    }
    return err_set(err, ENOENT, "there is no job '%.40s'; job-list lists them", name);
}

COMMAND(do_job_pause)
{
    struct job *job;
    int r = job_find(arg, args, &job, err);
    if (r == 0)
        job_pause(job);
    return r;
}

COMMAND(do_job_resume)
{
    struct job *job;
    int r = job_find(arg, args, &job, err);
    if (r == 0)
        job_resume(job);
    return r;
}

COMMAND(do_job_cancel)
{
    struct job *job;
    int r = job_find(arg, args, &job, err);
    if (r == 0)
        job_cancel(job);
    return r;
}

COMMAND(do_job_complete)
{
    struct job *job;
    int r = job_find(arg, args, &job, err);
    return r == 0 ? job_complete(job, err) : r;
}

COMMAND(do_job_speed)
{
    struct job *job;
    uint64_t speed = 0;
    int r = job_find(arg, args, &job, err);
    if (r == 0 && (r = json_get_u64(args, "speed", 0, INT64_MAX, &speed, err)) == 0)
        r = err_set(err, EINVAL, "'speed' is missing: bytes a second, 0 for no limit");
    if (r < 0)
        return r;
    job_set_speed(job, speed);
    return 0;
}

void disk_jobs_end(struct vmm *vmm, const struct block_node *disk)
{
    for (struct disk_job *dj = vmm->jobs; dj; dj = dj->next)
        if ((!disk || dj->node == disk) && !dj->ended) {
            job_interrupt(dj->job);
            job_join(dj->job);
        }
    for (struct disk_job **at = &vmm->jobs; *at;) {
        struct disk_job *dj = *at;
        if (disk && dj->node != disk) {
            at = &dj->next;
            continue;
        }
        *at = dj->next;
        if (dj->request)
            control_finish(TAKE(dj->request), NULL,
                           &(struct err){ ECANCELED, "the disk has gone" });
        disk_job_free(dj);
    }
}
