/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reading OVA archives: libarchive finds the members, libxml2 parses the description; see ova.h. */
#include "img/ova.h"

#include "base/checked.h"
#include "base/json.h"
#include "base/text.h"
#include "img/ovf.h"

#include <archive.h>
#include <archive_entry.h>
#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <string.h>
#include <zlib.h>

enum {
    MEMBERS_MAX = 256,
    OVF_MAX = 4 << 20,
    MANIFEST_MAX = 1 << 20,
    READ_CHUNK = 64 << 10,
    VERIFY_LEN = 64,
};

struct member {
    char *name;
    uint64_t at, len; /* in the archive */
};

struct ova {
    char *path;
    struct store *store; /* of the archive */
    struct member members[MEMBERS_MAX];
    unsigned count;
    struct ovf ovf;
};

/* ---- a part of a store ---- */

struct slice {
    struct store store;
    struct store *below; /* owned */
    uint64_t at, len;
};

static struct slice *slice_of(struct store *store)
{
    return CONTAINER_OF(store, struct slice, store);
}

static int slice_read(struct store *store, void *data, size_t len, uint64_t offset)
{
    struct slice *s = slice_of(store);
    size_t have = offset < s->len ? (s->len - offset < len ? s->len - offset : len) : 0;
    memset((char *)data + have, 0, len - have);
    return store_read(s->below, data, have, s->at + offset);
}

static int slice_write(struct store *store, const void *data, size_t len, uint64_t offset)
{
    return -EROFS;
}

static int slice_flush(struct store *store) { return 0; }
static int slice_truncate(struct store *store, uint64_t size) { return -EROFS; }

static int slice_size(struct store *store, uint64_t *out)
{
    *out = slice_of(store)->len;
    return 0;
}

static void slice_close(struct store *store)
{
    store_close(slice_of(store)->below);
    free(slice_of(store));
}

static const struct store_ops slice_ops = {
    .read = slice_read,
    .write = slice_write,
    .flush = slice_flush,
    .truncate = slice_truncate,
    .size = slice_size,
    .close = slice_close,
};

static struct store *slice_open(struct store *take_below, uint64_t at, uint64_t len)
{
    struct slice *s = calloc(1, sizeof *s);
    if (!s) {
        store_close(take_below);
        return NULL;
    }
    s->store = (struct store){ &slice_ops, -1 };
    s->below = take_below;
    s->at = at;
    s->len = len;
    return &s->store;
}

/* ---- members ---- */

struct reader { /* what libarchive reads from */
    struct store *store;
    uint64_t at, size;
    uint8_t buf[READ_CHUNK];
};

static la_ssize_t reader_read(struct archive *a, void *arg, const void **out)
{
    struct reader *r = arg;
    size_t len = r->size - r->at < READ_CHUNK ? r->size - r->at : READ_CHUNK;
    if (store_read(r->store, r->buf, len, r->at) < 0) {
        archive_set_error(a, EIO, "cannot read the archive");
        return -1;
    }
    r->at += len;
    *out = r->buf;
    return (la_ssize_t)len;
}

static la_int64_t reader_skip(struct archive *a, void *arg, la_int64_t want)
{
    struct reader *r = arg;
    uint64_t left = r->size - r->at, n = want < 0 ? 0 : (uint64_t)want;
    n = n < left ? n : left;
    r->at += n;
    return (la_int64_t)n;
}

static bool name_is_plain(const char *name)
{
    return name && name[0] && name[0] != '.' && !strchr(name, '/') && !strchr(name, '\\');
}

static struct member *member_find(struct ova *ova, const char *name)
{
    for (unsigned i = 0; i < ova->count; i++)
        if (!strcmp(ova->members[i].name, name))
            return &ova->members[i];
    return NULL;
}

/* Where the member's data lies: right where libarchive stands when it has handed out the first
 * piece of it; that this is so is compared. */
static int member_place(struct ova *ova, struct archive *a, struct member *m, struct err *err)
{
    const void *data;
    size_t len;
    la_int64_t offset;
    uint8_t look[VERIFY_LEN];
    if (!m->len)
        return 0;
    if (archive_read_data_block(a, &data, &len, &offset) != ARCHIVE_OK || offset || !len)
        return err_set(err, EINVAL, "its member %s is sparse or cut off; copy it again", m->name);
    m->at = (uint64_t)archive_filter_bytes(a, 0);
    size_t n = len < sizeof look ? len : sizeof look;
    int r = store_read(ova->store, look, n, m->at);
    if (r < 0 || memcmp(look, data, n))
        return err_set(err, EINVAL, "its member %s cannot be found in place", m->name);
    return 0;
}

static int member_add(struct ova *ova, struct archive *a, struct archive_entry *entry,
                      uint64_t size, struct err *err)
{
    const char *name = archive_entry_pathname(entry);
    if (!name_is_plain(name))
        return err_set(err, EPERM,
                       "has a member whose name is a path (%.60s), which no OVA has; it is refused",
                       name ? name : "");
    if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry))
        return err_set(err, EPERM, "has a member %s that is no file; it is refused", name);
    if (member_find(ova, name))
        return err_set(err, EINVAL, "has two members %s", name);
    if (ova->count == MEMBERS_MAX)
        return err_set(err, E2BIG, "has more than %d members", MEMBERS_MAX);
    struct member *m = &ova->members[ova->count];
    *m = (struct member){ .name = strdup(name), .len = (uint64_t)archive_entry_size(entry) };
    if (!m->name)
        return err_set(err, ENOMEM, "out of memory");
    ova->count++;
    int r = member_place(ova, a, m, err);
    if (r == 0 && !range_fits(m->at, m->len, size))
        r = err_set(err, EINVAL, "its member %s is cut off; copy the archive again", name);
    return r;
}

static int members_read(struct ova *ova, struct archive *a, uint64_t size, struct err *err)
{
    struct archive_entry *entry;
    int r;
    while ((r = archive_read_next_header(a, &entry)) == ARCHIVE_OK) {
        r = member_add(ova, a, entry, size, err);
        if (r < 0)
            return r;
    }
    return r == ARCHIVE_EOF
               ? 0
               : err_set(err, EINVAL, "is no whole tar archive: %s",
                         archive_error_string(a) ? archive_error_string(a) : "damaged");
}

static int members_find(struct ova *ova, struct err *err)
{
    struct reader *reader = calloc(1, sizeof *reader);
    struct archive *a = archive_read_new();
    int r = !reader || !a ? -ENOMEM : store_size(ova->store, &reader->size);
    if (r == 0) {
        reader->store = ova->store;
        /* Tar and nothing around it: an OVA is never packed as a whole. */
        archive_read_support_format_tar(a);
        archive_read_set_read_callback(a, reader_read);
        archive_read_set_skip_callback(a, reader_skip);
        archive_read_set_callback_data(a, reader);
        r = archive_read_open1(a) == ARCHIVE_OK
                ? members_read(ova, a, reader->size, err)
                : err_set(err, EINVAL, "is no tar archive, so no OVA");
    } else {
        err_errno(err, -r, "cannot be read");
    }
    archive_read_free(a);
    free(reader);
    return r;
}

/* A member whole; the caller frees. */
static int member_load(struct ova *ova, const struct member *m, uint64_t max, uint8_t **out,
                       struct err *err)
{
    if (m->len > max)
        return err_set(err, EFBIG, "its member %s has %" PRIu64 " bytes, more than %" PRIu64,
                       m->name, m->len, max);
    AUTO(free) uint8_t *data = calloc(1, m->len + 1);
    int r = data ? store_read(ova->store, data, m->len, m->at) : -ENOMEM;
    if (r < 0)
        return err_errno(err, -r, "cannot read its member %s", m->name);
    *out = TAKE(data);
    return 0;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcasecmp(text + n - m, end);
}

/* ---- opening ---- */

/* Every file that the description names is there, and every disk has one. */
static int ova_check_files(struct ova *ova, struct err *err)
{
    for (unsigned i = 0; i < ova->ovf.disk_count; i++) {
        const struct ovf_disk *d = &ova->ovf.disks[i];
        if (!d->file[0]) /* made empty when the VM is */
            continue;
        if (!name_is_plain(d->file))
            return err_set(err, EPERM, "its description names the file %s, which is no plain name",
                           d->file);
        if (!member_find(ova, d->file))
            return err_set(err, ENOENT, "its description names the file %s, which is not in it",
                           d->file);
    }
    return 0;
}

int ova_open_store(struct store *take_store, struct ova **out, struct err *err)
{
    AUTO(ova_close) struct ova *ova = calloc(1, sizeof *ova);
    AUTO(free) uint8_t *text = NULL;
    if (!ova) {
        store_close(take_store);
        return err_set(err, ENOMEM, "out of memory");
    }
    ova->store = take_store;
    int r = members_find(ova, err);
    const struct member *m = NULL;
    for (unsigned i = 0; r == 0 && i < ova->count && !m; i++)
        if (ends_with(ova->members[i].name, ".ovf"))
            m = &ova->members[i];
    if (r == 0 && !m)
        r = err_set(err, EINVAL, "is no OVA: it has no description (.ovf)");
    if (r == 0)
        r = member_load(ova, m, OVF_MAX, &text, err);
    if (r == 0)
        r = ovf_parse((char *)text, m->len, &ova->ovf, err);
    if (r == 0)
        r = ova_check_files(ova, err);
    if (r == 0)
        *out = TAKE(ova);
    return r;
}

int ova_open(const char *path, struct ova **out, struct err *err)
{
    int fd;
    struct store *store;
    int r = block_opener_files.open(&block_opener_files, path, O_RDONLY, &fd, err);
    if (r == 0)
        r = store_open_fd(fd, false, &store, err);
    if (r == 0)
        r = ova_open_store(store, out, err);
    if (r < 0)
        return err_prefix(err, "%s", path);
    (*out)->path = strdup(path);
    return 0;
}

void ova_close(struct ova *ova)
{
    if (!ova)
        return;
    for (unsigned i = 0; i < ova->count; i++)
        free(ova->members[i].name);
    ovf_free(&ova->ovf);
    store_close(ova->store);
    free(ova->path);
    free(ova);
}

bool ova_probe(const char *path)
{
    char sector[512];
    AUTO(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || pread_full(fd, sector, sizeof sector, 0) < 0)
        return false;
    sector[99] = 0;
    return !memcmp(sector + 257, "ustar", 5) && ends_with(sector, ".ovf");
}

/* ---- disks ---- */

unsigned ova_disk_count(const struct ova *ova) { return ova->ovf.disk_count; }

static const struct ovf_disk *disk_find(const struct ova *ova, const char *which, struct err *err)
{
    const struct ovf *ovf = &ova->ovf;
    char list[240] = "";
    uint64_t number = 0;
    if (!ovf->disk_count) {
        err_set(err, ENOENT, "has no disk");
        return NULL;
    }
    if (!which && ovf->disk_count == 1)
        return &ovf->disks[0];
    if (which && number_parse(which, 1, ovf->disk_count, &number, NULL) == 0)
        return &ovf->disks[number - 1];
    for (unsigned i = 0; i < ovf->disk_count; i++) {
        const struct ovf_disk *d = &ovf->disks[i];
        if (which && (!strcmp(d->id, which) || !strcmp(d->file, which)))
            return d;
        size_t at = strlen(list);
        snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", d->id);
    }
    if (which)
        err_set(err, ENOENT, "has no disk %s; there is: %s", which, list);
    else
        err_set(err, EINVAL, "has %u disks; say which with --disk: %s", ovf->disk_count, list);
    return NULL;
}

/* The format that the description's URI stands for; NULL: by its magic. */
static const char *disk_format(const struct ovf_disk *d)
{
    if (strcasestr(d->format, "vmdk"))
        return "vmdk";
    if (strcasestr(d->format, "vhdx"))
        return "vhdx";
    if (strcasestr(d->format, "vhd"))
        return "vhd";
    return ends_with(d->file, ".vmdk") ? "vmdk" : ends_with(d->file, ".img") ? "raw" : NULL;
}

/* gzip or zlib, into a file without a name; at most `max` bytes. */
static int unpack_run(struct store *from, uint64_t len, uint64_t max, int fd, z_stream *z,
                      struct err *err)
{
    AUTO(free) uint8_t *in = malloc(READ_CHUNK);
    AUTO(free) uint8_t *out = malloc(READ_CHUNK);
    uint64_t at = 0, done = 0;
    int state = Z_OK;
    if (!in || !out)
        return err_set(err, ENOMEM, "out of memory");
    while (state == Z_OK) {
        if (!z->avail_in) {
            size_t part = len - at < READ_CHUNK ? len - at : READ_CHUNK;
            int r = store_read(from, in, part, at);
            if (r < 0 || !part)
                return err_errno(err, r < 0 ? -r : ENODATA, "a packed disk is cut off");
            at += part;
            z->next_in = in;
            z->avail_in = (uInt)part;
        }
        z->next_out = out;
        z->avail_out = READ_CHUNK;
        state = inflate(z, Z_NO_FLUSH);
        uint64_t part = READ_CHUNK - z->avail_out;
        if (part > max - done)
            return err_set(err, EFBIG,
                           "a packed disk is larger than its description allows (%" PRIu64
                           " bytes); it is refused",
                           max);
        int r = pwrite_full(fd, out, part, (off_t)done);
        if (r < 0)
            return err_errno(err, -r, "cannot unpack a disk into TMPDIR");
        done += part;
    }
    return state == Z_STREAM_END ? 0 : err_set(err, EINVAL, "a packed disk is damaged");
}

static int disk_unpack(struct store **store, uint64_t len, uint64_t max, struct err *err)
{
    const char *dir = getenv("TMPDIR");
    z_stream z = { 0 };
    AUTO(fd_close)
    int fd = open(dir && *dir ? dir : "/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_errno(err, errno, "cannot unpack a disk into TMPDIR");
    if (inflateInit2(&z, 15 + 32) != Z_OK)
        return err_set(err, ENOMEM, "out of memory");
    int r = unpack_run(*store, len, max, fd, &z, err);
    inflateEnd(&z);
    if (r < 0)
        return r;
    store_close(*store);
    *store = NULL;
    return store_open_fd(TAKE_FD(fd), false, store, err);
}

static int refuse_files(const struct block_opener *opener, const char *path, int flags, int *fd,
                        struct err *err)
{
    return err_set(err, EPERM, "a disk in an OVA may name no further file");
}

static int disk_open(struct ova *ova, const char *which, struct image **out, struct err *err)
{
    static const struct block_opener no_files = { .open = refuse_files };
    enum { PACKED_MORE = 64 << 20 };
    const struct ovf_disk *d = disk_find(ova, which, err);
    if (!d)
        return -err->code;
    const struct member *m = d->file[0] ? member_find(ova, d->file) : NULL;
    if (!m)
        return err_set(err, ENOENT,
                       "its disk %s has no file: it begins empty, with %" PRIu64 " bytes", d->id,
                       d->capacity);
    if (d->chunked || d->parent)
        return err_set(err, ENOTSUP, "its disk %s is %s, which is not supported", d->id,
                       d->chunked ? "cut into chunks" : "an overlay of another one");
    uint64_t len = m->len;
    AUTO(store_close) struct store *store = slice_open(TAKE(ova->store), m->at, m->len);
    if (!store)
        return err_set(err, ENOMEM, "out of memory");
    int r = 0;
    if (d->compression[0] && strcmp(d->compression, "identity")) {
        if (strcmp(d->compression, "gzip"))
            return err_set(err, ENOTSUP, "its disk %s is packed with %s; known is gzip", d->id,
                           d->compression);
        r = disk_unpack(&store, len, d->capacity + d->capacity / 16 + PACKED_MORE, err);
    }
    if (r < 0)
        return r;
    AUTO(free) char *path = NULL;
    if (asprintf(&path, "%s/%s", ova->path ? ova->path : "ova", m->name) < 0)
        return err_set(err, ENOMEM, "out of memory");
    struct image_options options = {
        .path = path,
        .format = disk_format(d),
        .readonly = true,
        .no_lock = true,
        .opener = &no_files,
    };
    r = image_open_within(&options, TAKE(store), out, err);
    if (r < 0)
        return err_prefix(err, "disk %s", d->id);
    if (image_size(*out) < d->capacity) {
        image_close(TAKE(*out));
        return err_set(err, EINVAL, "its disk %s is smaller than its description says", d->id);
    }
    return 0;
}

int ova_open_disk(struct ova *take_ova, const char *which, struct image **out, struct err *err)
{
    AUTO(ova_close) struct ova *ova = take_ova;
    int r = disk_open(ova, which, out, err);
    return r < 0 && ova->path ? err_prefix(err, "%s", ova->path) : r;
}

/* ---- facts ---- */

struct json_t *ova_info(const struct ova *ova)
{
    json_t *info = ovf_info(&ova->ovf), *disks = json_object_get(info, "disks"), *disk;
    size_t i;
    json_object_set_new(info, "filename", json_string(ova->path ? ova->path : ""));
    json_object_set_new(info, "format", json_string("ova"));
    json_array_foreach(disks, i, disk)
    {
        const struct member *m = member_find((struct ova *)ova, ova->ovf.disks[i].file);
        if (m)
            json_object_set_new(disk, "file-size", json_integer((json_int_t)m->len));
        if (m)
            json_object_set_new(disk, "file-offset", json_integer((json_int_t)m->at));
    }
    return info;
}

/* ---- the manifest ---- */

static int member_digest(struct ova *ova, const struct member *m, const EVP_MD *md, char *hex)
{
    AUTO(free) uint8_t *buf = malloc(READ_CHUNK);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    uint8_t sum[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    int r = buf && ctx && EVP_DigestInit_ex(ctx, md, NULL) ? 0 : -ENOMEM;
    for (uint64_t at = 0, part; r == 0 && at < m->len; at += part) {
        part = m->len - at < READ_CHUNK ? m->len - at : READ_CHUNK;
        r = store_read(ova->store, buf, part, m->at + at);
        if (r == 0 && !EVP_DigestUpdate(ctx, buf, part))
            r = -EIO;
    }
    if (r == 0 && !EVP_DigestFinal_ex(ctx, sum, &len))
        r = -EIO;
    for (unsigned i = 0; i < len; i++)
        sprintf(hex + 2 * i, "%02x", sum[i]);
    EVP_MD_CTX_free(ctx);
    return r;
}

/* SHA256(disk.vmdk)= 9f86... */
static int manifest_line(struct ova *ova, const char *line, char *problem, size_t room)
{
    char kind[16], name[512], want[2 * EVP_MAX_MD_SIZE + 1], have[2 * EVP_MAX_MD_SIZE + 1] = "";
    if (sscanf(line, " %15[A-Za-z0-9] (%511[^)])%*[ =]%128[0-9A-Fa-f]", kind, name, want) != 3 &&
        sscanf(line, "%15[A-Za-z0-9](%511[^)])%*[ =]%128[0-9A-Fa-f]", kind, name, want) != 3)
        return 0;
    const EVP_MD *md = !strcmp(kind, "SHA1")     ? EVP_sha1()
                       : !strcmp(kind, "SHA256") ? EVP_sha256()
                       : !strcmp(kind, "SHA512") ? EVP_sha512()
                                                 : NULL;
    const struct member *m = member_find(ova, name);
    if (!md || !m) {
        snprintf(problem, room, "the manifest names %s, which %s", name,
                 m ? "has an unknown digest" : "is not there");
        return 1;
    }
    int r = member_digest(ova, m, md, have);
    if (r < 0)
        return r;
    if (strcasecmp(have, want))
        snprintf(problem, room, "corruption: %s differs from its digest in the manifest", name);
    return 1;
}

int ova_check(struct ova *ova, void (*report)(void *arg, const char *text), void *arg,
              unsigned *checked, unsigned *bad, struct err *err)
{
    AUTO(free) uint8_t *text = NULL;
    const struct member *m = NULL;
    *checked = *bad = 0;
    for (unsigned i = 0; i < ova->count && !m; i++)
        if (ends_with(ova->members[i].name, ".mf"))
            m = &ova->members[i];
    int r = m ? member_load(ova, m, MANIFEST_MAX, &text, err) : 0;
    char *rest = (char *)text, *line;
    while (r == 0 && rest && (line = strsep(&rest, "\n"))) {
        char problem[600] = "";
        r = manifest_line(ova, line, problem, sizeof problem);
        if (r < 0)
            return err_errno(err, -r, "cannot read a member");
        *checked += r > 0;
        *bad += problem[0] != 0;
        if (problem[0] && report)
            report(arg, problem);
        r = 0;
    }
    return r;
}
