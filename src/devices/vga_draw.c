/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pixels of the display adapter: text, VGA's planar and packed graphics, and the Bochs modes.
 *
 * Registers are copied first; the memory is read while the guest writes it, so a frame may be torn,
 * as on a real monitor, and the next one is right. Everything that says where to read is checked
 * against the memory's size here. Nothing blinks: a blinking cursor would cost network traffic on
 * an idle screen.
 */
#include "devices/vga_priv.h"

#include "base/checked.h"
#include "machine/memory.h"

#include <string.h>

static uint8_t vram8(const struct vga *vga, uint64_t at)
{
    return at < vga->vram->size ? vga->vram->hva[at] : 0;
}

/* ---- geometry that text and graphics share ---- */

static unsigned crtc_height(const struct vga_frame *f)
{
    return (f->crtc[CR_V_END] | (f->crtc[CR_OVERFLOW] >> 1 & 1) << 8 |
            (f->crtc[CR_OVERFLOW] >> 6 & 1) << 9) +
           1u;
}

static unsigned crtc_start(const struct vga_frame *f)
{
    return (unsigned)f->crtc[CR_START_HIGH] << 8 | f->crtc[CR_START_HIGH + 1];
}

static unsigned crtc_line_compare(const struct vga_frame *f)
{
    return f->crtc[CR_LINE_COMPARE] | (f->crtc[CR_OVERFLOW] >> 4 & 1u) << 8 |
           (f->crtc[CR_SCAN] >> 6 & 1u) << 9;
}

/* A colour of 16 through the attribute controller to the DAC. */
static uint32_t colour16(const struct vga_frame *f, unsigned c)
{
    unsigned index = f->attributes[c & 0xf];
    if (f->attributes[AR_MODE] & AR_MODE_P54)
        index = (index & 0xf) | (f->attributes[AR_COLOURS] & 0xfu) << 4;
    else
        index |= (f->attributes[AR_COLOURS] & 0xcu) << 4;
    return f->colours[index & 0xff];
}

static bool dispi_on(const struct vga_frame *f) { return f->dispi[DISPI_ENABLE] & DISPI_ENABLED; }

static bool text_mode(const struct vga_frame *f)
{
    return !dispi_on(f) && !(f->graphics[GR_MISC] & GR_MISC_GRAPHICS);
}

static bool blanked(const struct vga_frame *f)
{
    return !dispi_on(f) &&
           (!(f->attribute_index & 0x20) || (f->sequencer[SR_CLOCKING] & SR_CLOCKING_OFF));
}

/* ---- text ---- */

struct text_shape {
    unsigned columns, rows, glyph_width, glyph_height;
    unsigned start, pitch; /* characters */
    unsigned font[2];      /* byte of plane 2 where the fonts lie, by attribute bit 3 */
    unsigned cursor;       /* character; UINT_MAX: none */
};

static struct text_shape text_shape(const struct vga *vga)
{
    const struct vga_frame *f = &vga->frame;
    unsigned a = (f->sequencer[SR_FONTS] >> 2 & 3) | (f->sequencer[SR_FONTS] >> 3 & 4);
    unsigned b = (f->sequencer[SR_FONTS] & 3) | (f->sequencer[SR_FONTS] >> 2 & 4);
    static const unsigned places[8] = { 0, 0x4000, 0x8000, 0xc000, 0x2000, 0x6000, 0xa000, 0xe000 };
    struct text_shape s = {
        .columns = f->crtc[CR_H_END] + 1u,
        .glyph_height = (f->crtc[CR_SCAN] & 0x1fu) + 1,
        .glyph_width = f->sequencer[SR_CLOCKING] & SR_CLOCKING_8_DOTS ? 8 : 9,
        .start = crtc_start(f),
        .pitch = f->crtc[CR_OFFSET] * 2u,
        .font = { places[b], places[a] },
        .cursor = UINT32_MAX,
    };
    s.rows = crtc_height(f) / s.glyph_height;
    s.rows = s.rows < 1 ? 1 : s.rows > 128 ? 128 : s.rows;
    if (!(f->crtc[CR_CURSOR_START] & 0x20))
        s.cursor = (unsigned)f->crtc[CR_CURSOR_HIGH] << 8 | f->crtc[CR_CURSOR_HIGH + 1];
    return s;
}

static uint16_t text_cell(const struct vga *vga, unsigned at)
{
    uint64_t byte = 4ull * (at & 0xffff);
    return (uint16_t)(vram8(vga, byte) | vram8(vga, byte + 1) << 8);
}

static void text_fonts(struct vga *vga, const struct text_shape *s)
{
    for (unsigned i = 0; i < 2; i++)
        for (unsigned n = 0; n < sizeof vga->font[i]; n++)
            vga->font[i][n] = vram8(vga, 4ull * (s->font[i] + n) + 2);
}

static void text_draw_cell(struct vga *vga, struct screen *screen, const struct text_shape *s,
                           unsigned column, unsigned row, uint16_t cell, bool cursor)
{
    const struct vga_frame *f = &vga->frame;
    unsigned code = cell & 0xff, attribute = cell >> 8;
    const uint8_t *glyph = &vga->font[attribute >> 3 & 1][code * 32];
    unsigned back = attribute >> 4 & (f->attributes[AR_MODE] & AR_MODE_BLINK ? 7 : 15);
    uint32_t fg = colour16(f, attribute & 15), bg = colour16(f, back), pixels[9];
    bool joined = code >= 0xc0 && code <= 0xdf && (f->attributes[AR_MODE] & AR_MODE_LINE_GRAPHICS);
    unsigned cursor_first = f->crtc[CR_CURSOR_START] & 0x1f;
    unsigned cursor_last = f->crtc[CR_CURSOR_END] & 0x1f;
    bool underline = (attribute & 7) == 1 && (f->attributes[AR_MODE] & AR_MODE_MONOCHROME);

    for (unsigned y = 0; y < s->glyph_height; y++) {
        uint8_t bits = glyph[y];
        if (cursor && y >= cursor_first && y <= cursor_last)
            bits = 0xff;
        if (underline && y == (f->crtc[CR_UNDERLINE] & 0x1fu))
            bits = 0xff;
        for (unsigned x = 0; x < 8; x++)
            pixels[x] = bits & 0x80 >> x ? fg : bg;
        pixels[8] = joined || bits == 0xff ? pixels[7] : bg;
        screen_line(screen, column * s->glyph_width, row * s->glyph_height + y, s->glyph_width,
                    pixels);
    }
}

static void draw_text(struct vga *vga, struct screen *screen)
{
    struct text_shape s = text_shape(vga);

    screen_resize(screen, s.columns * s.glyph_width, s.rows * s.glyph_height);
    text_fonts(vga, &s);
    for (unsigned row = 0; row < s.rows; row++)
        for (unsigned column = 0; column < s.columns; column++) {
            unsigned at = (s.start + row * s.pitch + column) & 0xffff;
            text_draw_cell(vga, screen, &s, column, row, text_cell(vga, at), at == s.cursor);
        }
}

/* Code page 437 beyond ASCII, as much as boot menus draw with. */
static const char *const cp437_high[128] = {
    "Ç", "ü", "é", "â", "ä", "à", "å", "ç", "ê", "ë", "è", "ï", "î", "ì", "Ä", "Å", "É", "æ", "Æ",
    "ô", "ö", "ò", "û", "ù", "ÿ", "Ö", "Ü", "¢", "£", "¥", "₧", "ƒ", "á", "í", "ó", "ú", "ñ", "Ñ",
    "ª", "º", "¿", "⌐", "¬", "½", "¼", "¡", "«", "»", "░", "▒", "▓", "│", "┤", "╡", "╢", "╖", "╕",
    "╣", "║", "╗", "╝", "╜", "╛", "┐", "└", "┴", "┬", "├", "─", "┼", "╞", "╟", "╚", "╔", "╩", "╦",
    "╠", "═", "╬", "╧", "╨", "╤", "╥", "╙", "╘", "╒", "╓", "╫", "╪", "┘", "┌", "█", "▄", "▌", "▐",
    "▀", "α", "ß", "Γ", "π", "Σ", "σ", "µ", "τ", "Φ", "Θ", "Ω", "δ", "∞", "φ", "ε", "∩", "≡", "±",
    "≥", "≤", "⌠", "⌡", "÷", "≈", "°", "∙", "·", "√", "ⁿ", "²", "■", " ",
};

bool vga_text(void *arg, struct buf *out)
{
    struct vga *vga = arg;
    vga_frame_take(vga);
    if (!text_mode(&vga->frame))
        return false;
    struct text_shape s = text_shape(vga);
    for (unsigned row = 0; row < s.rows; row++) {
        size_t end = out->len;
        for (unsigned column = 0; column < s.columns; column++) {
            unsigned code = text_cell(vga, s.start + row * s.pitch + column) & 0xff;
            bool plain = code >= 0x20 && code < 0x7f;
            if (code >= 0x80)
                buf_printf(out, "%s", cp437_high[code - 0x80]);
            else
                buf_printf(out, "%c", plain ? (int)code : ' ');
            if (code != ' ' && code != 0 && code != 0xff)
                end = out->len;
        }
        out->len = end; /* without spaces at the end */
        buf_printf(out, "\n");
    }
    return true;
}

/* ---- VGA graphics ---- */

/* One line of pixels from byte address `at` of the planes on. */
static void planar_line(struct vga *vga, uint64_t at, unsigned width)
{
    const struct vga_frame *f = &vga->frame;
    uint32_t colours[16];
    for (unsigned c = 0; c < 16; c++)
        colours[c] = colour16(f, c & f->attributes[AR_PLANES]);
    for (unsigned x = 0; x < width; x += 8, at++) {
        uint8_t p[4];
        for (unsigned i = 0; i < 4; i++)
            p[i] = vram8(vga, 4 * at + i);
        for (unsigned i = 0; i < 8 && x + i < width; i++) {
            unsigned bit = 7 - i;
            unsigned c = (p[0] >> bit & 1u) | (p[1] >> bit & 1u) << 1 | (p[2] >> bit & 1u) << 2 |
                         (p[3] >> bit & 1u) << 3;
            vga->line[x + i] = colours[c];
        }
    }
}

/* CGA's four colours: two bits a pixel, characters' planes 0 and 1 in turn. */
static void cga4_line(struct vga *vga, uint64_t at, unsigned width)
{
    for (unsigned x = 0; x < width; x += 8, at++)
        for (unsigned i = 0; i < 8 && x + i < width; i++) {
            uint8_t byte = vram8(vga, 4 * at + i / 4);
            vga->line[x + i] = colour16(&vga->frame, byte >> (6 - 2 * (i % 4)) & 3);
        }
}

static void packed_line(struct vga *vga, uint64_t at, unsigned width)
{
    for (unsigned x = 0; x < width; x++)
        vga->line[x] = vga->frame.colours[vram8(vga, at + x)];
}

static void draw_graphics(struct vga *vga, struct screen *screen)
{
    const struct vga_frame *f = &vga->frame;
    bool colours256 = f->graphics[GR_MODE] & GR_MODE_256;
    bool cga4 = f->graphics[GR_MODE] & GR_MODE_CGA4;
    unsigned width = (f->crtc[CR_H_END] + 1u) * 8 / (colours256 ? 2 : 1), height = crtc_height(f);
    unsigned repeat = ((f->crtc[CR_SCAN] & 0x1f) + 1u) * (f->crtc[CR_SCAN] & 0x80 ? 2 : 1);
    bool interleaved = !(f->crtc[CR_MODE] & 1); /* odd lines 8 KiB further on */
    uint64_t pitch = f->crtc[CR_OFFSET] * 2ull; /* addresses of 4 bytes */
    unsigned compare = crtc_line_compare(f), start = crtc_start(f);

    unsigned lines = height / repeat ? height / repeat : 1;
    if (interleaved) {
        lines = height;
        repeat = 1;
    }
    screen_resize(screen, width, lines);
    for (unsigned y = 0; y < lines; y++) {
        bool split = (uint64_t)y * repeat > compare;
        unsigned row = split ? y - (compare / repeat + 1) : y;
        uint64_t at = split ? 0 : start;
        at += interleaved ? (row >> 1) * pitch + (row & 1) * 0x2000ull : row * pitch;
        if (colours256)
            packed_line(vga, 4 * at, width);
        else if (cga4)
            cga4_line(vga, at, width);
        else
            planar_line(vga, at, width);
        screen_line(screen, 0, y, width, vga->line);
    }
}

/* ---- Bochs modes ---- */

static void line15(struct vga *vga, const uint8_t *in, unsigned width)
{
    for (unsigned x = 0; x < width; x++) {
        unsigned v = in[2 * x] | in[2 * x + 1] << 8;
        vga->line[x] = (v >> 10 & 31) << 19 | (v >> 5 & 31) << 11 | (v & 31) << 3;
    }
}

static void line16(struct vga *vga, const uint8_t *in, unsigned width)
{
    for (unsigned x = 0; x < width; x++) {
        unsigned v = in[2 * x] | in[2 * x + 1] << 8;
        vga->line[x] = (v >> 11 & 31) << 19 | (v >> 5 & 63) << 10 | (v & 31) << 3;
    }
}

static void line24(struct vga *vga, const uint8_t *in, unsigned width)
{
    for (unsigned x = 0; x < width; x++)
        vga->line[x] = in[3 * x] | in[3 * x + 1] << 8 | in[3 * x + 2] << 16;
}

static void draw_dispi(struct vga *vga, struct screen *screen)
{
    const uint16_t *r = vga->frame.dispi;
    unsigned width = r[DISPI_XRES], bpp = r[DISPI_BPP], bytes = (bpp + 7) / 8;
    uint64_t pitch = bpp == 4 ? r[DISPI_VIRT_WIDTH] / 8 : (uint64_t)r[DISPI_VIRT_WIDTH] * bytes;
    uint64_t x0 = bpp == 4 ? r[DISPI_X_OFFSET] / 8 : (uint64_t)r[DISPI_X_OFFSET] * bytes;

    screen_resize(screen, width, r[DISPI_YRES]);
    width = width < SCREEN_MAX_WIDTH ? width : SCREEN_MAX_WIDTH;
    for (unsigned y = 0; y < r[DISPI_YRES]; y++) {
        uint64_t at = (y + (uint64_t)r[DISPI_Y_OFFSET]) * pitch + x0;
        const uint8_t *in = vga->vram->hva + at;
        if (bpp == 4)
            planar_line(vga, at, width);
        else if (!range_fits(at, (uint64_t)width * bytes, vga->vram->size))
            return;
        else if (bpp == 32 && at % 4 == 0) {
            screen_line(screen, 0, y, width, (const uint32_t *)in);
            continue;
        } else if (bpp == 8)
            packed_line(vga, at, width);
        else if (bpp == 15)
            line15(vga, in, width);
        else if (bpp == 16)
            line16(vga, in, width);
        else if (bpp == 24)
            line24(vga, in, width);
        screen_line(screen, 0, y, width, vga->line);
    }
}

static void draw_black(struct vga *vga, struct screen *screen)
{
    memset(vga->line, 0, sizeof vga->line);
    for (unsigned y = 0; y < screen_height(screen); y++)
        screen_line(screen, 0, y, screen_width(screen), vga->line);
}

void vga_draw(void *arg, struct screen *screen)
{
    struct vga *vga = arg;
    vga_frame_take(vga);
    if (blanked(&vga->frame))
        draw_black(vga, screen);
    else if (dispi_on(&vga->frame))
        draw_dispi(vga, screen);
    else if (text_mode(&vga->frame))
        draw_text(vga, screen);
    else
        draw_graphics(vga, screen);
}
