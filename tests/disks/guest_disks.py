#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A stock guest with a disk of every format: file systems, data, discard, growing, and a killed VMM.

Each disk gets an ext4 made, filled, verified, trimmed and (but for the one behind NBD) grown by the
guest while it runs. Then the VMM is killed with signal 9 while the guest writes to all of them at once;
every image must be sound, every file that the guest had synced must be whole, and after a second
start the guest's own fsck finds nothing left to do. `--rounds` repeats the kill.
"""
import argparse
import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "boot"), os.path.join(HERE, "..", "vmm"), os.path.join(HERE, "..", "nbd")]
import boot  # noqa: E402  (tests/boot/boot.py)
import servers  # noqa: E402  (tests/nbd/servers.py)
import vmm_test  # noqa: E402  (tests/vmm/vmm_test.py)

MIB = 1 << 20
SIZE = 96 * MIB
check = vmm_test.check
PROGRAMS = ["mke2fs", "e2fsck", "resize2fs"]
ENV = dict(os.environ, PATH=os.environ["PATH"] + ":/sbin:/usr/sbin")

# What the guest runs; its shell would take busybox's programs first. It knows its disks by their serial numbers, which are the formats' names.
SCRIPT = r"""
fail() { echo "FAULT $*"; }
dev() { for d in /sys/block/vd*; do [ "$(cat $d/serial)" = "$1" ] && echo /dev/${d##*/}; done; }
make() {
    d=$(dev $1); mkdir -p /disks/$1
    /programs/mke2fs -q -t ext4 -E nodiscard,lazy_itable_init=0 $d >/dev/null || fail mke2fs $1
    mount -t ext4 $d /disks/$1 || fail mount $1
}
fill() {
    dd if=/dev/urandom of=/tmp/noise bs=1M count=$2 2>/dev/null
    cp /tmp/noise /disks/$1/noise && cp /tmp/noise /disks/$1/gone && sync || fail write $1
    echo 3 >/proc/sys/vm/drop_caches
    cmp /tmp/noise /disks/$1/noise || fail compare $1
    cmp /tmp/noise /disks/$1/gone || fail compare $1
}
trim() {
    rm /disks/$1/gone; sync; fstrim /disks/$1 || fail fstrim $1
    echo later >/disks/$1/later; sync
    echo 3 >/proc/sys/vm/drop_caches
    cmp /tmp/noise /disks/$1/noise || fail compare after trim $1
}
grow() {
    d=$(dev $1)
    for i in $(seq 50); do [ $(cat /sys/block/${d##*/}/size) = $2 ] && break; sleep 0.1; done
    [ $(cat /sys/block/${d##*/}/size) = $2 ] || fail no new size $1
    /programs/resize2fs $d 2>/dev/null >/dev/null || fail resize2fs $1
}
load() {
    i=0
    while :; do
        i=$((i + 1))
        dd if=/dev/urandom of=/disks/$1/load$i bs=64K count=4 conv=fsync 2>/dev/null || { fail load $1; return; }
        s=$(sha256sum </disks/$1/load$i); sync /disks/$1 2>/dev/null || sync
        echo "SYNCED $1 $i ${s%% *}"
        [ $i -gt 6 ] && rm /disks/$1/load$((i - 6)) && echo "GONE $1 $((i - 6))"
    done
}
look() {
    umount /mnt 2>/dev/null; d=$(dev $1); /programs/e2fsck -p $d >/tmp/out 2>&1; [ $? -le 1 ] || { cat /tmp/out; fail e2fsck $1; }
    /programs/e2fsck -fn $d >/tmp/out 2>&1 || { cat /tmp/out; fail e2fsck again $1; }
    mkdir -p /disks/$1; mount -t ext4 $d /disks/$1 || fail mount $1
}
"""


def programs_cpio(folder):
    """An initramfs with e2fsprogs of this host, to be put behind the guest's own."""
    root = os.path.join(folder, "root")
    wanted = []
    for program in PROGRAMS:
        path = shutil.which(program, path=ENV["PATH"])
        if not path:
            boot.skip(f"{program} is not installed")
        wanted.append((path, "/programs/" + program))
        libraries = subprocess.run(["ldd", path], stdout=subprocess.PIPE, text=True, check=True).stdout
        wanted += [(library, library) for library in re.findall(r"(/\S+) \(", libraries)]
    for source, name in wanted:
        os.makedirs(os.path.dirname(root + name), exist_ok=True)
        shutil.copy(os.path.realpath(source), root + name)
    with open(root + "/disks.sh", "w", encoding="ascii") as file:
        file.write(SCRIPT)
    names = subprocess.run(["find", "."], cwd=root, stdout=subprocess.PIPE, check=True).stdout
    return subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names, stdout=subprocess.PIPE,
                          check=True).stdout


def write_initrd(args, folder, path):
    with open(path, "wb") as out, open(os.path.join(args.guest, "initrd.cpio"), "rb") as base:
        out.write(base.read())
        out.write(bytes(-out.tell() % 4))
        out.write(programs_cpio(folder))


class Guest:
    def __init__(self, args, folder, initrd, disks):
        import pexpect
        self.eof, self.nothing = pexpect.EOF, pexpect.TIMEOUT
        words = ["--engine", args.engine, "--memory", "384", "--cpus", "2", "--kernel", os.path.join(args.guest, "vmlinuz"),
                 "--initrd", initrd, "--cmdline", "console=ttyS0 quiet", "--control",
                 "unix:" + os.path.join(folder, "control")]
        queues = "", ",queues=2", ",queues=2", ",io-thread=a,queues=2", ",io-thread=b+a,queues=2", ",queues=2"
        for number, disk in enumerate(disks):  # one queue, two on one thread, two on two
            words += ["--disk", disk + queues[number % len(queues)]]
        self.vm = pexpect.spawn(args.binary, words, encoding="latin-1", timeout=240)
        self.vm.logfile_read = open(os.path.join(folder, "log"), "a", encoding="latin-1")
        self.vm.expect_exact("guest:~# ")
        self("stty -echo; . /disks.sh")

    def __call__(self, text):
        self.vm.sendline(text)
        self.vm.expect_exact("guest:~# ")
        said = self.vm.before
        check("FAULT" not in said, f"{text}: {said}")
        return said

    def end(self):
        self.vm.sendline("umount -a 2>/dev/null; sync; poweroff")
        self.vm.expect(self.eof)
        self.vm.close()
        vmm_test.equal(self.vm.exitstatus, 0, "status")

    def kill(self):
        self.vm.kill(signal.SIGKILL)
        self.vm.expect(self.eof)
        said = self.vm.before
        self.vm.close(force=True)
        return said


def stored(path):
    return os.stat(path).st_blocks * 512


class Disk:
    """One format; `part` is its --disk."""

    def __init__(self, args, folder, name):
        self.img, self.name, self.path = args.img, name, os.path.join(folder, "disk." + name)
        self.format = "qcow2" if name == "nbd" else name
        self.part = f"{self.path},format={name},serial={name}"
        self.server = None
        self.key, options = [], []
        if name == "luks":
            key = os.path.join(folder, "key")
            with open(key, "w", encoding="ascii") as file:
                file.write("a passphrase")
            self.key, options = ["--key-file", key], ["-o", "iter-time=10"]
            self.part += f",key-file={key}"
        self.run("create", "-q", "-f", self.format, *options, *self.key, self.path, str(SIZE))
        if name == "nbd":
            socket = os.path.join(folder, "nbd.sock")
            self.server = servers.Server([self.img, "serve", "-q", "--persistent", "--socket", socket, self.path],
                                         None, socket)
            self.part = f"nbd+unix:///?socket={socket},serial=nbd"

    def run(self, *words, status=(0,)):
        done = subprocess.run([self.img, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=120, check=False)
        check(done.returncode in status, f"{words}: status {done.returncode}: {done.stdout}")
        return done.stdout

    def check_image(self):
        if self.server:
            self.server.kill()
        if self.format not in ("raw", "luks"):
            self.run("check", self.path, status=(0, 3))  # 3: leaks
            if self.format == "qcow2":
                done = subprocess.run(["qemu-img", "check", self.path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                      text=True, check=False)
                check(done.returncode in (0, 3), f"qemu-img check {self.path}: {done.stdout}")

    def check_content(self, synced, folder, removed_by=6):
        """A copy, so that the guest's own fsck still finds what the kill left.

        removed_by: the guest removes a file when so many behind it have been synced; 0: never.
        """
        copy = os.path.join(folder, "copy.raw")
        self.run("convert", "-f", self.format, *self.key, "-O", "raw", self.path, copy)
        done = subprocess.run(["e2fsck", "-p", copy], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, check=False)
        check(done.returncode in (0, 1), f"{self.name}: e2fsck -p: {done.stdout}")

        def debugfs(request):
            return subprocess.run(["debugfs", "-R", request, copy], env=ENV, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, check=False).stdout

        newest = max(map(int, re.findall(rb"load(\d+)", debugfs("ls -l /"))), default=0)
        for number, wanted in synced.items():
            dump = debugfs(f"cat /load{number}")
            found = hashlib.sha256(dump).hexdigest()
            # What the guest last said may never have come here, so that a file went is told by the newest.
            gone = removed_by and not dump and number + removed_by <= newest
            check(found == wanted or gone,
                  f"{self.name}: load{number} was synced and is {len(dump)} bytes of something else")
        os.unlink(copy)


def work(guest, disks, folder):
    client = vmm_test.Client(os.path.join(folder, "control"))
    for number, disk in enumerate(disks):
        guest(f"make {disk.name}")
        guest(f"fill {disk.name} 8")
        before = stored(disk.path)
        guest(f"trim {disk.name}")
        after = stored(disk.path)
        print(f"  {disk.name}: trimmed {(before - after) >> 20} MiB of {before >> 20}", flush=True)
        if disk.name != "luks":  # it keeps what is discarded: holes would tell where there is data
            check(before - after >= 6 * MIB, f"{disk.name}: fstrim gave back {before - after} bytes")
        if disk.name != "nbd":
            client.ok("disk-resize", disk=f"disk{number}", size=SIZE + 32 * MIB)
            guest(f"grow {disk.name} {(SIZE + 32 * MIB) // 512}")


def kill_under_load(guest, disks, folder):
    for disk in disks:
        guest.vm.sendline(f"load {disk.name} &")
        guest.vm.expect_exact("guest:~# ")
    guest.vm.expect(r"SYNCED (\S+) 3 ")
    said = guest.vm.before + guest.vm.after
    for disk in disks:
        if disk.server:  # its server is killed, too, and comes back while the guest writes on
            disk.server.kill()
            disk.server.start()
    # What it says is read meanwhile, or little of it would come.
    if guest.vm.expect([guest.nothing, "FAULT"], timeout=2) == 1:
        said += guest.vm.before + guest.vm.after
    said += guest.kill()
    check("FAULT" not in said, said[-300:])
    total = 0
    for disk in disks:
        synced = {int(n): digest for n, digest in re.findall(rf"SYNCED {disk.name} (\d+) ([0-9a-f]{{64}})\r", said)}
        gone = [int(n) for n in re.findall(rf"GONE {disk.name} (\d+)\r", said)]
        total += len(synced)
        for number in gone:
            synced.pop(number, None)
        disk.check_image()
        disk.check_content(synced, folder)
    check(total >= 3, f"the guest had synced {total} files")
    print(f"  killed: {total} files had been synced", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--img", required=True, help="bedplate-img")
    parser.add_argument("--formats", default="raw,qcow2,vhd,vmdk,vhdx,luks,nbd")
    parser.add_argument("--rounds", type=int, default=1)
    boot.add_arguments(parser)
    args = parser.parse_args()
    boot.template(args)
    try:
        import pexpect  # noqa: F401
    except ImportError:
        boot.skip("python3-pexpect is not installed")
    if not shutil.which("cpio"):
        boot.skip("cpio is not installed")
    with tempfile.TemporaryDirectory(prefix="disks-") as folder, contextlib.ExitStack() as stack:
        initrd = os.path.join(folder, "initrd")
        write_initrd(args, folder, initrd)
        disks = [Disk(args, folder, name) for name in args.formats.split(",")]
        try:
            for number in range(args.rounds + 1):
                for disk in disks:
                    if disk.server:
                        disk.server.start()
                        stack.callback(disk.server.kill)
                guest = Guest(args, folder, initrd, [disk.part for disk in disks])
                if number == 0:
                    work(guest, disks, folder)
                else:
                    for disk in disks:
                        guest(f"look {disk.name}")
                        guest(f"rm -f /disks/{disk.name}/load*")
                if number < args.rounds:
                    kill_under_load(guest, disks, folder)
            for disk in disks:
                guest(f"rm /disks/{disk.name}/noise")
            guest.end()
        except Exception:
            with open(os.path.join(folder, "log"), encoding="latin-1") as log:
                print(log.read()[-3000:])
            raise
        for disk in disks:
            disk.check_image()
    print("good")


if __name__ == "__main__":
    main()
