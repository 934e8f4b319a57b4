#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""nested.py [--kvmtool FILE] [--runs N] [--no-qemu]: what starting a VM and leaving it cost under KVM.

Runs bench/exits.c on processors emulated by QEMU, with our program, with QEMU
itself (-M microvm) and with kvmtool when its path is given: the figures are
for comparing with each other, not with those of a real processor. Each
programs take turns, 11 each.
"""
import argparse
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "guest"))

from guest import PROGRAM, Place, Skip, Timeout  # noqa: E402
from nested import QEMU, nested_command  # noqa: E402

FIRMWARE = ("/usr/share/qemu/bios-microvm.bin", "/usr/share/qemu/linuxboot_dma.bin",
            "/usr/share/qemu/kvmvapic.bin")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kvmtool", help="kvmtool's program, lkvm")
    parser.add_argument("--runs", type=int, default=11, help="of each program (%(default)s)")
    parser.add_argument("--no-qemu", action="store_true", help="leave QEMU out")
    args = parser.parse_args()
    programs = [Path(PROGRAM[0]).parent / "bench" / "exits"]
    if args.kvmtool:
        programs.append(os.path.abspath(args.kvmtool))
    if not args.no_qemu:
        programs += [shutil.which(QEMU), *FIRMWARE]
    command = nested_command("lodge.what=bench", f"lodge.runs={args.runs}", programs=programs)
    with Place() as place, place.run(command) as run:
        try:
            run.wait_line("NESTED done", 120 + 60 * args.runs)
        except Timeout as why:
            print(why)
        for _, line in run.lines:
            if "port read" in line or line.startswith("exits:"):
                print(line)


try:
    main()
except Skip as why:
    sys.exit(f"bench/nested.py: {why}")
