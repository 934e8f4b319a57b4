# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests with a vsock, and programs here at the other end."""
import os
import re
import socket
import threading
from pathlib import Path

from guest import Case, Place, check, initramfs_with_modules, kernel, lodge_command

from boot import DONE, INIT, ends_well

TIMEOUT = 120


class Server:
    """A listening socket at PATH_PORT; `serve` gets each connection on a thread of its own."""

    def __init__(self, path, port, serve, backlog=200):
        self.path = f"{path}_{port}"
        self.serve = serve
        self.count = 0
        self.threads = []
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(self.path)
        self.sock.listen(backlog)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            try:
                sock = self.sock.accept()[0]
            except OSError:
                return
            self.count += 1
            sock.settimeout(TIMEOUT)
            thread = threading.Thread(target=self.serve, args=(sock,), daemon=True)
            thread.start()

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        os.unlink(self.path)


def echo(sock):
    with sock:
        while data := sock.recv(1 << 16):
            sock.sendall(data)


def connect(path, port):
    """A connection to a port of the guest, as far as its answer; the answer is b'' when it is refused."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT)
    sock.connect(str(path))
    sock.sendall(b"CONNECT %d\n" % port)
    answer = b""
    while not answer.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            break
        answer += byte
    return sock, answer


def round_trip(path, size, errors):
    """What the guest's echo sends back is what it was sent."""
    data = os.urandom(size)
    got = bytearray()
    try:
        sock, answer = connect(path, 5000)
        with sock:
            check(re.fullmatch(rb"OK \d+\n", answer), f"answer {answer}")

            def send():
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            thread = threading.Thread(target=send, daemon=True)
            thread.start()
            while part := sock.recv(1 << 16):
                got += part
            thread.join(TIMEOUT)
            check(got == data, f"{len(got)} of {size} bytes came back, or others")
    except (AssertionError, OSError) as why:
        errors.append(why)


def from_here(path):
    """100 connections at once, one with much to say, and some that end in the middle of it."""
    errors = []
    threads = [threading.Thread(target=round_trip, args=(path, size, errors), daemon=True)
               for size in [100000] * 100 + [4 << 20]]
    for thread in threads:
        thread.start()
    for number in range(30):
        sock, answer = connect(path, 5000)
        check(answer.startswith(b"OK "), f"answer {answer}")
        sock.sendall(b"x" * number * 1000)
        if number % 3:
            sock.recv(1 + number)
        sock.close()
    for thread in threads:
        thread.join(TIMEOUT)
    check(not errors and not any(t.is_alive() for t in threads),
          f"{len(errors)} connections failed: {errors[:3]}")
    sock, answer = connect(path, 4999)
    check(answer == b"", f"nobody listens there, and yet: {answer}")
    for hello in (b"CONNECT\n", b"CONNECT x\n", b"HELLO 5000\n", b"CONNECT 4294967295\n",
                  b"CONNECT 5000" + b" " * 100):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect(str(path))
            try:
                sock.sendall(hello)
                check(sock.recv(1) == b"", f"an answer to {hello}")
            except (BrokenPipeError, ConnectionResetError):
                pass


def both_ways(cpus):
    """Streams in both directions, compared; refusals, resets, a server that stops reading, one that goes."""
    with Place() as place:
        path = place.path / "vsock"
        stalled = threading.Event()

        def slow(sock):
            with sock:
                stalled.wait(TIMEOUT)
                total = 0
                while data := sock.recv(1 << 16):
                    total += len(data)
                sock.sendall(b"%d" % total)

        def rude(sock):
            sock.recv(1000)
            sock.close()

        servers = [Server(path, 1024, echo, 3), Server(path, 1025, slow), Server(path, 1026, rude)]
        with place.run(lodge_command(kernel("cloud"), initramfs_with_modules("cloud"),
                                     "lodge.test=vsock", cpus, "256M",
                                     ["--vsock", str(path)])) as run:
            run.wait_line("LODGE-TEST vsock ready")
            check(path.stat().st_mode & 0o777 == 0o600, "others may connect")
            check(run.wait_line("vsock refused (.*)")[1][1] == "Connection reset by peer",
                  run.stdout())
            check(run.wait_line("vsock many (.*)")[1][1] == "100 of 100 good", run.stdout())
            check(run.wait_line("vsock bulk (.*)")[1][1] == "2 of 2 good", run.stdout())
            sent = run.wait_line(
                r"vsock stalled (\d+) Resource temporarily unavailable")[1][1]
            stalled.set()
            read = run.wait_line(r"vsock arrived (\d+)")[1][1]
            # The credit, and what a socket holds.
            check(100000 <= int(sent) <= 2000000, f"{sent} bytes went to a server that did not read")
            check(sent == read, f"{sent} bytes were sent, {read} arrived")
            how = run.wait_line("vsock gone (.*)")[1][1]
            check(how in ("Broken pipe", "Connection reset by peer"), how)
            run.wait_line("vsock waits")
            from_here(path)
            servers.append(Server(path, 1027, echo))
            check(run.wait_line("vsock again (.*)")[1][1] == "10 of 10 good", run.stdout())
            run.wait_line(DONE)
            for server in servers:
                server.close()
            ends_well(run, place)


def across_a_reset():
    """Connections end with the guest's reset, and the next kernel can be reached; the socket's own place."""
    with Place() as place:
        with place.run(lodge_command(kernel("cloud"), initramfs_with_modules("cloud"),
                                     "lodge.test=vsock-reboot", 1, "256M",
                                     ["--vsock", "on"])) as run:
            name = run.process.args[run.process.args.index("--name") + 1]
            run.wait_line(INIT)
            run.wait_line("LODGE-TEST vsock ready")
            folder = next((f for f in (Path("/run/lodge"), place.path / "runtime" / "lodge")
                           if (f / name / "vsock.sock").exists()), None)
            check(folder, "there is no socket in the guest's directory")
            for turn in (1, 2):
                run.wait_line("LODGE-TEST vsock ready", count=turn)
                # The echo may not be there yet.
                while not (opened := connect(folder / name / "vsock.sock", 5000))[1]:
                    pass
                sock = opened[0]
                sock.sendall(b"until then")
                check(sock.recv(100) == b"until then", "no echo")
                if turn == 2:
                    break
                while not (opened := connect(folder / name / "vsock.sock", 5001))[1]:
                    pass
                ender = opened[0]
                ender.sendall(b"reboot")
                check(sock.recv(100) == b"", "a connection that outlives its guest")
            run.process.terminate()
            check(run.wait_exit(30) == 128 + 15, run.describe())
            check(not (folder / name).exists(), "something was left behind")


CASES = [
    Case("vsock, both ways", both_ways, 2),
    Case("vsock across a reset", across_a_reset),
]
