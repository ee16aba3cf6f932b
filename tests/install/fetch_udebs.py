#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Downloads components of a release's installer, for install.py --udeb with that of another one:

    fetch_udebs.py RELEASE FOLDER NAME...

Components that are scripts fit the installer of the release before; of those that are not, the C library that they need
must be one which that installer has.
"""
import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import mirror  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", help="the URI of a mirror of Debian (what this host's apt uses)")
    parser.add_argument("release")
    parser.add_argument("folder")
    parser.add_argument("names", nargs="+", metavar="NAME")
    args = parser.parse_args()
    uri = args.mirror or mirror.of_this_host()
    if not uri:
        sys.exit("apt knows no source of Debian; name one with --mirror")
    os.makedirs(args.folder, exist_ok=True)
    try:
        for path in sorted(mirror.download(uri, args.release, "main/debian-installer", args.names, args.folder)):
            print(path)
    except mirror.Missing as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
