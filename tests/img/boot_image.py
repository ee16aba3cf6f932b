#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots a guest with its disk in a format: tests/boot/boot.py runs this as its VMM.

qcow2: the disk that boot.py made becomes the backing file of an overlay, which is committed into it
afterwards. Other formats: the disk is converted there and back. In between the image must check
clean. boot.py then looks in the disk for what the guest wrote.
"""
import argparse
import os
import subprocess
import sys

OPTIONS = {"vmdk": "subformat=twoGbMaxExtentSparse", "luks": "version=2,iter-time=50", "qcow2-luks": "encrypt.format=luks,encrypt.iter-time=50"}


def run(*command):
    if subprocess.run(command, check=False).returncode:
        print(f"{' '.join(command)} failed")
        sys.exit(70)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("binary", "img", "kernel", "initrd", "disk", "cpus", "memory", "cmdline"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--format", default="qcow2")
    args = parser.parse_args()
    folder, kind = os.path.dirname(args.disk), args.format.split("-")[0]
    image, key, keyed = os.path.join(folder, "image." + kind), os.path.join(folder, "key"), "luks" in args.format
    with open(key, "w", encoding="ascii") as f:
        f.write("passphrase")
    overlay = args.format == "qcow2"
    if overlay:
        run(args.img, "create", "-q", "-f", "qcow2", "-b", args.disk, "-F", "raw", image)
    else:
        options = ["-o", OPTIONS[args.format]] if args.format in OPTIONS else []
        run(args.img, "convert", "-q", "-O", kind, *options, "--target-key-file", key, args.disk, image)
    disk = f"{image},format={kind}" + (f",key-file={key}" if keyed else "")
    status = subprocess.run([args.binary, "--engine", "auto", "--cpus", args.cpus, "--memory", args.memory + "M",
                             "--kernel", args.kernel, "--initrd", args.initrd, "--disk", disk, "--net", "user",
                             "--serial", "stdio", "--cmdline", args.cmdline], check=False).returncode
    if kind != "luks":
        run(args.img, "check", image)
    if overlay:
        run("qemu-img", "check", image)
        run(args.img, "commit", image)
    else:
        run(args.img, "convert", "-q", "-n", "-O", "raw", "--key-file", key, image, args.disk)
    return status


if __name__ == "__main__":
    sys.exit(main())
