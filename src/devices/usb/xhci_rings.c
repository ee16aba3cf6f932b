/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rings of an xHCI controller: commands, transfers, events. io_loop.
 *
 * TRBs are copied once and the copies used. A control transfer is carried out when all its stages
 * are there, an interrupt transfer when the device has a report, so no transfer is ever half done.
 * Nothing is taken off a ring while the event ring has no room for its events.
 */
#include "base/checked.h"
#include "base/log.h"
#include "devices/usb/xhci_priv.h"

#include <endian.h>
#include <string.h>

enum { TRB_LEN = 16, LINKS_MAX = 8, TD_MAX = 32, CONTROL_MAX = 4096, BUDGET = 64 };
enum { /* 6.4.6 */
       TRB_NORMAL = 1,
       TRB_SETUP,
       TRB_DATA,
       TRB_STATUS,
       TRB_LINK = 6,
       TRB_EVENT_DATA,
       TRB_NOOP,
       TRB_ENABLE_SLOT,
       TRB_DISABLE_SLOT,
       TRB_ADDRESS_DEVICE,
       TRB_CONFIGURE_ENDPOINT,
       TRB_EVALUATE_CONTEXT,
       TRB_RESET_ENDPOINT,
       TRB_STOP_ENDPOINT,
       TRB_SET_DEQUEUE,
       TRB_RESET_DEVICE,
       TRB_COMMAND_NOOP = 23,
       TRB_TRANSFER_EVENT = 32,
       TRB_COMMAND_EVENT,
       TRB_PORT_EVENT
};
enum { /* 6.4.5 */
       CC_SUCCESS = 1,
       CC_TRANSACTION = 4,
       CC_TRB = 5,
       CC_STALL = 6,
       CC_NO_SLOTS = 9,
       CC_SLOT_DISABLED = 11,
       CC_EP_DISABLED = 12,
       CC_SHORT = 13,
       CC_PARAMETER = 17,
       CC_CONTEXT_STATE = 19,
       CC_RING_STOPPED = 24
};
enum { TRB_CYCLE = 1, TRB_TOGGLE = 2, TRB_SHORT = 4, TRB_CHAIN = 16, TRB_IOC = 32, TRB_IDT = 64 };
enum { TRB_BSR = 1 << 9, TRB_IN = 1 << 16, EVENT_DATA = 4 };
enum { CONTEXT = 32, EP_CONTROL = 4, EP_INTERRUPT_IN = 7 };
#define RING_MASK (~15ull)

struct trb {
    uint64_t at, parameter;
    uint32_t status, control;
};

static unsigned trb_type(const struct trb *trb) { return trb->control >> 10 & 63; }

static struct machine *machine_of(struct xhci *xhci) { return xhci->pci.dev.machine; }

/* ---- events ---- */

/* Looks the segment up that the guest named. Answers whether there is one. */
static bool events_open(struct xhci *xhci)
{
    struct xhci_regs *r = &xhci->regs;
    uint64_t base, entry[2];
    {
        LOCKED(&xhci->pci.dev.lock);
        if (r->event_ready || !r->erstsz || !r->erstba)
            return r->event_ready;
        base = r->erstba;
    }
    if (mem_read(machine_of(xhci), base, entry, sizeof entry) < 0)
        return false;
    LOCKED(&xhci->pci.dev.lock);
    uint32_t size = (uint32_t)le64toh(entry[1]) & 0xffff;
    if (size < 16) /* 6.5: at least 16 */
        return false;
    r->event_base = le64toh(entry[0]) & ~63ull;
    r->event_size = size;
    r->event_next = 0;
    r->event_cycle = 1;
    r->event_ready = 1;
    return true;
}

/* Free TRBs of the event ring; one always stays free. */
static unsigned events_room(struct xhci *xhci)
{
    struct xhci_regs *r = &xhci->regs;
    LOCKED(&xhci->pci.dev.lock);
    uint64_t at = (r->erdp & RING_MASK) - r->event_base;
    if (!r->event_ready || at / TRB_LEN >= r->event_size)
        return 0;
    return ((uint32_t)(at / TRB_LEN) + r->event_size - r->event_next - 1) % r->event_size;
}

static void event_post(struct xhci *xhci, uint64_t parameter, uint32_t status, uint32_t control)
{
    struct xhci_regs *r = &xhci->regs;
    uint64_t at = r->event_base + (uint64_t)r->event_next * TRB_LEN, data = htole64(parameter);
    uint32_t low[2] = { htole32(status), htole32(control | r->event_cycle) };
    struct machine *m = machine_of(xhci);
    if (mem_write(m, at, &data, 8) < 0 || mem_write(m, at + 8, &low[0], 4) < 0 ||
        mem_write(m, at + 12, &low[1], 4) < 0)
        log_guest("%s: the event ring lies nowhere", xhci->pci.dev.id);
    LOCKED(&xhci->pci.dev.lock);
    if (++r->event_next == r->event_size) {
        r->event_next = 0;
        r->event_cycle ^= 1;
    }
    xhci_event_posted(xhci);
}

static void command_event(struct xhci *xhci, uint64_t trb, unsigned code, unsigned slot)
{
    event_post(xhci, trb, code << 24, TRB_COMMAND_EVENT << 10 | slot << 24);
}

struct endpoint_ref {
    unsigned slot, dci; /* from 1 */
    struct xhci_endpoint *ep;
};

static void transfer_event(struct xhci *xhci, const struct endpoint_ref *ref, uint64_t parameter,
                           uint32_t residue, unsigned code, bool data)
{
    event_post(xhci, parameter, residue | code << 24,
               TRB_TRANSFER_EVENT << 10 | ref->dci << 16 | ref->slot << 24 |
                   (data ? EVENT_DATA : 0));
}

/* ---- reading rings ---- */

/* The TRB at the ring's place, links followed. False: there is none, or nothing sensible. */
static bool ring_peek(struct xhci *xhci, struct xhci_ring *ring, struct trb *out)
{
    for (unsigned links = 0; links < LINKS_MAX; links++) {
        struct {
            uint64_t parameter;
            uint32_t status, control;
        } raw;
        if (mem_read(machine_of(xhci), ring->at, &raw, sizeof raw) < 0)
            return false;
        *out = (struct trb){ ring->at, le64toh(raw.parameter), le32toh(raw.status),
                             le32toh(raw.control) };
        if ((out->control & TRB_CYCLE) != ring->cycle)
            return false;
        if (trb_type(out) != TRB_LINK)
            return true;
        ring->at = out->parameter & RING_MASK;
        if (out->control & TRB_TOGGLE)
            ring->cycle ^= 1;
    }
    return false;
}

static void ring_next(struct xhci_ring *ring) { ring->at += TRB_LEN; }

/* ---- contexts ---- */

static void context_write(struct xhci *xhci, uint64_t gpa, const uint32_t *words, unsigned count)
{
    uint32_t raw[8];
    for (unsigned i = 0; i < count; i++)
        raw[i] = htole32(words[i]);
    if (gpa)
        mem_write(machine_of(xhci), gpa, raw, count * 4ul);
}

static int context_read(struct xhci *xhci, uint64_t gpa, uint32_t words[8])
{
    if (mem_read(machine_of(xhci), gpa, words, CONTEXT) < 0)
        return -EFAULT;
    for (unsigned i = 0; i < 8; i++)
        words[i] = le32toh(words[i]);
    return 0;
}

/* Writes the endpoint's state and place into the guest's context. */
static void endpoint_publish(struct xhci *xhci, const struct endpoint_ref *ref)
{
    uint64_t gpa = xhci->regs.slots[ref->slot - 1].context + ref->dci * CONTEXT;
    uint32_t words[8];
    if (context_read(xhci, gpa, words) < 0)
        return;
    words[0] = (words[0] & ~7u) | ref->ep->state;
    words[2] = (uint32_t)ref->ep->ring.at | ref->ep->ring.cycle;
    words[3] = (uint32_t)(ref->ep->ring.at >> 32);
    context_write(xhci, gpa, words, 4);
}

static void endpoint_set(struct xhci *xhci, const struct endpoint_ref *ref,
                         enum xhci_ep_state state)
{
    ref->ep->state = (uint8_t)state;
    endpoint_publish(xhci, ref);
}

static void slot_publish(struct xhci *xhci, unsigned slot, const uint32_t from[8])
{
    struct xhci_slot *s = &xhci->regs.slots[slot - 1];
    uint32_t words[8];
    if (!from && context_read(xhci, s->context, words) < 0)
        return;
    if (from)
        memcpy(words, from, sizeof words);
    words[3] = (uint32_t)s->state << 27 | (s->state >= SLOT_ADDRESSED ? slot : 0);
    context_write(xhci, s->context, words, 4);
}

static void endpoint_enable(struct xhci *xhci, const struct endpoint_ref *ref, uint32_t words[8])
{
    ref->ep->state = EP_RUNNING;
    ref->ep->type = words[1] >> 3 & 7;
    ref->ep->rung = 0;
    ref->ep->ring.at = ((uint64_t)words[3] << 32 | words[2]) & RING_MASK;
    ref->ep->ring.cycle = words[2] & 1;
    words[0] = (words[0] & ~7u) | EP_RUNNING;
    context_write(xhci, xhci->regs.slots[ref->slot - 1].context + ref->dci * CONTEXT, words, 5);
}

/* ---- commands; each answers a completion code ---- */

static struct hid *slot_device(struct xhci *xhci, unsigned slot)
{
    unsigned port = xhci->regs.slots[slot - 1].port;
    if (port < 1 || port > XHCI_USB2_PORTS || !xhci->regs.hids[port - 1].kind)
        return NULL;
    return &xhci->regs.hids[port - 1];
}

static unsigned enable_slot(struct xhci *xhci, unsigned *slot)
{
    for (unsigned i = 0; i < XHCI_SLOTS; i++) {
        struct xhci_slot *s = &xhci->regs.slots[i];
        if (s->enabled || i >= (xhci->regs.config & 0xff))
            continue;
        memset(s, 0, sizeof *s);
        s->enabled = 1;
        *slot = i + 1;
        return CC_SUCCESS;
    }
    return CC_NO_SLOTS;
}

static unsigned disable_slot(struct xhci *xhci, unsigned slot)
{
    struct xhci_slot *s = &xhci->regs.slots[slot - 1];
    if (s->context) {
        s->state = SLOT_DISABLED;
        slot_publish(xhci, slot, NULL);
    }
    memset(s, 0, sizeof *s);
    return CC_SUCCESS;
}

static unsigned address_device(struct xhci *xhci, unsigned slot, const struct trb *trb)
{
    struct xhci_slot *s = &xhci->regs.slots[slot - 1];
    uint64_t input = trb->parameter & RING_MASK, context;
    uint32_t control[8], device[8], ep0[8];
    if (context_read(xhci, input, control) < 0 || (control[1] & 3) != 3 ||
        context_read(xhci, input + CONTEXT, device) < 0 ||
        context_read(xhci, input + 2 * CONTEXT, ep0) < 0 ||
        mem_read(machine_of(xhci), xhci->regs.dcbaap + slot * 8, &context, 8) < 0)
        return CC_PARAMETER;
    if (s->state > SLOT_DEFAULT)
        return CC_CONTEXT_STATE;
    s->port = (uint8_t)(device[1] >> 16);
    if (device[0] & 0xfffff || !slot_device(xhci, slot))
        return CC_TRANSACTION; /* nobody answers there */
    s->context = le64toh(context) & ~63ull;
    s->state = trb->control & TRB_BSR ? SLOT_DEFAULT : SLOT_ADDRESSED;
    slot_publish(xhci, slot, device);
    endpoint_enable(xhci, &(struct endpoint_ref){ slot, 1, &s->endpoints[0] }, ep0);
    return CC_SUCCESS;
}

static unsigned configure_endpoint(struct xhci *xhci, unsigned slot, const struct trb *trb)
{
    struct xhci_slot *s = &xhci->regs.slots[slot - 1];
    uint64_t input = trb->parameter & RING_MASK;
    uint32_t control[8] = { 0 }, device[8], words[8];
    bool off = trb->control & TRB_BSR; /* "deconfigure" is the same bit */
    if (s->state < SLOT_ADDRESSED)
        return CC_CONTEXT_STATE;
    if (off)
        control[0] = ~3u;
    else if (context_read(xhci, input, control) < 0 ||
             context_read(xhci, input + CONTEXT, device) < 0)
        return CC_PARAMETER;
    for (unsigned dci = 2; dci <= XHCI_ENDPOINTS; dci++) {
        struct endpoint_ref ref = { slot, dci, &s->endpoints[dci - 1] };
        if ((control[0] >> dci & 1) && ref.ep->state)
            endpoint_set(xhci, &ref, EP_DISABLED);
        if (!(control[1] >> dci & 1))
            continue;
        if (context_read(xhci, input + (dci + 1) * CONTEXT, words) < 0)
            return CC_PARAMETER;
        endpoint_enable(xhci, &ref, words);
    }
    s->state = off ? SLOT_ADDRESSED : SLOT_CONFIGURED;
    uint32_t now[8];
    if (!off && (control[1] & 1) && context_read(xhci, s->context, now) == 0) {
        now[0] = (now[0] & 0x07ffffff) | (device[0] & 0xf8000000); /* how many contexts */
        slot_publish(xhci, slot, now);
    } else {
        slot_publish(xhci, slot, NULL);
    }
    return CC_SUCCESS;
}

static unsigned evaluate_context(struct xhci *xhci, unsigned slot, const struct trb *trb)
{
    struct xhci_slot *s = &xhci->regs.slots[slot - 1];
    uint64_t input = trb->parameter & RING_MASK;
    uint32_t control[8], from[8], to[8];
    if (s->state < SLOT_DEFAULT)
        return CC_CONTEXT_STATE;
    if (context_read(xhci, input, control) < 0)
        return CC_PARAMETER;
    for (unsigned i = 0; i < 2; i++) { /* latency and interrupter; the packet size of endpoint 0 */
        if (!(control[1] >> i & 1) || context_read(xhci, input + (i + 1) * CONTEXT, from) < 0 ||
            context_read(xhci, s->context + i * CONTEXT, to) < 0)
            continue;
        if (i == 0) {
            to[1] = (to[1] & 0xffff0000) | (from[1] & 0xffff);
            to[2] = (to[2] & 0x003fffff) | (from[2] & 0xffc00000);
        } else {
            to[1] = (to[1] & 0xffff) | (from[1] & 0xffff0000);
        }
        context_write(xhci, s->context + i * CONTEXT, to, 3);
    }
    return CC_SUCCESS;
}

static unsigned endpoint_command(struct xhci *xhci, unsigned slot, const struct trb *trb)
{
    unsigned dci = trb->control >> 16 & 31;
    struct endpoint_ref ref = { slot, dci, NULL };
    if (!dci)
        return CC_TRB;
    ref.ep = &xhci->regs.slots[slot - 1].endpoints[dci - 1];
    if (ref.ep->state == EP_DISABLED)
        return CC_EP_DISABLED;
    switch (trb_type(trb)) {
    case TRB_RESET_ENDPOINT:
        if (ref.ep->state != EP_HALTED)
            return CC_CONTEXT_STATE;
        break;
    case TRB_STOP_ENDPOINT:
        if (ref.ep->state != EP_RUNNING)
            return CC_CONTEXT_STATE;
        break;
    default:
        if (ref.ep->state == EP_RUNNING || ref.ep->state == EP_HALTED)
            return CC_CONTEXT_STATE;
        ref.ep->ring.at = trb->parameter & RING_MASK;
        ref.ep->ring.cycle = trb->parameter & 1;
    }
    ref.ep->rung = 0;
    endpoint_set(xhci, &ref, EP_STOPPED);
    return CC_SUCCESS;
}

static unsigned reset_device(struct xhci *xhci, unsigned slot)
{
    struct xhci_slot *s = &xhci->regs.slots[slot - 1];
    if (s->state < SLOT_ADDRESSED)
        return CC_CONTEXT_STATE;
    for (unsigned dci = 2; dci <= XHCI_ENDPOINTS; dci++)
        if (s->endpoints[dci - 1].state)
            endpoint_set(xhci, &(struct endpoint_ref){ slot, dci, &s->endpoints[dci - 1] },
                         EP_DISABLED);
    s->state = SLOT_DEFAULT;
    slot_publish(xhci, slot, NULL);
    return CC_SUCCESS;
}

static unsigned command_run(struct xhci *xhci, const struct trb *trb, unsigned *slot)
{
    unsigned type = trb_type(trb);
    if (type == TRB_COMMAND_NOOP)
        return CC_SUCCESS;
    if (type == TRB_ENABLE_SLOT)
        return enable_slot(xhci, slot);
    if (type < TRB_ENABLE_SLOT || type > TRB_RESET_DEVICE)
        return CC_TRB;
    *slot = trb->control >> 24;
    if (!*slot || *slot > XHCI_SLOTS || !xhci->regs.slots[*slot - 1].enabled)
        return CC_SLOT_DISABLED;
    switch (type) {
    case TRB_DISABLE_SLOT: return disable_slot(xhci, *slot);
    case TRB_ADDRESS_DEVICE: return address_device(xhci, *slot, trb);
    case TRB_CONFIGURE_ENDPOINT: return configure_endpoint(xhci, *slot, trb);
    case TRB_EVALUATE_CONTEXT: return evaluate_context(xhci, *slot, trb);
    case TRB_RESET_DEVICE: return reset_device(xhci, *slot);
    default: return endpoint_command(xhci, *slot, trb);
    }
}

static void commands_run(struct xhci *xhci)
{
    struct xhci_regs *r = &xhci->regs;
    struct trb trb;
    {
        LOCKED(&xhci->pci.dev.lock);
        if (!r->doorbells[0])
            return;
        r->doorbells[0] = 0; /* before looking: what is rung meanwhile is looked at again */
        r->command_running = 1;
    }
    for (unsigned budget = BUDGET; budget; budget--) {
        if (events_room(xhci) < 2) {
            LOCKED(&xhci->pci.dev.lock);
            r->doorbells[0] = 1; /* ERDP is written when there is more room */
            return;
        }
        struct xhci_ring ring = r->command;
        bool found = ring_peek(xhci, &ring, &trb);
        r->command = ring;
        if (!found)
            return;
        unsigned slot = 0, code = command_run(xhci, &trb, &slot);
        ring_next(&ring);
        r->command = ring;
        command_event(xhci, trb.at, code, slot);
    }
    LOCKED(&xhci->pci.dev.lock);
    r->doorbells[0] = 1;
    io_work_kick(&xhci->work);
}

/* ---- transfers ---- */

struct td {
    struct trb trbs[TD_MAX];
    unsigned count;
    uint32_t bytes; /* that its TRBs have room for */
};

/* Gathers a TD: TRBs chained together. False: it is not all there. *bad: it is too long. */
static bool td_gather(struct xhci *xhci, struct xhci_ring *ring, struct td *td, bool *bad)
{
    td->count = 0;
    td->bytes = 0;
    for (;;) {
        struct trb *trb = &td->trbs[td->count];
        if (!ring_peek(xhci, ring, trb))
            return false;
        ring_next(ring);
        td->count++;
        if (trb_type(trb) == TRB_NORMAL || trb_type(trb) == TRB_DATA)
            td->bytes += trb->status & 0x1ffff;
        if (!(trb->control & TRB_CHAIN))
            return true;
        if (td->count == TD_MAX) {
            *bad = true;
            return true;
        }
    }
}

/* Moves `len` bytes between data and the TD's buffers; then tells of each TRB that asks for it.
 * `code` is how it ended. -EFAULT: memory that is not there. */
static int td_move(struct xhci *xhci, const struct td *td, uint8_t *data, uint32_t len, bool in)
{
    uint32_t at = 0;
    for (unsigned i = 0; i < td->count && at < len; i++) {
        const struct trb *trb = &td->trbs[i];
        uint32_t size = trb->status & 0x1ffff;
        if (trb_type(trb) != TRB_NORMAL && trb_type(trb) != TRB_DATA)
            continue;
        size = size < len - at ? size : len - at;
        if (trb->control & TRB_IDT) { /* the data is the TRB's parameter: only outwards */
            uint64_t raw = htole64(trb->parameter);
            memcpy(data + at, &raw, size < 8 ? size : 8);
        } else if ((in ? mem_write(machine_of(xhci), trb->parameter, data + at, size)
                       : mem_read(machine_of(xhci), trb->parameter, data + at, size)) < 0) {
            return -EFAULT;
        }
        at += size;
    }
    return 0;
}

static void td_events(struct xhci *xhci, const struct endpoint_ref *ref, const struct td *td,
                      uint32_t len)
{
    uint32_t at = 0, total = 0;
    bool told = false;
    for (unsigned i = 0; i < td->count; i++) {
        const struct trb *trb = &td->trbs[i];
        uint32_t size = trb->status & 0x1ffff;
        if (trb_type(trb) == TRB_EVENT_DATA) {
            if (trb->control & TRB_IOC)
                transfer_event(xhci, ref, trb->parameter, total & 0xffffff,
                               told ? CC_SHORT : CC_SUCCESS, true);
            total = 0;
            continue;
        }
        if (trb_type(trb) != TRB_NORMAL && trb_type(trb) != TRB_DATA)
            size = 0;
        uint32_t moved = len - at < size ? len - at : size;
        bool cut = moved < size;
        at += moved;
        total += moved;
        if ((trb->control & TRB_IOC) || (cut && !told && (trb->control & TRB_SHORT)))
            transfer_event(xhci, ref, trb->at, size - moved, cut ? CC_SHORT : CC_SUCCESS, false);
        told |= cut;
    }
}

static void endpoint_fail(struct xhci *xhci, const struct endpoint_ref *ref, uint64_t trb,
                          unsigned code)
{
    endpoint_set(xhci, ref, EP_HALTED);
    ref->ep->rung = 0;
    transfer_event(xhci, ref, trb, 0, code, false);
}

/* True: something was done. */
static bool control_transfer(struct xhci *xhci, const struct endpoint_ref *ref)
{
    static uint8_t data[CONTROL_MAX]; /* io_loop's own */
    struct xhci_ring ring = ref->ep->ring;
    struct td setup, stage, status;
    bool bad = false, in = false;
    if (!td_gather(xhci, &ring, &setup, &bad))
        return false;
    uint64_t first = setup.trbs[0].at;
    stage.count = 0;
    stage.bytes = 0;
    if (trb_type(&setup.trbs[0]) != TRB_SETUP) {
        ref->ep->ring = ring;
        if (trb_type(&setup.trbs[0]) == TRB_NOOP) {
            td_events(xhci, ref, &setup, 0);
            return true;
        }
        endpoint_fail(xhci, ref, first, CC_TRB);
        return true;
    }
    if (!td_gather(xhci, &ring, &status, &bad))
        return false;
    if (trb_type(&status.trbs[0]) == TRB_DATA) {
        stage = status;
        in = stage.trbs[0].control & TRB_IN;
        if (!td_gather(xhci, &ring, &status, &bad))
            return false;
    }
    uint8_t request[8];
    uint64_t raw = htole64(setup.trbs[0].parameter);
    memcpy(request, &raw, sizeof request);
    uint32_t len = request[6] | (uint32_t)request[7] << 8;
    len = len < stage.bytes ? len : stage.bytes;
    len = len < CONTROL_MAX ? len : CONTROL_MAX;
    if (bad || trb_type(&status.trbs[0]) != TRB_STATUS ||
        (len && !in && td_move(xhci, &stage, data, len, false) < 0)) {
        ref->ep->ring.at = first;
        endpoint_fail(xhci, ref, first, CC_TRB);
        return true;
    }
    struct hid *hid = slot_device(xhci, ref->slot);
    int n = -1;
    if (hid) {
        LOCKED(&xhci->pci.dev.lock);
        uint8_t configuration = hid->configuration;
        n = hid_control(hid, request, data, len);
        if (hid->configuration != configuration)
            xhci_input_changed(xhci, xhci->regs.slots[ref->slot - 1].port - 1u);
    }
    ref->ep->ring = ring;
    const struct trb *data_trb = stage.count ? &stage.trbs[0] : &status.trbs[0];
    if (n < 0) {
        endpoint_fail(xhci, ref, data_trb->at, hid ? CC_STALL : CC_TRANSACTION);
        return true;
    }
    if (in && n && td_move(xhci, &stage, data, (uint32_t)n, true) < 0) {
        endpoint_fail(xhci, ref, data_trb->at, CC_TRB);
        return true;
    }
    td_events(xhci, ref, &setup, 0);
    td_events(xhci, ref, &stage, (uint32_t)n);
    td_events(xhci, ref, &status, 0);
    return true;
}

static bool interrupt_transfer(struct xhci *xhci, const struct endpoint_ref *ref)
{
    struct xhci_ring ring = ref->ep->ring;
    struct hid *hid = slot_device(xhci, ref->slot);
    struct td td;
    bool bad = false;
    uint8_t report[HID_REPORT_MAX];
    int n = 0;
    if (!hid || !td_gather(xhci, &ring, &td, &bad))
        return false;
    {
        LOCKED(&xhci->pci.dev.lock);
        if (trb_type(&td.trbs[0]) != TRB_NOOP)
            n = hid_poll(hid, report);
        if (n == 0 && trb_type(&td.trbs[0]) != TRB_NOOP)
            return false;
    }
    uint32_t len = n < 0 ? 0 : (uint32_t)n;
    len = len < td.bytes ? len : td.bytes;
    ref->ep->ring = ring;
    if (n < 0)
        endpoint_fail(xhci, ref, td.trbs[0].at, CC_STALL);
    else if (bad || td_move(xhci, &td, report, len, true) < 0)
        endpoint_fail(xhci, ref, td.trbs[0].at, CC_TRB);
    else
        td_events(xhci, ref, &td, len);
    return true;
}

static void endpoint_run(struct xhci *xhci, unsigned slot, unsigned dci)
{
    struct endpoint_ref ref = { slot, dci, &xhci->regs.slots[slot - 1].endpoints[dci - 1] };
    if (ref.ep->rung && ref.ep->state == EP_STOPPED)
        endpoint_set(xhci, &ref, EP_RUNNING);
    for (unsigned budget = BUDGET; budget && ref.ep->rung && ref.ep->state == EP_RUNNING;
         budget--) {
        bool done = false;
        if (events_room(xhci) < 3 * TD_MAX && events_room(xhci) < xhci->regs.event_size / 2)
            return;
        if (ref.ep->type == EP_CONTROL)
            done = control_transfer(xhci, &ref);
        else if (ref.ep->type == EP_INTERRUPT_IN)
            done = interrupt_transfer(xhci, &ref);
        if (!done)
            return;
        if (budget == 1)
            io_work_kick(&xhci->work);
    }
}

/* ---- everything ---- */

static void ports_tell(struct xhci *xhci)
{
    struct xhci_regs *r = &xhci->regs;
    for (unsigned port = 0; port < XHCI_PORTS && events_room(xhci) >= 2; port++) {
        {
            LOCKED(&xhci->pci.dev.lock);
            if (!(r->port_events >> port & 1))
                continue;
            r->port_events &= ~(1u << port);
        }
        event_post(xhci, (uint64_t)(port + 1) << 24, CC_SUCCESS << 24, TRB_PORT_EVENT << 10);
    }
}

static void doorbells_take(struct xhci *xhci)
{
    LOCKED(&xhci->pci.dev.lock);
    for (unsigned slot = 1; slot <= XHCI_SLOTS; slot++) {
        uint32_t rung = xhci->regs.doorbells[slot];
        xhci->regs.doorbells[slot] = 0;
        for (unsigned dci = 1; dci <= XHCI_ENDPOINTS; dci++)
            if ((rung >> dci & 1) && xhci->regs.slots[slot - 1].enabled)
                xhci->regs.slots[slot - 1].endpoints[dci - 1].rung = 1;
    }
}

void xhci_run(struct xhci *xhci)
{
    if (!events_open(xhci))
        return;
    ports_tell(xhci);
    commands_run(xhci);
    doorbells_take(xhci);
    for (unsigned slot = 1; slot <= XHCI_SLOTS; slot++)
        for (unsigned dci = 1; xhci->regs.slots[slot - 1].enabled && dci <= XHCI_ENDPOINTS; dci++)
            endpoint_run(xhci, slot, dci);
}

/* ---- state ---- */

static bool ring_fine(const struct xhci_ring *ring)
{
    return ring->cycle <= 1 && !(ring->at & ~RING_MASK);
}

int xhci_rings_check(const struct xhci_regs *r, struct err *err)
{
    bool segment = r->event_ready || r->kept;
    bool fine = ring_fine(&r->command) && r->command_running <= 1 && r->event_ready <= 1 &&
                r->event_cycle <= 1 && r->kept <= 1 &&
                (!segment || (r->event_size >= 16 && r->event_size <= 0xffff)) &&
                (r->event_next < r->event_size || (!r->event_ready && !r->event_next)) &&
                (r->kept_next < r->event_size || (!r->kept && !r->kept_next));
    for (unsigned i = 0; i < XHCI_SLOTS; i++) {
        const struct xhci_slot *s = &r->slots[i];
        fine = fine && s->enabled <= 1 && s->state <= SLOT_CONFIGURED;
        for (unsigned j = 0; j < XHCI_ENDPOINTS; j++)
            fine = fine && ring_fine(&s->endpoints[j].ring) && s->endpoints[j].state <= EP_ERROR &&
                   s->endpoints[j].rung <= 1;
    }
    return fine ? 0 : err_set(err, EINVAL, "the USB controller's rings cannot be as saved");
}

static const struct state_field ring_fields[] = {
    STATE_U64(struct xhci_ring, at),
    STATE_U8(struct xhci_ring, cycle),
    STATE_BYTES(struct xhci_ring, reserved),
    STATE_END,
};
const struct state_desc xhci_ring_state = {
    .name = "xhci-ring",
    .version = 1,
    .size = sizeof(struct xhci_ring),
    .fields = ring_fields,
};
static const struct state_field endpoint_fields[] = {
    STATE_STRUCT(struct xhci_endpoint, ring, &xhci_ring_state),
    STATE_U8(struct xhci_endpoint, state),
    STATE_U8(struct xhci_endpoint, type),
    STATE_U8(struct xhci_endpoint, rung),
    STATE_BYTES(struct xhci_endpoint, reserved),
    STATE_END,
};
static const struct state_desc endpoint_state = {
    .name = "xhci-endpoint",
    .version = 1,
    .size = sizeof(struct xhci_endpoint),
    .fields = endpoint_fields,
};
static const struct state_field slot_fields[] = {
    STATE_U64(struct xhci_slot, context),
    STATE_U8(struct xhci_slot, enabled),
    STATE_U8(struct xhci_slot, state),
    STATE_U8(struct xhci_slot, port),
    STATE_BYTES(struct xhci_slot, reserved),
    STATE_STRUCTS(struct xhci_slot, endpoints, &endpoint_state),
    STATE_END,
};
const struct state_desc xhci_slot_state = {
    .name = "xhci-slot",
    .version = 1,
    .size = sizeof(struct xhci_slot),
    .fields = slot_fields,
};
