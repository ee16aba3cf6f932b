# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon of its own for each test: its processes, its API, and what is left of it. A test program calls main()."""
import argparse
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile

sys.path[:0] = [os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "vmm")]
from host import LIMIT, check, equal, kill_all, processes, until  # noqa: E402

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


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


def image(folder, name, size=1 << 20):
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.truncate(size)
    return {"path": path, "format": "raw"}


def main():
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__.splitlines()[0])
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--build", required=True)
    parser.add_argument("--guest", required=True)
    global ARGS
    ARGS = parser.parse_args()
    ARGS.guest = os.path.abspath(ARGS.guest)
    with tempfile.TemporaryDirectory(prefix="bp") as folder:
        CASES[ARGS.case](folder)
