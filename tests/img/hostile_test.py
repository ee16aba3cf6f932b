#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Images made to hurt, and file systems that lack what others have.

Whatever an image says, info, check, map, convert and measure end within seconds and a bounded memory,
with a result or one sentence. On a file system without direct I/O, punching and preallocation (ramfs)
everything works but cache=none, which says why.
"""
import argparse
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

import img_test
from img_test import MIB, Failed, cpu_seconds

SECONDS, MEMORY = 20, 700 * MIB


def bounded(b, *args):
    """Its answer; at most one sentence if it is an error."""
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (256 * MIB, 256 * MIB))

    start = cpu_seconds()
    try:
        done = subprocess.run([b.binary, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=10 * SECONDS,
                              preexec_fn=limit, check=False)
    except subprocess.TimeoutExpired as late:
        raise Failed(f"{args}: more than {10 * SECONDS} s") from late
    if done.returncode == -signal.SIGXCPU:
        raise Failed(f"{args}: more than {SECONDS} s of a CPU")
    if done.returncode not in (0, 1, 2, 3):
        raise Failed(f"{args}: status {done.returncode}: {done.stderr[-300:]}")
    errors = [line for line in done.stderr.splitlines() if line.startswith("bedplate-img")]
    if len(errors) > 1 or (done.returncode == 1 and len(errors) != 1):
        raise Failed(f"{args}: {done.stderr!r}")
    return done.returncode, errors[0] if errors else "", cpu_seconds() - start


def look(b, img, fmt):
    """Everything that reads it: the worst time, and what was said."""
    worst, said = 0.0, set()
    for words in (["info", "--json"], ["check", "-q"], ["map", "--json"], ["measure", "-O", "qcow2"], ["convert", "-q", "-O", "qcow2"]):
        target = [b.path("out")] if words[0] == "convert" else []
        status, error, took = bounded(b, *words, "-f", fmt, img, *target)
        worst = max(worst, took)
        said.add(error[error.find(": ") + 2:])
        if words[0] == "check" and status == 2:
            said.add("damage")
        b.remove("out")
    return worst, said - {""}


def patch(path, *changes):
    with open(path, "r+b") as f:
        for at, data in changes:
            f.seek(at)
            f.write(data)
    return path


def be(value, size=8):
    return value.to_bytes(size, "big")


def images(b):
    """(what, format, path) of each."""
    raw = b.make_source("source.raw", 4 * MIB)
    for fmt in ("qcow2", "vhd", "vhdx", "vmdk"):
        b.ours("convert", "-q", "-O", fmt, raw, b.path("good." + fmt))
    with open(b.path("good.qcow2"), "rb") as f:
        l1_at, table_at = struct.unpack(">8xQ", f.read(104)[32:48])[0], 0
        f.seek(48)
        table_at = struct.unpack(">Q", f.read(8))[0]
        f.seek(l1_at)
        l2_at = struct.unpack(">Q", f.read(8))[0] & ((1 << 56) - 512)

    def made(name, fmt, *changes):
        return name, fmt, patch(shutil.copy(b.path("good." + fmt), b.path(f"{name.replace(' ', '-')}.{fmt}")), *changes)

    yield made("a size of 2^63", "qcow2", (24, be((1 << 63) - 512)))
    yield made("a size of 2^62", "qcow2", (24, be(1 << 62)))
    yield made("an L1 table of 2^31 entries", "qcow2", (36, be(1 << 31, 4)))
    yield made("a refcount table of 2^31 clusters", "qcow2", (56, be(1 << 31, 4)))
    yield made("65537 snapshots", "qcow2", (60, be(65537, 4)))
    yield made("L1 over the refcount table", "qcow2", (40, be(table_at)))
    yield made("an L2 table that is its own data", "qcow2", *((l2_at + 8 * n, be(l2_at | 1 << 63)) for n in range(64)))
    yield made("L2 tables that are the L1 table", "qcow2", *((l1_at + 8 * n, be(l1_at | 1 << 63)) for n in range(1)))
    yield made("clusters of 2^31", "qcow2", (20, be(31, 4)))
    yield made("a bitmap directory of 2^60", "qcow2", (88, be(1)),
               (112, be(0x23852875, 4) + be(24, 4) + be(65535, 4) + be(0, 4) + be(1 << 60) + be(65536)))
    # Each cluster of the disk is the same few packed bytes.
    bomb = b.path("bomb.qcow2")
    with open(b.path("zeros"), "wb") as f:
        f.write(b"a" * (2 * MIB))
    b.ours("convert", "-q", "-c", "-O", "qcow2", "-o", "cluster_size=2M", b.path("zeros"), bomb)
    b.ours("resize", "-q", bomb, "500G")
    with open(bomb, "rb") as f:
        f.seek(40)
        bomb_l1 = struct.unpack(">Q", f.read(8))[0]
        f.seek(bomb_l1)
        bomb_l2 = struct.unpack(">Q", f.read(8))[0] & ((1 << 56) - 512)
        f.seek(bomb_l2)
        entry = f.read(8)
    yield "compressed bomb", "qcow2", patch(bomb, (bomb_l2, entry * (500 * 512)))
    end = os.path.getsize(b.path("good.vhd")) - 512
    yield made("a size of 2^63", "vhd", (48, be((1 << 63) - 512)), (end + 48, be((1 << 63) - 512)))
    yield made("2^32 blocks", "vhd", (512 + 28, be((1 << 32) - 1, 4)))
    yield made("a size of 2^63", "vmdk", (12, ((1 << 54)).to_bytes(8, "little")))
    yield made("a grain of 2^60", "vmdk", (20, ((1 << 51)).to_bytes(8, "little")))
    yield made("2^32 grains of a table", "vmdk", (44, b"\xff\xff\xff\xff"))
    yield made("headers of noise", "vhdx", (65536 + 8, b"\xff" * 3000), (131072 + 8, b"\xff" * 3000))
    for n in range(101):
        below = ["-b", f"deep{n - 1}.qcow2", "-F", "qcow2"] if n else []
        b.ours("create", "-q", "-f", "qcow2", *(["-u"] if n else []), *below, b.path(f"deep{n}.qcow2"), "1M")
    yield "a chain of 101", "qcow2", b.path("deep100.qcow2")


def made_to_hurt(b):
    for what, fmt, path in images(b):
        worst, said = look(b, path, fmt)
        print(f"  {fmt}: {what}: {worst:.1f} s; {'; '.join(sorted(said))[:150]}", flush=True)
        if not said:
            raise Failed(f"{what}: nobody complains")


def poor_file_system(b):
    script = r"""
set -e
mkdir -p "$2/ram"; mount -t ramfs none "$2/ram"; cd "$2/ram"
set +e
for f in raw qcow2 vhd vhdx vmdk; do
    "$1" create -q -f $f x.$f 8M && "$1" bench -q -f $f -w -c 100 x.$f || echo "bad: $f"
    "$1" bench -q -c 10 -f $f -t none x.$f 2>&1 | sed 's/^/direct: /'
done
"$1" convert -q -f raw -O qcow2 -o preallocation=falloc ../source.raw p.qcow2 || echo "bad: falloc"
"$1" convert -q -f raw -O qcow2 ../source.raw q.qcow2 || echo "bad: convert"
qemu-io -c 'discard 0 2M' q.qcow2 >/dev/null
"$1" create -q -f qcow2 -b q.qcow2 -F qcow2 o.qcow2
"$1" convert -q -n -f raw -O qcow2 ../source.raw o.qcow2 && "$1" commit -q o.qcow2 || echo "bad: commit"
"$1" compare -q -f raw ../source.raw q.qcow2 && "$1" compare -q -f raw ../source.raw p.qcow2 && "$1" compare -q -f raw ../source.raw o.qcow2 || echo "bad: content"
"$1" resize -q --shrink q.qcow2 1M && "$1" check -q q.qcow2 || echo "bad: resize"
echo end
"""
    b.make_source("source.raw", 8 * MIB)
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script, "sh", b.binary, b.dir], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=100, check=False)
    if "end" not in done.stdout:
        print(f"  left out, no ramfs here: {done.stdout.strip()[:80]}")
        return
    if "bad:" in done.stdout or done.stdout.count("has no direct I/O; use cache=writeback") != 5:
        raise Failed(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True)
    args = parser.parse_args()
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("skip: qemu-utils is not installed")
        return 77
    bad = 0
    for test in (made_to_hurt, poor_file_system):
        with tempfile.TemporaryDirectory(prefix="img-hostile-") as folder:
            bench = img_test.Bench(args.binary, folder, random.randrange(1000))
            try:
                test(bench)
                print(f"{test.__name__}: ok")
            except Failed as why:
                print(f"{test.__name__}: FAILED {why}", flush=True)
                bad += 1
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
