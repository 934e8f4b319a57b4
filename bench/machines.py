# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmark runs on: the host itself and several ways to have a guest.

A machine is a process that reads requests of bench/agent on standard input
and answers on standard output; lines are kept with the host's time of arrival.
"""
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / ".cache" / "bench"
PROGRAM = ROOT / "build" / "lodge"


class Failed(Exception):
    """The machine or what ran on it did not do as it should; str() says what."""


class Machine:
    """One started machine."""

    def __init__(self, kind, command, log):
        self.kind = kind
        self.lines = []
        self.changed = threading.Condition()
        self.log = open(log, "ab")
        self.log.write(f"\n==== {' '.join(map(str, command))}\n".encode())
        self.start = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, start_new_session=True,
                                        cwd=BENCH)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for raw in iter(self.process.stdout.readline, b""):
            now = time.monotonic()
            self.log.write(f"{now - self.start:9.3f} ".encode() + raw)
            self.log.flush()
            with self.changed:
                self.lines.append((now, raw.decode("utf-8", "replace").rstrip("\r\n")))
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def send(self, request):
        try:
            self.process.stdin.write((request + "\n").encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"it is gone; {self.last()}") from None

    def wait(self, text, timeout, since=0):
        """Time of arrival and the rest of the first line containing text."""
        deadline = time.monotonic() + timeout
        at = since
        with self.changed:
            while True:
                while at < len(self.lines):
                    when, line = self.lines[at]
                    at += 1
                    if text in line:
                        return when, line.split(text, 1)[1].strip()
                    if "Kernel panic" in line:
                        raise Failed(f"its kernel panicked; {self.last()}")
                if not self.reader.is_alive():
                    raise Failed(f"it ended; {self.last()}")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Failed(f"no answer in {timeout} s; {self.last()}")
                self.changed.wait(min(left, 0.5))

    def cpu(self):
        """Processor time that all its processes have used so far, in seconds."""
        total = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue  # it has just ended: its parent's figures have it
            if int(fields[3]) == self.process.pid:
                total += sum(map(int, fields[11:15]))
        return total / os.sysconf("SC_CLK_TCK")

    def last(self):
        return "last lines: " + " | ".join(line for _, line in self.lines[-4:])

    def end(self, timeout=20):
        """Ask it to power off; true when it did."""
        try:
            self.send("quit")
            self.process.wait(timeout)
            self.reader.join(5)
            return True
        except (Failed, subprocess.TimeoutExpired):
            return False
        finally:
            self.kill()

    def kill(self):
        """It and all that it has started, whether it has ended by itself or not. Idempotent."""
        if self.log.closed:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.reader.join(5)
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # a request that it did not live to read
        self.log.close()


def native(settings, initrd, cpus):
    """The host, in the tree that the guests have as their initramfs."""
    flags = ["-m", "-p", "-f"] if os.geteuid() == 0 else ["-r", "-m", "-p", "-f"]
    root = BENCH / "root"
    inside = (f"mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev && "
              f"exec chroot {root} /init native")
    return ["unshare", *flags, "sh", "-c", inside]


def append(settings, console="ttyS0"):
    return f"console={console} quiet {settings.append}".strip()


def lodge(settings, initrd, cpus):
    return [PROGRAM, "run", "--quiet", "--stats", "--engine", "soft", "-c", str(cpus),
            "-m", settings.memory, "--escape", "none", "--kernel", settings.kernel,
            "--initrd", initrd, "--append", append(settings)]


def qemu(settings, initrd, cpus, model):
    return ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", model, "-M", "pc",
            "-smp", str(cpus), "-m", settings.memory, "-nographic", "-nodefaults",
            "-serial", "stdio", "-no-reboot", "-kernel", settings.kernel, "-initrd", initrd,
            "-append", append(settings)]


def tcg(settings, initrd, cpus):
    return qemu(settings, initrd, cpus, "max")


def tcg_sse2(settings, initrd, cpus):
    return qemu(settings, initrd, cpus, "qemu64")


def uml(settings, initrd, cpus):
    """Its own kernel; it has no CPUs to share work between."""
    return ["linux.uml", f"mem={settings.memory}", f"initrd={initrd}", "con=null",
            "con0=fd:0,fd:1", "quiet"]


def bochs(settings, initrd, cpus):
    return [ROOT / "bench" / "bochs.sh", settings.kernel, initrd, append(settings)]


class Kind:
    def __init__(self, name, title, command, needs, most_cpus=64, boot_only=False, start=None):
        self.name = name
        self.title = title
        self.command = command
        self.needs = needs  # None, or the package set and a program of scripts/setup.sh
        self.most_cpus = most_cpus
        self.boot_only = boot_only
        self.start = start  # line at which its time starts, if not with the process

    def missing(self):
        """Why it cannot be used here, or None."""
        if self.needs:
            done = subprocess.run([ROOT / "scripts" / "setup.sh", self.needs[0]], check=False)
            if done.returncode or not shutil.which(self.needs[1]):
                return f"{self.needs[1]} is not installed"
        return None

    def begin(self, settings, initrd, cpus=1):
        return Machine(self, list(map(str, self.command(settings, initrd, cpus))),
                       BENCH / f"{self.name}.log")


KINDS = {kind.name: kind for kind in (
    Kind("native", "native", native, None),
    Kind("lodge", "Lodge, soft", lodge, None),
    Kind("tcg", "TCG, max", tcg, ("bench", "qemu-system-x86_64")),
    Kind("tcg-sse2", "TCG, qemu64", tcg_sse2, ("bench", "qemu-system-x86_64")),
    Kind("uml", "UML", uml, ("bench-uml", "linux.uml"), most_cpus=1),
    Kind("bochs", "Bochs", bochs, ("bench-bochs", "bochs"), most_cpus=1, boot_only=True,
         start="LODGE-BENCH start"),
)}
