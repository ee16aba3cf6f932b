#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What Debian's tools find wrong with the machine, beside QEMU's Q35:  hardware.py --firmware bios|uefi --binary B

The same disk (tools/prepare-image.sh) boots in both with the same firmware and like devices. dmidecode, lspci -vv, acpidump
with iasl, i2cdetect and the kernel look at the machine. What they call an error or a warning under ours and not under Q35
fails the test. fwts is no part of Debian 12.
"""
import argparse
import io
import os
import re
import select
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "vmm")]
import image  # noqa: E402
import vmm_test  # noqa: E402

# Runs in the guest; what it leaves in `found` goes back on the disk that it came on.
REPORT = r"""
mkdir -p /tmp/found/tables
cd /tmp/found
dmidecode >dmidecode 2>&1; echo "status $?" >>dmidecode
lspci -vv >lspci 2>lspci.errors
acpidump >acpidump 2>acpidump.errors; echo "status $?" >>acpidump.errors
cd tables
acpixtract -a ../acpidump >/dev/null 2>../acpixtract.errors
for table in *.dat; do
    iasl -d $table >/dev/null 2>>../iasl
    case $table in
    dsdt*|ssdt*) iasl -tc ${table%.dat}.dsl >>../iasl 2>&1 ;;
    *) cat ${table%.dat}.dsl ;;
    esac
done >../disassembled
cd ..
modprobe i2c-dev; modprobe i2c-i801
i2cdetect -l >i2cdetect 2>&1
dmesg -l emerg,alert,crit,err,warn >kernel
dmesg >dmesg
lsmod >modules
tar -cf /dev/vdb -C /tmp found
sync
"""
SIZE = 8 << 20  # of the disk for the way there and back

# What each tool says when it does not like something.
COMPLAINTS = {
    "dmidecode": r"(?i)wrong|invalid|bad |broken|truncated|out of spec|not found|no smbios|mismatch|checksum|status [1-9]",
    # At c0000 lies the copy of the boot screen's ROM, whether the device has a register for one or not.
    "lspci": r"(?i)<unassigned>|^(?!.*ROM at 000c0000).*\[virtual\]|!!!|unknown|\(rev ff\)|<chain looped>|<chain broken>",
    "lspci.errors": r".",
    "acpidump.errors": r"(?i)error|could not|status [1-9]",
    "acpixtract.errors": r"(?i)error|could not|invalid",
    "iasl": r"^(Error|Warning)\s+\d+|(?i:could not|incorrect checksum)",
    "disassembled": r"(?i)incorrect|invalid|error|unknown|\*\*\*",
    "kernel": r".",
    "i2cdetect": r"(?i)error|could not",
}
# The kernel's remark about a clock that it read while the host did something else.
LATE = "clocksource: Long readout interval, skipping watchdog check"
QEMU = ["-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults", "-display", "none", "-vga", "std", "-no-reboot",
        "-serial", "stdio", "-device", "qemu-xhci", "-device", "usb-tablet", "-device", "usb-kbd", "-nic",
        "user,model=e1000e"]
FLASH = "/usr/share/OVMF/OVMF_{}_4M.fd"


class Console:
    """The serial port of a VM, to which somebody types."""

    def __init__(self, words, folder, limit):
        self.errors = open(os.path.join(folder, "errors"), "w+b")
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
        self.text, self.deadline = "", time.monotonic() + limit

    def wait(self, what):
        while what not in self.text:
            left = self.deadline - time.monotonic()
            ready = left > 0 and select.select([self.process.stdout], [], [], left)[0]
            chunk = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not chunk:
                self.errors.seek(0)
                raise AssertionError(f"no {what!r} on the serial port: {self.text[-800:]!r} {self.errors.read()!r}")
            self.text += chunk.decode("latin-1")
        self.text = self.text.partition(what)[2]

    def type(self, text):
        for letter in text:  # the port's FIFO is small
            self.process.stdin.write(letter.encode())
            self.process.stdin.flush()
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.errors.close()


def looks(words, exchange, folder, limit):
    """What the tools say in this VM: {name: text}."""
    with tarfile.open(exchange, "w") as tar:
        member = tarfile.TarInfo("report")
        member.size = len(REPORT)
        tar.addfile(member, io.BytesIO(REPORT.encode()))
    os.truncate(exchange, SIZE)
    with Console(words, folder, limit) as console:
        console.wait("image login:")
        console.type("root\n")
        console.wait("Password:")
        console.type(image.PASSWORD + "\n")
        console.wait("root@image:~#")
        console.type("tar -C /tmp -xf /dev/vdb && sh /tmp/report; echo report $((40 + 2)); poweroff\n")
        console.wait("report 42")
        console.process.wait(max(1, console.deadline - time.monotonic()))
    with tarfile.open(exchange) as tar:
        return {os.path.basename(member.name): tar.extractfile(member).read().decode("utf-8", "replace")
                for member in tar.getmembers() if member.isfile() and os.path.dirname(member.name) == "found"}


def bare(line):
    """A complaint without what differs from one start to the next: times, numbers, addresses."""
    return re.sub(r"0x[0-9a-fA-F]+|\b[0-9a-fA-F]{4,}\b|\d+", "#", re.sub(r"^\[ *[\d.]+\] ", "", line)).strip()


def complaints(found, name):
    return {bare(line): line.strip() for line in found.get(name, "").splitlines()
            if re.search(COMPLAINTS[name], line) and LATE not in line}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--firmware", choices=["bios", "uefi"], required=True)
    parser.add_argument("--limit", type=float, default=900, help="seconds for each of the two")
    parser.add_argument("--keep", metavar="FOLDER", help="where all that the tools said goes")
    args = parser.parse_args()
    if not shutil.which("qemu-system-x86_64"):
        vmm_test.skip("qemu-system-x86_64 is not installed")
    disk = image.prepared()
    with tempfile.TemporaryDirectory(prefix="bedplate-hardware-") as folder:
        exchange, variables = os.path.join(folder, "exchange"), os.path.join(folder, "variables")
        shutil.copy(FLASH.format("VARS"), variables)
        ours = [args.binary, "--engine", "soft", "--firmware", args.firmware, "--memory", "512M", "--serial", "stdio", "--video",
                "vga", "--usb", "tablet", "--usb", "keyboard", "--net", "user,model=e1000e", "--disk",
                image.overlay(args.binary, disk, folder), "--disk", exchange + ",format=raw"]
        q35 = ["qemu-system-x86_64", *QEMU]
        if args.firmware == "uefi":
            ours += ["--uefi-vars", os.path.join(folder, "own-variables")]
            q35 += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={FLASH.format('CODE')}",
                    "-drive", f"if=pflash,unit=1,format=raw,file={variables}"]
        for number, (path, more) in enumerate([(disk, "snapshot=on"), (exchange, "cache=writeback")]):
            q35 += ["-drive", f"file={path},format=raw,if=none,id=d{number},{more}", "-device",
                    f"virtio-blk-pci,drive=d{number},disable-legacy=on"]
        found = {}
        for name, words in (("bedplate", ours), ("q35", q35)):
            start = time.monotonic()
            found[name] = looks(words, exchange, folder, args.limit)
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
            for file, text in found[name].items() if args.keep else ():
                os.makedirs(os.path.join(args.keep, name), exist_ok=True)
                with open(os.path.join(args.keep, name, file), "w", encoding="utf-8") as out:
                    out.write(text)

    wrong = []
    for name in COMPLAINTS:
        if name not in found["bedplate"]:
            wrong.append(f"{name}: the guest left nothing")
        mine, theirs = complaints(found["bedplate"], name), complaints(found["q35"], name)
        print(f"{name}: {len(mine)} complaints, {len(theirs)} under Q35")
        wrong += [f"{name}: {line}" for key, line in mine.items() if key not in theirs]
    print("\n".join(f"FAIL {line}" for line in wrong) or "good")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
