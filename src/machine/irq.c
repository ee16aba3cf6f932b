/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pins, lines and chips. The irq lock is held while chips hear of a line, so that they see its
 * levels in the order in which they happened.
 */
#include "machine/irq.h"

#include "machine/priv.h"

void irq_pin_init(struct irq_pin *pin, struct machine *m, unsigned gsi)
{
    assert(gsi < GSI_COUNT);
    *pin = (struct irq_pin){ .machine = m, .gsi = gsi };
}

/* One more or one less pin holds the line up; the chips hear of a change. irq lock held. */
static void line_count(struct irq_lines *irq, unsigned gsi, bool up)
{
    unsigned before = irq->raised[gsi];
    unsigned after = up ? before + 1 : before - 1;
    irq->raised[gsi] = after;
    if (!before == !after)
        return;
    for (struct irq_chip *chip = irq->chips; chip; chip = chip->next)
        chip->set(chip, gsi, up);
    if (irq->route[gsi])
        line_count(irq, irq->route[gsi], up);
}

void irq_pin_set(struct irq_pin *pin, bool level)
{
    struct irq_lines *irq = &pin->machine->priv->irq;
    LOCKED(&irq->lock);
    if (pin->level == level)
        return;
    pin->level = level;
    line_count(irq, pin->gsi, level);
}

void irq_route(struct machine *m, unsigned gsi, unsigned to)
{
    struct irq_lines *irq = &m->priv->irq;
    assert(gsi >= 16 && gsi < GSI_COUNT && to < 16);
    LOCKED(&irq->lock);
    unsigned old = irq->route[gsi];
    irq->route[gsi] = 0;
    if (old && irq->raised[gsi])
        line_count(irq, old, false);
    irq->route[gsi] = (uint8_t)to;
    if (to && irq->raised[gsi])
        line_count(irq, to, true);
}

void irq_chip_add(struct machine *m, struct irq_chip *chip)
{
    LOCKED(&m->priv->irq.lock);
    chip->next = m->priv->irq.chips;
    m->priv->irq.chips = chip;
}

void irq_chip_remove(struct machine *m, struct irq_chip *chip)
{
    LOCKED(&m->priv->irq.lock);
    for (struct irq_chip **at = &m->priv->irq.chips; *at; at = &(*at)->next)
        if (*at == chip) {
            *at = chip->next;
            return;
        }
}

void msi_send(struct machine *m, uint64_t address, uint32_t data)
{
    if (m->engine)
        m->engine->type->msi(m->engine, address, data);
}

void irq_eoi_watch(struct machine *m, unsigned gsi, uint64_t msi_address, uint32_t msi_data,
                   bool level, bool masked)
{
    if (m->engine && m->engine->type->eoi_watch)
        m->engine->type->eoi_watch(m->engine, gsi, msi_address, msi_data, level, masked);
}

void extint_set(struct machine *m, bool level)
{
    if (m->engine)
        m->engine->type->extint(m->engine, level);
}

int extint_ack(struct machine *m)
{
    for (struct irq_chip *chip = m->priv->irq.chips; chip; chip = chip->next)
        if (chip->ack)
            return chip->ack(chip);
    return -1;
}

void irq_eoi(struct machine *m, uint8_t vector)
{
    for (struct irq_chip *chip = m->priv->irq.chips; chip; chip = chip->next)
        if (chip->eoi)
            chip->eoi(chip, vector);
}

void irq_init(struct machine *m) { pthread_mutex_init(&m->priv->irq.lock, NULL); }
void irq_fini(struct machine *m) { pthread_mutex_destroy(&m->priv->irq.lock); }
