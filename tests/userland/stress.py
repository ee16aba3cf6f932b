#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs programs that nobody here wrote in the Debian guest, with the tests that they bring:  stress.py NAME...

Each name boots a fresh guest, which installs what it needs by apt and then runs the steps below, as root by ssh.
A step is a script of the shell; a failing command fails it. --list names them. The scripts lie in stress/; what they
print as "same KIND: ..." is compared between the lines of one kind, and "host ARGS" lines are checked by the host's
own Python. --keep FOLDER keeps the disk and the logs, and goes on from that disk.
"""
import argparse
import hashlib
import os
import re
import sys
import tempfile
import time

import userland
from userland import Fault

# Name: packages, time limit in seconds of the guest (userland.Deadline) at one vCPU, and the script with its
# arguments where that is not the name's.
TESTS = {
    "zlib": ("gcc libc6-dev make dpkg-dev", 600),
    "pcre2": ("gcc libc6-dev make dpkg-dev", 1500),
    "gmp": ("gcc libc6-dev make dpkg-dev m4", 3000),
    "python": ("python3 libpython3.11-testsuite gcc libc6-dev", 1800),
    "python_system": ("python3 libpython3.11-testsuite gcc libc6-dev", 1800),
    "perl": ("perl dpkg-dev make gcc libc6-dev", 1800, "perl.sh", "69000", "base", "cmd", "comp", "opbasic", "op", "mro"),
    "perl_re": ("perl dpkg-dev make gcc libc6-dev", 1800, "perl.sh", "160000", "re", "uni"),
    "openssl": ("openssl", 600),
    "luajit": ("luajit", 600),
    "node": ("nodejs", 900),
    "java": ("openjdk-17-jdk-headless", 1500),
    "gdb": ("gdb gcc libc6-dev libc6-dbg", 600),
    "stress_ng": ("stress-ng", 1200),
}
# MiB of the guest's memory where the default is too little: test_compile takes 660 beside test_ast's 220.
MEMORY = {"python": 2048}


def same_faults(said):
    """Lines "same KIND: VALUE" have one value for each kind, however it was computed."""
    values = {}
    for kind, value in re.findall(r"^same ([^:\n]+): *(.*?)\r?$", said, re.MULTILINE):
        values.setdefault(kind, []).append(value)
    for kind, all_of_it in values.items():
        if len(all_of_it) < 2 or len(set(all_of_it)) != 1 or not all_of_it[0]:
            yield f"{kind}: {all_of_it}"


def host_faults(said):
    """Lines "host ALGORITHM BYTES HASH" are the hash of that many bytes 0 1 2 ... 250 0 1 ..."""
    for algorithm, size, value in re.findall(r"^host (\S+) (\d+) (\S+)\r?$", said, re.MULTILINE):
        data = (bytes(range(251)) * (int(size) // 251 + 1))[:int(size)]
        if hashlib.new(algorithm, data).hexdigest() != value:
            yield f"{algorithm} of {size} bytes is {value}"


def run(args, name, folder):
    packages, limit, *words = TESTS[name]
    script, *words = words or [name + ".sh"]
    with open(os.path.join(userland.HERE, "stress", script), encoding="ascii") as file:
        text = file.read()
    args = argparse.Namespace(**{**vars(args), "memory": max(args.memory, MEMORY.get(name, 0))})
    with userland.Guest(args, folder, "stress") as guest:
        try:
            guest.start()
            guest.wait_for(userland.LOGIN, 200)
            guest.ssh(f"apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install {packages}", 900)
            start = time.monotonic()
            guest.ssh("mkdir -p /root/work; cat >/root/work/run", stdin=text)
            # One stream: of two, ssh does not keep the order, and the last word would not always come last.
            said = guest.ssh(" ".join(["cd /root/work && exec sh -eu run", *words, "2>&1"]), limit,
                             log=os.path.join(folder, "log"))
            faults = [*same_faults(said), *host_faults(said)]
            if not said.rstrip().endswith("good"):
                faults.append(f"it did not come to its end:\n{said[-3000:]}")
            faults += [f"the kernel says: {line}" for line in guest.kernel_faults()]
            if faults:
                raise Fault("; ".join(faults))
            print(f"{name}: good, {time.monotonic() - start:.0f} s", flush=True)
            guest.power_off()
        except Fault as fault:
            print(guest.tail())
            print("the VM", "runs" if guest.process.poll() is None else f"has ended with status {guest.process.returncode}")
            sys.exit(f"FAIL {name}: {fault}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    userland.add_arguments(parser)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--keep", help="folder for the disk and logs")
    parser.add_argument("names", nargs="*", choices=[[], *TESTS])
    args = parser.parse_args()
    if args.list:
        print("\n".join(TESTS))
        return
    userland.prepare(args, "stress")
    for name in args.names:
        with tempfile.TemporaryDirectory(prefix="bedplate-stress-") as temporary:
            folder = os.path.join(args.keep, name) if args.keep else temporary
            os.makedirs(folder, exist_ok=True)
            run(args, name, folder)


if __name__ == "__main__":
    main()
