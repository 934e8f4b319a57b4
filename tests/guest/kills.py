# SPDX-License-Identifier: GPL-2.0-or-later
"""SIGKILL of whoever works on a guest with disks and snapshots, during every verb; and what is left."""
import json
import os
import random
import re
import signal
import time

from clones import layers, new_disk, options, start, wrote
from guest import PROGRAM, Case, check
from life import PATIENCE, Lodge

# LODGE_KILLS=500 for the long form.
KILLS = int(os.environ.get("LODGE_KILLS", "8"))
SEED = int(os.environ.get("LODGE_SEED", os.getpid()))

# Until when after its start a command may be killed, in seconds.
SPANS = {"snapshot": 0.3, "restore": 0.15, "clone": 0.06, "fork": 0.3, "drop": 0.02, "edit": 0.02,
         "set": 0.02, "prune": 0.02, "pause": 0.03, "stop": 0.05, "start": 0.15, "rename": 0.02,
         "rm": 0.02, "recover": 0.02}


class Victim:
    """A guest that is kept through everything, and the guests that come of it."""

    def __init__(self, lodge, dice):
        self.lodge = lodge
        self.dice = dice
        self.name = lodge.name()
        self.others = [lodge.name(), lodge.name()]
        self.tags = ("one", "two")
        # What it has said since is lost by a restore that was begun.
        self.floor = 0

    def command(self, verb):
        """What is to be killed, after what has to be so before."""
        dice, lodge = self.dice, self.lodge
        if verb in ("snapshot", "fork", "pause", "stop"):
            self.run()
        elif verb in ("start", "rename", "rm", "recover"):
            lodge.try_verb("kill", "-q", self.name)
        tags = lodge.verb("snapshots", "-q", self.name).split()
        tag = dice.choice(self.tags)
        if verb == "snapshot" and tag in tags:
            lodge.verb("snapshot", "--rm", self.name, tag)
        if verb in ("restore", "drop") and tag not in tags:
            if not tags:
                self.run()
                lodge.verb("snapshot", "-q", self.name, tag)
            else:
                tag = tags[0]
        if verb == "restore":
            self.floor = 0
        if verb == "recover":
            lodge.verb("rm", "-q", self.name)
        return {"snapshot": ["snapshot", self.name, tag], "restore": ["restore", self.name, tag],
                "drop": ["snapshot", "--rm", self.name, tag],
                "clone": ["clone", self.name, self.others[0]],
                "fork": ["fork", self.name, *self.others],
                "edit": ["edit", self.name], "prune": ["prune", "-f"],
                "set": ["set", self.name, "--autostart", dice.choice(("on", "off"))],
                "pause": ["pause", self.name], "stop": ["stop", "-t", "0", self.name],
                "start": ["start", self.name],
                "rename": ["rename", self.name, self.others[0]], "rm": ["rm", self.name],
                "recover": ["recover", self.name]}[verb]

    def run(self):
        """It runs, and nothing that it had said to have written is lost."""
        state = self.lodge.states()[self.name]
        if state == "paused":
            self.lodge.verb("resume", self.name)
        elif state != "running":
            number = start(self.lodge, self.name)
            if self.floor:
                check(number >= self.floor, f"{self.floor} was lost: {number}")
        self.wait_more()

    def log(self):
        return self.lodge.try_verb("logs", self.name).stdout

    def wait_more(self):
        """It writes on, whether it was started, restored or has just gone on."""
        begun = len(re.findall(r"count wrote", self.log()))
        deadline = time.monotonic() + PATIENCE
        while len(said := re.findall(r"count wrote (\d+)\r?\n", self.log())) <= begun:
            check(time.monotonic() < deadline, f"it writes no more: {self.log()[-300:]}")
            time.sleep(0.02)
        self.floor = int(said[-1])

    def settle(self, when):
        """Everything that is listed can be run or removed."""
        lodge = self.lodge
        deadline = time.monotonic() + PATIENCE
        while "starting" in (states := lodge.states()).values():
            check(time.monotonic() < deadline, f"{when}: somebody never starts: {states}")
            time.sleep(0.02)
        check("broken" not in states.values(), f"{when}: {states}")
        if self.name not in states:
            trash = [p.name for p in (lodge.state / "trash").glob(f"{self.name}~*")]
            if trash:
                lodge.verb("recover", "-q", self.name)
            else:
                check(self.others[0] in states, f"{when}: it vanished: {states}")
                lodge.verb("rename", "-q", self.others[0], self.name)
                del states[self.others[0]]
        for other in self.others:
            if other in states:
                if self.dice.random() < 0.3 and states[other] != "running":
                    start(lodge, other)
                lodge.verb("rm", "-q", "-f", other)
        for tag in lodge.verb("snapshots", "-q", self.name).split():
            check(json.loads(lodge.verb("snapshots", "--format", "json", self.name)),
                  f"{when}: {tag} is damaged")


def nothing_left(lodge, name, when):
    """Of a guest that does not run: after the next verb that may, what was left is gone."""
    lodge.verb("prune", "-q", "-f")
    folder = lodge.state / "guests" / name
    hidden = [p for p in lodge.state.rglob(".*")]
    check(not hidden, f"{when}: left: {hidden}")
    check(sorted(os.listdir(lodge.state / "guests")) == [name], f"{when}: more than the guest is left")
    named = json.loads((folder / "disks" / "disks.json").read_text())["disks"][0]["top"] \
        if (folder / "disks").exists() else None
    chain = []
    while named:
        chain.append(named)
        facts = json.loads(lodge.verb("image", "info", "--format", "json",
                                      str(folder / "disks" / named)))
        below = facts.get("backing") or ""
        named = below if below.startswith("layer-") else None
    there = [p.name for p in layers(lodge, name)]
    check(sorted(there) == sorted(chain), f"{when}: {there} are there, {chain} are used")


def killed_with_disks():
    """The command, its guest's process or both, during every verb."""
    dice = random.Random(SEED)
    verbs = list(SPANS)
    with Lodge() as lodge:
        victim = Victim(lodge, dice)
        lodge.extra_env = {"EDITOR": "true", "VISUAL": ""}
        lodge.verb("run", "-q", "-d", "--name", victim.name, *options(new_disk(lodge)))
        wrote(lodge, victim.name)
        order = []
        for turn in range(KILLS):
            if not order:
                order = dice.sample(verbs, len(verbs))
            verb = order.pop()
            when = f"seed {SEED}, turn {turn}, {verb}"
            command = victim.command(verb)
            with lodge.run([*PROGRAM, *command]) as run:
                time.sleep(dice.random() * SPANS[verb])
                guest = json.loads(lodge.try_verb("info", "--format", "json", victim.name).stdout
                                   or "{}").get("pid")
                if guest and dice.random() < 0.4:
                    try:
                        os.kill(guest, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                run.process.send_signal(signal.SIGKILL)
            victim.settle(when)
            if dice.random() < 0.3:
                lodge.try_verb("kill", "-q", victim.name)
                nothing_left(lodge, victim.name, when)
        victim.run()
        lodge.verb("kill", "-q", victim.name)
        nothing_left(lodge, victim.name, "in the end")
        for tag in lodge.verb("snapshots", "-q", victim.name).split():
            lodge.verb("restore", "-q", victim.name, tag)
            victim.wait_more()
        lodge.verb("rm", "-q", "-f", victim.name)
        lodge.verb("prune", "-q", "-f")
        # The disk is the user's, and so is a text that was being edited.
        left = [p for p in lodge.left() if not re.search(r"\.img$|^tmp/.*\.yaml$", p)]
        check(not left, f"left behind: {left}")


def other_process():
    """What a killed process left is swept, also when its PID is another's by now."""
    with Lodge() as lodge:
        name = lodge.name()
        lodge.verb("create", "--name", name, "--kernel", "/k")
        folder = lodge.state / "guests" / name
        (folder / "snapshots").mkdir()
        alive = os.getpid()
        for left in (f".{alive}-1.guest.yaml", ".last.json.new", f".saved.{alive}/state",
                     f"snapshots/.{alive}-1.tag/disks/layer", f"../.{alive}-1.{name}/guest.yaml"):
            (folder / left).parent.mkdir(parents=True, exist_ok=True)
            (folder / left).write_text("half")
        # These are under way, or nobody's: the time when a process began cannot be said everywhere.
        stays = [folder / f".{alive}-0.guest.yaml", folder / ".notes"]
        for path in stays:
            path.write_text("whole")
        lodge.verb("prune", "-q", "-f")
        hidden = sorted(lodge.state.rglob(".*"))
        check(hidden == sorted(stays), f"left: {hidden}")
        check(lodge.states() == {name: "created"}, f"{lodge.states()}")
        for path in stays:
            path.unlink()
        nothing_left(lodge, name, "in the end")


CASES = [
    Case("what processes left whose PIDs are others' by now", other_process),
    Case(f"kill -9 during {KILLS} verbs of a guest with disks", killed_with_disks),
]
