/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The trace of executed blocks and the map for perf.
 *
 * A block's first line in the trace lists its instructions: bytes and name as the table has them. A
 * run is one line: vCPU, rip, key (CODE_* of code_block.h), T translated or I interpreted.
 */
#include "engine/soft/trace.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "engine/soft/run.h"
#include "machine/machine.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SEEN = 1 << 14 };

struct trace {
    pthread_mutex_t lock;
    FILE *blocks, *perf; /* or NULL; lock */
    uint64_t seen[SEEN]; /* keys of blocks listed lately; lock */
};

static FILE *file_open(const char *path, struct err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    if (!f)
        err_errno(err, errno, "%s", path);
    if (!f)
        fd_close(fd);
    return f;
}

int trace_create(const char *path, bool perf, struct trace **out, struct err *err)
{
    if (!path && !perf)
        return 0;
    struct trace *t = calloc(1, sizeof *t);
    if (!t)
        return err_set(err, ENOMEM, "out of memory");
    pthread_mutex_init(&t->lock, NULL);
    char map[40];
    snprintf(map, sizeof map, "/tmp/perf-%d.map", (int)getpid());
    if (path)
        t->blocks = file_open(path, err);
    if (perf)
        t->perf = file_open(map, err);
    if ((path && !t->blocks) || (perf && !t->perf)) {
        trace_destroy(t);
        return -err->code;
    }
    *out = t;
    return 0;
}

void trace_destroy(struct trace *t)
{
    if (!t)
        return;
    if (t->blocks)
        fclose(t->blocks);
    if (t->perf)
        fclose(t->perf);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

/* lock held */
static void instructions_list(struct trace *t, const struct soft_vcpu *v, const struct block *b)
{
    struct ram *const *rams = machine_of(v)->rams;
    const unsigned room = PAGE_SIZE - b->place;
    fprintf(t->blocks, "block %#llx key %#x\n", (unsigned long long)v->rip, b->key);
    for (unsigned n = 0; n < b->count; n++) {
        const struct insn *i = &b->insns[n];
        fprintf(t->blocks, "  %#llx ", (unsigned long long)v->rip + i->start);
        for (unsigned k = i->start; k < b->insns[n + 1].start; k++)
            fprintf(t->blocks, "%02x",
                    k < room            ? rams[b->ram]->hva[block_offset(b) + k]
                    : b->ram2 != NO_RAM ? rams[b->ram2]->hva[block_offset2(b) + k - room]
                                        : 0);
        fprintf(t->blocks, " %s\n", insn_rows[i->row].name);
    }
}

void trace_block(struct trace *t, const struct soft_vcpu *v, const struct block *b)
{
    if (likely(!t) || !t->blocks)
        return;
    LOCKED(&t->lock);
    uint64_t key = ((v->rip ^ block_offset(b) << 24) << 8) ^ b->key ^ (uint64_t)b->bytes << 1 ^ 1;
    uint64_t *seen = &t->seen[(v->rip ^ v->rip >> 14) % SEEN];
    if (*seen != key)
        instructions_list(t, v, b);
    *seen = key;
    fprintf(t->blocks, "%u %#llx %#x %c\n", v->vcpu.index, (unsigned long long)v->rip, b->key,
            b->code ? 'T' : 'I');
}

void trace_translated(struct trace *t, const struct soft_vcpu *v, const uint8_t *code, size_t size)
{
    if (!t || !t->perf)
        return;
    LOCKED(&t->lock);
    fprintf(t->perf, "%llx %zx guest:%llx\n", (unsigned long long)(uintptr_t)code, size,
            (unsigned long long)v->rip);
    fflush(t->perf);
}
