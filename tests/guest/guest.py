# SPDX-License-Identifier: GPL-2.0-or-later
"""Start guests and watch their consoles. Shared by the scripts in this folder."""
import gzip
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".cache"
PROGRAM = [str(ROOT / "build" / "lodge")]  # cases.py --program changes it
APPEND = "console=ttyS0 quiet"
NAME = f"test-{os.getpid()}"
KERNELS = ("cloud", "amd64", "backports")


def script(*args):
    """Run one of our scripts and return what it prints."""
    done = subprocess.run([ROOT / "scripts" / args[0], *map(str, args[1:])], check=True,
                          stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    return done.stdout.strip()


def kernel(name):
    """Path of a kernel, by the names of scripts/kernel.sh or as a path."""
    return script("kernel.sh", name) if name in KERNELS else os.path.abspath(name)


def initramfs(profile="test"):
    out = CACHE / f"initramfs-{profile}.cpio.gz"
    script("initramfs.sh", out, profile)
    return str(out)


# In the order in which they depend on each other; what a kernel has built in it has no file for.
VIRTIO = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
          "rng-core", "virtio-rng", "virtio_blk", "virtio_balloon",
          "virtio_console", "failover", "net_failover", "virtio_net", "vsock", "vmw_vsock_virtio_transport_common",
          "vmw_vsock_virtio_transport")


def initramfs_with_modules(name, modules=VIRTIO):
    """The test initramfs with modules of the kernel `name`, which its init loads."""
    base = Path(initramfs())
    out = CACHE / f"initramfs-test-{name}-{len(modules)}.cpio.gz"
    if out.exists() and out.stat().st_mtime > base.stat().st_mtime:
        return str(out)
    tree = Path(script("modules.sh", name))
    found = {path.name.split(".")[0]: path for path in tree.rglob("*.ko*")}
    with tempfile.TemporaryDirectory() as temp:
        (Path(temp) / "modules").mkdir()
        for number, module in enumerate(modules):
            if module in found:
                target = Path(temp) / "modules" / f"{number:02}-{module}.ko"
                target.write_bytes(found[module].read_bytes())
        files = "\n".join(sorted(str(p.relative_to(temp)) for p in Path(temp).rglob("*")))
        more = subprocess.run(["cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet"], cwd=temp,
                              input=files.encode(), stdout=subprocess.PIPE, check=True).stdout
    # The kernel unpacks one archive after the other.
    part = out.with_suffix(f".{os.getpid()}")
    part.write_bytes(base.read_bytes() + gzip.compress(more))
    part.rename(out)
    return str(out)


def lodge_command(kernel_path, initrd, append="", cpus=1, memory="512M", extra=()):
    return [*PROGRAM, "run", "--quiet", "--name", fresh_name(), "--engine", "soft",
            "-c", str(cpus), "-m", memory, "--kernel", kernel_path, "--initrd", initrd,
            "--append", f"{APPEND} {append}".strip(), *extra]


def qemu_command(kernel_path, initrd, append="", cpus=1, memory="512M", extra=()):
    return ["qemu-system-x86_64", "-accel", "tcg", "-M", "pc", "-smp", str(cpus), "-m", memory,
            "-nographic", "-nodefaults", "-serial", "stdio", "-no-reboot",
            "-kernel", kernel_path, "-initrd", initrd,
            "-append", f"{APPEND} {append}".strip(), *extra]


def fresh_name(counter=iter(range(1, 1 << 30))):
    """A guest name that nobody else has."""
    return f"{NAME}-{next(counter)}"


class Skip(Exception):
    """Cannot be tried on this host; str() says why."""


def need_proc():
    """Some chroots go without."""
    if not os.path.exists("/proc/self/stat"):
        raise Skip("/proc is not mounted here")


class Case:
    """A named check: a function that raises when what it checks is not so."""

    def __init__(self, name, function, *args):
        self.name = name
        self.function = function
        self.args = args


def check(condition, message):
    if not condition:
        raise AssertionError(message)


class Timeout(Exception):
    """What was waited for did not come; str() says what did."""


class Run:
    """A running command whose output lines are kept with the host's time of arrival."""

    def __init__(self, command, stdin=subprocess.DEVNULL, **kwargs):
        self.lines = []
        self.errors = []
        self.changed = threading.Condition()
        self.start = time.monotonic()
        self.process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, start_new_session=True, **kwargs)
        self.readers = [self.reader(self.process.stdout, self.lines),
                        self.reader(self.process.stderr, self.errors)]

    def reader(self, stream, into):
        def read():
            for raw in iter(stream.readline, b""):
                now = time.monotonic()
                with self.changed:
                    into.append((now, raw.decode("utf-8", "replace").rstrip("\r\n")))
                    self.changed.notify_all()
            with self.changed:
                self.changed.notify_all()
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def wait_line(self, pattern, timeout=120, count=1):
        """Arrival time and match of the count-th line matching pattern."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while True:
                found = [(when, match) for when, line in self.lines
                         if (match := re.search(pattern, line))]
                if len(found) >= count:
                    return found[count - 1]
                left = deadline - time.monotonic()
                dead = any("Kernel panic" in line for _, line in self.lines)
                if left <= 0 or dead or not self.readers[0].is_alive():
                    raise Timeout(f"no line {count} matching {pattern!r}; {self.describe()}")
                self.changed.wait(min(left, 0.5))

    def wait_error(self, pattern, timeout=120):
        """Until a message of lodge's own matches pattern."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while not re.search(pattern, self.stderr()):
                if time.monotonic() > deadline or not self.readers[1].is_alive():
                    raise Timeout(f"no message matching {pattern!r}; {self.describe()}")
                self.changed.wait(0.5)

    def wait_exit(self, timeout=120):
        """Exit status, once it has ended and all its output is here."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Timeout(f"still running after {timeout} s; {self.describe()}") from None
        for thread in self.readers:
            thread.join(10)
        return status

    def describe(self):
        status = self.process.poll()
        last = [line for _, line in self.lines][-6:] + [line for _, line in self.errors][-6:]
        return f"exit status {status}, last lines: " + " | ".join(last)

    def stderr(self):
        return "\n".join(line for _, line in self.errors)

    def stdout(self):
        return "\n".join(line for _, line in self.lines)

    def cpu_seconds(self):
        """Processor time used so far, all threads."""
        need_proc()
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = stat.rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self):
        """End it and whatever it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        for thread in self.readers:
            thread.join(5)
        for stream in (self.process.stdout, self.process.stderr):
            stream.close()

    def group_alive(self):
        """Is any process left of those it started?"""
        try:
            os.killpg(self.process.pid, 0)
            return True
        except ProcessLookupError:
            return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


class Place:
    """An empty folder to run in, so that anything left behind shows."""

    def __init__(self):
        self.temp = tempfile.TemporaryDirectory(prefix="lodge-test.")
        self.path = Path(self.temp.name)
        self.path.chmod(0o755)
        self.before = self.shared()
        for name in ("runtime", "tmp", "home", "cwd"):
            (self.path / name).mkdir()
        (self.path / "runtime").chmod(0o700)

    @staticmethod
    def shared():
        """What guests of this process's tests have put into folders shared with others, who put things there meanwhile."""
        return {os.path.join(folder, name)
                for folder, begin in (("/dev/shm", "lodge"), ("/run/lodge", NAME))
                if os.path.isdir(folder) for name in os.listdir(folder) if name.startswith(begin)}

    def environment(self):
        return dict(os.environ, XDG_RUNTIME_DIR=str(self.path / "runtime"),
                    LODGE_STATE_DIR=str(self.path / "state"),
                    TMPDIR=str(self.path / "tmp"), HOME=str(self.path / "home"))

    def run(self, command, **kwargs):
        return Run(command, cwd=self.path / "cwd", env=self.environment(), **kwargs)

    def left(self):
        """Files that are there and should not be."""
        files = [str(p.relative_to(self.path)) for p in self.path.rglob("*") if not p.is_dir()]
        return files + sorted(self.shared() - self.before)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.temp.cleanup()
