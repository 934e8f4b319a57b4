#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""compare.py: lodge's software engine against qemu-system-x86_64 -accel tcg.

Same kernel, initramfs, command line and memory, runs of the two alternating;
all times are taken on the host between lines of the console. (scripts/setup.sh
compare installs QEMU.)
"""
import argparse
import statistics
import sys

from guest import Place, initramfs, kernel, lodge_command, qemu_command

MACHINES = {"lodge": lodge_command, "tcg": qemu_command}
INIT = "LODGE-TEST init"


def boot(run):
    """Process start to the first line of init."""
    return [run.wait_line(INIT)[0] - run.start]


def loop(run):
    """The shell loop, twice in one guest."""
    times = []
    for count in (1, 2):
        began = run.wait_line("LODGE-TEST loop begin", count=count)[0]
        times.append(run.wait_line("LODGE-TEST loop end i=200000", count=count)[0] - began)
    return times


def idle(run):
    """Host CPU in percent of one while the guest sleeps for 10 s."""
    began = run.wait_line("LODGE-TEST idle begin")[0]
    before = run.cpu_seconds()
    ended = run.wait_line("LODGE-TEST idle end")[0]
    return [100 * (run.cpu_seconds() - before) / (ended - began)]


MEASURES = {"boot": (boot, "boot", "s"), "loop": (loop, "loop", "s"), "idle": (idle, "idle10", "%")}


def measure(name, machine, args):
    function, test, _ = MEASURES[name]
    command = MACHINES[machine](kernel(args.kernel), initramfs(), f"lodge.test={test}", args.cpus,
                                args.memory)
    with Place() as place, place.run(command) as run:
        values = function(run)
        run.wait_exit()
        return values


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=5, help="runs of each (default 5)")
    parser.add_argument("-c", "--cpus", type=int, default=1)
    parser.add_argument("-m", "--memory", default="512M")
    parser.add_argument("--kernel", default="cloud")
    parser.add_argument("measures", nargs="*", default=list(MEASURES), metavar="|".join(MEASURES))
    args = parser.parse_args()
    print(f"{args.kernel}, {args.cpus} CPUs, {args.memory}, {args.n} runs of each, alternating")
    print(f"{'':8}{'machine':8}{'min':>9}{'median':>9}{'max':>9}   ratio of minima, of medians")
    for name in args.measures:
        if name not in MEASURES:
            parser.error(f"no measure {name}")
        values = {machine: [] for machine in MACHINES}
        for _ in range(args.n):
            for machine in MACHINES:
                values[machine] += measure(name, machine, args)
        reference = values["tcg"]
        for machine, got in values.items():
            ratios = (f"   {min(got) / max(min(reference), 1e-9):.2f}"
                      f", {statistics.median(got) / max(statistics.median(reference), 1e-9):.2f}")
            print(f"{name:8}{machine:8}{min(got):9.2f}{statistics.median(got):9.2f}{max(got):9.2f}"
                  f"{ratios if machine != 'tcg' else ''}  {MEASURES[name][2]}", flush=True)
    return 0


sys.exit(main())
