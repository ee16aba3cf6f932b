#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""bedplated and bedplate as their users meet them:  daemon_test.py CASE --build BUILD --guest G

The guest is tests/vmm/guest.S, which obeys single letters from its serial port.
"""
import argparse
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "vmm")]
import vmm_test  # noqa: E402
from host import LIMIT, check, free_port, kill_all, processes, until  # noqa: E402

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def equal(got, want, what=""):
    check(got == want, f"{what}: got {got!r}, want {want!r}")


class Http(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("bedplate", timeout=LIMIT)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LIMIT)
        self.sock.connect(self.path)


def listed(folder):
    """The names in it; none when it is not there."""
    with contextlib.suppress(FileNotFoundError):
        return os.listdir(folder)
    return []


class Daemon:
    """A bedplated --user with directories of its own."""

    def __init__(self, folder, *options):
        self.folder, self.options = folder, options
        self.env = dict(os.environ, XDG_STATE_HOME=os.path.join(folder, "s"), XDG_RUNTIME_DIR=os.path.join(folder, "r"))
        self.socket = os.path.join(folder, "r", "bedplate", "api.sock")
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen([os.path.join(ARGS.build, "src/daemon/bedplated"), "--user", *self.options], env=self.env,
                                        stderr=subprocess.PIPE)

        def answers():
            with contextlib.suppress(OSError):
                return self.call("GET", "/v1/health") == (200, {"health": "good"})
            check(self.process.poll() is None, self.process.stderr.read().decode() if self.process.poll() is not None else "")

        try:
            until("the daemon does not answer", answers)
        except BaseException:
            self.kill()
            raise

    def kill(self):
        self.process.kill()
        self.process.wait()

    def call(self, method, path, body=None, raw=None, **headers):
        connection = Http(self.socket)
        data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        connection.request(method, path, data, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        text = answer.read()
        self.etag = answer.getheader("ETag")
        connection.close()
        return answer.status, json.loads(text) if text else None

    def ok(self, method, path, body=None, **headers):
        status, answer = self.call(method, path, body, **headers)
        check(status < 300, f"{method} {path}: {status} {answer}")
        return answer

    def refused(self, method, path, status, words, body=None, raw=None, field=None, **headers):
        got, answer = self.call(method, path, body, raw, **headers)
        equal(got, status, f"{method} {path}: {answer}")
        check(words in answer["error"]["message"] + answer["error"].get("hint", ""), f"no {words!r} in {answer}")
        if field is not None:
            equal(answer["error"].get("field", ""), field, path)

    def metrics(self):
        connection = Http(self.socket)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return text

    def job(self, answer, limit=LIMIT):
        """Waits for it; answers the job."""
        def over():
            nonlocal answer
            if answer["state"] in ("running", "queued"):
                answer = self.ok("GET", "/v1/jobs/" + answer["id"])
            return answer["state"] not in ("running", "queued")

        until(lambda: f"the job goes on and on: {answer}", over, limit)
        return answer

    def create(self, name, **fields):
        vm = {"name": name, "memory": "32M", "kernel": ARGS.guest, "engine": "soft", "nets": [], **fields}
        equal(self.job(self.ok("POST", "/v1/vms", vm))["state"], "done", "create")

    def act(self, name, action, body=None):
        return self.job(self.ok("POST", f"/v1/vms/{name}/{action}", body))

    def done(self, name, action, body=None):
        job = self.act(name, action, body)
        equal(job["state"], "done", f"{action}: {job}")

    def vm(self, name):
        return self.ok("GET", "/v1/vms/" + name)

    def becomes(self, name, state):
        until(lambda: f"{name} does not become {state}: {self.vm(name)}", lambda: self.vm(name)["state"] == state)

    def console(self, name):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(LIMIT)
        s.connect(self.vm(name)["console"])
        return s

    def guest(self, name, letter, pattern):
        """Types a letter and waits for an answer."""
        with self.console(name) as console:
            console.sendall(letter)
            heard = b""
            while not (found := re.search(pattern, heard.replace(b"\r", b""))):
                more = console.recv(1000)
                check(more, f"the console ended: {heard}")
                heard += more
            return found.group(1).decode()

    def cli(self, *words, status=0):
        result = subprocess.run([os.path.join(ARGS.build, "src/cli/bedplate"), *words], env=self.env, capture_output=True,
                                timeout=LIMIT * 2, check=False, text=True)
        equal(result.returncode, status, f"bedplate {' '.join(words)}: {result.stdout} {result.stderr}")
        return result.stdout if status == 0 else result.stderr

    def processes(self):
        """Pids of VMs' processes of this daemon."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                    parent = file.read().rsplit(")", 1)[1].split()[1]
            except OSError:
                continue
            if len(words) > 2 and words[0].endswith(b"bedplate-vmm") and self.folder.encode() in words[2]:
                found.append((int(pid), int(parent)))
        pids = {pid for pid, _ in found}
        return [pid for pid, parent in found if parent not in pids]  # without their keepers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.clear()

    def clear(self):
        """Leaves nothing on the host: processes that have its folder among their words, and its VMs' control groups."""
        kill_all(lambda: processes("cmdline", self.folder))
        vms = {name for base in ("r", "s") for name in listed(os.path.join(self.folder, base, "bedplate/vms"))}

        def left():
            groups = [path for path, _, _ in os.walk("/sys/fs/cgroup", topdown=False) if any(vm in path for vm in vms)]
            for path in groups:
                with contextlib.suppress(OSError):
                    os.rmdir(path)
            return groups

        if vms:
            until("control groups cannot be removed", lambda: not left())


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
        d.ok("PATCH", "/v1/vms/gone", {"kernel": ARGS.guest})
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
def requests(folder):
    with Daemon(folder) as d:
        d.create("web-1")
        d.create("web-2", cpus=2, labels={"role": "web"})
        d.create("db")
        for path, status, words in (("/", 404, "nothing at this path"), ("/v1", 404, "openapi"), ("/v1/nothing", 404, "nothing"),
                                    ("/v1/vms/x", 404, "there is no vm 'x'"), ("/v1/vms/web", 404, "2 vms begin with"),
                                    ("/v1/vms?nope=1", 400, "cannot be filtered"), ("/v1/vms?limit=0", 400, "from 1"),
                                    ("/v1/vms?state=bogus", 400, "one of: "), ("/v1/events?nope=1", 400, "cannot be filtered"),
                                    ("/v1/hosts?fields=nope", 400, "no field 'nope'"), ("/v1/images?fields=nope", 400, "no field 'nope'"),
                                    ("/v1/vms?fields=name,nope", 400, "no field 'nope'"), ("/v1/vms/a/b/c/d", 404, "nothing")):
            d.refused("GET", path, status, words)
        for body, field, words in (({}, "name", "required"), ({"name": "web-1"}, "name", "is taken"),
                                   ({"name": "a/b"}, "name", "letters"), ({"name": "x" * 10000}, "name", "letters"),
                                   ({"name": "x", "memory": "1"}, "memory", "from 2 MiB"), ({"name": "x", "cpsu": 1}, "cpsu", "'cpus'"),
                                   ({"name": "x", "disks": [{"path": "/d", "size": 1}]}, "disks[0].size", "no field"),
                                   ([], "", "JSON object"), ({"name": 7}, "name", "string")):
            status = 409 if words == "is taken" else 422
            d.refused("POST", "/v1/vms", status, words, body, field=field)
        equal([list(item) for item in d.ok("GET", "/v1/events?kind=vm.created&fields=name&limit=2")["items"]], [["name"]] * 2)
        equal(d.ok("GET", "/v1/hosts?name=nobody")["items"], [])
        d.refused("POST", "/v1/vms", 400, "not JSON", raw=b"{")
        d.refused("POST", "/v1/vms", 413, "larger", raw=b"[" + b"1," * 600000 + b"1]")
        d.refused("PUT", "/v1/vms/db", 405, "method")
        d.refused("POST", "/v1/vms/db/fly", 404, "no action 'fly'")
        d.refused("POST", "/v1/vms/db/pause", 409, "does not run")
        d.refused("POST", "/v1/vms/db/stop", 422, "from 0", {"timeout": -1}, field="timeout")
        equal([vm["name"] for vm in d.ok("GET", "/v1/vms?fields=name")["items"]], ["db", "web-1", "web-2"])
        page = d.ok("GET", "/v1/vms?limit=2")
        equal((len(page["items"]), page["next"]), (2, "web-1"))
        equal([vm["name"] for vm in d.ok("GET", "/v1/vms?limit=2&after=web-1")["items"]], ["web-2"])
        equal(d.ok("GET", "/v1/vms?name=db")["items"][0]["name"], "db")
        equal(d.vm("d")["name"], "db")
        equal(d.vm(d.vm("db")["id"][:8])["name"], "db")

        # Two edits at once: the second must read again.
        d.ok("GET", "/v1/vms/db")
        etag = d.etag
        d.ok("PATCH", "/v1/vms/db", {"cpus": 3}, If_Match=etag)
        d.refused("PATCH", "/v1/vms/db", 412, "read it again", {"cpus": 4}, If_Match=etag)
        d.ok("PATCH", "/v1/vms/db", {"labels": {"a": "1"}})
        d.ok("PATCH", "/v1/vms/db", {"labels": {"b": "2", "a": None}, "name": "data"})
        vm = d.vm("data")
        equal((vm["cpus"], vm["labels"]), (3, {"b": "2"}))
        d.refused("PATCH", "/v1/vms/data", 409, "is taken", {"name": "web-1"})
        d.refused("PATCH", "/v1/vms/data", 422, "after creation", {"profile": "micro-1"}, field="profile")
        d.create("db")  # the name is free again
        # What waits for the next start says so.
        d.done("db", "start")
        d.ok("PATCH", "/v1/vms/db", {"description": "live"})
        equal(d.vm("db")["pending"], [], "a live change waits")
        equal(d.ok("PATCH", "/v1/vms/db", {"cpus": 2})["pending"], ["cpus"], "a change of vCPUs does not wait")
        d.done("db", "restart", {"timeout": 0})
        equal(d.vm("db")["pending"], [], "it still waits after the restart")
        openapi = d.ok("GET", "/v1/openapi.json")
        check("/v1/vms/{id}/start" in openapi["paths"], "no start in the OpenAPI document")
        kinds = [event["kind"] for event in d.ok("GET", "/v1/events")["items"]]
        check("vm.created" in kinds and "vm.started" in kinds, kinds)
        text = d.metrics()
        ident = d.vm("db")["id"]
        for line in ("bedplate_vms_running 1", f'bedplate_vm_state{{vm="db",id="{ident}",state="running"}} 1',
                     f'bedplate_vm_up{{vm="web-1",id="{d.vm("web-1")["id"]}"}} 0', f'bedplate_vm_vcpus{{vm="db",id="{ident}"}} 2',
                     f'bedplate_vm_memory_bytes{{vm="db",id="{ident}"}} {32 << 20}'):
            check(line + "\n" in text, f"no {line!r} in {text}")
        if shutil.which("promtool"):
            result = subprocess.run(["promtool", "check", "metrics"], input=text.encode(), capture_output=True, check=False)
            equal((result.returncode, result.stderr), (0, b""), "promtool")


@case
def cli(folder):
    """The client starts the daemon itself."""
    env = dict(os.environ, EDITOR="", VISUAL="", XDG_STATE_HOME=os.path.join(folder, "s"), XDG_RUNTIME_DIR=os.path.join(folder, "r"))
    os.makedirs(env["XDG_RUNTIME_DIR"])
    d = Daemon.__new__(Daemon)
    d.folder, d.env, d.socket, d.process = folder, env, os.path.join(folder, "r/bedplate/api.sock"), None
    try:
        equal(json.loads(d.cli("list", "--json")), [])
        d.cli("create", "a", "--kernel", ARGS.guest, "--memory", "32M", "--engine", "soft", "--net", "none", "--label", "x=y")
        d.cli("start", "a")
        check("running" in d.cli("list"), "list")
        vm = json.loads(d.cli("info", "a", "--json"))
        equal((vm["labels"], vm["nets"], vm["state"]), ({"x": "y"}, [], "running"))
        d.cli("pause", "a")
        equal(json.loads(d.cli("info", "a", "--json"))["state"], "paused")
        d.cli("resume", "a")
        d.cli("edit", "a", "--description", "mine", "--autostart", "enabled,order=7")
        vm = json.loads(d.cli("info", "a", "--json"))
        equal((vm["description"], vm["autostart"]["order"], vm["autostart"]["enabled"]), ("mine", 7, True))
        until("the guest says nothing", lambda: d.cli("logs", "a") == "ready\n")
        report = json.loads(d.cli("balloon", "a", "--target", "30M", "--json"))
        equal((report["driver"], report["target"], report["actual"]), (False, 30 << 20, 32 << 20), "balloon")
        check("more than the VM's memory" in d.cli("balloon", "a", "--target", "33M", status=1), "too large a target")
        follow = subprocess.Popen([os.path.join(ARGS.build, "src/cli/bedplate"), "logs", "--follow", "a"], env=env,
                                  stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        equal(follow.stdout.readline(), b"ready\n", "logs --follow")
        d.cli("rename", "a", "b")
        d.cli("stop", "--timeout", "0", "b")
        equal(follow.wait(LIMIT), 0, "logs --follow ends with the VM")
        equal(d.cli("logs", "b"), "ready\n", "logs of a VM that ended")
        check("there is no command 'fly'" in d.cli("fly", status=2), "unknown command")
        check("unknown option '--cpsu'" in d.cli("create", "c", "--cpsu", "2", status=2), "unknown option")
        check("--cpus needs a whole number" in d.cli("create", "c", "--cpus", "many", status=2), "number")
        check("cpus: must be from 1 to 255" in d.cli("create", "c", "--cpus", "300", status=1), "range")
        check("there is no vm 'zz'" in d.cli("start", "zz", status=3), "unknown VM")
        check("--memory SIZE" in d.cli("create", "--help"), "help")
        check("usage: bedplate rename VM NAME" in d.cli("rename", "b", status=2), "usage")
        d.cli("delete", "b")
        equal(d.cli("--quiet", "list"), "")
        # One sentence, and what to do.
        d.cli("create", "off", "--kernel", ARGS.guest)
        for status, words, said in (
                (4, "--socket /nonexistent/s list", "cannot talk to the daemon at /nonexistent/s: No such file or directory; bedplated serves"),
                (3, "info zz", "there is no vm 'zz'; bedplate list shows those that there are"),
                (3, "disk info zz", "there is no disk 'zz'; bedplate disk shows those that there are"),
                (3, "run zz", "there is no image 'zz'; bedplate image lists"),
                (3, "run off", "there is no image 'off', but a VM: bedplate start off starts it"),
                (1, "console off", "off is stopped; bedplate start off starts it"),
                (1, "host backup /nonexistent/x", "name a file in a folder that the daemon can write to"),
                (1, "disk create x --source /nonexistent/x", "bedplate: /nonexistent/x: no such file"),
                (1, "image create x --source /nonexistent/x", "bedplate: /nonexistent/x: no such file"),
                (2, "create off --name on", "--name: 'off' is the name already"),
                (2, "edit off", "there is no terminal to edit on; give options"),
                (2, "version 1", "usage: bedplate version\n"),
                (2, "--socket", "--socket needs a value")):
            check(said in d.cli(*words.split(), status=status), f"{words}: {d.cli(*words.split(), status=status)}")
        d.cli("delete", "off")
    finally:
        kill_all(lambda: processes("environ", folder))
        d.clear()


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
        job = d.job(d.ok("POST", "/v1/vms", {"name": "b", "memory": "32M", "kernel": ARGS.guest, "nets": []}))
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
def repeats(folder):
    """A request that is repeated with its key, before and after the daemon was killed, happens once."""
    with Daemon(folder) as d:
        body = {"name": "a", "memory": "32M", "kernel": ARGS.guest, "engine": "soft", "nets": []}
        job = d.job(d.ok("POST", "/v1/vms", body, Idempotency_Key="one"))
        equal(d.ok("POST", "/v1/vms", body, Idempotency_Key="one")["id"], job["id"], "the same job")
        d.refused("POST", "/v1/vms", 422, "another request", {**body, "name": "b"}, Idempotency_Key="one")
        d.refused("POST", "/v1/vms", 400, "1 to 127", body, Idempotency_Key="x" * 200)
        d.refused("POST", "/v1/vms/a/reset", 400, "answer with a job", Idempotency_Key="two")
        started = d.job(d.ok("POST", "/v1/vms/a/start", Idempotency_Key="start"))
        d.done("a", "kill")
        d.kill()
        d.start()
        equal(d.ok("POST", "/v1/vms/a/start", Idempotency_Key="start")["id"], started["id"])
        equal(d.vm("a")["state"], "stopped", "it was started twice")
        gone = d.job(d.ok("DELETE", "/v1/vms/a", Idempotency_Key="delete"))
        equal(d.ok("DELETE", "/v1/vms/a", Idempotency_Key="delete")["id"], gone["id"], "after it is gone")
        # Of several at once one begins.
        body["name"] = "b"
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(d.call("POST", "/v1/vms", body, Idempotency_Key="three"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check({status for status, _ in answers} <= {202, 409}, answers)
        equal(len({answer["id"] for status, answer in answers if status == 202}), 1, answers)
        equal(len(d.ok("GET", "/v1/jobs?kind=vm.create")["items"]), 2)
        # Old jobs go: by age, and the oldest of too many.
        for _ in range(1100):
            d.ok("POST", "/v1/vms/b/stop")
        jobs = d.ok("GET", "/v1/jobs?limit=10000")["items"]
        equal([int(j["id"]) for j in jobs], sorted(int(j["id"]) for j in jobs), "in order")
        page = d.ok("GET", "/v1/jobs?limit=10&after=99")
        equal([int(j["id"]) for j in page["items"]], list(range(100, 110)), "a page")
        last = int(jobs[-1]["id"])
        d.kill()
        store = sqlite3.connect(os.path.join(folder, "s/bedplate/store"))
        key = f"/jobs/{last - 5}"
        old = json.loads(store.execute("SELECT value FROM kv WHERE key = ?", (key,)).fetchone()[0])
        store.execute("UPDATE kv SET value = ? WHERE key = ?", (json.dumps({**old, "ended": time.time() - 8 * 86400}), key))
        store.commit()
        store.close()
        d.start()

        def kept():
            return [int(job["id"]) for job in d.ok("GET", "/v1/jobs?limit=10000")["items"]]

        until(lambda: f"{len(kept())} jobs are kept", lambda: len(kept()) <= 1000)
        ids = kept()
        check(len(ids) in (999, 1000) and last in ids and last - 5 not in ids and 1 not in ids, f"{len(ids)} {ids[:3]} {ids[-8:]}")


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
        d.ok("PATCH", "/v1/vms/a", {"kernel": ARGS.guest})
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
        equal((d.job(job)["state"], d.vm("a")["state"]), ("failed", "stopped"))
        until("its process is left", lambda: not d.processes())
        silent.hang(d)
        d.kill()
        d.start()
        equal(d.vm("a")["state"], "starting")
        d.done("a", "kill")
        equal(d.vm("a")["state"], "stopped")
        until("its process is left", lambda: not d.processes())


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
        equal((job["state"], d.vm("a")["state"]), ("failed", "failed"))
        check("did not answer" in job["error"]["message"] and "did not answer" in d.vm("a")["error"], job)
        until("its process is left", lambda: not d.processes())


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
def backup(folder):
    """A backup is a store that a daemon starts with."""
    with Daemon(folder) as d:
        d.create("a")
        d.done("a", "start")
        vm = d.vm("a")
        copy = os.path.join(folder, "copy")
        d.cli("host", "backup", copy)
        check("exists" in d.cli("host", "backup", copy, status=1), "over a file")
        host = d.ok("GET", "/v1/hosts")["items"][0]["id"]
        d.refused("POST", f"/v1/hosts/{host}/backup", 422, "absolute", {"path": "relative"}, field="path")
        d.refused("POST", "/v1/hosts/other/backup", 404, "no host", {"path": copy + "2"})
        d.refused("POST", f"/v1/hosts/{host}/fly", 404, "no action")
        d.done("a", "kill")
        equal(d.job(d.ok("DELETE", "/v1/vms/a"))["state"], "done")
        d.kill()
        for name in os.listdir(os.path.join(folder, "s/bedplate")):
            if name.startswith("store"):
                os.unlink(os.path.join(folder, "s/bedplate", name))
        os.rename(copy, os.path.join(folder, "s/bedplate/store"))
        d.start()
        equal(d.vm("a")["id"], vm["id"], "the VM of the backup")


@case
def words(folder):
    """Man page and completion come out of the commands' table; edit, top, events and the others do their work."""
    client = os.path.join(ARGS.build, "src/cli/bedplate")
    with Daemon(folder) as d:
        d.cli("create", "web", "--kernel", ARGS.guest, "--memory", "32M", "--engine", "soft", "--net", "none", "--dry-run")
        equal(d.cli("--quiet", "list"), "", "a dry run made it")
        for name in ("web", "db"):
            d.cli("create", name, "--kernel", ARGS.guest, "--memory", "32M", "--engine", "soft", "--net", "none")
        equal(d.cli("create", "x", "--memory", "1G", "--dry-run").count(": chosen at creation\n"), 2, "id and address of a dry run")
        check("'x' is the name already" in d.cli("create", "x", "--name", "y", status=2), "two names")
        d.cli("start", "web")
        equal(d.cli("--quiet", "list", "--state", "running"), "web\n")
        # In an editor: what it leaves is what is changed.
        def edited(script, **options):
            editor = os.path.join(folder, "editor")
            with open(editor, "w", encoding="ascii") as file:
                file.write(f"#!/bin/sh\n{script}\n")
            os.chmod(editor, 0o755)
            d.env["EDITOR"] = editor
            return d.cli("edit", "web", **options)
        edited("""sed -i 's/"cpus": 1/"cpus": 3/; /"watchdog"/d' "$1" """)
        vm = d.vm("web")
        equal((vm["cpus"], vm["watchdog"], vm["pending"]), (3, "reset", ["cpus"]))
        edited("true")
        check("no JSON" in edited("echo [] > $1", status=1), "no object")
        check("failed" in edited("false", status=1), "the editor's status")
        result = subprocess.run([client, "edit", "web", "--cpus", "1", "--description", "x"], env=d.env, capture_output=True, check=True)
        equal(result.stderr, b"", "nothing waits")
        result = subprocess.run([client, "edit", "web", "--cpus", "2"], env=d.env, capture_output=True, check=True, text=True)
        check("next start: cpus" in result.stderr, result.stderr)
        # What it uses.
        rows = json.loads(d.cli("top", "--once", "--delay", "1", "--json"))
        equal([row["name"] for row in rows], ["web"])
        check(float(rows[0]["cpu%"]) > 0 and rows[0]["resident"] > 1 << 20, rows)
        check("vm.started" in d.cli("events", "web") and "db" not in d.cli("events", "web"), "events of one VM")
        equal(len(d.cli("events", "--kind", "vm.created").splitlines()), 2)
        job = json.loads(d.cli("job", "--json"))[-1]["id"]
        check("vm.start" in d.cli("job", "info", job), "job info")
        check("over" in d.cli("job", "cancel", job, status=1), "job cancel")
        check(d.cli("info", "web", "db").count("uuid") == 0 and "name: db" in d.cli("info", "web", "db"), "two VMs")
        # What others write does not reach the terminal as it is.
        d.call("POST", "/v1/%1b%5b2J%c2%9b")
        check("/v1/?[2J?\n" in d.cli("audit"), "the audit log on a terminal")
        vm = json.loads(d.cli("create", "x", "--cdrom", "/a.iso", "--cdroms", "path=/b.iso,bus=ide", "--dry-run", "--json"))
        equal((vm["cdrom"], vm["cdroms"]), ("/a.iso", [{"path": "/b.iso", "bus": "ide"}]))
        check("no screen" in d.cli("screenshot", "web", os.path.join(folder, "x.png"), status=1), "a picture of nothing")
        d.cli("create", "seen", "--kernel", ARGS.guest, "--memory", "32M", "--engine", "soft", "--net", "none", "--video", "vga")
        d.cli("start", "seen")
        d.cli("screenshot", "seen", os.path.join(folder, "x.png"))
        with open(os.path.join(folder, "x.png"), "rb") as file:
            equal(file.read(8), b"\x89PNG\r\n\x1a\n")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            d.cli("create", "port", "--kernel", ARGS.guest, "--memory", "32M", "--engine", "soft", "--net",
                  f"user,forward=tcp:127.0.0.1:{port}-:22")
            check(str(port) in d.cli("start", "port", status=1), "a port that is taken")
        d.cli("kill", "seen")
        d.cli("delete", "seen", "port")
        # Documents.
        commands = [line.split()[0] for line in d.cli("--help").splitlines() if line.startswith("  ")]
        page = subprocess.run([client, "--help-man"], capture_output=True, text=True, check=True).stdout
        for command in commands:
            check(f"\n.SS {command} " in page, f"{command} is not in the man page")
        check(not re.search(r"^\.(?!TH|SH|SS|TP|B|BR|I|br)", page, re.M), "stray requests")
        path = f"{os.path.abspath(os.path.dirname(client))}:{os.environ['PATH']}"
        scripts = {}
        for shell in ("bash", "zsh", "fish"):
            scripts[shell] = os.path.join(folder, shell)
            with open(scripts[shell], "w", encoding="utf-8") as file:
                file.write(d.cli("completion", shell))
            if shutil.which(shell):
                subprocess.run([shell, "-n", scripts[shell]], check=True)

        def bash(*typed):
            text = " ".join(f"'{word}'" for word in typed)
            return subprocess.run(["bash", "-c", f". {scripts['bash']}; COMP_WORDS=({text}); COMP_CWORD={len(typed) - 1}; _bedplate; "
                                   "printf '%s\\n' \"${COMPREPLY[@]}\""], env=dict(d.env, PATH=path), capture_output=True, text=True,
                                  check=True).stdout.split()
        equal(bash("bedplate", "res"), ["restart", "reset", "resume", "restore"])
        equal(bash("bedplate", "stop", ""), ["db", "web"])
        equal(bash("bedplate", "create", "x", "--engine", ""), ["auto", "kvm", "soft"])
        check("--disk" in bash("bedplate", "--json", "create", "--di"), "options")
        check(ARGS.guest in bash("bedplate", "create", "x", "--kernel", ARGS.guest[:-1]), "files")
        if shutil.which("fish"):
            def fish(typed):
                return subprocess.run(["fish", "-c", f"source {scripts['fish']}; complete -C '{typed}'"], env=dict(d.env, PATH=path),
                                      capture_output=True, text=True, check=True).stdout
            check("restore\t" in fish("bedplate resto"), "fish: commands")
            equal([line.split("\t")[0] for line in fish("bedplate stop ").splitlines()], ["db", "web"])
            check("kvm\t" in fish("bedplate create x --engine "), "fish: choices")
        d.kill()
        equal(bash("bedplate", "stop", ""), [], "no daemon is started for it")
        d.start()


def image(folder, name, size=1 << 20):
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.truncate(size)
    return {"path": path, "format": "raw"}


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


def crash(folder, count, rounds, seconds):
    """The daemon is killed again and again while VMs come and go; afterwards everything agrees."""
    with Daemon(folder) as d:
        names = [f"vm{i}" for i in range(count)]
        for name in names:
            d.create(name)
        stop = threading.Event()

        def work(number):
            generator = random.Random(number)
            while not stop.is_set():
                name = generator.choice(names)
                action = generator.choice(["start", "start", "kill", "stop", "restart", "pause", "resume", "patch", "recreate"])
                try:
                    if action == "patch":
                        d.call("PATCH", f"/v1/vms/{name}", {"description": str(generator.random())})
                    elif action == "recreate":
                        d.call("DELETE", f"/v1/vms/{name}")
                        d.call("POST", "/v1/vms", {"name": name, "memory": "32M", "kernel": ARGS.guest, "engine": "soft", "nets": []})
                    else:
                        body = {"timeout": 0} if action in ("stop", "restart") else None
                        d.call("POST", f"/v1/vms/{name}/{action}", body)
                except (OSError, http.client.HTTPException, ValueError):
                    time.sleep(0.02)  # the daemon was killed

        for round_number in range(rounds):
            stop.clear()
            workers = [threading.Thread(target=work, args=(round_number * 10 + i,), daemon=True) for i in range(4)]
            for worker in workers:
                worker.start()
            for _ in range(3):
                time.sleep(random.random() * seconds)
                d.kill()
                d.start()
            stop.set()
            for worker in workers:
                worker.join()
            agree(d, names)


def agree(d, names):
    """The store, the processes and the run directories say the same, and nothing is under way."""
    deadline = time.monotonic() + LIMIT
    while True:
        vms = d.ok("GET", "/v1/vms?limit=10000")["items"]
        jobs = [j for j in d.ok("GET", "/v1/jobs?limit=10000")["items"] if j["state"] == "running"]
        why = []
        if jobs:
            why.append(f"jobs under way: {jobs}")
        live = {vm["pid"] for vm in vms if vm["state"] in ("running", "paused")}
        if live != set(d.processes()):
            why.append(f"running {sorted(live)}, processes {sorted(d.processes())}")
        for vm in vms:
            if vm["state"] == "failed" or vm["state"] != vm["wanted"]:
                why.append(f"{vm['name']} is {vm['state']}, wanted {vm['wanted']}: {vm.get('error')}")
        left = set(os.listdir(os.path.join(d.folder, "r/bedplate/vms"))) - {vm["id"] for vm in vms}
        if left:
            why.append(f"run directories of nobody: {left}")
        if len({vm["name"] for vm in vms}) != len(vms):
            why.append("a name is there twice")
        if not why:
            return
        check(time.monotonic() < deadline, "; ".join(why))
        time.sleep(0.1)


@case
def crashes(folder):
    crash(folder, 6, 3, 0.8)


@case
def crashes_long(folder):
    crash(folder, 50, 20, 3)


# Of bedplate-vmm's options those that are the daemon's own: it finds, names and keeps these.
OWN_OPTIONS = {"uuid", "uefi-vars", "run-dir", "control", "save", "restore", "restore-once", "config", "check", "version", "help", "serial"}


@case
def options(folder):
    """Whatever bedplate-vmm can do a VM can have: its options and their parts are compared with what the daemon gives it."""
    program = os.path.join(ARGS.build, "src/vmm/bedplate-vmm")
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
        asked = d.ok("POST", "/v1/vms?dry_run=true", {"name": "x", "kernel": ARGS.guest, "disks": [
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


@case
def doctor(folder):
    """What it finds is so; and what is taken away it misses, with what to do."""
    with Daemon(folder) as d:
        found = {f["check"]: f for f in json.loads(d.cli("doctor", "--json"))}
        equal(found["kvm"]["verdict"] == "good", os.access("/dev/kvm", os.R_OK | os.W_OK), "kvm")
        equal(found["daemon"]["verdict"], "good")
        check("good" in d.cli("doctor") and "todo" not in found["daemon"], found)
        if os.geteuid() == 0:
            words = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev && mount -t tmpfs none /usr/share/seabios && exec "$@"', "sh",
                     os.path.join(ARGS.build, "src/cli/bedplate"), "doctor", "--json"]
            result = subprocess.run(words, env=d.env, capture_output=True, text=True, timeout=LIMIT, check=False)
            equal(result.returncode, 0, result.stderr)
            found = {f["check"]: f for f in json.loads(result.stdout)}
            check("soft engine" in found["kvm"]["found"] and found["kvm"]["todo"], found["kvm"])
            equal((found["bios"]["verdict"], found["bios"]["todo"]), ("note", "apt-get install seabios"))
        # A systemd of one's own, without D-Bus and with it.
        check("user-bus" not in found, found)
        d.env["DBUS_SESSION_BUS_ADDRESS"] = ""
        for path, verdict in (("systemd/private", "note"), ("bus", "good")):
            path = os.path.join(d.env["XDG_RUNTIME_DIR"], path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="ascii"):
                pass
            found = {f["check"]: f for f in json.loads(d.cli("doctor", "--json"))}["user-bus"]
            equal((found["verdict"], "apt-get install dbus-user-session" in found.get("todo", "")), (verdict, verdict == "note"))
    env = dict(d.env, BEDPLATE_URL="https://127.0.0.1:1")
    result = subprocess.run([os.path.join(ARGS.build, "src/cli/bedplate"), "doctor"], env=env, capture_output=True, text=True,
                            timeout=LIMIT, check=False)
    check(result.returncode == 1 and "does not answer" in result.stdout, result.stdout)


@case
def bad_starts(folder):
    program = os.path.join(ARGS.build, "src/daemon/bedplated")

    def sentence(words, *options, **env):
        result = subprocess.run([program, *options], capture_output=True, text=True, timeout=LIMIT, check=False,
                                env=dict(os.environ, XDG_STATE_HOME=os.path.join(folder, "s"),
                                         XDG_RUNTIME_DIR=os.path.join(folder, "r"), **env))
        check(result.returncode == 1 and words in result.stderr, f"{options}: {result.returncode} {result.stderr}")

    with Daemon(folder):
        sentence("another bedplated uses", "--user")
    sentence("too long", "--user", "--run-dir", "/tmp/" + "x" * 100)
    with open(os.path.join(folder, "file"), "w", encoding="ascii"):
        pass
    sentence("cannot make", "--user", "--state-dir", os.path.join(folder, "file", "below"))
    open_to_all = os.path.join(folder, "open")
    os.mkdir(open_to_all)
    os.chmod(open_to_all, 0o777)
    sentence("writable by nobody else", "--user", "--run-dir", open_to_all)
    for end in ("-wal", "-shm"):  # it would be mended out of its log
        os.unlink(os.path.join(folder, "s/bedplate/store" + end))
    with open(os.path.join(folder, "s/bedplate/store"), "r+b") as file:
        file.write(b"no database at all" * 500)
    sentence("store", "--user")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--build", required=True)
    parser.add_argument("--guest", required=True)
    global ARGS
    ARGS = parser.parse_args()
    ARGS.guest = os.path.abspath(ARGS.guest)
    with tempfile.TemporaryDirectory(prefix="bp") as folder:
        CASES[ARGS.case](folder)


if __name__ == "__main__":
    main()
