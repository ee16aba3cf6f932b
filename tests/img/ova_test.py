#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""OVA archives: good ones are described, checked and converted, hostile ones are refused in a sentence."""
import argparse
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile

from img_test import cpu_seconds

MIB = 1 << 20
SIZE = 6 * MIB
OVF = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
 <References>{files}</References>
 <DiskSection><Info>disks</Info>{disks}</DiskSection>
 <VirtualSystem ovf:id="vm"><Info>a VM</Info><Name>appliance &amp; more</Name>
  <OperatingSystemSection ovf:id="94"><Info/><Description>Debian</Description></OperatingSystemSection>
  <VirtualHardwareSection><Info/>
   <Item><rasd:ElementName>2 CPUs</rasd:ElementName><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
   <Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ElementName>memory</rasd:ElementName><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>512</rasd:VirtualQuantity></Item>
   <Item><rasd:ElementName>net</rasd:ElementName><rasd:ResourceSubType>E1000</rasd:ResourceSubType><rasd:ResourceType>10</rasd:ResourceType><rasd:Connection>NAT</rasd:Connection></Item>
  </VirtualHardwareSection>
 </VirtualSystem>
</Envelope>
"""
VMDK_URI = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"


def file_line(number, name, more=""):
    return f'<File ovf:id="f{number}" ovf:href="{name}" {more}/>'


def disk_line(number, capacity=SIZE, unit="byte", uri=VMDK_URI):
    return (f'<Disk ovf:diskId="d{number}" ovf:fileRef="f{number}" ovf:capacity="{capacity}" '
            f'ovf:capacityAllocationUnits="{unit}" ovf:format="{uri}"/>')


def ovf(files, disks):
    return OVF.format(files="".join(files), disks="".join(disks)).encode()


def pack(path, members, form=tarfile.USTAR_FORMAT):
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            else:
                info.type, info.linkname = data
                tar.addfile(info)


class Failed(Exception):
    pass


class Test:
    def __init__(self, binary, folder, seed):
        self.binary, self.dir, self.random = binary, folder, random.Random(seed)
        with open(self.path("disk.raw"), "wb") as f:
            f.truncate(SIZE)
            f.seek(MIB)
            f.write(self.random.randbytes(2 * MIB) + b"text " * 100000)
        self.ours("convert", "-q", "-O", "vmdk", "-o", "subformat=streamOptimized", self.path("disk.raw"), self.path("disk.vmdk"))
        with open(self.path("disk.vmdk"), "rb") as f:
            self.vmdk = f.read()

    def path(self, name):
        return os.path.join(self.dir, name)

    def ours(self, *args, status=(0,)):
        # Time and memory are bounded, whatever is in the archive.
        done = subprocess.run(["prlimit", "--as=2000000000", self.binary, *args], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=200, check=False,
                              env={**os.environ, "TMPDIR": self.dir})
        if done.returncode not in status:
            raise Failed(f"{' '.join(args)}: status {done.returncode}: {done.stdout[-300:]}")
        return done.stdout

    def converts(self, name, *flags):
        target = self.path("out.qcow2")
        self.ours("convert", "-q", *flags, self.path(name), "-O", "qcow2", target)
        self.ours("compare", "-q", target, self.path("disk.raw"))
        if shutil.which("qemu-img"):
            subprocess.run(["qemu-img", "compare", "-q", target, self.path("disk.raw")], check=True)
        os.unlink(target)

    def refused(self, name, want, *command):
        said = self.ours(*(command or ("info",)), self.path(name), status=(1,))
        if want not in said or len(said.strip().splitlines()) != 1:
            raise Failed(f"{name}: said {said!r}, which lacks {want!r} or is more than a line")


def good(t):
    one = ovf([file_line(1, "disk.vmdk")], [disk_line(1, 6, "byte * 2^20")])
    digest = f"SHA256(a.ovf)= {hashlib.sha256(one).hexdigest()}\nSHA256(disk.vmdk)= {hashlib.sha256(t.vmdk).hexdigest()}\n"
    members = [("a.ovf", one), ("a.mf", digest.encode()), ("disk.vmdk", t.vmdk)]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        pack(t.path("a.ova"), members, form)
        t.converts("a.ova")
        t.ours("check", "-q", t.path("a.ova"))
    info = json.loads(t.ours("info", "--json", t.path("a.ova")))
    have = (info["name"], info["os"], info["cpus"], info["memory"], len(info["disks"]), info["disks"][0]["capacity"],
            info["disks"][0]["file-size"], [x["subtype"] for x in info["hardware"]])
    if have != ("appliance & more", "Debian", 2, 512 * MIB, 1, SIZE, len(t.vmdk), ["", "", "E1000"]):
        raise Failed(f"info says {have}")
    long_name = "d" * 180 + ".vmdk"  # GNU and pax put a header more in front of it
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        pack(t.path("a.ova"), [("a.ovf", ovf([file_line(1, long_name)], [disk_line(1)])), (long_name, t.vmdk)], form)
        t.converts("a.ova")
    damaged = bytearray(t.vmdk)
    damaged[-3000] ^= 1
    pack(t.path("a.ova"), members[:2] + [("disk.vmdk", bytes(damaged))])
    if "disk.vmdk differs" not in t.ours("check", t.path("a.ova"), status=(2,)):
        raise Failed("a damaged member was not found")


def several(t):
    with open(t.path("disk.raw"), "rb") as f:
        raw = f.read()
    packed = gzip.compress(t.vmdk)
    text = ovf([file_line(1, "disk.vmdk"), file_line(2, "b.vmdk.gz", 'ovf:compression="gzip"'), file_line(3, "c.img")],
               [disk_line(1), disk_line(2), disk_line(3, uri="raw")])
    pack(t.path("m.ova"), [("m.ovf", text), ("disk.vmdk", t.vmdk), ("b.vmdk.gz", packed), ("c.img", raw)])
    for which in ("1", "d2", "c.img"):
        t.converts("m.ova", "--disk", which)
    t.refused("m.ova", "has 3 disks; say which with --disk: d1, d2, d3", "map")
    t.refused("m.ova", "no disk d4", "map", "--disk", "d4")


def hostile(t):
    one = ovf([file_line(1, "disk.vmdk")], [disk_line(1)])
    disk = ("disk.vmdk", t.vmdk)
    cases = [
        ("escape", [("a.ovf", one), ("../disk.vmdk", t.vmdk)], "name is a path"),
        ("absolute", [("a.ovf", one), ("/etc/passwd", b"x")], "name is a path"),
        ("link", [("a.ovf", one), ("disk.vmdk", (tarfile.SYMTYPE, "/etc/shadow"))], "is no file"),
        ("hard", [("a.ovf", one), ("x.vmdk", t.vmdk), ("disk.vmdk", (tarfile.LNKTYPE, "x.vmdk"))], "is no file"),
        ("device", [("a.ovf", one), ("disk.vmdk", (tarfile.CHRTYPE, ""))], "is no file"),
        ("twice", [("a.ovf", one), disk, disk], "has two members"),
        ("many", [("a.ovf", one)] + [(f"f{i}", b"") for i in range(300)], "more than 256 members"),
        ("gone", [("a.ovf", one)], "which is not in it"),
        ("href", [("a.ovf", ovf([file_line(1, "../../etc/passwd")], [disk_line(1)])), disk], "no plain name"),
        ("url", [("a.ovf", ovf([file_line(1, "http://example.com/x")], [disk_line(1)])), disk], "no plain name"),
        ("doctype", [("a.ovf", b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'), disk], "document type"),
        ("laughs", [("a.ovf", b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "' + b"ha" * 1000 + b'">]><l>&a;</l>'), disk], "document type"),
        ("xml", [("a.ovf", b"<Envelope><a></Envelope>"), disk], "no well-formed XML"),
        ("deep", [("a.ovf", b"<a>" * 100000), disk], "no well-formed XML"),
        ("other", [("a.ovf", b"<html/>"), disk], "no OVF envelope"),
        ("huge", [("a.ovf", ovf([file_line(1, "disk.vmdk")], [disk_line(1, 1 << 62, "byte * 2^40")])), disk], "makes no sense"),
        ("large", [("a.ovf", b" " * (5 << 20)), disk], "more than 4194304"),
        ("disks", [("a.ovf", ovf([file_line(1, "disk.vmdk")], [disk_line(1)] * 65)), disk], "more than 64 disks"),
        ("noref", [("a.ovf", ovf([], [disk_line(1)])), disk], "does not list"),
    ]
    for name, members, want in cases:
        pack(t.path(name + ".ova"), members)
        t.refused(name + ".ova", want, "info", "-f", "ova")
    bomb = gzip.compress(bytes(300 * MIB))
    pack(t.path("bomb.ova"), [("a.ovf", ovf([file_line(1, "b", 'ovf:compression="gzip"')], [disk_line(1, uri="raw")])), ("b", bomb)])
    start = cpu_seconds()
    t.refused("bomb.ova", "larger than its description allows", "map")
    if cpu_seconds() - start > 20:
        raise Failed("a bomb took more than 20 s of a CPU")
    small = ovf([file_line(1, "disk.vmdk")], [disk_line(1, SIZE * 2)])
    pack(t.path("small.ova"), [("a.ovf", small), disk])
    t.refused("small.ova", "smaller than its description says", "map")
    pack(t.path("cut.ova"), [("a.ovf", one), disk])
    os.truncate(t.path("cut.ova"), len(t.vmdk) // 2)
    t.refused("cut.ova", "cut off")
    # A descriptor in an OVA may not reach for files outside of it.
    text = b'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 8 FLAT "passwd" 0\n'
    pack(t.path("reach.ova"), [("a.ovf", ovf([file_line(1, "d.vmdk")], [disk_line(1, 4096)])), ("d.vmdk", text)])
    t.refused("reach.ova", "may name no further file", "map")
    with open(t.path("no.ova"), "wb") as f:
        f.write(b"\x1f\x8b" + bytes(2000))
    t.refused("no.ova", "is no", "info", "-f", "ova")
    said = t.ours("resize", t.path("small.ova"), "1G", status=(1,))
    if "can only be read" not in said:
        raise Failed(said)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", help="write small archives into this folder, for the fuzzer")
    args = parser.parse_args()
    if args.corpus:
        one = ovf([file_line(1, "c.img")], [disk_line(1, 4096, uri="raw")])
        pack(os.path.join(args.corpus, "raw"), [("a.ovf", one), ("a.mf", b"SHA1(c.img)= 00\n"), ("c.img", bytes(range(256)) * 16)])
        text = ovf([file_line(1, "b", 'ovf:compression="gzip"')], [disk_line(1, 4096, uri="raw")])
        pack(os.path.join(args.corpus, "gzip"), [("a.ovf", text), ("b", gzip.compress(bytes(4096)))])
        pack(os.path.join(args.corpus, "pax"), [("a.ovf", one), ("c.img", b"x" * 4096), ("n" * 150, b"y")], tarfile.PAX_FORMAT)
        return 0
    bad = 0
    for case in (good, several, hostile):
        with tempfile.TemporaryDirectory(prefix="ova-test-") as folder:
            try:
                case(Test(args.binary, folder, args.seed))
                result = "ok"
            except (Failed, subprocess.SubprocessError) as e:
                result, bad = f"FAILED {e}", bad + 1
        print(f"{case.__name__:16} {result}", flush=True)
    print(f"{bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
