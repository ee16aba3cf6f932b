# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the text of a Linux console out of a picture: each cell of 8 x 16 pixels is looked up in a console font.

The fonts are those of Debian's console-setup-linux: what a Debian system loads, and the one that the kernel starts with.
"""
import gzip
import os
import struct

FOLDER = "/usr/share/consolefonts"
FONTS = ["Lat15-Fixed16.psf.gz", "Lat15-VGA16.psf.gz"]
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


def text(width, height, rgb, known):
    """The lines of a console that fills the screen. A cell of two colours is text in either way round."""
    lines = []
    for top in range(0, height - HEIGHT + 1, HEIGHT):
        line = []
        for left in range(0, width - WIDTH + 1, WIDTH):
            cell = [rgb[((top + y) * width + left) * 3:((top + y) * width + left + WIDTH) * 3] for y in range(HEIGHT)]
            back = cell[0][:3]
            rows = bytes(sum((row[3 * x:3 * x + 3] != back) << (7 - x) for x in range(WIDTH)) for row in cell)
            inverse = bytes(row ^ 255 for row in rows)
            line.append(known.get(rows) or known.get(inverse) or "\N{REPLACEMENT CHARACTER}")
        lines.append("".join(line).rstrip())
    return "\n".join(lines)
