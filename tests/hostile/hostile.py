#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that writes random values everywhere (guest.c) must not crash, hang or stop the VMM, nor harm the disks.

Runs of the tame kind go through to their end: the guest itself checks that everything can be set up again and that its
disks work, and afterwards disks 0 (read-only) and 1 (never asked to write) are what they were. Runs of the kind `chaos`
may end in any way a guest can end; the VMM has to answer on its control socket all the while, and a reset starts the
guest again. Prints the seed of each run that fails; --seed repeats it as far as two racing CPUs can be repeated.

--sanitize builds the VMM with ASan and UBSan into the given folder first.
"""
import argparse
import contextlib
import hashlib
import os
import random
import select
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(HERE, "..", "vmm"))
import vmm_test  # noqa: E402  (tests/vmm/vmm_test.py)

DISK = 1 << 20
POWEROFF, RESET, TRIPLE_FAULT = 0, 5, 6


def pattern():
    return b"".join(struct.pack("<I", at | 0x20202020) for at in range(0, DISK, 4))


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


class Run:
    def __init__(self, args, seed, folder, chaos):
        self.disks = [os.path.join(folder, f"disk{n}") for n in range(3)]
        for disk in self.disks:
            with open(disk, "wb") as file:
                file.write(pattern())
        self.socket = os.path.join(folder, "control")
        self.errors = os.path.join(folder, "errors")
        words = [args.binary, "--engine", args.engine, "--kernel", args.guest, "--cpus", "2", "--memory", "64",
                 "--disk", self.disks[0] + ",format=raw,readonly", "--disk", self.disks[1] + ",format=raw,queues=2",
                 "--disk", self.disks[2] + ",format=raw", "--net", "user", "--serial", "stdio", "--profile", args.profile,
                 "--console", "file:" + os.path.join(folder, "console"), "--control", "unix:" + self.socket,
                 "--cmdline", f"seed={seed} steps={args.steps}{' chaos' if chaos else ''}", "--no-reboot",
                 "--watchdog", "reset" if chaos else "none"]
        if chaos and args.profile == "pc-1":
            # Chips with DMA of their own: a tame guest could not tell where that goes.
            for n in (3, 4):
                with open(os.path.join(folder, f"disk{n}"), "wb") as file:
                    file.write(pattern())
            words += ["--disk", os.path.join(folder, "disk3") + ",format=raw,bus=sata", "--cdrom", self.disks[0],
                      "--disk", os.path.join(folder, "disk4") + ",format=raw,bus=ide", "--cdrom", "none,bus=ide",
                      "--net", "user,model=e1000e", "--usb", "tablet", "--usb", "keyboard",
                      "--video", ("vga", "virtio")[seed % 2], "--virtio-input", "tablet"]
        env = dict(os.environ, ASAN_OPTIONS="detect_leaks=0:abort_on_error=1", UBSAN_OPTIONS="halt_on_error=1:abort_on_error=1")
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=env)
        self.text, self.ended = b"", False
        self.starts = self.heard = 0

    def read(self, seconds):
        """Collects the console; at its end the process is about to end."""
        deadline = time.monotonic() + seconds
        while not self.ended and (left := deadline - time.monotonic()) > 0:
            if not select.select([self.process.stdout], [], [], left)[0]:
                return
            chunk = os.read(self.process.stdout.fileno(), 65536)
            self.ended = not chunk
            self.text += chunk

    def said(self):
        with open(self.errors, errors="replace") as file:
            return file.read()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def tame(run, args):
    run.read(args.limit)
    try:
        status = run.process.wait(60)
    except subprocess.TimeoutExpired:
        yield "it does not end"
        with contextlib.suppress(AssertionError, OSError):
            client = vmm_test.Client(run.socket)
            for vcpu in (0, 1):
                state = client.ok("inspect", vcpu=vcpu)
                yield f"vCPU {vcpu} at {state['rip']}"
        return
    if status != POWEROFF:
        yield f"exit status {status}"
    if b"HOSTILE done" not in run.text:
        yield f"the guest said {run.text[run.text.rfind(b'HOSTILE ', 0, run.text.find(b'HOSTILE FAIL')):][:100]!r}"
    for number in (0, 1):
        if digest(run.disks[number]) != hashlib.sha256(pattern()).hexdigest():
            yield f"disk {number} changed"


def chaos(run, args):
    deadline, client = time.monotonic() + args.limit, None
    with contextlib.suppress(AssertionError, OSError):  # it may be over at once
        client = vmm_test.Client(run.socket)
    for _ in range(args.chaos_seconds):
        run.read(1)
        if run.ended:
            break
    try:
        if client and not run.ended:
            client.ok("status")
            client.ok("counters")
            starts = run.text.count(b"HOSTILE start")
            client.ok("reset")
            while run.text.count(b"HOSTILE start") <= starts and not run.ended and time.monotonic() < deadline:
                run.read(0.5)
            if not run.ended and run.text.count(b"HOSTILE start") <= starts:
                yield "a reset does not start the guest again"
            client.ok("quit")
    except (AssertionError, OSError) as error:
        if run.process.poll() is None:
            run.read(60)
        if not run.ended:
            yield f"the control socket: {error}"
    run.read(60)
    try:
        status = run.process.wait(60)
    except subprocess.TimeoutExpired:
        yield "it does not end"
        return
    if status not in (POWEROFF, RESET, TRIPLE_FAULT, vmm_test.QUIT):
        yield f"exit status {status}"
    if digest(run.disks[0]) != hashlib.sha256(pattern()).hexdigest():
        yield "the read-only disk changed"
    for disk in run.disks:
        if os.path.getsize(disk) != DISK:
            yield f"{disk} has another size"


def sanitized(folder):
    """The path of a VMM with sanitizers, built now."""
    if not os.path.exists(os.path.join(folder, "build.ninja")):
        env = dict(os.environ, CC="ccache clang")
        subprocess.run(["meson", "setup", folder, "-Db_sanitize=address,undefined", "-Db_lundef=false"], cwd=ROOT, env=env,
                       check=True, stdout=subprocess.DEVNULL)
    targets = ["src/vmm/bedplate-vmm", "src/net/bedplate-net"]
    subprocess.run(["ninja", "-C", folder, "-j2", *targets], check=True, stdout=subprocess.DEVNULL)
    return os.path.join(folder, targets[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--guest", required=True)
    parser.add_argument("--engine", default="soft")
    parser.add_argument("--profile", default="pc-1")
    parser.add_argument("--seed", type=int, help="of the first run; the others follow")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--chaos-runs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20000, help="of each CPU in a run")
    parser.add_argument("--chaos-seconds", type=int, default=3, help="of a run before the reset button is pressed")
    parser.add_argument("--limit", type=float, default=120, help="seconds for a run")
    parser.add_argument("--sanitize", metavar="FOLDER")
    args = parser.parse_args()
    if args.sanitize:
        args.binary = sanitized(args.sanitize)
    seed = args.seed if args.seed is not None else random.randrange(1 << 31)
    print(f"seed {seed}", flush=True)
    failed = 0
    for number in range(args.runs + args.chaos_runs):
        kind = tame if number < args.runs else chaos
        with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
            run, start = Run(args, seed + number, folder, kind is chaos), time.monotonic()
            try:
                wrong = list(kind(run, args))
            finally:
                run.kill()
            said = run.said()
            wrong += [line for line in said.splitlines() if "Sanitizer" in line or "runtime error" in line or "ssertion" in line]
            print(f"{kind.__name__} seed {seed + number}: status {run.process.returncode}, {time.monotonic() - start:.1f} s:"
                  f" {wrong or 'good'}", flush=True)
            if wrong:
                failed += 1
                print(said[-2000:])
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
