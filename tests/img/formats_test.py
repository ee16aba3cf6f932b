#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""All formats: what we make, others read and write, and the other way round.

Prints a matrix of format x operation x oracle; a cell that fails says why and the status is 1.
qcow2's many options are in img_test.py. Second readers are libvhdi, libvmdk, libqcow, nbdkit, cryptsetup.
"""
import argparse
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "nbd"))
import servers  # noqa: E402
from img_test import MIB, SIZE, Bench, Failed, cpu_seconds  # noqa: E402

# Read by a second reader's library; Debian's python has the modules.
SECOND = {
    "vhdi": """
import pyvhdi, sys
files = []
for path in sys.argv[1:]:
    f = pyvhdi.file(); f.open(path)
    if files: f.set_parent(files[-1])
    files.append(f)
size = files[-1].get_media_size()
for at in range(0, size, 1 << 20):
    sys.stdout.buffer.write(files[-1].read_buffer_at_offset(min(1 << 20, size - at), at))
""",
    "qcow": """
import pyqcow, sys
f = pyqcow.file(); f.open(sys.argv[1])
size = f.get_media_size()
for at in range(0, size, 1 << 20):
    sys.stdout.buffer.write(f.read_buffer_at_offset(min(1 << 20, size - at), at))
""",
    "vmdk": """
import pyvmdk, sys
f = pyvmdk.handle(); f.open(sys.argv[1]); f.open_extent_data_files()
size = f.get_media_size()
for at in range(0, size, 1 << 20):
    sys.stdout.buffer.write(f.read_buffer_at_offset(min(1 << 20, size - at), at))
""",
}


def second_reader(name):
    done = subprocess.run(["/usr/bin/python3", "-c", f"import py{name}"], stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0


class Variant:
    """A format as we make it, and as qemu-img does where it can."""

    def __init__(self, fmt, ours=None, theirs=None, qemu=None, second=None, key=False, whole=True):
        self.fmt, self.ours, self.theirs = fmt, ours, theirs
        self.qemu = qemu or fmt      # its name there
        self.second = second         # a library of SECOND
        self.key = key
        self.writable = whole        # written in place, not only as a new stream

    def label(self):
        return f"{self.fmt} {self.ours if self.ours is not None else self.theirs}".replace(",encrypt.iter-time=20", "").strip()


VARIANTS = [
    Variant("vhd", "subformat=dynamic", "subformat=dynamic,force_size=on", "vpc", "vhdi"),
    Variant("vhd", "subformat=fixed", "subformat=fixed,force_size=on", "vpc", "vhdi"),
    Variant("vhdx", "", "", second="vhdi"),
    Variant("vhdx", "subformat=fixed", "subformat=fixed", second="vhdi"),
    Variant("vhdx", "block_size=1M,log_size=4M", "block_size=1M,log_size=4M", second="vhdi"),
    Variant("vhdx", "block_state_zero=off", "block_state_zero=off", second="vhdi"),
    Variant("vmdk", "subformat=monolithicSparse", "subformat=monolithicSparse", second="vmdk"),
    Variant("vmdk", "zeroed_grain=on", "zeroed_grain=on"),
    Variant("vmdk", "subformat=monolithicFlat", "subformat=monolithicFlat", second="vmdk"),
    Variant("vmdk", "subformat=twoGbMaxExtentSparse", "subformat=twoGbMaxExtentSparse", second="vmdk"),
    Variant("vmdk", "subformat=twoGbMaxExtentFlat", "subformat=twoGbMaxExtentFlat", second="vmdk"),
    Variant("vmdk", "subformat=streamOptimized", "subformat=streamOptimized", second="vmdk", whole=False),
    Variant("luks", "iter-time=20", "iter-time=20", key=True),
    Variant("luks", "iter-time=20,cipher-alg=aes-128,hash-alg=sha1", "iter-time=20,cipher-alg=aes-128,hash-alg=sha1", key=True),
    Variant("luks", None, "iter-time=20,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256", key=True),
    Variant("luks", "version=2,kdf=pbkdf2,iter-time=20", None, key=True),
    Variant("luks", "version=2,kdf=argon2id,sector-size=4096", None, key=True),
    Variant("qcow2", "", "", second="qcow"),
    Variant("qcow2", "compat=0.10,cluster_size=4K", "compat=0.10,cluster_size=4K", second="qcow"),
    Variant("qcow2", "encrypt.format=luks,encrypt.iter-time=20", "encrypt.format=luks,encrypt.iter-time=20", key=True),
    Variant("qcow2", "encrypt.format=luks,encrypt.iter-time=20,extended_l2=on",
            "encrypt.format=luks,encrypt.iter-time=20,extended_l2=on", key=True),
    Variant("vdi", None, ""),
    Variant("vdi", None, "static=on"),
]


class Formats(Bench):
    """A folder with an image `a.FORMAT`, and the commands for it."""

    def __init__(self, binary, folder, seed):
        super().__init__(binary, folder, seed)
        self.write_key(b"correct horse")

    def write_key(self, passphrase):
        with open(self.path("key"), "wb") as f:
            f.write(passphrase)

    def image(self, v, name="a"):
        return self.path(f"{name}.{v.fmt}")

    def key(self, v, target=False):
        return [f"--{'target-' if target else ''}key-file={self.path('key')}"] if v.key else []

    def secret(self, v):
        return ["--object", f"secret,id=s,file={self.path('key')}"] if v.key else []

    def spec(self, v, path):
        """How qemu's programs are told to open an image."""
        if not v.key:
            return f"driver={v.qemu},file.filename={path}"
        return f"driver={v.qemu},file.filename={path},{'encrypt.' if v.fmt == 'qcow2' else ''}key-secret=s"

    def make_ours(self, v, raw, path, *more):
        self.remove(os.path.basename(path))
        self.ours("convert", "-q", "-O", v.fmt, *(["-o", v.ours] if v.ours else []), *self.key(v, True), *more, raw, path)

    def make_theirs(self, v, raw, path):
        opts = v.theirs
        if v.key:
            opts += ",encrypt.key-secret=s" if v.fmt == "qcow2" else ",key-secret=s"
        # It measures the CPU for LUKS, which fails on a busy host.
        for left in range(20 if v.key else 1, 0, -1):
            try:
                self.remove(os.path.basename(path))
                return self.qemu("convert", *self.secret(v), "-O", v.qemu, *(["-o", opts] if opts else []), raw, path)
            except Failed:
                if left == 1:
                    raise
                time.sleep(0.2)

    def they_agree(self, v, path, raw):
        self.qemu("compare", "-q", *self.secret(v), "--image-opts", self.spec(v, path), f"driver=raw,file.filename={raw}")

    def they_check(self, v, path):
        """63: the format has no check there."""
        self.qemu("check", "-q", *self.secret(v), "--image-opts", self.spec(v, path), status=(0, 63))

    def we_agree(self, v, path, raw):
        self.ours("compare", "-q", *self.key(v), path, raw)
        if v.fmt != "luks":
            self.ours("check", "-q", path)

    def second_agrees(self, kind, raw, *paths):
        done = subprocess.run(["/usr/bin/python3", "-c", SECOND[kind], *paths], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=100, check=False)
        with open(raw, "rb") as f:
            want = f.read()
        if done.returncode or done.stdout != want:
            raise Failed(f"lib{kind} reads something else: {done.stderr[-300:].decode()}")

    def has_second(self, v):
        return v.second is not None and self.second[v.second]

    def they_write(self, v, path, model, zeros=True):
        commands = []
        for _ in range(40):
            length = self.random.choice([512, 1024, 4096, 65536, 200704])
            at = self.random.randrange(0, SIZE - length, 512)
            zero = zeros and self.random.randrange(4) == 0
            commands += ["-c", f"write -z {at} {length}" if zero else f"write -P {self.random.randrange(1, 256)} {at} {length}"]
        self.run("qemu-io", *self.secret(v), "--image-opts", self.spec(v, path), *commands)
        self.run("qemu-io", "-f", "raw", *commands, model)


def we_make(b, v):
    """We convert; they check, compare and write; we check and compare."""
    if v.ours is None:
        return None
    raw, img, oracles = b.make_source("source.raw"), b.image(v), []
    if "version=2" in v.ours:  # nbdkit's filter, for version 1, takes a line only
        b.write_key(b"correct horse\nbattery\n")
    b.make_ours(v, raw, img)
    b.we_agree(v, img, raw)
    if v.second and b.second[v.second]:
        b.second_agrees(v.second, raw, img)
        oracles += [f"lib{v.second}"]
    if v.theirs is not None:
        b.they_check(v, img)
        b.they_agree(v, img, raw)
        oracles += ["qemu-img"]
        if v.writable:
            b.they_write(v, img, raw)
            b.we_agree(v, img, raw)
            oracles += ["qemu-io"]
    if v.fmt == "luks":
        b.run("cryptsetup", "luksOpen", "--test-passphrase", "--key-file", b.path("key"), img)
        b.run("cryptsetup", "luksDump", img)
        oracles += ["cryptsetup"]
        if "version=2" not in v.ours and shutil.which("nbdkit"):
            b.run("nbdkit", "-U", "-", "--filter=luks", "file", img, f"passphrase=+{b.path('key')}",
                  "--run", f"qemu-img compare -q -f raw $uri {raw}")
            oracles += ["nbdkit"]
        if "version=2,kdf=pbkdf2" in v.ours:  # then its content is read by qemu-img, too
            b.run("cryptsetup", "convert", "-q", "--type", "luks1", img)
            b.they_agree(v, img, raw)
            oracles += ["qemu-img as LUKS1"]
        if "4096" in v.ours:  # cryptsetup decrypts all of it and encrypts it anew
            b.run("cryptsetup", "reencrypt", "-q", "--force-offline-reencrypt", "--key-file", b.path("key"),
                  "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", img)
            b.we_agree(v, img, raw)
            oracles += ["cryptsetup reencrypt"]
    if v.second and b.second[v.second] and v.second != "qcow":  # which knows no clusters of zeros
        b.second_agrees(v.second, raw, img)
    return oracles


def they_make(b, v):
    """They convert; we read, check and write; they check and compare."""
    if v.theirs is None:
        return None
    raw, img = b.make_source("source.raw"), b.image(v)
    b.make_theirs(v, raw, img)
    b.we_agree(v, img, raw)
    b.ours("convert", "-q", *b.key(v), "-O", "raw", img, b.path("back.raw"))
    b.run("cmp", "-n", str(SIZE), b.path("back.raw"), raw)
    if not v.writable or v.ours is None and not v.key:
        said = b.ours("convert", "-q", "-n", "-O", v.fmt, raw, img, status=(1,))
        if "can only be read" not in said:
            raise Failed(f"writing said {said!r}")
        return ["qemu-img"]
    b.ours("convert", "-q", "-n", *b.key(v, True), "-O", v.fmt, b.make_source("other.raw"), img)
    b.we_agree(v, img, b.path("other.raw"))
    b.they_check(v, img)
    b.they_agree(v, img, b.path("other.raw"))
    return ["qemu-img"]


def overlay(b, v):
    """Backing files: read by others, changed parents found out, recorded anew, committed."""
    if v.fmt not in ("vhd", "vhdx", "vmdk") or v.ours is None or "ixed" in v.ours or "lat" in v.ours or "stream" in v.ours:
        return None
    base, top, model, oracles = b.image(v, "base"), b.image(v, "top"), b.make_source("source.raw"), []
    b.make_ours(v, model, base)
    b.run("qemu-io", "-f", "raw", "-c", "write -P 7 3M 64k", "-c", "write -P 9 20M 1M", "-c", "write -P 3 1536 512", model)
    b.make_ours(v, model, top, "-b", os.path.basename(base), "-F", v.fmt)
    b.we_agree(v, top, model)
    if v.fmt == "vmdk":
        b.they_check(v, top)
        b.they_agree(v, top, model)
        b.they_write(v, top, model)
        b.we_agree(v, top, model)
        oracles += ["qemu-img", "qemu-io"]
        b.remove("top.vmdk")
        b.make_ours(v, model, base)
        b.qemu("create", "-q", "-f", "vmdk", "-b", base, "-F", "vmdk", top)
        b.we_agree(v, top, model)
        b.ours("convert", "-q", "-n", "-O", "vmdk", b.make_source("source.raw"), top)
        b.they_agree(v, top, model)
    elif b.second["vhdi"]:
        b.second_agrees("vhdi", model, base, top)
        oracles += ["libvhdi"]
    moved = os.path.join(b.dir, "sub dir")
    os.mkdir(moved)
    if "twoGb" not in v.ours:
        shutil.copy(base, moved)
        b.ours("rebase", "-q", "-u", "-b", f"sub dir/{os.path.basename(base)}", "-F", v.fmt, top)
        b.remove(os.path.basename(base))
        b.we_agree(v, top, model)
        if v.fmt != "vhd":  # whose ids do not change with the content
            other = os.path.join(moved, os.path.basename(base))
            b.run("qemu-io", "-f", v.qemu, "-c", "write -P 1 23M 512", other)
            said = b.ours("map", top, status=(1,))
            if "was changed since" not in said:
                raise Failed(f"a changed parent: {said!r}")
            b.ours("rebase", "-q", "-u", "-b", other, "-F", v.fmt, top)
        b.run("qemu-io", "-f", "raw", "-c", "write -P 5 8M 64k", model)
        b.ours("convert", "-q", "-n", "-O", v.fmt, model, top)
        b.ours("commit", "-q", top)
        b.we_agree(v, top, model)
        b.we_agree(v, os.path.join(moved, os.path.basename(base)), model)
    return oracles + ["own round trip"]


def partial(b, v):
    """Blocks of which others left only some sectors in the overlay."""
    if v.fmt not in ("vhd", "vhdx") or v.ours not in ("subformat=dynamic", ""):
        return None
    below, above = b.make_source("below.raw"), b.make_source("above.raw")
    base, top, model = b.image(v, "base"), b.image(v, "top"), b.path("model.raw")
    b.make_ours(v, below, base)
    with open(above, "r+b") as f:  # no block that equals the one below or is zero
        for at in range(0, SIZE, MIB):
            f.seek(at)
            f.write(b.random.randbytes(512))
    b.make_ours(v, above, top, "-b", os.path.basename(base), "-F", v.fmt)
    block, sectors = 2 * MIB, 2 * MIB // 512
    with open(top, "r+b") as image, open(below, "rb") as low, open(above, "rb") as high, open(model, "w+b") as out:
        shutil.copyfileobj(high, out)
        for n in (0, 3, 7):
            have = [b.random.randrange(3) > 0 for _ in range(sectors)]
            for i in range(0, sectors, 64):  # runs, too
                if b.random.randrange(2):
                    have[i:i + 64] = [b.random.randrange(2) == 0] * 64
            bits = bytearray(sectors // 8)
            for i, here in enumerate(have):
                bits[i // 8] |= here << (7 - i % 8 if v.fmt == "vhd" else i % 8)
            if v.fmt == "vhd":
                image.seek(1536 + n * 4)
                image.seek(struct.unpack(">I", image.read(4))[0] * 512)
                image.write(bits)
            else:
                image.seek(3 * MIB + n * 8)
                entry = struct.unpack("<Q", image.read(8))[0]
                image.seek(3 * MIB + n * 8)
                image.write(struct.pack("<Q", entry | 7))
                image.seek(4 * MIB + n * sectors // 8)
                image.write(bits)
            for i, here in enumerate(have):
                if not here:
                    low.seek(n * block + i * 512)
                    out.seek(n * block + i * 512)
                    out.write(low.read(512))
    b.we_agree(v, top, model)
    # libvhdi counts the bits of a VHD's bitmap from the low end; VirtualBox and Xen do it as we do.
    if b.second["vhdi"] and v.fmt == "vhdx":
        b.second_agrees("vhdi", model, base, top)
    with open(model, "r+b") as f:  # another byte everywhere, so every block is written and completed
        data = f.read().translate(bytes(range(1, 256)) + b"\0")
        f.seek(0)
        f.write(data)
    b.ours("convert", "-q", "-n", "-O", v.fmt, model, top)
    b.we_agree(v, top, model)
    if b.second["vhdi"]:
        b.second_agrees("vhdi", model, base, top)
    return ["libvhdi"] if b.second["vhdi"] else ["own round trip"]


def left_dirty(b, v):
    """QEMU dies and leaves its log: looked at through it, replayed on opening for writing."""
    if v.fmt != "vhdx" or "fixed" in v.ours:
        return None
    img, copy, model = b.image(v), b.image(v, "copy"), b.make_source("source.raw")
    b.make_theirs(v, model, img)
    b.qemu("create", "-q", "-f", "vhdx", "-o", "block_size=1M", img, str(SIZE))
    with open(model, "wb") as f:
        f.truncate(SIZE)
    writes = ["-c", "write -P 5 1M 3M", "-c", "write -P 6 9M 1M"]
    b.run("qemu-io", "-f", "raw", *writes, model)
    b.run("qemu-io", "-f", "vhdx", *writes, "-c", "flush", "-c", "abort", img, status=(-6, 134))
    shutil.copy(img, copy)
    b.we_agree(v, img, model)                    # through the log
    b.ours("check", "-q", "--repair", "all", img)  # replayed
    b.they_check(v, img)
    b.they_agree(v, img, model)
    b.qemu("check", "-q", "-r", "all", copy)
    b.ours("compare", "-q", img, copy)
    # Ours, the other way round.
    for _ in range(3):
        writer = subprocess.Popen([b.binary, "bench", "-q", "-w", "--random", "-c", "4000000", "-s", "12K", img])
        time.sleep(b.random.uniform(0.05, 0.2))
        writer.kill()
        writer.wait()
        shutil.copy(img, copy)
        b.ours("check", "-q", img)
        b.qemu("check", "-q", "-r", "all", copy)
        b.qemu("check", "-q", copy)
        b.ours("compare", "-q", img, copy)
    return ["qemu-img check -r all"]


def killed(b, v):
    """kill -9 under load, again and again: it opens and is whole."""
    if v.ours is None or not v.writable or v.ours.startswith("version=2,kdf=argon"):
        return None
    img, oracles = b.image(v), ["own check"]
    b.remove(os.path.basename(img))
    b.ours("create", "-q", "-f", v.fmt, *(["-o", v.ours] if v.ours else []), *b.key(v), img, "64M")
    for _ in range(3):
        writer = subprocess.Popen([b.binary, "bench", "-q", "-w", "--random", "-c", "4000000", "-s", "12K", *b.key(v), img])
        time.sleep(b.random.uniform(0.05, 0.2))
        writer.kill()
        writer.wait()
        if v.fmt != "luks":
            b.ours("check", "-q", img, status=(0, 3) if v.fmt == "qcow2" else (0,))
        b.ours("map", *b.key(v), img)
        if v.fmt in ("vmdk", "qcow2"):
            b.qemu("check", "-q", *b.secret(v), "--image-opts", b.spec(v, img), status=(0, 3))
            oracles = ["own check", "qemu-img check"]
    return oracles


def resizes(b, v):
    """A little larger, so large that tables move, smaller than it was, and larger again; with writes between."""
    if v.ours is None:
        return None
    raw, img = b.make_source("source.raw"), b.image(v)
    b.make_ours(v, raw, img)
    wants = "streamOptimized VMDKs can" if "stream" in v.ours else "is cut into extents" if "twoGb" in v.ours else None
    if wants:  # those are opened for reading only, or say why not
        one_sentence(b, ["resize", "-q", img, str(SIZE + MIB)], wants)
        return ["own sentence"]
    large = 300 << 30 if v.fmt in ("vhd", "vhdx", "vmdk") and "fixed" not in v.ours else SIZE + 64 * MIB
    oracles = ["own round trip"] + ([] if v.theirs is None else ["qemu-img"]) + ([v.second] if b.has_second(v) else [])
    for size in (SIZE + 3 * MIB, large, SIZE - 5 * MIB - 4096 * 7, SIZE + MIB):
        shrink = [] if size > os.path.getsize(raw) else ["--shrink"]
        b.ours("resize", "-q", *shrink, *b.key(v), img, str(size))
        os.truncate(raw, size)
        b.we_agree(v, img, raw)
        if v.theirs is not None:
            b.they_check(v, img)
        if v.theirs is not None and size < 1 << 30:  # theirs would read all of a large one
            b.they_agree(v, img, raw)
        if b.has_second(v) and size < 1 << 30:
            b.second_agrees(v.second, raw, img)
        with open(b.path("piece"), "wb") as f:  # at the new end, which a smaller disk then loses
            f.write(b.random.randbytes(192 << 10))
        if v.theirs is not None and v.fmt != "vhdx":
            commands = ["-c", f"write -s {b.path('piece')} {size - (192 << 10)} {192 << 10}"]
            b.run("qemu-io", *b.secret(v), "--image-opts", b.spec(v, img), *commands)
            b.run("qemu-io", "-f", "raw", *commands, raw)
            b.we_agree(v, img, raw)
    return oracles


def sizes_refused(b):
    for fmt in ("vhd", "vhdx", "vmdk"):
        base, top = b.path("base." + fmt), b.path("top." + fmt)
        b.ours("create", "-q", "-f", fmt, base, "20M")
        b.ours("create", "-q", "-f", fmt, "-b", base, "-F", fmt, top)
        if fmt == "vhdx":
            b.ours("resize", "-q", top, "30M")
            b.ours("compare", "-q", base, top)
        else:
            one_sentence(b, ["resize", top, "30M"], "which has the size of its backing file")
        one_sentence(b, ["resize", base, "100T"], "can have at most")
        one_sentence(b, ["resize", "--preallocation=full", base, "30M"], "leave --preallocation away")
        one_sentence(b, ["resize", base, "10M"], "would cut off the disk's end")
    return ["own sentences"]


def discards(b, v):
    """Through an export: what is trimmed and zeroed gives space back, and the rest stays."""
    if v.ours is None or not v.writable or v.fmt == "luks" or "encrypt" in v.ours:
        return None
    raw, img = b.path("source.raw"), b.image(v)
    with open(raw, "wb") as f:
        f.write(b.random.randbytes(SIZE))
    b.make_ours(v, raw, img)
    sock = b.path("socket")
    blocks = lambda: sum(os.stat(b.path(n)).st_blocks for n in os.listdir(b.dir) if n.startswith("a"))
    before = blocks()
    server = servers.Server([b.binary, "serve", "-q", "--persistent", "--socket", sock, img], None, sock)
    server.start()
    try:
        b.run("qemu-io", "-d", "unmap", "-f", "raw", "-c", f"discard {MIB} {4 * MIB}", "-c", f"write -zu {8 * MIB} {4 * MIB}",
              f"nbd+unix:///?socket={sock}")
    finally:
        server.process.terminate()  # and not killed: others want a log that is done with
        server.process.wait()
    with open(raw, "r+b") as f:
        f.seek(8 * MIB)
        f.write(bytes(4 * MIB))
        f.seek(MIB)  # unspecified: what it became
        dump = subprocess.run([b.binary, "dd", "-O", "raw", f"if={img}", f"of={b.path('dump')}", "bs=1M", "skip=1", "count=4"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if dump.returncode:
            raise Failed(dump.stdout.decode())
        with open(b.path("dump"), "rb") as found:
            f.write(found.read())
    b.we_agree(v, img, raw)
    if v.theirs is not None:
        b.they_agree(v, img, raw)
    given = (before - blocks()) * 512
    if given < 7 * MIB:
        raise Failed(f"only {given} bytes were given back")
    return ["qemu-img"]


def one_sentence(b, args, want, status=(1,)):
    said = b.ours(*args, status=status)
    if want not in said or len(said.strip().splitlines()) != 1:
        raise Failed(f"{' '.join(args)}: said {said!r}, which lacks {want!r} or is more than a line")


def mistakes(b, v):
    """Missing, cut off, of another format, of unknown features, vanished and cyclic parents."""
    if v.ours is None:
        return None
    raw, img = b.make_source("source.raw"), b.image(v)
    fmt = ["-f", v.fmt]
    one_sentence(b, ["map", *b.key(v), *fmt, b.path("nothing")], "nothing: no such file")
    one_sentence(b, ["map", *b.key(v), *fmt, raw], "source.raw: ")
    b.make_ours(v, raw, img)
    if v.key:
        with open(b.path("wrong"), "w", encoding="ascii") as f:
            f.write("wrong")
        one_sentence(b, ["map", img], "is encrypted; give the file")
        one_sentence(b, ["map", f"--key-file={b.path('wrong')}", img], "no key slot fits the passphrase")
        one_sentence(b, ["map", "--object", "secret,id=a,data=x", img], "would show the passphrase")
    size = os.path.getsize(img)
    # Cut off anywhere: a sentence, or what is left is fine; never a signal, never more than a line.
    for cut in [1, 100, 512, 600, 1024, 4096, 65536, 70000] + [b.random.randrange(size) for _ in range(6)]:
        if cut >= size:
            continue
        short = b.path("short." + v.fmt)
        shutil.copy(img, short)
        os.truncate(short, cut)
        for command in (["info"], ["map", *b.key(v)], ["check", "-q"]):
            said = b.ours(*command, *fmt, short, status=(0, 1, 2, 3))
            if said.startswith("bedplate-img") and len(said.splitlines()) != 1:
                raise Failed(f"cut at {cut}: {said!r}")
    return ["own sentences"]


def wrong_facts(b):
    """Versions and features of tomorrow, damaged headers, names that reach out."""
    raw = b.make_source("source.raw", 4 * MIB)

    def patched(name, source, at, data):
        path = b.path(name)
        shutil.copy(source, path)
        with open(path, "r+b") as f:
            f.seek(at)
            f.write(data)
        return path

    for fmt in ("vhd", "vhdx", "vmdk"):
        b.ours("convert", "-q", "-O", fmt, raw, b.path("good." + fmt))
    b.ours("convert", "-q", "-O", "luks", "-o", "iter-time=10", f"--key-file={b.path('key')}", raw, b.path("good.luks"))
    b.ours("convert", "-q", "-O", "vmdk", "-o", "subformat=monolithicFlat", raw, b.path("flat.vmdk"))
    end = os.path.getsize(b.path("good.vhd"))
    both = patched("both.vhd", b.path("good.vhd"), 0, b"x" * 512)
    with open(both, "r+b") as f:
        f.seek(end - 512)
        f.write(b"conectix" + b"x" * 504)
    heads = patched("heads.vhdx", b.path("good.vhdx"), 65536, b"x" * 4096)
    with open(heads, "r+b") as f:
        f.seek(131072)
        f.write(b"x" * 4096)
    one_sentence(b, ["map", "-f", "vhd", both], "footer is damaged")
    one_sentence(b, ["map", heads], "has no good header")
    one_sentence(b, ["map", patched("v9.vmdk", b.path("good.vmdk"), 4, b"\x09")], "is a VMDK of version 9")
    one_sentence(b, ["map", patched("cowd.vmdk", b.path("good.vmdk"), 0, b"COWD")], "COWD")
    one_sentence(b, ["info", patched("v3.luks", b.path("good.luks"), 6, b"\0\3")], "LUKS header of version 3")
    one_sentence(b, ["info", patched("slot.luks", b.path("good.luks"), 208 + 44, b"\xff\xff\xff\xff")], "key slot")
    slow = patched("slow.luks", b.path("good.luks"), 208 + 4, b"\x7f\xff\xff\xff")
    start = cpu_seconds()
    one_sentence(b, ["map", f"--key-file={b.path('key')}", slow], "would take too long")
    if cpu_seconds() - start > 10:
        raise Failed("a header with too many rounds took more than 10 s of a CPU")
    os.truncate(b.path("flat-flat.vmdk"), MIB)
    one_sentence(b, ["map", b.path("flat.vmdk")], "is shorter")
    os.unlink(b.path("flat-flat.vmdk"))
    one_sentence(b, ["map", b.path("flat.vmdk")], "flat-flat.vmdk: no such file")
    for name, want in (("/etc/passwd", "does not lie beside it"), ("../x", "does not lie beside it"), ("..", "does not lie beside it")):
        with open(b.path("reach.vmdk"), "w", encoding="ascii") as f:
            f.write(f'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 8 FLAT "{name}" 0\n')
        one_sentence(b, ["map", b.path("reach.vmdk")], want)
    # A descriptor that a guest could have written into a raw backing file reaches nothing.
    with open(b.path("guest.raw"), "w", encoding="ascii") as f:
        f.write('# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 8 FLAT "key" 0\n')
    b.qemu("create", "-q", "-u", "-f", "qcow2", "-b", "guest.raw", b.path("over.qcow2"), "4K", status=(0, 1))
    if os.path.exists(b.path("over.qcow2")):
        one_sentence(b, ["map", b.path("over.qcow2")], "only by looking")
    # Chains: vanished, cyclic.
    for fmt in ("vhd", "vhdx", "vmdk"):
        base, top = b.path("good." + fmt), b.path("top." + fmt)
        b.ours("create", "-q", "-f", fmt, "-b", f"good.{fmt}", "-F", fmt, top, "4M")
        shutil.copy(base, b.path("kept"))
        os.unlink(base)
        one_sentence(b, ["map", top], f"good.{fmt}: no such file")
        shutil.copy(top, base)  # now it names itself
        one_sentence(b, ["map", top], "")
        one_sentence(b, ["map", base], "is its own backing file")
        shutil.copy(b.path("kept"), base)
        b.ours("map", top)
    return ["own sentences"]


def full_and_readonly(b):
    """A full file system and a read-only one, each in a mount namespace of our own."""
    script = """
set -e
mkdir -p "$2/small" "$2/ro"
mount -t tmpfs -o size=3M none "$2/small"
"$1" create -q -f qcow2 "$2/ro/q.qcow2" 1M; "$1" create -q -f vhdx "$2/ro/x.vhdx" 1M; "$1" create -q -f vmdk "$2/ro/v.vmdk" 1M
"$1" create -q -f vhd "$2/ro/v.vhd" 1M; "$1" create -q -f luks -o iter-time=5 --key-file "$2/key" "$2/ro/l.luks" 64K
mount -o bind "$2/ro" "$2/ro"; mount -o remount,bind,ro "$2/ro"
set +e
for fmt in raw qcow2 vhd vhdx vmdk luks; do
    echo "full $fmt: $("$1" convert -q -O $fmt $([ $fmt = luks ] && echo -o iter-time=5) --target-key-file "$2/key" "$2/source.raw" "$2/small/x" 2>&1; echo " status $?")"
    rm -f "$2/small"/*
done
for name in q.qcow2 x.vhdx v.vmdk v.vhd l.luks; do
    echo "ro $name: $("$1" bench -q -w -c 1 --key-file "$2/key" "$2/ro/$name" 2>&1; echo " status $?")"
done
"""
    b.make_source("source.raw", 8 * MIB)
    with open(b.path("source.raw"), "r+b") as f:
        f.write(os.urandom(8 * MIB))
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script, "sh", b.binary, b.dir], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=100, check=False)
    if "full raw" not in done.stdout:
        return [f"left out, no mount namespace here: {done.stdout.strip()[:60]}"]
    for what in ("raw", "qcow2", "vhd", "vhdx", "vmdk", "luks"):
        text = done.stdout.split(f"full {what}: ")[1].split("status")[0]
        if "file system is full" not in text or len(text.strip().splitlines()) != 1:
            raise Failed(f"a full file system, {what}: {text!r}")
    for name in ("q.qcow2", "x.vhdx", "v.vmdk", "v.vhd", "l.luks"):
        text = done.stdout.split(f"ro {name}: ")[1].split("status")[0]
        if "read-only" not in text.lower() or name not in text:
            raise Failed(f"a read-only file system, {name}: {text!r}")
    return ["own sentences"]


def power_cuts(b):
    """Images that were cut off while written to, looked at by others."""
    b.run(b.powercut, "2", str(b.random.randrange(1, 1 << 60)), b.dir, timeout=900)
    names = [n for n in os.listdir(b.dir) if n.startswith("cut-") and n.endswith((".vhdx", ".vmdk"))]
    if len(names) < 6:
        raise Failed(f"only {len(names)} samples")
    for name in names:
        copy = b.path("copy" + os.path.splitext(name)[1])
        shutil.copy(b.path(name), copy)
        if name.endswith(".vhdx"):
            b.qemu("check", "-q", "-r", "all", copy)
        b.qemu("check", "-q", copy)
        b.ours("compare", "-q", b.path(name), copy)
        if name.endswith(".vmdk"):
            b.qemu("compare", "-q", copy, b.path(name))
    return ["qemu-img check"]


OPERATIONS = [we_make, they_make, overlay, partial, left_dirty, killed, resizes, discards, mistakes]
SINGLE = [wrong_facts, full_and_readonly, sizes_refused, power_cuts]


def print_matrix(cells):
    print("\n{:58}".format("") + " ".join(f"{op.__name__:>10}" for op in OPERATIONS))
    for v in VARIANTS:
        row = [cells.get((v.label(), op.__name__), "") for op in OPERATIONS]
        print(f"{v.label():58}" + " ".join(f"{cell:>10}" for cell in row))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--powercut", help="the program powercut_test; without it, its cuts are left out")
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    parser.add_argument("--only", help="an operation's name")
    parser.add_argument("--format", help="a format's name")
    parser.add_argument("--share", type=int, default=1, help="one of so many cells; which ones, the seed says")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    for program in ("qemu-img", "qemu-io", "cryptsetup"):
        if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            print(f"skip: {program} is not installed")
            return 77
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    second = {name: second_reader(name) for name in SECOND}
    print(f"seed {args.seed}; second readers: {', '.join('lib' + n for n, have in second.items() if have) or 'none'}")
    rows = [(op, v) for op in OPERATIONS for v in VARIANTS] + [(op, None) for op in SINGLE if op != power_cuts or args.powercut]
    if args.only:
        rows = [row for row in rows if row[0].__name__ == args.only]
    if args.format:
        rows = [row for row in rows if row[1] and row[1].fmt == args.format]
    cells, bad = {}, 0
    for op, v in rows[args.seed % args.share::args.share]:
        label = v.label() if v else ""
        with tempfile.TemporaryDirectory(prefix="formats-test-") as folder:
            bench = Formats(args.binary, folder, args.seed)
            bench.powercut, bench.second = args.powercut, second
            try:
                oracles = op(bench, v) if v else op(bench)
                if oracles is None:
                    continue
                cells[label, op.__name__], result = "ok", "ok: " + ", ".join(oracles)
            except (Failed, subprocess.TimeoutExpired) as e:
                cells[label, op.__name__], result, bad = "FAILED", f"FAILED {e}", bad + 1
                if args.keep:
                    shutil.copytree(folder, f"/tmp/formats-test-kept-{bad}")
        print(f"{op.__name__:18} {label:58} {result}", flush=True)
    if args.share == 1:
        print_matrix(cells)
    print(f"{bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
