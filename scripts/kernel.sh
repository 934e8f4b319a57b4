#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# kernel.sh NAME: download one of the distribution's own kernels, unpack it
# (nothing is installed) into .cache/kernels/NAME and print the path of vmlinuz.
#   cloud      linux-image-cloud-amd64
#   amd64      linux-image-amd64
#   backports  linux-image-amd64 of the backports suite
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

name=${1-}
suite=$(codename)
case $name in
cloud) meta=linux-image-cloud-amd64 ;;
amd64) meta=linux-image-amd64 ;;
backports)
    meta=linux-image-amd64
    suite=$suite-backports
    ;;
*)
    echo "usage: kernel.sh cloud|amd64|backports" >&2
    exit 2
    ;;
esac

dir=$PWD/.cache/kernels/$name
if [ -e "$dir/vmlinuz" ]; then
    echo "$dir/vmlinuz"
    exit 0
fi

mkdir -p .cache/kernels
tmp=$(mktemp -d "$PWD/.cache/kernels/.$name.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM

apt_lists "$suite"
package=$(apt_resolve "$suite" "$meta")
if [ -z "$package" ]; then
    echo "kernel.sh: $suite has no package $meta" >&2
    exit 1
fi
apt_fetch "$suite" "$package" "$tmp"
say "Unpacking $package"
mkdir "$tmp/root"
dpkg-deb --fsys-tarfile "$tmp"/*.deb | tar -x -C "$tmp/root" ./boot
basename "$tmp"/*.deb >"$tmp/root/boot/package"
ln -s "$(basename "$tmp"/root/boot/vmlinuz-*)" "$tmp/root/boot/vmlinuz"
chmod 755 "$tmp/root/boot"
rm -rf "$dir"
mv "$tmp/root/boot" "$dir"
echo "$dir/vmlinuz"
