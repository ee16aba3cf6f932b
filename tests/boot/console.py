#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Uses the guest as a person does: a shell on the serial console of a terminal.

Types a command, interrupts one with Ctrl-C (which must reach the guest, not the VMM), leaves by
`exit`, and looks whether the VMM gave the terminal back as it found it.
"""
import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile

import boot

try:
    import pexpect
except ImportError:
    boot.skip("python3-pexpect is not installed")

PROMPT = "guest:~# "


def talk(terminal):
    """Yields what is wrong; stops at the first fault, since the rest depends on it."""
    # What it shows, what is typed, what must come. How often a line end says \r depends on the
    # settings of both terminals.
    steps = [
        ("the shell's prompt", None, PROMPT),
        ("a command's output", "echo $((6 * 7))x\r", r"\n42x\r"),
        ("the prompt after it", None, PROMPT),
        ("the disk in the shell", "cat /mnt/hello.txt\r", "lies on the guest's disk"),
        ("the prompt after it", None, PROMPT),
        ("the echo of a long command", "sleep 1000\r", "sleep 1000"),
        ("the prompt after Ctrl-C", "\x03", PROMPT),
        ("a large output to its end", "seq 20000 | tail -n 15000 && echo all of it | tr a-z A-Z\r",
         r"\n20000\r+\nALL OF IT\r"),
        ("the prompt after it", None, PROMPT),
        ("the end of the VMM", "exit\r", r"status=\d+"),
    ]
    for what, typed, wanted in steps:
        if typed == "\x03":
            terminal.expect(pexpect.TIMEOUT, timeout=1)  # the command should be running
        if typed:
            terminal.send(typed)
        got = terminal.expect([wanted, pexpect.EOF, pexpect.TIMEOUT])
        if got:
            yield f"{what} did not come: {'the VMM ended' if got == 1 else 'time limit'}"
            return
    status = terminal.after
    terminal.expect(pexpect.EOF)
    if status != "status=0":
        yield f"the VMM ended with {status}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    boot.add_arguments(parser)
    parser.add_argument("--limit", type=float, default=90, help="seconds for each step")
    args = parser.parse_args()
    template = boot.template(args)

    with tempfile.TemporaryDirectory(prefix="bedplate-console-") as tmp:
        disk = os.path.join(tmp, "disk.img")
        subprocess.run([os.path.join(boot.ROOT, "tools/guest/make-disk.sh"), disk], check=True)
        command = shlex.join(boot.command(template, args, disk, "console=ttyS0 quiet"))
        script = f"stty -g; {command}; echo status=$?; stty -g"
        terminal = pexpect.spawn("/bin/sh", ["-c", script], encoding="latin-1", timeout=args.limit,
                                 dimensions=(40, 120))
        with open(os.path.join(tmp, "log"), "w+", encoding="latin-1", newline="") as log:
            terminal.logfile_read = log
            wrong = list(talk(terminal))
            terminal.close(force=True)
            log.seek(0)
            text = log.read()

    settings = re.findall(r"^[0-9a-f:]{40,}\r?$", text, re.MULTILINE)
    if not wrong and (len(settings) != 2 or len(set(settings)) != 1):
        wrong.append(f"the terminal was not given back as it was: {settings}")
    boot.end(wrong, text)


if __name__ == "__main__":
    main()
