#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest agent of Debian's package in the prepared small guest, through the daemon's API."""
import argparse
import base64
import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "boot")]
import boot  # noqa: E402
import rig  # noqa: E402
from host import check, equal  # noqa: E402

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
    """bedplate exec and cp. Returns what runs bedplate."""
    program = os.path.join(rig.ARGS.build, "src/cli/bedplate")

    def run(*words, given=b"", status=0):
        done = subprocess.run([program, *words], env=d.env, input=given, capture_output=True, timeout=LIMIT * 3, check=False)
        equal(done.returncode, status, f"bedplate {words}: {done.stdout[-500:]} {done.stderr[-500:]}")
        return done.stdout, done.stderr
    equal(run("exec", "--stdin", name, "--", "/bin/sh", "-c", "cat; echo --json --help $1 >&2; exit 7", "sh", "--json", given=b"\0hello\xff",
              status=7), (b"\0hello\xff", b"--json --help --json\n"))
    equal(run("exec", name, "--", "/bin/sh", "-c", "wc -c", given=b"not passed on")[0].strip(), b"0")
    check(b"still runs" in run("exec", "--timeout", "1", name, "--", "/bin/sleep", "9", status=124)[1], "no timeout")
    check(b"/nonexistent" in run("exec", name, "--", "/nonexistent", status=127)[1], "a program that is not there")
    check(b"512 KiB" in run("--json", "exec", "--stdin", name, "--", "/bin/cat", given=bytes(600 << 10), status=125)[1], "too much input")
    equal(run("exec", name, "--", "/bin/sh", "-c", "kill -9 $$", status=137)[0], b"")
    live(run, program, d, name)
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
    for words, why in (((f"{name}:/nonexistent", back), b"No such file"), ((folder, f"{name}:/tmp"), b"-r"),
                       ((here, f"{name}:/nonexistent/x"), b"guest agent says"), ((here, back), b"VM:PATH"),
                       ((f"{name}:/tmp", back), b"-r"), ((f"{name}:/tmp/-file", "/nonexistent/x"), b"No such file")):
        status = 2 if why == b"VM:PATH" else 1
        check(why in (said := run("cp", *words, status=status)[1]), f"{words}: {said}")
    equal(run("exec", name, "--", "/bin/sh", "-c", "ls /tmp | grep -c part", status=1)[0].strip(), b"0")
    equal([name for name in os.listdir(folder) if "part" in name], [])
    folders(run, name, folder)
    return run


def live(run, program, d, name):
    """Output while the command runs, input as it comes, much of both, and signals."""
    big = os.urandom(5 << 20)
    equal(run("exec", "--stdin", name, "--", "/bin/sh", "-c", "tee /tmp/big; echo done >&2", given=big), (big, b"done\n"))
    equal(run("exec", name, "--", "/bin/sh", "-c", "md5sum /tmp/big; rm /tmp/big")[0].split()[0].decode(), hashlib.md5(big).hexdigest())
    equal(run("exec", "--stdin", name, "--", "/bin/true", given=big), (b"", b""))  # it reads none of it
    with subprocess.Popen([program, "exec", "--stdin", name, "--", "/bin/cat"], env=d.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
        for word in (b"one\n", b"two\n"):  # each is answered before the next is typed
            p.stdin.write(word)
            p.stdin.flush()
            equal(p.stdout.readline(), word)
        p.stdin.close()
        equal(p.wait(LIMIT), 0)
    # It starts nothing: what a shell has forked is its copy, trap and all, for a moment.
    script = "trap 'echo caught; exit 3' INT; echo up; while :; do :; done"
    with subprocess.Popen([program, "exec", name, "--", "/bin/sh", "-c", script], env=d.env, stdout=subprocess.PIPE) as p:
        equal(p.stdout.readline(), b"up\n")
        p.send_signal(signal.SIGINT)
        equal((p.stdout.read(), p.wait(LIMIT)), (b"caught\n", 3))
    with subprocess.Popen([program, "exec", name, "--", "/bin/sh", "-c", "echo up; sleep 999 & sleep 998"], env=d.env,
                          stdout=subprocess.PIPE) as p:
        equal(p.stdout.readline(), b"up\n")
        p.terminate()
        equal(p.wait(LIMIT), 128 + signal.SIGTERM)
    equal(run("exec", name, "--", "/bin/sh", "-c", "ps | grep '[s]leep 99'; ls -d /tmp/tmp.*")[0].count(b"\n"), 1)


def tree(folder):
    """What is in it: names, kinds, permissions, contents."""
    found = {}
    for top, folders_, files in os.walk(folder):
        for item in [*folders_, *files]:
            path = os.path.join(top, item)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    what = file.read()
            else:
                what = os.readlink(path) if stat.S_ISLNK(mode) else None
            found[os.path.relpath(path, folder)] = (stat.S_IFMT(mode), 0 if stat.S_ISLNK(mode) else mode & 0o777, what)
    return found


def folders(run, name, folder):
    site = os.path.join(folder, "-site")
    for path in ("", "-a", "-a/b c", "-a/b c/leer", "-a/\u00e4\n\"$x"):
        os.mkdir(os.path.join(site, path))
    for path, mode, data in (("-f", 0o640, b"x"), ("-a/run", 0o755, b"#!/bin/sh\n"), ("-a/b c/big", 0o600, os.urandom(700 << 10)),
                             ("-a/\u00e4\n\"$x/empty", 0o444, b"")):
        with open(os.path.join(site, path), "wb") as file:
            file.write(data)
        os.chmod(os.path.join(site, path), mode)
    os.symlink("../-f", os.path.join(site, "-a/link"))
    os.symlink("/nowhere", os.path.join(site, "broken"))
    os.chmod(os.path.join(site, "-a/b c"), 0o500)
    os.mkfifo(os.path.join(site, "fifo"))
    run("cp", site, f"{name}:/srv", status=1)
    run("exec", name, "--", "/bin/mkdir", "-p", "/srv")
    check(b"1 left out" in run("cp", "-r", site + "/", f"{name}:/srv")[1], "the FIFO")
    check(b"there already" in run("cp", "-r", site, f"{name}:/srv", status=1)[1], "copied over it")
    back = os.path.join(folder, "site-back")
    run("cp", "-r", f"{name}:/srv/-site", back)
    os.unlink(os.path.join(site, "fifo"))
    equal(tree(back), tree(site), "the folder came back changed")
    os.mkdir(os.path.join(back, "-site"))
    check(b"there already" in run("cp", "-r", f"{name}:/srv/-site", back, status=1)[1], "copied over it")
    check(b"No such file" in run("cp", "-r", f"{name}:/nonexistent", back + "2", status=1)[1], "nothing was copied")
    os.chmod(os.path.join(site, "-a/b c"), 0o700)
    os.chmod(os.path.join(back, "-a/b c"), 0o700)


def hostile_lists(run, name, folder):
    """A guest that wants out: its shell is somebody else's now, who answers when it is to list."""
    run("exec", "--stdin", name, "--", "/bin/sh", "-c", "cat >/srv/sh; chmod +x /srv/sh; echo hello >/srv/x; mv /srv/sh /bin/sh",
        given=b'#!/bin/busybox sh\ncase "$2" in *maxdepth*) echo /srv/list; exit;; esac\nexec /bin/busybox sh "$@"\n')
    outside = os.path.join(folder, "outside")
    os.mkdir(outside)
    root = "d 755 0\0.\0\0"
    for lines, why in ((root + "f 644 6\0./../outside/x\0\0", "no sense"), (root + "f 644 6\0/srv/x\0\0", "no sense"),
                       (root + "f 644 6\0./a/../../outside/x\0\0", "no sense"), (root + "f 644 6\0./a//x\0\0", "no sense"),
                       (root + f"l 777 0\0./a\0{outside}\0f 644 6\0./a/x\0\0", "a/x"),
                       (root + f"l 777 0\0./x\0{outside}/x\0f 644 6\0./x\0\0", "File exists"),
                       (root + f"l 777 0\0./a\0{outside}\0d 755 0\0./a/d\0\0", "a/d"),
                       (root + f"l 777 0\0./a\0{outside}\0l 755 0\0./a/l\0x\0", "a/l"),
                       (root + f"l 777 0\0./a\0{outside}\0d 700 0\0./a\0\0", "File exists"),
                       (root + "f 644 99\0./x\0\0", "changed while"), (root + "f 644 -1\0./x\0\0", "no sense"),
                       (root + "f 644 6\0./x", "no sense"), (root + "d 755 0\0.\0\0", "no sense"), ("l 777 0\0.\0/etc\0", "no sense"),
                       ("f 644 6\0./x\0\0", "no sense"), ("", "lists nothing"), ("nonsense", "no sense")):
        run("exec", "--stdin", name, "--", "/bin/sh", "-c", "cat >/srv/list", given=lines.encode())
        said = run("cp", "-r", f"{name}:/srv", os.path.join(folder, "evil"), status=1)[1]
        check(why.encode() in said, f"{lines!r}: {said}")
        equal((os.listdir(outside), [n for n in os.listdir(folder) if n.startswith("evil")]), ([], []), repr(lines))
    run("exec", "--stdin", name, "--", "/bin/sh", "-c", "cat >/srv/list", given=(root + "f 7755 6\0./x\0\0p 644 0\0./p\0\0").encode())
    check(b"1 left out" in run("cp", "-r", f"{name}:/srv", os.path.join(folder, "evil"))[1], "a list that is right")
    equal(tree(os.path.join(folder, "evil")), {"x": (stat.S_IFREG, 0o755, b"hello\n")})


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
    hostile_lists(client(d, "a", d.folder, 3 << 20), "a", d.folder)
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
    rig.ARGS = argparse.Namespace(build=args.build, guest=None)
    with tempfile.TemporaryDirectory(prefix="bedplate-agent-") as folder:
        initrd = os.path.join(folder, "initrd")
        agent_copy(os.path.join(folder, "top"))
        overlay(os.path.join(folder, "top"), initrd, os.path.join(args.guest, "initrd.cpio"))
        with rig.Daemon(folder) as d:
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
