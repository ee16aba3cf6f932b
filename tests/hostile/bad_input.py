#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Input that cannot work gets one sentence and the right status; a full disk costs nothing but what did not fit.

  files        kernels, initrds and disks that are not what they should be, one row each
  locks        disks that a VM, QEMU or qemu-io holds: refused both ways, the holder named
  full_report  a disk on a full file system: the guest sees I/O errors and goes on
  full_pause   the same with on-full=pause: the VM stops, goes on after room was made, and nothing is lost

What needs no real kernel is in tests/vmm/vmm_test.py. The full disk is a tmpfs in a mount namespace.
"""
import argparse
import contextlib
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "boot"), os.path.join(HERE, "..", "vmm")]
import boot  # noqa: E402  (tests/boot/boot.py)
import vmm_test  # noqa: E402  (tests/vmm/vmm_test.py)
from host import LIMIT  # noqa: E402

USAGE, FILE, NOBODY = vmm_test.USAGE, vmm_test.FILE, 65534
MIB = 1 << 20
check = vmm_test.check


def refused(sentence, *words, status=FILE, **options):
    done = subprocess.run([ARGS.binary, "--engine", "soft", "--serial", "none", *words], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=LIMIT, **options)
    what = " ".join(words)
    vmm_test.equal(done.returncode, status, f"status of {what!r}: {done.stderr}")
    check(re.search(sentence, done.stderr), f"{what!r}: no {sentence!r} in {done.stderr!r}")
    vmm_test.equal(done.stderr.count("\n"), 1, f"{what!r}: one sentence: {done.stderr!r}")


def as_nobody():
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def files(folder):
    kernel, initrd = os.path.join(ARGS.guest, "vmlinuz"), os.path.join(ARGS.guest, "initrd.cpio")
    with open(kernel, "rb") as file:
        image = file.read()

    def file(name, content=b"", size=None):
        path = os.path.join(folder, name)
        with open(path, "wb") as out:
            out.write(content)
            if size is not None:
                out.truncate(size)
        return path

    pipe = os.path.join(folder, "pipe")
    os.mkfifo(pipe)
    disk = file("disk", size=MIB)
    guest = ["--kernel", ARGS.small_guest, "--disk"]
    rows = [
        # a kernel cut off in its boot sector, its set-up part, and its payload
        ("truncated kernel", ["--kernel", file("cut1", image[:300])]),
        ("truncated kernel", ["--kernel", file("cut2", image[:16640])]),
        ("truncated kernel", ["--kernel", file("cut3", image[:-4096])]),
        ("not a kernel", ["--kernel", file("text", b"#!/bin/sh\n" * 1000)]),
        ("not a kernel", ["--kernel", initrd]),
        ("not a regular file", ["--kernel", "/dev/null"]),
        ("the kernel needs memory .* the VM has 8 MiB", ["--kernel", kernel, "--memory", "8"]),
        ("the initrd has 600 MiB, but memory has room for", ["--kernel", kernel, "--initrd", file("big", size=600 * MIB)]),
        ("is a directory", ["--kernel", kernel, "--initrd", folder]),
        ("is empty", ["--kernel", kernel, "--initrd", file("empty")]),
        ("is a pipe", [*guest, pipe]),
        ("is a character device", [*guest, "/dev/null"]),
        ("is empty; give it a size", [*guest, file("empty_disk")]),
        ("format nonsense is not supported", [*guest, disk + ",format=nonsense"]),
    ]
    for sentence, words in rows:
        refused(sentence, *words)
    refused("0 vCPUs cannot be had; a VM has 1 to 255", "--kernel", kernel, "--cpus", "0", status=USAGE)
    refused("1000 vCPUs cannot be had; a VM has 1 to 255", "--kernel", kernel, "--cpus", "1000", status=USAGE)
    refused("the host has .*, not 1 TiB; give the VM less", "--kernel", kernel, "--memory", "1024G", status=USAGE)
    if os.getuid() == 0:
        os.chmod(folder, 0o755)
        binary = shutil.copy(ARGS.binary, folder)
        small = shutil.copy(ARGS.small_guest, folder)
        os.chmod(disk, 0o444)  # readable, but not for writing
        done = subprocess.run([binary, "--engine", "soft", "--serial", "none", "--kernel", small, "--disk", disk + ",format=raw"],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, preexec_fn=as_nobody)
        vmm_test.equal(done.returncode, FILE, f"a disk that may not be written: {done.stderr}")
        check("may only be read; add readonly or" in done.stderr, done.stderr)


def start_qemu(disk, path):
    """Comes back when QEMU holds the disk: its main loop answers once everything is open. The kernel gives back the lock of a
    VM that was killed a moment later, and QEMU, unlike us, does not wait for it."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        qemu = subprocess.Popen(["qemu-system-x86_64", "-S", "-display", "none", "-nodefaults", "-qmp",
                                 f"unix:{path},server=on,wait=off", "-drive", f"file={disk},format=raw,if=virtio"],
                                stdin=subprocess.DEVNULL)
        while qemu.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as control:
                control.settimeout(LIMIT)
                control.connect(path)
                control.sendall(b'{"execute": "qmp_capabilities"}{"execute": "query-status", "id": "up"}')
                for line in control.makefile():
                    if '"up"' in line:
                        return qemu
            time.sleep(0.05)
        qemu.kill()
        qemu.wait()
        time.sleep(0.2)
    sys.exit("QEMU could not open the disk")


def locks(folder):
    disk = os.path.join(folder, "disk")
    with open(disk, "wb") as file:
        file.truncate(MIB)
    words = ["--kernel", ARGS.small_guest, "--memory", "32", "--disk", disk + ",format=raw"]
    vm = subprocess.Popen([ARGS.binary, "--engine", "soft", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL)
    try:
        vm.stdout.readline()  # the guest runs
        refused(rf"in use by process {vm.pid} \(bedplate-vmm\)", *words)
        if shutil.which("qemu-io"):
            done = subprocess.run(["qemu-io", "-f", "raw", "-c", "write 0 512", disk], capture_output=True, text=True)
            check(done.returncode != 0 and "lock" in done.stderr, f"qemu-io: {done.stdout} {done.stderr}")
    finally:
        vm.kill()
        vm.communicate()
    if not shutil.which("qemu-system-x86_64"):
        boot.skip("qemu-system-x86_64 is not installed; the rest passed")
    qemu = start_qemu(disk, os.path.join(folder, "qmp"))
    try:
        refused(rf"in use by process {qemu.pid} \(qemu-system-", *words)
    finally:
        qemu.kill()
        qemu.wait()
    # Free again; and two who only read agree.
    shared = words[:-1] + [disk + ",format=raw,readonly"]
    first = subprocess.Popen([ARGS.binary, "--engine", "soft", *shared], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL)
    try:
        first.stdout.readline()
        done = subprocess.run([ARGS.binary, "--engine", "soft", *shared], input=b"p", capture_output=True, timeout=LIMIT)
        vmm_test.equal(done.returncode, 0, f"a second reader: {done.stderr}")
    finally:
        first.kill()
        first.communicate()


@contextlib.contextmanager
def writing_guest(folder, policy):
    """A Linux with a disk of 32 MiB on a file system with room for 12 of them, 6 of which are taken."""
    import pexpect
    small = os.path.join(folder, "small")
    os.mkdir(small)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12M", "small", small], check=True)
    with open(os.path.join(small, "filler"), "wb") as file:
        file.write(bytes(6 * MIB))
    disks = [os.path.join(folder, "disk.img"), os.path.join(small, "second.img")]
    subprocess.run([os.path.join(boot.ROOT, "tools/guest/make-disk.sh"), disks[0]], check=True)
    with open(disks[1], "wb") as file:
        file.truncate(32 * MIB)
    vm = pexpect.spawn(ARGS.binary, ["--engine", "soft", "--memory", "512", "--kernel", os.path.join(ARGS.guest, "vmlinuz"),
                                     "--initrd", os.path.join(ARGS.guest, "initrd.cpio"), "--cmdline", "console=ttyS0 quiet",
                                     "--disk", disks[0] + ",format=raw", "--disk", disks[1] + ",format=raw" + policy,
                                     "--control", "unix:" + os.path.join(folder, "control")],
                       encoding="latin-1", timeout=120)
    try:
        vm.expect_exact("guest:~# ")
        yield vm, disks
    finally:
        print("".join(vm.before[-300:] if isinstance(vm.before, str) else ""))
        vm.close(force=True)
        subprocess.run(["umount", "-l", small], check=True)


def command(vm, text):
    """Types a command; its output."""
    vm.sendline(text)
    vm.expect_exact("\n")
    vm.expect_exact("guest:~# ")
    return vm.before


def end(vm, disks, log):
    """The first disk took part in none of it."""
    import pexpect
    said = command(vm, "cp /tmp/f /mnt/written && sync && sha256sum /mnt/written")
    vm.sendline("poweroff")
    vm.expect(pexpect.EOF)
    vm.close()
    vmm_test.equal(vm.exitstatus, 0, "status")
    wrong = list(boot.disk_faults(disks[0], re.search(r"[0-9a-f]{64}", said)[0]))
    check(not wrong, f"the first disk: {wrong}")


def full_report(folder):
    with writing_guest(folder, "") as (vm, disks):
        command(vm, "dd if=/dev/urandom of=/tmp/f bs=1M count=3; sync")
        said = command(vm, "dd if=/tmp/f of=/dev/vdb conv=fsync 2>&1; echo rc=$?")
        check("rc=0" in said, f"what fits is written: {said}")
        said = command(vm, "dd if=/dev/zero bs=1M count=9 | tr '\\0' x | dd of=/dev/vdb bs=1M seek=8 conv=fsync 2>&1; echo rc=$?")
        check("rc=1" in said and "rror" in said, f"what does not fit is an error: {said}")
        said = command(vm, "echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vdb bs=1M count=3 2>/dev/null | cmp - /tmp/f; echo rc=$?")
        check("rc=0" in said, f"what was written stays: {said}")
        os.remove(os.path.join(folder, "small", "filler"))
        said = command(vm, "dd if=/tmp/f of=/dev/vdb bs=1M seek=8 conv=fsync 2>&1; echo rc=$?")
        check("rc=0" in said, f"with room it works again: {said}")
        end(vm, disks, folder)


def full_pause(folder):
    with writing_guest(folder, ",on-full=pause") as (vm, disks):
        client = vmm_test.Client(os.path.join(folder, "control"))
        client.ok("events", after=0)
        command(vm, "dd if=/dev/urandom of=/tmp/f bs=1M count=10")
        said = command(vm, "sha256sum /tmp/f")
        wanted = re.search(r"[0-9a-f]{64}", said)[0]
        vm.sendline("dd if=/tmp/f of=/dev/vdb bs=1M conv=fsync 2>&1; echo rc=$?")
        event = client.event("disk-full")
        vmm_test.equal(event["device"], "disk1", "the event names the disk")
        status = client.ok("status")
        vmm_test.equal((status["state"], status["paused-by"]), ("paused", "disk-full"), "the VM's state")
        client.ok("resume")  # without room it stops again
        client.event("disk-full")
        os.remove(os.path.join(folder, "small", "filler"))
        client.ok("resume")
        vm.expect(r"rc=(\d+)")
        vmm_test.equal(vm.match[1], "0", "the guest saw no error")
        vm.expect_exact("guest:~# ")
        with open(disks[1], "rb") as file:
            vmm_test.equal(hashlib.sha256(file.read(10 * MIB)).hexdigest(), wanted, "all of it is in the image")
        end(vm, disks, folder)


CASES = {case.__name__: case for case in (files, locks, full_report, full_pause)}


def main():
    global ARGS
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--small-guest", required=True)
    boot.add_arguments(parser)
    ARGS = parser.parse_args()
    boot.template(ARGS)
    if ARGS.case.startswith("full") and "BEDPLATE_OWN_MOUNTS" not in os.environ:
        flags = "-m" if os.getuid() == 0 else "-rm"
        if subprocess.run(["unshare", flags, "true"], stderr=subprocess.DEVNULL).returncode:
            boot.skip("a mount namespace for a small file system is refused")
        os.environ["BEDPLATE_OWN_MOUNTS"] = "1"
        os.execvp("unshare", ["unshare", flags, sys.executable, *sys.argv])
    with tempfile.TemporaryDirectory(prefix="bad-") as folder:
        CASES[ARGS.case](folder)
    print("good")


if __name__ == "__main__":
    main()
