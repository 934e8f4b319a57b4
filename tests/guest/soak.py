#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""soak.py KERNEL N CPUS...: boot a kernel N times per number of CPUs, report n/N.

KERNEL is cloud, amd64, backports or a path. --test chooses what init does
before it powers off. The console of a failed boot is printed.
"""
import argparse
import statistics
import sys

from guest import Place, Timeout, initramfs, kernel, lodge_command


def boot_once(args, cpus):
    """Seconds to init, or what went wrong."""
    command = lodge_command(kernel(args.kernel), initramfs(), f"lodge.test={args.test}", cpus,
                            args.memory)
    with Place() as place, place.run(command) as run:
        try:
            when, seen = run.wait_line(r"LODGE-TEST init cpus=(\d+)", args.timeout)
            run.wait_line("LODGE-TEST done", args.timeout)
            status = run.wait_exit(args.timeout)
        except Timeout as why:
            return None, f"{why}\n{run.stdout()}"
        if status != 0 or int(seen[1]) != cpus:
            return None, f"status {status}, {seen[1]} CPUs\n{run.stdout()}\n{run.stderr()}"
        return when - run.start, None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernel")
    parser.add_argument("n", type=int)
    parser.add_argument("cpus", type=int, nargs="+")
    parser.add_argument("--test", default="cpus")
    parser.add_argument("--memory", default="512M")
    parser.add_argument("--timeout", type=float, default=120)
    args = parser.parse_args()
    failed = 0
    for cpus in args.cpus:
        times = []
        for _ in range(args.n):
            seconds, why = boot_once(args, cpus)
            if why:
                print(f"-- {args.kernel}, {cpus} CPUs: {why}", flush=True)
            else:
                times.append(seconds)
        failed += args.n - len(times)
        spread = (f", to init {min(times):.2f} s at best, {statistics.median(times):.2f} s median,"
                  f" {max(times):.2f} s at worst" if times else "")
        print(f"{args.kernel}, {cpus} CPUs: {len(times)}/{args.n}{spread}", flush=True)
    return 1 if failed else 0


sys.exit(main())
