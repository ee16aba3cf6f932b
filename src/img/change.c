/* SPDX-License-Identifier: GPL-2.0-or-later */
/* snapshot, bitmap: what is kept inside an image. */
#include "img/img.h"

#include "base/json.h"
#include "base/text.h"
#include "block/qcow2.h"

#include <string.h>
#include <time.h>

int call_close(struct call *call, struct image *image, int r)
{
    AUTO(free) char *path = strdup(image_path(image));
    int closed = image_close(image);
    if (r >= 0 && closed < 0)
        return err_errno(&call->err, -closed, "%s: cannot close", path ? path : "");
    return r;
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
    bool overlay = call_flag(call, "overlay");
    if (!!create + !!apply + !!delete + !!call_flag(call, "list") + overlay > 1)
        return err_set(&call->err, EINVAL,
                       "snapshot does one of -l, -c, -a, -d and --overlay at a time");
    if (overlay)
        return img_overlay(call);
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
    return call_close(call, image, r);
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
    return call_close(call, image, r);
}
