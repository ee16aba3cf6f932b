#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots a guest with a qcow2 overlay as its disk: tests/boot/boot.py runs this as its VMM.

The disk that boot.py made becomes the backing file. Afterwards the overlay must check clean with
both tools, and is committed into the raw disk, where boot.py looks for what the guest wrote.
"""
import argparse
import os
import subprocess
import sys


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("binary", "img", "kernel", "initrd", "disk", "cpus", "memory", "cmdline"):
        parser.add_argument("--" + name, required=True)
    args = parser.parse_args()
    top = os.path.join(os.path.dirname(args.disk), "top.qcow2")
    subprocess.run([args.img, "create", "-q", "-f", "qcow2", "-b", args.disk, "-F", "raw", top], check=True)
    status = subprocess.run([args.binary, "--engine", "auto", "--cpus", args.cpus, "--memory", args.memory + "M",
                             "--kernel", args.kernel, "--initrd", args.initrd, "--disk", top, "--net", "user",
                             "--serial", "stdio", "--cmdline", args.cmdline], check=False).returncode
    for command in ([args.img, "check", top], ["qemu-img", "check", top], [args.img, "commit", top]):
        if subprocess.run(command, check=False).returncode:
            print(f"{' '.join(command)} failed")
            return 70
    return status


if __name__ == "__main__":
    sys.exit(main())
