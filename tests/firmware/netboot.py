#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Firmware boots from the network: iPXE in the card's expansion ROM gets an address and a script by DHCP and TFTP, and
Debian's generic kernel by HTTP. Before that the VM is saved, restored, and resets itself into the ROM that it was saved with.
"""
import argparse
import functools
import http.server
import os
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "vmm")]
import firmware  # noqa: E402
import vmm_test  # noqa: E402
from vmm_test import check  # noqa: E402

ROMS = {"virtio": "/usr/lib/ipxe/qemu/efi-virtio.rom", "e1000e": "/usr/lib/ipxe/qemu/efi-e1000e.rom"}
LIMIT = 120


class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def serve(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://10.0.2.2:{server.server_port}"


def script(folder, *lines):
    with open(os.path.join(folder, "tftp", "boot.ipxe"), "w", encoding="ascii") as file:
        file.write("\n".join(("#!ipxe", *lines, "")))


def refusals(folder, words):
    """One sentence each."""
    for more, sentence in ((["--net", "user,tftp=/nonexistent"], "tftp=/nonexistent"),
                           (["--net", "user,tftp=/etc/passwd"], "it is no directory"),
                           (["--net", "tap:x,tftp=" + folder], "works with the network 'user' only"),
                           (["--net", "user,bootfile=" + "x" * 128], "longer than 127")):
        with vmm_test.Vm(*words, *more, boots=False) as vm:
            check(vm.wait() in (vmm_test.USAGE, vmm_test.FILE) and sentence in vm.said(), vm.said())


def boots(folder, args, url):
    saved, control = os.path.join(folder, "saved"), os.path.join(folder, "control")
    net = ["--net", f"user,model={args.model},tftp={os.path.join(folder, 'tftp')},bootfile=boot.ipxe"]
    script(folder, "echo NETBOOT-OK", "shell")
    fresh = ["--firmware", args.firmware, "--boot", "order=n", "--memory", "256", "--cpus", "1"]
    with vmm_test.Vm(*fresh, *net, "--control", "unix:" + control, boots=False) as vm:
        vm.expect("NETBOOT-OK", LIMIT)
        vm.expect("iPXE>", LIMIT)
        with open(saved, "wb") as file:
            vmm_test.Client(control).ok("save", fds=[file.fileno()], fd=True, then="end")
        vm.wait(LIMIT)
    with vmm_test.Vm(*net, "--restore", saved, boots=False) as vm:
        script(folder, f"kernel {url}/vmlinuz initrd=initrd.cpio console=ttyS0 quiet pc.modules=",
               f"initrd {url}/initrd.cpio", "boot")
        vm.type("reboot\r")
        vm.expect("=READY", LIMIT)
        vm.type("poweroff -f\n")
        vm.ends(0)
    refusals(folder, fresh)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=os.path.join(ROOT, "build/src/vmm/bedplate-vmm"))
    parser.add_argument("--firmware", choices=sorted(firmware.IMAGES), required=True)
    parser.add_argument("--model", choices=sorted(ROMS), required=True)
    vmm_test.ARGS = args = parser.parse_args()
    for path in (firmware.IMAGES[args.firmware], ROMS[args.model]):
        if not os.path.exists(path):
            vmm_test.skip(f"{path} is not installed")
    prepared = os.path.join(ROOT, ".cache", "pc")
    done = subprocess.run([os.path.join(ROOT, "tools", "prepare-pc.sh"), prepared], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode:
        vmm_test.skip(done.stdout.strip())
    with tempfile.TemporaryDirectory(prefix="bedplate-netboot-") as folder:
        os.chmod(folder, 0o755)  # bedplate-net reads as nobody when root starts it
        os.mkdir(os.path.join(folder, "tftp"))
        boots(folder, args, serve(prepared))
    print("ok")


if __name__ == "__main__":
    main()
