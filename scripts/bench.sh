#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# bench.sh [ARGS...]: install what the benchmark needs, build, measure. Without
# arguments everything is measured, and docs/performance.md gets the result.
set -eu
cd "$(dirname "$0")/.."
scripts/setup.sh build demo bench
scripts/build.sh build >&2
[ $# != 0 ] || set -- --save
exec bench/bench "$@"
