# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest of tests/guest/payload: directed tests of the processor, without an operating system."""
import re
from pathlib import Path

from guest import PROGRAM, Case, Place, check, fresh_name


def directed(tests, cpus, model="host"):
    """Every test of the groups named passes, and the guest powers itself off. Returns what it printed."""
    payload = Path(PROGRAM[0]).parent / "tests" / "guest" / "payload" / "payload.elf"
    command = [*PROGRAM, "run", "--quiet", "--name", fresh_name(), "--engine", "soft", "--cpu", model,
               "-c", str(cpus), "-m", "128M", "--no-reboot", "--kernel", str(payload),
               "--append", f"cpus={cpus} tests={tests}"]
    with Place() as place, place.run(command) as run:
        status = run.wait_exit(120)
        output = run.stdout()
        bad = re.findall(r"not ok .*", output)
        check(not bad, "; ".join(bad))
        done = re.search(rf"done: (\d+) tests, {cpus} CPUs", output)
        check(done, f"it did not come to its end: {run.describe()}")
        seen = re.findall(r"^(?:ok|skip) ", output, re.M)
        check(int(done[1]) == len(seen) > 0, f"{done[1]} tests, {len(seen)} results: {output}")
        check(status == 0 and not run.stderr(), f"{run.describe()}")
        check(not place.left(), f"left behind: {place.left()}")
        return output


def on_max(tests):
    """With what the engine has but shows to those only who ask for everything; nothing is skipped."""
    output = directed(tests, 1, "max")
    check("skip " not in output, output)


CASES = [Case("directed keys, processor max", on_max, "keys")]
CASES += [Case(f"directed {tests}, {cpus} CPUs", directed, tests, cpus)
         for tests, cpus in (("smc,paging,tlb,irq,debug", 1), ("irq,smp,litmus", 2), ("smp,litmus", 4))]
