#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""snapshot.py: for how long a guest under load stands still for a snapshot, and how soon a restored one runs.

The guest writes most of its memory over and over, and its disk, and prints a
line every few milliseconds. A restored guest runs when there is a thread for
its first vCPU; it has to do quite some work until its first line. All in
milliseconds: median and worst.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ in the tree
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "guest"))

from guest import PROGRAM, initramfs_with_modules, kernel  # noqa: E402
from life import Lodge  # noqa: E402


class Loaded(Lodge):
    """One guest under load."""

    def __init__(self, settings):
        super().__init__()
        self.guest = self.name()
        self.log = self.state / "guests" / self.guest / "console.log"
        disk = self.path / "disk.raw"
        with open(disk, "wb") as file:
            file.truncate(64 << 20)
        self.verb("create", "--name", self.guest, "-m", settings.memory, "-c", str(settings.cpus),
                  "--engine", settings.engine, "--disk", str(disk), "--kernel", kernel("cloud"),
                  "--initrd", initramfs_with_modules("cloud"),
                  "--append", "console=ttyS0 quiet lodge.test=load")
        self.verb("start", self.guest)
        self.wait_log(self.guest, "LODGE-TEST load memory 2\n")

    def snapshot(self, tag):
        """Milliseconds for which the guest stood still."""
        return json.loads(self.verb("snapshot", "--format", "json", self.guest, tag))["stopped"] * 1e3

    def restore(self, tag):
        """Milliseconds from the command's start until the guest runs, to the command's end, and to the guest's first line."""
        size, began = self.log.stat().st_size, time.monotonic()
        command = subprocess.Popen([*PROGRAM, "restore", "-q", self.guest, tag], env=self.env(),
                                   stdin=subprocess.DEVNULL)
        guest = None
        signs = (lambda: guest and has_vcpu(guest), lambda: command.poll() is not None,
                 lambda: self.log.stat().st_size != size)
        times = [None] * len(signs)
        while None in times:
            guest = guest or child_of(command.pid)
            for n, sign in enumerate(signs):
                if times[n] is None and sign():
                    times[n] = (time.monotonic() - began) * 1e3
            time.sleep(0.0005)
        if command.returncode:
            sys.exit(f"bench/snapshot.py: restore ended with {command.returncode}")
        return times


def child_of(pid):
    """The guest's process, while the command waits for it; None before."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return children[0] if children else None


def has_vcpu(pid):
    try:
        return any((task / "comm").read_text().startswith("vcpu")
                   for task in list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return False  # a thread, or the process, has ended meanwhile


def row(what, values):
    print(f"{what:48} {statistics.median(values):8.1f} {max(values):8.1f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11, help="of each (%(default)s)")
    parser.add_argument("--memory", default="1G", help="of the guest (%(default)s)")
    parser.add_argument("--cpus", type=int, default=2, help="of the guest (%(default)s)")
    parser.add_argument("--engine", default="soft", help="(%(default)s)")
    settings = parser.parse_args()
    with Loaded(settings) as guest:
        print(f"{'ms':48} {'median':>8} {'worst':>8}")
        row("guest stands still for a snapshot",
            [guest.snapshot(f"s{n}") for n in range(settings.runs)])
        times = []
        for n in range(settings.runs):
            guest.verb("kill", "-q", guest.guest)
            times.append(guest.restore(f"s{n}"))
        runs, ended, line = zip(*times)
        row("restore of a stopped guest, until it runs", runs)
        row("... to the end of the command", ended)
        row("... to the guest's first line", line)
        row("restore of a running guest, to the command's end",
            [guest.restore(f"s{n}")[1] for n in range(settings.runs)])


main()
