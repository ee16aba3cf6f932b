/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A saved VM in one file (or stream): configuration, clock, vCPUs, devices, memory.
 *
 *   file    := "BEDPLATE" u32 format, section...           all numbers little-endian
 *   section := kind[4] u32 index u64 len name[32] payload[len] u32 crc        crc: CRC-32C of all
 * before it
 *
 *   "conf"  JSON, first: what the VM is made of (struct snapshot_config)
 *   "cloc"  u64 guest_ns, u64 epoch_ns
 *   "vcpu"  index: which one; a section of arch_state_desc (machine/state.h)
 *   "devi"  name: the device's id; a section of its type's state table
 *   "ram "  name: the ram; index: which MiB; a bitmap of 256 bits, then a page for each bit set;
 * all other pages are zero "end "  u64: number of sections before it
 *
 * Disk contents are not in it: restoring needs the same disks, untouched since. Their sizes and
 * formats are recorded and compared. Everything read is checked before it is used, in three steps:
 * the configuration alone (snapshot_open), so that the machine can be made; then, into a machine
 * that has never run, everything else (snapshot_load).
 */
#ifndef MIGRATE_SNAPSHOT_H
#define MIGRATE_SNAPSHOT_H

#include "base/cleanup.h"
#include "base/err.h"
#include "machine/machine.h"

#include <stdint.h>

enum {
    SNAPSHOT_FORMAT = 1,
    SNAPSHOT_MAX_DISKS = 16,
    SNAPSHOT_MAX_NETS = 8,
    SNAPSHOT_MAX_ROM = 1 << 20
};

struct snapshot_disk {
    char format[16];
    uint64_t size; /* 0: the drive is empty */
    bool readonly;
    char bus[16];    /* "virtio", "sata", "sata-cdrom" ...: what drive it is in */
    uint32_t queues; /* as configured; 0: default */
    uint32_t port;   /* the hot-plug slot that it is in; 0: none */
    char id[24];     /* of one in a slot */
};

struct snapshot_net {
    uint8_t mac[6];
    uint32_t port; /* as of a disk */
    char id[24];
    char model[16];    /* "virtio", "e1000e" */
    uint64_t rom_size; /* of its expansion ROM, whose content is a ram; 0: none */
};

/* What must be the same for a state to make sense. */
struct snapshot_config {
    char engine[16]; /* that it was saved under; informative */
    char cpu[32], profile[32];
    unsigned cpus;
    uint64_t memory, tsc_khz;
    bool console;                      /* with a virtio console */
    bool video;                        /* with a display adapter */
    char video_model[16];              /* "vga", "virtio" */
    uint64_t virtio_input;             /* bits: 2 a tablet, 4 a keyboard */
    char ports[512];                   /* names of virtio-serial ports, "a,b" */
    bool balloon;                      /* with a memory balloon */
    bool usb;                          /* with a USB controller */
    uint64_t firmware_size, vars_size; /* bytes of firmware and UEFI variables; 0: none */
    unsigned disk_count, net_count;
    struct snapshot_disk disks[SNAPSHOT_MAX_DISKS];
    struct snapshot_net nets[SNAPSHOT_MAX_NETS];
};

/* Called now and then, on the thread that saves or loads, with bytes of memory done and in all. May
 * be NULL. */
typedef void (*snapshot_progress)(void *arg, uint64_t done, uint64_t total);

/* The machine is CREATED or PAUSED; any thread, as long as it stays so. fd is written from its
 * position on; a regular file is synced. */
int snapshot_save(struct machine *m, const struct snapshot_config *config, int fd,
                  snapshot_progress progress, void *arg, struct err *err);

struct snapshot; /* being read */
/* Reads and checks the head and the configuration. Takes fd, on failure, too. */
int snapshot_open(int take_fd, struct snapshot **out, struct err *err);
void snapshot_close(struct snapshot *snapshot);
DEFINE_AUTO(struct snapshot *, snapshot_close)
const struct snapshot_config *snapshot_config(const struct snapshot *snapshot);
/* Fills a machine that was made as the configuration says and has never run (CREATED). After a
 * failure it is good only for destroying. Main loop's thread. */
int snapshot_load(struct snapshot *snapshot, struct machine *m, struct err *err);

/* For the fuzzer: the configuration's text alone. */
int snapshot_config_parse(const char *text, size_t len, struct snapshot_config *out,
                          struct err *err);

#endif
