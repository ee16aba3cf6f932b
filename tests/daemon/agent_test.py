#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest agent of Debian's package in the prepared small guest, through the daemon's API."""
import argparse
import base64
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "boot")]
import boot  # noqa: E402
import daemon_test  # noqa: E402
from daemon_test import check, equal  # noqa: E402

AGENT = "/usr/sbin/qemu-ga"
LIMIT = 60


def overlay(top, archive, initrd):
    """The guest's initramfs with what lies in `top` behind it."""
    names = subprocess.run(["find", "."], cwd=top, check=True, capture_output=True).stdout
    packed = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"], cwd=top, check=True, input=names,
                            capture_output=True).stdout
    with open(initrd, "rb") as old, open(archive, "wb") as new:
        data = old.read()
        new.write(data + bytes(-len(data) % 512) + packed)


def agent_copy(top):
    """The agent and its libraries."""
    said = subprocess.run(["ldd", AGENT], check=True, capture_output=True, text=True).stdout
    for path in [AGENT, *re.findall(r"(/\S+) \(0x", said)]:
        os.makedirs(top + os.path.dirname(path), exist_ok=True)
        shutil.copy(path, top + path)


def until(what, true):
    """`what` tells what is wrong."""
    end = time.monotonic() + LIMIT
    while not true():
        check(time.monotonic() < end, what() if time.monotonic() >= end else "")
        time.sleep(0.2)


def text(answer, name):
    return base64.b64decode(answer[name]).decode()


def client(d, name, folder, size):
    """bedplate exec and cp."""
    program = os.path.join(daemon_test.ARGS.build, "src/cli/bedplate")

    def run(*words, given=b"", status=0):
        done = subprocess.run([program, *words], env=d.env, input=given, capture_output=True, timeout=LIMIT * 3, check=False)
        equal(done.returncode, status, f"bedplate {words}: {done.stdout[-500:]} {done.stderr[-500:]}")
        return done.stdout, done.stderr
    equal(run("exec", "--stdin", name, "--", "/bin/sh", "-c", "cat; echo --json --help $1 >&2; exit 7", "sh", "--json", given=b"\0hello\xff",
              status=7), (b"\0hello\xff", b"--json --help --json\n"))
    equal(run("exec", name, "--", "/bin/sh", "-c", "wc -c", given=b"not passed on")[0].strip(), b"0")
    check(b"still runs" in run("exec", "--timeout", "1", name, "--", "/bin/sleep", "9", status=124)[1], "no timeout")
    check(b"guest agent says" in run("exec", name, "--", "/nonexistent", status=125)[1], "a program that is not there")
    check(b"512 KiB" in run("exec", "--stdin", name, "--", "/bin/cat", given=bytes(600 << 10), status=125)[1], "too much input")
    run("exec", "nobody", "--", "/bin/true", status=125)
    run("exec", name, status=125)

    there, here, back = "/tmp/-copy", os.path.join(folder, "-file"), os.path.join(folder, "back")
    for count, mode in ((size, 0o751), (0, 0o600)):
        with open(here, "wb") as file:
            file.write(os.urandom(count))
        os.chmod(here, mode)
        run("cp", here, f"{name}:{there}")
        equal(run("exec", name, "--", "/bin/stat", "-c", "%a %s", "--", there)[0], f"{mode:o} {count}\n".encode())
        run("cp", f"{name}:{there}", back)
        with open(here, "rb") as one, open(back, "rb") as other:
            check(one.read() == other.read(), f"{count} bytes came back changed")
        equal(os.stat(back).st_mode & 0o7777, mode)
    run("cp", here, f"{name}:/tmp")  # into a directory, and out into one
    os.mkdir(os.path.join(folder, "d"))
    run("cp", f"{name}:/tmp/-file", os.path.join(folder, "d"))
    check(os.path.exists(os.path.join(folder, "d/-file")), "a file into a directory")
    for words, why in (((f"{name}:/nonexistent", back), b"No such file"), ((folder, f"{name}:/tmp"), b"only files"),
                       ((here, f"{name}:/nonexistent/x"), b"guest agent says"), ((here, back), b"VM:PATH"),
                       ((f"{name}:/tmp", back), b"only files"), ((f"{name}:/tmp/-file", "/nonexistent/x"), b"No such file")):
        status = 2 if why == b"VM:PATH" else 1
        check(why in (said := run("cp", *words, status=status)[1]), f"{words}: {said}")
    equal(run("exec", name, "--", "/bin/sh", "-c", "ls /tmp | grep -c part", status=1)[0].strip(), b"0")
    equal([name for name in os.listdir(folder) if "part" in name], [])


def talk(d, serial):
    d.refused("POST", "/v1/vms/a/addresses", 409, "qemu-guest-agent")
    until(lambda: "no shell", lambda: "guest:~#" in d.cli("logs", "a"))
    serial.sendall(b"/usr/sbin/qemu-ga -m virtio-serial -p /dev/vport*p1 -t /tmp -f /tmp/g &\r")

    def answers():
        with contextlib.suppress(AssertionError):
            return d.ok("POST", "/v1/vms/a/addresses")
    until(lambda: f"no agent: {d.call('POST', '/v1/vms/a/addresses')} {d.cli('logs', 'a')[-600:]}", answers)
    check(any(i["name"] == "lo" for i in answers()["interfaces"]), f"no lo in {answers()}")

    done = d.ok("POST", "/v1/vms/a/exec", {"command": ["/bin/sh", "-c", "cat; echo more >&2; exit 7"],
                                          "input": base64.b64encode(b"hello").decode()})
    equal((done["status"], text(done, "out"), text(done, "err")), (7, "hello", "more\n"), "exec")
    d.refused("POST", "/v1/vms/a/exec", 409, "guest agent says", {"command": ["/nonexistent"]})
    d.refused("POST", "/v1/vms/a/exec", 504, "still runs", {"command": ["/bin/sleep", "9"], "timeout": 1})

    data = os.urandom(300000)
    half = len(data) // 2
    for append, part in ((False, data[:half]), (True, data[half:])):
        d.ok("POST", "/v1/vms/a/file-write", {"path": "/tmp/f", "append": append, "data": base64.b64encode(part).decode()})
    back, end = b"", False
    while not end:
        answer = d.ok("POST", "/v1/vms/a/file-read", {"path": "/tmp/f", "offset": len(back), "bytes": 100000})
        back += base64.b64decode(answer["data"])
        end = answer["end"]
    check(back == data, "the file came back changed")
    d.refused("POST", "/v1/vms/a/file-read", 409, "guest agent says", {"path": "/nonexistent"})

    # The agent looks for hwclock there.
    d.ok("POST", "/v1/vms/a/exec", {"command": ["/bin/ln", "-sf", "/bin/busybox", "/sbin/hwclock"]})
    d.ok("POST", "/v1/vms/a/exec", {"command": ["/bin/date", "-s", "2001-01-01"]})
    d.ok("POST", "/v1/vms/a/set-time")
    now = int(text(d.ok("POST", "/v1/vms/a/exec", {"command": ["/bin/date", "+%s"]}), "out"))
    check(abs(now - time.time()) < 30, f"the guest's clock is {now}")
    client(d, "a", d.folder, 3 << 20)
    d.done("a", "kill")
    d.refused("POST", "/v1/vms/a/exec", 409, "does not run", {"command": ["/bin/true"]})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default=os.path.join(boot.ROOT, "build"))
    parser.add_argument("--guest", default=os.path.join(boot.ROOT, ".cache/guest"))
    args = parser.parse_args()
    if not os.path.exists(AGENT) or not shutil.which("cpio"):
        boot.skip("the packages qemu-guest-agent and cpio are not installed")
    if not os.path.exists(os.path.join(args.guest, "vmlinuz")):
        boot.skip("the guest is not prepared; run tools/prepare-guest.sh")
    daemon_test.ARGS = argparse.Namespace(build=args.build, guest=None)
    with tempfile.TemporaryDirectory(prefix="bedplate-agent-") as folder:
        initrd = os.path.join(folder, "initrd")
        agent_copy(os.path.join(folder, "top"))
        overlay(os.path.join(folder, "top"), initrd, os.path.join(args.guest, "initrd.cpio"))
        with daemon_test.Daemon(folder) as d:
            d.ok("POST", "/v1/vms", {"name": "a", "kernel": os.path.join(args.guest, "vmlinuz"), "initrd": initrd,
                                     "cmdline": "console=ttyS0 quiet", "memory": "256M", "engine": "soft", "nets": []})
            until(lambda: "it was not made", lambda: d.vm("a")["state"] == "stopped")
            d.done("a", "start")
            with socket.socket(socket.AF_UNIX) as serial:
                serial.connect(d.vm("a")["console"])
                talk(d, serial)
    print("good")


if __name__ == "__main__":
    main()
