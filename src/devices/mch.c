/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Programmable attribute map (PAM) and system management memory of the Q35's memory controller,
 * after the data sheet of Intel's 3 Series Express Chipset Family, 5.1.20-5.1.26 and 5.1.32.
 *
 * All of RAM is mapped by the board; what must not show as RAM gets an overlay of higher priority:
 *
 *   RE WE (bits 0 and 1 of an area's nibble)
 *    0  0  the firmware's ROM, or nothing where it does not reach: reads all ones
 *    1  0  RAM that ignores writes
 *    0  1  reads as 0 0, writes go to RAM: for a firmware that copies itself in place
 *    1  1  RAM: no overlay
 *
 * 0xa0000-0xbffff is a hole above which a VGA lies, unless SMRAM is opened. D_CLS is not modelled:
 * code and data of system management mode both see SMRAM.
 */
#include "devices/mch.h"

#include "base/checked.h"
#include "machine/machine.h"

#include <assert.h>
#include <string.h>

enum { PRIORITY_HOLE = 6, PRIORITY_SMRAM = 30 }; /* RAM has 5, chips 10 */
enum { READ_RAM = 1, WRITE_RAM = 2, MODE_MASK = 3 };
enum { REGION_HOLE, REGION_COPY }; /* offsets from mch->region; COPY + number of the area */
enum { LEGACY_ROM = 0x20000, SMRAM_BASE = 0xa0000, SMRAM_SIZE = 0x20000, SMRAM_ENABLE = 1 << 3 };
enum { TSEG_ENABLE = 1 << 0, TSEG_SIZE_SHIFT = 1, TSEG_SIZE_MASK = 3 };
enum { MODE_UNKNOWN = 0xff };
#define MIB (1ull << 20)

/* Area 0 is the last one in memory: PAM0 has only 0xf0000-0xfffff, in its upper nibble. */
static uint32_t area_start(unsigned area) { return area ? 0xc0000 + 0x4000 * (area - 1) : 0xf0000; }
static uint32_t area_size(unsigned area) { return area ? 0x4000 : 0x10000; }

static unsigned area_mode(const uint8_t *regs, unsigned area)
{
    unsigned index = area + 1; /* nibbles from PAM0 on; the first is reserved */
    return regs[MCH_PAM0 + index / 2] >> (index % 2 * 4) & MODE_MASK;
}

/* Where the byte at `gpa` (below 1 MiB) lies in the ROM; false: nowhere. */
static bool rom_offset(const struct mch *mch, uint32_t gpa, uint64_t *offset)
{
    const struct ram *rom = mch->config.rom;
    uint64_t shown = rom && rom->size < LEGACY_ROM ? rom->size : LEGACY_ROM;
    if (!rom || gpa < MIB - shown)
        return false;
    *offset = rom->size - (MIB - gpa);
    return true;
}

static int area_map(struct mch *mch, unsigned area, unsigned mode, struct err *err)
{
    struct machine *m = mch->dev->machine;
    uint32_t start = area_start(area), size = area_size(area);
    struct mapping **out = &mch->areas[area];
    uint64_t offset;

    if (mode == (READ_RAM | WRITE_RAM))
        return 0;
    if (mode == READ_RAM)
        return map_ram(m, SPACE_MEMORY, start, size, REGION_ROM, mch->config.ram, start,
                       PRIORITY_HOLE, out, err);
    if (mode == WRITE_RAM)
        return map_device(m, SPACE_MEMORY, start, size, mch->dev, mch->region + REGION_COPY + area,
                          PRIORITY_HOLE, out, err);
    if (rom_offset(mch, start, &offset))
        return map_ram(m, SPACE_MEMORY, start, size, REGION_ROM, mch->config.rom, offset,
                       PRIORITY_HOLE, out, err);
    return map_device(m, SPACE_MEMORY, start, size, mch->dev, mch->region + REGION_HOLE,
                      PRIORITY_HOLE, out, err);
}

static void unmap(struct mch *mch, struct mapping **mapping)
{
    map_remove(mch->dev->machine, TAKE(*mapping));
}

static int hole_map(struct mch *mch, uint64_t start, uint64_t size, struct mapping **out,
                    struct err *err)
{
    return map_device(mch->dev->machine, SPACE_MEMORY, start, size, mch->dev,
                      mch->region + REGION_HOLE, PRIORITY_HOLE, out, err);
}

static int smram_update(struct mch *mch, uint8_t smram, struct err *err)
{
    struct machine *m = mch->dev->machine;
    bool enabled = smram & SMRAM_ENABLE, open = enabled && (smram & MCH_SMRAM_OPEN);
    int r = 0;

    unmap(mch, &mch->open_smram);
    unmap(mch, &mch->smram);
    if (!mch->vga_hole)
        r = hole_map(mch, SMRAM_BASE, SMRAM_SIZE, &mch->vga_hole, err);
    if (r == 0 && open)
        r = map_ram(m, SPACE_MEMORY, SMRAM_BASE, SMRAM_SIZE, REGION_RAM, mch->config.ram,
                    SMRAM_BASE, PRIORITY_SMRAM, &mch->open_smram, err);
    if (r == 0 && enabled)
        r = map_ram(m, SPACE_SMM, SMRAM_BASE, SMRAM_SIZE, REGION_RAM, mch->config.ram, SMRAM_BASE,
                    PRIORITY_SMRAM, &mch->smram, err);
    return r;
}

/* TSEG lies at the top of low memory and is seen by system management mode alone. */
static int tseg_update(struct mch *mch, uint8_t esmramc, struct err *err)
{
    static const uint64_t sizes[] = { 1 * MIB, 2 * MIB, 8 * MIB, 0 };
    uint64_t size = sizes[esmramc >> TSEG_SIZE_SHIFT & TSEG_SIZE_MASK];

    unmap(mch, &mch->tseg_hole);
    unmap(mch, &mch->tseg);
    if (!(esmramc & TSEG_ENABLE) || !size || mch->config.low_ram < 2 * size)
        return 0;
    uint64_t start = mch->config.low_ram - size;
    int r = hole_map(mch, start, size, &mch->tseg_hole, err);
    if (r == 0)
        r = map_ram(mch->dev->machine, SPACE_SMM, start, size, REGION_RAM, mch->config.ram, start,
                    PRIORITY_SMRAM, &mch->tseg, err);
    return r;
}

int mch_update(struct mch *mch, const uint8_t *regs, struct err *err)
{
    int r = 0;
    for (unsigned i = 0; i < MCH_AREAS && r == 0; i++) {
        unsigned mode = area_mode(regs, i);
        if (mode == mch->area_mode[i])
            continue;
        unmap(mch, &mch->areas[i]);
        mch->area_mode[i] = MODE_UNKNOWN;
        r = area_map(mch, i, mode, err);
        if (r == 0)
            mch->area_mode[i] = (uint8_t)mode;
    }
    if (r == 0 && (!mch->vga_hole || mch->smram_now != regs[MCH_SMRAM])) {
        r = smram_update(mch, regs[MCH_SMRAM], err);
        mch->smram_now = regs[MCH_SMRAM];
    }
    if (r == 0 && mch->esmramc_now != regs[MCH_ESMRAMC]) {
        r = tseg_update(mch, regs[MCH_ESMRAMC], err);
        mch->esmramc_now = regs[MCH_ESMRAMC];
    }
    return r;
}

/* ---- holes and copying ---- */

uint64_t mch_read(struct mch *mch, unsigned region, uint64_t offset, unsigned size)
{
    uint64_t value = UINT64_MAX, at;
    if (region == mch->region + REGION_HOLE)
        return value;
    uint32_t gpa = area_start(region - mch->region - REGION_COPY) + (uint32_t)offset;
    if (rom_offset(mch, gpa, &at) && range_fits(at, size, mch->config.rom->size))
        copy_from_hva(&value, mch->config.rom->hva + at, size);
    return value;
}

void mch_write(struct mch *mch, unsigned region, uint64_t offset, unsigned size, uint64_t value)
{
    if (region == mch->region + REGION_HOLE)
        return;
    uint32_t gpa = area_start(region - mch->region - REGION_COPY) + (uint32_t)offset;
    if (copy_to_hva(mch->config.ram->hva + gpa, &value, size) == 0)
        ram_written(mch->dev->machine, mch->config.ram, gpa, size);
}

/* ---- life ---- */

void mch_init(struct mch *mch, struct device *dev, unsigned region, const struct mch_config *config)
{
    *mch = (struct mch){ .dev = dev, .region = region, .config = *config };
    assert(config->ram->size >= MIB);
    memset(mch->area_mode, MODE_UNKNOWN, sizeof mch->area_mode);
}

void mch_fini(struct mch *mch)
{
    for (unsigned i = 0; i < MCH_AREAS; i++)
        unmap(mch, &mch->areas[i]);
    unmap(mch, &mch->vga_hole);
    unmap(mch, &mch->open_smram);
    unmap(mch, &mch->smram);
    unmap(mch, &mch->tseg_hole);
    unmap(mch, &mch->tseg);
}
