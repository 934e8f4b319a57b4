# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that boot, work, reset, idle and end."""
import lzma
import re
import signal
import struct
import time
from pathlib import Path

from guest import (CACHE, Case, Place, Skip, check, initramfs, kernel, lodge_command,
                   need_proc)

INIT = r"LODGE-TEST init cpus=(\d+) mem=(\d+) uptime=(\S+) release=(\S+)"
DONE = r"LODGE-TEST done"


def ends_well(run, place):
    """The guest powered itself off: status 0, no complaint, nothing left."""
    status = run.wait_exit()
    check(status == 0, f"exit status is not 0: {run.describe()}")
    check(run.stderr() == "", f"unexpected messages: {run.stderr()}")
    check(not run.group_alive(), "a process was left behind")
    check(not place.left(), f"left behind: {place.left()}")


def boot(name, cpus, memory="512M", test="boot", extra=()):
    """Boot to init and through one of init's tests; returns the ended run."""
    command = lodge_command(kernel(name), initramfs(), f"lodge.test={test}", cpus, memory, extra)
    with Place() as place, place.run(command) as run:
        _, seen = run.wait_line(INIT)
        check(int(seen[1]) == cpus, f"{seen[1]} CPUs online, wanted {cpus}")
        run.wait_line(DONE)
        ends_well(run, place)
        return run, seen


def boots(name, cpus):
    run, _ = boot(name, cpus, test="cpus")
    for cpu in range(cpus):
        run.wait_line(rf"LODGE-TEST cpu want={cpu} got={cpu} i=2000", 0)


def boots_max(cpus):
    """A kernel makes use of what only this processor shows."""
    boot("cloud", cpus, test="loop", extra=["--cpu", "max"])


def has_memory(mib):
    need_proc()
    available = int(re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text())[1])
    if available // 1024 < mib + 1024:
        raise Skip(f"{mib} MiB of guest memory is more than this host can spare")
    _, seen = boot("cloud", 1, f"{mib}M")
    # The kernel keeps some for itself: page structures are 1/64, and its image.
    check(mib * 1024 * 0.95 - 65536 <= int(seen[2]) <= mib * 1024,
          f"the guest sees {seen[2]} kB of {mib} MiB")


def holds_memory():
    run, _ = boot("cloud", 1, "256M", test="memtest")
    run.wait_line(r"LODGE-TEST memtest end  ok ok ok ok$", 0)


def addresses(cpus):
    """Address spaces that change while their processes compute, checked from inside."""
    run, _ = boot("cloud", cpus, test="addresses")
    _, seen = run.wait_line(r"LODGE-TEST addresses (.*)$", 0)
    results = re.findall(r"memory: (\d+) rounds, 0 errors", seen[1])
    check(len(results) == 2 and all(int(n) > 20 for n in results), seen[1])


def loops():
    run, _ = boot("cloud", 1, test="loop")
    run.wait_line(r"LODGE-TEST loop end i=200000", 0, count=2)


def idles():
    """Ten idle seconds cost under 3% of one CPU."""
    need_proc()
    command = lodge_command(kernel("cloud"), initramfs(), "lodge.test=idle10", 2)
    with Place() as place, place.run(command) as run:
        began, _ = run.wait_line("LODGE-TEST idle begin")
        before = run.cpu_seconds()
        ended, _ = run.wait_line("LODGE-TEST idle end")
        used = run.cpu_seconds() - before
        check(9.5 <= ended - began <= 20, f"sleep 10 took {ended - began:.2f} s")
        check(used < 0.03 * (ended - began), f"idle for {ended - began:.1f} s used {used:.2f} s")
        ends_well(run, place)


def resets():
    """A guest reset starts it over: init comes twice, from one process."""
    command = lodge_command(kernel("cloud"), initramfs(), "lodge.test=reboot", 2)
    with Place() as place, place.run(command) as run:
        run.wait_line(INIT)
        run.wait_line(INIT, count=2)
        check(run.process.poll() is None, run.describe())
        run.process.terminate()
        check(run.wait_exit(20) == 128 + 15, f"status after SIGTERM: {run.describe()}")
        check(not place.left(), f"left behind: {place.left()}")


def ends_at_reset(append, cpus):
    command = lodge_command(kernel("cloud"), initramfs(), append, cpus, extra=["--no-reboot"])
    with Place() as place, place.run(command) as run:
        run.wait_line(INIT)
        ends_well(run, place)
        check(len(re.findall(INIT, run.stdout())) == 1, "the guest was started again")


def triple_fault():
    """A triple fault is a failure whose one message says where."""
    command = lodge_command(kernel("cloud"), initramfs(), "reboot=t lodge.test=reboot",
                            extra=["--no-reboot"])
    with Place() as place, place.run(command) as run:
        run.wait_line("LODGE-TEST reboot")
        status = run.wait_exit()
        check(status == 1, f"exit status is not 1: {run.describe()}")
        for word in ("triple fault", r"\brip\b", r"\bcs\b", r"\b[0-9a-f]{2}( [0-9a-f]{2}){3,}"):
            check(re.search(word, run.stderr(), re.I), f"no {word} in: {run.stderr()}")
        check(not place.left(), f"left behind: {place.left()}")


def stats():
    command = lodge_command(kernel("cloud"), initramfs(), "lodge.test=boot", extra=["--stats"])
    with Place() as place, place.run(command) as run:
        run.wait_line(DONE)
        check(run.wait_exit() == 0, run.describe())
        check(re.search(r"\d", run.stderr()), "--stats printed nothing")


def read_map(path):
    """The ranges in a map for perf, (start, size, name) by address; none overlaps the next."""
    ranges = []
    for line in path.read_text().splitlines():
        seen = re.fullmatch(r"([0-9a-f]+) ([0-9a-f]+) (\S+)", line)
        check(seen, f"not a line of a map for perf: {line!r}")
        ranges.append((int(seen[1], 16), int(seen[2], 16), seen[3]))
    ranges.sort()
    for (start, size, name), (after, _, other) in zip(ranges, ranges[1:]):
        check(size > 0 and start + size <= after, f"{name} reaches into {other}")
    names = [name for *_, name in ranges]
    known = r"glue|thunk|(soft|careful|direct|placed|own):0x[0-9a-f]+(\.cold)?"
    check(all(re.fullmatch(known, name) for name in names), f"odd names in {path}")
    check(names.count("glue") == 1, f"{names.count('glue')} times glue")
    blocks = [name for name in names if re.fullmatch(r"\w+:0x[0-9a-f]+", name)]
    check(len(blocks) > 1000, f"only {len(blocks)} blocks")
    return ranges


def asked(run, count, timeout=30):
    """SIGUSR1, and wait for the count-th report."""
    run.process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + timeout
    while len(re.findall("statistics of guest", run.stderr())) < count:
        check(time.monotonic() < deadline and run.process.poll() is None,
              f"no report: {run.describe()}")
        time.sleep(0.05)


def perf_map():
    """Names for perf, while the guest runs and when it is over."""
    need_proc()
    command = lodge_command(kernel("cloud"), initramfs(), "lodge.test=loop", extra=["--perf-map"])
    with Place() as place, place.run(command) as run:
        path = Path(f"/tmp/perf-{run.process.pid}.map")
        try:
            run.wait_line("LODGE-TEST loop begin")
            check(not path.exists(), "there is a map that nobody asked for")
            asked(run, 1)
            maps = Path(f"/proc/{run.process.pid}/maps").read_text()
            ranges = read_map(path)
            check(path.stat().st_mode & 0o7777 == 0o600, "others may read the map")
            start, end = ranges[0][0], ranges[-1][0] + ranges[-1][1]
            # Not writable, and named as memory is for which perf looks for names there.
            found = re.finditer(r"^(\w+)-(\w+) r-xs .* /dev/zero \(deleted\)$", maps, re.M)
            inside = [m for m in found if int(m[1], 16) == start and end <= int(m[2], 16)]
            check(len(inside) == 1, f"{start:x} to {end:x} is no mapping of:\n{maps}")
            path.unlink()
            run.wait_line(DONE)
            check(run.wait_exit() == 0, run.describe())
            check(read_map(path)[0][0] == start, "the map at the end is for other memory")
            check("cannot" not in run.stderr(), run.stderr())
            check(not place.left(), f"left behind: {place.left()}")
        finally:
            path.unlink(missing_ok=True)


def perf_map_refused():
    """A map that cannot be written is one message, however often asked for; the guest goes on."""
    command = lodge_command(kernel("cloud"), initramfs(), "lodge.test=loop", extra=["--perf-map"])
    with Place() as place, place.run(command) as run:
        path = Path(f"/tmp/perf-{run.process.pid}.map")
        path.mkdir()
        try:
            run.wait_line("LODGE-TEST loop begin")
            asked(run, 1)
            asked(run, 2)
            run.wait_line(DONE)
            check(run.wait_exit() == 0, run.describe())
            said = run.stderr().count(f"lodge: cannot write {path}: ")
            check(said == 1, f"said {said} times: {run.stderr()}")
        finally:
            path.rmdir()


def payload(bzimage):
    """The ELF vmlinux inside a bzImage (Documentation/arch/x86/boot.rst: payload_offset)."""
    image = Path(bzimage).read_bytes()
    setup = ((image[0x1f1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    data = image[setup + offset:setup + offset + length]
    if data.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(data)
    raise Skip("this kernel is not compressed with xz")


def pvh(name, cpus):
    """The same kernel as an ELF file, entered through its PVH note."""
    source = kernel(name)
    path = CACHE / f"vmlinux-{name}"
    if not path.exists() or path.stat().st_mtime < Path(source).stat().st_mtime:
        path.write_bytes(payload(source))
    boot(str(path), cpus, test="cpus")


CASES = [Case(f"boot {name} with {cpus} CPUs", boots, name, cpus)
         for name, cpus in (("cloud", 1), ("cloud", 2), ("cloud", 4), ("amd64", 1), ("amd64", 2),
                            ("amd64", 4), ("backports", 1), ("backports", 2), ("backports", 4))]
CASES += [
    Case("boot cloud with 2 CPUs, processor max", boots_max, 2),
    Case("boot amd64 as ELF through PVH with 1 CPUs", pvh, "amd64", 1),
    Case("boot amd64 as ELF through PVH with 2 CPUs", pvh, "amd64", 2),
    Case("128 MiB of memory", has_memory, 128),
    Case("2 GiB of memory", has_memory, 2048),
    Case("5 GiB of memory, part above 4 GiB", has_memory, 5120),
    Case("memory keeps what is written", holds_memory),
    Case("processes that change their address spaces, 1 CPU", addresses, 1),
    Case("processes that change their address spaces, 2 CPUs", addresses, 2),
    Case("shell loop", loops),
    Case("idle costs next to nothing", idles),
    Case("reset restarts the guest", resets),
    Case("--no-reboot ends at a reset", ends_at_reset, "lodge.test=reboot", 2),
    Case("--no-reboot ends after a panic", ends_at_reset, "lodge.test=panic panic=-1", 1),
    Case("triple fault is reported", triple_fault),
    Case("--stats prints counters", stats),
    Case("--perf-map gives perf names for translated code", perf_map),
    Case("--perf-map that cannot be written", perf_map_refused),
]
