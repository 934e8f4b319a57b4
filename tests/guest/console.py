# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest on a terminal, and what the program says about itself."""
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

from guest import (PROGRAM, Case, Place, Skip, Timeout, check, initramfs, initramfs_with_modules,
                   kernel, lodge_command)

PROMPT = r"lodge:\S*# "


class Terminal:
    """A command on a pseudo-terminal; we are the person in front of it."""

    def __init__(self, place, command):
        try:
            self.near, self.far = pty.openpty()
        except OSError as why:
            raise Skip(f"no pseudo-terminal to be had here ({why})") from None
        self.before = termios.tcgetattr(self.far)
        self.text = ""
        self.seen = 0
        env = dict(os.environ, XDG_RUNTIME_DIR=str(place.path / "runtime"), TERM="vt100")
        self.process = subprocess.Popen(command, stdin=self.far, stdout=self.far,
                                        stderr=self.far, env=env, cwd=place.path / "cwd",
                                        start_new_session=True,
                                        # Becomes the terminal of the new session.
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def expect(self, pattern, timeout=120):
        """Read until what came after the last match contains pattern."""
        deadline = time.monotonic() + timeout
        while not (match := re.search(pattern, self.text[self.seen:])):
            left = deadline - time.monotonic()
            if left <= 0:
                raise Timeout(f"no {pattern!r} on the terminal after {self.text[-400:]!r}")
            if select.select([self.near], [], [], min(left, 1))[0]:
                self.text += os.read(self.near, 65536).decode("utf-8", "replace")
        self.seen += match.end()
        return match

    def type(self, text):
        os.write(self.near, text.encode())

    def wait_exit(self, timeout=30):
        """Exit status; what it still prints is read meanwhile."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise Timeout(f"still running; the terminal shows {self.text[-400:]!r}")
            if select.select([self.near], [], [], 0.1)[0]:
                self.text += os.read(self.near, 65536).decode("utf-8", "replace")
        return self.process.returncode

    def restored(self):
        return termios.tcgetattr(self.far) == self.before

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.near)
        os.close(self.far)


def interactive(extra=()):
    return lodge_command(kernel("cloud"), initramfs("demo"), "lodge.interactive", 2, extra=extra)


def shell():
    """Typing reaches the guest, Ctrl-C too; leaving the shell powers it off."""
    with Place() as place, Terminal(place, interactive()) as term:
        term.expect(PROMPT)
        check(not term.restored(), "the terminal is not in raw mode")
        term.type("echo $((40 + 2)) cpus=$(nproc)\n")
        term.expect(r"\n42 cpus=2\r")
        term.expect(PROMPT)
        term.type("sleep 1000\n")
        time.sleep(1)
        term.type("\x03")
        term.expect(PROMPT, 20)
        term.type("echo still $((1 + 1))\n")
        term.expect(r"\nstill 2\r", 20)
        term.type("exit\n")
        check(term.wait_exit() == 0, f"exit status {term.process.returncode}")
        check(term.restored(), "the terminal was not restored")
        check(not place.left(), f"left behind: {place.left()}")


def leave():
    """Ctrl-] leaves the console and the terminal is as before."""
    with Place() as place, Terminal(place, interactive()) as term:
        term.expect(PROMPT)
        term.type("\x1d")
        term.wait_exit()
        check(term.restored(), "the terminal was not restored")
        check(not place.left(), f"left behind: {place.left()}")


def killed():
    """SIGTERM restores the terminal, too."""
    with Place() as place, Terminal(place, interactive()) as term:
        term.expect(PROMPT)
        term.process.terminate()
        check(term.wait_exit() == 128 + 15, f"exit status {term.process.returncode}")
        check(term.restored(), "the terminal was not restored")
        check(not place.left(), f"left behind: {place.left()}")


def no_console():
    """With --console none nothing appears and the guest still ends well."""
    command = lodge_command(kernel("cloud"), initramfs(), "lodge.test=boot",
                            extra=["--console", "none"])
    with Place() as place, place.run(command) as run:
        check(run.wait_exit() == 0, run.describe())
        check(run.stdout() == "", f"printed: {run.stdout()}")
        check(not place.left(), f"left behind: {place.left()}")


def virtio():
    """What is typed goes to hvc0, which knows the terminal's size and hears when it changes."""
    command = lodge_command(kernel("cloud"), initramfs_with_modules("cloud"), "lodge.test=hvc",
                            extra=["--console", "virtio"])

    def size(rows, cols):
        fcntl.ioctl(term.far, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    with Place() as place, Terminal(place, command) as term:
        term.expect("LODGE-TEST hvc ready")
        size(43, 132)
        term.expect("size 43 132")
        term.type("say something\n")
        term.expect("SAY SOMETHING")
        size(25, 80)
        term.expect("size 25 80")
        term.type("end\n")
        check(term.wait_exit(60) == 0, f"exit status {term.process.returncode}")
        check(term.restored(), "the terminal was not restored")
        check(not place.left(), f"left behind: {place.left()}")


def says(words, *arguments):
    done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, timeout=60)
    check(done.returncode == 0, f"exit status {done.returncode}: {done.stderr}")
    for word in words:
        check(re.search(word, done.stdout), f"no {word!r} in: {done.stdout}")


CASES = [
    Case("interactive shell", shell),
    Case("Ctrl-] leaves", leave),
    Case("SIGTERM restores the terminal", killed),
    Case("--console none", no_console),
    Case("--console virtio", virtio),
    Case("lodge --help", says, ["run", "doctor"], "--help"),
    Case("lodge --version", says, [r"lodge \d+\.\d+"], "--version"),
    Case("lodge run --help", says,
         ["--name", "--engine", "--cpus", "--memory", "--kernel", "--initrd", "--append",
          "--console", "--no-reboot", "--stats"], "run", "--help"),
    Case("lodge doctor", says, ["soft", "kvm"], "doctor"),
]
