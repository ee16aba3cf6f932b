/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rebase: the top gets another image below it and reads the same as before. Clusters that the top
 * does not have, and that the two images below show differently, are copied into it, then the new
 * one is recorded. Until that moment the old chain is whole; begun again it skips what was copied.
 */
#include "block/journal.h"
#include "block/operations.h"
#include "block/populate.h"

#include "base/text.h"

#include <string.h>
#include <sys/stat.h>

struct rebase {
    struct populate populate; /* its tap orders the guest's writes and our copies */
    struct image *base;       /* NULL: none */
    uint8_t *old_data, *new_data;
};

/* What the new image below has there; zeros behind its end. */
static int rebase_read_new(struct rebase *re, uint64_t offset, uint64_t len)
{
    uint64_t have = 0;
    if (re->base && offset < re->base->size)
        have = re->base->size - offset < len ? re->base->size - offset : len;
    memset(re->new_data + have, 0, len - have);
    return have ? image_read(re->base, re->new_data, have, offset) : 0;
}

/* One run of one kind that the top does not have. */
static int rebase_run(struct rebase *re, uint64_t offset, uint64_t len)
{
    struct image *top = re->populate.tap.below;
    struct image_extent old, new = { .flags = IMAGE_ZERO, .len = len };
    uint64_t unit = top->cluster_size;
    unsigned depth;
    int r = image_map(top, offset, len, &old, &depth);
    if (r == 0 && re->base && offset < re->base->size)
        r = image_map(re->base, offset,
                      re->base->size - offset < len ? re->base->size - offset : len, &new, &depth);
    if (r < 0 || ((old.flags & new.flags &IMAGE_ZERO) && old.len == len && new.len == len))
        return r;
    r = image_read(top, re->old_data, len, offset);
    if (r == 0)
        r = rebase_read_new(re, offset, len);
    for (uint64_t at = 0, part; r == 0 && at < len; at += part) {
        part = unit - (offset + at) % unit;
        part = part < len - at ? part : len - at;
        uint8_t *data = re->old_data + at;
        if (memcmp(data, re->new_data + at, part) != 0)
            r = populate_write(top, memory_is_zero(data, part), offset + at, part, data);
    }
    return r;
}

static int rebase_range(struct rebase *re, uint64_t offset, uint64_t len)
{
    struct populate *p = &re->populate;
    struct range range;
    int r = 0;
    ranges_take(&p->ranges, &range, offset, len, true);
    for (uint64_t end = offset + len; r == 0 && offset < end;) {
        struct image_extent own;
        r = image_status(p->tap.below, offset, end - offset, &own);
        if (r == 0 && !(own.flags & IMAGE_ALLOCATED))
            r = rebase_run(re, offset, own.len);
        offset += own.len;
    }
    ranges_drop(&p->ranges, &range);
    return r;
}

static int rebase_copy(struct rebase *re, struct job *job, struct err *err)
{
    uint64_t size = re->populate.tap.image.size;
    int r = 0;
    job_stage(job, "copying", size);
    for (uint64_t at = 0, part; r == 0 && at < size; at += part) {
        part = size - at < COPY_PIECE ? size - at : COPY_PIECE;
        r = rebase_range(re, at, part);
        if (r == 0)
            r = job_point(job, part);
    }
    return r < 0 ? err_errno(err, -r, "%s: cannot rebase", re->populate.tap.image.path) : 0;
}

static int rebase_check(const struct image *top, const struct rebase_options *o, struct err *err)
{
    struct stat own, st;
    if (!top->format->set_backing || !top->cluster_size)
        return err_set(err, ENOTSUP, "%s: format %s cannot have a backing file", top->path,
                       top->format->name);
    if (top->store->fd < 0 || fstat(top->store->fd, &own) < 0)
        return 0;
    for (const struct image *layer = o->take_base; layer; layer = layer->backing)
        if (layer->store->fd >= 0 && fstat(layer->store->fd, &st) == 0 && st.st_dev == own.st_dev &&
            st.st_ino == own.st_ino)
            return err_set(err, ELOOP, "%s: would be its own backing file; give another",
                           layer->path);
    return 0;
}

static int rebase_safely(struct rebase *re, struct job *job, struct chain *chain, struct err *err)
{
    AUTO(free) uint8_t *old_data = malloc(COPY_PIECE), *new_data = malloc(COPY_PIECE);
    if (!old_data || !new_data)
        return err_set(err, ENOMEM, "out of memory");
    re->old_data = old_data;
    re->new_data = new_data;
    chain_hold(chain);
    journal_clear(chain);
    chain->view = &re->populate.tap.image;
    chain_release(chain);
    return rebase_copy(re, job, err);
}

int chain_rebase(struct job *job, struct chain *chain, const struct rebase_options *options,
                 struct err *err)
{
    struct image *top = chain->top, *gone = options->take_base;
    struct rebase re = { .base = options->take_base };
    int r = rebase_check(top, options, err);
    if (r < 0) {
        image_close(gone);
        return r;
    }
    populate_init(&re.populate, top, 0, false, false);
    if (!options->unsafe)
        r = rebase_safely(&re, job, chain, err);
    chain_hold(chain);
    chain_unset_view(chain);
    const char *format = options->format || !re.base ? options->format : image_format_name(re.base);
    if (r == 0) /* flushes the data first */
        r = image_set_backing(top, options->name, format, err);
    if (r == 0) {
        gone = top->backing;
        top->backing = re.base;
    }
    chain_release(chain);
    populate_fini(&re.populate);
    image_close(gone);
    return r;
}
