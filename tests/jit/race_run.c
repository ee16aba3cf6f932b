/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A race that is rare by itself, forced: a block's bytes change after they were copied and before
 * the vCPU that changes them knows that the page holds code, so that nobody notices the store.
 *
 *   race_run OPTIONS FILE   runs tests/guests/code_race.S
 *
 * The writer waits in a device, in the middle of a block, until the reader has decoded the
 * function; the reader waits in the decoder until the writer has stored and acknowledged the page's
 * epoch. Then only the second look at the bytes (invariant 2 of engine/soft/code_page.h) is left to
 * notice.
 */
#include "base/checked.h"
#include "engine/soft/engine.h"
#include "engine/soft/run.h"
#include "guests/guests_machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MEETING = 0x20000000, STAND = 0, STANDS = 4 }; /* code_race.S */
enum { RACES = 64, RACES_MIN = 48, LIMIT_SECONDS = 60 };

static struct guests_machine gm;
static _Atomic bool stands, copied, noticed, given_up;
static unsigned races, missed; /* of the reader's thread, until the machine stands still */

static bool wait_for(bool (*happened)(void))
{
    const uint64_t deadline = monotonic_ns() + LIMIT_SECONDS * 1000000000ull;
    while (!happened() && !atomic_load(&given_up)) {
        nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
        if (monotonic_ns() > deadline)
            atomic_store(&given_up, true);
    }
    return !atomic_load(&given_up);
}

/* ---- The writer ---- */

static bool was_copied(void) { return atomic_load(&copied); }

static uint64_t meeting_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    if (offset == STANDS)
        return atomic_load(&stands);
    if (offset == STAND) {
        atomic_store(&copied, false);
        atomic_store(&noticed, false);
        atomic_store(&stands, true);
        wait_for(was_copied);
        atomic_store(&stands, false);
    }
    return 0;
}

static void meeting_destroy(struct device *dev)
{
    device_fini(dev);
    free(dev);
}

static const struct device_type meeting_type = {
    .name = "meeting",
    .threads = DEVICE_PARALLEL, /* both vCPUs are in it at once */
    .destroy = meeting_destroy,
    .read = meeting_read,
};

/* The writer had lost its tag before, so that it is no race. It waits for the reader's lock now. */
void __real_code_written(struct soft_engine *e, struct ram *ram, uint64_t offset, uint64_t len);
void __wrap_code_written(struct soft_engine *e, struct ram *ram, uint64_t offset, uint64_t len);
void __wrap_code_written(struct soft_engine *e, struct ram *ram, uint64_t offset, uint64_t len)
{
    atomic_store(&noticed, true);
    __real_code_written(e, ram, offset, len);
}

/* ---- The reader ---- */

static bool writer_knows(void)
{
    const struct soft_vcpu *writer = soft_vcpu_of(gm.m->vcpus[1]);
    return atomic_load(&noticed) || atomic_load(&writer->run->acked) ==
                                        atomic_load(&soft_engine_of(writer)->code.pages.epoch);
}

static bool is_the_function(const uint8_t *code, int len)
{
    static const uint8_t old[] = { 0xb8, 0x0d, 0x60, 0x01, 0x00 }; /* mov $OLD, %eax */
    return len == sizeof old && !memcmp(code, old, sizeof old);
}

/* What is decoded is a copy. */
int __real_insn_decode(const uint8_t *code, unsigned len, int mode, uint64_t features,
                       unsigned offset, struct insn *out, bool *gp);
int __wrap_insn_decode(const uint8_t *code, unsigned len, int mode, uint64_t features,
                       unsigned offset, struct insn *out, bool *gp);
int __wrap_insn_decode(const uint8_t *code, unsigned len, int mode, uint64_t features,
                       unsigned offset, struct insn *out, bool *gp)
{
    int r = __real_insn_decode(code, len, mode, features, offset, out, gp);
    if (atomic_load(&stands) && is_the_function(code, r)) {
        atomic_store(&copied, true);
        if (wait_for(writer_knows))
            ++*(atomic_load(&noticed) ? &missed : &races);
    }
    return r;
}

int main(int argc, char **argv)
{
    static struct guest g;
    struct err err = { 0 };
    struct mapping *mapping;
    if (argc != 3 || !guest_load(argv[2], &g)) {
        fprintf(stderr, "usage: race_run OPTIONS FILE\n");
        return 2;
    }
    guests_machine_open(&gm, &g, &engine_soft, argv[1], cpu_model_find("x86-64-v2"));
    struct device *meeting = calloc(1, sizeof *meeting);
    if (!meeting)
        abort();
    device_init(meeting, gm.m, &meeting_type, "meeting");
    machine_add_device(gm.m, meeting);
    if (map_device(gm.m, SPACE_MEMORY, MEETING, PAGE_SIZE, meeting, 0, 0, &mapping, &err) < 0) {
        fprintf(stderr, "race_run: %s\n", err.text);
        return 1;
    }
    machine_start(gm.m);
    bool answered = guests_machine_wait(&gm, monotonic_ns() + 2 * LIMIT_SECONDS * 1000000000ull);
    atomic_store(&given_up, true);
    machine_pause(gm.m);
    printf("%u races, %u times the store was noticed: ", races, missed);
    answer_print(&gm.answer, answered);
    bool right = answered && gm.answer.given && !gm.answer.code && races + missed == RACES &&
                 races >= RACES_MIN;
    guests_machine_close(&gm);
    printf("%s\n", right ? "passed" : "FAILED");
    return right ? 0 : 1;
}
