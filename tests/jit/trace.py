#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The trace of executed blocks and the map for perf: trace.py GUESTS_RUN GUEST"""
import os
import re
import subprocess
import sys
import tempfile

START = 0x1040  # where every guest begins

with tempfile.TemporaryDirectory() as folder:
    trace = os.path.join(folder, "trace")
    run = subprocess.Popen([sys.argv[1], "--engine", f"soft,hot=2,perf=on,trace={trace}", sys.argv[2]])
    status = run.wait()
    perf = f"/tmp/perf-{run.pid}.map"
    with open(trace, encoding="ascii") as f:
        blocks = f.read().splitlines()
    with open(perf, encoding="ascii") as f:
        symbols = f.read().splitlines()
    os.unlink(perf)

runs = [re.fullmatch(r"0 (0x[0-9a-f]+) 0x[0-9a-f]+ ([TI])", line) for line in blocks]
runs = [(int(m[1], 16), m[2]) for m in runs if m]
translated = {rip for rip, how in runs if how == "T"}
mapped = {int(re.fullmatch(r"[0-9a-f]+ [0-9a-f]+ guest:([0-9a-f]+)", line)[1], 16) for line in symbols}
listed = [line for line in blocks if line.startswith("  ")]

checks = {
    "the guest passed": status == 0,
    "the first block is where the guest starts": runs and runs[0][0] == START,
    "some blocks run interpreted, some translated": {how for _, how in runs} == {"T", "I"},
    "what ran translated is in perf's map": translated and translated <= mapped,
    "instructions are listed": all(re.fullmatch(r"  0x[0-9a-f]+ [0-9a-f]+ \S.*", x) for x in listed) and listed,
}
for name, fine in checks.items():
    print("ok  " if fine else "FAIL", name)
sys.exit(0 if all(checks.values()) else 1)
