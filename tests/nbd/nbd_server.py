#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`bedplate-img serve` with other clients: qemu-img, qemu-io, nbdinfo, nbdcopy, libnbd; and our own.

Content both ways for several formats, what clients are told, dirty bitmaps, TLS, several connections,
clients that break off, and a server that is killed in the middle of a write.
"""
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time

from servers import MIB, Place, Server, certificates, parser, run_tests
from host import LIMIT, check, free_port, until  # below tests/vmm, where `servers` looks, too

SIZE = 12 * MIB


class Serve(Server):
    def __init__(self, place, image, *args, port=None, value=None, path=None):
        self.path = path or place.path(f"serve{place.random.getrandbits(32)}.sock")
        where = ["--port", str(port)] if port else ["--socket", self.path]
        value = value or f"nbd+unix:///?socket={self.path}"
        super().__init__([place.binary, "serve", "-q", "--persistent", *where, *args, image], value, port or self.path)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        check(self.process.wait(LIMIT) == 0, "the server's status")


def out(place, *command, status=0):
    done = place.run(*command)
    check(done.returncode == status, f"{command}: status {done.returncode}: {done.stdout[-600:]}")
    return done.stdout


def test_content(place):
    """Other programs read and write what is in the image, in each format."""
    data = place.noise("source.raw", SIZE)
    for image_format in ("raw", "qcow2", "vhd", "vmdk"):
        image = place.path("served." + image_format)
        place.img("create", "-q", "-f", image_format, image, str(SIZE))
        with Serve(place, image, "-f", image_format) as uri:
            out(place, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", data, uri)
            out(place, "qemu-img", "compare", "-f", "raw", "-F", "raw", data, uri)
            out(place, "nbdcopy", uri, place.path("copy.raw"))
            check(place.bytes("copy.raw") == place.bytes("source.raw"), f"{image_format}: nbdcopy reads")
            out(place, "nbdcopy", "--destination-is-zero", place.path("copy.raw"), uri)
            out(place, "qemu-io", "-f", "raw", "-c", "write -P 7 1M 3M", "-c", "write -z 2M 512K",
                "-c", "write -z -u 3M 512K", "-c", "write -f -P 9 3584K 4K", "-c", "discard 5M 1M", "-c", "flush",
                "-c", "read -P 7 1M 1M", "-c", "read -P 0 2M 512K", "-c", "read -P 0 3M 512K",
                "-c", "read -P 9 3584K 4K", uri)
            out(place, "qemu-img", "bench", "-f", "raw", "-w", "-c", "500", "-d", "32", uri)
            check(len(place.read(uri)) == SIZE, "our own client")
        print(f"  {image_format}: same")


def test_told(place):
    """Size, name, description, block sizes, flags, contexts, holes."""
    image = place.path("told.qcow2")
    place.img("create", "-q", "-f", "qcow2", image, "1M")
    place.img("resize", "-q", image, "8G")
    out(place, "qemu-io", "-f", "qcow2", "-c", "write 1M 64K", image)
    with Serve(place, image, "--name", "disk", "--description", "a disk", path=place.path("told.sock")) as _:
        uri = f"nbd+unix:///disk?socket={place.path('told.sock')}"
        export = json.loads(out(place, "nbdinfo", "--json", uri))["exports"][0]
        for key, value in {"export-name": "disk", "description": "a disk", "export-size": 8 << 30,
                           "is_read_only": False, "can_flush": True, "can_fua": True, "can_multi_conn": True,
                           "can_trim": True, "can_zero": True, "can_df": True, "block_size_minimum": 1,
                           "block_size_maximum": 32 * MIB, "contexts": ["base:allocation"]}.items():
            check(export.get(key) == value, f"{key}: {export.get(key)}, not {value}")
        extents = json.loads(out(place, "nbdinfo", "--json", "--map", uri))
        check([(e["offset"], e["length"], e["type"]) for e in extents if e["type"] != 3] == [(MIB, 65536, 0)],
              f"map: {extents[:4]}")
        check(sum(e["length"] for e in extents) == 8 << 30, "the map covers the disk")
        check("disk" in out(place, "nbdinfo", "--list", uri), "list")
        out(place, "nbdinfo", uri.replace("/disk", "/other"), status=1)
    with Serve(place, image, "--read-only") as uri:
        check(json.loads(out(place, "nbdinfo", "--json", uri))["exports"][0]["is_read_only"], "read-only")
        out(place, "qemu-io", "-f", "raw", "-c", "write 0 4K", uri, status=1)
        out(place, "qemu-io", "-f", "qcow2", "-r", "-c", "read 0 4K", image)


def test_bitmaps(place):
    """What was written since, for a backup program."""
    image = place.path("bits.qcow2")
    place.img("create", "-q", "-f", "qcow2", image, "64M")
    place.img("bitmap", "--add", "-g", "64K", image, "since")
    place.img("bitmap", "--add", "-g", "1M", image, "coarse")
    out(place, "qemu-io", "-f", "qcow2", "-c", "write 1M 64K", "-c", "write 10M 128K", image)
    with Serve(place, image, "--read-only", "--bitmap", "since,coarse") as uri:
        for name, expect in (("since", [(MIB, 65536), (10 * MIB, 131072)]), ("coarse", [(MIB, MIB), (10 * MIB, MIB)])):
            extents = json.loads(out(place, "nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{name}", uri))
            dirty = [(e["offset"], e["length"]) for e in extents if e["type"] == 1]
            check(dirty == expect, f"{name}: {dirty}")
        found = out(place, "qemu-img", "map", "--output=json", "--image-opts",
                    "driver=nbd,server.type=unix,server.path=" + uri.split("socket=")[1] +
                    ",x-dirty-bitmap=qemu:dirty-bitmap:since")
        dirty = [e["start"] for e in json.loads(found) if not e["data"]]
        check(dirty == [MIB, 10 * MIB], f"qemu-img sees {found}")
    check("--read-only" in place.fails("serve", "--socket", place.path("x"), "--bitmap", "since", image), "writable")
    check("no bitmap" in place.fails("serve", "--socket", place.path("x"), "-r", "--bitmap", "none", image), "none")


def test_tls(place):
    """Certificates of both sides, and keys; without them nobody gets in."""
    tls = certificates(place)
    data = place.noise("source.raw", SIZE)
    port = free_port()
    with Serve(place, data, "-f", "raw", "-r", "--tls-certificates", tls["server"], port=port,
               value=f"nbds://localhost:{port}/") as uri:
        good = f"{uri}?tls-certificates={tls['client']}"
        check(place.read(good) == place.bytes("source.raw"), "our own client")
        out(place, "nbdcopy", good, place.path("copy.raw"))
        check(place.bytes("copy.raw") == place.bytes("source.raw"), "nbdcopy")
        out(place, "qemu-img", "compare", "--object",
            f"tls-creds-x509,id=tls,endpoint=client,dir={tls['client']}", "--image-opts",
            f"driver=nbd,host=localhost,port={port},tls-creds=tls", f"driver=raw,file.filename={data}")
        os.makedirs(place.path("half"))
        with open(place.path("half/ca-cert.pem"), "wb") as f:
            f.write(place.bytes("tls/client/ca-cert.pem"))
        check("status" not in place.fails("info", f"{uri}?tls-certificates={place.path('half')}"), "no certificate")
        check("TLS" in place.fails("info", f"nbd://localhost:{port}/"), "without TLS")
        out(place, "qemu-img", "info", f"nbd://localhost:{port}/", status=1)
    port = free_port()
    with Serve(place, data, "-f", "raw", "-r", "--tls-psk", tls["psk"], port=port,
               value=f"nbds://alice@localhost:{port}/") as uri:
        good = f"{uri}?tls-psk-file={tls['psk']}"
        check(place.read(good) == place.bytes("source.raw"), "key")
        out(place, "nbdcopy", good, place.path("copy.raw"))
        place.fails("info", good.replace("alice", "mallory"))
    check("without TLS only" in place.fails("serve", "--port", "1", "--bind", "0.0.0.0", data), "open to all")


def test_clients(place):
    """Clients that break off or talk nonsense hurt nobody; a lone one ends the server."""
    data = place.noise("source.raw", SIZE)
    image = place.path("many.raw")
    with open(image, "wb") as f:
        f.truncate(SIZE)
    with Serve(place, image, "-f", "raw", "--connections", "4") as uri:
        path = uri.split("socket=")[1]
        hello = struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 1, 0)
        for nonsense in (b"", b"x" * 100, hello[:6], hello, hello + b"\xff" * 200,
                         hello + struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, 1 << 20) + b"x" * 1000):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(path)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it was turned away: four others are still there
                    s.sendall(nonsense)
        copy = ["nbdcopy", "--connections=3", "--requests=16", data, uri]
        until("those who are gone keep others out", lambda: place.run(*copy).returncode == 0)
        check(place.read(uri) == place.bytes("source.raw"), "afterwards")
    lone = [place.binary, "serve", "-q", "--socket", place.path("lone.sock"), image]
    server = Server(lone, None, place.path("lone.sock"))
    with server:  # the look whether it is up was its client
        check(server.process.wait(LIMIT) == 0, "a server without --persistent")
    with Serve(place, image) as uri:
        check("in use" in place.fails("bench", "-w", image), "the lock")
        check("another server" in place.fails("serve", "--socket", uri.split("socket=")[1], data), "socket in use")


def test_killed(place):
    """kill -9 of the server under load: the image is clean, and the client goes on with the next one."""
    data = place.noise("source.raw", 4 * SIZE, holes=False)
    image = place.path("killed.qcow2")
    place.img("create", "-q", "-f", "qcow2", image, str(4 * SIZE))
    server = Serve(place, image)
    with server, subprocess.Popen([place.binary, "convert", "-n", "-m", "2", "-O", "raw", data, server.value],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as busy:
        for _ in range(3):
            before = os.stat(image).st_blocks
            while os.stat(image).st_blocks == before and busy.poll() is None:
                time.sleep(0.005)  # the client is connected once it has written
            server.kill()
            check("no errors" in place.img("check", image), "check")
            server.start()
        text = busy.communicate(timeout=100)[0]
        check(busy.returncode == 0, text)
        out(place, "qemu-img", "compare", data, server.value)
        server.stop()
    out(place, "qemu-img", "check", image)
    out(place, "qemu-img", "compare", data, image)


TESTS = [test_content, test_told, test_bitmaps, test_tls, test_clients, test_killed]


if __name__ == "__main__":
    Place.need("qemu-img", "qemu-io", "nbdinfo", "nbdcopy", "certtool", "psktool")
    sys.exit(run_tests(TESTS, parser(__doc__).parse_args()))
