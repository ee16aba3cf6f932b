#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""UEFI variables: written in the firmware's own shell, and there again after kill -9, a reset, a save and a restore.

Also what is refused: a second VM on the same file, a file of another size, variables for a BIOS.
"""
import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(HERE), "boot")]
import boot  # noqa: E402

SAVED = 8


class Failed(Exception):
    pass


class Shell:
    """A VM at the firmware's shell."""

    def __init__(self, words, limit, prompt=True):
        self.limit, self.text, self.seen = limit, "", 0
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        os.set_blocking(self.process.stdout.fileno(), False)
        if prompt:
            self.wait("any other key to continue")
            self.type("\x1b")
            self.wait("Shell> ")

    def type(self, text):
        for letter in text:  # the serial port's FIFO is small, the firmware slow
            self.process.stdin.write(letter.encode())
            self.process.stdin.flush()
            time.sleep(0.01)

    def wait(self, what):
        end = time.monotonic() + self.limit
        while time.monotonic() < end:
            self.text += (self.process.stdout.read() or b"").decode("latin-1")
            at = self.text.find(what, self.seen)
            if at >= 0:
                said, self.seen = self.text[self.seen:at], at + len(what)
                return said
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise Failed(f"never said: {what!r}; the last was {self.text[-300:]!r}")

    def do(self, command):
        self.type(command + "\r")
        return re.sub(r"\x1b\[[0-9;=]*[A-Za-z]", "", self.wait("Shell> "))

    def end(self, sig):
        self.process.send_signal(sig)
        return self.process.wait(self.limit)


def has(shell, name, value):
    value = bytes.fromhex(value)[::-1].hex()  # the shell takes a number and shows its bytes
    said = shell.do(f"setvar {name} -guid 0d5c2f1e-8c4b-4a55-9b1e-7f1d3a2b4c6d")
    if value.upper() not in re.sub(r"[^0-9A-F]", "", said.upper().replace(name.upper(), "")):
        raise Failed(f"{name} is not {value}: {said!r}")


def refused(words, sentence):
    run = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    if run.returncode == 0 or sentence not in run.stderr:
        raise Failed(f"not refused with {sentence!r}: {run.stderr!r}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    boot.add_arguments(parser)
    parser.add_argument("--limit", type=float, default=180)
    args = parser.parse_args()
    if not os.path.exists("/usr/share/OVMF/OVMF_CODE_4M.fd"):
        boot.skip("the package ovmf is not installed")
    shell = None
    try:
        with tempfile.TemporaryDirectory(prefix="bedplate-variables-") as folder:
            variables, saved = os.path.join(folder, "vars.fd"), os.path.join(folder, "saved")
            words = [args.binary, "--engine", args.engine, "--memory", "128M", "--serial", "stdio", "--firmware", "uefi",
                     "--uefi-vars", variables]
            shell = Shell(words, args.limit)
            shell.do("setvar Kept -guid 0d5c2f1e-8c4b-4a55-9b1e-7f1d3a2b4c6d -nv -bs -rt =0x11223344")
            refused(words, "in use by another VM")
            shell.end(signal.SIGKILL)

            shell = Shell(words + ["--save", saved], args.limit)
            has(shell, "Kept", "11223344")
            shell.do("setvar Kept -guid 0d5c2f1e-8c4b-4a55-9b1e-7f1d3a2b4c6d -nv -bs -rt =0x55667788")
            shell.type("reset\r")
            shell.wait("any other key to continue")
            shell.type("\x1b")
            shell.wait("Shell> ")
            has(shell, "Kept", "55667788")
            if shell.end(signal.SIGUSR1) != SAVED:
                raise Failed("it was not saved")

            with open(variables, "r+b") as file:  # the saved VM has its own
                file.write(b"\0" * 4096)
            shell = Shell([args.binary, "--engine", args.engine, "--restore", saved, "--serial", "stdio", "--uefi-vars",
                           variables], args.limit, prompt=False)
            shell.type("\r")
            shell.wait("Shell> ")
            has(shell, "Kept", "55667788")
            shell.do("setvar More -guid 0d5c2f1e-8c4b-4a55-9b1e-7f1d3a2b4c6d -nv -bs -rt =0x0A0B0C0D")
            shell.end(signal.SIGKILL)

            shell = Shell(words, args.limit)
            has(shell, "Kept", "55667788")
            has(shell, "More", "0A0B0C0D")
            shell.end(signal.SIGTERM)

            with open(variables, "ab") as file:
                file.write(b"x" * 4096)
            refused(words, "bytes, the variables of this firmware")
            refused(words[:-4] + ["--firmware", "bios", "--uefi-vars", variables], "keeps no variables")
            refused(words[:-4] + ["--firmware", __file__], "is no firmware image")
            refused(words[:-4] + ["--firmware", folder + "/none"], "cannot open")
    except Failed as error:
        print(f"FAIL {error}")
        sys.exit(1)
    finally:
        if shell and shell.process.poll() is None:
            shell.process.kill()
    print("good")


if __name__ == "__main__":
    main()
