/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * PIIX3 IDE (Intel order 290550, section 2.5): the command layer of ata.c behind the old ports, by
 * PIO and by bus-master DMA (SFF-8038i).
 *
 * A channel runs one command. While it is BUSY there is one thing to do on io_loop, named in the
 * registers: move a block between the medium and the buffer, or a whole transfer by DMA. The guest
 * moves the buffer by PIO in slices, each announced by DRQ.
 *
 *  1. BUSY work that did not end before the state was saved begins again after the restore, from
 *     the registers alone.
 *  2. Work whose command was reset away touches neither registers nor memory of the guest.
 *
 * Here are the registers; ide_command.c runs the commands.
 */
#include "devices/disk/ide_priv.h"

#include "base/checked.h"
#include "machine/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PRIORITY = 10 };
enum { BM_BAR = 4, BM_SIZE = 16, IDETIM = 0x40, IDETIM_ENABLE = 0x8000 };
enum { REGION_COMMAND = 16, REGION_CONTROL = 18 }; /* plus the channel; BARs come before them */
enum { DATA, ERROR, COUNT, LBA_LOW, LBA_MID, LBA_HIGH, DEVICE, STATUS };
enum { DEVICE_SLAVE = 0x10 };
enum { BM_COMMAND = 0, BM_STATUS = 2, BM_TABLE = 4 };

/* ---- registers; lock held ---- */

static struct ide_drive_regs *selected(struct ide_channel *ch)
{
    return &ch->regs->drives[!!(ch->regs->select & DEVICE_SLAVE)];
}

static bool selected_present(const struct ide_channel *ch)
{
    return ch->present[!!(ch->regs->select & DEVICE_SLAVE)];
}

static uint64_t data_read(struct ide_channel *ch, unsigned size)
{
    struct ide_channel_regs *r = ch->regs;
    uint64_t value = 0;
    if (r->phase != DATA_IN)
        return 0;
    for (unsigned i = 0; i < size && r->position < r->slice; i++)
        value |= (uint64_t)r->buffer[r->position++] << 8 * i;
    if (r->position == r->slice)
        ide_slice_done(ch);
    return value;
}

static void data_write(struct ide_channel *ch, unsigned size, uint64_t value)
{
    struct ide_channel_regs *r = ch->regs;
    if (r->phase != DATA_OUT && r->phase != PACKET_OUT)
        return;
    for (unsigned i = 0; i < size && r->position < r->slice; i++)
        r->buffer[r->position++] = (uint8_t)(value >> 8 * i);
    if (r->position < r->slice)
        return;
    if (r->phase == DATA_OUT) {
        ide_slice_done(ch);
    } else {
        uint8_t packet[ATA_PACKET_LEN];
        memcpy(packet, r->buffer, sizeof packet);
        ide_begin(ch, packet);
    }
}

static uint64_t command_read(struct ide_channel *ch, unsigned reg)
{
    const struct ide_drive_regs *d = selected(ch);
    unsigned hob = ch->regs->control & CONTROL_HOB ? 1 : 0;
    if (!ch->present[0] && !ch->present[1])
        return reg == STATUS ? 0 : 0xff;
    switch (reg) {
    case ERROR: return selected_present(ch) ? d->error : 0;
    case COUNT: return d->count[hob];
    case LBA_LOW:
    case LBA_MID:
    case LBA_HIGH: return d->lba[reg - LBA_LOW][hob];
    case DEVICE: return ch->regs->select | 0xa0;
    case STATUS:
        ch->regs->irq = 0;
        ide_update_irq(ch);
        return ch->regs->resetting ? ATA_BSY : selected_present(ch) ? d->status : 0;
    }
    return 0;
}

static void shift(uint8_t reg[2], uint8_t value)
{
    reg[1] = reg[0];
    reg[0] = value;
}

static void command_start(struct ide_channel *ch, uint8_t command)
{
    struct ide_channel_regs *r = ch->regs;
    unsigned drive = !!(r->select & DEVICE_SLAVE);
    r->irq = 0;
    ide_update_irq(ch);
    if (command == 0x90) { /* DIAGNOSTIC is for both, and drive 0 answers */
        r->select &= (uint8_t)~DEVICE_SLAVE;
        drive = ch->present[0] ? 0 : 1;
    }
    if (r->resetting || !ch->present[drive])
        return;
    if (r->phase != IDLE) {
        if (command == ATA_CMD_DEVICE_RESET) {
            r->resetting = 1;
            io_work_kick(&ch->ide->work);
        }
        return;
    }
    r->active = (uint8_t)drive;
    r->command = command;
    r->drives[drive].error = 0;
    ide_begin(ch, NULL);
}

static void command_write(struct ide_channel *ch, unsigned reg, uint8_t value)
{
    struct ide_channel_regs *r = ch->regs;
    r->control &= (uint8_t)~CONTROL_HOB;
    if (reg == STATUS) {
        command_start(ch, value);
        return;
    }
    if (reg == DEVICE)
        r->select = value;
    if (r->phase == BUSY) /* the command's registers are in use */
        return;
    for (unsigned i = 0; i < 2; i++) {
        struct ide_drive_regs *d = &r->drives[i];
        switch (reg) {
        case ERROR: shift(d->features, value); break;
        case COUNT: shift(d->count, value); break;
        case LBA_LOW:
        case LBA_MID:
        case LBA_HIGH: shift(d->lba[reg - LBA_LOW], value); break;
        case DEVICE: d->device = value; break;
        }
    }
}

static void control_write(struct ide_channel *ch, uint8_t value)
{
    struct ide_channel_regs *r = ch->regs;
    bool was = r->control & CONTROL_SRST, now = value & CONTROL_SRST;
    r->control = value & (CONTROL_NIEN | CONTROL_SRST | CONTROL_HOB);
    if (now && !was) {
        r->resetting = 1;
        r->irq = 0;
    }
    if (now != was)
        io_work_kick(&ch->ide->work);
    ide_update_irq(ch);
}

static uint8_t bm_read(const struct ide_channel *ch, unsigned reg)
{
    const struct ide_channel_regs *r = ch->regs;
    switch (reg) {
    case BM_COMMAND: return r->bm_command;
    case BM_STATUS: return r->bm_status;
    }
    return reg >= BM_TABLE ? (uint8_t)(r->bm_table >> 8 * (reg - BM_TABLE)) : 0;
}

static void bm_write(struct ide_channel *ch, unsigned reg, uint8_t value)
{
    struct ide_channel_regs *r = ch->regs;
    switch (reg) {
    case BM_COMMAND:
        if (value & ~r->bm_command & BM_START)
            r->bm_status |= BM_ACTIVE;
        if (!(value & BM_START))
            r->bm_status &= (uint8_t)~BM_ACTIVE;
        r->bm_command = value & (BM_START | BM_TO_MEMORY);
        if (value & BM_START)
            io_work_kick(&ch->ide->work);
        break;
    case BM_STATUS:
        r->bm_status &= (uint8_t) ~((value & (BM_ERROR | BM_INTERRUPT)) | BM_CAPABLE);
        r->bm_status |= value & BM_CAPABLE;
        break;
    case BM_TABLE:
    case BM_TABLE + 1:
    case BM_TABLE + 2:
    case BM_TABLE + 3:
        r->bm_table &= ~(0xffu << 8 * (reg - BM_TABLE));
        r->bm_table |= (uint32_t)value << 8 * (reg - BM_TABLE);
        r->bm_table &= ~3u;
        break;
    }
}

static uint64_t ide_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct ide *ide = (struct ide *)dev;
    uint64_t value = 0;
    if (region == BM_BAR) {
        for (unsigned i = 0; i < size; i++)
            value |= (uint64_t)bm_read(&ide->channels[(offset + i) / 8 & 1], (offset + i) % 8)
                     << 8 * i;
        return value;
    }
    struct ide_channel *ch = &ide->channels[region & 1];
    if (region >= REGION_CONTROL) /* the status again, without its effect */
        return ch->regs->resetting ? ATA_BSY : selected_present(ch) ? selected(ch)->status : 0;
    if (offset == DATA)
        return data_read(ch, size);
    for (unsigned i = 0; i < size && offset + i <= STATUS; i++)
        value |= command_read(ch, (unsigned)offset + i) << 8 * i;
    return value;
}

static void ide_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                      uint64_t value)
{
    struct ide *ide = (struct ide *)dev;
    if (region == BM_BAR) {
        for (unsigned i = 0; i < size; i++)
            bm_write(&ide->channels[(offset + i) / 8 & 1], (offset + i) % 8,
                     (uint8_t)(value >> 8 * i));
        return;
    }
    struct ide_channel *ch = &ide->channels[region & 1];
    if (region >= REGION_CONTROL)
        control_write(ch, (uint8_t)value);
    else if (offset == DATA)
        data_write(ch, size, value);
    else
        for (unsigned i = 0; i < size && offset + i <= STATUS; i++)
            command_write(ch, (unsigned)offset + i, (uint8_t)(value >> 8 * i));
}

static void ide_config_written(struct pci_device *pci, unsigned offset, unsigned size)
{
    io_work_kick(&((struct ide *)pci)->work);
}

/* ---- life ---- */

static void ide_power_on(void *arg)
{
    struct ide *ide = arg;
    LOCKED(&ide->pci.dev.lock);
    for (unsigned c = 0; c < CHANNELS; c++) {
        struct ide_channel *ch = &ide->channels[c];
        struct ide_channel_regs *r = ch->regs;
        ide_abort(ch);
        struct ata_regs ata[2] = { r->drives[0].ata, r->drives[1].ata };
        *r = (struct ide_channel_regs){ .drq = ATA_SECTOR, .bm_status = 0 };
        for (unsigned i = 0; i < 2; i++) {
            struct ata_taskfile tf = { 0 };
            r->drives[i].ata = ata[i];
            if (!ch->present[i])
                continue;
            ata_reset(&ch->drives[i], true);
            r->bm_status |= (uint8_t)(0x20 << i); /* DMA works, as firmware would say */
            ata_signature(&ch->drives[i], &tf);
            ide_drive_put(&r->drives[i], &tf);
        }
        ide_update_irq(ch);
    }
}

static void ide_reset(struct device *dev)
{
    loop_call(dev->machine->io_loop, ide_power_on, dev);
    pci_reset((struct pci_device *)dev);
}

static void ide_do_pause(void *arg)
{
    struct ide *ide = arg;
    for (unsigned i = 0; i < IDE_DRIVES; i++)
        ata_drive_pause(&ide->channels[i / 2].drives[i % 2]);
}

static void ide_pause(struct device *dev)
{
    struct ide *ide = (struct ide *)dev;
    io_work_pause(&ide->work);
    loop_call(dev->machine->io_loop, ide_do_pause, ide);
}

static void ide_do_resume(void *arg)
{
    struct ide *ide = arg;
    for (unsigned i = 0; i < IDE_DRIVES; i++)
        ata_drive_resume(&ide->channels[i / 2].drives[i % 2]);
}

static void ide_resume(struct device *dev)
{
    struct ide *ide = (struct ide *)dev;
    loop_call(dev->machine->io_loop, ide_do_resume, ide);
    io_work_resume(&ide->work);
}

static void ide_do_load(void *arg)
{
    struct ide *ide = arg;
    LOCKED(&ide->pci.dev.lock);
    for (unsigned i = 0; i < CHANNELS; i++) {
        ide_abort(&ide->channels[i]);
        ide_update_irq(&ide->channels[i]);
    }
}

static int ide_loaded(struct device *dev, struct err *err)
{
    int r = pci_loaded((struct pci_device *)dev, err);
    if (r == 0)
        loop_call(dev->machine->io_loop, ide_do_load, dev);
    return r;
}

static int channel_check(const struct ide_channel_regs *r, struct err *err)
{
    uint32_t room = r->kind == ATA_REPLY || r->kind == ATA_TAKE ? ATA_DATA_MAX : BUFFER;
    bool fine = r->phase <= BUSY && r->work <= WORK_DMA && r->kind <= ATA_FLUSH && r->active <= 1 &&
                r->irq <= 1 && r->resetting <= 1 && r->position <= r->slice &&
                r->slice <= r->filled && r->filled <= BUFFER && r->done <= r->len && r->drq &&
                r->drq <= 0xfffe && !(r->bm_table & 3);
    /* Blocks of disks come whole; the range was checked against the disk when it began. */
    if (r->kind == ATA_REPLY || r->kind == ATA_TAKE)
        fine = fine && r->len <= room;
    else if (!(r->flags & FLAG_PACKET))
        fine = fine && r->drq <= BUFFER && r->drq % ATA_SECTOR == 0;
    if (r->phase == PACKET_OUT)
        fine = fine && r->slice <= ATA_PACKET_LEN;
    if (!fine)
        return err_set(err, EINVAL, "the IDE channel cannot be in the saved state");
    for (unsigned i = 0; i < 2; i++) {
        int result = ata_check(&r->drives[i].ata, err);
        if (result < 0)
            return result;
    }
    return 0;
}

static int ide_check(const void *state, struct err *err)
{
    const struct ide_regs *regs = state;
    int r = channel_check(&regs->channels[0], err);
    return r < 0 ? r : channel_check(&regs->channels[1], err);
}

static void ide_destroy(struct device *dev)
{
    struct ide *ide = (struct ide *)dev;
    io_work_fini(&ide->work);
    loop_call(dev->machine->io_loop, ide_do_load, ide);
    for (unsigned i = 0; i < IDE_DRIVES; i++)
        ata_drive_close(&ide->channels[i / 2].drives[i % 2]);
    for (unsigned i = 0; i < CHANNELS; i++)
        for (unsigned j = 0; j < 2; j++)
            map_remove(dev->machine, ide->channels[i].maps[j]);
    pci_device_fini(&ide->pci);
    free(ide);
}

static const struct state_field drive_fields[] = {
    STATE_BYTES(struct ide_drive_regs, features),
    STATE_BYTES(struct ide_drive_regs, count),
    STATE_BYTES(struct ide_drive_regs, lba),
    STATE_U8(struct ide_drive_regs, device),
    STATE_U8(struct ide_drive_regs, status),
    STATE_U8(struct ide_drive_regs, error),
    STATE_BYTES(struct ide_drive_regs, reserved),
    STATE_STRUCT(struct ide_drive_regs, ata, &ata_state),
    STATE_END,
};
static const struct state_desc drive_state = {
    .name = "ide-drive",
    .version = 1,
    .size = sizeof(struct ide_drive_regs),
    .fields = drive_fields,
};
static const struct state_field channel_fields[] = {
    STATE_STRUCTS(struct ide_channel_regs, drives, &drive_state),
    STATE_U64(struct ide_channel_regs, offset),
    STATE_U64(struct ide_channel_regs, len),
    STATE_U64(struct ide_channel_regs, done),
    STATE_U64(struct ide_channel_regs, lba),
    STATE_U16(struct ide_channel_regs, tf_features),
    STATE_U16(struct ide_channel_regs, tf_count),
    STATE_U32(struct ide_channel_regs, drq),
    STATE_U32(struct ide_channel_regs, position),
    STATE_U32(struct ide_channel_regs, slice),
    STATE_U32(struct ide_channel_regs, filled),
    STATE_U32(struct ide_channel_regs, bm_table),
    STATE_U8(struct ide_channel_regs, bm_command),
    STATE_U8(struct ide_channel_regs, bm_status),
    STATE_U8(struct ide_channel_regs, select),
    STATE_U8(struct ide_channel_regs, control),
    STATE_U8(struct ide_channel_regs, irq),
    STATE_U8(struct ide_channel_regs, phase),
    STATE_U8(struct ide_channel_regs, work),
    STATE_U8(struct ide_channel_regs, kind),
    STATE_U8(struct ide_channel_regs, flags),
    STATE_U8(struct ide_channel_regs, active),
    STATE_U8(struct ide_channel_regs, command),
    STATE_U8(struct ide_channel_regs, resetting),
    STATE_BYTES(struct ide_channel_regs, reserved),
    STATE_BYTES(struct ide_channel_regs, buffer),
    STATE_END,
};
static const struct state_desc channel_state = {
    .name = "ide-channel",
    .version = 1,
    .size = sizeof(struct ide_channel_regs),
    .fields = channel_fields,
};
static const struct state_field ide_fields[] = {
    STATE_STRUCT(struct ide_regs, pci, &pci_state),
    STATE_STRUCTS(struct ide_regs, channels, &channel_state),
    STATE_END,
};
static const struct state_desc ide_state = {
    .name = "ide",
    .version = 1,
    .base = offsetof(struct ide, regs),
    .size = sizeof(struct ide_regs),
    .fields = ide_fields,
    .check = ide_check,
};
static const struct device_type ide_type = {
    .name = "ide",
    .about = "IDE channels with hard disks and CD-ROM drives",
    .threads = DEVICE_LOCKED,
    .destroy = ide_destroy,
    .read = ide_read,
    .write = ide_write,
    .reset = ide_reset,
    .pause = ide_pause,
    .resume = ide_resume,
    .loaded = ide_loaded,
    .state = &ide_state,
};

struct ata_drive *ide_drive(struct pci_device *pci, unsigned drive)
{
    return &((struct ide *)pci)->channels[drive / 2].drives[drive % 2];
}

static int drive_open(struct ide *ide, unsigned index, const struct ata_drive_config *config,
                      struct err *err)
{
    struct ide_channel *ch = &ide->channels[index / 2];
    ch->present[index % 2] = config->id != NULL;
    return ata_drive_open(&ch->drives[index % 2], &ide->pci.dev, &ch->regs->drives[index % 2].ata,
                          config, err);
}

static int channel_open(struct ide *ide, unsigned index, struct err *err)
{
    static const uint16_t ports[CHANNELS][2] = { { 0x1f0, 0x3f6 }, { 0x170, 0x376 } };
    struct ide_channel *ch = &ide->channels[index];
    struct machine *m = ide->pci.dev.machine;
    irq_pin_init(&ch->pin, m, 14 + index);
    int r = map_device(m, SPACE_IO, ports[index][0], 8, &ide->pci.dev, REGION_COMMAND + index,
                       PRIORITY, &ch->maps[0], err);
    if (r == 0)
        r = map_device(m, SPACE_IO, ports[index][1], 1, &ide->pci.dev, REGION_CONTROL + index,
                       PRIORITY, &ch->maps[1], err);
    return r;
}

int ide_create(struct machine *m, const char *id, const struct ata_drive_config drives[IDE_DRIVES],
               struct pci_device **out, struct err *err)
{
    static const struct pci_ids ids = {
        .vendor = 0x8086,
        .device = 0x7010,
        .class_code = 0x010180,
    };
    static const struct pci_ops ops = { .config_written = ide_config_written };
    struct ide *ide = calloc(1, sizeof *ide);
    if (!ide)
        return err_set(err, ENOMEM, "out of memory");
    pci_device_init(&ide->pci, m, &ide_type, id, &ids, &ops, &ide->regs.pci);
    AUTO(device_destroy) struct device *dev = &ide->pci.dev;
    pci_bar_add(&ide->pci, BM_BAR, BM_SIZE, PCI_BAR_IO);
    for (unsigned i = 0; i < CHANNELS; i++) /* decoding is on, as firmware leaves it */
        pci_config_init(&ide->pci, IDETIM + 2 * i, 2, IDETIM_ENABLE, 0xffff);
    io_work_init(&ide->work, m, ide_work_run, ide);
    int r = 0;
    for (unsigned i = 0; i < CHANNELS; i++) {
        ide->channels[i].ide = ide;
        ide->channels[i].regs = &ide->regs.channels[i];
    }
    for (unsigned i = 0; r == 0 && i < CHANNELS; i++)
        r = channel_open(ide, i, err);
    for (unsigned i = 0; r == 0 && i < IDE_DRIVES; i++)
        r = drive_open(ide, i, &drives[i], err);
    if (r < 0)
        return r;
    ide_power_on(ide);
    *out = &ide->pci;
    dev = NULL;
    return 0;
}
