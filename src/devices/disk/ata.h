/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an ATA hard disk or an ATAPI CD-ROM drive does with a command, apart from how the command
 * and its data travel: AHCI (ahci.c) and PCI IDE (ide.c) are two front ends of it.
 *
 *   ata_begin    looks at the registers (and packet) and answers a plan: what data moves where
 *   ata_io       carries a plan out between the medium and guest memory; io_loop
 *   ata_end      puts the outcome into the registers
 *
 * ata_begin and ata_end touch no memory of the guest and no disk: any thread with the controller's
 * lock (`dev.lock` of its device), which guards everything here that does not say otherwise.
 *
 * A command may be begun again from the start as long as the guest has not been told its end:
 * that is how a saved VM treats what was in flight.
 */
#ifndef DEVICES_DISK_ATA_H
#define DEVICES_DISK_ATA_H

#include "block/block.h"
#include "devices/sg.h"
#include "machine/device.h"

enum { ATA_SECTOR = 512, ATA_CD_SECTOR = 2048, ATA_DATA_MAX = 4096, ATA_PACKET_LEN = 12 };
enum { ATA_SERIAL_LEN = 20, ATA_MODEL_LEN = 40 };

enum { /* status */
       ATA_ERR = 0x01,
       ATA_DRQ = 0x08,
       ATA_DSC = 0x10,
       ATA_DF = 0x20,
       ATA_DRDY = 0x40,
       ATA_BSY = 0x80,
       ATA_READY = ATA_DRDY | ATA_DSC,
};
enum { ATA_ABRT = 0x04, ATA_IDNF = 0x10, ATA_UNC = 0x40 }; /* error */
enum { /* interrupt reason of a packet command, in the count register */
       ATA_REASON_COMMAND = 1,
       ATA_REASON_IN = 2,
};
enum { ATA_CMD_PACKET = 0xa0, ATA_CMD_DEVICE_RESET = 0x08 };

/* The registers of a command, 48-bit ones whole. */
struct ata_taskfile {
    uint64_t lba;
    uint16_t features, count;
    uint8_t command, device, status, error;
};

struct ata_regs { /* saved */
    uint64_t ncq_lba;
    uint8_t write_cache, look_ahead;
    uint8_t multiple;       /* sectors of a DRQ block of READ and WRITE MULTIPLE; 0: off */
    uint8_t heads, sectors; /* of a track: the translation in use */
    uint8_t dma_mode;       /* as SET FEATURES had it: 0x20 | n, 0x40 | n */
    uint8_t standby;
    uint8_t sense_key, asc, ascq; /* of the packet command that failed last */
    uint8_t attention;            /* unit attention to report: its ASC; 0: none */
    uint8_t locked;               /* PREVENT */
    uint8_t tray_open;
    uint8_t event; /* for GET EVENT STATUS NOTIFICATION: enum ata_media_event */
    uint8_t ncq_failed, ncq_tag;
    uint8_t ncq_status, ncq_error; /* log page 0x10 */
    uint8_t reserved[6];
};
extern const struct state_desc ata_state;

enum ata_media_event { ATA_EVENT_NONE, ATA_EVENT_EJECT_REQUEST, ATA_EVENT_NEW, ATA_EVENT_REMOVED };

struct ata_drive {
    struct device *dev; /* the controller; fixed at create, like the next four */
    struct ata_regs *regs;
    bool cdrom;
    bool sata;
    char serial[ATA_SERIAL_LEN + 1];
    char id[24]; /* for people: "disk0", "cdrom0" */

    /* Lock: read with it; changed on io_loop with it. */
    bool readonly;
    uint64_t size; /* bytes; 0: no medium */
    /* io_loop */
    struct block_node *node;   /* borrowed */
    struct block_queue *queue; /* owned; NULL: no medium */
    bool paused;               /* what completes now waits in `late` */
    struct ata_io *late;
    struct block_request settle;
};

enum ata_kind {
    ATA_NO_DATA,
    ATA_REPLY, /* `len` bytes of `data` go to the guest */
    ATA_TAKE,  /* `len` bytes come from the guest and are handed to ata_take */
    ATA_READ,  /* of the medium, `len` bytes at `offset` */
    ATA_WRITE,
    ATA_FLUSH,
    ATA_TRIM, /* ranges in `data`; only after ATA_TAKE */
};

struct ata_plan {
    enum ata_kind kind;
    bool pio; /* the protocol; packet commands: as the front end was told */
    bool packet, ncq;
    bool fua;
    uint8_t tag;
    unsigned drq_sectors; /* of one PIO block */
    uint64_t offset, len;
    uint8_t data[ATA_DATA_MAX];
};

/* The power-on registers. `hard`: the power was off; otherwise a reset of the line. */
void ata_reset(struct ata_drive *drive, bool hard);
/* What the device shows after reset, and after a failed IDENTIFY of the wrong kind. */
void ata_signature(const struct ata_drive *drive, struct ata_taskfile *tf);

/* packet: ATA_PACKET_LEN bytes for PACKET, else NULL. A command that is refused has kind
 * ATA_NO_DATA and its error in *tf already; *tf otherwise says BSY nowhere, DRDY. */
void ata_begin(struct ata_drive *drive, struct ata_taskfile *tf, const uint8_t *packet,
               struct ata_plan *plan);
/* Data of ATA_TAKE arrived in plan->data: -EINVAL refuses it; the plan may become ATA_TRIM. */
int ata_take(struct ata_drive *drive, struct ata_plan *plan);
/* The outcome (0 or -errno) of a plan whose kind was not refused. */
void ata_end(struct ata_drive *drive, struct ata_taskfile *tf, const struct ata_plan *plan,
             int result);
int ata_check(const struct ata_regs *regs, struct err *err);

/* atapi.c */
void atapi_begin(struct ata_drive *drive, struct ata_taskfile *tf, const uint8_t *packet,
                 struct ata_plan *plan);
void atapi_fail(struct ata_drive *drive, struct ata_taskfile *tf, unsigned key, unsigned asc,
                unsigned ascq);
enum { SENSE_NOT_READY = 2, SENSE_MEDIUM = 3, SENSE_HARDWARE = 4, SENSE_ILLEGAL = 5 };
enum { SENSE_ATTENTION = 6, ASC_RESET = 0x29, ASC_CHANGED = 0x28 };

/* ---- carrying plans out; io_loop, no lock held ---- */

struct ata_io {
    struct ata_drive *drive; /* fixed at create */
    struct ata_plan plan;
    struct sg sg;
    void (*finished)(struct ata_io *io, int result); /* may begin the next one */
    bool aborted; /* by the front end: touches no memory of the guest any more */

    struct block_request block;
    struct iovec iov;
    uint8_t *chunk;
    uint64_t chunk_len;
    uint64_t done;   /* of the plan's bytes */
    unsigned ranges; /* of ATA_TRIM, done */
    struct ata_io *next_late;
    int late_result;
};

/* plan and sg are filled. `finished` may be called from within, with 0, -EFAULT (memory that is not
 * there), -ECANCELED (aborted) or what the disk said. */
void ata_io_start(struct ata_io *io);
/* How many bytes went through sg, for the PRD byte counts. */
uint64_t ata_io_moved(const struct ata_io *io);
void ata_io_free(struct ata_io *io); /* not between start and finished */

/* ---- the drive ---- */

struct ata_drive_config {
    const char *id;          /* "disk0"; NULL: nothing is connected */
    struct block_node *node; /* borrowed; NULL: a CD-ROM drive without a medium */
    const char *serial;      /* NULL: the id */
    bool cdrom, readonly;
};

/* Main loop. Refuses an image that cannot be in such a drive. */
int ata_drive_open(struct ata_drive *drive, struct device *dev, struct ata_regs *regs,
                   const struct ata_drive_config *config, struct err *err);
void ata_drive_close(struct ata_drive *drive); /* whatever is in flight ends first */
/* io_loop. Gives what is in flight a deadline; what completes later waits for ata_drive_resume. */
void ata_drive_pause(struct ata_drive *drive);
void ata_drive_resume(struct ata_drive *drive);

/* ---- the medium, of a CD-ROM drive; main loop ---- */

/* Opens the tray and takes the medium out (the node is the caller's again). -EBUSY when the guest
 * has locked it, unless `force`; the guest is then asked to let go. */
int ata_medium_eject(struct ata_drive *drive, bool force, struct err *err);
/* Closes the tray on a new medium. -EBUSY: there is one. */
int ata_medium_insert(struct ata_drive *drive, struct block_node *node, struct err *err);

#endif
