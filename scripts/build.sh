#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# build.sh DIR: configure DIR when it needs it and build the program there.
# DIR is build, build-asan (address,undefined), build-tsan (thread) or
# build-fuzz (clang with libFuzzer; builds the fuzzers instead).
set -eu
cd "$(dirname "$0")/.."
dir=${1-build}

scripts/setup.sh build

case $dir in
build) options= ;;
build-asan) options='-Db_sanitize=address,undefined -Db_lundef=false' ;;
build-tsan) options='-Db_sanitize=thread -Db_lundef=false' ;;
build-fuzz) options='-Dfuzz=true -Db_lundef=false' ;;
*)
    echo "build.sh: unknown build directory $dir" >&2
    exit 2
    ;;
esac

# What meson was last configured with: it reads these lists then only.
lists()
{
    for kind in soft simd main rest; do
        echo "$kind: $(scripts/list-sources "$kind" | tr '\n' ' ')"
    done
    find tests/unit tests/fuzz -name '*.c' | LC_ALL=C sort
    command -v scdoc || true
    ls docs/*.scd 2>/dev/null || true
    pkg-config --modversion cmocka 2>/dev/null || true
}

mkdir -p "$dir"
lists >"$dir/.lists.new"
if [ ! -f "$dir/build.ninja" ]; then
    echo "Configuring $dir"
    if [ "$dir" = build-fuzz ]; then
        CC=clang
        export CC
    fi
    # shellcheck disable=SC2086
    meson setup $options "$dir" >"$dir/configure.log" 2>&1 || {
        cat "$dir/configure.log" >&2
        exit 1
    }
elif ! cmp -s "$dir/.lists" "$dir/.lists.new"; then
    echo "Configuring $dir again: files were added or removed"
    meson setup --reconfigure "$dir" >"$dir/configure.log" 2>&1 || {
        cat "$dir/configure.log" >&2
        exit 1
    }
fi
mv "$dir/.lists.new" "$dir/.lists"

echo "Building $dir"
ninja -C "$dir" --quiet
