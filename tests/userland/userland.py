#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian guest of `make boot` for tests: prepared if it is not yet, on an overlay of the test's own, used by ssh."""
import glob
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "boot"), os.path.join(HERE, "..", "vmm")]
import boot  # noqa: E402  (tests/boot/boot.py)
from host import free_port  # noqa: E402  (tests/vmm/host.py)

OURS = ("{vmm} --engine {engine} --cpus {cpus} --memory {memory}M --kernel {kernel} --initrd {initrd}"
        " --disk {disk},format=qcow2 --net user,hostfwd=tcp:127.0.0.1:{port}-:22 --serial stdio --cmdline {cmdline}")
QEMU = ("qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp {cpus} -m {memory} -nodefaults -no-reboot"
        " -display none -serial stdio -kernel {kernel} -initrd {initrd} -append {cmdline}"
        " -drive file={disk},format=qcow2,if=none,id=d -device virtio-blk-pci,drive=d"
        " -netdev user,id=n,hostfwd=tcp:127.0.0.1:{port}-:22 -device virtio-net-pci,netdev=n")
LOGIN = "root@debian:~# "


class Fault(Exception):
    """What went wrong, in a sentence."""


def add_arguments(parser):
    parser.add_argument("--binary", default=os.path.join(boot.ROOT, "build/src/vmm/bedplate-vmm"))
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--cpu", help="the CPU model, where it is not to be the default")
    parser.add_argument("--qemu", action="store_true", help="QEMU's software CPU instead")
    parser.add_argument("--userland", default=os.path.join(boot.ROOT, ".cache/userland"))
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--memory", type=int, default=1024, help="MiB")


def prepare(args, *sources):
    """Makes what is missing of the guest and of its package sources."""
    script = os.path.join(boot.ROOT, "tools/prepare-userland.sh")
    done = subprocess.run([script, args.userland, *sources], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout[-3000:])
        boot.skip("the guest could not be prepared; run tools/prepare-userland.sh")
    if args.cpu == "x86-64-v3" and not boot.V3_FLAGS <= boot.host_flags():
        boot.skip("this host's CPU lacks what x86-64-v3 offers")


class Deadline:
    """A limit in seconds of a VM's own time: that of its busiest thread, and when all of them sleep.

    What they wait for a CPU of a busy host does not count (Linux, Documentation/scheduler/sched-stats).
    """

    def __init__(self, pid, limit):
        self.pid, self.limit = pid, limit
        self.start, self.before = time.monotonic(), self.threads()

    def threads(self):
        """Seconds that each thread ran, and that it waited."""
        found = {}
        for thread in glob.glob(f"/proc/{self.pid}/task/*/schedstat"):
            try:
                with open(thread, encoding="ascii") as stat:
                    found[thread] = [int(ns) / 1e9 for ns in stat.read().split()[:2]]
            except OSError:  # it has just ended
                pass
        return found

    def over(self):
        ran, waited = [0], [0]
        for thread, (now_ran, now_waited) in self.threads().items():
            then_ran, then_waited = self.before.get(thread, (0, 0))
            ran.append(now_ran - then_ran)
            waited.append(now_waited - then_waited)
        slept = time.monotonic() - self.start - sum(ran) - sum(waited)
        return max(ran) + max(slept, 0) > self.limit


class Guest:
    """A running guest. `folder` holds its disk and its console's log."""

    def __init__(self, args, folder, source, extra=()):
        self.args, self.folder = args, folder
        self.base = os.path.realpath(os.path.join(args.userland, "base"))
        self.disk = os.path.join(folder, "disk.qcow2")
        self.process, self.text, self.port = None, bytearray(), 0
        self.server = subprocess.Popen([os.path.join(boot.ROOT, "tools/userland/serve.py"),
                                        os.path.join(args.userland, "source-" + source)], stdout=subprocess.PIPE)
        self.source_port = int(self.server.stdout.readline())
        self.extra = list(extra)
        if not os.path.exists(self.disk):
            img = os.path.join(os.path.dirname(args.binary), "../img/bedplate-img")
            subprocess.run([img, "create", "-q", "-f", "qcow2", "-b", os.path.join(self.base, "root.img"), "-F", "raw",
                            self.disk], check=True)

    def words(self):
        values = {"vmm": self.args.binary, "engine": self.args.engine, "cpus": self.args.cpus,
                  "memory": self.args.memory, "kernel": os.path.join(self.base, "vmlinuz"),
                  "initrd": os.path.join(self.base, "initrd.img"), "disk": self.disk, "port": self.port,
                  "cmdline": f"console=ttyS0 root=/dev/vda bp.source=http://10.0.2.2:{self.source_port}"}
        template = QEMU if self.args.qemu else OURS + (f" --cpu {self.args.cpu}" if self.args.cpu else "")
        return [word.format(**values) for word in shlex.split(template)] + self.extra

    def start(self, words=None):
        """Boots, or runs the words, in which {port} is the one for ssh."""
        self.port = free_port()
        self.text = bytearray()
        words = [word.format(port=self.port) for word in words] if words else self.words()
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)
        self.reader = threading.Thread(target=self.read, args=(self.process, self.text), daemon=True)
        self.reader.start()

    def read(self, process, text):
        with open(os.path.join(self.folder, "console.log"), "ab", buffering=0) as log:
            while chunk := os.read(process.stdout.fileno(), 65536):
                text += chunk
                log.write(chunk)

    def wait_for(self, wanted, limit):
        """Seconds until the console said it."""
        start, deadline = time.monotonic(), Deadline(self.process.pid, limit)
        while wanted.encode() not in self.text:
            if self.process.poll() is not None:
                raise Fault(f"the VM ended with status {self.process.returncode} before it said {wanted!r}")
            if deadline.over():
                raise Fault(f"the console did not say {wanted!r} within {limit} s")
            time.sleep(0.05)
        return time.monotonic() - start

    def ssh_words(self, command):
        options = ["IdentitiesOnly=yes", "HostKeyAlias=guest", "BatchMode=yes", "ConnectTimeout=60",
                   "UserKnownHostsFile=" + os.path.join(self.base, "known_hosts")]
        return ["ssh", "-F", "none", "-i", os.path.join(self.base, "ssh_key"), "-p", str(self.port),
                *(word for option in options for word in ("-o", option)), "root@127.0.0.1", command]

    def ssh(self, command, limit=60, check=True, stdin="", log=None):
        """Runs a command in the guest; its output, with what it said on stderr, which also goes to the file `log`."""
        deadline = Deadline(self.process.pid, limit)
        with open(log, "w+b") if log else tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as given:
            given.write(stdin.encode())
            given.seek(0)
            with subprocess.Popen(self.ssh_words(command), stdin=given, stdout=out, stderr=subprocess.STDOUT) as ssh:
                while (status := ssh.poll()) is None and not deadline.over():
                    time.sleep(0.05)
                ssh.kill()
            out.seek(0)
            said = out.read().decode("latin-1")
        if status is None:
            raise Fault(f"no answer within {limit} s to: {command}\n{said[-3000:]}")
        if check and status:
            raise Fault(f"status {status} of: {command}\n{said[-3000:]}")
        return said

    def kernel_faults(self):
        """The lines of the kernel's log that nobody wants to see."""
        pattern = "segfault|general protection fault|traps:|BUG:|WARNING:|Oops|rcu.*stall|soft lockup|EXT4-fs error"
        return self.ssh(f"dmesg | grep -E '{pattern}' || true").splitlines()

    def power_off(self, limit=90):
        self.process.stdin.write(b"\rpoweroff\r")
        self.process.stdin.flush()
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Fault(f"poweroff did not end the VM within {limit} s") from None
        self.reader.join(10)
        if status:
            raise Fault(f"the VM ended with status {status}")

    def tail(self):
        return "the last lines of the console:\n" + "\n".join(self.text.decode("latin-1").splitlines()[-30:])

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.server.kill()
        self.server.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
