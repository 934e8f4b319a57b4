#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""net.py: one TCP stream of iperf3 between a guest and its host, through the user's network.

Lodge and QEMU TCG take turns, each with libslirp, the same kernel and the same
initrd; a run boots a guest, sends for some seconds and receives for as many.
The best run of each counts. Needs iperf3 (scripts/setup.sh bench).
"""
import argparse
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ in the tree
from machines import PROGRAM, ROOT

sys.path.insert(0, str(ROOT / "tests" / "guest"))
import guest

INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod "$module"; done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
read -r cmdline </proc/cmdline
for word in $cmdline; do
    case $word in
    bench.port=*) port=${word#*=} ;;
    bench.seconds=*) seconds=${word#*=} ;;
    esac
done
echo "LODGE-BENCH out $(iperf3 -c 10.0.2.2 -p "$port" -t "$seconds" -f m | grep receiver)"
echo "LODGE-BENCH in $(iperf3 -c 10.0.2.2 -p "$port" -t "$seconds" -f m -R | grep receiver)"
poweroff -f
"""


def make_initrd(folder):
    """The test initramfs with modules, iperf3 and its libraries, and an init of its own."""
    tree = folder / "tree"
    program = subprocess.run(["sh", "-c", "command -v iperf3"], check=True, capture_output=True,
                             text=True).stdout.strip()
    linked = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for source in [*re.findall(r"(/\S+)", linked), program]:
        target = tree / ("usr/bin/iperf3" if source == program else source.lstrip("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(source).read_bytes())
        target.chmod(0o755)
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    names = "\n".join(sorted(str(path.relative_to(tree)) for path in tree.rglob("*")))
    more = subprocess.run(["cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet"], cwd=tree,
                          input=names.encode(), stdout=subprocess.PIPE, check=True).stdout
    initrd = folder / "initrd"
    # The kernel takes a plain archive behind a compressed one, where that ends at a multiple of four.
    base = Path(guest.initramfs_with_modules("cloud")).read_bytes()
    initrd.write_bytes(base + bytes(-len(base) % 4) + more)
    return initrd


def lodge(args, initrd, append):
    return [PROGRAM, "run", "--quiet", "--engine", "soft", "-c", str(args.cpus), "-m", "512M",
            "--net", "user", "--kernel", guest.kernel("cloud"), "--initrd", initrd,
            "--append", append]


def tcg(args, initrd, append):
    return ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-M", "q35",
            "-smp", str(args.cpus), "-m", "512M", "-nographic", "-nodefaults", "-serial", "stdio",
            "-no-reboot", "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n",
            "-kernel", guest.kernel("cloud"), "-initrd", initrd, "-append", append]


def run(command):
    """Megabits a second out of the guest and into it."""
    done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, errors="replace", timeout=300, check=False)
    found = [re.search(rf"LODGE-BENCH {way} .*?([\d.]+) Mbits/sec", done.stdout)
             for way in ("out", "in")]
    if not all(found):
        sys.exit(f"{command[0]} gave no figures:\n{done.stdout[-2000:]}{done.stderr[-1000:]}")
    return [float(match[1]) for match in found]


def server():
    """iperf3 on a port of the loopback that it could have."""
    for port in range(42000, 42100):
        process = subprocess.Popen(["iperf3", "-s", "-B", "127.0.0.1", "-p", str(port)],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            return process, port
    sys.exit("iperf3 finds no free port")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--cpus", type=int, default=1)
    args = parser.parse_args()
    subprocess.run([ROOT / "scripts" / "setup.sh", "build", "demo", "bench"], check=True)
    kinds = {"Lodge, soft": lodge, "TCG, max": tcg}
    best = {name: [0, 0] for name in kinds}
    process, port = server()
    try:
        with tempfile.TemporaryDirectory() as folder:
            initrd = make_initrd(Path(folder))
            append = f"console=ttyS0 quiet bench.port={port} bench.seconds={args.seconds}"
            for _ in range(args.runs):
                for name, kind in kinds.items():
                    got = run(kind(args, initrd, append))
                    print(f"{name:12} out {got[0]:7.0f}  in {got[1]:7.0f} Mbit/s", flush=True)
                    best[name] = [max(pair) for pair in zip(best[name], got)]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    ours, theirs = best.values()
    for way, us, them in zip(("guest to host", "host to guest"), ours, theirs):
        print(f"{way}: {us:.0f} Mbit/s, TCG {them:.0f}, {us / them:.1f} times (goal 3)")


main()
