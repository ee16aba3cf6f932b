#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Real KVM without VT-x: QEMU's software CPU with AMD's SVM runs a stock Debian kernel with kvm_amd,
and in it bedplate-vmm --engine kvm boots the same stock kernel in test mode.

The outer guest is an initramfs made here: busybox, the KVM modules of the guest's kernel package,
bedplate-vmm and bedplate-net with their libraries, unit tests of the engine, the inner kernel,
initrd and disk; with --firmware both firmwares' files and a disk with GRUB, too. Its lines "NESTED name ok|FAIL why" and the inner guest's BP-TEST lines decide.
"""
import argparse
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [os.path.join(ROOT, "tests/boot"), os.path.join(ROOT, "tests/firmware")]
import boot  # noqa: E402
import disk  # noqa: E402

MODULES = ("kernel/virt/lib/irqbypass.ko", "kernel/arch/x86/kvm/kvm.ko",
           "kernel/arch/x86/kvm/kvm-amd.ko")

# What QEMU's software CPU itself does otherwise than a CPU, so that it says nothing about us: no #GP
# for upper halves of CR0 and for MXCSR's reserved bits, #GP for #SS, other error codes of INT n and of
# reserved bits, no segment limits, no breakpoints in nested guests, code that changes the next
# instruction or that of another CPU.
INEXACT = {"exceptions", "need_exact", "need_debug", "debug_regs", "fpu_state", "msr_cpuid", "paging64",
           "paging32", "segments32", "smc", "smp_code_change", "user"}
# Two emulators deep, code that rewrites itself millions of times does not end in time.
TOO_SLOW = {"smc_hot"}

FIRMWARE = ["/usr/share/seabios/bios-256k.bin", "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"]
GRUB = """serial --unit=0 --speed=115200
terminal_output serial
echo "GRUB reads its disk"
halt
"""

INIT = r"""#!/bin/busybox sh
export PATH=/bin:/sbin LD_LIBRARY_PATH=/lib
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/shm /tmp /run
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
ip link set lo up
for module in irqbypass kvm kvm-amd; do insmod /modules/$module.ko; done
dmesg -n 1

result()
{
    if [ "$2" = 0 ]; then echo "NESTED $1 ok"; else echo "NESTED $1 FAIL status $2"; fi
}
argument() { tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p" | tail -n 1; }

[ -c /dev/kvm ] || echo "NESTED kvm FAIL no /dev/kvm"
# The software CPU loads a nested guest's debug registers without arming them.
export BEDPLATE_TEST_NO_BREAKPOINTS=1
for test in /tests/*; do
    [ -e "$test" ] || continue
    timeout 240 "$test"
    result "$(basename "$test")" $?
done
if [ -e /bin/guests_run ]; then
    timeout 240 /bin/guests_run --engine kvm /guests/*.bin
    result guests $?
fi
if [ -e /bin/moves_run ]; then
    timeout 240 /bin/moves_run bounce soft kvm /moves/bounce.bin
    result moves_bounce $?
    for engine in kvm kvm,dirty-log=ring; do
        timeout 120 /bin/moves_run copy $engine /moves/writers.bin
        result moves_copy $?
    done
fi
httpd -p 127.0.0.1:8000 -h /www
boot()
{
    cp /guest/disk.img /tmp/disk.img
    timeout 300 /bin/bedplate-vmm --engine kvm $(argument nested.options | tr , ' ') --cpus $cpus \
        --memory 256M --kernel /guest/vmlinuz --initrd /guest/initrd.cpio \
        --disk /tmp/disk.img,format=raw --net user --serial stdio --cmdline "console=ttyS0 \
$(argument nested.append | tr , ' ') \
bp.test=cpus,clock,disk,net bp.cpus=$cpus bp.date=$(date +%s) bp.url=http://10.0.2.2:8000/file \
bp.sha256=$(sha256sum </www/file | cut -d' ' -f1)" "$@" </dev/null
}
for cpus in $(argument nested.cpus | tr , ' '); do
    echo "NESTED boots with $cpus CPUs"
    boot
    result boot_${cpus}cpu $?

    # The same, saved in the middle of its boot and restored in another process.
    echo "NESTED boots with $cpus CPUs, saved and restored"
    boot --save /tmp/state >/tmp/console &
    for i in $(seq 600); do
        grep -q "Run /init" /tmp/console && break
        sleep 0.1
    done
    kill -USR1 $(pidof bedplate-vmm)
    wait $!
    [ $? = 8 ] # what bedplate-vmm ends with after a save
    result save_${cpus}cpu $?
    cat /tmp/console
    timeout 300 /bin/bedplate-vmm --engine kvm --cpus $cpus --memory 256M --restore /tmp/state \
        --disk /tmp/disk.img,format=raw --net user --serial stdio </dev/null
    result restore_${cpus}cpu $?
    rm -f /tmp/state
done
for firmware in $(argument nested.firmware | tr , ' '); do
    timeout 300 /bin/bedplate-vmm --engine kvm --firmware $firmware --memory 128M --disk /guest/grub.img,format=raw \
        --serial stdio </dev/null
    result firmware_$firmware $?
done
case $(argument nested.firmware) in
*uefi*)
    timeout 300 /bin/bedplate-vmm --engine kvm --firmware uefi --memory 128M --serial file:/tmp/shell </dev/null &
    for i in $(seq 300); do
        grep -q "Shell>" /tmp/shell && break
        sleep 1
    done
    grep -q "Shell>" /tmp/shell
    result firmware_shell $?
    kill $(pidof bedplate-vmm) ;;
esac
echo "NESTED done"
sync
poweroff -f
"""


def libraries(programs):
    """What ldd finds for them."""
    found = set()
    for program in programs:
        text = subprocess.run(["ldd", program], stdout=subprocess.PIPE, text=True, check=True).stdout
        for path in re.findall(r"(?:=> |^\s*)(/\S+) \(0x", text, re.MULTILINE):
            found.add(path)
    return found


def outer_build(top, args):
    """The outer guest's files."""
    for folder in ("bin", "lib", "lib64", "modules", "guest", "tests", "www", "proc", "sys", "dev"):
        os.makedirs(os.path.join(top, folder))
    shutil.copy(shutil.which("busybox"), os.path.join(top, "bin/busybox"))
    programs = [args.binary, os.path.join(os.path.dirname(args.binary), "../net/bedplate-net")]
    for program in programs:
        shutil.copy(program, os.path.join(top, "bin"))
    if args.guests_run:
        programs.append(args.guests_run)
        shutil.copy(args.guests_run, os.path.join(top, "bin"))
        os.mkdir(os.path.join(top, "guests"))
        for path in glob.glob(os.path.join(os.path.dirname(args.guests_run), "*.bin")):
            if os.path.basename(path)[:-4] not in INEXACT | TOO_SLOW | {"bounce", "writers"}:
                shutil.copy(path, os.path.join(top, "guests"))
    if args.moves_run:
        programs.append(args.moves_run)
        shutil.copy(args.moves_run, os.path.join(top, "bin"))
        os.mkdir(os.path.join(top, "moves"))
        for name in ("bounce.bin", "writers.bin"):
            shutil.copy(os.path.join(os.path.dirname(args.moves_run), name),
                        os.path.join(top, "moves"))
    for test in args.tests:
        shutil.copy(test, os.path.join(top, "tests"))
    for path in libraries(programs + args.tests):
        folder = "lib64" if "ld-linux" in path else "lib"
        shutil.copy(path, os.path.join(top, folder))
    release = glob.glob(os.path.join(args.guest, "kernel/lib/modules/*"))[0]
    for module in MODULES:
        path = os.path.join(release, module)
        if not os.path.exists(path):
            boot.skip(f"the guest's kernel package has no {os.path.basename(module)}")
        shutil.copy(path, os.path.join(top, "modules"))
    for name in ("vmlinuz", "initrd.cpio"):
        shutil.copy(os.path.join(args.guest, name), os.path.join(top, "guest"))
    subprocess.run([os.path.join(ROOT, "tools/guest/make-disk.sh"),
                    os.path.join(top, "guest/disk.img")], check=True)
    if args.firmware:
        for path in FIRMWARE:
            os.makedirs(top + os.path.dirname(path), exist_ok=True)
            shutil.copy(path, top + path)
        disk.make(os.path.join(top, "guest/grub.img"), GRUB, {}, size=48 << 20, work=os.path.dirname(top))
    with open(os.path.join(top, "www/file"), "wb") as out:
        out.write(os.urandom(300_000))
    with open(os.path.join(top, "init"), "w") as out:
        out.write(INIT)
    os.chmod(os.path.join(top, "init"), 0o755)


def cpio_pack(top, archive):
    names = sorted(os.path.relpath(os.path.join(where, name), top)
                   for where, below, files in os.walk(top) for name in below + files)
    with open(archive, "wb") as out:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"], cwd=top, check=True,
                       input="\n".join(names).encode(), stdout=out)


def clock(firmware):
    """How the outer machine's time runs.

    QEMU (7.2 and 10.0 alike) raises a nested guest's interrupt without the lock for it, and aborts, where the guest writes
    CR8 while KVM waits to interrupt it. OVMF writes CR8 at the end of each timer interrupt: that goes wrong if the next one
    pends already, as it may at this speed. When the clock counts instructions instead, a handler is over long before the
    next tick."""
    if "uefi" in firmware:
        return ["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off"]
    return ["-accel", "tcg,thread=multi"]


def faults(text, status, args):
    if status is None:
        yield "did not end within the time limit"
    for line in re.findall(r"NESTED \w+ FAIL[^\r\n]*", text):
        yield line
    if not re.search(r"^NESTED done\r*$", text, re.MULTILINE):
        yield "the outer guest did not finish"
    firmwares = args.firmware.split(",") if args.firmware else []
    for name in firmwares + (["shell"] if "uefi" in firmwares else []):
        if f"NESTED firmware_{name} ok" not in text:
            yield f"firmware: {name} did not end well"
    if text.count("GRUB reads its disk") != len(firmwares):
        yield "GRUB did not come with each firmware"
    boots = re.split(r"NESTED boots with", text)[1:]
    if len(boots) != 2 * len(args.cpus.split(",") if args.cpus else []):
        yield f"{len(boots)} inner boots instead of {args.cpus}"
    for part in boots:
        for name in ("cpus", "clock", "disk", "net"):
            if not re.search(rf"BP-TEST {name} ok", part):
                yield f"the inner guest's check {name} did not pass"
        if not re.search(r"^BP-TEST done\r*$", part, re.MULTILINE):
            yield "the inner guest did not finish its checks"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=os.path.join(ROOT, "build/src/vmm/bedplate-vmm"))
    parser.add_argument("--guest", default=os.path.join(ROOT, ".cache/guest"))
    parser.add_argument("--cpus", default="1,2", help="two inner boots for each")
    parser.add_argument("--outer-cpus", default="2")
    parser.add_argument("--options", default="", help="more of bedplate-vmm, by commas")
    parser.add_argument("--append", default="", help="more inner kernel command line, by commas")
    parser.add_argument("--firmware", default="", help="to GRUB with each of these (bios,uefi), and to the shell of UEFI")
    parser.add_argument("--guests-run", help="runs the assembly guests beside it, too")
    parser.add_argument("--moves-run", help="moves guests between engines")
    parser.add_argument("--limit", type=float, default=900)
    parser.add_argument("--log", help="where the console goes")
    parser.add_argument("tests", nargs="*", help="programs to run in the outer guest first")
    args = parser.parse_args()

    if not shutil.which("qemu-system-x86_64"):
        boot.skip("qemu-system-x86_64 is not installed")
    for tool in ("busybox", "cpio"):
        if not shutil.which(tool):
            boot.skip(f"{tool} is not installed")
    lacks = args.firmware and (disk.missing() or next((path for path in FIRMWARE if not os.path.exists(path)), None))
    if lacks:
        boot.skip(f"{lacks} is not installed")
    for name in ("vmlinuz", "initrd.cpio"):
        if not os.path.exists(os.path.join(args.guest, name)):
            boot.skip("the guest is not prepared; run tools/prepare-guest.sh")
    with tempfile.TemporaryDirectory(prefix="bedplate-nested-") as tmp:
        top, archive = os.path.join(tmp, "top"), os.path.join(tmp, "outer.cpio")
        os.mkdir(top)
        outer_build(top, args)
        cpio_pack(top, archive)
        start = time.monotonic()
        text, status = boot.run(
            ["qemu-system-x86_64", "-M", "q35", *clock(args.firmware), "-cpu", "EPYC,+svm,+npt",
             "-smp", args.outer_cpus, "-m", "1536", "-nodefaults", "-no-reboot", "-nographic",
             "-serial", "mon:stdio", "-kernel", os.path.join(args.guest, "vmlinuz"), "-initrd", archive,
             "-append", "console=ttyS0 quiet mitigations=off"
             f" nested.firmware={args.firmware} nested.cpus={args.cpus} nested.options={args.options} nested.append={args.append}"],
            args.limit, args.log or os.path.join(tmp, "console.log"))
        wrong = list(faults(text, status, args))
    for line in re.findall(r"(?:BP-TEST|NESTED|FAILED|skipped) [^\r\n]*", text):
        print(line)
    print(f"{time.monotonic() - start:.1f} s")
    boot.end(wrong, text)


if __name__ == "__main__":
    main()
