#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM with firmware is saved, restored without the package's files, told so, and resets itself into the same firmware."""
import argparse
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "boot")]
import boot  # noqa: E402
import disk  # noqa: E402
import firmware  # noqa: E402
import hotplug  # noqa: E402


def go(args, folder):
    image, variables, saved = (os.path.join(folder, name) for name in ("disk.img", "vars.fd", "saved"))
    disk.make(image, firmware.CONFIG.format(cmdline="console=ttyS0 quiet"),
              {name: os.path.join(args.guest, name) for name in ("vmlinuz", "initrd.cpio")})
    # A copy, so that it can be gone when the VM is restored.
    own = os.path.join(folder, "CODE.fd")
    subprocess.run(["cp", firmware.IMAGES[args.firmware], own], check=True)
    subprocess.run(["cp", "/usr/share/OVMF/OVMF_VARS_4M.fd", os.path.join(folder, "VARS.fd")], check=True)
    keeps = ["--uefi-vars", variables] if args.firmware == "uefi" else []
    base = [args.binary, "--engine", args.engine, "--disk", f"{image},format=raw", *keeps]
    vm = hotplug.Vm(base + ["--memory", f"{args.memory}M", "--cpus", str(args.cpus), "--firmware", own], folder,
                    args.limit)
    vm.wait(r"guest:~#")
    vm.shell("stty -echo; PS1=")
    before = vm.shell("grep acpi /proc/interrupts")[0]
    with open(saved, "wb") as file:
        vm.do("save", fds=[file.fileno()], fd=True, then="end")
    vm.process.wait(args.limit)
    os.unlink(own)
    vm = hotplug.Vm(base + ["--restore", saved], folder, args.limit)
    if vm.shell("grep acpi /proc/interrupts")[0] == before:
        raise hotplug.Failed("the guest did not hear of its new generation id")
    vm.process.stdin.write(b"reboot -f\n")
    vm.process.stdin.flush()
    vm.wait(r"guest:~#")
    vm.do("quit")
    vm.process.wait(args.limit)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    boot.add_arguments(parser)
    parser.add_argument("--firmware", choices=sorted(firmware.IMAGES), required=True)
    parser.add_argument("--limit", type=float, default=120)
    args = parser.parse_args()
    boot.template(args)
    lacks = disk.missing() or next((name for name in firmware.IMAGES.values() if not os.path.exists(name)), None)
    if lacks:
        boot.skip(f"{lacks} is not installed")
    try:
        with tempfile.TemporaryDirectory(prefix="bedplate-saved-") as folder:
            go(args, folder)
    except hotplug.Failed as error:
        print(f"FAIL {error}")
        sys.exit(1)
    print("good")


if __name__ == "__main__":
    main()
