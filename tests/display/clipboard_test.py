#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The clipboard between viewers and Debian's spice-vdagent:  clipboard_test.py --binary B

A guest with Debian's generic kernel runs this machine's spice-vdagentd, spice-vdagent, Xvfb and xclip. Texts go both ways, also
after the agent and the system have started anew, and after a save and restore in the middle of a long text.
"""
import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), *below) for below in ([], ["..", "vmm"])]
import display_test  # noqa: E402
import rfb  # noqa: E402
import vmm_test  # noqa: E402
from vmm_test import check, equal  # noqa: E402

PROGRAMS = ["spice-vdagentd", "spice-vdagent", "Xvfb", "xclip", "xkbcomp"]
UMLAUTS = "Grüße — 你好\nzweite Zeile\n"


def programs_initrd(folder, initrd):
    """Appends the programs with their libraries to a copy of the initramfs."""
    found = {name: shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin") for name in PROGRAMS}
    if not all(found.values()):
        vmm_test.skip("not installed: " + " ".join(name for name, path in found.items() if not path))
    files = set(found.values())
    for path in found.values():
        ldd = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        files |= set(re.findall(r"(/\S+) \(0x", ldd))
    root = os.path.join(folder, "root")
    for path in sorted(files):
        os.makedirs(root + os.path.dirname(path), exist_ok=True)
        shutil.copy(path, root + path)
    for path in ("run/spice-vdagentd", "root", "etc", "var/lib", "tmp/.X11-unix"):
        os.makedirs(os.path.join(root, path), exist_ok=True)
    shutil.copytree("/usr/share/X11/xkb", root + "/usr/share/X11/xkb")
    with open(root + "/etc/passwd", "w", encoding="ascii") as file:
        file.write("root:x:0:0:root:/root:/bin/sh\n")
    names = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True).stdout
    out = os.path.join(folder, "initrd")
    shutil.copy(initrd, out)
    with open(out, "ab") as file:
        file.write(b"\0" * (-file.tell() % 512))
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"], cwd=root, input=names, stdout=file, check=True)
    shutil.rmtree(root)
    return out


class Guest:
    def __init__(self, folder, *words):
        self.vnc, control = os.path.join(folder, "vnc"), os.path.join(folder, "control")
        self.vm = vmm_test.Vm("--display", "vnc=unix:" + self.vnc, "--control", "unix:" + control, *words, boots=False)
        self.client = vmm_test.Client(control)

    def shell(self, line, limit=120):
        self.vm.type(line + "\n")
        text = self.vm.expect("=END ", limit)
        equal(self.vm.expect("\n").strip(), "0", f"{line}: {text}")
        return text.strip()

    def agent_start(self):
        """And waits until it knows of the host: a text that is copied before that is not told."""
        self.shell("spice-vdagentd -X -f -u /dev/null && (spice-vdagent -x >/tmp/agent 2>&1 &)")
        viewer, deadline = rfb.Viewer(self.vnc), time.monotonic() + 60
        while not viewer.cuts:
            check(time.monotonic() < deadline, "the agent does not speak: " + self.shell("cat /tmp/agent"))
            self.copy("Is anybody there?")
            if viewer.waiting(2):
                viewer.update()
        viewer.close()

    def start(self):
        self.vm.expect("=READY", 180)
        self.shell("export HOME=/root DISPLAY=:0 PATH=$PATH:/usr/bin:/usr/sbin; ifconfig lo 127.0.0.1; "
                   "mkdir -p /dev/virtio-ports; for p in /sys/class/virtio-ports/*; do read name <$p/name; "
                   "ln -sf /dev/${p##*/} /dev/virtio-ports/$name; done; (Xvfb :0 -screen 0 640x480x24 -extension GLX >/tmp/x 2>&1 &); "
                   "while ! xclip -o -selection clipboard -t TARGETS >/dev/null 2>/tmp/xclip; do "
                   "grep -q 'not avail' /tmp/xclip && break; sleep 0.2; done")
        self.agent_start()

    def copy(self, text):
        """Somebody in the guest copies that, in octal escapes."""
        octal = "".join(f"\\\\0{byte:o}" for byte in text.encode())
        self.shell(f"printf '%b' '{octal}'".replace("\\\\", "\\") + " | xclip -i -selection clipboard")

    def paste_is(self, text, limit=60):
        """Somebody in the guest pastes, until that comes."""
        want, deadline = hashlib.md5(text.encode()).hexdigest(), time.monotonic() + limit
        while self.shell("xclip -o -selection clipboard 2>/dev/null | tee /tmp/pasted | md5sum").split()[0] != want:
            check(time.monotonic() < deadline, f"the guest pastes {self.shell('head -c 100 /tmp/pasted')!r}, not {text[:100]!r}")
            time.sleep(0.2)


def shown(texts, limit=60):
    """Each viewer gets its text. Who does not read is dropped after 20 s, so all of them do."""
    deadline = time.monotonic() + limit
    while not all(text in viewer.cuts for viewer, text in texts.items()):
        check(time.monotonic() < deadline, "; ".join(f"no {text[:100]!r} in {viewer.cuts!r}" for viewer, text in texts.items()))
        for viewer in texts:
            if viewer.waiting(0.1):
                viewer.update()


def viewers(guest):
    new, old = rfb.Viewer(guest.vnc), rfb.Viewer(guest.vnc)
    new.ask_clipboard()
    return new, old


def both_ways(guest, new, old, word):
    guest.copy(f"{word} {UMLAUTS}")
    shown({new: f"{word} {UMLAUTS}".replace("\n", "\r\n"), old: f"{word} {UMLAUTS}".encode("latin-1", "replace")})
    new.cut(f"{UMLAUTS} {word}".replace("\n", "\r\n"))
    guest.paste_is(f"{UMLAUTS} {word}")
    old.cut(f"très {word}".encode("latin-1"))
    guest.paste_is(f"très {word}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    vmm_test.ARGS = parser.parse_args()
    prepared = display_test.prepared_pc()
    with tempfile.TemporaryDirectory() as folder:
        initrd = programs_initrd(folder, os.path.join(prepared, "initrd.cpio"))
        saved = os.path.join(folder, "saved")
        guest = Guest(folder, "--memory", "384M", "--kernel", os.path.join(prepared, "vmlinuz"), "--initrd", initrd, "--cmdline",
                      "console=ttyS0 quiet pc.modules=virtio_pci,virtio_console")
        with guest.vm:
            guest.start()
            new, old = viewers(guest)
            both_ways(guest, new, old, "first")
            guest.shell("killall spice-vdagent spice-vdagentd; sleep 1")
            guest.agent_start()
            both_ways(guest, new, old, "another agent")
            long = "0123456789abcde\n" * 60000
            guest.shell("yes 0123456789abcde | head -n 60000 | xclip -i -selection clipboard")
            shown({new: long.replace("\n", "\r\n"), old: long.encode()})
            new.cut(long + "end")
            guest.paste_is(long + "end")
            guest.shell("(yes 0123456789abcde | head -n 60000; echo more) | xclip -i -selection clipboard")
            with open(saved, "wb") as file:
                guest.client.ok("save", fds=[file.fileno()], fd=True, then="end")
            guest.vm.wait()
        guest = Guest(folder, "--restore", saved)
        with guest.vm:
            new, old = viewers(guest)
            guest.vm.text = b""
            both_ways(guest, new, old, "restored")


if __name__ == "__main__":
    main()
