#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""interop.py LODGE QCOW2TEST: images between Lodge and qemu-img, both ways, and the verbs of lodge image.

Exit status 77 (skipped) where there is no qemu-img.
"""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LODGE, QCOW2TEST = (str(Path(p).resolve()) for p in sys.argv[1:3])
checks = 0


def run(*argv, status=0, text=None):
    """Run a command that must end with `status` (None: any) and, with `text`, say that; returns its output."""
    global checks
    done = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL, text=True, errors="replace", check=False)
    if status is not None and done.returncode != status:
        sys.exit(f"{' '.join(map(str, argv))}: status {done.returncode}, not {status}\n{done.stdout}")
    if text and text not in done.stdout:
        sys.exit(f"{' '.join(map(str, argv))}: does not say '{text}'\n{done.stdout}")
    checks += 1
    return done.stdout


def image(*argv, **kw):
    return run(LODGE, "image", *argv, **kw)


def qemu(*argv, **kw):
    return run("qemu-img", *argv, **kw)


def same(a, b):
    if Path(a).read_bytes() != Path(b).read_bytes():
        sys.exit(f"{a} and {b} differ")


def make_raw(path, size, seed):
    """Data, what compresses, and holes."""
    rng = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        at = 0
        while at < size:
            n = rng.choice((512, 4096, 65536, 300000))
            kind = rng.randrange(3)
            f.seek(at)
            if kind == 0:
                f.write(rng.randbytes(min(n, size - at)))
            elif kind == 1:
                f.write((rng.randbytes(16) * (n // 16 + 1))[:min(n, size - at)])
            at += n


def check_both(path):
    image("check", path)
    qemu("check", "-q", path)


def read_theirs(raw):
    """What qemu-img writes, in all its forms."""
    forms = [("compat=1.1",), ("compat=0.10",), ("cluster_size=512",), ("cluster_size=4096",),
             ("cluster_size=2M",), ("refcount_bits=1",), ("refcount_bits=64",),
             ("lazy_refcounts=on",), ("cluster_size=4096", "refcount_bits=2"),
             ("preallocation=metadata",)]
    for form in forms:
        qemu("convert", "-f", "raw", "-O", "qcow2", "-o", ",".join(form), raw, "theirs.qcow2")
        check_both("theirs.qcow2")
        image("convert", "-f", "theirs.qcow2", "back.raw")
        same(raw, "back.raw")
    for form in ("compression_type=zlib", "compression_type=zstd", "compat=0.10",
                 "cluster_size=4096", "cluster_size=2M,compression_type=zstd", "cluster_size=512"):
        qemu("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", form, raw, "theirs.qcow2")
        image("check", "theirs.qcow2", text="compressed")
        image("convert", "-f", "theirs.qcow2", "back.raw")
        same(raw, "back.raw")


def write_on_theirs(raw):
    """Random operations on qemu-img's images, their snapshots kept."""
    seed = 0
    for form in ("compat=1.1", "compat=0.10", "cluster_size=512,compat=1.1", "cluster_size=4096,refcount_bits=8",
                 "compression_type=zstd", "lazy_refcounts=on", "refcount_bits=64", "cluster_size=2M"):
        for compressed in (False, True):
            seed += 1
            qemu("convert", *(["-c"] if compressed else []), "-f", "raw", "-O", "qcow2", "-o", form,
                 raw, "theirs.qcow2")
            if seed % 3:
                qemu("snapshot", "-c", "before", "theirs.qcow2")
            run(QCOW2TEST, "on", "--image", "theirs.qcow2", "--dir", ".", "--count", 1200,
                "--seed", seed)
            check_both("theirs.qcow2")
            qemu("compare", "-f", "raw", "-F", "qcow2", "twin.raw", "theirs.qcow2")
            if seed % 3:
                image("info", "theirs.qcow2", text="before")
                qemu("snapshot", "-a", "before", "theirs.qcow2")
                check_both("theirs.qcow2")
                image("convert", "-f", "theirs.qcow2", "back.raw")
                same(raw, "back.raw")
                qemu("snapshot", "-d", "before", "theirs.qcow2")
                check_both("theirs.qcow2")


def power_on_theirs():
    """The power fails while clusters that a snapshot has, and compressed ones, are replaced."""
    run(QCOW2TEST, "pattern", "--dir", ".")
    seed = 0
    for form in ("cluster_size=512", "cluster_size=4096", "cluster_size=4096,refcount_bits=8",
                 "cluster_size=8192,lazy_refcounts=on", "cluster_size=1024,compat=0.10"):
        for compressed in (False, True):
            qemu("convert", *(["-c"] if compressed else []), "-f", "raw", "-O", "qcow2", "-o", form,
                 "pattern.raw", "theirs.qcow2")
            if seed % 4 != 3:
                qemu("snapshot", "-c", "before", "theirs.qcow2")
            seed += 1
            run(QCOW2TEST, "power", "--image", "theirs.qcow2", "--count", 1, "--seed", seed)


def write_ours(raw):
    """qemu-img reads what Lodge made and changed."""
    for size in ("512B", "4K", "64K", "2M"):
        image("convert", "-f", "--cluster-size", size, raw, "ours.qcow2")
        check_both("ours.qcow2")
        qemu("compare", "-f", "raw", "-F", "qcow2", raw, "ours.qcow2")
        run(QCOW2TEST, "on", "--image", "ours.qcow2", "--dir", ".", "--count", 1500)
        check_both("ours.qcow2")
        qemu("compare", "-f", "raw", "-F", "qcow2", "twin.raw", "ours.qcow2")
    image("create", "-f", "--lazy-refcounts", "ours.qcow2", "16M")
    run(QCOW2TEST, "on", "--image", "ours.qcow2", "--dir", ".", "--count", 1500)
    check_both("ours.qcow2")
    qemu("compare", "-f", "raw", "-F", "qcow2", "twin.raw", "ours.qcow2")


def chains(raw):
    """Layers by both, in a directory of their own, named relatively."""
    os.mkdir("chain")
    shutil.copy(raw, "chain/0.raw")
    qemu("create", "-q", "-f", "qcow2", "-b", "0.raw", "-F", "raw", "chain/1.qcow2")
    image("create", "-b", "1.qcow2", "--cluster-size", "4K", "chain/2.qcow2")
    qemu("create", "-q", "-f", "qcow2", "-b", "2.qcow2", "-F", "qcow2", "-o", "cluster_size=2M",
         "chain/3.qcow2", str(os.path.getsize(raw) + 100 * 1024))
    for layer in (1, 2, 3):
        run("qemu-io", "-c", f"write -P {layer} {layer * 100000}k 1000", f"chain/{layer}.qcow2",
            status=None)
        run(QCOW2TEST, "on", "--image", f"chain/{layer}.qcow2", "--dir", ".", "--count", 300,
            "--seed", layer)
        check_both(f"chain/{layer}.qcow2")
        qemu("compare", "-f", "raw", "-F", "qcow2", "twin.raw", f"chain/{layer}.qcow2")
    image("convert", "chain/3.qcow2", "flat.qcow2")
    qemu("compare", "-f", "qcow2", "-F", "qcow2", "chain/3.qcow2", "flat.qcow2")
    previous = "3.qcow2"
    for layer in range(4, 60):
        image("create", "-b", previous, f"chain/{layer}.qcow2")
        previous = f"{layer}.qcow2"
    image("convert", "-f", f"chain/{previous}", "back.raw")
    qemu("compare", "-f", "raw", "-F", "qcow2", "back.raw", "chain/3.qcow2")
    shutil.copy("chain/3.qcow2", "chain/loop.qcow2")
    qemu("rebase", "-u", "-b", "loop.qcow2", "-F", "qcow2", "chain/loop.qcow2")
    image("convert", "chain/loop.qcow2", "none.raw", status=1, text="its own backing file")
    assert not os.path.exists("none.raw")


def others(raw):
    for fmt in ("vmdk", "vdi", "vhdx"):
        image("convert", raw, f"x.{fmt}")
        image("convert", "-f", f"x.{fmt}", "back.qcow2")
        qemu("compare", "-f", "raw", "-F", "qcow2", raw, "back.qcow2")
    done = subprocess.run([LODGE, "image", "convert", "x.vmdk", "y.qcow2"], env={"PATH": "/nowhere"},
                          stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and "qemu-utils" in done.stderr, done.stderr
    assert not os.path.exists("y.qcow2")


def verbs(raw):
    image("create", "v.qcow2", "1G")
    image("create", "v.qcow2", "1G", status=1, text="--force")
    image("create", "noformat", "10M")
    image("resize", "noformat", "20M", status=1, text="looks like a qcow2 image")
    image("resize", "-t", "qcow2", "noformat", "+10M")
    image("info", "noformat", text="20M (20971520 bytes)")
    image("resize", "v.qcow2", "+1G")
    info = json.loads(image("info", "--format", "json", "v.qcow2"))
    assert info["disk_size"] == 2 << 30 and info["format"] == "qcow2", info
    assert json.loads(qemu("info", "--output=json", "v.qcow2"))["virtual-size"] == 2 << 30
    image("resize", "v.qcow2", "-1G", status=1, text="--shrink")
    image("resize", "--shrink", "v.qcow2", "-1536M")
    check_both("v.qcow2")
    image("info", "v.qcow2", text="512M")
    image("create", "r.img", "3M")
    assert os.path.getsize("r.img") == 3 << 20
    image("resize", "r.img", "4M")
    image("resize", "r.img", "1M", status=1, text="--shrink")
    assert os.path.getsize("r.img") == 4 << 20
    image("check", "r.img", status=1, text="not a qcow2 image")
    image("convert", raw, "v.qcow2", status=1, text="--force")
    image("info", "nothing.qcow2", status=1, text="No such file")
    for wrong in ((), ("nothing",), ("create",), ("create", "x"), ("create", "--cluster-size"),
                  ("info",), ("info", "a", "b"), ("check", "--repair=some", "x"), ("convert", "x")):
        image(*wrong, status=2)
    image("create", "--cluster-size", "3K", "x.qcow2", "1G", status=1, text="power of two")
    image("create", "x.qcow2", "9999999T", status=1)
    image("create", "--cluster-size", "512B", "x.qcow2", "1T", status=1, text="Larger clusters")
    assert not os.path.exists("x.qcow2")
    image("--help", text="image VERB --help")
    for verb in ("create", "info", "check", "resize", "convert"):
        image(verb, "--help", text="Options:")


def repairs(raw):
    image("convert", "-f", raw, "d.qcow2")
    with open("d.qcow2", "r+b") as f:  # a refcount of one for the last cluster that the first block has
        f.seek(2 * 65536 + 65534)
        f.write(b"\0\1")
        f.truncate((1 << 31))
    assert json.loads(image("check", "--format=json", "d.qcow2", status=1))["leaked"] == 1
    image("check", "--repair=leaks", "d.qcow2", text="repaired: 0 damaged, 1 leaked")
    check_both("d.qcow2")
    with open("d.qcow2", "r+b") as f:  # one of zero for the L1 table
        f.seek(2 * 65536 + 3 * 2)
        f.write(b"\0\0")
    image("check", "--repair=leaks", "d.qcow2", status=1, text="1 damaged")
    image("check", "--repair=all", "d.qcow2", text="no errors")
    check_both("d.qcow2")
    qemu("compare", "-f", "raw", "-F", "qcow2", raw, "d.qcow2")


def bitmaps():
    """They are in use as long as nobody else writes, and lost then."""
    image("create", "-f", "b.qcow2", "64M")
    qemu("bitmap", "--add", "b.qcow2", "one")
    run("qemu-io", "-c", "write 1M 3M", "b.qcow2")
    check_both("b.qcow2")
    assert json.loads(image("info", "--format=json", "b.qcow2"))["bitmaps"]
    image("resize", "b.qcow2", "128M")
    assert not json.loads(image("info", "--format=json", "b.qcow2"))["bitmaps"]
    image("check", "--repair=leaks", "b.qcow2")
    check_both("b.qcow2")
    run("qemu-io", "-c", "read -P 205 1M 3M", "b.qcow2")
    check_both("b.qcow2")


def locks():
    """Two users of one image, Lodge's and QEMU's programs."""
    image("create", "-f", "l.qcow2", "64M")
    qemu_io = subprocess.Popen(["qemu-io", "-f", "qcow2", "l.qcow2"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    qemu_io.stdin.write("write 0 64k\n")
    qemu_io.stdin.flush()
    while "wrote" not in qemu_io.stdout.readline():
        pass
    image("resize", "l.qcow2", "128M", status=1, text="in use")
    image("check", "l.qcow2", status=1, text="in use")
    image("create", "-f", "l.qcow2", "64M", status=1, text="in use")
    image("convert", "-f", "l.qcow2", "l2.raw", status=1, text="in use")
    qemu_io.communicate("quit\n")
    check_both("l.qcow2")
    # A reader lets readers be.
    qemu_io = subprocess.Popen(["qemu-io", "-r", "-f", "qcow2", "l.qcow2"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    qemu_io.stdin.write("read 0 64k\n")
    qemu_io.stdin.flush()
    while "read" not in qemu_io.stdout.readline():
        pass
    image("check", "l.qcow2")
    image("resize", "l.qcow2", "128M", status=1, text="in use")
    qemu_io.communicate("quit\n")
    # A Lodge writer keeps QEMU out.
    image("create", "-f", "l.qcow2", "64M")
    ours = subprocess.Popen([QCOW2TEST, "hold", "--image", "l.qcow2"], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)
    held = ours.stdout.readline()
    assert held == "held\n", f"the writer says '{held}'"
    qemu("check", "l.qcow2", status=1, text="lock")
    image("info", "l.qcow2")
    image("check", "l.qcow2", status=1, text="in use")
    ours.communicate()
    assert ours.returncode == 0, f"the writer ended with {ours.returncode}"
    check_both("l.qcow2")


def main():
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("no qemu-img")
        sys.exit(77)
    # Memory where there is a file system for it: syncs are most of the time otherwise.
    top = tempfile.mkdtemp(prefix="lodge-interop-",
                           dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    os.chdir(top)
    try:
        make_raw("a.raw", 5 * 1024 * 1024 + 512 * 3, 1)
        for part in (read_theirs, write_on_theirs, write_ours, chains, others, verbs, repairs):
            part("a.raw")
        power_on_theirs()
        bitmaps()
        locks()
    finally:
        os.chdir("/")
        shutil.rmtree(top)
    print(f"{checks} commands as expected")


main()
