#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalog of images, and VMs out of it:  images_test.py CASE --build BUILD --guest G

`debian` makes the real image and runs it, as the README's first command does.
"""
import glob
import hashlib
import http.server
import os
import re
import shutil
import socket
import subprocess
import threading
import time

import pexpect

import agent_test
import rig
from rig import Daemon, case
from host import check, equal, kill_all, processes, until

MIB = 1 << 20
KEPT_BACK = 64 << 10  # more than curl's buffer before the file
DEBIAN_LIMIT = 1500


def image_file(folder, name="disk.raw", size=4 * MIB):
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.write(os.urandom(MIB))
        file.truncate(size)
    return path


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


class Server:
    """Serves one file. `cut`: connections end after so many bytes, as often as it says; `lies`: promises more than there is."""

    def __init__(self, path, cuts=0, lies=False):
        with open(path, "rb") as file:
            self.content = file.read()
        self.cuts, self.lies, self.asked = cuts, lies, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.serve(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/image"

    def serve(self, handler):
        found = re.match(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        begin = int(found[1]) if found else 0
        self.asked.append(begin)
        if found and begin >= len(self.content):
            handler.send_response(416)
            handler.end_headers()
            return
        part = self.content[begin:]
        handler.send_response(206 if found else 200)
        handler.send_header("Content-Length", str(len(part) + (1000 if self.lies else 0)))
        if found:
            handler.send_header("Content-Range", f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}")
        handler.end_headers()
        if len(self.asked) <= self.cuts:
            part = part[:len(self.content) // 3]
        handler.wfile.write(part)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()


def image_fails(d, words, **fields):
    """Its job fails so, and nothing of it is left."""
    job = d.job(d.ok("POST", "/v1/images", {"name": "bad", **fields}))
    equal(job["state"], "failed", str(job))
    check(words in job["error"]["message"], f"no {words!r} in {job}")
    d.refused("GET", "/v1/images/bad", 404, "bad")
    folder = os.path.join(d.folder, "s/bedplate/images")
    equal(len(os.listdir(folder)), len(d.ok("GET", "/v1/images")["items"]), "folders of images")


@case
def images(folder):
    """Made from a file; VMs over it; what may not be."""
    source = image_file(folder)
    with Daemon(folder) as d:
        d.refused("POST", "/v1/vms", 404, "image create", {"name": "a", "image": "base"}, field="image")
        job = d.job(d.ok("POST", "/v1/images", {"name": "base", "source": source, "sha256": sha256(source)}))
        equal(job["state"], "done", str(job))
        image = d.ok("GET", "/v1/images/base")
        equal((image["state"], image["size"], image["boots_directly"]), ("ready", 4 * MIB, False))
        equal(job["result"], {"id": image["id"]})
        d.refused("POST", "/v1/images", 409, "is taken", {"name": "base", "source": source}, field="name")

        d.refused("POST", "/v1/vms", 422, "at least", {"name": "a", "image": "base", "disk_size": "3M"}, field="disk_size")
        d.refused("POST", "/v1/vms", 422, "there is none", {"name": "a", "disk_size": "3M"}, field="disk_size")
        d.create("a", image="base", disk_size="8M", cloud_init={"user": "ann", "ssh_keys": ["ssh-ed25519 AAAA ann"]})
        d.create("b", image="base")
        d.refused("DELETE", "/v1/images/base", 409, "was made from this image")
        disk = {name: os.path.join(folder, "s/bedplate/vms", d.vm(name)["id"], "disk.qcow2") for name in "ab"}
        check(not os.path.exists(disk["a"]), "a disk before the first start")
        for name in "ab":
            d.done(name, "start")
        tool = os.path.join(rig.ARGS.build, "src/img/bedplate-img")
        info = subprocess.run([tool, "info", "-U", "--json", "--backing-chain", disk["a"]], capture_output=True, text=True, check=True)
        check('"virtual-size": 8388608' in info.stdout and image["id"] in info.stdout, info.stdout)
        seed = os.path.join(os.path.dirname(disk["a"]), "seed.iso")
        listed = subprocess.run(["bsdtar", "-xOf", seed, "user-data", "meta-data"], capture_output=True, text=True, check=True)
        check("#cloud-config" in listed.stdout and "ssh-ed25519 AAAA ann" in listed.stdout and d.vm("a")["id"] in listed.stdout,
              listed.stdout)
        with open(seed, "rb") as file:
            file.seek(32768 + 40)
            equal(file.read(32).rstrip(), b"CIDATA", "the label")
        check(not os.path.exists(os.path.join(os.path.dirname(disk["b"]), "seed.iso")), "a seed that nobody wanted")
        for name in "ab":
            d.done(name, "kill")
        compared = subprocess.run([tool, "compare", "-f", "qcow2", "-F", "raw", disk["b"], source], capture_output=True, text=True,
                                  check=False)
        equal(compared.returncode, 0, compared.stdout + compared.stderr)
        for name in "ab":
            equal(d.job(d.ok("DELETE", "/v1/vms/" + name))["state"], "done")
        equal(d.call("DELETE", "/v1/images/base")[0], 204)
        equal(os.listdir(os.path.join(folder, "s/bedplate/images")), [], "folders of images")
        equal(os.listdir(os.path.join(folder, "s/bedplate/vms")), [], "folders of VMs")
        d.refused("POST", "/v1/vms", 404, "image create", {"name": "c", "image": "base"})


@case
def images_signed(folder):
    """By a key of the keyring, or it is not made: the file itself, or the list of sums that it is in."""
    if not shutil.which("gpg"):
        agent_test.boot.skip("the package gpg is not installed")
    home = os.path.join(folder, "gnupg")
    os.mkdir(home, 0o700)

    def gpg(*words):
        subprocess.run(["gpg", "--homedir", home, "--batch", "--quiet", "--yes", *words], check=True, capture_output=True)

    for name in ("right", "wrong"):
        gpg("--passphrase", "", "--quick-generate-key", name, "ed25519", "sign", "never")
        gpg("--output", os.path.join(folder, name + ".gpg"), "--export", name)
    right, wrong = (os.path.join(folder, name + ".gpg") for name in ("right", "wrong"))
    source = image_file(folder)
    sums = os.path.join(folder, "SHA256SUMS")
    with open(sums, "w", encoding="ascii") as file:
        file.write(f"{'0' * 64}  other.raw\n{sha256(source)} *{os.path.basename(source)}\n")
    for path in (source, sums):
        gpg("--local-user", "right", "--output", path + ".sign", "--detach-sign", path)
    try:
        with Daemon(folder) as d:
            d.refused("POST", "/v1/images", 422, "with a signature", {"name": "x", "source": source, "signature": sums}, field="keyring")
            image_fails(d, "is not good", source=source, signature=source + ".sign", keyring=wrong)
            image_fails(d, "is not good", source=source, signature=sums + ".sign", keyring=right)
            image_fails(d, "is not good", source=source, sums=sums, signature=sums + ".sign", keyring=wrong)
            d.cli("image", "create", "own", "--source", source, "--signature", source + ".sign", "--keyring", right)
            d.cli("image", "create", "listed", "--source", source, "--sums", sums, "--signature", sums + ".sign", "--keyring", right)
            with Server(source) as server:
                listed = f"{server.url.rsplit('/', 1)[0]}/{os.path.basename(source)}"
                d.cli("image", "create", "fetched", "--source", listed, "--sums", sums, "--signature", sums + ".sign", "--keyring", right)
            with open(source, "r+b") as file:
                file.write(b"meddled")
            image_fails(d, "another SHA-256", source=source, sums=sums, signature=sums + ".sign", keyring=right)
            image_fails(d, "is not good", source=source, signature=source + ".sign", keyring=right)
            with Server(source) as server:
                listed = f"{server.url.rsplit('/', 1)[0]}/{os.path.basename(source)}"
                image_fails(d, "another SHA-256", source=listed, sums=sums, signature=sums + ".sign", keyring=right)
            image_fails(d, "no sum for", source=sums, sums=sums, signature=sums + ".sign", keyring=right)
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)


@case
def images_bad(folder):
    """Sources that are not there, not whole, not what was said; downloads that are cut."""
    source = image_file(folder)
    with Daemon(folder) as d:
        image_fails(d, "no recipe", source="windows")
        image_fails(d, "absent", source=os.path.join(folder, "absent"))
        image_fails(d, "SHA-256", source=source, sha256="0" * 64)
        broken = os.path.join(folder, "broken.qcow2")
        with open(broken, "wb") as file:
            file.write(b"QFI\xfb\0\0\0\3" + b"\xff" * 96)
        image_fails(d, "broken", source=broken)
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            image_fails(d, "could not be downloaded", source=f"http://127.0.0.1:{nobody.getsockname()[1]}/x")
        with Server(source) as server:
            image_fails(d, "another SHA-256", source=server.url, sha256="0" * 64)
        with Server(source, lies=True) as server:
            image_fails(d, "could not be downloaded", source=server.url)
        with Server(source, cuts=2) as server:
            job = d.job(d.ok("POST", "/v1/images", {"name": "cut", "source": server.url, "sha256": sha256(source)}))
            equal(job["state"], "done", str(job))
            equal(server.asked, [0, len(server.content) // 3, len(server.content) // 3 * 2], "where downloads began")


@case
def images_given_up(folder):
    """Cancelled, and the daemon killed meanwhile."""
    source = image_file(folder, size=64 * MIB)

    def slow(handler):
        """Begins well, and then nothing more comes."""
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(server.content)))
        handler.end_headers()
        handler.wfile.write(server.content[:MIB + KEPT_BACK])
        handler.wfile.flush()
        time.sleep(60)

    with Daemon(folder) as d, Server(source) as server:
        serve, server.serve = server.serve, slow
        job = d.ok("POST", "/v1/images", {"name": "late", "source": server.url})
        d.refused("DELETE", "/v1/images/late", 409, "cancel its job")
        d.refused("POST", "/v1/vms", 409, "is being made", {"name": "a", "image": "late"})
        d.ok("POST", f"/v1/jobs/{job['id']}/cancel")
        equal(d.job(job)["state"], "cancelled")
        equal(os.listdir(os.path.join(folder, "s/bedplate/images")), [], "folders of images")

        job = d.ok("POST", "/v1/images", {"name": "late", "source": server.url, "sha256": sha256(source)})

        def part():
            found = glob.glob(os.path.join(folder, "s/bedplate/images/*/download"))
            return found and os.path.getsize(found[0]) >= MIB and found[0]

        part = until("no download begins", part)
        # The whole host goes down: the daemon and what it started.
        d.kill()
        kill_all(lambda: processes("cmdline", folder))
        server.serve = serve
        kept = os.path.getsize(part)
        d.start()
        equal(d.job(d.ok("GET", "/v1/jobs/" + job["id"]))["state"], "done")
        equal(d.ok("GET", "/v1/images/late")["size"], 64 * MIB)
        equal(server.asked, [kept], "where the second download began")


@case
def clones(folder):
    """Full and linked; templates; what may not be; the daemon killed meanwhile."""
    source, second = image_file(folder), image_file(folder, "second.raw", 48 * MIB)
    vms = os.path.join(folder, "s/bedplate/vms")
    tool = os.path.join(rig.ARGS.build, "src/img/bedplate-img")

    def same(name, disk, path):
        result = subprocess.run([tool, "compare", os.path.join(vms, d.vm(name)["id"], disk), "-F", "raw", path], capture_output=True,
                                text=True, check=False)
        equal(result.returncode, 0, f"{name}'s {disk}: {result.stdout}{result.stderr}")

    with Daemon(folder) as d:
        equal(d.job(d.ok("POST", "/v1/images", {"name": "base", "source": source}))["state"], "done")
        d.create("a", image="base", disks=[{"path": second, "format": "raw"}], description="the first",
                 autostart={"enabled": True}, nets=[{"backend": "user"}])
        d.refused("POST", "/v1/vms/a/clone", 409, "no template", {"name": "b", "linked": True}, field="linked")
        d.refused("POST", "/v1/vms/a/clone", 409, "is taken", {"name": "a"}, field="name")
        d.done("a", "start")
        d.refused("POST", "/v1/vms/a/clone", 409, "stop it first", {"name": "b"})
        d.refused("PATCH", "/v1/vms/a", 409, "stop it first", {"template": True}, field="template")
        d.done("a", "kill")

        d.done("a", "clone", {"name": "full"})
        a, full = d.vm("a"), d.vm("full")
        equal((full["state"], full["description"], full["source"], "image" in full), ("stopped", "the first", a["id"], False))
        check(full["id"] != a["id"] and full["nets"][0]["mac"] != a["nets"][0]["mac"], "who is who?")
        check(not full.get("autostart", {}).get("enabled"), "a clone starts by itself")
        equal([disk["path"] for disk in full["disks"]], [os.path.join(vms, full["id"], f"disk{i}.qcow2") for i in (0, 1)])
        same("full", "disk0.qcow2", source)
        same("full", "disk1.qcow2", second)
        equal(d.job(d.ok("DELETE", "/v1/vms/full"))["state"], "done")
        check(not os.path.exists(os.path.join(vms, full["id"])), "a deleted clone's files")

        d.cli("template", "a")
        d.refused("POST", "/v1/vms/a/start", 409, "is a template")
        d.cli("clone", "a", "one", "--linked")
        d.cli("clone", "a", "two", "--linked")
        for name in ("one", "two"):
            same(name, "disk0.qcow2", source)
            same(name, "disk1.qcow2", second)
            d.done(name, "start")
            check(os.path.getsize(os.path.join(vms, d.vm(name)["id"], "disk1.qcow2")) < MIB, "a linked clone is a copy")
        d.refused("DELETE", "/v1/vms/a", 409, "lie over its own")
        d.refused("PATCH", "/v1/vms/a", 409, "lie over its own", {"template": False}, field="template")
        d.refused("DELETE", "/v1/images/base", 409, "was made from this image")
        for name in ("one", "two"):
            d.done(name, "kill")
            equal(d.job(d.ok("DELETE", "/v1/vms/" + name))["state"], "done")
        d.ok("PATCH", "/v1/vms/a", {"template": False})

        # Killed in the middle: it goes on; a source that is gone: nothing is left.
        for _ in range(3):
            job = d.ok("POST", "/v1/vms/a/clone", {"name": "late"})
            status, _answer = d.call("POST", "/v1/vms/a/start")
            check(status in (202, 409), str(status))
            d.kill()
            d.start()
            ended = d.job(d.ok("GET", "/v1/jobs/" + job["id"]))
            equal(ended["state"], "done", str(ended))
            same("late", "disk1.qcow2", second)
            d.act("a", "kill")
            equal(d.job(d.ok("DELETE", "/v1/vms/late"))["state"], "done")
        os.unlink(second)
        job = d.act("a", "clone", {"name": "none"})
        equal(job["state"], "failed", str(job))
        check("second.raw" in job["error"]["message"], str(job))
        d.refused("GET", "/v1/vms/none", 404, "none")
        equal(os.listdir(vms), [a["id"]])


@case
def debian(folder):
    """`bedplate run debian-12`: the image is made, the VM runs, its console and ssh answer."""
    key = os.path.join(folder, ".ssh/id_ed25519")
    os.mkdir(os.path.dirname(key), 0o700)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    with Daemon(folder) as d:
        env = dict(d.env, HOME=folder)
        program = os.path.join(rig.ARGS.build, "src/cli/bedplate")
        run = pexpect.spawn(program, ["run", "debian-12"], env=env, timeout=DEBIAN_LIMIT, encoding="utf-8", codec_errors="replace")
        run.expect("root@debian-12")
        run.send("\x01d")
        run.expect(pexpect.EOF)
        run.close()
        equal(run.exitstatus, 0, "the status of run")
        deadline = time.monotonic() + DEBIAN_LIMIT
        words = [program, "ssh", "debian-12", "-i", key, "-o", "UserKnownHostsFile=" + os.path.join(folder, "known"),
                 "id -un; sudo id -u; hostname; cloud-init status --wait; systemctl is-system-running --wait; df -B1 / | tail -1"]
        while (result := subprocess.run(words, env=env, capture_output=True, text=True, check=False)).returncode == 255:
            check(time.monotonic() < deadline, result.stderr)
            time.sleep(1)
        lines = result.stdout.split("\n")
        print(result.stdout)
        equal(lines[:3], ["debian", "0", "debian-12"])
        check("status: done" in result.stdout and "running" in lines, result.stdout)
        agent_test.client(d, "debian-12", folder, 40 * MIB)
        frozen(d, words[:-1])
        # The power button does nothing there: it is the agent who shuts down.
        d.cli("exec", "debian-12", "--", "/bin/sh", "-c",
              "printf '[Login]\\nHandlePowerKey=ignore\\n' >/etc/systemd/logind.conf && systemctl restart systemd-logind")
        d.done("debian-12", "stop", {"timeout": 300})
        equal(d.vm("debian-12")["exit"]["name"], "powered-off")


def frozen(d, ssh):
    """Between freeze and thaw nothing is written in the guest."""
    check(any(i["name"] != "lo" and i["addresses"] for i in d.ok("POST", "/v1/vms/debian-12/addresses")["interfaces"]), "no addresses")
    equal(d.ok("POST", "/v1/vms/debian-12/freeze")["filesystems"], 1)
    writer = subprocess.Popen([*ssh, "echo written >/tmp/frozen && sync && cat /tmp/frozen"], env=d.env, stdout=subprocess.PIPE, text=True)
    try:
        writer.wait(10)
        check(False, "it was written to a file system that is frozen")
    except subprocess.TimeoutExpired:
        pass
    equal(d.ok("POST", "/v1/vms/debian-12/thaw")["filesystems"], 1)
    equal((writer.communicate(timeout=60)[0], writer.returncode), ("written\n", 0))


if __name__ == "__main__":
    rig.main()
