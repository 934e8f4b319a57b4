/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge: the table of verbs, and nothing else that does anything. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/image.h"
#include "cli/verb.h"

const struct verb verbs[] = {
    {.name = "run",
     .args = "--kernel FILE [OPTION]...",
     .summary = "Run a guest in the foreground until it ends",
     .about = "A bzImage or an ELF vmlinux with a PVH entry is started directly. The guest's\n"
              "first serial port is the terminal: ctrl-C goes to the guest, the escape key\n"
              "stops it. Sizes are like 512M, 2GiB or 1.5G; a plain number is MiB.\n",
     .opts = run_opts,
     .run = verb_run},
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
