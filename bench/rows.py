# SPDX-License-Identifier: GPL-2.0-or-later
"""The rows of the benchmark: what is asked of the agent and how it is timed."""
import re

from machines import Failed

TARGET = 0.4  # seconds that a row of many small things should take


class Row:
    """timeout is for one run, in seconds; goal is the slowdown aimed at."""

    def __init__(self, name, title, group, goal=None, timeout=120, cpus=1):
        self.name = name
        self.title = title
        self.group = group
        self.goal = goal
        self.timeout = timeout
        self.cpus = cpus

    def best(self, values):
        """What several runs come to."""
        return min(values)


class Took:
    """Seconds by the host's clock, and of the host's processors."""

    def __init__(self, wall, cpu):
        self.wall = wall
        self.cpu = cpu

    def by(self, clock):
        return self.wall if clock == "wall" else self.cpu

    def each(self, count):
        return Took(self.wall / count, self.cpu / count)


def ask(machine, row, request, serial):
    """Send a request; the time between its begin and end lines, the latter's text, all lines."""
    since = len(machine.lines)
    machine.send(request)
    began, _ = machine.wait(f"LODGE-BENCH begin {serial}", row.timeout, since)
    cpu = machine.cpu()
    ended, text = machine.wait(f"LODGE-BENCH end {serial}", row.timeout, since)
    took = Took(ended - began, machine.cpu() - cpu)
    machine.wait(f"LODGE-BENCH done {serial}", row.timeout, since)
    return took, text, machine.lines[since:]


class Micro(Row):
    """Many small things, as many as take a measurable time; the value is seconds for one."""

    def __init__(self, name, title, group, first, goal=None, **more):
        super().__init__(name, title, group, goal, **more)
        self.first = first
        self.counts = {}

    def run(self, machine, serials):
        count = self.counts.get(machine.kind.name, self.first)
        while True:
            serial = next(serials)
            took, text, _ = ask(machine, self, f"micro {self.name} {count} {serial}", serial)
            if took.wall >= TARGET * 0.7:
                break
            count = min(count * 50, int(count * TARGET * 1.1 / max(took.wall, 0.002)) + 1)
        self.counts[machine.kind.name] = count
        return took.each(count), text


class Job(Row):
    """A fixed piece of work; the value is its seconds."""

    def run(self, machine, serials):
        serial = next(serials)
        took, text, lines = ask(machine, self, f"job {self.name} 1 {serial}", serial)
        status, _, output = text.partition(" ")
        if status != "0":
            raise Failed(f"status {status}: " + " | ".join(line for _, line in lines[-5:-1]))
        return took, output


class Speed(Row):
    """openssl speed, which works until a second is up: its lines are the marks."""

    def run(self, machine, serials):
        serial = next(serials)
        took, text, lines = ask(machine, self, f"speed {self.name} 1 {serial}", serial)
        began = [when for when, line in lines if line.startswith("+DT:")]
        ended = [(when, int(match[1])) for when, line in lines
                 if (match := re.match(r"\+R:(\d+):", line))]
        if text != "0" or not began or not ended:
            raise Failed("openssl speed: " + " | ".join(line for _, line in lines[-5:-1]))
        wall = ended[0][0] - began[0]
        return Took(wall, took.cpu * wall / took.wall).each(max(ended[0][1], 1)), ""


BOOT = Row("boot", "boot to init", "boot")
CHECK = Job("check", "results agree", "check", timeout=600)
INTEGER, SIMD, OS, REAL, SCALING = "integer", "FP and SIMD", "kernel", "real job", "2 CPUs"

ROWS = (
    Job("7z", "7z b -mmt1", INTEGER),
    Job("zstd", "zstd -b3", INTEGER),
    Job("lz4", "lz4 -b1", INTEGER),
    Job("sqlite", "sqlite3", INTEGER),
    Job("python", "python3", INTEGER),
    Job("perl", "perl", INTEGER),
    Micro("bytecode", "bytecode loop", INTEGER, 20),
    Micro("calls", "recursive calls", INTEGER, 500),
    Speed("sha256", "openssl sha256", SIMD),
    Speed("aes", "openssl aes-128-gcm", SIMD),
    Micro("matrix", "matrix product", SIMD, 20),
    Micro("nbody", "n-body", SIMD, 100),
    Micro("memcpy-l1", "memcpy in L1", SIMD, 20000, goal=2),
    Micro("memcpy-mem", "memcpy in memory", SIMD, 4),
    Micro("syscall", "null system call", OS, 20000, goal=3),
    Micro("pipe", "pipe round trip", OS, 500, goal=6),
    Micro("fork", "fork and exit", OS, 20, goal=4.5),
    Micro("exec", "fork and exec", OS, 20, goal=4.5),
    Micro("fault", "page fault", OS, 5000, goal=4),
    Micro("mmap", "mmap, munmap", OS, 1000, goal=6),
    Micro("signal", "signal", OS, 2000, goal=6),
    Micro("switch", "switch among 8", OS, 500, goal=6),
    Job("gcc", "gcc, 50 files", REAL, goal=3.5, timeout=300),
)


class Both:
    """The times of one job and of two at once, always by the clock."""

    def __init__(self, one, two):
        self.one = one
        self.two = two

    def by(self, clock):
        return [self.one.wall, self.two.wall]


class Scaling(Row):
    """How much more two CPUs get done than one: one job's time against two at once."""

    def __init__(self, name, title, one, two, timeout=240):
        super().__init__(name, title, SCALING, 1.8, timeout, cpus=2)
        self.one = one
        self.two = two

    def run(self, machine, serials):
        one, _ = self.one.run(machine, serials)
        two, _ = self.two.run(machine, serials)
        return Both(one, two), ""

    def best(self, values):
        return 2 * min(one for one, _ in values) / min(two for _, two in values)


SCALINGS = (
    Scaling("scale-calls", "recursive calls", Micro("calls", "", "", 500),
            Micro("calls-twice", "", "", 500)),
    Scaling("scale-zstd", "zstd -b3", Job("zstd", "", ""), Job("zstd_twice", "", "")),
    Scaling("scale-7z", "7z b -mmt1", Job("7z", "", ""), Job("7z_twice", "", "")),
)

# Groups whose geometric mean is a figure of its own, with the goal for it.
MEANS = {INTEGER: 2.4, SIMD: 2.5}
