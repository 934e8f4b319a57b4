# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests with disks, random numbers and a balloon."""
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from guest import (PROGRAM, Case, Place, Skip, check, initramfs_with_modules, kernel, lodge_command,
                   need_proc)

from boot import DONE, INIT, ends_well
from life import Small

MIB = 1 << 20


def new_image(place, name, mib, filled=True):
    path = place.path / name
    with open(path, "wb") as file:
        if filled:
            file.write(os.urandom(mib * MIB))
        else:
            file.truncate(mib * MIB)
    return path


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def command(test, cpus, disks, append="", memory="256M"):
    extra = [word for disk in disks for word in ("--disk", str(disk))]
    return lodge_command(kernel("cloud"), initramfs_with_modules("cloud"),
                         f"lodge.test={test} {append}".strip(), cpus, memory, extra)


def said(run, what):
    """What the guest printed about it."""
    return run.wait_line(rf"LODGE-TEST {what} (.*)$", 0)[1][1]


def finish(run, place, images):
    run.wait_line(DONE)
    for image in images:
        check(image.exists(), f"{image} is gone")
    status = run.wait_exit()
    check(status == 0, f"exit status is not 0: {run.describe()}")
    check(run.stderr() == "", f"unexpected messages: {run.stderr()}")


def need_direct(path):
    """Some file systems have no O_DIRECT."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError as why:
        raise Skip(f"no O_DIRECT here: {why}") from None


def disk(cpus, append, message, words=""):
    """Reads, writes of many kinds at once, a discard, a file system; interrupts of the wanted kind."""
    with Place() as place:
        image = new_image(place, "disk,image", 64)
        other = new_image(place, "other", 32, False)
        before = md5(image)
        if "cache=none" in words or "cache=directsync" in words:
            need_direct(image)
        cache = "through" if "through" in words or "sync" in words else "back"
        disks = (f"{str(image).replace(',', ',,')},serial=lodge-1{words}", other)
        with place.run(command("disk", cpus, disks, append)) as run:
            finish(run, place, (image, other))
            seen = said(run, "disk")
            check(f"sectors={64 * 2048} ro=0 serial=lodge-1 queues={cpus} cache=write {cache}" in seen, seen)
            check(said(run, "disk before").split()[0] == before, "the guest reads something else")
            check(said(run, "disk after").split()[0] == md5(image) != before,
                  "what the guest wrote is not in the image")
            check(said(run, "disk files") == "same", "a file came back changed")
            counts = [sum(map(int, re.findall(r"(?<= )\d+(?= )", line)))
                      for line in re.findall(r"LODGE-TEST interrupts \d+:(.*)", run.stdout())
                      if message in line and "config" not in line]
            check(sum(counts) > 100, f"no {message} interrupts: {run.stdout()}")
        if shutil.which("e2fsck"):
            done = subprocess.run(["e2fsck", "-fn", other], capture_output=True, text=True)
            check(done.returncode == 0, f"e2fsck finds fault: {done.stdout}")


def read_only():
    with Place() as place:
        image = new_image(place, "image", 8)
        image.chmod(0o400)
        before = md5(image)
        with place.run(command("disk", 1, [f"{image},ro"])) as run:
            finish(run, place, [image])
            check("ro=1" in said(run, "disk"), run.stdout())
            check(said(run, "disk before").split()[0] == before, "the guest reads something else")
            check("disk was written" not in run.stdout(), "a read-only disk took a write")
            check(md5(image) == before, "a read-only image has changed")


def image_verb(place, *words):
    """lodge image; its output."""
    done = subprocess.run([*PROGRAM, "image", *words], cwd=place.path, capture_output=True,
                          text=True)
    check(done.returncode == 0, f"lodge image {words}: {done.stdout}{done.stderr}")
    return done.stdout


def qcow2():
    """One disk stands on a raw image, which stays as it is; the other one has nothing yet."""
    with Place() as place:
        base = new_image(place, "base.raw", 64)
        before = md5(base)
        top, other = place.path / "top.qcow2", place.path / "other.qcow2"
        image_verb(place, "create", "-b", "base.raw", top)
        image_verb(place, "create", "--cluster-size", "4K", other, "32M")
        with place.run(command("disk", 2, [f"{top},serial=lodge-1", other])) as run:
            finish(run, place, (top, other))
            check(said(run, "disk before").split()[0] == before, "the guest reads something else")
            check(md5(base) == before, "a backing file has changed")
            for image in (top, other):
                image_verb(place, "check", image)
                image_verb(place, "convert", image, f"{image}.raw")
            check(said(run, "disk after").split()[0] == md5(place.path / "top.qcow2.raw") != before,
                  "what the guest wrote is not in the image")
            check(said(run, "disk files") == "same", "a file came back changed")
        if shutil.which("e2fsck"):
            done = subprocess.run(["e2fsck", "-fn", place.path / "other.qcow2.raw"],
                                  capture_output=True, text=True)
            check(done.returncode == 0, f"e2fsck finds fault: {done.stdout}")


def qcow2_killed():
    """Killed in the middle of writing, the image is not damaged."""
    with Place() as place:
        image = place.path / "image.qcow2"
        image_verb(place, "create", image, "16M")
        with place.run(command("disk-reboot", 2, [image])) as run:
            run.wait_line("LODGE-TEST disk busy")
            time.sleep(1)
            run.process.kill()
            run.process.wait()
        image_verb(place, "check", "--repair", "leaks", image)
        image_verb(place, "check", image)


def back_end(place, image):
    """qemu-storage-daemon with this image, and its socket."""
    daemon = shutil.which("qemu-storage-daemon")
    if not daemon:
        raise Skip("there is no qemu-storage-daemon")
    sock = place.path / "disk.sock"
    run = place.run([daemon, "--blockdev", f"driver=file,node-name=f,filename={image},discard=unmap",
                     "--export", "type=vhost-user-blk,id=e,node-name=f,writable=on,addr.type=unix,"
                                 f"addr.path={sock}"])
    deadline = time.monotonic() + 60
    while not sock.exists():
        if run.process.poll() is not None or time.monotonic() > deadline:
            why = run.describe()
            run.kill()
            raise AssertionError(f"the back end has no socket: {why}")
        time.sleep(0.05)
    return run, sock


def vhost_user():
    """A disk that qemu-storage-daemon serves."""
    with Place() as place:
        image = new_image(place, "image", 32)
        before = md5(image)
        daemon, sock = back_end(place, image)
        with daemon, place.run(command("disk", 2, (f"vhost-user={sock},serial=lodge-1",))) as run:
            finish(run, place, (image,))
            seen = said(run, "disk")
            check(f"sectors={32 * 2048} ro=0 serial=lodge-1 queues=2 cache=write back" in seen, seen)
            check(said(run, "disk before").split()[0] == before, "the guest reads something else")
            check(said(run, "disk after").split()[0] == md5(image) != before,
                  "what the guest wrote is not in the image")


def vhost_user_dies():
    """Its back end is killed: the guest gets errors and goes on to its end."""
    with Place() as place:
        image = new_image(place, "image", 32)
        daemon, sock = back_end(place, image)
        with daemon, place.run(command("disk", 2, (f"vhost-user={sock}",))) as run:
            run.wait_line("LODGE-TEST disk before")
            daemon.process.kill()
            run.wait_line(DONE, 240)
            check(run.wait_exit() == 0, run.describe())
            check("the back end of a disk" in run.stderr(), run.stderr())


def random_numbers():
    with Place() as place, place.run(command("random", 1, [])) as run:
        run.wait_line(DONE)
        check("virtio" in said(run, "rng"), run.stdout())
        sums = set(re.findall(r"LODGE-TEST random (\w{32})", run.stdout()))
        check(len(sums) == 2, f"random numbers repeat or are missing: {run.stdout()}")
        ends_well(run, place)


def resident(run):
    """MiB of the guest's memory that the host has to keep."""
    status = Path(f"/proc/{run.process.pid}/status").read_text()
    return int(re.search(r"RssShmem:\s*(\d+)", status)[1]) / 1024


def wait_resident(run, below, timeout=60):
    """Wait until there is less than that."""
    deadline = time.monotonic() + timeout
    while (left := resident(run)) >= below:
        check(time.monotonic() < deadline,
              f"{left:.0f} MiB are resident, it was to be less than {below:.0f}")
        time.sleep(0.05)


def go_on(run):
    run.process.stdin.write(b"\n")
    run.process.stdin.flush()


def gives_memory_back(size):
    """What the guest frees is the host's again within seconds, and works when it is taken again."""
    need_proc()
    with Place() as place, place.run(command("free", 1, [], memory=f"{size}M"),
                                     stdin=subprocess.PIPE) as run:
        sums = []
        for turn in (1, 2):
            taken, total = run.wait_line(r"LODGE-TEST memory taken (\d+) (.*)", count=turn)[1].groups()
            taken = int(taken)
            sums.append(total)
            full = resident(run)
            check(full > taken > size / 2, f"{full:.0f} MiB are resident while {taken} are in use")
            go_on(run)
            run.wait_line("LODGE-TEST memory freed", count=turn)
            wait_resident(run, full - 0.6 * taken)
            go_on(run)
        check(len(set(sums)) == 1, f"memory that was given back has changed: {sums}")
        run.wait_line(DONE)
        ends_well(run, place)


def asked(folder, request):
    """The answer of a guest's control socket to one request."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(folder / "control"))
        with sock.makefile("rwb") as file:
            file.readline()
            file.write(json.dumps(request).encode() + b"\n")
            file.flush()
            answer = json.loads(file.readline())
    check(answer["ok"], f"{request}: {answer}")
    return answer["result"]


def balloon_target():
    """A running guest gives memory up when it is told to, says how it stands, and gets it again."""
    need_proc()
    with Place() as place, place.run(command("balloon", 1, []), stdin=subprocess.PIPE) as run:
        name = run.process.args[run.process.args.index("--name") + 1]
        run.wait_line("LODGE-TEST balloon ready")
        folder = next(f / name for f in (Path("/run/lodge"), place.path / "runtime" / "lodge")
                      if (f / name).exists())

        def wait_for(what, is_so):
            deadline = time.monotonic() + 60
            while not is_so(result := asked(folder, {"command": what})):
                check(time.monotonic() < deadline, f"{what} stays {result}")
                time.sleep(0.05)
            return result

        whole = 256 * MIB
        before = wait_for("stats", lambda r: "free" in r)
        check(before["free"] < before["total"] < whole and "major_faults" in before, before)
        begun = asked(folder, {"command": "balloon", "arguments": {"size": 160 * MIB}})
        check(begun["memory"] == whole and begun["target"] == 160 * MIB, begun)
        wait_for("balloon", lambda r: r["actual"] == 160 * MIB and r["given_back"] >= 96 * MIB)
        wait_for("stats", lambda r: r["free"] < before["free"] - 80 * MIB)
        with place.run([*PROGRAM, "balloon", name]) as shown:
            check(shown.wait_exit() == 0, shown.describe())
            check(re.search(r"^is to keep +160M$", shown.stdout(), re.M) and
                  re.search(r"^unused in it +\d", shown.stdout(), re.M), shown.stdout())
        with place.run([*PROGRAM, "balloon", name, "1G"]) as refused_:
            check(refused_.wait_exit() == 1 and "can't have" in refused_.stderr(), refused_.describe())
        with place.run([*PROGRAM, "balloon", name, "256M"]) as told:
            check(told.wait_exit() == 0, told.describe())
        wait_for("balloon", lambda r: r["actual"] == whole)
        wait_for("stats", lambda r: r["free"] > before["free"] - 16 * MIB)
        go_on(run)
        run.wait_line(DONE)
        ends_well(run, place)


def connected(path):
    """A socket of a guest's port, connected to."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(str(path))
    return sock


def ports():
    """Two ports, line by line and in bulk, and a connection that goes and comes again."""
    with Place() as place:
        names = [place.path / name for name in ("echo.sock", "bulk.sock")]
        arguments = command("ports", 2, [])
        for name in names:
            arguments += ["--port", f"{name.stem}={name}"]
        with place.run(arguments) as run:
            run.wait_line("LODGE-TEST ports open")
            check(said(run, "ports").split() == ["echo", "bulk"], run.stdout())
            check(names[0].stat().st_mode & 0o777 == 0o600, "others may connect to a port")
            for word in ("one", "two", "end"):
                with connected(names[0]) as sock, sock.makefile("rwb") as file:
                    for text in (word + "-first", word):
                        file.write(text.encode() + b"\n")
                        file.flush()
                        check(file.readline().decode().strip() == text.upper(), f"no echo of {text}")
            data = os.urandom(3000000)
            with connected(names[1]) as sock:
                sock.sendall(data)
                check(run.wait_line("LODGE-TEST ports sum (\w+)")[1][1] ==
                      hashlib.md5(data).hexdigest(), "the guest received something else")
                got = b""
                while len(got) < len(data) and (more := sock.recv(1 << 16)):
                    got += more
                check(got == data, f"{len(got)} bytes came back, not the same")
            with connected(names[0]) as sock:
                sock.sendall(b"thanks\n")
                run.wait_line(DONE)
            run.wait_line(DONE)
            ends_well(run, place)
            check(not any(name.exists() for name in names), "a socket was left behind")


def reset_with_disk():
    """A reset in the middle of writing; the disk works for the next kernel."""
    with Place() as place:
        image = new_image(place, "image", 16, False)
        with place.run(command("disk-reboot", 2, [image])) as run:
            run.wait_line(INIT)
            run.wait_line(INIT, count=2)
            run.wait_line("LODGE-TEST disk busy", count=3)
            check(run.process.poll() is None, run.describe())
            run.process.terminate()
            check(run.wait_exit(20) == 128 + 15, f"status after SIGTERM: {run.describe()}")


def one_writer():
    """Two guests, or QEMU's programs, do not write to one image."""
    with Place() as place:
        image = new_image(place, "image", 8, False)
        with place.run(command("idle10", 1, [image])) as first:
            first.wait_line(INIT)
            with place.run(command("boot", 1, [image])) as second:
                check(second.wait_exit() == 1, second.describe())
                check("in use" in second.stderr(), second.stderr())
            if shutil.which("qemu-io"):
                done = subprocess.run(["qemu-io", "-f", "raw", "-c", "write 0 512", image],
                                      capture_output=True, text=True)
                check(done.returncode != 0 and "lock" in done.stderr, done.stderr)


def no_complaints():
    """A stock kernel with every device has no warning to print about the machine's tables and buses."""
    with Place() as place:
        disk_image = new_image(place, "image", 8, False)
        arguments = command("boot", 2, [disk_image], "loglevel=5")
        arguments += ["--vsock", str(place.path / "vsock"), "--net", "user",
                      "--port", f"one={place.path}/port"]
        with place.run(arguments) as run:
            run.wait_line(DONE)
            about = [line for line in run.stdout().splitlines()
                     if re.search(r"\b(ACPI|acpi|PCI|pci|PNP|pnp|BIOS|[Ff]irmware|MMCONFIG|APIC|virtio)", line)]
            check(not about, "the kernel warns: " + " | ".join(about))
            finish(run, place, [disk_image])


def full_file_system(suffix):
    """What the guest writes waits for room on the host, and nothing is lost."""
    with Place() as place, Small(place.path / "small", "8m") as small:
        image = small.path / f"image.{suffix}"
        image_verb(place, "create", str(image), "32M")
        with place.run(command("fill", 2, [image])) as run:
            run.wait_error("no room is left on the host")
            check("fill ended" not in run.stdout(), f"it has all been written: {run.describe()}")
            small.grow("64m")
            run.wait_line(DONE)
            check(said(run, "fill ended") == "0", f"the guest saw an error: {run.stdout()}")
            check(run.wait_exit() == 0, run.describe())
            image_verb(place, "convert", str(image), "copy.raw")
            check(said(run, "fill holds").split()[0] == md5(place.path / "copy.raw"),
                  "the disk is not what the guest wrote")


def refused(option, *words):
    with Place() as place:
        new_image(place, "cwd/empty", 0)
        qcow = new_image(place, "cwd/looks", 1, False)
        with open(qcow, "r+b") as file:
            file.write(b"QFI\xfb\0\0\0\3")
        before = set(place.path.rglob("*"))
        with place.run(command("boot", 1, [option])) as run:
            check(run.wait_exit(20) in (1, 2), run.describe())
            for word in words:
                check(word in run.stderr(), f"no '{word}' in: {run.stderr()}")
            check(run.stderr().count("lodge:") == 1, run.stderr())
        check(set(place.path.rglob("*")) <= before | {place.path / "runtime" / "lodge"},
              f"left behind: {place.left()}")


CASES = [
    Case("disk with 1 CPUs", disk, 1, "", "PCI-MSI"),
    Case("disk with 2 CPUs", disk, 2, "", "PCI-MSI"),
    Case("disk without MSI-X", disk, 2, "pci=nomsi", "IO-APIC"),
    Case("disk past the host's cache", disk, 2, "", "PCI-MSI", ",cache=none"),
    Case("disk written through, with limits", disk, 1, "", "PCI-MSI",
         ",cache=writethrough,aio=threads,iops=2000,bps_wr=50M"),
    Case("disk with a back end elsewhere", vhost_user),
    Case("disk with a back end that dies", vhost_user_dies),
    Case("disk that is read-only", read_only),
    Case("disk across a reset", reset_with_disk),
    Case("disk in use elsewhere", one_writer),
    Case("disk in qcow2", qcow2),
    Case("disk in qcow2, killed", qcow2_killed),
    Case("disk on a full file system", full_file_system, "raw"),
    Case("disk in qcow2 on a full file system", full_file_system, "qcow2"),
    Case("random numbers", random_numbers),
    Case("several ports", ports),
    Case("freed memory goes back to the host", gives_memory_back, 256),
    Case("balloon of a running guest", balloon_target),
    Case("no complaints about the machine", no_complaints),
    Case("bad disk: no such file", refused, "nowhere", "nowhere", "No such file"),
    Case("bad disk: empty file", refused, "empty", "empty"),
    Case("bad disk: a folder", refused, "/", "/"),
    Case("bad disk: unknown word", refused, "empty,rw", "'rw'"),
    Case("bad disk: unknown cache mode", refused, "empty,cache=big", "directsync"),
    Case("bad disk: no back end", refused, "vhost-user=nowhere", "nowhere", "qemu-storage-daemon"),
    Case("bad disk: unknown format", refused, "empty,format=vhs", "vhs"),
    Case("bad disk: long serial number", refused, "empty,serial=" + 21 * "x", "20"),
]
