# SPDX-License-Identifier: GPL-2.0-or-later
"""For tests that run side by side on a host that may be busy: waiting, ports, and processes that may be gone."""
import contextlib
import os
import random
import signal
import socket
import time

LIMIT = 60  # seconds: nothing that is waited for takes long, but it may have to wait itself
LEAST_PORT = 10000
held = []  # names of ports that this process has bound


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def equal(got, want, what=""):
    check(got == want, f"{what}: got {got!r}, want {want!r}")


def until(what, true, limit=LIMIT):
    """Waits for it, and answers it. `what` is missing else, or a function tells it."""
    deadline = time.monotonic() + limit
    while not (found := true()):
        check(time.monotonic() < deadline, what() if callable(what) else what)
        time.sleep(0.02)
    return found


def free_port():
    """A port of 127.0.0.1 that nobody has, and that no other test takes while this process lives.

    It is below those that the kernel gives to whoever asks for any: between a look at such a port and its use
    somebody else's connection may take it. Tests keep each other off by names in the abstract space of sockets.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        end = max(int(file.read().split()[0]), LEAST_PORT + 1000)
    while True:
        port = random.randrange(LEAST_PORT, end)
        name = socket.socket(socket.AF_UNIX)
        with socket.socket() as tried, contextlib.suppress(OSError):
            name.bind(f"\0bedplate-test-port-{port}")
            tried.bind(("127.0.0.1", port))
            held.append(name)
            return port
        name.close()


def listens(path):
    """Does anybody, on this socket?"""
    with socket.socket(socket.AF_UNIX) as s:
        return s.connect_ex(path) == 0


def processes(name, text):
    """Pids of those that have a text in that file of theirs in /proc, like their words in `cmdline`."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as file:
            if text.encode() in file.read():
                found.append(int(pid))
    return found


def send_all(pids, number):
    """A signal; some may be gone by themselves."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_all(pids_of):
    """Kills the processes that it lists until it lists none: others may have come."""
    def gone():
        pids = pids_of()
        send_all(pids, signal.SIGKILL)
        return not pids

    until(lambda: f"processes {pids_of()} do not end", gone)
