#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Interpreter and translator side by side over a boot by BIOS.

SeaBIOS in real mode and in 32-bit code and GRUB, which goes back to real mode for each sector, to
GRUB's menu. With --until TEXT GRUB starts the guest's kernel, and it ends at that text.
"""
import argparse
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(HERE), name) for name in ("boot", "firmware")]
import boot  # noqa: E402
import disk  # noqa: E402
import firmware  # noqa: E402

MENU = "Bedplate test"  # the entry's name


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="lockstep_run")
    parser.add_argument("--guest", default=os.path.join(boot.ROOT, ".cache/guest"))
    parser.add_argument("--options", default="hot=0", help="of the engine that translates")
    parser.add_argument("--until")
    args = parser.parse_args()
    files = {name: os.path.join(args.guest, name) for name in ("vmlinuz", "initrd.cpio")} if args.until else {}
    bios = firmware.IMAGES["bios"]
    lacks = disk.missing() or next((path for path in [bios, *files.values()] if not os.path.exists(path)), None)
    if lacks:
        boot.skip(f"{lacks} is not there")

    config = firmware.CONFIG.format(cmdline="console=ttyS0")
    if not args.until:
        config = config.replace("set timeout=0", "set timeout=-1")
    with tempfile.TemporaryDirectory(prefix="bedplate-lockstep-") as tmp:
        image = os.path.join(tmp, "disk.img")
        disk.make(image, config, files)
        words = [args.run, "--options", args.options, "--until", args.until or MENU, "bios", bios, image]
        sys.exit(subprocess.run(words, check=False).returncode)


if __name__ == "__main__":
    main()
