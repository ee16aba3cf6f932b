#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks on NBD servers: bedplate-img through bedplate-nbd against qemu-nbd and nbdkit.

Reads and writes over every transport and kind of TLS; servers that lack commands or want large
blocks; refusals in one sentence; servers that are slow, killed, and that forget what was not flushed.
"""
import re
import subprocess
import sys
import threading
import time

from servers import MIB, Place, certificates, parser, run_tests
import vmm_test  # below tests/vmm, where `servers` looks, too
from host import check, until

SIZE = 12 * MIB


def test_transports(place):
    """Content both ways over each transport, and what is a hole."""
    data = place.noise("source.raw", SIZE)
    with place.qemu_nbd(data, "-k", place.path("q.sock")) as uri:
        check(place.read(uri) == place.bytes("source.raw"), "read from qemu-nbd")
        holes = place.img("map", "--json", uri)
        check('"zero": true' in holes and '"data": true' in holes, f"map: {holes}")
    for name, server in place.servers():
        with server as uri:
            place.img("convert", "-n", "-f", "raw", "-O", "raw", data, uri)
            check(place.read(uri) == place.bytes("source.raw"), f"{name}: what was written is not read")
            place.img("compare", data, uri)
            print(f"  {name}: same")


def test_lacking(place):
    """Without zeroes, trim, FUA, several connections; with blocks of 4 KiB."""
    data = place.noise("source.raw", SIZE)
    for filters in (["--filter=nozero", "--filter=fua", "fuamode=emulate"],
                    ["--filter=nozero", "--filter=nofilter"],
                    ["--filter=multi-conn", "multi-conn-mode=disable"],
                    ["--filter=blocksize-policy", "blocksize-minimum=4096", "blocksize-preferred=4096",
                     "blocksize-maximum=64K", "blocksize-error-policy=error"],
                    ["--filter=noextents"]):
        with place.nbdkit("memory", f"size={SIZE}", filters=filters) as uri:
            place.img("convert", "-n", "-S", "0", "-O", "raw", data, uri)
            place.img("convert", "-n", "-O", "raw", data, uri)
            check(place.read(uri) == place.bytes("source.raw"), f"{filters}")
            place.img("bench", "-w", "-c", "200", "-d", "16", uri)
    with place.nbdkit("memory", f"size={4 * SIZE}") as uri:
        place.qemu_img("create", "-f", "qcow2", uri, str(SIZE))
        place.img("convert", "-n", "-O", "qcow2", data, uri)
        place.img("check", "-f", "qcow2", uri)
        check(place.read(uri, "qcow2") == place.bytes("source.raw"), "qcow2 on an export")


def test_refusals(place):
    """One sentence each."""
    no_server = "nbd+unix:///?socket=" + place.path("none.sock")
    check("No such file" in place.fails("info", no_server), "no socket")
    check("refused" in place.fails("info", "nbd://127.0.0.1:1/"), "no port")
    check("hexadecimal" in place.fails("info", "nbd://127.0.0.1/%zz"), "bad escape")
    check("known are socket" in place.fails("info", "nbd://127.0.0.1/?sock=x"), "parameter")
    check("which its server makes" in place.fails("create", "nbd://127.0.0.1/", "1M"), "create")
    with place.nbdkit("memory", f"size={SIZE}", filters=["-r"]) as uri:
        check("may only be read" in place.fails("bench", "-w", uri), "read-only")
    with place.qemu_nbd(place.noise("source.raw", MIB), "-k", place.path("q.sock"), "-x", "disk") as uri:
        check("export" in place.fails("info", uri.replace("///", "///other")), "no such export")
        place.img("info", uri.replace("///", "///disk"))
    tls = certificates(place)
    with place.nbdkit_tls("x509", tls) as (uri, parameters):
        check("TLS" in place.fails("info", uri.replace("nbds", "nbd")), "TLS wanted")
        check("certificate" in place.fails("info", f"{uri}?tls-certificates={tls['other']}"), "other CA")
        check("cannot read" in place.fails("info", uri + "?tls-certificates=/none"), "no CA")
        by_number = uri.replace("localhost", "127.0.0.2")
        check("certificate" in place.fails("info", f"{by_number}?{parameters}"), "other host")


def written(log):
    """How many writes a server of ours has acknowledged."""
    with open(log, encoding="utf-8") as file:
        return len(re.findall(r"\.\.\.Write .*return=0", file.read()))


def test_reconnect(place):
    """A killed server comes back; what it had acknowledged and forgotten is written again."""
    data = place.noise("source.raw", SIZE, holes=False)
    socket = place.path("r.sock")
    log = place.path("r.log")
    server = place.nbdkit("memory", f"size={SIZE}", f"logfile={log}", filters=["--filter=log", "--filter=delay", "wdelay=300ms"], socket=socket)
    with server as uri:
        busy = threading.Thread(target=lambda: outputs.append(
            place.run(place.binary, "convert", "-n", "-m", "1", "-S", "64K", "-O", "raw", data, uri)))
        outputs = []
        busy.start()
        until("nothing is written", lambda: written(log))
        server.kill()
        time.sleep(0.3)
        server.start()  # on this thread: nbdkit ends with the thread that started it
        busy.join()
        out = outputs[0].stdout
        check(outputs[0].returncode == 0, out)
        check("connection is lost" in out and "is back" in out, f"the server was killed: {out}")
        check(place.read(uri) == place.bytes("source.raw"), "after the server came back")


def test_timeouts(place):
    """A server without answers, and one that does not come back."""
    with place.nbdkit("memory", f"size={SIZE}", filters=["--filter=delay", "rdelay=100"]) as uri:
        began = time.monotonic()
        joint = "&" if "?" in uri else "?"
        out = place.fails("dd", f"if={uri}{joint}timeout=1&reconnect=2", "of=" + place.path("x"), "bs=4096",
                          "count=1")
        check("does not answer" in out, out)
        check(2 < time.monotonic() - began < 90, f"{time.monotonic() - began:.1f} s")
    log = place.path("t.log")
    server = place.nbdkit("memory", f"size={SIZE}", f"logfile={log}", filters=["--filter=log", "--filter=delay", "wdelay=300ms"],
                          socket=place.path("t.sock"))

    def kill():
        until("nothing is written", lambda: written(log))
        server.kill()

    with server as uri:
        killed = threading.Thread(target=kill)
        killed.start()
        out = place.fails("convert", "-n", "-O", "raw", place.noise("source.raw", SIZE, holes=False),
                          uri + "&reconnect=1")
        killed.join()
        check("Input/output error" in out, out)


def test_confined(place):
    """What is left to the helper while it serves."""
    log = place.path("c.log")
    with place.nbdkit("memory", f"size={SIZE}", f"logfile={log}", filters=["--filter=log", "--filter=delay", "rdelay=100"]) as uri:
        busy = subprocess.Popen([place.binary, "dd", f"if={uri}", "of=" + place.path("x"), "bs=64K", "count=4"],
                                stdout=subprocess.DEVNULL)

        def asked():
            with open(log, encoding="utf-8") as file:
                return " Read " in file.read()

        try:
            until("nothing is read", asked)
            pids = place.run("pgrep", "-P", str(busy.pid)).stdout.split()
            check(len(pids) == 1, f"helpers: {pids}")
            with open(f"/proc/{pids[0]}/status", encoding="ascii") as status:
                text = status.read()
        finally:
            busy.kill()
            busy.wait()
        for line in ("Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"):
            check(line in text, f"{line} is missing")


def test_vm(place):
    """A VM with an export as its disk: the parts of --disk, TLS, refusals, and what is left of it when it is killed."""
    tls = certificates(place)
    control = place.path("control")
    words = [ARGS.vmm, "--engine", "soft", "--serial", "stdio", "--memory", "32", "--kernel", ARGS.small_guest, "--control",
             "unix:" + control]
    with place.nbdkit_tls("x509", tls) as (uri, _):
        part = f"{uri},serial=NBD-1,io-thread=net,cache=unsafe,iops=1000,tls-certificates={tls['client']}"
        vm = subprocess.Popen([*words, "--disk", part], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            vm.stdout.readline()  # the guest runs
            helper = place.run("pgrep", "-P", str(vm.pid), "bedplate-nbd").stdout.split()
            check(len(helper) == 1, f"helpers: {helper}")
            disk = vmm_test.Client(control).ok("status")["disks"][0]
            check((disk["backend"], disk["size"], disk["format"]) == ("bedplate-nbd", SIZE, "raw"), f"status: {disk}")
        finally:
            vm.kill()
            vm.wait()


        def over():
            state = place.run("ps", "-o", "stat=", "-p", helper[0]).stdout  # a zombie where init reaps nobody
            return not state or state.startswith("Z")

        until("the helper outlived its VM", over)
        done = place.run(*words, "--disk", f"{uri},tls-certificates={tls['other']}")
        check(done.returncode == 3 and "certificate" in done.stdout and done.stdout.count("\n") == 1,
              f"status {done.returncode}: {done.stdout}")


TESTS = [test_vm, test_transports, test_lacking, test_refusals, test_reconnect, test_timeouts, test_confined]


if __name__ == "__main__":
    Place.need("qemu-nbd", "nbdkit", "certtool", "psktool")
    PARSER = parser(__doc__)
    PARSER.add_argument("--vmm", required=True, help="bedplate-vmm")
    PARSER.add_argument("--small-guest", required=True)
    ARGS = PARSER.parse_args()
    sys.exit(run_tests(TESTS, ARGS))
