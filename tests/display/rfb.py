# SPDX-License-Identifier: GPL-2.0-or-later
"""A VNC client: RFB 3.8 with raw pixels, QEMU's extended keys, and VeNCrypt with X.509."""
import select
import socket
import struct
import time
import zlib

RAW, EXTENDED_KEYS, DESKTOP_SIZE, EXTENDED_SIZE = 0, -258, -223, -308
EXTENDED_CLIPBOARD = 0xc0a1e5ce - (1 << 32)
PROVIDE_TEXT = 1 << 28 | 1
NONE, VNC, VENCRYPT = 1, 2, 19


class Closed(Exception):
    pass


class Viewer:
    def __init__(self, address, tls=None, security=None, ask=True):
        """address: a path or (host, port); tls: an ssl.SSLContext; ask: for the encodings at once."""
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(20)
            self.socket.connect(address)
        else:
            self.socket = socket.create_connection(address, 20)
        self.extended = False
        self.answers = []  # of ExtendedDesktopSize: reason, error, width, height
        self.cuts = []  # texts of the server's clipboard
        assert self.read(12) == b"RFB 003.008\n"
        self.socket.sendall(b"RFB 003.008\n")
        self.types = list(self.read(self.read(1)[0]))
        want = security or (VENCRYPT if tls else NONE)
        if want not in self.types:
            raise Closed(f"offered {self.types}")
        self.socket.sendall(bytes([want]))
        if want == VENCRYPT:
            self.vencrypt(tls)
        if struct.unpack(">I", self.read(4))[0]:
            raise Closed("refused")
        self.socket.sendall(b"\1")
        self.width, self.height = struct.unpack(">HH", self.read(4))
        self.format = self.read(16)
        self.name = self.read(struct.unpack(">I", self.read(4))[0]).decode()
        self.pixels = bytearray(self.width * self.height * 4)
        if ask:
            self.ask()

    def ask(self):
        self.socket.sendall(struct.pack(">BxHiii", 2, 3, RAW, EXTENDED_KEYS, DESKTOP_SIZE))

    def ask_size(self, width, height):
        """Says that it knows ExtendedDesktopSize and wishes one screen of that size."""
        self.socket.sendall(struct.pack(">BxHiiii", 2, 4, RAW, EXTENDED_KEYS, DESKTOP_SIZE, EXTENDED_SIZE))
        self.socket.sendall(struct.pack(">BxHHBx", 251, width, height, 1) + struct.pack(">IHHHHI", 0, 0, 0, width, height, 0))

    def ask_clipboard(self):
        """Says that it knows the extended clipboard, too, and waits for the server's answer."""
        self.socket.sendall(struct.pack(">BxHiiii", 2, 4, RAW, EXTENDED_KEYS, DESKTOP_SIZE, EXTENDED_CLIPBOARD))
        while b"caps" not in self.cuts:
            self.update()

    def cut(self, text):
        """The viewer's clipboard has this: str by the extended way, bytes by the plain one."""
        if isinstance(text, bytes):
            self.socket.sendall(struct.pack(">BxxxI", 6, len(text)) + text)
            return
        text = text.encode() + b"\0"
        stream = zlib.compressobj()  # flushed and not finished, as viewers do it
        packed = stream.compress(struct.pack(">I", len(text)) + text) + stream.flush(zlib.Z_SYNC_FLUSH)
        self.socket.sendall(struct.pack(">BxxxiI", 6, -4 - len(packed), PROVIDE_TEXT) + packed)

    def cut_read(self):
        length, = struct.unpack(">xxxi", self.read(7))
        if length >= 0:
            self.cuts.append(self.read(length))
            return
        data = self.read(-length)
        flags, = struct.unpack(">I", data[:4])
        if flags != PROVIDE_TEXT:
            assert flags & 1 << 24, hex(flags)
            self.cuts.append(b"caps")
            return
        data = zlib.decompress(data[4:])
        assert struct.unpack(">I", data[:4])[0] == len(data) - 4 and data[-1:] == b"\0"
        self.cuts.append(data[4:-1].decode())

    def vencrypt(self, tls):
        assert self.read(2) == b"\0\2"
        self.socket.sendall(b"\0\2")
        assert self.read(1) == b"\0"
        subtypes = struct.unpack(">I", self.read(1)[0] and self.read(4))
        assert subtypes == (260,), subtypes
        self.socket.sendall(struct.pack(">I", 260))
        assert self.read(1) == b"\1"
        self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")

    def read(self, n):
        data = b""
        while len(data) < n:
            chunk = self.socket.recv(n - len(data))
            if not chunk:
                raise Closed("the server closed the connection")
            data += chunk
        return data

    def waiting(self, seconds):
        """Does anything come from the server within that time?"""
        if getattr(self.socket, "pending", lambda: 0)():
            return True
        return bool(select.select([self.socket], [], [], seconds)[0])

    def request(self, incremental=True):
        self.socket.sendall(struct.pack(">BBHHHH", 3, incremental, 0, 0, self.width, self.height))

    def update(self):
        """Reads one update, or one text."""
        kind = self.read(1)[0]
        if kind == 3:
            self.cut_read()
            return
        assert kind == 0, kind
        count, = struct.unpack(">xH", self.read(3))
        for _ in range(count):
            x, y, w, h, encoding = struct.unpack(">HHHHi", self.read(12))
            if encoding == EXTENDED_KEYS:
                self.extended = True
            elif encoding == EXTENDED_SIZE:
                self.read(16 * self.read(4)[0])
                self.answers.append((x, y, w, h))
                if y == 0 and (w, h) != (self.width, self.height):
                    self.width, self.height = w, h
                    self.pixels = bytearray(w * h * 4)
            elif encoding == DESKTOP_SIZE:
                self.width, self.height = w, h
                self.pixels = bytearray(w * h * 4)
            else:
                assert encoding == RAW, encoding
                data = self.read(w * h * 4)
                for line in range(h):
                    at = ((y + line) * self.width + x) * 4
                    self.pixels[at:at + 4 * w] = data[line * w * 4:(line + 1) * w * 4]

    def rgb(self):
        """Lines of red, green, blue, as a PNG has them."""
        out = bytearray(self.width * self.height * 3)
        out[0::3], out[1::3], out[2::3] = self.pixels[2::4], self.pixels[1::4], self.pixels[0::4]
        return bytes(out)

    def key(self, keysym, scancode, down):
        assert self.extended
        self.socket.sendall(struct.pack(">BBHII", 255, 0, down, keysym, scancode))

    def plain_key(self, keysym, down):
        self.socket.sendall(struct.pack(">BBxxI", 4, down, keysym))

    def press(self, scancode):
        for down in (1, 0):
            self.key(0, scancode, down)
            time.sleep(0.02)

    def pointer(self, x, y, buttons=0):
        self.socket.sendall(struct.pack(">BBHH", 5, buttons, x, y))

    def close(self):
        self.socket.close()


def png_rgb(data):
    """Width, height and pixels of an 8-bit RGB PNG without interlacing."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed, width, height = 8, b"", 0, 0
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            assert (depth, colour) == (8, 2)
        elif kind == b"IDAT":
            packed += body
        at += 12 + length
    raw, stride = zlib.decompress(packed), width * 3
    lines, before = [], bytes(stride)
    for y in range(height):
        kind, line = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1:(y + 1) * (stride + 1)])
        for x in range(stride if kind else 0):
            a = line[x - 3] if x >= 3 else 0
            b, c = before[x], before[x - 3] if x >= 3 else 0
            if kind == 1:
                line[x] = (line[x] + a) & 255
            elif kind == 2:
                line[x] = (line[x] + b) & 255
            elif kind == 3:
                line[x] = (line[x] + (a + b) // 2) & 255
            else:
                p = a + b - c
                pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
                line[x] = (line[x] + (a if pa <= pb and pa <= pc else b if pb <= pc else c)) & 255
        before = bytes(line)
        lines.append(before)
    return width, height, b"".join(lines)
