#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Small real guests of Debian's packages under seabios, whose screens are read:  guests.py CASE --binary B"""
import argparse
import os
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(HERE), name) for name in ("vmm", "display")]
import glyphs  # noqa: E402
import screen  # noqa: E402
import vmm_test  # noqa: E402
from vmm_test import check  # noqa: E402

GRUB = "/usr/lib/grub-rescue"
MEMTEST = "/usr/lib/memtest86+"
IPXE = "/usr/lib/ipxe/ipxe.iso"
CASES = {}


def case(*needed):
    def add(function):
        CASES[function.__name__] = function, needed
        return function
    return add


class Guest:
    """A VM with a screen."""

    def __init__(self, folder, *words, memory="64M"):
        control = os.path.join(folder, "control")
        self.vm = vmm_test.Vm("--firmware", "bios", "--memory", memory, "--video", "vga",
                              "--control", "unix:" + control, *words, boots=False, serial="none")
        self.screen = screen.Screen(self.vm, vmm_test.Client(control))

    def __enter__(self):
        return self.screen

    def __exit__(self, *_):
        self.vm.__exit__()


def copy(folder, path, size):
    """An image of a floppy disk of the usual size."""
    image = os.path.join(folder, "floppy")
    shutil.copy(path, image)
    os.truncate(image, size)
    return image


@case(GRUB)
def grub_floppy(folder):
    """GRUB loads itself from a floppy disk by the BIOS, and finds the disk's files."""
    image = copy(folder, os.path.join(GRUB, "grub-rescue-floppy.img"), 1474560)
    with Guest(folder, "--disk", image + ",format=raw,bus=floppy") as seen:
        seen.shows("GNU GRUB")
        seen.keys("c")
        seen.shows("grub>")
        seen.type("ls\n")
        seen.shows(r"\(fd0\)")


@case(GRUB, glyphs.GRUB_FONT)
def vesa(folder):
    """GRUB asks the VGA BIOS for its VESA modes, sets one of them, and writes where the BIOS says that its frame buffer is."""
    with Guest(folder, "--cdrom", os.path.join(GRUB, "grub-rescue-cdrom.iso")) as seen:
        seen.shows("GNU GRUB")
        seen.keys("c")
        seen.shows("grub>")
        seen.type("insmod vbe; videoinfo 1024x768x32\n")
        seen.shows(r" 1024 x +768 x 32 [^>]*\ngrub>\s*$")
        seen.type("clear\n")
        seen.shows(r"^\s*grub>\s*$")
        seen.type("set gfxmode=1024x768x32; insmod gfxterm; loadfont unicode; terminal_output gfxterm\n")
        seen.wait("picture of 1024 x 768", lambda: seen.picture()[:2] == (1024, 768), 60)
        seen.type("echo Drawn, not typed: $gfxmode\n")
        font = glyphs.grub_font()

        def drawn():
            return glyphs.text(*seen.picture(), font, glyphs.GRUB_BORDER)

        seen.wait("text in the graphics mode", lambda: "\nDrawn, not typed: 1024x768x32\ngrub>" in drawn(), 60)


@case(GRUB)
def cd_vanishes(folder):
    """A CD whose file is removed is read on; one whose file has lost its content cannot be read, and the VM says why."""
    iso = os.path.join(folder, "cd.iso")
    shutil.copy(os.path.join(GRUB, "grub-rescue-cdrom.iso"), iso)
    with Guest(folder, "--cdrom", iso) as seen:
        seen.shows("GNU GRUB")
        seen.keys("c")
        seen.shows("grub>")
        with open(iso, "r+b") as file:
            os.unlink(iso)
            seen.type("ls (cd)/boot/grub/\n")
            seen.shows(r"i386-pc/")
            os.ftruncate(file.fileno(), 0)
            seen.type("clear\nhexdump (cd)/boot/grub/i386-pc/zfscrypt.mod\n")
            seen.shows("error: ")
        check(f"{iso}: the image is shorter than when it was opened; reads there fail" in seen.vm.said(), seen.vm.said())


@case(IPXE)
def ipxe(folder):
    """iPXE finds the network card, gets an address, and takes commands."""
    with Guest(folder, "--cdrom", IPXE, "--net", "user,model=e1000e") as seen:
        seen.shows("Press Ctrl-B for the iPXE command line")
        seen.keys("ctrl-b")
        seen.shows("iPXE>")
        seen.type("dhcp && echo Address ${net0/ip}\n")
        seen.shows(r"\nAddress 10\.0\.2\.15")


def memtest(folder, image):
    with Guest(folder, "--cdrom", os.path.join(MEMTEST, image)) as seen:
        seen.shows(r"Memtest86\+ v\d", 30)
        found = seen.shows(r"Pass:  ([1-9])\d* +Errors: (\d+)", 900)
        check(found[2] == "0", seen.text())


@case(MEMTEST)
def memtest_64(folder):
    memtest(folder, "memtest86+x64.iso")


@case(MEMTEST)
def memtest_32(folder):
    """The same in 32-bit code with physical address extension."""
    memtest(folder, "memtest86+ia32.iso")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--binary", required=True)
    vmm_test.ARGS = args = parser.parse_args()
    function, needed = CASES[args.case]
    for path in needed:
        if not os.path.exists(path):
            vmm_test.skip(f"{path} is not there; install the packages in packages.txt")
    with tempfile.TemporaryDirectory() as folder:
        function(folder)


if __name__ == "__main__":
    main()
