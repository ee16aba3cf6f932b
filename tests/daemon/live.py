#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A running Linux gets a disk and a network card from the daemon, uses them, and gives them back."""
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
import rig  # noqa: E402
from rig import Daemon, image  # noqa: E402
from host import check, equal  # noqa: E402

LIMIT = 120


class Shell:
    """On the VM's console."""

    def __init__(self, daemon, name):
        self.socket, self.text, self.number = daemon.console(name), "", 0
        self.socket.settimeout(LIMIT)
        self.wait(r"guest:~#")
        self.run("stty -echo; PS1=")

    def wait(self, pattern):
        while not (found := re.search(pattern, self.text, re.MULTILINE)):
            more = self.socket.recv(4096).decode("latin-1")
            check(more, f"the console ended: {self.text[-500:]}")
            self.text += more
        self.text = self.text[found.end():]
        return found

    def run(self, command):
        self.number += 1
        self.socket.sendall(f"{command}; echo en''d {self.number} $?\n".encode())
        found = self.wait(rf"((?:.*\n)*?)end {self.number} (\d+)\r?$")
        return found[1].replace("\r", ""), int(found[2])

    def until(self, command):
        deadline = time.monotonic() + LIMIT
        while (result := self.run(command))[1] != 0:
            check(time.monotonic() < deadline, f"never true in the guest: {command}: {result}")
            time.sleep(0.1)


def real(d, name):
    deadline = time.monotonic() + LIMIT
    while (vm := d.vm(name))["pending"]:
        check(time.monotonic() < deadline, f"it stays asked for: {vm}")
        time.sleep(0.2)
    return vm


def live(d, folder, guest):
    root, data = os.path.join(folder, "root.img"), image(folder, "data.img", 8 << 20)
    subprocess.run([os.path.join(boot.ROOT, "tools/guest/make-disk.sh"), root], check=True)
    first = {"path": root, "format": "raw"}
    d.create("a", kernel=os.path.join(guest, "vmlinuz"), initrd=os.path.join(guest, "initrd.cpio"), memory="256M",
             cmdline="console=ttyS0 quiet", disks=[first], nets=[{"backend": "user"}])
    d.done("a", "start")
    shell = Shell(d, "a")
    nets = d.vm("a")["nets"]
    # A disk: the guest writes, the file has it.
    equal(d.ok("PATCH", "/v1/vms/a", {"disks": [first, data]})["pending"], [])
    shell.until("test -b /dev/vdb")
    equal(shell.run("echo hello-from-guest | dd of=/dev/vdb conv=sync,fsync 2>/dev/null")[1], 0)
    with open(data["path"], "rb") as file:
        check(file.read(16) == b"hello-from-guest", "what the guest wrote is not in the file")
    # Asked back, the guest lets go of it, and then it is gone for both.
    d.ok("PATCH", "/v1/vms/a", {"disks": [first]})
    real(d, "a")
    shell.until("! test -b /dev/vdb")
    # A card with a network behind it.
    vm = d.ok("PATCH", "/v1/vms/a", {"nets": [*nets, {"backend": "user"}]})
    equal(vm["pending"], [], vm)
    mac = vm["nets"][1]["mac"]
    shell.until(f"grep -l {mac} /sys/class/net/*/address")
    card = shell.run(f"basename $(dirname $(grep -l {mac} /sys/class/net/*/address))")[0].split()[-1]
    shell.run(f"ip link set {card} up; ip addr add 10.0.2.77/24 dev {card}; ip route del default")
    shell.until(f"ping -c 1 -W 5 -I {card} 10.0.2.2")
    # Less memory, as the guest sees it.
    total = int(shell.run("awk '/MemFree/ { print $2 }' /proc/meminfo")[0].split()[-1])
    d.ok("PATCH", "/v1/vms/a", {"memory": "192M"})
    shell.until(f"test $(awk '/MemFree/ {{ print $2 }}' /proc/meminfo) -lt {total - 48 * 1024}")
    shell.socket.sendall(b"poweroff -f\n")
    d.becomes("a", "stopped")
    equal(d.vm("a")["exit"]["name"], "powered-off")
    check("now" not in d.vm("a") and "pending" not in d.vm("a"), d.vm("a"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    boot.add_arguments(parser)
    parser.add_argument("--build", required=True)
    args = parser.parse_args()
    boot.template(args)
    rig.ARGS = args
    with tempfile.TemporaryDirectory(prefix="bp") as folder, Daemon(folder) as d:
        live(d, folder, args.guest)


if __name__ == "__main__":
    main()
