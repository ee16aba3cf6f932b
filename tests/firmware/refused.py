#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a PC with firmware is refused for, in one sentence that says what to do:  refused.py --binary B"""
import argparse
import os
import socket
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "vmm"))
import vmm_test  # noqa: E402
from host import check, until  # noqa: E402

UEFI = "/usr/share/OVMF/OVMF_CODE_4M.fd"


def sentence(want, *words):
    command = [vmm_test.ARGS.binary, "--engine", "soft", "--serial", "none", *words]
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    check(run.returncode in (vmm_test.USAGE, vmm_test.FILE), f"{words}: status {run.returncode}: {run.stderr}")
    check(len(run.stderr.splitlines()) == 1 and want in run.stderr, f"{words}: not one line with {want!r}: {run.stderr!r}")


def make(path, size):
    with open(path, "wb") as file:
        file.write(b"x" * size)
    return path


def firmware(folder):
    sentence("cannot open " + folder + "/none: No such file", "--firmware", folder + "/none")
    sentence("is not a regular file", "--firmware", folder)
    for size in (1000, 1 << 20):
        sentence("is no firmware image", "--firmware", make(folder + "/odd", size))
    sentence("the firmware is a BIOS and keeps no variables", "--firmware", "bios", "--uefi-vars", folder + "/variables")


def variables(folder):
    path = folder + "/variables"
    sentence("bytes, the variables of this firmware", "--firmware", "uefi", "--uefi-vars", make(folder + "/long", 600000))
    sentence("bytes, the variables of this firmware", "--firmware", "uefi", "--uefi-vars", make(folder + "/short", 4096))
    sentence("cannot create", "--firmware", "uefi", "--uefi-vars", folder + "/none/variables")
    with vmm_test.Vm("--firmware", "uefi", "--uefi-vars", path, "--memory", "128M", boots=False, serial="none"):
        until("the file of variables was not made", lambda: os.path.exists(path) and os.path.getsize(path))
        sentence("in use by another VM", "--firmware", "uefi", "--uefi-vars", path)


def media(folder):
    empty = folder + "/empty.iso"
    with open(empty, "wb"):
        pass
    sentence("no such file; name an image that is there", "--cdrom", folder + "/none.iso")
    sentence("is a directory", "--cdrom", folder)
    sentence("is empty; name an image with something in it", "--cdrom", empty)


def ports(_):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        sentence(f"port {port} of 127.0.0.1 is taken; name another", "--firmware", "bios", "--display", f"vnc=127.0.0.1:{port}")
        sentence(f"127.0.0.1:{port}: it is taken; name another", "--firmware", "bios", "--net",
                 f"user,hostfwd=tcp:127.0.0.1:{port}-:22")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True)
    vmm_test.ARGS = parser.parse_args()
    if not os.path.exists(UEFI):
        vmm_test.skip("the package ovmf is not installed")
    for part in (firmware, variables, media, ports):
        with tempfile.TemporaryDirectory(prefix="bedplate-refused-") as folder:
            part(folder)


if __name__ == "__main__":
    main()
