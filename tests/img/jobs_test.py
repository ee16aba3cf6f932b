#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs of bedplate-img on chains: killed with signal 9 and begun again, interrupted, without room.

After every kill both our check and qemu-img find nothing worse than leaks, and the top, opened with
the chain that it records, shows the same disk. Dirty bitmaps survive our own crash, and are no longer
taken for complete after another program wrote to the image.
"""
import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import img_test
from img_test import MIB, Failed

SIZE = 64 * MIB


def noise(b, img, fmt, *places):
    """Writes 2 MiB of noise at each place (MiB), into the image and its model."""
    part = b.path("part")
    for place in places:
        data = b.random.randbytes(2 * MIB)
        with open(part, "wb") as f:
            f.write(data)
        b.run("qemu-io", "-f", fmt, "-c", f"write -s {part} {place * MIB} {2 * MIB}", img)
        with open(b.path("model.raw"), "r+b") as f:
            f.seek(place * MIB)
            f.write(data)


def chain(b, fmt="qcow2"):
    """base <- middle <- top, and what the top shows."""
    b.remove("base." + fmt, "middle." + fmt, "top." + fmt)
    with open(b.path("model.raw"), "wb") as f:
        f.truncate(SIZE)
    names = ["base", "middle", "top"] if fmt == "qcow2" else ["base", "top"]
    below = []
    for n, name in enumerate(names):
        img = b.path(f"{name}.{fmt}")
        b.ours("create", "-q", "-f", fmt, *below, img, *([] if below else [str(SIZE)]))
        below = ["-b", f"{name}.{fmt}", "-F", fmt]
        if fmt == "qcow2":
            noise(b, img, fmt, *range(n * 2, SIZE // MIB - 2, 6 + n))
        else:  # which qemu-img does not write over others
            b.ours("convert", "-q", "-n", "-O", fmt, b.make_source("source.raw", SIZE), img)
            shutil.copy(b.path("source.raw"), b.path("model.raw"))
    images = [b.path(f"{name}.{fmt}") for name in names]
    b.ours("compare", "-q", images[-1], b.path("model.raw"))
    return images


def sound(b, images):
    for img in images:
        b.ours("check", "-q", img, status=(0, 3))
        if img.endswith("qcow2"):
            b.qemu("check", "-q", img, status=(0, 3))


def until_done(b, words, images, again=()):
    """Kills it again and again, later and later, until it ends by itself."""
    kills, wait, extra = 0, 0.01, []
    while True:
        job = subprocess.Popen([b.binary, *words, *extra], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        time.sleep(b.random.uniform(0, wait))
        if job.poll() is None:
            job.kill()
        said = job.communicate()[0]
        if job.returncode == 0:
            return kills
        if job.returncode != -signal.SIGKILL:
            raise Failed(f"{words}: status {job.returncode}: {said}")
        kills, wait, extra = kills + 1, wait * 1.7, list(again)
        sound(b, images)
        b.ours("compare", "-q", images[-1], b.path("model.raw"))


def killed(b):
    """Each job, killed and begun again. One may be over before its kill, on a host that is busy, but not each time."""
    for _ in range(5):
        kills = each_killed(b)
        print(f"  kills: {kills}")
        if all(kills.values()):
            return
    raise Failed(f"a job is never killed: {kills}")


def each_killed(b):
    kills = {}
    base, middle, top = chain(b)
    kills["commit"] = until_done(b, ["commit", "-q", top], [base, middle, top], ["--resume"])
    b.qemu("compare", "-q", middle, b.path("model.raw"))
    noise(b, top, "qcow2", *range(1, 60, 5))
    kills["commit of two"] = until_done(b, ["commit", "-q", "-b", base, top], [base, middle, top], ["--resume"])
    b.qemu("compare", "-q", base, b.path("model.raw"))
    base, middle, top = chain(b)
    b.ours("convert", "-q", "-O", "qcow2", base, b.path("other.qcow2"))
    kills["rebase"] = until_done(b, ["rebase", "-q", "-b", "other.qcow2", "-F", "qcow2", top],
                                 [b.path("other.qcow2"), base, middle, top])
    kills["flatten"] = until_done(b, ["rebase", "-q", "-b", "", top], [b.path("other.qcow2"), top])
    b.remove("other.qcow2")
    b.qemu("compare", "-q", top, b.path("model.raw"))
    for size in ("1T", "64T", "64M"):
        b.ours("resize", "-q", "--shrink", top, "64M")
        job = subprocess.Popen([b.binary, "resize", "-q", "--shrink", top, size])
        time.sleep(b.random.uniform(0, 0.02))
        job.kill()
        job.wait()
        sound(b, [top])
    return kills


def by_id(b):
    """Overlays that know their base by an id: a commit that was killed goes on by comparing."""
    for fmt in ("vhd", "vhdx", "vmdk"):
        base, top = chain(b, fmt)
        again = []
        for wait in (0.01, 0.03, 0.1):
            job = subprocess.Popen([b.binary, "commit", "-q", *again, top])
            time.sleep(wait)
            job.kill()
            job.wait()
            again = ["--resume"]
        b.ours("commit", "-q", "--resume", top)
        b.ours("compare", "-q", top, b.path("model.raw"))
        b.ours("compare", "-q", base, b.path("model.raw"))
        sound(b, [base, top])


def interrupted(b):
    """SIGINT ends a job in one sentence, and the chain is whole; begun again, it ends."""
    base, top = b.path("base.raw"), b.path("top.qcow2")
    with open(base, "wb") as f:
        for _ in range(200):
            f.write(os.urandom(MIB))
    for _ in range(10):  # it may be over before it hears the signal, on a host that is busy
        b.remove("top.qcow2")
        b.ours("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", top)
        before = os.stat(top).st_blocks
        job = subprocess.Popen([b.binary, "rebase", "-q", "-b", "", top], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while os.stat(top).st_blocks < before + 8 * MIB // 512 and job.poll() is None:
            time.sleep(0.001)
        job.send_signal(signal.SIGINT)
        said = job.communicate(timeout=60)[0]
        if job.returncode != 0:
            break
    if job.returncode != 1 or "was cancelled" not in said or len(said.splitlines()) != 1:
        raise Failed(f"status {job.returncode}: {said}")
    sound(b, [top])
    b.ours("compare", "-q", top, base)
    b.ours("rebase", "-q", "-b", "", top)
    b.ours("compare", "-q", top, base)


def no_room(b):
    """A merge that the file system may have no room for is refused before it starts."""
    script = """
set -e
mkdir -p "$2/small"
mount -t tmpfs -o size=5M none "$2/small"
"$1" create -q -f qcow2 "$2/small/base.qcow2" 64M
"$1" create -q -f qcow2 -b "$2/small/base.qcow2" -F qcow2 "$2/over.qcow2"
"$1" create -q -f qcow2 -b "$2/top.qcow2" -F qcow2 "$2/small/top.qcow2"
set +e
"$1" convert -q -n -O qcow2 "$2/model.raw" "$2/over.qcow2"
"$1" commit -q "$2/over.qcow2"; echo "status $?"
"$1" rebase -q -b "" "$2/small/top.qcow2"; echo "status $?"
"$1" compare -q "$2/over.qcow2" "$2/model.raw" && "$1" compare -q "$2/small/top.qcow2" "$2/model.raw" && echo same
"""
    chain(b)
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script, "sh", b.binary, b.dir], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=100, check=False)
    if "status" not in done.stdout:
        print(f"  left out, no mount namespace here: {done.stdout.strip()[:60]}")
        return
    lines = done.stdout.strip().splitlines()
    if [line.startswith("status 1") for line in lines] != [False, True, False, True, False] or lines[4] != "same" or \
            not all("make room first" in line for line in (lines[0], lines[2])):
        raise Failed(done.stdout)


def flags(b, img):
    data = json.loads(b.ours("info", "--json", img))["format-specific"]["data"]
    return {x["name"]: x["flags"] for x in data.get("bitmaps", [])}


def crash(b, img):
    """A writer dies: the image is left in use."""
    for _ in range(50):
        before = os.stat(img).st_mtime_ns
        writer = subprocess.Popen([b.binary, "bench", "-q", "-w", "--random", "-c", "4000000", img])
        while os.stat(img).st_mtime_ns == before and writer.poll() is None:
            time.sleep(0.005)
        time.sleep(b.random.uniform(0, 0.1))
        writer.kill()
        writer.wait()
        if "in-use" in flags(b, img).get("nightly", []):
            return
    raise Failed("the image is never left in use")


def bitmaps(b):
    """They survive our crash; not one after which another program wrote."""
    img = b.path("marked.qcow2")
    b.ours("create", "-q", "-f", "qcow2", img, "64M")
    b.ours("bitmap", "--add", img, "nightly")
    crash(b, img)
    b.qemu("check", "-q", img, status=(0, 3))
    b.ours("bench", "-q", "-w", "-c", "1", img)
    if flags(b, img) != {"nightly": ["auto"]}:
        raise Failed(f"after a crash: {flags(b, img)}")
    b.qemu("check", "-q", img, status=(0, 3))
    crash(b, img)
    b.run("qemu-io", "-f", "qcow2", "-c", "write 1M 64k", img)
    b.ours("bench", "-q", "-w", "-c", "1", img)
    if "auto" in flags(b, img)["nightly"]:
        raise Failed("a bitmap that lacks what QEMU wrote is taken for complete")
    said = b.ours("bitmap", "--add", img, "bedplate-intent", status=(1,))
    if "own use" not in said:
        raise Failed(said)
    b.ours("bitmap", "--remove", img, "nightly")
    b.ours("bitmap", "--add", img, "weekly")
    over = b.path("over.qcow2")
    b.ours("snapshot", "--overlay", over, img)
    if flags(b, over) != {"weekly": ["auto"]} or flags(b, img):
        raise Failed(f"an overlay has {flags(b, over)}, what is below it {flags(b, img)}")
    b.qemu("compare", "-q", over, img)
    b.ours("snapshot", "--overlay", over, img, status=(1,))
    sound(b, [over])
    sound(b, [img])


TESTS = [bitmaps, killed, by_id, interrupted, no_room]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("tests", nargs="*")
    args = parser.parse_args()
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("skip: qemu-utils is not installed")
        return 77
    print(f"seed {args.seed}")
    bad = 0
    for test in TESTS * args.rounds:
        if args.tests and test.__name__ not in args.tests:
            continue
        with tempfile.TemporaryDirectory(prefix="img-jobs-") as folder:
            start = time.monotonic()
            try:
                test(img_test.Bench(args.binary, folder, args.seed))
                result = "ok"
            except (Failed, subprocess.TimeoutExpired) as why:
                result, bad = f"FAILED {why}", bad + 1
            print(f"{test.__name__}: {result} ({time.monotonic() - start:.1f} s)", flush=True)
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
