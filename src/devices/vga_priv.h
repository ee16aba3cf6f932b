/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A VGA inside a PCI function: what vga.c (registers and memory), vga_draw.c (pixels) and the
 * functions that have one share: vga_pci.c, and virtio/gpu_vga.c.
 *
 * A function owns a struct vga and a struct vga_regs, hands accesses to its regions VGA_LFB (the
 * BAR of the frame buffer) and VGA_WINDOW up, and to the first VGA_MMIO_SIZE bytes of a BAR as
 * VGA_MMIO, and tells where its frame buffer is decoded. All with its dev->lock, as a DEVICE_LOCKED
 * device is called.
 */
#ifndef DEVICES_VGA_PRIV_H
#define DEVICES_VGA_PRIV_H

#include "devices/vga.h"

enum { VGA_SEQUENCER = 5, VGA_CRTC = 0x19, VGA_GRAPHICS = 9, VGA_ATTRIBUTES = 0x15 };

/* Sequencer, graphics controller, attribute controller, CRT controller: IBM's names */
enum { SR_CLOCKING = 1, SR_MAP_MASK = 2, SR_FONTS = 3, SR_MEMORY_MODE = 4 };
enum { SR_CLOCKING_8_DOTS = 1, SR_CLOCKING_HALF = 8, SR_CLOCKING_OFF = 0x20, SR_MEMORY_CHAIN4 = 8 };
enum {
    GR_SET = 0,
    GR_SET_ENABLE = 1,
    GR_COMPARE = 2,
    GR_ROTATE = 3,
    GR_READ_PLANE = 4,
    GR_MODE = 5,
    GR_MISC = 6,
    GR_DONT_CARE = 7,
    GR_BIT_MASK = 8,
};
enum { GR_MODE_READ1 = 8, GR_MODE_ODD_EVEN = 0x10, GR_MODE_CGA4 = 0x20, GR_MODE_256 = 0x40 };
enum { GR_MISC_GRAPHICS = 1 };
enum { AR_MODE = 0x10, AR_OVERSCAN = 0x11, AR_PLANES = 0x12, AR_PAN = 0x13, AR_COLOURS = 0x14 };
enum {
    AR_MODE_MONOCHROME = 2,
    AR_MODE_LINE_GRAPHICS = 4,
    AR_MODE_BLINK = 8,
    AR_MODE_256 = 0x40,
    AR_MODE_P54 = 0x80
};
enum {
    CR_H_END = 1,
    CR_OVERFLOW = 7,
    CR_SCAN = 9,
    CR_CURSOR_START = 0xa,
    CR_CURSOR_END = 0xb,
    CR_START_HIGH = 0xc,
    CR_CURSOR_HIGH = 0xe,
    CR_V_RETRACE_END = 0x11,
    CR_V_END = 0x12,
    CR_OFFSET = 0x13,
    CR_UNDERLINE = 0x14,
    CR_MODE = 0x17,
    CR_LINE_COMPARE = 0x18,
};
/* Bochs display registers (VBE_DISPI in the Bochs VBE patch, version 5) */
enum {
    DISPI_ID,
    DISPI_XRES,
    DISPI_YRES,
    DISPI_BPP,
    DISPI_ENABLE,
    DISPI_BANK,
    DISPI_VIRT_WIDTH,
    DISPI_VIRT_HEIGHT,
    DISPI_X_OFFSET,
    DISPI_Y_OFFSET,
    DISPI_MEMORY_64K,
    DISPI_COUNT
};
enum { DISPI_ENABLED = 1, DISPI_GET_CAPS = 2, DISPI_8BIT_DAC = 0x20, DISPI_NO_CLEAR = 0x80 };

enum { VGA_LFB = 0, VGA_MMIO = 2, VGA_WINDOW = 8 };
enum { VGA_MMIO_SIZE = 4096, VGA_MEMORY_DEFAULT = 16 << 20 };

struct vga_regs {
    uint8_t sequencer[VGA_SEQUENCER], crtc[VGA_CRTC];
    uint8_t graphics[VGA_GRAPHICS], attributes[VGA_ATTRIBUTES];
    uint8_t sequencer_index, crtc_index, graphics_index;
    uint8_t attribute_index; /* with bit 5, "palette in use" */
    uint8_t attribute_data;  /* 1: the next write to 0x3c0 is data */
    uint8_t misc, feature;
    uint8_t dac_mask, dac_read, dac_write, dac_part; /* part: of red, green, blue is next */
    uint8_t dac_reading;                             /* 1: the last index was for reading */
    uint8_t dac_latch[3];
    uint8_t palette[768];
    uint8_t latch[4]; /* planes */
    uint8_t reserved;
    uint16_t dispi_index, dispi[DISPI_COUNT];
};

/* What of the registers decides how a frame looks; a copy, so that drawing needs no lock. */
struct vga_frame {
    uint8_t sequencer[VGA_SEQUENCER], crtc[VGA_CRTC];
    uint8_t graphics[VGA_GRAPHICS], attributes[VGA_ATTRIBUTES];
    uint8_t attribute_index;
    uint16_t dispi[DISPI_COUNT];
    uint32_t colours[256]; /* as pixels */
};

struct vga {
    struct device *dev;    /* whose lock guards the registers */
    struct vga_regs *regs; /* dev->lock */
    struct ram *vram;      /* the machine's */
    struct mapping *lfb;   /* over VGA_LFB; bus lock */
    uint8_t edid[128];

    /* Drawing; main loop */
    struct vga_frame frame;
    uint32_t line[SCREEN_MAX_WIDTH];
    uint8_t font[2][256 * 32]; /* by attribute bit 3 */
};

/* Registers as after power-on, memory ("vram") and the legacy window and ports. Also after a
 * failure the machine owns what was made. */
int vga_init(struct vga *vga, struct device *dev, struct vga_regs *regs,
             const struct vga_options *options, struct err *err);
uint64_t vga_region_read(struct vga *vga, unsigned region, uint64_t offset, unsigned size);
void vga_region_write(struct vga *vga, unsigned region, uint64_t offset, unsigned size,
                      uint64_t value);
void vga_power_on(struct vga *vga); /* a reset */
void vga_regs_loaded(struct vga *vga);
int vga_regs_check(const struct vga_regs *regs, struct err *err);
/* The frame buffer's BAR is decoded at `address` now, or no longer: see pci_ops.bar_mapped. */
void vga_lfb_mapped(struct vga *vga, uint64_t address, bool mapped);

/* vga_draw.c: a screen_source's functions; arg is the struct vga. */
void vga_draw(void *arg, struct screen *screen);
bool vga_text(void *arg, struct buf *out);
/* vga.c: copies registers under the lock. */
void vga_frame_take(struct vga *vga);

/* clang-format off */
/* State of a struct vga_regs that is the first member */
#define VGA_REGS_FIELDS \
    STATE_BYTES(struct vga_regs, sequencer), \
    STATE_BYTES(struct vga_regs, crtc), \
    STATE_BYTES(struct vga_regs, graphics), \
    STATE_BYTES(struct vga_regs, attributes), \
    STATE_U8(struct vga_regs, sequencer_index), \
    STATE_U8(struct vga_regs, crtc_index), \
    STATE_U8(struct vga_regs, graphics_index), \
    STATE_U8(struct vga_regs, attribute_index), \
    STATE_U8(struct vga_regs, attribute_data), \
    STATE_U8(struct vga_regs, misc), \
    STATE_U8(struct vga_regs, feature), \
    STATE_U8(struct vga_regs, dac_mask), \
    STATE_U8(struct vga_regs, dac_read), \
    STATE_U8(struct vga_regs, dac_write), \
    STATE_U8(struct vga_regs, dac_part), \
    STATE_U8(struct vga_regs, dac_reading), \
    STATE_BYTES(struct vga_regs, dac_latch), \
    STATE_BYTES(struct vga_regs, palette), \
    STATE_BYTES(struct vga_regs, latch), \
    STATE_U8(struct vga_regs, reserved), \
    STATE_U16(struct vga_regs, dispi_index), \
    STATE_UINTS(struct vga_regs, dispi)
/* clang-format on */

#endif
