/* SPDX-License-Identifier: GPL-2.0-or-later */
/* VMDK: new images of each subformat, and the name of a parent (vmdk.h). */
#include "block/vmdk.h"

#include "base/checked.h"
#include "base/text.h"
#include "block/bytes.h"

#include <inttypes.h>
#include <string.h>
#include <sys/random.h>

#define PART_SIZE (2ull << 30) /* of twoGbMaxExtent* */
#define STREAM_MAX (FLAT_MAX_BLOCKS * GRAIN * VMDK_SECTOR)

struct subformat {
    const char *name, *suffix; /* of extents' names; NULL: the image's own file */
    bool flat, split, stream;
};
static const struct subformat subformats[] = {
    { "monolithicSparse", NULL, false, false, false },
    { "monolithicFlat", "flat", true, false, false },
    { "twoGbMaxExtentSparse", "s", false, true, false },
    { "twoGbMaxExtentFlat", "f", true, true, false },
    { "streamOptimized", NULL, false, false, true },
};

struct plan {
    const struct subformat *kind;
    uint64_t size;
    bool zero_grains;
    char adapter[16], hardware[8], tools[16];
    uint32_t cid, parent_cid;
    struct buf text;
};

/* ---- options ---- */

static int plan_flag(const struct image_create *create, const char *name, bool *out,
                     struct err *err)
{
    char value[8] = "off";
    image_option_get(create->options, name, value, sizeof value);
    *out = !strcmp(value, "on");
    return *out || !strcmp(value, "off")
               ? 0
               : err_set(err, EINVAL, "%s=%s: there is on and off", name, value);
}

static int plan_kind(const struct image_create *create, struct plan *p, struct err *err)
{
    char kind[32] = "monolithicSparse", list[160] = "";
    image_option_get(create->options, "subformat", kind, sizeof kind);
    for (unsigned i = 0; i < ARRAY_LEN(subformats); i++) {
        if (!strcmp(subformats[i].name, kind))
            p->kind = &subformats[i];
        size_t at = strlen(list);
        snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", subformats[i].name);
    }
    if (!p->kind)
        return err_set(err, EINVAL, "subformat=%s: there is %s", kind, list);
    if (create->backing && (p->kind->flat || p->kind->stream))
        return err_set(err, EINVAL, "subformat=%s has no backing file; use monolithicSparse", kind);
    uint64_t most = p->kind->stream   ? STREAM_MAX
                    : p->kind->suffix ? VMDK_FLAT_MAX
                                      : VMDK_SPARSE_MAX;
    if (create->size % VMDK_SECTOR || create->size > most)
        return err_set(err, EFBIG,
                       "subformat=%s has at most %llu GiB, in sectors of 512 bytes; use another "
                       "subformat, or qcow2",
                       kind, (unsigned long long)most >> 30);
    return 0;
}

static int plan_make(const struct image_create *create, struct plan *p, struct err *err)
{
    static const char *const adapters[] = { "ide", "buslogic", "lsilogic", "legacyESX" };
    bool compat6 = false;
    *p = (struct plan){ .size = create->size, .parent_cid = VMDK_NO_PARENT };
    strcpy(p->adapter, "ide");
    image_option_get(create->options, "adapter_type", p->adapter, sizeof p->adapter);
    image_option_get(create->options, "toolsversion", p->tools, sizeof p->tools);
    int r = plan_kind(create, p, err);
    if (r == 0)
        r = plan_flag(create, "zeroed_grain", &p->zero_grains, err);
    if (r == 0)
        r = plan_flag(create, "compat6", &compat6, err);
    if (r < 0)
        return r;
    strcpy(p->hardware, compat6 ? "6" : "4");
    image_option_get(create->options, "hwversion", p->hardware, sizeof p->hardware);
    unsigned i = 0;
    while (i < ARRAY_LEN(adapters) && strcmp(adapters[i], p->adapter))
        i++;
    if (i == ARRAY_LEN(adapters))
        return err_set(err, EINVAL,
                       "adapter_type=%s: there is ide, buslogic, lsilogic and legacyESX",
                       p->adapter);
    if (strpbrk(p->hardware, "\"\n\r") || strpbrk(p->tools, "\"\n\r"))
        return err_set(err, EINVAL, "hwversion and toolsversion are numbers");
    if (getrandom(&p->cid, sizeof p->cid, 0) != sizeof p->cid)
        return err_set(err, EIO, "the host gives no random numbers");
    p->cid &= ~1u; /* never all ones */
    return 0;
}

/* The content id of the image that shall be the parent. */
static int parent_cid(const char *path, const char *name, uint32_t *out, struct err *err)
{
    AUTO(free) char *full = image_child_path(path, name);
    if (!full)
        return err_set(err, ENOMEM, "out of memory");
    if (strpbrk(name, "\"\n\r") || strlen(name) > 1000)
        return err_set(err, EINVAL,
                       "its backing file's name is too long for a VMDK, or has quotes");
    struct image_options options = {
        .path = full, .format = "vmdk", .readonly = true, .no_backing = true
    };
    AUTO(image_drop) struct image *parent = NULL;
    int r = image_open(&options, &parent, err);
    if (r < 0)
        return err_prefix(err, "backing file");
    *out = vmdk_of(parent)->cid;
    return 0;
}

/* ---- extents ---- */

/* A directory at `sector`, for tables (zeros, so not written) right behind it; *end is the sector
 * behind those. */
static int write_directory(struct store *store, uint64_t sector, uint64_t tables, uint64_t *end)
{
    uint64_t first = sector + (tables * 4 + VMDK_SECTOR - 1) / VMDK_SECTOR;
    AUTO(free) uint8_t *directory = calloc(tables + 1, 4);
    if (!directory)
        return -ENOMEM;
    for (uint64_t i = 0; i < tables; i++)
        set_le32(directory + i * 4, (uint32_t)(first + i * (PER_TABLE * 4 / VMDK_SECTOR)));
    *end = first + tables * (PER_TABLE * 4 / VMDK_SECTOR);
    return store_write(store, directory, tables * 4, sector * VMDK_SECTOR);
}

static void put_header(const struct plan *p, uint8_t *h, uint64_t capacity)
{
    memcpy(h, "KDMV", 4);
    set_le32(h + VMDK_VERSION, p->kind->stream ? 3 : p->zero_grains ? 2 : 1);
    set_le32(h + VMDK_FLAGS, FLAG_NEWLINES | (p->zero_grains ? FLAG_ZERO_GRAINS : 0) |
                                 (p->kind->stream ? FLAG_PACKED | FLAG_MARKERS : FLAG_SPARE));
    set_le64(h + VMDK_CAPACITY, capacity);
    set_le64(h + VMDK_GRAIN, GRAIN);
    set_le32(h + VMDK_PER_TABLE, PER_TABLE);
    memcpy(h + VMDK_NEWLINES, "\n \r\n", 4);
    set_le16(h + VMDK_COMPRESSION, p->kind->stream);
}

/* `text`: a descriptor to embed, or NULL. */
static int write_sparse(const struct plan *p, uint64_t size, const struct buf *text,
                        struct store *store)
{
    uint64_t capacity = size / VMDK_SECTOR, grains = capacity / GRAIN + !!(capacity % GRAIN);
    uint64_t tables = grains / PER_TABLE + !!(grains % PER_TABLE);
    uint64_t spare = 1 + (text ? DESCRIPTOR_SECTORS : 0), directory = 0, end = GRAIN;
    uint8_t header[VMDK_HEADER] = { 0 };
    int r = 0;
    put_header(p, header, capacity);
    if (p->kind->stream) {
        set_le64(header + VMDK_DIRECTORY, DIRECTORY_AT_END);
    } else {
        r = write_directory(store, spare, tables, &directory);
        if (r == 0)
            r = write_directory(store, directory, tables, &end);
        set_le64(header + VMDK_SPARE_DIRECTORY, spare);
        set_le64(header + VMDK_DIRECTORY, directory);
    }
    end = round_up(end, GRAIN);
    set_le64(header + VMDK_OVERHEAD, end);
    if (text) {
        set_le64(header + VMDK_DESCRIPTOR, 1);
        set_le64(header + VMDK_DESCRIPTOR_LEN, DESCRIPTOR_SECTORS);
    }
    if (r == 0 && text)
        r = store_write(store, text->data, text->len, VMDK_SECTOR);
    if (r == 0)
        r = store_truncate(store, end * VMDK_SECTOR);
    return r < 0 ? r : store_write(store, header, sizeof header, 0);
}

static void text_start(struct plan *p, const char *backing)
{
    buf_printf(&p->text, "# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=%08x\n", p->cid,
               p->parent_cid);
    buf_printf(&p->text, "createType=\"%s\"\n", p->kind->name);
    if (backing)
        buf_printf(&p->text, "parentFileNameHint=\"%s\"\n", backing);
    buf_printf(&p->text, "\n# Extent description\n");
}

static void text_end(struct plan *p)
{
    bool ide = !strcmp(p->adapter, "ide");
    uint64_t heads = ide ? 16 : 255, cylinders = p->size / VMDK_SECTOR / (63 * heads);
    buf_printf(&p->text, "\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"%s\"\n",
               p->hardware);
    buf_printf(&p->text,
               "ddb.geometry.cylinders = \"%" PRIu64 "\"\nddb.geometry.heads = \"%" PRIu64
               "\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"%s\"\n",
               cylinders, heads, p->adapter);
    if (p->tools[0])
        buf_printf(&p->text, "ddb.toolsVersion = \"%s\"\n", p->tools);
}

/* "disk-s001.vmdk" for disk.vmdk */
static char *part_name(const struct plan *p, const char *path, unsigned number)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    const char *dot = strrchr(base, '.');
    int len = (int)(dot ? (size_t)(dot - base) : strlen(base));
    char *name;
    int r = p->kind->split ? asprintf(&name, "%.*s-%s%03u.vmdk", len, base, p->kind->suffix, number)
                           : asprintf(&name, "%.*s-%s.vmdk", len, base, p->kind->suffix);
    return r < 0 ? NULL : name;
}

static int write_part(struct plan *p, const struct image_create *create, unsigned number,
                      uint64_t size, struct err *err)
{
    AUTO(free) char *name = part_name(p, create->path, number);
    AUTO(store_close) struct store *store = NULL;
    if (!name)
        return err_set(err, ENOMEM, "out of memory");
    if (strpbrk(name, "\"\n\r"))
        return err_set(err, EINVAL, "a VMDK with extents cannot have quotes in its name");
    int r = image_create_part(create, name, &store, err);
    if (r < 0)
        return err_prefix(err, "extent");
    r = p->kind->flat ? store_truncate(store, size) : write_sparse(p, size, NULL, store);
    if (r == 0)
        r = store_flush(store);
    if (r < 0)
        return err_errno(err, -r, "extent %s: cannot write", name);
    buf_printf(&p->text, "RW %" PRIu64 " %s \"%s\"%s\n", size / VMDK_SECTOR,
               p->kind->flat ? "FLAT" : "SPARSE", name, p->kind->flat ? " 0" : "");
    return 0;
}

static int write_parts(struct plan *p, const struct image_create *create, struct err *err)
{
    uint64_t part = p->kind->split ? PART_SIZE : p->size, at = 0;
    unsigned number = 1;
    int r = 0;
    if (!p->size)
        return err_set(err, EINVAL, "subformat=%s cannot be empty", p->kind->name);
    for (; r == 0 && at < p->size; at += part, number++)
        r = write_part(p, create, number, p->size - at < part ? p->size - at : part, err);
    return r;
}

int vmdk_create(const struct image_create *create, struct store *store, struct err *err)
{
    struct plan plan;
    int r = plan_make(create, &plan, err);
    if (r == 0 && create->backing)
        r = parent_cid(create->path, create->backing, &plan.parent_cid, err);
    if (r < 0)
        return r;
    text_start(&plan, create->backing);
    if (plan.kind->suffix) {
        r = write_parts(&plan, create, err);
    } else {
        const char *slash = strrchr(create->path, '/');
        buf_printf(&plan.text, "RW %" PRIu64 " SPARSE \"%s\"\n", plan.size / VMDK_SECTOR,
                   slash ? slash + 1 : create->path);
    }
    text_end(&plan);
    if (r == 0) {
        r = plan.kind->suffix ? store_write(store, plan.text.data, plan.text.len, 0)
            : plan.text.len > DESCRIPTOR_SECTORS * VMDK_SECTOR
                ? -ENAMETOOLONG
                : write_sparse(&plan, plan.size, &plan.text, store);
        if (r < 0)
            err_errno(err, -r, "cannot write");
    }
    buf_fini(&plan.text);
    return r;
}

/* ---- naming a parent ---- */

/* The descriptor without its lines about the parent, with new ones behind "version". */
static void text_rename(const char *text, const char *backing, uint32_t cid, struct buf *out)
{
    for (const char *p = text; *p;) {
        size_t len = strcspn(p, "\n");
        const char *word = p + strspn(p, " \t");
        bool gone =
            !strncasecmp(word, "parentCID", 9) || !strncasecmp(word, "parentFileNameHint", 18);
        if (!gone) {
            buf_add(out, p, len);
            buf_add(out, "\n", 1);
        }
        if (!strncasecmp(word, "CID", 3)) {
            buf_printf(out, "parentCID=%08x\n", cid);
            if (backing)
                buf_printf(out, "parentFileNameHint=\"%s\"\n", backing);
        }
        p += len + (p[len] == '\n');
    }
}

/* The header, one sector, says where the descriptor is. */
static int point_header(struct vmdk *vmdk, uint64_t at, uint64_t len)
{
    struct sparse *sparse = vmdk->extents[0].sparse;
    set_le64(sparse->header + VMDK_DESCRIPTOR, at / VMDK_SECTOR);
    set_le64(sparse->header + VMDK_DESCRIPTOR_LEN, len / VMDK_SECTOR);
    int r = store_flush(vmdk->image.store);
    if (r == 0)
        r = store_write(vmdk->image.store, sparse->header, VMDK_HEADER, 0);
    return r < 0 ? r : store_flush(vmdk->image.store);
}

/* Other programs look for the descriptor in its old place only, which takes more than one sector;
 * so while that is written, the header points to a copy at the file's end. */
int vmdk_replace_descriptor(struct vmdk *vmdk, const struct buf *text)
{
    struct flat *flat = &vmdk->extents[0].sparse->flat;
    struct store *store = vmdk->image.store;
    uint64_t copy = flat->end;
    int r = flat_flush(&flat->image);
    if (r < 0)
        return r;
    flat->end = round_up(copy + text->len, flat->block_size); /* no grain goes over half a copy */
    r = store_write(store, text->data, text->len, copy);
    if (r == 0)
        r = point_header(vmdk, copy, text->len);
    if (r < 0)
        return r;
    r = store_write(store, text->data, text->len, vmdk->text_at);
    return r < 0 ? r : point_header(vmdk, vmdk->text_at, text->len);
}

int vmdk_set_backing(struct image *image, const char *backing, const char *format, struct err *err)
{
    struct vmdk *vmdk = vmdk_of(image);
    struct sparse *sparse = vmdk->count == 1 ? vmdk->extents[0].sparse : NULL;
    if (!sparse || vmdk->extents[0].name || sparse->flat.read_packed)
        return err_set(err, ENOTSUP,
                       "only a monolithicSparse VMDK can change its backing file; convert it");
    if (backing && strcmp(format, "vmdk"))
        return err_set(err, ENOTSUP, "a VMDK can only have a VMDK below it; convert it");
    uint32_t cid = VMDK_NO_PARENT;
    int r = backing ? parent_cid(image->path, backing, &cid, err) : 0;
    if (r < 0)
        return r;
    AUTO(buf_fini) struct buf text = { 0 };
    text_rename(vmdk->text, backing, cid, &text);
    if (text.len >= vmdk->text_len)
        return err_set(err, ENAMETOOLONG, "its descriptor has no room for that name");
    buf_grow(&text, vmdk->text_len - text.len);
    r = vmdk_replace_descriptor(vmdk, &text);
    if (r < 0)
        return err_errno(err, -r, "cannot write its descriptor");
    free(vmdk->text);
    vmdk->text = (char *)TAKE(text.data); /* ends with zeros */
    return 0;
}

const struct image_option vmdk_options[] = {
    { "subformat", "monolithicSparse, monolithicFlat, twoGbMaxExtentSparse, twoGbMaxExtentFlat or "
                   "streamOptimized" },
    { "zeroed_grain", "on: zeros over a backing file take no space (off)" },
    { "adapter_type", "ide, buslogic, lsilogic or legacyESX (ide); only recorded" },
    { "hwversion", "of the virtual hardware (4); only recorded" },
    { "compat6", "on: hwversion=6" },
    { "toolsversion", "of VMware's tools; only recorded" },
    { NULL },
};
