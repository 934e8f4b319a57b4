# SPDX-License-Identifier: GPL-2.0-or-later
"""Input that cannot work: an error that says so, and nothing left behind."""
import os
import re
import shutil
from pathlib import Path

from guest import (PROGRAM, Case, Place, Timeout, check, fresh_name, initramfs, kernel,
                   lodge_command)

FAILURE, USAGE = 1, 2
NOBODY = 65534
CRASH = re.compile(r"sanitizer|segmentation|assert|core dumped", re.I)


def refused(place, command, statuses, words, **kwargs):
    """The command ends at once with one of the statuses and a message with these words."""
    with place.run(command, **kwargs) as run:
        try:
            status = run.wait_exit(20)
        except Timeout as why:
            raise AssertionError(f"not refused: {why}") from None
        text = run.stderr()
        check(status in statuses, f"exit status {status}, wanted {statuses}: {text}")
        check(run.stdout() == "", f"printed on standard output: {run.stdout()}")
        check(text.startswith("lodge"), f"the message does not name the program: {text!r}")
        check(len(text) < 2000, f"the message has {len(text)} characters")
        check(not CRASH.search(text), f"it crashed: {text}")
        for word in words:
            check(re.search(word, text, re.I), f"no {word!r} in: {text}")
        check(not run.group_alive(), "a process was left behind")


def bad_option(words, *options, statuses=(FAILURE, USAGE)):
    """A good command line made bad by further options."""
    with Place() as place:
        command = lodge_command(kernel("cloud"), initramfs(), extra=options)
        refused(place, command, statuses, words)
        check(not place.left(), f"left behind: {place.left()}")


def bad_kernel(make, words):
    """make(path) writes what is given as --kernel."""
    with Place() as place:
        path = place.path / "kernel"
        make(path)
        command = lodge_command(str(path), initramfs())
        refused(place, command, (FAILURE,), words)
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
        check(not place.left(), f"left behind: {place.left()}")


def truncated(size):
    def make(path):
        path.write_bytes(Path(kernel("cloud")).read_bytes()[:size])
    return make


def text(path):
    path.write_text("This is no kernel.\n" * 1000)


def zeros(path):
    path.write_bytes(bytes(1 << 20))


def program(path):
    shutil.copy("/bin/sh", path)


def nonsense(path):
    """The boot signature and header of a bzImage with every other field all ones."""
    image = bytearray(b"\xff" * 65536)
    image[0x1fe:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    path.write_bytes(image)


def fifo(path):
    os.mkfifo(path)


def unreadable():
    """A file without read permission, seen by a user who is not root."""
    with Place() as place:
        path = place.path / "kernel"
        shutil.copy(kernel("cloud"), path)
        path.chmod(0)
        kwargs = {}
        command = lodge_command(str(path), initramfs())
        if os.geteuid() == 0:
            # A copy, as this folder may be out of an ordinary user's reach.
            command[0] = shutil.copy(PROGRAM[0], place.path / "lodge")
            kwargs = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            for name in ("cwd", "home", "tmp", "runtime"):
                os.chown(place.path / name, NOBODY, NOBODY)
        refused(place, command, (FAILURE,), ["permission"], **kwargs)
        path.unlink()
        (place.path / "lodge").unlink(missing_ok=True)
        check(not place.left(), f"left behind: {place.left()}")


def big_initrd():
    with Place() as place:
        path = place.path / "initrd"
        with open(path, "wb") as file:
            file.truncate(600 << 20)
        refused(place, lodge_command(kernel("cloud"), str(path)), (FAILURE,), ["initrd", "memory"])
        path.unlink()
        check(not place.left(), f"left behind: {place.left()}")


def same_name():
    """The second guest of a name is refused, the first runs on; then the name is free."""
    name = fresh_name()
    extra = ["--name", name]
    with Place() as place:
        first = lodge_command(kernel("cloud"), initramfs(), "lodge.test=idle10", extra=extra)
        with place.run(first) as run:
            run.wait_line("LODGE-TEST idle begin")
            refused(place, lodge_command(kernel("cloud"), initramfs(), extra=extra), (FAILURE,),
                    [name, "already|in use|running"])
            run.wait_line("LODGE-TEST done")
            check(run.wait_exit() == 0, run.describe())
        check(not place.left(), f"left behind: {place.left()}")
        with place.run(first) as run:
            run.wait_line("LODGE-TEST init")
            run.kill()
        # A killed process cannot tidy; the name is free all the same.
        second = lodge_command(kernel("cloud"), initramfs(), "lodge.test=boot", extra=extra)
        with place.run(second) as run:
            check(run.wait_exit() == 0, run.describe())
        check(not place.left(), f"left behind: {place.left()}")


def missing(option):
    with Place() as place:
        command = lodge_command(kernel("cloud"), initramfs(), extra=[option, "/no/such/file"])
        refused(place, command, (FAILURE,), ["/no/such/file"])
        check(not place.left(), f"left behind: {place.left()}")


def usage(words, *arguments):
    with Place() as place:
        refused(place, [*PROGRAM, *arguments], (USAGE,), words)


CASES = [
    Case("bad input: missing kernel file", missing, "--kernel"),
    Case("bad input: missing initrd file", missing, "--initrd"),
    Case("bad input: unreadable kernel", unreadable),
    Case("bad input: kernel is a folder", bad_kernel, Path.mkdir, ["kernel"]),
    Case("bad input: kernel is a FIFO", bad_kernel, fifo, ["kernel"]),
    Case("bad input: kernel is empty", bad_kernel, truncated(0), ["kernel"]),
    Case("bad input: kernel is text", bad_kernel, text, ["kernel"]),
    Case("bad input: kernel is zeros", bad_kernel, zeros, ["kernel"]),
    Case("bad input: kernel is a program", bad_kernel, program, ["kernel"]),
    Case("bad input: kernel with a nonsense header", bad_kernel, nonsense, ["kernel"]),
    Case("bad input: kernel cut off at 100 bytes", bad_kernel, truncated(100), ["kernel"]),
    Case("bad input: kernel cut off in its header", bad_kernel, truncated(0x220), ["kernel"]),
    Case("bad input: kernel cut off after its setup", bad_kernel, truncated(20000), ["kernel"]),
    Case("bad input: kernel cut off in the middle", bad_kernel, truncated(4 << 20), ["kernel"]),
    Case("bad input: initrd larger than memory", big_initrd),
    Case("bad input: no memory", bad_option, ["memory"], "-m", "0"),
    Case("bad input: 1 MiB of memory", bad_option, ["memory|MiB"], "-m", "1M"),
    Case("bad input: 8 MiB of memory", bad_option, ["memory|MiB"], "-m", "8M"),
    Case("bad input: more memory than the host has", bad_option, ["memory"], "-m", "100TiB"),
    Case("bad input: more memory than a number holds", bad_option, ["memory"], "-m", "99999999999999999999G"),
    Case("bad input: negative memory", bad_option, ["memory"], "-m-512M"),
    Case("bad input: memory that is no number", bad_option, ["memory"], "-m", "lots"),
    Case("bad input: no CPUs", bad_option, ["cpus"], "-c", "0"),
    Case("bad input: 10,000 CPUs", bad_option, ["cpus"], "-c", "10000"),
    Case("bad input: CPUs that are no number", bad_option, ["cpus"], "-c", "two"),
    Case("bad input: command line too long", bad_option, ["command line|append"], "--append", "x" * 5000),
    Case("bad input: command line far too long", bad_option, ["command line|append"], "--append", "x" * 100000),
    Case("two guests with one name", same_name),
    Case("bad input: a name with a slash", bad_option, ["name"], "--name", "../x"),
    Case("bad input: an empty name", bad_option, ["name"], "--name", ""),
    Case("bad input: unknown engine", bad_option, ["engine"], "--engine", "warp"),
    Case("bad input: unknown console", bad_option, ["console"], "--console", "warp"),
    Case("bad input: unknown option", usage, ["frobnicate"], "run", "--frobnicate"),
    Case("bad input: option without its value", usage, ["kernel"], "run", "--kernel"),
    Case("bad input: run without a kernel", usage, ["kernel"], "run"),
    Case("bad input: unknown verb", usage, ["frobnicate"], "frobnicate"),
]
