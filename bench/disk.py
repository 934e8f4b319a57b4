#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""disk.py: fio on a disk, in guests and on the host.

Every row runs on each machine in turn, over and over; the best run counts.
Each machine has a file of its own with the same contents, in one folder, and
none of it is in the host's cache when a run begins. fio always asks for
O_DIRECT: in guests, that is past the guest's cache.
"""
import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ in the tree
import report
from machines import BENCH, PROGRAM, ROOT, Failed, Machine, append, qemu

BEGIN, END = "<!-- disk begin -->", "<!-- disk end -->"
MIB = 1 << 20
READ_RATE, READ_OPS, WRITE_RATE = 6, 7, 47  # fields of fio's terse format, version 3


class Row:
    def __init__(self, name, title, arguments, field, unit, goal, timed=False):
        self.name = name
        self.timed = timed  # else once over the whole disk
        self.title = title
        self.arguments = arguments
        self.field = field
        self.unit = unit
        self.goal = goal  # share of native

    def text(self, value):
        return f"{value / 1024:,.0f} {self.unit}" if self.unit == "MiB/s" else \
            f"{value:,.0f} {self.unit}"


ROWS = (
    Row("read-1", "4k random read, depth 1", "--rw=randread --bs=4k --ioengine=psync",
        READ_OPS, "/s", 0.45, timed=True),
    Row("read-32", "4k random read, depth 32",
        "--rw=randread --bs=4k --ioengine=libaio --iodepth=32", READ_OPS, "/s", None, timed=True),
    Row("read-seq", "1M sequential read, depth 4",
        "--rw=read --bs=1M --ioengine=libaio --iodepth=4", READ_RATE, "MiB/s", 0.85),
    Row("write-seq", "1M sequential write and flush, depth 4",
        "--rw=write --bs=1M --ioengine=libaio --iodepth=4 --end_fsync=1 --loops=4",
        WRITE_RATE, "MiB/s", 0.85),
)


def native(settings, file):
    root = settings.root / "root"
    inside = (f"mount --bind {file.parent} {root}/disk && mount -t proc proc {root}/proc && "
              f"mount --rbind /dev {root}/dev && "
              f"exec chroot {root} /init native /disk/{file.name}")
    return ["unshare", "-m", "-p", "-f", "sh", "-c", inside]


def lodge(words=""):
    def command(settings, file):
        return [PROGRAM, "run", "--quiet", "--engine", "soft", "-c", settings.cpus, "-m",
                settings.memory, "--escape", "none", "--kernel", settings.kernel,
                "--initrd", settings.root / "root.cpio", "--append", append(settings),
                "--disk", f"{file}{words}"]
    return command


def tcg(words):
    def command(settings, file):
        return [*qemu(settings, settings.root / "root.cpio", settings.cpus, "max"),
                "-drive", f"file={file},format=raw,if=none,id=disk{words}",
                "-device", "virtio-blk-pci,drive=disk"]
    return command


MACHINES = {
    "native": ("native", native),
    "lodge": ("Lodge", lodge()),
    "lodge-none": ("Lodge, cache=none", lodge(",cache=none")),
    "tcg": ("TCG", tcg(",aio=threads")),
    "tcg-none": ("TCG, cache=none", tcg(",cache=none,aio=io_uring")),
}


def make_file(path, size):
    with open(path, "wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
        os.fsync(file.fileno())


def forget(path):
    """Nothing of it stays in the host's cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Bench:
    def __init__(self, settings, names):
        self.settings = settings
        self.names = names
        self.serials = itertools.count(1)
        self.machines = {}
        self.values = {}

    def file(self, name):
        return self.settings.dir / f"{name}.disk"

    def begin(self, name):
        make_file(self.file(name), self.settings.size * MIB)
        command = MACHINES[name][1](self.settings, self.file(name))
        machine = Machine(None, list(map(str, command)), BENCH / f"disk-{name}.log")
        self.machines[name] = machine
        machine.wait("LODGE-BENCH ready", 180)

    def one(self, name, row):
        machine, serial = self.machines[name], next(self.serials)
        forget(self.file(name))
        timed = f"--time_based --runtime={self.settings.seconds}" if row.timed else ""
        machine.send(f"fio {serial} {row.arguments} --size={self.settings.size}M {timed}")
        _, text = machine.wait(f"LODGE-BENCH end {serial}", 120 + self.settings.seconds)
        status, _, output = text.partition(" ")
        fields = output.split(";")
        if status != "0" or len(fields) < WRITE_RATE + 1:
            raise Failed(f"{row.name} on {name}: fio ended with {status}: {machine.last()}")
        value = float(fields[row.field])
        self.values.setdefault(row.name, {}).setdefault(name, []).append(value)
        return value

    def measure(self, row):
        for _ in range(self.settings.runs):
            got = {name: self.one(name, row) for name in self.names}
            print(f"{row.name}: " + ", ".join(f"{name} {value:.0f}"
                                              for name, value in got.items()), file=sys.stderr)

    def end(self):
        for name, machine in self.machines.items():
            machine.end()
            self.file(name).unlink(missing_ok=True)


def table(values, names):
    others = [name for name in names if name != "native"]
    lines = ["| | native | " + " | ".join(MACHINES[name][0] for name in others) + " | goal |",
             "|---|---:|" + "---:|" * (len(others) + 1)]
    for row in ROWS:
        got = {name: max(runs) for name, runs in values.get(row.name, {}).items()}
        if "native" not in got:
            continue
        shares = {name: got[name] / got["native"] for name in others if name in got}
        cells = [f"{row.text(got[name])} ({shares[name]:.0%})" if name in got else "-"
                 for name in others]
        goal = ""
        if row.goal and "lodge-none" in shares:
            met = min(shares[name] for name in shares if name.startswith("lodge")) >= row.goal
            goal = f"{row.goal:.0%} {'met' if met else 'not met'}"
        lines.append(f"| {row.title} | {row.text(got['native'])} | " + " | ".join(cells)
                     + f" | {goal} |")
    return "\n".join(lines)


def described(a, settings):
    return (f"{a['date']}, commit {a['commit']}. {a['cpu']}, {a['cpus']} CPUs, Linux {a['host']}. "
            f"Guests: {a['kernel']}, {settings.cpus} CPU{'s' * (settings.cpus > 1)}. {a['qemu']}. "
            f"Best of {a['runs']} alternating runs of {settings.seconds} s; load of the host at "
            f"the end {a['load']:.1f}. In parentheses: share of native.")


def save(text):
    old = report.DOCUMENT.read_text()
    before, rest = old.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    report.DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def options():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each row (%(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="of each run (%(default)s)")
    parser.add_argument("--size", type=int, default=1024, help="of the disk, MiB (%(default)s)")
    parser.add_argument("--rows", default=",".join(row.name for row in ROWS),
                        help="separated by commas (%(default)s)")
    parser.add_argument("--machines", default=",".join(MACHINES),
                        help="separated by commas (%(default)s)")
    parser.add_argument("--dir", type=Path, default=BENCH / "disk",
                        help="folder of the disks' files (%(default)s)")
    parser.add_argument("--cpus", type=int, default=1, help="of each guest (%(default)s)")
    parser.add_argument("--save", action="store_true", help="put the table into docs/, too")
    settings = parser.parse_args()
    for given, known in ((settings.machines, MACHINES), (settings.rows, [r.name for r in ROWS])):
        for name in given.split(","):
            if name not in known:
                parser.error(f"there is no {name}, only " + ", ".join(known))
    settings.memory, settings.append = "1G", ""
    return settings


def script(*args):
    return subprocess.run([ROOT / "scripts" / args[0], *args[1:]], check=True, text=True,
                          stdout=subprocess.PIPE, stdin=subprocess.DEVNULL).stdout.strip()


def main():
    settings = options()
    if os.geteuid():
        sys.exit("bench/disk.py: the host's own runs are in a chroot, which needs root")
    script("setup.sh", "bench")
    settings.kernel = script("kernel.sh", "cloud")
    settings.root = Path(script("bench-disk.sh", "cloud"))
    settings.dir.mkdir(parents=True, exist_ok=True)
    names = settings.machines.split(",")
    bench = Bench(settings, names)
    settings.clock = "wall"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        for name in names:
            bench.begin(name)
        for row in ROWS:
            if row.name in settings.rows.split(","):
                bench.measure(row)
    finally:
        bench.end()
    about = report.about(settings)
    (BENCH / "disk.json").write_text(json.dumps({"about": about, "values": bench.values}, indent=1))
    text = described(about, settings) + "\n\n" + table(bench.values, names)
    if settings.save:
        save(text)
    print(text)


main()
