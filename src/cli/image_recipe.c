/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge image build: what is built, in tables and in shell. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/image_build.h"

const char recipe_names[] = "debian/11, debian/12, debian/13";

static const struct recipe recipes[] = {
    {"11", "bullseye", "bullseye-security", ""},
    {"12", "bookworm", "bookworm-security", ",systemd-resolved"},
    {"13", "trixie", "trixie-security", ",systemd-resolved"},
};

/* The kernel first. What makes a system that one can log in to, install packages on, and find one's way in. */
static const char packages[] =
    "linux-image-cloud-amd64,initramfs-tools,zstd,kmod,udev,e2fsprogs,"
    "systemd,systemd-sysv,libpam-systemd,dbus,openssh-server,sudo,ca-certificates,"
    "debian-archive-keyring,iproute2,iputils-ping,netbase,procps,less,nano";

const struct recipe *recipe_find(const char *name)
{
    if (strncmp(name, "debian/", 7) != 0)
        return NULL;
    for (size_t i = 0; i < ARRAY_SIZE(recipes); i++)
        if (!strcmp(name + 7, recipes[i].version) || !strcmp(name + 7, recipes[i].codename))
            return &recipes[i];
    return NULL;
}

char *recipe_packages(const struct recipe *recipe, const char *more)
{
    char *list;

    if (asprintf(&list, "%s%s%s%s", packages, recipe->packages, more && *more ? "," : "",
                 more ? more : "") < 0)
        return NULL;
    return list;
}

/*
 * The guest's own part: /usr/lib/lodge/seed runs before anybody can log in,
 * and does something once for each disk made from the image. It knows its
 * settings' disk by the serial number, so it waits for nobody. Everything
 * else is Debian's.
 */
const char recipe_setup[] =
    "set -e\n"
    "r=$1\n"
    "put() { mkdir -p \"$r${1%/*}\"; cat >\"$r$1\"; }\n"
    "put /etc/initramfs-tools/conf.d/lodge <<'END'\n"
    "# The devices of a Lodge guest, and no others: a third of the size, and of the time to "
    "unpack.\n"
    "MODULES=list\n"
    "COMPRESS=zstd\n"
    "END\n"
    "printf '%s\\n' virtio_pci virtio_blk virtio_net virtio_console virtio_rng ext4 \\\n"
    "    >>\"$r/etc/initramfs-tools/modules\"\n"
    "put /etc/fstab <<'END'\n"
    "/dev/vda / ext4 errors=remount-ro,x-systemd.growfs 0 1\n"
    "END\n"
    "put /etc/systemd/network/80-ethernet.network <<'END'\n"
    "[Match]\n"
    "Type=ether\n"
    "\n"
    "[Network]\n"
    "DHCP=yes\n"
    "\n"
    "[DHCPv4]\n"
    "ClientIdentifier=mac\n"
    "END\n"
    "put /etc/systemd/system/lodge-seed.service <<'END'\n"
    "[Unit]\n"
    "Description=Settings given by lodge run\n"
    "After=local-fs.target systemd-tmpfiles-setup.service\n"
    "Before=ssh.service systemd-user-sessions.service network-pre.target\n"
    "Wants=network-pre.target\n"
    "\n"
    "[Service]\n"
    "Type=oneshot\n"
    "RemainAfterExit=yes\n"
    "ExecStart=/usr/lib/lodge/seed\n"
    "\n"
    "[Install]\n"
    "WantedBy=multi-user.target\n"
    "END\n"
    "put /usr/lib/lodge/seed <<'END'\n"
    "#!/bin/sh\n"
    "# Name, user and keys from the disk that lodge run adds; once for each guest.\n"
    "state=/var/lib/lodge\n"
    "mkdir -p $state\n"
    "keys() {\n"
    "    for type in ed25519 ecdsa; do\n"
    "        [ -e /etc/ssh/ssh_host_${type}_key ] ||\n"
    "            ssh-keygen -q -t $type -N '' -f /etc/ssh/ssh_host_${type}_key\n"
    "    done\n"
    "}\n"
    "keys\n"
    "ran=\n"
    "[ ! -e /run/lodge-seed.ran ] || ran=yes\n"
    ": >/run/lodge-seed.ran\n"
    "dev=\n"
    "for disk in /sys/block/vd*; do\n"
    "    [ \"$(cat \"$disk/serial\" 2>/dev/null)\" != lodge-seed ] || dev=/dev/${disk##*/}\n"
    "done\n"
    "[ -n \"$dev\" ] || exit 0\n"
    "seed=/run/lodge-seed\n"
    "mkdir -p $seed\n"
    "mount -t vfat -o ro,nosuid,nodev,noexec \"$dev\" $seed || exit 1\n"
    "trap 'umount $seed' EXIT\n"
    "id=$(cat $seed/instance) || exit 1\n"
    "[ \"$id\" != \"$(cat $state/instance 2>/dev/null)\" ] || exit 0\n"
    "# A copy of another guest, that starts for the first time or, made by lodge fork, goes on.\n"
    "if [ -e $state/instance ]; then\n"
    "    { cat $seed/instance; head -c 1024 /dev/hwrng; } 2>/dev/null >/dev/urandom\n"
    "    # RNDRESEEDCRNG\n"
    "    perl -e 'open(F, \">\", \"/dev/random\") && ioctl(F, 0x5207, 0)'\n"
    "    echo \"$id\" >/etc/machine-id\n"
    "    if [ -z \"$ran\" ]; then\n"
    "        rm -f /etc/ssh/ssh_host_*\n"
    "        keys\n"
    "    fi\n"
    "fi\n"
    "name=$(cat $seed/name)\n"
    "echo \"$name\" >/etc/hostname\n"
    "hostname \"$name\"\n"
    "printf '127.0.0.1\\tlocalhost\\n127.0.1.1\\t%s\\n::1\\tlocalhost ip6-localhost\\n' \"$name\" "
    "\\\n"
    "    >/etc/hosts\n"
    "user=$(cat $seed/user)\n"
    "if [ \"$user\" != root ]; then\n"
    "    id \"$user\" >/dev/null 2>&1 || useradd -m -s /bin/bash -G adm,sudo \"$user\" || exit 1\n"
    "    echo \"$user ALL=(ALL) NOPASSWD: ALL\" >/etc/sudoers.d/90-lodge\n"
    "    chmod 440 /etc/sudoers.d/90-lodge\n"
    "fi\n"
    "home=$(getent passwd \"$user\" | cut -d: -f6)\n"
    "install -d -m 700 -o \"$user\" -g \"$(id -gn \"$user\")\" \"$home/.ssh\"\n"
    "install -m 600 -o \"$user\" -g \"$(id -gn \"$user\")\" $seed/authorized_keys \\\n"
    "    \"$home/.ssh/authorized_keys\"\n"
    "echo \"$user\" >$state/user\n"
    "echo \"$id\" >$state/instance\n"
    "[ -n \"$ran\" ] || exit 0\n"
    "# Network drivers look for their card's address when they begin.\n"
    "cd /sys/bus/virtio/drivers/virtio_net || exit 0\n"
    "for card in virtio[0-9]*; do\n"
    "    [ ! -e \"$card\" ] || { echo \"$card\" >unbind && echo \"$card\" >bind; }\n"
    "done\n"
    "END\n"
    "put /etc/udev/rules.d/90-lodge.rules <<'END'\n"
    "# The disk with the settings has changed its size: this guest is a fork of another.\n"
    "ACTION==\"change\", SUBSYSTEM==\"block\", ENV{RESIZE}==\"1\", ATTR{serial}==\"lodge-seed\", "
    "\\\n"
    "    RUN+=\"/bin/systemctl --no-block restart lodge-seed.service\"\n"
    "END\n"
    "put /usr/lib/lodge/getty <<'END'\n"
    "#!/bin/sh\n"
    "# Who has the console of a guest has the guest.\n"
    "user=$(cat /var/lib/lodge/user 2>/dev/null)\n"
    "exec /sbin/agetty ${user:+--autologin \"$user\"} --keep-baud 115200,57600,38400,9600 - "
    "\"$1\"\n"
    "END\n"
    "chmod 755 \"$r/usr/lib/lodge/seed\" \"$r/usr/lib/lodge/getty\"\n"
    "put /etc/systemd/system/serial-getty@ttyS0.service.d/lodge.conf <<'END'\n"
    "[Service]\n"
    "ExecStart=\n"
    "ExecStart=-/usr/lib/lodge/getty $TERM\n"
    "StandardInput=tty\n"
    "StandardOutput=tty\n"
    "END\n"
    "echo debian >\"$r/etc/hostname\"\n"
    "echo LANG=C.UTF-8 >\"$r/etc/default/locale\"\n"
    "rm -f \"$r\"/etc/ssh/ssh_host_* \"$r/etc/.resolv.conf.systemd-resolved.bak\"\n"
    "ln -sf ../run/systemd/resolve/stub-resolv.conf \"$r/etc/resolv.conf\"\n"
    "chroot \"$r\" systemctl -q enable systemd-networkd systemd-resolved lodge-seed\n"
    "chroot \"$r\" systemctl -q mask systemd-networkd-wait-online\n"
    "chroot \"$r\" update-initramfs -u\n";

/*
 * The space is what the files take, in blocks, a tenth more for tables and
 * journal, and 64 MiB: guests' disks are larger, and the first boot grows the
 * file system. /dev is the kernel's.
 */
const char recipe_pack[] =
    "set -e\n"
    "t=$(mktemp -d)\n"
    "trap 'rm -rf \"$t\"' EXIT\n"
    "trap 'exit 1' HUP INT TERM\n"
    "chmod 755 \"$t\"\n"
    "tar -x -p --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/*' -C \"$t\" -f -\n"
    "echo 'L: making the file system' >&2\n"
    "kernel=$(ls -v \"$t\"/boot/vmlinuz-* | tail -n 1)\n"
    "cat \"$kernel\" >&4\n"
    "cat \"$t/boot/initrd.img-${kernel##*/vmlinuz-}\" >&5\n"
    "set -- $(du -sk --apparent-size \"$t\") $(du -sk \"$t\")\n"
    "size=$1\n"
    "[ \"$3\" -lt \"$size\" ] || size=$3\n"
    "size=$(( (size * 11 / 10 + 65536 + 1023) / 1024 ))\n"
    "PATH=$PATH:/sbin:/usr/sbin\n"
    "mke2fs -q -F -t ext4 -b 4096 -L lodge-root -d \"$t\" /proc/self/fd/3 ${size}M\n";
