/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/chain.h"

#include <string.h>

void chain_unset_view(struct chain *chain) { chain->view = chain->rest ? chain->rest : chain->top; }

void chain_set_top(struct chain *chain, struct image *take_new)
{
    chain->top = chain->view = take_new;
    if (chain->changed)
        chain->changed(chain);
}

void chain_resized(struct chain *chain)
{
    if (chain->changed)
        chain->changed(chain);
}

int chain_depth(const struct chain *chain, const struct image *layer)
{
    int depth = 0;
    for (const struct image *i = chain->top; i; i = i->backing, depth++)
        if (i == layer)
            return depth;
    return -1;
}

struct image *chain_find(const struct chain *chain, const char *name)
{
    for (struct image *above = chain->top; above->backing; above = above->backing) {
        const char *recorded = image_backing_name(above);
        if (!strcmp(image_path(above->backing), name) || (recorded && !strcmp(recorded, name)))
            return above->backing;
    }
    return NULL;
}

char *chain_name_for(const char *path, const char *of, struct err *err)
{
    const char *path_slash = strrchr(path, '/'), *of_slash = strrchr(of, '/');
    size_t path_dir = path_slash ? (size_t)(path_slash + 1 - path) : 0;
    size_t of_dir = of_slash ? (size_t)(of_slash + 1 - of) : 0;
    char *name = NULL;
    if (path_dir == of_dir && !strncmp(path, of, of_dir))
        name = strdup(of + of_dir);
    else if (of[0] == '/')
        name = strdup(of);
    else {
        err_set(err, EINVAL,
                "%s is not an absolute path, so what %s has to call it is unknown; say so with "
                "'backing'",
                of, path);
        return NULL;
    }
    if (!name)
        err_set(err, ENOMEM, "out of memory");
    return name;
}

/* Takes the layers between `above` and `base` (which may be NULL) out of the chain. Held. */
static struct image *chain_cut(struct image *above, struct image *base)
{
    struct image *gone = above->backing, *last = gone;
    if (gone == base)
        return NULL;
    while (last->backing != base)
        last = last->backing;
    last->backing = NULL;
    above->backing = base;
    return gone;
}

int chain_skip(struct image *above, struct image *base, struct image **gone, struct err *err)
{
    AUTO(free) char *name = NULL;
    if (base && !(name = chain_name_for(above->path, base->path, err)))
        return -err->code;
    int r = image_set_backing(above, name, base ? image_format_name(base) : NULL, err);
    if (r == 0)
        *gone = chain_cut(above, base);
    return r;
}
