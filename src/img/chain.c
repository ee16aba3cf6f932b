/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * resize, commit, rebase: what also a running VM's disks can do (block/operations.h), for images
 * that nobody uses. SIGINT and SIGTERM end a job, which leaves images that are whole.
 */
#include "img/img.h"

#include "base/checked.h"
#include "base/text.h"
#include "block/chain.h"
#include "block/lock.h"
#include "block/operations.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>

/* ---- jobs ---- */

struct img_job {
    const char *kind;
    int (*run)(struct job *job, void *arg, struct err *err);
    void *arg;
    int ended; /* an eventfd */
};

static void job_ended(struct job *job, void *arg)
{
    struct job_status s;
    job_get(job, &s);
    if (s.state == JOB_DONE || s.state == JOB_FAILED)
        eventfd_write(((struct img_job *)arg)->ended, 1);
}

static int job_work(struct job *job, void *arg, struct err *err)
{
    struct img_job *ij = arg;
    return ij->run(job, ij->arg, err);
}

static void job_watch(struct call *call, struct job *job, int ended, int signals)
{
    struct progress progress;
    struct job_status s;
    progress_start(&progress, call, 1);
    for (struct pollfd fds[2] = { { ended, POLLIN }, { signals, POLLIN } }; !fds[0].revents;) {
        poll(fds, 2, 100);
        struct signalfd_siginfo taken;
        if (fds[1].revents && read(signals, &taken, sizeof taken) > 0)
            job_interrupt(job);
        job_get(job, &s);
        progress.total = s.total ? s.total : 1;
        progress_set(&progress, s.done < s.total ? s.done : s.total);
    }
    job_join(job);
    job_get(job, &s);
    if (s.state == JOB_DONE)
        progress_end(&progress);
    else
        call->err = s.err;
}

/* Runs it to its end: 0, or -errno with call->err. */
static int call_job(struct call *call, struct img_job *ij)
{
    sigset_t signals, before;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    AUTO(fd_close) int ended = eventfd(0, EFD_CLOEXEC);
    AUTO(fd_close) int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
    AUTO(job_destroy) struct job *job = NULL;
    struct job_work work = { .kind = ij->kind, .run = job_work, .changed = job_ended, .arg = ij };
    ij->ended = ended;
    if (ended < 0 || signal_fd < 0)
        return err_errno(&call->err, errno, "cannot watch a job");
    int r = job_create(&work, &job, &call->err);
    if (r < 0)
        return r;
    pthread_sigmask(SIG_BLOCK, &signals, &before);
    r = job_start(job, &call->err);
    if (r == 0)
        job_watch(call, job, ended, signal_fd);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return call->err.code ? -call->err.code : r;
}

/* ---- resize ---- */

static int resize_target(struct call *call, const char *text, uint64_t now, uint64_t *out)
{
    bool add = text[0] == '+', sub = text[0] == '-';
    uint64_t size;
    int r = size_parse(text + (add || sub), 1, &size, &call->err);
    if (r < 0)
        return err_prefix(&call->err, "SIZE");
    if (sub && size > now)
        return err_set(&call->err, EINVAL, "the disk is only %llu bytes long",
                       (unsigned long long)now);
    if (add && !add_u64(now, size, &size))
        return err_set(&call->err, EFBIG, "a disk has at most 2^62 bytes");
    *out = sub ? now - size : size;
    return 0;
}

int img_resize(struct call *call)
{
    static const char *const modes[] = { "off", "metadata", "falloc", "full" };
    const char *mode = call_flag(call, "preallocation");
    unsigned prealloc = 0;
    while (mode && prealloc < ARRAY_LEN(modes) && strcmp(modes[prealloc], mode))
        prealloc++;
    if (prealloc == ARRAY_LEN(modes))
        return err_set(&call->err, EINVAL,
                       "--preallocation=%s: there is off, metadata, falloc, full", mode);
    struct image *image;
    int r = call_open(call, call->args[0], call_flag(call, "format"), true, &image);
    if (r < 0)
        return r;
    uint64_t size = 0, now = image_size(image);
    r = resize_target(call, call->args[1], now, &size);
    if (r == 0)
        size = round_up(size, 512);
    struct chain chain = { .top = image, .view = image };
    if (r == 0)
        r = chain_resize(&chain, size, (enum image_preallocation)prealloc,
                         call_flag(call, "shrink"), &call->err);
    if (r == 0 && !call_quiet(call))
        printf("Image resized.\n");
    return call_close(call, image, r);
}

/* ---- overlays ---- */

static int overlay_create(struct call *call, const char *path, struct store **out)
{
    AUTO(fd_close) int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_errno(&call->err, errno, "%s: cannot create", path);
    int r = lock_image(fd, path, true, &call->err);
    if (r == 0)
        r = store_open_fd(TAKE_FD(fd), true, out, &call->err);
    return r < 0 ? err_prefix(&call->err, "%s", path) : 0;
}

int img_overlay(struct call *call)
{
    struct snapshot_options options = { .path = call_flag(call, "overlay") };
    AUTO(free) char *name = chain_name_for(options.path, call->args[0], NULL);
    if (!name)
        name = realpath(call->args[0], NULL);
    options.backing = name;
    struct image *image;
    struct store *store;
    int r = call_open(call, call->args[0], call_flag(call, "format"), true, &image);
    if (r < 0)
        return r;
    r = overlay_create(call, options.path, &store);
    if (r < 0)
        return call_close(call, image, r);
    struct chain chain = { .top = image, .view = image };
    r = chain_snapshot(&chain, &options, store, &call->err);
    if (r < 0)
        unlink(options.path);
    if (chain.top == image)
        return call_close(call, image, r);
    chain.top->backing = NULL;
    r = call_close(call, chain.top, r);
    return call_close(call, image, r);
}

/* ---- commit ---- */

/* The layers from `path` down to (not including) the base, which is opened for writing. */
struct layers {
    struct image *top, *base;
    unsigned count; /* of images above the base */
};

static bool is_base(const char *wanted, const char *recorded, const char *path)
{
    return !wanted || !strcmp(wanted, recorded) || !strcmp(wanted, path);
}

static int layers_open(struct call *call, struct layers *layers)
{
    const char *wanted = call_flag(call, "base");
    struct image_options options = { .path = call->args[0],
                                     .format = call_flag(call, "format"),
                                     .no_backing = true };
    int r = call_image_open(call, &options, &layers->top);
    struct image *last = layers->top;
    for (layers->count = 1; r == 0; layers->count++) {
        const char *name = image_backing_name(last);
        if (!name)
            return err_set(&call->err, EINVAL,
                           wanted ? "%s: %s is not below it" : "%s: has no backing file",
                           call->args[0], wanted);
        if (layers->count > 100)
            return err_set(&call->err, ELOOP, "%s: has more than 100 backing files below it",
                           call->args[0]);
        AUTO(free) char *path = image_child_path(image_path(last), name);
        if (!path)
            return err_set(&call->err, ENOMEM, "out of memory");
        struct image_options below = { .path = path, .format = image_backing_format(last) };
        if (is_base(wanted, name, path)) {
            r = call_image_open(call, &below, &layers->base);
            if (r == 0)
                image_attach_backing(last, layers->base);
            return r;
        }
        struct image *next;
        below.readonly = below.no_backing = true;
        r = call_image_open(call, &below, &next);
        if (r == 0)
            image_attach_backing(last, next);
        last = r == 0 ? next : last;
    }
    return r;
}

struct commit_call {
    struct chain chain;
    struct commit_options options;
};

static int commit_run(struct job *job, void *arg, struct err *err)
{
    struct commit_call *c = arg;
    return chain_commit(job, &c->chain, &c->options, err);
}

/* Formats that record which content they were made over, and that cannot be emptied: what they hold
 * is in the base now, whose content has a new id. */
static int commit_settle(struct call *call, struct image *top, int r)
{
    if (r < 0 || top->format->empty || !top->format->check_backing)
        return r;
    AUTO(free) char *name = strdup(image_backing_name(top));
    AUTO(free) char *format = strdup(image_backing_format(top));
    if (!name || !format)
        return err_set(&call->err, ENOMEM, "out of memory");
    return image_set_backing(top, name, format, &call->err);
}

static int commit_layers(struct call *call, struct layers *layers)
{
    struct commit_call c = {
        .chain = { .top = layers->top, .view = layers->top },
        .options = { .base = image_path(layers->base),
                     .keep = true,
                     .keep_data = call_flag(call, "keep"),
                     .resume = call_flag(call, "resume") },
    };
    struct img_job job = { .kind = "commit", .run = commit_run, .arg = &c };
    int r = call_job(call, &job);
    if (r == 0 && !call_quiet(call))
        printf("Image committed.\n");
    struct image *above = layers->top;
    while (above->backing != layers->base)
        above = above->backing;
    above->backing = NULL;
    r = call_close(call, layers->base, r);
    return layers->count == 1 ? commit_settle(call, layers->top, r) : r;
}

int img_commit(struct call *call)
{
    struct layers layers = { 0 };
    int r = layers_open(call, &layers);
    if (r == 0)
        r = commit_layers(call, &layers);
    return layers.top ? call_close(call, layers.top, r) : r;
}

/* ---- rebase ---- */

struct rebase_call {
    struct chain chain;
    struct rebase_options options;
};

static int rebase_run(struct job *job, void *arg, struct err *err)
{
    struct rebase_call *c = arg;
    if (!c->options.name && !c->options.unsafe && c->chain.top->backing)
        return chain_stream(job, &c->chain, NULL, err);
    return chain_rebase(job, &c->chain, &c->options, err);
}

int img_rebase(struct call *call)
{
    const char *backing = call_flag(call, "backing"), *format = call_flag(call, "backing-format");
    bool unsafe = call_flag(call, "unsafe");
    if (!backing)
        return err_set(&call->err, EINVAL, "rebase needs -b FILE (-b \"\" for none)");
    if (backing[0] && !format)
        return err_set(&call->err, EINVAL, "-b needs the backing file's format, too: -F FORMAT");
    struct image_options options = { .path = call->args[0],
                                     .format = call_flag(call, "format"),
                                     .no_backing = unsafe,
                                     .no_key = unsafe };
    struct image *image;
    int r = call_image_open(call, &options, &image);
    if (r < 0)
        return r;
    struct rebase_call c = {
        .chain = { .top = image, .view = image },
        .options = { .name = backing[0] ? backing : NULL, .format = format, .unsafe = unsafe },
    };
    struct img_job job = { .kind = "rebase", .run = rebase_run, .arg = &c };
    AUTO(free) char *path = image_child_path(call->args[0], backing);
    if (!path)
        r = err_set(&call->err, ENOMEM, "out of memory");
    else if (backing[0] && !unsafe)
        r = call_open(call, path, format, false, &c.options.take_base);
    if (r == 0)
        r = call_job(call, &job);
    if (r == 0 && !call_quiet(call))
        printf("Image rebased.\n");
    return call_close(call, image, r);
}
