# SPDX-License-Identifier: GPL-2.0-or-later
"""Saved states: guests that go on from them, and the verbs that keep them."""
import hashlib
import json
import os
import re
import signal
import time
from pathlib import Path

from guest import PROGRAM, Case, Place, check, initramfs, initramfs_with_modules, kernel
from life import PATIENCE, Full, Lodge, Small, options
from nested import INNER, through_nested

APPEND = "console=ttyS0 quiet nokaslr lodge.test="
# LODGE_SNAPSHOTS=200 for the long form.
SNAPSHOTS = int(os.environ.get("LODGE_SNAPSHOTS", "4"))


def snap():
    return str(Path(PROGRAM[0]).parent / "tests" / "guest" / "snap")


def went_on(output, cpus, engines):
    """What a guest prints that was saved under each of these engines and went on under the next."""
    check("SNAP ended, 0, under" in output, output)
    took = re.findall(r"SNAP to (\w+)", output)
    # The last marks come shortly before the guest's end.
    check(took and took == list(engines[1:len(took) + 1]), f"restores: {output}")
    check(int(re.search(INNER, output)[1]) == cpus, "the guest lost a CPU")
    for cpu in range(cpus):
        check(f"LODGE-TEST cpu want={cpu} got={cpu} i=2000" in output,
              f"CPU {cpu} did not do its work: {output}")
    check("LODGE-TEST done" in output, "the guest did not end by itself")


def saved_here(cpus, *engines):
    """Saved, ended, and gone on with by a new VM, at each of its marks."""
    command = [snap(), kernel("cloud"), initramfs(), APPEND + "cpus", str(cpus), *engines]
    with Place() as place, place.run(command) as run:
        check(run.wait_exit(PATIENCE) == 0, run.describe())
        went_on(run.stdout(), cpus, engines)


def saved_with_disk():
    """Again and again in the middle of its writes, whenever some time has passed."""
    command = [snap(), kernel("cloud"), initramfs_with_modules("cloud"), APPEND + "disk", "2",
               *["soft"] * (SNAPSHOTS + 1)]
    with Place() as place:
        image = Path(place.path) / "disk"
        with open(image, "wb") as file:
            file.truncate(32 << 20)
        command = ["env", f"SNAP_DISK={image}", "SNAP_EVERY=150", *command]
        with place.run(command) as run:
            run.wait_exit(PATIENCE)
            output = run.stdout()
        # A quick host is done before all of them.
        check("SNAP ended, 0, under soft" in output, output)
        check(len(re.findall("SNAP to soft", output)) >= 3, f"too few to tell: {output}")
        after = re.search(r"LODGE-TEST disk after (\w{32})", output)
        check(after and after[1] == hashlib.md5(image.read_bytes()).hexdigest(),
              f"the disk is not what the guest wrote: {output}")


def last_number(lodge, name):
    """How far the guest has come, by its console."""
    return int(re.findall(r"LODGE-TEST keep (\d+)", lodge.verb("logs", name))[-1])


def wait_number(lodge, name, number):
    lodge.wait_log(name, rf"(?s).*LODGE-TEST keep {number}\n")


def kept_guest(lodge):
    """A guest with a disk that checks for itself whether memory and disk belong together."""
    name = lodge.name()
    disk = lodge.path / "disk.raw"
    with open(disk, "wb") as file:
        file.truncate(64 << 20)
    lodge.verb("create", "--name", name, "--cpu", "x86-64-v2", "-c", "2", "--disk", str(disk),
               *options("keep", initramfs_with_modules("cloud")))
    lodge.verb("start", name)
    wait_number(lodge, name, 2)
    return name


def fine(lodge, name):
    log = lodge.verb("logs", name)
    check("BAD" not in log, f"the guest found: {re.findall('.*BAD.*', log)}")


def verbs():
    """snapshot, snapshots and restore, and what they refuse."""
    with Lodge() as lodge:
        name = kept_guest(lodge)
        folder = lodge.state / "guests" / name / "snapshots"
        lodge.refuses("has no snapshot nope", "restore", name, "nope")
        lodge.refuses("is no tag", "snapshot", name, "../x")
        taken = json.loads(lodge.verb("snapshot", "--format", "json", name, "one"))
        check(taken["tag"] == "one" and taken["engine"] == "soft" and taken["size"] > 1 << 20,
              f"{taken}")
        at = last_number(lodge, name)
        lodge.refuses("has a snapshot one already", "snapshot", name, "one")
        wait_number(lodge, name, at + 2)
        lodge.verb("snapshot", "-q", name, "two")
        check(lodge.verb("snapshots", "-q", name) == "one\ntwo\n", "not all are listed")
        listed = json.loads(lodge.verb("snapshots", "--format", "json", name))
        check([s["tag"] for s in listed] == ["one", "two"], f"{listed}")
        # Back, although it runs.
        log = len(lodge.verb("logs", name))
        check(lodge.verb("restore", name, "one") == f"{name}\n", "restore does not print the name")
        check(lodge.states() == {name: "running"}, f"{lodge.states()}")
        lodge.wait_log(name, rf"(?s).{{{log}}}.*LODGE-TEST keep {at + 1}\n")
        lodge.verb("kill", name)
        lodge.refuses("not running", "snapshot", name, "three")
        # Stopped, and to another one; from there it can start as ever.
        lodge.verb("restore", "-q", name, "two")
        lodge.verb("kill", "-q", name)
        before = (lodge.state / "guests" / name / "disks" / "disks.json").read_text()
        # A state that was changed: nothing has changed by trying.
        state = folder / "two" / "state"
        good = state.read_bytes()
        state.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        lodge.refuses("section '[a-z-]+' was changed", "restore", name, "two")
        state.write_bytes(good[:-1])
        lodge.refuses("its end is missing", "restore", name, "two")
        state.write_bytes(good)
        check((lodge.state / "guests" / name / "disks" / "disks.json").read_text() == before,
              "a restore that failed has changed the disks")
        # Memory that was changed: seen in the background, and the guest is stopped.
        with open(folder / "two" / "memory", "r+b") as memory:
            memory.seek(200 << 20)
            memory.write(b"damaged")
        lodge.verb("start", "-q", name)
        lodge.refuses("memory was changed or is damaged", "restore", name, "two")
        check(lodge.states() == {name: "running"}, "a guest was given up for a damaged snapshot")
        lodge.verb("kill", "-q", name)
        lodge.try_verb("restore", "-q", name, "two")
        lodge.wait_state(name, "failed")
        check("memory was changed or is damaged" in lodge.verb("info", name), "nobody was told why")
        lodge.verb("snapshot", "--rm", name, "two")
        check(lodge.verb("snapshots", "-q", name) == "one\n", "it is still there")
        check(sorted(p.name for p in folder.iterdir()) == ["one"], "something is left of it")
        lodge.verb("restore", "-q", name, "one")
        fine(lodge, name)


def again_and_again():
    """Snapshots and restores of a guest under load, which finds nothing wrong."""
    with Lodge() as lodge:
        name = kept_guest(lodge)
        for turn in range(SNAPSHOTS):
            lodge.verb("snapshot", "-q", name, f"s{turn}")
            lodge.verb("restore", "-q", name, f"s{turn - turn % 3}")
            log = len(lodge.verb("logs", name))
            lodge.wait_log(name, rf"(?s).{{{log}}}.*LODGE-TEST keep \d+\n")
        fine(lodge, name)
        lodge.verb("kill", "-q", name)


def goes_on(lodge, name):
    at = last_number(lodge, name)
    wait_number(lodge, name, at + 1)
    fine(lodge, name)


def cut_short():
    """A disk that is full, and ctrl-C: nothing has changed, and the guest goes on."""
    with Lodge() as lodge, Full(lodge, "24m") as disk:
        name = kept_guest(lodge)
        folder = lodge.state / "guests" / name / "snapshots"
        lodge.refuses("No space left", "snapshot", name, "full")
        check(not list(folder.iterdir()), f"left: {list(folder.iterdir())}")
        goes_on(lodge, name)
        disk.grow("900m")
        command = [*PROGRAM, "snapshot", "-q", name, "cut"]
        with lodge.run(command) as run:
            time.sleep(0.05)
            run.process.send_signal(signal.SIGINT)
            run.wait_exit(PATIENCE)
        # It is under way for a moment yet. If it was complete, and had no name, the next one sweeps it away.
        deadline = time.monotonic() + PATIENCE
        while lodge.try_verb("snapshot", "-q", name, "good").returncode:
            check(time.monotonic() < deadline, "there is no second one")
            time.sleep(0.05)
        left = {p.name for p in folder.iterdir()}
        check(left in ({"good"}, {"cut", "good"}), f"left: {left}")
        goes_on(lodge, name)
        lodge.verb("restore", "-q", name, "good")
        goes_on(lodge, name)


def no_room_for_the_guest():
    """While what the guest writes waits for room, no snapshot ends the wait with an error."""
    with Lodge() as lodge, Small(lodge.path / "small", "8m") as small:
        name = lodge.name()
        disk = small.path / "disk.raw"
        with open(disk, "wb") as file:
            file.truncate(32 << 20)
        lodge.verb("run", "-q", "-d", "--name", name, "--disk", str(disk),
                   *options("fill", initramfs_with_modules("cloud")))
        messages = lodge.state / "guests" / name / "messages"
        deadline = time.monotonic() + PATIENCE
        while "no room is left" not in messages.read_text():
            check(time.monotonic() < deadline, "it found room for everything")
            time.sleep(0.1)
        lodge.refuses("waits for room on the host", "snapshot", name, "tag")
        small.grow("64m")
        lodge.wait_log(name, "LODGE-TEST fill ended 0")


def another_generation():
    """A stock kernel draws new random numbers in a fork and after a restore, and the original does not."""
    words = ["--engine", "soft", "-m", "256M", "--kernel", kernel("amd64"), "--initrd", initramfs(),
             "--append", "console=ttyS0 nokaslr lodge.test=talk"]
    reseeded = "crng reseeded due to virtual machine fork"
    with Lodge() as lodge:
        one, two = lodge.name(), lodge.name()
        lodge.verb("run", "-q", "-d", "--name", one, *words)
        lodge.wait_log(one, "talk ready")
        lodge.verb("snapshot", "-q", one, "tag")
        lodge.verb("fork", "-q", one, two)
        lodge.wait_log(two, reseeded)
        check(reseeded not in lodge.verb("logs", one), "the original took itself for a copy")
        lodge.verb("restore", "-q", one, "tag")
        lodge.wait_log(one, reseeded)


CASES = [
    Case("saved and gone on with", saved_here, 2, *["soft"] * 4),
    Case("saved and gone on with while it writes to a disk", saved_with_disk),
    Case("snapshot, snapshots and restore", verbs),
    Case("snapshot with a full disk, and cancelled", cut_short),
    Case("snapshot while the guest's writes wait for room", no_room_for_the_guest),
    Case("new random numbers after fork and restore", another_generation),
    Case(f"{SNAPSHOTS} snapshots and restores", again_and_again),
    Case("saved under one engine, gone on with by the other, nested", through_nested, "snap", snap,
         went_on, 1, "kvm", "soft", "kvm"),
]
