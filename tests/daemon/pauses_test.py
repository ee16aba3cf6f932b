#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs that pause by themselves stay paused and say why, also when no daemon was there; a debugger's come and go."""
import argparse
import os
import socket
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "vmm")]
import rig  # noqa: E402
from rig import Daemon  # noqa: E402
from host import equal, until  # noqa: E402
from vmm_test import Client  # noqa: E402

SOON = 0.5  # in which a daemon that wanted to would have resumed a VM


def shown(d):
    vm = d.vm("a")
    return vm["state"], vm["wanted"], vm.get("paused_by")


def becomes(d, *want):
    """And stays so. A daemon that has just started may show what the former knew, so that it becomes something else in between."""
    def stays():
        end = time.monotonic() + SOON
        while shown(d) == want:
            if time.monotonic() > end:
                return True
            time.sleep(0.01)
        return False

    until(lambda: f"it is {shown(d)}, not {want}", stays)


def start_watchdog(d, nth):
    """The guest takes letters one after the other, and counts one of them aloud."""
    d.guest("a", b"wi", rf"(?m)^({nth:08x})$".encode())


def watchdog(d):
    start_watchdog(d, 1)
    becomes(d, "paused", "paused", "watchdog")
    equal(d.call("POST", "/v1/vms/a/resume")[0], 204)
    becomes(d, "running", "running", None)
    # It fires while no daemon is there.
    start_watchdog(d, 2)
    control = os.path.join(os.path.dirname(d.vm("a")["console"]), "control.sock")
    d.kill()
    client = Client(control)
    until("the watchdog does not fire", lambda: client.ok("status")["state"] == "paused")
    d.start()
    becomes(d, "paused", "paused", "watchdog")
    # To start it is to resume it.
    d.done("a", "start")
    becomes(d, "running", "running", None)
    # What a client asked for is no reason to stay so: here the daemon was killed before it had kept the wish.
    d.kill()
    client.ok("pause")
    d.start()
    becomes(d, "running", "running", None)
    equal(d.call("POST", "/v1/vms/a/pause")[0], 204)
    becomes(d, "paused", "paused", "user")
    equal(d.call("POST", "/v1/vms/a/resume")[0], 204)


def debugger(d):
    with socket.socket(socket.AF_UNIX) as gdb:
        gdb.connect(os.path.join(os.path.dirname(d.vm("a")["console"]), "gdb.sock"))
        becomes(d, "paused", "running", "debugger")
        d.kill()
        d.start()
        becomes(d, "paused", "running", "debugger")
        gdb.sendall(b"$c#63")
        becomes(d, "running", "running", None)
    becomes(d, "running", "running", None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--guest", required=True)
    args = parser.parse_args()
    args.guest = os.path.abspath(args.guest)
    rig.ARGS = args
    with tempfile.TemporaryDirectory(prefix="bp") as folder, Daemon(folder) as d:
        d.create("a", watchdog="pause", gdb=True)
        d.done("a", "start")
        watchdog(d)
        debugger(d)
    print("good")


if __name__ == "__main__":
    main()
