# SPDX-License-Identifier: GPL-2.0-or-later
# fish completion for lodge(1)

complete -c lodge -f
complete -c lodge -n __fish_use_subcommand -a run -d 'Run a guest in the foreground until it ends'
complete -c lodge -n __fish_use_subcommand -a doctor -d 'Say which engines this host can use'
complete -c lodge -n __fish_use_subcommand -a help -d 'Explain lodge or one of its verbs'
complete -c lodge -n __fish_use_subcommand -a version -d 'Print the version'
complete -c lodge -n __fish_use_subcommand -s V -l version -d 'Print the version'
complete -c lodge -s h -l help -d 'Print help'

set -l run -n '__fish_seen_subcommand_from run'
complete -c lodge $run -l name -x -d 'Name of the guest'
complete -c lodge $run -l engine -x -a 'auto soft kvm' -d 'How guest code is executed'
complete -c lodge $run -l cpu -x -a 'host x86-64-v1 x86-64-v2 x86-64-v3 max' \
    -d 'Processor shown to the guest'
complete -c lodge $run -s c -l cpus -x -d 'Number of CPUs'
complete -c lodge $run -s m -l memory -x -a '256M 512M 1G 2G 4G' -d 'Memory'
complete -c lodge $run -l kernel -r -F -d 'Kernel to start'
complete -c lodge $run -l initrd -r -F -d 'Initial RAM disk'
complete -c lodge $run -l append -x -d 'Kernel command line'
complete -c lodge $run -l disk -r -F -d 'Image or device as a disk'
complete -c lodge $run -l rng -x -a 'on off' -d 'Source of random numbers'
complete -c lodge $run -l console -x -a 'stdio none' -d 'Where the first serial port goes'
complete -c lodge $run -l escape -x -a '^] ctrl-a none' -d 'Key that leaves the console'
complete -c lodge $run -l no-reboot -d 'End the run when the guest resets'
complete -c lodge $run -l test-devices -d 'Add the devices that bare test programs expect'
complete -c lodge $run -l stats -d 'Print counters and times at the end'
complete -c lodge $run -s q -l quiet -d 'Print nothing but errors'

complete -c lodge -n '__fish_seen_subcommand_from doctor' -l format -x -a 'text json' \
    -d 'How to print the findings'
complete -c lodge -n '__fish_seen_subcommand_from help' -a 'run doctor help version'
