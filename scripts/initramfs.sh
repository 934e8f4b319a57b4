#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# initramfs.sh OUT [demo|test]: make an initramfs (newc, gzip) of Debian's
# static busybox and scripts/init-PROFILE as its init.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

out=${1-}
profile=${2-demo}
if [ -z "$out" ] || [ ! -e "scripts/init-$profile" ]; then
    echo "usage: initramfs.sh OUT [demo|test]" >&2
    exit 2
fi
case $out in
/*) ;;
*) out=$PWD/$out ;;
esac

busybox=$PWD/.cache/busybox
[ ! -e "$out" ] || [ ! -e "$busybox" ] || [ -n "$(find "scripts/init-$profile" "$0" tests/guest/user -newer "$out")" ] ||
    exit 0

mkdir -p .cache
tmp=$(mktemp -d "$PWD/.cache/.initramfs.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM

if [ ! -e "$busybox" ]; then
    apt_fetch "$(codename)" busybox-static "$tmp"
    dpkg-deb -x "$tmp"/*.deb "$tmp/unpacked"
    for found in "$tmp"/unpacked/bin/busybox "$tmp"/unpacked/usr/bin/busybox; do
        [ ! -e "$found" ] || mv "$found" "$busybox"
    done
fi

root=$tmp/root
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/tmp" "$root/root" "$root/etc"
ln -s bin "$root/sbin"
cp "$busybox" "$root/bin/busybox"
cp "scripts/init-$profile" "$root/init"
chmod 755 "$root/init" "$root/bin/busybox"
if [ "$profile" = test ]; then
    for program in memory net vsock; do
        cc -O2 -static -pthread -o "$root/bin/$program" "tests/guest/user/$program.c"
    done
fi
# The links are made here, not by the guest: it would spend its time on them.
"$busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done

mkdir -p "$(dirname "$out")"
(cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet | gzip -n) >"$tmp/out"
mv "$tmp/out" "$out"
