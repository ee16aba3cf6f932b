/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Physical memory of a vCPU: the address map with windows in front of it, RAM, the bus, the local
 * APIC. */
#include "engine/soft/place.h"

#include "engine/soft/sys.h"
#include "engine/soft/tlb.h"
#include "machine/machine.h"

void place_look_up(struct soft_vcpu *v, uint64_t gpa, struct place *p)
{
    struct vcpu_run *run = v->run;
    struct section s;
    p->gpa = gpa;
    p->hva = NULL;
    if (!map_lookup(machine_of(v), SPACE_MEMORY, gpa, &s) || s.kind == REGION_DEVICE)
        return;
    p->ram = s.ram;
    p->offset = s.ram_offset + (gpa - s.start);
    p->hva = s.ram->hva + p->offset;
    p->writable_ram = s.kind == REGION_RAM;
    uint64_t page = gpa & ~(PAGE_SIZE - 1);
    p->whole_page = page >= s.start && page - s.start + PAGE_SIZE <= s.size;
    /* Only whole pages may be reached by windows and the TLB. */
    if (s.kind == REGION_RAM && s.size > 64 * PAGE_SIZE && !(s.start & (PAGE_SIZE - 1))) {
        unsigned n = run->window[0].size < run->window[1].size ? 0 : 1;
        uint64_t size = s.size & ~(PAGE_SIZE - 1);
        run->window[n] = (struct ram_window){ s.start, size, s.ram, s.ram_offset };
    }
}

/* ---- Loads and stores ---- */

/* Each vCPU finds its own local APIC where APIC_BASE says, whatever the address map has there. */
static bool apic_load(struct soft_vcpu *v, uint64_t gpa, void *out, unsigned size)
{
    if (!lapic_is_at(&v->lapic, gpa))
        return false;
    uint32_t value = lapic_mmio_read(&v->lapic, (uint32_t)(gpa & (PAGE_SIZE - 1)), size,
                                     guest_now_ns(machine_of(v)));
    memset(out, 0, size);
    memcpy(out, &value, size < 4 ? size : 4);
    return true;
}

static bool apic_store(struct soft_vcpu *v, uint64_t gpa, const void *data, unsigned size)
{
    if (!lapic_is_at(&v->lapic, gpa))
        return false;
    uint32_t value = 0;
    memcpy(&value, data, size < 4 ? size : 4);
    lapic_mmio_write(&v->lapic, (uint32_t)(gpa & (PAGE_SIZE - 1)), size, value,
                     guest_now_ns(machine_of(v)));
    vcpu_lapic_changed(v);
    return true;
}

static unsigned bus_piece(unsigned size)
{
    return size >= 8 ? 8 : size >= 4 ? 4 : size >= 2 ? 2 : 1;
}

static void bus_load(struct soft_vcpu *v, uint64_t gpa, uint8_t *out, unsigned size)
{
    for (unsigned n; size; out += n, gpa += n, size -= n) {
        n = bus_piece(size);
        uint64_t value = bus_read(machine_of(v), SPACE_MEMORY, gpa, n);
        memcpy(out, &value, n);
    }
}

static void bus_store(struct soft_vcpu *v, uint64_t gpa, const uint8_t *data, unsigned size)
{
    for (unsigned n; size; data += n, gpa += n, size -= n) {
        n = bus_piece(size);
        uint64_t value = 0;
        memcpy(&value, data, n);
        bus_write(machine_of(v), SPACE_MEMORY, gpa, n, value);
    }
    /* The write may have changed the address map (a flash chip that now gives its status): the next
     * instruction of this block shall see that already. */
    if (atomic_load(&v->request) & REQ_FLUSH)
        tlb_flush(v);
}

void place_load(struct soft_vcpu *v, const struct place *p, void *out, unsigned size)
{
    if (p->hva) {
        bytes_load(out, p->hva, size);
        return;
    }
    counter_add_one(&v->run->mmio);
    if (!apic_load(v, p->gpa, out, size))
        bus_load(v, p->gpa, out, size);
}

void place_store(struct soft_vcpu *v, const struct place *p, const void *data, unsigned size)
{
    if (!p->hva || !p->writable_ram) {
        counter_add_one(&v->run->mmio);
        if (!apic_store(v, p->gpa, data, size))
            bus_store(v, p->gpa, data, size);
        return;
    }
    place_mark_dirty(p);
    bytes_store(p->hva, data, size);
    if (place_has_code(p))
        code_written(soft_engine_of(v), p->ram, p->offset, size);
}
