# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk that both firmwares boot: GRUB of Debian's packages, a kernel and an initrd.

Made without root and loop devices: the partition is a FAT file system written by mtools, GRUB's
images by grub-mkimage. An MBR with one partition of type EFI; GRUB for BIOS lies before it, as
grub-install puts it, GRUB for UEFI in the partition under the default name.
"""
import os
import shutil
import struct
import subprocess

SECTOR = 512
START = 2048  # sectors
BIOS = "/usr/lib/grub/i386-pc"
UEFI = "/usr/lib/grub/x86_64-efi"
TOOLS = ["grub-mkimage", "mformat", "mcopy", "mmd"]
MODULES = ("fat part_msdos part_gpt normal configfile linux serial terminal echo test ls cat search reboot halt "
           "boot minicmd").split()


def missing():
    """What is not installed, or None."""
    for tool in TOOLS:
        if not shutil.which(tool):
            return tool
    for directory in (BIOS, UEFI):
        if not os.path.isdir(directory):
            return f"{directory} (packages grub-pc-bin and grub-efi-amd64-bin)"
    return None


def mtools(*words):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ, MTOOLS_SKIP_CHECK="1"))


def make(path, config, files, size=192 << 20, work=None):
    """config: text of grub.cfg; files: {name in the root: path on the host}."""
    work = work or os.path.dirname(path)
    core, efi = os.path.join(work, "core.img"), os.path.join(work, "BOOTX64.EFI")
    early = os.path.join(work, "early.cfg")
    with open(early, "w") as f:
        f.write("search --file --set=root /grub/grub.cfg\nset prefix=($root)/grub\n")
    subprocess.run(["grub-mkimage", "-O", "i386-pc", "-o", core, "-c", early, "-p", "/grub", "biosdisk", *MODULES],
                   check=True)
    subprocess.run(["grub-mkimage", "-O", "x86_64-efi", "-o", efi, "-c", early, "-p", "/grub", *MODULES], check=True)
    with open(os.path.join(BIOS, "boot.img"), "rb") as f:
        boot = bytearray(f.read(SECTOR))
    with open(core, "rb") as f:
        core = f.read()
    assert len(core) < (START - 1) * SECTOR
    count = size // SECTOR - START
    boot[0x1be:0x1fe] = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0xef, b"\xfe\xff\xff", START,
                                    count).ljust(64, b"\0")
    boot[0x1fe:0x200] = b"\x55\xaa"
    with open(path, "wb") as f:
        f.write(boot + core)
        f.truncate(size)
    at = f"{path}@@{START * SECTOR}"
    mtools("mformat", "-i", at, "-F", "-T", str(count), "-H", str(START), "-h", "64", "-s", "32", "::")
    mtools("mmd", "-i", at, "::EFI", "::EFI/BOOT", "::grub")
    mtools("mcopy", "-i", at, efi, "::EFI/BOOT/BOOTX64.EFI")
    text = os.path.join(work, "grub.cfg")
    with open(text, "w") as f:
        f.write(config)
    mtools("mcopy", "-i", at, text, "::grub/grub.cfg")
    for name, source in files.items():
        mtools("mcopy", "-i", at, source, f"::{name}")
