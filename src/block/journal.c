/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/journal.h"

#include "base/log.h"
#include "base/loop.h"
#include "block/qcow2.h"

#include <string.h>
#include <sys/stat.h>

static const char prefix[] = "bedplate-job ";
enum { SAVE_EVERY_MS = 5000 };

void journal_init(struct journal *j, struct chain *chain, const char *kind, struct image *target)
{
    struct stat st = { 0 };
    *j = (struct journal){ .chain = chain, .target = target };
    if (target->store->fd >= 0 && fstat(target->store->fd, &st) < 0)
        return;
    size_t len = (size_t)snprintf(j->name, sizeof j->name, "%s%s %s#%llu", prefix, kind,
                                  target->path, (unsigned long long)st.st_ino);
    if (len < sizeof j->name && qcow2_keeps_bitmaps(chain->top))
        j->top = chain->top;
}

bool journal_found(const struct journal *j)
{
    return j->top && qcow2_bitmap_is_good(j->top, j->name);
}

int journal_load(const struct journal *j, struct granules *todo, struct err *err)
{
    struct bitmap_bits bits;
    int r = qcow2_bitmap_read(j->top, j->name, &bits, err);
    if (r < 0)
        return r;
    for (uint64_t n = 0; n < bits.count; n++)
        if (bits.data[n / 8] >> (n % 8) & 1) {
            uint64_t at = n << bits.granularity_bits, len = 1ull << bits.granularity_bits;
            granules_add(todo, at, len < todo->size - at ? len : todo->size - at);
        }
    free(bits.data);
    return 0;
}

static void journal_remove(struct image *top, const char *name)
{
    struct err err = { 0 };
    if (qcow2_bitmap_remove(top, name, &err) < 0)
        log_warning("%s: bitmap %s: %s", top->path, name, err.text);
}

static void journal_clear_but(struct image *top, const char *kept)
{
    if (!qcow2_keeps_bitmaps(top))
        return;
    const char *name;
    for (unsigned n = 0; (name = qcow2_bitmap_name(top, n));) {
        if (strncmp(name, prefix, sizeof prefix - 1) != 0 || (kept && !strcmp(name, kept))) {
            n++;
            continue;
        }
        AUTO(free) char *gone = strdup(name);
        if (!gone)
            abort();
        journal_remove(top, gone);
        if (qcow2_bitmap_name(top, n) == name)
            n++; /* it could not be removed */
    }
}

void journal_clear(struct chain *chain) { journal_clear_but(chain->top, NULL); }

/* Without a journal the job only has to begin anew. */
static void journal_give_up(struct journal *j, const struct err *err)
{
    log_warning("%s: cannot keep where the job is, so it could not be resumed: %s", j->top->path,
                err->text);
    j->top = NULL;
}

static void journal_mark(void *arg, uint64_t offset, uint64_t len)
{
    const struct journal *j = arg;
    qcow2_bitmap_mark(j->top, j->name, offset, len);
}

static int journal_write(struct journal *j, struct granules *todo, struct granules *also,
                         struct err *err)
{
    qcow2_bitmap_clear(j->top, j->name);
    granules_each(todo, journal_mark, j);
    if (also)
        granules_each(also, journal_mark, j);
    uint64_t every_ms = j->chain->save_every_ms ? j->chain->save_every_ms : SAVE_EVERY_MS;
    j->due_ns = monotonic_ns() + every_ms * 1000000;
    return qcow2_bitmaps_checkpoint(j->top, err);
}

void journal_start(struct journal *j, struct granules *todo, struct granules *also)
{
    struct err err = { 0 };
    if (!j->top)
        return;
    journal_clear_but(j->top, NULL);
    int r = todo->unit > 1u << 31 ? err_set(&err, EFBIG, "the disk is too large")
                                  : qcow2_bitmap_add(j->top, j->name, (uint32_t)todo->unit, &err);
    if (r == 0)
        r = journal_write(j, todo, also, &err);
    if (r < 0)
        journal_give_up(j, &err);
}

void journal_point(struct journal *j, struct granules *todo, struct granules *also)
{
    struct err err = { 0 };
    if (!j->top || monotonic_ns() < j->due_ns)
        return;
    int r = image_flush(j->target); /* mostly before the guest has to wait */
    chain_hold(j->chain);
    if (r == 0)
        r = image_flush(j->target);
    r = r < 0 ? err_errno(&err, -r, "%s", j->target->path) : journal_write(j, todo, also, &err);
    if (r < 0) {
        journal_remove(j->top, j->name);
        journal_give_up(j, &err);
    }
    chain_release(j->chain);
}

void journal_end(struct journal *j)
{
    if (j->top)
        journal_remove(j->top, j->name);
    j->top = NULL;
}
