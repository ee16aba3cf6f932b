/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * VMDK: a descriptor and its extents; vmdk.h has the layout.
 *
 * Extents in other files are asked for by the bare names that the descriptor gives: a name with a
 * slash or ".." is refused, so a descriptor reaches only what lies beside it. The content id (CID)
 * changes with the first write after opening; an overlay knows by it whether its parent has
 * changed.
 */
#include "block/vmdk.h"

#include "base/checked.h"
#include "base/json.h"
#include "base/text.h"
#include "block/bytes.h"

#include <ctype.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>

enum { EXTENTS_MAX = 4096 };

/* ---- the descriptor ---- */

/* The line that begins with `key`, blanks and '=': its value. */
static const char *descriptor_find(const char *text, const char *key)
{
    size_t len = strlen(key);
    for (const char *p = text; p; p = strchr(p, '\n')) {
        p += strspn(p, "\n\r \t");
        if (strncasecmp(p, key, len))
            continue;
        const char *value = p + len + strspn(p + len, " \t");
        if (*value == '=')
            return value + 1 + strspn(value + 1, " \t");
    }
    return NULL;
}

/* The value of `key`, without quotes: its length, or 0. */
static size_t descriptor_get(const char *text, const char *key, char *value, size_t room)
{
    const char *p = descriptor_find(text, key);
    if (!p)
        return 0;
    bool quoted = *p == '"';
    p += quoted;
    size_t len = strcspn(p, quoted ? "\"\n" : " \t\r\n");
    if (len >= room)
        return 0;
    memcpy(value, p, len);
    value[len] = 0;
    return len;
}

static uint32_t descriptor_cid(const char *text, const char *key, uint32_t absent)
{
    char value[16];
    return descriptor_get(text, key, value, sizeof value) ? (uint32_t)strtoul(value, NULL, 16)
                                                          : absent;
}

static int descriptor_read(struct vmdk *vmdk, struct err *err)
{
    struct image *image = &vmdk->image;
    uint8_t h[VMDK_HEADER];
    uint64_t size;
    int r = store_size(image->store, &size);
    if (r == 0)
        r = store_read(image->store, h, sizeof h, 0);
    if (r < 0)
        return err_errno(err, -r, "cannot read its beginning");
    if (!memcmp(h, "COWD", 4))
        return err_set(err, ENOTSUP,
                       "is a sparse extent of ESX (COWD), which is not supported; clone it with: "
                       "vmkfstools -i, or convert it with: qemu-img convert -O qcow2");
    bool embedded = !memcmp(h, "KDMV", 4);
    vmdk->text_at = embedded ? le64(h + VMDK_DESCRIPTOR) : 0;
    vmdk->text_len = embedded ? le64(h + VMDK_DESCRIPTOR_LEN) : size;
    if (embedded && (vmdk->text_at > 1ull << 40 || vmdk->text_len > DESCRIPTOR_MAX / VMDK_SECTOR))
        return err_set(err, EINVAL, "its descriptor lies at a wrong place");
    vmdk->text_at *= embedded ? VMDK_SECTOR : 1;
    vmdk->text_len *= embedded ? VMDK_SECTOR : 1;
    if (vmdk->text_len > DESCRIPTOR_MAX)
        return err_set(err, EINVAL, "is no VMDK: its descriptor would be of %" PRIu64 " bytes",
                       vmdk->text_len);
    vmdk->text = calloc(1, vmdk->text_len + 1);
    if (!vmdk->text)
        return err_set(err, ENOMEM, "out of memory");
    r = store_read(image->store, vmdk->text, vmdk->text_len, vmdk->text_at);
    if (r < 0)
        return err_errno(err, -r, "cannot read its descriptor");
    vmdk->cid = descriptor_cid(vmdk->text, "CID", 0);
    vmdk->parent_cid = descriptor_cid(vmdk->text, "parentCID", VMDK_NO_PARENT);
    descriptor_get(vmdk->text, "createType", vmdk->create_type, sizeof vmdk->create_type);
    return embedded;
}

/* ---- extents ---- */

/* A word of an extent's line; *p moves behind it. */
static bool extent_word(const char **p, char *word, size_t room)
{
    *p += strspn(*p, " \t");
    bool quoted = **p == '"';
    *p += quoted;
    size_t len = strcspn(*p, quoted ? "\"\r\n" : " \t\r\n");
    if (!len || len >= room)
        return false;
    memcpy(word, *p, len);
    word[len] = 0;
    *p += len + (quoted && (*p)[len] == '"');
    return true;
}

static int extent_check_name(const char *name, struct err *err)
{
    if (strchr(name, '/') || strchr(name, '\\') || !strcmp(name, "..") || !strcmp(name, "."))
        return err_set(err, EPERM,
                       "names the extent %s, which does not lie beside it; move it there and take "
                       "the folder out of its name",
                       name);
    return 0;
}

static int extent_open_file(struct vmdk *vmdk, struct extent *e, const char *name, struct err *err)
{
    int r = extent_check_name(name, err);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < vmdk->count; i++)
        if (vmdk->extents[i].name && !strcmp(vmdk->extents[i].name, name)) {
            if (e->kind == EXTENT_SPARSE || vmdk->extents[i].kind == EXTENT_SPARSE)
                return err_set(err, EINVAL, "names the extent %s twice", name);
            e->store = vmdk->extents[i].store;
            e->borrowed = true;
            return 0;
        }
    e->name = strdup(name);
    return e->name ? image_open_part(&vmdk->image, name, &e->store, err)
                   : err_set(err, ENOMEM, "out of memory");
}

static int extent_open_flat(struct extent *e, uint64_t sector, const char *name, struct err *err)
{
    uint64_t size;
    if (sector > 1ull << 50)
        return err_set(err, EINVAL, "extent %s begins at a wrong place", name);
    e->offset = sector * VMDK_SECTOR;
    int r = store_size(e->store, &size);
    if (r < 0)
        return err_errno(err, -r, "extent %s: cannot ask for the size", name);
    if (!range_fits(e->offset, e->len, size))
        return err_set(err, EINVAL,
                       "extent %s is shorter (%" PRIu64
                       " bytes) than the descriptor says; it was cut "
                       "off, so copy it again",
                       name, size);
    return 0;
}

static int extent_open_sparse(struct vmdk *vmdk, struct extent *e, struct err *err)
{
    int r = vmdk_sparse_open(&vmdk->image, e->store, e->start, &e->sparse, err);
    if (r < 0)
        return e->name ? err_prefix(err, "extent %s", e->name) : r;
    if (e->sparse->flat.image.size < e->len)
        return err_set(err, EINVAL, "extent %s is smaller than the descriptor says", e->name);
    return 0;
}

/* RW 4192256 SPARSE "disk-s001.vmdk"      RW 8192 FLAT "disk-flat.vmdk" 0 */
static int extent_parse(struct vmdk *vmdk, const char *line, struct err *err)
{
    static const char *const kinds[] = { "FLAT", "ZERO", "SPARSE", "VMFS" };
    char access[16], len[24], kind[16], name[512] = "", offset[24] = "0";
    uint64_t sectors, at;
    if (!extent_word(&line, access, sizeof access) || !extent_word(&line, len, sizeof len) ||
        !extent_word(&line, kind, sizeof kind) ||
        number_parse(len, 1, INT64_MAX / VMDK_SECTOR, &sectors, NULL) < 0)
        return err_set(err, EINVAL, "its descriptor has an extent that makes no sense");
    unsigned k = 0;
    while (k < ARRAY_LEN(kinds) && strcmp(kinds[k], kind))
        k++;
    if (k == ARRAY_LEN(kinds))
        return err_set(
            err, ENOTSUP,
            "has an extent of kind %s; known are FLAT, VMFS, SPARSE and ZERO, so convert it "
            "with the program that made it",
            kind);
    if (strcmp(access, "RW") && !vmdk->image.readonly)
        return err_set(err, EROFS, "has an extent that may only be read (%s); add readonly",
                       access);
    struct extent e = { .kind = k == 3 ? EXTENT_FLAT : (enum extent_kind)k,
                        .start = vmdk->image.size,
                        .len = sectors * VMDK_SECTOR };
    if (e.kind != EXTENT_ZERO && !extent_word(&line, name, sizeof name))
        return err_set(err, EINVAL, "its descriptor has an extent without a name");
    if (e.kind == EXTENT_FLAT)
        extent_word(&line, offset, sizeof offset);
    if (number_parse(offset, 0, INT64_MAX, &at, NULL) < 0 ||
        !add_u64(vmdk->image.size, e.len, &vmdk->image.size) || vmdk->image.size > 1ull << 62)
        return err_set(err, EINVAL, "its extents make no sense");
    int r = e.kind == EXTENT_ZERO ? 0 : extent_open_file(vmdk, &e, name, err);
    vmdk->extents[vmdk->count++] = e;
    if (r == 0 && e.kind == EXTENT_FLAT)
        r = extent_open_flat(&vmdk->extents[vmdk->count - 1], at, name, err);
    if (r == 0 && e.kind == EXTENT_SPARSE)
        r = extent_open_sparse(vmdk, &vmdk->extents[vmdk->count - 1], err);
    return r;
}

bool vmdk_line_is_extent(const char *line)
{
    return !strncmp(line, "RW ", 3) || !strncmp(line, "RDONLY ", 7) ||
           !strncmp(line, "NOACCESS ", 9);
}

static const char *next_line(const char *p)
{
    p = strchr(p, '\n');
    return p ? p + 1 : NULL;
}

static int extents_open(struct vmdk *vmdk, struct err *err)
{
    unsigned count = 0;
    for (const char *p = vmdk->text; p; p = next_line(p))
        count += vmdk_line_is_extent(p);
    if (!count || count > EXTENTS_MAX)
        return err_set(err, EINVAL, "is no VMDK with a good descriptor: it lists %u extents",
                       count);
    vmdk->extents = calloc(count, sizeof *vmdk->extents);
    if (!vmdk->extents)
        return err_set(err, ENOMEM, "out of memory");
    int r = 0;
    for (const char *p = vmdk->text; p && r == 0; p = next_line(p))
        if (vmdk_line_is_extent(p))
            r = extent_parse(vmdk, p, err);
    return r;
}

/* The one sparse extent in the image's own file. */
static int extent_open_own(struct vmdk *vmdk, struct err *err)
{
    vmdk->extents = calloc(1, sizeof *vmdk->extents);
    if (!vmdk->extents)
        return err_set(err, ENOMEM, "out of memory");
    struct extent *e = &vmdk->extents[0];
    *e = (struct extent){ .kind = EXTENT_SPARSE, .store = vmdk->image.store, .borrowed = true };
    vmdk->count = 1;
    int r = extent_open_sparse(vmdk, e, err);
    if (r == 0)
        vmdk->image.size = e->len = e->sparse->flat.image.size;
    return r;
}

/* ---- opening ---- */

static int parent_read(struct vmdk *vmdk, struct err *err)
{
    struct image *image = &vmdk->image;
    char name[1024];
    if (vmdk->parent_cid == VMDK_NO_PARENT)
        return 0;
    if (!descriptor_get(vmdk->text, "parentFileNameHint", name, sizeof name))
        return err_set(err, EINVAL, "has a parent, but does not name it");
    image->backing_name = strdup(name);
    image->backing_format = strdup("vmdk");
    return image->backing_name && image->backing_format ? 0 : err_set(err, ENOMEM, "out of memory");
}

static int vmdk_open(struct image *image, const struct image_options *options, struct err *err)
{
    struct vmdk *vmdk = vmdk_of(image);
    pthread_mutex_init(&vmdk->touch_lock, NULL);
    int embedded = descriptor_read(vmdk, err);
    if (embedded < 0)
        return embedded;
    int r = embedded ? extent_open_own(vmdk, err) : extents_open(vmdk, err);
    if (r == 0)
        r = parent_read(vmdk, err);
    if (r < 0)
        return r;
    const struct extent *one = &vmdk->extents[0];
    image->discard_unit = FLAT_DISCARD;
    for (unsigned i = 0; i < vmdk->count; i++)
        if (vmdk->extents[i].sparse)
            image->cluster_size = (uint32_t)vmdk->extents[i].sparse->flat.block_size;
    bool packed = one->sparse && one->sparse->flat.read_packed;
    image->direct_store = vmdk->count == 1 && !packed ? one->store : NULL;
    image->packed_only = one->sparse && one->sparse->stream;
    image->unpackable = !image->packed_only;
    return 0;
}

static int vmdk_close(struct image *image)
{
    struct vmdk *vmdk = vmdk_of(image);
    int r = 0;
    for (unsigned i = 0; i < vmdk->count; i++) {
        struct extent *e = &vmdk->extents[i];
        int closed = vmdk_sparse_close(e->sparse);
        r = r < 0 ? r : closed;
    }
    for (unsigned i = 0; i < vmdk->count; i++) {
        if (!vmdk->extents[i].borrowed)
            store_close(vmdk->extents[i].store);
        free(vmdk->extents[i].name);
    }
    pthread_mutex_destroy(&vmdk->touch_lock);
    free(vmdk->extents);
    free(vmdk->text);
    return r;
}

static int vmdk_check_backing(struct image *image, struct err *err)
{
    const struct vmdk *vmdk = vmdk_of(image), *parent = vmdk_of(image->backing);
    if (vmdk->parent_cid == parent->cid)
        return 0;
    return err_set(err, EINVAL,
                   "backing file %s was changed since, or is another one (its content id is %08x "
                   "instead of %08x); if it is right, record it anew with: bedplate-img rebase -u "
                   "-F vmdk -b",
                   image->backing->path, parent->cid, vmdk->parent_cid);
}

/* ---- data ---- */

/* Before the first change: another content id, of as many digits, so that it fits its place; those
 * lie in one sector. */
int vmdk_touch(struct vmdk *vmdk)
{
    if (atomic_load(&vmdk->touched))
        return 0;
    LOCKED(&vmdk->touch_lock);
    const char *place = descriptor_find(vmdk->text, "CID");
    size_t digits = 0;
    while (place && digits < 8 && isxdigit((unsigned char)place[digits]))
        digits++;
    uint32_t random;
    char text[12];
    if (atomic_load(&vmdk->touched) || !digits)
        return 0;
    if (getrandom(&random, sizeof random, 0) != sizeof random)
        return -EIO;
    snprintf(text, sizeof text, "%08x", random);
    text[7] = (char)(text[7] == 'f' ? '0' : text[7]); /* never all ones */
    int r = store_write(vmdk->image.store, text + 8 - digits, digits,
                        vmdk->text_at + (uint64_t)(place - vmdk->text));
    if (r == 0)
        r = store_flush(vmdk->image.store);
    if (r < 0)
        return r;
    memcpy(vmdk->text + (place - vmdk->text), text + 8 - digits, digits);
    vmdk->cid = descriptor_cid(vmdk->text, "CID", 0);
    atomic_store(&vmdk->touched, 1);
    return 0;
}

static struct extent *extent_at(struct vmdk *vmdk, uint64_t offset)
{
    unsigned low = 0, high = vmdk->count;
    while (high - low > 1) {
        unsigned middle = low + (high - low) / 2;
        if (vmdk->extents[middle].start <= offset)
            low = middle;
        else
            high = middle;
    }
    return &vmdk->extents[low];
}

static int extent_read(struct extent *e, void *data, size_t len, uint64_t at)
{
    if (e->sparse)
        return flat_read(&e->sparse->flat.image, data, len, at);
    if (e->kind == EXTENT_FLAT)
        return store_read(e->store, data, len, e->offset + at);
    memset(data, 0, len);
    return 0;
}

static int extent_write(struct extent *e, const void *data, size_t len, uint64_t at)
{
    if (e->sparse)
        return flat_write(&e->sparse->flat.image, data, len, at);
    return e->kind == EXTENT_FLAT ? store_write(e->store, data, len, e->offset + at) : -EROFS;
}

static int extent_zero(struct extent *e, uint64_t len, uint64_t at, unsigned flags)
{
    if (e->sparse)
        return flat_zero(&e->sparse->flat.image, at, len, flags);
    return e->kind == EXTENT_FLAT
               ? store_zero(e->store, e->offset + at, len, !(flags & IMAGE_UNMAP))
               : 0;
}

static int vmdk_read(struct image *image, void *data, size_t len, uint64_t offset)
{
    for (uint64_t part; len; len -= part, offset += part, data = (uint8_t *)data + part) {
        struct extent *e = extent_at(vmdk_of(image), offset);
        uint64_t at = offset - e->start;
        part = e->len - at < len ? e->len - at : len;
        int r = extent_read(e, data, part, at);
        if (r < 0)
            return r;
    }
    return 0;
}

static int vmdk_write(struct image *image, const void *data, size_t len, uint64_t offset)
{
    int r = vmdk_touch(vmdk_of(image));
    for (uint64_t part; r == 0 && len;
         len -= part, offset += part, data = (const uint8_t *)data + part) {
        struct extent *e = extent_at(vmdk_of(image), offset);
        uint64_t at = offset - e->start;
        part = e->len - at < len ? e->len - at : len;
        r = extent_write(e, data, part, at);
    }
    return r;
}

static int vmdk_zero(struct image *image, uint64_t offset, uint64_t len, unsigned flags)
{
    int r = vmdk_touch(vmdk_of(image));
    for (uint64_t part; r == 0 && len; len -= part, offset += part) {
        struct extent *e = extent_at(vmdk_of(image), offset);
        uint64_t at = offset - e->start;
        part = e->len - at < len ? e->len - at : len;
        r = extent_zero(e, part, at, flags);
    }
    return r;
}

static int vmdk_discard(struct image *image, uint64_t offset, uint64_t len)
{
    int r = vmdk_touch(vmdk_of(image));
    for (uint64_t part; r == 0 && len; len -= part, offset += part) {
        struct extent *e = extent_at(vmdk_of(image), offset);
        uint64_t at = offset - e->start;
        part = e->len - at < len ? e->len - at : len;
        if (e->sparse)
            r = flat_discard(&e->sparse->flat.image, at, part);
        else if (e->kind == EXTENT_FLAT)
            store_punch(e->store, e->offset + at, part);
    }
    return r;
}

static int vmdk_flush(struct image *image)
{
    struct vmdk *vmdk = vmdk_of(image);
    int r = 0;
    for (unsigned i = 0; i < vmdk->count; i++) {
        struct extent *e = &vmdk->extents[i];
        int one = e->sparse                                ? flat_flush(&e->sparse->flat.image)
                  : e->kind == EXTENT_FLAT && !e->borrowed ? store_flush(e->store)
                                                           : 0;
        r = r < 0 ? r : one;
    }
    return r;
}

static int vmdk_status(struct image *image, uint64_t offset, uint64_t len, struct image_extent *out)
{
    struct extent *e = extent_at(vmdk_of(image), offset);
    uint64_t at = offset - e->start;
    bool zero = true;
    len = e->len - at < len ? e->len - at : len;
    out->len = len;
    if (e->sparse)
        return flat_status(&e->sparse->flat.image, at, len, out);
    int r = e->kind == EXTENT_FLAT ? store_status(e->store, e->offset + at, &out->len, &zero) : 0;
    out->flags = IMAGE_ALLOCATED | (zero ? IMAGE_ZERO : 0);
    if (e->kind == EXTENT_FLAT) {
        out->flags |= IMAGE_HOST;
        out->host = e->offset + at;
    }
    return r;
}

/* A stream takes whole grains, packed. */
static int vmdk_write_compressed(struct image *image, const void *data, size_t len, uint64_t offset)
{
    struct vmdk *vmdk = vmdk_of(image);
    struct sparse *sparse = vmdk->extents[0].sparse;
    if (vmdk->count != 1 || !sparse || !sparse->stream)
        return -EOPNOTSUPP;
    return vmdk_stream_write(sparse, data, len, offset);
}

static int vmdk_check(struct image *image, struct image_check *check, struct err *err)
{
    struct vmdk *vmdk = vmdk_of(image);
    struct image_problem_count sum = { 0 };
    for (unsigned i = 0; i < vmdk->count; i++) {
        if (!vmdk->extents[i].sparse)
            continue;
        int r = flat_check(&vmdk->extents[i].sparse->flat.image, check, err);
        if (r < 0)
            return r;
        sum.clusters += check->count.clusters;
        sum.allocated += check->count.allocated;
        sum.corruptions += check->count.corruptions;
        sum.compressed += vmdk->extents[i].sparse->flat.read_packed ? check->count.allocated : 0;
        sum.end = check->count.end;
    }
    check->count = sum;
    return 0;
}

static int vmdk_info(struct image *image, json_t *into)
{
    const struct vmdk *vmdk = vmdk_of(image);
    json_t *list = json_array();
    for (unsigned i = 0; i < vmdk->count && vmdk->extents[i].name; i++)
        json_array_append_new(list, json_string(vmdk->extents[i].name));
    json_object_set_new(into, "create-type", json_string(vmdk->create_type));
    json_object_set_new(into, "cid", json_integer(vmdk->cid));
    json_object_set_new(into, "parent-cid", json_integer(vmdk->parent_cid));
    if (json_array_size(list))
        json_object_set(into, "extents", list);
    json_decref(list);
    return 0;
}

/* ---- around the image ---- */

/* Only asked for with one extent. */
static bool vmdk_direct_map(struct image *image, struct block_hold *hold, uint64_t offset,
                            uint64_t len, bool write, uint64_t *host)
{
    struct vmdk *vmdk = vmdk_of(image);
    struct extent *e = &vmdk->extents[0];
    if (write && !atomic_load(&vmdk->touched))
        return false;
    if (e->sparse)
        return flat_direct_map(&e->sparse->flat.image, hold, offset, len, write, host);
    *host = e->offset + offset;
    return e->kind == EXTENT_FLAT;
}

static bool vmdk_is_clean(struct image *image)
{
    struct vmdk *vmdk = vmdk_of(image);
    for (unsigned i = 0; i < vmdk->count; i++)
        if (vmdk->extents[i].sparse && !flat_is_clean(&vmdk->extents[i].sparse->flat.image))
            return false;
    return true;
}

const struct image_format image_vmdk = {
    .name = "vmdk",
    .about = "VMware's: one or more files, sparse or flat, or a packed stream; overlays",
    .options = vmdk_options,
    .struct_size = sizeof(struct vmdk),
    .can_back = true,
    .create = vmdk_create,
    .open = vmdk_open,
    .close = vmdk_close,
    .read = vmdk_read,
    .write = vmdk_write,
    .zero = vmdk_zero,
    .discard = vmdk_discard,
    .flush = vmdk_flush,
    .status = vmdk_status,
    .write_compressed = vmdk_write_compressed,
    .check = vmdk_check,
    .resize = vmdk_resize,
    .set_backing = vmdk_set_backing,
    .check_backing = vmdk_check_backing,
    .info = vmdk_info,
    .direct_map = vmdk_direct_map,
    .direct_done = flat_direct_done,
    .is_clean = vmdk_is_clean,
};
