#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# nested.sh OUT PROGRAM...: make the initramfs of a machine with KVM inside, to
# be started on the cloud kernel: init-nested, the KVM modules, the cloud
# kernel and the test initramfs as the guest's, and the given programs (the
# first as /nested/lodge) with the libraries they are linked to. A PROGRAM that
# is no program is a file to be found at the same path there.
set -eu
cd "$(dirname "$0")/.."

if [ $# -lt 2 ]; then
    echo "usage: nested.sh OUT PROGRAM..." >&2
    exit 2
fi
out=$1
shift
case $out in
/*) ;;
*) out=$PWD/$out ;;
esac

kernel=$(scripts/kernel.sh cloud)
modules=$(scripts/modules.sh cloud)
scripts/initramfs.sh .cache/initramfs-test.cpio.gz test
scripts/initramfs.sh .cache/initramfs-nested.cpio.gz nested

tmp=$(mktemp -d "$PWD/.cache/.nested.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM
root=$tmp/root
mkdir -p "$root/nested"
cp "$kernel" "$root/nested/vmlinuz"
cp .cache/initramfs-test.cpio.gz "$root/nested/initrd"
for module in irqbypass kvm kvm-amd; do
    find "$modules" -name "$module.ko" -exec cp '{}' "$root/nested/" ';'
done
name=lodge
for program in "$@"; do
    if [ ! -x "$program" ]; then
        # Data, at the place it has here.
        mkdir -p "$root$(dirname "$program")"
        cp -L "$program" "$root$program"
        shift
        [ $# = 0 ] || name=$(basename "$1")
        continue
    fi
    cp "$program" "$root/nested/$name"
    ldd "$program" 2>/dev/null | grep -o '/[^ ]*' | while read -r lib; do
        mkdir -p "$root$(dirname "$lib")"
        cp -L "$lib" "$root$lib"
        # What the C library loads by itself when a thread is cancelled.
        gcc_s=$(dirname "$lib")/libgcc_s.so.1
        [ ! -e "$gcc_s" ] || cp -L "$gcc_s" "$root$gcc_s"
    done
    shift
    [ $# = 0 ] || name=$(basename "$1")
done

# Two archives, one after the other, which the kernel unpacks in turn; the second is left as it is, since emulated
# processors take their time to decompress.
pad()
{
    size=$(wc -c <"$1")
    truncate -s $(((size + 511) / 512 * 512)) "$1"
}
cp .cache/initramfs-nested.cpio.gz "$tmp/out"
pad "$tmp/out"
(cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) >>"$tmp/out"
mv "$tmp/out" "$out"
