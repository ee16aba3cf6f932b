/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Opening images with their chains of backing files, and what all formats share.
 *
 * Names in an image are hostile. A chain has at most IMAGE_DEPTH_MAX layers and no file twice. A
 * backing file whose format is not recorded is probed, and then may be of a format, but may name no
 * further file: a guest that wrote a header into its raw disk would otherwise reach any file.
 */
#include "block/image.h"

#include "base/checked.h"
#include "base/json.h"
#include "base/text.h"
#include "block/lock.h"
#include "block/nbd_client.h"
#include "block/probe.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

enum { IMAGE_DEPTH_MAX = 100 };

/* ---- formats ---- */

static const struct image_format *const formats[] = {
    &image_raw, &image_luks, &image_qcow2, &image_vdi, &image_vhd, &image_vhdx, &image_vmdk, NULL,
};

const struct image_format *const *image_formats(void) { return formats; }

const struct image_format *image_format_find(const char *name)
{
    if (!strcmp(name, "vpc")) /* as qemu-img calls it */
        name = "vhd";
    for (unsigned i = 0; formats[i]; i++)
        if (!strcmp(formats[i]->name, name))
            return formats[i];
    return NULL;
}

int image_no_format(const char *name, struct err *err)
{
    char list[160] = "";
    for (unsigned i = 0; formats[i]; i++) {
        size_t len = strlen(list);
        snprintf(list + len, sizeof list - len, "%s%s", i ? ", " : "", formats[i]->name);
    }
    return err_set(err, ENOTSUP, "format %s is not supported; there is: %s", name, list);
}

/* ---- options of create ---- */

int image_option_get(const char *options, const char *name, char *value, size_t room)
{
    size_t name_len = strlen(name);
    int found = 0;
    for (const char *p = options; p && *p;) {
        bool match = !strncmp(p, name, name_len) && (p[name_len] == '=');
        size_t n = 0;
        if (match)
            p += name_len + 1;
        for (; *p && (*p != ',' || p[1] == ','); p++) {
            if (*p == ',')
                p++;
            if (match && n + 1 < room)
                value[n++] = *p;
        }
        if (match) {
            value[n] = 0;
            found = 1;
        }
        if (*p == ',')
            p++;
    }
    return found;
}

int image_option_check(const struct image_format *format, const char *options, struct err *err)
{
    for (const char *p = options; p && *p;) {
        size_t len = strcspn(p, "=,");
        bool known = false;
        for (const struct image_option *o = format->options; o && o->name; o++)
            known |= strlen(o->name) == len && !strncmp(o->name, p, len);
        if (!known || p[len] != '=') {
            char list[240] = "";
            for (const struct image_option *o = format->options; o && o->name; o++) {
                size_t at = strlen(list);
                snprintf(list + at, sizeof list - at, "%s%s", at ? ", " : "", o->name);
            }
            return err_set(err, EINVAL, "%.*s is %s option of %s; there is: %s", (int)len, p,
                           known ? "an incomplete (NAME=VALUE)" : "no", format->name, list);
        }
        for (p += len; *p && (*p != ',' || p[1] == ','); p++)
            if (*p == ',')
                p++;
        if (*p == ',')
            p++;
    }
    return 0;
}

/* ---- opening ---- */

struct chain_link { /* the files above, to find loops */
    const struct chain_link *above;
    dev_t dev;
    ino_t ino;
    const char *path;
};

static int image_open_link(const struct image_options *options, const struct chain_link *above,
                           bool guess_may_refer, struct image **out, struct err *err);

char *image_child_path(const char *parent, const char *name)
{
    char *path = NULL;
    if (!strncmp(name, "file:", 5))
        name += 5;
    const char *slash = strrchr(parent, '/');
    if (name[0] == '/' || !slash)
        return strdup(name);
    return asprintf(&path, "%.*s%s", (int)(slash + 1 - parent), parent, name) < 0 ? NULL : path;
}

int image_check_whole(const struct image *image, uint64_t needed, struct err *err)
{
    uint64_t size;
    int r = store_size(image->store, &size);
    if (r < 0)
        return err_errno(err, -r, "cannot ask for the size");
    if (needed <= size || (image->opening && image->opening->for_check))
        return 0;
    return err_set(err, EINVAL,
                   "was cut off: its file has %llu bytes and needs %llu at least; copy it again",
                   (unsigned long long)size, (unsigned long long)needed);
}

/* "nbd://host", "json:{...}": other programs' ways to reach things that are no files. */
static int image_check_name(const char *name, struct err *err)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789+-");
    if (n && name[n] == ':' && strncmp(name, "file:", 5))
        return err_set(err, ENOTSUP,
                       "names %s, which is no file; only files and block devices can be opened",
                       name);
    return name[0] ? 0 : err_set(err, EINVAL, "names an empty file name");
}

static int image_open_fd(const struct image_options *options, int *out, struct err *err)
{
    const struct block_opener *opener = options->opener ? options->opener : &block_opener_files;
    int flags = (options->readonly ? O_RDONLY : O_RDWR) | (options->direct ? O_DIRECT : 0);
    int new;
    int r = opener->open(opener, options->path, flags, &new, err);
    if (r < 0)
        return r;
    AUTO(fd_close) int fd = new;
    if (!options->no_lock) {
        r = lock_image(fd, options->path, !options->readonly, err);
        if (r < 0)
            return r;
    }
    *out = TAKE_FD(fd);
    return 0;
}

static int image_only_a_guess(const struct image *image, const char *what, struct err *err)
{
    return err_set(err, EPERM,
                   "was found to be %s only by looking, and names %s; if that is right, record its "
                   "format in the image above with: bedplate-img rebase -u -F %s",
                   image->format->name, what, image->format->name);
}

int image_open_part(const struct image *image, const char *name, struct store **out,
                    struct err *err)
{
    if (!image->may_name_files)
        return image_only_a_guess(image, "further files", err);
    int r = image_check_name(name, err);
    if (r < 0)
        return r;
    AUTO(free) char *path = image_child_path(image->path, name);
    if (!path)
        return err_set(err, ENOMEM, "out of memory");
    struct image_options options = *image->opening;
    options.path = path;
    int fd;
    r = image_open_fd(&options, &fd, err);
    if (r == 0)
        r = store_open_fd(fd, !options.no_lock, out, err);
    if (r == 0)
        (*out)->no_flush = options.unsafe;
    return r < 0 ? err_prefix(err, "%s", path) : 0;
}

static int image_open_backing(struct image *image, const struct image_options *options,
                              const struct chain_link *link, struct err *err)
{
    int r = image_check_name(image->backing_name, err);
    if (r < 0)
        return r;
    unsigned depth = 0;
    for (const struct chain_link *l = link; l; l = l->above)
        depth++;
    if (depth >= IMAGE_DEPTH_MAX)
        return err_set(err, ELOOP, "has more than %d backing files below it; flatten the chain",
                       IMAGE_DEPTH_MAX);
    AUTO(free) char *path = image_child_path(image->path, image->backing_name);
    if (!path)
        return err_set(err, ENOMEM, "out of memory");
    struct image_options below = *options;
    below.path = path;
    below.format = image->backing_format;
    below.readonly = true;
    below.for_check = false;
    r = image_open_link(&below, link, false, &image->backing, err);
    if (r == -ENOENT)
        return err_set(err, ENOENT,
                       "backing file %s: no such file; put it back, or record where it is with: "
                       "bedplate-img rebase -u -b FILE -F FORMAT %s",
                       path, image->path);
    if (r < 0)
        return err_prefix(err, "backing file %s", path);
    return image->format->check_backing ? image->format->check_backing(image, err) : 0;
}

static const char *image_probe(struct store *store)
{
    uint8_t sector[PROBE_SECTOR];
    uint64_t size;
    if (store_size(store, &size) < 0 || store_read(store, sector, sizeof sector, 0) < 0)
        return NULL;
    const char *format = probe_first_sector(sector);
    if (!format && size >= PROBE_SECTOR && size % PROBE_SECTOR == 0 &&
        !store_read(store, sector, sizeof sector, size - PROBE_SECTOR))
        format = probe_last_sector(sector);
    return format;
}

/* A format that was named, and the image is not in it. */
static void image_say_format(const struct image *image, struct err *err)
{
    const char *found = image_probe(image->store);
    size_t len = err ? strlen(err->text) : 0;
    if (err && (!found || strcmp(found, image->format->name)))
        snprintf(err->text + len, sizeof err->text - len, "; it looks like %s",
                 found ? found : "raw");
}

static int image_open_format(const struct image_options *options, struct store *take_store,
                             const struct chain_link *above, bool guess_may_refer,
                             struct image **out, struct err *err)
{
    AUTO(store_close) struct store *store = take_store;
    const char *name = options->format;
    bool guessed = !name;
    if (!name)
        name = image_probe(store);
    if (!name)
        name = "raw";
    const struct image_format *format = image_format_find(name);
    if (!format)
        return image_no_format(name, err);

    struct stat st = { 0 };
    struct chain_link link = { .above = above, .path = options->path };
    if (store->fd >= 0 && !fstat(store->fd, &st)) {
        link.dev = st.st_dev;
        link.ino = st.st_ino;
        for (const struct chain_link *l = above; l; l = l->above)
            if (l->dev == st.st_dev && l->ino == st.st_ino)
                return err_set(err, ELOOP,
                               "is its own backing file, by way of %s; correct it "
                               "with: bedplate-img rebase -u",
                               l->path);
    }

    AUTO(image_drop) struct image *image = calloc(1, format->struct_size);
    if (!image)
        return err_set(err, ENOMEM, "out of memory");
    image->format = format;
    image->store = TAKE(store);
    image->readonly = options->readonly;
    image->opening = options;
    image->may_name_files = !guessed || guess_may_refer;
    image->path = strdup(options->path);
    if (!image->path)
        return err_set(err, ENOMEM, "out of memory");
    int r = format->open(image, options, err);
    image->opening = NULL;
    if (r < 0 && !guessed)
        image_say_format(image, err);
    if (r < 0)
        return r;
    if (image->backing_name && !image->may_name_files)
        return image_only_a_guess(image, "a backing file", err);
    if (image->backing_name && !options->no_backing) {
        r = image_open_backing(image, options, &link, err);
        if (r < 0)
            return r;
    }
    *out = TAKE(image);
    return 0;
}

static int image_open_link(const struct image_options *options, const struct chain_link *above,
                           bool guess_may_refer, struct image **out, struct err *err)
{
    int fd, r;
    struct store *store;
    if (options->format && !image_format_find(options->format))
        return image_no_format(options->format, err);
    if (!above && nbd_is_uri(options->path)) {
        struct image_options export = *options;
        struct nbd_client *client;
        export.format = options->format ? options->format : "raw";
        r = nbd_client_open(options->path, options->readonly, &client, err);
        if (r == 0)
            r = nbd_store_open(client, &store, err);
        if (r == 0)
            store->no_flush = options->unsafe;
        return r < 0 ? r : image_open_format(&export, store, above, guess_may_refer, out, err);
    }
    r = image_open_fd(options, &fd, err);
    if (r == 0)
        r = store_open_fd(fd, !options->no_lock, &store, err);
    if (r < 0)
        return r;
    store->no_flush = options->unsafe;
    return image_open_format(options, store, above, guess_may_refer, out, err);
}

int image_open(const struct image_options *options, struct image **out, struct err *err)
{
    int r = image_open_link(options, NULL, true, out, err);
    return r < 0 ? err_prefix(err, "%s", options->path) : 0;
}

int image_open_within(const struct image_options *options, struct store *take_store,
                      struct image **out, struct err *err)
{
    return image_open_format(options, take_store, NULL, true, out, err);
}

int image_open_store(const struct image_options *options, struct store *take_store,
                     struct image **out, struct err *err)
{
    int r = image_open_within(options, take_store, out, err);
    return r < 0 ? err_prefix(err, "%s", options->path) : 0;
}

void image_attach_backing(struct image *image, struct image *take_backing)
{
    assert(!image->backing);
    image->backing = take_backing;
}

int image_close(struct image *image)
{
    if (!image)
        return 0;
    int r = image->format->close(image);
    image_close(image->backing);
    store_close(image->store);
    free(image->path);
    free(image->backing_name);
    free(image->backing_format);
    free(image);
    return r;
}

/* ---- data ---- */

int image_read(struct image *image, void *data, size_t len, uint64_t offset)
{
    if (!range_fits(offset, len, image->size))
        return -EINVAL;
    return len ? image->format->read(image, data, len, offset) : 0;
}

int image_read_backing(struct image *image, void *data, size_t len, uint64_t offset)
{
    struct image *backing = image->backing;
    size_t have = 0;
    if (backing && offset < backing->size)
        have = backing->size - offset < len ? backing->size - offset : len;
    memset((char *)data + have, 0, len - have);
    return have ? image_read(backing, data, have, offset) : 0;
}

static int image_writable(const struct image *image, uint64_t offset, uint64_t len)
{
    if (image->readonly)
        return -EROFS;
    return range_fits(offset, len, image->size) ? 0 : -EINVAL;
}

int image_write(struct image *image, const void *data, size_t len, uint64_t offset)
{
    int r = image_writable(image, offset, len);
    if (r < 0 || !len)
        return r;
    return image->format->write ? image->format->write(image, data, len, offset) : -EROFS;
}

int image_zero(struct image *image, uint64_t offset, uint64_t len, unsigned flags)
{
    int r = image_writable(image, offset, len);
    if (r < 0 || !len)
        return r;
    return image->format->zero ? image->format->zero(image, offset, len, flags) : -EROFS;
}

int image_discard(struct image *image, uint64_t offset, uint64_t len)
{
    int r = image_writable(image, offset, len);
    if (r < 0 || !len || !image->format->discard)
        return r;
    return image->format->discard(image, offset, len);
}

int image_flush(struct image *image)
{
    return image->readonly || !image->format->flush ? 0 : image->format->flush(image);
}

int image_status(struct image *image, uint64_t offset, uint64_t len, struct image_extent *out)
{
    if (!len || !range_fits(offset, len, image->size))
        return -EINVAL;
    *out = (struct image_extent){ .len = len };
    return image->format->status(image, offset, len, out);
}

int image_map(struct image *image, uint64_t offset, uint64_t len, struct image_extent *out,
              unsigned *depth)
{
    *depth = 0;
    for (;;) {
        int r = image_status(image, offset, len, out);
        if (r < 0 || (out->flags & IMAGE_ALLOCATED))
            return r;
        len = out->len;
        image = image->backing;
        if (!image || offset >= image->size) {
            out->flags = IMAGE_ZERO;
            return 0;
        }
        if (len > image->size - offset)
            len = image->size - offset;
        (*depth)++;
    }
}

/* ---- the whole image ---- */

static int image_cannot(const struct image *image, const char *what, struct err *err)
{
    return err_set(err, ENOTSUP, "%s: format %s cannot %s", image->path, image->format->name, what);
}

int image_check(struct image *image, struct image_check *check, struct err *err)
{
    if (!image->format->check)
        return image_cannot(image, "be checked", err);
    int r = image->format->check(image, check, err);
    return r < 0 ? err_prefix(err, "%s", image->path) : 0;
}

int image_resize(struct image *image, uint64_t size, enum image_preallocation prealloc,
                 struct err *err)
{
    if (!image->format->resize)
        return image_cannot(image, "be resized", err);
    if (image->readonly)
        return err_set(err, EROFS, "%s: is open read-only", image->path);
    int r = image->format->resize(image, size, prealloc, err);
    return r < 0 ? err_prefix(err, "%s", image->path) : 0;
}

int image_write_compressed(struct image *image, const void *data, size_t len, uint64_t offset)
{
    int r = image_writable(image, offset, len);
    if (r < 0)
        return r;
    return image->format->write_compressed
               ? image->format->write_compressed(image, data, len, offset)
               : -EOPNOTSUPP;
}

int image_set_backing(struct image *image, const char *backing, const char *format, struct err *err)
{
    if (!image->format->set_backing)
        return image_cannot(image, "have a backing file", err);
    int r = image->format->set_backing(image, backing, format, err);
    return r < 0 ? err_prefix(err, "%s", image->path) : 0;
}

int image_empty(struct image *image, struct err *err)
{
    if (!image->format->empty)
        return image_cannot(image, "be emptied", err);
    int r = image->format->empty(image, err);
    return r < 0 ? err_prefix(err, "%s", image->path) : 0;
}

int image_snapshot_count(struct image *image)
{
    return image->format->snapshot_count ? image->format->snapshot_count(image) : 0;
}

const struct image_snapshot *image_snapshot_at(struct image *image, unsigned n)
{
    return image->format->snapshot_at(image, n);
}

static int image_find_snapshot(struct image *image, const char *name, unsigned *out,
                               struct err *err)
{
    int count = image_snapshot_count(image);
    for (int by_name = 0; by_name < 2; by_name++)
        for (int i = 0; i < count; i++) {
            const struct image_snapshot *s = image_snapshot_at(image, (unsigned)i);
            if (!strcmp(by_name ? s->name : s->id, name)) {
                *out = (unsigned)i;
                return 0;
            }
        }
    return err_set(err, ENOENT, "%s: has no snapshot %s", image->path, name);
}

int image_snapshot_create(struct image *image, const char *name, struct err *err)
{
    if (!image->format->snapshot_create)
        return image_cannot(image, "hold snapshots", err);
    int r = image->format->snapshot_create(image, name, err);
    return r < 0 ? err_prefix(err, "%s", image->path) : 0;
}

int image_snapshot_apply(struct image *image, const char *name, struct err *err)
{
    unsigned n;
    if (!image->format->snapshot_apply)
        return image_cannot(image, "hold snapshots", err);
    int r = image_find_snapshot(image, name, &n, err);
    if (r < 0)
        return r;
    r = image->format->snapshot_apply(image, n, err);
    return r < 0 ? err_prefix(err, "%s", image->path) : 0;
}

int image_snapshot_delete(struct image *image, const char *name, struct err *err)
{
    unsigned n;
    if (!image->format->snapshot_delete)
        return image_cannot(image, "hold snapshots", err);
    int r = image_find_snapshot(image, name, &n, err);
    if (r < 0)
        return r;
    r = image->format->snapshot_delete(image, n, err);
    return r < 0 ? err_prefix(err, "%s", image->path) : 0;
}

int image_snapshot_view(struct image *image, const char *name, struct err *err)
{
    unsigned n;
    if (!image->format->snapshot_view)
        return image_cannot(image, "hold snapshots", err);
    int r = image_find_snapshot(image, name, &n, err);
    if (r < 0)
        return r;
    r = image->format->snapshot_view(image, n, err);
    return r < 0 ? err_prefix(err, "%s", image->path) : 0;
}

/* ---- creation ---- */

int image_create_store(const struct image_create *create, struct store *store, struct err *err)
{
    const struct image_format *format = image_format_find(create->format);
    if (!format)
        return image_no_format(create->format, err);
    if (!format->create)
        return err_set(err, ENOTSUP, "images of format %s can only be read", create->format);
    if (create->backing && !format->can_back)
        return err_set(err, ENOTSUP, "format %s has no backing files", create->format);
    if (create->size > (uint64_t)1 << 62)
        return err_set(err, EFBIG, "a disk has at most 2^62 bytes");
    int r = image_option_check(format, create->options, err);
    if (r == 0)
        r = format->create(create, store, err);
    if (r < 0)
        return r;
    r = store_flush(store);
    return r < 0 ? err_errno(err, -r, "cannot flush") : 0;
}

/* Creates or empties a file. */
static int image_create_file(const char *path, bool no_overwrite, struct store **out, bool *regular,
                             struct err *err)
{
    int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    if (nbd_is_uri(path))
        return err_set(err, EINVAL, "is an export, which its server makes; write into it with -n");
    AUTO(fd_close) int fd = open(path, flags | (no_overwrite ? O_EXCL : 0), 0644);
    if (fd < 0)
        return errno == ENOENT ? err_set(err, ENOENT, "its folder does not exist; make that first")
                               : err_errno(err, errno, "cannot create");
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_errno(err, errno, "cannot look at it");
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return err_set(err, EINVAL, "is neither a file nor a block device");
    /* Looked for before anything of it is lost. */
    int r = lock_image(fd, path, true, err);
    if (r < 0)
        return r;
    *regular = S_ISREG(st.st_mode);
    if (*regular && ftruncate(fd, 0) < 0)
        return err_errno(err, errno, "cannot empty it");
    return store_open_fd(TAKE_FD(fd), true, out, err);
}

int image_create_part(const struct image_create *create, const char *name, struct store **out,
                      struct err *err)
{
    bool regular;
    AUTO(free) char *path = image_child_path(create->path, name);
    if (!path)
        return err_set(err, ENOMEM, "out of memory");
    int r = image_create_file(path, create->no_overwrite, out, &regular, err);
    return r < 0 ? err_prefix(err, "%s", path) : 0;
}

static int image_create_path(const struct image_create *create, struct err *err)
{
    AUTO(store_close) struct store *store = NULL;
    bool regular;
    int r = image_create_file(create->path, create->no_overwrite, &store, &regular, err);
    if (r < 0)
        return r;
    r = image_create_store(create, store, err);
    if (r < 0 && regular)
        unlink(create->path);
    return r;
}

int image_create(const struct image_create *create, struct err *err)
{
    int r = image_create_path(create, err);
    return r < 0 ? err_prefix(err, "%s", create->path) : 0;
}

/* ---- questions ---- */

uint64_t image_size(const struct image *image) { return image->size; }
bool image_readonly(const struct image *image) { return image->readonly; }
const char *image_path(const struct image *image) { return image->path; }
const char *image_format_name(const struct image *image) { return image->format->name; }
struct image *image_backing(const struct image *image) { return image->backing; }
const char *image_backing_name(const struct image *image) { return image->backing_name; }
const char *image_backing_format(const struct image *image) { return image->backing_format; }
uint32_t image_cluster_size(const struct image *image) { return image->cluster_size; }
struct store *image_store(const struct image *image) { return image->store; }

int image_info(struct image *image, json_t *into)
{
    return image->format->info ? image->format->info(image, into) : 0;
}
