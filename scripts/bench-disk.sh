#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# bench-disk.sh KERNEL: make the userland of bench/disk.py, the same binaries
# for guests and host: .cache/bench/disk/root, and with the modules of the
# kernel (of kernel.sh) as an initramfs .cache/bench/disk/root.cpio. Prints its
# directory.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

modules="virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk"
dir=$PWD/.cache/bench/disk
tree=$(scripts/modules.sh "$1")
if [ -e "$dir/root.cpio" ] && [ "$(cat "$dir/kernel")" = "$1" ] &&
    [ -z "$(find bench/disk-agent "$0" -newer "$dir/root.cpio")" ]; then
    echo "$dir"
    exit 0
fi

mkdir -p "$dir"
tmp=$(mktemp -d "$dir/.root.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM

suite=$(codename)
apt_lists "$suite"
say "Making the userland of the disk benchmark"
mmdebstrap --quiet --variant=extract --include=busybox-static,fio \
    --dpkgopt='path-exclude=/usr/share/*' \
    "$suite" "$tmp/root.tar" "$apt_private/$suite.list" >&2
new=$tmp/root
mkdir "$new"
tar -x -f "$tmp/root.tar" -C "$new" --no-same-owner --exclude='./dev/*' --exclude='./var/*'
mkdir -p "$new/proc" "$new/sys" "$new/tmp" "$new/dev" "$new/disk" "$new/modules"
"$new/bin/busybox" --list | while read -r applet; do
    [ -e "$new/bin/$applet" ] || [ -e "$new/usr/bin/$applet" ] || [ -e "$new/sbin/$applet" ] ||
        ln -s busybox "$new/bin/$applet"
done
cp bench/disk-agent "$new/init"

# In the order in which they depend on each other; what is built in has no file.
n=0
for module in $modules; do
    n=$((n + 1))
    found=$(find "$tree" -name "$module.ko*")
    [ -z "$found" ] || cp "$found" "$new/modules/$n-$module.ko"
done

(cd "$new" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) >"$tmp/root.cpio"
rm -rf "$dir/root"
mv "$new" "$dir/root"
mv "$tmp/root.cpio" "$dir/root.cpio"
echo "$1" >"$dir/kernel"
echo "$dir"
