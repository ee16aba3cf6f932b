#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Saves a booting Linux at random moments through the control socket, together with a copy of its disk, lets it go on,
and later restores every saved moment in a new process: each of these boots must end right, and so must the original.

tests/vmm/save_boot.py is about one VM that moves from process to process; this is about many VMs that start from
moments of one. The moments are spread over the guest time of a boot that is measured first, and each is then
recognised by the lines on the console and the time since, so that a change of the host's load does not skip one.
Prints its seed, with which --seed repeats the moments.
"""
import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "boot"), os.path.join(HERE, "..", "vmm")]
import boot  # noqa: E402  (tests/boot/boot.py)
import vmm_test  # noqa: E402  (tests/vmm/vmm_test.py)
from host import until  # noqa: E402

# The far ends of network connections are not part of a saved VM, so the network is there but not checked.
CHECKS = "cpus,clock,disk"


class Process:
    """A VMM whose console is collected while it runs."""

    def __init__(self, words, socket):
        self.text, self.heard, self.lines = bytearray(), time.monotonic(), 0
        self.process = subprocess.Popen([*words, "--control", "unix:" + socket], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        while chunk := os.read(self.process.stdout.fileno(), 65536):
            self.text += chunk
            self.lines += chunk.count(b"\n")
            self.heard = time.monotonic()

    def quiet(self, client):
        """What a paused VM has said, all of it: as much as the guest has written, and what the VMM itself said."""
        written = client.ok("console-log", bytes=0)["before"]
        until("the console's text does not come", lambda: len(self.text) >= written and time.monotonic() > self.heard + 0.2)
        return bytes(self.text)

    def end(self, limit):
        """Its status; None when it had to be killed."""
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            status = None
        self.reader.join(60)
        return status


def drive(args, folder, moments):
    """Boots once and saves at `moments`, pairs of lines and ns of guest time since that line. Answers the faults of this
    boot, its console, its course as pairs of guest time and lines, and what was saved: (guest time, console so far,
    file, disk)."""
    disk, socket = os.path.join(folder, "disk.img"), os.path.join(folder, "control")
    shutil.copy(args.template_disk, disk)
    cmdline = f"console=ttyS0 bp.test={CHECKS} bp.cpus={args.cpus} bp.date={int(time.time())}"
    vm = Process(boot.command(boot.OURS, args, disk, cmdline), socket)
    course, saved, deadline = [], [], time.monotonic() + args.limit
    line, since = 0, 0
    try:
        client = vmm_test.Client(socket)
        while vm.process.poll() is None and time.monotonic() < deadline:
            lines, now = vm.lines, client.ok("status")["guest-ns"]
            course.append((now, lines))
            if lines != line:
                line, since = lines, now
            if len(saved) < len(moments) and (line, now - since) >= moments[len(saved)]:
                name = os.path.join(folder, f"saved{len(saved)}")
                with open(name, "wb") as file:
                    client.ok("save", fds=[file.fileno()], fd=True, then="pause")
                shutil.copy(disk, name + ".disk")
                saved.append((now, vm.quiet(client), name, name + ".disk"))
                client.ok("resume")
            time.sleep(0.02)
    except (AssertionError, OSError):
        pass  # the VM ended while it was asked; anything else shows in the status
    status = vm.end(max(1, deadline - time.monotonic()))
    wrong = list(boot.faults(vm.text.decode("latin-1"), status, CHECKS.split(","), disk, 0))
    if len(saved) != len(moments):
        wrong.append(f"saved {len(saved)} times instead of {len(moments)}")
    return wrong, vm.text, course, saved


def position(course, moment):
    """The guest time `moment` as lines and ns since the last of them."""
    lines = max(lines for now, lines in course if now <= moment)
    return lines, moment - min(now for now, seen in course if seen == lines)


def restore(args, folder, before, name, disk):
    """The faults of the boot that goes on from a saved moment, and all of its console."""
    vm = Process([args.binary, "--engine", args.engine, "--restore", name, "--disk", disk + ",format=raw", "--net",
                  "user", "--serial", "stdio"], os.path.join(folder, "control"))
    status = vm.end(args.limit)
    text = before + bytes(vm.text)
    return list(boot.faults(text.decode("latin-1"), status, CHECKS.split(","), disk, 0)), text


def report(what, wrong, text):
    print(f"{what}: {wrong or 'good'}", flush=True)
    if wrong:
        print("\n".join(text.decode("latin-1").splitlines()[-30:]), flush=True)
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    boot.add_arguments(parser)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--moments", type=int, default=4)
    parser.add_argument("--limit", type=float, default=180, help="seconds for one process")
    args = parser.parse_args()
    boot.template(args)
    print(f"seed {args.seed}")
    dice = random.Random(args.seed)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="bedplate-state-") as folder:
        args.template_disk = os.path.join(folder, "template.img")
        subprocess.run([os.path.join(boot.ROOT, "tools/guest/make-disk.sh"), args.template_disk], check=True)
        wrong, text, course, _ = drive(args, folder, [])
        # A boot that says its last lines a little sooner than this one is saved all the same.
        first, last = course[0][0], max(now for now, lines in course if lines <= course[-1][1] - 3)
        failed += report(f"a boot of {last / 1e9:.1f} s", wrong, text)
        moments = sorted(position(course, dice.uniform(first, last)) for _ in range(args.moments))
        wrong, text, _, saved = drive(args, folder, moments)
        failed += report(f"a boot saved {len(saved)} times", wrong, text)
        for now, before, name, disk in saved:
            wrong, text = restore(args, folder, before, name, disk)
            failed += report(f"restored from {now / 1e9:.2f} s", wrong, text)
            os.remove(name)
            os.remove(disk)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
