/* SPDX-License-Identifier: GPL-2.0-or-later */
/* create, info, check, map, measure: making images and looking at them. */
#include "img/img.h"

#include "base/checked.h"
#include "base/json.h"
#include "base/text.h"
#include "img/ova.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

static void print_json(const json_t *value)
{
    json_dumpf(value, stdout, JSON_INDENT(4));
    putchar('\n');
}

/* ---- create ---- */

static void print_options(const struct image_format *format)
{
    printf("Options of %s:\n", format->name);
    for (const struct image_option *o = format->options; o && o->name; o++)
        printf("  %-18s %s\n", o->name, o->about);
}

/* The size of the backing file, which must be there. */
static int backing_size(struct call *call, const struct image_create *create, uint64_t *out)
{
    AUTO(free) char *path = image_child_path(create->path, create->backing);
    struct image *backing;
    if (!path)
        return err_set(&call->err, ENOMEM, "out of memory");
    int r = call_open(call, path, create->backing_format, false, &backing);
    if (r < 0)
        return err_prefix(&call->err, "backing file");
    *out = image_size(backing);
    image_close(backing);
    return 0;
}

int img_create(struct call *call)
{
    struct image_create create = {
        .path = call->args[0],
        .format = call_flag(call, "format"),
        .options = call_flag(call, "options"),
        .backing = call_flag(call, "backing"),
        .backing_format = call_flag(call, "backing-format"),
    };
    if (!create.format)
        create.format = "raw";
    const struct image_format *format = image_format_find(create.format);
    if (create.options && !strcmp(create.options, "help") && format) {
        print_options(format);
        return 0;
    }
    if (create.backing && !create.backing_format)
        return err_set(&call->err, EINVAL, "-b needs the backing file's format, too: -F FORMAT");
    uint64_t size = 0;
    if (create.backing && !(call_flag(call, "unsafe") && call->count > 1)) {
        int r = backing_size(call, &create, &size);
        if (r < 0)
            return r;
    }
    if (call->count > 1) {
        int r = size_parse(call->args[1], 1, &size, &call->err);
        if (r < 0)
            return err_prefix(&call->err, "SIZE");
    } else if (!create.backing) {
        return err_set(&call->err, EINVAL, "create needs: FILE SIZE");
    }
    if (strcmp(create.format, "raw"))
        size = round_up(size, 512);
    create.size = size;
    int r = call_new_secret(call, create.options, &create.secret);
    if (r == 0)
        r = image_create(&create, &call->err);
    if (r == 0 && !call_quiet(call)) {
        char text[32];
        printf("%s: %s, %s\n", create.path, create.format, size_print(size, text, sizeof text));
    }
    return r;
}

/* ---- info ---- */

static uint64_t disk_usage(const struct image *image)
{
    struct stat st;
    struct store *store = image_store(image);
    return store->fd >= 0 && !fstat(store->fd, &st) ? (uint64_t)st.st_blocks * 512 : 0;
}

static json_t *info_snapshots(struct image *image)
{
    json_t *list = json_array();
    for (int i = 0; i < image_snapshot_count(image); i++) {
        const struct image_snapshot *s = image_snapshot_at(image, (unsigned)i);
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "id", s->id, "name",
                            s->name, "vm-state-size", (json_int_t)s->vm_state_size, "date-sec",
                            (json_int_t)s->date_s, "date-nsec", (json_int_t)s->date_ns,
                            "vm-clock-sec", (json_int_t)(s->vm_clock_ns / 1000000000),
                            "vm-clock-nsec", (json_int_t)(s->vm_clock_ns % 1000000000), "disk-size",
                            (json_int_t)s->disk_size));
    }
    return list;
}

static json_t *info_json(struct image *image)
{
    json_t *info =
        json_pack("{s:s, s:s, s:I, s:I, s:b}", "filename", image_path(image), "format",
                  image_format_name(image), "virtual-size", (json_int_t)image_size(image),
                  "actual-size", (json_int_t)disk_usage(image), "dirty-flag", 0);
    if (!info)
        return json_object();
    if (image_cluster_size(image))
        json_object_set_new(info, "cluster-size", json_integer(image_cluster_size(image)));
    if (image_backing_name(image)) {
        AUTO(free) char *full = image_child_path(image_path(image), image_backing_name(image));
        json_object_set_new(info, "backing-filename", json_string(image_backing_name(image)));
        json_object_set_new(info, "full-backing-filename", json_string(full ? full : ""));
        if (image_backing_format(image))
            json_object_set_new(info, "backing-filename-format",
                                json_string(image_backing_format(image)));
    }
    if (image_snapshot_count(image))
        json_object_set_new(info, "snapshots", info_snapshots(image));
    json_t *data = json_object();
    image_info(image, data);
    if (json_object_size(data))
        json_object_set_new(
            info, "format-specific",
            json_pack("{s:s, s:O}", "type", image_format_name(image), "data", data));
    json_decref(data);
    return info;
}

static void print_value(const char *indent, const char *key, const json_t *value)
{
    AUTO(free) char *text = json_dumps(value, JSON_ENCODE_ANY);
    printf("%s%s: %s\n", indent, key,
           json_is_string(value) ? json_string_value(value)
           : text                ? text
                                 : "");
}

static void print_snapshots(const json_t *list)
{
    size_t i;
    json_t *s;
    printf("snapshots:\n  %-6s %-24s %-20s %s\n", "id", "name", "made", "disk");
    json_array_foreach(list, i, s)
    {
        char when[32] = "", size[32];
        time_t t = (time_t)json_integer_value(json_object_get(s, "date-sec"));
        struct tm tm;
        if (localtime_r(&t, &tm))
            strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &tm);
        printf("  %-6s %-24s %-20s %s\n", json_string_value(json_object_get(s, "id")),
               json_string_value(json_object_get(s, "name")), when,
               size_print((uint64_t)json_integer_value(json_object_get(s, "disk-size")), size,
                          sizeof size));
    }
}

static void info_print(const json_t *info)
{
    char size[32];
    uint64_t bytes = (uint64_t)json_integer_value(json_object_get(info, "virtual-size"));
    printf("image: %s\nfile format: %s\n", json_string_value(json_object_get(info, "filename")),
           json_string_value(json_object_get(info, "format")));
    printf("virtual size: %s (%" PRIu64 " bytes)\n", size_print(bytes, size, sizeof size), bytes);
    bytes = (uint64_t)json_integer_value(json_object_get(info, "actual-size"));
    printf("disk size: %s\n", size_print(bytes, size, sizeof size));
    static const struct {
        const char *key, *title;
    } more[] = { { "cluster-size", "cluster size" },
                 { "backing-filename", "backing file" },
                 { "full-backing-filename", "backing file's path" },
                 { "backing-filename-format", "backing file format" } };
    for (unsigned i = 0; i < ARRAY_LEN(more); i++)
        if (json_object_get(info, more[i].key))
            print_value("", more[i].title, json_object_get(info, more[i].key));
    if (json_object_get(info, "snapshots"))
        print_snapshots(json_object_get(info, "snapshots"));
    json_t *data = json_object_get(json_object_get(info, "format-specific"), "data"), *value;
    const char *key;
    json_object_foreach(data, key, value) print_value("  ", key, value);
}

static bool is_ova(struct call *call)
{
    const char *format = call_flag(call, "format");
    return format ? !strcmp(format, "ova") : ova_probe(call->args[0]);
}

static void ova_print(const json_t *info)
{
    char size[32];
    size_t i;
    json_t *one;
    printf("image: %s\nfile format: ova\nname: %s\noperating system: %s\n",
           json_string_value(json_object_get(info, "filename")),
           json_string_value(json_object_get(info, "name")),
           json_string_value(json_object_get(info, "os")));
    uint64_t memory = (uint64_t)json_integer_value(json_object_get(info, "memory"));
    printf("CPUs: %lld\nmemory: %s\n", (long long)json_integer_value(json_object_get(info, "cpus")),
           size_print(memory, size, sizeof size));
    json_array_foreach(json_object_get(info, "disks"), i, one)
        printf("disk %zu: %s: %s in %s, compression %s\n", i + 1,
               json_string_value(json_object_get(one, "id")),
               size_print((uint64_t)json_integer_value(json_object_get(one, "capacity")), size,
                          sizeof size),
               json_string_value(json_object_get(one, "file")),
               json_string_value(json_object_get(one, "compression")));
    json_array_foreach(json_object_get(info, "hardware"), i, one)
        printf("hardware: %s%s%s\n", json_string_value(json_object_get(one, "name")),
               json_string_length(json_object_get(one, "subtype")) ? ", " : "",
               json_string_value(json_object_get(one, "subtype")));
}

static int info_ova(struct call *call)
{
    AUTO(ova_close) struct ova *ova = NULL;
    int r = ova_open(call->args[0], &ova, &call->err);
    if (r < 0)
        return r;
    AUTO(json_decref) json_t *info = ova_info(ova);
    if (call_json(call))
        print_json(info);
    else
        ova_print(info);
    return 0;
}

int img_info(struct call *call)
{
    if (is_ova(call))
        return info_ova(call);
    bool chain = call_flag(call, "backing-chain");
    struct image_options options = {
        .path = call->args[0],
        .format = call_flag(call, "format"),
        .readonly = true,
        .no_lock = call_flag(call, "force-share") != NULL,
        .no_backing = !chain,
        .no_key = true,
    };
    AUTO(image_drop) struct image *image = NULL;
    int r = call_image_open(call, &options, &image);
    if (r < 0)
        return r;
    AUTO(json_decref) json_t *list = json_array();
    for (struct image *i = image; i; i = image_backing(i))
        json_array_append_new(list, info_json(i));
    if (call_json(call)) {
        print_json(chain ? list : json_array_get(list, 0));
        return 0;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (i)
            putchar('\n');
        info_print(json_array_get(list, i));
    }
    return 0;
}

/* ---- check ---- */

static void check_report(void *arg, const char *text) { printf("%s\n", text); }

static json_t *check_json(const struct image *image, const struct image_problem_count *n)
{
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "filename",
                     image_path(image), "format", image_format_name(image), "check-errors",
                     (json_int_t)n->check_errors, "corruptions",
                     (json_int_t)(n->corruptions - n->corruptions_fixed), "corruptions-fixed",
                     (json_int_t)n->corruptions_fixed, "leaks",
                     (json_int_t)(n->leaks - n->leaks_fixed), "leaks-fixed",
                     (json_int_t)n->leaks_fixed, "image-end-offset", (json_int_t)n->end,
                     "total-clusters", (json_int_t)n->clusters, "allocated-clusters",
                     (json_int_t)n->allocated, "compressed-clusters", (json_int_t)n->compressed,
                     "fragmented-clusters", (json_int_t)n->fragmented);
}

static void check_print(const struct image_problem_count *n)
{
    uint64_t bad = n->corruptions - n->corruptions_fixed, leaks = n->leaks - n->leaks_fixed;
    if (n->corruptions_fixed || n->leaks_fixed)
        printf("repaired: %" PRIu64 " corruptions, %" PRIu64 " leaks\n", n->corruptions_fixed,
               n->leaks_fixed);
    if (!bad && !leaks)
        printf("no errors were found\n");
    if (bad)
        printf("%" PRIu64 " corruptions: data may be damaged, or be by the next write\n", bad);
    if (leaks)
        printf("%" PRIu64 " leaked clusters: space is lost, no data\n", leaks);
    if (n->clusters)
        printf("%" PRIu64 "/%" PRIu64 " = %.2f %% allocated, %.2f %% fragmented, %.2f %% "
               "compressed clusters\n",
               n->allocated, n->clusters, 100.0 * (double)n->allocated / (double)n->clusters,
               n->allocated ? 100.0 * (double)n->fragmented / (double)n->allocated : 0.0,
               n->allocated ? 100.0 * (double)n->compressed / (double)n->allocated : 0.0);
    printf("image end: %" PRIu64 "\n", n->end);
}

static int check_ova(struct call *call)
{
    AUTO(ova_close) struct ova *ova = NULL;
    unsigned checked, bad;
    int r = ova_open(call->args[0], &ova, &call->err);
    if (r == 0)
        r = ova_check(ova, call_quiet(call) ? NULL : check_report, NULL, &checked, &bad,
                      &call->err);
    if (r < 0)
        return r;
    if (!call_quiet(call))
        printf("%u digests of the manifest, %u of them differ\n", checked, bad);
    return bad ? 2 : 0;
}

int img_check(struct call *call)
{
    if (is_ova(call))
        return check_ova(call);
    const char *repair = call_flag(call, "repair");
    if (repair && strcmp(repair, "leaks") && strcmp(repair, "all"))
        return err_set(&call->err, EINVAL, "--repair=%s: there is leaks and all", repair);
    struct image_options options = {
        .path = call->args[0],
        .format = call_flag(call, "format"),
        .readonly = !repair,
        .no_lock = call_flag(call, "force-share") != NULL,
        .no_backing = true,
        .for_check = true,
        .no_key = true,
    };
    struct image *image;
    int r = call_image_open(call, &options, &image);
    if (r < 0)
        return r;
    struct image_check check = {
        .repair_leaks = repair != NULL,
        .repair_all = repair && !strcmp(repair, "all"),
        .report = call_quiet(call) || call_json(call) ? NULL : check_report,
    };
    r = image_check(image, &check, &call->err);
    if (r == 0 && call_json(call)) {
        AUTO(json_decref) json_t *json = check_json(image, &check.count);
        print_json(json);
    } else if (r == 0 && !call_quiet(call)) {
        check_print(&check.count);
    }
    int closed = image_close(image);
    if (r < 0 || closed < 0)
        return r < 0 ? r : closed;
    const struct image_problem_count *n = &check.count;
    if (n->check_errors || n->corruptions > n->corruptions_fixed)
        return 2;
    return n->leaks > n->leaks_fixed ? 3 : 0;
}

/* ---- map ---- */

struct map {
    struct image *image;
    json_t *list; /* NULL: text */
    bool have;
    uint64_t start;
    struct image_extent last;
    unsigned depth;
};

static void map_emit(struct map *map)
{
    const struct image_extent *e = &map->last;
    bool zero = e->flags & IMAGE_ZERO, present = e->flags & IMAGE_ALLOCATED;
    bool data = present && !zero, host = (e->flags & IMAGE_HOST) && !zero;
    if (map->list) {
        json_t *row =
            json_pack("{s:I, s:I, s:i, s:b, s:b, s:b, s:b}", "start", (json_int_t)map->start,
                      "length", (json_int_t)e->len, "depth", (int)map->depth, "present", present,
                      "zero", zero, "data", data, "compressed", (e->flags & IMAGE_COMPRESSED) != 0);
        if (host)
            json_object_set_new(row, "offset", json_integer((json_int_t)e->host));
        json_array_append_new(map->list, row);
    } else if (data) {
        const struct image *image = map->image;
        for (unsigned i = 0; i < map->depth; i++)
            image = image_backing(image);
        char where[32] = "packed";
        if (host)
            snprintf(where, sizeof where, "%#" PRIx64, e->host);
        printf("%#-16" PRIx64 "%#-16" PRIx64 "%-16s%s\n", map->start, e->len, where,
               image_path(image));
    }
}

static int map_add(void *arg, uint64_t offset, const struct image_extent *e, unsigned depth)
{
    struct map *map = arg;
    struct image_extent *last = &map->last;
    bool same =
        map->have && last->flags == e->flags && map->depth == depth &&
        (!(e->flags & IMAGE_HOST) || (e->flags & IMAGE_ZERO) || last->host + last->len == e->host);
    if (same) {
        last->len += e->len;
        return 0;
    }
    if (map->have)
        map_emit(map);
    map->have = true;
    map->start = offset;
    map->last = *e;
    map->depth = depth;
    return 0;
}

int img_map(struct call *call)
{
    AUTO(image_drop) struct image *image = NULL;
    int r = call_open(call, call->args[0], call_flag(call, "format"), false, &image);
    if (r < 0)
        return r;
    AUTO(json_decref) json_t *list = call_json(call) ? json_array() : NULL;
    struct map map = { .image = image, .list = list };
    if (!list)
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    r = walk_extents(image, image_size(image), 1ull << 40, map_add, &map);
    if (r < 0)
        return err_errno(&call->err, -r, "%s: cannot read its map", call->args[0]);
    if (map.have)
        map_emit(&map);
    if (list)
        print_json(list);
    return 0;
}

/* ---- measure ---- */

static int measure_add(void *arg, uint64_t offset, const struct image_extent *e, unsigned depth)
{
    uint64_t *clusters = arg, bits = clusters[1]; /* sum, log2 of the cluster, next uncounted */
    if (e->flags & IMAGE_ZERO)
        return 0;
    uint64_t first = offset >> bits, end = (offset + e->len - 1) >> bits;
    if (first < clusters[2])
        first = clusters[2];
    if (end + 1 > first)
        clusters[0] += end + 1 - first;
    clusters[2] = end + 1;
    return 0;
}

/* All metadata of a qcow2 image that holds `data` clusters of a disk of `size` bytes. */
static uint64_t measure_qcow2(uint64_t size, uint64_t data, uint64_t cluster, uint64_t entry,
                              uint64_t refcount_bits)
{
    uint64_t clusters = size / cluster + !!(size % cluster), per_l2 = cluster / entry;
    uint64_t l2 = clusters / per_l2 + !!(clusters % per_l2);
    uint64_t l1 = (l2 * 8 + cluster - 1) / cluster;
    uint64_t fixed = 1 + l2 + (l1 ? l1 : 1) + data, blocks = 0, table = 1;
    uint64_t per_block = cluster * 8 / refcount_bits;
    for (;;) {
        uint64_t total = fixed + blocks + table;
        uint64_t need = total / per_block + !!(total % per_block);
        uint64_t need_table = (need * 8 + cluster - 1) / cluster;
        if (need <= blocks && need_table <= table)
            return total * cluster;
        blocks = need > blocks ? need : blocks;
        table = need_table > table ? need_table : table;
    }
}

int img_measure(struct call *call)
{
    const char *format = call_flag(call, "target-format"), *options = call_flag(call, "options");
    uint64_t size, cluster = 65536, refcount_bits = 16;
    char value[32];
    bool empty = call_flag(call, "size") != NULL;
    if (empty == (call->count == 1))
        return err_set(&call->err, EINVAL, "measure needs one of FILE and --size");
    format = format ? format : "raw";
    const struct image_format *found = image_format_find(format);
    if (!found || (strcmp(format, "raw") && strcmp(format, "qcow2")))
        return err_set(&call->err, ENOTSUP, "measure knows raw and qcow2, not %s", format);
    int r = image_option_check(found, options, &call->err);
    if (r == 0)
        r = call_size(call, "size", 0, &size);
    if (r == 0 && image_option_get(options, "cluster_size", value, sizeof value))
        r = size_parse(value, 1, &cluster, &call->err);
    if (r == 0 && image_option_get(options, "refcount_bits", value, sizeof value))
        r = number_parse(value, 1, 64, &refcount_bits, &call->err);
    if (r < 0)
        return r;
    if (!is_power_of_two(cluster) || cluster < 512 || cluster > 2 << 20 ||
        !is_power_of_two(refcount_bits))
        return err_set(&call->err, EINVAL,
                       "cluster_size or refcount_bits is no size that qcow2 has");
    bool extended =
        image_option_get(options, "extended_l2", value, sizeof value) && !strcmp(value, "on");
    bool qcow2 = !strcmp(format, "qcow2");
    uint64_t count[3] = { 0, qcow2 ? (uint64_t)__builtin_ctzll(cluster) : 12, 0 };
    if (!empty) {
        AUTO(image_drop) struct image *image = NULL;
        r = call_open(call, call->args[0], call_flag(call, "format"), false, &image);
        if (r < 0)
            return r;
        size = image_size(image);
        r = walk_extents(image, size, 1ull << 40, measure_add, count);
        if (r < 0)
            return err_errno(&call->err, -r, "%s: cannot read its map", call->args[0]);
    }
    uint64_t entry = extended ? 16 : 8, all = size / cluster + !!(size % cluster);
    /* A raw image has its whole length, used or not. */
    uint64_t required = qcow2 ? measure_qcow2(size, count[0], cluster, entry, refcount_bits) : size;
    uint64_t full = qcow2 ? measure_qcow2(size, all, cluster, entry, refcount_bits) : size;
    if (call_json(call)) {
        AUTO(json_decref)
        json_t *json = json_pack("{s:I, s:I}", "required", (json_int_t)required, "fully-allocated",
                                 (json_int_t)full);
        print_json(json);
    } else {
        printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n", required, full);
    }
    return 0;
}
