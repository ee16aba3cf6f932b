#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What keeps VMs of a daemon from the host and from each other:  confinement.py CASE --build BUILD --guest G

  ids     users, roots, name spaces and groups of two VMs and their helpers; nothing is left of them
  limits  a guest that spins is held to its CPU limit, which changes while it runs
  killed  nothing is left of VMs whose processes, and whose daemon, were killed
  jailing a daemon that is killed while a jail is being made: the next one waits for it, and lets it live
  tap     a VM whose process has no power over the host's network gets a tap of the host
  user    a daemon of a user without privileges
  systemd scopes of systemd: the host's, or else one that is started for the test, with nothing to do, in name spaces of its own
"""
import argparse
import contextlib
import glob
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import rig
from rig import Daemon
from host import LIMIT, check, equal, kill_all, listens, processes, send_all, until

SKIP, NOBODY, FIRST = 77, 65534, 2000000000
LEAVING = 2.5  # after which groups that should have been left are killed


def skip(why):
    print(f"skip: {why}")
    sys.exit(SKIP)


def only_root():
    if os.geteuid() != 0:
        skip("only root has ids to give")


def status(pid, name):
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return next(line.split()[1:] for line in file if line.startswith(name + ":"))


def spaces(pid):
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("user", "mnt", "pid", "ipc", "uts", "cgroup", "net")}


def groups(vm):
    """The directories of a VM's control groups, wherever the host has them."""
    return glob.glob(f"/sys/fs/cgroup/**/*{vm['id']}*", recursive=True)


def members(vm):
    """Processes in its groups."""
    found = set()
    for directory in groups(vm):
        with contextlib.suppress(OSError), open(os.path.join(directory, "cgroup.procs"), encoding="ascii") as file:
            found.update(map(int, file))
    return found


def gone(vm, pids):
    until(lambda: f"{groups(vm)} and {[p for p in pids if os.path.exists(f'/proc/{p}')]} are left",
          lambda: not groups(vm) and not any(os.path.exists(f"/proc/{p}") for p in pids))


def told(vm, name):
    """What the status of the processes in its groups says."""
    found = []
    for pid in members(vm):
        with contextlib.suppress(OSError):  # one that was soon over
            found.append(status(pid, name))
    return found


def task(pid, tid):
    """What is to be known of a thread: what its root holds, its capabilities, its filters, and which it is."""
    of = f"{pid}/task/{tid}"
    with open(f"/proc/{of}/comm", encoding="ascii") as file:
        return os.listdir(f"/proc/{of}/root"), status(of, "CapEff"), status(of, "Seccomp"), status(of, "Seccomp_filters"), file.read()


def need_groups(vm):
    if not groups(vm):
        skip(f"this host has no control groups for us: {vm['now'].get('warning')}")


def ids(folder):
    only_root()
    with Daemon(folder, "--vm-ids", f"{FIRST}-{FIRST + 9}") as d:
        for name in ("a", "b"):
            d.create(name, nets=[{"backend": "user"}])
            d.done(name, "start")
        vms = [d.vm(name) for name in ("a", "b")]
        if "without: name spaces" in vms[0]["now"]["confinement"]:
            skip(vms[0]["now"]["confinement"])
        check("without" not in vms[0]["now"]["confinement"], vms[0]["now"])
        uids = [{int(ids[1]) for ids in told(vm, "Uid")} - {0} for vm in vms]
        equal(uids, [{FIRST}, {FIRST + 1}], "users, with helpers")
        ours, theirs, others = spaces("self"), spaces(vms[0]["pid"]), spaces(vms[1]["pid"])
        for kind in ours:
            check(len({ours[kind], theirs[kind], others[kind]}) == 3, f"name space {kind} is shared")
        kinds = set()
        for tid in os.listdir(f"/proc/{vms[0]['pid']}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a worker of the kernel's that was soon over
                root, powers, mode, filters, kind = task(vms[0]["pid"], tid)
                equal((root, powers, mode), ([], ["0" * 16], ["2"]), f"{kind}: its root, its capabilities, its filter")
                equal(filters, ["2" if kind.startswith("vcpu/") else "1"], kind)
                kinds.add(kind.split("/")[0])
        check("vcpu" in kinds and len(kinds) > 1, kinds)
        # A daemon that comes later knows which id is taken.
        d.kill()
        d.start()
        d.create("c")
        d.becomes("a", "running")
        d.done("c", "start")
        equal(status(d.vm("c")["pid"], "Uid")[1], str(FIRST + 2))
        pids = [p for vm in vms for p in members(vm)]
        for name in ("a", "b", "c"):
            d.done(name, "kill")
        for vm in vms:
            gone(vm, pids)


def accounting(vm):
    """What the kernel says about its groups' CPU time, by version 1 or 2 or both."""
    found = {}
    for path in [os.path.join(directory, "cpu.stat") for directory in groups(vm)]:
        if os.path.exists(path):
            with open(path, encoding="ascii") as file:
                found.update((line.split()[0], int(line.split()[1])) for line in file)
    return found


PERIOD = 0.1  # seconds, of a limit


def held(before, after, seconds, percent):
    """Of a group that would take a whole CPU, or what a busy host leaves it: no more than its share, because the kernel stopped
    it, and nearly all of that in each period in which it did. Answers what it took, in words."""
    used, times = (after["usage_usec"] - before["usage_usec"]) / 1e6, after["nr_throttled"] - before["nr_throttled"]
    said = f"{100 * used / seconds:.1f} % of a CPU in {seconds:.1f} s, stopped {times} times"
    check(used < percent / 100 * (seconds + 2 * PERIOD) * 1.05, f"more than {percent} %: {said}")
    check(times or used < percent / 100 * seconds * 0.9, f"the host was not busy, and yet it was never held: {said}")
    check(used > times * PERIOD * percent / 100 * 0.5, f"less than {percent} %: {said}")
    return said


def watched(vm, seconds=2):
    """Its accounting before and after, and the time between."""
    started, before = time.monotonic(), accounting(vm)
    if "usage_usec" not in before or "nr_throttled" not in before:
        skip("this host does not count a group's CPU time")
    time.sleep(seconds)
    after = accounting(vm)
    return before, after, time.monotonic() - started


def limits(folder):
    with Daemon(folder) as d:
        d.create("a", cpu_limit=50, cpu_weight=10000)
        d.done("a", "start")
        vm = d.vm("a")
        need_groups(vm)
        equal((vm["now"]["cpu_limit"], vm["pending"]), (50, []))
        check("memory" in vm["now"]["limits"], vm["now"])
        # Its guest waits for letters by looking for them all the time.
        print("50 %:", held(*watched(vm), 50))
        d.ok("PATCH", "/v1/vms/a", {"cpu_limit": 10, "cpu_weight": 9000, "io_weight": 200})
        now = d.vm("a")["now"]
        equal((now["cpu_limit"], now["cpu_weight"], now.get("io_weight", 200)), (10, 9000, 200))
        print("10 %:", held(*watched(vm), 10))
        # The helper of a card that comes later is held, too.
        equal(d.ok("PATCH", "/v1/vms/a", {"nets": [{"backend": "user"}]})["pending"], [])
        until("its helper is elsewhere", lambda: ["bedplate-net"] in told(vm, "Name"))
        d.kill()
        d.start()
        d.becomes("a", "running")
        # A daemon that comes later finds its VM again before it changes it.
        d.ok("PATCH", "/v1/vms/a", {"cpu_limit": 0})
        until("the limit stays", lambda: d.vm("a")["now"].get("cpu_limit") == 0 and not d.vm("a")["pending"])
        before, after, seconds = watched(vm)
        equal(after["nr_throttled"], before["nr_throttled"], "held although there is no limit")
        print(f"no limit: {(after['usage_usec'] - before['usage_usec']) / 1e4 / seconds:.1f} %")
        d.refused("PATCH", "/v1/vms/a", 422, "from 1 to 10000", {"cpu_weight": 0}, field="cpu_weight")
        d.done("a", "kill")
        gone(vm, [vm["pid"]])


def killed(folder):
    """Also of those that had helpers, and whose daemon was away."""
    with Daemon(folder) as d:
        d.create("a", nets=[{"backend": "user"}])
        d.done("a", "start")
        vm = d.vm("a")
        pids = members(vm) or {vm["pid"]}
        os.kill(vm["pid"], signal.SIGKILL)
        d.becomes("a", "failed")
        gone(vm, pids)
        d.done("a", "start")
        vm = d.vm("a")
        pids = members(vm) or {vm["pid"]}
        d.kill()
        os.kill(vm["pid"], signal.SIGKILL)
        until("its processes live on", lambda: not any(os.path.exists(f"/proc/{p}") for p in pids))
        d.start()
        d.becomes("a", "failed")
        gone(vm, pids)
        # Who waits for it takes all of it along.
        d.done("a", "start")
        vm = d.vm("a")
        pids = members(vm) or {vm["pid"]}
        with open(f"/proc/{vm['pid']}/stat", encoding="ascii") as file:
            init = int(file.read().rsplit(")", 1)[1].split()[1])
        os.kill(init, signal.SIGKILL)
        d.becomes("a", "failed")
        gone(vm, pids)
        d.done("a", "start")
        d.done("a", "kill")


def jails(folder):
    """Pids of this daemon's."""
    found = []
    for pid in processes("cmdline", folder):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if file.read().split(b"\0")[0].endswith(b"bedplate-jail"):
                found.append(pid)
    return found


def stop_jails(d):
    """Starts a VM and stops the jails that begin it: pids of those, and of all that were stopped. A signal is heard only a moment after it
    was sent: until then a jail still forks, or has become the VM, and then all begins again."""
    deadline = time.monotonic() + LIMIT
    while True:
        d.ok("POST", "/v1/vms/a/start")
        before, ever = [], set()
        while not (found := jails(d.folder)):  # at once: it is soon over
            check(time.monotonic() < deadline, "there is no jail")
        while found and found != before:
            send_all(found, signal.SIGSTOP)
            ever.update(found)
            time.sleep(0.05)
            before, found = found, jails(d.folder)
        if found:
            return found, ever
        send_all(ever, signal.SIGCONT)
        d.becomes("a", "running")
        d.done("a", "kill")


def jailing(folder):
    with Daemon(folder) as d:
        d.create("a")
        for _ in range(3):
            stopped, ever = stop_jails(d)
            d.kill()
            d.start()
            time.sleep(0.3)
            equal(jails(folder), stopped, "another one was begun beside it")
            send_all(ever, signal.SIGCONT)
            d.becomes("a", "running")
            pid = d.vm("a")["pid"]
            time.sleep(LEAVING)
            equal((d.vm("a")["state"], d.vm("a")["pid"], d.processes()), ("running", pid, [pid]), "a moment later")
            d.done("a", "kill")


def tap(folder):
    only_root()
    name = f"bptest{os.getpid() % 100000}"
    made = subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        skip(f"a tap interface cannot be made: {made.stderr.strip()}")

    def carrier():
        with open(f"/sys/class/net/{name}/carrier", encoding="ascii") as file:
            return file.read().strip()

    try:
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        equal(carrier(), "0", "before")
        with Daemon(folder) as d:
            d.create("a", nets=[{"backend": "tap", "tap": name}])
            d.done("a", "start")
            equal(carrier(), "1", "with the VM")
            equal(d.vm("a")["pending"], [])
            d.done("a", "kill")
            equal(carrier(), "0", "after it")
            d.done("a", "start")
            d.create("c", nets=[{"backend": "tap", "tap": name}])
            job = d.act("c", "start")
            equal(job["state"], "failed")
            check("cannot attach to the tap interface" in job["error"]["message"], job)
    finally:
        subprocess.run(["ip", "link", "delete", name], check=True)


def user(folder):
    """With a copy of the programs: that user may not read the tree."""
    only_root()
    name, programs = pwd.getpwuid(NOBODY).pw_name, os.path.join(folder, "bin")
    os.chmod(folder, 0o755)
    os.mkdir(programs)
    args = rig.ARGS
    for path in ("daemon/bedplated", "cli/bedplate", "vmm/bedplate-vmm", "jail/bedplate-jail", "img/bedplate-img", "net/bedplate-net",
                 "images/bedplate-make-image"):
        shutil.copy(os.path.join(args.build, "src", path), programs)
    shutil.copy(args.guest, programs)
    ranges, home = os.path.join(folder, "ranges"), os.path.join(folder, "home")
    os.mkdir(home)
    os.chown(home, NOBODY, NOBODY)
    with open(ranges, "w", encoding="ascii") as file:
        file.write(f"{name}:300000:65536\n")
    for with_range in (True, False):
        if with_range and not (shutil.which("newuidmap") and os.path.exists("/etc/subuid")):
            continue
        bind = " && ".join(f"mount --bind {ranges if with_range else '/dev/null'} /etc/{f}" for f in ("subuid", "subgid"))
        words = ["unshare", "-m", "sh", "-c", f'{bind}; exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups "$@"', "sh"]
        env = dict(os.environ, HOME=home, XDG_STATE_HOME=home + "/s", XDG_RUNTIME_DIR=home + "/r")
        cli = [*words, os.path.join(programs, "bedplate")]
        api = home + "/r/bedplate/api.sock"
        daemon = subprocess.Popen([*words, os.path.join(programs, "bedplated"), "--user"], env=env)
        try:
            # The former one's socket is still there. Before this one listens the client would start a daemon of its own.
            until("the daemon does not answer", lambda: listens(api))

            def run(*more):
                result = subprocess.run([*cli, *more], env=env, capture_output=True, text=True, timeout=60, check=False)
                equal(result.returncode, 0, f"{more}: {result.stderr}")
                return result.stdout

            run("create", "a", "--kernel", os.path.join(programs, os.path.basename(args.guest)), "--memory", "32M", "--engine", "soft")
            run("start", "a")
            vm = json.loads(run("info", "a", "--json"))
            confinement, uid = vm["now"]["confinement"], int(status(vm["pid"], "Uid")[1])
            print(confinement, uid, vm["now"].get("warning"))
            if "name spaces: user" not in confinement:
                skip(f"this host refuses name spaces: {confinement}")
            equal(uid, 300000 if with_range else NOBODY, "whom it runs as")
            equal("without: a user of its own" in confinement, not with_range, confinement)
            check("without: an empty root" not in confinement, confinement)
            equal(os.listdir(f"/proc/{vm['pid']}/root"), [], "its root")
            check("limits" in vm["now"] or "are not limited" in vm["now"]["warning"], vm["now"])
            run("kill", "a")
            until("its process lives on", lambda pid=vm["pid"]: not os.path.exists(f"/proc/{pid}"))
            run("delete", "a")
        finally:
            daemon.terminate()
            daemon.wait()
            kill_all(lambda: processes("cmdline", programs))


def scopes(folder):
    """Where systemd runs."""
    with Daemon(folder) as d:
        equal(d.ok("GET", "/v1/hosts")["items"][0]["limits_by"], "systemd")
        d.create("a", cpu_limit=50)
        d.done("a", "start")
        vm = d.vm("a")
        check(vm["now"]["limits"].startswith("systemd") and vm["now"]["cpu_limit"] == 50, vm["now"])

        def quota():
            for directory in groups(vm):
                for name in ("cpu.cfs_quota_us", "cpu.max"):
                    path = os.path.join(directory, name)
                    if os.path.exists(path):
                        with open(path, encoding="ascii") as file:
                            return file.read().split()[0]
            return "no group"

        check(all("/bedplate.slice/" in directory for directory in groups(vm)) and vm["pid"] in members(vm), groups(vm))
        equal(quota(), "50000")
        d.ok("PATCH", "/v1/vms/a", {"cpu_limit": 20})
        equal((d.vm("a")["now"]["cpu_limit"], quota()), (20, "20000"))
        d.kill()
        d.start()
        d.ok("PATCH", "/v1/vms/a", {"cpu_limit": 0})
        until(f"the limit stays {quota()}", lambda: quota() in ("-1", "max"))
        pids = members(vm)
        d.done("a", "restart", {"timeout": 0})
        check(not pids & members(vm), "the former processes")
        pids = members(vm)
        os.kill(d.vm("a")["pid"], signal.SIGKILL)
        d.becomes("a", "failed")
        gone(vm, pids)


def systemd(folder):
    only_root()
    if os.path.exists("/run/systemd/system"):
        scopes(folder)
        return
    program, script = "/lib/systemd/systemd", os.path.join(folder, "init.sh")
    if not os.path.exists(program):
        skip("systemd is not installed")
    with open(script, "w", encoding="ascii") as file:
        file.write("""#!/bin/sh -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /etc/systemd/system
mount -t tmpfs tmpfs /usr/lib/systemd/system-generators
printf '[Unit]\\nDefaultDependencies=no\\nAllowIsolate=yes\\n' >/etc/systemd/system/nothing.target
mkdir /run/lock
container=test exec /lib/systemd/systemd --system --unit=nothing.target --log-target=console --show-status=no
""")
    os.chmod(script, 0o755)
    before = set(glob.glob("/sys/fs/cgroup/*/*/"))
    spaces_of = ["unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--kill-child", "--mount-proc", script]
    with open(os.path.join(folder, "systemd.log"), "wb") as log:
        outer = subprocess.Popen(spaces_of, stdout=log, stderr=log)
    try:
        children = f"/proc/{outer.pid}/task/{outer.pid}/children"

        def enter():
            with open(children, encoding="ascii") as file:
                pid = file.read().split()
            return ["nsenter", "--target", pid[0], "--mount", "--pid", "--uts", "--ipc"] if pid else None

        def ready():
            check(outer.poll() is None, open(log.name, encoding="utf-8").read())
            words = enter()
            return words and subprocess.run([*words, "systemctl", "is-system-running"], capture_output=True, check=False).stdout == b"running\n"

        until("systemd does not start", ready)
        below = os.path.join(folder, "t")
        os.mkdir(below)
        args = rig.ARGS
        subprocess.run([*enter(), sys.executable, os.path.abspath(__file__), "scopes", "--build", os.path.abspath(args.build), "--guest",
                        args.guest], check=True, timeout=100)
    finally:
        outer.kill()
        outer.wait()

        def left():
            tops = [top for top in set(glob.glob("/sys/fs/cgroup/*/*/")) - before if top.endswith((".slice/", ".scope/"))]
            for directory in [directory for top in tops for directory, _, _ in os.walk(top, topdown=False)]:
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
            return tops

        until("its control groups cannot be removed", lambda: not left())


CASES = {f.__name__: f for f in (ids, limits, killed, jailing, tap, user, scopes, systemd)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--build", required=True)
    parser.add_argument("--guest", required=True)
    rig.ARGS = parser.parse_args()
    rig.ARGS.guest = os.path.abspath(rig.ARGS.guest)
    with tempfile.TemporaryDirectory(prefix="bp") as folder:
        CASES[rig.ARGS.case](folder)


if __name__ == "__main__":
    main()
