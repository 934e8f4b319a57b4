/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge: the table of verbs, and nothing else that does anything. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/exec.h"
#include "cli/guests.h"
#include "cli/image.h"
#include "cli/verb.h"
#include "net/publish.h"

const struct verb verbs[] = {
    {.name = "run",
     .args = "IMAGE|--kernel FILE [OPTION]...",
     .summary = "Run a guest, in the foreground unless --detach",
     .about = "An image's system (lodge image build debian/12) gets a disk of its own on that of\n"
              "the image, which stays for the next run. A bzImage or an ELF vmlinux with a PVH "
              "entry is started directly. The guest's\n"
              "first serial port is the terminal: ctrl-C goes to the guest, the escape key\n"
              "stops it. Sizes are like 512M, 2GiB or 1.5G; a plain number is MiB.\n",
     .opts = run_opts,
     .max_args = 1,
     .run = verb_run},
    {.name = "create",
     .args = "--name NAME [IMAGE] [OPTION]...",
     .summary = "Keep a guest's definition, to be started later",
     .about = "The options are those of lodge run. With --file they come from a file, such as\n"
              "lodge info --format yaml has written. Relative paths are those of this folder.\n",
     .opts = run_opts,
     .max_args = 1,
     .run = verb_create},
    {.name = "start",
     .args = "[OPTION]... NAME...",
     .summary = "Start guests in the background",
     .opts = start_opts,
     .max_args = GUESTS_MAX_ARGS,
     .run = verb_start},
    {.name = "stop",
     .args = "[OPTION]... NAME...",
     .summary = "Press the power button, and kill what does not stop in time",
     .opts = stop_opts,
     .max_args = GUESTS_MAX_ARGS,
     .run = verb_stop},
    {.name = "restart",
     .args = "[OPTION]... NAME...",
     .summary = "Stop guests and start them again",
     .opts = restart_opts,
     .max_args = GUESTS_MAX_ARGS,
     .run = verb_restart},
    {.name = "kill",
     .args = "[OPTION]... NAME...",
     .summary = "End guests at once, as if their power was cut",
     .opts = power_opts,
     .max_args = GUESTS_MAX_ARGS,
     .run = verb_kill},
    {.name = "pause",
     .args = "[OPTION]... NAME...",
     .summary = "Have guests stand still, and their time with them",
     .opts = power_opts,
     .max_args = GUESTS_MAX_ARGS,
     .run = verb_pause},
    {.name = "resume",
     .args = "[OPTION]... NAME...",
     .summary = "Have paused guests go on",
     .opts = power_opts,
     .max_args = GUESTS_MAX_ARGS,
     .run = verb_resume},
    {.name = "snapshot",
     .args = "[OPTION]... NAME TAG",
     .summary = "Keep a running guest as it is now, memory and disks",
     .about = "The guest goes on meanwhile. ctrl-C cancels it, and nothing has changed.\n",
     .opts = snapshot_opts,
     .max_args = 2,
     .run = verb_snapshot},
    {.name = "snapshots",
     .args = "[OPTION]... NAME",
     .summary = "List a guest's snapshots",
     .opts = snapshots_opts,
     .max_args = 1,
     .run = verb_snapshots},
    {.name = "restore",
     .args = "[OPTION]... NAME TAG",
     .summary = "Have a guest go on from a snapshot, in the background",
     .about = "One that runs is ended at once: what it has done since is lost, unless there is a\n"
              "snapshot of that, too.\n",
     .opts = restore_opts,
     .max_args = 2,
     .run = verb_restore},
    {.name = "balloon",
     .args = "[OPTION]... NAME [SIZE]",
     .summary = "Say how much memory a running guest uses, or is to keep",
     .about = "With SIZE the guest gives the rest of its memory back to the host until it is\n"
              "told otherwise. Sizes are like 512M, 2GiB or 1.5G; a plain number is MiB.\n",
     .opts = balloon_opts,
     .max_args = 2,
     .run = verb_balloon},
    {.name = "set",
     .args = "[OPTION]... NAME...",
     .summary = "Change what guests may take of the host, also while they run",
     .about = "What is given is kept in the definition and counts at once for a guest that runs;\n"
              "the rest stays as it is.\n",
     .opts = set_opts,
     .max_args = GUESTS_MAX_ARGS,
     .run = verb_set},
    {.name = "ls",
     .args = "[OPTION]...",
     .summary = "List guests, those that run and those that are kept",
     .opts = ls_opts,
     .run = verb_ls},
    {.name = "info",
     .args = "[OPTION]... NAME...",
     .summary = "Tell all about guests",
     .opts = info_opts,
     .max_args = GUESTS_MAX_ARGS,
     .run = verb_info},
    {.name = "stats",
     .args = "[OPTION]... [NAME]...",
     .summary = "Say what running guests use of the host",
     .opts = stats_opts,
     .max_args = GUESTS_MAX_ARGS,
     .run = verb_stats},
    {.name = "top",
     .args = "[OPTION]... [NAME]...",
     .summary = "The same again and again, the busiest first",
     .opts = top_opts,
     .max_args = GUESTS_MAX_ARGS,
     .run = verb_top},
    {.name = "events",
     .args = "[OPTION]... [NAME]...",
     .summary = "Tell what happens to guests, as it happens",
     .opts = events_opts,
     .max_args = GUESTS_MAX_ARGS,
     .run = verb_events},
    {.name = "port",
     .args = "[OPTION]... NAME [list | add PORT... | remove PORT...]",
     .summary = "List, open and close ports that lead to a running guest",
     .about = "PORT is [ADDR:]HOST:GUEST[/udp], as for lodge run --publish; to remove one, GUEST\n"
              "may be left out.\n",
     .opts = port_opts,
     .max_args = NET_MAX_PUBLISH + 2,
     .run = verb_port},
    {.name = "console",
     .args = "[OPTION]... NAME",
     .summary = "Connect the terminal to a running guest's console",
     .opts = console_opts,
     .max_args = 1,
     .run = verb_console},
    {.name = "logs",
     .args = "[OPTION]... NAME",
     .summary = "Print what a guest's console has said",
     .opts = logs_opts,
     .max_args = 1,
     .run = verb_logs},
    {.name = "rm",
     .args = "[OPTION]... NAME...",
     .summary = "Remove guests; lodge recover brings them back until lodge prune",
     .about = "Disk images are not touched.\n",
     .opts = rm_opts,
     .max_args = GUESTS_MAX_ARGS,
     .run = verb_rm},
    {.name = "recover",
     .args = "[OPTION]... NAME...",
     .summary = "Bring back removed guests",
     .opts = define_opts,
     .max_args = GUESTS_MAX_ARGS,
     .run = verb_recover},
    {.name = "prune",
     .args = "[OPTION]...",
     .summary = "Delete what is left of removed guests",
     .opts = prune_opts,
     .run = verb_prune},
    {.name = "rename",
     .args = "[OPTION]... OLD NEW",
     .summary = "Give a guest that does not run another name",
     .opts = define_opts,
     .max_args = 2,
     .run = verb_rename},
    {.name = "clone",
     .args = "[OPTION]... NAME NEW",
     .summary = "Make a guest like another, with copies of its disks",
     .about =
         "NEW has what is on the disks of NAME now, which may be running: then that is what\n"
         "they would have after a power cut. It takes no space until one of them writes: both\n"
         "stand on the same files, which are read-only from now on. NEW has other MAC\n"
         "addresses, and other ports of the host where NAME has published some. A guest that\n"
         "was made from an image of Lodge's gets the name, new ssh host keys and a new machine\n"
         "ID when it starts.",
     .opts = clone_opts,
     .max_args = 2,
     .run = verb_clone},
    {.name = "fork",
     .args = "[OPTION]... NAME NEW...",
     .summary = "Start guests that go on from where a running one is",
     .about =
         "Each NEW goes on as a copy of NAME as it is at one moment, memory and disks, and\n"
         "takes only the memory and space that it changes. It has other MAC addresses, and other\n"
         "ports of the host where NAME has published some. NAME stands still for some\n"
         "milliseconds. Either all of them come to be, or none.",
     .opts = power_opts,
     .max_args = GUESTS_MAX_ARGS,
     .run = verb_fork},
    {.name = "edit",
     .args = "[OPTION]... NAME",
     .summary = "Change a guest's definition in an editor",
     .opts = define_opts,
     .max_args = 1,
     .run = verb_edit},
    {.name = "validate",
     .args = "[OPTION]... FILE...",
     .summary = "Check definitions; errors name line and column",
     .opts = define_opts,
     .max_args = GUESTS_MAX_ARGS,
     .run = verb_validate},
    {.name = "exec",
     .args = "[OPTION]... NAME [--] COMMAND...",
     .summary = "Run a command in a guest made from an image, through ssh",
     .about = "The exit status is the command's, or 255 when it could not be run.\n",
     .opts = exec_opts,
     .max_args = 1000,
     .run = verb_exec},
    {.name = "shell",
     .args = "[OPTION]... NAME",
     .summary = "Log in to a guest made from an image, through ssh",
     .opts = exec_opts,
     .max_args = 1,
     .run = verb_shell},
    {.name = "image",
     .args = "VERB [ARGUMENT]...",
     .summary = "Build and keep images of systems; make, check and convert disk images",
     .sub = image_verbs,
     .run = verb_image},
    {.name = "doctor",
     .args = "[OPTION]...",
     .summary = "Say which engines this host can use, and why not the others",
     .opts = doctor_opts,
     .run = verb_doctor},
    {.name = "help",
     .args = "[VERB]",
     .summary = "Explain lodge or one of its verbs",
     .max_args = 1,
     .run = verb_help_main},
    {.name = "version", .args = "", .summary = "Print the version", .run = verb_version},
    {NULL},
};

/* Whoever closed a standard descriptor must not find a guest's file in its place. */
static int keep_std_open(void)
{
    int fd;

    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= 2);
    if (fd < 0)
        return -errno;
    return close(fd);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : NULL;
    const struct verb *verb;
    struct err err = {0};

    if (keep_std_open()) {
        perror("lodge: /dev/null");
        return CLI_FAILED;
    }
    if (!name) {
        err_set(&err, -EINVAL, "nothing to do: no verb was given");
        return verb_usage(NULL, &err);
    }
    if (!strcmp(name, "--help") || !strcmp(name, "-h"))
        name = "help";
    else if (!strcmp(name, "--version") || !strcmp(name, "-V"))
        name = "version";
    verb = verb_find(name);
    if (!verb && name[0] == '-') {
        err_set(&err, -EINVAL, "unknown option %.80s", name);
        err_next(&err, "A verb comes first, as in lodge run; lodge --help lists them.");
        return verb_usage(NULL, &err);
    }
    if (!verb) {
        verb_unknown(name, &err);
        return verb_usage(NULL, &err);
    }
    return verb->run(verb, argc - 2, argv + 2);
}
