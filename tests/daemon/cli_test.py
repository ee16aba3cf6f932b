#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""bedplate as people meet it:  cli_test.py CASE --build BUILD --guest G"""
import json
import os
import re
import shutil
import socket
import subprocess

import rig
from rig import Daemon, case  # and with it the way to tests/vmm
from host import LIMIT, check, equal, kill_all, processes, until


@case
def cli(folder):
    """The client starts the daemon itself."""
    env = dict(os.environ, EDITOR="", VISUAL="", XDG_STATE_HOME=os.path.join(folder, "s"), XDG_RUNTIME_DIR=os.path.join(folder, "r"))
    os.makedirs(env["XDG_RUNTIME_DIR"])
    d = Daemon.__new__(Daemon)
    d.folder, d.env, d.socket, d.process = folder, env, os.path.join(folder, "r/bedplate/api.sock"), None
    try:
        equal(json.loads(d.cli("list", "--json")), [])
        d.cli("create", "a", "--kernel", rig.ARGS.guest, "--memory", "32M", "--engine", "soft", "--net", "none", "--label", "x=y")
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
        follow = subprocess.Popen([os.path.join(rig.ARGS.build, "src/cli/bedplate"), "logs", "--follow", "a"], env=env,
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
        d.cli("create", "off", "--kernel", rig.ARGS.guest)
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
def words(folder):
    """Man page and completion come out of the commands' table; edit, top, events and the others do their work."""
    client = os.path.join(rig.ARGS.build, "src/cli/bedplate")
    with Daemon(folder) as d:
        d.cli("create", "web", "--kernel", rig.ARGS.guest, "--memory", "32M", "--engine", "soft", "--net", "none", "--dry-run")
        equal(d.cli("--quiet", "list"), "", "a dry run made it")
        for name in ("web", "db"):
            d.cli("create", name, "--kernel", rig.ARGS.guest, "--memory", "32M", "--engine", "soft", "--net", "none")
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
        d.cli("create", "seen", "--kernel", rig.ARGS.guest, "--memory", "32M", "--engine", "soft", "--net", "none", "--video", "vga")
        d.cli("start", "seen")
        d.cli("screenshot", "seen", os.path.join(folder, "x.png"))
        with open(os.path.join(folder, "x.png"), "rb") as file:
            equal(file.read(8), b"\x89PNG\r\n\x1a\n")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            d.cli("create", "port", "--kernel", rig.ARGS.guest, "--memory", "32M", "--engine", "soft", "--net",
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
        check(rig.ARGS.guest in bash("bedplate", "create", "x", "--kernel", rig.ARGS.guest[:-1]), "files")
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


@case
def doctor(folder):
    """What it finds is so; and what is taken away it misses, with what to do."""
    with Daemon(folder) as d:
        found = {f["check"]: f for f in json.loads(d.cli("doctor", "--json"))}
        equal(found["kvm"]["verdict"] == "good", os.access("/dev/kvm", os.R_OK | os.W_OK), "kvm")
        equal(found["daemon"]["verdict"], "good")
        check(d.env["XDG_STATE_HOME"] in found["disk"]["found"], found["disk"])
        check("good" in d.cli("doctor") and "todo" not in found["daemon"], found)
        if os.geteuid() == 0:
            words = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev && mount -t tmpfs none /usr/share/seabios && exec "$@"', "sh",
                     os.path.join(rig.ARGS.build, "src/cli/bedplate"), "doctor", "--json"]
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
    result = subprocess.run([os.path.join(rig.ARGS.build, "src/cli/bedplate"), "doctor"], env=env, capture_output=True, text=True,
                            timeout=LIMIT, check=False)
    check(result.returncode == 1 and "does not answer" in result.stdout, result.stdout)


if __name__ == "__main__":
    rig.main()
