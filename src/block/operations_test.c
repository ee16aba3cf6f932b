/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Operations on chains: each with a guest that writes meanwhile, against a model; and with power
 * cuts after every write of the operation to any of its files.
 *
 *     operations_test [ROUNDS [SEED]]
 *
 * A chain is base <- middle <- top, in memory. Sectors hold one number, as in powercut_test.
 */
#include "block/operations.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/text.h"
#include "block/populate.h"
#include "block/qcow2.h"
#include "block/test_store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>

#include <cmocka.h>

enum { SECTORS = 900, SECTOR_MAX = 32 << 10, FILES = 4, MAX_RUN = 96 };
enum { DISK_MAX = SECTOR_MAX * SECTORS };
static unsigned sector_size = 512; /* resuming needs disks of many regions (qcow2_intent.c) */
#define SECTOR sector_size
#define DISK ((uint64_t)sector_size * SECTORS)
enum { MOST_SINCE = 60 };
enum { BASE, MIDDLE, TOP, TARGET };

static unsigned rounds = 1;
static uint64_t seed = 0x0b5, guest_seed = 0x90e57;
static unsigned long cuts;
static unsigned cut_one_in;
static char what_runs[160];

/* Also on threads of which cmocka knows nothing. */
#define MUST(what, ...)                         \
    do {                                        \
        if (!(what)) {                          \
            fprintf(stderr, "%s: ", what_runs); \
            fprintf(stderr, __VA_ARGS__);       \
            fputc('\n', stderr);                \
            abort();                            \
        }                                       \
    } while (0)

/* ---- a chain with its files ---- */

struct bench {
    struct recorder files[FILES];
    struct buf content[FILES], start[FILES];
    const char *options[FILES];
    uint64_t sizes[FILES];
    struct chain chain;
    pthread_rwlock_t gate;                              /* the guest reads, the job holds */
    uint64_t held_model[SECTORS], first_model[SECTORS]; /* when the last and the first hold began */
    unsigned holds;

    pthread_mutex_t world; /* what the guest knows; registered before it writes, after it flushed */
    uint64_t model[SECTORS], flushed[SECTORS];
    uint64_t since[SECTORS][MOST_SINCE]; /* later values */
    unsigned since_count[SECTORS];
    uint64_t number;
    atomic_bool stop;
    bool may_fail, resume;  /* resume: operations go on where one left off */
    unsigned guest_sectors; /* where the guest writes while a job runs */
    unsigned die_in;        /* after so many writes: what `died` has; 0: never */
    uint64_t total;         /* bytes that the last job had to copy */
    bool compared;          /* a job went on without knowing where it had been */
};

static struct bench bench_now; /* large */

static void sector_fill(uint8_t *data, uint64_t value)
{
    for (unsigned i = 0; i < SECTOR; i += 8)
        memcpy(data + i, &value, 8);
}

static const char *const names[FILES] = { "/base", "/middle", "/top", "/target" };

static struct image *file_open(struct recorder *recorder, unsigned file, bool readonly)
{
    struct err err = { 0 };
    struct store *store;
    struct image *image;
    struct image_options options = {
        .path = names[file], .format = "qcow2", .no_backing = true, .readonly = readonly
    };
    assert_int_equal(recorder_open(recorder, &store), 0);
    if (image_open_store(&options, store, &image, &err) < 0)
        fail_msg("%s: %s", names[file], err.text);
    return image;
}

/* As its header says, over these files. */
static struct image *chain_open_files(struct recorder *files, unsigned top)
{
    struct image *first = file_open(&files[top], top, false);
    for (struct image *above = first; image_backing_name(above); above = above->backing) {
        unsigned file = 0;
        while (file < FILES && strcmp(names[file] + 1, image_backing_name(above)))
            file++;
        assert_true(file < FILES);
        image_attach_backing(above, file_open(&files[file], file, true));
    }
    return first;
}

static void guest_write(struct bench *b, struct image *image, unsigned first, unsigned n, int zero)
{
    static uint8_t data[MAX_RUN * SECTOR_MAX];
    pthread_mutex_lock(&b->world);
    uint64_t value = zero ? 0 : ++b->number;
    for (unsigned i = 0; i < n; i++) {
        sector_fill(data + i * SECTOR, value);
        b->model[first + i] = value;
        MUST(b->since_count[first + i] < MOST_SINCE, "too few flushes");
        b->since[first + i][b->since_count[first + i]++] = value;
    }
    pthread_mutex_unlock(&b->world);
    int r = zero ? image_zero(image, first * SECTOR, n * SECTOR, IMAGE_UNMAP)
                 : image_write(image, data, n * SECTOR, first * SECTOR);
    MUST(r == 0, "the guest cannot write: %s", strerror(-r));
}

static void guest_flush(struct bench *b, struct image *image)
{
    int r = image_flush(image);
    MUST(r == 0, "the guest cannot flush: %s", strerror(-r));
    LOCKED(&b->world);
    memcpy(b->flushed, b->model, sizeof b->model);
    memset(b->since_count, 0, sizeof b->since_count);
}

static void guest_step(struct bench *b, struct image *image, unsigned sectors)
{
    unsigned first = (unsigned)(test_random(&guest_seed) % sectors);
    unsigned most = sectors - first < MAX_RUN ? sectors - first : MAX_RUN;
    unsigned n = 1 + (unsigned)(test_random(&guest_seed) % most);
    guest_write(b, image, first, n, test_random(&guest_seed) % 5 == 0);
}

static void *guest_thread(void *arg)
{
    struct bench *b = arg;
    for (unsigned i = 1; !atomic_load(&b->stop); i++) {
        pthread_rwlock_rdlock(&b->gate);
        guest_step(b, b->chain.view, b->guest_sectors);
        if (i % 4 == 0)
            guest_flush(b, b->chain.view);
        pthread_rwlock_unlock(&b->gate);
        usleep(300);
    }
    return NULL;
}

static void bench_create(struct bench *b, unsigned file, unsigned below)
{
    struct err err = { 0 };
    struct store *store;
    recorder_init(&b->files[file], &b->content[file]);
    b->files[file].off = true;
    assert_int_equal(recorder_open(&b->files[file], &store), 0);
    struct image_create create = {
        .path = names[file],
        .format = "qcow2",
        .size = b->sizes[file],
        .options = b->options[file],
        .backing = below < FILES ? names[below] + 1 : NULL,
        .backing_format = below < FILES ? "qcow2" : NULL,
    };
    if (image_create_store(&create, store, &err) < 0)
        fail_msg("%s", err.text);
    store_close(store);
}

/* Each layer has random data that the next one partly hides. */
static struct bench *bench_open(const char *const options[FILES], const uint64_t sizes[FILES])
{
    struct bench *b = &bench_now;
    *b = (struct bench){ .guest_sectors = SECTORS };
    pthread_mutex_init(&b->world, NULL);
    pthread_rwlock_init(&b->gate, NULL);
    memcpy(b->options, options, sizeof b->options);
    for (unsigned file = 0; file < FILES; file++)
        b->sizes[file] = sizes[file] * SECTOR;
    for (unsigned file = BASE; file <= TOP; file++) {
        bench_create(b, file, file ? file - 1 : FILES);
        struct image *image = chain_open_files(b->files, file);
        unsigned sectors = (unsigned)(b->sizes[file] / SECTOR);
        memset(b->model + sectors, 0, sizeof b->model - sectors * sizeof *b->model);
        for (unsigned i = 0; i < 12; i++)
            guest_step(b, image, sectors);
        guest_flush(b, image);
        assert_int_equal(image_close(image), 0);
    }
    bench_create(b, TARGET, FILES);
    for (unsigned file = 0; file < FILES; file++) {
        buf_add(&b->start[file], b->content[file].data, b->content[file].len);
        b->files[file].off = false;
    }
    b->chain.top = b->chain.view = chain_open_files(b->files, TOP);
    return b;
}

static void bench_close(struct bench *b)
{
    assert_int_equal(image_close(b->chain.top), 0);
    for (unsigned file = 0; file < FILES; file++) {
        recorder_fini(&b->files[file]);
        buf_fini(&b->content[file]);
        buf_fini(&b->start[file]);
    }
}

static void image_expect(struct image *image, const uint64_t *model, const char *what)
{
    static uint8_t data[DISK_MAX];
    assert_int_equal(image_size(image), DISK);
    int r = image_read(image, data, DISK, 0);
    if (r < 0)
        fail_msg("%s: %s", what, strerror(-r));
    for (unsigned i = 0; i < SECTORS; i++)
        if (memcmp(data + i * SECTOR, &model[i], 8))
            fail_msg("%s: %s: sector %u holds %llu instead of %llu", what_runs, what, i,
                     (unsigned long long)*(uint64_t *)(data + i * SECTOR),
                     (unsigned long long)model[i]);
}

/* ---- cuts ---- */

/* What each file holds when all lose power now, and what the guest knew. */
struct cut {
    struct buf content[FILES];
    uint64_t flushed[SECTORS], since[SECTORS][MOST_SINCE];
    unsigned since_count[SECTORS];
};

static void cut_take(struct bench *b, struct cut *cut, unsigned choice)
{
    LOCKED(&b->world);
    memcpy(cut->flushed, b->flushed, sizeof b->flushed);
    memcpy(cut->since, b->since, sizeof b->since);
    memcpy(cut->since_count, b->since_count, sizeof b->since_count);
    /* One moment for all files. */
    for (unsigned file = 0; file < FILES; file++)
        pthread_mutex_lock(&b->files[file].lock);
    for (unsigned file = 0; file < FILES; file++) {
        struct buf durable = { 0 };
        size_t from = 0, count = b->files[file].count;
        buf_add(&durable, b->start[file].data, b->start[file].len);
        cut->content[file] = (struct buf){ 0 };
        recorder_cut(&b->files[file], count, &durable, &from, count ? choice : 0, &seed,
                     &cut->content[file]);
        buf_fini(&durable);
    }
    for (unsigned file = 0; file < FILES; file++)
        pthread_mutex_unlock(&b->files[file].lock);
}

static void cut_check_images(struct image *image)
{
    struct err err = { 0 };
    for (struct image *layer = image; layer; layer = layer->backing) {
        struct image_check check = { 0 };
        int r = image_check(layer, &check, &err);
        MUST(r == 0, "%s", err.text);
        MUST(!check.count.corruptions && !check.count.check_errors, "%s: %llu corruptions",
             image_path(layer), (unsigned long long)check.count.corruptions);
    }
}

/* The chain that the top's file records is sound, and holds what was flushed or a later value. */
static void cut_check(struct bench *b, unsigned choice)
{
    static struct cut cut;
    static uint8_t data[DISK_MAX];
    struct recorder files[FILES];
    cuts++;
    cut_take(b, &cut, choice);
    for (unsigned file = 0; file < FILES; file++) {
        recorder_init(&files[file], &cut.content[file]);
        files[file].off = true;
    }
    struct image *image = chain_open_files(files, TOP);
    cut_check_images(image);
    int r = image_read(image, data, DISK, 0);
    MUST(r == 0, "after a cut: %s", strerror(-r));
    for (unsigned i = 0; i < SECTORS; i++) {
        uint64_t value;
        memcpy(&value, data + i * SECTOR, 8);
        bool good = value == cut.flushed[i];
        for (unsigned k = 0; !good && k < cut.since_count[i]; k++)
            good = value == cut.since[i][k];
        MUST(good, "after a cut (choice %u) sector %u holds %llu; flushed was %llu", choice, i,
             (unsigned long long)value, (unsigned long long)cut.flushed[i]);
    }
    image_close(image);
    for (unsigned file = 0; file < FILES; file++) {
        recorder_fini(&files[file]);
        buf_fini(&cut.content[file]);
    }
}

static struct cut died; /* the files when the process died */

/* Before each write and flush of any file, on whoever's thread. */
static pthread_mutex_t cutting = PTHREAD_MUTEX_INITIALIZER;
static void bench_event(void *arg)
{
    struct bench *b = arg;
    if (pthread_mutex_trylock(&cutting))
        return;
    if (b->die_in && !--b->die_in)
        cut_take(b, &died, (unsigned)(test_random(&seed) % 4));
    if (cut_one_in && (cut_one_in == 1 || test_random(&seed) % cut_one_in == 0))
        cut_check(arg, (unsigned)(test_random(&seed) % 4));
    pthread_mutex_unlock(&cutting);
}

/* ---- running ---- */

static void bench_hold(struct chain *chain)
{
    struct bench *b = CONTAINER_OF(chain, struct bench, chain);
    pthread_rwlock_wrlock(&b->gate);
    memcpy(b->held_model, b->model, sizeof b->model);
    if (!b->holds++)
        memcpy(b->first_model, b->model, sizeof b->model);
}

static void bench_release(struct chain *chain)
{
    pthread_rwlock_unlock(&CONTAINER_OF(chain, struct bench, chain)->gate);
}

typedef int operation_fn(struct job *job, struct bench *b, struct err *err);

struct run {
    struct bench *bench;
    operation_fn *operation;
    unsigned cancel_at; /* after so many changes of stage; 0: never */
};

static int run_work(struct job *job, void *arg, struct err *err)
{
    struct run *run = arg;
    return run->operation(job, run->bench, err);
}

static void run_changed(struct job *job, void *arg)
{
    struct run *run = arg;
    struct job_status status;
    job_get(job, &status);
    if (status.state == JOB_READY)
        job_complete(job, NULL);
    if (!strcmp(status.stage, "copying"))
        run->bench->total = status.total;
    run->bench->compared |= !strcmp(status.stage, "comparing");
    if (run->cancel_at && !--run->cancel_at)
        job_cancel(job);
}

/* With the guest at work, and a cut before one in `one_in` writes (0: none). */
static int bench_run(struct bench *b, operation_fn *operation, unsigned one_in, unsigned cancel_at)
{
    struct err err = { 0 };
    struct run run = { b, operation, cancel_at };
    struct job_work work = { .kind = "test", .run = run_work, .changed = run_changed, .arg = &run };
    struct job *job;
    pthread_t guest;
    assert_int_equal(job_create(&work, &job, &err), 0);
    b->chain.hold = bench_hold;
    b->chain.release = bench_release;
    b->holds = 0;
    b->stop = false;
    cut_one_in = one_in;
    for (unsigned file = 0; file < FILES; file++) {
        b->files[file].event = one_in || b->die_in ? bench_event : NULL;
        b->files[file].event_arg = b;
        b->files[file].delay_us = 50; /* so that the guest gets in between */
    }
    assert_int_equal(pthread_create(&guest, NULL, guest_thread, b), 0);
    int r = job_run(job, &err);
    usleep(2000);
    atomic_store(&b->stop, true);
    pthread_join(guest, NULL);
    for (unsigned file = 0; file < FILES; file++)
        b->files[file].event = NULL, b->files[file].delay_us = 0;
    job_destroy(job);
    b->chain.hold = b->chain.release = NULL;
    if (r < 0 && r != -ECANCELED && !b->may_fail)
        fail_msg("%s", err.text);
    image_expect(b->chain.view, b->model, "afterwards");
    return r;
}

static struct image *target_take(struct bench *b)
{
    return file_open(&b->files[TARGET], TARGET, false);
}

static const char *const plain[FILES] = { "cluster_size=4K", "cluster_size=4K", "cluster_size=4K",
                                          "cluster_size=4K" };
static const char *const mixed[FILES] = { "cluster_size=16K,extended_l2=on", "cluster_size=512",
                                          "cluster_size=64K", "cluster_size=2K" };
static const char *const mixed2[FILES] = { "cluster_size=64K", "cluster_size=16K,extended_l2=on",
                                           "cluster_size=16K,extended_l2=on", "cluster_size=64K" };
/* Version 2 keeps no bitmaps. */
static const char *const old[FILES] = { "compat=0.10,cluster_size=4K", "cluster_size=4K",
                                        "compat=0.10,cluster_size=4K", "cluster_size=4K" };

/* ---- the operations ---- */

static int run_stream(struct job *job, struct bench *b, struct err *err)
{
    return chain_stream(job, &b->chain, NULL, err);
}

static int run_stream_base(struct job *job, struct bench *b, struct err *err)
{
    return chain_stream(job, &b->chain, "base", err);
}

static struct store *base_store(struct bench *b, unsigned file)
{
    struct store *store;
    assert_int_equal(recorder_open(&b->files[file], &store), 0);
    return store;
}

static int run_commit(struct job *job, struct bench *b, struct err *err)
{
    struct commit_options o = { .take_base_store = base_store(b, MIDDLE), .keep = true };
    o.resume = b->resume;
    return chain_commit(job, &b->chain, &o, err);
}

static int run_commit_deep(struct job *job, struct bench *b, struct err *err)
{
    struct commit_options o = { .base = "base",
                                .take_base_store = base_store(b, BASE),
                                .keep = true };
    o.resume = b->resume;
    return chain_commit(job, &b->chain, &o, err);
}

static int run_commit_switch(struct job *job, struct bench *b, struct err *err)
{
    struct commit_options o = { .base = "base", .take_base_store = base_store(b, BASE) };
    o.resume = b->resume;
    return chain_commit(job, &b->chain, &o, err);
}

static int run_commit_middle(struct job *job, struct bench *b, struct err *err)
{
    struct commit_options o = { .layer = "middle", .take_base_store = base_store(b, BASE) };
    o.resume = b->resume;
    return chain_commit(job, &b->chain, &o, err);
}

static int run_mirror(struct job *job, struct bench *b, struct err *err)
{
    struct mirror_options o = { .take_target = target_take(b), .stay = true };
    o.resume = b->resume;
    return chain_mirror(job, &b->chain, &o, err);
}

static int run_mirror_switch(struct job *job, struct bench *b, struct err *err)
{
    struct mirror_options o = { .take_target = target_take(b) };
    o.resume = b->resume;
    return chain_mirror(job, &b->chain, &o, err);
}

static int run_backup(struct job *job, struct bench *b, struct err *err)
{
    bool bitmaps = b->options[TOP] != old[TOP];
    struct backup_options o = { .take_target = target_take(b),
                                .bitmap = bitmaps ? "nightly" : NULL };
    o.resume = b->resume;
    return chain_backup(job, &b->chain, &o, err);
}

static int run_backup_more(struct job *job, struct bench *b, struct err *err)
{
    struct backup_options o = { .take_target = target_take(b),
                                .bitmap = "nightly",
                                .incremental = true };
    o.resume = b->resume;
    return chain_backup(job, &b->chain, &o, err);
}

static int run_rebase(struct job *job, struct bench *b, struct err *err)
{
    struct rebase_options o = { .take_base = file_open(&b->files[BASE], BASE, true),
                                .name = "base" };
    return chain_rebase(job, &b->chain, &o, err);
}

static int run_rebase_other(struct job *job, struct bench *b, struct err *err)
{
    struct rebase_options o = { .take_base = file_open(&b->files[TARGET], TARGET, true),
                                .name = "target" };
    return chain_rebase(job, &b->chain, &o, err);
}

static int run_rebase_none(struct job *job, struct bench *b, struct err *err)
{
    return chain_rebase(job, &b->chain, &(struct rebase_options){ .name = NULL }, err);
}

static int run_resize(struct job *job, struct bench *b, struct err *err)
{
    int r = chain_resize(&b->chain, DISK + (4 << 20), PREALLOC_OFF, false, err);
    return r < 0 ? r : chain_resize(&b->chain, DISK, PREALLOC_OFF, true, err);
}

/* ---- tests ---- */

/* Sectors of each file. */
static const uint64_t same[FILES] = { SECTORS, SECTORS, SECTORS, SECTORS };
/* The middle ends early, and the base hides behind that. */
static const uint64_t short_middle[FILES] = { SECTORS, SECTORS / 2, SECTORS, SECTORS };
static const uint64_t short_base[FILES] = { SECTORS / 4, SECTORS / 2, SECTORS, SECTORS };

static struct image *file_look(struct bench *b, unsigned file)
{
    return file_open(&b->files[file], file, true);
}

struct test_case {
    operation_fn *operation;
    enum { CHAIN, COPY_LAST, COPY_FIRST } result; /* the target is the model of that hold */
    unsigned into;                                /* the file that a job copies to */
};
static const struct test_case cases[] = {
    { run_stream, CHAIN, TOP },         { run_stream_base, CHAIN, TOP },
    { run_commit, CHAIN, MIDDLE },      { run_commit_deep, CHAIN, BASE },
    { run_commit_switch, CHAIN, BASE }, { run_commit_middle, CHAIN, BASE },
    { run_mirror, COPY_LAST, TARGET },  { run_mirror_switch, COPY_LAST, TARGET },
    { run_backup, COPY_FIRST, TARGET }, { run_resize, CHAIN, TOP },
    { run_rebase, CHAIN, TOP },         { run_rebase_other, CHAIN, TOP },
    { run_rebase_none, CHAIN, TOP },
};

static void run_case(const struct test_case *c, const char *const options[FILES],
                     const uint64_t sizes[FILES], unsigned one_in, unsigned cancel_at)
{
    snprintf(what_runs, sizeof what_runs, "operation %u, %s, middle of %llu, cancelled at %u",
             (unsigned)(c - cases), options[TOP], (unsigned long long)sizes[MIDDLE], cancel_at);
    struct bench *b = bench_open(options, sizes);
    /* After a switch the top's file is the old state. */
    bool switches = c->operation == run_mirror_switch;
    int r = bench_run(b, c->operation, switches ? 0 : one_in, cancel_at);
    if (cancel_at && r == -ECANCELED) /* begun again, it ends */
        r = bench_run(b, c->operation, 0, 0);
    assert_int_equal(r, 0);
    if (c->result != CHAIN && !switches) {
        struct image *target = file_look(b, TARGET);
        image_expect(target, c->result == COPY_LAST ? b->held_model : b->first_model, "the copy");
        image_close(target);
    }
    if (c->operation == run_backup) {
        r = bench_run(b, run_backup_more, 0, 0);
        assert_int_equal(r, 0);
        struct image *target = file_look(b, TARGET);
        image_expect(target, b->first_model, "the increment");
        image_close(target);
    }
    guest_flush(b, b->chain.view);
    bench_close(b);
}

static void test_operations(void **state)
{
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        run_case(&cases[i], plain, same, 0, 0);
        run_case(&cases[i], mixed, short_middle, 0, 0);
        run_case(&cases[i], mixed2, short_base, 0, 0);
    }
}

/* The base or the target fails, now and then for good; the guest notices nothing, and the operation
 * begun again ends well. */
static void test_failures(void **state)
{
    static const struct {
        operation_fn *run;
        unsigned file;
    } fails[] = { { run_commit_deep, BASE },
                  { run_commit_middle, BASE },
                  { run_mirror, TARGET },
                  { run_backup, TARGET } };
    unsigned failed = 0;
    log_set_level(LOG_ERROR - 1, LOG_ERROR - 1);
    for (unsigned round = 0; round < 8 * rounds; round++)
        for (unsigned i = 0; i < ARRAY_LEN(fails); i++) {
            snprintf(what_runs, sizeof what_runs, "failing operation %u, round %u", i, round);
            struct bench *b = bench_open(round & 1 ? mixed : plain, same);
            struct recorder *file = &b->files[fails[i].file];
            b->may_fail = true;
            file->fail_in = (int64_t)(test_random(&seed) % (round & 2 ? 8 : 60));
            file->fail_kinds = 2;
            file->fail_code = round & 4 ? EIO : ENOSPC;
            int r = bench_run(b, fails[i].run, 0, 0);
            failed += r < 0;
            file->fail_in = -1;
            b->may_fail = false;
            if (r < 0)
                assert_int_equal(bench_run(b, fails[i].run, 0, 0), 0);
            guest_flush(b, b->chain.view);
            for (struct image *layer = b->chain.top; layer; layer = layer->backing)
                assert_int_equal(image_flush(layer), 0);
            cut_check_images(b->chain.top);
            bench_close(b);
        }
    log_set_level(LOG_ERROR, LOG_ERROR);
    assert_true(failed > 5);
}

static void test_cancel(void **state)
{
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++)
        for (unsigned at = 1; at < 4; at++)
            run_case(&cases[i], i & 1 ? plain : mixed2, same, 0, at);
}

/* Another process, with the files as the one that died left them. */
static void bench_revive(struct bench *b)
{
    static uint8_t data[DISK_MAX];
    assert_int_equal(image_close(b->chain.top), 0);
    for (unsigned file = 0; file < FILES; file++) {
        recorder_fini(&b->files[file]);
        buf_fini(&b->content[file]);
        buf_fini(&b->start[file]);
        b->content[file] = died.content[file];
        recorder_init(&b->files[file], &b->content[file]);
        buf_add(&b->start[file], b->content[file].data, b->content[file].len);
    }
    b->chain.top = b->chain.view = chain_open_files(b->files, TOP);
    cut_check_images(b->chain.top);
    assert_int_equal(image_read(b->chain.top, data, DISK, 0), 0);
    for (unsigned i = 0; i < SECTORS; i++)
        memcpy(&b->model[i], data + i * SECTOR, 8);
    guest_flush(b, b->chain.view);
}

struct resumed {
    unsigned died, known, saved;
};

/* Bytes that the job, and a guest, wrote to a file since it was revived. */
static uint64_t bytes_written(const struct bench *b, unsigned file)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < b->files[file].count; i++)
        sum += b->files[file].events[i].len;
    return sum;
}

/* One operation dies; then the guest writes, perhaps the image is closed and opened, and the
 * operation goes on. */
static void resume_case(const struct test_case *c, const char *const options[FILES],
                        struct resumed *count)
{
    struct bench *b = bench_open(options, same);
    b->guest_sectors = SECTORS / 4;
    b->chain.save_every_ms = 1;
    /* Without a journal there is less to write before it is over. */
    b->die_in = 20 + (unsigned)(test_random(&seed) % (options == old ? 300 : 1500));
    snprintf(what_runs, sizeof what_runs, "resumed operation %u, %s, dead after %u",
             (unsigned)(c - cases), options[TOP], b->die_in);
    assert_int_equal(bench_run(b, c->operation, 0, 0), 0);
    uint64_t whole = b->total, written = bytes_written(b, c->into);
    if (b->die_in) { /* it was over before */
        bench_close(b);
        return;
    }
    bench_revive(b);
    /* It died after its last write: the layer has been taken out, and nothing is left to do. */
    bool done = c->operation == run_commit_middle && !b->chain.top->backing->backing;
    count->died += !done;
    for (unsigned i = 0; i < 5; i++)
        guest_step(b, b->chain.view, SECTORS / 4);
    guest_flush(b, b->chain.view);
    b->resume = true;
    b->compared = false;
    assert_int_equal(bench_run(b, c->operation, 0, 0), 0);
    b->resume = false;
    if (done) {
        guest_flush(b, b->chain.view);
        bench_close(b);
        return;
    }
    count->known += !b->compared;
    count->saved += b->compared ? bytes_written(b, c->into) < written : b->total < whole;
    /* Nothing knows it where the top keeps no bitmaps. */
    assert_true(b->compared || options != old);
    if (c->result != CHAIN) {
        struct image *target = file_look(b, TARGET);
        image_expect(target, c->result == COPY_LAST ? b->held_model : b->first_model, "the copy");
        image_close(target);
    }
    guest_flush(b, b->chain.view);
    bench_close(b);
}

/* Resumed when its layer has gone already. */
static void test_resume_done(void **state)
{
    struct bench *b = bench_open(plain, same);
    assert_int_equal(bench_run(b, run_commit_middle, 0, 0), 0);
    b->resume = true;
    assert_int_equal(bench_run(b, run_commit_middle, 0, 0), 0);
    guest_flush(b, b->chain.view);
    bench_close(b);
}

static void test_resume(void **state)
{
    static const unsigned which[] = { 2, 3, 4, 5, 6, 8 };
    static const char *const *const options[] = { plain, old, mixed };
    unsigned known = 0, saved[ARRAY_LEN(options)] = { 0 };
    sector_size = SECTOR_MAX;
    for (unsigned i = 0; i < ARRAY_LEN(which); i++)
        for (unsigned k = 0; k < ARRAY_LEN(options); k++) {
            struct resumed count = { 0 };
            for (unsigned round = 0; round < 1 + rounds; round++)
                resume_case(&cases[which[i]], options[k], &count);
            print_message("operation %u, %s: died %u times, resumed %u, with less to copy %u\n",
                          which[i], options[k][TOP], count.died, count.known, count.saved);
            known += count.known;
            saved[k] += count.saved;
        }
    assert_true(known > 5 && saved[0] + saved[2] && saved[1]);
    sector_size = 512;
}

static void test_cuts(void **state)
{
    for (unsigned round = 0; round < rounds; round++)
        for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
            unsigned long had = cuts;
            run_case(&cases[i], round & 1 ? mixed : plain, round & 2 ? short_middle : same,
                     rounds > 1 ? 1 : 4, 0);
            print_message("operation %u: %lu cuts\n", i, cuts - had);
        }
    print_message("%lu cuts\n", cuts);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        rounds = (unsigned)strtoul(argv[1], NULL, 10);
    if (argc > 2)
        seed = guest_seed = strtoull(argv[2], NULL, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operations),  cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_failures),    cmocka_unit_test(test_resume),
        cmocka_unit_test(test_resume_done), cmocka_unit_test(test_cuts)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
