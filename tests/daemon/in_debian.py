#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon, installed into the Debian guest, which has systemd and control groups of version 2:  in_debian.py CASE

  confined  groups made by the daemon itself, and scopes of systemd: limits, changed while a VM runs, a helper plugged in, its end
  systemd   the units: started by the socket, ready, reloaded, killed, stopped; the user's; the guest asleep; and started anew

The VM in it is tests/vmm/guest.S.
"""
import argparse
import contextlib
import glob
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "../userland"), os.path.join(HERE, "../vmm")]
import confinement  # noqa: E402
import userland  # noqa: E402  (tests/userland/userland.py)
import vmm_test  # noqa: E402
from host import check, equal  # noqa: E402
from userland import Fault  # noqa: E402

VM = "--kernel /opt/vmm_guest --memory 32M --engine soft"


def libraries(programs):
    """What they need and Debian's base has not."""
    found = set()
    for program in programs:
        found |= set(re.findall(r"=> (/\S+)", subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout))
    return [path for path in found if not re.match(r"(libc|libm|ld-linux-x86-64)\.so", os.path.basename(path))]


def bundle(build, guest):
    """A tar, to be unpacked in /, of what `make install` installs, its libraries, and the small guest."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar, tempfile.TemporaryDirectory() as folder:
        subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--strip", "--quiet", "--destdir", folder], check=True)
        prefix = os.path.join(folder, "usr/local")
        for library in libraries(glob.glob(prefix + "/bin/*") + glob.glob(prefix + "/libexec/bedplate/*")):
            tar.add(os.path.realpath(library), "usr/local/lib/" + os.path.basename(library))
        for name in os.listdir(prefix):
            tar.add(os.path.join(prefix, name), "usr/local/" + name)
        tar.add(guest, "opt/vmm_guest")
    return out.getvalue()


class Inside:
    """The daemon in the guest, by its client there."""

    def __init__(self, args, guest):
        self.args, self.guest = args, guest
        guest.start()
        guest.wait_for(userland.LOGIN, args.limit)
        unpack = "tar xz --no-same-owner -C / && ldconfig && systemctl daemon-reload"
        subprocess.run(guest.ssh_words(unpack), input=bundle(args.build, args.guest), check=True, timeout=args.limit)

    def run(self, command, check=True):
        return self.guest.ssh(command, limit=self.args.limit, check=check)

    def until(self, condition, what):
        """`what` tells what is wrong."""
        self.run(f"for i in $(seq 300); do {condition} && exit 0; sleep 0.2; done; echo {shlex.quote(what)}; exit 1")

    def vm(self, name, client="bedplate"):
        return json.loads(self.run(f"{client} info {name} --json"))

    def group(self, pid):
        """The directory of a process's control group."""
        return "/sys/fs/cgroup" + self.run(f"sed -n s/^0:://p /proc/{pid}/cgroup").strip()

    def files(self, directory):
        """The limits of a group."""
        names = "cpu.max cpu.weight memory.max pids.max"
        return dict(zip(names.split(), self.run(f"cd {directory}; for f in {names}; do cat $f; done").splitlines()))

    def limits(self, by, group, client="bedplate"):
        """Of a VM "a", which then ends."""
        self.run(f"{client} create a {VM} --cpu-limit 50 --cpu-weight 300 && {client} start a")
        vm = self.vm("a", client)
        now = vm["now"]
        print(now["limits"], "|", now["confinement"])
        check(now["limits"].startswith(by) and "warning" not in now, now)
        directory = self.group(vm["pid"])
        check(re.fullmatch(group.replace("ID", vm["id"]), directory), f"it is in {directory}")
        memory = str((32 + 4 + 512) << 20)
        equal(self.files(directory), {"cpu.max": "50000 100000", "cpu.weight": "300", "memory.max": memory, "pids.max": "257"})
        self.run(f"{client} edit a --cpu-limit 20")
        equal(self.vm("a", client)["now"]["cpu_limit"], 20)
        equal(self.files(directory)["cpu.max"], "20000 100000")
        self.held(directory, 20)
        self.run(f"{client} edit a --net user")
        self.until(f"cat $(sed 's,.*,/proc/&/comm,' {directory}/cgroup.procs) | grep -qx bedplate-net", "the new card's helper is elsewhere")
        self.run(f"{client} kill a && {client} delete a")
        self.until(f"[ ! -e {directory} ]", f"{directory} stays")

    def held(self, directory, percent):
        """By what its group counts; the clock goes around both readings, which take their time on a slow guest."""
        said = self.run(f"cd {directory}; date +%s.%N; cat cpu.stat; sleep 10; echo; cat cpu.stat; date +%s.%N")
        first, second = said.split("\n\n")
        began, *before = first.splitlines()
        *after, ended = second.splitlines()
        before, after = ({line.split()[0]: int(line.split()[1]) for line in lines} for lines in (before, after))
        print(f"held to {percent} %:", confinement.held(before, after, float(ended) - float(began), percent))



CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


@case
def confined(inside):
    inside.run("systemctl start bedplated")
    inside.limits("systemd", r".*/bedplate\.slice/bedplate-ID-[0-9a-f]+\.scope")
    inside.run("systemctl stop bedplated.socket bedplated")
    # A service manager that is not systemd would give it a group of its own.
    inside.run("mount --bind /dev/null /usr/bin/systemd-run; cd /sys/fs/cgroup; echo '+cpu +memory +io +pids' >cgroup.subtree_control; mkdir own; "
               "nohup sh -c 'echo $$ >own/cgroup.procs; exec bedplated' >/tmp/bedplated.log 2>&1 </dev/null &")
    inside.until("[ -S /run/bedplate/api.sock ] && bedplate list >/dev/null", "the daemon does not answer")
    inside.limits("cgroup v2:", r"/sys/fs/cgroup/own/bedplate/ID")


class Unit:
    """bedplated as a service of systemd, with a VM "a" that was made by it."""

    def __init__(self, inside, systemctl="systemctl", client="bedplate"):
        self.inside, self.systemctl, self.client = inside, systemctl, client
        # It waits for letters by looking for them all the time. Its start takes longer than a process that answers nothing is given.
        inside.run(f"{client} create a {VM} --cpu-limit 5 && {client} start a")
        self.pid = inside.vm("a", client)["pid"]
        self.lives("after its start")

    def show(self, what):
        return self.inside.run(f"{self.systemctl} show -P {what} bedplated").strip()

    def lives(self, when):
        """The VM, the same as ever; asked by a client, which starts the service where it does not run."""
        vm = self.inside.vm("a", self.client)
        equal((vm["state"], vm["pid"], vm.get("error")), ("running", self.pid, None), when)
        equal(self.show("ActiveState"), "active", when)

    def life(self):
        """The service is started anew, killed and stopped; the VM takes no notice."""
        daemon = self.show("MainPID")
        # Who waits for systemctl finds it ready: no client tries again.
        self.inside.run(f"{self.systemctl} restart bedplated && {self.client} list >/dev/null")
        check(self.show("MainPID") != daemon, "it was not started anew")
        self.lives("after a restart")
        daemon = self.show("MainPID")
        self.inside.run(f"{self.systemctl} kill -s KILL bedplated")
        self.inside.until(f"[ $({self.systemctl} show -P MainPID bedplated) != {daemon} ] && [ $({self.systemctl} is-active bedplated) = active ]",
                          "systemd does not start it again")
        self.lives("after a kill")
        daemon = self.show("MainPID")
        self.inside.run(f"{self.systemctl} stop bedplated && [ ! -e /proc/{daemon} ] && [ -e /proc/{self.pid} ]")


def certificates(inside, unit):
    """A new certificate by a reload; the process stays."""
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -days 9 -keyout key.new -out cert.new 2>&1"
    served = "openssl s_client -connect 127.0.0.1:8443 </dev/null 2>/dev/null | openssl x509 -noout -fingerprint"
    inside.run(f"mkdir -p /etc/bedplate; cd /etc/bedplate; {make}; mv key.new key; mv cert.new cert; d=/etc/systemd/system/bedplated.service.d; mkdir -p $d; "
               "printf '[Service]\\nExecStart=\\nExecStart=/usr/local/bin/bedplated --listen 127.0.0.1:8443 --tls-cert %s --tls-key %s\\n' "
               "/etc/bedplate/cert /etc/bedplate/key >$d/tls.conf; systemctl daemon-reload; systemctl restart bedplated")
    daemon, first = unit.show("MainPID"), inside.run(served)
    check("Fingerprint" in first, first)
    inside.run(f"cd /etc/bedplate; {make}; mv key.new key; mv cert.new cert; systemctl reload bedplated")
    inside.until(f'[ "$({served})" != "{first.strip()}" ]', "the new certificate is not served")
    equal(unit.show("MainPID"), daemon, "the process")


def wake(inside):
    """A press comes to nothing where sleep is not deep yet."""
    client = vmm_test.Client(os.path.join(inside.guest.folder, "run/control.sock"))
    for _ in range(10):
        client.ok("power-button")
        with contextlib.suppress(Fault):
            inside.guest.wait_for("PM: suspend exit", 20)
            return
    raise Fault("the guest sleeps on")


def asleep(inside, unit):
    """The guest, the VM's host, is suspended for a while, and its clock jumps. A button wakes it."""
    inside.run("mkdir -p /etc/systemd/logind.conf.d && printf '[Login]\\nHandlePowerKey=ignore\\n' >/etc/systemd/logind.conf.d/key.conf && "
               "systemctl restart systemd-logind")
    inside.guest.text.clear()
    inside.run("nohup sh -c 'sleep 1; echo freeze >/sys/power/state' >/dev/null 2>&1 </dev/null &")
    inside.guest.wait_for("Suspending console", inside.args.limit)
    time.sleep(20)
    wake(inside)
    equal(inside.run("cat /sys/power/suspend_stats/success").strip(), "1", "how often it slept")
    unit.lives("after the host slept")
    inside.run("date -s '+2 days'")
    unit.lives("two days later")
    inside.run("bedplate restart a --timeout 0 && date -s '-3 days'")
    unit.pid = inside.vm("a")["pid"]
    unit.lives("yesterday")


def user(inside):
    """A user's own daemon, by the user's systemd."""
    inside.run("useradd -m -s /bin/bash ann && loginctl enable-linger ann")
    # Her systemd comes a moment after that.
    ann = "runuser -u ann -- env -C / XDG_RUNTIME_DIR=/run/user/$(id -u ann) "
    inside.until(f"{ann} systemctl --user is-system-running >/dev/null", "her systemd does not run")
    inside.run(f"{ann} systemctl --user enable --now bedplated")
    unit = Unit(inside, ann + "systemctl --user", ann + "bedplate --user")
    now = inside.vm("a", unit.client)["now"]
    print(now)
    directory = inside.group(unit.pid)
    check(re.fullmatch(r".*/user@\d+\.service/bedplate\.slice/bedplate-.*\.scope", directory), directory)
    unit.life()
    inside.run(f"{unit.systemctl} start bedplated")
    unit.lives("after a stop")
    # Her guests are asked to shut down also when her daemon has gone before them, like one that a command started.
    inside.run(f"{unit.client} kill a && {unit.client} create b {VM} --cmdline button && {unit.client} start b && {unit.systemctl} stop bedplated && "
               f"{unit.systemctl} stop bedplate-guests")
    equal(inside.run(f"{unit.systemctl} show -P Result bedplate-guests").strip(), "success")
    equal(inside.vm("b", unit.client)["exit"]["name"], "powered-off")
    inside.run(f"{unit.client} delete a b")


def rebooted(inside):
    """Guests shut down before their host does, the last one to start first; what is to start with the host does, in its order."""
    inside.run(f"for name in c b; do bedplate create $name {VM} --cmdline button || exit 1; done; bedplate edit b --autostart enabled,order=2 && "
               "bedplate edit c --autostart enabled,order=1,delay=3 && systemctl enable bedplated && systemctl start bedplated && "
               "bedplate start b && bedplate start c && d=/etc/systemd/system/bedplate-guests.service.d && mkdir -p $d && "
               "printf '[Service]\\nEnvironment=STOP_TIMEOUT=20\\n' >$d/limit.conf && systemctl daemon-reload")
    inside.guest.text.clear()
    inside.run("systemctl reboot", check=False)
    inside.guest.wait_for(userland.LOGIN, inside.args.limit)
    inside.until("bedplate list | grep -q '^b  *running'", "b does not start by itself")
    vms = {name: inside.vm(name) for name in "abc"}
    equal({name: vm["state"] for name, vm in vms.items()}, {"a": "stopped", "b": "running", "c": "running"})
    # "a" does not hear the button: it is ended, in one way or the other.
    equal({name: vms[name]["exit"]["name"] for name in "bc"}, {"b": "powered-off", "c": "powered-off"})
    events = [json.loads(line) for line in inside.run("bedplate events --json").splitlines()]
    equal([event["name"] for event in events if event["kind"] == "vm.started"], ["c", "b"], "the order")
    stops = [job for job in json.loads(inside.run("bedplate job --json")) if job["kind"] == "vm.stop"][-3:]
    equal([(job["name"], job["state"]) for job in stops], [("a", "done"), ("b", "done"), ("c", "done")], "the order of the shutdown")
    check(all(job["ended"] <= after["created"] for job, after in zip(stops, stops[1:])), stops)


@case
def systemd(inside):
    equal(inside.run("systemctl enable --now bedplated.socket; systemctl is-active bedplated.socket bedplated", check=False).split()[-2:],
          ["active", "inactive"])
    unit = Unit(inside)
    equal(unit.show("TriggeredBy"), "bedplated.socket")
    unit.life()
    unit.lives("after a stop")
    certificates(inside, unit)
    user(inside)
    asleep(inside, unit)
    inside.run("systemctl stop bedplated.socket bedplated && [ ! -e /run/bedplate/api.sock ] && systemctl start bedplated.socket")
    unit.lives("after its socket was away")
    rebooted(inside)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=sorted(CASES))
    userland.add_arguments(parser)
    parser.add_argument("--build", required=True)
    parser.add_argument("--guest", required=True, help="tests/vmm's")
    parser.add_argument("--limit", type=float, default=400, help="seconds for each step")
    args = parser.parse_args()
    userland.prepare(args)
    with tempfile.TemporaryDirectory(prefix="bedplate-userland-") as folder:
        with userland.Guest(args, folder, "basic", ["--run-dir", os.path.join(folder, "run")]) as guest:
            try:
                CASES[args.case](Inside(args, guest))
                guest.power_off(args.limit)
            except (AssertionError, Fault) as fault:
                print(guest.tail())
                sys.exit(f"FAIL {fault}")
    print("good")


if __name__ == "__main__":
    main()
