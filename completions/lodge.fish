# SPDX-License-Identifier: GPL-2.0-or-later
# fish completion for lodge(1)

# Names of all guests, through the command that is being completed.
function __lodge_guests
    set -l words (commandline -opc)
    command $words[1] ls --quiet 2>/dev/null
end

# Tags of the guest that the words before name.
function __lodge_tags
    set -l words (commandline -opc)
    test (count $words) -ge 3; and command $words[1] snapshots --quiet $words[3] 2>/dev/null
end

complete -c lodge -f
complete -c lodge -n __fish_use_subcommand -a run -d 'Run a guest, in the foreground unless --detach'
complete -c lodge -n __fish_use_subcommand -a create -d "Keep a guest's definition, to be started later"
complete -c lodge -n __fish_use_subcommand -a start -d "Start guests in the background"
complete -c lodge -n __fish_use_subcommand -a stop -d "Press the power button, and kill what does not stop in time"
complete -c lodge -n __fish_use_subcommand -a restart -d "Stop guests and start them again"
complete -c lodge -n __fish_use_subcommand -a kill -d "End guests at once"
complete -c lodge -n __fish_use_subcommand -a pause -d "Have guests stand still"
complete -c lodge -n __fish_use_subcommand -a resume -d "Have paused guests go on"
complete -c lodge -n __fish_use_subcommand -a snapshot -d "Keep a running guest as it is now"
complete -c lodge -n __fish_use_subcommand -a snapshots -d "List a guest's snapshots"
complete -c lodge -n __fish_use_subcommand -a restore -d "Have a guest go on from a snapshot"
complete -c lodge -n __fish_use_subcommand -a balloon -d "Say how much memory a guest uses or is to keep"
complete -c lodge -n '__fish_seen_subcommand_from balloon' -l json -d 'Print everything as JSON'
complete -c lodge -n __fish_use_subcommand -a stats -d "Say what running guests use of the host"
complete -c lodge -n __fish_use_subcommand -a top -d "The same again and again"
complete -c lodge -n __fish_use_subcommand -a events -d "Tell what happens to guests"
complete -c lodge -n '__fish_seen_subcommand_from stats top' -s i -l interval -x -a '1 2 5 10' -d 'Seconds'
complete -c lodge -n '__fish_seen_subcommand_from top events' -s n -l count -x -d 'How many'
complete -c lodge -n '__fish_seen_subcommand_from stats' -l format -x -a 'table json' -d 'How to print'
complete -c lodge -n '__fish_seen_subcommand_from events' -l format -x -a 'text json' -d 'How to print'
complete -c lodge -n __fish_use_subcommand -a set -d "Change what guests may take of the host"
complete -c lodge -n __fish_use_subcommand -a ls -d "List guests"
complete -c lodge -n __fish_use_subcommand -a info -d "Tell all about guests"
complete -c lodge -n __fish_use_subcommand -a port -d 'List, open and close ports that lead to a running guest'
complete -c lodge -n __fish_use_subcommand -a console -d "Connect the terminal to a guest's console"
complete -c lodge -n __fish_use_subcommand -a logs -d "Print what a guest's console has said"
complete -c lodge -n __fish_use_subcommand -a rm -d "Remove guests"
complete -c lodge -n __fish_use_subcommand -a recover -d "Bring back removed guests"
complete -c lodge -n __fish_use_subcommand -a prune -d "Delete what is left of removed guests"
complete -c lodge -n __fish_use_subcommand -a rename -d "Give a guest another name"
complete -c lodge -n __fish_use_subcommand -a clone -d "Make a guest like another"
complete -c lodge -n __fish_use_subcommand -a fork -d "Start guests that go on from where one is"
complete -c lodge -n '__fish_seen_subcommand_from clone' -l full -d 'Copy the disks'
complete -c lodge -n __fish_use_subcommand -a edit -d "Change a guest's definition"
complete -c lodge -n __fish_use_subcommand -a validate -d "Check definitions"
complete -c lodge -n __fish_use_subcommand -a exec -d 'Run a command in a guest'
complete -c lodge -n __fish_use_subcommand -a shell -d 'Log in to a guest'
complete -c lodge -n __fish_use_subcommand -a image -d 'Build images of systems, make and convert disk images'
complete -c lodge -n __fish_use_subcommand -a doctor -d 'Say which engines this host can use'
complete -c lodge -n __fish_use_subcommand -a help -d 'Explain lodge or one of its verbs'
complete -c lodge -n __fish_use_subcommand -a version -d 'Print the version'
complete -c lodge -n __fish_use_subcommand -s V -l version -d 'Print the version'
complete -c lodge -s h -l help -d 'Print help'

set -l shares -n '__fish_seen_subcommand_from run create set'
set -l run -n '__fish_seen_subcommand_from run create'
complete -c lodge $run -s f -l file -r -F -d 'Definition to start from'
complete -c lodge $run -s d -l detach -d 'Go on in the background'
complete -c lodge $run -l rm -d 'Forget the guest when it ends'
complete -c lodge $run -l name -x -d 'Name of the guest'
complete -c lodge $run -l engine -x -a 'auto soft kvm' -d 'How guest code is executed'
complete -c lodge $run -l cpu -x -a 'host x86-64-v1 x86-64-v2 x86-64-v3 max' \
    -d 'Processor shown to the guest'
complete -c lodge $run -s c -l cpus -x -d 'Number of CPUs'
complete -c lodge $run -s m -l memory -x -a '256M 512M 1G 2G 4G' -d 'Memory'
complete -c lodge $run -l image -x -a "(lodge image ls 2>/dev/null | string match -rg '^([a-z0-9]\S*)')" \
    -d 'Image of a system'
complete -c lodge $run -l user -x -d 'Who logs in'
complete -c lodge $run -l ssh-key -r -F -d 'Public keys that may log in'
complete -c lodge $run -l user-data -r -F -d 'What cloud-init is to do'
complete -c lodge $run -l kernel -r -F -d 'Kernel to start'
complete -c lodge $run -l initrd -r -F -d 'Initial RAM disk'
complete -c lodge $run -l append -x -d 'Kernel command line'
complete -c lodge $run -l disk -r -F -d 'Image or device as a disk'
complete -c lodge $run -l port -x -d 'Port of the guest as a socket'
complete -c lodge $run -l net -x -a 'user none switch= tap= bridge=' -d 'Network card'
complete -c lodge $run -s p -l publish -x -d 'Port of the host that leads to the guest'
complete -c lodge $run -l vsock -r -F -d 'Sockets between guest and host'
complete -c lodge $run -l rng -x -a 'on off' -d 'Source of random numbers'
complete -c lodge $run -l balloon -x -a 'on off' -d 'Memory goes back to the host'
complete -c lodge $shares -l limit -x -a 'disk0, disk1, net0,' -d 'What a disk or a network card may do'
complete -c lodge $shares -l cpu-weight -x -a '50 100 200 1000' -d 'Share of CPU time'
complete -c lodge $shares -l cpu-cap -x -a '20 50 100 200' -d 'Most CPU time, percent of one CPU'
complete -c lodge $shares -l cpu-pin -x -a 'all 0 0-1' -d 'CPUs of the host'
complete -c lodge $shares -l memory-max -x -a '512M 1G 2G 4G' -d 'Most memory of the host'
complete -c lodge $shares -l protected -x -a 'on off' -d 'Refuse to remove, kill and edit it'
complete -c lodge $shares -l autostart -x -a 'on off' -d 'Start it with the host'
complete -c lodge $shares -l at-shutdown -x -a 'stop save' -d 'What becomes of it when the host stops'
complete -c lodge -n '__fish_seen_subcommand_from stop' -l save -d 'Keep what they are for the next start'
complete -c lodge -n '__fish_seen_subcommand_from stop' -l at-shutdown -d 'Save those whose definition says so'
complete -c lodge -n '__fish_seen_subcommand_from start' -l anew -d 'Drop what was saved'
complete -c lodge -n '__fish_seen_subcommand_from stop restart' -s a -l all -d 'All that run'
complete -c lodge -n '__fish_seen_subcommand_from start' -l autostart -d 'All that have autostart'
complete -c lodge $shares -l io-weight -x -a '50 100 200 1000' -d 'Share of disk time'
complete -c lodge $run -l sandbox -x -a 'on off' -d 'Confine the process'
complete -c lodge $run -l console -x -a 'stdio virtio none' -d 'Where the first serial port goes'
complete -c lodge $run -l escape -x -a '^] ctrl-a none' -d 'Key that leaves the console'
complete -c lodge $run -l no-reboot -d 'End the run when the guest resets'
complete -c lodge $run -l test-devices -d 'Add the devices that bare test programs expect'
complete -c lodge $run -l stats -d 'Print counters and times at the end'
complete -c lodge $run -l perf-map -d 'Write a map of translated code for perf'
complete -c lodge $run -s q -l quiet -d 'Print nothing but errors'

complete -c lodge -n '__fish_seen_subcommand_from doctor' -l format -x -a 'text json' \
    -d 'How to print the findings'
complete -c lodge -n '__fish_seen_subcommand_from help' -a 'run create start stop restart kill pause resume snapshot snapshots restore balloon set ls info stats top events port console logs rm recover prune rename clone fork edit validate image doctor help version'

set -l named start stop restart kill pause resume snapshot snapshots restore balloon set info stats top events port console logs rm recover rename clone fork edit
complete -c lodge -n "__fish_seen_subcommand_from $named; and not __fish_seen_subcommand_from image" \
    -a '(__lodge_guests)'
complete -c lodge -n '__fish_seen_subcommand_from snapshot restore' -a '(__lodge_tags)'
complete -c lodge -n '__fish_seen_subcommand_from snapshot' -l rm -d 'Remove that snapshot'
complete -c lodge -n '__fish_seen_subcommand_from snapshot' -l format -x -a 'text json' -d 'How to print'
complete -c lodge -n '__fish_seen_subcommand_from snapshots' -l format -x -a 'table json' -d 'How to print'
complete -c lodge -n '__fish_seen_subcommand_from snapshot snapshots restore' -s q -l quiet -d 'Print less'
complete -c lodge -n '__fish_seen_subcommand_from validate' -F
complete -c lodge -n '__fish_seen_subcommand_from stop restart' -s t -l timeout -x -a '10 60 300' \
    -d 'How long a guest may take'
complete -c lodge -n '__fish_seen_subcommand_from ls' -l format -x -a 'table json' -d 'How to print'
complete -c lodge -n '__fish_seen_subcommand_from ls' -s q -l quiet -d 'Print names only'
complete -c lodge -n '__fish_seen_subcommand_from info; and not __fish_seen_subcommand_from image' \
    -l format -x -a 'text json yaml' -d 'How to print'
complete -c lodge -n '__fish_seen_subcommand_from port' -l format -x -a 'table json' -d 'How to print the list'
complete -c lodge -n '__fish_seen_subcommand_from port' -s q -l quiet -d 'Do not print what was added'
complete -c lodge -n '__fish_seen_subcommand_from console' -l escape -x -a '^] ctrl-a none' \
    -d 'Key that leaves the console'
complete -c lodge -n '__fish_seen_subcommand_from console' -l no-replay \
    -d 'Do not begin with what was said before'
complete -c lodge -n '__fish_seen_subcommand_from logs' -s f -l follow -d 'Go on with what comes'
complete -c lodge -n '__fish_seen_subcommand_from rm' -s f -l force -d 'Kill those that run'
complete -c lodge -n '__fish_seen_subcommand_from prune' -s f -l force -d 'Do not ask'

set -l image -n '__fish_seen_subcommand_from image'
set -l exec -n '__fish_seen_subcommand_from exec shell'
complete -c lodge $exec -s u -l user -x -d 'Who to be in the guest'
complete -c lodge $exec -s t -l tty -d 'Give the command a terminal'
complete -c lodge $exec -s w -l wait -x -d 'How long the guest may take to come up'
set -l image_verbs build ls rm discard import create info check resize convert
complete -c lodge -n "__fish_seen_subcommand_from image; and not __fish_seen_subcommand_from $image_verbs" \
    -a "$image_verbs"
complete -c lodge -n "__fish_seen_subcommand_from image; and __fish_seen_subcommand_from $image_verbs" -F
complete -c lodge -n "__fish_seen_subcommand_from image; and __fish_seen_subcommand_from build" \
    -a 'debian/11 debian/12 debian/13'
complete -c lodge -n "__fish_seen_subcommand_from image; and __fish_seen_subcommand_from rm" \
    -a "(lodge image ls 2>/dev/null | string match -rg '^([a-z0-9]\S*)')"
complete -c lodge $image -l size -x -a '4G 10G 40G' -d 'Size of the disks of guests'
complete -c lodge $image -l package -x -d 'Package to add'
complete -c lodge $image -l tag -x -d 'Name of the image'
complete -c lodge $image -l mirror -x -d 'Where packages come from'
complete -c lodge $image -l kernel -r -F -d 'Kernel of an imported disk'
complete -c lodge $image -l initrd -r -F -d 'Its initial RAM disk'
complete -c lodge $image -l append -x -d 'Its command line'
complete -c lodge $image -l user -x -d 'Who logs in'
complete -c lodge $image -l seed -x -a 'cloud-init none' -d 'What takes settings in there'
complete -c lodge $image -s t -l type -x -a 'qcow2 raw' -d 'Format'
complete -c lodge $image -s b -l backing -r -F -d 'Image it stands on'
complete -c lodge $image -s B -l backing-type -x -a 'qcow2 raw' -d 'Format of that image'
complete -c lodge $image -l cluster-size -x -a '4K 64K 2M' -d 'Unit of allocation'
complete -c lodge $image -l lazy-refcounts -d 'Write reference counts at the end only'
complete -c lodge $image -s f -l force -d 'Overwrite an existing file'
complete -c lodge $image -l format -x -a 'table json' -d 'How to print'
complete -c lodge $image -s r -l repair -x -a 'leaks all' -d 'What to repair'
complete -c lodge $image -l shrink -d 'Let the disk get smaller'
complete -c lodge $image -l from -x -a 'raw qcow2 vmdk vdi vhdx' -d 'Format of the source'
complete -c lodge $image -l to -x -a 'raw qcow2 vmdk vdi vhdx' -d 'Format of the target'
complete -c lodge $image -s q -l quiet -d 'Show no progress'
