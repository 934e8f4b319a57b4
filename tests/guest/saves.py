# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that are saved when the host stops, by the commands that the units run."""
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from clones import new_disk, options, wrote
from guest import PROGRAM, Case, check
from life import PATIENCE, Full, Lodge
from snapshots import fine, kept_guest, last_number, wait_number

UNIT = Path(__file__).resolve().parent.parent.parent / "systemd" / "lodge.service.in"


def unit(key):
    """The arguments of what a unit runs."""
    line = re.search(rf"^{key}=@lodge@ (.*)$", UNIT.read_text(), re.M)
    check(line, f"the unit has no {key}")
    return line[1].split()


def at_shutdown():
    """One is saved and goes on, one is stopped and boots; what was saved is there once."""
    with Lodge() as lodge:
        one, two = kept_guest(lodge), lodge.name()
        saved = lodge.state / "guests" / one / "saved"
        lodge.verb("set", "-q", "--at-shutdown", "save", "--autostart", "on", one)
        lodge.verb("run", "-q", "-d", "--name", two, "--autostart", "on", *options())
        at = last_number(lodge, one)
        stop = unit("ExecStop")
        stop[stop.index("--timeout") + 1] = "0"
        stop.remove("--all")  # that would be those of other tests, too
        lodge.verb(*stop, one, two)
        check(lodge.states() == {one: "saved", two: "stopped"}, f"{lodge.states()}")
        # What is damaged is told of, and kept.
        with open(saved / "memory", "r+b") as memory:
            memory.seek(100 << 20)
            good = memory.read(8)
            memory.seek(100 << 20)
            memory.write(b"damaged!")
        lodge.refuses("memory was changed or is damaged(.|\n)*--anew", "start", one)
        check(saved.exists() and lodge.states()[one] == "saved", "what was saved is gone")
        with open(saved / "memory", "r+b") as memory:
            memory.seek(100 << 20)
            memory.write(good)
        begun = lodge.verb("logs", one)
        lodge.verb(*unit("ExecStart"))
        check(lodge.states() == {one: "running", two: "running"}, f"{lodge.states()}")
        check(not saved.exists(), "what was saved is still there")
        wait_number(lodge, one, at + 2)
        fine(lodge, one)
        check("LODGE-TEST init" not in lodge.verb("logs", one)[len(begun):], "it was booted")
        # Without it.
        lodge.verb("stop", "-q", "--save", one)
        check(lodge.states()[one] == "saved", f"{lodge.states()}")
        lodge.verb("start", "-q", "--anew", one)
        lodge.wait_log(one, "(?s)" + "LODGE-TEST init.*" * 2)
        check(not saved.exists(), "what was saved is still there")
        lodge.verb("stop", "-q", "-t", "0", one, two)


def save_killed():
    """SIGKILL of command or guest while it is saved or goes on: a guest of before or of afterwards."""
    with Lodge() as lodge:
        name = lodge.name()
        lodge.verb("run", "-q", "-d", "--name", name, *options(new_disk(lodge)))
        number = wrote(lodge, name)
        for turn in range(5):
            if lodge.states()[name] != "running":
                lodge.verb("start", name)
            pid = lodge.info(name)["pid"]
            with subprocess.Popen([*PROGRAM, "stop", "-q", "--save", name], env=lodge.env(),
                                  stderr=subprocess.DEVNULL) as save:
                time.sleep(0.04 * turn)
                os.kill(pid if turn % 2 else save.pid, signal.SIGKILL)
            deadline = time.monotonic() + PATIENCE
            while (state := lodge.states()[name]) in ("running", "starting"):
                check(time.monotonic() < deadline, f"turn {turn}: it does not end")
                lodge.try_verb("kill", "-q", name) # it may just be ending, saved or not
            check(state in ("saved", "crashed", "stopped"), f"turn {turn}: {state}")
            said = len(re.findall("count wrote", lodge.verb("logs", name)))
            with subprocess.Popen([*PROGRAM, "start", "-q", name], env=lodge.env(),
                                  stderr=subprocess.DEVNULL) as start:
                if turn % 3 == 2:
                    time.sleep(0.02 * turn)
                    start.kill()
            # The guest's process may be on its way without its caller.
            deadline = time.monotonic() + PATIENCE
            while lodge.states()[name] != "running":
                check(time.monotonic() < deadline, f"turn {turn}: it does not start")
                lodge.try_verb("start", "-q", name)
            while len(re.findall("count wrote", lodge.verb("logs", name))) <= said:
                check(lodge.states()[name] == "running", f"turn {turn}: {lodge.states()}")
                time.sleep(0.02)
            log = lodge.verb("logs", name)
            for found, record in re.findall(r"count found (\d+) (\d*)\r?\n", log):
                check(found in ("0", record), f"turn {turn}: {found} and {record!r} on the disk")
            last = int(re.findall(r"count wrote (\d+)\r?\n", log)[-1])
            check(last > number, f"turn {turn}: {number} was lost: {last}")
            number = last
        lodge.verb("kill", "-q", name)
        lodge.verb("prune", "-q", "-f")
        hidden = list(lodge.state.rglob(".*"))
        check(not hidden, f"left: {hidden}")


def save_full():
    """A full disk: it goes on, and at shutdown it is stopped instead."""
    with Lodge() as lodge, Full(lodge, "8m") as full:
        name = lodge.name()
        lodge.verb("run", "-q", "-d", "--name", name, "--at-shutdown", "save", *options())
        lodge.wait_log(name, "LODGE-TEST init")
        lodge.refuses("No space left", "stop", "--save", name)
        check(lodge.states() == {name: "running"}, f"{lodge.states()}")
        check(not (full.path / "guests" / name / "saved").exists(), "something was kept")
        done = lodge.try_verb("stop", "-t", "0", "--at-shutdown", name)
        check("No space left" in done.stderr, done.stderr)
        check(lodge.states() == {name: "stopped"}, f"{lodge.states()}")


CASES = [
    Case("saved when the host stops, gone on with when it starts", at_shutdown),
    Case("saving, where somebody is killed", save_killed),
    Case("saving with a full disk", save_full),
]
