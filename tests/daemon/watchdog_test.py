#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux in a VM of the daemon stops feeding its watchdog: each of the actions, as the API tells it."""
import argparse
import os
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "boot")]
import boot  # noqa: E402
import rig  # noqa: E402
from rig import Daemon  # noqa: E402
from host import check, equal  # noqa: E402
from live import Shell  # noqa: E402

LIMIT = 120
# The i6300ESB without a driver (the kernel has none): both stages a second, then enabled. RELOAD takes its key before each register.
ARM = ("D=$(dirname $(grep -l 0x25ab /sys/bus/pci/devices/*/device)); echo 1 >$D/enable; A=$(head -n 1 $D/resource | cut -d ' ' -f 1); "
       "for R in 0 4; do devmem $((A + 12)) 16 0x80; devmem $((A + 12)) 16 0x86; devmem $((A + R)) 32 1024; done; "
       "printf '\\2' | dd of=$D/config bs=1 seek=104 conv=notrunc 2>/dev/null")


def fires(d, guest, action):
    d.create(action, kernel=os.path.join(guest, "vmlinuz"), initrd=os.path.join(guest, "initrd.cpio"), memory="256M",
             cmdline="console=ttyS0 quiet", watchdog=action)
    d.done(action, "start")
    shell = Shell(d, action)
    shell.socket.sendall(f"{ARM}; echo arm''ed\n".encode())
    shell.wait("armed")
    return shell


def event(d, name, kind):
    deadline = time.monotonic() + LIMIT
    which = "vms/" + d.vm(name)["id"]
    while not d.ok("GET", f"/v1/events?kind={kind}&object={which}")["items"]:
        check(time.monotonic() < deadline, f"{name} tells no {kind}")
        time.sleep(0.2)


def watchdog(d, guest):
    shell = fires(d, guest, "reset")
    event(d, "reset", "vm.watchdog")
    shell.wait(r"guest:~#")  # it boots again, in the same process
    equal(d.vm("reset")["state"], "running")
    d.done("reset", "kill")

    fires(d, guest, "pause")
    event(d, "pause", "vm.watchdog")
    d.becomes("pause", "paused")
    d.done("pause", "kill")

    fires(d, guest, "exit")
    d.becomes("exit", "failed")
    equal(d.vm("exit")["exit"]["name"], "watchdog")

    shell = fires(d, guest, "none")
    event(d, "none", "vm.watchdog")
    equal((shell.run("true")[1], d.vm("none")["state"]), (0, "running"))
    d.done("none", "kill")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    boot.add_arguments(parser)
    parser.add_argument("--build", required=True)
    args = parser.parse_args()
    boot.template(args)
    rig.ARGS = args
    with tempfile.TemporaryDirectory(prefix="bp") as folder, Daemon(folder) as d:
        watchdog(d, args.guest)


if __name__ == "__main__":
    main()
