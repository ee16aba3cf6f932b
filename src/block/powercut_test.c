/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Power cuts: random work on an image is recorded below the format; then the disk is cut after
 * every prefix of what reached it, with torn last writes and with random choices of the sectors
 * written since the last flush. Every such image must open, check without corruption, and hold
 * every flushed byte.
 *
 *     powercut_test [ROUNDS [SEED [DIRECTORY]]]   DIRECTORY: keep a sample for other checkers
 *
 * A round has some 17,000 cuts; one that failed is repeated with ROUNDS 1 and its seed.
 *
 * A sector of the guest's disk is filled with one number, the count of the operation that wrote it,
 * so that the model is one history of numbers for each sector.
 */
#include "base/checked.h"
#include "base/log.h"
#include "block/image.h"
#include "block/test_disk.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { RUNS = 3 };
enum { SECTOR = 512, SECTORS = 600, DISK = SECTOR * SECTORS, MAX_RUN = 96, MAX_SNAPSHOTS = 3 };

static unsigned rounds = 2;
static uint64_t seed = 0x5eed1;
static const char *sample_dir;
static unsigned long cases, samples, most_leaks;

static const struct image_secret secret = { "passphrase", 10 };

struct config {
    const char *format, *options;
    bool backing, snapshots;
    unsigned operations;
    uint64_t stride; /* the model's sectors lie in RUNS runs that far apart; 0: in a row */
    bool resizes;
    bool dense; /* a file as long as the disk: it grows by little */
};
static const struct config configs[] = {
    { "qcow2", "cluster_size=4K", false, false, 50, .resizes = true },
    { "qcow2", "cluster_size=512,refcount_bits=64", false, false, 25 },
    { "qcow2", "cluster_size=512,refcount_bits=1", true, false, 25 },
    { "qcow2", "cluster_size=64K,lazy_refcounts=on", true, false, 50 },
    { "qcow2", "cluster_size=16K,extended_l2=on", true, false, 50 },
    { "qcow2", "cluster_size=16K,extended_l2=on", false, true, 40 },
    { "qcow2", "cluster_size=4K,compat=0.10", true, false, 40 },
    { "qcow2", "cluster_size=2K,refcount_bits=4", true, true, 40 },
    { "qcow2", "cluster_size=4K,compression_type=zstd", true, true, 40 },
    { "qcow2", "encrypt.format=luks,encrypt.iter-time=1,cluster_size=4K", true, true, 30 },
    { "qcow2", "preallocation=metadata,cluster_size=4K", false, true, 40 },
    { "qcow2", "data_file=cut.data,cluster_size=4K", false, false, 40, .resizes = true,
      .dense = true },
    { "qcow2", "data_file=cut.data,cluster_size=16K,extended_l2=on", true, false, 40 },
    { "qcow2", "data_file=cut.data,data_file_raw=on,cluster_size=4K", false, false, 40,
      .resizes = true, .dense = true },
    { "raw", "preallocation=off", false, false, 40, .resizes = true, .dense = true },
    { "luks", "iter-time=1", false, false, 40, .resizes = true, .dense = true },
    { "luks", "version=2,kdf=pbkdf2,iter-time=1", false, false, 10 },
    { "vhd", "subformat=dynamic", false, false, 40, 2 << 20, .resizes = true },
    { "vhd", "subformat=fixed", false, false, 25, .resizes = true, .dense = true },
    { "vhd", "subformat=dynamic", true, false, 25, 2 << 20 },
    { "vhdx", "block_size=1M", false, false, 40, 1 << 20 },
    { "vhdx", "block_size=1M", false, false, 40, 1 << 20, .resizes = true },
    { "vhdx", "block_size=1M,block_state_zero=off", true, false, 30, 1 << 20, .resizes = true },
    { "vhdx", "subformat=fixed,block_size=1M", false, false, 25, 1 << 20, .resizes = true,
      .dense = true },
    { "vmdk", "subformat=monolithicSparse", false, false, 40, .resizes = true },
    { "vmdk", "zeroed_grain=on", true, false, 40 },
    { "vmdk", "subformat=monolithicFlat", false, false, 40, .resizes = true, .dense = true },
    { "vmdk", "subformat=twoGbMaxExtentFlat", false, false, 40 },
    /* The second run lies in two of the extents. */
    { "vmdk", "subformat=twoGbMaxExtentSparse", false, false, 30, (2ull << 30) - (50 << 10) },
};

/* ---- the model ---- */

struct past { /* from this event on, a sector may hold this number */
    size_t since;
    uint64_t value;
    bool maybe; /* a discard: the older one may stay */
};
struct history {
    struct past *past;
    size_t count, room;
};
struct flush { /* what was done before operation number `before` is safe from event `done` on */
    size_t done, began;
};

struct work {
    struct history sectors[SECTORS + 1]; /* the last one is the disk's size */
    struct flush flushes[256];
    size_t flush_count;
    uint64_t now[SECTORS], snapshots[MAX_SNAPSHOTS][SECTORS];
    unsigned snapshot_count;
    struct disk disk;
    struct image *image;
    const struct config *config;
};

static void history_add(struct work *w, unsigned sector, size_t since, uint64_t value, bool maybe)
{
    struct history *h = &w->sectors[sector];
    if (h->count == h->room) {
        h->room = h->room ? h->room * 2 : 4;
        h->past = realloc(h->past, h->room * sizeof *h->past);
    }
    h->past[h->count++] = (struct past){ since, value, maybe };
    if (sector < SECTORS)
        w->now[sector] = value;
}

/* May the sector hold `value` after a cut behind `count` events? */
static bool history_allows(const struct work *w, unsigned sector, size_t count, uint64_t value)
{
    size_t safe = 0; /* what was done when the last good flush began */
    for (size_t i = 0; i < w->flush_count && w->flushes[i].done <= count; i++)
        safe = w->flushes[i].began;
    const struct history *h = &w->sectors[sector];
    for (size_t i = h->count; i-- > 0;) {
        const struct past *p = &h->past[i];
        if (p->since > count || (p->since == count && p->since > safe))
            continue;
        if (p->value == value)
            return true;
        if (!p->maybe && p->since < safe)
            return false;
    }
    return false;
}

static void sector_fill(uint8_t *data, uint64_t value)
{
    for (unsigned i = 0; i < SECTOR; i += 8)
        memcpy(data + i, &value, 8);
}

/* ---- the image's disk: in runs ---- */

static uint64_t disk_size(const struct config *config)
{
    return config->stride ? config->stride * RUNS : DISK;
}

/* Where the model's sector lies on the disk, and how many more lie behind it in a row. */
static uint64_t place_of(const struct config *config, unsigned sector, unsigned *row)
{
    unsigned run = SECTORS / RUNS;
    if (!config->stride) {
        *row = SECTORS - sector;
        return (uint64_t)sector * SECTOR;
    }
    *row = run - sector % run;
    return sector / run * config->stride + (uint64_t)(sector % run) * SECTOR;
}

enum access { READ, WRITE, ZERO, UNMAP, DISCARD };
/* Of `n` sectors from `first` on; the first error. */
static int disk_access(const struct config *config, struct image *image, enum access what,
                       uint8_t *data, unsigned first, unsigned n)
{
    int r = 0;
    for (unsigned part; r == 0 && n; n -= part, first += part) {
        uint64_t at = place_of(config, first, &part);
        part = part < n ? part : n;
        size_t len = (size_t)part * SECTOR;
        switch (what) {
        case READ: r = image_read(image, data, len, at); break;
        case WRITE: r = image_write(image, data, len, at); break;
        case ZERO: r = image_zero(image, at, len, 0); break;
        case UNMAP: r = image_zero(image, at, len, IMAGE_UNMAP); break;
        case DISCARD: r = image_discard(image, at, len); break;
        }
        if (data)
            data += len;
    }
    return r;
}

/* ---- opening ---- */

static struct image *open_over(const struct config *config, struct disk *disk)
{
    struct err err = { 0 };
    struct image *image;
    struct store *store;
    struct image_options options = {
        .path = "cut", .format = config->format, .no_backing = true, .secret = &secret
    };
    assert_int_equal(disk_use(disk, &store), 0);
    if (image_open_store(&options, store, &image, &err) < 0)
        fail_msg("%s: %s", config->options, err.text);
    if (!config->backing)
        return image;
    struct store *raw;
    uint64_t size = disk_size(config);
    options.format = "raw";
    assert_int_equal(store_open_memory(NULL, 0, size, &raw, &err), 0);
    assert_int_equal(store_truncate(raw, size), 0);
    assert_int_equal(image_open_store(&options, raw, &image->backing, &err), 0);
    for (unsigned i = 0; i < SECTORS; i++) {
        uint8_t data[SECTOR];
        sector_fill(data, 0x8000000000000000ull + i);
        assert_int_equal(disk_access(config, image->backing, WRITE, data, i, 1), 0);
    }
    return image;
}

/* Formats whose overlays record facts of the image below need a real one while they are made. */
static void create_over(const struct config *config, struct disk *disk)
{
    char parent[] = "/tmp/powercut-XXXXXX";
    struct err err = { 0 };
    struct store *store;
    struct image_create create = { .path = "cut",
                                   .format = config->format,
                                   .size = disk_size(config),
                                   .options = config->options,
                                   .secret = &secret };
    bool named = config->backing && strcmp(config->format, "qcow2");
    if (named) {
        close(mkstemp(parent));
        create.path = parent;
        create.options = NULL;
        if (image_create(&create, &err) < 0)
            fail_msg("%s", err.text);
        create.path = "cut";
        create.options = config->options;
        create.backing = parent;
        create.backing_format = config->format;
    }
    disk_add(disk, "cut");
    assert_int_equal(disk_use(disk, &store), 0);
    int r = image_create_store(&create, store, &err);
    if (named)
        unlink(parent);
    if (r < 0)
        fail_msg("%s: %s", config->options, err.text);
    store_close(store);
}

/* An encrypted disk begins as noise; the model begins with zeros. */
static void start_zeroed(const struct config *config, struct image *image)
{
    if (!image->noisy)
        return;
    assert_int_equal(disk_access(config, image, ZERO, NULL, 0, SECTORS), 0);
    assert_int_equal(image_flush(image), 0);
}

/* ---- work ---- */

static void work_write(struct work *w, uint64_t number, unsigned first, unsigned n)
{
    static uint8_t data[MAX_RUN * SECTOR];
    for (unsigned i = 0; i < n; i++) {
        sector_fill(data + i * SECTOR, number);
        history_add(w, first + i, w->disk.clock, number, false);
    }
    assert_int_equal(disk_access(w->config, w->image, WRITE, data, first, n), 0);
}

static void work_zero(struct work *w, unsigned first, unsigned n, enum access how)
{
    for (unsigned i = 0; i < n; i++)
        history_add(w, first + i, w->disk.clock, 0, false);
    assert_int_equal(disk_access(w->config, w->image, how, NULL, first, n), 0);
}

static void work_discard(struct work *w, unsigned first, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        history_add(w, first + i, w->disk.clock, 0, true);
    assert_int_equal(disk_access(w->config, w->image, DISCARD, NULL, first, n), 0);
    /* Which of the two it became does not change any more. */
    uint8_t data[SECTOR];
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(disk_access(w->config, w->image, READ, data, first + i, 1), 0);
        memcpy(&w->now[first + i], data, 8);
    }
}

static void work_pack(struct work *w, uint64_t number, unsigned first)
{
    unsigned cluster = image_cluster_size(w->image) / SECTOR;
    first -= first % cluster;
    unsigned n = SECTORS - first < cluster ? SECTORS - first : cluster;
    AUTO(free) uint8_t *data = malloc(n * SECTOR);
    for (unsigned i = 0; i < n; i++) {
        sector_fill(data + i * SECTOR, number);
        history_add(w, first + i, w->disk.clock, number, false);
    }
    assert_int_equal(image_write_compressed(w->image, data, n * SECTOR, first * SECTOR), 0);
}

static void work_flush(struct work *w)
{
    size_t began = w->disk.clock;
    assert_int_equal(image_flush(w->image), 0);
    w->flushes[w->flush_count++] = (struct flush){ w->disk.clock, began + 1 };
}

static void work_snapshot(struct work *w)
{
    struct err err = { 0 };
    char name[8];
    unsigned what = (unsigned)(test_random(&seed) % 3), n = w->snapshot_count;
    int r;
    if (what == 0 && n < MAX_SNAPSHOTS) {
        snprintf(name, sizeof name, "s%u", n);
        memcpy(w->snapshots[n], w->now, sizeof w->now);
        r = image_snapshot_create(w->image, name, &err);
        w->snapshot_count += r == 0;
        if (r < 0 && strstr(err.text, "too narrow")) /* packed clusters share theirs with many */
            r = 0;
    } else if (what == 1 && n) {
        snprintf(name, sizeof name, "s%u", n - 1);
        for (unsigned i = 0; i < SECTORS; i++)
            history_add(w, i, w->disk.clock, w->snapshots[n - 1][i], false);
        r = image_snapshot_apply(w->image, name, &err);
    } else if (n) {
        snprintf(name, sizeof name, "s%u", --w->snapshot_count);
        r = image_snapshot_delete(w->image, name, &err);
    } else {
        return;
    }
    if (r < 0)
        fail_msg("snapshot %s: %s", name, err.text);
}

/* A larger size, or again what it was. */
static uint64_t another_size(const struct config *config, const struct image *image)
{
    static const uint64_t more[] = { SECTOR, 70 << 10, 5 << 20, 300 << 20 };
    uint64_t least = disk_size(config);
    if (image->size != least && test_random(&seed) % 2)
        return least;
    return least + more[test_random(&seed) % (ARRAY_LEN(more) - config->dense)];
}

/* What a larger disk had there is gone. */
static void work_resize(struct work *w)
{
    uint64_t now = w->image->size, size = another_size(w->config, w->image);
    struct err err = { 0 };
    history_add(w, SECTORS, w->disk.clock, size, false);
    if (image_resize(w->image, size, PREALLOC_OFF, &err) < 0)
        fail_msg("%s: to %llu: %s", w->config->options, (unsigned long long)size, err.text);
    assert_int_equal(w->image->size, size);
    uint64_t from = now < size ? now : size, step = round_up((size - from) / 16 + 1, SECTOR);
    for (uint64_t at = from; at < size; at += step) {
        static uint8_t data[SECTOR];
        assert_int_equal(image_read(w->image, data, SECTOR, at), 0);
        for (unsigned i = 0; i < SECTOR; i++)
            assert_int_equal(data[i], 0);
        sector_fill(data, 0x0bad0bad);
        if (at == from || at + step >= size)
            assert_int_equal(image_write(w->image, data, SECTOR, at), 0);
    }
}

static void work_one(struct work *w, const struct config *config, uint64_t number)
{
    unsigned first = (unsigned)(test_random(&seed) % SECTORS);
    unsigned most = SECTORS - first < MAX_RUN ? SECTORS - first : MAX_RUN;
    unsigned n = 1 + (unsigned)(test_random(&seed) % most);
    switch (test_random(&seed) % 12) {
    case 0:
    case 1: work_flush(w); break;
    case 2: work_zero(w, first, n, UNMAP); break;
    case 3: work_zero(w, first, n, ZERO); break;
    case 4: work_discard(w, first, n); break;
    case 5:
        if (!strcmp(config->format, "qcow2") && !w->image->unpackable) {
            work_pack(w, number, first);
            break;
        }
        work_write(w, number, first, n);
        break;
    case 6:
        if (config->snapshots) {
            work_snapshot(w);
            break;
        }
        if (config->resizes) {
            work_resize(w);
            break;
        }
        __attribute__((fallthrough));
    default: work_write(w, number, first, n); break;
    }
}

/* ---- cutting ---- */

static void keep_sample(const struct config *config, const struct buf *content)
{
    char path[300];
    snprintf(path, sizeof path, "%s/cut-%lu.%s", sample_dir, samples++, config->format);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write_full(fd, content->data, content->len), 0);
    close(fd);
}

static void report(void *arg, const char *text)
{
    if (strncmp(text, "leak", 4))
        print_message("  %s\n", text);
}

/* A disk after `what` opens, checks without corruption, and can be read. */
static struct image *open_sound(const struct config *config, struct disk *disk, uint8_t *data,
                                const char *what)
{
    struct err err = { 0 };
    struct image *image = open_over(config, disk);
    struct image_check check = { .report = report };
    if (image->format->check && image_check(image, &check, &err) < 0)
        fail_msg("%s: %s: %s", config->options, what, err.text);
    if (check.count.corruptions || check.count.check_errors)
        fail_msg("%s: %s: %llu corruptions", config->options, what,
                 (unsigned long long)check.count.corruptions);
    if (check.count.leaks > most_leaks)
        most_leaks = check.count.leaks;
    int r = disk_access(config, image, READ, data, 0, SECTORS);
    if (r < 0)
        fail_msg("%s: %s: cannot be read: %s", config->options, what, strerror(-r));
    return image;
}

static void cut_check(const struct work *w, const struct config *config, size_t when,
                      unsigned choice, struct disk *cut)
{
    static uint8_t data[DISK];
    char what[80];
    cases++;
    snprintf(what, sizeof what, "cut behind %zu of %zu, choice %u", when, w->disk.clock, choice);
    /* Overlays name a parent that is gone by now; of qcow2 only the test itself knows that. */
    bool alone = cut->count == 1 && (!config->backing || !strcmp(config->format, "qcow2"));
    if (sample_dir && !config->snapshots && alone && cases % 97 == 0)
        keep_sample(config, &cut->files[0].content);
    struct image *image = open_sound(config, cut, data, what);
    if (!history_allows(w, SECTORS, when, image->size))
        fail_msg("%s: %s: has %llu bytes", config->options, what, (unsigned long long)image->size);
    for (unsigned i = 0; i < SECTORS; i++) {
        uint64_t value;
        memcpy(&value, data + i * SECTOR, 8);
        if (!history_allows(w, i, when, value)) {
            for (size_t k = 0; k < w->sectors[i].count; k++)
                print_message("  since %zu: %llu%s\n", w->sectors[i].past[k].since,
                              (unsigned long long)w->sectors[i].past[k].value,
                              w->sectors[i].past[k].maybe ? " (discard)" : "");
            fail_msg("%s: %s: sector %u holds %llu", config->options, what, i,
                     (unsigned long long)value);
        }
    }
    assert_int_equal(image_close(image), 0);
}

/* ---- a second cut, of what mends and goes on after the first one ---- */

struct second {
    const struct config *config;
    uint64_t size, had[SECTORS], got[SECTORS]; /* before and after the work */
    struct disk disk;
};

static void second_check(const struct second *s, struct disk *cut, size_t when)
{
    static uint8_t data[DISK];
    char what[40];
    cases++;
    snprintf(what, sizeof what, "a second cut, behind %zu", when);
    struct image *image = open_sound(s->config, cut, data, what);
    if (image->size != s->size)
        fail_msg("%s: %s: has %llu bytes", s->config->options, what,
                 (unsigned long long)image->size);
    for (unsigned i = 0; i < SECTORS; i++)
        if (memcmp(data + i * SECTOR, &s->had[i], 8) && memcmp(data + i * SECTOR, &s->got[i], 8))
            fail_msg("%s: %s: sector %u", s->config->options, what, i);
    assert_int_equal(image_close(image), 0);
}

static void cut_again(const struct config *config, const struct disk *first_cut)
{
    static uint8_t data[DISK];
    struct second *s = calloc(1, sizeof *s);
    struct disk cut = { 0 };
    disk_copy(first_cut, &s->disk);
    disk_record(&s->disk);
    struct image *image = open_over(config, &s->disk);
    s->config = config;
    s->size = image->size;
    assert_int_equal(disk_access(config, image, READ, data, 0, SECTORS), 0);
    for (unsigned i = 0; i < SECTORS; i++)
        memcpy(&s->had[i], data + i * SECTOR, 8);
    memcpy(s->got, s->had, sizeof s->got);
    for (unsigned k = 0; k < 3; k++) {
        unsigned first = (unsigned)(test_random(&seed) % (SECTORS - 8));
        for (unsigned i = 0; i < 8; i++)
            sector_fill(data + i * SECTOR, s->got[first + i] = 0x5ec04d);
        assert_int_equal(disk_access(config, image, WRITE, data, first, 8), 0);
    }
    assert_int_equal(image_close(image), 0);
    for (size_t when = 0; when <= s->disk.clock; when++)
        for (unsigned choice = 0; choice < 3; choice++) {
            disk_cut(&s->disk, when, choice, &seed, &cut);
            second_check(s, &cut, when);
        }
    disk_fini(&cut);
    disk_fini(&s->disk);
    free(s);
}

static void cut_everywhere(struct work *w, const struct config *config)
{
    struct disk cut = { 0 };
    for (size_t when = 0; when <= w->disk.clock; when++) {
        bool open = true;
        for (unsigned choice = 0; choice < 4 && open; choice++) {
            open = disk_cut(&w->disk, when, choice, &seed, &cut);
            cut_check(w, config, when, choice, &cut);
            if (config->resizes && test_random(&seed) % 20 == 0)
                cut_again(config, &cut);
        }
    }
    disk_fini(&cut);
}

static void run_config(const struct config *config)
{
    struct work *w = calloc(1, sizeof *w);
    create_over(config, &w->disk);
    w->config = config;
    w->image = open_over(config, &w->disk);
    start_zeroed(config, w->image);
    disk_record(&w->disk);
    for (unsigned i = 0; i < SECTORS; i++)
        history_add(w, i, 0, config->backing ? 0x8000000000000000ull + i : 0, false);
    history_add(w, SECTORS, 0, w->image->size, false);
    for (uint64_t number = 1; number <= config->operations; number++)
        work_one(w, config, number);
    static uint8_t data[DISK];
    assert_int_equal(disk_access(config, w->image, READ, data, 0, SECTORS), 0);
    for (unsigned i = 0; i < SECTORS; i++)
        if (memcmp(data + i * SECTOR, &w->now[i], 8))
            fail_msg("%s: sector %u is not what was written", config->options, i);
    work_flush(w);
    assert_int_equal(image_close(w->image), 0);

    cut_everywhere(w, config);
    for (unsigned i = 0; i <= SECTORS; i++)
        free(w->sectors[i].past);
    disk_fini(&w->disk);
    free(w);
}

static void test_power_cuts(void **state)
{
    for (unsigned round = 0; round < rounds; round++) {
        print_message("round %u of %u, seed %llu: %lu cuts so far\n", round + 1, rounds,
                      (unsigned long long)seed, cases);
        for (unsigned i = 0; i < ARRAY_LEN(configs); i++)
            run_config(&configs[i]);
    }
    print_message("%lu cuts, at most %lu leaked clusters\n", cases, most_leaks);
}

/* ---- failures ---- */

/* Values that each sector may hold: what is sure, and what failed operations may have left. */
struct doubt {
    uint64_t sure[SECTORS], maybe[SECTORS][64];
    unsigned count[SECTORS];
};

static void doubt_note(struct doubt *d, unsigned first, unsigned n, uint64_t value, int result)
{
    for (unsigned i = first; i < first + n; i++) {
        if (!result) {
            d->sure[i] = value;
            d->count[i] = 0;
        } else if (d->count[i] < 64) {
            d->maybe[i][d->count[i]++] = value;
        }
    }
}

static void doubt_check(const struct doubt *d, struct image *image, const struct config *config)
{
    static uint8_t data[DISK];
    const char *what = config->options;
    int r = disk_access(config, image, READ, data, 0, SECTORS);
    if (r < 0)
        fail_msg("%s: cannot be read: %s", what, strerror(-r));
    for (unsigned i = 0; i < SECTORS; i++) {
        uint64_t value;
        memcpy(&value, data + i * SECTOR, 8);
        bool good = value == d->sure[i];
        for (unsigned k = 0; k < d->count[i]; k++)
            good |= value == d->maybe[i][k];
        if (!good)
            fail_msg("%s: sector %u holds %llu instead of %llu", what, i, (unsigned long long)value,
                     (unsigned long long)d->sure[i]);
    }
}

/* Every few calls to the file one fails, or the file system is full; what succeeded stays. */
static void fail_config(const struct config *config)
{
    struct doubt *d = calloc(1, sizeof *d);
    struct disk disk = { 0 };
    struct err err = { 0 };
    create_over(config, &disk);
    struct image *image = open_over(config, &disk);
    start_zeroed(config, image);
    for (unsigned i = 0; i < SECTORS; i++)
        d->sure[i] = config->backing ? 0x8000000000000000ull + i : 0;
    bool full = test_random(&seed) & 1;
    static uint8_t data[DISK];
    for (uint64_t number = 1; number <= 120; number++) {
        unsigned first = (unsigned)(test_random(&seed) % SECTORS);
        unsigned most = SECTORS - first < MAX_RUN ? SECTORS - first : MAX_RUN;
        unsigned n = 1 + (unsigned)(test_random(&seed) % most);
        struct file *file = &disk.files[test_random(&seed) % disk.count];
        struct recorder *recorder = &file->recorder;
        if (full)
            recorder->size_max = test_random(&seed) % 3 ? file->content.len : 0;
        else
            recorder->fail_in = (int64_t)(test_random(&seed) % 12);
        recorder->fail_kinds = 15;
        recorder->fail_code = test_random(&seed) & 1 ? EIO : ENOSPC;
        int r;
        switch (test_random(&seed) % 7) {
        case 0: image_flush(image); break;
        case 6:
            if (config->resizes) {
                image_resize(image, another_size(config, image), PREALLOC_OFF, &err);
                break;
            }
            __attribute__((fallthrough));
        case 1:
            r = disk_access(config, image, UNMAP, NULL, first, n);
            doubt_note(d, first, n, 0, r);
            break;
        default:
            for (unsigned i = 0; i < n; i++)
                sector_fill(data + i * SECTOR, number);
            r = disk_access(config, image, WRITE, data, first, n);
            doubt_note(d, first, n, number, r);
        }
        recorder->fail_in = -1;
        recorder->size_max = 0;
        if (number % 30 == 0)
            doubt_check(d, image, config);
    }
    assert_int_equal(image_close(image), 0);
    image = open_sound(config, &disk, data, "failures");
    doubt_check(d, image, config);
    assert_int_equal(image_close(image), 0);
    disk_fini(&disk);
    free(d);
}

static void test_failures(void **state)
{
    log_set_level(LOG_ERROR - 1, LOG_ERROR - 1);
    for (unsigned round = 0; round < rounds * 10; round++)
        for (unsigned i = 0; i < ARRAY_LEN(configs); i++)
            fail_config(&configs[i]);
}

/* Shrinks by `TAIL` bytes that have data, and grows again, while each call in turn fails: an image
 * that keeps its size keeps its data, too. */
enum { TAIL = 9 * SECTOR };
static void tail_fill(struct image *image, uint64_t size)
{
    static uint8_t data[TAIL];
    struct err err = { 0 };
    memset(data, 0x7a, sizeof data);
    if (image->size < size && image_resize(image, size, PREALLOC_OFF, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(image_write(image, data, TAIL, size - TAIL), 0);
}

/* True: it failed, as it was to. */
static bool resize_failing(const struct config *config, struct disk *disk, unsigned file, bool grow,
                           int64_t in, uint64_t size)
{
    static uint8_t data[TAIL];
    struct err err = { 0 };
    struct recorder *recorder = &disk->files[file].recorder;
    struct image *image = open_over(config, disk);
    tail_fill(image, size);
    recorder->fail_in = in;
    recorder->fail_kinds = 15;
    recorder->fail_code = EIO;
    int r = image_resize(image, grow ? size + TAIL : size - TAIL, PREALLOC_OFF, &err);
    recorder->fail_in = -1;
    uint64_t now = image->size;
    image_close(image);
    image = open_over(config, disk);
    if (r == 0 || image->size != size) {
        assert_int_equal(image->size, grow ? size + TAIL : size - TAIL);
    } else {
        assert_int_equal(now, size);
        assert_int_equal(image_read(image, data, TAIL, size - TAIL), 0);
        for (unsigned i = 0; i < TAIL; i++)
            if (data[i] != 0x7a)
                fail_msg("%s: failure %lld of %s took byte %u of the tail", config->options,
                         (long long)in, grow ? "growing" : "shrinking", i);
    }
    if (image->size > size)
        assert_int_equal(image_resize(image, size, PREALLOC_OFF, &err), 0);
    assert_int_equal(image_close(image), 0);
    return r < 0;
}

static void test_failed_resizes(void **state)
{
    for (unsigned i = 0; i < ARRAY_LEN(configs); i++) {
        const struct config *config = &configs[i];
        struct disk disk = { 0 };
        if (!config->resizes)
            continue;
        create_over(config, &disk);
        uint64_t size = disk_size(config) + 2 * TAIL;
        for (unsigned file = 0; file < disk.count; file++)
            for (int grow = 0; grow < 2; grow++)
                for (int64_t in = 0; resize_failing(config, &disk, file, grow, in, size);)
                    in++;
        disk_fini(&disk);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        rounds = (unsigned)strtoul(argv[1], NULL, 10);
    if (argc > 2)
        seed = strtoull(argv[2], NULL, 0);
    if (argc > 3)
        sample_dir = argv[3];
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_power_cuts),
                                        cmocka_unit_test(test_failures),
                                        cmocka_unit_test(test_failed_resizes) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
