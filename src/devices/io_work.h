/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Work that a device does on the I/O loop because its register handlers may not: guest memory,
 * disks, network.
 *
 * A kick makes `fn` run once, soon, on machine->io_loop, without locks held; kicks that come before
 * it began count as one. While paused nothing runs, and what was kicked runs after io_work_resume,
 * which kicks by itself: the registers say what there is to do, a restored state's, too.
 */
#ifndef DEVICES_IO_WORK_H
#define DEVICES_IO_WORK_H

#include <stdatomic.h>
#include <stdbool.h>

struct machine;

struct io_work { /* embedded in a device */
    struct machine *machine;
    void (*fn)(void *arg);
    void *arg;
    atomic_bool posted;
    bool paused; /* io_loop; from init to the first resume, too */
};

void io_work_init(struct io_work *work, struct machine *m, void (*fn)(void *arg), void *arg);
void io_work_kick(struct io_work *work); /* any thread, locks held */
/* Main loop. After io_work_pause and io_work_fini nothing runs; accepts what was never begun. */
void io_work_pause(struct io_work *work);
void io_work_resume(struct io_work *work);
void io_work_fini(struct io_work *work);

#endif
