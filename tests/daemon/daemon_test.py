#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the VMs of a daemon go through:  daemon_test.py CASE --build BUILD --guest G

The guest is tests/vmm/guest.S, which obeys single letters from its serial port.
"""
import json
import os
import re
import signal
import socket
import subprocess
import time

import rig
from rig import Daemon, case, image  # and with it the way to tests/vmm
from host import LIMIT, check, equal, free_port, until
import vmm_test


@case
def lifecycle(folder):
    with Daemon(folder) as d:
        d.create("a")
        equal(d.vm("a")["state"], "stopped", "after create")
        d.done("a", "start")
        vm = d.vm("a")
        equal((vm["state"], vm["wanted"], vm["running_engine"]), ("running", "running", "soft"))
        equal([vm["pid"]], d.processes(), "processes")
        d.done("a", "start")  # already there: nothing happens
        equal(d.vm("a")["pid"], vm["pid"], "the same process")
        d.ok("POST", "/v1/vms/a/pause")
        equal(d.vm("a")["state"], "paused")
        d.done("a", "start")
        d.becomes("a", "running")
        d.ok("POST", "/v1/vms/a/pause")
        d.ok("POST", "/v1/vms/a/resume")
        equal(d.vm("a")["state"], "running")
        d.ok("POST", "/v1/vms/a/reset")
        d.refused("DELETE", "/v1/vms/a", 409, "stop or kill it first")
        # This guest does not hear the power button: the deadline comes.
        started = time.monotonic()
        d.done("a", "stop", {"timeout": 1})
        check(time.monotonic() - started >= 1, "the guest had no time")
        vm = d.vm("a")
        equal((vm["state"], vm["exit"]["name"]), ("stopped", "quit"))
        check("pid" not in vm and not d.processes(), f"a process is left: {vm}")
        d.done("a", "restart")
        equal(d.vm("a")["state"], "running")
        pid = d.vm("a")["pid"]
        d.done("a", "restart", {"timeout": 0})
        check(d.vm("a")["pid"] != pid, "restart kept the process")
        # The guest powers off.
        d.console("a").sendall(b"p")
        d.becomes("a", "stopped")
        equal(d.vm("a")["exit"]["name"], "powered-off")
        # A process that is killed is a failure, and says so.
        d.done("a", "start")
        os.kill(d.vm("a")["pid"], signal.SIGKILL)
        d.becomes("a", "failed")
        check("killed or crashed" in d.vm("a")["error"], d.vm("a"))
        d.done("a", "start")
        d.done("a", "kill")
        equal(d.job(d.ok("DELETE", "/v1/vms/a"))["state"], "done")
        d.refused("GET", "/v1/vms/a", 404, "there is no vm 'a'")
        equal(os.listdir(os.path.join(folder, "r/bedplate/vms")), [], "run directories")


@case
def failures(folder):
    with Daemon(folder) as d:
        d.create("gone", kernel="/nonexistent/kernel")
        job = d.act("gone", "start")
        equal(job["state"], "failed")
        check("/nonexistent/kernel" in job["error"]["message"], job)
        vm = d.vm("gone")
        equal((vm["state"], vm["wanted"]), ("failed", "stopped"))
        check("/nonexistent/kernel" in vm["error"], vm)
        d.ok("PATCH", "/v1/vms/gone", {"kernel": rig.ARGS.guest})
        d.done("gone", "start")
        check("error" not in d.vm("gone"), "an old error stays")
        # Restart policies.
        d.create("again", restart="on-failure")
        d.done("again", "start")
        pid = d.vm("again")["pid"]
        os.kill(pid, signal.SIGKILL)

        def again():
            vm = d.vm("again")
            return vm.get("pid", pid) != pid and vm["state"] == "running"

        until(lambda: f"it was not started again: {d.vm('again')}", again)
        equal(d.vm("again")["restarts"], 1)
        d.console("again").sendall(b"p")
        d.becomes("again", "stopped")
        d.create("always", restart="always")
        d.done("always", "start")
        d.console("always").sendall(b"p")

        def always():
            vm = d.vm("always")
            return vm.get("restarts") == 1 and vm["state"] == "running"

        until(lambda: f"it was not started again: {d.vm('always')}", always)
        d.done("always", "kill")
        time.sleep(1.5)
        equal(d.vm("always")["state"], "stopped", "killed is not started again")


@case
def promises(folder):
    """What the reference says of a VM's fields and of jobs."""
    with Daemon(folder) as d:
        # The guest sees the id; a card's address is made once and kept.
        d.create("a", nets=[{"backend": "user"}, {"backend": "user", "mac": "52:54:00:00:00:01"}])
        vm = d.vm("a")
        macs = [net["mac"] for net in vm["nets"]]
        check(macs[0].startswith("52:54:00:") and macs[1] == "52:54:00:00:00:01", macs)
        d.ok("PATCH", "/v1/vms/a", {"nets": [{"backend": "user", "model": "e1000e"}, {"backend": "user", "mac": "52:54:00:00:00:02"}]})
        equal([net["mac"] for net in d.vm("a")["nets"]], [macs[0], "52:54:00:00:00:02"], "after the change")
        d.refused("PATCH", "/v1/vms/a", 422, "another card", {"nets": [{"backend": "user", "mac": "52:54:00:00:00:0a"}] * 2},
                  field="nets[0].mac")
        d.refused("PATCH", "/v1/vms/a", 422, "multicast", {"nets": [{"backend": "user", "mac": "01:00:00:00:00:0a"}]}, field="nets[0].mac")
        d.ok("PATCH", "/v1/vms/a", {"nets": []})
        d.done("a", "start")
        fields = bytes.fromhex(vm["id"].replace("-", ""))
        equal(d.guest("a", b"u", rb"(?m)^([0-9a-f]{32})$"), (fields[3::-1] + fields[5:3:-1] + fields[7:5:-1] + fields[8:]).hex(), "the guest's UUID")
        check("vnc" not in d.vm("a"), "there is no screen")
        d.done("a", "kill")
        # The screen's socket is told while there is one.
        d.ok("PATCH", "/v1/vms/a", {"display": True})
        d.done("a", "start")
        screen = socket.socket(socket.AF_UNIX)
        screen.connect(d.vm("a")["vnc"])
        equal(screen.recv(4), b"RFB ")
        screen.close()
        d.done("a", "kill")
        check("vnc" not in d.vm("a"), "the screen's socket is told after the end")
        # Variables of the firmware are kept, and go with the VM.
        kept = os.path.join(folder, "s/bedplate/vms", vm["id"])
        if os.path.exists("/usr/share/OVMF/OVMF_VARS_4M.fd"):
            d.create("uefi", kernel=None, firmware="uefi")
            d.done("uefi", "start")
            variables = os.path.join(folder, "s/bedplate/vms", d.vm("uefi")["id"], "uefi-vars")
            check(os.path.getsize(variables) > 0, "variables")
            d.done("uefi", "kill")
            check(os.path.exists(variables), "variables are gone at the end")
            equal(d.job(d.ok("DELETE", "/v1/vms/uefi"))["state"], "done")
            check(not os.path.exists(os.path.dirname(variables)), "variables are left")
        # Jobs: who asked, what came of it.
        job = d.job(d.ok("POST", "/v1/vms", {"name": "b", "memory": "32M", "kernel": rig.ARGS.guest, "nets": []}))
        equal((job["user"], job["result"]), (d.vm("b")["owner"], {"id": d.vm("b")["id"]}))
        # What it would be, without making it.
        planned = d.ok("POST", "/v1/vms?dry_run=true", {"name": "c", "memory": "1G"})
        equal((planned["memory"], planned["cpus"]), (1 << 30, 1))
        # What is chosen at random would be another one then.
        check(not {"id", "console"} & set(planned) and "mac" not in planned["nets"][0], planned)
        twice = {"name": "c", "nets": [{"backend": "user", "mac": "52:54:00:00:00:01"}] * 2}
        d.refused("POST", "/v1/vms?dry_run=true", 422, "another card", twice, field="nets[0].mac")
        d.refused("POST", "/v1/vms?dry_run=true", 409, "is taken", {"name": "b"})
        d.refused("GET", "/v1/vms/c", 404, "no vm")
        equal(d.job(d.ok("DELETE", "/v1/vms/a"))["state"], "done")
        check(not os.path.exists(kept), "the state directory is left")


@case
def saving(folder):
    with Daemon(folder) as d:
        d.create("a", restart="always")
        d.refused("POST", "/v1/vms/a/save", 409, "does not run")
        d.refused("POST", "/v1/vms/a/restore", 409, "no saved state")
        d.done("a", "start")

        def count():
            return d.guest("a", b"i", rb"(?m)^([0-9a-f]{8})$")
        equal(count(), "00000001")
        job = d.act("a", "save")
        equal(job["state"], "done", job)
        check(job["result"]["bytes"] > 4096, job)
        vm = d.vm("a")
        equal((vm["state"], vm["wanted"], vm["exit"]["name"], d.processes()), ("saved", "saved", "saved", []))
        for action in ("stop", "restart"):
            d.refused("POST", f"/v1/vms/a/{action}", 409, "kill throws the saved state away")
        d.refused("PATCH", "/v1/vms/a", 409, "the VM is saved", {"cpus": 2})
        d.ok("PATCH", "/v1/vms/a", {"description": "live"})
        # Not even a daemon that is killed at this moment loses it.
        for action in ("restore", "start"):
            d.kill()
            d.start()
            equal(d.vm("a")["state"], "saved")
            d.done("a", action)
            number = int(count(), 16)
            d.done("a", "save")
        equal(number, 3, "it went on from where it was")
        # A state that cannot be loaded stays, and says why.
        saved = os.path.join(folder, "s/bedplate/vms", vm["id"], "saved")
        with open(saved, "r+b") as file:
            file.seek(100)
            byte = file.read(1)
            file.seek(100)
            file.write(bytes([byte[0] ^ 1]))
        job = d.act("a", "start")
        equal((job["state"], d.vm("a")["state"]), ("failed", "saved"), job)
        with open(saved, "r+b") as file:
            file.seek(100)
            file.write(byte)
        d.done("a", "start")
        equal(int(count(), 16), 4)
        check(not os.path.exists(saved), "a state that was used is left")
        d.done("a", "save")
        d.done("a", "kill")
        equal((d.vm("a")["state"], os.path.exists(saved)), ("stopped", False))
        d.done("a", "start")
        equal(int(count(), 16), 1, "it began anew")
        d.ok("POST", "/v1/vms/a/pause")
        d.done("a", "save")
        equal(d.job(d.ok("DELETE", "/v1/vms/a"))["state"], "done")
        check(not os.path.exists(os.path.dirname(saved)), "the saved state is left")


@case
def cancels(folder):
    with Daemon(folder) as d:
        d.create("a")
        d.done("a", "start")
        job = d.ok("POST", "/v1/vms/a/stop", {"timeout": 600})
        until("no stage", lambda: d.ok("GET", "/v1/jobs/" + job["id"]).get("stage") == "waiting for the guest to shut down")
        d.refused("POST", "/v1/vms/a/pause", 409, "under way")
        d.ok("POST", f"/v1/jobs/{job['id']}/cancel")
        equal((d.job(job)["state"], d.vm("a")["state"], d.vm("a")["wanted"]), ("cancelled", "running", "running"))
        d.refused("POST", f"/v1/jobs/{job['id']}/cancel", 409, "over")
        d.refused("POST", f"/v1/jobs/{job['id']}/fly", 404, "no action")
        job = d.ok("POST", "/v1/vms/a/restart", {"timeout": 600})
        d.kill()
        d.start()
        d.ok("POST", f"/v1/jobs/{job['id']}/cancel")
        d.becomes("a", "running")
        d.done("a", "stop", {"timeout": 0})
        # A start that hangs: its kernel is a pipe that nobody writes.
        fifo = os.path.join(folder, "fifo")
        os.mkfifo(fifo)
        d.ok("PATCH", "/v1/vms/a", {"kernel": fifo})
        job = d.act("a", "start")
        equal(job["state"], "failed", job)
        d.ok("PATCH", "/v1/vms/a", {"kernel": rig.ARGS.guest})
        job = d.ok("POST", "/v1/vms/a/start")
        status, answer = d.call("POST", f"/v1/jobs/{job['id']}/cancel")
        state = d.job(job)["state"]
        check((status, state) in ((204, "cancelled"), (409, "done")), f"{status} {answer} {state}")
        if status == 204:
            d.becomes("a", "stopped")
        else:
            d.done("a", "kill")
        equal(d.processes(), [])


@case
def autostart(folder):
    """In their order, with delays, once after the host started; what a person stopped stays so."""
    with Daemon(folder) as d:
        for name, order in (("c", 30), ("a", 20), ("b", 10)):
            d.create(name, autostart={"enabled": True, "order": order, "delay": 3600 if name == "b" else 0})
        d.create("off")
        d.kill()
        d.start()
        time.sleep(0.5)
        equal({vm["state"] for vm in d.ok("GET", "/v1/vms")["items"]}, {"stopped"}, "a daemon is not a host")
        d.kill()
        os.unlink(os.path.join(folder, "r/bedplate/boot"))  # as a start of the host does
        d.start()
        d.becomes("b", "running")
        equal((d.vm("a")["state"], d.vm("c")["state"]), ("starting", "starting"), "before the delay is over")
        equal([event["name"] for event in d.ok("GET", "/v1/events?kind=vm.started")["items"]], ["b"])
        # One that a daemon was killed over comes all the same.
        d.kill()
        d.start()
        for name in ("a", "b", "c"):
            d.becomes(name, "running")
        equal(d.vm("off")["state"], "stopped")
        # A delay that ends.
        for name in ("a", "b", "c"):
            d.done(name, "kill")
        d.ok("PATCH", "/v1/vms/b", {"autostart": {"enabled": True, "order": 10, "delay": 1}})
        d.kill()
        os.unlink(os.path.join(folder, "r/bedplate/boot"))
        d.start()
        for name in ("a", "b", "c"):
            d.becomes(name, "running")


class Silent:
    """A server for disks that takes connections and says nothing; whose VMs do not come up."""

    def __init__(self, d):
        self.socket = socket.create_server(("127.0.0.1", 0))
        d.create("a", disks=[{"path": f"nbd://127.0.0.1:{self.socket.getsockname()[1]}/x", "format": "raw"}])

    def hang(self, d):
        job = d.ok("POST", "/v1/vms/a/start")
        self.socket.settimeout(LIMIT)
        self.connection = self.socket.accept()
        equal(d.vm("a")["state"], "starting")
        return job


@case
def hangs(folder):
    """One that does not come up can be killed, by the daemon that began it and by the next."""
    with Daemon(folder) as d:
        silent = Silent(d)
        job = silent.hang(d)
        d.done("a", "kill")
        equal((d.job(job)["state"], d.vm("a")["state"], d.processes()), ("failed", "stopped", []))
        silent.hang(d)
        d.kill()
        d.start()
        equal(d.vm("a")["state"], "starting")
        d.done("a", "kill")
        equal((d.vm("a")["state"], d.processes()), ("stopped", []))


@case
def hangs_long(folder):
    """It is found out, also by the next daemon."""
    with Daemon(folder) as d:
        silent = Silent(d)
        job = silent.hang(d)
        for pid in d.processes():
            os.kill(pid, signal.SIGSTOP)
        d.kill()
        d.start()
        job = d.job(job, limit=1800)
        equal((job["state"], d.vm("a")["state"], d.processes()), ("failed", "failed", []))
        check("did not answer" in job["error"]["message"] and "did not answer" in d.vm("a")["error"], job)


@case
def stop_all(folder):
    """Those without autostart first, then the last that started; each has its time, and what goes on meanwhile may end."""
    with Daemon(folder) as d:
        vms = {"lone": None, "first": 1, "last": 7, "last2": 7, "second": 3}
        for name, order in vms.items():
            more = {"autostart": {"enabled": True, "order": order}} if order else {}
            d.create(name, restart="always", cmdline="button", **more)
            d.done(name, "start")
        d.create("off")
        d.ok("POST", "/v1/vms/first/pause")
        # A job that is under way is waited for.
        busy = d.ok("POST", "/v1/vms/last2/save")
        check("takes no names" in d.cli("stop", "--all", "lone", status=2), "names")
        d.cli("stop", "--all")
        equal(d.job(busy)["state"], "done")
        equal({name: (d.vm(name)["state"], d.vm(name)["exit"]["name"]) for name in vms},
              {"lone": ("stopped", "powered-off"), "first": ("stopped", "powered-off"), "last": ("stopped", "powered-off"),
               "last2": ("saved", "saved"), "second": ("stopped", "powered-off")})
        stops = sorted((job for job in d.ok("GET", "/v1/jobs?kind=vm.stop")["items"]), key=lambda job: int(job["id"]))
        equal([job["name"] for job in stops], ["lone", "last", "second", "first"], "the order")
        check(all(job["ended"] <= after["created"] for job, after in zip(stops, stops[1:])), stops)
        # One that does not end in time is ended, also where a job is in the way.
        d.create("deaf")
        d.done("deaf", "start")
        d.ok("POST", "/v1/vms/deaf/stop", {"timeout": 3600})
        d.cli("stop", "--all", "--timeout", "1")
        equal(d.vm("deaf")["state"], "stopped")


@case
def changes(folder):
    """Of a VM that runs: what can be done now is, and the rest says that it waits."""
    def in_force(disk):
        """Its limits, by its process's word."""
        client = vmm_test.Client(os.path.join(os.path.dirname(d.vm("a")["console"]), "control.sock"))
        limits = {name: value for name, value in client.ok("disk-throttle", disk=disk)["limits"].items() if value}
        client.socket.close()
        return limits

    with Daemon(folder) as d:
        one, two, three = (image(folder, name) for name in ("one", "two", "three"))
        cds = [image(folder, name)["path"] for name in ("cd1", "cd2")]
        d.create("a", disks=[one], cdrom=cds[0], nets=[{"backend": "user"}], memory="64M")
        d.done("a", "start")
        vm = d.vm("a")
        equal((vm["pending"], vm["now"]["cpus"], vm["now"]["memory"]), ([], 1, 64 << 20))

        def patch(**fields):
            vm = d.ok("PATCH", "/v1/vms/a", fields)
            return vm, {disk["drive"]: disk for disk in vm["now"]["disks"]}

        # Names and policies at once, vCPUs at the next start.
        vm, _ = patch(cpus=2, description="x", restart="never", cmdline="y")
        equal((vm["pending"], vm["now"]["cpus"]), (["cpus", "cmdline"], 1))
        vm, _ = patch(cpus=1, cmdline=None)
        equal(vm["pending"], [], "as it was")
        # Each field that waits is named, also by the next daemon, and nothing else.
        waiting = {"engine_options": "jit=off", "boot_menu": True, "cloud_init": {"user": "ann"}, "cdrom_bus": "ide", "agent": False,
                   "keymap": "de", "gdb_wait": True}
        vm, _ = patch(**waiting)
        equal(set(vm["pending"]) - {"cdrom"}, set(waiting))
        d.kill()
        d.start()
        patch(boot_menu=False)
        until("the next daemon knows it", lambda: set(d.vm("a")["pending"]) - {"cdrom"} == set(waiting) - {"boot_menu"})
        patch(**{name: {"agent": True, "gdb_wait": False}.get(name) for name in waiting})
        until("it stays pending", lambda: not d.vm("a")["pending"])
        for name, value in (("cache", "unsafe"), ("discard", "ignore"), ("detect_zeroes", "on")):
            equal(patch(disks=[{**one, name: value}])[0]["pending"], ["disks"], name)
        equal(patch(disks=[one])[0]["pending"], [], "as it was")
        # Limits.
        vm, disks = patch(disks=[{**one, "iops": 100, "bps": "1M"}])
        equal((vm["pending"], disks["disk1"]["iops"], disks["disk1"]["bps"]), ([], 100, 1 << 20), vm)
        vm, disks = patch(disks=[{**one, "bps": "2M", "bps_burst": "3M", "bps_burst_s": 5, "iops_wr": 7}])
        equal((vm["pending"], disks["disk1"].get("iops"), disks["disk1"]["bps"], disks["disk1"]["bps_burst"]), ([], None, 2 << 20, 3 << 20), vm)
        equal(in_force(one["path"]), {"bps": 2 << 20, "bps-burst": 3 << 20, "bps-burst-s": 5, "iops-wr": 7})
        # A disk is plugged in, with its limit; one that cannot be waits.
        vm, disks = patch(disks=[one, {**two, "iops": 50, "serial": "S-2", "queues": 2}, {**three, "cache": "none"}])
        equal((vm["pending"], disks["hot1"]["path"], disks["hot1"]["iops"], disks["hot1"]["removable"]),
              (["disks"], two["path"], 50, True), vm)
        equal((in_force(one["path"]), in_force(two["path"])), ({}, {"iops": 50}))
        two = {**two, "serial": "S-2", "queues": 2}
        vm, _ = patch(disks=[one, {"path": "/nonexistent"}, {**two, "iops": 50}])
        check("cannot open /nonexistent" in vm["change_error"], vm)
        vm, disks = patch(disks=[one, {**two, "iops": 50}])
        equal((vm["pending"], "change_error" in vm, sorted(disks)), ([], False, ["cdrom0", "disk1", "hot1"]), vm)
        # Media.
        vm, disks = patch(cdrom=cds[1])
        equal((vm["pending"], disks["cdrom0"]["path"]), ([], cds[1]))
        vm, disks = patch(cdrom=None)
        equal((vm["pending"], "path" in disks["cdrom0"]), ([], False))
        vm, _ = patch(cdrom=cds[0])
        # A network card. What was there from the start stays until the next one.
        vm, _ = patch(nets=[vm["nets"][0], {"backend": "user"}])
        equal((vm["pending"], [net["removable"] for net in vm["now"]["nets"]]), ([], [False, True]), vm)
        vm, _ = patch(nets=vm["nets"][1:])
        equal((vm["pending"], len(vm["now"]["nets"])), (["nets"], 2))
        # This guest never switched its slot on: what is there goes at once.
        patch(disks=[one])
        until(lambda: f"the disk stays: {d.vm('a')}", lambda: d.vm("a")["pending"] == ["nets"])
        equal([disk["drive"] for disk in d.vm("a")["now"]["disks"]], ["cdrom0", "disk1"])
        patch(disks=[one, {**two, "iops": 50}])
        check(any(event["kind"] == "vm.change-failed" for event in d.ok("GET", "/v1/events")["items"]), "events")
        # The same daemon or another: what is real is asked, not remembered.
        now = d.vm("a")["now"]
        d.kill()
        d.start()
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            equal("limits" in d.vm("a")["now"], "limits" in now, "limits of which another daemon knew")

        def seen():
            vm = d.vm("a")
            return (vm["now"], vm["pending"]) == (now, ["nets"])

        until(lambda: f"another daemon says {d.vm('a')}, not {now}", seen)
        # It is saved with what was plugged in, and goes on with it.
        d.guest("a", b"i", rb"(?m)^([0-9a-f]{8})$")
        d.done("a", "save")
        check("now" not in d.vm("a"), d.vm("a"))
        d.done("a", "start")
        equal(d.vm("a")["now"], now, "after the restore")
        equal(d.guest("a", b"i", rb"(?m)^([0-9a-f]{8})$"), "00000002")
        # A guest is asked to do with less, and later with all again.
        vm, _ = patch(memory="48M")
        equal((vm["now"]["memory_target"], vm["pending"]), (48 << 20, ["memory", "nets"]))
        vm, _ = patch(memory="64M")
        equal((vm["now"]["memory_target"], vm["pending"]), (64 << 20, ["nets"]))
        d.done("a", "restart", {"timeout": 0})
        equal((d.vm("a")["pending"], len(d.vm("a")["now"]["nets"])), ([], 1))


# Of bedplate-vmm's options those that are the daemon's own: it finds, names and keeps these.
OWN_OPTIONS = {"uuid", "uefi-vars", "run-dir", "control", "save", "restore", "restore-once", "config", "check", "version", "help", "serial"}


@case
def options(folder):
    """Whatever bedplate-vmm can do a VM can have: its options and their parts are compared with what the daemon gives it."""
    program = os.path.join(rig.ARGS.build, "src/vmm/bedplate-vmm")
    known = set(re.findall(r"^  --([a-z-]+)", subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout, re.M))

    def parts(option, first):
        said = subprocess.run([program, "--" + option, first + ",wrong=1", "--check"], capture_output=True, text=True, check=False).stderr
        return set(re.split(", | and ", re.split("known are |there are ", said)[1].strip()))

    paths = {name: os.path.join(folder, name) for name in ("key", "tls", "psk", "tftp", "iso", "fw")}
    os.mkdir(paths["tftp"])
    for name in ("iso", "fw"):
        with open(paths[name], "wb") as file:
            file.write(bytes(65536))
    disk = {**image(folder, "one.img"), "bus": "virtio", "serial": "S-1", "cache": "writeback", "discard": "ignore", "iops": 1000, "bps": "10M",
            "iops_burst": 2000, "iops_burst_s": 10, "bps_burst": "20M", "bps_burst_s": 10, "throttle_group": "g", "on_full": "pause", "on_error": "pause",
            "copy_on_read": "off", "detect_zeroes": "on", "queues": 1, "io_thread": "t"}
    reader = {**image(folder, "two.img"), "readonly": True, "bps_wr": "1M", "bps_wr_burst": "2M", "bps_wr_burst_s": 3,
              **{f"{limit}{end}": value for limit in ("iops_rd", "iops_wr", "bps_rd") for end, value in (("", 500), ("_burst", 600), ("_burst_s", 2))}}
    with Daemon(folder) as d:
        words = d.cli("create", "--help")
        asked = d.ok("POST", "/v1/vms?dry_run=true", {"name": "x", "kernel": rig.ARGS.guest, "disks": [
            {**disk, "key_file": paths["key"], "tls_certificates": paths["tls"], "tls_psk_file": paths["psk"]}]})
        check(asked["disks"][0]["key_file"] == paths["key"] and "--engine-options" in words, asked)
        d.create("a", engine_options="jit=off", cpu="x86-64-v2", cmdline="x", disks=[disk, reader], cdrom=paths["iso"], cdrom_bus="sata",
                 cdroms=[{"bus": "ide"}], nets=[{"backend": "user", "tftp": paths["tftp"], "bootfile": "x", "model": "e1000e",
                                                 "forwards": [f"tcp:127.0.0.1:{free_port()}-:22"]}],
                 video="virtio", display=True, usbs=["tablet", "keyboard"], inputs=["tablet"], ports=["org.example.0"], virtio_console=True,
                 debug_console=True, gdb=True, balloon=False, reboot=False, watchdog="pause", initrd=paths["iso"], keymap="de")
        d.create("b", kernel=None, firmware="bios", boot="dc", boot_menu=True, boot_timeout=100, display=True, clipboard=False,
                 gdb=True, gdb_wait=True)
        given, parts_given = set(), {"disk": {"key-file", "tls-certificates", "tls-psk-file"}, "net": set(), "display": set()}
        for name in "ab":
            d.done(name, "start")
            vm = d.vm(name)
            with open(os.path.join(folder, "r/bedplate/vms", vm["id"], "config.json"), encoding="utf-8") as file:
                config = json.load(file)
            given |= set(config)
            for option, got in parts_given.items():
                entries = config.get(option, [])
                for entry in entries if isinstance(entries, list) else [entries]:
                    got |= set(entry)
            equal(vm["pending"], [], f"{name} runs with something else")
            equal({part: word for part, word in config["display"].items() if part != "viewer"},
                  {"keymap": "de"} if name == "a" else {"clipboard": "off"}, "parts of --display")
        equal(known - given - OWN_OPTIONS, set(), "what a VM cannot have")
        disk_parts = parts("disk", "a")
        bursts = {part + end for part in disk_parts if part.startswith(("iops", "bps")) for end in ("-burst", "-burst-s")}
        equal((len(bursts), (disk_parts | bursts) - parts_given["disk"]), (12, set()), "parts of --disk that a VM's disk cannot have")
        # Viewers come to the screen through the daemon, which has its own passwords and TLS.
        equal(parts("display", "vnc=unix:/x") - parts_given["display"], {"password-file", "tls-cert", "tls-key", "tls-ca"})
        equal((d.vm("b")["state"], d.vm("b")["paused_by"]), ("paused", "debugger"), "it waits for gdb")
        equal(parts("net", "user") - parts_given["net"], set(), "parts of --net that a VM's card cannot have")
        folder_a = os.path.dirname(d.vm("a")["console"])
        for name in ("hvc.sock", "port-org.example.0.sock", "gdb.sock", "agent.sock", "debug.log"):
            check(os.path.exists(os.path.join(folder_a, name)), f"there is no {name}")
        for name in "ab":
            d.done(name, "kill")


if __name__ == "__main__":
    rig.main()
