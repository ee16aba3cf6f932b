#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest kit of bench/ from end to end, each workload briefly: none may fail; skips are printed.

The workloads check their own results: memory, floating point, code that writes code, processes, threads, the disk.
And from the start of the process to the init's first line it takes at most 15 times as long as QEMU's software CPU does.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def bench(args, *words):
    """The runs of each target."""
    with tempfile.TemporaryDirectory(prefix="bedplate-kit-") as folder:
        done = subprocess.run([os.path.join(ROOT, "bench/run"), args.build, "--repeats", "1", "--smp", args.smp, "--out", folder,
                               *words])
        if done.returncode:
            sys.exit(f"bench/run ended with status {done.returncode}")
        with open(os.path.join(folder, "results.json")) as file:
            return json.load(file)["runs"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", required=True, help="the build folder")
    parser.add_argument("--smp", default="1")
    args = parser.parse_args()
    run = bench(args, "--only", "bedplate", "--secs", "0.3")["bedplate"][0]
    failed = [f"{name}: {why}" for name, why in run["bad"].items() if why != "skip"]
    if len(run["values"]) < 35:
        failed.append(f"only {len(run['values'])} values came")
    if shutil.which("qemu-system-x86_64"):
        runs = bench(args, "--only", "bedplate,tcg", "--boot-only")
        ours, theirs = (runs[name][0]["values"]["boot_wall"] for name in ("bedplate", "tcg"))
        print(f"to the init's first line: {ours:.1f} s, QEMU {theirs:.1f} s")
        if ours > 15 * theirs:
            failed.append("the boot is too slow")
    print("\n".join(f"FAIL {line}" for line in failed) or "good")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
