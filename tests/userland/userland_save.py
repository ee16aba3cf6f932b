#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Saves the Debian guest at random moments of a compilation by gcc and restores it in a new process each time: the
objects must be those of a compilation that nobody disturbed, and the file system must be sound.

Prints its seed; --seed repeats the moments.
"""
import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

import userland
from userland import Fault

SAVED = 8
JOB = r"""set -e
cd /root/lua5.4-*/src
rm -f *.o
echo '#define DEB_HOST_MULTIARCH "x86_64-linux-gnu"' >lua5.4-deb-multiarch.h
printf '%s\n' lapi.c lcode.c ldebug.c lgc.c llex.c lparser.c lstrlib.c ltable.c lvm.c |
    xargs -P "$(nproc)" -n 1 gcc -std=gnu99 -O2 -g -c
ld -r -o all.o l*.o
sha256sum *.o >"$1.tmp"
mv "$1.tmp" "$1"
"""


def save(guest):
    """Ends the process with its state in the file of --save."""
    guest.process.send_signal(signal.SIGUSR1)
    try:
        status = guest.process.wait(120)
    except subprocess.TimeoutExpired:
        raise Fault("saving did not end within 120 s") from None
    guest.reader.join(10)
    if status != SAVED:
        raise Fault(f"saving ended with status {status}")


def restore(args, guest, saved):
    words = [args.binary, "--engine", args.engine, "--restore", saved, "--save", saved, "--disk",
             guest.disk + ",format=qcow2", "--net", "user,hostfwd=tcp:127.0.0.1:{port}-:22", "--serial", "stdio"]
    guest.start(words)


def sound(args, guest, folder):
    raw = os.path.join(folder, "root.img")
    img = os.path.join(os.path.dirname(args.binary), "../img/bedplate-img")
    subprocess.run([img, "convert", "-q", "-f", "qcow2", "-O", "raw", guest.disk, raw], check=True)
    fsck = subprocess.run(["e2fsck", "-fn", raw], env=dict(os.environ, PATH=os.environ["PATH"] + ":/sbin:/usr/sbin"),
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if fsck.returncode:
        raise Fault(f"e2fsck: {fsck.stdout}")


def ended(guest):
    return "there" in guest.ssh("test -e /root/disturbed && echo there", check=False)


def equal(guest):
    said = guest.ssh("diff /root/reference /root/disturbed && wc -l </root/reference", check=False)
    if not said.strip().isdigit() or int(said) != 10:
        raise Fault(f"the compilation's result differs:\n{said}{guest.ssh('cat /root/log')}")


def run(args, guest, folder, dice):
    saved = os.path.join(folder, "saved")
    guest.extra = ["--save", saved]
    guest.start()
    guest.wait_for(userland.LOGIN, 200)
    guest.ssh("apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install gcc libc6-dev dpkg-dev", 900)
    guest.ssh("apt-get -qq source lua5.4", 100)
    guest.ssh("cat >/root/job", stdin=JOB)
    start = time.monotonic()
    guest.ssh("sh /root/job /root/reference", args.limit)
    took = time.monotonic() - start
    print(f"undisturbed: {took:.1f} s", flush=True)

    begin = "setsid sh /root/job /root/disturbed >/root/log 2>&1 </dev/null &"
    guest.ssh(begin)
    for _ in range(args.saves):
        pause = dice.uniform(0, 2 * took / args.saves)
        time.sleep(pause)
        save(guest)
        print(f"saved after {pause:.2f} s", flush=True)
        restore(args, guest, saved)
        if ended(guest):
            equal(guest)
            guest.ssh("rm /root/disturbed; " + begin)
    deadline = time.monotonic() + args.limit
    while not ended(guest):
        if time.monotonic() > deadline:
            raise Fault(f"the compilation did not end; its log: {guest.ssh('cat /root/log; ps ax')}")
        time.sleep(2)
    equal(guest)
    said = guest.ssh("cat /root/log").split() + guest.kernel_faults()
    if said:
        raise Fault(f"the compilation or the kernel says: {said}")
    guest.power_off()
    sound(args, guest, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    userland.add_arguments(parser)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--saves", type=int, default=10)
    parser.add_argument("--limit", type=float, default=600, help="seconds for each step")
    args = parser.parse_args()
    if args.qemu:
        userland.boot.skip("QEMU saves in its own way")
    userland.prepare(args, "stress")
    print(f"seed {args.seed}")
    with tempfile.TemporaryDirectory(prefix="bedplate-save-") as folder:
        with userland.Guest(args, folder, "stress") as guest:
            try:
                run(args, guest, folder, random.Random(args.seed))
            except Fault as fault:
                print(guest.tail())
                sys.exit(f"FAIL {fault}")
    print("good")


if __name__ == "__main__":
    main()
