#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""system.py [--program FILE] [--engine NAME]: a whole Debian system, from its packages to its power-off.

Builds an image (once; it is kept in .cache/system), runs a guest on it, and goes
through what one does with a machine; then the same in short with a cloud image
(cloud.py). Prints a line per step. `make check-system`.
"""
import argparse
import contextlib
import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cloud
from guest import CACHE, PROGRAM, VIRTIO, Run, Skip, Timeout, check, fresh_name, script
from nested import STATUS, nested_command

IMAGE = "debian/12"
NESTED = 2400  # of an emulated machine
BOOT = 900  # seconds that a boot may take on a loaded host
PACKAGE = "lodge-hello"


def environment(place):
    return dict(os.environ, LODGE_DATA=str(CACHE / "system"), LODGE_STATE_DIR=str(place / "state"),
                XDG_RUNTIME_DIR=str(place / "run"), HOME=str(place / "home"))


class System:
    """A guest on the image, and how to talk to it."""

    def __init__(self, place, engine, image=IMAGE):
        self.place = place
        self.image = image
        self.env = environment(place)
        self.engine = engine
        self.name = fresh_name()
        self.run = None

    def lodge(self, *args, ok=True, **kwargs):
        done = subprocess.run([*PROGRAM, *args], env=self.env, stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, **kwargs)
        if ok:
            check(done.returncode == 0, f"lodge {' '.join(args)}: exit status {done.returncode}: "
                                        f"{done.stdout[-600:]} {done.stderr[-600:]}")
        return done

    def start(self, *options):
        self.run = Run([*PROGRAM, "run", self.image, "--name", self.name, "--engine", self.engine,
                        "--ssh-key", str(self.place / "key.pub"), *options], env=self.env)
        self.port()  # it is known to lodge exec from then on

    def inside(self, command, ok=True):
        """What a command of the guest's shell prints."""
        return self.lodge("exec", "--wait", str(BOOT), self.name, "--", "sh", "-c", command, ok=ok,
                          timeout=2 * BOOT).stdout.strip()

    def ssh(self, user, command):
        """What a command prints, by the guest's published port and the key of the tests."""
        return subprocess.run(
            ["ssh", "-F", "none", "-i", self.place / "key", "-o", "BatchMode=yes",
             "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR",
             "-o", "UserKnownHostsFile=/dev/null", "-p", self.port(), f"{user}@127.0.0.1", command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    def power_off(self):
        self.inside("sudo systemctl poweroff", ok=False)
        check(self.run.wait_exit(BOOT) == 0, f"the run did not end well: {self.run.describe()}")

    def port(self):
        """Of the host, that leads to the guest's ssh."""
        pattern = r"published 127\.0\.0\.1:(\d+):22/tcp"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = re.search(pattern, self.run.stderr())
            if found:
                return found.group(1)
            time.sleep(0.2)
        raise AssertionError(f"lodge run did not say {pattern}: {self.run.describe()}")


def need(*programs):
    missing = [p for p in programs if not shutil.which(p, path=os.environ["PATH"] + ":/usr/sbin:/sbin")]
    if missing:
        sys.exit(f"system.py: missing: {', '.join(missing)}; scripts/setup.sh system installs them")


def build(system):
    listed = json.loads(system.lodge("image", "ls", "--format", "json").stdout)
    if any(image["name"] == IMAGE for image in listed):
        return "there already"
    subprocess.run([*PROGRAM, "image", "build", IMAGE], env=system.env, check=True)
    return ""


def boot(system):
    system.start()
    began = time.monotonic()
    check(system.inside("systemctl is-system-running --wait") == "running",
          "not everything has started: " + system.inside("systemctl --failed --no-legend", ok=False))
    check(system.inside("systemctl is-active multi-user.target") == "active", "no multi-user.target")
    check(system.inside("hostname") == system.name, "the guest has another name")
    return f"multi-user after {time.monotonic() - began:.0f} s"


def disk_has_grown(system):
    size = int(system.inside("df --output=size -BM / | tail -n 1").rstrip("M"))
    check(size > 8000, f"the file system has {size} MiB")
    return f"{size} MiB"


def exec_passes_on(system):
    check(system.lodge("exec", system.name, "--", "sh", "-c", "exit 7", ok=False).returncode == 7,
          "the exit status is not passed on")
    done = subprocess.run([*PROGRAM, "exec", system.name, "--", "cat"], env=system.env,
                          input=b"\0" * 100000, stdout=subprocess.PIPE, check=True)
    check(done.stdout == b"\0" * 100000, "input and output are not passed on")
    check(system.inside("id -un") == "debian", "another user")
    check(system.inside("sudo -n id -un") == "root", "no sudo")


def ssh_with_own_key(system):
    said = system.ssh("debian", "uname -n")
    check(said == system.name, f"uname -n says {said!r}")


def repository(folder):
    """A repository with one package, as apt wants it."""
    tree = folder / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/bin").mkdir(parents=True)
    control = (f"Package: {PACKAGE}\nVersion: 1\nArchitecture: all\n"
               "Maintainer: Nobody <nobody@example.org>\nDescription: says hello\n")
    (tree / "DEBIAN/control").write_text(control)
    (tree / "usr/bin" / PACKAGE).write_text("#!/bin/sh\necho hello\n")
    (tree / "usr/bin" / PACKAGE).chmod(0o755)
    deb = folder / f"{PACKAGE}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, deb], check=True,
                   stdout=subprocess.DEVNULL)
    data = deb.read_bytes()
    (folder / "Packages").write_text(control + f"Filename: ./{deb.name}\nSize: {len(data)}\n"
                                     f"SHA256: {hashlib.sha256(data).hexdigest()}\n")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(folder):
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def install_package(system):
    folder = system.place / "repository"
    folder.mkdir()
    repository(folder)
    with serving(folder) as port:
        options = "-o Dir::Etc::sourceparts=- -o Dir::Etc::sourcelist=/tmp/lodge.list -q"
        system.inside(f"echo 'deb [trusted=yes] http://10.0.2.2:{port} ./' >/tmp/lodge.list && "
                      f"sudo apt-get {options} update && sudo apt-get {options} install -y {PACKAGE}")
    check(system.inside(PACKAGE) == "hello", "the package is not there")


def reboot(system):
    before = system.inside("cat /proc/sys/kernel/random/boot_id")
    system.inside("sudo systemctl reboot", ok=False)
    deadline = time.monotonic() + BOOT
    while True:
        now = system.inside("cat /proc/sys/kernel/random/boot_id", ok=False)
        if now and now != before:
            break
        check(time.monotonic() < deadline, f"it did not come up again: {system.run.describe()}")
        time.sleep(1)
    check(system.inside(PACKAGE) == "hello", "what was installed is gone")


def in_use(system):
    done = system.lodge("image", "rm", IMAGE, ok=False)
    check(done.returncode == 1 and system.name in done.stderr, f"image rm says {done.stderr!r}")
    again = system.lodge("run", IMAGE, "--name", system.name, ok=False)
    check(again.returncode == 1 and "running" in again.stderr, f"a second run says {again.stderr!r}")


def leave_proof(system):
    """A service that tells of its system, and ends it, when the kernel's command line wants it to."""
    unit = ("[Unit]\nConditionKernelCommandLine=lodge.proof\nAfter=multi-user.target\n"
            "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo LODGE-PROOF "
            "$(systemctl is-active multi-user.target) $(uname -n) >/dev/ttyS0; "
            "systemctl --no-block poweroff'\n[Install]\nWantedBy=graphical.target\n")
    subprocess.run([*PROGRAM, "exec", system.name, "--", "sudo", "sh", "-c",
                    "cat >/etc/systemd/system/lodge-proof.service && "
                    "systemctl -q enable lodge-proof"],
                   env=system.env, input=unit.encode(), check=True)


def disk_is_clean(system):
    disk = CACHE / "system" / "disks" / system.name / "disk.qcow2"
    system.lodge("image", "check", str(disk))
    raw = system.place / "disk.raw"
    system.lodge("image", "convert", "-q", str(disk), str(raw), "--to", "raw")
    file_system_is_clean(raw)


def file_system_is_clean(raw):
    done = subprocess.run(["e2fsck", "-fn", raw], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=dict(os.environ, PATH=os.environ["PATH"] + ":/sbin:/usr/sbin"),
                          text=True, check=False)
    check(done.returncode == 0, f"e2fsck: {done.stdout}")


def under_kvm(system):
    """The same disk under the KVM engine, in QEMU's emulation of SVM."""
    image = CACHE / "system" / "images" / IMAGE.replace("/", "@")
    folder = system.place / "nested"
    (folder / "modules").mkdir(parents=True)
    tree = Path(script("modules.sh", "cloud"))
    found = {path.name.split(".")[0]: path for path in tree.rglob("*.ko*")}
    for number, module in enumerate(VIRTIO):
        if module in found and module.startswith("virtio"):
            shutil.copy(found[module], folder / "modules" / f"{number:02}-{module}.ko")
    files = [folder / "vmlinuz", folder / "initrd.img", *sorted((folder / "modules").iterdir())]
    for file in files[:2]:
        shutil.copy(image / file.name, file)
    for file in files:
        file.chmod(0o644)
    command = nested_command("lodge.what=system", f"lodge.dir={folder}", programs=map(str, files))
    command += ["-drive", f"file={system.place / 'disk.raw'},format=raw,if=none,id=d",
                "-device", "virtio-blk-pci,drive=d"]
    with Run(command) as run:
        run.wait_line(rf"LODGE-PROOF active {system.name}", NESTED)
        run.wait_line(r"NESTED done", NESTED)
        status, exits = re.findall(STATUS, run.stdout())[0]
        check(status == "0" and int(exits) > 1000, f"status {status}, {exits} exits of KVM")
    file_system_is_clean(system.place / "disk.raw")
    return f"{exits} exits of KVM"


def goes_on(system):
    """The next run of the name has the same disk; one after `discard` has not."""
    system.start()
    check(system.inside(PACKAGE) == "hello", "it did not go on with its disk")
    system.power_off()
    system.lodge("image", "discard", system.name)
    check(not (CACHE / "system" / "disks" / system.name).exists(), "the disk is still there")


STEPS = (("build an image", build), ("boot to multi-user", boot),
         ("the file system fills the disk", disk_has_grown),
         ("lodge exec", exec_passes_on), ("ssh through the published port", ssh_with_own_key),
         ("image and guest are in use", in_use),
         ("apt-get install from the host's loopback", install_package), ("reboot", reboot),
         ("leave a proof for later", leave_proof), ("power-off", System.power_off),
         ("image check and e2fsck", disk_is_clean),
         ("the same disk under KVM, nested", under_kvm),
         ("go on with the disk, and throw it away", goes_on))


def go_through(system, steps):
    """The steps one by one; ends the program at the first that fails."""
    try:
        for name, step in steps:
            began = time.monotonic()
            try:
                result, more = "passed ", step(system)
            except Skip as why:
                result, more = "skipped", str(why)
            print(f"  {result} {name} ({time.monotonic() - began:.1f} s)" + (f": {more}" if more else ""),
                  flush=True)
    except (AssertionError, Timeout, subprocess.SubprocessError) as why:
        print(f"  failed  {name}: {why}")
        sys.exit(1)
    finally:
        if system.run:
            system.run.kill()
        system.lodge("image", "discard", system.name, ok=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", help="the lodge to test (default build/lodge)")
    parser.add_argument("--engine", default="soft")
    parser.add_argument("--only", choices=("built", "cloud"), help="one of the two images")
    args = parser.parse_args()
    if args.program:
        PROGRAM[0] = os.path.abspath(args.program)
    need("mmdebstrap", "mke2fs", "e2fsck", "ssh", "ssh-keygen", "dpkg-deb", "sfdisk")
    (CACHE / "system").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lodge-test.") as temp:
        place = Path(temp)
        for name in ("run", "home", "state"):
            (place / name).mkdir(mode=0o700)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / "key"], check=True)
        if args.only != "cloud":
            go_through(System(place, args.engine), STEPS)
        if args.only != "built":
            go_through(System(place, args.engine, cloud.NAME), cloud.STEPS)
    print("system: done")


main()
