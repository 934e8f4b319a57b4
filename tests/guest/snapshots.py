# SPDX-License-Identifier: GPL-2.0-or-later
"""Saved states: guests that go on from them, and the verbs that keep them."""
import hashlib
import os
import re
from pathlib import Path

from guest import PROGRAM, Case, Place, check, initramfs, initramfs_with_modules, kernel
from life import PATIENCE
from nested import INNER, STATUS, emulated, nested_command

APPEND = "console=ttyS0 quiet nokaslr lodge.test="
# LODGE_SNAPSHOTS=200 for the long form.
SNAPSHOTS = int(os.environ.get("LODGE_SNAPSHOTS", "6"))


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


@emulated
def saved_nested(cpus, *engines):
    """The same from one engine to the other."""
    command = nested_command(f"lodge.cpus={cpus}", "lodge.what=snap",
                             "lodge.engines=" + ",".join(engines), programs=[snap()])
    with Place() as place, place.run(command) as run:
        run.wait_line(r"NESTED done", 400)
        status, exits = re.findall(STATUS, run.stdout())[0]
        check(status == "0", run.stdout())
        check(int(exits) > 100, f"KVM counted {exits} exits")
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


CASES = [
    Case("saved and gone on with, 1 CPU", saved_here, 1, *["soft"] * 3),
    Case("saved and gone on with, 2 CPUs", saved_here, 2, *["soft"] * 4),
    Case("saved and gone on with while it writes to a disk", saved_with_disk),
    Case("saved under one engine, gone on with by the other, nested", saved_nested, 1, "kvm", "soft",
         "kvm"),
]
