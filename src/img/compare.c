/* SPDX-License-Identifier: GPL-2.0-or-later */
/* compare and dd: two images side by side, and a part of one into a file. */
#include "img/img.h"

#include "base/checked.h"
#include "base/text.h"

#include <inttypes.h>
#include <string.h>

enum { CHUNK = 2 << 20, DD_BLOCK = 512 };

/* ---- compare ---- */

struct compare {
    struct image *a, *b;
    uint8_t *data_a, *data_b;
    const char *failed;
};

/* How long from `at` do both know to be zero? */
static int both_zero(struct compare *c, uint64_t at, uint64_t len, uint64_t *out)
{
    struct image_extent a, b;
    unsigned depth;
    c->failed = image_path(c->a);
    int r = image_map(c->a, at, len, &a, &depth);
    if (r < 0)
        return r;
    c->failed = image_path(c->b);
    r = image_map(c->b, at, len, &b, &depth);
    *out = (a.flags & b.flags & IMAGE_ZERO) ? (a.len < b.len ? a.len : b.len) : 0;
    return r;
}

/* 0: the same; 1: *at differs. */
static int compare_common(struct compare *c, struct progress *p, uint64_t size, uint64_t *at)
{
    while (*at < size) {
        uint64_t zero;
        progress_set(p, *at);
        int r = both_zero(c, *at, size - *at, &zero);
        if (r < 0)
            return r;
        *at += zero;
        if (zero)
            continue;
        uint64_t len = size - *at < CHUNK ? size - *at : CHUNK;
        c->failed = image_path(c->a);
        r = image_read(c->a, c->data_a, len, *at);
        if (r == 0) {
            c->failed = image_path(c->b);
            r = image_read(c->b, c->data_b, len, *at);
        }
        if (r < 0)
            return r;
        if (memcmp(c->data_a, c->data_b, len)) {
            for (uint64_t i = 0; c->data_a[i] == c->data_b[i]; i++)
                (*at)++;
            return 1;
        }
        *at += len;
    }
    return 0;
}

/* The rest of the longer image must be zero. */
static int compare_tail(struct compare *c, struct image *longer, uint64_t *at)
{
    c->failed = image_path(longer);
    while (*at < image_size(longer)) {
        struct image_extent e;
        unsigned depth;
        uint64_t len = image_size(longer) - *at;
        int r = image_map(longer, *at, len < CHUNK ? len : CHUNK, &e, &depth);
        if (r == 0 && !(e.flags & IMAGE_ZERO))
            r = image_read(longer, c->data_a, e.len, *at);
        if (r < 0)
            return r;
        for (uint64_t i = 0; !(e.flags & IMAGE_ZERO) && i < e.len; i++)
            if (c->data_a[i]) {
                *at += i;
                return 1;
            }
        *at += e.len;
    }
    return 0;
}

static int compare_run(struct call *call, struct compare *c)
{
    uint64_t size_a = image_size(c->a), size_b = image_size(c->b), at = 0;
    bool quiet = call_quiet(call);
    if (size_a != size_b && call_flag(call, "strict")) {
        if (!quiet)
            printf("The sizes differ: %" PRIu64 " and %" PRIu64 " bytes.\n", size_a, size_b);
        return 1;
    }
    c->data_a = malloc(CHUNK);
    c->data_b = malloc(CHUNK);
    if (!c->data_a || !c->data_b)
        return err_set(&call->err, ENOMEM, "out of memory");
    struct progress progress;
    progress_start(&progress, call, size_a < size_b ? size_a : size_b);
    int r = compare_common(c, &progress, size_a < size_b ? size_a : size_b, &at);
    if (r == 0 && size_a != size_b)
        r = compare_tail(c, size_a > size_b ? c->a : c->b, &at);
    if (r < 0)
        return err_errno(&call->err, -r, "%s: cannot read at offset %" PRIu64, c->failed, at);
    progress_end(&progress);
    if (r)
        printf("Content mismatch at offset %" PRIu64 "!\n", at);
    else if (!quiet)
        printf("Images are identical.%s\n",
               size_a != size_b ? " (the longer one ends in zeros)" : "");
    return r;
}

int img_compare(struct call *call)
{
    struct compare c = { 0 };
    int r = call_open(call, call->args[0], call_flag(call, "format"), false, &c.a);
    if (r == 0)
        r = call_open(call, call->args[1], call_flag(call, "second-format"), false, &c.b);
    if (r == 0)
        r = compare_run(call, &c);
    free(c.data_a);
    free(c.data_b);
    image_close(c.a);
    image_close(c.b);
    return r;
}

/* ---- dd ---- */

struct dd {
    const char *in, *out;
    uint64_t block, count, skip;
    bool counted;
};

static int dd_parse(struct call *call, struct dd *dd)
{
    *dd = (struct dd){ .block = DD_BLOCK };
    for (unsigned i = 0; i < call->count; i++) {
        const char *arg = call->args[i], *value = strchr(arg, '=');
        int r = 0;
        value = value ? value + 1 : "";
        if (!strncmp(arg, "if=", 3))
            dd->in = value;
        else if (!strncmp(arg, "of=", 3))
            dd->out = value;
        else if (!strncmp(arg, "bs=", 3))
            r = size_parse(value, 1, &dd->block, &call->err);
        else if (!strncmp(arg, "count=", 6))
            r = number_parse(value, 0, INT64_MAX, &dd->count, &call->err);
        else if (!strncmp(arg, "skip=", 5))
            r = number_parse(value, 0, INT64_MAX, &dd->skip, &call->err);
        else
            return err_set(&call->err, EINVAL, "dd: there is if=, of=, bs=, count=, skip=, not %s",
                           arg);
        if (r < 0)
            return err_prefix(&call->err, "%s", arg);
        dd->counted |= !strncmp(arg, "count=", 6);
    }
    if (!dd->in || !dd->out)
        return err_set(&call->err, EINVAL, "dd needs: if=FILE of=FILE");
    if (!dd->block || dd->block > INT32_MAX)
        return err_set(&call->err, EINVAL, "bs is from 1 to 2G");
    return 0;
}

static int dd_copy(struct call *call, struct image *in, struct image *out, uint64_t from,
                   uint64_t len)
{
    AUTO(free) uint8_t *data = malloc(CHUNK);
    int r = data ? 0 : -ENOMEM;
    for (uint64_t at = 0; r == 0 && at < len; at += CHUNK) {
        uint64_t part = len - at < CHUNK ? len - at : CHUNK;
        r = image_read(in, data, part, from + at);
        if (r < 0)
            return err_errno(&call->err, -r, "%s: cannot read", image_path(in));
        if (!memory_is_zero(data, part))
            r = image_write(out, data, part, at);
    }
    if (r == 0)
        r = image_flush(out);
    return r < 0 ? err_errno(&call->err, -r, "%s: cannot write", image_path(out)) : 0;
}

int img_dd(struct call *call)
{
    struct dd dd;
    int r = dd_parse(call, &dd);
    AUTO(image_drop) struct image *in = NULL;
    if (r == 0)
        r = call_open(call, dd.in, call_flag(call, "format"), false, &in);
    if (r < 0)
        return r;
    uint64_t size = image_size(in), from, len;
    if (!mul_u64(dd.skip, dd.block, &from) || from > size)
        from = size;
    if (!dd.counted || !mul_u64(dd.count, dd.block, &len) || len > size - from)
        len = size - from;
    struct image_create create = { .path = dd.out,
                                   .format = call_flag(call, "target-format"),
                                   .size = len };
    if (!create.format)
        create.format = "raw";
    if (strcmp(create.format, "raw"))
        create.size = round_up(len, 512);
    r = call_new_secret(call, NULL, &create.secret);
    if (r == 0)
        r = image_create(&create, &call->err);
    struct image *out;
    if (r == 0)
        r = call_open(call, dd.out, create.format, true, &out);
    if (r < 0)
        return r;
    r = dd_copy(call, in, out, from, len);
    int closed = image_close(out);
    return r < 0 ? r : closed;
}
