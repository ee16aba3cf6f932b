#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the guest benchmark kit natively, under QEMU TCG and under other VMMs.

  compare.py --bench OUT --kernel VMLINUZ [--vmm 'name=cmd {kernel} {initrd} ...']

OUT is what build.sh made. A --vmm template is split like a shell line, then
{kernel} {initrd} {cmdline} {disk} {smp} {mem} are filled in (mem in MiB); the
guest's ttyS0 must be its standard output. Runs are interleaved: every target
once, then again, --repeats times. Cells are medians; with --best rates are the
highest and times the lowest of the runs, for hosts whose own speed changes while
they are measured: what slows a run down is then none of a target's doing.
"""
import argparse
import json
import math
import os
import re
import resource
import select
import shlex
import signal
import statistics
import subprocess
import sys
import time

GROUPS = [
    ("integer", ["alu_mix", "qsort", "hash", "sha256", "div64", "interp", "fib"]),
    ("memory", ["ptrchase16m", "memcpy_rep", "memset_rep", "memcpy_u64", "memset_u64",
                "memcpy_byte", "memcpy_libc"]),
    ("float", ["matmul_sse2", "scalar_sse2", "avx2", "x87"]),
    ("code-writing", ["smc_patch", "jit_fresh", "smc_data"]),
    ("kernel", ["getpid", "pipe_pingpong", "signal", "fork_wait", "fork_exec", "pagefault",
                "clock_gettime", "gettimeofday", "tmpfs_rw", "gzip"]),
    ("threads", ["mt_atomic", "mt_indep", "mt_handoff"]),
    ("disk", ["blk_seq", "blk_rand4k"]),
]
# Costs: lower is better; kept out of the means.
COSTS = [("boot_wall", "s"), ("boot_uptime", "s"), ("run_wall", "s"), ("rss_boot", "MiB"),
         ("rss_peak", "MiB"), ("rss_overhead", "MiB"), ("idle_cpu", "%"), ("clock_error", "%"), ("cpu_wait", "%")]
# Page cache, not a device, answers the native disk rows: keep them out of the means.
NO_MEAN = {"blk_seq", "blk_rand4k"}

TCG = ("qemu-system-x86_64 -accel tcg,thread=multi -cpu {cpu} -smp {{smp}} -m {{mem}}"
       " -nographic -no-reboot -kernel {{kernel}} -initrd {{initrd}} -append {{cmdline}}"
       " -drive file={{disk}},format=raw,if=virtio")

LINE = re.compile(r"BENCH (\w+) (\S+)(?: (.*))?$")


def tree(pid):
    """pid and its descendants (wrappers such as sh or time are common)"""
    kids = {}
    for d in os.listdir("/proc"):
        if d.isdigit():
            try:
                with open(f"/proc/{d}/stat") as f:
                    ppid = int(f.read().rsplit(")", 1)[1].split()[1])
                kids.setdefault(ppid, []).append(int(d))
            except OSError:
                pass
    todo, out = [pid], []
    while todo:
        p = todo.pop()
        out.append(p)
        todo += kids.get(p, [])
    return out


def status_kb(pid, key):
    total = 0
    for p in tree(pid):
        try:
            with open(f"/proc/{p}/status") as f:
                for line in f:
                    if line.startswith(key + ":"):
                        total += int(line.split()[1])
        except OSError:
            pass
    return total


def guest_ram_rss_kb(pid, mem_mib):
    """Resident part of guest RAM: mappings of a memfd named guest-ram, whatever
    their size; without one, what looks like it: writable, not executable mappings
    of at least 9/10 of the guest's memory. None if there is none."""
    named, likely, found = 0, 0, set()
    for p in tree(pid):
        try:
            with open(f"/proc/{p}/smaps") as f:
                kind = None
                for line in f:
                    m = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line)
                    if m:
                        size = int(m[2], 16) - int(m[1], 16)
                        if "memfd:guest-ram" in line:
                            kind = "named"
                        elif m[3].startswith("rw-") and 0.9 * mem_mib <= size / 2**20 <= 4 * mem_mib:
                            kind = "likely"
                        else:
                            kind = None
                        found.add(kind)
                    elif kind and line.startswith("Rss:"):
                        kb = int(line.split()[1])
                        if kind == "named":
                            named += kb
                        else:
                            likely += kb
        except OSError:
            pass
    return named if "named" in found else likely if "likely" in found else None


def cpu_secs(pid):
    hz, total = os.sysconf("SC_CLK_TCK"), 0
    for p in tree(pid):
        try:
            with open(f"/proc/{p}/stat") as f:
                v = f.read().rsplit(")", 1)[1].split()
            total += (int(v[11]) + int(v[12])) / hz
        except OSError:
            pass
    return total


def cpu_busy():
    """seconds of CPU used so far: {cpu: secs}, whole machine"""
    hz, out = os.sysconf("SC_CLK_TCK"), {}
    with open("/proc/stat") as f:
        for line in f:
            m = re.match(r"cpu(\d+) (.*)", line)
            if m:
                v = [int(x) for x in m[2].split()]
                out[int(m[1])] = (v[0] + v[1] + v[2] + v[5] + v[6] + v[7]) / hz
    return out


def favour(n):
    """in the child, a session of its own: niceness, and the same for the
    session's autogroup, without which niceness counts for nothing outside it"""
    if n:
        os.nice(n)
        try:
            with open("/proc/self/autogroup", "w") as f:
                f.write(str(n))
        except OSError:
            pass


def waited(pid):
    """(ran, waited for a CPU) in seconds of the thread that ran most"""
    best = (0.0, 0.0)
    for p in tree(pid):
        try:
            for t in os.listdir(f"/proc/{p}/task"):
                with open(f"/proc/{p}/task/{t}/schedstat") as f:
                    v = f.read().split()
                best = max(best, (int(v[0]) / 1e9, int(v[1]) / 1e9))
        except OSError:
            pass
    return best


def quietest_cpus(n):
    """the n usable CPUs with the least other work right now"""
    a = cpu_busy()
    time.sleep(0.3)
    b = cpu_busy()
    ok = os.sched_getaffinity(0)
    return sorted(ok, key=lambda c: b.get(c, 0) - a.get(c, 0))[:n]


class Foreign:
    """cores' worth of CPU that the target, and that others, used during a run"""

    def __init__(self):
        self.t, self.busy, self.own = time.monotonic(), sum(cpu_busy().values()), self.mine()

    @staticmethod
    def mine():
        c, s = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
        return c.ru_utime + c.ru_stime + s.ru_utime + s.ru_stime

    def cores(self):
        dt = time.monotonic() - self.t
        own = self.mine() - self.own
        used = sum(cpu_busy().values()) - self.busy - own
        return round(own / dt, 2), round(max(0.0, used / dt), 2)


def record(res, m):
    name, value, rest = m[1], m[2], m[3] or ""
    if value in ("skip", "FAIL"):
        res["bad"][name] = value if value == "skip" else f"FAIL {rest}".strip()
        return
    try:
        res["values"][name] = float(value)
        res["units"][name] = rest
    except ValueError:
        pass


def new_result():
    return {"values": {}, "units": {}, "bad": {}, "info": []}


def run_native(args):
    root = os.path.join(args.bench, "root", "bin")
    env = dict(os.environ, BENCH_SECS=str(args.secs), BENCH_TIMEOUT=str(args.timeout),
               BENCH_SKIP=args.skip, BENCH_TMP=args.native_tmp,
               BENCH_BLK=os.path.abspath(args.disk))
    cpus = quietest_cpus(args.smp)
    res = new_result()
    t0 = time.monotonic()
    p = subprocess.run([os.path.join(root, "bench"), "run", args.run], env=env,
                       stdout=subprocess.PIPE, text=True, start_new_session=True,
                       preexec_fn=lambda: (favour(args.nice), os.sched_setaffinity(0, cpus)))
    res["values"]["run_wall"] = time.monotonic() - t0
    for line in p.stdout.splitlines():
        m = LINE.search(line)
        if m:
            record(res, m)
    return res


def run_vmm(name, template, args, rep):
    procs = []
    try:
        return drive_vmm(name, template, args, rep, procs)
    finally:                            # never leave a VMM behind, Ctrl-C or not
        for p in procs:
            if p.poll() is None:
                os.killpg(p.pid, signal.SIGKILL)
                p.wait()


def drive_vmm(name, template, args, rep, procs):
    cmdline = (f"console=ttyS0 {args.append} bench.secs={args.secs} bench.run={args.run}"
               f" bench.timeout={args.timeout} bench.idle={args.idle}"
               + (f" bench.skip={args.skip}" if args.skip else "")).replace("  ", " ")
    fill = {"kernel": args.kernel, "initrd": args.initrd, "cmdline": cmdline,
            "disk": args.disk, "smp": str(args.smp), "mem": str(args.mem)}
    argv = [w.format(**fill) for w in shlex.split(template)]
    res = new_result()
    log = open(os.path.join(args.out, f"{name}.{rep}.log"), "wb")
    t0 = time.monotonic()
    p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, start_new_session=True,
                         preexec_fn=lambda: favour(args.nice))
    procs.append(p)
    fd, buf, deadline, done = p.stdout.fileno(), b"", t0 + args.boot_limit, False
    begin = idle0 = None
    peak = 0
    while True:
        now = time.monotonic()
        if now > deadline:
            break
        if select.select([fd], [], [], min(0.25, deadline - now))[0]:
            data = os.read(fd, 65536)
            if not data:
                break
            log.write(data)
            buf += data
        now = time.monotonic()
        peak = max(peak, status_kb(p.pid, "VmHWM"))
        *lines, buf = buf.split(b"\n")
        for raw in lines:
            line = raw.decode("utf-8", "replace").strip()
            m = LINE.search(line)
            if m:
                record(res, m)
                if m[1] == "boot_uptime":
                    deadline = t0 + args.limit
                    res["values"]["boot_wall"] = now - t0
                    res["values"]["rss_boot"] = status_kb(p.pid, "VmRSS") / 1024
                    if args.boot_only:
                        done = True
            elif "BENCH-CLOCK" in line:
                _, which, t = line[line.index("BENCH-CLOCK"):].split()[:3]
                if which == "begin":
                    begin = (now, float(t))
                elif begin and now - begin[0] > 1:
                    res["values"]["run_wall"] = now - begin[0]
                    res["values"]["clock_error"] = (
                        (float(t) - begin[1]) / (now - begin[0]) - 1) * 100
            elif "BENCH-IDLE begin" in line:
                idle0 = (now, cpu_secs(p.pid))
            elif "BENCH-IDLE end" in line and idle0:
                res["values"]["idle_cpu"] = (
                    (cpu_secs(p.pid) - idle0[1]) / (now - idle0[0]) * 100)
            elif "BENCH-INFO" in line:
                res["info"].append(line[line.index("BENCH-INFO") + 11:])
            elif "BENCH-DONE" in line:
                done = True
                deadline = min(deadline, now + 5)     # time to power off
                ran, wait = waited(p.pid)
                res["values"]["cpu_wait"] = wait / (ran + wait) * 100 if ran else 0
                ram, rss = guest_ram_rss_kb(p.pid, args.mem), status_kb(p.pid, "VmRSS")
                peak = max(peak, status_kb(p.pid, "VmHWM"))
                if ram is not None:
                    res["values"]["rss_overhead"] = (rss - ram) / 1024
        if done and args.boot_only:
            break
    ended = p.poll()
    if ended is None:
        try:
            p.wait(2 if done and not args.boot_only else 0.1)
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            p.wait()
            res["killed"] = True
    log.close()
    if peak:
        res["values"]["rss_peak"] = peak / 1024
    if not done:
        res["bad"]["(run)"] = "FAIL " + ("no BENCH-DONE" if "boot_wall" in res["values"]
                                         else "no first line")
    return res


def fmt(v):
    if v is None:
        return "-"
    a = abs(v)
    if a >= 1e6:
        return f"{v / 1e6:.2f}M"
    if a >= 1e4:
        return f"{v / 1e3:.1f}k"
    return f"{v:.0f}" if a >= 1000 else f"{v:.1f}" if a >= 10 else f"{v:.3g}"


def gmean(xs):
    return math.exp(sum(map(math.log, xs)) / len(xs)) if xs else None


class Table:
    def __init__(self, args, names, runs):
        self.names, self.runs, self.args = names, runs, args
        self.units = {k: u for n in names for r in runs[n] for k, u in r["units"].items()}

    def vals(self, target, w):
        return [r["values"][w] for r in self.runs[target] if w in r["values"]]

    def of(self, target, w):
        """What a cell shows."""
        v = self.vals(target, w)
        if not v:
            return None
        unit = dict(COSTS).get(w)
        if not self.args.best or unit not in (None, "s"):
            return statistics.median(v)
        return min(v) if unit else max(v)

    def bad(self, target, w):
        for r in self.runs[target]:
            if w in r["bad"]:
                return r["bad"][w].split()[0]
        return "-"

    def cell(self, target, w):
        v = self.vals(target, w)
        if not v:
            return self.bad(target, w)
        m = self.of(target, w)
        s = fmt(m)
        if len(v) > 1 and m:
            s += f" ±{(max(v) - min(v)) / 2 / abs(m) * 100:.0f}%"
        return s

    def show(self):
        n = self.names
        native = "native" if "native" in n else None
        ref = next((x for x in n if x != "native"), None)
        others = [x for x in n if x not in ("native", ref)]
        ratios = [(f"{o}/{ref}", o, ref) for o in others]
        if native:
            ratios += [(f"native/{x}", native, x) for x in n if x != native]
        head = ["workload", "unit"] + n + [r[0] for r in ratios]
        rows, allr = [], {r[0]: [] for r in ratios}
        for group, works in GROUPS:
            got = {r[0]: [] for r in ratios}
            for w in works:
                if not any(self.vals(t, w) or self.bad(t, w) != "-" for t in n):
                    continue
                row = [w, self.units.get(w, "")] + [self.cell(t, w) for t in n]
                for title, a, b in ratios:
                    x, y = self.of(a, w), self.of(b, w)
                    if x and y:
                        row.append(f"{x / y:.2f}")
                        if w not in NO_MEAN:
                            got[title].append(x / y)
                            allr[title].append(x / y)
                    else:
                        row.append("-")
                rows.append(row)
            if any(got.values()):
                rows.append([f"= {group}", "geomean"] + [""] * len(n) +
                            [f"{gmean(v):.2f}" if v else "-" for v in got.values()])
        rows.append(["= ALL but disk", "geomean"] + [""] * len(n) +
                    [f"{gmean(v):.2f}" if v else "-" for v in allr.values()])
        grid([head] + rows)
        print()
        vm = [x for x in n if x != "native"]
        crow = []
        for w, u in COSTS:
            if any(self.vals(t, w) for t in vm):
                crow.append([w, u] + [self.cell(t, w) for t in vm] +
                            [f"{self.of(o, w) / self.of(ref, w):.2f}"
                             if self.of(o, w) is not None and self.of(ref, w) else "-"
                             for o in others])
        if crow:
            print("Costs (lower is better)")
            grid([["cost", "unit"] + vm + [f"{o}/{ref}" for o in others]] + crow)
        for t in n:
            for i, r in enumerate(self.runs[t]):
                for w, why in r["bad"].items():
                    if why != "skip":
                        print(f"! {t} run {i + 1}: {w}: {why}")
            if self.runs[t] and self.runs[t][0]["info"]:
                print(f"# {t}: " + "; ".join(self.runs[t][0]["info"]))
        print("# CPUs used by target/others in each run: " + "; ".join(
            t + " " + ", ".join(f"{r['own_cores']}/{r['foreign_cores']}" for r in self.runs[t])
            for t in n))


def grid(rows):
    width = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for k, r in enumerate(rows):
        print("  ".join(c.ljust(width[i]) if i < 2 else c.rjust(width[i])
                        for i, c in enumerate(r)).rstrip())
        if k == 0:
            print("  ".join("-" * w for w in width))


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--bench", required=True, help="folder made by build.sh")
    ap.add_argument("--kernel", help="vmlinuz (not needed with --only native)")
    ap.add_argument("--initrd", help="default: OUT/initrd.cpio.gz")
    ap.add_argument("--disk", help="default: OUT/disk.img")
    ap.add_argument("--vmm", action="append", default=[], metavar="NAME=CMD")
    ap.add_argument("--only", help="targets to run, comma separated (native, tcg, NAMEs)")
    ap.add_argument("--cpu", default="max", help="QEMU -cpu of the tcg target")
    ap.add_argument("--smp", type=int, default=1)
    ap.add_argument("--mem", type=int, default=1024, help="MiB")
    ap.add_argument("--run", default="all", help="workloads, comma separated")
    ap.add_argument("--skip", default="", help="workloads left out of 'all'")
    ap.add_argument("--secs", type=float, default=2, help="seconds per workload")
    ap.add_argument("--timeout", type=int, default=120, help="guest seconds per workload")
    ap.add_argument("--idle", type=int, default=1, help="seconds of idle guest to measure")
    ap.add_argument("--limit", type=float, default=1800, help="wall seconds per VMM run")
    ap.add_argument("--boot-limit", type=float, default=120,
                    help="wall seconds to the init's first line")
    ap.add_argument("--repeats", type=int, default=3)
    ap.add_argument("--best", action="store_true", help="best of the runs instead of their median")
    ap.add_argument("--nice", type=int, default=0, help="niceness of every target (-20: as root, on a busy host)")
    ap.add_argument("--append", default="quiet", help="more kernel command line")
    ap.add_argument("--boot-only", action="store_true", help="stop at the init's first line")
    ap.add_argument("--native-tmp", default="/dev/shm", help="tmpfs folder on the host")
    ap.add_argument("--out", help="folder for results.json and logs (default OUT/results)")
    args = ap.parse_args()
    args.initrd = args.initrd or os.path.join(args.bench, "initrd.cpio.gz")
    args.disk = args.disk or os.path.join(args.bench, "disk.img")
    args.out = args.out or os.path.join(args.bench, "results")
    os.makedirs(args.out, exist_ok=True)

    targets = {"native": None, "tcg": TCG.format(cpu=args.cpu)}
    for v in args.vmm:
        name, _, cmd = v.partition("=")
        if not cmd:
            ap.error("--vmm wants NAME=COMMAND")
        targets[name] = cmd
    if args.boot_only:
        del targets["native"]
    if args.only:
        want = args.only.split(",")
        for w in want:
            if w not in targets:
                ap.error(f"no such target: {w}")
        targets = {k: v for k, v in targets.items() if k in want}
    if any(targets.values()) and not args.kernel:
        ap.error("--kernel is needed")

    runs = {t: [] for t in targets}
    for rep in range(args.repeats):
        order = list(targets)
        if rep % 2:
            order.reverse()             # so slow drift does not favour one target
        for t in order:
            print(f"[{rep + 1}/{args.repeats}] {t} ...", file=sys.stderr, flush=True)
            other = Foreign()
            r = run_native(args) if targets[t] is None else run_vmm(t, targets[t], args, rep + 1)
            r["own_cores"], r["foreign_cores"] = other.cores()
            runs[t].append(r)
        with open(os.path.join(args.out, "results.json"), "w") as f:
            json.dump({"args": vars(args), "targets": targets, "runs": runs}, f, indent=1)
    Table(args, list(targets), runs).show()


if __name__ == "__main__":
    main()
