#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that has ended by itself is ended like others, with what it has started."""
import tempfile
import time
from pathlib import Path

import machines


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def main():
    with tempfile.TemporaryDirectory() as folder:
        machines.BENCH = Path(folder)
        # The child says so when it has nothing of the machine's any more but its group.
        child = "echo child $$; exec sleep 300 >/dev/null 2>&1"
        machine = machines.Machine(None, ["sh", "-c", f"sh -c '{child}' </dev/null &"],
                                   Path(folder) / "log")
        try:
            child = int(machine.wait("child", 60)[1])
            machine.process.wait()
            try:
                machine.send("work")
                raise SystemExit("a machine that is gone takes requests")
            except machines.Failed:
                pass
            assert not machine.end(1)
        finally:
            machine.kill()
        # A signal takes its time, and who has the child now may not have asked for it yet.
        while is_running(child):
            time.sleep(0.01)


main()
