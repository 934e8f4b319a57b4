# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests made from others, and what their disks stand on."""
import hashlib
import os
import random
import re
import signal
import subprocess
import time

from guest import PROGRAM, Case, check, initramfs_with_modules, kernel

from life import Full, Lodge

# LODGE_KILLS=500 for the long form.
KILLS = int(os.environ.get("LODGE_KILLS", "3"))
DISK = 8 << 20


def options(*disks):
    words = ["--engine", "soft", "-m", "128M", "--kernel", kernel("cloud"),
             "--initrd", initramfs_with_modules("cloud"),
             "--append", "console=ttyS0 quiet lodge.test=count"]
    return words + [word for disk in disks for word in ("--disk", str(disk))]


def new_disk(lodge, name="disk.img"):
    path = lodge.path / name
    with open(path, "wb") as file:
        file.truncate(DISK)
    return path


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


FOUND = r"count found (\d+) (\d*)\r?\n"


def start(lodge, name):
    """Start it; the number that it finds on its disk, whose record has to be the same."""
    before = len(re.findall(FOUND, lodge.try_verb("logs", name).stdout))
    lodge.verb("start", name)
    while len(seen := re.findall(FOUND, lodge.wait_log(name, FOUND))) <= before:
        time.sleep(0.05)
    number, record = seen[-1]
    check(number in ("0", record), f"{number} is on the disk, and {record!r} in its record")
    return int(number)


def wrote(lodge, name, at_least=1):
    """Wait until it has written that number; the last one that it has said."""
    while True:
        said = re.findall(r"count wrote (\d+)\r?\n", lodge.wait_log(name, r"count wrote \d+\r?\n"))
        if int(said[-1]) >= at_least:
            return int(said[-1])
        time.sleep(0.05)


def layers(lodge, name):
    return sorted((lodge.state / "guests" / name / "disks").glob("*.qcow2"))


def clones():
    """Of a guest that runs and one that does not; each goes its own way, and outlives the others."""
    with Lodge() as lodge:
        one, two, three, four = (lodge.name() for _ in range(4))
        disk = new_disk(lodge)
        lodge.verb("run", "-q", "-d", "--name", one, *options(disk))
        before = wrote(lodge, one)
        check(lodge.verb("clone", one, two) == f"{two}\n", "clone does not print the name")
        frozen = md5(disk)
        after = wrote(lodge, one, before + 3)
        lodge.refuses("a guest named", "clone", one, two)
        lodge.refuses("no guest named", "clone", "nobody-here", three)
        number = start(lodge, two)
        check(before <= number <= after, f"{number} is not between {before} and {after}")
        wrote(lodge, two, number + 1)
        # Nobody writes to what they stand on.
        check(os.stat(disk).st_mode & 0o222 == 0, "the frozen disk can be written to")
        lodge.refuses("no write permission", "run", "-q", *options(disk))
        for name in one, two:
            lodge.verb("kill", name)
        lodge.refuses("no write permission", "run", "-q", *options(disk))
        last = wrote(lodge, one)
        lodge.verb("clone", one, three)
        lodge.verb("clone", "--full", "-q", one, four)
        check(len(layers(lodge, three)) == 2 and len(layers(lodge, four)) == 1,
              f"{layers(lodge, three)} {layers(lodge, four)}")
        lodge.verb("rm", one)
        lodge.verb("prune", "-q", "-f")
        for name in three, four:
            check(start(lodge, name) >= last, "the clone of a stopped guest has lost something")
            lodge.verb("kill", name)
        check(md5(disk) == frozen, "what the guests stand on has changed")
        lodge.verb("image", "check", str(layers(lodge, four)[0]))
        # A layer of which one has a link is the other's still.
        check(start(lodge, two) > number, "a clone has lost what it wrote")


def forks():
    """They go on where the original was, on disks and in memory of their own, and nothing is left if one cannot be."""
    with Lodge() as lodge:
        one, two, three, four = (lodge.name() for _ in range(4))
        lodge.verb("run", "-q", "-d", "--name", one, *options(new_disk(lodge)))
        before = wrote(lodge, one)
        lodge.refuses("a guest named", "fork", one, two, one)
        lodge.refuses("given twice", "fork", one, two, two)
        lodge.refuses("does not run", "fork", "nobody-here", two)
        check(two not in lodge.verb("ls", "-q").split(), "a fork that was refused has made a guest")
        check(lodge.verb("fork", one, two, three) == f"{two}\n{three}\n", "fork prints no names")
        numbers = {name: wrote(lodge, name, before + 2) for name in (two, three, one)}
        # One of them may be forked again, and outlives those it came from.
        lodge.verb("fork", "-q", two, four)
        for name in one, two, three:
            check(not list((lodge.state / "guests" / name).glob("snapshots/.*")), "files are left")
            lodge.verb("kill", name)
        wrote(lodge, four, numbers[two] + 2)
        for name in two, three, four:
            check("count found" not in lodge.verb("logs", name), f"{name} has booted")
        lodge.verb("kill", four)
        # What they have written stands on their disks.
        for name in one, two, three, four:
            check(start(lodge, name) >= numbers.get(name, numbers[two]), f"{name} has lost writes")
            lodge.verb("rm", "-f", "-q", name)


def clones_named():
    """What of the definition has to be another's."""
    with Lodge() as lodge:
        one, two = lodge.name(), lodge.name()
        lodge.verb("create", "--name", one, "--kernel", "/k", "--net", "user,mac=52:54:00:12:34:56",
                   "-p", "8080:80", "--vsock", "/tmp/a.sock", "--port", "a=/tmp/b.sock")
        lodge.verb("clone", one, two)
        text = lodge.verb("info", "--format", "yaml", two)
        check("52:54" not in text and "8080" not in text, text)
        for words in "user", "0:80", f"/tmp/a.sock.{two}", f"a=/tmp/b.sock.{two}":
            check(words in text, f"no {words} in {text}")


def clones_killed():
    """SIGKILL of guest and command at any moment: what was acknowledged is there, and both names work."""
    dice = random.Random(7)
    with Lodge() as lodge:
        one, two = lodge.name(), lodge.name()
        lodge.verb("run", "-q", "-d", "--name", one, *options(new_disk(lodge)))
        wrote(lodge, one)
        for turn in range(KILLS):
            pid = lodge.info(one)["pid"]
            with subprocess.Popen([*PROGRAM, "clone", one, two], env=lodge.env(),
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as clone:
                time.sleep(dice.random() * 0.2)
                if turn % 3:
                    os.kill(pid, signal.SIGKILL)
                if turn % 3 != 1:
                    clone.kill()
            if turn % 3:
                lodge.wait_state(one, "crashed")
            said = re.findall(r"count wrote (\d+)\r?\n", lodge.verb("logs", one))
            if two in lodge.states():
                start(lodge, two)
                lodge.verb("rm", "-q", "-f", two)
            if turn % 3:
                number = start(lodge, one)
                check(number >= int(said[-1]), f"turn {turn}: {said[-1]} was lost: {number}")
            else:
                check(lodge.states()[one] == "running", f"turn {turn}: {lodge.states()}")
            wrote(lodge, one)
        for image in layers(lodge, one):
            lodge.verb("image", "info", str(image))


def clones_full():
    """A full disk: an error, and the guest goes on where it was."""
    with Lodge() as lodge, Full(lodge, "24m") as full:  # more than it ever writes
        one, two = lodge.name(), lodge.name()
        disk = new_disk(lodge)
        lodge.verb("run", "-q", "-d", "--name", one, *options(disk))
        before = wrote(lodge, one)
        full.fill()
        lodge.refuses("No space left", "clone", one, two)
        lodge.refuses("No space left", "fork", one, two)
        check(two not in lodge.states(), "half a clone is there")
        full.empty()
        wrote(lodge, one, before + 2)
        check(os.stat(disk).st_mode & 0o222 or layers(lodge, one), "it has nothing to write to")
        lodge.verb("clone", one, two)
        check(start(lodge, two) >= before, "the clone has lost something")


def restore_full():
    """A full disk: a guest that runs is not given up for a restore, and one that does not keeps its disks."""
    with Lodge() as lodge, Full(lodge, "200m") as full:
        name = lodge.name()
        lodge.verb("run", "-q", "-d", "--name", name, *options(new_disk(lodge)))
        wrote(lodge, name)
        lodge.verb("snapshot", "-q", name, "tag")
        saved = wrote(lodge, name)
        before = wrote(lodge, name, saved + 3)
        pid = lodge.info(name)["pid"]
        full.fill()
        lodge.refuses("No space left", "restore", name, "tag")
        check(lodge.states() == {name: "running"}, f"{lodge.states()}")
        full.empty()
        before = wrote(lodge, name, before + 2)
        check(lodge.info(name)["pid"] == pid, "it was started anew")
        lodge.verb("kill", name)
        full.fill()
        lodge.refuses("No space left", "restore", name, "tag")
        check(lodge.states() == {name: "stopped"}, f"{lodge.states()}")
        full.empty()
        check(start(lodge, name) >= before, "its disk is another")
        # What takes no room is done all the same, and makes some.
        full.fill()
        lodge.verb("kill", name)
        lodge.verb("snapshot", "--rm", name, "tag")
        check(lodge.verb("snapshots", "-q", name) == "", "it is still there")
        lodge.verb("prune", "-q", "-f")
        full.empty()
        check(start(lodge, name) >= before, "its disk is another")


CASES = [
    Case("clones of a running and a stopped guest", clones),
    Case("forks of a running guest", forks),
    Case("clones with names of their own", clones_named),
    Case("clones where somebody is killed", clones_killed),
    Case("clones with a full disk", clones_full),
    Case("restore with a full disk", restore_full),
]
