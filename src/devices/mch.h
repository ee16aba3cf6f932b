/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the memory controller hub of a Q35 does with memory: which parts of 0xa0000-0xfffff are RAM,
 * ROM or nothing, and the memory that only system management mode sees. The registers are in the
 * configuration space of the host bridge (pci_host.c), which calls here when they change.
 */
#ifndef DEVICES_MCH_H
#define DEVICES_MCH_H

#include "machine/device.h"
#include "machine/memory.h"

enum { /* configuration registers; chapter 5.1 of the "3 Series Express Chipset" data sheet */
       MCH_PAM0 = 0x90,
       MCH_PAM_COUNT = 7,
       MCH_SMRAM = 0x9d,
       MCH_SMRAM_DEFAULT = 0x02,
       MCH_SMRAM_LOCK = 1 << 4,
       MCH_SMRAM_OPEN = 1 << 6,
       MCH_ESMRAMC = 0x9e,
       MCH_ESMRAMC_DEFAULT = 0x38,
};
enum { MCH_AREAS = 13, MCH_REGIONS = 1 + MCH_AREAS };

struct mch_config {
    struct ram *ram;  /* guest memory, 1 MiB or more; gpa is its offset */
    uint64_t low_ram; /* what of it lies below 4 GiB, from 0 on */
    struct ram *rom;  /* firmware whose end shows below 1 MiB; NULL: none */
};

/* Mappings derived from the registers; bus lock. */
struct mch {
    struct device *dev; /* serves MCH_REGIONS regions from `region` on */
    unsigned region;
    struct mch_config config;
    struct mapping *areas[MCH_AREAS];
    uint8_t area_mode[MCH_AREAS];
    struct mapping *vga_hole, *open_smram, *smram, *tseg_hole, *tseg;
    uint8_t smram_now, esmramc_now;
};

void mch_init(struct mch *mch, struct device *dev, unsigned region,
              const struct mch_config *config);
void mch_fini(struct mch *mch);
/* Brings memory in line with the registers. `regs`: configuration space. */
int mch_update(struct mch *mch, const uint8_t *regs, struct err *err);

/* Accesses to the regions given to mch_init; `offset` inside the region. Device locks are not
 * needed.
 */
uint64_t mch_read(struct mch *mch, unsigned region, uint64_t offset, unsigned size);
void mch_write(struct mch *mch, unsigned region, uint64_t offset, unsigned size, uint64_t value);

#endif
