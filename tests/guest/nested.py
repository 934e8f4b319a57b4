# SPDX-License-Identifier: GPL-2.0-or-later
"""Our program under real KVM: inside QEMU, whose emulated processors have SVM."""
import hashlib
import ctypes
import functools
import json
import mmap
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from directed import check_results, payload
from guest import (CACHE, PROGRAM, Case, Place, Run, Skip, Timeout, check, fresh_name, initramfs,
                   initramfs_with_modules, kernel, lodge_command, script)

QEMU = "qemu-system-x86_64"
INNER = r"LODGE-TEST init cpus=(\d+) .* release=(\S+)"
MOVE_APPEND = "console=ttyS0 quiet lodge.test=cpus"
STATUS = r"NESTED status=(\d+) exits=(\d+)"

# QEMU's emulated SVM loses an event now and then when its delivery is what touches a page first, and at times leaves
# all its processors in KVM's entry for good. QEMU 7.2 inside QEMU 7.2 ends the same way (1 run of 4 whose memory was
# shared and in small pages, ours 1 of 3): the guest ends by a triple fault, or nothing is heard of any more.
EMULATOR_FAILED = re.compile(r"triple fault|soft lockup|Kernel panic|rcu: INFO")
ATTEMPTS = 3


def emulated(test):
    """A test inside QEMU that begins again when the emulated processors failed, and only then."""
    @functools.wraps(test)
    def attempts(*args):
        for left in reversed(range(ATTEMPTS)):
            try:
                return test(*args)
            except (AssertionError, Timeout) as why:
                failed = isinstance(why, Timeout) or EMULATOR_FAILED.search(str(why))
                if not left or not failed:
                    raise
                print(f"  again   {test.__name__}{args}: {why}", flush=True)
    return attempts


def tsc_khz(counted=[]):
    """The rate of the host's time stamp counter, which is that of QEMU's emulated processors."""
    if not counted:
        code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3")  # rdtsc; shl $32, %rdx; or %rdx, %rax; ret
        rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))

        def pair():
            """Both clocks at one moment, as near as some tries come to it."""
            tries = [(time.monotonic_ns(), rdtsc(), time.monotonic_ns()) for _ in range(50)]
            before, tsc, after = min(tries, key=lambda t: t[2] - t[0])
            return (before + after) / 2, tsc

        (ns, tsc), _, (ns2, tsc2) = pair(), time.sleep(0.2), pair()
        counted.append(round((tsc2 - tsc) * 1e6 / (ns2 - ns)))
    return counted[0]


def need_plain(program):
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    if "libasan" in linked or "libtsan" in linked:
        raise Skip("a program under a sanitizer does not fit emulated processors")


def nested_command(*words, programs=(), cpus=2):
    """QEMU with a machine that has KVM and our program inside; words go to scripts/init-nested."""
    if not shutil.which(QEMU):
        raise Skip("qemu-system-x86_64 is not installed (scripts/setup.sh check installs it)")
    program = PROGRAM[0]
    need_plain(program)
    out = CACHE / "nested.cpio"
    script("nested.sh", out, program, *programs)
    # The processors are emulated from one counter: KVM may rely on it. A kernel that measures it on a busy host finds
    # anything, and its seconds are then as long as tenths of ours, or as minutes.
    append = (f"console=ttyS0 quiet nokaslr mitigations=off panic=-1 tsc=reliable "
              f"tsc_early_khz={tsc_khz()} " + " ".join(words))
    # Single-threaded TCG hangs about half of the time.
    return [QEMU, "-accel", "tcg,thread=multi", "-machine", "q35",
            "-cpu", "EPYC,+svm,+npt,-xsaves,-xsavec", "-smp", str(cpus), "-m", "1G",
            "-nographic", "-nodefaults", "-serial", "stdio", "-no-reboot",
            "-kernel", kernel("cloud"), "-initrd", str(out), "-append", append]


@emulated
def inner_boots(cpus, times=1):
    """A stock kernel reaches its init on the KVM engine, chosen by itself, and powers off."""
    command = nested_command(f"lodge.cpus={cpus}", f"lodge.times={times}")
    with Place() as place, place.run(command) as run:
        run.wait_line(r"NESTED doctor status=0", 120)
        run.wait_line(r"guest: SYSCALL to level 0", 0)
        run.wait_line(r"NESTED done", 60 + 160 * times)
        output = run.stdout()
        check("FAILED" not in output, f"a step of the probe failed: {output}")
        seen = re.findall(INNER, output)
        check([int(n) for n, _ in seen] == [cpus] * times, f"the inner guests say: {seen}")
        check(len(re.findall(r"engine kvm, ", output)) == times, "it was not the KVM engine")
        check(len(re.findall(r"--perf-map has no effect: engine kvm", output)) == times,
              "nobody was told that there is no translated code")
        for cpu in range(cpus):
            check(len(re.findall(rf"LODGE-TEST cpu want={cpu} got={cpu} i=2000", output)) == times,
                  f"CPU {cpu} of the inner guest did not do its work")
        ends = re.findall(STATUS, output)
        check([status for status, _ in ends] == ["0"] * times, f"statuses and exits: {ends}")
        # The kernel's own counter: without it the guest might have run in some other way.
        check(all(int(exits) > 1000 for _, exits in ends), f"statuses and exits: {ends}")
        check(run.wait_exit(60) == 0, run.describe())


@emulated
def disk_nested(cpus, append, message):
    """Disk and interrupts through KVM's own controllers."""
    initrd = initramfs_with_modules("cloud")
    command = nested_command(f"lodge.cpus={cpus}", "lodge.what=disk", f"lodge.initrd={initrd}",
                             f"lodge.append={append}", programs=[initrd])
    with Place() as place, place.run(command) as run:
        run.wait_line(r"NESTED done", 200)
        output = run.stdout()
        check(re.findall(STATUS, output) == [("0", "0")], output)
        after = re.search(r"LODGE-TEST disk after (\w{32})", output)
        check(after and f"NESTED image {after[1]}" in output, f"not what the guest wrote: {output}")
        served = re.findall(rf"LODGE-TEST interrupts.* [1-9]\d+ .*{message}.*", output)
        check(served, f"no {message} interrupts: {output}")


def mover():
    return str(Path(PROGRAM[0]).parent / "tests" / "guest" / "move")


def moved(output, cpus, engines):
    """What a guest prints that went through these engines, one after the other."""
    check(f"MOVE ended, 0, under {engines[-1]}" in output, output)
    check(re.findall(r"MOVE to (\w+)", output) == list(engines[1:]), f"moves: {output}")
    check(int(re.search(INNER, output)[1]) == cpus, "the guest lost a CPU")
    for cpu in range(cpus):
        check(f"LODGE-TEST cpu want={cpu} got={cpu} i=2000" in output,
              f"CPU {cpu} did not do its work after the move: {output}")
    check("LODGE-TEST done" in output, "the guest did not end by itself")


@emulated
def through_nested(what, program, went, cpus, *engines):
    """A guest goes on under the other engine in the middle of its work; `went` looks at what it has printed."""
    command = nested_command(f"lodge.cpus={cpus}", f"lodge.what={what}",
                             "lodge.engines=" + ",".join(engines), programs=[program()])
    with Place() as place, place.run(command) as run:
        run.wait_line(r"NESTED done", 400)
        status, exits = re.findall(STATUS, run.stdout())[0]
        check(status == "0", run.stdout())
        check(int(exits) > 100, f"KVM counted {exits} exits")
        went(run.stdout(), cpus, engines)


@emulated
def doorbells_nested():
    """Writes become interrupts inside the kernel: few of them leave it."""
    command = nested_command("lodge.what=payload", "lodge.tests=ioevent", programs=[payload()])
    with Place() as place, place.run(command) as run:
        run.wait_line(r"NESTED done", 120)
        output = run.stdout()
        check_results(output, 1)
        check(re.search(STATUS, output)[1] == "0", output)
        exits = int(re.search(r"(\d+)  memory-mapped I/O exits", output)[1])
        check(exits < 50, f"{exits} accesses to memory left KVM, so it did not take the doorbells")


def dirty():
    return str(Path(PROGRAM[0]).parent / "tests" / "guest" / "dirty")


def looked(output):
    """Each round of the guest was looked at, and the log told neither more nor less than what it had written."""
    check_results(output, 1)
    found = re.search(r"DIRTY looks=(\d+) bad=(\d+)", output)
    check(found and int(found[1]) == 13 and found[2] == "0", f"the log of written pages: {output[-2000:]}")


def dirty_here(*engines):
    with Place() as place, place.run([dirty(), payload(), *engines]) as run:
        check(run.wait_exit(60) == 0, run.describe())
        looked(run.stdout())


@emulated
def dirty_nested(*engines):
    command = nested_command("lodge.what=dirty", "lodge.engines=" + ",".join(engines),
                             programs=[dirty(), payload()])
    with Place() as place, place.run(command) as run:
        run.wait_line(r"NESTED done", 150)
        check(re.search(STATUS, run.stdout())[1] == "0", run.stdout())
        looked(run.stdout())


def copier():
    return str(Path(PROGRAM[0]).parent / "tests" / "guest" / "copy")


def copied(run, rebased=False):
    """All copies were what memory was at their start."""
    found = re.search(r"COPY copies=(\d+) rebased=(\d+) bad=(\d+)", run.stdout())
    check(found and int(found[1]) >= 3 and found[3] == "0", f"copies: {run.stdout()}")
    check((int(found[2]) > 0) == rebased, f"memory anew: {run.stdout()}")
    check("LODGE-TEST done" in run.stdout(), "the guest did not end by itself")


def copies_here(*how):
    """While user code changes its address space and writes code it runs: two CPUs, page tables, views."""
    with Place() as place, place.run([copier(), kernel("cloud"), initramfs(),
                                      "console=ttyS0 quiet lodge.test=addresses", "2", "256",
                                      "soft", *how]) as run:
        check(run.wait_exit(240) == 0, run.describe())
        copied(run, "rebase" in how)
        check(len(re.findall("rounds, 0 errors", run.stdout())) == 2, run.stdout())


@emulated
def copies_nested():
    """Under KVM: by its log of written pages, and with a base that the kernel copies from."""
    command = nested_command("lodge.what=copy", programs=[copier()])
    with Place() as place, place.run(command) as run:
        run.wait_line(r"NESTED done", 400)
        check(re.search(STATUS, run.stdout())[1] == "0", run.stdout())
        copied(run, True)


def copies_with_disk():
    """What a disk reads into memory is in the copy or not, as it was at the start."""
    with Place() as place:
        image = place.path / "image"
        with open(image, "wb") as file:
            file.write(os.urandom(40 << 20))
        env = dict(os.environ, COPY_DISK=str(image))
        with Run([copier(), kernel("cloud"), initramfs_with_modules("cloud"),
                  "console=ttyS0 quiet lodge.test=disk", "2", "256", "soft"], env=env) as run:
            check(run.wait_exit(240) == 0, run.describe())
            copied(run)
            after = re.search(r"LODGE-TEST disk after (\w{32})", run.stdout())
            check(after and after[1] == hashlib.md5(image.read_bytes()).hexdigest(),
                  f"not what the guest wrote: {run.stdout()}")


@emulated
def refused_nested():
    """What cannot be had is told, with the next step, and nothing is started."""
    command = nested_command("lodge.what=refuse", programs=[payload()])
    command[command.index("-cpu") + 1] += ",-movbe"  # which x86-64-v3 has
    with Place() as place, place.run(command) as run:
        run.wait_line(r"NESTED done", 150)
        tried = dict(re.findall(r"NESTED try (\w+)\n(.*?)NESTED end", run.stdout(), re.S))
        for name, texts in (
                ("root", ("you have no permission to use /dev/kvm", "give a group access")),
                ("group", ("you have no permission to use /dev/kvm", "the group 'virtuals'")),
                ("model", ("x86-64-v3", "--cpu")),
                ("cpus", ("65", "64")),
                ("module", ("there is no /dev/kvm", "modprobe kvm_intel, or kvm_amd")),
                ("auto", ("engine soft, since KVM cannot be used here: there is no /dev/kvm",))):
            for text in texts:
                check(text in tried.get(name, ""), f"{name}: no {text!r} in {tried.get(name)!r}")
        statuses = re.findall(r"NESTED end status=(\d+)", run.stdout())
        check(statuses[:5] == ["1", "1", "1", "2", "1"], f"statuses: {statuses}")


def groups_of_version_2():
    """Shares through control groups of version 2, root's and a user's: in a guest, whose system has them."""
    need_plain(PROGRAM[0])
    out = CACHE / "nested-shares.cpio"
    script("nested.sh", out, PROGRAM[0])
    command = lodge_command(kernel("cloud"), str(out), "quiet lodge.what=shares", cpus=2,
                            memory="768M", extra=["--no-reboot"])
    with Place() as place, place.run(command) as run:
        run.wait_line(r"NESTED done", 300)
        output = run.stdout()
    said = dict(re.findall(r"NESTED ([a-z ]+): (.*?) \r?\n", output))
    check(said == {"one": "300 50000 100000 419430400 default 50",
                   "set": "100 20000 100000 max default 200",
                   "mine": "200 30000 100000 314572800 default 300",
                   "set mine": "200 40000 100000 max default 300"}, output)
    check("NESTED group 0::/lodge.slice/one" in output, output)
    check(re.search(r"(?m)^one +\d+ +[\d.]+ +20 ", output), f"stats does not tell the cap: {output}")
    check(re.search(r"NESTED groups two/\r?\n", output), f"the group of one that has ended is there: {output}")
    check(re.search("--cpu-cap: no cgroup .* its process sees to it", output) and
          re.search("--memory-max: no cgroup .* not limited", output), output)
    # Nothing else was said.
    check(len(re.findall("no cgroup", output)) == 2, output)


def moves_here():
    """From the software engine to a new one of the same kind: state and memory only."""
    with Place() as place, place.run([mover(), kernel("cloud"), initramfs(), MOVE_APPEND, "2",
                                      "soft", "soft", "soft"]) as run:
        check(run.wait_exit(60) == 0, run.describe())
        moved(run.stdout(), 2, ("soft", "soft", "soft"))


def moves_with_disk():
    """Moves while the disk is read and written lose no request and no byte."""
    engines = ["soft"] * 5
    with Place() as place:
        image = place.path / "image"
        with open(image, "wb") as file:
            file.write(os.urandom(40 << 20))
        env = dict(os.environ, MOVE_DISK=str(image))
        with Run([mover(), kernel("cloud"), initramfs_with_modules("cloud"),
                  "console=ttyS0 quiet lodge.test=disk", "2", *engines], env=env) as run:
            check(run.wait_exit(180) == 0, run.describe())
            check(len(re.findall("MOVE to soft", run.stdout())) == 4, run.stdout())
            after = re.search(r"LODGE-TEST disk after (\w{32})", run.stdout())
            check(after and after[1] == hashlib.md5(image.read_bytes()).hexdigest(),
                  f"not what the guest wrote: {run.stdout()}")


def probe_here():
    """What doctor finds step by step is what --engine kvm and --engine auto go by."""
    found = json.loads(subprocess.run([*PROGRAM, "doctor", "--format", "json"], check=True,
                                      capture_output=True, text=True).stdout)
    kvm = next(engine for engine in found["engines"] if engine["name"] == "kvm")
    check(kvm["stages"], "doctor shows no steps of the probe")
    failed = [stage for stage in kvm["stages"] if not stage["passed"]]
    check(kvm["usable"] == (not failed), f"usable {kvm['usable']}, but failed: {failed}")
    check(all(stage["why"] for stage in failed), f"a failed step without a reason: {failed}")
    if kvm["usable"]:
        return
    arguments = ["run", "--kernel", kernel("cloud"), "--initrd", initramfs(), "--append",
                 MOVE_APPEND, "--name", fresh_name()]
    with Place() as place, place.run([*PROGRAM, *arguments, "--engine", "kvm"]) as run:
        check(run.wait_exit(20) == 1, run.describe())
        check("KVM cannot be used here: " + failed[0]["why"] in run.stderr(), run.describe())
        check(len(run.stderr().splitlines()) == 2, f"no next step: {run.stderr()}")
    with Place() as place, place.run([*PROGRAM, *arguments, "--engine", "auto"]) as run:
        check(run.wait_exit(60) == 0, run.describe())
        check("engine soft, since KVM cannot be used here: " in run.stderr(), run.describe())


CASES = [
    Case("shares with control groups of version 2", groups_of_version_2),
    Case("probe of KVM", probe_here),
    Case("software engine's state moves", moves_here),
    Case("software engine's state moves with a disk", moves_with_disk),
    Case("KVM nested, 1 CPU", inner_boots, 1),
    Case("KVM nested, 2 CPUs", inner_boots, 2),
    Case("disk under KVM nested, 1 CPU", disk_nested, 1, "", "PCI-MSI"),
    Case("disk under KVM nested, 2 CPUs, without MSI-X", disk_nested, 2, "pci=nomsi", "IO-APIC"),
    Case("doorbells and interrupts of eventfds, nested", doorbells_nested),
    Case("KVM refused, nested", refused_nested),
    Case("copies of memory while it is written", copies_here),
    Case("copies of memory that disks write", copies_with_disk),
    Case("memory begins as a copy", copies_here, "rebase"),
    Case("copies of memory under KVM, nested", copies_nested),
    Case("log of written pages", dirty_here, "soft"),
    Case("log of written pages, moving", dirty_here, "soft", "soft"),
    Case("log of written pages, nested", dirty_nested, "kvm"),
    Case("log of written pages, moving, nested", dirty_nested, "kvm", "soft"),
    Case("guest moves from KVM to the software engine, nested", through_nested, "move", mover,
         moved, 1, "kvm", "soft"),
    Case("guest moves from the software engine to KVM, nested", through_nested, "move", mover,
         moved, 1, "soft", "kvm"),
]
