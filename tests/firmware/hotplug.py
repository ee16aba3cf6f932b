#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks and network cards that come and go in a running Linux, with saves and restores in between.

The prepared guest is started with a shell on its serial port. A disk is plugged in, written by the
guest, and asked back; a network card likewise; then the same while the VM is saved to a file and
restored at random moments of it.
"""
import argparse
import json
import os
import random
import re
import select
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(HERE), "boot")]
import boot  # noqa: E402

MIB = 1 << 20
SAVED = 8


class Failed(Exception):
    pass


class Vm:
    """One process: its serial port and its control socket."""

    def __init__(self, words, folder, limit):
        self.control_path, self.limit = os.path.join(folder, "control"), limit
        if os.path.exists(self.control_path):
            os.unlink(self.control_path)
        self.process = subprocess.Popen(words + ["--control", "unix:" + self.control_path, "--serial", "stdio"],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.text, self.seen, self.number = "", 0, 0
        end = time.monotonic() + limit
        self.socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.socket.connect(self.control_path)
                break
            except (FileNotFoundError, ConnectionRefusedError):  # not made, or bound and not listened to yet
                if time.monotonic() > end or self.process.poll() is not None:
                    raise Failed(f"no control socket: {self.process.stdout.read()}")
                time.sleep(0.02)
        self.socket.settimeout(limit)
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.socket.sendall(b'{"hello": {"protocol": 1}}\n')
        self.lines.readline()
        self.events = []
        self.do("events", after=0)

    def do(self, command, fds=(), **members):
        self.number += 1
        line = json.dumps({"id": self.number, "do": command, **members}).encode() + b"\n"
        socket.send_fds(self.socket, [line], list(fds))
        while True:
            answer = json.loads(self.lines.readline() or "null")
            if answer is None:
                raise Failed(f"{command}: the VM is gone")
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise Failed(f"{command}: {answer['error']['text']}")
                return answer.get("ok")
            self.events.append(answer)

    def has_told(self, what, **members):
        """The event, if it came before the last answer; else None."""
        return next((event for event in self.events
                     if event.get("what") == what and all(event.get(k) == v for k, v in members.items())), None)

    def event(self, what, limit=None, **members):
        """Waits for it."""
        end = time.monotonic() + (limit or self.limit)
        while time.monotonic() < end:
            if event := self.has_told(what, **members):
                self.events.remove(event)
                return
            self.read()
            if select.select([self.socket], [], [], 0.1)[0]:
                line = self.lines.readline()
                if not line:
                    break
                self.events.append(json.loads(line))
        raise Failed(f"no event {what} {members}")

    def read(self):
        self.text += (self.process.stdout.read() or b"").decode("latin-1")

    def wait(self, pattern):
        """Waits for a line of the console behind what was waited for before."""
        end = time.monotonic() + self.limit
        while time.monotonic() < end:
            self.read()
            found = re.search(pattern, self.text[self.seen:], re.MULTILINE)
            if found:
                self.seen += found.end()
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise Failed(f"the console never said {pattern}")

    def shell(self, command):
        """Runs it in the guest; its output."""
        self.process.stdin.write(f"{command}; echo en''d $?\n".encode())
        self.process.stdin.flush()
        found = self.wait(r"^((?:.*\n)*?)end (\d+)\r?$")
        return found[1], int(found[2])

    def shell_until(self, command):
        end = time.monotonic() + self.limit
        while self.shell(command)[1] != 0:
            if time.monotonic() > end:
                raise Failed(f"never true in the guest: {command}")
            time.sleep(0.1)


def save_and_restore(vm, args, folder, disks):
    """A new process goes on, with the disks that `disks` tells of once the old one has been saved."""
    saved = os.path.join(folder, "saved")
    with open(saved, "wb") as file:
        vm.do("save", fds=[file.fileno()], fd=True, then="end")
    vm.process.wait(args.limit)
    vm.read()
    words = base(args, folder) + ["--restore", saved]
    again = Vm(words + [w for d in disks() for w in ("--disk", f"{d},format=raw")], folder, args.limit)
    again.text, again.seen = vm.text[vm.seen:], 0
    return again


def base(args, folder):
    """The VM has a disk and a card from the start, for which its drivers are loaded."""
    return [args.binary, "--engine", args.engine, "--net", "user", "--disk", os.path.join(folder, "root.img") + ",format=raw"]


def start(args, folder):
    subprocess.run([os.path.join(boot.ROOT, "tools/guest/make-disk.sh"), os.path.join(folder, "root.img")], check=True)
    words = base(args, folder) + ["--memory", f"{args.memory}M", "--cpus", str(args.cpus), "--kernel",
                          os.path.join(args.guest, "vmlinuz"), "--initrd", os.path.join(args.guest, "initrd.cpio"),
                          "--cmdline", "console=ttyS0 quiet"]
    vm = Vm(words, folder, args.limit)
    vm.wait(r"guest:~#")
    vm.shell("stty -echo; PS1=")
    return vm


def disk_comes_and_goes(vm, disk, name):
    with open(disk, "r+b") as file:
        vm.do("device-add", fds=[file.fileno()], kind="disk", device=name, name=disk, format="raw")
    vm.shell_until("test -b /dev/vdb")
    output, status = vm.shell("cat /sys/block/vdb/size && echo hello-from-guest | dd of=/dev/vdb bs=512 seek=7 "
                              "conv=sync,fsync 2>/dev/null")
    if status != 0 or str(8 * MIB // 512) not in output:
        raise Failed(f"the plugged disk does not work: {output}")
    with open(disk, "rb") as file:
        file.seek(7 * 512)
        if not file.read(16).startswith(b"hello-from-guest"):
            raise Failed("what the guest wrote is not in the file")


def asked(vm, name):
    """A guest that is still taking it in does not listen: then it is asked again."""
    for _ in range(20):
        try:
            vm.event("device-removed", limit=8, device=name)
            return
        except Failed:
            vm.do("device-remove", device=name)
    raise Failed(f"{name} was never removed")


def leaves(vm, name):
    vm.do("device-remove", device=name)
    asked(vm, name)
    vm.shell_until("! test -b /dev/vdb")


def refusals(vm, disk):
    for members, words in (({"kind": "disk", "device": "Bad!"}, "is no id"),
                           ({"kind": "disk", "device": "rng0"}, "already"),
                           ({"kind": "floppy", "device": "x"}, "'kind'")):
        with open(disk, "r+b") as file:
            try:
                vm.do("device-add", fds=[file.fileno()], **members)
            except Failed as error:
                if words in str(error):
                    continue
                raise
        raise Failed(f"device-add took {members}")
    try:
        vm.do("device-remove", device="rng0")
    except Failed as error:
        if "only what device-add brought" in str(error):
            return
    raise Failed("device-remove took the VM's own device")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    boot.add_arguments(parser)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--rounds", type=int, default=1, help="with a save and a restore in each")
    parser.add_argument("--limit", type=float, default=60)
    args = parser.parse_args()
    boot.template(args)
    print(f"seed {args.seed}")
    dice = random.Random(args.seed)
    vm = None
    try:
        with tempfile.TemporaryDirectory(prefix="bedplate-hotplug-") as folder:
            disk = os.path.join(folder, "disk.img")
            with open(disk, "wb") as file:
                file.truncate(8 * MIB)
            vm = start(args, folder)
            refusals(vm, disk)
            disk_comes_and_goes(vm, disk, "data1")
            leaves(vm, "data1")
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            vm.do("device-add", fds=[theirs.fileno()], kind="net", device="wire", mac="52:54:00:01:02:03")
            vm.shell_until("grep -q 52:54:00:01:02:03 /sys/class/net/*/address")
            # By force; this kernel's virtio waits for ever for an answer of a card that vanishes under its driver.
            vm.shell("echo 0000:01:00.0 > /sys/bus/pci/drivers/virtio-pci/unbind")
            vm.do("device-remove", device="wire", force=True)
            vm.event("device-removed", device="wire")
            vm.shell_until("! test -e /sys/bus/pci/devices/0000:01:00.0 && grep -q 0 /sys/bus/pci/slots/1/power")
            ours.close(), theirs.close()
            for _ in range(args.rounds):
                with open(disk, "r+b") as file:
                    vm.do("device-add", fds=[file.fileno()], kind="disk", device="data2", name=disk, format="raw")
                time.sleep(dice.random() * 0.5)
                vm = save_and_restore(vm, args, folder, lambda: [disk])
                vm.shell_until("test -b /dev/vdb")
                vm.do("device-remove", device="data2")
                time.sleep(dice.random() * 6)
                was = vm
                vm = save_and_restore(was, args, folder, lambda: [] if was.has_told("device-removed", device="data2") else [disk])
                if not was.has_told("device-removed", device="data2"):
                    asked(vm, "data2")
                vm.shell_until("! test -b /dev/vdb")
            vm.do("quit")
            vm.process.wait(args.limit)
    except Failed as error:
        vm.read()
        if vm.process.poll() is None:
            print(json.dumps(vm.do("inspect", device="port1"))[:400])
        print("the last lines of the console:\n" + "\n".join(vm.text.splitlines()[-25:]))
        print(f"FAIL {error}")
        vm.process.kill()
        sys.exit(1)
    print("good")


if __name__ == "__main__":
    main()
