/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest memory: `ram` objects, the address map, checked accessors and leases.
 *
 * A ram object is one stable reservation of host addresses for life, backed by a memfd named
 * "guest-ram" (shared backing; the only kind so far). The address map puts ram, ROM and device
 * regions at guest-physical addresses (gpa); it is flattened on each change into an immutable view
 * that readers use without locks.
 *
 * One byte of flags per 4 KiB page of ram (`page_flags`) joins the parties that care about writes:
 *   RAM_PAGE_CODE   an engine holds decoded or translated code of this page: whoever writes it
 * other than through the engine calls the engine's invalidate (the functions here do).
 *   RAM_PAGE_DIRTY  written since the log was last fetched; only maintained while ram->dirty_log is
 * set. Threads: all functions may be called from any thread unless they say otherwise. None blocks
 * on a vCPU except those that say so.
 */
#ifndef MACHINE_MEMORY_H
#define MACHINE_MEMORY_H

#include "base/cleanup.h"
#include "base/err.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct machine;
struct device;

#define PAGE_SIZE 4096ull
enum { PAGE_SHIFT = 12 };
enum { RAM_PAGE_CODE = 1, RAM_PAGE_DIRTY = 2 };

struct ram {
    uint8_t *hva;                /* fixed at create */
    uint64_t size;               /* bytes, multiple of PAGE_SIZE; fixed at create */
    int fd;                      /* owned memfd */
    unsigned index;              /* position in machine->rams; fixed at add */
    _Atomic uint8_t *page_flags; /* one per page; fixed at create */
    _Atomic bool dirty_log;
    char name[32];
};

/* `name` is for people and the stream ("main", "firmware"). Memory starts as zeros, untouched pages
 * cost nothing. */
int ram_create(const char *name, uint64_t size, struct ram **out, struct err *err);
void ram_destroy(struct ram *ram);
DEFINE_AUTO(struct ram *, ram_destroy)

/* Marks written pages dirty (if logging) and drops code held of them. For writers other than
 * engines. */
void ram_written(struct machine *m, struct ram *ram, uint64_t offset, uint64_t len);

/* ---- The address map ---- */

enum space {
    SPACE_MEMORY = 0,
    SPACE_SMM = 1,
    SPACE_IO = 2,
    SPACE_COUNT
}; /* SPACE_IO: 64 Ki ports */

enum region_kind {
    REGION_RAM,      /* reads and writes go to ram */
    REGION_ROM,      /* reads from ram, writes ignored */
    REGION_ROM_TRAP, /* reads from ram, writes to the device */
    REGION_DEVICE,   /* reads and writes to the device (MMIO or ports) */
};

/* One piece of a flattened view, as a copy. */
struct section {
    uint64_t start, size; /* gpa or port range */
    enum region_kind kind;
    struct ram *ram;     /* for all but REGION_DEVICE */
    uint64_t ram_offset; /* of `start` in ram */
    struct device *dev;  /* for REGION_DEVICE and REGION_ROM_TRAP */
    unsigned region;     /* the device's own number of its region, passed to read and write */
    uint64_t dev_offset; /* of `start` in the device's region */
};

struct mapping; /* one placed region; owned by the map until map_remove */

/* Higher priority shadows lower; equal priorities may not overlap (EEXIST). Regions for
 * SPACE_MEMORY also show in SPACE_SMM unless anything of SPACE_SMM lies over them. The engine is
 * told of every change of memory before the call returns. Memory ends at 2^52; RAM and ROM are
 * placed by whole pages (EINVAL otherwise). A mapping may be removed while vCPUs run, but its
 * device and ram must live on until they have stopped. */
/* kind: REGION_RAM or REGION_ROM */
int map_ram(struct machine *m, enum space space, uint64_t gpa, uint64_t size, enum region_kind kind,
            struct ram *ram, uint64_t ram_offset, int priority, struct mapping **out,
            struct err *err);
/* REGION_ROM_TRAP: reads from ram, writes to the device. */
int map_rom_trap(struct machine *m, enum space space, uint64_t gpa, uint64_t size, struct ram *ram,
                 uint64_t ram_offset, struct device *dev, unsigned region, int priority,
                 struct mapping **out, struct err *err);
int map_device(struct machine *m, enum space space, uint64_t start, uint64_t size,
               struct device *dev, unsigned region, int priority, struct mapping **out,
               struct err *err);
void map_remove(struct machine *m, struct mapping *mapping); /* NULL is fine */
/* Moves a mapping in one step (BARs). EEXIST leaves it where it was. */
int map_move(struct machine *m, struct mapping *mapping, uint64_t start, struct err *err);

/* Copies the section that contains `addr`; false where nothing is mapped. Lock-free. */
bool map_lookup(struct machine *m, enum space space, uint64_t addr, struct section *out);
/* Calls fn for each section in order of address, on one view (engines build their slots from it).
 * fn may not change the map. */
void map_walk(struct machine *m, enum space space, void (*fn)(void *arg, const struct section *s),
              void *arg);

/* ---- Access by the bus: what a vCPU's load, store, in or out does when it is not plain RAM ----
 */

/* size 1, 2, 4 or 8, naturally contained in one access; unmapped reads give all ones, unmapped
 * writes vanish. Device locks are taken as the device's type says. RAM and ROM work too. */
uint64_t bus_read(struct machine *m, enum space space, uint64_t addr, unsigned size);
void bus_write(struct machine *m, enum space space, uint64_t addr, unsigned size, uint64_t value);

/* Doorbells: a write of `size` bytes (0: any) to exactly `addr` adds 1 to the eventfd instead of
 * reaching the device. Borrowed fd, non-blocking; after doorbell_remove nobody uses it. Engines
 * accelerate them (ioeventfd). */
int doorbell_add(struct machine *m, enum space space, uint64_t addr, unsigned size, int eventfd,
                 struct err *err);
void doorbell_remove(struct machine *m, enum space space, uint64_t addr, int eventfd);

/* ---- Access by the host: checked copies. RAM and (reads) ROM only; -EFAULT elsewhere, also when a
 * page vanished. Atomic only for aligned 1, 2, 4, 8 bytes. ---- */
int mem_read(struct machine *m, uint64_t gpa, void *out, uint64_t len);
int mem_write(struct machine *m, uint64_t gpa, const void *data, uint64_t len);
/* For loaders and state: also writes ROM. */
int mem_load(struct machine *m, uint64_t gpa, const void *data, uint64_t len);

/* memcpy that answers -EFAULT instead of dying when a page behind hva cannot be had. */
int copy_from_hva(void *out, const void *hva, uint64_t len);
int copy_to_hva(void *hva, const void *data, uint64_t len);

/* ---- Leases: guest memory for the kernel or another process. An open lease may not be copied or
 * moved. ---- */

enum { DMA_MAX_SEGMENTS = 16 }; /* of one contiguous gpa range; sections rarely split it */

struct dma {
    struct machine *machine;
    uint64_t gpa, len;
    bool write;
    unsigned count;
    struct iovec iov[DMA_MAX_SEGMENTS];
    struct ram *ram[DMA_MAX_SEGMENTS]; /* behind each segment */
    struct dma *next, **prev;          /* open write leases; the machine's lease lock */
};

/* -EFAULT if any byte is not RAM (or, for reads, ROM). No pointer outlives the lease. */
int dma_begin(struct machine *m, uint64_t gpa, uint64_t len, bool write, struct dma *lease);
/* `written`: how many bytes from the start were (perhaps) changed. Marks dirty, drops translated
 * code. */
void dma_end(struct dma *lease, uint64_t written);
/* Gives the whole pages of a write lease back to the host; answers how many bytes. They read as
 * zeros until somebody writes them, so they count as written. Other leases of the same pages keep
 * good addresses, but not what they held. */
uint64_t dma_discard(struct dma *lease);
/* Waits until no lease is open. New leases wait from dma_freeze until dma_thaw. Not from a thread
 * holding one. */
void dma_freeze(struct machine *m);
void dma_thaw(struct machine *m);

/* ---- Dirty log ---- */

int dirty_log_start(struct machine *m, struct err *err); /* everything counts as clean afterwards */
void dirty_log_stop(struct machine *m);
/*
 * Takes the set of dirty pages of `ram` (bit i of bitmap: page i; (size >> 12) bits, cleared first)
 * and begins a new round. Returns after every vCPU has passed a safe point since the clear, so a
 * page read after this call and found clean by the next one has not changed in between. Not from a
 * vCPU thread. Returns the number of dirty pages.
 */
uint64_t dirty_log_fetch_clear(struct machine *m, struct ram *ram, uint64_t *bitmap);

#endif
