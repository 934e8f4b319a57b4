# SPDX-License-Identifier: GPL-2.0-or-later
"""The store of images, and guests made from them; a whole system is system.py's."""
import json
import os
import shutil
import signal
import subprocess
import time

from boot import DONE
from guest import PROGRAM, Case, Place, Run, Skip, check, fresh_name, initramfs, kernel


class Store:
    """A store of the case's own, with Lodge's commands in it."""

    def __init__(self, place):
        self.path = place.path / "store"
        self.env = dict(os.environ, LODGE_DATA=str(self.path),
                        LODGE_STATE_DIR=str(place.path / "state"), HOME=str(place.path / "home"),
                        XDG_RUNTIME_DIR=str(place.path / "runtime"))
        self.place = place

    def lodge(self, *args, status=0):
        done = subprocess.run([*PROGRAM, *map(str, args)], env=self.env, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=300,
                              check=False)
        check(done.returncode == status, f"lodge {' '.join(map(str, args))}: exit status "
                                         f"{done.returncode}: {done.stdout} {done.stderr}")
        return done.stdout + done.stderr

    def names(self):
        return [image["name"] for image in json.loads(self.lodge("image", "ls", "--format", "json"))]

    def bring(self, name, *options, initrd=None):
        """An image of an empty disk and a kernel."""
        disk = self.place.path / "disk.raw"
        with open(disk, "wb") as file:
            file.write(b"first")
            file.truncate(8 << 20)
        more = ["--kernel", kernel("cloud"), "--initrd", initrd, "--append", "console=ttyS0 quiet",
                "--size", "1G"] if initrd else []
        self.lodge("image", "import", disk, name, *more, *options)

    def left(self):
        """Folders of guests, those without a name of their own included."""
        folder = self.path / "disks"
        return sorted(os.listdir(folder)) if folder.is_dir() else []

    def start(self, *args):
        return Run([*PROGRAM, "run", "--quiet", "--engine", "soft", "-m", "256M", "-c", "1",
                    "--net", "none", *map(str, args)], env=self.env)


def keeps_images():
    """Names are found, taken and free again as people expect."""
    with Place() as place:
        store = Store(place)
        check("lodge image build" in store.lodge("run", "debian/12", status=1), "no next step")
        store.bring("my:disk", "--seed", "none")
        check(store.names() == ["my/disk"], f"images: {store.names()}")
        disk = place.path / "disk.raw"
        check("--force" in store.lodge("image", "import", disk, "my/disk", status=1), "no way out")
        store.lodge("image", "import", "--force", disk, "my/disk")
        store.lodge("image", "import", place.path / "nothing", "my/other", status=1)
        check("up to" in store.lodge("image", "import", disk, "My Disk", status=1), "which names?")
        check("as it was made" in store.lodge("image", "check", "my"), "an image is not as it was made")
        with open(store.path / "images" / "my@disk" / "disk.qcow2", "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\xa5")
        found = json.loads(store.lodge("image", "check", "my/disk", "--format", "json", status=1))
        check(not found["right"] and not found["files"][0]["right"], f"a change was not found: {found}")
        store.lodge("image", "check", "my/none", status=1)
        check("no kernel" in store.lodge("run", "my", status=1), "it ran without a kernel")
        check("Did you mean my/disk" in store.lodge("image", "rm", "my", status=1), "a short name")
        store.lodge("image", "rm", "my/disk")
        check(store.names() == [], f"images: {store.names()}")
        check(os.listdir(store.path / "images") == [], "something is left")


def keeps_disks():
    """A guest's disk stays for its next run; an image that is stood on stays, too."""
    with Place() as place:
        store = Store(place)
        store.bring("test/1", "--seed", "none", initrd=initramfs())
        name = fresh_name()
        for _ in range(2):
            with store.start("test", "--name", name, "--append", "lodge.test=boot") as run:
                run.wait_line(DONE)
                check(run.wait_exit() == 0, run.describe())
            check(store.left() == [name], f"disks: {store.left()}")
        told = store.lodge("image", "info", store.path / "disks" / name / "disk.qcow2")
        check("1G" in told and "disk.qcow2" in told, f"the disk: {told}")
        check(name in store.lodge("image", "rm", "test/1", status=1), "who uses it?")
        check(name in store.lodge("image", "ls"), "ls does not say who stands on it")
        store.bring("test/2", "--seed", "none", initrd=initramfs())
        check("test/1" in store.lodge("run", "test/2", "--name", name, status=1), "another image")
        store.lodge("image", "discard", name)
        store.lodge("image", "discard", name, status=1)
        check(store.left() == [], f"disks: {store.left()}")
        store.lodge("image", "rm", "test/1", "test/2")


def removes_disks():
    """--rm leaves nothing, however the run ends."""
    with Place() as place:
        store = Store(place)
        store.bring("test/1", "--seed", "none", initrd=initramfs())
        with store.start("--rm", "test/1", "--append", "lodge.test=boot") as run:
            run.wait_line(DONE)
            check(run.wait_exit() == 0, run.describe())
        check(store.left() == [], f"disks: {store.left()}")
        name = fresh_name()
        with store.start("--rm", "test/1", "--name", name, "--append", "lodge.test=idle10") as run:
            deadline = time.monotonic() + 120
            while not store.left() or not (store.path / "disks" / store.left()[0] /
                                           "guest.json").exists():
                check(time.monotonic() < deadline, run.describe())
                time.sleep(0.1)
            check(name in store.lodge("image", "rm", "test/1", status=1), "it is in use")
            os.killpg(run.process.pid, signal.SIGKILL)
            run.wait_exit()
        store.lodge("image", "rm", "test/1")
        check(store.left() == [], f"disks: {store.left()}")


def renames_disks():
    """A guest's disk goes with its name, also when whoever renames the guest is killed half way."""
    with Place() as place:
        store = Store(place)
        store.bring("test/1", "--seed", "none", initrd=initramfs())
        name, other = fresh_name(), fresh_name()
        store.lodge("create", "test", "--name", name, "--engine", "soft", "-m", "256M", "--append",
                    "lodge.test=boot")
        store.lodge("start", name)
        store.lodge("stop", name)
        mark = store.path / "disks" / name / "mark"
        mark.write_text("its disk")
        store.lodge("rename", name, other)
        check(store.left() == [other], f"disks: {store.left()}")
        guests, trash = place.path / "state" / "guests", place.path / "state" / "trash"
        # As a process leaves it that is killed after the first of its two renames.
        (guests / other / "called").write_text(other)
        (guests / other).rename(guests / name)
        store.lodge("start", name)
        store.lodge("kill", name)
        check(store.left() == [name] and mark.exists(), f"disks: {store.left()}")
        check(not (guests / name / "called").exists(), "the note is left")
        (guests / name / "called").write_text(name)
        trash.mkdir(mode=0o700, exist_ok=True)
        (guests / name).rename(trash / f"{name}~1")
        # The name is free, and so must be its disk's.
        store.lodge("create", "test", "--name", name, "--engine", "soft", "-m", "256M")
        store.lodge("start", name)
        check(not mark.exists(), "a new guest has the disk of one that was removed")
        store.lodge("kill", name)
        store.lodge("rename", name, other)
        store.lodge("recover", name)
        check(mark.exists() and store.left() == sorted([name, other]), f"disks: {store.left()}")


def tells_settings():
    """The seed has name and keys; it is made once, with the disk."""
    if not shutil.which("ssh-keygen"):
        raise Skip("ssh-keygen is not installed")
    with Place() as place:
        store = Store(place)
        store.bring("test/1", initrd=initramfs())
        key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJvr8H1b0tDSg6f1GAiKT5lLoXHcb5hV2JXK4mXw3qGz me"
        (place.path / "key.pub").write_text(key + "\n")
        (place.path / "data").write_text("#cloud-config\nruncmd: [poweroff]\n")
        name = fresh_name()
        args = ["test", "--name", name, "--user", "somebody", "--append", "lodge.test=boot"]
        bad = store.lodge("run", *args, "--ssh-key", place.path / "data", status=1)
        check("no public key" in bad and store.left() == [], f"{bad} {store.left()}")
        with store.start(*args, "--ssh-key", place.path / "key.pub",
                         "--user-data", place.path / "data") as run:
            check(run.wait_exit() == 0, run.describe())
        seed = (store.path / "disks" / name / "seed.img").read_bytes()
        own = (store.path / "key" / "id_ed25519.pub").read_text().strip()
        for text in (f'"local-hostname": "{name}"', key, own, "somebody", "runcmd: [poweroff]"):
            check(text.encode() in seed, f"the seed does not have {text}")
        check(os.stat(store.path / "key" / "id_ed25519").st_mode & 0o77 == 0, "the key is open")


def finds_kernels():
    """The newest kernel on a disk with partitions is the one that is started."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [p for p in ("sfdisk", "mke2fs", "debugfs") if not shutil.which(p, path=path)]
    if missing:
        raise Skip(f"{', '.join(missing)} not installed")
    with Place() as place:
        store = Store(place)
        boot = place.path / "tree" / "boot"
        boot.mkdir(parents=True)
        shutil.copy(kernel("cloud"), boot / "vmlinuz-6.10")
        shutil.copy(initramfs(), boot / "initrd.img-6.10")
        for name in ("vmlinuz-6.9", "initrd.img-6.9", "vmlinuz-0-rescue", "vmlinuz-7 x", "config-9"):
            (boot / name).write_text("not this one")
        (boot / "vmlinuz-8").symlink_to("vmlinuz-6.9")
        disk = place.path / "disk.raw"
        with open(disk, "wb") as file:
            file.truncate(64 << 20)
        env = dict(os.environ, PATH=path)
        subprocess.run(["sfdisk", "-q", disk], input=b"label: gpt\nsize=2048\nsize=120000\n", env=env,
                       check=True)
        parts = json.loads(subprocess.run(["sfdisk", "--json", disk], env=env, check=True,
                                          capture_output=True).stdout)
        start = parts["partitiontable"]["partitions"][1]["start"] * 512
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", boot.parent, "-E",
                        f"offset={start}", disk, "58000k"], env=env, check=True)
        store.lodge("image", "import", disk, "parts/1", "--seed", "none")
        folder = store.path / "images" / "parts@1"
        check((folder / "vmlinuz").read_bytes() == (boot / "vmlinuz-6.10").read_bytes(), "the kernel")
        told = json.loads((folder / "manifest.json").read_text())
        check(told["append"] == "console=ttyS0 root=/dev/vda2 rw", f"command line {told['append']}")
        check(sorted(os.listdir(folder)) == ["disk.qcow2", "initrd.img", "manifest.json", "vmlinuz"],
              f"files: {os.listdir(folder)}")
        with store.start("--rm", "parts", "--append", "quiet lodge.test=boot") as run:
            run.wait_line(DONE)
            check(run.wait_exit() == 0, run.describe())


CASES = [
    Case("images: names", keeps_images),
    Case("images: disks that stay", keeps_disks),
    Case("images: disks that go", removes_disks),
    Case("images: disks that are renamed", renames_disks),
    Case("images: settings", tells_settings),
    Case("images: kernels on disks", finds_kernels),
]
