/* SPDX-License-Identifier: GPL-2.0-or-later */
/* resize, snapshot, bitmap, commit, rebase: changing images in place. */
#include "img/img.h"

#include "base/checked.h"
#include "base/json.h"
#include "base/text.h"
#include "block/qcow2.h"

#include <string.h>
#include <time.h>

enum { CHUNK = 2 << 20 };

static int close_changed(struct call *call, struct image *image, int r)
{
    AUTO(free) char *path = strdup(image_path(image));
    int closed = image_close(image);
    if (r >= 0 && closed < 0)
        return err_errno(&call->err, -closed, "%s: cannot close", path ? path : "");
    return r;
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
    if (r == 0 && size < now && !call_flag(call, "shrink"))
        r = err_set(&call->err, EINVAL,
                    "%s: that would cut off the disk's end; shrink what is on it first, then add "
                    "--shrink",
                    call->args[0]);
    if (r == 0)
        r = image_resize(image, size, (enum image_preallocation)prealloc, &call->err);
    if (r == 0 && !call_quiet(call))
        printf("Image resized.\n");
    return close_changed(call, image, r);
}

/* ---- snapshots ---- */

static void snapshot_list(struct call *call, struct image *image)
{
    AUTO(json_decref) json_t *list = json_array();
    if (!call_json(call) && image_snapshot_count(image))
        printf("%-8s %-28s %-20s %s\n", "ID", "NAME", "MADE", "DISK");
    for (int i = 0; i < image_snapshot_count(image); i++) {
        const struct image_snapshot *s = image_snapshot_at(image, (unsigned)i);
        char when[32] = "", size[32];
        time_t t = (time_t)s->date_s;
        struct tm tm;
        if (localtime_r(&t, &tm))
            strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &tm);
        if (call_json(call))
            json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:I}", "id", s->id, "name",
                                                  s->name, "date-sec", (json_int_t)s->date_s,
                                                  "disk-size", (json_int_t)s->disk_size));
        else
            printf("%-8s %-28s %-20s %s\n", s->id, s->name, when,
                   size_print(s->disk_size, size, sizeof size));
    }
    if (call_json(call)) {
        json_dumpf(list, stdout, JSON_INDENT(4));
        putchar('\n');
    }
}

int img_snapshot(struct call *call)
{
    const char *create = call_flag(call, "create"), *apply = call_flag(call, "apply");
    const char *delete = call_flag(call, "delete");
    if (!!create + !!apply + !!delete + !!call_flag(call, "list") > 1)
        return err_set(&call->err, EINVAL, "snapshot does one of -l, -c, -a and -d at a time");
    bool change = create || apply || delete;
    struct image *image;
    struct image_options options = {
        .path = call->args[0],
        .format = call_flag(call, "format"),
        .readonly = !change,
        .no_lock = call_flag(call, "force-share") != NULL,
        .no_backing = true,
        .no_key = true,
    };
    int r = call_image_open(call, &options, &image);
    if (r < 0)
        return r;
    if (create)
        r = image_snapshot_create(image, create, &call->err);
    else if (apply)
        r = image_snapshot_apply(image, apply, &call->err);
    else if (delete)
        r = image_snapshot_delete(image, delete, &call->err);
    else
        snapshot_list(call, image);
    return close_changed(call, image, r);
}

int img_bitmap(struct call *call)
{
    bool add = call_flag(call, "add"), removing = call_flag(call, "remove");
    uint64_t granularity;
    if (add == removing)
        return err_set(&call->err, EINVAL, "bitmap needs one of --add and --remove");
    int r = call_size(call, "granularity", 65536, &granularity);
    if (r < 0)
        return r;
    struct image *image;
    struct image_options options = { .path = call->args[0],
                                     .format = call_flag(call, "format"),
                                     .no_backing = true,
                                     .no_key = true };
    r = call_image_open(call, &options, &image);
    if (r < 0)
        return r;
    if (strcmp(image_format_name(image), "qcow2"))
        r = err_set(&call->err, ENOTSUP, "format %s has no bitmaps", image_format_name(image));
    else if (granularity > 1u << 31)
        r = err_set(&call->err, EINVAL, "a granularity is a power of two from 512 to 2G");
    else if (add)
        r = qcow2_bitmap_add(image, call->args[1], (uint32_t)granularity, &call->err);
    else
        r = qcow2_bitmap_remove(image, call->args[1], &call->err);
    if (r < 0)
        err_prefix(&call->err, "%s", call->args[0]);
    return close_changed(call, image, r);
}

/* ---- commit ---- */

/* The layers from `path` down to (not including) the base, which is opened for writing. */
struct layers {
    struct image *top, *base;
    unsigned count; /* of images in `top`'s chain */
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
        if (is_base(wanted, name, path))
            return call_image_open(call, &below, &layers->base);
        struct image *next;
        below.readonly = below.no_backing = true;
        r = call_image_open(call, &below, &next);
        if (r == 0)
            image_attach_backing(last, next);
        last = r == 0 ? next : last;
    }
    return r;
}

struct commit {
    struct layers layers;
    struct progress progress;
    uint8_t *data;
    const char *failed;
};

static int commit_extent(void *arg, uint64_t offset, const struct image_extent *e, unsigned depth)
{
    struct commit *c = arg;
    progress_set(&c->progress, offset);
    if (!(e->flags & IMAGE_ALLOCATED))
        return 0;
    int r;
    c->failed = image_path(c->layers.base);
    if (e->flags & IMAGE_ZERO)
        return image_zero(c->layers.base, offset, e->len, IMAGE_UNMAP);
    r = image_read(c->layers.top, c->data, e->len, offset);
    if (r < 0)
        c->failed = image_path(c->layers.top);
    return r < 0 ? r : image_write(c->layers.base, c->data, e->len, offset);
}

static int commit_run(struct call *call, struct commit *c)
{
    struct image *top = c->layers.top, *base = c->layers.base;
    int r = 0;
    if (image_size(top) > image_size(base))
        r = image_resize(base, image_size(top), PREALLOC_OFF, &call->err);
    if (r < 0)
        return r;
    c->data = malloc(CHUNK);
    if (!c->data)
        return err_set(&call->err, ENOMEM, "out of memory");
    progress_start(&c->progress, call, image_size(top));
    r = walk_extents(top, image_size(top), CHUNK, commit_extent, c);
    if (r == 0)
        r = image_flush(base);
    free(c->data);
    if (r < 0)
        return err_errno(&call->err, -r, "%s: cannot commit",
                         c->failed ? c->failed : image_path(base));
    progress_end(&c->progress);
    /* With layers between, these would show through an emptied top. */
    if (c->layers.count == 1 && top->format->empty && !call_flag(call, "keep"))
        r = image_empty(top, &call->err);
    return r;
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

int img_commit(struct call *call)
{
    struct commit c = { 0 };
    int r = layers_open(call, &c.layers);
    if (r == 0)
        r = commit_run(call, &c);
    if (r == 0 && !call_quiet(call))
        printf("Image committed.\n");
    if (c.layers.base)
        r = close_changed(call, c.layers.base, r);
    if (c.layers.count == 1)
        r = commit_settle(call, c.layers.top, r);
    return c.layers.top ? close_changed(call, c.layers.top, r) : r;
}

/* ---- rebase ---- */

struct rebase {
    struct image *image, *new; /* new: NULL for none */
    struct progress progress;
    uint8_t *old_data, *new_data;
};

/* What the new backing file has there; zeros behind its end. */
static int rebase_read_new(struct rebase *re, uint64_t offset, uint64_t len)
{
    uint64_t have = 0;
    if (re->new &&offset < image_size(re->new))
        have = image_size(re->new) - offset < len ? image_size(re->new) - offset : len;
    memset(re->new_data + have, 0, len - have);
    return have ? image_read(re->new, re->new_data, have, offset) : 0;
}

static int rebase_extent(void *arg, uint64_t offset, const struct image_extent *e, unsigned depth)
{
    struct rebase *re = arg;
    progress_set(&re->progress, offset);
    struct image_extent own;
    uint64_t end = offset + e->len, unit = image_cluster_size(re->image);
    int r = 0;
    for (uint64_t len; r == 0 && offset < end; offset += len) {
        r = image_status(re->image, offset, end - offset, &own);
        if (r < 0)
            return r;
        len = own.len;
        if (own.flags & IMAGE_ALLOCATED)
            continue;
        len = unit - offset % unit < len ? unit - offset % unit : len;
        r = image_read(re->image, re->old_data, len, offset);
        if (r == 0)
            r = rebase_read_new(re, offset, len);
        /* Zeros, too: image_zero would look at the old chain, find zeros there and do nothing. */
        if (r == 0 && memcmp(re->old_data, re->new_data, len))
            r = image_write(re->image, re->old_data, len, offset);
    }
    return r;
}

static int rebase_copy(struct call *call, struct rebase *re)
{
    re->old_data = malloc(CHUNK);
    re->new_data = malloc(CHUNK);
    if (!re->old_data || !re->new_data)
        return err_set(&call->err, ENOMEM, "out of memory");
    progress_start(&re->progress, call, image_size(re->image));
    int r = walk_extents(re->image, image_size(re->image), CHUNK, rebase_extent, re);
    if (r < 0)
        return err_errno(&call->err, -r, "%s: cannot rebase", call->args[0]);
    progress_end(&re->progress);
    return 0;
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
    struct rebase re = { 0 };
    int r = call_image_open(call, &options, &re.image);
    if (r < 0)
        return r;
    if (!image_cluster_size(re.image))
        r = err_set(&call->err, ENOTSUP, "%s: format %s cannot have a backing file", call->args[0],
                    image_format_name(re.image));
    AUTO(free) char *path = image_child_path(call->args[0], backing);
    if (r == 0 && backing[0] && !unsafe)
        r = path ? call_open(call, path, format, false, &re.new) : -ENOMEM;
    if (r == 0 && !unsafe)
        r = rebase_copy(call, &re);
    if (r == 0) /* flushes the data first */
        r = image_set_backing(re.image, backing[0] ? backing : NULL, format, &call->err);
    free(re.old_data);
    free(re.new_data);
    image_close(re.new);
    if (r == 0 && !call_quiet(call))
        printf("Image rebased.\n");
    return close_changed(call, re.image, r);
}
