#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian disk that was made elsewhere boots to a login on the screen:  image.py --firmware bios|uefi --binary B

The disk (tools/prepare-image.sh) has Debian's generic kernel, the initrd of its initramfs-tools, and GRUB as Debian's
grub-install put it there, under QEMU. It is started as it is: GRUB's menu passes, root logs in by keys and looks around.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
sys.path[:0] = [os.path.join(TESTS, name) for name in ("vmm", "display")]
import glyphs  # noqa: E402
import screen  # noqa: E402
import vmm_test  # noqa: E402
from vmm_test import check  # noqa: E402

ROOT = os.path.dirname(TESTS)
PASSWORD = "bedplate"


def prepared():
    """The image, which is made when it is not there."""
    made = subprocess.run([os.path.join(ROOT, "tools/prepare-image.sh")], stdin=subprocess.DEVNULL, check=False)
    if made.returncode:
        vmm_test.skip("the image cannot be made here (the reason is above)")
    return os.path.join(ROOT, ".cache/image/debian.img")


def overlay(binary, image, folder):
    """A disk over the image, which stays as it is."""
    tool = os.path.join(os.path.dirname(os.path.dirname(binary)), "img/bedplate-img")
    path = os.path.join(folder, "disk.qcow2")
    subprocess.run([tool, "create", "-f", "qcow2", "-b", image, "-F", "raw", path], check=True, stdout=subprocess.DEVNULL)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--firmware", choices=["bios", "uefi"], required=True)
    parser.add_argument("--limit", type=float, default=600, help="seconds to the login")
    parser.add_argument("--picture", help="where the picture of the login goes")
    vmm_test.ARGS = args = parser.parse_args()
    if glyphs.missing():
        vmm_test.skip(f"{glyphs.missing()} is not installed")
    image = prepared()
    with tempfile.TemporaryDirectory(prefix="bedplate-image-") as folder:
        control = os.path.join(folder, "control")
        words = ["--firmware", args.firmware, "--memory", "512M", "--disk", overlay(args.binary, image, folder), "--control",
                 "unix:" + control, "--display", f"vnc=unix:{folder}/vnc"]
        with vmm_test.Vm(*words, boots=False, serial=f"file:{folder}/serial") as vm:
            seen = screen.Screen(vm, vmm_test.Client(control))
            seen.shows("image login:", args.limit)
            if args.picture:
                with open(args.picture, "wb") as file:
                    file.write(seen.png())
            seen.type("root\n")
            seen.shows("Password:")
            seen.type(PASSWORD + "\n")
            # What is read here has no f, v or tilde: the kernel's own font draws them unlike the fonts that are known.
            seen.shows("root@image:.#", 120)
            seen.type("clear; [ -d /sys/firmware/efi ] && echo Unified || echo BIOS; tr ' ' '\\n' </proc/cmdline | grep BOOT; "
                      "systemctl is-system-running --wait\n")
            seen.shows(r"(?m)^(running|degraded)$", 180)
            text = seen.text()
            check(re.search("^Uni.ied$" if args.firmware == "uefi" else "^BIOS$", text, re.MULTILINE), text)
            check(re.search(r"BOOT_IMAGE=/boot/.mlinuz-\S+-amd64", text), text)
            check("degraded" not in text, text)
            seen.type("poweroff\n")
            vm.ends(vmm_test.POWEROFF)


if __name__ == "__main__":
    main()
