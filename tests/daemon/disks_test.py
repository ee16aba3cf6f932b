#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks that the daemon keeps, by API and by `bedplate disk`:  disks_test.py CASE --build BUILD --guest G"""
import json
import os
import subprocess

import rig
from rig import Daemon, case
from host import check, equal, until

MIB = 1 << 20


def made(d, name, **fields):
    job = d.job(d.ok("POST", "/v1/disks", {"name": name, **fields}))
    equal(job["state"], "done", str(job))
    return d.ok("GET", "/v1/disks/" + name)


def done(d, name, action, body=None):
    job = d.job(d.ok("POST", f"/v1/disks/{name}/{action}", body))
    equal(job["state"], "done", str(job))
    return job


def fails(d, words, path, body):
    job = d.job(d.ok("POST", path, body))
    equal(job["state"], "failed", str(job))
    check(words in job["error"]["message"], f"no {words!r} in {job}")


def pattern(disk, number):
    """Writes a MiB that can be told from others."""
    tool = ["qemu-io", "-f", disk["format"], "-c", f"write -P {number} 0 1M", disk["path"]]
    subprocess.run(tool, check=True, capture_output=True)


def has(disk, number):
    tool = ["qemu-io", "-f", disk["format"], "-c", f"read -P {number} 0 1M", disk["path"]]
    return b"Pattern verification failed" not in subprocess.run(tool, check=True, capture_output=True).stdout


@case
def disks(folder):
    """Made, copied, resized, checked, with snapshots; refused where it cannot be."""
    with Daemon(folder) as d:
        d.refused("POST", "/v1/disks", 422, "without a source", {"name": "a"}, field="size")
        disk = made(d, "a", size="8M")
        equal((disk["state"], disk["format"], disk["size"]), ("ready", "qcow2", 8 * MIB))
        d.refused("POST", "/v1/disks", 409, "is taken", {"name": "a", "size": "8M"}, field="name")
        pattern(disk, 1)
        done(d, "a", "snapshot", {"name": "one"})
        pattern(disk, 2)
        done(d, "a", "resize", {"size": "16M"})
        equal(d.ok("GET", "/v1/disks/a")["size"], 16 * MIB)
        fails(d, "cut off", "/v1/disks/a/resize", {"size": "8M"})
        file = d.ok("POST", "/v1/disks/a/info")
        equal((file["virtual-size"], [s["name"] for s in file["snapshots"]]), (16 * MIB, ["one"]))
        check(has(disk, 2), "what was written")
        done(d, "a", "revert", {"name": "one"})
        check(has(disk, 1), "what was there when the snapshot was made")
        equal(d.ok("GET", "/v1/disks/a")["size"], 8 * MIB)  # it was that large then
        done(d, "a", "delete-snapshot", {"name": "one"})
        fails(d, "one", "/v1/disks/a/revert", {"name": "one"})
        equal(done(d, "a", "check")["result"]["corruptions"], 0)

        copy = made(d, "b", source=disk["path"], format="vmdk")
        equal((copy["size"], has(copy, 1)), (8 * MIB, True))
        job = d.job(d.ok("POST", "/v1/disks", {"name": "bad", "source": "/nonexistent"}))
        equal(job["state"], "failed", str(job))
        d.refused("GET", "/v1/disks/bad", 404, "bad")
        equal(len(os.listdir(os.path.join(folder, "s/bedplate/disks"))), 2, "folders")
        equal(d.call("DELETE", "/v1/disks/b")[0], 204)
        d.refused("GET", "/v1/disks/b", 404, "there is no disk")
        check(not os.path.exists(copy["path"]), "its file stays")

        # A daemon that is killed while it makes a disk makes it all the same.
        answer = d.ok("POST", "/v1/disks", {"name": "c", "size": "1M", "format": "raw"})
        d.kill()
        d.start()
        equal((d.job(answer)["state"], d.ok("GET", "/v1/disks/c")["state"]), ("done", "ready"))


@case
def disks_used(folder):
    """A VM that runs with a disk resizes it itself; what it cannot do meanwhile is refused."""
    with Daemon(folder) as d:
        disk = made(d, "data", size="8M")
        d.refused("POST", "/v1/vms", 404, "there is no disk", {"name": "a", "disks": [{"path": "disk:other"}]}, field="disks[0].path")
        d.create("a", disks=[{"path": "disk:data"}])
        entry = d.vm("a")["disks"][0]
        equal((entry["path"], entry["format"]), (disk["path"], "qcow2"))
        d.done("a", "start")
        done(d, "data", "resize", {"size": "32M"})
        equal(d.ok("GET", "/v1/disks/data")["size"], 32 * MIB)
        equal(d.ok("POST", "/v1/disks/data/info")["virtual-size"], 32 * MIB)
        until(lambda: f"the VM says {d.vm('a')['now']}", lambda: d.vm("a")["now"]["disks"][0]["size"] == 32 * MIB)
        for action, body in (("check", None), ("snapshot", {"name": "x"}), ("revert", {"name": "x"})):
            d.refused("POST", f"/v1/disks/data/{action}", 409, "runs with this disk", body)
        d.refused("DELETE", "/v1/disks/data", 409, "has this disk")
        d.done("a", "kill")
        equal(done(d, "data", "check")["result"]["corruptions"], 0)
        d.refused("DELETE", "/v1/disks/data", 409, "has this disk")
        made(d, "more", size="1M", format="raw")
        equal(d.ok("PATCH", "/v1/vms/a", {"disks": [{"path": "disk:more"}]})["disks"][0]["format"], "raw")
        equal(d.call("DELETE", "/v1/disks/data")[0], 204)


@case
def disks_cli(folder):
    with Daemon(folder) as d:
        d.cli("disk", "create", "a", "--size", "8M", "--description", "for tests")
        check("8 MiB" in d.cli("disk", "list") and "for tests" in d.cli("disk", "info", "a"), d.cli("disk"))
        d.cli("disk", "resize", "a", "16M")
        d.cli("disk", "resize", "a", "8M", "--shrink")
        d.cli("disk", "snapshot", "a", "one")
        info = json.loads(d.cli("disk", "info", "a", "--json"))
        equal((info["size"], info["file"]["snapshots"][0]["name"]), (8 * MIB, "one"))
        d.cli("disk", "revert", "a", "one")
        d.cli("disk", "delete-snapshot", "a", "one")
        check('"leaks": 0' in d.cli("disk", "check", "a"), "check")
        d.cli("disk", "convert", "a", "b", "--format", "raw")
        equal(os.path.getsize(d.ok("GET", "/v1/disks/b")["path"]), 8 * MIB)
        d.cli("create", "vm", "--disk", "disk:a", "--kernel", rig.ARGS.guest)
        check("has this disk" in d.cli("disk", "delete", "a", "b", status=1), "an image that is used")
        equal([disk["name"] for disk in json.loads(d.cli("disk", "--json"))], ["a"])
        d.cli("disk", "resize", "a", status=2)
        d.cli("disk", "shred", "a", status=2)
        # A word with a slash is a file.
        path = os.path.join(folder, "file.qcow2")
        d.cli("disk", "create", "-f", "qcow2", path, "4M")
        check("4 MiB" in d.cli("disk", "info", path), "info of a file")
        roles = json.loads(d.cli("role", "list", "--json"))
        requests = {role["name"]: set(role["requests"]) for role in roles}
        check(requests["viewer"] < requests["operator"] < requests["admin"], roles)
        check("POST /v1/disks" in requests["operator"] - requests["viewer"] and "DELETE /v1/users/ID" in requests["admin"] - requests["operator"],
              roles)
        check("  GET /v1/vms\n" in d.cli("role"), "roles for people")


if __name__ == "__main__":
    rig.main()
