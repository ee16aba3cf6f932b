/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * convert: copies the content of an image, with several workers at once.
 *
 * The source is cut into jobs of one kind (image_map), so holes cost nothing; inside a job runs of
 * zeros stay unwritten. Targets are new and read as zeros (or as their backing file), unless
 * --no-create, where zeros are written, too.
 */
#include "img/img.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/text.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum { JOB_SIZE = 512 << 10, SPARSE_DEFAULT = 4096, SPARSE_MAX = 2 << 20 };
enum { WORKERS_MIN = 8, WORKERS_MAX = 16 };

struct convert {
    struct image *source, *target;
    uint64_t size, sparse;
    bool compress, zero_target; /* the target reads as zeros where nothing was written */
    uint64_t job_size;
    pthread_mutex_t lock;
    uint64_t next; /* lock */
    _Atomic uint64_t done;
    atomic_int error;
    _Atomic uint64_t error_at;
    atomic_bool error_reading;
};

/* ---- one piece ---- */

/* Writes what is not zero, in runs that begin and end on multiples of the sparse size. */
static int write_sparse(struct convert *c, const uint8_t *data, uint64_t len, uint64_t offset)
{
    uint64_t unit = c->sparse ? c->sparse : len;
    for (uint64_t at = 0; at < len;) {
        bool zero = false;
        uint64_t end = at;
        while (end < len) {
            uint64_t part = unit - (offset + end) % unit;
            part = part < len - end ? part : len - end;
            bool here = c->sparse && memory_is_zero(data + end, part);
            if (end != at && here != zero)
                break;
            zero = here;
            end += part;
        }
        int r = 0;
        if (!zero)
            r = image_write(c->target, data + at, end - at, offset + at);
        else if (!c->zero_target)
            r = image_zero(c->target, offset + at, end - at, IMAGE_UNMAP);
        if (r < 0)
            return r;
        at = end;
    }
    return 0;
}

/* Against a backing file: only what differs. */
static int write_different(struct convert *c, const uint8_t *data, uint64_t len, uint64_t offset)
{
    uint64_t unit = image_cluster_size(c->target);
    AUTO(free) uint8_t *below = malloc(len);
    if (!below)
        return -ENOMEM;
    int r = image_read(c->target, below, len, offset);
    for (uint64_t at = 0; r == 0 && at < len; at += unit) {
        uint64_t part = unit < len - at ? unit : len - at;
        if (!memcmp(data + at, below + at, part))
            continue;
        if (memory_is_zero(data + at, part))
            r = image_zero(c->target, offset + at, part, IMAGE_UNMAP);
        else if (c->compress)
            r = image_write_compressed(c->target, data + at, part, offset + at);
        else
            r = image_write(c->target, data + at, part, offset + at);
    }
    return r;
}

static int write_compressed(struct convert *c, const uint8_t *data, uint64_t len, uint64_t offset)
{
    uint64_t unit = image_cluster_size(c->target);
    int r = 0;
    for (uint64_t at = 0; r == 0 && at < len; at += unit) {
        uint64_t part = unit < len - at ? unit : len - at;
        if (!memory_is_zero(data + at, part))
            r = image_write_compressed(c->target, data + at, part, offset + at);
        else if (!c->zero_target)
            r = image_zero(c->target, offset + at, part, IMAGE_UNMAP);
    }
    return r;
}

static int convert_job(struct convert *c, uint8_t *data, uint64_t offset, uint64_t len)
{
    int r = image_read(c->source, data, len, offset);
    if (r < 0) {
        atomic_store(&c->error_reading, true);
        return r;
    }
    if (image_backing(c->target))
        return write_different(c, data, len, offset);
    return c->compress ? write_compressed(c, data, len, offset)
                       : write_sparse(c, data, len, offset);
}

/* ---- workers ---- */

/* The next range with data; zeros are done on the way. 0: there is none. */
static uint64_t convert_next(struct convert *c, uint64_t *offset)
{
    LOCKED(&c->lock);
    while (c->next < c->size && !atomic_load(&c->error)) {
        struct image_extent extent;
        unsigned depth;
        uint64_t at = c->next;
        int r = image_map(c->source, at, c->size - at, &extent, &depth);
        if (r < 0) {
            atomic_store(&c->error_at, at);
            atomic_store(&c->error_reading, true);
            atomic_store(&c->error, -r);
            return 0;
        }
        bool skip = (extent.flags & IMAGE_ZERO) && c->sparse && !image_backing(c->target);
        /* Whole units of the target, so that each is written by one worker. */
        uint64_t unit = c->job_size;
        if (skip && c->zero_target) {
            uint64_t end = at + extent.len;
            if (end < c->size)
                end = round_down(end, unit);
            if (end > at) {
                c->next = end;
                atomic_fetch_add(&c->done, end - at);
                continue;
            }
        }
        uint64_t len = unit - at % unit;
        len = len < c->size - at ? len : c->size - at;
        c->next = at + len;
        *offset = at;
        return len;
    }
    return 0;
}

static void *convert_worker(void *arg)
{
    struct convert *c = arg;
    AUTO(free) uint8_t *data = malloc(c->job_size);
    uint64_t offset, len;
    if (!data) {
        atomic_store(&c->error, ENOMEM);
        return NULL;
    }
    while ((len = convert_next(c, &offset))) {
        int r = convert_job(c, data, offset, len), none = 0;
        if (r < 0 && atomic_compare_exchange_strong(&c->error, &none, -r))
            atomic_store(&c->error_at, offset);
        atomic_fetch_add(&c->done, len);
    }
    return NULL;
}

static int convert_run(struct call *call, struct convert *c, uint64_t workers)
{
    pthread_t threads[64];
    unsigned count = 0;
    struct progress progress;
    pthread_mutex_init(&c->lock, NULL);
    progress_start(&progress, call, c->size);
    while (count < workers && !pthread_create(&threads[count], NULL, convert_worker, c))
        count++;
    if (!count)
        convert_worker(c);
    while (progress.on && atomic_load(&c->done) < c->size && !atomic_load(&c->error)) {
        progress_set(&progress, atomic_load(&c->done));
        usleep(20000);
    }
    for (unsigned i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&c->lock);
    int error = atomic_load(&c->error);
    if (!error)
        progress_end(&progress);
    if (!error)
        return 0;
    bool reading = atomic_load(&c->error_reading);
    return err_errno(&call->err, error, "%s: cannot %s at offset %llu%s",
                     image_path(reading ? c->source : c->target), reading ? "read" : "write",
                     (unsigned long long)atomic_load(&c->error_at),
                     error == ENOSPC ? " (the file system is full)" : "");
}

/* ---- the command ---- */

static int convert_open_source(struct call *call, struct image **out)
{
    const char *snapshot = call_flag(call, "snapshot");
    int r = call_open(call, call->args[0], call_flag(call, "format"), false, out);
    if (r < 0 || !snapshot)
        return r;
    return image_snapshot_view(*out, snapshot, &call->err);
}

static int convert_open_target(struct call *call, struct convert *c)
{
    const char *backing = call_flag(call, "backing");
    backing = backing ? backing : call_flag(call, "target-backing");
    struct image_create create = {
        .path = call->args[1],
        .format = call_flag(call, "target-format"),
        .options = call_flag(call, "options"),
        .backing = backing,
        .backing_format = call_flag(call, "backing-format"),
        .size = c->size,
    };
    if (!create.format)
        create.format = "raw";
    if (backing && !create.backing_format)
        return err_set(&call->err, EINVAL, "-b needs the backing file's format, too: -F FORMAT");
    if (strcmp(create.format, "raw"))
        create.size = round_up(c->size, 512);
    bool exists = call_flag(call, "no-create");
    int r = call_new_secret(call, create.options, &create.secret);
    if (r == 0 && !exists)
        r = image_create(&create, &call->err);
    if (r < 0)
        return r;
    struct image_options options = {
        .path = create.path,
        .format = call_flag(call, "target-format") || !exists ? create.format : NULL,
        .no_lock = call_flag(call, "force-share") != NULL,
        .secret = create.secret,
    };
    r = image_open(&options, &c->target, &call->err);
    if (r == 0 && image_size(c->target) < c->size)
        r = err_set(&call->err, EINVAL, "%s: is smaller than the source", create.path);
    c->zero_target = !exists && r == 0 && !c->target->noisy;
    return r;
}

/* Packing takes a CPU for each worker; copying waits for disks, too. */
static uint64_t workers_default(void)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN) * 2;
    return (uint64_t)(cpus < WORKERS_MIN ? WORKERS_MIN : cpus > WORKERS_MAX ? WORKERS_MAX : cpus);
}

int img_convert(struct call *call)
{
    struct convert c = { 0 };
    uint64_t workers = workers_default();
    int r = call_number(call, "parallel", 1, 64, &workers);
    if (r == 0)
        r = call_size(call, "sparse", SPARSE_DEFAULT, &c.sparse);
    if (r < 0)
        return r;
    if (c.sparse && (!is_power_of_two(c.sparse) || c.sparse < 512 || c.sparse > SPARSE_MAX))
        return err_set(&call->err, EINVAL, "--sparse is 0 or a power of two from 512 to 2M");
    AUTO(image_drop) struct image *source = NULL;
    r = convert_open_source(call, &source);
    if (r < 0)
        return r;
    c.source = source;
    c.size = image_size(source);
    c.compress = call_flag(call, "compress");
    const char *format = call_flag(call, "target-format");
    const struct image_format *found = image_format_find(format ? format : "raw");
    if (c.compress && found && !found->write_compressed)
        return err_set(&call->err, ENOTSUP, "format %s cannot be compressed", found->name);
    r = convert_open_target(call, &c);
    if (r == 0) {
        /* Whole clusters, and whole stretches of zeros. */
        uint64_t cluster = image_cluster_size(c.target);
        c.job_size = c.sparse > JOB_SIZE ? c.sparse : JOB_SIZE;
        c.job_size = cluster > c.job_size ? cluster : c.job_size;
    }
    if (r == 0 && c.target->packed_only) {
        c.compress = true;
        workers = 1; /* in order */
    } else if (r == 0 && c.compress && c.target->unpackable) {
        r = err_set(
            &call->err, ENOTSUP,
            "%s: cannot be compressed: it is encrypted, has a data file, or is a VMDK other "
            "than subformat=streamOptimized",
            call->args[1]);
    }
    if (r == 0)
        r = convert_run(call, &c, workers);
    if (r == 0) {
        r = image_flush(c.target);
        if (r < 0)
            err_errno(&call->err, -r, "%s: cannot flush", call->args[1]);
    }
    if (r < 0) /* closing would fail for the same reason, and log that */
        log_set_level(LOG_ERROR - 1, LOG_ERROR - 1);
    int closed = image_close(c.target);
    if (r == 0 && closed < 0)
        r = err_errno(&call->err, -closed, "%s: cannot close", call->args[1]);
    return r;
}
