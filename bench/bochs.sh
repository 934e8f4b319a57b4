#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# bochs.sh KERNEL INITRD APPEND: boot in Bochs, the guest's serial port on
# standard output. Bochs has no loader of its own: GRUB on a CD does that.
set -eu
kernel=$1 initrd=$2 append=$3
dir=$PWD/bochs
iso=$dir/boot.iso
mkdir -p "$dir"

if [ ! -e "$iso" ] || [ "$kernel" -nt "$iso" ] || [ "$initrd" -nt "$iso" ] ||
    [ "$append" != "$(cat "$dir/append" 2>/dev/null)" ]; then
    rm -rf "$dir/cd"
    mkdir -p "$dir/cd/boot/grub"
    cp "$kernel" "$dir/cd/vmlinuz"
    cp "$initrd" "$dir/cd/initrd"
    echo "$append" >"$dir/append"
    cat >"$dir/cd/boot/grub/grub.cfg" <<END
linux /vmlinuz $append
initrd /initrd
boot
END
    grub-mkrescue -d /usr/lib/grub/i386-pc -o "$iso" "$dir/cd" >"$dir/grub.log" 2>&1
fi
# The time starts here: making the CD does not count.
echo "LODGE-BENCH start"

rm -f "$dir/serial" "$dir/boot.iso.lock"
mkfifo "$dir/serial"
cat >"$dir/bochsrc" <<END
megs: 512
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
cpu: model=corei7_skylake_x, count=1, ips=50000000, reset_on_triple_fault=0
clock: sync=none, time0=utc
ata0-master: type=cdrom, path=$iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$dir/serial
display_library: term
log: $dir/log
panic: action=fatal
error: action=ignore
END
cat "$dir/serial" &
# It draws the guest's screen on a terminal and wants one; Debian's has the
# debugger built in, which waits for a command.
echo c >"$dir/commands"
TERM=linux exec script -qec "bochs -q -f $dir/bochsrc -rc $dir/commands" /dev/null >/dev/null 2>&1 </dev/null
