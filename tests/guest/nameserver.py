#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""nameserver.py RESOLV COMMAND...: run a command where a name server of ours is the host's.

To be started in mount and network namespaces of its own (unshare -m -n), which
have nothing but a loopback interface. RESOLV is mounted over /etc/resolv.conf.
The server says that every name is at 192.0.2.77 (RFC 5737).
"""
import fcntl
import socket
import struct
import subprocess
import sys
import threading

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = bytearray(struct.pack("16sH22x", b"lo", 0))
        fcntl.ioctl(sock, SIOCGIFFLAGS, request)
        struct.pack_into("H", request, 16, struct.unpack_from("H", request, 16)[0] | IFF_UP)
        fcntl.ioctl(sock, SIOCSIFFLAGS, request)


def answer(query):
    """To a question for an address (RFC 1035, 4.1); to any other that there is nothing."""
    end = 12
    while query[end]:
        end += query[end] + 1
    question = query[12:end + 5]
    wants_a = question[-4:-2] == b"\0\1"
    head = query[:2] + struct.pack(">HHHHH", 0x8180, 1, int(wants_a), 0, 0)
    record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + bytes([192, 0, 2, 77])
    return head + question + (record if wants_a else b"")


def serve(sock):
    while True:
        query, peer = sock.recvfrom(4096)
        sock.sendto(answer(query), peer)


def main():
    loopback_up()
    subprocess.run(["mount", "--bind", sys.argv[1], "/etc/resolv.conf"], check=True)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 53))
    threading.Thread(target=serve, args=(sock,), daemon=True).start()
    sys.exit(subprocess.run(sys.argv[2:], check=False).returncode)


main()
