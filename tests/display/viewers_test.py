#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Viewers that people use:  viewers_test.py tigervnc|novnc --binary B

A guest with Debian's generic kernel on virtio-gpu is looked at, typed into, pointed at, made smaller and larger, and exchanges texts
through its own spice-vdagent. TigerVNC's viewer runs under Xvfb and is driven by xdotool, noVNC in headless chromium with websockify
before the VM's socket. Neither is installed by anybody but the reader.
"""
import argparse
import base64
import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), *below) for below in ([], ["..", "vmm"], ["..", "firmware"])]
import clipboard_test  # noqa: E402
import display_test  # noqa: E402
import screen  # noqa: E402
import vmm_test  # noqa: E402
from vmm_test import check, equal  # noqa: E402

NOVNC = "/usr/share/novnc"
KEYS = {  # of a US keyboard: what noVNC is told of a key
    " ": ("Space", 32), "\n": ("Enter", 13), "-": ("Minus", 189), "/": ("Slash", 191), ";": ("Semicolon", 186), "1": ("Digit1", 49)}
SHIFTED = {"_": "-", "?": "/", ":": ";", "!": "1"}


def wait(what, good, limit=60):
    """good() within `limit` seconds; its answer."""
    deadline = time.monotonic() + limit
    while not (answer := good()):
        check(time.monotonic() < deadline, f"no {what} within {limit} s")
        time.sleep(0.1)
    return answer


class Process:
    """A program whose output is kept for the complaint, and which is ended."""

    def __init__(self, folder, name, words, **options):
        self.log = os.path.join(folder, name + ".log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, **options)

    def said(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Desktop(Process):
    """An X server with nothing on it, and what is to be seen there."""

    def __init__(self, folder):
        reading, writing = os.pipe()
        super().__init__(folder, "xvfb", ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1600x1000x24", "-fbdir", folder,
                                          "-nolisten", "tcp", "-noreset"], pass_fds=[writing])
        os.close(writing)
        with os.fdopen(reading) as pipe:
            number = pipe.readline().strip()
        check(number, f"Xvfb does not start: {self.said()}")
        self.frame = os.path.join(folder, "Xvfb_screen0")
        self.environment = {**os.environ, "DISPLAY": ":" + number, "HOME": folder}

    def do(self, *words, data=None, good=(0,)):
        done = subprocess.run(words, env=self.environment, input=data, capture_output=True, timeout=60, check=False)
        check(done.returncode in good, f"{' '.join(words)}: {done.stderr.decode()}")
        return done.stdout.decode()

    def rgb(self, x, y, width, height):
        """Of a part of it; Xvfb keeps its screen as a file of xwd's format."""
        with open(self.frame, "rb") as file:
            data = file.read()
        head, colours, line = (struct.unpack(">I", data[at * 4:at * 4 + 4])[0] for at in (0, 19, 12))
        out = bytearray(width * height * 3)
        for row in range(height):
            at = head + colours * 12 + (y + row) * line + x * 4
            for colour in range(3):
                out[row * width * 3 + colour:(row + 1) * width * 3:3] = data[at + 2 - colour:at + width * 4:4]
        return bytes(out)


class TigerVnc(Process):
    """TigerVNC's viewer on a Desktop."""

    def __init__(self, folder, desktop, address, *words):
        super().__init__(folder, "viewer", ["xtigervncviewer", "-AlertOnFatalError=0", "-ReconnectOnError=0", "-Shared=1",
                                            "-AutoSelect=0", "-NoJPEG=1", *words, address], env=desktop.environment)
        self.desktop = desktop

    def window(self):
        """Its number, once it is there."""
        def found():
            check(self.process.poll() is None, f"the viewer has ended: {self.said()}")
            return self.desktop.do("xdotool", "search", "--onlyvisible", "--name", "TigerVNC", good=(0, 1)).split()
        return wait("viewer's window", found)[0]

    def place(self):
        words = self.desktop.do("xdotool", "getwindowgeometry", "--shell", self.window()).split()
        values = dict(word.split("=") for word in words)
        return tuple(int(values[name]) for name in ("X", "Y", "WIDTH", "HEIGHT"))

    def picture(self):
        x, y, width, height = self.place()
        if x < 0 or y < 0 or x + width > 1600 or y + height > 1000:
            return 0, 0, b""
        return width, height, self.desktop.rgb(x, y, width, height)

    def focus(self):
        self.desktop.do("xdotool", "windowfocus", self.window())

    def type(self, text):
        self.focus()
        line = text.rstrip("\n")
        self.desktop.do("xdotool", "type", "--delay", "30", line)
        if line != text:
            self.desktop.do("xdotool", "key", "Return")  # what xdotool types for a newline is another key

    def move(self, x, y):
        self.desktop.do("xdotool", "mousemove", "--window", self.window(), str(x), str(y))

    def away(self):
        """The X server draws the viewer's pointer into the picture that is compared."""
        self.desktop.do("xdotool", "mousemove", "1599", "999")

    def click(self, button):
        self.desktop.do("xdotool", "click", str(button))

    def resize(self, width, height):
        self.desktop.do("xdotool", "windowsize", self.window(), str(width), str(height))

    def copy(self, text):
        self.desktop.do("sh", "-c", "exec xclip -i -selection clipboard >/dev/null 2>&1", data=text.encode())

    def pasted(self):
        return self.desktop.do("xclip", "-o", "-selection", "clipboard", good=(0, 1))


class NoVnc(Process):
    """noVNC's page in chromium, which is asked by its debugging protocol over a pair of pipes."""

    def __init__(self, folder, url):
        ours, theirs = os.pipe(), os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (ours[0], theirs[1])]
        command = f"exec chromium \"$@\" 3<&{high[0]} 4>&{high[1]}"
        super().__init__(folder, "chromium", ["bash", "-c", command, "chromium", "--headless=new", "--no-sandbox", "--disable-gpu",
                                              "--remote-debugging-pipe", "--no-first-run", "--user-data-dir=" + folder + "/profile",
                                              "about:blank"], pass_fds=high, env={**os.environ, "HOME": folder})
        for fd in (ours[0], theirs[1], *high):
            os.close(fd)
        self.into, self.out = os.fdopen(ours[1], "wb"), os.fdopen(theirs[0], "rb")
        self.left, self.number, self.session, self.at = b"", 0, None, (0, 0)
        targets = self.ask("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self.session = self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self.resize(1280, 800)
        self.ask("Page.navigate", url=url)

    def ask(self, method, **values):
        self.number += 1
        message = {"id": self.number, "method": method, "params": values}
        if self.session:
            message["sessionId"] = self.session
        self.into.write(json.dumps(message).encode() + b"\0")
        self.into.flush()
        while True:
            while b"\0" not in self.left:
                chunk = self.out.read1(1 << 20)
                check(chunk, f"chromium has ended: {self.said()}")
                self.left += chunk
            answer, _, self.left = self.left.partition(b"\0")
            answer = json.loads(answer)
            if answer.get("id") == self.number:
                check("result" in answer, f"{method}: {answer}")
                return answer["result"]

    def js(self, expression):
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        check("exceptionDetails" not in answer, f"{expression}: {answer}")
        return answer["result"].get("value")

    def picture(self):
        answer = self.js("""(() => {
            const canvas = document.querySelector('#noVNC_container canvas');
            if (!canvas || !canvas.width) return null;
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            const parts = [];
            for (let at = 0; at < data.length; at += 32768)
                parts.push(String.fromCharCode.apply(null, data.subarray(at, at + 32768)));
            return [canvas.width, canvas.height, btoa(parts.join(''))];
        })()""")
        if not answer:
            return 0, 0, b""
        width, height, data = answer
        data = base64.b64decode(data)
        out = bytearray(width * height * 3)
        for colour in range(3):
            out[colour::3] = data[colour::4]
        return width, height, bytes(out)

    def focus(self):
        self.js("document.querySelector('#noVNC_container canvas').focus()")

    def key(self, kind, code, key, number, shift):
        self.ask("Input.dispatchKeyEvent", type=kind, code=code, key=key, windowsVirtualKeyCode=number, modifiers=8 if shift else 0)

    def type(self, text):
        self.focus()
        for letter in text:
            shift = letter.isupper() or letter in SHIFTED
            base = SHIFTED.get(letter, letter.lower())
            code, number = KEYS.get(base) or ("Key" + base.upper(), ord(base.upper()))
            if shift:
                self.key("keyDown", "ShiftLeft", "Shift", 16, True)
            name = "Enter" if letter == "\n" else letter
            self.key("keyDown", code, name, number, shift)
            self.key("keyUp", code, name, number, shift)
            if shift:
                self.key("keyUp", "ShiftLeft", "Shift", 16, False)

    def move(self, x, y):
        left, top = self.js("(r => [r.left, r.top])(document.querySelector('#noVNC_container canvas').getBoundingClientRect())")
        self.at = (left + x, top + y)
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=self.at[0], y=self.at[1])

    def away(self):
        """The pointer is the browser's, not the picture's."""

    def click(self, button):
        x, y = self.at
        if button == 4:
            self.ask("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-120)
            return
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def resize(self, width, height):
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def copy(self, text):
        self.js("(t => { t.value = " + json.dumps(text) + "; t.dispatchEvent(new Event('change')); })"
                "(document.getElementById('noVNC_clipboard_text'))")

    def pasted(self):
        return self.js("document.getElementById('noVNC_clipboard_text').value")


def same_picture(seen, viewer, size=None):
    """The viewer shows what the screenshot does."""
    def same():
        width, height, pixels = seen.picture()
        return (not size or size == (width, height)) and viewer.picture() == (width, height, pixels)
    viewer.away()
    wait(f"picture of {size} in the viewer that is the screenshot's; it has {viewer.picture()[:2]}, the screenshot "
         f"{seen.picture()[:2]}", same)


def guest_ready(guest):
    """Text in colours on the screen, no cursor that blinks; what is typed and pointed is kept."""
    guest.shell("echo 1 >/proc/sys/kernel/printk; echo 0 >/sys/class/graphics/fbcon/cursor_blink; "
                "for i in 1 2 3 4 5 6 7; do printf '\\033[4%dm some colours \\033[0m\\n' $i; done >/dev/tty1; "
                "(cat </dev/tty1 >/tmp/typed &)")
    node = guest.shell("grep -A4 'Name=\"Bedplate Tablet\"' /proc/bus/input/devices | sed -n 's/.*\\(event[0-9]*\\).*/\\1/p'")
    check(node, "the guest has no tablet")
    guest.shell(f"(cat /dev/input/{node} >/tmp/pointer &)")


def pointed(guest):
    """Type, code and value of each of the tablet's events, and it forgets them."""
    lines = guest.shell("hexdump -v -e '24/1 \"%02x\" \"\\n\"' /tmp/pointer").split()
    return [struct.unpack("<HHi", bytes.fromhex(line)[16:24]) for line in lines if len(line) == 48]


def typed_is(guest, seen, text, limit=60):
    deadline = time.monotonic() + limit
    while (typed := guest.shell("cat /tmp/typed")) != text:
        check(time.monotonic() < deadline, f"the guest is typed {typed!r}, not {text!r}; the screen: {seen.text().rstrip()}")
        time.sleep(0.1)


def pointer(guest, viewer):
    x, y = 640, 300
    viewer.move(x, y)
    viewer.click(1)
    viewer.click(4)
    wait("button that is pressed and let go, and wheel",
         lambda: {(1, 0x110, 1), (1, 0x110, 0), (2, 8, 1)} <= set(pointed(guest)))
    now = {(kind, code): value for kind, code, value in pointed(guest)}
    for axis, want, size in ((0, x, 1280), (1, y, 800)):
        check(abs(now[3, axis] * (size - 1) / 32767 - want) < 1.5, f"axis {axis}: {now[3, axis]} for pixel {want} of {size}")


def clipboard(guest, viewer, text):
    """text: what somebody copies beside the viewer."""
    viewer.focus()
    viewer.copy(text)
    guest.paste_is(text)
    guest.copy("zurück " + clipboard_test.UMLAUTS)
    wait("text of the guest in the viewer's clipboard",
         lambda: viewer.pasted().replace("\r\n", "\n") == "zurück " + clipboard_test.UMLAUTS)


def use(guest, seen, viewer, text):
    """All that one does with a screen."""
    same_picture(seen, viewer, (1280, 800))
    viewer.type("Who is there? You_know: me!\n")
    typed_is(guest, seen, "Who is there? You_know: me!")
    same_picture(seen, viewer, (1280, 800))
    pointer(guest, viewer)
    clipboard(guest, viewer, text)
    viewer.resize(1024, 768)
    same_picture(seen, viewer, (1024, 768))
    viewer.resize(1280, 800)
    same_picture(seen, viewer, (1280, 800))


def missing(programs):
    absent = [name for name in programs if not shutil.which(name)]
    if absent:
        vmm_test.skip("not installed: " + " ".join(absent))


def booted(folder):
    prepared = display_test.prepared_pc()
    initrd = clipboard_test.programs_initrd(folder, os.path.join(prepared, "initrd.cpio"))
    return clipboard_test.Guest(folder, "--memory", "384M", "--video", "virtio", "--kernel", os.path.join(prepared, "vmlinuz"),
                                "--initrd", initrd, "--cmdline", "console=tty0 console=ttyS0 quiet pc.modules="
                                "virtio_pci,virtio_console,virtio-gpu,xhci-pci,usbhid,hid-generic,evdev")


def tigervnc_secure(folder, desktop):
    """X.509 and a password; a wrong password, and a certificate that the viewer does not trust."""
    ca, other = (display_test.certificate(folder, name) for name in ("ca", "other"))
    with open(os.path.join(folder, "words"), "w", encoding="ascii") as file:
        file.write("geheim\n")
    for name in ("geheim", "falsch"):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(subprocess.run(["vncpasswd", "-f"], input=name.encode() + b"\n", capture_output=True, check=True).stdout)
    with display_test.Grub(folder, f"vnc=127.0.0.1:0,password-file={folder}/words,tls-cert={ca}.pem,tls-key={ca}.key") as grub:
        port = grub.client.ok("status")["screen"]["vnc"].rsplit(":", 1)[1]
        grub.screen.shows("GNU GRUB")
        grub.screen.keys("c")  # its menu would not wait for a viewer
        grub.screen.shows("grub>")

        def viewer(authority, password):
            return TigerVnc(folder, desktop, "localhost::" + port, "-SecurityTypes=X509Vnc", f"-X509CA={authority}.pem",
                            f"-PasswordFile={folder}/{password}")

        with viewer(ca, "geheim") as seen:
            same_picture(grub.screen, seen)
            seen.type("echo Over_TLS\n")
            grub.screen.shows("\nOver_TLS\n")
            same_picture(grub.screen, seen)
        with viewer(ca, "falsch") as seen:
            seen.process.wait(60)
            check("Authentication failure" in seen.said(), f"a wrong password: {seen.said()}")
        # It asks whether the certificate is to be trusted all the same.
        with viewer(other, "geheim"):
            wait("question about the certificate",
                 lambda: desktop.do("xdotool", "search", "--onlyvisible", "--name", "certificate", good=(0, 1)))


def tigervnc(folder):
    missing(["xtigervncviewer", "xdotool", "xclip", "Xvfb", "vncpasswd", "openssl"])
    with Desktop(folder) as desktop:
        guest = booted(folder)
        with guest.vm:
            guest.start()
            guest_ready(guest)
            seen = screen.Screen(guest.vm, guest.client)
            for encoding in ("Raw", "Hextile", "ZRLE"):
                with TigerVnc(folder, desktop, guest.vnc, "-PreferredEncoding=" + encoding) as viewer:
                    same_picture(seen, viewer, (1280, 800))
            with TigerVnc(folder, desktop, guest.vnc, "-PreferredEncoding=Tight") as viewer:
                use(guest, seen, viewer, clipboard_test.UMLAUTS)
        tigervnc_secure(folder, desktop)


def novnc(folder):
    missing(["chromium", "websockify"])
    if not os.path.exists(NOVNC + "/vnc.html"):
        vmm_test.skip("not installed: novnc")
    guest = booted(folder)
    port = 5900 + display_test.free_display()
    with guest.vm, Process(folder, "websockify", ["websockify", "--web", NOVNC, "--unix-target=" + guest.vnc, f"127.0.0.1:{port}"]):
        guest.start()
        guest_ready(guest)
        with NoVnc(folder, f"http://127.0.0.1:{port}/vnc.html?autoconnect=1&resize=remote&reconnect=0") as viewer:
            # Only a server that takes notice of copied texts (libvncserver 0.9.14 does not) is sent more than ISO 8859-1.
            use(guest, screen.Screen(guest.vm, guest.client), viewer, "Größe: 5 µm\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=["tigervnc", "novnc"])
    parser.add_argument("--binary", required=True)
    vmm_test.ARGS = args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        {"tigervnc": tigervnc, "novnc": novnc}[args.case](folder)


if __name__ == "__main__":
    main()
