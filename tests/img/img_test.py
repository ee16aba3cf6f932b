#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""bedplate-img against qemu-img on qcow2: each reads, checks and compares what the other made.

Prints a matrix of format x operation; a cell that fails says why and the status is 1.
"""
import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20
SIZE = 24 * MIB

QCOW2 = ["", "compat=0.10", "cluster_size=512", "cluster_size=2M", "refcount_bits=1", "refcount_bits=4",
         "refcount_bits=64", "refcount_bits=8,cluster_size=4K", "lazy_refcounts=on", "extended_l2=on",
         "extended_l2=on,cluster_size=16K", "compression_type=zstd", "preallocation=metadata",
         "preallocation=falloc", "preallocation=full", "preallocation=metadata,extended_l2=on",
         "data_file={dir}/data.raw", "data_file={dir}/data.raw,data_file_raw=on"]


class Failed(Exception):
    pass


def cpu_seconds():
    """Of the programs that ended: what they did, however busy the host is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Bench:
    def __init__(self, binary, folder, seed):
        self.binary, self.dir, self.random = binary, folder, random.Random(seed)

    def path(self, name):
        return os.path.join(self.dir, name)

    def run(self, *command, status=(0,), timeout=100):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=timeout, check=False)
        if done.returncode not in status:
            raise Failed(f"{' '.join(command)}: status {done.returncode}: {done.stdout[-400:]}")
        return done.stdout

    def ours(self, *args, status=(0,)):
        return self.run(self.binary, *args, status=status)

    def qemu(self, *args, status=(0,)):
        return self.run("qemu-img", *args, status=status)

    def remove(self, *names):
        for name in names:
            if os.path.exists(self.path(name)):
                os.unlink(self.path(name))

    def make_source(self, name, size=SIZE):
        """A raw image of holes, zeros, text that packs well and noise that does not."""
        with open(self.path(name), "wb") as f:
            f.truncate(size)
            at = 0
            while at < size:
                part = min(size - at, self.random.choice([512, 4096, 65536, 300000, MIB]))
                f.seek(at)
                kind = self.random.randrange(4)
                if kind == 1:
                    f.write(bytes(part))
                elif kind == 2:
                    f.write((b"the quick brown fox %d " % at * (part // 20 + 1))[:part])
                elif kind == 3:
                    f.write(self.random.randbytes(part))
                at += part
        return self.path(name)

    def write_patterns(self, image, fmt, model, count=60):
        """Random writes by qemu-io into the image and into a raw model."""
        commands = []
        for _ in range(count):
            length = self.random.choice([512, 1024, 4096, 65536, 200704])
            at = self.random.randrange(0, SIZE - length, 512)
            if self.random.randrange(4) == 0:
                commands.append(f"write -z {at} {length}")
            else:
                commands.append(f"write -P {self.random.randrange(1, 256)} {at} {length}")
        for path, kind in ((image, fmt), (model, "raw")):
            args = [x for c in commands for x in ("-c", c)]
            self.run("qemu-io", "-f", kind, *args, path)

    def check_both(self, image, fmt):
        self.ours("check", "-q", "-f", fmt, image)
        self.qemu("check", "-q", "-f", fmt, image)

    def compare_both(self, a, fa, b, fb):
        self.ours("compare", "-q", "-f", fa, "-F", fb, a, b)
        self.qemu("compare", "-q", "-f", fa, "-F", fb, a, b)


def options(bench, text):
    return ["-o", text.format(dir=bench.dir)] if text else []


def ours_to_theirs(b, text):
    """We convert; they check and compare; they write; we check and compare."""
    raw, img = b.make_source("source.raw"), b.path("a.qcow2")
    b.ours("convert", "-q", "-O", "qcow2", *options(b, text), raw, img)
    b.check_both(img, "qcow2")
    b.compare_both(img, "qcow2", raw, "raw")
    b.write_patterns(img, "qcow2", raw)
    b.check_both(img, "qcow2")
    b.compare_both(img, "qcow2", raw, "raw")


def theirs_to_ours(b, text):
    raw, img, back = b.make_source("source.raw"), b.path("a.qcow2"), b.path("back.raw")
    b.qemu("convert", "-O", "qcow2", *options(b, text), raw, img)
    b.check_both(img, "qcow2")
    b.compare_both(img, "qcow2", raw, "raw")
    b.ours("convert", "-q", "-n", "-O", "qcow2", b.make_source("other.raw"), img)
    b.check_both(img, "qcow2")
    b.compare_both(img, "qcow2", b.path("other.raw"), "raw")
    b.ours("convert", "-q", img, back)
    b.run("cmp", back, b.path("other.raw"))


def packed(b, text):
    if "data_file" in text or "preallocation" in text:
        return
    raw, img = b.make_source("source.raw"), b.path("a.qcow2")
    b.ours("convert", "-q", "-c", "-O", "qcow2", *options(b, text), raw, img)
    b.check_both(img, "qcow2")
    b.compare_both(img, "qcow2", raw, "raw")
    b.write_patterns(img, "qcow2", raw)
    b.check_both(img, "qcow2")
    b.compare_both(img, "qcow2", raw, "raw")
    b.remove("a.qcow2")
    b.qemu("convert", "-c", "-O", "qcow2", *options(b, text), raw, img)
    b.ours("compare", "-q", img, raw)


def snapshots(b, text):
    if "data_file" in text or "refcount_bits=1" in text:
        return
    raw, img = b.make_source("source.raw"), b.path("a.qcow2")
    b.ours("convert", "-q", "-O", "qcow2", *options(b, text), raw, img)
    shutil.copy(raw, b.path("s1.raw"))
    b.ours("snapshot", "-c", "one", img)
    b.check_both(img, "qcow2")
    b.write_patterns(img, "qcow2", raw)
    shutil.copy(raw, b.path("s2.raw"))
    b.qemu("snapshot", "-c", "two", img)
    b.check_both(img, "qcow2")
    b.write_patterns(img, "qcow2", raw)
    b.compare_both(img, "qcow2", raw, "raw")
    b.ours("convert", "-q", "-l", "one", img, b.path("view.raw"))
    b.run("cmp", b.path("view.raw"), b.path("s1.raw"))
    b.ours("snapshot", "-a", "two", img)
    b.check_both(img, "qcow2")
    b.compare_both(img, "qcow2", b.path("s2.raw"), "raw")
    b.ours("snapshot", "-d", "two", img)
    b.check_both(img, "qcow2")
    b.qemu("snapshot", "-a", "one", img)
    b.compare_both(img, "qcow2", b.path("s1.raw"), "raw")
    b.ours("snapshot", "-d", "one", img)
    b.check_both(img, "qcow2")
    if json.loads(b.qemu("info", "--output=json", img)).get("snapshots"):
        raise Failed("a deleted snapshot is still listed")


def chains(b, text):
    """Overlays, commit, rebase."""
    if "data_file_raw" in text or ("preallocation" in text and "extended" not in text):
        return
    base, top, model = b.path("base.qcow2"), b.path("a.qcow2"), b.make_source("source.raw")
    b.ours("convert", "-q", "-O", "qcow2", model, base)
    b.ours("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", *options(b, text), top)
    b.compare_both(top, "qcow2", model, "raw")
    b.write_patterns(top, "qcow2", model)
    b.check_both(top, "qcow2")
    b.compare_both(top, "qcow2", model, "raw")
    shutil.copy(base, b.path("base2.qcow2"))
    other = b.make_source("other.raw")
    b.ours("rebase", "-q", "-b", other, "-F", "raw", top)
    b.check_both(top, "qcow2")
    b.compare_both(top, "qcow2", model, "raw")
    b.ours("rebase", "-q", "-b", "base2.qcow2", "-F", "qcow2", top)
    b.ours("commit", "-q", top)
    b.check_both(top, "qcow2")
    b.check_both(b.path("base2.qcow2"), "qcow2")
    b.compare_both(b.path("base2.qcow2"), "qcow2", model, "raw")
    b.compare_both(top, "qcow2", model, "raw")
    b.ours("rebase", "-q", "-b", "", top)
    b.check_both(top, "qcow2")
    b.remove("base2.qcow2", "base.qcow2")
    b.compare_both(top, "qcow2", model, "raw")


def resizing(b, text):
    raw, img = b.make_source("source.raw"), b.path("a.qcow2")
    b.ours("convert", "-q", "-O", "qcow2", *options(b, text), raw, img)
    for size, flags in ((SIZE - 3 * MIB - 512, ["--shrink"]), (SIZE + 5 * MIB, []),
                        (SIZE * 90, []), (SIZE, ["--shrink"])):
        if size > SIZE * 80 and "cluster_size=512" in text:
            continue
        b.ours("resize", "-q", *flags, img, str(size))
        os.truncate(raw, size)
        b.check_both(img, "qcow2")
        b.compare_both(img, "qcow2", raw, "raw")


def same_facts(b, text):
    raw, img = b.make_source("source.raw"), b.path("a.qcow2")
    b.ours("convert", "-q", "-O", "qcow2", *options(b, text), raw, img)
    ours = json.loads(b.ours("info", "--json", img))
    theirs = json.loads(b.qemu("info", "--output=json", img))
    for key in ("virtual-size", "format", "cluster-size", "actual-size"):
        if ours.get(key) != theirs.get(key):
            raise Failed(f"info: {key} is {ours.get(key)}, qemu-img says {theirs.get(key)}")
    data = theirs["format-specific"]["data"]
    for key, value in ours["format-specific"]["data"].items():
        if key != "data-file" and data.get(key) != value:
            raise Failed(f"info: {key} is {value}, qemu-img says {data.get(key)}")
    def data_map(text):
        rows, out = json.loads(text), []
        for row in rows:
            if not row["data"] or row["zero"]:
                continue
            if out and out[-1][0] + out[-1][1] == row["start"]:
                out[-1][1] += row["length"]
            else:
                out.append([row["start"], row["length"]])
        return out
    if "preallocation" not in text and "data_file" not in text:
        # qemu-img looks for holes inside of clusters, too.
        have = data_map(b.ours("map", "--json", img))
        for at, length in data_map(b.qemu("map", "--output=json", img)):
            if not any(start <= at and at + length <= start + n for start, n in have):
                raise Failed(f"map: qemu-img has data at {at}, we have none")


def bitmaps(b, text):
    if "0.10" in text:
        return
    img = b.path("a.qcow2")
    b.ours("create", "-q", "-f", "qcow2", *options(b, text), img, str(SIZE))
    b.qemu("bitmap", "--add", "-g", "64K", img, "theirs")
    b.ours("bitmap", "--add", img, "ours")
    b.check_both(img, "qcow2")
    b.ours("convert", "-q", "-n", "-O", "qcow2", b.make_source("source.raw"), img)
    b.write_patterns(img, "qcow2", b.path("source.raw"), 10)
    b.check_both(img, "qcow2")
    b.compare_both(img, "qcow2", b.path("source.raw"), "raw")
    have = json.loads(b.qemu("info", "--output=json", img))["format-specific"]["data"]["bitmaps"]
    if sorted(x["name"] for x in have) != ["ours", "theirs"]:
        raise Failed(f"bitmaps are {have}")
    if any("in-use" in x["flags"] for x in have):
        raise Failed(f"a bitmap is left in use: {have}")
    b.ours("bitmap", "--remove", img, "theirs")
    b.qemu("bitmap", "--remove", img, "ours")
    b.check_both(img, "qcow2")


OPERATIONS = [ours_to_theirs, theirs_to_ours, packed, snapshots, chains, resizing, same_facts, bitmaps]


def cut_off(b):
    """Files that end early, within their tables or within the data."""
    for fmt in ("qcow2", "vhd", "vhdx", "vmdk"):
        whole = b.path("whole." + fmt)
        b.ours("convert", "-q", "-O", fmt, b.make_source("source.raw", 8 * MIB), whole)
        with open(whole, "rb") as f:
            data = f.read()
        for share in (len(data) // 2, 600):
            part = b.path("part." + fmt)
            with open(part, "wb") as f:
                f.write(data[:share])
            said = b.ours("convert", "-O", "raw", part, b.path("out.raw"), status=(1,))
            if "cut off" not in said and (fmt, share, "no good header; restore" in said) != ("vhdx", 600, True):
                raise Failed(f"{share} bytes of a {fmt}: {said}")
            b.ours("check", "-q", part, status=(1, 2))
        b.remove("whole." + fmt, "part." + fmt)


def mistakes(b):
    """One sentence that names file, cause and remedy."""
    raw = b.make_source("source.raw", MIB)
    b.qemu("create", "-q", "-f", "qcow2", b.path("loop.qcow2"), "1M")
    b.qemu("rebase", "-u", "-f", "qcow2", "-b", "loop.qcow2", "-F", "qcow2", b.path("loop.qcow2"))
    b.qemu("create", "-q", "-f", "qcow2", "-u", "-b", "gone.raw", "-F", "raw", b.path("orphan.qcow2"), "1M")
    for _ in range(10):  # it measures the CPU, which fails on a busy host
        b.run("qemu-img", "create", "-q", "--object", "secret,id=s,data=x", "-f", "qcow2", "-o",
              "encrypt.format=luks,encrypt.key-secret=s", b.path("luks.qcow2"), "1M", status=(0, 1))
        if b.run("qemu-img", "info", b.path("luks.qcow2"), status=(0, 1)).count("encrypted: yes"):
            break
    with open(b.path("unknown.qcow2"), "wb") as f:
        with open(b.path("loop.qcow2"), "rb") as g:
            data = bytearray(g.read())
        data[72] |= 0x80
        f.write(data)
    with open(b.path("short.qcow2"), "wb") as f:
        f.write(data[:40])
    cases = [
        (["info", b.path("nothing.img")], "nothing.img"),
        (["info", "--backing-chain", b.path("loop.qcow2")], "is its own backing file"),
        (["map", b.path("orphan.qcow2")], "gone.raw: no such file; put it back"),
        (["map", b.path("luks.qcow2")], "is encrypted"),
        (["info", b.path("unknown.qcow2")], "unknown feature bit 63"),
        (["info", "-f", "qcow2", b.path("short.qcow2")], "short.qcow2"),
        (["info", "-f", "qcow2", raw], "is not in qcow2 format; it looks like raw"),
        (["info", "-f", "vhdx", b.path("loop.qcow2")], "is not in VHDX format; it looks like qcow2"),
        (["create", b.path("no/folder"), "1M"], "its folder does not exist"),
        (["info", "-f", "elephant", raw], "format elephant is not supported"),
        (["info", b.dir], "is a directory"),
        (["resize", raw, "512K"], "--shrink"),
        (["create", "-f", "qcow2", "-o", "cluster=1", b.path("x"), "1M"], "cluster_size"),
        (["create", "-f", "qcow2", "-b", raw, b.path("x")], "-F FORMAT"),
        (["convert", "-c", raw, b.path("x")], "cannot be compressed"),
        (["frobnicate"], "no command frobnicate"),
        (["info", "--colour", raw], "no option --colour"),
        (["snapshot", "-a", "none", b.path("loop.qcow2")], "has no snapshot none"),
    ]
    for args, want in cases:
        said = b.ours(*args, status=(1,))
        if want not in said or len(said.strip().splitlines()) != 1:
            raise Failed(f"{' '.join(args)}: said {said!r}, which lacks {want!r} or is more than a line")


def power_cuts(b):
    """Images that were cut off while written to: qemu-img finds nothing worse than leaks."""
    b.run(b.powercut, "2", str(b.random.randrange(1, 1 << 60)), b.dir, timeout=900)
    samples = [name for name in os.listdir(b.dir) if name.endswith(".qcow2")]
    if len(samples) < 20:
        raise Failed(f"only {len(samples)} samples")
    for name in samples:
        b.qemu("check", "-q", "-f", "qcow2", b.path(name), status=(0, 3))


def left_dirty(b):
    """QEMU dies with lazy refcounts: opening for writing rebuilds them."""
    for size in ("64K", "512"):
        img = b.path("a.qcow2")
        b.remove("a.qcow2")
        b.qemu("create", "-q", "-f", "qcow2", "-o", f"lazy_refcounts=on,cluster_size={size}", img, "8M")
        b.run("qemu-io", "-c", "write -P 5 0 3M", "-c", "write -P 6 5M 1M", "-c", "flush", "-c", "abort", img,
              status=(-6, 134))
        b.ours("check", "-q", img, status=(2,))
        b.ours("bench", "-q", "-w", "-c", "1", img)
        b.check_both(img, "qcow2")
        said = b.run("qemu-io", "-r", "-c", "read -P 5 4096 2M", "-c", "read -P 6 5M 1M", img)
        if "failed" in said:
            raise Failed(said)


def killed(b):
    """kill -9 under load, again and again: never worse than leaks."""
    for opts in ("cluster_size=4K", "extended_l2=on", "compat=0.10"):
        img = b.path("a.qcow2")
        b.remove("a.qcow2")
        b.ours("create", "-q", "-f", "qcow2", "-o", opts, img, "256M")
        for _ in range(4):
            writer = subprocess.Popen([b.binary, "bench", "-q", "-w", "--random", "-c", "4000000", "-s", "12K", img])
            time.sleep(b.random.uniform(0.02, 0.2))
            writer.kill()
            writer.wait()
            b.ours("check", "-q", img, status=(0, 3))
            b.qemu("check", "-q", img, status=(0, 3))
        b.ours("check", "-q", "--repair", "leaks", img)
        b.check_both(img, "qcow2")


def in_use(b):
    """An image that another program has open for writing is refused, and the other way round."""
    img = b.path("a.qcow2")
    b.ours("create", "-q", "-f", "qcow2", img, "1M")
    holder = subprocess.Popen(["qemu-io", "-f", "qcow2", img], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    holder.stdin.write("write 0 512\nflush\n")
    holder.stdin.flush()
    holder.stdout.readline()
    said = b.ours("resize", img, "2M", status=(1,))
    b.ours("info", "-U", img)
    holder.communicate("quit\n", timeout=60)
    if "in use by process" not in said:
        raise Failed(f"said {said!r}")


def label(text):
    return "" if text is None else f"qcow2 {text}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--powercut", help="the program powercut_test; without it, its cuts are left out")
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    parser.add_argument("--only", help="an operation's name")
    parser.add_argument("--share", type=int, default=1, help="one of so many rows; which ones, the seed says")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("skip: qemu-utils is not installed")
        return 77
    bad = 0
    print(f"seed {args.seed}")
    rows = [(op, text) for op in OPERATIONS for text in QCOW2] + [(mistakes, None), (cut_off, None), (in_use, None), (left_dirty, None), (killed, None)]
    rows += [(power_cuts, None)] if args.powercut else []
    if args.only:
        rows = [row for row in rows if row[0].__name__ == args.only]
    for op, text in rows[args.seed % args.share::args.share]:
        with tempfile.TemporaryDirectory(prefix="img-test-") as folder:
            bench = Bench(args.binary, folder, args.seed)
            bench.powercut = args.powercut
            try:
                op(bench, *([text] if text is not None else []))
                result = "ok"
            except (Failed, subprocess.TimeoutExpired) as e:
                result, bad = f"FAILED {e}", bad + 1
                if args.keep:
                    shutil.copytree(folder, f"/tmp/img-test-kept-{bad}")
        print(f"{op.__name__:16} {label(text):48} {result}", flush=True)
    print(f"{bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
