#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots the Debian guest to its login, installs a package by apt, uses it by ssh, powers off, and starts once more.

--idle N also measures for N seconds what the idle guest costs the host.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time

import userland
from userland import Fault


def check(condition, what):
    if not condition:
        raise Fault(what)


def cpu_seconds(process):
    """What the VMM and its helpers have used."""
    ticks = 0
    for pid in [process.pid, *map(int, subprocess.run(["pgrep", "-P", str(process.pid)], stdout=subprocess.PIPE,
                                                      text=True).stdout.split())]:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            ticks += sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def idle(guest, seconds):
    time.sleep(10)  # what the login began comes to its end
    before, start = cpu_seconds(guest.process), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(guest.process) - before) / (time.monotonic() - start) * 100


def talk(args, guest):
    guest.start()
    login = guest.wait_for(userland.LOGIN, args.limit)
    print(f"login prompt after {login:.1f} s")
    state = guest.ssh("systemctl is-system-running --wait; systemctl --failed --no-legend", check=False)
    check(state.split() == ["running"], f"systemd says: {state}")
    check(guest.ssh("nproc").strip() == str(args.cpus), "the guest has another number of CPUs")
    # A line that the shell's echo of the command is not.
    guest.process.stdin.write(b"apt-get update && apt-get install -y hello && hello; echo apt-$?-ended\r")
    guest.process.stdin.flush()
    guest.wait_for("apt-0-ended", args.limit)
    check(b"\nHello, world!" in guest.text, "the installed program did not run")
    check("Hello, world!" in guest.ssh("hello"), "the installed program does not run by ssh")
    if args.idle:
        cost = idle(guest, args.idle)
        print(f"idle: {cost:.2f} % of a host CPU")
        check(cost < args.idle_most, f"the idle guest costs {cost:.2f} % of a host CPU")
    guest.ssh("echo kept >/root/kept")
    guest.power_off()

    guest.start()
    print(f"login prompt of the second start after {guest.wait_for(userland.LOGIN, args.limit):.1f} s")
    check("kept" in guest.ssh("cat /root/kept; hello"), "what the first start wrote to the disk is gone")
    guest.power_off()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    userland.add_arguments(parser)
    parser.add_argument("--limit", type=float, default=120, help="seconds for each step")
    parser.add_argument("--idle", type=float, default=0, help="seconds to measure the idle guest")
    parser.add_argument("--idle-most", type=float, default=1, help="percent of a host CPU")
    args = parser.parse_args()
    userland.prepare(args)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bedplate-userland-") as folder:
        with userland.Guest(args, folder, "basic") as guest:
            try:
                talk(args, guest)
            except Fault as fault:
                print(guest.tail())
                sys.exit(f"FAIL {fault}")
    print(f"good, {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
