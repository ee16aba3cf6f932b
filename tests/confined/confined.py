#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots the guest where the host refuses things:  confined.py CASE --binary B --confine C

  filter   a container's seccomp filter and capabilities: no io_uring, no namespaces, no Landlock
  no_kvm   no /dev/kvm
  user     an unprivileged user without home, environment and configuration
  all      all of these at once

The checks are those of tests/boot. What the VMM says of itself has to fit what it was refused.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "boot"), os.path.join(HERE, "..", "vmm")]
import boot  # noqa: E402  (tests/boot/boot.py)
import vmm_test  # noqa: E402  (tests/vmm/vmm_test.py)

NOBODY = 65534
CASES = {"filter": ["--filter"], "no_kvm": ["--bare-dev"], "user": ["--user", str(NOBODY)],
         "all": ["--filter", "--bare-dev", "--user", str(NOBODY)]}


def status_of(socket, answer):
    try:
        answer.update(vmm_test.Client(socket).ok("status"))
    except (AssertionError, OSError) as error:
        answer["error"] = str(error)


def misfits(case, status, text):
    """Where the VMM does not say what it must, refused what this case refuses."""
    if "error" in status:
        yield f"the control socket: {status['error']}"
        return
    backend, said = status["disks"][0]["backend"], [line for line in text.splitlines() if "engine: " in line]
    if case in ("filter", "all"):
        if backend != "threads":
            yield f"the disk's back end is {backend} although io_uring is refused"
        if "seccomp" not in status["sandbox"] or "without: seccomp" in status["sandbox"]:
            yield f"it locks itself down: {status['sandbox']}"
    if case in ("no_kvm", "all") and not (len(said) == 1 and "soft" in said[0] and "/dev/kvm" in said[0]):
        yield f"one line says why the engine is soft: {said}"


def folder_for(case, args):
    """A folder that the user of this case can use, with all that a VM needs; whoever it is may not read the tree."""
    folder = tempfile.mkdtemp(prefix="bedplate-confined-")
    os.chmod(folder, 0o755)
    build = os.path.dirname(os.path.dirname(args.binary))
    for path in (args.binary, os.path.join(build, "net", "bedplate-net"), args.confine,
                 os.path.join(args.guest, "vmlinuz"), os.path.join(args.guest, "initrd.cpio")):
        shutil.copy(path, folder)
    own = os.path.join(folder, "own")
    os.mkdir(own)
    disk = os.path.join(own, "disk.img")
    subprocess.run([os.path.join(boot.ROOT, "tools/guest/make-disk.sh"), disk], check=True)
    if "--user" in CASES[case] and os.getuid() == 0:
        os.chown(own, NOBODY, NOBODY)
        os.chown(disk, NOBODY, NOBODY)
    return folder, own, disk


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--confine", required=True)
    boot.add_arguments(parser)
    parser.add_argument("--limit", type=float, default=180)
    args = parser.parse_args()
    template = boot.template(args)
    if "--user" in CASES[args.case] and os.getuid() not in (0, NOBODY):
        boot.skip("only root can become another user")
    folder, own, disk = folder_for(args.case, args)
    try:
        server, status = boot.Server(), {}
        args.binary, args.guest = os.path.join(folder, "bedplate-vmm"), folder
        cmdline = (f"console=ttyS0 bp.test=cpus,clock,disk,net bp.cpus={args.cpus} bp.date={int(time.time())}"
                   f" bp.url={server.url} bp.sha256={server.sha256}")
        socket = os.path.join(own, "control")
        asker = threading.Thread(target=status_of, args=(socket, status), daemon=True)
        asker.start()
        words = [os.path.join(folder, "confine"), *CASES[args.case], *boot.command(template, args, disk, cmdline),
                 "--control", "unix:" + socket]
        text, code = boot.run(words, args.limit, os.path.join(folder, "console.log"))
        if code == boot.SKIP:
            boot.skip(text.strip().removeprefix("skip: "))
        asker.join(10)
        wrong = list(boot.faults(text, code, ["cpus", "clock", "disk", "net"], disk, 0))
        wrong += misfits(args.case, status, text)
    finally:
        shutil.rmtree(folder)
    print(f"engine {status.get('engine')}, disk by {status.get('disks', [{}])[0].get('backend')}, "
          f"sandbox {status.get('sandbox')}")
    boot.end(wrong, text)


if __name__ == "__main__":
    main()
