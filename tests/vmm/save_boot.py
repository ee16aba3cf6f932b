#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Saves a booting Linux at random moments and restores it in a new process each time: every boot must end right.

The guest's checks are those of tests/boot. The network is there, but not checked: the far ends of its connections are
not part of a saved VM. Prints its seed; --seed repeats a run.
"""
import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "boot"))
import boot  # noqa: E402  (tests/boot/boot.py)

SAVED = 8


def part(words, socket, limit, moment, text):
    """One process: runs until its end, or is asked to save `moment` seconds after it runs (its socket is there then).
    Appends to text; the status."""
    process = subprocess.Popen(words + ["--control", "unix:" + socket], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    os.set_blocking(process.stdout.fileno(), False)
    start, up, asked = time.monotonic(), None, False
    while True:
        now = time.monotonic()
        if up is None and os.path.exists(socket):
            up = now
        if moment is not None and up is not None and now >= up + moment and not asked:
            process.send_signal(signal.SIGUSR1)
            asked = True
        if now > start + limit:
            process.kill()
            process.wait()
            return None
        chunk = process.stdout.read()
        if chunk:
            text += chunk
        elif chunk == b"":
            return process.wait(60)
        time.sleep(0.01)


def boot_once(args, moments, folder, log):
    disk, saved = os.path.join(folder, "disk.img"), os.path.join(folder, "saved")
    subprocess.run([os.path.join(boot.ROOT, "tools/guest/make-disk.sh"), disk], check=True)
    checks = "cpus,clock,disk"
    cmdline = f"console=ttyS0 bp.test={checks} bp.cpus={args.cpus} bp.date={int(time.time())}"
    first = boot.command(boot.OURS, args, disk, cmdline) + ["--save", saved]
    again = [args.binary, "--engine", args.engine, "--restore", saved, "--save", saved, "--disk", disk + ",format=raw",
             "--net", "user", "--serial", "stdio"]
    text, words = bytearray(), first
    for moment in moments + [None]:
        status = part(words, os.path.join(folder, "control"), args.limit, moment, text)
        if status != SAVED:
            break
        words = again
    said = text.decode("latin-1")
    with open(log, "w") as file:
        file.write(said)
    return list(boot.faults(said, status, checks.split(","), disk, 0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    boot.add_arguments(parser)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--boots", type=int, default=1)
    parser.add_argument("--saves", type=int, default=4, help="in each boot")
    parser.add_argument("--longest", type=float, default=2.5, help="seconds between two saves")
    parser.add_argument("--limit", type=float, default=180, help="seconds for a part")
    args = parser.parse_args()
    boot.template(args)
    print(f"seed {args.seed}")
    dice = random.Random(args.seed)
    failed = 0
    for number in range(args.boots):
        moments = [dice.uniform(0.05, args.longest) for _ in range(args.saves)]
        with tempfile.TemporaryDirectory(prefix="bedplate-save-") as folder:
            log = os.path.join(folder, "console.log")
            wrong = boot_once(args, moments, folder, log)
            print(f"boot {number}: saved after {', '.join(f'{m:.2f}' for m in moments)} s: {wrong or 'good'}", flush=True)
            if wrong:
                failed += 1
                with open(log) as file:
                    print("\n".join(file.read().splitlines()[-30:]))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
