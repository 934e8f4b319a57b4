# SPDX-License-Identifier: GPL-2.0-or-later
"""For system.py: a cloud image, made of Debian's packages as vendors make theirs."""
import json
import os
import subprocess
from pathlib import Path

from guest import ROOT, check

NAME = "vendor/cloud"
PROOF = "what --user-data asked for"
PACKAGES = ("linux-image-cloud-amd64", "initramfs-tools", "systemd-sysv", "libpam-systemd", "dbus",
            "udev", "e2fsprogs", "cloud-init", "cloud-guest-utils", "fdisk", "netplan.io", "iproute2",
            "openssh-server", "sudo", "locales", "ca-certificates")
MIB = 1 << 20
# As in the images that are offered: partition 1 is the last, so that it can grow.
PARTS = ((14, "21686148-6449-6E6F-744E-656564454649", 4), (15, "U", 32), (16, "L", 256), (1, "L", 1600))
DISK = 10240  # MiB; it was made larger, and the partition was not

# In a user namespace unless root runs it: the files have many owners. $1 is the system, $2 where
# the partitions go.
PACK = """set -e
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
tar -C "$dir" -x -f "$1" --exclude='./dev/*'
printf '%%s\\n' 'LABEL=cloudimg-rootfs / ext4 errors=remount-ro 0 1' 'LABEL=BOOT /boot ext4 defaults 0 2' \\
    >"$dir/etc/fstab"
echo uninitialized >"$dir/etc/machine-id"
printf '%%s\\n' 'locale: C.UTF-8' 'manage_etc_hosts: true' >"$dir/etc/cloud/cloud.cfg.d/01_vendor.cfg"
rm -f "$dir"/etc/ssh/ssh_host_* "$dir/etc/hostname"
PATH=$PATH:/sbin:/usr/sbin
mke2fs -q -F -t ext4 -L BOOT -d "$dir/boot" "$2/boot" %dM
rm -rf "$dir/boot"/*
mke2fs -q -F -t ext4 -L cloudimg-rootfs -d "$dir" "$2/root" %dM
""" % (PARTS[2][2], PARTS[3][2])


def put_together(place):
    """The packages as a tar."""
    lib = "set -e; cd \"$1\"; . scripts/lib.sh; codename; apt_sources \"$(codename)\""
    done = subprocess.run(["sh", "-c", lib, "sh", ROOT], stdout=subprocess.PIPE, text=True, check=True)
    suite, *sources = done.stdout.splitlines()
    tar = place / "cloud.tar"
    with open(tar, "wb") as out:
        done = subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "--mode=unshare",
                               "--format=tar", f"--include={','.join(PACKAGES)}", suite, "-", *sources],
                              stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE,
                              text=True, check=False)
    check(done.returncode == 0, f"mmdebstrap: {done.stderr[-1500:]}")
    return tar


def make_disk(place):
    """A disk with a table of partitions, in `place`."""
    tar = put_together(place)
    parts = place / "parts"
    parts.mkdir()
    for name in ("boot", "root"):
        (parts / name).touch()
        (parts / name).chmod(0o666)
    for path in (place, parts):
        path.chmod(0o711)
    tar.chmod(0o644)
    helper = [] if os.geteuid() == 0 else ["mmdebstrap", "--unshare-helper"]
    done = subprocess.run([*helper, "sh", "-c", PACK, "sh", tar, parts], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    check(done.returncode == 0, f"the file systems could not be made: {done.stdout[-1500:]}")
    tar.unlink()
    disk = place / "cloud.raw"
    with open(disk, "wb") as file:
        file.truncate(DISK * MIB)
    table, at, found = ["label: gpt"], 1, {}
    for number, kind, size in PARTS:
        table.append(f"{disk}{number} : start={at * 2048}, size={size * 2048}, type={kind}")
        found[number] = at
        at += size
    subprocess.run(["sfdisk", "-q", disk], input="\n".join(table) + "\n", text=True, check=True,
                   env=dict(os.environ, PATH=os.environ["PATH"] + ":/sbin:/usr/sbin"))
    for number, name in ((16, "boot"), (1, "root")):
        subprocess.run(["dd", f"if={parts / name}", f"of={disk}", "bs=1M", f"seek={found[number]}",
                        "conv=notrunc,sparse", "status=none"], check=True)
        (parts / name).unlink()
    return disk


def bring(system):
    """Make it and import it, unless that was done."""
    listed = json.loads(system.lodge("image", "ls", "--format", "json").stdout)
    if any(image["name"] == NAME for image in listed):
        return "there already"
    disk = make_disk(system.place)
    done = system.lodge("image", "import", str(disk), NAME)
    disk.unlink()
    check("no kernel" not in done.stderr, done.stderr)
    return ""


def start(system):
    key = (system.place / "key.pub").read_text().strip()
    data = system.place / "user-data"
    data.write_text("#cloud-config\n" + json.dumps({
        "users": ["default", {"name": "tester", "sudo": "ALL=(ALL) NOPASSWD:ALL",
                              "ssh_authorized_keys": [key]}],
        "write_files": [{"path": "/etc/lodge-proof", "content": PROOF}],
        "runcmd": ["echo ran >>/var/lib/lodge-ran"]}))
    system.start("--user-data", str(data))


def settles(system):
    """cloud-init has done all, and well."""
    status = system.inside("cloud-init status --wait", ok=False)
    check("status: done" in status, f"{status}: " + system.inside("cloud-init status --long", ok=False))


def boot(system):
    start(system)
    settles(system)
    check(system.inside("cloud-id") == "nocloud", "cloud-init has other settings")
    check(system.inside("hostname") == system.name, "the guest has another name")
    check(system.inside("findmnt -no SOURCE /boot") == "/dev/vda16", "/boot is not mounted")
    check(system.inside("ls /boot/vmlinuz-$(uname -r)"), "another kernel runs")
    size = int(system.inside("df --output=size -BM / | tail -n 1").rstrip("M"))
    check(size > 8000, f"the partition and its file system did not grow: {size} MiB")


def user_data(system):
    check(system.inside("cat /etc/lodge-proof") == PROOF, "write_files was not done")
    check(system.inside("cat /var/lib/lodge-ran") == "ran", "runcmd was not done")
    done = system.ssh("tester", "sudo -n id -un")
    check(done == "root", f"the user of --user-data: {done!r}")


def once(system):
    """The next start finds everything done."""
    system.power_off()
    start(system)
    settles(system)
    check(system.inside("cat /var/lib/lodge-ran") == "ran", "--user-data was taken twice")
    check(system.ssh("tester", "hostname") == system.name, "another name")


def leave(system):
    system.power_off()
    disk = Path(system.env["LODGE_DATA"]) / "disks" / system.name / "disk.qcow2"
    system.lodge("image", "check", str(disk))
    system.lodge("image", "discard", system.name)


STEPS = (("make a cloud image and import it", bring), ("boot it: cloud-init, /boot, growth", boot),
         ("what --user-data says", user_data), ("a second start", once),
         ("power-off and check of the cloud image's disk", leave))
