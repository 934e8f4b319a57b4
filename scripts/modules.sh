#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# modules.sh NAME: the modules of kernel.sh's kernel NAME, unpacked into
# .cache/kernels/NAME/modules; prints that path.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

name=${1-}
scripts/kernel.sh "$name" >/dev/null
dir=$PWD/.cache/kernels/$name
if [ -d "$dir/modules" ]; then
    echo "$dir/modules"
    exit 0
fi

tmp=$(mktemp -d "$PWD/.cache/kernels/.$name.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM

suite=$(codename)
[ "$name" != backports ] || suite=$suite-backports
read -r file <"$dir/package"
package=${file%%_*}
version=${file#*_}
# apt writes a colon as %3a; this very version, since modules fit one kernel only.
version=$(echo "${version%_*}" | sed 's/%3a/:/')
apt_fetch "$suite" "$package=$version" "$tmp"
say "Unpacking the modules of $package"
dpkg-deb --fsys-tarfile "$tmp"/*.deb | tar -x -C "$tmp" ./lib/modules
mv "$tmp/lib/modules"/* "$tmp/modules"
mv "$tmp/modules" "$dir/modules"
echo "$dir/modules"
