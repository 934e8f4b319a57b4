# SPDX-License-Identifier: GPL-2.0-or-later
"""What guests and the host have to do with each other: confinement, shares, events."""
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from guest import PROGRAM, Case, Skip, check, initramfs_with_modules, need_proc
from life import PATIENCE, Lodge, options


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


def cap_without_groups():
    """A cap holds where there is no control group for it; who has to rest is paused, saved and ended all the same."""
    need_proc()
    hidden = [*PROGRAM]
    umount = ["umount", "-l", "-R", "/sys/fs/cgroup"]
    if not subprocess.run(["unshare", "-m", *umount], capture_output=True, check=False).returncode:
        hidden = ["unshare", "-m", "sh", "-c", f"{' '.join(umount)} && exec \"$@\"", "sh", *PROGRAM]
    with Lodge() as lodge:
        name = lodge.name()

        def verb(*arguments):
            done = lodge.try_verb(*arguments, program=hidden)
            check(done.returncode == 0, f"{arguments}: {done.stderr}")
            return done

        def used():
            """Of what it may use, and what it did for some seconds, in percent."""
            use = json.loads(verb("stats", "-i", "2", "--format", "json", name).stdout)[0]
            return use["cpu_cap"], use["cpu_percent"]

        done = verb("run", "--detach", "--name", name, "--cpu-cap", "150", "--cpu-weight", "80",
                    *options("talk idle=poll"))
        if "--cpu-cap" not in done.stderr:
            raise Skip("control groups can be written to, and not hidden")
        check(re.search("--cpu-cap: no cgroup.* its process sees to it", done.stderr) and
              re.search("--cpu-weight: no cgroup.* nice values", done.stderr), done.stderr)
        lodge.wait_log(name, "talk ready")
        verb("set", "-q", name, "--cpu-cap", "20")
        # Twice: what it had used at once before is no longer counted then. A busy host gives it less.
        seen = [used(), used()]
        while not 12 <= seen[-1][1] <= 28 and len(seen) < 8:
            seen.append(used())
        check(all(cap == 20 for cap, _ in seen) and seen[-1][1] <= 28, f"{seen}")
        starved = seen[-1][1] < 12
        for tag in ("one", "two"):
            verb("pause", name)
            check(lodge.states() == {name: "paused"}, f"{lodge.states()}")
            verb("resume", name)
            verb("snapshot", "-q", name, tag)
        table = verb("top", "-n", "1", "-i", "1", name).stdout
        check(re.search("CAP%", table) and re.search(f"^{name} .* 20 ", table, re.M), table)
        verb("set", "-q", name, "--cpu-cap", "0")
        check(used()[0] == 0, "the cap is still there")
        verb("set", "-q", name, "--cpu-cap", "1")
        verb("kill", name)
        check(lodge.states() == {name: "stopped"}, f"{lodge.states()}")
        if starved:
            raise Skip(f"this host is too busy to give it its share: {seen}")


def counted(lodge, name):
    """How far the guest has counted on its disk."""
    return max(map(int, re.findall(r"count wrote (\d+)", lodge.verb("logs", name))), default=0)


def limits():
    """Limits of a running guest's disk: what waits goes on by the new ones, and they are kept."""
    with Lodge() as lodge:
        name, image = lodge.name(), lodge.path / "image"
        image.write_bytes(bytes(8 << 20))
        lodge.verb("create", "--name", name, "--disk", f"{image},iops=2000", "--net", "user,rate=1M",
                   *options("count", initramfs_with_modules("cloud")))
        lodge.verb("start", name)
        lodge.wait_log(name, "count wrote 1[0-9]")
        rates = {"rate_in": 1 << 20, "rate_out": 1 << 20}
        check(lodge.info(name)["limits"] == {"disk0": {"iops": 2000}, "net0": rates},
              f"{lodge.info(name)['limits']}")
        # A write or two, and the next an hour later.
        lodge.verb("set", name, "--limit", "disk0,bps_wr=1")
        before = counted(lodge, name)
        time.sleep(1)
        after = counted(lodge, name)
        check(after - before <= 4, f"from {before} to {after} in spite of the limit")
        lodge.refuses("the guest has 1 disks", "set", name, "--limit", "disk1,iops=1")
        lodge.refuses("no limit 'rate'", "set", name, "--limit", "disk0,rate=1M", status=2)
        lodge.verb("set", name, "--limit", "disk0,none", "--limit", "net0,rate_in=2M")
        lodge.wait_log(name, f"count wrote {after + 10}\\b")
        check(lodge.info(name)["limits"] == {"net0": {"rate_in": 2 << 20}},
              f"{lodge.info(name)['limits']}")
        check("net0,rate_in=2097152" in lodge.verb("info", name), "not in the text")
        text = lodge.verb("info", "--format", "yaml", name)
        check("limit:\n  - disk0,none\n  - net0,rate_in=2M\n" in text, text)
        lodge.verb("kill", name)
        lodge.wait_state(name, "stopped")
        lodge.verb("start", name)
        check(lodge.info(name)["limits"] == {"net0": {"rate_in": 2 << 20}},
              f"{lodge.info(name)['limits']}")


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


def events():
    """What happens to a guest is told, and what it uses is shown, while it happens."""
    need_proc()
    with Lodge() as lodge:
        name, *probes = [lodge.name() for _ in range(20)]
        with lodge.run([*PROGRAM, "events", "--format", "json", name, *probes]) as run:
            def told(event):
                found = run.wait_line(f'"guest":"{name}","event":"{event}"', PATIENCE)[1]
                return json.loads(found.string)

            # What was there at the first look is no news.
            for probe in probes:
                lodge.verb("create", "--name", probe, *options("talk"))
                time.sleep(0.6)
                if run.lines:
                    break
            lodge.verb("create", "--name", name, *options("talk"))
            check(told("created")["guest"] == name, run.describe())
            lodge.verb("start", name)
            check(told("started")["pid"] == lodge.info(name)["pid"], run.describe())
            lodge.verb("pause", name)
            told("paused")
            lodge.verb("resume", name)
            told("resumed")
            lodge.wait_log(name, "talk ready")
            used = json.loads(lodge.verb("stats", "--format", "json", name))
            check([u["name"] for u in used] == [name], f"{used}")
            check(used[0]["cpu_seconds"] > 0 and used[0]["memory"] > 1 << 20, f"{used}")
            table = lodge.verb("top", "-n", "2", "-i", "1", name)
            check(table.count("CPU%") == 2 and table.count(name) == 2, table)
            os.kill(lodge.info(name)["pid"], signal.SIGKILL)
            told("crashed")
            lodge.verb("start", name)
            run.wait_line(f'"guest":"{name}","event":"started"', PATIENCE, count=2)
            lodge.verb("kill", name)
            check(told("killed")["status"] == 1, run.describe())
            lodge.verb("rm", name)
            check(told("removed")["guest"] == name, run.describe())
        lodge.refuses("no guest named", "stats", lodge.name())


CASES = [
    Case("process is confined", confined),
    Case("shares of the host", shares),
    Case("a cap without control groups", cap_without_groups),
    Case("limits of a running guest", limits),
    Case("protected guests, and autostart", protected),
    Case("events, stats and top", events),
]
