#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A VMM that was taken over:  hostile.py CASE --binary HOSTILE --jail J --confine C --guest G

bedplate-vmm-hostile (src/vmm/hostile.c) does what an attacker would, on each thread that faces the guest.

  bare      without any lock every deed is done: the tests below can fail
  direct    started by hand, all layers: every deed is refused by seccomp
  landlock  that layer alone: no file can be opened
  jail      as the daemon starts it: the jail alone leaves no file, socket or process of the host in reach; with all layers
  opening   before the lock: of files, only what it is given can be written
  root      as jail, where root has no user name spaces
  user      as jail, for a user without privileges
  subuid    as user, with a range in /etc/subuid: another user id
  refused   where name spaces are refused: it says so, and seccomp holds
"""
import argparse
import contextlib
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile

sys.path[:0] = [os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "vmm")]
from host import LIMIT, check, until  # noqa: E402

SKIP = 77
NOBODY, GIVEN, RANGE = 65534, 2130706440, 300000
THREADS, OTHERS = ("main", "io", "new thread", "vcpu"), ("main", "io", "new thread")
NEEDED = ["duplicate", "receive"]
FILES = ["open", "openat2", "overwrite", "create", "unlink", "see another process"]
OUTSIDE = [*FILES, "connect to a unix socket", "connect by TCP", "ptrace", "kill"]
DEEDS = [*OUTSIDE, "socket", "unix socket", "connect", "execve", "fork", "clone without CLONE_THREAD", "user name space",
         "mmap with PROT_EXEC", "mprotect with PROT_EXEC", "io_uring_setup"]
SPACES = "mount,pid,ipc,uts,net,cgroup"


def skip(why):
    print(f"skip: {why}")
    sys.exit(SKIP)


class Ground:
    """What it reaches for, outside of it."""

    def __init__(self, folder):
        self.folder = folder
        os.chmod(folder, 0o777)
        self.secret = os.path.join(folder, "secret")
        with open(self.secret, "w", encoding="ascii") as file:
            file.write("secret\n")
        os.chmod(self.secret, 0o644)
        self.unix, self.tcp = socket.socket(socket.AF_UNIX), socket.socket()
        self.unix.bind(os.path.join(folder, "socket"))
        os.chmod(os.path.join(folder, "socket"), 0o777)
        self.tcp.bind(("127.0.0.1", 0))
        for listener in (self.unix, self.tcp):
            listener.listen(20)
        self.datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.programs = os.path.join(folder, "bin")  # whoever it is may not read the tree
        os.mkdir(self.programs)
        for program in (ARGS.binary, ARGS.jail, ARGS.confine, ARGS.guest):
            shutil.copy(program, self.programs)

    def program(self, path):
        return os.path.join(self.programs, os.path.basename(path))

    def run(self, before, without="", user=None, become=True):
        """The lines {(thread, deed): outcome}, and what the log says of the sandbox. `before` makes it `user`, or `become`."""
        own = os.path.join(self.folder, "own")
        shutil.rmtree(own, ignore_errors=True)
        os.mkdir(own)
        victim = subprocess.Popen(["sleep", "1000"], user=user, group=user, extra_groups=[] if user else None)
        for i, _ in enumerate(THREADS):
            open(os.path.join(own, f"kept-{i}"), "w", encoding="ascii").close()
        if user:
            os.chown(own, user, user)
        env = dict(PATH="/usr/bin:/bin", HOSTILE_WITHOUT=without, HOSTILE_FILE=self.secret, HOSTILE_DIRECTORY=own,
                   HOSTILE_SOCKET=os.path.join(self.folder, "socket"), HOSTILE_PORT=str(self.tcp.getsockname()[1]),
                   HOSTILE_PROCESS=str(victim.pid), HOSTILE_DATAGRAMS=str(self.datagrams.fileno()))
        words = [*before, self.program(ARGS.binary), "--engine", "soft", "--serial", "none", "--memory", "32M",
                 "--kernel", self.program(ARGS.guest), "--run-dir", os.path.join(own, "run")]
        try:
            result = subprocess.run(words, env=env, capture_output=True, text=True, timeout=LIMIT, check=False,
                                    user=user if become else None, group=user if become else None,
                                    extra_groups=[] if user and become else None, pass_fds=[self.datagrams.fileno()])
            log = open(os.path.join(own, "run", "log"), encoding="utf-8").read() if result.returncode == 0 else ""
            check(victim.poll() is None, "the other process was killed")
        finally:
            victim.kill()
            victim.wait()
        if result.returncode == SKIP:
            skip(result.stdout.strip().removeprefix("skip: "))
        check(result.returncode == 0, f"{words}: {result.returncode} {result.stdout} {result.stderr}")
        found = re.findall(r"^([a-z ]+): (.+): (\S+)$", result.stdout, re.M)
        outcome = {(thread, deed): how for thread, deed, how in found}
        for thread in THREADS:
            for deed in [*DEEDS, *NEEDED]:
                check((thread, deed) in outcome, f"{thread} did not try to {deed}: {result.stdout}")
        return outcome, re.search(r"sandbox: (.*)", log)[1]


def all_are(outcome, deeds, how, threads=THREADS):
    for thread in threads:
        for deed in deeds:
            got = outcome[thread, deed]
            check(got == how or (how is None and got != "done"), f"{thread}: {deed}: {got}")


def locked(outcome):
    all_are(outcome, [*DEEDS, "TIOCSTI"], "EPERM")
    all_are(outcome, NEEDED, "done", OTHERS)
    all_are(outcome, NEEDED, "EPERM", ["vcpu"])


def only_root():
    if os.geteuid() != 0:
        skip("only root can become another user")


def bare(ground):
    outcome, _ = ground.run([], "jail landlock capabilities seccomp")
    all_are(outcome, [*DEEDS, *NEEDED], "done")


def direct(ground):
    outcome, said = ground.run([])
    check("seccomp" in said and "name spaces" not in said, said)
    locked(outcome)


def landlock(ground):
    outcome, said = ground.run([], "jail capabilities seccomp")
    if "without: Landlock" in said:
        skip("this kernel has no Landlock")
    all_are(outcome, FILES, "EACCES")
    all_are(outcome, ["fork", "socket"], "done")


def in_jail(ground, *ids, user=None, before=(), spaces="user," + SPACES):
    jail = [*before, ground.program(ARGS.jail), *ids, "--"]
    outcome, said = ground.run(jail, "landlock seccomp", user, not before)
    if "without: an empty root" in said:
        skip(f"this host refuses name spaces: {said}")
    check("name spaces: " + spaces in said, said)
    all_are(outcome, OUTSIDE, None)
    all_are(outcome, ["fork", "socket", "mmap with PROT_EXEC"], "done")
    outcome, said = ground.run(jail, "", user, not before)
    check("without" not in said.replace("without: a user of its own", ""), said)
    locked(outcome)
    return said


def jail(ground):
    only_root()
    said = in_jail(ground, "--ids", f"{GIVEN}:{GIVEN}")
    check("without" not in said, said)


@contextlib.contextmanager
def control_group():
    """One of the host's, None where it has none for us."""
    made = None
    for hierarchy in ("pids", "unified", ""):
        path = os.path.join("/sys/fs/cgroup", hierarchy, f"bedplate-test-{os.getpid()}")
        with contextlib.suppress(OSError):
            os.mkdir(path)
            made = path
            break
    try:
        yield made
    finally:
        if made:
            until("the control group is not empty", lambda: removed(made))


def removed(directory):
    with contextlib.suppress(OSError):
        os.rmdir(directory)
    return not os.path.exists(directory)


def opening(ground):
    only_root()
    own, everything = os.path.join(ground.folder, "own"), "jail landlock capabilities seccomp"
    with control_group() as group:
        outcome, _ = ground.run([ground.program(ARGS.jail), *(["--cgroup", group] if group else []), "--writable", own, "--"], everything)
    all_are(outcome, ["open", "create", "unlink"], "done")
    all_are(outcome, ["overwrite"], "EROFS")
    all_are(outcome, ["connect by TCP", "ptrace", "kill", "see another process"], None)


def root(ground):
    only_root()
    script = 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"'  # of the outer jail's user name space
    said = in_jail(ground, "--ids", f"{GIVEN}:{GIVEN}", before=[ground.program(ARGS.jail), "--", "/bin/sh", "-c", script, "sh"], spaces=SPACES)
    check("without" not in said, said)


def user(ground):
    only_root()
    said = in_jail(ground, user=NOBODY)
    check("without: a user of its own" in said, said)


def subuid(ground):
    only_root()
    if not shutil.which("newuidmap"):
        skip("the package uidmap is missing")
    ranges = os.path.join(ground.folder, "ranges")
    with open(ranges, "w", encoding="ascii") as file:
        file.write(f"{pwd.getpwuid(NOBODY).pw_name}:{RANGE}:65536\n")
    script = f"mount --bind {ranges} /etc/subuid && mount --bind {ranges} /etc/subgid && exec setpriv --reuid {NOBODY} --regid {NOBODY}" \
             ' --clear-groups "$@"'
    for path in ("/etc/subuid", "/etc/subgid"):
        if not os.path.exists(path):
            skip(f"there is no {path}")
    ids = f"{RANGE + 5}:{RANGE + 5}"
    said = in_jail(ground, "--ids", ids, user=NOBODY, before=["unshare", "-m", "sh", "-c", script, "sh"])
    check("without" not in said, said)


def refused(ground):
    outcome, said = ground.run([ground.program(ARGS.confine), "--filter", ground.program(ARGS.jail), "--ids", f"{GIVEN}:{GIVEN}", "--"])
    check("without: name spaces" in said and "without: an empty root" in said, said)
    locked(outcome)


CASES = {f.__name__: f for f in (bare, direct, landlock, jail, opening, root, user, subuid, refused)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=sorted(CASES))
    for name in ("binary", "jail", "confine", "guest"):
        parser.add_argument("--" + name, required=True)
    global ARGS
    ARGS = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        CASES[ARGS.case](Ground(folder))
    print("good")


if __name__ == "__main__":
    main()
