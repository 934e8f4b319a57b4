# SPDX-License-Identifier: GPL-2.0-or-later
# Shell functions shared by the scripts; they run in the root of the tree.

# Progress goes to standard error: standard output is for results.
say()
{
    echo "$*" >&2
}

# Was this file touched in the last ten minutes?
recent()
{
    [ -e "$1" ] && [ -n "$(find "$1" -mmin -10)" ]
}

# The suite this system runs, such as bookworm.
codename()
{
    (
        VERSION_CODENAME=
        . /etc/os-release
        echo "$VERSION_CODENAME"
    )
}

# Download packages without root and without touching the system's apt: what
# apt writes goes to .cache/apt, and suites that the system has not configured
# are taken from the mirror it uses for its own.
apt_private=$PWD/.cache/apt

apt_suite() # SUITE COMMAND ARGS...: an apt command that sees one suite (and its security updates)
{
    apt_s=$1
    apt_cmd=$2
    shift 2
    set -- -o "Dir::Cache=$apt_private/cache" -o "Dir::State::status=$apt_private/status" \
        -o "Dir::State::lists=$apt_private/lists-$apt_s" \
        -o "Dir::Etc::sourcelist=$apt_private/$apt_s.list" -o Dir::Etc::sourceparts=- \
        -o Acquire::Languages=none "$@"
    # As root apt would read as user _apt, which cannot see a private directory.
    [ "$(id -u)" != 0 ] || set -- -o APT::Sandbox::User=root "$@"
    "$apt_cmd" "$@"
}

apt_sources() # SUITE: deb lines for it, from the system's own sources
{
    base=$(codename)
    apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Created-By: Packages' 2>/dev/null | sort -u | while read -r uri release component; do
        case $component:$1:$release in
        "main:$base:$base" | "main:$base:$base-security" | "main:$base:$base-updates") ;;
        "main:$base-"*":$base") release=$1 ;;
        *) continue ;;
        esac
        echo "deb $uri $release main"
    done
}

apt_lists() # SUITE [again]: fetch the suite's package lists, at most once in ten minutes
{
    stamp=$apt_private/$1.stamp
    if [ "${2-}" = again ]; then
        ! recent "$stamp" || return 1
    elif [ -e "$stamp" ]; then
        return 0
    fi
    mkdir -p "$apt_private/cache/archives/partial" "$apt_private/lists-$1/partial"
    : >"$apt_private/status"
    apt_sources "$1" >"$apt_private/$1.list"
    if [ ! -s "$apt_private/$1.list" ]; then
        say "No mirror for Debian's $(codename) is configured on this system, so $1 cannot be reached."
        return 1
    fi
    say "Fetching the package lists of $1"
    apt_suite "$1" apt-get -qq update >&2 || return 1
    touch "$stamp"
}

apt_fetch() # SUITE PACKAGE DIR: leave the package's .deb in DIR
{
    apt_lists "$1" || return 1
    say "Downloading $2"
    (cd "$3" && apt_suite "$1" apt-get -qq download "$2" >&2) && return 0
    # The mirror may have moved on since the lists were fetched.
    apt_lists "$1" again && (cd "$3" && apt_suite "$1" apt-get -qq download "$2" >&2)
}

apt_resolve() # SUITE META: the versioned package that a meta package stands for
{
    apt_suite "$1" apt-cache depends --important "$2" |
        sed -n 's/^ *Depends: *\(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1
}
