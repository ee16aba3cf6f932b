/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guests that are moved while they run:
 *
 *   moves_run bounce ENGINE[,OPT] ENGINE[,OPT] FILE   to and fro every few milliseconds
 *   moves_run copy ENGINE[,OPT] FILE                  page by page through the dirty log
 *
 * bounce: the whole state of each vCPU and memory go to a machine with the other engine or other
 * options; the guest's answer must be right and it must have been moved often. copy: a copy kept up
 * to date by dirty_log_fetch_clear must equal memory once the guest stands still, although a disk
 * reads into the same memory meanwhile, by leases as virtio-blk does.
 */
#include "base/checked.h"
#include "engine/kvm/engine.h"
#include "engine/soft/engine.h"
#include "guests_machine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { SKIPPED = 77, CPUS = 2, BOUNCES_MIN = 20, COPY_ROUNDS = 40 };
enum { DISK_BYTES = 1 << 20, DISK_GPA = 2 << 20 };

static void sleep_ms(unsigned ms)
{
    nanosleep(&(struct timespec){ .tv_nsec = (long)ms * 1000000 }, NULL);
}

/* What every KVM and the soft engine have: no XSAVE, no PCID, no SMEP, no VME. */
static const struct cpuid_entry plain_entries[] = {
    { 0x0, CPUID_ANY_SUBLEAF, 0xd, 0x68747541, 0x444d4163, 0x69746e65 },
    { 0x1, CPUID_ANY_SUBLEAF, 0x60fb1, 0x800, 0x81202000, 0x078bfbfd },
    { 0x6, CPUID_ANY_SUBLEAF, 4, 0, 0, 0 },
    { 0x80000000, CPUID_ANY_SUBLEAF, 0x80000008, 0, 0, 0 },
    { 0x80000001, CPUID_ANY_SUBLEAF, 0x60fb1, 0, 1, 0x20100800 },
    { 0x80000008, CPUID_ANY_SUBLEAF, 40 | 48 << 8, 0, 0, 0 },
    { 0xffffffff, 0, 0, 0, 0, 0 },
};
static const struct cpu_model plain = { "plain", "for moves", plain_entries };

static bool has_engine(const struct engine_type *engine)
{
    struct err err = { 0 };
    bool slow;
    if (engine->probe(&slow, &err) == 0)
        return true;
    printf("skip: %s\n", err.text);
    return false;
}

/* ---- bounce ---- */

static int state_move(struct guests_machine *from, struct guests_machine *to)
{
    struct err err = { 0 };
    struct arch_state states[CPUS];
    for (unsigned i = 0; i < CPUS; i++)
        if (from->m->engine->type->get_state(from->m->vcpus[i], &states[i], &err) < 0 ||
            arch_state_desc.check(&states[i], &err) < 0) {
            printf("from %s: vcpu %u: %s\n", from->m->engine->type->name, i, err.text);
            return -1;
        }
    memcpy(to->m->main_ram->hva, from->m->main_ram->hva, GUEST_MEMORY);
    ram_written(to->m, to->m->main_ram, 0, GUEST_MEMORY);
    clock_set(to->m, guest_now_ns(from->m), guest_epoch_ns(from->m));
    for (unsigned i = 0; i < CPUS; i++)
        if (to->m->engine->type->set_state(to->m->vcpus[i], &states[i], &err) < 0) {
            printf("to %s: %s\n", to->m->engine->type->name, err.text);
            return -1;
        }
    return 0;
}

static void machine_go_on(struct machine *m)
{
    if (m->state == MACHINE_CREATED)
        machine_start(m);
    else
        machine_resume(m);
}

static const struct engine_type *engine_named(const char *text)
{
    return strncmp(text, "kvm", 3) ? &engine_soft : &engine_kvm;
}
static const char *options_of(const char *text)
{
    const char *comma = strchr(text, ',');
    return comma ? comma + 1 : NULL;
}

static int bounce(const struct guest *g, char **engines)
{
    struct guests_machine on[2];
    for (unsigned i = 0; i < 2; i++)
        if (!has_engine(engine_named(engines[i])))
            return SKIPPED;
    for (unsigned i = 0; i < 2; i++)
        guests_machine_open(&on[i], g, engine_named(engines[i]), options_of(engines[i]), &plain);

    unsigned moves = 0, at = 0;
    uint64_t deadline = monotonic_ns() + 120000000000ull;
    bool answered = false, failed = false;
    for (;;) {
        machine_go_on(on[at].m);
        /* A slow KVM has to get on between moves; two soft ones would be done before many. */
        bool kvm = !strncmp(engines[0], "kvm", 3) || !strncmp(engines[1], "kvm", 3);
        uint64_t slice_ns = kvm ? 1000000 : 150000;
        answered =
            guests_machine_wait(&on[at], monotonic_ns() + slice_ns + moves % 7 * slice_ns / 2);
        machine_pause(on[at].m);
        answered = answered || on[at].answer.given; /* while we were stopping it */
        if (answered || monotonic_ns() > deadline)
            break;
        failed = state_move(&on[at], &on[1 - at]) < 0;
        if (failed)
            break;
        at = 1 - at;
        moves++;
    }
    printf("%u moves, on %s: ", moves, engines[at]);
    if (!failed)
        answer_print(&on[at].answer, answered);
    bool right = answered && on[at].answer.given && !on[at].answer.code && moves >= BOUNCES_MIN;
    for (unsigned i = 0; i < 2; i++)
        guests_machine_close(&on[i]);
    printf("%s\n", right ? "passed" : "FAILED");
    return right ? 0 : 1;
}

/* ---- copy ---- */

static void pages_copy(const struct ram *ram, const uint64_t *bitmap, uint8_t *copy)
{
    for (uint64_t page = 0; page < ram->size / PAGE_SIZE; page++)
        if (bitmap[page / 64] >> page % 64 & 1)
            memcpy(copy + page * PAGE_SIZE, ram->hva + page * PAGE_SIZE, PAGE_SIZE);
}

struct disk {
    struct machine *m;
    int fd;
    _Atomic bool stop;
    uint64_t reads; /* whole ones; the thread's own until it is joined */
};

static int disk_open(void)
{
    int fd = memfd_create("disk", MFD_CLOEXEC);
    for (uint64_t n = 0, x = 1; fd >= 0 && n < DISK_BYTES; n += sizeof x) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        if (pwrite(fd, &x, sizeof x, (off_t)n) != sizeof x)
            abort();
    }
    return fd;
}

static void *disk_load(void *arg)
{
    struct disk *d = arg;
    for (uint64_t x = 1; !atomic_load(&d->stop);) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        uint64_t len = 512 * (1 + (x >> 59));
        uint64_t gpa = DISK_GPA + (x >> 20) % (GUEST_MEMORY - DISK_GPA - len);
        struct dma lease;
        if (dma_begin(d->m, gpa, len, true, &lease) < 0)
            abort();
        ssize_t got =
            preadv(d->fd, lease.iov, (int)lease.count, (off_t)((x >> 24) % (DISK_BYTES / 2)));
        dma_end(&lease, got > 0 ? (uint64_t)got : 0);
        d->reads += got == (ssize_t)len;
        if (x >> 62 == 0)
            sleep_ms(0);
    }
    return NULL;
}

static int copy(const struct guest *g, const struct engine_type *engine, const char *options)
{
    static uint8_t target[GUEST_MEMORY];
    static uint64_t bitmap[GUEST_MEMORY / PAGE_SIZE / 64];
    struct guests_machine gm;
    struct err err = { 0 };
    if (!has_engine(engine))
        return SKIPPED;
    guests_machine_open(&gm, g, engine, options, &plain);
    struct ram *ram = gm.m->main_ram;
    struct disk disk = { .m = gm.m, .fd = disk_open() };
    pthread_t disk_thread;
    if (disk.fd < 0 || pthread_create(&disk_thread, NULL, disk_load, &disk)) {
        printf("FAILED: no disk\n");
        return 1;
    }
    machine_start(gm.m);
    sleep_ms(50);
    if (dirty_log_start(gm.m, &err) < 0) {
        printf("FAILED: %s\n", err.text);
        return 1;
    }
    memset(bitmap, 0xff, sizeof bitmap);
    pages_copy(ram, bitmap, target);
    uint64_t pages = 0;
    for (unsigned round = 0; round < COPY_ROUNDS; round++) {
        sleep_ms(round % 5);
        pages += dirty_log_fetch_clear(gm.m, ram, bitmap);
        pages_copy(ram, bitmap, target);
    }
    machine_pause(gm.m);
    atomic_store(&disk.stop, true);
    pthread_join(disk_thread, NULL);
    close(disk.fd);
    dirty_log_fetch_clear(gm.m, ram, bitmap);
    pages_copy(ram, bitmap, target);
    uint64_t wrong = 0;
    for (uint64_t page = 0; page < GUEST_MEMORY / PAGE_SIZE; page++)
        wrong += !!memcmp(target + page * PAGE_SIZE, ram->hva + page * PAGE_SIZE, PAGE_SIZE);
    dirty_log_stop(gm.m);
    guests_machine_close(&gm);
    bool right = !wrong && pages > COPY_ROUNDS && disk.reads > COPY_ROUNDS;
    printf("%llu dirty pages in %u rounds, %llu reads of the disk, %llu pages differ: %s\n",
           (unsigned long long)pages, COPY_ROUNDS, (unsigned long long)disk.reads,
           (unsigned long long)wrong, right ? "passed" : "FAILED");
    return right ? 0 : 1;
}

int main(int argc, char **argv)
{
    static struct guest g;
    if (argc == 5 && !strcmp(argv[1], "bounce") && guest_load(argv[4], &g))
        return bounce(&g, argv + 2);
    if (argc == 4 && !strcmp(argv[1], "copy") && guest_load(argv[3], &g))
        return copy(&g, engine_named(argv[2]), options_of(argv[2]));
    fprintf(stderr, "usage: moves_run bounce ENGINE[,OPTION] ENGINE[,OPTION] FILE | "
                    "moves_run copy ENGINE[,OPTION] FILE\n");
    return 2;
}
