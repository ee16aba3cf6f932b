#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Control groups of version 2, in the Debian guest: scopes of its systemd, and groups made by the daemon itself.

The programs go there with the libraries that they need; the VM in it is tests/vmm/guest.S.
"""
import argparse
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "userland"))
import userland  # noqa: E402  (tests/userland/userland.py)
from userland import Fault  # noqa: E402

PROGRAMS = ("daemon/bedplated", "cli/bedplate", "vmm/bedplate-vmm", "jail/bedplate-jail", "img/bedplate-img", "net/bedplate-net",
            "images/bedplate-make-image")
ENVIRONMENT = "export BEDPLATE_LIBEXEC=/opt/bp PATH=/opt/bp:$PATH; "


def check(condition, what):
    if not condition:
        raise Fault(what)


def bundle(build, guest):
    """A tar of the programs, the libraries that Debian's base has not, and the small guest."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar, tempfile.TemporaryDirectory() as folder:
        libraries = set()
        for name in PROGRAMS:
            path, stripped = os.path.join(build, "src", name), os.path.join(folder, "stripped")
            if subprocess.run(["strip", "-o", stripped, path], capture_output=True, check=False).returncode == 0:
                libraries |= set(re.findall(r"=> (/\S+)", subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout))
                tar.add(stripped, os.path.basename(name))
            else:
                tar.add(path, os.path.basename(name))
        for library in libraries:
            if not re.match(r"(libc|libm|ld-linux-x86-64)\.so", os.path.basename(library)):
                tar.add(os.path.realpath(library), os.path.basename(library))
        tar.add(guest, "vmm_guest")
    return out.getvalue()


class Inside:
    """The daemon in the guest, by its client there."""

    def __init__(self, guest):
        self.guest = guest

    def run(self, command, limit=120):
        return self.guest.ssh(ENVIRONMENT + command, limit=limit)

    def start(self, before=""):
        self.run(f"nohup sh -c '{before} exec bedplated' >/tmp/bedplated.log 2>&1 </dev/null & "
                 "for i in $(seq 300); do bedplate list >/dev/null 2>&1 && exit 0; sleep 0.2; done; cat /tmp/bedplated.log; exit 1")

    def stop(self):
        self.run("pkill -x bedplated; while pgrep -x bedplated >/dev/null; do sleep 0.1; done")

    def now(self):
        vm = json.loads(self.run("bedplate info a --json"))
        return vm["now"], vm

    def files(self, pid):
        """The limits in the group of a process."""
        names = "cpu.max cpu.weight memory.max pids.max"
        text = self.run(f"d=/sys/fs/cgroup$(sed -n s/^0:://p /proc/{pid}/cgroup); echo $d; cd $d; for f in {names}; do cat $f; done")
        lines = text.splitlines()
        return lines[0], dict(zip(names.split(), lines[1:]))

    def limits(self, by, group):
        self.run("bedplate create a --kernel /opt/bp/vmm_guest --memory 32M --engine soft --cpu-limit 50 --cpu-weight 300; bedplate start a")
        now, vm = self.now()
        print(now["limits"], "|", now["confinement"])
        check(now["limits"].startswith(by) and "without" not in now["confinement"] and "warning" not in now, now)
        directory, files = self.files(vm["pid"])
        check(re.fullmatch(group.replace("ID", vm["id"]), directory), f"it is in {directory}")
        memory = str((32 + 4 + 512) << 20)
        want = {"cpu.max": "50000 100000", "cpu.weight": "300", "memory.max": memory, "pids.max": "257"}
        check(files == want, f"{files}, want {want}")
        self.run("bedplate edit a --cpu-limit 20")
        now, _ = self.now()
        check(now["cpu_limit"] == 20, now)
        check(self.files(vm["pid"])[1]["cpu.max"] == "20000 100000", self.files(vm["pid"]))
        usage = f"sed -n 's/usage_usec //p' {directory}/cpu.stat"
        # The clock goes around both readings: on a slow guest they take their time.
        began, first, second, ended = map(float, self.run(f"date +%s.%N; {usage}; sleep 10; {usage}; date +%s.%N").split())
        share = (second - first) / 1e6 / (ended - began)
        print(f"held to 20 % it takes {100 * share:.1f} %")
        check(0.05 < share < 0.25, f"held to 20 % of a CPU it takes {100 * share:.1f} %")
        self.run(f"bedplate kill a; bedplate delete a; for i in $(seq 100); do [ ! -e {directory} ] && exit 0; sleep 0.1; done; exit 1")


def talk(args, guest):
    guest.start()
    guest.wait_for(userland.LOGIN, args.limit)
    data = bundle(args.build, args.guest)
    subprocess.run(guest.ssh_words("mkdir -p /opt/bp && tar xz -C /opt/bp && mv /opt/bp/*.so* /usr/local/lib && ldconfig"), input=data, check=True, timeout=300)
    inside = Inside(guest)
    inside.start()
    inside.limits("systemd", r".*/bedplate\.slice/bedplate-ID-[0-9a-f]+\.scope")
    inside.stop()
    # A service manager that is not systemd would give it a group of its own.
    inside.run("mount --bind /dev/null /usr/bin/systemd-run; cd /sys/fs/cgroup; echo '+cpu +memory +io +pids' >cgroup.subtree_control; mkdir own")
    inside.start("echo $$ >/sys/fs/cgroup/own/cgroup.procs; ")
    inside.limits("cgroup v2:", r"/sys/fs/cgroup/own/bedplate/ID")
    inside.stop()
    guest.power_off()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    userland.add_arguments(parser)
    parser.add_argument("--build", required=True)
    parser.add_argument("--guest", required=True, help="tests/vmm's")
    parser.add_argument("--limit", type=float, default=240, help="seconds for each step")
    args = parser.parse_args()
    userland.prepare(args)
    with tempfile.TemporaryDirectory(prefix="bedplate-userland-") as folder:
        with userland.Guest(args, folder, "basic") as guest:
            try:
                talk(args, guest)
            except Fault as fault:
                print(guest.tail())
                sys.exit(f"FAIL {fault}")
    print("good")


if __name__ == "__main__":
    main()
