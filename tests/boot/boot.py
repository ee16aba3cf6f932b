#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots the prepared guest in test mode and checks what it says and what it left on its disk.

The guest reads and writes its disk, fetches a file from a server on this host's loopback, compares
its CPUs and clock with what it is told, and powers off. With --vmm any other VMM can take the place
of ours, which checks the test itself; --qemu is a ready-made one.
"""
import argparse
import hashlib
import http.server
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SKIP = 77

OURS = ("{vmm} --engine {engine} --cpus {cpus} --memory {memory}M --kernel {kernel} --initrd {initrd}"
        " --disk {disk},format=raw --net user --serial stdio --cmdline {cmdline}")
QEMU = ("qemu-system-x86_64 -M q35 -accel tcg -cpu max -smp {cpus} -m {memory} -nodefaults -no-reboot"
        " -nographic -serial mon:stdio -kernel {kernel} -initrd {initrd} -append {cmdline}"
        " -drive file={disk},format=raw,if=none,id=d -device virtio-blk-pci,drive=d"
        " -netdev user,id=n -device virtio-net-pci,netdev=n")


def skip(why):
    print(f"skip: {why}")
    sys.exit(SKIP)


class Server:
    """Serves one file of pseudo-random bytes on loopback."""

    def __init__(self, size=3_000_000):
        blocks = (hashlib.sha512(str(i).encode()).digest() for i in range(size // 64 + 1))
        content = b"".join(blocks)[:size]
        self.sha256 = hashlib.sha256(content).hexdigest()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://10.0.2.2:{self.server.server_port}/file"


def run(words, limit, log_path):
    """Runs the VMM, shows its output; (text, exit status or None when it had to be killed)."""
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True)
    text, deadline = b"", time.monotonic() + limit
    with open(log_path, "wb", buffering=0) as log:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return text.decode("latin-1"), None
            if not select.select([process.stdout], [], [], left)[0]:
                continue
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                break
            text += chunk
            log.write(chunk)
    try:
        return text.decode("latin-1"), process.wait(max(1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return text.decode("latin-1"), None


def disk_faults(disk, written):
    """The file system is sound and holds, on the host, what the guest says it wrote."""
    env = dict(os.environ, PATH=os.environ["PATH"] + ":/sbin:/usr/sbin")
    fsck = subprocess.run(["e2fsck", "-fn", disk], env=env, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if fsck.returncode != 0:
        yield f"e2fsck: {fsck.stdout.strip()}"
    dump = subprocess.run(["debugfs", "-R", "cat /written", disk], env=env,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if hashlib.sha256(dump.stdout).hexdigest() != written:
        yield "the file that the guest wrote is not on the disk"


def faults(text, status, checks, disk, want_status):
    if status is None:
        yield "did not end within the time limit"
    elif status != want_status:
        yield f"exit status {status} instead of {want_status}"
    said = dict(re.findall(r"BP-TEST (\w+) ([^\r\n]*)", text.replace("BP-TEST done", "")))
    for name in checks:
        if not said.get(name, "").startswith("ok"):
            yield f"{name}: {said.get(name, 'the guest said nothing')}"
    if not re.search(r"^BP-TEST done\r?$", text, re.MULTILINE):
        yield "the guest did not finish its checks"
    written = re.search(r"written=([0-9a-f]{64})", said.get("disk", ""))
    if "disk" in checks and status is not None and written:
        yield from disk_faults(disk, written[1])


V3_FLAGS = {"avx", "avx2", "fma", "f16c"}


def host_flags():
    with open("/proc/cpuinfo", encoding="ascii") as info:
        return set(re.search(r"^flags\s*:(.*)", info.read(), re.MULTILINE)[1].split())


def add_arguments(parser):
    """Which VMM boots which guest."""
    parser.add_argument("--binary", default=os.path.join(ROOT, "build/src/vmm/bedplate-vmm"))
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--cpu", help="the CPU model, where it is not to be the default")
    parser.add_argument("--vmm", help="another VMM's command; {cpus} {memory} {kernel} {initrd} {disk}"
                        " {cmdline} are filled in")
    parser.add_argument("--qemu", action="store_true", help="QEMU's software CPU as the VMM")
    parser.add_argument("--guest", default=os.path.join(ROOT, ".cache/guest"))
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--memory", type=int, default=512, help="MiB")


def template(args):
    """The command of the VMM; skips or ends when something is missing."""
    for name in ("vmlinuz", "initrd.cpio"):
        if not os.path.exists(os.path.join(args.guest, name)):
            skip("the guest is not prepared; run tools/prepare-guest.sh")
    if args.qemu and not shutil.which("qemu-system-x86_64"):
        skip("qemu-system-x86_64 is not installed")
    if args.vmm or args.qemu:
        return args.vmm or QEMU
    if not os.path.exists(args.binary):
        if not os.path.exists(os.path.join(ROOT, "src/vmm/meson.build")):
            skip("this tree has no bedplate-vmm")
        sys.exit(f"{args.binary} is not built")
    if args.cpu == "x86-64-v3" and not V3_FLAGS <= host_flags():
        skip("this host's CPU lacks what x86-64-v3 offers")
    return OURS + (f" --cpu {args.cpu}" if args.cpu else "")


def command(text, args, disk, cmdline):
    values = {"vmm": args.binary, "engine": args.engine, "cpus": args.cpus, "memory": args.memory,
              "kernel": os.path.join(args.guest, "vmlinuz"),
              "initrd": os.path.join(args.guest, "initrd.cpio"), "disk": disk, "cmdline": cmdline}
    return [word.format(**values) for word in shlex.split(text)]


def end(wrong, text):
    """Ends the test: what was wrong, after the last lines of the console; or success."""
    if wrong:
        print("the last lines of the console:\n" + "\n".join(text.splitlines()[-60:]))
        print("\n".join(f"FAIL {line}" for line in wrong))
    sys.exit(1 if wrong else 0)


def boot(args, vmm, server):
    """One boot; ends the test where something is wrong."""
    with tempfile.TemporaryDirectory(prefix="bedplate-boot-") as tmp:
        disk = os.path.join(tmp, "disk.img")
        subprocess.run([os.path.join(ROOT, "tools/guest/make-disk.sh"), disk], check=True)
        cmdline = (f"console=ttyS0 bp.test={args.checks} bp.cpus={args.cpus} bp.date={int(time.time())}"
                   f" bp.url={server.url} bp.sha256={server.sha256} {args.append}")
        start = time.monotonic()
        text, status = run(command(vmm, args, disk, cmdline), args.limit,
                           args.log or os.path.join(tmp, "console.log"))
        wrong = list(faults(text, status, args.checks.split(","), disk, args.status))
        if args.expect and args.expect not in text:
            wrong.append(f"the console never said \"{args.expect}\"")

    for line in re.findall(r"BP-TEST [^\r\n]*", text):
        print(line)
    print(f"{time.monotonic() - start:.1f} s", flush=True)
    if wrong:
        end(wrong, text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--checks", default="cpus,clock,disk,net")
    parser.add_argument("--append", default="", help="more kernel command line")
    parser.add_argument("--expect", help="what the console has to say, too")
    parser.add_argument("--limit", type=float, default=180, help="seconds for the boot")
    parser.add_argument("--status", type=int, default=0, help="the expected exit status")
    parser.add_argument("--log", help="where the console goes (a temporary file)")
    parser.add_argument("--times", type=int, default=1, help="boots in a row, until one fails")
    args = parser.parse_args()

    vmm = template(args)
    server = Server()
    for number in range(1, args.times + 1):
        if args.times > 1:
            print(f"boot {number} of {args.times}", flush=True)
        boot(args, vmm, server)


if __name__ == "__main__":
    main()
