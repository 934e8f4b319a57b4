#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# demo.sh: from a fresh clone to the distribution's own kernel in a guest: an
# interactive shell on a terminal, otherwise a few lines about the guest.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

engine=soft

scripts/setup.sh build demo
scripts/build.sh build >&2
kernel=$(scripts/kernel.sh cloud)
scripts/initramfs.sh .cache/initramfs-demo.cpio.gz demo

append="console=ttyS0 quiet lodge.engine=$engine"
if [ -t 0 ]; then
    append="$append lodge.interactive"
    say "Starting the guest; Ctrl-] leaves it."
else
    say "Starting the guest."
fi
exec build/lodge run --engine "$engine" -m 512M --kernel "$kernel" \
    --initrd .cache/initramfs-demo.cpio.gz --append "$append"
