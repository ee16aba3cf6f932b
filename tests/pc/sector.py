#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A boot sector under seabios looks at address line 20 and the loudspeaker (sector.S)."""
import argparse
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "vmm"))
import vmm_test  # noqa: E402

WANT = "ABCDEST."


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--sector", required=True)
    vmm_test.ARGS = args = parser.parse_args()
    if not os.path.exists("/usr/share/seabios/bios-256k.bin"):
        vmm_test.skip("the package seabios is not installed")
    with tempfile.TemporaryDirectory() as folder:
        image = os.path.join(folder, "disk")
        with open(args.sector, "rb") as sector, open(image, "wb") as file:
            file.write(sector.read())
            file.truncate(1 << 20)
        for engine in ("soft", "soft,jit=off", "soft,hot=0"):
            with vmm_test.Vm("--firmware", "bios", "--memory", "16M", "--disk",
                             f"{image},format=raw,bus=ide", boots=False, engine=engine) as vm:
                vm.expect(WANT, 60)
                print(f"{engine}: {WANT}")


if __name__ == "__main__":
    main()
