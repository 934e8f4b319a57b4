#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# check.sh: install what the tests need and run them all (tests/run).
set -eu
cd "$(dirname "$0")/.."
scripts/setup.sh build demo check
exec python3 tests/run
