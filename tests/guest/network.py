# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests with network cards."""
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from guest import (PROGRAM, ROOT, Case, Place, Skip, check, initramfs_with_modules, kernel,
                   lodge_command)

from boot import DONE, ends_well


def command(test, extra, append="", cpus=1):
    words = lodge_command(kernel("cloud"), initramfs_with_modules("cloud"),
                          f"lodge.test={test} {append}".strip(), cpus, "256M", extra)
    words.remove("--quiet")  # the ports that were chosen are among what it keeps to itself
    return words


class Echo:
    """Servers on this host's loopback that give back what they are sent, by TCP and UDP."""

    def __init__(self):
        self.need_loopback()
        self.sockets = []
        self.ipv6 = True
        self.tcp, self.udp = self.bound(socket.SOCK_STREAM), self.bound(socket.SOCK_DGRAM)

    @staticmethod
    def need_loopback():
        with socket.socket() as server, socket.socket() as client:
            server.bind(("127.0.0.1", 0))
            server.listen(1)
            client.settimeout(10)
            try:
                client.connect(server.getsockname())
            except OSError as error:
                raise Skip(f"this host has no loopback network: {error}") from None

    def bound(self, kind):
        """The same port of both loopback addresses, where there are both."""
        for _ in range(50):
            first = socket.socket(socket.AF_INET, kind)
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            found = [first]
            try:
                found.append(socket.socket(socket.AF_INET6, kind))
                found[1].bind(("::1", port))
            except OSError as error:
                found.pop().close() if len(found) > 1 else None
                if error.errno == 98:
                    first.close()
                    continue
                self.ipv6 = False
            for sock in found:
                self.start(sock, kind)
            return port
        raise OSError("no port is free on both loopback addresses")

    def start(self, sock, kind):
        self.sockets.append(sock)
        if kind == socket.SOCK_STREAM:
            sock.listen(16)
        target = self.serve if kind == socket.SOCK_STREAM else self.reflect
        threading.Thread(target=target, args=(sock,), daemon=True).start()

    def serve(self, sock):
        while True:
            try:
                client, _ = sock.accept()
            except OSError:
                return
            threading.Thread(target=self.give_back, args=(client,), daemon=True).start()

    @staticmethod
    def give_back(client):
        with client:
            try:
                while data := client.recv(1 << 16):
                    client.sendall(data)
            except OSError:
                pass

    @staticmethod
    def reflect(sock):
        while True:
            try:
                data, peer = sock.recvfrom(1 << 16)
            except OSError:
                return
            if peer is None:
                return  # shut down
            sock.sendto(data, peer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for sock in self.sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()


def published(run):
    """The ports that were chosen: (address, guest's port, protocol) to the host's."""
    return {(m[1], int(m[3]), m[4]): int(m[2]) for m in
            re.finditer(r"published (.*):(\d+):(\d+)/(\w+)", run.stderr())}


def swap(address, port, size=4000000):
    """Send to an echo server and receive at the same time; what comes back must be the same."""
    data, got = os.urandom(size), b""
    with socket.create_connection((address, port), 120) as sock:
        sock.settimeout(120)

        def send():
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        while more := sock.recv(1 << 16):
            got += more
        sender.join(10)
    check(got == data, f"{len(got)} of {size} bytes came back from {address}, or others")


def datagrams(address, port, sizes=(1, 1000, 1472)):
    """UDP may lose some, so each gets several tries."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect((address, port))
        for size in sizes:
            data, got = os.urandom(size), None
            for _ in range(30):
                try:
                    sock.send(data)
                    while (got := sock.recv(1 << 16)) != data:
                        pass
                    break
                except TimeoutError:
                    pass
            check(got == data, f"no datagram of {size} bytes came back from {address}")


def say_bye(run, port):
    """It may be lost."""
    for _ in range(60):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"bye", ("127.0.0.1", port))
        if any(re.search(DONE, line) for _, line in run.lines) or run.process.poll() is not None:
            break
        threading.Event().wait(0.5)
    run.wait_line(DONE)


def ends(run, place):
    run.errors[:] = [one for one in run.errors if not one[1].startswith(
        ("lodge: guest ", "lodge: published "))]
    ends_well(run, place)


def port_verb(place, *words):
    """lodge port; its output, or None when it fails."""
    done = subprocess.run([*PROGRAM, "port", *words], env=place.environment(), capture_output=True, text=True,
                          timeout=60, check=False)
    check(done.returncode == 0 or done.stderr.count("lodge:") == 1, done.stderr)
    return done.stdout.strip() if done.returncode == 0 else None


def ports_change(place, name, ports):
    """Ports that come and go while the guest runs."""
    def listed():
        return {(p["address"], p["guest"], p["protocol"]): p["host"] for p in
                json.loads(port_verb(place, name, "--format", "json"))}

    unbracketed = {(a.strip("[]"), guest, protocol): host
                   for (a, guest, protocol), host in ports.items()}
    check(listed() == unbracketed, f"{listed()} are listed, not {unbracketed}")
    added = port_verb(place, name, "add", "0:7")
    match = re.fullmatch(r"127\.0\.0\.1:(\d+):7/tcp", added or "")
    check(match, f"lodge port add says {added}")
    swap("127.0.0.1", int(match[1]), 100000)
    check(port_verb(place, name, "add", added) is None, "a port was published twice")
    check(port_verb(place, name, "remove", "127.0.0.1:1") is None, "nothing was removed")
    check(port_verb(place, name, "remove", match[1]) == "", "no port was removed")
    check(listed() == unbracketed, f"{listed()} are listed afterwards, not {unbracketed}")
    try:
        swap("127.0.0.1", int(match[1]), 1)
        raise AssertionError("a port that was removed still leads to the guest")
    except ConnectionRefusedError:
        pass


def user(cpus):
    """DHCP, router advertisements; TCP and UDP to the host and from it, in large pieces."""
    with Place() as place, Echo() as echo:
        extra = ["--net", "user,domain=lodge.test", "-p", "0:7", "-p", "0:7/udp"]
        append = f"lodge.echo={echo.tcp},{echo.udp}"
        if echo.ipv6:
            extra += ["-p", "[::1]:0:7"]
            append += " lodge.ipv6"
        arguments = command("net-user", extra, append, cpus)
        with place.run(arguments) as run:
            lease = run.wait_line("LODGE-TEST net lease (.*)")[1][1]
            name = arguments[arguments.index("--name") + 1]
            check(lease == "10.0.2.15/24 router=10.0.2.2 dns=10.0.2.3 "
                  f"hostname={name} domain=lodge.test", lease)
            run.wait_line("LODGE-TEST net serving")
            seen = run.stdout()
            hosts = ["10.0.2.2"] + (["fd6c:6f64:6765::2"] if echo.ipv6 else [])
            for host in hosts:
                check(f"net tcp {host} room=0 same" in seen, seen)
                for size in (1, 1452) if ":" in host else (1, 1000, 1472):
                    check(f"net udp {host} size={size} back=20" in seen, seen)
            check("net tcp 10.0.2.2 room=4096 same" in seen, seen)
            ports = published(run)
            swap("127.0.0.1", ports["127.0.0.1", 7, "tcp"])
            datagrams("127.0.0.1", ports["127.0.0.1", 7, "udp"])
            if echo.ipv6:
                check("net ipv6 inet6 fd6c:6f64:6765:" in seen, seen)
                swap("::1", ports["[::1]", 7, "tcp"])
            ports_change(place, name, ports)
            say_bye(run, ports["127.0.0.1", 7, "udp"])
            ends(run, place)


def queues(cpus):
    """A pair of queues for each CPU, both in use; and no more than the rate."""
    rate, burst, size = 4 << 20, 1 << 16, 6000000
    with Place() as place, Echo() as echo:
        extra = ["--net", f"user,rate={rate},burst={burst}", "-p", "0:7", "-p", "0:7/udp"]
        with place.run(command("net-queues", extra, f"lodge.echo={echo.tcp},{echo.udp}",
                               cpus)) as run:
            run.wait_line("LODGE-TEST net serving")
            seen = run.stdout()
            check(f"net queues {cpus}" in seen and "net differs" not in seen, seen)
            for pair in range(cpus):
                for way in ("input", "output"):
                    lines = re.findall(rf"interrupts \d+: ([\d ]+) .*-{way}\.{pair}\b", seen)
                    check(lines, f"no {way} queue {pair}: {seen}")
                    check(way == "output" or sum(map(int, lines[0].split())), seen)
            ports = published(run)
            began = time.monotonic()
            swap("127.0.0.1", ports["127.0.0.1", 7, "tcp"], size)
            took = time.monotonic() - began
            check(took > (size - burst) / rate, f"{size} bytes took {took:.2f} s")
            say_bye(run, ports["127.0.0.1", 7, "udp"])
            ends(run, place)


def lookup():
    """The guest's name server asks the host's."""
    inside = ["unshare", "-m", "-n"] + ([] if os.geteuid() == 0 else ["-r"])
    if not os.path.exists("/etc/resolv.conf"):
        raise Skip("there is no /etc/resolv.conf here to stand in for")
    with Place() as place:
        resolv = place.path / "home" / "resolv.conf"
        resolv.write_text("nameserver 127.0.0.1\n")
        tried = subprocess.run([*inside, "mount", "--bind", resolv, "/etc/resolv.conf"],
                               capture_output=True, text=True, check=False)
        if tried.returncode:
            raise Skip(f"no namespaces can be made here: {tried.stderr.strip()}")
        words = [*inside, sys.executable, str(ROOT / "tests" / "guest" / "nameserver.py"),
                 str(resolv), *command("net-lookup", ["--net", "user"], "lodge.lookup=some.test")]
        with place.run(words) as run:
            said = run.wait_line("LODGE-TEST net lookup (.*)")[1][1]
            check("192.0.2.77" in said and "10.0.2.3" in said, said)
            run.wait_line(DONE)
            resolv.unlink()
            ends(run, place)


def host():
    """A bridge and a TAP device, in a network namespace of their own."""
    inside = ["unshare", "-n"] + ([] if os.geteuid() == 0 else ["-r"])
    script = [*inside, sys.executable, str(ROOT / "tests" / "guest" / "hostnet.py")]
    tried = subprocess.run([*script, "probe"], capture_output=True, text=True, check=False)
    if tried.returncode and "unshare" in tried.stderr:
        raise Skip(f"no network namespace can be made here: {tried.stderr.strip()}")
    check(tried.returncode == 0, tried.stderr)
    if tried.stdout:
        raise Skip(tried.stdout.strip())
    with Place() as place:
        words = command("net-host", ["--net", "bridge=br0", "--net", "tap=lt0"])
        with place.run([*script, "run", *words]) as run:
            run.wait_line("LODGE-TEST net serving")
            seen = run.stdout()
            for peer in ("10.9.0.254", "10.10.0.254"):
                check(f"net tcp {peer} room=0 same" in seen, seen)
                for size in (1, 1472, 9000):
                    check(f"net udp {peer} size={size} back=20" in seen, seen)
            run.wait_line(DONE)
            ends(run, place)


def switch():
    """Two guests on a named network; one is killed and comes again."""
    name = f"t{os.getpid()}"
    with Place() as place:
        def member(number, append=""):
            return place.run(command("net-switch", ["--net", f"switch={name}"],
                                     f"lodge.address={number} {append}".strip()))

        with member(1, "lodge.peer=2") as first:
            with member(2) as second:
                second.wait_line("LODGE-TEST net serving")
                first.wait_line("LODGE-TEST net first")
                second.process.kill()
                second.process.wait()
            first.wait_line("LODGE-TEST net gone")
            check(first.process.poll() is None, first.describe())
            with member(2) as second:
                first.wait_line(DONE)
                second.process.kill()
                second.process.wait()
            seen = first.stdout()
            check(seen.count("net tcp 10.9.0.2 room=0 same") == 2, seen)
            for size in (1, 1472, 9000):
                check(f"net udp 10.9.0.2 size={size} back=20" in seen, seen)
            first.wait_exit()
        # The killed one's socket is left until somebody meets it.
        for base in (Path("/run/lodge-net"), place.path / "runtime" / "lodge-net",
                     Path(f"/tmp/lodge-{os.geteuid()}-net")):
            shutil.rmtree(base / name, ignore_errors=True)


CASES = [
    Case("network of the user", user, 1),
    Case("network queues and rate", queues, 2),
    Case("network's name server", lookup),
    Case("network of the host", host),
    Case("network with a name", switch),
]
