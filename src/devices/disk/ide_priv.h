/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What ide.c (registers, life) and ide_command.c (a channel's command and its data) share. */
#ifndef DEVICES_DISK_IDE_PRIV_H
#define DEVICES_DISK_IDE_PRIV_H

#include "devices/disk/ide.h"
#include "devices/io_work.h"
#include "machine/irq.h"

enum { CHANNELS = 2, BUFFER = 8192 };
enum { CONTROL_NIEN = 0x02, CONTROL_SRST = 0x04, CONTROL_HOB = 0x80 };
enum { BM_START = 1, BM_TO_MEMORY = 8 };
enum { BM_ACTIVE = 1, BM_ERROR = 2, BM_INTERRUPT = 4, BM_CAPABLE = 0x60 };

enum ide_phase { IDLE, PACKET_OUT, DATA_IN, DATA_OUT, BUSY };
enum ide_work { WORK_NONE, WORK_READ, WORK_WRITE, WORK_TAKE, WORK_FLUSH, WORK_DMA };
enum { FLAG_PACKET = 1, FLAG_FUA = 2, FLAG_DMA = 4 };

struct ide_drive_regs { /* each with the one written before it, for 48-bit commands */
    uint8_t features[2], count[2], lba[3][2];
    uint8_t device, status, error;
    uint8_t reserved[3]; /* features to error have 13 bytes */
    struct ata_regs ata;
};

struct ide_channel_regs {
    struct ide_drive_regs drives[2];
    uint64_t offset, len, done; /* the command's bytes: place, number, moved by the medium */
    uint64_t lba;               /* the command's registers, as the command layer has them */
    uint16_t tf_features, tf_count;
    uint32_t drq;                     /* bytes of a PIO block */
    uint32_t position, slice, filled; /* of the buffer: next byte, end of what DRQ offers, end */
    uint32_t bm_table;
    uint8_t bm_command, bm_status;
    uint8_t select, control;
    uint8_t irq;
    uint8_t phase, work, kind, flags;
    uint8_t active; /* the drive that runs the command */
    uint8_t command;
    uint8_t resetting;
    uint8_t reserved[4];
    uint8_t buffer[BUFFER];
};

struct ide_regs {
    struct pci_regs pci;
    struct ide_channel_regs channels[CHANNELS];
};

struct ide_block; /* ide_command.c */
struct ide_dma;

struct ide_channel {
    struct ide *ide;
    struct ide_channel_regs *regs; /* dev.lock */
    struct irq_pin pin;
    struct ata_drive drives[2];
    bool present[2]; /* fixed at create */
    struct mapping *maps[2];
    /* io_loop: at most one of them */
    struct ide_block *block;
    struct ide_dma *dma;
};

struct ide {
    struct pci_device pci;
    struct ide_regs regs;
    struct ide_channel channels[CHANNELS];
    struct io_work work;
};

/* ---- ide_command.c ---- */

/* Lock held: the pin follows the registers. */
void ide_update_irq(struct ide_channel *ch);
void ide_drive_put(struct ide_drive_regs *d, const struct ata_taskfile *tf);
/* Lock held: begins the command in the active drive's registers, or goes on with its packet. */
void ide_begin(struct ide_channel *ch, const uint8_t *packet);
/* Lock held: the guest read or wrote all that DRQ offered. */
void ide_slice_done(struct ide_channel *ch);
/* io_loop: what is under way will change nothing any more. */
void ide_abort(struct ide_channel *ch);
/* io_loop: does what the registers ask for; arg is the struct ide. */
void ide_work_run(void *arg);

#endif
