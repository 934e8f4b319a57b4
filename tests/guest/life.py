# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests in the background: from create to prune, and what is left when things go wrong."""
import json
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from guest import (PROGRAM, Case, Place, Skip, Timeout, check, fresh_name, initramfs,
                   initramfs_with_modules, kernel)

# LODGE_KILLS=500 for the long form.
KILLS = int(os.environ.get("LODGE_KILLS", "30"))
PATIENCE = 300


class Lodge(Place):
    """A folder with guests of its own; none of them outlives it."""

    def __init__(self):
        super().__init__()
        self.names = []
        self.state = self.path / "state"
        self.extra_env = {}

    @staticmethod
    def shared():
        """These guests put nothing into /dev/shm, and other tests may run at the same time."""
        return {path for path in Place.shared() if path.startswith("/run/")}

    def env(self):
        return dict(os.environ, XDG_RUNTIME_DIR=str(self.path / "runtime"),
                    LODGE_STATE_DIR=str(self.state), HOME=str(self.path / "home"),
                    TMPDIR=str(self.path / "tmp"), **self.extra_env)

    def name(self):
        self.names.append(fresh_name())
        return self.names[-1]

    def try_verb(self, *arguments, stdin="", program=PROGRAM):
        """The finished command; standard output and error as text."""
        try:
            return subprocess.run([*program, *arguments], env=self.env(), cwd=self.path / "cwd",
                                  input=stdin, capture_output=True, text=True, errors="replace",
                                  timeout=PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            raise Timeout(f"lodge {' '.join(arguments)} takes more than {PATIENCE} s") from None

    def verb(self, *arguments, status=0, stdin=""):
        """What it prints; the exit status has to be this."""
        done = self.try_verb(*arguments, stdin=stdin)
        check(done.returncode == status, f"lodge {' '.join(arguments)}: exit status "
              f"{done.returncode}: {done.stdout} {done.stderr}")
        return done.stdout if status == 0 else done.stderr

    def refuses(self, words, *arguments, status=1, stdin=""):
        text = self.verb(*arguments, status=status, stdin=stdin)
        check(re.search(words, text), f"no {words!r} in: {text}")

    def info(self, name):
        return json.loads(self.verb("info", "--format", "json", name))

    def states(self):
        """State by name, of this folder's guests."""
        return {guest["name"]: guest["state"]
                for guest in json.loads(self.verb("ls", "--format", "json"))
                if guest["name"] in self.names}

    def wait_log(self, name, pattern):
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, text := self.verb("logs", name)):
            if time.monotonic() > deadline:
                raise Timeout(f"no {pattern!r} in the log of {name}: {text[-300:]}")
            time.sleep(0.05)
        return text

    def wait_state(self, name, state):
        deadline = time.monotonic() + PATIENCE
        while (now := self.states().get(name)) != state:
            if time.monotonic() > deadline:
                raise Timeout(f"the state of {name} is {now}, not {state}")
            time.sleep(0.05)

    def __exit__(self, *rest):
        for name in self.names:
            self.try_verb("kill", "-q", name)
        super().__exit__(*rest)


def options(test, initrd=None, *more):
    return ["--engine", "soft", "-m", "256M", "--kernel", kernel("cloud"),
            "--initrd", initrd or initramfs(),
            "--append", f"console=ttyS0 quiet lodge.test={test}", *more]


def life():
    """Every verb on a guest, in the order in which they come in a guest's life."""
    with Lodge() as lodge:
        name, other = lodge.name(), lodge.name()
        check(lodge.verb("create", "--name", name, *options("talk")) == f"{name}\n", "no name")
        check(lodge.states() == {name: "created"}, f"{lodge.states()}")
        lodge.refuses("not running", "kill", name)
        check(lodge.verb("start", name) == f"{name}\n", "start does not print the name")
        check(lodge.states() == {name: "running"}, f"{lodge.states()}")
        lodge.refuses("running already", "start", name)
        lodge.wait_log(name, "talk ready")
        with lodge.run([*PROGRAM, "console", "-q", name], stdin=subprocess.PIPE,
                       ) as console:
            console.process.stdin.write(b"hello\n")
            console.process.stdin.flush()
            console.wait_line("LODGE-TEST talk ready", PATIENCE)
            console.wait_line("LODGE-TEST heard hello", PATIENCE)
            lodge.verb("pause", name)
            check(lodge.states() == {name: "paused"}, f"{lodge.states()}")
            console.process.stdin.write(b"late\n")
            console.process.stdin.flush()
            time.sleep(0.3)
            check("heard late" not in console.stdout(), "it ran while it was paused")
            lodge.verb("resume", name)
            console.wait_line("LODGE-TEST heard late", PATIENCE)
            # Nobody waits for a process that cannot answer.
            pid = lodge.info(name)["pid"]
            os.kill(pid, signal.SIGSTOP)
            lodge.wait_state(name, "suspended")
            os.kill(pid, signal.SIGCONT)
            lodge.wait_state(name, "running")
            lodge.refuses("is running", "rm", name)
            lodge.refuses("is running", "rename", name, other)
            console.process.stdin.write(b"end\n")
            console.process.stdin.flush()
            check(console.wait_exit(PATIENCE) == 0, console.describe())
        lodge.wait_state(name, "stopped")
        facts = lodge.info(name)
        check((facts["how"], facts["status"]) == ("poweroff", 0), f"{facts}")
        lodge.verb("restart", name)
        check(len(re.findall("talk ready", lodge.verb("logs", name))) >= 1, "the log was lost")
        lodge.verb("kill", name)
        check(lodge.info(name)["how"] == "killed", f"{lodge.info(name)}")
        lodge.verb("rename", name, other)
        lodge.verb("rm", other)
        check(lodge.states() == {}, f"{lodge.states()}")
        lodge.verb("recover", other)
        check(lodge.states() == {other: "stopped"}, f"{lodge.states()}")
        lodge.verb("rm", other)
        lodge.refuses("--force", "prune")
        check(lodge.verb("prune", "-f") == f"{other}~1\n", "prune does not name it")
        lodge.refuses("no removed guest", "recover", other)
        check(not lodge.left(), f"left behind: {lodge.left()}")


def detached():
    """run -d goes on without its caller; with --rm nothing of it stays."""
    with Lodge() as lodge:
        name, gone = lodge.name(), lodge.name()
        check(lodge.verb("run", "-d", "--name", name, *options("boot")) == f"{name}\n", "no name")
        lodge.wait_state(name, "stopped")
        check("LODGE-TEST done" in lodge.verb("logs", "-f", name), "the log is not complete")
        lodge.refuses("already", "run", "--name", name, *options("boot"))
        lodge.refuses("already", "run", "-d", "--name", name, *options("boot"))
        lodge.refuses("already", "create", "--name", name, *options("boot"))
        check(lodge.states() == {name: "stopped"}, f"{lodge.states()}")
        lodge.verb("run", "-d", "--rm", "--name", gone, *options("talk"))
        check(lodge.states()[gone] == "running", f"{lodge.states()}")
        lodge.verb("stop", "-t", "0", gone)
        check(lodge.states() == {name: "stopped"}, f"{lodge.states()}")
        lodge.verb("rm", name)
        lodge.verb("prune", "-f")
        check(not lodge.left(), f"left behind: {lodge.left()}")


def does_not_start():
    """What hinders the start is said to the caller, and nothing is kept."""
    with Lodge() as lodge:
        name = lodge.name()
        bad = lodge.path / "cwd" / "bad"
        bad.write_bytes(b"no kernel")
        lodge.refuses("bad", "run", "-d", "--name", name, "--kernel", "bad")
        lodge.refuses("absent", "run", "-d", "--name", name, *options("boot"), "--disk", "absent")
        check(lodge.states() == {}, f"{lodge.states()}")
        # A guest that is kept already stays as it was.
        lodge.verb("create", "--name", name, "--kernel", "bad")
        lodge.refuses("bad", "start", name)
        check(lodge.states() == {name: "created"}, f"{lodge.states()}")
        lodge.refuses("no guest", "start", lodge.name())
        bad.unlink()
        lodge.verb("rm", name)
        lodge.verb("prune", "-f")
        check(not lodge.left(), f"left behind: {lodge.left()}")


def power_button():
    """A stock kernel gets the button, also one that was not listening when it was pressed first."""
    initrd = initramfs_with_modules("cloud", ("button", "evdev"))
    with Lodge() as lodge:
        name, deaf = lodge.name(), lodge.name()
        lodge.verb("run", "-d", "--name", name, *options("button", initrd))
        lodge.verb("stop", "-t", str(PATIENCE - 20), name)
        facts = lodge.info(name)
        check(facts["how"] == "poweroff", f"{facts}")
        check(re.search("ready Power Button.*pressed", lodge.verb("logs", name), re.S), "no button")
        # One that does not heed it, and is paused besides.
        lodge.verb("run", "-d", "--name", deaf, *options("talk"))
        lodge.wait_log(deaf, "talk ready")
        lodge.verb("pause", deaf)
        done = lodge.try_verb("stop", "-t", "2", deaf)
        check(done.returncode == 0 and "did not stop within 2 s" in done.stderr, done.stderr)
        check(lodge.info(deaf)["how"] == "killed", f"{lodge.info(deaf)}")
        # Already as wanted.
        lodge.verb("stop", deaf)


def foreground():
    """A guest in the foreground is there for others, too, and is forgotten."""
    with Lodge() as lodge:
        name = lodge.name()
        with lodge.run([*PROGRAM, "run", "--quiet", "--name", name, *options("talk")]) as run:
            run.wait_line("talk ready", PATIENCE)
            check(lodge.states() == {name: "running"}, f"{lodge.states()}")
            lodge.refuses("foreground", "restart", name)
            with lodge.run([*PROGRAM, "console", "-q", name], stdin=subprocess.PIPE) as console:
                console.process.stdin.write(b"end\n")
                console.process.stdin.flush()
                console.wait_line("heard end", PATIENCE)
                check(run.wait_exit(PATIENCE) == 0, run.describe())
                check(console.wait_exit(PATIENCE) == 0, console.describe())
        check(not lodge.left(), f"left behind: {lodge.left()}")


def definitions():
    """Round trips, edits, and errors with their places."""
    with Lodge() as lodge:
        name, twin, third = lodge.name(), lodge.name(), lodge.name()
        lodge.verb("create", "--name", name, "-c", "2", "-m", "1G", "--kernel", "k ernel", "--append",
                   'a "b" \\ ä', "--disk", "x.img,ro,serial=1", "--disk", "/y,,z", "--no-reboot",
                   "--port", "a=sock", "--rng", "off")
        text = lodge.verb("info", "--format", "yaml", name)
        for line in ("cpus: 2\n", "no-reboot: true\n", f'kernel: "{lodge.path}/cwd/k ernel"\n',
                     f'  - {lodge.path}/cwd/x.img,ro,serial=1\n'):
            check(line in text, f"no {line!r} in {text}")
        lodge.verb("create", "-f", "-", "--name", twin, stdin=text)
        again = lodge.verb("info", "--format", "yaml", twin)
        check(again == text.replace(name, twin), f"{again} is not {text}")
        lodge.verb("create", "-f", "-", "--name", third, "-c", "3", stdin=text)
        check(lodge.info(third)["cpus"] == 3, "the command line does not go before the file")

        lodge.extra_env = {"EDITOR": "sed -i 's/cpus: 2/cpus: 4/'", "VISUAL": ""}
        lodge.verb("edit", name)
        check(lodge.info(name)["cpus"] == 4, "the edit had no effect")
        lodge.extra_env["EDITOR"] = "sed -i 's/cpus: 4/cpus: 400/'"
        lodge.refuses(r":2:7: cpus takes a number", "edit", name)
        check(lodge.info(name)["cpus"] == 4, "a wrong edit had an effect")
        lodge.extra_env["EDITOR"] = "false"
        lodge.refuses("nothing was changed", "edit", name)

        kernel_line = "kernel: /k\n"
        lodge.verb("validate", "-", stdin=f"lodge: 1\n{kernel_line}")
        for place, words, bad in (
                ("3:1", "memori.*\n.*memory", f"lodge: 1\n{kernel_line}memori: 1G\n"),
                ("3:9", "memory takes a size", f"lodge: 1\n{kernel_line}memory: much\n"),
                ("4:5", "--disk|disk", f"lodge: 1\n{kernel_line}disk:\n  - a,bad=1\n"),
                ("3:1", "twice", f"lodge: 1\n{kernel_line}kernel: /l\n"),
                ("2:9", "list", "lodge: 1\nkernel: [a, b]\n"),
                ("1:8", "version 1", f"lodge: 2\n{kernel_line}"),
                ("1:1", "version", kernel_line),
                ("1:1", "kernel", "lodge: 1\n"),
                ("1:1", "mapping", "- a\n"),
                (r"2:\d+", "alias", "lodge: 1\nkernel: *a\n"),
                ("3:12", "true or false", f"lodge: 1\n{kernel_line}no-reboot: maybe\n"),
                (r"\d+:\d+", "", "lodge: 1\nkernel: [a\n"),
                (r"\d+:\d+", "", "lodge: 1\nkernel: \"\\q\"\n")):
            lodge.refuses(f"standard input:{place}: (.|\n)*{words}", "validate", "-", stdin=bad)
        # One that was damaged is still there to be seen and removed.
        (lodge.state / "guests" / twin / "guest.yaml").write_text("lodge: 1\nkernel")
        check(lodge.states()[twin] == "broken", f"{lodge.states()}")
        lodge.refuses("guest.yaml:2:", "start", twin)
        lodge.verb("rm", twin)


def killed_anywhere():
    """kill -9 of whoever works on a guest, at any moment: nothing is lost, nothing is in the way."""
    dice = random.Random(os.getpid())
    with Lodge() as lodge:
        name, kept = lodge.name(), lodge.name()
        lodge.verb("create", "--name", kept, *options("talk"))
        for turn in range(KILLS):
            verb = dice.choice(("run", "start", "rm", "rename", "create", "stop"))
            command = {"run": ["run", "-d", "--name", name, *options("talk")],
                       "start": ["start", kept], "stop": ["stop", "-t", "0", kept],
                       "rm": ["rm", "-f", kept], "rename": ["rename", kept, name],
                       "create": ["create", "--name", name, *options("talk")]}[verb]
            with lodge.run([*PROGRAM, *command]) as run:
                time.sleep(dice.random() * (0.15 if verb in ("run", "start") else 0.02))
                run.process.send_signal(signal.SIGKILL)
            # Its guest's process, too, if there is one.
            for guest in (name, kept):
                facts = json.loads(lodge.try_verb("info", "--format", "json", guest).stdout or "{}")
                if facts.get("pid") and dice.random() < 0.7:
                    try:
                        os.kill(facts["pid"], signal.SIGKILL)
                    except ProcessLookupError:
                        pass
            settle(lodge, name, kept, f"turn {turn}, {verb}")
        lodge.verb("rm", "-f", kept)
        lodge.verb("prune", "-f", "-q")
        check(not lodge.left(), f"left behind: {lodge.left()}")


def settle(lodge, name, kept, when):
    """After a kill: both names can be listed, run, and removed; in the end `kept` is there and `name` is not."""
    deadline = time.monotonic() + PATIENCE
    while "starting" in (states := lodge.states()).values():
        check(time.monotonic() < deadline, f"{when}: somebody never starts: {states}")
        time.sleep(0.02)
    check(not set(states.values()) & {"broken"}, f"{when}: {states}")
    if name in states:
        lodge.verb("rm", "-f", name)
    if kept not in states:
        trash = sorted((lodge.state / "trash").glob(f"{kept}~*"))
        if trash:
            lodge.verb("recover", kept)
        else:
            # Renamed to the other one, which was just removed.
            lodge.verb("recover", name)
            lodge.verb("rename", name, kept)
    elif states[kept] != "running":
        lodge.verb("start", kept)
    lodge.verb("prune", "-f", "-q")
    if lodge.states()[kept] == "running":
        lodge.verb("kill", kept)


class Small:
    """A small file system at `path`, to be grown on demand."""

    def __init__(self, path, size):
        self.path = path
        self.size = size

    def __enter__(self):
        self.path.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.size},mode=700", "tmpfs",
                               self.path], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Skip(f"no small file system to be had here ({done.stderr.strip()[:80]})")
        return self

    def grow(self, size):
        subprocess.run(["mount", "-o", f"remount,size={size}", self.path], check=True)

    def __exit__(self, *rest):
        subprocess.run(["umount", "-l", self.path], check=False)


class Full(Small):
    """One for what a Lodge keeps, filled to the last byte on demand. No guest outlives it."""

    def __init__(self, lodge, size="256k"):
        super().__init__(lodge.state, size)
        self.lodge = lodge
        self.filler = self.path / "filler"

    def fill(self):
        with open(self.filler, "wb", buffering=0) as f:
            try:
                while f.write(bytes(4096)):
                    pass
            except OSError:
                pass

    def empty(self):
        self.filler.unlink(missing_ok=True)

    def __exit__(self, *rest):
        for name in self.lodge.names:
            self.lodge.try_verb("kill", "-q", name)
        super().__exit__(*rest)


def disk_full():
    """Every verb that writes fails with a full disk, says so, and keeps what was there."""
    with Lodge() as lodge, Full(lodge) as disk:
        disk_full_verbs(lodge, disk)


def disk_full_verbs(lodge, disk):
    name, other = lodge.name(), lodge.name()
    lodge.verb("create", "--name", name, *options("talk"))
    before = lodge.verb("info", "--format", "yaml", name)
    disk.fill()
    lodge.refuses("No space left", "create", "--name", other, *options("talk"))
    lodge.refuses("No space left", "run", "-d", "--name", other, *options("talk"))
    lodge.extra_env = {"EDITOR": "sed -i 's/256M/300M/'", "VISUAL": ""}
    lodge.refuses("No space left", "edit", name)
    lodge.refuses("No space left", "set", "--autostart", "on", name)
    lodge.refuses("No space left", "clone", name, other)
    check(lodge.states() == {name: "created"}, f"{lodge.states()}")
    check(lodge.verb("info", "--format", "yaml", name) == before, "the definition has changed")
    # These write nothing, or nothing that matters.
    done = lodge.try_verb("rename", name, other)
    check(lodge.states() in ({other: "created"}, {name: "created"}), f"{lodge.states()}")
    if not done.returncode:
        lodge.verb("rename", other, name)
    lodge.verb("start", name)
    check(lodge.states() == {name: "running"}, f"{lodge.states()}")
    lodge.verb("kill", name)
    check(name in lodge.states(), "the guest vanished")
    done = lodge.try_verb("rm", name)
    if not done.returncode:
        lodge.verb("recover", name)
    check(name in lodge.states(), "the guest vanished")
    check(lodge.verb("info", "--format", "yaml", name) == before, "the definition has changed")
    disk.empty()
    lodge.verb("rm", name)
    lodge.verb("prune", "-f")
    check(not [p for p in lodge.state.rglob("*") if not p.is_dir()], "something is left")


def completion():
    """Names of guests complete in the shells that are here."""
    scripts = Path(__file__).resolve().parent.parent.parent / "completions"
    with Lodge() as lodge:
        name = lodge.name()
        lodge.verb("create", "--name", name, "--kernel", "/k")
        program = lodge.path / "lodge" # the name that the shells know
        program.symlink_to(os.path.abspath(PROGRAM[0]))
        done = lodge.try_verb("-c", f"source {scripts}/lodge.bash; COMP_WORDS=({program} start "
                              f"{name[:-1]}); COMP_CWORD=2; _lodge; echo \"${{COMPREPLY[@]}}\"",
                              program=["bash"])
        check(name in done.stdout.split(), f"{done.stdout} {done.stderr}")
        with tempfile.TemporaryDirectory() as empty:
            lodge.extra_env = {"XDG_CONFIG_HOME": empty, "XDG_DATA_HOME": empty}
            try:
                done = lodge.try_verb("-c", f"source {scripts}/lodge.fish; complete -C "
                                      f"'{program} start {name[:-1]}'", program=["fish"])
            except FileNotFoundError:
                return
            check(name in done.stdout.split(), f"fish: {done.stdout} {done.stderr}")


CASES = [
    Case("life of a guest in the background", life),
    Case("run --detach, and --rm", detached),
    Case("a guest that does not start leaves nothing", does_not_start),
    Case("power button", power_button),
    Case("foreground guest and other verbs", foreground),
    Case("definitions in YAML", definitions),
    Case(f"kill -9 at {KILLS} random moments", killed_anywhere),
    Case("disk full during each verb", disk_full),
    Case("completion of guests' names", completion),
]
