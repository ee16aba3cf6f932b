#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""An etcd of its own for the store's suite and for a daemon:

    etcd.py STORE_TEST etcd|etcd-killed
    etcd.py BUILD daemon GUEST
"""
import argparse
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__))]
import daemon_test  # noqa: E402
from daemon_test import Daemon, check, free_port  # noqa: E402


class Etcd:
    def __init__(self, folder):
        self.folder, self.port, self.peer, self.process = folder, free_port(), free_port(), None
        self.start()

    def start(self):
        client, peer = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.peer}"
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self.process = subprocess.Popen(
                ["etcd", "--data-dir", os.path.join(self.folder, "data"), "--listen-client-urls", client,
                 "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                 "--initial-cluster", f"default={peer}"], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if b"true" in connection.getresponse().read():
                    return
            except OSError:
                pass
            if time.monotonic() > deadline or self.process.poll() is not None:
                with open(os.path.join(self.folder, "log"), encoding="utf-8", errors="replace") as log:
                    sys.exit("etcd does not start: " + log.read()[-2000:])
            time.sleep(0.05)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def with_daemon(folder, etcd):
    daemon_test.ARGS = argparse.Namespace(build=sys.argv[1], guest=os.path.abspath(sys.argv[3]))
    url = f"http://127.0.0.1:{etcd.port}"
    folders = [os.path.join(folder, name) for name in "ab"]
    for path in folders:
        os.mkdir(path)
    with Daemon(folders[0], "--store", url) as d:
        d.create("a")
        d.done("a", "start")
        check(not os.path.exists(os.path.join(folders[0], "s/bedplate/store")), "a file was made, too")
        d.kill()
        d.start()  # after the lease of the one that was killed
        d.becomes("a", "running")
        second = subprocess.run([os.path.join(sys.argv[1], "src/daemon/bedplated"), "--user", "--store", url], capture_output=True,
                                text=True, check=False, timeout=60, env=dict(d.env, XDG_STATE_HOME=folders[1], XDG_RUNTIME_DIR=folders[1]))
        check(second.returncode == 1 and "another bedplated uses this store" in second.stderr, second)
        # Away for a moment: the change waits. Away for long: the daemon ends, the VM does not.
        etcd.kill()
        etcd.start()
        d.done("a", "stop", {"timeout": 0})
        d.done("a", "start")
        pids = d.processes()
        etcd.kill()
        check(d.process.wait(90) == 1, "it goes on without its store")
        check(d.processes() == pids != [], "the VM ended with it")
        etcd.start()
        d.start()
        d.becomes("a", "running")


def main():
    program, mode = sys.argv[1:3]
    if not shutil.which("etcd"):
        print("skip: etcd is not there; install the package etcd-server")
        sys.exit(77)
    with tempfile.TemporaryDirectory(prefix="bp") as folder:
        etcd = Etcd(folder)
        try:
            if mode == "daemon":
                with_daemon(folder, etcd)
                return
            test = subprocess.Popen([program, mode, f"http://127.0.0.1:{etcd.port}"])
            while mode == "etcd-killed" and test.poll() is None:
                time.sleep(1.5)
                etcd.kill()
                time.sleep(0.3)
                etcd.start()
            sys.exit(test.wait())
        finally:
            etcd.kill()


if __name__ == "__main__":
    main()
