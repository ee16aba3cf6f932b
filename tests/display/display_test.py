#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The screen as people use it:  display_test.py CASE --binary B

GRUB's rescue CD runs under seabios; viewers look, type, and are turned away.
"""
import argparse
import base64
import contextlib
import os
import select
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), *below) for below in ([], ["..", "vmm"], ["..", "firmware"])]
import disk  # noqa: E402
import rfb  # noqa: E402
import screen  # noqa: E402
import vmm_test  # noqa: E402
from host import LIMIT, check, until  # noqa: E402
from vmm_test import equal  # noqa: E402

CD = "/usr/lib/grub-rescue/grub-rescue-cdrom.iso"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


class Grub:
    """A VM at GRUB's menu, with a screen."""

    def __init__(self, folder, display, *words):
        self.control = os.path.join(folder, "control")
        self.vm = vmm_test.Vm("--firmware", "bios", "--cdrom", CD, "--memory", "64M", "--display", display,
                              "--control", "unix:" + self.control, *words, boots=False, serial="none")
        self.client = vmm_test.Client(self.control)
        self.screen = screen.Screen(self.vm, self.client)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.vm.__exit__()


def same_picture(shown, viewer):
    """The viewer has what the screenshot has, when nothing changes any more."""
    for _ in range(100):
        viewer.request()
        while viewer.waiting(0.3):
            viewer.update()
            viewer.request()
        width, height, pixels = shown.picture()
        if (viewer.width, viewer.height) == (width, height) and viewer.rgb() == pixels:
            return
    raise AssertionError(f"{viewer.width} x {viewer.height} pixels differ from the screenshot's {width} x {height}")


@case
def look_and_type(folder):
    path = os.path.join(folder, "vnc")
    with Grub(folder, "vnc=unix:" + path, "--gdb", f"unix:{folder}/gdb,wait") as grub:
        # The size changes between the viewer's greeting and its wishes, and is told all the same.
        viewer = rfb.Viewer(path, ask=False)
        equal(viewer.name, "Bedplate", "the desktop's name")
        grub.client.ok("resume")
        grub.screen.shows("GNU GRUB")
        check((viewer.width, viewer.height) != grub.screen.picture()[:2], "the size has not changed")
        viewer.ask()
        viewer.request(False)
        same_picture(grub.screen, viewer)
        check(viewer.extended, "no extended keys")

        viewer.press(0x2e)  # C: the command line
        grub.screen.shows("grub>")
        for scancode in (0x12, 0x2e, 0x23, 0x18, 0x39, 0x1f):  # echo s
            viewer.press(scancode)
        viewer.plain_key(0x41, 1)  # without Shift of its own: what is printed on the key counts
        viewer.plain_key(0x41, 0)
        viewer.press(0x1c)
        grub.screen.shows("\nsa\n")
        grub.client.ok("send-keys", text="echo Typed_Text!\n")
        grub.screen.shows("\nTyped_Text!\n")
        same_picture(grub.screen, viewer)

        # An idle screen sends nothing.
        viewer.request()
        while viewer.waiting(1.5):
            viewer.update()
            viewer.request()
        check(not viewer.waiting(2), "an idle screen sends updates")

        # Several look at once; who leaves in the middle disturbs nobody.
        other = rfb.Viewer(path)
        equal(grub.client.ok("status")["screen"]["viewers"], 2, "viewers")
        other.request(False)
        other.close()
        grub.client.ok("send-keys", keys=["up", "ctrl-c", "ctrl-l"])
        same_picture(grub.screen, viewer)
        viewer.close()
        equal(grub.client.refused("send-keys", "EINVAL", keys=["ctrl-nokey"]), "there is no key 'nokey'")
        equal(grub.client.refused("screenshot", "EINVAL", format="bmp"), "'format' is png or text")
        with tempfile.TemporaryFile() as file:
            grub.client.ok("screenshot", fds=[file.fileno()], fd=True)
            file.seek(0)
            equal(rfb.png_rgb(file.read())[:2], grub.screen.picture()[:2], "the picture in a file")
    # The helper that has it notices the end of the VM by itself.
    until("the socket is left behind", lambda: not os.path.exists(path))


@case
def uefi(folder, video="vga"):
    """OVMF draws in the monitor's own size, and hears the viewer's keys."""
    path, control = os.path.join(folder, "vnc"), os.path.join(folder, "control")
    with vmm_test.Vm("--firmware", "uefi", "--memory", "128M", "--display", "vnc=unix:" + path, "--control", "unix:" + control,
                     "--video", video, boots=False) as vm:
        client, viewer = vmm_test.Client(control), rfb.Viewer(path)
        viewer.request(False)
        vm.expect("Shell>", 120)
        shown = screen.Screen(vm, client)
        same_picture(shown, viewer)
        width, height, pixels = shown.picture()
        equal((viewer.width, viewer.height, width, height), (1280, 800, 1280, 800), "size")
        check(any(pixels), "the screen is black")
        check("graphics" in client.refused("screenshot", "ENODATA", format="text"), "text of graphics")
        for scancode in (0x12, 0x2e, 0x23, 0x18, 0x39, 0x0a, 0x0b, 0x1c):  # echo 90
            viewer.press(scancode)
        vm.expect("\n90\r", LIMIT)
        viewer.close()


@case
def virtio_uefi(folder):
    uefi(folder, "virtio")


@case
def usb_uefi(folder):
    """OVMF's shell is typed into on a USB keyboard, which comes and goes; in its absence on the PS/2 one."""
    path, control = os.path.join(folder, "vnc"), os.path.join(folder, "control")
    with vmm_test.Vm("--firmware", "uefi", "--memory", "128M", "--display", "vnc=unix:" + path, "--control", "unix:" + control,
                     "--usb", "tablet", "--usb", "keyboard", boots=False) as vm:
        client = vmm_test.Client(control)
        vm.expect("Shell>", 120)

        def types(word, held):
            """By send-keys; then a key that a viewer holds is, or is not, one of the USB keyboard's."""
            client.ok("send-keys", text=f"echo {word}\n")
            vm.expect(f"\n{word}\r", LIMIT)
            viewer = rfb.Viewer(path)
            viewer.request(False)
            viewer.update()
            viewer.key(0, 0x2c, 1)  # Z
            vm.expect("z", LIMIT)
            keys = [hid.get("keys", "").startswith("1d") for hid in client.ok("inspect", device="usb0")["hids"]]
            equal(any(keys), held, f"USB keyboards that hold Z: {keys}")
            viewer.key(0, 0x2c, 0)
            viewer.close()
            client.ok("send-keys", keys=["enter"])
            vm.expect("is not recognized", LIMIT)
            vm.expect("Shell>", LIMIT)

        types("first", True)
        client.ok("usb-detach", port=2)
        types("without", False)
        client.ok("usb-attach", device="keyboard")
        until("OVMF does not see the keyboard that was plugged in",
              lambda: any(hid.get("configuration") and hid["kind"] == 2 for hid in client.ok("inspect", device="usb0")["hids"]))
        types("again", True)
        client.ok("send-keys", text="reset -w\n")
        vm.expect("Interactive Shell", 60)
        vm.expect("Shell>", 60)
        types("restarted", True)


def prepared_pc():
    """Folder with Debian's generic kernel and an initramfs whose init runs lines from the serial port."""
    prepared = os.path.join(ROOT, ".cache", "pc")
    done = subprocess.run([os.path.join(ROOT, "tools", "prepare-pc.sh"), prepared], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        vmm_test.skip(done.stdout.strip())
    return prepared


@case
def virtio_bios(folder):
    """--video virtio is a VGA until Linux' virtio-gpu takes over, and again after a reset; GRUB's menu survives a restore."""
    if disk.missing():
        vmm_test.skip(f"{disk.missing()} is not installed")
    prepared, image = prepared_pc(), os.path.join(folder, "disk")
    control, saved = os.path.join(folder, "control"), os.path.join(folder, "saved")
    disk.make(image, "set timeout=-1\nmenuentry 'The guest' {\n linux /vmlinuz console=tty0 console=ttyS0 pc.modules=virtio_pci,virtio-gpu\n"
              " initrd /initrd\n}\n", {"vmlinuz": os.path.join(prepared, "vmlinuz"), "initrd": os.path.join(prepared, "initrd.cpio")},
              64 << 20)
    words = ["--disk", image + ",format=raw", "--control", "unix:" + control]
    with vmm_test.Vm("--firmware", "bios", "--memory", "256M", "--video", "virtio", *words, boots=False) as vm:
        client = vmm_test.Client(control)
        screen.Screen(vm, client).shows("The guest")
        with open(saved, "wb") as file:
            client.ok("save", fds=[file.fileno()], fd=True, then="end")
        vm.wait()
    with vmm_test.Vm("--restore", saved, "--video", "virtio", *words, boots=False) as vm:
        client = vmm_test.Client(control)
        seen = screen.Screen(vm, client)
        seen.shows("The guest")
        seen.keys("enter")
        vm.expect("=READY", 120)
        equal(seen.picture()[:2], (1280, 800), "size by the driver")
        check("graphics" in client.refused("screenshot", "ENODATA", format="text"), "the VGA's text is still shown")
        vm.type("lsmod | grep virtio_gpu; reboot -f\n")
        vm.expect("virtio_gpu", 60)
        seen.shows("The guest")


def clipboard(shell, vnc):
    """A few messages of an agent, from the guest's shell: clipboard_test.py has a real one."""
    def message(kind, *words, text=""):
        body = struct.pack(f"<{len(words)}I", *words) + text.encode()
        whole = struct.pack("<IIQI", 1, kind, 0, len(body)) + body
        return struct.pack("<II", 1, len(whole)) + whole

    def says(*what, text=""):
        shell("printf '" + "".join(f"\\{byte:03o}" for byte in message(*what, text=text)) + "' >&3")

    def hears(*what, text=""):
        want = message(*what, text=text)
        equal(shell(f"dd bs=1 count={len(want)} <&3 2>/dev/null | hexdump -v -e '1/1 \"%02x\"'"), want.hex(), f"message {what}")

    announce, data, grab, request = 6, 4, 7, 8
    viewer, new = rfb.Viewer(vnc), rfb.Viewer(vnc)
    new.ask_clipboard()
    half = socket.socket(socket.AF_UNIX)  # in the middle of its greeting: it has shown no password yet
    half.connect(vnc)
    equal(half.recv(12), b"RFB 003.008\n", "greeting")
    shell("exec 3<>/dev/$(ls /sys/class/virtio-ports)")
    hears(announce, 1, 0x60)
    says(announce, 0, 0x60)
    viewer.cut(b"caf\xe9")
    hears(grab, 0, 1)
    says(request, 0, 1)
    hears(data, 0, 1, text="café")
    new.cut("€\r\n")
    hears(grab, 0, 1)
    says(request, 0, 1)
    hears(data, 0, 1, text="€\n")
    says(grab, 0, 1)
    hears(request, 0, 1)
    says(data, 0, 1, text="ä€\n")
    for one, texts in ((viewer, [b"\xe4?\n"]), (new, [b"caps", "ä€\r\n"])):
        while one.cuts[-1:] != texts[-1:]:
            check(one.waiting(LIMIT), f"the guest's text does not come: {one.cuts}")
            one.update()
        equal(one.cuts, texts, "the guest's text")
        one.close()
    check(not select.select([half], [], [], 0.2)[0], "a viewer that was not let in is told something")
    half.close()


def burst(shell, vnc):
    """A program that types faster than the guest reads loses no key: a keyboard holds some twenty of them."""
    shell("(head -n 1 </dev/tty1 >/tmp/typed) &")
    viewer = rfb.Viewer(vnc)
    viewer.request(False)
    viewer.update()
    for scancode in [0x1e, 0x30, 0x2e] * 30 + [0x1c]:  # abc
        viewer.key(0, scancode, 1)
        viewer.key(0, scancode, 0)
    deadline = time.monotonic() + 60
    while (typed := shell("cat /tmp/typed")) != "abc" * 30:
        check(time.monotonic() < deadline, f"a burst of keys came as {typed!r}")
        time.sleep(0.1)
    viewer.close()


@case
def virtio(folder):
    """Debian's generic kernel on virtio-gpu: its console, what is written to its frame buffer, another size, a restore."""
    prepared = prepared_pc()
    path, control, saved = (os.path.join(folder, name) for name in ("vnc", "control", "saved"))

    def shell(vm, line):
        vm.type(line + "\n")
        text = vm.expect("=END ", 60)
        equal(vm.expect("\n").strip(), "0", f"{line}: {text}")
        return text.strip()

    def draw(vm, byte, size, number=0):
        """Fills piece `number` of that size of the frame buffer, by one write. Linux 6.1 shows a write into a single row that
        reaches its end only if another comes at about the same time (drm_fb_helper_memory_range_to_clip makes its right edge 0;
        it is so under QEMU, too), so a pipe, whose 4096 bytes sometimes are such a piece, will not do."""
        shell(vm, f"head -c {size} /dev/zero | tr '\\0' '\\{byte:o}' >/tmp/piece && "
                  f"dd if=/tmp/piece of=/dev/fb0 bs={size} count=1 seek={number} 2>/dev/null")

    def picture(client):
        return rfb.png_rgb(base64.b64decode(client.ok("screenshot")["png"]))

    with vmm_test.Vm("--memory", "256", "--video", "virtio", "--display", "vnc=unix:" + path, "--control", "unix:" + control,
                     "--kernel", os.path.join(prepared, "vmlinuz"), "--initrd", os.path.join(prepared, "initrd.cpio"), "--cmdline",
                     "console=tty0 console=ttyS0 pc.modules=virtio_pci,virtio-gpu,virtio_console", boots=False) as vm:
        client = vmm_test.Client(control)
        vm.expect("=READY", 120)
        width, height, pixels = picture(client)
        equal((width, height), (1280, 800), "size")
        check(sum(1 for byte in pixels[::3] if byte > 100) > 2000, "there is no text on the screen")
        shell(vm, "echo 1 >/proc/sys/kernel/printk")  # a late message would scroll the picture away
        burst(lambda line: shell(vm, line), path)
        draw(vm, 0xaa, 409600)
        draw(vm, 0x55, 400, 13 * 4)  # a piece of 100 pixels within row 4, from x = 80 on
        rows = bytearray(b"\xaa" * (80 * 1280 * 3))
        rows[(4 * 1280 + 80) * 3:(4 * 1280 + 180) * 3] = b"\x55" * 300
        until("what was written to the frame buffer is not shown", lambda: picture(client)[2][:len(rows)] == rows)
        clipboard(lambda line: shell(vm, line), path)
        viewer = rfb.Viewer(path)
        viewer.ask_size(1024, 768)

        def taken():
            viewer.request()
            check(viewer.waiting(LIMIT), f"no answer: {viewer.answers}")
            viewer.update()
            return any(answer[1:] == (0, 1024, 768) for answer in viewer.answers)

        until(lambda: f"the size was not taken: {viewer.answers}", taken)
        equal(shell(vm, "head -n 1 /sys/class/drm/card0-Virtual-1/modes"), "1024x768", "the monitor's first mode")
        viewer.close()
        before = picture(client)
        equal(before[:2], (1024, 768), "size")
        with open(saved, "wb") as file:
            client.ok("save", fds=[file.fileno()], fd=True, then="end")
        vm.wait()
    with vmm_test.Vm("--restore", saved, "--control", "unix:" + control, boots=False) as vm:
        client = vmm_test.Client(control)
        shell(vm, "cat <&3")  # the port's end: the host has hung up
        now = picture(client)
        equal(now[:2], before[:2], "size of the restored screen")
        differ = sum(1 for a, b in zip(now[2][::3], before[2][::3]) if a != b)
        check(differ < 1000, f"{differ} pixels differ after the restore")  # the cursor blinks
        draw(vm, 0x55, 409600)
        until("the restored screen does not change", lambda: picture(client)[2][:3] == b"\x55" * 3)
    with vmm_test.Vm("--restore", saved, "--video", "vga", boots=False) as vm:
        vm.ends(vmm_test.FILE, "the saved VM has --video virtio-vga, not vga")


@case
def hostile_viewers(folder):
    path = os.path.join(folder, "vnc")
    with Grub(folder, "vnc=unix:" + path + ",keymap=de") as grub:
        grub.screen.shows("GNU GRUB")
        halves = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for count, half in enumerate(halves):
            half.connect(path)
            half.sendall(b"RFB"[:count])  # and no more
        for nonsense in (b"\xff" * 4096, b"RFB 003.008\n\x01\x01" + bytes(range(256)) * 64,
                         b"RFB 003.008\n\x01\x01\x02\x00\xff\xff" + b"\x00" * 65535 * 4, b""):
            s = socket.socket(socket.AF_UNIX)
            s.connect(path)
            try:
                s.sendall(nonsense)
            except OSError:
                pass
            s.close()
        viewer = rfb.Viewer(path)
        viewer.request(False)
        same_picture(grub.screen, viewer)
        check(grub.client.ok("status")["screen"]["alive"], "the helper has died")
        viewer.press(0x2e)  # C: the command line
        grub.screen.shows("grub>")
        for keysym in b"z-":  # on a German keyboard where GRUB, which has a US one, sees these
            viewer.plain_key(keysym, 1)
            viewer.plain_key(keysym, 0)
        grub.screen.shows("grub> y/")


def cpu_seconds(pid):
    """Of a process and its children."""
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    ticks = 0
    for one in (str(pid), *children):
        with contextlib.suppress(OSError), open(f"/proc/{one}/stat", encoding="ascii") as file:
            ticks += sum(map(int, file.read().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def client(path, encodings, *words):
    """A viewer made with libvncclient; what it has counted."""
    done = subprocess.run([vmm_test.ARGS.client, path, encodings, *words], capture_output=True, text=True, timeout=2 * LIMIT,
                          check=False)
    check(done.returncode == 0, f"a viewer that wants {encodings}: {done.stderr}")
    return {name: float(value) for name, value in (word.split("=") for word in done.stdout.split())}


@case
def encodings(folder):
    """Another program's decoders see the same picture; only what has changed comes; nothing costs nothing."""
    path, control, picture = (os.path.join(folder, name) for name in ("vnc", "control", "picture"))
    with vmm_test.Vm("--kernel", vmm_test.ARGS.guest, "--memory", "64M", "--display", "vnc=unix:" + path, "--control",
                     "unix:" + control, boots=False) as vm:
        vm.expect("ready")
        shot = base64.b64decode(vmm_test.Client(control).ok("screenshot")["png"])
        width, height, pixels = rfb.png_rgb(shot)
        equal((width, height), (1024, 768), "size")
        for words in ("tight", "zrle", "hextile", "zlib", "raw", "tight zrle copyrect"):
            client(path, words, "picture", picture)
            with open(picture, "rb") as file:
                check(file.read() == pixels, f"another picture by {words}")

        def used():
            """CPU seconds, in five."""
            before = cpu_seconds(vm.process.pid)
            time.sleep(5)
            return cpu_seconds(vm.process.pid) - before

        nobody, wanted = used(), width * height + 8
        words = [vmm_test.ARGS.client, path, "tight", "watch", str(wanted)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watching:
            time.sleep(7)  # the screen counts as idle then, or a little later

            def cheap():
                idle = used()
                print(f"CPU in 5 s: {nobody:.2f} s with nobody looking, {idle:.2f} s with a viewer of an idle screen")
                return idle < nobody + 0.15

            until("looking at an idle screen costs CPU time", cheap)
            vm.type("d")
            vm.expect(".")
            seen = dict(word.split("=") for word in watching.communicate(timeout=LIMIT)[0].split())
        equal(int(seen["pixels"]), wanted, "pixels sent for a picture and a change of 8 pixels")
        vm.type("s")
        vm.expect(".")
        moving = client(path, "tight", "watch", str(4 * width * height))
        check(moving["updates"] > 3 and moving["pixels"] >= 4 * width * height, f"a scrolling screen stands still: {moving}")


def certificate(folder, name, authority=None):
    """A certificate for localhost, signed by itself or by `authority`."""
    key, cert = os.path.join(folder, name + ".key"), os.path.join(folder, name + ".pem")
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
             "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert]
    if authority:
        words += ["-CA", authority + ".pem", "-CAkey", authority + ".key", "-addext", "basicConstraints=CA:FALSE"]
    subprocess.run(words, check=True, capture_output=True)
    return os.path.join(folder, name)


@case
def tls(folder):
    ca, other = certificate(folder, "ca"), certificate(folder, "other")
    client = certificate(folder, "client", ca)
    words = f"vnc=127.0.0.1:0,tls-cert={ca}.pem,tls-key={ca}.key"
    with Grub(folder, words) as grub:
        host, port = grub.client.ok("status")["screen"]["vnc"].rsplit(":", 1)
        address = (host, int(port))
        grub.screen.shows("GNU GRUB")
        viewer = rfb.Viewer(address, ssl.create_default_context(cafile=ca + ".pem"))
        equal(viewer.types, [rfb.VENCRYPT], "security types")
        viewer.request(False)
        same_picture(grub.screen, viewer)
        viewer.press(0x2e)
        grub.screen.shows("grub>")
        check(not viewer.socket.session.has_ticket, "the server sends session tickets, behind which TigerVNC waits for ever")
        refused(lambda: rfb.Viewer(address), "a viewer without TLS")
        refused(lambda: rfb.Viewer(address, ssl.create_default_context(cafile=other + ".pem")),
                "a server that the viewer does not trust")
        old = ssl.create_default_context(cafile=ca + ".pem")
        old.options |= ssl.OP_NO_TLSv1_2 | ssl.OP_NO_TLSv1_3
        refused(lambda: rfb.Viewer(address, old), "TLS 1.1")
        same_picture(grub.screen, viewer)
    with Grub(folder, words + f",tls-ca={ca}.pem") as grub:
        host, port = grub.client.ok("status")["screen"]["vnc"].rsplit(":", 1)
        address = (host, int(port))
        context = ssl.create_default_context(cafile=ca + ".pem")
        refused(lambda: rfb.Viewer(address, context), "a viewer without a certificate")
        context.load_cert_chain(client + ".pem", client + ".key")
        rfb.Viewer(address, context).close()


def refused(connect, what):
    try:
        connect()
    except (rfb.Closed, ssl.SSLError, OSError):
        return
    raise AssertionError(f"{what} was let in")


def free_display():
    """vncsnapshot takes numbers below 100 only."""
    for number in range(20, 100):
        try:
            socket.create_server(("127.0.0.1", 5900 + number)).close()
            return number
        except OSError:
            pass
    return vmm_test.skip("no free port from 5920 to 5999")


@case
def password(folder):
    """With another program as the viewer, which decodes more."""
    words, good, bad = (os.path.join(folder, n) for n in ("words", "good", "bad"))
    for name, text in ((words, "geheim\n"), ):
        with open(name, "w", encoding="ascii") as file:
            file.write(text)
    for name, text in ((good, "geheim"), (bad, "falsch")):
        with open(name, "wb") as file:
            file.write(subprocess.run(["vncpasswd", "-f"], input=text.encode() + b"\n", capture_output=True, check=True).stdout)
    number = free_display()
    with Grub(folder, f"vnc=:{number},password-file={words}") as grub:
        host, port = "127.0.0.1", 5900 + number
        grub.screen.shows("GNU GRUB")
        refused(lambda: rfb.Viewer((host, port)), "a viewer without a password")

        def snapshot(passwd, encodings):
            picture = os.path.join(folder, "picture.jpg")
            if os.path.exists(picture):
                os.unlink(picture)
            result = subprocess.run(["vncsnapshot", "-quiet", "-encodings", encodings, "-passwd", passwd, f"{host}:{number}",
                                     picture], capture_output=True, timeout=LIMIT, check=False)
            return result.returncode == 0 and os.path.exists(picture) and os.path.getsize(picture)

        for encodings in ("zrle", "zlib", "hextile", "raw"):
            check(snapshot(good, encodings), f"vncsnapshot takes no picture by {encodings}")
        check(not snapshot(bad, "raw"), "a wrong password was taken")


@case
def bad_words(folder):
    long, empty = os.path.join(folder, "long"), os.path.join(folder, "empty")
    for name, text in ((long, "a password of many words\n"), (empty, "\n")):
        with open(name, "w", encoding="ascii") as file:
            file.write(text)
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]

    def sentence(words, *display):
        with vmm_test.Vm("--firmware", "bios", *display, boots=False) as vm:
            check(vm.wait() in (vmm_test.USAGE, vmm_test.FILE), f"{display}: status {vm.wait()}: {vm.said()}")
            check(words in vm.said(), f"no {words!r} in {vm.said()!r}")

    sentence(f"port {port} of 127.0.0.1 is taken", "--display", f"vnc=127.0.0.1:{port}")
    sentence("is no display; write vnc=", "--display", "spice")
    sentence("is neither unix:PATH nor ADDRESS:PORT", "--display", "vnc=nowhere")
    sentence("is no IP address", "--display", "vnc=nowhere:1")
    sentence("give tls-cert= and tls-key=", "--display", "vnc=0.0.0.0:0")
    sentence("write clipboard=on or clipboard=off", "--display", "vnc=:0,clipboard=maybe")
    sentence("--display: clipboard: there are two ports 'com.redhat.spice.0'", "--display", "vnc=:0,clipboard=on", "--port",
             f"com.redhat.spice.0=unix:{folder}/port")
    sentence("keymap 'xx' is unknown; there are us, gb", "--display", "vnc=:0,keymap=xx")
    sentence("tls-cert= and tls-key= go together", "--display", "vnc=:0,tls-cert=/x")
    sentence("No such file", "--display", "vnc=127.0.0.1:0,password-file=/nonexistent")
    sentence("longer than 8 characters", "--display", f"vnc=127.0.0.1:0,password-file={long}")
    sentence("holds no password", "--display", f"vnc=127.0.0.1:0,password-file={empty}")
    sentence("the certificate: /nonexistent", "--display", "vnc=127.0.0.1:0,tls-cert=/nonexistent,tls-key=/nonexistent")
    sentence("leave out --video none", "--display", "vnc=:0", "--video", "none")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--binary", required=True)
    parser.add_argument("--client", help="the viewer made with libvncclient (client.c)")
    parser.add_argument("--guest", help="the guest that scrolls (scroll.S)")
    vmm_test.ARGS = args = parser.parse_args()
    if args.case not in ("encodings", "usb_uefi", "virtio", "virtio_bios", "virtio_uefi") and not os.path.exists(CD):
        vmm_test.skip("the package grub-rescue-pc is not installed")
    with tempfile.TemporaryDirectory() as folder:
        CASES[args.case](folder)


if __name__ == "__main__":
    main()
