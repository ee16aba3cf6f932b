#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Firmware, GRUB, kernel: from power-on to the guest's own checks, with one firmware.

A disk with GRUB for both firmwares is made (disk.py); the firmware finds it, GRUB shows its menu on
the serial port and starts the prepared guest's kernel, whose first program does its checks and
powers off. For UEFI the variables are kept in a file, and what the firmware wrote there is looked
at.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "boot")]
import boot  # noqa: E402
import disk  # noqa: E402

CONFIG = """serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
set timeout=0
menuentry "Bedplate test" {{
    linux /vmlinuz {cmdline}
    initrd /initrd.cpio
}}
"""
IMAGES = {"bios": "/usr/share/seabios/bios-256k.bin", "uefi": "/usr/share/OVMF/OVMF_CODE_4M.fd"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    boot.add_arguments(parser)
    parser.add_argument("--firmware", choices=sorted(IMAGES), required=True)
    parser.add_argument("--checks", default="cpus,clock")
    parser.add_argument("--limit", type=float, default=240)
    args = parser.parse_args()
    boot.template(args)
    lacks = disk.missing() or (None if os.path.exists(IMAGES[args.firmware]) else IMAGES[args.firmware])
    if lacks:
        boot.skip(f"{lacks} is not installed")

    with tempfile.TemporaryDirectory(prefix="bedplate-firmware-") as tmp:
        image, variables = os.path.join(tmp, "disk.img"), os.path.join(tmp, "vars.fd")
        cmdline = f"console=ttyS0 bp.test={args.checks} bp.cpus={args.cpus} bp.date={int(time.time())}"
        disk.make(image, CONFIG.format(cmdline=cmdline),
                  {name: os.path.join(args.guest, name) for name in ("vmlinuz", "initrd.cpio")})
        words = [args.binary, "--engine", args.engine, "--cpus", str(args.cpus), "--memory", f"{args.memory}M",
                 "--disk", f"{image},format=raw", "--serial", "stdio", "--firmware", args.firmware]
        if args.firmware == "uefi":
            words += ["--uefi-vars", variables]
        if args.cpu:
            words += ["--cpu", args.cpu]
        start = time.monotonic()
        text, status = boot.run(words, args.limit, os.path.join(tmp, "console.log"))
        seconds = time.monotonic() - start
        wrong = list(boot.faults(text, status, args.checks.split(","), image, 0))
        if "Bedplate test" not in text and "GRUB" not in text:
            wrong.append("GRUB said nothing")
        if args.firmware == "uefi":
            with open(variables, "rb") as f:
                if "Boot0000".encode("utf-16-le") not in f.read():
                    wrong.append("the firmware kept no boot entry in its variables")

    for line in re.findall(r"BP-TEST [^\r\n]*", text):
        print(line)
    print(f"{seconds:.1f} s")
    boot.end(wrong, text)


if __name__ == "__main__":
    main()
