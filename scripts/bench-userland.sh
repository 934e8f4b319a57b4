#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# bench-userland.sh: make the userland of `make bench`, the same binaries for
# guests and host: .cache/bench/root, and as an initramfs .cache/bench/root.cpio.
# Prints its directory.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

packages=busybox-static,7zip,zstd,lz4,sqlite3,python3-minimal,perl-base,openssl,gcc,libc6-dev,make
dir=$PWD/.cache/bench
root=$dir/root

inputs='bench/agent bench/micro.c bench/project.py bench/work.py bench/work.pl bench/work.sql'

# shellcheck disable=SC2086
if [ -e "$dir/root.cpio" ] && [ -z "$(find $inputs "$0" -newer "$dir/root.cpio")" ]; then
    echo "$dir"
    exit 0
fi

mkdir -p "$dir"
tmp=$(mktemp -d "$dir/.userland.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM

# Packages unpacked, no scripts of theirs run; without what no row needs.
if [ ! -e "$dir/userland.tar" ] || [ "$0" -nt "$dir/userland.tar" ]; then
    suite=$(codename)
    apt_lists "$suite"
    say "Making the userland of the benchmark"
    mmdebstrap --quiet --variant=extract --include="$packages" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --dpkgopt='path-exclude=/usr/lib/gcc/*/lto1' --dpkgopt='path-exclude=/usr/bin/*lto-dump*' \
        --dpkgopt='path-exclude=/usr/lib/*san.so*' --dpkgopt='path-exclude=/usr/lib/*san.a' \
        --dpkgopt='path-exclude=/usr/bin/*gprofng*' --dpkgopt='path-exclude=/usr/bin/*gold*' \
        --dpkgopt='path-exclude=/usr/bin/*dwp*' --dpkgopt='path-exclude=/usr/lib/*gconv/*' \
        --dpkgopt='path-exclude=/usr/bin/*gcov*' \
        --dpkgopt='path-exclude=/usr/share/i18n/*' --dpkgopt='path-exclude=/usr/share/zoneinfo/*' \
        "$suite" "$tmp/userland.tar" "$apt_private/$suite.list" >&2
    mv "$tmp/userland.tar" "$dir/userland.tar"
fi

new=$tmp/root
mkdir "$new"
tar -x -f "$dir/userland.tar" -C "$new" --no-same-owner --exclude='./dev/*' --exclude='./var/*'
mkdir -p "$new/proc" "$new/sys" "$new/tmp" "$new/dev" "$new/bench"
# The links are made here: the packages' scripts were not run.
"$new/bin/busybox" --list | while read -r applet; do
    [ -e "$new/bin/$applet" ] || [ -e "$new/usr/bin/$applet" ] || [ -e "$new/sbin/$applet" ] ||
        ln -s busybox "$new/bin/$applet"
done

gcc -std=gnu11 -D_GNU_SOURCE -O2 -ftree-vectorize -Wall -Wextra -static -pthread bench/micro.c \
    -o "$new/bench/micro" -lm
python3 bench/project.py "$new/bench/project"
cp bench/work.py bench/work.pl bench/work.sql "$new/bench/"
cp bench/agent "$new/init"
chmod 755 "$new/init"

(cd "$new" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) >"$tmp/root.cpio"
rm -rf "$root"
mv "$new" "$root"
mv "$tmp/root.cpio" "$dir/root.cpio"
echo "$dir"
