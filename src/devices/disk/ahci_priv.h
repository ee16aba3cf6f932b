/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What ahci.c (registers, life) and ahci_command.c (what the ports do) share.
 *
 *  1. A command is in exactly one place: issued (`ci`, or `accepted` for a queued one) and not
 *     running; running (commands[slot] is set); or told to the guest. State is saved with the
 *     first only, so after a restore every command that the guest still waits for starts again.
 *  2. No memory of the guest is written for a port after CR, HR or the link show that it stopped:
 *     those bits change on io_loop, after running commands were marked as aborted.
 *  3. Registers tell of an event only after the memory that goes with it was written.
 */
#ifndef DEVICES_DISK_AHCI_PRIV_H
#define DEVICES_DISK_AHCI_PRIV_H

#include "devices/disk/ahci.h"
#include "devices/io_work.h"

enum { SLOTS = 32 };
#define GHC_AE (1u << 31)
enum { GHC_HR = 1, GHC_IE = 2, VERSION = 0x10300 };
enum {
    IS_DHRS = 1 << 0,
    IS_PSS = 1 << 1,
    IS_SDBS = 1 << 3,
    IS_DPS = 1 << 5,
    IS_PCS = 1 << 6,
    IS_HBFS = 1 << 29,
    IS_TFES = 1 << 30,
    IS_READ_ONLY = IS_PCS,
};
enum {
    CMD_ST = 1 << 0,
    CMD_SUD = 1 << 1,
    CMD_POD = 1 << 2,
    CMD_CLO = 1 << 3,
    CMD_FRE = 1 << 4,
    CMD_CCS_SHIFT = 8,
    CMD_FR = 1 << 14,
    CMD_CR = 1 << 15,
    CMD_ATAPI = 1 << 24,
    CMD_WRITABLE = CMD_ST | CMD_SUD | CMD_POD | CMD_FRE | CMD_ATAPI,
};
enum { SSTS_UP = 0x123, SERR_EXCHANGED = 1 << 26, TFD_NONE = 0x7f };

struct ahci_port_regs {
    uint64_t clb, fb;
    uint32_t is, ie, cmd, tfd, sig, ssts, sctl, serr, sact, ci;
    uint32_t accepted; /* queued commands taken from ci and not finished */
    uint8_t signature; /* the first FIS after a reset waits to be posted */
    uint8_t link_up;   /* the link is being reset */
    uint8_t halted;    /* by an error, until ST is cleared */
    uint8_t srst;      /* a software reset has begun */
    struct ata_regs ata;
};

struct ahci_regs {
    struct pci_regs pci;
    uint64_t ghc;
    struct ahci_port_regs ports[AHCI_PORTS];
};

struct ahci;

struct ahci_command {
    struct ata_io io;
    struct ahci_port *port;
    unsigned slot;
    struct ata_taskfile tf;
    uint64_t header; /* gpa */
    bool prd_interrupt;
};

struct ahci_port {
    struct ahci *ahci;
    struct ahci_port_regs *regs; /* dev.lock */
    bool present;                /* fixed at create */
    struct ata_drive drive;
    /* io_loop */
    struct ahci_command *commands[SLOTS]; /* running */
    uint32_t running;                     /* written with dev.lock */
    bool exclusive;                       /* the one that runs is no queued command */
};

struct ahci {
    struct pci_device pci;
    struct ahci_regs regs; /* dev.lock */
    struct ahci_port ports[AHCI_PORTS];
    struct io_work work;
};

/* ---- ahci.c; lock held ---- */

void ahci_update_irq(struct ahci *ahci);

/* ---- ahci_command.c ---- */

/* What runs has no effect any more. io_loop, lock held, as for the next one. */
void ahci_port_abort(struct ahci_port *port);
void ahci_port_power_on(struct ahci_port *port);
/* Everything that register writes left to do; on io_loop. */
void ahci_work(void *arg);

#endif
