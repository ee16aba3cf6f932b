# SPDX-License-Identifier: GPL-2.0-or-later
"""The installer's CD, mini.iso, from a package debian-installer-N-netboot-amd64.

The package holds what the CD holds, without the CD around it. Made as Debian makes it: ISOLINUX for BIOS, Debian's
signed GRUB in a FAT image for UEFI, and the package's menus for both.
"""
import gzip
import os
import shutil
import subprocess

ISOLINUX = "/usr/lib/ISOLINUX/isolinux.bin"
GRUB = "/usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed"
GRUB_MODULES = "/usr/lib/grub/x86_64-efi"
NEEDED = [(ISOLINUX, "isolinux"), (GRUB, "grub-efi-amd64-signed"), (GRUB_MODULES, "grub-efi-amd64-bin")]
TOOLS = [("xorriso", "xorriso"), ("mformat", "mtools"), ("cpio", "cpio")]
FOLDER = "debian-installer/amd64"


def missing():
    """What is not installed, or None."""
    for path, package in NEEDED:
        if not os.path.exists(path):
            return f"the package {package}"
    for tool, package in TOOLS:
        if not shutil.which(tool):
            return f"the package {package}"
    return None


def efi_image(path):
    with open(path, "wb") as file:
        file.truncate(8 << 20)
    for words in (["mformat", "-i", path, "-T", str((8 << 20) // 512), "-h", "16", "-s", "32", "::"], ["mmd", "-i", path, "::EFI", "::EFI/BOOT"],
                  ["mcopy", "-i", path, GRUB, "::EFI/BOOT/BOOTX64.EFI"]):
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ, MTOOLS_SKIP_CHECK="1"))


def make(path, package, work):
    """package: the .deb; work: a folder for what is in between."""
    subprocess.run(["dpkg-deb", "-x", package, os.path.join(work, "package")], check=True)
    trees = [folder for folder, _, _ in os.walk(os.path.join(work, "package")) if folder.endswith("/text/" + FOLDER)]
    if len(trees) != 1:
        raise ValueError(f"{package} is no package debian-installer-N-netboot-amd64")
    tree, top = trees[0], os.path.join(work, "cd")
    shutil.copytree(tree, os.path.join(top, FOLDER))
    shutil.copy(ISOLINUX, top)
    shutil.copy(os.path.join(tree, "boot-screens/ldlinux.c32"), top)
    shutil.copy(os.path.join(tree, "boot-screens/syslinux.cfg"), os.path.join(top, "isolinux.cfg"))
    # GRUB's image for CDs finds its CD by .disk/mini-info and its menu below boot/grub.
    os.mkdir(os.path.join(top, ".disk"))
    with open(os.path.join(top, ".disk/mini-info"), "w", encoding="ascii") as file:
        file.write("Debian installer\n")
    grub = os.path.join(top, "boot/grub")
    os.makedirs(grub)
    for name in ("grub.cfg", "font.pf2"):
        shutil.copy(os.path.join(tree, "grub", name), grub)
    shutil.copytree(GRUB_MODULES, os.path.join(grub, "x86_64-efi"))
    efi_image(os.path.join(grub, "efi.img"))
    subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-r", "-J", "-V", "Debian installer", "-b", "isolinux.bin", "-c",
                    "boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "-eltorito-alt-boot", "-e",
                    "boot/grub/efi.img", "-no-emul-boot", "-o", path, top], check=True)


def kernel(iso):
    """Where the kernel and its initrd are on a CD of the installer: Debian's mini.iso has them in its root."""
    listed = subprocess.run(["xorriso", "-indev", iso, "-find", "/", "-name", "initrd.gz"], check=True, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    folders = sorted(os.path.dirname(line.strip("'")) for line in listed.split())
    if not folders:
        raise ValueError(f"{iso} has no initrd.gz, so it is no CD of Debian's installer")
    return folders[0].rstrip("/")


def status(iso, work):
    """dpkg's list of what is installed in the installer on a CD."""
    initrd = os.path.join(work, "initrd.gz")
    subprocess.run(["xorriso", "-osirrox", "on", "-indev", iso, "-extract", kernel(iso) + "/initrd.gz", initrd], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with gzip.open(initrd) as file:
        return subprocess.run(["cpio", "-i", "--quiet", "--to-stdout", "var/lib/dpkg/status"], check=True, input=file.read(),
                              stdout=subprocess.PIPE).stdout.decode()
