#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`make install` into an empty folder: what lies there runs a VM with network and has its man page."""
import argparse
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", required=True, help="the build folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bedplate-install-") as folder:
        subprocess.run(["meson", "install", "-C", args.build, "--no-rebuild", "--destdir", folder], check=True,
                       stdout=subprocess.DEVNULL)
        files = {name: os.path.join(path, name) for path, _, names in os.walk(folder) for name in names}
        print("\n".join(sorted(path[len(folder):] for path in files.values())))
        for name in ("bedplate-vmm", "bedplate-net", "bedplate-nbd", "bedplate-img", "bedplate-vmm.1"):
            if name not in files:
                sys.exit(f"{name} is not installed")
        strange = [name for name in files if name.endswith((".a", ".h")) or "test" in name or "fuzz" in name]
        if strange:
            sys.exit(f"what nobody needs is installed, too: {strange}")
        os.environ.pop("BEDPLATE_LIBEXEC", None)
        done = subprocess.run([sys.executable, os.path.join(ROOT, "tests/boot/boot.py"), "--binary", files["bedplate-vmm"]])
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
