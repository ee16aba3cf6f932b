#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The README's first command as a person meets it: `make run` in a clean clone, on a terminal; and `make boot`.

The shell, the disk, the network, the terminal's size, the keys, the end by `poweroff`, by Ctrl-A X or D and by a kill,
and that a second start is quick. The clone is made of what is committed. --clone keeps and uses a folder of your choice.

The guest debian-user is for root to ask for: an ordinary user, made for the test, does it all without root.
"""
import argparse
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "boot"))
import boot  # noqa: E402  (tests/boot/boot.py)

try:
    import pexpect
except ImportError:
    boot.skip("python3-pexpect is not installed")

ROWS, COLUMNS = 33, 107
SIZE_LIMIT = 120


class Kind:
    """What all have in common."""
    AS = ()  # the words before a command that make it another user's
    ENV = {}

    def __init__(self, folder):
        """folder: for what is to lie beside the clone."""

    def ready(self, clone):
        """The clone is there."""

    def after(self, clone):
        """All went well."""

    def clean(self, clone):
        """In the end, however it went."""


class Direct(Kind):
    """By bedplate-vmm alone."""
    FETCH = "wget -q -O - {url} | sha256sum"

    def keys(self, terminal):
        terminal.child.send("\x01h")
        terminal.until("Ctrl-A X")
        terminal.child.send("\r")
        terminal.until(self.PROMPT)

    def second(self, terminal):
        terminal.child.send("\x01x")
        terminal.end(0)


class Small(Direct):
    """The guest of busybox."""
    MAKE = "make boot GUEST=small"
    PROMPT = "guest:~# "
    STAGES = ("guest: building the initramfs", "guest: making its disk", "starting")
    MARK = "/mnt/kept"
    SAYS = [("the disk is mounted", "cat /mnt/hello.txt", "lies on the guest's disk")]
    FROM_HOST, FROM_HOST_SAYS = ["true"], ""


class Userland(Direct):
    """Debian."""
    MAKE = "make boot"
    PROMPT = "root@debian:~# "
    STAGES = ("userland: making a Debian 12 root file system", "userland: making its disk",
              "userland: fetching the packages", "userland: making disk.qcow2", "starting")
    MARK = "/root/kept"
    SAYS = [("it is Debian 12", "cat /etc/debian_version; systemctl is-system-running", "12."),
            ("a package comes from the host", "apt-get -qq update && apt-get -qq install hello && hello", "Hello, world!")]
    FROM_HOST = ["ssh", "-F", ".cache/userland/ssh_config", "guest", "hostname; id"]
    FROM_HOST_SAYS = "debian\nuid=0(root)"


class Debian(Kind):
    """Debian by the user's own daemon, whose directories lie beside the clone."""
    MAKE = "make run"
    PROMPT = "root@debian-12:~# "
    STAGES = ("starting debian-12",)
    MARK = "/root/kept"
    SAYS = [("it is Debian 12", "cat /etc/debian_version; cloud-init status --wait; systemctl is-system-running --wait", "12."),
            ("packages can be asked for", "apt-get -qq update && apt-cache policy hello", "Candidate: 2.")]
    FETCH = "python3 -c \"import hashlib as h, urllib.request as u; print(h.sha256(u.urlopen('{url}').read()).hexdigest())\""
    PROGRAM = "build/src/cli/bedplate"
    FROM_HOST = [PROGRAM, "--user", "exec", "debian-12", "--", "sh", "-c", "hostname; id"]
    FROM_HOST_SAYS = "debian-12\nuid=0(root)"

    def __init__(self, folder):
        self.ENV = {name: os.path.join(folder, at) for name, at in
                    (("HOME", "home"), ("XDG_STATE_HOME", "state"), ("XDG_RUNTIME_DIR", "run"))}
        for path in self.ENV.values():
            os.makedirs(path, mode=0o700, exist_ok=True)

    def keys(self, terminal):
        terminal.child.send("\x01\x01")  # one Ctrl-A for the guest
        terminal.command("true")

    def second(self, terminal):
        terminal.child.send("\x01d")
        terminal.until("debian-12 runs on")
        terminal.end(0)

    def clean(self, clone):
        subprocess.run([self.PROGRAM, "--user", "kill", "debian-12"], cwd=clone, env=dict(os.environ, **self.ENV), check=False)
        for pid in processes(clone, "build/src/daemon/bedplated"):
            os.kill(pid, signal.SIGTERM)


class DebianUser(Debian):
    """By a user without privileges, who is made for that and has a home, a range in /etc/subuid, and nothing else of the test's."""
    NAME = f"bp-clone-{os.getpid()}"

    def __init__(self, folder):
        if os.geteuid() != 0:
            boot.skip("only root can make a user")
        os.chmod(folder, 0o755)
        self.home = os.path.join(folder, "home")
        subprocess.run(["useradd", "--create-home", "--home-dir", self.home, "--shell", "/bin/sh", self.NAME], check=True)
        self.uid = pwd.getpwnam(self.NAME).pw_uid
        self.ENV = {}
        self.AS = ["setpriv", f"--reuid={self.NAME}", f"--regid={self.NAME}", "--clear-groups", "env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin",
                   "TERM=vt100", "LANG=C.UTF-8", "HOME=" + self.home, "USER=" + self.NAME]

    def ready(self, clone):
        subprocess.run(["chown", "-R", f"{self.NAME}:", clone], check=True)

    def doctor(self, clone, *before):
        """What `bedplate doctor` finds: the verdict of each check and what is to be done."""
        said = subprocess.run([*before, *self.AS, self.PROGRAM, "--user", "--json", "doctor"], cwd=clone, capture_output=True, text=True, check=False)
        return {finding["check"]: (finding["verdict"], finding.get("todo", "")) for finding in json.loads(said.stdout)}

    def after(self, clone):
        """Doctor says what was there, and where it is not what to do."""
        found = self.doctor(clone)
        check(all(found[name][0] == "good" for name in ("subuid", "subgid", "newuidmap", "mmdebstrap", "fakeroot", "vm-ids")), found)
        self.daemon_end(clone)
        mounts = " && ".join(f"mount --bind /dev/null {path}" for path in ("/etc/subuid", "/etc/subgid", "/usr/bin/newuidmap"))
        found = self.doctor(clone, "unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh")
        for name, todo in (("subuid", "--add-subuids"), ("subgid", "--add-subgids"), ("newuidmap", "apt-get install uidmap"), ("vm-ids", "--add-subuids")):
            check(found[name][0] == "note" and todo in found[name][1], found)
        self.daemon_end(clone)

    def daemon_end(self, clone):
        for pid in processes(clone, "build/src/daemon/bedplated"):
            os.kill(pid, signal.SIGTERM)
        while processes(clone, "build/src/daemon/bedplated"):
            time.sleep(0.1)

    def clean(self, clone):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.stat(f"/proc/{pid}").st_uid == self.uid:
                    os.kill(int(pid), signal.SIGKILL)
            except OSError:
                pass
        shutil.rmtree(f"/tmp/bedplate-{self.uid}", ignore_errors=True)
        subprocess.run(["userdel", self.NAME], check=True)


def check(condition, what):
    if not condition:
        raise AssertionError(what)


class Terminal:
    """A terminal in which a shell runs `make run` and tells its settings before and after."""

    def __init__(self, clone, guest, limit):
        self.start, self.clone, self.guest = time.monotonic(), clone, guest
        words = [*guest.AS, "/bin/sh", "-c", f"stty -g; {guest.MAKE}; echo status=$?; stty -g"]
        self.child = pexpect.spawn(words[0], words[1:], cwd=clone, env=dict(os.environ, **guest.ENV),
                                   dimensions=(ROWS, COLUMNS), encoding="latin-1", timeout=limit)
        self.log = open(os.path.join(clone, "clone-test.log"), "a+", encoding="latin-1", newline="")
        self.log.truncate(0)
        self.child.logfile_read = self.log

    def until(self, wanted):
        got = self.child.expect([wanted, pexpect.EOF, pexpect.TIMEOUT])
        if got:
            raise AssertionError(f"{wanted!r} did not come; the end was:\n{self.text()[-1500:]}")
        return self.child.before

    def command(self, text):
        self.child.sendline(text)
        self.until("\n")
        return self.until(self.guest.PROMPT)

    def text(self):
        self.log.seek(0)
        return self.log.read()

    def end(self, status):
        self.until(r"status=(\d+)")
        check(self.child.match[1] == str(status), f"status {self.child.match[1]} instead of {status}")
        self.child.expect(pexpect.EOF)
        settings = re.findall(r"^[0-9a-f:]{40,}\r?$", self.text(), re.MULTILINE)
        check(len(settings) == 2 and settings[0] == settings[1], f"the terminal was not given back as it was: {settings}")
        self.child.close()
        self.log.close()


def silent_gaps(clone, guest, limit):
    """The first start, and the longest time in which it said nothing."""
    terminal, heard, longest = Terminal(clone, guest, limit), time.monotonic(), (0, "")
    while True:
        got = terminal.child.expect([guest.PROMPT, r"[\r\n]", pexpect.EOF, pexpect.TIMEOUT])
        now = time.monotonic()
        longest = max(longest, (now - heard, terminal.text()[-200:].strip().splitlines()[-1] if got < 2 else ""))
        heard = now
        if got == 0:
            return terminal, longest
        check(got == 1, f"{guest.MAKE} came to no prompt; the end was:\n{terminal.text()[-1500:]}")


def use(terminal, guest, server):
    for what, command, says in guest.SAYS:
        said = terminal.command(command)
        check(says in said, f"{what}: {said}")
    done = subprocess.run([*guest.AS, *guest.FROM_HOST], cwd=terminal.clone, capture_output=True, text=True, timeout=120,
                          env=dict(os.environ, **guest.ENV))
    check(done.returncode == 0 and guest.FROM_HOST_SAYS in done.stdout, f"{guest.FROM_HOST}: {done.stdout}{done.stderr}")
    deadline = time.monotonic() + SIZE_LIMIT
    while f"{ROWS} {COLUMNS}" not in (said := terminal.command("stty size")):
        check(time.monotonic() < deadline, f"the terminal's size does not reach the guest, but {said}")
        time.sleep(1)
    said = terminal.command(guest.FETCH.format(url=server.url))
    check(server.sha256 in said, f"the network: {said}")
    guest.keys(terminal)


def processes(clone, program):
    """The process ids of those that run from this clone."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/exe") == os.path.join(clone, program):
                found.append(int(pid))
        except OSError:
            pass
    return found


def vmm_of(clone):
    """The VMM's process, not its keeper's."""
    for pid in processes(clone, "build/src/vmm/bedplate-vmm"):
        with open(f"/proc/{pid}/comm") as comm:
            if comm.read().strip() == "bedplate-vmm" and len(os.listdir(f"/proc/{pid}/task")) > 1:
                return pid
    raise AssertionError("no VMM runs")


def run(clone, guest, limit):
    server = boot.Server()
    terminal, (gap, behind) = silent_gaps(clone, guest, limit)
    first = time.monotonic() - terminal.start
    print(f"the first start took {first:.0f} s; the longest silence was {gap:.0f} s, behind {behind!r}")
    stages = re.findall(r"^== [^\r\n]*", terminal.text(), re.MULTILINE)
    print("\n".join(stages))
    for stage in ("configuring", "building", *guest.STAGES):
        check(any(stage in line for line in stages), f"the stage '{stage}' says that it began")
    use(terminal, guest, server)
    terminal.child.sendline(f"echo kept >{guest.MARK}; sync; poweroff")
    terminal.end(0)

    terminal = Terminal(clone, guest, limit)
    terminal.until(guest.PROMPT)
    print(f"the second start took {time.monotonic() - terminal.start:.1f} s")
    check(not re.search(r"^== (guest|userland)", terminal.text(), re.MULTILINE), "what the first start prepared is used again")
    check("kept" in terminal.command(f"cat {guest.MARK}"), "what was written to the disk is there")
    guest.second(terminal)

    terminal = Terminal(clone, guest, limit)
    terminal.until(guest.PROMPT)
    os.kill(vmm_of(clone), signal.SIGKILL)
    terminal.end(2)  # make's, of a command that failed


GUESTS = {"debian": Debian, "debian-user": DebianUser, "userland": Userland, "small": Small}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clone", help="folder; is made if it is not there")
    parser.add_argument("--guest", choices=sorted(GUESTS), default="debian")
    parser.add_argument("--limit", type=float, default=600, help="seconds for each step")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bedplate-clone-") as folder:
        clone = os.path.realpath(args.clone or os.path.join(folder, "clone"))
        if not os.path.exists(clone):
            done = subprocess.run(["git", "clone", "-q", boot.ROOT, clone], capture_output=True, text=True)
            if done.returncode:
                boot.skip(f"this tree cannot be cloned: {done.stderr.strip()}")
        guest = GUESTS[args.guest](folder)
        try:
            guest.ready(clone)
            run(clone, guest, args.limit)
            guest.after(clone)
        finally:
            guest.clean(clone)
    print("good")


if __name__ == "__main__":
    main()
