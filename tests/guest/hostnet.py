#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""hostnet.py probe | run COMMAND...: the host's side of a bridge and a TAP device, in a network namespace of their own.

probe says what cannot be done here, if anything. run makes the bridge br0, answers
at 10.9.0.254 and, on the TAP device lt0 that the command makes, at 10.10.0.254;
asks the guest at 10.9.0.1 and 10.10.0.1 once it serves, and tells it to end. Exits
with the command's status.
"""
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
import time

from network import Echo, datagrams, swap

SIOCSIFADDR, SIOCSIFNETMASK, SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8916, 0x891c, 0x8913, 0x8914
SIOCBRADDBR = 0x89a0
TUNSETIFF = 0x400454ca
IFF_UP, IFF_TAP_NO_PI = 1, 0x1002


def request(number, name, data=b""):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock, number, struct.pack("16s24s", name.encode(), data))


def address(name, text):
    """Give an interface an address of a /24 and bring it up."""
    def inet(addr):
        return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(addr))
    request(SIOCSIFADDR, name, inet(text))
    request(SIOCSIFNETMASK, name, inet("255.255.255.0"))
    flags, = struct.unpack("16xH22x", request(SIOCGIFFLAGS, name))
    request(SIOCSIFFLAGS, name, struct.pack("H", flags | IFF_UP))


def add_bridge(name):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        fcntl.ioctl(sock, SIOCBRADDBR, name.encode() + b"\0")


def probe():
    what = "open /dev/net/tun"
    try:
        with open("/dev/net/tun", "r+b", buffering=0) as tun:
            what = "make a TAP device"
            fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"probe", IFF_TAP_NO_PI))
        what = "make a bridge"
        add_bridge("br-probe")
        what = "give an interface an address"
        address("br-probe", "10.9.0.254")
    except OSError as error:
        print(f"cannot {what}: {error.strerror}")


def wait_for(what, timeout=300):
    deadline = time.monotonic() + timeout
    while True:
        try:
            return what()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def serve(echo, kind, port):
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("0.0.0.0", port))
    echo.start(sock, kind)


def ask(guest):
    wait_for(lambda: socket.create_connection((guest, 7), 5).close())
    swap(guest, 7, 2000000)
    datagrams(guest, 7)


def run(command):
    add_bridge("br0")
    address("br0", "10.9.0.254")
    address("lo", "127.0.0.1")
    with Echo() as echo:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            serve(echo, kind, 7)
        with subprocess.Popen(command) as process:
            ending = threading.Event()
            try:
                wait_for(lambda: address("lt0", "10.10.0.254"))
                ask("10.9.0.1")
                ask("10.10.0.1")
                while process.poll() is None and not ending.wait(0.5):
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                        sock.sendto(b"bye", ("10.9.0.1", 7))
            except BaseException:
                process.terminate()
                raise
            return process.wait()


if __name__ == "__main__":
    if sys.argv[1:] == ["probe"]:
        probe()
    else:
        os.environ.setdefault("PYTHONUNBUFFERED", "1")
        sys.exit(run(sys.argv[2:]))
