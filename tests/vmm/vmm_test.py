#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""bedplate-vmm as its users meet it:  vmm_test.py CASE --binary B --guest G

The guest is guest.S, which obeys single letters from its serial port.
"""
import argparse
import array
import base64
import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time

from host import LIMIT, check, equal, until

SKIP = 77
POWEROFF, INTERNAL, USAGE, FILE, ENGINE, RESET, TRIPLE_FAULT, QUIT, SAVED = range(9)
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def skip(why):
    print(f"skip: {why}")
    sys.exit(SKIP)


class Vm:
    """A running bedplate-vmm with pipes, or on a terminal of its own (`tty`)."""

    def __init__(self, *words, tty=False, boots=True, serial="stdio", stdin=None, stdout=None, engine="soft", **options):
        self.words = [ARGS.binary, "--engine", engine, "--serial", serial, *words]
        if boots:
            self.words += ["--kernel", ARGS.guest, "--memory", "32"]
        self.text, self.tty = b"", None
        if tty:
            self.tty, slave = pty.openpty()
            stdin = stdout = slave
            self.mode = termios.tcgetattr(slave)
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self.words, stdin=stdin if stdin is not None else subprocess.PIPE,
                                        stdout=stdout if stdout is not None else subprocess.PIPE,
                                        stderr=self.errors, **options)
        if tty:
            os.close(slave)
        self.out = self.tty if tty else self.process.stdout and self.process.stdout.fileno()

    def expect(self, text, limit=LIMIT):
        """Reads until `text` came; answers what came before it."""
        text, deadline = text.encode(), time.monotonic() + limit
        while text not in self.text:
            left = deadline - time.monotonic()
            check(left > 0 and select.select([self.out], [], [], left)[0], f"no {text!r} in {self.text!r}, {self.said()!r}")
            with contextlib.suppress(OSError):
                chunk = os.read(self.out, 65536)
                if chunk:
                    self.text += chunk
                    continue
            raise AssertionError(f"ended without {text!r}: {self.text!r} {self.said()!r}")
        before, _, self.text = self.text.partition(text)
        return before.decode()

    def type(self, text):
        if self.tty is not None:
            os.write(self.tty, text.encode())
        else:
            self.process.stdin.write(text.encode())
            self.process.stdin.flush()

    def wait(self, limit=LIMIT):
        return self.process.wait(limit)

    def said(self):
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")

    def ends(self, status, sentence=""):
        equal(self.wait(), status, f"status of {' '.join(self.words)} ({self.said()})")
        check(sentence in self.said(), f"no {sentence!r} in {self.said()!r}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.tty is not None:
            os.close(self.tty)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()


class Client:
    """Of the control socket."""

    def __init__(self, path, hello=True):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT)
        until(f"nobody listens on {path}", lambda: self.socket.connect_ex(path) == 0)
        self.data, self.events, self.number = b"", [], 0
        self.greeting = self.line()
        if hello:
            self.send({"hello": {"protocol": 1}})
            equal(self.line(), {"hello": {"protocol": 1}}, "hello")

    def line(self):
        while b"\n" not in self.data:
            chunk = self.socket.recv(65536)
            check(chunk, "the control socket was closed")
            self.data += chunk
        line, _, self.data = self.data.partition(b"\n")
        return json.loads(line)

    def send(self, message, fds=()):
        data = json.dumps(message).encode() + b"\n"
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([data], rights)

    def reply(self, number):
        while True:
            message = self.line()
            if "event" in message:
                self.events.append(message)
            elif message["id"] == number:
                return message

    def ask(self, what, fds=(), **members):
        self.number += 1
        self.send({"id": self.number, "do": what, **members}, fds)
        return self.reply(self.number)

    def ok(self, what, fds=(), **members):
        reply = self.ask(what, fds, **members)
        check("ok" in reply, f"{what}: {reply}")
        return reply["ok"]

    def refused(self, what, code, **members):
        reply = self.ask(what, **members)
        equal(reply.get("error", {}).get("code"), code, f"{what}: {reply}")
        return reply["error"]["text"]

    def event(self, what):
        while True:
            for event in self.events:
                if event["what"] == what:
                    self.events.remove(event)
                    return event
            message = self.line()
            if "event" in message:
                self.events.append(message)


def document(name):
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs", name)) as file:
        return file.read()


def run(*words, **options):
    done = subprocess.run([ARGS.binary, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=LIMIT, **options)
    return done.returncode, done.stdout, done.stderr


def refused(status, sentence, *words):
    got, out, err = run(*words)
    what = " ".join(words)
    equal(got, status, f"status of {what!r}: {err}")
    check(re.search(sentence, err), f"{what!r}: no {sentence!r} in {err!r}")
    equal(err.count("\n"), 1, f"{what!r}: one sentence: {err!r}")
    equal(out, "", f"{what!r}: nothing on standard output")


@case
def usage(folder):
    kernel = ["--kernel", ARGS.guest]
    for sentence, words in [
            ("nothing to boot", []),
            ("did you mean --kernel", ["--kernal", "x"]),
            ("did you mean --cmdline", ["--cmd-line", "x"]),
            ("unknown option '--zzzzzzz'; --help", ["--zzzzzzz"]),
            ("unknown option '-k'", ["-k"]),
            ("unexpected argument 'vmlinuz'", ["vmlinuz"]),
            ("--cpus is given twice", ["--cpus", "1", "--cpus", "1"]),
            ("--cpus needs a value: --cpus N", ["--cpus"]),
            ("write --kernel=--cpus", ["--kernel", "--cpus", "1"]),
            ("--no-reboot takes no value", ["--no-reboot=yes"]),
            ("0 vCPUs cannot be had; a VM has 1 to 255", [*kernel, "--cpus", "0"]),
            ("1000 vCPUs cannot be had", [*kernel, "--cpus", "1000"]),
            ("'many' is not a number", [*kernel, "--cpus", "many"]),
            ("'-1' is not a number", [*kernel, "--cpus", "-1"]),
            ("'lots' is not a size", [*kernel, "--memory", "lots"]),
            ("too little", [*kernel, "--memory", "1"]),
            ("too much; a VM has at most 1 TiB", [*kernel, "--memory", "2T"]),
            ("not a whole number of MiB", [*kernel, "--memory", "8193K"]),
            ("the host has .* give the VM less", [*kernel, "--memory", "1T"]),
            ("write NAME=unix:PATH", [*kernel, "--port", "agent"]),
            ("does not begin with '.'", [*kernel, "--port", ".x=unix:/tmp/x"]),
            ("there are two ports 'a'", [*kernel, "--port", "a=unix:/tmp/x", "--port", "a=unix:/tmp/y"]),
            ("unknown engine 'fast'; known are auto, kvm, soft", [*kernel, "--engine", "fast"]),
            ("'auto' takes no options", [*kernel, "--engine", "auto,x"]),
            ("unknown CPU model 'pentium'", [*kernel, "--cpu", "pentium"]),
            ("did you mean 'pc-1'", [*kernel, "--profile", "pc1"]),
            ("--disk: the path is empty", [*kernel, "--disk", ""]),
            ("unknown disk option 'size'", [*kernel, "--disk", "a,size=1"]),
            ("'format' needs a value", [*kernel, "--disk", "a,format"]),
            ("'readonly' takes no value", [*kernel, "--disk", "a,readonly=1"]),
            ("'queues' is given twice", [*kernel, "--disk", "a,queues=1,queues=2"]),
            ("queues: 99 is not between 1 and 16", [*kernel, "--disk", "a,queues=99"]),
            ("on-full is one of 'report', 'pause', 'ignore'", [*kernel, "--disk", "a,on-full=stop"]),
            ("cache is one of", [*kernel, "--disk", "a,cache=all"]),
            ("iops: 'x'", [*kernel, "--disk", "a,iops=x"]),
            ("iops-wr: a burst needs a rate", [*kernel, "--disk", "a,iops-wr-burst=5"]),
            ("bps excludes bps-rd", [*kernel, "--disk", "a,bps=1M,bps-rd=1M"]),
            ("goes with nbds://", [*kernel, "--disk", "a,tls-psk-file=x"]),
            ("serial has more than 20", [*kernel, "--disk", "a,serial=123456789012345678901"]),
            ("discard=ignore forbids", [*kernel, "--disk", "a,discard=ignore,detect-zeroes=unmap"]),
            ("io-thread is a name", [*kernel, "--disk", "a,io-thread=much-too-long"]),
            ("io-thread is a name", [*kernel, "--disk", "a,io-thread=a+,queues=2"]),
            ("add queues=3", [*kernel, "--disk", "a,io-thread=a+b+c,queues=2"]),
            ("work with bus=virtio only", [*kernel, "--disk", "a,bus=sata,on-error=pause"]),
            ("a comma with nothing behind it", [*kernel, "--disk", "a,"]),
            ("--disk a is given twice", [*kernel, "--disk", "a", "--disk", "a"]),
            ("a VM has at most 16 disks", kernel + [w for i in range(17) for w in ("--disk", f"d{i}")]),
            ("'nat' is no network; write user", [*kernel, "--net", "nat"]),
            ("names no interface", [*kernel, "--net", "tap:"]),
            ("hostfwd works with the network 'user' only", [*kernel, "--net", "tap:t,hostfwd=tcp::1-:1"]),
            ("hostfwd", [*kernel, "--net", "user,hostfwd=nonsense"]),
            ("no MAC address; write it like", [*kernel, "--net", "user,mac=1:2:3"]),
            ("is for --restore FILE", [*kernel, "--restore-once"]),
            ("is no UUID; write it like", [*kernel, "--uuid", "1234"]),
            ("multicast address", [*kernel, "--net", "user,mac=01:00:00:00:00:00"]),
            ("cannot be connected; write stdio", [*kernel, "--serial", "com1"]),
            ("too long for a socket", [*kernel, "--serial", "unix:" + "x" * 200]),
            ("is no socket; write unix:PATH", [*kernel, "--control", "/tmp/x"]),
            ("is no place for a debugger", [*kernel, "--gdb", "tcp:0.0.0.0:1"]),
            ("port: 0 is not between 1 and 65535", [*kernel, "--gdb", "tcp:127.0.0.1:0"]),
            ("leave out --cmdline|nothing to check", ["--check"])]:
        refused(USAGE, sentence, *words)
    status, out, _ = run("--version")
    check(status == 0 and re.fullmatch(r"bedplate-vmm \d+\.\d+\.\d+\n", out), out)
    status, out, _ = run("--help")
    check(status == 0 and "--on" not in out.split() and "--memory SIZE" in out, out)


@case
def config(folder):
    path = os.path.join(folder, "vm.json")

    def write(value):
        with open(path, "w") as file:
            file.write(value if isinstance(value, str) else json.dumps(value))

    write({"kernel": ARGS.guest, "memory": "32M", "cpus": 1, "engine": "soft", "no-reboot": True,
           "disk": [{"path": "a,b.img", "format": "raw", "readonly": True}, "c.img,on-full=pause"],
           "net": {"backend": "user", "hostfwd": ["tcp:127.0.0.1:2222-:22"]}})
    equal(run("--config", path, "--check")[0], 0, "a good file")
    for sentence, value in [
            ("invalid JSON in line 1", "{"),
            ("must be a JSON object", "[]"),
            ("did you mean 'kernel'", {"kernle": "x"}),
            ("'check' belongs on the command line", {"check": True}),
            ("memory: '1X' is not a size", {"kernel": "x", "memory": "1X"}),
            ("memory: must be a string or a number", {"kernel": "x", "memory": True}),
            ("no-reboot: must be true or false", {"kernel": "x", "no-reboot": "yes"}),
            ("disk: the string 'path' is missing", {"kernel": "x", "disk": {"format": "raw"}}),
            ("disk: unknown disk option 'colour'", {"kernel": "x", "disk": {"path": "a", "colour": 1}}),
            ("net: must be a string or an object", {"kernel": "x", "net": 1.5}),
            ("duplicate", '{"kernel": "a", "kernel": "b"}')]:
        write(value)
        refused(USAGE, sentence, "--config", path, "--check")
    refused(FILE, "cannot open .*none.json", "--config", os.path.join(folder, "none.json"))
    # The command line wins.
    write({"kernel": "/nonexistent", "cpus": 1000})
    refused(USAGE, "1000 vCPUs", "--config", path, "--check")
    equal(run("--config", path, "--cpus", "2", "--kernel", ARGS.guest, "--check")[0], 0, "overruled")


@case
def files(folder):
    def file(name, content=b""):
        path = os.path.join(folder, name)
        with open(path, "wb") as out:
            out.write(content)
        return path

    kernel = ["--engine", "soft", "--memory", "32", "--kernel", ARGS.guest]
    base = ["--engine", "soft", "--memory", "32", "--kernel"]
    with open(ARGS.guest, "rb") as guest:
        elf = guest.read()
    disk = file("disk", bytes(1 << 20))
    for sentence, words in [
            ("--kernel: cannot open /nonexistent: No such file", [*base, "/nonexistent"]),
            ("is a directory; name a file", [*base, folder]),
            ("is empty", [*base, file("empty")]),
            ("not a kernel", [*base, file("garbage", os.urandom(100000))]),
            ("truncated|cut|ends|short|kernel", [*base, file("half", elf[:len(elf) // 8])]),
            ("--initrd: cannot open", [*kernel, "--initrd", "/nonexistent"]),
            ("initrd", [*kernel, "--initrd", file("large", bytes(64 << 20))]),
            ("--disk: .* is a directory", [*kernel, "--disk", folder]),
            ("--disk: .*nonexistent", [*kernel, "--disk", "/nonexistent"]),
            ("--restore: .*this is no saved VM", ["--engine", "soft", "--restore", disk]),
            ("--save: cannot create", [*kernel, "--save", "/nonexistent/x"]),
            ("--run-dir: cannot create", [*kernel, "--run-dir", "/nonexistent/x"]),
            ("exists and is no socket", [*kernel, "--control", "unix:" + disk]),
            ("--serial: cannot open|serial: cannot open", [*kernel, "--serial", "file:/nonexistent/x"]),
            ("--net: ", [*kernel, "--net", "fd:99"])]:
        refused(FILE, sentence, *words)
    # A disk that another VM has.
    with Vm("--disk", disk + ",format=raw") as vm:
        vm.expect("ready")
        refused(FILE, "disk.*(lock|use)", *kernel, "--disk", disk + ",format=raw")
        vm.type("p")
        vm.ends(POWEROFF)


@case
def statuses(folder):
    for words, letter, status, sentence in [
            ([], "p", POWEROFF, ""),
            (["--no-reboot"], "r", RESET, "the guest asked for a reset"),
            ([], "t", TRIPLE_FAULT, "triple fault on vCPU 0 at rip 0x1"),
            (["--profile", "micro-1"], "p", POWEROFF, "")]:
        with Vm(*words) as vm:
            vm.expect("ready")
            vm.type(letter)
            vm.ends(status, sentence)
    with Vm() as vm:  # a reset starts the kernel again
        vm.expect("ready")
        vm.type("i")
        vm.expect("00000001")
        vm.type("r")
        vm.expect("ready")
        vm.type("i")
        vm.expect("00000001")
        vm.type("p")
        vm.ends(POWEROFF)


@case
def run_dir(folder):
    path = os.path.join(folder, "run")
    with Vm("--run-dir", path) as vm:
        vm.expect("ready")
        check(os.path.exists(path + "/control.sock") and not os.path.exists(path + "/exit.json"), os.listdir(path))
        refused(FILE, f"used by the VM of process {vm.process.pid};", "--engine", "soft", "--kernel", ARGS.guest,
                "--run-dir", path)
        vm.type("p")
        vm.ends(POWEROFF)
    equal(sorted(os.listdir(path)), ["exit.json", "lock", "log", "serial.log"], "left behind")
    with open(path + "/exit.json") as file:
        record = json.load(file)
    equal((record["status"], record["name"], record["reason"]), (0, "powered-off", "the guest powered off"), "record")
    with open(path + "/log") as file:
        check("sandbox: seccomp" in file.read(), "the log tells of the sandbox")
    # Killed: no record, but the sockets go, and the directory is free again.
    with Vm("--run-dir", path) as vm:
        vm.expect("ready")
        vm.process.kill()
        vm.wait()
    until("its control socket stays", lambda: not os.path.exists(path + "/control.sock"))
    equal(sorted(os.listdir(path)), ["lock", "log", "serial.log"], "after a kill")
    # A start that fails is a controlled end, too.
    equal(run("--engine", "soft", "--kernel", "/nonexistent", "--run-dir", path)[0], FILE)
    with open(path + "/exit.json") as file:
        equal(json.load(file)["status"], FILE, "record of a failed start")


@case
def terminal(folder):
    def mode(vm):
        return termios.tcgetattr(vm.tty)

    def restored(vm):
        until(lambda: f"the terminal's mode afterwards is {mode(vm)}, not {vm.mode}", lambda: mode(vm) == vm.mode)

    with Vm(tty=True) as vm:
        vm.expect("ready")
        check(not mode(vm)[3] & (termios.ECHO | termios.ICANON | termios.ISIG), "raw mode")
        vm.type("\x01h")
        vm.expect("Ctrl-A X")
        vm.type("\x01\x01i")  # a Ctrl-A that the guest ignores
        vm.expect("00000001")
        vm.type("\x03i")
        vm.expect("00000002")
        vm.type("\x01x")
        vm.ends(QUIT, "Ctrl-A X")
        restored(vm)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGABRT):
        with Vm(tty=True, start_new_session=True) as vm:
            vm.expect("ready")
            check(mode(vm) != vm.mode, "raw mode")
            os.killpg(vm.process.pid, number)
            vm.wait()
            restored(vm)
    with Vm(tty=True) as vm:  # a guest that takes no input can still be ended
        vm.expect("ready")
        vm.type("h")
        time.sleep(0.3)
        vm.type("x" * 200)
        time.sleep(0.3)
        vm.type("\x01x")
        vm.ends(QUIT)
        restored(vm)
    with Vm(tty=True) as vm:
        vm.expect("ready")
        vm.type("p")
        vm.ends(POWEROFF)
        restored(vm)


@case
def streams(folder):
    with Vm() as vm:  # the end of standard input does not end the VM
        vm.expect("ready")
        vm.type("i")
        vm.process.stdin.close()
        vm.expect("00000001")
        time.sleep(0.3)
        equal(vm.process.poll(), None, "it goes on")
        vm.process.terminate()
        vm.ends(QUIT, "signal TERM")
    letters = os.path.join(folder, "letters")
    with open(letters, "w") as file:
        file.write("i" * 300 + "p")
    with open(letters) as file, Vm(stdin=file) as vm:
        vm.expect("0000012c")
        vm.ends(POWEROFF)
    with open(os.devnull) as null, Vm(stdin=null) as vm:
        vm.expect("ready")
        vm.process.terminate()
        vm.ends(QUIT)
    with Vm() as vm:  # nobody reads any more
        vm.expect("ready")
        vm.process.stdout.close()
        vm.type("iii")
        time.sleep(0.3)
        vm.type("p")
        vm.ends(POWEROFF)
    path = os.path.join(folder, "out")
    with Vm(serial="file:" + path) as vm:
        until("no output in the file", lambda: os.path.exists(path) and os.path.getsize(path) >= 6)
        vm.process.terminate()
        vm.ends(QUIT)
    with open(path) as file:
        equal(file.read(), "ready\n", "the file")
    path = os.path.join(folder, "serial.sock")
    with Vm(serial="unix:" + path) as vm:
        before = "ready\n"
        for number in (1, 2, 3):  # viewers come and go; each gets what was said before
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(LIMIT)
            until("nobody listens", lambda: client.connect_ex(path) == 0)
            client.send(b"i")
            text, want = b"", f"{number:08x}\n"
            while not text.endswith(want.encode()):
                chunk = client.recv(100)
                check(chunk, f"closed after {text}")
                text += chunk
            before += want
            equal(text.decode(), before, "the socket")
            client.close()
            time.sleep(0.1)
        vm.process.terminate()
        vm.ends(QUIT)
    check(not os.path.exists(path), "the socket is removed")


@case
def console_log(folder):
    path, run_dir = os.path.join(folder, "serial.sock"), os.path.join(folder, "run")
    with Vm("--run-dir", run_dir, serial="unix:" + path) as vm:
        client = Client(os.path.join(run_dir, "control.sock"))
        viewer = socket.socket(socket.AF_UNIX)
        viewer.settimeout(LIMIT)
        viewer.connect(path)
        with viewer.makefile("rwb", buffering=0) as file:
            equal(file.readline(), b"ready\n", "the viewer")
            file.write(b"i")
            equal(file.readline(), b"00000001\n", "the viewer")
        log = client.ok("console-log")
        equal((log["before"], base64.b64decode(log["data"])), (0, b"ready\n00000001\n"), "the log")
        log = client.ok("console-log", port="serial", bytes=3)
        equal((log["before"], base64.b64decode(log["data"])), (12, b"01\n"), "its end")
        equal(client.ok("console-log", bytes=0), {"before": 15, "data": ""}, "nothing of it")
        check("--console" in client.refused("console-log", "ENODEV", port="console"), "no console")
        client.refused("console-log", "EINVAL", port="third")
        equal(os.path.getsize(os.path.join(run_dir, "serial.log")), 0, "while it runs")
        vm.process.terminate()
        vm.ends(QUIT)
    with open(os.path.join(run_dir, "serial.log")) as file:
        equal(file.read(), "ready\n00000001\n", "what is left")


@case
def signals(folder):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with Vm() as vm:
            vm.expect("ready")
            vm.process.send_signal(number)
            vm.ends(QUIT, "signal " + number.name[3:])
    with Vm() as vm:
        vm.expect("ready")
        vm.process.send_signal(signal.SIGUSR1)  # without --save
        vm.type("i")
        vm.expect("00000001")
        check("there is no file to save to" in vm.said(), vm.said())


@case
def control(folder):
    path = os.path.join(folder, "control")
    with Vm("--control", "unix:" + path, "--uuid", "123e4567-E89b-12d3-a456-426614174000", "--net", "user,mac=52:54:00:0a:0b:0c") as vm:
        vm.expect("ready")
        vm.type("u")
        vm.expect("67453e129be8d312a456426614174000\n")  # SMBIOS has its first three fields little-endian
        client, other = Client(path), Client(path)
        equal(client.greeting["bedplate-vmm"]["pid"], vm.process.pid, "greeting")
        other.ok("events", after=0)
        status = client.ok("status")
        equal((status["state"], status["engine"], status["cpus"], status["memory"]), ("running", "soft", 1, 32 << 20))
        equal(status["nets"], [{"backend": "user", "mac": "52:54:00:0a:0b:0c"}], "network cards")
        client.ok("pause")
        equal(client.ok("status")["state"], "paused")
        equal(client.ok("status")["paused-by"], "user")
        other.event("paused")
        before = client.ok("status")["guest-ns"]
        vm.type("i")
        time.sleep(0.2)
        equal(client.ok("status")["guest-ns"], before, "guest time stands still")
        client.refused("power-button", "EAGAIN")
        client.ok("resume")
        vm.expect("00000001")
        other.event("running")
        check(client.ok("status")["guest-ns"] > before, "guest time goes on")
        client.ok("reset")
        vm.expect("ready")
        other.event("reset")
        client.ok("power-button")
        devices = [d["id"] for d in client.ok("inspect")["devices"]]
        check("serial0" in devices, devices)
        for device in devices:
            client.ok("inspect", device=device)
        check(int(str(client.ok("inspect", vcpu=0)["rip"]), 0) >= 0x100000, "rip")
        client.refused("inspect", "ENOENT", device="floppy9")
        client.refused("inspect", "ENOENT", vcpu=1)
        client.refused("inspect", "EINVAL", vcpu=0, device="serial0")
        client.refused("save", "EINVAL")
        client.refused("save", "EBADF", fd=True)
        client.refused("dance", "ENOSYS")
        check("engine" in client.ok("counters"), "counters")
        manual = document("control-protocol.md")
        for command in client.ok("commands"):
            check(f"| `{command}` |" in manual, f"docs/control-protocol.md does not tell of {command}")
        client.send({"id": "bye", "do": "quit"})
        check("ok" in client.reply("bye"), "quit is answered")
        equal(other.event("ended")["status"], QUIT, "the last event")
        vm.ends(QUIT)
    check(not os.path.exists(path), "the socket is removed")
    # A socket that a dead VM left is taken over, one in use is not.
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(path)
    stale.close()
    with Vm("--control", "unix:" + path) as vm:
        vm.expect("ready")
        refused(FILE, "another process listens there", "--engine", "soft", "--kernel", ARGS.guest, "--memory", "32",
                "--control", "unix:" + path)
        Client(path).ok("quit")
        vm.ends(QUIT)


def restore(path, *words):
    return Vm("--restore", path, *words, boots=False)


@case
def save(folder):
    path, sock = os.path.join(folder, "saved"), os.path.join(folder, "control")
    disk = os.path.join(folder, "disk")
    with open(disk, "wb") as file:
        file.truncate(1 << 20)
    words = ["--control", "unix:" + sock, "--disk", disk + ",format=raw", "--net", "user"]
    with Vm("--save", path, "--cpus", "2", *words) as vm:
        vm.expect("ready")
        vm.type("ifi")
        vm.expect("00000002")
        client = Client(sock)
        client.ok("events", after=0)
        saved_at = client.ok("status")["guest-ns"]
        client.ok("save")
        client.event("saved")
        vm.ends(SAVED, "saved")
    equal(sorted(os.listdir(folder)), ["disk", "saved"], "only the file is left")
    check(os.path.getsize(path) < 20 << 20, "pages of zeros are not in it")
    for number in (3, 4):  # saved by the command, then by the signal
        with restore(path, "--save", path, *words) as vm:
            client = Client(sock)
            status = client.ok("status")
            equal((status["cpus"], status["memory"]), (2, 32 << 20))
            check(saved_at < status["guest-ns"] < saved_at + 20e9, f"guest time went on: {saved_at} {status}")
            vm.type("vi")
            vm.expect("good")
            vm.expect(f"{number:08x}")
            client.refused("reset", "ENOENT")
            vm.process.send_signal(signal.SIGUSR1)
            vm.ends(SAVED)
    # To a descriptor, and go on: the copy is a fork of the moment.
    copy = os.path.join(folder, "copy")
    with restore(path, *words) as vm:
        client = Client(sock)
        with open(copy, "wb") as file:
            client.ok("save", fds=[file.fileno()], fd=True, then="resume")
        vm.type("i")
        vm.expect("00000005")
        reader, writer = os.pipe()  # a stream nobody reads to the end
        os.close(reader)
        client.number += 1
        client.send({"id": client.number, "do": "save", "fd": True, "then": "resume"}, [writer])
        equal(client.reply(client.number)["error"]["code"], "EPIPE", "a broken pipe")
        os.close(writer)
        vm.type("i")
        vm.expect("00000006")
        # While a stream that nobody reads is written, everything else is refused, and the VM can be ended.
        reader, writer = os.pipe()
        other = Client(sock)
        client.send({"id": "stuck", "do": "save", "fd": True}, [writer])
        until("it saves nothing", lambda: other.ok("status")["state"] == "saving")
        other.refused("resume", "EBUSY")
        equal(other.ok("outcome", of="stuck")["state"], "running")
        other.ok("quit")
        vm.ends(QUIT)
        os.close(reader)
        os.close(writer)
    refused(FILE, "leave out --cpu", "--restore", copy, "--restore-once", "--cpu", "x86-64-v3", *words)
    check(os.path.exists(copy), "a state that was not used is gone")
    with restore(copy, "--restore-once", "--kernel", ARGS.guest, *words) as vm:
        vm.type("i")
        vm.expect("00000005")
        Client(sock).ok("reset")  # with a kernel to start again
        vm.expect("ready")
        vm.type("p")
        vm.ends(POWEROFF)
    equal((os.path.exists(copy), os.path.exists(copy + ".used")), (False, True), "the state that was used")


@case
def restore_refuses(folder):
    path, disk = os.path.join(folder, "saved"), os.path.join(folder, "disk")
    with open(disk, "wb") as file:
        file.truncate(1 << 20)
    drive = ["--disk", disk + ",format=raw"]
    with Vm("--save", path, *drive) as vm:
        vm.expect("ready")
        vm.process.send_signal(signal.SIGUSR1)
        vm.ends(SAVED)
    base = ["--engine", "soft", "--restore"]
    refused(FILE, "has 1 disks, 0 are given", *base, path)
    refused(FILE, "leave out --cpus", *base, path, *drive, "--cpus", "2")
    refused(FILE, "leave out --memory", *base, path, *drive, "--memory", "64")
    refused(FILE, "leave out --profile", *base, path, *drive, "--profile", "micro-1")
    refused(FILE, "0 network cards, 1 are given", *base, path, *drive, "--net", "user")
    with open(disk, "ab") as file:
        file.truncate(2 << 20)
    refused(FILE, "not the one that was saved", *base, path, *drive)
    with open(disk, "ab") as file:
        file.truncate(1 << 20)
    with open(path, "rb") as file:
        good = file.read()
    bad = os.path.join(folder, "bad")
    size = len(good)
    # Cut off anywhere, or with any byte changed: a sentence, never a start.
    places = [0, 7, 8, 12, 20, 40, 70, 100, 500, size // 3, size // 2, size - 100, size - 5, size - 1]
    for place in places:
        for content in (good[:place], good[:place] + bytes([good[place] ^ 0x40]) + good[place + 1:]):
            with open(bad, "wb") as file:
                file.write(content)
            refused(FILE, "--restore: .*(no saved VM|is empty|cut off|damaged|checksum|format)", *base, bad, *drive)
    with restore(path, *drive) as vm:
        vm.type("i")
        vm.expect("00000001")
        vm.type("p")
        vm.ends(POWEROFF)


@case
def gdb(folder):
    if not shutil.which("gdb"):
        skip("gdb is not installed")
    sock = os.path.join(folder, "gdb")
    script = f"""
set pagination off
set confirm off
set architecture i386:x86-64
target remote {sock}
printf "pc %lx\\n", $pc
break *{symbol('counted')}
continue
printf "at %lx\\n", $pc
x/4xb {symbol('counter')}
set {{int}}{symbol('counter')} = 0x41
stepi
printf "step %lx\\n", $pc - {symbol('counted')}
printf "ebx %x\\n", $ebx
delete
watch *(int*){symbol('counter')}
continue
info threads
p $cr0
p $xmm0.v4_int32
delete
detach
"""
    path = os.path.join(folder, "script")
    with open(path, "w") as file:
        file.write(script)
    with Vm("--gdb", f"unix:{sock},wait") as vm:
        until("no socket", lambda: os.path.exists(sock))
        debugger = subprocess.Popen(["gdb", "-nx", "-batch", "-x", path, ARGS.guest], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            vm.expect("ready")
            vm.type("i")
            vm.expect("00000041")
            vm.type("i")
            out = debugger.communicate(timeout=60)[0]
        finally:
            debugger.kill()
        print(out)
        check(re.search(r"^pc 100[0-9a-f]{3}$", out, re.M), "entry point")
        check(re.search(rf"^at {symbol('counted'):x}$", out, re.M), "breakpoint")
        check("0x01\t0x00\t0x00\t0x00" in out, "memory")
        check("step 6" in out and "ebx 41" in out, "memory written, one step")
        check(re.search(r"New value = 66", out), "watchpoint")
        check("Thread 1" in out and "(vCPU 0" in out, "threads")
        vm.expect("00000042")
        vm.type("p")
        vm.ends(POWEROFF)


def symbol(name):
    out = subprocess.run(["nm", ARGS.guest], capture_output=True, text=True, check=True).stdout
    return int(re.search(rf"^(\S+) \S {name}$", out, re.M)[1], 16)


@case
def man(folder):
    status, out, _ = run("--help-man")
    equal(status, 0)
    for word in (".TH BEDPLATE", "\\-\\-restore", ".SH EXIT STATUS", "x86\\-64\\-v2"):
        check(word in out, word)
    manual = document("exit-status.md")
    for number, name in re.findall(r"^\.B (\d+)\n.*\(\\fB([^\\]+(?:\\-[^\\]+)*)\\fR\)", out, re.M):
        name = name.replace("\\", "")
        check(f"| {number} | `{name}` |" in manual, f"docs/exit-status.md does not tell of {number} {name}")
    check(f"| {SAVED} | `saved` |" in manual, "docs/exit-status.md")
    check(not re.search(r"^\.(?!TH|SH|TP|B|BR|I|IR|br|BI)", out, re.M), "no stray requests")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--binary", required=True)
    parser.add_argument("--guest", required=True)
    global ARGS
    ARGS = parser.parse_args()
    # Short, since sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="vmm-") as folder:
        CASES[ARGS.case](folder)
    print("good")


if __name__ == "__main__":
    main()
