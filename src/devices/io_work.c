/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Coalesced posts of a device to the I/O loop. */
#include "devices/io_work.h"

#include "machine/machine.h"

void io_work_init(struct io_work *work, struct machine *m, void (*fn)(void *arg), void *arg)
{
    *work = (struct io_work){ .machine = m, .fn = fn, .arg = arg, .paused = true };
}

static void io_work_run(void *arg)
{
    struct io_work *work = arg;
    atomic_store(&work->posted, false);
    if (!work->paused)
        work->fn(work->arg);
}

void io_work_kick(struct io_work *work)
{
    if (!atomic_exchange(&work->posted, true))
        loop_post(work->machine->io_loop, io_work_run, work);
}

static void io_work_do_pause(void *arg) { ((struct io_work *)arg)->paused = true; }

/* Being a call on the loop, it runs behind everything that was posted before. */
void io_work_pause(struct io_work *work)
{
    if (work->machine)
        loop_call(work->machine->io_loop, io_work_do_pause, work);
}

static void io_work_do_resume(void *arg)
{
    struct io_work *work = arg;
    work->paused = false;
    io_work_kick(work);
}

void io_work_resume(struct io_work *work)
{
    loop_call(work->machine->io_loop, io_work_do_resume, work);
}

void io_work_fini(struct io_work *work) { io_work_pause(work); }
