#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian installs itself onto a disk, unattended, and is then started from it:  install.py --firmware bios|uefi

The installer's CD is put into the drive, its boot menu is told by keys where the answers are (preseed.cfg), and the
installer does the rest: its own components and all packages come through a small server of this script, which passes on
what the mirror has that this host's apt uses. The stages of the installer are printed as they come. Afterwards the disk
is started without the CD; its console must show a login on the screen and let root in by keys.
"""
import argparse
import glob
import os
import re
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
sys.path[:0] = [HERE, *(os.path.join(TESTS, name) for name in ("vmm", "display"))]
import cd  # noqa: E402
import components  # noqa: E402
import glyphs  # noqa: E402
import mirror  # noqa: E402
import screen  # noqa: E402
import vmm_test  # noqa: E402

ROOT = os.path.dirname(TESTS)
PASSWORD = "bedplate"
RELEASES = {"bookworm": "12", "trixie": "13"}
# Which of the installer's components an installation like this one needs.
WANTED = """apt-mirror-setup apt-setup-udeb base-installer bootstrap-base clock-setup finish-install grub-installer
nobootloader partman-auto partman-auto-lvm partman-auto-crypto partman-ext3 partman-basicfilesystems partman-basicmethods
partman-efi partman-partitioning partman-target partman-utils pkgsel tzsetup-udeb user-setup-udeb disk-detect save-logs""".split()


class Failed(Exception):
    pass


class Lacking(Exception):
    """The mirror does not have what its index names."""


class Machine:
    """A VM with a screen, whose serial port goes to a file."""

    def __init__(self, args, folder, *words):
        self.log_path, control = os.path.join(folder, "serial"), os.path.join(folder, "control")
        command = [args.binary, "--engine", args.engine, "--memory", f"{args.memory}M", "--cpus", str(args.cpus), "--firmware",
                   args.firmware, "--disk", args.disk, "--net", "user", "--control", "unix:" + control, "--serial", "stdio",
                   "--display", f"vnc=unix:{folder}/vnc", *words]
        if args.firmware == "uefi":
            command += ["--uefi-vars", args.variables]
        self.errors = tempfile.TemporaryFile()
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=self.errors)
        self.client = vmm_test.Client(control)
        self.screen = screen.Screen(self, self.client)

    def running(self):
        return self.process.poll() is None

    def said(self):
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")

    def log(self):
        with open(self.log_path, "rb") as file:
            return file.read().decode("latin-1")

    def ends(self, limit):
        status = self.process.wait(limit)
        if status != vmm_test.POWEROFF:
            raise Failed(f"the VM ended with {status}: {self.said()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.running():
            self.process.kill()
        self.process.wait()


def say(start, text):
    print(f"{time.monotonic() - start:6.0f} s  {text}", flush=True)


# ---- the installation ----


def menu(machine, args, iso, url):
    """Says at the CD's boot menu where the answers are, as the installation guide tells people to."""
    options, seen = f"auto=true priority=critical url={url}", machine.screen
    if args.firmware == "bios":
        seen.settles((640, 480), 120)
        seen.keys("esc")
        seen.shows("boot:")
        seen.type(f"install {options}\n")
        return
    folder = cd.kernel(iso)
    seen.wait("GRUB", lambda: "Welcome to GRUB" in machine.log(), 240)
    time.sleep(5)  # the picture that the firmware leaves has the same size
    seen.settles((800, 600))
    menu_picture = seen.picture()
    seen.keys("c")
    seen.wait("command line", lambda: seen.picture() != menu_picture, 60)
    for line in (f"linux {folder}/linux {options} --- quiet", f"initrd {folder}/initrd.gz", "boot"):
        time.sleep(1)
        seen.type(line + "\n")


def stages(log):
    """What the installer has said that people want to know."""
    for line in log.splitlines():
        if found := re.search(r"main-menu\[\d+\]: INFO: Menu item '([^']+)' selected", line):
            yield found[1]
        elif found := re.search(r"base-installer: info: (.*)", line):
            yield "    " + found[1]
        elif found := re.search(r"in-target: (Setting up linux-image\S+)", line):
            yield "    " + found[1]


def follow(machine, args, server, start):
    """Tells what the installer is at until it powers the machine off."""
    told, moved, spoke, size = 0, time.monotonic(), time.monotonic(), 0
    while machine.running():
        log = machine.log()
        known, now = list(stages(log)), time.monotonic()
        for stage in known[told:]:
            say(start, stage)
        told = len(known)
        if now - spoke > 60:
            say(start, f"    {server.files} files, {server.bytes >> 20} MiB")
            spoke = now
        moved, size = (now if len(log) != size else moved), len(log)
        lacks = "".join(f"the mirror does not have {path}; " for path in server.refused)
        if lacks and "package retrieval failed" in log:
            raise Lacking(lacks + "build-udebs.sh and build-kernel-udebs.sh build components for --udeb")
        if now - moved > args.patience:
            raise Failed(f"nothing has happened for {args.patience:.0f} s; {lacks}the log ends with\n" +
                         "\n".join(log.splitlines()[-10:]))
        time.sleep(1)
    machine.ends(0)
    if "finish-install" not in known:
        raise Failed("the installer did not finish; the log ends with\n" + "\n".join(log.splitlines()[-10:]))


def install(args, folder, iso, server, start):
    with Machine(args, folder, "--cdrom", iso, "--boot", "order=cd") as machine:
        try:
            menu(machine, args, iso, f"http://10.0.2.2:{server.port}/preseed.cfg")
            say(start, "the boot menu has been answered")
            follow(machine, args, server, start)
        finally:
            if machine.running():
                with open(args.picture, "wb") as file:
                    file.write(machine.screen.png())
                print(f"the screen is in {args.picture}", flush=True)
            if args.log:
                with open(args.log, "w", encoding="latin-1") as file:
                    file.write(machine.log())


# ---- the installed system ----


def started(args, folder, start):
    with Machine(args, folder) as machine:
        seen = machine.screen
        seen.shows(r"\w+ login:", 600)  # the name comes with the address
        say(start, "the screen shows the login")
        with open(args.picture, "wb") as file:
            file.write(seen.png())
        seen.type("root\n")
        seen.shows("Password:")
        seen.type(PASSWORD + "\n")
        seen.shows(r"root@\w+:~#")
        seen.type("clear; . /etc/os-release; systemctl is-system-running --wait; dpkg --audit && echo $VERSION_CODENAME is whole\n")
        seen.shows(f"{args.release} is whole", 120)
        if not re.search(r"^running$", seen.text(), re.MULTILINE):
            raise Failed(f"something in the installed system has failed:\n{seen.text()}")
        say(start, "root is in, and nothing has failed")
        seen.type("poweroff\n")
        machine.ends(120)


# ---- ----


def preseed(server, udebs, modules):
    """The answers, with the places filled in. Udebs that were given are unpacked before the installer gets its own; it
    configures all when their turn comes."""
    early = "".join(f"; wget -q -O /tmp/{name} http://10.0.2.2:{server.port}/udebs/{name} && udpkg --unpack /tmp/{name}"
                    for name in udebs)
    with open(os.path.join(HERE, "preseed.cfg"), encoding="ascii") as file:
        text = file.read()
    for name, value in (("HOST", f"10.0.2.2:{server.port}"), ("EARLY", early.lstrip("; ")), ("PASSWORD", PASSWORD),
                        ("DISK", "/dev/vda"), ("COMPONENTS", ", ".join(modules))):
        text = text.replace(f"@{name}@", value)
    return text.encode()


def given(args, release):
    """Components that are handed in: by name, and what the folder of the release has."""
    return {components.of_udeb(path)["Package"]: path
            for path in glob.glob(os.path.join(args.udebs, release, "*.udeb")) + args.udeb}


def release_fits(args, folder, server, release):
    """(release, CD, udebs to hand in, components to fetch); Lacking if the mirror has not all of these."""
    os.mkdir(folder)
    package = f"debian-installer-{RELEASES[release]}-netboot-amd64"
    iso = args.installer or mirror.download(server.uri, release, "main", [package], folder)[0]
    if not iso.endswith(".iso"):
        package, iso = iso, os.path.join(folder, "mini.iso")
        cd.make(iso, package, folder)
    udebs = given(args, release)
    known = components.Set(components.index(server, release), cd.status(iso, folder), udebs.values())
    fetched, handed = known.needed(WANTED + [f"scsi-modules-{known.kernel}-di"])  # where the kernel has virtio_blk
    lacks = sorted(name for name, fields in fetched.items() if not server.has("/" + fields["Filename"]))
    if lacks:
        raise Lacking(f"the mirror lacks components of Debian {RELEASES[release]}'s installer: {', '.join(lacks)}")
    return release, iso, {os.path.basename(udebs[name]): udebs[name] for name in handed}, fetched


def choose(args, folder, server):
    """The release to install: what was asked for, or the first that the mirror has everything of."""
    reasons = []
    for release in [args.release] if args.release else RELEASES:
        try:
            return release_fits(args, os.path.join(folder, release), server, release)
        except (Lacking, mirror.Missing) as error:
            reasons.append(str(error))
    raise Lacking("; ".join(reasons))


def go(args, folder):
    start = time.monotonic()
    uri = args.mirror or mirror.of_this_host()
    if not uri:
        vmm_test.skip("apt knows no source of Debian; name one with --mirror")
    server = mirror.Server(uri, args.cache)
    args.release, iso, server.udebs, fetched = choose(args, folder, server)
    say(start, f"installing Debian {RELEASES[args.release]}, {len(server.udebs)} components by hand: "
        f"{' '.join(sorted(server.udebs)) or 'none'}")
    server.pages["/preseed.cfg"] = preseed(server, server.udebs, fetched)
    tool = os.path.join(os.path.dirname(os.path.dirname(args.binary)), "img/bedplate-img")
    subprocess.run([tool, "create", "-f", "qcow2", args.disk, args.size], check=True, stdout=subprocess.DEVNULL)
    install(args, folder, iso, server, start)
    say(start, "installed")
    started(args, folder, start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--firmware", choices=["bios", "uefi"], required=True)
    parser.add_argument("--release", choices=sorted(RELEASES), help="the first that the mirror has all of")
    parser.add_argument("--mirror", help="the URI of a mirror of Debian (what this host's apt uses)")
    parser.add_argument("--installer", metavar="FILE", help="a mini.iso, or a package debian-installer-N-netboot-amd64 "
                        "(the release's newest package)")
    parser.add_argument("--udeb", action="append", default=[], metavar="FILE", help="a component of the installer that the "
                        "mirror does not have")
    parser.add_argument("--udebs", metavar="FOLDER", default=os.path.join(ROOT, ".cache/udebs"), help="such components in a "
                        "folder for each release")
    parser.add_argument("--disk", help="the disk to make, which is kept")
    parser.add_argument("--variables", help="the UEFI variables to make, which are kept")
    parser.add_argument("--size", default="12G", help="of the disk")
    parser.add_argument("--memory", type=int, default=1024, help="MiB")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--binary", default=os.path.join(ROOT, "build/src/vmm/bedplate-vmm"))
    parser.add_argument("--cache", default=os.path.join(ROOT, ".cache/mirror"), help="where packages are kept")
    parser.add_argument("--log", help="where the installer's log goes")
    parser.add_argument("--picture", default="screen.png", help="where the last picture goes")
    parser.add_argument("--patience", type=float, default=600, help="seconds in which the installer must say something")
    args = parser.parse_args()
    lacks = cd.missing() or glyphs.missing()
    if lacks:
        vmm_test.skip(f"{lacks} is not installed")
    try:
        with tempfile.TemporaryDirectory(prefix="bedplate-install-") as folder:
            args.disk = args.disk or os.path.join(folder, "disk.qcow2")
            args.variables = args.variables or os.path.join(folder, "variables.fd")
            go(args, folder)
    except (Lacking, mirror.Missing) as error:
        vmm_test.skip(str(error))
    except (Failed, AssertionError, ValueError) as error:
        print(f"FAIL {error}")
        sys.exit(1)
    print("good")


if __name__ == "__main__":
    main()
