#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's generic kernel uses all of a PC's emulated devices in one boot: a SATA and an IDE disk, a floppy disk,
a CD-ROM drive whose medium changes, PS/2 and USB keyboards, a USB tablet, and an e1000e card; sleeps (suspend-to-idle) until
the clock's alarm wakes it; and goes on after a save and restore in the middle of reads. The guest's shell hangs on the serial port and
does what this script types.
"""
import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(HERE, "..", "vmm"))
sys.path.insert(0, os.path.join(HERE, "..", "boot"))
import boot  # noqa: E402  (tests/boot/boot.py)
import vmm_test  # noqa: E402  (tests/vmm/vmm_test.py)
from host import check, until  # noqa: E402
from vmm_test import equal  # noqa: E402

MODULES = "ahci,ata_piix,sd_mod,sr_mod,xhci-pci,usbhid,hid-generic,e1000e,psmouse,evdev,floppy"
LIMIT = 180


class Guest:
    """A VM and the shell in it."""

    def __init__(self, folder, *words):
        self.control = os.path.join(folder, f"control{random.randrange(1 << 30)}")
        self.vm = vmm_test.Vm("--memory", "256", "--control", "unix:" + self.control, *words, boots=False)
        self.client = vmm_test.Client(self.control)

    def start(self, line):
        self.vm.type(line + "\n")

    def result(self, what):
        text = self.vm.expect("=END ", LIMIT)
        status = self.vm.expect("\n", LIMIT).strip()
        check(status == "0", f"{what}: status {status}: {text}")
        return text.strip()

    def do(self, line):
        self.start(line)
        return self.result(line)


def image(folder, name, size, seed):
    path, data = os.path.join(folder, name), random.Random(seed).randbytes(size)
    with open(path, "wb") as file:
        file.write(data)
    return path, hashlib.sha256(data).hexdigest()


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def name_of(guest, path):
    """sda or sdb: the kernel counts them as it finds them, and it looks at both chips at once."""
    found = guest.do(f"until grep -l '^{os.path.getsize(path) // 512}$' /sys/block/sd?/size 2>/dev/null; do sleep 0.1; done")
    return found.split("/")[3]


def disks(guest, names, *images):
    for device, (path, digest) in zip(names, images):
        equal(guest.do(f"sha256sum </dev/{device} | cut -c1-64"), digest, device)
        guest.do(f"dd if=/dev/urandom of=/tmp/x bs=1M count=3 2>/dev/null; dd if=/tmp/x of=/dev/{device} bs=1M seek=1"
                 " conv=fsync 2>/dev/null")
        want = guest.do("sha256sum </tmp/x | cut -c1-64")
        with open(path, "rb") as file:
            equal(hashlib.sha256(file.read()[1 << 20:4 << 20]).hexdigest(), want, f"what was written to {device}")
    queued = guest.do(f"cat /sys/block/{names[0]}/device/queue_depth")
    check(int(queued) > 1, f"the SATA disk queues no commands: {queued}")


def floppy(guest, image_and_digest):
    path, digest = image_and_digest
    equal(guest.do("sha256sum </dev/fd0 | cut -c1-64"), digest, "the floppy disk")
    guest.do("dd if=/dev/urandom of=/tmp/x bs=1k count=30 2>/dev/null; dd if=/tmp/x of=/dev/fd0 bs=1k seek=100 conv=fsync "
             "2>/dev/null")
    want = guest.do("sha256sum </tmp/x | cut -c1-64")
    with open(path, "rb") as file:
        equal(hashlib.sha256(file.read()[100 << 10:130 << 10]).hexdigest(), want, "what was written to the floppy disk")
    guest.client.ok("medium-eject", drive="floppy0")
    with open(path, "r+b") as file:
        guest.client.ok("medium-insert", [file.fileno()], drive="floppy0", format="raw")


def cdrom(guest, first, second):
    equal(guest.do("sha256sum </dev/sr0 | cut -c1-64"), first[1], "the CD")
    guest.do("exec 4</dev/sr0")  # opening it locks the door
    text = guest.client.refused("medium-eject", "EBUSY", drive="cdrom0")
    check("force" in text, text)
    guest.do("exec 4<&-")
    # Until the driver has unlocked it.
    until("the drive stays locked", lambda: "error" not in guest.client.ask("medium-eject", drive="cdrom0"))
    guest.start("dd if=/dev/sr0 of=/dev/null count=1 2>/dev/null")
    check("=END 0" not in guest.vm.expect("=END", LIMIT), "an empty drive can be read")
    guest.vm.expect("\n")
    guest.client.refused("medium-insert", "EBADF", drive="cdrom0")
    guest.client.refused("medium-eject", "ENOMEDIUM", drive="cdrom0")
    guest.client.refused("medium-eject", "ENOENT", drive="cdrom7")
    guest.client.refused("medium-eject", "EINVAL", drive="disk0")
    with open(second[0], "rb") as file:
        guest.client.ok("medium-insert", [file.fileno()], drive="cdrom0", name="second.iso")
    drives = {drive["drive"]: drive for drive in guest.client.ok("status")["disks"]}
    equal(drives["cdrom0"]["path"], "second.iso", "the drive's path")
    equal(guest.do("sha256sum </dev/sr0 | cut -c1-64"), second[1], "the second CD")


def network(guest, server):
    guest.do("ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2; "
             "for i in $(seq 600); do [ $(cat /sys/class/net/eth0/carrier) = 1 ] && break; sleep 0.1; done")
    equal(guest.do(f"wget -q -O - {server.url} | sha256sum | cut -c1-64"), server.sha256, "what e1000e fetched")


def sleep(guest):
    """Suspended to idle until the clock's alarm. With wakeup_count, an alarm that comes before the guest sleeps is an error and not a
    sleep without end: a slow machine gets more time."""
    guest.do("cd /sys/class/rtc/rtc0; for seconds in 2 4 8 16 32 64; do echo 0 >wakealarm; read -r count </sys/power/wakeup_count; "
             "echo +$seconds >wakealarm; (echo $count >/sys/power/wakeup_count && echo freeze >/sys/power/state) 2>/dev/null && break; "
             "done; cd /")
    equal(guest.do("cat /sys/power/suspend_stats/success"), "1", "how often it slept")
    woken = guest.do("cat /sys/firmware/acpi/interrupts/ff_rt_clk").split()[0]
    check(int(woken) > 0, "something else than the alarm woke it")


def events(guest, name, send, want):
    """What the named input device tells while `send` runs: lines of hex, of which `want` must be one."""
    node = guest.do(f"grep -A4 'Name=\"{name}\"' /proc/bus/input/devices | sed -n 's/.*\\(event[0-9]*\\).*/\\1/p'")
    check(node, f"no input device {name}")
    guest.do(f"cat /dev/input/{node} >/tmp/events & echo $! >/tmp/listener; until ls -l /proc/$!/fd | grep -q input; do sleep 0.1; done")
    send()
    until(f"{name} does not tell {want}",
          lambda: want in guest.do("hexdump -v -e '24/1 \"%02x\" \"\\n\"' /tmp/events | cut -c33-"), LIMIT)
    guest.do("kill $(cat /tmp/listener)")


def input_devices(guest):
    key = "0100" + "1e00" + "01000000"  # EV_KEY, KEY_A, down
    events(guest, "Bedplate Keyboard", lambda: guest.client.ok("send-keys", keys=["a"]), key)
    events(guest, "Bedplate Tablet", lambda: guest.client.ok("send-pointer", x=10, y=20, buttons=1),
           "0100" + "1001" + "01000000")  # BTN_LEFT
    devices = {device["device"]: device["port"] for device in guest.client.ok("status")["usb"]}
    guest.client.ok("usb-detach", port=devices["keyboard"])
    guest.do("for i in $(seq 600); do grep -q 'Bedplate Keyboard' /proc/bus/input/devices || break; sleep 0.1; done")
    events(guest, "AT Translated Set 2 keyboard", lambda: guest.client.ok("send-keys", keys=["a"]), key)
    guest.client.ok("usb-attach", device="keyboard")
    guest.do("for i in $(seq 600); do grep -q 'Bedplate Keyboard' /proc/bus/input/devices && exit_ok=1 && break; "
             "sleep 0.1; done; [ $exit_ok = 1 ]")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", default=os.path.join(ROOT, "build/src/vmm/bedplate-vmm"))
    parser.add_argument("--engine", default="soft")
    args = parser.parse_args()
    args.guest = None
    vmm_test.ARGS = args
    prepared = os.path.join(ROOT, ".cache", "pc")
    done = subprocess.run([os.path.join(ROOT, "tools", "prepare-pc.sh"), prepared], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode:
        vmm_test.skip(done.stdout.strip())
    server = boot.Server()
    with tempfile.TemporaryDirectory() as folder:
        sata, ide = image(folder, "sata", 16 << 20, 1), image(folder, "ide", 8 << 20, 2)
        first, second = image(folder, "first", 2 << 20, 3), image(folder, "second", 3 << 20, 4)
        disk = image(folder, "floppy", 1474560, 5)
        saved = os.path.join(folder, "state")

        def words(cd):
            return ["--disk", sata[0] + ",format=raw,bus=sata", "--disk", ide[0] + ",format=raw,bus=ide", "--cdrom", cd,
                    "--disk", disk[0] + ",format=raw,bus=floppy",
                    "--net", "user,model=e1000e", "--usb", "tablet", "--usb", "keyboard", "--video", "vga", "--save", saved]

        guest = Guest(folder, *words(first[0]), "--kernel", os.path.join(prepared, "vmlinuz"), "--initrd",
                      os.path.join(prepared, "initrd.cpio"), "--cmdline", f"console=ttyS0 quiet pc.modules={MODULES}")
        with guest.vm:
            guest.vm.expect("=READY", LIMIT)
            names = [name_of(guest, path) for path, _ in (sata, ide)]
            disks(guest, names, sata, ide)
            floppy(guest, disk)
            cdrom(guest, first, second)
            network(guest, server)
            sleep(guest)
            input_devices(guest)
            digests = [sha256(path) for path in (sata[0], ide[0], second[0])]
            guest.start(f"echo 3 >/proc/sys/vm/drop_caches; for d in {' '.join(names)} sr0; do sha256sum </dev/$d >/tmp/$d & "
                        f"done; wait; cat /tmp/{names[0]} /tmp/{names[1]} /tmp/sr0 | cut -c1-64")
            time.sleep(random.uniform(0, 0.2))
            guest.client.send({"id": "s", "do": "save"})
            guest.vm.ends(8)
        # The keyboard that is plugged in comes out of the state; the second CD has a path now.
        with (guest := Guest(folder, *words(second[0]), "--restore", saved)).vm:
            equal(guest.result("reading across a restore").split(), digests, "disks and CD across a restore")
            equal(guest.do(f"wget -q -O - {server.url} | sha256sum | cut -c1-64"), server.sha256, "e1000e, restored")
            events(guest, "Bedplate Keyboard", lambda: guest.client.ok("send-keys", keys=["b"]), "0100" + "3000" + "01000000")
            guest.start("poweroff -f")
            guest.vm.ends(0)
    print("ok")


if __name__ == "__main__":
    main()
