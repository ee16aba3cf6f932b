/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The display adapter's registers and its memory as the guest reaches them; vga_draw.c makes
 * pixels of it.
 *
 * VGA: IBM's Video Subsystem Technical Reference (1992), and FreeVGA for what clones agreed on.
 * Planes lie interleaved: byte 4 * address + plane of the memory, which is also how the linear
 * frame buffer shows it. Bochs display registers: ports 0x1ce and 0x1cf, and in BAR 2 at 0x500,
 * where the VGA ports (0x400) and the EDID (0) lie too. A guest that writes the frame buffer writes
 * plain memory; only the window at 0xa0000 goes through us.
 */
#include "devices/vga_priv.h"

#include "base/checked.h"
#include "devices/edid.h"
#include "machine/clock.h"
#include "machine/machine.h"

#include <stdlib.h>
#include <string.h>

enum { PRIORITY_LFB = 1 /* above its own BAR */, PRIORITY_WINDOW = 10 /* above RAM */ };
enum { MMIO_PORTS = 0x400, MMIO_DISPI = 0x500, MMIO_EXTENSION = 0x600 };
enum { WINDOW = 0xa0000, WINDOW_SIZE = 0x20000, VGA_BYTES = 256 << 10 };
enum region { R_WINDOW = VGA_WINDOW, R_3B4, R_3BA, R_3C0, R_3D4, R_3DA, R_DISPI };

static const struct {
    enum region region;
    uint16_t port, count;
} ports[] = {
    { R_3B4, 0x3b4, 2 }, { R_3BA, 0x3ba, 1 }, { R_3C0, 0x3c0, 16 },
    { R_3D4, 0x3d4, 2 }, { R_3DA, 0x3da, 1 }, { R_DISPI, 0x1ce, 3 },
};

/* ---- memory behind 0xa0000 ---- */

/* Where in the window's selected part, of which size; false: not decoded. */
static bool window_offset(const struct vga_regs *regs, uint64_t offset, uint32_t *out)
{
    static const struct {
        uint32_t start, size;
    } parts[] = { { 0, 0x20000 }, { 0, 0x10000 }, { 0x10000, 0x8000 }, { 0x18000, 0x8000 } };
    unsigned part = regs->graphics[GR_MISC] >> 2 & 3;
    if (offset < parts[part].start || offset - parts[part].start >= parts[part].size)
        return false;
    *out = (uint32_t)offset - parts[part].start;
    return true;
}

/* The byte that a chained access means, or UINT64_MAX for planes at `*address`. */
static uint64_t window_byte(const struct vga *vga, uint32_t offset, bool write, uint32_t *address)
{
    const struct vga_regs *regs = vga->regs;
    bool enabled = regs->dispi[DISPI_ENABLE] & DISPI_ENABLED;
    uint64_t bank = enabled ? (uint64_t)regs->dispi[DISPI_BANK] << 16 : 0;
    bool odd_even =
        write ? !(regs->sequencer[SR_MEMORY_MODE] & 4) : regs->graphics[GR_MODE] & GR_MODE_ODD_EVEN;

    if (enabled ? regs->dispi[DISPI_BPP] > 4 : regs->sequencer[SR_MEMORY_MODE] & SR_MEMORY_CHAIN4)
        return bank + (offset & 0xffff);
    if (!enabled && odd_even)
        return (uint64_t)(offset >> 1) * 4 + (offset & 1);
    *address = (uint32_t)(bank + (offset & 0xffff));
    return UINT64_MAX;
}

static uint8_t window_read8(struct vga *vga, uint64_t at)
{
    struct vga_regs *regs = vga->regs;
    uint32_t offset, address = 0;
    if (!window_offset(regs, at, &offset))
        return 0xff;
    uint64_t byte = window_byte(vga, offset, false, &address);
    if (byte != UINT64_MAX) {
        if (!(regs->dispi[DISPI_ENABLE] & DISPI_ENABLED) &&
            !(regs->sequencer[SR_MEMORY_MODE] & SR_MEMORY_CHAIN4))
            byte |= regs->graphics[GR_READ_PLANE] & 2;
        return byte < vga->vram->size ? vga->vram->hva[byte] : 0xff;
    }
    if (4ull * address + 3 >= vga->vram->size)
        return 0xff;
    memcpy(regs->latch, vga->vram->hva + 4ull * address, 4);
    if (!(regs->graphics[GR_MODE] & GR_MODE_READ1))
        return regs->latch[regs->graphics[GR_READ_PLANE] & 3];
    uint8_t differ = 0;
    for (unsigned p = 0; p < 4; p++)
        if (regs->graphics[GR_DONT_CARE] >> p & 1)
            differ |= regs->latch[p] ^ (regs->graphics[GR_COMPARE] >> p & 1 ? 0xff : 0);
    return (uint8_t)~differ;
}

static uint8_t rotated(const struct vga_regs *regs, uint8_t value)
{
    unsigned by = regs->graphics[GR_ROTATE] & 7;
    return (uint8_t)(value >> by | value << (8 - by));
}

static uint8_t combined(const struct vga_regs *regs, uint8_t value, uint8_t latch)
{
    switch (regs->graphics[GR_ROTATE] >> 3 & 3) {
    case 1: return value & latch;
    case 2: return value | latch;
    case 3: return value ^ latch;
    }
    return value;
}

/* What write modes 0 to 3 make of the processor's byte for one plane. */
static uint8_t plane_value(const struct vga_regs *regs, unsigned p, uint8_t value)
{
    uint8_t mask = regs->graphics[GR_BIT_MASK], latch = regs->latch[p];
    uint8_t set = regs->graphics[GR_SET] >> p & 1 ? 0xff : 0;

    switch (regs->graphics[GR_MODE] & 3) {
    case 0: value = regs->graphics[GR_SET_ENABLE] >> p & 1 ? set : rotated(regs, value); break;
    case 1: return latch;
    case 2: value = value >> p & 1 ? 0xff : 0; break;
    case 3:
        mask &= rotated(regs, value);
        value = set;
        break;
    }
    value = combined(regs, value, latch);
    return (uint8_t)((value & mask) | (latch & ~mask));
}

static void vram_written(struct vga *vga, uint64_t at, uint64_t len)
{
    ram_written(vga->dev->machine, vga->vram, at, len);
}

static void window_write8(struct vga *vga, uint64_t at, uint8_t value)
{
    const struct vga_regs *regs = vga->regs;
    uint8_t planes = regs->sequencer[SR_MAP_MASK];
    uint32_t offset, address = 0;
    if (!window_offset(regs, at, &offset))
        return;
    uint64_t byte = window_byte(vga, offset, true, &address);
    if (byte != UINT64_MAX) {
        if (byte < vga->vram->size && planes >> (byte & 3) & 1) {
            vga->vram->hva[byte] = value;
            vram_written(vga, byte, 1);
        }
        return;
    }
    if (4ull * address + 3 >= vga->vram->size)
        return;
    for (unsigned p = 0; p < 4; p++)
        if (planes >> p & 1)
            vga->vram->hva[4ull * address + p] = plane_value(regs, p, value);
    vram_written(vga, 4ull * address, 4);
}

/* ---- Bochs display registers ---- */

static uint16_t dispi_read(const struct vga *vga, unsigned index)
{
    const struct vga_regs *regs = vga->regs;
    if (index == DISPI_MEMORY_64K)
        return (uint16_t)(vga->vram->size >> 16);
    if (index >= DISPI_COUNT)
        return 0;
    if (regs->dispi[DISPI_ENABLE] & DISPI_GET_CAPS)
        switch (index) {
        case DISPI_XRES: return SCREEN_MAX_WIDTH;
        case DISPI_YRES: return SCREEN_MAX_HEIGHT;
        case DISPI_BPP: return 32;
        }
    return regs->dispi[index];
}

static bool dispi_bpp_known(unsigned bpp)
{
    return bpp == 4 || bpp == 8 || bpp == 15 || bpp == 16 || bpp == 24 || bpp == 32;
}

/* Bytes from one line to the next. */
static uint64_t dispi_pitch(const struct vga_regs *regs)
{
    unsigned bpp = regs->dispi[DISPI_BPP];
    return bpp == 4 ? regs->dispi[DISPI_VIRT_WIDTH] / 8 * 4
                    : (uint64_t)regs->dispi[DISPI_VIRT_WIDTH] * ((bpp + 7) / 8);
}

/* Makes sizes ones that the memory holds: drawing never looks beyond it (and checks all the same).
 */
static void dispi_fit(struct vga *vga)
{
    uint16_t *r = vga->regs->dispi;
    uint64_t size = vga->vram->size;

    r[DISPI_XRES] = r[DISPI_XRES] > SCREEN_MAX_WIDTH ? SCREEN_MAX_WIDTH : r[DISPI_XRES];
    r[DISPI_XRES] = r[DISPI_XRES] < 8 ? 8 : r[DISPI_XRES] & ~7;
    if (r[DISPI_VIRT_WIDTH] < r[DISPI_XRES])
        r[DISPI_VIRT_WIDTH] = r[DISPI_XRES];
    uint64_t pitch = dispi_pitch(vga->regs), lines = size / pitch;
    if (r[DISPI_YRES] > SCREEN_MAX_HEIGHT)
        r[DISPI_YRES] = SCREEN_MAX_HEIGHT;
    if (!r[DISPI_YRES])
        r[DISPI_YRES] = 1;
    if (r[DISPI_YRES] > lines)
        r[DISPI_YRES] = (uint16_t)lines;
    r[DISPI_VIRT_HEIGHT] = (uint16_t)(lines < 0xffff ? lines : 0xffff);
    if (r[DISPI_X_OFFSET] > r[DISPI_VIRT_WIDTH] - r[DISPI_XRES])
        r[DISPI_X_OFFSET] = (uint16_t)(r[DISPI_VIRT_WIDTH] - r[DISPI_XRES]);
    if (r[DISPI_Y_OFFSET] > r[DISPI_VIRT_HEIGHT] - r[DISPI_YRES])
        r[DISPI_Y_OFFSET] = (uint16_t)(r[DISPI_VIRT_HEIGHT] - r[DISPI_YRES]);
}

/* The VGA registers follow, as SeaVGABIOS expects: a window of 64 KiB at 0xa0000, linear. */
static void dispi_enable(struct vga *vga, uint16_t value)
{
    struct vga_regs *regs = vga->regs;
    bool was = regs->dispi[DISPI_ENABLE] & DISPI_ENABLED;

    regs->dispi[DISPI_ENABLE] = value;
    if (!(value & DISPI_ENABLED) || was)
        return;
    regs->dispi[DISPI_BANK] = regs->dispi[DISPI_X_OFFSET] = regs->dispi[DISPI_Y_OFFSET] = 0;
    regs->dispi[DISPI_VIRT_WIDTH] = regs->dispi[DISPI_XRES];
    dispi_fit(vga);
    regs->graphics[GR_MISC] = (regs->graphics[GR_MISC] & ~0xc) | 4 | GR_MISC_GRAPHICS;
    regs->graphics[GR_MODE] = regs->dispi[DISPI_BPP] == 4 ? 0 : GR_MODE_256;
    regs->sequencer[SR_MAP_MASK] = 0xf;
    regs->sequencer[SR_MEMORY_MODE] = regs->dispi[DISPI_BPP] == 4 ? 6 : 6 | SR_MEMORY_CHAIN4;
    regs->graphics[GR_BIT_MASK] = 0xff;
    if (!(value & DISPI_NO_CLEAR)) {
        uint64_t len = dispi_pitch(regs) * regs->dispi[DISPI_YRES];
        len = len < vga->vram->size ? len : vga->vram->size;
        memset(vga->vram->hva, 0, len);
        vram_written(vga, 0, len);
    }
}

static void dispi_write(struct vga *vga, unsigned index, uint16_t value)
{
    struct vga_regs *regs = vga->regs;
    bool enabled = regs->dispi[DISPI_ENABLE] & DISPI_ENABLED;

    switch (index) {
    case DISPI_ID:
        if (value >= 0xb0c0 && value <= 0xb0c5)
            regs->dispi[index] = value;
        return;
    case DISPI_BPP:
        value = value ? value : 8;
        if (!dispi_bpp_known(value))
            return;
        break;
    case DISPI_ENABLE: dispi_enable(vga, value); return;
    case DISPI_BANK:
        if ((uint64_t)value << 16 >= vga->vram->size)
            return;
        regs->dispi[index] = value;
        return;
    case DISPI_XRES:
    case DISPI_YRES:
    case DISPI_VIRT_WIDTH:
    case DISPI_X_OFFSET:
    case DISPI_Y_OFFSET: break;
    default: return;
    }
    regs->dispi[index] = value;
    if (enabled)
        dispi_fit(vga);
}

/* ---- VGA registers ---- */

/* Graphics programs wait for the retrace bits to come and go. */
static uint8_t status1(const struct vga *vga)
{
    enum { FRAME_NS = 16666667, RETRACE_NS = 1000000, LINE_NS = 31778, BLANK_NS = 6000 };
    enum { BLANKING = 1, RETRACE = 8 };
    uint64_t in_frame = guest_now_ns(vga->dev->machine) % FRAME_NS;
    if (in_frame < RETRACE_NS)
        return RETRACE | BLANKING;
    return in_frame % LINE_NS < BLANK_NS ? BLANKING : 0;
}

static void attribute_write(struct vga_regs *regs, uint8_t value)
{
    unsigned index = regs->attribute_index & 0x1f;
    if (!regs->attribute_data)
        regs->attribute_index = value & 0x3f;
    else if (index < VGA_ATTRIBUTES)
        regs->attributes[index] = index < 0x10 ? value & 0x3f : value;
    regs->attribute_data = !regs->attribute_data;
}

static void dac_write(struct vga_regs *regs, uint8_t value)
{
    regs->dac_latch[regs->dac_part++] = value;
    if (regs->dac_part < 3)
        return;
    memcpy(&regs->palette[3 * regs->dac_write], regs->dac_latch, 3);
    regs->dac_write++;
    regs->dac_part = 0;
}

static uint8_t dac_read(struct vga_regs *regs)
{
    uint8_t value = regs->palette[3 * regs->dac_read + regs->dac_part++];
    if (regs->dac_part == 3) {
        regs->dac_read++;
        regs->dac_part = 0;
    }
    return value;
}

static void crtc_write(struct vga_regs *regs, uint8_t value)
{
    unsigned index = regs->crtc_index;
    if (index >= VGA_CRTC)
        return;
    if (index <= CR_OVERFLOW && (regs->crtc[CR_V_RETRACE_END] & 0x80)) {
        if (index == CR_OVERFLOW) /* only the line compare bit is not protected */
            regs->crtc[index] = (uint8_t)((regs->crtc[index] & ~0x10) | (value & 0x10));
        return;
    }
    regs->crtc[index] = value;
}

static bool port_is_here(const struct vga_regs *regs, unsigned port)
{
    bool colour = regs->misc & 1;
    if (port >= 0x3b0 && port <= 0x3bf)
        return !colour;
    return port < 0x3d0 || colour;
}

static uint8_t port_read8(struct vga *vga, unsigned port)
{
    struct vga_regs *regs = vga->regs;
    if (!port_is_here(regs, port))
        return 0xff;
    switch (port) {
    case 0x3c0: return regs->attribute_data ? 0 : regs->attribute_index;
    case 0x3c1: {
        unsigned index = regs->attribute_index & 0x1f;
        return index < VGA_ATTRIBUTES ? regs->attributes[index] : 0;
    }
    case 0x3c2: return 0x10; /* a colour monitor answers the switch sense */
    case 0x3c4: return regs->sequencer_index;
    case 0x3c5:
        return regs->sequencer_index < VGA_SEQUENCER ? regs->sequencer[regs->sequencer_index] : 0;
    case 0x3c6: return regs->dac_mask;
    case 0x3c7: return regs->dac_reading ? 3 : 0;
    case 0x3c8: return regs->dac_write;
    case 0x3c9: return dac_read(regs);
    case 0x3ca: return regs->feature;
    case 0x3cc: return regs->misc;
    case 0x3ce: return regs->graphics_index;
    case 0x3cf:
        return regs->graphics_index < VGA_GRAPHICS ? regs->graphics[regs->graphics_index] : 0;
    case 0x3b4:
    case 0x3d4: return regs->crtc_index;
    case 0x3b5:
    case 0x3d5: return regs->crtc_index < VGA_CRTC ? regs->crtc[regs->crtc_index] : 0;
    case 0x3ba:
    case 0x3da: regs->attribute_data = 0; return status1(vga);
    }
    return 0xff;
}

static void port_write8(struct vga *vga, unsigned port, uint8_t value)
{
    struct vga_regs *regs = vga->regs;
    if (!port_is_here(regs, port))
        return;
    switch (port) {
    case 0x3c0: attribute_write(regs, value); break;
    case 0x3c2: regs->misc = value & ~0x10; break;
    case 0x3c4: regs->sequencer_index = value & 7; break;
    case 0x3c5:
        if (regs->sequencer_index < VGA_SEQUENCER)
            regs->sequencer[regs->sequencer_index] = value;
        break;
    case 0x3c6: regs->dac_mask = value; break;
    case 0x3c7:
        regs->dac_read = value;
        regs->dac_part = 0;
        regs->dac_reading = 1;
        break;
    case 0x3c8:
        regs->dac_write = value;
        regs->dac_part = 0;
        regs->dac_reading = 0;
        break;
    case 0x3c9: dac_write(regs, value); break;
    case 0x3ce: regs->graphics_index = value & 0xf; break;
    case 0x3cf:
        if (regs->graphics_index < VGA_GRAPHICS)
            regs->graphics[regs->graphics_index] = value;
        break;
    case 0x3b4:
    case 0x3d4: regs->crtc_index = value; break;
    case 0x3b5:
    case 0x3d5: crtc_write(regs, value); break;
    case 0x3ba:
    case 0x3da: regs->feature = value; break;
    }
}

/* ---- accesses ---- */

static unsigned region_port(unsigned region)
{
    for (unsigned i = 0; i < ARRAY_LEN(ports); i++)
        if (ports[i].region == region)
            return ports[i].port;
    return 0;
}

/* Words at an index port write index and data. */
static uint64_t ports_read(struct vga *vga, unsigned port, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)port_read8(vga, port + i) << 8 * i;
    return value;
}

static void ports_write(struct vga *vga, unsigned port, unsigned size, uint64_t value)
{
    for (unsigned i = 0; i < size; i++)
        port_write8(vga, port + i, (uint8_t)(value >> 8 * i));
}

static uint64_t mmio_read(struct vga *vga, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    if (range_fits(offset, size, sizeof vga->edid))
        memcpy(&value, vga->edid + offset, size);
    else if (offset >= MMIO_PORTS && range_fits(offset - MMIO_PORTS, size, 0x20))
        value = ports_read(vga, 0x3c0 + (unsigned)(offset - MMIO_PORTS), size);
    else if (offset >= MMIO_DISPI && offset < MMIO_DISPI + 2 * DISPI_COUNT)
        value = dispi_read(vga, (unsigned)(offset - MMIO_DISPI) / 2);
    else if (offset == MMIO_EXTENSION)
        value = 8; /* bytes: this, and the byte order */
    else if (offset == MMIO_EXTENSION + 4)
        value = 0x1e1e1e1e; /* little-endian, the only one */
    return value;
}

uint64_t vga_region_read(struct vga *vga, unsigned region, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    switch (region) {
    case R_WINDOW:
        for (unsigned i = 0; i < size; i++)
            value |= (uint64_t)window_read8(vga, offset + i) << 8 * i;
        return value;
    case VGA_MMIO: return mmio_read(vga, offset, size);
    case R_DISPI:
        return offset == 0 ? vga->regs->dispi_index : dispi_read(vga, vga->regs->dispi_index);
    case VGA_LFB: return UINT64_MAX; /* its RAM lies over it */
    }
    return ports_read(vga, region_port(region) + (unsigned)offset, size);
}

void vga_region_write(struct vga *vga, unsigned region, uint64_t offset, unsigned size,
                      uint64_t value)
{
    switch (region) {
    case R_WINDOW:
        for (unsigned i = 0; i < size; i++)
            window_write8(vga, offset + i, (uint8_t)(value >> 8 * i));
        return;
    case VGA_MMIO:
        if (offset >= MMIO_PORTS && range_fits(offset - MMIO_PORTS, size, 0x20))
            ports_write(vga, 0x3c0 + (unsigned)(offset - MMIO_PORTS), size, value);
        else if (offset >= MMIO_DISPI && offset < MMIO_DISPI + 2 * DISPI_COUNT)
            dispi_write(vga, (unsigned)(offset - MMIO_DISPI) / 2, (uint16_t)value);
        return;
    case R_DISPI:
        if (offset == 0)
            vga->regs->dispi_index = (uint16_t)value;
        else
            dispi_write(vga, vga->regs->dispi_index, (uint16_t)value);
        return;
    case VGA_LFB: return;
    }
    ports_write(vga, region_port(region) + (unsigned)offset, size, value);
}

/* ---- life ---- */

void vga_frame_take(struct vga *vga)
{
    const struct vga_regs *regs = vga->regs;
    struct vga_frame *f = &vga->frame;
    LOCKED(&vga->dev->lock);

    memcpy(f->sequencer, regs->sequencer, sizeof f->sequencer);
    memcpy(f->crtc, regs->crtc, sizeof f->crtc);
    memcpy(f->graphics, regs->graphics, sizeof f->graphics);
    memcpy(f->attributes, regs->attributes, sizeof f->attributes);
    memcpy(f->dispi, regs->dispi, sizeof f->dispi);
    f->attribute_index = regs->attribute_index;
    bool wide = regs->dispi[DISPI_ENABLE] & DISPI_8BIT_DAC;
    for (unsigned i = 0; i < 256; i++) {
        uint32_t colour = 0;
        for (unsigned c = 0; c < 3; c++) {
            uint8_t v = regs->palette[3 * (i & regs->dac_mask) + c];
            colour = colour << 8 | (wide ? v : (uint8_t)((v & 0x3f) << 2 | (v & 0x3f) >> 4));
        }
        f->colours[i] = colour;
    }
}

/* Memory over what the core maps. */
void vga_lfb_mapped(struct vga *vga, uint64_t address, bool mapped)
{
    map_remove(vga->dev->machine, TAKE(vga->lfb));
    if (mapped)
        map_ram(vga->dev->machine, SPACE_MEMORY, address, vga->vram->size, REGION_RAM, vga->vram, 0,
                PRIORITY_LFB, &vga->lfb, NULL);
}

static void regs_power_on(struct vga_regs *regs)
{
    *regs = (struct vga_regs){ .misc = 1, .dac_mask = 0xff };
    regs->dispi[DISPI_ID] = 0xb0c5;
    regs->dispi[DISPI_BPP] = 8;
}

void vga_power_on(struct vga *vga)
{
    regs_power_on(vga->regs);
    memset(vga->vram->hva, 0, VGA_BYTES);
    vram_written(vga, 0, VGA_BYTES);
}

void vga_regs_loaded(struct vga *vga)
{
    if (vga->regs->dispi[DISPI_ENABLE] & DISPI_ENABLED)
        dispi_fit(vga);
}

int vga_regs_check(const struct vga_regs *r, struct err *err)
{
    if (!dispi_bpp_known(r->dispi[DISPI_BPP]) || r->dac_part > 2 || r->attribute_data > 1 ||
        r->dac_reading > 1 || r->attribute_index > 0x3f)
        return err_set(err, EINVAL, "the display adapter cannot be in the saved state");
    return 0;
}

static int vga_map_legacy(struct vga *vga, struct err *err)
{
    struct machine *m = vga->dev->machine;
    struct mapping *mapping; /* the map's */
    int r = map_device(m, SPACE_MEMORY, WINDOW, WINDOW_SIZE, vga->dev, R_WINDOW, PRIORITY_WINDOW,
                       &mapping, err);
    for (unsigned i = 0; r == 0 && i < ARRAY_LEN(ports); i++)
        r = map_device(m, SPACE_IO, ports[i].port, ports[i].count, vga->dev, ports[i].region,
                       PRIORITY_WINDOW, &mapping, err);
    return r;
}

int vga_init(struct vga *vga, struct device *dev, struct vga_regs *regs,
             const struct vga_options *options, struct err *err)
{
    vga->dev = dev;
    vga->regs = regs;
    regs_power_on(regs);
    edid_make(options->width ? options->width : 1280, options->height ? options->height : 800,
              vga->edid);
    int r =
        ram_create("vram", options->memory ? options->memory : VGA_MEMORY_DEFAULT, &vga->vram, err);
    if (r == 0)
        r = machine_add_ram(dev->machine, vga->vram, err);
    return r == 0 ? vga_map_legacy(vga, err) : r;
}
