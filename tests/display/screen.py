# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM's screen, looked at through its control socket as a person would: what it says, and whether it still moves."""
import base64
import re
import time

import glyphs
import rfb
from vmm_test import check


class Screen:
    def __init__(self, vm, client):
        """vm: a vmm_test.Vm; client: of its control socket."""
        self.vm, self.client, self.fonts = vm, client, None

    def png(self):
        return base64.b64decode(self.client.ok("screenshot")["png"])

    def picture(self):
        """Width, height, and lines of red, green, blue."""
        return rfb.png_rgb(self.png())

    def text(self):
        """The text of a text mode; otherwise what can be read of a Linux console's picture."""
        reply = self.client.ask("screenshot", format="text")
        if "ok" in reply:
            return reply["ok"]["text"]
        if glyphs.missing():
            return ""
        self.fonts = self.fonts or glyphs.fonts()
        return glyphs.text(*self.picture(), self.fonts)

    def wait(self, what, good, limit):
        """good() within `limit` seconds; its answer."""
        deadline = time.monotonic() + limit
        while not (answer := good()):
            check(self.vm.process.poll() is None, f"ended before {what}: {self.vm.said()}")
            check(time.monotonic() < deadline, f"no {what} within {limit} s; the screen:\n{self.text()}\n{self.vm.said()}")
            time.sleep(0.1)
        return answer

    def shows(self, pattern, limit=60):
        """Waits for a regular expression; its match."""
        return self.wait(repr(pattern), lambda: re.search(pattern, self.text()), limit)

    def settles(self, size, limit=60):
        """Waits until the screen has a size and stays as it is."""
        before = [None]

        def still():
            last, before[0] = before[0], self.picture()
            time.sleep(0.3)
            return before[0] == last and before[0][:2] == size

        self.wait(f"still picture of {size[0]} x {size[1]}", still, limit)

    def keys(self, *chords):
        self.client.ok("send-keys", keys=list(chords))

    def type(self, text):
        self.client.ok("send-keys", text=text)
