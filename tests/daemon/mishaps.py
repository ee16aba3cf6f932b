#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What befalls a daemon:  mishaps.py steps|full|clock --build B --guest G [--jobs a,b]

  steps   it is killed before each step of each job, one after the other, and the next one goes on
  full    its disk is full from each write on: what it reported as done is there, the rest is not
  clock   the calendar jumps by years, both ways
"""
import argparse
import http.client
import json
import os
import sys
import tempfile
import time

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__))]
import rig  # noqa: E402
from rig import Daemon, image  # noqa: E402
from service_test import agree  # noqa: E402
from host import check, equal, until  # noqa: E402


class Unlucky(Daemon):
    def __init__(self, folder, mishap, shim):
        self.while_file = os.path.join(folder, "mishap")
        self.mishap = {"LD_PRELOAD": shim, "MISHAP": mishap, "MISHAP_WHILE": self.while_file}
        super().__init__(folder)

    def start(self, mishap=None):
        """Without a mishap unless one is named."""
        saved = dict(self.env)
        if mishap or not self.process:
            self.env.update(self.mishap, MISHAP=mishap or self.mishap["MISHAP"])
        super().start()
        self.env = saved

    def befalls(self, text="1"):
        with open(self.while_file + ".new", "w", encoding="ascii") as file:
            file.write(text)
        os.replace(file.name, self.while_file)

    def over(self):
        if os.path.exists(self.while_file):
            os.unlink(self.while_file)


def asked(d, method, path, body=None):
    """A daemon that has just started looks for its VMs first."""
    return until("it looks for its VMs without end", lambda: (said := d.call(method, path, body))[0] != 503 and said)


def settled(d):
    """Waits until nothing is under way."""
    def moving():
        jobs = [job for job in d.ok("GET", "/v1/jobs")["items"] if job["state"] == "running"]
        for vm in d.ok("GET", "/v1/vms")["items"]:  # what is told of those that run may be a former daemon's word yet
            asked(d, "POST", f"/v1/vms/{vm['id']}/screenshot")
        return jobs + [vm for vm in d.ok("GET", "/v1/vms")["items"]
                       if vm["state"] not in (vm["wanted"], "failed") or (vm.get("pending") and "change_error" not in vm)]

    until(lambda: f"these are under way: {moving()}", lambda: not moving())


def vms(d):
    return {vm["name"]: vm for vm in d.ok("GET", "/v1/vms")["items"]}


# Each job: the state before, the request, and what the VM may be afterwards (None: it is not there).
def jobs(folder):
    disk = image(folder, "plugged")
    new = {"name": "a", "memory": "32M", "kernel": rig.ARGS.guest, "engine": "soft", "nets": []}
    return {
        "create": (None, ("POST", "/v1/vms", new), (None, "stopped")),
        "start": ("stopped", ("POST", "/v1/vms/a/start", None), ("stopped", "running")),
        "kill": ("running", ("POST", "/v1/vms/a/kill", None), ("running", "stopped")),
        "stop": ("running", ("POST", "/v1/vms/a/stop", {"timeout": 0}), ("running", "stopped")),
        "restart": ("running", ("POST", "/v1/vms/a/restart", {"timeout": 0}), ("running",)),
        "pause": ("running", ("POST", "/v1/vms/a/pause", None), ("running", "paused")),
        "resume": ("paused", ("POST", "/v1/vms/a/resume", None), ("paused", "running")),
        "save": ("running", ("POST", "/v1/vms/a/save", None), ("running", "saved")),
        "restore": ("saved", ("POST", "/v1/vms/a/restore", None), ("saved", "running")),
        "discard": ("saved", ("POST", "/v1/vms/a/kill", None), ("saved", "stopped")),
        "change": ("running", ("PATCH", "/v1/vms/a", {"disks": [{**disk, "iops": 10}]}), ("running",)),
        "delete": ("stopped", ("DELETE", "/v1/vms/a", None), ("stopped", None)),
    }


def bring(d, state, new):
    """The VM `a` as the job needs it."""
    there = vms(d).get("a")
    if there and there["state"] == "saved" and state != "saved":
        d.done("a", "kill")
    if there and (state is None or there.get("disks")):
        if vms(d)["a"]["state"] != "stopped":
            d.done("a", "kill")
        equal(d.job(d.ok("DELETE", "/v1/vms/a"))["state"], "done")
        there = None
    if state is None:
        return
    if not there:
        equal(d.job(d.ok("POST", "/v1/vms", new))["state"], "done")
    now = vms(d)["a"]["state"]
    if state == "stopped" and now != "stopped":
        d.done("a", "kill")
    if state in ("running", "paused") and now != "running":
        d.done("a", "start")
    if state == "paused":
        equal(asked(d, "POST", "/v1/vms/a/pause")[0], 204)
    if state == "saved" and now != "saved":
        if now != "running":
            d.done("a", "start")
        d.done("a", "save")


def one_step(d, name, number, job):
    """Dies before that step; False: the job has fewer."""
    state, (method, path, body), allowed = job
    d.kill()
    d.start(f"die:{number}")
    settled(d)
    d.befalls()
    died = False
    try:
        status, answer = asked(d, method, path, body)
        check(status < 300, f"{name}: {status} {answer}")
        if answer and "kind" in answer:
            equal(d.job(answer)["state"], "done", name)
    except (OSError, http.client.HTTPException, json.JSONDecodeError):
        died = True
    if not died:  # what follows the answer
        time.sleep(0.1)
        died = d.process.poll() is not None
    d.over()
    d.kill()
    d.start()
    settled(d)
    where = f"{name}, killed before step {number}"
    vm = vms(d).get("a")
    check((vm and vm["state"]) in allowed, f"{where}: the VM is {vm}")
    check(not vm or vm["state"] == vm["wanted"], f"{where}: {vm}")
    if not died:
        check((vm and vm["state"]) == allowed[-1], f"{name}: {vm}")
    if name == "change" and vm.get("disks"):
        # The former daemon's word may stand until its VM was asked.
        vm = until(lambda: f"{where}: {vms(d)}", lambda: (now := vms(d)["a"])["now"]["disks"] and not now["pending"] and now)
        equal(vm["now"]["disks"][-1].get("iops"), 10, where)
    saved = vm and os.path.exists(os.path.join(d.folder, "s/bedplate/vms", vm["id"], "saved"))
    equal(bool(saved), bool(vm and vm["state"] == "saved"), f"{where}: a saved state")
    for base in ("r", "s"):
        left = set(os.listdir(os.path.join(d.folder, base, "bedplate/vms"))) - ({vm["id"]} if vm else set())
        check(not left, f"{where}: directories of nobody: {left}")
    agree(d, [])
    return died


def steps(folder, shim, only):
    with Unlucky(folder, "none", shim) as d:
        for name, job in jobs(folder).items():
            if only and name not in only:
                continue
            number = 1
            while True:
                bring(d, job[0], {"name": "a", "memory": "32M", "kernel": rig.ARGS.guest, "engine": "soft", "nets": []})
                if not one_step(d, name, number, job):
                    break
                number += 1
                check(number < 200, f"{name} never ends")
            print(f"{name}: killed before each of {number - 1} steps")
            check(number > 5, f"{name} has no steps")


def full(folder, shim, _only):
    with Unlucky(folder, "full:1", shim) as d:
        d.create("kept")
        refused = 0
        for number in range(1, 40):
            d.kill()
            d.start(f"full:{number}")
            d.befalls()
            made = []
            for attempt in range(3):
                name = f"n{number}-{attempt}"
                status, answer = d.call("POST", "/v1/vms", {"name": name, "memory": "32M", "kernel": rig.ARGS.guest, "nets": []})
                if status == 202:
                    made.append(name)
                else:
                    equal(status, 507, answer)
                    check("make room" in answer["error"]["message"], answer)
                    refused += 1
            status, answer = d.call("PATCH", "/v1/vms/kept", {"description": str(number)})
            changed = status == 200
            # With room again the same daemon goes on.
            d.over()
            d.ok("PATCH", "/v1/vms/kept", {"labels": {"n": str(number)}})
            before = vms(d)
            check(set(made) <= set(before), f"{made} {sorted(before)}")
            d.kill()
            d.start()
            settled(d)
            after = vms(d)
            equal(sorted(after), sorted(before), f"full from write {number} on")
            equal(after["kept"]["labels"], {"n": str(number)})
            if changed:
                equal(after["kept"]["description"], str(number))
            for name in [name for name in after if name.startswith("n")]:
                d.job(d.ok("DELETE", f"/v1/vms/{name}"))
            if not refused and number > 1:
                break
            if number > 12 and len(made) == 3:
                break
        check(refused > 5, "the disk was never full")


def clock(folder, shim, _only):
    years = 365 * 86400
    with Unlucky(folder, "clock", shim) as d:
        d.create("a")
        d.befalls("0")
        last_job = last_event = 0
        for ahead in (0, 10 * years, -10 * years, 3600, 0):
            d.befalls(str(ahead))
            d.done("a", "start")
            started = d.vm("a")["started"]
            check(abs(started - time.time() - ahead) < 60, f"started {started} with a clock {ahead} s ahead")
            before = time.monotonic()
            job = d.ok("POST", "/v1/vms/a/stop", {"timeout": 1})
            equal(d.job(job)["state"], "done")
            check(time.monotonic() - before > 0.9, "the deadline followed the calendar")
            check(int(job["id"]) > last_job, "jobs' numbers fell")
            last_job = int(job["id"])
            event = int(d.ok("GET", "/v1/events")["items"][-1]["id"])
            check(event > last_event, "events' numbers fell")
            last_event = event
            check("vm.started" in {event["kind"] for event in d.ok("GET", f"/v1/events?after={last_event + 5}")["items"]},
                  "a follower from the future hears nothing")
        # A stop that another daemon goes on with, while the clock jumps.
        for ahead, least in ((10 * years, 0), (-10 * years, 1)):
            d.befalls("0")
            d.done("a", "start")
            job = d.ok("POST", "/v1/vms/a/stop", {"timeout": 5})
            d.kill()
            d.befalls(str(ahead))
            before = time.monotonic()
            d.start("clock")
            equal(d.job(job)["state"], "done")
            took = time.monotonic() - before
            check(least <= took, f"{took} s with a clock {ahead} s ahead")
        d.befalls("0")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=("steps", "full", "clock"))
    parser.add_argument("--build", required=True)
    parser.add_argument("--guest", required=True)
    parser.add_argument("--shim", required=True)
    parser.add_argument("--jobs", help="of steps; without it: all")
    args = parser.parse_args()
    args.guest = os.path.abspath(args.guest)
    rig.ARGS = args
    with tempfile.TemporaryDirectory(prefix="bp") as folder:
        {"steps": steps, "full": full, "clock": clock}[args.case](folder, os.path.abspath(args.shim), args.jobs and args.jobs.split(","))


if __name__ == "__main__":
    main()
