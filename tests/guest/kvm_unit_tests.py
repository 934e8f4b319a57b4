#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""kvm_unit_tests.py [OPTION...] FOLDER [WORD...]: run built kvm-unit-tests under lodge.

FOLDER is the top of a built tree of https://gitlab.com/kvm-unit-tests/kvm-unit-tests
(x86). Its x86/unittests.cfg says what to run; shell substitutions in there are
expanded, as that suite's own runner does. With WORDs only tests whose names
contain one of them run. --tcg runs each under QEMU TCG, too, directly after
lodge and with the CPU model that the configuration names; lodge shows the
processor it has, all of it where the configuration says so. A test has the time the configuration gives it or that
suite's 90 s; --timeout puts a lower bound under that.

A test passes when it writes 0 to the exit port, and is skipped when it says
that the processor lacks what it tests. Exit status 1: a test failed here, or
with --tcg, one that passes there did not pass here. The tests of GAPS below
are not held against lodge: what they want is named with each.
"""
import argparse
import configparser
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from guest import PROGRAM, fresh_name

PASSED, SKIPPED = 0 << 1 | 1, 77  # as the exit device reports them
MEMORY = 512
TIMEOUT = 90  # of the suite's own runner

# What lodge is known not to do, and why.
GAPS = {
    "syscall": "wants SYSCALL in 32-bit code, which AMD's processors have; lodge shows Intel's, "
               "where it is #UD",
    "s3": "the machine has no sleep state S3",
    "vmware_backdoors": "a port of another hypervisor; lodge has KVM's interface alone",
    "intel_iommu": "the machine has no IOMMU, and no PCI device that would need one",
}


class Test:
    """A section of unittests.cfg."""

    def __init__(self, name, section, folder):
        self.name = name
        self.file = folder / "x86" / section["file"]
        self.smp = int(section.get("smp", "1").split(",")[0])
        self.arch = section.get("arch")
        self.groups = section.get("groups", "").split()
        self.timeout = float(section.get("timeout", TIMEOUT))
        self.qemu = shlex.split(section.get("qemu_params", section.get("extra_params", "")))
        self.test_args = section.get("test_args", "")

    def args(self):
        """The test's arguments as of now: one is the time."""
        return expand(self.test_args)

    def unusable(self, arch, everything):
        """Why it is not run, or None."""
        if self.arch and self.arch != arch:
            return f"{self.arch} only"
        if "nodefault" in self.groups and not everything:
            return "nodefault"
        if not self.file.exists():
            return "not built"
        return None

    def memory(self):
        if "-m" not in self.qemu:
            return MEMORY
        number, unit = re.fullmatch(r"(\d+)([gGmM]?)", self.qemu[self.qemu.index("-m") + 1]).groups()
        return int(number) * (1024 if unit in ("g", "G") else 1)

    def model(self):
        """Where the configuration wants all that there is, lodge gives that, too."""
        return "max" if any(re.match("max|host", word) for word in self.qemu) else "host"

    def lodge(self, engine, initrd):
        command = [*PROGRAM, "run", "--quiet", "--no-reboot", "--name", fresh_name(),
                   "--engine", engine, "--cpu", self.model(), "--test-devices", "-c", str(self.smp),
                   "-m", f"{self.memory()}M", "--kernel", str(self.file), "--initrd", initrd]
        args = self.args()
        return command + (["--append", args] if args else [])

    def tcg(self, initrd):
        extra = [word for word in self.qemu if word != "-enable-kvm"]
        for i, word in enumerate(extra):
            if i and extra[i - 1] == "-cpu":
                extra[i] = re.sub("^host", "max", word)
        if "-cpu" not in extra:
            extra += ["-cpu", "max"]
        command = ["qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none",
                   "-serial", "stdio", "-device", "pc-testdev",
                   "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-machine", "accel=tcg",
                   "-smp", str(self.smp), "-m", str(self.memory()),
                   "-kernel", str(self.file), "-initrd", initrd, *extra]
        args = self.args()
        return command + (["-append", args] if args else [])


def expand(text):
    if not text:
        return ""
    done = subprocess.run(["sh", "-c", f"printf '%s ' {text}"], check=True,
                          stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    return done.stdout.strip()


def environment(test):
    """What the tests would ask QEMU's fw_cfg for, as the file of variables they accept instead."""
    return f"NR_CPUS={test.smp}\nMEMSIZE={test.memory()}\nTEST_DEVICE=1\n"


class Outcome:
    def __init__(self, command, timeout):
        began = time.monotonic()
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, timeout=timeout, check=False)
            self.status, out, err = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as late:
            self.status, out, err = None, late.stdout or b"", late.stderr or b""
        self.seconds = time.monotonic() - began
        self.out = out.decode("utf-8", "replace").replace("\r", "")
        self.err = err.decode("utf-8", "replace").strip()
        self.failures = re.findall(r"^FAIL: .*", self.out, re.M)

    def result(self):
        if self.status is None:
            return "timeout"
        if self.status in (PASSED, SKIPPED) and self.out:
            return "pass" if self.status == PASSED else "skip"
        return "fail"

    def why(self):
        """A line about what did not pass."""
        if self.failures:
            return f"{len(self.failures)}: {self.failures[0]}"
        if self.err:
            return self.err.splitlines()[0]
        lines = self.out.strip().splitlines()
        return f"status {self.status}: {lines[-1] if lines else 'no output'}"

    def log(self):
        return f"{self.out}\n{self.err}\nstatus {self.status}, {self.seconds:.1f} s\n"


def read_tests(folder):
    config = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    config.read(folder / "x86" / "unittests.cfg")
    return [Test(name, config[name], folder) for name in config.sections()]


def architecture(folder):
    found = re.search(r"^ARCH=(\S+)", (folder / "config.mak").read_text(), re.M)
    return found.group(1) if found else "x86_64"


def run(test, args, scratch):
    """Results of lodge and (or None) of TCG."""
    initrd = scratch / "environment"
    initrd.write_text(environment(test))
    timeout = max(test.timeout, args.timeout)
    outcomes = {"lodge": Outcome(test.lodge(args.engine, str(initrd)), timeout)}
    if args.tcg:
        outcomes["tcg"] = Outcome(test.tcg(str(initrd)), timeout)
    if args.logs:
        os.makedirs(args.logs, exist_ok=True)
        for name, outcome in outcomes.items():
            Path(args.logs, f"{test.name}.{name}").write_text(outcome.log())
    return outcomes["lodge"], outcomes.get("tcg")


def is_worse(lodge, tcg):
    """Must lodge pass where it does not? Without TCG to compare with: it may skip."""
    if tcg:
        return tcg.result() == "pass" != lodge.result()
    return lodge.result() in ("fail", "timeout")


def report(test, lodge, tcg):
    row = f"{test.name:32} {lodge.result():8}{lodge.seconds:5.1f} s"
    if tcg:
        row += f"   {tcg.result():8}{tcg.seconds:5.1f} s"
    if is_worse(lodge, tcg) and test.name in GAPS:
        row += "   known: " + GAPS[test.name]
    elif lodge.result() in ("fail", "timeout"):
        row += "   " + lodge.why()
    print(row, flush=True)


class Totals:
    """What all the tests came to."""

    def __init__(self):
        self.counts = {"lodge": {}, "tcg": {}}
        self.worse, self.known = [], []

    def add(self, test, lodge, tcg):
        for name, outcome in (("lodge", lodge), ("tcg", tcg)):
            if outcome:
                counts = self.counts[name]
                counts[outcome.result()] = counts.get(outcome.result(), 0) + 1
        if is_worse(lodge, tcg):
            (self.known if test.name in GAPS else self.worse).append(test.name)

    def report(self, tcg):
        for name, counts in self.counts.items():
            if counts:
                print(f"{name + ':':7}" + ", ".join(f"{n} {what}" for what, n in sorted(counts.items())))
        for name in self.known:
            print(f"known: {name}: {GAPS[name]}")
        if self.worse:
            print(("TCG passes, lodge does not: " if tcg else "not passed: ") + " ".join(self.worse))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", help="the lodge to test (default build/lodge)")
    parser.add_argument("--engine", default="soft")
    parser.add_argument("--tcg", action="store_true", help="compare with QEMU TCG")
    parser.add_argument("--timeout", type=float, default=0, help="least seconds for a test")
    parser.add_argument("--all", action="store_true", help="those marked nodefault, too")
    parser.add_argument("--logs", help="folder for the output of each test")
    parser.add_argument("folder", type=Path)
    parser.add_argument("words", nargs="*")
    args = parser.parse_args()
    if args.program:
        PROGRAM[0] = os.path.abspath(args.program)
    folder = args.folder.absolute()
    arch = architecture(folder)
    totals = Totals()
    print(f"{'test':32} {'lodge':16}" + ("  tcg" if args.tcg else ""))
    with tempfile.TemporaryDirectory(prefix="lodge-kut.") as scratch:
        for test in read_tests(folder):
            if args.words and not any(word in test.name for word in args.words):
                continue
            why = test.unusable(arch, args.all)
            if why:
                print(f"{test.name:32} not run: {why}")
                continue
            lodge, tcg = run(test, args, Path(scratch))
            report(test, lodge, tcg)
            totals.add(test, lodge, tcg)
    totals.report(args.tcg)
    sys.exit(1 if totals.worse else 0)


main()
