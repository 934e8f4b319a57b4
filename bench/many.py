#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""many.py: many guests on one host. What forks take, what idle guests cost, and whether shares hold.

All guests are forks of one that is made from an image (lodge image build debian/12)
and removed at the end (lodge prune deletes them). The guests whose shares are compared are busy all the
time, on CPU 0 both; weights and caps want control groups that may be changed.
"""
import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ in the tree
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "guest"))

from guest import PROGRAM, initramfs, kernel  # noqa: E402

BUSY = ["--engine", "soft", "-m", "128M", "--cpu-pin", "0", "--kernel", kernel("cloud"), "--initrd",
        initramfs(), "--append", "console=ttyS0 quiet lodge.test=talk idle=poll"]


def lodge(*words, check=True):
    done = subprocess.run([*PROGRAM, *words], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL)
    if check and done.returncode:
        sys.exit(f"bench/many.py: lodge {' '.join(words)}: {done.stderr}")
    return done


def row(what, value):
    print(f"{what:56} {value}", flush=True)


def seconds(*words):
    began = time.monotonic()
    lodge(*words)
    return time.monotonic() - began


def used(names):
    """CPU seconds of these guests."""
    return sum(use["cpu_seconds"] for use in json.loads(lodge("stats", "--format", "json").stdout)
               if use["name"] in names)


def percent(names, span):
    """Of one CPU, each by itself."""
    first, began = [used([name]) for name in names], time.monotonic()
    time.sleep(span)
    last, span = [used([name]) for name in names], time.monotonic() - began
    return [100 * (b - a) / span for a, b in zip(first, last)]


def pss(pid):
    """MiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.split("\nPss:")[1].split()[0]) / 1024


def forks(settings, names):
    parent, children = names[0], names[1:]
    lodge("run", "-q", "-d", "--rm", "--name", parent, "-m", "512M", "-c", "2", settings.image)
    while lodge("exec", parent, "--", "true", check=False).returncode:
        time.sleep(0.5)
    time.sleep(settings.settle)
    row("fork of 10 from a running guest, s", f"{seconds('fork', '-q', parent, *children[:10]):.2f}")
    if children[10:]:
        row(f"fork of {len(children) - 10} more, s",
            f"{seconds('fork', '-q', parent, *children[10:]):.2f}")
    time.sleep(settings.settle)
    before, began = used(names), time.monotonic()
    time.sleep(settings.span)
    share = 100 * (used(names) - before) / (time.monotonic() - began)
    row(f"CPU of all {len(names)}, idle, % of one", f"{share:.1f}")
    pids = [use["pid"] for use in json.loads(lodge("stats", "--format", "json").stdout)
            if use["name"] in children]
    sizes = sorted(pss(pid) for pid in pids)
    row("memory of a child (PSS), MiB: least, median, most",
        f"{sizes[0]:.0f} {sizes[len(sizes) // 2]:.0f} {sizes[-1]:.0f}")


def shares(settings, one, two):
    for name, weight in ((one, "100"), (two, "300")):
        lodge("run", "-q", "-d", "--rm", "--name", name, "--cpu-weight", weight, *BUSY)
    time.sleep(3)
    a, b = percent((one, two), settings.span)
    row("two busy guests with weights 1 and 3, % of both",
        f"{100 * a / (a + b):.1f} {100 * b / (a + b):.1f}")
    lodge("kill", "-q", two)
    lodge("set", "-q", one, "--cpu-cap", "20")
    time.sleep(1)
    row("a busy guest with a cap of 20, % of one CPU", f"{percent((one,), settings.span)[0]:.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="debian/12", help="(%(default)s)")
    parser.add_argument("--guests", type=int, default=50, help="in all, 11 or more (%(default)s)")
    parser.add_argument("--settle", type=float, default=60, help="seconds until they idle (%(default)s)")
    parser.add_argument("--span", type=float, default=20, help="seconds of a look (%(default)s)")
    settings = parser.parse_args()
    names = [f"many-{n}" for n in range(settings.guests)]
    busy = ["many-busy-1", "many-busy-2"]
    try:
        shares(settings, *busy)
        forks(settings, names)
    finally:
        for name in names + busy:
            lodge("kill", "-q", name, check=False)
        lodge("rm", "-q", *names, *busy, check=False)


main()
