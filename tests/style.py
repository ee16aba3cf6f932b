#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""House rules that a machine can check:  style.py includes|licence|format|self

includes: the rooms of src/ include only what the table below allows.
licence:  every source carries the SPDX line.
format:   clang-format would change nothing.
self:     the first two notice what they are for.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# room: what it may include besides itself. "a/b" names one part of a room, "a/b.h" one header.
ROOMS = {
    "base": [],
    "api": ["base"],
    "machine": ["base"],
    "engine": ["base", "machine"],
    "engine/kvm": ["base", "machine", "engine"],
    "engine/soft": ["base", "machine", "engine"],
    "block": ["base"],
    "net": ["base"],
    "devices": ["base", "machine", "block", "net"],
    "board": ["base", "machine", "devices", "engine/x86.h"],
    "display": ["base", "devices"],
    "migrate": ["base", "machine", "engine/x86.h"],
    "jail": ["base"],
    "vmm": ["base", "machine", "engine", "engine/kvm", "engine/soft", "block", "net", "devices",
            "board", "display", "migrate", "jail/jail.h"],
    "img": ["base", "block"],
    "daemon": ["base", "api"],
    "cli": ["base", "api"],
}
INCLUDE = re.compile(r'\s*#\s*include\s*"([^"]+)"')
SOURCES = (".c", ".h", ".S", ".inc", ".py", ".sh")
SPDX = "SPDX-License-Identifier: GPL-2.0-or-later"


def files(top, folders):
    for folder in folders:
        for where, below, names in os.walk(os.path.join(top, folder)):
            below[:] = [name for name in below if name not in ("corpus", "golden", "__pycache__")]
            for name in sorted(names):
                yield os.path.relpath(os.path.join(where, name), top)


def room_of(path):
    """The room of a path under src/: its first two folders when the table knows them."""
    parts = path.split("/")
    two = "/".join(parts[:2])
    return two if two in ROOMS else parts[0]


def includes(top):
    for path in files(top, ["src"]):
        if not path.endswith((".c", ".h", ".inc")):
            continue
        room = room_of(path[len("src/"):])
        if room not in ROOMS:
            yield f"{path}: no room of the table"
            continue
        with open(os.path.join(top, path), encoding="utf-8") as source:
            for number, line in enumerate(source, 1):
                match = INCLUDE.match(line)
                if not match:
                    continue
                wanted = match[1]
                other = room_of(wanted)
                if "/" not in wanted or other not in ROOMS:
                    yield f'{path}:{number}: "{wanted}" is no path from src/'
                elif other != room and other not in ROOMS[room] and wanted not in ROOMS[room]:
                    yield f"{path}:{number}: {room}/ may not include {wanted}"


def licence(top):
    for path in files(top, ["src", "tests", "tools", "bench", ".ci"]):
        try:
            with open(os.path.join(top, path), encoding="utf-8") as source:
                head = [source.readline() for _ in range(3)]
        except UnicodeDecodeError:
            continue
        if (path.endswith(SOURCES) or head[0].startswith("#!")) and SPDX not in "".join(head):
            yield f"{path}: no SPDX line"


def layout(top):
    sources = [path for path in files(top, ["src", "tests", "bench"]) if path.endswith((".c", ".h"))]
    done = subprocess.run(["clang-format", "--dry-run", "-Werror"] + sources, cwd=top, text=True,
                          stderr=subprocess.PIPE)
    wrong = {line.split(":")[0] for line in done.stderr.splitlines() if ": error:" in line}
    for path in sorted(wrong):
        yield f"{path}: run clang-format (make format)"
    if done.returncode != 0 and not wrong:
        yield done.stderr.strip()


def self_check():
    with tempfile.TemporaryDirectory() as top:
        def write(path, text):
            os.makedirs(os.path.dirname(os.path.join(top, path)), exist_ok=True)
            with open(os.path.join(top, path), "w", encoding="utf-8") as out:
                out.write(text)

        spdx = f"/* {SPDX} */\n"
        write("src/block/good.c", spdx + '#include "base/err.h"\n#include "block/x.h"\n#include <err.h>\n')
        write("src/board/good.c", spdx + '#include "engine/x86.h"\n#include "devices/virtio/blk.h"\n')
        if list(includes(top)) or list(licence(top)):
            yield "complains of good files"
        bad = {"src/block/a.c": '#include "machine/ram.h"', "src/engine/soft/a.c": '#include "engine/kvm/a.h"',
               "src/board/a.c": '#include "engine/engine.h"', "src/devices/a.c": '  # include "vmm/a.h"',
               "src/net/a.c": '#include "net.h"', "src/attic/a.c": ""}
        for path, text in bad.items():
            write(path, text + "\n")
        seen = [line.split(":")[0] for line in includes(top)]
        yield from (f"includes: missed {path}" for path in bad if path not in seen)
        seen = [line.split(":")[0] for line in licence(top)]
        yield from (f"licence: missed {path}" for path in bad if path not in seen)


CHECKS = {"includes": includes, "licence": licence, "format": layout,
          "self": lambda top: self_check()}


def main():
    if len(sys.argv) != 2 or sys.argv[1] not in CHECKS:
        sys.exit(__doc__)
    if sys.argv[1] == "format" and not shutil.which("clang-format"):
        print("skip: clang-format is not installed")
        sys.exit(77)
    wrong = list(CHECKS[sys.argv[1]](ROOT))
    print("\n".join(wrong))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
