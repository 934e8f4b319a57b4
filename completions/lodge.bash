# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for lodge(1)

# Names of all guests, through the very command that is being completed.
_lodge_guests()
{
    "${COMP_WORDS[0]}" ls --quiet 2>/dev/null
}

# Tags of the guest that the words before name.
_lodge_tags()
{
    [[ -z ${COMP_WORDS[2]} || ${COMP_WORDS[2]} == -* ]] && return
    "${COMP_WORDS[0]}" snapshots --quiet "${COMP_WORDS[2]}" 2>/dev/null
}

_lodge()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local verb=${COMP_WORDS[1]} words=
    local verbs="run create start stop restart kill pause resume snapshot snapshots restore balloon set ls info stats top events port console logs rm recover prune rename clone fork edit validate exec shell image
        doctor help version"

    # bash makes a word of its own of the = in --name=value.
    [[ $cur == = ]] && cur=
    if [[ $prev == = && $COMP_CWORD -gt 2 ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "$verbs --help --version" -- "$cur"))
        return
    fi
    case $verb:$prev in
    create:*) verb=run ;;
    esac
    case $verb:$prev in
    run:--kernel | run:--initrd | run:--ssh-key | run:--user-data | run:--disk | run:--vsock | run:--file | run:-f)
        compopt -o filenames
        COMPREPLY=($(compgen -f -- "$cur"))
        return
        ;;
    run:--engine) words="auto soft kvm" ;;
    run:--cpu) words="host x86-64-v1 x86-64-v2 x86-64-v3 max" ;;
    run:--rng | run:--balloon | run:--sandbox) words="on off" ;;
    run:--console) words="stdio virtio none" ;;
    run:--escape) words="^] ctrl-a none" ;;
    run:--cpus | run:-c) words="1 2 4 8" ;;
    run:--memory | run:-m) words="256M 512M 1G 2G 4G" ;;
    run:--name | run:--append | run:--port | run:--publish | run:-p) return ;;
    run:--net) words="user none switch= tap= bridge=" ;;
    set:--cpu-weight | set:--io-weight | run:--cpu-weight | run:--io-weight) words="50 100 200 1000" ;;
    set:--protected | set:--autostart | run:--protected | run:--autostart) words="on off" ;;
    set:--at-shutdown | run:--at-shutdown) words="stop save" ;;
    set:--cpu-cap | run:--cpu-cap) words="0 20 50 100 200" ;;
    set:--cpu-pin | run:--cpu-pin) words="all 0 0-1" ;;
    set:--memory-max | run:--memory-max) words="0 512M 1G 2G 4G" ;;
    set:--limit | run:--limit) words="disk0, disk1, net0," ;;
    set:*) words="$(_lodge_guests) --limit --cpu-weight --cpu-cap --cpu-pin --memory-max --io-weight --protected --autostart --at-shutdown -q --quiet -h --help" ;;
    run:*)
        words="--name -f --file -d --detach --rm --image --user --ssh-key --user-data --engine --cpu -c --cpus -m --memory --kernel --initrd --append
            --disk --port --net -p --publish --limit --vsock --rng --balloon --sandbox
            --cpu-weight --cpu-cap --cpu-pin --memory-max --io-weight --protected --autostart --at-shutdown
            --console --escape --no-reboot --test-devices --stats --perf-map -q --quiet -h --help"
        [[ $cur == -* ]] || words=$(lodge image ls 2>/dev/null | awk 'NR > 1 { print $1 }')
        ;;
    exec:--user | exec:-u | exec:--wait | exec:-w | shell:--user | shell:-u | shell:--wait | shell:-w) return ;;
    exec:* | shell:*) words="$(_lodge_guests) -u --user -t --tty -w --wait -h --help" ;;
    stop:--timeout | stop:-t | restart:--timeout | restart:-t) words="10 60 300" ;;
    stop:*) words="$(_lodge_guests) -a --all -t --timeout --save --at-shutdown -q --quiet -h --help" ;;
    restart:*) words="$(_lodge_guests) -a --all -t --timeout -q --quiet -h --help" ;;
    balloon:*) words="$(_lodge_guests) --json -h --help" ;;
    snapshot:--format) words="text json" ;;
    snapshots:--format) words="table json" ;;
    snapshot:* | restore:*)
        words="--rm --format -q --quiet -h --help"
        [[ $verb == restore ]] && words="-q --quiet -h --help"
        if [[ $COMP_CWORD -gt 2 && $prev != -* ]]; then
            words="$(_lodge_tags) $words"
        else
            words="$(_lodge_guests) $words"
        fi
        ;;
    snapshots:*) words="$(_lodge_guests) --format -q --quiet -h --help" ;;
    start:*) words="$(_lodge_guests) --autostart --anew -q --quiet -h --help" ;;
    kill:* | pause:* | resume:* | fork:*) words="$(_lodge_guests) -q --quiet -h --help" ;;
    ls:--format) words="table json" ;;
    ls:*) words="--format -q --quiet -h --help" ;;
    stats:--format) words="table json" ;;
    events:--format) words="text json" ;;
    stats:--interval | stats:-i | top:--interval | top:-i) words="1 2 5 10" ;;
    top:--count | top:-n | events:--count | events:-n) words="1 10 100" ;;
    stats:*) words="$(_lodge_guests) -i --interval --format -h --help" ;;
    top:*) words="$(_lodge_guests) -i --interval -n --count -h --help" ;;
    events:*) words="$(_lodge_guests) -n --count --format -h --help" ;;
    info:--format) words="text json yaml" ;;
    info:*) words="$(_lodge_guests) --format -h --help" ;;
    port:--format) words="table json" ;;
    port:*) words="$(_lodge_guests) list add remove --format -q --quiet -h --help" ;;
    console:--escape) words="^] ctrl-a none" ;;
    console:*) words="$(_lodge_guests) --escape --no-replay -q --quiet -h --help" ;;
    logs:*) words="$(_lodge_guests) -f --follow -h --help" ;;
    rm:*) words="$(_lodge_guests) -f --force -q --quiet -h --help" ;;
    clone:*) words="$(_lodge_guests) --full -q --quiet -h --help" ;;
    recover:* | rename:* | edit:*) words="$(_lodge_guests) -q --quiet -h --help" ;;
    prune:*) words="-f --force -q --quiet -h --help" ;;
    validate:*)
        compopt -o filenames
        COMPREPLY=($(compgen -f -- "$cur"))
        return
        ;;
    image:*)
        _lodge_image
        return
        ;;
    doctor:--format) words="text json" ;;
    doctor:*) words="--format -h --help" ;;
    help:*) words=$verbs ;;
    version:*) words="-h --help" ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}

# Uses cur and prev of _lodge.
_lodge_image()
{
    local words= files=

    if [[ $COMP_CWORD -eq 2 ]]; then
        COMPREPLY=($(compgen -W "build ls rm discard import create info check resize convert -h --help" -- "$cur"))
        return
    fi
    case ${COMP_WORDS[2]}:$prev in
    build:--size | import:--size) words="4G 10G 40G" ;;
    build:--package | build:--tag | build:-t | build:--mirror | import:--append | import:--user) ;;
    build:*)
        words="debian/11 debian/12 debian/13"
        [[ $cur != -* ]] || words="--size --package -t --tag --mirror -f --force -q --quiet"
        ;;
    import:--type | import:-t) words="raw qcow2 vmdk vdi vhdx" ;;
    import:--seed) words="cloud-init none" ;;
    import:--kernel | import:--initrd) files=yes ;;
    import:*)
        words="-t --type --kernel --initrd --append --user --seed --size -f --force -q --quiet"
        files=yes
        ;;
    discard:*) words=$(_lodge_guests) ;;
    rm:*)
        words=$(lodge image ls 2>/dev/null | awk 'NR > 1 { print $1 }')
        [[ $cur != -* ]] || words="-f --force"
        ;;
    create:--type | create:-t | create:--backing-type | create:-B | resize:--type | resize:-t)
        words="qcow2 raw"
        ;;
    *:--cluster-size) words="4K 64K 2M" ;;
    *:--format) words="table json" ;;
    check:--repair | check:-r) words="leaks all" ;;
    convert:--from | convert:--to) words="raw qcow2 vmdk vdi vhdx" ;;
    create:--backing | create:-b) files=yes ;;
    create:*)
        words="-t --type -b --backing -B --backing-type --cluster-size --lazy-refcounts -f --force"
        files=yes
        ;;
    ls:*) words="--format" ;;
    info:*) words="--format" files=yes ;;
    check:*) words="-r --repair --format" files=yes ;;
    resize:*) words="-t --type --shrink" files=yes ;;
    convert:*) words="--from --to --cluster-size -f --force -q --quiet" files=yes ;;
    esac
    [[ $words == -* ]] && words="$words -h --help"
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    if [[ $files ]]; then
        compopt -o filenames
        COMPREPLY+=($(compgen -f -- "$cur"))
    fi
}

complete -F _lodge lodge
