# SPDX-License-Identifier: GPL-2.0-or-later
"""What guests and the host have to do with each other: confinement, shares, events."""
import re
from pathlib import Path

from guest import Case, Skip, check, need_proc
from life import Lodge, options


def status_of(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def confined():
    """The process of a guest has given up what it does not need; with --sandbox off it has not."""
    need_proc()
    with Lodge() as lodge:
        name, free = lodge.name(), lodge.name()
        lodge.verb("run", "--detach", "--name", name, *options("talk"))
        lodge.wait_log(name, "talk ready")
        info = lodge.info(name)
        layers = info["sandbox"].split()
        check("capabilities" in layers and "no_new_privs" in layers, f"layers: {layers}")
        status = status_of(info["pid"])
        check(status["NoNewPrivs"] == "1", f"{status['NoNewPrivs']}")
        keeps = 1 << 1  # CAP_DAC_OVERRIDE
        check(not int(status["CapPrm"], 16) & ~keeps, f"capabilities {status['CapPrm']}")
        if "seccomp" in layers:
            check(status["Seccomp"] == "2", f"seccomp {status['Seccomp']}")
            for task in Path(f"/proc/{info['pid']}/task").iterdir():
                text = (task / "status").read_text()
                check(re.search(r"^Seccomp:\t2$", text, re.M), f"a thread without: {text}")
        lodge.verb("run", "--detach", "--sandbox", "off", "--name", free, *options("talk"))
        check(lodge.info(free)["sandbox"] == "none", f"{lodge.info(free)['sandbox']}")
        found = lodge.verb("doctor")
        check(re.search("^sandbox +", found, re.M) and re.search("^shares +", found, re.M), found)
        if "seccomp" not in layers or "landlock" not in layers:
            raise Skip(f"this host's kernel has no more than {layers}")


def shares():
    """Shares are kept, changed on a running guest, and enforced or said not to be."""
    need_proc()
    with Lodge() as lodge:
        name = lodge.name()
        done = lodge.try_verb("run", "--detach", "--name", name, "--cpu-weight", "300",
                              "--cpu-pin", "0-1023", *options("talk"))
        if "none of these for us" in done.stderr:
            raise Skip(f"{done.stderr}")
        check(done.returncode == 0, f"{done.stderr}")
        noted = "--cpu-weight" in done.stderr
        pid = lodge.info(name)["pid"]
        groups = Path(f"/proc/{pid}/cgroup").read_text()
        check(noted or f"/{name}\n" in groups or f"lodge-{name}\n" in groups,
              f"neither a group nor a word: {groups} {done.stderr}")
        done = lodge.try_verb("set", name, "--cpu-cap", "50", "--cpu-weight", "50")
        check(done.returncode == 0, f"{done.stderr}")
        text = lodge.verb("info", "--format", "yaml", name)
        check("cpu-weight: 50\n" in text and "cpu-cap: 50\n" in text, text)
        lodge.refuses("no guest named", "set", lodge.name(), "--cpu-cap", "1")
        lodge.refuses("nothing to set", "set", name, status=2)
        lodge.refuses("from 0 to 10000", "set", name, "--cpu-weight", "10001", status=2)
        lodge.refuses("numbers of CPUs", "set", name, "--cpu-pin", "3-1", status=2)
        lodge.verb("set", "-q", name, "--cpu-cap", "0", "--cpu-weight", "0", "--cpu-pin", "all")
        check(lodge.states() == {name: "running"}, f"{lodge.states()}")


def protected():
    """A protected guest is not removed, killed or edited before that is lifted."""
    with Lodge() as lodge:
        name, other = lodge.name(), lodge.name()
        lodge.verb("create", "--name", name, "--protected", "on", *options("talk"))
        lodge.refuses("is protected.*\n.*--protected off", "rm", name)
        lodge.refuses("is protected", "edit", name)
        check(lodge.states() == {name: "created"}, f"{lodge.states()}")
        lodge.verb("start", name)
        lodge.refuses("is protected", "kill", name)
        lodge.refuses("is protected", "rm", "-f", name)
        lodge.refuses("though it did not stop", "stop", "-t", "0", name)
        check(lodge.states() == {name: "running"}, f"{lodge.states()}")
        lodge.refuses("takes on or off", "set", name, "--protected", "maybe", status=2)
        lodge.verb("set", name, "--protected", "off", "--autostart", "on")
        lodge.verb("kill", name)
        lodge.wait_state(name, "stopped")
        # What is read back from its own YAML, also in the form of a YAML truth.
        text = lodge.verb("info", "--format", "yaml", name).replace("protected: off", "protected: true")
        lodge.verb("create", "--file", "-", "--name", other, stdin=text)
        lodge.refuses("is protected", "rm", other)
        lodge.verb("set", other, "--autostart", "off")
        check(lodge.verb("start", "--autostart") == f"{name}\n", "not the one that has it")
        check(lodge.verb("start", "--autostart") == "", "one that runs was started")
        lodge.refuses("takes no names", "stop", "--all", name, status=2)
        lodge.verb("kill", name)


CASES = [
    Case("process is confined", confined),
    Case("shares of the host", shares),
    Case("protected guests, and autostart", protected),
]
