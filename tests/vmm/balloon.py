#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that a Linux guest gives back, as the host sees it.

The prepared guest fills memory and frees it; then it is asked to do with less while its page cache is
full; then it is saved, restored, and gets its memory back. Each time the process's own share of
shared memory (where guest memory is) must follow.
"""
import argparse
import os
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(HERE), room) for room in ("boot", "firmware")]
import boot  # noqa: E402
import hotplug  # noqa: E402
from hotplug import MIB, Failed  # noqa: E402

MEMORY = 256


def resident(vm):
    """MiB of guest memory that the process holds."""
    with open(f"/proc/{vm.process.pid}/status") as status:
        for line in status:
            if line.startswith("RssShmem:"):
                return int(line.split()[1]) / 1024
    raise Failed("the host's kernel does not tell RssShmem")


def until(what, true, limit=60):
    end = time.monotonic() + limit
    while not true():
        if time.monotonic() > end:
            raise Failed(f"it never came to this: {what()}")
        time.sleep(0.2)


def falls(vm, below):
    until(lambda: f"{resident(vm):.0f} MiB, less than {below:.0f} wanted", lambda: resident(vm) < below)
    return resident(vm)


def settled(vm):
    """Once the guest has reported what it does not use: it does so every two seconds."""
    now, before = resident(vm), 1 << 30
    while abs(before - now) > 2:
        time.sleep(3)
        before, now = now, resident(vm)
    return now


def expect(condition, what):
    if not condition:
        raise Failed(what)


def balloon(vm, **members):
    return vm.do("balloon", **members)


def talk(args, folder):
    vm = hotplug.start(args, folder)
    try:
        until(lambda: f"no driver: {balloon(vm)}", lambda: balloon(vm)["driver"] and balloon(vm)["stats"])
        report = balloon(vm)
        expect(report["actual"] == report["target"] == MEMORY * MIB, f"a balloon that is not empty: {report}")
        until(lambda: f"old statistics: {balloon(vm)}", lambda: balloon(vm)["stats-age"] < 1)
        expect(0 < report["stats"]["free"] < report["stats"]["total"] < MEMORY * MIB, f"strange statistics: {report}")

        start = settled(vm)
        expect(vm.shell("dd if=/dev/zero of=/tmp/much bs=1M count=100")[1] == 0, "the guest cannot fill its memory")
        full = resident(vm)
        expect(full > start + 70, f"{full:.0f} MiB with 100 MiB in use, {start:.0f} before")
        less = balloon(vm)["stats"]["free"]
        vm.shell("rm /tmp/much")
        freed = falls(vm, full - 70)
        expect(balloon(vm)["reported"] >= 70 * MIB, f"not by reporting: {balloon(vm)}")
        until(lambda: f"the statistics do not follow: {balloon(vm)}", lambda: balloon(vm)["stats"]["free"] > less + 80 * MIB)

        vm.shell("cat /dev/vda >/dev/null")
        cached = resident(vm)
        expect(cached > freed + 40, f"{cached:.0f} MiB with a full page cache, {freed:.0f} before")
        target = 96 * MIB
        balloon(vm, target=target)
        until(lambda: f"{balloon(vm)}", lambda: balloon(vm)["actual"] == target)
        small = falls(vm, cached - 20)

        vm = hotplug.save_and_restore(vm, args, folder, list)
        report = balloon(vm)
        expect(report["actual"] == report["target"] == target, f"the restored balloon: {report}")
        restored = resident(vm)
        expect(restored < small + 10, f"{restored:.0f} MiB after restoring, {small:.0f} before")

        balloon(vm, target=MEMORY * MIB)
        until(lambda: f"{balloon(vm)}", lambda: balloon(vm)["actual"] == MEMORY * MIB)
        command = "dd if=/dev/urandom of=/tmp/a bs=1M count=60 && cp /tmp/a /tmp/b && cmp /tmp/a /tmp/b; rm /tmp/[ab]"
        expect(vm.shell("mount -o remount,size=230m /tmp; " + command)[1] == 0, "the guest cannot use what it got back")
        print(f"MiB on the host: {start:.0f} booted, {full:.0f} filled, {freed:.0f} freed, {cached:.0f} cached, "
              f"{small:.0f} inflated, {restored:.0f} restored")
    except Failed:
        vm.read()
        print("\n".join(vm.text.splitlines()[-25:]))
        raise
    finally:
        vm.process.kill()
        vm.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    boot.add_arguments(parser)
    parser.add_argument("--limit", type=float, default=90, help="seconds for each step")
    args = parser.parse_args()
    args.memory = MEMORY
    boot.template(args)
    with tempfile.TemporaryDirectory(prefix="bedplate-balloon-") as folder:
        try:
            talk(args, folder)
        except Failed as failed:
            sys.exit(f"FAIL {failed}")


if __name__ == "__main__":
    main()
