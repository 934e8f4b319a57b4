#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""cases.py [-l] [--program FILE] [WORD...]: boot guests and check what they do.

Runs the cases whose names contain one of the words (all without any). Prints
a line per case and at the end "cases: N passed, N failed, N skipped".
"""
import argparse
import os
import sys
import time
import traceback

from guest import PROGRAM, Skip, Timeout

import bad_input
import boot
import clones
import console
import devices
import directed
import host
import images
import kills
import life
import nested
import network
import saves
import snapshots
import vsock


def run_case(case):
    """'passed', 'failed' or 'skipped', and why."""
    try:
        case.function(*case.args)
        return "passed", ""
    except Skip as why:
        return "skipped", str(why)
    except (AssertionError, Timeout) as why:
        return "failed", str(why)
    except Exception:  # a broken test counts as a failed one
        return "failed", traceback.format_exc()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-l", "--list", action="store_true", help="print the names only")
    parser.add_argument("--program", help="the lodge to test (default build/lodge)")
    parser.add_argument("words", nargs="*")
    args = parser.parse_args()
    if args.program:
        PROGRAM[0] = os.path.abspath(args.program)
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for case in (boot.CASES + console.CASES + bad_input.CASES + directed.CASES +
                 devices.CASES + images.CASES + host.CASES + life.CASES + clones.CASES + kills.CASES + network.CASES +
                 snapshots.CASES + saves.CASES + vsock.CASES + nested.CASES):
        if args.words and not any(word in case.name for word in args.words):
            continue
        if args.list:
            print(case.name)
            continue
        began = time.monotonic()
        result, why = run_case(case)
        counts[result] += 1
        line = f"  {result:8}{case.name} ({time.monotonic() - began:.1f} s)"
        print(line + (f": {why}" if why else ""), flush=True)
    if not args.list:
        print("cases: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    sys.exit(1 if counts["failed"] else 0)


main()
