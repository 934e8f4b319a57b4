# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest of tests/guest/payload: directed tests of the processor, without an operating system."""
import re
from pathlib import Path

from guest import PROGRAM, Case, Place, check, fresh_name


def payload():
    return str(Path(PROGRAM[0]).parent / "tests" / "guest" / "payload" / "payload.elf")


def check_results(output, cpus):
    """All tests that were asked for have passed, or say why they cannot."""
    bad = re.findall(r"not ok .*", output)
    check(not bad, "; ".join(bad))
    done = re.search(rf"done: (\d+) tests, {cpus} CPUs", output)
    check(done, f"it did not come to its end: {output[-2000:]}")
    seen = re.findall(r"^(?:ok|skip) ", output, re.M)
    check(int(done[1]) == len(seen) > 0, f"{done[1]} tests, {len(seen)} results: {output}")


def directed(tests, cpus, model="host", *extra):
    """Every test of the groups named passes, and the guest powers itself off. Returns what it printed."""
    command = [*PROGRAM, "run", "--quiet", "--name", fresh_name(), "--engine", "soft", "--cpu", model,
               "-c", str(cpus), "-m", "128M", "--no-reboot", "--kernel", payload(), *extra,
               "--append", f"cpus={cpus} tests={tests}"]
    with Place() as place, place.run(command) as run:
        status = run.wait_exit(120)
        output = run.stdout()
        check_results(output, cpus)
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
CASES.append(Case("directed ioevent", directed, "ioevent", 1, "host", "--test-devices"))
