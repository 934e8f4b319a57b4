# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for lodge(1)

_lodge()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local verb=${COMP_WORDS[1]} words=

    # bash makes a word of its own of the = in --name=value.
    [[ $cur == = ]] && cur=
    if [[ $prev == = && $COMP_CWORD -gt 2 ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "run doctor help version --help --version" -- "$cur"))
        return
    fi
    case $verb:$prev in
    run:--kernel | run:--initrd | run:--disk)
        compopt -o filenames
        COMPREPLY=($(compgen -f -- "$cur"))
        return
        ;;
    run:--engine) words="auto soft kvm" ;;
    run:--cpu) words="host x86-64-v1 x86-64-v2 x86-64-v3 max" ;;
    run:--rng) words="on off" ;;
    run:--console) words="stdio none" ;;
    run:--escape) words="^] ctrl-a none" ;;
    run:--cpus | run:-c) words="1 2 4 8" ;;
    run:--memory | run:-m) words="256M 512M 1G 2G 4G" ;;
    run:--name | run:--append) return ;;
    run:*)
        words="--name --engine --cpu -c --cpus -m --memory --kernel --initrd --append
            --disk --rng
            --console --escape --no-reboot --test-devices --stats -q --quiet -h --help"
        ;;
    doctor:--format) words="text json" ;;
    doctor:*) words="--format -h --help" ;;
    help:*) words="run doctor help version" ;;
    version:*) words="-h --help" ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}

complete -F _lodge lodge
