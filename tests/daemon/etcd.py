#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""An etcd of its own for the store's suite and for a daemon:

    etcd.py STORE_TEST etcd|etcd-killed
    etcd.py STORE_TEST etcd-secured BUILD
    etcd.py BUILD daemon GUEST
"""
import argparse
import base64
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__))]
import rig  # noqa: E402
from access_test import certificates  # noqa: E402
from rig import Daemon  # noqa: E402
from host import check, equal, free_port  # noqa: E402

PASSWORD = "ein langes Passwort"


class Etcd:
    options = []

    def __init__(self, folder):
        self.folder, self.port, self.peer, self.process = folder, free_port(), free_port(), None
        self.url = f"http://127.0.0.1:{self.port}"
        self.prepare()
        self.start()

    def prepare(self):
        pass

    def connection(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)

    def start(self):
        peer = f"http://127.0.0.1:{self.peer}"
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self.process = subprocess.Popen(
                ["etcd", "--data-dir", os.path.join(self.folder, "data"), "--listen-client-urls", self.url,
                 "--advertise-client-urls", self.url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                 "--initial-cluster", f"default={peer}", *self.options], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            try:
                connection = self.connection()
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


class SecuredEtcd(Etcd):
    """It wants a client's certificate and a user, who may do no more than the store needs; tokens live for 2 seconds."""

    def file(self, name):
        return os.path.join(self.folder, name)

    def prepare(self):
        certificates(self.folder)
        self.url = f"https://127.0.0.1:{self.port}"
        self.options = ["--cert-file", self.file("server.pem"), "--key-file", self.file("server.key"), "--client-cert-auth",
                        "--trusted-ca-file", self.file("ca.pem"), "--auth-token-ttl", "2", "--bcrypt-cost", "4"]

    def connection(self):
        context = ssl.create_default_context(cafile=self.file("ca.pem"))
        context.load_cert_chain(self.file("nameless.pem"), self.file("nameless.key"))
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5, context=context)

    def ask(self, path, **body):
        connection = self.connection()
        connection.request("POST", "/v3/auth/" + path, json.dumps(body))
        answer = connection.getresponse()
        equal(answer.status, 200, f"{path}: {answer.read()}")

    def users(self):
        for user in ("root", "keeper"):
            self.ask("user/add", name=user, password=PASSWORD)
            self.ask("role/add", name=user)
            self.ask("user/grant", user=user, role=user)
        for prefix in (b"/test/", b"/bedplate/"):
            key, end = (base64.b64encode(text).decode() for text in (prefix, prefix[:-1] + b"0"))
            self.ask("role/grant", name="keeper", perm={"permType": "READWRITE", "key": key, "range_end": end})
        self.ask("enable")
        with open(self.file("password"), "w", encoding="ascii", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(PASSWORD + "\n")

    def words(self, **other):
        """A daemon's options, but for what is other; None: left out."""
        words = {"store": self.url, "store-ca": self.file("ca.pem"), "store-cert": self.file("nameless.pem"),
                 "store-key": self.file("nameless.key"), "store-user": "keeper", "store-password-file": self.file("password")}
        words.update((name.replace("_", "-"), value) for name, value in other.items())
        return [word for name, value in words.items() if value for word in ("--" + name, value)]


def refusals(folder, etcd, build):
    """What is wrong is told by one sentence, without the password."""
    own = os.path.join(folder, "own")
    daemon = os.path.join(build, "src/daemon/bedplated")

    def told(sentence, status=1, **other):
        done = subprocess.run([daemon, "--user", *etcd.words(**other)], capture_output=True, text=True, check=False, timeout=60,
                              env=dict(os.environ, XDG_STATE_HOME=own, XDG_RUNTIME_DIR=own))
        lines = done.stderr.splitlines()
        check(done.returncode == status and len(lines) == 1 and sentence in lines[0] and PASSWORD not in lines[0], done)

    def secret(name, text, mode):
        with open(etcd.file(name), "w", encoding="ascii") as file:
            file.write(text)
        os.chmod(etcd.file(name), mode)
        return etcd.file(name)

    told("user or the password is wrong", store_password_file=secret("wrong", PASSWORD + "!", 0o600))
    told("user or the password is wrong", store_user="nobody")
    told("wants a user; give --store-user", store_user=None, store_password_file=None)
    told("chmod 600", store_password_file=secret("open", PASSWORD, 0o644))
    told("/absent", store_password_file="/absent")
    told("needed together", store_password_file=None)
    told("--store-ca names the file", store_ca=etcd.file("other.pem"))
    told("--store-ca names the file", store_ca=None)
    told("perhaps it wants a certificate of ours", store_cert=None, store_key=None)
    told("perhaps it does not take the certificate of --store-cert", store_cert=etcd.file("stranger.pem"), store_key=etcd.file("stranger.key"))
    told("must have no common name", store_cert=etcd.file("client.pem"), store_key=etcd.file("client.key"))
    told("nameless.key-absent", store_key=etcd.file("nameless.key") + "-absent")
    told("needed together", store_key=None)
    told("for https://", store=etcd.url.replace("https", "http"))
    told("no user in the address", store=etcd.url.replace("//", "//keeper:word@"))
    told("must be http://HOST:PORT", store="etcd")
    told("are for --store URL", status=2, store=None)


def secured(folder, etcd, program, build):
    etcd.users()
    refusals(folder, etcd, build)
    words = etcd.words()[1::2]
    status = subprocess.run([program, "etcd-secured", *words], check=False).returncode
    rig.ARGS = argparse.Namespace(build=build, guest=None)
    with Daemon(folder, *etcd.words()) as d:  # what a daemon says and shows
        d.ok("POST", "/v1/users", {"name": "ann"})
        etcd.kill()
        etcd.start()  # which has forgotten all tokens
        d.ok("POST", "/v1/users", {"name": "bob"})
        equal([user["name"] for user in d.ok("GET", "/v1/users")["items"]], ["ann", "bob"])
        said = []
        for name in ("cmdline", "environ"):
            with open(f"/proc/{d.process.pid}/{name}", "rb") as file:
                said.append(file.read())
        d.process.terminate()
        said.append(d.process.communicate()[1])
    check(b"--store-user" in said[0] and not any(PASSWORD.encode() in text for text in said), said)
    return status


def with_daemon(folder, etcd):
    rig.ARGS = argparse.Namespace(build=sys.argv[1], guest=os.path.abspath(sys.argv[3]))
    url = etcd.url
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
        etcd = (SecuredEtcd if mode == "etcd-secured" else Etcd)(folder)
        try:
            if mode == "daemon":
                with_daemon(folder, etcd)
                return
            if mode == "etcd-secured":
                sys.exit(secured(folder, etcd, program, sys.argv[3]))
            test = subprocess.Popen([program, mode, etcd.url])
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
