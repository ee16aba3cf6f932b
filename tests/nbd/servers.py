# SPDX-License-Identifier: GPL-2.0-or-later
"""NBD servers, certificates and small helpers for the tests of this folder."""
import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "vmm")]
from host import check, free_port, listens, until  # noqa: E402

MIB = 1 << 20


class Server:
    """A server process for a `with` block, which gets `value`."""

    def __init__(self, command, value, wait):
        self.command, self.value, self.wait = command, value, wait
        self.process = None

    def start(self):
        if isinstance(self.wait, str) and os.path.exists(self.wait):
            os.unlink(self.wait)
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(f"{' '.join(self.command)} does not start", self.is_up)
        except BaseException:
            self.kill()
            raise

    def is_up(self):
        check(self.process.poll() is None, f"{' '.join(self.command)} ended at once")
        if isinstance(self.wait, str):
            return listens(self.wait)
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.wait)) == 0

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self):
        self.start()
        return self.value

    def __exit__(self, *_):
        self.kill()


class Place:
    """A folder, and bedplate-img to use in it."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.random = random.Random(1)

    @staticmethod
    def need(*programs):
        for program in programs:
            if not shutil.which(program):
                print(f"skip: {program} is missing")
                sys.exit(77)

    def path(self, name):
        return os.path.join(self.folder, name)

    def bytes(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    def noise(self, name, size, holes=True):
        """A raw file of noise with holes."""
        with open(self.path(name), "wb") as f:
            f.truncate(size)
            for at in range(0, size, 3 * MIB if holes else MIB):
                f.seek(at)
                f.write(self.random.randbytes(min(MIB - 4096 if holes else MIB, size - at)))
        return self.path(name)

    @staticmethod
    def run(*command):
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
                              check=False)

    def img(self, *args):
        done = self.run(self.binary, *args)
        check(done.returncode == 0, f"{args}: status {done.returncode}: {done.stdout[-500:]}")
        return done.stdout

    def fails(self, *args):
        done = self.run(self.binary, *args)
        check(done.returncode == 1, f"{args}: status {done.returncode}: {done.stdout[-500:]}")
        return done.stdout

    def qemu_img(self, *args):
        done = self.run("qemu-img", *args)
        check(done.returncode == 0, f"qemu-img {args}: {done.stdout[-500:]}")
        return done.stdout

    def read(self, uri, image_format="raw"):
        self.img("convert", "-f", image_format, "-O", "raw", uri, self.path("copy.raw"))
        return self.bytes("copy.raw")

    # servers

    def qemu_nbd(self, path, *args, value=None):
        if value is None:
            value = "nbd+unix:///?socket=" + args[args.index("-k") + 1]
        wait = args[args.index("-k") + 1] if "-k" in args else int(args[args.index("-p") + 1])
        return Server(["qemu-nbd", "-f", "raw", "-t", "-e", "16", *args, path], value, wait)

    def nbdkit(self, *args, filters=(), socket=None, value=None):
        path = socket or self.path(f"kit{self.random.getrandbits(32)}.sock")
        filters = [f for f in filters if f != "--filter=nofilter"]
        flags = [f for f in filters if f.startswith("-")]
        rest = [f for f in filters if not f.startswith("-")]
        return Server(["nbdkit", "-f", "-U", path, *flags, *args, *rest],
                      value or "nbd+unix:///?socket=" + path, path)

    def nbdkit_tls(self, kind, tls, size=12 * MIB):
        port = free_port()
        if kind == "x509":
            flags = ["--tls=require", "--tls-certificates=" + tls["server"]]
            value = (f"nbds://localhost:{port}/", "tls-certificates=" + tls["client"])
        else:
            flags = ["--tls=require", "--tls-psk=" + tls["psk"]]
            value = (f"nbds://alice@localhost:{port}/", "tls-psk-file=" + tls["psk"])
        return Server(["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(port), *flags, "memory",
                       f"size={size}"], value, port)

    def servers(self, size=12 * MIB):
        """(name, server) of every transport and kind of TLS."""
        disk = self.path("disk.raw")

        def fresh():
            with open(disk, "wb") as f:
                f.truncate(size)
            return disk

        tls = certificates(self)
        port = free_port()
        yield "qemu-nbd unix", self.qemu_nbd(fresh(), "-k", self.path("q1.sock"))
        yield "qemu-nbd tcp", self.qemu_nbd(fresh(), "-b", "127.0.0.1", "-p", str(port),
                                            value=f"nbd://localhost:{port}")
        yield "nbdkit unix", self.nbdkit("memory", f"size={size}")
        for kind in ("x509", "psk"):
            server = self.nbdkit_tls(kind, tls, size)
            server.value = "?".join(server.value)
            yield f"nbdkit TLS {kind}", server
        port = free_port()
        yield "qemu-nbd TLS x509", self.qemu_nbd(
            fresh(), "-b", "127.0.0.1", "-p", str(port), "--object",
            f"tls-creds-x509,id=tls,endpoint=server,verify-peer=no,dir={tls['server']}", "--tls-creds", "tls",
            value=f"nbds://localhost:{port}/?tls-certificates={tls['client']}")


CA = """cn = {name}
ca
cert_signing_key
"""
SERVER = """cn = localhost
dns_name = localhost
ip_address = 127.0.0.1
tls_www_server
encryption_key
signing_key
"""
CLIENT = """cn = client
tls_www_client
encryption_key
signing_key
"""


def certificates(place):
    """Folders for a server and a client that trust each other, a CA of somebody else, a key file."""
    top = place.path("tls")
    out = {name: os.path.join(top, name) for name in ("server", "client", "other", "psk")}
    if os.path.exists(top):
        return out
    for name in ("server", "client", "other"):
        os.makedirs(out[name])

    def certtool(*args):
        done = place.run("certtool", *args)
        check(done.returncode == 0, f"certtool {args}: {done.stdout}")

    def certificate(text, folder, name, *signed_by):
        template = os.path.join(top, "template")
        with open(template, "w", encoding="ascii") as f:
            f.write(text + "expiration_days = 30\n")
        key, cert = os.path.join(folder, name + "-key.pem"), os.path.join(folder, name + "-cert.pem")
        certtool("--generate-privkey", "--key-type", "ecdsa", "--outfile", key)
        certtool("--generate-certificate" if signed_by else "--generate-self-signed", "--load-privkey", key,
                 "--template", template, "--outfile", cert, *signed_by)
        return key, cert

    for folder in ("other", "server"):
        ca_key, ca = certificate(CA.format(name=folder), out[folder], "ca")
    by = ("--load-ca-certificate", ca, "--load-ca-privkey", ca_key)
    certificate(SERVER, out["server"], "server", *by)
    certificate(CLIENT, out["client"], "client", *by)
    shutil.copy(ca, out["client"])
    done = place.run("psktool", "-u", "alice", "-p", out["psk"])
    check(done.returncode == 0, done.stdout)
    return out


# ---- what a test program does ----


def parser(doc):
    out = argparse.ArgumentParser(description=doc.splitlines()[0])
    out.add_argument("--binary", required=True, help="bedplate-img")
    out.add_argument("tests", nargs="*")
    return out


def run_tests(tests, args):
    """The exit status: of all tests, or of those that `args` names."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for test in tests:
            if args.tests and test.__name__ not in args.tests:
                continue
            print(f"{test.__name__}: {test.__doc__}", flush=True)
            try:
                test(Place(args.binary, folder))
            except AssertionError as why:
                print(f"  FAILED: {why}", flush=True)
                failed += 1
    return failed > 0
