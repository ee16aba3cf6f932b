# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the text of a console out of a picture: each cell of 8 x 16 pixels is looked up in a font.

The fonts of a Linux console are those of Debian's console-setup-linux: what a Debian system loads, and the one that the kernel
starts with. GRUB's graphical terminal has its own, in the package grub-common.
"""
import gzip
import os
import struct

FOLDER = "/usr/share/consolefonts"
FONTS = ["Lat15-Fixed16.psf.gz", "Lat15-VGA16.psf.gz"]
GRUB_FONT = "/usr/share/grub/unicode.pf2"
GRUB_BORDER = 10  # pixels around its terminal
WIDTH, HEIGHT = 8, 16


def missing():
    return None if os.path.isdir(FOLDER) else "the package console-setup-linux"


def font(path):
    """A PSF font: {rows of a glyph: its character}, for the characters of ASCII."""
    with gzip.open(path) as file:
        data = file.read()
    if data[:2] == b"\x36\x04":
        mode, size = data[2], data[3]
        count, start, separator, unit = 512 if mode & 1 else 256, 4, 0xffff, "<H"
    else:
        magic, _, start, _, count, size, height, width = struct.unpack("<8I", data[:32])
        assert (magic, height, width) == (0x864ab572, HEIGHT, WIDTH), path
        unit = None
    assert size == HEIGHT, path
    glyphs, at = {}, start + count * size
    for number in range(count):
        rows = data[start + number * size:start + (number + 1) * size]
        if unit:
            characters = []
            while (code := struct.unpack_from(unit, data, at)[0]) != separator:
                characters.append(code)
                at += 2
            at += 2
        else:
            end = data.index(b"\xff", at)
            characters, at = [ord(c) for c in data[at:end].decode(errors="replace")], end + 1
        ascii_only = [code for code in characters if 32 <= code < 127]
        if ascii_only:
            glyphs.setdefault(rows, chr(ascii_only[0]))
    return glyphs


def fonts():
    known = {}
    for name in FONTS:
        for rows, character in font(os.path.join(FOLDER, name)).items():
            known.setdefault(rows, character)
    return known


def grub_font():
    """A PF2 font (GRUB's manual, "Fonts"), as font() answers: sections of a name, a length and data, numbers big-endian."""
    with open(GRUB_FONT, "rb") as file:
        data = file.read()
    at, sections = 0, {}
    while (name := data[at:at + 4]) != b"DATA":
        length = struct.unpack_from(">I", data, at + 4)[0]
        sections[name] = data[at + 8:at + 8 + length]
        at += 8 + length
    ascent, glyphs = struct.unpack(">H", sections[b"ASCE"])[0], {}
    for code, _, place in struct.iter_unpack(">IBI", sections[b"CHIX"]):
        if 32 <= code < 127:
            width, height, left, bottom, _ = struct.unpack_from(">HHhhh", data, place)
            bits = int.from_bytes(data[place + 10:place + 10 + (width * height + 7) // 8], "big")
            bits >>= -(width * height) % 8
            rows = bytearray(HEIGHT)
            for row in range(height):
                piece = bits >> (height - 1 - row) * width & (1 << width) - 1
                rows[ascent - bottom - height + row] = piece << WIDTH - width - left
            glyphs.setdefault(bytes(rows), chr(code))
    return glyphs


def text(width, height, rgb, known, border=0):
    """The lines of a console that fills the screen but for a border. A cell of two colours is text in either way round."""
    lines = []
    for top in range(border, height - border - HEIGHT + 1, HEIGHT):
        line = []
        for left in range(border, width - border - WIDTH + 1, WIDTH):
            cell = [rgb[((top + y) * width + left) * 3:((top + y) * width + left + WIDTH) * 3] for y in range(HEIGHT)]
            back = cell[0][:3]
            rows = bytes(sum((row[3 * x:3 * x + 3] != back) << (7 - x) for x in range(WIDTH)) for row in cell)
            inverse = bytes(row ^ 255 for row in rows)
            line.append(known.get(rows) or known.get(inverse) or "\N{REPLACEMENT CHARACTER}")
        lines.append("".join(line).rstrip())
    return "\n".join(lines)
