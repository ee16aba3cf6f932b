#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A stock guest whose disk is changed under it: snapshot, stream, commit, mirror, backup, resize, throttle.

While each operation runs, the guest writes files, syncs them and says their checksums; afterwards
it reads all of them back. qemu-img compares copies with what they must be and checks every image.
With --kill the VMM is killed with signal 9 in the middle of each job; the chain that the disk's
files record must be sound and hold every file that the guest had synced.
"""
import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "boot"), os.path.join(HERE, "..", "vmm")]
import boot  # noqa: E402  (tests/boot/boot.py)
import guest_disks  # noqa: E402
import vmm_test  # noqa: E402  (tests/vmm/vmm_test.py)

MIB = 1 << 20
SIZE = 256 * MIB
check, equal = vmm_test.check, vmm_test.equal

# The load keeps the checksums of what is synced; `verify` reads everything again.
SCRIPT = r"""
load() {
    n=0; while [ ! -e /tmp/stop ]; do
        n=$((n + 1)); f=/disks/d/load$((n % 12))
        rm -f $f
        dd if=/dev/urandom of=/tmp/part bs=64K count=6 2>/dev/null
        cp /tmp/part $f || fail load; sync
        s=$(sha256sum </tmp/part); echo "SYNCED d $((n % 12)) ${s%% *}"
    done
}
verify() {
    sync; echo 3 >/proc/sys/vm/drop_caches
    cmp /tmp/noise /disks/d/noise || fail compare
}
"""


class Disk(guest_disks.Disk):
    def __init__(self, args, folder, name="qcow2"):
        self.img, self.name, self.format, self.folder = args.img, "d", name, folder
        self.path = os.path.join(folder, "disk." + name)
        self.server = None
        self.part = f"{self.path},format={name},serial=d"
        self.run("create", "-q", "-f", name, self.path, str(SIZE))

    def qemu(self, *words, status=(0,)):
        done = subprocess.run(["qemu-img", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=120, check=False)
        check(done.returncode in status, f"qemu-img {words}: status {done.returncode}: {done.stdout}")
        return done.stdout

    def sound(self, *paths):
        for path in paths:
            if path.endswith("qcow2"):
                self.qemu("check", path, status=(0, 3))


class Jobs:
    """The control socket, and the operations with their files."""

    def __init__(self, folder):
        self.folder = folder
        self.client = vmm_test.Client(os.path.join(folder, "control"))

    def path(self, name):
        return os.path.join(self.folder, name)

    def file(self, name, size=0):
        fd = os.open(self.path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if size:
            os.ftruncate(fd, size)
        return fd

    def top(self):
        return self.client.ok("status")["disks"][0]["path"]

    def start(self, what, fds=(), **members):
        try:
            return self.client.ok(what, fds, disk="disk0", **members)
        finally:
            for fd in fds:
                os.close(fd)

    def state(self, job):
        return next(j for j in self.client.ok("job-list")["jobs"] if j["job"] == job)

    def wait(self, job, wanted="done", limit=120):
        deadline = time.monotonic() + limit
        while (now := self.state(job))["state"] != wanted:
            check(now["state"] != "failed" and time.monotonic() < deadline, f"{now}")
            time.sleep(0.05)
        return now

    # ---- the operations ----

    def snapshot(self, name):
        self.start("disk-snapshot", [self.file(name)], path=self.path(name))
        equal(self.top(), self.path(name), "the top after a snapshot")

    def stream(self, **members):
        return self.start("disk-stream", **members)["job"]

    def commit(self, base, **members):
        return self.start("disk-commit", [os.open(self.path(base), os.O_RDWR)], fd=True, base=self.path(base),
                          **members)["job"]

    def rebase(self, *names, fmt="qcow2", **members):
        fds = [os.open(self.path(name), os.O_RDONLY) for name in names]
        return self.start("disk-rebase", fds, path=self.path(names[0]), format=fmt, **members)["job"]

    def mirror(self, name, **members):
        return self.start("disk-mirror", [self.file(name, SIZE)], path=self.path(name), **members)["job"]

    def backup(self, name, fmt="raw", **members):
        fd = self.file(name, SIZE if fmt == "raw" else 0)
        return self.start("disk-backup", [fd], path=self.path(name), format=fmt, **members)["job"]


def prepare(guest):
    guest("make d")
    guest("fill d 16")


def load_start(guest):
    guest("rm -f /tmp/stop")
    guest.vm.sendline("load &")
    guest.vm.expect_exact("guest:~# ")
    guest.vm.expect("SYNCED d 1 ")


def load_end(guest):
    guest.vm.sendline("touch /tmp/stop; wait; echo ALL''STILL")
    guest.vm.expect_exact("ALLSTILL")
    check("FAULT" not in guest.vm.before, guest.vm.before)
    guest.vm.expect_exact("guest:~# ")
    guest("verify")


@contextlib.contextmanager
def loaded(guest, what):
    load_start(guest)
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    load_end(guest)
    print(f"  {what}: {took:.1f} s", flush=True)


def quiet_copy(guest, jobs, disk, name):
    """What the disk holds now, as the guest sees it."""
    guest("sync")
    jobs.wait(jobs.backup(name))
    return jobs.path(name)


def chains(guest, jobs, disk):
    with loaded(guest, "snapshots"):
        jobs.snapshot("one.qcow2")
        time.sleep(0.5)
        jobs.snapshot("two.qcow2")
        time.sleep(0.5)
        jobs.snapshot("three.qcow2")
        time.sleep(0.5)
    busy = {}
    with loaded(guest, "commit of a middle layer"):
        jobs.wait(jobs.commit("one.qcow2", layer=jobs.path("two.qcow2"), speed=4 * MIB))
    with loaded(guest, "stream down to the base"):
        job = jobs.stream(base=disk.path, speed=MIB)  # not over before it is paused
        busy["text"] = jobs.client.refused("disk-resize", "EBUSY", disk="disk0", size=SIZE * 2)
        jobs.client.ok("job-pause", job=job)
        jobs.wait(job, "paused")
        jobs.client.ok("job-resume", job=job)
        jobs.client.ok("job-speed", job=job, speed=0)
        jobs.wait(job)
    check(job in busy["text"], busy["text"])
    with loaded(guest, "commit of the top"):
        jobs.wait(jobs.commit(os.path.basename(disk.path), speed=16 * MIB))
    equal(jobs.top(), disk.path, "the top after a commit")
    with loaded(guest, "snapshot and full stream"):
        jobs.snapshot("four.qcow2")
        time.sleep(0.5)
        jobs.wait(jobs.stream(speed=160 * MIB))
    check("backing" not in disk.qemu("info", "-U", jobs.path("four.qcow2")), "it still has a backing file")
    with loaded(guest, "rebase to an older state, a chain of two"):
        jobs.snapshot("five.qcow2")
        shutil.copy(disk.path, jobs.path("old.qcow2"))
        disk.run("create", "-q", "-f", "qcow2", "-b", "old.qcow2", "-F", "qcow2", jobs.path("older.qcow2"))
        jobs.wait(jobs.rebase("older.qcow2", "old.qcow2", speed=160 * MIB))
    equal(json.loads(disk.qemu("info", "-U", "--output=json", jobs.path("five.qcow2")))["backing-filename"], "older.qcow2",
          "what is below after a rebase")
    jobs.client.refused("disk-rebase", "EINVAL", disk="disk0", path=jobs.path("older.qcow2"))
    with loaded(guest, "rebase to nothing"):
        jobs.wait(jobs.start("disk-rebase")["job"])


def copies(guest, jobs, disk):
    with loaded(guest, "full backup"):
        jobs.wait(jobs.backup("full.raw", bitmap="nightly", speed=160 * MIB))
    guest("rm -f /disks/d/load*; dd if=/dev/urandom of=/disks/d/later bs=1M count=3 2>/dev/null; sync")
    shutil.copy(jobs.path("full.raw"), jobs.path("restored.raw"))
    jobs.snapshot("later.qcow2")  # what was written since moves along
    guest("dd if=/dev/urandom of=/disks/d/latest bs=1M count=2 2>/dev/null; sync")
    whole = quiet_copy(guest, jobs, disk, "whole.raw")
    state = jobs.wait(jobs.backup("restored.raw", bitmap="nightly", incremental=True))
    check(0 < state["total"] < SIZE / 2, f"the increment has {state['total']} bytes")
    disk.qemu("compare", "-f", "raw", "-F", "raw", whole, jobs.path("restored.raw"))
    jobs.client.refused("disk-throttle", "EINVAL", disk="disk0", limits={"iops": 5, "iops-rd": 5})
    equal(jobs.client.ok("disk-throttle", disk="disk0", limits={"bps": 64 * MIB})["limits"]["bps"], 64 * MIB, "bps")
    with loaded(guest, "mirror, cancelled"):
        job = jobs.mirror("none.raw", speed=MIB)
        jobs.client.ok("job-cancel", job=job)
        while jobs.state(job)["state"] != "failed":
            time.sleep(0.05)
        equal(jobs.state(job)["code"], "ECANCELED", "a cancelled job")
    jobs.client.ok("disk-throttle", disk="disk0", limits={})
    with loaded(guest, "mirror and switch"):
        job = jobs.mirror("mirror.raw", speed=40 * MIB)
        jobs.wait(job, "ready")
        time.sleep(0.5)
        jobs.client.ok("job-complete", job=job)
        jobs.wait(job)
    equal(jobs.top(), jobs.path("mirror.raw"), "the top after a mirror")
    with loaded(guest, "resize"):
        jobs.client.ok("disk-resize", disk="disk0", size=SIZE + 64 * MIB)
    guest(f"grow d {(SIZE + 64 * MIB) // 512}")
    jobs.client.refused("disk-resize", "EINVAL", disk="disk0", size=SIZE)
    with loaded(guest, "overlay over raw, committed and kept"):
        jobs.snapshot("six.qcow2")
        time.sleep(0.5)
        jobs.wait(jobs.commit("mirror.raw", keep=True))
    equal(jobs.top(), jobs.path("six.qcow2"), "the top that was kept")


def kill_during(args, folder, initrd, what):
    """The VMM dies while a slow job runs."""
    with tempfile.TemporaryDirectory(prefix="jobs-", dir=folder) as own:
        disk = Disk(args, own)
        guest = guest_disks.Guest(args, own, initrd, [disk.part])
        jobs = Jobs(own)
        prepare(guest)
        top = disk.path
        if what in ("stream", "commit", "commit-keep", "rebase"):
            top = jobs.path("top.qcow2")
            jobs.snapshot("top.qcow2")
            guest("cp /tmp/noise /disks/d/more; sync")
        guest.vm.sendline("load &")
        guest.vm.expect("SYNCED d 2 ")
        said = guest.vm.before + guest.vm.after
        slow = {"speed": 4 * MIB}
        job = {"stream": lambda: jobs.stream(**slow), "commit": lambda: jobs.commit("disk.qcow2", **slow),
               "commit-keep": lambda: jobs.commit("disk.qcow2", keep=True, **slow),
               "rebase": lambda: jobs.start("disk-rebase", **slow)["job"],
               "mirror": lambda: jobs.mirror("target.raw", **slow), "backup": lambda: jobs.backup("target.raw", **slow),
               "resize": lambda: jobs.start("disk-resize", size=SIZE * 2)}[what]()
        time.sleep(2)
        if what != "resize":
            check(jobs.state(job)["state"] == "running" and jobs.state(job)["done"], f"{jobs.state(job)}")
        said += guest.kill()
        check("FAULT" not in said, said[-300:])
        disk.sound(top, disk.path)
        synced = re.findall(r"SYNCED d (\d+) ([0-9a-f]{64})\r", said)
        check(synced, "nothing was synced")
        # The last of each name; the one after the last may have replaced any of them, but only the next does.
        last = dict(synced)
        coming = (int(synced[-1][0]) + 1) % 12
        last.pop(str(coming), None)
        copy = guest_disks.Disk.__new__(guest_disks.Disk)
        copy.img, copy.name, copy.format, copy.path, copy.key = args.img, what, "qcow2", top, []
        copy.check_content({int(n): digest for n, digest in last.items()}, own, removed_by=0)
        print(f"  killed during {what}: {len(last)} synced files are whole", flush=True)
        if what in ("commit", "commit-keep", "mirror", "backup"):
            resume(args, own, initrd, disk, top, what)


def resume(args, own, initrd, disk, top, what):
    """The VM starts again, and the job goes on where it was."""
    disk.part = f"{top},format=qcow2,serial=d"
    guest = guest_disks.Guest(args, own, initrd, [disk.part])
    jobs = Jobs(own)
    guest("dd if=/dev/urandom of=$(dev d) bs=64K seek=1000 count=4 conv=notrunc 2>/dev/null; sync")
    job = {"commit": lambda: jobs.commit("disk.qcow2", resume=True),
           "commit-keep": lambda: jobs.commit("disk.qcow2", keep=True, resume=True),
           "mirror": lambda: jobs.mirror("target.raw", stay=True, resume=True),
           "backup": lambda: jobs.backup("target.raw", resume=True)}[what]()
    if what == "mirror":
        jobs.wait(job, "ready")
        jobs.client.ok("job-complete", job=job)
    jobs.wait(job)
    whole = quiet_copy(guest, jobs, disk, "whole.raw")
    guest.kill()
    copy = jobs.path("disk.qcow2" if what.startswith("commit") else "target.raw")
    disk.qemu("compare", whole, copy)
    check("bedplate-job" not in disk.qemu("info", "-U", top), "the job's bitmap is still there")
    print(f"  {what} went on: the same", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--img", required=True, help="bedplate-img")
    parser.add_argument("--kill", action="store_true", help="kill the VMM during each job instead")
    boot.add_arguments(parser)
    args = parser.parse_args()
    boot.template(args)
    for program in ("cpio", "qemu-img", "debugfs"):
        if not shutil.which(program, path=guest_disks.ENV["PATH"]):
            boot.skip(f"{program} is not installed")
    try:
        import pexpect  # noqa: F401
    except ImportError:
        boot.skip("python3-pexpect is not installed")
    guest_disks.SCRIPT += SCRIPT
    with tempfile.TemporaryDirectory(prefix="jobs-") as folder:
        initrd = os.path.join(folder, "initrd")
        guest_disks.write_initrd(args, folder, initrd)
        if args.kill:
            for what in ("stream", "commit", "commit-keep", "rebase", "mirror", "backup", "resize"):
                kill_during(args, folder, initrd, what)
            print("good")
            return
        disk = Disk(args, folder)
        guest = guest_disks.Guest(args, folder, initrd, [disk.part])
        jobs = Jobs(folder)
        try:
            prepare(guest)
            chains(guest, jobs, disk)
            copies(guest, jobs, disk)
            guest("umount /disks/d; /programs/e2fsck -fn $(dev d) >/tmp/out 2>&1 || fail e2fsck")
            guest.end()
        except Exception:
            with open(os.path.join(folder, "log"), encoding="latin-1") as log:
                print(log.read()[-3000:])
            raise
        disk.sound(*(jobs.path(name) for name in os.listdir(folder)))
    print("good")


if __name__ == "__main__":
    main()
