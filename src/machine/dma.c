/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Leases of guest memory: counted, so that a snapshot can wait for them, and listed while they
 * write. */
#include "base/checked.h"
#include "machine/priv.h"

#include <string.h>

static int dma_add_segment(struct dma *lease, const struct section *s, uint64_t gpa, uint64_t len)
{
    if (s->kind == REGION_DEVICE || (lease->write && s->kind != REGION_RAM))
        return -EFAULT;
    uint8_t *hva = s->ram->hva + s->ram_offset + (gpa - s->start);
    struct iovec *last = lease->count ? &lease->iov[lease->count - 1] : NULL;
    if (last && lease->ram[lease->count - 1] == s->ram &&
        (uint8_t *)last->iov_base + last->iov_len == hva) {
        last->iov_len += len;
        return 0;
    }
    if (lease->count == DMA_MAX_SEGMENTS)
        return -EFAULT;
    lease->iov[lease->count] = (struct iovec){ .iov_base = hva, .iov_len = len };
    lease->ram[lease->count++] = s->ram;
    return 0;
}

static int dma_resolve(struct machine *m, struct dma *lease)
{
    uint64_t gpa = lease->gpa, left = lease->len, end;
    if (!add_u64(gpa, left, &end))
        return -EFAULT;
    while (left) {
        struct section s;
        if (!map_lookup(m, SPACE_MEMORY, gpa, &s))
            return -EFAULT;
        uint64_t room = s.size - (gpa - s.start), piece = room < left ? room : left;
        int r = dma_add_segment(lease, &s, gpa, piece);
        if (r < 0)
            return r;
        gpa += piece;
        left -= piece;
    }
    return 0;
}

static void dma_close(struct dma_leases *leases, struct dma *lease)
{
    LOCKED(&leases->lock);
    if (lease->write) {
        *lease->prev = lease->next;
        if (lease->next)
            lease->next->prev = lease->prev;
    }
    if (!--leases->open && leases->freezers)
        pthread_cond_broadcast(&leases->changed);
}

int dma_begin(struct machine *m, uint64_t gpa, uint64_t len, bool write, struct dma *lease)
{
    struct dma_leases *leases = &m->priv->dma;
    lease->machine = m;
    lease->gpa = gpa;
    lease->len = len;
    lease->write = write;
    lease->count = 0;

    LOCKED(&leases->lock);
    while (leases->freezers)
        pthread_cond_wait(&leases->changed, &leases->lock);
    /* Behind the wait: a lease that waited out a freeze must not bring addresses from before it. */
    int r = dma_resolve(m, lease);
    if (r < 0) {
        lease->count = 0;
        return r;
    }
    leases->open++;
    if (write) {
        lease->next = leases->writers;
        lease->prev = &leases->writers;
        if (lease->next)
            lease->next->prev = &lease->next;
        leases->writers = lease;
    }
    return 0;
}

void dma_end(struct dma *lease, uint64_t written)
{
    struct machine *m = lease->machine;
    assert(!written || lease->write);
    assert(written <= lease->len);
    /* Marked before it leaves the list: a dirty round finds it in one of the two places. */
    for (unsigned i = 0; i < lease->count && written; i++) {
        struct ram *ram = lease->ram[i];
        uint64_t len = lease->iov[i].iov_len < written ? lease->iov[i].iov_len : written;
        ram_written(m, ram, (uint64_t)((uint8_t *)lease->iov[i].iov_base - ram->hva), len);
        written -= len;
    }
    dma_close(&m->priv->dma, lease);
    lease->count = 0;
}

uint64_t dma_discard(struct dma *lease)
{
    uint64_t given = 0;
    assert(lease->write);
    for (unsigned i = 0; i < lease->count; i++) {
        struct ram *ram = lease->ram[i];
        uint64_t start = (uint64_t)((uint8_t *)lease->iov[i].iov_base - ram->hva);
        uint64_t end = start + lease->iov[i].iov_len;
        start = round_up(start, PAGE_SIZE);
        end -= end % PAGE_SIZE;
        if (end > start && ram_discard(ram, start, end - start))
            given += end - start;
    }
    return given;
}

void dma_mark_open(struct machine *m, const struct ram *ram, uint64_t *bitmap)
{
    struct dma_leases *leases = &m->priv->dma;
    LOCKED(&leases->lock);
    for (const struct dma *lease = leases->writers; lease; lease = lease->next)
        for (unsigned i = 0; i < lease->count; i++) {
            if (lease->ram[i] != ram)
                continue;
            uint64_t start = (uint64_t)((uint8_t *)lease->iov[i].iov_base - ram->hva);
            uint64_t last = (start + lease->iov[i].iov_len - 1) >> PAGE_SHIFT;
            for (uint64_t page = start >> PAGE_SHIFT; page <= last; page++)
                bitmap[page / 64] |= 1ull << page % 64;
        }
}

void dma_freeze(struct machine *m)
{
    struct dma_leases *leases = &m->priv->dma;
    LOCKED(&leases->lock);
    leases->freezers++;
    while (leases->open)
        pthread_cond_wait(&leases->changed, &leases->lock);
}

void dma_thaw(struct machine *m)
{
    struct dma_leases *leases = &m->priv->dma;
    LOCKED(&leases->lock);
    assert(leases->freezers);
    if (!--leases->freezers)
        pthread_cond_broadcast(&leases->changed);
}

void dma_init(struct machine *m)
{
    pthread_mutex_init(&m->priv->dma.lock, NULL);
    pthread_cond_init(&m->priv->dma.changed, NULL);
}

void dma_fini(struct machine *m)
{
    assert(!m->priv->dma.open && "a lease outlives its machine");
    pthread_cond_destroy(&m->priv->dma.changed);
    pthread_mutex_destroy(&m->priv->dma.lock);
}
