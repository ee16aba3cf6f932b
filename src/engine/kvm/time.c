/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest time under KVM. Its TSC, kvmclock and APIC timers run with the host's clocks; the machine's
 * clock stands while the VM does. So when the clock stops, each vCPU's TSC offset and timer are
 * expressed in guest time and KVM's timers are switched off; when it starts, they are set anew.
 *
 * TSC offsets are written as offsets and computed from one pair of (guest time, host TSC) for all
 * vCPUs, so they stay synchronous to the cycle.
 *
 * A one-shot timer that KVM shows at zero has expired; whether its interrupt was already accepted
 * or was about to be, KVM does not tell. We take it for the latter: one interrupt too many is a
 * wake-up, one too few can stop a guest for good.
 */
#include "engine/kvm/kvm.h"

#include "base/log.h"

#include <string.h>

enum { MSR_TSC = 0x10, MSR_TSC_DEADLINE = 0x6e0 };
enum { LVT_MASKED = 1 << 16, LVT_ONE_SHOT = 0, LVT_PERIODIC = 1, LVT_DEADLINE = 2 };

static unsigned lvt_mode(uint32_t lvt) { return lvt >> 17 & 3; }

/* ---- TSC ---- */

static int offset_access(const struct kvm_vcpu *v, unsigned long request, uint64_t *offset)
{
    struct kvm_device_attr attr = {
        .group = KVM_VCPU_TSC_CTRL,
        .attr = KVM_VCPU_TSC_OFFSET,
        .addr = (uint64_t)(uintptr_t)offset,
    };
    return ioctl(v->fd, request, &attr) < 0 ? -errno : 0;
}

/* The host's TSC at the guest's pace: what a guest with offset 0 would read now. */
static uint64_t tsc_scaled(const struct kvm_engine *e)
{
    struct kvm_vcpu *v = e->vcpus[0];
    uint64_t tsc = 0, offset = 0;
    if (msr_get(v, MSR_TSC, &tsc) < 0 || offset_access(v, KVM_GET_DEVICE_ATTR, &offset) < 0)
        log_error("kvm: cannot read the TSC");
    return tsc - offset;
}

struct time_pair {
    uint64_t guest_ns, tsc; /* tsc_scaled at that time */
};

/* The closest of a few tries: between the two readings the host may do anything. */
static struct time_pair time_pair(const struct kvm_engine *e)
{
    struct time_pair best = { 0 };
    uint64_t best_gap = UINT64_MAX;
    for (unsigned i = 0; i < 3; i++) {
        uint64_t before = guest_now_ns(e->engine.machine);
        uint64_t tsc = tsc_scaled(e);
        uint64_t gap = guest_now_ns(e->engine.machine) - before;
        if (gap < best_gap) {
            best = (struct time_pair){ before + gap / 2, tsc };
            best_gap = gap;
        }
    }
    return best;
}

/* What a vCPU's TSC is ahead of the machine's, at `now`. */
static int64_t tsc_lead(const struct kvm_vcpu *v, const struct time_pair *now)
{
    const struct kvm_engine *e = kvm_engine_of_vcpu(v);
    uint64_t offset = 0;
    if (offset_access(v, KVM_GET_DEVICE_ATTR, &offset) < 0)
        log_error("kvm: cannot read a TSC offset");
    return (int64_t)(now->tsc + offset - tsc_of_ns(now->guest_ns, e->engine.machine->tsc_khz));
}

static int tsc_lead_set(const struct kvm_vcpu *v, const struct time_pair *now, int64_t lead)
{
    const struct kvm_engine *e = kvm_engine_of_vcpu(v);
    uint64_t offset =
        tsc_of_ns(now->guest_ns, e->engine.machine->tsc_khz) + (uint64_t)lead - now->tsc;
    return offset_access(v, KVM_SET_DEVICE_ATTR, &offset);
}

/* ---- APIC timers ---- */

static uint64_t divide_of(const struct kvm_lapic_state *page)
{
    uint32_t dcr = apic_get(page, APIC_DIVIDE);
    return 1ull << (((dcr & 3) | (dcr & 8) >> 1) + 1) % 8;
}

static uint64_t deadline_of(const struct kvm_lapic_state *page, uint64_t now_ns)
{
    uint32_t lvt = apic_get(page, APIC_TIMER), current = apic_get(page, APIC_CURRENT);
    if (lvt_mode(lvt) > LVT_PERIODIC || !apic_get(page, APIC_INITIAL))
        return 0;
    if (!current && lvt_mode(lvt) == LVT_ONE_SHOT && lvt & LVT_MASKED)
        return 0; /* nobody waits for it */
    return now_ns + current * divide_of(page);
}

static struct kvm_timer timer_now(struct kvm_vcpu *v, const struct kvm_lapic_state *page,
                                  const struct time_pair *now)
{
    struct kvm_timer t = {
        .tsc_offset = tsc_lead(v, now),
        .initial = apic_get(page, APIC_INITIAL),
        .deadline_ns = deadline_of(page, now->guest_ns),
    };
    if (lvt_mode(apic_get(page, APIC_TIMER)) == LVT_DEADLINE)
        msr_get(v, MSR_TSC_DEADLINE, &t.tsc_deadline);
    return t;
}

struct kvm_timer time_read(struct kvm_vcpu *v, const struct kvm_lapic_state *page)
{
    struct kvm_engine *e = kvm_engine_of_vcpu(v);
    if (!e->clock_running)
        return v->timer; /* 4 */
    struct time_pair now = time_pair(e);
    return timer_now(v, page, &now);
}

void time_fill_page(struct kvm_engine *e, const struct kvm_timer *t, struct kvm_lapic_state *page)
{
    apic_set(page, APIC_INITIAL, 0);
    apic_set(page, APIC_CURRENT, 0);
    bool periodic = lvt_mode(apic_get(page, APIC_TIMER)) == LVT_PERIODIC;
    /* KVM starts a one-shot timer that stands at zero once more, so an expired one must look as if
     * it had never been set. */
    if (!e->clock_running || !t->initial || (!t->deadline_ns && !periodic))
        return;
    uint64_t now = guest_now_ns(e->engine.machine), divide = divide_of(page);
    uint64_t left = t->deadline_ns > now ? (t->deadline_ns - now + divide - 1) / divide : 1;
    apic_set(page, APIC_INITIAL, t->initial);
    apic_set(page, APIC_CURRENT, left < t->initial ? (uint32_t)left : t->initial);
}

int time_write(struct kvm_vcpu *v, const struct kvm_timer *t)
{
    struct kvm_engine *e = kvm_engine_of_vcpu(v);
    v->left.valid = false;
    v->timer = *t;
    if (!e->clock_running)
        return msr_set(v, MSR_TSC_DEADLINE, 0);
    struct time_pair now = time_pair(e);
    int r = tsc_lead_set(v, &now, t->tsc_offset);
    return r < 0 ? r : msr_set(v, MSR_TSC_DEADLINE, t->tsc_deadline);
}

void time_left(struct kvm_vcpu *v)
{
    struct kvm_lapic_state page;
    struct kvm_engine *e = kvm_engine_of_vcpu(v);
    v->left.valid = e->clock_running && ioctl(v->fd, KVM_GET_LAPIC, &page) == 0;
    if (!v->left.valid)
        return;
    v->left.timer = (struct kvm_timer){
        .initial = apic_get(&page, APIC_INITIAL),
        .deadline_ns = deadline_of(&page, guest_now_ns(e->engine.machine)),
    };
}

/* ---- the clock stops and starts ---- */

static int timer_install(struct kvm_vcpu *v, const struct kvm_timer *t)
{
    struct kvm_lapic_state page;
    if (ioctl(v->fd, KVM_GET_LAPIC, &page) < 0)
        return -errno;
    time_fill_page(kvm_engine_of_vcpu(v), t, &page);
    if (ioctl(v->fd, KVM_SET_LAPIC, &page) < 0)
        return -errno;
    return 0;
}

static int vcpu_freeze(struct kvm_vcpu *v, const struct time_pair *now)
{
    struct kvm_lapic_state page;
    if (ioctl(v->fd, KVM_GET_LAPIC, &page) < 0)
        return -errno;
    struct kvm_timer t = timer_now(v, &page, now);
    if (v->left.valid) {
        t.deadline_ns = v->left.timer.deadline_ns;
        t.initial = v->left.timer.initial;
    }
    v->left.valid = false;
    v->timer = t;
    int r = timer_install(v, &t);
    return r < 0 ? r : msr_set(v, MSR_TSC_DEADLINE, 0);
}

static int vcpu_thaw(struct kvm_vcpu *v, const struct time_pair *now)
{
    int r = tsc_lead_set(v, now, v->timer.tsc_offset);
    if (r == 0)
        r = timer_install(v, &v->timer);
    if (r == 0)
        r = msr_set(v, MSR_TSC_DEADLINE, v->timer.tsc_deadline);
    ioctl(v->fd, KVM_KVMCLOCK_CTRL); /* the guest's watchdogs forgive; EINVAL without kvmclock */
    return r;
}

/* kvmclock shows guest time, but never goes back over what the guest has seen. */
static void kvmclock_start(struct kvm_engine *e)
{
    struct kvm_clock_data data = { 0 };
    uint64_t now = guest_now_ns(e->engine.machine);
    uint64_t seen = e->kvmclock_stopped;
    data.clock = now > seen ? now : seen;
    if (ioctl(e->fd, KVM_SET_CLOCK, &data) < 0)
        log_error("kvm: cannot set the guest's clock: %s", strerror(errno));
}

static void kvmclock_stop(struct kvm_engine *e)
{
    struct kvm_clock_data data = { 0 };
    if (ioctl(e->fd, KVM_GET_CLOCK, &data) == 0)
        e->kvmclock_stopped = data.clock;
}

void time_clock_changed(struct engine *engine, bool running)
{
    struct kvm_engine *e = kvm_engine_of(engine);
    if (!e->vcpu_count || e->clock_running == running) {
        if (!running)
            e->kvmclock_stopped = 0; /* the clock was set: another guest, or another time */
        return;
    }
    struct time_pair now;
    if (running) {
        e->clock_running = true;
        kvmclock_start(e);
        now = time_pair(e);
    } else {
        /* The machine's clock stands already, so the pair needs no second try. */
        kvmclock_stop(e);
        now = (struct time_pair){ guest_now_ns(engine->machine), tsc_scaled(e) };
        e->clock_running = false;
    }
    for (unsigned i = 0; i < e->vcpu_count; i++) {
        int r = running ? vcpu_thaw(e->vcpus[i], &now) : vcpu_freeze(e->vcpus[i], &now);
        if (r < 0)
            log_error("vcpu %u: KVM cannot %s its timers: %s", i, running ? "start" : "stop",
                      strerror(-r));
    }
}

/* ---- create ---- */

/* The TSC's pace as KVM would give it to a vCPU. */
static uint64_t tsc_default_khz(int vm)
{
    int khz = ioctl(vm, KVM_GET_TSC_KHZ, 0);
    return khz > 0 ? (uint64_t)khz : 0;
}

int time_create(struct kvm_engine *e, struct err *err)
{
    struct machine *m = e->engine.machine;
    if (!m->tsc_khz)
        m->tsc_khz = tsc_default_khz(e->fd);
    if (!m->tsc_khz || m->tsc_khz > INT32_MAX)
        return err_set(err, EIO, "KVM does not tell the pace of the TSC");
    return 0;
}

int time_vcpu_create(struct kvm_vcpu *v, struct err *err)
{
    struct kvm_engine *e = kvm_engine_of_vcpu(v);
    uint64_t khz = e->engine.machine->tsc_khz;
    if (ioctl(v->fd, KVM_SET_TSC_KHZ, (unsigned long)khz) < 0)
        return err_errno(err, errno, "this host's KVM cannot give the guest a TSC of %llu kHz",
                         (unsigned long long)khz);
    return 0;
}
