#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon as a service: its requests, its store, its own death:  service_test.py CASE --build BUILD --guest G"""
import contextlib
import http.client
import json
import os
import random
import shutil
import sqlite3
import subprocess
import threading
import time

import rig
from rig import Daemon, case  # and with it the way to tests/vmm
from host import LIMIT, check, equal, until


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
def repeats(folder):
    """A request that is repeated with its key, before and after the daemon was killed, happens once."""
    with Daemon(folder) as d:
        body = {"name": "a", "memory": "32M", "kernel": rig.ARGS.guest, "engine": "soft", "nets": []}
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
                        d.call("POST", "/v1/vms", {"name": name, "memory": "32M", "kernel": rig.ARGS.guest, "engine": "soft", "nets": []})
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


def told(pid):
    """A process, for a message: its number, name, state and parent, and its words."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat, \
            open(f"/proc/{pid}/cmdline", "rb") as words:
        return " ".join(stat.read().split()[:4]) + f" {words.read().decode(errors='replace').split(chr(0))}"
    return f"{pid}, gone"


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
            why.append(f"running {sorted(live)}, processes {[told(pid) for pid in sorted(d.processes())]}, of {vms}")
        for vm in vms:
            if vm["state"] == "failed" or vm["state"] != vm["wanted"]:
                happened = d.ok("GET", f"/v1/events?object=vms/{vm['id']}&limit=10000")["items"][-8:]
                asked = [job for job in d.ok("GET", "/v1/jobs?limit=10000")["items"] if job.get("object") == f"vms/{vm['id']}"][-4:]
                why.append(f"{vm['name']} is {vm['state']}, wanted {vm['wanted']}: {vm.get('error')}; {happened}; {asked}")
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


@case
def bad_starts(folder):
    program = os.path.join(rig.ARGS.build, "src/daemon/bedplated")

    def sentence(words, *options, **env):
        result = subprocess.run([program, *options], capture_output=True, text=True, timeout=LIMIT, check=False,
                                env=dict(os.environ, XDG_STATE_HOME=os.path.join(folder, "s"),
                                         XDG_RUNTIME_DIR=os.path.join(folder, "r"), **env))
        check(result.returncode == 1 and words in result.stderr, f"{options}: {result.returncode} {result.stderr}")

    with Daemon(folder):
        sentence("another bedplated uses", "--user")
    sentence("too long", "--user", "--run-dir", "/tmp/" + "x" * 49)
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


if __name__ == "__main__":
    rig.main()
