#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The OpenAPI document, by tools that know nothing of us:  openapi.py --build B --guest G

@redocly/cli finds no fault with it, openapi-typescript makes types out of it, and a client that is
compiled with them (client/client.ts) talks to a daemon. The network is needed to install these.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE]
import rig  # noqa: E402
from rig import Daemon  # noqa: E402
from host import check  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--guest", required=True)
    args = parser.parse_args()
    args.build, args.guest = os.path.abspath(args.build), os.path.abspath(args.guest)
    rig.ARGS = args
    if not shutil.which("npm"):
        print("skip: npm is not there; install the package npm")
        sys.exit(77)
    with tempfile.TemporaryDirectory(prefix="bp") as folder:
        def run(*words, **options):
            result = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, timeout=600,
                                    env=dict(os.environ, CI="1", REDOCLY_TELEMETRY="off", NO_UPDATE_NOTIFIER="1"), **options)
            check(result.returncode == 0, f"{' '.join(words)}: {result.stdout}{result.stderr}")
            return result.stdout + result.stderr

        for name in ("package.json", "client.ts"):
            shutil.copy(os.path.join(HERE, "client", name), folder)
        run("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts")
        document = os.path.join(folder, "openapi.json")
        with open(document, "w", encoding="utf-8") as file:
            subprocess.run([os.path.join(args.build, "src/daemon/bedplated"), "--openapi"], stdout=file, check=True)
        said = run("npx", "redocly", "lint", "openapi.json")
        check("valid" in said and "warning" not in said.replace("Deprecation warning", ""), said)
        run("npx", "openapi-typescript", "openapi.json", "-o", "api.d.ts", "--default-non-nullable=false")
        run("npx", "tsc", "--strict", "--target", "es2022", "--module", "nodenext", "--moduleResolution", "nodenext",
            "--noUncheckedIndexedAccess", "--skipLibCheck", "client.ts")
        with Daemon(os.path.join(folder, "d")) as d:
            check("good" in run("node", "client.js", d.socket, args.guest), "the client")


if __name__ == "__main__":
    main()
