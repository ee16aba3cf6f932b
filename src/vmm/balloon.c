/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The balloon and the control command of its name.
 *
 * The guest is asked for new statistics with each request. It answers within a moment, later, or
 * never: a request waits for at most ANSWER_MS and then gets what was told last, with its age.
 */
#include "devices/virtio/balloon.h"
#include "devices/pci.h"
#include "vmm/vmm.h"

enum { ANSWER_MS = 1000, WAITING_MAX = 8 };

struct vmm_balloon {
    struct pci_device *pci;   /* the machine's */
    struct loop_timer *timer; /* owned */
    struct control_request *waiting[WAITING_MAX];
    unsigned count;
};

static uint64_t bounded(uint64_t value, uint64_t most) { return value < most ? value : most; }

uint64_t balloon_target(const struct vmm *vmm)
{
    struct virtio_balloon_status s;
    virtio_balloon_status(vmm->balloon->pci, &s);
    return vmm->machine->main_ram->size - s.target;
}

static json_t *balloon_report(const struct vmm *vmm)
{
    struct virtio_balloon_status s;
    virtio_balloon_status(vmm->balloon->pci, &s);
    uint64_t memory = vmm->machine->main_ram->size;
    json_t *stats = json_object();
    for (unsigned i = 0; i < VIRTIO_BALLOON_STATS; i++)
        if (s.known >> i & 1 && virtio_balloon_stat_name(i))
            json_object_set_new(stats, virtio_balloon_stat_name(i),
                                json_integer((json_int_t)bounded(s.stats[i], INT64_MAX)));
    return json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:o, s:f}", "driver", s.driver, "memory",
                     (json_int_t)memory, "target", (json_int_t)(memory - s.target), "actual",
                     (json_int_t)(memory - bounded(s.actual, memory)), "inflated",
                     (json_int_t)s.inflated, "reported", (json_int_t)s.reported, "stats", stats,
                     "stats-age", (double)s.age_ns / 1e9);
}

static void balloon_answer(void *arg)
{
    struct vmm *vmm = arg;
    struct vmm_balloon *b = vmm->balloon;
    loop_timer_disarm(b->timer);
    while (b->count)
        control_finish(b->waiting[--b->count], balloon_report(vmm), NULL);
}

/* io_loop */
static void balloon_refreshed(void *arg)
{
    struct vmm *vmm = arg;
    loop_post(vmm->loop, balloon_answer, vmm);
}

static int balloon_set(struct vmm *vmm, uint64_t target, struct err *err)
{
    uint64_t memory = vmm->machine->main_ram->size;
    if (target > memory)
        return err_set(err, EINVAL, "'target' is more than the VM's memory of %llu bytes",
                       (unsigned long long)memory);
    virtio_balloon_target(vmm->balloon->pci, memory - target);
    return 0;
}

int do_balloon(void *arg, struct control_request *request, const json_t *args, json_t **result,
               struct err *err)
{
    struct vmm *vmm = arg;
    struct vmm_balloon *b = vmm->balloon;
    uint64_t target = 0;
    if (!b)
        return err_set(err, ENODEV, "the VM has no balloon; start it without --balloon off");
    int r = json_get_u64(args, "target", PAGE_SIZE, UINT64_MAX >> 1, &target, err);
    if (r > 0 && vmm->saving.active)
        r = err_set(err, EBUSY, "the VM is being saved; try again when that is done");
    if (r > 0)
        r = balloon_set(vmm, target, err);
    if (r < 0)
        return r;
    if (vmm->machine->state != MACHINE_RUNNING || b->count == WAITING_MAX) {
        *result = balloon_report(vmm);
        return 0;
    }
    if (!b->count)
        loop_timer_arm(b->timer, monotonic_ns() + ANSWER_MS * 1000000ull);
    b->waiting[b->count++] = request;
    virtio_balloon_refresh(b->pci);
    return CONTROL_LATER;
}

int balloon_plug(struct vmm *vmm, struct err *err)
{
    if (!vmm->options.balloon)
        return 0;
    struct vmm_balloon *b = calloc(1, sizeof *b);
    if (!b)
        return err_set(err, ENOMEM, "out of memory");
    vmm->balloon = b;
    struct virtio_balloon_options options = { .id = "balloon0",
                                              .refreshed = balloon_refreshed,
                                              .arg = vmm };
    int r = loop_timer_create(vmm->loop, balloon_answer, vmm, &b->timer, err);
    if (r == 0)
        r = virtio_balloon_create(vmm->machine, &options, &b->pci, err);
    if (r == 0)
        r = vmm_plug(vmm, b->pci, err);
    return r < 0 ? err_prefix(err, "balloon") : 0;
}

void balloon_close(struct vmm *vmm)
{
    if (vmm->balloon && vmm->balloon->timer)
        loop_timer_destroy(vmm->balloon->timer);
    free(vmm->balloon);
    vmm->balloon = NULL;
}
