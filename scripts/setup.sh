#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# setup.sh SET...: see that the Debian packages of the named sets are there and
# install what is missing. Without root and sudo it prints the command to type
# and stops.
#   build    what compiles the program
#   demo     what makes an initramfs and unpacks kernels
#   check    compilers, sanitizers and tools of `make check`
#   system   what builds images of systems, and what `make check-system` looks at them with
#   compare  QEMU, to measure against
#   bench    what makes the userland of `make bench`
#   bench-uml, bench-bochs  further machines it compares with, where they can be had
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

# package, and a command or file that shows it is there (the package need not
# have come from Debian).
packages()
{
    case $1 in
    build)
        cat <<'END'
gcc gcc
libc6-dev /usr/include/stdio.h
meson meson
ninja-build ninja
pkg-config pkg-config
libzydis-dev /usr/include/Zydis/Zydis.h
libjansson-dev /usr/include/jansson.h
libfyaml-dev /usr/include/libfyaml.h
zlib1g-dev /usr/include/zlib.h
libzstd-dev /usr/include/zstd.h
libslirp-dev /usr/include/slirp/libslirp.h
liburing-dev /usr/include/liburing.h
scdoc scdoc
END
        ;;
    demo)
        cat <<'END'
cpio cpio
END
        ;;
    check)
        cat <<'END'
python3 python3
clang clang
libclang-rt-14-dev /usr/lib/llvm-14/lib/clang/*/lib/linux/libclang_rt.fuzzer-x86_64.a
clang-format clang-format
libcmocka-dev /usr/include/cmocka.h
qemu-system-x86 qemu-system-x86_64
qemu-utils qemu-img
mtools mcopy
fdisk /sbin/sfdisk
openssh-client ssh-keygen
END
        ;;
    system)
        cat <<'END'
python3 python3
mmdebstrap mmdebstrap
e2fsprogs /sbin/e2fsck
fdisk /sbin/sfdisk
openssh-client ssh
uidmap newuidmap
cpio cpio
END
        ;;
    compare)
        cat <<'END'
python3 python3
qemu-system-x86 qemu-system-x86_64
END
        ;;
    bench)
        cat <<'END'
python3 python3
gcc gcc
libc6-dev /usr/include/stdio.h
cpio cpio
mmdebstrap mmdebstrap
util-linux unshare
qemu-system-x86 qemu-system-x86_64
iperf3 iperf3
END
        ;;
    bench-uml)
        cat <<'END'
user-mode-linux linux.uml
END
        ;;
    bench-bochs)
        cat <<'END'
bochs bochs
bochsbios /usr/share/bochs/BIOS-bochs-latest
vgabios /usr/share/vgabios/vgabios.bin
bochs-term /usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so
grub-common grub-mkrescue
grub-pc-bin /usr/lib/grub/i386-pc
xorriso xorriso
mtools mformat
END
        ;;
    *)
        echo "setup.sh: unknown set $1" >&2
        exit 2
        ;;
    esac
}

present()
{
    case $1 in
    /*)
        # shellcheck disable=SC2086
        set -- $1
        [ -e "$1" ]
        ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

missing=
for set in "$@"; do
    list=$(packages "$set") || exit
    while read -r package probe; do
        case " $missing " in
        *" $package "*) continue ;;
        esac
        present "$probe" || missing="$missing $package"
    done <<END
$list
END
done
[ -n "$missing" ] || exit 0
missing=${missing# }

if ! command -v apt-get >/dev/null 2>&1; then
    echo "Missing: $missing (Debian 12 package names; this system has no apt-get to install them)." >&2
    exit 1
fi

if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    as_root=sudo
else
    cat >&2 <<END
Some packages are missing and there is neither root nor sudo to install them. As root, run:

    apt-get install --no-install-recommends $missing
END
    exit 1
fi

apt()
{
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@"
}

mkdir -p .cache
log=.cache/setup.log
: >"$log"

install()
{
    # shellcheck disable=SC2086
    apt install -y --no-install-recommends $missing </dev/null >>"$log" 2>&1
}

refresh()
{
    say "Refreshing the package lists"
    apt update </dev/null >>"$log" 2>&1 || return
    touch .cache/apt-updated
}

# The lists may be absent (a fresh root) or older than the mirror; they are
# fetched at most once in a run, of which this script may be called many times.
say "Installing $missing"
if ! install; then
    if recent .cache/apt-updated || ! refresh || ! install; then
        cat "$log" >&2
        echo "Installing failed: see the messages of apt-get above (also in $log)." >&2
        exit 1
    fi
fi
